//! On real sockets of this machine: names, own addresses, and whom a client believes.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A server's TCP listener, which keeps the port from others for as long as it is there.
fn server(address: &str) -> (TcpListener, SocketAddr) {
    let tcp = TcpListener::bind(address).unwrap();
    let address = tcp.local_addr().unwrap();
    (tcp, address)
}

#[test]
fn a_name_says_what_is_listened_on() {
    assert_eq!(name_of(at("127.0.0.1:7811")), "weft/127.0.0.1:7811");
    assert_eq!(name_of(at("[::ffff:10.0.0.1]:7811")), "weft/10.0.0.1:7811");
    assert_ne!(name_of(at("127.0.0.1:7811")), name_of(at("127.0.0.2:7811")));
    assert_ne!(name_of(at("127.0.0.1:7811")), name_of(at("127.0.0.1:7812")));
    assert_ne!(name_of(at("[fe80::1%2]:7811")), name_of(at("[fe80::1%3]:7811")));
    // What an abstract name holds, with the longest address.
    let longest = at("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe%4294967295]:65535");
    assert!(SocketAddrUnix::new_abstract_name(name_of(longest).as_bytes()).is_ok());
}

#[test]
fn a_client_asks_for_the_address_and_then_for_listeners_on_all() {
    let all = ["weft/10.0.0.1:7", "weft/0.0.0.0:7", "weft/[::]:7"];
    let names_for = |server: &str| -> Vec<String> {
        listeners_for(at(server)).into_iter().map(name_of).collect()
    };
    assert_eq!(names_for("10.0.0.1:7"), all);
    assert_eq!(names_for("[::ffff:10.0.0.1]:7"), all);
    assert_eq!(names_for("[::1]:7"), ["weft/[::1]:7", "weft/[::]:7"]);
    assert_eq!(names_for("[::]:7"), ["weft/[::]:7"]);
}

#[test]
fn own_addresses_are_told_from_others() {
    for ours in ["127.0.0.1:7811", "127.8.9.10:7811", "[::1]:7811", "[::ffff:127.0.0.1]:7811"] {
        assert!(is_ours(at(ours)), "{ours}");
    }
    // Given to nobody, by RFC 5737 and 3849.
    for other in ["192.0.2.7:7811", "203.0.113.7:7811", "[2001:db8::7]:7811"] {
        assert!(!is_ours(at(other)), "{other}");
    }
    // An interface's address, where there is one that leads to the world.
    let way = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
    if way.connect(at("192.0.2.7:7811")).is_ok() {
        assert!(is_ours(way.local_addr().unwrap()));
    }
}

#[test]
fn nobody_there_is_said_at_once() {
    let (_tcp, address) = server("127.0.0.1:0");
    assert_eq!(connect(address).unwrap_err(), NotLocal::Nobody);
    assert_eq!(connect(at("192.0.2.7:7811")).unwrap_err(), NotLocal::Elsewhere);
}

#[test]
fn the_server_of_the_address_is_met_and_no_other() {
    let (_tcp, address) = server("127.0.0.1:0");
    let other = SocketAddr::new(at("127.0.0.2:0").ip(), address.port());
    let _other = listen(&name_of(other), 1).unwrap();
    assert_eq!(connect(address).unwrap_err(), NotLocal::Nobody, "another address, the same port");
    let listener = UnixListener::from(listen(&name_of(address), 1).unwrap());
    let mut client = UnixStream::from(connect(address).unwrap());
    let (mut accepted, _) = listener.accept().unwrap();
    assert!(is_local(&accepted) && is_local(&client) && !is_local(&_tcp));
    client.write_all(b"hello").unwrap();
    let mut word = [0; 5];
    accepted.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"hello");
    // The end of the server is heard at once.
    drop((accepted, listener));
    assert_eq!(client.read(&mut word).unwrap(), 0);
    assert_eq!(connect(address).unwrap_err(), NotLocal::Nobody);
}

#[test]
fn a_server_on_all_addresses_is_met_at_each_of_ours() {
    let (_tcp, address) = server("0.0.0.0:0");
    let _listener = listen(&name_of(address), 1).unwrap();
    for ours in ["127.0.0.1", "127.1.2.3"] {
        assert!(connect(SocketAddr::new(ours.parse().unwrap(), address.port())).is_ok());
    }
    let elsewhere = SocketAddr::new("192.0.2.7".parse().unwrap(), address.port());
    assert_eq!(connect(elsewhere).unwrap_err(), NotLocal::Elsewhere);
}

#[test]
fn a_name_is_had_by_one() {
    let (_tcp, address) = server("127.0.0.1:0");
    let first = listen(&name_of(address), 1).unwrap();
    assert_eq!(listen(&name_of(address), 1).unwrap_err(), Errno::ADDRINUSE);
    drop(first);
    listen(&name_of(address), 1).unwrap();
}

