//! Data of files that nobody has open any more and that is not durable: it lingers until it is.
//!
//! A program may write a file, close it, open it again and fsync: that covers what was written before the close. So what
//! is kept to be written again after a reboot of the server is kept over the close, and goes on with the file when it is
//! opened again. It is made durable together: one sync to each target for all files that linger, a second after the
//! first of them, sooner when there are many or memory is short, and at the unmount.
//!
//! Invariants:
//! - An inode is in [`ClientCore::files`] or lingers, never both. What lingers is at rest: acknowledged and told.
//! - What lingers has no open at its volume. So before it is written again the volume is asked to count one
//!   (`Reopen`, which may come twice): of a file that went meanwhile nothing may get to the targets any more.
//! - An error that no open file can hear waits for the next one that opens the file.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_wire::data::DataRequest;
use weft_wire::meta::{MetaReply, MetaRequest};
use weft_wire::session::FEATURE_SYNC_ALL;
use weft_wire::{Ino, Kind, Status, TargetId};

use crate::core::{ClientCore, at};
use crate::file::{File, Files, Pages};
use crate::limits::{LINGER_DELAY, LINGERING_MANY, LINGERING_MAX, UNSEEN_ERRORS_MAX};
use crate::op::{Caller, LinkId};
use crate::state::{Answer, Purpose, errno};
use crate::volume::encode;

/// The files that linger.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    pub(crate) files: Files,
    /// When their targets are asked.
    pub(crate) due: Option<Duration>,
    /// Requests for that which are not answered.
    syncs: BTreeMap<TargetId, u64>,
    /// The mount is ending.
    leaving: bool,
}

impl Lingering {
    /// Whether everything that is waited for before the mount ends is durable.
    pub(crate) fn may_leave(&self) -> bool {
        !self.leaving || !self.files.values().any(|file| file.unsynced.is_unsynced())
    }
}

impl File {
    /// What is left of it when nobody has it open and it is at rest.
    fn closed(self) -> File {
        File {
            server_opens: self.server_opens,
            writer: self.writer,
            writes: self.writes,
            unsynced: self.unsynced,
            written_before: true,
            error_count: self.error_count,
            errno: self.errno,
            error_unseen: self.error_unseen,
            changes_seen: self.changes_seen,
            owned: self.owned,
            kept: self.kept,
            inline: self.inline,
            ..File::new(self.attr, self.layout)
        }
    }
}

impl ClientCore {
    /// The mount is about to end: what lingers is made durable, which [`ClientCore::is_clean`] waits for from here on.
    pub fn leaving(&mut self, now: Duration) {
        self.now = now;
        self.lingering.leaving = true;
        self.sync_lingering_soon();
    }

    /// The file as it is known, open or not.
    pub(crate) fn known_file(&mut self, ino: Ino) -> Option<&mut File> {
        self.files.get_mut(&ino).or_else(|| self.lingering.files.get_mut(&ino))
    }

    /// Takes a file that is closed and at rest, if something of it is to linger; else gives its record back, if it has
    /// one.
    pub(crate) fn linger(&mut self, ino: Ino, mut file: File) -> Option<u32> {
        let error_alone = !file.unsynced.is_unsynced();
        if error_alone && (!file.error_unseen || self.lingering.files.len() >= LINGERING_MAX) {
            self.unsynced_bytes -= file.unsynced.clear();
            return file.kept;
        }
        let file = file.closed();
        self.keep_closed(&file);
        self.lingering.files.insert(ino, file);
        if !error_alone {
            self.time_sync_of_lingering();
        }
        None
    }

    /// Whether a file that is closed must make its data durable by itself.
    pub(crate) fn cannot_linger(&self, file: &File) -> bool {
        file.unsynced.is_unsynced() && self.lingering.files.len() >= LINGERING_MAX
    }

    fn time_sync_of_lingering(&mut self) {
        if self.lingering.leaving || self.lingering.files.len() >= LINGERING_MANY {
            return self.sync_lingering_soon();
        }
        self.lingering.due.get_or_insert(self.now + LINGER_DELAY);
    }

    /// Has what lingers made durable as soon as the targets asked before have answered.
    pub(crate) fn sync_lingering_soon(&mut self) {
        if self.lingering.syncs.is_empty() && !self.lingering.files.is_empty() {
            self.lingering.due = Some(self.now);
        }
    }

    /// Asks the targets, when it is time.
    pub(crate) fn sync_lingering_due(&mut self) {
        if self.lingering.due.take_if(|due| *due <= self.now).is_none() || self.failed {
            return;
        }
        let files = self.lingering.files.values();
        let targets: BTreeSet<TargetId> =
            files.flat_map(|file| file.unsynced.unsynced_targets()).collect();
        for target in targets {
            let Some(link) = self.targets.get(&target).copied() else { continue };
            let welcome = self.links[at(link)].welcome();
            if welcome.is_none_or(|welcome| welcome.features & FEATURE_SYNC_ALL == 0) {
                self.sync_lingering_each(target);
            } else if !self.lingering.syncs.contains_key(&target) {
                self.sync_lingering(target, link);
            }
        }
    }

    /// One request for all files.
    fn sync_lingering(&mut self, target: TargetId, link: LinkId) {
        for file in self.lingering.files.values_mut() {
            file.unsynced.sync_begins(target);
        }
        let mut body = Vec::new();
        DataRequest::Sync(DataRequest::ALL_FILES).encode(target, &mut body);
        let purpose = Purpose::SyncClosed { target };
        let tag = self.ask_server(link, (Kind::Sync, body), purpose, false);
        self.lingering.syncs.insert(target, tag);
    }

