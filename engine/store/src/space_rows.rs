//! The map of used blocks as rows of the index, so that open need not read every chunk record.
//!
//! A row is for 32 MiB of the data area. A checkpoint writes the rows in which blocks came into or
//! left chunk records since the one before, in the same transaction as those records; a head row
//! carries the checkpoint's `applied`, so that rows which were not kept up are never believed.
//! What the rows say is what the records say, not what the bitmap in memory says: that has blocks
//! as used that a write under way holds, that wait for a flush or that are being discarded.

use std::collections::BTreeSet;

use weft_wire::units::{to_u64, to_usize};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::space::{Extent, GROUP_BLOCKS};

/// Blocks of a row.
pub(crate) const ROW_BLOCKS: u64 = 8 * GROUP_BLOCKS;
pub(crate) const ROW_WORDS: usize = 128;
const _: () = assert!(ROW_BLOCKS == 64 * ROW_WORDS as u64);

/// What a changed row may take of the index's file, at most.
pub(crate) const ROW_DIRTY_BYTES: u64 = 2048;

/// The blocks of a row, a set bit is a used one.
pub(crate) type Row = [u64; ROW_WORDS];

const HEAD_MAGIC: [u8; 8] = *b"WEFTSPC1";
/// Value of a row with no free block.
const ALL_USED: [u8; 1] = [1];

/// What belongs to all rows together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SpaceHead {
    /// As in the meta row, when the rows belong to it.
    pub(crate) applied: u64,
    pub(crate) block_count: u64,
    pub(crate) used_count: u64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawSpaceHead {
    pub(crate) magic: [u8; 8],
    pub(crate) applied: U64,
    pub(crate) block_count: U64,
    pub(crate) used_count: U64,
}

impl SpaceHead {
    pub(crate) fn raw(&self) -> RawSpaceHead {
        RawSpaceHead {
            magic: HEAD_MAGIC,
            applied: self.applied.into(),
            block_count: self.block_count.into(),
            used_count: self.used_count.into(),
        }
    }

    pub(crate) fn decode(value: &[u8]) -> Option<SpaceHead> {
        let raw = RawSpaceHead::read_from_bytes(value).ok()?;
        (raw.magic == HEAD_MAGIC).then(|| SpaceHead {
            applied: raw.applied.get(),
            block_count: raw.block_count.get(),
            used_count: raw.used_count.get(),
        })
    }
}

/// A row's value; `None` for a row that is not there, since all its blocks are free.
pub(crate) fn encode_row(row: &Row) -> Option<Vec<u8>> {
    if row.iter().all(|word| *word == 0) {
        return None;
    }
    if row.iter().all(|word| *word == u64::MAX) {
        return Some(ALL_USED.to_vec());
    }
    Some(row.iter().flat_map(|word| word.to_le_bytes()).collect())
}

/// Reads a row's value; `None` when it is none.
pub(crate) fn decode_row(value: &[u8]) -> Option<Row> {
    if value == ALL_USED {
        return Some([u64::MAX; ROW_WORDS]);
    }
    let words = <[U64; ROW_WORDS]>::read_from_bytes(value).ok()?;
    Some(words.map(U64::get))
}

/// Marks blocks in a row as free, as far as they lie in it.
pub(crate) fn clear(row: &mut Row, number: u64, extent: Extent) {
    let first = extent.start.max(number * ROW_BLOCKS);
    let end = extent.end().min((number + 1) * ROW_BLOCKS);
    for block in first..end {
        let at = block % ROW_BLOCKS;
        row[to_usize(at / 64)] &= !(1 << (at % 64));
    }
}

/// Rows that differ from what the index has.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    rows: BTreeSet<u64>,
}

impl Touched {
    /// All rows of a data area.
    pub(crate) fn all(block_count: u64) -> Touched {
        Touched { rows: (0..block_count.div_ceil(ROW_BLOCKS)).collect() }
    }

    pub(crate) fn note(&mut self, extent: Extent) {
        if extent.count > 0 {
            self.rows.extend(extent.start / ROW_BLOCKS..=(extent.end() - 1) / ROW_BLOCKS);
        }
    }

    pub(crate) fn len(&self) -> u64 {
        to_u64(self.rows.len())
    }

    pub(crate) fn take(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back() {
        let mut row = [0; ROW_WORDS];
        assert_eq!(encode_row(&row), None);
        row[3] = 0x8000_0000_0000_0001;
        let value = encode_row(&row).unwrap();
        assert_eq!((value.len(), decode_row(&value)), (1024, Some(row)));
        let mut full = [u64::MAX; ROW_WORDS];
        assert_eq!(encode_row(&full).unwrap(), ALL_USED);
        assert_eq!(decode_row(&ALL_USED), Some(full));
        clear(&mut full, 2, Extent { start: 2 * ROW_BLOCKS - 5, count: 6 });
        clear(&mut full, 2, Extent { start: 3 * ROW_BLOCKS - 1, count: 9 });
        assert_eq!((full[0], full[127]), (u64::MAX - 1, u64::MAX >> 1));
        for bad in [&[][..], &[0], &[2], &[0; 1023]] {
            assert_eq!(decode_row(bad), None);
        }
        let head = SpaceHead { applied: 7, block_count: 8, used_count: 9 };
        assert_eq!(SpaceHead::decode(head.raw().as_bytes()), Some(head));
        assert_eq!(SpaceHead::decode(&[0; 32]), None);
    }

    #[test]
    fn touched_rows_are_those_an_extent_lies_in() {
        let mut touched = Touched::default();
        touched.note(Extent { start: ROW_BLOCKS - 1, count: 2 });
        touched.note(Extent { start: 5 * ROW_BLOCKS, count: 1 });
        touched.note(Extent { start: 9 * ROW_BLOCKS, count: 0 });
        assert_eq!(touched.take().into_iter().collect::<Vec<_>>(), [0, 1, 5]);
        assert_eq!(Touched::all(ROW_BLOCKS + 1).take().len(), 2);
    }
}
