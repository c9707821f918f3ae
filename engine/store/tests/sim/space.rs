//! Directed tests: discards, growth, and what happens when nothing is free.

use std::collections::BTreeSet;

use crate::rig::{Answer, BOOT, Faults, Rig};
use weft_store::{Copies, inspect_copies};
use weft_wire::data::{ChunkRange, ZeroHow};
use weft_wire::{ChunkId, ChunkIndex, Ino, Status};

const CAPACITY_BYTES: u64 = 8 << 20;
const CHUNK: ChunkId = ChunkId { ino: Ino(1), index: ChunkIndex(0) };

fn rig(seed: u64) -> Rig {
    Rig::new(seed, CAPACITY_BYTES)
}

fn chunk(index: u64) -> ChunkId {
    ChunkId { ino: Ino(2), index: ChunkIndex(index) }
}

fn ticks(rig: &mut Rig, count: u32) {
    for _ in 0..count {
        rig.tick();
        rig.settle();
    }
}

/// Writes chunks of 64 KiB until nothing more fits; how many did.
fn fill(rig: &mut Rig) -> u64 {
    for index in 0.. {
        match rig.write(chunk(index), 0, &[0x11; 65536]) {
            Answer::Done => {}
            Answer::Failed(Status::NoSpace) => return index,
            answer => panic!("{answer:?}"),
        }
    }
    unreachable!("a device has an end")
}

/// Ticks until nothing is discarded any more; what was counted.
fn discarded(rig: &mut Rig) -> weft_store::Counters {
    loop {
        let before = *rig.store().counters();
        ticks(rig, 12);
        if rig.store().counters().discards == before.discards {
            return before;
        }
    }
}

#[test]
fn what_was_to_be_discarded_when_the_process_died_is_discarded_by_the_next() {
    let mut rig = rig(3);
    assert_eq!(rig.write(CHUNK, 0, &[5; 2 << 20]), Answer::Done);
    assert_eq!(rig.write(chunk(9), 0, &[7; 4096]), Answer::Done);
    discarded(&mut rig);
    assert_eq!(rig.truncate(Ino(1), 0, None), Answer::Done);
    assert_eq!(rig.sync(), Answer::Done);
    rig.kill();
    rig.open(BOOT).unwrap();
    let used = rig.store().space().used_bytes;
    let total = rig.store().space().total_bytes;
    let counters = discarded(&mut rig);
    // Pieces of less than 64 KiB at the ends of a range stay.
    assert!(counters.discard_bytes + used + (256 << 10) > total, "{counters:?} {used} {total}");
    assert_eq!(rig.read(chunk(9), 0, 4096), Answer::Read(0, vec![7; 4096]));
}

/// Blocks written lately move when they are written again (`recent`): not each into another free megabyte.
#[test]
fn after_small_overwrites_a_long_write_is_still_one_operation_of_the_device() {
    let mut rig = rig(4);
    assert_eq!(rig.write(CHUNK, 0, &[5; 1 << 20]), Answer::Done);
    for block in 0..100 {
        assert_eq!(rig.write(CHUNK, 2 * block * 4096, &[6; 4096]), Answer::Done);
    }
    rig.begin_write(chunk(0), 0, &[7; 1 << 20]);
    assert_eq!(rig.io_count(), 1);
    rig.settle();
    assert_eq!(rig.read(chunk(0), 0, 1 << 20), Answer::Read(0, vec![7; 1 << 20]));
    let mixed = [[6; 4096], [5; 4096]].concat();
    assert_eq!(rig.read(CHUNK, 198 * 4096, 8192), Answer::Read(198, mixed));
}

