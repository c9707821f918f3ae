//! /proc/self/mountinfo: what is mounted at a path, learnt without touching the path.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A device number in its two halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceNumber {
    /// 0 for a file system without a block device.
    pub major: u32,
    /// Counts the mounts.
    pub minor: u32,
}

/// What this crate wants to know of one mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// The file system's device number.
    pub device: DeviceNumber,
    /// One of ours.
    pub is_weft: bool,
    /// systemd's automount.
    pub is_autofs: bool,
}

/// The mount that covers all others at exactly `path`: the last line about it.
pub(super) fn topmost_at(table: &[u8], path: &Path) -> Option<MountInfo> {
    let lines = table.split(|&byte| byte == b'\n');
    lines.filter_map(|line| parse(line, path)).next_back()
}

/// `36 35 98:0 /root /mount/point options optional... - type source super-options`
fn parse(line: &[u8], path: &Path) -> Option<MountInfo> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = device_number(fields.nth(2)?)?;
    let mount_point = fields.nth(1)?;
    if unescape(mount_point) != path.as_os_str().as_bytes() {
        return None;
    }
    fields.find(|&field| field == b"-")?;
    let fs_type = fields.next()?;
    let is_weft = fs_type == super::FS_TYPE.as_bytes();
    Some(MountInfo { device, is_weft, is_autofs: fs_type == b"autofs" })
}

fn device_number(field: &[u8]) -> Option<DeviceNumber> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Undoes the kernel's `\040` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let code = tail.get(..3).filter(|_| *first == b'\\').and_then(octal);
        out.push(code.unwrap_or(*first));
        if code.is_some() {
            rest = &tail[3..];
        }
    }
    out
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:27 / /mnt/a rw - autofs systemd-1 rw,fd=3
31 30 0:44 / /mnt/a rw,nosuid shared:7 master:2 - fuse.weft h:7811:/ rw,user_id=0
40 22 0:45 / /mnt/with\\040space\\134 rw - tmpfs none rw
garbage
41 22 x:y / /mnt/bad rw - tmpfs none rw
";

    #[test]
    fn the_last_mount_at_a_path_counts() {
        let found = topmost_at(TABLE, Path::new("/mnt/a")).unwrap();
        let device = DeviceNumber { major: 0, minor: 44 };
        assert_eq!(found, MountInfo { device, is_weft: true, is_autofs: false });
        let root = topmost_at(TABLE, Path::new("/")).unwrap();
        assert_eq!(root.device, DeviceNumber { major: 254, minor: 0 });
    }

    #[test]
    fn only_the_exact_path_counts_and_escapes_are_undone() {
        assert_eq!(topmost_at(TABLE, Path::new("/mnt")), None);
        assert_eq!(topmost_at(TABLE, Path::new("/mnt/bad")), None);
        let found = topmost_at(TABLE, Path::new("/mnt/with space\\")).unwrap();
        assert_eq!(found.device.minor, 45);
    }

    #[test]
    fn odd_escapes_stay_as_they_are() {
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"a\\999b\\"), b"a\\999b\\");
        assert_eq!(unescape(b"\\011\\012"), b"\t\n");
    }
}
