//! The slots of a metadata volume: each carries one change at a time, numbered, so that a replay is recognised.
//!
//! Invariant: the sequence of a slot grows by one for each change that was sent in it, and a change that was sent
//! keeps its slot until it is answered, whatever became of whoever asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use weft_net::link::Request;
use weft_wire::meta::{Caller, MetaRequest, NO_SLOT};
use weft_wire::units::to_u64;
use weft_wire::{Ino, Kind, LeaseBits};

use crate::op;
use crate::op::LinkId;
use crate::releases::PutOffs;

/// A change that waits for a slot.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) tag: u64,
    pub(crate) kind: Kind,
    pub(crate) lease: LeaseBits,
    pub(crate) body: Vec<u8>,
}

/// One volume as this mount knows it.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) link: LinkId,
    slot_count: u16,
    sequences: Vec<u64>,
    /// Slots in use, by the request's tag.
    busy: BTreeMap<u64, u16>,
    free: BTreeSet<u16>,
    pub(crate) queue: VecDeque<Queued>,
    /// Changes that have their slots and are sent with the next request, or when it is time: nobody waits for them.
    pub(crate) held: Vec<Request>,
    pub(crate) held_due: Option<Duration>,
    /// Opens that are being given back, not answered.
    pub(crate) releasing: BTreeMap<Ino, u32>,
    /// Those of them that are not sent yet.
    pub(crate) put_off: PutOffs,
    /// It keeps the outcome of a change of ours, and so knows the session after a restart.
    pub(crate) has_changed: bool,
    /// Until when programs wait for each change, as one that was answered before was refused.
    pub(crate) wary_until: Duration,
    /// `Reopen`s and claims of locks in flight.
    pub(crate) reopening: BTreeSet<u64>,
    /// Its server was started again and has not answered all that we said of it.
    pub(crate) must_return: bool,
}

/// Slots that only a word about writes may take.
const SLOTS_KEPT: usize = 16;
/// Where slot and sequence stand in a request's body: after uid and gid. Held by a test.
const SLOT_AT: usize = 8;
const SEQUENCE_AT: usize = 10;

/// Whether a change follows from a write, and others may wait for it.
fn is_of_writes(kind: Kind) -> bool {
    matches!(kind, Kind::Wrote | Kind::WriteData | Kind::MoveData)
}

/// The body of a request; a change gets its slot with [`put_slot`] when it is sent.
pub(crate) fn encode(caller: op::Caller, request: &MetaRequest<'_>) -> Vec<u8> {
    let op::Caller { uid, gid, .. } = caller;
    let mut body = Vec::new();
    request.encode(&Caller { uid, gid, slot: NO_SLOT, sequence: 0 }, &mut body);
    body
}

/// Where a change was put.
pub(crate) fn slot_and_sequence(body: &[u8]) -> (u16, u64) {
    let slot = body[SLOT_AT..SLOT_AT + 2].try_into().expect("two bytes");
    let sequence = body[SEQUENCE_AT..SEQUENCE_AT + 8].try_into().expect("eight bytes");
    (u16::from_le_bytes(slot), u64::from_le_bytes(sequence))
}

pub(crate) fn put_slot(body: &mut [u8], slot: u16, sequence: u64) {
    body[SLOT_AT..SLOT_AT + 2].copy_from_slice(&slot.to_le_bytes());
    body[SEQUENCE_AT..SEQUENCE_AT + 8].copy_from_slice(&sequence.to_le_bytes());
}

impl Volume {
    pub(crate) fn new(link: LinkId) -> Volume {
        Volume {
            link,
            slot_count: 0,
            sequences: Vec::new(),
            busy: BTreeMap::new(),
            free: BTreeSet::new(),
            queue: VecDeque::new(),
            held: Vec::new(),
            held_due: None,
            releasing: BTreeMap::new(),
            put_off: PutOffs::default(),
            has_changed: false,
            wary_until: Duration::ZERO,
            reopening: BTreeSet::new(),
            must_return: false,
        }
    }

