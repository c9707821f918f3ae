//! The connections of a mount: sockets, receives and coalesced sends for the core's links.
//!
//! A link reconnects under the same id; the generation in a token tells what belongs to an earlier connection.

use std::collections::VecDeque;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use weft_client_core::LinkId;
use weft_iobuf::SharedSlot;
use weft_net::stream::INBOX_BYTES;
use weft_net::{Budget, FrameReader, Next, Recv};
use weft_ring::{Completion, FileId, Op, SendData};
use weft_wire::units::to_usize;

use super::Mount;
use super::ways::{Count, Ways};
use crate::clock;

/// Parts of one gathered send: below the ring's limit, with room for one more frame.
const PARTS_MAX: usize = weft_ring::SEND_PARTS_MAX - 8;
/// An idle server is probed by TCP after this long.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What an operation on a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Connect = 0,
    Receive = 1,
    Send = 2,
    Close = 3,
}

/// Link, generation and work in one number: 32, 24 and 8 bits.
fn token(link: LinkId, generation: u32, work: Work) -> u64 {
    u64::from(link.0) << 32 | u64::from(generation & 0xff_ffff) << 8 | u64::from(work as u8)
}

/// One connection, from its connect to its close.
#[derive(Debug)]
struct Conn {
    file: FileId,
    generation: u32,
    /// Over a unix socket, to a server of this machine.
    is_local: bool,
    connected: bool,
    reader: FrameReader,
    queue: VecDeque<SendData>,
    sending: bool,
    receiving: bool,
    /// A payload waits for a slot.
    stalled: bool,
}

/// All links, by id.
#[derive(Debug)]
pub(super) struct Links {
    conns: Vec<Option<Conn>>,
    generation: u32,
    /// Resolved once: a name server that hangs later must not hang the mount.
    resolved: Vec<(String, SocketAddr)>,
    spare: Vec<SendData>,
    ways: Ways,
}

impl Links {
    pub(super) fn new(ways: Ways) -> Links {
        let (conns, resolved, spare) = (Vec::new(), Vec::new(), Vec::new());
        Links { conns, generation: 0, resolved, spare, ways }
    }

    /// Connections came or went.
    fn tell_ways(&mut self) {
        let mut count = Count::default();
        for conn in self.conns.iter().flatten().filter(|conn| conn.connected) {
            *if conn.is_local { &mut count.unix } else { &mut count.tcp } += 1;
        }
        self.ways.tell(count);
    }

    pub(super) fn any_stalled(&self) -> bool {
        self.conns.iter().flatten().any(|conn| conn.stalled)
    }

    fn get(&mut self, link: LinkId) -> Option<&mut Conn> {
        self.conns.get_mut(index(link))?.as_mut()
    }

    /// The connection a completion belongs to, unless it is an earlier one's.
    fn current(&mut self, link: LinkId, generation: u64) -> Option<&mut Conn> {
        self.get(link).filter(|conn| u64::from(conn.generation & 0xff_ffff) == generation)
    }

    fn resolve(&mut self, address: &str) -> Result<SocketAddr, String> {
        if let Some((_, known)) = self.resolved.iter().find(|(name, _)| name == address) {
            return Ok(*known);
        }
        let found = address
            .to_socket_addrs()
            .map_err(|error| format!("{address} does not resolve: {error}"))?
            .next()
            .ok_or_else(|| format!("{address} has no address"))?;
        self.resolved.push((address.to_owned(), found));
        Ok(found)
    }

    /// Puts a frame behind those that wait.
    pub(super) fn queue(
        &mut self,
        link: LinkId,
        head: &[u8],
        payload: Option<(SharedSlot, Range<usize>)>,
    ) {
        let spare = self.spare.pop();
        let Some(conn) = self.get(link) else { return };
        if conn.queue.back().is_none_or(|data| data.part_count() >= PARTS_MAX) {
            conn.queue.push_back(spare.unwrap_or_default());
        }
        let data = conn.queue.back_mut().expect("pushed when there was none");
        data.push_bytes(head);
        if let Some((slot, range)) = payload {
            let pushed = data.push_shared(slot, range);
            assert!(pushed.is_ok(), "the core names ranges within its slots");
        }
    }
}

/// What a connection begins with.
struct Opened {
    addr: SocketAddr,
    /// The socket is a unix socket and connected.
    is_local: bool,
    file: FileId,
    reader: FrameReader,
}

fn tcp_socket(addr: SocketAddr) -> Result<OwnedFd, String> {
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)
        .map_err(|errno| format!("no socket: {errno}"))?;
    rustix::net::sockopt::set_tcp_nodelay(&socket, true)
        .and_then(|()| rustix::net::sockopt::set_socket_keepalive(&socket, true))
        .and_then(|()| rustix::net::sockopt::set_tcp_keepidle(&socket, KEEPALIVE))
        .map_err(|errno| format!("socket options: {errno}"))?;
    Ok(socket)
}

fn index(link: LinkId) -> usize {
    to_usize(u64::from(link.0))
}

impl Mount {
    /// `local`: the local way may be tried.
    pub(super) fn connect_link(&mut self, link: LinkId, address: &str, local: bool) {
        match self.open(address, local) {
            Ok(Opened { addr, is_local, file, reader }) => {
                self.links.generation += 1;
                let generation = self.links.generation;
                let conn = Conn {
                    file,
                    generation,
                    is_local,
                    connected: false,
                    reader,
                    queue: VecDeque::new(),
                    sending: false,
                    receiving: false,
                    stalled: false,
                };
                if self.links.conns.len() <= index(link) {
                    self.links.conns.resize_with(index(link) + 1, || None);
                }
                self.links.conns[index(link)] = Some(conn);
                match is_local {
                    true => self.connected(link),
                    false => {
                        let connect = Op::Connect { file, addr };
                        self.submit(token(link, generation, Work::Connect), connect);
                    }
                }
            }
            Err(reason) => {
                tracing::warn!(link = link.0, reason, "cannot connect");
                self.core.link_connect_failed(link, clock::mono());
            }
        }
    }

