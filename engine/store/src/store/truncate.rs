//! Truncation and deletion: zero the end of the cut block in a new place, then one record.
//!
//! Where many chunks go this is done in steps, so that others have their turn and what changed between two checkpoints
//! stays bounded: first the cut, which alone may be refused, then the chunks from the last one down, so that each step is
//! a truncation of its own. Each waits for a flush, and for a checkpoint when it would change too many chunks. A crash
//! between leaves the file's first chunks; who asked has no answer and asks again.

use weft_iobuf::{BufSlot, Pool};
use weft_wire::blocks::{BLOCK_BYTES, BLOCK_LEN, crc32c};
use weft_wire::units::{to_u64, to_usize};
use weft_wire::{ChunkId, ChunkIndex, Ino, Status};

use super::{Body, Halt, Store, Waiter, block_matches};
use crate::action::{Action, Outcome};
use crate::chunk::Placed;
use crate::error::StoreError;
use crate::limits::REMOVE_CHUNKS_MAX;
use crate::planted::{self, Bug};
use crate::record::{Cut, Entry, Truncate};
use crate::space::{Extent, Want};

/// Reads of the block that a cut goes through, before it is given up.
const TAIL_READS_MAX: u32 = 3;

/// A truncation under way.
#[derive(Debug)]
pub(super) struct TruncateOp {
    ino: Ino,
    remove_from: ChunkIndex,
    /// Chunk to shorten, and how many bytes of it stay.
    cut: Option<(ChunkIndex, u32)>,
    tail: Option<Tail>,
    /// Chunks from here on are gone by earlier steps.
    end: Option<ChunkIndex>,
    /// The step under way is not the last.
    pub(super) goes_on: bool,
    /// Blocks that went.
    pub(super) freed_count: u64,
}

/// The last block that stays, when a part of it goes.
#[derive(Clone, Copy, Debug)]
struct Tail {
    old: Placed,
    new_place: u64,
    /// Set when the block is zeroed behind the cut.
    new_sum: Option<u32>,
    /// What it held was damaged or cannot be read, and stays so.
    lost: bool,
    /// Reads of it that failed.
    failed_reads: u32,
}

/// What a truncation has to do.
enum Plan {
    Nothing,
    Record,
    /// First read the last block that stays.
    Tail {
        buf: BufSlot,
        place: u64,
    },
}

impl TruncateOp {
    /// What was taken for it, until its record says so.
    pub(super) fn fresh(&self) -> Option<Extent> {
        self.tail.map(|tail| Extent { start: tail.new_place, count: 1 })
    }

    pub(super) fn new(
        ino: Ino,
        remove_from: ChunkIndex,
        cut: Option<(ChunkIndex, u32)>,
    ) -> TruncateOp {
        TruncateOp { ino, remove_from, cut, tail: None, end: None, goes_on: false, freed_count: 0 }
    }
}

impl Store {
    pub(super) fn start_truncate(&mut self, op: usize, pool: &Pool, out: &mut Vec<Action>) {
        match self.plan_truncate(op, pool) {
            Err(halt) => self.halt(op, halt, out),
            Ok(Plan::Nothing) => self.truncate_ended(op, out),
            Ok(Plan::Record) => self.record_truncate(op, out),
            Ok(Plan::Tail { buf, place }) => self.read_tail(op, place, buf, out),
        }
    }

    fn truncate_ended(&mut self, op: usize, out: &mut Vec<Action>) {
        let freed_count = self.truncate_mut(op).freed_count;
        self.counters.truncates += 1;
        self.finish(op, Ok(Outcome::Truncated { freed_count }), out);
    }

    /// The record of a step is in the page cache.
    pub(super) fn truncate_recorded(&mut self, op: usize, out: &mut Vec<Action>) {
        if !self.truncate_mut(op).goes_on {
            return self.truncate_ended(op, out);
        }
        self.journal.release(std::mem::take(&mut self.ops[op].reserved_bytes));
        self.wait_durable(self.journal.appended(), Waiter::Truncate { op });
    }

    /// Chunks of one step.
    fn step_chunks(&self) -> usize {
        to_usize((self.dirty_chunks_max / 4).clamp(1, REMOVE_CHUNKS_MAX))
    }

    fn read_tail(&mut self, op: usize, place: u64, buf: BufSlot, out: &mut Vec<Action>) {
        let offset = self.data_byte(place);
        let io = self.part_io(op, 0);
        out.push(Action::ReadData { io, offset, buf, bytes: BLOCK_BYTES });
    }

