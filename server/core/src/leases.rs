//! The table of leases of a volume: who may cache what, and what is wanted back.
//!
//! Not here: when requests wait and how sessions are fenced off (`shard/leases.rs`); why it is so (`doc/leases.md`).
//!
//! Invariants:
//! - Of one inode either one session holds `Write`, or any number hold `Read`, or any number `Through`; while a recall
//!   is under way, what is recalled still counts.
//! - Nothing is granted on an inode that somebody changes, or waits to change: what a reply carries may be overtaken.
//! - A lease ends by its return, its session's end or fencing, never by time alone: whoever waits has that session
//!   fenced off first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_wire::limits::RECALL_COUNT_MAX;
use weft_wire::units::to_usize;
use weft_wire::{Ino, LeaseMode, SessionId};

use crate::planted::{self, Bug};

/// Memory of one lease, with its part of the indices.
pub(crate) const LEASE_BYTES: u64 = 256;
/// How long a file that several sessions write at once stays shared after the last of them asked.
pub(crate) const SHARED_TIME: Duration = Duration::from_secs(2);
/// From this part of the table on leases are wanted back to make room, as a divisor of what is left.
const ROOM_DIVISOR: usize = 8;

/// What a request needs of other sessions' leases before it is carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// To see the inode: nobody writes it behind.
    Look,
    /// To write it, alone if possible.
    Own,
    /// To write it alone: to append.
    Alone,
    /// To tell of what was written: nobody caches it.
    Told,
    /// To change it: nobody else has anything.
    Change,
}

/// What a reply may grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    /// To cache what the reply tells.
    Read,
    /// To write, if nobody is in the way: the file is opened for it.
    Write,
    /// To write, now.
    Own(Need),
}

/// Inodes that are asked back, and what may be kept of each.
pub(crate) type Wanted = Vec<(Ino, LeaseMode)>;

#[derive(Debug)]
struct Holder {
    session: SessionId,
    mode: LeaseMode,
    /// What it may keep, once it is asked to give the rest back.
    keep: Option<LeaseMode>,
}

#[derive(Debug, Default)]
struct Entry {
    holders: Vec<Holder>,
}

impl Entry {
    fn others(&self, session: SessionId) -> impl Iterator<Item = &Holder> {
        self.holders.iter().filter(move |holder| holder.session != session)
    }

    /// Whether another session writes the inode.
    fn is_written_by_others(&self, session: SessionId) -> bool {
        self.others(session).any(|h| matches!(h.mode, LeaseMode::Write | LeaseMode::Through))
    }
}

/// What one session is asked to give back.
#[derive(Debug)]
struct Recalled {
    session: SessionId,
    inodes: Wanted,
    since: Duration,
    /// A request waits for it.
    waited_for: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Leases {
    entries: BTreeMap<Ino, Entry>,
    /// Inodes that several sessions write, until then at least.
    shared: BTreeMap<Ino, Duration>,
    held_by: BTreeMap<SessionId, BTreeSet<Ino>>,
    count: usize,
    count_max: usize,
    /// Inodes that are being changed, and those that somebody waits to change.
    changing: BTreeMap<Ino, u32>,
    waiting: BTreeMap<Ino, u32>,
    /// Asked back and not returned, by number.
    recalls: BTreeMap<u64, Recalled>,
    next_recall: u64,
    /// To be asked back with the next [`Leases::take_recalls`].
    wanted: BTreeMap<SessionId, Wanted>,
    wanted_to_go_on: BTreeSet<SessionId>,
    /// Where making room goes on.
    room_from: Ino,
}

impl Leases {
    pub(crate) fn new(memory_bytes: u64) -> Leases {
        Leases {
            entries: BTreeMap::new(),
            shared: BTreeMap::new(),
            held_by: BTreeMap::new(),
            count: 0,
            count_max: to_usize(memory_bytes / LEASE_BYTES),
            changing: BTreeMap::new(),
            waiting: BTreeMap::new(),
            recalls: BTreeMap::new(),
            next_recall: 1,
            wanted: BTreeMap::new(),
            wanted_to_go_on: BTreeSet::new(),
            room_from: Ino(0),
        }
    }

    /// Whether another session writes the inode.
    pub(crate) fn is_written(&self, session: SessionId, ino: Ino) -> bool {
        self.entries.get(&ino).is_some_and(|entry| entry.is_written_by_others(session))
    }

    /// How many leases are out.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether a session other than this one holds anything.
    pub(crate) fn others_hold(&self, session: SessionId) -> bool {
        self.held_by.len() > usize::from(self.held_by.contains_key(&session))
    }

