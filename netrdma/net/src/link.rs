//! One connection from a client to one shard, as a core without I/O: hello, credits, replay.
//!
//! A request given to a link is answered exactly once (or cancelled), however often the connection is lost in
//! between: everything unanswered is sent again, in the order in which it was given, on the next connection. So
//! requests must be idempotent or carry a sequence number, as `weft-wire` says they do or are.
//!
//! Invariants:
//! - In flight are at most as many requests as the server gave credits for, one of which is kept for a ping, and
//!   at most `payload_bytes_max` of payload, or one request if it alone is longer.
//! - After [`LinkOutput::Close`] no event of that connection may be told; after it or a lost connection the link
//!   asks for the next one itself, with a growing pause.
//! - On a connection that is not the first, nothing is sent but [`Link::submit_first`] until [`Link::resume`]: what
//!   the server lost, or may have counted twice, is put right first.
//!
//! Memory: what the caller submits; the caller bounds that.

mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use weft_iobuf::SharedSlot;
use weft_wire::header::{Header, VERSION, VERSION_MIN, push_frame};
use weft_wire::lease::Recall;
use weft_wire::session::{
    FEATURE_ACL_SETGID, FEATURE_COPY, FEATURE_CTIME, FEATURE_FENCES, FEATURE_FRESH, FEATURE_INLINE,
    FEATURE_LEASES, FEATURE_PARENTS, FEATURE_SYNC_ALL, FENCE_ENDED, Hello, Welcome,
};
use weft_wire::units::{to_u32, to_u64, to_usize};
use weft_wire::{ClusterId, Kind, LeaseBits, Status};

use crate::stream::Frame;
pub use types::{Cancelled, LinkConfig, LinkOutput, Request, Trip};

/// First pause before connecting again.
pub const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(20);
/// The pause doubles up to this.
pub const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// First pause before a request is sent again that the server was too busy for.
pub const BUSY_PAUSE_MIN: Duration = Duration::from_millis(5);
/// The pause doubles up to this.
pub const BUSY_PAUSE_MAX: Duration = Duration::from_millis(200);
/// Silence with requests in flight after which the server is asked for a sign of life.
pub const PING_AFTER: Duration = Duration::from_secs(5);

/// Request id of the hello; requests count from [`GOODBYE_ID`] + 1.
const HELLO_ID: u64 = 0;
/// Request id of the ping; there is at most one.
const PING_ID: u64 = 1;
/// Request id of the goodbye.
const GOODBYE_ID: u64 = 2;
/// How long the answer to a goodbye is waited for.
const GOODBYE_WAIT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Before `start`, and between connections: when to connect.
    Waiting(Option<Duration>),
    /// Since when.
    Connecting(Duration),
    /// Hello sent, since when.
    Greeting(Duration),
    Up,
    /// Goodbye sent, since when.
    Leaving(Duration),
    /// Refused, or left.
    Dead(Status),
}

#[derive(Debug)]
struct Entry {
    request: Request,
    first: bool,
    in_flight: bool,
    was_sent: bool,
    sent_at: Duration,
    asked_at: Duration,
    send_count: u16,
    busy_pause: Duration,
}

impl Entry {
    fn payload_bytes(&self) -> u64 {
        self.request.payload.as_ref().map_or(0, |(_, range)| to_u64(range.len()))
    }
}

