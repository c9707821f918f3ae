//! Syncs that come together share one flush: it begins when the small writes are back that were on
//! the device when the first of them asked.
//!
//! Programs that write and sync do so side by side: the first write to come back is synced while
//! the others are on the device. A flush begun then would leave the others to a second one, twice
//! the time for all. A write that comes back needs no flush for that, so nothing waits in a circle;
//! and after [`HOLD_MAX`] the flush begins whatever is still out.

use std::time::Duration;

use crate::limits::{GATHER_BYTES_MAX, HOLD_MAX};

/// Which writes a flush waits for.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// Small writes given to the device, ever.
    begun: u64,
    /// Those of them that are not back.
    under_way: u64,
    /// Somebody waits for the next flush, which waits for `held` writes up to number `held_to`.
    wanted: bool,
    held_to: u64,
    held: u64,
    /// From the first tick on.
    held_since: Option<Duration>,
}

impl Gather {
    /// A write of so many bytes is given to the device; its number.
    pub(super) fn begin(&mut self, bytes: u32) -> u64 {
        if bytes > GATHER_BYTES_MAX {
            return 0;
        }
        self.begun += 1;
        self.under_way += 1;
        self.begun
    }

    /// The write is back, or failed.
    pub(super) fn end(&mut self, number: u64) {
        if number == 0 {
            return;
        }
        self.under_way -= 1;
        if number <= self.held_to {
            self.held = self.held.saturating_sub(1);
        }
    }

    /// A sync waits for the next flush.
    pub(super) fn want(&mut self) {
        if !self.wanted {
            (self.wanted, self.held_since) = (true, None);
            (self.held_to, self.held) = (self.begun, self.under_way);
        }
    }

    /// Whether the next flush should begin later.
    pub(super) fn is_held(&self) -> bool {
        self.held > 0
    }

    /// A flush begins.
    pub(super) fn flushed(&mut self) {
        (self.wanted, self.held_to, self.held) = (false, 0, 0);
    }

    pub(super) fn tick(&mut self, now: Duration) {
        let since = *self.held_since.get_or_insert(now);
        if now.saturating_sub(since) >= HOLD_MAX {
            self.held = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_waits_for_what_was_out_when_it_was_wanted_and_not_for_ever() {
        let mut gather = Gather::default();
        assert_eq!(gather.begin(GATHER_BYTES_MAX + 1), 0, "a large write is waited for by nobody");
        let out = [gather.begin(4096), gather.begin(4096)];
        gather.want();
        let later = gather.begin(4096);
        gather.want();
        gather.end(0);
        gather.end(out[1]);
        gather.end(later);
        assert!(gather.is_held());
        gather.end(out[0]);
        assert!(!gather.is_held());
        gather.flushed();
        let slow = gather.begin(4096);
        gather.want();
        gather.tick(Duration::from_secs(9));
        assert!(gather.is_held());
        gather.tick(Duration::from_secs(9) + HOLD_MAX);
        assert!(!gather.is_held());
        gather.flushed();
        gather.end(slow);
        assert_eq!(gather.under_way, 0);
    }
}
