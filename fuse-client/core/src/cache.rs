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

use std::collections::{BTreeMap, BTreeSet};

use weft_wire::meta::Attr;
use weft_wire::{Ino, LeaseMode};

use crate::limits::{CACHED_INODES_MAX, CACHED_NAMES_MAX};

#[derive(Debug)]
struct Known {
    mode: LeaseMode,
    /// With the generation in which they were right.
    attr: Option<(Attr, u64)>,
    /// Of a directory: names, and that there is no such name.
    names: BTreeMap<Vec<u8>, Option<Ino>>,
    /// Of a directory all of whose names are known: those that are not. `None`: it is no such directory.
    unsure: Option<BTreeSet<Vec<u8>>>,
    /// It has no file capabilities: the kernel asks before every write(2), to know whether to take them away.
    no_capabilities: bool,
    age: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    known: BTreeMap<Ino, Known>,
    by_age: BTreeMap<u64, Ino>,
    next_age: u64,
    name_count: usize,
    /// Attributes of an earlier one are not known to be right.
    generation: u64,
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
        match (known.names.get(name), &known.unsure) {
            (Some(found), _) => Some(*found),
            (None, Some(unsure)) if !unsure.contains(name) && !is_dots(name) => Some(None),
            (None, _) => None,
        }
    }

    /// A directory was made just now, and a lease on it granted: it is empty.
    pub(crate) fn set_empty(&mut self, directory: Ino) {
        let known = self.known.get_mut(&directory).filter(|known| known.names.is_empty());
        if let Some(known) = known.filter(|known| known.mode >= LeaseMode::Read) {
            known.unsure.get_or_insert_default();
        }
    }

    /// A lease was granted. `is_pinned`: what must stay.
    pub(crate) fn grant(&mut self, ino: Ino, mode: LeaseMode, is_pinned: impl Fn(Ino) -> bool) {
        if mode == LeaseMode::None {
            return;
        }
        let age = self.next_age;
        let names = BTreeMap::new();
        let fresh = Known { mode, attr: None, names, unsure: None, no_capabilities: false, age };
        let known = self.known.entry(ino).or_insert(fresh);
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

    /// A name of a directory, granted just now.
    pub(crate) fn put_name(&mut self, parent: Ino, name: &[u8], ino: Option<Ino>) {
        if self.name_count >= CACHED_NAMES_MAX {
            self.drop_names();
        }
        let Some(known) = self.known.get_mut(&parent) else { return };
        let was_unsure = known.unsure.as_mut().is_some_and(|unsure| unsure.remove(name));
        if known.names.insert(name.to_vec(), ino).is_none() && !was_unsure {
            self.name_count += 1;
        }
    }

    /// Makes room: some names go, those of the directory that was asked for longest ago first.
    fn drop_names(&mut self) {
        let mut left = CACHED_NAMES_MAX / 16;
        for ino in self.by_age.values() {
            let known = self.known.get_mut(ino).expect("what has an age is known");
            self.name_count -= known.unsure.take().map_or(0, |unsure| unsure.len());
            while left > 0 && known.names.pop_first().is_some() {
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
        let Some(known) = self.known.get_mut(&parent) else { return };
        let was_known = known.names.remove(name).is_some();
        let is_unsure = known.unsure.as_mut().is_some_and(|unsure| unsure.insert(name.to_vec()));
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

    /// Every inode that a lease is held on.
    pub(crate) fn inodes(&self) -> impl Iterator<Item = Ino> {
        self.known.keys().copied()
    }

    /// No lease is held.
    pub(crate) fn forget_all(&mut self) {
        self.known.clear();
        self.by_age.clear();
        self.name_count = 0;
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
        self.names.len() + self.unsure.as_ref().map_or(0, BTreeSet::len)
    }
}

/// Names that every directory has and that no entry stands for.
fn is_dots(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

#[cfg(test)]
mod tests {
    use weft_wire::meta::Time;

    use super::*;

    fn attr(ino: u64, version: u64) -> Attr {
        let (mode, nlink, uid, gid, rdev, size, blocks) = (0o100_644, 1, 0, 0, 0, 0, 0);
        let (atime, mtime, ctime, btime) = Default::default();
        let _: Time = atime;
        let ino = Ino(ino);
        Attr { ino, mode, nlink, uid, gid, rdev, size, blocks, version, atime, mtime, ctime, btime }
    }

    #[test]
    fn what_is_recalled_or_not_granted_is_not_answered() {
        let mut cache = Cache::default();
        cache.put_attr(&attr(1, 1));
        assert_eq!(cache.attr(Ino(1)), None, "without a lease nothing is kept");
        cache.grant(Ino(1), LeaseMode::Write, |_| false);
        cache.put_attr(&attr(1, 2));
        cache.put_attr(&attr(1, 1));
        assert_eq!(cache.attr(Ino(1)), Some(attr(1, 2)), "an overtaken answer changes nothing");
        cache.put_name(Ino(1), b"a", Some(Ino(2)));
        cache.put_name(Ino(1), b"b", None);
        cache.lower(Ino(1), LeaseMode::Read);
        assert_eq!(cache.mode(Ino(1)), LeaseMode::Read);
        assert_eq!(cache.name(Ino(1), b"a"), Some(Some(Ino(2))));
        assert_eq!((cache.name(Ino(1), b"b"), cache.name(Ino(1), b"c")), (Some(None), None));
        cache.drop_name(Ino(1), b"b");
        assert_eq!(cache.name(Ino(1), b"b"), None);
        cache.lower(Ino(1), LeaseMode::None);
        assert_eq!((cache.attr(Ino(1)), cache.name(Ino(1), b"a")), (None, None));
        assert_eq!((cache.name_count, cache.by_age.len()), (0, 0));
        cache.grant(Ino(1), LeaseMode::Through, |_| false);
        cache.put_attr(&attr(1, 2));
        assert_eq!(cache.attr(Ino(1)), None, "others write it");
    }

    #[test]
    fn a_directory_made_here_is_known_whole_but_for_what_is_being_changed() {
        let mut cache = Cache::default();
        cache.set_empty(Ino(1));
        assert_eq!(cache.name(Ino(1), b"a"), None, "without a lease nothing is known");
        cache.grant(Ino(1), LeaseMode::Read, |_| false);
        assert_eq!(cache.name(Ino(1), b"a"), None, "others may have put names in before the lease");
        cache.set_empty(Ino(1));
        assert_eq!((cache.name(Ino(1), b"a"), cache.name(Ino(1), b"..")), (Some(None), None));
        cache.drop_name(Ino(1), b"a");
        cache.drop_name(Ino(1), b"a");
        assert_eq!((cache.name(Ino(1), b"a"), cache.name(Ino(1), b"b")), (None, Some(None)));
        cache.put_name(Ino(1), b"a", Some(Ino(2)));
        assert_eq!(cache.name(Ino(1), b"a"), Some(Some(Ino(2))));
        cache.drop_name(Ino(1), b"a");
        assert_eq!((cache.name(Ino(1), b"a"), cache.name_count), (None, 1), "removed, or not");
        cache.lower(Ino(1), LeaseMode::None);
        cache.grant(Ino(1), LeaseMode::Read, |_| false);
        assert_eq!((cache.name(Ino(1), b"b"), cache.name_count), (None, 0), "others had it");
    }

    #[test]
    fn a_directory_known_whole_is_not_any_more_when_names_go_for_want_of_room() {
        let mut cache = Cache::default();
        (1..=2).for_each(|ino| cache.grant(Ino(ino), LeaseMode::Read, |_| false));
        (1..=2).for_each(|ino| cache.set_empty(Ino(ino)));
        cache.drop_name(Ino(1), b"unsure");
        for name in 0..CACHED_NAMES_MAX {
            cache.put_name(Ino(2), &name.to_le_bytes(), Some(Ino(9)));
        }
        assert_eq!(cache.name(Ino(2), &0_usize.to_le_bytes()), None, "not: there is none");
        let counts = cache.known.values().map(Known::name_count);
        assert_eq!(counts.sum::<usize>(), cache.name_count);
    }

    #[test]
    fn names_are_bounded_also_those_that_are_not_there() {
        let mut cache = Cache::default();
        (1..=3).for_each(|ino| cache.grant(Ino(ino), LeaseMode::Read, |_| false));
        for name in 0..=CACHED_NAMES_MAX {
            cache.put_name(Ino(3), &name.to_le_bytes(), None);
        }
        assert!(cache.name_count <= CACHED_NAMES_MAX, "{}", cache.name_count);
        assert_eq!(cache.name_count, cache.known[&Ino(3)].names.len());
        assert_eq!(cache.name(Ino(3), &CACHED_NAMES_MAX.to_le_bytes()), Some(None), "the last");
    }

    #[test]
    fn attributes_of_before_are_not_right_any_more() {
        let mut cache = Cache::default();
        cache.grant(Ino(1), LeaseMode::Read, |_| false);
        cache.put_attr(&attr(1, 2));
        cache.drop_attrs();
        assert_eq!((cache.attr(Ino(1)), cache.has_attr(Ino(1))), (None, false));
        cache.put_attr(&attr(1, 1));
        assert_eq!(cache.attr(Ino(1)), None, "overtaken");
        cache.put_attr(&attr(1, 2));
        assert_eq!(cache.attr(Ino(1)), Some(attr(1, 2)));
    }

    #[test]
    fn the_oldest_goes_and_the_pinned_stays() {
        let mut cache = Cache::default();
        let count = CACHED_INODES_MAX as u64;
        for ino in 0..=count {
            cache.grant(Ino(ino), LeaseMode::Read, |ino| ino == Ino(0));
        }
        assert_eq!(cache.mode(Ino(0)), LeaseMode::Read);
        assert_eq!(cache.mode(Ino(1)), LeaseMode::None);
        assert_eq!((cache.known.len(), cache.by_age.len()), (CACHED_INODES_MAX, CACHED_INODES_MAX));
    }
}
