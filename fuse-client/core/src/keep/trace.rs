//! The flight recorder of a mount: its latest operations and the requests they made, with the time of each step.
//!
//! Always on. Beside the other records, so that it costs a copy of 96 bytes and no lock, can be read while the client-core
//! works, hangs or is dead (`weft trace`), and goes on where a killed client-core left it. Memory is a number ([`BYTES`]):
//! two rings, written over when full, and the slowest operation of each kind in each of the last [`WINDOWS`] stretches of
//! [`WINDOW_NANOS`] with its requests, because a busy mount turns the rings in a second.
//!
//! A record carries its number: it is 0 while the record is written. A reader looks at the rings' counters before and
//! after, and leaves out what may have been written over meanwhile.
//!
//! Times are nanoseconds of the machine's monotonic clock.

use weft_wire::data::Subject;
use weft_wire::units::{to_u64, to_usize};
use weft_wire::{ChunkIndex, Ino, Kind, SessionId, ShardId, Status, TargetId};

use super::counts::OP_NAMES;
use super::{MAGIC, TRACE_AT, VERSION, table};

/// Operations in the ring.
pub const OPS: usize = 16 << 10;
/// Requests in the ring.
pub const REQUESTS: usize = 32 << 10;
/// Stretches of time of which the slowest operations are known.
pub const WINDOWS: usize = 8;
/// How long one is.
pub const WINDOW_NANOS: u64 = 15_000_000_000;
/// Requests that are kept with a slowest operation.
pub const SLOWEST_REQUESTS: usize = 16;
/// Requests looked at to find those of an operation that is the slowest.
const LOOKED_AT_MAX: u64 = 4_096;
/// Links whose servers are named.
const LINKS: usize = 64;
const LINK_BYTES: usize = 64;
const ADDRESS_BYTES_MAX: usize = LINK_BYTES - 4;

const WORDS: usize = 12;
const RECORD_BYTES: usize = 8 * WORDS;
const SLOWEST_BYTES: usize = RECORD_BYTES * (1 + SLOWEST_REQUESTS);

/// Counters of the rings.
const OP_COUNT_AT: usize = 0;
const REQUEST_COUNT_AT: usize = 8;
const SESSION_AT: usize = 16;
/// Client-cores that there were, with this one, and since when it is there.
const CORES_AT: usize = 32;
const CORE_BEGAN_AT: usize = 40;
const LINKS_AT: usize = 64;
const OPS_AT: usize = LINKS_AT + LINKS * LINK_BYTES;
const REQUESTS_AT: usize = OPS_AT + OPS * RECORD_BYTES;
const SLOWEST_AT: usize = REQUESTS_AT + REQUESTS * RECORD_BYTES;
/// Bytes of all of it.
pub const BYTES: usize = SLOWEST_AT + OP_NAMES.len() * WINDOWS * SLOWEST_BYTES;
const _: () = assert!(BYTES <= 6 << 20, "`doc/trace.md` says so");

type Words = [u64; WORDS];

/// An operation that was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpSpan {
    /// The kernel's number of it.
    pub op: u64,
    /// What it is counted as.
    pub name: &'static str,
    /// Who asked.
    pub pid: u32,
    /// What it is about: a file, or the directory of a name; 0 for none.
    pub ino: Ino,
    /// What was found or made; 0 for nothing.
    pub found: Ino,
    /// Where in the file.
    pub offset: u64,
    /// Bytes asked for.
    pub asked_bytes: u32,
    /// Bytes read or written.
    pub bytes: u32,
    /// 0, or the error it ended with.
    pub errno: i32,
    /// Which client-core did it, counted from 1.
    pub core: u64,
    /// When the request was read from the kernel.
    pub started: u64,
    /// When it was answered.
    pub finished: u64,
}

