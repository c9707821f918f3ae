//! What an operation and a request in progress remember.

use std::ops::Range;
use std::time::Duration;

use weft_iobuf::BufSlot;
use weft_wire::meta::{MetaReply, SetAttr};
use weft_wire::{ChunkPiece, Ino, Kind, LeaseBits, Status, TargetId, VolumeId};

use crate::allocate::Allocation;
use crate::copy::{CopyAsked, Source};
use crate::leases::Changes;
use crate::op::{Caller, DataPiece, FsOp, FsReply, Handle, LinkId, OpId, OpenFlags, Strips};
use crate::seek::Search;

/// The few errno values the core itself gives (Linux, generic ABI).
pub(crate) mod errno {
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const EINTR: i32 = 4;
    pub(crate) const EIO: i32 = 5;
    pub(crate) const ENXIO: i32 = 6;
    pub(crate) const E2BIG: i32 = 7;
    pub(crate) const EBADF: i32 = 9;
    pub(crate) const EAGAIN: i32 = 11;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const EFBIG: i32 = 27;
    pub(crate) const ENOSPC: i32 = 28;
    pub(crate) const ERANGE: i32 = 34;
    pub(crate) const ENOLCK: i32 = 37;
    pub(crate) const ENAMETOOLONG: i32 = 36;
    pub(crate) const ENODATA: i32 = 61;
    pub(crate) const EOPNOTSUPP: i32 = 95;
}

/// What a server said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    pub(crate) lease: LeaseBits,
    pub(crate) body: Vec<u8>,
    pub(crate) payload: Option<(BufSlot, Range<usize>)>,
}

impl Answer {
    /// What a volume said to a request of `kind`, or the errno.
    pub(crate) fn meta(&self, kind: Kind) -> Result<MetaReply, i32> {
        match self.status {
            Status::Ok => MetaReply::decode(kind, &self.body).map_err(|_| errno::EIO),
            status => Err(status.errno()),
        }
    }
}

/// A request at a link, or waiting for a slot.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) link: LinkId,
    pub(crate) kind: Kind,
    /// Set for changes: the volume whose slot it has or waits for.
    pub(crate) volume: Option<VolumeId>,
    pub(crate) purpose: Purpose,
    /// What it changes, if it does.
    pub(crate) changes: Option<Changes>,
}

/// Whom the answer is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Map,
    RootStat,
    Reopen(VolumeId),
    Reclaim(VolumeId),
    /// A change that only makes the session known.
    Known,
    /// The lease that writes wait for.
    Own {
        ino: Ino,
    },
    Op(OpId),
    List {
        op: OpId,
        dir: Ino,
    },
    /// The volume counts an open if this succeeds.
    Open(OpId),
    /// What a write takes away of its file first. It is done also when nobody waits for the write any more.
    Strip {
        op: OpId,
        ino: Ino,
    },
    /// `held`: the file is closed to reads and writes until the answer.
    SetAttr {
        op: OpId,
        ino: Ino,
        held: bool,
    },
    /// Nobody waits for it.
    SetAttrBehind {
        ino: Ino,
    },
    /// `op`: a direct write waits for it.
    Write {
        ino: Ino,
        id: u64,
        op: Option<OpId>,
    },
    Read {
        op: OpId,
        piece: usize,
    },
    Sync {
        ino: Ino,
        target: TargetId,
    },
    /// Of all files that linger.
    SyncClosed {
        target: TargetId,
    },
    /// A file that lingered and is to be written again.
    WhetherThere {
        ino: Ino,
    },
    /// The answer counts also when the operation is gone.
    Zero {
        op: OpId,
        ino: Ino,
    },
    /// The same of a piece of a copy, which ends at `end` of its destination.
    Copy {
        op: OpId,
        ino: Ino,
        source: Ino,
        end: u64,
    },
    Seek {
        op: OpId,
    },
    Wrote {
        ino: Ino,
    },
    /// A write that the volume takes.
    WriteData {
        ino: Ino,
        id: u64,
    },
    /// The data of a file in its inode.
    Data {
        ino: Ino,
    },
    /// A step of the data's way from the inode to its target.
    Move {
        ino: Ino,
        number: u64,
    },
    Release {
        ino: Ino,
        count: u32,
    },
    /// A replay of what nobody waits for.
    Unheard,
    /// The server shall know the session before this ticket is asked for.
    Register {
        ticket: u64,
    },
    Lock {
        ticket: u64,
    },
    LockCancel {
        ticket: u64,
    },
    LockEvents {
        volume: VolumeId,
    },
    LockClaim {
        volume: VolumeId,
    },
}

impl Purpose {
    /// The file, of a change that nobody need wait for ([`crate::behind`]).
    pub(crate) fn behind(self) -> Option<Ino> {
        match self {
            Purpose::SetAttrBehind { ino }
            | Purpose::Wrote { ino }
            | Purpose::WriteData { ino, .. } => Some(ino),
            _ => None,
        }
    }

