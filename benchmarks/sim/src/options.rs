//! The command line.

use clap::{Args, Parser, Subcommand};

/// Plays seeds of a simulated store under faults and crashes; exit code 1 when one failed.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// The chunk store of one target, over a simulated disk.
    Store(Seeds),
    /// A node and its clients, over simulated disks and a simulated network.
    Cluster(Seeds),
    /// Plant mistakes in the cores, one after another, and count the seeds until each is found.
    #[cfg(feature = "planted")]
    Planted {
        /// Only this one.
        bug: Option<String>,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
    },
}

/// Which seeds, and how much is told of them.
#[derive(Clone, Debug, Args)]
pub(crate) struct Seeds {
    /// Play this seed only, and tell its course.
    #[arg(long, conflicts_with_all = ["seeds", "from", "fresh", "kept"])]
    pub(crate) seed: Option<u64>,

    /// How many seeds to play.
    #[arg(long, default_value_t = 100)]
    pub(crate) seeds: u64,

    /// The first of them; the others follow it.
    #[arg(long, default_value_t = 1)]
    pub(crate) from: u64,

    /// Begin at a random seed, which is printed.
    #[arg(long, conflicts_with = "from")]
    pub(crate) fresh: bool,

    /// Play the kept seeds (seeds.txt) first.
    #[arg(long)]
    pub(crate) kept: bool,

    /// Tell every operation and every I/O of `--seed`.
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// How many seeds at a time; as many as there are cores when not given.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}
