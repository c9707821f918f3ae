//! When things become durable: appends, flushes, checkpoints, and the end.
//!
//! A flush is preceded by a mark, which is appended first. So a sync that is acknowledged has a
//! durable mark behind its records, and replay can tell records that may have been promised from
//! those that were not. While a flush is under way others gather for the next one.
//!
//! A checkpoint takes the changed records as of now, goes on in the other segment, flushes, and
//! commits the transaction. Records made meanwhile are in the other segment and in memory. Intents
//! of overwrites that are under way are repeated in the new segment before the flush, because the
//! commit makes replay forget the old one.
//!
//! The commit is written by another thread ([`Action::WriteCheckpoint`]). Until its end the index on the disk is that of
//! the checkpoint before, and the segment that was left is what makes up for that: **it is written over only after the next
//! checkpoint's beginning, and that waits for this one's end.** A crash in between finds the older index and both segments,
//! as one during the flush does. So what replay would still look at is not forgotten before the end either: which blocks
//! are recent, and the records in memory. What changes meanwhile is bounded: at the bounds at which a checkpoint begins,
//! operations wait ([`Store::waits_for_checkpoint`]).

use std::collections::BTreeMap;
use std::time::Duration;

use weft_iobuf::Pool;
use weft_wire::units::to_u64;
use weft_wire::{Ino, Status};

use super::{Body, IoUse, Store, Waiter};
use crate::action::{Action, Checkpoint as CheckpointJob, CheckpointWritten, Outcome};
use crate::error::StoreError;
use crate::index::Meta;
use crate::journal::Append;
use crate::planted::{self, Bug};
use crate::record::Entry;
use crate::space_rows::{self, ROW_BLOCKS, Row, SpaceHead};

/// How far a flush is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlushStage {
    Idle,
    /// Its mark, this record, is on its way to the page cache.
    Marking(u64),
    /// It will make records up to this one durable.
    Flushing(u64),
}

/// A checkpoint, from its beginning to its end.
#[derive(Debug)]
pub(super) enum Checkpoint {
    /// What changed is put into its transaction, a few records a call (`put`: all of it was), and a flush comes to its end
    /// (`flushed`), as records up to `needs` must be durable before the commit.
    Gathering { applied: u64, needs: u64, put: bool, flushed: bool },
    /// Its commit is being written: with the end of that the index has everything up to `applied`.
    Writing { applied: u64 },
}

impl Store {
    /// Everything acknowledged so far, on this target, is durable when [`Outcome::Synced`] comes;
    /// `Io` if it is not. Syncs that arrive during a flush share the next one. Which file asks makes no difference: one flush
    /// serves the whole device, as clients rely on that ask for all files at once (`DataRequest::ALL_FILES`).
    pub fn sync(&mut self, op: u64, ino: Ino, out: &mut Vec<Action>) {
        let needs = self.journal.last_change();
        if self.failed {
            out.push(Action::Reply { op, result: Err(Status::Io) });
            return;
        }
        if needs <= self.durable {
            self.counters.syncs += 1;
            out.push(Action::Reply { op, result: Ok(Outcome::Synced) });
            return;
        }
        let _ = ino;
        self.gather.want();
        self.wait_durable(needs, Waiter::Sync { reply_to: op });
        self.pump(out);
    }

