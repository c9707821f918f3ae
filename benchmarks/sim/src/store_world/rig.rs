//! A store over the simulated disk: operations in, answers out, under virtual time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use weft_iobuf::Pool;
use weft_store::{
    Action, Areas, Checkpoint, CheckpointWritten, FormatParams, IoId, OpenParams, Outcome,
    ReadPiece, RecoveryReport, Store, StoreError, TargetUuid, format_plan,
};
use weft_wire::blocks::checksums;
use weft_wire::data::{ChunkRange, ZeroHow};
use weft_wire::{ChunkId, ChunkIndex, ClusterId, Ino, Status, TargetId};

use crate::disk::{Disk, Done, Through, Work};
use crate::random::Random;
use crate::runner::Telling;

/// The cluster of every simulated target.
pub const CLUSTER: ClusterId = ClusterId([7; 16]);
const EIO: i32 = 5;
/// The machine's boot during which a rig is made.
pub const BOOT: [u8; 16] = [9; 16];

/// What an operation answered, with the bytes of a read.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Answer {
    /// First block and the blocks' bytes.
    Read(u32, Vec<u8>),
    /// It is done.
    Done,
    /// It is not.
    Failed(Status),
}

/// A store, its disk, its index and its buffers.
#[derive(Debug)]
pub struct Rig {
    /// The device.
    pub disk: Disk,
    /// The buffers of operations.
    pub pool: Pool,
    /// The store, while it is open.
    pub store: Option<Store>,
    /// Where the index is.
    pub dir: TempDir,
    /// Virtual time.
    pub now: Duration,
    /// The checkpoint under way, and when it gets a step further. It dies with the process, as a thread of it would.
    writing: Option<(Duration, Writing)>,
    /// How long checkpoints take, and which fail.
    writing_random: Random,
    /// Answers not taken yet.
    pub answers: BTreeMap<u64, Answer>,
    /// Operations in the order in which they were answered.
    pub log: Vec<u64>,
    /// The store ended cleanly.
    pub stopped: bool,
    /// How the store is opened next.
    pub params: Params,
    /// How much is told.
    pub telling: Telling,
    next_op: u64,
}

/// How far a checkpoint's writing is.
#[derive(Debug)]
enum Writing {
    Begun(Checkpoint),
    /// The store does not know.
    Written(CheckpointWritten),
}

/// What [`Rig::open`] passes on.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// See [`OpenParams`].
    pub dirty_chunks_max: u64,
    /// See [`OpenParams`].
    pub cache_bytes_max: u64,
    /// See [`OpenParams`].
    pub tables_bytes_max: u64,
    /// See [`OpenParams`].
    pub checkpoint_interval: Duration,
    /// See [`OpenParams`].
    pub discard: bool,
    /// See [`OpenParams`].
    pub index_bytes_max: Option<u64>,
}

impl Default for Params {
    fn default() -> Params {
        Params {
            dirty_chunks_max: 8,
            cache_bytes_max: 64 << 10,
            tables_bytes_max: 16 << 20,
            checkpoint_interval: Duration::from_secs(1),
            discard: false,
            index_bytes_max: None,
        }
    }
}

impl Rig {
    /// A freshly formatted target, open.
    pub fn new(seed: u64, capacity_bytes: u64, params: Params) -> Rig {
        let dir = tempfile::Builder::new().prefix("weft-sim").tempdir_in(scratch());
        let dir = dir.expect("a directory for the index can be made");
        let bytes = usize::try_from(capacity_bytes).expect("devices here fit into memory");
        let mut disk = Disk::new(bytes, Random::new(seed));
        format(&mut disk, dir.path(), capacity_bytes);
        let mut rig = Rig {
            disk,
            pool: Pool::new(16 << 20, 4 << 20).expect("there is memory for buffers"),
            store: None,
            dir,
            now: Duration::from_secs(1),
            writing: None,
            writing_random: Random::new(seed ^ 0xc4ec),
            answers: BTreeMap::new(),
            log: Vec::new(),
            stopped: false,
            params,
            telling: Telling::Quiet,
            next_op: 1,
        };
        let report = rig.open(BOOT).expect("a new target opens");
        assert_eq!(report.replayed_records, 0, "a new target has no records");
        rig
    }

    /// Where the index is.
    pub fn index_dir(&self) -> PathBuf {
        self.dir.path().join("index")
    }

    /// The parts of the device.
    pub fn areas(&self) -> Areas {
        self.store().superblock().areas
    }

