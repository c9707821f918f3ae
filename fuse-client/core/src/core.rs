//! The core's state, its inputs and outputs, and the loop that brings it to rest after each input.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use weft_iobuf::Pool;
use weft_net::Frame;
use weft_net::link::{Link, LinkOutput, Request};
use weft_wire::meta::{Time, take_parents};
use weft_wire::session::Welcome;
use weft_wire::{Ino, Kind, LeaseBits, ShardId, Status, TargetId, VolumeId};

use crate::cache::Cache;
use crate::closed::Lingering;
use crate::config::{ClientConfig, OnTimeout};
use crate::file::Files;
use crate::keep::{Keep, Kept};
use crate::leases::{Forgetting, Overtaking, Recalling, told_version};
use crate::limits::{INTERRUPT_PATIENCE, OPS_MAX};
use crate::locks::Locks;
use crate::op::{Caller, FsOp, FsReply, Handle, LinkId, OpId, Output};
use crate::records::OpState;
use crate::state::{Answer, Call, HandleState, Op, Purpose, errno};
use crate::takeover::Legacy;
use crate::versions::Versions;
use crate::volume::Volume;

/// One mount's client. Single-threaded; the caller gives it every event and drains [`ClientCore::poll`] after each.
#[derive(Debug)]
pub struct ClientCore {
    pub(crate) config: ClientConfig,
    pub(crate) pool: Pool,
    /// The address the mount was given.
    pub(crate) address: String,
    pub(crate) now: Duration,
    /// The wall clock minus the monotonic one, in nanoseconds.
    wall_offset_nanos: i128,
    pub(crate) links: Vec<Link>,
    pub(crate) link_addresses: Vec<String>,
    pub(crate) targets: BTreeMap<TargetId, LinkId>,
    pub(crate) volumes: BTreeMap<VolumeId, Volume>,
    /// Links that may have outputs.
    pub(crate) live_links: BTreeSet<LinkId>,
    pub(crate) calls: BTreeMap<u64, Call>,
    /// The tag of the answer that is being taken in.
    pub(crate) answering: u64,
    pub(crate) overtaking: Overtaking,
    next_tag: u64,
    pub(crate) ops: BTreeMap<OpId, Op>,
    /// When an operation ends with this errno.
    pub(crate) op_timers: BTreeSet<(Duration, OpId, i32)>,
    pub(crate) files: Files,
    pub(crate) lingering: Lingering,
    pub(crate) touched: BTreeSet<Ino>,
    /// When opens that were put off are given back.
    pub(crate) releases_due: Option<Duration>,
    /// When volumes that may not know this session are told again.
    pub(crate) known_due: Option<Duration>,
    /// When the memory of what the caches let go of is given back to the system.
    pub(crate) trim_due: Option<Duration>,
    pub(crate) file_timers: BTreeSet<(Duration, Ino)>,
    pub(crate) handles: BTreeMap<Handle, HandleState>,
    pub(crate) next_handle: u64,
    pub(crate) versions: Versions,
    pub(crate) locks: Locks,
    pub(crate) cache: Cache,
    /// Until when what the kernel was told may hold, and the cache's next age by then: the earliest first.
    pub(crate) told: VecDeque<(Duration, u64)>,
    /// Changes that were asked for, ever.
    pub(crate) changes_asked: u64,
    pub(crate) recalls: BTreeMap<u64, Recalling>,
    pub(crate) next_recall: u64,
    pub(crate) forgetting: BTreeMap<u64, (Forgetting, Vec<Ino>)>,
    pub(crate) next_forgetting: u64,
    /// Other sessions hold leases.
    pub(crate) others: bool,
    /// How often the servers said they fenced us off.
    pub(crate) fence: u32,
    pub(crate) fence_count: u64,
    /// By link: the process behind it, as of its last welcome.
    pub(crate) epochs: BTreeMap<LinkId, u64>,
    /// Links that wait for a volume's answer to a reclaim.
    pub(crate) held_links: BTreeSet<LinkId>,
    pub(crate) dirty_bytes: usize,
    pub(crate) unsynced_bytes: usize,
    /// Writes that wait until there is room.
    pub(crate) room_waiters: VecDeque<OpId>,
    pub(crate) room_made: bool,
    pub(crate) ready: bool,
    pub(crate) failed: bool,
    /// Where a successor finds what it needs.
    pub(crate) keep: Option<Keep>,
    /// What the client-core before this one left, while some of it may be.
    pub(crate) legacy: Option<Legacy>,
    /// The next write's or change's place in the order of all.
    pub(crate) next_order: u64,
    /// Files whose record is to be written.
    pub(crate) unsaved: BTreeSet<Ino>,
    /// Records of files that are no more.
    pub(crate) closed_files: Vec<u32>,
    /// Records of changes that were sent, by their request's tag.
    pub(crate) kept_changes: BTreeMap<u64, Kept>,
    /// Records of changes that were answered, until whoever asked has heard.
    pub(crate) answered_changes: Vec<Kept>,
    /// The same of operations.
    pub(crate) finished_ops: Vec<u32>,
    /// Records of operations that were given up, by the request that is still out.
    pub(crate) given_up_ops: BTreeMap<u64, u32>,
    pub(crate) kept_links: BTreeMap<(String, ShardId), (u32, Welcome)>,
    /// Which client-core of the mount this is, counted from 1.
    pub(crate) core_number: u64,
    /// When it was told what operations wait for.
    pub(crate) told_at: Duration,
    outputs: VecDeque<Output>,
}

