//! What a kernel result means for an operation: it is over, or there is more to transfer.
//!
//! Pure, so that the rules for short transfers are tested without a kernel.

use std::ops::Range;

use rustix::io::Errno;

use crate::limits::{SECTOR_BYTES, SEND_PARTS_MAX, TRANSFER_BYTES_MAX};
use crate::op::{Op, Reject};
use crate::send_data::SendData;
use crate::table::InFlight;

/// What follows from a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The operation is over.
    Done(Result<u32, Errno>),
    /// Submit the rest.
    Again,
}

/// How an operation treats a result that is not all of it.
enum Shape {
    /// Any result is the end.
    Single,
    /// Continued; 0 bytes means the end of the file or stream.
    Input,
    /// Continued; 0 bytes means something is wrong.
    Output,
}

/// The bytes an operation wants to transfer, or why it cannot be one.
pub(crate) fn total_bytes(op: &Op) -> Result<u32, Reject> {
    let (offset, len) = match op {
        Op::Recv { buf, range, .. } | Op::ReadStream { buf, range, .. } => {
            if range.is_empty() {
                return Err(Reject::Range);
            }
            (0, within(range, buf.capacity_bytes())?)
        }
        Op::Read { offset, buf, range, .. } => (*offset, within(range, buf.capacity_bytes())?),
        Op::Write { offset, buf, range, .. } => (*offset, within(range, buf.len())?),
        Op::RecvVec { buf, .. } => {
            let spare_bytes = buf.capacity() - buf.len();
            if spare_bytes == 0 {
                return Err(Reject::Range);
            }
            // A larger buffer is fine: no more than this is asked of the kernel.
            (0, spare_bytes.min(TRANSFER_BYTES_MAX as usize))
        }
        Op::Send { data, .. } | Op::WriteStream { data, .. } => (0, gathered_bytes(data)?),
        Op::WriteVec { offset, data, .. } => (*offset, data.len()),
        Op::Command { command, .. } => {
            if command.parts.len() > SEND_PARTS_MAX {
                return Err(Reject::Parts);
            }
            for (buf, range) in &command.parts {
                within(range, buf.capacity_bytes())?;
            }
            (0, 0)
        }
        Op::Fallocate { offset, bytes, .. } => {
            let end = offset.checked_add(*bytes).ok_or(Reject::Range)?;
            i64::try_from(end).map_err(|_| Reject::Range)?;
            (0, 0)
        }
        _ => (0, 0),
    };
    let total_bytes = u32::try_from(len).map_err(|_| Reject::Range)?;
    let end = offset.checked_add(u64::from(total_bytes)).ok_or(Reject::Range)?;
    if total_bytes > TRANSFER_BYTES_MAX || i64::try_from(end).is_err() {
        return Err(Reject::Range);
    }
    Ok(total_bytes)
}

fn gathered_bytes(data: &SendData) -> Result<usize, Reject> {
    if data.part_count() > SEND_PARTS_MAX { Err(Reject::Parts) } else { Ok(data.len_bytes()) }
}

/// Judges the kernel's `result` (bytes or a negated errno) and counts what was transferred.
pub(crate) fn step(entry: &mut InFlight, result: i32) -> Verdict {
    let shape = shape(&entry.op);
    let Ok(bytes) = u32::try_from(result) else {
        return failed(entry, &shape, Errno::from_raw_os_error(-result));
    };
    if matches!(shape, Shape::Single) {
        return Verdict::Done(Ok(bytes));
    }
    let done_bytes = entry.done_bytes.checked_add(bytes).filter(|&done| done <= entry.total_bytes);
    entry.done_bytes = done_bytes.expect("the kernel transfers at most what it was asked for");
    if entry.done_bytes == entry.total_bytes {
        return Verdict::Done(Ok(entry.total_bytes));
    }
    match shape {
        Shape::Input if bytes == 0 => Verdict::Done(Ok(entry.done_bytes)),
        Shape::Output if bytes == 0 => Verdict::Done(Err(Errno::IO)),
        _ if entry.cancelled => Verdict::Done(Err(Errno::CANCELED)),
        _ => Verdict::Again,
    }
}

fn failed(entry: &InFlight, shape: &Shape, errno: Errno) -> Verdict {
    let restart = errno == Errno::INTR && !matches!(entry.op, Op::Connect { .. });
    match errno {
        Errno::TIME if matches!(entry.op, Op::Timeout { .. }) => Verdict::Done(Ok(0)),
        Errno::INTR if entry.cancelled => Verdict::Done(Err(Errno::CANCELED)),
        _ if restart => Verdict::Again,
        // An O_DIRECT read ended at the end of the file, off the alignment: there is no rest.
        Errno::INVAL
            if matches!(shape, Shape::Input) && !entry.done_bytes.is_multiple_of(SECTOR_BYTES) =>
        {
            Verdict::Done(Ok(entry.done_bytes))
        }
        _ => Verdict::Done(Err(errno)),
    }
}

/// The length of a range that lies within a slot.
fn within(range: &Range<usize>, capacity_bytes: usize) -> Result<usize, Reject> {
    let fits = range.start <= range.end && range.end <= capacity_bytes;
    if fits { Ok(range.len()) } else { Err(Reject::Range) }
}

fn shape(op: &Op) -> Shape {
    match op {
        Op::Recv { all: true, .. } | Op::Read { .. } => Shape::Input,
        Op::Send { .. } | Op::Write { .. } | Op::WriteVec { .. } => Shape::Output,
        _ => Shape::Single,
    }
}

#[cfg(test)]
mod tests;
