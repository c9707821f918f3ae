//! A blocking client: one connection, one request at a time, every wait with an end.
//!
//! A reply is believed only when it is one: header and body pass their checksums, it answers the request that was
//! sent, and its payload agrees with the checksums of its blocks. A server that sends a byte now and then does not
//! hold the command for longer than the timeout, because the end of a wait is fixed when the request is sent.

mod trace;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use weft_wire::blocks::first_mismatch;
use weft_wire::codec::WireErrorKind;
use weft_wire::data::{ChunkInfo, ChunkListReply, ChunkRange, DataRequest, GrowReply, ReadReply};
use weft_wire::header::{HEADER_BYTES, VERSION, VERSION_MIN};
use weft_wire::meta::{Caller, MetaReply, MetaRequest, NO_SLOT};
use weft_wire::scrub::{
    Damage, DamageQuery, DamageReply, ScrubOrder, TargetHealth, TargetHealthReply,
};
use weft_wire::session::{
    ClusterMap, FEATURE_INLINE, FEATURE_TRACE, Hello, TargetInfo, TargetListReply, Welcome,
};
use weft_wire::units::to_usize;
use weft_wire::{
    ChunkIndex, ClusterId, Header, Ino, Kind, SessionId, ShardId, Status, TargetId, WireError,
};

use crate::clock;

/// Where a server is unless something says otherwise.
pub(crate) const SERVER_DEFAULT: &str = "127.0.0.1:7811";
/// Between two tries when a server is at a limit.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// What went wrong between this program and a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ClientErrorKind {
    /// The address is none, or its name is unknown.
    Resolve,
    /// No connection.
    Connect,
    /// The peer did not answer in time.
    Timeout,
    /// The peer closed the connection.
    Closed,
    /// What came is not what Weft sends.
    Garbage(WireError),
    /// The server answered with an error.
    Refused(Status),
    /// The socket failed.
    Socket,
}

/// A request that did not work.
#[derive(Debug)]
pub(crate) struct ClientError {
    /// What to branch on.
    pub(crate) kind: ClientErrorKind,
    /// What was tried.
    pub(crate) op: &'static str,
    /// `HOST:PORT` it was tried on.
    pub(crate) server: String,
    /// The system's error, where it is one.
    pub(crate) source: Option<io::Error>,
}

impl ClientError {
    /// Why, in words.
    pub(crate) fn why(&self) -> String {
        let cause = match &self.source {
            Some(source) => format!(": {source}"),
            None => String::new(),
        };
        match self.kind {
            ClientErrorKind::Resolve => format!("the address does not resolve{cause}"),
            ClientErrorKind::Connect => format!("no connection{cause}"),
            ClientErrorKind::Timeout => "no answer in time".to_owned(),
            ClientErrorKind::Closed => "the server closed the connection".to_owned(),
            ClientErrorKind::Garbage(error) => format!("what came back is no answer: {error}"),
            ClientErrorKind::Refused(status) => format!("the server answered: {status}"),
            ClientErrorKind::Socket => format!("the connection failed{cause}"),
        }
    }

    /// What to do next.
    pub(crate) fn next(&self) -> String {
        let server = &self.server;
        match self.kind {
            ClientErrorKind::Resolve => {
                "HOST:PORT is expected; check the name, /etc/hosts and DNS".to_owned()
            }
            ClientErrorKind::Connect => format!(
                "is weft-server running (systemctl status weft-server), is {server} its `listen`, and \
                 does a firewall stand between?"
            ),
            ClientErrorKind::Timeout => format!(
                "see the server's log (journalctl -u weft-server); is {server} a Weft server? --timeout waits longer"
            ),
            ClientErrorKind::Closed => {
                "see the server's log (journalctl -u weft-server) for why".to_owned()
            }
            ClientErrorKind::Garbage(error) if error.kind == WireErrorKind::Version => {
                "upgrade the older of the two".to_owned()
            }
            ClientErrorKind::Garbage(_) => {
                format!("is {server} a Weft server, and of this version (weft node status)?")
            }
            ClientErrorKind::Refused(status) => refused_next(status).to_owned(),
            ClientErrorKind::Socket => "try again; if it stays, check the network".to_owned(),
        }
    }
}

