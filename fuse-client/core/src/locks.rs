//! Locks of files, as the volume's shard grants them: what is held here, and who waits.
//!
//! A lock is asked for with a ticket. What waits at the server is answered "queued" at once; how it ends comes with the
//! answer to a `LockEvents` that is left there while anybody waits. After a reconnect the session first claims what it
//! holds, then asks again for what it waits for. What it does not hold any more is an error of its owner and of the
//! file: an interval in which somebody else may have had the lock cannot be hidden.
//!
//! Invariants:
//! - `held` has what the server granted and was not asked to take back, no more. So a claim never asks for a lock that
//!   nobody here knows of.
//! - A request whose operation ended before it was decided (the server was away) is withdrawn or undone: the server's
//!   table is brought back to what `held` says.

use std::collections::{BTreeMap, BTreeSet};

use weft_wire::limits::LIST_COUNT_MAX;
use weft_wire::locks::{
    ClaimedLock, HeldLock, LockCancel, LockCancelReply, LockClaim, LockClaimReply, LockEventsReply,
    LockKind, LockOwner, LockRange, LockRanges, LockReply, LockRequest, LockSpace, LockTest,
    LockTestReply,
};
use weft_wire::meta::{MetaRequest, Time};
use weft_wire::{Ino, Kind, Status, VolumeId};

use crate::config::OnTimeout;
use crate::core::{ClientCore, at};
use crate::keep::{Kept, LockRecord, Which};
use crate::limits::INTERRUPT_PATIENCE;
use crate::op::{Caller, FsReply, Handle, OpId};
use crate::state::{Answer, OpKind, Purpose, errno};

/// What [`crate::FsOp::Lock`] asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockAsked {
    /// The file or directory.
    pub ino: Ino,
    /// Through which handle: its release gives the lock up.
    pub handle: Handle,
    /// For whom.
    pub owner: LockOwner,
    /// The process.
    pub pid: u32,
    /// Which bytes.
    pub range: LockRange,
    /// What the owner has of them afterwards; `None` for nothing.
    pub kind: Option<LockKind>,
    /// Wait when somebody else holds it.
    pub wait: bool,
}

/// What one owner holds of one file.
#[derive(Debug, Default)]
struct Held {
    ranges: LockRanges,
    /// Through which handles it was taken.
    handles: BTreeSet<Handle>,
    /// A part was lost while the server was away, and the owner was not told yet.
    lost: bool,
    /// Records of the ranges, by where they begin.
    kept: BTreeMap<u64, (HeldLock, Kept)>,
}

/// A request that is not decided.
#[derive(Debug)]
struct Wait {
    /// `None` once nobody waits for it any more.
    op: Option<OpId>,
    asked: LockAsked,
    /// The server has it in its queue. Else its answer is on the way.
    queued: bool,
    /// It is to be withdrawn.
    cancelled: bool,
}

/// The locks of a mount.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    held: BTreeMap<(Ino, LockOwner), Held>,
    waits: BTreeMap<u64, Wait>,
    last_ticket: u64,
    /// Volumes at which a `LockEvents` lies.
    listening: BTreeSet<VolumeId>,
    /// Claims in flight, by tag.
    claims: BTreeMap<u64, Vec<ClaimedLock>>,
    /// What changed and is not written down.
    unsaved: BTreeSet<(Ino, LockOwner)>,
}

impl Locks {
    fn held_by(&self, ino: Ino, owner: LockOwner) -> Vec<HeldLock> {
        self.held.get(&(ino, owner)).map_or(vec![], |held| held.ranges.iter().copied().collect())
    }

    fn set(&mut self, asked: &LockAsked, to: Option<(LockKind, u32)>) {
        let key = (asked.ino, asked.owner);
        let held = self.held.entry(key).or_default();
        held.ranges.set(asked.range, to);
        if to.is_some() {
            held.handles.insert(asked.handle);
        }
        self.unsaved.insert(key);
        if held.ranges.is_empty() && !held.lost {
            self.held.remove(&key);
        }
    }

    /// What is exclusive of this range is shared from now on. Written down before it is asked for, as an unlock is: a
    /// successor that claimed more than the server still has for us would lose it to whoever got it since.
    fn weaken(&mut self, asked: &LockAsked) {
        for held in self.held_by(asked.ino, asked.owner) {
            let (start, end) =
                (held.range.start.max(asked.range.start), held.range.end.min(asked.range.end));
            if held.kind == LockKind::Exclusive
                && let Some(range) = LockRange::new(start, end)
            {
                self.set(&LockAsked { range, ..*asked }, Some((LockKind::Shared, held.pid)));
            }
        }
    }

