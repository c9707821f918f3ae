//! `apply(command)`: the only way the namespace changes. Nothing here looks at opens, clocks or chance, so the same
//! log gives the same state.

mod attr;
mod data;
mod make;
mod names;
mod xattr;

use weft_wire::meta::{Caller, MetaReply, MetaRequest, Time};
use weft_wire::{Ino, Kind, Status, VolumeId};

use crate::change::{Change, Staged};
use crate::ended::{Changes, Fence};
use crate::error::MetaError;
use crate::log::{
    Command, DROP_ORPHANS, FENCE, SESSION_END, SESSION_EXPIRED, WERE_READ, WORKS_DONE,
};
use crate::planted::{self, Bug};
use crate::record::{State, Work, number_key};
use crate::slots::{Slots, slot_key};
use crate::store::{Name, Store};

use self::attr::Told;

pub(crate) use make::root_inode;
pub(crate) use xattr::check_name as check_xattr_name;

/// A reply, and what comes with it.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) reply: MetaReply,
    /// The work the reply waits for, or 0.
    pub(crate) work: u64,
    /// The inode the session has open now, or 0.
    pub(crate) opened: Ino,
}

impl From<MetaReply> for Done {
    fn from(reply: MetaReply) -> Done {
        Done { reply, work: 0, opened: Ino(0) }
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) status: Status,
    pub(crate) body: Vec<u8>,
    pub(crate) work: u64,
    pub(crate) opened: Ino,
    pub(crate) works: Vec<Work>,
    pub(crate) orphaned: Vec<Ino>,
    pub(crate) named: Vec<Ino>,
    pub(crate) dropped: Vec<Ino>,
    /// What becomes of the ends and fences that are counted of sessions.
    pub(crate) ended: Changes,
    /// Works the command says are done.
    pub(crate) works_done: Vec<u64>,
}

/// Applies one command. A command that fails by itself (a name that is there, a record that is damaged) changes
/// nothing but the sequence number; that is its outcome.
///
/// # Errors
/// The database failed in the midst of a change: the transaction cannot go on.
pub(crate) fn apply(
    store: &mut Store,
    state: &mut State,
    slots: &mut Slots,
    volume: VolumeId,
    command: &Command,
) -> Result<Applied, MetaError> {
    state.applied = command.sequence;
    let mut works_done = Vec::new();
    let staged = stage(store, state, slots, volume, command, &mut works_done);
    let ready = staged.and_then(|(done, staged)| {
        let bytes = store.check_rows(&staged.rows)?;
        Ok((done, staged, bytes))
    });
    let (done, mut staged, bytes) = match ready {
        Ok(ready) => ready,
        Err(status) => return Ok(failed(status)),
    };
    if planted::is(Bug::HalfRename) && command.wire_kind() == Some(Kind::Rename) {
        staged.rows.pop_last();
    }
    store.write_rows(&staged.rows, bytes)?;
    state.next_counter = staged.next_counter;
    state.next_work = staged.next_work;
    let mut body = Vec::new();
    done.reply.encode(&mut body);
    Ok(Applied {
        status: Status::Ok,
        body,
        work: done.work,
        opened: done.opened,
        works: staged.works,
        orphaned: staged.orphaned,
        named: staged.named,
        dropped: staged.dropped,
        ended: staged.ended,
        works_done,
    })
}

fn failed(status: Status) -> Applied {
    Applied {
        status,
        body: Vec::new(),
        work: 0,
        opened: Ino(0),
        works: Vec::new(),
        orphaned: Vec::new(),
        named: Vec::new(),
        dropped: Vec::new(),
        ended: Vec::new(),
        works_done: Vec::new(),
    }
}

fn stage(
    store: &Store,
    state: &State,
    slots: &Slots,
    volume: VolumeId,
    command: &Command,
    works_done: &mut Vec<u64>,
) -> Result<(Done, Staged), Status> {
    let mut change = Change::new(store, state, volume);
    let done = match command.kind {
        SESSION_END => {
            for slot in slots.of(command.session) {
                change.remove(Name::Slots, slot_key(command.session, slot).to_vec());
            }
            let goodbye = command.body != SESSION_EXPIRED;
            let (session, lives) = (command.session, |session| slots.lives(session));
            change.set_ended(slots.ended.changes(session, command.sequence, goodbye, lives));
            MetaReply::Done.into()
        }
        FENCE => {
            let what = Fence::decode(&command.body).ok_or(Status::Protocol)?;
            let (session, lives) = (command.session, |session| slots.lives(session));
            change.set_ended(slots.ended.fence(session, command.sequence, what, lives));
            MetaReply::Done.into()
        }
        WORKS_DONE => {
            works_done.extend(end_works(&mut change, &numbers(&command.body)?)?);
            MetaReply::Done.into()
        }
        WERE_READ => {
            set_read_times(&mut change, &numbers(&command.body)?);
            MetaReply::Done.into()
        }
        DROP_ORPHANS => {
            drop_orphans(&mut change, &numbers(&command.body)?);
            MetaReply::Done.into()
        }
        _ => {
            let kind = command.wire_kind().ok_or(Status::Protocol)?;
            let (caller, request) =
                MetaRequest::decode(kind, &command.body).map_err(|_| Status::Protocol)?;
            change.client(&caller, &request, command.now)?
        }
    };
    Ok((done, change.finish()))
}

