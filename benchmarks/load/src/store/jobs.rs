//! What is measured, and the store's side of it: operations kept in flight on one thread.

use super::CHUNK_BYTES;
use crate::clock::{monotonic_ns, seconds_between};
use crate::error::{Error, Result};
use clap::ValueEnum;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use weft_store::Outcome;
use weft_target::{Reply, Runner};
use weft_wire::blocks::{BLOCK_BYTES, BLOCK_LEN, crc32c};
use weft_wire::data::ChunkRange;
use weft_wire::{ChunkId, ChunkIndex, Ino};

const INO: Ino = Ino(1);
/// The fsync jobs' own file.
const SYNC_INO: Ino = Ino(2);
const SYNC_ROUNDS: u64 = 100;
/// Fsyncs at a time.
const SYNC_WIDTH: u64 = 32;
const PATIENCE: Duration = Duration::from_secs(30);

/// The jobs, in the order they run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Job {
    /// 1 MiB writes of new chunks, 16 in flight
    SeqWrite,
    /// 1 MiB reads, 16 in flight
    SeqRead,
    /// 4 KiB reads anywhere, 32 in flight
    RandRead,
    /// 4 KiB overwrites anywhere, 32 in flight
    RandWrite,
    /// A write to one chunk, then its fsync
    Fsync,
    /// 32 writes to as many chunks, each with its fsync, at once
    Fsync32,
}

impl Job {
    pub(crate) const ALL: [Job; 6] =
        [Job::SeqWrite, Job::SeqRead, Job::RandRead, Job::RandWrite, Job::Fsync, Job::Fsync32];

    pub(crate) fn has_fio(self) -> bool {
        !matches!(self, Job::Fsync | Job::Fsync32)
    }

    pub(crate) fn is_sequential(self) -> bool {
        matches!(self, Job::SeqWrite | Job::SeqRead)
    }

    pub(crate) fn writes(self) -> bool {
        matches!(self, Job::SeqWrite | Job::RandWrite)
    }

    pub(crate) fn bytes(self) -> u32 {
        if self.is_sequential() { 1 << 20 } else { BLOCK_BYTES }
    }

    pub(crate) fn depth(self) -> usize {
        if self.is_sequential() { 16 } else { 32 }
    }
}

/// One figure of one round.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Sample {
    /// MiB/s, operations a second, or microseconds.
    pub(crate) value: f64,
    /// CPU of the process (its kernel workers included) for each operation.
    pub(crate) cpu_us: f64,
    /// Device syncs that one fsync took, at most.
    pub(crate) syncs_max: u64,
}

/// One store with work in flight.
pub(crate) struct Session {
    runner: Runner,
    data_chunks: u64,
    runtime_ns: u64,
    start_ns: u64,
    random: Random,
    /// Checksums of what a slot holds, by its address: a client computes them, not the store. Nothing else writes into
    /// slots while a job writes.
    sums: BTreeMap<usize, Vec<u32>>,
}

impl Session {
    pub(crate) fn new(runner: Runner, data_chunks: u64, runtime_s: u32) -> Session {
        Session {
            runner,
            data_chunks,
            runtime_ns: u64::from(runtime_s) * 1_000_000_000,
            start_ns: monotonic_ns(),
            random: Random::default(),
            sums: BTreeMap::new(),
        }
    }

    pub(crate) fn end(self) -> Result<()> {
        self.runner.shutdown().map_err(|error| Error::program("end", error.to_string()))
    }

    pub(crate) fn measure(&mut self, job: Job) -> Result<Sample> {
        self.sums.clear();
        match job {
            Job::Fsync => self.fsyncs(1),
            Job::Fsync32 => self.fsyncs(SYNC_WIDTH),
            _ => self.stream(job),
        }
    }

