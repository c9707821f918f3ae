//! How long to spin before sleeping: the rule of the kernel's haltpoll.
//!
//! Waking a sleeper costs 35 us across cores on virtual machines (FACTS.md), so a short spin
//! halves the latency of one request at a time; but spinning through long idle times burns a core.
//! The budget grows when a sleep turned out to be one that spinning would have saved, and shrinks
//! when it did not.
//!
//! While it spins the thread offers its core to others again and again (`sched_yield`). One that
//! works for others lets them run for some microseconds; where a compiler takes the core for a whole
//! time slice, a thread that sleeps gets it back sooner than one that yields, so there is no spinning
//! for a while.

use std::time::Duration;

/// The first step up from nothing.
const BUDGET_MIN: Duration = Duration::from_micros(5);
/// A yield that took longer than this gave the core to somebody with work of its own.
const YIELD_MAX: Duration = Duration::from_micros(150);
/// No spinning after such a yield for this long; twice as long each time.
const REST_MIN: Duration = Duration::from_millis(100);
/// The longest rest.
const REST_MAX: Duration = Duration::from_millis(25_600);
/// After a spin that was worth it, so long after a rest, the next rest is short again.
const CALM: Duration = Duration::from_secs(1);

/// The current budget and its bound.
#[derive(Debug)]
pub(crate) struct Spin {
    budget: Duration,
    budget_max: Duration,
    /// No spinning before this.
    rest_end: Duration,
    /// How long the next rest will be.
    rest: Duration,
}

impl Spin {
    /// `max` of zero never spins.
    pub(crate) fn new(max: Duration) -> Spin {
        let (budget, rest_end) = (Duration::ZERO, Duration::ZERO);
        Spin { budget, budget_max: max, rest_end, rest: REST_MIN }
    }

    /// Whether spinning is on at all, so that sleeps are worth timing.
    pub(crate) fn is_on(&self) -> bool {
        !self.budget_max.is_zero()
    }

    /// How long to spin now.
    pub(crate) fn budget(&self, now: Duration) -> Duration {
        if now < self.rest_end { Duration::ZERO } else { self.budget }
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

    /// Learns from a spin that was worth it.
    pub(crate) fn hit(&mut self, now: Duration) {
        if now.saturating_sub(self.rest_end) >= CALM {
            self.rest = REST_MIN;
        }
    }

    /// Learns from a yield. True when the core is wanted by others: stop spinning.
    pub(crate) fn yielded(&mut self, before: Duration, after: Duration) -> bool {
        if after.saturating_sub(before) <= YIELD_MAX {
            return false;
        }
        self.rest_end = after + self.rest;
        self.rest = (self.rest * 2).min(REST_MAX);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn short_sleeps_raise_the_budget_to_its_bound_and_long_ones_end_it() {
        let mut spin = Spin::new(50 * US);
        assert_eq!(spin.budget(US), Duration::ZERO);
        let grown: Vec<_> = (0..6)
            .map(|_| {
                spin.slept(30 * US);
                spin.budget(US).as_micros()
            })
            .collect();
        assert_eq!(grown, [5, 10, 20, 40, 50, 50]);
        for _ in 0..5 {
            spin.slept(51 * US);
        }
        assert_eq!(spin.budget(US), Duration::ZERO);
    }

    #[test]
    fn off_stays_off() {
        let mut spin = Spin::new(Duration::ZERO);
        spin.slept(Duration::ZERO);
        assert!(!spin.is_on());
        assert_eq!(spin.budget(US), Duration::ZERO);
    }

    #[test]
    fn a_core_that_others_take_is_left_to_them_for_longer_and_longer() {
        let mut spin = Spin::new(50 * US);
        spin.slept(30 * US);
        assert!(!spin.yielded(1000 * US, 1020 * US), "somebody worked for us");
        assert_eq!(spin.budget(1020 * US), BUDGET_MIN);
        let mut now = 2000 * US;
        for rest in [REST_MIN, 2 * REST_MIN, 4 * REST_MIN] {
            assert!(spin.yielded(now, now + 3000 * US));
            now += 3000 * US;
            assert_eq!(spin.budget(now + rest - US), Duration::ZERO);
            assert_eq!(spin.budget(now + rest), BUDGET_MIN);
            now += rest;
        }
        spin.hit(now);
        assert_eq!(spin.rest, 8 * REST_MIN, "not calm for long enough");
        now += CALM;
        spin.hit(now);
        assert!(spin.yielded(now, now + 3000 * US));
        assert_eq!(spin.budget(now + 3000 * US + REST_MIN), BUDGET_MIN);
    }
}
