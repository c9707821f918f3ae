//! When a request waits for leases of other sessions, and what its reply grants. How a session that does not give back
//! what others wait for is fenced off: `fences.rs`.
//!
//! A request that has to wait is kept whole and looked at anew whenever leases came back: nothing is remembered of an
//! earlier look. One that only looks waits for a writer, never for another that waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_net::Frame;
use weft_wire::lease::{Recall, Reclaim, Reclaimed};
use weft_wire::meta::{DataWrite, MetaReply, MetaRequest, push_dir_entry, push_parents};
use weft_wire::units::to_u64;
use weft_wire::{Header, Ino, Kind, LeaseBits, LeaseMode, SessionId, Status};

use super::Shard;
use crate::action::{Action, ConnId};
use crate::leases::{Leases, Need, Want};
use crate::memory::request_bytes;
use crate::planted::{self, Bug};

/// A session that renews its leases but does not give back what others wait for is fenced off after so many lease
/// times.
const PATIENCE: u32 = 6;

/// A directory and a name in it.
type Place = (Ino, Vec<u8>);

/// What a request is about.
#[derive(Debug, Default)]
pub(super) struct About {
    needs: Vec<(Ino, Need)>,
    /// Names that it changes.
    names: Vec<Place>,
    /// The directory whose names its reply tells.
    directory: Option<Ino>,
    /// The inode whose attributes its reply tells, when the request names it.
    inode: Option<Ino>,
}

impl About {
    fn changed(&self) -> impl Iterator<Item = Ino> {
        let changes = |need: &Need| matches!(need, Need::Change | Need::Told);
        self.needs.iter().filter(move |(_, need)| changes(need)).map(|(ino, _)| *ino)
    }

    /// Inodes on which nothing is granted while the request waits.
    fn waited_for(&self) -> impl Iterator<Item = Ino> {
        self.needs.iter().filter(|(_, need)| *need != Need::Look).map(|(ino, _)| *ino)
    }

    fn owns(&self) -> Option<(Ino, Need)> {
        let own = |need: &Need| matches!(need, Need::Own | Need::Alone);
        self.needs.iter().find(|(_, need)| own(need)).copied()
    }
}

/// A request that waits.
#[derive(Debug)]
struct Held {
    conn: ConnId,
    session: SessionId,
    frame: Frame,
    about: About,
    /// Of the memory for requests.
    memory_bytes: u64,
}

/// The restart: who held leases and has not come back.
#[derive(Debug)]
struct Return {
    missing: BTreeSet<SessionId>,
    end: Duration,
    /// It is over: these did not come back, and the volume does not have that durably yet.
    unlogged: Option<BTreeSet<SessionId>>,
}

/// What a shard knows of leases.
#[derive(Debug)]
pub(super) struct LeaseState {
    time: Duration,
    table: Leases,
    held: BTreeMap<u64, Held>,
    /// What these take.
    held_bytes: u64,
    next_held: u64,
    /// Names that are being changed.
    names: BTreeMap<Place, u32>,
    /// Something changed that requests may wait for.
    look_again: bool,
    /// When sessions without a connection were last heard of.
    heard: BTreeMap<SessionId, Duration>,
    returning: Option<Return>,
}

impl LeaseState {
    pub(super) fn new(time: Duration, memory_bytes: u64) -> LeaseState {
        LeaseState {
            time,
            table: Leases::new(memory_bytes),
            held: BTreeMap::new(),
            held_bytes: 0,
            next_held: 1,
            names: BTreeMap::new(),
            look_again: false,
            heard: BTreeMap::new(),
            returning: None,
        }
    }

    /// How long leases last, in milliseconds.
    pub(super) fn time_ms(&self) -> u32 {
        u32::try_from(self.time.as_millis()).unwrap_or(u32::MAX)
    }
}

