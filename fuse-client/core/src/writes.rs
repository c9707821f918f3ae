//! The writes of one file that its targets have not acknowledged, and those that are acknowledged but not durable.
//!
//! Invariants:
//! - Ids ascend in the order of the programs' writes; of two writes that touch the same block of a chunk, the later
//!   is sent when the earlier is acknowledged: a retry for a busy server, or a replay, cannot reorder them.
//! - A write leaves [`WriteSet`] with its acknowledgement, and is kept in [`Unsynced`] until a sync that began after
//!   that is answered, or until it is let go for want of memory, which is remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use weft_iobuf::SharedSlot;
use weft_wire::blocks::BLOCK_BYTES;
use weft_wire::units::to_usize;
use weft_wire::{ChunkIndex, TargetId};

use crate::keep::Kept;
use crate::op::OpId;

/// As a write's tag: a change at the volume carries it, which is not cancelled.
const TO_VOLUME: u64 = 0;

/// Bytes of a slot.
pub(crate) type Payload = (SharedSlot, Range<usize>);

/// One piece of a write: what one request carries.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) target: TargetId,
    pub(crate) index: ChunkIndex,
    /// In the chunk, in bytes.
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
    /// Where it ends in the file.
    pub(crate) file_end: u64,
    pub(crate) payload: Payload,
    /// The request that carries it now, or [`TO_VOLUME`].
    pub(crate) tag: Option<u64>,
    /// The direct write that waits for it.
    pub(crate) op: Option<OpId>,
    /// Its share of the slot's memory, which may be larger than what it carries.
    pub(crate) memory_bytes: usize,
    /// Counted among the dirty bytes.
    pub(crate) dirty: bool,
    /// It was acknowledged before: the volume hears of it, or has heard.
    pub(crate) again: bool,
    /// Its record, which goes with it.
    pub(crate) kept: Option<Rc<Kept>>,
    /// As in the record.
    pub(crate) order: u64,
}

impl Write {
    fn blocks(&self) -> Range<u32> {
        self.offset / BLOCK_BYTES..(self.offset + self.bytes).div_ceil(BLOCK_BYTES)
    }

    /// Loses what lies beyond `file_bytes` of the file.
    fn cut(&mut self, file_bytes: u64) {
        let beyond = self.file_end.saturating_sub(file_bytes).min(u64::from(self.bytes));
        self.file_end -= beyond;
        self.bytes -= u32::try_from(beyond).expect("at most `bytes`");
        self.payload.1.end -= to_usize(beyond);
    }

    fn overlaps(&self, blocks: &Range<u32>) -> bool {
        let own = self.blocks();
        own.start < blocks.end && blocks.start < own.end
    }
}

/// Unacknowledged writes.
#[derive(Debug, Default)]
pub(crate) struct WriteSet {
    writes: BTreeMap<u64, Write>,
    chunks: BTreeMap<ChunkIndex, BTreeSet<u64>>,
    ready: BTreeSet<u64>,
    next_id: u64,
    /// Writes that were never acknowledged.
    new_count: usize,
}

