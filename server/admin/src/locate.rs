//! Which config and which server a command means.

use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use weft_server_core::config::Config;
use weft_wire::{ClusterId, Ino};

use crate::cli::ServerArgs;
use crate::client::{SERVER_DEFAULT, Session};
use crate::error::AdminError;
use crate::mounts::{self, Mount};

/// Names the config when no option does.
const CONFIG_VARIABLE: &str = "WEFT_CONFIG";
/// Looked for in this order when neither does.
const CONFIG_PLACES: [&str; 2] = ["./var/weft.toml", "/etc/weft/weft.toml"];

/// A config and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) file: PathBuf,
    pub(crate) config: Config,
}

/// The server a command talks to.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// The cluster it must be of; all zero for any.
    pub(crate) cluster: ClusterId,
    /// The config that named it, when one did.
    pub(crate) located: Option<Located>,
}

impl Server {
    pub(crate) fn session(&self, timeout: Duration) -> Session {
        Session::new(self.cluster, timeout)
    }

    fn at(address: &str) -> Server {
        Server { address: address.to_owned(), cluster: ClusterId::default(), located: None }
    }
}

/// The config a command means: the option's, the environment's, or the first of the usual places.
///
/// # Errors
/// There is none, or it is not right.
pub(crate) fn config(option: Option<&Path>) -> Result<Located, AdminError> {
    match find_config(option) {
        Some(file) => read_config(&file),
        None => Err(AdminError::new(
            "find a config",
            format!("no --config, no ${CONFIG_VARIABLE}, and none of {}", CONFIG_PLACES.join(", ")),
            "name one with --config FILE; `weft gen --dir DIR` prints one",
        )),
    }
}

/// The server a command means: --server, else the config's, else the default.
///
/// # Errors
/// A config that was found is not right.
pub(crate) fn server(args: &ServerArgs) -> Result<Server, AdminError> {
    if let Some(address) = &args.server {
        return Ok(Server::at(address));
    }
    match find_config(args.config.as_deref()) {
        None => Ok(Server::at(SERVER_DEFAULT)),
        Some(file) => {
            let located = read_config(&file)?;
            let address = reachable(&located.config.listen);
            let cluster = located.config.cluster;
            Ok(Server { address, cluster, located: Some(located) })
        }
    }
}

/// Something on a Weft mount.
#[derive(Clone, Debug)]
pub(crate) struct Mounted {
    pub(crate) mount: Mount,
    /// Its server: the option's, or the mount's own.
    pub(crate) server: Server,
    /// As the mount sees it.
    pub(crate) metadata: Metadata,
}

impl Mounted {
    pub(crate) fn ino(&self) -> Ino {
        Ino(self.metadata.ino())
    }
}

/// What a path names. A mount answers when its servers do: it is given `timeout`.
///
/// # Errors
/// The path is not there or not on a Weft mount, or the mount did not answer.
pub(crate) fn mounted(
    path: &Path,
    server: Option<&str>,
    timeout: Duration,
) -> Result<Mounted, AdminError> {
    let what = || format!("find the mount of {}", path.display());
    let (real, metadata) = looked_at(path, timeout).map_err(|error| {
        let next = match error.kind() {
            ErrorKind::TimedOut => {
                "is its server away? `weft mount ops` shows what waits for what, and asks nobody"
            }
            _ => "name something on a Weft mount",
        };
        AdminError::new(what(), error, next)
    })?;
    let mounts = mounts::all()?;
    let mount = mounts::of(&mounts, &real).filter(|mount| mount.is_weft).ok_or_else(|| {
        let next = "`weft mount list` shows the Weft mounts of this machine";
        AdminError::new(what(), "it is not on a Weft mount", next)
    })?;
    let server = match server.or_else(|| mount.server()) {
        Some(address) => Server::at(address),
        None => {
            let why = format!("the mount's source `{}` names no server", mount.source);
            return Err(AdminError::new(what(), why, "name it with --server HOST:PORT"));
        }
    };
    Ok(Mounted { mount: mount.clone(), server, metadata })
}

/// Where a path leads and what is there, asked for in a thread of its own: who waits for a mount cannot stop waiting.
fn looked_at(path: &Path, timeout: Duration) -> io::Result<(PathBuf, Metadata)> {
    let (sender, answer) = mpsc::channel();
    let path = path.to_owned();
    let look = move || {
        let found = std::fs::canonicalize(&path)
            .and_then(|real| std::fs::metadata(&real).map(|metadata| (real, metadata)));
        drop(sender.send(found)); // Nobody may wait any more.
    };
    std::thread::Builder::new().name("look".to_owned()).spawn(look)?;
    let late = || format!("no answer within {} s", timeout.as_secs_f32());
    let in_time = answer.recv_timeout(timeout);
    in_time.unwrap_or_else(|_| Err(io::Error::new(ErrorKind::TimedOut, late())))
}

fn find_config(option: Option<&Path>) -> Option<PathBuf> {
    if let Some(file) = option {
        return Some(file.to_owned());
    }
    match std::env::var_os(CONFIG_VARIABLE) {
        Some(file) if !file.is_empty() => Some(PathBuf::from(file)),
        _ => CONFIG_PLACES.iter().map(PathBuf::from).find(|file| file.exists()),
    }
}

pub(crate) fn read_config(file: &Path) -> Result<Located, AdminError> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let next = "`weft gen --dir DIR` prints a config";
        AdminError::new(format!("read the config {}", file.display()), error, next)
    })?;
    let whole = std::path::absolute(file).map_err(|error| {
        AdminError::new(format!("find the folder of {}", file.display()), error, "")
    })?;
    let base_dir = whole.parent().unwrap_or(Path::new("/"));
    let config =
        Config::parse(&text, base_dir).map_err(|error| AdminError::config(file, &error))?;
    Ok(Located { file: file.to_owned(), config })
}

/// An address to connect to, from one to listen on: "every address" means this machine.
fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_means_this_machine() {
        assert_eq!(reachable("0.0.0.0:7811"), "127.0.0.1:7811");
        assert_eq!(reachable("[::]:1"), "[::1]:1");
        assert_eq!(reachable("node1:7811"), "node1:7811");
    }

    #[test]
    fn a_config_gives_address_and_cluster() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("weft.toml");
        let cluster = ClusterId([7; 16]);
        let mut config = Config::new(cluster, "n", "state".into(), vec!["t0".into()]);
        config.listen = "0.0.0.0:7900".to_owned();
        std::fs::write(&file, config.generate()).expect("written");
        let args = ServerArgs { server: None, config: Some(file.clone()) };
        let server = server(&args).expect("good");
        assert_eq!((server.address.as_str(), server.cluster), ("127.0.0.1:7900", cluster));
        let located = server.located.expect("from a config");
        assert_eq!(located.config.targets, [dir.path().join("t0")]);
    }

    #[test]
    fn a_bad_config_names_its_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("weft.toml");
        std::fs::write(&file, "nod = \"n\"").expect("written");
        let error = config(Some(&file)).expect_err("bad").to_string();
        assert!(error.contains("weft.toml") && error.contains("did you mean `node`"), "{error}");
        let error = config(Some(&dir.path().join("none"))).expect_err("missing").to_string();
        assert!(error.contains("weft gen"), "{error}");
    }

    #[test]
    fn a_path_elsewhere_is_on_no_weft_mount() {
        let error =
            mounted(Path::new("/proc/self"), None, Duration::from_secs(5)).expect_err("not Weft");
        assert!(error.to_string().contains("weft mount list"), "{error}");
        assert!(mounted(Path::new("/no/such/path"), None, Duration::from_secs(5)).is_err());
    }
}
