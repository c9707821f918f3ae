//! A successor: takes up what the client-core before it left in the [`Keep`].
//!
//! Files, handles and unfinished writes are there from the start. Links begin as after a lost connection, so that
//! what is open is told first and changes in flight are replayed with their old slots and numbers. Operations wait
//! until the volume's root was seen; the kernel asks the unanswered ones again, and one whose change is being
//! replayed gets that answer.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use weft_iobuf::SharedSlot;
use weft_net::link::Request;
use weft_wire::meta::MetaRequest;
use weft_wire::session::Welcome;
use weft_wire::units::{to_u64, to_usize};
use weft_wire::{Ino, Kind, LeaseBits, ShardId, VolumeId};

use crate::core::{ClientCore, at};
use crate::file::File;
use crate::inline::InlineFile;
use crate::keep::records::write_state;
use crate::keep::{Change, FileRecord, HandleRecord, Keep, OpRecord, Which, WriteRecord};
use crate::leases::{Changes, amend};
use crate::op::{Caller, FsOp, Handle, LinkId, OpId};
use crate::state::{AfterSetAttr, Answer, Call, HandleState, Op, OpKind, Purpose, errno};
use crate::writes::{Unsynced, Write};

/// What is left to be taken up.
#[derive(Debug, Default)]
pub(crate) struct Legacy {
    /// Changes in flight, in order, until the map is known.
    changes: Vec<(u32, Change)>,
    /// What the servers said to the one before, by address and shard.
    pub(crate) links: BTreeMap<(String, ShardId), (u32, Welcome)>,
    /// The first connection was made before the map was known.
    early_up: Option<(LinkId, Welcome, bool)>,
    /// Operations that came before this core was ready.
    early: VecDeque<(OpId, Caller, FsOp)>,
    /// Changes that operations of the one before waited for.
    replays: BTreeMap<OpId, Replay>,
    /// Records of the operations that the one before had not answered.
    unanswered: BTreeMap<OpId, u32>,
    /// Handles that these had made.
    made: BTreeMap<OpId, Handle>,
    /// Inodes that the volume may count as open for an answer that nobody got.
    stray_opens: BTreeSet<Ino>,
}

#[derive(Debug)]
struct Replay {
    tag: u64,
    kind: Kind,
    answer: Option<Answer>,
}

impl ClientCore {
    /// A client of the cluster behind `address` that keeps in `keep` what a successor needs. When another one kept
    /// something there before, this is its successor. `pool` is then the same memory, with nothing allocated.
    #[must_use]
    pub fn keeping(
        config: crate::ClientConfig,
        pool: weft_iobuf::Pool,
        address: &str,
        mut keep: Keep,
        now: Duration,
    ) -> ClientCore {
        let found = keep.is_used().then(|| keep.find());
        let mut core = ClientCore::new(config, pool, address);
        core.now = now;
        core.keep = Some(keep);
        let Some(mut found) = found else { return core };
        let mut legacy = Legacy::default();
        core.next_handle = found.next_handle.max(1);
        for (record, file) in found.files {
            core.take_file(record, file);
        }
        for (record, op) in found.ops {
            core.take_op(&mut legacy, record, op);
        }
        for (record, handle) in found.handles {
            core.take_handle(&mut legacy, record, handle);
        }
        core.take_locks(found.locks);
        found.writes.sort_by_key(|(_, _, write)| write.order);
        found.changes.sort_by_key(|(_, change)| change.order);
        let orders = found.writes.iter().map(|(_, _, write)| write.order);
        let orders = orders.chain(found.changes.iter().map(|(_, change)| change.order));
        core.next_order = orders.max().map_or(1, |last| last + 1);
        core.take_writes(found.writes);
        legacy.changes = found.changes;
        let links = found.links.into_iter();
        legacy.links =
            links.map(|(at, link)| ((link.address, link.shard), (at, link.welcome))).collect();
        core.kept_links = legacy.links.clone();
        let welcomes = legacy.links.values().map(|(_, welcome)| welcome);
        core.fence = welcomes.map(|welcome| welcome.fence).max().unwrap_or(0);
        // The same cluster, whoever answers at that address now.
        let cluster = legacy.links.values().next().map(|(_, welcome)| welcome.cluster);
        core.config.cluster = core.config.cluster.or(cluster);
        tracing::info!(
            files = core.files.len(),
            handles = core.handles.len(),
            changes = legacy.changes.len(),
            dirty_bytes = core.dirty_bytes,
            "taking over"
        );
        core.legacy = Some(legacy);
        core
    }

