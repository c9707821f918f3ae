//! Reads: after the writes before them, one request for each chunk, every block checked, cut to the file's length.

use weft_iobuf::BufSlot;
use weft_wire::blocks::{BLOCK_BYTES, first_mismatch};
use weft_wire::data::{ChunkRange, DataRequest, ReadReply};
use weft_wire::header::Header;
use weft_wire::limits::FILE_BYTES_MAX;
use weft_wire::meta::MetaReply;
use weft_wire::units::{to_u32, to_usize};
use weft_wire::{ChunkId, ChunkPiece, Ino, Kind, LeaseBits, LeaseMode, Status};

use crate::core::{ClientCore, at};
use crate::limits::READ_BYTES_MAX;
use crate::op::{DataPiece, FsReply, LinkId, OpId};
use crate::state::{Answer, OpKind, Purpose, ReadAsked, ReadPiece, errno};

impl ClientCore {
    pub(crate) fn begin_read(
        &mut self,
        id: OpId,
        asked: ReadAsked,
        into: Option<BufSlot>,
    ) -> Result<(), i32> {
        let ReadAsked { handle, offset, bytes } = asked;
        let ino = self.handle(handle, false)?.ino;
        let file = self.files.get(&ino).ok_or(errno::EBADF)?;
        let end = offset.checked_add(u64::from(bytes)).ok_or(errno::EINVAL)?;
        if file.layout.is_none() || end > FILE_BYTES_MAX || bytes > READ_BYTES_MAX {
            return Err(errno::EINVAL);
        }
        if file.run.as_ref().is_some_and(|run| run.offset < end && offset < run.end()) {
            self.push_run_out(ino);
        }
        let barrier = self.files[&ino].writes.next_id();
        self.set_kind(id, OpKind::ReadWaiting { asked, into, barrier, fresh: false });
        self.try_read(id);
        Ok(())
    }

    /// Asks for the blocks, unless the read must wait.
    pub(crate) fn try_read(&mut self, id: OpId) {
        let Some(op) = self.ops.get(&id) else { return };
        let OpKind::ReadWaiting { asked, barrier, fresh, .. } = op.kind else { return };
        let ReadAsked { handle, offset, bytes } = asked;
        let Some(ino) = self.handles.get(&handle).map(|state| state.ino) else {
            return self.finish(id, Err(errno::EBADF));
        };
        let known = self.holds(ino, LeaseMode::Read);
        let file = self.files.get_mut(&ino).expect("a handle keeps its file");
        let layout = file.layout.as_ref().expect("checked when the read began");
        let pieces: Vec<ChunkPiece> = layout.pieces(offset, u64::from(bytes)).collect();
        if file.is_held() || file.is_being_written(&pieces, barrier) {
            file.waiting.push(id);
            return self.hurry(ino);
        }
        let size = file.size();
        let end = (offset + u64::from(bytes)).min(size);
        let in_inode = file.inline.is_some();
        if !known && !fresh || in_inode && !file.knows_data() {
            // Somebody else may have written it, and not all of that may be at the servers.
            let request = self.ask_attributes(ino);
            if self.ask(id, ino, &request).is_err() {
                self.finish(id, Err(errno::EIO));
            }
            return;
        }
        if offset >= end {
            return self.finish(id, Ok(FsReply::Data(Vec::new())));
        }
        let wall = self.wall();
        let atime = self.config.atime;
        let file = self.files.get_mut(&ino).expect("as above");
        file.gives_pages();
        if atime {
            file.was_read(wall);
        }
        if let Some(inline) = &file.inline {
            let found = inline.read(offset, end - offset);
            return self.finish(id, Ok(FsReply::Data(found)));
        }
        let layout = self.files[&ino].layout.as_ref().expect("as above");
        let pieces: Vec<ChunkPiece> = layout.pieces(offset, end - offset).collect();
        let places = match self.ops.get_mut(&id).map(|op| &mut op.kind) {
            Some(OpKind::ReadWaiting { into, .. }) => cut(into.take(), &pieces),
            _ => Vec::new(),
        };
        let places = places.into_iter().chain(std::iter::repeat_with(|| None));
        let piece = |(piece, into)| ReadPiece { piece, into, found: None, retried: false };
        let pieces: Vec<ReadPiece> = pieces.into_iter().zip(places).map(piece).collect();
        let left = pieces.len();
        self.set_kind(id, OpKind::Reading { asked, ino, pieces, left, errno: 0 });
        (0..left).for_each(|at| self.send_read(id, at));
    }

    /// The attributes a read near the end of the file waited for.
    pub(crate) fn read_refreshed(
        &mut self,
        id: OpId,
        reply: Result<MetaReply, i32>,
        lease: LeaseBits,
    ) {
        if let Err(code) = reply.and_then(|reply| self.learn_answer(reply, lease)) {
            return self.finish(id, Err(code));
        }
        if let Some(OpKind::ReadWaiting { fresh, .. }) =
            self.ops.get_mut(&id).map(|op| &mut op.kind)
        {
            *fresh = true;
        }
        self.try_read(id);
    }

    fn send_read(&mut self, id: OpId, at: usize) {
        let Some(OpKind::Reading { ino, pieces, .. }) = self.ops.get(&id).map(|op| &op.kind) else {
            return;
        };
        let ChunkPiece { target, index, offset, bytes, .. } = pieces[at].piece;
        let chunk = ChunkId { ino: *ino, index };
        let Some(link) = self.targets.get(&target).copied() else {
            return self.piece_ended(id, at, Err(Status::WrongShard.errno()));
        };
        let mut body = Vec::new();
        DataRequest::Read(ChunkRange { chunk, offset, bytes }).encode(target, &mut body);
        self.ask_server(link, (Kind::Read, body), Purpose::Read { op: id, piece: at }, false);
    }

