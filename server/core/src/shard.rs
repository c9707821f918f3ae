//! One shard: its connections, targets and perhaps the volume.

mod conns;
mod copy;
mod counts;
mod data;
mod fences;
mod leases;
mod locks;
mod meta;
mod scrub;
mod trace;
mod works;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slab::Slab;
use weft_iobuf::Pool;
use weft_metadata::{MetaError, Volume};
use weft_net::Frame;
use weft_store::{ReadPiece, Store};
use weft_wire::meta::Time;
use weft_wire::session::{ClusterMap, TargetInfo, TargetListReply};
use weft_wire::{ClusterId, Header, Ino, Kind, LeaseBits, SessionId, ShardId, Status, TargetId};

use crate::action::{Action, ConnId, Message, Now};
use crate::locks::LockTable;
use crate::memory::MemoryPlan;
use crate::metrics::ShardMetrics;
use crate::trace::{Marks, Recorder};
use conns::Conn;
use copy::CopyOp;
use fences::FenceState;
use leases::LeaseState;
use works::Works;

pub use copy::{CopiedBlocks, CopyRefusal, CopySource};
pub use scrub::ScrubSchedule;

/// How often a shard tells the volume's shard how full its targets are.
const SPACE_INTERVAL: Duration = Duration::from_millis(200);

/// What a shard is made of.
#[derive(Debug)]
pub struct ShardParams {
    /// This shard.
    pub id: ShardId,
    /// The cluster.
    pub cluster: ClusterId,
    /// A number that differs at each start of the server.
    pub epoch: u64,
    /// The machine's boot, as a number; 0 when unknown.
    pub boot: u64,
    /// Requests one connection may have in flight.
    pub credits: u32,
    /// Payload bytes of writes one connection may have in flight.
    pub payload_bytes_max: u64,
    /// How the shard's memory is dealt out.
    pub memory: MemoryPlan,
    /// A session without a connection is over after this long.
    pub session_timeout: Duration,
    /// How long leases last after the last sign of life of their holder.
    pub lease_time: Duration,
    /// After a start, unlinked files wait this long for the sessions that have them open.
    pub grace: Duration,
    /// Nodes, shards, targets and volumes; this node is the first.
    pub map: ClusterMap,
    /// The targets of this shard.
    pub targets: Vec<TargetParams>,
    /// Those of its targets that could not be opened.
    pub offline: Vec<OfflineTarget>,
    /// Every target of the node that could not be opened: known to the volume's shard.
    pub offline_of_node: BTreeSet<TargetId>,
    /// When and how fast they are scrubbed.
    pub scrub: ScrubSchedule,
    /// The volume, when this shard has it.
    pub volume: Option<Volume>,
}

/// One target of a shard.
#[derive(Debug)]
pub struct TargetParams {
    /// Its id, as in the superblock.
    pub id: TargetId,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Its device or file, for people.
    pub path: String,
    /// Its store, recovered.
    pub store: Store,
}

/// A target that could not be opened: its requests fail with EIO, and people are told why.
#[derive(Clone, Debug)]
pub struct OfflineTarget {
    /// Its id, as in the superblock.
    pub id: TargetId,
    /// Its device or file, for people.
    pub path: String,
    /// Why, and what to do.
    pub reason: String,
}

#[derive(Debug)]
struct Target {
    params: TargetParams,
    read_count: u64,
    write_count: u64,
    stopped: bool,
    told: scrub::Told,
    flush: trace::Flush,
}

/// Who waits for the end of an operation of a store or of the volume.
#[derive(Debug)]
enum Pending {
    /// A client's request.
    Client { conn: ConnId, header: Header, memory_bytes: u64, marks: Marks },
    /// A client's request to the volume.
    Meta { conn: ConnId, session: SessionId, header: Header, about: leases::About, marks: Marks },
    /// The source of a copy, of shard `to`.
    CopySource { to: ShardId, copy: u64, memory_bytes: u64 },
    /// A part of a copy.
    CopyPart { copy: u64 },
    /// A piece of a volume's deferred work.
    Work { from: ShardId, work: u64, target: TargetId, ino: Ino },
    /// The same, done and not yet durable.
    WorkSync { from: ShardId, work: u64, target: TargetId, freed_count: u64 },
}

