//! The mapping: one aligned range, anonymous or of a file, unmapped when dropped.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Zeroed memory, or that of a file: `len_bytes` from `base`, for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Arena {
    base: NonNull<u8>,
    len_bytes: usize,
    huge_pages: bool,
}

impl Arena {
    /// Maps `len_bytes` (a multiple of `align_bytes`, which is a power of two and at least a page),
    /// aligned, and advises huge pages. A kernel without huge pages is not an error: they are only
    /// faster.
    pub(crate) fn map(len_bytes: usize, align_bytes: usize) -> io::Result<Arena> {
        assert!(align_bytes.is_power_of_two());
        assert!(len_bytes > 0 && len_bytes.is_multiple_of(align_bytes));
        let mapped_bytes = len_bytes.checked_add(align_bytes).ok_or(io::ErrorKind::OutOfMemory)?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: alive - a new range of the kernel's choosing, it replaces no mapping of ours;
        // until - the munmap in `trim` or `drop`; alone - nobody else knows the address.
        let raw = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), mapped_bytes, prot, flags) }
            .map_err(io::Error::from)?;
        let raw = raw.cast::<u8>();
        let head_bytes = raw.addr().next_multiple_of(align_bytes) - raw.addr();
        assert!(head_bytes <= align_bytes);
        let tail_bytes = align_bytes - head_bytes;
        let base = raw.wrapping_add(head_bytes);
        let first = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut arena = Arena { base: first, len_bytes, huge_pages: false };
        trim(raw, head_bytes)?;
        trim(base.wrapping_add(len_bytes), tail_bytes)?;
        // SAFETY: alive - the range was mapped above; until - advice takes effect within the call;
        // alone - `arena` is still local. The advice changes page size only, never contents.
        let advised = unsafe { rustix::mm::madvise(base.cast(), len_bytes, Advice::LinuxHugepage) };
        arena.huge_pages = advised.is_ok(); // EINVAL where the kernel has none
        Ok(arena)
    }

    /// The same over `len_bytes` of a file from `file_offset` on, shared with it: what is written here outlives this
    /// process. The file must be that long, and nobody else may write there while it is mapped.
    pub(crate) fn map_file(
        file: BorrowedFd<'_>,
        file_offset: u64,
        len_bytes: usize,
        align_bytes: usize,
    ) -> io::Result<Arena> {
        let arena = Arena::map(len_bytes, align_bytes)?;
        let (prot, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        let base = arena.base.as_ptr().cast();
        // SAFETY: alive - replaces the range that was mapped just now and is still ours; until - the munmap in
        // `drop`; alone - nobody has the address yet, and the caller promises that no other process writes.
        unsafe { rustix::mm::mmap(base, len_bytes, prot, flags, file, file_offset) }?;
        Ok(arena)
    }

    /// First byte of the arena.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Whether the kernel took the advice to back the arena with huge pages.
    pub(crate) fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Length of the arena.
    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}

/// Unmaps the slack of an over-long mapping. On failure (too many mappings) the slack stays, and
/// costs address space only.
fn trim(start: *mut u8, slack_bytes: usize) -> io::Result<()> {
    if slack_bytes > 0 {
        // SAFETY: alive - part of the range just mapped; until - this call ends its life; alone -
        // it lies outside the arena, so no pointer into it was ever given out.
        unsafe { rustix::mm::munmap(start.cast(), slack_bytes) }?;
    }
    Ok(())
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: alive - mapped in `map`, unmapped only here; until - this call; alone - every
        // slot holds the pool that holds this arena, so no slot is left when this runs.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len_bytes) };
        debug_assert!(unmapped.is_ok(), "the arena is a whole mapping of ours");
    }
}
