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
/// Commands that may wait for the log. Beyond it a change is answered `Busy`.
pub const PENDING_COUNT_MAX: usize = 16_384;
/// Bytes of bodies that may wait for the log. Beyond it a change is answered `Busy`.
pub const PENDING_BYTES_MAX: usize = 16 << 20;
/// Commands between two checkpoints, unless told otherwise: bounds the replay and the open transaction.
pub const CHECKPOINT_COMMANDS_DEFAULT: u32 = 32_768;
/// Seconds between two checkpoints when anything changed, unless told otherwise.
pub const CHECKPOINT_SECONDS_DEFAULT: u32 = 30;
/// Address space (and longest file) of the database, unless told otherwise.
pub const MAP_BYTES_DEFAULT: u64 = 64 << 30;
/// Smallest database worth opening.
pub const MAP_BYTES_MIN: u64 = 4 << 20;
/// Part of the map that commands which grow the namespace leave alone, as a divisor.
pub const RESERVE_DIVISOR: u64 = 8;
/// Part of the map one transaction may make dirty before a checkpoint is due, as a divisor.
pub const DIRTY_DIVISOR: u64 = 32;
/// Inodes or works in one internal command.
pub const INTERNAL_LIST_MAX: usize = 1024;
/// Names whose hash agrees in all but the low byte, in one directory.
pub const COLLISIONS_MAX: usize = 256;
/// Directories above one another that a rename looks through. A longer way up is a damaged tree.
pub const DEPTH_MAX: u32 = 1 << 20;

const _: () = assert!(SEGMENT_BYTES_MIN.is_multiple_of(2 * LOG_BLOCK_BYTES));
const _: () = assert!(SEGMENT_BYTES_MIN / 2 >= BODY_BYTES_MAX + 2 * LOG_BLOCK_BYTES);
const _: () = assert!(RESERVE_DIVISOR * 2 <= DIRTY_DIVISOR);
const _: () = assert!(INTERNAL_LIST_MAX * 8 < BODY_BYTES_MAX as usize);
