//! Which blocks were written so lately that replay would still doubt them.
//!
//! Such a block is not overwritten where it is; the new bytes go to a new place. Otherwise a torn
//! overwrite of a block that a sync had promised could not be told from a block that never
//! arrived, and recovery might bring back the version before it (planted: OverwriteRecent).

use std::collections::{BTreeMap, VecDeque};

use crate::limits::CHUNK_BLOCKS_MAX;
use crate::singles::{self, Singles};

/// What one run of blocks takes: in the tree, and in the order.
pub(crate) const ENTRY_BYTES: usize = size_of::<((u64, u64), u32)>() + size_of::<(u64, u64, u8)>();
/// Entries are counted at twice this; so it is enough for single blocks, too.
const _: () = assert!(singles::ENTRY_BYTES + 2 * size_of::<(u64, u64, u8)>() <= 2 * ENTRY_BYTES);

/// Runs of 1, 2..=3, 4..=7 ... blocks have a tree each.
const CLASS_COUNT: usize = CHUNK_BLOCKS_MAX.trailing_zeros() as usize + 1;

/// Blocks written by records that are not known, on the device, to be durable.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// Runs of one block, which are most: looked for by every overwrite.
    singles: Singles,
    /// The others, by length class: (first block, sequence) -> count. So a look for one block passes few runs:
    /// in one tree it would pass every short one within the longest run's length.
    runs: [BTreeMap<(u64, u64), u32>; CLASS_COUNT],
    /// In order of sequence; first block and class.
    order: VecDeque<(u64, u64, u8)>,
}

impl Recent {
    /// Record `sequence` wrote these blocks.
    pub(crate) fn add(&mut self, sequence: u64, start: u64, count: u32) {
        let class = u8::try_from(count.ilog2()).expect("32 at most");
        match class {
            0 => self.singles.add(start, sequence),
            class => {
                self.runs[usize::from(class)].insert((start, sequence), count);
            }
        }
        self.order.push_back((sequence, start, class));
    }

    /// Runs remembered.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether a record in doubt wrote `block`.
    pub(crate) fn has(&self, block: u64) -> bool {
        if self.singles.has(block) {
            return true;
        }
        self.runs.iter().enumerate().filter(|(_, runs)| !runs.is_empty()).any(|(class, runs)| {
            let from = block.saturating_sub((2 << class) - 2);
            let mut near = runs.range((from, 0)..=(block, u64::MAX)).rev();
            near.any(|((start, _), count)| start + u64::from(*count) > block)
        })
    }

    /// Records up to `known` are no longer in doubt.
    pub(crate) fn forget(&mut self, known: u64) {
        while let Some((sequence, start, class)) = self.order.front().copied() {
            if sequence > known {
                break;
            }
            self.order.pop_front();
            match class {
                0 => self.singles.remove(start, sequence),
                class => {
                    self.runs[usize::from(class)].remove(&(start, sequence));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_recent_until_their_record_is_known_durable() {
        let mut recent = Recent::default();
        recent.add(1, 100, 10);
        recent.add(2, 105, 1);
        recent.add(2, 2000, 1024);
        assert!(recent.has(100) && recent.has(109) && recent.has(3023));
        assert!(!recent.has(99) && !recent.has(110) && !recent.has(3024));
        recent.add(2, 5000, 3);
        assert!(recent.has(5002) && !recent.has(5003) && !recent.has(4999));
        recent.forget(1);
        assert!(!recent.has(100) && recent.has(105));
        recent.forget(2);
        assert!(!recent.has(105) && recent.order.is_empty());
        assert!(recent.runs.iter().all(BTreeMap::is_empty) && recent.singles.is_empty());
    }
}
