//! A volume with a log in memory, driven by hand, and the tests over it.

mod cases;
mod checkpoint;
mod crash;
mod data;
mod directory;
mod format;
mod model;
mod posix;
mod random;
mod room;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tempfile::TempDir;
use weft_wire::meta::{Caller, MakeHow, MetaReply, MetaRequest, NO_SLOT, SetAttr, Time};
use weft_wire::units::{to_u64, to_usize};
use weft_wire::{ClusterId, Ino, SessionId, Status, TargetId};

use crate::limits::{LOG_WRITES_MAX, SEGMENT_BYTES_MIN};
use crate::{
    Action, Checkpoint, Fence, FormatParams, Incoming, LogDevice, MetaError, OpenReport, Volume,
    VolumeParams, Work, check, log_bytes,
};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const SEED: [u8; 24] = [9; 24];
const ALICE: SessionId = SessionId([1; 16]);

/// The log file, as the device has it.
#[derive(Clone, Debug)]
struct MemoryLog(Vec<u8>);

impl LogDevice for MemoryLog {
    fn len_bytes(&mut self) -> std::io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        assert!(offset.is_multiple_of(4096) && buffer.len().is_multiple_of(4096));
        let at = to_usize(offset);
        buffer.copy_from_slice(&self.0[at..at + buffer.len()]);
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct Append {
    io: u64,
    offset: u64,
    bytes: Vec<u8>,
}

/// splitmix64.
#[derive(Clone, Debug)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[to_usize(self.below(of.len() as u64))]
    }
}

struct Rig {
    dir: TempDir,
    params: VolumeParams,
    volume: Option<Volume>,
    log: MemoryLog,
    appends: VecDeque<Append>,
    /// What a checkpoint has to write; held back while `checkpoints_wait`.
    checkpoint: Option<Checkpoint>,
    checkpoints_wait: bool,
    replies: BTreeMap<u64, (Status, Vec<u8>)>,
    works: Vec<Work>,
    /// Sessions that others may go on without, and what they are told.
    fenced: Vec<(SessionId, u32)>,
    next_op: u64,
    sequence: u64,
    now: Time,
    stopped: bool,
}

fn params() -> VolumeParams {
    VolumeParams {
        map_bytes_max: 64 << 20,
        ..VolumeParams::new(CLUSTER, [3, 5, 8].map(TargetId).to_vec())
    }
}

fn format_params() -> FormatParams {
    FormatParams {
        segment_bytes: SEGMENT_BYTES_MIN,
        map_bytes_max: 64 << 20,
        ..FormatParams::new(CLUSTER, Time { seconds: 1, nanos: 0 }, SEED)
    }
}

impl Rig {
    fn new() -> Rig {
        Rig::with(params())
    }

    fn with(params: VolumeParams) -> Rig {
        Rig::formatted(params, &format_params())
    }

