//! Between the kernel's numbers and the core's operations: no state, no I/O.
//!
//! Directories: `.` and `..` are made here, at offsets 0 and 1; the core's cookies follow and are larger than both.

use std::ops::Range;

use rustix::fs::OFlags;
use rustix::io::Errno;
use weft_client_core::{
    Caller, DataPiece, FsOp, FsReply, Handle, LockAsked, OpenFlags, Opened, Strips, Ttl, Whence,
};
use weft_wire::Ino;
use weft_wire::locks::{LockConflict, LockKind, LockOwner, LockRange, LockSpace, LockTest};
use weft_wire::meta::{
    Attr, FileKind, MetaReply, SetAttr, Time, TimeSet, XATTR_CLEAR_SETGID, XATTR_KEEP_SETGID,
};
use weft_wire::units::{to_u32, to_usize};

use crate::abi::flags::fopen;
use crate::abi::input::FileLock;
use crate::abi::output;
use crate::reply::{DirBuffer, DirEntry, Entry, ReplyHead};
use crate::request::{
    FileHandle, KernelTime, Lock, NodeId, Operation, Request, SetTime, Setattr, Unique,
};
use crate::transport::{Incoming, Reply};

/// Offset of `..` in a directory, and so the one after `.`.
const OFFSET_DOT_DOT: u64 = 1;
/// Offset after `..`: the core's entries begin.
const OFFSET_ENTRIES: u64 = 2;
/// `d_ino` of `..`: not known here, as in libfuse (`FUSE_UNKNOWN_INO`).
const INO_UNKNOWN: u64 = 0xffff_ffff;
/// Block size that `stat` shows, and that the page cache works in.
const BLOCK_BYTES: u32 = 4096;
/// Unit of `st_blocks`.
const SECTOR_BYTES: u64 = 512;
/// The attributes a statx reply has: the basic ones and the birth time.
const STATX_MASK: u32 = 0x0fff;

/// What a reply needs to know of its request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// A listing: with attributes or not, how long, from where.
    Dir { node: u64, plus: bool, bytes_max: u32, offset: u64 },
    /// A COPY_FILE_RANGE whose reply counts in 64 bits.
    CopiedWide,
    /// A GETATTR that came as STATX.
    Statx,
    /// A write to a file opened with O_SYNC or O_DSYNC: it is made durable before its reply.
    SyncAfter { handle: Handle },
    /// The sync of such a write.
    WrittenAndSynced { bytes: u32 },
    /// A flush: the process that closed a descriptor gives its byte-range locks of the file up.
    UnlockAfter { ino: Ino, handle: Handle, owner: LockOwner },
    /// That unlock, and how the flush ended.
    Unlocked { flushed: Result<(), i32> },
}

/// An operation for the core, complete but for a write's data, which stays in the request's slot.
#[derive(Debug)]
pub(super) enum Translated {
    Op(FsOp),
    Write { write: FsWrite, data: Range<usize> },
}

/// A write but for its data.
#[derive(Debug)]
pub(super) struct FsWrite {
    handle: Handle,
    offset: u64,
    direct: bool,
    append: bool,
    strips: Strips,
}

impl Translated {
    /// Completes it with the data of the request it was translated from.
    pub(super) fn with_data_of(self, incoming: Incoming) -> FsOp {
        match self {
            Translated::Op(op) => op,
            Translated::Write { write, data } => {
                let FsWrite { handle, offset, direct, append, strips } = write;
                let (slot, start) = incoming.into_slot().expect("a write's data is in a slot");
                let data = (slot, start + data.start..start + data.end);
                FsOp::Write { handle, offset, data, direct, append, strips }
            }
        }
    }
}

pub(super) fn caller(request: &Request<'_>) -> Caller {
    Caller { uid: request.uid, gid: request.gid, pid: request.pid }
}

