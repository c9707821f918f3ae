//! One volume: takes requests, logs changes, applies what is logged, answers.
//!
//! The life of a change: [`Volume::request`] admits it (slot, headroom, bounds) -> `pending` -> [`Volume::flush_log`]
//! makes a batch of what waits, a few at a time -> the caller writes it, synced -> [`Volume::log_done`], and that of all
//! batches before it: **durable from here on** -> applied in order -> the replies go out. A `SetAttr` of the size waits
//! further: for the targets, and for the logged word that they are done, so that the cut is never repeated after later
//! writes were acknowledged.

mod checkpoint;
mod open;
mod turn;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::time::Duration;

use weft_wire::limits::BODY_BYTES_MAX;
use weft_wire::meta::{Attr, Caller, DataPlace, MetaReply, MetaRequest, Time};
use weft_wire::units::{to_u64, to_usize};
use weft_wire::{Ino, Layout, SessionId, Status, VolumeId};

pub use checkpoint::{Checkpoint, CheckpointWritten};
pub use open::{FormatParams, OpenReport, VolumeParams};

use crate::apply::numbers_body;
use crate::ended::Fence;
use crate::error::{Kind, MetaError};
use crate::limits::{COMMAND_BYTES, INTERNAL_LIST_MAX, MemoryShares, OPEN_BYTES, REMOVAL_BYTES};
use crate::log::{
    Command, DROP_ORPHANS, FENCE, SESSION_END, SESSION_EXPIRED, WERE_READ, WORKS_DONE,
};
use crate::opens::Opens;
use crate::planted::{self, Bug};
use crate::record::{Identity, Outcome, State, Work, key_number};
use crate::slots::{Admission, Slots};
use crate::store::{Name, PAGE_VALUE_BYTES, Store};

/// A request as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// The caller's name for it, given back in [`Action::Reply`].
    pub op: u64,
    /// Who sent it.
    pub session: SessionId,
    /// Decoded from `body`.
    pub caller: Caller,
    /// Decoded from `body`.
    pub request: &'a MetaRequest<'a>,
    /// The frame's body: what the log keeps.
    pub body: &'a [u8],
}

/// Pause before a log that failed is tried again.
const LOG_RETRY: Duration = Duration::from_secs(1);

/// What the volume wants done.
#[derive(Debug)]
pub enum Action {
    /// Write `bytes` at `offset` of the log file and make them durable (RWF_DSYNC), then call
    /// [`Volume::log_done`]. Offset and length are multiples of 4096. Up to [`crate::limits::LOG_WRITES_MAX`] are under way
    /// at a time, beside each other in the file, and may end in any order.
    AppendLog {
        /// Names the write in `log_done`.
        io: u64,
        /// Where in the log file.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Answer a request.
    Reply {
        /// [`Incoming::op`].
        op: u64,
        /// How it ended.
        status: Status,
        /// The encoded `MetaReply`; empty unless `Ok`.
        body: Vec<u8>,
    },
    /// What [`Volume::fence`] says of a session is durable.
    Fenced {
        /// Who.
        session: SessionId,
        /// How.
        what: Fence,
        /// What its client is told of fences from here on (`Welcome::fence`).
        number: u32,
    },
    /// The same of a session that expired.
    Expired {
        /// Who.
        session: SessionId,
        /// What its client is told of fences from here on (`Welcome::fence`).
        number: u32,
    },
    /// Have the targets do this, then call [`Volume::work_done`].
    Work(Work),
    /// Have this written, on whatever thread may wait for a disk, then call [`Volume::checkpoint_written`]. One at a time.
    WriteCheckpoint(Checkpoint),
    /// The last checkpoint is made: the volume can be dropped.
    Stopped,
}

/// What the volume is able to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// Everything.
    Good,
    /// Reads: the log failed twice running. What was sent to it and may be there is not answered; it is tried again now
    /// and then, and with success the volume is good again.
    ReadOnly(MetaError),
    /// Nothing: the database failed in the midst of a change. A reopen starts from the last checkpoint and the log; what
    /// the log may have is not answered, so that its client asks again after that.
    Broken(MetaError),
}

