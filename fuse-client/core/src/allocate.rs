//! fallocate and lseek: space given out and back, zeros, and where data and holes are.
//!
//! An allocation holds the file like a truncation: it waits for the writes before it, later reads and writes wait for
//! it. What takes data away also waits until the writes before it are durable, and is made durable before it is
//! answered: a write that is kept to be written again after a restart of its target would bring back what was taken.

use std::ops::Range;

use weft_wire::blocks::BLOCK_BYTES;
use weft_wire::data::{BlocksReply, ChunkRange, DataRequest, SeekFrom, SeekReply, ZeroHow};
use weft_wire::limits::FILE_BYTES_MAX;
use weft_wire::meta::{MetaReply, MetaRequest};
use weft_wire::units::{to_u32, to_u64, to_usize};
use weft_wire::{ChunkId, ChunkIndex, Ino, Layout, LeaseBits, LeaseMode, Status};

use crate::core::{ClientCore, at};
use crate::limits::{ROOM_ASKED_BYTES, ZEROS_MAX};
use crate::op::{FsReply, Handle, LinkId, OpId, Whence};
use crate::state::{Answer, Call, OpKind, Purpose, errno};

const BLOCK: u64 = BLOCK_BYTES as u64;
const KEEP_SIZE: u32 = 0x01;
const PUNCH_HOLE: u32 = 0x02;
const ZERO_RANGE: u32 = 0x10;

/// What a fallocate does, and how far it is.
#[derive(Debug)]
pub(crate) struct Allocation {
    handle: Handle,
    ino: Ino,
    /// Writes below it come first.
    barrier: u64,
    /// What was asked for: `mode`, and bytes of the file.
    mode: u32,
    range: Range<u64>,
    /// Stretches of the file, once its length is sure, and those still to be gone through: the next one is the last.
    plan: Option<Vec<Stretch>>,
    todo: Vec<Stretch>,
    /// Blocks the file has more by it.
    added: i64,
    /// Ends the file here at least.
    size_min: u64,
    /// Bytes that may need new space, when that is much: whether there is so much is asked first.
    room_bytes: u64,
    /// Takes data away.
    takes: bool,
    /// Requests that are out.
    in_flight: u32,
    errno: i32,
    /// The targets' sync that ends it, once that is asked for; and up to where the volume is told.
    sync: Option<u64>,
    tell: Option<u64>,
}

impl Allocation {
    pub(crate) fn ino(&self) -> Ino {
        self.ino
    }
}

/// Bytes of the file, and what becomes of them.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    start: u64,
    end: u64,
    how: ZeroHow,
}

/// A search for data or a hole.
#[derive(Debug)]
pub(crate) struct Search {
    handle: Handle,
    offset: u64,
    hole: bool,
    barrier: u64,
    /// The attributes are not older than the search.
    fresh: bool,
    /// Answers that are missing; `None` until the targets are asked.
    left: Option<usize>,
    best: u64,
    errno: i32,
}

/// What to go through for `mode`; `None` for a mode that is not known.
fn plan(mode: u32, start: u64, end: u64, size: u64) -> Option<Vec<Stretch>> {
    let (inner_start, outer_start) = (start.next_multiple_of(BLOCK), start / BLOCK * BLOCK);
    let whole = Stretch { start: outer_start, end: outer(end), how: ZeroHow::Allocate };
    Some(match mode & !KEEP_SIZE {
        0 => vec![whole],
        ZERO_RANGE => vec![Stretch { start, end, how: ZeroHow::Erase }, whole],
        PUNCH_HOLE if mode & KEEP_SIZE != 0 => {
            // Nothing lies behind the end of the file: its last block goes whole.
            let last = outer(size);
            let end = end.min(last);
            let inner_end = if end >= size { last } else { end / BLOCK * BLOCK };
            if inner_start >= inner_end {
                vec![Stretch { start, end: end.max(start), how: ZeroHow::Erase }]
            } else {
                vec![
                    Stretch { start, end: inner_start, how: ZeroHow::Erase },
                    Stretch { start: inner_start, end: inner_end, how: ZeroHow::Punch },
                    Stretch { start: inner_end, end: end.max(inner_end), how: ZeroHow::Erase },
                ]
            }
        }
        _ => return None,
    })
}

/// The end of the block that ends at or behind this byte.
fn outer(end: u64) -> u64 {
    end.div_ceil(BLOCK) * BLOCK
}

