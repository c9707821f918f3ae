//! Which blocks of the data area are free: a bitmap in memory, and over it a tree that finds the
//! leftmost free extent of a power-of-two length in O(log n).
//!
//! A set bit is a free block. Blocks lie in groups of one longest chunk (4 MiB); a leaf
//! of the tree says how long the longest free aligned extent of its group is.

use weft_wire::units::{to_u64, to_usize};

use crate::limits::{GROWTH, GROWTH_BLOCKS_MAX, ORDER_MAX, RESERVE_BLOCKS_MAX};
use crate::space_rows::{ROW_BLOCKS, ROW_WORDS, Row};
use crate::superblock::Superblock;

/// Blocks in a row on the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) count: u32,
}

impl Extent {
    pub(crate) fn end(&self) -> u64 {
        self.start + u64::from(self.count)
    }
}

/// What an allocation is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Want {
    pub(crate) count: u32,
    /// Where the block before it lies, plus one: the place that makes runs merge.
    pub(crate) hint: Option<u64>,
    /// Blocks the chunk has already: longer chunks look for more room to grow.
    pub(crate) chunk_blocks: u32,
    /// More may follow behind these: so they begin where there is room. Blocks that only move from within a chunk take
    /// the leftmost place that is long enough; each at the head of a free megabyte, they would leave none whole.
    pub(crate) grows: bool,
    /// A rewrite that gives back as much as it takes may use the last blocks.
    pub(crate) may_use_reserve: bool,
}

const WORDS: usize = 16;
/// Blocks of a group.
pub(crate) const GROUP_BLOCKS: u64 = 1 << ORDER_MAX;
const _: () = assert!(GROUP_BLOCKS == 64 * WORDS as u64);

/// Memory of the map of free blocks of a target, in bytes: a bit for each block, and the tree over it.
pub fn free_map_bytes(superblock: &Superblock) -> u64 {
    map_bytes(superblock.areas.data_block_count)
}

/// The same of so many blocks.
pub(crate) fn map_bytes(block_count: u64) -> u64 {
    let groups = block_count.div_ceil(GROUP_BLOCKS);
    groups * GROUP_BLOCKS / 8 + 2 * groups.next_power_of_two()
}

/// Free blocks of one target.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Space {
    total: u64,
    free: u64,
    reserve: u64,
    words: Vec<u64>,
    /// A binary tree in an array, root at 1: 0 for nothing free, else the largest order plus one.
    tree: Vec<u8>,
    leaf_count: usize,
}

impl Space {
    /// `total` blocks, all free.
    pub(crate) fn new(total: u64) -> Space {
        let mut space =
            Space { total: 0, free: 0, reserve: 0, words: vec![], tree: vec![0; 2], leaf_count: 1 };
        space.grow(total);
        space
    }

