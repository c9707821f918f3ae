//! The chunk store of one target, with clients, faults and crashes: `regime.rs` says what must hold.
//!
//! A seed draws a regime and habits, then plays rounds: operations under way, a crash at any
//! instant, recovery (which may be cut short by a power loss, more than once), and then every block
//! is read and must be something it may be, every chunk must be counted, and space must add up.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use weft_store::{Copies, Kind};
use weft_wire::data::ZeroHow;
use weft_wire::{ChunkId, ChunkIndex, Ino, Status};

use crate::disk::Faults;
use crate::random::Random;
use crate::runner::{Tally, Telling};

mod index_fault;
pub mod model;
pub mod regime;
pub mod rig;

mod verify;

use index_fault::IndexFault;
use model::{BLOCK_LEN, Change, Content, Crash, Model};
use regime::{Habits, Regime};
use rig::{Answer, BOOT, Params, Rig};

const CAPACITY_BYTES: u64 = 8 << 20;
const ROUNDS: u64 = 4;
/// In one seed of so many places change hands just before a power loss.
const SWAPPING: u64 = 8;
/// In one seed of so many the index is nearly full.
const TIGHT: u64 = 16;
/// In one seed of so many the index cannot be read now and then, and files go in many steps.
const UNREAD: u64 = 16;
/// In one seed of so many space is given out ahead all the time.
const GIVING: u64 = 16;
/// Takes much of the device, so that the rest is full now and then.
const FILLER: ChunkId = ChunkId { ino: Ino(99), index: ChunkIndex(0) };
const FILLER_BYTE: u8 = 0x77;

/// What a client waits for.
#[derive(Debug)]
enum Pending {
    Change(Change),
    Read { chunk: ChunkId, first: u32, count: u32 },
    Sync { clock: u64 },
    Grow { capacity_bytes: u64 },
}

/// Whether what was acknowledged and not synced is lost, as far as the next open can know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    None,
    /// A flush was under way: nobody knows how it ended.
    Perhaps,
    /// The power went, or a flush failed.
    Sure,
}

#[derive(Debug)]
struct World {
    rig: Rig,
    model: Model,
    regime: Regime,
    habits: Habits,
    faults: Faults,
    random: Random,
    pending: BTreeMap<u64, Pending>,
    /// What came later than the first kept seeds: drawn apart, so that those stay what they are.
    extra: Random,
    /// What came later still.
    zeroing: Random,
    /// The same of blocks that cannot be read.
    sectors: Random,
    /// The same of an index that cannot be read now and then; not in all seeds.
    unread: Option<Random>,
    index_fault: Option<IndexFault>,
    /// It could not be read since the store was opened.
    index_failed: bool,
    /// Lengths the target may have: one, unless it is growing.
    capacities: Vec<u64>,
    /// The machine's boot, and how many there were.
    boot: [u8; 16],
    boots: u8,
    /// What the open store says of losses, and whether clients may or must be told of one when it is opened again.
    loss_count: u32,
    loss: Loss,
    tally: Tally,
    next_tick: Duration,
}

/// Plays one seed to its end.
///
/// # Panics
/// When an answer of the store is wrong.
pub fn play(seed: u64, telling: Telling) -> Tally {
    let mut world = World::new(seed, telling);
    for _ in 0..ROUNDS {
        let operations = 20 + world.random.below(150);
        world.run(operations);
        let (crash, same_boot) = world.crash();
        world.rig.disk.faults = Faults::default();
        let Some(crash) = world.recover(crash, same_boot) else {
            return world.end("refused as damaged");
        };
        world.verify(crash);
        world.rig.disk.faults = world.faults.clone();
    }
    world.rig.disk.faults = Faults::default();
    world.unread = None;
    world.run(40);
    world.drain();
    world.remove_all();
    world.end("all is well")
}