    fn formatted(params: VolumeParams, format: &FormatParams) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        Volume::format(dir.path(), format).unwrap();
        assert_eq!(Volume::log_plan(dir.path()).unwrap(), log_bytes(format.segment_bytes));
        let log = MemoryLog(vec![0; to_usize(log_bytes(format.segment_bytes))]);
        let mut rig = Rig {
            dir,
            params,
            volume: None,
            log,
            appends: VecDeque::new(),
            checkpoint: None,
            checkpoints_wait: false,
            replies: BTreeMap::new(),
            works: Vec::new(),
            fenced: Vec::new(),
            next_op: 1,
            sequence: 0,
            now: Time { seconds: 100, nanos: 0 },
            stopped: false,
        };
        rig.open().unwrap();
        rig.volume().grace_over();
        rig
    }

    fn volume(&mut self) -> &mut Volume {
        self.volume.as_mut().unwrap()
    }

    fn open(&mut self) -> Result<OpenReport, MetaError> {
        self.volume = None;
        self.checkpoint = None;
        let opened = loop {
            match Volume::open(self.dir.path(), &self.params, &mut self.log) {
                // A child that another test of this process starts holds our lock until it execs.
                Err(e) if e.source.is_some_and(|s| s.kind == weft_lmdb::Kind::Busy) => {
                    std::thread::yield_now();
                }
                opened => break opened,
            }
        };
        let (volume, report) = opened?;
        self.volume = Some(volume);
        Ok(report)
    }

    /// The process dies; `torn` says what of each write under way reached the device.
    fn crash(
        &mut self,
        mut torn: impl FnMut(&mut MemoryLog, Append),
    ) -> Result<OpenReport, MetaError> {
        for append in std::mem::take(&mut self.appends) {
            torn(&mut self.log, append);
        }
        self.replies.clear();
        self.works.clear();
        self.open()
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::AppendLog { io, offset, bytes } => {
                    assert!(self.appends.len() < LOG_WRITES_MAX, "a few at a time");
                    assert!(bytes.len().is_multiple_of(4096) && offset.is_multiple_of(4096));
                    self.appends.push_back(Append { io, offset, bytes });
                }
                Action::Reply { op, status, body } => {
                    assert!(status == Status::Ok || body.is_empty());
                    assert!(self.replies.insert(op, (status, body)).is_none(), "one reply each");
                }
                Action::Work(work) => self.works.push(work),
                Action::Fenced { session, number, .. } | Action::Expired { session, number } => {
                    self.fenced.push((session, number));
                }
                Action::WriteCheckpoint(checkpoint) => {
                    assert!(self.checkpoint.is_none(), "one checkpoint at a time");
                    self.checkpoint = Some(checkpoint);
                }
                Action::Stopped => self.stopped = true,
            }
        }
    }

    fn submit_as(&mut self, session: SessionId, caller: Caller, request: &MetaRequest<'_>) -> u64 {
        let op = self.next_op;
        self.next_op += 1;
        let mut body = Vec::new();
        request.encode(&caller, &mut body);
        let incoming = Incoming { op, session, caller, request, body: &body };
        let (mut out, now) = (Vec::new(), self.now);
        self.volume().request(&incoming, now, &mut out);
        self.take(out);
        op
    }

    fn submit(&mut self, request: &MetaRequest<'_>) -> u64 {
        let mutation = request.is_mutation();
        self.sequence += u64::from(mutation);
        let slot = if mutation { 0 } else { NO_SLOT };
        let caller = Caller { uid: 10, gid: 20, slot, sequence: self.sequence };
        self.submit_as(ALICE, caller, request)
    }

    fn flush(&mut self) {
        loop {
            let mut out = Vec::new();
            self.volume().flush_log(&mut out);
            self.take(out);
            if self.checkpoints_wait || !self.write_checkpoint() {
                return;
            }
        }
    }

    /// The checkpoint under way is durable; whether there was one.
    fn write_checkpoint(&mut self) -> bool {
        let Some(checkpoint) = self.checkpoint.take() else { return false };
        let mut out = Vec::new();
        self.volume().checkpoint_written(checkpoint.write(), &mut out);
        self.take(out);
        true
    }

    /// The append that is longest under way is durable; what it was.
    fn complete(&mut self) -> Option<Append> {
        self.complete_nth(0)
    }

    fn complete_nth(&mut self, nth: usize) -> Option<Append> {
        let append = self.appends.remove(nth)?;
        let at = to_usize(append.offset);
        self.log.0[at..at + append.bytes.len()].copy_from_slice(&append.bytes);
        let mut out = Vec::new();
        self.volume().log_done(append.io, Ok(()), &mut out);
        self.take(out);
        Some(append)
    }

    /// Runs until nothing waits; the targets are done with everything at once.
    fn settle(&mut self) {
        loop {
            for work in std::mem::take(&mut self.works) {
                self.volume().work_done(work.id, 0);
            }
            self.volume().tick(Duration::ZERO);
            self.flush();
            if self.complete().is_none() {
                return;
            }
        }
    }

    fn ask(&mut self, request: &MetaRequest<'_>) -> Result<MetaReply, Status> {
        let op = self.submit(request);
        self.settle();
        self.answer(op, request)
    }

    fn answer(&mut self, op: u64, request: &MetaRequest<'_>) -> Result<MetaReply, Status> {
        let (status, body) = self.replies.remove(&op).expect("answered");
        match status {
            Status::Ok => Ok(MetaReply::decode(request.kind(), &body).unwrap()),
            status => Err(status),
        }
    }

    fn make(&mut self, parent: Ino, name: &[u8], mode: u32) -> Result<Ino, Status> {
        match self.ask(&make(parent, name, mode))? {
            MetaReply::Made(attr, ..) => Ok(attr.ino),
            other => panic!("{other:?}"),
        }
    }

    fn done(&mut self, request: &MetaRequest<'_>) -> Result<(), Status> {
        self.ask(request).map(drop)
    }

    fn attr(&mut self, ino: Ino) -> Result<weft_wire::meta::Attr, Status> {
        match self.ask(&MetaRequest::GetAttr { ino })? {
            MetaReply::Attr(attr) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }

    fn assert_sound(&mut self) -> crate::Report {
        let report = check(self.volume());
        assert_eq!(report.problems, []);
        report
    }
}

fn make<'a>(parent: Ino, name: &'a [u8], mode: u32) -> MetaRequest<'a> {
    let how = MakeHow {
        mode,
        umask: 0,
        rdev: 0,
        exclusive: true,
        open: false,
        inline: false,
        fresh: false,
    };
    MetaRequest::Make { parent, name, how, target: b"" }
}

fn resize(ino: Ino, size: u64) -> MetaRequest<'static> {
    MetaRequest::SetAttr { ino, set: SetAttr { size: Some(size), ..SetAttr::default() } }
}

const FILE: u32 = 0o100_644;
const DIR: u32 = 0o040_755;

/// Everything commands change, to compare two states: all tables but slots, the slots in memory, the counters.
fn dump(volume: &Volume) -> Vec<String> {
    use crate::store::Name;
    let mut lines = Vec::new();
    for name in Name::ALL {
        if !matches!(name, Name::Slots | Name::Meta) {
            volume
                .store()
                .scan(name, &[], &mut |key, value| {
                    lines.push(format!("{name:?} {key:02x?} {value:02x?}"));
                    std::ops::ControlFlow::Continue(())
                })
                .unwrap();
        }
    }
    lines.extend(volume.slots().outcomes().map(|slot| format!("{slot:?}")));
    let state = volume.state();
    lines.push(format!("{} {} {}", state.applied, state.next_counter, state.next_work));
    lines
}
