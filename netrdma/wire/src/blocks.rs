//! 4 KiB blocks and their checksums.
//!
//! A write names its bytes by (offset in the chunk, length). The pieces of it that fall into one block each have
//! their own CRC32C: a piece that fills its block is stored with that very checksum, a partial one is checked on
//! receipt and merged into its block by the store.

use crate::units::{to_u32, to_usize};

/// Length of a block on a target and in a checksum, in bytes.
pub const BLOCK_BYTES: u32 = 4096;
/// [`BLOCK_BYTES`] for memory arithmetic.
pub const BLOCK_LEN: usize = BLOCK_BYTES as usize;

/// CRC32C (Castagnoli, reflected; check value of "123456789" is `0xE3069283`).
pub fn crc32c(bytes: &[u8]) -> u32 {
    let wide = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(wide).expect("a CRC32C has 32 bits")
}

/// The part of a byte range that falls into one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockPiece {
    /// Index of the block in the chunk.
    pub block: u32,
    /// Where in the block the piece begins, in bytes.
    pub start: u32,
    /// How long it is, in bytes; never 0.
    pub bytes: u32,
    /// Where in the range the piece begins, in bytes.
    pub at: u32,
}

impl BlockPiece {
    /// Whether the piece is the whole block.
    pub const fn is_full(&self) -> bool {
        self.bytes == BLOCK_BYTES
    }

    /// The piece's bytes within the range's bytes.
    pub fn of<'a>(&self, range: &'a [u8]) -> &'a [u8] {
        let at = to_usize(u64::from(self.at));
        &range[at..at + to_usize(u64::from(self.bytes))]
    }
}

/// Cuts `offset..offset + bytes` of a chunk at block borders.
pub fn pieces(offset: u32, bytes: u32) -> impl Iterator<Item = BlockPiece> {
    let end = offset.checked_add(bytes).expect("a chunk is at most 4 MiB");
    let mut next = offset;
    std::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        let start = next % BLOCK_BYTES;
        let piece_bytes = (BLOCK_BYTES - start).min(end - next);
        let piece =
            BlockPiece { block: next / BLOCK_BYTES, start, bytes: piece_bytes, at: next - offset };
        next += piece_bytes;
        Some(piece)
    })
}

/// How many blocks `offset..offset + bytes` touches.
pub const fn block_count(offset: u32, bytes: u32) -> u32 {
    if bytes == 0 {
        return 0;
    }
    (offset + bytes - 1) / BLOCK_BYTES - offset / BLOCK_BYTES + 1
}

/// The checksums of the pieces of `payload`, which lies at `offset` in its chunk.
pub fn checksums(offset: u32, payload: &[u8]) -> Vec<u32> {
    pieces(offset, to_u32(payload.len())).map(|piece| crc32c(piece.of(payload))).collect()
}

/// The first piece of `payload` whose checksum is not the one in `expected`, or `None` when all agree.
pub fn first_mismatch(offset: u32, payload: &[u8], expected: &[u32]) -> Option<BlockPiece> {
    pieces(offset, to_u32(payload.len()))
        .enumerate()
        .find(|(at, piece)| expected.get(*at) != Some(&crc32c(piece.of(payload))))
        .map(|(_, piece)| piece)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    proptest! {
        #[test]
        fn pieces_cover_the_range_once(offset in 0u32..1 << 22, bytes in 0u32..100_000) {
            let all: Vec<_> = pieces(offset, bytes).collect();
            prop_assert_eq!(all.len(), to_usize(u64::from(block_count(offset, bytes))));
            let mut next = offset;
            for piece in all {
                prop_assert_eq!(piece.block * BLOCK_BYTES + piece.start, next);
                prop_assert_eq!(piece.at, next - offset);
                prop_assert!(piece.bytes > 0 && piece.start + piece.bytes <= BLOCK_BYTES);
                next += piece.bytes;
            }
            prop_assert_eq!(next, offset + bytes);
        }

        #[test]
        fn a_flipped_bit_is_found(offset in 0u32..10_000, len in 1usize..20_000, at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut payload = vec![0x5au8; len];
            let sums = checksums(offset, &payload);
            prop_assert_eq!(first_mismatch(offset, &payload, &sums), None);
            let at = at.index(len);
            payload[at] ^= 1 << bit;
            let piece = first_mismatch(offset, &payload, &sums).expect("found");
            prop_assert!((piece.at..piece.at + piece.bytes).contains(&to_u32(at)));
        }
    }
}