impl World {
    fn new(seed: u64, telling: Telling) -> World {
        let mut random = Random::new(seed);
        let mut regime = Regime::draw(&mut random);
        let mut habits = Habits::draw(&mut random);
        let swaps = seed.is_multiple_of(SWAPPING);
        if swaps {
            habits = habits.swapping(&mut random);
        }
        if !habits.shapes && !seed.is_multiple_of(4) {
            // Places given out again matter most where writes are lost without a word.
            regime = Regime::DataLies;
        }
        if swaps {
            regime = Regime::DataLies;
        }
        let unread = draw_special(seed, &mut regime, &mut habits);
        let mut extra = Random::new(seed ^ 0x0d15_ca2d);
        let params = Params {
            dirty_chunks_max: habits.dirty_chunks_max,
            cache_bytes_max: habits.cache_bytes_max,
            tables_bytes_max: habits.tables_bytes_max,
            checkpoint_interval: habits.checkpoint_interval,
            // What is to be discarded is not given out again for a while.
            discard: extra.chance(70) && habits.shapes,
            index_bytes_max: (seed % TIGHT == 1).then(|| tight_index(seed)),
        };
        let mut rig = Rig::new(random.next(), CAPACITY_BYTES, params);
        rig.telling = telling;
        let mut faults = regime.faults(&rig.areas(), &mut random);
        let mut sectors = Random::new(seed ^ 0x5ec7_0125);
        regime.lose_sectors(&mut faults, &mut sectors);
        if swaps {
            faults = Faults { area: faults.area, rot: 200, ..Faults::default() };
        }
        telling.step(rig.now, || format!("seed {seed}: {regime:?}"));
        telling.step(rig.now, || format!("{habits:?}"));
        telling.step(rig.now, || format!("{faults:?}"));
        let mut model = Model::new(regime.memory(), &faults);
        model.told |= unread.is_some();
        let pending = BTreeMap::new();
        let tally = Tally { seeds: 1, ..Tally::default() };
        let mut world = World {
            rig,
            model,
            regime,
            habits,
            faults,
            random,
            pending,
            extra,
            zeroing: Random::new(seed ^ 0x2e70_1e55),
            sectors,
            unread,
            index_fault: None,
            index_failed: false,
            capacities: vec![CAPACITY_BYTES],
            boot: BOOT,
            boots: 0,
            loss_count: 0,
            loss: Loss::None,
            tally,
            next_tick: Duration::ZERO,
        };
        world.loss_count = world.rig.store().loss_count();
        if world.habits.filler_blocks > 0 {
            let bytes = vec![FILLER_BYTE; BLOCK_LEN * blocks(world.habits.filler_blocks)];
            assert_eq!(world.rig.write(FILLER, 0, &bytes), Answer::Done);
            assert_eq!(world.rig.sync(), Answer::Done);
        }
        world.rig.disk.faults = world.faults.clone();
        world
    }

    fn end(self, how: &str) -> Tally {
        let counts = self.rig.disk.counts;
        self.rig.telling.step(self.rig.now, || format!("{how}; {:?}, disk {counts:?}", self.tally));
        self.tally
    }

    /// The chunks clients touch.
    fn chunks(&self) -> impl Iterator<Item = ChunkId> + use<> {
        let (inos, chunks) = (self.habits.inos, self.habits.chunks);
        (1..=inos).flat_map(move |ino| {
            (0..chunks).map(move |index| ChunkId { ino: Ino(ino), index: ChunkIndex(index) })
        })
    }

    fn any_chunk(&mut self) -> ChunkId {
        let ino = 1 + self.random.below(self.habits.inos);
        // Some chunks are busier than others.
        let chunks = self.habits.chunks;
        let index = self.random.below(chunks).min(self.random.below(chunks));
        ChunkId { ino: Ino(ino), index: ChunkIndex(index) }
    }

