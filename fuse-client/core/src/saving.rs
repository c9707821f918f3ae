//! What a successor needs is written down, before anything is said that depends on it.
//!
//! Each input ends with [`ClientCore::save`]: files that were touched, then the records of what is over are freed.
//! Records that an answer must outlive wait for [`ClientCore::replied`].

use std::rc::Rc;
use std::time::Duration;

use weft_iobuf::SharedSlot;
use weft_wire::units::to_u64;
use weft_wire::{Ino, VolumeId};

use crate::core::{ClientCore, at};
use crate::file::File;
use crate::keep::records::{WAITS_FOR_BYTES_MAX, write_state};
use crate::keep::{
    Change, FileRecord, HandleRecord, Kept, LinkRecord, OpRecord, Which, WriteRecord, to_millis,
};
use crate::op::{FsOp, Handle, LinkId, OpId};
use crate::records::OpState;
use crate::state::{Call, HandleState, OpKind};
use crate::volume::{Queued, slot_and_sequence};

/// From this age on it is told what an operation waits for.
const TELL_AFTER: Duration = Duration::from_millis(100);

impl ClientCore {
    /// Writes down what changed. Without memory to keep it in, nothing.
    pub(crate) fn save(&mut self) {
        self.save_locks();
        let Some(keep) = &mut self.keep else { return };
        for ino in std::mem::take(&mut self.unsaved) {
            let file = self.files.get_mut(&ino).or_else(|| self.lingering.files.get_mut(&ino));
            let Some(file) = file else { continue };
            let content = file_record(file).encode();
            match file.kept {
                Some(record) => keep.update(Which::Files, record, &content),
                None => file.kept = keep.insert(Which::Files, 1, &content),
            }
        }
        keep.free_dropped();
        for record in self.closed_files.drain(..) {
            keep.remove(Which::Files, record);
        }
    }

    /// Every reply that [`ClientCore::poll`] gave is with the kernel: what would have answered it again may go. To be
    /// called after the outputs are carried out, before what they send can reach a server.
    pub fn replied(&mut self) {
        let Some(keep) = &mut self.keep else { return };
        let waited = !self.answered_changes.is_empty();
        self.answered_changes.clear();
        for record in self.finished_ops.drain(..) {
            keep.remove(Which::Ops, record);
        }
        keep.free_dropped();
        if waited {
            let volumes: Vec<VolumeId> = self.volumes.keys().copied().collect();
            volumes.into_iter().for_each(|id| self.send_queued(id));
            self.settle();
        }
    }

    /// Writes down how a file ended whose opens are not given back yet, or whose data lingers.
    pub(crate) fn keep_closed(&mut self, file: &File) {
        if let (Some(keep), Some(record)) = (&mut self.keep, file.kept) {
            keep.update(Which::Files, record, &file_record(file).encode());
        }
    }

    /// Writes an operation down.
    pub(crate) fn keep_op(&mut self, id: OpId, pid: u32, op: &FsOp, state: OpState) -> Option<u32> {
        let (what, ino) = describe(op);
        let record = OpRecord {
            op: id.0,
            what: what.to_owned(),
            ino,
            pid,
            state,
            since_ms: to_millis(self.now),
            state_since_ms: to_millis(self.now),
            waits_for: String::new(),
            opens: matches!(op, FsOp::Open { .. }),
        };
        self.keep.as_mut()?.insert(Which::Ops, 1, &record.encode())
    }

    /// Whether one more file can be opened.
    pub(crate) fn keep_handle(&mut self, handle: Handle, state: &mut HandleState, by: OpId) {
        let Some(keep) = &mut self.keep else { return };
        keep.set_next_handle(handle.0 + 1);
        state.made_by = by.0;
        state.kept = keep.insert(Which::Handles, 1, &handle_record(handle, state).encode());
        if state.kept.is_none() {
            tracing::warn!(ino = %state.ino, "too many open files for a successor to take them over");
        }
    }

    /// The handle's errors were told.
    pub(crate) fn update_handle(&mut self, handle: Handle) {
        let Some(state) = self.handles.get(&handle) else { return };
        if let (Some(keep), Some(record)) = (&mut self.keep, state.kept) {
            keep.update(Which::Handles, record, &handle_record(handle, state).encode());
        }
    }

    /// The handle is no more.
    pub(crate) fn drop_handle(&mut self, handle: Handle) {
        let state = self.handles.remove(&handle);
        let record = state.and_then(|state| state.kept);
        if let (Some(keep), Some(record)) = (&mut self.keep, record) {
            keep.remove(Which::Handles, record);
        }
    }

    /// Writes down where bytes of a file are that were answered.
    pub(crate) fn keep_write(
        &mut self,
        state: u64,
        (ino, offset, bytes): (Ino, u64, usize),
        (slot, start): (&SharedSlot, usize),
        memory_bytes: usize,
    ) -> Option<Rc<Kept>> {
        let place = (slot.slot().offset_bytes(), slot.slot().capacity_bytes());
        self.keep_bytes(state, (ino, offset, bytes), place, start, memory_bytes)
    }

