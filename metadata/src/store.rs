//! The tables, and the write transaction that stays open from one checkpoint to the next; it goes on while the one
//! before it is written.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use weft_lmdb::{Commit, Env, OpenOptions, Table, WriteTxn, Written};
use weft_wire::units::to_u64;
use weft_wire::{Ino, Status};

use crate::error::{Kind, MetaError, status_of};
use crate::limits::{AHEAD_TXNS, DIRTY_BYTES_MIN, OTHERS_DIVISOR, RESERVE_DIVISOR};
use crate::name;
use crate::record::{Entry, Inode, entry_key, number_key, split_entry_key};

/// Directory of the database in the volume's directory.
const INDEX_DIR: &str = "index";
/// Bytes of a page of the database.
const PAGE_BYTES: u64 = weft_lmdb::PAGE_BYTES as u64;
/// What a node of a page adds to its key and value, generously.
const NODE_BYTES: u64 = 16;
/// A value from which on LMDB gives it pages of its own.
const OVERFLOW_BYTES: usize = 1900;
/// A link's target or an attribute whose record is sure to fit one page: of more, they must lie side by side.
pub(crate) const PAGE_VALUE_BYTES: usize = 3700;
/// Pages are at least a quarter full (LMDB merges below that).
const FILL_DIVISOR: u64 = 4;

/// Which table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Name {
    Inodes,
    Entries,
    Xattrs,
    Orphans,
    Works,
    Slots,
    Ended,
    Data,
    Meta,
}

impl Name {
    pub(crate) const ALL: [Name; 9] = [
        Name::Inodes,
        Name::Entries,
        Name::Xattrs,
        Name::Orphans,
        Name::Works,
        Name::Slots,
        Name::Ended,
        Name::Data,
        Name::Meta,
    ];

    fn text(self) -> &'static str {
        match self {
            Name::Inodes => "inodes",
            Name::Entries => "entries",
            Name::Xattrs => "xattrs",
            Name::Orphans => "orphans",
            Name::Works => "works",
            Name::Slots => "slots",
            Name::Ended => "ended",
            Name::Data => "data",
            Name::Meta => "meta",
        }
    }
}

/// Changed rows, in key order. `None` removes the row.
pub(crate) type Rows = BTreeMap<(Name, Vec<u8>), Option<Vec<u8>>>;

/// Is handed rows until it breaks.
pub(crate) type RowFn<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;
/// Is handed the keys and values of entries until it breaks; `None` is a value that is damaged.
pub(crate) type EntryFn<'a> = dyn FnMut([u8; 16], Option<Entry<'_>>) -> ControlFlow<()> + 'a;

/// What a lookup found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) key: [u8; 16],
    pub(crate) ino: Ino,
    pub(crate) kind: weft_wire::meta::FileKind,
}

pub(crate) struct Store {
    env: Env,
    tables: [Table; Name::ALL.len()],
    /// `None` once a commit failed: what the database holds is known only after a reopen.
    txn: Option<WriteTxn>,
    pub(crate) hash_seed: [u8; 16],
    /// Bytes of all keys and values of the tables that commands change.
    pub(crate) live_bytes: u64,
    /// Changed pages after which a checkpoint is due, when there is room for them.
    dirty_bytes_max: u64,
    /// The same while one is being written.
    meanwhile_bytes_max: u64,
    /// Memory of the changes that a checkpoint under way writes.
    writing_bytes: u64,
    /// Length of the file's part in use at the last commit.
    used_bytes: u64,
    /// The disk did not give what was asked for.
    room_wanted: bool,
    map_bytes: u64,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("used_bytes", &self.used_bytes).finish_non_exhaustive()
    }
}

impl Store {
    pub(crate) fn open(dir: &Path, map_bytes_max: u64, create: bool) -> Result<Store, MetaError> {
        let failed = |e: weft_lmdb::Error| match e.kind {
            weft_lmdb::Kind::NotFound => MetaError::new(Kind::NotFound, "open"),
            _ => MetaError::database("open", e),
        };
        let options = OpenOptions { map_bytes_max, create, ..OpenOptions::default() };
        let env = Env::open(&dir.join(INDEX_DIR), &options).map_err(failed)?;
        let mut tables = Vec::new();
        for name in Name::ALL {
            tables.push(env.table(name.text()).map_err(failed)?);
        }
        let tables = tables.try_into().expect("one table for each name");
        let txn = env.write().map_err(failed)?;
        let used_bytes = env.used_bytes().map_err(failed)?;
        let map_bytes = env.map_bytes().map_err(failed)?;
        Ok(Store {
            env,
            tables,
            txn: Some(txn),
            hash_seed: [0; 16],
            live_bytes: 0,
            dirty_bytes_max: DIRTY_BYTES_MIN,
            meanwhile_bytes_max: DIRTY_BYTES_MIN,
            writing_bytes: 0,
            used_bytes,
            room_wanted: false,
            map_bytes,
        })
    }

