//! A ring's settings, and what it tells about itself.

use rustix::io::Errno;

use crate::limits::{DRAIN_MS_MAX, FILES_MAX, OPS_MAX, SPIN_US_MAX, SQ_ENTRIES_MAX};

/// Longest spin of [`RingConfig::serving`], in microseconds. A change that is durable on a disk takes 120 to 190 us at the
/// server, and 35 for each wake-up more at the mount.
const SERVING_SPIN_US: u32 = 400;

/// Limits of one ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Operations that one system call can submit; rounded up to a power of two.
    pub sq_entries: u32,
    /// Operations in flight at once; more are rejected.
    pub ops_max: u32,
    /// Files registered at once.
    pub files_max: u32,
    /// Longest spin before sleeping, in microseconds, in a wait for what is under way ([`crate::Ring::wait_under_way`]); in
    /// others a quarter of it. 0 never spins. See `doc/loop.md`.
    pub spin_us_max: u32,
    /// Idle cores of the machine poll, instead of halting, while waits for what is under way are short; where the kernel lets
    /// this process ask for that. See [`crate::idle_poll_pays`].
    pub idle_poll: bool,
    /// How long dropping the ring waits for operations to end, in milliseconds.
    pub drain_ms_max: u32,
    /// Entries wide enough for [`crate::Op::Command`]: 128 bytes to submit, 32 to complete.
    pub sqe128: bool,
    /// Asks devices for completions instead of waiting for interrupts. Such a ring takes reads and
    /// writes of direct files that can be polled, and NVMe commands; it has no bell, and
    /// [`crate::Ring::wait`] asks once and never sleeps.
    pub iopoll: bool,
}

impl Default for RingConfig {
    fn default() -> RingConfig {
        RingConfig {
            sq_entries: 256,
            ops_max: 4096,
            files_max: 4096,
            spin_us_max: 0,
            idle_poll: false,
            drain_ms_max: 2_000,
            sqe128: false,
            iopoll: false,
        }
    }
}

impl RingConfig {
    /// For a loop that others wait for, a server's shard or a mount: it spins for a moment before it sleeps.
    #[must_use]
    pub fn serving() -> RingConfig {
        RingConfig { spin_us_max: SERVING_SPIN_US, ..RingConfig::default() }
    }

    pub(crate) fn is_within_limits(&self) -> bool {
        (1..=SQ_ENTRIES_MAX).contains(&self.sq_entries)
            && (1..=OPS_MAX).contains(&self.ops_max)
            && (1..=FILES_MAX).contains(&self.files_max)
            && self.spin_us_max <= SPIN_US_MAX
            && self.drain_ms_max <= DRAIN_MS_MAX
    }
}

/// How a pool's slots will be read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// As fixed buffers.
    Fixed,
    /// As plain memory, which costs more CPU: the kernel refused to pin the pool. ENOMEM usually
    /// means the limit of locked memory.
    Plain(Errno),
}

/// Counts since the ring was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Operations accepted.
    pub ops_submitted_count: u64,
    /// Operations over.
    pub ops_completed_count: u64,
    /// Rests of short transfers submitted.
    pub continued_count: u64,
    /// System calls to submit or wait.
    pub enter_count: u64,
    /// Of these, the ones that went to sleep.
    pub sleep_count: u64,
    /// Waits that spinning ended before a sleep.
    pub spin_hit_count: u64,
    /// Times that idle cores were asked to poll.
    pub idle_poll_count: u64,
}
