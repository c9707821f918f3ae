//! A batch's way: out to the log, and once durable into the state.
//!
//! **A log write that fails** leaves the batch on the log or not, and nobody can say which: read back it may come from
//! a cache. An answer would be a guess, and a wrong "failed" is worse than none: a truncate that happens after all, at
//! the next open, cuts what was written since. So nothing of the batch is answered. A checkpoint makes it certain: the
//! log begins anew in its other area, and the failed batch counts no more. Then its commands go out again, there. Only
//! when that fails too are changes refused, with a try every second.

use weft_wire::limits::BODY_BYTES_MAX;
use weft_wire::meta::{Caller, MetaRequest};
use weft_wire::units::{to_u32, to_usize};
use weft_wire::{Ino, Status};

use super::{Action, Flight, Health, Volume, WorkState, command_bytes, push_reply};
use crate::apply::{Applied, apply};
use crate::ended::Fence;
use crate::error::{Kind, MetaError};
use crate::limits::{
    BATCH_COUNT_MAX, BATCH_COUNT_MIN, COMMAND_DIRTY_BYTES, LOG_BLOCK_BYTES, LOG_WRITES_MAX,
};
use crate::log::{
    BATCH_HEADER_BYTES, Command, FENCE, SESSION_END, SESSION_EXPIRED, WERE_READ, area_start,
    encode_batch, padded,
};
use crate::planted::{self, Bug};
use crate::record::Outcome;

impl Volume {
    /// Whether a batch may be sent now beside those that are under way.
    pub(super) fn log_is_open(&self) -> bool {
        let Some(first) = self.flights.front() else { return true };
        let failed = self.flights.iter().any(|flight| matches!(flight.ended, Some(Err(_))));
        // A log that failed shows with one write that it works again; a checkpoint begins when all is applied.
        let alone = first.tried_before || self.health != Health::Good;
        let ends = self.checkpoint_due && !self.writing;
        self.flights.len() < LOG_WRITES_MAX && !failed && !alone && !ends
    }

    pub(super) fn send_batch(&mut self, out: &mut Vec<Action>) {
        // What is under way is applied before the next checkpoint: all of it must fit in what may change till then, and
        // in the memory of one batch.
        let fits = self.store.dirty_bytes_due().saturating_sub(self.store.dirty_bytes());
        let count_max = (fits / COMMAND_DIRTY_BYTES).clamp(BATCH_COUNT_MIN, BATCH_COUNT_MAX);
        let bytes_max = to_usize(self.batch_bytes_max());
        let bytes_before: usize = self.flights.iter().map(|flight| flight.bytes).sum();
        let mut count: u64 = self.flights.iter().map(|flight| flight.change_count).sum();
        let count_before = count;
        let mut bytes = BATCH_HEADER_BYTES;
        let mut commands = Vec::new();
        while let Some(mut command) = self.pending.pop_front() {
            bytes += command.log_bytes();
            count += command.change_count();
            let alone = commands.is_empty() && self.flights.is_empty();
            if !alone && (bytes_before + padded(bytes) > bytes_max || count > count_max) {
                count -= command.change_count();
                self.pending.push_front(command);
                break;
            }
            self.pending_bytes -= command_bytes(&command.body);
            command.sequence = self.next_sequence;
            self.next_sequence += 1;
            commands.push(command);
        }
        if commands.is_empty() {
            return;
        }
        let durable_below = match planted::is(Bug::ClaimDurable) {
            true => commands[0].sequence,
            false => self.state.applied + 1,
        };
        let generation = self.state.generation;
        let batch = encode_batch(&self.identity, generation, durable_below, &commands);
        let offset = area_start(&self.identity, generation) + u64::from(self.log_used_bytes);
        self.log_used_bytes += to_u32(batch.len());
        assert!(self.log_used_bytes <= self.identity.segment_bytes, "half an area holds a batch");
        self.next_io += 1;
        let io = self.next_io;
        self.flights.push_back(Flight {
            io,
            commands,
            change_count: count - count_before,
            bytes: batch.len(),
            tried_before: std::mem::take(&mut self.tried_before),
            ended: None,
        });
        out.push(Action::AppendLog { io, offset, bytes: batch });
        if planted::is(Bug::AckBeforeLog) {
            self.log_done(io, Ok(()), out);
        }
    }

