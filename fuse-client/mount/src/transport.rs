//! How requests come from the kernel and replies go back: one interface, two ways.
//!
//! [`Classic`] reads and writes /dev/fuse. FUSE over io_uring will be the other. A transport owns no thread and never
//! waits: the loop gives it the completions that carry its token, takes what came, and calls [`Transport::pump`] once
//! per turn.

mod classic;

use std::ops::Range;

use rustix::io::Errno;
use weft_iobuf::BufSlot;
use weft_ring::{Completion, Ring, SendData};

pub use classic::{Classic, ClassicConfig, ClassicError};

use crate::reply::ReplyHead;
use crate::request::{DecodeError, Request};

/// Moves requests and replies. Both implementations serve one mount.
pub trait Transport {
    /// Keeps in the ring what must be there for requests to come. Once per turn of the loop, before it waits.
    fn pump(&mut self, ring: &mut Ring);

    /// Takes one completion that carries this transport's token.
    fn on_completion(&mut self, completion: Completion);

    /// What came: a request, or the end. `Nothing` when there is no more now.
    fn next(&mut self, ring: &Ring) -> Event;

    /// Whether [`Transport::next`] may have more at once: the loop must not sleep.
    fn has_more(&self) -> bool;

    /// An empty list for the next reply's parts, with memory of an earlier one.
    fn spare(&mut self) -> SendData;

    /// Sends a reply or a notification. Never fails here: what the kernel says about it comes as an [`Event`].
    fn reply(&mut self, ring: &Ring, reply: Reply);
}

/// What came from the kernel.
#[derive(Debug)]
pub enum Event {
    /// A request.
    Request(Incoming),
    /// Nothing now.
    Nothing,
    /// The file system was unmounted; no request will come.
    Unmounted,
    /// The kernel refused a reply as malformed, so its caller still waits: a bug to be logged.
    ReplyRefused(Errno),
    /// The device does not work any more.
    Failed(Errno),
}

/// One request in the slot it was read into.
#[derive(Debug)]
pub struct Incoming {
    slot: BufSlot,
    range: Range<usize>,
}

impl Incoming {
    /// `range` of `slot` holds the request; it is within the slot.
    #[must_use]
    pub fn new(slot: BufSlot, range: Range<usize>) -> Self {
        assert!(range.start <= range.end, "a range goes forward");
        assert!(range.end <= slot.capacity_bytes(), "the request is within its slot");
        Self { slot, range }
    }

    /// The request's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.slot.as_slice()[self.range.clone()]
    }

    /// What it says.
    ///
    /// # Errors
    /// What is wrong with it, and whom to answer.
    pub fn decode(&self) -> Result<Request<'_>, DecodeError> {
        Request::decode(self.bytes())
    }

    /// The slot, to send a WRITE's data on, and where in it the request's first byte is.
    #[must_use]
    pub fn into_slot(self) -> (BufSlot, usize) {
        (self.slot, self.range.start)
    }
}

/// One reply: its head, then the payload the head was told of.
#[derive(Debug)]
pub struct Reply {
    data: SendData,
    len_bytes: usize,
}

impl Reply {
    /// Starts a reply in `data`, which is empty (see [`Transport::spare`]).
    #[must_use]
    pub fn new(mut data: SendData, head: &ReplyHead) -> Self {
        assert!(data.is_empty(), "a reply starts in an empty list");
        data.push_bytes(head.as_bytes());
        Self { data, len_bytes: head.reply_bytes() }
    }

    /// A notification of `crate::reply`.
    #[must_use]
    pub fn notification(mut data: SendData, message: Vec<u8>) -> Self {
        assert!(data.is_empty(), "a notification starts in an empty list");
        let len_bytes = message.len();
        data.push_vec(message);
        Self { data, len_bytes }
    }

    /// Where the payload goes: push it, in order.
    pub const fn payload(&mut self) -> &mut SendData {
        &mut self.data
    }

    /// All parts, head first.
    #[must_use]
    pub fn into_parts(self) -> SendData {
        // The kernel would refuse it and the caller would wait for ever.
        assert_eq!(self.data.len_bytes(), self.len_bytes, "a reply is as long as its head says");
        self.data
    }
}
