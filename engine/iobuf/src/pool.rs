//! The pool: an arena, its allocator, and how the ring registers it.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::rc::Rc;

use crate::arena::Arena;
use crate::buddy::{Buddy, PageIndex};
use crate::error::{IobufError, Kind};
use crate::limits::{ARENA_BYTES_MAX, CLASS_BYTES_MIN, HUGE_PAGE_BYTES, REGION_BYTES_MAX};
use crate::slot::BufSlot;

/// One shard's buffer memory. A clone is another handle on the same memory.
///
/// Serves the ring, and tests and simulators that have none.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Rc<Shared>,
}

/// One range to register with the kernel or a NIC: at most [`REGION_BYTES_MAX`], in the order of
/// [`BufSlot::region_index`]. Valid while the pool it came from lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte, aligned to a huge page.
    pub ptr: NonNull<u8>,
    /// Length of the range.
    pub len_bytes: usize,
}

/// What the handles and the slots hold together.
#[derive(Debug)]
pub(crate) struct Shared {
    arena: Arena,
    class_bytes_max: usize,
    buddy: RefCell<Buddy>,
}

impl Pool {
    /// Maps an arena of at least `arena_bytes` (rounded up to whole largest classes and whole huge
    /// pages), to be cut into slots from 4 KiB to `class_bytes_max`.
    ///
    /// Memory is taken from the system page by page as slots are first written, or at once when
    /// the ring registers it.
    ///
    /// # Errors
    /// [`Kind::ClassBytes`], [`Kind::ArenaBytes`]: an argument out of its range. [`Kind::Map`]: the
    /// kernel refused.
    pub fn new(arena_bytes: usize, class_bytes_max: usize) -> Result<Pool, IobufError> {
        Self::make(arena_bytes, class_bytes_max, Arena::map)
    }

