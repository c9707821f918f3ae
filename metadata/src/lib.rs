//! The namespace of one volume: a deterministic state machine over LMDB, and its log. A core: it is given requests,
//! completions and `now`, and gives back actions; of its own it touches only its database.
//!
//! Invariants:
//! - **A reply to a change means durable.** The line is [`Volume::log_done`]: the batch with the change's command is
//!   on the log device. Only then is it applied and answered; so reads, which see what is applied, never see what a
//!   crash could take back. A checkpoint moves the line into the database and begins the log anew; it is written while
//!   changes go on ([`Action::WriteCheckpoint`]), and until [`Volume::checkpoint_written`] the log has what it writes.
//! - **`apply` is deterministic.** It sees the tables and the command (with the time stamped on it when it was taken),
//!   nothing else: not the opens, not the clock. So an inode that loses its last name always becomes an orphan first;
//!   whether it can be dropped is decided here from the opens, and logged as a command of its own.
//! - **A command changes everything it changes or nothing.** Changes are staged, their pages read once, then written.
//!   A damaged record or page met on the way is that command's outcome, `Damaged`.
//! - **Exactly once.** The last outcome of each (session, slot) is part of the state: a change that comes again gets
//!   it again, also after a crash.
//! - **Never a false answer.** A change whose log write failed is neither acknowledged nor refused before a checkpoint
//!   has settled it: it is logged again, or asked again by its client after a reopen ([`Health`]).
//! - Every inode has the names its `nlink` says; every name leads to an inode; [`check`] proves it.
//!
//! Not here: permission checks (the kernel makes them, `default_permissions`), space of the targets, leases, ACLs.
//! The byte tables are in `doc/format.md`, held against this code by its tests.

mod acl;
mod apply;
mod change;
mod check;
mod ended;
mod error;
pub mod limits;
mod log;
mod name;
mod opens;
pub mod planted;
mod read;
mod record;
mod slots;
mod store;
mod volume;

#[cfg(test)]
mod tests;

pub use check::{Problem, ProblemKind, Report, check};
pub use ended::Fence;
pub use error::{Kind, MetaError};
pub use log::{LogDevice, log_bytes};
pub use name::COOKIE_MIN;
pub use record::Work;
pub use volume::{
    Action, Checkpoint, CheckpointWritten, Counters, FormatParams, Health, Incoming, OpenReport,
    Volume, VolumeParams,
};