    /// How much may change between two checkpoints, and while one is written; room for that is set aside from here on.
    pub(crate) fn set_dirty_bytes_max(&mut self, bytes: u64, meanwhile_bytes: u64) {
        self.dirty_bytes_max = bytes.max(DIRTY_BYTES_MIN);
        self.meanwhile_bytes_max = meanwhile_bytes.max(DIRTY_BYTES_MIN);
        self.make_room();
    }

    fn table(&self, name: Name) -> Table {
        self.tables[name as usize]
    }

    fn txn(&self) -> Result<&WriteTxn, Status> {
        self.txn.as_ref().ok_or(Status::Io)
    }

    pub(crate) fn get(&self, name: Name, key: &[u8]) -> Result<Option<&[u8]>, Status> {
        self.txn()?.get(self.table(name), key).map_err(|e| status_of(&e))
    }

    /// Calls `f` with each row from `from` on until it breaks.
    pub(crate) fn scan(&self, name: Name, from: &[u8], f: &mut RowFn<'_>) -> Result<(), Status> {
        self.txn()?.scan(self.table(name), from, f).map_err(|e| status_of(&e))
    }

    pub(crate) fn row_count(&self, name: Name) -> Result<u64, Status> {
        self.txn()?.entries(self.table(name)).map_err(|e| status_of(&e))
    }

    pub(crate) fn inode(&self, ino: Ino) -> Result<Option<Inode>, Status> {
        match self.get(Name::Inodes, &number_key(ino.0))? {
            Some(bytes) => Inode::decode(ino, bytes).map(Some).ok_or(Status::Damaged),
            None => Ok(None),
        }
    }

    /// The data in an inode; empty where it has none.
    pub(crate) fn data(&self, ino: Ino) -> Result<Vec<u8>, Status> {
        Ok(self.get(Name::Data, &number_key(ino.0))?.unwrap_or_default().to_vec())
    }

    /// The inode, or `Stale`.
    pub(crate) fn known_inode(&self, ino: Ino) -> Result<Inode, Status> {
        self.inode(ino)?.ok_or(Status::Stale)
    }

    /// The inode, which must be a directory.
    pub(crate) fn directory(&self, ino: Ino) -> Result<Inode, Status> {
        let inode = self.known_inode(ino)?;
        if inode.is_directory() { Ok(inode) } else { Err(Status::NotDirectory) }
    }

    /// Calls `f` with the key of each entry of `parent` whose cookie shares its base with `name`'s.
    pub(crate) fn scan_collisions(
        &self,
        parent: Ino,
        base: u64,
        f: &mut EntryFn<'_>,
    ) -> Result<(), Status> {
        self.scan(Name::Entries, &entry_key(parent, base), &mut |key, value| match (
            split_entry_key(key),
            key.try_into(),
        ) {
            (Some((ino, cookie)), Ok(key)) if ino == parent && cookie >> 8 == base >> 8 => {
                f(key, Entry::decode(value))
            }
            _ => ControlFlow::Break(()),
        })
    }

    pub(crate) fn find_entry(&self, parent: Ino, name: &[u8]) -> Result<Option<Found>, Status> {
        let mut found = Ok(None);
        let base = name::cookie_base(&self.hash_seed, name);
        self.scan_collisions(parent, base, &mut |key, entry| match entry {
            Some(entry) if entry.name == name => {
                found = Ok(Some(Found { key, ino: entry.ino, kind: entry.kind }));
                ControlFlow::Break(())
            }
            Some(_) => ControlFlow::Continue(()),
            None => {
                found = Err(Status::Damaged);
                ControlFlow::Continue(())
            }
        })?;
        found
    }