    /// Operations, and then an instant for a crash: any, or one soon after a sync was answered,
    /// which is when the most was promised.
    fn run(&mut self, operations: u64) {
        self.advance(operations);
        let more_us = self.random.pick(&[1, 200, 2_000, 30_000]);
        self.pass_some(more_us);
        if self.habits.gives {
            self.begin_sync();
            self.take_answers();
            return self.pass_some(4_000);
        }
        if self.habits.swaps || self.random.chance(40) {
            self.begin_sync();
            self.pass(Duration::from_millis(100), true);
            let operations = self.random.below(8);
            self.advance(if self.habits.swaps { 2 * operations } else { operations });
            self.pass_some(more_us);
        }
    }

    /// Begins so many operations, with pauses.
    fn advance(&mut self, operations: u64) {
        let pause_us = u64::try_from(self.habits.pause_max.as_micros()).expect("short");
        for _ in 0..operations {
            while self.pending.len() >= self.habits.depth {
                self.pass(Duration::from_micros(1 + pause_us), false);
            }
            self.begin();
            self.take_answers();
            self.shake_index();
            self.pass_some(pause_us);
        }
    }

    /// Some time passes, at most so many microseconds.
    fn pass_some(&mut self, most_us: u64) {
        let time = Duration::from_micros(1 + self.random.below(most_us));
        self.pass(time, false);
    }

    /// Time passes, `time` of it, or until a sync is answered.
    fn pass(&mut self, time: Duration, until_synced: bool) {
        let end = self.rig.now + time;
        loop {
            let next_io = self.rig.next_at().unwrap_or(Duration::MAX);
            if next_io.min(self.next_tick) >= end {
                self.rig.now = end;
                return;
            }
            if next_io <= self.next_tick {
                self.rig.step();
            } else {
                self.rig.now = self.next_tick;
                self.next_tick += self.habits.tick;
                self.rig.tick();
            }
            if self.take_answers() > 0 && until_synced {
                return;
            }
        }
    }

    /// Completes everything.
    fn drain(&mut self) {
        while self.rig.step() {
            self.take_answers();
        }
        assert!(self.pending.is_empty(), "everything is answered when nothing is under way");
    }

    fn begin(&mut self) {
        self.tally.operations += 1;
        if self.habits.shapes {
            if self.extra.rarely(50) && self.capacities.len() == 1 {
                return self.begin_grow();
            }
            if self.zeroing.chance(self.habits.zeroing) {
                return self.begin_zero();
            }
        }
        let weights = self.habits.weights;
        let mut drawn = self.random.below_u32(weights.iter().sum());
        let mut kind = 0;
        while drawn >= weights[kind] {
            drawn -= weights[kind];
            kind += 1;
        }
        match kind {
            0 => self.begin_write(),
            1 => self.begin_read(),
            2 => self.begin_sync(),
            _ => self.begin_truncate(),
        }
    }

    fn begin_sync(&mut self) {
        let clock = self.model.clock();
        let op = self.rig.begin_sync(Ino(1));
        self.rig.telling.event(self.rig.now, || format!("op {op}: sync"));
        self.pending.insert(op, Pending::Sync { clock });
    }

    fn begin_grow(&mut self) {
        // A growth that a crash cut short has left the device longer than the target.
        let device_bytes = weft_store::Device::len_bytes(&self.rig.disk);
        let capacity_bytes = device_bytes + 4096 * (1 + self.extra.below(300));
        let op = self.rig.begin_grow(capacity_bytes);
        self.rig.telling.event(self.rig.now, || format!("op {op}: grow to {capacity_bytes}"));
        self.capacities.push(capacity_bytes);
        self.pending.insert(op, Pending::Grow { capacity_bytes });
    }

