//! The metadata volume of a node: its database, its log, and a note of whose it is.
//!
//! The note (`state_dir/cluster`) is written last, so a folder without it was never finished; and it lets the volume's
//! cluster be told without opening, and so recovering, the database.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use weft_metadata::{FormatParams, Kind, OpenReport, Volume, VolumeParams};
use weft_server_core::config::Config;
use weft_wire::{ClusterId, TargetId};

use super::{chain, failed, make_dir, sync_dir};
use crate::clock;
use crate::error::AdminError;

/// What the state folder holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum VolumeContent {
    /// No volume.
    Missing,
    /// A whole volume of this cluster.
    Volume(ClusterId),
    /// Something else; what, in words.
    Other(String),
}

impl VolumeContent {
    /// In words, for "it holds ...".
    pub(crate) fn describe(&self) -> String {
        match self {
            VolumeContent::Missing => "no metadata volume".to_owned(),
            VolumeContent::Volume(cluster) => format!("the metadata volume of cluster {cluster}"),
            VolumeContent::Other(what) => what.clone(),
        }
    }
}

fn note_path(config: &Config) -> PathBuf {
    config.state_dir.join("cluster")
}

/// What the config's state folder holds. Changes nothing.
///
/// # Errors
/// It cannot be read.
pub(crate) fn survey_volume(config: &Config) -> Result<VolumeContent, AdminError> {
    let dir = config.volume_dir();
    let note = match std::fs::read_to_string(note_path(config)) {
        Ok(text) => text.trim().parse::<ClusterId>().ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("read", &note_path(config), error)),
    };
    match std::fs::read_dir(&dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => return Ok(VolumeContent::Missing),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(VolumeContent::Missing),
        Err(error) => return Err(failed("read", &dir, error)),
    }
    let log_bytes = std::fs::metadata(config.volume_log()).map_or(0, |log| log.len());
    Ok(match note {
        None => VolumeContent::Other("a metadata volume that was not finished".to_owned()),
        Some(_) if log_bytes == 0 => VolumeContent::Other(
            "a metadata volume without its log: restore the file `log`".to_owned(),
        ),
        Some(cluster) => VolumeContent::Volume(cluster),
    })
}

/// Makes the metadata volume, in the place of one that is there. The caller holds the lock of the state folder.
///
/// # Errors
/// No space, no permission, or something in the folder that is not a volume's.
pub(crate) fn format_volume(config: &Config) -> Result<(), AdminError> {
    let dir = config.volume_dir();
    make_dir(&dir)?;
    remove_volume(config)?;
    let mut seed = [0u8; 24];
    seed[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    seed[16..].copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[..8]);
    let mut params = FormatParams::new(config.cluster, clock::wall(), seed);
    params.root_uid = rustix::process::geteuid().as_raw();
    params.root_gid = rustix::process::getegid().as_raw();
    Volume::format(&dir, &params).map_err(|error| meta_error("format", config, &error))?;
    let log_bytes =
        Volume::log_plan(&dir).map_err(|error| meta_error("measure", config, &error))?;
    write_log(config, log_bytes).map_err(|error| failed("write", &config.volume_log(), error))?;
    sync_dir(&dir)?;
    let note = note_path(config);
    File::create(&note)
        .and_then(|mut file| writeln!(file, "{}", config.cluster).and_then(|()| file.sync_all()))
        .map_err(|error| failed("write", &note, error))?;
    sync_dir(&config.state_dir)
}

/// Zeros that are written, not only promised: a log write then changes no metadata of the file system below.
fn write_log(config: &Config, bytes: u64) -> io::Result<()> {
    let file =
        File::options().write(true).create_new(true).mode(0o600).open(config.volume_log())?;
    let copied = io::copy(
        &mut io::Read::take(io::repeat(0), bytes),
        &mut io::BufWriter::with_capacity(1 << 20, &file),
    )?;
    if copied != bytes {
        return Err(io::ErrorKind::WriteZero.into());
    }
    file.sync_all()
}

/// Removes a volume's files, the note first; refuses a folder that has anything else in it.
///
/// # Errors
/// The folder is not there, or has something else in it, or a file cannot be removed.
pub(crate) fn remove_volume(config: &Config) -> Result<(), AdminError> {
    const NAMES: [&str; 2] = ["index", "log"];
    let dir = config.volume_dir();
    let entries = std::fs::read_dir(&dir).map_err(|error| failed("read", &dir, error))?;
    let mut old = vec![];
    for entry in entries {
        let path = entry.map_err(|error| failed("read", &dir, error))?.path();
        if !NAMES.iter().any(|name| path.file_name().is_some_and(|n| n == *name)) {
            let next = "move it away, or name another state_dir";
            let what = format!("make way for a volume in {}", dir.display());
            return Err(AdminError::new(
                what,
                format!("{} is not a volume's", path.display()),
                next,
            ));
        }
        old.push(path);
    }
    for path in std::iter::once(note_path(config)).chain(old) {
        let removed = match path.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path, error));
            }
            _ => {}
        }
    }
    sync_dir(&dir)
}

/// Opens the volume as a server would: the log is replayed, and a checkpoint ends it.
///
/// # Errors
/// There is none, it is damaged, or a server has it open.
pub(crate) fn open_volume(
    config: &Config,
    targets: Vec<TargetId>,
) -> Result<(Volume, OpenReport), AdminError> {
    let mut log = File::open(config.volume_log())
        .map_err(|error| failed("open", &config.volume_log(), error))?;
    Volume::open(&config.volume_dir(), &VolumeParams::new(config.cluster, targets), &mut log)
        .map_err(|error| meta_error("open", config, &error))
}

fn meta_error(verb: &str, config: &Config, error: &weft_metadata::MetaError) -> AdminError {
    let next = match error.kind {
        Kind::WrongCluster => "is this the right config?",
        Kind::NotFound => "`weft fs create` makes one",
        _ => "",
    };
    let what = format!("{verb} the metadata volume {}", config.volume_dir().display());
    AdminError::new(what, chain(error), next)
}
