//! The index: LMDB, from chunk to where its blocks lie. Outside the device (`doc/index.md`).
//!
//! One row of table `meta` says which target this is, up to which journal record everything is in
//! here (`applied`), and which journal generation comes first after that.

use std::ops::ControlFlow;
use std::path::Path;

use weft_lmdb::{Env, OpenOptions, PAGE_BYTES, Table, WriteTxn, Written};
use weft_wire::{ChunkId, ChunkIndex, ClusterId, Ino};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::chunk::Chunk;
use crate::damage::{self, Damages, ScrubStatus};
use crate::error::{Kind, StoreError};
use crate::flush_note;
use crate::planted::{self, Bug};
use crate::space_rows::{Row, SpaceHead, decode_row, encode_row};
use crate::superblock::TargetUuid;

const TABLE_CHUNKS: &str = "chunks";
const TABLE_META: &str = "meta";
const TABLE_SPACE: &str = "space";
const SPACE_KEY: &[u8] = b"space";
const META_KEY: &[u8] = b"target";
const SCRUB_KEY: &[u8] = b"scrub";
const META_MAGIC: [u8; 8] = *b"WEFTIDX1";
/// Version of the index's rows.
pub(crate) const INDEX_VERSION: u32 = 1;
pub(crate) const KEY_LEN: usize = 16;
/// LMDB counts a run of pages as one. A record of a chunk is in a page with others or in a run of 5 pages at most, which
/// has its key in a page: three pages for one that is counted.
const COUNTED_BYTES: u64 = 3 * PAGE_BYTES as u64;
/// The least a checkpoint works with; one change may need some pages at once.
const COUNTED_MIN: u64 = 32;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawMeta {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U32,
    pub(crate) loss_count: U32,
    pub(crate) cluster: [u8; 16],
    pub(crate) target_uuid: [u8; 16],
    pub(crate) applied: U64,
    pub(crate) generation: U64,
    pub(crate) boot_id: [u8; 16],
}

pub(crate) const META_LEN: usize = size_of::<RawMeta>();
const _: () = assert!(META_LEN == 80);

/// What the index says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Meta {
    pub(crate) cluster: ClusterId,
    pub(crate) target_uuid: TargetUuid,
    /// All journal records up to this one are in the index.
    pub(crate) applied: u64,
    /// Journal segments of an earlier generation hold nothing that is not in the index.
    pub(crate) generation: u64,
    /// The machine's boot during which the target was opened last; zero when unknown.
    pub(crate) boot_id: [u8; 16],
    /// Opens at which what had not been synced might have been lost. Goes round.
    pub(crate) loss_count: u32,
}

/// What the index's disk says to a wish for room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    Enough,
    Full,
    /// It cannot be asked while a commit is being written.
    Later,
}

/// The open index.
#[derive(Debug)]
pub(crate) struct Index {
    env: Env,
    chunks: Table,
    meta: Table,
    space: Table,
}

impl Index {
    /// Makes an empty index for a target in `dir`, whose parent exists.
    pub(crate) fn create(dir: &Path, meta: &Meta, map_bytes_max: u64) -> Result<(), StoreError> {
        let options = OpenOptions { map_bytes_max, create: true, ..options() };
        let index = Index::open_env(dir, &options)?;
        let op = "index creation";
        let there = index.read_meta()?;
        if let Some(there) = there {
            let same = there.target_uuid == meta.target_uuid && there.applied == 0;
            return if same { Ok(()) } else { Err(StoreError::new(Kind::Mismatch, op, 0)) };
        }
        let mut txn = index.begin()?;
        index.put_meta(&mut txn, meta)?;
        txn.commit().map_err(|e| StoreError::index(op, e))
    }

    /// Opens the index in `dir`. Where the last flush may have failed its boot is unknown: what was written in it may
    /// be lost.
    ///
    /// A checkpoint's changed pages take `commit_bytes_max` of memory at most; more are written before its commit.
    pub(crate) fn open(
        dir: &Path,
        map_bytes_max: u64,
        commit_bytes_max: u64,
    ) -> Result<(Index, Meta), StoreError> {
        let counted = (commit_bytes_max / COUNTED_BYTES).max(COUNTED_MIN);
        let changed_pages_max = Some(u32::try_from(counted).unwrap_or(u32::MAX));
        let options = OpenOptions { map_bytes_max, changed_pages_max, ..options() };
        let index = Index::open_env(dir, &options)?;
        let missing = || StoreError::new(Kind::Damaged, "index: its meta row is missing", 0);
        let mut meta = index.read_meta()?.ok_or_else(missing)?;
        if flush_note::in_doubt(dir) && !planted::is(Bug::IgnoreNote) {
            meta.boot_id = [0; 16];
        }
        Ok((index, meta))
    }

