//! copy_file_range: the servers copy from chunk to chunk, and no byte of it comes here.
//!
//! A copy first waits for its source: for the writes of this mount to it, and for what others have not sent, as a read does.
//! Then it is an allocation of the destination ([`crate::allocate`]) whose stretch is copied: it holds the file, waits until
//! the writes before it are durable, and is made durable before it is answered, because there are no bytes here to be
//! written again after a restart of the server.
//!
//! - The source is not held: two copies in opposite directions would wait for each other.
//! - The source's server may be started anew between the look at the source and the copy, and have lost what somebody has to
//!   write again. So each request says which process is known ([`weft_wire::data::Known`]); another one copies nothing,
//!   and the copy begins again with the look at the source.
//! - What was copied counts as written when its target says so, also when the operation is over by then.
//!
//! The kernel copies by reading and writing what gets EOPNOTSUPP: data in inodes, little data, and from older servers.

use weft_wire::data::{ChunkCopy, ChunkRange, CopyReply, DataRequest};
use weft_wire::limits::{COPY_BYTES_MAX, FILE_BYTES_MAX};
use weft_wire::meta::MetaReply;
use weft_wire::session::FEATURE_COPY;
use weft_wire::{ChunkId, Ino, Layout, LeaseBits, LeaseMode, Status};

use crate::allocate::Copying;
use crate::core::{ClientCore, at};
use crate::leases::Forgetting;
use crate::limits::{COPIED_AT_ONCE_BYTES_MAX, COPY_AGAIN_PAUSE};
use crate::op::{FsReply, Handle, OpId};
use crate::state::{Answer, OpKind, Purpose, errno};

/// What a copy asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyAsked {
    /// The open source, and the first byte in it.
    pub(crate) source: Handle,
    pub(crate) from: u64,
    /// The open destination, and the first byte in it.
    pub(crate) handle: Handle,
    pub(crate) to: u64,
    pub(crate) bytes: u64,
    /// Setuid and setgid go from the destination.
    pub(crate) set_ids: bool,
}

/// How sure the source is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) ino: Ino,
    /// Writes of ours below it come first.
    pub(crate) barrier: u64,
    /// The attributes are not older than the copy.
    pub(crate) fresh: bool,
    /// They are being asked for.
    pub(crate) asking: bool,
}

/// A source and a destination that the servers can copy between.
fn overlap(asked: &CopyAsked, bytes: u64) -> bool {
    asked.from < asked.to + bytes && asked.to < asked.from + bytes
}

impl ClientCore {
    pub(crate) fn begin_copy(&mut self, id: OpId, asked: CopyAsked) -> Result<(), i32> {
        let ino = self.handle(asked.source, false)?.ino;
        let to_ino = self.handle(asked.handle, false)?.ino;
        let bytes = asked.bytes.min(COPIED_AT_ONCE_BYTES_MAX);
        let fits = |start: u64| start.checked_add(bytes).is_some_and(|end| end <= FILE_BYTES_MAX);
        if !fits(asked.from) {
            return Err(errno::EINVAL);
        }
        if !fits(asked.to) {
            return Err(errno::EFBIG);
        }
        let layout = |ino: &Ino| self.files.get(ino).and_then(|file| file.layout.as_ref());
        let (Some(source), Some(to)) = (layout(&ino), layout(&to_ino)) else {
            return Err(errno::EINVAL);
        };
        if bytes < self.config.copy_bytes_min || !self.servers_copy(source, to) {
            return Err(errno::EOPNOTSUPP);
        }
        self.push_run_out(ino);
        let barrier = self.files[&ino].writes.next_id();
        let source = Source { ino, barrier, fresh: false, asking: false };
        self.set_kind(id, OpKind::CopyWaiting(CopyAsked { bytes, ..asked }, source));
        self.try_copy(id);
        Ok(())
    }

    /// Whether all targets of the destination are where copies can be made, and the sources' servers were heard of.
    fn servers_copy(&self, source: &Layout, to: &Layout) -> bool {
        let welcome = |target| self.links[at(*self.targets.get(target)?)].welcome();
        let copies = |target| welcome(target).is_some_and(|it| it.features & FEATURE_COPY != 0);
        to.targets().iter().all(copies) && source.targets().iter().all(copies)
    }

