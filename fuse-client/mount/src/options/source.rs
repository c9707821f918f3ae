//! `HOST[:PORT]:/`: which cluster.

use std::fmt;

use super::{Kind, UsageError};

/// Where the first server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// A name or an address, an IPv6 one without brackets.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
}

impl Source {
    /// The port of `weft-server`.
    pub const PORT_DEFAULT: u16 = 7811;

    /// Reads `HOST[:PORT]:/`.
    ///
    /// # Errors
    /// What is missing.
    pub fn parse(text: &str) -> Result<Self, UsageError> {
        let bad = |why: &str| {
            let message =
                format!("source {text:?}: {why}; it is HOST[:PORT]:/, for instance node1:/");
            UsageError::new(Kind::Source, message)
        };
        let Some(place) = text.strip_suffix(":/") else {
            return Err(bad(if text.contains(":/") {
                "only the root of a file system can be mounted"
            } else {
                "it does not end with \":/\""
            }));
        };
        let (host, port) = if let Some(rest) = place.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or_else(|| bad("a bracket is open"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(bad("no IPv6 address is in the brackets"));
            }
            match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if port.is_empty() => (host, None),
                None => return Err(bad("behind the bracket is no \":PORT\"")),
            }
        } else {
            match place.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return Err(bad("an IPv6 address needs brackets"));
                }
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            }
        };
        if host.is_empty() {
            return Err(bad("the host is missing"));
        }
        if host.contains(|c: char| c.is_whitespace() || c.is_control() || c == ',' || c == '/') {
            return Err(bad("the host is not a name"));
        }
        let port = match port {
            None => Self::PORT_DEFAULT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|&port| port != 0)
                .ok_or_else(|| bad("the port is not a number of 1 to 65535"))?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// As /proc/mounts shows it: `HOST:PORT:/`.
impl Source {
    /// `HOST:PORT`, an IPv6 address in brackets: what to connect to.
    #[must_use]
    pub fn address(&self) -> String {
        let Self { host, port } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:/", self.address())
    }
}
