//! From an operation to a submission entry: the addresses the kernel gets.
//!
//! The pointers made here go into memory owned by the operation's entry in the table (a slot's
//! block, a vector's heap) or by its scratch, both fixed until the completion.

use std::ops::Range;

use io_uring::types::{Fixed, FsyncFlags, Timespec};
use io_uring::{opcode, squeue};
use rustix::io::Errno;
use rustix::net::SocketAddrAny;
use weft_iobuf::{BufSlot, Pool, SharedSlot};

use crate::limits::TRANSFER_BYTES_MAX;
use crate::nvme::{self, NVME_URING_CMD_IO, Namespace, Request};
use crate::op::{Command, Op, OpId};
use crate::queue::{Sqe, with_len};
use crate::table::{InFlight, Scratch};

/// "At the file's own position", for files that have no offsets.
const OWN_POSITION: u64 = u64::MAX;

const RWF_DSYNC: i32 = libc::RWF_DSYNC;
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// The entry for an operation, or for the rest of it. `None` for operations the ring does itself.
pub(crate) fn build(
    id: OpId,
    entry: &mut InFlight,
    scratch: &mut Scratch,
    part_bytes_max: u32,
    pool: Option<&Pool>,
) -> Option<Sqe> {
    let file = Fixed(entry.op.file().map_or(0, |file| file.index));
    let done_bytes = usize::try_from(entry.done_bytes).expect("u32 fits usize");
    let sqe = match &mut entry.op {
        Op::Read { offset, buf, range, .. } => {
            let offset = *offset + u64::from(entry.done_bytes);
            let index = fixed_index(pool, buf);
            let (ptr, len) = rest(buf, range, done_bytes);
            let len = len.min(part_bytes_max);
            match index {
                Some(index) => opcode::ReadFixed::new(file, ptr, len, index).offset(offset).build(),
                None => opcode::Read::new(file, ptr, len).offset(offset).build(),
            }
        }
        Op::Write { offset, buf, range, .. } => {
            let offset = *offset + u64::from(entry.done_bytes);
            let (ptr, len) = rest_shared(buf, range, done_bytes);
            let len = len.min(part_bytes_max);
            match fixed_index(pool, buf.slot()) {
                Some(index) => {
                    opcode::WriteFixed::new(file, ptr, len, index).offset(offset).build()
                }
                None => opcode::Write::new(file, ptr, len).offset(offset).build(),
            }
        }
        Op::Recv { buf, range, all, .. } => {
            let (ptr, len) = rest(buf, range, done_bytes);
            let flags = if *all { libc::MSG_WAITALL } else { 0 };
            opcode::Recv::new(file, ptr, len).flags(flags).build()
        }
        Op::RecvVec { buf, .. } => {
            let ptr = buf.spare_capacity_mut().as_mut_ptr().cast();
            opcode::Recv::new(file, ptr, entry.total_bytes).build()
        }
        Op::ReadStream { buf, range, .. } => {
            let (ptr, len) = rest(buf, range, 0);
            opcode::Read::new(file, ptr, len).offset(OWN_POSITION).build()
        }
        Op::WriteVec { offset, data, dsync, .. } => {
            let ptr = data.as_ptr().wrapping_add(done_bytes);
            let len = entry.total_bytes - entry.done_bytes;
            let offset = *offset + u64::from(entry.done_bytes);
            let flags = if *dsync { RWF_DSYNC } else { 0 };
            opcode::Write::new(file, ptr, len).offset(offset).rw_flags(flags).build()
        }
        Op::Send { data, .. } => {
            data.gather(done_bytes, &mut scratch.iov);
            scratch.message.msg_iov = scratch.iov.as_mut_ptr();
            scratch.message.msg_iovlen = scratch.iov.len();
            let message = &raw const scratch.message;
            opcode::SendMsg::new(file, message).flags(SEND_FLAGS.cast_unsigned()).build()
        }
        Op::WriteStream { data, .. } => {
            data.gather(0, &mut scratch.iov);
            let len = u32::try_from(scratch.iov.len()).expect("at most SEND_PARTS_MAX");
            opcode::Writev::new(file, scratch.iov.as_ptr(), len).offset(OWN_POSITION).build()
        }
        Op::Command { command, .. } => {
            return Some(Sqe::Command(build_command(id, command, file, scratch)));
        }
        other => build_plain(other, file, scratch)?,
    };
    Some(Sqe::Plain(sqe.user_data(id.user_data())))
}

