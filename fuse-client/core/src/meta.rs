//! Operations that are one request to a volume, and how requests get to their volume.

use std::time::Duration;

use weft_net::link::Request;
use weft_wire::Ino;
use weft_wire::limits::{
    NAME_BYTES_MAX, SYMLINK_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
use weft_wire::meta::{
    Attr, FileKind, MakeHow, MetaReply, MetaRequest, RENAME_EXCHANGE, RENAME_NOREPLACE,
    RENAME_WHITEOUT, XATTR_CLEAR_SETGID, XATTR_KEEP_SETGID, push_dir_entry,
};
use weft_wire::session::FEATURE_ACL_SETGID;
use weft_wire::units::to_u32;
use weft_wire::{Kind, LeaseBits, LeaseMode, Status, VolumeId};

use crate::copy::CopyAsked;
use crate::core::{ClientCore, at};
use crate::leases::{CAPABILITIES, Changes, wanted};
use crate::limits::DIR_BYTES_MAX;
use crate::op::{Caller, FsOp, FsReply, Handle, OpId, Opened, Ttl};
use crate::records::OpState;
use crate::saving::describe;
use crate::state::{Answer, Call, HandleState, Op, OpKind, Purpose, ReadAsked, errno};
use crate::volume::{Queued, Volume, encode};
use crate::write::WriteHow;

impl ClientCore {
    /// Starts an operation; what fails at once is answered at once.
    pub(crate) fn begin(&mut self, id: OpId, caller: Caller, op: FsOp) {
        if self.joins(id, caller, &op) {
            return;
        }
        let kept = self.keep_op(id, caller.pid, &op, OpState::InProgress);
        let kind = OpKind::Meta { bytes_max: None, name: None };
        let started = self.now;
        let what = crate::keep::counts::place(describe(&op).0);
        let subject = self.subject_of(&op);
        let (tags, patience_ends) = (Vec::new(), None);
        let state = Op { caller, started, kind, tags, patience_ends, kept, what, subject };
        self.ops.insert(id, state);
        let begun = match op {
            FsOp::Open { ino, flags } => {
                self.set_kind(id, OpKind::Open { flags, created: false, name: None });
                if self.open_known(id, ino, flags) {
                    return;
                }
                let lease = if flags.write { LeaseBits::WRITE } else { LeaseBits::READ };
                let request = MetaRequest::Open { ino, inline: self.inlines(ino.volume()) };
                match self.meta_call_leasing(ino, caller, &request, lease, Purpose::Open(id)) {
                    true => Ok(()),
                    false => Err(errno::EIO),
                }
            }
            FsOp::Create { parent, name, mode, umask, flags } => {
                let place = Some((parent, name.clone()));
                self.set_kind(id, OpKind::Open { flags, created: true, name: place });
                let (exclusive, inline) = (flags.exclusive, self.inlines(parent.volume()));
                let (open, fresh) = (true, self.makes_fresh(parent.volume()));
                let how = MakeHow { mode, umask, rdev: 0, exclusive, open, inline, fresh };
                check_name(&name).and_then(|()| {
                    let request = MetaRequest::Make { parent, name: &name, how, target: &[] };
                    self.ask_as(id, parent, &request, Purpose::Open(id))
                })
            }
            FsOp::Tmpfile { parent, mode, umask, flags } => {
                self.set_kind(id, OpKind::Open { flags, created: true, name: None });
                let inline = self.inlines(parent.volume());
                let (exclusive, open, fresh) = (true, true, self.makes_fresh(parent.volume()));
                let how = MakeHow { mode, umask, rdev: 0, exclusive, open, inline, fresh };
                let request = MetaRequest::Make { parent, name: &[], how, target: &[] };
                self.ask_as(id, parent, &request, Purpose::Open(id))
            }
            FsOp::Read { handle, offset, bytes, into } => {
                self.begin_read(id, ReadAsked { handle, offset, bytes }, into)
            }
            FsOp::Write { handle, offset, data, direct, append, strips } => {
                let how = WriteHow { direct, append, strips };
                self.begin_write(id, handle, offset, data, how)
            }
            FsOp::Flush { handle } => self.begin_settle(id, handle, false),
            FsOp::Fsync { handle, .. } => self.begin_settle(id, handle, true),
            FsOp::Release { handle } => self.release(id, handle),
            FsOp::Lock(asked) => self.begin_lock(id, asked),
            FsOp::TestLock(test) => self.begin_lock_test(id, test),
            FsOp::SetAttr { ino, set, .. } => self.begin_set_attr(id, ino, set),
            other => self.begin_simple(id, other),
        };
        if let Err(code) = begun {
            self.finish(id, Err(code));
        }
    }

    /// Operations on names and directories, and those that ask nobody.
    fn begin_simple(&mut self, id: OpId, op: FsOp) -> Result<(), i32> {
        let done = match op {
            FsOp::OpenDir { ino } => {
                let handle = self.new_handle(HandleState::of_directory(ino), id);
                FsReply::Opened(Opened { handle, keep_cache: false, direct: false, append: false })
            }
            FsOp::ReadDir { handle, cookie, bytes_max, plus } => {
                let ino = self.handle(handle, true)?.ino;
                let bytes_max = bytes_max.min(DIR_BYTES_MAX);
                let request = MetaRequest::ReadDir { ino, cookie, bytes_max, plus };
                return self.ask_as(id, ino, &request, Purpose::List { op: id, dir: ino });
            }
            FsOp::ReleaseDir { handle } => {
                self.handle(handle, true)?;
                self.drop_handle(handle);
                FsReply::Done
            }
            FsOp::FsyncDir { handle, .. } => {
                self.handle(handle, true)?;
                FsReply::Done
            }
            FsOp::Fallocate { handle, offset, bytes, mode } => {
                return self.begin_allocate(id, handle, (offset, bytes), mode);
            }
            FsOp::Copy { source, from, handle, to, bytes, set_ids } => {
                let asked = CopyAsked { source, from, handle, to, bytes, set_ids };
                return self.begin_copy(id, asked);
            }
            FsOp::Lseek { handle, offset, whence } => {
                return self.begin_seek(id, handle, offset, whence);
            }
            other => return self.begin_names(id, other),
        };
        self.finish(id, Ok(done));
        Ok(())
    }

    fn begin_names(&mut self, id: OpId, op: FsOp) -> Result<(), i32> {
        match op {
            FsOp::Lookup { parent, name } => {
                check_name(&name)?;
                if let Some(known) = self.known_name(parent, &name) {
                    let found = known.ok_or(errno::ENOENT)?;
                    let ttl = self.ttl_of_new(Some(parent), found.ino);
                    self.finish(id, Ok(FsReply::Entry(found, ttl)));
                    return Ok(());
                }
                self.set_name(id, parent, &name);
                self.ask(id, parent, &MetaRequest::Lookup { parent, name: &name })
            }
            FsOp::GetAttr { ino, .. } => match self.known_attr(ino) {
                Some(attr) => {
                    self.finish_attr(id, attr);
                    Ok(())
                }
                None => self.ask(id, ino, &MetaRequest::GetAttr { ino }),
            },
            FsOp::ReadLink { ino } => self.ask(id, ino, &MetaRequest::ReadLink { ino }),
            FsOp::Make { parent, name, mode, umask, rdev, target } => {
                check_name(&name)?;
                if target.len() > SYMLINK_BYTES_MAX {
                    return Err(errno::ENAMETOOLONG);
                }
                let inline = self.inlines(parent.volume());
                let (exclusive, open, fresh) = (true, false, false);
                let how = MakeHow { mode, umask, rdev, exclusive, open, inline, fresh };
                self.set_name(id, parent, &name);
                let (name, target) = (&name[..], &target[..]);
                self.ask(id, parent, &MetaRequest::Make { parent, name, how, target })
            }
            FsOp::Unlink { parent, name } => {
                check_name(&name)?;
                self.ask(id, parent, &MetaRequest::Unlink { parent, name: &name })
            }
            FsOp::Rmdir { parent, name } => {
                check_name(&name)?;
                self.ask(id, parent, &MetaRequest::Rmdir { parent, name: &name })
            }
            FsOp::Rename { parent, name, new_parent, new_name, flags } => {
                check_name(&name)?;
                check_name(&new_name)?;
                let known = [0, RENAME_NOREPLACE, RENAME_EXCHANGE];
                if !known.contains(&(flags & !RENAME_WHITEOUT))
                    || flags == RENAME_WHITEOUT | RENAME_EXCHANGE
                {
                    return Err(errno::EINVAL);
                }
                let (name, new_name) = (&name[..], &new_name[..]);
                let request = MetaRequest::Rename { parent, name, new_parent, new_name, flags };
                self.ask(id, parent, &request)
            }
            FsOp::Link { ino, parent, name } => {
                check_name(&name)?;
                self.set_name(id, parent, &name);
                self.ask(id, parent, &MetaRequest::Link { ino, parent, name: &name })
            }
            FsOp::StatFs => self.ask(id, Ino::ROOT, &MetaRequest::StatFs),
            other => self.begin_xattr(id, other),
        }
    }

    pub(crate) fn begin_xattr(&mut self, id: OpId, op: FsOp) -> Result<(), i32> {
        match op {
            FsOp::GetXattr { ino, name, bytes_max } => {
                check_xattr_name(&name)?;
                let capabilities = name == CAPABILITIES;
                if capabilities
                    && self.cache.has_no_capabilities(ino)
                    && self.holds(ino, LeaseMode::Read)
                {
                    return Err(errno::ENODATA);
                }
                let name_kept = capabilities.then(|| (ino, name.clone()));
                self.set_kind(id, OpKind::Meta { bytes_max: Some(bytes_max), name: name_kept });
                self.ask(id, ino, &MetaRequest::GetXattr { ino, name: &name })
            }
            FsOp::ListXattr { ino, bytes_max } => {
                self.set_kind(id, OpKind::Meta { bytes_max: Some(bytes_max), name: None });
                self.ask(id, ino, &MetaRequest::ListXattr { ino })
            }
            FsOp::SetXattr { ino, .. } | FsOp::RemoveXattr { ino, .. } if self.is_behind(ino) => {
                self.wait_with(id, ino, op);
                Ok(())
            }
            FsOp::SetXattr { ino, name, value, flags } => {
                check_xattr_name(&name)?;
                if value.len() > XATTR_VALUE_BYTES_MAX {
                    return Err(errno::E2BIG);
                }
                self.set_name(id, ino, &name);
                let (name, value) = (&name[..], &value[..]);
                let flags = self.known_flags(ino, flags);
                self.ask(id, ino, &MetaRequest::SetXattr { ino, name, value, flags })
            }
            FsOp::RemoveXattr { ino, name } => {
                check_xattr_name(&name)?;
                self.set_name(id, ino, &name);
                self.ask(id, ino, &MetaRequest::RemoveXattr { ino, name: &name })
            }
            _ => Err(errno::EOPNOTSUPP),
        }
    }

    /// Whether the server of a volume said that it has this ability.
    pub(crate) fn offers(&self, volume: VolumeId, feature: u64) -> bool {
        let link = self.volumes.get(&volume).map(|volume| &self.links[at(volume.link)]);
        let welcome = link.and_then(|link| link.welcome());
        welcome.is_some_and(|welcome| welcome.features & feature != 0)
    }

    /// Those flags of a `SetXattr` that the server knows.
    fn known_flags(&self, ino: Ino, flags: u32) -> u32 {
        match self.offers(ino.volume(), FEATURE_ACL_SETGID) {
            true => flags,
            false => flags & !(XATTR_KEEP_SETGID | XATTR_CLEAR_SETGID),
        }
    }

    /// The handle's state, if it is of this sort.
    pub(crate) fn handle(&self, handle: Handle, dir: bool) -> Result<HandleState, i32> {
        let state = self.handles.get(&handle).filter(|state| state.dir == dir);
        state.copied().ok_or(errno::EBADF)
    }

    pub(crate) fn set_kind(&mut self, id: OpId, kind: OpKind) {
        if let Some(op) = self.ops.get_mut(&id) {
            op.kind = kind;
        }
    }

    fn set_name(&mut self, id: OpId, parent: Ino, name: &[u8]) {
        self.set_kind(id, OpKind::Meta { bytes_max: None, name: Some((parent, name.to_vec())) });
    }

    /// Asks the volume of `ino` on behalf of an operation.
    pub(crate) fn ask(&mut self, id: OpId, ino: Ino, request: &MetaRequest<'_>) -> Result<(), i32> {
        self.ask_as(id, ino, request, Purpose::Op(id))
    }

    /// The same, with another purpose.
    pub(crate) fn ask_as(
        &mut self,
        id: OpId,
        ino: Ino,
        request: &MetaRequest<'_>,
        purpose: Purpose,
    ) -> Result<(), i32> {
        let caller = self.ops.get(&id).map_or(Caller::default(), |op| op.caller);
        match self.meta_call(ino, caller, request, purpose) {
            true => Ok(()),
            false => Err(errno::EIO),
        }
    }

    /// Asks the volume of `ino`; false when there is no such volume.
    pub(crate) fn meta_call(
        &mut self,
        ino: Ino,
        caller: Caller,
        request: &MetaRequest<'_>,
        purpose: Purpose,
    ) -> bool {
        self.meta_call_leasing(ino, caller, request, wanted(request), purpose)
    }

    /// The same, asking for other leases.
    pub(crate) fn meta_call_leasing(
        &mut self,
        ino: Ino,
        caller: Caller,
        request: &MetaRequest<'_>,
        lease: LeaseBits,
        purpose: Purpose,
    ) -> bool {
        let id = ino.volume();
        match request {
            MetaRequest::Unlink { parent, name } => self.release_before_removal(*parent, name),
            MetaRequest::Rename { new_parent, new_name, .. } => {
                self.release_before_removal(*new_parent, new_name);
            }
            _ => {}
        }
        let Some(volume) = self.volumes.get(&id) else { return false };
        let (link, kind) = (volume.link, request.kind());
        let body = encode(caller, request);
        let tag = self.next_tag();
        if !request.is_mutation() {
            let call = Call { link, kind, volume: None, purpose, changes: None };
            self.call(
                call,
                Request { tag, kind, body, payload: None, deadline: None, lease },
                false,
            );
            return true;
        }
        self.note_tag(purpose, tag);
        self.changes_asked += 1;
        let mut changes = Changes::of(request);
        self.forget_changed(&mut changes, true);
        let changes = Some(changes);
        self.calls.insert(tag, Call { link, kind, volume: Some(id), purpose, changes });
        let volume = self.volumes.get_mut(&id).expect("seen above");
        volume.queue.push_back(Queued { tag, kind, lease, body });
        self.send_queued(id);
        true
    }

    /// Sends changes while there are slots.
    pub(crate) fn send_queued(&mut self, id: VolumeId) {
        let now = self.now;
        let link = self.volumes[&id].link;
        while self.may_send_change()
            && let Some(queued) = self.volumes.get_mut(&id).and_then(Volume::next_to_send)
        {
            self.keep_change(id, &queued);
            let Queued { tag, kind, lease, body } = queued;
            let request = Request { tag, kind, body, payload: None, deadline: None, lease };
            if self.calls.get(&tag).is_some_and(|call| call.purpose.behind().is_some()) {
                self.hold(id, request);
                continue;
            }
            self.send_held(link);
            self.links[crate::core::at(link)].submit(request, now);
        }
        self.touch_link(link);
    }

    pub(crate) fn slot_is_free(&mut self, id: VolumeId, tag: u64) {
        self.volumes.get_mut(&id).expect("volumes stay").answered(tag);
        self.change_answered(tag);
        self.send_queued(id);
    }

    /// A metadata request of an operation is answered.
    pub(crate) fn op_answered(&mut self, id: OpId, kind: Kind, answer: &Answer) {
        let reply = answer.meta(kind);
        match self.ops.get(&id).map(|op| &op.kind) {
            Some(OpKind::ReadWaiting { .. }) => self.read_refreshed(id, reply, answer.lease),
            Some(OpKind::Seek(_)) => self.seek_refreshed(id, reply, answer.lease),
            Some(OpKind::CopyWaiting(..)) => self.source_told(id, reply, answer.lease),
            Some(OpKind::Allocate(allocation)) if allocation.is_copy() => {
                self.source_told(id, reply, answer.lease);
            }
            Some(OpKind::Allocate(_)) => self.room_told(id, reply),
            Some(OpKind::Meta { bytes_max, name }) => {
                let (bytes_max, name) = (*bytes_max, name.clone());
                self.meta_answered(id, kind, reply, answer.lease, (bytes_max, name));
            }
            Some(_) => debug_assert!(false, "no other operation asks a volume so"),
            None => {}
        }
    }

    fn meta_answered(
        &mut self,
        id: OpId,
        kind: Kind,
        reply: Result<MetaReply, i32>,
        lease: LeaseBits,
        (bytes_max, name): (Option<u32>, Option<(Ino, Vec<u8>)>),
    ) {
        if let (Kind::SetXattr | Kind::RemoveXattr, Some((ino, _)), Ok(_)) = (kind, &name, &reply) {
            return self.finish_xattr_change(id, *ino);
        }
        if let (Kind::GetXattr, Some((ino, _))) = (kind, &name) {
            self.granted(*ino, lease);
            let none = matches!(reply, Err(errno::ENODATA)) && lease.mode() >= LeaseMode::Read;
            self.cache.set_no_capabilities(*ino, none);
        }
        let leased = name.as_ref().filter(|_| lease.has(LeaseBits::NAMES));
        let parent = leased.map(|(parent, _)| *parent);
        if let Some((parent, name)) = name {
            match &reply {
                Ok(MetaReply::Entry(attr) | MetaReply::Made(attr, ..)) => {
                    self.learn_name(parent, &name, Some(attr.ino), lease);
                }
                Err(errno::ENOENT) if kind == Kind::Lookup => {
                    self.learn_name(parent, &name, None, lease);
                }
                _ => {}
            }
        }
        if let Ok(MetaReply::Attr(attr)) = reply {
            let attr = self.learn_with(attr, lease);
            return self.finish_attr(id, attr);
        }
        let result = reply.and_then(|reply| self.simple_reply(reply, bytes_max, parent, lease));
        self.finish(id, result);
    }

    fn simple_reply(
        &mut self,
        reply: MetaReply,
        bytes_max: Option<u32>,
        parent: Option<Ino>,
        lease: LeaseBits,
    ) -> Result<FsReply, i32> {
        Ok(match reply {
            MetaReply::Entry(attr) | MetaReply::Made(attr, ..) => {
                let is_new = matches!(reply, MetaReply::Made(_, true, _));
                let attr = self.learn_with(attr, lease);
                if is_new && attr.kind() == FileKind::Directory {
                    self.cache.set_empty(attr.ino);
                }
                FsReply::Entry(attr, self.ttl_of_new(parent, attr.ino))
            }
            MetaReply::Bytes(bytes) => match bytes_max {
                Some(0) => FsReply::Length(to_u32(bytes.len())),
                Some(max) if to_u32(bytes.len()) > max => return Err(errno::ERANGE),
                _ => FsReply::Bytes(bytes),
            },
            MetaReply::StatFs(statfs) => FsReply::StatFs(statfs),
            MetaReply::Done => FsReply::Done,
            MetaReply::Attr(_)
            | MetaReply::Dir(..)
            | MetaReply::Opened(..)
            | MetaReply::Data(..)
            | MetaReply::Layout(_)
            | MetaReply::Policy(_)
            | MetaReply::Names(..)
            | MetaReply::Reopened(_) => return Err(errno::EIO),
        })
    }

    /// A page of a directory came.
    pub(crate) fn listed(&mut self, id: OpId, dir: Ino, answer: &Answer) {
        let result = match answer.meta(Kind::ReadDir) {
            Ok(MetaReply::Dir(entries, last)) => {
                self.granted(dir, answer.lease);
                let learned = self.learn_entries(dir, entries, answer.lease);
                learned.map(|(entries, ttl)| FsReply::Dir { entries, last, ttl })
            }
            Ok(_) => Err(errno::EIO),
            // It was removed: the end of the listing, as the C library reads this.
            Err(code) if code == Status::Stale.errno() => Err(errno::ENOENT),
            Err(code) => Err(code),
        };
        self.finish(id, result);
    }

    /// Takes attributes a volume sent; gives them back as a program must see them.
    pub(crate) fn learn(&mut self, attr: Attr) -> Attr {
        let open = self.volumes.get(&attr.ino.volume()).map_or(0, Volume::open_count);
        let (changes_asked, overtaken) = (self.changes_asked, self.is_overtaken(&attr));
        let Some(file) = self.known_file(attr.ino) else { return attr };
        if attr.version >= file.attr.version {
            file.changes_seen = changes_asked.saturating_sub(open);
        }
        file.learn(&attr, overtaken);
        // An answer that was overtaken by a newer one would show a file being written as it was.
        let newest = if file.attr.version > attr.version { file.attr } else { attr };
        file.overlay(newest)
    }

    /// The entries as a program must see them, and how long the kernel may keep them; EIO when they are none.
    fn learn_entries(
        &mut self,
        dir: Ino,
        entries: Vec<u8>,
        lease: LeaseBits,
    ) -> Result<(Vec<u8>, Ttl), i32> {
        let (leased, named) = (lease.has(LeaseBits::NAMES), lease.mode() >= LeaseMode::Read);
        let left = self.ttl_of(named.then_some(dir), dir);
        let attr = match leased && !self.others {
            true => self.leases_left(dir.volume()).min(self.config.attr_ttl),
            false => Duration::ZERO,
        };
        let ttl = Ttl { attr, ..left };
        let mut concerned = false;
        for entry in MetaReply::dir_entries(&entries) {
            let entry = entry.map_err(|_| errno::EIO)?;
            if let Some(attr) = entry.attr.filter(|_| leased) {
                self.granted(attr.ino, LeaseBits::READ);
                if !self.is_overtaken(&attr) {
                    self.cache.put_attr(&attr);
                }
            }
            if named {
                self.cache.put_name(dir, entry.name, Some(entry.ino));
            }
            concerned |= entry.attr.is_some() && self.files.contains_key(&entry.ino);
        }
        if !concerned {
            return Ok((entries, ttl));
        }
        let mut out = Vec::with_capacity(entries.len());
        for mut entry in MetaReply::dir_entries(&entries).flatten() {
            entry.attr = entry.attr.map(|attr| self.learn(attr));
            push_dir_entry(&mut out, &entry);
        }
        // One of them may have pages that are not right.
        Ok((out, Ttl { attr: Duration::ZERO, ..ttl }))
    }
}

fn check_name(name: &[u8]) -> Result<(), i32> {
    match name.len() {
        0 => Err(errno::EINVAL),
        bytes if bytes > NAME_BYTES_MAX => Err(errno::ENAMETOOLONG),
        _ => Ok(()),
    }
}

fn check_xattr_name(name: &[u8]) -> Result<(), i32> {
    match name.len() {
        0 => Err(errno::EINVAL),
        bytes if bytes > XATTR_NAME_BYTES_MAX => Err(errno::ERANGE),
        _ => Ok(()),
    }
}
