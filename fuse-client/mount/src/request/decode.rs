//! From bytes to a [`Request`]: one function per shape of argument, one table of opcodes.

use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{
    CopyFileRange, FileHandle, ForgetList, Init, Ioctl, KernelTime, Lock, LockOwner, NodeId,
    Operation, Read, Release, Request, SetTime, Setattr, Unique, Write,
};
use crate::abi::flags::{self, fattr};
use crate::abi::input::{
    AccessIn, BatchForgetIn, BmapIn, CopyFileRangeIn, CreateIn, FallocateIn, FlushIn, ForgetIn,
    ForgetOne, FsyncIn, GetattrIn, GetxattrIn, InHeader, InitIn, InitInExt, InterruptIn, IoctlIn,
    LinkIn, LkIn, LseekIn, MkdirIn, MknodIn, OpenIn, PollIn, ReadIn, ReleaseIn, Rename2In,
    RenameIn, SetattrIn, SetxattrIn, SetxattrInExt, StatxIn, SyncfsIn, WriteIn,
};
use crate::abi::opcode;

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Shorter than its operation needs.
    Short,
    /// Its header's length is not the length that was read.
    Length,
    /// A name is empty, holds a `/`, or has no terminating NUL.
    Name,
    /// A field has a value the protocol does not allow.
    Value,
}

/// A request that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed FUSE request: {kind:?} (opcode {opcode}, unique {unique:?})")]
pub struct DecodeError {
    /// What is wrong.
    pub kind: Kind,
    /// The request's opcode, 0 when the header could not be read.
    pub opcode: u32,
    /// The request to answer, if the header could be read.
    pub unique: Option<Unique>,
}

impl DecodeError {
    /// What to reply, if there is anybody to reply to.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        Errno::IO
    }
}

/// The arguments after the header.
#[derive(Clone, Copy, Debug)]
pub enum Args<'a> {
    /// As read from /dev/fuse: the operation's struct, then names or data.
    Whole(&'a [u8]),
    /// As a ring entry has them: the operation's struct apart.
    Split {
        /// The struct, with room behind it.
        op_in: &'a [u8],
        /// Names or data.
        payload: &'a [u8],
    },
}

impl<'a> Args<'a> {
    fn head<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, Kind> {
        let from = match self {
            Self::Whole(bytes) => bytes,
            Self::Split { op_in, .. } => op_in,
        };
        let (value, rest) = T::read_from_prefix(from).map_err(|_| Kind::Short)?;
        *from = rest;
        Ok(value)
    }

    const fn rest(self) -> &'a [u8] {
        match self {
            Self::Whole(bytes) | Self::Split { payload: bytes, .. } => bytes,
        }
    }
}

/// Reads the header of a request from the start of `bytes`.
///
/// # Errors
/// [`Kind::Short`] when there is no whole header.
pub fn header(bytes: &[u8]) -> Result<InHeader, DecodeError> {
    let (header, _) = InHeader::read_from_prefix(bytes).map_err(|_| DecodeError {
        kind: Kind::Short,
        opcode: 0,
        unique: None,
    })?;
    Ok(header)
}

impl<'a> Request<'a> {
    /// Decodes one request as read from /dev/fuse: `bytes` is exactly what the read returned.
    ///
    /// # Errors
    /// What is wrong, and whom to answer.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let header = header(bytes)?;
        let fail =
            |kind| DecodeError { kind, opcode: header.opcode, unique: Some(Unique(header.unique)) };
        if usize::try_from(header.len) != Ok(bytes.len()) {
            return Err(fail(Kind::Length));
        }
        let body_at = size_of::<InHeader>();
        let extension_bytes = usize::from(header.total_extlen) * 8;
        let body_end = bytes.len().checked_sub(extension_bytes).ok_or(fail(Kind::Length))?;
        let body = bytes.get(body_at..body_end).ok_or(fail(Kind::Length))?;
        let mut request = Self::decode_args(&header, Args::Whole(body))?;
        if let Operation::Write(write) = &mut request.op {
            write.data = write.data.start + body_at..write.data.end + body_at;
        }
        Ok(request)
    }

    /// Decodes a request whose header and arguments lie apart, as in a ring entry. The range of a
    /// WRITE counts from the start of the payload (`Split`) or of the arguments (`Whole`).
    ///
    /// # Errors
    /// What is wrong, and whom to answer.
    pub fn decode_args(header: &InHeader, args: Args<'a>) -> Result<Self, DecodeError> {
        let unique = Unique(header.unique);
        let op = operation(header.opcode, args).map_err(|kind| DecodeError {
            kind,
            opcode: header.opcode,
            unique: Some(unique),
        })?;
        let (uid, gid, pid) = (header.uid, header.gid, header.pid);
        Ok(Self { unique, node: NodeId(header.nodeid), uid, gid, pid, op })
    }
}