/// What the kernel asks, in the core's words; or the errno that says we have no such operation.
#[allow(clippy::too_many_lines, reason = "one flat table of operations reads best whole")]
pub(super) fn operation(request: &Request<'_>) -> Result<(Translated, Option<Shape>), Errno> {
    let ino = Ino(request.node.0);
    let mut shape = None;
    let op = match &request.op {
        Operation::Lookup { name } => FsOp::Lookup { parent: ino, name: name.to_vec() },
        Operation::Getattr { fh } => FsOp::GetAttr { ino, handle: fh.map(handle) },
        Operation::Statx { fh, .. } => {
            shape = Some(Shape::Statx);
            FsOp::GetAttr { ino, handle: fh.map(handle) }
        }
        Operation::Setattr(set) => {
            FsOp::SetAttr { ino, set: set_attr(set), handle: set.fh.map(handle) }
        }
        Operation::Readlink => FsOp::ReadLink { ino },
        Operation::Symlink { name, target } => {
            let mode = FileKind::Symlink.mode_bits() | 0o777;
            make(ino, name, (mode, 0), 0, target)
        }
        Operation::Mknod { name, mode, rdev, umask } => {
            // mknod(2) without a type makes a regular file.
            let kind = FileKind::from_mode(*mode).unwrap_or(FileKind::Regular).mode_bits();
            make(ino, name, (kind | mode & 0o7777, *umask), *rdev, &[])
        }
        Operation::Mkdir { name, mode, umask } => {
            let mode = FileKind::Directory.mode_bits() | mode & 0o7777;
            make(ino, name, (mode, *umask), 0, &[])
        }
        Operation::Unlink { name } => FsOp::Unlink { parent: ino, name: name.to_vec() },
        Operation::Rmdir { name } => FsOp::Rmdir { parent: ino, name: name.to_vec() },
        Operation::Rename { name, new_parent, new_name, flags } => FsOp::Rename {
            parent: ino,
            name: name.to_vec(),
            new_parent: Ino(new_parent.0),
            new_name: new_name.to_vec(),
            flags: *flags,
        },
        Operation::Link { source, name } => {
            FsOp::Link { ino: Ino(source.0), parent: ino, name: name.to_vec() }
        }
        Operation::Open { flags, .. } => FsOp::Open { ino, flags: open_flags(*flags) },
        Operation::Create { name, flags, mode, umask, .. } => FsOp::Create {
            parent: ino,
            name: name.to_vec(),
            mode: FileKind::Regular.mode_bits() | mode & 0o7777,
            umask: umask & 0o777,
            flags: open_flags(*flags),
        },
        Operation::Tmpfile { flags, mode, umask } => FsOp::Tmpfile {
            parent: ino,
            mode: FileKind::Regular.mode_bits() | mode & 0o7777,
            umask: umask & 0o777,
            flags: open_flags(*flags),
        },
        Operation::Read(read) => FsOp::Read {
            handle: handle(read.fh),
            offset: read.offset,
            bytes: read.len_bytes,
            into: None,
        },
        Operation::Write(write) => {
            let flags = file_flags(write.file_flags);
            let handle = handle(write.fh);
            // O_SYNC contains O_DSYNC's bit.
            shape = flags.contains(OFlags::DSYNC).then_some(Shape::SyncAfter { handle });
            let direct = flags.contains(OFlags::DIRECT);
            // Pages written back lie where they are.
            let append = flags.contains(OFlags::APPEND) && !write.from_cache;
            // Past its cache the kernel says whether the program may keep setuid; through it, it has taken that away
            // where it knew of it. What another mount gave the file it does not know, nor tell who may keep it.
            let set_ids = !write.from_cache && (write.kill_suidgid || request.uid != 0);
            let strips = Strips { capabilities: !write.from_cache, set_ids };
            let whole = FsWrite { handle, offset: write.offset, direct, append, strips };
            return Ok((Translated::Write { write: whole, data: write.data.clone() }, shape));
        }
        Operation::Statfs => FsOp::StatFs,
        Operation::Release(release) => FsOp::Release { handle: handle(release.fh) },
        Operation::Fsync { fh, datasync } => {
            FsOp::Fsync { handle: handle(*fh), datasync: *datasync }
        }
        Operation::Setxattr { name, value, flags, kill_setgid } => {
            let flags = flags | set_gid_flag(name, *kill_setgid);
            FsOp::SetXattr { ino, name: name.to_vec(), value: value.to_vec(), flags }
        }
        Operation::Getxattr { name, len_bytes } => {
            FsOp::GetXattr { ino, name: name.to_vec(), bytes_max: *len_bytes }
        }
        Operation::Listxattr { len_bytes } => FsOp::ListXattr { ino, bytes_max: *len_bytes },
        Operation::Removexattr { name } => FsOp::RemoveXattr { ino, name: name.to_vec() },
        Operation::Flush { fh, lock_owner } => {
            let (handle, owner) =
                (handle(*fh), LockOwner { space: LockSpace::Range, id: lock_owner.0 });
            shape = Some(Shape::UnlockAfter { ino, handle, owner });
            FsOp::Flush { handle }
        }
        Operation::Getlk(lock) => {
            let kind = lock_kind(lock.kind)?.ok_or(Errno::INVAL)?;
            let LockAsked { owner, range, .. } = lock_asked(ino, lock, false)?;
            FsOp::TestLock(LockTest { ino, owner, range, kind })
        }
        Operation::Setlk(lock) => FsOp::Lock(lock_asked(ino, lock, false)?),
        Operation::Setlkw(lock) => FsOp::Lock(lock_asked(ino, lock, true)?),
        Operation::Opendir { .. } => FsOp::OpenDir { ino },
        Operation::Readdir(read) | Operation::Readdirplus(read) => {
            let plus = matches!(request.op, Operation::Readdirplus(_));
            let (offset, bytes_max) = (read.offset, read.len_bytes);
            shape = Some(Shape::Dir { node: ino.0, plus, bytes_max, offset });
            let cookie = if offset <= OFFSET_ENTRIES { 0 } else { offset };
            FsOp::ReadDir { handle: handle(read.fh), cookie, bytes_max, plus }
        }
        Operation::Releasedir(release) => FsOp::ReleaseDir { handle: handle(release.fh) },
        Operation::Fsyncdir { fh, datasync } => {
            FsOp::FsyncDir { handle: handle(*fh), datasync: *datasync }
        }
        Operation::Fallocate { fh, offset, len_bytes, mode } => {
            FsOp::Fallocate { handle: handle(*fh), offset: *offset, bytes: *len_bytes, mode: *mode }
        }
        Operation::Lseek { fh, offset, whence } => {
            FsOp::Lseek { handle: handle(*fh), offset: *offset, whence: seek_from(*whence)? }
        }
        Operation::CopyFileRange(copy) => {
            if copy.flags != 0 {
                return Err(Errno::INVAL);
            }
            shape = copy.wide_reply.then_some(Shape::CopiedWide);
            FsOp::Copy {
                source: handle(copy.fh_in),
                from: copy.offset_in,
                handle: handle(copy.fh_out),
                to: copy.offset_out,
                bytes: copy.len_bytes,
                // The kernel has taken away what it knew of: as of a write through its cache.
                set_ids: request.uid != 0,
            }
        }
        Operation::Ioctl(_) => return Err(Errno::NOTTY),
        _ => return Err(Errno::NOSYS),
    };
    Ok((Translated::Op(op), shape))
}