#[test]
fn freed_space_is_discarded_after_a_checkpoint() {
    let mut rig = rig(1);
    assert_eq!(rig.write(CHUNK, 0, &[5; 2 << 20]), Answer::Done);
    let free_at_open = discarded(&mut rig);
    assert_eq!(rig.truncate(Ino(1), 1, Some((0, 1 << 20))), Answer::Done);
    assert_eq!(rig.sync(), Answer::Done);
    rig.tick();
    assert_eq!(rig.store().counters().discards, free_at_open.discards, "not before a checkpoint");
    let counters = discarded(&mut rig);
    assert_eq!(counters.discards, free_at_open.discards + 1);
    let bytes = counters.discard_bytes - free_at_open.discard_bytes;
    assert!(bytes >= 1 << 20, "and what is free beside it");
    assert_eq!(rig.store().space().used_bytes, 1 << 20);
    assert_eq!(rig.read(CHUNK, 0, 2 << 20), Answer::Read(0, vec![5; 1 << 20]));
    rig.faults = Faults { discard: true, ..Faults::default() };
    assert_eq!(rig.truncate(Ino(1), 0, None), Answer::Done);
    for _ in 0..20 {
        assert_eq!(rig.write(CHUNK, 0, &[6; 1 << 20]), Answer::Done);
        assert_eq!(rig.truncate(Ino(1), 0, None), Answer::Done);
        ticks(&mut rig, 8);
    }
    assert_eq!(rig.store().discard_refused(), Some(5));
    assert!(!rig.store().is_read_only(), "a discard is advice");
    assert_eq!((rig.store().counters().io_errors, rig.store().space().used_bytes), (0, 0));
    let discards = rig.store().counters().discards;
    assert_eq!(rig.write(CHUNK, 0, &[6; 1 << 20]), Answer::Done);
    assert_eq!(rig.truncate(Ino(1), 0, None), Answer::Done);
    ticks(&mut rig, 12);
    assert_eq!(rig.store().counters().discards, discards, "not asked again");
}

#[test]
fn a_write_waits_for_blocks_under_discard() {
    let mut rig = rig(2);
    let count = fill(&mut rig);
    ticks(&mut rig, 8);
    assert_eq!(rig.truncate(Ino(2), 0, None), Answer::Done);
    assert_eq!(rig.sync(), Answer::Done);
    let mut waiting = Vec::new();
    // Ticks without completions behind them leave the discard under way.
    for _ in 0..40 {
        rig.tick();
        if rig.discarding() {
            break;
        }
        rig.step();
    }
    assert!(rig.discarding());
    assert_eq!(rig.store().space().used_bytes, 0);
    for index in 0..count {
        waiting.push(rig.begin_write(chunk(index), 0, &[0x12; 65536]));
    }
    assert!(rig.store().counters().parked > 0);
    rig.settle();
    for op in waiting {
        assert_eq!(rig.answers.remove(&op), Some(Answer::Done));
    }
    assert_eq!(rig.read(chunk(0), 0, 65536), Answer::Read(0, vec![0x12; 65536]));
}

#[test]
fn a_full_target_that_grows_takes_more() {
    let mut rig = rig(3);
    let before = fill(&mut rig);
    let longer = CAPACITY_BYTES + (1 << 20) + 4096;
    let op = rig.begin_grow(longer);
    let other = rig.begin_grow(longer);
    assert_eq!(rig.finish(op), Answer::Done);
    assert_eq!(rig.answers.remove(&other), Some(Answer::Failed(Status::Busy)));
    let op = rig.begin_grow(CAPACITY_BYTES);
    assert_eq!(rig.finish(op), Answer::Failed(Status::Invalid), "shorter");
    let op = rig.begin_grow(longer);
    assert_eq!(rig.finish(op), Answer::Done, "as long as it is");
    assert_eq!(rig.store().superblock().areas.capacity_bytes, longer);
    let after = fill(&mut rig);
    assert!(after >= before + 16, "{before} chunks of 64 KiB before, {after} after 1 MiB more");
    rig.shutdown();
    assert_eq!(rig.open(BOOT).unwrap().copies, Copies::Both);
    assert_eq!(rig.read(chunk(after - 1), 0, 65536), Answer::Read(0, vec![0x11; 65536]));
    rig.shutdown();
    rig.disk.flip(100, 1);
    let (superblock, copies) = inspect_copies(&mut rig.disk).unwrap();
    assert_eq!((superblock.areas.capacity_bytes, copies), (longer, Copies::OnlySecond));
    rig.disk.flip(100, 1);
    rig.disk.flip(usize::try_from(longer).unwrap() - 4000, 1);
    assert_eq!(rig.open(BOOT).unwrap().copies, Copies::OnlyFirst);
}

