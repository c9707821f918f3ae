//! The consistency checker: reads every table and says what does not agree. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use weft_wire::Ino;
use weft_wire::meta::FileKind;
use weft_wire::units::to_u64;

use crate::ended::End;
use crate::name;
use crate::record::{Entry, Inode, Outcome, Tail, Work, key_number, split_entry_key};
use crate::store::{Name, Store};
use crate::volume::Volume;

/// What does not agree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ProblemKind {
    /// A page of the table (named by its place in the list of tables) cannot be read: the rest was not looked at.
    TableDamaged,
    /// A record cannot be decoded.
    RecordDamaged,
    /// A name leads to an inode that is not there.
    NameWithoutInode,
    /// A name's type is not its inode's.
    TypeDiffers,
    /// A name's cookie does not follow from the name.
    NameMisplaced,
    /// Names are in something that is not a directory, or is not there.
    NamesWithoutDirectory,
    /// The link count is not the number of names (`other`: the names).
    LinkCount,
    /// A directory's size is not the number of its names (`other`: the names).
    EntryCount,
    /// A directory's parent is not where its name is (`other`: where it is).
    Parent,
    /// A directory that the root cannot be reached from.
    Unreachable,
    /// An inode without a name and without an orphan record.
    Lost,
    /// An orphan record of an inode that has names, or is not there.
    FalseOrphan,
    /// Extended attributes that are not those the inode counts (`other`: how many there are).
    XattrCount,
    /// Data in an inode that is not there, has its data at the targets, or says otherwise how much it is (`other`: the
    /// bytes; none where there should be some).
    InodeData,
    /// An inode's number, or a work's, was not given out yet.
    NumberAhead,
}

/// One thing that does not agree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Problem {
    /// What.
    pub kind: ProblemKind,
    /// The inode (or the number of a table or work, where there is none).
    pub ino: Ino,
    /// See the kind; else 0.
    pub other: u64,
}

/// What the checker saw.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Inodes.
    pub inode_count: u64,
    /// Names.
    pub entry_count: u64,
    /// Extended attributes.
    pub xattr_count: u64,
    /// Inodes without a name.
    pub orphan_count: u64,
    /// Works the targets are not done with.
    pub work_count: u64,
    /// What does not agree; empty for a sound volume.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether everything agrees.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn add(&mut self, kind: ProblemKind, ino: Ino, other: u64) {
        self.problems.push(Problem { kind, ino, other });
    }
}

/// What the names say of one inode.
#[derive(Debug, Default)]
struct Names {
    /// Names that lead to it.
    links: u64,
    /// A directory that has a name of it.
    parent: Ino,
    kind: Option<FileKind>,
    /// Names in it, and how many of them are directories.
    entries: u64,
    directories: u64,
}

#[derive(Debug, Default)]
struct Seen {
    report: Report,
    names: BTreeMap<Ino, Names>,
    xattrs: BTreeMap<Ino, (u64, u64)>,
    orphans: BTreeSet<Ino>,
    /// Bytes of the data in each inode that has any.
    data: BTreeMap<Ino, u64>,
    /// Parent of each directory.
    parents: BTreeMap<Ino, Ino>,
}

/// Compares everything in the volume with everything else. Takes memory in proportion to the number of inodes.
pub fn check(volume: &Volume) -> Report {
    let (store, state) = (volume.store(), volume.state());
    let mut seen = Seen::default();
    seen.read_names(store);
    seen.read_xattrs(store);
    seen.read_orphans(store);
    seen.read_data(store);
    seen.read_inodes(store, volume.root(), state.next_counter);
    seen.read_rest(store, state.next_work);
    seen.check_reachable(volume.root());
    for (ino, names) in &seen.names {
        if names.entries > 0 && !seen.parents.contains_key(ino) {
            seen.report.add(ProblemKind::NamesWithoutDirectory, *ino, names.entries);
        }
        if names.links > 0 {
            seen.report.add(ProblemKind::NameWithoutInode, *ino, names.links);
        }
    }
    for (ino, bytes) in &seen.data {
        seen.report.add(ProblemKind::InodeData, *ino, *bytes);
    }
    for ino in &seen.orphans {
        seen.report.add(ProblemKind::FalseOrphan, *ino, 0);
    }
    for (ino, (count, _)) in &seen.xattrs {
        seen.report.add(ProblemKind::XattrCount, *ino, *count);
    }
    seen.report.problems.sort_unstable();
    seen.report
}

