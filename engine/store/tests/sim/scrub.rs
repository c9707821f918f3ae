//! The scrub: what it finds, names, forgets, repairs; its rate; going on after a restart.

use crate::rig::{Answer, BOOT, CLUSTER, Rig};
use weft_store::{Copies, Kind, OpenParams, Problem, ScrubStatus, inspect_copies};
use weft_wire::scrub::{Damage, DamageKind};
use weft_wire::{ChunkId, ChunkIndex, Ino, Status};

const CAPACITY_BYTES: u64 = 8 << 20;
const MIB: u64 = 1 << 20;

fn chunk(ino: u64, index: u64) -> ChunkId {
    ChunkId { ino: Ino(ino), index: ChunkIndex(index) }
}

/// Bytes that lie once on the disk.
fn unique(chunk: ChunkId, count: usize) -> Vec<u8> {
    let seed = chunk.ino.0 * 1000 + chunk.index.0;
    let blocks = (0..u64::try_from(count.div_ceil(4096)).unwrap())
        .flat_map(|block| (seed * 1000 + block).to_le_bytes().repeat(512));
    blocks.take(count).collect()
}

/// A target with three files: 0 to 9 blocks a chunk, holes between.
fn filled(seed: u64) -> (Rig, Vec<(ChunkId, usize)>) {
    let mut rig = Rig::new(seed, CAPACITY_BYTES);
    let mut blocks = Vec::new();
    for (ino, index, count) in [(1, 0, 9), (1, 1, 3), (1, 7, 5), (2, 0, 70), (3, 3, 1)] {
        let id = chunk(ino, index);
        let bytes = unique(id, count * 4096);
        assert_eq!(rig.write(id, 2 * 4096, &bytes), Answer::Done);
        blocks.extend((0..count).map(|block| (id, block)));
    }
    assert_eq!(rig.sync(), Answer::Done);
    (rig, blocks)
}

/// Flips one bit of a written block; gives the block's number in its chunk.
fn flip(rig: &mut Rig, (id, block): (ChunkId, usize)) -> u32 {
    let bytes = unique(id, (block + 1) * 4096);
    let at = rig.disk.find(1 << 20, &bytes[block * 4096..]).unwrap();
    let bit = rig.random.below(4096 * 8);
    let byte = usize::try_from(bit / 8).unwrap();
    rig.disk.flip(at + byte, u8::try_from(bit % 8).unwrap());
    u32::try_from(block + 2).unwrap()
}

fn pass(rig: &mut Rig) -> ScrubStatus {
    // One that is begun anew while a step of it is under way.
    rig.store().scrub_start(64 * MIB, true, 76);
    rig.tick();
    rig.tick();
    for _ in 0..rig.random.below(5) {
        rig.step();
    }
    rig.store().scrub_start(64 * MIB, true, 77);
    for _ in 0..100 {
        rig.tick();
        rig.settle();
    }
    let status = rig.store().scrub_status();
    assert!(!status.running && status.position.is_none());
    status
}

#[test]
fn every_flipped_block_is_found_and_no_other() {
    for seed in 0..30 {
        let (mut rig, blocks) = filled(seed);
        let clean = pass(&mut rig);
        assert_eq!(
            (clean.found_blocks, clean.checked_chunks, clean.checked_bytes),
            (0, 5, 88 * 4096)
        );
        assert_eq!(clean.total_bytes, clean.checked_bytes);
        assert_eq!((clean.started_s, clean.finished_s > 0), (77, true));
        let mut flipped = Vec::new();
        for (number, place) in blocks.iter().enumerate() {
            if number % 11 == usize::try_from(seed % 11).unwrap() {
                flipped.push((place.0, flip(&mut rig, *place)));
            }
        }
        let status = pass(&mut rig);
        assert_eq!(status.found_blocks, u64::try_from(flipped.len()).unwrap(), "seed {seed}");
        let damages = rig.store().damages(None);
        let listed: Vec<(ChunkId, u32)> = damages
            .iter()
            .flat_map(|d| (d.first..d.first + d.count).map(|block| (d.chunk, block)))
            .collect();
        assert_eq!(listed, flipped, "seed {seed}");
        for (id, block) in flipped {
            let read = |rig: &mut Rig| rig.read(id, block * 4096, 4096);
            assert_eq!(read(&mut rig), Answer::Failed(Status::Damaged));
            assert_eq!(rig.write(id, block * 4096, &[7; 4096]), Answer::Done);
            assert_eq!(read(&mut rig), Answer::Read(block, vec![7; 4096]));
        }
        assert_eq!(rig.store().damages(None), [], "what is written again is good");
        assert_eq!(pass(&mut rig).found_blocks, 0);
    }
}

