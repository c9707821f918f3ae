//! How long a store keeps its thread, and what that does to those who wait, on this machine's disk:
//! `cargo run --release -p weft-target --example stalls [directory] [chunks] [seconds] [rounds]`. In each round checkpoints
//! are written by the store's own thread, which is what they cost without one, then by theirs, as in the daemon.

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use slab::Slab;
use weft_iobuf::Pool;
use weft_ring::{Ring, RingConfig};
use weft_store::{Action, FormatParams, IoId, OpenParams, Outcome, Store, TargetUuid};
use weft_target::{IndexThread, Options, Step, Targets, format};
use weft_wire::blocks::{BLOCK_BYTES, crc32c};
use weft_wire::data::{ChunkRange, ZeroHow};
use weft_wire::units::{to_u64, to_usize};
use weft_wire::{ChunkId, ChunkIndex, ClusterId, Ino, TargetId};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const CHUNK_BLOCKS: u32 = 256;
const DEPTH: u64 = 32;
const PATIENCE: Duration = Duration::from_millis(20);

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let mut args = std::env::args().skip(1);
    let base = args.next().unwrap_or_else(|| "/tmp".to_owned());
    let chunks = args.next().map_or(Ok(8_192), |count| count.parse())?;
    let seconds = args.next().map_or(Ok(10), |seconds| seconds.parse())?;
    let rounds = args.next().map_or(Ok(2), |rounds| rounds.parse::<usize>())?;
    let dir = Path::new(&base).join(format!("weft-stalls-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = measure(&dir, chunks, Duration::from_secs(seconds), rounds);
    std::fs::remove_dir_all(&dir)?;
    result
}

fn measure(dir: &Path, chunks: u64, time: Duration, rounds: usize) -> Result<(), Failed> {
    let mut node = Node::new(dir, chunks)?;
    node.fill()?;
    for here in [true, false].repeat(rounds) {
        node.here = here;
        println!(
            "checkpoints are written by {}",
            if here { "the store's thread" } else { "another" }
        );
        node.overwrites(time)?;
        node.syncs(1, time / 2)?;
        node.syncs(DEPTH, time / 2)?;
    }
    node.store.shutdown(&mut node.actions);
    while !node.stopped {
        node.turn()?;
    }
    Ok(())
}

/// p50/p99/p99.9/longest, in milliseconds.
fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |thousandth: usize| times[(times.len() - 1) * thousandth / 1000].as_secs_f64() * 1e3;
    format!("{:.3}/{:.3}/{:.3}/{:.3} ms", at(500), at(990), at(999), at(1000))
}

/// A store, its target, and who carries out what it wants.
struct Node {
    store: Store,
    targets: Targets,
    index: usize,
    ring: Ring,
    pool: Pool,
    owners: Slab<IoId>,
    actions: Vec<Action>,
    chunks: u64,
    begun: Instant,
    /// How long each call into the store took.
    calls: Vec<Duration>,
    /// When each operation that is not answered was begun.
    waiting: BTreeMap<u64, Instant>,
    /// How long those answered had waited.
    waits: Vec<Duration>,
    written: Vec<u64>,
    next_op: u64,
    random: u64,
    stopped: bool,
    /// Checkpoints are written by this thread.
    here: bool,
}

impl Node {
    fn new(dir: &Path, chunks: u64) -> Result<Node, Failed> {
        let (path, index_dir) = (dir.join("target"), dir.join("index"));
        let file = File::options().create_new(true).read(true).write(true).open(&path)?;
        let chunk_bytes = u64::from(CHUNK_BLOCKS * BLOCK_BYTES);
        let capacity_bytes = chunks * chunk_bytes * 5 / 4 + (256 << 20);
        file.set_len(capacity_bytes)?;
        let params = FormatParams {
            cluster: CLUSTER,
            target_uuid: TargetUuid([3; 16]),
            target_id: TargetId(1),
            capacity_bytes,
        };
        format(&file, &path, &params, &index_dir)?;
        let mut ring = Ring::new(RingConfig { files_max: 64, ..RingConfig::default() })?;
        let pool = Pool::new(64 << 20, 4 << 20)?;
        ring.register_pool(&pool)?;
        let mut targets = Targets::new(IndexThread::of_targets(1)?, &ring);
        let params = OpenParams::new(index_dir, CLUSTER);
        let opened = targets.open(&path, params, Options::default(), &mut ring, &pool)?;
        Ok(Node {
            store: opened.store,
            targets,
            index: opened.index,
            ring,
            pool,
            owners: Slab::new(),
            actions: Vec::new(),
            chunks,
            begun: Instant::now(),
            calls: Vec::new(),
            waiting: BTreeMap::new(),
            waits: Vec::new(),
            written: Vec::new(),
            next_op: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            stopped: false,
            here: false,
        })
    }

    /// Every block of every chunk is written.
    fn fill(&mut self) -> Result<(), Failed> {
        for number in 0..self.chunks {
            let bytes = CHUNK_BLOCKS * BLOCK_BYTES;
            let range = ChunkRange { chunk: chunk(number), offset: 0, bytes };
            self.begin(|store, op, pool, out| store.zero(op, range, ZeroHow::Allocate, pool, out));
            while self.waiting.len() >= 8 {
                self.turn()?;
            }
        }
        self.settle()
    }

    fn settle(&mut self) -> Result<(), Failed> {
        while !self.waiting.is_empty() {
            self.turn()?;
        }
        Ok(())
    }

