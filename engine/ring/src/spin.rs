//! How long to spin before sleeping, and when not to.
//!
//! Waking a sleeper costs 35 us across cores on virtual machines (FACTS.md), so a short spin
//! halves the latency of one request at a time; but spinning through long idle times burns a core.
//! So a spin lasts twice as long as the longest of the latest waits that spinning can shorten, and there
//! is none after some waits in a row that were longer than that. (The kernel's haltpoll halves its budget after
//! each long wait; where one long wait follows on three short ones, as between the requests of a create,
//! that leaves one or two of them to sleep.) The longest spin is one thing where something
//! is under way that will end by itself, at a device or at a peer: a durable change takes 150 to 250 us.
//! Where only somebody's next wish can come it is a quarter of that, so that a core is not burnt
//! for a request every 300 us.
//!
//! While it spins the thread offers its core to others again and again (`sched_yield`). One that
//! works for others lets them run for some microseconds; where a compiler takes the core for a whole
//! time slice, a thread that sleeps gets it back sooner than one that yields, so there is no spinning
//! for a while. What takes the core once in a while (a thread of the kernel, a program
//! that starts) must not end spinning for long, as the rate of a program that asks one thing at a time is then
//! half of what it could be. So a rest is measured by what was taken, and longer only where the core is taken again at
//! its end.

use std::time::Duration;

/// The shortest spin worth its while.
const BUDGET_MIN: Duration = Duration::from_micros(5);
/// Which part of the longest is tried where nothing is under way.
const ASKED_PART: u32 = 4;
/// So many waits too long for spinning, more than others, end it.
const MISSES_MAX: u32 = 8;
/// A yield that took longer than this gave the core to somebody with work of its own. Two threads that spin on one core
/// give it back sooner, each for a short slice of the other's (`host::run_soon`).
const YIELD_MAX: Duration = Duration::from_micros(250);
/// No spinning after such a yield for so many times what it took: spinning costs 3 % of the time at most.
const REST_YIELDS: u32 = 32;
/// A rest is twice as long as the one before when the core was ours for less than this part of that between the two.
const SOON_PART: u32 = 4;
/// The longest rest: 3 to 4 ms, a time slice of somebody else, are lost after each where all cores are busy.
const REST_MAX: Duration = Duration::from_millis(1280);

/// A spin for what is under way looks so often whether there are idle cores.
const LOOK_EVERY: Duration = Duration::from_micros(25);
/// So many looks that find none, more than others weigh, are a crowd.
const FULL_LOOKS: u32 = 32;
/// How many of them one that finds an idle core outweighs: programs that are answered and ask again take the last core for
/// moments, programs that compute keep it. (Two looks in a row, without weights, took a part of the gain away on two idle cores:
/// creates by one program 4.2 instead of 5.6 thousand a second.)
const IDLE_WEIGHT: u32 = 4;
/// For how long there is no spinning for long waits in a crowd, until the next look.
const CROWD: Duration = Duration::from_millis(20);

/// What a wait waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Something that is under way, at a device or a peer.
    Done,
    /// Somebody's next wish.
    Asked,
}

/// What waits of one kind were like of late.
#[derive(Debug)]
struct Budget {
    max: Duration,
    /// How long those that spinning can shorten take: the longest, which fades.
    span: Duration,
    /// Whether there are such waits: one for each, one less for each of the others.
    credit: u32,
}

impl Budget {
    fn new(max: Duration) -> Budget {
        Budget { max, span: Duration::ZERO, credit: 0 }
    }

    fn get(&self) -> Duration {
        match self.credit {
            0 => Duration::ZERO,
            _ => (2 * self.span).max(BUDGET_MIN).min(self.max),
        }
    }

    fn waited(&mut self, waited: Duration) {
        if waited <= self.max {
            self.span = waited.max(self.span - self.span / 8);
            self.credit = (self.credit + 1).min(MISSES_MAX);
        } else {
            self.credit = self.credit.saturating_sub(1);
        }
    }
}

/// What waits of each kind were like.
#[derive(Debug)]
pub(crate) struct Budgets {
    done: Budget,
    asked: Budget,
}

impl Budgets {
    /// `max`: of waits for what is under way.
    pub(crate) fn new(max: Duration) -> Budgets {
        Budgets { done: Budget::new(max), asked: Budget::new(max / ASKED_PART) }
    }

    fn of(&self, until: Until) -> &Budget {
        match until {
            Until::Done => &self.done,
            Until::Asked => &self.asked,
        }
    }

