//! One target's device: what its store wants done, done on a ring.
//!
//! # Problem
//! The store decides and does no I/O. The server, the benchmark and tools that work on a target
//! without a server need the same hands: had each its own, figures and promises of one would say
//! nothing about the others.
//!
//! # Shape
//! [`Targets`] turns an action into an operation of the caller's ring (or into one of its own
//! polled ring, see [`Options`]), or does it at once, and turns completions back into the store's
//! words. What a checkpoint writes to the index goes to a thread of its own ([`Writer`]). [`Runner`] is a store with a ring and a loop around it, for callers that have neither.
//! [`BlockingDevice`] is for opening and inspecting, [`format()`] for making.
//!
//! # Invariants
//! - Data goes past the page cache, the journal through it, written or stored into a map (`tail`): one
//!   fdatasync of the buffered descriptor makes all durable, whichever way the data went.
//! - What the device does not offer is not used; asked for, it is a sentence in
//!   [`Opened::notes`], not a failure.
//!
//! # What it does not do
//! It owns no clock, no thread but the one that writes indices ([`WriterThread`]), and decides nothing about data.

mod device;
mod error;
mod format;
mod nvme;
mod open;
mod polled;
mod runner;
mod tail;
mod targets;
mod writer;

pub use device::{BlockingDevice, can_discard, open_device};
pub use error::{Kind, TargetError};
pub use format::format;
pub use open::{DataPath, Opened, Options, Wish, needs_wide_ring};
pub use runner::{Reply, Runner, RunnerParams};
pub use targets::{IndexThread, Step, Targets};
pub use writer::{Writer, WriterThread};

#[cfg(test)]
mod tests;
