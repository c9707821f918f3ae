//! Transactions: snapshots to read, and the one that writes.
//!
//! A slice handed out points into the map or into a page buffer of the write transaction. Both
//! stay put until the transaction changes something or ends, which the borrow forbids meanwhile.

use crate::commit::{Apart, Commit, Written};
use crate::env::{Env, Inner, Table};
use crate::error::{Error, Kind, check};
use crate::{KEY_BYTES_MAX, PAGE_BYTES, VALUE_BYTES_MAX, ffi};
use std::ops::{ControlFlow, Deref};
use std::rc::Rc;
use std::sync::Arc;

/// Page numbers on a page of the free list, at least: it may be a quarter full.
const LIST_NUMBERS_PER_PAGE: u64 = 100;
/// Pages a commit may write besides: of the free list's tree, and of the table of tables.
const LIST_PAGES_MIN: u64 = 64;

/// What a write transaction comes to.
struct Size {
    /// Pages and runs in memory.
    dirty: u64,
    /// Page numbers of the free list that it has to write.
    freed: u64,
    /// Pages of the file, without those of the free list that the commit adds.
    pages: u64,
}

/// A key and its value, borrowed from the transaction.
pub type Entry<'a> = (&'a [u8], &'a [u8]);
/// What [`View::scan`] calls with each key and value.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// What can be read in a transaction. [`ReadTxn`] and [`WriteTxn`] deref to it.
#[derive(Debug)]
pub struct View {
    /// Null once committed.
    raw: *mut ffi::MdbTxn,
    env: Rc<Inner>,
    writes: bool,
}

impl Drop for View {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: alive - begun in `begin`, not committed; until - here; alone - slices and
            // cursors borrow `self`, so none is left.
            unsafe { ffi::mdb_txn_abort(self.raw) };
        }
        if self.writes {
            self.env.writing.set(false);
        }
    }
}

impl View {
    pub(crate) fn begin(env: &Env, writes: bool) -> Result<View, Error> {
        let env = Rc::clone(&env.0);
        if writes && env.writing.get() {
            return Err(Error::new(Kind::Busy, "write"));
        }
        let (op, flags) = if writes { ("write", 0) } else { ("read", ffi::MDB_RDONLY) };
        let mut raw = std::ptr::null_mut();
        // SAFETY: alive - `env` is open while the Rc lives, and this value keeps it; until - the
        // view drops; alone - one writer by `writing`, and readers are told apart by LMDB.
        let code =
            unsafe { ffi::mdb_txn_begin(env.raw, std::ptr::null_mut(), flags, &raw mut raw) };
        check(op, code)?;
        if writes {
            env.writing.set(true);
        }
        Ok(View { raw, env, writes })
    }

    pub(crate) fn raw(&self) -> *mut ffi::MdbTxn {
        self.raw
    }

    pub(crate) fn commit(mut self, op: &'static str) -> Result<(), Error> {
        let raw = std::mem::replace(&mut self.raw, std::ptr::null_mut());
        // SAFETY: alive - begun in `begin`; until - here, LMDB frees it on success and failure,
        // and `raw` is null now; alone - `self` is owned, so no slice or cursor is left.
        check(op, unsafe { ffi::mdb_txn_commit(raw) })
    }

    fn commit_apart(mut self) -> Result<Option<Commit>, Error> {
        let raw = std::mem::replace(&mut self.raw, std::ptr::null_mut());
        let mut apart = std::ptr::null_mut();
        // SAFETY: as in `commit`; `apart` is a local.
        check("commit", unsafe { ffi::mdb_txn_commit_apart(raw, &raw mut apart) })?;
        let apart = Apart::new(apart).map(Arc::new);
        self.env.apart.replace(apart.clone());
        Ok(apart.map(|apart| Commit { apart, files: Arc::clone(&self.env.files) }))
    }

    fn dbi(&self, table: Table, op: &'static str) -> Result<u32, Error> {
        if table.env_id == self.env.env_id {
            Ok(table.dbi)
        } else {
            Err(Error::new(Kind::Invalid, op))
        }
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// `Damaged`, `KeyTooLong`, `Invalid`. A failed read leaves the transaction usable.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        check_key(key, "get")?;
        let dbi = self.dbi(table, "get")?;
        let mut key = ffi::MdbVal::lend(key);
        let mut value = ffi::MdbVal::EMPTY;
        // SAFETY: alive - the transaction is open, the key outlives the call; until - it returns;
        // alone - this thread only (Rc), and reading changes no page.
        match unsafe { ffi::mdb_get(self.raw, dbi, &raw mut key, &raw mut value) } {
            0 => Ok(Some(self.borrow(value))),
            ffi::MDB_NOTFOUND => Ok(None),
            code => Err(Error::code("get", code)),
        }
    }

