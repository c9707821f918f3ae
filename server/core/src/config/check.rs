//! What of a config can be held against the machine before a device is opened.

use std::fs::Metadata;
use std::net::ToSocketAddrs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Access, access};

use super::{Config, ConfigError, ConfigErrorKind};

/// Whether a target that is a plain file must be there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MissingTargets {
    /// It must: the server is about to open it.
    Refused,
    /// It need not: it is about to be made.
    Allowed,
    /// It should, but its device may have died: the others are to serve.
    Passed,
}

/// One physical thing: (device, inode) of a file, (device number, 0) of a block device.
type Identity = (bool, u64, u64);

impl Config {
    /// Cores, address and memory against this machine. Gives warnings.
    ///
    /// # Errors
    /// `Missing` for a core, `Unusable` for an address or too much memory.
    pub fn check_machine(&self) -> Result<Vec<String>, ConfigError> {
        let mut warnings = Vec::new();
        self.check_cores(&mut warnings)?;
        self.check_listen(&mut warnings)?;
        self.check_memory(&mut warnings)?;
        Ok(warnings)
    }

    /// The paths against this machine: there, of the right type, readable and writable, each its own. Gives
    /// warnings.
    ///
    /// # Errors
    /// `Missing`, `Unusable`, `Duplicate`.
    pub fn check_paths(&self, missing: MissingTargets) -> Result<Vec<String>, ConfigError> {
        check_state_dir(&self.state_dir)?;
        let mut seen: Vec<(&Path, Identity)> = Vec::new();
        for path in &self.targets {
            let Some(metadata) = target_metadata(path, missing)? else { continue };
            let identity = identity(&metadata);
            if let Some((other, _)) = seen.iter().find(|(_, known)| *known == identity) {
                let advice = format!("this is the same device or file as {}", other.display());
                return Err(failure(ConfigErrorKind::Duplicate, "targets", path, advice));
            }
            seen.push((path, identity));
        }
        let mut warnings = Vec::new();
        if self.targets.len() < self.cores.len() {
            warnings.push(format!(
                "{} cores for {} targets: a shard without a target carries no data",
                self.cores.len(),
                self.targets.len()
            ));
        }
        Ok(warnings)
    }

    fn check_cores(&self, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
        let Ok(allowed) = rustix::thread::sched_getaffinity(None) else {
            warnings.push("cores: the kernel does not say which cores this process has".to_owned());
            return Ok(());
        };
        for core in &self.cores {
            if !allowed.is_set(usize::from(*core)) {
                let there: Vec<String> = (0..rustix::thread::CpuSet::MAX_CPU)
                    .filter(|index| allowed.is_set(*index))
                    .map(|index| index.to_string())
                    .collect();
                let advice = format!(
                    "this machine (or this process's CPU set) has no such core; it has {}",
                    there.join(", ")
                );
                return Err(ConfigError::new(ConfigErrorKind::Missing, "cores", core, advice));
            }
        }
        Ok(())
    }

    fn check_listen(&self, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
        let addresses = self.listen.to_socket_addrs().map_err(|error| {
            let advice = format!("this does not resolve to an address: {error}");
            ConfigError::new(ConfigErrorKind::Unusable, "listen", &self.listen, advice)
        })?;
        let addresses: Vec<_> = addresses.collect();
        if addresses.is_empty() {
            let advice = "this resolves to no address";
            return Err(ConfigError::new(
                ConfigErrorKind::Unusable,
                "listen",
                &self.listen,
                advice,
            ));
        }
        if addresses.iter().any(|address| !address.ip().is_loopback()) {
            warnings.push(format!(
                "listen = {}: whoever reaches this address reaches the data; keep it on a trusted network",
                self.listen
            ));
        }
        Ok(())
    }

    fn check_memory(&self, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
        let Some((total_mib, available_mib)) = memory_mib() else {
            warnings.push("memory_mib: /proc/meminfo does not say how much there is".to_owned());
            return Ok(());
        };
        let wanted_mib = u64::from(self.memory_mib);
        if wanted_mib > total_mib {
            let advice = format!("this machine has {total_mib} MiB");
            let key = "memory_mib";
            return Err(ConfigError::new(ConfigErrorKind::Unusable, key, wanted_mib, advice));
        }
        if wanted_mib > available_mib {
            warnings.push(format!(
                "memory_mib = {wanted_mib}: only {available_mib} of {total_mib} MiB are free now"
            ));
        }
        Ok(())
    }
}

fn failure(
    kind: ConfigErrorKind,
    key: &str,
    path: &Path,
    advice: impl Into<String>,
) -> ConfigError {
    ConfigError::new(kind, key, path.display(), advice)
}

fn check_state_dir(path: &Path) -> Result<(), ConfigError> {
    let metadata = std::fs::metadata(path).map_err(|error| {
        let advice = format!("{error}; `weft fs create` makes it");
        failure(ConfigErrorKind::Missing, "state_dir", path, advice)
    })?;
    if !metadata.is_dir() {
        return Err(failure(ConfigErrorKind::Unusable, "state_dir", path, "this is not a folder"));
    }
    check_access("state_dir", path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
}

/// `None` when there is no such file and it may be missing.
fn target_metadata(path: &Path, missing: MissingTargets) -> Result<Option<Metadata>, ConfigError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            let gone = error.kind() == std::io::ErrorKind::NotFound;
            return match missing {
                MissingTargets::Passed => Ok(None),
                _ if !gone => {
                    let advice = error.to_string();
                    Err(failure(ConfigErrorKind::Unusable, "targets", path, advice))
                }
                MissingTargets::Allowed => check_parent(path).map(|()| None),
                MissingTargets::Refused => {
                    let advice =
                        "there is no such device or file; `weft fs create` makes and formats files";
                    Err(failure(ConfigErrorKind::Missing, "targets", path, advice))
                }
            };
        }
    };
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        let advice = "a target is a block device or a plain file, this is neither";
        return Err(failure(ConfigErrorKind::Unusable, "targets", path, advice));
    }
    check_access("targets", path, Access::READ_OK | Access::WRITE_OK)?;
    Ok(Some(metadata))
}

fn check_parent(path: &Path) -> Result<(), ConfigError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    // The state folder's formatter makes missing folders; only one that is there can be held to anything.
    if parent.is_dir() {
        return check_access("targets", parent, Access::WRITE_OK | Access::EXEC_OK);
    }
    if parent.exists() {
        let advice = format!("{} is not a folder", parent.display());
        return Err(failure(ConfigErrorKind::Unusable, "targets", path, advice));
    }
    Ok(())
}

fn check_access(key: &str, path: &Path, wanted: Access) -> Result<(), ConfigError> {
    access(path, wanted).map_err(|error| {
        let error = std::io::Error::from(error);
        let advice = format!("this process may not read and write it: {error}");
        failure(ConfigErrorKind::Unusable, key, path, advice)
    })
}

fn identity(metadata: &Metadata) -> Identity {
    if metadata.file_type().is_block_device() {
        (true, metadata.rdev(), 0)
    } else {
        (false, metadata.dev(), metadata.ino())
    }
}

/// Total and available memory of the machine, in MiB.
fn memory_mib() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
        Some(kib / 1024)
    };
    Some((field("MemTotal:")?, field("MemAvailable:")?))
}
