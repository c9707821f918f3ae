//! Connections between clients and shards: bytes on their way, late, cut off in the midst of a frame, half closed.

use std::collections::{BTreeMap, VecDeque};

use weft_client_core::LinkId;
use weft_iobuf::Pool;
use weft_net::{Frame, FrameReader, Next};

/// A connection; the same number at both ends, never used again.
pub(super) type ConnKey = u64;

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Way {
    ToServer,
    ToClient,
}

/// Bytes of one direction.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    pub(super) bytes: VecDeque<u8>,
    /// A delivery is due.
    pub(super) scheduled: bool,
    /// Nothing more is taken; when the bytes are out, the receiver is told of the end.
    pub(super) ends: bool,
    /// The receiver was told, or does not want to know.
    pub(super) over: bool,
    /// The receiver's end; `None` when it is gone.
    pub(super) reader: Option<FrameReader>,
}

/// What a delivery came to.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    pub(super) frames: Vec<Frame>,
    /// A payload waits for memory.
    pub(super) stalled: bool,
    /// The bytes are no frames.
    pub(super) broken: Option<String>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) client: usize,
    pub(super) link: LinkId,
    pub(super) shard: usize,
    pub(super) to_server: Pipe,
    pub(super) to_client: Pipe,
}

impl Conn {
    pub(super) fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::ToServer => &mut self.to_server,
            Way::ToClient => &mut self.to_client,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.to_server.over && self.to_client.over
    }
}

/// All connections.
pub(super) type Conns = BTreeMap<ConnKey, Conn>;

impl Pipe {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if !self.ends && !self.over {
            self.bytes.extend(bytes);
        }
    }

    /// Hands up to `count` bytes to the reader, which may make frames of them.
    pub(super) fn deliver(&mut self, count: usize, pool: &Pool) -> Delivered {
        let mut delivered = Delivered::default();
        let Some(reader) = &mut self.reader else {
            self.bytes.clear();
            return delivered;
        };
        let mut left = count.min(self.bytes.len());
        loop {
            match reader.next(pool) {
                Ok(Next::Frame(frame)) => {
                    let first = !reader_is_open(&frame);
                    delivered.frames.push(frame);
                    if first {
                        // What may follow a hello is decided by the answer to it.
                        return delivered;
                    }
                    continue;
                }
                Ok(Next::More) => {}
                Ok(Next::NoRoom(_)) => {
                    delivered.stalled = true;
                    return delivered;
                }
                Err(error) => {
                    delivered.broken = Some(error.to_string());
                    return delivered;
                }
            }
            if left == 0 {
                return delivered;
            }
            let Some(mut recv) = reader.recv() else { return delivered };
            let taken = left.min(recv.range.len());
            let into = &mut recv.slot.as_mut_slice()[recv.range.clone()][..taken];
            for (to, from) in into.iter_mut().zip(self.bytes.drain(..taken)) {
                *to = from;
            }
            reader.received(recv.slot, taken);
            left -= taken;
        }
    }
}

/// Whether the reader may take what follows this frame.
fn reader_is_open(frame: &Frame) -> bool {
    frame.header.kind != weft_wire::Kind::Hello
}
