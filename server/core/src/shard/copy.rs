//! Copies from chunk to chunk: the shard with the source's target reads, the one with the destination's writes.
//!
//! - What is read was compared with its checksums there, and is compared again where it came from another shard; a block
//!   that stays whole keeps its checksum. So damage is EIO, and never gets a new checksum.
//! - A session that was fenced off, or came back on another connection, between the read and the write writes nothing:
//!   its connection is looked at in the same turn that gives the write to the store.
//! - A copy is in memory from its read to the end of its writes, at most [`COPY_BYTES_MAX`] of it. Buffers are taken
//!   from the pool; bytes on their way between shards count as memory of requests, at both. Out of either: `Busy`.
//!
//! `doc/copy.md` says why it is done this way.

use weft_iobuf::BufSlot;
use weft_store::{Outcome, ReadPiece};
use weft_wire::blocks::{BLOCK_BYTES, BLOCK_LEN, checksums, crc32c, pieces};
use weft_wire::data::{ChunkCopy, ChunkRange, CopyReply, Known, ZeroHow};
use weft_wire::limits::COPY_BYTES_MAX;
use weft_wire::units::{to_u64, to_usize};
use weft_wire::{Header, ShardId, Status, TargetId};

use super::{Pending, Shard};
use crate::action::{ConnId, Message};
use crate::memory::request_bytes;
use crate::trace::Marks;

const _: () = assert!(COPY_BYTES_MAX.is_multiple_of(BLOCK_BYTES));

/// A copy under way, at its destination.
#[derive(Debug)]
pub(super) struct CopyOp {
    conn: ConnId,
    header: Header,
    memory_bytes: u64,
    marks: Marks,
    /// Which of the shard's targets.
    index: usize,
    copy: ChunkCopy,
    /// Its source is at another shard.
    across: bool,
    /// Operations of the store that are not over.
    left: usize,
    added: i64,
    error: Option<Status>,
}

/// What is to be read for a copy.
#[derive(Clone, Copy, Debug)]
pub struct CopySource {
    /// The target.
    pub target: TargetId,
    /// The bytes.
    pub range: ChunkRange,
    /// As in [`ChunkCopy::known`].
    pub known: Known,
}

/// What a copy's source holds: of each block its bytes and checksum, or that it was never written.
#[derive(Clone, Default)]
pub struct CopiedBlocks {
    /// Checksums, up to the last block that was written.
    sums: Vec<u32>,
    /// The same blocks in stretches: how many, and whether they were written.
    stretches: Vec<(u32, bool)>,
    /// Those that were, one after the other.
    bytes: Vec<u8>,
}

impl std::fmt::Debug for CopiedBlocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopiedBlocks").field("stretches", &self.stretches).finish_non_exhaustive()
    }
}

impl CopiedBlocks {
    /// Of what a store read, for another thread.
    fn of(sums: Vec<u32>, pieces: &[ReadPiece]) -> CopiedBlocks {
        let mut blocks = CopiedBlocks { sums, ..CopiedBlocks::default() };
        for piece in pieces {
            blocks
                .stretches
                .push((piece.bytes() / BLOCK_BYTES, matches!(piece, ReadPiece::Data { .. })));
            if let ReadPiece::Data { slot, bytes } = piece {
                blocks.bytes.extend_from_slice(&slot.as_slice()[..to_usize(u64::from(*bytes))]);
            }
        }
        blocks
    }

    /// The blocks, or nothing when a checksum is wrong.
    fn view(&self) -> Option<View<'_>> {
        let (mut blocks, mut rest) = (Vec::with_capacity(self.sums.len()), &self.bytes[..]);
        for (count, written) in &self.stretches {
            for _ in 0..*count {
                let (block, behind) =
                    if *written { rest.split_at(BLOCK_LEN) } else { (&[][..], rest) };
                rest = behind;
                blocks.push(Some(block).filter(|block| !block.is_empty()));
            }
        }
        let view = View { sums: &self.sums, blocks };
        let right =
            |(block, sum): (&Option<&[u8]>, &u32)| block.is_none_or(|it| crc32c(it) == *sum);
        view.blocks.iter().zip(view.sums).all(right).then_some(view)
    }
}

