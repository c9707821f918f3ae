//! Plants one bug after another and counts the seeds until it is found.

use std::time::Instant;

use weft_sim::runner::{self, Telling};
use weft_sim::store_world;
use weft_store::planted::{Bug, plant};

/// A bug that so many seeds do not show is not found.
const SEEDS_MAX: u64 = 500;

/// Prints the table; whether every bug was found.
pub(crate) fn hunt(threads: usize, only: Option<&str>) -> bool {
    runner::keep_panics();
    println!("| bug | seeds until found | seconds | what was noticed |\n|---|---|---|---|");
    let (mut found, mut bugs) = (0, 0);
    for bug in Bug::ALL {
        let name = format!("{bug:?}");
        if only.is_some_and(|only| only != name) {
            continue;
        }
        bugs += 1;
        found += u64::from(hunt_one(bug, &name, threads));
    }
    println!(
        "{bugs} planted bugs, {found} found within {SEEDS_MAX} seeds, {} failed",
        bugs - found
    );
    found == bugs
}

fn hunt_one(bug: Bug, name: &str, threads: usize) -> bool {
    let seeds: Vec<u64> = (1..=SEEDS_MAX).collect();
    #[expect(clippy::disallowed_methods, reason = "how long a person waits is real time")]
    let begin = Instant::now();
    let play = |seed| {
        plant(Some(bug));
        store_world::play(seed, Telling::Quiet)
    };
    let summary = runner::play_all(&seeds, threads, play, |_| true);
    let seconds = begin.elapsed().as_secs_f64();
    let Some(failure) = summary.failures.first() else {
        println!("| {name} | not found | {seconds:.1} | |");
        return false;
    };
    // Behind the place comes what the check says.
    let noticed = failure.message.lines().nth(1).unwrap_or_default();
    let noticed: String = noticed.chars().take(100).collect();
    println!("| {name} | {} | {seconds:.1} | {noticed} |", failure.seed);
    true
}
