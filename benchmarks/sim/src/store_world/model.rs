//! The oracle: what each block may hold, from what was answered and what was not.
//!
//! Of each block it keeps the versions since the last sync, oldest first; the first one is durable.
//! A version is a list of contents, because an operation that failed may have done its work or not.
//! Everything here is slow and plain; nothing of the store is used but its words.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use weft_wire::blocks::pieces;
use weft_wire::data::ZeroHow;
use weft_wire::{ChunkId, ChunkIndex, Ino};

use super::regime::Memory;
use crate::disk::Faults;

/// Length of a block.
pub const BLOCK_LEN: usize = 4096;

/// What a block holds; `None`: never written.
pub type Content = Option<Rc<[u8]>>;

/// An operation that changes something.
#[derive(Clone, Debug)]
pub enum Change {
    /// Bytes of a chunk.
    Write {
        /// Which.
        chunk: ChunkId,
        /// Where in it.
        offset: u32,
        /// What.
        bytes: Vec<u8>,
    },
    /// The chunks of a file from `from` on go, and what lies behind the cut.
    Truncate {
        /// Whose.
        ino: Ino,
        /// First chunk that goes.
        from: u64,
        /// Chunk to shorten, and how many bytes of it stay.
        cut: Option<(u64, u32)>,
    },
    /// Space is given out or back, or bytes become zeros.
    Zero {
        /// Where.
        chunk: ChunkId,
        /// From this byte of it on.
        offset: u32,
        /// How many bytes.
        bytes: u32,
        /// Which of these.
        how: ZeroHow,
    },
}

/// How the store ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// It was shut down: everything answered is durable.
    Clean,
    /// The process died and the machine went on: everything answered is there.
    Kill,
    /// The power went: everything synced is there.
    PowerLoss,
}

/// What a block may be.
#[derive(Clone, Debug, Default)]
pub struct May {
    /// One of these.
    pub contents: Vec<Content>,
    /// Or unreadable.
    pub unreadable: bool,
}

#[derive(Clone, Debug)]
struct Version {
    /// One of these; several when an operation failed.
    contents: Vec<Content>,
    stamp: u64,
    /// A power loss before the next sync may leave it unreadable: it went to a new place for the
    /// first time, or was overwritten where it was.
    fragile: bool,
    /// An operation that failed may have left it unreadable.
    shaken: bool,
}

impl Version {
    fn sure(content: Content) -> Version {
        Version { contents: vec![content], stamp: 0, fragile: false, shaken: false }
    }
}

/// The oracle.
#[derive(Debug)]
pub struct Model {
    blocks: BTreeMap<(ChunkId, u32), Vec<Version>>,
    clock: u64,
    memory: Memory,
    /// The device may tell errors: an operation under way at a crash may have met one.
    pub told: bool,
    /// Or the device may have blocks that it does not give: one that a cut went through stays lost.
    ungiven: bool,
    /// Syncs answered: the clock they cover, and how many flushes had been done.
    syncs: Vec<(u64, u64)>,
}

/// What a change makes of a block that holds `now`: the content, and whether it is fragile; `None`
/// if the change does not touch it.
fn effect(change: &Change, id: ChunkId, block: u32, now: &Content) -> Option<(Content, bool)> {
    match change {
        Change::Write { chunk, offset, bytes } => {
            if *chunk != id {
                return None;
            }
            let count = u32::try_from(bytes.len()).expect("a chunk at most");
            let piece = pieces(*offset, count).find(|piece| piece.block == block)?;
            let mut content = now.as_ref().map_or(vec![0; BLOCK_LEN], |now| now.to_vec());
            let start = length(piece.start);
            let part = piece.of(bytes);
            content[start..start + part.len()].copy_from_slice(part);
            Some((Some(content.into()), now.is_none() || piece.is_full()))
        }
        Change::Zero { chunk, offset, bytes, how } => {
            let piece =
                pieces(*offset, *bytes).find(|piece| *chunk == id && piece.block == block)?;
            match (how, now) {
                // What does not arrive is a hole again, which reads the same.
                (ZeroHow::Allocate, None) => Some((Some(vec![0; BLOCK_LEN].into()), false)),
                (ZeroHow::Erase, Some(now)) => {
                    let mut content = now.to_vec();
                    content[length(piece.start)..length(piece.start + piece.bytes)].fill(0);
                    Some((Some(content.into()), piece.is_full()))
                }
                (ZeroHow::Punch, _) => Some((None, false)),
                (ZeroHow::Allocate, Some(_)) | (ZeroHow::Erase, None) => Some((now.clone(), false)),
            }
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
            let shorter = now.as_ref().map(|now| {
                let mut content = now.to_vec();
                content[length(bytes - start)..].fill(0);
                content.into()
            });
            Some((shorter, false))
        }
    }
}