/// A request to a server that was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestSpan {
    /// The operation that waited for it; 0 when it was for a file (written data, a sync that several wait for).
    pub op: u64,
    /// Its id on the wire.
    pub request_id: u64,
    /// What it asked; `None` when a later version wrote it.
    pub kind: Option<Kind>,
    /// How it ended.
    pub status: Option<Status>,
    /// Which link it went by: [`Trace::links`].
    pub link: u16,
    /// The target it was for.
    pub target: Option<TargetId>,
    /// The file; 0 when that is known of the operation only.
    pub ino: Ino,
    /// The chunk.
    pub chunk: ChunkIndex,
    /// Where in the chunk.
    pub offset: u32,
    /// How many bytes.
    pub bytes: u32,
    /// How often it was sent.
    pub send_count: u16,
    /// When it was to be sent: from here on it waited for the connection and its credits.
    pub asked: u64,
    /// When it was sent, the last time.
    pub sent: u64,
    /// When the reply was there.
    pub answered: u64,
}

/// Everything that is known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// The mount's session: the servers know the requests by it.
    pub session: SessionId,
    /// Client-cores that there were, with the present one.
    pub cores: u64,
    /// Since when the present one is there.
    pub core_began: u64,
    /// By link: shard and address.
    pub links: Vec<(ShardId, String)>,
    /// Oldest first.
    pub ops: Vec<OpSpan>,
    /// Oldest first.
    pub requests: Vec<RequestSpan>,
    /// Operations ever recorded.
    pub op_count: u64,
    /// The slowest of each kind and stretch of time, with the requests kept of each.
    pub slowest: Vec<(OpSpan, Vec<RequestSpan>)>,
}

impl OpSpan {
    /// How long it took.
    #[must_use]
    pub fn took(&self) -> u64 {
        self.finished.saturating_sub(self.started)
    }

    fn words(&self, what: usize) -> Words {
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        [
            0,
            self.op,
            self.started,
            self.finished,
            self.ino.0,
            self.found.0,
            self.offset,
            pair(self.asked_bytes, self.bytes),
            pair(self.pid, self.errno.cast_unsigned()),
            to_u64(what),
            self.core,
            0,
        ]
    }

    fn of(words: &Words) -> Option<OpSpan> {
        Some(OpSpan {
            op: words[1],
            started: words[2],
            finished: words[3],
            ino: Ino(words[4]),
            found: Ino(words[5]),
            offset: words[6],
            asked_bytes: high(words[7]),
            bytes: low(words[7]),
            pid: high(words[8]),
            errno: low(words[8]).cast_signed(),
            name: OP_NAMES.get(usize::try_from(words[9]).ok()?).copied()?,
            core: words[10],
        })
    }
}

impl RequestSpan {
    /// Takes what the request was about from its body.
    pub(crate) fn about(&mut self, kind: Kind, body: &[u8]) {
        let Some(subject) = Subject::of(kind, body) else { return };
        (self.target, self.ino) = (Some(subject.target), subject.ino);
        if let Some((chunk, offset, bytes)) = subject.range {
            (self.chunk, self.offset, self.bytes) = (chunk, offset, bytes);
        }
    }

    fn words(&self) -> Words {
        let four = |a: u16, b: u16, c: u16, d: u16| {
            u64::from(a) << 48 | u64::from(b) << 32 | u64::from(c) << 16 | u64::from(d)
        };
        let kind = self.kind.map_or(0, Kind::code);
        let status = self.status.map_or(u16::MAX, Status::code);
        let target = self.target.map_or(0, |target| target.0);
        [
            0,
            self.op,
            self.request_id,
            self.asked,
            self.sent,
            self.answered,
            self.ino.0,
            self.chunk.0,
            u64::from(self.offset) << 32 | u64::from(self.bytes),
            four(kind, status, target, self.link),
            u64::from(self.send_count) << 1 | u64::from(self.target.is_some()),
            0,
        ]
    }

    fn of(words: &Words) -> RequestSpan {
        let part = |word: u64, at: u32| {
            let bytes = (word >> (16 * at)).to_le_bytes();
            u16::from_le_bytes([bytes[0], bytes[1]])
        };
        RequestSpan {
            op: words[1],
            request_id: words[2],
            asked: words[3],
            sent: words[4],
            answered: words[5],
            ino: Ino(words[6]),
            chunk: ChunkIndex(words[7]),
            offset: high(words[8]),
            bytes: low(words[8]),
            kind: Kind::from_code(part(words[9], 3)).ok(),
            status: Status::from_code(part(words[9], 2)).ok(),
            target: (words[10] & 1 == 1).then(|| TargetId(part(words[9], 1))),
            link: part(words[9], 0),
            send_count: part(words[10] >> 1, 0),
        }
    }
}

