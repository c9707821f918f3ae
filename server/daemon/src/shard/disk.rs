//! The volume's log: what the volume wants done, as operations of the ring.

use weft_iobuf::Pool;
use weft_metadata::Action as VolumeAction;
use weft_ring::{Completion, FileId, Op};

/// The two descriptors of the volume's log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogFiles {
    /// O_DIRECT and O_DSYNC: a batch is one write to the device, durable when it completes. Through the page cache it
    /// would wait in a worker thread of the ring, two wake-ups more.
    pub(crate) direct: FileId,
    /// For when no slot is free.
    pub(crate) buffered: FileId,
}

impl LogFiles {
    /// The operation that carries the volume's action out.
    pub(super) fn log_op(&self, action: VolumeAction, pool: &Pool) -> (u64, Op) {
        let VolumeAction::AppendLog { io, offset, bytes } = action else {
            unreachable!("the core keeps what is not log work")
        };
        let Some(mut slot) = pool.alloc(bytes.len()) else {
            return (io, Op::WriteVec { file: self.buffered, offset, data: bytes, dsync: true });
        };
        slot.as_mut_slice()[..bytes.len()].copy_from_slice(&bytes);
        let range = 0..bytes.len();
        (io, Op::Write { file: self.direct, offset, buf: slot.share(), range })
    }
}

/// How a log write went.
pub(super) fn log_result(completion: &Completion) -> Result<(), i32> {
    completion.result.map(drop).map_err(|errno| errno.raw_os_error())
}
