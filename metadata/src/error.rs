//! What can go wrong with a volume as a whole. How one operation ended is a `weft_wire::Status`.

use weft_wire::Status;

/// What went wrong, to branch on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The database answered with an error; see the source.
    Database,
    /// The database's file, or a record in it, is not what was written.
    Damaged,
    /// The log is damaged before commands that are still there: acknowledged changes would be lost.
    LogDamaged,
    /// The log has commands of a checkpoint that the database has not: the database is an older copy.
    LogNewer,
    /// The log file is shorter than the volume says.
    LogShort,
    /// Reading or writing the log failed.
    LogIo,
    /// The volume belongs to another cluster.
    WrongCluster,
    /// There is a volume here already.
    Exists,
    /// There is no volume here.
    NotFound,
    /// A format newer than this build.
    Version,
    /// A parameter is out of its limits.
    Invalid,
}

/// An operation on a volume that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("metadata {op}: {}", self.kind.explain())]
pub struct MetaError {
    /// What to branch on.
    pub kind: Kind,
    /// The operation that failed.
    pub op: &'static str,
    /// Where in the log, an errno or a record's number, as the kind has it; else 0.
    pub detail: u64,
    /// The database's error, where it is one.
    #[source]
    pub source: Option<weft_lmdb::Error>,
}

impl Kind {
    fn explain(self) -> &'static str {
        match self {
            Kind::Database => "the database failed",
            Kind::Damaged => "the database or a record in it is damaged; restore it from a backup",
            Kind::LogDamaged => {
                "the log is damaged before later commands; nothing was changed, restore the log file"
            }
            Kind::LogNewer => {
                "the log is newer than the database, which lost a checkpoint or is an older copy; restore both of one time"
            }
            Kind::LogShort => {
                "the log file is missing or too short; restore it, do not make a new one"
            }
            Kind::LogIo => {
                "the log device failed; the volume takes no changes until it is reopened"
            }
            Kind::WrongCluster => "the volume belongs to another cluster",
            Kind::Exists => "there is a volume here already",
            Kind::NotFound => "there is no volume here; make one with `weft fs create`",
            Kind::Version => "the volume was written by a newer build; upgrade this one",
            Kind::Invalid => "a parameter is out of its limits",
        }
    }
}

impl MetaError {
    pub(crate) fn new(kind: Kind, op: &'static str) -> MetaError {
        MetaError { kind, op, detail: 0, source: None }
    }

    pub(crate) fn at(kind: Kind, op: &'static str, detail: u64) -> MetaError {
        MetaError { kind, op, detail, source: None }
    }

    pub(crate) fn database(op: &'static str, source: weft_lmdb::Error) -> MetaError {
        let kind = match source.kind {
            weft_lmdb::Kind::Damaged => Kind::Damaged,
            _ => Kind::Database,
        };
        MetaError { kind, op, detail: 0, source: Some(source) }
    }

    /// What an operation gets that meets this error.
    pub(crate) fn status(&self) -> Status {
        match (self.kind, self.source) {
            (_, Some(source)) => status_of(&source),
            (Kind::Damaged | Kind::LogDamaged, None) => Status::Damaged,
            _ => Status::Io,
        }
    }
}

/// What an operation gets that meets this error of the database.
pub(crate) fn status_of(error: &weft_lmdb::Error) -> Status {
    match error.kind {
        weft_lmdb::Kind::Damaged => Status::Damaged,
        weft_lmdb::Kind::Full => Status::NoSpace,
        _ => Status::Io,
    }
}