    /// Whether a request of `session` may be carried out as far as `ino` goes. Where not, what is in its way is asked
    /// back.
    pub(crate) fn may(&mut self, session: SessionId, ino: Ino, need: Need, now: Duration) -> bool {
        let owns = matches!(need, Need::Own | Need::Alone);
        if owns && self.changing.contains_key(&ino) {
            return false;
        }
        let Some(entry) = self.entries.get_mut(&ino) else { return true };
        if need == Need::Own && entry.is_written_by_others(session) {
            self.shared.insert(ino, now + SHARED_TIME);
        }
        let shared = self.shared.get(&ino).is_some_and(|until| *until > now);
        let mut free = true;
        for holder in &mut entry.holders {
            if holder.session == session {
                // Its own is on its way back: what it is given must not be taken for that.
                free &= !owns || holder.keep.is_none();
                continue;
            }
            let Some(keep) = in_the_way(need, holder.mode, shared) else { continue };
            free = false;
            self.wanted_to_go_on.insert(holder.session);
            if holder.keep.is_none_or(|asked| asked > keep) {
                holder.keep = Some(keep);
                self.wanted.entry(holder.session).or_default().push((ino, keep));
            }
        }
        free
    }

    /// Whether somebody waits to change the inode or to write it.
    pub(crate) fn is_waited_for(&self, ino: Ino) -> bool {
        self.waiting.contains_key(&ino)
    }

    /// What is granted of what a session wants, with what it has.
    pub(crate) fn grant(
        &mut self,
        session: SessionId,
        ino: Ino,
        want: Want,
        now: Duration,
    ) -> LeaseMode {
        let owns = matches!(want, Want::Own(_));
        if self.changing.contains_key(&ino) || (!owns && self.is_waited_for(ino)) {
            return LeaseMode::None;
        }
        let entry = self.entries.get(&ino);
        let own = entry.and_then(|entry| entry.holders.iter().find(|h| h.session == session));
        let has = own.map_or(LeaseMode::None, |own| own.mode);
        if own.is_some_and(|own| own.keep.is_some()) {
            return LeaseMode::None; // What it had is on its way back.
        }
        let shared = self.shared.get(&ino).is_some_and(|until| *until > now);
        let careless = planted::is(Bug::WriteBesideReaders);
        let counts = |holder: &&Holder| !careless || holder.mode > LeaseMode::Read;
        let alone = entry.is_none_or(|entry| !entry.others(session).any(|it| counts(&it)));
        let written = entry.is_some_and(|entry| entry.is_written_by_others(session));
        let mode = match want {
            Want::Own(Need::Alone) if alone => LeaseMode::Write,
            Want::Own(_) | Want::Write if alone && !shared => LeaseMode::Write,
            Want::Own(_) if shared => LeaseMode::Through,
            Want::Own(_) => LeaseMode::None,
            Want::Read | Want::Write if !written && !shared => LeaseMode::Read,
            Want::Read | Want::Write => LeaseMode::None,
        };
        let full = self.count >= self.count_max && !owns;
        if mode == LeaseMode::None || (mode <= has && !owns) || (has == LeaseMode::None && full) {
            return has;
        }
        // A writer that is alone stays so, whatever it asks again for.
        let mode = if has == LeaseMode::Write { has } else { mode };
        self.set(session, ino, mode);
        mode
    }

    fn set(&mut self, session: SessionId, ino: Ino, mode: LeaseMode) {
        let entry = self.entries.entry(ino).or_default();
        if let Some(own) = entry.holders.iter_mut().find(|holder| holder.session == session) {
            return own.mode = mode;
        }
        entry.holders.push(Holder { session, mode, keep: None });
        self.held_by.entry(session).or_default().insert(ino);
        self.count += 1;
    }

    /// After a restart: the session writes the file, as it did before. False when somebody else has it.
    pub(crate) fn reclaim(&mut self, session: SessionId, ino: Ino) -> bool {
        let free =
            self.entries.get(&ino).is_none_or(|entry| entry.others(session).next().is_none());
        if free {
            self.set(session, ino, LeaseMode::Write);
        }
        free
    }

    /// Whether the session is the one that writes the inode.
    pub(crate) fn owns(&self, session: SessionId, ino: Ino) -> bool {
        let holders = self.entries.get(&ino).map(|entry| &entry.holders);
        let own = holders.and_then(|all| all.iter().find(|holder| holder.session == session));
        own.is_some_and(|own| own.mode == LeaseMode::Write)
    }

    /// A change of the inode begins, or begins to wait: nothing is granted until [`Leases::leave`].
    pub(crate) fn enter(&mut self, ino: Ino, waits: bool) {
        let which = if waits { &mut self.waiting } else { &mut self.changing };
        *which.entry(ino).or_default() += 1;
    }

    /// The end of an [`Leases::enter`].
    pub(crate) fn leave(&mut self, ino: Ino, waits: bool) {
        let which = if waits { &mut self.waiting } else { &mut self.changing };
        let count = which.get_mut(&ino).expect("it was entered");
        *count -= 1;
        if *count == 0 {
            which.remove(&ino);
        }
    }

