//! A whole node and its clients: the real cores of server and client, joined by a simulated network and simulated
//! disks, under one seed. The namespace and every file are held against a model after each crash and at the end.
//!
//! What is real: the volume and its log's format, the stores, the shards, the frames, the links with their credits,
//! replays and reconnects, the client core. What is simulated: disks, the network, time, and when processes and
//! machines die. LMDB's environments are real and come back as of their last commit, which is what they promise.
//!
//! The oracle (each program has names and files of its own, so each is sequential and exact):
//! - at every start of the server the volume is whole (`weft_metadata::check`) and, for each program, is its tree, or
//!   that tree with the one change that is not answered, which from then on has happened;
//! - what was synced is there; other bytes are from some write, or EIO where power was lost under one;
//! - at the end, when every session is over, no orphan and no work is left, and every chunk belongs to a file.

mod check;
mod client;
mod data;
mod faults;
mod finish;
mod net;
mod node;
mod plan;
mod program;
mod rot;
mod serve;
mod shared;
mod sharer;
mod tree;

use std::collections::BTreeMap;
use std::time::Duration;

use weft_client_core::{ClientCore, LinkId, Output};

use crate::random::Random;
use crate::runner::{Tally, Telling};
use client::Client;
use net::{Conn, ConnKey, Conns, Way};
use node::{Node, Which, Written, wall};
use plan::Plan;
use program::Excuses;
use shared::{Moment, SharedFile};
use sharer::Sharer;

/// How often shards are told that time passes.
const TICK: Duration = Duration::from_millis(50);
/// Longest a simulation may take, in virtual time.
const TIME_MAX: Duration = Duration::from_secs(900);

/// What is due at a time.
#[derive(Debug)]
enum Event {
    /// A client's program goes on.
    Program(usize, usize),
    /// What a client does with shared files goes on.
    Sharer(usize),
    /// A client's timer.
    ClientTimer(usize),
    /// A client's kernel has forgotten something; with pages or before.
    Forgot(usize, u64, bool),
    /// Bytes of a connection arrive.
    Deliver(ConnKey, Way),
    /// A client's connection attempt comes to something.
    Connect(usize, LinkId, ConnKey),
    /// A shard's loop comes round. The server's epoch says which server's.
    Turn(u64, usize),
    /// Messages from a shard to another arrive.
    Mail(u64, usize, usize),
    /// Time passes on the server.
    Tick(u64),
    /// A connection's socket and hello arrive at another shard.
    HandOver(u64, usize, ConnKey, Box<weft_net::Frame>),
    /// A checkpoint that the server writes gets a step further.
    Checkpoint(u64, Written),
    /// Something goes wrong.
    Fault,
    /// The server is started.
    Start,
}

/// How the server ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Kill,
    Power,
}

/// See the module.
struct World {
    plan: Plan,
    random: Random,
    /// How long checkpoints take.
    checkpoint_random: Random,
    /// The same of the targets' indices.
    index_random: Random,
    telling: Telling,
    now: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    next_event: u64,
    node: Node,
    clients: Vec<Client>,
    /// Files that all clients write.
    shared: Vec<SharedFile>,
    /// Counts what happens to them.
    moments: Moment,
    conns: Conns,
    next_conn: ConnKey,
    excuses: Excuses,
    log_rot: rot::LogRot,
    /// Steps until the server ends, and how.
    end_after: Option<(u32, End)>,
    /// The server is to be started again soon: a device failed.
    ailing: bool,
    /// Nothing goes wrong any more.
    calm: bool,
    tally: Tally,
}

/// Plays a seed.
///
/// # Panics
/// When something is wrong.
pub fn play(seed: u64, telling: Telling) -> Tally {
    let mut world = World::new(seed, telling);
    world.run();
    world.finish();
    world.tally
}

/// The files that all clients write, and what each client is to do with them.
fn shared_files(plan: &Plan, seed: u64, clients: &mut [Client]) -> Vec<SharedFile> {
    let mut random = Random::new(seed.rotate_left(17) ^ 0x5a);
    // The last of two or three is appended to, or the only one now and then.
    let appended = |number: usize, random: &mut Random| match plan.shared_files {
        1 => random.chance(30),
        count => number + 1 == count,
    };
    let files = plan.shared_files;
    let shared = (0..files).map(|number| SharedFile::new(number, appended(number, &mut random)));
    let shared = shared.collect();
    for (number, client) in clients.iter_mut().enumerate().filter(|_| files > 0) {
        client.sharer = Some(Sharer::new(number, plan, random.fork()));
    }
    shared
}

