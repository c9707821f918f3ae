//! The buddy allocator: page numbers only, no memory of the arena is touched.
//!
//! Blocks are `1 << order` pages, aligned to their length. Every free block is in the list of its
//! order; a freed block joins its buddy at once when that is free and whole, so a pool that got
//! everything back is one row of largest blocks again. Allocation and release are O(orders), and
//! the same calls give the same pages: a simulation replays.
//!
//! Invariants: each page lies in exactly one block; only a block's first page has a state other
//! than `INTERIOR`; two buddies are never both free at the same order below the largest.

use crate::limits::ORDER_COUNT_MAX;

/// Not the first page of a block.
const INTERIOR: u8 = 0;
/// First page of a free block; the order is in the low bits.
const FREE: u8 = 0x40;
/// First page of a block in use; the order is in the low bits.
const USED: u8 = 0x80;
/// End of a list.
const NONE: u32 = u32::MAX;

/// Index of a page within the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageIndex(pub(crate) u32);

impl PageIndex {
    fn at(self) -> usize {
        usize::try_from(self.0).expect("u32 fits usize on every platform with io_uring")
    }
}

/// Free lists over the pages of an arena.
#[derive(Debug)]
pub(crate) struct Buddy {
    order_max: u8,
    page_count: u32,
    free_page_count: u32,
    /// Bit `k` is set when the list of order `k` is not empty.
    nonempty: u32,
    heads: [u32; ORDER_COUNT_MAX],
    // Zero-filled and valid for first pages of free blocks only: untouched pages of these tables
    // cost no memory.
    next: Vec<u32>,
    prev: Vec<u32>,
    state: Vec<u8>,
}

impl Buddy {
    /// `top_count` free blocks of the largest order.
    pub(crate) fn new(top_count: u32, order_max: u8) -> Buddy {
        assert!(usize::from(order_max) < ORDER_COUNT_MAX);
        let page_count = top_count.checked_mul(1 << order_max).expect("ARENA_BYTES_MAX bounds it");
        let len = PageIndex(page_count).at();
        let mut buddy = Buddy {
            order_max,
            page_count,
            free_page_count: page_count,
            nonempty: 0,
            heads: [NONE; ORDER_COUNT_MAX],
            next: vec![0; len],
            prev: vec![0; len],
            state: vec![INTERIOR; len],
        };
        for top in (0..top_count).rev() {
            buddy.push(PageIndex(top << order_max), order_max);
        }
        buddy
    }

    /// Pages in free blocks.
    pub(crate) fn free_page_count(&self) -> u32 {
        self.free_page_count
    }

    /// Largest order with a free block.
    pub(crate) fn order_free_max(&self) -> Option<u8> {
        self.nonempty.checked_ilog2().map(|order| u8::try_from(order).expect("at most 31"))
    }

    /// Takes a block of `order`, splitting a larger one when there is none.
    pub(crate) fn alloc(&mut self, order: u8) -> Option<PageIndex> {
        assert!(order <= self.order_max);
        let fitting = self.nonempty & (u32::MAX << order);
        if fitting == 0 {
            return None;
        }
        let mut have = u8::try_from(fitting.trailing_zeros()).expect("at most 31");
        let page = PageIndex(self.heads[usize::from(have)]);
        self.unlink(page, have);
        while have > order {
            have -= 1;
            self.push(PageIndex(page.0 + (1 << have)), have);
        }
        self.state[page.at()] = USED | order;
        self.free_page_count -= 1 << order;
        Some(page)
    }

    /// Takes this block, which was in use when the memory was last looked after; `None` when it is no block of that
    /// order, or is in use.
    pub(crate) fn claim(&mut self, page: PageIndex, order: u8) -> Option<()> {
        let aligned = order <= self.order_max && page.0.is_multiple_of(1 << order);
        if !aligned || page.0.checked_add(1 << order)? > self.page_count {
            return None;
        }
        let around = |have: u8| PageIndex(page.0 >> have << have);
        let is_free = |have: &u8| self.state[around(*have).at()] == FREE | *have;
        let mut have = (order..=self.order_max).find(is_free)?;
        self.unlink(around(have), have);
        while have > order {
            have -= 1;
            let near = around(have);
            self.push(PageIndex(near.0 ^ (1 << have)), have);
        }
        self.state[page.at()] = USED | order;
        self.free_page_count -= 1 << order;
        Some(())
    }

