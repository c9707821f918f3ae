//! The I/Os under way: whose they are.

use slab::Slab;
use weft_wire::units::{to_u64, to_usize};

use super::IoUse;
use crate::action::IoId;

/// A number is a count in the upper bits and a place in the table in the lower: found without a
/// search, and no second completion of one is taken for another's.
const PLACE_BITS: u32 = 24;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;

/// I/Os that are not completed.
#[derive(Debug, Default)]
pub(super) struct Ios {
    begun_count: u64,
    table: Slab<(IoId, IoUse)>,
}

impl Ios {
    /// Names an I/O.
    pub(super) fn begin(&mut self, used: IoUse) -> IoId {
        let entry = self.table.vacant_entry();
        let place = to_u64(entry.key());
        assert!(place <= PLACE_MASK, "operations are fewer than this by far");
        self.begun_count += 1;
        let io = IoId(self.begun_count << PLACE_BITS | place);
        entry.insert((io, used));
        io
    }

    /// Whose it was; `None` if there is no such I/O under way.
    pub(super) fn end(&mut self, io: IoId) -> Option<IoUse> {
        let place = to_usize(io.0 & PLACE_MASK);
        self.table.get(place).filter(|(under_way, _)| *under_way == io)?;
        Some(self.table.remove(place).1)
    }

    /// Whose it is, while it is under way.
    pub(super) fn used(&self, io: IoId) -> Option<&IoUse> {
        let (under_way, used) = self.table.get(to_usize(io.0 & PLACE_MASK))?;
        (*under_way == io).then_some(used)
    }

    pub(super) fn uses(&self) -> impl Iterator<Item = &IoUse> {
        self.table.iter().map(|(_, (_, used))| used)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ends_once_whoever_has_its_place_since() {
        let mut ios = Ios::default();
        let first = ios.begin(IoUse::Append);
        let second = ios.begin(IoUse::Flush);
        assert!(matches!(ios.end(first), Some(IoUse::Append)));
        assert!(ios.end(first).is_none());
        let third = ios.begin(IoUse::Discard);
        assert!(ios.end(first).is_none() && first < second && second < third);
        assert!(matches!(ios.end(second), Some(IoUse::Flush)));
        assert!(matches!(ios.end(third), Some(IoUse::Discard)));
        assert!(ios.is_empty() && ios.end(IoId(u64::MAX)).is_none());
    }
}
