//! The server's event loop, as the daemon's: frames, messages, completions and ticks in, actions out.

use std::time::Duration;

use weft_client_core::LinkId;
use weft_iobuf::Pool;
use weft_metadata::Action as VolumeAction;
use weft_net::stream::INBOX_BYTES;
use weft_net::{Budget, Frame, FrameReader};
use weft_server_core::{Action, ConnId, Shard};
use weft_store::{Action as StoreAction, IoId, ReadPiece};
use weft_wire::Kind;
use weft_wire::units::to_u64;

use super::net::{Conn, ConnKey, Pipe, Way};
use super::node::{Host, Which, Writing, Written, clocks, disk_work};
use super::{Event, TICK, World};
use crate::disk::{Through, Work};

impl World {
    fn host(&mut self, shard: usize) -> Option<&mut Host> {
        self.node.process.as_mut()?.shards.get_mut(shard)
    }

    /// Lets a shard's core act; its turn comes soon.
    fn with_shard(&mut self, shard: usize, act: impl FnOnce(&mut Shard)) {
        let Some(host) = self.host(shard) else { return };
        act(&mut host.core);
        if !std::mem::replace(&mut host.turn, true) {
            let epoch = self.node.epoch;
            self.soon(300, Event::Turn(epoch, shard));
        }
    }

    /// A connection attempt comes to something.
    pub(super) fn connect(&mut self, client: usize, link: LinkId, key: ConnKey) {
        let now = self.now;
        if !self.clients[client].alive || self.clients[client].links.get(&link) != Some(&key) {
            return;
        }
        let listening = self.host(0).is_some_and(|host| host.serving && !host.stopped);
        let reader = |host: &mut Host| {
            Some(FrameReader::new(host.pool.alloc(INBOX_BYTES)?, host.bodies.clone()))
        };
        let away = self.clients[client].away_until.is_some_and(|until| now < until);
        let reader = self.host(0).filter(|_| listening && !away).and_then(reader);
        let Some(server_reader) = reader else {
            self.clients[client].links.remove(&link);
            return self.with_core(client, |core| core.link_connect_failed(link, now));
        };
        let mut reader =
            FrameReader::new(client_inbox(&self.clients[client].pool), Budget::unlimited());
        reader.open_up();
        let to_server = Pipe { reader: Some(server_reader), ..Pipe::default() };
        let to_client = Pipe { reader: Some(reader), ..Pipe::default() };
        self.conns.insert(key, Conn { client, link, shard: 0, to_server, to_client });
        self.with_shard(0, |core| core.opened(ConnId(key)));
        self.with_core(client, |core| core.link_connected(link, now));
    }

    pub(super) fn server_frame(&mut self, shard: usize, key: ConnKey, frame: Frame) {
        let now = clocks(self.now);
        let hello = frame.header.kind == Kind::Hello;
        self.with_shard(shard, |core| core.frame(ConnId(key), frame, now));
        if hello {
            // What may follow a hello is decided by the answer to it.
            self.carry_out(shard);
        }
    }

    /// The peer closed the connection.
    pub(super) fn server_closed(&mut self, key: ConnKey) {
        let now = clocks(self.now);
        let Some(conn) = self.conns.get_mut(&key) else { return };
        conn.to_client.ends = true;
        let shard = conn.shard;
        self.with_shard(shard, |core| core.closed(ConnId(key), now));
        self.schedule(key, Way::ToClient);
    }

    pub(super) fn turn(&mut self, epoch: u64, shard: usize) {
        if epoch == self.node.epoch {
            self.carry_out(shard);
        }
    }

    /// Does what a shard wants until it wants no more.
    fn carry_out(&mut self, shard: usize) {
        loop {
            let now = clocks(self.now);
            let Some(host) = self.host(shard) else { return };
            host.turn = false;
            let actions = host.core.take_actions(now);
            if actions.is_empty() {
                break;
            }
            for action in actions {
                if self.counts_down() {
                    return;
                }
                self.act(shard, action);
            }
        }
        if let Some(host) = self.host(shard) {
            host.serving |= host.core.may_serve();
        }
    }

