//! Which freed blocks the device is still to be told of.
//!
//! What is known is one bit for each group of blocks (4 MiB): something in it was freed. After the
//! checkpoint that follows, the group's free blocks are discarded, merged with those of the groups
//! behind it. That may say again of a block what the device knows already, which does no harm, and
//! costs 32 KiB of memory for each TiB.
//!
//! Whether a block may be discarded is not decided here: the bitmap of free blocks says so. A free
//! block is one that no recovery can want back, since it may be given out and overwritten at any
//! time. The checkpoint is waited for so that what is freed piece by piece leaves in large ranges.
//!
//! None of this is kept over a restart. Instead everything that is free at an open is discarded once, slowly: what was
//! due when the last process ended, and what a crash left written and free.

use std::time::Duration;

use weft_wire::units::{to_u64, to_usize};

use crate::limits::{
    DISCARD_ALIGN_BLOCKS, DISCARD_BLOCKS_MAX, DISCARD_GROUPS_MAX, DISCARD_PAUSE, DISCARD_PAUSE_OLD,
};
use crate::space::{Extent, GROUP_BLOCKS, Space};

/// What is to be discarded, and what is being.
#[derive(Debug)]
pub(crate) struct Discards {
    enabled: bool,
    /// What the device said when it refused.
    refused: Option<i32>,
    /// Groups with blocks freed since the last checkpoint, one bit each.
    fresh: Vec<u64>,
    /// Groups with blocks freed before it.
    due: Vec<u64>,
    /// Groups not looked at since the target was opened.
    old: Vec<u64>,
    /// Blocks `at..end` are still to be looked at.
    at: u64,
    end: u64,
    /// Taken from the free blocks until the device is done with them.
    in_flight: Option<Extent>,
    last: Duration,
}

impl Discards {
    pub(crate) fn new(enabled: bool) -> Discards {
        Discards {
            enabled,
            refused: None,
            fresh: Vec::new(),
            due: Vec::new(),
            old: Vec::new(),
            at: 0,
            end: 0,
            in_flight: None,
            last: Duration::ZERO,
        }
    }

    /// As [`Discards::new`], for a target of so many blocks that was just opened.
    pub(crate) fn opened(enabled: bool, block_count: u64) -> Discards {
        let mut discards = Discards::new(enabled);
        if enabled {
            let groups = block_count.div_ceil(GROUP_BLOCKS);
            discards.old = vec![u64::MAX; to_usize(groups / 64)];
            discards.old.push((1 << (groups % 64)) - 1);
        }
        discards
    }

    /// What the device said when it refused, which ended it.
    pub(crate) fn refused(&self) -> Option<i32> {
        self.refused
    }

    /// Blocks that are free, and cannot be given out before their discard is over.
    pub(crate) fn block_count(&self) -> u64 {
        self.in_flight.map_or(0, |extent| u64::from(extent.count))
    }

    /// What is being discarded now.
    pub(crate) fn in_flight(&self) -> Option<Extent> {
        self.in_flight
    }

    /// These blocks became free.
    pub(crate) fn freed(&mut self, extent: Extent) {
        if !self.enabled || extent.count == 0 {
            return;
        }
        for group in extent.start / GROUP_BLOCKS..=(extent.end() - 1) / GROUP_BLOCKS {
            let word = to_usize(group / 64);
            if word >= self.fresh.len() {
                self.fresh.resize(word + 1, 0);
            }
            self.fresh[word] |= 1 << (group % 64);
        }
    }

    /// A checkpoint was committed: what was freed before may go.
    pub(crate) fn checkpointed(&mut self) {
        self.due.resize(self.due.len().max(self.fresh.len()), 0);
        for (due, fresh) in self.due.iter_mut().zip(&mut self.fresh) {
            *due |= std::mem::take(fresh);
        }
    }

    /// Blocks to discard now; they are no longer free until [`Discards::done`].
    pub(crate) fn next(&mut self, now: Duration, space: &mut Space) -> Option<Extent> {
        if !self.enabled || self.in_flight.is_some() || now < self.last + DISCARD_PAUSE {
            return None;
        }
        let extent = self.find(space, now >= self.last + DISCARD_PAUSE_OLD)?;
        let claimed = space.claim(extent);
        assert!(claimed, "found among the free blocks");
        self.last = now;
        self.in_flight = Some(extent);
        Some(extent)
    }

    /// The discard is over: its blocks, free again. `refused`: the device does not do it, so it is
    /// not asked again.
    pub(crate) fn done(&mut self, refused: Option<i32>) -> Extent {
        if refused.is_some() {
            *self = Discards { refused, in_flight: self.in_flight, ..Discards::new(false) };
        }
        self.in_flight.take().expect("one discard is under way")
    }

    /// `old_too`: also what was free at the open, when nothing else is to be discarded.
    fn find(&mut self, space: &Space, old_too: bool) -> Option<Extent> {
        for _ in 0..DISCARD_GROUPS_MAX {
            if self.at >= self.end {
                let group = self.take_next_due(old_too)?;
                self.at = group * GROUP_BLOCKS;
                self.end = (self.at + GROUP_BLOCKS).min(space.total());
            }
            let start = space.next_free(self.at, self.end).unwrap_or(self.end);
            let start = start.next_multiple_of(DISCARD_ALIGN_BLOCKS);
            if start >= self.end {
                self.at = self.end;
                continue;
            }
            let mut stop = space.next_used(start, self.end);
            while stop == self.end
                && stop - start < DISCARD_BLOCKS_MAX
                && self.take_due(stop / GROUP_BLOCKS)
            {
                self.end = (stop + GROUP_BLOCKS).min(space.total());
                stop = space.next_used(stop, self.end);
            }
            stop = stop.min(start + DISCARD_BLOCKS_MAX);
            self.at = stop.max(self.at + 1);
            stop -= stop % DISCARD_ALIGN_BLOCKS;
            if stop > start {
                let count = u32::try_from(stop - start).expect("bounded above");
                return Some(Extent { start, count });
            }
        }
        None
    }

