//! When a volume hears that nobody here has a file open any more; and opens that need not ask it.
//!
//! Whether somebody has a file open matters to nothing but its removal. So opens are given back some time after the last
//! close, several at once. While a lease says how the file is, that is later: opened again it is as it was, and nobody is
//! asked. No removal waits for that: it recalls the lease, or is ours, and then the opens are given back at once.
//!
//! Invariant: the volume counts what is put off, or it hears of it (`Reopen`) before it grants a lease again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_wire::meta::{Attr, DataPlace, MetaRequest, Time};
use weft_wire::{Ino, Layout, LeaseMode, VolumeId};

use crate::core::ClientCore;
use crate::file::{File, Pages};
use crate::limits::{
    OPEN_KEPT, OPENS_KEPT_MAX, RELEASE_DELAY, RELEASES_PUT_OFF_MAX, RELEASES_TOGETHER,
};
use crate::op::{Caller, OpId, OpenFlags};
use crate::state::Purpose;
use crate::volume::Volume;

/// A file's version, and where its data is.
pub(crate) type DataKnown = (u64, DataPlace);

/// Opens of a file that nobody has open any more.
#[derive(Debug)]
pub(crate) struct PutOff {
    count: u32,
    /// The file's record: a successor gives the opens back.
    pub(crate) kept: Option<u32>,
    /// What an answer to the next open would say, beside attributes.
    data: Option<DataKnown>,
    due: Duration,
}

/// Those of a volume.
#[derive(Debug, Default)]
pub(crate) struct PutOffs {
    by_ino: BTreeMap<Ino, PutOff>,
    by_due: BTreeSet<(Duration, Ino)>,
}

impl PutOffs {
    pub(crate) fn get_mut(&mut self, ino: Ino) -> Option<&mut PutOff> {
        self.by_ino.get_mut(&ino)
    }

    fn insert(&mut self, ino: Ino, put_off: PutOff) {
        self.by_due.insert((put_off.due, ino));
        let before = self.by_ino.insert(ino, put_off);
        debug_assert!(before.is_none(), "taken back when it was opened");
    }

    fn remove(&mut self, ino: Ino) -> Option<PutOff> {
        let put_off = self.by_ino.remove(&ino)?;
        self.by_due.remove(&(put_off.due, ino));
        Some(put_off)
    }

    /// The first `count_max` that are due until then.
    fn due(&self, until: Duration, count_max: usize) -> Vec<Ino> {
        let due = self.by_due.range(..=(until, Ino(u64::MAX)));
        due.take(count_max).map(|(_, ino)| *ino).collect()
    }

    fn first_due(&self) -> Option<Duration> {
        self.by_due.first().map(|(due, _)| *due)
    }
}

impl ClientCore {
    /// What the next open of a file that is about to be forgotten needs to know, if a lease keeps it true.
    pub(crate) fn data_known(&self, file: &File) -> Option<DataKnown> {
        let ino = file.attr.ino;
        let leased = self.holds(ino, LeaseMode::Read) && self.cache.has_attr(ino);
        let layout = file.layout.clone().filter(|_| leased && file.begun.is_none())?;
        Some((file.attr.version, DataPlace { layout, inline: file.inline_told() }))
    }

    /// Opens a file without asking its volume, which counts it as open here: it was closed lately, or is open. True when
    /// that was possible.
    pub(crate) fn open_known(&mut self, id: OpId, ino: Ino, flags: OpenFlags) -> bool {
        let mode = if flags.write { LeaseMode::Write } else { LeaseMode::Read };
        let known = self.cache.attr(ino).or_else(|| self.attr_ahead(ino));
        let Some(attr) = known.filter(|_| self.holds(ino, mode)) else {
            return false;
        };
        let is_open = |file: &File| file.server_opens > 0 && !file.asked_whether_there;
        if !self.files.get(&ino).is_some_and(is_open) && !self.open_closed(&attr) {
            return false;
        }
        self.opened(id, attr, false, (flags, false, None));
        true
    }

    /// A file that was closed lately goes on.
    fn open_closed(&mut self, attr: &Attr) -> bool {
        let ino = attr.ino;
        let volume = self.volumes.get_mut(&ino.volume());
        let put_off = volume.and_then(|volume| volume.put_off.get_mut(ino));
        // A change of ours that named the file, not an open one, may have moved its data.
        let data = put_off.and_then(|put_off| put_off.data.take());
        let Some((_, place)) = data.filter(|(version, _)| *version == attr.version) else {
            return false;
        };
        self.open_file(attr, Some(place.layout));
        self.learn_inline(ino, attr.version, place.inline);
        true
    }

    /// The file is open here; `layout`, where its data is, is not new.
    pub(crate) fn open_file(&mut self, attr: &Attr, layout: Option<Layout>) -> &mut File {
        self.touched.insert(attr.ino);
        self.rejoin(attr.ino);
        let known = self.versions.take(attr.ino);
        let overtaken = self.is_overtaken(attr);
        let file = self.files.entry(attr.ino).or_insert_with(|| {
            let mut file = File::new(*attr, layout);
            file.pages = known.map_or(Pages::Unknown, Pages::Of);
            file
        });
        // A lease may have come with it.
        file.without_capabilities = false;
        file.learn(attr, overtaken);
        self.take_back_release(attr.ino);
        self.files.get_mut(&attr.ino).expect("just put there")
    }