impl World {
    fn new(seed: u64, telling: Telling) -> World {
        let mut random = Random::new(seed);
        let plan = Plan::draw(&mut random).losing_flushes(seed).parting(seed).sharing(seed);
        let plan = plan.forgetting(seed).copying(seed);
        let node = Node::new(&plan, &mut random);
        let now = Duration::from_secs(1);
        let mut clients: Vec<Client> =
            (0..plan.clients).map(|number| Client::new(number, &plan, now, &mut random)).collect();
        let shared = shared_files(&plan, seed, &mut clients);
        telling.step(now, || format!("seed {seed}: {plan:?}"));
        World {
            excuses: Excuses {
                full: plan.full,
                disk_errors: plan.disk_errors + plan.flush_errors > 0,
                ..Excuses::default()
            },
            plan,
            random,
            checkpoint_random: Random::new(seed.rotate_left(29) ^ 0xc4),
            index_random: Random::new(seed.rotate_left(29) ^ 0x1d),
            telling,
            now,
            queue: BTreeMap::new(),
            next_event: 0,
            node,
            clients,
            shared,
            moments: 0,
            conns: Conns::new(),
            log_rot: rot::LogRot::new(seed),
            next_conn: 1,
            end_after: None,
            ailing: false,
            calm: false,
            tally: Tally { seeds: 1, ..Tally::default() },
        }
    }

    /// Until every program has done all it wanted to.
    fn run(&mut self) {
        self.set_disk_faults();
        self.start_server();
        for client in 0..self.clients.len() {
            let now = self.now;
            self.with_core(client, |core| core.start(now));
        }
        self.later(Duration::from_millis(50), Event::Fault);
        while !self.clients.iter().all(Client::is_done) {
            self.step();
        }
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.queue.insert((self.now + after, self.next_event), event);
        self.next_event += 1;
    }

    fn soon(&mut self, micros_max: u64, event: Event) {
        let after = Duration::from_micros(self.random.below(micros_max));
        self.later(after, event);
    }

    /// One thing happens.
    fn step(&mut self) {
        if self.counts_down() {
            return;
        }
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        let io = self.node.next_io();
        match (queued, io) {
            (queued, Some((at, which))) if queued.is_none_or(|queued| at <= queued) => {
                self.advance(at);
                self.io_done(which);
            }
            (Some(at), _) => {
                self.advance(at);
                let (_, event) = self.queue.pop_first().expect("looked at above");
                self.happen(event);
            }
            (None, _) => panic!("nothing will ever happen again"),
        }
    }

    fn advance(&mut self, to: Duration) {
        self.now = self.now.max(to);
        assert!(self.now < TIME_MAX, "it takes for ever: {}", self.tell_waiting());
    }

    fn tell_waiting(&self) -> String {
        let mut all = String::new();
        for (number, client) in self.clients.iter().enumerate() {
            for program in client.programs.iter().filter(|program| program.is_busy()) {
                all += &format!("client {number}: {}; ", program.tell());
            }
            for sharer in client.sharer.iter().filter(|sharer| sharer.is_busy()) {
                all += &format!("client {number} shares: {}; ", sharer.tell());
            }
        }
        all
    }

    fn happen(&mut self, event: Event) {
        let telling = self.telling;
        if !matches!(event, Event::Tick(_) | Event::Turn(..)) {
            telling.event(self.now, || format!("{event:?}").chars().take(160).collect());
        }
        match event {
            Event::Program(client, program) => self.run_program(client, program),
            Event::Sharer(client) => self.run_sharer(client),
            Event::ClientTimer(client) => {
                let now = self.now;
                if self.clients[client].timer.take_if(|at| *at <= now).is_none() {
                    return; // An earlier one was set since.
                }
                self.with_core(client, |core| {
                    core.set_clock(now, wall(now));
                    core.tick(now);
                });
            }
            Event::Forgot(client, id, pages) => {
                if !pages {
                    self.soon(5_000, Event::Forgot(client, id, true));
                }
                let now = self.now;
                self.with_core(client, |core| core.kernel_forgot(id, pages, now));
            }
            Event::Deliver(conn, way) => self.deliver(conn, way),
            Event::Connect(client, link, conn) => self.connect(client, link, conn),
            Event::Turn(epoch, shard) => self.turn(epoch, shard),
            Event::Mail(epoch, from, to) => self.mail(epoch, from, to),
            Event::Tick(epoch) => self.tick(epoch),
            Event::HandOver(epoch, shard, conn, hello) => {
                self.take_over(epoch, shard, conn, *hello);
            }
            Event::Checkpoint(epoch, whose) => self.checkpoint(epoch, whose),
            Event::Fault => self.fault(),
            Event::Start => self.start_server(),
        }
    }

