//! Small files: the data is in the inode, and the volume answers for it.
//!
//! Invariants:
//! - A file in [`File::inline`] has nothing at its targets. Writes that fit go to the volume (`WriteData`), which makes them
//!   durable with their acknowledgement; before any other write the data moves to the targets, once and for all.
//! - Only under the lease to write, which is asked for alone: so between `Begin` and `End` of a move nobody else, and as
//!   no write of ours is out, nothing here changes the data.
//! - The data known here is used while the file has the version that it is of.
//! - A file that was made here, and that nobody else changed since, is *fresh*: the volume knows that its maker may write to
//!   its targets at once. With the first write that does not fit it has *begun*, and the next `Wrote` says so; until then the
//!   volume takes it for empty. With the first that fits it is not fresh any more, and nothing is at its targets.
//!
//! A move: what is out is waited for -> `MoveData` `Begin`, whose answer brings the data; of an empty file that is all ->
//! the first block is written to its target, whole -> and made durable -> `MoveData` `End`. If the client dies before that,
//! the inode still counts, and whoever writes next begins anew. See `metadata/src/apply/data.rs`.

use weft_net::link::Request;
use weft_wire::blocks::{BLOCK_BYTES, BLOCK_LEN, checksums};
use weft_wire::data::{ChunkRange, DataRequest};
use weft_wire::limits::INLINE_BYTES_MAX;
use weft_wire::meta::{Attr, DataWrite, Inline, MetaReply, MetaRequest, MoveStep};
use weft_wire::session::{FEATURE_FRESH, FEATURE_INLINE};
use weft_wire::units::{to_u64, to_usize};
use weft_wire::{ChunkId, ChunkIndex, Ino, Kind, LeaseBits, LeaseMode, Status, TargetId, VolumeId};

use crate::core::{ClientCore, at};
use crate::file::File;
use crate::limits::RUN_WAIT;
use crate::op::{DataPiece, LinkId};
use crate::planted::{self, Bug};
use crate::state::{Answer, Call, Purpose, errno};

/// What is known of a file whose data is in its inode.
#[derive(Debug)]
pub(crate) struct InlineFile {
    /// Bytes that fit.
    pub(crate) bytes_max: u16,
    /// The data, and the version of the file that it is of.
    known: Option<(u64, Vec<u8>)>,
    /// It is being asked for.
    asking: bool,
    /// It was made here, and all versions since were made here.
    fresh: bool,
    moving: Option<Moving>,
    /// Why the last move, or the last question, failed: for what waits for it.
    failed: Option<Status>,
}

/// A move of the data to the targets.
#[derive(Debug)]
struct Moving {
    /// Names it: answers to an earlier one are not for it.
    number: u64,
    step: Step,
    data: Vec<u8>,
    /// The request that is out, if it is one to a target.
    tag: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Begin,
    Write,
    Sync,
    End,
}

impl InlineFile {
    pub(crate) fn new(bytes_max: u16) -> InlineFile {
        let (known, moving, failed) = (None, None, None);
        InlineFile { bytes_max, known, asking: false, fresh: false, moving, failed }
    }

    pub(crate) fn is_moving(&self) -> bool {
        self.moving.is_some()
    }

    /// Takes what an answer told of the file at this version.
    fn learn(&mut self, version: u64, told: Inline) {
        self.bytes_max = told.bytes_max;
        let newer = self.known.as_ref().is_none_or(|(known, _)| *known <= version);
        if let Some(data) = told.data.filter(|_| newer) {
            self.fresh &= self.known.as_ref().is_some_and(|(known, _)| *known == version);
            self.known = Some((version, data));
        }
    }

    /// A change of ours made the file's next version: whether the data is known as it was before.
    fn follows(&mut self, version: u64) -> bool {
        let follows = self.known.as_ref().is_some_and(|(at, _)| at.checked_add(1) == Some(version));
        if let Some((at, _)) = self.known.as_mut().filter(|_| follows) {
            *at = version;
        }
        follows
    }

