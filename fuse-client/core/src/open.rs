//! Opening, changing attributes (with the truncation an open may ask for), closing.

use weft_wire::meta::{Attr, DataPlace, MetaReply, MetaRequest, SetAttr};
use weft_wire::{Ino, LeaseBits, LeaseMode};

use crate::core::ClientCore;
use crate::file::Pages;
use crate::op::{FsReply, Handle, OpId, OpenFlags, Opened, Ttl};
use crate::state::{AfterSetAttr, HandleState, OpKind, Purpose, errno};
use crate::strip::stripped;

impl ClientCore {
    /// The volume answered an `Open` or `Make`.
    pub(crate) fn open_answered(
        &mut self,
        id: OpId,
        reply: Result<MetaReply, i32>,
        lease: LeaseBits,
    ) {
        let (attr, made, place) = match reply {
            Ok(MetaReply::Opened(attr, place)) => (attr, false, place),
            Ok(MetaReply::Made(attr, made, place)) => (attr, made, place),
            Ok(_) => return self.finish(id, Err(errno::EIO)),
            Err(code) => return self.finish(id, Err(code)),
        };
        let Some(OpKind::Open { flags, created, name }) = self.ops.get(&id).map(|op| &op.kind)
        else {
            return self.give_opens_back(attr.ino, 1, None); // Nobody waits for it any more.
        };
        let (flags, created, name) = (*flags, *created, name.clone());
        if let Some((parent, name)) = &name {
            self.learn_name(*parent, name, Some(attr.ino), lease);
        }
        let parent = name.map(|(parent, _)| parent).filter(|_| lease.has(LeaseBits::NAMES));
        self.counted(&attr, place);
        self.learn_with(attr, lease);
        if made {
            self.made_here(attr.ino);
        }
        if made && lease.mode() >= LeaseMode::Read {
            // The kernel asks before the first write.
            self.cache.set_no_capabilities(attr.ino, true);
        }
        self.opened(id, attr, made, (flags, created, parent));
    }

    /// The file is open here, and counted as that: what the open asks for besides.
    pub(crate) fn opened(
        &mut self,
        id: OpId,
        attr: Attr,
        made: bool,
        (flags, created, parent): (OpenFlags, bool, Option<Ino>),
    ) {
        let file = self.files.get_mut(&attr.ino).expect("just counted");
        file.written_before |= !made;
        if flags.truncate && !made && (attr.size > 0 || file.size() > 0) {
            // The kernel leaves that to us with the truncation, and does not say who may keep setuid.
            let is_root = self.ops.get(&id).is_none_or(|op| op.caller.uid == 0);
            let mode = stripped(file.overlay(attr).mode).filter(|_| !is_root);
            let set = SetAttr { size: Some(0), mode, ..SetAttr::default() };
            let then = AfterSetAttr::Opened { flags, created, parent };
            return self.start_set_attr(id, attr.ino, set, then);
        }
        self.finish_open(id, attr, (flags, created, parent));
    }

    /// The volume counts one more open of the inode for us.
    fn counted(&mut self, attr: &Attr, place: Option<DataPlace>) {
        let (layout, inline) = place.map_or((None, None), |it| (Some(it.layout), it.inline));
        let file = self.open_file(attr, layout);
        file.server_opens += 1;
        self.learn_inline(attr.ino, attr.version, inline);
    }

    fn finish_open(
        &mut self,
        id: OpId,
        attr: Attr,
        (flags, created, parent): (OpenFlags, bool, Option<Ino>),
    ) {
        let file = self.files.get_mut(&attr.ino).expect("counted, and held by this operation");
        let keep_cache = file.pages == Pages::Of(attr.version);
        if !keep_cache {
            // The kernel drops what it has.
            file.pages = Pages::None;
        }
        file.open_count += 1;
        let attr = file.overlay(attr);
        let errors_seen = file.error_count - u64::from(file.error_unseen);
        self.touched.insert(attr.ino);
        let state = HandleState::of_file(attr.ino, flags.write, errors_seen);
        let handle = self.new_handle(state, id);
        let opened = Opened { handle, keep_cache, direct: flags.direct, append: flags.append };
        let reply = match created {
            true => FsReply::Created(attr, self.ttl_of_new(parent, attr.ino), opened),
            false => FsReply::Opened(opened),
        };
        self.finish(id, Ok(reply));
    }

    /// What an operation that ends before its change was sent held of a file.
    pub(crate) fn leave_file(&mut self, id: OpId) {
        match self.ops.get(&id).map(|op| &op.kind) {
            Some(OpKind::SetAttr { ino, held: true, .. }) => self.unhold(*ino),
            Some(OpKind::Allocate(allocation)) => self.unhold(allocation.ino()),
            _ => {}
        }
    }

    fn unhold(&mut self, ino: Ino) {
        let file = self.files.get_mut(&ino).expect("a held file stays");
        file.exclusive -= 1;
        self.touched.insert(ino);
    }

    pub(crate) fn begin_set_attr(&mut self, id: OpId, ino: Ino, set: SetAttr) -> Result<(), i32> {
        if set.size.is_some_and(|size| size > weft_wire::limits::FILE_BYTES_MAX) {
            return Err(errno::EFBIG);
        }
        self.start_set_attr(id, ino, set, AfterSetAttr::Attr);
        Ok(())
    }

