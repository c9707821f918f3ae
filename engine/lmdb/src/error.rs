//! What can go wrong, and the one table from LMDB's codes to [`Kind`].

use crate::ffi;
use libc::c_int;

/// What went wrong, to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A page, the file's length or a meta page is not what was written.
    Damaged,
    /// The map (`map_bytes_max`) or the disk below it is full. The transaction can only be
    /// dropped; deleting in a new one frees space for the one after.
    Full,
    /// Another process (or this one) has the environment open, or its write transaction.
    Busy,
    /// The key is empty or longer than [`crate::KEY_BYTES_MAX`].
    KeyTooLong,
    /// The value is longer than [`crate::VALUE_BYTES_MAX`].
    ValueTooLong,
    /// There is no environment here and `create` was not asked for.
    NotFound,
    /// More tables, snapshots or environments than the options or `limits` allow.
    Limit,
    /// An earlier call failed in this write transaction: it can only be dropped.
    TxnFailed,
    /// Writing a commit's meta page failed: what is durable is known only after a reopen.
    Broken,
    /// A table of another environment, a table newer than the transaction, a bad path or name.
    Invalid,
    /// The operating system's error number.
    Io(i32),
}

/// An operation that failed. `code` is LMDB's own or an errno, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lmdb {op}: {} (code {code})", self.kind.explain())]
pub struct Error {
    /// What to branch on.
    pub kind: Kind,
    /// The operation that failed.
    pub op: &'static str,
    /// LMDB's error code (negative) or an errno; 0 where this crate found the fault itself.
    pub code: i32,
}

impl Kind {
    fn explain(self) -> &'static str {
        match self {
            Kind::Damaged => "the file is damaged; restore or rebuild it, do not write to it",
            Kind::Full => "the map or the disk is full; raise map_bytes_max or free space",
            Kind::Busy => "already open; close the other user first",
            Kind::KeyTooLong => "the key is empty or too long",
            Kind::ValueTooLong => "the value is too long",
            Kind::NotFound => "there is no environment here",
            Kind::Limit => "too many tables, snapshots or environments",
            Kind::TxnFailed => "an earlier call failed, the transaction can only be dropped",
            Kind::Broken => "a commit failed half-way; close and reopen the environment",
            Kind::Invalid => "the arguments do not fit this environment",
            Kind::Io(_) => "the operating system reported an error",
        }
    }
}

impl Error {
    pub(crate) fn new(kind: Kind, op: &'static str) -> Error {
        Error { kind, op, code: 0 }
    }

    pub(crate) fn io(op: &'static str, source: &std::io::Error) -> Error {
        let errno = source.raw_os_error().unwrap_or(libc::EIO);
        Error::code(op, errno)
    }

    /// From what a call into LMDB returned, which is not 0.
    pub(crate) fn code(op: &'static str, code: c_int) -> Error {
        let kind = match code {
            ffi::MDB_BAD_CHECKSUM
            | ffi::MDB_CORRUPTED
            | ffi::MDB_PAGE_NOTFOUND
            | ffi::MDB_INVALID
            | ffi::MDB_VERSION_MISMATCH
            | ffi::MDB_INCOMPATIBLE
            | ffi::MDB_CURSOR_FULL
            | ffi::MDB_PAGE_FULL
            | ffi::MDB_PROBLEM => Kind::Damaged,
            ffi::MDB_MAP_FULL | ffi::MDB_TXN_FULL => Kind::Full,
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Kind::Full,
            ffi::MDB_DBS_FULL | ffi::MDB_READERS_FULL => Kind::Limit,
            ffi::MDB_BAD_TXN => Kind::TxnFailed,
            ffi::MDB_PANIC => Kind::Broken,
            ffi::MDB_BAD_VALSIZE => Kind::KeyTooLong,
            libc::ENOENT => Kind::NotFound,
            errno if errno > 0 && errno != libc::EINVAL => Kind::Io(errno),
            _ => Kind::Invalid,
        };
        Error { kind, op, code }
    }
}

/// 0 is success.
pub(crate) fn check(op: &'static str, code: c_int) -> Result<(), Error> {
    if code == 0 { Ok(()) } else { Err(Error::code(op, code)) }
}
