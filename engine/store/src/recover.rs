//! Open: index and journal become the state of the target, in memory and durably.
//!
//! 1. Superblock and index must belong together.
//! 2. The bitmap of free blocks is read from the index (or, when that has none that belongs to its
//!    last commit, built from all its records).
//! 3. The journal's records are applied to the records of the index and to the bitmap, in memory.
//! 4. Blocks in doubt are read and compared.
//! 5. The device is flushed and the result committed to the index: the journal is empty.
//!
//! A crash before the commit changes nothing, so open can be repeated; a crash after it finds
//! nothing to do.
//!
//! **In doubt** are blocks that may not hold what their record says, since no flush is known to
//! have covered it. For each the candidates are tried from the newest to the oldest: what the
//! record says, what an unfinished overwrite was going to leave there, what was there before. The
//! first whose checksum matches the device is the block. "It was never written" counts only if the
//! record came after the last mark: a sync is acknowledged only after a mark that follows the
//! record, so nobody was promised that block. If nothing matches, the record stays, and reading
//! the block says Damaged. A candidate that the device does not give, by an error, may be what a
//! sync promised, if its record came before the last mark: then it is the block, and no older one
//! is. While the machine keeps running a write completed is a write readable,
//! so after a mere death of the process only unfinished overwrites are in doubt.

use std::collections::{BTreeMap, BTreeSet};

use weft_wire::ChunkId;
use weft_wire::blocks::{BLOCK_LEN, crc32c};

use crate::chunk::Placed;
use crate::error::{Kind, StoreError};
use crate::flush_note::FlushNote;
use crate::index::Meta;
use crate::map::{Map, push_extent};
use crate::planted::{self, Bug};
use crate::record::{Placement, Punch, Record, Truncate};
use crate::replay::{self, Replay};
use crate::space::{Extent, Space};
use crate::space_rows::{SpaceHead, Touched};
use crate::store::OpenParams;
use crate::superblock::{Copies, Device, Superblock};

/// What open found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveryReport {
    /// Which superblocks were good: anything but both is worth a warning.
    pub copies: Copies,
    /// Journal records of changes and intents that were not in the index yet.
    pub replayed_records: u64,
    /// The journal ended before its last record: appends that no sync covered were lost.
    pub lost_records: bool,
    /// Blocks read and compared.
    pub checked_blocks: u64,
    /// Blocks that took what an unfinished overwrite was going to leave there.
    pub adopted_blocks: u64,
    /// Blocks whose last write did not reach the device, and which are now what they were before.
    pub reverted_blocks: u64,
    /// Blocks that match nothing that was ever to be there: reading them fails.
    pub damaged_blocks: u64,
    /// Those blocks.
    pub damaged: Vec<(ChunkId, u32)>,
    /// The map of used blocks was not there: all records of the index were read to build it.
    pub scanned: bool,
    /// Chunks with blocks that were being overwritten in place since the last checkpoint.
    pub uncertain: Vec<ChunkId>,
}

impl RecoveryReport {
    fn new(copies: Copies, replay: &Replay) -> RecoveryReport {
        RecoveryReport {
            copies,
            replayed_records: replay.change_count(),
            lost_records: replay.lost_records,
            checked_blocks: 0,
            adopted_blocks: 0,
            reverted_blocks: 0,
            damaged_blocks: 0,
            damaged: Vec::new(),
            scanned: false,
            uncertain: Vec::new(),
        }
    }
}

/// What a block may be instead of what its newest record says.
#[derive(Debug, Default)]
struct Doubt {
    /// Contents unfinished overwrites were going to leave, newest last.
    intents: Vec<Placed>,
    /// What was there before, newest last, and by which record; `None` for never written.
    before: Vec<(u64, Option<Placed>)>,
    /// The newest record of the block; 0: it is in the index, or durable.
    newest: u64,
}

/// What the device says to a candidate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    Whole,
    Other,
    /// Nothing: the read failed.
    Unread,
}

