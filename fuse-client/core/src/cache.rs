//! What is known of inodes under leases: attributes and names, so that they are answered without a message.
//!
//! Invariants:
//! - Attributes and names are put in only with a reply that granted the lease: a reply without it may be overtaken by
//!   a change that is on its way.
//! - A recall, a change of our own, or eviction takes them out. Whether a lease still holds is a matter of time, which
//!   whoever asks looks at first.
//! - A directory that was made here under a lease is known whole from its first moment: a name that was never put in is
//!   not there. It is so until a name of it has to go for want of room. A name of it that is being changed is unsure.
//! - Bounded; the least recently used goes first, but never what is pinned (a file with state of its own). A lease that
//!   was forgotten so is given back when it is asked for.
//! - What the kernel lets go of for want of memory is let go of here, too: no more is known than the kernel knows, which
//!   takes some three times as much memory for it, and is told by the machine when there is little.

use std::collections::{BTreeMap, BTreeSet};

use weft_wire::meta::Attr;
use weft_wire::{Ino, LeaseMode};

use crate::limits::{CACHED_INODES_MAX, CACHED_NAMES_MAX};

/// Of so many inodes under a directory's names the kernel has let go before its names are looked through for them.
const LET_GO_MIN: usize = 64;

#[derive(Debug)]
struct Known {
    mode: LeaseMode,
    /// With the generation in which they were right.
    attr: Option<(Attr, u64)>,
    /// What is known of a directory only.
    directory: Option<Box<Directory>>,
    /// The directory that a name of it was put in last.
    parent: Option<Ino>,
    /// It has no file capabilities: the kernel asks before every write(2), to know whether to take them away.
    no_capabilities: bool,
    age: u64,
}

#[derive(Debug, Default)]
struct Directory {
    /// Names, and that there is no such name.
    names: BTreeMap<Box<[u8]>, Option<Ino>>,
    /// Of a directory all of whose names are known: those that are not. `None`: it is no such directory.
    unsure: Option<BTreeSet<Vec<u8>>>,
    /// Inodes under its names that the kernel let go of since the names were looked through.
    let_go: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    /// Each in a block of its own: nodes of the tree are half empty where inodes come in order.
    known: BTreeMap<Ino, Box<Known>>,
    by_age: BTreeMap<u64, Ino>,
    next_age: u64,
    name_count: usize,
    /// Attributes of an earlier one are not known to be right.
    generation: u64,
    /// See [`Cache::freed_count`].
    freed_count: usize,
}

impl Cache {
    /// What may be done with the inode, if its lease still holds.
    pub(crate) fn mode(&self, ino: Ino) -> LeaseMode {
        self.known.get(&ino).map_or(LeaseMode::None, |known| known.mode)
    }

    /// Its attributes.
    pub(crate) fn attr(&mut self, ino: Ino) -> Option<Attr> {
        let known = self.known.get(&ino).filter(|known| known.mode >= LeaseMode::Read)?;
        let (attr, _) = known.attr.filter(|(_, generation)| *generation == self.generation)?;
        self.touch(ino);
        Some(attr)
    }

    /// Whether its attributes are known.
    pub(crate) fn has_attr(&self, ino: Ino) -> bool {
        let attr = self.known.get(&ino).and_then(|known| known.attr);
        attr.is_some_and(|(_, generation)| generation == self.generation)
    }

    /// What is known of a name: its inode, or that it is not there.
    pub(crate) fn name(&self, parent: Ino, name: &[u8]) -> Option<Option<Ino>> {
        let known = self.known.get(&parent).filter(|known| known.mode >= LeaseMode::Read)?;
        let directory = known.directory.as_ref()?;
        match (directory.names.get(name), &directory.unsure) {
            (Some(found), _) => Some(*found),
            (None, Some(unsure)) if !unsure.contains(name) && !is_dots(name) => Some(None),
            (None, _) => None,
        }
    }

    /// A directory was made just now, and a lease on it granted: it is empty.
    pub(crate) fn set_empty(&mut self, directory: Ino) {
        let known = self.known.get_mut(&directory).filter(|known| known.mode >= LeaseMode::Read);
        let names = known.map(|known| known.directory.get_or_insert_default());
        if let Some(directory) = names.filter(|directory| directory.names.is_empty()) {
            directory.unsure.get_or_insert_default();
        }
    }

