//! One target: a block device or a preallocated file.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock};
use weft_server_core::config::Config;
use weft_store::{Copies, Device, FormatParams, Kind, Store, Superblock, TargetUuid};
use weft_wire::TargetId;

use super::{chain, failed, make_dir, sync_dir};
use crate::error::AdminError;
use crate::signature::{self, HEAD_BYTES, TAIL_BYTES};
use crate::units::human_bytes;

/// Tries to get the lock of a target, once the state folder is ours: a second in all.
const LOCK_TRIES: u32 = 50;
/// Pause between them.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What a device or file holds.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// There is no such file.
    Missing,
    /// Nothing, as far as can be seen.
    Blank { bytes: u64 },
    /// A target.
    Target { superblock: Superblock, copies: Copies },
    /// Something else; what, in words.
    Other(String),
}

impl Content {
    /// In words, for "it holds ...".
    pub(crate) fn describe(&self) -> String {
        match self {
            Content::Missing => "nothing (there is no such file)".to_owned(),
            Content::Blank { bytes } => format!("nothing ({})", human_bytes(*bytes)),
            Content::Target { superblock, .. } => {
                format!("target {} of cluster {}", superblock.target_id, superblock.cluster)
            }
            Content::Other(what) => what.clone(),
        }
    }

    /// Whether formatting it loses nothing.
    pub(crate) fn is_free(&self) -> bool {
        matches!(self, Content::Missing | Content::Blank { .. })
    }
}

/// A device or file opened for blocking reads.
pub(crate) struct OpenFile {
    file: File,
    bytes: u64,
}

impl OpenFile {
    pub(super) fn new(mut file: File) -> io::Result<OpenFile> {
        // A block device's length is where its end is, not what stat says.
        let bytes = file.seek(SeekFrom::End(0))?;
        Ok(OpenFile { file, bytes })
    }

    fn part(&self, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
        let mut part = vec![0u8; usize::try_from(bytes).expect("head or tail of a device")];
        self.file.read_exact_at(&mut part, offset)?;
        Ok(part)
    }
}

impl Device for OpenFile {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len_bytes(&self) -> u64 {
        self.bytes
    }
}

/// What `path` holds. Opens it for reading only.
///
/// # Errors
/// It cannot be read, or is neither a file nor a block device.
pub(crate) fn survey_target(path: &Path) -> Result<Content, AdminError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::Missing),
        Err(error) => return Err(failed("look at", path, error)),
    };
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        let next = "name a block device, or a file that does not exist yet";
        let why = "it is neither a file nor a block device";
        return Err(AdminError::new(format!("look at {}", path.display()), why, next));
    }
    let open = File::open(path).and_then(OpenFile::new);
    let mut device = open.map_err(|error| failed("open", path, error))?;
    let told = match weft_store::inspect_copies(&mut device) {
        Ok((superblock, copies)) => {
            return settle(&device, superblock, copies)
                .map_err(|error| failed("read", path, error));
        }
        Err(error) if error.kind == Kind::Foreign => None,
        Err(error) if error.kind == Kind::Overwritten => {
            let other = foreign(&device).map_err(|error| failed("read", path, error))?;
            let other = other.unwrap_or_else(|| "something".to_owned());
            Some(format!("{other}, made over a Weft target"))
        }
        Err(error) if error.kind == Kind::Device => {
            return Err(failed("read", path, chain(&error)));
        }
        Err(error) => Some(format!("a Weft target that cannot be used ({})", chain(&error))),
    };
    let foreign = match told {
        Some(told) => Some(told),
        None => foreign(&device).map_err(|error| failed("read", path, error))?,
    };
    Ok(foreign.map_or(Content::Blank { bytes: device.bytes }, Content::Other))
}

/// A device whose first superblock is gone may have been given to somebody else since.
fn settle(device: &OpenFile, superblock: Superblock, copies: Copies) -> io::Result<Content> {
    let ours = Content::Target { superblock, copies };
    if copies != Copies::OnlySecond {
        return Ok(ours);
    }
    let head_bytes = u64::try_from(HEAD_BYTES).expect("small").min(device.bytes);
    let name = signature::recognise(&device.part(0, head_bytes)?, &[]);
    Ok(name.map_or(ours, |name| {
        Content::Other(format!("{name}, made over target {}", superblock.target_id))
    }))
}

