//! One shard's thread: the event loop that joins a ring, the sockets and devices on it, and the core that decides.
//!
//! One turn: wait for completions or mail, hand each to the core, then do what the core wants, and send what was
//! queued on each connection in as few operations as possible. Nothing here decides what a request means.

mod conn;
mod disk;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use weft_iobuf::{Pool, SharedSlot};
use weft_metadata::{Checkpoint, CheckpointWritten};
use weft_net::{Budget, Frame};
use weft_ring::{Completion, Mailbox, Op, Ring, Sender};
use weft_server_core::memory::MemoryPlan;
use weft_server_core::{Action, ConnId, Message, Shard};
use weft_target::{Step, Targets, Writer};
use weft_wire::{Header, ShardId};

use crate::clock;
use crate::listen::Listeners;
use crate::metrics::{LoopMetrics, Registry};
use conn::{ConnIo, ZEROS_BYTES};

/// How often the core is told that time passes.
const TICK: Duration = Duration::from_millis(20);
/// Ends of device work taken before what follows from them is sent, and bytes read by them. Devices end many reads at
/// once (neighbours are merged): all taken together, their replies keep the thread in one long send while the device
/// idles and the peer's next requests wait behind them. One client, 1 MiB reads at depth 16: 256 ends a turn 0.63 of the
/// store's own rate, this way 0.9; fewer ends a turn cost 4 KiB operations more wake-ups of the peer than they win.
const ENDS_PER_TURN: usize = 16;
const END_BYTES_PER_TURN: usize = 1 << 20;

/// What arrives from other threads.
#[derive(Debug)]
pub(crate) enum Mail {
    /// From another shard.
    Message(Message),
    /// A socket whose hello named this shard.
    Connection {
        /// The socket.
        socket: std::os::fd::OwnedFd,
        /// The hello's header and body.
        hello: (Header, Vec<u8>),
    },
    /// Finish and end.
    Stop,
}

/// What an operation of the ring was for.
#[derive(Clone, Copy, Debug)]
enum Token {
    Accept,
    Receive(ConnId),
    Send(ConnId),
    CloseConn,
    Target(usize, weft_store::IoId),
    Log(u64),
}

impl Token {
    /// Whether it ends by itself, and soon: the others wait for a peer.
    const fn is_at_a_device(self) -> bool {
        matches!(self, Token::Target(..) | Token::Log(_))
    }
}

/// See the module.
pub(crate) struct ShardLoop {
    core: Shard,
    ring: Ring,
    pool: Pool,
    targets: Targets,
    log: Option<LogFiles>,
    checkpoints: Option<VolumeWriter>,
    conns: BTreeMap<ConnId, ConnIo>,
    conn_next: u64,
    /// For the bodies of frames that are not whole yet.
    bodies: Budget,
    /// Replies not sent yet, without payloads, and how much they may be.
    unsent_bytes: u64,
    unsent_bytes_max: u64,
    /// What replies have for blocks that were never written.
    zeros: SharedSlot,
    /// Connections with something queued since the last look.
    to_send: Vec<ConnId>,
    tokens: Slab<Token>,
    /// Of these, the ones that devices work on.
    devices_busy_count: usize,
    /// Device work that ended and was not looked at yet.
    ended: VecDeque<(usize, weft_store::IoId, Completion)>,
    mailbox: Mailbox<Mail>,
    /// The other shards' mailboxes, by shard; `None` at our own place.
    peers: Vec<Option<Sender<Mail>>>,
    /// Mail that found its mailbox full, in order.
    unsent: Vec<(ShardId, Mail)>,
    /// Registered once the shard may serve.
    listeners: Option<Listeners>,
    /// Operations the ring had no room for.
    backlog: VecDeque<(Token, Op)>,
    metrics: LoopMetrics,
    registry: Arc<Registry>,
    /// Since when the thread has not waited, and the time at hand.
    turn: Duration,
    stopped: bool,
}

/// What a shard's thread needs to run.
pub(crate) struct ShardSetup {
    pub(crate) core: Shard,
    pub(crate) ring: Ring,
    pub(crate) pool: Pool,
    pub(crate) targets: Targets,
    pub(crate) memory: MemoryPlan,
    pub(crate) log: Option<LogFiles>,
    pub(crate) mailbox: Mailbox<Mail>,
    pub(crate) peers: Vec<Option<Sender<Mail>>>,
    pub(crate) listeners: Option<Listeners>,
    pub(crate) registry: Arc<Registry>,
}

pub(crate) use disk::LogFiles;

/// Writes the volume's checkpoints.
pub(crate) type VolumeWriter = Writer<Checkpoint, CheckpointWritten>;

