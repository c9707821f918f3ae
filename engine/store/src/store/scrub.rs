//! The scrub: every written block is read and compared, slowly, beside everything else.
//!
//! A pass looks at both superblocks, then walks the chunks in the index's order. Each step is one
//! read of blocks that lie in a row, under the same range lock as a client's read, so an overwrite
//! under way is never taken for damage. A step is at most [`SCRUB_READ_BLOCKS`] long; the rate is
//! kept by a budget that [`Store::scrub_tick`] refills; while clients' operations are under way
//! a tick asks for [`BUSY_TICK_BYTES`] and no more.
//!
//! Position and findings enter the index with checkpoints, so a pass goes on after a restart from
//! the last chunk that was done. What it repairs: a superblock that is ours and damaged is written
//! again from what was read at open. Damaged data has no second copy: it stays EIO.

use std::time::Duration;

use weft_iobuf::{BufSlot, Pool};
use weft_wire::blocks::BLOCK_LEN;
use weft_wire::scrub::{Damage, DamageKind};
use weft_wire::units::{to_u32, to_usize};
use weft_wire::{ChunkId, ChunkIndex, Ino};

use super::{Body, IoUse, Store, block_matches};
use crate::action::{Action, IoDone, IoError};
use crate::damage::{Damages, ScrubStatus};
use crate::limits::{BLOCK, CHUNK_BLOCKS_MAX, SCRUB_READ_BLOCKS};
use crate::locks::Hold;
use crate::superblock::is_ours_damaged;

/// The budget holds no more than so much time's bytes: a late tick makes no burst.
const BUDGET_TIME: Duration = Duration::from_millis(250);

/// What a tick may read beside operations of clients: one longest step.
const BUSY_TICK_BYTES: u32 = SCRUB_READ_BLOCKS * weft_wire::blocks::BLOCK_BYTES;

/// Where a pass is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// Copy 0 or 1 of the superblock comes next.
    Superblock(u8),
    #[default]
    Chunks,
}

/// The chunk at hand. What it added to the status is kept apart: after a restart it is looked at anew.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    chunk: ChunkId,
    next_block: u32,
    checked_bytes: u64,
    found_blocks: u64,
    unlisted_blocks: u64,
}

/// The scrub of one target.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    status: ScrubStatus,
    stage: Stage,
    /// Counts passes: what an earlier one still had under way says nothing of this one.
    pass: u32,
    cursor: Option<Cursor>,
    /// After a failed read of several blocks: up to here one at a time.
    singles_until: u32,
    /// A step is under way.
    stepping: bool,
    budget_bytes: i64,
    /// Bytes asked for since the last tick.
    tick_bytes: u32,
    last_tick: Option<Duration>,
    wall_s: u64,
    /// The status differs from what the index has.
    unsaved: bool,
}

/// One step: blocks of a chunk that lay in a row when it was planned.
#[derive(Debug)]
pub(super) struct ScrubOp {
    pass: u32,
    chunk: ChunkId,
    first: u32,
    count: u32,
    device_block: u64,
    sums: Vec<u32>,
}

impl Scrub {
    pub(super) fn new(saved: ScrubStatus) -> Scrub {
        let begun = saved.position.is_some();
        let stage = if begun { Stage::Chunks } else { Stage::Superblock(0) };
        Scrub { status: saved, stage, ..Scrub::default() }
    }
}

impl Store {
    /// Begins a pass, or goes on with one that was stopped unless `again`. A pass under way gets
    /// the new rate. `wall_s` is the time of day in seconds.
    pub fn scrub_start(&mut self, bytes_per_second: u64, again: bool, wall_s: u64) {
        let used_bytes = self.space().used_bytes;
        let scrub = &mut self.scrub;
        let halfway = scrub.status.position.is_some() && !again;
        if !scrub.status.running && !halfway || again {
            scrub.status = ScrubStatus {
                started_s: wall_s,
                finished_s: scrub.status.finished_s,
                total_bytes: used_bytes,
                ..ScrubStatus::default()
            };
            scrub.stage = Stage::Superblock(0);
            scrub.pass += 1;
            scrub.cursor = None;
            scrub.singles_until = 0;
            self.damages.clear_gaps();
        }
        scrub.status.running = true;
        scrub.status.bytes_per_second = bytes_per_second.max(BLOCK);
        scrub.last_tick = None;
        scrub.unsaved = true;
    }

