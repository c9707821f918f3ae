//! Space given out ahead, bytes made zeros, blocks given back, and where data and holes are.
//!
//! Space is given out by writing zeros where nothing was: what a block of a chunk is stays one of two things, written
//! or never written, and a later write to it needs no new block. Blocks are given back by one record.

use weft_iobuf::Pool;
use weft_wire::blocks::{BLOCK_BYTES, BLOCK_LEN};
use weft_wire::data::{ChunkRange, SeekFrom, SeekReply, ZeroHow};
use weft_wire::units::to_usize;
use weft_wire::{ChunkId, ChunkIndex, Status};

use super::write::{Only, WriteOp};
use super::{Body, Halt, Store, hold_of};
use crate::action::{Action, Outcome};
use crate::error::StoreError;
use crate::limits::SEEK_CHUNKS_MAX;
use crate::record::{Entry, Punch};

/// Blocks that are being given back.
#[derive(Debug)]
pub(super) struct PunchOp {
    punch: Punch,
    /// Blocks of them that were written.
    pub(super) freed_count: u32,
}

impl Store {
    /// Gives blocks out ahead, makes bytes zeros or gives blocks back. Ends with [`Outcome::Written`] or
    /// [`Outcome::Punched`], or with `Invalid`, `NoSpace`, `Busy`, `Damaged`, `Io`, `ReadOnly`.
    pub fn zero(
        &mut self,
        op: u64,
        range: ChunkRange,
        how: ZeroHow,
        pool: &Pool,
        out: &mut Vec<Action>,
    ) {
        let body = self.admit(&range).and_then(|()| zero_body(range, how, pool));
        match body {
            Err(status) => out.push(Action::Reply { op, result: Err(status) }),
            Ok(body) => {
                self.queue(op, range.chunk.ino, hold_of(&range, true), body);
                self.run(pool, out);
            }
        }
    }

    pub(super) fn start_punch(&mut self, op: usize, out: &mut Vec<Action>) {
        match self.punch(op) {
            Err(halt) => self.halt(op, halt, out),
            Ok(None) => self.finish(op, Ok(Outcome::Punched { freed_count: 0 }), out),
            Ok(Some(sequence)) => self.recorded.push_back((sequence, op)),
        }
    }

    /// Records it; `None` when nothing of it was written.
    fn punch(&mut self, op: usize) -> Result<Option<u64>, Halt> {
        self.reserve_journal(op, 1)?;
        let Body::Punch(PunchOp { punch, .. }) = &self.ops[op].body else {
            unreachable!("the caller looked");
        };
        let punch = *punch;
        let freed = match self.map.punch(&punch) {
            Ok(freed) if freed.is_empty() => return Ok(None),
            Ok(freed) => freed,
            Err(error) => return Err(Halt::Fail(self.index_status(&error))),
        };
        self.damages.punched(&punch);
        let sequence = self.journal.push(Entry::Punch(punch));
        let freed_count = freed.iter().map(|extent| extent.count).sum();
        self.ops[op].body = Body::Punch(PunchOp { punch, freed_count });
        self.free_later(sequence, freed);
        Ok(Some(sequence))
    }

    /// The next data or hole. Looks at a bounded number of chunks. Blocking index reads.
    ///
    /// # Errors
    /// `Damaged`, `Index`.
    pub fn seek(&self, from: &SeekFrom) -> Result<SeekReply, StoreError> {
        let (mut index, mut block) = (from.index, from.block);
        for _ in 0..SEEK_CHUNKS_MAX {
            let id = ChunkId { ino: from.ino, index };
            let chunk = self.map.peek(id)?;
            let found = match (&chunk, from.hole) {
                (None, true) => Some(block),
                (None, false) => None,
                (Some(chunk), true) => {
                    (block..from.chunk_blocks).find(|block| chunk.get(*block).is_none())
                }
                (Some(chunk), false) => (block..chunk.end()).find(|at| chunk.get(*at).is_some()),
            };
            if let Some(block) = found {
                return Ok(SeekReply::Found(index, block));
            }
            block = 0;
            let next = if from.hole {
                index.0.checked_add(u64::from(from.stride)).map(ChunkIndex)
            } else {
                let next = self.map.next_after(Some(id))?;
                next.filter(|next| next.ino == from.ino).map(|next| next.index)
            };
            let Some(next) = next else { return Ok(SeekReply::End) };
            index = next;
        }
        Ok(SeekReply::Further(index))
    }
}

fn zero_body(range: ChunkRange, how: ZeroHow, pool: &Pool) -> Result<Body, Status> {
    let whole = range.offset.is_multiple_of(BLOCK_BYTES) && range.bytes.is_multiple_of(BLOCK_BYTES);
    if how != ZeroHow::Erase && !whole {
        return Err(Status::Invalid);
    }
    let only = match how {
        ZeroHow::Allocate => Only::Holes,
        ZeroHow::Erase => Only::Written,
        ZeroHow::Punch => {
            let (first, count) = (range.offset / BLOCK_BYTES, range.block_count());
            let punch = Punch { chunk: range.chunk, first, count };
            return Ok(Body::Punch(PunchOp { punch, freed_count: 0 }));
        }
    };
    let bytes = to_usize(u64::from(range.block_count())) * BLOCK_LEN;
    let mut zeros = pool.alloc(bytes).ok_or(Status::Busy)?;
    zeros.as_mut_slice()[..bytes].fill(0);
    Ok(Body::Write(Box::new(WriteOp::zeros(range, only, zeros))))
}
