//! What this mount may cache and for how long, and how it gives leases back.
//!
//! - A lease holds while its server was heard of lately ([`weft_net::link::Link::leases_until`]); it ends with a recall, or when the
//!   session was fenced off. In between it sleeps, and wakes when the server answers again.
//! - A recall is answered when what was written is at the servers and the kernel has forgotten. Of the kernel's pages
//!   that is waited for only while no write of the file waits: the kernel may keep a page locked that such a write
//!   brings, and the write may wait for us.
//!
//! See `server/core/doc/leases.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_wire::lease::{Recall, Reclaim, Reclaimed};
use weft_wire::limits::RECALL_COUNT_MAX;
use weft_wire::meta::{Attr, DataWrite, MetaReply, MetaRequest, MoveStep, SetAttr};
use weft_wire::session::{FEATURE_FENCES, FENCE_ENDED, Welcome};
use weft_wire::{Ino, Kind, LeaseBits, LeaseMode, Status, VolumeId};

use crate::core::{ClientCore, at};
use crate::file::{File, Pages};
use crate::limits::{KNOWN_RETRY, OVERTAKING_MAX};
use crate::op::{Caller, FsReply, LinkId, OpId, Output, Ttl};
use crate::planted::{self, Bug};
use crate::state::{Answer, Call, Op, OpKind, Purpose, errno};

/// What a change of ours makes unknown, when it is sent and again when it is answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    inodes: Vec<Ino>,
    /// Those of them of which the answer says nothing.
    untold: Vec<Ino>,
    names: Vec<(Ino, Vec<u8>)>,
    /// Whom a name leads to was not known, so any attributes may change.
    any: bool,
    /// The inode whose extended attributes change.
    xattrs: Option<Ino>,
}

impl Changes {
    /// What a request changes.
    pub(crate) fn of(request: &MetaRequest<'_>) -> Changes {
        let place = |parent: &Ino, name: &[u8]| (*parent, name.to_vec());
        let names = match request {
            // A file without a name.
            MetaRequest::Make { name: [], .. } => Vec::new(),
            MetaRequest::Make { parent, name, .. }
            | MetaRequest::Unlink { parent, name }
            | MetaRequest::Rmdir { parent, name }
            | MetaRequest::Link { parent, name, .. } => vec![place(parent, name)],
            MetaRequest::Rename { parent, name, new_parent, new_name, .. } => {
                vec![place(parent, name), place(new_parent, new_name)]
            }
            _ => Vec::new(),
        };
        let mut inodes: Vec<Ino> = names.iter().map(|(parent, _)| *parent).collect();
        match request {
            MetaRequest::SetAttr { ino, .. }
            | MetaRequest::SetXattr { ino, .. }
            | MetaRequest::RemoveXattr { ino, .. }
            | MetaRequest::SetLayout { ino, .. }
            | MetaRequest::Wrote { ino, .. }
            | MetaRequest::WriteData(DataWrite { ino, .. })
            | MetaRequest::MoveData { ino, .. }
            | MetaRequest::Link { ino, .. } => inodes.push(*ino),
            _ => {}
        }
        let xattrs = match request {
            MetaRequest::SetXattr { ino, .. } => Some(*ino),
            _ => None,
        };
        let untold = match request {
            MetaRequest::SetXattr { ino, .. } | MetaRequest::RemoveXattr { ino, .. } => vec![*ino],
            _ => Vec::new(),
        };
        Changes { inodes, untold, names, any: false, xattrs }
    }
}

/// What was asked before a change of ours was answered, and is answered after it, may be older than the change: of inodes of
/// which the change's answer said nothing, as that of an unlink says nothing of the file, that is not told by the answer;
/// where it told a version, that tells.
#[derive(Debug, Default)]
pub(crate) struct Overtaking {
    inodes: BTreeMap<Ino, Changed>,
    /// The same of all inodes.
    all: Changed,
}

/// A change that was answered.
#[derive(Clone, Copy, Debug, Default)]
struct Changed {
    /// The first tag asked after that.
    since: u64,
    /// The tag of the answer, which knows better.
    by: u64,
    /// The version that it told of the inode.
    told: Option<u64>,
}

/// No call has this tag.
const NO_ANSWER: u64 = u64::MAX;

impl Changed {
    /// Whether what the answer to `tag` says may be from before; `version` is the inode's, where it tells one.
    fn overtakes(&self, tag: u64, version: Option<u64>) -> bool {
        let newer = self.told.is_some_and(|told| version.is_some_and(|version| version >= told));
        tag < self.since && tag != self.by && !newer
    }
}

