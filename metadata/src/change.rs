//! One command's changes before they are made: read through to the tables, written all at once or not at all.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use weft_wire::layout::LayoutPolicy;
use weft_wire::limits::STRIPE_WIDTH_MAX;
use weft_wire::meta::{FileKind, Time};
use weft_wire::units::{to_u64, to_usize};
use weft_wire::{Ino, Layout, Status, VolumeId};

use crate::ended::Changes;
use crate::limits::{COLLISIONS_MAX, DEPTH_MAX};
use crate::name;
use crate::record::{DataAt, Entry, Inode, State, Tail, Work, entry_key, number_key};
use crate::store::{Found, Name, Rows, Store};

/// Value of an orphan's row: its format number.
pub(crate) const ORPHAN_VALUE: [u8; 2] = crate::record::FORMAT.to_le_bytes();

/// The same of an inode that never had a name: it may be given one.
pub(crate) const TMPFILE_VALUE: [u8; 3] = [ORPHAN_VALUE[0], ORPHAN_VALUE[1], 1];

/// See the module.
pub(crate) struct Change<'a> {
    pub(crate) store: &'a Store,
    volume: VolumeId,
    inodes: BTreeMap<Ino, Option<Inode>>,
    rows: Rows,
    targets: &'a [weft_wire::TargetId],
    next_counter: u64,
    next_work: u64,
    works: Vec<Work>,
    orphaned: Vec<Ino>,
    named: Vec<Ino>,
    dropped: Vec<Ino>,
    /// See [`Staged::ended`].
    pub(crate) ended: Changes,
}

/// What a command changes, ready to be written.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) rows: Rows,
    pub(crate) next_counter: u64,
    pub(crate) next_work: u64,
    /// Works the command gave the targets.
    pub(crate) works: Vec<Work>,
    /// Inodes that lost their last name.
    pub(crate) orphaned: Vec<Ino>,
    /// Inodes that have a first name.
    pub(crate) named: Vec<Ino>,
    /// Inodes that are gone.
    pub(crate) dropped: Vec<Ino>,
    /// What becomes of the ends and fences that are counted of sessions.
    pub(crate) ended: Changes,
}

/// How a directory changes with one command, besides its times.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct DirDelta {
    pub(crate) entries: i64,
    pub(crate) links: i32,
}

