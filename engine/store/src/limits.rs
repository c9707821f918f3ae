//! The limits of this crate, tied to each other.

use std::time::Duration;

use weft_wire::blocks::BLOCK_BYTES;
use weft_wire::limits::PAYLOAD_BYTES_MAX;

/// A block as a device offset.
pub(crate) const BLOCK: u64 = BLOCK_BYTES as u64;

/// Blocks of the longest chunk.
pub(crate) const CHUNK_BLOCKS_MAX: u32 = PAYLOAD_BYTES_MAX / BLOCK_BYTES;

/// Where the journal area begins: what lies between it and the superblock is reserved.
pub(crate) const JOURNAL_OFFSET: u64 = 1 << 20;

/// Journal area, both segments together: a 64th of the device within these bounds.
pub(crate) const JOURNAL_BYTES_MIN: u64 = 4 << 20;
/// See [`JOURNAL_BYTES_MIN`].
pub(crate) const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// One part of the device in so many is journal.
pub(crate) const JOURNAL_SHARE: u64 = 64;

/// Smallest device: the fixed areas and some data.
pub const CAPACITY_BYTES_MIN: u64 = 8 << 20;

/// A flush waits for writes up to this length (64 KiB) that were on the device when it was asked for.
pub(crate) const GATHER_BYTES_MAX: u32 = 64 << 10;
/// But no longer than this, and a tick.
pub(crate) const HOLD_MAX: Duration = Duration::from_millis(2);

/// Writes that ended and are kept for their memory, and runs of the longest of these: 0.5 MiB in all.
pub(crate) const SPARE_WRITES_MAX: usize = 128;
/// See [`SPARE_WRITES_MAX`].
pub(crate) const SPARE_RUNS_MAX: usize = 32;

/// Longest record: its header, a body of single-block runs and their checksums.
pub(crate) const RECORD_BYTES_MAX: u64 = 64 + 40 + (16 + 4) * CHUNK_BLOCKS_MAX as u64;

/// What one operation may append: its intent, the copy of that in the next segment, its record,
/// and the marks of the flushes it asks for.
pub(crate) const fn journal_bytes_of_op(block_count: u32) -> u64 {
    3 * (64 + 40 + (16 + 4) * block_count as u64) + 4 * 64
}

/// Journal bytes no operation may reserve: segment start, marks of checkpoints.
pub(crate) const JOURNAL_HEADROOM_BYTES: u64 = 64 << 10;

/// Reads of the journal and of suspect blocks at open.
pub(crate) const SCAN_BYTES: usize = 1 << 20;

/// Largest order of an extent: a whole chunk.
pub(crate) const ORDER_MAX: u32 = CHUNK_BLOCKS_MAX.trailing_zeros();

/// A first write gets room to grow: an extent this many times as long, when there is one.
pub(crate) const GROWTH: u32 = 16;
/// No more room to grow than this many blocks (1 MiB, the default chunk).
pub(crate) const GROWTH_BLOCKS_MAX: u32 = 256;

/// Blocks kept for rewriting partly covered blocks elsewhere when the device is otherwise full.
pub(crate) const RESERVE_BLOCKS_MAX: u64 = 64;

/// Chunks that one search for data or a hole looks at: a few milliseconds.
pub(crate) const SEEK_CHUNKS_MAX: u32 = 1024;

/// Changed records that go into a checkpoint in one call of the store, some 40 us; fewer where fewer begin one.
pub(crate) const PUTS_PER_CALL: u32 = 16;

/// Most chunks that go in one step of a removal, a millisecond or so; fewer where fewer changed ones begin a checkpoint.
pub(crate) const REMOVE_CHUNKS_MAX: u64 = 256;

/// Blocks of one step of the scrub (256 KiB): what a client's operation may have to wait behind.
pub(crate) const SCRUB_READ_BLOCKS: u32 = 64;
/// Damaged blocks that are listed by name; more are counted.
pub(crate) const DAMAGES_MAX: usize = 4096;

/// Freed blocks are discarded in ranges that begin and end at a multiple of this (64 KiB): what is
/// smaller waits until its neighbours are free.
pub(crate) const DISCARD_ALIGN_BLOCKS: u64 = 16;
/// Longest range of one discard (32 MiB): so much cannot be given out meanwhile.
pub(crate) const DISCARD_BLOCKS_MAX: u64 = 8192;
/// One discard at a time, and so long between two: at most 1.6 GiB/s.
pub(crate) const DISCARD_PAUSE: Duration = Duration::from_millis(20);
/// The same for what was free when the target was opened: at most 160 MiB/s, behind what is freed.
pub(crate) const DISCARD_PAUSE_OLD: Duration = Duration::from_millis(200);
/// Groups looked at for one discard.
pub(crate) const DISCARD_GROUPS_MAX: u32 = 4096;

/// Address space for an index is reserved at open, and may be the smallest part of a target that
/// grows: records take at most a 200th of the data.
pub(crate) const GROW_INDEX_FACTOR_MAX: u64 = 64;
/// Address space of the smallest index.
pub(crate) const INDEX_BYTES_MIN: u64 = 16 << 30;

const _: () = assert!(DISCARD_BLOCKS_MAX.is_multiple_of(DISCARD_ALIGN_BLOCKS));
const _: () = assert!(JOURNAL_OFFSET.is_multiple_of(DISCARD_ALIGN_BLOCKS * BLOCK));

/// Pages of the index a changed chunk changes besides its record, as a rule: two.
pub(crate) const CHUNK_DIRTY_BYTES: u64 = 8 << 10;
/// An index of whose file no more than one page in so many is in use has room within: then runs of free pages are longer
/// than the longest record on average, wherever the pages in use lie.
pub(crate) const SPARSE_DIVISOR: u64 = 8;
/// Room on the index's disk that writes leave for removals: a part of the device's length in so many.
pub(crate) const INDEX_HEADROOM_SHARE: u64 = 256;
/// See [`INDEX_HEADROOM_SHARE`].
pub(crate) const INDEX_HEADROOM_BYTES_MIN: u64 = 256 << 10;
/// See [`INDEX_HEADROOM_SHARE`].
pub(crate) const INDEX_HEADROOM_BYTES_MAX: u64 = 32 << 20;

const _: () = assert!(JOURNAL_OFFSET.is_multiple_of(BLOCK));
const _: () = assert!(CAPACITY_BYTES_MIN >= JOURNAL_OFFSET + JOURNAL_BYTES_MIN + 2 * BLOCK);
const _: () = assert!(
    journal_bytes_of_op(CHUNK_BLOCKS_MAX) + JOURNAL_HEADROOM_BYTES < JOURNAL_BYTES_MIN / 4,
    "several of the longest operations fit half a segment"
);
const _: () = assert!(CHUNK_BLOCKS_MAX.is_power_of_two());
const _: () = assert!(RECORD_BYTES_MAX < SCAN_BYTES as u64);
