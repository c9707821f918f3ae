//! The command line.

use crate::compare::Plan;
use crate::error::{At, Error, Result};
use crate::limits::{FILE_COUNT_MAX, PEER_COUNT_MAX, PROCESS_COUNT_MAX, ROUND_COUNT_MAX};
use crate::meta;
use crate::rows::Load;
use crate::worker::Worker;
use clap::{Args, Parser, Subcommand};
use std::path::{Path, PathBuf};

const FILE_BYTES: u64 = 1 << 30;
const FILE_BYTES_QUICK: u64 = 256 << 20;
/// Direct jobs use 1 MiB blocks; anything else would not fill the file.
const FILE_BYTES_STEP: u64 = 1 << 20;
const FILE_BYTES_MAX: u64 = 1 << 44;

/// Measures file systems against each other.
#[derive(Debug, Parser)]
#[command(name = "weft-load", version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs every load in each directory in turn and reports medians, ratios and where Weft stands
    Compare(CompareArgs),
    /// Drives a chunk store alone, and fio on the same file or device, in turn
    Store(crate::store::StoreArgs),
    /// Drives a running weft-server over TCP without a mount, and a store of its own, in turn
    Net(crate::net::NetArgs),
    /// Makes, looks up and removes names of a running weft-server without a mount, many at a time
    Names(crate::names::NamesArgs),
    /// One process of the metadata load; `compare` starts these
    #[command(hide = true)]
    Worker(WorkerArgs),
}

/// Options of `compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// A directory on the Weft mount
    #[arg(long, value_name = "DIR")]
    mount: PathBuf,
    /// A directory on a plain local file system, on the disk that Weft's targets are on
    #[arg(long, value_name = "DIR")]
    local: PathBuf,
    /// A directory on another file system; may be given several times
    #[arg(long, value_name = "[NAME=]DIR")]
    peer: Vec<String>,
    /// How often everything is measured; an odd number makes the median a measured one
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=i64::from(ROUND_COUNT_MAX)))]
    rounds: u32,
    /// Small files, short jobs: to see that it works, not for figures
    #[arg(long)]
    quick: bool,
    /// Draws the figures beside the local directory's as an SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Adds one JSON line a row to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Only these loads
    #[arg(long, value_name = "LOAD", value_enum, value_delimiter = ',')]
    only: Vec<Load>,
    /// Size of each of fio's 4 files in a directory [default: 1G, quick: 256M]
    #[arg(long, value_name = "BYTES[M|G]", value_parser = parse_bytes)]
    size: Option<u64>,
    /// Seconds of each timed fio job [default: 8, quick: 2]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3600))]
    runtime_s: Option<u32>,
    /// Processes of the metadata load
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=i64::from(PROCESS_COUNT_MAX)))]
    processes: u32,
    /// Files of each process in its own directory [default: 4000, quick: 500]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(FILE_COUNT_MAX)))]
    files: Option<u32>,
    /// Files of each process in the shared directory [default: 2000, quick: 250]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(FILE_COUNT_MAX)))]
    hard_files: Option<u32>,
    /// Processes of the crowd, which makes and removes empty files
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=i64::from(PROCESS_COUNT_MAX)))]
    crowd: u32,
    /// Seconds after which a program (fio, tar, a worker) has hung and is ended
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    limit_s: u32,
    /// Weft's processes, for the CPU column [default: all named weft-server or mount-weft]
    #[arg(long, value_name = "PID")]
    daemon_pid: Vec<u32>,
}

impl CompareArgs {
    /// The plan these options make, with every default filled in.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let by_size = |full, quick| if self.quick { quick } else { full };
        let mut directories = vec![
            ("mount".to_owned(), self.mount.clone()),
            ("local".to_owned(), self.local.clone()),
        ];
        for peer in &self.peer {
            let (label, path) = parse_peer(peer)?;
            if directories.iter().any(|(other, _)| *other == label) {
                return Err(Error::usage("--peer", format!("the name {label} is taken: NAME=DIR")));
            }
            directories.push((label, path));
        }
        if self.peer.len() > PEER_COUNT_MAX {
            return Err(Error::usage("--peer", format!("{PEER_COUNT_MAX} at most")));
        }
        let program =
            std::env::current_exe().at("find this program", Path::new("/proc/self/exe"))?;
        let all = vec![Load::Fio, Load::Meta, Load::Crowd, Load::Tree];
        let loads = if self.only.is_empty() { all } else { self.only.clone() };
        Ok(Plan {
            directories,
            round_count: self.rounds,
            file_bytes: self.size.unwrap_or(by_size(FILE_BYTES, FILE_BYTES_QUICK)),
            runtime_s: self.runtime_s.unwrap_or(if self.quick { 2 } else { 8 }),
            limit_s: self.limit_s,
            meta: meta::Settings {
                program,
                process_count: self.processes,
                easy_count: self.files.unwrap_or(if self.quick { 500 } else { 4000 }),
                hard_count: self.hard_files.unwrap_or(if self.quick { 250 } else { 2000 }),
                crowd: meta::Crowd {
                    process_count: self.crowd,
                    file_count: if self.quick { 125 } else { 1000 },
                },
                limit_s: self.limit_s,
            },
            loads: loads.into_iter().collect(),
            daemon_pids: self.daemon_pid.clone(),
        })
    }
}