    /// Lets a client's core act, then does what it wants.
    fn with_core(&mut self, client: usize, act: impl FnOnce(&mut ClientCore)) {
        if !self.clients[client].alive {
            return;
        }
        self.look_at_leases_of(client);
        act(&mut self.clients[client].core);
        while let Some(output) = self.clients[client].core.poll() {
            self.client_output(client, output);
        }
        let now = self.now;
        let state = &mut self.clients[client];
        if let Some(at) = state.core.next_timer()
            && state.timer.is_none_or(|set| at < set)
        {
            state.timer = Some(at);
            self.later(at.saturating_sub(now), Event::ClientTimer(client));
        }
    }

    fn client_output(&mut self, client: usize, output: Output) {
        match output {
            Output::Reply { op, result } => {
                let state = &mut self.clients[client];
                if state.waiting.take_if(|waiting| *waiting == op).is_some() {
                    state.waited = Some(result);
                    return;
                }
                if state.sharer.as_ref().is_some_and(|sharer| sharer.has_asked(op)) {
                    return self.sharer_answered(client, result);
                }
                let program = state.asked.remove(&op).expect("each operation is answered once");
                let fenced = state.core.fence_count() > 0;
                let (away, late) = (state.was_away, state.was_without_leases);
                let excuses = Excuses { fenced, away, late, ..self.excuses };
                self.telling.event(self.now, || {
                    let told: String = format!("{result:?}").chars().take(160).collect();
                    format!("client {client} program {program} {op:?}: {told}")
                });
                let answered = state.programs[program].answered(op, result, &excuses);
                answered.unwrap_or_else(|why| panic!("client {client} program {program}: {why}"));
                self.soon(4_000, Event::Program(client, program));
            }
            Output::Connect { link, .. } => {
                let conn = self.next_conn;
                self.next_conn += 1;
                self.clients[client].links.insert(link, conn);
                self.soon(5_000, Event::Connect(client, link, conn));
            }
            Output::Send { link, head, payload } => {
                let Some(key) = self.clients[client].links.get(&link).copied() else { return };
                let Some(conn) = self.conns.get_mut(&key) else { return };
                conn.to_server.push(&head);
                if let Some((slot, range)) = payload {
                    conn.to_server.push(&slot[range]);
                }
                self.schedule(key, Way::ToServer);
            }
            Output::Close { link } => {
                if let Some(key) = self.clients[client].links.remove(&link) {
                    self.client_closes(key);
                }
            }
            Output::Forget { id, .. } => self.soon(500, Event::Forgot(client, id, false)),
            Output::TrimMemory => {}
            Output::Ready => {
                self.clients[client].ready = true;
                for program in 0..self.clients[client].programs.len() {
                    self.soon(10_000, Event::Program(client, program));
                }
                if self.clients[client].sharer.is_some() {
                    self.soon(10_000, Event::Sharer(client));
                }
            }
            Output::Failed { sentence } => panic!("client {client}: {sentence}"),
        }
    }

    fn run_program(&mut self, client: usize, program: usize) {
        let state = &mut self.clients[client];
        if !state.alive || !state.ready {
            return;
        }
        let op = state.next_op();
        let pool = state.pool.clone();
        let Some(ask) = state.programs[program].next(op, &pool) else { return };
        self.tally.operations += 1;
        self.telling.event(self.now, || {
            let told: String = format!("{ask:?}").chars().take(160).collect();
            format!("client {client} program {program} {op:?}: {told}")
        });
        state.asked.insert(op, program);
        let now = self.now;
        let number = u32::try_from(program).expect("few");
        let caller = weft_client_core::Caller { uid: number, gid: number, pid: number };
        self.with_core(client, |core| core.op(op, caller, ask, now));
    }

    /// Lets programs that wait go on.
    fn wake_programs(&mut self) {
        for client in 0..self.clients.len() {
            for program in 0..self.clients[client].programs.len() {
                self.soon(5_000, Event::Program(client, program));
            }
            if self.clients[client].sharer.is_some() {
                self.soon(5_000, Event::Sharer(client));
            }
        }
    }

