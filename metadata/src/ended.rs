//! What sessions must be told that went on without hearing of it, also by a server that was started meanwhile.
//!
//! - A session *ended* although nobody said goodbye: its client was away for too long. Outcomes of its changes are
//!   forgotten, so that what the client would send again might be made twice.
//! - It was *fenced off*: others went on without it, and what it had not written by then must not be written any more.
//!   Or they did so after a start, when it was *late*: that takes what others have changed. Whether it heard of that is not
//!   known until it is back; a server that is started again before does not know what it takes, and all of it is.
//!
//! A row stays while its session lives, so that the numbers which its client is told only grow. Of sessions that are over
//! and may come back the last [`ENDED_MAX`] have one; nothing is granted to a session without slots, and one that claims
//! something all the same was forgotten.

use std::collections::BTreeMap;

use weft_wire::SessionId;
use weft_wire::session::FENCE_ENDED;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits::ENDED_MAX;
use crate::record::FORMAT;

/// What becomes of a session that others go on without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fence {
    /// What it has not written is lost.
    Off,
    /// It did not come back after a start: what others have changed since is not its own any more.
    Late,
    /// It came back and knows what is not its own.
    Back,
}

/// One session's row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct End {
    /// How often it ended.
    pub(crate) count: u32,
    /// How often it was fenced off.
    pub(crate) fences: u16,
    /// Others went on without it after a start, and it is not known to have heard of that.
    pub(crate) late: bool,
    /// The command that was the last one.
    pub(crate) sequence: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Ended(BTreeMap<SessionId, End>);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawEnd {
    pub(crate) format: U16,
    /// Bit 15: late.
    pub(crate) fences: U16,
    pub(crate) count: U32,
    pub(crate) sequence: U64,
}
const _: () = assert!(size_of::<RawEnd>() == 16);

const LATE: u16 = 1 << 15;

impl Fence {
    pub(crate) fn body(self) -> Vec<u8> {
        let code = match self {
            Fence::Off => 1,
            Fence::Late => 2,
            Fence::Back => 3,
        };
        vec![code]
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Fence> {
        match body {
            [1] => Some(Fence::Off),
            [2] => Some(Fence::Late),
            [3] => Some(Fence::Back),
            _ => None,
        }
    }
}

impl End {
    pub(crate) fn encode(self) -> Vec<u8> {
        let raw = RawEnd {
            format: U16::new(FORMAT),
            fences: U16::new(self.fences | if self.late { LATE } else { 0 }),
            count: U32::new(self.count),
            sequence: U64::new(self.sequence),
        };
        raw.as_bytes().to_vec()
    }

    pub(crate) fn decode(value: &[u8]) -> Option<End> {
        let raw = RawEnd::read_from_bytes(value).ok()?;
        let (fences, count) = (raw.fences.get(), raw.count.get());
        let (late, sequence) = (fences & LATE != 0, raw.sequence.get());
        (raw.format.get() == FORMAT).then_some(End {
            count,
            fences: fences & !LATE,
            late,
            sequence,
        })
    }

    /// What its client is told by a server that is started now: whoever was late has lost all.
    fn number(self) -> u32 {
        let End { count, fences, .. } = if self.late { self.fenced() } else { self };
        count.saturating_mul(FENCE_ENDED).saturating_add(fences.into())
    }

    /// Fenced off once more. When the bits are used up that counts as an end: as much is given up, and the number grows.
    fn fenced(self) -> End {
        match self.fences + 1 {
            LATE.. => End { count: self.count.saturating_add(1), fences: 0, ..self },
            fences => End { fences, ..self },
        }
    }

    /// The same with a lateness that is not known to have been heard of as a fence.
    fn settled(self) -> End {
        if self.late { End { late: false, ..self.fenced() } } else { self }
    }

    fn after(self, what: Fence) -> End {
        match what {
            Fence::Off => self.settled().fenced(),
            Fence::Late => End { late: true, ..self.settled() },
            Fence::Back => End { late: false, ..self },
        }
    }
}

/// Rows that a command changes, by session; `None`: it goes.
pub(crate) type Changes = Vec<(SessionId, Option<End>)>;

impl Ended {
    /// Takes a row of the last checkpoint; whether it could be read.
    pub(crate) fn load(&mut self, key: &[u8], value: &[u8]) -> bool {
        let (Ok(session), Some(end)) = (key.try_into(), End::decode(value)) else { return false };
        self.0.insert(SessionId(session), end);
        true
    }

    /// What the end of `session` by command `sequence` changes: at a goodbye its client does not come back. `lives`: has
    /// slots.
    pub(crate) fn changes(
        &self,
        session: SessionId,
        sequence: u64,
        goodbye: bool,
        lives: impl Fn(SessionId) -> bool,
    ) -> Changes {
        let known = self.0.get(&session);
        if goodbye {
            return known.map(|_| (session, None)).into_iter().collect();
        }
        let end = known.copied().unwrap_or_default().settled();
        let end = End { count: end.count.saturating_add(1), sequence, ..end };
        self.put(session, end, lives)
    }

    /// The same of a fence.
    pub(crate) fn fence(
        &self,
        session: SessionId,
        sequence: u64,
        what: Fence,
        lives: impl Fn(SessionId) -> bool,
    ) -> Changes {
        let known = self.0.get(&session).copied().unwrap_or_default();
        let end = End { sequence, ..known.after(what) };
        if lives(session) { vec![(session, Some(end))] } else { self.put(session, end, lives) }
    }

    /// The row of a session that is over. Too many of these: the oldest goes.
    fn put(&self, session: SessionId, end: End, lives: impl Fn(SessionId) -> bool) -> Changes {
        let mut changes = vec![(session, Some(end))];
        if self.0.len() >= ENDED_MAX {
            let over = |(other, _): &(&SessionId, &End)| **other != session && !lives(**other);
            if self.0.iter().filter(over).count() >= ENDED_MAX {
                let oldest = self.0.iter().filter(over).min_by_key(|(_, end)| end.sequence);
                changes.extend(oldest.map(|(oldest, _)| (*oldest, None)));
            }
        }
        changes
    }

    /// They are applied.
    pub(crate) fn change(&mut self, changes: &Changes) {
        for (session, end) in changes {
            match end {
                Some(end) => self.0.insert(*session, *end),
                None => self.0.remove(session),
            };
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What each session is told by a server that is started now.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = (SessionId, u32)> + '_ {
        self.0.iter().map(|(session, end)| (*session, end.number()))
    }

    /// What a session is told that is there: that it was late it hears in another way.
    pub(crate) fn number_now(&self, session: SessionId) -> u32 {
        let end = self.0.get(&session).copied().unwrap_or_default();
        End { late: false, ..end }.number()
    }
}

#[cfg(test)]
mod tests;
