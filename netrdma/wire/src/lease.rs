//! Leases on the wire: what is wanted and granted stands in a frame's header, so that an uncontended lease costs no
//! message; what is wanted back is a message of the server, which the client answers like a request.

use crate::codec::{Reader, WireError, WireErrorKind, Writer};
use crate::header::{FLAG_REPLY, FLAGS_KNOWN};
use crate::ids::Ino;
use crate::limits::RECALL_COUNT_MAX;
use crate::units::to_u32;

/// What the holder of a lease may do, from nothing to everything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum LeaseMode {
    /// Nothing.
    #[default]
    None,
    /// Write, each write told to the servers before it is answered; others do the same. Nothing is cached.
    Through,
    /// Cache attributes, data and names; others do the same.
    Read,
    /// Be the only one: write-behind, and the length and times of the file are the holder's.
    Write,
}

/// The lease bits of a header: what a request wants, what a reply grants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeaseBits(u16);

impl LeaseBits {
    /// Nothing.
    pub const NONE: LeaseBits = LeaseBits(0);
    /// To cache the inode that the request is about, or that its reply names.
    pub const READ: LeaseBits = LeaseBits(1 << 1);
    /// To write it alone.
    pub const WRITE: LeaseBits = LeaseBits(1 << 2);
    /// To write it among others; in replies only.
    pub const THROUGH: LeaseBits = LeaseBits(1 << 3);
    /// To cache the names of the directory that the request looks in; of a listing: the inodes it names.
    pub const NAMES: LeaseBits = LeaseBits(1 << 4);
    /// Other sessions hold leases, too; in replies only.
    pub const OTHERS: LeaseBits = LeaseBits(1 << 5);
    /// To cache the attributes of the directories whose names the request changes: the reply ends with them
    /// ([`crate::meta::take_parents`]). Only between ends that both have [`crate::session::FEATURE_PARENTS`].
    pub const PARENTS: LeaseBits = LeaseBits(1 << 6);
    const ALL: u16 = Self::READ.0
        | Self::WRITE.0
        | Self::THROUGH.0
        | Self::NAMES.0
        | Self::OTHERS.0
        | Self::PARENTS.0;

    /// Both.
    #[must_use]
    pub const fn with(self, other: LeaseBits) -> LeaseBits {
        LeaseBits(self.0 | other.0)
    }

    /// These without those of `other`.
    #[must_use]
    pub const fn without(self, other: LeaseBits) -> LeaseBits {
        LeaseBits(self.0 & !other.0)
    }

    /// Whether all bits of `other` are there.
    pub const fn has(self, other: LeaseBits) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits that grant a mode.
    pub const fn granting(mode: LeaseMode) -> LeaseBits {
        match mode {
            LeaseMode::None => LeaseBits::NONE,
            LeaseMode::Through => LeaseBits::THROUGH,
            LeaseMode::Read => LeaseBits::READ,
            LeaseMode::Write => LeaseBits::WRITE,
        }
    }

    /// The mode that these bits grant on the inode itself.
    pub const fn mode(self) -> LeaseMode {
        if self.has(LeaseBits::WRITE) {
            LeaseMode::Write
        } else if self.has(LeaseBits::READ) {
            LeaseMode::Read
        } else if self.has(LeaseBits::THROUGH) {
            LeaseMode::Through
        } else {
            LeaseMode::None
        }
    }

    pub(crate) const fn flags(self) -> u16 {
        self.0
    }

    pub(crate) const fn from_flags(flags: u16) -> LeaseBits {
        LeaseBits(flags & Self::ALL)
    }
}

const _: () =
    assert!(LeaseBits::ALL & FLAG_REPLY == 0 && LeaseBits::ALL | FLAG_REPLY == FLAGS_KNOWN);

/// What a server wants back: the body of a `Recall`. The client answers with an empty reply when it caches no more
/// than it may keep, and what it wrote behind is at the servers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recall {
    /// Inodes, and what may be kept of each.
    pub inodes: Vec<(Ino, LeaseMode)>,
}

/// After a restart of the server: files the client holds writes of, and between which versions they are if nobody else
/// changed them. The reply has the others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reclaim {
    /// Inodes, and their first and last version.
    pub inodes: Vec<(Ino, u64, u64)>,
    /// More follow in another message.
    pub more: bool,
}

/// The answer to a [`Reclaim`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reclaimed {
    /// What is not the client's any more.
    pub refused: Vec<Ino>,
}

const fn mode_code(mode: LeaseMode) -> u8 {
    match mode {
        LeaseMode::None => 0,
        LeaseMode::Through => 1,
        LeaseMode::Read => 2,
        LeaseMode::Write => 3,
    }
}

impl Recall {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u32(to_u32(self.inodes.len()));
        for (ino, keep) in &self.inodes {
            out.u64(ino.0).u8(mode_code(*keep));
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`]; `Value` for keeping everything: nothing would be recalled.
    pub fn decode(body: &[u8]) -> Result<Recall, WireError> {
        let from = &mut Reader::new(body, "recall");
        let mut recall = Recall::default();
        for _ in 0..from.count(RECALL_COUNT_MAX)? {
            let ino = Ino(from.u64()?);
            let keep = match from.u8()? {
                0 => LeaseMode::None,
                1 => LeaseMode::Through,
                2 => LeaseMode::Read,
                _ => return Err(from.error(WireErrorKind::Value)),
            };
            recall.inodes.push((ino, keep));
        }
        from.clone().end()?;
        Ok(recall)
    }
}

impl Reclaim {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.bool(self.more).u32(to_u32(self.inodes.len()));
        for (ino, first, last) in &self.inodes {
            out.u64(ino.0).u64(*first).u64(*last);
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<Reclaim, WireError> {
        let from = &mut Reader::new(body, "reclaim");
        let more = from.bool()?;
        let count = from.count(RECALL_COUNT_MAX)?;
        let inodes = (0..count).map(|_| Ok((Ino(from.u64()?), from.u64()?, from.u64()?)));
        let inodes = inodes.collect::<Result<Vec<_>, WireError>>()?;
        from.clone().end()?;
        Ok(Reclaim { inodes, more })
    }
}

impl Reclaimed {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u32(to_u32(self.refused.len()));
        for ino in &self.refused {
            out.u64(ino.0);
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<Reclaimed, WireError> {
        let from = &mut Reader::new(body, "reclaimed");
        let count = from.count(RECALL_COUNT_MAX)?;
        let refused = (0..count).map(|_| from.u64().map(Ino)).collect::<Result<Vec<_>, _>>()?;
        from.clone().end()?;
        Ok(Reclaimed { refused })
    }
}
