//! What one mount does: open files, striping, write-behind, retries and replays, and the answers to the kernel.
//!
//! [`ClientCore`] takes the kernel's operations, frames and `now`, and says what to send, to connect and to reply.
//! Single-threaded; it owns no socket, no thread and no clock, and knows nothing of FUSE.
//!
//! Promises:
//! - An operation is answered once. A buffered write is answered when it is taken; its failure is an error of the
//!   next write, flush or fsync of every handle of the file.
//! - A flush means: at the servers, and seen by whoever opens the file next. An fsync means: durable. A metadata
//!   operation that was answered is durable.
//! - A server that goes away and comes back is a pause. What its targets acknowledged and had not made durable is written
//!   again, also of files that were closed; where memory did not allow to keep it, the file gets EIO.
//! - What is answered without asking is under a lease: other mounts' changes wait until it is given back (`leases.rs`).

mod allocate;
mod behind;
mod cache;
mod closed;
mod cluster;
pub mod config;
mod copy;
mod core;
mod file;
mod inline;
pub mod keep;
mod kernel;
mod leases;
pub mod limits;
mod locks;
mod meta;
pub mod op;
mod open;
pub mod planted;
mod read;
mod releases;
mod saving;
mod seek;
mod settle;
mod spans;
mod state;
mod strip;
mod takeover;
mod versions;
mod volume;
mod write;
mod writes;

#[cfg(test)]
mod tests;

pub use crate::core::ClientCore;
pub use config::{ClientConfig, OnTimeout};
pub use keep::records;
pub use keep::{Keep, KeepMemory};
pub use locks::LockAsked;
pub use op::{
    Caller, DataPiece, FsOp, FsReply, Handle, LinkId, OpId, OpenFlags, Opened, Output, Strips, Ttl,
    Whence,
};