    fn truncate_mut(&mut self, op: usize) -> &mut TruncateOp {
        match &mut self.ops[op].body {
            Body::Truncate(truncate) => truncate,
            _ => unreachable!("the caller looked"),
        }
    }

    fn plan_truncate(&mut self, op: usize, pool: &Pool) -> Result<Plan, Halt> {
        let failed = self.failed;
        let truncate = self.truncate_mut(op);
        if failed && truncate.goes_on {
            // Not as if nothing had been done.
            return Err(Halt::Fail(Status::Io));
        }
        self.reserve_journal(op, 1)?;
        let truncate = self.truncate_mut(op);
        let (ino, remove_from, cut) = (truncate.ino, truncate.remove_from, truncate.cut);
        let (end, goes_on) = (truncate.end, truncate.goes_on);
        if goes_on && self.stopping {
            return Err(Halt::Fail(Status::Unavailable));
        }
        let dirty_count = self.map.cache().dirty_count();
        let room = dirty_count + to_u64(self.step_chunks()) <= self.dirty_chunks_max;
        if goes_on && dirty_count > 0 && !room {
            self.checkpoint_due = true;
            return Err(Halt::Park);
        }
        let looked = self.look_at_cut(ino, cut);
        let (shortens, old) = looked.map_err(|error| Halt::Fail(self.index_status(&error)))?;
        if let Some(old) = old {
            let buf = pool.alloc(BLOCK_LEN).ok_or(Halt::Fail(Status::Busy))?;
            let hint = Some(old.device_block + 1).filter(|block| self.space.is_free(*block));
            let want = Want { count: 1, hint, chunk_blocks: 0, grows: true, may_use_reserve: true };
            let new_place = self.alloc(want)?[0].start;
            let tail = Tail { old, new_place, new_sum: None, lost: false, failed_reads: 0 };
            self.truncate_mut(op).tail = Some(tail);
            return Ok(Plan::Tail { buf, place: old.device_block });
        }
        let last = match self.map.last_ids(ino, remove_from, end, 1) {
            Err(_) if planted::is(Bug::EndEarly) => Ok(Vec::new()),
            last => last,
        };
        let last = last.map_err(|error| Halt::Fail(self.index_status(&error)))?;
        Ok(if shortens || !last.is_empty() { Plan::Record } else { Plan::Nothing })
    }

    /// Whether blocks go, and the written block that the cut goes through.
    fn look_at_cut(
        &mut self,
        ino: Ino,
        cut: Option<(ChunkIndex, u32)>,
    ) -> Result<(bool, Option<Placed>), StoreError> {
        let Some((index, bytes)) = cut else { return Ok((false, None)) };
        let Some(chunk) = self.map.get(ChunkId { ino, index })? else { return Ok((false, None)) };
        let keep_blocks = bytes.div_ceil(BLOCK_BYTES);
        let through = !bytes.is_multiple_of(BLOCK_BYTES);
        let old = if through { chunk.get(keep_blocks - 1) } else { None };
        Ok((chunk.end() > keep_blocks, old))
    }

    pub(super) fn truncate_part_done(
        &mut self,
        op: usize,
        buf: Option<BufSlot>,
        out: &mut Vec<Action>,
    ) {
        let error = self.ops[op].error;
        let truncate = self.truncate_mut(op);
        let kept = truncate.cut.map_or(0, |(_, bytes)| bytes % BLOCK_BYTES);
        let tail = truncate.tail.as_mut().expect("it is what the I/O was for");
        let writing = tail.new_sum.is_some();
        if let Some(status) = error.filter(|_| writing) {
            self.abort_truncate(op, status, out);
        } else if writing {
            self.record_truncate(op, out);
        } else if let Some(mut slot) = buf {
            tail.failed_reads += u32::from(error.is_some());
            if error.is_some() && tail.failed_reads < TAIL_READS_MAX {
                let place = tail.old.device_block;
                self.ops[op].error = None;
                return self.read_tail(op, place, slot, out);
            }
            let whole = error.is_none() && block_matches(slot.as_slice(), 0, tail.old.sum);
            let block = &mut slot.as_mut_slice()[..BLOCK_LEN];
            block[if whole { to_usize(u64::from(kept)) } else { 0 }..].fill(0);
            // What a damaged block held, or one that the device does not give, is lost already, and must not keep the
            // file from being cut: a server that has a cut to finish does not serve. Where the whole device fails, so
            // does the write, and the block stays what it was. It goes on as a block that cannot be read, by a checksum that is
            // wrong on purpose, until it is written again.
            tail.lost = !whole;
            tail.new_sum = Some(if whole { crc32c(block) } else { !crc32c(block) });
            let place = tail.new_place;
            let offset = self.data_byte(place);
            let io = self.part_io(op, 0);
            let buf = slot.share();
            out.push(Action::WriteData { io, offset, buf, start: 0, bytes: BLOCK_BYTES });
            self.ops[op].error = None;
            if !whole {
                self.counters.damaged_blocks += 1;
            }
        } else {
            self.abort_truncate(op, Status::Io, out);
        }
    }

