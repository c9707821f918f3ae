//! What kernel and client agree on at INIT: a pure function of the kernel's offer and our limits.

use crate::abi::flags::init as flag;
use crate::abi::output::InitOut;
use crate::abi::{MAJOR_VERSION, MINOR_VERSION, MINOR_VERSION_MIN};
use crate::request::Init;

/// The page of the protocol's `max_pages`: that of the kernels we build for.
pub const PAGE_BYTES: u32 = 4096;
/// The kernel's default ceiling of `max_pages` (`fs.fuse.max_pages_limit`).
pub const MAX_WRITE_BYTES_DEFAULT: u32 = 256 * PAGE_BYTES;
/// The largest `max_write` that is asked for: 16 MiB, the highest useful value of that sysctl here.
pub const MAX_WRITE_BYTES_LIMIT: u32 = 4096 * PAGE_BYTES;

/// Pages of a request at least, whatever `max_write` is: the kernel's own default.
pub const MAX_PAGES_MIN: u32 = 32;

/// What this mount wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest WRITE, a multiple of 4 KiB; READs follow it.
    pub max_write_bytes: u32,
    /// The longest read-ahead of the page cache.
    pub max_readahead_bytes: u32,
    /// How many background requests (read-ahead, write-back, async direct I/O) may be in flight.
    pub max_background: u16,
    /// From how many on the kernel calls the mount congested; at most `max_background`.
    pub congestion_threshold: u16,
    /// Let the file system clear setuid and setgid (`HANDLE_KILLPRIV_V2`) instead of the kernel.
    pub handle_killpriv: bool,
    /// Ask for the ring transport.
    pub over_io_uring: bool,
    /// Take locks over; else the kernel keeps them, among its own processes.
    pub locks: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_write_bytes: MAX_WRITE_BYTES_DEFAULT,
            max_readahead_bytes: 8 << 20,
            max_background: 64,
            congestion_threshold: 48,
            handle_killpriv: false,
            over_io_uring: false,
            locks: false,
        }
    }
}

/// What was agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The protocol minor version in force: the smaller of both.
    pub minor: u32,
    /// `abi::flags::init` bits that both sides have.
    pub flags: u64,
    /// The longest WRITE the kernel will send.
    pub max_write_bytes: u32,
}

impl Features {
    /// Whether a `flags::init` bit was agreed on.
    #[must_use]
    pub const fn has(&self, bit: u64) -> bool {
        self.flags & bit != 0
    }
}

/// What to answer to INIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negotiated {
    /// Send this; the mount serves.
    Agreed(InitOut, Features),
    /// The kernel speaks a newer major version: send this and wait for a second INIT.
    TryAgain(InitOut),
    /// The kernel is too old: answer EPROTO.
    TooOld,
}

/// The bits we take whenever the kernel has them. NO_OPEN_SUPPORT is not among them: every open is seen. DONT_MASK: what
/// a default ACL gives takes the umask's place. EXPORT_SUPPORT: "." and ".." are looked up, for NFS.
const WANTED: u64 = flag::ASYNC_READ
    | flag::ATOMIC_O_TRUNC
    | flag::EXPORT_SUPPORT
    | flag::BIG_WRITES
    | flag::AUTO_INVAL_DATA
    | flag::DO_READDIRPLUS
    | flag::READDIRPLUS_AUTO
    | flag::ASYNC_DIO
    | flag::PARALLEL_DIROPS
    | flag::MAX_PAGES
    | flag::CACHE_SYMLINKS
    | flag::POSIX_ACL
    | flag::SETXATTR_EXT
    | flag::DONT_MASK
    | flag::INIT_EXT
    | flag::HAS_EXPIRE_ONLY
    | flag::DIRECT_IO_ALLOW_MMAP;

