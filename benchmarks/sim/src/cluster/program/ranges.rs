//! What a program does with ranges of its files beside reading and writing them.

use weft_client_core::FsOp;
use weft_wire::units::{to_u64, to_usize};

use super::{Doing, FILE_BYTES_MAX, OPEN_MAX, Program};
use crate::random::Random;

impl Program {
    /// A hole is punched, a range made zeros, or space given out: for the program as if it wrote zeros, or nothing.
    pub(super) fn choose_zero(&mut self) -> Option<(FsOp, Doing)> {
        const KEEP_SIZE: u32 = 0x01;
        let (handle, node) = *self.open.get(self.extra.index(OPEN_MAX))?;
        let size = to_u64(self.file(node).now.len());
        let offset = self.extra.below(size + 1);
        let bytes = 1 + self.extra.below(FILE_BYTES_MAX - offset);
        let (mode, zeros) = match self.extra.below(3) {
            0 => (KEEP_SIZE, 0),
            1 => (KEEP_SIZE | 0x02, bytes.min(size - offset)),
            _ => (KEEP_SIZE | 0x10, bytes.min(size - offset)),
        };
        let ask = FsOp::Fallocate { handle, offset, bytes, mode };
        let (offset, bytes) = (to_usize(offset), vec![0; to_usize(zeros)]);
        Some((ask, Doing::Write { node, offset, bytes, source: None }))
    }

    /// Bytes of a file, whose content is sure, are copied to a file: for the program as if it wrote them.
    pub(super) fn choose_copy(&mut self) -> Option<(FsOp, Doing)> {
        let mut random = self.copies.take()?;
        let chosen = if random.chance(12) { self.some_copy(&mut random) } else { None };
        self.copies = Some(random);
        chosen
    }

    fn some_copy(&mut self, random: &mut Random) -> Option<(FsOp, Doing)> {
        let (handle, node) = *self.open.get(random.index(OPEN_MAX))?;
        let (source, from_node) = *self.open.get(random.index(OPEN_MAX))?;
        let found = self.file(from_node);
        let size = to_u64(found.now.len());
        if size == 0 || !found.is_sure(true) {
            return None;
        }
        let blocks = if random.chance(50) { 4096 } else { 1 };
        let from = random.below(size) / blocks * blocks;
        let to = random.below(FILE_BYTES_MAX) / blocks * blocks;
        let mut asked = 1 + random.below(FILE_BYTES_MAX - to);
        if node == from_node {
            asked = asked.min(from.abs_diff(to));
        }
        let end = size.min(from + asked);
        if end == from {
            return None;
        }
        let bytes = self.file(from_node).now[to_usize(from)..to_usize(end)].to_vec();
        let ask = FsOp::Copy { source, from, handle, to, bytes: asked, set_ids: true };
        let (offset, source) = (to_usize(to), Some(from_node));
        Some((ask, Doing::Write { node, offset, bytes, source }))
    }
}
