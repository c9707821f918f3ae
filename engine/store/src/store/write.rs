//! Writes: merge, place, (intent,) data, record.
//!
//! - Blocks never written, written blocks that are covered in part, and blocks written very lately
//!   ([`crate::recent`]) go to new places: until the record is durable the old place is untouched,
//!   so bytes beside the written ones are never at risk.
//! - Other blocks that are covered whole are overwritten where they are, after an intent for the
//!   chunk is durable. Each overwrite's intent carries the checksums it is going to leave, so that
//!   after the death of this process a block is known to be old or new.
//! - Then the record, with the checksums; its append is the acknowledgement.

use weft_iobuf::{BufSlot, Pool, SharedSlot};
use weft_wire::Status;
use weft_wire::blocks::{BLOCK_BYTES, BLOCK_LEN, BlockPiece, crc32c, pieces};
use weft_wire::data::ChunkRange;
use weft_wire::units::to_usize;

use slab::Slab;

use super::{Body, Halt, IoUse, Op, Store, Waiter, block_matches};
use crate::action::{Action, Outcome};
use crate::chunk::{Placed, Run, Window, push_block};
use crate::limits::{SPARE_RUNS_MAX, journal_bytes_of_op};
use crate::planted::{self, Bug};
use crate::record::{Entry, Places};
use crate::space::{Extent, Want};

/// A write under way.
#[derive(Debug)]
pub(super) struct WriteOp {
    pub(super) range: ChunkRange,
    /// First block.
    first: u32,
    /// One checksum for each block of the range; those of partly covered blocks are replaced when
    /// merged. From then on: one for each block of the runs.
    sums: Vec<u32>,
    /// The payload while it may still change.
    payload: Option<BufSlot>,
    /// The whole blocks to write.
    merged: Option<SharedSlot>,
    /// Written blocks covered in part, to be read and merged.
    olds: Vec<(BlockPiece, Placed)>,
    /// Where every block goes.
    runs: Vec<Run>,
    /// What was taken for it, until its record says so.
    pub(super) fresh: Vec<Extent>,
    /// Blocks overwritten where they are, from planning on, and their checksums.
    in_place: Vec<Run>,
    in_place_sums: Vec<u32>,
    /// Which of its blocks it is about.
    only: Only,
    /// Blocks that were never written before.
    pub(super) added_count: u32,
    /// Which of the writes on the device it is.
    data_number: u64,
    /// Its intent is recorded, and the write itself is not yet.
    pub(super) has_intent: bool,
    /// Where in memory its chunk's record was when the write was planned.
    record_place: Option<usize>,
}

/// Which blocks of its range a write is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Only {
    All,
    /// Those that were never written.
    Holes,
    /// Those that were.
    Written,
}

impl WriteOp {
    pub(super) fn new(range: ChunkRange, sums: Vec<u32>, payload: BufSlot) -> WriteOp {
        WriteOp {
            range,
            first: range.offset / BLOCK_BYTES,
            sums,
            payload: Some(payload),
            merged: None,
            olds: Vec::new(),
            runs: Vec::new(),
            fresh: Vec::new(),
            in_place: Vec::new(),
            in_place_sums: Vec::new(),
            only: Only::All,
            added_count: 0,
            data_number: 0,
            has_intent: false,
            record_place: None,
        }
    }

    /// Zeros for some of the blocks of a range; what was asked for is whole blocks, unless `only` is `Written`.
    pub(super) fn zeros(range: ChunkRange, only: Only, payload: BufSlot) -> WriteOp {
        let sums = pieces(range.offset, range.bytes).map(|piece| {
            let (start, end) = bounds(&piece);
            crc32c(&[0; BLOCK_LEN][start..end])
        });
        WriteOp { only, ..WriteOp::new(range, sums.collect(), payload) }
    }

    /// A new one of one that ended.
    pub(super) fn renew(&mut self, range: ChunkRange, sums: Vec<u32>, payload: BufSlot) {
        (self.range, self.first) = (range, range.offset / BLOCK_BYTES);
        (self.sums, self.payload) = (sums, Some(payload));
    }

    /// Lets go of all but a little memory; whether the rest is worth to be kept for the next one.
    pub(super) fn end(&mut self) -> bool {
        self.sums = Vec::new();
        (self.payload, self.merged, self.has_intent) = (None, None, false);
        (self.only, self.added_count) = (Only::All, 0);
        self.olds.clear();
        self.runs.clear();
        self.fresh.clear();
        self.in_place.clear();
        self.in_place_sums.clear();
        let lengths = [self.olds.capacity(), self.runs.capacity(), self.in_place_sums.capacity()];
        lengths.into_iter().max() <= Some(SPARE_RUNS_MAX)
    }

