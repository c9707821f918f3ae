//! The sockets of a shard: accepting, receiving frames, sending replies coalesced, handing over, closing.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use weft_iobuf::SharedSlot;
use weft_net::stream::INBOX_BYTES;
use weft_net::{Frame, FrameReader, Next, Recv, local};
use weft_ring::{Completion, Errno, FileId, Op, SEND_PARTS_MAX, SendData};
use weft_server_core::{ConnId, Now};
use weft_store::ReadPiece;
use weft_wire::ShardId;
use weft_wire::limits::PAYLOAD_BYTES_MAX;
use weft_wire::units::{to_u64, to_usize};

use super::{Mail, ShardLoop, Token};
use crate::clock;

/// An idle peer is probed by TCP after this long.
const KEEPALIVE_S: Duration = Duration::from_secs(30);
/// So long a peer may take to finish a frame it began, or to read what it asked for: meanwhile it holds buffers that
/// others wait for. A client that was only slow comes back and sends again what was not answered.
const PEER_PATIENCE: Duration = Duration::from_secs(15);
/// The same for the kernel, in milliseconds: unread replies over TCP.
const PATIENCE_MS: u32 = 15_000;
const _: () = assert!(PEER_PATIENCE.as_millis() == PATIENCE_MS as u128);
/// On a unix socket the kernel knows no such patience, and does not say how far it has come with a send: a peer that
/// reads has at least so much of it each second.
const LOCAL_BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// Replies that may wait for a peer to read them before no more of its requests are taken.
const UNSENT_FRAMES_MAX: u32 = 64;
/// Zeros kept for holes: sent again and again, so that a hole takes no memory.
pub(super) const ZEROS_BYTES: usize = 1 << 20;
/// Parts a hole takes: no payload is longer than this many of them.
const ZERO_PARTS_MAX: usize = PAYLOAD_BYTES_MAX as usize / ZEROS_BYTES;
/// A buffer for small replies that grew longer than this is not kept: see `CONN_BYTES` of the memory plan.
const SPARE_BYTES_MAX: usize = 8 << 10;
const _: () = assert!((SPARE_BYTES_MAX as u64) < weft_server_core::memory::CONN_BYTES);

pub(super) struct ConnIo {
    file: FileId,
    pub(super) reader: FrameReader,
    /// What is not yet sent, each entry one send.
    queue: VecDeque<Batch>,
    /// An emptied one, kept for its memory.
    spare: Option<SendData>,
    /// Frames that end in the send under way, and their bytes without payloads; `None` when there is none.
    sending: Option<(u32, u64)>,
    /// Until when the send under way must be over, on a unix socket.
    send_ends: Option<Duration>,
    /// A unix socket: the peer is of this machine.
    is_local: bool,
    /// Frames queued and in the send under way.
    unsent: u32,
    receiving: bool,
    /// A payload waits for a slot.
    stalled: bool,
    /// Frames wait until the peer has read some replies.
    choked: bool,
    /// Since when the peer owes us the rest of a frame, or its hello.
    owing_since: Option<Duration>,
    /// Close once the queue is empty.
    closing: bool,
}

/// Frames that leave in one send.
#[derive(Default)]
struct Batch {
    data: SendData,
    frames: u32,
    /// Without payloads, whose slots the pool bounds.
    bytes: u64,
}

impl ConnIo {
    /// Bytes of replies that wait or are being sent, without payloads.
    fn unsent_bytes(&self) -> u64 {
        self.sending.map_or(0, |sending| sending.1)
            + self.queue.iter().map(|batch| batch.bytes).sum::<u64>()
    }

    /// Where to queue so many parts: what is gathered already, or a new send when that is full. A reply in many pieces
    /// (a file of holes and blocks in turn) takes several.
    fn batch(&mut self, parts: usize) -> &mut Batch {
        let full = |batch: &Batch| batch.data.part_count() + parts > SEND_PARTS_MAX;
        if self.queue.back().is_none_or(full) {
            let data = self.spare.take().unwrap_or_default();
            self.queue.push_back(Batch { data, ..Batch::default() });
        }
        self.queue.back_mut().expect("pushed when there was none")
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }
}

impl ShardLoop {
    pub(super) fn accepted(&mut self, completion: Completion) {
        if !completion.more
            && let Op::Accept { listener, .. } = completion.op
        {
            self.submit(Token::Accept, Op::Accept { listener, multishot: true });
        }
        match (completion.accepted, completion.result) {
            (Some(socket), _) => {
                if let Some(conn) = self.add_conn(socket) {
                    self.receive(conn);
                }
            }
            (None, Err(errno)) if errno != Errno::CANCELED => {
                tracing::warn!(%errno, "cannot accept a connection");
            }
            _ => {}
        }
    }