    /// The server is older than that: a request for each file.
    fn sync_lingering_each(&mut self, target: TargetId) {
        for ino in self.lingering_at(|other| other == target) {
            self.rejoin(ino);
            let file = self.files.get_mut(&ino).expect("just put there");
            file.sync_wanted = file.writes.next_id();
        }
    }

    pub(crate) fn lingering_synced(&mut self, target: TargetId, status: Status) {
        self.lingering.syncs.remove(&target);
        let mut over = Vec::new();
        for (ino, file) in &mut self.lingering.files {
            if !file.unsynced.is_syncing_at(target) {
                continue;
            }
            if status != Status::Ok {
                tracing::warn!(%ino, %target, %status, "data of a closed file could not be made durable");
                file.fail(status.errno());
                self.unsaved.insert(*ino);
            }
            self.unsynced_bytes -= file.unsynced.synced(target);
            if !file.unsynced.is_unsynced() && !file.error_unseen {
                over.push(*ino);
            }
        }
        over.into_iter().for_each(|ino| self.forget_lingering(ino));
        self.bound_unseen_errors();
        if self.lingering.files.values().any(|file| file.unsynced.is_unsynced()) {
            self.time_sync_of_lingering();
        }
    }

    fn bound_unseen_errors(&mut self) {
        let files = self.lingering.files.iter();
        let alone = files.filter(|(_, file)| !file.unsynced.is_unsynced()).map(|(ino, _)| *ino);
        let alone: Vec<Ino> = alone.collect();
        for ino in &alone[..alone.len().saturating_sub(UNSEEN_ERRORS_MAX)] {
            tracing::warn!(%ino, "nobody opened it after data of it was lost: that is forgotten");
            self.forget_lingering(*ino);
        }
    }

    fn forget_lingering(&mut self, ino: Ino) {
        let Some(file) = self.lingering.files.remove(&ino) else { return };
        let volume = self.volumes.get_mut(&ino.volume());
        match volume.and_then(|volume| volume.put_off.get_mut(ino)) {
            Some(put_off) => put_off.kept = file.kept,
            None => self.closed_files.extend(file.kept),
        }
    }

    /// A connection is there again: what was asked on the one before is asked anew, of whoever is there now.
    pub(crate) fn sync_lingering_again(&mut self, link: LinkId) {
        let asked = self.lingering.syncs.iter();
        let own = asked.filter(|(target, _)| self.targets.get(target) == Some(&link));
        let own: Vec<(TargetId, u64)> = own.map(|(target, tag)| (*target, *tag)).collect();
        for (target, tag) in own {
            self.links[at(link)].cancel(tag);
            self.calls.remove(&tag);
            self.lingering.syncs.remove(&target);
            for file in self.lingering.files.values_mut() {
                file.unsynced.forget_sync_at(target);
            }
            self.time_sync_of_lingering();
        }
    }

    /// The file goes on where it was when it was closed.
    pub(crate) fn rejoin(&mut self, ino: Ino) {
        let Some(mut file) = self.lingering.files.remove(&ino) else { return };
        file.unsynced.forget_syncs();
        // What was put off is taken back; the rest was given back.
        file.server_opens = 0;
        file.pages = self.versions.take(ino).map_or(Pages::Unknown, Pages::Of);
        self.files.insert(ino, file);
        self.take_back_release(ino);
        self.touched.insert(ino);
    }

    /// These targets forgot what was not durable: whoever has something there goes on, to write it again.
    pub(crate) fn rejoin_lost(&mut self, lost: impl Fn(TargetId) -> bool) {
        self.lingering_at(lost).into_iter().for_each(|ino| self.rejoin(ino));
    }

    /// What lingers and has something at such a target that is not durable.
    fn lingering_at(&self, is_one: impl Fn(TargetId) -> bool) -> Vec<Ino> {
        let files = self.lingering.files.iter();
        let own = files.filter(|(_, file)| file.unsynced.unsynced_targets().any(&is_one));
        own.map(|(ino, _)| *ino).collect()
    }

    /// Has the volume count an open of a file that is to be written again and has none. Nothing is sent to its targets
    /// before the answer.
    pub(crate) fn ask_whether_there(&mut self, ino: Ino) {
        let Some(link) = self.volumes.get(&ino.volume()).map(|volume| volume.link) else { return };
        let file = self.files.get_mut(&ino).expect("it is to be written");
        (file.server_opens, file.asked_whether_there) = (1, true);
        let request = MetaRequest::Reopen { opens: vec![(ino, 1)] };
        let asked = (request.kind(), encode(Caller::default(), &request));
        self.ask_server(link, asked, Purpose::WhetherThere { ino }, false);
    }

    pub(crate) fn is_there(&mut self, ino: Ino, answer: &Answer) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        file.asked_whether_there = false;
        self.touched.insert(ino);
        match answer.meta(Kind::Reopen) {
            Ok(MetaReply::Reopened(gone)) if gone.is_empty() => {}
            Ok(_) => {
                tracing::debug!(%ino, "was removed: what a server lost of it is not written again");
                self.drop_written(ino);
                if let Some(file) = self.files.get_mut(&ino) {
                    file.error_unseen = false; // of a file that nobody can open any more
                }
            }
            Err(code) => {
                tracing::warn!(%ino, errno = code, "whether it is there is not known: what a server lost of it is lost");
                file.fail(errno::EIO);
                self.drop_written(ino);
            }
        }
    }

    /// Lets the memory of one kept write go; returns its bytes.
    pub(crate) fn let_lingering_go(&mut self) -> Option<usize> {
        let mut files = self.lingering.files.iter_mut();
        let (ino, file) = files.find(|(_, file)| file.unsynced.is_keeping())?;
        self.unsaved.insert(*ino);
        file.unsynced.let_oldest_go()
    }
}