    fn pieces(&self) -> impl Iterator<Item = BlockPiece> + use<> {
        pieces(self.range.offset, self.range.bytes)
    }

    /// Where a block lies in the payload's slot.
    fn at(&self, block: u32) -> usize {
        to_usize(u64::from(block - self.first)) * BLOCK_LEN
    }

    /// Where all its blocks are to lie.
    fn places(&self) -> Places<'_> {
        Places { chunk: self.range.chunk, runs: &self.runs, sums: &self.sums }
    }

    /// Those of them that are overwritten.
    pub(super) fn in_place(&self) -> Places<'_> {
        Places { chunk: self.range.chunk, runs: &self.in_place, sums: &self.in_place_sums }
    }
}

impl Store {
    pub(super) fn start_write(&mut self, op: usize, pool: &Pool, out: &mut Vec<Action>) {
        let Body::Write(mut write) = std::mem::replace(&mut self.ops[op].body, Body::Taken) else {
            unreachable!("the caller looked");
        };
        let planned = self.plan_write(op, &mut write, pool);
        if planned.is_err() {
            self.undo_plan(&mut write);
        }
        let olds: Vec<_> = write.olds.iter().map(|(_, placed)| placed.device_block).collect();
        self.ops[op].body = Body::Write(write);
        match planned {
            Err(halt) => self.halt(op, halt, out),
            // Zeros that are not wanted anywhere.
            Ok(_) if write_of(&mut self.ops, op).runs.is_empty() => {
                self.finish(op, Ok(Outcome::Written { added_count: 0 }), out);
            }
            Ok(slots) if slots.is_empty() => self.merge(op, out),
            Ok(slots) => {
                for (part, (buf, place)) in slots.into_iter().zip(olds).enumerate() {
                    let offset = self.data_byte(place);
                    let io = self.part_io(op, part);
                    out.push(Action::ReadData { io, offset, buf, bytes: BLOCK_BYTES });
                }
            }
        }
    }

    /// Decides where every block goes and takes what that needs: journal bytes, blocks, and buffers
    /// for the blocks to merge with, which it gives back to the caller.
    fn plan_write(
        &mut self,
        op: usize,
        write: &mut WriteOp,
        pool: &Pool,
    ) -> Result<Vec<BufSlot>, Halt> {
        self.reserve_journal(op, write.range.block_count())?;
        let mut window = std::mem::take(&mut self.window);
        let placed = self.place_blocks(write, &mut window);
        self.window = window;
        placed?;
        let slots = write.olds.iter().map(|_| pool.alloc(BLOCK_LEN));
        slots.collect::<Option<Vec<_>>>().ok_or(Halt::Fail(Status::Busy))
    }

    /// Where each block goes; takes the blocks that needs.
    fn place_blocks(&mut self, write: &mut WriteOp, chunk: &mut Window) -> Result<(), Halt> {
        match self.map.get_placed(write.range.chunk) {
            Ok((place, record)) => {
                write.record_place = place;
                chunk.show(record, write.first, write.range.block_count());
            }
            Err(error) => return Err(Halt::Fail(self.index_status(&error))),
        }
        let mut need: Option<Stretch> = None;
        for piece in write.pieces() {
            let placed = chunk.get(piece.block);
            let wanted = match write.only {
                Only::All => true,
                Only::Holes => placed.is_none(),
                Only::Written => placed.is_some(),
            };
            if !wanted {
                self.place_stretch(write, chunk, need.take())?;
                continue;
            }
            let stays = |placed: &Placed| {
                let recent = self.recent.has(placed.device_block);
                piece.is_full() && (!recent || planted::is(Bug::OverwriteRecent))
            };
            let kept = placed.filter(stays);
            let moves = placed.is_some() && kept.is_none();
            if let Some(stretch) = need.as_mut()
                && kept.is_none()
                && stretch.moves == moves
            {
                stretch.count += 1;
            } else {
                self.place_stretch(write, chunk, need.take())?;
                need = kept.is_none().then_some(Stretch { first: piece.block, count: 1, moves });
            }
            if let Some(placed) = kept {
                push_block(&mut write.runs, piece.block, placed.device_block);
                push_block(&mut write.in_place, piece.block, placed.device_block);
                // Covered whole: its checksum is the payload's.
                write
                    .in_place_sums
                    .push(write.sums[to_usize(u64::from(piece.block - write.first))]);
            } else if let Some(placed) = placed.filter(|_| !piece.is_full()) {
                write.olds.push((piece, placed));
            }
        }
        self.place_stretch(write, chunk, need)
    }