    /// A socket for `address`, connected if it is local, and the reader of what will come.
    fn open(&mut self, address: &str, local: bool) -> Result<Opened, String> {
        let addr = self.links.resolve(address)?;
        let local = self.links.ways.local(addr, local);
        let is_local = local.is_some();
        let socket = local.map_or_else(|| tcp_socket(addr), Ok)?;
        let inbox = self.pool.alloc(INBOX_BYTES).ok_or("no memory for a connection")?;
        let file = self.ring.register_file(socket).map_err(|error| error.to_string())?;
        let mut reader = FrameReader::new(inbox, Budget::unlimited());
        // What a server says before its welcome is checked by the link; it may be of any length.
        reader.open_up();
        Ok(Opened { addr, is_local, file, reader })
    }

    /// The connection is there: says hello, and hears what comes.
    fn connected(&mut self, link: LinkId) {
        let now = clock::mono();
        let Some(conn) = self.links.get(link) else { return };
        conn.connected = true;
        let is_local = conn.is_local;
        tracing::info!(link = link.0, way = if is_local { "unix" } else { "tcp" }, "connected");
        match is_local {
            true => self.core.link_connected_locally(link, now),
            false => self.core.link_connected(link, now),
        }
        self.links.tell_ways();
        self.receive(link);
    }

    pub(super) fn close_link(&mut self, link: LinkId) {
        let Some(conn) = self.links.conns.get_mut(index(link)).and_then(Option::take) else {
            return;
        };
        let close = Op::Close { file: conn.file };
        self.submit(token(link, conn.generation, Work::Close), close);
        self.links.tell_ways();
    }

    pub(super) fn link_completed(&mut self, completion: Completion) {
        let link = LinkId(u32::try_from(completion.token >> 32).expect("32 bits"));
        let generation = completion.token >> 8 & 0xff_ffff;
        let now = clock::mono();
        let Some(conn) = self.links.current(link, generation) else { return };
        let result = completion.result;
        match completion.op {
            Op::Connect { .. } => match result {
                Ok(_) => self.connected(link),
                Err(errno) => {
                    tracing::debug!(link = link.0, %errno, "connect");
                    self.close_link(link);
                    self.core.link_connect_failed(link, now);
                }
            },
            Op::Recv { buf, .. } => {
                conn.receiving = false;
                match result {
                    Ok(bytes) if bytes > 0 => {
                        conn.reader.received(buf, to_usize(u64::from(bytes)));
                        self.take_frames(link);
                    }
                    other => self.lost(link, &format!("{other:?}")),
                }
            }
            Op::Send { mut data, .. } => {
                conn.sending = false;
                data.clear();
                self.links.spare.push(data);
                if let Err(errno) = result {
                    self.lost(link, &errno.to_string());
                }
            }
            _ => {}
        }
    }

    fn lost(&mut self, link: LinkId, why: &str) {
        tracing::info!(link = link.0, why, "connection lost");
        self.close_link(link);
        self.core.link_disconnected(link, clock::mono());
    }

    fn receive(&mut self, link: LinkId) {
        let Some(conn) = self.links.get(link) else { return };
        if conn.receiving {
            return;
        }
        if let Some(Recv { slot: buf, range, whole: all }) = conn.reader.recv() {
            conn.receiving = true;
            let (file, generation) = (conn.file, conn.generation);
            let receive = Op::Recv { file, buf, range, all };
            self.submit(token(link, generation, Work::Receive), receive);
        }
    }

    /// Hands the frames that are there to the core, then asks for more bytes.
    fn take_frames(&mut self, link: LinkId) {
        let now = clock::mono();
        loop {
            let pool = self.pool.clone();
            let Some(conn) = self.links.get(link) else { return };
            conn.stalled = false;
            match conn.reader.next_into(&pool, |header| self.core.place(link, header)) {
                Ok(Next::Frame(frame)) => self.core.link_frame(link, frame, now),
                Ok(Next::More) => break,
                Ok(Next::NoRoom(bytes)) => {
                    conn.stalled = true;
                    // Before the next try.
                    self.core.make_room(bytes);
                    break;
                }
                Err(error) => return self.lost(link, &error.to_string()),
            }
        }
        self.receive(link);
    }

    pub(super) fn retry_stalled(&mut self) {
        for at in 0..self.links.conns.len() {
            if self.links.conns[at].as_ref().is_some_and(|conn| conn.stalled) {
                self.take_frames(LinkId(u32::try_from(at).expect("links are few")));
            }
        }
    }

    /// Starts a send on each connection that has something queued and none under way.
    pub(super) fn send_queued(&mut self) {
        for at in 0..self.links.conns.len() {
            let Some(conn) = &mut self.links.conns[at] else { continue };
            if conn.sending || !conn.connected {
                continue;
            }
            if let Some(data) = conn.queue.pop_front() {
                conn.sending = true;
                let (file, generation) = (conn.file, conn.generation);
                let link = LinkId(u32::try_from(at).expect("links are few"));
                self.submit(token(link, generation, Work::Send), Op::Send { file, data });
            }
        }
    }
}
