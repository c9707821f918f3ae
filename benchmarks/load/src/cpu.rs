//! CPU seconds of Weft's processes, from `/proc/PID/stat`, before and after a row.

use crate::error::{At, Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which side of the mount a process is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

/// CPU seconds used during a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct CpuUse {
    pub(crate) server_s: f64,
    pub(crate) mount_s: f64,
}

/// The processes to watch: those given, or every one of our names.
#[derive(Debug)]
pub(crate) struct Daemons {
    pids: Option<Vec<u32>>,
    ticks_per_s: f64,
}

/// Ticks used so far by each process.
#[derive(Debug)]
pub(crate) struct Reading(BTreeMap<u32, (Side, u64)>);

impl Daemons {
    /// Watches `pids`, which must be Weft's; with none given, every process with one of our names.
    pub(crate) fn new(pids: &[u32]) -> Result<Self> {
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        let pids = (!pids.is_empty()).then(|| pids.to_vec());
        let daemons = Self { pids, ticks_per_s };
        for &pid in daemons.pids.iter().flatten() {
            let path = PathBuf::from(format!("/proc/{pid}"));
            fs::metadata(&path).at("look at", &path)?;
            if look(pid).is_none() {
                return Err(Error::usage("--daemon-pid", format!("{pid} is no Weft process")));
            }
        }
        Ok(daemons)
    }

    /// What they have used; empty when none runs.
    pub(crate) fn read(&self) -> Reading {
        let pids = self.pids.clone().unwrap_or_else(all_pids);
        Reading(pids.into_iter().filter_map(|pid| Some((pid, look(pid)?))).collect())
    }

    /// None when nothing runs, or a process came or went in between: a part of the sum would mislead.
    pub(crate) fn used(&self, before: &Reading, after: &Reading) -> Option<CpuUse> {
        if before.0.is_empty() || !before.0.keys().eq(after.0.keys()) {
            return None;
        }
        let mut used = CpuUse { server_s: 0.0, mount_s: 0.0 };
        for ((side, start), (_, end)) in before.0.values().zip(after.0.values()) {
            let seconds = end.saturating_sub(*start) as f64 / self.ticks_per_s;
            match side {
                Side::Server => used.server_s += seconds,
                Side::Client => used.mount_s += seconds,
            }
        }
        Some(used)
    }
}

/// Ticks of all cores together since boot; nothing where `/proc/stat` cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Machine {
    idle: u64,
    all: u64,
}

impl Machine {
    pub(crate) fn read() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(&stat).unwrap_or_default()
    }

    /// The first line: user, nice, system, idle, iowait, irq, softirq, steal; guests are within user.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> =
            line.split_ascii_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
        let idle = ticks.get(3)? + ticks.get(4)?;
        Some(Self { idle, all: ticks.iter().sum() })
    }

    /// The part of the time between two readings in which cores worked; none of readings too close to tell.
    pub(crate) fn busy_until(&self, later: &Self) -> Option<f64> {
        let all = later.all.checked_sub(self.all).filter(|all| *all > 0)?;
        let idle = later.idle.saturating_sub(self.idle).min(all);
        Some((all - idle) as f64 / all as f64)
    }
}

fn all_pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The side of a process and its user and system ticks, if it is one of ours. The program's file tells; the name of a
/// process that started itself anew through `/proc/self/exe`, as the mount does, is `exe`.
fn look(pid: u32) -> Option<(Side, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, ticks) = parse_stat(&stat)?;
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let program = program.as_deref().and_then(Path::file_name).and_then(|file| file.to_str());
    Some((side(program.unwrap_or(name))?, ticks))
}

fn side(program: &str) -> Option<Side> {
    // The kernel's mark on a file that a newer build has replaced.
    match program.strip_suffix(" (deleted)").unwrap_or(program) {
        "weft-server" => Some(Side::Server),
        "mount-weft" | "mount.weft" => Some(Side::Client),
        _ => None,
    }
}

/// Name and user and system ticks. Field 2, the name, is in parentheses and may hold anything, so the fields count
/// from the last one.
fn parse_stat(stat: &str) -> Option<(&str, u64)> {
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    let mut fields = tail.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((name, user + system))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "42 (weft-server) S 1 42 42 0 -1 4194560 900 0 0 0 150 50 7 7 20 0 3 0 99 1 2";

    fn reading(entries: &[(u32, Side, u64)]) -> Reading {
        Reading(entries.iter().map(|&(pid, side, ticks)| (pid, (side, ticks))).collect())
    }

    #[test]
    fn stat_line() {
        assert_eq!(parse_stat(STAT), Some(("weft-server", 200)));
        assert_eq!(parse_stat(&STAT.replace("weft-server", "a) b (c")), Some(("a) b (c", 200)));
        assert_eq!(parse_stat("42 (weft-server) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn machine_time() {
        let at = |idle| Machine::parse(&format!("cpu  100 0 50 {idle} 20 1 2 3 9 9\ncpu0 1 1\n"));
        let (before, after) = (at(1000).expect("a line"), at(1100).expect("a line"));
        assert_eq!(before, Machine { idle: 1020, all: 1176 });
        assert_eq!(before.busy_until(&after), Some(0.0), "only idle time passed");
        let worked = Machine { idle: 1020, all: 1276 };
        assert_eq!(before.busy_until(&worked), Some(1.0));
        assert_eq!(before.busy_until(&before), None);
        assert_eq!(Machine::parse("intr 1"), None);
        assert_eq!(Machine::parse("cpu  1 2 3"), None);
    }

    #[test]
    fn whose_program() {
        assert_eq!(side("weft-server"), Some(Side::Server));
        assert_eq!(side("mount-weft (deleted)"), Some(Side::Client));
        assert_eq!(side("exe"), None);
    }

    #[test]
    fn sums_by_side() {
        let daemons = Daemons { pids: None, ticks_per_s: 100.0 };
        let before = reading(&[(1, Side::Server, 10), (2, Side::Client, 5)]);
        let after = reading(&[(1, Side::Server, 110), (2, Side::Client, 55)]);
        let used = daemons.used(&before, &after).expect("same processes");
        assert_eq!(used, CpuUse { server_s: 1.0, mount_s: 0.5 });
    }

    #[test]
    fn a_process_that_came_or_went_gives_none() {
        let daemons = Daemons { pids: None, ticks_per_s: 100.0 };
        let before = reading(&[(1, Side::Server, 10)]);
        assert_eq!(daemons.used(&before, &reading(&[(2, Side::Server, 10)])), None);
        assert_eq!(daemons.used(&before, &reading(&[])), None);
        assert_eq!(daemons.used(&reading(&[]), &reading(&[])), None);
    }

    #[test]
    fn pid_of_something_else_is_refused() {
        assert!(Daemons::new(&[std::process::id()]).is_err());
        assert!(Daemons::new(&[u32::MAX]).is_err());
    }
}
