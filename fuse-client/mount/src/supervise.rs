//! The supervisor: the process that holds the mount while client-cores come and go.
//!
//! It opens /dev/fuse and mounts, keeps the descriptor and the session's id, and starts the client-core, the process
//! that serves, as a child. When that dies another one is started and given the same descriptor and session: the
//! kernel keeps every request until it is answered, so programs wait meanwhile and see no error. It does no I/O of
//! files, has one thread, and waits almost always. `doc/takeover.md` says what a successor does.
//!
//! It gives up, with a line in the log, when client-cores die at once too often in a row, or where the kernel cannot
//! ask a successor again; then the mount is dead, as after the death of any FUSE server.

pub mod channel;
mod core_process;
mod events;
mod upgrade;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use crate::clock;
use crate::kernel_mount::{self, KernelMount, MountConfig};
use crate::options::Options;
use crate::serve::{Facts, Status, kept_bytes};
use channel::Message;
pub use core_process::CoreCommand;
use core_process::CoreProcess;
use events::{Event, Events};
use rustix::fs::MemfdFlags;
use weft_client_core::keep::VERSION as KEEP_VERSION;

/// What the two processes speak; a client-core that speaks another one is not let on.
pub const PROTOCOL: u32 = 1;
/// A client-core that served so long did not die of how it began.
const LIVED_WELL: Duration = Duration::from_secs(1);
/// So many deaths in a row before that are too many.
const DEATHS_MAX: u32 = 20;
/// After so few the next client-core is started at once.
const DEATHS_AT_ONCE: u32 = 4;
/// After more the pause doubles from this.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Up to this.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often a client-core is looked at that says nothing.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The mount, and who serves it.
struct Supervisor<'a> {
    options: &'a Options,
    command: CoreCommand,
    session: String,
    /// The memory that outlives client-cores.
    keep: OwnedFd,
    /// What the kernel was promised.
    max_write_bytes: Option<u32>,
    events: Events,
    core: Option<CoreProcess>,
    /// Dead ones that a thread keeps from ending.
    ending: Vec<CoreProcess>,
    /// The mount: there from the first client-core's `connected` on.
    device: Option<OwnedFd>,
    mount_point: PathBuf,
    status: Status,
    /// What a client-core that died had not answered can be asked for again.
    resumable: bool,
    deaths: u32,
    /// When the next client-core is started.
    restart_at: Option<Duration>,
    unmounted: bool,
}

