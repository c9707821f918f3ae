//! Journal records: what is appended before a change is acknowledged.
//!
//! A record is a 40-byte header, a body, and zeros up to a multiple of 8 bytes. It is one of ours
//! when its checksum is right and it carries the target's nonce; it is the next one when it has the
//! segment's generation and the next sequence number. Everything else ends the journal.

use weft_wire::blocks::crc32c;
use weft_wire::units::{to_u32, to_u64, to_usize};
use weft_wire::{ChunkId, ChunkIndex, Ino};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::chunk::{Placed, RawRun, Run, decode_runs};
use crate::limits::{CHUNK_BLOCKS_MAX, RECORD_BYTES_MAX};
use crate::planted::{self, Bug};

/// Records begin at multiples of this many bytes.
pub(crate) const RECORD_ALIGN: u64 = 8;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    /// CRC32C of the rest of the header and of the body with its padding.
    pub(crate) crc: U32,
    /// Length of the body, without padding.
    pub(crate) body_bytes: U32,
    /// Which target, and which formatting of it.
    pub(crate) nonce: U64,
    /// Which filling of the segment.
    pub(crate) generation: U64,
    pub(crate) sequence: U64,
    pub(crate) kind: u8,
    pub(crate) reserved: [u8; 7],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawPlacement {
    pub(crate) ino: U64,
    pub(crate) chunk_index: U64,
    pub(crate) run_count: U32,
    pub(crate) reserved: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawTruncate {
    pub(crate) ino: U64,
    pub(crate) remove_from: U64,
    pub(crate) cut_index: U64,
    pub(crate) tail_device_block: U64,
    pub(crate) cut_keep_blocks: U32,
    pub(crate) tail_sum: U32,
    /// Bit 0: there is a cut; bit 1: its last block was zeroed behind the cut, into a new place.
    pub(crate) flags: U32,
    pub(crate) reserved: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawPunch {
    pub(crate) ino: U64,
    pub(crate) chunk_index: U64,
    pub(crate) first: U32,
    pub(crate) count: U32,
}

pub(crate) const HEADER_LEN: usize = size_of::<RawHeader>();
pub(crate) const PLACEMENT_LEN: usize = size_of::<RawPlacement>();
pub(crate) const TRUNCATE_LEN: usize = size_of::<RawTruncate>();
const _: () = assert!(HEADER_LEN == 40 && PLACEMENT_LEN == 24 && TRUNCATE_LEN == 48);
const _: () = assert!(
    RECORD_BYTES_MAX >= (HEADER_LEN + PLACEMENT_LEN + 8) as u64 + 20 * CHUNK_BLOCKS_MAX as u64
);
const FLAG_CUT: u32 = 1;
const FLAG_TAIL: u32 = 2;

pub(crate) const KIND_START: u8 = 1;
pub(crate) const KIND_MARK: u8 = 2;
pub(crate) const KIND_WRITE: u8 = 3;
pub(crate) const KIND_INTENT: u8 = 4;
pub(crate) const KIND_TRUNCATE: u8 = 5;
pub(crate) const KIND_PUNCH: u8 = 6;

/// Blocks of a chunk, where they lie, and their checksums.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Placement {
    pub(crate) chunk: ChunkId,
    pub(crate) runs: Vec<Run>,
    /// One for each block of the runs, in their order.
    pub(crate) sums: Vec<u32>,
}

/// A [`Placement`] that lies elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places<'a> {
    pub(crate) chunk: ChunkId,
    pub(crate) runs: &'a [Run],
    /// One for each block of the runs, in their order.
    pub(crate) sums: &'a [u32],
}

impl Placement {
    pub(crate) fn as_places(&self) -> Places<'_> {
        Places { chunk: self.chunk, runs: &self.runs, sums: &self.sums }
    }

    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u32, Placed)> {
        self.as_places().blocks()
    }
}