    fn take_file(&mut self, record: u32, kept: FileRecord) {
        let mut file = File::new(kept.attr, kept.layout);
        file.inline = kept.inline_max.map(InlineFile::new);
        file.begun = kept.begun_max;
        file.kept = Some(record);
        file.server_opens = kept.server_opens;
        file.writer = Caller { uid: kept.writer.0, gid: kept.writer.1, pid: 0 };
        (file.local_end, file.local_mtime) = (kept.local_end, kept.local_mtime);
        file.telling.acked_end = kept.acked_end;
        file.telling.wanted = u64::from(kept.untold);
        file.telling.blocks = kept.blocks;
        (file.error_count, file.errno) = (kept.error_count, kept.errno.cast_signed());
        file.error_unseen = kept.error_count > 0; // unless somebody who has it open was told
        // What was made durable before is not known any more: the next fsync asks every target.
        file.written_before = true;
        if let Some(layout) = file.layout.as_ref().filter(|_| kept.let_go) {
            file.unsynced.assume_let_go(layout.targets());
        }
        self.files.insert(kept.attr.ino, file);
    }

    fn take_op(&mut self, legacy: &mut Legacy, record: u32, op: OpRecord) {
        let id = OpId(op.op);
        if op.opens && !self.files.contains_key(&op.ino) {
            legacy.stray_opens.insert(op.ino);
        }
        let purged = crate::records::OpState::Purged;
        if let Some(keep) = &mut self.keep {
            keep.update_op(record, purged, op.waits_for, self.now);
            if let Some(before) = legacy.unanswered.insert(id, record) {
                keep.remove(Which::Ops, before);
            }
        }
    }

    fn take_handle(&mut self, legacy: &mut Legacy, record: u32, kept: HandleRecord) {
        let HandleRecord { handle, ino, dir, errors_seen, made_by } = kept;
        let (handle, by) = (Handle(handle), OpId(made_by));
        if !dir {
            let Some(file) = self.files.get_mut(&ino) else {
                tracing::error!(%ino, "an open file without a record: a bug");
                return;
            };
            file.open_count += 1;
            file.error_unseen &= errors_seen < file.error_count;
        }
        let kept = Some(record);
        let state = HandleState { ino, dir, writes: true, errors_seen, made_by, kept };
        self.handles.insert(handle, state);
        if legacy.unanswered.contains_key(&by) {
            legacy.made.insert(by, handle);
        }
    }

    fn take_writes(&mut self, writes: Vec<(u32, u64, WriteRecord)>) {
        let mut slots: BTreeMap<u64, SharedSlot> = BTreeMap::new();
        for (record, state, write) in writes {
            let Some(keep) = &self.keep else { return };
            let kept = std::rc::Rc::new(keep.held(Which::Writes, record));
            if write.bytes == 0 {
                continue; // a run that had nothing yet
            }
            if let Entry::Vacant(place) = slots.entry(write.slot.0)
                && let Some(slot) = self.pool.claim(to_usize(write.slot.0), to_usize(write.slot.1))
            {
                place.insert(slot.share());
            }
            let Some(file) = self.files.get_mut(&write.ino) else {
                tracing::error!(ino = %write.ino, "written data without its file: a bug");
                continue;
            };
            let slot = slots.get(&write.slot.0);
            match slot.filter(|slot| write.start + write.bytes <= to_u64(slot.len())) {
                Some(slot) => {
                    let taken = take_write(file, slot, &write, state, kept);
                    self.dirty_bytes += taken.0;
                    self.unsynced_bytes += taken.1;
                }
                None => {
                    tracing::error!(ino = %write.ino, "written data that cannot be found: a bug");
                    file.fail(errno::EIO);
                }
            }
        }
    }

