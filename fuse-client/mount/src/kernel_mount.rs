//! The mount itself: /dev/fuse, mount(2), the read-ahead of the mount, and umount2(2). Linux only.
//!
//! The mount exists from [`KernelMount::new`] on, and every access to it waits for the client to
//! answer INIT and then the request itself. So nothing here looks at the mount point after
//! mounting: the device number comes from /proc/self/mountinfo.
//! Dropping a [`KernelMount`] leaves the mount; closing the last descriptor of /dev/fuse kills it.

mod mountinfo;

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

pub use mountinfo::{DeviceNumber, MountInfo};

const FUSE_DEVICE: &str = "/dev/fuse";
const MOUNTINFO: &str = "/proc/self/mountinfo";
/// File system type as /proc/mounts shows it: the kernel's "fuse" with this subtype.
pub const FS_TYPE: &str = "fuse.weft";

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// /dev/fuse is not there or cannot be opened.
    NoFuse,
    /// The caller may not mount.
    NotPermitted,
    /// The mount point is not there, or not a directory.
    MountPoint,
    /// Something is mounted there already.
    Busy,
    /// A mount is there whose client is dead.
    DeadMount,
    /// The kernel refused for another reason.
    Kernel,
}

/// A mount that did not come to be, or a step of it that failed.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {advice}", path.display())]
pub struct MountError {
    /// What to branch on.
    pub kind: Kind,
    /// What was tried.
    pub what: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why, in words, and what to do next.
    pub advice: &'static str,
    /// The system's error.
    #[source]
    pub source: Option<io::Error>,
}

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountConfig {
    /// What /proc/mounts shows as the device: `HOST:PORT:/`.
    pub source: String,
    /// Where.
    pub mount_point: PathBuf,
    /// ro, nosuid, nodev, noexec, noatime, ...
    pub flags: MountFlags,
    /// The longest READ.
    pub max_read_bytes: u32,
}

/// A mount and the open device that serves it.
#[derive(Debug)]
pub struct KernelMount {
    device: OwnedFd,
    mount_point: PathBuf,
    number: DeviceNumber,
}

impl KernelMount {
    /// Checks the mount point, opens /dev/fuse and mounts. From here on the kernel has an INIT
    /// request waiting on the device.
    ///
    /// # Errors
    /// What is missing, or in the way, and what to do about it.
    pub fn new(config: &MountConfig) -> Result<Self, MountError> {
        let mount_point = check_mount_point(&config.mount_point)?;
        let device = open_device()?;
        mount(config, &mount_point, &device)?;
        let number = mount_at(&mount_point)?.map(|found| found.device);
        let Some(number) = number else {
            let advice = "it is not in /proc/self/mountinfo: was it unmounted at once?";
            return Err(error(Kind::Kernel, "find the mount", &mount_point, advice, None));
        };
        Ok(Self { device, mount_point, number })
    }

    /// The descriptor of /dev/fuse, in blocking mode.
    #[must_use]
    pub const fn device(&self) -> &OwnedFd {
        &self.device
    }

    /// Where it is mounted, without symbolic links.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// The mount's device number, as `stat` shows it.
    #[must_use]
    pub const fn device_number(&self) -> DeviceNumber {
        self.number
    }

    /// Takes the descriptor, to register it with the ring, and the mount point, to unmount.
    #[must_use]
    pub fn into_parts(self) -> (OwnedFd, PathBuf) {
        (self.device, self.mount_point)
    }

    /// Sets the read-ahead of this mount's page cache. After INIT was answered, with at least as
    /// much in `max_readahead`: the kernel takes the smaller of both.
    ///
    /// # Errors
    /// The file in /sys is missing or cannot be written; the mount works on with the default.
    pub fn set_read_ahead(&self, read_ahead_kib: u32) -> Result<(), MountError> {
        let path = self.read_ahead_path();
        fs::write(&path, read_ahead_kib.to_string()).map_err(|source| {
            let advice = "the mount works on with the kernel's default read-ahead";
            error(Kind::Kernel, "write", &path, advice, Some(source))
        })
    }

