//! Whether the last flush ended well: for the open after a kill.
//!
//! A flush that fails may take back what was written, and the kernel says so once. A process that is killed while a flush
//! is under way, or before it has acted on its failure, takes that with it; the next one would believe that within one
//! boot everything written is there. So a byte of a file beside the index says that a flush is under way, or failed. It
//! is in the page cache, which lives as long as the boot; after a power loss nobody asks it. A store into a mapped page
//! costs no system call.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use weft_iobuf::FileMap;

const NAME: &str = "flush";
/// Its length: a page, of which the first byte says something.
const LEN: usize = 4096;
const ENDED_WELL: u8 = 1;
const IN_DOUBT: u8 = 2;

/// See the module. Dropping it leaves it as it is, as a kill does.
#[derive(Debug)]
pub(crate) struct FlushNote {
    map: FileMap,
}

/// Whether the last flush of the target with its index in `dir` may have failed; so it may when nothing can be read.
pub(crate) fn in_doubt(dir: &Path) -> bool {
    let mut byte = [IN_DOUBT];
    let read = File::open(dir.join(NAME)).and_then(|file| file.read_exact_at(&mut byte, 0));
    read.is_err() || byte != [ENDED_WELL]
}

impl FlushNote {
    /// Maps the note in `dir`, which is made if need be.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn open(dir: &Path) -> io::Result<FlushNote> {
        let path = dir.join(NAME);
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
        if file.metadata()?.len() < weft_wire::units::to_u64(LEN) {
            // Written, not lengthened: a store into a hole may find the disk full.
            file.set_len(0)?;
            file.write_all(&[0; LEN])?;
        }
        Ok(FlushNote { map: FileMap::new(&file, 0, LEN)? })
    }

    /// A flush begins: from now on the next open must not trust this boot.
    ///
    /// # Errors
    /// The note cannot be kept: nothing may be flushed.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        Ok(self.map.store(0, &[IN_DOUBT])?)
    }

    /// It ended well. When that cannot be kept the next open is told of a loss that was none.
    pub(crate) fn ended_well(&mut self) {
        self.map.store(0, &[ENDED_WELL]).unwrap_or_default();
    }
}
