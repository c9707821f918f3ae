//! The oracle: what every block may hold, from the operations answered and not answered.

use std::collections::BTreeMap;

use weft_wire::blocks::pieces;
use weft_wire::{ChunkId, ChunkIndex, Ino};

pub(crate) const BLOCK: usize = 4096;
/// Blocks of a chunk in these tests.
pub(crate) const CHUNK_BLOCKS: u32 = 64;

pub(crate) type Content = Vec<u8>;

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write { chunk: ChunkId, offset: u32, bytes: Vec<u8> },
    Truncate { ino: Ino, from: u64, cut: Option<(u64, u32)> },
}

#[derive(Clone, Debug)]
struct Version {
    /// `None`: never written.
    content: Option<Content>,
    stamp: u64,
    /// A crash before the next sync may damage the block: it went to a new place for the first
    /// time, or was overwritten where it was.
    risky: bool,
}

#[derive(Default)]
pub(crate) struct Model {
    /// Versions since the last sync; the first one is durable.
    blocks: BTreeMap<(ChunkId, u32), Vec<Version>>,
    clock: u64,
}

/// What a change makes of a block; `None` if it does not touch it.
fn effect(
    change: &Change,
    id: ChunkId,
    block: u32,
    now: Option<&Content>,
) -> Option<(Option<Content>, bool)> {
    match change {
        Change::Write { chunk, offset, bytes } => {
            if *chunk != id {
                return None;
            }
            let count = u32::try_from(bytes.len()).unwrap();
            let piece = pieces(*offset, count).find(|piece| piece.block == block)?;
            let mut content = now.cloned().unwrap_or_else(|| vec![0; BLOCK]);
            let start = usize::try_from(piece.start).unwrap();
            let part = piece.of(bytes);
            content[start..start + part.len()].copy_from_slice(part);
            Some((Some(content), now.is_none() || piece.is_full()))
        }
        Change::Truncate { ino, from, cut } => {
            if id.ino != *ino {
                return None;
            }
            if id.index.0 >= *from {
                return Some((None, false));
            }
            let (index, bytes) = (*cut)?;
            let start = block * 4096;
            if index != id.index.0 || bytes >= start + 4096 {
                return None;
            }
            if bytes <= start {
                return Some((None, false));
            }
            let mut content = now.cloned();
            if let Some(content) = content.as_mut() {
                content[usize::try_from(bytes - start).unwrap()..].fill(0);
            }
            Some((content, false))
        }
    }
}

impl Model {
    /// Every block any operation may have touched.
    fn keys(&self, change: &Change) -> Vec<(ChunkId, u32)> {
        match change {
            Change::Write { chunk, offset, bytes } => {
                let count = u32::try_from(bytes.len()).unwrap();
                pieces(*offset, count).map(|piece| (*chunk, piece.block)).collect()
            }
            Change::Truncate { ino, .. } => {
                let first = ChunkId { ino: *ino, index: ChunkIndex(0) };
                let last = ChunkId { ino: *ino, index: ChunkIndex(u64::MAX) };
                self.blocks.range((first, 0)..=(last, u32::MAX)).map(|(key, _)| *key).collect()
            }
        }
    }

    pub(crate) fn now(&self, id: ChunkId, block: u32) -> Option<&Content> {
        self.blocks.get(&(id, block))?.last()?.content.as_ref()
    }

    /// The change was answered.
    pub(crate) fn apply(&mut self, change: &Change) {
        self.clock += 1;
        for key in self.keys(change) {
            let now = self.now(key.0, key.1);
            let Some((content, risky)) = effect(change, key.0, key.1, now) else { continue };
            let first = Version { content: None, stamp: 0, risky: false };
            let versions = self.blocks.entry(key).or_insert_with(|| vec![first]);
            versions.push(Version { content, stamp: self.clock, risky });
        }
    }

    pub(crate) fn clock(&self) -> u64 {
        self.clock
    }

    /// A sync that began at `clock` was answered.
    pub(crate) fn synced(&mut self, clock: u64) {
        for versions in self.blocks.values_mut() {
            let keep = versions.iter().rposition(|version| version.stamp <= clock).unwrap_or(0);
            versions.drain(..keep);
            versions[0].risky = false;
        }
    }

    /// Bytes of a range as they are.
    pub(crate) fn bytes(&self, id: ChunkId, first: u32, count: u32) -> Vec<u8> {
        let zero = vec![0; BLOCK];
        (first..first + count).flat_map(|b| self.now(id, b).unwrap_or(&zero).clone()).collect()
    }

    /// What the block may hold after the process died (`None` in it: zeros).
    pub(crate) fn after_kill(
        &self,
        id: ChunkId,
        block: u32,
        pending: &[Change],
    ) -> Vec<Option<Content>> {
        let now = self.now(id, block);
        let mut may = vec![now.cloned()];
        may.extend(pending.iter().filter_map(|change| effect(change, id, block, now)).map(|e| e.0));
        may
    }

    /// What the block may hold after a power loss, and whether it may be damaged.
    pub(crate) fn after_power_loss(
        &self,
        id: ChunkId,
        block: u32,
        pending: &[Change],
    ) -> (Vec<Option<Content>>, bool) {
        let mut may = self.after_kill(id, block, pending);
        let now = self.now(id, block);
        let mut damage = pending.iter().filter_map(|c| effect(c, id, block, now)).any(|e| e.1);
        if let Some(versions) = self.blocks.get(&(id, block)) {
            may.extend(versions.iter().map(|version| version.content.clone()));
            damage |= versions.iter().skip(1).any(|version| version.risky);
        }
        (may, damage)
    }

    /// After a crash: what is there now is the truth, and durable (open flushes).
    pub(crate) fn settle(&mut self, id: ChunkId, block: u32, content: Option<Content>) {
        let version = Version { content, stamp: 0, risky: false };
        self.blocks.insert((id, block), vec![version]);
    }
}