    /// Stops the pass where it is.
    pub fn scrub_stop(&mut self) {
        self.scrub.unsaved |= self.scrub.status.running;
        self.scrub.status.running = false;
    }

    /// How far the scrub is.
    pub fn scrub_status(&self) -> ScrubStatus {
        ScrubStatus { listed_blocks: self.damages.block_count(), ..self.scrub.status }
    }

    /// Blocks known to be damaged, from a chunk's block on, ascending; all of them, and places
    /// where the index is, from `None` on.
    pub fn damages(&self, from: Option<(ChunkId, u32)>) -> Vec<Damage> {
        self.damages.list(from)
    }

    /// Time passes: the scrub may read on.
    pub fn scrub_tick(&mut self, now: Duration, wall_s: u64, pool: &Pool, out: &mut Vec<Action>) {
        let scrub = &mut self.scrub;
        scrub.wall_s = wall_s;
        if !scrub.status.running {
            return;
        }
        scrub.tick_bytes = 0;
        let passed = now.saturating_sub(scrub.last_tick.unwrap_or(now)).min(BUDGET_TIME);
        scrub.last_tick = Some(now);
        let rate = u128::from(scrub.status.bytes_per_second);
        let most = signed(rate * BUDGET_TIME.as_micros() / 1_000_000).max(1);
        let earned = signed(rate * passed.as_micros() / 1_000_000);
        scrub.budget_bytes = scrub.budget_bytes.saturating_add(earned).min(most);
        self.scrub_step(pool, out);
        self.run(pool, out);
    }

    pub(super) fn scrub_unsaved(&self) -> bool {
        self.scrub.unsaved || self.damages.unsaved
    }

    /// The row for the index, which it is going to be in.
    pub(super) fn save_scrub(&mut self) -> Vec<u8> {
        self.scrub.unsaved = false;
        self.damages.unsaved = false;
        let mut status = self.scrub_status();
        if let Some(cursor) = &self.scrub.cursor {
            status.checked_bytes -= cursor.checked_bytes;
            status.found_blocks -= cursor.found_blocks;
            status.unlisted_blocks -= cursor.unlisted_blocks;
        }
        crate::damage::encode(&status, &self.damages)
    }

    /// Begins the next step if there is one and it may.
    pub(super) fn scrub_step(&mut self, pool: &Pool, out: &mut Vec<Action>) {
        while self.scrub.status.running
            && !self.scrub.stepping
            && !self.stopping
            && self.scrub.budget_bytes > 0
        {
            let begun = match self.scrub.stage {
                Stage::Superblock(copy) => self.read_superblock(copy, pool, out),
                Stage::Chunks => self.read_chunk(),
            };
            if !begun {
                return;
            }
        }
    }

    fn read_superblock(&mut self, copy: u8, pool: &Pool, out: &mut Vec<Action>) -> bool {
        // A growth is writing them: the next tick looks again.
        if self.grow.is_some() {
            return false;
        }
        let Some(buf) = pool.alloc(BLOCK_LEN) else { return false };
        self.scrub.stepping = true;
        self.scrub.budget_bytes -= signed(u128::from(BLOCK));
        let io = self.new_io(IoUse::ScrubSuperblock { copy, pass: self.scrub.pass });
        let offset = if copy == 0 { 0 } else { self.superblock.areas.copy_b_offset };
        out.push(Action::ReadData { io, offset, buf, bytes: to_u32(BLOCK_LEN) });
        true
    }

