//! What becomes of a destination, against bytes in memory.

use proptest::prelude::*;
use weft_iobuf::Pool;
use weft_wire::{ChunkId, ChunkIndex, Ino};

use super::*;

const BLOCKS: usize = 12;

fn to(offset: u32, bytes: u32) -> ChunkRange {
    ChunkRange { chunk: ChunkId { ino: Ino(2), index: ChunkIndex(0) }, offset, bytes }
}

/// Bytes that tell the block and the place in it.
fn block(number: usize) -> Vec<u8> {
    (0..BLOCK_LEN).map(|at| u8::try_from((number * 31 + at * 7 + 1) % 251).unwrap()).collect()
}

/// What a store says of a source some blocks of which were written, in pieces of at most two blocks.
fn read(written: &[bool], pool: &Pool) -> (Vec<u32>, Vec<ReadPiece>) {
    let count = written.iter().rposition(|it| *it).map_or(0, |last| last + 1);
    let (mut sums, mut pieces): (Vec<u32>, Vec<ReadPiece>) = (Vec::new(), Vec::new());
    for (number, written) in written[..count].iter().enumerate() {
        let bytes = if *written { block(number) } else { vec![0; BLOCK_LEN] };
        sums.push(crc32c(&bytes));
        match (written, pieces.last_mut()) {
            (false, Some(ReadPiece::Zeros { bytes })) => *bytes += BLOCK_BYTES,
            (false, _) => pieces.push(ReadPiece::Zeros { bytes: BLOCK_BYTES }),
            (true, Some(ReadPiece::Data { slot, bytes })) if *bytes == BLOCK_BYTES => {
                slot.as_mut_slice()[BLOCK_LEN..2 * BLOCK_LEN].copy_from_slice(&block(number));
                *bytes += BLOCK_BYTES;
            }
            (true, _) => {
                let mut slot = pool.alloc(2 * BLOCK_LEN).unwrap();
                slot.as_mut_slice()[..BLOCK_LEN].copy_from_slice(&bytes);
                pieces.push(ReadPiece::Data { slot, bytes: BLOCK_BYTES });
            }
        }
    }
    (sums, pieces)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A destination of 0xee becomes the source's bytes, in stretches that touch no block twice; what was a hole in the
    /// source in whole blocks is punched, and nothing of a hole is written but beside data in one block.
    #[test]
    fn the_destination_is_as_the_source(
        written in prop::collection::vec(any::<bool>(), BLOCKS),
        skip in 0..BLOCK_BYTES,
        offset in 0..3 * BLOCK_BYTES,
        bytes in 1..8 * BLOCK_BYTES,
        aligned: bool,
        across: bool,
    ) {
        let pool = Pool::new(4 << 20, 1 << 20).unwrap();
        let (sums, pieces) = read(&written, &pool);
        let offset = if aligned { offset / BLOCK_BYTES * BLOCK_BYTES + skip } else { offset };
        let to = to(offset, bytes);
        let sent = CopiedBlocks::of(sums.clone(), &pieces);
        let view = if across { sent.view().unwrap() } else { View::of(&sums, &pieces) };
        let mut found = vec![Some(0xee); to_usize(u64::from(offset + bytes))];
        let mut next_block = offset / BLOCK_BYTES;
        for (how, range) in stretches(to, skip, &view) {
            prop_assert!(range.offset / BLOCK_BYTES >= next_block);
            next_block = (range.offset + range.bytes).div_ceil(BLOCK_BYTES);
            let (start, end) = (range.offset, range.offset + range.bytes);
            let places = to_usize(u64::from(start))..to_usize(u64::from(end));
            match how {
                How::Write => {
                    let mut slot = pool.alloc(to_usize(u64::from(range.block_count())) * BLOCK_LEN).unwrap();
                    let from = to_usize(u64::from(skip + start - offset));
                    let sums = fill(range, from, &view, &mut slot);
                    let within = to_usize(u64::from(start % BLOCK_BYTES));
                    let payload = &slot.as_slice()[within..within + places.len()];
                    prop_assert_eq!(sums, checksums(start, payload));
                    for (at, byte) in places.zip(payload) {
                        found[at] = Some(*byte);
                    }
                }
                How::Zero(ZeroHow::Punch) => {
                    prop_assert!(pieces_are_whole(&range));
                    found[places].fill(None);
                }
                How::Zero(_) => {
                    prop_assert!(range.bytes < 2 * BLOCK_BYTES);
                    found[places].fill(Some(0));
                }
            }
        }
        for (at, byte) in found.iter().enumerate().skip(to_usize(u64::from(offset))) {
            let from = at - to_usize(u64::from(offset)) + to_usize(u64::from(skip));
            let is_data = written.get(from / BLOCK_LEN).copied().unwrap_or(false);
            let right = if is_data { block(from / BLOCK_LEN)[from % BLOCK_LEN] } else { 0 };
            prop_assert_eq!(byte.unwrap_or(0), right, "byte {}", at);
            prop_assert!(byte.is_some() || !is_data);
        }
    }
}

#[test]
fn what_changed_on_its_way_between_shards_is_not_written() {
    let pool = Pool::new(4 << 20, 1 << 20).unwrap();
    let (sums, pieces) = read(&[true, false, true], &pool);
    let mut sent = CopiedBlocks::of(sums, &pieces);
    assert!(sent.view().is_some());
    sent.bytes[BLOCK_LEN + 5] ^= 1;
    assert!(sent.view().is_none());
}