    /// Keeps a job's operations in flight: each chunk once, or for the time.
    fn stream(&mut self, job: Job) -> Result<Sample> {
        let (start_ns, cpu_ns) = (monotonic_ns(), process_cpu_ns());
        let end_ns = start_ns + self.runtime_ns;
        let (mut begun, mut ended) = (0u64, 0u64);
        let mut over = false;
        while !over || ended < begun {
            while !over && begun - ended < u64::try_from(job.depth()).expect("small") {
                self.begin(job, begun);
                begun += 1;
                over = job.is_sequential() && begun == self.data_chunks;
            }
            self.turn()?;
            while let Some(reply) = self.runner.next_reply() {
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

    fn begin(&mut self, job: Job, number: u64) {
        let range = if job.is_sequential() {
            let chunk = ChunkId { ino: INO, index: ChunkIndex(number) };
            ChunkRange { chunk, offset: 0, bytes: job.bytes() }
        } else {
            let blocks = CHUNK_BYTES / u64::from(BLOCK_BYTES);
            let place = self.random.next() % (self.data_chunks * blocks);
            let chunk = ChunkId { ino: INO, index: ChunkIndex(place / blocks) };
            let block = u32::try_from(place % blocks).expect("within a chunk");
            ChunkRange { chunk, offset: block * BLOCK_BYTES, bytes: BLOCK_BYTES }
        };
        if job.writes() {
            self.write(number, range);
        } else {
            self.runner.with_store(|store, pool, out| store.read(number, range, pool, out));
        }
    }

    fn write(&mut self, op: u64, range: ChunkRange) {
        let len = usize::try_from(range.bytes).expect("a chunk at most");
        let payload =
            self.runner.pool().alloc(len).expect("the pool holds far more than is in flight");
        let sums = self
            .sums
            .entry(payload.as_ptr().addr())
            .or_insert_with(|| payload.as_slice()[..len].chunks(BLOCK_LEN).map(crc32c).collect());
        let sums = sums.clone();
        self.runner.with_store(|store, pool, out| store.write(op, range, sums, payload, pool, out));
    }

    /// Microseconds from `width` writes with an fsync each to the last fsync's answer; for one, of the fsync alone.
    fn fsyncs(&mut self, width: u64) -> Result<Sample> {
        let mut times_us = Vec::new();
        let mut syncs_max = 0;
        let cpu_ns = process_cpu_ns();
        for round in 0..SYNC_ROUNDS {
            let flushes = self.runner.store().counters().flushes;
            let start_ns = monotonic_ns();
            for op in 0..width {
                let chunk =
                    ChunkId { ino: SYNC_INO, index: ChunkIndex((round * width + op) % 512) };
                self.write(op, ChunkRange { chunk, offset: 0, bytes: BLOCK_BYTES });
            }
            let mut synced = 0;
            while synced < width {
                self.turn()?;
                while let Some(reply) = self.runner.next_reply() {
                    match reply.result {
                        Ok(Outcome::Written { .. }) => {
                            self.runner
                                .with_store(|store, _, out| store.sync(reply.op, SYNC_INO, out));
                        }
                        Ok(Outcome::Synced) => synced += 1,
                        other => return Err(Error::wrong("fsync", format!("{other:?}"))),
                    }
                }
            }
            times_us.push(seconds_between(start_ns, monotonic_ns()) * 1e6);
            syncs_max = syncs_max.max(self.runner.store().counters().flushes - flushes);
        }
        let spread = crate::stats::Spread::of(&times_us);
        let spread = spread.ok_or_else(|| Error::wrong("fsync", "no times"))?;
        let cpu_us = (process_cpu_ns() - cpu_ns) as f64 / 1000.0 / (SYNC_ROUNDS * width) as f64;
        Ok(Sample { value: spread.median, cpu_us, syncs_max })
    }

    fn turn(&mut self) -> Result<()> {
        self.runner.tick(Duration::from_nanos(monotonic_ns() - self.start_ns));
        self.runner.turn(PATIENCE).map_err(|error| Error::program("turn", error.to_string()))
    }
}

/// xorshift: the same places in each run.
pub(crate) struct Random(u64);

impl Default for Random {
    fn default() -> Random {
        Random(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    /// Numbers of their own for each seed but 0.
    pub(crate) fn of(seed: u64) -> Random {
        Random(Random::default().0.wrapping_mul(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// An answer is what the job wants: data of the whole range, or a written range.
fn check(reply: &Reply, job: Job) -> Result<()> {
    match &reply.result {
        Ok(Outcome::Written { .. }) if job.writes() => Ok(()),
        Ok(Outcome::Read { pieces, .. }) if !job.writes() => {
            let bytes: u32 = pieces.iter().map(weft_store::ReadPiece::bytes).sum();
            if bytes == job.bytes() {
                return Ok(());
            }
            Err(Error::wrong("read", format!("{bytes} bytes came, not {}", job.bytes())))
        }
        other => Err(Error::wrong("store", format!("{job:?} {}: {other:?}", reply.op))),
    }
}

/// CPU time of this process and its workers in the kernel.
pub(crate) fn process_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).expect("counts up from 0");
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).expect("nanoseconds are 0..1e9")
}
