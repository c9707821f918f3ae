//! An index whose map ends.

use weft_wire::ClusterId;

use super::*;
use crate::chunk::Run;
use crate::record::Truncate;
use crate::superblock::TargetUuid;

const MAP_BYTES: u64 = 2 << 20;
const HEADROOM_BYTES: u64 = 256 << 10;
const INO: Ino = Ino(7);

fn meta() -> Meta {
    let (cluster, target_uuid) = (ClusterId([7; 16]), TargetUuid([3; 16]));
    Meta { cluster, target_uuid, applied: 0, generation: 1, boot_id: [0; 16], loss_count: 0 }
}

fn checkpoint(map: &mut Map) {
    map.begin_commit(&meta()).unwrap();
    assert!(map.put_some(u32::MAX).unwrap());
    map.commit().unwrap();
}

/// Every second block of a chunk is written: a long record.
fn fill_chunk(map: &mut Map, index: u64, blocks: u32) {
    let chunk = ChunkId { ino: INO, index: ChunkIndex(index) };
    let run =
        |block: u32| Run { first: block, count: 1, device_block: index * 2000 + u64::from(block) };
    let runs: Vec<Run> = (0..blocks).step_by(2).map(run).collect();
    let sums = vec![5; runs.len()];
    map.place(Places { chunk, runs: &runs, sums: &sums }).unwrap();
}

#[test]
fn at_the_end_of_the_map_nothing_is_written_and_everything_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    Index::create(dir.path(), &meta(), MAP_BYTES).unwrap();
    let (index, _) = Index::open(dir.path(), MAP_BYTES, 1 << 20).unwrap();
    assert_eq!(index.reserve(MAP_BYTES, 0), Room::Enough);
    assert_eq!(index.reserve(MAP_BYTES + 1, 0), Room::Full);
    let mut map = Map::new(index, 1 << 20, HEADROOM_BYTES).unwrap();
    let full = (0..10_000).find(|number| {
        let has_room = map.index_room() == Room::Enough;
        if has_room {
            fill_chunk(&mut map, *number, 128);
        }
        if number % 16 == 15 || !has_room {
            checkpoint(&mut map);
        }
        !has_room
    });
    let full = full.expect("the map ends");
    assert!(full > 300, "{full}");
    // Removing changes records before it frees their pages.
    for from in (0..full).rev() {
        let truncate = Truncate { ino: INO, remove_from: ChunkIndex(from), cut: None };
        assert_eq!(map.truncate(&truncate).unwrap().len(), 64);
        if map.index_is_tight() || from == 0 {
            checkpoint(&mut map);
        }
    }
    assert_eq!(map.index.chunk_count().unwrap(), 0);
}

/// Its file never gets shorter, and most of it may be free; long records need free pages side by side.
#[test]
fn a_full_index_has_room_again_after_removals() {
    for (blocks, chunks) in [(128, 300), (1024, 60)] {
        let dir = tempfile::tempdir().unwrap();
        Index::create(dir.path(), &meta(), MAP_BYTES).unwrap();
        let (index, _) = Index::open(dir.path(), MAP_BYTES, 1 << 20).unwrap();
        let mut map = Map::new(index, 1 << 20, HEADROOM_BYTES).unwrap();
        let fill = |map: &mut Map| {
            for number in 0..10_000 {
                if map.index_room() != Room::Enough {
                    checkpoint(map);
                }
                if map.index_room() != Room::Enough {
                    return number;
                }
                fill_chunk(map, number, blocks);
            }
            panic!("the map ends");
        };
        let mut there = fill(&mut map);
        assert!(there > chunks, "{there}");
        for _ in 0..5 {
            for from in (0..there).rev() {
                let truncate = Truncate { ino: INO, remove_from: ChunkIndex(from), cut: None };
                map.truncate(&truncate).unwrap();
                if map.index_is_tight() || from == 0 {
                    checkpoint(&mut map);
                }
            }
            there = fill(&mut map);
            assert!(there >= chunks / 30, "{there}");
            assert_eq!(map.index.chunk_count().unwrap(), there);
        }
    }
}