/// See the module.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    cluster: ClusterId,
    epoch: u64,
    /// [`boot_and_losses`].
    boot: u64,
    credits: u32,
    payload_bytes_max: u64,
    memory: MemoryPlan,
    /// What data requests take now, of `memory.requests_bytes`.
    requests_bytes: u64,
    /// Peers have not read so many replies that only short answers are given.
    replies_full: bool,
    /// Requests answered `Busy` for want of memory.
    busy_count: u64,
    session_timeout: Duration,
    /// When the grace of the start is over; `None` once it is.
    grace_end: Option<Duration>,
    grace: Duration,
    map: ClusterMap,
    pool: Pool,
    targets: Vec<Target>,
    offline: Vec<OfflineTarget>,
    offline_of_node: BTreeSet<TargetId>,
    /// Files whose data gives EIO: a cut of theirs waits for a target that is offline.
    held: BTreeSet<Ino>,
    scrub: ScrubSchedule,
    volume: Option<Volume>,
    volume_stopped: bool,
    conns: BTreeMap<ConnId, Conn>,
    /// The connection of each session, and since when it has none.
    sessions: BTreeMap<SessionId, Result<ConnId, Duration>>,
    pending: Slab<Pending>,
    /// Copies to targets of this shard.
    copies: Slab<CopyOp>,
    /// Locks of the volume's files.
    locks: LockTable,
    /// Who wants to be told how locks that waited have ended.
    lock_listeners: BTreeMap<SessionId, (ConnId, Header)>,
    leases: LeaseState,
    fences: FenceState,
    works: Works,
    /// Volume's shard: (total, free) bytes of every target heard of.
    space: BTreeMap<TargetId, (u64, u64)>,
    space_told: Duration,
    stopping: bool,
    /// When the event at hand came.
    now: Now,
    metrics: ShardMetrics,
    recorder: Recorder,
    /// Of the request that is answered next.
    marks: Marks,
    log_writes: trace::LogWrites,
    out: Vec<Action>,
}

impl Shard {
    /// A shard over these parts. Call [`Shard::start`] before the first event.
    pub fn new(params: ShardParams, pool: Pool) -> Shard {
        let boot = boot_and_losses(params.boot, &params.targets);
        let targets = params.targets.into_iter().map(|params| Target {
            params,
            read_count: 0,
            write_count: 0,
            stopped: false,
            told: scrub::Told::default(),
            flush: trace::Flush::default(),
        });
        Shard {
            id: params.id,
            cluster: params.cluster,
            epoch: params.epoch,
            boot,
            credits: params.credits,
            payload_bytes_max: params.payload_bytes_max,
            memory: params.memory,
            requests_bytes: 0,
            replies_full: false,
            busy_count: 0,
            session_timeout: params.session_timeout,
            grace_end: None,
            grace: params.grace,
            map: params.map,
            pool,
            targets: targets.collect(),
            offline: params.offline,
            offline_of_node: params.offline_of_node,
            held: BTreeSet::new(),
            scrub: params.scrub,
            volume_stopped: params.volume.is_none(),
            volume: params.volume,
            conns: BTreeMap::new(),
            sessions: BTreeMap::new(),
            pending: Slab::new(),
            copies: Slab::new(),
            locks: LockTable::new(params.memory.locks_max(), BTreeSet::new()),
            lock_listeners: BTreeMap::new(),
            leases: LeaseState::new(params.lease_time, params.memory.leases_bytes),
            fences: FenceState::default(),
            works: Works::default(),
            space: BTreeMap::new(),
            space_told: Duration::ZERO,
            stopping: false,
            now: Now { mono: Duration::ZERO, wall: Time::default() },
            metrics: ShardMetrics::new(params.id),
            recorder: Recorder::new(),
            marks: Marks::default(),
            log_writes: trace::LogWrites::default(),
            out: Vec::new(),
        }
    }

    /// Takes up what the last run left undone.
    ///
    /// # Errors
    /// The volume is damaged where it keeps that.
    pub fn start(&mut self, now: Now) -> Result<(), MetaError> {
        self.now = now;
        let sessions = self.volume.as_ref().map(Volume::sessions).unwrap_or_default();
        let awaited = sessions.iter().copied().collect();
        self.locks = LockTable::new(self.memory.locks_max(), awaited);
        self.sessions.extend(sessions.into_iter().map(|session| (session, Err(now.mono))));
        self.grace_end = Some(now.mono + self.grace);
        self.take_fences();
        self.await_returns();
        self.tell_space();
        self.count();
        self.take_pending_works()
    }

    /// What there is to do, in order. Call after each event, or once for each turn of the loop.
    pub fn take_actions(&mut self, now: Now) -> Vec<Action> {
        self.now = now;
        self.look_at_held();
        self.start_waiting_works();
        self.flush_volume_log();
        std::mem::take(&mut self.out)
    }

