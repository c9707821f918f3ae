//! Operations that are one request to a volume, and how requests get to their volume.

use weft_net::link::Request;
use weft_wire::Ino;
use weft_wire::limits::{
    NAME_BYTES_MAX, SYMLINK_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
use weft_wire::meta::{
    Attr, MakeHow, MetaReply, MetaRequest, RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT,
    push_dir_entry,
};
use weft_wire::units::to_u32;
use weft_wire::{Kind, LeaseBits, VolumeId};

use crate::core::ClientCore;
use crate::limits::DIR_BYTES_MAX;
use crate::op::{Caller, FsOp, FsReply, Handle, OpId, Opened, Ttl};
use crate::records::OpState;
use crate::state::{Answer, Call, HandleState, Op, OpKind, Purpose, ReadAsked, errno};
use crate::volume::{Queued, Volume, encode};

impl ClientCore {
    /// Starts an operation; what fails at once is answered at once.
    pub(crate) fn begin(&mut self, id: OpId, caller: Caller, op: FsOp) {
        if self.joins(id, caller, &op) {
            return;
        }
        let kept = self.keep_op(id, caller.pid, &op, OpState::InProgress);
        let kind = OpKind::Meta { bytes_max: None };
        let started = self.now;
        let state = Op { caller, started, kind, tags: Vec::new(), patience_ends: None, kept };
        self.ops.insert(id, state);
        let begun = match op {
            FsOp::Open { ino, flags } => {
                self.set_kind(id, OpKind::Open { flags, created: false });
                self.ask_as(id, ino, &MetaRequest::Open { ino }, Purpose::Open(id))
            }
            FsOp::Create { parent, name, mode, umask, flags } => {
                self.set_kind(id, OpKind::Open { flags, created: true });
                let how = MakeHow { mode, umask, rdev: 0, exclusive: flags.exclusive, open: true };
                check_name(&name).and_then(|()| {
                    let request = MetaRequest::Make { parent, name: &name, how, target: &[] };
                    self.ask_as(id, parent, &request, Purpose::Open(id))
                })
            }
            FsOp::Tmpfile { parent, mode, umask, flags } => {
                self.set_kind(id, OpKind::Open { flags, created: true });
                let how = MakeHow { mode, umask, rdev: 0, exclusive: true, open: true };
                let request = MetaRequest::Make { parent, name: &[], how, target: &[] };
                self.ask_as(id, parent, &request, Purpose::Open(id))
            }
            FsOp::Read { handle, offset, bytes, into } => {
                self.begin_read(id, ReadAsked { handle, offset, bytes }, into)
            }
            FsOp::Write { handle, offset, data, direct } => {
                self.begin_write(id, handle, offset, data, direct)
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
                let handle = self.new_handle(ino, true, 0, id);
                FsReply::Opened(Opened { handle, keep_cache: false, direct: false })
            }
            FsOp::ReadDir { handle, cookie, bytes_max, plus } => {
                let ino = self.handle(handle, true)?.ino;
                let bytes_max = bytes_max.min(DIR_BYTES_MAX);
                let request = MetaRequest::ReadDir { ino, cookie, bytes_max, plus };
                return self.ask(id, ino, &request);
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
                self.ask(id, parent, &MetaRequest::Lookup { parent, name: &name })
            }
            FsOp::GetAttr { ino, .. } => self.ask(id, ino, &MetaRequest::GetAttr { ino }),
            FsOp::ReadLink { ino } => self.ask(id, ino, &MetaRequest::ReadLink { ino }),
            FsOp::Make { parent, name, mode, umask, rdev, target } => {
                check_name(&name)?;
                if target.len() > SYMLINK_BYTES_MAX {
                    return Err(errno::ENAMETOOLONG);
                }
                let how = MakeHow { mode, umask, rdev, exclusive: true, open: false };
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
                self.ask(id, parent, &MetaRequest::Link { ino, parent, name: &name })
            }
            FsOp::StatFs => self.ask(id, Ino::ROOT, &MetaRequest::StatFs),
            other => self.begin_xattr(id, other),
        }
    }

    fn begin_xattr(&mut self, id: OpId, op: FsOp) -> Result<(), i32> {
        match op {
            FsOp::GetXattr { ino, name, bytes_max } => {
                check_xattr_name(&name)?;
                self.set_kind(id, OpKind::Meta { bytes_max: Some(bytes_max) });
                self.ask(id, ino, &MetaRequest::GetXattr { ino, name: &name })
            }
            FsOp::ListXattr { ino, bytes_max } => {
                self.set_kind(id, OpKind::Meta { bytes_max: Some(bytes_max) });
                self.ask(id, ino, &MetaRequest::ListXattr { ino })
            }
            FsOp::SetXattr { ino, name, value, flags } => {
                check_xattr_name(&name)?;
                if value.len() > XATTR_VALUE_BYTES_MAX {
                    return Err(errno::E2BIG);
                }
                let (name, value) = (&name[..], &value[..]);
                self.ask(id, ino, &MetaRequest::SetXattr { ino, name, value, flags })
            }
            FsOp::RemoveXattr { ino, name } => {
                check_xattr_name(&name)?;
                self.ask(id, ino, &MetaRequest::RemoveXattr { ino, name: &name })
            }
            _ => Err(errno::EOPNOTSUPP),
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
        let id = ino.volume();
        let Some(volume) = self.volumes.get(&id) else { return false };
        let (link, kind) = (volume.link, request.kind());
        let body = encode(caller, request);
        let tag = self.next_tag();
        if !request.is_mutation() {
            let call = Call { link, kind, volume: None, purpose };
            self.call(
                call,
                Request { tag, kind, body, payload: None, deadline: None, lease: LeaseBits::NONE },
                false,
            );
            return true;
        }
        self.note_tag(purpose, tag);
        self.calls.insert(tag, Call { link, kind, volume: Some(id), purpose });
        let volume = self.volumes.get_mut(&id).expect("seen above");
        volume.queue.push_back(Queued { tag, kind, body });
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
            let Queued { tag, kind, body } = queued;
            let request =
                Request { tag, kind, body, payload: None, deadline: None, lease: LeaseBits::NONE };
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
            Some(OpKind::ReadWaiting { .. }) => self.read_refreshed(id, reply),
            Some(OpKind::Seek(_)) => self.seek_refreshed(id, reply),
            Some(OpKind::Allocate(_)) => self.room_told(id, reply),
            Some(OpKind::Meta { bytes_max }) => {
                let bytes_max = *bytes_max;
                let result = reply.and_then(|reply| self.simple_reply(reply, bytes_max));
                self.finish(id, result);
            }
            Some(_) => debug_assert!(false, "no other operation asks a volume so"),
            None => {}
        }
    }

    fn simple_reply(&mut self, reply: MetaReply, bytes_max: Option<u32>) -> Result<FsReply, i32> {
        Ok(match reply {
            MetaReply::Entry(attr) | MetaReply::Made(attr, ..) => {
                FsReply::Entry(self.learn(attr), self.ttl())
            }
            MetaReply::Attr(attr) => FsReply::Attr(self.learn(attr), self.attr_ttl()),
            MetaReply::Bytes(bytes) => match bytes_max {
                Some(0) => FsReply::Length(to_u32(bytes.len())),
                Some(max) if to_u32(bytes.len()) > max => return Err(errno::ERANGE),
                _ => FsReply::Bytes(bytes),
            },
            MetaReply::Dir(entries, last) => {
                let entries = self.learn_entries(entries)?;
                FsReply::Dir { entries, last, ttl: self.ttl() }
            }
            MetaReply::StatFs(statfs) => FsReply::StatFs(statfs),
            MetaReply::Done => FsReply::Done,
            MetaReply::Opened(..)
            | MetaReply::Layout(_)
            | MetaReply::Policy(_)
            | MetaReply::Names(..)
            | MetaReply::Reopened(_) => return Err(errno::EIO),
        })
    }

    /// Takes attributes a volume sent; gives them back as a program must see them.
    pub(crate) fn learn(&mut self, attr: Attr) -> Attr {
        let now = self.now;
        let Some(file) = self.files.get_mut(&attr.ino) else { return attr };
        file.learn(&attr, now);
        // An answer that was overtaken by a newer one would show a file being written as it was.
        let newest = if file.attr.version > attr.version { file.attr } else { attr };
        file.overlay(newest)
    }

    /// The same for a page of a directory; EIO when it is not one.
    fn learn_entries(&mut self, entries: Vec<u8>) -> Result<Vec<u8>, i32> {
        let mut concerned = false;
        for entry in MetaReply::dir_entries(&entries) {
            let entry = entry.map_err(|_| errno::EIO)?;
            concerned |= entry.attr.is_some() && self.files.contains_key(&entry.ino);
        }
        if !concerned {
            return Ok(entries);
        }
        let mut out = Vec::with_capacity(entries.len());
        for mut entry in MetaReply::dir_entries(&entries).flatten() {
            entry.attr = entry.attr.map(|attr| self.learn(attr));
            push_dir_entry(&mut out, &entry);
        }
        Ok(out)
    }

    pub(crate) fn ttl(&self) -> Ttl {
        Ttl { entry: self.config.entry_ttl, attr: self.config.attr_ttl }
    }

    pub(crate) fn attr_ttl(&self) -> Ttl {
        Ttl { attr: self.config.attr_ttl, ..Ttl::default() }
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