/// The source's blocks in their order, up to the last that was written.
struct View<'a> {
    sums: &'a [u32],
    blocks: Vec<Option<&'a [u8]>>,
}

impl<'a> View<'a> {
    fn of(sums: &'a [u32], pieces: &'a [ReadPiece]) -> View<'a> {
        let mut blocks = Vec::with_capacity(sums.len());
        for piece in pieces {
            match piece {
                ReadPiece::Data { slot, bytes } => {
                    let bytes = &slot.as_slice()[..to_usize(u64::from(*bytes))];
                    blocks.extend(bytes.chunks_exact(BLOCK_LEN).map(Some));
                }
                ReadPiece::Zeros { bytes } => {
                    blocks.resize(blocks.len() + to_usize(u64::from(bytes / BLOCK_BYTES)), None);
                }
            }
        }
        View { sums, blocks }
    }

    fn block(&self, at: usize) -> Option<&'a [u8]> {
        self.blocks.get(at).copied().flatten()
    }
}

/// What becomes of a stretch of the destination: blocks that are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Write,
    Zero(ZeroHow),
}

/// Cuts the destination where its source is of another kind: written, or a hole. `skip`: the first byte in the source's first block.
fn stretches(to: ChunkRange, skip: u32, view: &View<'_>) -> Vec<(How, ChunkRange)> {
    let mut all: Vec<(How, ChunkRange)> = Vec::new();
    let mut at = skip;
    for piece in pieces(to.offset, to.bytes) {
        let source = at / BLOCK_BYTES..(at + piece.bytes).div_ceil(BLOCK_BYTES);
        at += piece.bytes;
        let mut blocks = source.map(|block| view.block(to_usize(u64::from(block))));
        let how = match piece.is_full() {
            _ if blocks.any(|block| block.is_some()) => How::Write,
            true => How::Zero(ZeroHow::Punch),
            false => How::Zero(ZeroHow::Erase),
        };
        match all.last_mut() {
            Some((last, range)) if *last == how => range.bytes += piece.bytes,
            _ => {
                let offset = piece.block * BLOCK_BYTES + piece.start;
                all.push((how, ChunkRange { chunk: to.chunk, offset, bytes: piece.bytes }));
            }
        }
    }
    all
}

/// Puts the bytes of a stretch where a write wants them: from their place in their first block on. Gives its checksums.
fn fill(range: ChunkRange, from: usize, view: &View<'_>, slot: &mut BufSlot) -> Vec<u32> {
    let start = to_usize(u64::from(range.offset % BLOCK_BYTES));
    let bytes = to_usize(u64::from(range.bytes));
    let out = &mut slot.as_mut_slice()[start..start + bytes];
    let mut done = 0;
    while done < bytes {
        let at = from + done;
        let within = at % BLOCK_LEN;
        let count = (BLOCK_LEN - within).min(bytes - done);
        let into = &mut out[done..done + count];
        match view.block(at / BLOCK_LEN) {
            Some(block) => into.copy_from_slice(&block[within..within + count]),
            None => into.fill(0),
        }
        done += count;
    }
    let same = from % BLOCK_LEN == start;
    let mut sums = checksums(range.offset, out);
    if same {
        // A block that stays whole has its own checksum.
        for (number, piece) in pieces(range.offset, range.bytes).enumerate() {
            let block = from / BLOCK_LEN + number;
            if piece.is_full() && view.block(block).is_some() {
                sums[number] = view.sums[block];
            }
        }
    }
    sums
}