/// Whether a change finds nothing to do where a block holds `now`.
fn leaves(change: &Change, now: &Content) -> bool {
    match change {
        Change::Zero { how: ZeroHow::Allocate, .. } => now.is_some(),
        Change::Zero { how: ZeroHow::Erase, .. } => now.is_none(),
        _ => false,
    }
}

/// Whether a part of the block is cut off.
fn cuts_through(change: &Change, (id, block): (ChunkId, u32)) -> bool {
    match change {
        Change::Truncate { cut: Some((index, bytes)), .. } => {
            *index == id.index.0 && *bytes > block * 4096 && *bytes < (block + 1) * 4096
        }
        _ => false,
    }
}

/// [`effect`] on each of several contents, without repetitions.
fn effects(change: &Change, key: (ChunkId, u32), now: &[Content]) -> Option<(Vec<Content>, bool)> {
    let mut contents = Vec::new();
    let mut fragile = false;
    for content in now {
        let (after, weak) = effect(change, key.0, key.1, content)?;
        fragile |= weak;
        add(&mut contents, after);
    }
    Some((contents, fragile))
}

fn add(contents: &mut Vec<Content>, content: Content) {
    if !contents.contains(&content) {
        contents.push(content);
    }
}

impl Model {
    /// Nothing was ever written.
    pub fn new(memory: Memory, faults: &Faults) -> Model {
        let told = faults.read_errors + faults.write_errors + faults.flush_errors > 0;
        let ungiven = faults.read_errors_for_good > 0;
        Model { blocks: BTreeMap::new(), clock: 0, memory, told, ungiven, syncs: Vec::new() }
    }

    /// Every block a change may touch that was ever written.
    pub fn keys(&self, change: &Change) -> Vec<(ChunkId, u32)> {
        match change {
            Change::Write { chunk, offset, bytes } => {
                let count = u32::try_from(bytes.len()).expect("a chunk at most");
                pieces(*offset, count).map(|piece| (*chunk, piece.block)).collect()
            }
            Change::Zero { chunk, offset, bytes, .. } => {
                pieces(*offset, *bytes).map(|piece| (*chunk, piece.block)).collect()
            }
            Change::Truncate { ino, .. } => {
                let first = ChunkId { ino: *ino, index: ChunkIndex(0) };
                let last = ChunkId { ino: *ino, index: ChunkIndex(u64::MAX) };
                self.blocks.range((first, 0)..=(last, u32::MAX)).map(|(key, _)| *key).collect()
            }
        }
    }

    fn now(&self, key: (ChunkId, u32)) -> Version {
        let versions = self.blocks.get(&key);
        versions.and_then(|versions| versions.last()).cloned().unwrap_or(Version::sure(None))
    }

    fn push(&mut self, key: (ChunkId, u32), version: Version) {
        self.blocks.entry(key).or_insert_with(|| vec![Version::sure(None)]).push(version);
    }

    /// The change was answered.
    pub fn done(&mut self, change: &Change) {
        self.clock += 1;
        for key in self.keys(change) {
            let now = self.now(key);
            if let Some((contents, fragile)) = effects(change, key, &now.contents) {
                let stamp = self.clock;
                // What a failed change left in doubt stays so where nothing was to be done; a block that the device
                // would not give is cut all the same, and stays unreadable.
                let left = now.shaken && now.contents.iter().any(|now| leaves(change, now));
                let shaken = left || ((self.told || self.ungiven) && cuts_through(change, key));
                self.push(key, Version { contents, stamp, fragile, shaken });
            }
        }
    }

