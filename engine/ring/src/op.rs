//! What goes into the ring and what comes out.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::net::Shutdown;
use weft_iobuf::{BufSlot, SharedSlot};

use crate::send_data::SendData;

/// A registered file. Stale after the file is closed: a later file never answers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// An operation in flight. Stale after its completion: cancelling it then does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// One operation with all it owns. It comes back in its [`Completion`], or in [`Rejected`].
///
/// Transfers are continued until whole unless the variant says otherwise. An error after a part of
/// a transfer is reported as the error: how much of it happened is then unknown.
#[derive(Debug)]
pub enum Op {
    /// Accept a connection; the socket is [`Completion::accepted`].
    Accept {
        /// A listening socket.
        listener: FileId,
        /// Accept until an error or a cancellation: completions with `more` set.
        multishot: bool,
    },
    /// Connect a socket.
    Connect {
        /// An unconnected socket of the address's family.
        file: FileId,
        /// The peer.
        addr: SocketAddr,
    },
    /// Receive into a slot. Result: bytes received, 0 at the end of the stream.
    Recv {
        /// A stream socket.
        file: FileId,
        /// Where to.
        buf: BufSlot,
        /// Which part of the slot.
        range: Range<usize>,
        /// Complete only when the range is full (or with less at the end of the stream); otherwise
        /// with whatever comes first.
        all: bool,
    },
    /// Receive what comes first, appended to `buf`: at most its spare capacity, which must not be
    /// zero. Result: bytes appended, 0 at the end of the stream.
    RecvVec {
        /// A stream socket.
        file: FileId,
        /// A small buffer; what it holds already stays.
        buf: Vec<u8>,
    },
    /// Send all parts, in order. Result: all bytes.
    Send {
        /// A stream socket.
        file: FileId,
        /// What to send.
        data: SendData,
    },
    /// Read at an offset. Result: bytes read, less than the range only at the end of the file.
    Read {
        /// A seekable file or device.
        file: FileId,
        /// Where in the file, in bytes.
        offset: u64,
        /// Where to.
        buf: BufSlot,
        /// Which part of the slot.
        range: Range<usize>,
    },
    /// Write at an offset. Result: all bytes.
    Write {
        /// A seekable file or device.
        file: FileId,
        /// Where in the file, in bytes.
        offset: u64,
        /// Where from: a share, so that one payload can go to several places of a device.
        buf: SharedSlot,
        /// Which part of the slot.
        range: Range<usize>,
    },
    /// One `read(2)` at the file's own position, never continued: for /dev/fuse and pipes.
    ReadStream {
        /// A stream-like file.
        file: FileId,
        /// Where to.
        buf: BufSlot,
        /// Which part of the slot.
        range: Range<usize>,
    },
    /// One `writev(2)` at the file's own position, never continued: for /dev/fuse, where one call
    /// is one reply.
    WriteStream {
        /// A stream-like file.
        file: FileId,
        /// What to write.
        data: SendData,
    },
    /// Write a record at an offset. Result: all bytes.
    WriteVec {
        /// A seekable file.
        file: FileId,
        /// Where in the file, in bytes.
        offset: u64,
        /// The record.
        data: Vec<u8>,
        /// Complete only when the data is durable (RWF_DSYNC: one operation instead of a write and
        /// an fdatasync).
        dsync: bool,
    },
    /// Make a file durable. Orders nothing: submit it after the writes it covers completed.
    Fsync {
        /// A file or device.
        file: FileId,
        /// Data and what is needed to find it, without times (fdatasync).
        datasync: bool,
    },
    /// Allocate or free space.
    Fallocate {
        /// A regular file or block device.
        file: FileId,
        /// What to do.
        mode: FallocateFlags,
        /// Where in the file, in bytes.
        offset: u64,
        /// How much, in bytes.
        bytes: u64,
    },
    /// A command to a driver (`uring_cmd`), never continued. Needs [`crate::RingConfig::sqe128`].
    /// Result: what the driver says. A cancellation reaches only drivers that know of it: FUSE
    /// ends its commands when the connection ends, not before.
    Command {
        /// A device or socket whose driver takes commands.
        file: FileId,
        /// What to do; boxed, because it is large and lives long. Use it again: it comes back.
        command: Box<Command>,
    },
    /// Wait for readiness. Result: the ready events' bits.
    PollAdd {
        /// A pollable file.
        file: FileId,
        /// Events to wait for.
        events: PollFlags,
        /// Report each time, not once: completions with `more` set.
        multishot: bool,
    },
    /// Complete with 0 after a time.
    Timeout {
        /// How long.
        duration: Duration,
    },
    /// Shut down a socket.
    Shutdown {
        /// A connected socket.
        file: FileId,
        /// Which directions.
        how: Shutdown,
    },
    /// Close a file: cancel its operations, and complete when the last of them did and the
    /// descriptor is closed. From submission on the file takes no more operations.
    Close {
        /// Any registered file.
        file: FileId,
    },
}

