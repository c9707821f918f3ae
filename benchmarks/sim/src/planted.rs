//! Plants one bug after another and counts the seeds until it is found.

use std::fmt::Debug;
use std::time::Instant;

use weft_sim::runner::{self, Tally, Telling};
use weft_sim::{cluster, store_world};

/// A bug that so many seeds do not show is not found.
const SEEDS_MAX: u64 = 500;
/// Plants a bug in the thread that plays a world.
type Plant = Box<dyn Fn() + Sync>;

/// A bug: its name, what plants it, and what plays a seed of the world that is to find it.
struct Hunted {
    name: String,
    plant: Plant,
    play: fn(u64, Telling) -> Tally,
}

fn all() -> Vec<Hunted> {
    use weft_client_core::planted as client;
    use weft_metadata::planted as metadata;
    use weft_server_core::planted as server;
    use weft_store::planted as store;
    let stores = hunted(store::Bug::ALL, store::plant, store_world::play);
    let volumes = hunted(metadata::Bug::ALL, metadata::plant, cluster::play);
    let servers = hunted(server::Bug::ALL, server::plant, cluster::play);
    let clients = hunted(client::Bug::ALL, client::plant, cluster::play);
    stores.chain(volumes).chain(servers).chain(clients).collect()
}

fn hunted<Bug: Copy + Debug + Sync>(
    bugs: &'static [Bug],
    plant: fn(Option<Bug>),
    play: fn(u64, Telling) -> Tally,
) -> impl Iterator<Item = Hunted> {
    bugs.iter().map(move |bug| Hunted {
        name: format!("{bug:?}"),
        plant: Box::new(move || plant(Some(*bug))),
        play,
    })
}

/// Prints the table; whether every bug was found.
pub(crate) fn hunt(threads: usize, only: Option<&str>, from: u64) -> bool {
    runner::keep_panics();
    println!("| bug | seeds until found | seconds | what was noticed |\n|---|---|---|---|");
    let (mut found, mut bugs) = (0, 0);
    for hunted in all() {
        if only.is_some_and(|only| only != hunted.name) {
            continue;
        }
        bugs += 1;
        found += u64::from(hunt_one(&hunted, threads, from));
    }
    println!("{found} planted bugs found, {} not found, 0 skipped", bugs - found);
    found == bugs
}

fn hunt_one(hunted: &Hunted, threads: usize, from: u64) -> bool {
    let name = &hunted.name;
    let seeds: Vec<u64> = (from..from + SEEDS_MAX).collect();
    #[expect(clippy::disallowed_methods, reason = "how long a person waits is real time")]
    let begin = Instant::now();
    let play = |seed| {
        (hunted.plant)();
        (hunted.play)(seed, Telling::Quiet)
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
    println!("| {name} | {} | {seconds:.1} | {noticed} |", failure.seed - from + 1);
    true
}
