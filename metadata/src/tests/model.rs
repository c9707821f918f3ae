//! What a volume should do, in the plainest way: maps in memory, fed with the commands of the log in their order.

use std::collections::BTreeMap;

use weft_wire::meta::{
    Attr, DataPlace, DataWrite, FileKind, Inline, MakeHow, MetaReply, MetaRequest, MoveStep,
    RENAME_EXCHANGE, RENAME_NOREPLACE, SetAttr, Time, TimeSet,
};
use weft_wire::{Ino, Layout, SessionId, Status, TargetId};

use crate::log::{Command, DROP_ORPHANS, FENCE, SESSION_END, WORKS_DONE};

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) attr: Attr,
    pub(super) blocks: i64,
    pub(super) entries: BTreeMap<Vec<u8>, u64>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) target: Vec<u8>,
    pub(super) parent: u64,
    /// A file whose data is in the inode.
    pub(super) small: Option<Small>,
}

/// Data in an inode, and whether some of it may be at the targets: what they have then, if it was begun.
#[derive(Clone, Debug)]
pub(super) struct Small {
    pub(super) data: Vec<u8>,
    begun: bool,
    begun_with: Option<Vec<u8>>,
    /// Whoever made it may have begun at the targets without a word.
    fresh: bool,
}

impl Node {
    fn set_data(&mut self, data: Vec<u8>) {
        let small = self.small.as_mut().expect("only where it is in the inode");
        if data != small.data {
            self.blocks = i64::from(!data.is_empty());
            self.attr.blocks = u64::from(!data.is_empty());
        }
        small.data = data;
        small.begun_with = None;
    }

    /// What of the data is told.
    pub(super) fn inline(&self, told: bool) -> Option<Inline> {
        let small = self.small.as_ref()?;
        Some(Inline { bytes_max: INLINE_MAX, data: told.then(|| small.data.clone()) })
    }

    fn add_blocks(&mut self, added: i64) {
        self.blocks += added;
        self.attr.blocks = self.blocks.try_into().unwrap_or(0);
    }
}

#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) status: Status,
    pub(super) body: Vec<u8>,
    /// The work it waits for, or 0.
    pub(super) work: u64,
    pub(super) opened: Ino,
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) nodes: BTreeMap<u64, Node>,
    next_ino: u64,
    next_work: u64,
    /// Works to do, and whether they shrink.
    pub(super) works: BTreeMap<u64, bool>,
    /// The file of each work that shrinks one.
    shrinks: BTreeMap<u64, u64>,
    targets: Vec<TargetId>,
    /// By session, slot, sequence.
    pub(super) outcomes: BTreeMap<(SessionId, u16, u64), Outcome>,
    pub(super) dropped: Vec<Ino>,
}

/// As the root directory has it in the random histories.
pub(super) const INLINE_MAX: u16 = 300;

type Ended = Result<(MetaReply, u64), Status>;

impl Model {
    pub(super) fn new(targets: &[TargetId], root: Attr) -> Model {
        let node = Node {
            attr: root,
            blocks: 0,
            entries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            target: Vec::new(),
            parent: 1,
            small: None,
        };
        Model {
            nodes: BTreeMap::from([(1, node)]),
            next_ino: 2,
            next_work: 1,
            works: BTreeMap::new(),
            shrinks: BTreeMap::new(),
            targets: targets.to_vec(),
            outcomes: BTreeMap::new(),
            dropped: Vec::new(),
        }
    }

    pub(super) fn apply(&mut self, command: &Command) {
        let numbers = |body: &[u8]| -> Vec<u64> {
            body.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect()
        };
        match command.kind {
            SESSION_END => self.outcomes.retain(|(session, ..), _| *session != command.session),
            WORKS_DONE => numbers(&command.body).chunks(2).for_each(|pair| {
                self.works.remove(&pair[0]).expect("a work that is to do");
                let file = self.shrinks.get(&pair[0]).and_then(|ino| self.nodes.get_mut(ino));
                if let Some(node) = file {
                    node.add_blocks(-i64::try_from(pair[1]).unwrap());
                }
            }),
            DROP_ORPHANS => numbers(&command.body).iter().for_each(|ino| self.drop_orphan(*ino)),
            FENCE => {}
            _ => self.client(command),
        }
    }