/// A part of a copy at its destination.
enum Part {
    Write(ChunkRange, Vec<u32>, BufSlot),
    Zero(ChunkRange, ZeroHow),
}

impl Shard {
    /// A client asks for a copy to one of this shard's targets.
    pub(super) fn copy(&mut self, conn: ConnId, header: Header, index: usize, copy: ChunkCopy) {
        let place = self.map.targets.iter().find(|(target, _)| *target == copy.source);
        // This node is the first.
        let Some((_, place)) = place.filter(|(_, place)| place.node == 0) else {
            return self.answer(conn, &header, Status::NotSupported, &[], Vec::new());
        };
        let shard = place.shard;
        let source =
            CopySource { target: copy.source, range: copy.from_range(), known: copy.known };
        let own = request_bytes(copy.to.block_count());
        let memory_bytes = own + self.copy_memory_bytes(shard, &source.range);
        if self.requests_bytes + memory_bytes > self.memory.requests_bytes {
            return self.busy(conn, &header);
        }
        self.requests_bytes += memory_bytes;
        let marks = self.marks_of(Some(self.targets[index].params.id));
        let across = shard != self.id;
        let (left, added, error) = (0, 0, None);
        let op =
            CopyOp { conn, header, memory_bytes, marks, index, copy, across, left, added, error };
        let key = to_u64(self.copies.insert(op));
        if shard == self.id {
            return self.copy_source(self.id, key, source);
        }
        self.send_to_shard(shard, Message::CopyRead { from: self.id, copy: key, source });
    }

    /// What a read for a copy takes here; from another shard the bytes come as well.
    fn copy_memory_bytes(&self, other: ShardId, range: &ChunkRange) -> u64 {
        let across = if other == self.id { 0 } else { range.block_count() * BLOCK_BYTES };
        request_bytes(range.block_count()) + u64::from(across)
    }

    /// Reads for a copy of shard `to`, which may be this one.
    pub(super) fn copy_source(&mut self, to: ShardId, copy: u64, source: CopySource) {
        let memory_bytes = match to == self.id {
            true => 0, // counted by the copy
            false => self.copy_memory_bytes(to, &source.range),
        };
        let known = source.known.has_all(Known { epoch: self.epoch, boot: self.boot });
        let index = self.target_index(source.target);
        let refused = match index {
            _ if !known => Some(CopyRefusal::Unknown),
            None => Some(CopyRefusal::Failed(Status::WrongShard)),
            _ if self.held.contains(&source.range.chunk.ino) => {
                Some(CopyRefusal::Failed(Status::Io))
            }
            _ if self.requests_bytes + memory_bytes > self.memory.requests_bytes => {
                Some(CopyRefusal::Failed(Status::Busy))
            }
            Some(_) => None,
        };
        let (None, Some(index)) = (refused, index) else {
            let refusal = refused.expect("there is no target without a refusal");
            return self.copy_refused(to, copy, refusal);
        };
        self.requests_bytes += memory_bytes;
        let op = to_u64(self.pending.insert(Pending::CopySource { to, copy, memory_bytes }));
        let target = &mut self.targets[index];
        target.read_count += 1;
        let mut actions = Vec::new();
        target.params.store.read(op, source.range, &self.pool, &mut actions);
        self.store_actions(index, actions);
    }

    fn copy_refused(&mut self, to: ShardId, copy: u64, refusal: CopyRefusal) {
        match to == self.id {
            true => self.copy_ends(copy, Err(refusal)),
            false => self.send_to_shard(to, Message::CopyFound { copy, found: Err(refusal) }),
        }
    }