    /// The server said how many slots there are.
    pub(crate) fn set_slot_count(&mut self, count: u16) {
        self.slot_count = count;
        let used = |slot: &u16| self.busy.values().any(|busy| busy == slot);
        self.free = (0..count).filter(|slot| !used(slot)).collect();
        if self.sequences.len() < usize::from(count) {
            self.sequences.resize(usize::from(count), 0);
        }
    }

    /// The next change that gets a slot, ready to be sent.
    pub(crate) fn next_to_send(&mut self) -> Option<Queued> {
        if self.queue.is_empty() {
            return None;
        }
        // Words about writes wait for nobody, and others may wait for them: some slots are theirs alone.
        let at = match self.has_free_slot() {
            true => 0,
            false => self.queue.iter().position(|queued| is_of_writes(queued.kind))?,
        };
        let slot = self.free.pop_first()?;
        let mut next = self.queue.remove(at).expect("it was found there");
        let sequence = &mut self.sequences[usize::from(slot)];
        *sequence += 1;
        put_slot(&mut next.body, slot, *sequence);
        self.busy.insert(next.tag, slot);
        Some(next)
    }

    /// Whether a slot is free that is not kept for words about writes.
    fn has_free_slot(&self) -> bool {
        self.free.len() > SLOTS_KEPT.min(usize::from(self.slot_count) / 2)
    }

    /// Whether a change that is asked for now is sent at once.
    pub(crate) fn has_room(&self) -> bool {
        self.queue.is_empty() && self.has_free_slot()
    }

    /// Changes that are not answered.
    pub(crate) fn open_count(&self) -> u64 {
        to_u64(self.busy.len() + self.queue.len())
    }

    /// The numbers that the client-core before this one used last.
    pub(crate) fn set_sequences(&mut self, sequences: Vec<u64>) {
        self.sequences = sequences;
    }

    /// A change of the one before is sent again in its slot.
    pub(crate) fn hold_slot(&mut self, tag: u64, slot: u16) {
        self.free.remove(&slot);
        self.busy.insert(tag, slot);
    }

    /// The change is answered: its slot is free, unless a later change of the one before is in it.
    pub(crate) fn answered(&mut self, tag: u64) {
        self.has_changed = true;
        if let Some(slot) = self.busy.remove(&tag)
            && self.busy.values().all(|busy| *busy != slot)
        {
            self.give_back(slot);
        }
    }

    /// The change was taken back before it was sent: the number is used again.
    pub(crate) fn taken_back(&mut self, tag: u64) {
        if let Some(slot) = self.busy.remove(&tag) {
            self.sequences[usize::from(slot)] -= 1;
            self.give_back(slot);
        }
    }

    fn give_back(&mut self, slot: u16) {
        if slot < self.slot_count {
            self.free.insert(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_and_sequence_are_where_the_volume_reads_them() {
        let request = MetaRequest::Unlink { parent: Ino(1), name: b"a" };
        let mut body = encode(op::Caller { uid: 5, gid: 6, pid: 0 }, &request);
        put_slot(&mut body, 0x0102, 0x0304_0506_0708_090a);
        let (caller, read) = MetaRequest::decode(Kind::Unlink, &body).unwrap();
        assert_eq!(read, request);
        let expected = Caller { uid: 5, gid: 6, slot: 0x0102, sequence: 0x0304_0506_0708_090a };
        assert_eq!(caller, expected);
    }

    #[test]
    fn a_number_is_used_once_unless_taken_back() {
        let mut volume = Volume::new(LinkId(0));
        volume.set_slot_count(1);
        let queued =
            |tag| Queued { tag, kind: Kind::Unlink, lease: LeaseBits::NONE, body: vec![0; 18] };
        (1..=3).for_each(|tag| volume.queue.push_back(queued(tag)));
        let sequence = |queued: &Queued| queued.body[SEQUENCE_AT];
        assert_eq!(volume.next_to_send().as_ref().map(sequence), Some(1));
        assert!(volume.next_to_send().is_none(), "one slot, one change");
        volume.answered(1);
        assert_eq!(volume.next_to_send().as_ref().map(sequence), Some(2));
        volume.taken_back(2);
        assert_eq!(volume.next_to_send().as_ref().map(sequence), Some(2));
        volume.set_slot_count(3);
        assert_eq!(volume.free.len(), 2, "the busy one is not given out again");
    }
}