/// Numbers for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Sequence number of the last command applied.
    pub applied: u64,
    /// Checkpoints since the volume was made.
    pub generation: u64,
    /// Bytes of the log's area in use.
    pub log_used_bytes: u64,
    /// Changes that wait for the log.
    pub pending_count: usize,
    /// (session, inode) pairs that are open.
    pub open_count: usize,
    /// Inodes without a name.
    pub orphan_count: usize,
    /// Works the targets are not done with.
    pub work_count: usize,
    /// Memory of the changes since the last checkpoint, and of those that one under way writes.
    pub dirty_bytes: u64,
    /// The disk gives no more room for the database: what grows the namespace is, or will soon be, refused.
    pub disk_full: bool,
}

#[derive(Debug)]
struct Flight {
    io: u64,
    commands: Vec<Command>,
    /// [`Command::change_count`] of all of them.
    change_count: u64,
    /// Length in the log.
    bytes: usize,
    /// The write before this one failed.
    tried_before: bool,
    /// How the write went. It may be durable before those in front of it are.
    ended: Option<Result<(), i32>>,
}

/// A work the targets are not done with, and the replies that wait for it.
#[derive(Debug, Default)]
struct WorkState {
    shrink: bool,
    waiters: Vec<(u64, Vec<u8>)>,
}

/// See the module and the crate.
#[derive(Debug)]
pub struct Volume {
    identity: Identity,
    store: Store,
    state: State,
    slots: Slots,
    opens: Opens,
    works: BTreeMap<u64, WorkState>,
    /// Inodes without a name that still have a record.
    orphans: BTreeSet<Ino>,
    /// Orphans to be dropped with the next batch; and those on their way, which cannot be opened any more.
    to_drop: BTreeSet<Ino>,
    dropping: BTreeSet<Ino>,
    /// Sessions may still say what they have open: no orphan is dropped.
    grace: bool,
    /// And how many blocks the targets freed for each.
    works_done: BTreeMap<u64, u64>,
    /// When files were read, to be logged with the next batch; and those on their way.
    read_times: BTreeMap<Ino, Time>,
    read_times_logged: BTreeMap<Ino, Time>,
    /// Internal commands do not wait for others to share a batch with.
    internal_urgent: bool,
    pending: VecDeque<Command>,
    /// Memory of `pending`.
    pending_bytes: u64,
    /// So many of `pending`, the first, were sent to the log, and the write failed: the log may have them or not.
    unsure_count: usize,
    /// The next batch is the first one after a write that failed.
    tried_before: bool,
    /// When the log is tried again, and that it is time.
    retry_at: Option<Duration>,
    retry_due: bool,
    memory: MemoryShares,
    /// Batches on their way to the log, in its order.
    flights: VecDeque<Flight>,
    next_io: u64,
    next_sequence: u64,
    log_used_bytes: u32,
    commands_since_checkpoint: u32,
    checkpoint_commands_max: u32,
    checkpoint_interval: Duration,
    checkpoint_at: Option<Duration>,
    checkpoint_due: bool,
    /// A checkpoint is being written.
    writing: bool,
    /// Its end makes what was `unsure_count` certain.
    settles_unsure: bool,
    /// The disk has no room for the checkpoint that is due: changes are refused until it has.
    starved: bool,
    stopping: bool,
    stopped: bool,
    health: Health,
}

impl Volume {
    /// The volume's number.
    pub fn id(&self) -> VolumeId {
        self.identity.volume
    }

    /// How the data of a file is striped; `None` when it is no file, cannot be read, or has its data in the inode.
    pub fn layout_of(&self, ino: Ino) -> Option<Layout> {
        let inode = self.store.known_inode(ino).ok()?;
        inode.layout().filter(|_| inode.inline_max().is_none()).cloned()
    }

