//! Sessions that ended although nobody said goodbye: their client was away for too long. Outcomes of their changes are
//! forgotten, so a client that comes back after all must be told, also by a server that was started meanwhile: what it
//! would send again might be made twice.

use std::collections::BTreeMap;

use weft_wire::SessionId;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits::ENDED_MAX;
use crate::record::FORMAT;

/// One session's ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct End {
    /// How many there were.
    pub(crate) count: u32,
    /// The command that was the last one.
    pub(crate) sequence: u64,
}

/// The last [`ENDED_MAX`] of them.
#[derive(Debug, Default)]
pub(crate) struct Ended(BTreeMap<SessionId, End>);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawEnd {
    pub(crate) format: U16,
    pub(crate) reserved: [u8; 2],
    pub(crate) count: U32,
    pub(crate) sequence: U64,
}
const _: () = assert!(size_of::<RawEnd>() == 16);

impl End {
    pub(crate) fn encode(self) -> Vec<u8> {
        let (count, sequence) = (U32::new(self.count), U64::new(self.sequence));
        let raw = RawEnd { format: U16::new(FORMAT), reserved: [0; 2], count, sequence };
        raw.as_bytes().to_vec()
    }

    pub(crate) fn decode(value: &[u8]) -> Option<End> {
        let raw = RawEnd::read_from_bytes(value).ok()?;
        let good = raw.format.get() == FORMAT && raw.reserved == [0; 2];
        good.then(|| End { count: raw.count.get(), sequence: raw.sequence.get() })
    }
}

impl Ended {
    /// Takes a row of the last checkpoint; whether it could be read.
    pub(crate) fn load(&mut self, key: &[u8], value: &[u8]) -> bool {
        let (Ok(session), Some(end)) = (key.try_into(), End::decode(value)) else { return false };
        self.0.insert(SessionId(session), end);
        true
    }

    /// What the end of `session` by command `sequence` changes: at a goodbye its client does not come back.
    pub(crate) fn changes(
        &self,
        session: SessionId,
        sequence: u64,
        goodbye: bool,
    ) -> Vec<(SessionId, Option<End>)> {
        let known = self.0.get(&session);
        if goodbye {
            return known.map(|_| (session, None)).into_iter().collect();
        }
        let count = known.map_or(0, |end| end.count).saturating_add(1);
        let mut changes = vec![(session, Some(End { count, sequence }))];
        if known.is_none() && self.0.len() >= ENDED_MAX {
            let oldest = self.0.iter().min_by_key(|(_, end)| end.sequence);
            changes.extend(oldest.map(|(oldest, _)| (*oldest, None)));
        }
        changes
    }

    /// They are applied.
    pub(crate) fn change(&mut self, changes: &[(SessionId, Option<End>)]) {
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

    /// Who ended, and how often.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (SessionId, u32)> + '_ {
        self.0.iter().map(|(session, end)| (*session, end.count))
    }
}
