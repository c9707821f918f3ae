//! What can go wrong with a ring as a whole. A single operation fails with an errno instead.

use std::io;

use rustix::io::Errno;

/// What kind of failure: the part to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A setting is out of its range.
    Config,
    /// The kernel was built without io_uring.
    Missing,
    /// The kernel has io_uring and refuses it to this process.
    Forbidden,
    /// The kernel's io_uring lacks what the loop needs.
    TooOld,
    /// Memory, locked memory or descriptors ran out.
    Exhausted,
    /// The table of registered files is full.
    FilesFull,
    /// No such registered file: it was never there or is closed.
    BadFile,
    /// A pool is registered already.
    PoolTwice,
    /// No such processor core.
    BadCore,
    /// The kernel answered with something unexpected; see the source.
    Kernel,
}

/// Failure of a ring call.
#[derive(Debug, thiserror::Error)]
#[error("io_uring: {op} failed: {}", self.advice())]
pub struct RingError {
    /// What kind of failure.
    pub kind: Kind,
    /// The step that failed.
    pub op: &'static str,
    /// What the kernel said, where it was asked.
    #[source]
    pub source: Option<io::Error>,
}

impl RingError {
    /// A failure found without asking the kernel.
    pub(crate) fn refused(kind: Kind, op: &'static str) -> RingError {
        RingError { kind, op, source: None }
    }

    /// A failure the kernel reported.
    pub(crate) fn kernel(op: &'static str, source: io::Error) -> RingError {
        let kind = match Errno::from_io_error(&source) {
            Some(Errno::NOSYS) => Kind::Missing,
            Some(Errno::PERM | Errno::ACCESS) => Kind::Forbidden,
            Some(Errno::NOMEM | Errno::MFILE | Errno::NFILE) => Kind::Exhausted,
            _ => Kind::Kernel,
        };
        RingError { kind, op, source: Some(source) }
    }

    /// As [`RingError::kernel`], where an argument the kernel does not know means an old kernel.
    pub(crate) fn setup(op: &'static str, source: io::Error) -> RingError {
        let mut error = RingError::kernel(op, source);
        if error.source.as_ref().and_then(Errno::from_io_error) == Some(Errno::INVAL) {
            error.kind = Kind::TooOld;
        }
        error
    }

    fn advice(&self) -> &'static str {
        match self.kind {
            Kind::Config => "a setting is out of its range",
            Kind::Missing => {
                "this kernel has no io_uring (CONFIG_IO_URING, or a seccomp filter hides it); \
                 Linux 6.1 or newer is needed"
            }
            Kind::Forbidden => {
                "this process may not use io_uring; see `sysctl kernel.io_uring_disabled` (0 \
                 allows it), `kernel.io_uring_group`, and the container's seccomp profile"
            }
            Kind::TooOld => "this kernel's io_uring is too old; Linux 6.1 or newer is needed",
            Kind::Exhausted => {
                "out of memory, locked memory (`ulimit -l`, LimitMEMLOCK=) or descriptors \
                 (`ulimit -n`, LimitNOFILE=)"
            }
            Kind::FilesFull => "no free place in the table of registered files",
            Kind::BadFile => "no such registered file; it is closed or never was open",
            Kind::PoolTwice => "this ring has a registered pool already",
            Kind::BadCore => "no such processor core; see `lscpu -e` and the cgroup's cpuset",
            Kind::Kernel => "the kernel gave an unexpected answer",
        }
    }
}
