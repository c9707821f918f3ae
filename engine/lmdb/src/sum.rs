//! The page checksum: XXH3, 64 bits, at the end of each page or overflow run.
//!
//! Eight bytes, not four: LMDB keeps page contents aligned to eight, and an overflow run may be
//! long. XXH3, not the CRC of wire and chunks: a get checks about four pages, and it is three to
//! four times faster on 4 KiB (`doc/checksums.md`). A page of zeros does not pass.

use crate::ffi::MdbVal;
use twox_hash::XxHash3_64;

pub(crate) const SUM_BYTES: u32 = 8;

pub(crate) fn of(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// `MDB_sum_func`: LMDB calls this for each page it writes to or reads from the file.
///
/// # Safety
/// `source` must describe readable bytes, `sum` eight writable ones apart from them.
pub(crate) unsafe extern "C" fn page(source: *const MdbVal, sum: *mut MdbVal, _: *const MdbVal) {
    // SAFETY: alive - LMDB passes a pointer to its own local; until - we return; alone - nobody
    // writes to it meanwhile.
    let source = unsafe { *source };
    // SAFETY: as for `source`.
    let sum = unsafe { *sum };
    // SAFETY: alive - a page in the map or in a buffer of the calling transaction; until - we
    // return; alone - only this process writes the file, and it is in this call. If the file was
    // cut short under us the bytes are zeros (see `sigbus`).
    let bytes = unsafe { std::slice::from_raw_parts(source.data.cast::<u8>(), source.size) };
    let value = of(bytes).to_ne_bytes();
    // SAFETY: alive, until, alone - LMDB gives SUM_BYTES writable bytes, as it was told to in
    // `mdb_env_set_checksum`; they do not overlap our local.
    unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), sum.data.cast::<u8>(), value.len()) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn zeros_do_not_sum_to_zero() {
        for bytes in [160, 4088, 8184] {
            assert_ne!(super::of(&vec![0; bytes]), 0);
        }
    }

    #[test]
    fn golden() {
        // The published XXH3 value of no bytes, and what pages in the field carry.
        assert_eq!(super::of(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(super::of(&[0; 4088]), 0xe9b8_8c5d_1696_0ee3);
    }
}