    /// The operation that waits for the answer and ends without it when it is abandoned.
    pub(crate) fn op(self) -> Option<OpId> {
        match self {
            Purpose::Op(op)
            | Purpose::Open(op)
            | Purpose::List { op, .. }
            | Purpose::SetAttr { op, .. }
            | Purpose::Seek { op }
            | Purpose::Read { op, .. } => Some(op),
            _ => None,
        }
    }
}

/// An open file or directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandleState {
    pub(crate) ino: Ino,
    pub(crate) dir: bool,
    /// It may write: its close tells of failures. A program that only reads has lost nothing, and asks with an fsync if it
    /// wants to know. After a takeover that is not known, and taken to be so.
    pub(crate) writes: bool,
    /// Failures of the file reported to this handle, or from before it.
    pub(crate) errors_seen: u64,
    /// The operation that made it.
    pub(crate) made_by: u64,
    /// Its record.
    pub(crate) kept: Option<u32>,
}

impl HandleState {
    pub(crate) fn of_file(ino: Ino, writes: bool, errors_seen: u64) -> HandleState {
        HandleState { ino, dir: false, writes, errors_seen, made_by: 0, kept: None }
    }

    pub(crate) fn of_directory(ino: Ino) -> HandleState {
        HandleState { ino, dir: true, writes: false, errors_seen: 0, made_by: 0, kept: None }
    }
}

/// One operation of the kernel.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) caller: Caller,
    pub(crate) started: Duration,
    pub(crate) kind: OpKind,
    /// Requests whose answer it waits for.
    pub(crate) tags: Vec<u64>,
    /// Interrupted: when it ends with EINTR.
    pub(crate) patience_ends: Option<Duration>,
    /// Its record.
    pub(crate) kept: Option<u32>,
    /// What it is counted as.
    pub(crate) what: usize,
    /// What it is about, for the recorder.
    pub(crate) subject: crate::spans::Subject,
}

/// What a read asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadAsked {
    pub(crate) handle: Handle,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
}

/// One chunk's part of a read.
#[derive(Debug)]
pub(crate) struct ReadPiece {
    pub(crate) piece: ChunkPiece,
    /// Where its bytes are wanted.
    pub(crate) into: Option<BufSlot>,
    pub(crate) found: Option<Vec<DataPiece>>,
    pub(crate) retried: bool,
}

/// What an operation is at.
#[derive(Debug)]
pub(crate) enum OpKind {
    /// Waits for a lock, or for one to be given up.
    Lock { ticket: u64 },
    /// One metadata request; its kind says what to make of the answer.
    Meta { bytes_max: Option<u32>, name: Option<(Ino, Vec<u8>)> },
    /// The kernel asked for attributes, or changed an extended one, and is to forget pages before it is answered.
    Forgetting { reply: Option<Result<FsReply, i32>> },
    /// `Open` or `Make` is asked. `created` says which reply is due.
    Open { flags: OpenFlags, created: bool, name: Option<(Ino, Vec<u8>)> },
    /// A buffered write that waits for room or for the file's length to be settled.
    WriteWaiting {
        handle: Handle,
        offset: u64,
        data: Option<(BufSlot, Range<usize>)>,
        direct: bool,
        append: bool,
        strips: Strips,
    },
    /// A write whose pieces are out and that ends with them, or with `through` when the volume was told, too.
    WriteDirect { bytes: u32, left: usize, errno: i32, through: bool, set_ids: bool },
    /// Its pieces are at the targets; the volume is being told.
    WriteTold { ino: Ino, bytes: u32, tell: u64, set_ids: bool },
    /// A change of extended attributes that waits for those of attributes before it: an ACL is a mode, too.
    XattrWaiting(Option<FsOp>),
    /// Waits for the writes before it.
    ReadWaiting { asked: ReadAsked, into: Option<BufSlot>, barrier: u64, fresh: bool },
    /// Its pieces are out.
    Reading { asked: ReadAsked, ino: Ino, pieces: Vec<ReadPiece>, left: usize, errno: i32 },
    /// Flush and fsync: everything below `barrier` is to be acknowledged, told, and durable.
    Settle { handle: Handle, barrier: u64, durable: bool, tell: Option<u64>, ask: Option<u64> },
    /// copy_file_range that waits for its source.
    CopyWaiting(CopyAsked, Source),
    /// fallocate, and copy_file_range at its destination.
    Allocate(Allocation),
    /// lseek for data or a hole.
    Seek(Search),
    /// Everything below `barrier` first, then the change.
    /// `held`: it counts in [`crate::file::File::exclusive`].
    SetAttr {
        ino: Ino,
        set: SetAttr,
        barrier: u64,
        tell: Option<u64>,
        then: AfterSetAttr,
        held: bool,
        sent: bool,
    },
}

/// Which reply a `SetAttr` leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AfterSetAttr {
    /// Attributes.
    Attr,
    /// It was the truncation of an open; `created` as in [`OpKind::Open`].
    Opened { flags: OpenFlags, created: bool, parent: Option<Ino> },
}
