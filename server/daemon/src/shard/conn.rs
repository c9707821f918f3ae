//! The sockets of a shard: accepting, receiving frames, sending replies coalesced, handing over, closing.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use weft_net::stream::INBOX_BYTES;
use weft_net::{Frame, FrameReader, Next, Recv};
use weft_ring::{Completion, Errno, FileId, Op, SendData};
use weft_server_core::{ConnId, Now};
use weft_store::ReadPiece;
use weft_wire::ShardId;
use weft_wire::units::to_usize;

use super::{Mail, ShardLoop, Token};

/// Parts of one gathered send: below the ring's limit, with room for one more frame.
const PARTS_MAX: usize = weft_ring::SEND_PARTS_MAX - 16;
/// An idle peer is probed by TCP after this long.
const KEEPALIVE_S: std::time::Duration = std::time::Duration::from_secs(30);

pub(super) struct ConnIo {
    file: FileId,
    pub(super) reader: FrameReader,
    /// Frames not yet sent, each entry one send.
    queue: VecDeque<SendData>,
    /// An emptied one, kept for its memory.
    spare: Option<SendData>,
    sending: bool,
    receiving: bool,
    /// A payload waits for a slot.
    stalled: bool,
    /// Close once the queue is empty.
    closing: bool,
}

impl ConnIo {
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
        let tuned = rustix::net::sockopt::set_tcp_nodelay(&socket, true)
            .and_then(|()| rustix::net::sockopt::set_socket_keepalive(&socket, true))
            .and_then(|()| rustix::net::sockopt::set_tcp_keepidle(&socket, KEEPALIVE_S));
        if let Err(errno) = tuned {
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
            reader: FrameReader::new(inbox),
            queue: VecDeque::new(),
            spare: None,
            sending: false,
            receiving: false,
            stalled: false,
            closing: false,
        };
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
            state.stalled = false;
            match state.reader.next(&self.pool) {
                Ok(Next::Frame(frame)) => {
                    let hello = frame.header.kind == weft_wire::Kind::Hello;
                    self.core.frame(conn, frame, now);
                    if hello {
                        // The next frame's limits depend on what the core says to this one.
                        self.carry_out();
                    }
                }
                Ok(Next::More) => break,
                Ok(Next::NoSlot(_)) => {
                    state.stalled = true;
                    break;
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
        let full =
            state.queue.back().is_none_or(|data| data.part_count() + pieces.len() > PARTS_MAX);
        if full {
            state.queue.push_back(state.spare.take().unwrap_or_default());
        }
        let data = state.queue.back_mut().expect("pushed when there was none");
        data.push_bytes(&head);
        for piece in pieces {
            match piece {
                ReadPiece::Data { slot, bytes } => {
                    let pushed = data.push_slot(slot, 0..to_usize(u64::from(bytes)));
                    assert!(pushed.is_ok(), "the store's blocks lie within their slot");
                }
                ReadPiece::Zeros { bytes } => data.push_vec(vec![0; to_usize(u64::from(bytes))]),
            }
        }
    }

    /// Starts a send on each connection that has something queued and none under way.
    pub(super) fn send_queued(&mut self) {
        for conn in std::mem::take(&mut self.to_send) {
            let Some(state) = self.conns.get_mut(&conn) else { continue };
            if !state.sending
                && let Some(data) = state.queue.pop_front()
            {
                state.sending = true;
                let file = state.file;
                self.submit(Token::Send(conn), Op::Send { file, data });
            }
        }
    }

    pub(super) fn sent(&mut self, conn: ConnId, completion: Completion, now: Now) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.sending = false;
        if let Err(errno) = completion.result {
            tracing::debug!(conn = conn.0, %errno, "cannot send");
            return self.drop_conn(conn, now);
        }
        if let Op::Send { mut data, .. } = completion.op {
            data.clear();
            state.spare = Some(data);
        }
        if !state.queue.is_empty() {
            self.to_send.push(conn);
        } else if state.closing {
            self.close(conn);
        }
    }

    pub(super) fn close_when_sent(&mut self, conn: ConnId) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.closing = true;
        if state.queue.is_empty() && !state.sending {
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