    fn drop_orphan(&mut self, ino: u64) {
        let node = self.nodes.remove(&ino).expect("dropped once");
        assert_eq!(node.attr.nlink, 0, "only what has no name is dropped");
        let at_targets = node.small.is_none_or(|small| small.begun || small.fresh);
        if node.attr.kind() == FileKind::Regular && at_targets {
            self.works.insert(self.next_work, false);
            self.next_work += 1;
        }
        self.dropped.push(Ino(ino));
    }

    fn client(&mut self, command: &Command) {
        let kind = command.wire_kind().unwrap();
        let (caller, request) = MetaRequest::decode(kind, &command.body).unwrap();
        let mut opened = Ino(0);
        let before = self.clone_small();
        let ended = self.request(caller.uid, caller.gid, &request, command.now);
        let (status, body, work) = match ended {
            Ok((reply, work)) => {
                if let (MetaRequest::Make { how, .. }, MetaReply::Made(attr, ..)) =
                    (&request, &reply)
                    && how.open
                {
                    opened = attr.ino;
                }
                let mut body = Vec::new();
                reply.encode(&mut body);
                (Status::Ok, body, work)
            }
            Err(status) => {
                assert_eq!(before, self.clone_small(), "a refusal changes nothing: {request:?}");
                (status, Vec::new(), 0)
            }
        };
        let key = (command.session, caller.slot, caller.sequence);
        let outcome = Outcome { status, body, work, opened };
        assert!(self.outcomes.insert(key, outcome).is_none(), "each change is logged once");
    }

    fn clone_small(&self) -> (u64, u64, usize) {
        (self.next_ino, self.next_work, self.nodes.len())
    }

    fn request(&mut self, uid: u32, gid: u32, request: &MetaRequest<'_>, now: Time) -> Ended {
        match request {
            MetaRequest::SetAttr { ino, set } => self.set_attr(ino.0, set, now),
            MetaRequest::Make { parent, name, how, target } => {
                self.make((uid, gid), (parent.0, name), how, target, now)
            }
            MetaRequest::Unlink { parent, name } => self.remove((parent.0, name), false, now),
            MetaRequest::Rmdir { parent, name } => self.remove((parent.0, name), true, now),
            MetaRequest::Rename { parent, name, new_parent, new_name, flags } => {
                self.rename((parent.0, name), (new_parent.0, new_name), *flags, now)
            }
            MetaRequest::Link { ino, parent, name } => self.link(ino.0, (parent.0, name), now),
            MetaRequest::SetXattr { ino, name, value, flags } => {
                let node = self.nodes.get(&ino.0).ok_or(Status::Stale)?;
                match (node.xattrs.contains_key(*name), flags) {
                    (true, 1) => return Err(Status::Exists),
                    (false, 2) => return Err(Status::NoData),
                    _ => {}
                }
                self.changed(ino.0, now).xattrs.insert(name.to_vec(), value.to_vec());
                Ok((MetaReply::Done, 0))
            }
            MetaRequest::RemoveXattr { ino, name } => {
                let node = self.nodes.get(&ino.0).ok_or(Status::Stale)?;
                if !node.xattrs.contains_key(*name) {
                    return Err(Status::NoData);
                }
                self.changed(ino.0, now).xattrs.remove(*name);
                Ok((MetaReply::Done, 0))
            }
            MetaRequest::Wrote { ino, size_min, mtime, blocks_added, at_targets } => {
                let node = self.nodes.get_mut(&ino.0).ok_or(Status::Stale)?;
                match node.attr.kind() {
                    FileKind::Regular => {}
                    FileKind::Directory => return Err(Status::IsDirectory),
                    _ => return Err(Status::Invalid),
                }
                if let Some(small) = node.small.as_ref().filter(|_| *at_targets) {
                    if !small.fresh {
                        return Err(Status::Invalid);
                    }
                    node.small = None;
                }
                if node.small.is_none() {
                    node.add_blocks(*blocks_added);
                }
                let attr = &mut node.attr;
                attr.size = attr.size.max(*size_min);
                attr.mtime = attr.mtime.max(*mtime);
                attr.ctime = attr.ctime.max(*mtime);
                attr.version += 1;
                Ok((MetaReply::Attr(*attr), 0))
            }
            MetaRequest::WriteData(write) => self.write_data(write),
            MetaRequest::MoveData { ino, step } => self.move_data(ino.0, *step),
            other => panic!("{other:?}"),
        }
    }

