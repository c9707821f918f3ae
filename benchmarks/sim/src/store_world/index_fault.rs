//! Pages of the index that cannot be read for a while: LMDB finds them damaged, and later it does not.
//!
//! The index lies in a real file, which LMDB maps and checks at every read, so the file is changed under it and put back.
//! A page that was written anew meanwhile is left as it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::World;
use crate::random::Random;

const PAGE_LEN: usize = 4096;
const PAGE_BYTES: u64 = 4096;
/// Pages that name the last commit. Where they are damaged nothing opens, which others test.
const META_PAGES: u64 = 2;
/// The byte of a page that is changed.
const CHANGED: usize = 77;

impl World {
    /// The index cannot be read for some operations, in seeds that have this.
    pub(super) fn shake_index(&mut self) {
        let Some(random) = &mut self.unread else { return };
        if self.index_fault.is_some() {
            if random.chance(40) {
                self.mend_index();
            }
        } else if random.chance(8) {
            self.rig.telling.event(self.rig.now, || "the index cannot be read".into());
            self.index_fault = Some(IndexFault::begin(&self.rig.index_dir(), random));
            self.index_failed = true;
            self.rig.disk.counts.errors += 1;
        }
    }

    /// It can be read again.
    pub(super) fn mend_index(&mut self) {
        if let Some(fault) = self.index_fault.take() {
            self.rig.telling.event(self.rig.now, || "the index can be read".into());
            fault.end();
        }
    }
}

/// What cannot be read now.
#[derive(Debug)]
pub(super) struct IndexFault {
    file: File,
    /// Pages as they are now, by number.
    damaged: Vec<(u64, [u8; PAGE_LEN])>,
}

impl IndexFault {
    /// Some page, or all of them, cannot be read from now on.
    fn begin(index_dir: &Path, random: &mut Random) -> IndexFault {
        let file = File::options().read(true).write(true).open(index_dir.join("data.mdb"));
        let file = file.expect("an index has this file");
        let len_bytes = file.metadata().expect("an open file has a length").len();
        let end = len_bytes / PAGE_BYTES;
        let pages = if random.chance(50) {
            META_PAGES..end
        } else {
            let page = META_PAGES + random.below(end - META_PAGES);
            page..page + 1
        };
        let mut damaged = Vec::new();
        for page in pages {
            let mut bytes = read(&file, page).expect("it is within the file");
            bytes[CHANGED] ^= 0xff;
            write(&file, page, &bytes).expect("there is room for it");
            damaged.push((page, bytes));
        }
        IndexFault { file, damaged }
    }

    /// They can be read again.
    fn end(self) {
        for (page, mut bytes) in self.damaged {
            if read(&self.file, page).expect("it is within the file") == bytes {
                bytes[CHANGED] ^= 0xff;
                write(&self.file, page, &bytes).expect("there is room for it");
            }
        }
    }
}

fn read(file: &File, page: u64) -> io::Result<[u8; PAGE_LEN]> {
    let mut bytes = [0; PAGE_LEN];
    file.read_exact_at(&mut bytes, page * PAGE_BYTES)?;
    Ok(bytes)
}

fn write(file: &File, page: u64, bytes: &[u8; PAGE_LEN]) -> io::Result<()> {
    file.write_all_at(bytes, page * PAGE_BYTES)
}