    fn begin_read(&mut self) {
        let chunk = self.any_chunk();
        let chunk_blocks = self.habits.chunk_blocks;
        let first = self.random.below_u32(chunk_blocks);
        let count = 1 + self.random.below_u32(chunk_blocks - first);
        let (start, cut) = (self.random.below_u32(4096), self.random.below_u32(4096));
        let bytes = (count * 4096 - start).saturating_sub(cut).max(1);
        let op = self.rig.begin_read(chunk, first * 4096 + start, bytes);
        let count = (start + bytes).div_ceil(4096);
        self.rig.telling.event(self.rig.now, || format!("op {op}: read {chunk} {first}+{count}"));
        self.pending.insert(op, Pending::Read { chunk, first, count });
    }

    fn begin_write(&mut self) {
        let chunk = self.any_chunk();
        let mut offset = self.random.below_u32(self.habits.chunk_blocks) * 4096;
        let mut bytes = (1 + self.random.below_u32(self.habits.blocks_max)) * 4096;
        if self.random.chance(self.habits.partial) {
            offset += self.random.below_u32(4096);
            bytes = bytes.saturating_sub(self.random.below_u32(4096)).max(1);
        }
        let bytes = self.content(blocks(bytes.min(self.habits.chunk_blocks * 4096 - offset)));
        let op = self.rig.begin_write(chunk, offset, &bytes);
        self.rig.telling.event(self.rig.now, || {
            format!("op {op}: write {chunk} {offset}+{} ({})", bytes.len(), bytes[0])
        });
        self.pending.insert(op, Pending::Change(Change::Write { chunk, offset, bytes }));
    }

