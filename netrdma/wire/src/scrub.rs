//! What people and tools ask about the health of targets: state, scrub, damaged blocks.

use crate::codec::{Reader, WireError, WireErrorKind, Writer};
use crate::ids::{ChunkId, ChunkIndex, Ino, TargetId};
use crate::limits::{LIST_COUNT_MAX, TEXT_BYTES_MAX};
use crate::units::to_u32;

/// What a target is able to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetState {
    /// Everything.
    Online,
    /// Reads; nothing may change until the server is started again.
    ReadOnly,
    /// Nothing: it could not be opened. The reason says why.
    Offline,
}

/// How far the scrub of a target is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the fields are those of the store's `ScrubStatus`")]
pub struct ScrubInfo {
    pub running: bool,
    pub bytes_per_second: u64,
    /// Seconds of the time of day; 0 for never.
    pub started_s: u64,
    /// When the last whole pass ended; 0 for never.
    pub finished_s: u64,
    pub checked_bytes: u64,
    pub total_bytes: u64,
    pub checked_chunks: u64,
    /// Damaged blocks met in this pass.
    pub found_blocks: u64,
    pub index_gaps: u32,
    pub superblocks_bad: u32,
    pub superblocks_repaired: u32,
    /// Damaged blocks known now; `DamageList` names them.
    pub listed_blocks: u64,
    /// Damaged blocks met in this pass that the list has no room for.
    pub unlisted_blocks: u64,
}

impl ScrubInfo {
    fn encode(&self, out: &mut Writer<'_>) {
        out.bool(self.running).u64(self.bytes_per_second).u64(self.started_s).u64(self.finished_s);
        out.u64(self.checked_bytes).u64(self.total_bytes).u64(self.checked_chunks);
        out.u64(self.found_blocks).u32(self.index_gaps).u32(self.superblocks_bad);
        out.u32(self.superblocks_repaired).u64(self.listed_blocks).u64(self.unlisted_blocks);
    }

    fn decode(from: &mut Reader<'_>) -> Result<ScrubInfo, WireError> {
        Ok(ScrubInfo {
            running: from.bool()?,
            bytes_per_second: from.u64()?,
            started_s: from.u64()?,
            finished_s: from.u64()?,
            checked_bytes: from.u64()?,
            total_bytes: from.u64()?,
            checked_chunks: from.u64()?,
            found_blocks: from.u64()?,
            index_gaps: from.u32()?,
            superblocks_bad: from.u32()?,
            superblocks_repaired: from.u32()?,
            listed_blocks: from.u64()?,
            unlisted_blocks: from.u64()?,
        })
    }
}

/// One target's health.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetHealth {
    /// The target.
    pub id: TargetId,
    /// The device or file.
    pub path: String,
    /// What it is able to do.
    pub state: TargetState,
    /// Why it is not online, for a person; empty when it is.
    pub reason: String,
    /// Its scrub.
    pub scrub: ScrubInfo,
}

/// The health of a shard's targets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TargetHealthReply {
    /// The targets.
    pub targets: Vec<TargetHealth>,
}

impl TargetHealthReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u32(to_u32(self.targets.len()));
        for target in &self.targets {
            out.u16(target.id.0);
            out.bytes(target.path.as_bytes());
            out.u8(match target.state {
                TargetState::Online => 1,
                TargetState::ReadOnly => 2,
                TargetState::Offline => 3,
            });
            out.bytes(target.reason.as_bytes());
            target.scrub.encode(out);
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<TargetHealthReply, WireError> {
        let from = &mut Reader::new(body, "target health");
        let count = from.count(LIST_COUNT_MAX)?;
        let mut reply = TargetHealthReply::default();
        for _ in 0..count {
            let (id, path) = (TargetId(from.u16()?), text(from)?);
            let state = match from.u8()? {
                1 => TargetState::Online,
                2 => TargetState::ReadOnly,
                3 => TargetState::Offline,
                _ => return Err(from.error(WireErrorKind::Value)),
            };
            let (reason, scrub) = (text(from)?, ScrubInfo::decode(from)?);
            reply.targets.push(TargetHealth { id, path, state, reason, scrub });
        }
        from.clone().end()?;
        Ok(reply)
    }
}

fn text(from: &mut Reader<'_>) -> Result<String, WireError> {
    let bytes = from.bytes(TEXT_BYTES_MAX)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| from.error(WireErrorKind::Value))
}

/// What a scrub is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubAction {
    /// Begin a pass, or go on with the one that was stopped.
    Start,
    /// Begin a whole new pass.
    Again,
    /// Stop where it is.
    Stop,
}