    /// A superblock was read, or a repaired one written.
    pub(super) fn scrub_superblock_done(
        &mut self,
        copy: u8,
        pass: u32,
        result: Result<IoDone, IoError>,
        out: &mut Vec<Action>,
    ) {
        self.scrub.stepping = false;
        if pass != self.scrub.pass {
            return;
        }
        self.scrub.stage = if copy == 0 { Stage::Superblock(1) } else { Stage::Chunks };
        let right = self.superblock.encode();
        let buf = result.ok().and_then(|done| done.buf);
        if buf.as_ref().is_some_and(|buf| buf.as_slice()[..BLOCK_LEN] == right) {
            return;
        }
        self.scrub.status.superblocks_bad += 1;
        self.scrub.unsaved = true;
        let Some(mut buf) = buf else { return };
        if self.failed || self.stopping || !is_ours_damaged(&buf.as_slice()[..BLOCK_LEN], &right) {
            return;
        }
        buf.as_mut_slice()[..BLOCK_LEN].copy_from_slice(&right);
        let io = self.new_io(IoUse::ScrubRepair);
        self.scrub.stepping = true;
        let offset = if copy == 0 { 0 } else { self.superblock.areas.copy_b_offset };
        let bytes = to_u32(BLOCK_LEN);
        out.push(Action::WriteData { io, offset, buf: buf.share(), start: 0, bytes });
    }

    pub(super) fn scrub_repair_done(&mut self, result: &Result<IoDone, IoError>) {
        self.scrub.stepping = false;
        self.scrub.status.superblocks_repaired += u32::from(result.is_ok());
        self.scrub.unsaved = true;
    }

    /// Queues a read of the next written blocks, or ends the pass. Whether there may be more to do.
    fn read_chunk(&mut self) -> bool {
        let Some(cursor) = self.scrub.cursor else { return self.next_chunk() };
        let most = if cursor.next_block < self.scrub.singles_until { 1 } else { SCRUB_READ_BLOCKS };
        let planned = match self.map.peek(cursor.chunk) {
            Ok(chunk) => chunk.and_then(|chunk| chunk.run_at_or_after(cursor.next_block, most)),
            Err(_) => {
                self.note_gap(cursor.chunk);
                None
            }
        };
        let Some(run) = planned else {
            self.scrub.cursor = None;
            self.scrub.singles_until = 0;
            self.scrub.status.position = Some(cursor.chunk);
            self.scrub.status.checked_chunks += 1;
            self.scrub.unsaved = true;
            return true;
        };
        let index = cursor.chunk.index.0;
        let blocks = run.first..=run.first + run.count - 1;
        let hold = Hold { chunks: index..=index, blocks, exclusive: false };
        self.scrub.stepping = true;
        let body = Body::Scrub(ScrubOp {
            pass: self.scrub.pass,
            chunk: cursor.chunk,
            first: run.first,
            count: run.count,
            device_block: 0,
            sums: Vec::new(),
        });
        self.queue(0, cursor.chunk.ino, hold, body);
        true
    }

    fn next_chunk(&mut self) -> bool {
        let after = self.scrub.status.position;
        let found = match self.map.next_after(after) {
            Ok(found) => found,
            Err(_) => {
                self.note_gap(after.unwrap_or(ChunkId { ino: Ino(0), index: ChunkIndex(0) }));
                self.map.next_behind_gap(after)
            }
        };
        self.scrub.cursor = found.map(|chunk| Cursor {
            chunk,
            next_block: 0,
            checked_bytes: 0,
            found_blocks: 0,
            unlisted_blocks: 0,
        });
        if found.is_none() {
            self.scrub.status.running = false;
            self.scrub.status.position = None;
            self.scrub.status.finished_s = self.scrub.wall_s;
            self.scrub.unsaved = true;
        }
        found.is_some()
    }

    fn note_gap(&mut self, behind: ChunkId) {
        self.counters.index_errors += 1;
        self.scrub.status.index_gaps += 1;
        self.damages.add_gap(behind);
    }

