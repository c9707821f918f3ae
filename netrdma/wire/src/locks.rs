//! Locks of files: what a client asks the volume of the file, and what it is told.
//!
//! A lock that has to wait is answered at once with "queued", so that it takes no credit while it waits; how it ended
//! comes in the answer to a `LockEvents` that the client leaves with the server. A ticket names a request for as long
//! as it is undecided, so asking again after a lost connection asks nothing twice.

mod ranges;

use crate::codec::{Reader, WireError, WireErrorKind, Writer};
use crate::ids::Ino;
use crate::limits::LIST_COUNT_MAX;
use crate::status::Status;
use crate::units::{to_u32, to_usize};

pub use ranges::{HeldLock, LockRange, LockRanges};

/// What a lock allows others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LockKind {
    /// Shared locks of others.
    Shared,
    /// Nothing.
    Exclusive,
}

impl LockKind {
    /// Whether two owners may not have these at once.
    #[must_use]
    pub fn conflicts_with(self, other: LockKind) -> bool {
        self == LockKind::Exclusive || other == LockKind::Exclusive
    }

    fn code(kind: Option<LockKind>) -> u8 {
        match kind {
            None => 0,
            Some(LockKind::Shared) => 1,
            Some(LockKind::Exclusive) => 2,
        }
    }

    fn decode_any(from: &mut Reader<'_>) -> Result<Option<LockKind>, WireError> {
        match from.u8()? {
            0 => Ok(None),
            1 => Ok(Some(LockKind::Shared)),
            2 => Ok(Some(LockKind::Exclusive)),
            _ => Err(from.error(WireErrorKind::Value)),
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<LockKind, WireError> {
        Self::decode_any(from)?.ok_or(from.error(WireErrorKind::Value))
    }
}

/// Locks of different spaces do not see each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LockSpace {
    /// Byte ranges: fcntl(2), of a process or of an open file description.
    Range,
    /// Whole files: flock(2). Changing the kind gives the old lock up first, as Linux does.
    Flock,
}

/// Who holds a lock, within a session: the kernel's number for a process's files or an open file description.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LockOwner {
    /// Of which sort.
    pub space: LockSpace,
    /// The kernel's number.
    pub id: u64,
}

impl LockOwner {
    fn encode(self, out: &mut Writer<'_>) {
        let space = match self.space {
            LockSpace::Range => 1,
            LockSpace::Flock => 2,
        };
        out.u8(space).u64(self.id);
    }

    fn decode(from: &mut Reader<'_>) -> Result<LockOwner, WireError> {
        let space = match from.u8()? {
            1 => LockSpace::Range,
            2 => LockSpace::Flock,
            _ => return Err(from.error(WireErrorKind::Value)),
        };
        Ok(LockOwner { space, id: from.u64()? })
    }
}

fn encode_range(range: LockRange, out: &mut Writer<'_>) {
    out.u64(range.start).u64(range.end);
}

fn decode_range(from: &mut Reader<'_>) -> Result<LockRange, WireError> {
    LockRange::new(from.u64()?, from.u64()?).ok_or(from.error(WireErrorKind::Value))
}

/// Take, change or give up a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRequest {
    /// The file.
    pub ino: Ino,
    /// For whom.
    pub owner: LockOwner,
    /// The process, for whoever asks who has the lock.
    pub pid: u32,
    /// Which bytes.
    pub range: LockRange,
    /// What the owner has of them afterwards; `None` for nothing.
    pub kind: Option<LockKind>,
    /// Wait when others hold it, instead of [`Status::WouldBlock`].
    pub wait: bool,
    /// Names this request among those of the session.
    pub ticket: u64,
}

impl LockRequest {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u64(self.ino.0);
        self.owner.encode(out);
        encode_range(self.range, out.u32(self.pid));
        out.u8(LockKind::code(self.kind)).bool(self.wait).u64(self.ticket);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<LockRequest, WireError> {
        let mut from = Reader::new(body, "lock");
        let request = LockRequest {
            ino: Ino(from.u64()?),
            owner: LockOwner::decode(&mut from)?,
            pid: from.u32()?,
            range: decode_range(&mut from)?,
            kind: LockKind::decode_any(&mut from)?,
            wait: from.bool()?,
            ticket: from.u64()?,
        };
        from.end()?;
        Ok(request)
    }
}

/// The answer to a [`LockRequest`] that did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockReply {
    /// It waits: how it ends comes with a `LockEvents`. Else it is granted.
    pub queued: bool,
}

impl LockReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        Writer::new(body).bool(self.queued);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<LockReply, WireError> {
        let mut from = Reader::new(body, "lock reply");
        let reply = LockReply { queued: from.bool()? };
        from.end()?;
        Ok(reply)
    }
}

/// Would this lock be granted, and if not, what is in its way?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockTest {
    /// The file.
    pub ino: Ino,
    /// For whom.
    pub owner: LockOwner,
    /// Which bytes.
    pub range: LockRange,
    /// What is wanted.
    pub kind: LockKind,
}

impl LockTest {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u64(self.ino.0);
        self.owner.encode(out);
        encode_range(self.range, out);
        out.u8(LockKind::code(Some(self.kind)));
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<LockTest, WireError> {
        let mut from = Reader::new(body, "lock test");
        let test = LockTest {
            ino: Ino(from.u64()?),
            owner: LockOwner::decode(&mut from)?,
            range: decode_range(&mut from)?,
            kind: LockKind::decode(&mut from)?,
        };
        from.end()?;
        Ok(test)
    }
}

