//! Ranges of bytes, and what one owner holds of them: split and merged as locks are taken and given up.

use super::LockKind;

/// Bytes from `start` to `end`, both included: a lock to the end of a file ends at the largest offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LockRange {
    /// The first byte.
    pub start: u64,
    /// The last one; not below `start`.
    pub end: u64,
}

impl LockRange {
    /// Every byte.
    pub const ALL: LockRange = LockRange { start: 0, end: u64::MAX };

    /// The range; `None` when it ends before it begins.
    #[must_use]
    pub fn new(start: u64, end: u64) -> Option<LockRange> {
        (start <= end).then_some(LockRange { start, end })
    }

    /// Whether they have a byte in common.
    #[must_use]
    pub fn overlaps(self, other: LockRange) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// Bytes that one owner holds in one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldLock {
    /// Which bytes.
    pub range: LockRange,
    /// How.
    pub kind: LockKind,
    /// The process that took it last.
    pub pid: u32,
}

/// All that one owner holds of one file: ascending, disjoint, neighbours of one kind merged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LockRanges {
    held: Vec<HeldLock>,
}

impl LockRanges {
    /// From now on exactly this is held of `range`: a kind and the process that took it, or nothing.
    pub fn set(&mut self, range: LockRange, to: Option<(LockKind, u32)>) {
        let from = self.held.partition_point(|held| held.range.end < range.start);
        let behind = self.held.partition_point(|held| held.range.start <= range.end);
        let mut new = Vec::with_capacity(3);
        if let Some(first) = self.held[from..behind].first()
            && first.range.start < range.start
        {
            let end = range.start - 1; // not below 0: something starts before it
            new.push(HeldLock { range: LockRange { end, ..first.range }, ..*first });
        }
        new.extend(to.map(|(kind, pid)| HeldLock { range, kind, pid }));
        if let Some(last) = self.held[from..behind].last()
            && last.range.end > range.end
        {
            let start = range.end + 1; // something ends behind it
            new.push(HeldLock { range: LockRange { start, ..last.range }, ..*last });
        }
        let new_behind = from + new.len();
        self.held.splice(from..behind, new);
        self.merge(from.saturating_sub(1), new_behind);
    }

    /// Merges neighbours, from the one at `from` to the one at `to`.
    fn merge(&mut self, from: usize, to: usize) {
        for at in (from..to).rev() {
            if let Some([left, right]) = self.held.get_mut(at..at + 2)
                && left.kind == right.kind
                && left.range.end.checked_add(1) == Some(right.range.start)
            {
                left.range.end = right.range.end;
                self.held.remove(at + 1);
            }
        }
    }

    /// By how many ranges [`LockRanges::set`] would make the list longer.
    #[must_use]
    pub fn growth(&self, range: LockRange, to: Option<LockKind>) -> usize {
        let splits = |held: &&HeldLock| {
            held.range.start < range.start && held.range.end > range.end && Some(held.kind) != to
        };
        usize::from(to.is_some()) + usize::from(self.overlapping(range).any(|held| splits(&held)))
    }

    /// What is held of `range`, ascending; the first and the last may reach beyond it.
    pub fn overlapping(&self, range: LockRange) -> impl Iterator<Item = &HeldLock> {
        let from = self.held.partition_point(|held| held.range.end < range.start);
        self.held[from..].iter().take_while(move |held| held.range.start <= range.end)
    }

    /// Whether all of `range` is held in this way.
    #[must_use]
    pub fn has(&self, range: LockRange, kind: LockKind) -> bool {
        self.overlapping(range).all(|held| held.kind == kind) && self.covers(range)
    }

    /// Whether all of `range` is held in some way.
    #[must_use]
    pub fn covers(&self, range: LockRange) -> bool {
        let mut next = Some(range.start);
        for held in self.overlapping(range) {
            if next.is_none_or(|next| held.range.start > next) {
                return false;
            }
            next = held.range.end.checked_add(1);
        }
        next.is_none_or(|next| next > range.end)
    }

    /// All of it, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &HeldLock> {
        self.held.iter()
    }

    /// How many ranges there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES: usize = 24;

    /// Offsets of the model: the first few, and the last one there is.
    fn offset(at: usize) -> u64 {
        if at == BYTES - 1 { u64::MAX } else { crate::units::to_u64(at) }
    }

    fn kind() -> impl Strategy<Value = Option<LockKind>> {
        prop_oneof![Just(None), Just(Some(LockKind::Shared)), Just(Some(LockKind::Exclusive))]
    }

    proptest! {
        #[test]
        fn ranges_are_what_each_byte_says(
            steps in proptest::collection::vec((0..BYTES, 0..BYTES, kind()), 1..60),
        ) {
            let mut ranges = LockRanges::default();
            let mut bytes = [None; BYTES];
            for (a, b, to) in steps {
                let range = LockRange::new(offset(a.min(b)), offset(a.max(b))).unwrap();
                let before = ranges.count();
                let growth = ranges.growth(range, to);
                ranges.set(range, to.map(|kind| (kind, 7)));
                prop_assert!(ranges.count() <= before + growth);
                bytes[a.min(b)..=a.max(b)].fill(to);
                for (at, expected) in bytes.iter().enumerate() {
                    let byte = offset(at);
                    let byte = LockRange::new(byte, byte).unwrap();
                    let found: Vec<_> = ranges.overlapping(byte).map(|held| held.kind).collect();
                    prop_assert_eq!(found.first(), expected.as_ref());
                    prop_assert!(found.len() <= 1);
                    for kind in [LockKind::Shared, LockKind::Exclusive] {
                        prop_assert_eq!(ranges.has(byte, kind), *expected == Some(kind));
                    }
                }
                let list: Vec<HeldLock> = ranges.iter().copied().collect();
                for pair in list.windows(2) {
                    prop_assert!(pair[0].range.end < pair[1].range.start);
                    let touch = pair[0].range.end + 1 == pair[1].range.start;
                    prop_assert!(!touch || pair[0].kind != pair[1].kind, "not merged");
                }
                let all = to.is_some_and(|kind| ranges.has(range, kind));
                prop_assert_eq!(all, to.is_some());
            }
        }
    }
}
