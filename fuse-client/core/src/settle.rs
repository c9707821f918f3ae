//! Bringing a file to rest: flush, fsync, telling the volume about writes, and what follows a restart of a target.
//!
//! A flush or fsync has a barrier, the id that the next write will have: it ends when every write below it is
//! acknowledged, the volume has been told, and for fsync, the targets have made it durable. These are conditions
//! looked at again whenever the file changes, so a restarted server that makes writes unacknowledged again makes
//! the operation wait again. What was written before the file was opened here counts for fsync as well: it is not
//! known by its writes any more, so each target the file reaches is asked once for each open.

use weft_wire::data::DataRequest;
use weft_wire::meta::{MetaReply, MetaRequest};
use weft_wire::{Ino, Kind, Status, TargetId};

use crate::core::ClientCore;
use crate::file::Pages;
use crate::limits::WROTE_DELAY;
use crate::op::{FsReply, Handle, OpId};
use crate::planted::{self, Bug};
use crate::state::{Answer, Op, OpKind, Purpose, errno};

impl ClientCore {
    /// Flush (`durable` false) and fsync.
    pub(crate) fn begin_settle(
        &mut self,
        id: OpId,
        handle: Handle,
        durable: bool,
    ) -> Result<(), i32> {
        let ino = self.handle(handle, false)?.ino;
        self.push_run_out(ino);
        let barrier = self.files[&ino].writes.next_id();
        self.set_kind(id, OpKind::Settle { handle, barrier, durable, tell: None, ask: None });
        self.try_settle(id);
        Ok(())
    }

