//! Directed tests: files of so many chunks that they go in steps.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::rig::{Answer, BOOT, Rig};
use weft_wire::{ChunkId, ChunkIndex, Ino, Status};

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

/// Flips a bit of the index's pages that hold the chunk's row, or flips it back.
fn flip_row(rig: &Rig, id: ChunkId) {
    let file = File::options().read(true).write(true).open(rig.index_dir().join("data.mdb"));
    let file = file.unwrap();
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let key: Vec<u8> = id.ino.0.to_be_bytes().into_iter().chain(id.index.0.to_be_bytes()).collect();
    let places = (0..bytes.len() - 24).filter(|at| bytes[*at..].starts_with(&key));
    let flipped: Vec<usize> = places.map(|at| at + 20).collect();
    assert!(!flipped.is_empty(), "{id} is in the index");
    for at in flipped {
        file.write_all_at(&[bytes[at] ^ 4], u64::try_from(at).unwrap()).unwrap();
    }
}

/// A removal meets a page of the index that cannot be read: it ends with an error after the steps before, and the target
/// goes on.
#[test]
fn an_index_that_cannot_be_read_stops_a_removal_and_not_the_target() {
    let mut rig = Rig::new(7, 8 << 20);
    let chunk_of = |ino, index| ChunkId { ino: Ino(ino), index: ChunkIndex(index) };
    for index in 0..300 {
        let id = chunk_of(1 + index / 100, index % 100);
        assert_eq!(rig.write(id, 0, &[3; 4096]), Answer::Done);
    }
    rig.shutdown();
    rig.cache_bytes_max = 1 << 10;
    rig.open(BOOT).unwrap();
    flip_row(&rig, chunk_of(2, 40));
    assert_eq!(rig.truncate(Ino(2), 0, None), Answer::Failed(Status::Damaged));
    assert!(!rig.store().is_read_only());
    let left = rig.store().space().used_bytes / 4096;
    assert!((240..300).contains(&left), "{left} blocks are left: some steps were done");
    assert_eq!(rig.write(chunk_of(3, 5), 0, &[4; 4096]), Answer::Done);
    assert_eq!(rig.sync(), Answer::Done);
    assert!(!rig.store().is_read_only());
    flip_row(&rig, chunk_of(2, 40));
    assert_eq!(rig.truncate(Ino(2), 0, None), Answer::Done);
    assert_eq!(rig.store().space().used_bytes, 200 * 4096);
    rig.shutdown();
    rig.open(BOOT).unwrap();
    assert!(listed(&mut rig).is_empty());
    assert_eq!(rig.store().space().used_bytes, 200 * 4096);
}
