//! Every bound of the client core.

use std::time::Duration;

/// How long the kernel may answer from its caches unless told otherwise.
pub const TTL_DEFAULT: Duration = Duration::from_secs(1);
/// Bytes written and not yet acknowledged by the targets, per mount.
pub const DIRTY_BYTES_DEFAULT: usize = 64 << 20;
/// The same for one file.
pub const DIRTY_FILE_BYTES_DEFAULT: usize = 16 << 20;
/// Silence with requests in flight after which a connection counts as lost.
pub const REPLY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);

const _: () = assert!(DIRTY_FILE_BYTES_DEFAULT <= DIRTY_BYTES_DEFAULT);