    /// Where the payload is wanted that a reply with this header brings; asked before it is received.
    pub fn place(&mut self, link: LinkId, header: &Header) -> Option<BufSlot> {
        let tag = self.links.get(at(link))?.tag_of(header)?;
        let Purpose::Read { op, piece } = self.calls.get(&tag)?.purpose else { return None };
        let OpKind::Reading { pieces, .. } = &mut self.ops.get_mut(&op)?.kind else { return None };
        pieces.get_mut(piece)?.into.take()
    }

    pub(crate) fn read_answered(&mut self, id: OpId, at: usize, answer: Answer) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let OpKind::Reading { ino, pieces, .. } = &mut op.kind else { return };
        if answer.status != Status::Ok {
            return self.piece_ended(id, at, Err(answer.status.errno()));
        }
        let piece = &mut pieces[at];
        match check(&piece.piece, answer) {
            Some(found) => self.piece_ended(id, at, Ok(found)),
            None if !piece.retried => {
                piece.retried = true;
                let (ino, target) = (*ino, piece.piece.target);
                tracing::warn!(%ino, %target, "a read's checksum is wrong: read again");
                self.send_read(id, at);
            }
            None => {
                tracing::error!(%ino, target = %piece.piece.target, "a read's checksum is wrong");
                self.piece_ended(id, at, Err(errno::EIO));
            }
        }
    }

    /// A target was restarted and may have forgotten what this read was to see: it begins again, after the writes
    /// that bring it back.
    pub(crate) fn read_again(&mut self, id: OpId) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let OpKind::Reading { asked, ino, .. } = op.kind else { return };
        for tag in std::mem::take(&mut op.tags) {
            if let Some(call) = self.calls.remove(&tag) {
                self.links[at(call.link)].cancel(tag);
            }
        }
        let Some(file) = self.files.get_mut(&ino) else {
            return self.finish(id, Err(errno::EBADF)); // Closed meanwhile.
        };
        let barrier = file.writes.next_id();
        file.waiting.push(id);
        self.touched.insert(ino);
        self.set_kind(id, OpKind::ReadWaiting { asked, into: None, barrier, fresh: false });
    }

    /// These files may be gone, and with them what their reads were to find: the volume is asked first.
    pub(crate) fn read_anew(&mut self, fits: impl Fn(Ino) -> bool) {
        let mut again = Vec::new();
        for (id, op) in &mut self.ops {
            match &mut op.kind {
                OpKind::ReadWaiting { fresh, .. } => *fresh = false,
                OpKind::Reading { ino, .. } if fits(*ino) => again.push(*id),
                _ => {}
            }
        }
        self.look_at_sources_again();
        again.into_iter().for_each(|id| self.read_again(id));
    }

    fn piece_ended(&mut self, id: OpId, at: usize, result: Result<Vec<DataPiece>, i32>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let OpKind::Reading { pieces, left, errno, .. } = &mut op.kind else { return };
        *left -= 1;
        match result {
            Ok(found) => pieces[at].found = Some(found),
            Err(code) => *errno = code,
        }
        if *left > 0 {
            return;
        }
        let result = match *errno {
            0 => {
                let found = pieces.iter_mut().filter_map(|piece| piece.found.take());
                Ok(FsReply::Data(found.flatten().collect()))
            }
            code => Err(code),
        };
        self.finish(id, result);
    }
}

/// The place of each piece, where whole blocks can be received; else none.
fn cut(into: Option<BufSlot>, pieces: &[ChunkPiece]) -> Vec<Option<BufSlot>> {
    let Some(mut rest) = into else { return Vec::new() };
    let aligned = |piece: &ChunkPiece| piece.offset.is_multiple_of(BLOCK_BYTES);
    let last = pieces.len().saturating_sub(1);
    let mut places = Vec::with_capacity(pieces.len());
    for piece in &pieces[..last] {
        let bytes = to_usize(u64::from(piece.bytes));
        if !aligned(piece) || bytes > rest.capacity_bytes() {
            return places;
        }
        let behind = rest.split_off(bytes);
        places.push(Some(std::mem::replace(&mut rest, behind)));
    }
    places.extend(pieces.last().map(|piece| Some(rest).filter(|_| aligned(piece))));
    places
}

/// The bytes of the piece from what the target sent; `None` when that is not what was asked or is damaged.
fn check(piece: &ChunkPiece, answer: Answer) -> Option<Vec<DataPiece>> {
    let wanted = to_usize(u64::from(piece.bytes));
    let payload_bytes = answer.payload.as_ref().map_or(0, |(_, range)| range.len());
    let reply = ReadReply::decode(&answer.body, to_u32(payload_bytes)).ok()?;
    let Some((slot, range)) = answer.payload else {
        return Some(vec![DataPiece::Zeros(wanted)]);
    };
    let agree = first_mismatch(0, slot.as_slice().get(range.clone())?, &reply.sums).is_none();
    if !agree || reply.first_block != piece.offset / BLOCK_BYTES {
        return None;
    }
    let skip = to_usize(u64::from(piece.offset % BLOCK_BYTES));
    let there = payload_bytes.saturating_sub(skip).min(wanted);
    let mut found = Vec::with_capacity(2);
    if there > 0 {
        let start = range.start + skip;
        found.push(DataPiece::Slot(slot.share(), start..start + there));
    }
    if there < wanted {
        found.push(DataPiece::Zeros(wanted - there));
    }
    Some(found)
}