/// Pairs: a work, and how many blocks the targets freed for it. Gives the works.
fn end_works(change: &mut Change<'_>, pairs: &[u64]) -> Result<Vec<u64>, Status> {
    let (pairs, rest) = pairs.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Status::Protocol);
    }
    for [id, freed] in pairs {
        // A file that is gone, or cannot be read, has no count to keep.
        let ino = change.work_of_living(*id);
        if let Some(Ok(inode)) = ino.map(|ino| change.inode_mut(ino)) {
            inode.add_blocks(i64::try_from(*freed).map_or(i64::MIN, |freed| -freed));
        }
        change.remove(Name::Works, number_key(*id).to_vec());
    }
    Ok(pairs.iter().map(|[id, _]| *id).collect())
}

/// A file that is gone, or cannot be read, keeps no time; the others do all the same. That a file was read is no change
/// of it: its version stays.
fn set_read_times(change: &mut Change<'_>, list: &[u64]) {
    for [ino, seconds, nanos] in list.as_chunks::<3>().0 {
        let Ok(nanos @ 0..1_000_000_000) = u32::try_from(*nanos) else { continue };
        let atime = Time { seconds: seconds.cast_signed(), nanos };
        if let Ok(inode) = change.inode_mut(Ino(*ino)) {
            inode.attr.atime = inode.attr.atime.max(atime);
        }
    }
}

/// An orphan that cannot be read stays one: the others go all the same.
fn drop_orphans(change: &mut Change<'_>, inos: &[u64]) {
    for ino in inos {
        // A damaged orphan is met again at each start, and by `weft fs check`.
        change.drop_orphan(Ino(*ino)).unwrap_or_default();
    }
}

fn numbers(body: &[u8]) -> Result<Vec<u64>, Status> {
    let (numbers, rest) = body.as_chunks::<8>();
    if rest.is_empty() {
        Ok(numbers.iter().map(|n| u64::from_le_bytes(*n)).collect())
    } else {
        Err(Status::Protocol)
    }
}

/// The body of an internal command that carries a list.
pub(crate) fn numbers_body(numbers: impl Iterator<Item = u64>) -> Vec<u8> {
    numbers.flat_map(u64::to_le_bytes).collect()
}

impl Change<'_> {
    fn set_ended(&mut self, ended: Changes) {
        for (session, end) in &ended {
            let key = session.0.to_vec();
            match end {
                Some(end) => self.put(Name::Ended, key, end.encode()),
                None => self.remove(Name::Ended, key),
            }
        }
        self.ended = ended;
    }

    fn client(
        &mut self,
        caller: &Caller,
        request: &MetaRequest<'_>,
        now: Time,
    ) -> Result<Done, Status> {
        match request {
            MetaRequest::SetAttr { ino, set } => self.set_attr(*ino, set, now),
            MetaRequest::Make { parent, name, how, target } => {
                self.make(&make::Wanted { caller, parent: *parent, name, how, target }, now)
            }
            MetaRequest::Unlink { parent, name } => self.unlink(*parent, name, now),
            MetaRequest::Rmdir { parent, name } => self.rmdir(*parent, name, now),
            MetaRequest::Rename { parent, name, new_parent, new_name, flags } => {
                let (from, to) = ((*parent, *name), (*new_parent, *new_name));
                self.rename(caller, from, to, *flags, now)
            }
            MetaRequest::Link { ino, parent, name } => self.link(*ino, *parent, name, now),
            MetaRequest::SetXattr { ino, name, value, flags } => {
                self.set_xattr(caller, *ino, (name, value), *flags, now)
            }
            MetaRequest::RemoveXattr { ino, name } => self.remove_xattr(*ino, name, now),
            MetaRequest::Wrote { ino, size_min, mtime, blocks_added, at_targets } => {
                let told = Told { size_min: *size_min, mtime: *mtime, at_targets: *at_targets };
                self.wrote(*ino, told, *blocks_added)
            }
            MetaRequest::WriteData(write) => self.write_data(write),
            MetaRequest::MoveData { ino, step } => self.move_data(*ino, *step),
            MetaRequest::SetLayout { ino, policy } => self.set_layout(*ino, *policy, now),
            _ => Err(Status::Protocol),
        }
    }
}
