//! The one file of settings a node has: a TOML of at most fifteen lines.
//!
//! [`Config::parse`] turns text into values and does no I/O: unknown keys, wrong types, values out of range and
//! duplicates end here, each with the key, the value and what is allowed. [`Config::check`] then looks at the
//! machine, before any device is opened for real. Nothing here changes anything on disk.

mod check;
mod fields;
mod lock;

use std::fmt;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use weft_wire::ClusterId;

pub use check::MissingTargets;
pub use lock::LockError;

/// Memory a shard cannot do without, in MiB.
pub const SHARD_MEMORY_MIB_MIN: u32 = 64;
/// Memory a node can be given, in MiB: 1 TiB.
pub const MEMORY_MIB_MAX: u32 = 1 << 20;
/// Targets of one node.
pub const TARGET_COUNT_MAX: usize = 256;
/// Cores (and so shards) of one node.
pub const CORE_COUNT_MAX: usize = 256;
/// Bytes of a node's name.
pub const NODE_NAME_BYTES_MAX: usize = 64;

/// Every key there is, in the order of [`Config::generate`]: the first five must be there.
pub const KEYS: [&str; 20] = [
    "cluster",
    "node",
    "listen",
    "state_dir",
    "targets",
    "cores",
    "memory_mib",
    "log",
    "session_timeout_s",
    "grace_s",
    "checkpoint_s",
    "credits",
    "idle_poll",
    "io_poll",
    "passthrough",
    "discard",
    "scrub_interval_days",
    "scrub_mib_per_second",
    "lease_ms",
    "metrics",
];

/// What a node's config file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The cluster the node belongs to.
    pub cluster: ClusterId,
    /// The node's name: 1 to 64 letters, digits, `.`, `_`, `-`.
    pub node: String,
    /// `HOST:PORT` the node listens on.
    pub listen: String,
    /// Folder of the metadata volumes (`volume0`).
    pub state_dir: PathBuf,
    /// The storage targets: block devices or preallocated files, at least one.
    pub targets: Vec<PathBuf>,
    /// One shard is pinned to each of these cores; at least one, each once.
    pub cores: Vec<u16>,
    /// Memory of all shards of the node together, in MiB, dealt out by [`crate::memory::MemoryPlan`].
    ///
    /// Not in it: program, stacks and what malloc wastes (64 MiB), and pages of mapped database files, which the
    /// kernel takes back when it wants them.
    pub memory_mib: u32,
    /// Filter of the log, as `tracing` reads it.
    pub log: String,
    /// A session that is silent for so long is ended, in seconds.
    pub session_timeout_s: u32,
    /// After a start, old sessions have so long to come back before others may take what they held, in seconds.
    pub grace_s: u32,
    /// What a client caches it may use for so long after its last sign of life, in milliseconds: one that vanishes
    /// delays others by no more.
    pub lease_ms: u32,
    /// Longest time between two metadata checkpoints, in seconds.
    pub checkpoint_s: u32,
    /// Requests one connection may have in flight.
    pub credits: u32,
    /// Whether the machine's idle cores poll, instead of halting, while something is under way that ends soon.
    pub idle_poll: Wanted,
    /// Whether data I/O is asked for instead of ended by interrupts, on devices with queues for it. Costs the shard's
    /// core while anything is under way.
    pub io_poll: Wanted,
    /// Whether data goes to NVMe namespaces as commands of our own, past the block layer.
    pub passthrough: Wanted,
    /// Whether freed space is given back to the device; in a file, by punching holes. Not said: on block devices that
    /// say they can discard, and not in files, which are preallocated so that no write finds their disk full.
    pub discard: Wanted,
    /// From the begin of one scrub of a target to that of the next, in days; 0 for none.
    pub scrub_interval_days: u32,
    /// How fast a target is scrubbed, in MiB a second.
    pub scrub_mib_per_second: u32,
    /// `HOST:PORT` where metrics are told over HTTP; empty for nowhere.
    pub metrics: String,
}

/// Whether to use what not every machine offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Wanted {
    /// Where it is offered.
    #[default]
    Auto,
    /// Where it is offered; where not, the log says why.
    On,
    /// Never.
    Off,
}