/// What a block in doubt is.
#[derive(Clone, Copy, Debug)]
struct Settled {
    /// What its record is to say; `None`: as it does.
    chosen: Option<Option<Placed>>,
    /// That is what an unfinished overwrite was going to leave.
    adopted: bool,
    /// It cannot be read.
    lost: bool,
}

impl Settled {
    const LOST: Settled = Settled { chosen: None, adopted: false, lost: true };
    /// Zeros that did not arrive, as of space given out ahead: they read the same where nothing was ever written.
    const NOTHING: Settled = Settled { chosen: Some(None), adopted: false, lost: false };
}

/// The state after open.
pub(crate) struct Recovered {
    pub(crate) map: Map,
    pub(crate) space: Space,
    pub(crate) last_sequence: u64,
    pub(crate) generation: u64,
    pub(crate) loss_count: u32,
    pub(crate) report: RecoveryReport,
}

/// Runs all steps.
pub(crate) fn recover(
    device: &mut dyn Device,
    superblock: &Superblock,
    copies: Copies,
    map: Map,
    meta: &Meta,
    params: &OpenParams,
    note: &mut Option<FlushNote>,
) -> Result<Recovered, StoreError> {
    let boot_id = params.boot_id;
    let block_count = superblock.areas.data_block_count;
    let known = map.read_space(meta.applied, block_count)?;
    let scanned = known.is_none();
    let (mut work, replay) = Work::replayed(device, superblock, map, meta, boot_id, known)?;
    let mut space = match work.space.take() {
        Some(space) if params.check_space && work.build_space()? != space => {
            let op = "index: its map of used blocks is wrong";
            return Err(StoreError::new(Kind::Damaged, op, 0));
        }
        Some(space) => space,
        None => {
            work.touched = Touched::all(block_count);
            work.build_space()?
        }
    };
    let mut report = RecoveryReport { scanned, ..RecoveryReport::new(copies, &replay) };
    work.settle(device, superblock, &mut space, &mut report)?;
    report.uncertain = work.uncertain.into_iter().collect();
    let mut map = work.map;
    let generation = replay.next_generation;
    let loss_count =
        meta.loss_count.wrapping_add(u32::from(!work.same_boot && !planted::is(Bug::HideLoss)));
    // What is not noted must not be trusted either.
    let trusted = if note.is_some() { boot_id } else { [0; 16] };
    let applied = replay.last_sequence;
    let now = Meta { applied, generation, boot_id: trusted, loss_count, ..*meta };
    map.begin_commit(&now)?;
    map.put_some(u32::MAX)?;
    let used_count = space.total() - space.free();
    let head = SpaceHead { applied: now.applied, block_count, used_count };
    let rows = work.touched.take().into_iter().map(|number| (number, space.row(number)));
    map.put_space(&head, rows)?;
    // Data before the index that finds it: after a kill the blocks may still be in a volatile
    // cache of the device, and the journal that could tell is cut by the commit.
    if !planted::is(Bug::SkipRecoverFlush) {
        let noted = note.as_mut().map_or(Ok(()), FlushNote::begin);
        noted
            .and_then(|()| device.flush())
            .map_err(|source| StoreError::device("flush at open", 0, source))?;
    }
    map.commit()?;
    // Only now: the commit counts the loss that a flush in doubt may have been.
    if let Some(note) = note {
        note.ended_well();
    }
    let last_sequence = replay.last_sequence;
    Ok(Recovered { map, space, last_sequence, generation, loss_count, report })
}

struct Work {
    map: Map,
    /// The map of used blocks as the index has it, kept up with the journal; `None` when it is to
    /// be built from the records afterwards.
    space: Option<Space>,
    /// Rows of the map of used blocks that differ from the index's.
    touched: Touched,
    doubts: BTreeMap<(ChunkId, u32), Doubt>,
    uncertain: BTreeSet<ChunkId>,
    /// Newest mark: no sync was acknowledged for a later record.
    last_mark: u64,
    /// Records up to here are known to have been durable.
    durable: u64,
    same_boot: bool,
    block_count: u64,
}

