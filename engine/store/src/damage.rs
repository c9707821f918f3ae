//! Which blocks are known to be damaged, and how far a scrub is: what is kept across restarts.
//!
//! A block enters the list when a read or the scrub finds it damaged, and leaves it when it is
//! written again, removed, or found good. The list is bounded; beyond it blocks are only counted
//! (and stay damaged: a read compares checksums, not this list). The bytes are one row of the
//! index's table `meta` (`doc/format.md`).

use std::collections::BTreeMap;

use weft_wire::scrub::{Damage, DamageKind};
use weft_wire::units::{to_u32, to_u64, to_usize};
use weft_wire::{ChunkId, ChunkIndex, Ino};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits::{CHUNK_BLOCKS_MAX, DAMAGES_MAX};
use crate::record::{Places, Punch, Truncate};

/// How far the scrub is and what it found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubStatus {
    /// A pass is under way.
    pub running: bool,
    /// How fast it may read.
    pub bytes_per_second: u64,
    /// When the pass began, in seconds of the time of day; 0 for never.
    pub started_s: u64,
    /// When the last whole pass ended; 0 for never.
    pub finished_s: u64,
    /// Bytes of written blocks looked at in this pass.
    pub checked_bytes: u64,
    /// Bytes that were written when it began.
    pub total_bytes: u64,
    /// Chunks looked at in this pass.
    pub checked_chunks: u64,
    /// The last chunk that is done.
    pub position: Option<ChunkId>,
    /// Damaged blocks met in this pass.
    pub found_blocks: u64,
    /// Places of the index that could not be read in this pass.
    pub index_gaps: u32,
    /// Superblock copies found damaged in this pass.
    pub superblocks_bad: u32,
    /// Those of them that were written again.
    pub superblocks_repaired: u32,
    /// Damaged blocks known now.
    pub listed_blocks: u64,
    /// Damaged blocks met in this pass for which the list has no room.
    pub unlisted_blocks: u64,
}

/// The list.
#[derive(Debug, Default)]
pub(crate) struct Damages {
    blocks: BTreeMap<(ChunkId, u32), DamageKind>,
    /// Chunks behind which the index has a gap.
    gaps: Vec<ChunkId>,
    /// It differs from what the index has.
    pub(crate) unsaved: bool,
}

impl Damages {
    /// Notes a block; `false` when there is no room.
    pub(crate) fn add(&mut self, chunk: ChunkId, block: u32, kind: DamageKind) -> bool {
        let key = (chunk, block);
        if self.blocks.len() >= DAMAGES_MAX && !self.blocks.contains_key(&key) {
            return false;
        }
        self.unsaved |= self.blocks.insert(key, kind) != Some(kind);
        true
    }

    /// The index cannot be read behind `chunk`.
    pub(crate) fn add_gap(&mut self, chunk: ChunkId) {
        if self.gaps.len() < DAMAGES_MAX && !self.gaps.contains(&chunk) {
            self.gaps.push(chunk);
            self.unsaved = true;
        }
    }

    /// A new pass looks at the index from its start.
    pub(crate) fn clear_gaps(&mut self) {
        self.unsaved |= !self.gaps.is_empty();
        self.gaps.clear();
    }

    /// The block is good.
    pub(crate) fn remove(&mut self, chunk: ChunkId, block: u32) {
        if !self.blocks.is_empty() {
            self.unsaved |= self.blocks.remove(&(chunk, block)).is_some();
        }
    }

    /// Blocks were written.
    pub(crate) fn written(&mut self, places: Places<'_>) {
        if self.blocks.is_empty() {
            return;
        }
        for (block, _) in places.blocks() {
            self.remove(places.chunk, block);
        }
    }

    /// Blocks are gone.
    pub(crate) fn punched(&mut self, punch: &Punch) {
        if !self.blocks.is_empty() {
            punch.blocks().for_each(|block| self.remove(punch.chunk, block));
        }
    }

    /// Chunks are gone or shorter.
    pub(crate) fn truncated(&mut self, truncate: &Truncate) {
        if self.blocks.is_empty() {
            return;
        }
        let before = self.blocks.len();
        self.blocks.retain(|(chunk, block), _| {
            let removed = chunk.ino == truncate.ino && chunk.index >= truncate.remove_from;
            let cut = truncate.cut.is_some_and(|cut| {
                let kept = cut.keep_blocks - u32::from(cut.tail.is_some());
                (chunk.ino, chunk.index) == (truncate.ino, cut.index) && *block >= kept
            });
            !removed && !cut
        });
        self.unsaved |= before != self.blocks.len();
    }

    /// Forgets blocks of which `is_written` says no.
    pub(crate) fn keep(&mut self, mut is_written: impl FnMut(ChunkId, u32) -> bool) {
        let before = self.blocks.len();
        self.blocks.retain(|(chunk, block), _| is_written(*chunk, *block));
        self.unsaved |= before != self.blocks.len();
    }