    /// What is to be asked back now: number, session and what.
    pub(crate) fn take_recalls(&mut self, now: Duration) -> Vec<(u64, SessionId, Wanted)> {
        let waited_for = std::mem::take(&mut self.wanted_to_go_on);
        for recalled in self.recalls.values_mut() {
            recalled.waited_for |= waited_for.contains(&recalled.session);
        }
        let mut out = Vec::new();
        for (session, inodes) in std::mem::take(&mut self.wanted) {
            for some in inodes.chunks(RECALL_COUNT_MAX) {
                let id = self.next_recall;
                self.next_recall += 1;
                let inodes = some.to_vec();
                let waited_for = waited_for.contains(&session);
                out.push((id, session, inodes.clone()));
                self.recalls.insert(id, Recalled { session, inodes, since: now, waited_for });
            }
        }
        out
    }

    /// What a session was asked and has not answered: for its new connection.
    pub(crate) fn recalls_of(&self, session: SessionId) -> Vec<(u64, Wanted)> {
        let own = self.recalls.iter().filter(|(_, recalled)| recalled.session == session);
        own.map(|(id, recalled)| (*id, recalled.inodes.clone())).collect()
    }

    /// A session gave back what recall `id` asked for; false when it was not asked.
    pub(crate) fn returned(&mut self, session: SessionId, id: u64) -> bool {
        if self.recalls.get(&id).is_none_or(|recalled| recalled.session != session) {
            return false;
        }
        let recalled = self.recalls.remove(&id).expect("looked at above");
        for (ino, keep) in recalled.inodes {
            self.lower(session, ino, keep);
        }
        true
    }

    fn lower(&mut self, session: SessionId, ino: Ino, keep: LeaseMode) {
        let Some(entry) = self.entries.get_mut(&ino) else { return };
        let Some(at) = entry.holders.iter().position(|holder| holder.session == session) else {
            return;
        };
        let holder = &mut entry.holders[at];
        holder.mode = holder.mode.min(keep);
        if holder.keep == Some(keep) {
            holder.keep = None;
        }
        if holder.mode == LeaseMode::None {
            entry.holders.remove(at);
            self.count -= 1;
            if entry.holders.is_empty() {
                self.entries.remove(&ino);
            }
            self.unindex(session, ino);
        }
    }

    fn unindex(&mut self, session: SessionId, ino: Ino) {
        let Some(inodes) = self.held_by.get_mut(&session) else { return };
        inodes.remove(&ino);
        if inodes.is_empty() {
            self.held_by.remove(&session);
        }
    }

    /// The session is over or fenced off: it holds nothing any more.
    pub(crate) fn end(&mut self, session: SessionId) {
        for ino in self.held_by.get(&session).cloned().unwrap_or_default() {
            self.lower(session, ino, LeaseMode::None);
        }
        self.recalls.retain(|_, recalled| recalled.session != session);
        self.wanted.remove(&session);
    }

    /// Sessions that somebody waits for, and since when.
    pub(crate) fn awaited(&self) -> BTreeMap<SessionId, Duration> {
        let mut since = BTreeMap::new();
        for recalled in self.recalls.values().filter(|recalled| recalled.waited_for) {
            let first = since.entry(recalled.session).or_insert(recalled.since);
            *first = recalled.since.min(*first);
        }
        since
    }

    /// Time passes. When the table is nearly full some leases are asked back, those next to where it last did so.
    pub(crate) fn tick(&mut self, now: Duration) {
        self.shared.retain(|_, until| *until > now);
        let full = self.count_max - self.count_max / ROOM_DIVISOR;
        if self.count < full || !self.recalls.is_empty() {
            return;
        }
        let count = self.count_max / ROOM_DIVISOR;
        let from = self.room_from;
        let behind =
            self.entries.range_mut((std::ops::Bound::Excluded(from), std::ops::Bound::Unbounded));
        let mut last = Ino(0);
        for (ino, entry) in behind.take(count) {
            last = *ino;
            for holder in entry.holders.iter_mut().filter(|holder| holder.keep.is_none()) {
                holder.keep = Some(LeaseMode::None);
                self.wanted.entry(holder.session).or_default().push((*ino, LeaseMode::None));
            }
        }
        self.room_from = last; // 0 at the end: from the start.
    }

    /// How many leases a session holds.
    #[cfg(test)]
    fn count_of(&self, session: SessionId) -> u64 {
        weft_wire::units::to_u64(self.held_by.get(&session).map_or(0, BTreeSet::len))
    }
}

/// What a holder may keep when its lease is in the way of a request.
fn in_the_way(need: Need, mode: LeaseMode, shared: bool) -> Option<LeaseMode> {
    use LeaseMode::{None as Nothing, Read, Through, Write};
    match (need, mode) {
        (_, Nothing) => None,
        (Need::Look, Write) => Some(Read),
        (Need::Look, Through) if !shared => Some(Nothing),
        (Need::Look, _) => None,
        (Need::Own, Through) if shared => None,
        (Need::Own, Read) if planted::is(Bug::WriteBesideReaders) => None,
        (Need::Told, Through) => None,
        (Need::Own | Need::Alone | Need::Told | Need::Change, _) => Some(Nothing),
    }
}

#[cfg(test)]
mod tests;
