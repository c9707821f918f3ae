//! The one place where the client reads clocks.
#![allow(clippy::disallowed_methods, reason = "this is the place the lint sends everybody to")]

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weft_wire::meta::Time;

static START: OnceLock<Instant> = OnceLock::new();

/// Time since the first call in this process.
pub(crate) fn mono() -> Duration {
    START.get_or_init(Instant::now).elapsed()
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
