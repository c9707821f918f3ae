//! From chunk to blocks: the index and what changed since, as one.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use weft_lmdb::{Commit, WriteTxn, Written};
use weft_wire::data::{ChunkInfo, ChunkListReply};
use weft_wire::limits::LIST_COUNT_MAX;
use weft_wire::units::to_u32;
use weft_wire::{ChunkId, ChunkIndex, Ino};

use crate::cache::Cache;
use crate::chunk::Chunk;
use crate::damage::{Damages, ScrubStatus};
use crate::error::StoreError;
use crate::index::{Index, Meta, Room};
use crate::limits::{CHUNK_DIRTY_BYTES, SPARSE_DIVISOR};
use crate::planted::{self, Bug};
use crate::record::{Places, Punch, Truncate};
use crate::space::{Extent, Space};
use crate::space_rows::{ROW_DIRTY_BYTES, Row, SpaceHead, Touched};

#[cfg(test)]
mod tests;

/// The chunk records of a target.
#[derive(Debug)]
pub(crate) struct Map {
    index: Index,
    cache: Cache,
    chunk_count: u64,
    /// The checkpoint that is being gathered.
    txn: Option<WriteTxn>,
    /// Length of the index with the transaction under way.
    index_bytes: u64,
    /// The same of the pages in it that rows are in.
    live_bytes: u64,
    /// Room for the index that only removals and overwrites may use.
    headroom_bytes: u64,
    /// Where blocks came into or left records since the last checkpoint began.
    touched: Touched,
    /// The index's disk gives no more room, or its map ends.
    index_full: bool,
}

/// Adds a block to a list of extents, lengthening the last one where it continues it.
pub(crate) fn push_extent(extents: &mut Vec<Extent>, block: u64) {
    match extents.last_mut() {
        Some(last) if last.start + u64::from(last.count) == block => last.count += 1,
        _ => extents.push(Extent { start: block, count: 1 }),
    }
}

impl Map {
    pub(crate) fn new(
        index: Index,
        cache_bytes_max: u64,
        headroom_bytes: u64,
    ) -> Result<Map, StoreError> {
        let mut map = Map {
            chunk_count: index.chunk_count()?,
            txn: None,
            index_bytes: index.used_bytes(),
            live_bytes: index.live_bytes(),
            index,
            cache: Cache::new(cache_bytes_max),
            headroom_bytes,
            index_full: false,
            touched: Touched::default(),
        };
        map.index_room();
        Ok(map)
    }

    /// Whether the index's map and disk have room for what changed, twice over (the pages it replaces are
    /// free one checkpoint later), and some besides to remove things with.
    pub(crate) fn index_room(&mut self) -> Room {
        let coming = 2 * self.index_dirty_bytes();
        let need = self.index_bytes + coming + self.headroom_bytes;
        let mut room = self.index.reserve(need, self.headroom_bytes);
        // The part in use never gets shorter; but after removals there is room within it.
        let sparse = self.live_bytes.saturating_add(coming).saturating_mul(SPARSE_DIVISOR);
        if sparse.saturating_add(self.headroom_bytes) <= self.index.reserved_bytes() {
            room = Room::Enough;
        }
        if room != Room::Later {
            self.index_full = room == Room::Full;
        }
        room
    }

    /// Whether a checkpoint is due because the index's disk is full: several must fit in what is
    /// left of it.
    pub(crate) fn index_is_tight(&self) -> bool {
        self.index_full && self.index_dirty_bytes() >= self.headroom_bytes / 4
    }

    fn index_dirty_bytes(&self) -> u64 {
        let rows = self.touched.len() * ROW_DIRTY_BYTES;
        self.cache.dirty_count() * CHUNK_DIRTY_BYTES + self.cache.dirty_bytes() + rows
    }

    /// These blocks came into a record, or left one.
    pub(crate) fn touch(&mut self, extent: Extent) {
        self.touched.note(extent);
    }

