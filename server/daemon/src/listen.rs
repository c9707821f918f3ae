//! Where clients come in: the TCP listener of `listen`, and beside it a unix socket for those of this machine
//! (`weft_net::local`).

use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use weft_net::local;

/// Tries to listen on an address in use: one second in all.
const BIND_TRIES: u32 = 50;
/// Pause between them.
const BIND_PAUSE: Duration = Duration::from_millis(20);
/// Connections that may wait to be accepted; the kernel takes no more than `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Everything to be accepted from.
#[derive(Debug)]
pub(crate) struct Listeners {
    tcp: OwnedFd,
    /// Absent when somebody else has the name.
    local: Option<OwnedFd>,
}

impl Listeners {
    /// Listens on the first of the addresses of `HOST:PORT` that can be had.
    ///
    /// # Errors
    /// None can, in words.
    pub(crate) fn new(address: &str) -> Result<Listeners, String> {
        let addresses: Vec<SocketAddr> = address
            .to_socket_addrs()
            .map_err(|error| format!("listen = {address:?} does not resolve: {error}"))?
            .collect();
        let found = first_of(&addresses).map_err(|errno| {
            format!("cannot listen on {address}: {errno}; does another server run there?")
        })?;
        Ok(found)
    }

    /// The sockets.
    pub(crate) fn into_fds(self) -> impl Iterator<Item = OwnedFd> {
        [Some(self.tcp), self.local].into_iter().flatten()
    }
}

fn first_of(addresses: &[SocketAddr]) -> Result<Listeners, Errno> {
    let mut last = Errno::ADDRNOTAVAIL;
    for _ in 0..=BIND_TRIES {
        for address in addresses {
            match on(*address) {
                Ok(listeners) => return Ok(listeners),
                Err(errno) => last = errno,
            }
        }
        // The ring of a killed predecessor lets its socket go a moment after its lock.
        if last != Errno::ADDRINUSE {
            break;
        }
        std::thread::park_timeout(BIND_PAUSE);
    }
    Err(last)
}

/// The local socket listens before the TCP one does: a client that comes back the moment the port is there would stay with
/// TCP otherwise.
fn on(address: SocketAddr) -> Result<Listeners, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC;
    let tcp = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&tcp, true)?;
    rustix::net::bind(&tcp, &address)?;
    let bound = SocketAddr::try_from(rustix::net::getsockname(&tcp)?)?;
    let local = beside(bound);
    rustix::net::listen(&tcp, BACKLOG)?;
    Ok(Listeners { tcp, local })
}

fn beside(bound: SocketAddr) -> Option<OwnedFd> {
    let name = local::name_of(bound);
    for _ in 0..=BIND_TRIES {
        match local::listen(&name, BACKLOG) {
            Ok(socket) => return Some(socket),
            // A predecessor's, as above; or another program's.
            Err(Errno::ADDRINUSE) => std::thread::park_timeout(BIND_PAUSE),
            Err(errno) => {
                tracing::warn!(%errno, name, "no unix socket: mounts of this machine use TCP");
                return None;
            }
        }
    }
    tracing::warn!(
        name,
        "another program listens by this name (ss -xlp shows it): mounts of this machine use TCP"
    );
    None
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn bound(listeners: &Listeners) -> SocketAddr {
        SocketAddr::try_from(rustix::net::getsockname(&listeners.tcp).unwrap()).unwrap()
    }

    #[test]
    fn clients_come_in_by_both_ways() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let listeners = Listeners::new(address).unwrap();
            let port = bound(&listeners).port();
            let loopback = if address.contains("::") { "[::1]" } else { "127.0.0.1" };
            let server: SocketAddr = format!("{loopback}:{port}").parse().unwrap();
            let mut tcp = TcpStream::connect(server).unwrap();
            tcp.write_all(b"over tcp").unwrap();
            let mut local = UnixStream::from(weft_net::local::connect(server).unwrap());
            local.write_all(b"locally!").unwrap();
            for (fd, expected) in listeners.into_fds().zip([b"over tcp", b"locally!"]) {
                let accepted = rustix::net::accept(&fd).unwrap();
                let mut word = [0; 8];
                std::fs::File::from(accepted).read_exact(&mut word).unwrap();
                assert_eq!(&word, expected);
            }
        }
    }

    #[test]
    fn a_port_or_a_name_that_is_taken_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = Listeners::new(&address.to_string()).unwrap_err();
        assert!(error.contains("another server"), "{error}");
        drop(taken);
        let _name = local::listen(&local::name_of(address), BACKLOG).unwrap();
        let listeners = Listeners::new(&address.to_string()).unwrap();
        assert!(listeners.local.is_none(), "served over TCP alone");
        assert!(TcpStream::connect(address).is_ok());
        assert!(Listeners::new("no such host:1").unwrap_err().contains("does not resolve"));
    }

    #[test]
    fn what_a_predecessor_holds_for_a_moment_is_waited_for() {
        let address = {
            let probe = TcpListener::bind("127.0.0.1:0").unwrap();
            probe.local_addr().unwrap()
        };
        let before = Listeners::new(&address.to_string()).unwrap();
        let end = std::thread::Builder::new().spawn(move || {
            std::thread::park_timeout(Duration::from_millis(100));
            drop(before);
        });
        let after = Listeners::new(&address.to_string()).unwrap();
        assert!(after.local.is_some());
        end.unwrap().join().unwrap();
    }
}