    /// The same, by the slot's place.
    pub(crate) fn keep_bytes(
        &mut self,
        state: u64,
        (ino, offset, bytes): (Ino, u64, usize),
        (slot_offset, slot_bytes): (usize, usize),
        start: usize,
        memory_bytes: usize,
    ) -> Option<Rc<Kept>> {
        let keep = self.keep.as_mut()?;
        let order = self.next_order;
        self.next_order += 1;
        let record = WriteRecord {
            order,
            ino,
            offset,
            bytes: to_u64(bytes),
            slot: (to_u64(slot_offset), to_u64(slot_bytes)),
            start: to_u64(start),
            memory_bytes: to_u64(memory_bytes),
        };
        let kept = keep.hold(Which::Writes, state, &record.encode());
        debug_assert!(kept.is_some(), "there is a record for each piece that the pool can hold");
        kept.map(Rc::new)
    }

    /// A run has grown: its record as it is now.
    pub(crate) fn keep_run(&mut self, ino: Ino) {
        let Some(keep) = &mut self.keep else { return };
        let Some(run) = self.files.get(&ino).and_then(|file| file.run.as_ref()) else { return };
        let Some(kept) = &run.kept else { return };
        let record = WriteRecord {
            order: run.order,
            ino,
            offset: run.offset,
            bytes: to_u64(run.bytes),
            slot: (to_u64(run.slot.offset_bytes()), to_u64(run.slot.capacity_bytes())),
            start: 0,
            memory_bytes: to_u64(run.slot.capacity_bytes()),
        };
        keep.update(Which::Writes, kept.at, &record.encode());
    }

    /// The records of writes that a cut of the file to `file_bytes` has shortened.
    pub(crate) fn keep_cut(&mut self, ino: Ino, file_bytes: u64) {
        let Some(keep) = &mut self.keep else { return };
        let Some(file) = self.files.get(&ino) else { return };
        for write in file.unsynced.kept_ending_at(file_bytes) {
            let Some(kept) = &write.kept else { continue };
            let slot = write.payload.0.slot();
            let record = WriteRecord {
                order: write.order,
                ino,
                offset: write.file_end - u64::from(write.bytes),
                bytes: u64::from(write.bytes),
                slot: (to_u64(slot.offset_bytes()), to_u64(slot.capacity_bytes())),
                start: to_u64(write.payload.1.start),
                memory_bytes: to_u64(write.memory_bytes),
            };
            keep.update(Which::Writes, kept.at, &record.encode());
        }
    }

    pub(crate) fn set_write_state(&mut self, kept: Option<&Rc<Kept>>, state: u64) {
        debug_assert!(state <= write_state::AGAIN, "one of the states");
        if let (Some(keep), Some(kept)) = (&mut self.keep, kept) {
            keep.set_live(Which::Writes, kept.at, state);
        }
    }

    /// Whether a change may be sent: it is written down first.
    pub(crate) fn may_send_change(&self) -> bool {
        self.keep.as_ref().is_none_or(crate::keep::Keep::has_room_for_change)
    }

    /// Writes a change down that is about to be sent.
    pub(crate) fn keep_change(&mut self, volume: VolumeId, queued: &Queued) {
        let Some(keep) = &mut self.keep else { return };
        let (slot, sequence) = slot_and_sequence(&queued.body);
        let op = self.calls.get(&queued.tag).and_then(|call| call.purpose.op());
        let change = Change {
            order: self.next_order,
            volume,
            slot,
            sequence,
            op: op.map_or(0, |op| op.0),
            kind: queued.kind,
            body: queued.body.clone(),
        };
        self.next_order += 1;
        keep.set_sequence(volume, slot, sequence);
        let kept = keep.hold(Which::Changes, 1, &change.encode());
        if let Some(kept) = kept {
            self.kept_changes.insert(queued.tag, kept);
        }
    }

    /// The change was answered; its record stays until whoever asked has heard.
    pub(crate) fn change_answered(&mut self, tag: u64) {
        self.answered_changes.extend(self.kept_changes.remove(&tag));
        if let (Some(keep), Some(record)) = (&mut self.keep, self.given_up_ops.remove(&tag)) {
            keep.remove(Which::Ops, record);
        }
    }

    /// What a server said, once everything that follows from it is written down.
    pub(crate) fn keep_welcome(&mut self, link: LinkId) {
        let (Some(keep), Some(welcome)) = (&mut self.keep, self.links[at(link)].welcome()) else {
            return;
        };
        let shard = self.links[at(link)].shard();
        let address = self.link_addresses[at(link)].clone();
        let key = (address.clone(), shard);
        let content = LinkRecord { address, shard, welcome: *welcome }.encode();
        match self.kept_links.get(&key) {
            Some((record, _)) => keep.update(Which::Links, *record, &content),
            None => {
                if let Some(record) = keep.insert(Which::Links, 1, &content) {
                    self.kept_links.insert(key, (record, *welcome));
                }
            }
        }
    }

