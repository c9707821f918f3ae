//! How a file is striped, and the arithmetic of it.
//!
//! A file is cut into chunks of one length; chunk `i` lies on target `i mod width` of the layout's list.

use crate::codec::{Reader, WireError, WireErrorKind, Writer};
use crate::ids::{ChunkIndex, TargetId};
use crate::limits::{
    CHUNK_LOG2_DEFAULT, CHUNK_LOG2_MAX, CHUNK_LOG2_MIN, INLINE_BYTES_MAX, STRIPE_WIDTH_MAX,
};
use crate::units::{to_u64, to_usize};

/// How one file is striped. Fixed when the file is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    chunk_log2: u8,
    targets: Vec<TargetId>,
}

/// What files made in a directory get. Inherited by directories made in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayoutPolicy {
    /// Chunk length as a power of two.
    pub chunk_log2: u8,
    /// Targets to stripe over; 0 means all there are (up to `STRIPE_WIDTH_MAX`).
    pub width: u8,
    /// Files of up to so many bytes are in the inode; 0: none.
    pub inline_bytes: u16,
}

/// What is meant where nothing is said of it.
const INLINE_BYTES_DEFAULT: u16 = 4096;
const _: () = assert!(INLINE_BYTES_DEFAULT as usize == INLINE_BYTES_MAX);

impl Default for LayoutPolicy {
    fn default() -> Self {
        LayoutPolicy {
            chunk_log2: CHUNK_LOG2_DEFAULT,
            width: 0,
            inline_bytes: INLINE_BYTES_DEFAULT,
        }
    }
}

impl LayoutPolicy {
    /// Whether all values are within the limits.
    pub fn is_valid(&self) -> bool {
        (CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).contains(&self.chunk_log2)
            && usize::from(self.width) <= STRIPE_WIDTH_MAX
            && usize::from(self.inline_bytes) <= INLINE_BYTES_MAX
    }

    /// Appends the policy, which ends whatever it is in: builds without data in inodes wrote and read two bytes, and what
    /// is as usual is not written.
    pub fn encode(&self, out: &mut Writer<'_>) {
        out.u8(self.chunk_log2).u8(self.width);
        if self.inline_bytes != INLINE_BYTES_DEFAULT {
            out.u16(self.inline_bytes);
        }
    }

    /// Reads a policy, up to the end.
    ///
    /// # Errors
    /// `Short`; `Value` when out of the limits.
    pub fn decode(from: &mut Reader<'_>) -> Result<LayoutPolicy, WireError> {
        let (chunk_log2, width) = (from.u8()?, from.u8()?);
        let inline_bytes = match from.clone().end() {
            Ok(()) => INLINE_BYTES_DEFAULT,
            Err(_) => from.u16()?,
        };
        let policy = LayoutPolicy { chunk_log2, width, inline_bytes };
        if policy.is_valid() { Ok(policy) } else { Err(from.error(WireErrorKind::Value)) }
    }
}

/// The part of a file's byte range that lies in one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkPiece {
    /// The target that has the chunk.
    pub target: TargetId,
    /// The chunk.
    pub index: ChunkIndex,
    /// Where in the chunk the piece begins, in bytes.
    pub offset: u32,
    /// Its length in bytes; never 0.
    pub bytes: u32,
    /// Where in the whole range the piece begins, in bytes.
    pub at: u64,
}

impl Layout {
    /// A layout over `targets` in this order.
    ///
    /// # Errors
    /// `Value` when the chunk length is out of its limits or there are no targets; `TooLong` for too many.
    pub fn new(chunk_log2: u8, targets: Vec<TargetId>) -> Result<Layout, WireError> {
        if !(CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).contains(&chunk_log2) || targets.is_empty() {
            return Err(WireError::new(WireErrorKind::Value, "layout"));
        }
        if targets.len() > STRIPE_WIDTH_MAX {
            return Err(WireError::new(WireErrorKind::TooLong, "layout"));
        }
        Ok(Layout { chunk_log2, targets })
    }