/// The link.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    state: State,
    welcome: Option<Welcome>,
    held: bool,
    /// The connection is one of this machine ([`crate::local`]).
    is_local: bool,
    /// The server by the local way refused us: it may be another one than the address leads to.
    local_refused: bool,
    reconnect_pause: Duration,
    /// Everything unanswered, by request id: the order in which it was given.
    entries: BTreeMap<u64, Entry>,
    tags: BTreeMap<u64, u64>,
    next_id: u64,
    /// Ids to be sent, in order; those of `submit_first` apart.
    ready: BTreeSet<u64>,
    ready_first: BTreeSet<u64>,
    /// Ids the server was too busy for, by when they are sent again.
    busy: BTreeSet<(Duration, u64)>,
    /// Sent on this connection and then cancelled: payload bytes.
    forgotten: BTreeMap<u64, u64>,
    in_flight_count: usize,
    credits: u32,
    payload_bytes: u64,
    pinging: bool,
    /// When the ping was sent.
    pinged_at: Duration,
    /// When the latest of the frames was sent that the server answered: leases count from here.
    confirmed: Duration,
    /// Recalls of this connection that are not answered.
    recalls: BTreeSet<u64>,
    /// Last sign of life, or when there began to be something in flight.
    heard: Duration,
    outputs: VecDeque<LinkOutput>,
}

impl Link {
    /// A link that does nothing until [`Link::start`].
    #[must_use]
    pub fn new(config: LinkConfig) -> Link {
        Link {
            config,
            state: State::Waiting(None),
            welcome: None,
            held: false,
            is_local: false,
            local_refused: false,
            reconnect_pause: RECONNECT_PAUSE_MIN,
            entries: BTreeMap::new(),
            tags: BTreeMap::new(),
            next_id: GOODBYE_ID + 1,
            ready: BTreeSet::new(),
            ready_first: BTreeSet::new(),
            busy: BTreeSet::new(),
            forgotten: BTreeMap::new(),
            in_flight_count: 0,
            credits: 0,
            payload_bytes: 0,
            pinging: false,
            pinged_at: Duration::ZERO,
            confirmed: Duration::ZERO,
            recalls: BTreeSet::new(),
            heard: Duration::ZERO,
            outputs: VecDeque::new(),
        }
    }

    /// The session was at this shard before, in another process that ended without a goodbye: the first connection is
    /// as one after a lost one.
    pub fn was_up(&mut self, welcome: Welcome) {
        assert_eq!(self.state, State::Waiting(None), "before the start");
        self.welcome = Some(welcome);
    }

    /// Requests are numbered from `id` on: those of a session by another process are not taken for these.
    pub fn number_from(&mut self, id: u64) {
        assert_eq!(self.state, State::Waiting(None), "before the start");
        self.next_id = self.next_id.max(id);
    }

    /// Which shard it leads to.
    #[must_use]
    pub fn shard(&self) -> weft_wire::ShardId {
        self.config.shard
    }

    /// Asks for the first connection; later calls change nothing.
    pub fn start(&mut self, now: Duration) {
        if self.state == State::Waiting(None) {
            self.connect(now);
        }
    }

    /// What is to be done next; call until `None` after every input.
    pub fn poll(&mut self) -> Option<LinkOutput> {
        self.outputs.pop_front()
    }

    /// What the server said last; its epoch and slots stay known while the connection is down.
    #[must_use]
    pub fn welcome(&self) -> Option<&Welcome> {
        self.welcome.as_ref()
    }

    /// Whether the connection is there and the hello was taken.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Whether the server has sent an own word since the last request went out at rest: `false` while connecting,
    /// or when it has been silent for longer than [`PING_AFTER`].
    #[must_use]
    pub fn is_answering(&self, now: Duration) -> bool {
        self.is_up() && (self.in_flight_count == 0 || now < self.heard + PING_AFTER)
    }

    /// The connection to the address is made: says hello.
    pub fn connected(&mut self, now: Duration) {
        self.greet(false, now);
    }

    /// As [`Link::connected`], by the local way ([`crate::local::connect`]). A server that refuses us there may not be the
    /// one at the address: that one is asked, too, before the refusal counts.
    pub fn connected_locally(&mut self, now: Duration) {
        self.greet(true, now);
    }