    /// The file in /sys with the read-ahead of this mount.
    #[must_use]
    pub fn read_ahead_path(&self) -> PathBuf {
        let DeviceNumber { major, minor } = self.number;
        PathBuf::from(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"))
    }
}

/// Unmounts: new accesses see what was below, open files work on while the client serves.
///
/// # Errors
/// Nothing is mounted there, or the caller may not unmount.
pub fn unmount(mount_point: &Path) -> Result<(), MountError> {
    rustix::mount::unmount(mount_point, UnmountFlags::DETACH).map_err(|errno| {
        let (kind, advice) = match errno {
            Errno::INVAL | Errno::NOENT => (Kind::MountPoint, "nothing is mounted there"),
            Errno::PERM => (Kind::NotPermitted, "unmounting needs root (CAP_SYS_ADMIN)"),
            _ => (Kind::Kernel, "the kernel refused"),
        };
        error(kind, "unmount", mount_point, advice, Some(errno.into()))
    })
}

/// [`check_mount_point`], after taking away a Weft mount there whose client is dead: nobody can use it any more.
///
/// # Errors
/// What is in the way, and what to do about it.
pub fn clear_mount_point(path: &Path) -> Result<PathBuf, MountError> {
    loop {
        match check_mount_point(path) {
            Err(found) if found.kind == Kind::DeadMount => {
                let absolute =
                    std::path::absolute(path).map_err(|source| mount_point_error(path, source))?;
                if !mount_at(&absolute)?.is_some_and(|mount| mount.is_weft) {
                    return Err(found); // of another file system, or above
                }
                unmount(&absolute)?;
                tracing::warn!(
                    mount_point = %absolute.display(),
                    "a Weft mount whose client is dead was there: unmounted it"
                );
            }
            result => return result,
        }
    }
}

/// Resolves the mount point and finds what would be in the way, before anything is changed.
///
/// # Errors
/// What is in the way, and what to do about it.
pub fn check_mount_point(path: &Path) -> Result<PathBuf, MountError> {
    let what = "mount on";
    // First without touching it: a stat of a mount whose client hangs would hang, too.
    let absolute = std::path::absolute(path)
        .map_err(|source| error(Kind::MountPoint, what, path, "no such path", Some(source)))?;
    refuse_weft_mount(&absolute)?;
    let metadata = fs::metadata(&absolute).map_err(|source| mount_point_error(path, source))?;
    if !metadata.is_dir() {
        let advice = "the mount point is not a directory";
        return Err(error(Kind::MountPoint, what, path, advice, None));
    }
    let resolved = fs::canonicalize(&absolute).map_err(|source| mount_point_error(path, source))?;
    refuse_weft_mount(&resolved)?;
    match mount_at(&resolved)? {
        // systemd's automount waits below for exactly this mount.
        None | Some(MountInfo { is_autofs: true, .. }) => Ok(resolved),
        Some(_) => {
            let advice = "something is mounted there already; see `findmnt`, then `umount`";
            Err(error(Kind::Busy, what, path, advice, None))
        }
    }
}

fn refuse_weft_mount(path: &Path) -> Result<(), MountError> {
    match mount_at(path)? {
        // A dead one answers at once; one that is alive may be slow, but it is alive.
        Some(MountInfo { is_weft: true, .. }) => match fs::metadata(path) {
            Err(source) if Errno::from_io_error(&source) == Some(Errno::NOTCONN) => {
                Err(mount_point_error(path, source))
            }
            _ => {
                let advice = "a Weft file system is mounted there already";
                Err(error(Kind::Busy, "mount on", path, advice, None))
            }
        },
        _ => Ok(()),
    }
}

fn mount_point_error(path: &Path, source: io::Error) -> MountError {
    let (kind, advice) = match Errno::from_io_error(&source) {
        Some(Errno::NOTCONN) => (
            Kind::DeadMount,
            "a mount whose client is dead is there; clear it with `umount -l`, then mount again",
        ),
        Some(Errno::NOENT) => (Kind::MountPoint, "the mount point does not exist; `mkdir` it"),
        Some(Errno::NOTDIR) => (Kind::MountPoint, "a part of the path is not a directory"),
        _ => (Kind::MountPoint, "the mount point cannot be looked at"),
    };
    error(kind, "mount on", path, advice, Some(source))
}

fn open_device() -> Result<OwnedFd, MountError> {
    rustix::fs::open(FUSE_DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
        let advice = match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => {
                "the kernel has no FUSE; load it with `modprobe fuse`"
            }
            Errno::ACCESS | Errno::PERM => {
                "no permission; run as root, and in a container give it \
                the device /dev/fuse"
            }
            _ => "the device cannot be opened",
        };
        error(Kind::NoFuse, "open", Path::new(FUSE_DEVICE), advice, Some(errno.into()))
    })
}