impl Overtaking {
    /// The change of that `tag` was answered, when `oldest` was the oldest call under way and `next` the next tag. `told`: the
    /// inode of which it told the attributes, and their version.
    pub(crate) fn changed(
        &mut self,
        changes: &Changes,
        (tag, told): (u64, Option<(Ino, u64)>),
        oldest: Option<u64>,
        next: u64,
    ) {
        let oldest = oldest.unwrap_or(next);
        // Its own answer is looked at next.
        self.inodes.retain(|_, changed| oldest.min(tag) < changed.since);
        if oldest == next {
            return;
        }
        let by = |overtaken| if overtaken { NO_ANSWER } else { tag };
        if changes.any || self.inodes.len() + changes.inodes.len() > OVERTAKING_MAX {
            let inodes = std::mem::take(&mut self.inodes);
            let known = |changed: &Changed| changed.overtakes(tag, None);
            let overtaken = known(&self.all) || inodes.values().any(known);
            self.all = Changed { since: next, by: by(overtaken), told: None };
            return;
        }
        for ino in &changes.inodes {
            let version = told.filter(|(of, _)| of == ino).map(|(_, version)| version);
            // A change may itself be overtaken by one that was asked later: then it knows no better.
            let overtaken = self.may_overtake(*ino, tag, version);
            let told = version.filter(|_| !overtaken);
            self.inodes.insert(*ino, Changed { since: next, by: by(overtaken), told });
        }
    }

    /// Whether attributes of `ino` in the answer to `tag` may be from before a change that was answered already.
    pub(crate) fn may_overtake(&self, ino: Ino, tag: u64, version: Option<u64>) -> bool {
        let known = self.inodes.get(&ino);
        self.all.overtakes(tag, version) || known.is_some_and(|it| it.overtakes(tag, version))
    }
}

/// The inode whose attributes an answer to a change tells, and their version.
pub(crate) fn told_version(kind: Kind, answer: &Answer) -> Option<(Ino, u64)> {
    if !matches!(kind, Kind::Wrote | Kind::WriteData | Kind::SetAttr) {
        return None;
    }
    match answer.meta(kind) {
        Ok(MetaReply::Attr(attr)) => Some((attr.ino, attr.version)),
        _ => None,
    }
}

/// The extended attribute with a file's capabilities.
pub(crate) const CAPABILITIES: &[u8] = b"security.capability";

/// The leases a request asks for.
pub(crate) fn wanted(request: &MetaRequest<'_>) -> LeaseBits {
    let read = LeaseBits::READ;
    let names_and_parents = LeaseBits::NAMES.with(LeaseBits::PARENTS);
    match request {
        MetaRequest::Lookup { .. } => read.with(LeaseBits::NAMES),
        MetaRequest::Make { name: [], .. } => LeaseBits::WRITE.with(LeaseBits::NAMES),
        MetaRequest::Make { how, .. } if how.open => LeaseBits::WRITE.with(names_and_parents),
        MetaRequest::Make { .. } | MetaRequest::Link { .. } => read.with(names_and_parents),
        MetaRequest::Unlink { .. } | MetaRequest::Rmdir { .. } | MetaRequest::Rename { .. } => {
            LeaseBits::PARENTS
        }
        MetaRequest::ReadDir { plus: true, .. } => read.with(LeaseBits::NAMES),
        MetaRequest::ReadDir { .. }
        | MetaRequest::GetAttr { .. }
        | MetaRequest::GetData { .. }
        | MetaRequest::WriteData(_)
        | MetaRequest::MoveData { .. }
        | MetaRequest::GetXattr { name: CAPABILITIES, .. }
        | MetaRequest::Open { .. }
        | MetaRequest::SetAttr { .. }
        | MetaRequest::Wrote { .. } => read,
        _ => LeaseBits::NONE,
    }
}

/// A recall that is not answered.
#[derive(Debug)]
pub(crate) struct Recalling {
    link: LinkId,
    id: u64,
    inodes: Vec<Ino>,
    /// The kernel has forgotten names and attributes; and the pages.
    forgotten: bool,
    pages_dropped: bool,
}

/// Who waits until the kernel has forgotten something.
#[derive(Debug)]
pub(crate) enum Forgetting {
    /// A recall, by its own number.
    Recall(u64),
    /// An operation that is answered then.
    Op(OpId),
    /// A write that goes on as soon as attributes are forgotten.
    Write(OpId),
    /// Volumes that are told then that we are back, each in its place in [`crate::volume::Volume::reopening`].
    Return(Vec<(VolumeId, u64)>),
    /// Nobody.
    Nobody,
}

