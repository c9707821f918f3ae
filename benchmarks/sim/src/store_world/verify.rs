//! After a crash: every block is something it may be, and every block of space is accounted for.

use std::collections::BTreeMap;

use weft_wire::{ChunkId, ChunkIndex, Ino, Status};

use super::model::{BLOCK_LEN, Change, Content, Crash};
use super::rig::Answer;
use super::{FILLER, FILLER_BYTE, Pending, World, blocks, tell, tell_all};

impl World {
    /// Holds every block against the oracle. What is there is the truth from then on; what cannot
    /// be read is written anew.
    pub(super) fn verify(&mut self, crash: Crash) {
        let capacity_bytes = self.rig.areas().capacity_bytes;
        assert!(self.capacities.contains(&capacity_bytes), "it grew, or it did not");
        self.capacities = vec![capacity_bytes];
        let pending: Vec<Change> = std::mem::take(&mut self.pending)
            .into_values()
            .filter_map(|pending| match pending {
                Pending::Change(change) => Some(change),
                _ => None,
            })
            .collect();
        let mut written: BTreeMap<ChunkId, u64> = BTreeMap::new();
        let mut lost = Vec::new();
        let scrubbed = self.random.chance(50);
        if scrubbed {
            self.rig.scrub();
        }
        let named = self.named();
        for id in self.chunks() {
            for block in 0..self.habits.chunk_blocks {
                let may = self.model.after(crash, id, block, &pending);
                let found = self.block(id, block);
                match &found {
                    Some(content) => assert!(
                        may.contents.contains(content),
                        "{id} block {block} is {} after {crash:?}, and may be {}",
                        tell(content),
                        tell_all(&may.contents)
                    ),
                    None => {
                        let lied = self.rig.disk.counts.lies > 0 || self.rig.disk.has_bad_blocks();
                        assert!(
                            may.unreadable || lied,
                            "{id} block {block} cannot be read after {crash:?}, and may be {}",
                            tell_all(&may.contents)
                        );
                        lost.push((id, block));
                    }
                }
                if found != Some(None) {
                    *written.entry(id).or_default() += 1;
                }
                self.model.settle(id, block, found.flatten());
            }
        }
        let tell_lost = || format!("verified; {} blocks cannot be read", lost.len());
        self.rig.telling.step(self.rig.now, tell_lost);
        if scrubbed {
            assert_eq!(named, lost, "a scrub names what cannot be read, and nothing else");
        }
        self.check_filler();
        self.check_space(&written);
        for (id, block) in lost {
            // Writing all of it heals it.
            let bytes = vec![0x55; BLOCK_LEN];
            assert_eq!(self.rig.write(id, block * 4096, &bytes), Answer::Done);
            self.model.settle(id, block, Some(bytes.into()));
        }
        assert_eq!(self.rig.sync(), Answer::Done);
        self.model.settled();
        if self.habits.scrub {
            let now_s = self.rig.now.as_secs();
            self.rig.store_mut().scrub_start(1 << 22, true, now_s);
        }
    }

    /// The clients' blocks that the store names as damaged.
    fn named(&self) -> Vec<(ChunkId, u32)> {
        let damages = self.rig.store().damages(None).into_iter();
        let blocks =
            damages.flat_map(|d| (d.first..d.first + d.count).map(move |block| (d.chunk, block)));
        blocks.filter(|(id, _)| *id != FILLER).collect()
    }

    /// Reads one block; `None` when it cannot be read.
    fn block(&mut self, id: ChunkId, block: u32) -> Option<Content> {
        match self.rig.read(id, block * 4096, 4096) {
            Answer::Read(_, bytes) if bytes.is_empty() => Some(None),
            Answer::Read(_, bytes) => Some(Some(bytes.into())),
            Answer::Failed(Status::Damaged) => None,
            Answer::Failed(Status::Io) if self.rig.disk.has_bad_blocks() => None,
            answer => panic!("unexpected answer {answer:?}"),
        }
    }

    /// Nobody touched the filler.
    fn check_filler(&mut self) {
        if self.habits.filler_blocks == 0 {
            return;
        }
        let bytes = self.habits.filler_blocks * 4096;
        match self.rig.read(FILLER, 0, bytes) {
            Answer::Read(0, found) => {
                assert!(found == vec![FILLER_BYTE; blocks(bytes)], "the filler is as it was");
            }
            answer => {
                let ungiven = self.faults.read_errors_for_good > 0;
                assert!(self.regime.lies() || ungiven, "reading the filler: {answer:?}");
            }
        }
    }

    /// Space and lists say what was found by reading: nothing is lost, nothing is counted twice.
    fn check_space(&self, written: &BTreeMap<ChunkId, u64>) {
        let store = self.rig.store();
        let space = store.space();
        let filler = u64::from(self.habits.filler_blocks);
        let used = written.values().sum::<u64>() + filler;
        let there = written.values().filter(|count| **count > 0).count();
        let chunk_count = u64::try_from(there).expect("64 bits") + u64::from(filler > 0);
        assert_eq!(space.used_bytes, used * 4096, "bytes used");
        assert_eq!(space.free_bytes + space.used_bytes, space.total_bytes, "bytes in all");
        assert_eq!(space.chunk_count, chunk_count, "chunks");
        for ino in 1..=self.habits.inos {
            let listed = store.chunk_list(Ino(ino), ChunkIndex(0)).expect("the index is good");
            let listed: Vec<(u64, u64)> = listed
                .chunks
                .iter()
                .map(|chunk| (chunk.index.0, u64::from(chunk.blocks_written)))
                .collect();
            let of_ino = written.iter().filter(|(id, count)| id.ino.0 == ino && **count > 0);
            let found: Vec<(u64, u64)> = of_ino.map(|(id, count)| (id.index.0, *count)).collect();
            assert_eq!(listed, found, "the chunks of inode {ino}");
        }
    }

    /// Everything goes, and then all space is free.
    pub(super) fn remove_all(&mut self) {
        if let Some(written) = self.model.written() {
            self.check_space(&written);
        }
        for ino in (1..=self.habits.inos).chain([FILLER.ino.0]) {
            assert_eq!(self.rig.truncate(Ino(ino), 0, None), Answer::Done);
        }
        assert_eq!(self.rig.sync(), Answer::Done);
        let space = self.rig.store().space();
        assert_eq!((space.used_bytes, space.chunk_count), (0, 0), "all is removed");
        assert!(self.rig.shutdown(), "nothing fails any more");
        let report = self.rig.open([1; 16]).expect("it ended cleanly");
        assert_eq!(report.replayed_records, 0, "a clean end leaves nothing to replay");
        let store = self.rig.store();
        let space = store.space();
        assert_eq!((space.used_bytes, space.chunk_count), (0, 0));
        assert_eq!(space.free_bytes, space.total_bytes);
        assert_eq!(store.counters().unknown_completions, 0);
        let id = ChunkId { ino: Ino(1), index: ChunkIndex(0) };
        assert_eq!(self.rig.write(id, 0, &vec![1; BLOCK_LEN]), Answer::Done, "there is room again");
        let pool = &self.rig.pool;
        assert_eq!(pool.free_bytes(), pool.capacity_bytes(), "every buffer came back");
    }
}