fn make(parent: Ino, name: &[u8], (mode, umask): (u32, u32), rdev: u32, target: &[u8]) -> FsOp {
    let (name, umask) = (name.to_vec(), umask & 0o777);
    FsOp::Make { parent, name, mode, umask, rdev, target: target.to_vec() }
}

/// Of an ACL: what the kernel found about the caller's groups.
fn set_gid_flag(name: &[u8], kill: Option<bool>) -> u32 {
    match kill.filter(|_| name.starts_with(b"system.posix_acl_")) {
        Some(true) => XATTR_CLEAR_SETGID,
        Some(false) => XATTR_KEEP_SETGID,
        None => 0,
    }
}

/// What F_RDLCK, F_WRLCK and F_UNLCK are, generic ABI.
fn lock_kind(kind: u32) -> Result<Option<LockKind>, Errno> {
    match kind {
        0 => Ok(Some(LockKind::Shared)),
        1 => Ok(Some(LockKind::Exclusive)),
        2 => Ok(None),
        _ => Err(Errno::INVAL),
    }
}

fn lock_asked(ino: Ino, lock: &Lock, wait: bool) -> Result<LockAsked, Errno> {
    let (space, range) = match lock.flock {
        true => (LockSpace::Flock, Some(LockRange::ALL)),
        false => (LockSpace::Range, LockRange::new(lock.start, lock.end)),
    };
    Ok(LockAsked {
        ino,
        handle: handle(lock.fh),
        owner: LockOwner { space, id: lock.owner.0 },
        pid: lock.pid,
        range: range.ok_or(Errno::INVAL)?,
        kind: lock_kind(lock.kind)?,
        wait,
    })
}

