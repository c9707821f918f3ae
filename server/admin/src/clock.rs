//! The one place where this program reads the clock or waits.

use std::time::{Duration, Instant};

use weft_wire::units::to_nanos;

/// The monotonic clock.
#[allow(
    clippy::disallowed_methods,
    reason = "a command for people, not a core: this is its one clock"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The machine's monotonic clock, as other processes see it, in milliseconds.
pub(crate) fn machine_ms() -> u64 {
    u64::try_from(machine().as_millis()).unwrap_or(u64::MAX)
}

/// The same, in nanoseconds.
pub(crate) fn machine_nanos() -> u64 {
    to_nanos(machine())
}

fn machine() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

/// Waits before a server that was at a limit is asked again.
#[allow(clippy::disallowed_methods, reason = "a blocking client with nothing else to do")]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Whole microseconds from `from` to `to`.
pub(crate) fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}

/// The time of day.
#[allow(
    clippy::disallowed_methods,
    reason = "a command for people, not a core: this is its one clock"
)]
pub(crate) fn wall() -> weft_wire::meta::Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    weft_wire::meta::Time { seconds, nanos: since.subsec_nanos() }
}
