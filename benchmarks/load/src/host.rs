//! What a result must say about where it was taken.

use serde::Serialize;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The machine and the build.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Host {
    pub(crate) host: String,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpu_count: usize,
    /// Commit of the checkout, with `-dirty` when tracked files differ from it.
    pub(crate) commit: String,
    /// The one-minute load average at the start: other work disturbs.
    pub(crate) load_average: f64,
}

impl Host {
    pub(crate) fn here() -> Self {
        let uname = rustix::system::uname();
        let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            host: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            cpu: cpu_model(&cpu_info),
            cpu_count: std::thread::available_parallelism().map_or(0, usize::from),
            commit: commit(),
            load_average: load.split(' ').next().and_then(|l| l.parse().ok()).unwrap_or(-1.0),
        }
    }
}

fn cpu_model(cpu_info: &str) -> String {
    let line = cpu_info.lines().find(|line| line.starts_with("model name"));
    line.and_then(|l| l.split_once(':')).map_or("unknown".into(), |(_, name)| name.trim().into())
}

/// The commit of the sources this program was built from, as they are now.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output =
            Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(args).output();
        let output = output.ok().filter(|o| o.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    let clean = git(&["status", "--porcelain", "-uno"]).is_some_and(|s| s.trim().is_empty());
    format!("{}{}", head.trim(), if clean { "" } else { "-dirty" })
}

/// Type and source of the file system that holds `path`, as `ext4 (/dev/vda)`.
pub(crate) fn file_system(path: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    file_system_in(&table, path)
}

fn file_system_in(mountinfo: &str, path: &Path) -> String {
    let mut best: Option<(usize, String)> = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(place) = left.split(' ').nth(4) else { continue };
        let place = place.replace("\\040", " ");
        let mut words = right.split(' ');
        let (Some(kind), Some(source)) = (words.next(), words.next()) else { continue };
        // Later lines cover earlier ones at the same place.
        if path.starts_with(&place) && best.as_ref().is_none_or(|(len, _)| place.len() >= *len) {
            best = Some((place.len(), format!("{kind} ({source})")));
        }
    }
    best.map_or("unknown".into(), |(_, found)| found)
}

/// Writes dirty data back and drops the page, dentry and inode caches. False where that is not allowed.
pub(crate) fn drop_caches() -> bool {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3\n").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_mount_point_wins() {
        let table = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            40 27 0:50 / /a/mnt rw shared:1 - fuse.weft 127.0.0.1:7811:/ rw\n\
            41 27 0:51 / /a/with\\040space rw - xfs /dev/vdb rw\n";
        let of = |path: &str| file_system_in(table, Path::new(path));
        assert_eq!(of("/a/mnt/x"), "fuse.weft (127.0.0.1:7811:/)");
        assert_eq!(of("/a/mntx"), "ext4 (/dev/vda)");
        assert_eq!(of("/a/with space/y"), "xfs (/dev/vdb)");
        assert_eq!(file_system_in("", Path::new("/")), "unknown");
    }

    #[test]
    fn cpu_name() {
        assert_eq!(cpu_model("processor : 0\nmodel name\t: AMD EPYC\n"), "AMD EPYC");
        assert_eq!(cpu_model(""), "unknown");
    }
}