    /// A frame came in on `conn`.
    pub fn frame(&mut self, conn: ConnId, frame: Frame, now: Now) {
        self.now = now;
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.heard = now.mono;
        let Some(session) = state.session else {
            return self.hello(conn, frame);
        };
        if frame.header.reply {
            return match frame.header.kind {
                Kind::Recall => self.lease_returned(conn, session, frame.header.request_id),
                _ => self.break_off(conn, "a reply where a request was expected"),
            };
        }
        if state.in_flight() >= self.credits {
            return self.break_off(conn, "more requests in flight than its credits");
        }
        let header = frame.header;
        state.begin(header.request_id, now.mono);
        if self.stopping {
            return self.answer(conn, &header, Status::Unavailable, &[], Vec::new());
        }
        if self.replies_full {
            return self.busy(conn, &header);
        }
        match header.kind {
            Kind::Hello => self.break_off(conn, "a second hello"),
            Kind::Ping => self.answer(conn, &header, Status::Ok, &frame.body, Vec::new()),
            Kind::Goodbye => self.goodbye(conn, &header, session),
            Kind::ClusterMap => {
                let mut body = Vec::new();
                self.map.encode(&mut body);
                self.answer(conn, &header, Status::Ok, &body, Vec::new());
            }
            Kind::TargetList => {
                let mut body = Vec::new();
                self.target_list().encode(&mut body);
                self.answer(conn, &header, Status::Ok, &body, Vec::new());
            }
            Kind::TargetHealth => {
                let mut body = Vec::new();
                self.target_health().encode(&mut body);
                self.answer(conn, &header, Status::Ok, &body, Vec::new());
            }
            Kind::Reclaim => self.reclaim(conn, session, &frame),
            Kind::Recall => self.break_off(conn, "a recall from a client"),
            Kind::Metrics => self.out.push(Action::TellMetrics { conn, request: header }),
            Kind::Trace => self.trace_request(conn, &header, &frame.body),
            Kind::Scrub => self.scrub_order(conn, &header, &frame.body),
            Kind::DamageList => self.damage_list(conn, &header, &frame.body),
            kind if kind.is_metadata() => self.metadata_request(conn, session, &frame),
            kind if kind.is_lock() => self.lock_request(conn, session, &frame),
            _ => self.data_request(conn, frame),
        }
    }

    /// Whether replies that the peers have not read take all the memory there is for them: until they take less,
    /// requests are answered `Busy`.
    pub fn set_replies_full(&mut self, full: bool) {
        self.replies_full = full;
    }

    fn busy(&mut self, conn: ConnId, header: &Header) {
        self.busy_count += 1;
        self.answer(conn, header, Status::Busy, &[], Vec::new());
    }

    /// Another shard of this node says something.
    pub fn message(&mut self, message: Message, now: Now) {
        self.now = now;
        self.take_message(message);
    }

    fn take_message(&mut self, message: Message) {
        match message {
            Message::Truncate { from, work, target, ino, remove_from, cut } => {
                self.truncate_for_work(from, work, target, (ino, remove_from, cut));
            }
            Message::Truncated { work, target, status, freed_count } => {
                self.work_piece_done(work, target, status, freed_count);
            }
            Message::CopyRead { from, copy, source } => self.copy_source(from, copy, source),
            Message::CopyFound { copy, found } => self.copy_found(copy, found),
            Message::Fence { from, session, number } => self.fence_here(from, session, number),
            Message::Fenced { from, session } => self.fenced(from, session),
            Message::KnownFences { fences } => self.know_fences(&fences),
            Message::Hold { ino } => {
                self.held.insert(ino);
            }
            Message::LetGo { ino } => {
                self.held.remove(&ino);
            }
            Message::Space { target, total_bytes, free_bytes } => {
                self.space.insert(target, (total_bytes, free_bytes));
            }
        }
    }

    /// Time passed. Call at least every 100 ms.
    pub fn tick(&mut self, now: Now) {
        self.now = now;
        for index in 0..self.targets.len() {
            let mut actions = Vec::new();
            self.targets[index].params.store.tick(now.mono, &mut actions);
            self.store_actions(index, actions);
        }
        self.tick_scrubs();
        self.tick_volume();
        self.tick_leases();
        self.expire_sessions();
        self.tick_locks();
        self.tick_metrics();
        if now.mono.saturating_sub(self.space_told) >= SPACE_INTERVAL {
            self.tell_space();
        }
    }

