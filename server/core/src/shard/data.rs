//! Requests to targets, and what the stores answer.

use weft_net::Frame;
use weft_store::{
    Action as StoreAction, CheckpointWritten, IoDone, IoError, IoId, Outcome, StoreError,
};
use weft_wire::data::{BlocksReply, DataRequest, GrowReply, ReadReply, SeekFrom, ZeroHow};
use weft_wire::ids::{ChunkIndex, Ino, TargetId};
use weft_wire::units::to_u64;
use weft_wire::{Header, ShardId, Status};

use super::{Pending, Shard};
use crate::action::{Action, ConnId, Message, Now};
use crate::memory::request_bytes;

impl Shard {
    pub(super) fn data_request(&mut self, conn: ConnId, frame: Frame) {
        let header = frame.header;
        let payload_bytes = header.payload_bytes;
        let decoded = DataRequest::decode(header.kind, &frame.body, payload_bytes);
        let Ok((target, request)) = decoded else {
            return self.break_off(conn, "a data request that cannot be read");
        };
        let Some(index) = self.target_index(target) else {
            return self.answer(conn, &header, Status::WrongShard, &[], Vec::new());
        };
        if request.ino().is_some_and(|ino| self.held.contains(&ino)) {
            return self.answer(conn, &header, Status::Io, &[], Vec::new());
        }
        if let DataRequest::ChunkList(ino, from) = request {
            return self.chunk_list(conn, &header, index, ino, from);
        }
        if let DataRequest::Seek(from) = request {
            return self.seek(conn, &header, index, &from);
        }
        if let DataRequest::Copy(copy) = request {
            return self.copy(conn, header, index, copy);
        }
        let Some(op) = self.admit(conn, header, target, &request) else {
            return self.busy(conn, &header);
        };
        self.metrics.received_bytes.increment(u64::from(payload_bytes));
        let target = &mut self.targets[index];
        let store = &mut target.params.store;
        let mut actions = Vec::new();
        match request {
            DataRequest::Read(range) => {
                target.read_count += 1;
                store.read(op, range, &self.pool, &mut actions);
            }
            DataRequest::Write(range, sums) => {
                target.write_count += 1;
                let (slot, _) = frame.payload.expect("decode saw a payload as long as the range");
                store.write(op, range, sums, slot, &self.pool, &mut actions);
            }
            DataRequest::Sync(ino) => store.sync(op, ino, &mut actions),
            DataRequest::Truncate { ino, remove_from, cut } => {
                store.truncate(op, ino, remove_from, cut, &self.pool, &mut actions);
            }
            DataRequest::Grow => self.out.push(Action::Measure { index, op }),
            DataRequest::Zero(range, how) => {
                target.write_count += 1;
                store.zero(op, range, how, &self.pool, &mut actions);
            }
            DataRequest::ChunkList(..) | DataRequest::Seek(_) | DataRequest::Copy(_) => {
                unreachable!("taken above")
            }
        }
        self.store_actions(index, actions);
    }

    /// Takes a request into the table, if there is memory for it.
    fn admit(
        &mut self,
        conn: ConnId,
        header: Header,
        target: TargetId,
        request: &DataRequest,
    ) -> Option<u64> {
        let memory_bytes = match request {
            DataRequest::Read(range)
            | DataRequest::Write(range, _)
            | DataRequest::Zero(range, ZeroHow::Allocate | ZeroHow::Erase) => {
                request_bytes(range.block_count())
            }
            _ => request_bytes(0),
        };
        if self.requests_bytes + memory_bytes > self.memory.requests_bytes {
            return None;
        }
        self.requests_bytes += memory_bytes;
        let marks = self.marks_of(Some(target));
        Some(to_u64(self.pending.insert(Pending::Client { conn, header, memory_bytes, marks })))
    }