    fn try_settle(&mut self, id: OpId) {
        let Some(Op { kind: OpKind::Settle { handle, durable, .. }, .. }) = self.ops.get(&id)
        else {
            return;
        };
        let (handle, durable) = (*handle, *durable);
        let Some(ino) = self.handles.get(&handle).map(|state| state.ino) else {
            return self.finish(id, Ok(FsReply::Done));
        };
        let waits = durable && !planted::is(Bug::SyncAhead);
        let ahead = !waits && self.may_go_ahead(ino);
        let Some(OpKind::Settle { barrier, tell, ask, .. }) =
            self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            return;
        };
        let barrier = *barrier;
        let file = self.files.get_mut(&ino).expect("a handle keeps its file");
        let mut over = match ahead {
            true => file.writes.passed_or_at_volume(barrier),
            false => file.writes.passed(barrier),
        };
        if over {
            let wanted = *tell.get_or_insert(file.telling.wanted);
            if file.telling.done < wanted {
                file.telling.urgent = file.telling.urgent.max(wanted);
                over = ahead;
            }
            if durable {
                over &= file.behind.is_empty() || ahead;
                let ask = *ask.get_or_insert_with(|| {
                    file.ask_for_older_writes();
                    file.unsynced.last_ask()
                });
                if !file.unsynced.passed(barrier, ask) {
                    file.sync_wanted = file.sync_wanted.max(barrier);
                    over = false;
                }
            }
        }
        if over {
            self.send_wrote(ino);
            let is_told = durable || self.handles[&handle].writes;
            let result = if is_told { self.take_error(handle) } else { Ok(()) };
            return self.finish(id, result.map(|()| FsReply::Done));
        }
        file.waiting.push(id);
        self.send_syncs(ino);
        self.send_wrote(ino);
        self.hurry(ino);
    }

    /// The failure of a write-behind that this handle has not been told of, once.
    pub(crate) fn take_error(&mut self, handle: Handle) -> Result<(), i32> {
        let Some(state) = self.handles.get_mut(&handle) else { return Ok(()) };
        let Some(file) = self.files.get_mut(&state.ino) else { return Ok(()) };
        if state.errors_seen == file.error_count {
            return Ok(());
        }
        (state.errors_seen, file.error_unseen) = (file.error_count, false);
        let errno = file.errno;
        self.update_handle(handle);
        Err(errno)
    }

    /// Something about a file changed: everything that may go on does.
    pub(crate) fn run_file(&mut self, ino: Ino) {
        self.unsaved.insert(ino);
        self.send_writes(ino);
        self.send_syncs(ino);
        self.send_wrote(ino);
        let Some(file) = self.files.get_mut(&ino) else { return };
        for id in std::mem::take(&mut file.waiting) {
            match self.ops.get(&id).map(|op| &op.kind) {
                Some(OpKind::WriteWaiting { .. }) => self.resume_write(id),
                Some(OpKind::ReadWaiting { .. }) => self.try_read(id),
                Some(OpKind::Settle { .. }) => self.try_settle(id),
                Some(OpKind::SetAttr { .. }) => self.try_set_attr(id),
                Some(OpKind::XattrWaiting(_)) => self.go_on_with(id),
                Some(OpKind::CopyWaiting(..)) => self.try_copy(id),
                Some(OpKind::Allocate(_)) => self.try_allocate(id),
                Some(OpKind::Seek(_)) => self.try_seek(id),
                Some(OpKind::WriteTold { .. }) => self.try_told(id),
                _ => {}
            }
        }
        if let Some(file) = self.files.get_mut(&ino) {
            file.answered = None;
            file.forget_failed_move();
            if !file.waiting.is_empty() {
                self.hurry(ino);
            }
        }
        self.collect(ino);
    }

    /// A timer of a file.
    pub(crate) fn file_due(&mut self, ino: Ino) {
        let now = self.now;
        let Some(file) = self.files.get(&ino) else { return };
        if file.run.as_ref().is_some_and(|run| run.due <= now) {
            self.push_run_out(ino);
        }
        self.resume_move(ino);
        self.touched.insert(ino);
    }

    /// Tells the volume how long the file is and when it was written, if that is due or asked for.
    pub(crate) fn send_wrote(&mut self, ino: Ino) {
        let now = self.now;
        let Some(file) = self.files.get_mut(&ino) else { return };
        let telling = &mut file.telling;
        let due = telling.due.is_some_and(|due| due <= now) || telling.urgent > telling.done;
        if !due || telling.in_flight.is_some() || telling.is_settled() {
            return;
        }
        telling.in_flight = Some(telling.wanted);
        telling.blocks_in_flight = std::mem::take(&mut telling.blocks);
        let blocks_added = telling.blocks_in_flight;
        if let Some(due) = telling.due.take() {
            self.file_timers.remove(&(due, ino));
        }
        let size_min = telling.acked_end;
        let mtime = file.mtime_to_tell();
        let writer = file.writer;
        let at_targets = file.begun.is_some() && !planted::is(Bug::BeginUntold);
        file.telling.begins = at_targets;
        let request = MetaRequest::Wrote { ino, size_min, mtime, blocks_added, at_targets };
        let asked = self.meta_call(ino, writer, &request, Purpose::Wrote { ino });
        debug_assert!(asked, "a file that is open has its volume");
    }

    pub(crate) fn wrote_answered(&mut self, ino: Ino, answer: &Answer) {
        let reply = answer.meta(Kind::Wrote);
        let overtaken = self.is_reply_overtaken(&reply);
        let Some(file) = self.files.get_mut(&ino) else { return };
        self.touched.insert(ino);
        let telling = &mut file.telling;
        telling.blocks_in_flight = 0;
        telling.done = telling.in_flight.take().expect("one is in flight at a time");
        self.tell_soon(ino);
        let Some(file) = self.files.get_mut(&ino) else { return };
        match reply {
            Ok(MetaReply::Attr(attr)) => {
                if std::mem::take(&mut file.telling.begins) {
                    file.begun = None;
                }
                file.changed_by_us(&attr);
                file.learn(&attr, overtaken);
                file.drop_overlays();
                self.learn_with(attr, answer.lease);
            }
            reply => {
                tracing::warn!(%ino, status = %answer.status, "the volume did not take a file's length");
                file.fail(reply.err().unwrap_or(errno::EIO));
                file.drop_overlays();
                let begun = file.begun.is_some();
                self.refused(ino);
                if begun {
                    // What is at the targets does not count.
                    self.drop_written(ino);
                }
            }
        }
    }

    /// Tells the volume what there is to tell after a while, at the latest.
    pub(crate) fn tell_soon(&mut self, ino: Ino) {
        let due = self.now + WROTE_DELAY;
        let Some(file) = self.files.get_mut(&ino) else { return };
        if !file.telling.is_settled() && file.telling.due.is_none() {
            file.telling.due = Some(due);
            self.file_timers.insert((due, ino));
        }
        self.touched.insert(ino);
    }

    /// Asks the targets to make durable what is wanted so.
    pub(crate) fn send_syncs(&mut self, ino: Ino) {
        loop {
            let Some(file) = self.files.get_mut(&ino) else { return };
            let wanted = file.sync_wanted;
            let Some(target) = file.unsynced.next_to_sync(wanted) else { return };
            let link = self.targets.get(&target).copied().expect("it was written to");
            let mut body = Vec::new();
            DataRequest::Sync(ino).encode(target, &mut body);
            self.ask_server(link, (Kind::Sync, body), Purpose::Sync { ino, target }, false);
        }
    }

    pub(crate) fn sync_answered(&mut self, ino: Ino, target: TargetId, status: Status) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        self.touched.insert(ino);
        if status != Status::Ok {
            tracing::warn!(%ino, %target, %status, "data could not be made durable");
            file.fail(status.errno());
            file.written_before = true;
        }
        self.unsynced_bytes -= file.unsynced.synced(target);
    }

    /// Forgets a file that nobody has open and that is at rest.
    fn collect(&mut self, ino: Ino) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        let busy =
            file.asking || file.is_held() || !file.waiting.is_empty() || file.unsynced.is_syncing();
        if file.open_count > 0 || busy || file.asked_whether_there {
            return;
        }
        if !file.is_settled() {
            file.telling.urgent = file.telling.wanted;
            self.push_run_out(ino);
            return self.send_wrote(ino);
        }
        if file.telling.in_flight.is_some() {
            return; // Of writes that were given up. Its answer is not one of the file that may be opened next.
        }
        let mut file = self.files.remove(&ino).expect("seen above");
        if self.cannot_linger(&file) {
            file.sync_wanted = file.writes.next_id();
            self.files.insert(ino, file);
            return self.send_syncs(ino);
        }
        if let Some(due) = file.telling.due {
            self.file_timers.remove(&(due, ino));
        }
        if let Pages::Of(version) = file.pages {
            self.versions.put(ino, version);
        }
        let (count, atime) = (file.server_opens, file.local_atime);
        let put_off = count > 0 && atime.is_none();
        let data = self.data_known(&file);
        if put_off {
            self.keep_closed(&file);
        } else {
            file.server_opens = 0;
        }
        let kept = self.linger(ino, file);
        if put_off {
            return self.put_release_off(ino, (count, kept), data);
        }
        self.closed_files.extend(kept);
        self.give_opens_back(ino, count, atime);
    }
}
