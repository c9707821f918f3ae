//! `weft-sim`: plays seeds of the simulator's worlds.

use std::process::ExitCode;

use clap::Parser;
use weft_sim::runner::{self, Failure, Summary, Tally, Telling};
use weft_sim::{cluster, store_world};

mod options;
#[cfg(feature = "planted")]
mod planted;

use options::{Command, Options, Seeds};

/// The seeds that found something, once.
const KEPT: &str = include_str!("../seeds.txt");

fn main() -> ExitCode {
    let good = match Options::parse().command {
        Command::Store(seeds) => play("store", &seeds, store_world::play),
        Command::Cluster(seeds) => play("cluster", &seeds, cluster::play),
        #[cfg(feature = "planted")]
        Command::Planted { bug, from } => planted::hunt(threads(), bug.as_deref(), from),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays what was asked for of a world; whether all was well.
fn play(world: &str, wanted: &Seeds, play: fn(u64, Telling) -> Tally) -> bool {
    if let Some(seed) = wanted.seed {
        let telling = if wanted.verbose { Telling::Events } else { Telling::Steps };
        let mut summary = Summary::default();
        match runner::play_one(seed, |seed| play(seed, telling)) {
            Ok(tally) => summary.tally += tally,
            Err(failure) => {
                println!("{}", failure.message);
                summary.failures.push(failure);
            }
        }
        println!("{summary}");
        return summary.failures.is_empty();
    }
    runner::keep_panics();
    let mut seeds = if wanted.kept { runner::kept_seeds(KEPT, world) } else { Vec::new() };
    let from = if wanted.fresh { fresh_seed() } else { wanted.from };
    println!("{world}: {} kept seeds, then {} from {from} on", seeds.len(), wanted.seeds);
    seeds.extend(from..from + wanted.seeds);
    let threads = wanted.threads.unwrap_or_else(threads);
    let failed = |failure: &Failure| {
        let seed = failure.seed;
        println!("FAILED seed {seed}: {}", failure.message);
        println!("  replay: cargo run --release -p weft-sim -- {world} --seed {seed}");
        false
    };
    let summary = runner::play_all(&seeds, threads, |seed| play(seed, Telling::Quiet), failed);
    println!("{summary}");
    summary.failures.is_empty()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A seed nobody played before, most likely; short enough to type.
fn fresh_seed() -> u64 {
    let random = getrandom::u64().expect("the system has random numbers");
    random % 1_000_000_000_000
}