impl WriteSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Whether there are writes that were never acknowledged.
    pub(crate) fn has_new(&self) -> bool {
        self.new_count > 0
    }

    /// The id that the next write will have.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// An id for a write that was acknowledged before.
    pub(crate) fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Whether all writes below `barrier` are acknowledged.
    pub(crate) fn passed(&self, barrier: u64) -> bool {
        self.writes.first_key_value().is_none_or(|(id, _)| *id >= barrier)
    }

    pub(crate) fn add(&mut self, write: Write) {
        let id = self.next_id;
        self.next_id += 1;
        self.new_count += usize::from(!write.again);
        self.put(id, write);
        self.make_ready_if_free(id);
    }

    fn put(&mut self, id: u64, write: Write) {
        self.chunks.entry(write.index).or_default().insert(id);
        self.writes.insert(id, write);
    }

    fn make_ready_if_free(&mut self, id: u64) {
        let write = &self.writes[&id];
        let blocks = write.blocks();
        let mut earlier = self.chunks[&write.index].range(..id);
        if write.tag.is_none() && !earlier.any(|other| self.writes[other].overlaps(&blocks)) {
            self.ready.insert(id);
        }
    }

    /// The next write that may be sent, and where it ends in the file.
    pub(crate) fn next_ready(&self) -> Option<(u64, u64)> {
        let id = *self.ready.first()?;
        Some((id, self.writes[&id].file_end))
    }

    /// A write that may be sent is, with a change at the volume.
    pub(crate) fn take_for_volume(&mut self, id: u64) -> Option<&Write> {
        self.ready.remove(&id);
        let write = self.writes.get_mut(&id)?;
        write.tag = Some(TO_VOLUME);
        Some(write)
    }

    /// The volume did not take the write: it is to be sent again. False when it is not there.
    pub(crate) fn send_again(&mut self, id: u64) -> bool {
        let Some(write) = self.writes.get_mut(&id) else { return false };
        write.tag = None;
        self.make_ready_if_free(id);
        true
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Write> {
        self.writes.get(&id)
    }

    /// Whether all writes below `barrier` are acknowledged, or with changes at the volume.
    pub(crate) fn passed_or_at_volume(&self, barrier: u64) -> bool {
        self.writes.range(..barrier).all(|(_, write)| write.tag == Some(TO_VOLUME))
    }

    /// Whether a write is with a change at the volume.
    pub(crate) fn any_at_volume(&self) -> bool {
        self.writes.values().any(|write| write.tag == Some(TO_VOLUME))
    }

    /// Whether a write is not out.
    pub(crate) fn any_unsent(&self) -> bool {
        self.writes.values().any(|write| write.tag.is_none())
    }

    /// Whether a write is out.
    pub(crate) fn any_sent(&self) -> bool {
        self.writes.values().any(|write| write.tag.is_some())
    }

    /// The next write that may be sent; the caller sends it and sets its tag.
    pub(crate) fn take_ready(&mut self) -> Option<(u64, &mut Write)> {
        let id = self.ready.pop_first()?;
        let write = self.writes.get_mut(&id).expect("what is ready is there");
        Some((id, write))
    }

    /// The write is answered.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Write> {
        let write = self.writes.remove(&id)?;
        self.ready.remove(&id);
        self.new_count -= usize::from(!write.again);
        let peers = self.chunks.get_mut(&write.index).expect("indexed when it was put in");
        peers.remove(&id);
        let later: Vec<u64> = peers.range(id..).copied().collect();
        if peers.is_empty() {
            self.chunks.remove(&write.index);
        }
        later.into_iter().for_each(|other| self.make_ready_if_free(other));
        Some(write)
    }

    /// All of them, which are forgotten.
    pub(crate) fn take_all(&mut self) -> Vec<Write> {
        let writes = std::mem::take(&mut self.writes);
        self.chunks.clear();
        self.ready.clear();
        self.new_count = 0;
        writes.into_values().collect()
    }

    /// Whether a write below `barrier` touches `blocks` of a chunk.
    pub(crate) fn touches(&self, index: ChunkIndex, blocks: &Range<u32>, barrier: u64) -> bool {
        let ids = self.chunks.get(&index).into_iter().flat_map(|ids| ids.range(..barrier));
        ids.into_iter().any(|id| self.writes[id].overlaps(blocks))
    }

    /// The targets of `lost` forgot what was not durable: `kept` comes back to be written again, and what is sent
    /// is no longer. Returns the tags of the requests to cancel.
    pub(crate) fn rewrite(
        &mut self,
        lost: impl Fn(TargetId) -> bool,
        kept: BTreeMap<u64, Write>,
    ) -> Vec<u64> {
        let at_target = |write: &&mut Write| lost(write.target) && write.tag != Some(TO_VOLUME);
        let tags = self.writes.values_mut().filter(at_target);
        let tags = tags.filter_map(|write| write.tag.take()).collect();
        for (id, write) in kept {
            self.put(id, Write { tag: None, op: None, dirty: false, again: true, ..write });
        }
        self.ready.clear();
        let ids: Vec<u64> = self.writes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.make_ready_if_free(id));
        tags
    }
}

/// What one target has acknowledged and not made durable.
#[derive(Debug, Default)]
struct TargetLog {
    kept: BTreeMap<u64, (u64, Write)>,
    /// No write that is kept ends beyond this byte of the file.
    end_max: u64,
    /// Smallest id and last acknowledgement of what is not kept any more.
    let_go: Option<(u64, u64)>,
    /// The acknowledgement and the ask up to which a sync in flight reaches.
    syncing: Option<(u64, u64)>,
    /// The last ask to make durable what others wrote here, and the last that was answered.
    asked: u64,
    answered: u64,
}

