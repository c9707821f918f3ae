//! Making a target of a device or file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use weft_store::{FormatParams, Store, Superblock};

use crate::error::{Kind, TargetError};

const ZEROS_STEP_BYTES: u64 = 1 << 20;

/// Formats `device`, whatever it holds, and makes its empty index in `index_dir`, whose parent
/// exists. The superblock comes last: until then, and after a failure, it is no target. `path` is
/// for messages. The caller holds the device for itself, and syncs the folders above the index.
///
/// # Errors
/// `Device`, `Store`.
pub fn format(
    device: &File,
    path: &Path,
    params: &FormatParams,
    index_dir: &Path,
) -> Result<Superblock, TargetError> {
    let refused = |op, error| TargetError::because(Kind::Store, op, path, error);
    let failed = |op, error: io::Error| TargetError::because(Kind::Device, op, path, error);
    let plan =
        weft_store::format_plan(params).map_err(|error| refused("plan the areas of", error))?;
    for (offset, bytes) in &plan.zeros {
        write_zeros(device, *offset, *bytes).map_err(|error| failed("write zeros to", error))?;
    }
    device.sync_all().map_err(|error| failed("sync", error))?;
    Store::create_index(index_dir, &plan.superblock)
        .map_err(|error| refused("make the index of", error))?;
    let synced = File::open(index_dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| TargetError::because(Kind::Device, "sync", index_dir, error))?;
    for (offset, bytes) in &plan.writes {
        let written = device.write_all_at(bytes, *offset).and_then(|()| device.sync_data());
        written.map_err(|error| failed("write the superblock to", error))?;
    }
    Ok(plan.superblock)
}

fn write_zeros(device: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let step_bytes = ZEROS_STEP_BYTES.min(bytes);
    let zeros = vec![0u8; usize::try_from(step_bytes).expect("at most a MiB")];
    let end = offset + bytes;
    let mut at = offset;
    while at < end {
        let step = usize::try_from(step_bytes.min(end - at)).expect("at most a MiB");
        device.write_all_at(&zeros[..step], at)?;
        at += step_bytes;
    }
    Ok(())
}
