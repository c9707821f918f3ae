//! What a node does with a frame, a disk completion, a message of another shard or a tick; a core without I/O.
//!
//! A [`Shard`] joins what never sees each other: the chunk stores of its targets, perhaps a metadata volume, and the
//! connections of clients. It takes events and returns [`Action`]s; the daemon owns sockets, devices, rings and
//! clocks, and a simulator can stand in its place.
//!
//! Invariants:
//! - A request is answered once, on the connection it came by, or not at all when that connection is gone: the
//!   client replays it on the next one.
//! - A session has one connection to a shard. A new one closes the old one before its first request is looked at, so
//!   nothing of the old one can overtake what the client sends on the new one.
//! - What a client caches, it holds a lease on: a change waits until others gave theirs back, or are fenced off
//!   (`shard/leases.rs`, `doc/leases.md`).
//! - Memory is dealt out once ([`memory::MemoryPlan`]); at a bound the answer is `Busy`.
//! - A copy between two of the node's targets writes nothing once its connection is gone, and no byte whose checksum was
//!   wrong (`shard/copy.rs`).
//! - A target that could not be opened is offline: what is asked of it fails with EIO, new files are not put on it, and
//!   no file that is on it is cut. One that was being cut when the server went down is held: all of its data fails
//!   (`shard/works.rs`).
//! - A file that dies or is cut short in the namespace is so on its targets before the volume forgets the work
//!   (`shard/works.rs`).

mod action;
pub mod config;
mod leases;
mod locks;
pub mod memory;
pub mod metrics;
pub mod planted;
mod shard;
pub mod trace;

pub use action::{Action, ConnId, Message, Now};
pub use shard::{
    CopiedBlocks, CopyRefusal, CopySource, OfflineTarget, ScrubSchedule, Shard, ShardParams,
    TargetParams,
};
