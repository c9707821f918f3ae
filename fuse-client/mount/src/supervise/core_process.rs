//! The process of a client-core, as its supervisor sees it.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::channel::Channel;
use crate::options::CLIENT_CORE_ARG;

/// How a client-core is started.
#[derive(Clone, Debug)]
pub struct CoreCommand {
    /// The program: this one, until another one took over.
    pub program: PathBuf,
    /// The name it is called by.
    pub name: OsString,
    /// The arguments of the mount.
    pub args: Vec<OsString>,
    /// It does not hold on to the standard error of whoever mounts.
    pub in_background: bool,
}

/// One that was started and not waited for.
#[derive(Debug)]
pub(super) struct CoreProcess {
    child: Child,
    pub(super) channel: Channel,
    pub(super) served_at: Option<Duration>,
}

impl CoreProcess {
    pub(super) fn start(command: &CoreCommand) -> io::Result<CoreProcess> {
        let (channel, theirs) = Channel::pair()?;
        let mut start = Command::new(&command.program);
        start.arg0(&command.name).arg(CLIENT_CORE_ARG).args(&command.args);
        start.stdin(Stdio::from(theirs.into_fd()));
        if command.in_background {
            start.stderr(Stdio::null());
        }
        let child = start.spawn()?;
        Ok(CoreProcess { child, channel, served_at: None })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end; how it ended.
    pub(super) fn wait(mut self) -> String {
        self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Whether it will not do anything any more, though a thread of it is left that cannot end: one that drops pages
    /// waits until requests for them are answered, and who is to answer them is the next client-core.
    pub(super) fn is_dead(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.bytes().next());
        matches!(state, Some(b'Z' | b'X'))
    }

    /// Takes it off the system's list once it has ended; false until then.
    pub(super) fn try_wait(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it. That fails only for one that is gone already.
    pub(super) fn kill(mut self) {
        drop(self.child.kill());
        self.wait();
    }
}