#[test]
fn damage_is_listed_across_a_restart_until_the_file_goes() {
    let (mut rig, blocks) = filled(40);
    let block = flip(&mut rig, blocks[4]);
    let named = Damage { chunk: blocks[4].0, first: block, count: 1, kind: DamageKind::Mismatch };
    assert_eq!(rig.read(named.chunk, 0, 20 * 4096), Answer::Failed(Status::Damaged));
    assert_eq!(rig.store().damages(None), [named], "a read finds it as well");
    rig.shutdown();
    rig.open(BOOT).unwrap();
    assert_eq!(rig.store().damages(None), [named]);
    // A cut through the block: what is left of it is as unreadable as before.
    let cut = Some((named.chunk.index.0, block * 4096 + 100));
    assert_eq!(rig.truncate(named.chunk.ino, 1, cut), Answer::Done);
    assert_eq!(rig.store().damages(None), [named]);
    assert_eq!(pass(&mut rig).found_blocks, 1);
    assert_eq!(rig.truncate(named.chunk.ino, 0, None), Answer::Done);
    assert_eq!(rig.store().damages(None), []);
}

#[test]
fn a_pass_goes_on_after_a_restart() {
    for clean in [true, false] {
        let (mut rig, blocks) = filled(41);
        flip(&mut rig, blocks[0]);
        rig.store().scrub_start(MIB / 16, false, 5);
        while rig.store().scrub_status().checked_chunks < 2 {
            rig.tick();
            rig.settle();
        }
        for _ in 0..4 {
            rig.tick();
            rig.settle();
        }
        let before = rig.store().scrub_status();
        if clean {
            rig.shutdown();
        } else {
            rig.kill();
        }
        rig.open(BOOT).unwrap();
        let after = rig.store().scrub_status();
        assert!(after.running && after.checked_chunks >= 2 && after.started_s == 5, "{after:?}");
        assert_eq!(after.found_blocks, 1);
        assert!(
            !clean
                || (after.position, after.checked_chunks)
                    == (before.position, before.checked_chunks)
        );
        while rig.store().scrub_status().running {
            rig.tick();
            rig.settle();
        }
        let end = rig.store().scrub_status();
        assert_eq!((end.checked_chunks, end.found_blocks, end.checked_bytes), (5, 1, 88 * 4096));
    }
}

#[test]
fn the_rate_is_kept_and_clients_come_first() {
    let mut rig = Rig::new(42, 2 * CAPACITY_BYTES);
    for index in 0..4 {
        assert_eq!(rig.write(chunk(1, index), 0, &vec![9; 1 << 20]), Answer::Done);
    }
    rig.store().scrub_start(MIB, false, 1);
    for tick in 1..=12u64 {
        rig.tick();
        rig.settle();
        // A tick comes each 300 ms, of which 250 ms count; a step may go over by its length.
        let most = tick * MIB / 4 + 64 * 4096;
        assert!(rig.store().counters().scrub_bytes <= most, "tick {tick}");
    }
    assert!(rig.store().counters().scrub_bytes > 2 * MIB);
    rig.store().scrub_start(1 << 40, true, 1);
    rig.tick();
    rig.settle();
    let before = rig.store().counters().scrub_bytes;
    let read = rig.begin_read(chunk(1, 3), 0, 4096);
    rig.store().scrub_start(1 << 40, true, 1);
    rig.tick();
    rig.tick();
    while rig.answers.is_empty() || !rig.answers.contains_key(&read) {
        rig.step();
    }
    let beside = rig.store().counters().scrub_bytes - before;
    assert!(beside <= 2 * 64 * 4096, "one step a tick beside a client: {beside}");
    rig.store().scrub_stop();
    rig.settle();
    let stopped = rig.store().counters().scrub_bytes;
    rig.tick();
    rig.settle();
    assert_eq!(rig.store().counters().scrub_bytes, stopped);
}

