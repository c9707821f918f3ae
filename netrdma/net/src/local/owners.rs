//! Who may be believed to be the server: by the users of sockets, as the kernel's table of TCP listeners tells them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state LISTEN in the kernel's tables.
const LISTENING: &str = "0A";
/// Whom users are shown as who have no number in our user namespace, unless the kernel was told another.
const NOBODY: u32 = 65_534;

/// Whether a process of `uid` is the server, as far as TCP could tell: root, our own user, or who has the port `listener`.
pub(super) fn is_believed(uid: u32, listener: Option<SocketAddr>) -> bool {
    // Of such a user nothing is known: two of them need not be the same.
    if uid == nobody() {
        return false;
    }
    uid == 0
        || uid == rustix::process::geteuid().as_raw()
        || listener.is_some_and(|listener| has_port(uid, listener))
}

fn nobody() -> u32 {
    let told = std::fs::read_to_string("/proc/sys/kernel/overflowuid");
    told.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(NOBODY)
}

fn has_port(uid: u32, listener: SocketAddr) -> bool {
    let table = if listener.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
    let Ok(table) = File::open(table) else { return false };
    let mut lines = BufReader::new(table).lines().map_while(Result::ok);
    lines.any(|line| {
        listener_of(&line).is_some_and(|(ip, port, owner)| {
            (ip, port, owner) == (listener.ip(), listener.port(), uid)
        })
    })
}

/// Address, port and user of a line of the table, if it is a listener's.
fn listener_of(line: &str) -> Option<(IpAddr, u16, u32)> {
    // `sl local_address rem_address st tx:rx tr:when retrnsmt uid ...`
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let uid = fields.nth(3)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok();
    // Each word is shown as this machine reads the four bytes.
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(8 * at)?.to_ne_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    (state == LISTENING).then_some((ip, port, uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_tables_are_read() {
        let v4 = "   1: 0100007F:1E83 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 19 1 0";
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(listener_of(v4), Some((loopback, 7811, 1000)));
        let v6 = "   0: 00000000000000000000000001000000:1E83 00000000000000000000000000000000:0000 0A \
                  00000000:00000000 00:00000000 00000000     0        0 18 1 0";
        assert_eq!(listener_of(v6), Some((IpAddr::V6(Ipv6Addr::LOCALHOST), 7811, 0)));
        // A connection, the heading, and what is cut short.
        assert_eq!(listener_of(&v4.replace(" 0A ", " 01 ")), None);
        assert_eq!(listener_of("  sl  local_address rem_address   st tx_queue rx_queue tr"), None);
        for end in 0..v4.len() - 30 {
            assert!(listener_of(&v4[..end]).is_none_or(|(ip, ..)| ip == loopback));
        }
    }

    #[test]
    fn root_and_we_are_believed_and_others_without_the_port_are_not() {
        let listener = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        assert!(!is_believed(NOBODY, listener));
        assert!(is_believed(0, listener));
        assert!(is_believed(rustix::process::geteuid().as_raw(), listener));
        assert!(!is_believed(47_111, listener));
    }
}