/// The unlock that follows a flush.
pub(super) fn unlock(ino: Ino, handle: Handle, owner: LockOwner) -> FsOp {
    let (pid, range, kind, wait) = (0, LockRange::ALL, None, false);
    FsOp::Lock(LockAsked { ino, handle, owner, pid, range, kind, wait })
}

/// The lock in the way, as the kernel wants it told.
fn file_lock(conflict: Option<LockConflict>) -> FileLock {
    let Some(LockConflict { range, kind, pid }) = conflict else {
        return FileLock { start: 0, end: 0, kind: 2, pid: 0 };
    };
    let kind = match kind {
        LockKind::Shared => 0,
        LockKind::Exclusive => 1,
    };
    FileLock { start: range.start, end: range.end.min(i64::MAX.cast_unsigned()), kind, pid }
}

fn handle(fh: FileHandle) -> Handle {
    Handle(fh.0)
}

fn file_flags(flags: u32) -> OFlags {
    OFlags::from_bits_retain(flags)
}

fn open_flags(flags: u32) -> OpenFlags {
    let flags = file_flags(flags);
    OpenFlags {
        write: flags.intersects(OFlags::WRONLY | OFlags::RDWR),
        truncate: flags.contains(OFlags::TRUNC),
        exclusive: flags.contains(OFlags::EXCL),
        direct: flags.contains(OFlags::DIRECT),
        append: flags.contains(OFlags::APPEND),
    }
}

fn seek_from(whence: u32) -> Result<Whence, Errno> {
    match whence {
        0 => Ok(Whence::Set),
        2 => Ok(Whence::End),
        3 => Ok(Whence::Data),
        4 => Ok(Whence::Hole),
        _ => Err(Errno::INVAL),
    }
}

fn set_attr(set: &Setattr) -> SetAttr {
    let time = |time: SetTime| match time {
        SetTime::Now => TimeSet::Now,
        SetTime::At(KernelTime { seconds, nanoseconds }) => {
            TimeSet::To(Time { seconds, nanos: nanoseconds })
        }
    };
    SetAttr {
        mode: set.mode.map(|mode| mode & 0o7777),
        uid: set.uid,
        gid: set.gid,
        size: set.len_bytes,
        atime: set.atime.map(time),
        mtime: set.mtime.map(time),
        ctime: None,
    }
}

/// A reply for the kernel.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: ReplyHead,
    pub(super) payload: Payload,
}

#[derive(Debug)]
pub(super) enum Payload {
    None,
    Bytes(Vec<u8>),
    Pieces(Vec<DataPiece>),
}

impl Payload {
    fn bytes(&self) -> u32 {
        to_u32(match self {
            Payload::None => 0,
            Payload::Bytes(bytes) => bytes.len(),
            Payload::Pieces(pieces) => pieces.iter().map(DataPiece::bytes).sum(),
        })
    }