    fn start_set_attr(&mut self, id: OpId, ino: Ino, set: SetAttr, then: AfterSetAttr) {
        self.push_run_out(ino);
        if set.size.is_some() {
            self.rejoin(ino);
        }
        let (mut barrier, mut held) = (0, false);
        if let Some(file) = self.files.get_mut(&ino) {
            file.local_atime = file.local_atime.filter(|_| set.atime.is_none());
            barrier = file.writes.next_id();
            held = set.size.is_some();
            file.exclusive += u32::from(held);
        }
        let kind = OpKind::SetAttr { ino, set, barrier, tell: None, then, held, sent: false };
        self.set_kind(id, kind);
        self.try_set_attr(id);
    }

    /// Sends the change when the writes before it are at the servers, so that times and length stay as it sets them.
    pub(crate) fn try_set_attr(&mut self, id: OpId) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let OpKind::SetAttr { ino, set, held, sent, then, .. } = &op.kind else {
            return;
        };
        if *sent {
            return;
        }
        let (ino, set, held) = (*ino, *set, *held);
        if *then == AfterSetAttr::Attr && self.set_attr_behind(id, ino, set) {
            return;
        }
        let Some(OpKind::SetAttr { barrier, tell, sent, .. }) =
            self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            return;
        };
        if let Some(file) = self.files.get_mut(&ino) {
            let acknowledged = file.writes.passed(*barrier);
            let wanted = if acknowledged { *tell.get_or_insert(file.telling.wanted) } else { 0 };
            if acknowledged && file.telling.done < wanted {
                file.telling.urgent = file.telling.urgent.max(wanted);
            }
            // What moves to the targets must not be longer than the file.
            let moving = set.size.is_some() && file.is_moving();
            // Nor may anything come to the targets after the cut that was asked for before.
            let zeroing = set.size.is_some() && file.zeroing > 0;
            let behind = !file.behind.is_empty();
            if !acknowledged || file.telling.done < wanted || moving || zeroing || behind {
                file.waiting.push(id);
                self.send_wrote(ino);
                return self.hurry(ino);
            }
            if let Some(size) = set.size {
                self.unsynced_bytes -= file.unsynced.cut(size);
            }
        }
        *sent = true;
        if let Some(size) = set.size {
            self.keep_cut(ino, size);
        }
        let purpose = Purpose::SetAttr { op: id, ino, held };
        if let Err(code) = self.ask_as(id, ino, &MetaRequest::SetAttr { ino, set }, purpose) {
            self.leave_file(id);
            self.finish(id, Err(code));
        }
    }

    pub(crate) fn set_attr_answered(
        &mut self,
        id: OpId,
        ino: Ino,
        held: bool,
        reply: Result<MetaReply, i32>,
        lease: LeaseBits,
    ) {
        let sized = match self.ops.get(&id).map(|op| &op.kind) {
            Some(OpKind::SetAttr { set, .. }) => set.size,
            _ => None,
        };
        let reply = match reply {
            // The targets' work is counted after it was answered; of nothing, nothing is left.
            Ok(MetaReply::Attr(attr)) if sized == Some(0) => Ok(Attr { blocks: 0, ..attr }),
            Ok(MetaReply::Attr(attr)) => Ok(attr),
            Ok(_) => Err(errno::EIO),
            Err(code) => Err(code),
        };
        let overtaken = reply.as_ref().is_ok_and(|attr| self.is_overtaken(attr));
        if let (Some(file), Ok(attr)) = (self.files.get_mut(&ino), &reply) {
            if let Some(size) = sized {
                file.cut_known_data(size);
            }
            file.changed_by_us(attr);
            file.learn(attr, overtaken);
            file.drop_overlays();
        }
        if let Ok(attr) = &reply {
            self.learn_with(*attr, lease);
        }
        if held {
            self.unhold(ino);
        }
        let Some(OpKind::SetAttr { then, .. }) = self.ops.get(&id).map(|op| &op.kind) else {
            return;
        };
        match (reply, *then) {
            (Ok(attr), AfterSetAttr::Opened { flags, created, parent }) => {
                self.finish_open(id, attr, (flags, created, parent));
            }
            (Ok(attr), AfterSetAttr::Attr) => {
                // How many blocks a cut left is told by the next stat.
                let cut = sized.is_some_and(|size| size > 0);
                if cut {
                    self.cache.drop_attr(ino);
                }
                let ttl = if cut { Ttl::default() } else { self.ttl_of(None, ino) };
                let attr = self.learn(attr);
                self.finish(id, Ok(FsReply::Attr(attr, ttl)));
            }
            (Err(code), _) => self.finish(id, Err(code)),
        }
    }

    /// The last descriptor of a handle is closed.
    pub(crate) fn release(&mut self, id: OpId, handle: Handle) -> Result<(), i32> {
        let state = self.handle(handle, false)?;
        self.push_run_out(state.ino);
        let error_unseen = self.files.get(&state.ino).is_some_and(|file| file.error_unseen);
        if let Err(code) = self.take_error(handle) {
            tracing::warn!(ino = %state.ino, errno = code, "a file was closed before its writes failed");
        }
        self.release_locks(state.ino, handle);
        self.drop_handle(handle);
        let file = self.files.get_mut(&state.ino).expect("a handle keeps its file");
        file.open_count -= 1;
        file.error_unseen = error_unseen; // The log is no program.
        if file.open_count == 0 && !file.error_unseen {
            file.error_count = 0; // A successor takes what is left for what nobody has heard.
        }
        self.touched.insert(state.ino);
        self.finish(id, Ok(FsReply::Done));
        Ok(())
    }
}