/// A checkpoint of many scattered chunks changes a page of the index for each of them, and keeps few in memory.
#[test]
fn a_checkpoint_keeps_to_its_memory() {
    const COMMIT_BYTES: u64 = 1 << 20;
    const CHUNKS: u64 = 30_000;
    let dir = tempfile::tempdir().unwrap();
    Index::create(dir.path(), &meta(), 1 << 30).unwrap();
    let (index, _) = Index::open(dir.path(), 1 << 30, COMMIT_BYTES).unwrap();
    let mut map = Map::new(index, 64 << 20, HEADROOM_BYTES).unwrap();
    let write = |map: &mut Map, step: usize| {
        for index in (0..CHUNKS).step_by(step) {
            let chunk = ChunkId { ino: INO, index: ChunkIndex(index) };
            let runs = [Run { first: 0, count: 1, device_block: index }];
            map.place(Places { chunk, runs: &runs, sums: &[5] }).unwrap();
        }
    };
    write(&mut map, 1);
    checkpoint(&mut map);
    write(&mut map, 25);
    map.begin_commit(&meta()).unwrap();
    assert!(map.put_some(u32::MAX).unwrap());
    let dirty_bytes = map.txn.as_ref().unwrap().dirty_bytes();
    assert!(dirty_bytes <= COMMIT_BYTES, "{dirty_bytes} bytes");
    map.commit().unwrap();
    assert_eq!(map.index.chunk_count().unwrap(), CHUNKS);
    for index in [0, 1, CHUNKS - 1] {
        let found = map.index.get(ChunkId { ino: INO, index: ChunkIndex(index) }).unwrap();
        assert_eq!(found.unwrap().runs()[0].device_block, index);
    }
}

/// What changes between the beginning of a checkpoint and its commit is not in it.
#[test]
fn a_checkpoint_has_what_was_there_when_it_began() {
    const CHUNKS: u64 = 100;
    let dir = tempfile::tempdir().unwrap();
    Index::create(dir.path(), &meta(), 1 << 30).unwrap();
    let (index, _) = Index::open(dir.path(), 1 << 30, 1 << 20).unwrap();
    let mut map = Map::new(index, 64 << 20, HEADROOM_BYTES).unwrap();
    let write = |map: &mut Map, index: u64, version: u64| {
        let chunk = ChunkId { ino: INO, index: ChunkIndex(index) };
        let runs = [Run { first: 0, count: 1, device_block: index + 1000 * version }];
        map.place(Places { chunk, runs: &runs, sums: &[5] }).unwrap();
    };
    (0..CHUNKS).for_each(|index| write(&mut map, index, 0));
    map.begin_commit(&meta()).unwrap();
    assert!(!map.put_some(10).unwrap());
    (0..CHUNKS).step_by(7).for_each(|index| write(&mut map, index, 1));
    write(&mut map, CHUNKS, 1);
    let gone = Truncate { ino: INO, remove_from: ChunkIndex(CHUNKS - 5), cut: None };
    map.truncate(&gone).unwrap();
    while !map.put_some(10).unwrap() {}
    map.commit().unwrap();
    for index in 0..CHUNKS {
        let found = map.index.get(ChunkId { ino: INO, index: ChunkIndex(index) }).unwrap();
        assert_eq!(found.unwrap().runs()[0].device_block, index, "as it was");
    }
    assert_eq!(map.index.chunk_count().unwrap(), CHUNKS);
    checkpoint(&mut map);
    assert_eq!(map.index.chunk_count().unwrap(), CHUNKS - 5);
    let found = map.index.get(ChunkId { ino: INO, index: ChunkIndex(7) }).unwrap();
    assert_eq!(found.unwrap().runs()[0].device_block, 1007);
}