fn operation(code: u32, args: Args<'_>) -> Result<Operation<'_>, Kind> {
    match code {
        opcode::LOOKUP
        | opcode::SYMLINK
        | opcode::MKNOD
        | opcode::MKDIR
        | opcode::UNLINK
        | opcode::RMDIR
        | opcode::RENAME
        | opcode::RENAME2
        | opcode::LINK
        | opcode::CREATE
        | opcode::TMPFILE => name_operation(code, args),
        opcode::SETXATTR | opcode::GETXATTR | opcode::LISTXATTR | opcode::REMOVEXATTR => {
            xattr_operation(code, args)
        }
        opcode::OPEN
        | opcode::OPENDIR
        | opcode::READ
        | opcode::READDIR
        | opcode::READDIRPLUS
        | opcode::WRITE
        | opcode::FLUSH
        | opcode::RELEASE
        | opcode::RELEASEDIR
        | opcode::FSYNC
        | opcode::FSYNCDIR
        | opcode::FALLOCATE
        | opcode::LSEEK
        | opcode::COPY_FILE_RANGE
        | opcode::COPY_FILE_RANGE_64 => file_operation(code, args),
        _ => node_operation(code, args),
    }
}

fn name_operation(code: u32, mut args: Args<'_>) -> Result<Operation<'_>, Kind> {
    Ok(match code {
        opcode::LOOKUP => Operation::Lookup { name: one_name(args)? },
        opcode::UNLINK => Operation::Unlink { name: one_name(args)? },
        opcode::RMDIR => Operation::Rmdir { name: one_name(args)? },
        opcode::SYMLINK => {
            let (name, rest) = name(args.rest())?;
            let (target, _) = c_string(rest)?;
            Operation::Symlink { name, target }
        }
        opcode::MKNOD => {
            let MknodIn { mode, rdev, umask, .. } = args.head()?;
            Operation::Mknod { name: one_name(args)?, mode, rdev, umask }
        }
        opcode::MKDIR => {
            let MkdirIn { mode, umask } = args.head()?;
            Operation::Mkdir { name: one_name(args)?, mode, umask }
        }
        opcode::RENAME => {
            let RenameIn { newdir } = args.head()?;
            rename(args, newdir, 0)?
        }
        opcode::RENAME2 => {
            let Rename2In { newdir, flags, .. } = args.head()?;
            rename(args, newdir, flags)?
        }
        opcode::LINK => {
            let LinkIn { oldnodeid } = args.head()?;
            Operation::Link { source: NodeId(oldnodeid), name: one_name(args)? }
        }
        opcode::TMPFILE => {
            // A name follows, but it is the kernel's placeholder "/": there is no name.
            let CreateIn { flags, mode, umask, .. } = args.head()?;
            Operation::Tmpfile { flags, mode, umask }
        }
        opcode::CREATE => {
            let CreateIn { flags, mode, umask, open_flags } = args.head()?;
            let kill_suidgid = open_flags & flags::OPEN_KILL_SUIDGID != 0;
            Operation::Create { name: one_name(args)?, flags, mode, umask, kill_suidgid }
        }
        opcode => Operation::Unknown { opcode },
    })
}

fn xattr_operation(code: u32, mut args: Args<'_>) -> Result<Operation<'_>, Kind> {
    Ok(match code {
        opcode::SETXATTR => setxattr(args)?,
        opcode::GETXATTR => {
            let GetxattrIn { size, .. } = args.head()?;
            Operation::Getxattr { name: xattr_name(args)?.0, len_bytes: size }
        }
        opcode::LISTXATTR => {
            let GetxattrIn { size, .. } = args.head()?;
            Operation::Listxattr { len_bytes: size }
        }
        opcode::REMOVEXATTR => Operation::Removexattr { name: xattr_name(args)?.0 },
        opcode => Operation::Unknown { opcode },
    })
}

fn file_operation(code: u32, mut args: Args<'_>) -> Result<Operation<'_>, Kind> {
    Ok(match code {
        opcode::OPEN => {
            let OpenIn { flags, open_flags } = args.head()?;
            Operation::Open { flags, kill_suidgid: open_flags & flags::OPEN_KILL_SUIDGID != 0 }
        }
        opcode::OPENDIR => Operation::Opendir { flags: args.head::<OpenIn>()?.flags },
        opcode::READ => Operation::Read(read(args)?),
        opcode::READDIR => Operation::Readdir(read(args)?),
        opcode::READDIRPLUS => Operation::Readdirplus(read(args)?),
        opcode::WRITE => Operation::Write(write(args)?),
        opcode::FLUSH => {
            let FlushIn { fh, lock_owner, .. } = args.head()?;
            Operation::Flush { fh: FileHandle(fh), lock_owner: LockOwner(lock_owner) }
        }
        opcode::RELEASE => Operation::Release(release(args)?),
        opcode::RELEASEDIR => Operation::Releasedir(release(args)?),
        opcode::FSYNC => {
            let (fh, datasync) = fsync(args)?;
            Operation::Fsync { fh, datasync }
        }
        opcode::FSYNCDIR => {
            let (fh, datasync) = fsync(args)?;
            Operation::Fsyncdir { fh, datasync }
        }
        opcode::FALLOCATE => {
            let FallocateIn { fh, offset, length, mode, .. } = args.head()?;
            Operation::Fallocate { fh: FileHandle(fh), offset, len_bytes: length, mode }
        }
        opcode::LSEEK => {
            let LseekIn { fh, offset, whence, .. } = args.head()?;
            Operation::Lseek { fh: FileHandle(fh), offset, whence }
        }
        opcode::COPY_FILE_RANGE => Operation::CopyFileRange(copy_file_range(args, false)?),
        opcode::COPY_FILE_RANGE_64 => Operation::CopyFileRange(copy_file_range(args, true)?),
        opcode => Operation::Unknown { opcode },
    })
}

fn node_operation(code: u32, mut args: Args<'_>) -> Result<Operation<'_>, Kind> {
    Ok(match code {
        opcode::INIT => Operation::Init(init(args)?),
        opcode::DESTROY => Operation::Destroy,
        opcode::FORGET => Operation::Forget { lookup_count: args.head::<ForgetIn>()?.nlookup },
        opcode::BATCH_FORGET => Operation::BatchForget(batch_forget(args)?),
        opcode::GETATTR => {
            let GetattrIn { getattr_flags, fh, .. } = args.head()?;
            Operation::Getattr { fh: file_handle_if(getattr_flags & flags::GETATTR_FH, fh) }
        }
        opcode::SETATTR => Operation::Setattr(setattr(args)?),
        opcode::READLINK => Operation::Readlink,
        opcode::STATFS => Operation::Statfs,
        opcode::GETLK => Operation::Getlk(lock(args)?),
        opcode::SETLK => Operation::Setlk(lock(args)?),
        opcode::SETLKW => Operation::Setlkw(lock(args)?),
        opcode::ACCESS => Operation::Access { mask: args.head::<AccessIn>()?.mask },
        opcode::INTERRUPT => {
            Operation::Interrupt { target: Unique(args.head::<InterruptIn>()?.unique) }
        }
        opcode::BMAP => {
            let BmapIn { block, blocksize, .. } = args.head()?;
            Operation::Bmap { block, block_bytes: blocksize }
        }
        opcode::IOCTL => Operation::Ioctl(ioctl(args)?),
        opcode::POLL => {
            let PollIn { fh, kh, flags, events } = args.head()?;
            Operation::Poll { fh: FileHandle(fh), kh, flags, events }
        }
        opcode::SYNCFS => {
            let SyncfsIn { .. } = args.head()?;
            Operation::Syncfs
        }
        opcode::STATX => {
            let StatxIn { getattr_flags, fh, sx_flags, sx_mask, .. } = args.head()?;
            let fh = file_handle_if(getattr_flags & flags::GETATTR_FH, fh);
            Operation::Statx { fh, flags: sx_flags, mask: sx_mask }
        }
        opcode => Operation::Unknown { opcode },
    })
}

fn init(mut args: Args<'_>) -> Result<Init, Kind> {
    let InitIn { major, minor, max_readahead, flags } = args.head()?;
    let mut all_flags = u64::from(flags);
    if all_flags & flags::init::INIT_EXT != 0 {
        let ext: InitInExt = args.head()?;
        all_flags |= u64::from(ext.flags2) << 32;
    }
    Ok(Init { major, minor, max_readahead_bytes: max_readahead, flags: all_flags })
}

fn batch_forget(mut args: Args<'_>) -> Result<ForgetList<'_>, Kind> {
    let BatchForgetIn { count, .. } = args.head()?;
    let len = to_usize(count).checked_mul(size_of::<ForgetOne>()).ok_or(Kind::Value)?;
    let items = args.rest().get(..len).ok_or(Kind::Short)?;
    Ok(ForgetList { items })
}

pub(super) fn forget_one(bytes: &[u8]) -> (NodeId, u64) {
    let one = ForgetOne::read_from_bytes(bytes).expect("chunks_exact gives chunks of this length");
    (NodeId(one.nodeid), one.nlookup)
}

fn setattr(mut args: Args<'_>) -> Result<Setattr, Kind> {
    let raw: SetattrIn = args.head()?;
    let has = |bit: u32| raw.valid & bit != 0;
    let set_time = |bit, now_bit, seconds, nanoseconds| {
        Ok(if has(now_bit) {
            Some(SetTime::Now)
        } else if has(bit) {
            Some(SetTime::At(kernel_time(seconds, nanoseconds)?))
        } else {
            None
        })
    };
    Ok(Setattr {
        fh: file_handle_if(raw.valid & fattr::FH, raw.fh),
        mode: has(fattr::MODE).then_some(raw.mode),
        uid: has(fattr::UID).then_some(raw.uid),
        gid: has(fattr::GID).then_some(raw.gid),
        len_bytes: has(fattr::SIZE).then_some(raw.size),
        atime: set_time(fattr::ATIME, fattr::ATIME_NOW, raw.atime, raw.atimensec)?,
        mtime: set_time(fattr::MTIME, fattr::MTIME_NOW, raw.mtime, raw.mtimensec)?,
        ctime: if has(fattr::CTIME) { Some(kernel_time(raw.ctime, raw.ctimensec)?) } else { None },
        lock_owner: has(fattr::LOCKOWNER).then_some(LockOwner(raw.lock_owner)),
        kill_suidgid: has(fattr::KILL_SUIDGID),
    })
}

const fn kernel_time(seconds: u64, nanoseconds: u32) -> Result<KernelTime, Kind> {
    if nanoseconds > 999_999_999 {
        return Err(Kind::Value);
    }
    Ok(KernelTime { seconds: seconds.cast_signed(), nanoseconds })
}

fn read(mut args: Args<'_>) -> Result<Read, Kind> {
    let raw: ReadIn = args.head()?;
    Ok(Read {
        fh: FileHandle(raw.fh),
        offset: raw.offset,
        len_bytes: raw.size,
        file_flags: raw.flags,
        lock_owner: (raw.read_flags & flags::READ_LOCKOWNER != 0)
            .then_some(LockOwner(raw.lock_owner)),
    })
}

fn write(mut args: Args<'_>) -> Result<Write, Kind> {
    let raw: WriteIn = args.head()?;
    let start = match args {
        Args::Whole(_) => size_of::<WriteIn>(),
        Args::Split { .. } => 0,
    };
    // More than the data would mean that the two lengths disagree: which is right cannot be known.
    match args {
        Args::Whole(data) if data.len() != to_usize(raw.size) => return Err(Kind::Length),
        Args::Split { payload, .. } if payload.len() < to_usize(raw.size) => {
            return Err(Kind::Short);
        }
        _ => {}
    }
    Ok(Write {
        fh: FileHandle(raw.fh),
        offset: raw.offset,
        data: start..start + to_usize(raw.size),
        from_cache: raw.write_flags & flags::WRITE_CACHE != 0,
        kill_suidgid: raw.write_flags & flags::WRITE_KILL_SUIDGID != 0,
        lock_owner: (raw.write_flags & flags::WRITE_LOCKOWNER != 0)
            .then_some(LockOwner(raw.lock_owner)),
        file_flags: raw.flags,
    })
}

fn release(mut args: Args<'_>) -> Result<Release, Kind> {
    let raw: ReleaseIn = args.head()?;
    Ok(Release {
        fh: FileHandle(raw.fh),
        file_flags: raw.flags,
        flush: raw.release_flags & flags::RELEASE_FLUSH != 0,
        flock_unlock: raw.release_flags & flags::RELEASE_FLOCK_UNLOCK != 0,
        lock_owner: LockOwner(raw.lock_owner),
    })
}

fn fsync(mut args: Args<'_>) -> Result<(FileHandle, bool), Kind> {
    let FsyncIn { fh, fsync_flags, .. } = args.head()?;
    Ok((FileHandle(fh), fsync_flags & flags::FSYNC_FDATASYNC != 0))
}

fn lock(mut args: Args<'_>) -> Result<Lock, Kind> {
    let raw: LkIn = args.head()?;
    if raw.lk.start > raw.lk.end {
        return Err(Kind::Value);
    }
    Ok(Lock {
        fh: FileHandle(raw.fh),
        owner: LockOwner(raw.owner),
        start: raw.lk.start,
        end: raw.lk.end,
        kind: raw.lk.kind,
        pid: raw.lk.pid,
        flock: raw.lk_flags & flags::LK_FLOCK != 0,
    })
}

fn ioctl(mut args: Args<'_>) -> Result<Ioctl<'_>, Kind> {
    let raw: IoctlIn = args.head()?;
    let data = args.rest().get(..to_usize(raw.in_size)).ok_or(Kind::Short)?;
    Ok(Ioctl {
        fh: FileHandle(raw.fh),
        flags: raw.flags,
        cmd: raw.cmd,
        arg: raw.arg,
        data,
        out_bytes_max: raw.out_size,
    })
}

fn copy_file_range(mut args: Args<'_>, wide_reply: bool) -> Result<CopyFileRange, Kind> {
    let raw: CopyFileRangeIn = args.head()?;
    Ok(CopyFileRange {
        fh_in: FileHandle(raw.fh_in),
        offset_in: raw.off_in,
        node_out: NodeId(raw.nodeid_out),
        fh_out: FileHandle(raw.fh_out),
        offset_out: raw.off_out,
        len_bytes: raw.len,
        flags: raw.flags,
        wide_reply,
    })
}

fn rename(args: Args<'_>, newdir: u64, flags: u32) -> Result<Operation<'_>, Kind> {
    let (old, rest) = name(args.rest())?;
    let (new_name, _) = name(rest)?;
    Ok(Operation::Rename { name: old, new_parent: NodeId(newdir), new_name, flags })
}

fn one_name(args: Args<'_>) -> Result<&[u8], Kind> {
    name(args.rest()).map(|(name, _)| name)
}

/// With `SETXATTR_EXT` the head has 8 bytes more. Who takes a mount over does not know what was agreed on; but no request
/// with the long head has the length of one with the short head, as its bytes 8 to 15 hold no name. Over the ring nobody
/// takes over, and every kernel with it has the long head.
fn setxattr(mut args: Args<'_>) -> Result<Operation<'_>, Kind> {
    let SetxattrIn { size, flags } = args.head()?;
    let size = to_usize(size);
    if let Args::Whole(bytes) = args
        && let Ok((name, value)) = xattr_name(Args::Whole(bytes))
        && value.len() == size
    {
        return Ok(Operation::Setxattr { name, value, flags, kill_setgid: None });
    }
    let SetxattrInExt { setxattr_flags, padding } = args.head()?;
    if setxattr_flags & !flags::SETXATTR_ACL_KILL_SGID != 0 || padding != 0 {
        return Err(Kind::Value);
    }
    let kill_setgid = Some(setxattr_flags & flags::SETXATTR_ACL_KILL_SGID != 0);
    let (name, rest) = xattr_name(args)?;
    let value = rest.get(..size).ok_or(Kind::Short)?;
    Ok(Operation::Setxattr { name, value, flags, kill_setgid })
}

fn xattr_name(args: Args<'_>) -> Result<(&[u8], &[u8]), Kind> {
    let (name, rest) = c_string(args.rest())?;
    if name.is_empty() { Err(Kind::Name) } else { Ok((name, rest)) }
}

fn name(bytes: &[u8]) -> Result<(&[u8], &[u8]), Kind> {
    let (name, rest) = c_string(bytes)?;
    if name.is_empty() || name.contains(&b'/') { Err(Kind::Name) } else { Ok((name, rest)) }
}

fn c_string(bytes: &[u8]) -> Result<(&[u8], &[u8]), Kind> {
    let nul = bytes.iter().position(|&byte| byte == 0).ok_or(Kind::Name)?;
    let (string, rest) = bytes.split_at(nul);
    Ok((string, rest.get(1..).unwrap_or_default()))
}

fn file_handle_if(bit: u32, fh: u64) -> Option<FileHandle> {
    (bit != 0).then_some(FileHandle(fh))
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).expect("Weft runs on 64-bit machines")
}
