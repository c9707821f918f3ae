//! A part of a file, stored to without system calls.
//!
//! What is stored is in the page cache at once: it survives the death of this process, and a later
//! fdatasync of the file makes it durable, as if it had been written. A store that the file cannot
//! take is an error here, as it is for `pwrite`.

use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::sigbus::Guard;

/// A shared map of `len_bytes` of a file; unmapped when dropped.
#[derive(Debug)]
pub struct FileMap {
    base: NonNull<u8>,
    len_bytes: usize,
    guard: Option<Guard>,
}

impl FileMap {
    /// Maps a part of a file or block device that is there; `offset` is a multiple of the page.
    ///
    /// # Errors
    /// The kernel's; `QuotaExceeded` beyond [`crate::FILE_MAPS_MAX`] maps.
    pub fn new(file: impl AsFd, offset: u64, len_bytes: usize) -> io::Result<FileMap> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: alive - a new range of the kernel's choosing, it replaces no mapping of ours;
        // until - the munmap in `drop`; alone - nobody else knows the address, and no reference
        // into it is ever made: others may write the file.
        let raw =
            unsafe { rustix::mm::mmap(ptr::null_mut(), len_bytes, prot, flags, file, offset) }?;
        let base = NonNull::new(raw.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut map = FileMap { base, len_bytes, guard: None };
        map.guard = Some(Guard::new(base.addr().get(), len_bytes)?);
        Ok(map)
    }

    /// Stores `bytes` at byte `at` of the map.
    ///
    /// # Errors
    /// EIO when the file could not take it, now or earlier: of what was stored since any of it may
    /// be missing, and the map is of no more use.
    ///
    /// # Panics
    /// When they do not lie within the map.
    pub fn store(&mut self, at: usize, bytes: &[u8]) -> Result<(), Errno> {
        let end = at.checked_add(bytes.len());
        assert!(end.is_some_and(|end| end <= self.len_bytes), "a store stays within its map");
        // SAFETY: alive - `at` is within the map, see above; until - `drop`, which takes `self`;
        // alone - an address only.
        let to = unsafe { self.base.add(at) };
        // SAFETY: alive - both ranges as above; until - the call; alone - `bytes` is a reference,
        // and there is none into the map, so they do not overlap.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        let faulted = self.guard.as_ref().is_none_or(Guard::has_faulted);
        if faulted { Err(Errno::IO) } else { Ok(()) }
    }
}

impl Drop for FileMap {
    fn drop(&mut self) {
        // First of all: another map may get the addresses.
        self.guard = None;
        // SAFETY: alive - mapped in `new`, unmapped only here; until, alone - nobody has a
        // reference or pointer into it.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len_bytes) };
        debug_assert!(unmapped.is_ok(), "a whole map of ours");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const PAGE: usize = 4096;

    fn file(pages: u64) -> std::fs::File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(pages * 4096).unwrap();
        file
    }

    #[test]
    fn what_is_stored_is_in_the_file() {
        let file = file(4);
        let mut map = FileMap::new(&file, 4096, 2 * PAGE).unwrap();
        map.store(PAGE - 3, b"record").unwrap();
        let mut found = [0; 6];
        file.read_exact_at(&mut found, 2 * 4096 - 3).unwrap();
        assert_eq!(&found, b"record");
        drop(map);
        file.read_exact_at(&mut found, 2 * 4096 - 3).unwrap();
        assert_eq!(&found, b"record");
    }

    #[test]
    fn a_page_the_file_no_longer_has_is_an_error_and_not_the_end() {
        let file = file(4);
        let mut map = FileMap::new(&file, 0, 4 * PAGE).unwrap();
        let mut other = FileMap::new(&file, 0, PAGE).unwrap();
        map.store(3 * PAGE, b"there").unwrap();
        file.set_len(4096).unwrap();
        assert_eq!(map.store(2 * PAGE, b"gone"), Err(Errno::IO));
        assert_eq!(map.store(0, b"too late"), Err(Errno::IO), "it is of no more use");
        other.store(0, b"fine").unwrap();
        drop(map);
        let mut found = [0; 4];
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(&found, b"fine");
    }
}