    /// The map is known: everything that was left goes on.
    pub(crate) fn take_up(&mut self) {
        let Some(legacy) = &mut self.legacy else { return };
        let changes = std::mem::take(&mut legacy.changes);
        let early_up = legacy.early_up.take();
        if let Some(keep) = &self.keep {
            for (id, volume) in &mut self.volumes {
                volume.set_sequences(keep.sequences(*id));
            }
        }
        let superseded: BTreeSet<u64> = changes
            .iter()
            .filter_map(|(_, one)| {
                let later = |other: &&(u32, Change)| {
                    let other = &other.1;
                    (other.volume, other.slot, other.op) == (one.volume, one.slot, one.op)
                        && other.sequence > one.sequence
                };
                changes.iter().find(later).map(|_| one.order)
            })
            .collect();
        for (record, change) in changes {
            let kept =
                self.keep.as_ref().expect("it was read from there").held(Which::Changes, record);
            if !superseded.contains(&change.order) && self.volumes.contains_key(&change.volume) {
                self.replay(change, kept);
            }
        }
        for file in self.files.values_mut() {
            // Nothing is kept that was not written under a lease; whoever gave one back had nothing kept.
            file.owned = !file.is_settled() || file.unsynced.is_keeping();
        }
        self.touched.extend(self.files.keys().copied());
        self.unsaved.extend(self.files.keys().copied());
        for (ino, file) in &mut self.files {
            if !file.telling.is_settled() {
                file.telling.due = Some(self.now);
                self.file_timers.insert((self.now, *ino));
            }
        }
        if let Some((link, welcome, data_lost)) = early_up {
            self.link_up(link, &welcome, true, data_lost);
        }
    }

    /// Sends a change again that the one before sent, or may have.
    fn replay(&mut self, change: Change, kept: crate::keep::Kept) {
        let Change { volume: id, slot, op, kind, mut body, .. } = change;
        if matches!(kind, Kind::WriteData | Kind::MoveData) {
            // If it was not made yet it must not be from now on, beside what this one sends: the writes are kept, and a move
            // begins anew.
            amend(kind, &mut body);
        }
        let (tag, op) = (self.next_tag(), OpId(op));
        let changes = MetaRequest::decode(kind, &body).ok().map(|(_, request)| {
            let mut changes = Changes::of(&request);
            self.forget_changed(&mut changes, true);
            changes
        });
        let purpose = match MetaRequest::decode(kind, &body) {
            Ok((_, MetaRequest::SetAttr { ino, set })) => {
                let held = op != OpId(0) && set.size.is_some() && self.files.contains_key(&ino);
                if held {
                    self.files.get_mut(&ino).expect("just seen").exclusive += 1;
                }
                match self.files.get_mut(&ino) {
                    Some(file) if op == OpId(0) => {
                        file.behind.add(&set);
                        file.sent_behind += 1;
                        Purpose::SetAttrBehind { ino }
                    }
                    None if op == OpId(0) => Purpose::Unheard,
                    _ => Purpose::SetAttr { op, ino, held },
                }
            }
            Ok((_, MetaRequest::Make { how, .. })) if how.open => Purpose::Open(op),
            Ok(_) if op != OpId(0) => Purpose::Op(op),
            Ok(_) => Purpose::Unheard,
            Err(_) => return,
        };
        let volume = self.volumes.get_mut(&id).expect("looked up by the caller");
        volume.hold_slot(tag, slot);
        let link = volume.link;
        self.kept_changes.insert(tag, kept);
        self.changes_asked += 1;
        self.calls.insert(tag, Call { link, kind, volume: Some(id), purpose, changes });
        if let Some(legacy) = self.legacy.as_mut().filter(|_| op != OpId(0)) {
            legacy.replays.insert(op, Replay { tag, kind, answer: None });
        }
        let lease = LeaseBits::NONE;
        let request = Request { tag, kind, body, payload: None, deadline: None, lease };
        let now = self.now;
        self.links[at(link)].submit(request, now);
        self.touch_link(link);
    }

    /// Whether a connection's start is to wait for the map, without which nothing can be told of what is open.
    pub(crate) fn put_off_link_up(&mut self, link: LinkId, welcome: &Welcome, lost: bool) -> bool {
        match &mut self.legacy {
            Some(legacy) if self.volumes.is_empty() => {
                legacy.early_up = Some((link, *welcome, lost));
                true
            }
            _ => false,
        }
    }

    /// Inodes to be told as not open, unless they are.
    pub(crate) fn stray_opens(&self, id: VolumeId) -> Vec<Ino> {
        let stray = self.legacy.iter().flat_map(|legacy| legacy.stray_opens.iter());
        stray.copied().filter(|ino| ino.volume() == id && !self.files.contains_key(ino)).collect()
    }

