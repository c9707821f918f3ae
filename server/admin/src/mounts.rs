//! Weft mounts of this machine, from /proc/self/mounts.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::AdminError;

const MOUNTS: &str = "/proc/self/mounts";
/// File system type of a Weft mount.
const FS_TYPE: &[u8] = b"fuse.weft";
/// Names the program that serves a mount is called by: as mount(8) does, and as it is built.
const CLIENT_NAMES: [&[u8]; 2] = [b"mount.weft", b"mount-weft"];
/// The first argument of the process that serves (`fuse-client/mount/src/options.rs`).
const CLIENT_CORE_ARG: &[u8] = b"--client-core";
/// Where each supervisor says what cannot be seen from outside (`fuse-client/mount/src/serve/status.rs`).
const STATUS_FOLDER: &str = "/run/weft-mounts";

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// `HOST:PORT:/`.
    pub(crate) source: String,
    /// Where.
    pub(crate) mount_point: PathBuf,
    /// One of ours.
    pub(crate) is_weft: bool,
    /// Mount options, as the kernel shows them.
    pub(crate) options: String,
}

impl Mount {
    /// `HOST:PORT` of the source.
    pub(crate) fn server(&self) -> Option<&str> {
        let (server, _path) = self.source.rsplit_once(":/")?;
        Some(server).filter(|server| !server.is_empty())
    }
}

/// Every mount, in the order they were made.
///
/// # Errors
/// The table cannot be read.
pub(crate) fn all() -> Result<Vec<Mount>, AdminError> {
    let table = std::fs::read(MOUNTS)
        .map_err(|error| AdminError::new(format!("read {MOUNTS}"), error, "is /proc mounted?"))?;
    Ok(parse(&table))
}

/// The mount that `path` (absolute, without symbolic links) lies on: the longest mount point above it, the last of
/// several at the same place.
pub(crate) fn of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.mount_point));
    above.max_by_key(|mount| mount.mount_point.as_os_str().len())
}

/// The processes of a mount that this user may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Client {
    /// Holds the mount.
    pub(crate) supervisor: Option<u32>,
    /// Serves it.
    pub(crate) core: Option<u32>,
}

/// Finds the processes of a mount.
pub(crate) fn client(mount: &Mount) -> Client {
    let mut client = Client::default();
    let Ok(entries) = std::fs::read_dir("/proc") else { return client };
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let (Some(pid), Ok(command)) = (pid, std::fs::read(entry.path().join("cmdline"))) else {
            continue;
        };
        match role(&command, mount.mount_point.as_os_str().as_bytes()) {
            Some(Role::Supervisor) => client.supervisor = Some(pid),
            Some(Role::Core) => client.core = Some(pid),
            None => {}
        }
    }
    client
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Supervisor,
    Core,
}

/// What a process with this command line is to the mount at `wanted`. Its first word counts, not the process's name:
/// the program may have been started as /proc/self/exe.
fn role(command: &[u8], wanted: &[u8]) -> Option<Role> {
    let mut args = command.split(|byte| *byte == 0);
    let program = args.next()?.rsplit(|byte| *byte == b'/').next()?;
    let is_core = args.clone().next() == Some(CLIENT_CORE_ARG);
    let serves = CLIENT_NAMES.contains(&program) && args.any(|arg| is_path(arg, wanted));
    serves.then_some(if is_core { Role::Core } else { Role::Supervisor })
}

/// How requests come from the kernel to the client of this supervisor, when it could say so.
pub(crate) fn client_transport(pid: u32) -> Option<String> {
    let status = std::fs::read_to_string(Path::new(STATUS_FOLDER).join(pid.to_string())).ok()?;
    transport_of(&status).map(str::to_owned)
}

fn transport_of(status: &str) -> Option<&str> {
    fact_of(status, "transport")
}

/// How many connections a mount has to servers, by way (`fuse-client/mount/src/serve/ways.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Servers {
    /// Over unix sockets, to servers of this machine.
    pub(crate) unix: u32,
    /// Over TCP.
    pub(crate) tcp: u32,
}

impl Servers {
    fn parse(text: &str) -> Option<Servers> {
        let number = |name| fact_of(text, name)?.parse().ok();
        Some(Servers { unix: number("unix")?, tcp: number("tcp")? })
    }

    /// The ways, in words.
    pub(crate) fn shown(self) -> &'static str {
        match (self.unix > 0, self.tcp > 0) {
            (true, false) => "unix",
            (false, true) => "tcp",
            (true, true) => "unix,tcp",
            (false, false) => "none",
        }
    }
}

/// The connections of this client-core, when it could say so.
pub(crate) fn client_servers(core: u32) -> Option<Servers> {
    let path = Path::new(STATUS_FOLDER).join(format!("{core}.servers"));
    Servers::parse(&std::fs::read_to_string(path).ok()?)
}

fn fact_of<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// The memory that outlives the client-cores of a supervisor.
pub(crate) fn kept_memory(supervisor: u32) -> Option<File> {
    let path = Path::new(STATUS_FOLDER).join(supervisor.to_string());
    let status = std::fs::read_to_string(path).ok()?;
    let number: u32 = fact_of(&status, "keep_fd")?.parse().ok()?;
    File::open(format!("/proc/{supervisor}/fd/{number}")).ok()
}

/// Where a supervisor is asked.
pub(crate) fn supervisor_socket(supervisor: u32) -> PathBuf {
    Path::new(STATUS_FOLDER).join(format!("{supervisor}.sock"))
}