impl Wanted {
    /// As written in a config.
    pub fn name(self) -> &'static str {
        match self {
            Wanted::Auto => "auto",
            Wanted::On => "on",
            Wanted::Off => "off",
        }
    }
}

/// What kind of thing is wrong with a config.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigErrorKind {
    /// The text is not TOML.
    Syntax,
    /// A key that does not exist.
    UnknownKey,
    /// A key that must be there is not.
    MissingKey,
    /// A value of the wrong type.
    Type,
    /// A value outside what is allowed.
    Range,
    /// A value that stands in a list twice, or two that mean the same device.
    Duplicate,
    /// Something the config names is not there.
    Missing,
    /// Something the config names is there, but is not usable.
    Unusable,
}

/// Why a config cannot be used. Made for a person to read, once, at the start: so it carries text, unlike the
/// errors of the data path.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct ConfigError {
    /// What is wrong.
    pub kind: ConfigErrorKind,
    /// The key it is about; empty when the file as a whole is meant.
    pub key: String,
    /// The value found, as written; empty when there is none.
    pub value: String,
    /// Why it is wrong, what is allowed, what to do.
    pub advice: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key.as_str(), self.value.as_str()) {
            ("", _) => {}
            (key, "") => write!(f, "{key}: ")?,
            (key, value) => write!(f, "{key} = {value}: ")?,
        }
        f.write_str(&self.advice)
    }
}

impl ConfigError {
    pub(crate) fn new(
        kind: ConfigErrorKind,
        key: &str,
        value: impl fmt::Display,
        advice: impl Into<String>,
    ) -> ConfigError {
        ConfigError { kind, key: key.to_owned(), value: value.to_string(), advice: advice.into() }
    }
}

impl Config {
    /// A config with the defaults of everything that has one.
    pub fn new(
        cluster: ClusterId,
        node: &str,
        state_dir: PathBuf,
        targets: Vec<PathBuf>,
    ) -> Config {
        Config {
            cluster,
            node: node.to_owned(),
            listen: fields::LISTEN_DEFAULT.to_owned(),
            state_dir,
            targets,
            cores: vec![0],
            memory_mib: fields::MEMORY_MIB.default,
            log: fields::LOG_DEFAULT.to_owned(),
            session_timeout_s: fields::SESSION_TIMEOUT_S.default,
            grace_s: fields::GRACE_S.default,
            lease_ms: fields::LEASE_MS.default,
            checkpoint_s: fields::CHECKPOINT_S.default,
            credits: fields::CREDITS.default,
            idle_poll: Wanted::Auto,
            io_poll: Wanted::Auto,
            passthrough: Wanted::Auto,
            discard: Wanted::Auto,
            scrub_interval_days: fields::SCRUB_INTERVAL_DAYS.default,
            scrub_mib_per_second: fields::SCRUB_MIB_PER_SECOND.default,
            metrics: String::new(),
        }
    }

    /// Reads the text of a config file that lies in `base_dir`; relative paths are relative to it.
    ///
    /// # Errors
    /// `Syntax`, `UnknownKey`, `MissingKey`, `Type`, `Range`, `Duplicate`.
    pub fn parse(text: &str, base_dir: &Path) -> Result<Config, ConfigError> {
        fields::parse(text, base_dir)
    }

