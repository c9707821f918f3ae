//! What the store asks of its shard, and what it answers.

use weft_iobuf::{BufSlot, SharedSlot};
use weft_lmdb::{Commit, Written};
use weft_wire::Status;

/// One I/O under way. Each is completed exactly once, by [`crate::Store::io_done`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IoId(pub u64);

/// What is to be done. I/Os may run and complete in any order.
#[derive(Debug)]
pub enum Action {
    /// Read `bytes` at device byte `offset` to the start of `buf`. Whole blocks, O_DIRECT.
    ReadData {
        /// Names the completion.
        io: IoId,
        /// From the device's start, in bytes.
        offset: u64,
        /// Where to; comes back in the completion.
        buf: BufSlot,
        /// How many.
        bytes: u32,
    },
    /// Write `bytes` of `buf` from `start` on to device byte `offset`. Whole blocks, O_DIRECT.
    WriteData {
        /// Names the completion.
        io: IoId,
        /// From the device's start, in bytes.
        offset: u64,
        /// What to write; drop it with the completion.
        buf: SharedSlot,
        /// First byte in `buf`, a multiple of 4 KiB.
        start: u32,
        /// How many.
        bytes: u32,
    },
    /// Write all of `bytes` at device byte `offset`, whole pages, through the page cache: journal
    /// records, and superblocks of a target that grows.
    /// Complete when the kernel has them all; a short write is an error.
    AppendJournal {
        /// Names the completion.
        io: IoId,
        /// From the device's start, in bytes.
        offset: u64,
        /// What to write.
        bytes: Vec<u8>,
        /// So many bytes at their start an earlier append put there already.
        settled_bytes: usize,
        /// So many bytes behind them hold nothing: zeros may be written there ahead of need.
        room_bytes: u64,
    },
    /// Make every write to the device that was completed before now durable (fdatasync).
    Flush {
        /// Names the completion.
        io: IoId,
    },
    /// What lies in this range is not needed any more (punch a hole that reads as anything). A
    /// failure does no harm: the store asks no more.
    Discard {
        /// Names the completion.
        io: IoId,
        /// From the device's start, in bytes: a multiple of 64 KiB.
        offset: u64,
        /// How many: a multiple of 64 KiB, at most 32 MiB.
        bytes: u64,
    },
    /// Complete this at the next turn, after what came meanwhile: the store has more to do than one call should take.
    GoOn {
        /// Names the completion.
        io: IoId,
    },
    /// Have this written, on whatever thread may wait for a disk, then call [`crate::Store::checkpoint_written`]. One at
    /// a time.
    WriteCheckpoint(Checkpoint),
    /// The operation `op` ended.
    Reply {
        /// As given with the operation.
        op: u64,
        /// How it ended.
        result: Result<Outcome, Status>,
    },
    /// After [`crate::Store::shutdown`]: nothing is under way and everything is in the index.
    Stopped,
}

/// What a checkpoint has to write to the index. Dropped, it is as if the process had died: the store waits for it.
#[derive(Debug)]
pub struct Checkpoint(pub(crate) Commit);

/// A checkpoint whose writing is over.
#[derive(Debug)]
pub struct CheckpointWritten(pub(crate) Written);

impl Checkpoint {
    /// Writes it and makes it durable: blocks for as long as the disk takes.
    pub fn write(self) -> CheckpointWritten {
        CheckpointWritten(self.0.write())
    }

    /// As [`Checkpoint::write`] on a disk that refuses it with `errno`: for simulated disks.
    pub fn refuse(self, errno: i32) -> CheckpointWritten {
        CheckpointWritten(self.0.refuse(errno))
    }
}

/// A completed I/O: a read gives its buffer back.
#[derive(Debug, Default)]
pub struct IoDone {
    /// The buffer of a read.
    pub buf: Option<BufSlot>,
    /// What an append wrote, for its memory, if the caller still has it.
    pub bytes: Option<Vec<u8>>,
}

/// A failed I/O. A short read or write counts as one.
#[derive(Debug)]
pub struct IoError {
    /// What the kernel said.
    pub errno: i32,
    /// The buffer of a read.
    pub buf: Option<BufSlot>,
}

/// What an operation came to.
#[derive(Debug)]
pub enum Outcome {
    /// Blocks `first_block..first_block + sums.len()`; those of the range beyond them were never
    /// written.
    Read {
        /// First block, counted in the chunk.
        first_block: u32,
        /// CRC32C of each block.
        sums: Vec<u32>,
        /// The blocks, in order.
        pieces: Vec<ReadPiece>,
    },
    /// The bytes are there, and survive the death of this process.
    Written {
        /// Blocks of it that were never written before.
        added_count: u32,
    },
    /// The blocks are as if never written.
    Punched {
        /// Blocks of them that were written.
        freed_count: u32,
    },
    /// Everything acknowledged before is durable.
    Synced,
    /// The chunks are gone, and the cut chunk ends where it should.
    Truncated {
        /// Blocks that went.
        freed_count: u64,
    },
    /// The target has this length, durably.
    Grown {
        /// Bytes of the device in use before.
        before_bytes: u64,
        /// And now.
        capacity_bytes: u64,
    },
}

/// Some blocks of a read.
#[derive(Debug)]
pub enum ReadPiece {
    /// The first `bytes` of a slot.
    Data {
        /// Holds the blocks.
        slot: BufSlot,
        /// Length of the blocks.
        bytes: u32,
    },
    /// Blocks that were never written, between written ones.
    Zeros {
        /// Length of the blocks.
        bytes: u32,
    },
}

impl ReadPiece {
    /// Length of the piece.
    pub fn bytes(&self) -> u32 {
        match self {
            ReadPiece::Data { bytes, .. } | ReadPiece::Zeros { bytes } => *bytes,
        }
    }
}
