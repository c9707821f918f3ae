//! Whether more threads want to run than the machine has cores: then a core that a thread spins on is one that others lack.
//!
//! A spin that finds its own core free is no proof that there are idle ones: two programs that compute and two threads that spin
//! on two cores end as two of each on one, and what the device's interrupts leave to the kernel's threads on the other core then
//! waits for time slices of 4 ms.

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::host::online_cores;

/// Load averages, and in the fourth field how many threads run or want to now.
const LOADAVG: &str = "/proc/loadavg";
/// Longer than that file ever is.
const LOADAVG_BYTES_MAX: usize = 128;

/// Knows how many cores there are, and asks the kernel how many are wanted.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// Absent where the kernel does not tell: then there is no crowd.
    loadavg: Option<OwnedFd>,
    core_count: u32,
}

impl Crowd {
    pub(crate) fn new() -> Crowd {
        let cores = online_cores();
        let loadavg = cores.and_then(|_| File::open(LOADAVG).ok()).map(OwnedFd::from);
        Crowd { loadavg, core_count: cores.unwrap_or(u32::MAX) }
    }

    /// Whether somebody waits for a core now, the caller counted. Takes 1 to 2 us.
    pub(crate) fn is_full(&self) -> bool {
        let Some(loadavg) = &self.loadavg else { return false };
        let mut text = [0; LOADAVG_BYTES_MAX];
        let read = rustix::io::pread(loadavg, &mut text, 0);
        read.is_ok_and(|bytes| {
            runnable(&text[..bytes]).is_some_and(|count| count > self.core_count)
        })
    }
}

/// The fourth field's first number.
fn runnable(loadavg: &[u8]) -> Option<u32> {
    let field = loadavg.split(|byte| *byte == b' ').nth(3)?;
    let count = field.split(|byte| *byte == b'/').next()?;
    std::str::from_utf8(count).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_understood_and_nonsense_is_no_crowd() {
        assert_eq!(runnable(b"0.20 0.18 0.12 13/80 11206\n"), Some(13));
        for bad in ["", "0.1", "0.1 0.1 0.1", "0.1 0.1 0.1 x/80 1", "0.1 0.1 0.1 -1/80 1"] {
            assert_eq!(runnable(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn one_thread_more_than_cores_is_a_crowd() {
        let here = Crowd::new();
        assert!(here.loadavg.is_some(), "this kernel tells");
        // The caller runs, at least.
        assert!(Crowd { core_count: 0, ..Crowd::new() }.is_full());
        assert!(!Crowd { core_count: u32::MAX, ..here }.is_full());
    }
}
