//! `weft mount upgrade`: has a mount served by another program from now on.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::error::AdminError;
use crate::mounts;
use crate::output::Report;

/// Longer than a supervisor waits for both programs together.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(mount_point: &Path, program: Option<&Path>) -> Result<Report, AdminError> {
    let what = || format!("upgrade the mount at {}", mount_point.display());
    let mount = mounts::at(mount_point)?;
    let supervisor = mounts::client(&mount).supervisor.ok_or_else(|| {
        let next = "unmount it, and mount it again";
        AdminError::new(what(), "its supervisor is not there", next)
    })?;
    let program = match program {
        Some(path) => path.to_owned(),
        None => program_of(supervisor).map_err(|error| {
            AdminError::new(what(), error, "name the new program with --program")
        })?,
    };
    let program = program.canonicalize().map_err(|error| {
        let next = "name a program that is there with --program";
        AdminError::new(format!("the new program {}", program.display()), error, next)
    })?;
    let answer = ask(supervisor, &program).map_err(|error| {
        AdminError::new(what(), error, "run it as root; is the mount an old one?")
    })?;
    match answer.trim_end().split_once(' ') {
        Some(("ok", pid)) => Ok(Report::done(
            format!("{} serves {} now (pid {pid})\n", program.display(), mount_point.display()),
            json!({
                "mount_point": mount_point.to_string_lossy(),
                "program": program.to_string_lossy(),
                "client_core_pid": pid.parse::<u32>().ok(),
            }),
        )),
        Some(("error", reason)) => {
            let next = "the mount works on as before";
            Err(AdminError::new(what(), reason, next))
        }
        _ => Err(AdminError::new(what(), "the supervisor ended without an answer", "see its log")),
    }
}

/// What is now at the path from which the supervisor was started.
fn program_of(supervisor: u32) -> std::io::Result<PathBuf> {
    let path = std::fs::read_link(format!("/proc/{supervisor}/exe"))?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

fn ask(supervisor: u32, program: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(mounts::supervisor_socket(supervisor))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("upgrade {}\n", program.display()).as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
