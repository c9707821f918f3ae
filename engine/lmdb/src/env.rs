//! An environment: the data file, its map, its tables.

use crate::commit::{Apart, Files};
use crate::error::{Error, Kind, check};
use crate::ffi;
use crate::room::Room;
use crate::sigbus::Guard;
use crate::txn::{ReadTxn, View, WriteTxn};
use crate::{PAGE_BYTES, READERS_MAX, header, sum};
use rustix::fs::{FlockOperation, flock};
use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const DATA_FILE: &str = "data.mdb";
/// LMDB's reader table and mutexes. Rebuilt at each open: it holds nothing that must last.
const READERS_FILE: &str = "lock.mdb";
/// One that is longer is none: it has some 500 entries of 64 bytes.
const READERS_BYTES_MAX: u64 = 1 << 20;
/// What makes an environment exclusive to one opener.
const OWNER_FILE: &str = "owner.lock";
/// A new data file is made here and renamed when whole and synced.
const NEW_DIR: &str = "new";
const FILE_MODE: libc::mode_t = 0o600;
const OPEN: &str = "open";

/// How to open an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// How large the file may grow. Address space only: the file is as long as its contents.
    pub map_bytes_max: u64,
    /// Make the directory and an empty environment if there is none.
    pub create: bool,
    /// How many tables may be opened.
    pub tables_max: u32,
    /// Let the kernel read ahead. Off is right unless the whole file is read in order.
    pub read_ahead: bool,
    /// How many changed pages and runs of pages a write transaction keeps in memory. Some are written to the file
    /// early at the bound, to free pages, so that nobody finds them before the commit; a few more may be kept while
    /// one change needs them. `None`: 131,071.
    pub changed_pages_max: Option<u32>,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            map_bytes_max: 1 << 30,
            create: false,
            tables_max: 16,
            read_ahead: false,
            changed_pages_max: None,
        }
    }
}

/// A table of one environment. Opened once, used in any transaction begun later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    pub(crate) dbi: u32,
    pub(crate) env_id: u32,
}

/// An open environment. Clones share it; it closes with the last of them and of its
/// transactions. Belongs to one thread.
#[derive(Clone, Debug)]
pub struct Env(pub(crate) Rc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) raw: *mut ffi::MdbEnv,
    pub(crate) env_id: u32,
    /// A write transaction is open. LMDB would wait for it forever on the same thread.
    pub(crate) writing: Cell<bool>,
    room: Room,
    /// Unregistered in `drop`, before the map goes away.
    guard: Option<Guard>,
    pub(crate) files: Arc<Files>,
    /// The commit that is being written. Outlives `raw`, which has its address.
    pub(crate) apart: RefCell<Option<Arc<Apart>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.guard = None;
        // SAFETY: alive - opened in `open_raw`, closed only here; until - transactions hold an
        // Rc, so all are gone; alone - Rc keeps it on one thread.
        unsafe { ffi::mdb_env_close(self.raw) };
    }
}