impl<'a> Places<'a> {
    pub(crate) fn blocks(self) -> impl Iterator<Item = (u32, Placed)> + use<'a> {
        self.runs
            .iter()
            .flat_map(Run::blocks)
            .zip(self.sums)
            .map(|((block, device_block), sum)| (block, Placed { device_block, sum: *sum }))
    }
}

/// Chunks removed and one shortened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Truncate {
    pub(crate) ino: Ino,
    pub(crate) remove_from: ChunkIndex,
    pub(crate) cut: Option<Cut>,
}

/// A chunk shortened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cut {
    pub(crate) index: ChunkIndex,
    pub(crate) keep_blocks: u32,
    /// New place of the last kept block, whose end was zeroed.
    pub(crate) tail: Option<Placed>,
}

/// Blocks of a chunk that are as if never written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Punch {
    pub(crate) chunk: ChunkId,
    /// First block, counted in the chunk.
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl Punch {
    pub(crate) fn blocks(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.count
    }
}

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Record {
    /// First record of a segment; all records up to `applied` were in the index by then.
    Start { applied: u64 },
    /// A flush follows; an earlier one made all records up to `durable` durable.
    Mark { durable: u64 },
    /// Blocks were written.
    Write(Placement),
    /// Written blocks are about to be overwritten where they are.
    Intent(Placement),
    /// Chunks or parts of them are gone.
    Truncate(Truncate),
    /// Blocks are gone.
    Punch(Punch),
}

/// Which journal a record is in and which one it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    pub(crate) nonce: u64,
    pub(crate) generation: u64,
    pub(crate) sequence: u64,
}

/// A record to be made: as [`Record`], of what lies elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry<'a> {
    Start { applied: u64 },
    Mark { durable: u64 },
    Write(Places<'a>),
    Intent(Places<'a>),
    Truncate(Truncate),
    Punch(Punch),
}

/// Appends a record to `out`.
pub(crate) fn encode(stamp: Stamp, entry: Entry<'_>, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    let kind = encode_body(entry, out);
    let body_bytes = out.len() - at - HEADER_LEN;
    let align = to_usize(RECORD_ALIGN);
    out.resize(at + (out.len() - at).next_multiple_of(align), 0);
    let mut header = RawHeader {
        crc: U32::ZERO,
        body_bytes: to_u32(body_bytes).into(),
        nonce: stamp.nonce.into(),
        generation: stamp.generation.into(),
        sequence: stamp.sequence.into(),
        kind,
        reserved: [0; 7],
    };
    out[at..at + HEADER_LEN].copy_from_slice(header.as_bytes());
    header.crc = crc32c(&out[at + 4..]).into();
    out[at..at + 4].copy_from_slice(header.crc.as_bytes());
    debug_assert!(to_u64(out.len() - at) <= RECORD_BYTES_MAX);
}

fn encode_body(entry: Entry<'_>, out: &mut Vec<u8>) -> u8 {
    match entry {
        Entry::Start { applied } => {
            out.extend_from_slice(&applied.to_le_bytes());
            KIND_START
        }
        Entry::Mark { durable } => {
            out.extend_from_slice(&durable.to_le_bytes());
            KIND_MARK
        }
        Entry::Write(places) => {
            encode_places(places, out);
            KIND_WRITE
        }
        Entry::Intent(places) => {
            encode_places(places, out);
            KIND_INTENT
        }
        Entry::Truncate(truncate) => {
            out.extend_from_slice(raw_truncate(&truncate).as_bytes());
            KIND_TRUNCATE
        }
        Entry::Punch(punch) => {
            let raw = RawPunch {
                ino: punch.chunk.ino.0.into(),
                chunk_index: punch.chunk.index.0.into(),
                first: punch.first.into(),
                count: punch.count.into(),
            };
            out.extend_from_slice(raw.as_bytes());
            KIND_PUNCH
        }
    }
}

fn encode_places(places: Places<'_>, out: &mut Vec<u8>) {
    let raw = RawPlacement {
        ino: places.chunk.ino.0.into(),
        chunk_index: places.chunk.index.0.into(),
        run_count: to_u32(places.runs.len()).into(),
        reserved: U32::ZERO,
    };
    out.extend_from_slice(raw.as_bytes());
    for run in places.runs {
        out.extend_from_slice(RawRun::of(run).as_bytes());
    }
    for sum in places.sums {
        out.extend_from_slice(&sum.to_le_bytes());
    }
}

fn raw_truncate(truncate: &Truncate) -> RawTruncate {
    let cut = truncate.cut;
    let tail = cut.and_then(|cut| cut.tail);
    let flags = cut.map_or(0, |_| FLAG_CUT) | tail.map_or(0, |_| FLAG_TAIL);
    RawTruncate {
        ino: truncate.ino.0.into(),
        remove_from: truncate.remove_from.0.into(),
        cut_index: cut.map_or(0, |cut| cut.index.0).into(),
        tail_device_block: tail.map_or(0, |tail| tail.device_block).into(),
        cut_keep_blocks: cut.map_or(0, |cut| cut.keep_blocks).into(),
        tail_sum: tail.map_or(0, |tail| tail.sum).into(),
        flags: flags.into(),
        reserved: U32::ZERO,
    }
}

/// A record found, and how many bytes it takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) stamp: Stamp,
    pub(crate) record: Record,
    pub(crate) len_bytes: usize,
}