    /// Takes note of a request that is about to be sent.
    fn new_ticket(&mut self, op: Option<OpId>, asked: LockAsked) -> u64 {
        self.last_ticket += 1;
        let wait = Wait { op, asked, queued: false, cancelled: false };
        self.waits.insert(self.last_ticket, wait);
        self.last_ticket
    }
}

impl ClientCore {
    /// Whether this owner has locks on the file, or is to be told that it lost some.
    #[must_use]
    pub fn has_locks(&self, ino: Ino, owner: LockOwner) -> bool {
        self.locks.held.contains_key(&(ino, owner))
    }

    pub(crate) fn begin_lock(&mut self, id: OpId, asked: LockAsked) -> Result<(), i32> {
        let key = (asked.ino, asked.owner);
        if let Some(held) = self.locks.held.get_mut(&key).filter(|held| held.lost) {
            // Told once, and what is left is given up: the owner cannot go on as if nothing had been.
            held.lost = false;
            self.unlock_all(asked.ino, asked.owner);
            return Err(errno::EIO);
        }
        let volume = asked.ino.volume();
        let Some(known) = self.volumes.get(&volume).map(|volume| volume.has_changed) else {
            return Err(errno::EIO);
        };
        let is_full = self.keep.as_ref().is_some_and(|keep| !keep.has_room_for_lock());
        match asked.kind {
            Some(_) if is_full => return Err(errno::ENOLCK),
            None if !self.has_locks(asked.ino, asked.owner) => {
                self.finish(id, Ok(FsReply::Done));
                return Ok(());
            }
            None => self.locks.set(&asked, None),
            Some(kind) => {
                let held = self.locks.held.get(&key);
                let has_it = held.is_some_and(|held| held.ranges.has(asked.range, kind));
                if asked.owner.space == LockSpace::Flock && !has_it {
                    self.locks.set(&asked, None); // as the server does, and Linux
                } else if kind == LockKind::Shared {
                    self.locks.weaken(&asked);
                }
            }
        }
        let ticket = self.locks.new_ticket(Some(id), asked);
        self.set_kind(id, OpKind::Lock { ticket });
        if asked.kind.is_some() && !known {
            self.register(volume, ticket);
        } else {
            self.send_lock(ticket);
        }
        Ok(())
    }

    /// After a restart the server waits for the sessions it knows, so it must know us before we hold a lock: it keeps
    /// the outcome of a session's changes, also of one that changes nothing because there is no such inode.
    fn register(&mut self, volume: VolumeId, ticket: u64) {
        let Some(nothing) = Ino::new(volume, 0) else { return };
        let request = MetaRequest::Wrote {
            ino: nothing,
            size_min: 0,
            blocks_added: 0,
            mtime: Time::default(),
            at_targets: false,
        };
        self.meta_call(nothing, Caller::default(), &request, Purpose::Register { ticket });
    }

    pub(crate) fn registered(&mut self, ticket: u64) {
        match self.locks.waits.get(&ticket).map(|wait| wait.cancelled) {
            Some(false) => self.send_lock(ticket),
            Some(true) => self.lock_decided(ticket, Status::Interrupted),
            None => {}
        }
    }

    fn send_lock(&mut self, ticket: u64) {
        let Some(wait) = self.locks.waits.get_mut(&ticket) else { return };
        wait.queued = false;
        let LockAsked { ino, owner, pid, range, kind, wait, .. } = wait.asked;
        let mut body = Vec::new();
        LockRequest { ino, owner, pid, range, kind, wait, ticket }.encode(&mut body);
        self.lock_call(ino.volume(), Kind::Lock, body, Purpose::Lock { ticket });
    }

    fn lock_call(&mut self, volume: VolumeId, kind: Kind, body: Vec<u8>, purpose: Purpose) -> u64 {
        let link = self.volumes.get(&volume).map(|volume| volume.link);
        let Some(link) = link else { return self.next_tag() };
        let first = matches!(purpose, Purpose::LockClaim { .. });
        self.ask_server(link, (kind, body), purpose, first)
    }

    /// The server answered a request.
    pub(crate) fn lock_answered(&mut self, ticket: u64, answer: &Answer) {
        let status = match (answer.status, LockReply::decode(&answer.body)) {
            (Status::Ok, Ok(LockReply { queued: true })) => return self.lock_queued(ticket),
            (Status::Ok, Err(_)) => Status::Protocol,
            (status, _) => status,
        };
        self.lock_decided(ticket, status);
    }

