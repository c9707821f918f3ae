//! Chunk records in memory: least recently used ones leave, changed ones stay until a checkpoint
//! has committed them.

use std::collections::BTreeMap;

use slab::Slab;
use weft_wire::units::to_u64;
use weft_wire::{ChunkId, ChunkIndex, Ino};

use crate::chunk::Chunk;

/// One chunk known in memory.
#[derive(Debug)]
struct Entry {
    id: ChunkId,
    /// `None`: the chunk is gone, and the index does not know yet.
    chunk: Option<Chunk>,
    /// Changed since the last checkpoint began.
    dirty: bool,
    /// Part of the checkpoint under way.
    committing: bool,
    /// And not in its transaction yet.
    unput: bool,
    /// Neighbours in the list of entries that may leave; `NONE` for the others.
    older: usize,
    newer: usize,
    bytes: u64,
}

const ENTRY_BYTES: u64 = 2 * size_of::<(ChunkId, usize, Entry)>() as u64;

/// No place in the table.
const NONE: usize = usize::MAX;

/// The chunk records in memory.
#[derive(Debug)]
pub(crate) struct Cache {
    places: BTreeMap<ChunkId, usize>,
    entries: Slab<Entry>,
    /// Ends of the list of entries that may leave, least recently used first.
    oldest: usize,
    newest: usize,
    bytes: u64,
    bytes_max: u64,
    /// No less is left when some of it is lent.
    bytes_min: u64,
    /// Places of the changed records, and of those in the checkpoint under way. Neither leave their place.
    dirty: Vec<usize>,
    committing: Vec<usize>,
    /// So many of those, in order, are in its transaction.
    put_count: usize,
    dirty_bytes: u64,
}

