//! What travels between a Weft client and a Weft server, and between two servers: ids, units, the 64-byte
//! frame header, the messages, stripe arithmetic, the one table from status to errno, and every limit both
//! ends must agree on.
//!
//! Invariants:
//! - Everything is little-endian and free of padding; reserved bytes are zero and checked.
//! - A header is looked at after its checksum; a body is looked at after its checksum; a payload is covered by
//!   one CRC32C for each 4 KiB block, which the sender of a write computed and nobody recomputes on the way.
//! - Decoding any bytes whatever gives a value or a [`WireError`]; it never panics and never allocates more than
//!   the bytes it was given justify.
//!
//! Not here: sockets, clocks, retries (`weft-net`), what a message does (`weft-server-core`).
//! The byte tables are in `doc/format.md`, held against this code by `tests/wire/format.rs`.

pub mod blocks;
pub mod buckets;
pub mod codec;
pub mod data;
pub mod header;
pub mod ids;
pub mod layout;
pub mod lease;
pub mod limits;
pub mod locks;
pub mod meta;
pub mod planted;
pub mod scrub;
pub mod session;
pub mod status;
pub mod trace;
pub mod units;

pub use codec::WireError;
pub use header::{Header, Kind};
pub use ids::{ChunkId, ChunkIndex, ClusterId, Ino, SessionId, ShardId, TargetId, VolumeId};
pub use layout::{ChunkPiece, Layout};
pub use lease::{LeaseBits, LeaseMode};
pub use status::Status;