/// `NAME=DIR`, or `DIR`, whose last part is the name.
fn parse_peer(text: &str) -> Result<(String, PathBuf)> {
    let (label, path) = match text.split_once('=') {
        Some((label, path)) if !label.contains('/') => (Some(label.to_owned()), path),
        _ => (None, text),
    };
    let path = PathBuf::from(path);
    let last = || path.file_name().map(|name| name.to_string_lossy().into_owned());
    let label = label.or_else(last).filter(|label| !label.is_empty());
    let label = label.ok_or_else(|| Error::usage("--peer", format!("{text}: say NAME=DIR")))?;
    if path.as_os_str().is_empty() || label.contains('|') {
        return Err(Error::usage("--peer", format!("{text}: say NAME=DIR")));
    }
    Ok((label, path))
}

/// `256M`, `1G` or plain bytes, in whole MiB.
pub(crate) fn parse_bytes(text: &str) -> std::result::Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    match bytes {
        Some(b) if b > 0 && b <= FILE_BYTES_MAX && b.is_multiple_of(FILE_BYTES_STEP) => Ok(b),
        _ => Err("say it like 256M or 1G: whole MiB, 16 TiB at most".into()),
    }
}

/// Options of a worker.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[arg(long)]
    root: PathBuf,
    #[arg(long)]
    rank: u32,
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(PROCESS_COUNT_MAX)))]
    rank_count: u32,
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(FILE_COUNT_MAX)))]
    easy_count: u32,
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(FILE_COUNT_MAX)))]
    hard_count: u32,
}

impl From<WorkerArgs> for Worker {
    fn from(args: WorkerArgs) -> Self {
        Self {
            root: args.root,
            rank: args.rank,
            rank_count: args.rank_count,
            easy_count: args.easy_count,
            hard_count: args.hard_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("256M"), Ok(256 << 20));
        assert_eq!(parse_bytes("1G"), Ok(1 << 30));
        assert_eq!(parse_bytes("1048576"), Ok(1 << 20));
        for bad in ["", "M", "0", "0G", "1K", "-1M", "1.5G", "1000", "99999999999G", "17000G", "é"]
        {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn peers_have_names() {
        let of = |text| parse_peer(text).expect(text);
        assert_eq!(of("/mnt/beegfs"), ("beegfs".into(), "/mnt/beegfs".into()));
        assert_eq!(of("bee=/mnt/x"), ("bee".into(), "/mnt/x".into()));
        assert_eq!(of("/mnt/a=b"), ("a=b".into(), "/mnt/a=b".into()));
        for bad in ["/", "", "x=", "=/mnt", "a|b=/mnt"] {
            assert!(parse_peer(bad).is_err(), "{bad}");
        }
    }

    fn plan(words: &[&str]) -> Result<Plan> {
        let base = ["weft-load", "compare", "--mount", "/m", "--local", "/l"];
        let options = Options::try_parse_from(base.iter().chain(words)).expect("parses");
        match options.command {
            Command::Compare(args) => args.plan(),
            _ => unreachable!("compare was asked for"),
        }
    }

    #[test]
    fn defaults_and_quick() {
        let full = plan(&[]).expect("good");
        assert_eq!((full.file_bytes, full.runtime_s, full.round_count), (1 << 30, 8, 5));
        assert_eq!((full.meta.process_count, full.meta.easy_count), (2, 4000));
        assert_eq!(full.loads.len(), 4);
        let quick = plan(&["--quick", "--only", "meta,tree", "--files", "9"]).expect("good");
        assert_eq!((quick.file_bytes, quick.runtime_s), (256 << 20, 2));
        assert_eq!((quick.meta.easy_count, quick.meta.hard_count), (9, 250));
        assert_eq!(quick.loads.len(), 2);
    }

    #[test]
    fn two_directories_of_one_name_are_refused() {
        assert!(plan(&["--peer", "/a/x", "--peer", "/b/x"]).is_err());
        assert!(plan(&["--peer", "/a/local"]).is_err());
        assert_eq!(
            plan(&["--peer", "/a/x", "--peer", "y=/b/x"]).expect("good").directories.len(),
            4
        );
    }
}
