//! The limits of this crate, tied to each other.

/// Smallest slot, and the unit of the arena: one page, one store block.
pub const CLASS_BYTES_MIN: usize = 4 << 10;

/// Largest slot unless the caller asks otherwise: one huge page.
pub const CLASS_BYTES_DEFAULT: usize = 2 << 20;

/// Largest range the kernel registers as one fixed buffer (`io_uring/rsrc.c`: 1 GiB), and so the
/// largest class: a slot lies within one region.
pub const REGION_BYTES_MAX: usize = 1 << 30;

/// Largest arena. Keeps page numbers within `u32` with room to spare.
pub const ARENA_BYTES_MAX: usize = 1 << 40;

/// Huge page of x86-64 and of aarch64 with 4 KiB pages: what the arena is aligned to.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Buddy orders there can be: `CLASS_BYTES_MIN << order`.
pub(crate) const ORDER_COUNT_MAX: usize =
    (REGION_BYTES_MAX / CLASS_BYTES_MIN).trailing_zeros() as usize + 1;

/// Maps of files in one process at a time: one for each target.
pub const FILE_MAPS_MAX: usize = 512;

const _: () = assert!(CLASS_BYTES_MIN.is_power_of_two());
const _: () = assert!(CLASS_BYTES_DEFAULT.is_power_of_two());
const _: () = assert!(CLASS_BYTES_DEFAULT <= REGION_BYTES_MAX);
const _: () = assert!(REGION_BYTES_MAX.is_multiple_of(HUGE_PAGE_BYTES));
const _: () = assert!(ARENA_BYTES_MAX / CLASS_BYTES_MIN < u32::MAX as usize);
const _: () = assert!(ORDER_COUNT_MAX <= u32::BITS as usize);
