//! What the mount asks and what it is told: close to the FUSE operations, with owned data, and free of FUSE.
//!
//! Rules of the exchange:
//! - Every operation but [`FsOp::Forget`] gets exactly one [`Output::Reply`], also after an interrupt.
//! - An error is a Linux errno.
//! - A [`Handle`] lives from the reply that gave it to the reply of its `Release`.

use std::ops::Range;
use std::time::Duration;

use weft_iobuf::{BufSlot, SharedSlot};
use weft_wire::Ino;
use weft_wire::locks::{LockConflict, LockTest};
use weft_wire::meta::{Attr, SetAttr, StatFs};

use crate::locks::LockAsked;

/// The mount's name for one operation; never used again (the kernel's `unique` is such a number).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpId(pub u64);

/// One open file or directory of this mount.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Handle(pub u64);

/// One connection of this mount; the same id for every reconnect. Counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LinkId(pub u32);

/// The program on whose behalf an operation is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// Its process, for the log.
    pub pid: u32,
}

/// The open flags that mean something here; the mount translates the kernel's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFlags {
    /// O_WRONLY or O_RDWR.
    pub write: bool,
    /// O_TRUNC: the file is empty before the reply. Only where the kernel leaves it to us (ATOMIC_O_TRUNC).
    pub truncate: bool,
    /// O_EXCL of a create: fail when the name exists.
    pub exclusive: bool,
    /// O_DIRECT: the page cache is by-passed; comes back in the reply.
    pub direct: bool,
    /// O_APPEND: so it is too, because only we know where the file ends.
    pub append: bool,
}

/// Where [`FsOp::Lseek`] looks from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whence {
    /// SEEK_SET: the offset itself.
    Set,
    /// SEEK_END: the file's length is added.
    End,
    /// SEEK_DATA: the next data at or after the offset.
    Data,
    /// SEEK_HOLE: the next hole at or after the offset; the end of the file is one.
    Hole,
}

