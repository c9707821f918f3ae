//! The locks of a volume's files: who has what, who waits for it, and in which order they get it.
//!
//! Invariants:
//! - Two holders never have conflicting locks on a byte. Locks of different spaces (fcntl, flock) do not see each other.
//! - Whoever waits is in its file's queue until it is granted, refused or withdrawn, and is told once.
//! - A lock that waits goes before a conflicting one that came later, so no stream of readers starves a writer. Two
//!   exceptions, without which fairness would make deadlocks that no program sees on a local file system: nobody waits
//!   behind a lock that waits for himself, and nobody waits longer than [`FAIR`] for fairness alone. A request that
//!   does not want to wait is answered by what is held, as on Linux.
//! - No cycle of holders of byte ranges waits for itself: whoever would close it gets `Deadlock`. flock has no such
//!   check, as on Linux.
//! - Memory is bounded: every lock, waiter and undelivered answer counts against `count_max`; at it, `NoLocks`.
//!
//! Locks live in memory. After a start sessions claim what they held; until all that may hold something have done so,
//! or the grace is over, new locks are `Busy`, so nothing is granted twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use weft_wire::locks::{
    ClaimedLock, LockConflict, LockKind, LockOwner, LockRange, LockRanges, LockRequest, LockSpace,
    LockTest,
};
use weft_wire::{Ino, SessionId, Status};

/// How long a lock that nobody holds is kept from a request because another one waits before it.
pub(crate) const FAIR: Duration = Duration::from_secs(1);
/// What a waiter counts as: itself, and the ranges it may become.
const WAITER_COUNT: usize = 3;

/// An owner, of all sessions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Holder {
    pub(crate) session: SessionId,
    pub(crate) owner: LockOwner,
}

/// What somebody wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wanted {
    holder: Holder,
    range: LockRange,
    kind: LockKind,
}

impl Wanted {
    fn conflicts_with(&self, other: &Wanted) -> bool {
        self.holder != other.holder
            && self.holder.owner.space == other.holder.owner.space
            && self.range.overlaps(other.range)
            && self.kind.conflicts_with(other.kind)
    }
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    wanted: Wanted,
    ticket: u64,
    pid: u32,
    since: Duration,
}

#[derive(Debug, Default)]
struct File {
    /// Ascending by holder; nobody with nothing.
    held: Vec<(Holder, LockRanges)>,
    queue: VecDeque<Waiter>,
}

enum Verdict {
    Grant,
    /// Somebody holds it.
    Held,
    /// Nobody does, but somebody waits for it who came before.
    Later,
}

impl File {
    fn held_by(&self, holder: Holder) -> Option<&LockRanges> {
        let at = self.held.binary_search_by_key(&holder, |held| held.0).ok()?;
        Some(&self.held[at].1)
    }

    /// What is in the way of this, among what is held.
    fn conflicts(
        &self,
        wanted: Wanted,
    ) -> impl Iterator<Item = (Holder, &weft_wire::locks::HeldLock)> {
        let others = self.held.iter().filter(move |(holder, _)| {
            *holder != wanted.holder && holder.owner.space == wanted.holder.owner.space
        });
        others.flat_map(move |(holder, ranges)| {
            let overlapping = ranges.overlapping(wanted.range);
            let conflicting = overlapping.filter(move |held| held.kind.conflicts_with(wanted.kind));
            conflicting.map(|held| (*holder, held))
        })
    }

    /// Whether the holder has something that is in the way of this.
    fn is_in_the_way(&self, holder: Holder, wanted: &Wanted) -> bool {
        let mut held = self.held_by(holder).into_iter().flat_map(|r| r.overlapping(wanted.range));
        held.any(|held| held.kind.conflicts_with(wanted.kind))
    }

    /// May this have it now, when `before` of the queue came earlier?
    fn verdict(&self, wanted: &Wanted, before: usize, patience_over: bool) -> Verdict {
        if self.conflicts(*wanted).next().is_some() {
            return Verdict::Held;
        }
        let earlier = |waiter: &Waiter| {
            waiter.wanted.conflicts_with(wanted)
                && !self.is_in_the_way(wanted.holder, &waiter.wanted)
        };
        match !patience_over && self.queue.iter().take(before).any(earlier) {
            true => Verdict::Later,
            false => Verdict::Grant,
        }
    }