    /// The rows of the map of used blocks that differ from the index's: to be put now.
    pub(crate) fn take_touched(&mut self) -> BTreeSet<u64> {
        self.touched.take()
    }

    pub(crate) fn chunk_count(&self) -> u64 {
        self.chunk_count
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    pub(crate) fn cache_mut(&mut self) -> &mut Cache {
        &mut self.cache
    }

    /// A chunk's record; `None` if nothing of it was written.
    pub(crate) fn get(&mut self, id: ChunkId) -> Result<Option<&Chunk>, StoreError> {
        Ok(self.get_placed(id)?.1)
    }

    /// The same, and where in memory it is: for [`Map::place_again`].
    pub(crate) fn get_placed(
        &mut self,
        id: ChunkId,
    ) -> Result<(Option<usize>, Option<&Chunk>), StoreError> {
        let place = self.find(id)?;
        Ok((place, place.and_then(|place| self.cache.at(place))))
    }

    /// Where in memory the chunk's record is, read from the index if need be; `None` if there is none.
    fn find(&mut self, id: ChunkId) -> Result<Option<usize>, StoreError> {
        if let Some(place) = self.cache.find(id) {
            return Ok(Some(place));
        }
        let found = match self.index.get(id) {
            Err(_) if planted::is(Bug::ForgetRecord) => None,
            found => found?,
        };
        Ok(found.map(|chunk| self.cache.insert_clean(id, chunk)))
    }

    /// As [`Map::get`], leaving the memory as it is.
    pub(crate) fn peek(&self, id: ChunkId) -> Result<Option<Cow<'_, Chunk>>, StoreError> {
        if self.cache.knows(id) {
            return Ok(self.cache.peek(id).map(Cow::Borrowed));
        }
        Ok(self.index.get(id)?.map(Cow::Owned))
    }

    /// The first chunk behind `after`.
    pub(crate) fn next_after(&self, after: Option<ChunkId>) -> Result<Option<ChunkId>, StoreError> {
        match after.map(number_of) {
            None => self.next_from(0),
            Some(u128::MAX) => Ok(None),
            Some(number) => self.next_from(number + 1),
        }
    }

    fn next_from(&self, number: u128) -> Result<Option<ChunkId>, StoreError> {
        let from = id_of_number(number);
        let cached = self.cache.from(from).find(|(_, chunk)| chunk.is_some()).map(|(id, _)| id);
        let mut indexed = None;
        self.index.scan(from, &mut |id, _| {
            if self.cache.knows(id) && cached.is_none_or(|cached| id < cached) {
                return ControlFlow::Continue(());
            }
            indexed = Some(id);
            ControlFlow::Break(())
        })?;
        Ok(cached.into_iter().chain(indexed).min())
    }

    /// After `after` the index cannot be read: a chunk behind the gap. Ever longer steps find a
    /// place that can be read, halving finds the first such place; of several gaps close together
    /// the chunks between may be passed over.
    pub(crate) fn next_behind_gap(&self, after: Option<ChunkId>) -> Option<ChunkId> {
        let start = after.map_or(0, number_of);
        let good = |number: u128| self.next_from(number).is_ok();
        let mut step = (0..128).map(|bit| 1u128 << bit);
        let step = step.find(|step| start.checked_add(*step).is_some_and(good))?;
        let (mut bad, mut readable) = (start + step / 2, start + step);
        while bad + 1 < readable {
            let middle = bad + (readable - bad) / 2;
            if good(middle) { readable = middle } else { bad = middle }
        }
        self.next_from(readable).ok().flatten()
    }

    /// What the scrub keeps in the index.
    pub(crate) fn read_scrub(&self) -> Option<(ScrubStatus, Damages)> {
        self.index.read_scrub()
    }

    /// Adds what the scrub keeps to a checkpoint.
    pub(crate) fn put_scrub(&mut self, row: &[u8]) -> Result<(), StoreError> {
        self.index.put_scrub(gathered(&mut self.txn), row)
    }