    /// Reads every row that is about to change, so that a damaged page is met before the first change; then the
    /// bytes the rows will add and take.
    pub(crate) fn check_rows(&self, rows: &Rows) -> Result<(u64, u64), Status> {
        let (mut added, mut taken) = (0, 0);
        for ((name, key), value) in rows {
            if let Some(old) = self.get(*name, key)? {
                taken += row_bytes(key, old);
            }
            if let Some(value) = value {
                added += row_bytes(key, value);
            }
        }
        Ok((added, taken))
    }

    /// Writes rows that [`Store::check_rows`] looked at. After an error the transaction cannot go on.
    pub(crate) fn write_rows(
        &mut self,
        rows: &Rows,
        (added, taken): (u64, u64),
    ) -> Result<(), MetaError> {
        for ((name, key), value) in rows {
            self.write(*name, key, value.as_deref())?;
        }
        self.live_bytes = self.live_bytes.saturating_add(added).saturating_sub(taken);
        Ok(())
    }

    /// Writes one row without counting it.
    pub(crate) fn write(
        &mut self,
        name: Name,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), MetaError> {
        let table = self.table(name);
        let txn = self.txn.as_mut().ok_or(MetaError::new(Kind::Database, "write"))?;
        match value {
            Some(value) => txn.put(table, key, value),
            None => txn.delete(table, key).map(drop),
        }
        .map_err(|e| MetaError::database("write", e))
    }

    /// Begins the next transaction, on top of everything written so far, which is durable when what this gives was
    /// written and [`Store::committed`] was told. `None`: there is nothing new.
    pub(crate) fn begin_commit(&mut self) -> Result<Option<Commit>, MetaError> {
        let failed = |e| MetaError::database("checkpoint", e);
        let txn = self.txn.take().ok_or(MetaError::new(Kind::Database, "checkpoint"))?;
        let bytes = txn.dirty_bytes();
        let commit = txn.commit_apart().map_err(failed)?;
        self.writing_bytes = if commit.is_some() { bytes } else { 0 };
        self.used_bytes = self.env.used_bytes().map_err(failed)?;
        self.txn = Some(self.env.write().map_err(failed)?);
        Ok(commit)
    }

    /// The writing of a commit is over: with `Ok` it is durable (this is the checkpoint's line).
    pub(crate) fn committed(&mut self, written: Written) -> Result<(), MetaError> {
        let txn = self.txn.as_mut().ok_or(MetaError::new(Kind::Database, "checkpoint"))?;
        txn.written(written).map_err(|e| MetaError::database("checkpoint", e))?;
        self.writing_bytes = 0;
        self.make_room();
        Ok(())
    }

    /// Makes everything written durable, here and now.
    pub(crate) fn commit(&mut self) -> Result<(), MetaError> {
        match self.begin_commit()? {
            Some(commit) => self.committed(commit.write()),
            None => Ok(()),
        }
    }

    /// Gives the transaction up: nothing is answered from here on.
    pub(crate) fn abandon(&mut self) {
        self.txn = None;
    }

    /// Whether the disk is sure to take the commit of what was written. If it is not, the commit waits.
    pub(crate) fn can_commit(&self) -> bool {
        let fits = self.txn.as_ref().map(|txn| self.env.reserve(txn.commit_bytes()));
        !matches!(fits, Some(Err(e)) if e.kind == weft_lmdb::Kind::Full)
    }

    /// Whether less room is set aside than there should be.
    pub(crate) fn wants_room(&self) -> bool {
        self.room_wanted
    }

    /// Has room set aside on the disk for the next transactions, as much of it as there is when a part stays free for
    /// others: the indices of the targets grow on the same disk, and a volume that took all of it had their writes fail.
    pub(crate) fn make_room(&mut self) {
        if self.env.is_writing() {
            return; // Asked again at its end.
        }
        let ahead = AHEAD_TXNS * self.txn_bytes_max();
        let whole = self.bytes_to_grow(ahead);
        // What was set aside before the database was opened is there still.
        let there = self.env.there_bytes().unwrap_or(0).min(whole);
        if self.env.reserved_bytes() < there && self.env.reserve(there).is_err() {
            self.room_wanted = true;
            return;
        }
        let base = self.env.reserved_bytes().max(self.used_bytes);
        let enough = self.bytes_to_grow(ahead / 2).min(self.map_bytes);
        self.room_wanted = self.env.reserved_bytes() < enough;
        let all = whole.saturating_sub(base);
        let disk_free = self.env.disk_free_bytes().unwrap_or(0);
        let fair =
            disk_free.saturating_mul(OTHERS_DIVISOR).saturating_sub(base) / (OTHERS_DIVISOR + 1);
        let mut wanted = all.min(fair);
        let mut asked_all = wanted == all;
        while self.room_wanted && wanted >= PAGE_BYTES {
            if self.env.reserve(base + wanted).is_ok() {
                self.room_wanted = !asked_all;
                return;
            }
            asked_all = false;
            wanted /= 2;
        }
    }

