//! Taking the state folder: one process at a time, and none before a killed server's rings are through.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::Config;

/// Tries to get a lock whose last owner is gone: 30 seconds in all.
const LOCK_TRIES: u32 = 1500;
/// Pause between them.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why the state folder could not be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockError {
    /// The lock's file cannot be opened or written.
    Io(io::ErrorKind),
    /// A process that lives has it.
    InUse {
        /// Its number.
        pid: u32,
    },
    /// A process that ended has it, and its last writes do not come to an end.
    Lingers,
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Io(kind) => write!(f, "its lock cannot be used: {kind}"),
            LockError::InUse { pid } => {
                write!(f, "in use by process {pid}: a weft-server, or a `weft` command")
            }
            LockError::Lingers => f.write_str(
                "still in use by a process that ended: its last writes do not come to an end; does the disk answer? \
                 See `dmesg`",
            ),
        }
    }
}

impl std::error::Error for LockError {}

impl Config {
    /// Takes the state folder for this process, until the file is dropped.
    ///
    /// Each ring of a server holds a duplicate of the file, so the lock outlives a killed process by exactly as long as
    /// its rings may still carry out what they had begun: whoever comes next waits for that before it looks at a
    /// target. Seen: 10 to 100 ms after `kill -9` under load.
    ///
    /// # Errors
    /// A living process has it, its disk does not answer, or the file cannot be made.
    pub fn lock_state(&self) -> Result<File, LockError> {
        let failed = |error: io::Error| LockError::Io(error.kind());
        let path = self.lock_file();
        let mut options = File::options();
        let file = options.create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(failed)?;
        for _ in 0..LOCK_TRIES {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let pid = std::process::id().to_string();
                    file.set_len(0)
                        .and_then(|()| file.write_all_at(pid.as_bytes(), 0))
                        .map_err(failed)?;
                    return Ok(file);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
            if let Some(pid) = living_holder(&path) {
                return Err(LockError::InUse { pid });
            }
            std::thread::park_timeout(LOCK_PAUSE);
        }
        Err(LockError::Lingers)
    }
}

/// Who wrote its number into the lock's file, if it lives.
fn living_holder(path: &Path) -> Option<u32> {
    let pid: u32 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Path::new("/proc").join(pid.to_string()).exists().then_some(pid)
}
