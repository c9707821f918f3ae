//! What may stand behind `-o`: one table of names, one function that applies an option.

use std::path::PathBuf;
use std::time::Duration;

use rustix::mount::MountFlags;
use weft_ring::SPIN_US_MAX;

use super::{Kind, LogLevel, OnTimeout, Options, TransportKind, UsageError};
use crate::negotiate::{MAX_WRITE_BYTES_LIMIT, PAGE_BYTES};
use crate::transport::DEPTH_MAX;

/// Options of mount(8) that are bits of mount(2): name, bits, whether they are set or cleared.
const FLAGS: &[(&str, MountFlags, bool)] = &[
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("nostrictatime", MountFlags::STRICTATIME, false),
    ("lazytime", MountFlags::LAZYTIME, true),
    ("nolazytime", MountFlags::LAZYTIME, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("silent", MountFlags::SILENT, true),
    ("loud", MountFlags::SILENT, false),
];

/// Meant for fstab, systemd or mount(8) itself, or always on here.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "nouser",
    "_netdev",
    "_rnetdev",
    "allow_other",
    "default_permissions",
];

/// Let others than root mount, and so imply what they must not do: as mount(8) says.
const USER_MOUNTS: &[&str] = &["user", "users", "owner", "group"];

/// Also ignored, whatever follows.
const IGNORED_PREFIXES: &[&str] = &["x-", "X-", "comment=", "uhelper=", "helper=", "user="];

const VALUED: &[&str] = &[
    "attr_timeout_ms",
    "entry_timeout_ms",
    "max_write_kib",
    "read_ahead_kib",
    "on_timeout",
    "timeout_ms",
    "log",
    "log_file",
    "transport",
    "queue_depth",
    "spin_us",
    "idle_poll",
    "locks",
    "local_socket",
];

const MILLISECONDS_MAX: u64 = 24 * 3600 * 1000;
const READ_AHEAD_KIB_MAX: u64 = 1024 * 1024;

/// Every option that is known by name.
pub static KNOWN: std::sync::LazyLock<Vec<&'static str>> = std::sync::LazyLock::new(|| {
    let flags = FLAGS.iter().map(|(name, ..)| *name);
    let rest = [VALUED, IGNORED, USER_MOUNTS, &["foreground"]].concat();
    flags.chain(rest).collect()
});

/// Applies one option.
pub(super) fn apply(options: &mut Options, option: &str) -> Result<(), UsageError> {
    if IGNORED_PREFIXES.iter().any(|prefix| option.starts_with(prefix)) {
        return Ok(());
    }
    match option.split_once('=') {
        Some((name, value)) if VALUED.contains(&name) => apply_value(options, name, value),
        Some((name, _)) if KNOWN.contains(&name) => {
            Err(UsageError::new(Kind::Value, format!("option {name} takes no value")))
        }
        None if VALUED.contains(&option) => {
            Err(UsageError::new(Kind::Value, format!("option {option} needs a value")))
        }
        None => apply_word(options, option),
        Some((name, _)) => Err(unknown(name)),
    }
}

fn apply_word(options: &mut Options, word: &str) -> Result<(), UsageError> {
    if word == "foreground" {
        options.foreground = true;
    } else if USER_MOUNTS.contains(&word) {
        options.mount_flags |= MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    } else if let Some((_, bits, on)) = FLAGS.iter().find(|(name, ..)| *name == word) {
        options.mount_flags.set(*bits, *on);
    } else if !IGNORED.contains(&word) {
        return Err(unknown(word));
    }
    Ok(())
}

fn apply_value(options: &mut Options, name: &str, value: &str) -> Result<(), UsageError> {
    let millis = |min| number(name, value, min, MILLISECONDS_MAX).map(Duration::from_millis);
    match name {
        "attr_timeout_ms" => options.attr_timeout = millis(0)?,
        "entry_timeout_ms" => options.entry_timeout = millis(0)?,
        "timeout_ms" => options.timeout = millis(1)?,
        "max_write_kib" => {
            let (page_kib, max_kib) = (PAGE_BYTES / 1024, MAX_WRITE_BYTES_LIMIT / 1024);
            let kib = small(number(name, value, page_kib.into(), max_kib.into())?);
            if !kib.is_multiple_of(page_kib) {
                let message = format!("option {name}={value}: not a multiple of {page_kib}");
                return Err(UsageError::new(Kind::Value, message));
            }
            options.max_write_kib = kib;
        }
        "read_ahead_kib" => {
            options.read_ahead_kib = small(number(name, value, 0, READ_AHEAD_KIB_MAX)?);
        }
        "on_timeout" => {
            let known = [("wait", OnTimeout::Wait), ("eio", OnTimeout::Eio)];
            options.on_timeout = one_of(name, value, &known)?;
        }
        "log" => {
            let all =
                [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
            options.log = one_of(name, value, &all.map(|level| (level.as_str(), level)))?;
        }
        "log_file" => {
            let path = PathBuf::from(value);
            if !path.is_absolute() {
                let message = format!("option log_file={value}: an absolute path is needed");
                return Err(UsageError::new(Kind::Value, message));
            }
            options.log_file = Some(path);
        }
        "transport" => {
            let known = [
                ("auto", TransportKind::Auto),
                ("uring", TransportKind::Uring),
                ("classic", TransportKind::Classic),
            ];
            options.transport = one_of(name, value, &known)?;
        }
        "locks" => {
            options.local_locks = one_of(name, value, &[("cluster", false), ("local", true)])?;
        }
        "local_socket" => {
            options.local_socket = one_of(name, value, &[("auto", true), ("off", false)])?;
        }
        "queue_depth" => {
            options.queue_depth = small(number(name, value, 1, DEPTH_MAX.into())?);
        }
        "spin_us" => options.spin_us = small(number(name, value, 0, SPIN_US_MAX.into())?),
        "idle_poll" => {
            let known = [("auto", None), ("on", Some(true)), ("off", Some(false))];
            options.idle_poll = one_of(name, value, &known)?;
        }
        _ => return Err(unknown(name)),
    }
    Ok(())
}

fn number(name: &str, value: &str, min: u64, max: u64) -> Result<u64, UsageError> {
    value.parse().ok().filter(|number| (min..=max).contains(number)).ok_or_else(|| {
        let message = format!("option {name}={value}: a number of {min} to {max} is needed");
        UsageError::new(Kind::Value, message)
    })
}

fn small(value: u64) -> u32 {
    u32::try_from(value).expect("the limits of these options are far below 2^32")
}

fn one_of<T: Copy>(name: &str, value: &str, known: &[(&str, T)]) -> Result<T, UsageError> {
    known.iter().find(|(word, _)| *word == value).map(|(_, found)| *found).ok_or_else(|| {
        let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
        let message = format!("option {name}={value}: must be {}", words.join(", "));
        UsageError::new(Kind::Value, message)
    })
}

fn unknown(name: &str) -> UsageError {
    let nearest = KNOWN
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), *known))
        .min()
        .filter(|(distance, known)| *distance * 2 <= known.len().max(name.len()));
    let message = match nearest {
        Some((_, known)) => format!("unknown option {name}; did you mean {known}?"),
        None => format!("unknown option {name}; see --help"),
    };
    UsageError::new(Kind::UnknownOption, message)
}
