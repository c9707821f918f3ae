//! What `weft mount` cannot see from outside: a small file for each mount, by the supervisor's process id.
//!
//! Only for people: nothing works worse without it, so a failure to write it is a line in the log. Files that killed
//! supervisors left are removed by the next mount.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the files are; `weft` reads them there.
pub(crate) const FOLDER: &str = "/run/weft-mounts";

/// The file of this process; removed when dropped.
#[derive(Debug)]
pub(crate) struct Status {
    path: PathBuf,
}

/// What it says.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) transport: &'a str,
    pub(crate) client_core: u32,
    pub(crate) resumable: bool,
    /// The memory with the operations in progress.
    pub(crate) keep: &'a OwnedFd,
}

impl Status {
    pub(crate) fn new() -> Status {
        if let Err(error) = sweep(Path::new(FOLDER)) {
            tracing::debug!(%error, "what ended mounts left in {FOLDER}");
        }
        Status { path: PathBuf::from(FOLDER).join(std::process::id().to_string()) }
    }

    /// Writes it: lines of `name=value`. The process is the supervisor.
    pub(crate) fn write(&self, facts: &Facts<'_>) {
        let Facts { transport, client_core, resumable, keep } = facts;
        let keep = keep.as_raw_fd();
        let text = format!(
            "transport={transport}\nclient_core_pid={client_core}\nresumable={resumable}\n\
             keep_fd={keep}\n"
        );
        // Whole at every moment: it is read at any time.
        let next = self.path.with_extension("next");
        let written = fs::create_dir_all(FOLDER)
            .and_then(|()| fs::write(&next, text))
            .and_then(|()| fs::rename(&next, &self.path));
        if let Err(error) = written {
            tracing::info!(path = %self.path.display(), %error, "`weft mount` will know little of this mount");
        }
    }

    /// Where the supervisor hears `weft mount upgrade`.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.with_extension("sock")
    }
}

/// Removes the files of processes that are gone.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let pid = path.file_stem().and_then(|stem| stem.to_str());
        let gone = |pid: &str| !Path::new("/proc").join(pid).exists();
        if pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && gone(pid)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

impl Drop for Status {
    fn drop(&mut self) {
        for path in [&self.path, &self.socket()] {
            if let Err(error) = fs::remove_file(path) {
                tracing::debug!(path = %path.display(), %error, "status file");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_processes_that_are_gone_are_removed_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mine = std::process::id().to_string();
        // No process has an id that large.
        for name in [&mine, "4194304", "4194304.sock", "note"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        sweep(dir.path()).unwrap();
        let left = |name: &str| dir.path().join(name).exists();
        assert!(left(&mine) && left("note") && !left("4194304") && !left("4194304.sock"));
    }
}
