//! Data: what a client (or a volume, for truncation) asks of a target.
//!
//! Payloads are the blocks themselves. A read answers whole blocks, each with its checksum; a write carries any
//! bytes, with a checksum for each piece cut at block borders (see [`crate::blocks`]).

use crate::blocks::block_count;
use crate::codec::{Reader, WireError, WireErrorKind, Writer};
use crate::header::Kind;
use crate::ids::{ChunkId, ChunkIndex, Ino, TargetId};
use crate::limits::{COPY_BYTES_MAX, LIST_COUNT_MAX, PAYLOAD_BYTES_MAX};
use crate::units::{to_u32, to_usize};

/// A byte range of a chunk: what a read or write is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkRange {
    /// The chunk.
    pub chunk: ChunkId,
    /// First byte, from the chunk's start.
    pub offset: u32,
    /// Length in bytes, at least 1.
    pub bytes: u32,
}

impl ChunkRange {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.chunk.ino.0).u64(self.chunk.index.0).u32(self.offset).u32(self.bytes);
    }

    fn decode(from: &mut Reader<'_>) -> Result<ChunkRange, WireError> {
        let chunk = ChunkId { ino: Ino(from.u64()?), index: ChunkIndex(from.u64()?) };
        let range = ChunkRange { chunk, offset: from.u32()?, bytes: from.u32()? };
        let end = u64::from(range.offset) + u64::from(range.bytes);
        if range.bytes == 0 || end > u64::from(PAYLOAD_BYTES_MAX) {
            return Err(from.error(WireErrorKind::Value));
        }
        Ok(range)
    }

    /// How many blocks the range touches.
    pub fn block_count(&self) -> u32 {
        block_count(self.offset, self.bytes)
    }
}

/// What a data request is about, as far as its body says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Subject {
    /// The target.
    pub target: TargetId,
    /// The file; 0 when it is about none.
    pub ino: Ino,
    /// The chunk, the first byte in it and how many: of requests about bytes.
    pub range: Option<(ChunkIndex, u32, u32)>,
}

impl Subject {
    /// Of a request's body, without reading all of it; `None` when it is too short or `kind` is no data request.
    #[must_use]
    pub fn of(kind: Kind, body: &[u8]) -> Option<Subject> {
        if !kind.is_data() {
            return None;
        }
        let mut from = Reader::new(body, "data request");
        let target = TargetId(from.u16().ok()?);
        let ino = if kind == Kind::Grow { Ino(0) } else { Ino(from.u64().ok()?) };
        let range = match kind {
            Kind::Read | Kind::Write | Kind::Zero | Kind::Copy => {
                Some((ChunkIndex(from.u64().ok()?), from.u32().ok()?, from.u32().ok()?))
            }
            _ => None,
        };
        Some(Subject { target, ino, range })
    }
}

/// What becomes of the blocks of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZeroHow {
    /// Blocks that were never written are written with zeros: they have their place from then on. Whole blocks.
    Allocate,
    /// Bytes that were written become zeros; what was not stays so. Any bytes.
    Erase,
    /// The blocks are as if never written, and their space is free. Whole blocks.
    Punch,
}

impl ZeroHow {
    fn code(self) -> u8 {
        match self {
            ZeroHow::Allocate => 1,
            ZeroHow::Erase => 2,
            ZeroHow::Punch => 3,
        }
    }

    fn from_code(code: u8) -> Option<ZeroHow> {
        Some(match code {
            1 => ZeroHow::Allocate,
            2 => ZeroHow::Erase,
            3 => ZeroHow::Punch,
            _ => return None,
        })
    }
}

/// Where a search for data or a hole begins, and among which chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeekFrom {
    /// The file.
    pub ino: Ino,
    /// First chunk looked at.
    pub index: ChunkIndex,
    /// First block of it looked at.
    pub block: u32,
    /// Blocks of a chunk of this file.
    pub chunk_blocks: u32,
    /// From one chunk of the target to the next; at least 1. Only a search for a hole needs it: what is not there is one.
    pub stride: u32,
    /// Look for a hole, not for data.
    pub hole: bool,
}

impl SeekFrom {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.ino.0).u64(self.index.0).u32(self.block).u32(self.chunk_blocks);
        out.u32(self.stride).bool(self.hole);
    }

    fn decode(from: &mut Reader<'_>) -> Result<SeekFrom, WireError> {
        let seek = SeekFrom {
            ino: Ino(from.u64()?),
            index: ChunkIndex(from.u64()?),
            block: from.u32()?,
            chunk_blocks: from.u32()?,
            stride: from.u32()?,
            hole: from.bool()?,
        };
        let blocks_max = PAYLOAD_BYTES_MAX / crate::blocks::BLOCK_BYTES;
        if seek.stride == 0 || !(1..=blocks_max).contains(&seek.chunk_blocks) {
            return Err(from.error(WireErrorKind::Value));
        }
        Ok(seek)
    }
}

