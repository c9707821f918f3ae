//! How requests come from the kernel and replies go back: one interface, two ways.
//!
//! [`Classic`] reads and writes /dev/fuse; [`Uring`] has queues of entries in the ring beside it. A transport owns no
//! thread and never waits: the loop gives it the completions that carry its tokens, takes what came, and calls
//! [`Transport::pump`] once per turn.

mod classic;
pub mod offer;
mod uring;

use std::ops::Range;

use rustix::io::Errno;
use weft_iobuf::BufSlot;
use weft_ring::{Completion, Ring, SendData};
use zerocopy::IntoBytes;

pub use classic::{Classic, ClassicConfig, ClassicError};
pub use uring::{DEPTH_MAX, Uring, UringConfig};

use crate::abi::input::InHeader;
use crate::reply::ReplyHead;
use crate::request::{Args, DecodeError, Request, Unique};

/// Moves requests and replies. Both implementations serve one mount.
pub trait Transport: std::fmt::Debug {
    /// INIT was answered; whether with `OVER_IO_URING`. What the kernel must have before it sends requests goes to the
    /// ring here, and what it refuses is completed by the next wait.
    fn agreed(&mut self, ring: &mut Ring, over_io_uring: bool);

    /// The way requests come, as people know it, or what the kernel said to the queues.
    ///
    /// # Errors
    /// The kernel refused queues; where all are refused, requests come the classic way.
    fn state(&self) -> Result<&'static str, Errno>;

    /// Keeps in the ring what must be there for requests to come. Once per turn of the loop, before it waits.
    fn pump(&mut self, ring: &mut Ring);

    /// Takes one completion that carries one of this transport's tokens.
    fn on_completion(&mut self, completion: Completion);

    /// What came: a request, or the end. `Nothing` when there is no more now.
    fn next(&mut self, ring: &Ring) -> Event;

    /// Whether [`Transport::next`] may have more at once: the loop must not sleep.
    fn has_more(&self) -> bool;

    /// Bytes of the slot that the last [`Transport::next`] did not get: requests wait in the kernel for it.
    fn starved_of(&self) -> Option<usize>;

    /// An empty list for the next reply's parts, with memory of an earlier one.
    fn spare(&mut self) -> SendData;

    /// Lends memory for the payload of a request's reply: what is at its right place there is not copied. The reply is
    /// held back until every part of it was dropped, but for those in the reply itself.
    fn lend(&mut self, unique: Unique) -> Option<BufSlot>;

    /// The request may wait for ever (for a lock): what it occupies is replaced. False when no more can be held.
    fn hold(&mut self, ring: &mut Ring, unique: Unique) -> bool;

    /// CPUs of which the kernel may have requests that it hands out only when there was one more. To be called after
    /// each wait.
    fn kicks(&mut self) -> Vec<u16>;

    /// Sends a reply or a notification. Never fails here: what the kernel says about it comes as an [`Event`].
    fn reply(&mut self, ring: &mut Ring, reply: Reply);
}

/// What came from the kernel.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "lives for a moment; a box would be an allocation for each request"
)]
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

/// One request, in memory of its own.
#[derive(Debug)]
pub struct Incoming {
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// As read from the device: `range` of the slot.
    Whole { slot: BufSlot, range: Range<usize> },
    /// As it was in an entry of a queue.
    Split { header: InHeader, op_in: [u64; 16], data: SplitData },
    /// Not a request.
    Broken(DecodeError),
}

/// What follows the operation's struct.
#[derive(Debug)]
enum SplitData {
    /// Names and values.
    Bytes(Vec<u8>),
    /// The data of a WRITE: so many bytes from the slot's start.
    Slot(BufSlot, usize),
}

impl Incoming {
    /// `range` of `slot` holds the request; it is within the slot.
    #[must_use]
    pub fn new(slot: BufSlot, range: Range<usize>) -> Self {
        assert!(range.start <= range.end, "a range goes forward");
        assert!(range.end <= slot.capacity_bytes(), "the request is within its slot");
        Self { content: Content::Whole { slot, range } }
    }

    fn split(header: InHeader, op_in: [u64; 16], data: SplitData) -> Self {
        Self { content: Content::Split { header, op_in, data } }
    }

    fn broken(error: DecodeError) -> Self {
        Self { content: Content::Broken(error) }
    }

    /// What it says.
    ///
    /// # Errors
    /// What is wrong with it, and whom to answer.
    pub fn decode(&self) -> Result<Request<'_>, DecodeError> {
        match &self.content {
            Content::Whole { slot, range } => Request::decode(&slot.as_slice()[range.clone()]),
            Content::Split { header, op_in, data } => {
                let payload = match data {
                    SplitData::Bytes(bytes) => bytes.as_slice(),
                    SplitData::Slot(slot, len) => &slot.as_slice()[..*len],
                };
                Request::decode_args(header, Args::Split { op_in: op_in.as_bytes(), payload })
            }
            Content::Broken(error) => Err(*error),
        }
    }

    /// The slot a WRITE's data is in, to send it on, and where in it the range of the decoded request counts from.
    /// `None` for requests without data.
    #[must_use]
    pub fn into_slot(self) -> Option<(BufSlot, usize)> {
        match self.content {
            Content::Whole { slot, range } => Some((slot, range.start)),
            Content::Split { data: SplitData::Slot(slot, _), .. } => Some((slot, 0)),
            Content::Split { .. } | Content::Broken(_) => None,
        }
    }
}

/// One reply: its head, then the payload the head was told of.
#[derive(Debug)]
pub struct Reply {
    unique: Unique,
    data: SendData,
    len_bytes: usize,
}

impl Reply {
    /// Starts a reply in `data`, which is empty (see [`Transport::spare`]).
    #[must_use]
    pub fn new(mut data: SendData, head: &ReplyHead) -> Self {
        assert!(data.is_empty(), "a reply starts in an empty list");
        data.push_bytes(head.as_bytes());
        Self { unique: head.unique(), data, len_bytes: head.reply_bytes() }
    }

    /// A notification of `crate::reply`.
    #[must_use]
    pub fn notification(mut data: SendData, message: Vec<u8>) -> Self {
        assert!(data.is_empty(), "a notification starts in an empty list");
        let len_bytes = message.len();
        data.push_vec(message);
        Self { unique: Unique(0), data, len_bytes }
    }

    /// Which request it answers; 0 in a notification.
    #[must_use]
    pub const fn unique(&self) -> Unique {
        self.unique
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