impl ClientCore {
    /// A client of the cluster behind `address` (`HOST:PORT`), which does nothing until [`ClientCore::start`].
    /// `pool` is where replies' payloads come from too.
    #[must_use]
    pub fn new(config: ClientConfig, pool: Pool, address: &str) -> ClientCore {
        ClientCore {
            config,
            pool,
            address: address.to_owned(),
            now: Duration::ZERO,
            wall_offset_nanos: 0,
            links: Vec::new(),
            link_addresses: Vec::new(),
            targets: BTreeMap::new(),
            volumes: BTreeMap::new(),
            live_links: BTreeSet::new(),
            calls: BTreeMap::new(),
            answering: u64::MAX,
            overtaking: Overtaking::default(),
            next_tag: 1,
            ops: BTreeMap::new(),
            op_timers: BTreeSet::new(),
            files: Files::new(),
            lingering: Lingering::default(),
            touched: BTreeSet::new(),
            releases_due: None,
            known_due: None,
            trim_due: None,
            file_timers: BTreeSet::new(),
            handles: BTreeMap::new(),
            next_handle: 1,
            versions: Versions::default(),
            locks: Locks::default(),
            cache: Cache::default(),
            told: VecDeque::new(),
            changes_asked: 0,
            recalls: BTreeMap::new(),
            next_recall: 1,
            forgetting: BTreeMap::new(),
            next_forgetting: 1,
            others: false,
            fence: 0,
            fence_count: 0,
            epochs: BTreeMap::new(),
            held_links: BTreeSet::new(),
            dirty_bytes: 0,
            unsynced_bytes: 0,
            room_waiters: VecDeque::new(),
            room_made: false,
            ready: false,
            failed: false,
            keep: None,
            legacy: None,
            next_order: 1,
            unsaved: BTreeSet::new(),
            closed_files: Vec::new(),
            kept_changes: BTreeMap::new(),
            answered_changes: Vec::new(),
            finished_ops: Vec::new(),
            given_up_ops: BTreeMap::new(),
            kept_links: BTreeMap::new(),
            core_number: 0,
            told_at: Duration::ZERO,
            outputs: VecDeque::new(),
        }
    }