    /// Opens the target.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(&mut self, boot_id: [u8; 16]) -> Result<RecoveryReport, StoreError> {
        self.end();
        let params = OpenParams {
            boot_id,
            dirty_chunks_max: self.params.dirty_chunks_max,
            cache_bytes_max: self.params.cache_bytes_max,
            tables_bytes_max: self.params.tables_bytes_max,
            checkpoint_interval: self.params.checkpoint_interval,
            discard: self.params.discard,
            index_bytes_max: self.params.index_bytes_max,
            check_space: true,
            ..OpenParams::new(self.index_dir(), CLUSTER)
        };
        let (store, report) = Store::open(params, &mut self.disk)?;
        self.store = Some(store);
        self.stopped = false;
        Ok(report)
    }

    /// The open store.
    ///
    /// # Panics
    /// When it is not open.
    pub fn store(&self) -> &Store {
        self.store.as_ref().expect("the store is open")
    }

    /// The open store.
    ///
    /// # Panics
    /// When it is not open.
    pub fn store_mut(&mut self) -> &mut Store {
        self.store.as_mut().expect("the store is open")
    }

    fn op(&mut self) -> u64 {
        self.next_op += 1;
        self.next_op
    }

    /// Lets the store act and takes its actions in.
    fn act(&mut self, f: impl FnOnce(&mut Store, &Pool, &mut Vec<Action>)) {
        let mut out = Vec::new();
        f(self.store.as_mut().expect("the store is open"), &self.pool, &mut out);
        for action in out {
            self.take(action);
        }
    }

    fn take(&mut self, action: Action) {
        match action {
            Action::ReadData { io, offset, buf, bytes } => {
                assert!(offset.is_multiple_of(4096) && bytes.is_multiple_of(4096));
                self.telling.event(self.now, || format!("{io:?} reads {offset}+{bytes}"));
                let bytes = length(bytes);
                self.disk.submit(self.now, io.0, Work::Read { offset, buf, bytes });
            }
            Action::WriteData { io, offset, buf, start, bytes } => {
                assert!(offset.is_multiple_of(4096) && start.is_multiple_of(4096));
                self.telling.event(self.now, || format!("{io:?} writes {offset}+{bytes}"));
                let bytes = buf[length(start)..length(start) + length(bytes)].to_vec();
                self.submit(io, offset, bytes, Through::Direct);
            }
            Action::AppendJournal { io, offset, bytes, .. } => {
                assert!(offset.is_multiple_of(4096) && bytes.len().is_multiple_of(4096));
                self.telling.event(self.now, || format!("{io:?} appends {offset}+{}", bytes.len()));
                self.submit(io, offset, bytes, Through::PageCache);
            }
            Action::Discard { io, offset, bytes } => {
                assert!(offset.is_multiple_of(65_536) && bytes.is_multiple_of(65_536) && bytes > 0);
                self.telling.event(self.now, || format!("{io:?} discards {offset}+{bytes}"));
                self.disk.submit(self.now, io.0, Work::Discard { offset, bytes });
            }
            Action::Flush { io } => {
                self.telling.event(self.now, || format!("{io:?} flushes"));
                self.disk.submit(self.now, io.0, Work::Flush);
            }
            Action::GoOn { io } => self.disk.submit(self.now, io.0, Work::Turn),
            Action::WriteCheckpoint(checkpoint) => {
                self.telling.event(self.now, || "a checkpoint is to be written".into());
                assert!(self.writing.is_none(), "one checkpoint at a time");
                self.writing = Some((self.later(), Writing::Begun(checkpoint)));
            }
            Action::Reply { op, result } => {
                let answer = answer_of(result);
                self.telling.event(self.now, || format!("op {op}: {}", tell(&answer)));
                let before = self.answers.insert(op, answer);
                assert_eq!(before, None, "one answer for each operation");
                self.log.push(op);
            }
            Action::Stopped => self.stopped = true,
        }
    }

    fn submit(&mut self, io: IoId, offset: u64, bytes: Vec<u8>, through: Through) {
        self.disk.submit(self.now, io.0, Work::Write { offset, bytes, through });
    }

    /// When the checkpoint under way gets a step further.
    fn later(&mut self) -> Duration {
        let most_us = self.writing_random.pick(&[100, 1_000, 10_000, 200_000]);
        self.now + Duration::from_micros(self.writing_random.below(most_us))
    }

    /// When something is over next.
    pub fn next_at(&self) -> Option<Duration> {
        let writing = self.writing.as_ref().map(|(at, _)| *at);
        [self.disk.next_at(), writing].into_iter().flatten().min()
    }

    /// The checkpoint gets a step further: into the index, or not; then word of it to the store. The process may end before,
    /// between and after these.
    fn write_on(&mut self, writing: Writing) {
        match writing {
            Writing::Begun(checkpoint) => {
                let fails = self.disk.faults.flush_errors > 0 && self.writing_random.chance(10);
                self.disk.counts.errors += u64::from(fails);
                self.telling.event(self.now, || format!("the checkpoint is written: {}", !fails));
                let written = if fails { checkpoint.refuse(EIO) } else { checkpoint.write() };
                self.writing = Some((self.later(), Writing::Written(written)));
            }
            Writing::Written(written) => {
                self.telling.event(self.now, || "the store hears of its checkpoint".into());
                self.act(|store, pool, out| store.checkpoint_written(written, pool, out));
            }
        }
    }

    /// Completes the next I/O, or a step of a checkpoint; whether there was one.
    pub fn step(&mut self) -> bool {
        let io_at = self.disk.next_at().unwrap_or(Duration::MAX);
        if let Some((at, writing)) = self.writing.take_if(|(at, _)| *at <= io_at) {
            self.now = self.now.max(at);
            self.write_on(writing);
            return true;
        }
        let Some(Done { tag, at, result }) = self.disk.complete() else { return false };
        self.now = self.now.max(at);
        let errno = result.as_ref().err().map(|error| error.errno);
        self.telling.event(self.now, || match errno {
            Some(errno) => format!("IoId({tag}) failed: errno {errno}"),
            None => format!("IoId({tag}) is done"),
        });
        self.act(|store, pool, out| store.io_done(IoId(tag), result, pool, out));
        true
    }

    /// Completes everything.
    pub fn settle(&mut self) {
        while self.step() {}
    }

    /// Time passes.
    pub fn tick(&mut self) {
        let now = self.now;
        self.act(|store, pool, out| {
            store.tick(now, out);
            store.scrub_tick(now, now.as_secs(), pool, out);
        });
    }

    /// Scrubs the whole target.
    pub fn scrub(&mut self) {
        let now_s = self.now.as_secs();
        self.store_mut().scrub_start(1 << 40, true, now_s);
        while self.store().scrub_status().running {
            self.now += Duration::from_millis(10);
            self.tick();
            self.settle();
        }
    }

    /// Begins a write of `bytes`.
    ///
    /// # Panics
    /// When there is no buffer for them.
    pub fn begin_write(&mut self, chunk: ChunkId, offset: u32, bytes: &[u8]) -> u64 {
        let op = self.op();
        let start = length(offset % 4096);
        let mut slot = self.pool.alloc(start + bytes.len()).expect("clients are few");
        slot.as_mut_slice()[start..start + bytes.len()].copy_from_slice(bytes);
        let count = u32::try_from(bytes.len()).expect("a chunk at most");
        let range = ChunkRange { chunk, offset, bytes: count };
        let sums = checksums(offset, bytes);
        self.act(|store, pool, out| store.write(op, range, sums, slot, pool, out));
        op
    }

    /// Begins a read.
    pub fn begin_read(&mut self, chunk: ChunkId, offset: u32, bytes: u32) -> u64 {
        let op = self.op();
        let range = ChunkRange { chunk, offset, bytes };
        self.act(|store, pool, out| store.read(op, range, pool, out));
        op
    }

    /// Begins a sync.
    pub fn begin_sync(&mut self, ino: Ino) -> u64 {
        let op = self.op();
        self.act(|store, _, out| store.sync(op, ino, out));
        op
    }

    /// Begins a truncation.
    pub fn begin_truncate(&mut self, ino: Ino, from: u64, cut: Option<(u64, u32)>) -> u64 {
        let op = self.op();
        let cut = cut.map(|(index, bytes)| (ChunkIndex(index), bytes));
        self.act(|store, pool, out| store.truncate(op, ino, ChunkIndex(from), cut, pool, out));
        op
    }

    /// Begins to give space out or back, or to make bytes zeros.
    pub fn begin_zero(&mut self, chunk: ChunkId, offset: u32, bytes: u32, how: ZeroHow) -> u64 {
        let op = self.op();
        let range = ChunkRange { chunk, offset, bytes };
        self.act(|store, pool, out| store.zero(op, range, how, pool, out));
        op
    }

    /// Makes the device longer and begins to use that.
    pub fn begin_grow(&mut self, capacity_bytes: u64) -> u64 {
        let op = self.op();
        self.disk.grow(usize::try_from(capacity_bytes).expect("devices here fit into memory"));
        self.act(|store, _, out| store.grow(op, capacity_bytes, out));
        op
    }

    /// Completes everything and takes the answer of `op`.
    ///
    /// # Panics
    /// When there is none.
    pub fn finish(&mut self, op: u64) -> Answer {
        self.settle();
        self.log.retain(|logged| *logged != op);
        self.answers.remove(&op).expect("answered when nothing is under way")
    }

    /// Writes.
    pub fn write(&mut self, chunk: ChunkId, offset: u32, bytes: &[u8]) -> Answer {
        let op = self.begin_write(chunk, offset, bytes);
        self.finish(op)
    }

    /// Reads.
    pub fn read(&mut self, chunk: ChunkId, offset: u32, bytes: u32) -> Answer {
        let op = self.begin_read(chunk, offset, bytes);
        self.finish(op)
    }

    /// Syncs.
    pub fn sync(&mut self) -> Answer {
        let op = self.begin_sync(Ino(1));
        self.finish(op)
    }

    /// Truncates.
    pub fn truncate(&mut self, ino: Ino, from: u64, cut: Option<(u64, u32)>) -> Answer {
        let op = self.begin_truncate(ino, from, cut);
        self.finish(op)
    }

    /// A clean end; whether the store is good to its end.
    ///
    /// # Panics
    /// When the store does not end.
    pub fn shutdown(&mut self) -> bool {
        self.act(|store, _, out| store.shutdown(out));
        self.settle();
        assert!(self.stopped, "a store ends when nothing is under way");
        let good = !self.store().is_read_only();
        self.end();
        good
    }

    /// What belongs to the process is gone.
    fn end(&mut self) {
        (self.store, self.writing) = (None, None);
    }

    /// The process dies: what the kernel has stays; what is under way arrives, or not.
    pub fn kill(&mut self) {
        self.end();
        self.disk.kill();
        self.answers.clear();
        self.log.clear();
    }

    /// The power goes.
    pub fn power_loss(&mut self) {
        self.end();
        self.disk.power_loss();
        self.answers.clear();
        self.log.clear();
    }
}