    /// Bytes of ours are in the inode: they made this version.
    fn written(&mut self, version: u64, offset: usize, bytes: &[u8]) {
        if self.follows(version)
            && let Some((_, data)) = &mut self.known
        {
            let end = offset + bytes.len();
            data.resize(data.len().max(end), 0);
            data[offset..end].copy_from_slice(bytes);
        }
    }

    /// `bytes` from `offset` on.
    pub(crate) fn read(&self, offset: u64, bytes: u64) -> Vec<DataPiece> {
        let data = self.known.as_ref().map_or(&[][..], |(_, data)| data);
        let start = usize::try_from(offset).map_or(data.len(), |start| start.min(data.len()));
        let there = data.len() - start;
        let wanted = to_usize(bytes);
        let taken = there.min(wanted);
        let mut found = Vec::with_capacity(2);
        if taken > 0 {
            found.push(DataPiece::Bytes(data[start..start + taken].to_vec()));
        }
        if taken < wanted {
            found.push(DataPiece::Zeros(wanted - taken));
        }
        found
    }

    /// The next data, or the next hole, from `offset` on in a file of `size` bytes; `None` beyond the last.
    pub(crate) fn seek(&self, offset: u64, size: u64, hole: bool) -> Option<u64> {
        let data = self.known.as_ref().map_or(0, |(_, data)| data.len());
        let end = to_u64(data.next_multiple_of(BLOCK_LEN)).min(size);
        match hole {
            true => Some(offset.max(end)),
            false => (offset < end).then_some(offset),
        }
    }
}

impl File {
    /// Whether the data is in the inode, and known as it is now.
    pub(crate) fn knows_data(&self) -> bool {
        let known = self.inline.as_ref().and_then(|inline| inline.known.as_ref());
        known.is_some_and(|(version, _)| *version == self.attr.version)
    }

    /// What an answer would tell of data in the inode.
    pub(crate) fn inline_told(&self) -> Option<Inline> {
        let inline = self.inline.as_ref()?;
        let known = inline.known.as_ref().filter(|_| self.knows_data());
        Some(Inline { bytes_max: inline.bytes_max, data: known.map(|(_, data)| data.clone()) })
    }

    /// A change of ours of the inode, not of the data, made this version.
    pub(crate) fn data_follows(&mut self, version: u64) {
        if let Some(inline) = &mut self.inline {
            inline.follows(version);
        }
    }

    /// The file is cut to `size` bytes: the data here, too.
    pub(crate) fn cut_known_data(&mut self, size: u64) {
        if let Some((_, data)) = self.inline.as_mut().and_then(|inline| inline.known.as_mut()) {
            data.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        }
    }

    /// Whether its maker, which we are, may write to its targets without a word.
    fn is_fresh(&self) -> bool {
        self.inline.as_ref().is_some_and(|inline| inline.fresh) && self.knows_data()
    }

    /// The first write to the targets of a fresh file, which the volume must be told of.
    fn begin_at_targets(&mut self) {
        self.begun = self.inline.take().map(|inline| inline.bytes_max);
        self.telling.wanted += 1;
    }

    /// The volume is not going to be told: it goes on taking the file for empty.
    pub(crate) fn give_beginning_up(&mut self) {
        if let Some(bytes_max) = self.begun.take() {
            self.inline = Some(InlineFile::new(bytes_max));
        }
    }

    pub(crate) fn is_moving(&self) -> bool {
        self.inline.as_ref().is_some_and(InlineFile::is_moving)
    }

    /// Why the last move failed.
    pub(crate) fn move_failed(&self) -> Option<Status> {
        self.inline.as_ref().and_then(|inline| inline.failed)
    }

    /// Whoever waited for the move has heard.
    pub(crate) fn forget_failed_move(&mut self) {
        if let Some(inline) = &mut self.inline {
            inline.failed = None;
        }
    }
}

/// What the next write is to do of a file whose data is in its inode.
pub(crate) enum Way {
    /// Go to the targets.
    Targets,
    /// Go to the volume.
    Inode,
    /// Wait.
    Wait,
    /// Fail.
    Failed(Status),
}