    /// Goes on to the destination when the source is as a read would find it.
    pub(crate) fn try_copy(&mut self, id: OpId) {
        let Some(OpKind::CopyWaiting(asked, source)) = self.ops.get(&id).map(|op| &op.kind) else {
            return;
        };
        let (asked, source) = (*asked, *source);
        if self.files.get(&source.ino).is_some_and(crate::file::File::is_held) {
            self.files.get_mut(&source.ino).expect("just seen").waiting.push(id);
            return;
        }
        if self.waits_for_source(id, source) {
            return;
        }
        let copied = self.copied_bytes(&asked, source.ino);
        match copied {
            Ok(0) => self.finish(id, Ok(FsReply::Copied(0))),
            Ok(bytes) => {
                let (range, from) = (asked.to..asked.to + bytes, asked.from);
                let layout = self.files[&source.ino].layout.clone().expect("checked at the start");
                let wall = self.wall();
                if self.config.atime
                    && let Some(file) = self.files.get_mut(&source.ino)
                {
                    file.was_read(wall);
                }
                let set_ids = asked.set_ids;
                let copying =
                    Copying { source, from, layout, set_ids, again: None, stripping: false };
                if let Err(code) = self.begin_copying(id, asked.handle, range, copying) {
                    self.finish(id, Err(code));
                }
            }
            Err(code) => self.finish(id, Err(code)),
        }
    }

    /// How much there is to copy.
    fn copied_bytes(&self, asked: &CopyAsked, ino: Ino) -> Result<u64, i32> {
        let file = self.files.get(&ino).ok_or(errno::EBADF)?;
        let to_ino = self.handles.get(&asked.handle).ok_or(errno::EBADF)?.ino;
        let bytes = asked.bytes.min(file.size().saturating_sub(asked.from));
        match bytes {
            0 => Ok(0),
            _ if ino == to_ino && overlap(asked, bytes) => Err(errno::EINVAL),
            _ if file.inline.is_some() || bytes < self.config.copy_bytes_min => {
                Err(errno::EOPNOTSUPP)
            }
            _ => Ok(bytes),
        }
    }

    /// Whether an operation has to wait until its source is known, which it is told.
    pub(crate) fn waits_for_source(&mut self, id: OpId, source: Source) -> bool {
        if source.asking {
            return true;
        }
        let known = self.holds(source.ino, LeaseMode::Read);
        let Some(file) = self.files.get_mut(&source.ino) else {
            self.source_fails(id, errno::EBADF);
            return true;
        };
        if !file.writes.passed(source.barrier) {
            file.waiting.push(id);
            return true;
        }
        let unknown_data = file.inline.is_some() && !file.knows_data();
        if (known || source.fresh) && !unknown_data {
            return false;
        }
        if let Some(source) = self.source_of(id) {
            source.asking = true;
        }
        let request = self.ask_attributes(source.ino);
        if self.ask(id, source.ino, &request).is_err() {
            self.source_fails(id, errno::EIO);
        }
        true
    }

    fn source_of(&mut self, id: OpId) -> Option<&mut Source> {
        match self.ops.get_mut(&id).map(|op| &mut op.kind)? {
            OpKind::CopyWaiting(_, source) => Some(source),
            OpKind::Allocate(allocation) => allocation.copying_mut().map(|it| &mut it.source),
            _ => None,
        }
    }

    /// The attributes of its source came.
    pub(crate) fn source_told(
        &mut self,
        id: OpId,
        reply: Result<MetaReply, i32>,
        lease: LeaseBits,
    ) {
        let learned = reply.and_then(|reply| self.learn_answer(reply, lease));
        if let Some(source) = self.source_of(id) {
            (source.asking, source.fresh) = (false, true);
        }
        if let Err(code) = learned {
            return self.source_fails(id, code);
        }
        match self.ops.get(&id).map(|op| &op.kind) {
            Some(OpKind::CopyWaiting(..)) => self.try_copy(id),
            _ => self.try_allocate(id),
        }
    }