/// A lock that is in the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockConflict {
    /// Which bytes it has.
    pub range: LockRange,
    /// What it is.
    pub kind: LockKind,
    /// The process that took it; 0 when it is one of another session, whose processes mean nothing here.
    pub pid: u32,
}

/// The answer to a [`LockTest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockTestReply {
    /// The first lock in the way, if there is one.
    pub conflict: Option<LockConflict>,
}

impl LockTestReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.bool(self.conflict.is_some());
        if let Some(conflict) = self.conflict {
            encode_range(conflict.range, out);
            out.u8(LockKind::code(Some(conflict.kind))).u32(conflict.pid);
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<LockTestReply, WireError> {
        let mut from = Reader::new(body, "lock test reply");
        let conflict = match from.bool()? {
            false => None,
            true => Some(LockConflict {
                range: decode_range(&mut from)?,
                kind: LockKind::decode(&mut from)?,
                pid: from.u32()?,
            }),
        };
        from.end()?;
        Ok(LockTestReply { conflict })
    }
}

/// A request that waits is not wanted any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockCancel {
    /// Which.
    pub ticket: u64,
}

impl LockCancel {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        Writer::new(body).u64(self.ticket);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<LockCancel, WireError> {
        let mut from = Reader::new(body, "lock cancel");
        let cancel = LockCancel { ticket: from.u64()? };
        from.end()?;
        Ok(cancel)
    }
}

/// The answer to a [`LockCancel`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockCancelReply {
    /// It was waiting and is gone. Else it was decided before, or is not known.
    pub withdrawn: bool,
}

impl LockCancelReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        Writer::new(body).bool(self.withdrawn);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<LockCancelReply, WireError> {
        let mut from = Reader::new(body, "lock cancel reply");
        let reply = LockCancelReply { withdrawn: from.bool()? };
        from.end()?;
        Ok(reply)
    }
}

/// One lock that a session says it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClaimedLock {
    /// The file.
    pub ino: Ino,
    /// Who has it.
    pub owner: LockOwner,
    /// What it is.
    pub held: HeldLock,
}

impl ClaimedLock {
    /// Appends its fields.
    pub fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.ino.0);
        self.owner.encode(out);
        encode_range(self.held.range, out.u32(self.held.pid));
        out.u8(LockKind::code(Some(self.held.kind)));
    }

    /// Reads its fields.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(from: &mut Reader<'_>) -> Result<ClaimedLock, WireError> {
        let (ino, owner) = (Ino(from.u64()?), LockOwner::decode(from)?);
        let (pid, range) = (from.u32()?, decode_range(from)?);
        let held = HeldLock { range, kind: LockKind::decode(from)?, pid };
        Ok(ClaimedLock { ino, owner, held })
    }
}

/// After a reconnect: what the session holds. When the last part has come, it holds nothing else, and waits for nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LockClaim {
    /// The locks, at most [`LIST_COUNT_MAX`].
    pub locks: Vec<ClaimedLock>,
    /// Nothing more is claimed: the session need not be waited for.
    pub last: bool,
}

impl LockClaim {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.bool(self.last).u32(to_u32(self.locks.len()));
        for lock in &self.locks {
            lock.encode(out);
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<LockClaim, WireError> {
        let mut from = Reader::new(body, "lock claim");
        let last = from.bool()?;
        let count = from.count(LIST_COUNT_MAX)?;
        let locks = (0..count).map(|_| ClaimedLock::decode(&mut from)).collect::<Result<_, _>>()?;
        from.end()?;
        Ok(LockClaim { locks, last })
    }
}

/// The answer to a [`LockClaim`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LockClaimReply {
    /// Which of the claimed locks, counted from 0, the session does not hold any more.
    pub refused: Vec<u32>,
}

impl LockClaimReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u32(to_u32(self.refused.len()));
        for index in &self.refused {
            out.u32(*index);
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<LockClaimReply, WireError> {
        let mut from = Reader::new(body, "lock claim reply");
        let count = from.count(LIST_COUNT_MAX)?;
        let refused = (0..count).map(|_| from.u32()).collect::<Result<_, _>>()?;
        from.end()?;
        Ok(LockClaimReply { refused })
    }
}

/// The answer to `LockEvents`: how requests that waited have ended, in that order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LockEventsReply {
    /// Ticket, and how it ended; `Ok` for granted.
    pub events: Vec<(u64, Status)>,
}

impl LockEventsReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u32(to_u32(self.events.len()));
        for (ticket, status) in &self.events {
            out.u64(*ticket).u16(status.code());
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<LockEventsReply, WireError> {
        let mut from = Reader::new(body, "lock events");
        let count = from.count(LIST_COUNT_MAX)?;
        let mut events = Vec::new();
        for _ in 0..count {
            events.push((from.u64()?, Status::from_code(from.u16()?)?));
        }
        from.end()?;
        Ok(LockEventsReply { events })
    }
}

const CLAIM_BYTES: usize = 8 + 9 + 4 + 16 + 1;
const _: () =
    assert!(LIST_COUNT_MAX * CLAIM_BYTES + 5 < to_usize(crate::limits::BODY_BYTES_MAX as u64));
