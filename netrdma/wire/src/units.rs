//! Conversions between integer widths that hold by construction, in one place.

use std::time::Duration;

const _: () = assert!(usize::BITS == 64, "Weft runs on 64-bit machines only");

/// A `u64` as an index or length in memory. Lossless on the 64-bit machines Weft runs on.
#[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits, asserted above")]
pub const fn to_usize(value: u64) -> usize {
    value as usize
}

/// A length in memory as a `u64`. Lossless.
pub const fn to_u64(value: usize) -> u64 {
    value as u64
}

/// A time or a while in nanoseconds. A `u64` holds 584 years of them.
pub fn to_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A length in memory as a `u32`.
///
/// # Panics
/// If the caller's bound (every frame and slot is far below 4 GiB) does not hold: a bug of ours.
pub fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("frames, slots and chunks are bounded far below 4 GiB")
}