    /// Connects; [`Output::Ready`] or [`Output::Failed`] will follow.
    pub fn start(&mut self, now: Duration) {
        self.now = now;
        if self.links.is_empty() {
            let session = self.config.session;
            self.core_number = self.keep.as_mut().map_or(0, |keep| keep.begin_trace(session, now));
            self.start_bootstrap();
        }
        self.settle();
    }

    /// What the wall clock shows at `now`: the source of mtime for writes. To be told at the start, and again every
    /// few seconds or when the clock was set.
    pub fn set_clock(&mut self, now: Duration, wall: Time) {
        let wall_nanos = i128::from(wall.seconds) * 1_000_000_000 + i128::from(wall.nanos);
        let now_nanos = i128::try_from(now.as_nanos()).expect("a monotonic clock is far below");
        self.wall_offset_nanos = wall_nanos - now_nanos;
    }

    /// Whether the kernel drops all names when told to; else it keeps none.
    pub fn set_kernel_forgets_names(&mut self, forgets: bool) {
        self.config.kernel_forgets_names = forgets;
    }

    /// The kernel asks. Before [`Output::Ready`], or beyond `limits::OPS_MAX` at once, the answer is EAGAIN.
    pub fn op(&mut self, id: OpId, caller: Caller, op: FsOp, now: Duration) {
        self.now = now;
        if let FsOp::Forget { ino, .. } = op {
            return self.kernel_let_go(ino);
        }
        let Some(op) = self.put_off(id, caller, op) else {
            if let OnTimeout::Eio(timeout) = self.config.on_timeout {
                self.op_timers.insert((now + timeout, id, errno::EIO));
            }
            return;
        };
        if self.failed || !self.ready || self.ops.len() >= OPS_MAX || self.ops.contains_key(&id) {
            let code = if self.failed { errno::EIO } else { errno::EAGAIN };
            self.push(Output::Reply { op: id, result: Err(code) });
            return;
        }
        if let OnTimeout::Eio(timeout) = self.config.on_timeout {
            self.op_timers.insert((now + timeout, id, errno::EIO));
        }
        self.begin(id, caller, op);
        self.settle();
    }

    /// The program that waits for this operation got a signal. While the servers answer, the operation is given a
    /// little time to end as it should; it ends with EINTR when it does not, or at once when a server is away. False
    /// when there is no such operation (any more).
    pub fn interrupt(&mut self, id: OpId, now: Duration) -> bool {
        self.now = now;
        if self.take_early(id) {
            self.push(Output::Reply { op: id, result: Err(errno::EINTR) });
            return true;
        }
        if self.interrupt_lock(id) {
            self.settle();
            return true;
        }
        let answering = self.is_answering(id);
        let Some(op) = self.ops.get_mut(&id) else { return false };
        if !answering {
            self.abandon(id, errno::EINTR);
        } else if op.patience_ends.is_none() {
            op.patience_ends = Some(now + INTERRUPT_PATIENCE);
            self.op_timers.insert((now + INTERRUPT_PATIENCE, id, errno::EINTR));
        }
        self.settle();
        true
    }

    /// A connection asked for with [`Output::Connect`] is there.
    pub fn link_connected(&mut self, link: LinkId, now: Duration) {
        self.with_link(link, now, |link| link.connected(now));
    }

    /// The same, by the local way ([`weft_net::local`]).
    pub fn link_connected_locally(&mut self, link: LinkId, now: Duration) {
        self.with_link(link, now, |link| link.connected_locally(now));
    }

    /// A connection asked for could not be made.
    pub fn link_connect_failed(&mut self, link: LinkId, now: Duration) {
        self.with_link(link, now, |link| link.connect_failed(now));
    }

    /// A connection ended, whichever way.
    pub fn link_disconnected(&mut self, link: LinkId, now: Duration) {
        self.with_link(link, now, |link| link.disconnected(now));
    }