    /// Appends it behind the head.
    pub(super) fn push_to(self, reply: &mut Reply) {
        let parts = reply.payload();
        match self {
            Payload::None => {}
            Payload::Bytes(bytes) => parts.push_vec(bytes),
            Payload::Pieces(pieces) => {
                for piece in pieces {
                    match piece {
                        DataPiece::Bytes(bytes) => parts.push_vec(bytes),
                        DataPiece::Zeros(count) => parts.push_vec(vec![0; count]),
                        DataPiece::Slot(slot, range) => {
                            let pushed = parts.push_shared(slot, range);
                            assert!(pushed.is_ok(), "the core names ranges within its slots");
                        }
                    }
                }
            }
        }
    }
}

/// What the core says, in the kernel's words.
pub(super) fn answer(unique: Unique, reply: FsReply, shape: Option<Shape>) -> Answer {
    let head = match reply {
        FsReply::Entry(attr, ttl) => ReplyHead::entry(unique, &entry(&attr, ttl)),
        FsReply::Attr(attr, ttl) if matches!(shape, Some(Shape::Statx)) => {
            ReplyHead::statx(unique, &statx(&attr), ttl.attr)
        }
        FsReply::Attr(attr, ttl) => ReplyHead::attr(unique, &kernel_attr(&attr), ttl.attr),
        FsReply::Created(attr, ttl, opened) => {
            let (fh, flags) = open_answer(&opened);
            ReplyHead::create(unique, &entry(&attr, ttl), fh, flags)
        }
        FsReply::Opened(opened) => {
            let (fh, flags) = open_answer(&opened);
            ReplyHead::open(unique, fh, flags)
        }
        FsReply::Data(pieces) => return with_payload(unique, Payload::Pieces(pieces)),
        FsReply::Bytes(bytes) => return with_payload(unique, Payload::Bytes(bytes)),
        FsReply::Dir { entries, ttl, .. } => {
            return with_payload(unique, Payload::Bytes(listing(&entries, ttl, shape)));
        }
        FsReply::Written(bytes) => ReplyHead::write(unique, bytes),
        FsReply::Copied(bytes) if matches!(shape, Some(Shape::CopiedWide)) => {
            ReplyHead::copied(unique, bytes)
        }
        FsReply::Copied(bytes) => ReplyHead::write(
            unique,
            u32::try_from(bytes).expect("the core copies far less at once"),
        ),
        FsReply::Length(bytes) => ReplyHead::xattr_len(unique, bytes),
        FsReply::StatFs(fs) => ReplyHead::statfs(unique, &kernel_statfs(&fs)),
        FsReply::Offset(offset) => ReplyHead::lseek(unique, offset),
        FsReply::Lock(conflict) => ReplyHead::lock(unique, file_lock(conflict)),
        FsReply::Done => match shape {
            Some(Shape::WrittenAndSynced { bytes }) => ReplyHead::write(unique, bytes),
            _ => ReplyHead::empty(unique),
        },
    };
    Answer { head, payload: Payload::None }
}

fn with_payload(unique: Unique, payload: Payload) -> Answer {
    Answer { head: ReplyHead::data(unique, payload.bytes()), payload }
}

fn open_answer(opened: &Opened) -> (FileHandle, u32) {
    let mut flags = 0;
    if opened.keep_cache {
        flags |= fopen::KEEP_CACHE;
    }
    if opened.append {
        // Only we know where the file ends, so the kernel must not keep what it thinks is there.
        flags |= fopen::DIRECT_IO;
    }
    if opened.direct {
        // Without the page cache between, writes to one file need not wait for each other.
        flags |= fopen::DIRECT_IO | fopen::PARALLEL_DIRECT_WRITES;
    }
    (FileHandle(opened.handle.0), flags)
}

fn entry(attr: &Attr, ttl: Ttl) -> Entry {
    Entry {
        node: NodeId(attr.ino.0),
        generation: 0, // inode numbers are never used again
        attr: kernel_attr(attr),
        attr_timeout: ttl.attr,
        entry_timeout: ttl.entry,
    }
}

