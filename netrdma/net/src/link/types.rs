//! What goes into a link and what comes out.

use std::ops::Range;
use std::time::Duration;

use weft_iobuf::{BufSlot, SharedSlot};
use weft_wire::lease::Recall;
use weft_wire::session::Welcome;
use weft_wire::{ClusterId, Kind, LeaseBits, SessionId, ShardId, Status};

/// What a link is told when it is made.
#[derive(Clone, Copy, Debug)]
pub struct LinkConfig {
    /// The cluster meant; all zero takes the first one met, and then stays with it.
    pub cluster: ClusterId,
    /// The client's session.
    pub session: SessionId,
    /// The shard wanted.
    pub shard: ShardId,
    /// Ask for leases: they are renewed while there is a connection.
    pub leases: bool,
    /// Silence with requests in flight (or a connection in the making) after which the connection counts as lost.
    pub reply_timeout: Duration,
}

/// What is to be asked.
#[derive(Debug)]
pub struct Request {
    /// The caller's name for it, unique among its requests on this link.
    pub tag: u64,
    /// What it is.
    pub kind: Kind,
    /// The encoded message.
    pub body: Vec<u8>,
    /// Leases wanted with the reply; not asked of a server that has none.
    pub lease: LeaseBits,
    /// Bytes of a slot that go with it.
    pub payload: Option<(SharedSlot, Range<usize>)>,
    /// When the caller loses interest: told to the server. The link itself never gives up; see [`Link::cancel`](super::Link::cancel).
    pub deadline: Option<Duration>,
}

/// What the link wants done, or has to say.
#[derive(Debug)]
pub enum LinkOutput {
    /// Connect, then call [`Link::connected`](super::Link::connected) (or
    /// [`Link::connected_locally`](super::Link::connected_locally)) or [`Link::connect_failed`](super::Link::connect_failed).
    Connect {
        /// The local way may be tried first. Not when the server by that way has just refused us.
        local: bool,
    },
    /// Send these bytes and then the payload.
    Send {
        /// Header and body.
        head: Vec<u8>,
        /// The payload.
        payload: Option<(SharedSlot, Range<usize>)>,
    },
    /// Close the connection or give the attempt up; no event of it may be told any more.
    Close,
    /// A request is answered. `status` is never `Busy` or `Unavailable`.
    Reply {
        /// Which.
        tag: u64,
        /// How it ended.
        status: Status,
        /// Leases granted.
        lease: LeaseBits,
        /// The reply's body.
        body: Vec<u8>,
        /// The reply's payload.
        payload: Option<(BufSlot, Range<usize>)>,
        /// How the request went, when a server answered it.
        trip: Option<Trip>,
    },
    /// The server wants leases back. To be answered with [`Link::returned`](super::Link::returned).
    Recall {
        /// Its number, on this connection.
        id: u64,
        /// What.
        recall: Recall,
    },
    /// The server took the hello.
    Up {
        /// What it said.
        welcome: Welcome,
        /// It is not the first time: the link is held until [`Link::resume`](super::Link::resume).
        again: bool,
        /// What it acknowledged before and was not asked to sync may be gone: its machine was started anew.
        data_lost: bool,
    },
    /// The server will never take the hello (another cluster, another version, no such shard). The link is dead:
    /// every request gets this status.
    Refused {
        /// Why.
        status: Status,
    },
}

/// A request's way to its answer.
#[derive(Debug)]
pub struct Trip {
    /// Its id on the wire: with the session it names the request at the server, too.
    pub request_id: u64,
    /// When it was given to the link.
    pub asked_at: Duration,
    /// When it was sent, the last time.
    pub sent_at: Duration,
    /// How often it was sent: more than once after `Busy` or a lost connection.
    pub send_count: u16,
    /// The request's body.
    pub body: Vec<u8>,
}

/// What [`Link::cancel`](super::Link::cancel) found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cancelled {
    /// It was never sent: the server will not hear of it.
    Unsent,
    /// It was sent: it may or may not happen.
    Sent,
    /// There is no such request: it was answered already.
    Unknown,
}
