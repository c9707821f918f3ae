//! Frames out of a byte stream.
//!
//! Small frames are received many at a time into an inbox and copied out; the payload of a large one is received
//! straight into the pool slot in which it will go to the device or to the kernel (measured: FACTS.md, "Ring").
//! The payload of a write is placed so that full blocks are block-aligned in memory, as O_DIRECT wants them.
//!
//! The reader does no I/O: [`FrameReader::recv`] says where the next bytes go, [`FrameReader::received`] takes
//! them back, [`FrameReader::next`] gives frames. Memory: the inbox, one body of at most `body_bytes_max` taken from a
//! [`Budget`] that connections share, and one payload slot. It never trusts a length before the header's checksum agreed.

use std::ops::Range;

use weft_iobuf::{BufSlot, Pool};
use weft_wire::blocks::BLOCK_LEN;
use weft_wire::codec::{Reader, WireError, WireErrorKind};
use weft_wire::header::{HEADER_BYTES, Header, Kind};
use weft_wire::limits::{BODY_BYTES_MAX, PAYLOAD_BYTES_MAX};
use weft_wire::units::to_usize;

use crate::budget::{Budget, Hold};

/// Inbox of a connection, in bytes: a few dozen small requests at a time.
pub const INBOX_BYTES: usize = 32 << 10;
/// From this many missing bytes on, a payload is received straight into its slot.
const DIRECT_BYTES_MIN: usize = 8 << 10;
/// What a peer may send before its hello was accepted.
const HELLO_BODY_BYTES_MAX: u32 = 4 << 10;

const _: () = assert!(INBOX_BYTES > HEADER_BYTES && DIRECT_BYTES_MIN < INBOX_BYTES);

/// One whole frame. Its header and body checksums agreed; the payload's are the receiver's to check.
#[derive(Debug)]
pub struct Frame {
    /// The header.
    pub header: Header,
    /// The body.
    pub body: Vec<u8>,
    /// The payload and where in the slot it lies; `None` when it has no bytes.
    pub payload: Option<(BufSlot, Range<usize>)>,
}

/// What [`FrameReader::next`] found.
#[derive(Debug)]
pub enum Next {
    /// A frame.
    Frame(Frame),
    /// More bytes are needed first.
    More,
    /// The frame needs this many bytes, and the pool has no such slot for its payload, or the budget not enough for
    /// its body: go on when some were given back.
    NoRoom(usize),
}

/// A receive to be made.
#[derive(Debug)]
pub struct Recv {
    /// Where to.
    pub slot: BufSlot,
    /// Which part of it.
    pub range: Range<usize>,
    /// All of the range is needed before anything can be done: wait for it in one operation.
    pub whole: bool,
}

#[derive(Debug)]
struct Partial {
    header: Header,
    body: Vec<u8>,
    /// For the body, until the frame is whole.
    _hold: Hold,
    /// The slot (absent while it is out for a receive), where the payload begins, and how far it got.
    payload: Option<BufSlot>,
    start: usize,
    filled: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Out {
    Nothing,
    Inbox,
    Payload,
}

/// Cuts a connection's incoming bytes into frames.
#[derive(Debug)]
pub struct FrameReader {
    inbox: Option<BufSlot>,
    /// Bytes of the inbox that were received and not yet taken.
    unread: Range<usize>,
    partial: Option<Partial>,
    out: Out,
    bodies: Budget,
    body_bytes_max: u32,
    payload_bytes_max: u32,
}

impl FrameReader {
    /// A reader for a new connection, which takes a hello and nothing larger until [`FrameReader::open_up`]. `bodies`
    /// must be at least [`BODY_BYTES_MAX`] in all.
    pub fn new(inbox: BufSlot, bodies: Budget) -> FrameReader {
        FrameReader {
            inbox: Some(inbox),
            unread: 0..0,
            partial: None,
            out: Out::Nothing,
            bodies,
            body_bytes_max: HELLO_BODY_BYTES_MAX,
            payload_bytes_max: 0,
        }
    }