    /// The longest wait of this kind that counts as short.
    pub(crate) fn max(&self, until: Until) -> Duration {
        self.of(until).max
    }

    /// Twice as long as the short ones of late; zero when there are none.
    pub(crate) fn get(&self, until: Until) -> Duration {
        self.of(until).get()
    }

    /// Learns from a wait.
    pub(crate) fn waited(&mut self, until: Until, waited: Duration) {
        match until {
            Until::Done => self.done.waited(waited),
            Until::Asked => self.asked.waited(waited),
        }
    }
}

/// When to spin, and for how long.
#[derive(Debug)]
pub(crate) struct Spin {
    budgets: Budgets,
    /// The latest rest, and when it ends: no spinning before.
    rest: Duration,
    rest_end: Duration,
    /// When the latest look around was, and how many found no idle core, less what those weigh that did.
    looked_at: Duration,
    full_looks: u32,
    /// Until when there is a crowd.
    crowd_end: Duration,
}

impl Spin {
    /// `max` of zero never spins.
    pub(crate) fn new(max: Duration) -> Spin {
        Spin {
            budgets: Budgets::new(max),
            rest: Duration::ZERO,
            rest_end: Duration::ZERO,
            looked_at: Duration::ZERO,
            full_looks: 0,
            crowd_end: Duration::ZERO,
        }
    }

    /// Whether spinning is on at all, so that waits are worth timing.
    pub(crate) fn is_on(&self) -> bool {
        !self.budgets.max(Until::Done).is_zero()
    }

    /// How long to spin now.
    pub(crate) fn budget(&self, until: Until, now: Duration) -> Duration {
        let is_long = self.budgets.of(until).span > self.budgets.max(Until::Asked);
        if now < self.rest_end || now < self.crowd_end && is_long {
            return Duration::ZERO;
        }
        self.budgets.get(until)
    }

    /// Learns from a wait, which ended spinning or asleep.
    pub(crate) fn waited(&mut self, until: Until, waited: Duration) {
        self.budgets.waited(until, waited);
    }

    /// Whether to look now whether there are idle cores, in a spin that began at `start`.
    pub(crate) fn looks_around(&self, until: Until, start: Duration, now: Duration) -> bool {
        // While programs think of their next wish they run.
        until == Until::Done && now.saturating_sub(self.looked_at.max(start)) >= LOOK_EVERY
    }

    /// Learns from such a look.
    pub(crate) fn looked(&mut self, now: Duration, is_full: bool) {
        self.looked_at = now;
        self.full_looks = match is_full {
            true => (self.full_looks + 1).min(FULL_LOOKS),
            false => self.full_looks.saturating_sub(IDLE_WEIGHT),
        };
        if self.full_looks == FULL_LOOKS {
            self.crowd_end = now + CROWD;
        }
    }