#[test]
fn a_block_the_device_does_not_give_is_named_alone() {
    let (mut rig, blocks) = filled(43);
    let place = *blocks.iter().filter(|(id, _)| *id == chunk(2, 0)).nth(33).unwrap();
    let bytes = unique(place.0, (place.1 + 1) * 4096);
    let at = rig.disk.find(1 << 20, &bytes[place.1 * 4096..]).unwrap();
    rig.unreadable.push(u64::try_from(at).unwrap());
    assert_eq!(pass(&mut rig).found_blocks, 1);
    let named = Damage { chunk: chunk(2, 0), first: 35, count: 1, kind: DamageKind::Unreadable };
    assert_eq!(rig.store().damages(None), [named]);
    rig.unreadable.clear();
    assert_eq!(pass(&mut rig).found_blocks, 0);
    assert_eq!(rig.store().damages(None), [], "the device gave it after all");
}

#[test]
fn a_damaged_superblock_is_written_again_and_a_foreign_one_left() {
    let last = usize::try_from(CAPACITY_BYTES).unwrap() - 4096;
    for at in [0, 5, 4000, last, last + 77] {
        let (mut rig, _) = filled(44);
        rig.disk.flip(at, 1);
        let status = pass(&mut rig);
        assert_eq!((status.superblocks_bad, status.superblocks_repaired), (1, 1));
        assert_eq!(pass(&mut rig).superblocks_bad, 0);
        assert_eq!(inspect_copies(&mut rig.disk).unwrap().1, Copies::Both);
    }
    let (mut rig, _) = filled(45);
    rig.disk.write(0, &[0xef; 4096]);
    let status = pass(&mut rig);
    assert_eq!((status.superblocks_bad, status.superblocks_repaired), (1, 0));
    let mut block = [0; 4096];
    rig.disk.read(0, &mut block);
    assert_eq!(block, [0xef; 4096], "somebody else's is left as it is");
}

#[test]
fn a_damaged_page_of_the_index_is_told_and_passed_over() {
    let mut rig = Rig::new(46, CAPACITY_BYTES);
    for index in 0..600 {
        assert_eq!(rig.write(chunk(1 + index / 200, index % 200), 0, &[3; 4096]), Answer::Done);
    }
    rig.shutdown();
    rig.open(BOOT).unwrap();
    let path = rig.index_dir().join("data.mdb");
    let mut bytes = std::fs::read(&path).unwrap();
    let mut key = 2u64.to_be_bytes().to_vec();
    key.extend(100u64.to_be_bytes());
    let places: Vec<usize> =
        bytes.windows(16).enumerate().filter(|(_, w)| *w == key).map(|(at, _)| at).collect();
    for at in places {
        bytes[at + 3] ^= 4;
    }
    std::fs::write(&path, bytes).unwrap();
    let status = pass(&mut rig);
    assert_eq!(status.index_gaps, 1);
    assert!((500..600).contains(&status.checked_chunks), "{status:?}");
    let gap = rig.store().damages(None)[0];
    assert_eq!((gap.kind, gap.chunk.ino), (DamageKind::Index, Ino(2)));
    assert_eq!(rig.read(chunk(2, 100), 0, 4096), Answer::Failed(Status::Damaged), "not a hole");
}