    /// The entry with the smallest key that is `key` or greater.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn next_at_or_after(&self, table: Table, key: &[u8]) -> Result<Option<Entry<'_>>, Error> {
        Cursor::open(self, table, "next")?.seek(key)
    }

    /// The entry with the greatest key that is smaller than `key`.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn prev_before(&self, table: Table, key: &[u8]) -> Result<Option<Entry<'_>>, Error> {
        let cursor = Cursor::open(self, table, "prev")?;
        match cursor.seek(key)? {
            Some(_) => cursor.step(ffi::MDB_PREV),
            None => cursor.step(ffi::MDB_LAST),
        }
    }

    /// The entry with the greatest key.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn last(&self, table: Table) -> Result<Option<Entry<'_>>, Error> {
        Cursor::open(self, table, "last")?.step(ffi::MDB_LAST)
    }

    /// Calls `f` with each entry from `from` on, ascending, until it breaks.
    ///
    /// # Errors
    /// As [`View::get`]; entries before the damaged page have been handed out by then.
    pub fn scan(&self, table: Table, from: &[u8], f: &mut Visit<'_>) -> Result<(), Error> {
        let cursor = Cursor::open(self, table, "scan")?;
        let mut entry = cursor.seek(from)?;
        while let Some((key, value)) = entry {
            if f(key, value).is_break() {
                break;
            }
            entry = cursor.step(ffi::MDB_NEXT)?;
        }
        Ok(())
    }

    /// How many entries `table` has.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn entries(&self, table: Table) -> Result<u64, Error> {
        Ok(u64::try_from(self.stat(table)?.entries).unwrap_or(u64::MAX))
    }

    /// Length of the pages that `table` is in.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn table_bytes(&self, table: Table) -> Result<u64, Error> {
        let stat = self.stat(table)?;
        let pages = stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
        let pages = u64::try_from(pages).unwrap_or(u64::MAX);
        Ok(pages.saturating_mul(u64::from(PAGE_BYTES)))
    }

    fn stat(&self, table: Table) -> Result<ffi::MdbStat, Error> {
        let dbi = self.dbi(table, "stat")?;
        let mut stat = ffi::MdbStat {
            page_bytes: 0,
            depth: 0,
            branch_pages: 0,
            leaf_pages: 0,
            overflow_pages: 0,
            entries: 0,
        };
        // SAFETY: alive - the transaction is open; until - the call returns; alone - a local.
        check("stat", unsafe { ffi::mdb_stat(self.raw, dbi, &raw mut stat) })?;
        Ok(stat)
    }

    fn borrow(&self, value: ffi::MdbVal) -> &[u8] {
        if value.size == 0 {
            return &[];
        }
        // SAFETY: alive - LMDB answered with bytes of a page of this transaction, whose sum was
        // checked; until - `&self` ends, before which the transaction neither changes nor ends;
        // alone - pages of a live snapshot are not written to.
        unsafe { std::slice::from_raw_parts(value.data.cast::<u8>(), value.size) }
    }
}

struct Cursor<'a> {
    raw: *mut ffi::MdbCursor,
    view: &'a View,
    op: &'static str,
}

impl Drop for Cursor<'_> {
    fn drop(&mut self) {
        // SAFETY: alive - opened in `open`, its transaction is borrowed; until - here; alone - ours.
        unsafe { ffi::mdb_cursor_close(self.raw) };
    }
}

