//! Every bound of the volume, and how they hang together.

use weft_wire::limits::BODY_BYTES_MAX;

/// Granularity of the log: each append begins and ends at a multiple of this, so O_DIRECT is possible.
pub const LOG_BLOCK_BYTES: u32 = 4096;
/// Length of each of the log's two areas unless told otherwise.
pub const SEGMENT_BYTES_DEFAULT: u32 = 32 << 20;
/// Shortest area: half of it, and one batch of the longest command, fit.
pub const SEGMENT_BYTES_MIN: u32 = 1 << 20;
/// Longest area.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;
/// Commands between two checkpoints, unless told otherwise: bounds the replay and the open transaction, which while a
/// checkpoint is written only memory and the log's length bound.
pub const CHECKPOINT_COMMANDS_DEFAULT: u32 = 32_768;
/// Seconds between two checkpoints when anything changed, unless told otherwise.
pub const CHECKPOINT_SECONDS_DEFAULT: u32 = 30;
/// Address space (and longest file) of the database, unless told otherwise.
pub const MAP_BYTES_DEFAULT: u64 = 64 << 30;
/// Smallest database worth opening.
pub const MAP_BYTES_MIN: u64 = 4 << 20;
/// Part of the room for the database that commands which grow the namespace leave alone, as a divisor: the room to
/// delete in. No more than [`AHEAD_TXNS`] transactions need.
pub const RESERVE_DIVISOR: u64 = 8;
/// Room is set aside on the disk for so many transactions ahead. Two would do: pages a transaction frees are used again
/// by the one after the next.
pub const AHEAD_TXNS: u64 = 4;
/// What is set aside never leaves less than this part of itself free on the disk, as a divisor.
pub const OTHERS_DIVISOR: u64 = 4;
/// Least a transaction may change before a checkpoint is due, however little room there is.
pub const DIRTY_BYTES_MIN: u64 = 64 << 10;
/// What one command changes, as a rule: eight pages.
pub const COMMAND_DIRTY_BYTES: u64 = 32 << 10;
/// Fewest and most commands in a batch. A batch is applied as a whole, then a checkpoint may follow.
pub const BATCH_COUNT_MIN: u64 = 16;
/// See [`BATCH_COUNT_MIN`].
pub const BATCH_COUNT_MAX: u64 = 1024;
/// Batches on their way to the log at a time. All together they are bounded as one is.
pub const LOG_WRITES_MAX: usize = 2;
/// Inodes or works in one internal command.
pub const INTERNAL_LIST_MAX: usize = 256;
/// Names whose hash agrees in all but the low byte, in one directory.
pub const COLLISIONS_MAX: usize = 256;
/// Directories above one another that a rename looks through. A longer way up is a damaged tree.
pub const DEPTH_MAX: u32 = 1 << 20;

/// Memory of a volume, unless told otherwise.
pub const MEMORY_BYTES_DEFAULT: u64 = 64 << 20;
/// Least memory a volume works with.
pub const MEMORY_BYTES_MIN: u64 = 10 << 20;
/// LMDB's lists of changed and of free pages, at their longest, and what a checkpoint is written with.
pub const DATABASE_BYTES: u64 = 4 << 20;
/// What a command that waits for the log takes besides its body, here and in the server's tables.
pub const COMMAND_BYTES: u64 = 512;
/// An open inode of a session, which may have lost its last name.
pub const OPEN_BYTES: u64 = 144;
/// A work the targets are not done with, here and in the server's queue, with its layout; or an inode on its way out.
pub const REMOVAL_BYTES: u64 = 512;
/// A slot's last outcome besides its body.
pub const SLOT_BYTES: u64 = 320;
/// Sessions that expired and are remembered.
pub(crate) const ENDED_MAX: usize = 1024;
/// What one of them takes.
pub(crate) const ENDED_BYTES: u64 = 96;
/// Slots each session gets whatever the bound says: so each can go on.
pub const SLOTS_SURE: u16 = 4;

/// How a volume's memory is dealt out. What happens at each bound: `doc/bounds.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryShares {
    /// Pages changed since the last checkpoint. At the bound: a checkpoint.
    pub dirty_bytes: u64,
    /// Pages changed while those are written. At the bound batches wait for the checkpoint's end.
    pub meanwhile_bytes: u64,
    /// What a batch may change beyond either: it is applied as a whole.
    pub batch_dirty_bytes: u64,
    /// Commands that wait for the log. At the bound: `Busy`.
    pub pending_bytes: u64,
    /// Commands on their way to the log, and the same again encoded. At the bound: the next batch.
    pub batch_bytes: u64,
    /// Opens. At the bound an open is `Busy`.
    pub opens_bytes: u64,
    /// Works and inodes on their way out. At the bound a removal or a cut is `Busy`.
    pub removals_bytes: u64,
    /// Last outcomes of slots. At the bound a session's slots beyond the first [`SLOTS_SURE`] are `Busy`.
    pub slots_bytes: u64,
}

impl MemoryShares {
    /// Deals `memory_bytes` out; less than [`MEMORY_BYTES_MIN`] counts as that.
    pub fn new(memory_bytes: u64) -> MemoryShares {
        let sixteenth = (memory_bytes.max(MEMORY_BYTES_MIN) - DATABASE_BYTES) / 16;
        MemoryShares {
            dirty_bytes: 5 * sixteenth / 2,
            meanwhile_bytes: 3 * sixteenth / 2,
            batch_dirty_bytes: 3 * sixteenth / 2,
            pending_bytes: sixteenth,
            batch_bytes: sixteenth,
            opens_bytes: 4 * sixteenth,
            removals_bytes: sixteenth,
            slots_bytes: 2 * sixteenth,
        }
    }

    /// All of them, and LMDB's own: the most a volume takes.
    pub fn total_bytes(&self) -> u64 {
        DATABASE_BYTES
            + self.dirty_bytes
            + self.meanwhile_bytes
            + 2 * self.batch_dirty_bytes
            + self.pending_bytes
            + self.batch_bytes
            + self.opens_bytes
            + self.removals_bytes
            + self.slots_bytes
    }
}

/// The most memory a volume takes that was given `memory_bytes`.
pub fn memory_bytes_max(memory_bytes: u64) -> u64 {
    MemoryShares::new(memory_bytes).total_bytes()
}

const _: () = assert!(
    (MEMORY_BYTES_MIN - DATABASE_BYTES) / 16 >= BODY_BYTES_MAX as u64 + COMMAND_BYTES,
    "the longest command can wait"
);
const _: () = assert!(SEGMENT_BYTES_MIN.is_multiple_of(2 * LOG_BLOCK_BYTES));
const _: () = assert!(SEGMENT_BYTES_MIN / 2 >= BODY_BYTES_MAX + 2 * LOG_BLOCK_BYTES);
const _: () = assert!(3 * INTERNAL_LIST_MAX as u64 <= BATCH_COUNT_MAX);
const _: () = assert!(INTERNAL_LIST_MAX * 24 < BODY_BYTES_MAX as usize);