/// Its map of free blocks takes memory from the chunk records, half of it at most.
#[test]
fn a_target_grows_within_its_memory() {
    let mut rig = rig(3);
    // 64 KiB are for records: 32 KiB are a map of 1 GiB and more.
    let op = rig.begin_grow(2 << 30);
    assert_eq!(rig.finish(op), Answer::Failed(Status::TooBig));
    let op = rig.begin_grow(900 << 20);
    assert_eq!(rig.finish(op), Answer::Done);
    let op = rig.begin_grow(1200 << 20);
    assert_eq!(rig.finish(op), Answer::Failed(Status::TooBig), "what is lent is lent");
    assert_eq!(rig.write(CHUNK, 0, &[8; 65536]), Answer::Done);
}

#[test]
fn a_full_target_rewrites_cuts_and_removes_and_loses_no_block() {
    let mut rig = rig(5);
    let empty = rig.store().space().free_bytes;
    let mut fills = BTreeSet::new();
    for turn in 0..3u8 {
        let count = fill(&mut rig);
        fills.insert(count);
        let mut last = 0;
        while rig.write(chunk(count), last * 4096, &[0x11; 4096]) == Answer::Done {
            last += 1;
        }
        assert_eq!(rig.write(chunk(count + 1), 0, b"x"), Answer::Failed(Status::NoSpace));
        assert_eq!(rig.write(chunk(0), 65536, &[1; 4096]), Answer::Failed(Status::NoSpace));
        let mut want = vec![0x11; 65536];
        for index in 0..16u64 {
            // Whole blocks stay where they are or move; parts of blocks move: the reserve is for that.
            assert_eq!(rig.write(chunk(index), 4096, &[turn; 8192]), Answer::Done);
            assert_eq!(rig.write(chunk(index), 20_000, &[0x99; 100]), Answer::Done);
        }
        want[4096..4096 + 8192].fill(turn);
        want[20_000..20_100].fill(0x99);
        assert_eq!(rig.read(chunk(3), 0, 65536), Answer::Read(0, want.clone()));
        if turn == 1 {
            rig.kill();
            rig.open(BOOT).unwrap();
        }
        for index in 0..8u64 {
            assert_eq!(rig.truncate(Ino(2), index + 1000, Some((index, 50_001))), Answer::Done);
        }
        want.truncate(13 * 4096);
        want[50_001..].fill(0);
        assert_eq!(rig.read(chunk(3), 0, 65536), Answer::Read(0, want));
        assert_eq!(rig.truncate(Ino(2), 0, None), Answer::Done);
        assert_eq!(rig.sync(), Answer::Done);
        assert_eq!(rig.store().space().free_bytes, empty, "every block came back");
    }
    assert_eq!(fills.len(), 1, "as much fits each time: {fills:?}");
}