impl<'a> Cursor<'a> {
    fn open(view: &'a View, table: Table, op: &'static str) -> Result<Cursor<'a>, Error> {
        let dbi = view.dbi(table, op)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: alive - the transaction is open and borrowed; until - drop; alone - a local.
        check(op, unsafe { ffi::mdb_cursor_open(view.raw, dbi, &raw mut raw) })?;
        Ok(Cursor { raw, view, op })
    }

    fn seek(&self, key: &[u8]) -> Result<Option<Entry<'a>>, Error> {
        if key.is_empty() {
            return self.step(ffi::MDB_FIRST);
        }
        self.get(ffi::MdbVal::lend(key), ffi::MDB_SET_RANGE)
    }

    fn step(&self, op: u32) -> Result<Option<Entry<'a>>, Error> {
        self.get(ffi::MdbVal::EMPTY, op)
    }

    fn get(&self, mut key: ffi::MdbVal, op: u32) -> Result<Option<Entry<'a>>, Error> {
        let mut value = ffi::MdbVal::EMPTY;
        // SAFETY: alive - cursor and transaction are open, a key given outlives the call; until -
        // it returns; alone - this thread only, and reading changes no page.
        match unsafe { ffi::mdb_cursor_get(self.raw, &raw mut key, &raw mut value, op) } {
            0 => Ok(Some((self.view.borrow(key), self.view.borrow(value)))),
            ffi::MDB_NOTFOUND => Ok(None),
            code => Err(Error::code(self.op, code)),
        }
    }
}

/// A snapshot. Keeps the environment open.
#[derive(Debug)]
pub struct ReadTxn(View);

impl ReadTxn {
    pub(crate) fn new(view: View) -> ReadTxn {
        ReadTxn(view)
    }
}

impl Deref for ReadTxn {
    type Target = View;

    fn deref(&self) -> &View {
        &self.0
    }
}

/// The write transaction: reads see what it wrote. Dropping it undoes it. Keeps the environment
/// open.
#[derive(Debug)]
pub struct WriteTxn {
    view: View,
    /// Pages of long values beyond the first of each: LMDB counts runs.
    run_pages: u64,
    /// The first change that failed. LMDB may have left half of it behind, so nothing after it
    /// may reach the disk.
    failed: Option<Error>,
}

