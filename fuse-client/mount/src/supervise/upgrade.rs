//! `weft mount upgrade`: another program takes over while the mount is in use.
//!
//! The new one is started first and says that it speaks as this supervisor does; only then the old one is told to stop
//! taking requests. It ends when those it has are answered, or soon; what is left is taken over as after a death.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::core_process::{CoreCommand, CoreProcess};
use super::{Supervisor, our_protocol};
use crate::clock;

/// How long whoever asks may take to say what.
const ASK_PATIENCE: Duration = Duration::from_secs(1);
/// How long the new program may take to say that it is there.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// How long the old one may take to end what it has begun.
const RETIRE_PATIENCE: Duration = Duration::from_secs(3);

impl Supervisor<'_> {
    /// Somebody came by the socket: `upgrade PATH`, answered with `ok PID` or `error REASON`.
    pub(super) fn asked(&mut self, stream: UnixStream) {
        let mut line = String::new();
        let read = stream
            .set_read_timeout(Some(ASK_PATIENCE))
            .and_then(|()| BufReader::new(&stream).read_line(&mut line));
        if let Err(error) = read {
            return tracing::debug!(%error, "a question that did not come");
        }
        let answer = match line.trim_end().strip_prefix("upgrade ") {
            Some(path) => match self.upgrade(PathBuf::from(path)) {
                Ok(pid) => format!("ok {pid}\n"),
                Err(reason) => format!("error {reason}\n"),
            },
            None => format!("error `{}` means nothing here\n", line.trim_end()),
        };
        if let Err(error) = (&stream).write_all(answer.as_bytes()) {
            tracing::debug!(%error, "nobody waits for the answer");
        }
    }

    fn upgrade(&mut self, program: PathBuf) -> Result<u32, String> {
        if !self.resumable {
            return Err("requests of this mount cannot be handed over (transport=uring, or a kernel before 6.9): \
                        unmount, and mount again"
                .to_owned());
        }
        let command = CoreCommand { program, ..self.command.clone() };
        let next = CoreProcess::start(&command)
            .map_err(|error| format!("cannot start {}: {error}", command.program.display()))?;
        if let Err(reason) = Self::speaks_as_we_do(&next) {
            next.kill();
            return Err(format!("{}: {reason}", command.program.display()));
        }
        self.retire();
        if self.unmounted {
            next.kill();
            return Err("it was unmounted just now".to_owned());
        }
        let pid = next.id();
        tracing::info!(program = %command.program.display(), pid, "upgraded");
        (self.command, self.core, self.restart_at) = (command, Some(next), None);
        self.greet()?;
        Ok(pid)
    }

    fn speaks_as_we_do(next: &CoreProcess) -> Result<(), String> {
        match next.channel.recv_within(HELLO_PATIENCE) {
            Ok(Some(message)) if message.text == format!("hello {}", our_protocol()) => Ok(()),
            Ok(Some(message)) => Err(format!(
                "it says `{}` where this mount speaks {}: unmount, and mount again",
                message.text,
                our_protocol()
            )),
            Ok(None) => Err("it ended at once; is it mount.weft?".to_owned()),
            Err(error) => Err(format!("it says nothing ({error}); is it mount.weft?")),
        }
    }

    /// The client-core of now ends.
    fn retire(&mut self) {
        let Some(core) = self.core.take() else { return };
        if let Err(error) = core.channel.send("retire", &[]) {
            tracing::info!(%error, "the client-core died just now");
        }
        let end = clock::mono() + RETIRE_PATIENCE;
        while let Ok(Some(message)) = core.channel.recv_within(end.saturating_sub(clock::mono())) {
            self.unmounted |= message.text == "unmounted";
        }
        core.kill();
    }
}