    /// Blocks of equal content are what confuses a recovery by checksum, so some seeds have many.
    fn content(&mut self, count: usize) -> Vec<u8> {
        if self.habits.contents > 0 {
            // Not zeros, which recovery need not find anywhere.
            let value = 1 + self.random.below(self.habits.contents);
            return vec![u8::try_from(value).expect("few"); count];
        }
        let mut bytes: Vec<u8> = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.random.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    fn begin_zero(&mut self) {
        let ino = 1 + self.zeroing.below(self.habits.inos);
        let index = ChunkIndex(self.zeroing.below(self.habits.chunks));
        let chunk = ChunkId { ino: Ino(ino), index };
        let first = self.zeroing.below_u32(self.habits.chunk_blocks);
        let count = 1 + self.zeroing.below_u32(self.habits.chunk_blocks - first);
        let (mut offset, mut bytes) = (first * 4096, count * 4096);
        let how = match self.zeroing.below(3) {
            0 => ZeroHow::Allocate,
            1 => ZeroHow::Punch,
            _ => {
                let (start, cut) = (self.zeroing.below_u32(4096), self.zeroing.below_u32(4096));
                offset += start;
                bytes = (bytes - start).saturating_sub(cut).max(1);
                ZeroHow::Erase
            }
        };
        let op = self.rig.begin_zero(chunk, offset, bytes, how);
        let change = Change::Zero { chunk, offset, bytes, how };
        self.rig.telling.event(self.rig.now, || format!("op {op}: {change:?}"));
        self.pending.insert(op, Pending::Change(change));
    }

    fn begin_truncate(&mut self) {
        let ino = Ino(1 + self.random.below(self.habits.inos));
        let from = self.random.below(self.habits.chunks + 1);
        let half = self.random.chance(50);
        let chunk_bytes = self.habits.chunk_blocks * 4096;
        let cut = (from > 0 && half).then(|| (from - 1, self.random.below_u32(chunk_bytes)));
        let op = self.rig.begin_truncate(ino, from, cut);
        let change = Change::Truncate { ino, from, cut };
        self.rig.telling.event(self.rig.now, || format!("op {op}: {change:?}"));
        self.pending.insert(op, Pending::Change(change));
    }

    /// Takes in what was answered, in order; gives how many syncs were.
    fn take_answers(&mut self) -> u64 {
        let mut syncs = 0;
        for op in std::mem::take(&mut self.rig.log) {
            let answer = self.rig.answers.remove(&op).expect("it is in the log");
            match (self.pending.remove(&op).expect("answered once"), answer) {
                (Pending::Change(change), Answer::Done) => self.model.done(&change),
                (Pending::Change(change), Answer::Failed(status)) => {
                    self.change_failed(op, &change, status);
                }
                (Pending::Grow { capacity_bytes }, Answer::Done) => {
                    self.capacities = vec![capacity_bytes];
                }
                // Refused while a scrub, which may be one from before a crash, is at the superblocks.
                (Pending::Grow { .. }, Answer::Failed(Status::Busy)) => {
                    self.capacities.truncate(1);
                }
                // An error leaves one length or the other for the next open to find.
                (Pending::Grow { .. }, Answer::Failed(status)) => {
                    assert!(matches!(status, Status::Io | Status::ReadOnly), "op {op}: {status:?}");
                    assert!(self.rig.disk.counts.errors > 0, "op {op}: grow failed: {status:?}");
                }
                (Pending::Sync { clock }, Answer::Done) => {
                    self.model.synced(clock, self.rig.disk.counts.flushes);
                    syncs += 1;
                }
                (Pending::Sync { .. }, Answer::Failed(status)) => {
                    let told = self.rig.disk.counts.errors > 0 && status == Status::Io;
                    assert!(told, "op {op}: sync failed: {status:?}");
                }
                (Pending::Read { chunk, first, count }, Answer::Read(from, bytes)) => {
                    assert_eq!(from, first, "op {op}: the blocks that were asked for");
                    self.check_read(op, (chunk, first, count), &bytes);
                }
                (Pending::Read { chunk, first, count }, Answer::Failed(status)) => {
                    let keys: Vec<_> = (first..first + count).map(|block| (chunk, block)).collect();
                    let allowed = self.may_fail(status, &keys);
                    assert!(allowed, "op {op}: read of {chunk} {first}+{count}: {status:?}");
                }
                (pending, answer) => panic!("op {op}: {pending:?} answered {answer:?}"),
            }
        }
        syncs
    }

    /// Whether an operation on these blocks may end so, without having done anything.
    fn may_fail(&self, status: Status, keys: &[(ChunkId, u32)]) -> bool {
        match status {
            Status::Busy => true,
            Status::Io => self.rig.disk.counts.errors > 0,
            Status::Damaged if self.index_failed => true,
            // A failed flush may have taken back what was answered.
            Status::Damaged if self.rig.disk.counts.lies > 0 => true,
            Status::Damaged if self.rig.store().is_read_only() => true,
            Status::Damaged => {
                keys.iter().any(|(id, block)| self.model.may_read(*id, *block).unreadable)
            }
            _ => false,
        }
    }

    fn change_failed(&mut self, op: u64, change: &Change, status: Status) {
        match status {
            Status::NoSpace => self.check_full(op, change),
            Status::ReadOnly => assert!(self.rig.store().is_read_only()),
            Status::Io => {
                assert!(self.rig.disk.counts.errors > 0, "op {op}: {status:?} on a good device");
                self.model.failed(change);
            }
            // What an index that cannot be read stopped may have been under way: a removal between two steps, a write whose
            // data was there.
            Status::Damaged if self.index_failed => match change {
                Change::Write { .. } | Change::Zero { .. } => self.model.failed(change),
                Change::Truncate { .. } => self.model.cut_short(change),
            },
            status => {
                assert!(self.may_fail(status, &self.model.keys(change)), "op {op}: {status:?}");
            }
        }
    }

    /// "Full" is an answer only when it is: what is free does not hold the operation, those under
    /// way, and the reserve.
    fn check_full(&self, op: u64, change: &Change) {
        let takes_away = match change {
            Change::Truncate { .. } => true,
            Change::Zero { how, .. } => *how == ZeroHow::Punch,
            Change::Write { .. } => false,
        };
        if self.rig.params.index_bytes_max.is_some() && !takes_away {
            return;
        }
        let wants = |change: &Change| match change {
            Change::Write { bytes, .. } => u64::try_from(bytes.len()).expect("64 bits") + 8192,
            Change::Zero { bytes, .. } => u64::from(*bytes) + 8192,
            Change::Truncate { .. } => 4096,
        };
        let mut wanted = wants(change);
        for pending in self.pending.values() {
            match pending {
                // What it gives back may have come too late.
                Pending::Change(
                    Change::Truncate { .. } | Change::Zero { how: ZeroHow::Punch, .. },
                ) => return,
                Pending::Change(change) => wanted += wants(change),
                _ => {}
            }
        }
        let space = self.rig.store().space();
        assert!(
            space.free_bytes < wanted + space.reserve_bytes,
            "op {op}: no space for {wanted} bytes, and {space:?}"
        );
    }

    fn check_read(&self, op: u64, (chunk, first, count): (ChunkId, u32, u32), bytes: &[u8]) {
        assert!(bytes.len() <= blocks(count) * BLOCK_LEN, "op {op}: no more than was asked for");
        let mut found = bytes.chunks(BLOCK_LEN);
        for block in first..first + count {
            let may = self.model.may_read(chunk, block);
            let found = found.next();
            let right = may.contents.iter().any(|content| match (content, found) {
                (Some(content), Some(found)) => **content == *found,
                (None, found) => found.is_none_or(|found| found.iter().all(|byte| *byte == 0)),
                (Some(_), None) => false,
            });
            assert!(
                right,
                "op {op}: {chunk} block {block} reads as {}, and may be {}",
                tell(&found.map(Rc::from)),
                tell_all(&may.contents)
            );
        }
    }

    /// The store ends, one way or another.
    /// Gives what may be lost, and whether the machine is known to have gone on.
    fn crash(&mut self) -> (Crash, bool) {
        self.tally.crashes += 1;
        self.mend_index();
        self.index_failed = false;
        let power = self.regime != Regime::Kills;
        let mut failed = self.rig.store().is_read_only();
        let failed_flushes = self.rig.disk.counts.failed_flushes;
        let flushing = self.rig.disk.is_flushing();
        let crash = match self.random.below(100) {
            0..10 if !self.habits.swaps => {
                self.rig.disk.faults = Faults::default();
                self.drain();
                // A checkpoint may have failed and the store not heard of it yet.
                failed |= !self.rig.shutdown();
                if power {
                    self.rig.power_loss();
                }
                Crash::Clean
            }
            at if power && !failed && (at < 65 || self.habits.swaps || self.habits.gives) => {
                self.rig.power_loss();
                Crash::PowerLoss
            }
            _ => {
                self.rig.kill();
                Crash::Kill
            }
        };
        let good = self.rig.disk.counts.errors == 0;
        assert!(!(failed && good), "a store on a good device takes no changes: its index is full");
        let failed = failed || self.rig.disk.counts.failed_flushes > failed_flushes;
        self.loss = match crash {
            // The end of a store that failed is no clean one.
            _ if failed => Loss::Sure,
            Crash::Kill if flushing => Loss::Perhaps,
            Crash::Kill | Crash::Clean => Loss::None,
            Crash::PowerLoss => Loss::Sure,
        };
        self.rig.telling.step(self.rig.now, || format!("{crash:?}, read-only: {failed}"));
        // After a kill the machine may be known to be the same, or not; after a power loss never. While a flush is under
        // way nothing is known.
        let same_boot = crash == Crash::Kill && self.random.chance(70);
        let known = same_boot && !flushing;
        // Nobody knows then whether what cannot be read had arrived.
        let loses = self.regime.lies() || self.faults.read_errors_for_good > 0;
        let unknown = loses && crash == Crash::Kill && !known;
        if self.regime.lies() {
            let most = if self.habits.swaps { 12 } else { 3 };
            self.rig.disk.rot(self.random.below(most));
        }
        if self.regime == Regime::Errors {
            let blocks = self.sectors.below(10);
            self.rig.disk.lose_sectors(blocks);
        }
        // What a device that failed or lied has lost, it may have lost in any way.
        (if failed || unknown { Crash::PowerLoss } else { crash }, same_boot)
    }

    /// Opens the target, which may be cut short; gives what may be lost, or `None` when it is
    /// refused.
    fn recover(&mut self, mut crash: Crash, mut same_boot: bool) -> Option<Crash> {
        let mut cuts = if self.regime == Regime::Kills { 0 } else { self.random.below(4) };
        loop {
            if !std::mem::replace(&mut same_boot, false) {
                self.loss = Loss::Sure;
                self.boots += 1;
                self.boot = [100 + self.boots; 16];
            }
            let cut = cuts > 0 && self.random.chance(40);
            if cut {
                let calls = self.random.pick(&[6, 12, 100]);
                self.rig.disk.power_fails_after(self.random.below_u32(calls));
            }
            let opened = self.rig.open(self.boot);
            self.rig.telling.step(self.rig.now, || format!("open: {opened:?}"));
            match opened {
                Err(_) if self.rig.disk.power_is_gone() => {
                    self.rig.power_loss();
                    // A clean end left nothing to lose.
                    crash = if crash == Crash::Clean { crash } else { Crash::PowerLoss };
                }
                Err(error) if self.regime == Regime::JournalLies => {
                    let damage = [Kind::Damaged, Kind::Mismatch].contains(&error.kind);
                    assert!(damage, "open: {error}");
                    return None;
                }
                Err(error) => panic!("open: {error}"),
                // It is open and the power goes: what recovery found is durable.
                Ok(_) if cut => self.rig.power_loss(),
                Ok(report) => {
                    assert!(report.copies == Copies::Both, "the superblocks are good");
                    self.check_losses();
                    let unknown = self.regime == Regime::JournalLies && crash == Crash::Kill;
                    return Some(if unknown { Crash::PowerLoss } else { crash });
                }
            }
            self.tally.crashes += 1;
            cuts -= 1;
        }
    }
}

impl World {
    /// Clients write again what a loss may have taken, and only then.
    fn check_losses(&mut self) {
        let before = std::mem::replace(&mut self.loss_count, self.rig.store().loss_count());
        match self.loss {
            Loss::None => assert_eq!(before, self.loss_count, "a loss is told that was none"),
            Loss::Perhaps => {}
            Loss::Sure => assert_ne!(before, self.loss_count, "a loss is told to nobody"),
        }
    }
}

/// What is left for removals, and some more: so that new blocks find room or not by what changed since the last checkpoint.
fn tight_index(seed: u64) -> u64 {
    let mut random = Random::new(seed ^ 0x71_6874);
    (256 << 10) + random.pick(&[112 << 10, 144 << 10, 208 << 10, 336 << 10])
}

/// Seeds that look at one thing; gives what an index that cannot be read now and then is drawn from.
fn draw_special(seed: u64, regime: &mut Regime, habits: &mut Habits) -> Option<Random> {
    if seed % GIVING == 7 {
        (*regime, *habits) = (Regime::Power, habits.clone().giving());
    }
    let mut random = (seed % UNREAD == 5).then(|| Random::new(seed ^ 0x1dec_5fa1))?;
    *regime = random.pick(&[Regime::Power, Regime::Errors]);
    *habits = habits.clone().removing(&mut random);
    Some(random)
}

fn blocks(count: u32) -> usize {
    usize::try_from(count).expect("32 bits")
}

/// A block's content, short enough to print.
fn tell(content: &Content) -> String {
    content.as_ref().map_or("a hole".into(), |content| {
        format!("{:08x} ({}..)", weft_wire::blocks::crc32c(content), content[0])
    })
}

fn tell_all(contents: &[Content]) -> String {
    contents.iter().map(tell).collect::<Vec<_>>().join(" or ")
}