/// One operation.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are named as in POSIX and at the variants")]
pub enum FsOp {
    /// → `Entry`, or ENOENT.
    Lookup { parent: Ino, name: Vec<u8> },
    /// The kernel drops `count` of its lookups of the inode, as a rule all: it lets go of the inode. No reply.
    Forget { ino: Ino, count: u64 },
    /// → `Attr`.
    GetAttr { ino: Ino, handle: Option<Handle> },
    /// → `Attr`. Data written before is at the servers first.
    SetAttr { ino: Ino, set: SetAttr, handle: Option<Handle> },
    /// → `Bytes`.
    ReadLink { ino: Ino },
    /// mknod, mkdir and symlink → `Entry`. `mode` has the type and permission bits, `umask` those that go; `target`
    /// is a symbolic link's, else empty. Fails with EEXIST when the name is there.
    Make { parent: Ino, name: Vec<u8>, mode: u32, umask: u32, rdev: u32, target: Vec<u8> },
    /// Open, made when it is not there → `Created`. `mode` as for `Make`; the type is a regular file.
    Create { parent: Ino, name: Vec<u8>, mode: u32, umask: u32, flags: OpenFlags },
    /// O_TMPFILE: a file without a name → `Created`.
    Tmpfile { parent: Ino, mode: u32, umask: u32, flags: OpenFlags },
    /// → `Opened`.
    Open { ino: Ino, flags: OpenFlags },
    /// → `Data`, shorter than asked only at the end of the file. `into`: a lent slot where the bytes are wanted, from its start; those
    /// that can be received there are, and are pieces of it. Every part of it is dropped or in a piece at the reply,
    /// or else dropped when the connection that was to fill it ends.
    Read { handle: Handle, offset: u64, bytes: u32, into: Option<BufSlot> },
    /// → `Written`, always all of it. `direct`: acknowledged when the targets have it; otherwise possibly before,
    /// and an error comes with the next write, flush or fsync of each handle of the file. Durable after `Fsync`
    /// in both cases (O_SYNC: the mount, or the kernel, sends one). The offset is final: O_APPEND is resolved by the
    /// kernel, but for `append`: then it is the file's end, wherever that is by now. Before it is made, it takes `strips`
    /// away.
    Write {
        handle: Handle,
        offset: u64,
        data: (BufSlot, Range<usize>),
        direct: bool,
        append: bool,
        strips: Strips,
    },
    /// A descriptor of the file was closed → `Done`, or what went wrong since the last report.
    Flush { handle: Handle },
    /// → `Done` when all that was written before is durable. `datasync` makes no difference.
    Fsync { handle: Handle, datasync: bool },
    /// The last descriptor was closed → `Done` at once; what is left to write is written first.
    Release { handle: Handle },
    /// → `Opened`.
    OpenDir { ino: Ino },
    /// Entries after `cookie` (0: from the start) → `Dir`. `.` and `..` are not among them: the mount adds them.
    ReadDir { handle: Handle, cookie: u64, bytes_max: u32, plus: bool },
    /// → `Done`.
    ReleaseDir { handle: Handle },
    /// → `Done`: a reply to a change of a directory means durable already.
    FsyncDir { handle: Handle, datasync: bool },
    /// → `Done`.
    Unlink { parent: Ino, name: Vec<u8> },
    /// → `Done`.
    Rmdir { parent: Ino, name: Vec<u8> },
    /// → `Done`. `flags` as for renameat2(2): 1 is NOREPLACE, 2 EXCHANGE, 4 WHITEOUT; others get EINVAL.
    Rename { parent: Ino, name: Vec<u8>, new_parent: Ino, new_name: Vec<u8>, flags: u32 },
    /// Another name for `ino` → `Entry`.
    Link { ino: Ino, parent: Ino, name: Vec<u8> },
    /// → `StatFs`.
    StatFs,
    /// → `Bytes`, or `Length` when `bytes_max` is 0, or ERANGE when it does not fit.
    GetXattr { ino: Ino, name: Vec<u8>, bytes_max: u32 },
    /// → `Done`. `flags` as for setxattr(2); of an ACL also [`weft_wire::meta::XATTR_KEEP_SETGID`] or
    /// [`weft_wire::meta::XATTR_CLEAR_SETGID`].
    SetXattr { ino: Ino, name: Vec<u8>, value: Vec<u8>, flags: u32 },
    /// Names, each followed by a NUL. As `GetXattr`.
    ListXattr { ino: Ino, bytes_max: u32 },
    /// → `Done`.
    RemoveXattr { ino: Ino, name: Vec<u8> },
    /// → `Done`. `mode` as for fallocate(2): 0 (space is given out, the file is at least so long), 1 KEEP_SIZE, 3 PUNCH_HOLE,
    /// 0x10 ZERO_RANGE; others get EOPNOTSUPP. Space is given out by writing zeros where nothing was written.
    Fallocate { handle: Handle, offset: u64, bytes: u64, mode: u32 },
    /// copy_file_range → `Copied`: at least one byte, and perhaps fewer than asked for; none only at the source's end. Durable
    /// then. EOPNOTSUPP: it is to be done by reading and writing. `set_ids`: setuid, and setgid where the group may execute it,
    /// go from the destination first.
    Copy { source: Handle, from: u64, handle: Handle, to: u64, bytes: u64, set_ids: bool },
    /// → `Offset`. ENXIO beyond the file's end, and when no data follows.
    Lseek { handle: Handle, offset: u64, whence: Whence },
    /// → `Done`, when the lock is granted or given up. EAGAIN, EDEADLK, ENOLCK; EIO once when locks of this owner were
    /// lost while the server was away.
    Lock(LockAsked),
    /// → `Lock`: what is in the way.
    TestLock(LockTest),
}

/// What a write takes away of its file, where the kernel has not done it: see `strip.rs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Strips {
    /// Its capabilities.
    pub capabilities: bool,
    /// Setuid, and setgid where the group may execute it.
    pub set_ids: bool,
}

