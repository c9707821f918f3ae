//! fallocate: space given out and back, and zeros; and the destination of a copy.
//!
//! An allocation holds the file like a truncation: it waits for the writes before it, later reads and writes wait for
//! it. What takes data away also waits until the writes before it are durable, and is made durable before it is
//! answered: a write that is kept to be written again after a restart of its target would bring back what was taken.

use std::ops::Range;
use std::time::Duration;

use weft_wire::blocks::BLOCK_BYTES;
use weft_wire::data::{BlocksReply, ChunkRange, CopyReply, DataRequest, ZeroHow};
use weft_wire::limits::FILE_BYTES_MAX;
use weft_wire::meta::{MetaReply, MetaRequest};
use weft_wire::{ChunkId, Ino, Layout, LeaseBits, LeaseMode, Status};

use crate::copy::Source;
use crate::core::{ClientCore, at};
use crate::leases::Forgetting;
use crate::limits::{COPIES_MAX, ROOM_ASKED_BYTES, ZEROS_MAX};
use crate::op::{FsReply, Handle, LinkId, OpId};
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
    /// It is a copy.
    copying: Option<Box<Copying>>,
    /// The targets' sync that ends it, once that is asked for; and up to where the volume is told.
    sync: Option<u64>,
    tell: Option<u64>,
}

/// Where a copy takes its bytes from.
#[derive(Debug)]
pub(crate) struct Copying {
    pub(crate) source: Source,
    /// Of the source, what goes to the first byte of the destination's range.
    pub(crate) from: u64,
    pub(crate) layout: Layout,
    /// Setuid and setgid go from the destination, first.
    pub(crate) set_ids: bool,
    /// They are on their way.
    pub(crate) stripping: bool,
    /// The source's server is not the one that was known: all is copied again, not before this time.
    pub(crate) again: Option<Duration>,
}

impl Allocation {
    pub(crate) fn ino(&self) -> Ino {
        self.ino
    }

    pub(crate) fn copying_mut(&mut self) -> Option<&mut Copying> {
        self.copying.as_deref_mut()
    }

    pub(crate) fn is_copy(&self) -> bool {
        self.copying.is_some()
    }

    pub(crate) fn fail(&mut self, code: i32) {
        self.errno = code;
    }

    /// A piece of the copy is answered. Gives the file when it is to be begun again, at `pause_ends`.
    pub(crate) fn copy_ended(
        &mut self,
        reply: Result<CopyReply, i32>,
        pause_ends: Duration,
    ) -> Option<Ino> {
        self.in_flight -= 1;
        match (reply, &mut self.copying) {
            (Ok(CopyReply::Copied(added)), _) => self.added += added,
            (Ok(CopyReply::Unknown), Some(copying)) => {
                copying.again = Some(pause_ends);
                return Some(self.ino);
            }
            (Ok(CopyReply::Unknown), None) => unreachable!("only a copy asks for one"),
            (Err(code), _) => self.errno = code,
        }
        None
    }
}

/// Bytes of the file, and what becomes of them.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    start: u64,
    end: u64,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Zero(ZeroHow),
    Copy,
}

