//! One connection to one shard: the link decides, the ring carries.

use crate::clock::monotonic_ns;
use crate::error::{At, Error, Result};
use rustix::rand::{GetRandomFlags, getrandom};
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use weft_iobuf::{BufSlot, Pool, SharedSlot};
use weft_net::link::{Link, LinkConfig, LinkOutput, Request};
use weft_net::stream::INBOX_BYTES;
use weft_net::{Budget, FrameReader, Next, Recv};
use weft_ring::{Completion, FileId, Op, Ring, RingConfig, SendData};
use weft_wire::data::DataRequest;
use weft_wire::meta::{Caller, MetaRequest};
use weft_wire::{ClusterId, Kind, LeaseBits, SessionId, ShardId, Status, TargetId};

const POOL_BYTES: usize = 64 << 20;
const SLOT_BYTES_MAX: usize = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(1);
/// Silence that counts as a lost connection, and so as a failed run.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// An answer.
pub(crate) struct Reply {
    /// The one that came with the request.
    pub(crate) tag: u64,
    pub(crate) status: Status,
    pub(crate) body: Vec<u8>,
    pub(crate) payload: Option<(BufSlot, Range<usize>)>,
}

/// What an operation was for.
const SEND: u64 = 1;
const RECEIVE: u64 = 2;

/// A connection in use.
pub(crate) struct Client {
    link: Link,
    reader: FrameReader,
    file: FileId,
    receiving: bool,
    /// Not yet sent.
    queue: SendData,
    sending: bool,
    replies: VecDeque<Reply>,
    start_ns: u64,
    pool: Pool,
    ring: Ring,
}

