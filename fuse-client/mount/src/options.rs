//! The command line, as mount(8) calls its helpers:
//! `mount.weft SOURCE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTION,...]`.
//!
//! `-f` is mount(8)'s "fake" (check everything, mount nothing), so the foreground is
//! `--foreground` or `-o foreground`. Options meant for others (fstab, systemd, mount itself) are
//! taken and ignored; an unknown one is an error that names the nearest known one.

mod mount_options;
mod source;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use rustix::mount::MountFlags;
use weft_ring::RingConfig;

pub use mount_options::KNOWN;
pub use source::Source;

/// mount(8): everything went well.
pub const EXIT_OK: u8 = 0;
/// mount(8): the command line is wrong, or the caller may not.
pub const EXIT_USAGE: u8 = 1;
/// mount(8): the mount failed.
pub const EXIT_MOUNT_FAILURE: u8 = 32;

/// The argument that tells a copy of this program that it is the one in the background.
pub const DAEMON_CHILD_ARG: &str = "--daemon-child";
/// The argument that tells a copy of this program that it is a client-core: it serves what its supervisor mounted.
pub const CLIENT_CORE_ARG: &str = "--client-core";

/// The help text.
pub const USAGE: &str = "\
Mounts a Weft file system.

Usage: mount.weft SOURCE MOUNTPOINT [-sfnv] [-o OPTION,...] [--foreground]
       mount -t weft SOURCE MOUNTPOINT [-o OPTION,...]

SOURCE is HOST[:PORT]:/ (an IPv6 address in brackets); the port is 7811 unless given.

  -o OPTION,...   options, below
  -f              check the command line, mount nothing
  -s              ignore unknown options
  -v              say more
  -n, -N, -t      taken for mount(8), without effect
  --foreground    stay in the foreground
  -h, --help      this text
  -V, --version   the version

Options (default):
  ro, nosuid, nodev, noexec, noatime, nodiratime, relatime, sync, ... as of mount(8)
  attr_timeout_ms=N      how long the kernel may believe attributes at most (60000)
  entry_timeout_ms=N     how long the kernel may believe names at most (60000)
  max_write_kib=N        the longest read or write request: 4 to 16384, in steps of 4 (1024)
  read_ahead_kib=N       read-ahead of the page cache (8192)
  on_timeout=wait|eio    when a server does not answer: wait for it, or give EIO (wait)
  timeout_ms=N           after how long a server counts as not answering (30000)
  log=LEVEL              error, warn, info, debug or trace (info)
  log_file=PATH          where the log goes in the background
  transport=auto|uring|classic  how requests come from the kernel: by reading /dev/fuse (auto, classic), or over
                         io_uring (Linux 6.14). Over io_uring the death of the client-core is the death of the
                         mount; else, from Linux 6.9 on, another one takes over and programs see a pause
  locks=cluster|local    flock and fcntl locks hold for all mounts of the file system, or for this one (cluster)
  local_socket=auto|off  to a server of this machine: over a unix socket where the server offers one, which takes less
                         CPU, or over TCP as to any other (auto)
  queue_depth=N          over io_uring: requests of each CPU at once, 1 to 64 (64)
  spin_us=N              how long the client looks for work before it sleeps at most, while nobody else wants its core,
                         when a server owes it an answer; else a quarter of that: 0 to 1000 (400)
  idle_poll=auto|on|off  idle cores of this machine poll, instead of halting, while answers come within 2 ms: each wake-up
                         of a halted core of a virtual machine takes 20 to 50 us (auto: there, with up to 16 cores)
  foreground             as --foreground

Exit status: 0 mounted, 1 wrong usage, 32 the mount failed.
";

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Mount.
    Mount(Box<Options>),
    /// Print [`USAGE`].
    Help,
    /// Print the version.
    Version,
}

/// What to do when a server does not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTimeout {
    /// Go on trying; programs wait, and can be interrupted.
    Wait,
    /// Give EIO.
    Eio,
}

/// How much to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the usual five levels")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The level's name, as `tracing` filters spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How requests come from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// The way that survives the death of a client-core: classic.
    Auto,
    /// Over io_uring, or the mount fails.
    Uring,
    /// Reads and writes of /dev/fuse.
    Classic,
}

/// One mount to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The cluster.
    pub source: Source,
    /// Where.
    pub mount_point: PathBuf,
    /// Check only.
    pub fake: bool,
    /// Say more.
    pub verbose: bool,
    /// Stay in the foreground.
    pub foreground: bool,
    /// This process was started by `daemonize` to serve in the background.
    pub daemon_child: bool,
    /// This process was started by a supervisor to serve its mount.
    pub client_core: bool,
    /// What mount(2) is told.
    pub mount_flags: MountFlags,
    /// How long the kernel may believe attributes.
    pub attr_timeout: Duration,
    /// How long the kernel may believe names.
    pub entry_timeout: Duration,
    /// The longest request.
    pub max_write_kib: u32,
    /// Read-ahead of the page cache.
    pub read_ahead_kib: u32,
    /// When a server does not answer.
    pub on_timeout: OnTimeout,
    /// When that is so.
    pub timeout: Duration,
    /// How much to log.
    pub log: LogLevel,
    /// Where to, in the background.
    pub log_file: Option<PathBuf>,
    /// How requests come.
    pub transport: TransportKind,
    /// Entries of each CPU's queue, over io_uring.
    pub queue_depth: u32,
    /// How long the loop spins before it sleeps at most.
    pub spin_us: u32,
    /// Whether idle cores poll while something is under way; not said: where it pays.
    pub idle_poll: Option<bool>,
    /// Locks are the kernel's own business.
    pub local_locks: bool,
    /// Servers of this machine are met over a unix socket.
    pub local_socket: bool,
}