/// The Weft mount at exactly this place.
///
/// # Errors
/// There is none.
pub(crate) fn at(mount_point: &Path) -> Result<Mount, AdminError> {
    // Not resolved: a mount whose server is away would not answer.
    let absolute = std::path::absolute(mount_point).unwrap_or_else(|_| mount_point.to_owned());
    let found = all()?.into_iter().rev().find(|mount| mount.mount_point == absolute);
    found.filter(|mount| mount.is_weft).ok_or_else(|| {
        let next = "`weft mount list` shows the mounts there are";
        AdminError::new(
            absolute.display().to_string(),
            "no Weft file system is mounted there",
            next,
        )
    })
}

fn is_path(arg: &[u8], wanted: &[u8]) -> bool {
    arg == wanted || arg.strip_suffix(b"/") == Some(wanted)
}

fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `source mount-point type options 0 0`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (source, mount_point) = (unescape(fields.next()?), unescape(fields.next()?));
    let (fs_type, options) = (fields.next()?, fields.next()?);
    Some(Mount {
        source: String::from_utf8_lossy(&source).into_owned(),
        mount_point: PathBuf::from(OsString::from_vec(mount_point)),
        is_weft: fs_type == FS_TYPE,
        options: String::from_utf8_lossy(options).into_owned(),
    })
}

/// Undoes the kernel's `\040` for blank, tab, newline, `#` and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let code = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
/dev/root / ext4 rw,relatime 0 0
127.0.0.1:7811:/ /mnt/weft fuse.weft rw,nosuid,user_id=0 0 0
tmpfs /mnt/weft/tmp tmpfs rw 0 0
[::1]:7811:/ /mnt/with\\040space\\134 fuse.weft ro 0 0
short line
";

    #[test]
    fn the_table_is_read() {
        let mounts = parse(TABLE);
        assert_eq!(mounts.len(), 4);
        let weft: Vec<&Mount> = mounts.iter().filter(|mount| mount.is_weft).collect();
        assert_eq!(weft[0].server(), Some("127.0.0.1:7811"));
        assert_eq!(weft[0].options, "rw,nosuid,user_id=0");
        assert_eq!(weft[1].mount_point, Path::new("/mnt/with space\\"));
        assert_eq!(weft[1].server(), Some("[::1]:7811"));
        assert_eq!(mounts[0].server(), None);
    }

    #[test]
    fn a_path_lies_on_the_nearest_mount() {
        let mounts = parse(TABLE);
        let at = |path: &str| of(&mounts, Path::new(path)).map(|mount| mount.source.as_str());
        assert_eq!(at("/mnt/weft"), Some("127.0.0.1:7811:/"));
        assert_eq!(at("/mnt/weft/a/b"), Some("127.0.0.1:7811:/"));
        assert_eq!(at("/mnt/weft/tmp/x"), Some("tmpfs"));
        assert_eq!(at("/mnt/wefts"), Some("/dev/root"));
    }

    #[test]
    fn the_process_of_a_mount_is_known_by_its_command_line() {
        let line = b"/sbin/mount.weft\0--daemon-child\0h:1:/\0/mnt/x/\0-o\0rw\0";
        assert_eq!(role(line, b"/mnt/x"), Some(Role::Supervisor));
        assert_eq!(role(line, b"/mnt"), None);
        assert_eq!(role(b"mount-weft\0h:1:/\0/mnt/x\0", b"/mnt/x"), Some(Role::Supervisor));
        let core = b"mount-weft\0--client-core\0h:1:/\0/mnt/x\0";
        assert_eq!(role(core, b"/mnt/x"), Some(Role::Core));
        assert_eq!(role(b"/bin/ls\0/mnt/x\0", b"/mnt/x"), None);
        assert_eq!(role(b"", b"/mnt/x"), None);
    }

    #[test]
    fn the_transport_is_found_among_what_a_client_says() {
        assert_eq!(transport_of("transport=uring\n"), Some("uring"));
        assert_eq!(transport_of("other=1\ntransport=classic\n"), Some("classic"));
        assert_eq!(transport_of("uring"), None);
    }

    #[test]
    fn the_connections_are_found_by_way() {
        let shown = |text| Servers::parse(text).map(Servers::shown);
        assert_eq!(shown("unix=2\ntcp=0\n"), Some("unix"));
        assert_eq!(shown("unix=0\ntcp=1\n"), Some("tcp"));
        assert_eq!(shown("unix=1\ntcp=1\n"), Some("unix,tcp"));
        assert_eq!(shown("unix=0\ntcp=0\n"), Some("none"));
        for torn in ["", "unix=1\n", "unix=1\ntcp=", "unix=-1\ntcp=0\n"] {
            assert_eq!(Servers::parse(torn), None, "{torn:?}");
        }
    }

    #[test]
    fn the_later_of_two_mounts_at_one_place_is_on_top() {
        let mounts = parse(b"a:1:/ /m fuse.weft rw 0 0\nb:1:/ /m fuse.weft rw 0 0\n");
        assert_eq!(of(&mounts, Path::new("/m/f")).map(|m| m.source.as_str()), Some("b:1:/"));
    }

    #[test]
    fn the_real_table_has_a_root() {
        let mounts = all().expect("readable");
        assert!(of(&mounts, Path::new("/")).is_some());
    }
}