/// A stretch of what a read found, in file order.
#[derive(Debug)]
pub enum DataPiece {
    /// These bytes of a slot.
    Slot(SharedSlot, Range<usize>),
    /// These.
    Bytes(Vec<u8>),
    /// So many zeros (a hole).
    Zeros(usize),
}

impl DataPiece {
    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            DataPiece::Slot(_, range) => range.len(),
            DataPiece::Bytes(bytes) => bytes.len(),
            DataPiece::Zeros(count) => *count,
        }
    }
}

/// How long the kernel may answer from its own caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ttl {
    /// For the name.
    pub entry: Duration,
    /// For the attributes.
    pub attr: Duration,
}

/// An open file or directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Its handle.
    pub handle: Handle,
    /// The pages the kernel has cached of this file are still right.
    pub keep_cache: bool,
    /// As asked with [`OpenFlags::direct`].
    pub direct: bool,
    /// As asked with [`OpenFlags::append`].
    pub append: bool,
}

/// The answer to an operation that did not fail.
#[derive(Debug)]
pub enum FsReply {
    /// A name's inode.
    Entry(Attr, Ttl),
    /// An inode's attributes; [`Ttl::entry`] is zero.
    Attr(Attr, Ttl),
    /// To `Create`.
    Created(Attr, Ttl, Opened),
    /// To `Open`, `OpenDir`.
    Opened(Opened),
    /// To `Read`: together at most what was asked for.
    Data(Vec<DataPiece>),
    /// To `Write`: bytes taken.
    Written(u32),
    /// To `ReadLink`, `GetXattr`, `ListXattr`.
    Bytes(Vec<u8>),
    /// To `GetXattr`, `ListXattr`: what `bytes_max` would have to be.
    Length(u32),
    /// To `ReadDir`: packed entries, to be walked with `MetaReply::dir_entries`; whether they are the last; how long
    /// attributes and names in them hold. There may be more of them than fit the kernel's buffer: those left out are
    /// asked for again by the last cookie used.
    Dir {
        /// The packed entries.
        entries: Vec<u8>,
        /// Nothing comes after them.
        last: bool,
        /// For each of them.
        ttl: Ttl,
    },
    /// To `StatFs`.
    StatFs(StatFs),
    /// To `Copy`: bytes copied.
    Copied(u64),
    /// To `Lseek`.
    Offset(u64),
    /// To `TestLock`; `None` when it would be granted.
    Lock(Option<LockConflict>),
    /// To what only succeeds or fails.
    Done,
}

/// What the core wants done, in this order.
#[derive(Debug)]
pub enum Output {
    /// An operation is over; the error is an errno.
    Reply {
        /// Which.
        op: OpId,
        /// How.
        result: Result<FsReply, i32>,
    },
    /// Connect to `address` (`HOST:PORT`), then tell `link_connected` or `link_connect_failed`.
    Connect {
        /// For this link.
        link: LinkId,
        /// Where.
        address: String,
        /// The local way to there may be tried first; then tell `link_connected_locally`.
        local: bool,
    },
    /// Send `head` and then the payload, after what was sent before. Nothing is reported when it is out.
    Send {
        /// On this link.
        link: LinkId,
        /// Header and body.
        head: Vec<u8>,
        /// These bytes of the slot.
        payload: Option<(SharedSlot, Range<usize>)>,
    },
    /// Close the connection (or give the attempt up), unsent bytes included; no event of it may be told any more.
    Close {
        /// Of this link.
        link: LinkId,
    },
    /// The kernel is to forget these inodes' attributes and all names, if `names`; then tell
    /// [`crate::ClientCore::kernel_forgot`], and again when it has dropped their pages as well.
    Forget {
        /// Comes back.
        id: u64,
        /// Which.
        inodes: Vec<Ino>,
        /// Names, too.
        names: bool,
    },
    /// Much of what was known is not any more: memory that was freed is to be given back to the system.
    TrimMemory,
    /// The cluster's map is known and its root is there: the mount may serve. Once.
    Ready,
    /// The mount cannot work, and why, for a person. Every operation gets EIO from here on.
    Failed {
        /// What failed, on what, why, and what to do.
        sentence: String,
    },
}
