//! Idle cores that do not halt while something is under way.
//!
//! Each of the wake-ups between a program's call and its answer (mount, shard, the kernel's threads behind a durable write, the
//! program itself) meets a core that is idle or not. On a virtual machine an idle core that has halted is woken by the
//! hypervisor, which takes 20 to 50 us; one whose idle loop polls takes the wake-up as a write to memory. The
//! kernel lets a process ask for that by a bound on the latency of wake-ups (`/dev/cpu_dma_latency`), which ends with
//! the process. An idle loop takes nothing from others: whoever wants the core gets it at once, which is what a thread
//! that spins cannot offer.
//!
//! It costs what an idle core saves by halting, on all cores of the machine. So it is asked for only while waits for what
//! is under way are short, and for a moment after the latest.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crate::host::online_cores;
use crate::spin::{Budgets, Until};

const DEVICE: &str = "/dev/cpu_dma_latency";
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";
/// The driver whose idle state is a halt that leaves the virtual machine.
const HALTING_DRIVER: &str = "haltpoll";
/// Cores that may poll unasked.
const CORES_MAX: u32 = 16;

/// In microseconds: no latency at all, and what the kernel takes for no bound (`PM_QOS_CPU_LATENCY_DEFAULT_VALUE`).
const POLL: i32 = 0;
const NO_BOUND: i32 = 2_000_000_000;

/// Waits for something under way are short up to this, those for somebody's next wish up to a quarter of it: so long do
/// cores poll after the start of the latest.
const SHORT: Duration = Duration::from_millis(2);

/// Whether idle cores that poll are worth it on this machine: where their halts leave a virtual machine, and they are few.
/// Measured there only: `benchmarks/RESULTS.md`.
#[must_use]
pub fn idle_poll_pays() -> bool {
    let driver = std::fs::read_to_string(DRIVER).unwrap_or_default();
    driver.trim() == HALTING_DRIVER && online_cores().is_some_and(|count| count <= CORES_MAX)
}

/// One thread's wish.
#[derive(Debug)]
pub(crate) struct Awake {
    /// Absent where it is not wanted or the kernel does not let us. It ends our wish when it is closed.
    device: Option<File>,
    /// Until when cores poll for us.
    end: Option<Duration>,
    budgets: Budgets,
}

impl Awake {
    pub(crate) fn new(is_wanted: bool) -> Awake {
        Awake::with(is_wanted.then_some(Path::new(DEVICE)))
    }

    fn with(device: Option<&Path>) -> Awake {
        let device = device.and_then(|path| File::options().write(true).open(path).ok());
        Awake { device, end: None, budgets: Budgets::new(SHORT) }
    }

    /// Whether it is wanted and can be had.
    pub(crate) fn is_on(&self) -> bool {
        self.device.is_some()
    }

    /// A wait begins. True when cores halted before, and poll now.
    pub(crate) fn wait_begins(&mut self, until: Until, now: Duration) -> bool {
        if !self.is_on() || self.budgets.get(until).is_zero() {
            return false;
        }
        let end = now + self.budgets.max(until);
        let before = self.end.replace(self.end.map_or(end, |before| before.max(end)));
        before.is_none() && self.ask(POLL)
    }

    /// A wait is over.
    pub(crate) fn waited(&mut self, until: Until, waited: Duration) {
        self.budgets.waited(until, waited);
    }

    /// How much longer cores poll; zero when that is over and [`Awake::lapse`] is due; `None` when they do not.
    pub(crate) fn left(&self, now: Duration) -> Option<Duration> {
        self.end.map(|end| end.saturating_sub(now))
    }

    /// Lets cores halt.
    pub(crate) fn lapse(&mut self) {
        if self.end.take().is_some() {
            self.ask(NO_BOUND);
        }
    }

    /// False when the kernel refuses, which ends it: it is a matter of speed only.
    fn ask(&mut self, latency_us: i32) -> bool {
        let Some(device) = &mut self.device else { return false };
        let asked = device.write_all(&latency_us.to_ne_bytes()).is_ok();
        if !asked {
            *self = Awake::with(None);
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn asked(path: &Path) -> Vec<i32> {
        let bytes = std::fs::read(path).unwrap();
        let numbers = bytes.chunks(4).map(|four| i32::from_ne_bytes(four.try_into().unwrap()));
        numbers.collect()
    }

    #[test]
    fn cores_poll_while_waits_are_short_and_halt_after_the_latest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut awake = Awake::with(Some(file.path()));
        assert!(!awake.wait_begins(Until::Done, MS), "nothing is known yet");
        awake.waited(Until::Done, MS);
        assert!(!awake.wait_begins(Until::Asked, 2 * MS), "each kind by itself");
        assert!(awake.wait_begins(Until::Done, 2 * MS));
        assert!(!awake.wait_begins(Until::Done, 3 * MS), "they do already");
        assert_eq!(awake.left(4 * MS), Some(MS), "counted from the latest");
        awake.waited(Until::Asked, SHORT / 8);
        assert!(!awake.wait_begins(Until::Asked, 4 * MS));
        assert_eq!(awake.left(4 * MS), Some(MS), "no shorter for the wish that may come");
        assert_eq!(awake.left(9 * MS), Some(Duration::ZERO));
        assert_eq!(asked(file.path()), [POLL], "one call of the kernel for all of these");
        awake.lapse();
        awake.lapse();
        assert_eq!(awake.left(9 * MS), None);
        assert_eq!(asked(file.path()), [POLL, NO_BOUND]);
        assert!(awake.wait_begins(Until::Done, 10 * MS));
        assert_eq!(asked(file.path()), [POLL, NO_BOUND, POLL]);
    }

    #[test]
    fn long_waits_end_it_and_one_short_wait_begins_it_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut awake = Awake::with(Some(file.path()));
        for until in [Until::Done, Until::Asked] {
            for _ in 0..20 {
                awake.waited(until, SHORT / 8);
            }
            let mut polled = 0;
            while awake.wait_begins(until, MS) {
                awake.lapse();
                awake.waited(until, 100 * MS);
                polled += 1;
                assert!(polled < 20, "a server that is away is polled for");
            }
            assert!(polled > 1, "one long wait ended it");
            awake.waited(until, SHORT / 8);
            assert!(awake.wait_begins(until, MS));
            awake.lapse();
        }
    }

    #[test]
    fn where_the_kernel_does_not_offer_it_nothing_happens() {
        for mut awake in [Awake::new(false), Awake::with(Some(Path::new("/proc/no such file")))] {
            assert!(!awake.is_on());
            awake.waited(Until::Done, MS);
            assert!(!awake.wait_begins(Until::Done, MS));
            assert_eq!(awake.left(MS), None);
            awake.lapse();
        }
        // Opens, and refuses each write.
        let mut awake = Awake::with(Some(Path::new("/dev/full")));
        awake.waited(Until::Done, MS);
        assert!(!awake.wait_begins(Until::Done, MS));
        assert!(!awake.is_on(), "not tried again");
    }

    #[test]
    fn this_kernel_believes_it() {
        let Ok(mut device) = File::open(DEVICE) else {
            return eprintln!("skipped: {DEVICE} cannot be opened here");
        };
        let mut awake = Awake::new(true);
        awake.waited(Until::Done, MS);
        assert!(awake.wait_begins(Until::Done, MS));
        let mut bound = [0; 4];
        device.read_exact(&mut bound).unwrap();
        assert_eq!(i32::from_ne_bytes(bound), POLL);
    }
}