    /// Sets what the holder has of a range; gives how many ranges it had and has.
    fn set(
        &mut self,
        holder: Holder,
        range: LockRange,
        to: Option<(LockKind, u32)>,
    ) -> (usize, usize) {
        let at = self.held.binary_search_by_key(&holder, |held| held.0);
        let at = match (at, to) {
            (Ok(at), _) => at,
            (Err(_), None) => return (0, 0),
            (Err(at), Some(_)) => {
                self.held.insert(at, (holder, LockRanges::default()));
                at
            }
        };
        let ranges = &mut self.held[at].1;
        let count_before = ranges.count();
        ranges.set(range, to);
        let count = ranges.count();
        if count == 0 {
            self.held.remove(at);
        }
        (count_before, count)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct LockTable {
    count_max: usize,
    files: BTreeMap<Ino, File>,
    /// Where each undecided ticket waits.
    tickets: BTreeMap<(SessionId, u64), Ino>,
    /// What each holder of byte ranges waits for.
    waits: BTreeMap<Holder, Vec<(Ino, Wanted)>>,
    /// Ranges of all files.
    held_count: usize,
    /// Files in which somebody waits for fairness alone.
    fair: BTreeSet<Ino>,
    /// What sessions are to be told.
    events: BTreeMap<SessionId, Vec<(u64, Status)>>,
    event_count: usize,
    /// After a start: sessions that may hold locks and have not claimed them.
    awaited: BTreeSet<SessionId>,
    /// What sessions that are not done claiming have claimed.
    claiming: BTreeMap<SessionId, BTreeMap<(Ino, LockOwner), LockRanges>>,
}

impl LockTable {
    /// For so many locks, waiters and answers. `awaited` may hold locks of before the start.
    pub(crate) fn new(count_max: usize, awaited: BTreeSet<SessionId>) -> LockTable {
        LockTable {
            count_max,
            files: BTreeMap::new(),
            tickets: BTreeMap::new(),
            waits: BTreeMap::new(),
            held_count: 0,
            fair: BTreeSet::new(),
            events: BTreeMap::new(),
            event_count: 0,
            awaited,
            claiming: BTreeMap::new(),
        }
    }

    /// Everything that takes memory, in locks.
    pub(crate) fn count(&self) -> usize {
        self.held_count + WAITER_COUNT * self.tickets.len() + self.event_count
    }

    /// Takes, changes or gives up a lock. `Ok(true)`: it waits, and an event says how it ended.
    ///
    /// # Errors
    /// `WouldBlock`, `Deadlock`, `NoLocks`; `Busy` while sessions of before the start may hold it.
    pub(crate) fn lock(
        &mut self,
        session: SessionId,
        request: &LockRequest,
        now: Duration,
    ) -> Result<bool, Status> {
        if self.tickets.contains_key(&(session, request.ticket)) {
            return Ok(true); // asked again after a reconnect
        }
        let (ino, range) = (request.ino, request.range);
        let holder = Holder { session, owner: request.owner };
        let held = self.files.get(&ino).and_then(|file| file.held_by(holder));
        let growth = held.map_or(1, |held| held.growth(range, request.kind));
        let Some(kind) = request.kind else {
            if held.is_some() && growth > 0 && self.count() + growth > self.count_max {
                return Err(Status::NoLocks);
            }
            self.set(ino, holder, range, None);
            self.serve(ino, now);
            return Ok(false);
        };
        if held.is_some_and(|held| held.has(range, kind)) {
            return Ok(false);
        }
        if !self.awaited.is_empty() {
            return Err(Status::Busy);
        }
        if self.count() + WAITER_COUNT > self.count_max {
            return Err(Status::NoLocks);
        }
        if request.owner.space == LockSpace::Flock && held.is_some() {
            self.set(ino, holder, range, None);
            self.serve(ino, now);
        }
        self.take(Wanted { holder, range, kind }, request, now)
    }

    fn take(
        &mut self,
        wanted: Wanted,
        request: &LockRequest,
        now: Duration,
    ) -> Result<bool, Status> {
        let ino = request.ino;
        let file = self.files.entry(ino).or_default();
        match file.verdict(&wanted, file.queue.len(), !request.wait) {
            Verdict::Grant => {
                self.set(ino, wanted.holder, wanted.range, Some((wanted.kind, request.pid)));
                self.break_cycles(ino, &[wanted.holder]);
                self.serve(ino, now);
                return Ok(false);
            }
            Verdict::Held if !request.wait => return Err(Status::WouldBlock),
            Verdict::Held if self.closes_cycle(ino, &wanted) => return Err(Status::Deadlock),
            Verdict::Held => {}
            Verdict::Later => {
                self.fair.insert(ino);
            }
        }
        let (ticket, pid) = (request.ticket, request.pid);
        let file = self.files.entry(ino).or_default();
        file.queue.push_back(Waiter { wanted, ticket, pid, since: now });
        self.tickets.insert((wanted.holder.session, ticket), ino);
        if wanted.holder.owner.space == LockSpace::Range {
            self.waits.entry(wanted.holder).or_default().push((ino, wanted));
        }
        Ok(true)
    }

    fn set(&mut self, ino: Ino, holder: Holder, range: LockRange, to: Option<(LockKind, u32)>) {
        if to.is_some() || self.files.contains_key(&ino) {
            let (before, after) = self.files.entry(ino).or_default().set(holder, range, to);
            self.held_count = self.held_count + after - before;
            self.drop_if_empty(ino);
        }
    }

    fn drop_if_empty(&mut self, ino: Ino) {
        if self.files.get(&ino).is_some_and(|file| file.held.is_empty() && file.queue.is_empty()) {
            self.files.remove(&ino);
            self.fair.remove(&ino);
        }
    }

    /// Gives those who wait for a file what they may have.
    fn serve(&mut self, ino: Ino, now: Duration) {
        loop {
            let granted = self.serve_once(ino, now);
            let refused = self.break_cycles(ino, &granted);
            // A grant may give a part up, or let go first who would wait for himself; a refusal lets others go.
            if granted.is_empty() && !refused {
                return;
            }
        }
    }

    fn serve_once(&mut self, ino: Ino, now: Duration) -> Vec<Holder> {
        let (mut at, mut granted) = (0, Vec::new());
        self.fair.remove(&ino);
        while let Some(file) = self.files.get(&ino)
            && let Some(waiter) = file.queue.get(at).copied()
        {
            let patience_over = now.saturating_sub(waiter.since) >= FAIR;
            match file.verdict(&waiter.wanted, at, patience_over) {
                Verdict::Grant => {
                    let Wanted { holder, range, kind } = waiter.wanted;
                    self.set(ino, holder, range, Some((kind, waiter.pid)));
                    self.decided(ino, at, Status::Ok);
                    granted.push(holder);
                }
                Verdict::Later => {
                    self.fair.insert(ino);
                    at += 1;
                }
                Verdict::Held => at += 1,
            }
        }
        granted
    }

    /// A waiter leaves its queue; its session is told how it ended.
    fn decided(&mut self, ino: Ino, at: usize, status: Status) {
        let Some(waiter) = self.unqueue(ino, at) else { return };
        let session = waiter.wanted.holder.session;
        self.events.entry(session).or_default().push((waiter.ticket, status));
        self.event_count += 1;
    }

    fn unqueue(&mut self, ino: Ino, at: usize) -> Option<Waiter> {
        let waiter = self.files.get_mut(&ino)?.queue.remove(at)?;
        self.tickets.remove(&(waiter.wanted.holder.session, waiter.ticket));
        if let Some(waits) = self.waits.get_mut(&waiter.wanted.holder) {
            if let Some(at) = waits.iter().position(|wait| *wait == (ino, waiter.wanted)) {
                waits.remove(at);
            }
            if waits.is_empty() {
                self.waits.remove(&waiter.wanted.holder);
            }
        }
        self.drop_if_empty(ino);
        Some(waiter)
    }

    /// Whether the holder would wait for somebody who waits, through others perhaps, for himself.
    fn closes_cycle(&self, ino: Ino, wanted: &Wanted) -> bool {
        if wanted.holder.owner.space == LockSpace::Flock {
            return false;
        }
        let mut todo: Vec<Holder> = self.holders_in_the_way(ino, wanted);
        let mut seen = BTreeSet::new();
        while let Some(holder) = todo.pop() {
            if holder == wanted.holder {
                return true;
            }
            if seen.insert(holder) {
                for (ino, wanted) in self.waits.get(&holder).into_iter().flatten() {
                    todo.extend(self.holders_in_the_way(*ino, wanted));
                }
            }
        }
        false
    }

    fn holders_in_the_way(&self, ino: Ino, wanted: &Wanted) -> Vec<Holder> {
        let Some(file) = self.files.get(&ino) else { return Vec::new() };
        let mut holders: Vec<Holder> = file.conflicts(*wanted).map(|(holder, _)| holder).collect();
        holders.dedup();
        holders
    }

    /// Somebody who waits elsewhere was granted something: those who wait for him now may have closed a cycle. Whether
    /// somebody was refused.
    fn break_cycles(&mut self, ino: Ino, granted: &[Holder]) -> bool {
        if !granted.iter().any(|holder| self.waits.contains_key(holder)) {
            return false;
        }
        let (mut at, mut refused) = (0, false);
        while let Some(waiter) = self.files.get(&ino).and_then(|file| file.queue.get(at)).copied() {
            if self.closes_cycle(ino, &waiter.wanted) {
                self.decided(ino, at, Status::Deadlock);
                refused = true;
            } else {
                at += 1;
            }
        }
        refused
    }

    /// What is in the way of a lock.
    ///
    /// # Errors
    /// `Busy` while sessions of before the start may hold it.
    pub(crate) fn test(
        &self,
        session: SessionId,
        test: &LockTest,
    ) -> Result<Option<LockConflict>, Status> {
        if !self.awaited.is_empty() {
            return Err(Status::Busy);
        }
        let holder = Holder { session, owner: test.owner };
        let wanted = Wanted { holder, range: test.range, kind: test.kind };
        let conflicts = self.files.get(&test.ino).into_iter().flat_map(|f| f.conflicts(wanted));
        let first = conflicts.min_by_key(|(_, held)| held.range.start);
        Ok(first.map(|(other, held)| LockConflict {
            range: held.range,
            kind: held.kind,
            pid: if other.session == session { held.pid } else { 0 },
        }))
    }

    /// A request that waits is not wanted any more; false when it does not wait.
    pub(crate) fn cancel(&mut self, session: SessionId, ticket: u64, now: Duration) -> bool {
        let Some(ino) = self.tickets.get(&(session, ticket)).copied() else { return false };
        let is_it =
            |waiter: &Waiter| waiter.ticket == ticket && waiter.wanted.holder.session == session;
        let at = self.files.get(&ino).and_then(|file| file.queue.iter().position(is_it));
        let found = at.and_then(|at| self.unqueue(ino, at)).is_some();
        self.serve(ino, now);
        found
    }

    /// A session that came back says what it holds; false when it does not hold it any more.
    pub(crate) fn claim(&mut self, session: SessionId, claimed: &ClaimedLock) -> bool {
        let ClaimedLock { ino, owner, held } = *claimed;
        let (holder, to) = (Holder { session, owner }, Some((held.kind, held.pid)));
        let known = self.files.get(&ino).and_then(|file| file.held_by(holder));
        // It may have more than it was told: the answer to a grant was lost.
        let has = |known: &LockRanges| match held.kind {
            LockKind::Shared => known.covers(held.range),
            LockKind::Exclusive => known.has(held.range, held.kind),
        };
        if !known.is_some_and(has) {
            let wanted = Wanted { holder, range: held.range, kind: held.kind };
            let is_free = self.files.get(&ino).is_none_or(|f| f.conflicts(wanted).next().is_none());
            if !self.awaited.contains(&session) || !is_free || self.count() + 1 > self.count_max {
                return false;
            }
            self.set(ino, holder, held.range, to);
        }
        let all = self.claiming.entry(session).or_default();
        all.entry((ino, owner)).or_default().set(held.range, to);
        true
    }

    /// The session has claimed all that it knows of: what it waited for it will ask for again, and what else it has was
    /// granted or given up in messages that were lost.
    pub(crate) fn claimed_all(&mut self, session: SessionId, now: Duration) {
        self.awaited.remove(&session);
        let mut claimed = self.claiming.remove(&session).unwrap_or_default();
        let inos: Vec<Ino> = self.files.keys().copied().collect();
        let mut changed_inos = Vec::new();
        for ino in inos {
            let mut changed = self.unqueue_all(ino, session);
            for holder in self.holders_of(ino, session) {
                let kept = claimed.remove(&(ino, holder.owner)).unwrap_or_default();
                let held = self.files.get(&ino).and_then(|file| file.held_by(holder));
                if held.is_some_and(|held| *held != kept) {
                    changed = true;
                    self.set(ino, holder, LockRange::ALL, None);
                    for lock in kept.iter() {
                        self.set(ino, holder, lock.range, Some((lock.kind, lock.pid)));
                    }
                }
            }
            if changed {
                changed_inos.push(ino);
            }
        }
        // Only when all of it is gone: what is left would look like cycles.
        changed_inos.into_iter().for_each(|ino| self.serve(ino, now));
    }

    fn holders_of(&self, ino: Ino, session: SessionId) -> Vec<Holder> {
        let held = self.files.get(&ino).into_iter().flat_map(|file| &file.held);
        held.map(|held| held.0).filter(|holder| holder.session == session).collect()
    }

    /// Whether there was anything.
    fn unqueue_all(&mut self, ino: Ino, session: SessionId) -> bool {
        let is_its = |waiter: &Waiter| waiter.wanted.holder.session == session;
        let mut any = false;
        while let Some(file) = self.files.get(&ino)
            && let Some(at) = file.queue.iter().position(is_its)
        {
            any = true;
            self.unqueue(ino, at);
        }
        any
    }

    /// Nobody can claim anything any more.
    pub(crate) fn end_grace(&mut self) {
        if !self.awaited.is_empty() {
            tracing::warn!(
                sessions = self.awaited.len(),
                "locks of sessions that did not come back after the start are free"
            );
        }
        self.awaited.clear();
    }

    /// The session came back on a new connection, on which it claims what it holds and asks again for what it waits for.
    pub(crate) fn forget_events(&mut self, session: SessionId) {
        self.claiming.remove(&session);
        self.event_count -= self.events.remove(&session).map_or(0, |events| events.len());
    }

    /// The session is over: what it held is free, what it waited for is not wanted.
    pub(crate) fn end_session(&mut self, session: SessionId, now: Duration) {
        self.awaited.remove(&session);
        let inos: Vec<Ino> = self.files.keys().copied().collect();
        for ino in &inos {
            self.unqueue_all(*ino, session);
            for holder in self.holders_of(*ino, session) {
                self.set(*ino, holder, LockRange::ALL, None);
            }
        }
        // Only when all of it is gone: what is left would look like cycles.
        inos.into_iter().for_each(|ino| self.serve(ino, now));
        self.forget_events(session);
    }

    /// Time passed: fairness has its end.
    pub(crate) fn tick(&mut self, now: Duration) {
        for ino in std::mem::take(&mut self.fair) {
            self.serve(ino, now);
        }
    }

    /// Sessions there is something to tell.
    pub(crate) fn sessions_with_events(&self) -> Vec<SessionId> {
        self.events.keys().copied().collect()
    }

    /// The oldest of what a session is to be told, at most so many.
    pub(crate) fn take_events(&mut self, session: SessionId, max: usize) -> Vec<(u64, Status)> {
        let Some(events) = self.events.get_mut(&session) else { return Vec::new() };
        let rest = events.split_off(events.len().min(max));
        let taken = std::mem::replace(events, rest);
        if events.is_empty() {
            self.events.remove(&session);
        }
        self.event_count -= taken.len();
        taken
    }
}

#[cfg(test)]
mod tests;