fn mount(config: &MountConfig, mount_point: &Path, device: &OwnedFd) -> Result<(), MountError> {
    let mut data = format!("fd={},rootmode=40000,subtype=weft", device.as_raw_fd());
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    write!(data, ",user_id={},group_id={}", uid.as_raw(), gid.as_raw())
        .and_then(|()| write!(data, ",default_permissions,allow_other"))
        .and_then(|()| write!(data, ",max_read={}", config.max_read_bytes))
        .expect("writing to a String does not fail");
    let no_nul = "a NUL byte in the name";
    let bad = |_| error(Kind::MountPoint, "mount on", mount_point, no_nul, None);
    let source = CString::new(config.source.as_str()).map_err(bad)?;
    let target = CString::new(mount_point.as_os_str().as_bytes()).map_err(bad)?;
    let data = CString::new(data).map_err(bad)?;
    rustix::mount::mount(&*source, &*target, c"fuse", config.flags, &*data).map_err(|errno| {
        let (kind, advice) = match errno {
            Errno::PERM => (Kind::NotPermitted, "mounting needs root (CAP_SYS_ADMIN)"),
            Errno::BUSY => (Kind::Busy, "something is mounted there already"),
            Errno::NODEV => (Kind::NoFuse, "the kernel has no FUSE; load it with `modprobe fuse`"),
            Errno::NOENT | Errno::NOTDIR => (Kind::MountPoint, "the mount point is gone"),
            _ => (Kind::Kernel, "the kernel refused; `dmesg` may say why"),
        };
        error(kind, "mount on", mount_point, advice, Some(errno.into()))
    })
}

/// The topmost mount at exactly this path.
fn mount_at(path: &Path) -> Result<Option<MountInfo>, MountError> {
    let table = fs::read(MOUNTINFO).map_err(|source| {
        let advice = "is /proc mounted?";
        error(Kind::Kernel, "read", Path::new(MOUNTINFO), advice, Some(source))
    })?;
    Ok(mountinfo::topmost_at(&table, path))
}

fn error(
    kind: Kind,
    what: &'static str,
    path: &Path,
    advice: &'static str,
    source: Option<io::Error>,
) -> MountError {
    MountError { kind, what, path: path.to_owned(), advice, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mount_point: &Path) -> MountConfig {
        MountConfig {
            source: "127.0.0.1:7811:/".to_owned(),
            mount_point: mount_point.to_owned(),
            flags: MountFlags::empty(),
            max_read_bytes: 1 << 20,
        }
    }

    #[test]
    fn the_mount_point_is_checked_before_anything_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let missing = KernelMount::new(&config(&dir.path().join("missing"))).unwrap_err();
        assert_eq!(missing.kind, Kind::MountPoint);
        assert!(missing.to_string().contains("does not exist"), "{missing}");
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let not_dir = KernelMount::new(&config(&file)).unwrap_err();
        assert!(not_dir.to_string().contains("is not a directory"), "{not_dir}");
        let below = KernelMount::new(&config(&file.join("x"))).unwrap_err();
        assert!(below.to_string().contains("not a directory"), "{below}");
        let busy = KernelMount::new(&config(Path::new("/proc"))).unwrap_err();
        assert_eq!(busy.kind, Kind::Busy);
        assert!(busy.to_string().contains("/proc"), "{busy}");
    }

    #[test]
    fn unmounting_what_is_not_mounted_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let error = unmount(dir.path()).unwrap_err();
        assert!(matches!(error.kind, Kind::MountPoint | Kind::NotPermitted), "{error}");
    }
}
