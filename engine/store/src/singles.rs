//! A set of blocks, each with a number: found, added and removed in one or two looks.
//!
//! An open table with linear probing. Its order depends on nothing but what was added and removed.

use weft_wire::units::{to_u64, to_usize};

/// Slots of the smallest table.
const SLOTS_MIN: usize = 64;
/// 2^64 divided by the golden ratio: neighbours go far apart.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// A block nobody has.
const FREE: u64 = u64::MAX;

/// What one block takes at worst: the table is between 3/8 and 3/4 full.
pub(crate) const ENTRY_BYTES: usize = size_of::<(u64, u64)>() * 8 / 3;

/// Blocks, and for each the newest number it was added with.
#[derive(Debug, Default)]
pub(crate) struct Singles {
    /// Block and number; a power of two of them, or none.
    slots: Vec<(u64, u64)>,
    len: usize,
}

impl Singles {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn has(&self, block: u64) -> bool {
        self.len > 0 && self.slots[self.find(block)].0 == block
    }

    /// Adds a block, or gives it a newer number.
    pub(crate) fn add(&mut self, block: u64, number: u64) {
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let at = self.find(block);
        self.len += usize::from(self.slots[at].0 == FREE);
        self.slots[at] = (block, number);
    }

    /// Removes a block, unless it has a newer number.
    pub(crate) fn remove(&mut self, block: u64, number: u64) {
        if self.len == 0 {
            return;
        }
        let mut hole = self.find(block);
        if self.slots[hole] != (block, number) {
            return;
        }
        self.len -= 1;
        // What lies behind and could not lie nearer to its home moves up.
        let mask = self.slots.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let (block, number) = self.slots[at];
            if block == FREE {
                break;
            }
            let from_home = at.wrapping_sub(self.home(block)) & mask;
            if from_home >= at.wrapping_sub(hole) & mask {
                self.slots[hole] = (block, number);
                hole = at;
            }
        }
        self.slots[hole].0 = FREE;
        if self.len == 0 {
            self.slots = Vec::new();
        }
    }

    /// Where the block is, or would be.
    fn find(&self, block: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = self.home(block);
        while self.slots[at].0 != block && self.slots[at].0 != FREE {
            at = (at + 1) & mask;
        }
        at
    }

    fn home(&self, block: u64) -> usize {
        let bits = self.slots.len().trailing_zeros();
        to_usize(block.wrapping_mul(SPREAD) >> (64 - bits))
    }

    fn grow(&mut self) {
        let slot_count = (2 * self.slots.len()).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![(FREE, 0); slot_count]);
        debug_assert!(to_u64(self.slots.len()).is_power_of_two());
        for (block, number) in old.into_iter().filter(|(block, _)| *block != FREE) {
            let at = self.find(block);
            self.slots[at] = (block, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn it_is_what_a_map_would_be() {
        let mut oracle: BTreeMap<u64, u64> = BTreeMap::new();
        let mut singles = Singles::default();
        let mut random = 7u64;
        for number in 0..200_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Few blocks, and now and then all of them gone.
            let block = (random >> 33) % (1 + number % 3000);
            match (random >> 20) % 5 {
                0 | 1 => {
                    oracle.insert(block, number);
                    singles.add(block, number);
                }
                2 if oracle.contains_key(&block) => singles.remove(block, number + 1),
                _ => {
                    if let Some(number) = oracle.remove(&block) {
                        singles.remove(block, number);
                    }
                    singles.remove(block, number);
                }
            }
            assert_eq!(singles.len, oracle.len());
            let near = block.saturating_sub(2)..block + 3;
            assert!(near.clone().all(|b| singles.has(b) == oracle.contains_key(&b)));
        }
        for (block, number) in oracle {
            singles.remove(block, number);
        }
        assert!(singles.is_empty() && !singles.has(1) && singles.slots.is_empty());
    }
}