    fn source_fails(&mut self, id: OpId, code: i32) {
        match self.ops.get_mut(&id).map(|op| &mut op.kind) {
            Some(OpKind::Allocate(allocation)) => {
                allocation.fail(code);
                let ino = allocation.ino();
                if let Some(file) = self.files.get_mut(&ino) {
                    file.waiting.push(id);
                    self.touched.insert(ino);
                }
            }
            _ => self.finish(id, Err(code)),
        }
    }

    /// What is known of sources may not be so any more.
    pub(crate) fn look_at_sources_again(&mut self) {
        let ids: Vec<OpId> = self.ops.keys().copied().collect();
        for id in ids {
            if let Some(source) = self.source_of(id) {
                source.fresh = false;
            }
        }
    }

    /// Asks for the first piece of a stretch of the destination that is in one chunk at both ends. Gives its length.
    pub(crate) fn send_copy(
        &mut self,
        id: OpId,
        (ino, layout): (Ino, &Layout),
        (start, end): (u64, u64),
        (copying, range_start): (&Copying, u64),
    ) -> Result<u64, i32> {
        let to = layout.pieces(start, end - start).next().expect("it is not empty");
        let source_start = copying.from + (start - range_start);
        let from = copying.layout.pieces(source_start, u64::from(to.bytes)).next();
        let from = from.expect("it is not empty");
        let bytes = from.bytes.min(COPY_BYTES_MAX);
        let link_of = |target| self.targets.get(&target).copied().ok_or(errno::EIO);
        let (link, source_link) = (link_of(to.target)?, link_of(from.target)?);
        let known = self.links[at(source_link)].welcome().ok_or(errno::EIO)?.known();
        let chunk = ChunkId { ino, index: to.index };
        let source = copying.source.ino;
        let request = DataRequest::Copy(ChunkCopy {
            to: ChunkRange { chunk, offset: to.offset, bytes },
            source: from.target,
            from: ChunkId { ino: source, index: from.index },
            from_offset: from.offset,
            known,
        });
        let (mut body, kind) = (Vec::new(), request.kind());
        request.encode(to.target, &mut body);
        self.files.get_mut(&ino).expect("it is held").zeroing += 1;
        let end = start + u64::from(bytes);
        self.ask_server(link, (kind, body), Purpose::Copy { op: id, ino, source, end }, false);
        Ok(u64::from(bytes))
    }

    /// A piece of a copy is answered; it ends at `end` of the destination.
    pub(crate) fn copy_answered(&mut self, id: OpId, ino: Ino, end: u64, answer: &Answer) {
        let reply = match answer.status {
            Status::Ok => CopyReply::decode(&answer.body).map_err(|_| errno::EIO),
            status => Err(status.errno()),
        };
        if let Ok(CopyReply::Copied(added)) = reply {
            self.copied_to(ino, end, added);
        }
        if let Some(file) = self.files.get_mut(&ino) {
            file.zeroing -= 1;
            file.waiting.push(id);
            self.touched.insert(ino);
        }
        let pause_ends = self.now + COPY_AGAIN_PAUSE;
        let Some(OpKind::Allocate(allocation)) = self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            // Nobody told the kernel that what it has is old.
            return self.kernel_forgets(vec![ino], false, Forgetting::Nobody);
        };
        if let Some(ino) = allocation.copy_ended(reply, pause_ends) {
            self.file_timers.insert((pause_ends, ino));
        }
    }

    /// The file has bytes up to there, and so many blocks more: told to the volume as a write is.
    fn copied_to(&mut self, ino: Ino, end: u64, added: i64) {
        let wall = self.wall();
        let Some(file) = self.files.get_mut(&ino) else { return };
        file.local_end = file.local_end.max(end);
        file.local_mtime = file.local_mtime.max(Some(wall));
        file.telling.acked_end = file.telling.acked_end.max(end);
        file.telling.blocks += added;
        file.telling.wanted += 1;
        self.tell_soon(ino);
    }
}
