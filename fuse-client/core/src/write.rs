//! Writes: taken, gathered, cut by the layout, sent, acknowledged.

use std::ops::Range;

use weft_iobuf::BufSlot;
use weft_net::link::Request;
use weft_wire::blocks::{BLOCK_LEN, checksums};
use weft_wire::data::{ChunkRange, DataRequest};
use weft_wire::limits::FILE_BYTES_MAX;
use weft_wire::units::{to_u32, to_u64, to_usize};
use weft_wire::{ChunkId, Ino, Kind, LeaseBits, LeaseMode, Status};

use crate::core::ClientCore;
use crate::file::{Pages, Run};
use crate::inline::Way;
use crate::keep::records::write_state;
use crate::limits::{RUN_BYTES_MAX, RUN_BYTES_MIN, RUN_WAIT, WRITE_BYTES_MAX, ZERO_COPY_BYTES_MIN};
use crate::op::{Caller, FsReply, Handle, OpId, Strips};
use crate::state::{Call, Op, OpKind, Purpose, errno};
use crate::writes::{Payload, Unsynced, Write};

/// How a write is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteHow {
    /// Answered when the targets have it.
    pub(crate) direct: bool,
    /// At the end of the file, wherever that is.
    pub(crate) append: bool,
    /// What it takes away first.
    pub(crate) strips: Strips,
}

impl ClientCore {
    pub(crate) fn begin_write(
        &mut self,
        id: OpId,
        handle: Handle,
        offset: u64,
        data: (BufSlot, Range<usize>),
        WriteHow { direct, append, strips }: WriteHow,
    ) -> Result<(), i32> {
        let state = self.handle(handle, false)?;
        let (slot, range) = &data;
        if range.start > range.end || range.end > slot.capacity_bytes() {
            return Err(errno::EINVAL);
        }
        let bytes = range.len();
        let end = offset.checked_add(to_u64(bytes)).filter(|end| *end <= FILE_BYTES_MAX);
        if end.is_none() || bytes > WRITE_BYTES_MAX {
            return Err(errno::EFBIG);
        }
        let file = self.files.get(&state.ino).ok_or(errno::EBADF)?;
        if file.layout.is_none() {
            return Err(errno::EINVAL);
        }
        self.take_error(handle)?;
        if bytes == 0 {
            self.finish(id, Ok(FsReply::Written(0)));
            return Ok(());
        }
        let data = Some(data);
        let kind = OpKind::WriteWaiting { handle, offset, data, direct, append, strips };
        self.set_kind(id, kind);
        if !direct && self.room_waiters.iter().any(|waiter| self.writes_to(*waiter, state.ino)) {
            self.room_waiters.push_back(id);
        } else {
            self.try_write(id);
        }
        Ok(())
    }

    fn writes_to(&self, id: OpId, ino: Ino) -> bool {
        let Some(OpKind::WriteWaiting { handle, .. }) = self.ops.get(&id).map(|op| &op.kind) else {
            return false;
        };
        self.handles.get(handle).is_some_and(|state| state.ino == ino)
    }