/// A user without a name here.
const SOMEBODY: u32 = 47_110;

/// What `act` makes as a process of another user, as the kernel sees it: users are noted thread by thread.
fn as_user<T: Send + 'static>(uid: u32, act: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return None;
    }
    let somebody = move || {
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(uid)).unwrap();
        act()
    };
    Some(std::thread::Builder::new().spawn(somebody).unwrap().join().unwrap())
}

/// Another user's process that took `name`.
fn squat(name: &str) -> Option<OwnedFd> {
    let name = name.to_owned();
    as_user(SOMEBODY, move || listen(&name, 1).unwrap())
}

#[test]
fn a_service_user_who_has_the_port_is_believed() {
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        let service = as_user(SOMEBODY, move || {
            let (tcp, bound) = server(address);
            (tcp, listen(&name_of(bound), 1).unwrap(), bound)
        });
        let Some((tcp, _listener, bound)) = service else { return };
        let loopback = if bound.is_ipv4() { "127.0.0.1" } else { "::1" };
        let server = SocketAddr::new(loopback.parse().unwrap(), bound.port());
        assert!(connect(server).is_ok(), "{address}");
        // The name alone is anybody's.
        drop(tcp);
        let stranger = NotLocal::Stranger { name: name_of(bound), uid: SOMEBODY };
        assert_eq!(connect(server).unwrap_err(), stranger, "{address}");
    }
}

/// In a user namespace all who have no number there are shown as one.
#[test]
fn who_has_no_number_is_not_believed_even_with_the_port() {
    let nobody = || server("127.0.0.1:0");
    let Some((_tcp, address)) = as_user(65_534, nobody) else { return };
    let name = name_of(address);
    let _listener = as_user(65_534, move || listen(&name, 1).unwrap());
    let name = name_of(address);
    assert_eq!(connect(address).unwrap_err(), NotLocal::Stranger { name, uid: 65_534 });
}

/// The port of IPv6 alone is no proof of having that of IPv4.
#[test]
fn the_port_of_another_family_is_no_reason_to_believe() {
    let (_tcp, address) = server("127.0.0.1:0");
    let all = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
    let somebody = as_user(SOMEBODY, move || {
        let socket = rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
        sockopt::set_ipv6_v6only(&socket, true).unwrap();
        rustix::net::bind(&socket, &all).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        (socket, listen(&name_of(all), 1).unwrap())
    });
    let Some(_both) = somebody else { return };
    let (name, uid) = (name_of(all), SOMEBODY);
    assert_eq!(connect(address).unwrap_err(), NotLocal::Stranger { name, uid });
}

#[test]
fn another_users_process_that_took_the_name_is_not_talked_to() {
    let (_tcp, address) = server("127.0.0.1:0");
    let name = name_of(address);
    let Some(squatter) = squat(&name) else { return };
    assert_eq!(connect(address).unwrap_err(), NotLocal::Stranger { name, uid: SOMEBODY });
    // It gets to see a connection that ends, and no byte.
    let (mut seen, _) = UnixListener::from(squatter).accept().unwrap();
    assert_eq!(seen.read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn a_squatter_does_not_hide_a_server_that_listens_on_all_addresses() {
    let (_tcp, all) = server("0.0.0.0:0");
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), all.port());
    let Some(_squatter) = squat(&name_of(address)) else { return };
    let _listener = listen(&name_of(all), 1).unwrap();
    assert!(connect(address).is_ok());
}

/// One who never accepts must not hold the client up.
#[test]
fn a_full_queue_is_a_refusal_and_no_wait() {
    let (_tcp, address) = server("127.0.0.1:0");
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let name = SocketAddrUnix::new_abstract_name(name_of(address).as_bytes()).unwrap();
    rustix::net::bind(&socket, &name).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let held: Vec<OwnedFd> = std::iter::from_fn(|| connect(address).ok()).take(16).collect();
    assert!((1..16).contains(&held.len()), "{} were let in", held.len());
    assert_eq!(connect(address).unwrap_err(), NotLocal::Failed(Errno::AGAIN));
}

#[test]
fn a_message_of_a_mebibyte_goes_without_a_wait() {
    let (_tcp, address) = server("127.0.0.1:0");
    let listener = UnixListener::from(listen(&name_of(address), 1).unwrap());
    let client = UnixStream::from(connect(address).unwrap());
    let (accepted, _) = listener.accept().unwrap();
    widen(&accepted).unwrap();
    let message = vec![7; (1 << 20) + 4096];
    for mut from in [&client, &accepted] {
        from.set_nonblocking(true).unwrap();
        let sent = from.write(&message).unwrap();
        let limit: usize =
            std::fs::read_to_string("/proc/sys/net/core/wmem_max").unwrap().trim().parse().unwrap();
        if rustix::process::geteuid().is_root() || limit >= SEND_BUFFER_BYTES / 2 {
            assert_eq!(sent, message.len());
        }
    }
}