    fn lock_queued(&mut self, ticket: u64) {
        let Some(wait) = self.locks.waits.get_mut(&ticket) else { return };
        wait.queued = true;
        let volume = wait.asked.ino.volume();
        if wait.cancelled {
            self.send_lock_cancel(ticket);
        }
        // However long others keep the lock, the server answers: this is no reason for EIO.
        let op = self.locks.waits.get(&ticket).and_then(|wait| wait.op);
        if let (Some(id), OnTimeout::Eio(timeout)) = (op, self.config.on_timeout)
            && let Some(op) = self.ops.get(&id)
        {
            self.op_timers.remove(&(op.started + timeout, id, errno::EIO));
        }
        self.listen_for_locks(volume);
    }

    fn listen_for_locks(&mut self, volume: VolumeId) {
        let somebody_waits = |wait: &Wait| wait.queued && wait.asked.ino.volume() == volume;
        if self.locks.waits.values().any(somebody_waits) && self.locks.listening.insert(volume) {
            self.lock_call(volume, Kind::LockEvents, Vec::new(), Purpose::LockEvents { volume });
        }
    }

    /// Requests that waited at the server have ended.
    pub(crate) fn lock_events_came(&mut self, volume: VolumeId, answer: &Answer) {
        self.locks.listening.remove(&volume);
        let reply = LockEventsReply::decode(&answer.body);
        let Some(reply) = reply.ok().filter(|_| answer.status == Status::Ok) else {
            return tracing::error!(status = %answer.status, "no news of locks that wait");
        };
        for (ticket, status) in reply.events {
            self.lock_decided(ticket, status);
        }
        self.listen_for_locks(volume);
    }

    /// A request is granted or refused.
    fn lock_decided(&mut self, ticket: u64, status: Status) {
        let Some(wait) = self.locks.waits.remove(&ticket) else { return };
        let asked = wait.asked;
        let granted = status == Status::Ok;
        let Some(id) = wait.op else {
            if granted && wait.cancelled && asked.kind.is_some() {
                self.undo_lock(&asked);
            }
            return;
        };
        if granted && let Some(kind) = asked.kind {
            self.locks.set(&asked, Some((kind, asked.pid)));
            if !self.handles.contains_key(&asked.handle) {
                self.unlock_all(asked.ino, asked.owner); // closed meanwhile by another thread
            }
        }
        let result = if granted { Ok(FsReply::Done) } else { Err(status.errno()) };
        self.finish(id, result);
    }

    /// A lock may have been granted that nobody waits for any more: the server is told what the owner has of these bytes.
    fn undo_lock(&mut self, asked: &LockAsked) {
        let (mut start, end) = (Some(asked.range.start), asked.range.end);
        let asked = LockAsked { wait: false, ..*asked };
        for held in self.locks.held_by(asked.ino, asked.owner) {
            let Some(from) = start.filter(|from| *from <= end) else { break };
            let (first, last) = (held.range.start.max(from), held.range.end.min(end));
            let Some(range) = LockRange::new(first, last) else { continue };
            if let Some(range) =
                first.checked_sub(1).and_then(|before| LockRange::new(from, before))
            {
                self.send_detached(LockAsked { range, kind: None, ..asked });
            }
            self.send_detached(LockAsked { range, kind: Some(held.kind), pid: held.pid, ..asked });
            start = last.checked_add(1);
        }
        if let Some(range) = start.and_then(|from| LockRange::new(from, end)) {
            self.send_detached(LockAsked { range, kind: None, ..asked });
        }
    }

    /// Sends a request whose answer nobody waits for.
    fn send_detached(&mut self, asked: LockAsked) {
        let ticket = self.locks.new_ticket(None, asked);
        self.send_lock(ticket);
    }

    /// Gives up all that an owner has of a file, without waiting for the answer.
    fn unlock_all(&mut self, ino: Ino, owner: LockOwner) {
        let Some(held) = self.locks.held.remove(&(ino, owner)) else { return };
        if let Some(handle) = held.handles.first().copied() {
            let (range, kind, wait, pid) = (LockRange::ALL, None, false, 0);
            self.send_detached(LockAsked { ino, handle, owner, pid, range, kind, wait });
        }
    }