    fn act(&mut self, shard: usize, action: Action) {
        match action {
            Action::Send { conn, head, pieces } => self.send(conn.0, &head, &pieces),
            Action::OpenUp { conn } => {
                if let Some(conn) = self.conns.get_mut(&conn.0)
                    && let Some(reader) = &mut conn.to_server.reader
                {
                    reader.open_up();
                }
            }
            Action::Close { conn } => {
                if let Some(state) = self.conns.get_mut(&conn.0) {
                    (state.to_server.over, state.to_server.reader) = (true, None);
                    state.to_client.ends = true;
                    self.schedule(conn.0, Way::ToClient);
                }
            }
            Action::HandOver { conn, shard, hello } => {
                let shard = usize::from(shard.0);
                if let Some(state) = self.conns.get_mut(&conn.0) {
                    state.shard = shard;
                }
                let epoch = self.node.epoch;
                self.soon(500, Event::HandOver(epoch, shard, conn.0, Box::new(hello)));
            }
            Action::Target { index, action: StoreAction::WriteCheckpoint(checkpoint) } => {
                self.begin_writing(Written::Target(shard, index), Writing::IndexBegun(checkpoint));
            }
            Action::Target { index, action } => {
                let Some(host) = self.host(shard) else { return };
                let disk = host.disks[index];
                let (tag, work) = disk_work(action);
                self.submit(Which::Target(disk), tag, work);
            }
            Action::Measure { index, op } => {
                let Some(host) = self.host(shard) else { return };
                let disk = host.disks[index];
                let length = weft_store::Device::len_bytes(self.node.disk(Which::Target(disk)));
                let now = clocks(self.now);
                if let Some(host) = self.host(shard) {
                    host.core.target_length(index, op, Ok(length), now);
                }
            }
            Action::TellMetrics { .. } => unreachable!("no client of the simulation asks"),
            Action::Volume(VolumeAction::AppendLog { io, offset, bytes }) => {
                self.log_rot.appended(offset..offset + to_u64(bytes.len()));
                let work = Work::Write { offset, bytes, through: Through::Durably };
                self.submit(Which::Log, io, work);
            }
            Action::Volume(VolumeAction::WriteCheckpoint(checkpoint)) => {
                self.begin_writing(Written::Volume, Writing::Begun(checkpoint));
            }
            Action::Volume(_) => unreachable!("the core keeps what is no log work"),
            Action::ToShard { shard: to, message } => {
                let to = usize::from(to.0);
                let Some(process) = &mut self.node.process else { return };
                process.mail.entry((shard, to)).or_default().push_back(message);
                let epoch = self.node.epoch;
                self.soon(500, Event::Mail(epoch, shard, to));
            }
            Action::Stopped => {
                if let Some(host) = self.host(shard) {
                    host.stopped = true;
                }
            }
        }
    }

    /// A checkpoint gets a step further some time later.
    fn begin_writing(&mut self, whose: Written, writing: Writing) {
        let Some(process) = &mut self.node.process else { return };
        let before = process.checkpoints.insert(whose, writing);
        assert!(before.is_none(), "one checkpoint of each at a time");
        let random = match whose {
            Written::Volume => &mut self.checkpoint_random,
            Written::Target(..) => &mut self.index_random,
        };
        let millis = random.pick(&[1, 10, 100, 2_000]);
        let after = Duration::from_micros(random.below(millis * 1_000));
        let epoch = self.node.epoch;
        self.later(after, Event::Checkpoint(epoch, whose));
    }

    /// A checkpoint that is written gets a step further: into the database, then word of it to the volume or the store. The
    /// server may end before, between and after these.
    pub(super) fn checkpoint(&mut self, epoch: u64, whose: Written) {
        let Some(process) = self.node.process.as_mut().filter(|_| epoch == self.node.epoch) else {
            return;
        };
        let now = clocks(self.now);
        match (process.checkpoints.remove(&whose), whose) {
            (None, _) => {}
            (Some(Writing::Begun(checkpoint)), _) => {
                self.begin_writing(whose, Writing::Written(checkpoint.write()));
            }
            (Some(Writing::IndexBegun(checkpoint)), _) => {
                self.begin_writing(whose, Writing::IndexWritten(checkpoint.write()));
            }
            (Some(Writing::Written(written)), _) => {
                self.with_shard(0, |core| core.checkpoint_written(written, now));
            }
            (Some(Writing::IndexWritten(written)), Written::Target(shard, index)) => {
                self.with_shard(shard, |core| core.target_written(index, written, now));
            }
            (Some(Writing::IndexWritten(_)), Written::Volume) => unreachable!("a target's"),
        }
    }