    fn write_data(&mut self, write: &DataWrite<'_>) -> Ended {
        let node = self.nodes.get_mut(&write.ino.0).ok_or(Status::Stale)?;
        let Some(small) = &node.small else { return Err(Status::Invalid) };
        let start = usize::try_from(write.offset).unwrap();
        let end = start + write.bytes.len();
        if end > usize::from(INLINE_MAX) {
            return Err(Status::TooBig);
        }
        if !write.bytes.is_empty() {
            let byte = |at: usize| match at.checked_sub(start).and_then(|at| write.bytes.get(at)) {
                Some(new) => *new,
                None => small.data.get(at).copied().unwrap_or(0),
            };
            let data = (0..small.data.len().max(end)).map(byte).collect();
            node.set_data(data);
            let small = node.small.as_mut().unwrap();
            // Whoever comes later cannot know what lies at the targets.
            small.begun |= std::mem::take(&mut small.fresh) && !write.untouched;
            let attr = &mut node.attr;
            attr.size = attr.size.max(end as u64);
            attr.mtime = attr.mtime.max(write.mtime);
            attr.ctime = attr.ctime.max(write.mtime);
            attr.version += 1;
        }
        Ok((MetaReply::Attr(node.attr), 0))
    }

    fn move_data(&mut self, ino: u64, step: MoveStep) -> Ended {
        let node = self.nodes.get_mut(&ino).ok_or(Status::Stale)?;
        if node.attr.kind() != FileKind::Regular {
            return Err(Status::Invalid);
        }
        let (mut moved, mut work) = (false, 0);
        if let Some(small) = &mut node.small {
            let began = small.begun_with.is_some();
            match step {
                MoveStep::Stay => {}
                MoveStep::Begin if small.fresh => {
                    moved = true;
                    work = self.next_work;
                }
                MoveStep::Begin if !small.begun && small.data.is_empty() => moved = true,
                MoveStep::Begin => {
                    node.attr.version += u64::from(!began);
                    work = if small.begun { self.next_work } else { 0 };
                    small.begun = true;
                    small.begun_with = Some(small.data.clone());
                }
                MoveStep::End => {
                    let brought = small.begun_with.as_ref().ok_or(Status::Invalid)?;
                    assert_eq!(*brought, small.data, "what counts is what was brought");
                    node.blocks = 1;
                    node.attr.blocks = 1;
                    moved = true;
                }
            }
        }
        if moved {
            node.small = None;
            node.attr.version += 1;
        }
        let reply = MetaReply::Data(node.attr, node.inline(true));
        if work != 0 {
            self.works.insert(work, true);
            self.next_work += 1;
        }
        Ok((reply, work))
    }

    fn changed(&mut self, ino: u64, now: Time) -> &mut Node {
        let node = self.nodes.get_mut(&ino).unwrap();
        node.attr.ctime = now;
        node.attr.version += 1;
        node
    }

    /// The directory's names changed: its counts follow from them.
    fn changed_dir(&mut self, ino: u64, now: Time) {
        let entries = self.nodes[&ino].entries.clone();
        let is_dir = |ino: &&u64| self.nodes[*ino].attr.kind() == FileKind::Directory;
        let dirs = u32::try_from(entries.values().filter(is_dir).count()).unwrap();
        let attr = &mut self.changed(ino, now).attr;
        attr.mtime = now;
        attr.size = entries.len() as u64;
        attr.nlink = 2 + dirs;
    }

    fn dir(&self, ino: u64) -> Result<&Node, Status> {
        let node = self.nodes.get(&ino).ok_or(Status::Stale)?;
        if node.attr.kind() == FileKind::Directory { Ok(node) } else { Err(Status::NotDirectory) }
    }