impl Cache {
    pub(crate) fn new(bytes_max: u64) -> Cache {
        Cache {
            places: BTreeMap::new(),
            entries: Slab::new(),
            oldest: NONE,
            newest: NONE,
            bytes: 0,
            bytes_max,
            bytes_min: bytes_max / 2,
            dirty: Vec::new(),
            committing: Vec::new(),
            put_count: 0,
            dirty_bytes: 0,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives `bytes` of its memory to something else, if half of it is left then.
    pub(crate) fn lend(&mut self, bytes: u64) -> bool {
        if self.bytes_max < self.bytes_min + bytes {
            return false;
        }
        self.bytes_max -= bytes;
        self.evict();
        true
    }

    /// Takes what was lent back.
    pub(crate) fn take_back(&mut self, bytes: u64) {
        self.bytes_max += bytes;
    }

    pub(crate) fn dirty_count(&self) -> u64 {
        to_u64(self.dirty.len())
    }

    /// Memory of the changed records.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes
    }

    /// Whether changed records take half of the memory there is: time for a checkpoint.
    pub(crate) fn is_mostly_dirty(&self) -> bool {
        self.dirty_bytes > self.bytes_max / 2
    }

    /// Whether anything is known of the chunk: a record, or that it is gone.
    pub(crate) fn knows(&self, id: ChunkId) -> bool {
        self.places.contains_key(&id)
    }

    /// Where anything that is known of the chunk is, which counts as a use.
    pub(crate) fn find(&mut self, id: ChunkId) -> Option<usize> {
        let place = *self.places.get(&id)?;
        self.used(place);
        Some(place)
    }

    /// As [`Cache::find`], without a search if it is still where it was found before.
    pub(crate) fn find_again(&mut self, id: ChunkId, before: usize) -> Option<usize> {
        if self.entries.get(before).is_none_or(|entry| entry.id != id) {
            return self.find(id);
        }
        self.used(before);
        Some(before)
    }

    fn used(&mut self, place: usize) {
        let entry = &self.entries[place];
        if !entry.dirty && !entry.committing && place != self.newest {
            self.unlink(place);
            self.link_newest(place);
        }
    }

    /// The record at a place that was just found.
    pub(crate) fn at(&self, place: usize) -> Option<&Chunk> {
        self.entries[place].chunk.as_ref()
    }

    /// The record in memory, which stays as likely to leave as it was.
    pub(crate) fn peek(&self, id: ChunkId) -> Option<&Chunk> {
        self.at(*self.places.get(&id)?)
    }

    /// Adds a record read from the index, and lets others leave for it; gives its place.
    pub(crate) fn insert_clean(&mut self, id: ChunkId, chunk: Chunk) -> usize {
        let bytes = ENTRY_BYTES + chunk.memory_bytes();
        let place = self.insert(id, Some(chunk), bytes);
        self.link_newest(place);
        self.bytes += bytes;
        self.evict();
        place
    }

    /// Only what is not known is added.
    fn insert(&mut self, id: ChunkId, chunk: Option<Chunk>, bytes: u64) -> usize {
        let (dirty, committing, unput, older, newer) = (false, false, false, NONE, NONE);
        let entry = Entry { id, chunk, dirty, committing, unput, older, newer, bytes };
        let place = self.entries.insert(entry);
        let before = self.places.insert(id, place);
        assert!(before.is_none(), "only what is not known is read from the index");
        place
    }

    /// Changes a record, which is made if nothing is known of the chunk, and removed when it ends
    /// up empty.
    pub(crate) fn edit<T>(&mut self, id: ChunkId, change: impl FnOnce(&mut Chunk) -> T) -> T {
        let known = self.places.get(&id).copied();
        let place = known.unwrap_or_else(|| self.insert(id, None, 0));
        self.edit_at(place, change)
    }

    /// Changes the record at a place that was just found, and removes it when it ends up empty.
    pub(crate) fn edit_at<T>(&mut self, place: usize, change: impl FnOnce(&mut Chunk) -> T) -> T {
        self.unlink(place);
        let entry = &mut self.entries[place];
        if entry.dirty {
            self.dirty_bytes -= entry.bytes;
        } else {
            self.dirty.push(place);
        }
        self.bytes -= entry.bytes;
        let chunk = entry.chunk.get_or_insert_default();
        let result = change(chunk);
        chunk.touch();
        entry.dirty = true;
        entry.bytes = ENTRY_BYTES;
        if chunk.is_empty() {
            entry.chunk = None;
        } else {
            entry.bytes += chunk.memory_bytes();
        }
        self.bytes += entry.bytes;
        self.dirty_bytes += entry.bytes;
        result
    }

    /// The changed records become part of a checkpoint, to be put into its transaction one by one, and each before it is
    /// changed again.
    pub(crate) fn begin_commit(&mut self) {
        assert!(self.committing.is_empty(), "one checkpoint at a time");
        self.committing = std::mem::take(&mut self.dirty);
        self.committing.sort_unstable_by_key(|place| self.entries[*place].id);
        for place in &self.committing {
            let entry = &mut self.entries[*place];
            (entry.dirty, entry.committing, entry.unput) = (false, true, true);
        }
        (self.put_count, self.dirty_bytes) = (0, 0);
    }

    /// The next of them in order that is not in the transaction; from here on it counts as being there.
    pub(crate) fn next_unput(&mut self) -> Option<(ChunkId, Option<&Chunk>)> {
        while let Some(place) = self.committing.get(self.put_count).copied() {
            self.put_count += 1;
            if self.entries[place].unput {
                return self.unput_at(place);
            }
        }
        None
    }

    /// The same of a record that is about to be changed.
    pub(crate) fn unput(&mut self, id: ChunkId) -> Option<(ChunkId, Option<&Chunk>)> {
        self.unput_at(*self.places.get(&id)?)
    }

    /// The same, at a place that was just found.
    pub(crate) fn unput_at(&mut self, place: usize) -> Option<(ChunkId, Option<&Chunk>)> {
        let entry = &mut self.entries[place];
        std::mem::take(&mut entry.unput).then_some((entry.id, entry.chunk.as_ref()))
    }

    /// The checkpoint is committed: what it held and was not changed since may leave.
    pub(crate) fn committed(&mut self) {
        for place in std::mem::take(&mut self.committing) {
            let entry = &mut self.entries[place];
            (entry.committing, entry.unput) = (false, false);
            if entry.dirty {
                continue;
            }
            if entry.chunk.is_some() {
                self.link_newest(place);
            } else {
                self.remove(place);
            }
        }
        self.evict();
    }

    fn remove(&mut self, place: usize) {
        let entry = self.entries.remove(place);
        self.places.remove(&entry.id);
        self.bytes -= entry.bytes;
    }

    /// Lets records leave until the rest fits; the newest stays.
    fn evict(&mut self) {
        while self.bytes > self.bytes_max && self.oldest != self.newest {
            let place = self.oldest;
            self.unlink(place);
            self.remove(place);
        }
    }

    /// Takes an entry out of the list of those that may leave, if it is there.
    fn unlink(&mut self, place: usize) {
        let entry = &mut self.entries[place];
        let (older, newer) = (entry.older, entry.newer);
        (entry.older, entry.newer) = (NONE, NONE);
        match older {
            NONE if self.oldest == place => self.oldest = newer,
            NONE => return, // it is not there
            older => self.entries[older].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer].older = older,
        }
    }

