//! The structs of FUSE over io_uring (Linux 6.14+); see `transport::uring`.
#![allow(missing_docs, reason = "the kernel's own names, documented in fuse_kernel.h")]
#![allow(
    missing_debug_implementations,
    reason = "all have it; zerocopy's derive makes helpers without"
)]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::input::kernel_struct;

/// `io_uring_cmd` operations on /dev/fuse.
pub const CMD_REGISTER: u32 = 1;
/// Gives the reply of one request and asks for the next.
pub const CMD_COMMIT_AND_FETCH: u32 = 2;

kernel_struct!(EntInOut, 32, {
    flags: u64, commit_id: u64, payload_sz: u32, padding: u32, reserved: u64,
});
kernel_struct!(
    /// The first iovec of a ring entry: headers here, the payload in the second.
    ReqHeader, 288, { in_out: [u64; 16], op_in: [u64; 16], ent: EntInOut });
kernel_struct!(
    /// Goes into the 80 command bytes of the SQE.
    CmdReq, 24, { flags: u64, commit_id: u64, qid: u16, padding: [u8; 6] });