/// What open would make of a target, without changing anything: for the check.
pub(crate) struct Rehearsal {
    work: Work,
    replay: Replay,
}

impl Rehearsal {
    /// Reads the journal and applies it in memory.
    pub(crate) fn new(
        device: &mut dyn Device,
        superblock: &Superblock,
        map: Map,
        meta: &Meta,
        boot_id: [u8; 16],
    ) -> Result<Rehearsal, StoreError> {
        let (work, replay) = Work::replayed(device, superblock, map, meta, boot_id, None)?;
        Ok(Rehearsal { work, replay })
    }

    pub(crate) fn map(&self) -> &Map {
        &self.work.map
    }

    /// Changes in the journal, and whether it ended early.
    pub(crate) fn told(&self) -> (u64, bool) {
        (self.replay.change_count(), self.replay.lost_records)
    }

    /// The blocks in doubt.
    pub(crate) fn uncertain(&self) -> Vec<(ChunkId, u32)> {
        self.work.doubts.keys().copied().collect()
    }

    /// Decides them, in memory.
    pub(crate) fn settle(
        &mut self,
        device: &mut dyn Device,
        superblock: &Superblock,
        space: &mut Space,
    ) -> Result<(), StoreError> {
        let mut report = RecoveryReport::new(Copies::Both, &self.replay);
        self.work.settle(device, superblock, space, &mut report)
    }
}

impl Work {
    fn replayed(
        device: &mut dyn Device,
        superblock: &Superblock,
        map: Map,
        meta: &Meta,
        boot_id: [u8; 16],
        known: Option<Space>,
    ) -> Result<(Work, Replay), StoreError> {
        let same_boot =
            (boot_id != [0; 16] && boot_id == meta.boot_id) || planted::is(Bug::TrustEveryBoot);
        let replay = replay::read(device, superblock, meta, same_boot)?;
        let mut work = Work {
            map,
            space: known,
            touched: Touched::default(),
            doubts: BTreeMap::new(),
            uncertain: BTreeSet::new(),
            last_mark: meta.applied,
            durable: meta.applied,
            same_boot,
            block_count: superblock.areas.data_block_count,
        };
        work.apply(&replay)?;
        Ok((work, replay))
    }

    fn apply(&mut self, replay: &Replay) -> Result<(), StoreError> {
        for found in &replay.records {
            if let Record::Mark { durable } = found.record {
                self.last_mark = found.stamp.sequence;
                self.durable = self.durable.max(durable);
            }
        }
        for found in &replay.records {
            let sequence = found.stamp.sequence;
            match &found.record {
                Record::Start { .. } | Record::Mark { .. } => {}
                Record::Intent(placement) => self.note_intent(placement),
                Record::Write(placement) => self.apply_write(sequence, placement)?,
                Record::Truncate(truncate) => self.apply_truncate(sequence, truncate)?,
                Record::Punch(punch) => self.apply_punch(punch)?,
            }
        }
        Ok(())
    }

    fn note_intent(&mut self, placement: &Placement) {
        self.uncertain.insert(placement.chunk);
        for (block, placed) in placement.blocks() {
            self.doubts.entry((placement.chunk, block)).or_default().intents.push(placed);
        }
    }

    fn apply_write(&mut self, sequence: u64, placement: &Placement) -> Result<(), StoreError> {
        self.check_places(placement.blocks().map(|(_, placed)| placed))?;
        for (block, _) in placement.blocks() {
            self.note_change(sequence, placement.chunk, block)?;
        }
        let old = self.map.get(placement.chunk)?;
        let mut new = Vec::new();
        for (block, placed) in placement.blocks() {
            let before = old.and_then(|chunk| chunk.get(block));
            if before.is_none_or(|before| before.device_block != placed.device_block) {
                push_extent(&mut new, placed.device_block);
            }
        }
        self.use_blocks(new)?;
        let (freed, _) = self.map.place(placement.as_places())?;
        self.free_blocks(freed)
    }