/// What is there that is not ours; `None` for zeros.
fn foreign(device: &OpenFile) -> io::Result<Option<String>> {
    let head_bytes = u64::try_from(HEAD_BYTES).expect("small").min(device.bytes);
    let tail_bytes = u64::try_from(TAIL_BYTES).expect("small").min(device.bytes);
    let head = device.part(0, head_bytes)?;
    let tail = device.part(device.bytes - tail_bytes, tail_bytes)?;
    if let Some(name) = signature::recognise(&head, &tail) {
        return Ok(Some(name.to_owned()));
    }
    let used = head.iter().chain(&tail).any(|byte| *byte != 0);
    Ok(used.then(|| {
        format!(
            "data of an unknown kind (its first or last bytes are not zero, {})",
            human_bytes(device.bytes)
        )
    }))
}

/// A target's superblock, or why it has none.
///
/// # Errors
/// There is none that can be used.
pub(crate) fn inspect_file(path: &Path) -> Result<(Superblock, Copies), AdminError> {
    match survey_target(path)? {
        Content::Target { superblock, copies } => Ok((superblock, copies)),
        other => {
            let what = format!("read the superblock of {}", path.display());
            let why = format!("it is not a Weft target: it holds {}", other.describe());
            Err(AdminError::new(what, why, "`weft target format` makes one"))
        }
    }
}

/// Opens a target for reading, for this process alone, and forgets what the page cache has of it: what is read is what
/// the device gives.
///
/// # Errors
/// It cannot be opened, or somebody has it.
pub(crate) fn take_device(path: &Path) -> Result<OpenFile, AdminError> {
    let file = File::open(path).map_err(|error| failed("open", path, error))?;
    lock(&file, path)?;
    let dropped = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    dropped.map_err(|error| failed("read", path, io::Error::from(error)))?;
    OpenFile::new(file).map_err(|error| failed("measure", path, error))
}

/// Takes a target for this process. The rings of a killed server let its state folder and its targets go in no order, so
/// whoever just got the state folder may be a moment early.
fn lock(file: &File, path: &Path) -> Result<(), AdminError> {
    for _ in 0..LOCK_TRIES {
        if flock(file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(());
        }
        std::thread::park_timeout(LOCK_PAUSE);
    }
    let next = "stop it first: systemctl stop weft-server";
    Err(AdminError::new(format!("take {}", path.display()), "a server is using it", next))
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TargetOrder<'a> {
    /// Whose.
    pub(crate) config: &'a Config,
    /// The device or file.
    pub(crate) path: &'a Path,
    /// Its id.
    pub(crate) id: TargetId,
    /// Length of a file that is empty or not there.
    pub(crate) file_bytes: u64,
}

/// Formats a target whatever it holds; the caller has asked [`survey_target`] first. The caller holds the lock of the
/// state folder.
///
/// # Errors
/// In use, too small, no space, no permission, or the device fails. Then it is no target: the superblock comes last.
pub(crate) fn format_target(order: &TargetOrder<'_>) -> Result<Superblock, AdminError> {
    let path = order.path;
    let old = survey_target(path)?;
    let device = open_for_format(path)?;
    let capacity_bytes = preallocate(&device, order)?;
    let target_uuid = TargetUuid(uuid::Uuid::new_v4().into_bytes());
    let params = FormatParams {
        cluster: order.config.cluster,
        target_uuid,
        target_id: order.id,
        capacity_bytes,
    };
    let plan = weft_store::format_plan(&params).map_err(|error| store_error(order, &error))?;
    for (offset, bytes) in &plan.zeros {
        write_zeros(&device, *offset, *bytes)
            .map_err(|error| failed("write zeros to", path, error))?;
    }
    device.sync_all().map_err(|error| failed("sync", path, error))?;
    let index_dir = order.config.index_dir(target_uuid.0);
    make_dir(&index_dir)?;
    Store::create_index(&index_dir, &plan.superblock)
        .map_err(|error| store_error(order, &error))?;
    sync_dir(&index_dir)?;
    sync_dir(&order.config.state_dir.join("targets"))?;
    sync_dir(&order.config.state_dir)?;
    for (offset, bytes) in &plan.writes {
        let written = device.write_all_at(bytes, *offset).and_then(|()| device.sync_data());
        written.map_err(|error| failed("write the superblock to", path, error))?;
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        sync_dir(parent)?;
    }
    if let Content::Target { superblock: old, .. } = old {
        drop_index(order.config, old.target_uuid)?;
    }
    Ok(plan.superblock)
}

