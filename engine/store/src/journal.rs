//! The writing side of the journal: where records go, and which are on the device.
//!
//! Records gather in `tail` and leave in appends of whole pages, one append at a time, so that
//! appends reach the page cache in order. An append begins at a page border and repeats the part of
//! that page that is there already: the kernel need not read a page to change a part of it, a
//! torn repetition changes nothing, and the zeros behind the records end the journal visibly.

use std::collections::VecDeque;

use weft_wire::blocks::BLOCK_LEN;
use weft_wire::units::{to_u64, to_usize};

use crate::limits::{BLOCK, JOURNAL_HEADROOM_BYTES};
use crate::record::{self, Entry, Stamp};
use crate::superblock::Superblock;

/// One write to the journal area.
#[derive(Debug)]
pub(crate) struct Append {
    /// From the device's start.
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    /// So many of them an earlier append put there.
    pub(crate) settled_bytes: usize,
    /// From their end to that of the segment.
    pub(crate) room_bytes: u64,
    /// The last record whose end it contains.
    pub(crate) last_sequence: u64,
}

/// Memory of an append that is kept for the next one.
const SPARE_BYTES_MAX: usize = 64 << 10;

/// The journal of one target.
#[derive(Debug)]
pub(crate) struct Journal {
    nonce: u64,
    segment_offsets: [u64; 2],
    segment_bytes: u64,
    /// Segment written to now, and its generation.
    active: usize,
    generation: u64,
    /// Its first record was made.
    started: bool,
    /// Bytes of the active segment that were handed out, up to a page border.
    tail_offset: u64,
    /// What follows them: records handed out in part, and new ones.
    tail: Vec<u8>,
    /// So many bytes of `tail` were handed out.
    settled_bytes: usize,
    /// `tail` has records that were not handed out.
    fresh: bool,
    /// The bytes of an append that is done, for their memory.
    spare: Vec<u8>,
    /// Ends of segments left behind that are still to be handed out.
    sealed: VecDeque<Append>,
    last_sequence: u64,
    last_change: u64,
    /// Everything up to here is in the page cache.
    appended: u64,
    /// The append under way contains records up to here.
    in_flight: Option<u64>,
    applied: u64,
    reserved_bytes: u64,
}