    /// The hello was accepted: frames of full length from here on.
    pub fn open_up(&mut self) {
        self.body_bytes_max = BODY_BYTES_MAX;
        self.payload_bytes_max = PAYLOAD_BYTES_MAX;
    }

    /// The peer owes the rest of something: of a frame, or its hello.
    pub fn is_owed(&self) -> bool {
        self.partial.is_some() || !self.unread.is_empty() || self.payload_bytes_max == 0
    }

    /// Where the next bytes of the stream go. `None` while a slot is out, or when [`FrameReader::next`] must be
    /// called first because bytes wait to be taken.
    pub fn recv(&mut self) -> Option<Recv> {
        if self.out != Out::Nothing {
            return None;
        }
        if let Some(partial) = &mut self.partial
            && self.unread.is_empty()
            && partial.missing_bytes() >= DIRECT_BYTES_MIN
            && let Some(slot) = partial.payload.take()
        {
            self.out = Out::Payload;
            let range = partial.start + partial.filled..partial.end();
            return Some(Recv { slot, range, whole: true });
        }
        let inbox = self.inbox.as_mut()?;
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.unread.start > 0 {
            inbox.as_mut_slice().copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        let free = self.unread.end..inbox.capacity_bytes();
        if free.is_empty() {
            return None;
        }
        self.out = Out::Inbox;
        self.inbox.take().map(|slot| Recv { slot, range: free, whole: false })
    }

    /// The slot of [`FrameReader::recv`] comes back with `bytes` more of the stream in it (0 after a failure).
    ///
    /// # Panics
    /// If none was out, or more bytes are claimed than there was room for: a bug of the caller.
    pub fn received(&mut self, slot: BufSlot, bytes: usize) {
        match std::mem::replace(&mut self.out, Out::Nothing) {
            Out::Nothing => panic!("a slot came back that was not out"),
            Out::Inbox => {
                self.unread.end += bytes;
                assert!(self.unread.end <= slot.capacity_bytes(), "received beyond the inbox");
                self.inbox = Some(slot);
            }
            Out::Payload => {
                let partial = self.partial.as_mut().expect("a payload is out only for a partial");
                partial.filled += bytes;
                assert!(partial.missing_bytes() <= to_usize(u64::from(PAYLOAD_BYTES_MAX)));
                partial.payload = Some(slot);
            }
        }
    }

    /// The next whole frame, if its bytes are there. Call until it gives no frame, then receive more.
    ///
    /// # Errors
    /// The bytes are not a frame, or one over the limits: the connection cannot go on.
    pub fn next(&mut self, pool: &Pool) -> Result<Next, WireError> {
        self.next_into(pool, |_| None)
    }

    /// As [`FrameReader::next`], where a payload that somebody waits for has a place already: `place` is asked once, before
    /// any of its bytes are taken. A place that is too short is dropped.
    ///
    /// # Errors
    /// As [`FrameReader::next`].
    pub fn next_into(
        &mut self,
        pool: &Pool,
        place: impl FnOnce(&Header) -> Option<BufSlot>,
    ) -> Result<Next, WireError> {
        if self.partial.is_none()
            && let Some(next) = self.take_header()?
        {
            return Ok(next);
        }
        if !self.take_body()? {
            return Ok(Next::More);
        }
        if let Some(bytes) = self.place_payload(pool, place)? {
            return Ok(Next::NoRoom(bytes));
        }
        if !self.take_payload() {
            return Ok(Next::More);
        }
        let partial = self.partial.take().expect("every step above left it there");
        let range = partial.start..partial.end();
        let payload = partial.payload.map(|slot| (slot, range));
        Ok(Next::Frame(Frame { header: partial.header, body: partial.body, payload }))
    }

    /// Begins a frame; what is in the way when it cannot.
    fn take_header(&mut self) -> Result<Option<Next>, WireError> {
        let Some(inbox) = &self.inbox else { return Ok(Some(Next::More)) };
        let bytes = &inbox.as_slice()[self.unread.clone()];
        if bytes.len() < HEADER_BYTES {
            return Ok(Some(Next::More));
        }
        let header = Header::decode(bytes)?;
        if header.body_bytes > self.body_bytes_max || header.payload_bytes > self.payload_bytes_max
        {
            return Err(WireError::new(WireErrorKind::TooLong, "frame before its hello"));
        }
        let body_bytes = to_usize(u64::from(header.body_bytes));
        let Some(hold) = self.bodies.take(u64::from(header.body_bytes)) else {
            return Ok(Some(Next::NoRoom(body_bytes)));
        };
        self.unread.start += HEADER_BYTES;
        let body = Vec::with_capacity(body_bytes);
        let partial = Partial { header, body, _hold: hold, payload: None, start: 0, filled: 0 };
        self.partial = Some(partial);
        Ok(None)
    }

    /// Moves body bytes over; true when the body is whole and agreed with its checksum.
    fn take_body(&mut self) -> Result<bool, WireError> {
        let partial = self.partial.as_mut().expect("called with a partial frame");
        let missing = to_usize(u64::from(partial.header.body_bytes)) - partial.body.len();
        if missing == 0 {
            // Checked when the last byte came, or the body is empty and this is its check.
            return match partial.body.is_empty() {
                true => partial.header.check_body(&partial.body).map(|()| true),
                false => Ok(true),
            };
        }
        let Some(inbox) = &self.inbox else { return Ok(false) };
        let taken = missing.min(self.unread.len());
        let from = self.unread.start;
        partial.body.extend_from_slice(&inbox.as_slice()[from..from + taken]);
        self.unread.start += taken;
        if taken < missing {
            return Ok(false);
        }
        partial.header.check_body(&partial.body)?;
        Ok(true)
    }

    /// Gives the payload a slot; `Some(bytes)` when the pool has none that long.
    fn place_payload(
        &mut self,
        pool: &Pool,
        place: impl FnOnce(&Header) -> Option<BufSlot>,
    ) -> Result<Option<usize>, WireError> {
        let partial = self.partial.as_mut().expect("called with a partial frame");
        let bytes = partial.payload_bytes();
        if bytes == 0 || partial.payload.is_some() || self.out == Out::Payload {
            return Ok(None);
        }
        partial.start = payload_start(&partial.header, &partial.body)?;
        let wanted = partial.start + bytes;
        if wanted.next_power_of_two() > pool.class_bytes_max() {
            return Err(WireError::new(WireErrorKind::TooLong, "payload for this server's memory"));
        }
        let placed = place(&partial.header).filter(|slot| slot.capacity_bytes() >= wanted);
        partial.payload = placed.or_else(|| pool.alloc(wanted));
        Ok(partial.payload.is_none().then_some(wanted))
    }

    /// Moves payload bytes over; true when the payload is whole.
    fn take_payload(&mut self) -> bool {
        let partial = self.partial.as_mut().expect("called with a partial frame");
        let missing = partial.missing_bytes();
        if missing == 0 {
            return self.out != Out::Payload;
        }
        let (Some(inbox), Some(slot)) = (&self.inbox, &mut partial.payload) else { return false };
        let taken = missing.min(self.unread.len());
        let (from, at) = (self.unread.start, partial.start + partial.filled);
        slot.as_mut_slice()[at..at + taken].copy_from_slice(&inbox.as_slice()[from..from + taken]);
        self.unread.start += taken;
        partial.filled += taken;
        taken == missing
    }
}

impl Partial {
    fn payload_bytes(&self) -> usize {
        to_usize(u64::from(self.header.payload_bytes))
    }

    fn end(&self) -> usize {
        self.start + self.payload_bytes()
    }

    fn missing_bytes(&self) -> usize {
        self.payload_bytes() - self.filled
    }
}

/// Where in its slot a payload begins: a write's at the offset its first byte has in its block.
fn payload_start(header: &Header, body: &[u8]) -> Result<usize, WireError> {
    if header.kind != Kind::Write || header.reply {
        return Ok(0);
    }
    // target u16, inode u64, chunk index u64, then the offset in the chunk: see `wire::data`.
    let mut from = Reader::new(body, "write request");
    from.raw(2 + 8 + 8)?;
    Ok(to_usize(u64::from(from.u32()?)) % BLOCK_LEN)
}

#[cfg(test)]
mod tests;