/// Which server process a client knows, and what it has not lost: of a [`Welcome`](crate::session::Welcome).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// [`Welcome::epoch`](crate::session::Welcome::epoch).
    pub epoch: u64,
    /// [`Welcome::boot`](crate::session::Welcome::boot).
    pub boot: u64,
}

impl Known {
    /// Whether what a shard acknowledged that was known as this is still there now that it is `now`.
    #[must_use]
    pub fn has_all(self, now: Known) -> bool {
        self.epoch == now.epoch || (self.boot != 0 && self.boot == now.boot)
    }
}

/// Bytes that go from one chunk to another without passing through the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkCopy {
    /// Where to: a range at the target that is asked.
    pub to: ChunkRange,
    /// The target they come from, of the same node.
    pub source: TargetId,
    /// The chunk they come from.
    pub from: ChunkId,
    /// The first of them, from that chunk's start.
    pub from_offset: u32,
    /// The shard of `source`, as the client knows it. Nothing is copied when that has been started anew since and may have
    /// lost what was not durable: who has such data writes it again first.
    pub known: Known,
}

impl ChunkCopy {
    /// What is read.
    #[must_use]
    pub fn from_range(&self) -> ChunkRange {
        ChunkRange { chunk: self.from, offset: self.from_offset, bytes: self.to.bytes }
    }

    fn encode(&self, out: &mut Writer<'_>) {
        self.to.encode(out);
        out.u16(self.source.0).u64(self.from.ino.0).u64(self.from.index.0).u32(self.from_offset);
        out.u64(self.known.epoch).u64(self.known.boot);
    }

    fn decode(from: &mut Reader<'_>) -> Result<ChunkCopy, WireError> {
        let copy = ChunkCopy {
            to: ChunkRange::decode(from)?,
            source: TargetId(from.u16()?),
            from: ChunkId { ino: Ino(from.u64()?), index: ChunkIndex(from.u64()?) },
            from_offset: from.u32()?,
            known: Known { epoch: from.u64()?, boot: from.u64()? },
        };
        let end = u64::from(copy.from_offset) + u64::from(copy.to.bytes);
        if copy.to.bytes > COPY_BYTES_MAX || end > u64::from(PAYLOAD_BYTES_MAX) {
            return Err(from.error(WireErrorKind::Value));
        }
        Ok(copy)
    }
}

/// One data operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DataRequest {
    /// → [`ReadReply`] and the blocks that hold the range as payload.
    Read(ChunkRange),
    /// The payload goes to the range; one checksum for each piece. → [`BlocksReply`].
    Write(ChunkRange, Vec<u32>),
    /// Everything acknowledged for this file, or with [`DataRequest::ALL_FILES`] for any, on this target is durable when
    /// the reply comes. → empty reply.
    Sync(Ino),
    /// Chunks from `remove_from` on are gone; `cut` (chunk, bytes) loses what lies beyond `bytes`. → empty reply.
    Truncate {
        /// The file.
        ino: Ino,
        /// First chunk to remove.
        remove_from: ChunkIndex,
        /// A chunk to shorten, and how many bytes of it stay.
        cut: Option<(ChunkIndex, u32)>,
    },
    /// Which chunks with index at or above this are here. → [`ChunkListReply`].
    ChunkList(Ino, ChunkIndex),
    /// → [`BlocksReply`].
    Zero(ChunkRange, ZeroHow),
    /// What was never written in the source is not written in the destination either: blocks that lie in it whole are
    /// punched, of others the bytes become zeros. → [`CopyReply`]. Only to a server with [`crate::session::FEATURE_COPY`].
    Copy(ChunkCopy),
    /// → [`SeekReply`].
    Seek(SeekFrom),
    /// The device became longer: take it into use up to its length. → [`GrowReply`].
    Grow,
}

impl DataRequest {
    /// Stands for every file in a [`DataRequest::Sync`]: it is no inode's number. Only to a server with
    /// [`crate::session::FEATURE_SYNC_ALL`].
    pub const ALL_FILES: Ino = Ino(0);

    /// The frame kind that carries this request.
    pub fn kind(&self) -> Kind {
        match self {
            DataRequest::Read(_) => Kind::Read,
            DataRequest::Write(..) => Kind::Write,
            DataRequest::Sync(_) => Kind::Sync,
            DataRequest::Truncate { .. } => Kind::Truncate,
            DataRequest::ChunkList(..) => Kind::ChunkList,
            DataRequest::Zero(..) => Kind::Zero,
            DataRequest::Copy(_) => Kind::Copy,
            DataRequest::Seek(_) => Kind::Seek,
            DataRequest::Grow => Kind::Grow,
        }
    }

