//! Changes that a program does not wait for.
//!
//! What a file has alone under our lease to write may be answered before its volume has made it durable, as data is:
//! attributes that a program sets, and at a close the data and the length that the volume is told. It is written down for a
//! successor and asked again of a restarted server, once; another mount that looks has the lease recalled, which waits for
//! it; an fsync waits for it, and tells of its failure. So it is lost only with this machine, in the moment before the
//! volume's log has it.
//!
//! What the volume makes of such a change is known here, with the time of the change, which we say: who looks at the file
//! meanwhile is told that, and waits for nothing.
//!
//! Where nobody waits, several are better than one: they are held back for a moment, and sent with what is asked of the same
//! server next. So they share a message, a waking of the server and a write of its log. Changes of one file are made in the order
//! of the calls: each is sent when the one before is answered.

use weft_net::link::Request;
use weft_wire::meta::{Attr, MetaReply, MetaRequest, SetAttr, Time, TimeSet};
use weft_wire::session::FEATURE_CTIME;
use weft_wire::{Ino, Kind, LeaseMode, VolumeId};

use crate::core::{ClientCore, at};
use crate::file::File;
use crate::limits::{HELD_WAIT, WARY};
use crate::op::{FsOp, FsReply, LinkId, OpId, Ttl};
use crate::state::{Answer, OpKind, Purpose, errno};
use crate::volume::Volume;

const PERMISSION_BITS: u32 = 0o7777;

/// Changes of attributes of which programs were told and the volume has said nothing yet.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    count: u32,
    /// What they come to.
    set: SetAttr,
}

impl Behind {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn add(&mut self, set: &SetAttr) {
        let old = &mut self.set;
        old.mode = set.mode.or(old.mode);
        old.uid = set.uid.or(old.uid);
        old.gid = set.gid.or(old.gid);
        old.atime = set.atime.or(old.atime);
        old.mtime = set.mtime.or(old.mtime);
        old.ctime = set.ctime.max(old.ctime);
        self.count += 1;
    }

    fn answered(&mut self) {
        self.count = self.count.saturating_sub(1);
        if self.count == 0 {
            self.set = SetAttr::default();
        }
    }

    /// They are not going to happen.
    pub(crate) fn give_up(&mut self) {
        self.set = SetAttr::default();
    }

    /// A write makes a time of its own.
    pub(crate) fn written(&mut self) {
        self.set.mtime = None;
    }

    /// The time of change that they set.
    pub(crate) fn mtime(&self) -> Option<Time> {
        to_time(self.set.mtime)
    }

    /// `attr` as it will be.
    pub(crate) fn overlay(&self, attr: &mut Attr) {
        let mode = self.set.mode.map(|mode| attr.mode & !PERMISSION_BITS | mode & PERMISSION_BITS);
        attr.mode = mode.unwrap_or(attr.mode);
        attr.uid = self.set.uid.unwrap_or(attr.uid);
        attr.gid = self.set.gid.unwrap_or(attr.gid);
        attr.atime = to_time(self.set.atime).unwrap_or(attr.atime);
        attr.mtime = to_time(self.set.mtime).unwrap_or(attr.mtime);
        attr.ctime = attr.ctime.max(self.set.ctime.unwrap_or(attr.ctime));
    }
}

fn to_time(set: Option<TimeSet>) -> Option<Time> {
    match set {
        Some(TimeSet::To(time)) => Some(time),
        _ => None,
    }
}

/// The same change by our clock, of a file that was changed last at `changed`.
fn by_our_clock(set: SetAttr, now: Time, changed: Time) -> SetAttr {
    // Programs tell by it that something changed, also where the volume's clock is ahead of ours.
    let ctime = now.max(changed.next());
    let time = |wanted: Option<TimeSet>| {
        wanted.map(|time| match time {
            TimeSet::Now => TimeSet::To(now),
            to => to,
        })
    };
    SetAttr { atime: time(set.atime), mtime: time(set.mtime), ctime: Some(ctime), ..set }
}

impl File {
    /// Whether something of it is at the volume that nobody may wait for.
    fn is_ahead(&self) -> bool {
        let data = self.inline.is_some() && self.writes.any_at_volume();
        data || !self.behind.is_empty() || self.telling.in_flight.is_some()
    }
}

impl ClientCore {
    /// Whether a change of this file that is asked for now needs no waiting: it is ours alone, the volume's server is there
    /// and takes it at once, and nothing goes on that it could disturb.
    pub(crate) fn may_go_ahead(&self, ino: Ino) -> bool {
        let (Some(file), Some(volume)) = (self.files.get(&ino), self.volumes.get(&ino.volume()))
        else {
            return false;
        };
        let asked = file.asking || file.asked_whether_there;
        let calm = !file.is_held() && !file.is_moving() && !asked && file.server_opens > 0;
        let willing = volume.reopening.is_empty() && volume.wary_until <= self.now;
        let takes = willing && volume.has_room() && self.may_send_change();
        let there = self.links[at(volume.link)].is_answering(self.now);
        calm && takes && there && self.holds(ino, LeaseMode::Write)
    }

