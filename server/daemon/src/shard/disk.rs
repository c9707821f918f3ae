//! The devices of a shard: what the store and the volume want done, as operations of the ring.

use weft_metadata::Action as VolumeAction;
use weft_ring::{Completion, Errno, FileId, Op};
use weft_store::{Action as StoreAction, IoDone, IoError, IoId};
use weft_wire::units::{to_u64, to_usize};

/// One target's two descriptors of the same file or device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TargetFiles {
    /// O_DIRECT: data goes past the page cache.
    pub(crate) direct: FileId,
    /// Buffered: the journal's records survive the death of this process in the page cache, and one fdatasync
    /// makes them and the data before them durable.
    pub(crate) buffered: FileId,
}

pub(super) struct Disks {
    pub(super) targets: Vec<TargetFiles>,
    pub(super) log: Option<FileId>,
}

impl Disks {
    /// The operation that carries a store's action out, and the store's name for it.
    pub(super) fn target_op(&self, index: usize, action: StoreAction) -> (IoId, Op) {
        let TargetFiles { direct, buffered } = self.targets[index];
        match action {
            StoreAction::ReadData { io, offset, buf, bytes } => {
                let range = 0..to_usize(u64::from(bytes));
                (io, Op::Read { file: direct, offset, buf, range })
            }
            StoreAction::WriteData { io, offset, buf, start, bytes } => {
                let start = to_usize(u64::from(start));
                let range = start..start + to_usize(u64::from(bytes));
                (io, Op::Write { file: direct, offset, buf, range })
            }
            StoreAction::AppendJournal { io, offset, bytes } => {
                (io, Op::WriteVec { file: buffered, offset, data: bytes, dsync: false })
            }
            StoreAction::Flush { io } => (io, Op::Fsync { file: buffered, datasync: true }),
            StoreAction::Reply { .. } | StoreAction::Stopped => {
                unreachable!("the core keeps what is not disk work")
            }
        }
    }

    /// The operation that carries the volume's action out.
    pub(super) fn log_op(&self, action: VolumeAction) -> (u64, Op) {
        let file = self.log.expect("only a shard with a volume has log work");
        match action {
            VolumeAction::AppendLog { io, offset, bytes } => {
                (io, Op::WriteVec { file, offset, data: bytes, dsync: true })
            }
            _ => unreachable!("the core keeps what is not log work"),
        }
    }
}

/// How a target's operation went, in the store's words.
pub(super) fn target_result(completion: Completion) -> Result<IoDone, IoError> {
    let wanted = match &completion.op {
        Op::Read { range, .. } | Op::Write { range, .. } => range.len(),
        Op::WriteVec { data, .. } => data.len(),
        _ => 0,
    };
    let short = matches!(completion.result, Ok(bytes) if u64::from(bytes) < to_u64(wanted));
    let buf = match completion.op {
        Op::Read { buf, .. } => Some(buf),
        _ => None,
    };
    match completion.result {
        Ok(_) if !short => Ok(IoDone { buf }),
        Ok(_) => Err(IoError { errno: Errno::IO.raw_os_error(), buf }),
        Err(errno) => Err(IoError { errno: errno.raw_os_error(), buf }),
    }
}

/// How a log write went.
pub(super) fn log_result(completion: &Completion) -> Result<(), i32> {
    completion.result.map(drop).map_err(|errno| errno.raw_os_error())
}