    /// A store has read for a copy of shard `to`.
    pub(super) fn copy_source_read(
        &mut self,
        (to, copy, memory_bytes): (ShardId, u64, u64),
        result: Result<Outcome, Status>,
    ) {
        self.requests_bytes -= memory_bytes;
        match result {
            Ok(Outcome::Read { sums, pieces, .. }) if to == self.id => {
                self.copy_here(copy, sums, pieces);
            }
            Ok(Outcome::Read { sums, pieces, .. }) => {
                let found = Ok(CopiedBlocks::of(sums, &pieces));
                self.send_to_shard(to, Message::CopyFound { copy, found });
            }
            Ok(_) => unreachable!("a read comes to what it read"),
            Err(status) => self.copy_refused(to, copy, CopyRefusal::Failed(status)),
        }
    }

    /// The source was read by this shard: where it lies in one piece, its buffer is what is written.
    fn copy_here(&mut self, copy: u64, sums: Vec<u32>, mut pieces: Vec<ReadPiece>) {
        let Some((to, skip)) = self.copy_may_write(copy) else { return };
        let view = View::of(&sums, &pieces);
        let cut = stretches(to, skip, &view);
        let one = cut.len() == 1 && pieces.len() == 1 && cut[0].0 == How::Write;
        if one
            && skip == to.offset % BLOCK_BYTES
            && sums.len() == to_usize(u64::from(to.block_count()))
        {
            let Some(ReadPiece::Data { slot, .. }) = pieces.pop() else {
                unreachable!("what is written has data")
            };
            let start = to_usize(u64::from(skip));
            let bytes = &slot.as_slice()[start..start + to_usize(u64::from(to.bytes))];
            let whole = pieces_are_whole(&to);
            let sums = if whole { sums } else { checksums(to.offset, bytes) };
            return self.copy_write(copy, vec![Part::Write(to, sums, slot)]);
        }
        let parts = self.copy_parts(to, &cut, skip, &view);
        self.copy_write_or_fail(copy, parts);
    }

    /// What another shard found for a copy of this one.
    pub(super) fn copy_found(&mut self, copy: u64, found: Result<CopiedBlocks, CopyRefusal>) {
        let blocks = match found {
            Ok(blocks) => blocks,
            Err(refusal) => return self.copy_ends(copy, Err(refusal)),
        };
        let Some((to, skip)) = self.copy_may_write(copy) else { return };
        let Some(view) = blocks.view() else {
            return self.copy_ends(copy, Err(CopyRefusal::Failed(Status::Damaged)));
        };
        let cut = stretches(to, skip, &view);
        let parts = self.copy_parts(to, &cut, skip, &view);
        self.copy_write_or_fail(copy, parts);
    }

    /// Where a copy goes, and where in its source's first block it begins; nothing when its connection is gone: then it is
    /// over.
    fn copy_may_write(&mut self, copy: u64) -> Option<(ChunkRange, u32)> {
        let key = to_usize(copy);
        let op = self.copies.get(key).expect("a copy stays until its source was read");
        if !self.conns.contains_key(&op.conn) {
            self.forget_copy(copy);
            return None;
        }
        Some((op.copy.to, op.copy.from_offset % BLOCK_BYTES))
    }

    /// The operations that make the destination like the source; nothing without memory for them.
    fn copy_parts(
        &self,
        to: ChunkRange,
        cut: &[(How, ChunkRange)],
        skip: u32,
        view: &View<'_>,
    ) -> Option<Vec<Part>> {
        let part = |(how, range): &(How, ChunkRange)| {
            let How::Zero(how) = how else {
                let mut slot =
                    self.pool.alloc(to_usize(u64::from(range.block_count())) * BLOCK_LEN)?;
                let from = to_usize(u64::from(skip + range.offset - to.offset));
                let sums = fill(*range, from, view, &mut slot);
                return Some(Part::Write(*range, sums, slot));
            };
            Some(Part::Zero(*range, *how))
        };
        cut.iter().map(part).collect()
    }

    fn copy_write_or_fail(&mut self, copy: u64, parts: Option<Vec<Part>>) {
        match parts {
            Some(parts) => self.copy_write(copy, parts),
            None => self.copy_ends(copy, Err(CopyRefusal::Failed(Status::Busy))),
        }
    }