impl TargetLog {
    fn first_id(&self) -> Option<u64> {
        let kept = self.kept.first_key_value().map(|(id, _)| *id);
        kept.into_iter().chain(self.let_go.map(|(id, _)| id)).min()
    }

    /// The asks alone: the writes are gone.
    fn without_writes(&self) -> TargetLog {
        TargetLog { asked: self.asked, answered: self.answered, ..TargetLog::default() }
    }
}

/// Acknowledged writes that are not durable, by target.
#[derive(Debug, Default)]
pub(crate) struct Unsynced {
    targets: BTreeMap<TargetId, TargetLog>,
    last_ack: u64,
    last_ask: u64,
}

impl Unsynced {
    /// Memory kept by a write.
    pub(crate) fn bytes_of(write: &Write) -> usize {
        write.memory_bytes
    }

    pub(crate) fn add(&mut self, id: u64, write: Write) {
        self.last_ack += 1;
        let log = self.targets.entry(write.target).or_default();
        log.end_max = log.end_max.max(write.file_end);
        log.kept.insert(id, (self.last_ack, write));
    }

    /// Asks these targets to make durable also what is not known here: written before the file was opened.
    pub(crate) fn ask(&mut self, targets: impl Iterator<Item = TargetId>) {
        self.last_ask += 1;
        for target in targets {
            self.targets.entry(target).or_default().asked = self.last_ask;
        }
    }

    /// The last ask.
    pub(crate) fn last_ask(&self) -> u64 {
        self.last_ask
    }

    /// Whether everything below `barrier` is durable, and the asks up to `ask` are answered.
    pub(crate) fn passed(&self, barrier: u64, ask: u64) -> bool {
        self.targets.values().all(|log| {
            let own = log.first_id().is_none_or(|id| id >= barrier);
            own && log.answered >= log.asked.min(ask)
        })
    }

    /// Whether an answer is on its way that must not be taken for that to a later sync.
    pub(crate) fn is_syncing(&self) -> bool {
        self.targets.values().any(|log| log.syncing.is_some())
    }

    /// A target that has something below `barrier`, or was asked, and is not being synced; it counts as being synced
    /// from now on.
    pub(crate) fn next_to_sync(&mut self, barrier: u64) -> Option<TargetId> {
        let due = |log: &TargetLog| {
            let own = log.first_id().is_some_and(|id| id < barrier);
            log.syncing.is_none() && (own || log.answered < log.asked)
        };
        let (target, log) = self.targets.iter_mut().find(|(_, log)| due(log))?;
        log.syncing = Some((self.last_ack, self.last_ask));
        Some(*target)
    }

    /// A sync of everything at `target` is sent. What it answers for is known by [`Unsynced::is_syncing_at`].
    pub(crate) fn sync_begins(&mut self, target: TargetId) {
        if let Some(log) = self.targets.get_mut(&target) {
            log.syncing = Some((self.last_ack, self.last_ask));
        }
    }

    /// Whether the answer of a sync of `target` is for this file, too.
    pub(crate) fn is_syncing_at(&self, target: TargetId) -> bool {
        self.targets.get(&target).is_some_and(|log| log.syncing.is_some())
    }

    /// The answer of a sync of `target` is not for this file any more.
    pub(crate) fn forget_sync_at(&mut self, target: TargetId) {
        if let Some(log) = self.targets.get_mut(&target) {
            log.syncing = None;
        }
    }

    /// The same of all targets.
    pub(crate) fn forget_syncs(&mut self) {
        self.targets.values_mut().for_each(|log| log.syncing = None);
    }

    /// The sync of `target` was answered; returns the kept bytes that are free.
    pub(crate) fn synced(&mut self, target: TargetId) -> usize {
        let Some(log) = self.targets.get_mut(&target) else { return 0 };
        let Some((upto, ask)) = log.syncing.take() else { return 0 };
        log.answered = log.asked.min(ask);
        let mut bytes = 0;
        log.kept.retain(|_, (ack, write)| {
            let stays = *ack > upto;
            bytes += if stays { 0 } else { Self::bytes_of(write) };
            stays
        });
        log.let_go = log.let_go.filter(|(_, ack)| *ack > upto);
        if log.first_id().is_none() && log.asked == 0 {
            self.targets.remove(&target);
        }
        bytes
    }

