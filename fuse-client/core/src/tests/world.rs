//! The wires between a core and the fake cluster: requests and replies in flight, lost and late, on a virtual clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use weft_iobuf::{BufSlot, Pool};
use weft_net::Frame;
use weft_wire::lease::Recall;
use weft_wire::meta::Time;
use weft_wire::session::{FEATURE_FRESH, FEATURE_INLINE};
use weft_wire::{Header, Ino, Kind, LeaseMode, SessionId, Status};

use super::fake::{Asked, Fake};
use crate::{
    Caller, ClientConfig, ClientCore, FsOp, FsReply, Handle, Keep, KeepMemory, LinkId, OpId, Output,
};

/// Deterministic numbers (SplitMix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn one_in(&mut self, chances: u64) -> bool {
        chances > 0 && self.below(chances) == 0
    }
}

/// How often something goes wrong: one in so many; 0 for never.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) busy: u64,
    pub(super) disconnect: u64,
    pub(super) crash: u64,
    pub(super) reorder: bool,
}

/// A connection: its shard, what is on the way to the server, and what is on the way back.
#[derive(Default)]
struct Connection {
    shard: u16,
    greeted: bool,
    asked: VecDeque<Asked>,
    replies: VecDeque<Frame>,
}

pub(super) struct World {
    pub(super) core: ClientCore,
    pub(super) fake: Fake,
    pub(super) pool: Pool,
    pub(super) now: Duration,
    connections: BTreeMap<LinkId, Connection>,
    connecting: VecDeque<LinkId>,
    /// Connections the server closes because their session came on another one.
    pub(super) kicked: Vec<LinkId>,
    pub(super) kick_count: u32,
    pub(super) addresses: Vec<String>,
    pub(super) replies: BTreeMap<OpId, Result<FsReply, i32>>,
    next_op: u64,
    pub(super) random: Random,
    pub(super) faults: Faults,
    /// The server takes no connections.
    pub(super) down: bool,
    /// The kernel has each reply before anything is sent.
    pub(super) hears: bool,
    /// What the kernel was told to forget.
    pub(super) forgotten: Vec<(Vec<Ino>, bool)>,
    /// How often memory was to be given back.
    pub(super) trimmed_count: usize,
    recall_id: u64,
    pub(super) returned: Vec<u64>,
    pub(super) ready: bool,
    pub(super) failed: Option<String>,
}

pub(super) fn config() -> ClientConfig {
    ClientConfig::new(SessionId([3; 16]))
}

impl World {
    pub(super) fn new(config: ClientConfig, seed: u64) -> World {
        let pool = Pool::new(64 << 20, 1 << 20).unwrap();
        let mut core = ClientCore::new(config, pool.clone(), "host:1");
        core.set_clock(Duration::ZERO, Time { seconds: 1_000_000, nanos: 0 });
        core.start(Duration::ZERO);
        World {
            core,
            fake: Fake::new(),
            pool,
            now: Duration::ZERO,
            connections: BTreeMap::new(),
            connecting: VecDeque::new(),
            kicked: Vec::new(),
            kick_count: 0,
            addresses: Vec::new(),
            replies: BTreeMap::new(),
            next_op: 1,
            random: Random(seed),
            faults: Faults::default(),
            down: false,
            hears: false,
            forgotten: Vec::new(),
            trimmed_count: 0,
            recall_id: 0,
            returned: Vec::new(),
            ready: false,
            failed: None,
        }
    }

    /// A mount that keeps what a successor needs.
    pub(super) fn keeping(config: ClientConfig, seed: u64) -> World {
        World::keeping_with(config, seed, 0)
    }

    /// The same of a server that offers more.
    pub(super) fn keeping_with(config: ClientConfig, seed: u64, features: u64) -> World {
        let mut world = World::new(config, seed);
        world.fake.features |= features;
        world.serve_with(Keep::open(KeepMemory::heap()).unwrap());
        world
    }

    /// The client-core is killed, and another one takes over.
    pub(super) fn take_over(&mut self) {
        let links: Vec<LinkId> = self.connections.keys().copied().collect();
        links.into_iter().for_each(|link| self.disconnect(link));
        let memory = self.core.keep.take().unwrap().into_memory();
        self.serve_with(Keep::open(memory).unwrap());
    }

    fn serve_with(&mut self, keep: Keep) {
        self.connections.clear();
        (self.connecting, self.kicked, self.ready) = (VecDeque::new(), Vec::new(), false);
        let config = self.core.config.clone();
        // Its slots are free before they are claimed.
        self.core = ClientCore::new(config.clone(), self.pool.clone(), "host:1");
        self.core = ClientCore::keeping(config, self.pool.clone(), "host:1", keep, self.now);
        self.core.set_clock(self.now, Time { seconds: 1_000_000, nanos: 0 });
        self.core.start(self.now);
        while !self.ready {
            self.step();
        }
    }

    /// A world whose mount is ready.
    pub(super) fn ready(config: ClientConfig, seed: u64) -> World {
        let mut world = World::new(config, seed);
        world.get_ready();
        world
    }