fn refused_next(status: Status) -> &'static str {
    match status {
        Status::WrongCluster => {
            "the config names another cluster than the server: name the right one with --config or --server"
        }
        Status::Version => "upgrade the older of the two",
        Status::WrongShard => "the server's map has changed: try again",
        Status::Io | Status::Damaged => {
            "see the server's log (journalctl -u weft-server) and `weft target list` for damaged blocks"
        }
        Status::NotPermitted | Status::Access => "run it as the owner, or as root",
        Status::Busy | Status::Unavailable => "try again in a moment",
        Status::Stale | Status::NotFound => "it may have been removed meanwhile",
        _ => "see the server's log (journalctl -u weft-server)",
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.op, self.server, self.why())
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

impl From<ClientError> for crate::error::AdminError {
    fn from(error: ClientError) -> Self {
        let what = format!("{} {}", error.op, error.server);
        crate::error::AdminError::new(what, error.why(), error.next())
    }
}

/// What all connections of one run of this command have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    /// A fresh session of this run.
    pub(crate) id: SessionId,
    /// The cluster meant; all zero for any.
    pub(crate) cluster: ClusterId,
    /// The longest wait for an answer.
    pub(crate) timeout: Duration,
}

impl Session {
    pub(crate) fn new(cluster: ClusterId, timeout: Duration) -> Session {
        Session { id: SessionId(uuid::Uuid::new_v4().into_bytes()), cluster, timeout }
    }
}

/// The addresses of `HOST:PORT`.
///
/// # Errors
/// `Resolve`.
pub(crate) fn resolve(server: &str) -> Result<Vec<SocketAddr>, ClientError> {
    let fail = |source| ClientError {
        kind: ClientErrorKind::Resolve,
        op: "resolve",
        server: server.to_owned(),
        source,
    };
    let addresses: Vec<_> = server.to_socket_addrs().map_err(|error| fail(Some(error)))?.collect();
    if addresses.is_empty() { Err(fail(None)) } else { Ok(addresses) }
}

/// A TCP connection to the first of `addresses` that takes one.
///
/// # Errors
/// `Connect`, `Timeout`.
pub(crate) fn connect(
    server: &str,
    addresses: &[SocketAddr],
    timeout: Duration,
) -> Result<TcpStream, ClientError> {
    let mut source = None;
    for address in addresses {
        let connected = TcpStream::connect_timeout(address, timeout)
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => source = Some(error),
        }
    }
    let kind = ClientErrorKind::Connect;
    Err(ClientError { kind, op: "connect to", server: server.to_owned(), source })
}

/// A reply's body and payload.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) body: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// A connection to one shard, past its hello.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    server: String,
    timeout: Duration,
    next_id: u64,
    shard: ShardId,
    epoch: u64,
    /// What the server said to the hello.
    pub(crate) welcome: Option<Welcome>,
}

impl Connection {
    /// Resolves, connects and says hello.
    ///
    /// # Errors
    /// Any [`ClientErrorKind`].
    pub(crate) fn open(
        server: &str,
        session: &Session,
        shard: ShardId,
    ) -> Result<Connection, ClientError> {
        let stream = connect(server, &resolve(server)?, session.timeout)?;
        Connection::hello(stream, server, session, shard)
    }