impl ClientCore {
    /// How long leases of a volume hold from now on.
    pub(crate) fn leases_left(&self, volume: VolumeId) -> Duration {
        let link = self.volumes.get(&volume).map(|volume| volume.link);
        let until = link.map_or(Duration::ZERO, |link| self.links[at(link)].leases_until());
        until.saturating_sub(self.now)
    }

    /// Whether the server of a volume grants leases.
    pub(crate) fn server_leases(&self, volume: VolumeId) -> bool {
        let link = self.volumes.get(&volume).map(|volume| volume.link);
        link.is_some_and(|link| !self.links[at(link)].leases_until().is_zero())
    }

    /// Whether the lease on `ino` allows this now.
    pub(crate) fn holds(&self, ino: Ino, mode: LeaseMode) -> bool {
        let has = self.cache.mode(ino);
        let enough = if mode == LeaseMode::Through { has == mode } else { has >= mode };
        enough && !self.leases_left(ino.volume()).is_zero()
    }

    /// How long the kernel may keep a name of `parent`, and the attributes of `ino`, from a reply that brings them. What
    /// came without a lease, or is being changed by us, is asked for anew.
    pub(crate) fn ttl_of(&self, parent: Option<Ino>, ino: Ino) -> Ttl {
        let left = |ino: Ino, max: Duration| match self.holds(ino, LeaseMode::Read) {
            true => self.leases_left(ino.volume()).min(max),
            false => Duration::ZERO,
        };
        let entry = parent.filter(|_| self.config.kernel_forgets_names);
        Ttl {
            entry: entry.map_or(Duration::ZERO, |parent| left(parent, self.config.entry_ttl)),
            attr: match self.pages_are_stale(ino) || !self.cache.has_attr(ino) {
                true => Duration::ZERO,
                false => left(ino, self.config.attr_ttl),
            },
        }
    }

    /// The same for a reply that may bring an inode the kernel does not know yet: it takes its attributes some time
    /// after we sent them, and a recall in between would not find them.
    pub(crate) fn ttl_of_new(&self, parent: Option<Ino>, ino: Ino) -> Ttl {
        let ttl = self.ttl_of(parent, ino);
        if self.others { Ttl { attr: Duration::ZERO, ..ttl } } else { ttl }
    }

    /// The kernel must not read a file's pages before it was told to forget them, which a `GetAttr` does.
    fn pages_are_stale(&self, ino: Ino) -> bool {
        self.files.get(&ino).is_some_and(|file| !file.pages.agree(file.attr.version))
    }

    /// A reply granted these leases on `ino`.
    pub(crate) fn granted(&mut self, ino: Ino, lease: LeaseBits) {
        self.others = lease.has(LeaseBits::OTHERS) || (self.others && lease == LeaseBits::NONE);
        self.grant(ino, lease.mode());
    }

    fn grant(&mut self, ino: Ino, mode: LeaseMode) {
        let (files, lingering) = (&self.files, &self.lingering.files);
        let is_pinned = |ino| files.contains_key(&ino) || lingering.contains_key(&ino);
        self.cache.grant(ino, mode, is_pinned);
    }

    /// The same of a reply that tells attributes.
    pub(crate) fn is_reply_overtaken(&self, reply: &Result<MetaReply, i32>) -> bool {
        matches!(reply, Ok(MetaReply::Attr(attr)) if self.is_overtaken(attr))
    }

    /// Takes attributes a volume sent with a lease or without one; gives them back as a program must see them.
    pub(crate) fn learn_with(&mut self, attr: Attr, lease: LeaseBits) -> Attr {
        self.granted(attr.ino, lease);
        if lease.mode() >= LeaseMode::Read && !self.is_overtaken(&attr) {
            self.cache.put_attr(&attr);
        } else {
            match self.cache.attr(attr.ino) {
                // An answer that was overtaken.
                Some(known) if known.version > attr.version => return self.learn(known),
                Some(known) if known.version < attr.version => self.cache.drop_attr(attr.ino),
                _ => {}
            }
        }
        self.learn(attr)
    }

    /// Whether what the answer that is being taken in says of an inode may be from before a later one.
    pub(crate) fn is_overtaken(&self, attr: &Attr) -> bool {
        self.overtaking.may_overtake(attr.ino, self.answering, Some(attr.version))
    }

    /// Attributes of the directories that a change of ours changed.
    pub(crate) fn learn_parents(&mut self, parents: &[Attr]) {
        for attr in parents {
            self.grant(attr.ino, LeaseMode::Read);
            self.cache.put_attr(attr);
        }
    }