fn kernel_attr(attr: &Attr) -> output::Attr {
    output::Attr {
        ino: attr.ino.0,
        size: attr.size,
        blocks: sectors(attr),
        atime: attr.atime.seconds.cast_unsigned(),
        mtime: attr.mtime.seconds.cast_unsigned(),
        ctime: attr.ctime.seconds.cast_unsigned(),
        atimensec: attr.atime.nanos,
        mtimensec: attr.mtime.nanos,
        ctimensec: attr.ctime.nanos,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn sectors(attr: &Attr) -> u64 {
    match attr.kind() {
        FileKind::Regular => attr.blocks.saturating_mul(u64::from(BLOCK_BYTES) / SECTOR_BYTES),
        _ => 0,
    }
}

fn statx(attr: &Attr) -> output::Statx {
    let time =
        |time: Time| output::SxTime { tv_sec: time.seconds, tv_nsec: time.nanos, reserved: 0 };
    output::Statx {
        mask: STATX_MASK,
        blksize: BLOCK_BYTES,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        mode: u16::try_from(attr.mode & 0xffff).expect("masked to 16 bits"),
        ino: attr.ino.0,
        size: attr.size,
        blocks: sectors(attr),
        atime: time(attr.atime),
        btime: time(attr.btime),
        ctime: time(attr.ctime),
        mtime: time(attr.mtime),
        // As in new_decode_dev: 12 bits of major, 20 of minor around it.
        rdev_major: attr.rdev >> 8 & 0xfff,
        rdev_minor: attr.rdev & 0xff | attr.rdev >> 12 & 0xf_ff00,
        ..output::Statx::default()
    }
}

fn kernel_statfs(fs: &weft_wire::meta::StatFs) -> output::Kstatfs {
    let block = u64::from(BLOCK_BYTES);
    output::Kstatfs {
        blocks: fs.total_bytes / block,
        bfree: fs.free_bytes / block,
        bavail: fs.free_bytes / block,
        files: fs.inodes + fs.inodes_free,
        ffree: fs.inodes_free,
        bsize: BLOCK_BYTES,
        namelen: to_u32(weft_wire::limits::NAME_BYTES_MAX),
        frsize: BLOCK_BYTES,
        ..output::Kstatfs::default()
    }
}

/// Packs a page of a directory into what the kernel asked for; what does not fit it asks for again.
fn listing(packed: &[u8], ttl: Ttl, shape: Option<Shape>) -> Vec<u8> {
    let Some(Shape::Dir { node, plus, bytes_max, offset }) = shape else {
        unreachable!("a listing's shape is kept until its reply")
    };
    let mut out = vec![0; to_usize(u64::from(bytes_max))];
    let mut buffer = DirBuffer::new(&mut out);
    let dots: [(u64, u64, &[u8]); 2] =
        [(OFFSET_DOT_DOT, node, b"."), (OFFSET_ENTRIES, INO_UNKNOWN, b"..")];
    let mut fits = true;
    for (next_offset, ino, name) in dots {
        if offset < next_offset && fits {
            let mode = FileKind::Directory.mode_bits();
            fits = push(&mut buffer, plus, &DirEntry { ino, next_offset, mode, name }, None);
        }
    }
    for found in MetaReply::dir_entries(packed) {
        let Ok(found) = found else {
            tracing::error!(node, "a directory page that cannot be read: it is cut short");
            break;
        };
        let mode = found.kind.mode_bits();
        let (ino, next_offset) = (found.ino.0, found.cookie);
        let known = found.attr.map(|attr| entry(&attr, ttl));
        let dirent = DirEntry { ino, next_offset, mode, name: found.name };
        if !fits || !push(&mut buffer, plus, &dirent, known.as_ref()) {
            break;
        }
    }
    let len_bytes = buffer.len_bytes();
    out.truncate(len_bytes);
    out
}

fn push(
    buffer: &mut DirBuffer<'_>,
    plus: bool,
    dirent: &DirEntry<'_>,
    known: Option<&Entry>,
) -> bool {
    if plus { buffer.push_plus(dirent, known) } else { buffer.push(dirent) }
}