impl Env {
    /// Opens the environment in directory `dir`, for this process alone.
    ///
    /// # Errors
    /// `Damaged` if the meta pages are not good or the file is shorter than they say; `Busy` if
    /// it is open elsewhere; `NotFound` without `create`; `Limit` beyond 256 environments; `Io`.
    pub fn open(dir: &Path, options: &OpenOptions) -> Result<Env, Error> {
        if options.create {
            match std::fs::create_dir(dir) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(Error::io(OPEN, &e)),
                _ => {}
            }
        }
        let owner = own(dir, options.create)?;
        match File::open(dir.join(DATA_FILE)) {
            Ok(file) => header::check(&file)?,
            Err(e) if e.kind() == ErrorKind::NotFound && options.create => make(dir, options)?,
            Err(e) => return Err(Error::io(OPEN, &e)),
        }
        let readers = dir.join(READERS_FILE);
        blank(&readers)?;
        let room = Room::new(&dir.join(DATA_FILE))?;
        let files = Arc::new(Files::open(&dir.join(DATA_FILE), owner)?);
        let raw = open_raw(dir, options)?;
        allocate(&readers);
        static NEXT_ID: AtomicU32 = AtomicU32::new(1);
        let env_id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let writing = Cell::new(false);
        let apart = RefCell::new(None);
        let mut inner = Inner { raw, env_id, writing, room, guard: None, files, apart };
        let (start, len_bytes) = map_of(raw);
        inner.guard = Some(Guard::new(start, len_bytes)?);
        Ok(Env(Rc::new(inner)))
    }

    /// The table `name`, made if missing. A transaction that is already open cannot use a table
    /// opened after it began, so open all tables first.
    ///
    /// # Errors
    /// `Busy` if the table is missing and a write transaction is open; `Limit` beyond
    /// `tables_max`; `Damaged`; `Full`; `Io`.
    pub fn table(&self, name: &'static str) -> Result<Table, Error> {
        let name = CString::new(name).map_err(|_| Error::new(Kind::Invalid, "table"))?;
        match self.open_table(&name, false) {
            Err(e) if e.code == ffi::MDB_NOTFOUND => self.open_table(&name, true),
            result => result,
        }
    }

    fn open_table(&self, name: &CString, create: bool) -> Result<Table, Error> {
        let view = View::begin(self, create)?;
        let flags = if create { ffi::MDB_CREATE } else { 0 };
        let mut dbi = 0;
        // SAFETY: alive - `view` holds the transaction, `name` is a C string; until - the call
        // returns; alone - `dbi` is a local.
        let code = unsafe { ffi::mdb_dbi_open(view.raw(), name.as_ptr(), flags, &raw mut dbi) };
        check("table", code)?;
        view.commit("table")?;
        Ok(Table { dbi, env_id: self.0.env_id })
    }

    /// Begins the write transaction. There is one at a time.
    ///
    /// # Errors
    /// `Busy` if one is open; `Damaged` if the newest meta page went bad; `Broken`; `Io`.
    pub fn write(&self) -> Result<WriteTxn, Error> {
        Ok(WriteTxn::new(View::begin(self, true)?))
    }

    /// Takes a snapshot of what was last committed. While it lives, pages freed after it are not
    /// used again, so a long-lived one makes the file grow.
    ///
    /// # Errors
    /// `Limit` beyond 510 snapshots; `Damaged` if the newest meta page went bad; `Broken`; `Io`.
    pub fn read(&self) -> Result<ReadTxn, Error> {
        Ok(ReadTxn::new(View::begin(self, false)?))
    }

    /// Whether a commit made apart is not written yet.
    pub fn is_writing(&self) -> bool {
        self.0.apart.borrow().is_some()
    }

    /// Length of the part of the file in use at the last commit, free pages within it included.
    ///
    /// # Errors
    /// None known: LMDB answers from memory.
    pub fn used_bytes(&self) -> Result<u64, Error> {
        let pages = self.info()?.last_page.saturating_add(1);
        Ok(u64::try_from(pages).unwrap_or(u64::MAX).saturating_mul(u64::from(PAGE_BYTES)))
    }

    /// How large the file may grow.
    ///
    /// # Errors
    /// None known: LMDB answers from memory.
    pub fn map_bytes(&self) -> Result<u64, Error> {
        Ok(u64::try_from(self.info()?.map_bytes).unwrap_or(u64::MAX))
    }

    /// Has the file system set room aside for the first `bytes` of the file (or the map, if that
    /// is less): writing there cannot fail because the disk is full. What was set aside stays so.
    /// A file system that cannot do that (`fallocate`) promises nothing.
    ///
    /// # Errors
    /// `Full` if there is not so much, nothing is kept of it then; `Busy` if it is more than before and a commit made
    /// apart is being written; `Io`.
    pub fn reserve(&self, bytes: u64) -> Result<(), Error> {
        let bytes = bytes.min(self.map_bytes()?);
        // Giving back what there is too little of sets the file's length, as the writing does.
        if self.is_writing() && bytes > self.reserved_bytes() {
            return Err(Error::new(Kind::Busy, "reserve"));
        }
        self.0.room.reserve(bytes)
    }

    /// What [`Env::reserve`] set aside since the environment was opened.
    pub fn reserved_bytes(&self) -> u64 {
        self.0.room.reserved_bytes()
    }

    /// What the file has on its disk already, also from before it was opened: reserving so much takes nothing.
    ///
    /// # Errors
    /// `Io`.
    pub fn there_bytes(&self) -> Result<u64, Error> {
        self.0.room.there_bytes()
    }

    /// What the file's disk has left for everybody.
    ///
    /// # Errors
    /// `Io`.
    pub fn disk_free_bytes(&self) -> Result<u64, Error> {
        self.0.room.disk_free_bytes()
    }

    /// How much longer than what is in use the file can become: up to the map, or what is set
    /// aside and what the disk has besides. Free pages within the file are not counted.
    ///
    /// # Errors
    /// `Io`.
    pub fn free_bytes(&self) -> Result<u64, Error> {
        let used_bytes = self.used_bytes()?;
        let disk_bytes = self.reserved_bytes().max(used_bytes) + self.0.room.disk_free_bytes()?;
        Ok(self.map_bytes()?.min(disk_bytes).saturating_sub(used_bytes))
    }

    /// How many entries `table` had at the last commit.
    ///
    /// # Errors
    /// As [`Env::read`].
    pub fn entries(&self, table: Table) -> Result<u64, Error> {
        self.read()?.entries(table)
    }

    fn info(&self) -> Result<ffi::MdbEnvInfo, Error> {
        let mut info = ffi::MdbEnvInfo {
            fixed_address: std::ptr::null_mut(),
            map_bytes: 0,
            last_page: 0,
            last_txn: 0,
            readers_max: 0,
            readers_count: 0,
        };
        // SAFETY: alive - `self` holds the environment; until - the call returns; alone - a local.
        check("stat", unsafe { ffi::mdb_env_info(self.0.raw, &raw mut info) })?;
        Ok(info)
    }
}

