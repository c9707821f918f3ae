//! io_uring: owned operations in, completions out; the event loop of a shard and of the client.
//!
//! # Problem
//! The kernel reads and writes buffers long after the call that named them. A design that borrows
//! buffers, or that lets a waiter be dropped, has to prove every path; one that moves them does
//! not.
//!
//! # Shape
//! [`Ring::submit`] moves an [`Op`] with everything it needs into a table; the only ways back are
//! the [`Completion`] of that operation or a [`Rejected`] before it started. Nothing reaches the
//! kernel until [`Ring::wait`], so a batch costs one system call. Short transfers are continued
//! here: a completion means all of it, an error, or the end of the file.
//! [`Mailbox`] and [`Sender`] carry messages between shards and wake a sleeping ring.
//!
//! # Invariants
//! - Memory the kernel may touch is owned by the table until its completion is taken; a ring that
//!   is dropped and cannot get it back leaks it.
//! - An entry's address is fixed while it is in flight: the table never grows.
//! - One thread makes and uses a ring: `Ring` is not `Send` (SINGLE_ISSUER relies on it).
//!
//! # What it does not do
//! No protocol, no retry policy, no time-outs of operations (cancel them), no fairness: the caller
//! bounds what it submits. Descriptors should be in blocking mode; with O_NONBLOCK set the kernel
//! answers EAGAIN instead of waiting.
//!
//! `doc/loop.md` says why the loop is like this, with numbers.
#![allow(
    unsafe_code,
    reason = "owns the submission queue: here buffers are handed to the kernel and taken back"
)]

mod awake;
mod clock;
mod config;
mod crowd;
mod error;
mod files;
mod host;
mod limits;
mod mailbox;
mod nvme;
mod op;
mod queue;
mod ring;
mod send_data;
mod spin;
mod sqe;
mod table;
mod transfer;

pub use awake::idle_poll_pays;
pub use config::{Registration, RingConfig, Stats};
pub use error::{Kind, RingError};
pub use host::{KernelSupport, count_cores, pin_to_core, probe, run_soon};
pub use limits::{FILES_MAX, OPS_MAX, SEND_PARTS_MAX, SPIN_US_MAX, SQ_ENTRIES_MAX};
pub use mailbox::{Bell, Mailbox, SendError, Sender, mailbox};
pub use nvme::Namespace;
pub use op::{COMMAND_BYTES, Command, Completion, FileId, Op, OpId, Reject, Rejected};
pub use ring::Ring;
pub use rustix::event::PollFlags;
pub use rustix::fs::FallocateFlags;
pub use rustix::io::Errno;
pub use rustix::net::Shutdown;
pub use send_data::SendData;