/// What to go through for `mode`; `None` for a mode that is not known.
fn plan(mode: u32, start: u64, end: u64, size: u64) -> Option<Vec<Stretch>> {
    let (inner_start, outer_start) = (start.next_multiple_of(BLOCK), start / BLOCK * BLOCK);
    let (allocate, erase) = (How::Zero(ZeroHow::Allocate), How::Zero(ZeroHow::Erase));
    let whole = Stretch { start: outer_start, end: outer(end), how: allocate };
    Some(match mode & !KEEP_SIZE {
        0 => vec![whole],
        ZERO_RANGE => vec![Stretch { start, end, how: erase }, whole],
        PUNCH_HOLE if mode & KEEP_SIZE != 0 => {
            // Nothing lies behind the end of the file: its last block goes whole.
            let last = outer(size);
            let end = end.min(last);
            let inner_end = if end >= size { last } else { end / BLOCK * BLOCK };
            if inner_start >= inner_end {
                vec![Stretch { start, end: end.max(start), how: erase }]
            } else {
                vec![
                    Stretch { start, end: inner_start, how: erase },
                    Stretch { start: inner_start, end: inner_end, how: How::Zero(ZeroHow::Punch) },
                    Stretch { start: inner_end, end: end.max(inner_end), how: erase },
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
            copying: None,
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

    /// The destination of a copy, whose source is known: `range` of it is to be as that.
    pub(crate) fn begin_copying(
        &mut self,
        id: OpId,
        handle: Handle,
        range: Range<u64>,
        copying: Copying,
    ) -> Result<(), i32> {
        let ino = self.handle(handle, false)?.ino;
        self.take_error(handle)?;
        self.push_run_out(ino);
        let file = self.files.get_mut(&ino).ok_or(errno::EBADF)?;
        file.exclusive += 1;
        let stretch = Stretch { start: range.start, end: range.end, how: How::Copy };
        let allocation = Allocation {
            handle,
            ino,
            barrier: file.writes.next_id(),
            mode: 0,
            size_min: range.end,
            range,
            plan: Some(vec![stretch]),
            todo: vec![stretch],
            added: 0,
            room_bytes: 0,
            takes: true,
            in_flight: 0,
            errno: 0,
            copying: Some(Box::new(copying)),
            sync: None,
            tell: None,
        };
        self.set_kind(id, OpKind::Allocate(allocation));
        self.try_allocate(id);
        Ok(())
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
        if self.copy_waits(id, ino) {
            return;
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
            return self.allocate_failed(id);
        }
        self.end_allocate(id, &layout);
    }

    /// Whether a copy has to wait before it may ask for more: until all of it is begun again, until setuid is gone from its
    /// destination, or until its source is known.
    fn copy_waits(&mut self, id: OpId, ino: Ino) -> bool {
        let now = self.now;
        let Some(OpKind::Allocate(allocation)) = self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            return false;
        };
        let (in_flight, failed) = (allocation.in_flight, allocation.errno != 0);
        let ends = allocation.tell.is_some();
        let Some(copying) = allocation.copying_mut() else { return false };
        if failed || ends {
            return false;
        }
        if let Some(pause_ends) = copying.again {
            if in_flight > 0 || now < pause_ends {
                self.files.get_mut(&ino).expect("it is held").waiting.push(id);
                return true;
            }
            copying.again = None;
            self.allocate_again(id);
            return true;
        }
        if copying.stripping {
            return true;
        }
        if std::mem::take(&mut copying.set_ids) {
            copying.stripping = true;
            if self.takes_set_ids(id, ino) {
                return true;
            }
            self.stripped_for_copy(id);
        }
        let Some(OpKind::Allocate(allocation)) = self.ops.get(&id).map(|op| &op.kind) else {
            return true;
        };
        let source = allocation.copying.as_ref().map(|copying| copying.source);
        source.is_some_and(|source| self.waits_for_source(id, source))
    }

    /// Setuid is gone from the destination of a copy.
    pub(crate) fn stripped_for_copy(&mut self, id: OpId) {
        if let Some(OpKind::Allocate(allocation)) = self.ops.get_mut(&id).map(|op| &mut op.kind)
            && let Some(copying) = allocation.copying_mut()
        {
            copying.stripping = false;
        }
    }

    /// Ends an allocation with its error. Of a copy a part may be there, and the kernel has what was there before.
    fn allocate_failed(&mut self, id: OpId) {
        let Some(OpKind::Allocate(allocation)) = self.ops.get(&id).map(|op| &op.kind) else {
            return;
        };
        let (code, ino, copy) = (allocation.errno, allocation.ino, allocation.is_copy());
        self.leave_file(id);
        if copy {
            self.set_kind(id, OpKind::Forgetting { reply: Some(Err(code)) });
            return self.kernel_forgets(vec![ino], false, Forgetting::Op(id));
        }
        self.finish(id, Err(code));
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
            let how = match stretch.how {
                How::Zero(how) => how,
                How::Copy => match self.send_copies(id, layout) {
                    true => continue,
                    false => return,
                },
            };
            if allocation.in_flight >= ZEROS_MAX {
                return;
            }
            let left = stretch.end - stretch.start;
            let first = layout.pieces(stretch.start, left).next().expect("it is not empty");
            stretch.start += u64::from(first.bytes);
            let ino = allocation.ino;
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

    /// Asks for a piece of a copy. Whether there may be another.
    fn send_copies(&mut self, id: OpId, layout: &Layout) -> bool {
        let Some(OpKind::Allocate(allocation)) = self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            return false;
        };
        if allocation.in_flight >= COPIES_MAX {
            return false;
        }
        let (ino, start) = (allocation.ino, allocation.range.start);
        let Some(stretch) = allocation.todo.last().copied() else { return false };
        let Some(copying) = allocation.copying.take() else { return false };
        let rest = (stretch.start, stretch.end);
        let sent = self.send_copy(id, (ino, layout), rest, (&copying, start));
        let Some(OpKind::Allocate(allocation)) = self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            return false;
        };
        allocation.copying = Some(copying);
        match sent {
            Ok(bytes) => {
                allocation.in_flight += 1;
                allocation.todo.last_mut().expect("looked at above").start += bytes;
            }
            Err(code) => allocation.errno = code,
        }
        sent.is_ok()
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
            Purpose::Zero { ino, .. } if of(ino) => Some((*tag, call.link, call.purpose)),
            Purpose::Copy { ino, source, .. } if of(ino) || of(source) => {
                Some((*tag, call.link, call.purpose))
            }
            _ => None,
        };
        let asked: Vec<(u64, LinkId, Purpose)> = self.calls.iter().filter_map(asked).collect();
        for (tag, link, purpose) in asked {
            self.links[at(link)].cancel(tag);
            self.calls.remove(&tag);
            let (lease, body) = (LeaseBits::NONE, Vec::new());
            let answer = Answer { status, lease, body, payload: None };
            match purpose {
                Purpose::Zero { op, ino } => self.zero_answered(op, ino, &answer),
                Purpose::Copy { op, ino, end, .. } => self.copy_answered(op, ino, end, &answer),
                _ => {}
            }
        }
    }

    /// A target of the file was restarted and may have forgotten what this did: all of it is done again.
    pub(crate) fn allocate_again(&mut self, id: OpId) {
        let Some(OpKind::Allocate(allocation)) = self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            return;
        };
        allocation.todo = allocation.plan.clone().unwrap_or_default();
        if let Some(copying) = allocation.copying_mut() {
            copying.source.fresh = false;
        }
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
            let reply = match allocation.copying {
                Some(_) => FsReply::Copied(allocation.range.end - allocation.range.start),
                None => FsReply::Done,
            };
            self.leave_file(id);
            let result = self.take_error(handle).map(|()| reply);
            return self.finish(id, result);
        }
        file.waiting.push(id);
        self.send_syncs(ino);
        self.send_wrote(ino);
    }
}