    /// The change ended with an error in the middle: each block of it is as before, as after, or
    /// unreadable.
    pub fn failed(&mut self, change: &Change) {
        self.clock += 1;
        for key in self.keys(change) {
            let mut contents = self.now(key).contents;
            if let Some((after, _)) = effects(change, key, &contents) {
                after.into_iter().for_each(|content| add(&mut contents, content));
                let stamp = self.clock;
                self.push(key, Version { contents, stamp, fragile: true, shaken: true });
            }
        }
    }

    /// The change ended with an error between two of its steps: each block is as before or as after.
    pub fn cut_short(&mut self, change: &Change) {
        self.clock += 1;
        for key in self.keys(change) {
            let Version { mut contents, fragile, shaken, .. } = self.now(key);
            if let Some((after, _)) = effects(change, key, &contents) {
                after.into_iter().for_each(|content| add(&mut contents, content));
                let stamp = self.clock;
                self.push(key, Version { contents, stamp, fragile, shaken });
            }
        }
    }

    /// What a sync that begins now has to cover.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// A sync that began at `clock` was answered, after `flushes` flushes of the device.
    pub fn synced(&mut self, clock: u64, flushes: u64) {
        self.syncs.push((clock, flushes));
        let floor = match self.memory {
            Memory::LastSync => Some(clock),
            Memory::LastButOneSync => {
                let before = self.syncs.iter().filter(|(_, earlier)| *earlier < flushes);
                before.map(|(clock, _)| *clock).max()
            }
            Memory::Everything => None,
        };
        for versions in self.blocks.values_mut() {
            let newest = |clock| versions.iter().rposition(|version| version.stamp <= clock);
            let synced = newest(clock).unwrap_or(0);
            let kept = floor.and_then(newest).unwrap_or(0);
            versions[synced].fragile = false;
            if self.memory == Memory::LastButOneSync {
                // What a sync covered may fall back to what was there, but never to nothing.
                let replaced = &mut versions[..synced];
                replaced.iter_mut().for_each(|version| version.contents.retain(Option::is_some));
            }
            versions.drain(..kept);
        }
    }

    /// What the block may be read as while the store runs.
    pub fn may_read(&self, id: ChunkId, block: u32) -> May {
        let now = self.now((id, block));
        May { contents: now.contents, unreadable: now.shaken }
    }

    /// What the block may be read as after a crash with `pending` changes unanswered.
    pub fn after(&self, crash: Crash, id: ChunkId, block: u32, pending: &[Change]) -> May {
        let key = (id, block);
        let mut may = self.may_read(id, block);
        let now = may.contents.clone();
        for (contents, fragile) in pending.iter().filter_map(|change| effects(change, key, &now)) {
            contents.into_iter().for_each(|content| add(&mut may.contents, content));
            may.unreadable |= fragile && (crash == Crash::PowerLoss || self.told);
        }
        if crash == Crash::PowerLoss
            && let Some(versions) = self.blocks.get(&key)
        {
            for version in versions {
                version.contents.iter().for_each(|content| add(&mut may.contents, content.clone()));
                may.unreadable |= version.fragile || version.shaken;
            }
        }
        // Zeros that cannot be read are a hole instead.
        let zeros = |content: &Content| content.as_ref().is_some_and(|it| **it == [0; BLOCK_LEN]);
        let faulty = self.told || self.ungiven || self.memory != Memory::LastSync;
        if (faulty || may.unreadable) && may.contents.iter().any(zeros) {
            add(&mut may.contents, None);
        }
        may
    }

    /// After a crash: what is there now is the truth, and durable (open flushes).
    pub fn settle(&mut self, id: ChunkId, block: u32, content: Content) {
        self.blocks.insert((id, block), vec![Version::sure(content)]);
    }

    /// All blocks were settled: earlier syncs mean nothing any more.
    pub fn settled(&mut self) {
        self.syncs.clear();
    }