    /// An operation that comes before a successor is ready waits.
    pub(crate) fn put_off(&mut self, id: OpId, caller: Caller, op: FsOp) -> Option<FsOp> {
        if self.ready || self.failed || self.legacy.is_none() {
            return Some(op);
        }
        let waiting = crate::records::OpState::Waiting;
        let record = self.keep_op(id, caller.pid, &op, waiting);
        if let (Some(keep), Some(record)) = (&mut self.keep, record) {
            keep.update_op(record, waiting, format!("takeover: server {}", self.address), self.now);
        }
        let legacy = self.legacy.as_mut().expect("just seen");
        let before = record.and_then(|record| legacy.unanswered.insert(id, record));
        if let (Some(keep), Some(before)) = (&mut self.keep, before) {
            keep.remove(Which::Ops, before);
        }
        legacy.early.push_back((id, caller, op));
        None
    }

    /// Whether the kernel waits for the answer of an operation, or will ask for it again.
    pub(crate) fn is_awaited(&self, op: OpId) -> bool {
        let replays = self.legacy.as_ref().is_some_and(|legacy| legacy.replays.contains_key(&op));
        replays || self.ops.contains_key(&op)
    }

    /// Takes an operation back that still waits for this core to be ready.
    pub(crate) fn take_early(&mut self, id: OpId) -> bool {
        let Some(legacy) = &mut self.legacy else { return false };
        let before = legacy.early.len();
        legacy.early.retain(|(early, ..)| *early != id);
        let taken = legacy.early.len() < before;
        if taken {
            self.finished_ops.extend(legacy.unanswered.remove(&id));
        }
        taken
    }

    /// This core is ready: the operations that came before that begin.
    pub(crate) fn begin_early(&mut self) {
        let Some(legacy) = &mut self.legacy else { return };
        for (id, caller, op) in std::mem::take(&mut legacy.early) {
            self.begin(id, caller, op);
        }
    }

    /// The operation was asked of the one before: what that one made of it goes, or becomes its answer. Whether it is
    /// answered, or will be.
    pub(crate) fn joins(&mut self, id: OpId, caller: Caller, op: &FsOp) -> bool {
        let Some(legacy) = &mut self.legacy else { return false };
        let record = legacy.unanswered.remove(&id);
        let handle = legacy.made.remove(&id);
        let replay = legacy.replays.remove(&id);
        if let (Some(keep), Some(record)) = (&mut self.keep, record) {
            keep.remove(Which::Ops, record);
        }
        if let Some(handle) = handle {
            self.unmake(handle);
        }
        let Some(Replay { tag, kind, answer }) = replay else { return false };
        let Some(op_kind) = kind_of_joined(op, kind) else {
            self.unheard(answer);
            return false;
        };
        let record = self.keep_op(id, caller.pid, op, crate::records::OpState::InProgress);
        let subject = self.subject_of(op);
        let state = Op {
            caller,
            started: self.now,
            kind: op_kind,
            tags: vec![tag],
            patience_ends: None,
            kept: record,
            what: crate::keep::counts::place(crate::saving::describe(op).0),
            subject,
        };
        self.ops.insert(id, state);
        if let Some(answer) = answer {
            match kind {
                Kind::SetAttr => {
                    let reply = answer.meta(kind);
                    self.set_attr_answered(id, Ino(0), false, reply, answer.lease);
                }
                Kind::Make if matches!(op, FsOp::Create { .. } | FsOp::Tmpfile { .. }) => {
                    self.open_answered(id, answer.meta(kind), answer.lease);
                }
                _ => self.op_answered(id, kind, &answer),
            }
        }
        true
    }

    /// An answer to a replay whose operation has not been asked again yet is put aside.
    pub(crate) fn put_aside(&mut self, call: &Call, answer: Answer) -> Option<Answer> {
        let Some(op) = call.purpose.op() else { return Some(answer) };
        let replay = self.legacy.as_mut().and_then(|legacy| legacy.replays.get_mut(&op));
        let Some(replay) = replay else { return Some(answer) };
        if let Purpose::SetAttr { ino, held: true, .. } = call.purpose {
            let (reply, lease) = (answer.meta(call.kind), answer.lease);
            replay.answer = Some(answer);
            self.set_attr_answered(op, ino, true, reply, lease);
        } else {
            replay.answer = Some(answer);
        }
        None
    }

