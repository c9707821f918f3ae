//! Open files, striping, retries and caches of one mount; no FUSE, no I/O.

pub mod config;
pub mod limits;
pub mod op;

pub use config::{ClientConfig, OnTimeout};
pub use op::{
    Caller, DataPiece, FsOp, FsReply, Handle, LinkId, OpId, OpenFlags, Opened, Output, Ttl, Whence,
};