    /// A lease was granted. `is_pinned`: what must stay.
    pub(crate) fn grant(&mut self, ino: Ino, mode: LeaseMode, is_pinned: impl Fn(Ino) -> bool) {
        if mode == LeaseMode::None {
            return;
        }
        let age = self.next_age;
        let known = self.known.entry(ino).or_insert_with(|| {
            let (attr, directory, parent, no_capabilities) = (None, None, None, false);
            Box::new(Known { mode, attr, directory, parent, no_capabilities, age })
        });
        // Less is what a recall leaves, not a grant.
        known.mode = if mode == LeaseMode::Through { mode } else { known.mode.max(mode) };
        if known.age == age {
            self.next_age += 1;
            self.by_age.insert(age, ino);
        }
        self.touch(ino);
        let mut tries = 64;
        while self.known.len() > CACHED_INODES_MAX && tries > 0 {
            tries -= 1;
            let oldest = self.by_age.first_key_value().map(|(_, ino)| *ino);
            match oldest.filter(|oldest| *oldest != ino) {
                Some(pinned) if is_pinned(pinned) => self.touch(pinned),
                Some(oldest) => self.forget(oldest),
                None => return,
            }
        }
    }

    /// The inode's attributes, granted before or just now.
    pub(crate) fn put_attr(&mut self, attr: &Attr) {
        let generation = self.generation;
        if let Some(known) = self.known.get_mut(&attr.ino)
            && known.attr.is_none_or(|(old, _)| old.version <= attr.version)
        {
            known.attr = Some((*attr, generation));
        }
    }

    /// Whether it is known to have no file capabilities.
    pub(crate) fn has_no_capabilities(&self, ino: Ino) -> bool {
        self.known.get(&ino).is_some_and(|known| known.no_capabilities)
    }

