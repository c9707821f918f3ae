//! One entry of a queue: the memory a request is put into and its reply taken from, as the kernel lays both out.
//!
//! A header of 288 bytes (the request's header or the reply's, the operation's struct, and what concerns the entry)
//! and a payload as long as the longest request. A request's names or data are in the payload; so is all of a reply
//! but its header. The kernel keeps both addresses from REGISTER on, so an entry keeps its memory for life.

use std::ops::Range;

use rustix::io::Errno;
use weft_iobuf::{BufSlot, LentSlot};
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

/// Lends the payload: the first part is all of it.
pub(super) fn lend(command: &mut Command) -> (Lent, BufSlot) {
    let (payload, range) = command.parts.pop().expect("an entry has a payload");
    let (lent, part) = payload.lend();
    (Lent { lent, range }, part)
}

/// A payload that is lent, and how much of its slot it is.
#[derive(Debug)]
pub(super) struct Lent {
    lent: LentSlot,
    range: Range<usize>,
}

impl Lent {
    /// Whether the reply's payload lies, whole and in order, where it is to be.
    pub(super) fn holds(&self, reply: &SendData) -> bool {
        let mut at = 0; // in the reply
        reply.slices().all(|part| {
            let start = at;
            at += part.len();
            match start.checked_sub(OUT_HEADER_BYTES) {
                // What is in the head may be no more than that.
                None => at <= OUT_HEADER_BYTES,
                Some(start) => self.lent.position_of(part) == Some(start),
            }
        })
    }

    /// Puts the payload back, when nobody has a part of it any more.
    ///
    /// # Errors
    /// Somebody has.
    pub(super) fn give_back(self, command: &mut Command) -> Result<(), Self> {
        let Self { lent, range } = self;
        match lent.try_reclaim() {
            Ok(slot) => {
                command.parts.push((slot, range));
                Ok(())
            }
            Err(lent) => Err(Self { lent, range }),
        }
    }
}

/// A reply's header, and its payload: bytes, or so many that are at their place already.
#[derive(Debug)]
pub(super) struct Outgoing {
    header: [u8; OUT_HEADER_BYTES],
    payload: Placed,
}

#[derive(Debug)]
enum Placed {
    Already(usize),
    From(SendData),
}

impl Outgoing {
    /// All of a reply; `lent` is the payload when it was lent. Gives back the list when it is not needed any more.
    pub(super) fn new(reply: SendData, lent: Option<&Lent>) -> (Self, Option<SendData>) {
        let mut header = [0; OUT_HEADER_BYTES];
        let mut bytes = reply.slices().flatten();
        header.iter_mut().for_each(|byte| *byte = *bytes.next().expect("a reply has a header"));
        drop(bytes);
        let payload_bytes = reply.len_bytes() - OUT_HEADER_BYTES;
        match lent {
            Some(lent) if lent.holds(&reply) => {
                (Self { header, payload: Placed::Already(payload_bytes) }, Some(reply))
            }
            // Parts that lie elsewhere in the payload must be let go of before it can be written.
            Some(_) => {
                let mut copy = SendData::new();
                copy.push_bytes(&reply.slices().flatten().copied().collect::<Vec<u8>>());
                (Self { header, payload: Placed::From(copy) }, Some(reply))
            }
            None => (Self { header, payload: Placed::From(reply) }, None),
        }
    }
}

/// Puts a reply in, and turns the command into the one that hands it over and asks for the next request. Gives back the
/// list the reply was in.
pub(super) fn commit(
    command: &mut Command,
    queue: u16,
    commit_id: u64,
    reply: Outgoing,
) -> Option<SendData> {
    let Outgoing { mut header, payload } = reply;
    let (placed_bytes, list) = match payload {
        Placed::Already(bytes) => (Some(bytes), None),
        Placed::From(data) => (place(command, &data), Some(data)),
    };
    let payload_bytes = placed_bytes.unwrap_or_else(|| {
        let (mut out, _) = OutHeader::read_from_prefix(&header).expect("as long as one");
        tracing::error!(out.unique, "a reply longer than its entry: EIO instead; a bug");
        out.len = u32::try_from(OUT_HEADER_BYTES).expect("16");
        out.error = -Errno::IO.raw_os_error();
        header.copy_from_slice(out.as_bytes());
        0
    });
    let payload_sz = u32::try_from(payload_bytes).expect("a payload is at most 16 MiB");
    let about = EntInOut { commit_id, payload_sz, ..EntInOut::default() };
    let about_at = size_of::<ReqHeader>() - size_of::<EntInOut>();
    let area = header_area(command);
    area[..OUT_HEADER_BYTES].copy_from_slice(&header);
    area[about_at..].copy_from_slice(about.as_bytes());
    command.cmd_op = CMD_COMMIT_AND_FETCH;
    command.data = command_area(queue, commit_id);
    list
}

/// Copies what follows the reply's header into the payload; gives its length, `None` when there is no room.
fn place(command: &mut Command, reply: &SendData) -> Option<usize> {
    let payload_bytes = reply.len_bytes() - OUT_HEADER_BYTES;
    let (slot, range) = &mut command.parts[PAYLOAD];
    let mut free = slot.as_mut_slice()[range.clone()].get_mut(..payload_bytes)?;
    let mut skip = OUT_HEADER_BYTES;
    for part in reply.slices() {
        let skipped = skip.min(part.len());
        skip -= skipped;
        let (to, behind) = free.split_at_mut(part.len() - skipped);
        to.copy_from_slice(&part[skipped..]);
        free = behind;
    }
    Some(payload_bytes)
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