#[test]
fn a_crash_while_growing_leaves_the_old_length_or_the_new_one() {
    let longer = CAPACITY_BYTES + (3 << 20);
    let mut lengths = BTreeSet::new();
    for (seed, steps) in (0..4).flat_map(|seed| (0..8).map(move |steps| (seed, steps))) {
        let mut rig = rig(seed);
        assert_eq!(rig.write(CHUNK, 0, &[8; 65536]), Answer::Done);
        assert_eq!(rig.sync(), Answer::Done);
        rig.begin_grow(longer);
        (0..steps).for_each(|_| {
            rig.step();
        });
        let done = !rig.answers.is_empty();
        rig.power_loss();
        rig.open([1; 16]).unwrap();
        let length = rig.store().superblock().areas.capacity_bytes;
        assert!(length == longer || (length == CAPACITY_BYTES && !done));
        lengths.insert((length, steps));
        assert_eq!(rig.read(CHUNK, 0, 65536), Answer::Read(0, vec![8; 65536]));
        let op = rig.begin_grow(longer);
        assert_eq!(rig.finish(op), Answer::Done);
        let count = fill(&mut rig);
        assert!(count > (5 << 20) / 65536, "all of it is used: {count}");
        rig.shutdown();
        assert_eq!(rig.open([2; 16]).unwrap().copies, Copies::Both);
        assert_eq!(rig.truncate(Ino(2), 0, None), Answer::Done);
        assert_eq!(rig.store().space().used_bytes, 65536);
    }
    let steps = |length| lengths.iter().filter(|(is, _)| *is == length).count();
    assert!(steps(longer) > 1 && steps(CAPACITY_BYTES) > 3, "{lengths:?}");
}

#[test]
fn a_growth_whose_writes_fail_changes_nothing() {
    let journal = Faults { journal: true, ..Faults::default() };
    let mut failures = 0;
    for seed in 0..20 {
        let mut rig = rig(seed);
        assert_eq!(rig.write(CHUNK, 0, &[8; 65536]), Answer::Done);
        assert_eq!(rig.sync(), Answer::Done);
        rig.faults = journal;
        let op = rig.begin_grow(CAPACITY_BYTES + 65536);
        let answer = rig.finish(op);
        rig.faults = Faults::default();
        if answer == Answer::Failed(Status::Io) {
            failures += 1;
            assert_eq!(rig.store().superblock().areas.capacity_bytes, CAPACITY_BYTES);
        }
        rig.shutdown();
        rig.open(BOOT).unwrap();
        assert_eq!(rig.read(CHUNK, 0, 65536), Answer::Read(0, vec![8; 65536]));
    }
    assert!(failures > 5);
}

/// A hole that is synced reads as zeros, and no less when space was given out there and the power went, whenever it did:
/// nobody would write these zeros again.
#[test]
fn a_power_loss_does_not_make_space_given_out_ahead_unreadable() {
    let range = ChunkRange { chunk: CHUNK, offset: 0, bytes: 8 * 4096 };
    let (mut holes, mut zeros) = (0, 0);
    for seed in 0..60 {
        let mut rig = rig(seed);
        assert_eq!(rig.write(CHUNK, 8 * 4096, &[5; 4096]), Answer::Done);
        // What was there before is not zeros.
        fill(&mut rig);
        assert_eq!(rig.truncate(Ino(2), 0, None), Answer::Done);
        rig.shutdown();
        rig.open(BOOT).unwrap();
        let op = rig.begin_zero(range, ZeroHow::Allocate);
        assert_eq!(rig.finish(op), Answer::Done);
        rig.begin_sync(Ino(1));
        for _ in 0..seed % 3 {
            rig.step();
        }
        rig.power_loss();
        let report = rig.open([77; 16]).unwrap();
        assert_eq!(report.damaged_blocks, 0, "seed {seed}");
        let answer = rig.read(CHUNK, 0, 9 * 4096);
        let Answer::Read(0, bytes) = answer else { panic!("seed {seed}: {answer:?}") };
        assert_eq!(bytes.len(), 9 * 4096);
        assert!(bytes[..8 * 4096].iter().all(|byte| *byte == 0), "seed {seed}");
        assert!(bytes[8 * 4096..].iter().all(|byte| *byte == 5), "seed {seed}");
        let used = rig.store().space().used_bytes / 4096;
        holes += u32::from(report.reverted_blocks > 0);
        zeros += u32::from(used > 1);
        assert!((1..=9).contains(&used));
    }
    assert!(holes > 5 && zeros > 5, "{holes} were taken back, {zeros} have what was given out");
}
