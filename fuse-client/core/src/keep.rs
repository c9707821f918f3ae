//! What outlives a client-core: tables of fixed-length records in memory that its supervisor keeps.
//!
//! A client-core may be killed between any two instructions. Its successor must find what programs were told is done
//! and the servers have not: data that was answered and not sent, sizes the volume does not know, errors not yet
//! reported; what is open; and for each change of the namespace in flight its slot and number, so that it is not done
//! twice. `fuse-client/mount/doc/takeover.md` argues what is kept and why that is enough.
//!
//! Invariants:
//! - A record is whole or not there: contents carry a checksum, a change writes the other one of two copies, and a
//!   record comes and goes by one store of eight bytes.
//! - The core changes records before it says what is to be done (`ClientCore::poll`), and gives up what an answer
//!   needs only when the answer is out (`ClientCore::replied`).
//! - One process writes. Others may read the memory at any time (`weft mount ops`) and tell torn records by their sums.

pub(crate) mod counts;
pub mod records;
mod table;
pub mod trace;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use weft_iobuf::Mapped;
use weft_wire::limits::SLOTS_MAX;
use weft_wire::units::{to_nanos, to_u64, to_usize};
use weft_wire::{SessionId, ShardId, VolumeId};

pub use counts::{OpCounts, op_names, read_counts};
use records::OpState;
pub(crate) use records::{
    Change, FileRecord, HandleRecord, LinkRecord, LockRecord, OpRecord, WriteRecord,
};
use table::{Shape, Table};

/// Version of the layout: a successor that has another one cannot take over.
pub const VERSION: u32 = 6;
const MAGIC: [u8; 8] = *b"WEFTKEEP";
const HEADER_BYTES: usize = 4096;
/// In the header: set once the client-core was ready.
const READY_AT: usize = 16;
const NEXT_HANDLE_AT: usize = 24;
const USED_AT: usize = 64;
/// Volumes whose sequences are kept.
const VOLUMES_MAX: usize = 64;
const SEQUENCES_BYTES: usize = 8 * (1 + SLOTS_MAX as usize);

const fn shape(at: usize, index: usize, count: u32, copies: usize, content_bytes: usize) -> Shape {
    Shape { at, used_at: USED_AT + 8 * index, count, copies, content_bytes }
}

const SEQUENCES_AT: usize = HEADER_BYTES;
const OPS: Shape = shape(SEQUENCES_AT + VOLUMES_MAX * SEQUENCES_BYTES, 0, 64 << 10, 2, 120);
const HANDLES: Shape = shape(OPS.end(), 1, 1 << 20, 2, 48);
const FILES: Shape = shape(HANDLES.end(), 2, 1 << 19, 2, 472);
const WRITES: Shape = shape(FILES.end(), 3, 1 << 18, 2, 104);
const LINKS: Shape = shape(WRITES.end(), 4, 4096, 2, 512);
const CHANGES: Shape = shape(LINKS.end(), 5, 1024, 1, 72 << 10);
const LOCKS: Shape = shape(CHANGES.end(), 6, 64 << 10, 1, 48);
const COUNTS_AT: usize = LOCKS.end();
const TRACE_AT: usize = (COUNTS_AT + counts::BYTES).next_multiple_of(4096);
const _: () = assert!(crate::limits::OPS_MAX <= 64 << 10);
/// Bytes of all tables, a whole number of huge pages. Pages that were never written take no memory.
pub const KEEP_BYTES: usize = (TRACE_AT + trace::BYTES).next_multiple_of(2 << 20);

/// Which table a record is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    Ops,
    Handles,
    Files,
    Writes,
    Links,
    Changes,
    Locks,
}

/// The memory: a file's, or of the process alone for tests.
#[derive(Debug)]
pub enum KeepMemory {
    /// Outlives the process.
    Mapped(Mapped),
    /// Does not.
    Heap(Vec<u8>),
}

impl KeepMemory {
    /// Memory of this process alone.
    #[must_use]
    pub fn heap() -> KeepMemory {
        KeepMemory::Heap(vec![0; KEEP_BYTES])
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            KeepMemory::Mapped(mapped) => mapped.as_slice(),
            KeepMemory::Heap(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            KeepMemory::Mapped(mapped) => mapped.as_mut_slice(),
            KeepMemory::Heap(bytes) => bytes,
        }
    }
}

/// The memory is of another version, or not ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "what the client-core before this one left is of another version: unmount, and mount again"
)]
pub struct WrongVersion;

/// The tables.
#[derive(Debug)]
pub struct Keep {
    memory: KeepMemory,
    tables: [Table; 7],
    /// Where each volume's sequences are.
    sequences: BTreeMap<VolumeId, usize>,
    freed: Freed,
}

/// Records nobody needs any more, to be freed when everything else was written.
type Freed = Rc<RefCell<Vec<(Which, u32)>>>;

