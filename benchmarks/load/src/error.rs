//! What can go wrong in a benchmark run. The binary's outermost layer, so the detail may be text.

use std::io;
use std::path::Path;

/// What kind of thing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The system refused an operation; `source` has the errno.
    Io,
    /// The operation worked and its outcome is not what it must be: a count, a size, contents.
    Wrong,
    /// A program we started failed, or ended too early.
    Program,
    /// A program reached its time limit and was killed.
    Late,
    /// A program reached its time limit and cannot even be killed: the file system under it does not answer.
    Stuck,
    /// The command line or a data file asks for something that cannot be.
    Usage,
}

/// An error of a run: what was done, on what, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{op}: {on}{}", source.as_ref().map(|e| format!(": {e}")).unwrap_or_default())]
pub(crate) struct Error {
    pub(crate) kind: Kind,
    op: &'static str,
    on: String,
    source: Option<io::Error>,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn wrong(op: &'static str, on: impl Into<String>) -> Self {
        Self { kind: Kind::Wrong, op, on: on.into(), source: None }
    }

    pub(crate) fn program(op: &'static str, on: impl Into<String>) -> Self {
        Self { kind: Kind::Program, op, on: on.into(), source: None }
    }

    pub(crate) fn late(op: &'static str) -> Self {
        let on = "did not end within its time limit (--limit-s)".into();
        Self { kind: Kind::Late, op, on, source: None }
    }

    pub(crate) fn stuck(op: &'static str) -> Self {
        let on =
            "did not end within its time limit (--limit-s), nor when killed: the file system hangs"
                .into();
        Self { kind: Kind::Stuck, op, on, source: None }
    }

    pub(crate) fn usage(op: &'static str, on: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, op, on: on.into(), source: None }
    }
}

/// Names the operation and the path of an I/O error.
pub(crate) trait At<T> {
    fn at(self, op: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, op: &'static str, path: &Path) -> Result<T> {
        self.map_err(|e| Error {
            kind: Kind::Io,
            op,
            on: path.display().to_string(),
            source: Some(e.into()),
        })
    }
}