    fn abort_truncate(&mut self, op: usize, status: Status, out: &mut Vec<Action>) {
        if let Some(tail) = self.truncate_mut(op).tail.take() {
            self.space.give_back(Extent { start: tail.new_place, count: 1 });
        }
        self.finish(op, Err(status), out);
    }

    /// What the next step is, the chunks that go with it, the last one first, and whether more steps follow.
    fn next_step(
        &mut self,
        op: usize,
        cut: Option<Cut>,
    ) -> Result<(Truncate, Vec<ChunkId>, bool), StoreError> {
        let step_chunks = self.step_chunks();
        let truncate = self.truncate_mut(op);
        let (ino, remove_from, end) = (truncate.ino, truncate.remove_from, truncate.end);
        let mut gone = self.map.last_ids(ino, remove_from, end, step_chunks + 1)?;
        let goes_on = gone.len() > step_chunks;
        gone.truncate(if goes_on && cut.is_some() { 0 } else { step_chunks });
        let from = match gone.last() {
            Some(last) if goes_on => last.index,
            None if goes_on => ChunkIndex(u64::MAX),
            _ => remove_from,
        };
        Ok((Truncate { ino, remove_from: from, cut }, gone, goes_on))
    }

    fn record_truncate(&mut self, op: usize, out: &mut Vec<Action>) {
        if self.failed {
            self.abort_truncate(op, Status::Io, out);
            return;
        }
        let truncate = self.truncate_mut(op);
        let lost = truncate.tail.is_some_and(|tail| tail.lost);
        let tail = truncate
            .tail
            .and_then(|tail| tail.new_sum.map(|sum| Placed { device_block: tail.new_place, sum }));
        let cut = truncate.cut.map(|(index, bytes)| Cut {
            index,
            keep_blocks: bytes.div_ceil(BLOCK_BYTES),
            tail,
        });
        let (record, gone, goes_on) = match self.next_step(op, cut) {
            Ok(step) => step,
            // Nothing of it was applied, and the rows of others can be read.
            Err(error) => {
                let status = self.index_status(&error);
                return self.abort_truncate(op, status, out);
            }
        };
        match self.map.cut_and_remove(&record, &gone) {
            Err(error) => {
                let status = self.index_status(&error);
                // A part of it may have been applied: what is in memory must not reach the index.
                self.fail(out);
                self.abort_truncate(op, status, out);
            }
            Ok(freed) => {
                let freed_count: u64 = freed.iter().map(|extent| u64::from(extent.count)).sum();
                let truncate = self.truncate_mut(op);
                // The block the cut goes through has a new place instead of its old one.
                truncate.freed_count += freed_count - u64::from(tail.is_some());
                truncate.goes_on = goes_on;
                truncate.cut = None;
                // A step that only cuts removes from where no chunk is.
                truncate.end = Some(record.remove_from).filter(|end| end.0 < u64::MAX);
                self.damages.truncated(&record);
                if let Some(cut) = record.cut.filter(|_| lost) {
                    let chunk = ChunkId { ino: record.ino, index: cut.index };
                    self.damage_met(chunk, cut.keep_blocks - 1);
                }
                let sequence = self.journal.push(Entry::Truncate(record));
                if let Some(tail) = tail {
                    self.truncate_mut(op).tail = None;
                    self.map.touch(Extent { start: tail.device_block, count: 1 });
                    self.recent.add(sequence, tail.device_block, 1);
                }
                self.free_later(sequence, freed);
                self.recorded.push_back((sequence, op));
            }
        }
    }
}