    fn greet(&mut self, is_local: bool, now: Duration) {
        if !matches!(self.state, State::Connecting(_)) {
            return;
        }
        self.is_local = is_local;
        let hello = Hello {
            versions: (VERSION_MIN, VERSION),
            features: FEATURE_SYNC_ALL
                | FEATURE_COPY
                | FEATURE_ACL_SETGID
                | if self.config.leases {
                    FEATURE_LEASES
                        | FEATURE_PARENTS
                        | FEATURE_INLINE
                        | FEATURE_FENCES
                        | FEATURE_FRESH
                        | FEATURE_CTIME
                } else {
                    0
                },
            cluster: self.config.cluster,
            session: self.config.session,
            shard: self.config.shard,
        };
        let mut body = Vec::new();
        hello.encode(&mut body);
        self.push_send(HELLO_ID, Kind::Hello, LeaseBits::NONE, &body, None, 0);
        self.state = State::Greeting(now);
    }

    /// The connection could not be made: tried again after a pause.
    pub fn connect_failed(&mut self, now: Duration) {
        if matches!(self.state, State::Connecting(_)) {
            self.lost(now);
        }
    }

    /// The connection is gone: made again after a pause, and everything unanswered sent again.
    pub fn disconnected(&mut self, now: Duration) {
        match self.state {
            State::Connecting(_) | State::Greeting(_) | State::Up => self.lost(now),
            State::Leaving(_) => self.state = State::Dead(Status::Unavailable),
            State::Waiting(_) | State::Dead(_) => {}
        }
    }

    /// Ends the session at this shard, if it can be reached; nothing may be asked any more.
    pub fn leave(&mut self, now: Duration) {
        match self.state {
            State::Up => {
                self.push_send(GOODBYE_ID, Kind::Goodbye, LeaseBits::NONE, &[], None, 0);
                self.state = State::Leaving(now);
            }
            State::Leaving(_) | State::Dead(_) => {}
            State::Waiting(_) | State::Connecting(_) | State::Greeting(_) => self.hang_up(),
        }
    }

    /// Closes the connection for good, without a word: another one is there for the shard.
    pub fn hang_up(&mut self) {
        if !matches!(self.state, State::Waiting(_) | State::Dead(_)) {
            self.outputs.push_back(LinkOutput::Close);
        }
        self.state = State::Dead(Status::Unavailable);
    }

