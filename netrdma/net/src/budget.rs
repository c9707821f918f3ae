//! Memory that the connections of one thread share: who wants some asks first, and waits when it is all given out.

use std::cell::Cell;
use std::rc::Rc;

/// Bytes that may be held at once. A clone gives out from the same account.
#[derive(Clone, Debug)]
pub struct Budget {
    left_bytes: Rc<Cell<u64>>,
}

/// A part of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Hold {
    budget: Budget,
    bytes: u64,
}

impl Budget {
    /// `bytes_max` bytes, all to be had.
    pub fn new(bytes_max: u64) -> Budget {
        Budget { left_bytes: Rc::new(Cell::new(bytes_max)) }
    }

    /// For an end whose peer is trusted to bound itself: a client has asked for every body it receives.
    pub fn unlimited() -> Budget {
        Budget::new(u64::MAX)
    }

    /// What could be taken now, in bytes.
    pub fn left_bytes(&self) -> u64 {
        self.left_bytes.get()
    }

    /// Takes `bytes`; `None` when so many are not left: ask again when some were given back.
    pub fn take(&self, bytes: u64) -> Option<Hold> {
        let left_bytes = self.left_bytes.get().checked_sub(bytes)?;
        self.left_bytes.set(left_bytes);
        Some(Hold { budget: self.clone(), bytes })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.budget.left_bytes.set(self.budget.left_bytes.get() + self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let budget = Budget::new(10);
        let hold = budget.clone().take(7).unwrap();
        assert!(budget.take(4).is_none());
        let rest = budget.take(3).unwrap();
        assert_eq!(budget.left_bytes(), 0);
        drop((hold, rest));
        assert_eq!(budget.left_bytes(), 10);
        drop(Budget::unlimited().take(u64::MAX));
    }
}
