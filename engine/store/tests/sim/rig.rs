//! A store over the simulated disk: I/Os complete late and in any order, and may fail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_iobuf::{BufSlot, Pool};
use weft_store::{
    Action, Checkpoint, CheckpointWritten, FormatParams, IoDone, IoError, IoId, OpenParams,
    Outcome, ReadPiece, RecoveryReport, Store, StoreError, TargetUuid, format_plan,
};
use weft_wire::blocks::checksums;
use weft_wire::data::{ChunkRange, ZeroHow};
use weft_wire::{ChunkId, ChunkIndex, ClusterId, Ino, Status, TargetId};

use crate::disk::{Disk, Random};

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
pub(crate) const BOOT: [u8; 16] = [9; 16];

/// What an operation answered, with the bytes of a read.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(crate) enum Answer {
    /// First block and the blocks' bytes.
    Read(u32, Vec<u8>),
    Done,
    Failed(Status),
}

enum Io {
    Read {
        offset: u64,
        buf: BufSlot,
        bytes: usize,
    },
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    Discard {
        offset: u64,
        bytes: u64,
    },
    /// Nothing: the store's next turn.
    Turn,
    /// How many unsynced writes were complete when it began, and so are covered.
    Flush {
        count: usize,
    },
}

impl Io {
    fn range(&self) -> Option<std::ops::Range<u64>> {
        let (offset, bytes) = match self {
            Io::Read { offset, bytes, .. } => (*offset, u64::try_from(*bytes).unwrap()),
            Io::Write { offset, bytes } => (*offset, u64::try_from(bytes.len()).unwrap()),
            Io::Discard { offset, bytes } => (*offset, *bytes),
            Io::Flush { .. } | Io::Turn => return None,
        };
        Some(offset..offset + bytes)
    }
}

/// How far the checkpoint under way is.
enum Writing {
    Begun(Checkpoint),
    /// The store does not know.
    Written(CheckpointWritten),
}

#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Faults {
    /// Of checkpoints.
    pub(crate) index: bool,
    pub(crate) data: bool,
    pub(crate) journal: bool,
    pub(crate) flush: bool,
    pub(crate) discard: bool,
    pub(crate) reads: bool,
}

pub(crate) struct Rig {
    pub(crate) disk: Disk,
    pub(crate) pool: Pool,
    pub(crate) store: Option<Store>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) random: Random,
    ios: Vec<(IoId, Io, bool)>,
    writing: Option<Writing>,
    /// The thread that writes the index is not heard of.
    pub(crate) writing_hangs: bool,
    pub(crate) answers: BTreeMap<u64, Answer>,
    /// Operations in the order in which they were answered.
    pub(crate) log: Vec<u64>,
    pub(crate) stopped: bool,
    next_op: u64,
    now: Duration,
    pub(crate) faults: Faults,
    /// Device bytes where reads fail, each a block's first.
    pub(crate) unreadable: Vec<u64>,
    pub(crate) dirty_chunks_max: u64,
    pub(crate) cache_bytes_max: u64,
    pub(crate) index_bytes_max: Option<u64>,
}

impl Rig {
    pub(crate) fn new(seed: u64, capacity_bytes: u64) -> Rig {
        let dir = tempfile::Builder::new().prefix("weft-store").tempdir_in(scratch()).unwrap();
        let mut disk = Disk::new(usize::try_from(capacity_bytes).unwrap());
        let params = FormatParams {
            cluster: CLUSTER,
            target_uuid: TargetUuid([3; 16]),
            target_id: TargetId(4),
            capacity_bytes,
        };
        let plan = format_plan(&params).unwrap();
        for (offset, bytes) in plan.zeros {
            disk.write(offset, &vec![0; usize::try_from(bytes).unwrap()]);
        }
        Store::create_index(&dir.path().join("index"), &plan.superblock).unwrap();
        for (offset, bytes) in plan.writes {
            disk.write(offset, &bytes);
        }
        disk.flush_first(disk.unsynced_count());
        let mut rig = Rig {
            disk,
            pool: Pool::new(16 << 20, 4 << 20).unwrap(),
            store: None,
            dir,
            random: Random::new(seed),
            ios: Vec::new(),
            writing: None,
            writing_hangs: false,
            answers: BTreeMap::new(),
            log: Vec::new(),
            stopped: false,
            next_op: 1,
            now: Duration::from_secs(1),
            faults: Faults::default(),
            unreadable: Vec::new(),
            dirty_chunks_max: 8,
            cache_bytes_max: 64 << 10,
            index_bytes_max: None,
        };
        let report = rig.open(BOOT).unwrap();
        assert_eq!(report.replayed_records, 0);
        rig
    }

