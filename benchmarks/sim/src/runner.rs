//! Plays many seeds, on every core, and tells what came of them.

use std::cell::RefCell;
use std::fmt;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How much of a run is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Telling {
    /// Nothing but what fails.
    Quiet,
    /// The course of the seed: crashes, recoveries.
    Steps,
    /// Every operation and every I/O, too.
    Events,
}

impl Telling {
    /// Tells a step.
    pub fn step(self, now: Duration, what: impl FnOnce() -> String) {
        if self != Telling::Quiet {
            println!("{:>12.6}  {}", now.as_secs_f64(), what());
        }
    }

    /// Tells an event.
    pub fn event(self, now: Duration, what: impl FnOnce() -> String) {
        if self == Telling::Events {
            println!("{:>12.6}    {}", now.as_secs_f64(), what());
        }
    }
}

/// What was done in seeds played to their end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Seeds.
    pub seeds: u64,
    /// Operations begun.
    pub operations: u64,
    /// Kills and power losses.
    pub crashes: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.seeds += other.seeds;
        self.operations += other.operations;
        self.crashes += other.crashes;
    }
}

/// A seed in which something was wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Which.
    pub seed: u64,
    /// What the failed check said, and where it is.
    pub message: String,
}

/// What came of many seeds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Of the seeds in which all was well.
    pub tally: Tally,
    /// The others, in order of seed.
    pub failures: Vec<Failure>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { seeds, operations, crashes } = self.tally;
        let failed = self.failures.len();
        let seeds = seeds + u64::try_from(failed).expect("64 bits");
        write!(f, "{seeds} seeds, {operations} operations, {crashes} crashes, {failed} failed")
    }
}

thread_local! {
    /// What the last panic on this thread said.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps what panics say instead of printing it. Call once, before [`play_all`].
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        let message = format!("{info}");
        LAST_PANIC.with(|last| last.replace(message));
    }));
}

/// Plays one seed.
///
/// # Errors
/// The failure, when a check failed or the code under test panicked.
pub fn play_one(seed: u64, play: impl Fn(u64) -> Tally) -> Result<Tally, Failure> {
    catch_unwind(AssertUnwindSafe(|| play(seed))).map_err(|_| {
        let message = LAST_PANIC.with(|last| last.take());
        Failure { seed, message }
    })
}

/// Plays the seeds on `threads` threads. `failed` is told of each failure at once; when it returns
/// true no further seeds are begun.
pub fn play_all(
    seeds: &[u64],
    threads: usize,
    play: impl Fn(u64) -> Tally + Sync,
    failed: impl Fn(&Failure) -> bool + Sync,
) -> Summary {
    let next = AtomicUsize::new(0);
    let summary = Mutex::new(Summary::default());
    let work = || {
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let played = play_one(*seed, &play);
            let mut summary = summary.lock().expect("nothing panics while it is held");
            match played {
                Ok(tally) => summary.tally += tally,
                Err(failure) => {
                    if failed(&failure) {
                        next.store(seeds.len(), Ordering::Relaxed);
                    }
                    summary.failures.push(failure);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut summary = summary.into_inner().expect("nothing panics while it is held");
    summary.failures.sort_by_key(|failure| failure.seed);
    summary
}

/// The seeds kept for one world: `text` has a line for each, `world seed  what it found`.
///
/// # Panics
/// On a line that says anything else: the list is part of this crate.
pub fn kept_seeds(text: &str, world: &str) -> Vec<u64> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mine = words.filter(|words| words.first() == Some(&world));
    mine.map(|words| words[1].parse().expect("a seed is a number")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(seed: u64) -> Tally {
        assert!(!seed.is_multiple_of(10), "{seed} is divisible");
        Tally { seeds: 1, operations: 5, crashes: 1 }
    }

    #[test]
    fn all_seeds_are_played_and_failures_told() {
        let seeds: Vec<u64> = (1..=25).collect();
        let summary = play_all(&seeds, 3, play, |_| false);
        assert_eq!(summary.to_string(), "25 seeds, 115 operations, 23 crashes, 2 failed");
        assert_eq!(summary.failures.iter().map(|f| f.seed).collect::<Vec<_>>(), [10, 20]);
        let first = play_all(&seeds, 1, play, |_| true);
        assert_eq!((first.tally.seeds, first.failures.len()), (9, 1));
    }

    #[test]
    fn the_list_of_kept_seeds_is_read() {
        let text = "# world seed  what\nstore 17  a thing\n\nother 3  another\nstore 4  x\n";
        assert_eq!(kept_seeds(text, "store"), [17, 4]);
    }
}