impl ShardLoop {
    /// `checkpoints`: for a shard with a volume.
    pub(crate) fn new(
        setup: ShardSetup,
        checkpoints: Option<VolumeWriter>,
    ) -> Result<ShardLoop, String> {
        let mut zeros = setup.pool.alloc(ZEROS_BYTES).ok_or("no memory for buffers")?;
        zeros.as_mut_slice().fill(0);
        let metrics = LoopMetrics::new(&setup.core.id().to_string(), &setup.core.target_ids());
        Ok(ShardLoop {
            zeros: zeros.share(),
            bodies: Budget::new(setup.memory.bodies_bytes),
            unsent_bytes: 0,
            unsent_bytes_max: setup.memory.replies_bytes,
            core: setup.core,
            ring: setup.ring,
            pool: setup.pool,
            targets: setup.targets,
            log: setup.log,
            checkpoints,
            conns: BTreeMap::new(),
            conn_next: 0,
            to_send: Vec::new(),
            tokens: Slab::new(),
            devices_busy_count: 0,
            ended: VecDeque::new(),
            mailbox: setup.mailbox,
            peers: setup.peers,
            unsent: Vec::new(),
            listeners: setup.listeners,
            backlog: VecDeque::new(),
            metrics,
            registry: setup.registry,
            turn: Duration::ZERO,
            stopped: false,
        })
    }

    /// Runs until told to stop. `serving` is called once, when the shard takes requests.
    ///
    /// # Errors
    /// The ring failed, or the volume is damaged: this ends the server.
    pub(crate) fn run(mut self, serving: impl FnOnce()) -> Result<(), String> {
        self.core.start(clock::now()).map_err(|error| error.to_string())?;
        let mut serving = Some(serving);
        let mut last_tick = Duration::ZERO;
        while !self.stopped {
            self.carry_out();
            if self.core.may_serve()
                && let Some(tell) = serving.take()
            {
                self.listen().map_err(|error| error.to_string())?;
                tell();
            }
            self.metrics.turned(clock::mono().saturating_sub(self.turn));
            self.wait().map_err(|error| error.to_string())?;
            self.turn = clock::mono();
            self.take_completions();
            self.take_mail();
            self.take_written().map_err(|error| error.to_string())?;
            let now = clock::now();
            if now.mono.saturating_sub(last_tick) >= TICK {
                last_tick = now.mono;
                self.core.tick(now);
                self.drop_silent(now);
                self.metrics.count();
            }
            self.retry();
        }
        tracing::info!("shard stopped");
        Ok(())
    }

    /// Submits what is pending and waits for something to happen; with polled I/O under way only
    /// looks.
    fn wait(&mut self) -> Result<(), weft_ring::RingError> {
        let busy = self.targets.must_poll() || !self.ended.is_empty();
        let patience = match (busy, self.needs_retry()) {
            (true, _) => Duration::ZERO,
            (false, true) => Duration::from_millis(1),
            (false, false) => TICK,
        };
        self.targets.poll()?;
        match self.devices_busy_count {
            0 => self.ring.wait(Some(patience)),
            _ => self.ring.wait_under_way(Some(patience)),
        }
    }

    fn listen(&mut self) -> Result<(), weft_ring::RingError> {
        for socket in self.listeners.take().into_iter().flat_map(Listeners::into_fds) {
            let listener = self.ring.register_file(socket)?;
            self.submit(Token::Accept, Op::Accept { listener, multishot: true });
        }
        Ok(())
    }

    fn take_completions(&mut self) {
        while let Some((index, step)) = self.targets.next_polled() {
            self.target_step(index, step);
        }
        while let Some(completion) = self.ring.next_completion() {
            let key = weft_wire::units::to_usize(completion.token);
            let token = self.tokens[key];
            if !completion.more {
                self.tokens.remove(key);
                self.devices_busy_count -= usize::from(token.is_at_a_device());
            }
            match token {
                Token::Target(index, io) => self.ended.push_back((index, io, completion)),
                token => self.completed(token, completion),
            }
        }
        self.take_ended();
    }

    /// Device work that ended, a little of it: requests that came meanwhile have been taken first, so that the device has
    /// work while replies are checked and sent.
    fn take_ended(&mut self) {
        let mut read_bytes = 0;
        for _ in 0..ENDS_PER_TURN {
            if read_bytes >= END_BYTES_PER_TURN {
                return;
            }
            let Some((index, io, completion)) = self.ended.pop_front() else { return };
            if let Op::Read { range, .. } = &completion.op {
                read_bytes += range.len();
            }
            let step = self.targets.completed(index, io, completion);
            self.target_step(index, step);
        }
    }

    fn completed(&mut self, token: Token, completion: Completion) {
        let now = clock::now();
        match token {
            Token::Accept => self.accepted(completion),
            Token::Receive(conn) => self.received(conn, completion, now),
            Token::Send(conn) => self.sent(conn, completion, now),
            Token::CloseConn => {}
            Token::Target(..) => unreachable!("kept for `take_ended`"),
            Token::Log(io) => {
                self.metrics.log_ended(io, now.mono);
                let result = disk::log_result(&completion);
                self.core.volume_io_done(io, result, now);
            }
        }
    }

    fn take_mail(&mut self) {
        while let Some(mail) = self.mailbox.try_recv() {
            let now = clock::now();
            match mail {
                Mail::Message(message) => self.core.message(message, now),
                Mail::Connection { socket, hello: (header, body) } => {
                    if let Some(conn) = self.add_conn(socket) {
                        self.core.frame(conn, Frame { header, body, payload: None }, now);
                        self.carry_out();
                        self.receive(conn);
                    }
                }
                Mail::Stop => {
                    tracing::info!(conns = self.core.conn_count(), "stopping");
                    self.core.stop(now);
                }
            }
        }
    }