    fn batch_bytes_max(&self) -> u64 {
        u64::from(self.identity.segment_bytes / 4).min(self.memory.batch_bytes / 2)
    }

    /// Whether the log takes a batch now: always, but when a checkpoint that the disk has no room for is due, or one is
    /// being written and there is no more memory, or log, for what happens meanwhile.
    pub(super) fn log_has_room(&self) -> bool {
        if self.unsure_count > 0 || self.writing && self.store.is_full() {
            return false;
        }
        let batch = self.batch_bytes_max().max(u64::from(BODY_BYTES_MAX + 2 * LOG_BLOCK_BYTES));
        !self.starved && !self.writing
            || u64::from(self.log_used_bytes) + batch <= u64::from(self.identity.segment_bytes)
    }

    /// The log write `io` ended: durable when `Ok`, else the errno. What it and those before it carried is applied and
    /// answered, in order; what is durable behind one that is not waits for that one.
    pub fn log_done(&mut self, io: u64, result: Result<(), i32>, out: &mut Vec<Action>) {
        let Some(at) = self.flights.iter().position(|flight| flight.io == io) else { return };
        self.flights[at].ended.get_or_insert(result);
        if planted::is(Bug::AckOutOfOrder) && result.is_ok() {
            self.flights.range_mut(..at).for_each(|before| before.ended = Some(Ok(())));
        }
        while self.flights.front().is_some_and(|first| first.ended == Some(Ok(())))
            && let Some(flight) = self.flights.pop_front()
        {
            self.health = Health::Good;
            for command in &flight.commands {
                if let Err(error) = self.run(command, true, out) {
                    // What of the batch is not answered is on the log: it happens at the next open.
                    return self.fail(error, out);
                }
            }
        }
        match self.flights.front().and_then(|first| first.ended) {
            Some(Err(errno)) if self.flights.iter().all(|flight| flight.ended.is_some()) => {
                self.log_failed(errno, out);
            }
            _ => self.note_checkpoint_due(),
        }
    }

    /// The commands that are under way go back to the head of the queue, for after the checkpoint that settles them: of
    /// the first batch the write failed, and those behind it count only if that one is there.
    fn log_failed(&mut self, errno: i32, out: &mut Vec<Action>) {
        let flights = std::mem::take(&mut self.flights);
        let guessed = planted::is(Bug::RefuseUnsure);
        let again = flights.iter().any(|flight| flight.tried_before) || guessed;
        self.next_sequence = self.state.applied + 1;
        let commands = flights.into_iter().flat_map(|flight| flight.commands);
        let commands: Vec<Command> = commands.collect();
        self.unsure_count = if guessed { 0 } else { commands.len() };
        for command in commands.into_iter().rev() {
            self.pending_bytes += command_bytes(&command.body);
            self.pending.push_front(command);
        }
        if again {
            let detail = u64::from(errno.unsigned_abs());
            let error = MetaError::at(Kind::LogIo, "append to the log", detail);
            self.health = Health::ReadOnly(error);
            self.refuse_unlogged(Status::Io, out);
        }
    }

