//! The short way between a client and a server of the same machine: a unix stream socket beside each TCP listener.
//!
//! Bytes on it are the same as over TCP, without what a network needs (segments, acknowledgements, timers): about half
//! of the CPU for each message (`netrdma/net/doc/local.md`). The only module here that has sockets, because server,
//! mount and load generator must agree about every line of it.
//!
//! - A listener's name is abstract and made of the address it is bound to. Abstract names and ports both belong to the
//!   network namespace, so whoever finds a name would have reached the same listener over TCP.
//! - Anybody may take a name that is free. A client therefore believes only a listener of root, of its own user, or of
//!   the user who has the TCP port beside it: nobody it would not talk to over TCP. Everything else that goes wrong here
//!   is a reason to use TCP, never an error.
//! - Whether this is the right server is decided by the hello, as over TCP (see [`crate::link::Link::connected_locally`]).

mod owners;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// What a socket takes before its sender has to wait, in bytes: a message of 1 MiB with its header. With the kernel's
/// default (208 KiB) the sender of a long message is woken again and again while it is read.
const SEND_BUFFER_BYTES: usize = 2 << 20;

/// Why there is no local connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotLocal {
    /// The address is not of this machine.
    Elsewhere,
    /// No server listens by the name.
    Nobody,
    /// Somebody does whom this user has no reason to believe.
    Stranger {
        /// The name, without the zero byte in front.
        name: String,
        /// Whose process it is.
        uid: u32,
    },
    /// The system refused.
    Failed(Errno),
}

/// The abstract name of the server that listens on `listener`, without the zero byte in front.
#[must_use]
pub fn name_of(listener: SocketAddr) -> String {
    format!("weft/{}", canonical(listener))
}

/// What a server may listen on that TCP would reach at `server`, an address of this machine: just that, or all addresses.
fn listeners_for(server: SocketAddr) -> Vec<SocketAddr> {
    let server = canonical(server);
    let all_v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), server.port());
    let all_v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), server.port());
    let bound = [Some(server), server.is_ipv4().then_some(all_v4), Some(all_v6)];
    let mut listeners: Vec<SocketAddr> = bound.into_iter().flatten().collect();
    listeners.dedup();
    listeners
}

/// The same address, always spelled the same: IPv4 in IPv6 is IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(address.ip().to_canonical(), address.port())
        }
        _ => address,
    }
}

/// Whether what is sent to `address` stays in this network namespace. Asked anew for each connection: addresses move.
#[must_use]
pub fn is_ours(address: SocketAddr) -> bool {
    let address = canonical(address);
    if address.ip().is_loopback() {
        return true;
    }
    // No packet is sent: to connect a datagram socket is to look the route up.
    let routed = match address {
        // Bound first, because a second address of an interface is reached from its first one. A foreign address can be
        // bound with `ip_nonlocal_bind`, but has no route then.
        SocketAddr::V4(v4) => {
            UdpSocket::bind((*v4.ip(), 0)).and_then(|socket| socket.connect(address).map(|()| true))
        }
        // An own address is reached from itself.
        SocketAddr::V6(v6) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|socket| {
            socket.connect(address)?;
            Ok(socket.local_addr()?.ip() == IpAddr::V6(*v6.ip()))
        }),
    };
    routed.unwrap_or(false)
}

/// A connection to the server at `server`, if that is on this machine and to be believed. Does not wait.
///
/// # Errors
/// Why TCP is to be used.
pub fn connect(server: SocketAddr) -> Result<OwnedFd, NotLocal> {
    if !is_ours(server) {
        return Err(NotLocal::Elsewhere);
    }
    let mut why = NotLocal::Nobody;
    for listener in listeners_for(server) {
        match connect_to(listener, server) {
            Ok(socket) => return Ok(socket),
            Err(NotLocal::Nobody) => {}
            Err(other) => why = other,
        }
    }
    Err(why)
}

fn connect_to(listener: SocketAddr, server: SocketAddr) -> Result<OwnedFd, NotLocal> {
    let name = name_of(listener);
    // Without waiting: whoever took the name may never accept.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let open = || -> Result<(OwnedFd, u32), Errno> {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        rustix::fs::fcntl_setfl(&socket, OFlags::empty())?;
        // Of the process that listens, as it was when it began to.
        let uid = sockopt::socket_peercred(&socket)?.uid.as_raw();
        Ok((socket, uid))
    };
    let (socket, uid) = open().map_err(|errno| match errno {
        Errno::CONNREFUSED => NotLocal::Nobody,
        errno => NotLocal::Failed(errno),
    })?;
    // Of IPv6 alone a port may be had beside another user's of IPv4.
    let same_port = listener.is_ipv4() == canonical(server).is_ipv4();
    if !owners::is_believed(uid, same_port.then_some(listener)) {
        return Err(NotLocal::Stranger { name, uid });
    }
    widen(&socket).map_err(NotLocal::Failed)?;
    Ok(socket)
}

/// A socket that listens by `name`, with so many connections waiting to be accepted (as `listen(2)` has it); the caller
/// keeps it as long as the TCP listener beside it.
///
/// # Errors
/// `ADDRINUSE`: somebody has the name. Others: the system has no unix sockets for us.
pub fn listen(name: &str, backlog: i32) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    rustix::net::listen(&socket, backlog)?;
    Ok(socket)
}

/// Whether a connection that was accepted is local.
#[must_use]
pub fn is_local(socket: impl AsFd) -> bool {
    sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX)
}

/// Makes a local connection ready to send long messages; [`connect`] has done that.
///
/// # Errors
/// It is no socket.
pub fn widen(socket: impl AsFd) -> Result<(), Errno> {
    // The kernel doubles what it is told, for its own part of each message.
    let bytes = SEND_BUFFER_BYTES / 2;
    sockopt::set_socket_send_buffer_size_force(&socket, bytes)
        // Not privileged: as much as `net.core.wmem_max` allows.
        .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, bytes))
}

#[cfg(test)]
mod tests;
