//! Directed tests: files of so many chunks that they go in steps.

use crate::rig::{Answer, BOOT, Rig};
use weft_wire::{ChunkId, ChunkIndex, Ino};

const CHUNKS: u64 = 60;
const OTHER: ChunkId = ChunkId { ino: Ino(3), index: ChunkIndex(0) };

fn chunk(index: u64) -> ChunkId {
    ChunkId { ino: Ino(2), index: ChunkIndex(index) }
}

/// A file of many chunks, and another; all of it synced.
fn rig(seed: u64) -> Rig {
    let mut rig = Rig::new(seed, 8 << 20);
    for index in 0..CHUNKS {
        assert_eq!(rig.write(chunk(index), 0, &[7; 4096]), Answer::Done);
    }
    assert_eq!(rig.write(OTHER, 0, &[9; 4096]), Answer::Done);
    assert_eq!(rig.sync(), Answer::Done);
    rig
}

/// Which chunks of the file there are.
fn listed(rig: &mut Rig) -> Vec<u64> {
    let list = rig.store().chunk_list(Ino(2), ChunkIndex(0)).unwrap();
    list.chunks.iter().map(|chunk| chunk.index.0).collect()
}

#[test]
fn a_file_of_many_chunks_goes_in_steps_and_others_have_their_turn() {
    let mut rig = rig(5);
    let removal = rig.begin_truncate(Ino(2), 0, None);
    let mut reads_beside = 0;
    while !rig.answers.contains_key(&removal) {
        let read = rig.begin_read(OTHER, 0, 4096);
        while !rig.answers.contains_key(&read) {
            assert!(rig.step(), "the read goes on whatever the removal does");
        }
        let changed = rig.store().space().dirty_chunk_count;
        assert!(changed <= rig.dirty_chunks_max, "{changed} chunks changed since the checkpoint");
        reads_beside += 1;
        assert!(rig.step() || rig.answers.contains_key(&removal), "the removal goes on");
    }
    assert!(reads_beside > CHUNKS / 4, "only {reads_beside} reads had their turn");
    assert!(listed(&mut rig).is_empty());
    assert_eq!(rig.sync(), Answer::Done);
    assert_eq!(rig.store().space().used_bytes, 4096, "the other file's block");
}

/// A crash between two steps leaves the first chunks, and what was to be cut is; the second try ends it.
#[test]
fn a_crash_between_steps_leaves_the_first_chunks() {
    let mut partly = 0;
    for seed in 0..40 {
        let mut rig = rig(seed);
        rig.begin_truncate(Ino(2), 1, Some((0, 100)));
        for _ in 0..4 * seed {
            rig.step();
        }
        if seed % 2 == 0 {
            rig.kill();
            rig.open(BOOT).unwrap();
        } else {
            rig.power_loss();
            rig.open([77; 16]).unwrap();
        }
        let left = listed(&mut rig);
        let count = u64::try_from(left.len()).unwrap();
        assert_eq!(left, (0..count).collect::<Vec<_>>(), "seed {seed}: the first ones");
        let Answer::Read(0, bytes) = rig.read(chunk(0), 0, 4096) else { panic!("seed {seed}") };
        let is_cut = bytes[100..].iter().all(|byte| *byte == 0);
        assert!(bytes[..100] == [7; 100] && (is_cut || bytes == [7; 4096]), "seed {seed}");
        assert!(is_cut || count == CHUNKS, "seed {seed}: the cut comes first");
        partly += u32::from((2..CHUNKS).contains(&count));
        assert_eq!(rig.truncate(Ino(2), 1, Some((0, 100))), Answer::Done);
        assert_eq!((listed(&mut rig), rig.sync()), (vec![0], Answer::Done));
        assert_eq!(rig.store().space().used_bytes, 2 * 4096, "seed {seed}");
    }
    assert!(partly > 5, "only {partly} crashes came between steps");
}
