//! Memory of a file, mapped: what is written outlives the process.

use std::os::fd::BorrowedFd;
use std::slice;

use crate::arena::Arena;
use crate::error::{IobufError, Kind};
use crate::limits::CLASS_BYTES_MIN;

/// `len_bytes` of a file (a memfd), to be read and written in place.
///
/// Only one process may have it at a time; others read the file with `pread`.
#[derive(Debug)]
pub struct Mapped {
    arena: Arena,
}

impl Mapped {
    /// Maps the file from its start. It must be that long, and no other process may write there while it is mapped.
    ///
    /// # Errors
    /// [`Kind::ArenaBytes`]: not whole pages. [`Kind::Map`]: the kernel refused.
    pub fn new(file: BorrowedFd<'_>, len_bytes: usize) -> Result<Mapped, IobufError> {
        let refused =
            |kind, source| IobufError { kind, op: "map a file", bytes: len_bytes, source };
        if len_bytes == 0 || !len_bytes.is_multiple_of(CLASS_BYTES_MIN) {
            return Err(refused(Kind::ArenaBytes, None));
        }
        Arena::map_file(file, 0, len_bytes, CLASS_BYTES_MIN)
            .map(|arena| Mapped { arena })
            .map_err(|source| refused(Kind::Map, Some(source)))
    }

    /// All of it.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: alive - the mapping lives as long as `self`; until - the borrow; alone - this process has one
        // mapping, `&self` keeps writers out, and no other process writes, as documented.
        unsafe { slice::from_raw_parts(self.arena.base().as_ptr(), self.arena.len_bytes()) }
    }

    /// All of it, to write.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: alive - as in `as_slice`; until - the borrow; alone - `&mut self` keeps every other reference out.
        unsafe { slice::from_raw_parts_mut(self.arena.base().as_ptr(), self.arena.len_bytes()) }
    }
}