    /// Disk work of a target is over.
    pub fn target_io_done(
        &mut self,
        index: usize,
        io: IoId,
        result: Result<IoDone, IoError>,
        now: Now,
    ) {
        self.now = now;
        let mut actions = Vec::new();
        let target = &mut self.targets[index];
        let refused = target.params.store.discard_refused();
        self.mark_io_ended(index, io);
        let target = &mut self.targets[index];
        target.params.store.io_done(io, result, &self.pool, &mut actions);
        if let Some(errno) = target.params.store.discard_refused().filter(|_| refused.is_none()) {
            let (target, error) = (target.params.id.0, std::io::Error::from_raw_os_error(errno));
            tracing::warn!(target, %error, "the device refuses to discard: freed space stays with the target");
        }
        self.store_actions(index, actions);
    }

    /// The writing of a target's checkpoint is over.
    pub fn target_written(&mut self, index: usize, written: CheckpointWritten, now: Now) {
        self.now = now;
        let mut actions = Vec::new();
        let store = &mut self.targets[index].params.store;
        store.checkpoint_written(written, &self.pool, &mut actions);
        self.store_actions(index, actions);
    }

    /// The answer to [`Action::Measure`]: the device's length in bytes, or why it is not known.
    pub fn target_length(&mut self, index: usize, op: u64, length: std::io::Result<u64>, now: Now) {
        self.now = now;
        let mut actions = Vec::new();
        match length {
            Ok(bytes) => self.targets[index].params.store.grow(op, bytes, &mut actions),
            Err(error) => {
                let target = self.targets[index].params.id.0;
                tracing::error!(target, %error, "cannot tell the device's length");
                actions.push(StoreAction::Reply { op, result: Err(Status::Io) });
            }
        }
        self.store_actions(index, actions);
    }

    /// A truncation for a volume's deferred work, of this shard or another.
    pub(super) fn truncate_for_work(
        &mut self,
        from: ShardId,
        work: u64,
        target: TargetId,
        (ino, remove_from, cut): (Ino, ChunkIndex, Option<(ChunkIndex, u32)>),
    ) {
        let Some(index) = self.target_index(target) else {
            let status = Status::WrongShard;
            let message = Message::Truncated { work, target, status, freed_count: 0 };
            return self.send_to_shard(from, message);
        };
        let op = to_u64(self.pending.insert(Pending::Work { from, work, target, ino }));
        let mut actions = Vec::new();
        let store = &mut self.targets[index].params.store;
        store.truncate(op, ino, remove_from, cut, &self.pool, &mut actions);
        self.store_actions(index, actions);
    }

    /// Routes what a store wants: replies to who waits, disk work to the daemon.
    pub(super) fn store_actions(&mut self, index: usize, actions: Vec<StoreAction>) {
        for action in actions {
            match action {
                StoreAction::Reply { op, result } => self.store_reply(index, op, result),
                StoreAction::Stopped => {
                    self.targets[index].stopped = true;
                    self.stop_if_done();
                }
                action => {
                    self.mark_io_begins(index, &action);
                    self.out.push(Action::Target { index, action });
                }
            }
        }
    }

    fn store_reply(&mut self, index: usize, op: u64, result: Result<Outcome, Status>) {
        let key = weft_wire::units::to_usize(op);
        match self.pending.try_remove(key).expect("a store answers each operation once") {
            Pending::Meta { .. } => unreachable!("a volume's request"),
            Pending::Client { conn, header, memory_bytes, marks } => {
                self.requests_bytes -= memory_bytes;
                self.marks = self.marks_with_flush(index, &header, marks);
                self.answer_data(index, conn, &header, result);
            }
            Pending::CopySource { to, copy, memory_bytes } => {
                self.copy_source_read((to, copy, memory_bytes), result);
            }
            Pending::CopyPart { copy } => self.copy_part_done(copy, result),
            Pending::Work { from, work, target, ino } => match result {
                Ok(outcome) => {
                    let freed_count = match outcome {
                        Outcome::Truncated { freed_count } => freed_count,
                        _ => 0,
                    };
                    let waiting = Pending::WorkSync { from, work, target, freed_count };
                    self.sync_work(index, ino, waiting);
                }
                Err(status) => {
                    let message = Message::Truncated { work, target, status, freed_count: 0 };
                    self.send_to_shard(from, message);
                }
            },
            Pending::WorkSync { from, work, target, freed_count } => {
                let status = result.err().unwrap_or(Status::Ok);
                let message = Message::Truncated { work, target, status, freed_count };
                self.send_to_shard(from, message);
            }
        }
    }