impl Shard {
    /// The server was started: leases are not known any more, and whoever may hold some has a lease time to say so.
    pub(super) fn await_returns(&mut self) {
        let missing: BTreeSet<SessionId> =
            self.volume.iter().flat_map(weft_metadata::Volume::sessions).collect();
        if !missing.is_empty() {
            let end = self.now.mono + self.leases.time;
            self.leases.returning = Some(Return { missing, end, unlogged: None });
        }
    }

    /// Nobody can come back before the server takes connections.
    pub(super) fn put_returns_off(&mut self) {
        let end = self.now.mono + self.leases.time;
        if let Some(returning) = &mut self.leases.returning {
            returning.end = end;
        }
    }

    fn has_returned(&mut self, session: SessionId) {
        let Some(returning) = &mut self.leases.returning else { return };
        returning.missing.remove(&session);
        if returning.missing.is_empty() {
            self.all_have_returned();
        }
    }

    fn all_have_returned(&mut self) {
        self.leases.returning = None;
        self.leases.look_again = true;
    }

    /// The time to come back is over: others go on, once the volume has durably without whom.
    fn end_returns(&mut self) {
        let Some(returning) = &mut self.leases.returning else { return };
        if returning.end > self.now.mono || returning.unlogged.is_some() {
            return;
        }
        let missing = returning.missing.clone();
        returning.unlogged = Some(missing.clone());
        tracing::info!(sessions = missing.len(), "did not come back: others may go on");
        self.go_on_without(&missing);
    }

    pub(super) fn late_is_logged(&mut self, session: SessionId) {
        let returning = self.leases.returning.as_mut();
        let Some(unlogged) = returning.and_then(|it| it.unlogged.as_mut()) else { return };
        unlogged.remove(&session);
        if unlogged.is_empty() {
            self.all_have_returned();
        }
    }

    pub(super) fn all_late_are_logged(&mut self) {
        if self.leases.returning.as_ref().is_some_and(|it| it.unlogged.is_some()) {
            self.all_have_returned();
        }
    }

    /// A client came back after a restart, and says what it still has to write. Who is late finds that others went on:
    /// not even a version that its own changes may have made is its own then for sure. Nothing was ever granted to who is
    /// not known: its session was over, so long ago that this is forgotten.
    pub(super) fn reclaim(&mut self, conn: ConnId, session: SessionId, frame: &Frame) {
        let header = frame.header;
        let (Ok(reclaim), Some(volume)) = (Reclaim::decode(&frame.body), &self.volume) else {
            return self.break_off(conn, "a reclaim that cannot be read");
        };
        let mut reply = Reclaimed::default();
        let (late, known) = (self.fences.is_late(session), volume.knows(session));
        let table = &mut self.leases.table;
        for (ino, first, last) in reclaim.inodes {
            let last = if late { first } else { last };
            let same = volume.version_of(ino).is_some_and(|it| (first..=last).contains(&it));
            // It may say so twice, when the answer was lost.
            let free = same && known && table.reclaim(session, ino);
            if !free && !table.owns(session, ino) && !planted::is(Bug::ReclaimAnything) {
                reply.refused.push(ino);
            }
        }
        if !reclaim.more {
            self.has_returned(session);
        }
        self.late_reclaimed(session, &reply, reclaim.more);
        let mut body = Vec::new();
        reply.encode(&mut body);
        self.answer(conn, &header, Status::Ok, &body, Vec::new());
    }

    /// Whether a request may be carried out now; if so, what it is about, if not, it is kept until it may.
    pub(super) fn admit_metadata(
        &mut self,
        conn: ConnId,
        session: SessionId,
        frame: &Frame,
        request: &MetaRequest<'_>,
    ) -> Option<About> {
        let about = self.about(frame.header.lease, request);
        if self.may_go_on(session, &about, None) {
            self.enter(&about);
            return Some(about);
        }
        let state = self.conns.get_mut(&conn)?;
        let memory_bytes = request_bytes(0) + to_u64(frame.body.len());
        let full = (self.leases.held_bytes + memory_bytes) * 2 > self.memory.requests_bytes;
        if full || (state.held + 1) * 2 > self.credits {
            // What waits holds a credit and memory, and what others wait for may need some.
            self.busy(conn, &frame.header);
            return None;
        }
        state.held += 1;
        self.take_memory(memory_bytes);
        let frame = Frame { header: frame.header, body: frame.body.clone(), payload: None };
        about.waited_for().for_each(|ino| self.leases.table.enter(ino, true));
        self.leases
            .held
            .insert(self.leases.next_held, Held { conn, session, frame, about, memory_bytes });
        self.leases.next_held += 1;
        None
    }