fn format(disk: &mut Disk, dir: &Path, capacity_bytes: u64) {
    let params = FormatParams {
        cluster: CLUSTER,
        target_uuid: TargetUuid([3; 16]),
        target_id: TargetId(4),
        capacity_bytes,
    };
    let plan = format_plan(&params).expect("the capacity is enough");
    for (offset, bytes) in plan.zeros {
        disk.write_now(offset, &vec![0; usize::try_from(bytes).expect("it fits into memory")]);
    }
    Store::create_index(&dir.join("index"), &plan.superblock).expect("an index can be made");
    for (offset, bytes) in plan.writes {
        disk.write_now(offset, &bytes);
    }
    disk.flush_now();
}

fn answer_of(result: Result<Outcome, Status>) -> Answer {
    match result {
        Err(status) => Answer::Failed(status),
        Ok(Outcome::Read { first_block, sums, pieces }) => {
            let mut bytes = Vec::new();
            for piece in &pieces {
                match piece {
                    ReadPiece::Data { slot, bytes: count } => {
                        bytes.extend_from_slice(&slot.as_slice()[..length(*count)]);
                    }
                    ReadPiece::Zeros { bytes: count } => {
                        bytes.resize(bytes.len() + length(*count), 0);
                    }
                }
            }
            assert_eq!(checksums(first_block * 4096, &bytes), sums, "sums are those of the blocks");
            Answer::Read(first_block, bytes)
        }
        Ok(_) => Answer::Done,
    }
}

fn tell(answer: &Answer) -> String {
    match answer {
        Answer::Read(first, bytes) => format!("read {} bytes from block {first} on", bytes.len()),
        Answer::Done => "done".into(),
        Answer::Failed(status) => format!("failed: {status:?}"),
    }
}

fn length(bytes: u32) -> usize {
    usize::try_from(bytes).expect("32 bits")
}

/// Memory where there is some: the index's syncs are not what is tested here.
fn scratch() -> PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() }
}