impl ClientCore {
    /// Whether the server of a volume keeps data in inodes.
    pub(crate) fn inlines(&self, volume: VolumeId) -> bool {
        self.offers(volume, FEATURE_INLINE)
    }

    /// What asks for the attributes of a file, and for its data where that may come with them.
    pub(crate) fn ask_attributes(&self, ino: Ino) -> MetaRequest<'static> {
        match self.files.get(&ino).is_some_and(|file| file.inline.is_some()) {
            true => MetaRequest::GetData { ino },
            false => MetaRequest::GetAttr { ino },
        }
    }

    /// Whether the server of a volume lets whoever makes a file begin at its targets.
    pub(crate) fn makes_fresh(&self, volume: VolumeId) -> bool {
        self.offers(volume, FEATURE_FRESH)
    }

    /// A file that we made is as it was made.
    pub(crate) fn made_here(&mut self, ino: Ino) {
        let fresh = self.makes_fresh(ino.volume());
        if let Some(inline) = self.files.get_mut(&ino).and_then(|file| file.inline.as_mut()) {
            inline.fresh = fresh && inline.known.as_ref().is_some_and(|(_, data)| data.is_empty());
        }
    }

    /// Takes the answer to that.
    pub(crate) fn learn_answer(&mut self, reply: MetaReply, lease: LeaseBits) -> Result<Attr, i32> {
        match reply {
            MetaReply::Attr(attr) => Ok(self.learn_with(attr, lease)),
            MetaReply::Data(attr, inline) => {
                self.learn_inline(attr.ino, attr.version, inline);
                Ok(self.learn_with(attr, lease))
            }
            _ => Err(errno::EIO),
        }
    }

    /// Where the data of an open file is, by an answer that told it. A move ends with its own answers.
    pub(crate) fn learn_inline(&mut self, ino: Ino, version: u64, told: Option<Inline>) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        match told {
            Some(_) if version < file.attr.version => {} // Overtaken.
            // What is at its targets is about to count.
            Some(_) if file.begun.is_some() => {}
            Some(told) => {
                let bytes_max = told.bytes_max;
                let inline = file.inline.get_or_insert_with(|| InlineFile::new(bytes_max));
                inline.learn(version, told);
            }
            None if file.is_moving() => {}
            None => file.inline = None,
        }
        self.touched.insert(ino);
    }

    /// Where the next write goes of a file whose data is in the inode; it ends at `end`.
    pub(crate) fn way_of_write(&mut self, ino: Ino, end: u64) -> Way {
        let Some(file) = self.files.get_mut(&ino) else { return Way::Wait };
        let current = file.knows_data();
        let Some(inline) = &file.inline else { return Way::Wait };
        let fits = end <= u64::from(inline.bytes_max);
        match inline.failed {
            Some(status) => return Way::Failed(status),
            None if inline.is_moving() => {}
            None if !fits => {
                self.move_out(ino);
                if self.files.get(&ino).is_some_and(|file| file.inline.is_none()) {
                    return Way::Targets;
                }
            }
            None if current => return Way::Inode,
            None => self.ask_data(ino),
        }
        Way::Wait
    }

    /// Asks for the data without a lease: whoever flushes for others holds it still, and may get none.
    fn ask_data(&mut self, ino: Ino) {
        let Some(inline) = self.files.get_mut(&ino).and_then(|file| file.inline.as_mut()) else {
            return;
        };
        if !std::mem::replace(&mut inline.asking, true) {
            let (request, none) = (MetaRequest::GetData { ino }, LeaseBits::NONE);
            self.meta_call_leasing(ino, Default::default(), &request, none, Purpose::Data { ino });
        }
    }

    pub(crate) fn data_told(&mut self, ino: Ino, answer: &Answer) {
        let Some(inline) = self.files.get_mut(&ino).and_then(|file| file.inline.as_mut()) else {
            return;
        };
        inline.asking = false;
        match answer.meta(Kind::GetData) {
            // What came without asking for a lease takes none away.
            Ok(MetaReply::Data(attr, told)) => {
                self.learn_inline(ino, attr.version, told);
                self.learn(attr);
            }
            _ => inline.failed = Some(failure(answer)),
        }
        self.touched.insert(ino);
    }

    /// Sends a write to the volume.
    pub(crate) fn send_inline(&mut self, ino: Ino, id: u64) {
        let file = self.files.get_mut(&ino).expect("it has the write");
        let (writer, mtime) = (file.writer, file.mtime_to_tell());
        let Some(write) = file.writes.take_for_volume(id) else { return };
        let direct = write.op.is_some();
        let (offset, (slot, range)) = (write.offset, write.payload.clone());
        let untouched =
            file.inline.as_mut().is_some_and(|inline| std::mem::take(&mut inline.fresh));
        let write = DataWrite { untouched, ..DataWrite::new(ino, offset, &slot[range], mtime) };
        let request = MetaRequest::WriteData(write);
        self.meta_call(ino, writer, &request, Purpose::WriteData { ino, id });
        if direct {
            self.hurry(ino);
        }
    }

    pub(crate) fn data_written(&mut self, ino: Ino, id: u64, answer: &Answer) {
        self.touched.insert(ino);
        let reply = answer.meta(Kind::WriteData);
        let overtaken = self.is_reply_overtaken(&reply);
        let Some(file) = self.files.get_mut(&ino) else { return };
        if answer.status == Status::Invalid && file.writes.send_again(id) {
            // The data is at the targets: another client-core of this mount had it moved.
            file.inline.as_mut().into_iter().for_each(|inline| inline.known = None);
            return;
        }
        if let Ok(MetaReply::Attr(attr)) = &reply {
            let written = file.writes.get(id).map(|write| (write.offset, write.payload.clone()));
            if let (Some((offset, (slot, range))), Some(inline)) = (written, &mut file.inline) {
                inline.written(attr.version, to_usize(u64::from(offset)), &slot[range]);
            }
            file.changed_by_us(attr);
            file.learn(attr, overtaken);
        }
        let status = if reply.is_ok() { Status::Ok } else { failure(answer) };
        let Some(write) = self.take_answered(ino, id) else { return };
        let file = self.files.get_mut(&ino).expect("it had the write");
        file.drop_overlays();
        if status != Status::Ok && write.op.is_none() {
            tracing::warn!(%ino, %status, "a write to an inode failed");
            file.fail(status.errno());
            self.refused(ino);
        }
        if let Ok(MetaReply::Attr(attr)) = reply {
            self.learn_with(attr, answer.lease);
        }
        if let Some(op) = write.op {
            self.direct_answered(op, ino, status);
        }
    }

    /// Moves the data to the targets, when nothing of ours is on its way to the inode and the lease is there: of a fresh file
    /// that is nothing to wait for.
    pub(crate) fn move_out(&mut self, ino: Ino) {
        let may = self.holds(ino, LeaseMode::Write);
        let Some(file) = self.files.get_mut(&ino) else { return };
        let out = file.writes.any_sent();
        if out {
            self.hurry(ino);
        }
        let Some(file) = self.files.get_mut(&ino) else { return };
        if may && !out && file.is_fresh() {
            // As with a move, below.
            file.owned = true;
            file.begin_at_targets();
            return self.tell_soon(ino);
        }
        let Some(inline) = file.inline.as_mut().filter(|_| !out) else { return };
        if inline.is_moving() || inline.failed.is_some() {
            return;
        }
        let number = self.next_tag();
        let file = self.files.get_mut(&ino).expect("looked at above");
        // After a restart of the server nobody is to get between the steps.
        file.owned = true;
        let writer = file.writer;
        let inline = file.inline.as_mut().expect("looked at above");
        inline.moving = Some(Moving { number, step: Step::Begin, data: Vec::new(), tag: None });
        let request = MetaRequest::MoveData { ino, step: MoveStep::Begin };
        self.meta_call(ino, writer, &request, Purpose::Move { ino, number });
    }

    /// The file grew, and the rest of what is written will not fit: the way to the targets is opened while the program goes
    /// on.
    pub(crate) fn move_out_if_too_long(&mut self, ino: Ino) {
        let Some(file) = self.files.get(&ino) else { return };
        let fits = |inline: &InlineFile| file.local_end <= u64::from(inline.bytes_max);
        if !file.inline.as_ref().is_none_or(fits) {
            self.move_out(ino);
        }
    }

    fn moving(&mut self, ino: Ino) -> Option<&mut Moving> {
        self.files.get_mut(&ino)?.inline.as_mut()?.moving.as_mut()
    }

    /// A step of a move is answered.
    pub(crate) fn moved(&mut self, ino: Ino, number: u64, answer: &Answer) {
        let Some(moving) = self.moving(ino).filter(|moving| moving.number == number) else {
            return;
        };
        moving.tag = None;
        let step = moving.step;
        self.touched.insert(ino);
        if step == Step::End && answer.status == Status::Invalid {
            // Something else came between: what asked for the move asks anew.
            return self.drop_move(ino);
        }
        if answer.status != Status::Ok {
            return self.move_ends(ino, Err(answer.status));
        }
        match step {
            Step::Begin | Step::End => match answer.meta(Kind::MoveData) {
                Ok(MetaReply::Data(attr, inline)) => {
                    self.move_told(ino, attr, inline, answer.lease)
                }
                _ => self.move_ends(ino, Err(failure(answer))),
            },
            Step::Write if planted::is(Bug::MoveUnsynced) => self.send_move(ino, Step::End),
            Step::Write => self.send_move(ino, Step::Sync),
            Step::Sync => self.send_move(ino, Step::End),
        }
    }

    /// The volume said how far a move is: at its end the data is not in the inode any more.
    fn move_told(&mut self, ino: Ino, attr: Attr, inline: Option<Inline>, lease: LeaseBits) {
        let overtaken = self.is_overtaken(&attr);
        let file = self.files.get_mut(&ino).expect("it is moving");
        file.changed_by_us(&attr);
        file.learn(&attr, overtaken);
        match inline.map(|inline| inline.data) {
            Some(Some(data)) => {
                if let Some(moving) = self.moving(ino) {
                    moving.data = data;
                }
                self.send_move(ino, Step::Write);
            }
            Some(None) => self.move_ends(ino, Err(Status::Damaged)),
            None => self.move_ends(ino, Ok(())),
        }
        self.learn_with(attr, lease);
    }

    fn move_ends(&mut self, ino: Ino, result: Result<(), Status>) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        match result {
            Ok(()) => file.inline = None,
            Err(status) => {
                tracing::warn!(%ino, %status, "the data of a file could not move to its target");
                if let Some(inline) = &mut file.inline {
                    (inline.moving, inline.failed) = (None, Some(status));
                }
            }
        }
        self.touched.insert(ino);
    }

    /// The next step of a move.
    fn send_move(&mut self, ino: Ino, step: Step) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        let writer = file.writer;
        let layout = file.layout.as_ref().expect("only files have data");
        let target = layout.target(ChunkIndex(0));
        let Some(link) = self.targets.get(&target).copied() else {
            return self.move_ends(ino, Err(Status::WrongShard));
        };
        let Some(moving) = self.moving(ino) else { return };
        let number = moving.number;
        let purpose = Purpose::Move { ino, number };
        moving.step = step;
        let tag = match step {
            Step::Begin => return,
            Step::Write => match self.send_moved_block(ino, (target, link), purpose) {
                Some(tag) => tag,
                // No memory for a block: a little later there is.
                None => {
                    self.file_timers.insert((self.now + RUN_WAIT, ino));
                    return;
                }
            },
            Step::Sync => {
                let mut body = Vec::new();
                DataRequest::Sync(ino).encode(target, &mut body);
                self.ask_server(link, (Kind::Sync, body), purpose, false)
            }
            Step::End => {
                let request = MetaRequest::MoveData { ino, step: MoveStep::End };
                self.meta_call(ino, writer, &request, purpose);
                return;
            }
        };
        if let Some(moving) = self.moving(ino) {
            moving.tag = Some(tag);
        }
    }

    /// The first block, whole: an earlier move that was not ended may have left something else there.
    fn send_moved_block(
        &mut self,
        ino: Ino,
        (target, link): (TargetId, LinkId),
        purpose: Purpose,
    ) -> Option<u64> {
        let mut slot = self.pool.alloc(BLOCK_LEN)?;
        let moving = self.moving(ino)?;
        let block = &mut slot.as_mut_slice()[..BLOCK_LEN];
        let (data, rest) = block.split_at_mut(moving.data.len().min(INLINE_BYTES_MAX));
        data.copy_from_slice(&moving.data);
        rest.fill(0);
        let chunk = ChunkId { ino, index: ChunkIndex(0) };
        let range = ChunkRange { chunk, offset: 0, bytes: BLOCK_BYTES };
        let mut body = Vec::new();
        DataRequest::Write(range, checksums(0, block)).encode(target, &mut body);
        let (tag, kind, lease) = (self.next_tag(), Kind::Write, LeaseBits::NONE);
        let payload = Some((slot.share(), 0..BLOCK_LEN));
        let call = Call { link, kind, volume: None, purpose, changes: None };
        self.call(call, Request { tag, kind, body, payload, deadline: None, lease }, false);
        Some(tag)
    }

    /// A step that waited for memory is tried again.
    pub(crate) fn resume_move(&mut self, ino: Ino) {
        let waits = |moving: &&mut Moving| moving.step == Step::Write && moving.tag.is_none();
        if self.moving(ino).filter(waits).is_some() {
            self.send_move(ino, Step::Write);
        }
    }

    /// The machine behind `link` was restarted: a block that is not known to be durable is written again.
    pub(crate) fn move_again(&mut self, link: LinkId) {
        let unsure = |ino: &Ino, file: &File| {
            let moving = file.inline.as_ref()?.moving.as_ref()?;
            let tag = moving.tag.filter(|_| moving.step == Step::Sync)?;
            (self.calls.get(&tag)?.link == link).then_some((*ino, tag))
        };
        let again: Vec<(Ino, u64)> =
            self.files.iter().filter_map(|(ino, file)| unsure(ino, file)).collect();
        for (ino, tag) in again {
            self.links[at(link)].cancel(tag);
            self.calls.remove(&tag);
            self.send_move(ino, Step::Write);
        }
    }

    /// Others went on: a move of ours ends where it is.
    pub(crate) fn drop_move(&mut self, ino: Ino) {
        let moving = self.files.get_mut(&ino).and_then(|file| file.inline.as_mut()?.moving.take());
        if let Some(tag) = moving.and_then(|moving| moving.tag)
            && let Some(call) = self.calls.remove(&tag)
        {
            self.links[at(call.link)].cancel(tag);
        }
        if let Some(inline) = self.files.get_mut(&ino).and_then(|file| file.inline.as_mut()) {
            inline.known = None;
        }
    }

    /// Whether something else than plain reads and writes may be done with the data at the targets. If not, it moves there,
    /// and whoever asks is to wait for the file, or fails with an errno.
    pub(crate) fn is_at_targets(&mut self, ino: Ino) -> Result<bool, i32> {
        let may = self.holds(ino, LeaseMode::Write);
        let Some(file) = self.files.get(&ino) else { return Ok(true) };
        match (&file.inline, file.move_failed()) {
            (None, _) => Ok(true),
            (Some(_), Some(status)) => Err(status.errno()),
            (Some(_), None) => {
                // A move that lost its lease would take others' writes away.
                if may {
                    self.move_out(ino);
                }
                Ok(false)
            }
        }
    }
}

/// How it ended, when that was not well.
fn failure(answer: &Answer) -> Status {
    if answer.status == Status::Ok { Status::Protocol } else { answer.status }
}
