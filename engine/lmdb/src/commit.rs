//! A commit that is written by whoever has the time: the writing, apart from the transaction.
//!
//! [`crate::WriteTxn::commit_apart`] ends a transaction in memory and gives a [`Commit`]; the next transaction begins on
//! top of it at once. [`Commit::write`] does everything that waits for the disk, on any thread, and
//! [`crate::WriteTxn::written`] takes the end of it. Until then readers see the commit before, and the file holds it.
//!
//! Why the file is sound meanwhile: a transaction uses pages again that the last but one freed, never those of the two
//! commits before it; so neither the commit on its way nor the one the file leads to is touched by what is written early
//! of the next. And the next cannot be committed before this one is.
//!
//! The pages belong to both sides: neither changes them until both are done. Both also hold the files, so nobody else
//! opens the environment while a commit of it is being written, whatever became of its [`crate::Env`].

use crate::error::Error;
use crate::{PAGE_BYTES, ffi, sum};
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

const OP: &str = "commit";
/// Written at one time: pages that lie side by side.
const STAGE_BYTES: usize = 256 << 10;

/// The data file, as commits are written to it.
#[derive(Debug)]
pub(crate) struct Files {
    data: File,
    /// A write through this one is durable when it returns.
    synced: File,
    /// Held, not read: closing it lets the next opener in.
    _owner: File,
}

impl Files {
    pub(crate) fn open(data: &Path, owner: File) -> Result<Files, Error> {
        let open = |flags| File::options().write(true).custom_flags(flags).open(data);
        let io = |e: std::io::Error| Error::io("open", &e);
        Ok(Files {
            data: open(0).map_err(io)?,
            synced: open(libc::O_DSYNC).map_err(io)?,
            _owner: owner,
        })
    }
}

/// LMDB's list of what a commit changed, and the pages themselves.
#[derive(Debug)]
pub(crate) struct Apart(NonNull<ffi::MdbCommit>);

// SAFETY: alive - memory of its own, freed in `drop` or, after `give_back`, by the environment; until -
// then; alone - nobody writes to it before (LMDB copies a page to change it), so any thread may read.
unsafe impl Send for Apart {}
// SAFETY: as above: shared, it is only read.
unsafe impl Sync for Apart {}

impl Drop for Apart {
    fn drop(&mut self) {
        // SAFETY: alive - not given back to the environment (`give_back`), which is closed, as it held a share of
        // this; until - here; alone - the last share.
        unsafe { ffi::mdb_commit_free(self.0.as_ptr()) };
    }
}

impl Apart {
    /// Takes what `mdb_txn_commit_apart` gave; `None` when nothing changed.
    pub(crate) fn new(raw: *mut ffi::MdbCommit) -> Option<Apart> {
        NonNull::new(raw).map(Apart)
    }

    /// Leaves the memory to the environment, which has its address.
    pub(crate) fn give_back(self) {
        let _kept = std::mem::ManuallyDrop::new(self);
    }

    fn head(&self) -> &ffi::MdbCommit {
        // SAFETY: alive - see `drop`; until - `&self` ends; alone - nobody writes to it.
        unsafe { self.0.as_ref() }
    }

    fn changed(&self) -> &[ffi::MdbChanged] {
        let at = (&raw const self.head().pages).cast();
        // SAFETY: alive - LMDB made the list so long, behind the head; until, alone - as in `head`.
        unsafe { std::slice::from_raw_parts(at, self.head().count) }
    }

    /// A page or run of pages without its sum, and its sum.
    fn page(changed: &ffi::MdbChanged) -> (&[u8], [u8; 8]) {
        let bytes = changed.run * page_bytes() - size_of::<u64>();
        // SAFETY: alive - as the list; until - that is given back; alone - nobody writes to it, and the place of the sum
        // is not part of this.
        let body = unsafe { std::slice::from_raw_parts(changed.data, bytes) };
        (body, sum::of(body).to_ne_bytes())
    }
}

/// A commit that is not written yet. Dropped, it never is: the environment has to be closed then.
#[derive(Debug)]
#[must_use = "what is not written is not committed"]
pub struct Commit {
    pub(crate) apart: Arc<Apart>,
    pub(crate) files: Arc<Files>,
}

/// A commit whose writing is over, for [`crate::WriteTxn::written`].
#[derive(Debug)]
#[must_use = "the environment waits for it"]
pub struct Written {
    pub(crate) apart: Arc<Apart>,
    pub(crate) result: Result<(), Error>,
}

impl Written {
    /// Why it may not be there.
    pub fn error(&self) -> Option<Error> {
        self.result.err()
    }
}

impl Commit {
    /// Writes the commit and makes it durable. This is what takes time.
    pub fn write(self) -> Written {
        let result = self.write_pages().and_then(|()| self.write_meta());
        Written { result: result.map_err(|e| Error::io(OP, &e)), apart: self.apart }
    }

    /// As [`Commit::write`] on a disk that refuses the first page with `errno`: for simulated disks.
    pub fn refuse(self, errno: i32) -> Written {
        Written { result: Err(Error::code(OP, errno)), apart: self.apart }
    }

    fn write_pages(&self) -> std::io::Result<()> {
        let head = self.apart.head();
        let mut stage = Stage { data: &self.files.data, at: 0, bytes: Vec::new() };
        stage.bytes.reserve_exact(STAGE_BYTES);
        for changed in self.apart.changed() {
            let (body, sum) = Apart::page(changed);
            let at = to_u64(changed.number * page_bytes());
            stage.put(at, body)?;
            stage.put(at + to_u64(body.len()), &sum)?;
        }
        stage.flush()?;
        // Pages given out and freed again are never written: without them the file may be too short.
        if self.files.data.metadata()?.len() < to_u64(head.file_bytes) {
            self.files.data.set_len(to_u64(head.file_bytes))?;
        }
        self.files.data.sync_data()
    }

    /// From the end of this on the commit is the one that is there.
    fn write_meta(&self) -> std::io::Result<()> {
        let head = self.apart.head();
        let bytes = |words: &[u64; 32]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_ne_bytes()).take(head.meta_bytes).collect()
        };
        let at = to_u64(head.meta_at);
        let result = self.files.synced.write_all_at(&bytes(&head.meta), at);
        if result.is_err() {
            // The page cache may have it all the same: what is there must not be taken for the newest.
            drop(self.files.data.write_all_at(&bytes(&head.meta_old), at));
        }
        result
    }
}

/// Collects bytes that lie side by side.
struct Stage<'a> {
    data: &'a File,
    at: u64,
    bytes: Vec<u8>,
}

impl Stage<'_> {
    fn put(&mut self, mut at: u64, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            if at != self.at + to_u64(self.bytes.len()) || self.bytes.len() == STAGE_BYTES {
                self.flush()?;
                self.at = at;
            }
            let taken = bytes.len().min(STAGE_BYTES - self.bytes.len());
            self.bytes.extend_from_slice(&bytes[..taken]);
            (at, bytes) = (at + to_u64(taken), &bytes[taken..]);
        }
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let written = self.data.write_all_at(&self.bytes, self.at);
        self.bytes.clear();
        written
    }
}

fn page_bytes() -> usize {
    usize::try_from(PAGE_BYTES).expect("a page is 4 KiB")
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("64 bits hold it")
}
