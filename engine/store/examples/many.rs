//! How long a target with very many chunks takes to open, in how much memory, and how fast chunks
//! are found in it with a small cache.
//!
//!     cargo run --release -p weft-store --example many -- [chunks=4000000] [blocks=1] [dir=/var/tmp] [file=1000]
//!
//! Makes that many chunks of that many blocks through the store's own operations, over a device
//! that keeps its superblocks and journal and nothing else; opens it after a clean end and after a
//! crash, the kernel's caches dropped (as root) or not; reads at random. A row of the table in `doc/open.md`
//! follows. Then the first file, of `file` chunks, is removed: the longest time that the store took at once, which is what
//! everybody else may have to wait for.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::io;
use std::path::Path;
use std::time::Instant;

use weft_iobuf::Pool;
use weft_store::{
    Action, Device, FormatParams, IoDone, OpenParams, Store, TargetUuid, format_plan,
};
use weft_wire::blocks::checksums;
use weft_wire::data::ChunkRange;
use weft_wire::{ChunkId, ChunkIndex, ClusterId, Ino, TargetId};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const CACHE_BYTES: u64 = 32 << 20;
const READS: u64 = 200_000;
/// What every block holds.
const FILL: u8 = 7;

/// Superblocks and journal; data is taken and forgotten.
struct Null {
    head: Vec<u8>,
    tail: Vec<u8>,
    len_bytes: u64,
}

impl Null {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        if at + bytes.len() <= self.head.len() {
            self.head[at..at + bytes.len()].copy_from_slice(bytes);
        } else if offset == self.len_bytes - 4096 {
            self.tail.copy_from_slice(bytes);
        }
    }
}

impl Device for Null {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        if at + buf.len() <= self.head.len() {
            buf.copy_from_slice(&self.head[at..at + buf.len()]);
        } else if offset == self.len_bytes - 4096 {
            buf.copy_from_slice(&self.tail);
        } else {
            buf.fill(FILL);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}

struct World {
    device: Null,
    file_chunks: u64,
    store: Option<Store>,
    pool: Pool,
    actions: Vec<Action>,
    stopped: bool,
}

impl World {
    /// Carries actions out until there are no more.
    fn settle(&mut self) {
        while self.turn() {}
    }

    /// Carries an action out; whether there was one.
    fn turn(&mut self) -> bool {
        if let Some(action) = self.actions.pop() {
            let (io, done) = match action {
                Action::ReadData { io, mut buf, bytes, .. } => {
                    buf.as_mut_slice()[..usize::try_from(bytes).unwrap()].fill(FILL);
                    (io, IoDone { buf: Some(buf), ..IoDone::default() })
                }
                Action::WriteData { io, .. }
                | Action::Flush { io }
                | Action::GoOn { io }
                | Action::Discard { io, .. } => (io, IoDone::default()),
                Action::AppendJournal { io, offset, bytes, .. } => {
                    self.device.write(offset, &bytes);
                    (io, IoDone::default())
                }
                Action::WriteCheckpoint(checkpoint) => {
                    let store = self.store.as_mut().unwrap();
                    store.checkpoint_written(checkpoint.write(), &self.pool, &mut self.actions);
                    return true;
                }
                Action::Reply { result, .. } => {
                    drop(result.expect("nothing fails here"));
                    return true;
                }
                Action::Stopped => {
                    self.stopped = true;
                    return true;
                }
            };
            let store = self.store.as_mut().unwrap();
            store.io_done(io, Ok(done), &self.pool, &mut self.actions);
            return true;
        }
        false
    }

    fn id(&self, number: u64) -> ChunkId {
        let (ino, index) = (1 + number / self.file_chunks, number % self.file_chunks);
        ChunkId { ino: Ino(ino), index: ChunkIndex(index) }
    }

    /// Removes the first file.
    fn remove(&mut self) {
        let begin = Instant::now();
        let (mut longest_s, mut turns, mut changed_count) = (0.0_f64, 0_u64, 0);
        let store = self.store.as_mut().unwrap();
        store.truncate(1, Ino(1), ChunkIndex(0), None, &self.pool, &mut self.actions);
        let mut turn_s = begin.elapsed().as_secs_f64();
        loop {
            longest_s = longest_s.max(turn_s);
            turns += 1;
            changed_count =
                changed_count.max(self.store.as_ref().unwrap().space().dirty_chunk_count);
            let turn = Instant::now();
            if !self.turn() {
                break;
            }
            turn_s = turn.elapsed().as_secs_f64();
        }
        println!(
            "a file of {} chunks removed in {:.2} s and {turns} turns, the longest {:.1} ms; at most {changed_count} \
             chunks changed since a checkpoint began",
            self.file_chunks,
            begin.elapsed().as_secs_f64(),
            longest_s * 1e3
        );
    }

