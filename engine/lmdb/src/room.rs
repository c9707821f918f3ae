//! Room for the data file: set aside before it is needed, so that a full disk is met while there is
//! still a choice, not in the midst of a commit.

use crate::PAGE_BYTES;
use crate::error::{Error, Kind};
use rustix::fs::fstatvfs;
use rustix::process::{Resource, getrlimit};
use std::cell::Cell;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const OP: &str = "reserve";
/// Unit of a file's `blocks`.
const STAT_BLOCK_BYTES: u64 = 512;

/// A file to reserve room in: the data file, or the reader table.
#[derive(Debug)]
pub(crate) struct Room {
    data: File,
    reserved_bytes: Cell<u64>,
}

impl Room {
    pub(crate) fn new(data: &Path) -> Result<Room, Error> {
        let data = File::options().write(true).open(data).map_err(|e| Error::io("open", &e))?;
        Ok(Room { data, reserved_bytes: Cell::new(0) })
    }

    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.reserved_bytes.get()
    }

    /// What the file has on its disk, as blocks.
    pub(crate) fn there_bytes(&self) -> Result<u64, Error> {
        let data = self.data.metadata().map_err(|e| Error::io(OP, &e))?;
        Ok(data.blocks().saturating_mul(STAT_BLOCK_BYTES))
    }

    pub(crate) fn disk_free_bytes(&self) -> Result<u64, Error> {
        let disk = fstatvfs(&self.data).map_err(|e| Error::code(OP, e.raw_os_error()))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    pub(crate) fn reserve(&self, bytes: u64) -> Result<(), Error> {
        let bytes = bytes.next_multiple_of(u64::from(PAGE_BYTES));
        if bytes <= self.reserved_bytes.get() {
            return Ok(());
        }
        let before = self.data.metadata().map_err(|e| Error::io(OP, &e))?;
        // Asked first: a file system may fill up its last blocks before it says no.
        let there_bytes = self.there_bytes()?;
        let file_bytes_max = getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
        let wanted_bytes = bytes.saturating_sub(there_bytes);
        if bytes > file_bytes_max || self.disk_free_bytes()? < wanted_bytes {
            return Err(Error::code(OP, libc::ENOSPC));
        }
        match self.allocate(bytes) {
            Err(e) if e.code != libc::EOPNOTSUPP => {
                self.give_back(before.len())?;
                Err(e)
            }
            _ => {
                self.reserved_bytes.set(bytes);
                Ok(())
            }
        }
    }

    /// Frees what a failed call got: all behind the end of the file. Then takes again what was
    /// there before.
    fn give_back(&self, len_bytes: u64) -> Result<(), Error> {
        self.data.set_len(len_bytes).map_err(|e| Error::io(OP, &e))?;
        let again = self.reserved_bytes.take();
        if again > 0 && self.allocate(again).is_ok() {
            self.reserved_bytes.set(again);
        }
        Ok(())
    }

    /// Keeps the file's length: that goes with its contents.
    fn allocate(&self, bytes: u64) -> Result<(), Error> {
        let bytes = i64::try_from(bytes).map_err(|_| Error::new(Kind::Invalid, OP))?;
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        loop {
            // SAFETY: alive - the descriptor is open while `self` is; until - the call returns;
            // alone - no memory is passed.
            if unsafe { libc::fallocate(self.data.as_raw_fd(), keep, 0, bytes) } == 0 {
                return Ok(());
            }
            match std::io::Error::last_os_error() {
                e if e.raw_os_error() == Some(libc::EINTR) => {}
                e => return Err(Error::io(OP, &e)),
            }
        }
    }
}