    /// `before`: at the first look none; later, the inodes that requests wait for which came earlier.
    fn may_go_on(
        &mut self,
        session: SessionId,
        about: &About,
        before: Option<&BTreeSet<Ino>>,
    ) -> bool {
        if self.leases.returning.is_some() && !about.needs.is_empty() {
            return false;
        }
        if about.names.iter().any(|name| self.leases.names.contains_key(name)) {
            return false;
        }
        let now = self.now.mono;
        let table = &mut self.leases.table;
        if let Some((ino, _)) = about.owns()
            && before.map_or_else(|| table.is_waited_for(ino), |before| before.contains(&ino))
        {
            // Its turn comes; what is in its way is asked back all the same.
            for (ino, need) in &about.needs {
                table.may(session, *ino, *need, now);
            }
            return false;
        }
        // All are asked, so that everything in the way is asked back at once.
        let free = |(ino, need): &(Ino, Need)| table.may(session, *ino, *need, now);
        about.needs.iter().map(free).fold(true, |all, one| all & one)
    }

    fn enter(&mut self, about: &About) {
        about.changed().for_each(|ino| self.leases.table.enter(ino, false));
        for name in &about.names {
            *self.leases.names.entry(name.clone()).or_default() += 1;
        }
    }

    fn leave(&mut self, about: &About) {
        about.changed().for_each(|ino| self.leases.table.leave(ino, false));
        for name in &about.names {
            let count = self.leases.names.get_mut(name).expect("entered");
            *count -= 1;
            if *count == 0 {
                self.leases.names.remove(name);
            }
        }
        self.leases.look_again |= !about.names.is_empty() || about.changed().next().is_some();
    }