/// The request `Scrub`; its reply is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubOrder {
    /// Which target.
    pub target: TargetId,
    /// What to do.
    pub action: ScrubAction,
    /// How fast; 0 for what the server's config says.
    pub bytes_per_second: u64,
}

impl ScrubOrder {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u16(self.target.0);
        out.u8(match self.action {
            ScrubAction::Start => 1,
            ScrubAction::Again => 2,
            ScrubAction::Stop => 3,
        });
        out.u64(self.bytes_per_second);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<ScrubOrder, WireError> {
        let from = &mut Reader::new(body, "scrub order");
        let target = TargetId(from.u16()?);
        let action = match from.u8()? {
            1 => ScrubAction::Start,
            2 => ScrubAction::Again,
            3 => ScrubAction::Stop,
            _ => return Err(from.error(WireErrorKind::Value)),
        };
        let bytes_per_second = from.u64()?;
        from.clone().end()?;
        Ok(ScrubOrder { target, action, bytes_per_second })
    }
}

/// What is wrong with blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DamageKind {
    /// Their bytes do not match their checksums.
    Mismatch,
    /// The device does not give them.
    Unreadable,
    /// The records of some chunks behind this one cannot be read from the index.
    Index,
}

impl DamageKind {
    /// Its name, for programs.
    pub fn name(self) -> &'static str {
        match self {
            DamageKind::Mismatch => "mismatch",
            DamageKind::Unreadable => "unreadable",
            DamageKind::Index => "index",
        }
    }
}

/// For people.
impl std::fmt::Display for DamageKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DamageKind::Mismatch => "checksum mismatch",
            DamageKind::Unreadable => "the device does not give it",
            DamageKind::Index => "the index cannot be read",
        })
    }
}

/// Damaged blocks in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Which chunk.
    pub chunk: ChunkId,
    /// First block, counted in the chunk.
    pub first: u32,
    /// How many; 0 for [`DamageKind::Index`].
    pub count: u32,
    /// What is wrong.
    pub kind: DamageKind,
}

/// The request `DamageList`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DamageQuery {
    /// Which target.
    pub target: TargetId,
    /// From which chunk's block on; `None` for all.
    pub from: Option<(ChunkId, u32)>,
}

impl DamageQuery {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u16(self.target.0).bool(self.from.is_some());
        if let Some((chunk, block)) = self.from {
            out.u64(chunk.ino.0).u64(chunk.index.0).u32(block);
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<DamageQuery, WireError> {
        let from = &mut Reader::new(body, "damage query");
        let target = TargetId(from.u16()?);
        let place = match from.bool()? {
            true => Some((chunk(from)?, from.u32()?)),
            false => None,
        };
        from.clone().end()?;
        Ok(DamageQuery { target, from: place })
    }
}

fn chunk(from: &mut Reader<'_>) -> Result<ChunkId, WireError> {
    Ok(ChunkId { ino: Ino(from.u64()?), index: ChunkIndex(from.u64()?) })
}

/// Damaged blocks of a target, ascending.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DamageReply {
    /// The blocks.
    pub damages: Vec<Damage>,
    /// Whether there are more after the last one.
    pub more: bool,
}

impl DamageReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.bool(self.more).u32(to_u32(self.damages.len()));
        for damage in &self.damages {
            out.u64(damage.chunk.ino.0).u64(damage.chunk.index.0);
            out.u32(damage.first).u32(damage.count);
            out.u8(match damage.kind {
                DamageKind::Mismatch => 1,
                DamageKind::Unreadable => 2,
                DamageKind::Index => 3,
            });
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<DamageReply, WireError> {
        let from = &mut Reader::new(body, "damage list");
        let more = from.bool()?;
        let count = from.count(LIST_COUNT_MAX)?;
        let mut damages = Vec::new();
        for _ in 0..count {
            let (chunk, first, count) = (chunk(from)?, from.u32()?, from.u32()?);
            let kind = match from.u8()? {
                1 => DamageKind::Mismatch,
                2 => DamageKind::Unreadable,
                3 => DamageKind::Index,
                _ => return Err(from.error(WireErrorKind::Value)),
            };
            damages.push(Damage { chunk, first, count, kind });
        }
        from.clone().end()?;
        Ok(DamageReply { damages, more })
    }
}

const _: () =
    assert!(LIST_COUNT_MAX * 25 + 5 < crate::units::to_usize(crate::limits::BODY_BYTES_MAX as u64));