    /// Lets the memory of the oldest kept write go; returns its bytes.
    pub(crate) fn let_oldest_go(&mut self) -> Option<usize> {
        let logs = self.targets.values_mut().filter(|log| !log.kept.is_empty());
        let log = logs.min_by_key(|log| log.kept.first_key_value().map(|(id, _)| *id))?;
        let (id, (ack, write)) = log.kept.pop_first()?;
        Self::note_let_go(log, id, ack);
        Some(Self::bytes_of(&write))
    }

    /// The targets that have something that is not durable.
    pub(crate) fn unsynced_targets(&self) -> impl Iterator<Item = TargetId> {
        let unsynced = |log: &TargetLog| log.first_id().is_some();
        self.targets.iter().filter(move |(_, log)| unsynced(log)).map(|(target, _)| *target)
    }

    /// Whether something is not durable.
    pub(crate) fn is_unsynced(&self) -> bool {
        self.unsynced_targets().next().is_some()
    }

    /// Whether something is kept to be written again.
    pub(crate) fn is_keeping(&self) -> bool {
        self.targets.values().any(|log| !log.kept.is_empty())
    }

    /// Nothing is to be written again, whatever happens; returns the bytes that are free. That a target loses it is
    /// still to be told.
    pub(crate) fn let_all_go(&mut self) -> usize {
        std::iter::from_fn(|| self.let_oldest_go()).sum()
    }

    fn note_let_go(log: &mut TargetLog, id: u64, ack: u64) {
        let (first, last) = log.let_go.unwrap_or((id, ack));
        log.let_go = Some((first.min(id), last.max(ack)));
    }

    /// Whether something is not durable and not kept any more.
    pub(crate) fn has_let_go(&self) -> bool {
        self.targets.values().any(|log| log.let_go.is_some())
    }

    /// Takes it that each of these targets has something that is not durable and not kept.
    pub(crate) fn assume_let_go(&mut self, targets: &[TargetId]) {
        for target in targets {
            let log = self.targets.entry(*target).or_default();
            Self::note_let_go(log, 0, self.last_ack);
        }
    }

    /// What is kept and ends at this byte of the file: after a cut to it, whatever was shortened.
    pub(crate) fn kept_ending_at(&self, file_bytes: u64) -> impl Iterator<Item = &Write> {
        let logs = self.targets.values().filter(move |log| log.end_max >= file_bytes);
        let writes = logs.flat_map(|log| log.kept.values()).map(|(_, write)| write);
        writes.filter(move |write| write.file_end == file_bytes)
    }

    /// The file is about to be cut to `file_bytes`: what lies beyond must not be written again. Thousands of writes may be
    /// kept, so a cut of what was not written lately, or one that makes the file longer, looks at none of them.
    pub(crate) fn cut(&mut self, file_bytes: u64) -> usize {
        let mut bytes = 0;
        for log in self.targets.values_mut().filter(|log| log.end_max > file_bytes) {
            log.end_max = file_bytes;
            log.kept.retain(|_, (_, write)| {
                write.cut(file_bytes);
                bytes += if write.bytes > 0 { 0 } else { Self::bytes_of(write) };
                write.bytes > 0
            });
        }
        bytes
    }

    /// The targets of `lost` forgot what was not durable: what was kept of it, and whether some was not.
    pub(crate) fn take_lost(
        &mut self,
        lost: impl Fn(TargetId) -> bool,
    ) -> (BTreeMap<u64, Write>, bool) {
        let (mut kept, mut incomplete) = (BTreeMap::new(), false);
        for (_, log) in self.targets.iter_mut().filter(|(id, _)| lost(**id)) {
            let asks = log.without_writes();
            let log = std::mem::replace(log, asks);
            incomplete |= log.let_go.is_some();
            kept.extend(log.kept.into_iter().map(|(id, (_, write))| (id, write)));
        }
        (kept, incomplete)
    }

    /// All that is kept goes; returns its bytes.
    pub(crate) fn clear(&mut self) -> usize {
        let logs = std::mem::take(&mut self.targets);
        let writes = logs.values().flat_map(|log| log.kept.values());
        writes.map(|(_, write)| Self::bytes_of(write)).sum()
    }
}

#[cfg(test)]
mod tests;
