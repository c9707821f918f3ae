//! What can go wrong with a target's device as a whole.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};

/// What kind of failure: the part to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It cannot be opened or read; the source has the errno.
    Device,
    /// Another program holds it.
    InUse,
    /// It does not take direct I/O.
    NoDirect,
    /// The store refuses it; the source says why.
    Store,
    /// The ring failed, or has no room for its descriptors.
    Ring,
    /// The thread that writes the index cannot be started, or is gone.
    Thread,
}

/// Failure of a step that concerns a target's device.
#[derive(Debug, thiserror::Error)]
#[error("{op} {}: {}", path.display(), self.advice())]
pub struct TargetError {
    /// What kind of failure.
    pub kind: Kind,
    /// The step that failed.
    pub op: &'static str,
    /// The device, file or folder.
    pub path: PathBuf,
    /// The cause below.
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl TargetError {
    pub(crate) fn new(kind: Kind, op: &'static str, path: &Path) -> TargetError {
        TargetError { kind, op, path: path.to_owned(), source: None }
    }

    pub(crate) fn because(
        kind: Kind,
        op: &'static str,
        path: &Path,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> TargetError {
        TargetError { source: Some(source.into()), ..TargetError::new(kind, op, path) }
    }

    /// The store's own error, when it is one.
    #[must_use]
    pub fn store(&self) -> Option<&weft_store::StoreError> {
        self.source.as_ref().and_then(|source| source.downcast_ref())
    }

    fn advice(&self) -> String {
        let cause = self.source.as_ref().map(|source| format!(": {source}")).unwrap_or_default();
        let what = match self.kind {
            Kind::Device => "the device or file cannot be used",
            Kind::InUse => "in use by another program; stop it first",
            Kind::NoDirect => "its file system or device must allow O_DIRECT",
            Kind::Store => "not usable as a target",
            Kind::Ring => "io_uring failed",
            Kind::Thread => "the thread that writes its index failed",
        };
        format!("{what}{cause}")
    }
}