    fn open_env(dir: &Path, options: &OpenOptions) -> Result<Index, StoreError> {
        let fail = |e| StoreError::index("index open", e);
        let env = Env::open(dir, options).map_err(fail)?;
        let chunks = env.table(TABLE_CHUNKS).map_err(fail)?;
        let meta = env.table(TABLE_META).map_err(fail)?;
        let space = env.table(TABLE_SPACE).map_err(fail)?;
        Ok(Index { env, chunks, meta, space })
    }

    fn read_meta(&self) -> Result<Option<Meta>, StoreError> {
        let op = "index meta row";
        let txn = self.env.read().map_err(|e| StoreError::index(op, e))?;
        let Some(value) = txn.get(self.meta, META_KEY).map_err(|e| StoreError::index(op, e))?
        else {
            return Ok(None);
        };
        let damaged = || StoreError::new(Kind::Damaged, op, 0);
        let raw = RawMeta::read_from_bytes(value).map_err(|_| damaged())?;
        if raw.magic != META_MAGIC {
            return Err(damaged());
        }
        if raw.version.get() != INDEX_VERSION {
            return Err(StoreError::new(Kind::Version, op, 0));
        }
        Ok(Some(Meta {
            cluster: ClusterId(raw.cluster),
            target_uuid: TargetUuid(raw.target_uuid),
            applied: raw.applied.get(),
            generation: raw.generation.get(),
            boot_id: raw.boot_id,
            loss_count: raw.loss_count.get(),
        }))
    }

    /// Begins the write transaction of a checkpoint. There is one at a time.
    pub(crate) fn begin(&self) -> Result<WriteTxn, StoreError> {
        self.env.write().map_err(|e| StoreError::index("index: begin of a checkpoint", e))
    }

    pub(crate) fn put_meta(&self, txn: &mut WriteTxn, meta: &Meta) -> Result<(), StoreError> {
        let raw = raw_meta(meta);
        txn.put(self.meta, META_KEY, raw.as_bytes())
            .map_err(|e| StoreError::index("index: meta row", e))
    }

    /// What the scrub keeps; `None` when there is nothing that can be read.
    pub(crate) fn read_scrub(&self) -> Option<(ScrubStatus, Damages)> {
        let txn = self.env.read().ok()?;
        txn.get(self.meta, SCRUB_KEY).ok()?.and_then(damage::decode)
    }

    pub(crate) fn put_scrub(&self, txn: &mut WriteTxn, row: &[u8]) -> Result<(), StoreError> {
        txn.put(self.meta, SCRUB_KEY, row).map_err(|e| StoreError::index("index: scrub row", e))
    }

    /// Hands out the rows of the map of used blocks, and gives their head; `None` when there is
    /// none that belongs to `applied`.
    pub(crate) fn read_space(
        &self,
        applied: u64,
        f: &mut dyn FnMut(u64, &Row) -> bool,
    ) -> Result<Option<SpaceHead>, StoreError> {
        let fail = |e| StoreError::index("index: map of used blocks", e);
        let txn = self.env.read().map_err(fail)?;
        let head = txn.get(self.meta, SPACE_KEY).map_err(fail)?.and_then(SpaceHead::decode);
        let Some(head) = head.filter(|head| head.applied == applied) else { return Ok(None) };
        let mut good = true;
        let mut visit = |key: &[u8], value: &[u8]| {
            let number = key.try_into().ok().map(u64::from_be_bytes);
            good = number.zip(decode_row(value)).is_some_and(|(number, row)| f(number, &row));
            if good { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        txn.scan(self.space, &0u64.to_be_bytes(), &mut visit).map_err(fail)?;
        Ok(good.then_some(head))
    }

    /// Puts changed rows of the map of used blocks, and its head.
    pub(crate) fn put_space(
        &self,
        txn: &mut WriteTxn,
        head: &SpaceHead,
        rows: impl Iterator<Item = (u64, Row)>,
    ) -> Result<(), StoreError> {
        let fail = |e| StoreError::index("index: map of used blocks", e);
        for (number, row) in rows {
            let key = number.to_be_bytes();
            match encode_row(&row) {
                Some(value) => txn.put(self.space, &key, &value).map_err(fail)?,
                None => txn.delete(self.space, &key).map(|_| ()).map_err(fail)?,
            }
        }
        txn.put(self.meta, SPACE_KEY, head.raw().as_bytes()).map_err(fail)
    }

    /// Puts a chunk's record, or removes it when the chunk is gone.
    pub(crate) fn put_chunk(
        &self,
        txn: &mut WriteTxn,
        id: ChunkId,
        chunk: Option<&Chunk>,
    ) -> Result<(), StoreError> {
        let key = key_of(id);
        let done = match chunk {
            Some(chunk) => txn.put(self.chunks, &key, &chunk.encode()),
            None => txn.delete(self.chunks, &key).map(|_| ()),
        };
        done.map_err(|e| StoreError::index("index: chunk row", e))
    }

    /// A chunk's record as of the last commit.
    pub(crate) fn get(&self, id: ChunkId) -> Result<Option<Chunk>, StoreError> {
        let fail = |e| StoreError::index("index: chunk row", e);
        let txn = self.env.read().map_err(fail)?;
        let Some(value) = txn.get(self.chunks, &key_of(id)).map_err(fail)? else {
            return Ok(None);
        };
        Chunk::decode(value).map(Some).ok_or_else(damaged_row)
    }

    /// Hands out the records from `from` on, ascending, until `f` breaks.
    pub(crate) fn scan(
        &self,
        from: ChunkId,
        f: &mut dyn FnMut(ChunkId, Chunk) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let fail = |e| StoreError::index("index scan", e);
        let txn = self.env.read().map_err(fail)?;
        let mut good = true;
        let mut visit = |key: &[u8], value: &[u8]| match (id_of(key), Chunk::decode(value)) {
            (Some(id), Some(chunk)) => f(id, chunk),
            _ => {
                good = false;
                ControlFlow::Break(())
            }
        };
        txn.scan(self.chunks, &key_of(from), &mut visit).map_err(fail)?;
        if good { Ok(()) } else { Err(damaged_row()) }
    }

    /// Hands out the ids from `first` on and before `end`, descending, until `f` breaks.
    pub(crate) fn scan_back(
        &self,
        first: ChunkId,
        end: ChunkId,
        f: &mut dyn FnMut(ChunkId) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let fail = |e| StoreError::index("index scan", e);
        let txn = self.env.read().map_err(fail)?;
        let mut end = key_of(end);
        while let Some((key, _)) = txn.prev_before(self.chunks, &end).map_err(fail)? {
            let id = id_of(key).ok_or_else(damaged_row)?;
            if id < first || f(id).is_break() {
                break;
            }
            end = key_of(id);
        }
        Ok(())
    }

    /// Length of the part of the index in use at the last commit.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.env.used_bytes().unwrap_or(0)
    }

    /// Length of what rows are in at the last commit, free pages not counted; all of it if that cannot be told.
    pub(crate) fn live_bytes(&self) -> u64 {
        let tables = [self.chunks, self.meta, self.space];
        let sum = self.env.read().and_then(|txn| {
            tables.iter().try_fold(0, |sum, table| Ok(sum + txn.table_bytes(*table)?))
        });
        sum.unwrap_or(u64::MAX)
    }

    /// What the disk has set aside.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.env.reserved_bytes()
    }