    /// A frame came in.
    pub fn link_frame(&mut self, link: LinkId, frame: Frame, now: Duration) {
        self.with_link(link, now, |link| link.frame(frame, now));
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        self.now = now;
        for at in 0..self.links.len() {
            self.links[at].tick(now);
            self.live_links.insert(link_id(at));
        }
        while let Some((at, ino)) = self.file_timers.first().copied()
            && at <= now
        {
            self.file_timers.pop_first();
            self.file_due(ino);
        }
        while let Some((at, op, code)) = self.op_timers.first().copied()
            && at <= now
        {
            self.op_timers.pop_first();
            if self.take_early(op) {
                self.push(Output::Reply { op, result: Err(code) });
            }
            self.abandon(op, code);
        }
        self.send_held_due();
        self.send_releases_due();
        self.make_known_due();
        self.sync_lingering_due();
        self.mark_told();
        self.trim_memory_due();
        self.tell_what_is_waited_for();
        self.settle();
    }

    /// When [`ClientCore::tick`] has something to do.
    #[must_use]
    pub fn next_timer(&self) -> Option<Duration> {
        let links = self.links.iter().filter_map(Link::next_timer);
        let files = self.file_timers.first().map(|(at, _)| *at);
        let ops = self.op_timers.first().map(|(at, ..)| *at);
        let held = self.volumes.values().filter_map(|volume| volume.held_due);
        let due = [self.releases_due, self.known_due, self.trim_due, self.lingering.due];
        links.chain(files).chain(ops).chain(held).chain(due.into_iter().flatten()).min()
    }

