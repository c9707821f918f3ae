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

/// Calls `each` with every piece of `payload`, which lies at `offset` in its chunk, and its checksum.
///
/// Whole blocks go three at a time where the processor's CRC instruction is the fastest there is: it takes three
/// cycles and a new one can begin in each, so three blocks take as long as one; and three pages come from memory at
/// once. Measured on Zen 5 without AVX-512, GB/s: 26 instead of 14 from cache, 13 instead of 6.5 from memory.
pub fn each_checksum(offset: u32, payload: &[u8], mut each: impl FnMut(BlockPiece, u32)) {
    let mut pieces = pieces(offset, to_u32(payload.len()));
    while let Some(piece) = pieces.next() {
        let rest = &payload[to_usize(u64::from(piece.at))..];
        match rest.first_chunk::<{ 3 * BLOCK_LEN }>().filter(|_| piece.is_full()).and_then(three) {
            Some([first, second, third]) => {
                each(piece, first);
                for sum in [second, third] {
                    each(pieces.next().expect("three whole blocks are there"), sum);
                }
            }
            None => each(piece, crc32c(piece.of(payload))),
        }
    }
}

/// The checksums of three blocks at once; `None` where one after the other is faster.
#[cfg(target_arch = "x86_64")]
fn three(blocks: &[u8; 3 * BLOCK_LEN]) -> Option<[u32; 3]> {
    let wide = is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("vpclmulqdq");
    if wide || !is_x86_feature_detected!("sse4.2") {
        return None;
    }
    #[allow(
        unsafe_code,
        reason = "the compiler cannot know that the processor has the instruction"
    )]
    // SAFETY: alive, until, alone - plain references; the processor was just asked for SSE4.2.
    Some(unsafe { three_sse42(blocks) })
}

#[cfg(not(target_arch = "x86_64"))]
fn three(_: &[u8; 3 * BLOCK_LEN]) -> Option<[u32; 3]> {
    None
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn three_sse42(blocks: &[u8; 3 * BLOCK_LEN]) -> [u32; 3] {
    use std::arch::x86_64::_mm_crc32_u64;
    let (words, _) = blocks.as_chunks::<8>();
    let (a, rest) = words.split_at(BLOCK_LEN / 8);
    let (b, c) = rest.split_at(BLOCK_LEN / 8);
    let mut sums = [u64::from(u32::MAX); 3];
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        sums[0] = _mm_crc32_u64(sums[0], u64::from_le_bytes(*a));
        sums[1] = _mm_crc32_u64(sums[1], u64::from_le_bytes(*b));
        sums[2] = _mm_crc32_u64(sums[2], u64::from_le_bytes(*c));
    }
    sums.map(|sum| !u32::try_from(sum).expect("a CRC32C has 32 bits"))
}

/// The checksums of the pieces of `payload`, which lies at `offset` in its chunk.
pub fn checksums(offset: u32, payload: &[u8]) -> Vec<u32> {
    let mut sums =
        Vec::with_capacity(to_usize(u64::from(block_count(offset, to_u32(payload.len())))));
    each_checksum(offset, payload, |_, sum| sums.push(sum));
    sums
}

/// The first piece of `payload` whose checksum is not the one in `expected`, or `None` when all agree.
pub fn first_mismatch(offset: u32, payload: &[u8], expected: &[u32]) -> Option<BlockPiece> {
    let mut expected = expected.iter();
    let mut first = None;
    each_checksum(offset, payload, |piece, sum| {
        if expected.next() != Some(&sum) && first.is_none() {
            first = Some(piece);
        }
    });
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn three_at_once_are_what_each_is_alone() {
        let bytes: Vec<u8> =
            (0..3 * BLOCK_LEN).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
        let blocks: &[u8; 3 * BLOCK_LEN] = bytes.as_slice().try_into().unwrap();
        let alone: Vec<u32> = bytes.chunks(BLOCK_LEN).map(crc32c).collect();
        if let Some(sums) = three(blocks) {
            assert_eq!(sums.as_slice(), alone);
        }
        assert_eq!(checksums(0, &bytes), alone);
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