impl ClientCore {
    pub(crate) fn begin_allocate(
        &mut self,
        id: OpId,
        handle: Handle,
        (offset, bytes): (u64, u64),
        mode: u32,
    ) -> Result<(), i32> {
        let ino = self.handle(handle, false)?.ino;
        let end = offset.checked_add(bytes).filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or(errno::EFBIG)?;
        self.take_error(handle)?;
        let file = self.files.get(&ino).ok_or(errno::EBADF)?;
        if file.layout.is_none() || bytes == 0 {
            return Err(errno::EINVAL);
        }
        plan(mode, offset, end, file.size()).ok_or(errno::EOPNOTSUPP)?;
        let takes = mode & (PUNCH_HOLE | ZERO_RANGE) != 0;
        let held_bytes = file.overlay(file.attr).blocks.saturating_mul(BLOCK);
        let new_bytes = bytes.saturating_sub(held_bytes);
        let asks_room = mode & PUNCH_HOLE == 0 && new_bytes >= ROOM_ASKED_BYTES;
        self.push_run_out(ino);
        let file = self.files.get_mut(&ino).expect("seen above");
        file.exclusive += 1;
        let allocation = Allocation {
            handle,
            ino,
            barrier: file.writes.next_id(),
            mode,
            range: offset..end,
            plan: None,
            todo: Vec::new(),
            added: 0,
            size_min: if mode & KEEP_SIZE == 0 { end } else { 0 },
            room_bytes: if asks_room { new_bytes } else { 0 },
            takes,
            in_flight: 0,
            errno: 0,
            sync: None,
            tell: None,
        };
        self.set_kind(id, OpKind::Allocate(allocation));
        match asks_room {
            true => {
                let asked = self.ask(id, Ino::ROOT, &MetaRequest::StatFs);
                asked.inspect_err(|_| self.leave_file(id))
            }
            false => {
                self.try_allocate(id);
                Ok(())
            }
        }
    }

