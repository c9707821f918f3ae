//! What the flight recorder is told: see [`crate::keep::trace`].

use weft_net::link::Trip;
use weft_wire::units::{to_nanos, to_u32, to_u64, to_usize};
use weft_wire::{ChunkIndex, Ino, Status};

use crate::core::ClientCore;
use crate::keep::counts::OP_NAMES;
use crate::keep::trace::{OpSpan, RequestSpan};
use crate::op::{FsOp, FsReply, OpId};
use crate::saving::describe;
use crate::state::{Call, Op, Purpose};

/// What an operation is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    ino: Ino,
    offset: u64,
    bytes: u32,
}

impl ClientCore {
    pub(crate) fn subject_of(&self, op: &FsOp) -> Subject {
        let (handle, offset, bytes) = match op {
            FsOp::Read { handle, offset, bytes, .. } => (handle, *offset, *bytes),
            FsOp::Write { handle, offset, data, .. } => (handle, *offset, to_u32(data.1.len())),
            FsOp::Fallocate { handle, offset, .. } | FsOp::Lseek { handle, offset, .. } => {
                (handle, *offset, 0)
            }
            FsOp::Copy { handle, to, bytes, .. } => {
                (handle, *to, u32::try_from(*bytes).unwrap_or(u32::MAX))
            }
            FsOp::Flush { handle }
            | FsOp::Fsync { handle, .. }
            | FsOp::Release { handle }
            | FsOp::ReadDir { handle, .. }
            | FsOp::ReleaseDir { handle }
            | FsOp::FsyncDir { handle, .. } => (handle, 0, 0),
            other => return Subject { ino: describe(other).1, offset: 0, bytes: 0 },
        };
        let ino = self.handles.get(handle).map_or(Ino(0), |state| state.ino);
        Subject { ino, offset, bytes }
    }

    /// Counts an operation that ended, and records it.
    pub(crate) fn record_op(&mut self, id: OpId, op: &Op, result: &Result<FsReply, i32>) {
        let (now, core) = (self.now, self.core_number);
        let Some(keep) = &mut self.keep else { return };
        let bytes = match result {
            Ok(FsReply::Data(pieces)) => pieces.iter().map(|piece| piece.bytes()).sum(),
            Ok(FsReply::Written(bytes)) => to_usize(u64::from(*bytes)),
            Ok(FsReply::Copied(bytes)) => to_usize(*bytes),
            _ => 0,
        };
        let found = match result {
            Ok(FsReply::Entry(attr, _) | FsReply::Created(attr, ..)) => attr.ino,
            _ => Ino(0),
        };
        let took = now.saturating_sub(op.started);
        keep.count(op.what, took, !op.tags.is_empty(), to_u64(bytes));
        let span = OpSpan {
            op: id.0,
            name: OP_NAMES[op.what],
            pid: op.caller.pid,
            ino: op.subject.ino,
            found,
            offset: op.subject.offset,
            asked_bytes: op.subject.bytes,
            bytes: to_u32(bytes),
            errno: result.as_ref().err().copied().unwrap_or(0),
            core,
            started: to_nanos(op.started),
            finished: to_nanos(now),
        };
        keep.trace_op(&span, op.what);
    }

    /// Records a request that was answered.
    pub(crate) fn record_request(&mut self, call: &Call, trip: &Trip, status: Status) {
        let Some(keep) = &mut self.keep else { return };
        let op = match call.purpose {
            Purpose::Write { op, .. } => op,
            Purpose::Zero { op, .. } | Purpose::Copy { op, .. } => Some(op),
            purpose => purpose.op(),
        };
        let mut span = RequestSpan {
            op: op.map_or(0, |op| op.0),
            request_id: trip.request_id,
            kind: Some(call.kind),
            status: Some(status),
            link: u16::try_from(call.link.0).unwrap_or(u16::MAX),
            target: None,
            ino: call.purpose.ino(),
            chunk: ChunkIndex(0),
            offset: 0,
            bytes: 0,
            send_count: trip.send_count,
            asked: to_nanos(trip.asked_at),
            sent: to_nanos(trip.sent_at),
            answered: to_nanos(self.now),
        };
        span.about(call.kind, &trip.body);
        keep.trace_request(&span);
    }
}

impl Purpose {
    /// The file it is for, where no operation says it.
    fn ino(self) -> Ino {
        match self {
            Purpose::Own { ino }
            | Purpose::Wrote { ino }
            | Purpose::Release { ino, .. }
            | Purpose::SetAttrBehind { ino }
            | Purpose::SetAttr { ino, .. } => ino,
            _ => Ino(0),
        }
    }
}