    pub(super) fn reserve_journal(&mut self, op: usize, block_count: u32) -> Result<(), Halt> {
        if self.failed {
            return Err(Halt::Fail(Status::ReadOnly));
        }
        if self.ops[op].reserved_bytes == 0 {
            if self.waits_for_checkpoint() {
                return Err(Halt::Park);
            }
            let bytes = journal_bytes_of_op(block_count);
            if !self.journal.reserve(bytes) {
                self.checkpoint_due = true;
                return Err(Halt::Park);
            }
            self.ops[op].reserved_bytes = bytes;
        }
        Ok(())
    }

    /// Takes new places for blocks in a row: next to the block before them if that is free.
    fn place_stretch(
        &mut self,
        write: &mut WriteOp,
        chunk: &Window,
        stretch: Option<Stretch>,
    ) -> Result<(), Halt> {
        let Some(stretch) = stretch else { return Ok(()) };
        let planned = write.runs.last().filter(|run| run.first + run.count == stretch.first);
        let before = match planned {
            Some(run) => Some(run.device_block + u64::from(run.count) - 1),
            None => stretch
                .first
                .checked_sub(1)
                .and_then(|block| chunk.get(block))
                .map(|placed| placed.device_block),
        };
        let own = chunk.get(stretch.first).map(|placed| placed.device_block);
        let hint = [before, own].into_iter().flatten().map(|block| block + 1);
        let hint = hint.clone().find(|block| self.space.is_free(*block));
        let extents = self.alloc(Want {
            count: stretch.count,
            hint,
            chunk_blocks: chunk.end(),
            grows: !stretch.moves || stretch.first + stretch.count >= chunk.end(),
            may_use_reserve: stretch.moves,
        })?;
        let mut block = stretch.first;
        for extent in &extents {
            for device_block in extent.start..extent.start + u64::from(extent.count) {
                push_block(&mut write.runs, block, device_block);
                block += 1;
            }
        }
        if planted::is(Bug::GiveTwice)
            && let Some(last) = extents.last()
            && stretch.count > 8
        {
            self.space.give_back(Extent { start: last.start, count: 1 });
        }
        write.fresh.extend(extents);
        Ok(())
    }

    /// Nothing was written yet, or nothing refers to what was: the blocks are free again at once.
    fn undo_plan(&mut self, write: &mut WriteOp) {
        for extent in write.fresh.drain(..) {
            self.space.give_back(extent);
        }
        write.runs.clear();
        write.in_place.clear();
        write.in_place_sums.clear();
        write.olds.clear();
    }

    pub(super) fn write_part_done(
        &mut self,
        op: usize,
        part: usize,
        buf: Option<BufSlot>,
        out: &mut Vec<Action>,
    ) {
        let failed = self.ops[op].error.is_some();
        let write = write_of(&mut self.ops, op);
        let merging = write.merged.is_none();
        if merging && !failed {
            let merged = merge_old(write, part, buf.as_ref());
            if merged == Err(Status::Damaged) {
                let (chunk, block) = (write.range.chunk, write.olds[part].0.block);
                self.counters.damaged_blocks += 1;
                self.damage_met(chunk, block);
            }
            self.ops[op].error = merged.err();
        }
        let entry = &self.ops[op];
        if let Body::Write(write) = &entry.body
            && entry.outstanding == 0
            && !merging
        {
            self.gather.end(write.data_number);
        }
        match (entry.outstanding, entry.error) {
            (0, Some(status)) => self.abort_write(op, status, out),
            (0, None) if merging => self.merge(op, out),
            (0, None) => self.record_write(op, out),
            _ => {}
        }
    }

    fn abort_write(&mut self, op: usize, status: Status, out: &mut Vec<Action>) {
        let Body::Write(mut write) = std::mem::replace(&mut self.ops[op].body, Body::Taken) else {
            unreachable!("the caller looked");
        };
        self.undo_plan(&mut write);
        self.finish(op, Err(status), out);
    }

    /// All old bytes are in place: the payload becomes whole blocks with a checksum each.
    fn merge(&mut self, op: usize, out: &mut Vec<Action>) {
        let write = write_of(&mut self.ops, op);
        let mut payload = write.payload.take().expect("kept until here");
        let moved: Vec<u32> = write.olds.iter().map(|(piece, _)| piece.block).collect();
        for (number, piece) in write.pieces().enumerate().filter(|(_, piece)| !piece.is_full()) {
            let at = write.at(piece.block);
            let block = &mut payload.as_mut_slice()[at..at + BLOCK_LEN];
            if !moved.contains(&piece.block) {
                let (start, end) = bounds(&piece);
                block[..start].fill(0);
                block[end..].fill(0);
            }
            write.sums[number] = crc32c(block);
        }
        write.merged = Some(payload.share());
        if write.only != Only::All {
            let blocks = write.runs.iter().flat_map(Run::blocks);
            let sum_of = |(block, _)| write.sums[to_usize(u64::from(block - write.first))];
            write.sums = blocks.map(sum_of).collect();
        }
        if write.in_place.is_empty() || planted::is(Bug::SkipIntent) {
            self.write_data(op, out);
        } else {
            self.record_intent(op, out);
        }
    }