    /// Answers a change of attributes before the volume has, if that may be.
    pub(crate) fn set_attr_behind(&mut self, id: OpId, ino: Ino, set: SetAttr) -> bool {
        self.send_writes(ino);
        let Some(file) = self.files.get(&ino) else { return false };
        // Data that goes to the inode makes a time of change: it is to be there before. Of data for the targets that time is
        // told with the length.
        let unsent = file.inline.is_some() && file.writes.any_unsent();
        let unsure = file.attr_unsure && !self.cache.has_attr(ino);
        let able = set.size.is_none() && self.offers(ino.volume(), FEATURE_CTIME);
        if unsent || unsure || !able || !self.may_go_ahead(ino) {
            return false;
        }
        let set = by_our_clock(set, self.wall(), file.overlay(file.attr).ctime);
        let request = MetaRequest::SetAttr { ino, set };
        let caller = self.ops[&id].caller;
        if !self.meta_call(ino, caller, &request, Purpose::SetAttrBehind { ino }) {
            return false;
        }
        self.touched.insert(ino);
        let file = self.files.get_mut(&ino).expect("looked at above");
        file.owned = true;
        file.behind.add(&set);
        if let Some(mtime) = file.behind.mtime().filter(|_| file.local_mtime.is_some()) {
            file.local_mtime = Some(mtime);
        }
        let attr = file.overlay(file.attr);
        self.finish(id, Ok(FsReply::Attr(attr, Ttl::default())));
        true
    }

    pub(crate) fn set_attr_behind_answered(&mut self, ino: Ino, answer: &Answer) {
        let reply = answer.meta(Kind::SetAttr);
        let overtaken = self.is_reply_overtaken(&reply);
        let Some(file) = self.files.get_mut(&ino) else { return };
        self.touched.insert(ino);
        file.behind.answered();
        match reply {
            Ok(MetaReply::Attr(attr)) => {
                file.changed_by_us(&attr);
                file.learn(&attr, overtaken);
                file.drop_overlays();
                self.learn_with(attr, answer.lease);
            }
            reply => {
                tracing::warn!(%ino, status = %answer.status, "attributes of a file were not changed");
                file.fail(reply.err().unwrap_or(errno::EIO));
                self.refused(ino);
            }
        }
    }

    /// The volume refused what programs do not wait for: its log fails, or it is full. They are told of the next themselves.
    pub(crate) fn refused(&mut self, ino: Ino) {
        let until = self.now + WARY;
        if let Some(volume) = self.volumes.get_mut(&ino.volume()) {
            volume.wary_until = until;
        }
    }

    /// A change that nobody waits for: it is sent with the next request to its server, or soon.
    pub(crate) fn hold(&mut self, id: VolumeId, request: Request) {
        let due = self.now + HELD_WAIT;
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        volume.held.push(request);
        volume.held_due.get_or_insert(due);
    }

    /// Sends what was held back for this link: before all that is asked after it. Of a file one at a time, or a server that is
    /// too busy for one of them would make them in another order.
    pub(crate) fn send_held(&mut self, link: LinkId) {
        let now = self.now;
        for volume in self.volumes.values_mut() {
            if volume.link != link || volume.held.is_empty() {
                continue;
            }
            for request in std::mem::take(&mut volume.held) {
                let ino = self.calls.get(&request.tag).and_then(|call| call.purpose.behind());
                if let Some(file) = ino.and_then(|ino| self.files.get_mut(&ino)) {
                    if file.sent_behind > 0 {
                        volume.held.push(request);
                        continue;
                    }
                    file.sent_behind += 1;
                }
                self.links[at(link)].submit(request, now);
                self.live_links.insert(link);
            }
            volume.held_due = (!volume.held.is_empty()).then(|| now + HELD_WAIT);
        }
    }

    /// Somebody waits for what is held of this file.
    pub(crate) fn hurry(&mut self, ino: Ino) {
        if let Some(volume) = self.volumes.get(&ino.volume()).filter(|it| !it.held.is_empty()) {
            self.send_held(volume.link);
        }
    }

    pub(crate) fn send_held_due(&mut self) {
        let due = |volume: &&Volume| volume.held_due.is_some_and(|due| due <= self.now);
        let links: Vec<LinkId> = self.volumes.values().filter(due).map(|it| it.link).collect();
        links.into_iter().for_each(|link| self.send_held(link));
    }

    /// Whether attributes of the file were set that the volume may not have.
    pub(crate) fn is_behind(&self, ino: Ino) -> bool {
        self.files.get(&ino).is_some_and(|file| !file.behind.is_empty())
    }

    /// The operation waits until these are there.
    pub(crate) fn wait_with(&mut self, id: OpId, ino: Ino, op: FsOp) {
        self.set_kind(id, OpKind::XattrWaiting(Some(op)));
        if let Some(file) = self.files.get_mut(&ino) {
            file.waiting.push(id);
        }
        self.hurry(ino);
    }

    /// It may be time for it.
    pub(crate) fn go_on_with(&mut self, id: OpId) {
        let Some(OpKind::XattrWaiting(op)) = self.ops.get_mut(&id).map(|op| &mut op.kind) else {
            return;
        };
        let op = op.take().expect("put there by whoever waits");
        if let Err(code) = self.begin_xattr(id, op) {
            self.finish(id, Err(code));
        }
    }

    /// Attributes of a file of which something is on its way to the volume, as they will be.
    pub(crate) fn attr_ahead(&self, ino: Ino) -> Option<Attr> {
        let file = self.files.get(&ino).filter(|file| file.is_ahead() && !file.attr_unsure)?;
        self.holds(ino, LeaseMode::Write).then(|| file.overlay(file.attr))
    }
}