    /// Take no more requests, finish what is in flight, write everything down; then [`Action::Stopped`].
    pub fn stop(&mut self, now: Now) {
        self.now = now;
        self.stopping = true;
        for index in 0..self.targets.len() {
            let mut actions = Vec::new();
            self.targets[index].params.store.shutdown(&mut actions);
            self.store_actions(index, actions);
        }
        self.stop_volume();
        self.stop_if_done();
    }

    fn stop_if_done(&mut self) {
        if self.stopping && self.volume_stopped && self.targets.iter().all(|t| t.stopped) {
            self.out.push(Action::Stopped);
        }
    }

    /// Sends the answer to a request and gives its credit back.
    fn answer(
        &mut self,
        conn: ConnId,
        request: &Header,
        status: Status,
        body: &[u8],
        pieces: Vec<ReadPiece>,
    ) {
        self.answer_granting(conn, request, status, LeaseBits::NONE, body, pieces);
    }

    /// The same, with leases.
    fn answer_granting(
        &mut self,
        conn: ConnId,
        request: &Header,
        status: Status,
        lease: LeaseBits,
        body: &[u8],
        pieces: Vec<ReadPiece>,
    ) {
        let marks = std::mem::take(&mut self.marks);
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let (session, began) = (state.session, state.end(request.request_id));
        let payload_bytes = pieces.iter().map(ReadPiece::bytes).sum();
        self.metrics.sent_bytes.increment(u64::from(payload_bytes));
        if let Some(began) = began {
            let took = self.now.mono.saturating_sub(began);
            self.metrics.answered(request.kind, took, status);
            if let Some(session) = session {
                let ended = (status, request.payload_bytes.max(payload_bytes));
                self.recorder.record(session, request, ended, (began, self.now.mono), marks);
            }
        }
        let mut header = request.reply(status, body, payload_bytes);
        header.epoch = self.epoch;
        header.lease = lease;
        header.shard = self.id.0;
        let mut head = Vec::with_capacity(64 + body.len());
        weft_wire::header::push_frame(&mut head, &header, body);
        tracing::trace!(request = header.request_id, kind = ?header.kind, ?status, "answered");
        self.out.push(Action::Send { conn, head, pieces });
    }

    fn target_list(&self) -> TargetListReply {
        let describe = |target: &Target| {
            let space = target.params.store.space();
            TargetInfo {
                id: target.params.id,
                uuid: target.params.uuid,
                shard: self.id,
                path: target.params.path.clone(),
                total_bytes: space.total_bytes,
                free_bytes: space.free_bytes,
                chunk_count: space.chunk_count,
                op_counts: (target.read_count, target.write_count),
                damaged_blocks: damaged_blocks(&target.params.store),
            }
        };
        TargetListReply { targets: self.targets.iter().map(describe).collect() }
    }

    fn tell_space(&mut self) {
        self.space_told = self.now.mono;
        let volume_shards: Vec<ShardId> = self.map.volumes.iter().map(|v| v.1.shard).collect();
        for index in 0..self.targets.len() {
            let target = self.targets[index].params.id;
            let space = self.targets[index].params.store.space();
            let (total_bytes, free_bytes) = (space.total_bytes, space.free_bytes);
            for shard in &volume_shards {
                let message = Message::Space { target, total_bytes, free_bytes };
                self.send_to_shard(*shard, message);
            }
        }
    }

    fn send_to_all(&mut self, message: &Message) {
        for shard in 0..self.shard_count() {
            self.send_to_shard(ShardId(shard), message.clone());
        }
    }

    fn send_to_shard(&mut self, shard: ShardId, message: Message) {
        if shard == self.id {
            self.take_message(message);
        } else {
            self.out.push(Action::ToShard { shard, message });
        }
    }
}

/// What clients compare to know whether what a shard acknowledged may be lost: the machine's boot, and what its targets
/// say of failed flushes within it. 0 stays 0: unknown.
fn boot_and_losses(boot: u64, targets: &[TargetParams]) -> u64 {
    let mix = |sum: u64, number: u64| {
        let mixed = (sum ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 32)
    };
    let seen = |sum, target: &TargetParams| {
        mix(mix(sum, u64::from(target.id.0)), u64::from(target.store.loss_count()))
    };
    match boot {
        0 => 0,
        boot => targets.iter().fold(boot, seen).max(1),
    }
}

/// Blocks known to be damaged, listed or not.
fn damaged_blocks(store: &Store) -> u64 {
    let scrub = store.scrub_status();
    scrub.listed_blocks + scrub.unlisted_blocks
}