impl<'a> Change<'a> {
    pub(crate) fn new(store: &'a Store, state: &'a State, volume: VolumeId) -> Change<'a> {
        Change {
            store,
            volume,
            inodes: BTreeMap::new(),
            rows: Rows::new(),
            targets: &state.targets,
            next_counter: state.next_counter,
            next_work: state.next_work,
            works: Vec::new(),
            orphaned: Vec::new(),
            named: Vec::new(),
            dropped: Vec::new(),
            ended: Vec::new(),
        }
    }

    pub(crate) fn finish(mut self) -> Staged {
        for (ino, inode) in self.inodes {
            let key = (Name::Inodes, number_key(ino.0).to_vec());
            self.rows.insert(key, inode.map(|i| i.encode()));
        }
        Staged {
            rows: self.rows,
            next_counter: self.next_counter,
            next_work: self.next_work,
            works: self.works,
            orphaned: self.orphaned,
            named: self.named,
            dropped: self.dropped,
            ended: self.ended,
        }
    }

    pub(crate) fn put(&mut self, name: Name, key: Vec<u8>, value: Vec<u8>) {
        self.rows.insert((name, key), Some(value));
    }

    pub(crate) fn remove(&mut self, name: Name, key: Vec<u8>) {
        self.rows.insert((name, key), None);
    }

    /// The inode as it will be, or `Stale`.
    pub(crate) fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode, Status> {
        use std::collections::btree_map::Entry as Slot;
        match self.inodes.entry(ino) {
            Slot::Occupied(slot) => slot.into_mut().as_mut().ok_or(Status::Stale),
            Slot::Vacant(slot) => {
                let inode = self.store.known_inode(ino)?;
                Ok(slot.insert(None).insert(inode))
            }
        }
    }

    /// A new inode's number.
    pub(crate) fn next_ino(&mut self) -> Result<Ino, Status> {
        let ino = Ino::new(self.volume, self.next_counter).ok_or(Status::NoSpace)?;
        self.next_counter += 1;
        Ok(ino)
    }

    pub(crate) fn add_inode(&mut self, inode: Inode) {
        self.inodes.insert(inode.attr.ino, Some(inode));
    }

    /// Layout of a new file: the targets in turn, begun at one that depends on the inode, so small files spread.
    pub(crate) fn layout(&self, ino: Ino, policy: LayoutPolicy) -> Result<Layout, Status> {
        let count = self.targets.len();
        let width = match usize::from(policy.width) {
            0 => count.min(STRIPE_WIDTH_MAX),
            width => width.min(count),
        };
        let first = to_usize(ino.0.checked_rem(to_u64(count)).ok_or(Status::NoSpace)?);
        let targets = (0..width).map(|at| self.targets[(first + at) % count]).collect();
        Layout::new(policy.chunk_log2, targets).map_err(|_| Status::Damaged)
    }

    /// A directory that names can be added to: it still has one itself.
    pub(crate) fn live_directory(&self, ino: Ino) -> Result<Inode, Status> {
        let inode = self.store.directory(ino)?;
        if inode.attr.nlink == 0 { Err(Status::NotFound) } else { Ok(inode) }
    }

    pub(crate) fn find(&self, parent: Ino, name: &[u8]) -> Result<Option<Found>, Status> {
        self.store.find_entry(parent, name)
    }

    /// Puts a new name, which is known not to be there, into a directory.
    pub(crate) fn add_entry(
        &mut self,
        parent: Ino,
        name: &[u8],
        ino: Ino,
        kind: FileKind,
    ) -> Result<(), Status> {
        let base = name::cookie_base(&self.store.hash_seed, name);
        let mut used = [false; COLLISIONS_MAX];
        self.store.scan_collisions(parent, base, &mut |key, _| {
            used[usize::from(key[15])] = true;
            ControlFlow::Continue(())
        })?;
        let first = entry_key(parent, base);
        for ((_, key), value) in self.rows.range(
            (Name::Entries, first.to_vec())
                ..=(Name::Entries, entry_key(parent, base | 0xff).to_vec()),
        ) {
            used[usize::from(key[15])] = value.is_some();
        }
        let free = (0u8..=255).find(|at| !used[usize::from(*at)]).ok_or(Status::NoSpace)?;
        let key = entry_key(parent, base | u64::from(free));
        self.set_entry(key, name, ino, kind);
        Ok(())
    }

    /// Makes the entry at `key` lead to `ino`.
    pub(crate) fn set_entry(&mut self, key: [u8; 16], name: &[u8], ino: Ino, kind: FileKind) {
        self.put(Name::Entries, key.to_vec(), Entry { ino, kind, name }.encode());
    }

    pub(crate) fn remove_entry(&mut self, key: [u8; 16]) {
        self.remove(Name::Entries, key.to_vec());
    }

    /// Names of the directory changed.
    pub(crate) fn touch_directory(
        &mut self,
        ino: Ino,
        now: Time,
        delta: DirDelta,
    ) -> Result<(), Status> {
        let attr = &mut self.inode_mut(ino)?.attr;
        attr.size = attr.size.checked_add_signed(delta.entries).ok_or(Status::Damaged)?;
        attr.nlink = attr.nlink.checked_add_signed(delta.links).ok_or(Status::Damaged)?;
        attr.mtime = now;
        attr.ctime = now;
        attr.version = attr.version.wrapping_add(1);
        Ok(())
    }

    /// The inode, not its data, changed.
    pub(crate) fn touch(&mut self, ino: Ino, now: Time) -> Result<&mut Inode, Status> {
        let inode = self.inode_mut(ino)?;
        inode.attr.ctime = now;
        inode.attr.version = inode.attr.version.wrapping_add(1);
        Ok(inode)
    }

    /// A name of the inode is gone. With the last one (a directory has one) it becomes an orphan: whether
    /// somebody has it open is not known here, so that the same log always gives the same state.
    pub(crate) fn drop_link(&mut self, ino: Ino, now: Time) -> Result<(), Status> {
        let inode = self.touch(ino, now)?;
        let left = match inode.is_directory() {
            true => 0,
            false => inode.attr.nlink.checked_sub(1).ok_or(Status::Damaged)?,
        };
        inode.attr.nlink = left;
        if left == 0 {
            self.put(Name::Orphans, number_key(ino.0).to_vec(), ORPHAN_VALUE.to_vec());
            self.orphaned.push(ino);
        }
        Ok(())
    }

    /// A new inode without a name, which may be given one.
    pub(crate) fn add_tmpfile(&mut self, inode: Inode) {
        let ino = inode.attr.ino;
        self.put(Name::Orphans, number_key(ino.0).to_vec(), TMPFILE_VALUE.to_vec());
        self.orphaned.push(ino);
        self.add_inode(inode);
    }

    /// An inode without a name is about to get one: `NotFound` for one that had names and lost them.
    pub(crate) fn revive(&mut self, ino: Ino) -> Result<(), Status> {
        let key = number_key(ino.0).to_vec();
        if self.store.get(Name::Orphans, &key)? != Some(&TMPFILE_VALUE) {
            return Err(Status::NotFound);
        }
        self.remove(Name::Orphans, key);
        self.named.push(ino);
        Ok(())
    }

    /// Removes an orphan for good, and gives the targets the work of removing its chunks. Not one: nothing.
    pub(crate) fn drop_orphan(&mut self, ino: Ino) -> Result<(), Status> {
        let key = number_key(ino.0).to_vec();
        if self.store.get(Name::Orphans, &key)?.is_none() {
            return Ok(());
        }
        let inode = self.store.known_inode(ino)?;
        let mut xattrs = Vec::new();
        if inode.xattr_count > 0 {
            self.store.scan(Name::Xattrs, &key, &mut |row, _| {
                if !row.starts_with(&key) {
                    return ControlFlow::Break(());
                }
                xattrs.push(row.to_vec());
                ControlFlow::Continue(())
            })?;
        }
        for row in xattrs {
            self.remove(Name::Xattrs, row);
        }
        if inode.inline_max().is_some() {
            self.remove(Name::Data, number_key(ino.0).to_vec());
        }
        // Of data that is in the inode the targets have nothing, so there is nothing for them to do.
        if let Tail::File(layout, at) = inode.tail
            && !matches!(at, DataAt::Inode { .. })
        {
            let remove_from = weft_wire::ChunkIndex(0);
            let (cut, shrink, uncounted) = (None, false, false);
            self.add_work(Work { id: 0, ino, layout, remove_from, cut, shrink, uncounted });
        }
        self.remove(Name::Orphans, key);
        self.inodes.insert(ino, None);
        self.dropped.push(ino);
        Ok(())
    }

    /// The file of a work, when it lives on and its blocks get fewer by it.
    pub(crate) fn work_of_living(&self, id: u64) -> Option<Ino> {
        let row = self.store.get(Name::Works, &number_key(id)).ok()??;
        Work::decode(id, row).filter(|work| work.shrink && !work.uncounted).map(|work| work.ino)
    }

    /// Gives the targets a work; its number.
    pub(crate) fn add_work(&mut self, work: Work) -> u64 {
        let id = self.next_work;
        self.next_work += 1;
        let work = Work { id, ..work };
        self.put(Name::Works, number_key(id).to_vec(), work.encode());
        self.works.push(work);
        id
    }

    /// Whether `ino` is `above` or lies below it.
    pub(crate) fn is_within(&self, ino: Ino, above: Ino) -> Result<bool, Status> {
        let mut at = ino;
        for _ in 0..DEPTH_MAX {
            if at == above {
                return Ok(true);
            }
            match self.store.known_inode(at).map_err(|_| Status::Damaged)?.tail {
                Tail::Directory { parent, .. } if parent == at => return Ok(false),
                Tail::Directory { parent, .. } => at = parent,
                _ => return Err(Status::Damaged),
            }
        }
        Err(Status::Damaged)
    }
}