/// Mounts, and has the mount served until it is unmounted. `ready` is called when it serves.
///
/// # Errors
/// A sentence for the person who mounts. Before `ready` was called: nothing is mounted.
pub fn run(
    options: &Options,
    command: CoreCommand,
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<(), String> {
    // Before anything that takes time: a wrong mount point is the commonest mistake.
    let mount_point =
        kernel_mount::clear_mount_point(&options.mount_point).map_err(|error| error.to_string())?;
    let mut session = [0u8; 16];
    rustix::rand::getrandom(&mut session, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| format!("no random number for the session: {errno}"))?;
    let keep = rustix::fs::memfd_create("weft-client-core", MemfdFlags::CLOEXEC)
        .and_then(|keep| {
            rustix::fs::ftruncate(&keep, kept_bytes(options.max_write_bytes()))?;
            Ok(keep)
        })
        .map_err(|errno| format!("no memory to keep for client-cores: {errno}"))?;
    let mut supervisor = Supervisor {
        options,
        command,
        session: session.iter().map(|byte| format!("{byte:02x}")).collect(),
        keep,
        max_write_bytes: None,
        events: Events::new().map_err(|error| format!("cannot watch for signals: {error}"))?,
        core: None,
        ending: Vec::new(),
        device: None,
        mount_point,
        status: Status::new(),
        resumable: false,
        deaths: 0,
        restart_at: None,
        unmounted: false,
    };
    if let Err(error) = supervisor.events.listen(&supervisor.status.socket()) {
        tracing::info!(%error, "`weft mount upgrade` will not reach this mount");
    }
    supervisor.start_core()?;
    supervisor.until_serving().inspect_err(|_| supervisor.undo())?;
    ready().map_err(|error| format!("leaving the foreground: {error}"))?;
    supervisor.watch()
}

/// What a client-core must say it speaks.
fn our_protocol() -> String {
    format!("{PROTOCOL} {KEEP_VERSION}")
}

impl Supervisor<'_> {
    fn start_core(&mut self) -> Result<(), String> {
        let core = CoreProcess::start(&self.command)
            .map_err(|error| format!("cannot start the client-core: {error}"))?;
        self.core = Some(core);
        Ok(())
    }

    /// The first client-core: until it serves, or has said why it cannot.
    fn until_serving(&mut self) -> Result<(), String> {
        while self.core.as_ref().is_none_or(|core| core.served_at.is_none()) {
            match self.event(None)? {
                Event::Message(message) => self.message(&message)?,
                Event::Signal(signal) => return Err(format!("ended by signal {signal}")),
                Event::CoreGone => {
                    let how = self.reap();
                    return Err(format!("the client-core ended before the mount was up ({how})"));
                }
                Event::Asked(_) | Event::Nothing => {}
            }
        }
        Ok(())
    }

    /// The mount did not come to be: nothing of it stays.
    fn undo(&mut self) {
        if let Some(core) = self.core.take() {
            core.kill();
        }
        if self.device.is_some() {
            self.unmount();
        }
    }

    /// From the first client-core that serves to the unmount.
    fn watch(&mut self) -> Result<(), String> {
        while !self.unmounted {
            if self.restart_at.is_some_and(|at| at <= clock::mono()) {
                self.restart_at = None;
                if let Err(reason) = self.start_core() {
                    self.died(&reason)?;
                }
            }
            let look_at = clock::mono() + LOOK_INTERVAL;
            match self.event(Some(self.restart_at.map_or(look_at, |at| at.min(look_at))))? {
                Event::Message(message) => {
                    if let Err(reason) = self.message(&message) {
                        tracing::error!(reason, "the client-core cannot go on");
                    }
                }
                Event::Signal(signal) => {
                    tracing::info!(signal, "unmounting");
                    self.unmount();
                }
                Event::CoreGone => {
                    let how = self.reap();
                    self.died(&how).inspect_err(|reason| tracing::error!(reason, "given up"))?;
                }
                Event::Asked(stream) => self.asked(stream),
                Event::Nothing => self.look()?,
            }
        }
        Ok(())
    }

    /// A client-core that died with a thread that cannot end is not waited for: the next one sets that thread free.
    fn look(&mut self) -> Result<(), String> {
        self.ending.retain_mut(|core| !core.try_wait());
        if let Some(core) = self.core.take_if(|core| core.is_dead()) {
            self.ending.push(core);
            let how = "killed, with a thread that drops pages";
            self.died(how).inspect_err(|reason| tracing::error!(reason, "given up"))?;
        }
        Ok(())
    }

    fn event(&mut self, until: Option<Duration>) -> Result<Event, String> {
        let channel = self.core.as_ref().map(|core| &core.channel);
        let event = self.events.next(channel, until);
        event.map_err(|error| format!("the supervisor cannot wait: {error}"))
    }

    fn message(&mut self, message: &Message) -> Result<(), String> {
        let (word, rest) = message.text.split_once(' ').unwrap_or((&message.text, ""));
        match word {
            "hello" => self.greeted(rest),
            "connected" => self.mount(),
            "serving" => {
                self.serving(rest);
                Ok(())
            }
            "failed" => Err(rest.to_owned()),
            "unmounted" => {
                self.unmounted = true;
                if let Some(core) = self.core.take() {
                    core.wait();
                }
                Ok(())
            }
            _ => Err(format!("the client-core says `{word}`, which means nothing here")),
        }
    }

    /// A client-core is there: it is told where it stands.
    fn greeted(&mut self, protocol: &str) -> Result<(), String> {
        let ours = our_protocol();
        if protocol != ours {
            return Err(format!(
                "the client-core speaks {protocol}, its supervisor {ours}: unmount, and mount again"
            ));
        }
        self.greet()
    }

    fn greet(&self) -> Result<(), String> {
        let session = &self.session;
        let mut fds = vec![self.keep.as_fd()];
        let text = match (&self.device, self.max_write_bytes) {
            (Some(device), Some(max_write)) => {
                fds.push(device.as_fd());
                format!("take {session} {max_write}")
            }
            _ => format!("start {session}"),
        };
        let core = self.core.as_ref().expect("it spoke just now");
        let sent = core.channel.send(&text, &fds);
        sent.map_err(|error| format!("the client-core cannot be told: {error}"))
    }

    /// The servers answer: mounts.
    fn mount(&mut self) -> Result<(), String> {
        let config = MountConfig {
            source: self.options.source.to_string(),
            mount_point: self.mount_point.clone(),
            flags: self.options.mount_flags,
            max_read_bytes: self.options.max_write_bytes(),
        };
        let mounted = KernelMount::new(&config).map_err(|error| error.to_string())?;
        if let Err(error) = mounted.set_read_ahead(self.options.read_ahead_kib) {
            tracing::warn!(%error, "read-ahead");
        }
        let (device, mount_point) = mounted.into_parts();
        self.mount_point = mount_point;
        let device = self.device.insert(device);
        let core = self.core.as_ref().expect("it spoke just now");
        core.channel
            .send("mounted", &[device.as_fd()])
            .map_err(|error| format!("the client-core cannot be told: {error}"))
    }

    /// `TRANSPORT RESUMABLE MAX_WRITE`.
    fn serving(&mut self, how: &str) {
        let mut words = how.split(' ');
        let transport = words.next().unwrap_or("");
        self.resumable = words.next() == Some("resumable");
        self.max_write_bytes = words.next().and_then(|bytes| bytes.parse().ok());
        let Some(core) = &mut self.core else { return };
        core.served_at = Some(clock::mono());
        let (client_core, resumable) = (core.id(), self.resumable);
        self.status.write(&Facts { transport, client_core, resumable, keep: &self.keep });
    }

    /// Takes the client-core that ended off the system's list; how it ended.
    fn reap(&mut self) -> String {
        let Some(core) = self.core.take() else { return "it was not there".to_owned() };
        let served = core.served_at;
        if served.is_some_and(|at| clock::mono() - at >= LIVED_WELL) {
            self.deaths = 0;
        }
        core.wait()
    }

    /// A client-core died: another one is due, unless that is pointless.
    fn died(&mut self, how: &str) -> Result<(), String> {
        self.deaths += 1;
        if !self.resumable {
            return Err(format!(
                "the client-core died ({how}), and what it was asked cannot be asked for again: requests came over \
                 io_uring, or the kernel is older than 6.9. The mount is dead: mount again, with transport=classic"
            ));
        }
        if self.deaths > DEATHS_MAX {
            return Err(format!(
                "client-cores died {DEATHS_MAX} times in a row as soon as they served ({how}): given up, the mount is \
                 dead. Their log may say why; mount again"
            ));
        }
        let pause = match self.deaths {
            ..=DEATHS_AT_ONCE => Duration::ZERO,
            count => PAUSE_MIN.saturating_mul(1 << (count - DEATHS_AT_ONCE).min(16)).min(PAUSE_MAX),
        };
        tracing::warn!(
            how,
            deaths = self.deaths,
            ?pause,
            "the client-core died: another one follows"
        );
        self.restart_at = Some(clock::mono() + pause);
        Ok(())
    }

    fn unmount(&self) {
        if let Err(error) = kernel_mount::unmount(&self.mount_point) {
            tracing::warn!(%error, "cannot unmount");
        }
    }
}