    /// Overwrites of random blocks, so many under way.
    fn overwrites(&mut self, time: Duration) -> Result<(), Failed> {
        self.reset();
        let (begun, checkpoints) = (Instant::now(), self.store.counters().checkpoints);
        while begun.elapsed() < time {
            while to_u64(self.waiting.len()) < DEPTH {
                let place = self.random() % (self.chunks * u64::from(CHUNK_BLOCKS));
                self.write(place)?;
            }
            self.turn()?;
        }
        self.settle()?;
        self.tell("overwrites", begun.elapsed(), checkpoints);
        Ok(())
    }

    /// Groups of writes, each with its sync: how long until all of a group are synced.
    fn syncs(&mut self, width: u64, time: Duration) -> Result<(), Failed> {
        self.reset();
        let (begun, checkpoints) = (Instant::now(), self.store.counters().checkpoints);
        let mut groups = Vec::new();
        while begun.elapsed() < time {
            let group = Instant::now();
            for _ in 0..width {
                let place = self.random() % (self.chunks * u64::from(CHUNK_BLOCKS));
                self.write(place)?;
            }
            while !self.waiting.is_empty() {
                self.turn()?;
                for _ in std::mem::take(&mut self.written) {
                    self.begin(|store, op, _, out| store.sync(op, Ino(1), out));
                }
            }
            groups.push(group.elapsed());
        }
        self.waits = groups;
        self.tell(if width == 1 { "one fsync" } else { "32 fsyncs" }, begun.elapsed(), checkpoints);
        Ok(())
    }

    fn reset(&mut self) {
        self.calls.clear();
        self.waits.clear();
        self.written.clear();
    }

    fn tell(&mut self, what: &str, time: Duration, checkpoints: u64) {
        println!(
            "{what:10}: {:7.0} a second, {:3} checkpoints; waits {}; calls {}",
            self.waits.len() as f64 / time.as_secs_f64(),
            self.store.counters().checkpoints - checkpoints,
            percentiles(&mut self.waits),
            percentiles(&mut self.calls),
        );
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn write(&mut self, place: u64) -> Result<(), Failed> {
        let blocks = u64::from(CHUNK_BLOCKS);
        let block = u32::try_from(place % blocks)?;
        let (offset, bytes) = (block * BLOCK_BYTES, BLOCK_BYTES);
        let range = ChunkRange { chunk: chunk(place / blocks), offset, bytes };
        let payload = self.pool.alloc(to_usize(u64::from(bytes))).ok_or("no buffer")?;
        let sums = vec![crc32c(payload.as_slice())];
        self.begin(|store, op, pool, out| store.write(op, range, sums, payload, pool, out));
        Ok(())
    }

    fn begin(&mut self, work: impl FnOnce(&mut Store, u64, &Pool, &mut Vec<Action>)) {
        self.next_op += 1;
        let op = self.next_op;
        self.waiting.insert(op, Instant::now());
        self.call(|store, pool, out| work(store, op, pool, out));
    }

    fn call(&mut self, work: impl FnOnce(&mut Store, &Pool, &mut Vec<Action>)) {
        let begun = Instant::now();
        work(&mut self.store, &self.pool, &mut self.actions);
        self.calls.push(begun.elapsed());
    }

    /// Carries out what the store wants, and takes what ended.
    fn turn(&mut self) -> Result<(), Failed> {
        let now = self.begun.elapsed();
        self.call(|store, _, out| store.tick(now, out));
        self.carry_out()?;
        self.targets.poll()?;
        self.ring.wait(Some(if self.targets.must_poll() { Duration::ZERO } else { PATIENCE }))?;
        while let Some((_, step)) = self.targets.next_polled() {
            self.step(step)?;
        }
        while let Some(completion) = self.ring.next_completion() {
            let io = self.owners.remove(to_usize(completion.token));
            let step = self.targets.completed(self.index, io, completion);
            self.step(step)?;
        }
        while let Some((_, written)) = self.targets.next_written()? {
            self.call(|store, pool, out| store.checkpoint_written(written, pool, out));
        }
        self.carry_out()
    }

    fn carry_out(&mut self) -> Result<(), Failed> {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                match action {
                    Action::Reply { op, result } => {
                        let begun = self.waiting.remove(&op).ok_or("answered twice")?;
                        self.waits.push(begun.elapsed());
                        let outcome = result.map_err(|status| status.to_string())?;
                        if let Outcome::Written { .. } = outcome {
                            self.written.push(op);
                        }
                    }
                    Action::Stopped => self.stopped = true,
                    Action::WriteCheckpoint(checkpoint) if self.here => {
                        self.call(|store, pool, out| {
                            store.checkpoint_written(checkpoint.write(), pool, out);
                        });
                    }
                    action => {
                        let step = self.targets.start(&self.ring, self.index, action);
                        self.step(step)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), Failed> {
        match step {
            Step::Ring(io, op) => {
                let key = to_u64(self.owners.insert(io));
                self.ring.submit(key, op).map_err(|rejected| format!("{:?}", rejected.reason))?;
            }
            Step::Done(io, result) => {
                self.call(|store, pool, out| store.io_done(io, result, pool, out));
            }
            Step::Polled | Step::Writing => {}
        }
        Ok(())
    }
}

fn chunk(number: u64) -> ChunkId {
    ChunkId { ino: Ino(1), index: ChunkIndex(number) }
}
