//! One request of the kernel, decoded without copying names or data.
//!
//! Invariants:
//! - Every byte string decodes to a request or to a [`DecodeError`]; nothing panics.
//! - An opcode that is not known is [`Operation::Unknown`], to be answered ENOSYS; a known opcode
//!   with wrong contents is an error, to be answered EIO when `unique` is known.
//! - The data of a WRITE is given as a byte range of the buffer that was decoded, so that the
//!   buffer itself can be sent on.
//!
//! It decides nothing about the meaning: whether a name is too long, or a flag is supported, is
//! the client core's business.

mod decode;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use decode::{Args, DecodeError, Kind, header};

/// The kernel's name for one inode: what `lookup` gave it; 1 is the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// What `open` or `opendir` gave the kernel for one open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileHandle(pub u64);

/// The owner of byte-range locks: opaque, one per process (or open file description).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockOwner(pub u64);

/// The kernel's id of one request; its reply carries the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unique(pub u64);

/// The bit in a request's id that says that it was asked before, of a process that died without an answer.
pub const RESENT: u64 = 1 << 63;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The request's id.
    pub unique: Unique,
    /// The inode it is about; the parent directory where a name follows.
    pub node: NodeId,
    /// The caller's file-system uid.
    pub uid: u32,
    /// The caller's file-system gid.
    pub gid: u32,
    /// The caller's thread id; 0 where the kernel itself asks, or from another pid namespace.
    pub pid: u32,
    /// What is asked.
    pub op: Operation<'a>,
}

/// A point in time as the kernel states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelTime {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// 0..=999_999_999.
    pub nanoseconds: u32,
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The server's clock at the moment it is applied.
    Now,
    /// This time.
    At(KernelTime),
}

/// INIT: what the kernel offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Init {
    /// Protocol major version.
    pub major: u32,
    /// Protocol minor version.
    pub minor: u32,
    /// The kernel's read-ahead of this mount.
    pub max_readahead_bytes: u32,
    /// `abi::flags::init` bits, all 64.
    pub flags: u64,
}

/// SETATTR: only the fields that are `Some` change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setattr {
    /// The open file through which it is done (ftruncate).
    pub fh: Option<FileHandle>,
    /// Permission bits and file type, as `st_mode`.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New length.
    pub len_bytes: Option<u64>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
    /// New change time: only with the writeback cache.
    pub ctime: Option<KernelTime>,
    /// For mandatory locks on truncate.
    pub lock_owner: Option<LockOwner>,
    /// Clear setuid, and setgid where group-executable.
    pub kill_suidgid: bool,
}

/// READ, READDIR and READDIRPLUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The open file or directory.
    pub fh: FileHandle,
    /// Byte offset; in a directory the `off` of the last entry seen, 0 at the start.
    pub offset: u64,
    /// The longest reply payload.
    pub len_bytes: u32,
    /// The file's open flags.
    pub file_flags: u32,
    /// Whose locks count.
    pub lock_owner: Option<LockOwner>,
}

/// WRITE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The open file; guessed by the kernel where `from_cache`.
    pub fh: FileHandle,
    /// Byte offset in the file.
    pub offset: u64,
    /// Where the data is within the buffer that was decoded (the payload buffer when split).
    pub data: Range<usize>,
    /// From the page cache: write-back of mapped or cached pages, not a write(2).
    pub from_cache: bool,
    /// Clear setuid, and setgid where group-executable.
    pub kill_suidgid: bool,
    /// Whose locks count.
    pub lock_owner: Option<LockOwner>,
    /// The file's open flags (O_APPEND, O_SYNC, O_DIRECT matter).
    pub file_flags: u32,
}

/// RELEASE and RELEASEDIR: the last close of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The open file; not valid afterwards.
    pub fh: FileHandle,
    /// The file's open flags.
    pub file_flags: u32,
    /// Flush before releasing.
    pub flush: bool,
    /// Drop the flock locks of `lock_owner`.
    pub flock_unlock: bool,
    /// The owner for `flock_unlock`.
    pub lock_owner: LockOwner,
}

/// GETLK, SETLK and SETLKW.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The open file.
    pub fh: FileHandle,
    /// Who asks.
    pub owner: LockOwner,
    /// First byte.
    pub start: u64,
    /// Last byte, included; `i64::MAX` is to the end.
    pub end: u64,
    /// F_RDLCK, F_WRLCK or F_UNLCK.
    pub kind: u32,
    /// The asking process.
    pub pid: u32,
    /// A flock(2) lock, not a byte range.
    pub flock: bool,
}