    /// Blocks have new places; gives the extents that are free once this is durable, and how many blocks were never
    /// written before.
    pub(crate) fn place(&mut self, places: Places<'_>) -> Result<(Vec<Extent>, u32), StoreError> {
        self.place_again(places, None)
    }

    /// The same, of a record that was at `before` in memory.
    pub(crate) fn place_again(
        &mut self,
        places: Places<'_>,
        before: Option<usize>,
    ) -> Result<(Vec<Extent>, u32), StoreError> {
        let again = before.and_then(|before| self.cache.find_again(places.chunk, before));
        let known = again.map_or_else(|| self.find(places.chunk), |place| Ok(Some(place)))?;
        let existed = known.is_some_and(|place| self.cache.at(place).is_some());
        let (mut freed, mut added) = (Vec::new(), 0);
        let change = |chunk: &mut Chunk| {
            for (block, placed) in places.blocks() {
                match chunk.set(block, placed) {
                    Some(before) if before.device_block != placed.device_block => {
                        push_extent(&mut freed, before.device_block);
                    }
                    Some(_) => {}
                    None => added += 1,
                }
            }
        };
        match known {
            Some(place) => {
                put(&self.index, &mut self.txn, self.cache.unput_at(place));
                self.cache.edit_at(place, change);
            }
            None => self.cache.edit(places.chunk, change),
        }
        self.chunk_count += u64::from(!existed);
        Ok((freed, added))
    }

    /// Blocks are as if never written; gives the extents that are free once this is durable.
    pub(crate) fn punch(&mut self, punch: &Punch) -> Result<Vec<Extent>, StoreError> {
        let mut freed = Vec::new();
        if self.get(punch.chunk)?.is_some() {
            self.edit_existing(punch.chunk, |chunk| {
                for placed in punch.blocks().filter_map(|block| chunk.clear(block)) {
                    push_extent(&mut freed, placed.device_block);
                }
            });
        }
        Ok(freed)
    }

    /// Chunks are gone or shorter; gives the extents that are free once this is durable.
    pub(crate) fn truncate(&mut self, truncate: &Truncate) -> Result<Vec<Extent>, StoreError> {
        let gone = self.last_ids(truncate.ino, truncate.remove_from, None, usize::MAX)?;
        self.cut_and_remove(truncate, &gone)
    }

    /// The same where the chunks that go are known already.
    pub(crate) fn cut_and_remove(
        &mut self,
        truncate: &Truncate,
        gone: &[ChunkId],
    ) -> Result<Vec<Extent>, StoreError> {
        let mut freed = Vec::new();
        if let Some(cut) = truncate.cut {
            let id = ChunkId { ino: truncate.ino, index: cut.index };
            if self.get(id)?.is_some() {
                self.edit_existing(id, |chunk| {
                    let mut places = chunk.cut(cut.keep_blocks);
                    if let Some(tail) = cut.tail {
                        places.extend(chunk.set(cut.keep_blocks - 1, tail).map(|p| p.device_block));
                    }
                    places.iter().for_each(|place| push_extent(&mut freed, *place));
                });
            }
        }
        for id in gone.iter().rev() {
            if self.get(*id)?.is_some() {
                let places = self.edit_existing(*id, |chunk| chunk.cut(0));
                places.iter().for_each(|place| push_extent(&mut freed, *place));
            }
        }
        Ok(freed)
    }

    /// Changes a record that is there; the chunk is gone when nothing of it is left.
    pub(crate) fn edit_existing<T>(
        &mut self,
        id: ChunkId,
        change: impl FnOnce(&mut Chunk) -> T,
    ) -> T {
        put(&self.index, &mut self.txn, self.cache.unput(id));
        let (result, gone) = self.cache.edit(id, |chunk| (change(chunk), chunk.is_empty()));
        self.chunk_count -= u64::from(gone);
        result
    }