    /// Whether there is no connection and there will be none.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.state, State::Dead(_))
    }

    /// A frame came in.
    pub fn frame(&mut self, frame: Frame, now: Duration) {
        self.heard = now;
        match self.state {
            State::Greeting(_) => self.greeted(&frame, now),
            State::Up => {
                if self.answered(frame, now).is_none() {
                    self.close(now);
                }
                self.pump(now);
            }
            State::Leaving(_) if frame.header.request_id == GOODBYE_ID => self.hang_up(),
            _ => {}
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        match self.state {
            State::Waiting(Some(at)) if at <= now => self.connect(now),
            State::Connecting(since) | State::Greeting(since)
                if since + self.config.reply_timeout <= now =>
            {
                self.close(now);
            }
            State::Up => {
                self.check_silence(now);
                self.pump(now);
            }
            State::Leaving(since) if since + GOODBYE_WAIT <= now => self.hang_up(),
            _ => {}
        }
    }

    /// When [`Link::tick`] has something to do.
    #[must_use]
    pub fn next_timer(&self) -> Option<Duration> {
        match self.state {
            State::Waiting(at) => at,
            State::Connecting(since) | State::Greeting(since) => {
                Some(since + self.config.reply_timeout)
            }
            State::Dead(_) => None,
            State::Leaving(since) => Some(since + GOODBYE_WAIT),
            State::Up => {
                let busy = self.busy.first().map(|(at, _)| *at);
                let silent = (self.in_flight_count > 0).then(|| {
                    let lost_at = self.heard + self.config.reply_timeout;
                    let may_ping = !self.pinging && self.credits > 0;
                    if may_ping { lost_at.min(self.heard + PING_AFTER) } else { lost_at }
                });
                let renewal = self.renewal().filter(|_| !self.pinging && self.credits > 0);
                busy.into_iter().chain(silent).chain(renewal).min()
            }
        }
    }

    /// Asks something.
    ///
    /// # Panics
    /// If a request with the same tag is still unanswered: a bug of the caller.
    pub fn submit(&mut self, request: Request, now: Duration) {
        self.admit(request, false, now);
    }

    /// Asks something before everything else, and also while the link is held.
    ///
    /// # Panics
    /// As [`Link::submit`].
    pub fn submit_first(&mut self, request: Request, now: Duration) {
        self.admit(request, true, now);
    }

    /// The caller no longer wants to know.
    pub fn cancel(&mut self, tag: u64) -> Cancelled {
        let Some(id) = self.tags.remove(&tag) else { return Cancelled::Unknown };
        let entry = self.entries.remove(&id).expect("every tag has its entry");
        self.ready.remove(&id);
        self.ready_first.remove(&id);
        self.busy.retain(|(_, busy_id)| *busy_id != id);
        if entry.in_flight {
            self.forgotten.insert(id, entry.payload_bytes());
        }
        if entry.was_sent { Cancelled::Sent } else { Cancelled::Unsent }
    }

    /// Changes the body of an unanswered request, for when it is sent again.
    pub fn amend(&mut self, tag: u64, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(entry) = self.tags.get(&tag).and_then(|id| self.entries.get_mut(id)) {
            change(&mut entry.request.body);
        }
    }

    /// Withdraws a request that the server has never heard of; `false` when it was sent, or answered.
    pub fn withdraw(&mut self, tag: u64) -> bool {
        let unsent = self.tags.get(&tag).is_some_and(|id| !self.entries[id].was_sent);
        unsent && self.cancel(tag) == Cancelled::Unsent
    }

    /// The session is as it was before the connection was lost: everything may go again.
    pub fn resume(&mut self, now: Duration) {
        self.held = false;
        self.pump(now);
    }

    fn admit(&mut self, request: Request, first: bool, now: Duration) {
        if let State::Dead(status) = self.state {
            return self.answer_ourselves(request.tag, status);
        }
        let id = self.next_id;
        self.next_id += 1;
        let taken = self.tags.insert(request.tag, id);
        assert!(taken.is_none(), "a tag names one request at a time");
        let busy_pause = BUSY_PAUSE_MIN;
        let sent_at = Duration::ZERO;
        let entry = Entry {
            request,
            first,
            in_flight: false,
            was_sent: false,
            sent_at,
            asked_at: now,
            send_count: 0,
            busy_pause,
        };
        self.entries.insert(id, entry);
        self.make_ready(id, first);
        self.pump(now);
    }

    fn make_ready(&mut self, id: u64, first: bool) {
        if first { &mut self.ready_first } else { &mut self.ready }.insert(id);
    }

    fn connect(&mut self, now: Duration) {
        self.state = State::Connecting(now);
        self.outputs.push_back(LinkOutput::Connect { local: !self.local_refused });
    }

    fn close(&mut self, now: Duration) {
        self.outputs.push_back(LinkOutput::Close);
        self.lost(now);
    }

    /// The connection is gone: everything sent on it is to be sent again.
    fn lost(&mut self, now: Duration) {
        self.state = State::Waiting(Some(now + self.reconnect_pause));
        self.reconnect_pause = (self.reconnect_pause * 2).min(RECONNECT_PAUSE_MAX);
        for (id, entry) in &mut self.entries {
            if entry.was_sent && entry.request.kind.is_told_again() {
                // Its answer may be of before: what it tells must not be taken for what is.
                entry.request.lease = LeaseBits::NONE;
            }
            entry.in_flight = false;
            entry.busy_pause = BUSY_PAUSE_MIN;
            if entry.first { &mut self.ready_first } else { &mut self.ready }.insert(*id);
        }
        self.busy.clear();
        self.forgotten.clear();
        (self.in_flight_count, self.payload_bytes, self.credits) = (0, 0, 0);
        self.pinging = false;
        self.recalls.clear();
        self.outputs.retain(|output| !matches!(output, LinkOutput::Send { .. }));
    }

    fn greeted(&mut self, frame: &Frame, now: Duration) {
        let header = &frame.header;
        if !header.reply || header.kind != Kind::Hello || header.request_id != HELLO_ID {
            return self.close(now);
        }
        match header.status {
            Status::Ok => {}
            Status::WrongCluster
            | Status::Version
            | Status::WrongShard
            | Status::NotPermitted
            | Status::Access => return self.refused(header.status, now),
            _ => return self.close(now),
        }
        let Ok(welcome) = Welcome::decode(&frame.body) else { return self.close(now) };
        if !(VERSION_MIN..=VERSION).contains(&welcome.version) {
            return self.refused(Status::Version, now);
        }
        if self.config.cluster == ClusterId::default() {
            self.config.cluster = welcome.cluster;
        }
        if self.config.cluster != welcome.cluster {
            return self.refused(Status::WrongCluster, now);
        }
        let has_all = |before: Welcome| before.known().has_all(welcome.known());
        let data_lost = self.welcome.is_some_and(|before| !has_all(before));
        if let State::Greeting(since) = self.state {
            self.confirmed = since;
        }
        let ends = |welcome: &Welcome| welcome.fence / FENCE_ENDED;
        let ended = self.welcome.is_some_and(|before| ends(&welcome) > ends(&before));
        self.state = State::Up;
        self.local_refused = false;
        let again = self.welcome.is_some();
        // Who was fenced off has something to give up first.
        self.held |= again || welcome.fence > 0;
        self.credits = welcome.credits;
        self.welcome = Some(welcome);
        self.outputs.push_back(LinkOutput::Up { welcome, again, data_lost });
        if ended {
            self.give_up_changes();
        }
        self.pump(now);
    }

    /// The server forgot what changes of this session came to. One that was sent may have been made, and would be made
    /// once more: nobody can say how it ended.
    fn give_up_changes(&mut self) {
        let unsure = |entry: &Entry| entry.was_sent && entry.request.kind.is_told_again();
        let given_up: Vec<u64> =
            self.entries.iter().filter(|(_, entry)| unsure(entry)).map(|(id, _)| *id).collect();
        for id in given_up {
            let entry = self.entries.remove(&id).expect("just listed");
            self.ready.remove(&id);
            self.ready_first.remove(&id);
            self.tags.remove(&entry.request.tag);
            self.answer_ourselves(entry.request.tag, Status::Io);
        }
    }

    /// No server answers this request: it ended so.
    fn answer_ourselves(&mut self, tag: u64, status: Status) {
        let (lease, body) = (LeaseBits::NONE, Vec::new());
        let reply = LinkOutput::Reply { tag, status, lease, body, payload: None, trip: None };
        self.outputs.push_back(reply);
    }

    fn refused(&mut self, status: Status, now: Duration) {
        self.outputs.push_back(LinkOutput::Close);
        if self.is_local {
            self.local_refused = true;
            return self.connect(now);
        }
        self.outputs.push_back(LinkOutput::Refused { status });
        self.state = State::Dead(status);
        self.ready.clear();
        self.ready_first.clear();
        self.tags.clear();
        for (_, entry) in std::mem::take(&mut self.entries) {
            self.answer_ourselves(entry.request.tag, status);
        }
    }

    /// Takes a reply; `None` when the peer broke the protocol or is going away.
    fn answered(&mut self, frame: Frame, now: Duration) -> Option<()> {
        let Header { reply, kind, status, request_id, credits, lease, .. } = frame.header;
        if !reply && kind == Kind::Recall {
            return self.recalled(&frame);
        }
        if !reply || status == Status::Unavailable {
            return None;
        }
        if request_id == PING_ID && self.pinging && kind == Kind::Ping {
            self.pinging = false;
            self.confirmed = self.confirmed.max(self.pinged_at);
            self.take_back(credits, 0);
            return Some(());
        }
        if let Some(payload_bytes) = self.forgotten.remove(&request_id) {
            self.take_back(credits, payload_bytes);
            return Some(());
        }
        let entry = self.entries.get_mut(&request_id)?;
        if !entry.in_flight || entry.request.kind != kind {
            return None;
        }
        self.reconnect_pause = RECONNECT_PAUSE_MIN;
        let payload_bytes = entry.payload_bytes();
        self.confirmed = self.confirmed.max(entry.sent_at);
        if status == Status::Busy {
            entry.in_flight = false;
            let pause = entry.busy_pause;
            entry.busy_pause = (pause * 2).min(BUSY_PAUSE_MAX);
            self.busy.insert((now + pause, request_id));
            self.take_back(credits, payload_bytes);
            return Some(());
        }
        let tag = entry.request.tag;
        let entry = self.entries.remove(&request_id);
        self.tags.remove(&tag);
        self.take_back(credits, payload_bytes);
        let trip = entry.map(|entry| Trip {
            request_id,
            asked_at: entry.asked_at,
            sent_at: entry.sent_at,
            send_count: entry.send_count,
            body: entry.request.body,
        });
        let Frame { body, payload, .. } = frame;
        self.outputs.push_back(LinkOutput::Reply { tag, status, lease, body, payload, trip });
        Some(())
    }

    /// The tag of the request that a reply's header answers, before the reply is whole.
    #[must_use]
    pub fn tag_of(&self, header: &Header) -> Option<u64> {
        let entry = self.entries.get(&header.request_id)?;
        (header.reply && entry.in_flight).then_some(entry.request.tag)
    }

    fn take_back(&mut self, credits: u32, payload_bytes: u64) {
        self.credits = self.credits.saturating_add(credits);
        self.payload_bytes -= payload_bytes;
        self.in_flight_count -= 1;
    }

    /// The server wants leases back: `None` when that cannot be read.
    fn recalled(&mut self, frame: &Frame) -> Option<()> {
        let recall = Recall::decode(&frame.body).ok()?;
        let id = frame.header.request_id;
        self.recalls.insert(id);
        self.outputs.push_back(LinkOutput::Recall { id, recall });
        Some(())
    }

    /// What a recall wanted back is given back. Nothing happens when its connection is gone: the server asks again.
    pub fn returned(&mut self, id: u64) {
        if !self.recalls.remove(&id) || self.state != State::Up {
            return;
        }
        let shard = self.config.shard.0;
        let request = Header::request(Kind::Recall, id, &[], 0);
        let header = Header { credits: 0, shard, ..request.reply(Status::Ok, &[], 0) };
        let mut head = Vec::with_capacity(header.frame_bytes());
        push_frame(&mut head, &header, &[]);
        self.outputs.push_back(LinkOutput::Send { head, payload: None });
    }

    /// Until when the leases that this server granted hold without another sign of life: counted from when the last
    /// frame was sent that it answered, with a tenth to spare. Zero when it grants none.
    #[must_use]
    pub fn leases_until(&self) -> Duration {
        self.lease_time().map_or(Duration::ZERO, |time| self.confirmed + time * 9 / 10)
    }

    fn lease_time(&self) -> Option<Duration> {
        let welcome = self.welcome.as_ref().filter(|welcome| welcome.lease_ms > 0)?;
        Some(Duration::from_millis(welcome.lease_ms.into()))
    }

    /// When leases are renewed if nothing else is answered before.
    fn renewal(&self) -> Option<Duration> {
        let time = self.lease_time().filter(|_| self.config.leases)?;
        let asked = if self.pinging { self.pinged_at } else { self.confirmed };
        Some(asked + time / 3)
    }

    fn check_silence(&mut self, now: Duration) {
        let silent = self.in_flight_count > 0;
        if silent && self.heard + self.config.reply_timeout <= now {
            return self.close(now);
        }
        let due = silent && self.heard + PING_AFTER <= now
            || self.renewal().is_some_and(|renewal| renewal <= now);
        if due && !self.pinging && self.credits > 0 {
            if self.in_flight_count == 0 {
                self.heard = now;
            }
            self.pinging = true;
            self.pinged_at = now;
            self.credits -= 1;
            self.in_flight_count += 1;
            self.push_send(PING_ID, Kind::Ping, LeaseBits::NONE, &[], None, 0);
        }
    }

    /// Sends what may be sent.
    fn pump(&mut self, now: Duration) {
        if self.state != State::Up {
            return;
        }
        while let Some((at, id)) = self.busy.first().copied()
            && at <= now
        {
            self.busy.pop_first();
            let first = self.entries[&id].first;
            self.make_ready(id, first);
        }
        loop {
            let first = self.ready_first.first().copied();
            let next = first.or_else(|| self.ready.first().copied().filter(|_| !self.held));
            let Some(id) = next else { return };
            let payload_bytes = self.entries[&id].payload_bytes();
            let limits = self.welcome.as_ref().expect("up only after a welcome");
            // One credit is kept for the ping, unless there is but one.
            let credits_kept = u32::from(limits.credits > 1 && !self.pinging);
            let fits = self.payload_bytes + payload_bytes <= limits.payload_bytes_max;
            if self.credits <= credits_kept || !(fits || self.payload_bytes == 0) {
                return;
            }
            self.send_entry(id, now);
        }
    }

    fn send_entry(&mut self, id: u64, now: Duration) {
        self.ready.remove(&id);
        self.ready_first.remove(&id);
        if self.in_flight_count == 0 {
            self.heard = now;
        }
        self.credits -= 1;
        self.in_flight_count += 1;
        let mut entry = self.entries.remove(&id).expect("what is ready is an entry");
        self.payload_bytes += entry.payload_bytes();
        (entry.in_flight, entry.was_sent, entry.sent_at) = (true, true, now);
        entry.send_count = entry.send_count.saturating_add(1);
        let request = &entry.request;
        let deadline_ms = request.deadline.map_or(0, |at| {
            u32::try_from(at.saturating_sub(now).as_millis()).unwrap_or(u32::MAX).max(1)
        });
        let leases = self.config.leases && self.lease_time().is_some();
        let parents = self.welcome.is_some_and(|it| it.features & FEATURE_PARENTS != 0);
        let lease = match (leases, parents) {
            (true, true) => request.lease,
            (true, false) => request.lease.without(LeaseBits::PARENTS),
            (false, _) => LeaseBits::NONE,
        };
        let (kind, payload) = (request.kind, request.payload.clone());
        self.push_send(id, kind, lease, &request.body, payload, deadline_ms);
        self.entries.insert(id, entry);
    }

    fn push_send(
        &mut self,
        id: u64,
        kind: Kind,
        lease: LeaseBits,
        body: &[u8],
        payload: Option<(SharedSlot, Range<usize>)>,
        deadline_ms: u32,
    ) {
        let payload_bytes = payload.as_ref().map_or(0, |(_, range)| to_u32(range.len()));
        let base = Header::request(kind, id, body, payload_bytes);
        let epoch = match kind {
            Kind::Hello => 0,
            _ => self.welcome.map_or(0, |welcome| welcome.epoch),
        };
        let header = Header { epoch, lease, deadline_ms, shard: self.config.shard.0, ..base };
        let mut head =
            Vec::with_capacity(header.frame_bytes() - to_usize(u64::from(payload_bytes)));
        push_frame(&mut head, &header, body);
        self.outputs.push_back(LinkOutput::Send { head, payload });
    }
}

#[cfg(test)]
mod tests;