/// Removes the index of a target that is no more. Its folder has the target's own name: nothing else can be in it.
///
/// # Errors
/// It is there and cannot be removed.
pub(crate) fn drop_index(config: &Config, target_uuid: TargetUuid) -> Result<(), AdminError> {
    let dir = config.index_dir(target_uuid.0);
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &dir, error)),
        _ => Ok(()),
    }
}

fn store_error(order: &TargetOrder<'_>, error: &weft_store::StoreError) -> AdminError {
    let next = match error.kind {
        Kind::TooSmall => {
            "a target has at least 8 MiB; give it more with --target-bytes or --bytes"
        }
        _ => "",
    };
    AdminError::new(format!("format {}", order.path.display()), chain(error), next)
}

/// Opens the device for this process alone, making the file and its folder when they are not there.
fn open_for_format(path: &Path) -> Result<File, AdminError> {
    let is_device = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device());
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    if is_device {
        // The kernel refuses a block device that is mounted, or part of a RAID or LVM.
        options.custom_flags(i32::try_from(OFlags::EXCL.bits()).expect("a small flag"));
    } else {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            make_dir(parent)?;
        }
        options.create(true).truncate(false);
    }
    let file = options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => {
            let why = "the device is in use: mounted, or part of a RAID or LVM";
            let next = "lsblk shows by what; unmount it, or name another device";
            AdminError::new(format!("open {}", path.display()), why, next)
        }
        _ => failed("open", path, error),
    })?;
    lock(&file, path)?;
    Ok(file)
}

/// Gives a plain file all its blocks. Returns the length of the target.
fn preallocate(device: &File, order: &TargetOrder<'_>) -> Result<u64, AdminError> {
    let path = order.path;
    let mut end = device;
    let bytes_now = end.seek(SeekFrom::End(0)).map_err(|error| failed("measure", path, error))?;
    let metadata = device.metadata().map_err(|error| failed("look at", path, error))?;
    if !metadata.is_file() {
        return Ok(bytes_now);
    }
    let bytes = if bytes_now == 0 { order.file_bytes } else { bytes_now };
    if bytes == 0 {
        return Err(AdminError::new(
            format!("preallocate {}", path.display()),
            "a target of 0 bytes holds nothing",
            "give it more with --target-bytes or --bytes",
        ));
    }
    fallocate(device, FallocateFlags::empty(), 0, bytes).map_err(|error| {
        let next = match error {
            rustix::io::Errno::NOSPC => {
                "give it less with --target-bytes or --bytes, or free space"
            }
            rustix::io::Errno::OPNOTSUPP => {
                "put it on a file system that preallocates: ext4, XFS, btrfs"
            }
            _ => "",
        };
        let what = format!("give {} to {}", human_bytes(bytes), path.display());
        AdminError::new(what, io::Error::from(error), next)
    })?;
    Ok(bytes)
}

fn write_zeros(device: &File, offset: u64, bytes: u64) -> io::Result<()> {
    const STEP_BYTES: u64 = 1 << 20;
    let zeros = vec![0u8; usize::try_from(STEP_BYTES.min(bytes)).expect("at most a MiB")];
    let mut at = offset;
    let end = offset + bytes;
    while at < end {
        let step = STEP_BYTES.min(end - at);
        device.write_all_at(&zeros[..usize::try_from(step).expect("at most a MiB")], at)?;
        at += step;
    }
    Ok(())
}
