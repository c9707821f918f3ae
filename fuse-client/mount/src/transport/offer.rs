//! Whether this kernel offers FUSE over io_uring, and switching it on.
//!
//! The kernel has a switch for all mounts of the machine, off unless an admin or we turn it on; that needs root, which
//! mounting needs too. It only allows: mounts of others that do not ask for queues stay as they are.

use std::fs;
use std::io;
use std::path::Path;

/// The switch.
pub const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
/// Where CPUs are counted.
const CPUS: &str = "/sys/devices/system/cpu/possible";
/// More CPUs than any machine has; each costs at least one entry.
const CPUS_MAX: u16 = 8192;

/// The kernel offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// We turned the switch on just now.
    pub switched_on: bool,
    /// How many queues the kernel wants: one for each CPU there may ever be.
    pub queue_count: u16,
}

/// Why requests cannot come over io_uring here, and what would help.
#[derive(Debug, thiserror::Error)]
pub enum NoOffer {
    /// The kernel has no such switch.
    #[error("this kernel has no FUSE over io_uring (Linux 6.14 with CONFIG_FUSE_IO_URING has)")]
    Kernel,
    /// It is off and stays off.
    #[error("{SWITCH} is N and cannot be written ({0}); as root: echo Y > {SWITCH}")]
    Switch(io::Error),
    /// The count of CPUs cannot be read.
    #[error("{CPUS} cannot be understood; is /sys mounted?")]
    Cpus,
    /// Rings of this process cannot carry commands.
    #[error("{0}")]
    Ring(String),
}

/// Turns the switch on, unless it is.
///
/// # Errors
/// It cannot be had here, and why.
pub fn ask() -> Result<Offer, NoOffer> {
    ask_at(Path::new(SWITCH), Path::new(CPUS))
}

fn ask_at(switch: &Path, cpus: &Path) -> Result<Offer, NoOffer> {
    let state = fs::read_to_string(switch).map_err(|_| NoOffer::Kernel)?;
    let switched_on = !matches!(state.trim(), "Y" | "1");
    if switched_on {
        fs::write(switch, "Y").map_err(NoOffer::Switch)?;
    }
    let cpus = fs::read_to_string(cpus).map_err(|_| NoOffer::Cpus)?;
    let queue_count = count_cpus(&cpus).ok_or(NoOffer::Cpus)?;
    Ok(Offer { switched_on, queue_count })
}

/// How many CPUs a list names, if there can be so many queues.
fn count_cpus(list: &str) -> Option<u16> {
    let count = u16::try_from(weft_ring::count_cores(list)?).ok();
    count.filter(|count| (1..=CPUS_MAX).contains(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted_and_nonsense_is_refused() {
        assert_eq!(count_cpus("0-1\n"), Some(2));
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus("0-3,8,10-11"), Some(7));
        for bad in ["", "\n", "a", "1-", "-1", "3-1", "0-4294967295", "0-70000", "0,,1"] {
            assert_eq!(count_cpus(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_switch_is_turned_on_once_and_what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (switch, cpus) = (dir.path().join("switch"), dir.path().join("cpus"));
        assert!(matches!(ask_at(&switch, &cpus), Err(NoOffer::Kernel)));
        fs::write(&switch, "N\n").unwrap();
        assert!(matches!(ask_at(&switch, &cpus), Err(NoOffer::Cpus)));
        fs::write(&switch, "N\n").unwrap();
        fs::write(&cpus, "0-7\n").unwrap();
        assert_eq!(ask_at(&switch, &cpus).unwrap(), Offer { switched_on: true, queue_count: 8 });
        assert_eq!(ask_at(&switch, &cpus).unwrap(), Offer { switched_on: false, queue_count: 8 });
        assert!(
            NoOffer::Switch(io::ErrorKind::PermissionDenied.into()).to_string().contains("echo Y")
        );
    }
}
