//! What can go wrong when a pool is made.

use std::io;

/// What kind of failure: the part to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The largest class is not a power of two between 4 KiB and 1 GiB.
    ClassBytes,
    /// The arena is empty or larger than [`crate::ARENA_BYTES_MAX`].
    ArenaBytes,
    /// The kernel refused the mapping: not enough memory or address space.
    Map,
}

/// Failure to make a pool. Nothing is left mapped.
#[derive(Debug, thiserror::Error)]
#[error("memory pool: {op} of {bytes} bytes failed: {}", self.advice())]
pub struct IobufError {
    /// What kind of failure.
    pub kind: Kind,
    /// The step that failed.
    pub op: &'static str,
    /// The amount asked for.
    pub bytes: usize,
    /// What the kernel said, where it was asked.
    #[source]
    pub source: Option<io::Error>,
}

impl IobufError {
    fn advice(&self) -> &'static str {
        match self.kind {
            Kind::ClassBytes => "the largest slot must be a power of two from 4 KiB to 1 GiB",
            Kind::ArenaBytes => "the arena must be from 1 byte to 1 TiB",
            Kind::Map => "the kernel has not that much memory to give; make the arena smaller",
        }
    }
}