    /// It has no file capabilities, granted just now; or that is not known any more.
    pub(crate) fn set_no_capabilities(&mut self, ino: Ino, none: bool) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.no_capabilities = none && known.mode >= LeaseMode::Read;
        }
    }

    /// A name of a directory, granted just now; after what was granted of the inode it leads to.
    pub(crate) fn put_name(&mut self, parent: Ino, name: &[u8], ino: Option<Ino>) {
        if self.name_count >= CACHED_NAMES_MAX {
            self.drop_names();
        }
        let Some(known) = self.known.get_mut(&parent) else { return };
        let directory = known.directory.get_or_insert_default();
        let was_unsure = directory.unsure.as_mut().is_some_and(|unsure| unsure.remove(name));
        if directory.names.insert(name.into(), ino).is_none() && !was_unsure {
            self.name_count += 1;
        }
        if let Some(child) = ino.and_then(|ino| self.known.get_mut(&ino)) {
            child.parent = Some(parent);
        }
    }

    /// Makes room: some names go, those of the directory that was asked for longest ago first.
    fn drop_names(&mut self) {
        let mut left = CACHED_NAMES_MAX / 16;
        for ino in self.by_age.values() {
            let known = self.known.get_mut(ino).expect("what has an age is known");
            let Some(directory) = &mut known.directory else { continue };
            self.name_count -= directory.unsure.take().map_or(0, |unsure| unsure.len());
            while left > 0 && directory.names.pop_first().is_some() {
                left -= 1;
                self.name_count -= 1;
            }
            if left == 0 {
                return;
            }
        }
    }

    /// The attributes are not right any more.
    pub(crate) fn drop_attr(&mut self, ino: Ino) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.attr = None;
        }
    }

    /// No attributes are known to be right.
    pub(crate) fn drop_attrs(&mut self) {
        self.generation += 1;
    }

    /// The name is not known any more.
    pub(crate) fn drop_name(&mut self, parent: Ino, name: &[u8]) {
        let known = self.known.get_mut(&parent);
        let Some(directory) = known.and_then(|known| known.directory.as_mut()) else { return };
        let was_known = directory.names.remove(name).is_some();
        let unsure = directory.unsure.as_mut();
        let is_unsure = unsure.is_some_and(|unsure| unsure.insert(name.to_vec()));
        match (was_known, is_unsure) {
            (true, false) => self.name_count -= 1,
            (false, true) => self.name_count += 1,
            _ => {}
        }
    }

    /// The lease is given back, but for what is kept.
    pub(crate) fn lower(&mut self, ino: Ino, keep: LeaseMode) {
        match self.known.get_mut(&ino) {
            Some(known) if keep >= LeaseMode::Read && known.mode > keep => known.mode = keep,
            Some(known) if known.mode > keep => self.forget(ino),
            _ => {}
        }
    }

    /// What is granted or asked for from here on has this age or a higher one.
    pub(crate) fn next_age(&self) -> u64 {
        self.next_age
    }

    /// The inodes known that something was granted or asked for since [`Cache::next_age`] was `age`.
    pub(crate) fn used_since(&self, age: u64) -> impl Iterator<Item = Ino> {
        self.by_age.range(age..).map(|(_, ino)| *ino)
    }

    /// No lease is held.
    pub(crate) fn forget_all(&mut self) {
        self.freed_count += self.known.len() + self.name_count;
        self.known.clear();
        self.by_age.clear();
        self.name_count = 0;
    }

    /// The kernel let go of an inode that is not pinned: it is not known any more, nor in the end the names that lead there.
    pub(crate) fn let_go(&mut self, ino: Ino) {
        let Some(known) = self.known.get(&ino) else { return };
        let (parent, name_count) = (known.parent, known.name_count());
        self.forget(ino);
        self.freed_count += 1 + name_count;
        let known = parent.and_then(|parent| self.known.get_mut(&parent));
        if let Some(directory) = known.and_then(|known| known.directory.as_mut()) {
            directory.let_go += 1;
            if directory.let_go >= LET_GO_MIN.max(directory.names.len() / 2) {
                self.let_names_go(parent.expect("it has names"));
            }
        }
    }

    /// Where most of a directory's names lead to inodes that are not known, those go, and what is known not to be there.
    /// Inodes that were removed have no names, so a directory in which files come and go stays known whole.
    fn let_names_go(&mut self, ino: Ino) {
        let directory = self.known.get_mut(&ino).and_then(|known| known.directory.take());
        let Some(mut directory) = directory else { return };
        directory.let_go = 0;
        let before = directory.name_count();
        let is_known = |ino: &Ino| self.known.contains_key(ino);
        let lost = directory.names.values().flatten().filter(|ino| !is_known(ino)).count();
        if lost > 0 && 2 * lost >= directory.names.len() {
            directory.unsure = None;
            directory.names.retain(|_, ino| ino.as_ref().is_some_and(is_known));
        }
        let freed = before - directory.name_count();
        self.name_count -= freed;
        self.freed_count += freed;
        self.known.get_mut(&ino).expect("looked at above").directory = Some(directory);
    }

    /// Inodes and names that went, and nothing came for, since [`Cache::gave_back`].
    pub(crate) fn freed_count(&self) -> usize {
        self.freed_count
    }

    /// Their memory was given back.
    pub(crate) fn gave_back(&mut self) {
        self.freed_count = 0;
    }

    fn forget(&mut self, ino: Ino) {
        if let Some(known) = self.known.remove(&ino) {
            self.by_age.remove(&known.age);
            self.name_count -= known.name_count();
        }
    }

    fn touch(&mut self, ino: Ino) {
        let Some(known) = self.known.get_mut(&ino) else { return };
        self.by_age.remove(&known.age);
        known.age = self.next_age;
        self.by_age.insert(known.age, ino);
        self.next_age += 1;
    }
}

impl Known {
    fn name_count(&self) -> usize {
        self.directory.as_ref().map_or(0, |directory| directory.name_count())
    }
}

impl Directory {
    fn name_count(&self) -> usize {
        self.names.len() + self.unsure.as_ref().map_or(0, BTreeSet::len)
    }
}

/// Names that every directory has and that no entry stands for.
fn is_dots(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

#[cfg(test)]
mod tests;