    pub(crate) fn block_count(&self) -> u64 {
        to_u64(self.blocks.len())
    }

    /// The damage from a chunk's block on, ascending; gaps come first, and only when `from` is
    /// `None`.
    pub(crate) fn list(&self, from: Option<(ChunkId, u32)>) -> Vec<Damage> {
        let gap =
            |chunk: &ChunkId| Damage { chunk: *chunk, first: 0, count: 0, kind: DamageKind::Index };
        let gaps = self.gaps.iter().filter(|_| from.is_none());
        let mut list: Vec<Damage> = gaps.map(gap).collect();
        let first = from.unwrap_or((ChunkId { ino: Ino(0), index: ChunkIndex(0) }, 0));
        for ((chunk, block), kind) in self.blocks.range(first..) {
            match list.last_mut() {
                Some(last)
                    if (last.chunk, last.kind) == (*chunk, *kind)
                        && last.first + last.count == *block =>
                {
                    last.count += 1;
                }
                _ => {
                    list.push(Damage { chunk: *chunk, first: *block, count: 1, kind: *kind });
                }
            }
        }
        list
    }
}

pub(crate) const SCRUB_MAGIC: [u8; 8] = *b"WEFTSCR1";
const FLAG_RUNNING: u32 = 1;
const FLAG_POSITION: u32 = 2;

/// Head of the row; [`RawDamage`] entries follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawScrub {
    pub(crate) magic: [u8; 8],
    pub(crate) flags: U32,
    pub(crate) damage_count: U32,
    pub(crate) bytes_per_second: U64,
    pub(crate) started_s: U64,
    pub(crate) finished_s: U64,
    pub(crate) checked_bytes: U64,
    pub(crate) total_bytes: U64,
    pub(crate) checked_chunks: U64,
    pub(crate) position_ino: U64,
    pub(crate) position_chunk: U64,
    pub(crate) found_blocks: U64,
    pub(crate) unlisted_blocks: U64,
    pub(crate) index_gaps: U32,
    pub(crate) superblocks_bad: U32,
    pub(crate) superblocks_repaired: U32,
    pub(crate) reserved: U32,
}

/// One [`Damage`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawDamage {
    pub(crate) ino: U64,
    pub(crate) chunk_index: U64,
    pub(crate) first: U32,
    pub(crate) count: U32,
    pub(crate) kind: U32,
    pub(crate) reserved: U32,
}

pub(crate) const RAW_SCRUB_LEN: usize = size_of::<RawScrub>();
const _: () = assert!(RAW_SCRUB_LEN == 112 && size_of::<RawDamage>() == 32);

/// The row.
pub(crate) fn encode(status: &ScrubStatus, damages: &Damages) -> Vec<u8> {
    let list = damages.list(None);
    let position = status.position.unwrap_or(ChunkId { ino: Ino(0), index: ChunkIndex(0) });
    let flags = if status.running { FLAG_RUNNING } else { 0 }
        | if status.position.is_some() { FLAG_POSITION } else { 0 };
    let head = RawScrub {
        magic: SCRUB_MAGIC,
        flags: flags.into(),
        damage_count: to_u32(list.len()).into(),
        bytes_per_second: status.bytes_per_second.into(),
        started_s: status.started_s.into(),
        finished_s: status.finished_s.into(),
        checked_bytes: status.checked_bytes.into(),
        total_bytes: status.total_bytes.into(),
        checked_chunks: status.checked_chunks.into(),
        position_ino: position.ino.0.into(),
        position_chunk: position.index.0.into(),
        found_blocks: status.found_blocks.into(),
        unlisted_blocks: status.unlisted_blocks.into(),
        index_gaps: status.index_gaps.into(),
        superblocks_bad: status.superblocks_bad.into(),
        superblocks_repaired: status.superblocks_repaired.into(),
        reserved: U32::ZERO,
    };
    let mut out = head.as_bytes().to_vec();
    for damage in &list {
        let raw = RawDamage {
            ino: damage.chunk.ino.0.into(),
            chunk_index: damage.chunk.index.0.into(),
            first: damage.first.into(),
            count: damage.count.into(),
            kind: (damage.kind as u32 + 1).into(),
            reserved: U32::ZERO,
        };
        out.extend_from_slice(raw.as_bytes());
    }
    out
}

