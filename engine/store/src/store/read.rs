//! Reads: find the blocks, read them, compare every checksum.

use weft_iobuf::{BufSlot, Pool};
use weft_wire::Status;
use weft_wire::blocks::{BLOCK_BYTES, BLOCK_LEN, each_checksum};
use weft_wire::data::ChunkRange;
use weft_wire::scrub::DamageKind::Mismatch;
use weft_wire::units::{to_u32, to_usize};

use super::{Body, Store};
use crate::action::{Action, Outcome, ReadPiece};
use crate::planted::{self, Bug};

/// A read under way.
#[derive(Debug)]
pub(super) struct ReadOp {
    range: ChunkRange,
    first: u32,
    sums: Vec<u32>,
    pieces: Vec<Piece>,
}

/// Blocks of a read that lie in a row on the device, or were never written.
#[derive(Debug)]
struct Piece {
    /// First block, counted in the chunk.
    first: u32,
    count: u32,
    /// `None` for a hole.
    device_block: Option<u64>,
    /// Back from the device.
    slot: Option<BufSlot>,
}

impl ReadOp {
    pub(super) fn new(range: ChunkRange) -> ReadOp {
        ReadOp { range, first: range.offset / BLOCK_BYTES, sums: Vec::new(), pieces: Vec::new() }
    }

    fn add(&mut self, block: u32, device_block: Option<u64>, count_max: u32) {
        if let Some(last) = self.pieces.last_mut() {
            let next = last.device_block.map(|start| start + u64::from(last.count));
            if next == device_block && last.count < count_max {
                last.count += 1;
                return;
            }
        }
        self.pieces.push(Piece { first: block, count: 1, device_block, slot: None });
    }
}

impl Store {
    pub(super) fn start_read(&mut self, op: usize, pool: &Pool, out: &mut Vec<Action>) {
        let Body::Read(mut read) = std::mem::replace(&mut self.ops[op].body, Body::Taken) else {
            unreachable!("the caller looked");
        };
        match self.plan_read(&mut read, pool) {
            Err(status) => self.finish(op, Err(status), out),
            Ok(slots) if slots.is_empty() => {
                let outcome =
                    Outcome::Read { first_block: read.first, sums: Vec::new(), pieces: Vec::new() };
                self.counters.reads += 1;
                self.finish(op, Ok(outcome), out);
            }
            Ok(slots) => {
                for (part, buf) in slots {
                    let piece = &read.pieces[part];
                    let place = piece.device_block.expect("slots are for written blocks");
                    let (offset, bytes) = (self.data_byte(place), piece.count * BLOCK_BYTES);
                    let io = self.part_io(op, part);
                    out.push(Action::ReadData { io, offset, buf, bytes });
                }
                self.ops[op].body = Body::Read(read);
            }
        }
    }

    /// Lists the pieces up to the last written block of the range, and takes buffers for them.
    fn plan_read(
        &mut self,
        read: &mut ReadOp,
        pool: &Pool,
    ) -> Result<Vec<(usize, BufSlot)>, Status> {
        let zero_sum = self.zero_sum;
        let chunk = match self.map.get(read.range.chunk) {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(Vec::new()),
            Err(error) => return Err(self.index_status(&error)),
        };
        let slot_blocks_max = to_u32(pool.class_bytes_max() / BLOCK_LEN);
        let wanted = read.first..read.first + read.range.block_count();
        let last = wanted.clone().rev().find(|block| chunk.get(*block).is_some());
        let Some(last) = last else { return Ok(Vec::new()) };
        for block in read.first..=last {
            let placed = chunk.get(block);
            read.add(block, placed.map(|placed| placed.device_block), slot_blocks_max);
            read.sums.push(placed.map_or(zero_sum, |placed| placed.sum));
        }
        let mut slots = Vec::new();
        for (part, piece) in read.pieces.iter().enumerate() {
            if piece.device_block.is_some() {
                let bytes = to_usize(u64::from(piece.count)) * BLOCK_LEN;
                slots.push((part, pool.alloc(bytes).ok_or(Status::Busy)?));
            }
        }
        Ok(slots)
    }

    pub(super) fn read_done(
        &mut self,
        op: usize,
        part: usize,
        buf: Option<BufSlot>,
        out: &mut Vec<Action>,
    ) {
        let entry = &mut self.ops[op];
        let Body::Read(read) = &mut entry.body else { unreachable!("the caller looked") };
        let piece = &mut read.pieces[part];
        if entry.error.is_none() {
            let (from, count) = (piece.first - read.first, piece.count);
            let mut bad = 0;
            if let Some(slot) = buf.as_ref().filter(|_| !planted::is(Bug::SkipReadSum)) {
                let blocks = &slot.as_slice()[..to_usize(u64::from(count)) * BLOCK_LEN];
                each_checksum(0, blocks, |block, sum| {
                    if read.sums[to_usize(u64::from(from + block.block))] != sum {
                        self.damages.add(read.range.chunk, piece.first + block.block, Mismatch);
                        bad += 1;
                    }
                });
            }
            self.counters.damaged_blocks += bad;
            entry.error = match &buf {
                None => Some(Status::Io),
                Some(_) if bad > 0 => Some(Status::Damaged),
                Some(_) => None,
            };
        }
        piece.slot = buf;
        if entry.outstanding > 0 {
            return;
        }
        let result = match entry.error {
            Some(status) => Err(status),
            None => Ok(outcome_of(read)),
        };
        if result.is_ok() {
            self.counters.reads += 1;
            self.counters.read_bytes += u64::from(to_u32(read.sums.len()) * BLOCK_BYTES);
        }
        read.sums.clear();
        self.finish(op, result, out);
    }
}

fn outcome_of(read: &mut ReadOp) -> Outcome {
    let pieces = std::mem::take(&mut read.pieces);
    let piece_of = |piece: Piece| {
        let bytes = piece.count * BLOCK_BYTES;
        match piece.slot {
            Some(slot) => ReadPiece::Data { slot, bytes },
            None => ReadPiece::Zeros { bytes },
        }
    };
    Outcome::Read {
        first_block: read.first,
        sums: read.sums.clone(),
        pieces: pieces.into_iter().map(piece_of).collect(),
    }
}