    fn use_blocks(&mut self, extents: Vec<Extent>) -> Result<(), StoreError> {
        let Some(space) = &mut self.space else { return Ok(()) };
        for extent in extents {
            self.touched.note(extent);
            if !space.claim(extent) {
                return Err(StoreError::new(Kind::Damaged, "journal: a block with two uses", 0));
            }
        }
        Ok(())
    }

    fn free_blocks(&mut self, extents: Vec<Extent>) -> Result<(), StoreError> {
        let Some(space) = &mut self.space else { return Ok(()) };
        for extent in extents {
            self.touched.note(extent);
            if !space.release(extent) {
                return Err(StoreError::new(Kind::Damaged, "journal: a block freed twice", 0));
            }
        }
        Ok(())
    }

    fn apply_truncate(&mut self, sequence: u64, truncate: &Truncate) -> Result<(), StoreError> {
        let gone = ChunkId { ino: truncate.ino, index: truncate.remove_from };
        let mut ends = vec![(gone, 0)];
        if let Some(cut) = truncate.cut {
            let id = ChunkId { ino: truncate.ino, index: cut.index };
            self.check_places(cut.tail.into_iter())?;
            if cut.tail.is_some() {
                self.note_change(sequence, id, cut.keep_blocks - 1)?;
            }
            ends.push((id, cut.keep_blocks));
        }
        self.doubts.retain(|(id, block), _| {
            let removed = id.ino == truncate.ino && id.index >= truncate.remove_from;
            let cut = ends.iter().skip(1).any(|(cut, keep)| id == cut && block >= keep);
            !removed && !cut
        });
        if let Some(tail) = truncate.cut.and_then(|cut| cut.tail) {
            self.use_blocks(vec![Extent { start: tail.device_block, count: 1 }])?;
        }
        let freed = self.map.truncate(truncate)?;
        self.free_blocks(freed)
    }

    fn apply_punch(&mut self, punch: &Punch) -> Result<(), StoreError> {
        for block in punch.blocks() {
            self.doubts.remove(&(punch.chunk, block));
        }
        let freed = self.map.punch(punch)?;
        self.free_blocks(freed)
    }

    /// A record replaces a block: what was there before is a candidate until the record is known
    /// to have been durable; what overwrites were going to leave is settled by it.
    fn note_change(&mut self, sequence: u64, id: ChunkId, block: u32) -> Result<(), StoreError> {
        let key = (id, block);
        if self.same_boot || sequence <= self.durable {
            self.doubts.remove(&key);
            return Ok(());
        }
        let before = self.map.get(id)?.and_then(|chunk| chunk.get(block));
        let promised =
            before.is_none() && sequence <= self.last_mark && !planted::is(Bug::SettleToNothing);
        let doubt = self.doubts.entry(key).or_default();
        doubt.intents.clear();
        let recorded = std::mem::replace(&mut doubt.newest, sequence);
        if promised {
            // A sync may have been answered: "never written" is no answer any more.
            doubt.before.clear();
        } else {
            doubt.before.push((recorded, before));
        }
        Ok(())
    }

    fn check_places(&self, mut places: impl Iterator<Item = Placed>) -> Result<(), StoreError> {
        if places.all(|placed| placed.device_block < self.block_count) {
            return Ok(());
        }
        Err(StoreError::new(Kind::Damaged, "journal: a place beyond the device", 0))
    }

    fn build_space(&self) -> Result<Space, StoreError> {
        let mut space = Space::new(self.block_count);
        let mut good = true;
        self.map.for_each(&mut |chunk| {
            for run in chunk.runs() {
                good &= space.claim(Extent { start: run.device_block, count: run.count });
            }
        })?;
        if good {
            return Ok(space);
        }
        Err(StoreError::new(Kind::Damaged, "index: two chunks share a block", 0))
    }