    /// The volume is told later that nobody has the file open.
    pub(crate) fn put_release_off(
        &mut self,
        ino: Ino,
        (count, kept): (u32, Option<u32>),
        data: Option<DataKnown>,
    ) {
        let Some(volume) = self.volumes.get_mut(&ino.volume()) else { return };
        let due = self.now + if data.is_some() { OPEN_KEPT } else { RELEASE_DELAY };
        *volume.releasing.entry(ino).or_default() += count;
        volume.put_off.insert(ino, PutOff { count, kept, data, due });
        // Many, which do not wait for more; or more than may be kept: those that were closed first.
        let soon = volume.put_off.due(self.now + RELEASE_DELAY, RELEASES_PUT_OFF_MAX);
        if soon.len() >= RELEASES_PUT_OFF_MAX {
            return self.send_releases(ino.volume(), soon);
        }
        if volume.put_off.by_ino.len() >= OPENS_KEPT_MAX {
            let first = volume.put_off.due(Duration::MAX, RELEASES_PUT_OFF_MAX);
            return self.send_releases(ino.volume(), first);
        }
        self.releases_due = Some(self.releases_due.map_or(due, |before| before.min(due)));
    }

    /// The file is opened again: what was not given back yet stays.
    pub(crate) fn take_back_release(&mut self, ino: Ino) {
        let Some(volume) = self.volumes.get_mut(&ino.volume()) else { return };
        let Some(PutOff { count, kept, .. }) = volume.put_off.remove(ino) else { return };
        self.release_answered(ino, count);
        let file = self.files.get_mut(&ino).expect("it was just opened");
        file.server_opens += count;
        debug_assert!(file.kept.is_none() || kept.is_none(), "a file has one record");
        file.kept = file.kept.or(kept);
    }

    /// The lease that says how a file is may go, or the file itself: what was put off is not any longer.
    pub(crate) fn release_now(&mut self, ino: Ino) {
        let id = ino.volume();
        if self.volumes.get_mut(&id).is_some_and(|volume| volume.put_off.get_mut(ino).is_some()) {
            self.send_releases(id, vec![ino]);
        }
    }

    /// A removal of this name is about to be asked for: what is closed here goes with its last name, at once.
    pub(crate) fn release_before_removal(&mut self, parent: Ino, name: &[u8]) {
        let known = self.cache.name(parent, name).filter(|_| self.holds(parent, LeaseMode::Read));
        match known {
            Some(Some(child)) => self.release_now(child),
            Some(None) => {}
            None => self.send_all_releases(parent.volume()),
        }
    }

    pub(crate) fn send_all_releases(&mut self, id: VolumeId) {
        let Some(volume) = self.volumes.get(&id) else { return };
        let all = volume.put_off.due(Duration::MAX, usize::MAX);
        self.send_releases(id, all);
    }

    /// Gives back what was put off.
    fn send_releases(&mut self, id: VolumeId, inodes: Vec<Ino>) {
        for ino in inodes {
            let Some(volume) = self.volumes.get_mut(&id) else { return };
            let Some(PutOff { count, kept, .. }) = volume.put_off.remove(ino) else { continue };
            self.closed_files.extend(kept);
            let request = MetaRequest::Release { ino, count, atime: None };
            self.meta_call(ino, Caller::default(), &request, Purpose::Release { ino, count });
        }
    }

    /// The same for all volumes, when it is time.
    pub(crate) fn send_releases_due(&mut self) {
        if self.releases_due.take_if(|due| *due <= self.now).is_none() {
            return;
        }
        let volumes: Vec<VolumeId> = self.volumes.keys().copied().collect();
        for id in volumes {
            let due = self.volumes[&id].put_off.due(self.now + RELEASES_TOGETHER, usize::MAX);
            self.send_releases(id, due);
        }
        let put_offs = self.volumes.values().map(|volume: &Volume| &volume.put_off);
        self.releases_due = put_offs.filter_map(PutOffs::first_due).min();
    }

    /// Gives opens back to the volume.
    pub(crate) fn give_opens_back(&mut self, ino: Ino, count: u32, atime: Option<Time>) {
        if count == 0 {
            return;
        }
        let Some(volume) = self.volumes.get_mut(&ino.volume()) else { return };
        *volume.releasing.entry(ino).or_default() += count;
        if atime.is_some() {
            self.cache.drop_attr(ino);
        }
        let request = MetaRequest::Release { ino, count, atime };
        self.meta_call(ino, Caller::default(), &request, Purpose::Release { ino, count });
    }

    pub(crate) fn release_answered(&mut self, ino: Ino, count: u32) {
        let volume = self.volumes.get_mut(&ino.volume()).expect("volumes stay");
        if let Some(left) = volume.releasing.get_mut(&ino) {
            *left -= count;
            if *left == 0 {
                volume.releasing.remove(&ino);
            }
        }
    }
}
