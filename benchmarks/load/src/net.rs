//! `weft-load net`: a running server over TCP (or its unix socket), from one thread with one connection, as a client would, but without a
//! mount: `weft-net`'s link and frames on `weft-ring`. Beside it, in turn, a store of its own on a file of the same
//! file system, and fio on that file, so that what the network costs is a ratio within one run. `benchmarks/net.py`
//! starts the server.

use crate::client::{Client, Reply};
use crate::clock::{monotonic_ns, seconds_between, utc_now};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::options::parse_bytes;
use crate::stats::Spread;
use crate::store::jobs::{Job, Random, Sample, process_cpu_ns};
use crate::store::{Place, fio};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use weft_wire::blocks::{BLOCK_BYTES, checksums, first_mismatch};
use weft_wire::data::{ChunkRange, DataRequest, ReadReply};
use weft_wire::units::to_u64;
use weft_wire::{ChunkId, ChunkIndex, Ino, Status, TargetId};

const CHUNK_BYTES: u64 = 1 << 20;
/// Files no volume gives out: inode numbers beyond what metadata reaches in a benchmark.
const INO_FIRST: u64 = 1 << 40;
const DEPTH: usize = 16;
/// Seconds after which fio has hung.
const FIO_LIMIT_S: u32 = 600;
const JOBS: [Job; 4] = [Job::SeqWrite, Job::SeqRead, Job::RandRead, Job::RandWrite];
/// Of the store's own figure.
const STREAM_RATIO_MIN: f64 = 0.75;
/// What a bare prototype reached (FACTS.md), operations a second.
const SMALL_RATE_MIN: f64 = 43_000.0;

/// Options of `net`.
#[derive(Debug, Args)]
pub(crate) struct NetArgs {
    /// Where the server listens
    #[arg(long, value_name = "IP:PORT")]
    server: SocketAddr,
    /// One of its targets
    #[arg(long)]
    target: u16,
    /// The shard that has it
    #[arg(long, default_value_t = 0)]
    shard: u16,
    /// A file to make for a store and fio beside the server; without it there are no ratios
    #[arg(long, value_name = "FILE")]
    store_file: Option<PathBuf>,
    /// How much data the jobs work on
    #[arg(long, value_name = "BYTES[M|G]", value_parser = parse_bytes, default_value = "512M")]
    data: u64,
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=101))]
    rounds: u32,
    /// Seconds of each 4 KiB job
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=3600))]
    runtime_s: u32,
    /// The core this runs on
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Over the server's unix socket, not TCP: it must be of this machine
    #[arg(long)]
    local_socket: bool,
    /// Longest spin before sleeping, in microseconds
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=1000))]
    spin_us: u32,
    /// Adds one JSON line a job to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Samples by job.
type Samples = BTreeMap<Job, Vec<Sample>>;

/// True when every bar was met.
pub(crate) fn run(args: &NetArgs) -> Result<bool> {
    weft_ring::pin_to_core(args.core).map_err(|error| Error::usage("--core", error.to_string()))?;
    let mut place = match &args.store_file {
        Some(path) => Some(Place::beside(path, 2 * args.data + (192 << 20))?),
        None => None,
    };
    let (mut net, mut store) = (Samples::new(), Samples::new());
    let mut client = Client::connect(args.server, args.local_socket, args.shard, args.spin_us)?;
    for round in 0..args.rounds {
        for turn in [round % 2 == 0, round % 2 != 0] {
            if turn {
                let mut load = Load::new(&mut client, args, Ino(INO_FIRST + u64::from(round)));
                for job in JOBS {
                    net.entry(job).or_default().push(load.measure(job)?);
                }
                load.remove()?;
            } else if let Some(place) = &mut place {
                for (job, sample) in place.measure(args.data)? {
                    store.entry(job).or_default().push(sample);
                }
                for job in JOBS.into_iter().filter(|job| !job.is_sequential()) {
                    store.entry(job).or_default().push(fio(job, place, args)?);
                }
            }
        }
    }
    if let Some(place) = &place {
        place.remove()?;
    }
    report(args, &net, &store)
}