    /// A name was looked up or made.
    pub(crate) fn learn_name(
        &mut self,
        parent: Ino,
        name: &[u8],
        ino: Option<Ino>,
        lease: LeaseBits,
    ) {
        if lease.has(LeaseBits::NAMES) {
            if self.cache.mode(parent) < LeaseMode::Read {
                self.grant(parent, LeaseMode::Read);
            }
            if let Some(ino) = ino {
                self.grant(ino, lease.mode());
            }
            self.cache.put_name(parent, name, ino);
        }
    }

    /// Attributes that need no message.
    pub(crate) fn known_attr(&mut self, ino: Ino) -> Option<Attr> {
        match self.cache.attr(ino).filter(|_| self.holds(ino, LeaseMode::Read)) {
            Some(attr) => Some(self.learn(attr)),
            None => self.attr_ahead(ino),
        }
    }

    /// A name that needs no message: its attributes, or that it is not there.
    pub(crate) fn known_name(&mut self, parent: Ino, name: &[u8]) -> Option<Option<Attr>> {
        if !self.holds(parent, LeaseMode::Read) {
            return None;
        }
        match self.cache.name(parent, name)? {
            Some(ino) => self.known_attr(ino).map(Some),
            None => Some(None),
        }
    }

    /// A change of ours is sent, or answered: what it makes different is not known.
    ///
    /// At the answer names are known only when they were looked up in between: then whom they lead to counts as well.
    pub(crate) fn forget_changed(&mut self, changes: &mut Changes, sent: bool) {
        for (parent, name) in &changes.names {
            match self.cache.name(*parent, name) {
                Some(Some(child)) => {
                    changes.inodes.push(child);
                    changes.untold.push(child);
                }
                Some(None) => {}
                // Whoever it is, its count of names or its times change.
                None => changes.any |= sent,
            }
            self.cache.drop_name(*parent, name);
        }
        changes.inodes.iter().for_each(|ino| self.cache.drop_attr(*ino));
        self.make_unsure(changes);
        if let Some(ino) = changes.xattrs {
            self.cache.set_no_capabilities(ino, false);
            if let Some(file) = self.files.get_mut(&ino) {
                file.without_capabilities = false;
            }
        }
        if changes.any {
            self.cache.drop_attrs();
        }
    }

    /// What the answer to a change will not tell of files that are open here.
    fn make_unsure(&mut self, changes: &Changes) {
        if changes.any {
            return self.files.values_mut().for_each(|file| file.attr_unsure = true);
        }
        for ino in changes.untold.iter() {
            if let Some(file) = self.files.get_mut(ino) {
                file.attr_unsure = true;
            }
        }
    }

    /// A change ended that nobody waits for any more: the kernel does not know that it happened.
    pub(crate) fn change_unheard(&mut self, changes: &Changes) {
        if !changes.inodes.is_empty() || !changes.names.is_empty() {
            self.kernel_forgets(
                changes.inodes.clone(),
                !changes.names.is_empty(),
                Forgetting::Nobody,
            );
        }
    }

    /// Has the kernel forget inodes, and names if there are any.
    pub(crate) fn kernel_forgets(&mut self, inodes: Vec<Ino>, names: bool, who: Forgetting) {
        let id = self.next_forgetting;
        self.next_forgetting += 1;
        for ino in &inodes {
            if let Some(file) = self.files.get_mut(ino) {
                file.dropping = Some(id);
            }
        }
        self.forgetting.insert(id, (who, inodes.clone()));
        self.push(Output::Forget { id, inodes, names });
    }

    /// The kernel did what an [`Output::Forget`] says: it has forgotten names and attributes, or with `pages` data, too.
    pub fn kernel_forgot(&mut self, id: u64, pages: bool, now: Duration) {
        self.now = now;
        let Some((who, inodes)) = self.forgetting.get(&id) else { return };
        for ino in inodes.iter().filter(|_| pages) {
            let Some(file) = self.files.get_mut(ino) else { continue };
            if file.dropping.take_if(|order| *order == id).is_some() {
                file.pages = Pages::None;
            }
        }
        match who {
            Forgetting::Recall(number) => {
                let number = *number;
                if let Some(recalling) = self.recalls.get_mut(&number) {
                    recalling.forgotten = true;
                    recalling.pages_dropped |= pages;
                }
            }
            Forgetting::Return(volumes) => {
                let volumes = volumes.clone();
                volumes.into_iter().for_each(|(volume, tag)| self.send_return(volume, tag));
            }
            Forgetting::Write(op) => {
                let op = *op;
                self.set_ids_taken(op);
            }
            Forgetting::Op(op) if pages => {
                let op = *op;
                if let Some(OpKind::Forgetting { reply }) =
                    self.ops.get_mut(&op).map(|op| &mut op.kind)
                {
                    let reply = reply.take().expect("answered once");
                    self.finish(op, reply);
                }
            }
            _ => {}
        }
        if pages {
            self.forgetting.remove(&id);
        }
        self.settle();
    }

