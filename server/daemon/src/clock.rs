//! The one place where the server reads clocks.
#![allow(clippy::disallowed_methods, reason = "this is the place the lint sends everybody to")]

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use weft_server_core::Now;
use weft_wire::meta::Time;
use weft_wire::units::to_nanos;

static START: OnceLock<Instant> = OnceLock::new();

/// The monotonic clock of [`now`] alone.
pub(crate) fn mono() -> std::time::Duration {
    START.get_or_init(Instant::now).elapsed()
}

/// Both clocks now. The monotonic one counts from the first call in this process.
pub(crate) fn now() -> Now {
    let mono = mono();
    let wall = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Time {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos(),
        },
        // A clock before 1970 is wrong by decades: times are then all zero rather than the server down.
        Err(_) => Time::default(),
    };
    Now { mono, wall }
}

/// A number that differs at each start: nanoseconds since 1970.
pub(crate) fn epoch() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    to_nanos(now).max(1)
}