    fn copy_write(&mut self, copy: u64, parts: Vec<Part>) {
        let op = &mut self.copies[to_usize(copy)];
        op.left = parts.len();
        let index = op.index;
        self.targets[index].write_count += 1;
        for part in parts {
            let op = to_u64(self.pending.insert(Pending::CopyPart { copy }));
            let store = &mut self.targets[index].params.store;
            let mut actions = Vec::new();
            match part {
                Part::Write(range, sums, slot) => {
                    store.write(op, range, sums, slot, &self.pool, &mut actions);
                }
                Part::Zero(range, how) => store.zero(op, range, how, &self.pool, &mut actions),
            }
            self.store_actions(index, actions);
        }
    }

    /// One of its writes is over.
    pub(super) fn copy_part_done(&mut self, copy: u64, result: Result<Outcome, Status>) {
        let op = &mut self.copies[to_usize(copy)];
        op.left -= 1;
        match result {
            Ok(Outcome::Written { added_count }) => op.added += i64::from(added_count),
            Ok(Outcome::Punched { freed_count }) => op.added -= i64::from(freed_count),
            Ok(_) => unreachable!("a write or a punch"),
            // It is asked for again only when nothing worse happened.
            Err(status) if op.error.is_none_or(|error| error == Status::Busy) => {
                op.error = Some(status);
            }
            Err(_) => {}
        }
        if op.left == 0 {
            let result = op.error.map_or(Ok(op.added), |status| Err(CopyRefusal::Failed(status)));
            self.copy_ends(copy, result);
        }
    }

    fn forget_copy(&mut self, copy: u64) -> CopyOp {
        let op = self.copies.remove(to_usize(copy));
        self.requests_bytes -= op.memory_bytes;
        op
    }

    fn copy_ends(&mut self, copy: u64, result: Result<i64, CopyRefusal>) {
        let CopyOp { conn, header, marks, copy, across, .. } = self.forget_copy(copy);
        self.marks = marks;
        let reply = match result {
            Ok(added) => {
                let bytes = u64::from(copy.to.bytes);
                self.metrics.copied_bytes.increment(bytes);
                self.metrics.copied_across_bytes.increment(if across { bytes } else { 0 });
                CopyReply::Copied(added)
            }
            Err(CopyRefusal::Unknown) => CopyReply::Unknown,
            Err(CopyRefusal::Failed(Status::Busy)) => return self.busy(conn, &header),
            Err(CopyRefusal::Failed(status)) => {
                let (target, request) = (copy.source.0, header.request_id);
                tracing::warn!(source = target, request, %status, "copy failed");
                return self.answer(conn, &header, status, &[], Vec::new());
            }
        };
        let mut body = Vec::new();
        reply.encode(&mut body);
        self.answer(conn, &header, Status::Ok, &body, Vec::new());
    }

    /// The marks of a request whose device work has this name.
    pub(super) fn marks_of_pending(&mut self, pending: usize) -> Option<&mut Marks> {
        match self.pending.get_mut(pending)? {
            Pending::Client { marks, .. } => Some(marks),
            Pending::CopyPart { copy } => Some(&mut self.copies.get_mut(to_usize(*copy))?.marks),
            Pending::CopySource { to, copy, .. } if *to == self.id => {
                Some(&mut self.copies.get_mut(to_usize(*copy))?.marks)
            }
            _ => None,
        }
    }
}

/// Why a copy's source was not read, or a copy not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyRefusal {
    /// See [`ChunkCopy::known`].
    Unknown,
    /// So.
    Failed(Status),
}

/// Whether a range consists of whole blocks.
fn pieces_are_whole(range: &ChunkRange) -> bool {
    range.offset.is_multiple_of(BLOCK_BYTES) && range.bytes.is_multiple_of(BLOCK_BYTES)
}

#[cfg(test)]
mod tests;