    /// Attributes the kernel asked for. Before it has them it forgets pages of another version.
    ///
    /// An order to forget makes it take no notice of attributes that it asked for before, as they may be older: a read
    /// would then end where the file ended once. So, where they show a change, they are the order: told another length or
    /// time of change the kernel drops the pages itself. That it did is not known, so that the next such question,
    /// whose answer then brings no other length, gives the order.
    pub(crate) fn finish_attr(&mut self, id: OpId, attr: Attr) {
        let known = self.files.get(&attr.ino).is_some_and(|file| !file.tells_change(&attr));
        if known && self.pages_are_stale(attr.ino) {
            let reply = FsReply::Attr(attr, self.ttl_of(None, attr.ino));
            self.set_kind(id, OpKind::Forgetting { reply: Some(Ok(reply)) });
            return self.kernel_forgets(vec![attr.ino], false, Forgetting::Op(id));
        }
        self.finish(id, Ok(FsReply::Attr(attr, self.ttl_of(None, attr.ino))));
    }

    /// An extended attribute was changed for a program. It may be an ACL, which changes the mode: the next look at the
    /// file must not be the one that orders the kernel to forget, as the kernel would take no notice of the mode it
    /// brings ([`Self::finish_attr`]), and refuse whom the ACL lets in. Pages that are not known to be right are
    /// forgotten before the program goes on.
    pub(crate) fn finish_xattr_change(&mut self, id: OpId, ino: Ino) {
        let leased = self.holds(ino, LeaseMode::Read);
        let stale = self.files.get_mut(&ino).is_some_and(|file| !file.changed_beside_data(leased));
        if stale {
            self.set_kind(id, OpKind::Forgetting { reply: Some(Ok(FsReply::Done)) });
            return self.kernel_forgets(vec![ino], false, Forgetting::Op(id));
        }
        self.finish(id, Ok(FsReply::Done));
    }

    /// A server wants leases back.
    pub(crate) fn recall(&mut self, link: LinkId, id: u64, recall: &Recall) {
        self.others = true;
        if self.recalls.values().any(|known| known.link == link && known.id == id) {
            return; // Asked again on a new connection.
        }
        let mut inodes = Vec::new();
        for (ino, keep) in &recall.inodes {
            inodes.push(*ino);
            self.cache.lower(*ino, *keep);
            self.push_run_out(*ino);
            self.touched.insert(*ino);
        }
        let taken: Vec<Ino> = recall
            .inodes
            .iter()
            .filter(|(_, keep)| *keep < LeaseMode::Read)
            .map(|(ino, _)| *ino)
            .collect();
        let number = self.next_recall;
        self.next_recall += 1;
        let nothing = taken.is_empty();
        let recalling = Recalling { link, id, inodes, forgotten: nothing, pages_dropped: nothing };
        self.recalls.insert(number, recalling);
        for ino in &taken {
            self.let_go_of(*ino);
            self.release_now(*ino);
        }
        if !nothing {
            self.kernel_forgets(taken, true, Forgetting::Recall(number));
        }
    }

    /// Others may write the file from here on: what was acknowledged must not be written again over theirs.
    pub(crate) fn let_go_of(&mut self, ino: Ino) {
        if !planted::is(Bug::KeepBeyondLease)
            && let Some(file) = self.known_file(ino)
        {
            self.unsynced_bytes -= file.unsynced.let_all_go();
        }
    }

    /// Answers the recalls that are done.
    pub(crate) fn finish_recalls(&mut self) {
        let numbers: Vec<u64> = self.recalls.keys().copied().collect();
        for number in numbers {
            let inodes = self.recalls[&number].inodes.clone();
            let mut settled = true;
            for ino in inodes {
                let Some(file) = self.files.get_mut(&ino) else { continue };
                settled &= file.zeroing == 0;
                if !file.is_settled() {
                    file.telling.urgent = file.telling.wanted;
                    settled = false;
                    self.send_wrote(ino);
                    self.hurry(ino);
                }
            }
            let recalling = &self.recalls[&number];
            let done = (settled || planted::is(Bug::ReturnEarly)) && recalling.forgotten;
            if done && (recalling.pages_dropped || self.any_waits(&recalling.inodes)) {
                let recalling = self.recalls.remove(&number).expect("looked at above");
                recalling.inodes.iter().for_each(|ino| self.let_go_if_lost(*ino));
                self.links[at(recalling.link)].returned(recalling.id);
                self.touch_link(recalling.link);
            }
        }
    }

