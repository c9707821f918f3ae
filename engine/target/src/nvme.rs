//! What the kernel says about a block device: can it be polled, and is it an NVMe namespace that
//! takes commands of one's own?
//!
//! Everything is read from sysfs. The answer is a candidate only: the caller tries a read.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use weft_ring::Namespace;

/// A block device in sysfs.
#[derive(Debug)]
pub(crate) struct BlockDevice {
    /// Its folder: `/sys/devices/../block/nvme0n1`.
    dir: PathBuf,
    is_partition: bool,
}

/// How to send commands to a namespace.
#[derive(Debug)]
pub(crate) struct Passage {
    /// The character device: `/dev/ng0n1`.
    pub(crate) path: PathBuf,
    pub(crate) namespace: Namespace,
}

impl BlockDevice {
    /// `None` for a plain file, or without sysfs.
    pub(crate) fn of(path: &Path) -> Option<BlockDevice> {
        let metadata = fs::metadata(path).ok()?;
        if !metadata.file_type().is_block_device() {
            return None;
        }
        let number = metadata.rdev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let dir = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        let is_partition = dir.join("partition").exists();
        Some(BlockDevice { dir, is_partition })
    }

    /// Whether the device has queues for polling, and how much one polled read or write may
    /// transfer so that the block layer need not split it (see [`weft_ring::Ring::register_in_parts`]);
    /// or what to do to get them.
    pub(crate) fn polling(&self) -> Result<u32, String> {
        if self.queue_number("io_poll") != Some(1) {
            return Err(
                "it has no queues for polling (for NVMe: load the module with nvme.poll_queues=N)"
                    .to_owned(),
            );
        }
        // Not where an I/O is split by its place, whatever its length.
        if self.queue_number("chunk_sectors").unwrap_or(0) > 0 {
            return Err("the block layer splits its I/O at boundaries of the device".to_owned());
        }
        let most = self.transfer_bytes("max_sectors_kb").unwrap_or(0);
        if most == 0 {
            return Err("sysfs does not tell its longest transfer".to_owned());
        }
        Ok(most)
    }

    /// The longest transfer by the limit of that name, in whole blocks of ours.
    fn transfer_bytes(&self, limit_kib: &str) -> Option<u32> {
        let most_kib = self.queue_number(limit_kib)?;
        let segments = self.queue_number("max_segments")?;
        // A page each: the kernel does not promise to join the pages of a huge one.
        let most = most_kib.saturating_mul(1024).min(segments.saturating_mul(4096));
        Some(most / 4096 * 4096)
    }

    /// The way for commands of one's own, or why there is none.
    pub(crate) fn passage(&self) -> Result<Passage, String> {
        let name = self.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(rest) = name.strip_prefix("nvme") else {
            return Err("it is not an NVMe namespace".to_owned());
        };
        if self.is_partition {
            return Err("it is a partition; commands address the whole namespace".to_owned());
        }
        let path = Path::new("/dev").join(format!("ng{rest}"));
        if !path.exists() {
            return Err(format!("there is no {}", path.display()));
        }
        let number = |what: &'static str| move || format!("sysfs does not tell its {what}");
        let id = read_number(&self.dir.join("nsid")).ok_or_else(number("namespace id"))?;
        let block_bytes =
            self.queue_number("logical_block_size").ok_or_else(number("block length"))?;
        let transfer_bytes =
            self.transfer_bytes("max_hw_sectors_kb").ok_or_else(number("longest transfer"))?;
        let namespace = Namespace::new(id, block_bytes, transfer_bytes)
            .ok_or_else(|| format!("blocks of {block_bytes} bytes do not fit ours"))?;
        Ok(Passage { path, namespace })
    }

    fn queue_number(&self, name: &str) -> Option<u32> {
        let whole = if self.is_partition { self.dir.parent()? } else { &self.dir };
        read_number(&whole.join("queue").join(name))
    }
}

fn read_number(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