/// What the device gives at the same depth, without a store or a network.
fn fio(job: Job, place: &Place, args: &NetArgs) -> Result<Sample> {
    let run = fio::Run {
        path: place.path(),
        data: args.data,
        depth: DEPTH,
        core: args.core,
        runtime_s: args.runtime_s,
        limit_s: FIO_LIMIT_S,
        checks: false,
    };
    fio::measure(job, &run)
}

/// One file's worth of operations over the connection.
struct Load<'a> {
    client: &'a mut Client,
    target: TargetId,
    ino: Ino,
    chunk_count: u64,
    runtime_ns: u64,
    random: Random,
    /// Checksums of what a slot holds, by its address.
    sums: BTreeMap<usize, Vec<u32>>,
}

impl<'a> Load<'a> {
    fn new(client: &'a mut Client, args: &NetArgs, ino: Ino) -> Load<'a> {
        Load {
            client,
            target: TargetId(args.target),
            ino,
            chunk_count: args.data / CHUNK_BYTES,
            runtime_ns: u64::from(args.runtime_s) * 1_000_000_000,
            random: Random::default(),
            sums: BTreeMap::new(),
        }
    }

    fn measure(&mut self, job: Job) -> Result<Sample> {
        self.sums.clear();
        let (start_ns, cpu_ns) = (monotonic_ns(), process_cpu_ns());
        let end_ns = start_ns + self.runtime_ns;
        let (mut begun, mut ended) = (0u64, 0u64);
        let mut over = false;
        while !over || ended < begun {
            while !over && begun - ended < to_u64(DEPTH) {
                self.begin(job, begun)?;
                begun += 1;
                over = job.is_sequential() && begun == self.chunk_count;
            }
            self.client.turn()?;
            while let Some(reply) = self.client.next_reply() {
                check(&reply, job)?;
                ended += 1;
            }
            over |= !job.is_sequential() && monotonic_ns() >= end_ns;
        }
        let seconds = seconds_between(start_ns, monotonic_ns());
        let amount = if job.is_sequential() {
            ended as f64 * f64::from(job.bytes()) / 1_048_576.0
        } else {
            ended as f64
        };
        let cpu_us = (process_cpu_ns() - cpu_ns) as f64 / 1000.0 / ended as f64;
        Ok(Sample { value: amount / seconds, cpu_us, syncs_max: 0 })
    }

    fn begin(&mut self, job: Job, number: u64) -> Result<()> {
        let (index, offset) = if job.is_sequential() {
            (number, 0)
        } else {
            let blocks = CHUNK_BYTES / u64::from(BLOCK_BYTES);
            let place = self.random.next() % (self.chunk_count * blocks);
            let block = u32::try_from(place % blocks).expect("within a chunk");
            (place / blocks, block * BLOCK_BYTES)
        };
        let chunk = ChunkId { ino: self.ino, index: ChunkIndex(index) };
        let range = ChunkRange { chunk, offset, bytes: job.bytes() };
        if !job.writes() {
            self.client.ask(number, self.target, &DataRequest::Read(range), None);
            return Ok(());
        }
        let len = usize::try_from(range.bytes).expect("a chunk at most");
        let slot = self.client.pool().alloc(len);
        let slot = slot.ok_or_else(|| Error::wrong("net", "no buffer"))?;
        let sums = self.sums.entry(slot.as_ptr().addr());
        let sums = sums.or_insert_with(|| checksums(0, &slot.as_slice()[..len])).clone();
        let payload = Some((slot.share(), 0..len));
        self.client.ask(number, self.target, &DataRequest::Write(range, sums), payload);
        Ok(())
    }

    /// Removes what was written.
    fn remove(&mut self) -> Result<()> {
        let all = DataRequest::Truncate { ino: self.ino, remove_from: ChunkIndex(0), cut: None };
        self.client.ask(0, self.target, &all, None);
        loop {
            if let Some(reply) = self.client.next_reply() {
                return match reply.status {
                    Status::Ok => Ok(()),
                    status => Err(Error::wrong("remove", format!("{status:?}"))),
                };
            }
            self.client.turn()?;
        }
    }
}

/// An answer is what was asked for; data agrees with its checksums, as a client would see to it.
fn check(reply: &Reply, job: Job) -> Result<()> {
    let wrong = |what: String| Err(Error::wrong("net", what));
    if reply.status != Status::Ok {
        return wrong(format!("{job:?}: {:?}", reply.status));
    }
    if job.writes() {
        return Ok(());
    }
    let Some((slot, range)) = &reply.payload else { return wrong("a read without data".into()) };
    let bytes = &slot.as_slice()[range.clone()];
    let told = ReadReply::decode(&reply.body, u32::try_from(bytes.len()).unwrap_or(0));
    match told {
        Ok(told)
            if bytes.len() == usize::try_from(job.bytes()).expect("a chunk at most")
                && first_mismatch(0, bytes, &told.sums).is_none() =>
        {
            Ok(())
        }
        _ => wrong(format!("{} bytes that are not what was asked for", bytes.len())),
    }
}

fn values(samples: Option<&Vec<Sample>>, pick: fn(&Sample) -> f64) -> Vec<f64> {
    samples.map(|samples| samples.iter().map(pick).collect()).unwrap_or_default()
}

/// Prints the table; true when every bar was met.
fn report(args: &NetArgs, net: &Samples, store: &Samples) -> Result<bool> {
    let (host, date) = (Host::here(), utc_now());
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let mut text = format!(
        "{date}, commit {}, {}: Linux {}, {} x {}, load average {}\n\n    {command}\n\n",
        host.commit, host.host, host.kernel, host.cpu_count, host.cpu, host.load_average
    );
    let way = if args.local_socket { "a unix socket" } else { "TCP" };
    writeln!(text, "| depth 16, one connection | unit | over {way}: median (min..max) | 1 MiB: the store alone; 4 KiB: fio | ratio | client CPU us/op | bar | met |")
        .expect("to a string");
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    let mut lines = String::new();
    let mut all_met = true;
    let show = |spread: Option<Spread>, digits: usize| {
        spread.map_or("-".to_owned(), |s| {
            format!("{:.digits$} ({:.digits$}..{:.digits$})", s.median, s.min, s.max)
        })
    };
    for job in JOBS {
        let ours = values(net.get(&job), |s| s.value);
        let alone = values(store.get(&job), |s| s.value);
        let ratio = Spread::of_ratios(&ours, &alone);
        let rate = Spread::of(&ours);
        let (bar, met) = if job.is_sequential() {
            let met = ratio.map(|ratio| ratio.median >= STREAM_RATIO_MIN);
            (format!(">= {STREAM_RATIO_MIN} of the store"), met)
        } else {
            let met = rate.map(|rate| rate.median >= SMALL_RATE_MIN);
            (format!(">= {SMALL_RATE_MIN} op/s"), met)
        };
        all_met &= met != Some(false);
        let verdict = met.map_or("-", |met| if met { "yes" } else { "NO" });
        let (title, unit) = match job {
            Job::SeqWrite => ("1 MiB writes", "MiB/s"),
            Job::SeqRead => ("1 MiB reads", "MiB/s"),
            Job::RandRead => ("4 KiB random reads", "op/s"),
            _ => ("4 KiB random overwrites", "op/s"),
        };
        let cpu = Spread::of(&values(net.get(&job), |s| s.cpu_us));
        writeln!(
            text,
            "| {title} | {unit} | {} | {} | {} | {} | {bar} | {verdict} |",
            show(rate, 0),
            show(Spread::of(&alone), 0),
            show(ratio, 2),
            show(cpu, 1)
        )
        .expect("to a string");
        let line = json!({
            "bench": "net", "job": job, "unit": unit, "net": net.get(&job), "store": store.get(&job),
            "spread": rate, "ratio": ratio, "bar": bar, "met": met, "date": date, "host": host,
            "command": command,
        });
        writeln!(lines, "{line}").expect("to a string");
    }
    print!("{text}");
    if let Some(path) = &args.json {
        crate::report::append(path, &lines)?;
    }
    Ok(all_met)
}
