//! LMDB whose pages are checked: a damaged page is an error, never an answer.
//!
//! Purpose: the ordered, crash-safe table store under the chunk index and the namespace. LMDB maps
//! its file and trusts it; this crate compiles LMDB with each page and meta page checked whenever
//! it is read from the map (`doc/checksums.md` says how and why).
//!
//! Invariants:
//! - A flipped bit, a misdirected page, a truncated or foreign file gives [`Kind::Damaged`], at
//!   open or at the read that meets it. No crash, and no other answer than the one committed.
//! - When [`WriteTxn::commit`] returns, the changes are on disk. After a crash at any instant the
//!   file holds the last commit that returned, or the one that was under way.
//! - A commit may be written apart ([`WriteTxn::commit_apart`]), by any thread, while the next transaction goes on: the
//!   same holds from [`WriteTxn::written`] on (`doc/apart.md`).
//! - One opener: a second one gets [`Kind::Busy`].
//!
//! It does not notice a write the disk acknowledged and dropped, where the page's older content
//! (a valid page of the same number) is still there; and it never repairs.
//!
//! Single-threaded by type: [`Env`] and the transactions are neither `Send` nor `Sync`; a [`Commit`] is `Send`.

#![allow(unsafe_code, reason = "this crate owns the boundary to LMDB's C code")]

mod commit;
mod env;
mod error;
mod ffi;
mod header;
mod room;
mod sigbus;
mod sum;
mod txn;

pub use commit::{Commit, Written};
pub use env::{Env, OpenOptions, Table};
pub use error::{Error, Kind};
pub use txn::{Entry, ReadTxn, Reader, View, Visit, WriteTxn};

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 511;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 30;
/// A page: what is read, checked and written at a time. Part of the format.
pub const PAGE_BYTES: u32 = 4096;
/// Snapshots open at one time.
const READERS_MAX: u32 = 510;