    /// Says hello on a fresh stream.
    ///
    /// # Errors
    /// Any [`ClientErrorKind`].
    pub(crate) fn hello(
        stream: TcpStream,
        server: &str,
        session: &Session,
        shard: ShardId,
    ) -> Result<Connection, ClientError> {
        let mut connection = Connection {
            stream,
            server: server.to_owned(),
            timeout: session.timeout,
            next_id: 1,
            shard,
            epoch: 0,
            welcome: None,
        };
        let hello = Hello {
            versions: (VERSION_MIN, VERSION),
            features: FEATURE_TRACE | FEATURE_INLINE,
            cluster: session.cluster,
            session: session.id,
            shard,
        };
        let mut body = Vec::new();
        hello.encode(&mut body);
        let reply = connection.call("say hello to", Kind::Hello, &body)?;
        let garbage = |error| connection.error("say hello to", ClientErrorKind::Garbage(error));
        let welcome = Welcome::decode(&reply.body).map_err(garbage)?;
        if !(VERSION_MIN..=VERSION).contains(&welcome.version) {
            return Err(garbage(WireError::new(WireErrorKind::Version, "welcome")));
        }
        connection.epoch = welcome.epoch;
        connection.welcome = Some(welcome);
        Ok(connection)
    }

    /// What the server said to the hello.
    pub(crate) fn welcome(&self) -> &Welcome {
        self.welcome.as_ref().expect("set before `hello` returns a connection")
    }

    /// Nodes, shards, targets and volumes.
    ///
    /// # Errors
    /// Any [`ClientErrorKind`].
    pub(crate) fn cluster_map(&mut self) -> Result<ClusterMap, ClientError> {
        let op = "get the cluster map of";
        let reply = self.call(op, Kind::ClusterMap, &[])?;
        ClusterMap::decode(&reply.body).map_err(|e| self.error(op, ClientErrorKind::Garbage(e)))
    }

    /// The targets of this shard.
    ///
    /// # Errors
    /// Any [`ClientErrorKind`].
    pub(crate) fn target_list(&mut self) -> Result<Vec<TargetInfo>, ClientError> {
        let op = "list the targets of";
        let reply = self.call(op, Kind::TargetList, &[])?;
        let list = TargetListReply::decode(&reply.body);
        list.map(|list| list.targets).map_err(|e| self.error(op, ClientErrorKind::Garbage(e)))
    }

    /// State, scrub and damage of this shard's targets.
    ///
    /// # Errors
    /// Any [`ClientErrorKind`].
    pub(crate) fn target_health(&mut self) -> Result<Vec<TargetHealth>, ClientError> {
        let op = "get the targets' health of";
        let reply = self.call(op, Kind::TargetHealth, &[])?;
        let list = TargetHealthReply::decode(&reply.body);
        list.map(|list| list.targets).map_err(|e| self.error(op, ClientErrorKind::Garbage(e)))
    }

    /// What this shard counts, as Prometheus has it.
    ///
    /// # Errors
    /// Any [`ClientErrorKind`].
    pub(crate) fn metrics(&mut self) -> Result<String, ClientError> {
        let op = "get the metrics of";
        let reply = self.call(op, Kind::Metrics, &[])?;
        String::from_utf8(reply.body).map_err(|_| {
            let error = WireError::new(WireErrorKind::Value, "metrics");
            self.error(op, ClientErrorKind::Garbage(error))
        })
    }

    /// Starts or stops a scrub.
    ///
    /// # Errors
    /// Any [`ClientErrorKind`].
    pub(crate) fn scrub(&mut self, order: &ScrubOrder) -> Result<(), ClientError> {
        let mut body = Vec::new();
        order.encode(&mut body);
        self.call("scrub a target of", Kind::Scrub, &body).map(drop)
    }

    /// All damaged blocks a target knows of, ascending.
    ///
    /// # Errors
    /// Any [`ClientErrorKind`]; `Garbage` when the list does not move on.
    pub(crate) fn damages(&mut self, target: TargetId) -> Result<Vec<Damage>, ClientError> {
        let op = "list the damage of";
        let mut all: Vec<Damage> = Vec::new();
        let mut from = None;
        loop {
            let mut body = Vec::new();
            DamageQuery { target, from }.encode(&mut body);
            let reply = self.call(op, Kind::DamageList, &body)?;
            let garbage = |error| self.error(op, ClientErrorKind::Garbage(error));
            let page = DamageReply::decode(&reply.body).map_err(garbage)?;
            all.extend(page.damages);
            let next = all.last().map(|last| (last.chunk, last.first.saturating_add(last.count)));
            match page.more {
                false => return Ok(all),
                true if next > from => from = next,
                true => return Err(garbage(WireError::new(WireErrorKind::Value, "damage list"))),
            }
        }
    }