    /// Applies one command that is in the log. `live`: not a replay, so opens count and replies are waited for.
    pub(super) fn run(
        &mut self,
        command: &Command,
        live: bool,
        out: &mut Vec<Action>,
    ) -> Result<Status, MetaError> {
        let (store, state) = (&mut self.store, &mut self.state);
        let applied = apply(store, state, &mut self.slots, self.identity.volume, command)?;
        self.commands_since_checkpoint += 1;
        let status = applied.status;
        self.orphans.extend(&applied.orphaned);
        for work in &applied.works {
            self.works.insert(work.id, WorkState { shrink: work.shrink, waiters: Vec::new() });
        }
        for ino in &applied.named {
            self.orphans.remove(ino);
            self.dropping.remove(ino);
            self.to_drop.remove(ino);
        }
        for ino in &applied.dropped {
            self.orphans.remove(ino);
            self.dropping.remove(ino);
        }
        for id in &applied.works_done {
            for (op, body) in self.works.remove(id).unwrap_or_default().waiters {
                push_reply(out, op, Status::Ok, body);
            }
        }
        if live {
            out.extend(applied.works.iter().cloned().map(Action::Work));
        }
        self.slots.ended.change(&applied.ended);
        if command.kind == SESSION_END && status == Status::Ok {
            self.slots.forget(command.session);
            self.end_opens(command.session);
        }
        if live {
            out.extend(self.fenced(command));
        }
        if command.kind == WERE_READ {
            self.read_times_logged.clear();
        }
        let orphaned = applied.orphaned.clone();
        if command.wire_kind().is_some() {
            self.finish_client(command, applied, live, out);
        }
        orphaned.into_iter().for_each(|ino| self.drop_if_unused(ino));
        Ok(status)
    }

    /// Whom the caller waits for. Where a damaged record was met it goes on all the same.
    fn fenced(&self, command: &Command) -> Option<Action> {
        let session = command.session;
        let number = self.slots.ended.number_now(session);
        match command.kind {
            FENCE => {
                let what = Fence::decode(&command.body)?;
                Some(Action::Fenced { session, what, number })
            }
            SESSION_END if command.body == SESSION_EXPIRED => {
                Some(Action::Expired { session, number })
            }
            _ => None,
        }
    }

    fn finish_client(
        &mut self,
        command: &Command,
        applied: Applied,
        live: bool,
        out: &mut Vec<Action>,
    ) {
        let Some((caller, request)) = request_of(command) else { return };
        if live && applied.opened != Ino(0) {
            self.opens.add(command.session, applied.opened);
        }
        let outcome = Outcome {
            sequence: caller.sequence,
            status: applied.status,
            work: applied.work,
            opened: applied.opened,
            body: applied.body.clone(),
        };
        let ops = self.slots.complete(command.session, caller.slot, outcome, live);
        if ops.is_empty() {
            return;
        }
        let body = self.told(&request, applied.status, applied.body);
        match self.works.get_mut(&applied.work) {
            Some(work) => work.waiters.extend(ops.into_iter().map(|op| (op, body.clone()))),
            None => {
                for op in ops {
                    push_reply(out, op, applied.status, body.clone());
                }
            }
        }
    }

    /// The database failed. What the log has or may have is not answered.
    pub(super) fn fail(&mut self, error: MetaError, out: &mut Vec<Action>) {
        self.store.abandon();
        self.writing = false;
        self.health = Health::Broken(error);
        self.flights.clear();
        self.refuse_unlogged(error.status(), out);
    }

    /// Answers the changes that were never sent to the log: these did not happen, and never will.
    fn refuse_unlogged(&mut self, status: Status, out: &mut Vec<Action>) {
        let unlogged = self.pending.split_off(self.unsure_count);
        for command in unlogged {
            let Some((caller, _)) = request_of(&command) else {
                self.pending.push_back(command);
                continue;
            };
            self.pending_bytes -= command_bytes(&command.body);
            for op in self.slots.abandon(command.session, caller.slot) {
                push_reply(out, op, status, Vec::new());
            }
        }
    }
}

/// A command's request and who waits for it; `None` when it is one of the volume's own.
fn request_of(command: &Command) -> Option<(Caller, MetaRequest<'_>)> {
    let kind = command.wire_kind()?;
    MetaRequest::decode(kind, &command.body).ok()
}