    /// The handle is released: what was locked through it is given up.
    pub(crate) fn release_locks(&mut self, ino: Ino, handle: Handle) {
        let owners = self.locks.held.range((ino, LOWEST_OWNER)..);
        let of_file = owners.take_while(|(key, _)| key.0 == ino);
        let owners: Vec<LockOwner> = of_file
            .filter(|(_, held)| held.handles.contains(&handle))
            .map(|(key, _)| key.1)
            .collect();
        owners.into_iter().for_each(|owner| self.unlock_all(ino, owner));
    }

    pub(crate) fn begin_lock_test(&mut self, id: OpId, test: LockTest) -> Result<(), i32> {
        let mut body = Vec::new();
        test.encode(&mut body);
        let volume = test.ino.volume();
        if !self.volumes.contains_key(&volume) {
            return Err(errno::EIO);
        }
        let tag = self.lock_call(volume, Kind::LockTest, body, Purpose::Op(id));
        debug_assert!(self.calls.contains_key(&tag));
        Ok(())
    }

    pub(crate) fn lock_tested(&mut self, id: OpId, answer: &Answer) {
        let result = match (answer.status, LockTestReply::decode(&answer.body)) {
            (Status::Ok, Ok(reply)) => Ok(FsReply::Lock(reply.conflict)),
            (Status::Ok, Err(_)) => Err(errno::EIO),
            (status, _) => Err(status.errno()),
        };
        self.finish(id, result);
    }

    /// A signal for an operation that waits for a lock; false when it is not one. The server is asked to withdraw it:
    /// whether it was granted before is his to say. When he is away it ends, and what comes of it is undone.
    pub(crate) fn interrupt_lock(&mut self, id: OpId) -> bool {
        let Some(OpKind::Lock { ticket }) = self.ops.get(&id).map(|op| &op.kind) else {
            return false;
        };
        let ticket = *ticket;
        let Some(wait) = self.locks.waits.get_mut(&ticket) else { return false };
        let link = self.volumes.get(&wait.asked.ino.volume()).map(|volume| volume.link);
        if !link.is_some_and(|link| self.links[at(link)].is_answering(self.now)) {
            self.abandon(id, errno::EINTR);
            return true;
        }
        let (queued, before) = (wait.queued, std::mem::replace(&mut wait.cancelled, true));
        if queued && !before {
            self.send_lock_cancel(ticket);
        }
        let ends = self.now + INTERRUPT_PATIENCE;
        if let Some(op) = self.ops.get_mut(&id).filter(|op| op.patience_ends.is_none()) {
            op.patience_ends = Some(ends);
            self.op_timers.insert((ends, id, errno::EINTR));
        }
        true
    }

    fn send_lock_cancel(&mut self, ticket: u64) {
        let Some(wait) = self.locks.waits.get(&ticket) else { return };
        let volume = wait.asked.ino.volume();
        let mut body = Vec::new();
        LockCancel { ticket }.encode(&mut body);
        self.lock_call(volume, Kind::LockCancel, body, Purpose::LockCancel { ticket });
    }

    /// Withdrawn, unless it was decided before: then the news are on their way.
    pub(crate) fn lock_cancelled(&mut self, ticket: u64, answer: &Answer) {
        let withdrawn = LockCancelReply::decode(&answer.body).is_ok_and(|reply| reply.withdrawn);
        if withdrawn {
            self.lock_decided(ticket, Status::Interrupted);
        }
    }

    /// An operation ends before its lock is decided. An unlock goes on without it.
    pub(crate) fn leave_lock(&mut self, id: OpId) {
        let Some(OpKind::Lock { ticket }) = self.ops.get(&id).map(|op| &op.kind) else { return };
        let ticket = *ticket;
        let Some(wait) = self.locks.waits.get_mut(&ticket) else { return };
        wait.op = None;
        if wait.asked.kind.is_some() && !std::mem::replace(&mut wait.cancelled, true) && wait.queued
        {
            self.send_lock_cancel(ticket);
        }
    }