/// Holds a record; dropped with what it is about.
#[derive(Debug)]
pub(crate) struct Kept {
    which: Which,
    pub(crate) at: u32,
    freed: Freed,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.freed.borrow_mut().push((self.which, self.at));
    }
}

/// What was found in the memory.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) next_handle: u64,
    pub(crate) ops: Vec<(u32, OpRecord)>,
    pub(crate) handles: Vec<(u32, HandleRecord)>,
    pub(crate) files: Vec<(u32, FileRecord)>,
    pub(crate) writes: Vec<(u32, u64, WriteRecord)>,
    pub(crate) links: Vec<(u32, LinkRecord)>,
    pub(crate) changes: Vec<(u32, Change)>,
    pub(crate) locks: Vec<(u32, LockRecord)>,
}

impl Keep {
    /// Takes the memory: new, or as a client-core left it.
    ///
    /// # Errors
    /// It was left by a version whose records are others.
    pub fn open(mut memory: KeepMemory) -> Result<Keep, WrongVersion> {
        let bytes = memory.bytes_mut();
        assert!(bytes.len() >= KEEP_BYTES, "the memory is long enough for the tables");
        let header = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        if bytes[..header.len()].iter().all(|byte| *byte == 0) {
            bytes[..header.len()].copy_from_slice(&header);
        } else if bytes[..header.len()] != header {
            return Err(WrongVersion);
        }
        let tables = [OPS, HANDLES, FILES, WRITES, LINKS, CHANGES, LOCKS]
            .map(|shape| Table::open(shape, memory.bytes_mut()));
        let mut keep = Keep { memory, tables, sequences: BTreeMap::new(), freed: Freed::default() };
        for index in 0..VOLUMES_MAX {
            let at = SEQUENCES_AT + index * SEQUENCES_BYTES;
            if let Some(id) = keep.number(at).checked_sub(1).and_then(|id| u16::try_from(id).ok()) {
                keep.sequences.insert(VolumeId(id), at);
            }
        }
        Ok(keep)
    }

