//! lseek for data and holes: every target of the file is asked, and the nearest answer counts.

use weft_wire::blocks::BLOCK_BYTES;
use weft_wire::data::{DataRequest, SeekFrom, SeekReply};
use weft_wire::meta::MetaReply;
use weft_wire::units::{to_u32, to_u64, to_usize};
use weft_wire::{ChunkIndex, Ino, Layout, LeaseBits, LeaseMode, Status};

use crate::core::ClientCore;
use crate::op::{FsReply, Handle, OpId, Whence};
use crate::state::{Answer, OpKind, Purpose, errno};

const BLOCK: u64 = BLOCK_BYTES as u64;

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

impl ClientCore {
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