    /// Makes room for `total` blocks, which is no less than there are: the new ones are free.
    pub(crate) fn grow(&mut self, total: u64) {
        assert!(total >= self.total, "a target does not shrink");
        let groups = to_usize(total.div_ceil(GROUP_BLOCKS));
        let leaf_count = groups.next_power_of_two();
        let old_groups = self.words.len() / WORDS;
        let mut tree = vec![0; leaf_count * 2];
        tree[leaf_count..leaf_count + old_groups]
            .copy_from_slice(&self.tree[self.leaf_count..self.leaf_count + old_groups]);
        for node in (1..leaf_count).rev() {
            tree[node] = tree[node * 2].max(tree[node * 2 + 1]);
        }
        // Not twice as much ahead, as a list that grows would take.
        self.words.reserve_exact(groups * WORDS - self.words.len());
        self.words.resize(groups * WORDS, 0);
        (self.tree, self.leaf_count) = (tree, leaf_count);
        let mut at = std::mem::replace(&mut self.total, total);
        self.reserve = reserve_of(total);
        while at < total {
            let count = (GROUP_BLOCKS - at % GROUP_BLOCKS).min(total - at);
            self.give_back(Extent { start: at, count: small(count) });
            at += count;
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The first free block of `from..end`.
    pub(crate) fn next_free(&self, from: u64, end: u64) -> Option<u64> {
        self.next_bit(from, end, 0)
    }

    /// The first used block of `from..end`, or `end`.
    pub(crate) fn next_used(&self, from: u64, end: u64) -> u64 {
        self.next_bit(from, end, u64::MAX).unwrap_or(end)
    }

    /// The first block of `from..end` whose bit differs from `flip`'s.
    fn next_bit(&self, from: u64, end: u64, flip: u64) -> Option<u64> {
        assert!(end <= self.total);
        let mut at = from;
        while at < end {
            let word = (self.words[to_usize(at / 64)] ^ flip) >> (at % 64);
            if word != 0 {
                return Some(at + u64::from(word.trailing_zeros())).filter(|found| *found < end);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    /// Blocks that only rewrites may take.
    pub(crate) fn reserve(&self) -> u64 {
        self.reserve
    }

    /// Whether `block` is one of the device's and free.
    pub(crate) fn is_free(&self, block: u64) -> bool {
        block < self.total && self.words[to_usize(block / 64)] >> (block % 64) & 1 == 1
    }

    /// Marks blocks as used; `false` (and nothing changed) if they are not all free.
    pub(crate) fn claim(&mut self, extent: Extent) -> bool {
        if extent.end() > self.total {
            return false;
        }
        if masks(extent).any(|(word, mask)| self.words[word] & mask != mask) {
            return false;
        }
        for (word, mask) in masks(extent) {
            self.words[word] &= !mask;
        }
        self.free -= u64::from(extent.count);
        self.refresh(extent);
        true
    }

    /// The blocks of a row of the index.
    pub(crate) fn row(&self, number: u64) -> Row {
        let mut row = [0; ROW_WORDS];
        let first = number * ROW_BLOCKS;
        for (at, used) in (0u64..).zip(&mut row) {
            let start = first + at * 64;
            let count = self.total.saturating_sub(start).min(64);
            if count > 0 {
                *used = !self.words[to_usize(start / 64)] & (u64::MAX >> (64 - count));
            }
        }
        row
    }

    /// Marks the blocks of a row as used, all of which are free; `false` when some are not, or lie
    /// beyond the end.
    pub(crate) fn claim_row(&mut self, number: u64, row: &Row) -> bool {
        let Some(first) = number.checked_mul(ROW_BLOCKS) else { return false };
        for (at, used) in (0u64..).zip(row) {
            let word = to_usize((first + at * 64) / 64);
            if *used == 0 {
                continue;
            }
            if self.words.get(word).is_none_or(|free| free & used != *used) {
                return false;
            }
            self.words[word] &= !used;
            self.free -= u64::from(used.count_ones());
        }
        let count = ROW_BLOCKS.min(self.total.saturating_sub(first));
        self.refresh(Extent { start: first, count: small(count) });
        true
    }

    /// [`Space::give_back`] of blocks that a record names; `false` when some are free already.
    pub(crate) fn release(&mut self, extent: Extent) -> bool {
        if extent.end() > self.total || self.next_free(extent.start, extent.end()).is_some() {
            return false;
        }
        self.give_back(extent);
        true
    }

    /// Marks used blocks as free.
    pub(crate) fn give_back(&mut self, extent: Extent) {
        assert!(extent.end() <= self.total);
        for (word, mask) in masks(extent) {
            assert!(self.words[word] & mask == 0, "a block is given back once");
            self.words[word] |= mask;
        }
        self.free += u64::from(extent.count);
        self.refresh(extent);
    }

    /// Takes `want.count` blocks in as few extents as there are; `None` when so many are not free.
    pub(crate) fn alloc(&mut self, want: Want) -> Option<Vec<Extent>> {
        let kept = if want.may_use_reserve { 0 } else { self.reserve };
        if self.free < u64::from(want.count) + kept {
            return None;
        }
        let mut out = Vec::with_capacity(1);
        let mut left = want.count;
        if let Some(hint) = want.hint {
            let run = self.free_run(hint, left);
            if run >= left.min(GROWTH) {
                left -= run;
                self.take(Extent { start: hint, count: run }, &mut out);
            }
        }
        let growth = match want.grows {
            true => want.count.saturating_mul(GROWTH).max(want.chunk_blocks).min(GROWTH_BLOCKS_MAX),
            false => 1,
        };
        let growth_order = order_of(growth);
        while left > 0 {
            let top = u32::from(self.tree[1]).checked_sub(1).expect("free blocks are in the tree");
            let order = growth_order.max(order_of(left)).min(top).min(ORDER_MAX);
            let start = self.leftmost(order);
            let count = left.min(1 << order);
            left -= count;
            self.take(Extent { start, count }, &mut out);
        }
        Some(out)
    }

    fn take(&mut self, extent: Extent, out: &mut Vec<Extent>) {
        let claimed = self.claim(extent);
        assert!(claimed, "the tree and the bitmap agree");
        out.push(extent);
    }

    /// How many blocks from `start` on are free, at most `count_max`.
    fn free_run(&self, start: u64, count_max: u32) -> u32 {
        (0..count_max)
            .take_while(|at| self.is_free(start + u64::from(*at)))
            .count()
            .try_into()
            .expect("at most count_max")
    }

    /// First block of the leftmost free aligned extent of `order`, which exists.
    fn leftmost(&self, order: u32) -> u64 {
        let wanted = u8::try_from(order + 1).expect("orders are small");
        let mut node = 1;
        while node < self.leaf_count {
            node *= 2;
            if self.tree[node] < wanted {
                node += 1;
            }
        }
        assert!(self.tree[node] >= wanted, "the parent said so");
        let group = node - self.leaf_count;
        let words = &self.words[group * WORDS..(group + 1) * WORDS];
        let within = first_extent(words, order).expect("the leaf says there is one");
        to_u64(group) * GROUP_BLOCKS + within
    }

    /// Brings the leaves of the extent's groups, and what is above them, up to date.
    fn refresh(&mut self, extent: Extent) {
        if extent.count == 0 {
            return;
        }
        let first = to_usize(extent.start / GROUP_BLOCKS);
        let last = to_usize((extent.end() - 1) / GROUP_BLOCKS);
        for group in first..=last {
            let mut node = self.leaf_count + group;
            let words = &self.words[group * WORDS..(group + 1) * WORDS];
            let value = largest_order(words, self.tree[node]);
            if self.tree[node] == value {
                continue;
            }
            self.tree[node] = value;
            while node > 1 {
                node /= 2;
                self.tree[node] = self.tree[node * 2].max(self.tree[node * 2 + 1]);
            }
        }
    }
}

/// The words an extent touches, each with the extent's bits in it.
fn masks(extent: Extent) -> impl Iterator<Item = (usize, u64)> {
    let mut at = extent.start;
    let end = extent.end();
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (word, low) = (to_usize(at / 64), at % 64);
        let count = (64 - low).min(end - at);
        at += count;
        Some((word, (u64::MAX >> (64 - count)) << low))
    })
}

/// Bits of `word` that begin a free aligned extent of `order` (at most 6).
fn starts(word: u64, order: u32) -> u64 {
    const ALIGNED: [u64; 7] = [
        u64::MAX,
        0x5555_5555_5555_5555,
        0x1111_1111_1111_1111,
        0x0101_0101_0101_0101,
        0x0001_0001_0001_0001,
        0x0000_0001_0000_0001,
        1,
    ];
    let mut found = word;
    for step in 0..order {
        found &= found >> (1 << step);
        found &= ALIGNED[to_usize(u64::from(step) + 1)];
    }
    found
}

/// Where in the group the first free aligned extent of `order` begins.
fn first_extent(words: &[u64], order: u32) -> Option<u64> {
    if order <= 6 {
        let (at, word) = words.iter().enumerate().find(|(_, word)| starts(**word, order) != 0)?;
        return Some(to_u64(at) * 64 + u64::from(starts(*word, order).trailing_zeros()));
    }
    let step = 1 << (order - 6);
    let at = words.chunks(step).position(|part| part.iter().all(|word| *word == u64::MAX))?;
    Some(to_u64(at * step) * 64)
}

/// The largest order of a free aligned extent of the group, plus one; 0 when nothing is free. It was `before`: most
/// changes leave it as it is.
fn largest_order(words: &[u64], before: u8) -> u8 {
    let has = |order: u8| first_extent(words, u32::from(order)).is_some();
    let mut value = before;
    while u32::from(value) <= ORDER_MAX && has(value) {
        value += 1;
    }
    while value > 0 && !has(value - 1) {
        value -= 1;
    }
    value
}

fn reserve_of(total: u64) -> u64 {
    (total / 64).min(RESERVE_BLOCKS_MAX)
}

fn order_of(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

fn small(count: u64) -> u32 {
    u32::try_from(count).expect("at most a group")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(count: u32) -> Want {
        Want { count, hint: None, chunk_blocks: 0, grows: true, may_use_reserve: false }
    }

    #[test]
    fn appends_follow_each_other_and_chunks_keep_apart() {
        let mut space = Space::new(10_000);
        let a = space.alloc(want(4)).unwrap();
        let b = space.alloc(want(4)).unwrap();
        assert_eq!(a, [Extent { start: 0, count: 4 }]);
        assert_eq!(b, [Extent { start: 64, count: 4 }], "room to grow");
        let more = space.alloc(Want { hint: Some(4), ..want(4) }).unwrap();
        assert_eq!(more, [Extent { start: 4, count: 4 }]);
        let chunk = space.alloc(want(256)).unwrap();
        assert_eq!(chunk, [Extent { start: 256, count: 256 }]);
        for extent in [a, b, more, chunk].concat() {
            space.give_back(extent);
        }
        assert_eq!(space.free(), 10_000);
        let all = space.alloc(Want { count: 10_000, may_use_reserve: true, ..want(0) }).unwrap();
        assert_eq!(all.iter().map(|extent| extent.count).sum::<u32>(), 10_000);
        assert_eq!(space.alloc(Want { may_use_reserve: true, ..want(1) }), None);
    }

    #[test]
    fn blocks_that_move_from_within_a_chunk_leave_whole_megabytes_free() {
        let mut space = Space::new(64 * 256);
        let moved = Want { chunk_blocks: 256, grows: false, ..want(1) };
        for number in 0..256 {
            let place = space.alloc(moved).unwrap();
            assert_eq!(place, [Extent { start: number, count: 1 }]);
        }
        let chunk = space.alloc(want(256)).unwrap();
        assert_eq!(chunk, [Extent { start: 256, count: 256 }]);
    }

    #[test]
    fn what_is_given_out_is_free_and_given_once() {
        let mut state = 12345u64;
        let mut random = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let total = 5_003;
        let mut space = Space::new(total);
        let mut oracle = vec![false; to_usize(total)];
        let mut held: Vec<Extent> = Vec::new();
        for _ in 0..20_000 {
            if random(100) < 52 {
                let order = random(9);
                let count = small(1 + random(1 << order));
                let hint = (random(2) == 0).then(|| random(total + 10));
                let before = space.free();
                let wanted = Want {
                    count,
                    hint,
                    chunk_blocks: small(random(300)),
                    grows: random(2) == 0,
                    may_use_reserve: random(2) == 0,
                };
                let Some(extents) = space.alloc(wanted) else {
                    assert!(before < u64::from(count) + space.reserve());
                    continue;
                };
                assert_eq!(extents.iter().map(|extent| extent.count).sum::<u32>(), count);
                for extent in &extents {
                    for block in extent.start..extent.end() {
                        assert!(!std::mem::replace(&mut oracle[to_usize(block)], true));
                    }
                }
                held.extend(extents);
            } else if !held.is_empty() {
                let extent = held.swap_remove(to_usize(random(to_u64(held.len()))));
                for block in extent.start..extent.end() {
                    oracle[to_usize(block)] = false;
                }
                space.give_back(extent);
            }
            let free = oracle.iter().filter(|used| !**used).count();
            assert_eq!(space.free(), to_u64(free));
        }
        for extent in held {
            space.give_back(extent);
        }
        assert_eq!(space.free(), total);
        assert_eq!(space.leftmost(ORDER_MAX), 0);
    }

    #[test]
    fn a_claim_is_all_or_nothing() {
        let mut space = Space::new(100);
        assert!(space.claim(Extent { start: 60, count: 10 }));
        assert!(!space.claim(Extent { start: 50, count: 11 }));
        assert!(!space.claim(Extent { start: 95, count: 6 }), "beyond the end");
        assert_eq!(space.free(), 90);
        assert!(space.is_free(50) && !space.is_free(69) && !space.is_free(100));
    }

    #[test]
    fn what_grows_keeps_what_is_used() {
        for (before, after) in
            [(100, 100), (100, 101), (1_000, 1_025), (1_024, 9_000), (5_003, 70_000)]
        {
            let mut space = Space::new(before);
            let used = Extent { start: 33, count: 60 };
            assert!(space.claim(used));
            space.grow(after);
            assert_eq!((space.total(), space.free()), (after, after - 60));
            assert_eq!(space.next_free(0, after), Some(0));
            assert_eq!(space.next_used(0, after), 33);
            assert_eq!(space.next_free(33, after), Some(93));
            assert_eq!(space.next_free(33, 93), None);
            assert_eq!(space.next_used(93, after), after);
            space.give_back(used);
            let left = small(after);
            let all = space.alloc(Want { may_use_reserve: true, ..want(left) }).unwrap();
            assert_eq!(all.iter().map(|extent| extent.count).sum::<u32>(), left);
            assert_eq!(space.free(), 0);
        }
    }
}