/// How many bytes the record at the start of `bytes` claims, if there could be one with this nonce.
pub(crate) fn claimed_bytes(bytes: &[u8], nonce: u64) -> Option<usize> {
    let (header, _) = RawHeader::read_from_prefix(bytes).ok()?;
    let len =
        (u64::from(header.body_bytes.get()) + to_u64(HEADER_LEN)).next_multiple_of(RECORD_ALIGN);
    (header.nonce.get() == nonce && len <= RECORD_BYTES_MAX).then(|| to_usize(len))
}

/// Reads the record at the start of `bytes`; `None` when there is none of this target.
pub(crate) fn decode(bytes: &[u8], nonce: u64) -> Option<Found> {
    let len_bytes = claimed_bytes(bytes, nonce)?;
    let record = bytes.get(..len_bytes)?;
    let (header, rest) = RawHeader::read_from_prefix(record).ok()?;
    let good = crc32c(&record[4..]) == header.crc.get() || planted::is(Bug::SkipRecordSum);
    if !good || header.reserved != [0; 7] {
        return None;
    }
    let body = &rest[..to_usize(u64::from(header.body_bytes.get()))];
    let number = || body.try_into().ok().map(u64::from_le_bytes);
    let record = match header.kind {
        KIND_START => Record::Start { applied: number()? },
        KIND_MARK => Record::Mark { durable: number()? },
        KIND_WRITE => Record::Write(decode_placement(body)?),
        KIND_INTENT => Record::Intent(decode_placement(body)?),
        KIND_TRUNCATE => Record::Truncate(decode_truncate(body)?),
        KIND_PUNCH => Record::Punch(decode_punch(body)?),
        _ => return None,
    };
    let stamp =
        Stamp { nonce, generation: header.generation.get(), sequence: header.sequence.get() };
    Some(Found { stamp, record, len_bytes })
}

fn decode_placement(body: &[u8]) -> Option<Placement> {
    let (raw, rest) = RawPlacement::read_from_prefix(body).ok()?;
    if raw.run_count.get() > CHUNK_BLOCKS_MAX || raw.reserved.get() != 0 {
        return None;
    }
    let (runs, sums) = decode_runs(rest, raw.run_count.get())?;
    let chunk = ChunkId { ino: Ino(raw.ino.get()), index: ChunkIndex(raw.chunk_index.get()) };
    Some(Placement { chunk, runs, sums: sums.iter().map(|sum| sum.get()).collect() })
}

