//! What goes into a shard and what comes out.

use std::time::Duration;

use weft_net::Frame;
use weft_store::ReadPiece;
use weft_wire::meta::Time;
use weft_wire::{ChunkIndex, Ino, SessionId, ShardId, Status, TargetId};

use crate::shard::{CopiedBlocks, CopyRefusal, CopySource};

/// The two clocks, read once for each turn of the event loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Monotonic, since the start of the process: for intervals.
    pub mono: Duration,
    /// The time of day: for file times.
    pub wall: Time,
}

/// One connection of the shard, never used again after it closed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConnId(pub u64);

/// What the daemon does next, in this order.
#[derive(Debug)]
pub enum Action {
    /// Send on a connection, after what was sent before.
    Send {
        /// The connection.
        conn: ConnId,
        /// Header and body.
        head: Vec<u8>,
        /// The payload.
        pieces: Vec<ReadPiece>,
    },
    /// The hello was accepted: take frames of any length.
    OpenUp {
        /// The connection.
        conn: ConnId,
    },
    /// Send what is queued, then close. No event of the connection may come any more.
    Close {
        /// The connection.
        conn: ConnId,
    },
    /// Give the socket and the hello to another shard of this node. The connection is forgotten here.
    HandOver {
        /// The connection.
        conn: ConnId,
        /// To whom.
        shard: ShardId,
        /// Its first frame.
        hello: Frame,
    },
    /// Disk work of a target.
    Target {
        /// Which of the shard's targets, in the order of its parameters.
        index: usize,
        /// What; never a reply.
        action: weft_store::Action,
    },
    /// How long is a target's device now? To be answered with [`crate::Shard::target_length`].
    Measure {
        /// Which of the shard's targets, in the order of its parameters.
        index: usize,
        /// Comes back with the answer.
        op: u64,
    },
    /// Somebody wants the counters of this shard. To be answered with [`crate::Shard::metrics`].
    TellMetrics {
        /// Who.
        conn: ConnId,
        /// Its request.
        request: weft_wire::Header,
    },
    /// Log work or a checkpoint of the volume; never a reply.
    Volume(weft_metadata::Action),
    /// A message for another shard of this node.
    ToShard {
        /// Which.
        shard: ShardId,
        /// What.
        message: Message,
    },
    /// The shard has written everything down and may end.
    Stopped,
}

/// What shards of one node say to each other.
#[derive(Clone, Debug)]
pub enum Message {
    /// From the volume's shard: cut or remove a file's chunks on one of your targets.
    Truncate {
        /// Who asks.
        from: ShardId,
        /// The volume's name for the work.
        work: u64,
        /// The target.
        target: TargetId,
        /// The file.
        ino: Ino,
        /// First chunk to remove.
        remove_from: ChunkIndex,
        /// A chunk to shorten, and how many bytes of it stay.
        cut: Option<(ChunkIndex, u32)>,
    },
    /// The answer to `Truncate`.
    Truncated {
        /// The work.
        work: u64,
        /// The target.
        target: TargetId,
        /// How it went.
        status: Status,
        /// Blocks that went.
        freed_count: u64,
    },
    /// Read for a copy whose destination is at the sender.
    CopyRead {
        /// Who asks.
        from: ShardId,
        /// The copy.
        copy: u64,
        /// What to read.
        source: CopySource,
    },
    /// The answer to `CopyRead`.
    CopyFound {
        /// The copy.
        copy: u64,
        /// What was read.
        found: Result<CopiedBlocks, CopyRefusal>,
    },
    /// From a volume's shard: this session lost its leases. What it sent before is not carried out any more.
    Fence {
        /// Who waits for the answer.
        from: ShardId,
        /// The session.
        session: SessionId,
        /// How often it was fenced off, with this time.
        number: u32,
    },
    /// The answer to `Fence`.
    Fenced {
        /// Who answers.
        from: ShardId,
        /// The session.
        session: SessionId,
    },
    /// From the volume's shard, before anything is served: how often sessions were fenced off.
    KnownFences {
        /// Who, and how often.
        fences: Vec<(SessionId, u32)>,
    },
    /// From the volume's shard, before anything is served: nobody reads or writes this file.
    Hold {
        /// The file.
        ino: Ino,
    },
    /// The end of that, if it comes before the next start.
    LetGo {
        /// The file.
        ino: Ino,
    },
    /// To the volume's shard, now and then: how full a target is.
    Space {
        /// The target.
        target: TargetId,
        /// Bytes of its data area.
        total_bytes: u64,
        /// Bytes not given out.
        free_bytes: u64,
    },
}