    /// Whether a client-core before this one was ready to serve.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.number(READY_AT) != 0
    }

    pub(crate) fn set_ready(&mut self) {
        self.put_number(READY_AT, 1);
    }

    pub(crate) fn set_next_handle(&mut self, next: u64) {
        self.put_number(NEXT_HANDLE_AT, next);
    }

    /// Everything that is there.
    pub(crate) fn find(&mut self) -> Found {
        let mut found = Found { next_handle: self.number(NEXT_HANDLE_AT), ..Found::default() };
        let bytes = self.memory.bytes();
        let [ops, handles, files, writes, links, changes, locks] = &self.tables;
        let each = |table: &Table, what: &mut dyn FnMut(u32, u64, &[u8])| {
            table.for_each(bytes, what);
        };
        each(ops, &mut |at, _, content| {
            found.ops.extend(OpRecord::decode(content).map(|op| (at, op)));
        });
        each(handles, &mut |at, _, content| {
            found.handles.extend(HandleRecord::decode(content).map(|handle| (at, handle)));
        });
        each(files, &mut |at, _, content| {
            found.files.extend(FileRecord::decode(content).map(|file| (at, file)));
        });
        each(writes, &mut |at, live, content| {
            found.writes.extend(WriteRecord::decode(content).map(|write| (at, live, write)));
        });
        each(links, &mut |at, _, content| {
            found.links.extend(LinkRecord::decode(content).map(|link| (at, link)));
        });
        each(changes, &mut |at, _, content| {
            found.changes.extend(Change::decode(content).map(|change| (at, change)));
        });
        each(locks, &mut |at, _, content| {
            found.locks.extend(LockRecord::decode(content).map(|lock| (at, lock)));
        });
        found
    }

    fn table(&mut self, which: Which) -> (&mut Table, &mut [u8]) {
        (&mut self.tables[which as usize], self.memory.bytes_mut())
    }

    /// A new record; `None` when the table is full.
    pub(crate) fn insert(&mut self, which: Which, live: u64, content: &[u8]) -> Option<u32> {
        let (table, bytes) = self.table(which);
        table.insert(bytes, live, content)
    }

    /// The same, held by what it is about.
    pub(crate) fn hold(&mut self, which: Which, live: u64, content: &[u8]) -> Option<Kept> {
        self.insert(which, live, content).map(|at| self.held(which, at))
    }

    pub(crate) fn held(&self, which: Which, at: u32) -> Kept {
        Kept { which, at, freed: Rc::clone(&self.freed) }
    }

    pub(crate) fn update(&mut self, which: Which, at: u32, content: &[u8]) {
        let (table, bytes) = self.table(which);
        table.update(bytes, at, content);
    }

    /// What an operation does, and what it waits for.
    pub(crate) fn update_op(&mut self, at: u32, state: OpState, waits_for: String) {
        let bytes = self.memory.bytes();
        let before = self.tables[Which::Ops as usize].content(bytes, at).and_then(OpRecord::decode);
        if let Some(before) = before {
            let now = OpRecord { state, waits_for, ..before };
            self.update(Which::Ops, at, &now.encode());
        }
    }

    /// Another state of the record, with the same contents; not 0.
    pub(crate) fn set_live(&mut self, which: Which, at: u32, live: u64) {
        let (table, bytes) = self.table(which);
        table.set_live(bytes, at, live);
    }

    pub(crate) fn remove(&mut self, which: Which, at: u32) {
        let (table, bytes) = self.table(which);
        table.remove(bytes, at);
    }

    /// Frees the records that nobody holds any more.
    pub(crate) fn free_dropped(&mut self) {
        let freed = std::mem::take(&mut *self.freed.borrow_mut());
        for (which, at) in freed {
            self.remove(which, at);
        }
    }

    /// Counts an operation that ended; `place` as of [`counts::place`].
    pub(crate) fn count(&mut self, place: usize, took: Duration, asked: bool, bytes: u64) {
        counts::count(self.memory.bytes_mut(), COUNTS_AT, place, took, asked, bytes);
    }

    /// A client-core begins to record. Gives which one of the mount it is, counted from 1.
    pub(crate) fn begin_trace(&mut self, session: SessionId, now: Duration) -> u64 {
        trace::begin(self.trace_bytes(), session, to_nanos(now))
    }

    /// Names the server behind a link for the recorder.
    pub(crate) fn trace_link(&mut self, link: usize, shard: ShardId, address: &str) {
        trace::name_link(self.trace_bytes(), link, shard, address);
    }

    /// Records an operation that was answered.
    pub(crate) fn trace_op(&mut self, span: &trace::OpSpan, what: usize) {
        trace::operation(self.trace_bytes(), span, what);
    }

    /// Records a request that was answered.
    pub(crate) fn trace_request(&mut self, span: &trace::RequestSpan) {
        trace::request(self.trace_bytes(), span);
    }

    fn trace_bytes(&mut self) -> &mut [u8] {
        &mut self.memory.bytes_mut()[TRACE_AT..TRACE_AT + trace::BYTES]
    }

    /// Whether one more change can be recorded.
    pub(crate) fn has_room_for_change(&self) -> bool {
        self.tables[Which::Changes as usize].has_room()
    }

    /// Whether one more lock can be recorded.
    pub(crate) fn has_room_for_lock(&self) -> bool {
        self.tables[Which::Locks as usize].has_room()
    }

    /// The last sequence used in each slot of a volume.
    pub(crate) fn sequences(&self, volume: VolumeId) -> Vec<u64> {
        let Some(at) = self.sequences.get(&volume) else { return Vec::new() };
        (1..=to_usize(u64::from(SLOTS_MAX))).map(|slot| self.number(at + 8 * slot)).collect()
    }

    /// Remembers the last sequence of a slot.
    pub(crate) fn set_sequence(&mut self, volume: VolumeId, slot: u16, sequence: u64) {
        let next = SEQUENCES_AT + self.sequences.len() * SEQUENCES_BYTES;
        let at = *self.sequences.entry(volume).or_insert(next);
        assert!(at < OPS.at, "a cluster has fewer volumes than that");
        self.put_number(at, u64::from(volume.0) + 1);
        self.put_number(at + 8 * (1 + usize::from(slot)), sequence);
    }

    /// What a successor finds when the client-core ends here.
    #[cfg(test)]
    pub(crate) fn into_memory(self) -> KeepMemory {
        self.memory
    }

    fn number(&self, at: usize) -> u64 {
        table::number(self.memory.bytes(), at)
    }

    fn put_number(&mut self, at: usize, number: u64) {
        table::put_number(self.memory.bytes_mut(), at, number);
    }
}

/// The operations in a client-core's memory, as `read` gives bytes of it: for `weft mount ops`, while it works or
/// hangs or is dead. Records that are torn, because they are being written, are left out.
///
/// # Errors
/// What `read` fails with.
pub fn read_ops<E>(
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Vec<OpRecord>, E> {
    let mut used = [0; 8];
    read(to_u64(OPS.used_at), &mut used)?;
    let count = u64::from_le_bytes(used).min(u64::from(OPS.count));
    let mut ops = Vec::new();
    let mut record = vec![0; OPS.record_bytes()];
    for at in 0..to_usize(count) {
        read(to_u64(OPS.at + at * OPS.record_bytes()), &mut record)?;
        let content = table::content(&record, &OPS).filter(|_| table::number(&record, 0) != 0);
        ops.extend(content.and_then(OpRecord::decode));
    }
    Ok(ops)
}

#[cfg(test)]
mod tests;