fn own(dir: &Path, create: bool) -> Result<File, Error> {
    let data_missing = || !dir.join(DATA_FILE).exists();
    if !create && data_missing() {
        return Err(Error::new(Kind::NotFound, OPEN));
    }
    let owner = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join(OWNER_FILE))
        .map_err(|e| Error::io(OPEN, &e))?;
    match flock(&owner, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(owner),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(Kind::Busy, OPEN)),
        Err(errno) => Err(Error::code(OPEN, errno.raw_os_error())),
    }
}

/// Makes an empty data file: a crash leaves either none, or a whole one. When it returns, the
/// file's name and the directory's own are durable.
fn make(dir: &Path, options: &OpenOptions) -> Result<(), Error> {
    let io = |e: std::io::Error| Error::io(OPEN, &e);
    let new = dir.join(NEW_DIR);
    match std::fs::remove_dir_all(&new) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(io(e)),
        _ => {}
    }
    std::fs::create_dir(&new).map_err(io)?;
    let raw = open_raw(&new, options)?;
    // SAFETY: alive - just opened; until - closed below; alone - nobody else has it.
    let synced = unsafe { ffi::mdb_env_sync(raw, 1) };
    // SAFETY: as above; no transaction was begun.
    unsafe { ffi::mdb_env_close(raw) };
    check(OPEN, synced)?;
    std::fs::rename(new.join(DATA_FILE), dir.join(DATA_FILE)).map_err(io)?;
    std::fs::remove_dir_all(&new).map_err(io)?;
    sync_dir(dir)?;
    sync_dir(match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    })
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io(OPEN, &e))
}