impl Journal {
    /// The journal after everything up to `applied` came into the index: both segments are free
    /// and `generation` is newer than anything in them.
    pub(crate) fn new(superblock: &Superblock, applied: u64, generation: u64) -> Journal {
        let areas = &superblock.areas;
        Journal {
            nonce: superblock.nonce(),
            segment_offsets: [areas.segment_offset(0), areas.segment_offset(1)],
            segment_bytes: areas.segment_bytes,
            active: usize::from(!generation.is_multiple_of(2)),
            generation,
            started: false,
            tail_offset: 0,
            tail: Vec::new(),
            settled_bytes: 0,
            fresh: false,
            spare: Vec::new(),
            sealed: VecDeque::new(),
            last_sequence: applied,
            last_change: applied,
            appended: applied,
            in_flight: None,
            applied,
            reserved_bytes: 0,
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The newest record there is, on the device or not.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// The newest record that changes something.
    pub(crate) fn last_change(&self) -> u64 {
        self.last_change
    }

    /// Everything up to here is in the page cache of the device.
    pub(crate) fn appended(&self) -> u64 {
        self.appended
    }

    /// Bytes of records in the active segment.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.tail_offset + to_u64(self.tail.len())
    }

    /// Whether the active segment is half full.
    pub(crate) fn is_half_full(&self) -> bool {
        self.used_bytes() > self.segment_bytes / 2
    }

    /// Sets bytes aside for an operation's records; `false` when it must wait for a checkpoint.
    pub(crate) fn reserve(&mut self, bytes: u64) -> bool {
        let taken = self.used_bytes() + self.reserved_bytes + JOURNAL_HEADROOM_BYTES;
        if taken + bytes > self.segment_bytes {
            return false;
        }
        self.reserved_bytes += bytes;
        true
    }

    /// Gives a reservation back when its operation ends.
    pub(crate) fn release(&mut self, bytes: u64) {
        self.reserved_bytes -= bytes;
    }

    /// Adds a record; gives its sequence number.
    pub(crate) fn push(&mut self, entry: Entry<'_>) -> u64 {
        if !self.started {
            self.started = true;
            let applied = self.applied;
            self.push_raw(Entry::Start { applied });
        }
        let sequence = self.push_raw(entry);
        if !matches!(entry, Entry::Mark { .. } | Entry::Start { .. }) {
            self.last_change = sequence;
        }
        sequence
    }

    fn push_raw(&mut self, entry: Entry<'_>) -> u64 {
        self.last_sequence += 1;
        let stamp =
            Stamp { nonce: self.nonce, generation: self.generation, sequence: self.last_sequence };
        record::encode(stamp, entry, &mut self.tail);
        self.fresh = true;
        assert!(self.used_bytes() <= self.segment_bytes, "reservations bound a segment");
        self.last_sequence
    }

    /// Goes on in the other segment. The caller knows that nothing in it is needed any more: the
    /// checkpoint that left it is committed.
    pub(crate) fn switch(&mut self) {
        if self.fresh {
            let append = self.take_tail();
            self.sealed.push_back(append);
        }
        self.active = 1 - self.active;
        self.generation += 1;
        self.tail_offset = 0;
        self.tail.clear();
        self.settled_bytes = 0;
        self.started = true;
        self.push_raw(Entry::Start { applied: self.applied });
    }

    /// Notes that a checkpoint is committed.
    pub(crate) fn set_applied(&mut self, applied: u64) {
        self.applied = applied;
    }

    /// Whether what is pushed now leaves with the next append, which can be had now.
    pub(crate) fn is_tail_next(&self) -> bool {
        self.in_flight.is_none() && self.sealed.is_empty()
    }

    /// The next append, if there is one and none is under way.
    pub(crate) fn next_append(&mut self) -> Option<Append> {
        if self.in_flight.is_some() {
            return None;
        }
        let append = match self.sealed.pop_front() {
            Some(append) => append,
            None if self.fresh => self.take_tail(),
            None => return None,
        };
        self.in_flight = Some(append.last_sequence);
        Some(append)
    }

    /// The append under way is in the page cache; `bytes` may be used again.
    pub(crate) fn append_done(&mut self, bytes: Option<Vec<u8>>) {
        if let Some(bytes) = bytes.filter(|bytes| bytes.capacity() <= SPARE_BYTES_MAX) {
            self.spare = bytes;
        }
        let last = self.in_flight.take().expect("one append is under way");
        debug_assert!(last > self.appended);
        self.appended = last;
    }

    fn take_tail(&mut self) -> Append {
        let mut bytes = std::mem::take(&mut self.spare);
        bytes.clear();
        bytes.extend_from_slice(&self.tail);
        let offset = self.segment_offsets[self.active] + self.tail_offset;
        let kept_from = bytes.len() / BLOCK_LEN * BLOCK_LEN;
        self.tail.drain(..kept_from);
        self.tail_offset += to_u64(kept_from);
        self.fresh = false;
        bytes.resize(bytes.len().next_multiple_of(BLOCK_LEN), 0);
        debug_assert!(offset.is_multiple_of(BLOCK) && to_usize(BLOCK) == BLOCK_LEN);
        let segment_end = self.segment_offsets[self.active] + self.segment_bytes;
        let room_bytes = segment_end - offset - to_u64(bytes.len());
        let settled_bytes = std::mem::replace(&mut self.settled_bytes, self.tail.len());
        let last_sequence = self.last_sequence;
        Append { offset, bytes, settled_bytes, room_bytes, last_sequence }
    }
}