    /// Takes the bit of a group, which is set again when more of it is freed.
    fn take_due(&mut self, group: u64) -> bool {
        let bit = 1 << (group % 64);
        let mut was = false;
        for words in [&mut self.due, &mut self.old] {
            if let Some(word) = words.get_mut(to_usize(group / 64)) {
                was |= *word & bit != 0;
                *word &= !bit;
            }
        }
        was
    }

    fn take_next_due(&mut self, old_too: bool) -> Option<u64> {
        let old = self.old.iter().enumerate().filter(|_| old_too);
        let (at, word) = self.due.iter().enumerate().chain(old).find(|(_, word)| **word != 0)?;
        let group = to_u64(at) * 64 + u64::from(word.trailing_zeros());
        self.take_due(group);
        Some(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(at: u64) -> Duration {
        Duration::from_secs(at)
    }

    /// All that is discarded until there is no more.
    fn drain(discards: &mut Discards, space: &mut Space, from: u64) -> Vec<(u64, u32)> {
        let mut found = Vec::new();
        while let Some(extent) = discards.next(second(from + to_u64(found.len())), space) {
            assert!(!space.is_free(extent.start), "not given out meanwhile");
            found.push((extent.start, extent.count));
            space.give_back(discards.done(None));
            assert!(found.len() < 1000);
        }
        found
    }

    #[test]
    fn what_was_freed_before_a_checkpoint_leaves_in_large_ranges() {
        let total = 20 * GROUP_BLOCKS + 100;
        let mut space = Space::new(total);
        let mut discards = Discards::new(true);
        let count = u32::try_from(total).unwrap();
        assert!(space.claim(Extent { start: 0, count }));
        let mut free = |start, count, discards: &mut Discards| {
            let extent = Extent { start, count };
            space.give_back(extent);
            discards.freed(extent);
        };
        free(5, 11, &mut discards);
        free(100, 15, &mut discards);
        free(1_000, 9_000, &mut discards);
        free(20 * GROUP_BLOCKS, 100, &mut discards);
        assert_eq!(drain(&mut discards, &mut space, 1), []);
        discards.checkpointed();
        let found = drain(&mut discards, &mut space, 2);
        assert_eq!(found, [(1_008, 8_192), (9_200, 800), (20 * GROUP_BLOCKS, 96)]);
        let extent = Extent { start: 16, count: 64 };
        space.give_back(extent);
        discards.freed(extent);
        discards.checkpointed();
        assert_eq!(drain(&mut discards, &mut space, 50), [(16, 64), (1_008, 16)]);
        assert_eq!(drain(&mut discards, &mut space, 90), []);
    }

    #[test]
    fn what_was_free_at_the_open_goes_once_and_slowly() {
        let total = 70 * GROUP_BLOCKS + 100;
        let mut space = Space::new(total);
        assert!(space.claim(Extent { start: 65 * GROUP_BLOCKS, count: 5_000 }));
        let mut discards = Discards::opened(true, total);
        let first = discards.next(second(1), &mut space).unwrap();
        assert_eq!((first.start, first.count), (0, 8192));
        space.give_back(discards.done(None));
        let soon = second(1) + DISCARD_PAUSE;
        assert_eq!(discards.next(soon, &mut space), None, "not at once");
        let freed = Extent { start: 65 * GROUP_BLOCKS, count: 1_000 };
        space.give_back(freed);
        discards.freed(freed);
        discards.checkpointed();
        let found = discards.next(soon, &mut space).unwrap();
        assert_eq!(found.start, freed.start, "what is freed now does not wait behind it");
        space.give_back(discards.done(None));
        let rest = drain(&mut discards, &mut space, 10);
        let all = rest.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
        let known = 8_192 + u64::from(found.count);
        assert!(space.free() - all - known < 100 + 2 * DISCARD_ALIGN_BLOCKS, "{all} of {total}");
        assert_eq!(drain(&mut discards, &mut space, 200), [], "once");
        assert_eq!(Discards::opened(false, total).next(second(1), &mut space), None);
    }

    #[test]
    fn a_device_that_refuses_is_not_asked_again() {
        let mut space = Space::new(4096);
        let mut discards = Discards::new(true);
        discards.freed(Extent { start: 0, count: 4096 });
        discards.checkpointed();
        let extent = discards.next(second(1), &mut space).unwrap();
        assert_eq!((extent.count, discards.block_count()), (4096, 4096));
        assert_eq!(discards.next(second(2), &mut space), None, "one at a time");
        assert_eq!(discards.done(Some(95)), extent);
        space.give_back(extent);
        discards.freed(extent);
        discards.checkpointed();
        assert_eq!(discards.next(second(3), &mut space), None);
        assert_eq!((discards.refused(), discards.block_count()), (Some(95), 0));
    }
}