/// Takes a row; whether it could be decoded.
type SeeRow<'a> = dyn FnMut(&mut Seen, &[u8], &[u8]) -> bool + 'a;

impl Seen {
    /// Reads a whole table; `row` says whether the row could be decoded.
    fn table(&mut self, store: &Store, name: Name, row: &mut SeeRow<'_>) {
        let scanned = store.scan(name, &[], &mut |key, value| {
            if !row(self, key, value) {
                let number = key.first_chunk().map_or(0, |n| u64::from_be_bytes(*n));
                self.report.add(ProblemKind::RecordDamaged, Ino(number), 0);
            }
            ControlFlow::Continue(())
        });
        if scanned.is_err() {
            let table = Name::ALL.iter().position(|n| *n == name).expect("ALL has every name");
            self.report.add(ProblemKind::TableDamaged, Ino(0), to_u64(table));
        }
    }

    fn read_names(&mut self, store: &Store) {
        let seed = store.hash_seed;
        self.table(store, Name::Entries, &mut |seen, key, value| {
            let (Some((parent, cookie)), Some(entry)) =
                (split_entry_key(key), Entry::decode(value))
            else {
                return false;
            };
            seen.report.entry_count += 1;
            if cookie >> 8 != name::cookie_base(&seed, entry.name) >> 8 {
                seen.report.add(ProblemKind::NameMisplaced, entry.ino, parent.0);
            }
            let above = seen.names.entry(parent).or_default();
            above.entries += 1;
            above.directories += u64::from(entry.kind == FileKind::Directory);
            let names = seen.names.entry(entry.ino).or_default();
            names.links += 1;
            names.parent = parent;
            if names.kind.replace(entry.kind).is_some_and(|kind| kind != entry.kind) {
                seen.report.add(ProblemKind::TypeDiffers, entry.ino, parent.0);
            }
            true
        });
    }

    fn read_xattrs(&mut self, store: &Store) {
        self.table(store, Name::Xattrs, &mut |seen, key, value| {
            let Some((ino, name)) = key.split_first_chunk::<8>() else { return false };
            let (count, bytes) = seen.xattrs.entry(Ino(u64::from_be_bytes(*ino))).or_default();
            *count += 1;
            *bytes += to_u64(name.len()) + 1;
            seen.report.xattr_count += 1;
            value.first() == Some(&1)
        });
    }

    fn read_orphans(&mut self, store: &Store) {
        self.table(store, Name::Orphans, &mut |seen, key, value| {
            seen.report.orphan_count += 1;
            key_number(key).is_some_and(|ino| seen.orphans.insert(Ino(ino)))
                && [&crate::change::ORPHAN_VALUE[..], &crate::change::TMPFILE_VALUE]
                    .contains(&value)
        });
    }

    fn read_data(&mut self, store: &Store) {
        self.table(store, Name::Data, &mut |seen, key, value| {
            let ino = key_number(key).map(Ino);
            seen.data.extend(ino.map(|ino| (ino, to_u64(value.len()))));
            ino.is_some()
        });
    }

    fn read_rest(&mut self, store: &Store, next_work: u64) {
        self.table(store, Name::Works, &mut |seen, key, value| {
            seen.report.work_count += 1;
            let work = key_number(key).and_then(|id| Work::decode(id, value));
            if let Some(work) = work.as_ref().filter(|work| work.id >= next_work) {
                seen.report.add(ProblemKind::NumberAhead, Ino(work.id), 0);
            }
            work.is_some()
        });
        self.table(store, Name::Slots, &mut |_, key, value| {
            key.len() == 18 && Outcome::decode(value).is_some()
        });
        self.table(store, Name::Ended, &mut |_, key, value| {
            key.len() == 16 && End::decode(value).is_some()
        });
    }

