//! By which way servers are reached: those of this machine over a unix socket, all others over TCP. Which it is, is told
//! to `weft mount list` in a small file of this process, as `status` does for the supervisor: nothing works worse without.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use weft_net::local::{self, NotLocal};

use super::status::FOLDER;

/// How many connections go which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Over unix sockets.
    pub(super) unix: usize,
    /// Over TCP.
    pub(super) tcp: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ways {
    try_local: bool,
    /// The last thing that was wrong with the local way, which is said once.
    warned: Option<NotLocal>,
    path: PathBuf,
    told: Count,
}

impl Ways {
    pub(super) fn new(try_local: bool) -> Ways {
        Ways::of_process(try_local, Path::new(FOLDER), std::process::id())
    }

    fn of_process(try_local: bool, folder: &Path, pid: u32) -> Ways {
        let path = folder.join(format!("{pid}.servers"));
        Ways { try_local, warned: None, path, told: Count::default() }
    }

    /// A connection to `server` without TCP, where there can be one. `allowed`: see `Output::Connect`.
    pub(super) fn local(&mut self, server: SocketAddr, allowed: bool) -> Option<OwnedFd> {
        if !self.try_local {
            return None;
        }
        if !allowed {
            tracing::warn!(%server, "the server of this machine by that address's unix socket refused us: TCP is asked");
            return None;
        }
        let why = match local::connect(server) {
            Ok(socket) => return Some(socket),
            Err(NotLocal::Elsewhere | NotLocal::Nobody) => return None,
            Err(why) => why,
        };
        if self.warned.as_ref() != Some(&why) {
            match &why {
                NotLocal::Stranger { name, uid } => tracing::warn!(
                    %server, name, uid,
                    "another user's program listens where the server's unix socket should be (ss -xlp shows it): not \
                     talked to, TCP is used"
                ),
                why => tracing::warn!(%server, ?why, "no unix socket to the server: TCP is used"),
            }
            self.warned = Some(why);
        }
        None
    }

    /// Connections were made or lost.
    pub(super) fn tell(&mut self, now: Count) {
        if now == self.told {
            return;
        }
        self.told = now;
        let Count { unix, tcp } = now;
        // Whole at every moment: it is read at any time.
        let next = self.path.with_extension("servers-next");
        let written = fs::write(&next, format!("unix={unix}\ntcp={tcp}\n"))
            .and_then(|()| fs::rename(&next, &self.path));
        if let Err(error) = written {
            tracing::debug!(path = %self.path.display(), %error, "`weft mount list` will not know the connections");
        }
    }
}

impl Drop for Ways {
    fn drop(&mut self) {
        if self.told != Count::default()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "file of connections");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_server_of_this_machine_is_met_unless_that_is_turned_off_or_it_refused() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = tcp.local_addr().unwrap();
        let ways = |on| Ways::of_process(on, Path::new("/nowhere"), 1);
        assert!(ways(true).local(server, true).is_none(), "nobody listens");
        let _listener = local::listen(&local::name_of(server), 1).unwrap();
        assert!(ways(true).local(server, true).is_some());
        assert!(ways(true).local(server, false).is_none());
        assert!(ways(false).local(server, true).is_none());
    }

    #[test]
    fn the_file_says_what_is_and_goes_with_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut ways = Ways::of_process(true, dir.path(), 17);
        let path = dir.path().join("17.servers");
        ways.tell(Count { unix: 2, tcp: 1 });
        assert_eq!(fs::read_to_string(&path).unwrap(), "unix=2\ntcp=1\n");
        ways.tell(Count { unix: 0, tcp: 1 });
        assert_eq!(fs::read_to_string(&path).unwrap(), "unix=0\ntcp=1\n");
        drop(ways);
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
        // Where it cannot be written everything else goes on.
        Ways::of_process(true, Path::new("/nowhere"), 17).tell(Count { unix: 1, tcp: 0 });
    }
}