/// Answers INIT.
#[must_use]
pub fn negotiate(init_in: &Init, limits: &Limits) -> Negotiated {
    assert!(limits.max_write_bytes >= PAGE_BYTES, "the kernel takes no less than one page");
    assert!(limits.max_write_bytes.is_multiple_of(PAGE_BYTES), "max_write is made of pages");
    assert!(limits.max_write_bytes <= MAX_WRITE_BYTES_LIMIT, "max_write is at most 16 MiB");
    if init_in.major > MAJOR_VERSION {
        return Negotiated::TryAgain(InitOut { major: MAJOR_VERSION, ..InitOut::default() });
    }
    if init_in.major < MAJOR_VERSION || init_in.minor < MINOR_VERSION_MIN {
        return Negotiated::TooOld;
    }
    let mut wanted = WANTED;
    if limits.handle_killpriv {
        wanted |= flag::HANDLE_KILLPRIV_V2;
    }
    if limits.locks {
        wanted |= flag::POSIX_LOCKS | flag::FLOCK_LOCKS;
    }
    if limits.over_io_uring {
        wanted |= flag::OVER_IO_URING;
    }
    let mut flags = wanted & init_in.flags;
    if flags & flag::INIT_EXT == 0 {
        flags &= u64::from(u32::MAX); // without it the kernel does not look at flags2
    }
    // Without MAX_PAGES a request carries 32 pages.
    let max_write_bytes = if flags & flag::MAX_PAGES == 0 {
        limits.max_write_bytes.min(MAX_PAGES_MIN * PAGE_BYTES)
    } else {
        limits.max_write_bytes
    };
    // Over the ring no request is longer than this, so it must hold the longest value of an attribute, too.
    let max_pages = u16::try_from((max_write_bytes / PAGE_BYTES).max(MAX_PAGES_MIN))
        .expect("max_write is at most 4096 pages, checked above");
    let minor = init_in.minor.min(MINOR_VERSION);
    let out = InitOut {
        major: MAJOR_VERSION,
        minor,
        // Not capped by the kernel's offer: it takes the smaller of this and the mount's setting
        // in /sys, which is raised separately and in either order.
        max_readahead: limits.max_readahead_bytes,
        flags: low_word(flags),
        max_background: limits.max_background,
        congestion_threshold: limits.congestion_threshold.min(limits.max_background),
        max_write: max_write_bytes,
        time_gran: 1,
        max_pages: if flags & flag::MAX_PAGES == 0 { 0 } else { max_pages },
        flags2: low_word(flags >> 32),
        ..InitOut::default()
    };
    Negotiated::Agreed(out, Features { minor, flags, max_write_bytes })
}

fn low_word(bits: u64) -> u32 {
    u32::try_from(bits & u64::from(u32::MAX)).expect("masked to 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(minor: u32, flags: u64) -> Init {
        Init { major: 7, minor, max_readahead_bytes: 131_072, flags }
    }

    fn agreed(init: Init, limits: Limits) -> (InitOut, Features) {
        let Negotiated::Agreed(out, features) = negotiate(&init, &limits) else { panic!() };
        (out, features)
    }

    #[test]
    fn a_modern_kernel_gives_everything_wanted_and_nothing_else() {
        let (out, features) = agreed(kernel(45, u64::MAX), Limits::default());
        assert_eq!(features.flags, WANTED);
        assert_eq!((out.flags2, u64::from(out.flags)), (1 << 4 | 1 << 3, WANTED & 0xffff_ffff));
        assert_eq!((out.major, out.minor, out.time_gran), (7, 45, 1));
        assert_eq!((out.max_write, out.max_pages, out.max_readahead), (1 << 20, 256, 8 << 20));
        assert_eq!((out.max_background, out.congestion_threshold), (64, 48));
        for bit in [
            flag::POSIX_LOCKS,
            flag::FLOCK_LOCKS,
            flag::NO_OPEN_SUPPORT,
            flag::WRITEBACK_CACHE,
            flag::SECURITY_CTX,
            flag::CREATE_SUPP_GROUP,
            flag::HANDLE_KILLPRIV_V2,
            flag::OVER_IO_URING,
        ] {
            assert!(!features.has(bit), "{bit:#x}");
        }
    }

    #[test]
    fn killpriv_locks_and_the_ring_are_taken_only_when_asked_and_offered() {
        let limits =
            Limits { handle_killpriv: true, over_io_uring: true, locks: true, ..Limits::default() };
        let (_, features) = agreed(kernel(45, u64::MAX), limits);
        assert!(features.has(flag::POSIX_LOCKS) && features.has(flag::FLOCK_LOCKS));
        assert!(features.has(flag::HANDLE_KILLPRIV_V2) && features.has(flag::OVER_IO_URING));
        let (out, features) = agreed(kernel(45, flag::INIT_EXT), limits);
        assert_eq!((features.flags, out.flags2), (flag::INIT_EXT, 0));
    }

    #[test]
    fn an_old_kernel_gets_what_it_knows() {
        let (out, features) = agreed(kernel(31, flag::BIG_WRITES | 1 << 36), Limits::default());
        assert_eq!((out.minor, features.flags, out.flags2), (31, flag::BIG_WRITES, 0));
        assert_eq!((out.max_write, out.max_pages), (131_072, 0));
        let (out, _) = agreed(kernel(99, 0), Limits::default());
        assert_eq!(out.minor, 45);
    }

    #[test]
    fn other_major_versions() {
        let newer = Init { major: 8, ..kernel(0, 0) };
        let Negotiated::TryAgain(out) = negotiate(&newer, &Limits::default()) else { panic!() };
        assert_eq!(out.major, 7);
        let older = Init { major: 6, ..kernel(99, 0) };
        assert_eq!(negotiate(&older, &Limits::default()), Negotiated::TooOld);
        assert_eq!(negotiate(&kernel(30, 0), &Limits::default()), Negotiated::TooOld);
    }
}
