//! How long to spin before sleeping: the rule of the kernel's haltpoll.
//!
//! Waking a sleeper costs 35 us across cores on virtual machines (FACTS.md), so a short spin
//! halves the latency of one request at a time; but spinning through long idle times burns a core.
//! The budget grows when a sleep turned out to be one that spinning would have saved, and shrinks
//! when it did not.

use std::time::Duration;

/// The first step up from nothing.
const BUDGET_MIN: Duration = Duration::from_micros(5);

/// The current budget and its bound.
#[derive(Debug)]
pub(crate) struct Spin {
    budget: Duration,
    budget_max: Duration,
}

impl Spin {
    /// `max` of zero never spins.
    pub(crate) fn new(max: Duration) -> Spin {
        Spin { budget: Duration::ZERO, budget_max: max }
    }

    /// Whether spinning is on at all, so that sleeps are worth timing.
    pub(crate) fn is_on(&self) -> bool {
        !self.budget_max.is_zero()
    }

    /// How long to spin now.
    pub(crate) fn budget(&self) -> Duration {
        self.budget
    }

    /// Learns from a wait that ended in sleep: `waited` from the start of the spin to the wake-up.
    pub(crate) fn slept(&mut self, waited: Duration) {
        self.budget = if waited <= self.budget_max {
            (self.budget * 2).max(BUDGET_MIN).min(self.budget_max)
        } else if self.budget > BUDGET_MIN {
            self.budget / 2
        } else {
            Duration::ZERO
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn short_sleeps_raise_the_budget_to_its_bound_and_long_ones_end_it() {
        let mut spin = Spin::new(50 * US);
        assert_eq!(spin.budget(), Duration::ZERO);
        let grown: Vec<_> = (0..6)
            .map(|_| {
                spin.slept(30 * US);
                spin.budget().as_micros()
            })
            .collect();
        assert_eq!(grown, [5, 10, 20, 40, 50, 50]);
        for _ in 0..5 {
            spin.slept(51 * US);
        }
        assert_eq!(spin.budget(), Duration::ZERO);
    }

    #[test]
    fn off_stays_off() {
        let mut spin = Spin::new(Duration::ZERO);
        spin.slept(Duration::ZERO);
        assert!(!spin.is_on());
        assert_eq!(spin.budget(), Duration::ZERO);
    }
}