    /// The blocks are ours for now: read those of them that still lie in a row.
    pub(super) fn start_scrub(&mut self, op: usize, pool: &Pool, out: &mut Vec<Action>) {
        let Body::Scrub(mut step) = std::mem::replace(&mut self.ops[op].body, Body::Taken) else {
            unreachable!("the caller looked");
        };
        let end = step.first + step.count;
        let found = match self.map.peek(step.chunk) {
            Ok(chunk) => chunk.and_then(|chunk| {
                let run = chunk.run_at_or_after(step.first, step.count)?;
                let run_end = (run.first + run.count).min(end);
                let sums = (run.first..run_end).filter_map(|block| chunk.get(block));
                Some((run, sums.map(|placed| placed.sum).collect::<Vec<_>>()))
            }),
            Err(_) => None,
        };
        let bytes = step.count * to_u32(BLOCK_LEN);
        match found.filter(|(run, _)| run.first < end) {
            None if step.pass == self.scrub.pass => self.pass_blocks(end),
            None => {}
            Some((run, sums)) => {
                if let Some(buf) = pool.alloc(to_usize(u64::from(bytes))) {
                    step.first = run.first;
                    step.count = to_u32(sums.len());
                    step.device_block = run.device_block;
                    step.sums = sums;
                    let bytes = step.count * to_u32(BLOCK_LEN);
                    self.scrub.budget_bytes -= i64::from(bytes);
                    self.scrub.tick_bytes = self.scrub.tick_bytes.saturating_add(bytes);
                    let offset = self.data_byte(step.device_block);
                    self.ops[op].body = Body::Scrub(step);
                    let io = self.part_io(op, 0);
                    out.push(Action::ReadData { io, offset, buf, bytes });
                    return;
                }
                // No buffers: clients need them more. The next tick tries again.
                self.scrub.budget_bytes = self.scrub.budget_bytes.min(0);
            }
        }
        self.ops[op].body = Body::Scrub(step);
        self.end_step(op);
    }

    /// A step's blocks are back from the device.
    pub(super) fn scrub_read_done(
        &mut self,
        op: usize,
        buf: Option<BufSlot>,
        pool: &Pool,
        out: &mut Vec<Action>,
    ) {
        let failed = self.ops[op].error.is_some();
        let Body::Scrub(step) = &mut self.ops[op].body else { unreachable!("the caller looked") };
        let (chunk, first, count) = (step.chunk, step.first, step.count);
        if step.pass != self.scrub.pass {
            return self.end_step(op);
        }
        let sums = std::mem::take(&mut step.sums);
        match buf {
            Some(buf) if !failed => {
                for (at, sum) in sums.iter().enumerate() {
                    let block = first + to_u32(at);
                    if block_matches(buf.as_slice(), at, *sum) {
                        self.damages.remove(chunk, block);
                    } else {
                        self.note_damage(chunk, block, DamageKind::Mismatch);
                    }
                }
                self.pass_blocks(first + count);
            }
            // Which of them it is only reading one at a time tells.
            _ if count > 1 => self.scrub.singles_until = first + count,
            _ => {
                self.note_damage(chunk, first, DamageKind::Unreadable);
                self.pass_blocks(first + count);
            }
        }
        let checked = if count == 1 || !failed { u64::from(count) * BLOCK } else { 0 };
        self.scrub.status.checked_bytes += checked;
        if let Some(cursor) = &mut self.scrub.cursor {
            cursor.checked_bytes += checked;
        }
        self.counters.scrub_bytes += checked;
        self.end_step(op);
        if self.ops.is_empty() || self.scrub.tick_bytes < BUSY_TICK_BYTES {
            self.scrub_step(pool, out);
        }
    }

    fn note_damage(&mut self, chunk: ChunkId, block: u32, kind: DamageKind) {
        let unlisted = u64::from(!self.damages.add(chunk, block, kind));
        self.scrub.status.found_blocks += 1;
        self.scrub.status.unlisted_blocks += unlisted;
        if let Some(cursor) = &mut self.scrub.cursor {
            cursor.found_blocks += 1;
            cursor.unlisted_blocks += unlisted;
        }
    }

    fn pass_blocks(&mut self, next_block: u32) {
        debug_assert!(next_block <= CHUNK_BLOCKS_MAX);
        if let Some(cursor) = &mut self.scrub.cursor {
            cursor.next_block = next_block;
        }
    }

    fn end_step(&mut self, op: usize) {
        let entry = self.ops.remove(op);
        self.locks.release(entry.ino, op, &mut self.ready);
        self.scrub.stepping = false;
    }

    /// A client's read found damage.
    pub(super) fn damage_met(&mut self, chunk: ChunkId, block: u32) {
        self.damages.add(chunk, block, DamageKind::Mismatch);
    }
}

/// What the index keeps, or a fresh start.
pub(super) fn restore(row: Option<(ScrubStatus, Damages)>) -> (Scrub, Damages) {
    let (status, damages) = row.unwrap_or_default();
    (Scrub::new(status), damages)
}

fn signed(bytes: u128) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