fn high(word: u64) -> u32 {
    u32::try_from(word >> 32).expect("32 bits")
}

fn low(word: u64) -> u32 {
    u32::try_from(word & 0xffff_ffff).expect("32 bits")
}

/// Puts a record down: there, or being written, whenever somebody looks.
fn put(memory: &mut [u8], at: usize, number: u64, words: &Words) {
    let record = &mut memory[at..at + RECORD_BYTES];
    table::put_number(record, 0, 0);
    for (word, place) in words[1..].iter().zip(record[8..].chunks_exact_mut(8)) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    table::put_number(record, 0, number);
}

fn get(memory: &[u8], at: usize) -> Words {
    std::array::from_fn(|word| table::number(memory, at + 8 * word))
}

/// Puts a record into a ring. `counter` and `ring` are places in the memory.
fn push(memory: &mut [u8], counter: usize, (ring, records): (usize, usize), words: &Words) {
    let count = table::number(memory, counter);
    let at = ring + (to_usize(count) % records) * RECORD_BYTES;
    put(memory, at, count.wrapping_add(1), words);
    table::put_number(memory, counter, count.wrapping_add(1));
}

/// A client-core begins. Gives which it is.
pub(super) fn begin(memory: &mut [u8], session: SessionId, now: u64) -> u64 {
    let core = table::number(memory, CORES_AT).wrapping_add(1);
    memory[SESSION_AT..SESSION_AT + 16].copy_from_slice(&session.0);
    table::put_number(memory, CORE_BEGAN_AT, now);
    table::put_number(memory, CORES_AT, core);
    core
}

/// Names the server behind a link.
pub(super) fn name_link(memory: &mut [u8], link: usize, shard: ShardId, address: &str) {
    if link >= LINKS {
        return;
    }
    let place = &mut memory[LINKS_AT + link * LINK_BYTES..][..LINK_BYTES];
    let address = address.get(..address.len().min(ADDRESS_BYTES_MAX)).unwrap_or_default();
    let length = u16::try_from(address.len()).expect("below 64");
    place[..2].copy_from_slice(&shard.0.to_le_bytes());
    place[4..4 + address.len()].copy_from_slice(address.as_bytes());
    place[2..4].copy_from_slice(&length.to_le_bytes());
}

/// A request was answered.
pub(super) fn request(memory: &mut [u8], span: &RequestSpan) {
    push(memory, REQUEST_COUNT_AT, (REQUESTS_AT, REQUESTS), &span.words());
}

/// An operation was answered; `what` is the place of its name.
pub(super) fn operation(memory: &mut [u8], span: &OpSpan, what: usize) {
    let words = span.words(what);
    push(memory, OP_COUNT_AT, (OPS_AT, OPS), &words);
    let window = span.finished / WINDOW_NANOS;
    let at = SLOWEST_AT + (what * WINDOWS + to_usize(window) % WINDOWS) * SLOWEST_BYTES;
    let (number, began, ended) =
        (table::number(memory, at), table::number(memory, at + 16), table::number(memory, at + 24));
    if number != window + 1 || ended.saturating_sub(began) < span.took() {
        put_slowest(memory, at, window + 1, span, words);
    }
}

/// Keeps the operation and its requests: its own, and those for its file while it waited.
fn put_slowest(memory: &mut [u8], at: usize, number: u64, span: &OpSpan, mut words: Words) {
    table::put_number(memory, at, 0);
    let count = table::number(memory, REQUEST_COUNT_AT);
    let mut kept = 0;
    for index in (count.saturating_sub(LOOKED_AT_MAX)..count).rev() {
        let request = get(memory, REQUESTS_AT + (to_usize(index) % REQUESTS) * RECORD_BYTES);
        let found = RequestSpan::of(&request);
        // They are in the order of their answers.
        if found.answered < span.started || kept == SLOWEST_REQUESTS {
            break;
        }
        if found.is_of(span) {
            kept += 1;
            put(memory, at + kept * RECORD_BYTES, 1, &request);
        }
    }
    words[11] = to_u64(kept);
    put(memory, at, number, &words);
}

