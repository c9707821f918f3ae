//! What `weft mount list` cannot see from outside: a small file for each mount, by the process's id.
//!
//! Only for people: nothing works worse without it, so a failure to write it is a line in the log. A file that a
//! killed client left is of no harm: its process id is not among the clients, or a new one has written its own.

use std::fs;
use std::path::PathBuf;

/// Where the files are; `weft` reads them there.
const FOLDER: &str = "/run/weft-mounts";

/// The file of this process; removed when dropped.
#[derive(Debug)]
pub(crate) struct Status {
    path: PathBuf,
}

impl Status {
    /// Writes it: lines of `name=value`. The process is the supervisor.
    pub(crate) fn write(transport: &str, client_core: u32, resumable: bool) -> Status {
        let path = PathBuf::from(FOLDER).join(std::process::id().to_string());
        let text = format!(
            "transport={transport}\nclient_core_pid={client_core}\nresumable={resumable}\n"
        );
        let written = fs::create_dir_all(FOLDER).and_then(|()| fs::write(&path, text));
        if let Err(error) = written {
            tracing::info!(path = %path.display(), %error, "`weft mount list` will not know the transport");
        }
        Status { path }
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "status file");
        }
    }
}