    /// Learns from a yield. True when the core is wanted by others: stop spinning.
    pub(crate) fn yielded(&mut self, before: Duration, after: Duration) -> bool {
        let taken = after.saturating_sub(before);
        if taken <= YIELD_MAX {
            return false;
        }
        let soon = before.saturating_sub(self.rest_end) < self.rest / SOON_PART;
        let again = if soon { self.rest * 2 } else { Duration::ZERO };
        self.rest = again.max(taken * REST_YIELDS).min(REST_MAX);
        self.rest_end = after + self.rest;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_spin_is_twice_as_long_as_waits_were_and_long_waits_end_it() {
        let mut spin = Spin::new(400 * US);
        assert_eq!(spin.budget(Until::Done, US), Duration::ZERO, "nothing is known yet");
        spin.waited(Until::Done, US);
        assert_eq!(spin.budget(Until::Done, US), BUDGET_MIN);
        spin.waited(Until::Done, 80 * US);
        assert_eq!(spin.budget(Until::Done, US), 160 * US);
        assert_eq!(spin.budget(Until::Asked, US), Duration::ZERO, "each kind by itself");
        spin.waited(Until::Done, 300 * US);
        assert_eq!(spin.budget(Until::Done, US), 400 * US, "the bound");
        for _ in 0..40 {
            spin.waited(Until::Done, 10 * US);
        }
        let budget = spin.budget(Until::Done, US);
        assert!((20 * US..25 * US).contains(&budget), "the longest fades: {budget:?}");
        for _ in 0..MISSES_MAX {
            assert_eq!(spin.budget(Until::Done, US), budget);
            spin.waited(Until::Done, 401 * US);
        }
        assert_eq!(spin.budget(Until::Done, US), Duration::ZERO);
    }

    #[test]
    fn one_long_wait_of_four_leaves_the_short_ones_their_spin() {
        let mut spin = Spin::new(400 * US);
        spin.waited(Until::Asked, 20 * US);
        for _ in 0..50 {
            for waited in [20 * US, 30 * US, 25 * US, 250 * US] {
                assert!(spin.budget(Until::Asked, US) >= 40 * US);
                spin.waited(Until::Asked, waited);
            }
        }
    }

    #[test]
    fn a_wish_every_300_us_is_not_spun_for_but_an_answer_is() {
        let mut spin = Spin::new(400 * US);
        for _ in 0..20 {
            spin.waited(Until::Asked, 300 * US);
            spin.waited(Until::Done, 300 * US);
        }
        assert_eq!(spin.budget(Until::Asked, US), Duration::ZERO);
        assert_eq!(spin.budget(Until::Done, US), 400 * US);
    }

    #[test]
    fn off_stays_off() {
        let mut spin = Spin::new(Duration::ZERO);
        spin.waited(Until::Done, Duration::ZERO);
        assert!(!spin.is_on());
        assert_eq!(spin.budget(Until::Done, US), Duration::ZERO);
    }

    /// A spin that has learnt to, at `now`.
    fn spinning() -> Spin {
        let mut spin = Spin::new(400 * US);
        spin.waited(Until::Done, 30 * US);
        spin
    }

    #[test]
    fn a_core_that_others_keep_is_left_to_them_for_longer_and_longer() {
        let mut spin = spinning();
        assert!(!spin.yielded(10 * MS, 10 * MS + YIELD_MAX), "somebody worked for us");
        assert_eq!(spin.budget(Until::Done, 11 * MS), 60 * US);
        let mut now = 100 * MS;
        for rest_ms in [96, 192, 384, 768, 1280, 1280] {
            assert!(spin.yielded(now, now + 3 * MS));
            now += (3 + rest_ms) * MS;
            assert_eq!(spin.budget(Until::Done, now - US), Duration::ZERO);
            assert_eq!(spin.budget(Until::Done, now), 60 * US);
        }
    }

    #[test]
    fn where_no_core_is_idle_only_short_waits_are_spun_in() {
        let mut spin = spinning();
        spin.waited(Until::Asked, 30 * US);
        spin.waited(Until::Done, 150 * US);
        let start = 100 * MS;
        let mut now = start + LOOK_EVERY;
        assert!(!spin.looks_around(Until::Done, start, now - US));
        assert!(spin.looks_around(Until::Done, start, now));
        assert!(!spin.looks_around(Until::Asked, start, now));
        // Programs that run for a moment now and then, three looks of four.
        for turn in 0..200 {
            spin.looked(now, turn % 4 > 0);
            assert_eq!(spin.budget(Until::Done, now), 300 * US);
            assert!(!spin.looks_around(Until::Done, start, now + LOOK_EVERY - US));
            now += LOOK_EVERY;
        }
        // Programs that compute.
        for _ in 0..FULL_LOOKS {
            spin.looked(now, true);
        }
        assert_eq!(spin.budget(Until::Done, now + CROWD - US), Duration::ZERO);
        assert_eq!(spin.budget(Until::Asked, now), 60 * US);
        now += CROWD;
        assert_eq!(spin.budget(Until::Done, now), 300 * US, "it looks again");
        spin.looked(now, true);
        assert_eq!(spin.budget(Until::Done, now), Duration::ZERO, "they still do");
        now += CROWD;
        spin.looked(now, false);
        spin.looked(now, true);
        assert_eq!(spin.budget(Until::Done, now), 300 * US, "they have ended");
    }

    /// A thread of the kernel that works for a millisecond ten times a second made the rest 25 s long once, which
    /// halved the rate of one request at a time for as long.
    #[test]
    fn what_takes_the_core_once_in_a_while_ends_spinning_for_a_while() {
        let mut spin = spinning();
        let mut rested = Duration::ZERO;
        for tenth in 1..=100 {
            let now = 100 * MS * tenth;
            assert_eq!(spin.budget(Until::Done, now), 60 * US);
            assert!(spin.yielded(now, now + MS));
            rested += spin.rest_end - now;
        }
        assert!(rested < Duration::from_secs(4), "of ten seconds: {rested:?}");
    }
}
