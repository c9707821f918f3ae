//! Chunk records in memory: least recently used ones leave, changed ones stay until a checkpoint
//! has committed them.

use std::collections::BTreeMap;

use weft_wire::{ChunkId, ChunkIndex, Ino};

use crate::chunk::Chunk;

/// One chunk known in memory.
#[derive(Debug)]
struct Entry {
    /// `None`: the chunk is gone, and the index does not know yet.
    chunk: Option<Chunk>,
    /// Changed since the last checkpoint began.
    dirty: bool,
    /// Part of the checkpoint under way.
    committing: bool,
    /// Key in `lru`, for entries that may leave.
    stamp: u64,
    bytes: u64,
}

const ENTRY_BYTES: u64 = 2 * size_of::<(ChunkId, Entry)>() as u64;

/// The chunk records in memory.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: BTreeMap<ChunkId, Entry>,
    lru: BTreeMap<u64, ChunkId>,
    clock: u64,
    bytes: u64,
    bytes_max: u64,
    dirty_count: u64,
    dirty_bytes: u64,
}

impl Cache {
    pub(crate) fn new(bytes_max: u64) -> Cache {
        Cache {
            entries: BTreeMap::new(),
            lru: BTreeMap::new(),
            clock: 0,
            bytes: 0,
            bytes_max,
            dirty_count: 0,
            dirty_bytes: 0,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn dirty_count(&self) -> u64 {
        self.dirty_count
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
        self.entries.contains_key(&id)
    }

    /// The record in memory, which counts as a use.
    pub(crate) fn get(&mut self, id: ChunkId) -> Option<&Chunk> {
        let entry = self.entries.get_mut(&id)?;
        if !entry.dirty && !entry.committing {
            self.clock += 1;
            self.lru.remove(&entry.stamp);
            entry.stamp = self.clock;
            self.lru.insert(entry.stamp, id);
        }
        entry.chunk.as_ref()
    }

    /// The record in memory, which stays as likely to leave as it was.
    pub(crate) fn peek(&self, id: ChunkId) -> Option<&Chunk> {
        self.entries.get(&id)?.chunk.as_ref()
    }

    /// Adds a record read from the index, and lets others leave for it.
    pub(crate) fn insert_clean(&mut self, id: ChunkId, chunk: Chunk) {
        self.clock += 1;
        let bytes = ENTRY_BYTES + chunk.memory_bytes();
        let entry =
            Entry { chunk: Some(chunk), dirty: false, committing: false, stamp: self.clock, bytes };
        let before = self.entries.insert(id, entry);
        assert!(before.is_none(), "only what is not known is read from the index");
        self.lru.insert(self.clock, id);
        self.bytes += bytes;
        self.evict(id);
    }

    /// Changes a record, which is made if nothing is known of the chunk, and removed when it ends
    /// up empty.
    pub(crate) fn edit<T>(&mut self, id: ChunkId, change: impl FnOnce(&mut Chunk) -> T) -> T {
        let entry = self.entries.entry(id).or_insert_with(|| Entry {
            chunk: None,
            dirty: false,
            committing: false,
            stamp: 0,
            bytes: 0,
        });
        self.lru.remove(&entry.stamp);
        entry.stamp = 0;
        if entry.dirty {
            self.dirty_bytes -= entry.bytes;
        } else {
            self.dirty_count += 1;
        }
        self.bytes -= entry.bytes;
        let mut chunk = entry.chunk.take().unwrap_or_default();
        let result = change(&mut chunk);
        chunk.touch();
        entry.dirty = true;
        entry.bytes = ENTRY_BYTES;
        if !chunk.is_empty() {
            entry.bytes += chunk.memory_bytes();
            entry.chunk = Some(chunk);
        }
        self.bytes += entry.bytes;
        self.dirty_bytes += entry.bytes;
        result
    }

    /// The changed records, which become part of a checkpoint.
    pub(crate) fn take_dirty(&mut self, mut f: impl FnMut(ChunkId, Option<&Chunk>)) {
        for (id, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.dirty) {
            f(*id, entry.chunk.as_ref());
            entry.dirty = false;
            entry.committing = true;
        }
        self.dirty_count = 0;
        self.dirty_bytes = 0;
    }

    /// The checkpoint is committed: what it held and was not changed since may leave.
    pub(crate) fn committed(&mut self) {
        let mut newest = None;
        let (clock, lru, bytes) = (&mut self.clock, &mut self.lru, &mut self.bytes);
        self.entries.retain(|id, entry| {
            if !std::mem::take(&mut entry.committing) || entry.dirty {
                return true;
            }
            if entry.chunk.is_none() {
                *bytes -= entry.bytes;
                return false;
            }
            *clock += 1;
            entry.stamp = *clock;
            lru.insert(*clock, *id);
            newest = Some(*id);
            true
        });
        if let Some(id) = newest {
            self.evict(id);
        }
    }

    /// What is known of the chunks of `ino` from `from` on, ascending.
    pub(crate) fn range(
        &self,
        ino: Ino,
        from: ChunkIndex,
    ) -> impl Iterator<Item = (ChunkId, Option<&Chunk>)> {
        let bounds = ChunkId { ino, index: from }..=ChunkId { ino, index: ChunkIndex(u64::MAX) };
        self.entries.range(bounds).map(|(id, entry)| (*id, entry.chunk.as_ref()))
    }

    /// What is known from `first` on, ascending.
    pub(crate) fn from(&self, first: ChunkId) -> impl Iterator<Item = (ChunkId, Option<&Chunk>)> {
        self.entries.range(first..).map(|(id, entry)| (*id, entry.chunk.as_ref()))
    }

    /// Everything that is known, ascending.
    pub(crate) fn all(&self) -> impl Iterator<Item = (ChunkId, Option<&Chunk>)> {
        self.entries.iter().map(|(id, entry)| (*id, entry.chunk.as_ref()))
    }

    /// Lets records leave, all but `keep`, until the rest fits.
    fn evict(&mut self, keep: ChunkId) {
        while self.bytes > self.bytes_max {
            let Some((_, id)) = self.lru.first_key_value() else { return };
            if *id == keep {
                return;
            }
            let (_, id) = self.lru.pop_first().expect("seen above");
            let entry = self.entries.remove(&id).expect("the list names entries only");
            self.bytes -= entry.bytes;
        }
    }

    /// Entries in memory.
    #[cfg(test)]
    pub(crate) fn len(&self) -> u64 {
        weft_wire::units::to_u64(self.entries.len())
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
        let mut taken = 0;
        cache.take_dirty(|_, chunk| taken += usize::from(chunk.is_some()));
        assert_eq!((taken, cache.dirty_count(), cache.len()), (100, 0, 100));
        cache.edit(id(3), |chunk| chunk.cut(0));
        cache.committed();
        assert!(cache.len() < 10 && cache.bytes() <= 10 * ENTRY_BYTES);
        assert!(cache.knows(id(3)) && cache.get(id(3)).is_none(), "gone, and still to be told");
        assert!(cache.knows(id(99)), "used last");
        cache.take_dirty(|gone, chunk| assert!(gone == id(3) && chunk.is_none()));
        cache.committed();
        assert!(!cache.knows(id(3)));
    }
}