/// A check of the rig's target, which is closed.
fn checked(rig: &mut Rig, quick: bool) -> weft_store::CheckReport {
    let params = OpenParams { boot_id: BOOT, ..OpenParams::new(rig.index_dir(), CLUSTER) };
    weft_store::check(&params, &mut rig.disk, quick, &mut |_| ()).unwrap()
}

#[test]
fn a_check_names_what_is_damaged_and_changes_nothing() {
    for clean in [true, false] {
        let (mut rig, blocks) = filled(50);
        if clean {
            rig.shutdown();
        } else {
            rig.kill();
        }
        let seen = checked(&mut rig, false);
        assert!(seen.is_sound(), "{:?}", seen.problems);
        assert_eq!((seen.chunks, seen.blocks, seen.checked_blocks), (5, 88, 88));
        assert_eq!(seen.replayed_records == 0, clean);
        let block = flip(&mut rig, blocks[40]);
        assert!(checked(&mut rig, true).is_sound(), "quick reads no data");
        let seen = checked(&mut rig, false);
        let [Problem::Blocks { chunk, first, count: 1, kind: DamageKind::Mismatch }] =
            seen.problems[..]
        else {
            panic!("{:?}", seen.problems)
        };
        assert_eq!((chunk, first), (blocks[40].0, block));
        rig.disk.flip(30, 2);
        let seen = checked(&mut rig, true);
        assert!(matches!(seen.problems[..], [Problem::Superblock(Copies::OnlySecond)]));
        rig.open(BOOT).unwrap();
        assert_eq!(rig.read(blocks[0].0, 0, 4096), Answer::Read(0, vec![]));
    }
}

#[test]
fn a_check_tells_of_journal_and_index_damage() {
    let (mut rig, _) = filled(51);
    rig.kill();
    rig.disk.flip((1 << 20) + 70, 1);
    rig.disk.flip((1 << 20) + (2 << 20) + 70, 1);
    let seen = checked(&mut rig, false);
    assert!(matches!(&seen.problems[..], [Problem::Whole(error)] if error.kind == Kind::Damaged));
    let (mut rig, _) = filled(52);
    rig.shutdown();
    std::fs::remove_file(rig.index_dir().join("data.mdb")).unwrap();
    let seen = checked(&mut rig, false);
    assert!(matches!(&seen.problems[..], [Problem::Whole(error)] if error.kind == Kind::Missing));
}

#[test]
fn after_a_crash_a_check_names_what_is_uncertain_and_unreadable() {
    let (mut rig, blocks) = filled(53);
    let id = blocks[0].0;
    rig.shutdown();
    rig.open(BOOT).unwrap();
    // An overwrite in place whose data arrives in part: neither the old nor the new block.
    let op = rig.begin_write(id, 2 * 4096, &[0x5a; 4096]);
    let old = unique(id, 4096);
    while rig.disk.find(1 << 20, &old).is_some() && rig.step() {}
    assert!(rig.disk.find(1 << 20, &[0x5a; 4096]).is_some(), "operation {op} wrote in place");
    let at = rig.disk.find(1 << 20, &[0x5a; 4096]).unwrap();
    rig.disk.write(u64::try_from(at).unwrap(), &[0x11; 512]);
    rig.kill();
    let seen = checked(&mut rig, false);
    assert_eq!(seen.uncertain, [(id, 2)]);
    let [Problem::Blocks { chunk, first: 2, count: 1, kind: DamageKind::Mismatch }] =
        seen.problems[..]
    else {
        panic!("{:?}", seen.problems)
    };
    assert_eq!(chunk, id);
    let report = rig.open(BOOT).unwrap();
    assert_eq!(report.damaged, [(id, 2)]);
    assert_eq!(rig.store().damages(None)[0].first, 2, "listed without a scrub");
    assert_eq!(rig.read(id, 2 * 4096, 4096), Answer::Failed(Status::Damaged));
}