    /// Its server keeps data in inodes.
    pub(super) fn inlining(config: ClientConfig, seed: u64) -> World {
        let mut world = World::new(config, seed);
        world.fake.features |= FEATURE_INLINE;
        world.get_ready();
        world
    }

    /// And lets whoever makes a file begin at its targets.
    pub(super) fn freshening(config: ClientConfig, seed: u64) -> World {
        let mut world = World::new(config, seed);
        world.fake.features |= FEATURE_INLINE | FEATURE_FRESH;
        world.get_ready();
        world
    }

    fn get_ready(&mut self) {
        while !self.ready {
            self.step();
        }
    }

    pub(super) fn ask(&mut self, op: FsOp) -> OpId {
        let id = OpId(self.next_op);
        self.next_op += 1;
        self.core.op(id, Caller { uid: 1, gid: 2, pid: 3 }, op, self.now);
        self.drain();
        id
    }

    /// Runs until the operation is answered.
    pub(super) fn wait(&mut self, id: OpId) -> Result<FsReply, i32> {
        for _ in 0..100_000 {
            if let Some(result) = self.replies.remove(&id) {
                return result;
            }
            self.step();
        }
        panic!("{id:?} is never answered");
    }

    pub(super) fn run(&mut self, op: FsOp) -> Result<FsReply, i32> {
        let id = self.ask(op);
        self.wait(id)
    }

    pub(super) fn step_until(&mut self, over: impl Fn(&World) -> bool) {
        for _ in 0..10_000 {
            if over(self) {
                return;
            }
            self.step();
        }
        panic!("it is never over");
    }

    /// Flushes, and lets what goes on behind it end.
    pub(super) fn flush(&mut self, handle: Handle) {
        self.done(FsOp::Flush { handle }).unwrap();
        self.step_until(|world| world.core.is_clean());
    }

