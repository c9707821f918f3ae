//! The devices of a shard: what the store and the volume want done, as operations of the ring.

use std::os::fd::AsFd;

use weft_iobuf::Pool;
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

/// The two descriptors of the volume's log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogFiles {
    /// O_DIRECT and O_DSYNC: a batch is one write to the device, durable when it completes. Through the page cache it
    /// would wait in a worker thread of the ring, two wake-ups more.
    pub(crate) direct: FileId,
    /// For when no slot is free.
    pub(crate) buffered: FileId,
}

pub(super) struct Disks {
    pub(super) targets: Vec<TargetFiles>,
    pub(super) log: Option<LogFiles>,
}

/// What a store's action is to the daemon.
pub(super) enum DiskWork {
    /// An operation of the ring.
    Ring(IoId, Op),
    /// A write into the page cache, to be done at once.
    Append { io: IoId, file: FileId, offset: u64, bytes: Vec<u8> },
}

impl Disks {
    /// What carries a store's action out.
    pub(super) fn target_work(&self, index: usize, action: StoreAction) -> DiskWork {
        let TargetFiles { direct, buffered } = self.targets[index];
        match action {
            StoreAction::ReadData { io, offset, buf, bytes } => {
                let range = 0..to_usize(u64::from(bytes));
                DiskWork::Ring(io, Op::Read { file: direct, offset, buf, range })
            }
            StoreAction::WriteData { io, offset, buf, start, bytes } => {
                let start = to_usize(u64::from(start));
                let range = start..start + to_usize(u64::from(bytes));
                DiskWork::Ring(io, Op::Write { file: direct, offset, buf, range })
            }
            StoreAction::AppendJournal { io, offset, bytes } => {
                DiskWork::Append { io, file: buffered, offset, bytes }
            }
            StoreAction::Flush { io } => {
                DiskWork::Ring(io, Op::Fsync { file: buffered, datasync: true })
            }
            StoreAction::Reply { .. } | StoreAction::Stopped => {
                unreachable!("the core keeps what is not disk work")
            }
        }
    }

    /// The operation that carries the volume's action out.
    pub(super) fn log_op(&self, action: VolumeAction, pool: &Pool) -> (u64, Op) {
        let files = self.log.expect("only a shard with a volume has log work");
        let VolumeAction::AppendLog { io, offset, bytes } = action else {
            unreachable!("the core keeps what is not log work")
        };
        let Some(mut slot) = pool.alloc(bytes.len()) else {
            return (io, Op::WriteVec { file: files.buffered, offset, data: bytes, dsync: true });
        };
        slot.as_mut_slice()[..bytes.len()].copy_from_slice(&bytes);
        let range = 0..bytes.len();
        (io, Op::Write { file: files.direct, offset, buf: slot.share(), range })
    }
}

/// Writes a journal record into the page cache. A copy of a few pages, which takes microseconds; the ring would hand it
/// to a worker thread (ext4 does not write without blocking), two wake-ups of 35 us.
pub(super) fn append(
    device: impl AsFd,
    mut offset: u64,
    mut bytes: &[u8],
) -> Result<IoDone, IoError> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(&device, bytes, offset) {
            Ok(0) => return Err(IoError { errno: Errno::IO.raw_os_error(), buf: None }),
            Ok(written) => {
                offset += to_u64(written);
                bytes = &bytes[written..];
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(IoError { errno: errno.raw_os_error(), buf: None }),
        }
    }
    Ok(IoDone::default())
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
