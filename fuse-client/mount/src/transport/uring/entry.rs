//! One entry of a queue: the memory a request is put into and its reply taken from, as the kernel lays both out.
//!
//! A header of 288 bytes (the request's header or the reply's, the operation's struct, and what concerns the entry)
//! and a payload as long as the longest request. A request's names or data are in the payload; so is all of a reply
//! but its header. The kernel keeps both addresses from REGISTER on, so an entry keeps its memory for life.

use rustix::io::Errno;
use weft_iobuf::BufSlot;
use weft_ring::{COMMAND_BYTES, Command, SendData};
use zerocopy::{FromBytes, IntoBytes};

use crate::abi::input::InHeader;
use crate::abi::output::OutHeader;
use crate::abi::uring::{CMD_COMMIT_AND_FETCH, CMD_REGISTER, CmdReq, EntInOut, ReqHeader};
use crate::request::{DecodeError, Unique, header};

const HEADER: usize = 0;
const PAYLOAD: usize = 1;
const OUT_HEADER_BYTES: usize = size_of::<OutHeader>();

/// A request as it lies in an entry.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) header: InHeader,
    /// The operation's struct, with room behind it.
    pub(super) op_in: [u64; 16],
    /// How much of the payload it has.
    pub(super) payload_bytes: usize,
    /// What the commit of its reply is known by.
    pub(super) commit_id: u64,
}

/// A new entry of `queue`, to be registered.
pub(super) fn register(
    queue: u16,
    header: BufSlot,
    payload: BufSlot,
    payload_bytes: usize,
) -> Box<Command> {
    assert!(payload_bytes <= payload.capacity_bytes(), "the payload is within its slot");
    let parts = vec![(header, 0..size_of::<ReqHeader>()), (payload, 0..payload_bytes)];
    Box::new(Command { cmd_op: CMD_REGISTER, data: command_area(queue, 0), parts })
}

/// What the kernel put in.
///
/// # Errors
/// The header says more payload than there is room for.
pub(super) fn received(command: &Command) -> Result<Received, DecodeError> {
    let (slot, range) = &command.parts[HEADER];
    let whole = ReqHeader::read_from_bytes(&slot.as_slice()[range.clone()])
        .expect("the part is as long as the header");
    let header = header(whole.in_out.as_bytes()).expect("128 bytes hold a header");
    let payload_bytes = usize::try_from(whole.ent.payload_sz).expect("64-bit machines");
    if payload_bytes > command.parts[PAYLOAD].1.len() {
        let unique = Some(Unique(header.unique));
        let kind = crate::request::Kind::Length;
        return Err(DecodeError { kind, opcode: header.opcode, unique });
    }
    Ok(Received { header, op_in: whole.op_in, payload_bytes, commit_id: whole.ent.commit_id })
}

/// A request's names or data.
pub(super) fn payload(command: &Command, payload_bytes: usize) -> &[u8] {
    let (slot, range) = &command.parts[PAYLOAD];
    &slot.as_slice()[range.clone()][..payload_bytes]
}

/// Puts a reply in, and turns the command into the one that hands it over and asks for the next request.
pub(super) fn commit(command: &mut Command, queue: u16, commit_id: u64, reply: &SendData) {
    let payload_bytes = place(command, reply).unwrap_or_else(|unique| {
        tracing::error!(unique, "a reply longer than its entry: EIO instead; a bug");
        let header = OutHeader {
            len: u32::try_from(OUT_HEADER_BYTES).expect("16"),
            error: -Errno::IO.raw_os_error(),
            unique,
        };
        header_area(command)[..OUT_HEADER_BYTES].copy_from_slice(header.as_bytes());
        0
    });
    let payload_sz = u32::try_from(payload_bytes).expect("a payload is at most 16 MiB");
    let about = EntInOut { commit_id, payload_sz, ..EntInOut::default() };
    let about_at = size_of::<ReqHeader>() - size_of::<EntInOut>();
    header_area(command)[about_at..].copy_from_slice(about.as_bytes());
    command.cmd_op = CMD_COMMIT_AND_FETCH;
    command.data = command_area(queue, commit_id);
}

/// Copies the reply's header and, behind one another, its other parts; gives the length of these. The reply's unique
/// when they are too long.
fn place(command: &mut Command, reply: &SendData) -> Result<usize, u64> {
    let mut head = [0; OUT_HEADER_BYTES];
    let mut at = 0; // in the reply
    let room = command.parts[PAYLOAD].1.len();
    let payload = command.parts[PAYLOAD].0.as_mut_slice();
    let mut fits = true;
    for part in reply.slices() {
        let in_head = part.len().min(OUT_HEADER_BYTES - at.min(OUT_HEADER_BYTES));
        head[at.min(OUT_HEADER_BYTES)..][..in_head].copy_from_slice(&part[..in_head]);
        let rest = &part[in_head..];
        let start = (at + in_head).saturating_sub(OUT_HEADER_BYTES);
        fits &= start + rest.len() <= room;
        if fits {
            payload[start..start + rest.len()].copy_from_slice(rest);
        }
        at += part.len();
    }
    let (header, _) = OutHeader::read_from_prefix(&head).expect("as long as one");
    header_area(command)[..OUT_HEADER_BYTES].copy_from_slice(&head);
    if fits { Ok(at - OUT_HEADER_BYTES) } else { Err(header.unique) }
}

fn header_area(command: &mut Command) -> &mut [u8] {
    let (slot, range) = &mut command.parts[HEADER];
    &mut slot.as_mut_slice()[range.clone()]
}

fn command_area(queue: u16, commit_id: u64) -> [u8; COMMAND_BYTES] {
    let mut area = [0; COMMAND_BYTES];
    let request = CmdReq { commit_id, qid: queue, ..CmdReq::default() };
    area[..size_of::<CmdReq>()].copy_from_slice(request.as_bytes());
    area
}

#[cfg(test)]
mod tests;