    /// What a request needs. An operation that is not in this list would not be coherent: each is.
    fn about(&self, lease: LeaseBits, request: &MetaRequest<'_>) -> About {
        let mut about = About::default();
        let child = |parent: &Ino, name: &[u8]| {
            self.volume.as_ref().and_then(|volume| volume.child_of(*parent, name))
        };
        let place = |parent: &Ino, name: &[u8]| (*parent, name.to_vec());
        match request {
            MetaRequest::Lookup { parent, name } => {
                about.needs = vec![(*parent, Need::Look)];
                about.needs.extend(child(parent, name).map(|ino| (ino, Need::Look)));
                about.directory = Some(*parent);
            }
            MetaRequest::GetAttr { ino } | MetaRequest::GetData { ino } => {
                about.needs = vec![(*ino, need_of_attributes(lease))];
                about.inode = Some(*ino);
            }
            MetaRequest::ReadLink { ino }
            | MetaRequest::Open { ino, .. }
            | MetaRequest::GetXattr { ino, .. }
            | MetaRequest::ListXattr { ino }
            | MetaRequest::ReadDir { ino, .. }
            | MetaRequest::GetLayout { ino } => {
                about.needs = vec![(*ino, Need::Look)];
                about.inode = Some(*ino);
            }
            MetaRequest::SetAttr { ino, .. }
            | MetaRequest::SetXattr { ino, .. }
            | MetaRequest::RemoveXattr { ino, .. }
            | MetaRequest::SetLayout { ino, .. } => {
                about.needs = vec![(*ino, Need::Change)];
                about.inode = Some(*ino);
            }
            MetaRequest::Wrote { ino, .. }
            | MetaRequest::WriteData(DataWrite { ino, .. })
            | MetaRequest::MoveData { ino, .. } => {
                about.needs = vec![(*ino, Need::Told)];
                about.inode = Some(*ino);
            }
            // A file without a name: the directory stays as it is.
            MetaRequest::Make { parent, name: [], .. } => about.needs = vec![(*parent, Need::Look)],
            MetaRequest::Make { parent, name, .. } => {
                about.needs = vec![(*parent, Need::Change)];
                about.needs.extend(child(parent, name).map(|ino| (ino, Need::Look)));
                about.names = vec![place(parent, name)];
                about.directory = Some(*parent);
            }
            MetaRequest::Unlink { parent, name } | MetaRequest::Rmdir { parent, name } => {
                about.needs = vec![(*parent, Need::Change)];
                about.needs.extend(child(parent, name).map(|ino| (ino, Need::Change)));
                about.names = vec![place(parent, name)];
            }
            MetaRequest::Rename { parent, name, new_parent, new_name, .. } => {
                let places = [(parent, name), (new_parent, new_name)];
                about.needs = vec![(*parent, Need::Change), (*new_parent, Need::Change)];
                let children = places.iter().filter_map(|(parent, name)| child(parent, name));
                about.needs.extend(children.map(|ino| (ino, Need::Change)));
                about.names = places.iter().map(|(parent, name)| place(parent, name)).collect();
                about.names.dedup();
            }
            MetaRequest::Link { ino, parent, name } => {
                about.needs = vec![(*ino, Need::Change), (*parent, Need::Change)];
                about.names = vec![place(parent, name)];
                about.directory = Some(*parent);
            }
            MetaRequest::Release { .. }
            | MetaRequest::StatFs
            | MetaRequest::Reopen { .. }
            | MetaRequest::FindNames { .. } => {}
        }
        about
    }

    /// The volume answered a request: what the reply grants. May change the body: a listing shows no attributes that
    /// only a writer knows.
    pub(super) fn grant(
        &mut self,
        session: SessionId,
        header: &Header,
        about: &About,
        status: Status,
        body: &mut Vec<u8>,
    ) -> LeaseBits {
        self.leave(about);
        let wants = header.lease;
        // That there is no such attribute is something to cache, too.
        let no_data = header.kind == Kind::GetXattr && status == Status::NoData;
        if !(matches!(status, Status::Ok | Status::NotFound) || no_data) {
            return LeaseBits::NONE;
        }
        let now = self.now.mono;
        let mut granted = LeaseBits::NONE;
        // A session that nobody would wait for after a restart gets none.
        let known = self.volume.as_ref().is_some_and(|volume| volume.knows(session));
        let wants = if known { wants } else { LeaseBits::NONE };
        let lists = header.kind == Kind::ReadDir && status == Status::Ok;
        if lists && (wants.has(LeaseBits::NAMES) || self.leases.table.others_hold(session)) {
            granted = self.grant_listed(session, wants, body);
        }
        let table = &mut self.leases.table;
        if let Some(directory) = about.directory.filter(|_| wants.has(LeaseBits::NAMES))
            && table.grant(session, directory, Want::Read, now) >= LeaseMode::Read
        {
            granted = granted.with(LeaseBits::NAMES);
        }
        let subject = match header.kind {
            Kind::Lookup | Kind::Make | Kind::Link => first_ino(body),
            _ => about.inode,
        };
        let want = match about.owns() {
            Some((_, need)) => Want::Own(need),
            None if wants.has(LeaseBits::WRITE) => Want::Write,
            None => Want::Read,
        };
        if let Some(ino) =
            subject.filter(|_| (status == Status::Ok || no_data) && wants != LeaseBits::NONE)
        {
            granted = granted.with(LeaseBits::granting(table.grant(session, ino, want, now)));
        }
        if status == Status::Ok && wants.has(LeaseBits::PARENTS) {
            granted = granted.with(self.grant_parents(session, about, body));
        }
        if header.lease != LeaseBits::NONE && self.leases.table.others_hold(session) {
            granted = granted.with(LeaseBits::OTHERS);
        }
        granted
    }

