//! How an operation ended: the one table between Weft's statuses and errno values.

use crate::codec::{WireError, WireErrorKind};

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $errno:literal, $text:literal;)*) => {
        /// The outcome of a request, in the reply's header. The number is the wire's and never reused.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
        #[repr(u16)]
        pub enum Status {
            $($(#[$doc])* #[error($text)] $name = $code,)*
        }

        impl Status {
            /// Every status there is.
            pub const ALL: &'static [Status] = &[$(Status::$name,)*];

            /// The wire's number.
            pub const fn code(self) -> u16 {
                match self { $(Status::$name => $code,)* }
            }

            /// The Linux (generic ABI) errno a program gets; 0 for `Ok`.
            pub const fn errno(self) -> i32 {
                match self { $(Status::$name => $errno,)* }
            }

            /// The status with this number.
            ///
            /// # Errors
            /// `Value` for a number no version has given out.
            pub const fn from_code(code: u16) -> Result<Status, WireError> {
                match code {
                    $($code => Ok(Status::$name),)*
                    _ => Err(WireError::new(WireErrorKind::Value, "status")),
                }
            }
        }
    };
}

statuses! {
    /// Done.
    Ok = 0, 0, "done";
    /// EPERM.
    NotPermitted = 1, 1, "operation not permitted";
    /// ENOENT.
    NotFound = 2, 2, "no such file or directory";
    /// EIO: a device or checksum failure; the alarm is in the server's log.
    Io = 3, 5, "input/output error";
    /// EIO: data that was written is gone or damaged.
    Damaged = 4, 5, "stored data is damaged";
    /// EACCES.
    Access = 5, 13, "permission denied";
    /// Not now: the server is at a limit. Retried by the client, never shown to a program.
    Busy = 6, 16, "server is at a limit, try again";
    /// EEXIST.
    Exists = 7, 17, "file exists";
    /// EXDEV.
    CrossDevice = 8, 18, "invalid cross-device link";
    /// ENOTDIR.
    NotDirectory = 9, 20, "not a directory";
    /// EISDIR.
    IsDirectory = 10, 21, "is a directory";
    /// EINVAL.
    Invalid = 11, 22, "invalid argument";
    /// EFBIG.
    TooBig = 12, 27, "file too large";
    /// ENOSPC.
    NoSpace = 13, 28, "no space left on device";
    /// EROFS.
    ReadOnly = 14, 30, "read-only file system";
    /// EMLINK.
    TooManyLinks = 15, 31, "too many links";
    /// ENAMETOOLONG.
    NameTooLong = 16, 36, "file name too long";
    /// ENOTEMPTY.
    NotEmpty = 17, 39, "directory not empty";
    /// ELOOP.
    Loop = 18, 40, "too many levels of symbolic links";
    /// ENODATA: no such extended attribute.
    NoData = 19, 61, "no such attribute";
    /// ERANGE.
    Range = 20, 34, "result does not fit";
    /// EOPNOTSUPP.
    NotSupported = 21, 95, "operation not supported";
    /// ESTALE: the inode is gone.
    Stale = 22, 116, "stale file handle";
    /// ETIMEDOUT: the request's deadline passed before it was served.
    TimedOut = 23, 110, "deadline passed";
    /// EIO: the peer broke the protocol; the connection is closed.
    Protocol = 24, 5, "protocol error";
    /// The hello named another cluster.
    WrongCluster = 25, 5, "this server belongs to another cluster";
    /// The shard or target of the request is not here.
    WrongShard = 26, 5, "this shard does not have what was asked for";
    /// No version both ends speak.
    Version = 27, 71, "no common protocol version";
    /// E2BIG.
    ArgumentTooBig = 28, 7, "argument too long";
    /// The server is shutting down; the client reconnects.
    Unavailable = 29, 11, "server is going away";
    /// EINTR.
    Interrupted = 30, 4, "interrupted";
    /// EBUSY as a program sees it (a mount point, the root).
    InUse = 31, 16, "in use";
    /// EAGAIN: somebody else has the lock.
    WouldBlock = 40, 11, "locked by somebody else";
    /// EDEADLK: everybody would wait for somebody.
    Deadlock = 41, 35, "waiting for this lock would be a deadlock";
    /// ENOLCK: the server's table of locks is full.
    NoLocks = 42, 37, "no more locks: the server's table is full";
    /// EIO: the session did not renew its leases and others went on without it.
    Fenced = 32, 5, "the lease on it was lost";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_come_back() {
        for status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), Ok(*status));
            assert_eq!(status.errno() == 0, *status == Status::Ok);
        }
        assert!(Status::from_code(9999).is_err());
    }
}