    /// The file it is about, if it is about one.
    pub fn ino(&self) -> Option<Ino> {
        match self {
            DataRequest::Read(range)
            | DataRequest::Write(range, _)
            | DataRequest::Zero(range, _) => Some(range.chunk.ino),
            DataRequest::Sync(ino)
            | DataRequest::ChunkList(ino, _)
            | DataRequest::Truncate { ino, .. } => Some(*ino),
            DataRequest::Seek(from) => Some(from.ino),
            DataRequest::Copy(copy) => Some(copy.to.chunk.ino),
            DataRequest::Grow => None,
        }
    }

    /// Appends the body: the target, then the request's own fields.
    pub fn encode(&self, target: TargetId, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u16(target.0);
        match self {
            DataRequest::Read(range) => range.encode(out),
            DataRequest::Write(range, sums) => {
                range.encode(out);
                for sum in sums {
                    out.u32(*sum);
                }
            }
            DataRequest::Sync(ino) => {
                out.u64(ino.0);
            }
            DataRequest::Truncate { ino, remove_from, cut } => {
                out.u64(ino.0).u64(remove_from.0).bool(cut.is_some());
                if let Some((index, bytes)) = cut {
                    out.u64(index.0).u32(*bytes);
                }
            }
            DataRequest::ChunkList(ino, from) => {
                out.u64(ino.0).u64(from.0);
            }
            DataRequest::Zero(range, how) => {
                range.encode(out);
                out.u8(how.code());
            }
            DataRequest::Copy(copy) => copy.encode(out),
            DataRequest::Seek(from) => from.encode(out),
            DataRequest::Grow => {}
        }
    }

    /// Reads the body of a frame of `kind` whose payload is `payload_bytes` long.
    ///
    /// # Errors
    /// Any [`WireErrorKind`]; `Value` when the payload is not as long as the range or `kind` is no data request.
    pub fn decode(
        kind: Kind,
        body: &[u8],
        payload_bytes: u32,
    ) -> Result<(TargetId, DataRequest), WireError> {
        let mut from = Reader::new(body, "data request");
        let target = TargetId(from.u16()?);
        let mut payload_expected = 0;
        let request = match kind {
            Kind::Read => DataRequest::Read(ChunkRange::decode(&mut from)?),
            Kind::Write => {
                let range = ChunkRange::decode(&mut from)?;
                payload_expected = range.bytes;
                let sums = (0..range.block_count()).map(|_| from.u32());
                DataRequest::Write(range, sums.collect::<Result<_, _>>()?)
            }
            Kind::Sync => DataRequest::Sync(Ino(from.u64()?)),
            Kind::Truncate => DataRequest::Truncate {
                ino: Ino(from.u64()?),
                remove_from: ChunkIndex(from.u64()?),
                cut: match from.bool()? {
                    true => Some((ChunkIndex(from.u64()?), from.u32()?)),
                    false => None,
                },
            },
            Kind::ChunkList => DataRequest::ChunkList(Ino(from.u64()?), ChunkIndex(from.u64()?)),
            Kind::Zero => {
                let range = ChunkRange::decode(&mut from)?;
                let how = ZeroHow::from_code(from.u8()?);
                DataRequest::Zero(range, how.ok_or(from.error(WireErrorKind::Value))?)
            }
            Kind::Copy => DataRequest::Copy(ChunkCopy::decode(&mut from)?),
            Kind::Seek => DataRequest::Seek(SeekFrom::decode(&mut from)?),
            Kind::Grow => DataRequest::Grow,
            _ => return Err(WireError::new(WireErrorKind::Value, "kind")),
        };
        if payload_bytes != payload_expected {
            return Err(from.error(WireErrorKind::Value));
        }
        from.end()?;
        Ok((target, request))
    }
}

/// What a read found. The payload holds the blocks `first_block..first_block + sums.len()`; blocks of the range
/// beyond them were never written (zeros). A hole in the midst comes as a block of zeros.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadReply {
    /// Index of the payload's first block in the chunk.
    pub first_block: u32,
    /// CRC32C of each block in the payload.
    pub sums: Vec<u32>,
}