/// Forgets what an earlier opener left in the reader table. Its blocks are kept: the file is written through a map, and
/// on a full disk a new one's first page would be SIGBUS.
fn blank(path: &Path) -> Result<(), Error> {
    let file = match File::options().write(true).open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        file => file.map_err(|e| Error::io(OPEN, &e))?,
    };
    let len_bytes = file.metadata().map_err(|e| Error::io(OPEN, &e))?.len();
    if len_bytes > READERS_BYTES_MAX {
        return std::fs::remove_file(path).map_err(|e| Error::io(OPEN, &e));
    }
    let zeros = vec![0; usize::try_from(len_bytes).expect("small")];
    file.write_all_at(&zeros, 0).map_err(|e| Error::io(OPEN, &e))
}

/// Has the new reader table's blocks set aside, as far as there is room.
fn allocate(path: &Path) {
    let len_bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
    Room::new(path).and_then(|table| table.reserve(len_bytes)).unwrap_or_default();
}

fn open_raw(dir: &Path, options: &OpenOptions) -> Result<*mut ffi::MdbEnv, Error> {
    let path =
        CString::new(dir.as_os_str().as_bytes()).map_err(|_| Error::new(Kind::Invalid, OPEN))?;
    let mut raw = std::ptr::null_mut();
    // SAFETY: alive, until, alone - a local, for the call.
    check(OPEN, unsafe { ffi::mdb_env_create(&raw mut raw) })?;
    let opened = configure(raw, options).and_then(|()| {
        let read_ahead = if options.read_ahead { 0 } else { ffi::MDB_NORDAHEAD };
        // SAFETY: alive - created above, `path` is a C string; until - closed; alone - ours.
        let code = unsafe {
            ffi::mdb_env_open(raw, path.as_ptr(), ffi::MDB_NOTLS | read_ahead, FILE_MODE)
        };
        check(OPEN, code)
    });
    if let Err(e) = opened {
        // SAFETY: alive - created above; until - here; alone - nobody else has it.
        unsafe { ffi::mdb_env_close(raw) };
        return Err(e);
    }
    Ok(raw)
}

fn configure(raw: *mut ffi::MdbEnv, options: &OpenOptions) -> Result<(), Error> {
    let page_bytes = i32::try_from(PAGE_BYTES).expect("a page is 4 KiB");
    let map_bytes = usize::try_from(options.map_bytes_max)
        .map_err(|_| Error::new(Kind::Invalid, OPEN))?
        .next_multiple_of(usize::try_from(PAGE_BYTES).expect("a page is 4 KiB"));
    // SAFETY: (these six) alive - created by the caller; until - each call returns; alone - ours.
    check(OPEN, unsafe { ffi::mdb_env_set_pagesize(raw, page_bytes) })?;
    // SAFETY: as above.
    check(OPEN, unsafe { ffi::mdb_env_set_mapsize(raw, map_bytes) })?;
    // SAFETY: as above.
    check(OPEN, unsafe { ffi::mdb_env_set_maxdbs(raw, options.tables_max) })?;
    // SAFETY: as above.
    check(OPEN, unsafe { ffi::mdb_env_set_maxreaders(raw, READERS_MAX) })?;
    if let Some(pages) = options.changed_pages_max {
        // SAFETY: as above.
        unsafe { ffi::mdb_env_set_dirty_max(raw, pages) };
    }
    // SAFETY: as above; `sum::page` writes SUM_BYTES bytes.
    check(OPEN, unsafe { ffi::mdb_env_set_checksum(raw, sum::page, sum::SUM_BYTES) })
}

fn map_of(raw: *mut ffi::MdbEnv) -> (usize, usize) {
    let mut start = std::ptr::null_mut();
    let mut len_bytes = 0;
    // SAFETY: alive - an open environment; until - the call returns; alone - locals.
    unsafe { ffi::mdb_env_get_map(raw, &raw mut start, &raw mut len_bytes) };
    (start.addr(), len_bytes)
}