impl Client {
    /// Connects, and waits until the server took the hello.
    pub(crate) fn connect(
        server: SocketAddr,
        local: bool,
        shard: u16,
        spin_us_max: u32,
    ) -> Result<Client> {
        let failed = |error: weft_ring::RingError| Error::program("ring", error.to_string());
        let mut ring =
            Ring::new(RingConfig { spin_us_max, ..RingConfig::default() }).map_err(failed)?;
        let pool = Pool::new(POOL_BYTES, SLOT_BYTES_MAX)
            .map_err(|error| Error::program("buffers", error.to_string()))?;
        ring.register_pool(&pool).map_err(failed)?;
        let file = ring.register_file(open(server, local)?).map_err(failed)?;
        let mut session = [0; 16];
        getrandom(&mut session, GetRandomFlags::empty()).at("getrandom", Path::new("session"))?;
        let link = Link::new(LinkConfig {
            cluster: ClusterId::default(),
            session: SessionId(session),
            shard: ShardId(shard),
            leases: false,
            reply_timeout: REPLY_TIMEOUT,
        });
        let inbox = pool.alloc(INBOX_BYTES).ok_or_else(|| Error::wrong("net", "no buffer"))?;
        let mut client = Client {
            link,
            reader: FrameReader::new(inbox, Budget::unlimited()),
            file,
            receiving: false,
            queue: SendData::new(),
            sending: false,
            replies: VecDeque::new(),
            start_ns: monotonic_ns(),
            pool,
            ring,
        };
        client.link.start(client.now());
        while !client.link.is_up() {
            client.turn()?;
        }
        Ok(client)
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn next_reply(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }

    /// Asks a target something; sent by the next turn.
    pub(crate) fn ask(
        &mut self,
        tag: u64,
        target: TargetId,
        request: &DataRequest,
        payload: Option<(SharedSlot, Range<usize>)>,
    ) {
        let mut body = Vec::new();
        request.encode(target, &mut body);
        self.submit_request(tag, request.kind(), body, payload);
    }

    /// Asks the volume something; sent by the next turn.
    pub(crate) fn ask_volume(&mut self, tag: u64, request: &MetaRequest<'_>, caller: &Caller) {
        let mut body = Vec::new();
        request.encode(caller, &mut body);
        self.submit_request(tag, request.kind(), body, None);
    }

    /// How many changes of names may be under way at once; 0 where the shard has no volume.
    pub(crate) fn slot_count(&self) -> u16 {
        self.link.welcome().map_or(0, |welcome| welcome.slot_count)
    }

    /// Says goodbye, so that the server forgets the session.
    pub(crate) fn leave(mut self) -> Result<()> {
        self.link.leave(self.now());
        while !self.link.is_gone() {
            match self.turn() {
                // It ends with the connection.
                Err(_) if self.link.is_gone() => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn submit_request(
        &mut self,
        tag: u64,
        kind: Kind,
        body: Vec<u8>,
        payload: Option<(SharedSlot, Range<usize>)>,
    ) {
        let request = Request { tag, kind, lease: LeaseBits::NONE, body, payload, deadline: None };
        self.link.submit(request, self.now());
    }

    /// Sends what is queued, waits for something to come, and takes it.
    pub(crate) fn turn(&mut self) -> Result<()> {
        self.carry_out()?;
        let failed = |error: weft_ring::RingError| Error::program("ring", error.to_string());
        self.ring.wait_under_way(Some(PATIENCE)).map_err(failed)?;
        while let Some(completion) = self.ring.next_completion() {
            match completion.token {
                SEND => self.sent(completion)?,
                _ => self.received(completion)?,
            }
        }
        self.link.tick(self.now());
        self.carry_out()
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(monotonic_ns() - self.start_ns)
    }

    fn carry_out(&mut self) -> Result<()> {
        let lost = || Err(Error::program("net", "the server closed the connection: see its log"));
        while let Some(output) = self.link.poll() {
            match output {
                LinkOutput::Connect { .. } if self.receiving => return lost(),
                LinkOutput::Connect { .. } => self.link.connected(self.now()),
                LinkOutput::Send { head, payload } => {
                    self.queue.push_bytes(&head);
                    if let Some((slot, range)) = payload {
                        let pushed = self.queue.push_shared(slot, range);
                        pushed.map_err(|_| Error::wrong("net", "a range beyond its slot"))?;
                    }
                }
                LinkOutput::Reply { tag, status, body, payload, .. } => {
                    self.replies.push_back(Reply { tag, status, body, payload });
                }
                LinkOutput::Up { .. } => self.reader.open_up(),
                LinkOutput::Recall { .. } => {}
                LinkOutput::Close | LinkOutput::Refused { .. } => return lost(),
            }
        }
        if !self.sending && !self.queue.is_empty() {
            let data = std::mem::take(&mut self.queue);
            self.submit(SEND, Op::Send { file: self.file, data })?;
            self.sending = true;
        }
        if !self.receiving
            && let Some(Recv { slot: buf, range, whole: all }) = self.reader.recv()
        {
            self.submit(RECEIVE, Op::Recv { file: self.file, buf, range, all })?;
            self.receiving = true;
        }
        Ok(())
    }

    fn submit(&mut self, token: u64, op: Op) -> Result<()> {
        let submitted = self.ring.submit(token, op);
        submitted.map(drop).map_err(|error| Error::program("ring", format!("{:?}", error.reason)))
    }

    fn sent(&mut self, completion: Completion) -> Result<()> {
        self.sending = false;
        completion.result.at("send", Path::new("socket"))?;
        if let Op::Send { mut data, .. } = completion.op
            && self.queue.is_empty()
        {
            data.clear();
            self.queue = data;
        }
        Ok(())
    }

    fn received(&mut self, completion: Completion) -> Result<()> {
        self.receiving = false;
        let bytes = completion.result.at("receive", Path::new("socket"))?;
        let Op::Recv { buf, .. } = completion.op else { unreachable!("its token is a receive's") };
        if bytes == 0 {
            return Err(Error::program("net", "the server closed the connection: see its log"));
        }
        self.reader.received(buf, usize::try_from(bytes).expect("u32 fits usize"));
        loop {
            match self.reader.next(&self.pool) {
                Ok(Next::Frame(frame)) => self.link.frame(frame, self.now()),
                Ok(Next::More) => return Ok(()),
                Ok(Next::NoRoom(bytes)) => {
                    return Err(Error::wrong("net", format!("no buffer of {bytes} bytes")));
                }
                Err(error) => return Err(Error::wrong("net", error.to_string())),
            }
        }
    }
}

/// A connected socket.
fn open(server: SocketAddr, local: bool) -> Result<OwnedFd> {
    if local {
        let socket = weft_net::local::connect(server);
        return socket.map_err(|why| Error::program("--local-socket", format!("{why:?}")));
    }
    let socket = TcpStream::connect(server).at("connect", Path::new(&server.to_string()))?;
    socket.set_nodelay(true).at("connect", Path::new("socket"))?;
    Ok(socket.into())
}
