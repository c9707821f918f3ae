//! The one place where the client reads clocks.
#![allow(clippy::disallowed_methods, reason = "this is the place the lint sends everybody to")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::ClockId;

use weft_wire::meta::Time;

/// The machine's monotonic clock: the same in every process, so that what one wrote down means something to the next.
pub(crate) fn mono() -> Duration {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

/// The time of day.
pub(crate) fn wall() -> Time {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Time {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos(),
        },
        // A clock before 1970 is wrong by decades: times are then zero.
        Err(_) => Time::default(),
    }
}