    fn let_go_if_lost(&mut self, ino: Ino) {
        if self.cache.mode(ino) < LeaseMode::Read {
            self.let_go_of(ino);
            if let Some(file) = self.known_file(ino) {
                file.owned = false;
                if file.pages != Pages::None {
                    file.pages = Pages::Unknown;
                }
            }
        }
    }

    /// Whether a write of one of these waits for its lease or for the volume, or a read for what a volume says: the kernel keeps their
    /// pages locked, and they may wait for whoever waits for us.
    fn any_waits(&self, inodes: &[Ino]) -> bool {
        let waits = |op: &Op| match &op.kind {
            OpKind::WriteWaiting { handle, .. } => Some(self.handles.get(handle)?.ino),
            OpKind::ReadWaiting { asked, .. } => Some(self.handles.get(&asked.handle)?.ino),
            OpKind::WriteTold { ino, .. } => Some(*ino),
            _ => None,
        };
        self.ops.values().filter_map(waits).any(|ino| inodes.contains(&ino))
    }

    /// Asks for the lease that a write needs; `alone` for one at the end of the file.
    pub(crate) fn ask_to_write(&mut self, ino: Ino, alone: bool) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        if file.asking {
            return;
        }
        file.asking = true;
        let lease = match alone {
            true => LeaseBits::WRITE.with(LeaseBits::READ),
            false => LeaseBits::WRITE,
        };
        let writer = file.writer;
        let purpose = Purpose::Own { ino };
        let request = self.ask_attributes(ino);
        self.meta_call_leasing(ino, writer, &request, lease, purpose);
    }

    pub(crate) fn own_answered(&mut self, ino: Ino, kind: Kind, answer: &Answer) {
        if !self.files.contains_key(&ino) {
            return self.grant(ino, answer.lease.mode());
        }
        self.touched.insert(ino);
        let reply = answer.meta(kind).and_then(|reply| self.learn_answer(reply, answer.lease));
        let file = self.files.get_mut(&ino).expect("looked at above");
        file.asking = false;
        file.without_capabilities = false;
        match reply {
            Ok(_) => file.answered = Some(Ok(())),
            Err(code) => file.answered = Some(Err(code)),
        }
    }

    /// The session becomes one that a volume asks for after a restart: nothing is granted before. Any change does it,
    /// also one that fails.
    pub(crate) fn make_known(&mut self) {
        let volumes: Vec<VolumeId> = self.volumes.keys().copied().collect();
        for id in volumes {
            let ino = Ino::new(id, 0).expect("a small number");
            let request = MetaRequest::RemoveXattr { ino, name: b"user.weft.mount" };
            self.meta_call(ino, Caller::default(), &request, Purpose::Known);
        }
    }

    /// A volume that could not take a change (its log failed, its disk is full) does not know the session: nothing would ever
    /// be granted, and whoever needs a lease would ask for ever.
    pub(crate) fn known_answered(&mut self, status: Status) {
        if matches!(status, Status::Io | Status::NoSpace | Status::Unavailable) {
            self.known_due.get_or_insert(self.now + KNOWN_RETRY);
        }
    }

    pub(crate) fn make_known_due(&mut self) {
        if self.known_due.take_if(|due| *due <= self.now).is_some() && !self.failed {
            self.make_known();
        }
    }

    /// A server was started again, or had fenced us off: no lease is held.
    fn lose_leases(&mut self) {
        self.cache.forget_all();
        self.recalls.clear();
        for file in self.files.values_mut() {
            file.pages = Pages::Unknown;
        }
    }

    /// What a welcome says of fencing. A volume knows best: where it says less than we heard, it has forgotten us.
    pub(crate) fn look_at_fence(&mut self, link: LinkId, welcome: &Welcome, restarted: bool) {
        let fence = welcome.fence;
        let outlives = welcome.features & FEATURE_FENCES != 0;
        if restarted && !outlives {
            // What such a server remembers is only how often the session was over, and that we know.
            self.fence -= self.fence % FENCE_ENDED;
        }
        if fence <= self.fence {
            if !outlives || self.volumes.values().any(|volume| volume.link == link) {
                self.fence = fence;
            }
        } else {
            self.fence = fence;
            self.fence_count += 1;
            self.fenced_off();
            // Where the session was over, nothing is granted to it before; a write at the end of a file would ask for ever.
            self.make_known();
        }
    }

    /// A connection is there again. If its server is another process, its volumes are told what we still have to write
    /// before anything else, and once the kernel believes nothing any more: then others may go on.
    pub(crate) fn return_to(&mut self, link: LinkId, restarted: bool) {
        let own = self.volumes.iter_mut().filter(|(_, volume)| volume.link == link);
        let mut returning = Vec::new();
        for (id, volume) in own {
            volume.must_return |= restarted;
            if volume.must_return {
                returning.push(*id);
            }
        }
        if returning.is_empty() {
            return;
        }
        let known = self.known_to_kernel();
        self.lose_leases();
        let mut volumes = Vec::new();
        for id in returning {
            let tag = self.next_tag();
            self.volumes.get_mut(&id).expect("just listed").reopening.insert(tag);
            volumes.push((id, tag));
        }
        self.kernel_forgets(known, true, Forgetting::Return(volumes));
    }

    /// The kernel believes nothing: others may go on with all but what we have to write.
    fn send_return(&mut self, id: VolumeId, place: u64) {
        let volume = &self.volumes[&id];
        let link = volume.link;
        if !volume.reopening.contains(&place) {
            return; // The connection was lost meanwhile: there is another one of these for the next.
        }
        let open = |(ino, file): &(&Ino, &File)| {
            ino.volume() == id && file.owned && (!file.is_settled() || file.unsynced.is_keeping())
        };
        let inodes: Vec<(Ino, u64, u64)> = self
            .files
            .iter()
            .chain(&self.lingering.files)
            .filter(open)
            .map(|(ino, file)| {
                // A change that does not answer with attributes, and its end at the targets, count as well.
                let own = 2 * (self.changes_asked - file.changes_seen) + 1;
                (*ino, file.attr.version, file.attr.version + own)
            })
            .collect();
        let mut parts: Vec<Vec<(Ino, u64, u64)>> =
            inodes.chunks(RECALL_COUNT_MAX).map(<[_]>::to_vec).collect();
        let last = parts.pop().unwrap_or_default();
        for inodes in parts {
            self.send_reclaim(id, link, Reclaim { inodes, more: true });
        }
        self.send_reclaim(id, link, Reclaim { inodes: last, more: false });
        self.reopened(id, place);
    }

    fn send_reclaim(&mut self, id: VolumeId, link: LinkId, reclaim: Reclaim) {
        for (ino, ..) in &reclaim.inodes {
            self.grant(*ino, LeaseMode::Write);
        }
        let mut body = Vec::new();
        reclaim.encode(&mut body);
        let tag = self.ask_server(link, (Kind::Reclaim, body), Purpose::Reclaim(id), true);
        self.volumes.get_mut(&id).expect("known").reopening.insert(tag);
    }

    pub(crate) fn reclaimed(&mut self, id: VolumeId, tag: u64, answer: &Answer) {
        match Reclaimed::decode(&answer.body) {
            Ok(reply) if answer.status == Status::Ok => {
                for ino in reply.refused {
                    match self.files.contains_key(&ino) {
                        true => {
                            tracing::error!(%ino, "changed by others while the server was away: what was written here is lost")
                        }
                        // At rest, and maybe removed here.
                        false => {
                            tracing::debug!(%ino, "changed or removed while the server was away")
                        }
                    }
                    self.cache.lower(ino, LeaseMode::None);
                    self.drop_written(ino);
                }
            }
            _ => {
                tracing::warn!(status = %answer.status, "the server did not take what is to be written")
            }
        }
        let more = |call: &Call| matches!(call.purpose, Purpose::Reclaim(of) if of == id);
        if !self.calls.values().any(more) {
            self.volumes.get_mut(&id).expect("volumes stay").must_return = false;
        }
        self.reopened(id, tag);
    }

    /// Others went on without us: what is not at the servers must not get there any more.
    fn fenced_off(&mut self) {
        tracing::error!(
            session = %self.config.session,
            "the servers did not hear of this mount for too long and fenced it off: what was written and not sent is \
             lost (its files get EIO), and everything is read anew"
        );
        let files = self.files.keys().chain(self.lingering.files.keys());
        let files: Vec<Ino> = files.copied().collect();
        files.into_iter().for_each(|ino| self.drop_written(ino));
        self.drop_zeros(|_| true, Status::Io);
        let known = self.known_to_kernel();
        self.lose_leases();
        self.read_anew(|_| true);
        self.kernel_forgets(known, true, Forgetting::Nobody);
    }

    /// What was written to a file and may not be at the servers is given up.
    pub(crate) fn drop_written(&mut self, ino: Ino) {
        self.rejoin(ino);
        let Some(file) = self.files.get_mut(&ino) else { return };
        let settled = file.is_settled();
        file.owned = false;
        if let Some(run) = file.run.take() {
            self.file_timers.remove(&(run.due, ino));
            file.dirty_bytes -= run.bytes;
            self.dirty_bytes -= run.bytes;
        }
        let file = self.files.get_mut(&ino).expect("looked at above");
        let writes = file.writes.take_all();
        let mut ended = BTreeSet::new();
        for write in writes {
            if write.dirty {
                let bytes = weft_wire::units::to_usize(u64::from(write.bytes));
                file.dirty_bytes -= bytes;
                self.dirty_bytes -= bytes;
            }
            if let Some(call) = write.tag.and_then(|tag| Some((tag, self.calls.remove(&tag)?))) {
                self.links[at(call.1.link)].cancel(call.0);
            }
            ended.extend(write.op);
        }
        self.unsynced_bytes -= file.unsynced.let_all_go();
        // A word about them that is on its way must not make the file longer.
        file.telling.acked_end = 0;
        if !settled {
            file.fail(errno::EIO);
        }
        file.telling.done = file.telling.wanted;
        (file.local_end, file.local_mtime) = (0, None);
        if let Some(due) = file.telling.due.take() {
            self.file_timers.remove(&(due, ino));
        }
        file.give_beginning_up();
        file.behind.give_up();
        self.drop_move(ino);
        self.amend_changes(ino);
        self.room_made = true;
        self.touched.insert(ino);
        for op in ended {
            self.finish(op, Err(errno::EIO));
        }
    }

    fn amend_changes(&mut self, ino: Ino) {
        let of_data = |call: &Call| match call.purpose {
            Purpose::Wrote { ino: of }
            | Purpose::SetAttrBehind { ino: of }
            | Purpose::WriteData { ino: of, .. } => of == ino,
            Purpose::Move { ino: of, .. } => of == ino && call.volume.is_some(),
            _ => false,
        };
        let calls = self.calls.iter().filter(|(_, call)| of_data(call));
        let calls: Vec<(u64, LinkId, Kind)> =
            calls.map(|(tag, call)| (*tag, call.link, call.kind)).collect();
        for (tag, link, kind) in calls {
            let volume = self.volumes.get_mut(&ino.volume()).expect("it was asked");
            let queued = volume.queue.iter_mut().find(|queued| queued.tag == tag);
            let held = volume.held.iter_mut().find(|held| held.tag == tag);
            if let Some(body) =
                queued.map(|queued| &mut queued.body).or(held.map(|it| &mut it.body))
            {
                amend(kind, body);
            } else {
                self.links[at(link)].amend(tag, |body| amend(kind, body));
            }
        }
    }
}