    fn link_newest(&mut self, place: usize) {
        self.entries[place].older = self.newest;
        match self.newest {
            NONE => self.oldest = place,
            newest => self.entries[newest].newer = place,
        }
        self.newest = place;
    }

    /// What is known of the chunks of `ino` from `from` on, ascending.
    pub(crate) fn range(
        &self,
        ino: Ino,
        from: ChunkIndex,
    ) -> impl Iterator<Item = (ChunkId, Option<&Chunk>)> {
        let bounds = ChunkId { ino, index: from }..=ChunkId { ino, index: ChunkIndex(u64::MAX) };
        self.places.range(bounds).map(|(id, place)| (*id, self.at(*place)))
    }

    /// What is known from `first` on and before `end`, descending.
    pub(crate) fn back(
        &self,
        first: ChunkId,
        end: ChunkId,
    ) -> impl Iterator<Item = (ChunkId, Option<&Chunk>)> {
        self.places.range(first..end).rev().map(|(id, place)| (*id, self.at(*place)))
    }

    /// What is known from `first` on, ascending.
    pub(crate) fn from(&self, first: ChunkId) -> impl Iterator<Item = (ChunkId, Option<&Chunk>)> {
        self.places.range(first..).map(|(id, place)| (*id, self.at(*place)))
    }

    /// Everything that is known, ascending.
    pub(crate) fn all(&self) -> impl Iterator<Item = (ChunkId, Option<&Chunk>)> {
        self.places.iter().map(|(id, place)| (*id, self.at(*place)))
    }

    /// Entries in memory.
    #[cfg(test)]
    pub(crate) fn len(&self) -> u64 {
        to_u64(self.entries.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Placed;

    fn id(index: u64) -> ChunkId {
        ChunkId { ino: Ino(1), index: ChunkIndex(index) }
    }

    fn set(cache: &mut Cache, index: u64) {
        let placed = Placed { device_block: index, sum: 0 };
        cache.edit(id(index), |chunk| chunk.set(0, placed));
    }

    #[test]
    fn changed_records_stay_and_others_leave() {
        let mut cache = Cache::new(10 * ENTRY_BYTES);
        for index in 0..100 {
            set(&mut cache, index);
        }
        assert_eq!((cache.len(), cache.dirty_count()), (100, 100));
        assert!(cache.is_mostly_dirty());
        cache.begin_commit();
        assert_eq!((cache.dirty_count(), cache.len()), (0, 100));
        assert!(cache.next_unput().is_some_and(|(first, chunk)| first == id(0) && chunk.is_some()));
        assert!(cache.unput(id(3)).is_some() && cache.unput(id(3)).is_none());
        cache.edit(id(3), |chunk| chunk.cut(0));
        let rest = std::iter::from_fn(|| cache.next_unput().map(|(id, _)| id.index.0));
        assert!(rest.eq([1, 2].into_iter().chain(4..100)), "in order, and no other version");
        cache.committed();
        assert!(cache.len() < 10 && cache.bytes() <= 10 * ENTRY_BYTES);
        assert!(cache.knows(id(3)) && cache.peek(id(3)).is_none(), "gone, and still to be told");
        assert!(cache.knows(id(99)), "used last");
        cache.begin_commit();
        assert!(cache.next_unput().is_some_and(|(gone, chunk)| gone == id(3) && chunk.is_none()));
        cache.committed();
        assert!(!cache.knows(id(3)));
    }

    #[test]
    fn half_of_its_memory_may_be_lent() {
        let mut cache = Cache::new(10 * ENTRY_BYTES);
        for index in 0..10 {
            set(&mut cache, index);
        }
        cache.begin_commit();
        cache.committed();
        let before = cache.len();
        assert!(!cache.lend(5 * ENTRY_BYTES + 1) && cache.len() == before);
        assert!(cache.lend(5 * ENTRY_BYTES) && cache.bytes() <= 5 * ENTRY_BYTES);
        assert!(!cache.lend(1));
        cache.take_back(1);
        assert!(cache.lend(1));
    }
}