    /// After a reconnect, before anything else: what the session holds of a volume's files. Also when it is nothing, for
    /// the server may be waiting for us to say so.
    pub(crate) fn claim_locks(&mut self, volume: VolumeId) -> Vec<u64> {
        let mut claimed = Vec::new();
        for ((ino, owner), held) in &self.locks.held {
            let of_volume = held.ranges.iter().filter(|_| ino.volume() == volume);
            claimed.extend(of_volume.map(|held| ClaimedLock {
                ino: *ino,
                owner: *owner,
                held: *held,
            }));
        }
        let mut parts: Vec<Vec<ClaimedLock>> =
            claimed.chunks(LIST_COUNT_MAX).map(<[ClaimedLock]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let mut tags = Vec::new();
        let count = parts.len();
        for (index, locks) in parts.into_iter().enumerate() {
            let claim = LockClaim { locks, last: index + 1 == count };
            let mut body = Vec::new();
            claim.encode(&mut body);
            let tag = self.lock_call(volume, Kind::LockClaim, body, Purpose::LockClaim { volume });
            self.locks.claims.insert(tag, claim.locks);
            tags.push(tag);
        }
        tags
    }

    /// The claims in flight are of a connection that is gone.
    pub(crate) fn forget_claim(&mut self, tag: u64) {
        self.locks.claims.remove(&tag);
    }

    pub(crate) fn locks_claimed(&mut self, tag: u64, answer: &Answer) {
        let claimed = self.locks.claims.remove(&tag).unwrap_or_default();
        let refused = match (answer.status, LockClaimReply::decode(&answer.body)) {
            (Status::Ok, Ok(reply)) => reply.refused,
            _ => (0..).take(claimed.len()).collect(),
        };
        for index in refused {
            let Some(lock) = usize::try_from(index).ok().and_then(|index| claimed.get(index))
            else {
                continue;
            };
            let (ino, pid) = (lock.ino, lock.held.pid);
            tracing::error!(%ino, pid, "a lock was lost while the server was away: its owner gets EIO");
            if let Some(held) = self.locks.held.get_mut(&(ino, lock.owner)) {
                held.ranges.set(lock.held.range, None);
                held.lost = true;
                self.locks.unsaved.insert((ino, lock.owner));
            }
            if let Some(file) = self.files.get_mut(&ino) {
                file.fail(errno::EIO);
            }
        }
    }

    /// After the claims the server knows of nothing that waits: what is still wanted is asked for again.
    pub(crate) fn ask_for_locks_again(&mut self, volume: VolumeId) {
        let of_volume = |wait: &Wait| wait.queued && wait.asked.ino.volume() == volume;
        let waits = self.locks.waits.iter().filter(|(_, wait)| of_volume(wait));
        let waits: Vec<(u64, bool)> =
            waits.map(|(ticket, wait)| (*ticket, wait.cancelled)).collect();
        for (ticket, cancelled) in waits {
            match cancelled {
                true => self.lock_decided(ticket, Status::Interrupted),
                false => self.send_lock(ticket),
            }
        }
    }

    /// Writes down for a successor what is held.
    pub(crate) fn save_locks(&mut self) {
        let unsaved = std::mem::take(&mut self.locks.unsaved);
        let Some(keep) = &mut self.keep else { return };
        for key in unsaved {
            let Some(held) = self.locks.held.get_mut(&key) else { continue };
            let handle = held.handles.last().map_or(0, |handle| handle.0);
            let mut before = std::mem::take(&mut held.kept);
            for lock in held.ranges.iter() {
                let same = before.remove(&lock.range.start).filter(|(kept, _)| kept == lock);
                let claimed = ClaimedLock { ino: key.0, owner: key.1, held: *lock };
                let content = || LockRecord { lock: claimed, handle }.encode();
                let kept = same
                    .or_else(|| keep.hold(Which::Locks, 1, &content()).map(|kept| (*lock, kept)));
                match kept {
                    Some(kept) => drop(held.kept.insert(lock.range.start, kept)),
                    None => {
                        tracing::warn!(ino = %key.0, "too many locks for a successor to take them over")
                    }
                }
            }
        }
    }

    /// What the client-core before this one held. What was locked through a handle that is no more it was giving up.
    pub(crate) fn take_locks(&mut self, found: Vec<(u32, LockRecord)>) {
        for (record, LockRecord { lock, handle }) in found {
            let Some(keep) = &self.keep else { return };
            let kept = keep.held(Which::Locks, record);
            let (key, handle, start) =
                ((lock.ino, lock.owner), Handle(handle), lock.held.range.start);
            if self.handles.contains_key(&handle) {
                let held = self.locks.held.entry(key).or_default();
                held.ranges.set(lock.held.range, Some((lock.held.kind, lock.held.pid)));
                held.handles.insert(handle);
                held.kept.insert(start, (lock.held, kept));
                self.locks.unsaved.insert(key);
            }
        }
    }
}

const LOWEST_OWNER: LockOwner = LockOwner { space: LockSpace::Range, id: 0 };