impl Options {
    fn new(source: Source, mount_point: PathBuf) -> Self {
        Self {
            source,
            mount_point,
            fake: false,
            verbose: false,
            foreground: false,
            daemon_child: false,
            client_core: false,
            mount_flags: MountFlags::empty(),
            attr_timeout: Duration::from_millis(60_000),
            entry_timeout: Duration::from_millis(60_000),
            max_write_kib: 1024,
            read_ahead_kib: 8192,
            on_timeout: OnTimeout::Wait,
            timeout: Duration::from_millis(30_000),
            log: LogLevel::Info,
            log_file: None,
            transport: TransportKind::Auto,
            queue_depth: 64,
            spin_us: RingConfig::serving().spin_us_max,
            idle_poll: None,
            local_locks: false,
            local_socket: true,
        }
    }

    /// The longest WRITE, in bytes.
    #[must_use]
    pub const fn max_write_bytes(&self) -> u32 {
        self.max_write_kib * 1024
    }
}

/// What is wrong with the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SOURCE or MOUNTPOINT is missing, or there is one argument too many.
    Arguments,
    /// SOURCE is not `HOST[:PORT]:/`.
    Source,
    /// There is no such option.
    UnknownOption,
    /// An option's value is missing, not needed, or not allowed.
    Value,
}

/// A command line that cannot be followed. `message` is for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UsageError {
    /// What to branch on.
    pub kind: Kind,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl UsageError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// What is wrong, in words.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut raw = RawArgs::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let Some(text) = arg.to_str().filter(|text| text.starts_with('-') && text.len() > 1) else {
            raw.positional.push(arg);
            continue;
        };
        match text {
            "--help" => return Ok(Command::Help),
            "--version" => return Ok(Command::Version),
            "--foreground" => raw.foreground = true,
            DAEMON_CHILD_ARG => raw.daemon_child = true,
            CLIENT_CORE_ARG => raw.client_core = true,
            _ if text.starts_with("--") => return Err(unknown_flag(text)),
            _ => {
                if let Some(command) = raw.short_flags(&text[1..], &mut args)? {
                    return Ok(command);
                }
            }
        }
    }
    raw.into_options().map(|options| Command::Mount(Box::new(options)))
}

#[derive(Default)]
struct RawArgs {
    positional: Vec<OsString>,
    option_lists: Vec<String>,
    fake: bool,
    verbose: bool,
    sloppy: bool,
    foreground: bool,
    daemon_child: bool,
    client_core: bool,
}

impl RawArgs {
    /// A cluster of one-letter flags; the last may take a value, joined or as the next argument.
    fn short_flags(
        &mut self,
        cluster: &str,
        args: &mut impl Iterator<Item = OsString>,
    ) -> Result<Option<Command>, UsageError> {
        for (at, flag) in cluster.char_indices() {
            match flag {
                'h' => return Ok(Some(Command::Help)),
                'V' => return Ok(Some(Command::Version)),
                'f' => self.fake = true,
                'v' => self.verbose = true,
                's' => self.sloppy = true,
                'n' => {}
                'o' | 't' | 'N' => {
                    let joined = &cluster[at + 1..];
                    let value = if joined.is_empty() {
                        args.next().and_then(|next| next.into_string().ok())
                    } else {
                        Some(joined.to_owned())
                    };
                    let Some(value) = value else {
                        let message = format!("-{flag} needs a value");
                        return Err(UsageError::new(Kind::Arguments, message));
                    };
                    if flag == 'o' {
                        self.option_lists.push(value);
                    }
                    return Ok(None);
                }
                _ => return Err(unknown_flag(&format!("-{flag}"))),
            }
        }
        Ok(None)
    }

    fn into_options(self) -> Result<Options, UsageError> {
        let count = self.positional.len();
        let Ok([source, mount_point]) = <[OsString; 2]>::try_from(self.positional) else {
            let message = format!(
                "SOURCE and MOUNTPOINT are needed, {count} arguments were given; see --help"
            );
            return Err(UsageError::new(Kind::Arguments, message));
        };
        let source = Source::parse(&source.to_string_lossy())?;
        let mut options = Options::new(source, PathBuf::from(mount_point));
        for list in &self.option_lists {
            for option in list.split(',').filter(|option| !option.is_empty()) {
                match mount_options::apply(&mut options, option) {
                    Err(UsageError { kind: Kind::UnknownOption, .. }) if self.sloppy => {}
                    result => result?,
                }
            }
        }
        options.fake = self.fake;
        options.verbose = self.verbose;
        options.foreground |= self.foreground;
        options.daemon_child = self.daemon_child;
        options.client_core = self.client_core;
        Ok(options)
    }
}

fn unknown_flag(flag: &str) -> UsageError {
    UsageError::new(Kind::Arguments, format!("unknown argument {flag}; see --help"))
}