    fn live_dir(&self, ino: u64) -> Result<&Node, Status> {
        let node = self.dir(ino)?;
        if node.attr.nlink == 0 { Err(Status::NotFound) } else { Ok(node) }
    }

    fn layout(&self, ino: u64) -> Layout {
        let mut targets = self.targets.clone();
        let count = targets.len() as u64;
        targets.rotate_left(usize::try_from(ino % count).unwrap());
        Layout::new(20, targets).unwrap()
    }

    fn made(&self, ino: u64, new: bool) -> Ended {
        let node = &self.nodes[&ino];
        let layout = (node.attr.kind() == FileKind::Regular).then(|| self.layout(ino));
        let place = layout.map(|layout| DataPlace { layout, inline: node.inline(new) });
        Ok((MetaReply::Made(node.attr, new, place), 0))
    }

    fn make(
        &mut self,
        (uid, gid): (u32, u32),
        (parent, name): (u64, &[u8]),
        how: &MakeHow,
        target: &[u8],
        now: Time,
    ) -> Ended {
        let dir = self.live_dir(parent)?;
        let kind = FileKind::from_mode(how.mode).unwrap();
        if let Some(found) = dir.entries.get(name) {
            return match (how.exclusive, kind, self.nodes[found].attr.kind()) {
                (false, FileKind::Regular, FileKind::Regular)
                    if !how.inline && self.nodes[found].small.is_some() =>
                {
                    Err(Status::NotSupported)
                }
                (false, FileKind::Regular, FileKind::Regular) => self.made(*found, false),
                (false, FileKind::Regular, FileKind::Directory) => Err(Status::IsDirectory),
                _ => Err(Status::Exists),
            };
        }
        let sticky = dir.attr.mode & 0o2000;
        let gid = if sticky != 0 { dir.attr.gid } else { gid };
        let is_dir = kind == FileKind::Directory;
        let ino = self.next_ino;
        self.next_ino += 1;
        let attr = Attr {
            ino: Ino(ino),
            mode: how.mode | if is_dir { sticky } else { 0 },
            nlink: if is_dir { 2 } else { 1 },
            uid,
            gid,
            rdev: 0,
            size: target.len() as u64,
            blocks: 0,
            version: 1,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        };
        let (entries, xattrs) = Default::default();
        let small = (kind == FileKind::Regular && how.inline).then(|| Small {
            data: Vec::new(),
            begun: false,
            begun_with: None,
            fresh: how.fresh && how.open,
        });
        let target = target.to_vec();
        let node = Node { attr, blocks: 0, entries, xattrs, target, parent, small };
        self.nodes.insert(ino, node);
        self.nodes.get_mut(&parent).unwrap().entries.insert(name.to_vec(), ino);
        self.changed_dir(parent, now);
        self.made(ino, true)
    }

    fn drop_name(&mut self, ino: u64, now: Time) {
        let attr = &mut self.changed(ino, now).attr;
        attr.nlink = if attr.kind() == FileKind::Directory { 0 } else { attr.nlink - 1 };
    }

    fn remove(&mut self, (parent, name): (u64, &[u8]), dir: bool, now: Time) -> Ended {
        let found = *self.dir(parent)?.entries.get(name).ok_or(Status::NotFound)?;
        match (dir, self.nodes[&found].attr.kind() == FileKind::Directory) {
            (true, false) => return Err(Status::NotDirectory),
            (false, true) => return Err(Status::IsDirectory),
            _ if !self.nodes[&found].entries.is_empty() => return Err(Status::NotEmpty),
            _ => {}
        }
        self.nodes.get_mut(&parent).unwrap().entries.remove(name);
        self.changed_dir(parent, now);
        self.drop_name(found, now);
        Ok((MetaReply::Done, 0))
    }

    fn link(&mut self, ino: u64, (parent, name): (u64, &[u8]), now: Time) -> Ended {
        let dir = self.live_dir(parent)?;
        let node = self.nodes.get(&ino).ok_or(Status::Stale)?;
        if node.attr.kind() == FileKind::Directory {
            return Err(Status::NotPermitted);
        }
        if dir.entries.contains_key(name) {
            return Err(Status::Exists);
        }
        if node.attr.nlink == 0 {
            return Err(Status::NotFound);
        }
        self.nodes.get_mut(&parent).unwrap().entries.insert(name.to_vec(), ino);
        self.changed_dir(parent, now);
        let attr = &mut self.changed(ino, now).attr;
        attr.nlink += 1;
        Ok((MetaReply::Entry(*attr), 0))
    }