    /// The same over the memory of a file (a memfd) from `file_offset` on: the bytes outlive this process, and a
    /// later one that makes the same pool finds them by [`Pool::claim`].
    ///
    /// The file must be long enough for the arena as rounded up ([`Pool::rounded_bytes`]), and no other process may
    /// write there while this pool lives.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn over_file(
        file: BorrowedFd<'_>,
        file_offset: u64,
        arena_bytes: usize,
        class_bytes_max: usize,
    ) -> Result<Pool, IobufError> {
        Self::make(arena_bytes, class_bytes_max, |len_bytes, align_bytes| {
            Arena::map_file(file, file_offset, len_bytes, align_bytes)
        })
    }

    /// How long an arena of `arena_bytes` is after rounding up.
    #[must_use]
    pub fn rounded_bytes(arena_bytes: usize, class_bytes_max: usize) -> usize {
        arena_bytes.next_multiple_of(class_bytes_max.max(HUGE_PAGE_BYTES))
    }

    fn make(
        arena_bytes: usize,
        class_bytes_max: usize,
        map: impl FnOnce(usize, usize) -> std::io::Result<Arena>,
    ) -> Result<Pool, IobufError> {
        let class_fits = (CLASS_BYTES_MIN..=REGION_BYTES_MAX).contains(&class_bytes_max);
        if !class_fits || !class_bytes_max.is_power_of_two() {
            return Err(refusal(Kind::ClassBytes, "choice of the largest slot", class_bytes_max));
        }
        if arena_bytes == 0 || arena_bytes > ARENA_BYTES_MAX {
            return Err(refusal(Kind::ArenaBytes, "choice of the arena", arena_bytes));
        }
        let align_bytes = class_bytes_max.max(HUGE_PAGE_BYTES);
        let len_bytes = Self::rounded_bytes(arena_bytes, class_bytes_max);
        let arena = map(len_bytes, align_bytes).map_err(|source| IobufError {
            kind: Kind::Map,
            op: "mmap",
            bytes: len_bytes,
            source: Some(source),
        })?;
        let top_count = u32::try_from(len_bytes / class_bytes_max)
            .expect("ARENA_BYTES_MAX keeps page numbers within u32");
        let buddy = RefCell::new(Buddy::new(top_count, order_of(class_bytes_max)));
        Ok(Pool { shared: Rc::new(Shared { arena, class_bytes_max, buddy }) })
    }

    /// A slot of at least `bytes_min`, rounded up to its class (0 gives the smallest).
    ///
    /// `None` when no free block is long enough: hold the request back until a slot is dropped.
    /// More than [`Pool::class_bytes_max`] can never be had and is `None` too, so bound what a
    /// peer asks for before waiting on it.
    #[must_use]
    pub fn alloc(&self, bytes_min: usize) -> Option<BufSlot> {
        if bytes_min > self.shared.class_bytes_max {
            return None;
        }
        let capacity_bytes = bytes_min.max(CLASS_BYTES_MIN).next_power_of_two();
        let page = self.shared.buddy.borrow_mut().alloc(order_of(capacity_bytes))?;
        Some(BufSlot::new(Rc::clone(&self.shared), offset_of(page), capacity_bytes))
    }

    /// As [`Pool::alloc`], for what begins something: `None` also once only the eighth is left that ends what was begun.
    #[must_use]
    pub fn alloc_to_begin(&self, bytes_min: usize) -> Option<BufSlot> {
        if self.has_room() { self.alloc(bytes_min) } else { None }
    }

    /// The slot that a process before this one had at `offset_bytes`; `None` when that cannot have been, or it is in
    /// use. To be called before anything is allocated.
    #[must_use]
    pub fn claim(&self, offset_bytes: usize, capacity_bytes: usize) -> Option<BufSlot> {
        let fits = capacity_bytes.is_power_of_two()
            && (CLASS_BYTES_MIN..=self.shared.class_bytes_max).contains(&capacity_bytes)
            && offset_bytes.is_multiple_of(CLASS_BYTES_MIN);
        if !fits {
            return None;
        }
        let page = PageIndex(u32::try_from(offset_bytes / CLASS_BYTES_MIN).ok()?);
        self.shared.buddy.borrow_mut().claim(page, order_of(capacity_bytes))?;
        Some(BufSlot::new(Rc::clone(&self.shared), offset_bytes, capacity_bytes))
    }

    /// Bytes in free blocks. A slot of that length may still not be had: see
    /// [`Pool::free_class_bytes_max`].
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        offset_of(PageIndex(self.shared.buddy.borrow().free_page_count()))
    }

    /// Whether more may be begun: an eighth of the pool is for what ends things that were begun.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.free_bytes() >= self.capacity_bytes() / 8
    }

    /// The longest slot that [`Pool::alloc`] would give now; 0 when there is none.
    #[must_use]
    pub fn free_class_bytes_max(&self) -> usize {
        let order = self.shared.buddy.borrow().order_free_max();
        order.map_or(0, |order| CLASS_BYTES_MIN << order)
    }

    /// Bytes of the arena, after rounding up.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.shared.arena.len_bytes()
    }

    /// Whether the kernel took the advice to use huge pages; without them the pool is only slower.
    #[must_use]
    pub fn huge_pages(&self) -> bool {
        self.shared.arena.huge_pages()
    }

    /// The longest slot there can be.
    #[must_use]
    pub fn class_bytes_max(&self) -> usize {
        self.shared.class_bytes_max
    }

    /// The ranges to register, in order of [`BufSlot::region_index`]; together the whole arena.
    #[must_use]
    pub fn regions(&self) -> Vec<Region> {
        let (base, len_bytes) = (self.shared.arena.base(), self.shared.arena.len_bytes());
        (0..len_bytes)
            .step_by(REGION_BYTES_MAX)
            .map(|start| {
                // SAFETY: alive - `start` is below the arena's length; until - the pool's end, as
                // documented; alone - an address only, nothing is read or written through it here.
                let ptr = unsafe { base.add(start) };
                Region { ptr, len_bytes: REGION_BYTES_MAX.min(len_bytes - start) }
            })
            .collect()
    }

    /// Whether a slot was cut from this pool, so that this pool's registration covers it.
    #[must_use]
    pub fn owns(&self, slot: &BufSlot) -> bool {
        Rc::ptr_eq(&self.shared, slot.shared())
    }
}

impl Shared {
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.arena.base()
    }

    /// Takes back the block of a slot that is being dropped.
    pub(crate) fn give_back(&self, offset_bytes: usize, capacity_bytes: usize) {
        let page = u32::try_from(offset_bytes / CLASS_BYTES_MIN).expect("was a PageIndex");
        self.buddy.borrow_mut().free(PageIndex(page), order_of(capacity_bytes));
    }
}

fn refusal(kind: Kind, op: &'static str, bytes: usize) -> IobufError {
    IobufError { kind, op, bytes, source: None }
}

/// The buddy order of a class, a power of two from `CLASS_BYTES_MIN` up.
fn order_of(class_bytes: usize) -> u8 {
    debug_assert!(class_bytes.is_power_of_two() && class_bytes >= CLASS_BYTES_MIN);
    u8::try_from((class_bytes / CLASS_BYTES_MIN).trailing_zeros()).expect("at most 63")
}

/// Where a page starts in the arena; for a count of pages, their bytes.
fn offset_of(page: PageIndex) -> usize {
    usize::try_from(page.0).expect("u32 fits usize on every platform with io_uring")
        * CLASS_BYTES_MIN
}

#[cfg(test)]
mod tests;