    /// Gives a block back and joins it with its buddies as far as they are free.
    ///
    /// Panics when the block is not in use with that order: a slot was returned twice.
    pub(crate) fn free(&mut self, page: PageIndex, order: u8) {
        assert!(self.state[page.at()] == USED | order, "a slot is returned once");
        self.free_page_count += 1 << order;
        assert!(self.free_page_count <= self.page_count);
        self.state[page.at()] = INTERIOR;
        let (mut page, mut order) = (page, order);
        while order < self.order_max {
            let buddy = PageIndex(page.0 ^ (1 << order));
            if self.state[buddy.at()] != FREE | order {
                break;
            }
            self.unlink(buddy, order);
            page = page.min(buddy);
            order += 1;
        }
        self.push(page, order);
    }

    /// Puts a block at the head of its list.
    fn push(&mut self, page: PageIndex, order: u8) {
        let head = self.heads[usize::from(order)];
        self.next[page.at()] = head;
        self.prev[page.at()] = NONE;
        if head != NONE {
            self.prev[PageIndex(head).at()] = page.0;
        }
        self.heads[usize::from(order)] = page.0;
        self.nonempty |= 1 << order;
        self.state[page.at()] = FREE | order;
    }

    /// Takes a free block out of its list.
    fn unlink(&mut self, page: PageIndex, order: u8) {
        assert!(self.state[page.at()] == FREE | order);
        let (prev, next) = (self.prev[page.at()], self.next[page.at()]);
        if next != NONE {
            self.prev[PageIndex(next).at()] = prev;
        }
        if prev != NONE {
            self.next[PageIndex(prev).at()] = next;
        } else {
            self.heads[usize::from(order)] = next;
            if next == NONE {
                self.nonempty &= !(1 << order);
            }
        }
        self.state[page.at()] = INTERIOR;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_lowest_first_and_joins_back() {
        let mut buddy = Buddy::new(2, 3);
        let a = buddy.alloc(0).unwrap();
        let b = buddy.alloc(0).unwrap();
        let c = buddy.alloc(2).unwrap();
        assert_eq!([a.0, b.0, c.0], [0, 1, 4]);
        assert_eq!(buddy.free_page_count(), 16 - 6);
        buddy.free(b, 0);
        buddy.free(c, 2);
        assert_eq!(buddy.order_free_max(), Some(3));
        buddy.free(a, 0);
        assert_eq!(buddy.free_page_count(), 16);
        let tops = [buddy.alloc(3), buddy.alloc(3)].map(|top| top.unwrap().0);
        assert_eq!(tops.iter().sum::<u32>(), 8);
        assert_eq!(buddy.alloc(0), None);
        assert_eq!(buddy.order_free_max(), None);
    }

    #[test]
    fn a_block_is_claimed_out_of_a_larger_one_once() {
        let mut buddy = Buddy::new(2, 3);
        assert_eq!(buddy.claim(PageIndex(6), 1), Some(()));
        assert_eq!(buddy.claim(PageIndex(6), 1), None, "in use");
        assert_eq!(buddy.claim(PageIndex(7), 0), None, "within what is in use");
        assert_eq!(buddy.claim(PageIndex(4), 2), None, "around what is in use");
        assert_eq!(buddy.claim(PageIndex(5), 1), None, "not aligned");
        assert_eq!(buddy.claim(PageIndex(16), 0), None, "beyond the end");
        assert_eq!(buddy.claim(PageIndex(8), 3), Some(()));
        assert_eq!(buddy.free_page_count(), 16 - 2 - 8);
        let rest = [buddy.alloc(2), buddy.alloc(1)].map(|page| page.map(|page| page.0));
        assert_eq!(rest, [Some(0), Some(4)]);
        assert_eq!(buddy.alloc(0), None);
        buddy.free(PageIndex(6), 1);
        buddy.free(PageIndex(8), 3);
    }

    #[test]
    #[should_panic(expected = "returned once")]
    fn a_second_release_panics() {
        let mut buddy = Buddy::new(1, 2);
        let page = buddy.alloc(1).unwrap();
        buddy.free(page, 1);
        buddy.free(page, 1);
    }
}