impl RequestSpan {
    /// Whether the operation asked it, or may have waited for it: it was for its file, and answered meanwhile.
    #[must_use]
    pub fn is_of(&self, op: &OpSpan) -> bool {
        let meanwhile = (op.started..=op.finished).contains(&self.answered);
        let for_file = self.op == 0 && self.ino.0 != 0 && self.ino == op.ino;
        meanwhile && (for_file || (self.op == op.op && op.op != 0))
    }
}

/// What is recorded in a client-core's memory, as `read` gives bytes of it; `None` when another version wrote it.
///
/// # Errors
/// What `read` fails with.
pub fn read_trace<E>(
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Option<Trace>, E> {
    let mut header = [0; 12];
    read(0, &mut header)?;
    if header[..8] != MAGIC || header[8..] != VERSION.to_le_bytes() {
        return Ok(None);
    }
    let (mut all, mut again) = (vec![0; BYTES], vec![0; BYTES]);
    read(to_u64(TRACE_AT), &mut all)?;
    read(to_u64(TRACE_AT), &mut again)?;
    let links = (0..LINKS).map_while(|link| {
        let place = &all[LINKS_AT + link * LINK_BYTES..][..LINK_BYTES];
        let pair = |at: usize| u16::from_le_bytes([place[at], place[at + 1]]);
        let length = usize::from(pair(2));
        let text = place.get(4..4 + length).filter(|text| !text.is_empty())?;
        Some((ShardId(pair(0)), String::from_utf8_lossy(text).into_owned()))
    });
    let session = all[SESSION_AT..SESSION_AT + 16].try_into().unwrap_or_default();
    let words = |counter, place| ring_of(&all, &again, counter, place);
    let ops = words(OP_COUNT_AT, (OPS_AT, OPS));
    let requests = words(REQUEST_COUNT_AT, (REQUESTS_AT, REQUESTS));
    Ok(Some(Trace {
        session: SessionId(session),
        cores: table::number(&all, CORES_AT),
        core_began: table::number(&all, CORE_BEGAN_AT),
        links: links.collect(),
        ops: ops.iter().filter_map(OpSpan::of).collect(),
        requests: requests.iter().map(RequestSpan::of).collect(),
        op_count: table::number(&all, OP_COUNT_AT),
        slowest: slowest_of(&all, &again),
    }))
}

/// A ring's records, oldest first, without what was written over between the two looks.
fn ring_of(
    all: &[u8],
    again: &[u8],
    counter: usize,
    (ring, records): (usize, usize),
) -> Vec<Words> {
    let (end, later) = (table::number(all, counter), table::number(again, counter));
    // The one that was being written at the second look was the oldest before.
    let first = later.saturating_add(1).saturating_sub(to_u64(records));
    let whole = |index: &u64| {
        let words = get(all, ring + (to_usize(*index) % records) * RECORD_BYTES);
        (words[0] == index + 1).then_some(words)
    };
    (first..end.min(first + to_u64(records))).filter_map(|index| whole(&index)).collect()
}

/// Those that did not change between two looks.
fn slowest_of(all: &[u8], again: &[u8]) -> Vec<(OpSpan, Vec<RequestSpan>)> {
    let (all, again) = (&all[SLOWEST_AT..], &again[SLOWEST_AT..]);
    let slots = all.chunks_exact(SLOWEST_BYTES).zip(again.chunks_exact(SLOWEST_BYTES));
    let kept = slots.filter(|(slot, later)| table::number(slot, 0) != 0 && slot == later);
    kept.filter_map(|(slot, _)| {
        let words = get(slot, 0);
        let count = to_usize(words[11]).min(SLOWEST_REQUESTS);
        let mut requests: Vec<RequestSpan> =
            (1..=count).map(|at| RequestSpan::of(&get(slot, at * RECORD_BYTES))).collect();
        requests.reverse();
        Some((OpSpan::of(&words)?, requests))
    })
    .collect()
}

#[cfg(test)]
mod tests;