    fn settle(
        &mut self,
        device: &mut dyn Device,
        superblock: &Superblock,
        space: &mut Space,
        report: &mut RecoveryReport,
    ) -> Result<(), StoreError> {
        for ((id, block), doubt) in std::mem::take(&mut self.doubts) {
            let Some(now) = self.map.get(id)?.and_then(|chunk| chunk.get(block)) else { continue };
            report.checked_blocks += 1;
            let mut look = |placed: &Placed| {
                let mut bytes = vec![0; BLOCK_LEN];
                let offset = superblock.areas.data_byte(placed.device_block);
                match device.read_at(offset, &mut bytes) {
                    Err(_) => Found::Unread,
                    Ok(()) if crc32c(&bytes) == placed.sum => Found::Whole,
                    Ok(()) => Found::Other,
                }
            };
            let found = look(&now);
            if found == Found::Whole {
                continue;
            }
            // A place that was given to another chunk since is no candidate, whatever it holds.
            let usable = |placed: &Placed| {
                let own = placed.device_block == now.device_block;
                let free = own || space.is_free(placed.device_block);
                let may = free || planted::is(Bug::SettleAnywhere);
                if may { look(placed) } else { Found::Other }
            };
            let mut settled = match self.is_lost(found, doubt.newest) {
                true => Settled::LOST,
                false => self.choose(&doubt, usable),
            };
            if settled.lost && is_zeros(&now) {
                settled = Settled::NOTHING;
            }
            if settled.lost {
                report.damaged_blocks += 1;
                report.damaged.push((id, block));
            }
            let Some(chosen) = settled.chosen else { continue };
            report.adopted_blocks += u64::from(settled.adopted);
            report.reverted_blocks += u64::from(!settled.adopted);
            self.replace(space, (id, block), now, chosen);
        }
        Ok(())
    }

    /// Goes through what a block may be that is not what its newest record says, from the newest on.
    fn choose(&self, doubt: &Doubt, mut look: impl FnMut(&Placed) -> Found) -> Settled {
        for placed in doubt.intents.iter().rev() {
            if look(placed) == Found::Whole {
                return Settled { chosen: Some(Some(*placed)), adopted: true, lost: false };
            }
        }
        for (record, placed) in doubt.before.iter().rev() {
            let found = placed.as_ref().map_or(Found::Whole, &mut look);
            let lost = self.is_lost(found, *record);
            if lost || found == Found::Whole {
                return Settled { chosen: Some(*placed), adopted: false, lost };
            }
        }
        let zeros = doubt.before.iter().filter_map(|(_, placed)| placed.as_ref()).any(is_zeros);
        if zeros { Settled::NOTHING } else { Settled::LOST }
    }

    /// Whether a candidate cannot be read that a sync may have covered: nothing older may take its place.
    fn is_lost(&self, found: Found, record: u64) -> bool {
        let promised = record <= self.last_mark && !planted::is(Bug::SettleUnread);
        found == Found::Unread && promised
    }

    fn replace(
        &mut self,
        space: &mut Space,
        (id, block): (ChunkId, u32),
        now: Placed,
        chosen: Option<Placed>,
    ) {
        let old = Extent { start: now.device_block, count: 1 };
        self.touched.note(old);
        space.give_back(old);
        if let Some(placed) = chosen {
            let new = Extent { start: placed.device_block, count: 1 };
            self.touched.note(new);
            let claimed = space.claim(new);
            assert!(claimed, "it was free or this block's own");
        }
        self.map.edit_existing(id, |chunk| match chosen {
            Some(placed) => chunk.set(block, placed),
            None => chunk.clear(block),
        });
    }
}

/// Whether a block holds zeros: as it reads without its place, too, that is always to be had.
fn is_zeros(placed: &Placed) -> bool {
    placed.sum == crc32c(&[0; BLOCK_LEN]) && !planted::is(Bug::LoseZeros)
}