impl ReadReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.u32(self.first_block);
        for sum in &self.sums {
            out.u32(*sum);
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// `Short`, or `Value` when the payload is not as long as the blocks.
    pub fn decode(body: &[u8], payload_bytes: u32) -> Result<ReadReply, WireError> {
        let mut from = Reader::new(body, "read reply");
        let first_block = from.u32()?;
        let count = payload_bytes / crate::blocks::BLOCK_BYTES;
        let sums = (0..count).map(|_| from.u32()).collect::<Result<Vec<_>, _>>()?;
        if !payload_bytes.is_multiple_of(crate::blocks::BLOCK_BYTES) {
            return Err(from.error(WireErrorKind::Value));
        }
        from.end()?;
        Ok(ReadReply { first_block, sums })
    }
}

/// What a change did to the space of its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlocksReply {
    /// Blocks it has more than before; negative: fewer.
    pub added: i64,
}

impl BlocksReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        Writer::new(body).i64(self.added);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<BlocksReply, WireError> {
        let mut from = Reader::new(body, "blocks reply");
        let reply = BlocksReply { added: from.i64()? };
        from.end()?;
        Ok(reply)
    }
}

/// How a copy ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyReply {
    /// The bytes are there. The file has so many blocks more than before; negative: fewer.
    Copied(i64),
    /// Nothing was copied: the source's shard is not [`ChunkCopy::known`] any more.
    Unknown,
}

impl CopyReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let (copied, added) = match self {
            CopyReply::Copied(added) => (true, *added),
            CopyReply::Unknown => (false, 0),
        };
        Writer::new(body).bool(copied).i64(added);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<CopyReply, WireError> {
        let mut from = Reader::new(body, "copy reply");
        let (copied, added) = (from.bool()?, from.i64()?);
        from.end()?;
        Ok(if copied { CopyReply::Copied(added) } else { CopyReply::Unknown })
    }
}

/// How a search ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeekReply {
    /// At this block of this chunk.
    Found(ChunkIndex, u32),
    /// Not in chunks below this one: it goes on there. A request looks at a bounded number.
    Further(ChunkIndex),
    /// There is none.
    End,
}

impl SeekReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let (code, index, block) = match self {
            SeekReply::Found(index, block) => (1, index.0, *block),
            SeekReply::Further(index) => (2, index.0, 0),
            SeekReply::End => (3, 0, 0),
        };
        Writer::new(body).u8(code).u64(index).u32(block);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<SeekReply, WireError> {
        let mut from = Reader::new(body, "seek reply");
        let (code, index, block) = (from.u8()?, ChunkIndex(from.u64()?), from.u32()?);
        from.clone().end()?;
        Ok(match code {
            1 => SeekReply::Found(index, block),
            2 => SeekReply::Further(index),
            3 => SeekReply::End,
            _ => return Err(from.error(WireErrorKind::Value)),
        })
    }
}

/// How a growth ended, durably.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GrowReply {
    /// Bytes of the device in use before.
    pub before_bytes: u64,
    /// And now: the same when the device had not become longer.
    pub capacity_bytes: u64,
}

impl GrowReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        Writer::new(body).u64(self.before_bytes).u64(self.capacity_bytes);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<GrowReply, WireError> {
        let mut from = Reader::new(body, "grow reply");
        let reply = GrowReply { before_bytes: from.u64()?, capacity_bytes: from.u64()? };
        from.end()?;
        Ok(reply)
    }
}

/// One chunk as a target sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkInfo {
    /// Which chunk of the file.
    pub index: ChunkIndex,
    /// Blocks that were written.
    pub blocks_written: u32,
    /// Blocks of the device given to it.
    pub blocks_allocated: u32,
    /// Pieces of the device it lies in.
    pub extent_count: u32,
}

/// Chunks of a file on a target, ascending.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChunkListReply {
    /// The chunks.
    pub chunks: Vec<ChunkInfo>,
    /// Whether there are more after the last one.
    pub more: bool,
}

impl ChunkListReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let out = &mut Writer::new(body);
        out.bool(self.more).u32(to_u32(self.chunks.len()));
        for chunk in &self.chunks {
            out.u64(chunk.index.0).u32(chunk.blocks_written).u32(chunk.blocks_allocated);
            out.u32(chunk.extent_count);
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(body: &[u8]) -> Result<ChunkListReply, WireError> {
        let mut from = Reader::new(body, "chunk list");
        let more = from.bool()?;
        let count = from.count(LIST_COUNT_MAX)?;
        let chunks = (0..count)
            .map(|_| {
                Ok(ChunkInfo {
                    index: ChunkIndex(from.u64()?),
                    blocks_written: from.u32()?,
                    blocks_allocated: from.u32()?,
                    extent_count: from.u32()?,
                })
            })
            .collect::<Result<Vec<_>, WireError>>()?;
        from.end()?;
        Ok(ChunkListReply { chunks, more })
    }
}

const _: () = assert!(LIST_COUNT_MAX * 20 + 5 < to_usize(crate::limits::BODY_BYTES_MAX as u64));