    fn is_within(&self, mut ino: u64, above: u64) -> bool {
        while ino != above && ino != 1 {
            ino = self.nodes[&ino].parent;
        }
        ino == above
    }

    fn rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), flags: u32, now: Time) -> Ended {
        let dir = self.dir(from.0)?;
        let other_dir = self.live_dir(to.0)?;
        let moved = *dir.entries.get(from.1).ok_or(Status::NotFound)?;
        let replaced = other_dir.entries.get(to.1).copied();
        let exchange = flags & RENAME_EXCHANGE != 0;
        let is_dir = |ino: u64| self.nodes[&ino].attr.kind() == FileKind::Directory;
        match replaced {
            Some(_) if flags & RENAME_NOREPLACE != 0 => return Err(Status::Exists),
            None if exchange => return Err(Status::NotFound),
            Some(other) if other == moved => return Ok((MetaReply::Done, 0)),
            _ => {}
        }
        if is_dir(moved) && self.is_within(to.0, moved) {
            return Err(Status::Invalid);
        }
        if let Some(other) = replaced {
            match (exchange, is_dir(moved), is_dir(other)) {
                (true, _, true) if self.is_within(from.0, other) => return Err(Status::Invalid),
                (true, ..) => {}
                (false, true, false) => return Err(Status::NotDirectory),
                (false, false, true) => return Err(Status::IsDirectory),
                (false, true, true) if !self.nodes[&other].entries.is_empty() => {
                    return Err(Status::NotEmpty);
                }
                _ => {}
            }
        }
        self.nodes.get_mut(&from.0).unwrap().entries.remove(from.1);
        self.nodes.get_mut(&to.0).unwrap().entries.insert(to.1.to_vec(), moved);
        self.changed(moved, now).parent = to.0;
        match replaced {
            Some(other) if exchange => {
                self.nodes.get_mut(&from.0).unwrap().entries.insert(from.1.to_vec(), other);
                self.changed(other, now).parent = from.0;
            }
            Some(other) => self.drop_name(other, now),
            None => {}
        }
        self.changed_dir(from.0, now);
        if from.0 != to.0 {
            self.changed_dir(to.0, now);
        }
        Ok((MetaReply::Done, 0))
    }

    fn set_attr(&mut self, ino: u64, set: &SetAttr, now: Time) -> Ended {
        let node = self.nodes.get(&ino).ok_or(Status::Stale)?;
        match (set.size, node.attr.kind()) {
            (None, _) | (_, FileKind::Regular) => {}
            (_, FileKind::Directory) => return Err(Status::IsDirectory),
            _ => return Err(Status::Invalid),
        }
        let changed = set.ctime.map_or(now, |told| told.max(node.attr.ctime));
        let attr = &mut self.changed(ino, changed).attr;
        let cuts = set.size.is_some();
        if let Some(mode) = set.mode {
            attr.mode = attr.mode & !0o7777 | mode & 0o7777;
        }
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        if let Some(size) = set.size {
            (attr.size, attr.mtime) = (size, now);
        }
        for (wanted, time) in [(set.atime, &mut attr.atime), (set.mtime, &mut attr.mtime)] {
            match wanted {
                Some(TimeSet::Now) => *time = now,
                Some(TimeSet::To(to)) => *time = to,
                None => {}
            }
        }
        let node = self.nodes.get_mut(&ino).unwrap();
        if let (Some(size), Some(small)) = (set.size, &node.small) {
            let mut data = small.data.clone();
            data.truncate(usize::try_from(size).unwrap());
            if data != small.data {
                node.set_data(data);
            }
        }
        let (attr, at_targets) = (node.attr, node.small.is_none());
        let mut work = 0;
        if cuts && at_targets {
            work = self.next_work;
            self.works.insert(work, true);
            self.shrinks.insert(work, ino);
            self.next_work += 1;
        }
        Ok((MetaReply::Attr(attr), work))
    }
}
