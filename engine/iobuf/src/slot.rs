//! Slots: blocks of the arena with one owner each, and read-only shares of them.

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::slice;

use crate::limits::REGION_BYTES_MAX;
use crate::pool::Shared;

/// An owned, page-aligned block of a pool's memory. Dropping it gives the block back. (A part that was cut off a
/// lent slot begins where it was cut, aligned or not.)
///
/// It holds the bytes its last holder left there: write before you show it to anyone. While the
/// kernel or a NIC reads or writes the block, the slot is owned by that operation (moved into the
/// ring), so the slices below can never alias a transfer.
pub struct BufSlot {
    shared: Rc<Shared>,
    offset_bytes: usize,
    capacity_bytes: usize,
    /// The slot this one is a part of, which takes the memory back.
    lender: Option<Rc<BufSlot>>,
}

/// A slot whose memory others have, in parts; it is whole again when the last part was dropped.
///
/// For memory that must keep its address and return to its owner: several transfers fill their parts of it, and no
/// part can outlive the loan unnoticed.
#[derive(Debug)]
pub struct LentSlot {
    slot: Rc<BufSlot>,
}

impl BufSlot {
    pub(crate) fn new(shared: Rc<Shared>, offset_bytes: usize, capacity_bytes: usize) -> BufSlot {
        BufSlot { shared, offset_bytes, capacity_bytes, lender: None }
    }

    /// Lends the slot: the first part is all of it. The memory cannot be touched but through parts until it is
    /// [reclaimed](LentSlot::try_reclaim).
    #[must_use]
    pub fn lend(self) -> (LentSlot, BufSlot) {
        let (offset_bytes, capacity_bytes) = (self.offset_bytes, self.capacity_bytes);
        let shared = Rc::clone(&self.shared);
        let slot = Rc::new(self);
        let lender = Some(Rc::clone(&slot));
        (LentSlot { slot }, BufSlot { shared, offset_bytes, capacity_bytes, lender })
    }

    /// Cuts a lent part in two: `self` keeps the first `at_bytes`, the rest comes back.
    ///
    /// # Panics
    /// The slot is not lent, or not that long: only the caller can know which.
    #[must_use]
    pub fn split_off(&mut self, at_bytes: usize) -> BufSlot {
        assert!(self.lender.is_some(), "only a lent slot has parts");
        assert!(at_bytes <= self.capacity_bytes, "the cut is within the slot");
        let rest = BufSlot {
            shared: Rc::clone(&self.shared),
            offset_bytes: self.offset_bytes + at_bytes,
            capacity_bytes: self.capacity_bytes - at_bytes,
            lender: self.lender.clone(),
        };
        self.capacity_bytes = at_bytes;
        rest
    }

    /// Length of the block: the class it was cut from, at least what was asked for.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    /// The whole block.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: alive - `shared` keeps the mapping and it was zeroed by mmap, so every byte is
        // initialised; until - the borrow of `self`; alone - the buddy gave this block to this
        // slot only (a lent one cannot be reached, and its parts do not overlap), and `&self`
        // keeps writers out.
        unsafe { slice::from_raw_parts(self.as_ptr(), self.capacity_bytes) }
    }

    /// The whole block, to write.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: alive - as in `as_slice`; until - the borrow of `self`; alone - one slot per
        // block, and `&mut self` keeps every other reference out.
        unsafe { slice::from_raw_parts_mut(self.as_mut_ptr(), self.capacity_bytes) }
    }

    /// Where in the pool's memory the block begins: see [`Pool::claim`](crate::Pool::claim).
    #[must_use]
    pub fn offset_bytes(&self) -> usize {
        self.offset_bytes
    }

    /// First byte of the block, page-aligned. For the kernel: the slot must be owned by the
    /// operation that uses it.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.start().as_ptr()
    }

    /// First byte of the block, to write through. The same rule as for [`BufSlot::as_ptr`].
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start().as_ptr()
    }

    /// Which of [`Pool::regions`](crate::Pool::regions) holds this block, whole.
    #[must_use]
    pub fn region_index(&self) -> usize {
        self.offset_bytes / REGION_BYTES_MAX
    }

    /// Turns the slot into a read-only share that can be cloned. Costs one small allocation.
    #[must_use]
    pub fn share(self) -> SharedSlot {
        SharedSlot { slot: Rc::new(self) }
    }

    pub(crate) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    fn start(&self) -> NonNull<u8> {
        // SAFETY: alive - the buddy gives out offsets within the arena; until - the mapping's end,
        // which `shared` holds off; alone - an address only, used by the holder of this slot.
        unsafe { self.shared.base().add(self.offset_bytes) }
    }
}

impl LentSlot {
    /// The slot back, when the last part was dropped.
    ///
    /// # Errors
    /// Some are there: the loan goes on.
    pub fn try_reclaim(self) -> Result<BufSlot, LentSlot> {
        Rc::try_unwrap(self.slot).map_err(|slot| LentSlot { slot })
    }

    /// Where in the slot `bytes` lie, when they are of one of its parts.
    #[must_use]
    pub fn position_of(&self, bytes: &[u8]) -> Option<usize> {
        let at = bytes.as_ptr().addr().checked_sub(self.slot.as_ptr().addr())?;
        (at + bytes.len() <= self.slot.capacity_bytes).then_some(at)
    }
}

impl Drop for BufSlot {
    fn drop(&mut self) {
        if self.lender.is_none() {
            self.shared.give_back(self.offset_bytes, self.capacity_bytes);
        }
    }
}

impl fmt::Debug for BufSlot {
    /// Place and length, never the contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufSlot")
            .field("offset_bytes", &self.offset_bytes)
            .field("capacity_bytes", &self.capacity_bytes)
            .finish()
    }
}

/// A slot that nobody writes any more, held by several: the operation that sends it and the record
/// that would send it again. The block goes back to the pool with the last share.
#[derive(Clone, Debug)]
pub struct SharedSlot {
    slot: Rc<BufSlot>,
}

impl SharedSlot {
    /// The slot itself, for its address and region.
    #[must_use]
    pub fn slot(&self) -> &BufSlot {
        &self.slot
    }

    /// The writable slot back, when this is the last share.
    ///
    /// # Errors
    /// Others hold it: the share comes back.
    pub fn try_unshare(self) -> Result<BufSlot, SharedSlot> {
        Rc::try_unwrap(self.slot).map_err(|slot| SharedSlot { slot })
    }
}

impl Deref for SharedSlot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.slot.as_slice()
    }
}