    /// Whether the map is so long and the disk has set room aside for it; `step_bytes` more, if it can.
    pub(crate) fn reserve(&self, bytes: u64, step_bytes: u64) -> Room {
        // `Env::reserve` takes what is beyond the map for the map's end, and all of that can be there.
        if bytes > self.env.map_bytes().unwrap_or(0) {
            return Room::Full;
        }
        if bytes <= self.env.reserved_bytes() {
            return Room::Enough;
        }
        if self.env.is_writing() {
            return Room::Later;
        }
        match self.env.reserve(bytes + step_bytes).or_else(|_| self.env.reserve(bytes)) {
            Ok(()) => Room::Enough,
            Err(_) => Room::Full,
        }
    }

    /// A commit made apart is durable: it is what is read from here on.
    pub(crate) fn written(&self, written: Written) -> Result<(), StoreError> {
        let fail = |e| StoreError::index("index: commit of a checkpoint", e);
        if let Some(e) = written.error() {
            // LMDB is not told: what is read stays the commit before, and no other can be made.
            return Err(fail(e));
        }
        self.env.write().and_then(|mut txn| txn.written(written)).map_err(fail)
    }

    /// How many chunks the last commit had.
    pub(crate) fn chunk_count(&self) -> Result<u64, StoreError> {
        self.env.entries(self.chunks).map_err(|e| StoreError::index("index: count", e))
    }
}

fn options() -> OpenOptions {
    OpenOptions { tables_max: 4, ..OpenOptions::default() }
}

fn damaged_row() -> StoreError {
    StoreError::new(Kind::Damaged, "index: chunk row", 0)
}

pub(crate) fn raw_meta(meta: &Meta) -> RawMeta {
    RawMeta {
        magic: META_MAGIC,
        version: INDEX_VERSION.into(),
        loss_count: meta.loss_count.into(),
        cluster: meta.cluster.0,
        target_uuid: meta.target_uuid.0,
        applied: meta.applied.into(),
        generation: meta.generation.into(),
        boot_id: meta.boot_id,
    }
}

/// Big-endian, so that the chunks of a file lie together and in order.
pub(crate) fn key_of(id: ChunkId) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    key[..8].copy_from_slice(&id.ino.0.to_be_bytes());
    key[8..].copy_from_slice(&id.index.0.to_be_bytes());
    key
}

fn id_of(key: &[u8]) -> Option<ChunkId> {
    let (ino, index) = key.split_at_checked(8)?;
    let ino = u64::from_be_bytes(ino.try_into().ok()?);
    let index = u64::from_be_bytes(index.try_into().ok()?);
    Some(ChunkId { ino: Ino(ino), index: ChunkIndex(index) })
}