    fn read_inodes(&mut self, store: &Store, root: Ino, next_counter: u64) {
        let volume = root.volume();
        self.table(store, Name::Inodes, &mut |seen, key, value| {
            seen.report.inode_count += 1;
            let Some(inode) = key_number(key).and_then(|ino| Inode::decode(Ino(ino), value)) else {
                // Its names are not compared with it then.
                if let Some(names) = key_number(key).and_then(|ino| seen.names.get_mut(&Ino(ino))) {
                    names.links = 0;
                }
                key_number(key).and_then(|ino| seen.data.remove(&Ino(ino)));
                return false;
            };
            let ino = inode.attr.ino;
            let given = Ino::new(volume, next_counter).is_none_or(|next| ino < next);
            if !given || ino.volume() != volume {
                seen.report.add(ProblemKind::NumberAhead, ino, 0);
            }
            seen.compare_inode(&inode, ino == root);
            true
        });
    }

    fn compare_inode(&mut self, inode: &Inode, is_root: bool) {
        let ino = inode.attr.ino;
        let names = self.names.entry(ino).or_default();
        let (links, above, kind) = (names.links, names.parent, names.kind);
        let (entries, directories) = (names.entries, names.directories);
        names.links = 0;
        let orphan = self.orphans.remove(&ino);
        if kind.is_some_and(|kind| kind != inode.kind()) {
            self.report.add(ProblemKind::TypeDiffers, ino, above.0);
        }
        match (orphan, links) {
            (true, 1..) => self.report.add(ProblemKind::FalseOrphan, ino, links),
            (false, 0) if !is_root => self.report.add(ProblemKind::Lost, ino, 0),
            _ => {}
        }
        let mut nlink = links;
        if let Tail::Directory { parent, .. } = inode.tail {
            self.parents.insert(ino, parent);
            let expected = if is_root { ino } else { above };
            if links != u64::from(!is_root) && !orphan {
                self.report.add(ProblemKind::LinkCount, ino, links);
            }
            if parent != expected && !orphan {
                self.report.add(ProblemKind::Parent, ino, above.0);
            }
            if inode.attr.size != entries {
                self.report.add(ProblemKind::EntryCount, ino, entries);
            }
            nlink = if orphan { 0 } else { 2 + directories };
        }
        if u64::from(inode.attr.nlink) != nlink {
            self.report.add(ProblemKind::LinkCount, ino, nlink);
        }
        let data = self.data.remove(&ino);
        if !has_its_data(inode, data) {
            self.report.add(ProblemKind::InodeData, ino, data.unwrap_or(0));
        }
        let xattrs = self.xattrs.remove(&ino).unwrap_or_default();
        if (u64::from(inode.xattr_count), u64::from(inode.xattr_list_bytes)) != xattrs {
            self.report.add(ProblemKind::XattrCount, ino, xattrs.0);
        }
    }

    /// Every directory with a name is below the root.
    fn check_reachable(&mut self, root: Ino) {
        let mut reached = BTreeSet::from([root]);
        for ino in self.parents.keys() {
            let has_name = self.names.get(ino).is_some_and(|names| names.kind.is_some());
            // `BTreeSet::insert` is false where the way comes to a place it has been: a circle.
            let (mut at, mut way) = (*ino, BTreeSet::new());
            while has_name && !reached.contains(&at) && way.insert(at) {
                match self.parents.get(&at) {
                    Some(parent) => at = *parent,
                    None => break,
                }
            }
            if reached.contains(&at) {
                reached.extend(way);
            } else if has_name {
                self.report.add(ProblemKind::Unreachable, *ino, at.0);
            }
        }
    }
}

/// Whether the inode's data is as `apply/data.rs` leaves it, when there are so many bytes of it.
fn has_its_data(inode: &Inode, bytes: Option<u64>) -> bool {
    match (inode.inline_max(), bytes) {
        (Some(bytes_max), Some(bytes)) => {
            let fits = (1..=u64::from(bytes_max).min(inode.attr.size)).contains(&bytes);
            fits && inode.blocks == 1
        }
        (Some(_), None) => inode.blocks == 0,
        (None, bytes) => bytes.is_none(),
    }
}