    /// The volume forgets a work once it is told that it is done: it must not come undone by a power loss, which would
    /// bring the cut bytes back into the file, or chunks of a file that is gone.
    fn sync_work(&mut self, index: usize, ino: Ino, waiting: Pending) {
        let op = to_u64(self.pending.insert(waiting));
        let mut actions = Vec::new();
        self.targets[index].params.store.sync(op, ino, &mut actions);
        self.store_actions(index, actions);
    }

    fn answer_data(
        &mut self,
        index: usize,
        conn: ConnId,
        header: &Header,
        result: Result<Outcome, Status>,
    ) {
        match result {
            Ok(Outcome::Read { first_block, sums, pieces }) => {
                let mut body = Vec::with_capacity(4 + 4 * sums.len());
                ReadReply { first_block, sums }.encode(&mut body);
                self.answer(conn, header, Status::Ok, &body, pieces);
            }
            Ok(Outcome::Grown { before_bytes, capacity_bytes }) => {
                let target = self.targets[index].params.id.0;
                tracing::info!(target, before_bytes, capacity_bytes, "target grown");
                let mut body = Vec::new();
                GrowReply { before_bytes, capacity_bytes }.encode(&mut body);
                self.tell_space();
                self.answer(conn, header, Status::Ok, &body, Vec::new());
            }
            Ok(Outcome::Written { added_count }) => {
                self.answer_blocks(conn, header, i64::from(added_count));
            }
            Ok(Outcome::Punched { freed_count }) => {
                self.answer_blocks(conn, header, -i64::from(freed_count));
            }
            Ok(Outcome::Synced | Outcome::Truncated { .. }) => {
                self.answer(conn, header, Status::Ok, &[], Vec::new());
            }
            Err(status) => {
                if !matches!(status, Status::Busy) {
                    let target = self.targets[index].params.id.0;
                    let request = header.request_id;
                    tracing::warn!(target, request, kind = ?header.kind, %status, "request failed");
                }
                self.answer(conn, header, status, &[], Vec::new());
            }
        }
    }

    fn answer_blocks(&mut self, conn: ConnId, header: &Header, added: i64) {
        let mut body = Vec::new();
        BlocksReply { added }.encode(&mut body);
        self.answer(conn, header, Status::Ok, &body, Vec::new());
    }

    fn seek(&mut self, conn: ConnId, header: &Header, index: usize, from: &SeekFrom) {
        match self.targets[index].params.store.seek(from) {
            Ok(reply) => {
                let mut body = Vec::new();
                reply.encode(&mut body);
                self.answer(conn, header, Status::Ok, &body, Vec::new());
            }
            Err(error) => self.answer_index_error(conn, header, &error),
        }
    }

    fn answer_index_error(&mut self, conn: ConnId, header: &Header, error: &StoreError) {
        tracing::error!(%error, "cannot read where a file's blocks are");
        let status = match error.kind {
            weft_store::Kind::Damaged => Status::Damaged,
            _ => Status::Io,
        };
        self.answer(conn, header, status, &[], Vec::new());
    }

    fn chunk_list(
        &mut self,
        conn: ConnId,
        header: &Header,
        index: usize,
        ino: Ino,
        from: ChunkIndex,
    ) {
        match self.targets[index].params.store.chunk_list(ino, from) {
            Ok(list) => {
                let mut body = Vec::new();
                list.encode(&mut body);
                self.answer(conn, header, Status::Ok, &body, Vec::new());
            }
            Err(error) => self.answer_index_error(conn, header, &error),
        }
    }

    pub(super) fn target_index(&self, id: TargetId) -> Option<usize> {
        self.targets.iter().position(|target| target.params.id == id)
    }
}