    /// Bytes of a chunk.
    pub fn chunk_bytes(&self) -> u32 {
        1 << self.chunk_log2
    }

    /// Chunk length as a power of two.
    pub fn chunk_log2(&self) -> u8 {
        self.chunk_log2
    }

    /// The targets, in stripe order.
    pub fn targets(&self) -> &[TargetId] {
        &self.targets
    }

    /// The target that has chunk `index`.
    pub fn target(&self, index: ChunkIndex) -> TargetId {
        self.targets[to_usize(index.0 % to_u64(self.targets.len()))]
    }

    /// The chunk that holds the byte at `offset`.
    pub fn chunk_at(&self, offset: u64) -> ChunkIndex {
        ChunkIndex(offset >> self.chunk_log2)
    }

    /// Cuts `offset..offset + bytes` of the file at chunk borders, in ascending order.
    ///
    /// # Panics
    /// If the range ends beyond `u64::MAX`; callers check against `FILE_BYTES_MAX` first.
    pub fn pieces(&self, offset: u64, bytes: u64) -> impl Iterator<Item = ChunkPiece> + '_ {
        let end = offset.checked_add(bytes).expect("within FILE_BYTES_MAX");
        let mut next = offset;
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let index = self.chunk_at(next);
            let within = next & u64::from(self.chunk_bytes() - 1);
            let bytes = (u64::from(self.chunk_bytes()) - within).min(end - next);
            let piece = ChunkPiece {
                target: self.target(index),
                index,
                offset: u32::try_from(within).expect("below the chunk length"),
                bytes: u32::try_from(bytes).expect("at most the chunk length"),
                at: next - offset,
            };
            next += bytes;
            Some(piece)
        })
    }

    /// Appends the layout.
    pub fn encode(&self, out: &mut Writer<'_>) {
        out.u8(self.chunk_log2).u8(u8::try_from(self.targets.len()).expect("at most 64"));
        for target in &self.targets {
            out.u16(target.0);
        }
    }

    /// Reads a layout.
    ///
    /// # Errors
    /// `Short`; `Value` or `TooLong` as in [`Layout::new`].
    pub fn decode(from: &mut Reader<'_>) -> Result<Layout, WireError> {
        let chunk_log2 = from.u8()?;
        let width = usize::from(from.u8()?);
        if width > STRIPE_WIDTH_MAX {
            return Err(from.error(WireErrorKind::TooLong));
        }
        let targets =
            (0..width).map(|_| from.u16().map(TargetId)).collect::<Result<Vec<_>, _>>()?;
        Layout::new(chunk_log2, targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_cover_the_range_in_order(
            log2 in CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX, width in 1u16..9,
            offset in 0u64..1 << 50, bytes in 0u64..20_000_000,
        ) {
            let layout = Layout::new(log2, (0..width).map(TargetId).collect()).expect("valid");
            let mut next = offset;
            for piece in layout.pieces(offset, bytes) {
                prop_assert_eq!((piece.index.0 << log2) + u64::from(piece.offset), next);
                prop_assert_eq!(piece.at, next - offset);
                prop_assert!(piece.bytes > 0 && piece.offset + piece.bytes <= layout.chunk_bytes());
                prop_assert_eq!(u64::from(piece.target.0), piece.index.0 % u64::from(width));
                next += u64::from(piece.bytes);
            }
            prop_assert_eq!(next, offset + bytes);
        }

        #[test]
        fn layouts_survive_the_wire(log2 in CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX, targets in prop::collection::vec(any::<u16>(), 1..=STRIPE_WIDTH_MAX)) {
            let layout = Layout::new(log2, targets.into_iter().map(TargetId).collect()).expect("valid");
            let mut body = Vec::new();
            layout.encode(&mut Writer::new(&mut body));
            let mut reader = Reader::new(&body, "layout");
            prop_assert_eq!(Layout::decode(&mut reader), Ok(layout));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }
}
