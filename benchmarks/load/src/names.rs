//! `weft-load names`: names of a running server over the wire, from one thread with one connection, without a mount and
//! without leases: so a million files take seconds, and what an operation costs the server is seen alone.
//! `benchmarks/scaling.py` starts the server, calls this once for each measurement, and reads the line it prints.
//!
//! The files are `fN`, N from 0, `--dir-files` of them in each of the directories `d0`, `d1`, ... of the root. `fill`
//! makes those, in order. The others work on a sample that a seed picks: `stat` looks such files up, `make` makes a new
//! one beside each of them, `remove` removes those again. Directories are looked up before the clock starts.

use crate::client::Client;
use crate::clock::{monotonic_ns, seconds_between};
use crate::error::{Error, Result};
use crate::store::jobs::{Random, process_cpu_ns};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use weft_wire::meta::{Caller, FileKind, MakeHow, MetaReply, MetaRequest, NO_SLOT};
use weft_wire::{Ino, Status};

/// Longest spin before sleeping, in microseconds.
const SPIN_US: u32 = 50;
/// In flight where no figure is taken.
const DEPTH: u16 = 64;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Work {
    /// Makes files `--first` to `--total`, and their directories
    Fill,
    /// Looks `--count` of the files up, anywhere; the answer has their attributes
    Stat,
    /// Makes a new file beside each of `--count` of them
    Make,
    /// Removes what `make` made with the same seed
    Remove,
}

/// Options of `names`.
#[derive(Debug, Args)]
pub(crate) struct NamesArgs {
    /// What to do
    work: Work,
    /// Where the server listens
    #[arg(long, value_name = "IP:PORT")]
    server: SocketAddr,
    /// How many files there are, or will be after `fill`
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    total: u64,
    /// Of `fill`: how many there are already
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Of the others: how many operations
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    count: u64,
    /// Files in each directory
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    dir_files: u64,
    /// Which files the sample has
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seed: u64,
    /// Requests in flight
    #[arg(long, default_value_t = DEPTH, value_parser = clap::value_parser!(u16).range(1..))]
    depth: u16,
}

/// Does the work and prints one line of JSON: operations a second, and CPU of this program for each.
pub(crate) fn run(args: &NamesArgs) -> Result<bool> {
    if args.work == Work::Fill && args.first >= args.total {
        return Err(Error::usage("--first", "there is nothing to make: it is not below --total"));
    }
    let mut volume = Volume::connect(args.server)?;
    if args.depth > volume.slot_count {
        let most = format!("{} at most: the server's slots", volume.slot_count);
        return Err(Error::usage("--depth", most));
    }
    let files = Files::of(args);
    let directories = volume.directories(&files.directories(), args.work == Work::Fill)?;
    let place = |index| {
        let number = files.number(index);
        let name = match args.work {
            Work::Fill | Work::Stat => format!("f{number}"),
            Work::Make | Work::Remove => format!("s{}-{index}", args.seed),
        };
        (directories[&(number / args.dir_files)], name.into_bytes())
    };
    let ask = match args.work {
        Work::Fill | Work::Make => Ask::Make(FileKind::Regular),
        Work::Stat => Ask::Lookup,
        Work::Remove => Ask::Unlink,
    };
    let (start_ns, cpu_ns) = (monotonic_ns(), process_cpu_ns());
    volume.drive(ask, files.count(), args.depth, place, |index, status, _| match status {
        Status::Ok => Ok(()),
        _ => Err(wrong(place(index).1, status)),
    })?;
    let seconds = seconds_between(start_ns, monotonic_ns());
    let count = files.count() as f64;
    let cpu_us = (process_cpu_ns() - cpu_ns) as f64 / 1000.0 / count;
    volume.client.leave()?;
    let (rate, count) = (count / seconds, files.count());
    println!("{}", json!({ "work": args.work, "count": count, "rate": rate, "cpu_us": cpu_us }));
    Ok(true)
}

/// The numbers of the files that are worked on.
enum Files {
    /// From, up to, in each directory.
    All(u64, u64, u64),
    /// These, and so many in each directory.
    Sample(Vec<u64>, u64),
}

impl Files {
    fn of(args: &NamesArgs) -> Files {
        if args.work == Work::Fill {
            return Files::All(args.first, args.total, args.dir_files);
        }
        let mut random = Random::of(args.seed);
        let numbers = (0..args.count).map(|_| random.next() % args.total);
        Files::Sample(numbers.collect(), args.dir_files)
    }

    fn count(&self) -> u64 {
        match self {
            Files::All(first, total, _) => total - first,
            Files::Sample(numbers, _) => weft_wire::units::to_u64(numbers.len()),
        }
    }

    fn number(&self, index: u64) -> u64 {
        match self {
            Files::All(first, ..) => first + index,
            Files::Sample(numbers, _) => numbers[weft_wire::units::to_usize(index)],
        }
    }

    /// Numbers of the directories these files are in.
    fn directories(&self) -> Vec<u64> {
        match self {
            Files::All(first, total, each) => (first / each..=(total - 1) / each).collect(),
            Files::Sample(numbers, each) => {
                let all: BTreeSet<_> = numbers.iter().map(|number| number / each).collect();
                all.into_iter().collect()
            }
        }
    }
}