    /// Time passes: `now` counts from any fixed instant and never goes back.
    pub fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        if now.saturating_sub(self.last_checkpoint) >= self.checkpoint_interval {
            self.last_checkpoint = now;
            self.checkpoint_due = true;
        }
        self.gather.tick(now);
        self.discard(now, out);
        self.pump(out);
    }

    /// Refuses new operations, lets those under way end, puts everything into the index; then
    /// [`Action::Stopped`].
    pub fn shutdown(&mut self, out: &mut Vec<Action>) {
        self.stopping = true;
        self.pump(out);
    }

    pub(super) fn want_durable(&mut self, sequence: u64) {
        self.flush_wanted = self.flush_wanted.max(sequence);
    }

    pub(super) fn wait_durable(&mut self, sequence: u64, waiter: Waiter) {
        self.want_durable(sequence);
        self.next_waiter += 1;
        self.waiters.insert((sequence, self.next_waiter), waiter);
    }

    /// Hands out what the journal has to do next.
    pub(super) fn pump(&mut self, out: &mut Vec<Action>) {
        if self.failed {
            self.stop_if_done(out);
            return;
        }
        if self.checkpoint.is_none() && self.is_checkpoint_due() {
            self.begin_checkpoint(out);
        }
        if planted::is(Bug::CutJournalEarly) && self.cuts_journal_early() {
            self.journal.switch();
        }
        if self.flush == FlushStage::Idle && self.tables_want_flush() {
            self.want_durable(self.journal.last_change());
        }
        // The mark is the last record of its append: whatever the flush covers comes before it.
        let wanted = self.flush == FlushStage::Idle
            && self.flush_wanted > self.durable
            && !self.gather.is_held();
        if wanted && (self.journal.is_tail_next() || planted::is(Bug::MarkEarly)) {
            self.marked = self.durable;
            let mark = self.journal.push(Entry::Mark { durable: self.marked });
            self.flush = FlushStage::Marking(mark);
            self.gather.flushed();
        }
        if let Some(append) = self.journal.next_append() {
            self.counters.appends += 1;
            self.counters.append_bytes += to_u64(append.bytes.len());
            let io = self.new_io(IoUse::Append);
            let Append { offset, bytes, settled_bytes, room_bytes, .. } = append;
            out.push(Action::AppendJournal { io, offset, bytes, settled_bytes, room_bytes });
        }
        if let FlushStage::Marking(mark) = self.flush
            && self.journal.appended() >= mark
        {
            assert!(self.journal.appended() == mark, "a mark ends its append");
            self.flush = FlushStage::Flushing(mark);
            if self.note.as_mut().is_some_and(|note| note.begin().is_err()) {
                return self.fail(out);
            }
            self.counters.flushes += 1;
            if planted::is(Bug::SkipFlush) {
                self.flush_done(out);
            } else {
                let io = self.new_io(IoUse::Flush);
                out.push(Action::Flush { io });
            }
        }
        self.stop_if_done(out);
    }

    fn is_checkpoint_due(&mut self) -> bool {
        let cache = self.map.cache();
        let something = cache.dirty_count() > 0;
        let due = std::mem::take(&mut self.checkpoint_due);
        self.journal.is_half_full()
            || (something && cache.dirty_count() >= self.dirty_chunks_max)
            || (something && cache.is_mostly_dirty())
            || (something && self.map.index_is_tight())
            || self.intents.len() >= self.tables.intents
            || (something && due)
            || (something && self.stopping && self.ops.is_empty())
            || (due && !self.parked.is_empty())
            || ((due || (self.stopping && self.ops.is_empty())) && self.scrub_unsaved())
    }

    /// Whether what only a flush lets go of takes all the memory there is for it.
    fn tables_want_flush(&self) -> bool {
        self.recent.len() >= self.tables.recent || self.freed.len() >= self.tables.freed
    }

    fn cuts_journal_early(&mut self) -> bool {
        matches!(self.checkpoint, Some(Checkpoint::Writing { .. })) && self.is_checkpoint_due()
    }

    /// Whether so much changed since the checkpoint under way began that the next one is due: nothing more may change
    /// before this one is over. So what waits for a commit takes as much memory as what changes between two, and no more.
    pub(super) fn waits_for_checkpoint(&self) -> bool {
        let cache = self.map.cache();
        let full = cache.dirty_count() >= self.dirty_chunks_max
            || cache.is_mostly_dirty()
            || self.map.index_is_tight()
            || self.intents.len() >= self.tables.intents;
        full && self.checkpoint.is_some()
    }

    fn begin_checkpoint(&mut self, out: &mut Vec<Action>) {
        let applied = self.journal.last_sequence();
        let meta = Meta {
            cluster: self.superblock.cluster,
            target_uuid: self.superblock.target_uuid,
            applied,
            generation: self.journal.generation() + 1,
            boot_id: self.boot_id,
            loss_count: self.loss_count,
        };
        let begun = self.map.begin_commit(&meta).and_then(|()| {
            self.put_space(applied)?;
            let row = self.scrub_unsaved().then(|| self.save_scrub());
            row.map_or(Ok(()), |row| self.map.put_scrub(&row))
        });
        if begun.is_err() {
            self.fail(out);
            return;
        }
        self.journal.switch();
        self.intents.clear();
        for (_, op) in self.ops.iter().filter(|_| !planted::is(Bug::ForgetIntents)) {
            if let Body::Write(write) = &op.body
                && write.has_intent
            {
                self.journal.push(Entry::Intent(write.in_place()));
            }
        }
        let needs = self.journal.last_sequence();
        self.want_durable(needs);
        let flushed = planted::is(Bug::CommitEarly);
        self.checkpoint = Some(Checkpoint::Gathering { applied, needs, put: false, flushed });
        self.gather_checkpoint(out);
    }

    /// Puts some of what changed into the checkpoint's transaction, and goes on with that in another call: all of it
    /// takes long, and others wait.
    pub(super) fn gather_checkpoint(&mut self, out: &mut Vec<Action>) {
        let Some(Checkpoint::Gathering { put, .. }) = &mut self.checkpoint else { return };
        let count = if planted::is(Bug::CommitEarly) { u32::MAX } else { self.puts_per_call };
        match self.map.put_some(count) {
            Ok(true) => {
                *put = true;
                self.commit_checkpoint(out);
            }
            Ok(false) => {
                let io = self.new_io(IoUse::Gather);
                out.push(Action::GoOn { io });
            }
            Err(_) => self.fail(out),
        }
    }

    /// The map of used blocks as the records have it: without what operations under way have taken,
    /// and without what no record names any more but cannot be given out yet.
    fn put_space(&mut self, applied: u64) -> Result<(), StoreError> {
        let numbers = self.map.take_touched();
        let mut rows: BTreeMap<u64, Row> =
            numbers.into_iter().map(|number| (number, self.space.row(number))).collect();
        let mut used_count = self.space.total() - self.space.free();
        let under_way = self.ops.iter().flat_map(|(_, op)| match &op.body {
            Body::Write(write) => write.fresh.clone(),
            Body::Truncate(truncate) => truncate.fresh().into_iter().collect(),
            _ => Vec::new(),
        });
        let freed = self.freed.iter().map(|(_, extent)| *extent);
        for extent in under_way.chain(freed).chain(self.discards.in_flight()) {
            used_count -= u64::from(extent.count);
            for number in extent.start / ROW_BLOCKS..=(extent.end() - 1) / ROW_BLOCKS {
                if let Some(row) = rows.get_mut(&number) {
                    space_rows::clear(row, number, extent);
                }
            }
        }
        let block_count = self.space.total();
        let head = SpaceHead { applied, block_count, used_count };
        self.map.put_space(&head, rows.into_iter())
    }

    /// Records are in the page cache: they survive the death of this process, and their
    /// operations are acknowledged.
    pub(super) fn append_done(&mut self, bytes: Option<Vec<u8>>, out: &mut Vec<Action>) {
        self.journal.append_done(bytes);
        while let Some((sequence, op)) = self.recorded.front().copied() {
            if sequence > self.journal.appended() {
                break;
            }
            self.recorded.pop_front();
            self.record_appended(op, out);
        }
    }

    pub(super) fn record_appended(&mut self, op: usize, out: &mut Vec<Action>) {
        match &self.ops[op].body {
            Body::Write(write) if write.has_intent => self.write_data(op, out),
            Body::Write(write) => {
                self.counters.writes += 1;
                self.counters.write_bytes += u64::from(write.range.bytes);
                let added_count = write.added_count;
                self.finish(op, Ok(Outcome::Written { added_count }), out);
            }
            Body::Punch(punch) => {
                let freed_count = punch.freed_count;
                self.finish(op, Ok(Outcome::Punched { freed_count }), out);
            }
            Body::Truncate(_) => self.truncate_recorded(op, out),
            Body::Read(_) | Body::Scrub(_) | Body::Taken => unreachable!("these have no records"),
        }
    }

    /// Data and records are durable: here a sync is acknowledged, freed blocks become free, and a
    /// checkpoint's commit begins.
    pub(super) fn flush_done(&mut self, out: &mut Vec<Action>) {
        let FlushStage::Flushing(covers) = self.flush else {
            unreachable!("a flush is under way in this stage only");
        };
        self.flush = FlushStage::Idle;
        if let Some(note) = self.note.as_mut().filter(|_| !self.failed) {
            note.ended_well();
        }
        self.durable = covers;
        self.recent.forget(self.marked);
        while let Some((sequence, extent)) = self.freed.front().copied() {
            if sequence > covers {
                break;
            }
            self.freed.pop_front();
            self.freed_block_count -= u64::from(extent.count);
            self.space.give_back(extent);
            self.discards.freed(extent);
        }
        if let Some(Checkpoint::Gathering { needs, flushed, .. }) = &mut self.checkpoint {
            *flushed |= *needs <= covers;
            self.commit_checkpoint(out);
        }
        while let Some(entry) = self.waiters.first_entry() {
            if entry.key().0 > covers {
                break;
            }
            match entry.remove() {
                Waiter::Sync { reply_to } => {
                    self.counters.syncs += 1;
                    out.push(Action::Reply { op: reply_to, result: Ok(Outcome::Synced) });
                }
                Waiter::Intent { op } => self.intent_durable(op, out),
                Waiter::Truncate { op } => self.ready.push_back(op),
                Waiter::Grow => self.grow_durable(out),
            }
        }
        self.ready.extend(self.parked.drain(..));
    }

    /// The commit begins to be written, if all of it is gathered, and durable in the journal.
    fn commit_checkpoint(&mut self, out: &mut Vec<Action>) {
        let Some(Checkpoint::Gathering { applied, put: true, flushed: true, .. }) = self.checkpoint
        else {
            return;
        };
        let Ok(commit) = self.map.commit_apart() else {
            self.fail(out);
            return;
        };
        self.checkpoint = Some(Checkpoint::Writing { applied });
        out.push(Action::WriteCheckpoint(CheckpointJob(commit)));
    }

    /// The writing of [`Action::WriteCheckpoint`] is over.
    pub fn checkpoint_written(
        &mut self,
        written: CheckpointWritten,
        pool: &Pool,
        out: &mut Vec<Action>,
    ) {
        let Some(Checkpoint::Writing { applied }) = self.checkpoint else {
            self.counters.unknown_completions += 1;
            return;
        };
        self.checkpoint = None;
        if self.map.committed(written.0).is_err() {
            self.fail(out);
        } else if !self.failed {
            self.counters.checkpoints += 1;
            self.journal.set_applied(applied);
            self.discards.checkpointed();
            self.recent.forget(applied);
        }
        self.ready.extend(self.parked.drain(..));
        self.run(pool, out);
    }

    /// The journal cannot be relied on: what waits for it ends with an error, and nothing changes
    /// any more. A failed fdatasync is never tried again: the kernel may have dropped the pages.
    pub(super) fn fail(&mut self, out: &mut Vec<Action>) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        // What is being written was flushed before, and comes to its end.
        self.checkpoint.take_if(|checkpoint| matches!(checkpoint, Checkpoint::Gathering { .. }));
        self.map.abandon();
        // The kernel may have dropped what it could not write: the next open must not take for
        // granted that everything written in this boot is there. A note that cannot be made now says so already: nothing
        // is flushed before it does.
        match &mut self.note {
            Some(note) if planted::is(Bug::KeepBoot) => note.ended_well(),
            Some(note) => drop(note.begin()),
            None => {}
        }
        for waiter in std::mem::take(&mut self.waiters).into_values() {
            match waiter {
                Waiter::Sync { reply_to } => {
                    out.push(Action::Reply { op: reply_to, result: Err(Status::Io) });
                }
                Waiter::Intent { op } | Waiter::Truncate { op } => {
                    self.finish(op, Err(Status::Io), out);
                }
                Waiter::Grow => self.grow_failed(out),
            }
        }
        for (_, op) in std::mem::take(&mut self.recorded) {
            self.finish(op, Err(Status::Io), out);
        }
        self.ready.extend(self.parked.drain(..));
    }

    fn stop_if_done(&mut self, out: &mut Vec<Action>) {
        let idle = self.ops.is_empty() && self.ios.is_empty() && self.checkpoint.is_none();
        let idle = idle && self.grow.is_none();
        if self.stopping && !self.stopped && idle && self.waiters.is_empty() {
            self.stopped = true;
            out.push(Action::Stopped);
        }
    }
}