    fn fill(&mut self, chunks: std::ops::Range<u64>, blocks: u32) {
        let bytes = usize::try_from(blocks * 4096).unwrap();
        let sums = checksums(0, &vec![FILL; bytes]);
        for number in chunks {
            let mut slot = self.pool.alloc(bytes).unwrap();
            slot.as_mut_slice()[..bytes].fill(FILL);
            let range = ChunkRange { chunk: self.id(number), offset: 0, bytes: blocks * 4096 };
            let store = self.store.as_mut().unwrap();
            store.write(number, range, sums.clone(), slot, &self.pool, &mut self.actions);
            self.settle();
        }
    }

    /// Opens; gives the seconds it took.
    fn open(&mut self, dir: &Path, what: &str) -> f64 {
        self.store = None;
        let before = resident_mib();
        let mut params = OpenParams::new(dir.to_path_buf(), CLUSTER);
        params.cache_bytes_max = CACHE_BYTES;
        params.check_space = false;
        let begin = Instant::now();
        let (store, report) = Store::open(params, &mut self.device).unwrap();
        let took = begin.elapsed().as_secs_f64();
        println!(
            "{what:20} {took:7.3} s, {:4} MiB more, {} records replayed, all read: {}, {} chunks",
            resident_mib().saturating_sub(before),
            report.replayed_records,
            report.scanned,
            store.space().chunk_count
        );
        self.store = Some(store);
        took
    }

    /// Reads of one block of random chunks a second.
    fn read(&mut self, chunks: u64) -> f64 {
        let mut state = 88_172_645_463_325_252_u64;
        let begin = Instant::now();
        for op in 0..READS {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let range = ChunkRange { chunk: self.id(state % chunks), offset: 0, bytes: 4096 };
            let store = self.store.as_mut().unwrap();
            store.read(op, range, &self.pool, &mut self.actions);
            self.settle();
        }
        let reads: u32 = u32::try_from(READS).unwrap();
        f64::from(reads) / begin.elapsed().as_secs_f64()
    }
}

/// Memory of this process that is its own, without mapped files.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Forgets what the kernel has of files, if it may.
fn drop_caches() {
    if std::fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
        println!("not root: what follows is not cold");
    }
}

fn argument(at: usize, default: u64) -> u64 {
    std::env::args().nth(at).map_or(default, |text| text.parse().unwrap())
}

fn format(index: &Path, capacity_bytes: u64, file_chunks: u64) -> World {
    let params = FormatParams {
        cluster: CLUSTER,
        target_uuid: TargetUuid([3; 16]),
        target_id: TargetId(4),
        capacity_bytes,
    };
    let plan = format_plan(&params).unwrap();
    let head = usize::try_from(plan.superblock.areas.data_offset).unwrap();
    let mut device = Null { head: vec![0; head], tail: vec![0; 4096], len_bytes: capacity_bytes };
    Store::create_index(index, &plan.superblock).unwrap();
    for (offset, bytes) in &plan.writes {
        device.write(*offset, bytes);
    }
    let pool = Pool::new(64 << 20, 4 << 20).unwrap();
    World { device, file_chunks, store: None, pool, actions: Vec::new(), stopped: false }
}

fn main() {
    let (chunks, blocks) = (argument(1, 4_000_000), u32::try_from(argument(2, 1)).unwrap());
    let base = std::env::args().nth(3).unwrap_or_else(|| "/var/tmp".to_owned());
    let dir = tempfile::Builder::new().prefix("weft-many").tempdir_in(base).unwrap();
    let index = dir.path().join("index");
    let data_bytes = (chunks + 2000) * u64::from(blocks) * 4096;
    // First writes get room to grow: 16 times as much for one block.
    let capacity_bytes = (data_bytes * 5 / 4 + (300 << 20)).next_multiple_of(4096);
    let mut world = format(&index, capacity_bytes, argument(4, 1000));
    world.open(&index, "empty");
    let begin = Instant::now();
    world.fill(0..chunks, blocks);
    println!("filled in {:.0} s", begin.elapsed().as_secs_f64());
    world.store.as_mut().unwrap().shutdown(&mut world.actions);
    world.settle();
    assert!(world.stopped);
    world.store = None;
    let index_mib = std::fs::metadata(index.join("data.mdb")).unwrap().len() >> 20;
    let warm = world.open(&index, "clean end");
    world.store = None;
    drop_caches();
    let cold = world.open(&index, "clean end, cold");
    world.fill(chunks..chunks + 1000, blocks);
    world.store = None;
    drop_caches();
    let crash = world.open(&index, "crash, cold");
    let cold_reads = world.read(chunks);
    let reads = world.read(chunks);
    println!(
        "| {chunks} | {blocks} | {index_mib} MiB | {warm:.2} s | {cold:.2} s | {crash:.2} s | \
         {cold_reads:.0} | {reads:.0} |"
    );
    world.remove();
}