    /// The same of a file whose targets are emptied before its data moves there; else `None`.
    pub fn layout_to_empty(&self, ino: Ino) -> Option<Layout> {
        let inode = self.store.known_inode(ino).ok()?;
        inode.layout().filter(|_| inode.may_have_leftovers()).cloned()
    }

    /// The inode that a name leads to now: what is logged and not applied is not counted.
    pub fn child_of(&self, parent: Ino, name: &[u8]) -> Option<Ino> {
        if name == b".." {
            return match self.store.read(&MetaRequest::Lookup { parent, name }) {
                Ok(MetaReply::Entry(attr)) => Some(attr.ino),
                _ => None,
            };
        }
        self.store.find_entry(parent, name).ok()?.map(|found| found.ino)
    }

    /// An inode's attributes now; `None` when it is not there or cannot be read.
    pub fn attr_of(&self, ino: Ino) -> Option<Attr> {
        match self.with_read_times(self.store.read(&MetaRequest::GetAttr { ino }).ok()?) {
            MetaReply::Attr(attr) => Some(attr),
            _ => None,
        }
    }

    /// An inode's version; `None` when it is not there or cannot be read.
    pub fn version_of(&self, ino: Ino) -> Option<u64> {
        self.store.known_inode(ino).ok().map(|inode| inode.attr.version)
    }

    /// Whether the session is one of [`Volume::sessions`].
    pub fn knows(&self, session: SessionId) -> bool {
        self.slots.knows(session)
    }

    /// What it is able to do.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Numbers for metrics.
    pub fn counters(&self) -> Counters {
        Counters {
            applied: self.state.applied,
            generation: self.state.generation,
            log_used_bytes: u64::from(self.log_used_bytes),
            pending_count: self.pending.len(),
            open_count: self.opens.len(),
            orphan_count: self.orphans.len(),
            work_count: self.works.len(),
            dirty_bytes: self.store.dirty_bytes() + self.store.writing_bytes(),
            disk_full: self.starved || self.store.wants_room(),
        }
    }

    /// Sessions that changed something and have not ended, ascending. After an open: those that may come back.
    pub fn sessions(&self) -> Vec<SessionId> {
        self.slots.sessions()
    }