    /// How many blocks of each chunk are written, when no block is in doubt.
    pub fn written(&self) -> Option<BTreeMap<ChunkId, u64>> {
        let mut counts = BTreeMap::new();
        for ((id, _), versions) in &self.blocks {
            let version = versions.last()?;
            let kinds: BTreeSet<bool> = version.contents.iter().map(Option::is_some).collect();
            match (kinds.contains(&true), kinds.contains(&false)) {
                (true, true) => return None,
                (true, false) => *counts.entry(*id).or_default() += 1,
                _ => {}
            }
        }
        Some(counts)
    }
}

fn length(bytes: u32) -> usize {
    usize::try_from(bytes).expect("32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ChunkId = ChunkId { ino: Ino(1), index: ChunkIndex(0) };

    fn write(value: u8, bytes: usize) -> Change {
        Change::Write { chunk: ID, offset: 0, bytes: vec![value; bytes] }
    }

    fn block(value: u8) -> Content {
        Some(vec![value; BLOCK_LEN].into())
    }

    #[test]
    fn a_power_loss_may_take_what_no_sync_covered() {
        let mut model = Model::new(Memory::LastSync, &Faults::default());
        model.done(&write(1, BLOCK_LEN));
        let clock = model.clock();
        model.done(&write(2, BLOCK_LEN));
        let may = model.after(Crash::PowerLoss, ID, 0, &[write(3, BLOCK_LEN)]);
        assert_eq!(may.contents, [block(2), block(3), None, block(1)]);
        assert!(may.unreadable);
        let may = model.after(Crash::Kill, ID, 0, &[write(3, BLOCK_LEN)]);
        assert_eq!((may.contents, may.unreadable), (vec![block(2), block(3)], false));
        model.synced(clock, 1);
        assert_eq!(model.after(Crash::PowerLoss, ID, 0, &[]).contents, [block(2), block(1)]);
        model.synced(model.clock(), 2);
        let may = model.after(Crash::PowerLoss, ID, 0, &[]);
        assert_eq!((may.contents, may.unreadable), (vec![block(2)], false));
        assert_eq!(model.written(), Some([(ID, 1)].into()));
    }

    #[test]
    fn space_given_out_ahead_is_there_or_a_hole_and_never_unreadable() {
        let mut model = Model::new(Memory::LastSync, &Faults::default());
        let (chunk, bytes) = (ID, 4096);
        model.done(&Change::Zero { chunk, offset: 0, bytes, how: ZeroHow::Allocate });
        let may = model.after(Crash::PowerLoss, ID, 0, &[]);
        assert_eq!((may.contents, may.unreadable), (vec![block(0), None], false));
        model.synced(model.clock(), 1);
        let may = model.after(Crash::PowerLoss, ID, 0, &[]);
        assert_eq!((may.contents, may.unreadable), (vec![block(0)], false));
    }

    #[test]
    fn a_lie_takes_back_one_sync_but_never_to_nothing() {
        let mut model = Model::new(Memory::LastButOneSync, &Faults::default());
        for value in 1..=3 {
            model.done(&write(value, BLOCK_LEN));
            model.synced(model.clock(), u64::from(value));
        }
        let may = model.after(Crash::PowerLoss, ID, 0, &[]);
        assert_eq!(may.contents, [block(3), block(2)]);
        let mut model = Model::new(Memory::LastButOneSync, &Faults::default());
        model.done(&write(1, BLOCK_LEN));
        model.synced(model.clock(), 1);
        assert_eq!(model.after(Crash::PowerLoss, ID, 0, &[]).contents, [block(1)]);
    }

    #[test]
    fn what_failed_may_be_done_or_not() {
        let mut model = Model::new(Memory::LastSync, &Faults::default());
        model.done(&write(1, BLOCK_LEN));
        model.failed(&write(2, BLOCK_LEN));
        let may = model.may_read(ID, 0);
        assert_eq!((may.contents, may.unreadable), (vec![block(1), block(2)], true));
        model.failed(&Change::Truncate { ino: Ino(1), from: 0, cut: None });
        assert_eq!(model.written(), None, "it may be gone");
        model.done(&write(3, BLOCK_LEN));
        let may = model.may_read(ID, 0);
        assert_eq!((may.contents, may.unreadable), (vec![block(3)], false));
    }
}