    pub(super) fn drain(&mut self) {
        self.carry_out();
        if self.hears {
            self.core.replied();
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.core.poll() {
            match output {
                Output::Reply { op, result } => {
                    assert!(op.0 < self.next_op);
                    assert!(self.replies.insert(op, result).is_none(), "answered twice: {op:?}");
                }
                Output::Connect { link, address, .. } => {
                    self.addresses.push(address);
                    self.connecting.push_back(link);
                }
                Output::Send { link, head, payload } => {
                    let payload = payload.map_or(vec![], |(slot, range)| slot[range].to_vec());
                    let connection = self.connections.get_mut(&link).expect("connected");
                    let asked = Asked::new(&head, payload);
                    if asked.header.reply {
                        assert_eq!(asked.header.kind, Kind::Recall);
                        self.returned.push(asked.header.request_id);
                        continue;
                    }
                    let hello = asked.header.kind == Kind::Hello;
                    let shard = asked.header.shard;
                    connection.shard = shard;
                    connection.asked.push_back(asked);
                    let same = |(other, c): (&LinkId, &Connection)| {
                        (hello && *other != link && c.shard == shard && c.greeted).then_some(*other)
                    };
                    let others: Vec<LinkId> = self.connections.iter().filter_map(same).collect();
                    self.connections.get_mut(&link).expect("just used").greeted = true;
                    others.into_iter().for_each(|other| self.kicked.push(other));
                }
                Output::Close { link } => {
                    self.connections.remove(&link);
                    self.connecting.retain(|other| *other != link);
                }
                Output::Forget { id, inodes, names } => {
                    self.forgotten.push((inodes, names));
                    self.core.kernel_forgot(id, false, self.now);
                    self.core.kernel_forgot(id, true, self.now);
                }
                Output::TrimMemory => self.trimmed_count += 1,
                Output::Ready => self.ready = true,
                Output::Failed { sentence } => self.failed = Some(sentence),
            }
        }
    }

    /// One thing happens.
    pub(super) fn step(&mut self) {
        while let Some(link) = self.kicked.pop() {
            if self.connections.contains_key(&link) {
                self.kick_count += 1;
                return self.disconnect(link);
            }
        }
        if let Some(link) = self.connecting.pop_front() {
            if self.down {
                self.core.link_connect_failed(link, self.now);
            } else {
                self.connections.insert(link, Connection::default());
                self.core.link_connected(link, self.now);
            }
            return self.drain();
        }
        let busy: Vec<LinkId> = self
            .connections
            .iter()
            .filter(|(_, c)| !c.asked.is_empty() || !c.replies.is_empty())
            .map(|(link, _)| *link)
            .collect();
        if busy.is_empty() {
            return self.pass_time();
        }
        if self.random.one_in(20) {
            let ahead = self.random.below(3000);
            return self.advance(Duration::from_micros(ahead));
        }
        let count = u64::try_from(busy.len()).unwrap();
        let link = busy[usize::try_from(self.random.below(count)).unwrap()];
        if self.random.one_in(self.faults.disconnect) {
            return self.disconnect(link);
        }
        if self.random.one_in(self.faults.crash) {
            let shard = self.connections[&link].shard;
            return self.crash(shard);
        }
        self.serve(link);
    }

    /// The volume wants leases back, and gets them. What the kernel was told to forget.
    pub(super) fn recall(&mut self, inodes: Vec<(Ino, LeaseMode)>) -> Vec<(Vec<Ino>, bool)> {
        self.begin_recall(inodes);
        for _ in 0..10_000 {
            if self.returned.contains(&self.recall_id) {
                return std::mem::take(&mut self.forgotten);
            }
            self.step();
        }
        panic!("the recall is never answered");
    }

    pub(super) fn begin_recall(&mut self, inodes: Vec<(Ino, LeaseMode)>) {
        let link = *self.connections.iter().find(|(_, c)| c.shard == 0 && c.greeted).unwrap().0;
        self.forgotten.clear();
        let mut body = vec![];
        Recall { inodes }.encode(&mut body);
        self.recall_id += 1;
        let header = Header::request(Kind::Recall, self.recall_id, &body, 0);
        self.core.link_frame(link, Frame { header, body, payload: None }, self.now);
        self.drain();
    }

    pub(super) fn pass_time(&mut self) {
        let ahead = Duration::from_micros(self.random.below(3000));
        let due = self.core.next_timer().unwrap_or(self.now);
        self.now = (self.now + ahead).max(due.min(self.now + Duration::from_millis(500)));
        self.core.tick(self.now);
        self.drain();
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
        self.core.tick(self.now);
        self.drain();
    }

    /// The connection breaks; what was on its way to the server may or may not arrive.
    pub(super) fn disconnect(&mut self, link: LinkId) {
        let connection = self.connections.remove(&link).expect("it is there");
        let arrived = self.random.below(1 + u64::try_from(connection.asked.len()).unwrap());
        for asked in connection.asked.iter().take(usize::try_from(arrived).unwrap()) {
            self.fake.execute(connection.shard, asked, &self.pool);
        }
        self.core.link_disconnected(link, self.now);
        self.drain();
    }

    /// A shard's process is killed and started again.
    pub(super) fn crash(&mut self, shard: u16) {
        self.disconnect_shard(shard);
        self.fake.crash(shard);
    }

    /// The connections to a shard break.
    pub(super) fn disconnect_shard(&mut self, shard: u16) {
        let links: Vec<LinkId> =
            self.connections.iter().filter(|(_, c)| c.shard == shard).map(|(l, _)| *l).collect();
        links.into_iter().for_each(|link| self.disconnect(link));
    }

    /// As the mount's frame reader does: a payload is received where somebody wants it.
    fn receive_in_place(&mut self, link: LinkId, frame: &mut Frame) {
        let Some(place) = self.core.place(link, &frame.header) else { return };
        if let Some((slot, range)) = &mut frame.payload
            && place.capacity_bytes() >= range.len()
        {
            let from = std::mem::replace(slot, place);
            let from_range = std::mem::replace(range, 0..range.len());
            slot.as_mut_slice()[range.clone()].copy_from_slice(&from.as_slice()[from_range]);
        }
    }

    /// Memory for a read, lent, or none: the lender is not needed, the last part gives the memory back.
    pub(super) fn place_for(&mut self, bytes: u32) -> Option<BufSlot> {
        let wanted = self.random.one_in(2);
        let slot = self.pool.alloc(usize::try_from(bytes).unwrap()).filter(|_| wanted)?;
        Some(slot.lend().1)
    }

    fn serve(&mut self, link: LinkId) {
        let connection = self.connections.get_mut(&link).expect("it is there");
        let deliver = connection.asked.is_empty()
            || (!connection.replies.is_empty() && self.random.one_in(2));
        if deliver {
            let count = u64::try_from(connection.replies.len()).unwrap();
            let any = if self.faults.reorder { self.random.below(count) } else { 0 };
            let at = usize::try_from(any).unwrap();
            let mut frame = connection.replies.remove(at).expect("below its length");
            self.receive_in_place(link, &mut frame);
            self.core.link_frame(link, frame, self.now);
            return self.drain();
        }
        // Data requests are served in any order, others as they come.
        let is_data = |asked: &Asked| asked.header.kind.is_data();
        let count = connection.asked.iter().take_while(|asked| is_data(asked)).count();
        let count = u64::try_from(count).unwrap().max(1);
        let any = if self.faults.reorder { self.random.below(count) } else { 0 };
        let asked = connection.asked.remove(usize::try_from(any).unwrap()).expect("there");
        let kind = asked.header.kind;
        let may_be_busy = kind.is_data() || kind.is_metadata();
        let frame = if may_be_busy && self.random.one_in(self.faults.busy) {
            Frame { header: asked.header.reply(Status::Busy, &[], 0), body: vec![], payload: None }
        } else {
            self.fake.execute(connection.shard, &asked, &self.pool)
        };
        if kind != Kind::LockEvents {
            connection.replies.push_back(frame); // there is never anything to tell of locks
        }
    }
}