    /// Sessions that expired and lost outcomes of changes by that, or that others went on without, and what their clients
    /// are told by a server that is started now (`Welcome::fence`): all that live, and the last thousand of the others.
    pub fn fences(&self) -> impl Iterator<Item = (SessionId, u32)> + '_ {
        self.slots.ended.numbers()
    }

    /// Works the targets have not been said to be done with, in order. After an open: those from before; the shrinks
    /// among them must be done before anything is served.
    ///
    /// # Errors
    /// `Damaged`, `Database`.
    pub fn pending_works(&self) -> Result<Vec<Work>, MetaError> {
        if planted::is(Bug::DropWorks) {
            return Ok(Vec::new());
        }
        let mut works = Some(Vec::new());
        let scanned = self.store.scan(Name::Works, &[], &mut |key, value| {
            let work = key_number(key).and_then(|id| Work::decode(id, value));
            match (work, &mut works) {
                (Some(work), Some(works)) => works.push(work),
                _ => works = None,
            }
            ControlFlow::Continue(())
        });
        works.filter(|_| scanned.is_ok()).ok_or(MetaError::new(Kind::Damaged, "list works"))
    }

    /// Takes a request. One that only reads is answered at once; a change is answered when it is durable and applied.
    pub fn request(&mut self, incoming: &Incoming<'_>, now: Time, out: &mut Vec<Action>) {
        if incoming.request.is_mutation() {
            return self.change(incoming, now, out);
        }
        if let Health::Broken(error) = self.health {
            return push_reply(out, incoming.op, error.status(), Vec::new());
        }
        match self.read(incoming.session, incoming.request) {
            Ok(reply) => {
                let mut body = Vec::new();
                reply.encode(&mut body);
                push_reply(out, incoming.op, Status::Ok, body);
            }
            Err(status) => push_reply(out, incoming.op, status, Vec::new()),
        }
    }

    fn read(&mut self, session: SessionId, request: &MetaRequest<'_>) -> Result<MetaReply, Status> {
        match request {
            MetaRequest::Open { ino, inline } => {
                if self.dropping.contains(ino) {
                    return Err(Status::Stale);
                }
                if self.opens_full() {
                    return Err(Status::Busy);
                }
                let inode = self.store.known_inode(*ino)?;
                if inode.inline_max().is_some() && !inline {
                    return Err(Status::NotSupported);
                }
                let inline = self.store.inline_of(&inode)?;
                self.opens.add(session, *ino);
                let layout = inode.layout().cloned();
                let place = layout.map(|layout| DataPlace { layout, inline });
                Ok(MetaReply::Opened(inode.attr, place))
            }
            MetaRequest::Release { ino, count, atime } => {
                if let Some(atime) = atime.filter(|_| self.opens.count(session, *ino) > 0) {
                    self.was_read(*ino, atime);
                }
                self.opens.release(session, *ino, *count);
                self.drop_if_unused(*ino);
                Ok(MetaReply::Done)
            }
            MetaRequest::Reopen { opens } => self.reopen(session, opens),
            _ => Ok(self.with_read_times(self.store.read(request)?)),
        }
    }

    /// Beyond what one batch takes at once a time is let go: it would be memory without bound.
    fn was_read(&mut self, ino: Ino, atime: Time) {
        let known = self.read_times.contains_key(&ino);
        if known || self.read_times.len() < INTERNAL_LIST_MAX && self.health == Health::Good {
            let kept = self.read_times.entry(ino).or_insert(atime);
            *kept = atime.max(*kept);
        }
    }

    /// Attributes with the times that are not in the tables yet.
    fn with_read_times(&self, mut reply: MetaReply) -> MetaReply {
        if let MetaReply::Attr(attr) | MetaReply::Entry(attr) | MetaReply::Data(attr, _) =
            &mut reply
        {
            for times in [&self.read_times, &self.read_times_logged] {
                attr.atime = times.get(&attr.ino).map_or(attr.atime, |time| attr.atime.max(*time));
            }
        }
        reply
    }

    /// Sets the counts: a request that comes twice does no harm.
    fn reopen(&mut self, session: SessionId, opens: &[(Ino, u32)]) -> Result<MetaReply, Status> {
        let mut gone = Vec::new();
        for (ino, count) in opens {
            if self.is_openable(*ino)? {
                self.opens.set(session, *ino, *count);
                self.drop_if_unused(*ino);
            } else {
                gone.push(*ino);
            }
        }
        Ok(MetaReply::Reopened(gone))
    }

    fn is_openable(&self, ino: Ino) -> Result<bool, Status> {
        match self.store.inode(ino) {
            Ok(inode) => Ok(inode.is_some() && !self.dropping.contains(&ino)),
            // It is there, only unreadable: whoever has it open keeps it.
            Err(Status::Damaged) => Ok(!self.dropping.contains(&ino)),
            Err(status) => Err(status),
        }
    }

    fn change(&mut self, incoming: &Incoming<'_>, now: Time, out: &mut Vec<Action>) {
        let Incoming { op, session, caller, request, body } = *incoming;
        match self.slots.admit(session, &caller, op) {
            Admission::Joined => {}
            Admission::Refused => push_reply(out, op, Status::Protocol, Vec::new()),
            Admission::Repeat(mut outcome) => {
                outcome.body = self.told(request, outcome.status, outcome.body);
                self.repeat(op, session, caller.slot, outcome, out);
            }
            Admission::New => match self.check_admissible(session, &caller, request, body) {
                Err(status) => push_reply(out, op, status, Vec::new()),
                Ok(()) => {
                    self.slots.accept(session, &caller, op);
                    let kind = request.kind().code();
                    self.push_command(session, now, kind, body.to_vec());
                }
            },
        }
    }

    /// Whether a new change can be taken now. What is refused here leaves no trace: the slot keeps its last outcome.
    fn check_admissible(
        &self,
        session: SessionId,
        caller: &Caller,
        request: &MetaRequest<'_>,
        body: &[u8],
    ) -> Result<(), Status> {
        if self.stopping {
            return Err(Status::Unavailable);
        }
        match self.health {
            Health::Good => {}
            Health::ReadOnly(_) => return Err(Status::Io),
            Health::Broken(error) => return Err(error.status()),
        }
        if body.len() > to_usize(u64::from(BODY_BYTES_MAX)) {
            return Err(Status::ArgumentTooBig);
        }
        let slots_full = self.slots.memory_bytes() >= self.memory.slots_bytes;
        let full = self.pending_bytes + command_bytes(body) > self.memory.pending_bytes
            || slots_full && self.slots.is_extra(session, caller.slot)
            || match request {
                MetaRequest::Make { how, .. } => how.open && self.opens_full(),
                MetaRequest::SetAttr { set, .. } => set.size.is_some() && self.removals_full(),
                MetaRequest::Unlink { .. }
                | MetaRequest::Rmdir { .. }
                | MetaRequest::Rename { .. } => self.removals_full(),
                _ => false,
            };
        if full {
            return Err(Status::Busy);
        }
        let grows = match request {
            MetaRequest::Make { target, .. } => Some(target.len() > PAGE_VALUE_BYTES),
            MetaRequest::SetXattr { value, .. } => Some(value.len() > PAGE_VALUE_BYTES),
            MetaRequest::WriteData(write) => {
                // The row is written anew as a whole.
                let there = self.store.data(write.ino)?.len();
                let end = to_usize(u64::from(write.offset)) + write.bytes.len();
                (!write.bytes.is_empty()).then_some(end.max(there) > PAGE_VALUE_BYTES)
            }
            MetaRequest::Link { .. } | MetaRequest::Rename { .. } => Some(false),
            _ => None,
        };
        match grows {
            _ if self.starved => Err(Status::NoSpace),
            Some(contiguous) => self.store.check_room(contiguous, 2 * self.pending_bytes),
            None => Ok(()),
        }
    }

    fn opens_full(&self) -> bool {
        to_u64(self.opens.len()) * OPEN_BYTES >= self.memory.opens_bytes
    }

    /// Inodes without a name that are open count as opens.
    fn removals_full(&self) -> bool {
        let count = self.works.len() + self.to_drop.len() + self.dropping.len();
        to_u64(count) * REMOVAL_BYTES >= self.memory.removals_bytes
    }

    fn repeat(
        &mut self,
        op: u64,
        session: SessionId,
        slot: u16,
        outcome: Outcome,
        out: &mut Vec<Action>,
    ) {
        if let Some(ino) = self.slots.take_open(session, slot)
            && self.is_openable(ino) == Ok(true)
        {
            self.opens.add(session, ino);
        }
        match self.works.get_mut(&outcome.work) {
            Some(work) => work.waiters.push((op, outcome.body)),
            None => push_reply(out, op, outcome.status, outcome.body),
        }
    }

    /// What a change is answered with, by the outcome that is kept. A move tells the data as well, which is not kept: it
    /// would be most of all outcomes.
    fn told(&self, request: &MetaRequest<'_>, status: Status, kept: Vec<u8>) -> Vec<u8> {
        let MetaRequest::MoveData { ino, .. } = request else { return kept };
        match self.store.read(&MetaRequest::GetData { ino: *ino }) {
            Ok(reply) if status == Status::Ok => {
                let mut body = Vec::new();
                reply.encode(&mut body);
                body
            }
            _ => kept,
        }
    }

    /// The session is over: what it has open is given back, its slots are forgotten. One that `expired` is remembered in
    /// [`Volume::fences`]: its client may come back and send changes again. False: it has no slots, and nothing is logged.
    pub fn session_ended(&mut self, session: SessionId, expired: bool) -> bool {
        let logs = !matches!(self.health, Health::Broken(_)) && !self.stopping;
        if logs && self.slots.knows(session) {
            let body = if expired { SESSION_EXPIRED.to_vec() } else { Vec::new() };
            self.push_command(session, Time::default(), SESSION_END, body);
            return true;
        }
        self.end_opens(session);
        false
    }

    /// Others go on without a session, or it is back: [`Action::Fenced`] when that is durable.
    pub fn fence(&mut self, session: SessionId, what: Fence) {
        if !matches!(self.health, Health::Broken(_)) && !self.stopping {
            self.push_command(session, Time::default(), FENCE, what.body());
        }
    }

    fn end_opens(&mut self, session: SessionId) {
        for ino in self.opens.end(session) {
            self.drop_if_unused(ino);
        }
    }

    /// Every session that was there before the restart has said what it has open, or is over: orphans nobody has open
    /// are dropped from here on.
    pub fn grace_over(&mut self) {
        self.grace = false;
        let orphans: Vec<Ino> = self.orphans.iter().copied().collect();
        for ino in orphans {
            self.drop_if_unused(ino);
        }
    }

    fn drop_if_unused(&mut self, ino: Ino) {
        let unused = self.orphans.contains(&ino) && !self.opens.is_open(ino);
        if unused && !self.grace && self.dropping.insert(ino) {
            self.to_drop.insert(ino);
        }
    }

    /// The targets are done with a work, and `freed_count` blocks are free by it. Not a work of this volume: nothing
    /// happens.
    pub fn work_done(&mut self, id: u64, freed_count: u64) {
        if let Some(work) = self.works.get(&id) {
            self.internal_urgent |= work.shrink;
            self.works_done.insert(id, freed_count);
        }
    }

    /// Time passes: what was put off goes with the next [`Volume::flush_log`]. `now` is any monotonic clock. To be called
    /// a few times a second.
    pub fn tick(&mut self, now: Duration) {
        self.internal_urgent = true;
        let since = now.saturating_sub(*self.checkpoint_at.get_or_insert(now));
        if since >= self.checkpoint_interval {
            self.checkpoint_at = Some(now);
            self.checkpoint_due |= self.commands_since_checkpoint > 0;
        }
        self.checkpoint_due |= self.starved;
        if matches!(self.health, Health::ReadOnly(_)) && self.flights.is_empty() {
            self.retry_due |= now >= *self.retry_at.get_or_insert(now + LOG_RETRY);
        }
        if self.store.wants_room() {
            self.store.make_room();
        }
    }

    /// No change is taken from here on. [`Action::Stopped`] comes from a later [`Volume::flush_log`], after what is
    /// pending is logged and the last checkpoint is made.
    pub fn shutdown(&mut self) {
        self.stopping = true;
        self.internal_urgent = true;
    }

    /// Sends what waits to the log, when that takes another write. Called once in each turn of the caller's loop, after
    /// the replies of the last turn went out: it also begins the checkpoint that is due.
    pub fn flush_log(&mut self, out: &mut Vec<Action>) {
        if self.stopped || !self.log_is_open() {
            return;
        }
        if self.health == Health::Good || std::mem::take(&mut self.retry_due) {
            self.retry_at = None;
            if !self.checkpoint_if_due(out) {
                return;
            }
            self.push_internal();
            if !self.pending.is_empty() && self.log_has_room() {
                return self.send_batch(out);
            }
        }
        if self.stopping && self.flights.is_empty() {
            self.stop(out);
        }
    }

    fn stop(&mut self, out: &mut Vec<Action>) {
        if !self.writing && self.health == Health::Good && self.commands_since_checkpoint > 0 {
            self.checkpoint_due = true;
            self.checkpoint_if_due(out);
        }
        if self.writing {
            return; // Its end comes first.
        }
        // Without room for a checkpoint the log keeps what it has.
        self.stopped = true;
        out.push(Action::Stopped);
    }

    /// Dropped orphans and finished works share a batch with changes; when there are none, they wait for a tick: a
    /// sync of their own would make the next change wait.
    fn push_internal(&mut self) {
        let most = self.to_drop.len().max(self.works_done.len()).max(self.read_times.len());
        let many = most >= INTERNAL_LIST_MAX;
        if !many && !self.internal_urgent && self.pending.is_empty() {
            return;
        }
        self.internal_urgent = false;
        while !self.to_drop.is_empty() {
            let body = self.take_drops();
            self.push_command(SessionId::default(), Time::default(), DROP_ORPHANS, body);
        }
        // The times that are on their way are known as a whole, until they are in the tables.
        if !self.read_times.is_empty() && self.read_times_logged.is_empty() {
            let body = self.take_read_times();
            self.push_command(SessionId::default(), Time::default(), WERE_READ, body);
        }
        while !self.works_done.is_empty() {
            let body = self.take_works_done();
            self.push_command(SessionId::default(), Time::default(), WORKS_DONE, body);
        }
    }

    /// All of them: [`Volume::was_read`] keeps no more than a command holds.
    fn take_read_times(&mut self) -> Vec<u8> {
        let times = std::mem::take(&mut self.read_times);
        self.read_times_logged.extend(&times);
        let triple =
            |(ino, time): (Ino, Time)| [ino.0, time.seconds.cast_unsigned(), u64::from(time.nanos)];
        numbers_body(times.into_iter().flat_map(triple))
    }

    /// Takes up to [`INTERNAL_LIST_MAX`] of what is to be dropped, as the body of an internal command.
    fn take_drops(&mut self) -> Vec<u8> {
        let rest = self.to_drop.iter().copied().nth(INTERNAL_LIST_MAX);
        let rest = rest.map_or_else(BTreeSet::new, |ino| self.to_drop.split_off(&ino));
        let taken = std::mem::replace(&mut self.to_drop, rest);
        numbers_body(taken.into_iter().map(|ino| ino.0))
    }

    /// The same of works, each with its blocks.
    fn take_works_done(&mut self) -> Vec<u8> {
        let rest = self.works_done.keys().copied().nth(INTERNAL_LIST_MAX);
        let rest = rest.map_or_else(BTreeMap::new, |id| self.works_done.split_off(&id));
        let taken = std::mem::replace(&mut self.works_done, rest);
        numbers_body(taken.into_iter().flat_map(|(id, freed)| [id, freed]))
    }

    fn push_command(&mut self, session: SessionId, now: Time, kind: u16, body: Vec<u8>) {
        self.pending_bytes += command_bytes(&body);
        self.pending.push_back(Command { sequence: 0, session, now, kind, body });
    }

    pub(crate) fn root(&self) -> Ino {
        open::root_ino(self.identity.volume)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Applies a command as a replay does.
    #[cfg(test)]
    pub(crate) fn replay_one(&mut self, command: &Command) -> Result<Status, MetaError> {
        self.next_sequence = command.sequence + 1;
        self.run(command, false, &mut Vec::new())
    }

    #[cfg(test)]
    pub(crate) fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    #[cfg(test)]
    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }
}

/// Memory of a command that waits.
fn command_bytes(body: &[u8]) -> u64 {
    COMMAND_BYTES + to_u64(body.len())
}

fn push_reply(out: &mut Vec<Action>, op: u64, status: Status, body: Vec<u8>) {
    out.push(Action::Reply { op, status, body });
}