/// COPY_FILE_RANGE; the request's node is the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFileRange {
    /// Source file.
    pub fh_in: FileHandle,
    /// Source offset.
    pub offset_in: u64,
    /// Destination inode.
    pub node_out: NodeId,
    /// Destination file.
    pub fh_out: FileHandle,
    /// Destination offset.
    pub offset_out: u64,
    /// How much.
    pub len_bytes: u64,
    /// copy_file_range(2) flags.
    pub flags: u64,
    /// The reply is `CopyFileRangeOut` (64-bit), otherwise `WriteOut`.
    pub wide_reply: bool,
}

/// IOCTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ioctl<'a> {
    /// The open file or directory.
    pub fh: FileHandle,
    /// `FUSE_IOCTL_*`.
    pub flags: u32,
    /// The command.
    pub cmd: u32,
    /// The argument, a pointer of the caller.
    pub arg: u64,
    /// What the kernel copied in.
    pub data: &'a [u8],
    /// The longest reply.
    pub out_bytes_max: u32,
}

/// The inodes of a BATCH_FORGET, checked to be all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForgetList<'a> {
    items: &'a [u8],
}

/// What the kernel asks. Fields named as in the FUSE protocol, with units.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "operations and arguments as in fuse_kernel.h and the system calls")]
pub enum Operation<'a> {
    Init(Init),
    Destroy,
    Lookup {
        name: &'a [u8],
    },
    Forget {
        lookup_count: u64,
    },
    BatchForget(ForgetList<'a>),
    Getattr {
        fh: Option<FileHandle>,
    },
    Setattr(Setattr),
    Readlink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    Mknod {
        name: &'a [u8],
        mode: u32,
        rdev: u32,
        umask: u32,
    },
    Mkdir {
        name: &'a [u8],
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a [u8],
    },
    Rmdir {
        name: &'a [u8],
    },
    /// RENAME and RENAME2; `flags` are those of renameat2(2), 0 for RENAME.
    Rename {
        name: &'a [u8],
        new_parent: NodeId,
        new_name: &'a [u8],
        flags: u32,
    },
    /// A new name of `source` in the request's node.
    Link {
        source: NodeId,
        name: &'a [u8],
    },
    Open {
        flags: u32,
        kill_suidgid: bool,
    },
    Create {
        name: &'a [u8],
        flags: u32,
        mode: u32,
        umask: u32,
        kill_suidgid: bool,
    },
    /// O_TMPFILE in the request's node: no name.
    Tmpfile {
        flags: u32,
        mode: u32,
        umask: u32,
    },
    Read(Read),
    Write(Write),
    Statfs,
    Release(Release),
    Fsync {
        fh: FileHandle,
        datasync: bool,
    },
    Setxattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: u32,
        /// Whether an ACL takes the setgid bit away; `None` when the kernel does not say.
        kill_setgid: Option<bool>,
    },
    /// `len_bytes` 0 asks for the length only.
    Getxattr {
        name: &'a [u8],
        len_bytes: u32,
    },
    Listxattr {
        len_bytes: u32,
    },
    Removexattr {
        name: &'a [u8],
    },
    Flush {
        fh: FileHandle,
        lock_owner: LockOwner,
    },
    Opendir {
        flags: u32,
    },
    Readdir(Read),
    Readdirplus(Read),
    Releasedir(Release),
    Fsyncdir {
        fh: FileHandle,
        datasync: bool,
    },
    Getlk(Lock),
    Setlk(Lock),
    Setlkw(Lock),
    Access {
        mask: u32,
    },
    /// The caller of `target` got a signal.
    Interrupt {
        target: Unique,
    },
    Bmap {
        block: u64,
        block_bytes: u32,
    },
    Ioctl(Ioctl<'a>),
    Poll {
        fh: FileHandle,
        kh: u64,
        flags: u32,
        events: u32,
    },
    Fallocate {
        fh: FileHandle,
        offset: u64,
        len_bytes: u64,
        mode: u32,
    },
    Lseek {
        fh: FileHandle,
        offset: u64,
        whence: u32,
    },
    CopyFileRange(CopyFileRange),
    Syncfs,
    Statx {
        fh: Option<FileHandle>,
        flags: u32,
        mask: u32,
    },
    Unknown {
        opcode: u32,
    },
}

impl Operation<'_> {
    /// Whether the kernel waits for a reply; to reply to the others is an error.
    #[must_use]
    pub const fn wants_reply(&self) -> bool {
        !matches!(self, Self::Forget { .. } | Self::BatchForget(_) | Self::Interrupt { .. })
    }
}

impl ForgetList<'_> {
    /// The inodes and how many lookups each loses.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        self.items.chunks_exact(size_of::<crate::abi::input::ForgetOne>()).map(decode::forget_one)
    }

    /// How many.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.items.len() / size_of::<crate::abi::input::ForgetOne>()
    }
}