/// What a driver gets with [`Op::Command`], and the memory it may touch until the completion.
#[derive(Debug)]
pub struct Command {
    /// Which of the driver's commands (`sqe.cmd_op`).
    pub cmd_op: u32,
    /// The command area (`sqe.cmd`): the driver's own structure.
    pub data: [u8; COMMAND_BYTES],
    /// Memory the driver reads and writes: `sqe.addr` points to it as an array of iovecs,
    /// `sqe.len` is how many. Empty: both are zero. At most [`crate::SEND_PARTS_MAX`].
    pub parts: Vec<(BufSlot, Range<usize>)>,
}

/// Bytes of a command's own structure.
pub const COMMAND_BYTES: usize = 80;

/// The end of an operation (or, with `more`, one of its results).
#[derive(Debug)]
pub struct Completion {
    /// The caller's number, as given to `submit`.
    pub token: u64,
    /// Which operation.
    pub id: OpId,
    /// Bytes, or what the variant of [`Op`] says; ECANCELED for a cancelled operation.
    pub result: Result<u32, Errno>,
    /// The operation with all it owned. With `more`: a copy that owns nothing.
    pub op: Op,
    /// The operation is still in flight and will complete again.
    pub more: bool,
    /// The new socket of a successful [`Op::Accept`]; close-on-exec, in blocking mode.
    pub accepted: Option<OwnedFd>,
}

/// Why an operation did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// As many operations are in flight as the ring was made for: wait for completions.
    Full,
    /// The submission queue is full and the kernel takes nothing now: wait for completions.
    Busy,
    /// No such file, or it is being closed.
    File,
    /// A command, and the ring was made without [`crate::RingConfig::sqe128`].
    Narrow,
    /// A range reaches past its slot, the transfer is longer than 2 GiB, or there is no room.
    Range,
    /// More than [`crate::SEND_PARTS_MAX`] parts.
    Parts,
}

/// An operation that did not start, given back whole.
#[derive(Debug, thiserror::Error)]
#[error("operation rejected: {reason:?}")]
pub struct Rejected {
    /// Why.
    pub reason: Reject,
    /// The operation, untouched.
    pub op: Op,
}

impl OpId {
    /// The number the kernel carries for this operation.
    pub(crate) fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// Back from the kernel's number.
    pub(crate) fn from_user_data(user_data: u64) -> OpId {
        let low = user_data & u64::from(u32::MAX);
        OpId {
            index: u32::try_from(low).expect("masked to 32 bits"),
            generation: u32::try_from(user_data >> 32).expect("shifted to 32 bits"),
        }
    }
}

impl Op {
    /// The registered file it works on.
    pub(crate) fn file(&self) -> Option<FileId> {
        match *self {
            Op::Accept { listener: file, .. }
            | Op::Connect { file, .. }
            | Op::Recv { file, .. }
            | Op::RecvVec { file, .. }
            | Op::Send { file, .. }
            | Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::ReadStream { file, .. }
            | Op::WriteStream { file, .. }
            | Op::WriteVec { file, .. }
            | Op::Fsync { file, .. }
            | Op::Fallocate { file, .. }
            | Op::Command { file, .. }
            | Op::PollAdd { file, .. }
            | Op::Shutdown { file, .. }
            | Op::Close { file } => Some(file),
            Op::Timeout { .. } => None,
        }
    }

    /// What the completions with `more` carry: these operations own nothing.
    pub(crate) fn repeat(&self) -> Option<Op> {
        match *self {
            Op::Accept { listener, multishot: true } => {
                Some(Op::Accept { listener, multishot: true })
            }
            Op::PollAdd { file, events, multishot: true } => {
                Some(Op::PollAdd { file, events, multishot: true })
            }
            _ => None,
        }
    }
}
