//! The kernel's FUSE interface, byte for byte (`fuse_kernel.h`, protocol 7.45, Linux 6.18).
//!
//! Every struct is `repr(C)`, without padding and with its size asserted, so a slip in a field is a
//! compile error. Values are in host byte order: both ends of /dev/fuse are the same machine.
//! Nothing here decides anything; `request` reads these structs and `reply` writes them.

pub mod flags;
pub mod input;
pub mod opcode;
pub mod output;
pub mod uring;

/// The protocol's major version; the kernel has spoken 7 since 2005.
pub const MAJOR_VERSION: u32 = 7;
/// The newest minor version whose structs are described here (Linux 6.18).
pub const MINOR_VERSION: u32 = 45;
/// The oldest minor version that is accepted: 7.31 is Linux 5.4, of 2019.
pub const MINOR_VERSION_MIN: u32 = 31;
/// The node id of the root directory.
pub const ROOT_ID: u64 = 1;
/// The smallest buffer the kernel accepts in a read of /dev/fuse.
pub const READ_BUFFER_BYTES_MIN: usize = 8192;
/// Directory entries and extensions start on multiples of this.
pub const RECORD_ALIGN_BYTES: usize = 8;
/// Set in `unique` of a request that the kernel sends a second time after `NOTIFY_RESEND`.
pub const UNIQUE_RESEND: u64 = 1 << 63;
/// What the kernel sends as uid or gid where the caller has none.
pub const ID_INVALID: u32 = u32::MAX;

/// Rounds a record's length up to [`RECORD_ALIGN_BYTES`].
#[must_use]
pub const fn record_align(len_bytes: usize) -> usize {
    (len_bytes + RECORD_ALIGN_BYTES - 1) & !(RECORD_ALIGN_BYTES - 1)
}