    /// What is to be done next; call until `None` after every input.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether everything written is at the servers (acknowledged, told, not necessarily durable), and after
    /// [`ClientCore::leaving`] durable there as well.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.files.values().all(crate::file::File::is_settled) && self.lingering.may_leave()
    }

    /// How often servers said that they had fenced this mount off: what it had not written by then is lost.
    #[must_use]
    pub fn fence_count(&self) -> u64 {
        self.fence_count
    }

    /// Until when what this mount was granted holds without another sign of life of the servers; for tests.
    #[must_use]
    pub fn leases_until(&self) -> Duration {
        let links = self.volumes.values().map(|volume| &self.links[at(volume.link)]);
        links.map(Link::leases_until).min().unwrap_or(Duration::ZERO)
    }

    /// Whether no operation is in progress.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.ops.is_empty()
    }

    /// The mount is over: ends the session at every server that can be reached. To be called when
    /// [`ClientCore::is_clean`], or when that is no longer waited for; every operation gets EIO from here on.
    pub fn goodbye(&mut self, now: Duration) {
        self.now = now;
        self.failed = true;
        self.lingering.due = None;
        self.releases_due = None; // With the session its opens end.
        for at in 0..self.links.len() {
            self.links[at].leave(now);
            self.live_links.insert(link_id(at));
        }
        self.settle();
    }

    /// Whether the goodbye is over: nothing more will happen.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.links.iter().all(Link::is_gone)
    }

    pub(crate) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// The wall clock, by the monotonic one.
    pub(crate) fn wall(&self) -> Time {
        let now_nanos = i128::try_from(self.now.as_nanos()).expect("as in `set_clock`");
        let nanos = now_nanos + self.wall_offset_nanos;
        let second = 1_000_000_000;
        Time {
            seconds: i64::try_from(nanos.div_euclid(second)).unwrap_or(i64::MAX),
            nanos: u32::try_from(nanos.rem_euclid(second)).expect("below a billion"),
        }
    }

    pub(crate) fn new_handle(&mut self, mut state: HandleState, by: OpId) -> Handle {
        let handle = Handle(self.next_handle);
        self.next_handle += 1;
        self.keep_handle(handle, &mut state, by);
        self.handles.insert(handle, state);
        handle
    }

    /// Ends an operation.
    pub(crate) fn finish(&mut self, id: OpId, result: Result<FsReply, i32>) {
        let Some(op) = self.ops.remove(&id) else { return };
        if let (Some(keep), Some(record)) = (&mut self.keep, op.kept) {
            keep.op_serviced(record, self.now);
            self.finished_ops.push(record);
        }
        self.record_op(id, &op, &result);
        if let OnTimeout::Eio(timeout) = self.config.on_timeout {
            self.op_timers.remove(&(op.started + timeout, id, errno::EIO));
        }
        if let Some(at) = op.patience_ends {
            self.op_timers.remove(&(at, id, errno::EINTR));
        }
        if let Ok(FsReply::Attr(attr, _) | FsReply::Entry(attr, _) | FsReply::Created(attr, ..)) =
            &result
            && let Some(file) = self.files.get_mut(&attr.ino)
        {
            file.told = Some((attr.size, attr.mtime));
        }
        self.push(Output::Reply { op: id, result });
    }

    /// Asks a server; the answer comes to [`ClientCore::answered`].
    pub(crate) fn call(&mut self, call: Call, request: Request, first: bool) {
        let (link, tag) = (call.link, request.tag);
        self.note_tag(call.purpose, tag);
        self.calls.insert(tag, call);
        self.send_held(link);
        let now = self.now;
        let link_state = &mut self.links[at(link)];
        if first {
            link_state.submit_first(request, now)
        } else {
            link_state.submit(request, now)
        }
        self.live_links.insert(link);
    }

    /// The same for a request of no change, without data or a lease. Gives its tag.
    pub(crate) fn ask_server(
        &mut self,
        link: LinkId,
        (kind, body): (Kind, Vec<u8>),
        purpose: Purpose,
        first: bool,
    ) -> u64 {
        let (tag, lease) = (self.next_tag(), LeaseBits::NONE);
        let call = Call { link, kind, volume: None, purpose, changes: None };
        self.call(call, Request { tag, kind, body, payload: None, deadline: None, lease }, first);
        tag
    }

    /// The operation that asks remembers the request.
    pub(crate) fn note_tag(&mut self, purpose: Purpose, tag: u64) {
        if let Some(op) = purpose.op().and_then(|op| self.ops.get_mut(&op)) {
            op.tags.push(tag);
        }
    }

    pub(crate) fn next_tag(&mut self) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        tag
    }

    /// Something was done to a link: its outputs are to be looked at.
    pub(crate) fn touch_link(&mut self, link: LinkId) {
        self.live_links.insert(link);
    }

    fn with_link(&mut self, id: LinkId, now: Duration, what: impl FnOnce(&mut Link)) {
        self.now = now;
        if let Some(link) = self.links.get_mut(at(id)) {
            what(link);
            self.live_links.insert(id);
            self.settle();
        }
    }

    /// Until nothing is left to be done without new input.
    pub(crate) fn settle(&mut self) {
        loop {
            if let Some(link) = self.live_links.pop_first() {
                self.drain_link(link);
            } else if let Some(ino) = self.touched.pop_first() {
                self.run_file(ino);
            } else if std::mem::take(&mut self.room_made) {
                self.retry_room();
            } else {
                self.finish_recalls();
                if self.live_links.is_empty() && self.touched.is_empty() {
                    return self.save();
                }
            }
        }
    }

    fn drain_link(&mut self, id: LinkId) {
        while let Some(output) = self.links[at(id)].poll() {
            match output {
                LinkOutput::Connect { local } => {
                    let address = self.link_addresses[at(id)].clone();
                    self.push(Output::Connect { link: id, address, local });
                }
                LinkOutput::Send { head, payload } => {
                    self.push(Output::Send { link: id, head, payload });
                }
                LinkOutput::Close => self.push(Output::Close { link: id }),
                LinkOutput::Up { welcome, again, data_lost } => {
                    self.link_up(id, &welcome, again, data_lost);
                }
                LinkOutput::Refused { status } => self.link_refused(id, status),
                LinkOutput::Recall { id: number, recall } => self.recall(id, number, &recall),
                LinkOutput::Reply { tag, status, lease, body, payload, trip } => {
                    if let Some(call) = self.calls.remove(&tag) {
                        if let Some(trip) = &trip {
                            self.record_request(&call, trip, status);
                        }
                        self.answered(tag, call, Answer { status, lease, body, payload });
                    }
                }
            }
        }
    }

    fn answered(&mut self, tag: u64, mut call: Call, mut answer: Answer) {
        if let Some(volume) = call.volume {
            self.slot_is_free(volume, tag);
        }
        self.answering = tag;
        if let Some(file) = call.purpose.behind().and_then(|ino| self.files.get_mut(&ino)) {
            file.sent_behind = file.sent_behind.saturating_sub(1);
        }
        if let Some(mut changes) = call.changes.take() {
            self.forget_changed(&mut changes, false);
            let oldest = self.calls.first_key_value().map(|(tag, _)| *tag);
            let told = told_version(call.kind, &answer);
            self.overtaking.changed(&changes, (tag, told), oldest, self.next_tag);
            if call.purpose.op().is_some_and(|op| !self.is_awaited(op)) {
                self.change_unheard(&changes);
            }
        }
        if answer.lease.has(LeaseBits::PARENTS)
            && let Ok(parents) = take_parents(&mut answer.body)
        {
            self.learn_parents(&parents);
        }
        let Some(answer) = self.put_aside(&call, answer) else { return };
        match call.purpose {
            Purpose::Known => self.known_answered(answer.status),
            Purpose::Own { ino } => self.own_answered(ino, call.kind, &answer),
            Purpose::Reclaim(volume) => self.reclaimed(volume, tag, &answer),
            Purpose::List { op, dir } => self.listed(op, dir, &answer),
            Purpose::Map => self.map_came(&answer),
            Purpose::RootStat => self.root_came(&answer),
            Purpose::Reopen(volume) => self.reopen_answered(volume, tag, &answer),
            Purpose::Op(op) if call.kind == Kind::LockTest => self.lock_tested(op, &answer),
            Purpose::Op(op) => self.op_answered(op, call.kind, &answer),
            Purpose::Strip { op, ino } => self.strip_answered(op, ino, call.kind, &answer),
            Purpose::Open(op) => self.open_answered(op, answer.meta(call.kind), answer.lease),
            Purpose::SetAttr { op, ino, held } => {
                self.set_attr_answered(op, ino, held, answer.meta(call.kind), answer.lease);
            }
            Purpose::SetAttrBehind { ino } => self.set_attr_behind_answered(ino, &answer),
            Purpose::Write { ino, id, .. } => {
                self.write_answered(ino, id, answer.status, &answer.body);
            }
            Purpose::Zero { op, ino } => self.zero_answered(op, ino, &answer),
            Purpose::Copy { op, ino, end, .. } => self.copy_answered(op, ino, end, &answer),
            Purpose::Seek { op } => self.seek_answered(op, &answer),
            Purpose::Read { op, piece } => self.read_answered(op, piece, answer),
            Purpose::Sync { ino, target } => self.sync_answered(ino, target, answer.status),
            Purpose::SyncClosed { target } => self.lingering_synced(target, answer.status),
            Purpose::WhetherThere { ino } => self.is_there(ino, &answer),
            Purpose::Wrote { ino } => self.wrote_answered(ino, &answer),
            Purpose::WriteData { ino, id } => self.data_written(ino, id, &answer),
            Purpose::Data { ino } => self.data_told(ino, &answer),
            Purpose::Move { ino, number } => self.moved(ino, number, &answer),
            Purpose::Release { ino, count } => self.release_answered(ino, count),
            Purpose::Unheard => {}
            Purpose::Register { ticket } => self.registered(ticket),
            Purpose::Lock { ticket } => self.lock_answered(ticket, &answer),
            Purpose::LockCancel { ticket } => self.lock_cancelled(ticket, &answer),
            Purpose::LockEvents { volume } => self.lock_events_came(volume, &answer),
            Purpose::LockClaim { volume } => {
                self.locks_claimed(tag, &answer);
                self.reopened(volume, tag);
            }
        }
    }

    /// The mount cannot go on.
    pub(crate) fn fail(&mut self, sentence: String) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        self.push(Output::Failed { sentence });
        let ids: Vec<OpId> = self.ops.keys().copied().collect();
        ids.into_iter().for_each(|id| self.finish(id, Err(errno::EIO)));
    }

    fn link_refused(&mut self, id: LinkId, status: Status) {
        let address = &self.link_addresses[at(id)];
        let advice = match status {
            Status::WrongCluster => "check the address, or the cluster id given to the mount",
            Status::Version => "upgrade the older of the two",
            Status::WrongShard => "the server has fewer shards than before: mount again",
            _ => "see the server's log",
        };
        let sentence = format!("the server at {address} refused this client: {status}; {advice}");
        self.fail(sentence);
    }

    /// Whether the servers this operation waits for answer. One that waits for a file's writes may wait for any.
    fn is_answering(&self, id: OpId) -> bool {
        let tags = self.ops.get(&id).map_or(&[][..], |op| &op.tags);
        let own = tags.iter().filter_map(|tag| self.calls.get(tag));
        let answers = |call: &Call| self.links[at(call.link)].is_answering(self.now);
        let mut own = own.peekable();
        if own.peek().is_some() { own.all(answers) } else { self.calls.values().all(answers) }
    }

    /// Ends an operation early. What was not sent will not happen; what was is left to end unheard.
    pub(crate) fn abandon(&mut self, id: OpId, code: i32) {
        self.leave_lock(id);
        let Some(op) = self.ops.get_mut(&id) else { return };
        let tags = std::mem::take(&mut op.tags);
        let mut sent = false;
        for tag in tags {
            if !self.take_back(tag) {
                sent = true;
                self.give_up(id, tag);
            }
        }
        if !sent {
            self.leave_file(id);
        }
        self.room_waiters.retain(|waiter| *waiter != id);
        self.finish(id, Err(code));
    }

    /// What was asked is not heard any more: so says the record, until it is answered.
    fn give_up(&mut self, id: OpId, tag: u64) {
        let record = self.ops.get_mut(&id).and_then(|op| op.kept.take());
        if let (Some(keep), Some(record)) = (&mut self.keep, record) {
            keep.update_op(record, OpState::GivenUp, String::new(), self.now);
            self.given_up_ops.insert(tag, record);
        }
    }

    /// Whether the call is as if it had never been made.
    fn take_back(&mut self, tag: u64) -> bool {
        let Some(call) = self.calls.get(&tag) else { return true };
        let (link, purpose) = (call.link, call.purpose);
        if let Some(volume_id) = call.volume {
            let volume = self.volumes.get_mut(&volume_id).expect("volumes stay");
            let queued = volume.queue.len();
            volume.queue.retain(|queued| queued.tag != tag);
            if volume.queue.len() < queued {
                self.calls.remove(&tag);
                return true;
            }
            if !self.links[at(link)].withdraw(tag) {
                return false;
            }
            volume.taken_back(tag);
            self.calls.remove(&tag);
            self.kept_changes.remove(&tag);
            self.send_queued(volume_id);
            return true;
        }
        if let Purpose::Open(_) = purpose {
            // The volume counts it: its answer is waited for, to give it back.
            let unsent = self.links[at(link)].withdraw(tag);
            if unsent {
                self.calls.remove(&tag);
            }
            return unsent;
        }
        self.links[at(link)].cancel(tag);
        self.calls.remove(&tag);
        true
    }
}

/// The index of a link.
pub(crate) fn at(link: LinkId) -> usize {
    usize::try_from(link.0).expect("u32 fits")
}

/// The id of the link at this index.
pub(crate) fn link_id(at: usize) -> LinkId {
    LinkId(u32::try_from(at).expect("the map names at most twice LIST_COUNT_MAX places"))
}