    /// The commented file that says this: [`Config::parse`] of it gives the same config. At most fifteen lines, and
    /// one for each key that is seldom changed and was.
    /// Paths are written as they are.
    pub fn generate(&self) -> String {
        let paths: Vec<String> = self.targets.iter().map(|path| quoted_path(path)).collect();
        let lines = [
            (
                "cluster",
                quoted(&self.cluster.to_string()),
                "every node and client of the cluster has the same",
            ),
            ("node", quoted(&self.node), "this machine's name in the cluster"),
            ("listen", quoted(&self.listen), "address and port for clients"),
            ("state_dir", quoted_path(&self.state_dir), "metadata: a folder on a fast local disk"),
            (
                "targets",
                format!("[{}]", paths.join(", ")),
                "block devices, or files made by `weft fs create`",
            ),
            ("cores", format!("{:?}", self.cores), "one shard is pinned to each"),
            ("memory_mib", self.memory_mib.to_string(), "of all shards, at least 64 for each"),
            ("log", quoted(&self.log), "error, warn, info, debug, trace; or module=level, ..."),
            (
                "session_timeout_s",
                self.session_timeout_s.to_string(),
                "a silent client is forgotten after this",
            ),
            (
                "grace_s",
                self.grace_s.to_string(),
                "after a start, clients have this long to come back",
            ),
            (
                "checkpoint_s",
                self.checkpoint_s.to_string(),
                "longest time between metadata checkpoints",
            ),
            ("credits", self.credits.to_string(), "requests in flight for each connection"),
        ];
        let mut out = String::from("# Weft node. Relative paths are relative to this file.\n");
        for (key, value, comment) in lines {
            writeln!(out, "{key} = {value}  # {comment}").expect("a String takes everything");
        }
        out.push_str("# auto, on or off: idle_poll (idle cores wait awake for answers), io_poll (ask devices, no interrupts),\n");
        out.push_str("# passthrough (own NVMe commands), discard (give freed space back; auto: block devices).\n");
        let said = [
            ("idle_poll", self.idle_poll),
            ("io_poll", self.io_poll),
            ("passthrough", self.passthrough),
            ("discard", self.discard),
        ];
        for (key, wanted) in said.iter().filter(|(_, wanted)| *wanted != Wanted::Auto) {
            writeln!(out, "{key} = {}", quoted(wanted.name())).expect("a String takes everything");
        }
        let seldom = [
            ("scrub_interval_days", self.scrub_interval_days, &fields::SCRUB_INTERVAL_DAYS),
            ("scrub_mib_per_second", self.scrub_mib_per_second, &fields::SCRUB_MIB_PER_SECOND),
            ("lease_ms", self.lease_ms, &fields::LEASE_MS),
        ];
        for (key, value, bounds) in seldom {
            if value != bounds.default {
                writeln!(out, "{key} = {value}").expect("a String takes everything");
            }
        }
        if !self.metrics.is_empty() {
            let value = quoted(&self.metrics);
            writeln!(out, "metrics = {value}").expect("a String takes everything");
        }
        out
    }

    /// Buffer memory of one shard, in bytes.
    pub fn shard_memory_bytes(&self) -> u64 {
        let shards = u64::try_from(self.cores.len().max(1)).expect("usize is 64 bits");
        (u64::from(self.memory_mib) << 20) / shards
    }

    /// Where the metadata volume lies.
    pub fn volume_dir(&self) -> PathBuf {
        self.state_dir.join("volume0")
    }

    /// The metadata volume's log: a file of zeros before its first use.
    pub fn volume_log(&self) -> PathBuf {
        self.volume_dir().join("log")
    }

    /// Where the index of a target lies; `target_uuid` is its own name, from the superblock.
    pub fn index_dir(&self, target_uuid: [u8; 16]) -> PathBuf {
        self.state_dir.join("targets").join(ClusterId(target_uuid).to_string())
    }

    /// Locked (flock) by whoever uses the state folder, see [`Config::lock_state`]; holds the number of its process.
    pub fn lock_file(&self) -> PathBuf {
        self.state_dir.join("lock")
    }

    /// Everything that can be checked before a device is opened for use. Gives warnings.
    ///
    /// # Errors
    /// `Missing`, `Unusable`, `Duplicate`, `Range`.
    pub fn check(&self) -> Result<Vec<String>, ConfigError> {
        let mut warnings = self.check_machine()?;
        warnings.extend(self.check_paths(MissingTargets::Refused)?);
        Ok(warnings)
    }

    /// The same for a start, which a target that is gone does not stop.
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn check_for_start(&self) -> Result<Vec<String>, ConfigError> {
        let mut warnings = self.check_machine()?;
        warnings.extend(self.check_paths(MissingTargets::Passed)?);
        Ok(warnings)
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

#[cfg(test)]
mod tests;
