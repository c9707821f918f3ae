//! Targets and the metadata volume on disk: what is there, and making new ones. Only for what no server has open:
//! whoever formats holds the lock of the state folder and of each target.

mod target;
mod volume;

use std::fs::File;
use std::path::Path;

use weft_server_core::config::{Config, LockError};

use crate::error::AdminError;

pub(crate) use target::{
    Content, TargetOrder, drop_index, format_target, inspect_file, survey_target, take_device,
};
pub(crate) use volume::{VolumeContent, format_volume, open_volume, remove_volume, survey_volume};

/// Permission bits of the folders with state: it holds every name of the file system.
const STATE_DIR_MODE: u32 = 0o700;

/// Makes the state folder, when it is not there, and takes it for this process until the file is dropped.
///
/// # Errors
/// It cannot be made, or a server or another command has it.
pub(crate) fn take_state_dir(config: &Config) -> Result<File, AdminError> {
    let dir = &config.state_dir;
    make_dir(dir)?;
    if let Some(parent) = dir.parent() {
        sync_dir(parent)?;
    }
    config.lock_state().map_err(|error| {
        let next = match error {
            LockError::InUse { .. } => "stop it first: systemctl stop weft-server",
            LockError::Lingers | LockError::Io(_) => "see `dmesg` for what the disk says",
        };
        AdminError::new(format!("take {}", dir.display()), error, next)
    })
}

/// Makes a folder and what is missing above it.
fn make_dir(dir: &Path) -> Result<(), AdminError> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(STATE_DIR_MODE);
    builder.create(dir).map_err(|error| failed("make the folder", dir, error))
}

/// Makes the names in a folder durable.
fn sync_dir(dir: &Path) -> Result<(), AdminError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| failed("sync", dir, error))
}

fn failed(verb: &str, path: &Path, error: impl std::fmt::Display) -> AdminError {
    AdminError::new(format!("{verb} {}", path.display()), error, "")
}

/// An error and everything below it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
