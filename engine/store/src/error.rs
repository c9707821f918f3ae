//! What can go wrong outside a single operation: at format, inspection and open.

use std::error::Error as StdError;

/// What kind of failure: the part to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No superblock of ours: another file system, or nothing.
    Foreign,
    /// A target that something else was written over: only its last block is still ours.
    Overwritten,
    /// A superblock of a format version this program does not know.
    Version,
    /// A checksum or a value in a superblock, the journal or the index is wrong.
    Damaged,
    /// The index is not where it should be.
    Missing,
    /// Device, index, cluster or target id do not belong together.
    Mismatch,
    /// The device is too small, or smaller than when it was formatted.
    TooSmall,
    /// An argument is out of its range.
    Invalid,
    /// The index is open in another process.
    Busy,
    /// The device answered with an error.
    Device,
    /// The index (LMDB) answered with an error other than damage.
    Index,
}

/// Failure of a step that concerns the whole target.
#[derive(Debug, thiserror::Error)]
#[error("{op} at byte {offset}: {}", self.kind.explain())]
pub struct StoreError {
    /// What kind of failure.
    pub kind: Kind,
    /// The step that failed, and on what.
    pub op: &'static str,
    /// Where on the device, in bytes; 0 where no place is meant.
    pub offset: u64,
    /// The cause below.
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Kind {
    fn explain(self) -> &'static str {
        match self {
            Kind::Foreign => "this is not a weft target",
            Kind::Overwritten => {
                "something else was written over this weft target, perhaps another file system; \
                 nothing was changed"
            }
            Kind::Version => "the target has a format version this program does not know",
            Kind::Damaged => "stored data is damaged; nothing was changed",
            Kind::Missing => "the index is not there; nothing was changed",
            Kind::Mismatch => "device, index and cluster do not belong together; check the paths",
            Kind::TooSmall => "the device is too small, or smaller than when it was formatted",
            Kind::Invalid => "an argument is out of its range",
            Kind::Busy => "the index is open in another process; stop that one first",
            Kind::Device => "the device reported an error; see the cause",
            Kind::Index => "the index reported an error; see the cause",
        }
    }
}

impl StoreError {
    pub(crate) fn new(kind: Kind, op: &'static str, offset: u64) -> StoreError {
        StoreError { kind, op, offset, source: None }
    }

    pub(crate) fn device(op: &'static str, offset: u64, source: std::io::Error) -> StoreError {
        StoreError { kind: Kind::Device, op, offset, source: Some(Box::new(source)) }
    }

    pub(crate) fn index(op: &'static str, source: weft_lmdb::Error) -> StoreError {
        let kind = match source.kind {
            weft_lmdb::Kind::Damaged => Kind::Damaged,
            weft_lmdb::Kind::Busy => Kind::Busy,
            weft_lmdb::Kind::NotFound => Kind::Missing,
            _ => Kind::Index,
        };
        StoreError { kind, op, offset: 0, source: Some(Box::new(source)) }
    }
}