    fn submit(&mut self, which: Which, tag: u64, work: Work) {
        let now = self.now;
        self.telling.event(now, || {
            let what = match &work {
                Work::Read { offset, bytes, .. } => format!("read {bytes} at {offset}"),
                Work::Write { offset, bytes, through } => {
                    format!("write {} at {offset} {through:?}", bytes.len())
                }
                work => format!("{work:?}"),
            };
            format!("{}: {what} ({tag})", World::disk_name(which))
        });
        self.node.disk(which).submit(now, tag, work);
    }

    fn send(&mut self, key: ConnKey, head: &[u8], pieces: &[ReadPiece]) {
        let Some(conn) = self.conns.get_mut(&key) else { return };
        let pipe = &mut conn.to_client;
        pipe.push(head);
        for piece in pieces {
            let bytes = usize::try_from(piece.bytes()).expect("32 bits fit");
            match piece {
                ReadPiece::Data { slot, .. } => pipe.push(&slot.as_slice()[..bytes]),
                ReadPiece::Zeros { .. } => pipe.push(&vec![0; bytes]),
            }
        }
        self.schedule(key, Way::ToClient);
    }

    pub(super) fn mail(&mut self, epoch: u64, from: usize, to: usize) {
        if epoch != self.node.epoch {
            return;
        }
        let Some(process) = &mut self.node.process else { return };
        let Some(message) = process.mail.get_mut(&(from, to)).and_then(|mail| mail.pop_front())
        else {
            return;
        };
        let now = clocks(self.now);
        self.with_shard(to, |core| core.message(message, now));
    }

    pub(super) fn take_over(&mut self, epoch: u64, shard: usize, key: ConnKey, hello: Frame) {
        if epoch != self.node.epoch || !self.conns.contains_key(&key) {
            return;
        }
        self.with_shard(shard, |core| core.opened(ConnId(key)));
        self.server_frame(shard, key, hello);
        // The client may have hung up before the new shard knew of the connection.
        if self.conns.get(&key).is_none_or(|conn| conn.to_server.over) {
            let now = clocks(self.now);
            self.with_shard(shard, |core| core.closed(ConnId(key), now));
        }
    }

    /// Time passes on the server.
    pub(super) fn tick(&mut self, epoch: u64) {
        let Some(process) = self.node.process.as_ref().filter(|_| epoch == self.node.epoch) else {
            return;
        };
        let now = clocks(self.now);
        for shard in 0..process.shards.len() {
            self.with_shard(shard, |core| core.tick(now));
        }
        self.later(TICK, Event::Tick(epoch));
    }

    /// A device completes what it does next.
    pub(super) fn io_done(&mut self, which: Which) {
        let done = self.node.disk(which).complete().expect("it was looked at");
        let now = clocks(self.now);
        if done.result.is_err() {
            self.telling.step(self.now, || format!("{} fails", World::disk_name(which)));
            self.ailing = true;
        }
        match which {
            Which::Log => {
                self.excuses.log_failed |= done.result.is_err();
                let result = done.result.map(drop).map_err(|error| error.errno);
                self.with_shard(0, |core| core.volume_io_done(done.tag, result, now));
            }
            Which::Target(target) => {
                if done.result.is_err() {
                    // A failed flush may have dropped what was not durable, as a power loss does.
                    self.data_is_lost();
                }
                let Some((shard, index)) = self.node.owner(target) else { return };
                let (io, result) = (IoId(done.tag), done.result);
                self.with_shard(shard, |core| core.target_io_done(index, io, result, now));
            }
        }
    }

    /// Whether the server was told to stop and has.
    pub(super) fn is_stopped(&self) -> bool {
        let stopped = |host: &Host| host.stopped;
        self.node.process.as_ref().is_some_and(|process| process.shards.iter().all(stopped))
    }

    /// Tells the server to stop in order.
    pub(super) fn stop_server(&mut self) {
        let Some(process) = &mut self.node.process else { return };
        process.stopping = true;
        let now = clocks(self.now);
        for shard in 0..process.shards.len() {
            self.with_shard(shard, |core| core.stop(now));
        }
    }

    /// How long until the server is started again.
    pub(super) fn pause(&mut self) -> Duration {
        Duration::from_millis(5 + self.random.pick(&[10, 100, 1500]) * self.random.below(10) / 10)
    }
}

fn client_inbox(pool: &Pool) -> weft_iobuf::BufSlot {
    pool.alloc(INBOX_BYTES).expect("a client has memory for its connections")
}