    /// Memory of the changes that a checkpoint under way writes.
    pub(crate) fn writing_bytes(&self) -> u64 {
        self.writing_bytes
    }

    /// Memory the changes since the last checkpoint take.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.txn.as_ref().map_or(0, WriteTxn::dirty_bytes)
    }

    /// The longest transaction: after a crash under a checkpoint one takes what two had.
    fn txn_bytes_max(&self) -> u64 {
        self.dirty_bytes_max + self.meanwhile_bytes_max
    }

    /// What has to be set aside so that the part in use may grow by `bytes`, and what [`Store::reserve_bytes`] then says
    /// is left besides.
    fn bytes_to_grow(&self, bytes: u64) -> u64 {
        let grown = self.used_bytes + bytes;
        let left = grown.div_ceil(RESERVE_DIVISOR - 1);
        grown + left.min(AHEAD_TXNS * self.txn_bytes_max())
    }

    /// What commands that grow the namespace leave alone.
    fn reserve_bytes(&self) -> u64 {
        (self.env.reserved_bytes() / RESERVE_DIVISOR).min(AHEAD_TXNS * self.txn_bytes_max())
    }

    /// Changed pages after which a checkpoint is due, or, while one is written, changes wait: less when there is little
    /// room, so that several transactions fit in what is left.
    pub(crate) fn dirty_bytes_due(&self) -> u64 {
        let left = self.env.reserved_bytes().saturating_sub(self.used_bytes);
        let fits = left.max(self.reserve_bytes()) / AHEAD_TXNS;
        let bytes_max = match self.env.is_writing() {
            true => self.meanwhile_bytes_max,
            false => self.dirty_bytes_max,
        };
        bytes_max.min(fits).max(DIRTY_BYTES_MIN)
    }

    /// Whether so much changed that a checkpoint should bound the open transaction, or the end of one under way.
    pub(crate) fn is_full(&self) -> bool {
        self.dirty_bytes() >= self.dirty_bytes_due()
    }

    /// Whether a command that adds rows may be taken, when those taken before it and not applied yet add up to
    /// `waiting_bytes`. `contiguous`: one of its values needs pages side by side, which are sure to be found only behind
    /// the last page used so far.
    ///
    /// # Errors
    /// `Busy`: more room is set aside at the end of the next checkpoint. `NoSpace`: there is no more.
    pub(crate) fn check_room(&self, contiguous: bool, waiting_bytes: u64) -> Result<(), Status> {
        let limit = self.env.reserved_bytes() - self.reserve_bytes();
        let coming = self.dirty_bytes() + waiting_bytes;
        let tail_is_free = self.used_bytes.saturating_add(coming) <= limit;
        let rows_are_few =
            self.live_bytes.saturating_mul(FILL_DIVISOR).saturating_add(coming) <= limit;
        match tail_is_free || rows_are_few && !contiguous {
            true => Ok(()),
            false if self.room_wanted || self.env.reserved_bytes() >= self.map_bytes => {
                Err(Status::NoSpace)
            }
            false => Err(Status::Busy),
        }
    }

    /// Inodes of `inode_bytes` that still fit, an estimate.
    pub(crate) fn rows_free(&self, row_bytes: u64) -> u64 {
        let free_bytes = self.env.free_bytes().unwrap_or(0);
        let limit = (self.used_bytes + free_bytes).saturating_sub(self.reserve_bytes());
        let used = self.used_bytes.min(self.live_bytes.saturating_mul(2));
        limit.saturating_sub(used) / row_bytes
    }
}

fn row_bytes(key: &[u8], value: &[u8]) -> u64 {
    let bytes = to_u64(key.len() + value.len()) + NODE_BYTES;
    if value.len() < OVERFLOW_BYTES { bytes } else { bytes.next_multiple_of(PAGE_BYTES) }
}