impl Deref for WriteTxn {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl WriteTxn {
    pub(crate) fn new(view: View) -> WriteTxn {
        WriteTxn { view, run_pages: 0, failed: None }
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// `KeyTooLong` and `ValueTooLong` change nothing. After any other (`Full`, `Damaged`, `Io`)
    /// the transaction can only be dropped: each later change and the commit repeat the error.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Error> {
        check_key(key, "put")?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::new(Kind::ValueTooLong, "put"));
        }
        let dbi = self.ready(table, "put")?;
        self.run_pages += value.len() as u64 / u64::from(PAGE_BYTES);
        let mut key = ffi::MdbVal::lend(key);
        let mut value = ffi::MdbVal::lend(value);
        // SAFETY: alive - the transaction is open, key and value outlive the call and are not of
        // it (`&mut self`); until - it returns; alone - `&mut self`.
        let code = unsafe { ffi::mdb_put(self.view.raw, dbi, &raw mut key, &raw mut value, 0) };
        self.note(check("put", code))
    }

    /// Removes `key`; says whether it was there.
    ///
    /// # Errors
    /// As [`WriteTxn::put`].
    pub fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool, Error> {
        check_key(key, "delete")?;
        let dbi = self.ready(table, "delete")?;
        let mut key = ffi::MdbVal::lend(key);
        // SAFETY: as in `put`; a null value means "whatever it is".
        let code = unsafe { ffi::mdb_del(self.view.raw, dbi, &raw mut key, std::ptr::null_mut()) };
        if code == ffi::MDB_NOTFOUND {
            return Ok(false);
        }
        self.note(check("delete", code))?;
        Ok(true)
    }

    /// Makes the changes durable: on disk and synced when this returns.
    ///
    /// # Errors
    /// The error of an earlier failed change; `Full`, `Damaged`, `Io`: the changes are undone;
    /// an error in the last step (writing the meta page) makes the environment `Broken`. `Busy` while a commit made
    /// apart is being written.
    pub fn commit(self) -> Result<(), Error> {
        match self.failed {
            Some(e) => Err(e),
            None if self.view.env.apart.borrow().is_some() => Err(Error::new(Kind::Busy, "commit")),
            None => self.view.commit("commit"),
        }
    }

    /// Commits in memory: the next transaction begins on top of it at once, and nothing is durable before the writing is
    /// ([`Commit::write`], [`WriteTxn::written`]). `None`: nothing changed. One at a time.
    ///
    /// # Errors
    /// The error of an earlier failed change; `Full`, `Damaged`: the changes are undone. So are they with `Busy`: the
    /// commit before this one is still being written.
    pub fn commit_apart(self) -> Result<Option<Commit>, Error> {
        match self.failed {
            Some(e) => Err(e),
            None if self.view.env.apart.borrow().is_some() => Err(Error::new(Kind::Busy, "commit")),
            None => self.view.commit_apart(),
        }
    }

    /// Takes the end of the commit this transaction is on top of: it is what readers see from here on, and this one may
    /// be committed.
    ///
    /// # Errors
    /// What the writing failed with: what is durable is known only after a reopen, and this environment is of no use any
    /// more. `Invalid`: the commit is another environment's.
    pub fn written(&mut self, written: Written) -> Result<(), Error> {
        let Written { apart, result } = written;
        let env = &self.view.env;
        let ours = env.apart.borrow().as_ref().is_some_and(|waiting| Arc::ptr_eq(waiting, &apart));
        if !ours {
            return Err(Error::new(Kind::Invalid, "commit"));
        }
        drop(apart);
        if let Err(e) = result {
            // SAFETY: alive - `self` holds the environment; until - the call returns; alone - this thread.
            unsafe { ffi::mdb_env_apart_failed(env.raw) };
            return Err(e);
        }
        let apart = env.apart.take().and_then(Arc::into_inner);
        apart.expect("the share that was written with is gone").give_back();
        // SAFETY: alive - the environment has the pages, and no other share of them is left; until - the call, which uses
        // them again; alone - `&mut self`: no slice of them is lent out.
        unsafe { ffi::mdb_env_apart_done(env.raw) };
        Ok(())
    }

    /// Memory its changed pages take; each time a long value is set counts, also where it was written early.
    pub fn dirty_bytes(&self) -> u64 {
        (self.size().dirty + self.run_pages) * u64::from(PAGE_BYTES)
    }

    /// How long the file must be for a commit now. Where this much is set aside
    /// ([`Env::reserve`]), the commit does not fail for want of disk space.
    pub fn commit_bytes(&self) -> u64 {
        let Size { freed, pages, .. } = self.size();
        let list_pages = freed / LIST_NUMBERS_PER_PAGE + LIST_PAGES_MIN;
        (pages + list_pages) * u64::from(PAGE_BYTES)
    }

    fn size(&self) -> Size {
        let (mut dirty, mut freed, mut pages) = (0, 0, 0);
        // SAFETY: alive - the transaction is open; until - the call returns; alone - locals.
        unsafe {
            ffi::mdb_txn_size(self.view.raw, &raw mut dirty, &raw mut freed, &raw mut pages);
        }
        Size { dirty: dirty as u64, freed: freed as u64, pages: pages as u64 }
    }

    fn ready(&self, table: Table, op: &'static str) -> Result<u32, Error> {
        match self.failed {
            Some(e) => Err(Error { op, ..e }),
            None => self.view.dbi(table, op),
        }
    }

    fn note(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        if let Err(e) = result {
            self.failed = Some(e);
        }
        result
    }
}

/// What both kinds of transaction can read, for code that takes either.
pub trait Reader {
    /// The view to read through.
    fn view(&self) -> &View;

    /// See [`View::get`].
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        self.view().get(table, key)
    }

    /// See [`View::next_at_or_after`].
    fn next_at_or_after(&self, table: Table, key: &[u8]) -> Result<Option<Entry<'_>>, Error> {
        self.view().next_at_or_after(table, key)
    }

    /// See [`View::prev_before`].
    fn prev_before(&self, table: Table, key: &[u8]) -> Result<Option<Entry<'_>>, Error> {
        self.view().prev_before(table, key)
    }

    /// See [`View::last`].
    fn last(&self, table: Table) -> Result<Option<Entry<'_>>, Error> {
        self.view().last(table)
    }

    /// See [`View::scan`].
    fn scan(&self, table: Table, from: &[u8], f: &mut Visit<'_>) -> Result<(), Error> {
        self.view().scan(table, from, f)
    }

    /// See [`View::entries`].
    fn entries(&self, table: Table) -> Result<u64, Error> {
        self.view().entries(table)
    }
}

impl Reader for View {
    fn view(&self) -> &View {
        self
    }
}

impl Reader for ReadTxn {
    fn view(&self) -> &View {
        &self.0
    }
}

impl Reader for WriteTxn {
    fn view(&self) -> &View {
        &self.view
    }
}

fn check_key(key: &[u8], op: &'static str) -> Result<(), Error> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Error::new(Kind::KeyTooLong, op));
    }
    Ok(())
}