/// What is asked about each name.
#[derive(Clone, Copy)]
enum Ask {
    Lookup,
    Make(FileKind),
    Unlink,
}

impl Ask {
    fn request(self, parent: Ino, name: &[u8]) -> MetaRequest<'_> {
        match self {
            Ask::Lookup => MetaRequest::Lookup { parent, name },
            Ask::Unlink => MetaRequest::Unlink { parent, name },
            Ask::Make(kind) => {
                let how = MakeHow {
                    mode: kind.mode_bits() | 0o755,
                    umask: 0o022,
                    rdev: 0,
                    exclusive: true,
                    open: false,
                    inline: true,
                    fresh: false,
                };
                MetaRequest::Make { parent, name, how, target: &[] }
            }
        }
    }
}

/// The namespace at the other end.
struct Volume {
    client: Client,
    slot_count: u16,
    /// Number of the last change in each slot.
    sequences: Vec<u64>,
}

impl Volume {
    fn connect(server: SocketAddr) -> Result<Volume> {
        let client = Client::connect(server, false, 0, SPIN_US)?;
        let slot_count = client.slot_count();
        Ok(Volume { client, slot_count, sequences: vec![0; usize::from(slot_count)] })
    }

    /// Asks the same about `count` names, `depth` of them at a time, and hands on each answer.
    fn drive(
        &mut self,
        ask: Ask,
        count: u64,
        depth: u16,
        place: impl Fn(u64) -> (Ino, Vec<u8>),
        mut done: impl FnMut(u64, Status, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut free: Vec<u16> = (0..depth).collect();
        let mut busy = BTreeMap::new();
        let mut begun = 0;
        while begun < count || !busy.is_empty() {
            while begun < count
                && let Some(slot) = free.pop()
            {
                let (parent, name) = place(begun);
                let request = ask.request(parent, &name);
                let mut caller = Caller { uid: 0, gid: 0, slot: NO_SLOT, sequence: 0 };
                if request.is_mutation() {
                    let sequence = &mut self.sequences[usize::from(slot)];
                    *sequence += 1;
                    (caller.slot, caller.sequence) = (slot, *sequence);
                }
                self.client.ask_volume(begun, &request, &caller);
                busy.insert(begun, slot);
                begun += 1;
            }
            self.client.turn()?;
            while let Some(reply) = self.client.next_reply() {
                free.push(
                    busy.remove(&reply.tag).expect("the link answers what it was asked, once"),
                );
                done(reply.tag, reply.status, &reply.body)?;
            }
        }
        Ok(())
    }

    /// Inodes of these directories, which are made where they are missing and `make` says so.
    fn directories(&mut self, numbers: &[u64], make: bool) -> Result<BTreeMap<u64, Ino>> {
        let mut found = BTreeMap::new();
        let depth = DEPTH.min(self.slot_count);
        let missing = self.enter(Ask::Lookup, numbers, depth, &mut found)?;
        let made = Ask::Make(FileKind::Directory);
        let left = if make { self.enter(made, &missing, depth, &mut found)? } else { missing };
        match left.first() {
            None => Ok(found),
            Some(number) => Err(wrong(directory(*number), Status::NotFound)),
        }
    }

    /// Adds what the answers say to `found`, and returns those that are not there.
    fn enter(
        &mut self,
        ask: Ask,
        numbers: &[u64],
        depth: u16,
        found: &mut BTreeMap<u64, Ino>,
    ) -> Result<Vec<u64>> {
        let number = |index| numbers[weft_wire::units::to_usize(index)];
        let place = |index| (Ino::ROOT, directory(number(index)));
        let count = weft_wire::units::to_u64(numbers.len());
        let mut missing = Vec::new();
        self.drive(ask, count, depth, place, |index, status, body| {
            if status == Status::NotFound {
                missing.push(number(index));
                return Ok(());
            }
            let kind = ask.request(Ino::ROOT, b"").kind();
            match MetaReply::decode(kind, body) {
                Ok(MetaReply::Entry(attr) | MetaReply::Made(attr, ..)) if status == Status::Ok => {
                    found.insert(number(index), attr.ino);
                    Ok(())
                }
                _ => Err(wrong(directory(number(index)), status)),
            }
        })?;
        Ok(missing)
    }
}

fn directory(number: u64) -> Vec<u8> {
    format!("d{number}").into_bytes()
}

fn wrong(name: Vec<u8>, status: Status) -> Error {
    Error::wrong("names", format!("{}: {status:?}", String::from_utf8_lossy(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_where_fill_put_them() {
        let all = Files::All(150, 400, 100);
        assert_eq!((all.count(), all.number(0), all.number(249)), (250, 150, 399));
        assert_eq!(all.directories(), [1, 2, 3]);
        let some = Files::Sample(vec![399, 7, 301], 100);
        assert_eq!((some.count(), some.number(1)), (3, 7));
        assert_eq!(some.directories(), [0, 3]);
    }
}