    /// Writes down what the operations wait for that have waited for a while.
    pub(crate) fn tell_what_is_waited_for(&mut self) {
        if self.keep.is_none() || self.now < self.told_at + TELL_AFTER {
            return;
        }
        self.told_at = self.now;
        let old = |started: Duration| started + TELL_AFTER <= self.now;
        let mut told = Vec::new();
        for (id, op) in self.ops.iter().filter(|(_, op)| old(op.started)) {
            let Some(record) = op.kept else { continue };
            told.push((record, *id, self.waits_for(op.tags.as_slice(), &op.kind)));
        }
        let Some(keep) = &mut self.keep else { return };
        for (record, _, (state, waits_for)) in told {
            keep.update_op(record, state, waits_for, self.now);
        }
    }

    fn waits_for(&self, tags: &[u64], kind: &OpKind) -> (OpState, String) {
        let calls: Vec<&Call> = tags.iter().filter_map(|tag| self.calls.get(tag)).collect();
        if let Some(call) = calls.first() {
            let address = &self.link_addresses[at(call.link)];
            let up = self.links[at(call.link)].is_answering(self.now);
            let how = if up { "server" } else { "server, away:" };
            let text = format!("{how} {address} ({:?})", call.kind);
            return (OpState::InProgress, text.chars().take(WAITS_FOR_BYTES_MAX).collect());
        }
        let what = match kind {
            OpKind::WriteWaiting { .. } => "room for written data",
            OpKind::WriteDirect { .. } => "targets to take data",
            OpKind::ReadWaiting { .. } => "writes to the same blocks",
            OpKind::Settle { durable: true, .. } => "targets to make data durable",
            OpKind::Settle { .. } => "targets to take data",
            OpKind::SetAttr { .. } => "writes before it",
            OpKind::XattrWaiting(_) => "changes before it",
            OpKind::CopyWaiting(..) => "writes to what is copied",
            OpKind::Lock { .. } => "a lock",
            _ => "",
        };
        (OpState::Waiting, what.to_owned())
    }
}

fn handle_record(handle: Handle, state: &HandleState) -> HandleRecord {
    let HandleState { ino, dir, errors_seen, made_by, .. } = *state;
    HandleRecord { handle: handle.0, ino, dir, errors_seen, made_by }
}

fn file_record(file: &File) -> FileRecord {
    FileRecord {
        attr: file.attr,
        layout: file.layout.clone(),
        inline_max: file.inline.as_ref().map(|inline| inline.bytes_max),
        begun_max: file.begun,
        server_opens: file.server_opens,
        writer: (file.writer.uid, file.writer.gid),
        local_end: file.local_end,
        local_mtime: file.local_mtime,
        acked_end: file.telling.acked_end,
        untold: !file.telling.is_settled(),
        let_go: file.unsynced.has_let_go(),
        blocks: file.telling.blocks,
        error_count: file.error_count,
        errno: file.errno.unsigned_abs(),
    }
}

/// Name and inode of an operation, for people.
pub(crate) fn describe(op: &FsOp) -> (&'static str, Ino) {
    let none = Ino(0);
    match op {
        FsOp::Lookup { parent, .. } => ("lookup", *parent),
        FsOp::GetAttr { ino, .. } => ("getattr", *ino),
        FsOp::SetAttr { ino, .. } => ("setattr", *ino),
        FsOp::ReadLink { ino } => ("readlink", *ino),
        FsOp::Make { parent, .. } => ("make", *parent),
        FsOp::Create { parent, .. } => ("create", *parent),
        FsOp::Tmpfile { parent, .. } => ("tmpfile", *parent),
        FsOp::Open { ino, .. } => ("open", *ino),
        FsOp::Read { .. } => ("read", none),
        FsOp::Write { .. } => ("write", none),
        FsOp::Flush { .. } => ("flush", none),
        FsOp::Fsync { .. } => ("fsync", none),
        FsOp::Lock(asked) => ("lock", asked.ino),
        FsOp::TestLock(test) => ("getlk", test.ino),
        FsOp::Release { .. } => ("release", none),
        FsOp::OpenDir { ino } => ("opendir", *ino),
        FsOp::ReadDir { .. } => ("readdir", none),
        FsOp::Unlink { parent, .. } => ("unlink", *parent),
        FsOp::Rmdir { parent, .. } => ("rmdir", *parent),
        FsOp::Rename { parent, .. } => ("rename", *parent),
        FsOp::Link { ino, .. } => ("link", *ino),
        FsOp::StatFs => ("statfs", none),
        FsOp::GetXattr { ino, .. } => ("getxattr", *ino),
        FsOp::SetXattr { ino, .. } => ("setxattr", *ino),
        FsOp::ListXattr { ino, .. } => ("listxattr", *ino),
        FsOp::RemoveXattr { ino, .. } => ("removexattr", *ino),
        FsOp::Fallocate { .. } => ("fallocate", none),
        FsOp::Copy { .. } => ("copy", none),
        FsOp::Lseek { .. } => ("lseek", none),
        _ => ("other", none),
    }
}