    /// Once an intent for the chunk is durable, later ones of the same interval only have to be in
    /// the page cache before the data is written.
    fn record_intent(&mut self, op: usize, out: &mut Vec<Action>) {
        if self.failed {
            self.abort_write(op, Status::Io, out);
            return;
        }
        let write = write_of(&mut self.ops, op);
        write.has_intent = true;
        let sequence = self.journal.push(Entry::Intent(write.in_place()));
        self.counters.intents += 1;
        if self.intents.contains(&write.range.chunk) {
            self.recorded.push_back((sequence, op));
        } else {
            self.counters.intent_flushes += 1;
            self.wait_durable(sequence, Waiter::Intent { op });
        }
    }

    pub(super) fn intent_durable(&mut self, op: usize, out: &mut Vec<Action>) {
        let write = write_of(&mut self.ops, op);
        let chunk = write.range.chunk;
        self.intents.insert(chunk);
        self.write_data(op, out);
    }

    pub(super) fn write_data(&mut self, op: usize, out: &mut Vec<Action>) {
        let entry = &mut self.ops[op];
        let Body::Write(write) = &mut entry.body else { unreachable!("the caller looked") };
        write.data_number = self.gather.begin(write.range.bytes);
        let merged = write.merged.as_ref().expect("merged before");
        for (part, run) in write.runs.iter().enumerate() {
            entry.outstanding += 1;
            out.push(Action::WriteData {
                io: self.ios.begin(IoUse::Part { op, part }),
                offset: self.superblock.areas.data_byte(run.device_block),
                buf: merged.clone(),
                start: (run.first - write.first) * BLOCK_BYTES,
                bytes: run.count * BLOCK_BYTES,
            });
        }
    }

    /// The data is on the device: from the record's append on the write is acknowledged, from the
    /// next flush on it is durable.
    fn record_write(&mut self, op: usize, out: &mut Vec<Action>) {
        if self.failed {
            self.abort_write(op, Status::Io, out);
            return;
        }
        let write = write_of(&mut self.ops, op);
        match self.map.place_again(write.places(), write.record_place) {
            Err(error) => {
                let status = self.index_status(&error);
                self.abort_write(op, status, out);
            }
            Ok((freed, added_count)) => {
                self.damages.written(write.places());
                let sequence = self.journal.push(Entry::Write(write.places()));
                for run in &write.runs {
                    self.recent.add(sequence, run.device_block, run.count);
                }
                write.added_count = added_count;
                write.has_intent = false;
                write.merged = None;
                // The places taken for it are in its chunk's record now.
                for extent in write.fresh.drain(..) {
                    self.map.touch(extent);
                }
                self.free_later(sequence, freed);
                if planted::is(Bug::AckEarly) {
                    self.record_appended(op, out);
                    return;
                }
                self.recorded.push_back((sequence, op));
            }
        }
    }
}

fn write_of(ops: &mut Slab<Op>, op: usize) -> &mut WriteOp {
    match &mut ops[op].body {
        Body::Write(write) => write,
        _ => unreachable!("the caller looked"),
    }
}

/// Blocks in a row that need new places.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    first: u32,
    count: u32,
    /// They were written before and move.
    moves: bool,
}

fn bounds(piece: &BlockPiece) -> (usize, usize) {
    (to_usize(u64::from(piece.start)), to_usize(u64::from(piece.start + piece.bytes)))
}

/// Puts the old bytes around the payload's piece of their block.
fn merge_old(write: &mut WriteOp, part: usize, buf: Option<&BufSlot>) -> Result<(), Status> {
    let (piece, placed) = write.olds[part];
    let at = write.at(piece.block);
    let old = buf.ok_or(Status::Io)?.as_slice();
    if !block_matches(old, 0, placed.sum) {
        return Err(Status::Damaged);
    }
    let payload = write.payload.as_mut().expect("kept until all is merged").as_mut_slice();
    let (start, end) = bounds(&piece);
    payload[at..at + start].copy_from_slice(&old[..start]);
    payload[at + end..at + BLOCK_LEN].copy_from_slice(&old[end..BLOCK_LEN]);
    Ok(())
}