/// Reads the row; `None` when it is none.
pub(crate) fn decode(row: &[u8]) -> Option<(ScrubStatus, Damages)> {
    let (head, rest) = RawScrub::read_from_prefix(row).ok()?;
    let raw = <[RawDamage]>::ref_from_bytes(rest).ok()?;
    let flags = head.flags.get();
    if head.magic != SCRUB_MAGIC
        || head.reserved.get() != 0
        || flags & !(FLAG_RUNNING | FLAG_POSITION) != 0
        || raw.len() != to_usize(u64::from(head.damage_count.get()))
    {
        return None;
    }
    let mut damages = Damages::default();
    raw.iter().try_for_each(|raw| damages.take(raw))?;
    damages.unsaved = false;
    let position =
        ChunkId { ino: Ino(head.position_ino.get()), index: ChunkIndex(head.position_chunk.get()) };
    let status = ScrubStatus {
        running: flags & FLAG_RUNNING != 0,
        bytes_per_second: head.bytes_per_second.get(),
        started_s: head.started_s.get(),
        finished_s: head.finished_s.get(),
        checked_bytes: head.checked_bytes.get(),
        total_bytes: head.total_bytes.get(),
        checked_chunks: head.checked_chunks.get(),
        position: (flags & FLAG_POSITION != 0).then_some(position),
        found_blocks: head.found_blocks.get(),
        index_gaps: head.index_gaps.get(),
        superblocks_bad: head.superblocks_bad.get(),
        superblocks_repaired: head.superblocks_repaired.get(),
        listed_blocks: damages.block_count(),
        unlisted_blocks: head.unlisted_blocks.get(),
    };
    Some((status, damages))
}

impl Damages {
    fn take(&mut self, raw: &RawDamage) -> Option<()> {
        let chunk = ChunkId { ino: Ino(raw.ino.get()), index: ChunkIndex(raw.chunk_index.get()) };
        let kind = match raw.kind.get() {
            1 => DamageKind::Mismatch,
            2 => DamageKind::Unreadable,
            3 => DamageKind::Index,
            _ => return None,
        };
        if kind == DamageKind::Index {
            self.add_gap(chunk);
            return Some(());
        }
        let end = raw.first.get().checked_add(raw.count.get())?;
        if end > CHUNK_BLOCKS_MAX || raw.reserved.get() != 0 {
            return None;
        }
        (raw.first.get()..end).all(|block| self.add(chunk, block, kind)).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Placed, Run};
    use crate::record::Cut;

    fn chunk(ino: u64, index: u64) -> ChunkId {
        ChunkId { ino: Ino(ino), index: ChunkIndex(index) }
    }

    fn some() -> Damages {
        let mut damages = Damages::default();
        for block in [3, 4, 5, 9] {
            assert!(damages.add(chunk(1, 0), block, DamageKind::Mismatch));
        }
        damages.add(chunk(1, 0), 10, DamageKind::Unreadable);
        damages.add(chunk(2, 7), 0, DamageKind::Mismatch);
        damages.add_gap(chunk(1, 6));
        damages
    }

    #[test]
    fn blocks_come_as_runs_and_the_row_comes_back() {
        let damages = some();
        let runs: Vec<_> = damages.list(None).iter().map(|d| (d.first, d.count)).collect();
        assert_eq!(runs, [(0, 0), (3, 3), (9, 1), (10, 1), (0, 1)]);
        assert_eq!(damages.list(Some((chunk(1, 0), 4)))[0].first, 4);
        let status = ScrubStatus {
            running: true,
            position: Some(chunk(8, 9)),
            checked_bytes: 5,
            listed_blocks: 6,
            ..ScrubStatus::default()
        };
        let row = encode(&status, &damages);
        let (again, list) = decode(&row).unwrap();
        assert_eq!((again, list.list(None)), (status, damages.list(None)));
        assert!(decode(&row[..row.len() - 1]).is_none());
        assert!(decode(&[]).is_none());
    }

    #[test]
    fn what_is_written_or_removed_leaves_the_list() {
        let mut damages = some();
        let runs = vec![Run { first: 4, count: 1, device_block: 1 }];
        damages.written(Places { chunk: chunk(1, 0), runs: &runs, sums: &[0] });
        assert_eq!(damages.block_count(), 5);
        let tail = Some(Placed { device_block: 1, sum: 0 });
        let cut = Some(Cut { index: ChunkIndex(0), keep_blocks: 10, tail });
        damages.truncated(&Truncate { ino: Ino(1), remove_from: ChunkIndex(1), cut });
        assert_eq!(damages.block_count(), 3, "the tail has new bytes, what follows is gone");
        damages.truncated(&Truncate { ino: Ino(2), remove_from: ChunkIndex(0), cut: None });
        assert_eq!(damages.block_count(), 2);
    }

    #[test]
    fn the_list_is_bounded() {
        let mut damages = Damages::default();
        let fits = (0..2 * to_u32(DAMAGES_MAX))
            .filter(|at| damages.add(chunk(u64::from(at / 64), 0), at % 64, DamageKind::Mismatch));
        assert_eq!(fits.count(), DAMAGES_MAX);
    }
}
