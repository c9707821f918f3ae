//! What a write takes away of a file: setuid, setgid and capabilities, before it is made.
//!
//! Where a write goes through its page cache the kernel has done that when it asks us, by the mode that it knows: not by
//! what another mount set since. Past it (O_DIRECT, O_APPEND) it leaves it to us, and tells whether the program may keep
//! setuid. What a file has is known under its lease to write: a change elsewhere recalls that. So the usual write costs
//! nothing; the first one of a file that was not made here asks for its capabilities once, if the kernel has not. Several
//! writers hold no such lease: the mode is looked at in the answer that their write waits for anyway, and capabilities are
//! asked for once for each lease.
//!
//! `HANDLE_KILLPRIV_V2` is not taken: with it the kernel leaves truncate, chown and fallocate to us as well, of which the
//! last does not say who may keep setuid, and believes a file to have nothing to take away until it next asks for
//! attributes.

use weft_wire::meta::{MetaReply, MetaRequest, SetAttr};
use weft_wire::{Ino, Kind, LeaseMode, Status};

use crate::core::ClientCore;
use crate::leases::{CAPABILITIES, Forgetting};
use crate::op::{Caller, OpId, Strips};
use crate::state::{Answer, OpKind, Purpose};

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTES: u32 = 0o0010;

/// The mode without what a write takes away, if it has any of that. Setgid without the right to execute is none.
pub(crate) fn stripped(mode: u32) -> Option<u32> {
    let set_gid = if mode & GROUP_EXECUTES != 0 { SET_GID } else { 0 };
    let kept = mode & !(SET_UID | set_gid);
    (kept != mode).then_some(kept)
}

impl ClientCore {
    /// Asks for what stands between a write and its file, which is held in `mode`. Whether the write has to wait for it; it
    /// is tried again then.
    pub(crate) fn strips_first(
        &mut self,
        id: OpId,
        ino: Ino,
        strips: Strips,
        mode: LeaseMode,
    ) -> bool {
        let without = match mode {
            _ if !strips.capabilities => true,
            LeaseMode::Write => self.cache.has_no_capabilities(ino),
            LeaseMode::Through => {
                self.files.get(&ino).is_some_and(|file| file.without_capabilities)
            }
            _ => false,
        };
        if !without {
            self.ask_to_strip(id, ino, &MetaRequest::GetXattr { ino, name: CAPABILITIES });
            return true;
        }
        strips.set_ids && mode == LeaseMode::Write && self.takes_set_ids(id, ino)
    }

    /// The same when the write is made and told: others may have changed the mode before.
    pub(crate) fn strips_after(&mut self, id: OpId, ino: Ino) -> bool {
        let Some(OpKind::WriteTold { set_ids, .. }) = self.ops.get_mut(&id).map(|op| &mut op.kind)
        else {
            return false;
        };
        std::mem::take(set_ids) && self.takes_set_ids(id, ino)
    }

    pub(crate) fn takes_set_ids(&mut self, id: OpId, ino: Ino) -> bool {
        let mode = self.files.get(&ino).and_then(|file| stripped(file.overlay(file.attr).mode));
        if mode.is_some() {
            let set = SetAttr { mode, ..SetAttr::default() };
            self.ask_to_strip(id, ino, &MetaRequest::SetAttr { ino, set });
        }
        mode.is_some()
    }

    fn ask_to_strip(&mut self, id: OpId, ino: Ino, request: &MetaRequest<'_>) {
        let caller = self.ops.get(&id).map_or(Caller::default(), |op| op.caller);
        let asked = self.meta_call(ino, caller, request, Purpose::Strip { op: id, ino });
        debug_assert!(asked, "a file that is open has its volume");
    }

    /// Something of that is answered. What was taken away is so also when nobody waits for it any more.
    pub(crate) fn strip_answered(&mut self, id: OpId, ino: Ino, kind: Kind, answer: &Answer) {
        self.touched.insert(ino);
        match (kind, answer.status) {
            (Kind::GetXattr, Status::Ok) => {
                let remove = MetaRequest::RemoveXattr { ino, name: CAPABILITIES };
                return self.ask_to_strip(id, ino, &remove);
            }
            (Kind::GetXattr, Status::NoData) => {
                self.granted(ino, answer.lease);
                let leased = answer.lease.mode() >= LeaseMode::Read;
                self.cache.set_no_capabilities(ino, leased);
            }
            (Kind::RemoveXattr, Status::Ok | Status::NoData) => {
                let leased = self.holds(ino, LeaseMode::Read);
                if let Some(file) = self.files.get_mut(&ino) {
                    file.changed_beside_data(leased);
                }
            }
            (Kind::SetAttr, Status::Ok) => {
                let overtaken = self.is_reply_overtaken(&answer.meta(kind));
                if let (Some(file), Ok(MetaReply::Attr(attr))) =
                    (self.files.get_mut(&ino), answer.meta(kind))
                {
                    file.changed_by_us(&attr);
                    file.learn(&attr, overtaken);
                    self.learn_with(attr, answer.lease);
                }
                // The kernel believes the mode of before.
                return self.kernel_forgets(vec![ino], false, Forgetting::Write(id));
            }
            (_, status) => {
                self.leave_file(id);
                return self.finish(id, Err(status.errno()));
            }
        }
        let shared = self.holds(ino, LeaseMode::Through);
        if let Some(file) = self.files.get_mut(&ino) {
            file.without_capabilities = shared;
        }
        if let Some(OpKind::WriteWaiting { strips, .. }) =
            self.ops.get_mut(&id).map(|op| &mut op.kind)
        {
            strips.capabilities = false;
        }
        self.resume_write(id);
    }

    /// The kernel has forgotten the mode of before: the write goes on, or is over.
    pub(crate) fn set_ids_taken(&mut self, id: OpId) {
        match self.ops.get_mut(&id).map(|op| &mut op.kind) {
            Some(OpKind::WriteWaiting { strips, .. }) => {
                strips.set_ids = false;
                self.resume_write(id);
            }
            Some(OpKind::WriteTold { .. }) => self.try_told(id),
            Some(OpKind::Allocate(_)) => {
                self.stripped_for_copy(id);
                self.try_allocate(id);
            }
            _ => {}
        }
    }
}

impl Strips {
    /// A write that takes nothing away, as the kernel has done it.
    pub const NOTHING: Strips = Strips { capabilities: false, set_ids: false };
}