fn decode_truncate(body: &[u8]) -> Option<Truncate> {
    let raw = RawTruncate::read_from_bytes(body).ok()?;
    let flags = raw.flags.get();
    if flags == FLAG_TAIL || flags > (FLAG_CUT | FLAG_TAIL) || raw.reserved.get() != 0 {
        return None;
    }
    let keep_blocks = raw.cut_keep_blocks.get();
    if keep_blocks > CHUNK_BLOCKS_MAX || (flags & FLAG_TAIL != 0 && keep_blocks == 0) {
        return None;
    }
    let tail = (flags & FLAG_TAIL != 0)
        .then(|| Placed { device_block: raw.tail_device_block.get(), sum: raw.tail_sum.get() });
    let cut = (flags & FLAG_CUT != 0).then(|| Cut {
        index: ChunkIndex(raw.cut_index.get()),
        keep_blocks,
        tail,
    });
    Some(Truncate { ino: Ino(raw.ino.get()), remove_from: ChunkIndex(raw.remove_from.get()), cut })
}

fn decode_punch(body: &[u8]) -> Option<Punch> {
    let raw = RawPunch::read_from_bytes(body).ok()?;
    let (first, count) = (raw.first.get(), raw.count.get());
    let chunk = ChunkId { ino: Ino(raw.ino.get()), index: ChunkIndex(raw.chunk_index.get()) };
    let within = first.checked_add(count).is_some_and(|end| end <= CHUNK_BLOCKS_MAX);
    (within && count > 0).then_some(Punch { chunk, first, count })
}

#[cfg(test)]
impl Record {
    pub(crate) fn as_entry(&self) -> Entry<'_> {
        match self {
            Record::Start { applied } => Entry::Start { applied: *applied },
            Record::Mark { durable } => Entry::Mark { durable: *durable },
            Record::Write(placement) => Entry::Write(placement.as_places()),
            Record::Intent(placement) => Entry::Intent(placement.as_places()),
            Record::Truncate(truncate) => Entry::Truncate(*truncate),
            Record::Punch(punch) => Entry::Punch(*punch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { nonce: 0x1122, generation: 3, sequence: 99 };

    fn records() -> Vec<Record> {
        let chunk = ChunkId { ino: Ino(5), index: ChunkIndex(6) };
        let runs = vec![
            Run { first: 0, count: 2, device_block: 10 },
            Run { first: 7, count: 1, device_block: 3 },
        ];
        let placement = Placement { chunk, runs, sums: vec![1, 2, 3] };
        let cut = Cut { index: ChunkIndex(8), keep_blocks: 4, tail: None };
        let tail = Some(Placed { device_block: 77, sum: 5 });
        let truncate = Truncate { ino: Ino(5), remove_from: ChunkIndex(9), cut: None };
        vec![
            Record::Start { applied: 7 },
            Record::Mark { durable: 8 },
            Record::Write(placement.clone()),
            Record::Intent(placement),
            Record::Truncate(truncate),
            Record::Truncate(Truncate { cut: Some(cut), ..truncate }),
            Record::Truncate(Truncate { cut: Some(Cut { tail, ..cut }), ..truncate }),
            Record::Punch(Punch { chunk, first: 3, count: 7 }),
        ]
    }

    #[test]
    fn records_come_back() {
        for record in records() {
            let mut bytes = Vec::new();
            encode(STAMP, record.as_entry(), &mut bytes);
            assert!(bytes.len().is_multiple_of(8));
            let found = decode(&bytes, STAMP.nonce).unwrap();
            assert_eq!(found, Found { stamp: STAMP, record, len_bytes: bytes.len() });
            assert_eq!(decode(&bytes, 1), None, "another target's");
        }
    }

    #[test]
    fn any_flipped_bit_or_cut_is_no_record() {
        for record in records() {
            let mut bytes = Vec::new();
            encode(STAMP, record.as_entry(), &mut bytes);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode(&bytes, STAMP.nonce), None, "bit {bit} of {record:?}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            for len in 0..bytes.len() {
                assert_eq!(decode(&bytes[..len], STAMP.nonce), None);
            }
        }
    }
}