    pub(crate) fn index_dir(&self) -> PathBuf {
        self.dir.path().join("index")
    }

    pub(crate) fn open(&mut self, boot_id: [u8; 16]) -> Result<RecoveryReport, StoreError> {
        (self.store, self.writing) = (None, None);
        let params = OpenParams {
            boot_id,
            dirty_chunks_max: self.dirty_chunks_max,
            cache_bytes_max: self.cache_bytes_max,
            index_bytes_max: self.index_bytes_max,
            checkpoint_interval: Duration::from_secs(1),
            discard: true,
            ..OpenParams::new(self.index_dir(), CLUSTER)
        };
        let (store, report) = Store::open(params, &mut self.disk)?;
        self.store = Some(store);
        self.stopped = false;
        Ok(report)
    }

    pub(crate) fn store(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    fn op(&mut self) -> u64 {
        self.next_op += 1;
        self.next_op
    }

    /// Lets the store act and takes its actions in.
    fn act(&mut self, f: impl FnOnce(&mut Store, &Pool, &mut Vec<Action>)) {
        let mut out = Vec::new();
        f(self.store.as_mut().unwrap(), &self.pool, &mut out);
        for action in out {
            self.take(action);
        }
    }

    fn take(&mut self, action: Action) {
        self.check_apart(&action);
        let faults = self.faults;
        let mut fails = |wanted: bool| wanted && self.random.chance(20);
        match action {
            Action::ReadData { io, offset, buf, bytes } => {
                let bytes = usize::try_from(bytes).unwrap();
                assert!(offset.is_multiple_of(4096) && bytes.is_multiple_of(4096));
                let covered = offset..offset + u64::try_from(bytes).unwrap();
                let lost = self.unreadable.iter().any(|byte| covered.contains(byte));
                self.ios.push((io, Io::Read { offset, buf, bytes }, fails(faults.reads) || lost));
            }
            Action::WriteData { io, offset, buf, start, bytes } => {
                let start = usize::try_from(start).unwrap();
                let bytes = usize::try_from(bytes).unwrap();
                assert!(offset.is_multiple_of(4096) && start.is_multiple_of(4096));
                let bytes = buf[start..start + bytes].to_vec();
                self.ios.push((io, Io::Write { offset, bytes }, fails(faults.data)));
            }
            Action::AppendJournal { io, offset, bytes, .. } => {
                assert!(offset.is_multiple_of(4096) && bytes.len().is_multiple_of(4096));
                self.ios.push((io, Io::Write { offset, bytes }, fails(faults.journal)));
            }
            Action::Discard { io, offset, bytes } => {
                assert!(offset.is_multiple_of(65536) && bytes.is_multiple_of(65536) && bytes > 0);
                let under_way = |io: &(IoId, Io, bool)| io.1.range();
                for other in self.ios.iter().filter_map(under_way) {
                    assert!(
                        other.end <= offset || other.start >= offset + bytes,
                        "nothing else is done where a discard is"
                    );
                }
                self.ios.push((io, Io::Discard { offset, bytes }, fails(faults.discard)));
            }
            Action::Flush { io } => {
                let count = self.disk.unsynced_count();
                let flushing = |io: &(IoId, Io, bool)| matches!(io.1, Io::Flush { .. });
                assert!(!self.ios.iter().any(flushing), "one flush at a time");
                self.ios.push((io, Io::Flush { count }, fails(faults.flush)));
            }
            Action::GoOn { io } => self.ios.push((io, Io::Turn, false)),
            Action::WriteCheckpoint(checkpoint) => {
                assert!(self.writing.is_none(), "one checkpoint at a time");
                self.writing = Some(Writing::Begun(checkpoint));
            }
            Action::Reply { op, result } => {
                let before = self.answers.insert(op, answer_of(result));
                assert_eq!(before, None, "one answer for each operation");
                self.log.push(op);
            }
            Action::Stopped => self.stopped = true,
        }
    }

    /// Nothing is read or written where a discard is under way.
    fn check_apart(&self, action: &Action) {
        let (from, bytes) = match action {
            Action::ReadData { offset, bytes, .. } | Action::WriteData { offset, bytes, .. } => {
                (*offset, u64::from(*bytes))
            }
            _ => return,
        };
        for (_, io, _) in &self.ios {
            if let Io::Discard { offset, bytes: length } = io {
                assert!(from + bytes <= *offset || from >= offset + length, "apart from a discard");
            }
        }
    }

    /// The checkpoint under way gets a step further: into the index, or not; then word of it to the store.
    pub(crate) fn write_on(&mut self) {
        match self.writing.take().expect("one is under way") {
            Writing::Begun(checkpoint) => {
                let fails = self.faults.index;
                let written = if fails { checkpoint.refuse(5) } else { checkpoint.write() };
                self.writing = Some(Writing::Written(written));
            }
            Writing::Written(written) => {
                self.act(|store, pool, out| store.checkpoint_written(written, pool, out));
            }
        }
    }

    pub(crate) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Completes one I/O, any, or a step of a checkpoint; whether there was one.
    pub(crate) fn step(&mut self) -> bool {
        let writes = self.writing.is_some() && !self.writing_hangs;
        if writes && (self.ios.is_empty() || self.random.chance(20)) {
            self.write_on();
            return true;
        }
        if self.ios.is_empty() {
            return false;
        }
        let at =
            usize::try_from(self.random.below(u64::try_from(self.ios.len()).unwrap())).unwrap();
        let (io, work, fails) = self.ios.swap_remove(at);
        let result = self.execute(work, fails);
        self.act(|store, pool, out| store.io_done(io, result, pool, out));
        true
    }

    fn execute(&mut self, work: Io, fails: bool) -> Result<IoDone, IoError> {
        let buf = match work {
            Io::Read { offset, mut buf, bytes } => {
                self.disk.read(offset, &mut buf.as_mut_slice()[..bytes]);
                Some(buf)
            }
            Io::Write { offset, bytes } if fails => {
                // A failed write leaves anything.
                let part = usize::try_from(self.random.below(9)).unwrap() * 512;
                self.disk.write(offset, &bytes[..part.min(bytes.len())]);
                None
            }
            Io::Write { offset, bytes } => {
                self.disk.write(offset, &bytes);
                None
            }
            Io::Discard { offset, bytes } => {
                let bytes = usize::try_from(bytes).unwrap();
                self.disk.discard(offset, bytes, &mut self.random);
                None
            }
            Io::Turn => None,
            Io::Flush { .. } if fails => None,
            Io::Flush { count } => {
                self.disk.flush_first(count);
                None
            }
        };
        if fails { Err(IoError { errno: 5, buf }) } else { Ok(IoDone { buf, ..IoDone::default() }) }
    }

    pub(crate) fn discarding(&self) -> bool {
        self.ios.iter().any(|io| matches!(io.1, Io::Discard { .. }))
    }

    /// I/Os under way.
    pub(crate) fn io_count(&self) -> usize {
        self.ios.len()
    }

    pub(crate) fn settle(&mut self) {
        while self.step() {}
    }

    pub(crate) fn tick(&mut self) {
        self.now += Duration::from_millis(300);
        let now = self.now;
        self.act(|store, _, out| store.tick(now, out));
        self.act(|store, pool, out| store.scrub_tick(now, now.as_secs(), pool, out));
    }

    pub(crate) fn begin_write(&mut self, chunk: ChunkId, offset: u32, bytes: &[u8]) -> u64 {
        let op = self.op();
        let start = usize::try_from(offset % 4096).unwrap();
        let mut slot = self.pool.alloc(start + bytes.len()).unwrap();
        slot.as_mut_slice()[start..start + bytes.len()].copy_from_slice(bytes);
        let range = ChunkRange { chunk, offset, bytes: u32::try_from(bytes.len()).unwrap() };
        let sums = checksums(offset, bytes);
        self.act(|store, pool, out| store.write(op, range, sums, slot, pool, out));
        op
    }

    pub(crate) fn begin_read(&mut self, chunk: ChunkId, offset: u32, bytes: u32) -> u64 {
        let op = self.op();
        let range = ChunkRange { chunk, offset, bytes };
        self.act(|store, pool, out| store.read(op, range, pool, out));
        op
    }

    pub(crate) fn begin_sync(&mut self, ino: Ino) -> u64 {
        let op = self.op();
        self.act(|store, _, out| store.sync(op, ino, out));
        op
    }

    pub(crate) fn begin_zero(&mut self, range: ChunkRange, how: ZeroHow) -> u64 {
        let op = self.op();
        self.act(|store, pool, out| store.zero(op, range, how, pool, out));
        op
    }

    pub(crate) fn begin_truncate(&mut self, ino: Ino, from: u64, cut: Option<(u64, u32)>) -> u64 {
        let op = self.op();
        let cut = cut.map(|(index, bytes)| (ChunkIndex(index), bytes));
        self.act(|store, pool, out| store.truncate(op, ino, ChunkIndex(from), cut, pool, out));
        op
    }

    /// The device becomes longer, and the target is told.
    pub(crate) fn begin_grow(&mut self, capacity_bytes: u64) -> u64 {
        let op = self.op();
        self.disk.extend(usize::try_from(capacity_bytes).unwrap());
        self.act(|store, _, out| store.grow(op, capacity_bytes, out));
        op
    }

    pub(crate) fn finish(&mut self, op: u64) -> Answer {
        self.settle();
        self.answers.remove(&op).expect("answered when nothing is under way")
    }

    pub(crate) fn write(&mut self, chunk: ChunkId, offset: u32, bytes: &[u8]) -> Answer {
        let op = self.begin_write(chunk, offset, bytes);
        self.finish(op)
    }

    pub(crate) fn read(&mut self, chunk: ChunkId, offset: u32, bytes: u32) -> Answer {
        let op = self.begin_read(chunk, offset, bytes);
        self.finish(op)
    }

    pub(crate) fn sync(&mut self) -> Answer {
        let op = self.begin_sync(Ino(1));
        self.finish(op)
    }

    pub(crate) fn truncate(&mut self, ino: Ino, from: u64, cut: Option<(u64, u32)>) -> Answer {
        let op = self.begin_truncate(ino, from, cut);
        self.finish(op)
    }

    pub(crate) fn begin_shutdown(&mut self) {
        self.act(|store, _, out| store.shutdown(out));
    }

    /// A clean end.
    pub(crate) fn shutdown(&mut self) {
        self.begin_shutdown();
        self.settle();
        assert!(self.stopped);
        self.store = None;
    }

    /// The process dies: what the kernel has stays; what is under way arrives, or not.
    pub(crate) fn kill(&mut self) {
        (self.store, self.writing) = (None, None);
        for (_, work, _) in std::mem::take(&mut self.ios) {
            match work {
                Io::Write { offset, bytes } if self.random.chance(50) => {
                    self.disk.write(offset, &bytes);
                }
                Io::Discard { offset, bytes } if self.random.chance(50) => {
                    let bytes = usize::try_from(bytes).unwrap();
                    self.disk.discard(offset, bytes, &mut self.random);
                }
                _ => {}
            }
        }
        self.answers.clear();
        self.log.clear();
    }

    /// The power goes.
    pub(crate) fn power_loss(&mut self) {
        self.kill();
        let mut random = self.random.clone();
        self.disk.power_loss(&mut random);
        self.random = random;
    }
}

fn answer_of(result: Result<Outcome, Status>) -> Answer {
    match result {
        Err(status) => Answer::Failed(status),
        Ok(Outcome::Read { first_block, sums, pieces }) => {
            let mut bytes = Vec::new();
            for piece in &pieces {
                match piece {
                    ReadPiece::Data { slot, bytes: count } => {
                        let count = usize::try_from(*count).unwrap();
                        bytes.extend_from_slice(&slot.as_slice()[..count]);
                    }
                    ReadPiece::Zeros { bytes: count } => {
                        bytes.resize(bytes.len() + usize::try_from(*count).unwrap(), 0);
                    }
                }
            }
            assert_eq!(checksums(first_block * 4096, &bytes), sums, "sums are those of the blocks");
            Answer::Read(first_block, bytes)
        }
        Ok(_) => Answer::Done,
    }
}

/// Memory where there is some: the index's syncs are not what is tested here.
fn scratch() -> PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() }
}