    /// The kernel has asked everything again that the one before had not answered: what nobody claimed is over.
    pub fn all_asked_again(&mut self, now: Duration) {
        self.now = now;
        let Some(legacy) = &mut self.legacy else { return };
        let early: BTreeSet<OpId> = legacy.early.iter().map(|(id, ..)| *id).collect();
        let unclaimed = |id: &OpId| !early.contains(id);
        let replays = std::mem::take(&mut legacy.replays);
        let (over, waiting) = replays.into_iter().partition(|(id, _)| unclaimed(id));
        legacy.replays = waiting;
        let over: BTreeMap<OpId, Replay> = over;
        let gone: Vec<OpId> = legacy.unanswered.keys().copied().filter(unclaimed).collect();
        for id in gone {
            let record = legacy.unanswered.remove(&id);
            legacy.made.remove(&id); // It was answered: the handle is the kernel's.
            if let (Some(keep), Some(record)) = (&mut self.keep, record) {
                keep.remove(Which::Ops, record);
            }
        }
        over.into_values().for_each(|replay| self.unheard(replay.answer));
        self.settle();
    }

    /// An answer that nobody waits for any more: an open in it is given back.
    fn unheard(&mut self, answer: Option<Answer>) {
        let reply = answer.map(|answer| answer.meta(Kind::Make));
        if let Some(Ok(weft_wire::meta::MetaReply::Made(attr, _, Some(_)))) = reply {
            self.give_opens_back(attr.ino, 1, None);
        }
    }

    /// A handle that the kernel never heard of.
    pub(crate) fn unmake(&mut self, handle: Handle) {
        let Some(state) = self.handles.get(&handle).copied() else { return };
        self.drop_handle(handle);
        if let Some(file) = self.files.get_mut(&state.ino).filter(|_| !state.dir) {
            file.open_count -= 1;
            self.touched.insert(state.ino);
        }
    }
}

/// Puts a write back among the file's; the bytes that are dirty, and those that are kept.
fn take_write(
    file: &mut File,
    slot: &SharedSlot,
    record: &WriteRecord,
    state: u64,
    kept: std::rc::Rc<crate::keep::Kept>,
) -> (usize, usize) {
    let Some(layout) = file.layout.clone() else { return (0, 0) };
    let (mut dirty, mut unsynced) = (0, 0);
    for piece in layout.pieces(record.offset, record.bytes) {
        let start = to_usize(record.start + piece.at);
        let bytes = to_usize(u64::from(piece.bytes));
        let write = Write {
            target: piece.target,
            index: piece.index,
            offset: piece.offset,
            bytes: piece.bytes,
            file_end: record.offset + piece.at + u64::from(piece.bytes),
            payload: (slot.clone(), start..start + bytes),
            tag: None,
            op: None,
            memory_bytes: to_usize(record.memory_bytes),
            dirty: state == write_state::NEW,
            again: state != write_state::NEW,
            kept: Some(std::rc::Rc::clone(&kept)),
            order: record.order,
        };
        match state {
            write_state::ACKNOWLEDGED => {
                unsynced += Unsynced::bytes_of(&write);
                let id = file.writes.take_id();
                file.unsynced.add(id, write);
            }
            _ => {
                if write.dirty {
                    dirty += bytes;
                    file.dirty_bytes += bytes;
                }
                file.writes.add(write);
            }
        }
    }
    (dirty, unsynced)
}

/// What an operation is at whose one change was sent before; `None` when the change was another step of it.
fn kind_of_joined(op: &FsOp, kind: Kind) -> Option<OpKind> {
    match (op, kind) {
        (FsOp::Create { flags, .. } | FsOp::Tmpfile { flags, .. }, Kind::Make) => {
            Some(OpKind::Open { flags: *flags, created: true, name: None })
        }
        (FsOp::SetAttr { ino, set, .. }, Kind::SetAttr) => Some(OpKind::SetAttr {
            ino: *ino,
            set: *set,
            barrier: 0,
            tell: None,
            then: AfterSetAttr::Attr,
            held: false,
            sent: true,
        }),
        (FsOp::Create { .. } | FsOp::SetAttr { .. } | FsOp::Open { .. }, _) => None,
        _ => Some(OpKind::Meta { bytes_max: None, name: None }),
    }
}