/// Makes a change that nobody waits for one that leaves the data alone, the length and the times, and what a program set. The blocks that the
/// file has are counted.
pub(crate) fn amend(kind: Kind, body: &mut Vec<u8>) {
    // One that waits for its slot has none yet, which only the sender may read.
    let slot = crate::volume::slot_and_sequence(body);
    crate::volume::put_slot(body, 0, 0);
    let decoded = MetaRequest::decode(kind, body);
    let amended = decoded.ok().and_then(|(caller, request)| {
        let request = match request {
            MetaRequest::Wrote { ino, blocks_added, .. } => {
                let mtime = Default::default();
                let (size_min, at_targets) = (0, false);
                MetaRequest::Wrote { ino, size_min, mtime, blocks_added, at_targets }
            }
            MetaRequest::WriteData(write) => {
                MetaRequest::WriteData(DataWrite::new(write.ino, 0, &[], Default::default()))
            }
            MetaRequest::MoveData { ino, .. } => {
                MetaRequest::MoveData { ino, step: MoveStep::Stay }
            }
            MetaRequest::SetAttr { ino, .. } => {
                MetaRequest::SetAttr { ino, set: SetAttr::default() }
            }
            _ => return None,
        };
        let mut amended = Vec::new();
        request.encode(&caller, &mut amended);
        Some(amended)
    });
    if let Some(amended) = amended {
        *body = amended;
    }
    crate::volume::put_slot(body, slot.0, slot.1);
}