    /// One metadata request. A change uses slot 0, so one connection of a session makes one change at most.
    ///
    /// # Errors
    /// Any [`ClientErrorKind`].
    pub(crate) fn meta(&mut self, request: &MetaRequest<'_>) -> Result<MetaReply, ClientError> {
        let op = "ask the metadata of";
        let changes = request.is_mutation();
        let caller = Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            slot: if changes { 0 } else { NO_SLOT },
            sequence: u64::from(changes),
        };
        let mut body = Vec::new();
        request.encode(&caller, &mut body);
        let reply = self.call(op, request.kind(), &body)?;
        MetaReply::decode(request.kind(), &reply.body)
            .map_err(|e| self.error(op, ClientErrorKind::Garbage(e)))
    }

    /// Reads a range of a chunk and checks every block that comes. Gives how many came.
    ///
    /// # Errors
    /// Any [`ClientErrorKind`].
    pub(crate) fn read(
        &mut self,
        target: TargetId,
        range: ChunkRange,
    ) -> Result<usize, ClientError> {
        let op = "read from";
        let mut body = Vec::new();
        DataRequest::Read(range).encode(target, &mut body);
        let reply = self.call(op, Kind::Read, &body)?;
        let payload_bytes = u32::try_from(reply.payload.len()).expect("bounded by the header");
        let blocks = ReadReply::decode(&reply.body, payload_bytes)
            .map_err(|error| self.error(op, ClientErrorKind::Garbage(error)))?;
        if first_mismatch(0, &reply.payload, &blocks.sums).is_some() {
            let error = WireError::new(WireErrorKind::Checksum, "block");
            return Err(self.error(op, ClientErrorKind::Garbage(error)));
        }
        Ok(blocks.sums.len())
    }

    /// Has a target use its device up to the length it has now.
    ///
    /// # Errors
    /// Any [`ClientErrorKind`].
    pub(crate) fn grow(&mut self, target: TargetId) -> Result<GrowReply, ClientError> {
        let op = "grow a target of";
        let mut body = Vec::new();
        DataRequest::Grow.encode(target, &mut body);
        let reply = self.call(op, Kind::Grow, &body)?;
        GrowReply::decode(&reply.body)
            .map_err(|error| self.error(op, ClientErrorKind::Garbage(error)))
    }

    /// All chunks of a file on a target, ascending.
    ///
    /// # Errors
    /// Any [`ClientErrorKind`]; `Garbage` when the list does not move on.
    pub(crate) fn chunks(
        &mut self,
        target: TargetId,
        ino: Ino,
    ) -> Result<Vec<ChunkInfo>, ClientError> {
        let op = "list chunks on";
        let mut chunks: Vec<ChunkInfo> = Vec::new();
        let mut from = ChunkIndex(0);
        loop {
            let mut body = Vec::new();
            DataRequest::ChunkList(ino, from).encode(target, &mut body);
            let reply = self.call(op, Kind::ChunkList, &body)?;
            let garbage = |error| self.error(op, ClientErrorKind::Garbage(error));
            let page = ChunkListReply::decode(&reply.body).map_err(garbage)?;
            let backwards = || garbage(WireError::new(WireErrorKind::Value, "chunk list"));
            for chunk in page.chunks {
                if chunk.index < from {
                    return Err(backwards());
                }
                from = ChunkIndex(chunk.index.0.checked_add(1).ok_or_else(backwards)?);
                chunks.push(chunk);
            }
            match page.more {
                false => return Ok(chunks),
                true if chunks.last().is_some_and(|last| last.index.0 + 1 == from.0) => {}
                true => return Err(backwards()),
            }
        }
    }

    /// Ends the session, so that the server need not wait for its timeout. What comes back does not matter any more.
    pub(crate) fn goodbye(mut self) {
        if let Err(_gone) = self.call("say goodbye to", Kind::Goodbye, &[]) {}
    }

    /// Sends a request without payload and waits for its reply. Asks again while the server is at a limit.
    ///
    /// # Errors
    /// Any [`ClientErrorKind`].
    pub(crate) fn call(
        &mut self,
        op: &'static str,
        kind: Kind,
        body: &[u8],
    ) -> Result<Reply, ClientError> {
        let end = clock::now() + self.timeout;
        loop {
            let (status, reply) = self.exchange(op, kind, body, end)?;
            match status {
                Status::Ok => return Ok(reply),
                Status::Busy if clock::now() + BUSY_PAUSE < end => clock::pause(BUSY_PAUSE),
                status => return Err(self.error(op, ClientErrorKind::Refused(status))),
            }
        }
    }

    fn exchange(
        &mut self,
        op: &'static str,
        kind: Kind,
        body: &[u8],
        end: Instant,
    ) -> Result<(Status, Reply), ClientError> {
        let request_id = self.next_id;
        self.next_id += 1;
        let mut header = Header::request(kind, request_id, body, 0);
        header.epoch = self.epoch;
        header.shard = self.shard.0;
        header.deadline_ms = u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX).max(1);
        let mut frame = header.encode().to_vec();
        frame.extend_from_slice(body);
        self.write_all(op, &frame, end)?;
        let mut head = [0u8; HEADER_BYTES];
        self.read_exact(op, &mut head, end)?;
        let garbage = |error| ClientErrorKind::Garbage(error);
        let answer = Header::decode(&head).map_err(|e| self.error(op, garbage(e)))?;
        let mut reply = Reply {
            body: vec![0; to_usize(u64::from(answer.body_bytes))],
            payload: vec![0; to_usize(u64::from(answer.payload_bytes))],
        };
        self.read_exact(op, &mut reply.body, end)?;
        answer.check_body(&reply.body).map_err(|e| self.error(op, garbage(e)))?;
        self.read_exact(op, &mut reply.payload, end)?;
        if !answer.reply || answer.request_id != request_id || answer.kind != kind {
            let error = WireError::new(WireErrorKind::Value, "answer to another request");
            return Err(self.error(op, garbage(error)));
        }
        Ok((answer.status, reply))
    }

    fn write_all(
        &mut self,
        op: &'static str,
        mut bytes: &[u8],
        end: Instant,
    ) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            let left = self.time_left(op, end)?;
            let written = self
                .stream
                .set_write_timeout(Some(left))
                .and_then(|()| retried(|| self.stream.write(bytes)));
            match written {
                Ok(0) => return Err(self.error(op, ClientErrorKind::Closed)),
                Ok(count) => bytes = &bytes[count..],
                Err(error) => return Err(self.socket_error(op, error)),
            }
        }
        Ok(())
    }

    fn read_exact(
        &mut self,
        op: &'static str,
        mut bytes: &mut [u8],
        end: Instant,
    ) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            let left = self.time_left(op, end)?;
            let read = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| retried(|| self.stream.read(bytes)));
            match read {
                Ok(0) => return Err(self.error(op, ClientErrorKind::Closed)),
                Ok(count) => bytes = &mut bytes[count..],
                Err(error) => return Err(self.socket_error(op, error)),
            }
        }
        Ok(())
    }

    fn time_left(&self, op: &'static str, end: Instant) -> Result<Duration, ClientError> {
        let left = end.saturating_duration_since(clock::now());
        if left.is_zero() { Err(self.error(op, ClientErrorKind::Timeout)) } else { Ok(left) }
    }

    fn error(&self, op: &'static str, kind: ClientErrorKind) -> ClientError {
        ClientError { kind, op, server: self.server.clone(), source: None }
    }

    fn socket_error(&self, op: &'static str, error: io::Error) -> ClientError {
        let kind = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientErrorKind::Timeout,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ClientErrorKind::Closed,
            _ => ClientErrorKind::Socket,
        };
        ClientError { source: Some(error), ..self.error(op, kind) }
    }
}

/// Again after a signal.
fn retried(mut io: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match io() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests;