    /// The directories whose names the request changed: the kernel asks for their attributes next. Those that may be
    /// kept go with the reply, as they are now.
    fn grant_parents(
        &mut self,
        session: SessionId,
        about: &About,
        body: &mut Vec<u8>,
    ) -> LeaseBits {
        let Some(volume) = &self.volume else { return LeaseBits::NONE };
        let (now, table) = (self.now.mono, &mut self.leases.table);
        let mut inos: Vec<Ino> = about.names.iter().map(|(parent, _)| *parent).collect();
        inos.dedup();
        inos.retain(|ino| table.grant(session, *ino, Want::Read, now) >= LeaseMode::Read);
        let parents: Vec<_> = inos.into_iter().filter_map(|ino| volume.attr_of(ino)).collect();
        if parents.is_empty() {
            return LeaseBits::NONE;
        }
        push_parents(body, &parents);
        LeaseBits::PARENTS
    }

    /// The inodes of a listing: those with a writer elsewhere lose their attributes, the others are granted, all of
    /// them or none.
    fn grant_listed(
        &mut self,
        session: SessionId,
        wants: LeaseBits,
        body: &mut Vec<u8>,
    ) -> LeaseBits {
        let Ok(MetaReply::Dir(entries, last)) = MetaReply::decode(Kind::ReadDir, body) else {
            unreachable!("the volume's own reply")
        };
        let (now, table) = (self.now.mono, &mut self.leases.table);
        let others = table.others_hold(session);
        let (mut all, mut stripped) = (wants.has(LeaseBits::NAMES), false);
        let mut out = Vec::new();
        for mut entry in MetaReply::dir_entries(&entries).flatten() {
            if entry.attr.is_some() {
                if others && table.is_written(session, entry.ino) {
                    (entry.attr, stripped) = (None, true);
                } else if all {
                    all = table.grant(session, entry.ino, Want::Read, now) >= LeaseMode::Read;
                }
            }
            if others {
                push_dir_entry(&mut out, &entry);
            }
        }
        if stripped {
            body.clear();
            MetaReply::Dir(out, last).encode(body);
        }
        if all { LeaseBits::NAMES } else { LeaseBits::NONE }
    }

    /// A client gave back what a recall asked for.
    pub(super) fn lease_returned(&mut self, conn: ConnId, session: SessionId, id: u64) {
        if !self.leases.table.returned(session, id) {
            return self.break_off(conn, "an answer to a recall that was not sent");
        }
        self.leases.look_again = true;
    }

    /// A session has a new connection: what it was asked back it is asked again.
    pub(super) fn recall_again(&mut self, conn: ConnId, session: SessionId) {
        self.leases.heard.remove(&session);
        for (id, inodes) in self.leases.table.recalls_of(session) {
            self.send_recall(conn, id, inodes);
        }
    }

    fn send_recall(&mut self, conn: ConnId, id: u64, inodes: Vec<(Ino, LeaseMode)>) {
        let mut body = Vec::new();
        Recall { inodes }.encode(&mut body);
        let base = Header::request(Kind::Recall, id, &body, 0);
        let header = Header { epoch: self.epoch, shard: self.id.0, ..base };
        let mut head = Vec::with_capacity(64 + body.len());
        weft_wire::header::push_frame(&mut head, &header, &body);
        self.out.push(Action::Send { conn, head, pieces: Vec::new() });
    }

    /// A connection is gone: its requests that wait come again, on the next one.
    pub(super) fn conn_gone(&mut self, conn: ConnId, session: Option<SessionId>, heard: Duration) {
        if let Some(session) = session.filter(|_| self.volume.is_some()) {
            self.leases.heard.insert(session, heard);
        }
        let gone: Vec<u64> =
            self.leases.held.iter().filter(|(_, h)| h.conn == conn).map(|(id, _)| *id).collect();
        for id in gone {
            let held = self.leases.held.remove(&id).expect("just listed");
            self.give_memory_back(held.memory_bytes);
            held.about.waited_for().for_each(|ino| self.leases.table.leave(ino, true));
            self.leases.look_again = true;
        }
    }

