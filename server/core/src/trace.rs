//! The flight recorder of a shard: when each request was received, admitted, carried out and answered.
//!
//! Always on, in memory that never grows: a ring of the newest requests, and beside it the slowest few of each kind over
//! the last [`WINDOWS`] stretches of [`WINDOW`], because a busy shard turns the ring in less than a second. Told over the
//! wire (`Trace`), for `weft trace`. `doc/trace.md` has the reasons and what it costs.
//!
//! Times are the shard's own clock; 0 says that a step did not happen. It does no I/O and reads no clock.

use std::time::Duration;

use weft_wire::trace::{Span, TRACE_SPANS_MAX, TraceQuery, TraceReply};
use weft_wire::units::{to_nanos, to_usize};
use weft_wire::{Header, Kind, SessionId, Status, TargetId};

/// Memory of a shard's recorder.
pub const TRACE_BYTES: u64 = 2 << 20;
/// Requests in the ring.
pub const RING_SPANS: usize = 24_000;
/// The slowest of each kind are kept for each of so many stretches of time.
pub const WINDOWS: usize = 4;
/// How long a stretch is.
pub const WINDOW: Duration = Duration::from_secs(30);
/// So many of each kind.
const SLOWEST: usize = 4;
const KINDS: usize = Kind::ALL.len();

const _: () = {
    let entries = RING_SPANS + KINDS * WINDOWS * SLOWEST;
    assert!(((entries * size_of::<Entry>()) as u64) < TRACE_BYTES - (64 << 10));
};

/// What happened to a request between its frame and its reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Marks {
    pub(crate) target: Option<TargetId>,
    pub(crate) admitted: u64,
    pub(crate) device_began: u64,
    pub(crate) device_ended: u64,
}

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
struct Entry {
    session: SessionId,
    request_id: u64,
    received: u64,
    replied: u64,
    marks: Marks,
    bytes: u32,
    kind: Kind,
    status: Status,
}

/// The slowest of one kind in one stretch of time, unordered.
#[derive(Clone, Copy, Debug)]
struct Slowest {
    /// Which stretch.
    window: u64,
    entries: [Option<Entry>; SLOWEST],
    /// What the fastest of them took; 0 while there is room.
    least: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// Grows to [`RING_SPANS`], then the oldest is written over.
    ring: Vec<Entry>,
    /// The oldest, once the ring is full.
    next: usize,
    /// By kind and stretch.
    slowest: Vec<[Slowest; WINDOWS]>,
}

impl Marks {
    /// Work for the request is given to a device.
    pub(crate) fn device_begins(&mut self, now: Duration) {
        if self.device_began == 0 {
            self.device_began = to_nanos(now);
        }
    }
}

impl Entry {
    fn took(&self) -> u64 {
        self.replied.saturating_sub(self.received)
    }

    fn span(&self) -> Span {
        Span {
            request_id: self.request_id,
            kind: self.kind,
            status: self.status,
            target: self.marks.target,
            bytes: self.bytes,
            received: self.received,
            admitted: self.marks.admitted,
            device_began: self.marks.device_began,
            device_ended: self.marks.device_ended,
            replied: self.replied,
        }
    }
}

impl Slowest {
    const NONE: Slowest = Slowest { window: u64::MAX, entries: [None; SLOWEST], least: 0 };

    fn take(&mut self, window: u64, entry: &Entry) {
        if self.window != window {
            *self = Slowest { window, ..Slowest::NONE };
        }
        if entry.took() <= self.least {
            return;
        }
        let took = |entry: &Option<Entry>| entry.as_ref().map_or(0, Entry::took);
        let fastest = self.entries.iter_mut().min_by_key(|entry| took(entry));
        *fastest.expect("there are several") = Some(*entry);
        self.least = self.entries.iter().map(took).min().unwrap_or(0);
    }
}

impl Recorder {
    pub(crate) fn new() -> Recorder {
        Recorder {
            ring: Vec::with_capacity(RING_SPANS),
            next: 0,
            slowest: vec![[Slowest::NONE; WINDOWS]; KINDS],
        }
    }

    /// A request is answered. `bytes`: of the payload that came or goes.
    pub(crate) fn record(
        &mut self,
        session: SessionId,
        request: &Header,
        (status, bytes): (Status, u32),
        (received, replied): (Duration, Duration),
        marks: Marks,
    ) {
        let entry = Entry {
            session,
            request_id: request.request_id,
            received: to_nanos(received),
            replied: to_nanos(replied),
            marks,
            bytes,
            kind: request.kind,
            status,
        };
        let window = replied.as_secs() / WINDOW.as_secs();
        self.slowest[place(entry.kind)][to_usize(window) % WINDOWS].take(window, &entry);
        if self.ring.len() < RING_SPANS {
            return self.ring.push(entry);
        }
        self.ring[self.next] = entry;
        self.next = if self.next + 1 == RING_SPANS { 0 } else { self.next + 1 };
    }

    /// What is known of the requests asked about, the newest first.
    pub(crate) fn tell(&self, query: &TraceQuery, now: Duration) -> TraceReply {
        let mut ids = query.ids.clone();
        ids.sort_unstable();
        let wanted = |entry: &&Entry| {
            entry.session == query.session && ids.binary_search(&entry.request_id).is_ok()
        };
        let (newer, older) = self.ring.split_at(self.next);
        let ring = newer.iter().rev().chain(older.iter().rev());
        let oldest = older.first().or(newer.first()).map_or(0, |entry| entry.replied);
        let mut spans: Vec<Span> =
            ring.filter(wanted).take(TRACE_SPANS_MAX).map(Entry::span).collect();
        let slowest = self.slowest.iter().flatten().flat_map(|slowest| &slowest.entries).flatten();
        // What the ring holds, too, was told.
        for entry in slowest.filter(wanted).filter(|entry| entry.replied < oldest) {
            if spans.len() < TRACE_SPANS_MAX {
                spans.push(entry.span());
            }
        }
        TraceReply { now: to_nanos(now), oldest, spans }
    }
}

/// By the kind's number: its place among all kinds.
const PLACES: [u8; 0x400] = {
    let mut places = [0; 0x400];
    let mut at = 0u8;
    while (at as usize) < KINDS {
        places[Kind::ALL[at as usize].code() as usize] = at;
        at += 1;
    }
    places
};

fn place(kind: Kind) -> usize {
    usize::from(PLACES[usize::from(kind.code())])
}

#[cfg(test)]
mod tests;
