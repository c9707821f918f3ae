//! Slots: exactly-once for changes. The last outcome of each (session, slot) is kept; a change that comes again gets
//! it again.

use std::collections::{BTreeMap, BTreeSet};

use weft_wire::limits::SLOTS_MAX;
use weft_wire::meta::Caller;
use weft_wire::units::to_u64;
use weft_wire::{Ino, SessionId};

use crate::ended::Ended;
use crate::limits::{ENDED_BYTES, SLOT_BYTES, SLOTS_SURE};
use crate::planted::{self, Bug};
use crate::record::Outcome;
use crate::store::{Name, Rows};

type Key = (SessionId, u16);

/// What to do with a change that arrives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// It is new: log it.
    New,
    /// It is already on its way: the reply will come.
    Joined,
    /// It was done: this is how it ended.
    Repeat(Outcome),
    /// The number cannot be: lower than the last, or while the slot's change is still on its way.
    Refused,
}

#[derive(Debug)]
struct Slot {
    outcome: Outcome,
    /// Whether the open that came with it is in the table of opens (it is not after a restart).
    open_counted: bool,
}

/// A change on its way, and the operations that wait for it.
#[derive(Debug)]
struct Accepted {
    sequence: u64,
    ops: Vec<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Slots {
    done: BTreeMap<Key, Slot>,
    dirty: BTreeSet<Key>,
    accepted: BTreeMap<Key, Accepted>,
    /// Bytes of the outcomes' bodies.
    body_bytes: u64,
    /// Sessions whose outcomes are forgotten.
    pub(crate) ended: Ended,
}

/// Key of a slot's row: the session, then the slot big-endian.
pub(crate) fn slot_key(session: SessionId, slot: u16) -> [u8; 18] {
    let mut key = [0; 18];
    key[..16].copy_from_slice(&session.0);
    key[16..].copy_from_slice(&slot.to_be_bytes());
    key
}

fn split_key(key: &[u8]) -> Option<Key> {
    let (session, slot) = key.split_first_chunk::<16>()?;
    let slot: [u8; 2] = slot.try_into().ok()?;
    Some((SessionId(*session), u16::from_be_bytes(slot)))
}

impl Slots {
    /// The sessions that have a slot in use, ascending.
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        let mut sessions: Vec<SessionId> = self.done.keys().map(|key| key.0).collect();
        sessions.dedup();
        sessions
    }

    /// Takes a row of the last checkpoint; whether it could be read.
    pub(crate) fn load(&mut self, key: &[u8], value: &[u8]) -> bool {
        let (Some(key), Some(outcome)) = (split_key(key), Outcome::decode(value)) else {
            return false;
        };
        self.put(key, Slot { outcome, open_counted: false });
        true
    }

    fn put(&mut self, key: Key, slot: Slot) {
        self.body_bytes += to_u64(slot.outcome.body.len());
        if let Some(old) = self.done.insert(key, slot) {
            self.body_bytes -= to_u64(old.outcome.body.len());
        }
    }

    /// Memory of the outcomes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let ended = to_u64(self.ended.len()) * ENDED_BYTES;
        self.body_bytes + to_u64(self.done.len()) * SLOT_BYTES + ended
    }

    /// Whether the slot is one that memory may be refused for: new, and not among the session's first.
    pub(crate) fn is_extra(&self, session: SessionId, slot: u16) -> bool {
        slot >= SLOTS_SURE && !self.done.contains_key(&(session, slot))
    }

    /// What to do with operation `op`, which carries a change.
    pub(crate) fn admit(&mut self, session: SessionId, caller: &Caller, op: u64) -> Admission {
        if caller.slot >= SLOTS_MAX || caller.sequence == 0 {
            return Admission::Refused;
        }
        let key = (session, caller.slot);
        if let Some(accepted) = self.accepted.get_mut(&key) {
            if accepted.sequence != caller.sequence {
                return Admission::Refused;
            }
            accepted.ops.push(op);
            return Admission::Joined;
        }
        match self.done.get(&key) {
            _ if planted::is(Bug::ForgetReplays) => Admission::New,
            Some(slot) if caller.sequence == slot.outcome.sequence => {
                Admission::Repeat(slot.outcome.clone())
            }
            Some(slot) if caller.sequence < slot.outcome.sequence => Admission::Refused,
            _ => Admission::New,
        }
    }

    /// The new change of `op` will be logged.
    pub(crate) fn accept(&mut self, session: SessionId, caller: &Caller, op: u64) {
        let accepted = Accepted { sequence: caller.sequence, ops: vec![op] };
        self.accepted.insert((session, caller.slot), accepted);
    }

    /// The change is applied. The operations that wait for it.
    pub(crate) fn complete(
        &mut self,
        session: SessionId,
        slot: u16,
        outcome: Outcome,
        live: bool,
    ) -> Vec<u64> {
        let key = (session, slot);
        self.put(key, Slot { outcome, open_counted: live });
        self.dirty.insert(key);
        self.accepted.remove(&key).map_or(Vec::new(), |a| a.ops)
    }

    /// Whether the open that came with the slot's outcome has to be counted still; it is, from now on.
    pub(crate) fn take_open(&mut self, session: SessionId, slot: u16) -> Option<Ino> {
        let slot = self.done.get_mut(&(session, slot))?;
        let wanted = !slot.open_counted && slot.outcome.opened != Ino(0);
        slot.open_counted = true;
        wanted.then_some(slot.outcome.opened)
    }

    /// Slots of a session that have an outcome.
    pub(crate) fn of(&self, session: SessionId) -> impl Iterator<Item = u16> + '_ {
        self.done.range((session, 0)..=(session, u16::MAX)).map(|((_, slot), _)| *slot)
    }

    /// Whether the session has an outcome: it changed something and has not ended. What is on its way is not counted, so
    /// that the same log gives the same answer.
    pub(crate) fn lives(&self, session: SessionId) -> bool {
        self.of(session).next().is_some()
    }

    /// Whether the session has anything here.
    pub(crate) fn knows(&self, session: SessionId) -> bool {
        let all = (session, 0)..=(session, u16::MAX);
        self.done.range(all.clone()).next().is_some() || self.accepted.range(all).next().is_some()
    }

    /// The session is over: outcomes go. What is still on its way stays until it is applied.
    pub(crate) fn forget(&mut self, session: SessionId) {
        let slots: Vec<u16> = self.of(session).collect();
        for slot in slots {
            if let Some(slot) = self.done.remove(&(session, slot)) {
                self.body_bytes -= to_u64(slot.outcome.body.len());
            }
            self.dirty.remove(&(session, slot));
        }
    }

    /// The slot's change that is on its way will not be applied: the operations that wait for it.
    pub(crate) fn abandon(&mut self, session: SessionId, slot: u16) -> Vec<u64> {
        self.accepted.remove(&(session, slot)).map_or(Vec::new(), |accepted| accepted.ops)
    }

    /// Rows of the outcomes that changed since the last checkpoint.
    pub(crate) fn dirty_rows(&self) -> Rows {
        let row = |(session, slot): &Key| {
            let outcome = self.done.get(&(*session, *slot))?;
            let key = slot_key(*session, *slot).to_vec();
            Some(((Name::Slots, key), Some(outcome.outcome.encode())))
        };
        self.dirty.iter().filter_map(row).collect()
    }

    /// The dirty rows are durable.
    pub(crate) fn set_clean(&mut self) {
        self.dirty.clear();
    }

    /// All outcomes, for comparing states.
    #[cfg(test)]
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (&Key, &Outcome)> {
        self.done.iter().map(|(key, slot)| (key, &slot.outcome))
    }
}
