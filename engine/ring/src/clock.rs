//! The one place of this crate that reads a clock: how long to spin, how long to drain.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Monotonic time since an arbitrary start.
pub(crate) fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic))
        .expect("the monotonic clock starts at zero and counts up")
}