    /// A delivery is due if there is something to deliver.
    fn schedule(&mut self, key: ConnKey, way: Way) {
        let delay = match self.random.below(20) {
            0 => self.random.below(30_000),
            _ => self.random.below(400),
        };
        let Some(conn) = self.conns.get_mut(&key) else { return };
        let pipe = conn.pipe(way);
        if pipe.scheduled || pipe.over || (pipe.bytes.is_empty() && !pipe.ends) {
            return;
        }
        pipe.scheduled = true;
        self.later(Duration::from_micros(delay), Event::Deliver(key, way));
    }

    fn deliver(&mut self, key: ConnKey, way: Way) {
        let count = if self.random.chance(70) { usize::MAX } else { 1 + self.random.index(5000) };
        let Some(conn) = self.conns.get_mut(&key) else { return };
        let (client, link, shard) = (conn.client, conn.link, conn.shard);
        if let Some(until) = self.clients[client].away_until.filter(|until| self.now < *until) {
            // Late, and perhaps after the ends have given the connection up.
            return self.later(until - self.now, Event::Deliver(key, way));
        }
        let pool = match way {
            Way::ToClient => self.clients[client].pool.clone(),
            Way::ToServer => match &self.node.process {
                Some(process) => process.shards[shard].pool.clone(),
                None => return,
            },
        };
        let pipe = conn.pipe(way);
        pipe.scheduled = false;
        if pipe.over {
            return;
        }
        let delivered = pipe.deliver(count, &pool);
        let ended = pipe.bytes.is_empty() && pipe.ends && !delivered.stalled;
        let again = delivered.stalled || !delivered.frames.is_empty();
        assert_eq!(delivered.broken, None, "both ends are ours");
        for frame in delivered.frames {
            match way {
                Way::ToClient => {
                    let now = self.now;
                    if self.clients[client].links.get(&link) == Some(&key) {
                        self.with_core(client, |core| core.link_frame(link, frame, now));
                    }
                }
                Way::ToServer => self.server_frame(shard, key, frame),
            }
        }
        if ended {
            self.end_of(key, way);
        }
        self.schedule(key, way);
        if again && let Some(conn) = self.conns.get_mut(&key) {
            let pipe = conn.pipe(way);
            if !pipe.scheduled && !pipe.over {
                pipe.scheduled = true;
                self.later(Duration::from_millis(1), Event::Deliver(key, way));
            }
        }
    }

    /// The receiver of a direction is told that nothing more comes.
    fn end_of(&mut self, key: ConnKey, way: Way) {
        let Some(conn) = self.conns.get_mut(&key) else { return };
        let (client, link) = (conn.client, conn.link);
        let pipe = conn.pipe(way);
        (pipe.over, pipe.reader) = (true, None);
        match way {
            Way::ToServer => self.server_closed(key),
            Way::ToClient => {
                let now = self.now;
                let state = &mut self.clients[client];
                if state.links.get(&link) == Some(&key) {
                    state.links.remove(&link);
                    self.with_core(client, |core| core.link_disconnected(link, now));
                }
                self.client_closes(key);
            }
        }
        self.forget_conn(key);
    }

    /// The client's end is closed: what was sent still arrives, then the end.
    fn client_closes(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(&key) else { return };
        (conn.to_client.over, conn.to_client.reader) = (true, None);
        conn.to_server.ends = true;
        self.schedule(key, Way::ToServer);
        self.forget_conn(key);
    }

    fn forget_conn(&mut self, key: ConnKey) {
        if self.conns.get(&key).is_some_and(Conn::is_over) {
            self.conns.remove(&key);
        }
    }

    fn set_disk_faults(&mut self) {
        let plan = &self.plan;
        let log = &mut self.node.log;
        log.faults.area = 0..weft_store::Device::len_bytes(log);
        log.faults.write_errors = plan.log_errors;
        for disk in &mut self.node.targets {
            disk.faults.area = 0..weft_store::Device::len_bytes(disk);
            disk.faults.write_errors = plan.disk_errors;
            disk.faults.flush_errors = plan.flush_errors;
            disk.faults.read_errors = plan.disk_errors;
            disk.faults.read_errors_for_good = plan.disk_errors / 2;
        }
        if self.calm {
            log.faults = Default::default();
            self.node.targets.iter_mut().for_each(|disk| disk.faults = Default::default());
        }
    }

    fn disk_name(which: Which) -> String {
        match which {
            Which::Target(index) => format!("target {index}"),
            Which::Log => "the log".to_owned(),
        }
    }
}