    fn take_written(&mut self) -> std::io::Result<()> {
        while let Some((index, written)) = self.targets.next_written()? {
            self.core.target_written(index, written, clock::now());
        }
        if let Some(writer) = &self.checkpoints
            && let Some(written) = writer.next()?
        {
            self.core.checkpoint_written(written, clock::now());
        }
        Ok(())
    }

    /// Does what the core wants until it wants no more, then sends what was queued.
    fn carry_out(&mut self) {
        self.core.set_replies_full(self.unsent_bytes >= self.unsent_bytes_max);
        loop {
            let actions = self.core.take_actions(clock::now());
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.act(action);
            }
        }
        self.send_queued();
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { conn, head, pieces } => self.queue_send(conn, head, pieces),
            Action::OpenUp { conn } => {
                if let Some(state) = self.conns.get_mut(&conn) {
                    state.reader.open_up();
                }
            }
            Action::Close { conn } => self.close_when_sent(conn),
            Action::HandOver { conn, shard, hello } => self.hand_over(conn, shard, hello),
            Action::Target { index, action } => {
                self.target_action(index, action);
            }
            Action::Measure { index, op } => {
                let length = self.targets.length(&self.ring, index);
                self.core.target_length(index, op, length, clock::now());
            }
            Action::TellMetrics { conn, request } => {
                self.core.count();
                self.metrics.count();
                let text = self.registry.render_shard(&self.core.id().to_string());
                self.core.metrics(conn, &request, &text, clock::now());
            }
            Action::Volume(weft_metadata::Action::WriteCheckpoint(checkpoint)) => {
                let writer = self.checkpoints.as_ref();
                writer.expect("a shard with a volume has one").give(checkpoint);
            }
            Action::Volume(action) => {
                let log = self.log.expect("only a shard with a volume has log work");
                let (io, op) = log.log_op(action, &self.pool);
                self.metrics.log_began(io, clock::mono());
                self.submit(Token::Log(io), op);
            }
            Action::ToShard { shard, message } => self.mail(shard, Mail::Message(message)),
            Action::Stopped => self.stopped = true,
        }
    }

    fn target_action(&mut self, index: usize, action: weft_store::Action) {
        self.metrics.io_began(index, &action, self.turn);
        let step = self.targets.start(&self.ring, index, action);
        self.target_step(index, step);
    }

    fn target_step(&mut self, index: usize, step: Step) {
        match step {
            Step::Ring(io, op) => self.submit(Token::Target(index, io), op),
            Step::Done(io, result) => {
                let now = clock::now();
                self.metrics.io_ended(index, io, now.mono);
                self.core.target_io_done(index, io, result, now);
            }
            Step::Polled | Step::Writing => {}
        }
    }

    fn submit(&mut self, token: Token, op: Op) {
        if !self.backlog.is_empty() {
            return self.backlog.push_back((token, op));
        }
        let key = self.tokens.insert(token);
        self.devices_busy_count += usize::from(token.is_at_a_device());
        if let Err(rejected) = self.ring.submit(weft_wire::units::to_u64(key), op) {
            self.tokens.remove(key);
            self.devices_busy_count -= usize::from(token.is_at_a_device());
            match rejected.reason {
                weft_ring::Reject::Full | weft_ring::Reject::Busy => {
                    self.backlog.push_back((token, rejected.op));
                }
                // The file is being closed: the operation is as good as cancelled.
                reason => {
                    tracing::debug!(?reason, ?token, "operation refused by the ring");
                    self.rejected(token);
                }
            }
        }
    }

    fn rejected(&mut self, token: Token) {
        if let Token::Receive(conn) | Token::Send(conn) = token {
            self.drop_conn(conn, clock::now());
        }
    }

    fn mail(&mut self, shard: ShardId, mail: Mail) {
        let behind = self.unsent.iter().any(|(waiting, _)| *waiting == shard);
        let peer = self.peers.get(usize::from(shard.0)).and_then(Option::as_ref);
        let Some(peer) = peer else {
            return tracing::error!(shard = shard.0, "mail for a shard that is not there");
        };
        if behind {
            return self.unsent.push((shard, mail));
        }
        if let Err(weft_ring::SendError::Full(mail)) = peer.try_send(mail) {
            self.unsent.push((shard, mail));
        }
    }

    fn needs_retry(&self) -> bool {
        !self.unsent.is_empty()
            || !self.backlog.is_empty()
            || self.conns.values().any(ConnIo::is_stalled)
    }

    /// What found no room before: operations, mail, payloads without a slot.
    fn retry(&mut self) {
        for (token, op) in std::mem::take(&mut self.backlog) {
            self.submit(token, op);
        }
        for (shard, mail) in std::mem::take(&mut self.unsent) {
            self.mail(shard, mail);
        }
        let stalled: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, state)| state.is_stalled())
            .map(|(conn, _)| *conn)
            .collect();
        for conn in stalled {
            self.take_frames(conn, clock::now());
        }
    }
}