    /// Takes a write if it may be taken now; else it waits, for the file or for room.
    fn try_write(&mut self, id: OpId) {
        let Some(Op { caller, kind, .. }) = self.ops.get(&id) else { return };
        let OpKind::WriteWaiting { handle, offset, direct, append, strips, .. } = kind else {
            return;
        };
        let (caller, handle, mut offset) = (*caller, *handle, *offset);
        let (direct, append, strips) = (*direct, *append, *strips);
        let Some(ino) = self.handles.get(&handle).map(|state| state.ino) else {
            return self.finish(id, Err(errno::EBADF));
        };
        let Some(mode) = self.mode_to_write(id, ino, caller, append) else { return };
        let through = mode != LeaseMode::Write;
        if self.strips_first(id, ino, strips, mode) {
            return;
        }
        let file = self.files.get_mut(&ino).expect("a handle keeps its file");
        file.owned |= !through;
        let Some(OpKind::WriteWaiting { data, .. }) = self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            return;
        };
        let file = self.files.get_mut(&ino).expect("as above");
        if append {
            let end = file.size();
            if end != offset {
                // The kernel thinks it went elsewhere.
                (offset, file.pages) = (end, Pages::Unknown);
            }
        }
        let bytes = data.as_ref().map_or(0, |(_, range)| range.len());
        let fits = |used: usize, max: usize| used == 0 || used + bytes <= max;
        let fits = fits(self.dirty_bytes, self.config.dirty_bytes_max)
            && fits(file.dirty_bytes, self.config.dirty_file_bytes_max);
        let (direct, set_ids) = (direct || through, strips.set_ids);
        if !direct && !fits {
            self.room_waiters.push_back(id);
            return;
        }
        let (slot, range) = data.take().expect("taken once, here");
        file.writer = caller;
        file.gives_pages();
        file.local_end = file.local_end.max(offset + to_u64(bytes));
        let wall = self.wall();
        let file = self.files.get_mut(&ino).expect("as above");
        file.local_mtime = file.local_mtime.max(Some(wall));
        file.behind.written();
        self.touched.insert(ino);
        self.move_out_if_too_long(ino);
        if direct {
            let bytes = to_u32(bytes);
            self.set_kind(id, OpKind::WriteDirect { bytes, left: 0, errno: 0, through, set_ids });
            self.push_run_out(ino);
            self.add_writes(ino, offset, self.keepable(slot, range), Some(id));
            return;
        }
        self.write_behind(ino, offset, slot, range);
        self.finish(id, Ok(FsReply::Written(to_u32(bytes))));
    }

    /// Takes bytes that are sent when it suits.
    fn write_behind(&mut self, ino: Ino, offset: u64, slot: BufSlot, range: Range<usize>) {
        let bytes = range.len();
        self.files.get_mut(&ino).expect("being written").dirty_bytes += bytes;
        self.dirty_bytes += bytes;
        if bytes >= ZERO_COPY_BYTES_MIN {
            self.push_run_out(ino);
            self.add_writes(ino, offset, self.keepable(slot, range), None);
        } else {
            self.gather(ino, offset, slot, range);
        }
    }

    /// The lease that a write goes on with, where it may now; else the write waits, or is answered.
    fn mode_to_write(
        &mut self,
        id: OpId,
        ino: Ino,
        caller: Caller,
        append: bool,
    ) -> Option<LeaseMode> {
        let (mode, leases) = (self.writing_mode(ino), self.server_leases(ino.volume()));
        let file = self.files.get_mut(&ino).expect("a handle keeps its file");
        if file.is_held() {
            file.waiting.push(id);
            return None;
        }
        // Data in the inode is written by one alone.
        let alone = append || file.inline.is_some();
        let enough = mode == LeaseMode::Write || (mode == LeaseMode::Through && !alone);
        match file.answered {
            _ if enough => return Some(mode),
            // A server that grants nothing is older than leases: its files' ends are what we know.
            Some(Ok(())) if !alone || !leases => return Some(mode),
            Some(Err(code)) => self.finish(id, Err(code)),
            _ => {
                file.waiting.push(id);
                file.writer = caller;
                self.ask_to_write(ino, alone);
            }
        }
        None
    }

    /// What may be done with the file by writing it.
    fn writing_mode(&self, ino: Ino) -> LeaseMode {
        let modes = [LeaseMode::Write, LeaseMode::Through];
        let held = modes.into_iter().find(|mode| self.holds(ino, *mode));
        held.unwrap_or(LeaseMode::None)
    }

    /// Room was made: those that wait for it try again, in order; a file that has none lets others pass.
    pub(crate) fn retry_room(&mut self) {
        for id in std::mem::take(&mut self.room_waiters) {
            self.try_write(id);
        }
    }

    /// A write that waited for its file may go on.
    pub(crate) fn resume_write(&mut self, id: OpId) {
        self.try_write(id);
    }

    /// A share of the bytes that does not hold on to a far larger slot.
    fn keepable(&self, slot: BufSlot, range: Range<usize>) -> Payload {
        let scarce = self.pool.free_bytes() < self.pool.capacity_bytes() / 2;
        if (scarce || range.len() < ZERO_COPY_BYTES_MIN)
            && slot.capacity_bytes() > 2 * range.len().next_power_of_two()
            && let Some(mut copy) = self.pool.alloc(range.len())
        {
            let bytes = range.len();
            copy.as_mut_slice()[..bytes].copy_from_slice(&slot.as_slice()[range]);
            return (copy.share(), 0..bytes);
        }
        (slot.share(), range)
    }

    /// Copies a small write to the run it continues or changes, or begins a new one.
    fn gather(&mut self, ino: Ino, offset: u64, slot: BufSlot, range: Range<usize>) {
        let (mut at, mut rest) = (offset, range);
        while !rest.is_empty() {
            let taken = match self.join_run(ino, at, &slot.as_slice()[rest.clone()]) {
                0 => {
                    self.push_run_out(ino);
                    if !self.begin_run(ino, at, rest.len()) {
                        // No memory for a run: the bytes go as they are.
                        return self.add_writes(ino, at, (slot.share(), rest), None);
                    }
                    0
                }
                taken => taken,
            };
            at += to_u64(taken);
            rest.start += taken;
        }
    }

    /// Copies as much as the run has place for; 0 when the bytes do not belong to it.
    fn join_run(&mut self, ino: Ino, at: u64, bytes: &[u8]) -> usize {
        let file = self.files.get_mut(&ino).expect("being written");
        let Some(run) = &mut file.run else { return 0 };
        if at < run.offset || at > run.end() {
            return 0;
        }
        let start = to_usize(at - run.offset);
        let taken = bytes.len().min(run.bytes_max - start);
        run.slot.as_mut_slice()[start..start + taken].copy_from_slice(&bytes[..taken]);
        let before = run.bytes;
        run.bytes = run.bytes.max(start + taken);
        // Bytes written over what is in the run already are dirty once.
        let over = taken - (run.bytes - before);
        file.dirty_bytes -= over;
        self.dirty_bytes -= over;
        let full = run.bytes == run.bytes_max;
        self.keep_run(ino);
        if full {
            self.push_run_out(ino);
        }
        taken
    }

    fn begin_run(&mut self, ino: Ino, at: u64, bytes: usize) -> bool {
        let now = self.now;
        let file = self.files.get_mut(&ino).expect("being written");
        let layout = file.layout.as_ref().expect("checked when the write began");
        let chunk_bytes = u64::from(layout.chunk_bytes());
        let chunk_rest = to_usize(chunk_bytes - at % chunk_bytes);
        let block_rest = to_usize(at.next_multiple_of(to_u64(BLOCK_LEN)) - at);
        let wanted = (4 * bytes).max(2 * file.last_run_bytes).max(block_rest + RUN_BYTES_MIN);
        let wanted = wanted.min(RUN_BYTES_MAX).min(chunk_rest);
        let Some(slot) = self.pool.alloc(wanted) else { return false };
        let bytes_max = slot.capacity_bytes().min(chunk_rest).min(RUN_BYTES_MAX);
        // A block of a write stays whole: of two parts of it a power cut may leave one.
        let beyond = bytes_max.saturating_sub(block_rest) % BLOCK_LEN;
        let bytes_max = bytes_max - beyond;
        let due = now + RUN_WAIT;
        let place = (slot.offset_bytes(), slot.capacity_bytes());
        file.run = Some(Run { offset: at, bytes: 0, bytes_max, slot, due, kept: None, order: 0 });
        self.file_timers.insert((due, ino));
        let order = self.next_order;
        let kept = self.keep_bytes(write_state::NEW, (ino, at, 0), place, 0, place.1);
        if let Some(run) = self.files.get_mut(&ino).and_then(|file| file.run.as_mut()) {
            (run.kept, run.order) = (kept, order);
        }
        true
    }

    /// The run, if there is one, becomes a write.
    pub(crate) fn push_run_out(&mut self, ino: Ino) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        let Some(run) = file.run.take() else { return };
        file.last_run_bytes = run.bytes;
        self.file_timers.remove(&(run.due, ino));
        self.add_writes(ino, run.offset, (run.slot.share(), 0..run.bytes), None);
        self.touched.insert(ino);
    }

    /// Cuts bytes of the file by its layout; the pieces are sent when nothing is in their way.
    fn add_writes(&mut self, ino: Ino, offset: u64, payload: Payload, op: Option<OpId>) {
        let file = self.files.get_mut(&ino).expect("being written");
        let layout = file.layout.clone().expect("checked when the write began");
        let (slot, range) = payload;
        let mut count = 0;
        for piece in layout.pieces(offset, to_u64(range.len())) {
            let start = range.start + to_usize(piece.at);
            let bytes = to_usize(u64::from(piece.bytes));
            let slot_bytes = slot.slot().capacity_bytes();
            let memory_bytes = slot_bytes.div_ceil(range.len().div_ceil(bytes));
            // A direct write is not answered before its targets have it: until then it is asked again.
            let (order, range) = (self.next_order, (ino, offset + piece.at, bytes));
            let kept = match op {
                None => self.keep_write(write_state::NEW, range, (&slot, start), memory_bytes),
                Some(_) => None,
            };
            let file = self.files.get_mut(&ino).expect("being written");
            file.writes.add(Write {
                target: piece.target,
                index: piece.index,
                offset: piece.offset,
                bytes: piece.bytes,
                file_end: offset + piece.at + u64::from(piece.bytes),
                payload: (slot.clone(), start..start + bytes),
                tag: None,
                op,
                memory_bytes,
                dirty: op.is_none(),
                again: false,
                kept,
                order,
            });
            count += 1;
        }
        if let Some(Op { kind: OpKind::WriteDirect { left, .. }, .. }) =
            op.and_then(|op| self.ops.get_mut(&op))
        {
            *left = count;
        }
    }

    /// Sends the writes of a file that may be sent.
    pub(crate) fn send_writes(&mut self, ino: Ino) {
        loop {
            let tag = self.next_tag();
            let file = self.files.get_mut(&ino).filter(|file| !file.asked_whether_there);
            let Some(file) = file else { return };
            if file.inline.is_some() {
                let Some((id, end)) = file.writes.next_ready() else { return };
                match self.way_of_write(ino, end) {
                    Way::Wait => return,
                    Way::Targets => {}
                    Way::Inode => self.send_inline(ino, id),
                    Way::Failed(status) => self.write_answered(ino, id, status, &[]),
                }
                continue;
            }
            let Some((id, write)) = file.writes.take_ready() else { return };
            let chunk = ChunkId { ino, index: write.index };
            let range = ChunkRange { chunk, offset: write.offset, bytes: write.bytes };
            let Some(link) = self.targets.get(&write.target).copied() else {
                self.write_answered(ino, id, Status::WrongShard, &[]);
                continue;
            };
            write.tag = Some(tag);
            let (slot, bytes) = write.payload.clone();
            let sums = checksums(write.offset, &slot[bytes.clone()]);
            let mut body = Vec::with_capacity(32 + 4 * sums.len());
            DataRequest::Write(range, sums).encode(write.target, &mut body);
            let kind = Kind::Write;
            let call = Call {
                link,
                kind,
                volume: None,
                purpose: Purpose::Write { ino, id, op: write.op },
                changes: None,
            };
            let payload = Some((slot, bytes));
            self.call(
                call,
                Request { tag, kind, body, payload, deadline: None, lease: LeaseBits::NONE },
                false,
            );
        }
    }

    pub(crate) fn write_answered(&mut self, ino: Ino, id: u64, status: Status, body: &[u8]) {
        let Some(mut write) = self.take_answered(ino, id) else { return };
        let file = self.files.get_mut(&ino).expect("it had the write");
        let op = write.op.take();
        let again = write.again;
        if status == Status::Ok {
            self.keep_acknowledged(ino, &mut write);
            let file = self.files.get_mut(&ino).expect("its write was there");
            if !again {
                file.telling.wanted += 1;
                file.telling.acked_end = file.telling.acked_end.max(write.file_end);
            }
            self.unsynced_bytes += Unsynced::bytes_of(&write);
            file.unsynced.add(id, write);
            self.tell_soon(ino);
            if self.cache.mode(ino) < LeaseMode::Read {
                // Others write it, too: it must not be written again over theirs.
                self.let_go_of(ino);
            }
            self.bound_unsynced(ino);
            // What is written again was counted the first time.
            if !again {
                self.blocks_told(ino, body);
            }
        } else if op.is_none() {
            tracing::warn!(%ino, target = %write.target, %status, "a write failed");
            file.fail(status.errno());
        }
        if status != Status::Ok
            && let Some(file) = self.files.get_mut(&ino)
        {
            file.drop_overlays();
        }
        if let Some(op) = op {
            self.direct_answered(op, ino, status);
        }
    }

    /// A write that is not on its way any more.
    pub(crate) fn take_answered(&mut self, ino: Ino, id: u64) -> Option<Write> {
        let file = self.files.get_mut(&ino)?;
        let write = file.writes.remove(id)?;
        self.touched.insert(ino);
        if write.dirty {
            let bytes = to_usize(u64::from(write.bytes));
            file.dirty_bytes -= bytes;
            self.dirty_bytes -= bytes;
            self.room_made = true;
        }
        Some(write)
    }

    /// From here on its memory is kept for a target that is restarted.
    fn keep_acknowledged(&mut self, ino: Ino, write: &mut Write) {
        if write.kept.is_some() {
            return self.set_write_state(write.kept.as_ref(), write_state::ACKNOWLEDGED);
        }
        let (slot, range) = write.payload.clone();
        let place = (ino, write.file_end - u64::from(write.bytes), range.len());
        write.order = self.next_order;
        let (state, memory) = (write_state::ACKNOWLEDGED, write.memory_bytes);
        write.kept = self.keep_write(state, place, (&slot, range.start), memory);
    }

    /// Keeps the memory of writes that are not durable within its bound.
    fn bound_unsynced(&mut self, ino: Ino) {
        let max = self.config.unsynced_bytes_max;
        let file = self.files.get_mut(&ino).expect("just written");
        if self.unsynced_bytes > max {
            file.sync_wanted = file.sync_wanted.max(file.writes.next_id());
            self.sync_lingering_soon();
        }
        let scarce = self.pool.free_bytes() < self.pool.capacity_bytes() / 4;
        while self.unsynced_bytes > 2 * max || (scarce && self.unsynced_bytes > max / 8) {
            self.sync_lingering_soon();
            let file = self.files.get_mut(&ino).expect("just written");
            let own = file.unsynced.let_oldest_go();
            let Some(bytes) = own.or_else(|| self.let_lingering_go()) else { return };
            self.unsynced_bytes -= bytes;
        }
    }

    /// Something waits for a slot of so many bytes: a reply, behind which may lie those that would make room, or requests of
    /// the kernel. What is kept only to be written again is let go for it, as far as that helps.
    pub fn make_room(&mut self, bytes: usize) {
        while !self.pool.has_room() || self.pool.free_class_bytes_max() < bytes {
            let Some(freed) = self.let_any_go() else { return };
            self.unsynced_bytes -= freed;
        }
    }

    fn let_any_go(&mut self) -> Option<usize> {
        if let Some(bytes) = self.let_lingering_go() {
            return Some(bytes);
        }
        let mut files = self.files.iter_mut();
        let (ino, file) = files.find(|(_, file)| file.unsynced.is_keeping())?;
        self.unsaved.insert(*ino);
        file.unsynced.let_oldest_go()
    }

    pub(crate) fn direct_answered(&mut self, id: OpId, ino: Ino, status: Status) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let OpKind::WriteDirect { bytes, left, errno, through, set_ids } = &mut op.kind else {
            return;
        };
        *left -= 1;
        if status != Status::Ok {
            *errno = status.errno();
        }
        if *left > 0 {
            return;
        }
        let (bytes, code, through, set_ids) = (*bytes, *errno, *through, *set_ids);
        match (code, self.files.get(&ino)) {
            (0, Some(file)) if through => {
                let tell = file.telling.wanted;
                self.set_kind(id, OpKind::WriteTold { ino, bytes, tell, set_ids });
                self.try_told(id);
            }
            (0, _) => self.finish(id, Ok(FsReply::Written(bytes))),
            (code, _) => self.finish(id, Err(code)),
        }
    }

    /// Others write the file, too: a write is over when the volume knows of it.
    pub(crate) fn try_told(&mut self, id: OpId) {
        let Some(OpKind::WriteTold { ino, bytes, tell, .. }) = self.ops.get(&id).map(|op| &op.kind)
        else {
            return;
        };
        let (ino, bytes, tell) = (*ino, *bytes, *tell);
        if let Some(file) = self.files.get_mut(&ino).filter(|file| file.telling.done < tell) {
            file.telling.urgent = file.telling.urgent.max(tell);
            file.waiting.push(id);
            self.send_wrote(ino);
            return self.hurry(ino);
        }
        if !self.strips_after(id, ino) {
            self.finish(id, Ok(FsReply::Written(bytes)));
        }
    }
}