    /// Takes a connected socket in; `None` when there is no room for it, and it is closed.
    pub(super) fn add_conn(&mut self, socket: OwnedFd) -> Option<ConnId> {
        let is_local = local::is_local(&socket);
        if let Err(errno) = if is_local { local::widen(&socket) } else { tune_tcp(&socket) } {
            tracing::debug!(%errno, "socket options");
        }
        let Some(inbox) = self.pool.alloc(INBOX_BYTES) else {
            tracing::warn!("no memory for another connection: raise memory_mib");
            return None;
        };
        let file = match self.ring.register_file(socket) {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(%error, "cannot take another connection");
                return None;
            }
        };
        let conn = ConnId(self.conn_next);
        self.conn_next += 1;
        let state = ConnIo {
            file,
            reader: FrameReader::new(inbox, self.bodies.clone()),
            queue: VecDeque::new(),
            spare: None,
            sending: None,
            send_ends: None,
            is_local,
            unsent: 0,
            receiving: false,
            stalled: false,
            choked: false,
            owing_since: None,
            closing: false,
        };
        self.metrics.local_connections(is_local, 1.0);
        self.conns.insert(conn, state);
        self.core.opened(conn);
        Some(conn)
    }

    /// Asks for the next bytes of a connection, unless that is under way.
    pub(super) fn receive(&mut self, conn: ConnId) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        if state.receiving || state.closing {
            return;
        }
        match state.reader.is_owed() {
            true => drop(state.owing_since.get_or_insert_with(|| clock::now().mono)),
            false => state.owing_since = None,
        }
        if let Some(Recv { slot: buf, range, whole: all }) = state.reader.recv() {
            state.receiving = true;
            let file = state.file;
            self.submit(Token::Receive(conn), Op::Recv { file, buf, range, all });
        }
    }

    pub(super) fn received(&mut self, conn: ConnId, completion: Completion, now: Now) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let Op::Recv { buf, .. } = completion.op else { unreachable!("its token is a receive's") };
        state.receiving = false;
        match completion.result {
            Ok(bytes) if bytes > 0 => {
                state.reader.received(buf, to_usize(u64::from(bytes)));
                self.take_frames(conn, now);
            }
            Ok(_) => self.drop_conn(conn, now),
            Err(errno) => {
                tracing::debug!(conn = conn.0, %errno, "connection lost");
                self.drop_conn(conn, now);
            }
        }
    }

    /// Hands the frames that are there to the core, then asks for more bytes.
    pub(super) fn take_frames(&mut self, conn: ConnId, now: Now) {
        loop {
            let Some(state) = self.conns.get_mut(&conn) else { return };
            if state.closing {
                return;
            }
            (state.stalled, state.choked) = (false, state.unsent >= UNSENT_FRAMES_MAX);
            if state.choked {
                state.owing_since = None;
                return;
            }
            match state.reader.next(&self.pool) {
                Ok(Next::Frame(frame)) => {
                    state.owing_since = None;
                    let hello = frame.header.kind == weft_wire::Kind::Hello;
                    self.core.frame(conn, frame, now);
                    if hello {
                        // The next frame's limits depend on what the core says to this one.
                        self.carry_out();
                    }
                }
                Ok(Next::More) => break,
                Ok(Next::NoRoom(_)) => {
                    state.stalled = true;
                    state.owing_since = None;
                    return;
                }
                Err(error) => {
                    tracing::warn!(conn = conn.0, %error, "closing a connection");
                    return self.drop_conn(conn, now);
                }
            }
        }
        self.receive(conn);
    }

    pub(super) fn queue_send(&mut self, conn: ConnId, head: Vec<u8>, pieces: Vec<ReadPiece>) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        self.to_send.push(conn);
        state.unsent += 1;
        self.unsent_bytes += to_u64(head.len());
        let batch = state.batch(1);
        batch.bytes += to_u64(head.len());
        batch.data.push_bytes(&head);
        for piece in pieces {
            match piece {
                ReadPiece::Data { slot, bytes } => {
                    let data = &mut state.batch(1).data;
                    let pushed = data.push_slot(slot, 0..to_usize(u64::from(bytes)));
                    assert!(pushed.is_ok(), "the store's blocks lie within their slot");
                }
                ReadPiece::Zeros { bytes } => {
                    let data = &mut state.batch(ZERO_PARTS_MAX).data;
                    push_zeros(data, &self.zeros, to_usize(u64::from(bytes)));
                }
            }
        }
        state.batch(0).frames += 1;
    }

    /// Starts a send on each connection that has something queued and none under way.
    pub(super) fn send_queued(&mut self) {
        for conn in std::mem::take(&mut self.to_send) {
            let Some(state) = self.conns.get_mut(&conn) else { continue };
            if state.sending.is_none()
                && let Some(Batch { data, frames, bytes }) = state.queue.pop_front()
            {
                state.sending = Some((frames, bytes));
                let seconds = to_u64(data.len_bytes()) / LOCAL_BYTES_PER_SECOND_MIN;
                let patience = PEER_PATIENCE + Duration::from_secs(seconds);
                state.send_ends = state.is_local.then(|| self.turn + patience);
                let file = state.file;
                self.submit(Token::Send(conn), Op::Send { file, data });
            }
        }
    }

    pub(super) fn sent(&mut self, conn: ConnId, completion: Completion, now: Now) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let (frames, bytes) = state.sending.take().expect("a send was under way");
        state.send_ends = None;
        state.unsent -= frames;
        self.unsent_bytes -= bytes;
        if let Err(errno) = completion.result {
            tracing::debug!(conn = conn.0, %errno, "cannot send");
            return self.drop_conn(conn, now);
        }
        if let Op::Send { mut data, .. } = completion.op {
            data.clear();
            state.spare = (data.kept_bytes() <= SPARE_BYTES_MAX).then_some(data);
        }
        if !state.queue.is_empty() {
            self.to_send.push(conn);
        } else if state.closing {
            return self.close(conn);
        }
        if state.choked && state.unsent < UNSENT_FRAMES_MAX {
            self.take_frames(conn, now);
        }
    }

    /// Closes the connections whose peers began a frame and do not go on with it, or do not read what they asked for.
    pub(super) fn drop_silent(&mut self, now: Now) {
        let silent = |since: Duration| now.mono.saturating_sub(since) > PEER_PATIENCE;
        let why = |state: &ConnIo| match state.owing_since.is_some_and(silent) {
            true => Some("no hello, or half a frame and then nothing"),
            false => {
                state.send_ends.filter(|ends| *ends < now.mono).map(|_| "replies are not read")
            }
        };
        let all = self.conns.iter();
        let late = all.filter_map(|(conn, state)| why(state).map(|why| (*conn, why)));
        for (conn, why) in late.collect::<Vec<_>>() {
            tracing::warn!(conn = conn.0, why, "closing a connection");
            self.drop_conn(conn, now);
        }
    }

    pub(super) fn close_when_sent(&mut self, conn: ConnId) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.closing = true;
        if state.queue.is_empty() && state.sending.is_none() {
            self.close(conn);
        }
    }

    /// Closes a connection the peer lost or broke.
    pub(super) fn drop_conn(&mut self, conn: ConnId, now: Now) {
        if self.conns.contains_key(&conn) {
            self.core.closed(conn, now);
            self.close(conn);
        }
    }

    fn close(&mut self, conn: ConnId) {
        if let Some(state) = self.conns.remove(&conn) {
            self.unsent_bytes -= state.unsent_bytes();
            self.metrics.local_connections(state.is_local, -1.0);
            self.submit(Token::CloseConn, Op::Close { file: state.file });
        }
    }

    pub(super) fn hand_over(&mut self, conn: ConnId, shard: ShardId, hello: Frame) {
        let Some(state) = self.conns.get(&conn) else { return };
        let socket = self.ring.file(state.file).map(|fd| fd.as_fd().try_clone_to_owned());
        match socket {
            Some(Ok(socket)) => {
                let hello = (hello.header, hello.body);
                self.mail(shard, Mail::Connection { socket, hello });
            }
            Some(Err(error)) => tracing::warn!(%error, "cannot hand a connection over"),
            None => {}
        }
        // Our descriptor only: the other shard has its own.
        self.close(conn);
    }
}

/// No waiting for more to send, and an end for peers whose machine is gone or that do not read.
fn tune_tcp(socket: &OwnedFd) -> Result<(), Errno> {
    rustix::net::sockopt::set_tcp_nodelay(socket, true)?;
    rustix::net::sockopt::set_socket_keepalive(socket, true)?;
    rustix::net::sockopt::set_tcp_keepidle(socket, KEEPALIVE_S)?;
    rustix::net::sockopt::set_tcp_user_timeout(socket, PATIENCE_MS)
}

/// Appends a hole to a reply.
fn push_zeros(data: &mut SendData, zeros: &SharedSlot, mut bytes: usize) {
    while bytes > 0 {
        let part = bytes.min(ZEROS_BYTES);
        bytes -= part;
        let pushed = data.push_shared(zeros.clone(), 0..part);
        assert!(pushed.is_ok(), "the slot has that many zeros");
    }
}