    /// The last chunks of `ino`, `count_max` at most, at `from` or behind it and before `end`, descending.
    pub(crate) fn last_ids(
        &self,
        ino: Ino,
        from: ChunkIndex,
        end: Option<ChunkIndex>,
        count_max: usize,
    ) -> Result<Vec<ChunkId>, StoreError> {
        let first = ChunkId { ino, index: from };
        let behind = ChunkId { ino: Ino(ino.0.saturating_add(1)), index: ChunkIndex(0) };
        let end = end.map_or(behind, |index| ChunkId { ino, index });
        let cached = self.cache.back(first, end).filter(|(_, chunk)| chunk.is_some());
        let mut ids: BTreeSet<ChunkId> = cached.take(count_max).map(|(id, _)| id).collect();
        let mut indexed_count = 0;
        self.index.scan_back(first, end, &mut |id| {
            if !self.cache.knows(id) {
                ids.insert(id);
                indexed_count += 1;
            }
            let enough = indexed_count == count_max;
            if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(ids.into_iter().rev().take(count_max).collect())
    }

    /// The chunks of `ino` from `from` on, as many as one reply holds.
    pub(crate) fn list(&self, ino: Ino, from: ChunkIndex) -> Result<ChunkListReply, StoreError> {
        let mut reply = ChunkListReply::default();
        let mut cached = self.cache.range(ino, from).peekable();
        let mut add = |id: ChunkId, chunk: Option<&Chunk>| {
            reply.more = chunk.is_some() && reply.chunks.len() == LIST_COUNT_MAX;
            if let Some(chunk) = chunk.filter(|_| !reply.more) {
                reply.chunks.push(info(id, chunk));
            }
            !reply.more
        };
        let mut open = true;
        self.index.scan(ChunkId { ino, index: from }, &mut |id, chunk| {
            while let Some((newer, change)) = cached.next_if(|(newer, _)| open && *newer < id) {
                open = add(newer, change);
            }
            if id.ino != ino || !open {
                return ControlFlow::Break(());
            }
            open = match cached.next_if(|(newer, _)| *newer == id) {
                Some((_, change)) => add(id, change),
                None => add(id, Some(&chunk)),
            };
            if open { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        while let Some((id, change)) = cached.next_if(|_| open) {
            open = add(id, change);
        }
        Ok(reply)
    }

    /// Hands out every chunk record there is.
    pub(crate) fn for_each(&self, f: &mut dyn FnMut(&Chunk)) -> Result<(), StoreError> {
        let first = ChunkId { ino: Ino(0), index: ChunkIndex(0) };
        self.index.scan(first, &mut |id, chunk| {
            if !self.cache.knows(id) {
                f(&chunk);
            }
            ControlFlow::Continue(())
        })?;
        self.cache.all().filter_map(|(_, chunk)| chunk).for_each(f);
        Ok(())
    }

    /// The bitmap of free blocks as the index has it; `None` when that has none it can be read from.
    pub(crate) fn read_space(
        &self,
        applied: u64,
        block_count: u64,
    ) -> Result<Option<Space>, StoreError> {
        let mut space = Space::new(block_count);
        let head =
            self.index.read_space(applied, &mut |number, row| space.claim_row(number, row))?;
        let fits = |head: &SpaceHead| {
            head.block_count <= block_count && head.used_count == block_count - space.free()
        };
        Ok(head.is_some_and(|head| fits(&head)).then_some(space))
    }

    /// Adds changed rows of the map of used blocks to a checkpoint.
    pub(crate) fn put_space(
        &mut self,
        head: &SpaceHead,
        rows: impl Iterator<Item = (u64, Row)>,
    ) -> Result<(), StoreError> {
        self.index.put_space(gathered(&mut self.txn), head, rows)
    }

    /// A checkpoint of everything as it is now, and of `meta`, begins: [`Map::put_some`] gathers what changed.
    pub(crate) fn begin_commit(&mut self, meta: &Meta) -> Result<(), StoreError> {
        let mut txn = self.index.begin()?;
        self.index.put_meta(&mut txn, meta)?;
        // As long as it is not known how long the index gets.
        let coming = 2 * self.index_dirty_bytes();
        self.index_bytes += coming;
        self.live_bytes = self.live_bytes.saturating_add(coming);
        self.cache.begin_commit();
        self.txn = Some(txn);
        Ok(())
    }

    /// Puts so many changed records into the transaction of the checkpoint; whether these were the last. What changes
    /// before its turn comes is put before that.
    pub(crate) fn put_some(&mut self, count: u32) -> Result<bool, StoreError> {
        let txn = gathered(&mut self.txn);
        for _ in 0..count {
            match self.cache.next_unput() {
                Some((id, chunk)) => self.index.put_chunk(txn, id, chunk)?,
                None => {
                    self.index_bytes = txn.commit_bytes();
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Commits what was gathered: durable when this returns.
    pub(crate) fn commit(&mut self) -> Result<(), StoreError> {
        let commit = self.commit_apart()?;
        self.committed(commit.write())
    }

    /// Commits what was gathered, in memory: durable when what this gives was written and [`Map::committed`] was told.
    /// Until then the records in it stay in memory: the index is read as of the commit before.
    pub(crate) fn commit_apart(&mut self) -> Result<Commit, StoreError> {
        assert!(self.cache.next_unput().is_none(), "all of it was put");
        // Until its end the disk cannot be asked: what there is has to do for what comes meanwhile.
        self.index_room();
        let txn = self.txn.take().expect("it was begun");
        let commit = txn.commit_apart();
        let commit = commit.map_err(|e| StoreError::index("index: commit of a checkpoint", e))?;
        if planted::is(Bug::LetGoEarly) {
            self.cache.committed();
        }
        Ok(commit.expect("a checkpoint sets its row"))
    }

    /// Gives a checkpoint up that was begun and not committed: there is none after it.
    pub(crate) fn abandon(&mut self) {
        self.txn = None;
    }

    /// The writing of that commit is over: with `Ok` it is durable (this is the checkpoint's line).
    pub(crate) fn committed(&mut self, written: Written) -> Result<(), StoreError> {
        self.index.written(written)?;
        self.cache.committed();
        self.index_bytes = self.index.used_bytes();
        self.live_bytes = self.index.live_bytes();
        Ok(())
    }
}

fn gathered(txn: &mut Option<WriteTxn>) -> &mut WriteTxn {
    txn.as_mut().expect("a checkpoint is being gathered")
}

/// A record is about to be changed: the checkpoint that is being gathered has it as it was at its beginning.
fn put(index: &Index, txn: &mut Option<WriteTxn>, unput: Option<(ChunkId, Option<&Chunk>)>) {
    if let Some((id, chunk)) = unput.filter(|_| !planted::is(Bug::PutLate))
        && let Some(txn) = txn
    {
        // An error comes again with the commit.
        index.put_chunk(txn, id, chunk).unwrap_or_default();
    }
}

/// A chunk's place in the order of the index.
fn number_of(id: ChunkId) -> u128 {
    u128::from(id.ino.0) << 64 | u128::from(id.index.0)
}

fn id_of_number(number: u128) -> ChunkId {
    let low = u64::try_from(number & u128::from(u64::MAX)).expect("masked");
    let high = u64::try_from(number >> 64).expect("the upper half");
    ChunkId { ino: Ino(high), index: ChunkIndex(low) }
}

fn info(id: ChunkId, chunk: &Chunk) -> ChunkInfo {
    let written = chunk.written_count();
    ChunkInfo {
        index: id.index,
        blocks_written: written,
        blocks_allocated: written,
        extent_count: to_u32(chunk.runs().len()),
    }
}