    /// How much room there is.
    pub(crate) fn room_told(&mut self, id: OpId, reply: Result<MetaReply, i32>) {
        let Some(OpKind::Allocate(allocation)) = self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            return;
        };
        match reply {
            Ok(MetaReply::StatFs(fs)) if fs.free_bytes >= allocation.room_bytes => {}
            Ok(MetaReply::StatFs(_)) => allocation.errno = errno::ENOSPC,
            Ok(_) => allocation.errno = errno::EIO,
            Err(code) => allocation.errno = code,
        }
        allocation.room_bytes = 0;
        self.try_allocate(id);
    }

    /// Goes as far as it can; waits for the file where it cannot.
    pub(crate) fn try_allocate(&mut self, id: OpId) {
        let Some(OpKind::Allocate(allocation)) = self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            return;
        };
        if allocation.room_bytes > 0 || allocation.in_flight > 0 && allocation.errno != 0 {
            return;
        }
        let (ino, barrier, takes) = (allocation.ino, allocation.barrier, allocation.takes);
        let began = allocation.tell.is_some();
        let may = self.holds(ino, LeaseMode::Write);
        let Some(file) = self.files.get_mut(&ino) else { return };
        // Without a lease, when none is to be had, others hear of it by what the volume is told.
        let asks =
            file.answered.is_none() || file.inline.is_some() && file.answered == Some(Ok(()));
        if !may && !began && asks && file.zeroing == 0 {
            file.waiting.push(id);
            return self.ask_to_write(ino, true);
        }
        // Of an inode that is gone nothing may be made: nobody would remove it.
        let refused = file.answered.and_then(Result::err).filter(|_| !may && !began);
        let kind = self.ops.get_mut(&id).map(|op| &mut op.kind);
        if let (Some(code), Some(OpKind::Allocate(allocation))) = (refused, kind) {
            allocation.errno = code;
        }
        let Some(file) = self.files.get_mut(&ino) else { return };
        let written = file.writes.passed(barrier);
        if !written || takes && !file.unsynced.passed(barrier, 0) {
            if written {
                file.sync_wanted = file.sync_wanted.max(barrier);
            }
            file.waiting.push(id);
            return self.send_syncs(ino);
        }
        // What is done and told may turn out not to count: others went on. There is nothing more to do for it there.
        let at_targets = if began { Ok(true) } else { self.is_at_targets(ino) };
        let kind = self.ops.get_mut(&id).map(|op| &mut op.kind);
        if let (Err(code), Some(OpKind::Allocate(allocation))) = (at_targets, kind) {
            allocation.errno = code;
        }
        let Some(file) = self.files.get_mut(&ino) else { return };
        if at_targets == Ok(false) && refused.is_none() {
            file.waiting.push(id);
            return;
        }
        let layout = file.layout.clone().expect("checked when it began");
        let size = file.size();
        if let Some(OpKind::Allocate(allocation)) = self.ops.get_mut(&id).map(|op| &mut op.kind)
            && allocation.plan.is_none()
        {
            // Only now: without the lease others may just have made the file longer.
            let Range { start, end } = allocation.range;
            let mut todo = plan(allocation.mode, start, end, size).expect("checked when it began");
            todo.reverse();
            (allocation.plan, allocation.todo) = (Some(todo.clone()), todo);
        }
        let kind = self.ops.get(&id).map(|op| &op.kind);
        if matches!(kind, Some(OpKind::Allocate(allocation)) if allocation.errno == 0) {
            self.send_zeros(id, &layout);
        }
        let Some(OpKind::Allocate(allocation)) = self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            return;
        };
        if allocation.in_flight > 0 {
            return;
        }
        if allocation.errno != 0 {
            let code = allocation.errno;
            self.leave_file(id);
            return self.finish(id, Err(code));
        }
        self.end_allocate(id, &layout);
    }

    fn send_zeros(&mut self, id: OpId, layout: &Layout) {
        loop {
            let Some(OpKind::Allocate(allocation)) = self.ops.get_mut(&id).map(|op| &mut op.kind)
            else {
                return;
            };
            let Some(stretch) = allocation.todo.last_mut() else { return };
            if stretch.start >= stretch.end {
                allocation.todo.pop();
                continue;
            }
            if allocation.in_flight >= ZEROS_MAX {
                return;
            }
            let left = stretch.end - stretch.start;
            let first = layout.pieces(stretch.start, left).next().expect("it is not empty");
            stretch.start += u64::from(first.bytes);
            let (ino, how) = (allocation.ino, stretch.how);
            let Some(link) = self.targets.get(&first.target).copied() else {
                allocation.errno = Status::WrongShard.errno();
                return;
            };
            allocation.in_flight += 1;
            let chunk = ChunkId { ino, index: first.index };
            let range = ChunkRange { chunk, offset: first.offset, bytes: first.bytes };
            let request = DataRequest::Zero(range, how);
            let (mut body, kind) = (Vec::new(), request.kind());
            request.encode(first.target, &mut body);
            self.files.get_mut(&ino).expect("it is held").zeroing += 1;
            self.ask_server(link, (kind, body), Purpose::Zero { op: id, ino }, false);
        }
    }

    pub(crate) fn zero_answered(&mut self, id: OpId, ino: Ino, answer: &Answer) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.zeroing -= 1;
            self.touched.insert(ino);
        }
        if answer.status == Status::Ok {
            self.blocks_told(ino, &answer.body);
        }
        let Some(OpKind::Allocate(allocation)) = self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            return;
        };
        allocation.in_flight -= 1;
        if answer.status == Status::Ok {
            allocation.added += BlocksReply::decode(&answer.body).map_or(0, |reply| reply.added);
        }
        if answer.status != Status::Ok {
            allocation.errno = answer.status.errno();
        }
        if let Some(file) = self.files.get_mut(&ino) {
            file.waiting.push(id);
        }
    }

    /// What was asked of these files' targets is not asked again, as if they had answered `status`.
    pub(crate) fn drop_zeros(&mut self, of: impl Fn(Ino) -> bool, status: Status) {
        let asked = |(tag, call): (&u64, &Call)| match call.purpose {
            Purpose::Zero { op, ino } if of(ino) => Some((*tag, call.link, op, ino)),
            _ => None,
        };
        let asked: Vec<(u64, LinkId, OpId, Ino)> = self.calls.iter().filter_map(asked).collect();
        for (tag, link, op, ino) in asked {
            self.links[at(link)].cancel(tag);
            self.calls.remove(&tag);
            let (lease, body) = (LeaseBits::NONE, Vec::new());
            self.zero_answered(op, ino, &Answer { status, lease, body, payload: None });
        }
    }

    /// A target of the file was restarted and may have forgotten what this did: all of it is done again.
    pub(crate) fn allocate_again(&mut self, id: OpId) {
        let Some(OpKind::Allocate(allocation)) = self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            return;
        };
        allocation.todo = allocation.plan.clone().unwrap_or_default();
        (allocation.sync, allocation.tell) = (None, None);
        let (ino, added) = (allocation.ino, std::mem::take(&mut allocation.added));
        if let Some(file) = self.files.get_mut(&ino) {
            file.telling.blocks -= added;
            file.waiting.push(id);
            self.touched.insert(ino);
        }
    }

    /// A target said how many more blocks the file has: the volume is to be told.
    pub(crate) fn blocks_told(&mut self, ino: Ino, body: &[u8]) {
        let added = BlocksReply::decode(body).map_or(0, |reply| reply.added);
        let Some(file) = self.files.get_mut(&ino).filter(|_| added != 0) else { return };
        file.telling.blocks += added;
        file.telling.wanted += 1;
        self.tell_soon(ino);
    }

    /// Everything is done at the targets: made durable where it must be, and told to the volume.
    fn end_allocate(&mut self, id: OpId, layout: &Layout) {
        let wall = self.wall();
        let Some(OpKind::Allocate(allocation)) = self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            return;
        };
        let ino = allocation.ino;
        let file = self.files.get_mut(&ino).expect("it is held");
        if allocation.tell.is_none() {
            if allocation.takes {
                file.unsynced.ask(layout.targets().iter().copied());
                allocation.sync = Some(file.unsynced.last_ask());
            }
            file.local_mtime = file.local_mtime.max(Some(wall));
            file.local_end = file.local_end.max(allocation.size_min);
            file.telling.acked_end = file.telling.acked_end.max(allocation.size_min);
            file.telling.wanted += 1;
            file.telling.urgent = file.telling.wanted;
            allocation.tell = Some(file.telling.wanted);
        }
        let synced = allocation.sync.is_none_or(|ask| file.unsynced.passed(0, ask));
        if synced && file.telling.done >= allocation.tell.unwrap_or(0) {
            let handle = allocation.handle;
            self.leave_file(id);
            let result = self.take_error(handle).map(|()| FsReply::Done);
            return self.finish(id, result);
        }
        file.waiting.push(id);
        self.send_syncs(ino);
        self.send_wrote(ino);
    }

    pub(crate) fn begin_seek(
        &mut self,
        id: OpId,
        handle: Handle,
        offset: u64,
        whence: Whence,
    ) -> Result<(), i32> {
        let ino = self.handle(handle, false)?.ino;
        let file = self.files.get(&ino).ok_or(errno::EBADF)?;
        let hole = match whence {
            Whence::Set | Whence::End => {
                let base = if whence == Whence::End { file.size() } else { 0 };
                let at = base.checked_add(offset).ok_or(errno::EINVAL)?;
                self.finish(id, Ok(FsReply::Offset(at)));
                return Ok(());
            }
            Whence::Data => false,
            Whence::Hole => true,
        };
        if file.layout.is_none() {
            return Err(errno::EINVAL);
        }
        self.push_run_out(ino);
        let barrier = self.files[&ino].writes.next_id();
        let fresh = self.holds(ino, LeaseMode::Read);
        let (left, best, errno) = (None, u64::MAX, 0);
        let search = Search { handle, offset, hole, barrier, fresh, left, best, errno };
        self.set_kind(id, OpKind::Seek(search));
        self.try_seek(id);
        Ok(())
    }

    /// Asks the targets when the writes before are there and the file's length is known.
    pub(crate) fn try_seek(&mut self, id: OpId) {
        let Some(OpKind::Seek(search)) = self.ops.get_mut(&id).map(|op| &mut op.kind) else {
            return;
        };
        let Some(ino) = self.handles.get(&search.handle).map(|state| state.ino) else {
            return self.finish(id, Err(errno::EBADF));
        };
        let file = self.files.get_mut(&ino).expect("a handle keeps its file");
        if search.left.is_some() {
            return;
        }
        if file.is_held() || !file.writes.passed(search.barrier) {
            file.waiting.push(id);
            return;
        }
        let in_inode = file.inline.is_some();
        if !search.fresh || in_inode && !file.knows_data() {
            let request = self.ask_attributes(ino);
            if self.ask(id, ino, &request).is_err() {
                self.finish(id, Err(errno::EIO));
            }
            return;
        }
        let (size, layout) = (file.size(), file.layout.clone().expect("checked at the start"));
        let (offset, hole) = (search.offset, search.hole);
        if offset >= size {
            return self.finish(id, Err(errno::ENXIO));
        }
        if let Some(inline) = &file.inline {
            let found = inline.seek(offset, size, hole).ok_or(errno::ENXIO);
            return self.finish(id, found.map(FsReply::Offset));
        }
        let (first, last) = (layout.chunk_at(offset).0, layout.chunk_at(size - 1).0);
        let count = (last - first + 1).min(to_u64(layout.targets().len()));
        search.left = Some(to_usize(count));
        for index in first..first + count {
            let within = offset % u64::from(layout.chunk_bytes()) / BLOCK;
            let block = if index == first { within } else { 0 };
            let block = u32::try_from(block).expect("of one chunk");
            self.send_seek(id, ino, &layout, (ChunkIndex(index), block), hole);
        }
    }

    /// The attributes a search waited for.
    pub(crate) fn seek_refreshed(
        &mut self,
        id: OpId,
        reply: Result<MetaReply, i32>,
        lease: LeaseBits,
    ) {
        if let Err(code) = reply.and_then(|reply| self.learn_answer(reply, lease)) {
            return self.finish(id, Err(code));
        }
        if let Some(OpKind::Seek(search)) = self.ops.get_mut(&id).map(|op| &mut op.kind) {
            search.fresh = true;
        }
        self.try_seek(id);
    }

    fn send_seek(
        &mut self,
        id: OpId,
        ino: Ino,
        layout: &Layout,
        (index, block): (ChunkIndex, u32),
        hole: bool,
    ) {
        let target = layout.target(index);
        let Some(link) = self.targets.get(&target).copied() else {
            return self.seek_ended(id, Err(Status::WrongShard.errno()));
        };
        let chunk_blocks = layout.chunk_bytes() / BLOCK_BYTES;
        let stride = to_u32(layout.targets().len());
        let from = SeekFrom { ino, index, block, chunk_blocks, stride, hole };
        let request = DataRequest::Seek(from);
        let (mut body, kind) = (Vec::new(), request.kind());
        request.encode(target, &mut body);
        self.ask_server(link, (kind, body), Purpose::Seek { op: id }, false);
    }

    pub(crate) fn seek_answered(&mut self, id: OpId, answer: &Answer) {
        let Some(OpKind::Seek(search)) = self.ops.get(&id).map(|op| &op.kind) else { return };
        let (hole, best) = (search.hole, search.best);
        let ino = self.handles.get(&search.handle).map(|state| state.ino);
        let Some((ino, file)) = ino.and_then(|ino| Some((ino, self.files.get(&ino)?))) else {
            return self.finish(id, Err(errno::EBADF));
        };
        let (size, layout) = (file.size(), file.layout.clone().expect("checked at the start"));
        let start = |index: ChunkIndex| index.0.checked_mul(u64::from(layout.chunk_bytes()));
        match (answer.status, SeekReply::decode(&answer.body)) {
            (Status::Ok, Ok(SeekReply::Found(index, block))) => {
                let at = start(index).and_then(|at| at.checked_add(u64::from(block) * BLOCK));
                self.seek_ended(id, Ok(at.unwrap_or(u64::MAX)));
            }
            (Status::Ok, Ok(SeekReply::Further(index)))
                if start(index).is_some_and(|at| at < size.min(best)) =>
            {
                self.send_seek(id, ino, &layout, (index, 0), hole);
            }
            (Status::Ok, Ok(SeekReply::Further(_) | SeekReply::End)) => {
                self.seek_ended(id, Ok(u64::MAX));
            }
            (Status::Ok, Err(_)) => self.seek_ended(id, Err(errno::EIO)),
            (status, _) => self.seek_ended(id, Err(status.errno())),
        }
    }

    /// One target has said where it found something; `u64::MAX`: nowhere.
    fn seek_ended(&mut self, id: OpId, found: Result<u64, i32>) {
        let Some(OpKind::Seek(search)) = self.ops.get_mut(&id).map(|op| &mut op.kind) else {
            return;
        };
        match found {
            Ok(at) => search.best = search.best.min(at.max(search.offset)),
            Err(code) => search.errno = code,
        }
        let left = search.left.as_mut().expect("the targets were asked");
        *left -= 1;
        if *left > 0 {
            return;
        }
        let (best, hole, code, handle) = (search.best, search.hole, search.errno, search.handle);
        let ino = self.handles.get(&handle).map(|state| state.ino);
        let size = ino.and_then(|ino| self.files.get(&ino)).map_or(0, crate::file::File::size);
        let result = match code {
            0 if hole => Ok(FsReply::Offset(best.min(size))),
            0 if best < size => Ok(FsReply::Offset(best)),
            0 => Err(errno::ENXIO),
            code => Err(code),
        };
        self.finish(id, result);
    }
}
