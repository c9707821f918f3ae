//! Into the background: the command returns 0 only once the mount serves.
//!
//! Not by fork(2), which needs unsafe code and a process without threads, but by starting this
//! program again with [`DAEMON_CHILD_ARG`](crate::options::DAEMON_CHILD_ARG) in front of the same
//! arguments. The child's standard output is a pipe to the parent, and carries one message:
//! [`Handshake::ready`] or [`Handshake::failed`]. A child that dies closes the pipe, which the
//! parent reports, too. Until it is ready the child stays in the parent's process group and keeps
//! its standard error, so that Ctrl-C and panics reach whom they should.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::options::DAEMON_CHILD_ARG;

const READY: &[u8] = b"ready\n";
const FAILED_PREFIX: &[u8] = b"failed ";
/// The longest message: a pipe takes 4096 bytes at once or not at all.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Why the child does not serve.
#[derive(Debug, thiserror::Error)]
pub enum BackgroundError {
    /// It said so, in these words.
    #[error("{0}")]
    Reported(String),
    /// It ended without a word.
    #[error("the client in the background died before the mount was up ({0})")]
    Died(String),
    /// It said nothing for this long, and was killed.
    #[error("the mount was not up after {} s; the client was stopped", .0.as_secs())]
    TimedOut(Duration),
    /// It could not be started or watched.
    #[error("cannot {op} the client in the background: {source}")]
    System {
        /// What was tried.
        op: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// The command that starts this program again, to serve in the background with `args` (those after
/// the program's name).
pub fn child_command(program_name: &OsString, args: impl IntoIterator<Item = OsString>) -> Command {
    // Not the path: it may be relative, or replaced by an upgrade.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(program_name).arg(DAEMON_CHILD_ARG).args(args);
    command
}

/// Starts `command` and waits until it serves.
///
/// # Errors
/// It failed, died, or was not ready in time; then it does not run any more.
pub fn start(mut command: Command, ready_timeout: Duration) -> Result<(), BackgroundError> {
    let system = |op| move |source| BackgroundError::System { op, source };
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(system("start"))?;
    let mut pipe = child.stdout.take().expect("stdout was made a pipe above");
    match wait_readable(&pipe, ready_timeout) {
        Ok(true) => {}
        Ok(false) => {
            stop(&mut child);
            return Err(BackgroundError::TimedOut(ready_timeout));
        }
        Err(errno) => {
            stop(&mut child);
            return Err(system("wait for")(errno.into()));
        }
    }
    let mut message = [0; MESSAGE_BYTES_MAX];
    let len = match pipe.read(&mut message) {
        Ok(len) => len,
        Err(source) => {
            stop(&mut child);
            return Err(system("hear of")(source));
        }
    };
    let message = &message[..len];
    if message == READY {
        return Ok(());
    }
    if let Some(text) = message.strip_prefix(FAILED_PREFIX) {
        stop(&mut child);
        return Err(BackgroundError::Reported(String::from_utf8_lossy(text).trim_end().to_owned()));
    }
    if len != 0 {
        stop(&mut child); // something else wrote there: it is not in the state we think it is
    }
    let status = child.wait().map_err(system("wait for"))?;
    Err(BackgroundError::Died(status.to_string()))
}

fn wait_readable(pipe: &impl AsFd, timeout: Duration) -> Result<bool, Errno> {
    let timeout = Timespec::try_from(timeout).map_err(|_| Errno::INVAL)?;
    loop {
        let mut fds = [PollFd::new(pipe, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Kills and reaps. Both fail only for a child that is gone already, which is what is wanted.
fn stop(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

/// The child's side. Dropped without a word (a panic, an early return) it tells the parent that
/// the child died.
#[derive(Debug)]
pub struct Handshake {
    pipe: File,
}

impl Handshake {
    /// Takes the pipe from the standard output, which from now on leads nowhere.
    ///
    /// # Errors
    /// The descriptors cannot be moved.
    pub fn take_from_stdout() -> io::Result<Self> {
        let pipe = io::stdout().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdout(null()?)?;
        Ok(Self::over(File::from(pipe)))
    }

    /// Over another pipe.
    #[must_use]
    pub const fn over(pipe: File) -> Self {
        Self { pipe }
    }

    /// The mount serves: leaves the parent's session, directory and standard error, then lets the
    /// parent return.
    ///
    /// # Errors
    /// A step failed, or the parent is gone.
    pub fn ready(self) -> io::Result<()> {
        match rustix::process::setsid() {
            Ok(_) | Err(Errno::PERM) => {} // PERM: leads its group already
            Err(errno) => return Err(errno.into()),
        }
        rustix::process::chdir("/")?;
        rustix::stdio::dup2_stderr(null()?)?;
        self.send(READY)
    }

    /// The mount failed: the parent prints `reason`.
    ///
    /// # Errors
    /// The parent is gone.
    pub fn failed(self, reason: &str) -> io::Result<()> {
        let room = MESSAGE_BYTES_MAX - FAILED_PREFIX.len();
        let reason = reason.as_bytes();
        let reason = &reason[..reason.len().min(room)];
        self.send(&[FAILED_PREFIX, reason].concat())
    }

    fn send(mut self, message: &[u8]) -> io::Result<()> {
        self.pipe.write_all(message)
    }
}

fn null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script);
        command
    }

    #[test]
    fn the_parent_returns_when_the_child_is_ready_and_the_child_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("alive");
        let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let script = format!("echo ready; exec >/dev/null; echo alive > {}", fifo.display());
        start(shell(&script), LONG).unwrap();
        assert_eq!(std::fs::read_to_string(&fifo).unwrap(), "alive\n");
    }

    #[test]
    fn the_childs_reason_comes_through() {
        let error = start(shell("printf 'failed no server'; sleep 100"), LONG).unwrap_err();
        assert!(matches!(error, BackgroundError::Reported(_)));
        assert_eq!(error.to_string(), "no server");
    }

    #[test]
    fn a_dead_or_babbling_child_is_not_a_mount() {
        let error = start(shell("exit 3"), LONG).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        let error = start(shell("echo hello; sleep 100"), LONG).unwrap_err();
        assert!(matches!(error, BackgroundError::Died(_)), "{error}");
        let missing = start(Command::new("/no/such/program"), LONG).unwrap_err();
        assert!(missing.to_string().starts_with("cannot start"), "{missing}");
    }

    #[test]
    fn a_silent_child_is_stopped() {
        let error = start(shell("sleep 100"), Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, BackgroundError::TimedOut(_)), "{error}");
    }

    #[test]
    fn a_long_reason_is_cut_to_what_a_pipe_takes_at_once() {
        let (mut reader, writer) = io::pipe().unwrap();
        let handshake = Handshake::over(File::from(std::os::fd::OwnedFd::from(writer)));
        handshake.failed(&"x".repeat(10_000)).unwrap();
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), MESSAGE_BYTES_MAX);
        assert!(got.starts_with(b"failed xxx"));
    }
}