    fn take_memory(&mut self, bytes: u64) {
        self.leases.held_bytes += bytes;
        self.requests_bytes += bytes;
    }

    fn give_memory_back(&mut self, bytes: u64) {
        self.leases.held_bytes -= bytes;
        self.requests_bytes -= bytes;
    }

    /// Goes on with the requests that may go on now, and asks back what is in the way of the others.
    pub(super) fn look_at_held(&mut self) {
        if std::mem::take(&mut self.leases.look_again) {
            let mut before = BTreeSet::new();
            let ids: Vec<u64> = self.leases.held.keys().copied().collect();
            for id in ids {
                self.look_at(id, &mut before);
            }
        }
        for (id, session, inodes) in self.leases.table.take_recalls(self.now.mono) {
            if let Some(Ok(conn)) = self.sessions.get(&session).copied() {
                self.send_recall(conn, id, inodes);
            }
        }
    }

    fn look_at(&mut self, id: u64, before: &mut BTreeSet<Ino>) {
        let Some(mut held) = self.leases.held.remove(&id) else { return };
        held.about.waited_for().for_each(|ino| self.leases.table.leave(ino, true));
        let decoded = MetaRequest::decode(held.frame.header.kind, &held.frame.body);
        let (_, request) = decoded.expect("it was decoded before it was kept");
        // Names may lead elsewhere by now.
        let about = self.about(held.frame.header.lease, &request);
        if self.may_go_on(held.session, &about, Some(before)) {
            self.enter(&about);
            if let Some(state) = self.conns.get_mut(&held.conn) {
                state.held -= 1;
            }
            self.give_memory_back(held.memory_bytes);
            return self.carry_out_metadata(held.conn, held.session, &held.frame, about);
        }
        before.extend(about.waited_for());
        about.waited_for().for_each(|ino| self.leases.table.enter(ino, true));
        held.about = about;
        self.leases.held.insert(id, held);
    }

    pub(super) fn tick_leases(&mut self) {
        let now = self.now.mono;
        self.tick_fences();
        self.leases.table.tick(now);
        if self.stopping {
            return;
        }
        self.end_returns();
        for (session, since) in self.leases.table.awaited() {
            let silent = now.saturating_sub(self.last_heard(session)) > self.leases.time;
            if silent || now.saturating_sub(since) > self.leases.time * PATIENCE {
                self.fence(session);
            }
        }
    }

    fn last_heard(&self, session: SessionId) -> Duration {
        let conn = self.sessions.get(&session).copied().and_then(Result::ok);
        let connected = conn.and_then(|conn| self.conns.get(&conn)).map(|conn| conn.heard);
        let before = self.leases.heard.get(&session).copied();
        connected.or(before).unwrap_or(Duration::ZERO)
    }

    /// The session holds nothing any more.
    pub(super) fn end_leases(&mut self, session: SessionId) {
        self.leases.table.end(session);
        self.leases.heard.remove(&session);
        self.leases.look_again = true;
        self.has_returned(session);
    }

    /// Leases that are out, for metrics and tests.
    pub fn lease_count(&self) -> u64 {
        to_u64(self.leases.table.count())
    }
}

/// Asking for attributes is also how a lease to write is asked for.
fn need_of_attributes(lease: LeaseBits) -> Need {
    match (lease.has(LeaseBits::WRITE), lease.has(LeaseBits::READ)) {
        (true, true) => Need::Alone,
        (true, false) => Need::Own,
        _ => Need::Look,
    }
}

/// The inode that a reply with attributes begins with.
fn first_ino(body: &[u8]) -> Option<Ino> {
    body.first_chunk::<8>().map(|bytes| Ino(u64::from_le_bytes(*bytes)))
}
