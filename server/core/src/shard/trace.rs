//! When the steps of a request were done, for the recorder, and what the recorder tells: see [`crate::trace`].

use std::collections::VecDeque;
use std::time::Duration;

use weft_store::{Action as StoreAction, IoId};
use weft_wire::trace::TraceQuery;
use weft_wire::units::{to_nanos, to_usize};
use weft_wire::{Header, Kind, Status, TargetId};

use super::Shard;
use crate::action::ConnId;
use crate::trace::Marks;

/// The flush of a target that was last: many requests share one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flush {
    io: Option<IoId>,
    began: Duration,
    ended: Duration,
}

/// The log's writes that are under way, in the order they began; those that ended before one in front of them are still
/// there.
#[derive(Debug, Default)]
pub(super) struct LogWrites(VecDeque<LogWrite>);

#[derive(Debug)]
struct LogWrite {
    io: u64,
    began: Duration,
    ended: bool,
}

impl LogWrites {
    pub(super) fn began(&mut self, io: u64, now: Duration) {
        self.0.push_back(LogWrite { io, began: now, ended: false });
    }

    pub(super) fn ended(&mut self, io: u64) {
        self.0.iter_mut().filter(|write| write.io == io).for_each(|write| write.ended = true);
    }

    pub(super) fn forget_ended(&mut self) {
        while self.0.front().is_some_and(|first| first.ended) {
            self.0.pop_front();
        }
    }

    /// When the write of a change that is answered now began, in nanoseconds: the first one after it was let in. `None`:
    /// it waited for none.
    fn of(&self, admitted: u64) -> Option<u64> {
        let answers = self.0.front().is_some_and(|first| first.ended);
        let mut began = self.0.iter().map(|write| to_nanos(write.began));
        began.find(|began| *began >= admitted).filter(|_| answers)
    }
}

impl Shard {
    pub(super) fn trace_request(&mut self, conn: ConnId, header: &Header, body: &[u8]) {
        let Ok(query) = TraceQuery::decode(body) else {
            return self.break_off(conn, "a trace query that cannot be read");
        };
        let mut body = Vec::new();
        self.recorder.tell(&query, self.now.mono).encode(&mut body);
        self.answer(conn, header, Status::Ok, &body, Vec::new());
    }

    /// Of a request that nothing is in the way of any more.
    pub(super) fn marks_of(&self, target: Option<TargetId>) -> Marks {
        Marks { target, admitted: to_nanos(self.now.mono), ..Marks::default() }
    }

    /// A target's device is given work.
    pub(super) fn mark_io_begins(&mut self, index: usize, action: &StoreAction) {
        let now = self.now.mono;
        let target = &mut self.targets[index];
        match action {
            StoreAction::ReadData { io, .. } | StoreAction::WriteData { io, .. } => {
                let op = target.params.store.operation_of(*io).map(to_usize);
                if let Some(marks) = op.and_then(|op| self.marks_of_pending(op)) {
                    marks.device_begins(now);
                }
            }
            StoreAction::Flush { io } => {
                target.flush = Flush { io: Some(*io), began: now, ended: Duration::ZERO };
            }
            _ => {}
        }
    }

    /// It is over; the store has not heard.
    pub(super) fn mark_io_ended(&mut self, index: usize, io: IoId) {
        let now = self.now.mono;
        let target = &mut self.targets[index];
        if let Some(op) = target.params.store.operation_of(io) {
            if let Some(marks) = self.marks_of_pending(to_usize(op)) {
                marks.device_ended = to_nanos(now);
            }
        } else if target.flush.io == Some(io) {
            target.flush.ended = now;
        }
    }

    /// A sync has no device work of its own: the flush that answers it was for all that waited.
    pub(super) fn marks_with_flush(&self, index: usize, header: &Header, marks: Marks) -> Marks {
        let Flush { began, ended, .. } = self.targets[index].flush;
        if header.kind != Kind::Sync || to_nanos(began) < marks.admitted || ended.is_zero() {
            return marks;
        }
        Marks { device_began: to_nanos(began), device_ended: to_nanos(ended), ..marks }
    }

    /// Of a request to the volume that is answered: the log's write, if it waited for one.
    pub(super) fn marks_with_log(&self, marks: Marks) -> Marks {
        let Some(began) = self.log_writes.of(marks.admitted) else { return marks };
        Marks { device_began: began, device_ended: to_nanos(self.now.mono), ..marks }
    }
}
