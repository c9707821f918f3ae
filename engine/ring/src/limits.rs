//! The limits of this crate, tied to each other and to the kernel's.

/// Most submission entries of one ring (`IORING_MAX_ENTRIES`).
pub const SQ_ENTRIES_MAX: u32 = 32 << 10;

/// Most operations in flight on one ring.
pub const OPS_MAX: u32 = 32 << 10;

/// Most registered files of one ring (`IORING_MAX_FIXED_FILES` is 1 Mi; the process's file limit
/// bites first).
pub const FILES_MAX: u32 = 64 << 10;

/// Most parts of one gathered send or write. Well below the kernel's `UIO_MAXIOV`, 1,024.
pub const SEND_PARTS_MAX: usize = 256;

/// Most completion entries of one ring (`IORING_MAX_CQ_ENTRIES`).
pub(crate) const CQ_ENTRIES_MAX: u32 = 64 << 10;

/// Longest single transfer: what fits the result and one call of the kernel (`MAX_RW_COUNT`).
pub(crate) const TRANSFER_BYTES_MAX: u32 = 0x7fff_f000;

/// Alignment below which O_DIRECT never goes: a short read that ends off it has met the end of
/// the file, and cannot be continued.
pub(crate) const SECTOR_BYTES: u32 = 512;

/// How long one round of draining waits before it cancels again.
pub(crate) const DRAIN_ROUND_MS: u32 = 20;

/// Longest time a dropped ring waits for the kernel.
pub(crate) const DRAIN_MS_MAX: u32 = 60_000;

/// Longest spin before sleeping that can be asked for, in microseconds.
pub const SPIN_US_MAX: u32 = 1_000;

// Each operation in flight owes one completion; the other half is for cancellations and repeated
// completions. More than that waits in the kernel (IORING_FEAT_NODROP), so it is never lost.
const _: () = assert!(OPS_MAX.is_power_of_two() && 2 * OPS_MAX <= CQ_ENTRIES_MAX);
const _: () = assert!(SQ_ENTRIES_MAX <= CQ_ENTRIES_MAX);
const _: () = assert!(SEND_PARTS_MAX <= 1024);
const _: () = assert!(weft_iobuf::REGION_BYTES_MAX <= TRANSFER_BYTES_MAX as usize);
