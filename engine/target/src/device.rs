//! A device or file used by blocking calls: opening, inspection, formatting.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, FlockOperation, OFlags, fadvise, flock};
use weft_store::Device;

use crate::error::{Kind, TargetError};

/// A target's device for [`weft_store::Store::open`], held by a shared lock for as long as it lives.
#[derive(Debug)]
pub struct BlockingDevice {
    file: File,
    len_bytes: u64,
}

impl BlockingDevice {
    /// Opens and locks it, and sees to it that reads meet the device and not an old page.
    ///
    /// # Errors
    /// `Device`, `InUse`.
    pub fn open(path: &Path) -> Result<BlockingDevice, TargetError> {
        let wrong = |error: io::Error| TargetError::because(Kind::Device, "open", path, error);
        let mut file = open_device(path, OFlags::empty()).map_err(wrong)?;
        flock(&file, FlockOperation::NonBlockingLockShared)
            .map_err(|_| TargetError::new(Kind::InUse, "lock", path))?;
        drop_clean_pages(&file).map_err(wrong)?;
        // A block device's length is where its end is, not what stat says.
        let len_bytes = io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(wrong)?;
        Ok(BlockingDevice { file, len_bytes })
    }
}

impl Device for BlockingDevice {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}

/// Whether this is a block device that says it can discard.
#[must_use]
pub fn can_discard(path: &Path) -> bool {
    let Ok(metadata) = std::fs::metadata(path) else { return false };
    if !metadata.file_type().is_block_device() {
        return false;
    }
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let device = format!("/sys/dev/block/{major}:{minor}");
    // A partition has its disk's queue.
    ["queue", "../queue"].iter().any(|queue| {
        let limit = format!("{device}/{queue}/discard_max_bytes");
        let text = std::fs::read_to_string(limit).unwrap_or_default();
        text.trim().parse::<u64>().is_ok_and(|bytes| bytes > 0)
    })
}

/// Lets go of what the page cache holds of it, dirty pages apart: those, the journal's, are the truth
/// and stay.
///
/// What went to a block device as NVMe commands passed the cache by, so an old page would lie. And a
/// direct write to a range with pages is handed to a worker thread of the ring, and a small append
/// into a large folio that read-ahead made walks all of it.
pub(crate) fn drop_clean_pages(file: &File) -> io::Result<()> {
    fadvise(file, 0, None, Advice::DontNeed).map_err(io::Error::from)
}

/// Opens a device or file to read and write.
///
/// # Errors
/// The kernel's.
pub fn open_device(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = i32::try_from(flags.bits()).expect("open flags are below 2^31");
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}
