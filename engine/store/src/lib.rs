//! The chunk store of one target: a core without I/O.
//!
//! A target is a block device or a preallocated file. The store says what to read, write and flush
//! ([`Action`]) and is told when that is done ([`Store::io_done`]); it owns no file, thread or
//! clock. It blocks on reads of its index (LMDB), not on writes.
//!
//! # Where things are
//! - **Data**: 4 KiB blocks, written once where they stay, O_DIRECT.
//! - **Index** ([`index`](../doc/index.md)): chunk -> places and checksums, as of the last checkpoint.
//! - **Journal**: what changed since, on the device, through the page cache.
//! - **Free blocks**: a bitmap in memory; the index has it as of its last commit (`space_rows.rs`).
//!
//! # Where things become safe
//! - A write is acknowledged in `store/checkpoint.rs::append_done`: its data is on the device and
//!   its record in the page cache, so it survives the death of the process (`kill -9`).
//! - It is durable, and a sync is acknowledged, in `store/checkpoint.rs::flush_done`: one fdatasync
//!   made data and journal durable together.
//! - It is in the index in `store/checkpoint.rs::checkpoint_written`, always after that flush. The commit is written by
//!   another thread ([`Action::WriteCheckpoint`]); until its end the journal has what it writes.
//!
//! # Invariants
//! - A block belongs to at most one chunk; a block given up is given out again only after the
//!   record that gave it up is durable.
//! - Bytes leave a read only after their block's CRC32C matched.
//! - A block is written (a place and a checksum) or never was (neither): a hole is a record, and a
//!   loss is an error.
//! - A written block is overwritten where it is only when all of it is replaced, when the device
//!   itself says that it was durable, and after an intent for its chunk is durable. Other blocks
//!   move, so that a crash leaves the bytes beside the written ones, or the version before, as they
//!   were.
//! - Operations whose blocks overlap run in order of arrival, unless all only read.
//! - After a failed append, flush or commit nothing changes any more and nothing more is
//!   acknowledged: the target is read-only until it is opened again.
//! - A scrub (`store/scrub.rs`) reads every written block now and then; what is known to be damaged
//!   (`damage.rs`) is listed across restarts.
//! - A block under discard is not given out until the device is done with it (`discard.rs`).
//! - Memory is bounded by the cache, the operations the caller lets in, and the journal's length: when the next checkpoint
//!   is due and the one before is not over, operations that change something wait.
//!
//! # What it does not do
//! It repairs nothing but a superblock; it does not notice that a device gave back an older,
//! valid version of its index pages. Byte tables: `doc/format.md`.

mod action;
mod cache;
mod check;
mod chunk;
mod counters;
mod damage;
mod discard;
mod error;
mod flush_note;
#[cfg(test)]
mod format_tests;
mod index;
mod journal;
mod limits;
mod locks;
mod map;
pub mod planted;
mod recent;
mod record;
mod recover;
mod replay;
mod singles;
mod space;
mod space_rows;
mod store;
mod superblock;

pub use action::{
    Action, Checkpoint, CheckpointWritten, IoDone, IoError, IoId, Outcome, ReadPiece,
};
pub use check::{CheckReport, Problem, check};
pub use counters::{Counters, Space};
pub use damage::ScrubStatus;
pub use error::{Kind, StoreError};
pub use limits::CAPACITY_BYTES_MIN;
pub use recover::RecoveryReport;
pub use space::free_map_bytes;
pub use store::{OpenParams, Store};
pub use superblock::{
    Areas, Copies, Device, FORMAT_VERSION, FormatParams, FormatPlan, MAGIC, Superblock, TargetUuid,
    format_plan, inspect, inspect_copies,
};