/// The NVMe command for an operation, or for the next part of it.
///
/// # Errors
/// INVAL for what is no whole number of blocks, OPNOTSUPP for what is no command.
pub(crate) fn build_nvme(
    id: OpId,
    entry: &mut InFlight,
    namespace: &Namespace,
    pool: Option<&Pool>,
) -> Result<Sqe, Errno> {
    let done_bytes = usize::try_from(entry.done_bytes).expect("u32 fits usize");
    let (request, buf_index) = match &mut entry.op {
        Op::Read { offset, buf, range, .. } => {
            let offset = *offset + u64::from(entry.done_bytes);
            let index = fixed_index(pool, buf);
            let (ptr, bytes) = rest(buf, range, done_bytes);
            (Request::Read { offset, addr: address(ptr), bytes }, index)
        }
        Op::Write { offset, buf, range, .. } => {
            let offset = *offset + u64::from(entry.done_bytes);
            let (ptr, bytes) = rest_shared(buf, range, done_bytes);
            (Request::Write { offset, addr: address(ptr), bytes }, fixed_index(pool, buf.slot()))
        }
        Op::Fsync { .. } => (Request::Flush, None),
        _ => return Err(Errno::OPNOTSUPP),
    };
    let file = Fixed(entry.op.file().map_or(0, |file| file.index));
    let (data, bytes) = nvme::command(namespace, request)?;
    entry.command_bytes = Some(bytes);
    let buf_index = buf_index.filter(|_| namespace.fixed_buffers);
    let command = opcode::UringCmd80::new(file, NVME_URING_CMD_IO).cmd(data).buf_index(buf_index);
    Ok(Sqe::Command(command.build().user_data(id.user_data())))
}

/// Memory's address as the kernel gets it in a command.
fn address<T>(ptr: *const T) -> u64 {
    u64::try_from(ptr.expose_provenance()).expect("addresses have 64 bits")
}

fn build_command(
    id: OpId,
    command: &mut Command,
    file: Fixed,
    scratch: &mut Scratch,
) -> squeue::Entry128 {
    scratch.iov.clear();
    for (buf, range) in &mut command.parts {
        let iov_base = buf.as_mut_ptr().wrapping_add(range.start).cast();
        scratch.iov.push(libc::iovec { iov_base, iov_len: range.len() });
    }
    let len = u32::try_from(scratch.iov.len()).expect("at most SEND_PARTS_MAX");
    let addr = if len == 0 { 0 } else { address(scratch.iov.as_ptr()) };
    let entry = opcode::UringCmd80::new(file, command.cmd_op)
        .cmd(command.data)
        .addr(Some(addr))
        .build()
        .user_data(id.user_data());
    with_len(entry, len)
}

/// Operations that transfer nothing.
fn build_plain(op: &Op, file: Fixed, scratch: &mut Scratch) -> Option<squeue::Entry> {
    let null = std::ptr::null_mut();
    Some(match op {
        Op::Accept { multishot: true, .. } => {
            opcode::AcceptMulti::new(file).flags(libc::SOCK_CLOEXEC).build()
        }
        Op::Accept { .. } => {
            opcode::Accept::new(file, null, null.cast()).flags(libc::SOCK_CLOEXEC).build()
        }
        Op::Connect { addr, .. } => {
            let addr = scratch.addr.insert(SocketAddrAny::from(*addr));
            opcode::Connect::new(file, addr.as_ptr().cast(), addr.addr_len()).build()
        }
        Op::Fsync { datasync, .. } => {
            let flags = if *datasync { FsyncFlags::DATASYNC } else { FsyncFlags::empty() };
            opcode::Fsync::new(file).flags(flags).build()
        }
        Op::Fallocate { mode, offset, bytes, .. } => {
            let mode = mode.bits().cast_signed();
            opcode::Fallocate::new(file, *bytes).offset(*offset).mode(mode).build()
        }
        Op::PollAdd { events, multishot, .. } => {
            opcode::PollAdd::new(file, u32::from(events.bits())).multi(*multishot).build()
        }
        Op::Timeout { duration } => {
            scratch.time = Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos());
            opcode::Timeout::new(&raw const scratch.time).build()
        }
        Op::Shutdown { how, .. } => {
            let how = match how {
                rustix::net::Shutdown::Read => libc::SHUT_RD,
                rustix::net::Shutdown::Write => libc::SHUT_WR,
                rustix::net::Shutdown::Both => libc::SHUT_RDWR,
            };
            opcode::Shutdown::new(file, how).build()
        }
        _ => return None,
    })
}

/// The part of a slot's range that is still to be transferred.
fn rest(buf: &mut BufSlot, range: &Range<usize>, done_bytes: usize) -> (*mut u8, u32) {
    let start = range.start + done_bytes;
    assert!(start <= range.end && range.end <= buf.capacity_bytes(), "checked when submitted");
    let len = u32::try_from(range.end - start).expect("checked when submitted");
    assert!(len <= TRANSFER_BYTES_MAX);
    (buf.as_mut_ptr().wrapping_add(start), len)
}

/// As [`rest`], of memory that is only read.
fn rest_shared(buf: &SharedSlot, range: &Range<usize>, done_bytes: usize) -> (*const u8, u32) {
    let rest = &buf[range.start + done_bytes..range.end];
    let len = u32::try_from(rest.len()).expect("checked when submitted");
    assert!(len <= TRANSFER_BYTES_MAX);
    (rest.as_ptr(), len)
}

/// The registered buffer that covers a slot.
fn fixed_index(pool: Option<&Pool>, buf: &BufSlot) -> Option<u16> {
    pool.filter(|pool| pool.owns(buf)).and_then(|_| u16::try_from(buf.region_index()).ok())
}
