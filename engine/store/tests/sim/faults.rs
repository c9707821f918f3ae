//! Directed tests: damage, device errors, the ends of the journal, refusals.

use crate::rig::{Answer, BOOT, CLUSTER, Faults, Rig};
use weft_store::{
    Copies, FormatParams, Kind, OpenParams, Store, TargetUuid, format_plan, inspect, inspect_copies,
};
use weft_wire::{ChunkId, ChunkIndex, ClusterId, Ino, Status, TargetId};

const CAPACITY_BYTES: u64 = 8 << 20;
const CHUNK: ChunkId = ChunkId { ino: Ino(1), index: ChunkIndex(0) };

fn rig(seed: u64) -> Rig {
    Rig::new(seed, CAPACITY_BYTES)
}

fn pattern(seed: u8, count: usize) -> Vec<u8> {
    (0..count).map(|at| u8::try_from(at % 251).unwrap() ^ seed).collect()
}

#[test]
fn holes_partial_blocks_and_short_ends_read_as_written() {
    let mut rig = rig(1);
    assert_eq!(rig.read(CHUNK, 0, 100), Answer::Read(0, vec![]));
    assert_eq!(rig.write(CHUNK, 3 * 4096 + 100, b"hello"), Answer::Done);
    let Answer::Read(2, bytes) = rig.read(CHUNK, 2 * 4096, 8 * 4096) else { panic!() };
    assert_eq!(bytes.len(), 2 * 4096, "the hole before, not the one behind");
    assert_eq!(&bytes[4096 + 100..4096 + 105], b"hello");
    assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 5);
    assert_eq!(rig.write(CHUNK, 3 * 4096 + 103, b"LOW"), Answer::Done);
    assert_eq!(rig.truncate(Ino(1), 1, Some((0, 3 * 4096 + 102))), Answer::Done);
    assert_eq!(rig.write(CHUNK, 3 * 4096 + 200, b"x"), Answer::Done);
    let Answer::Read(3, bytes) = rig.read(CHUNK, 3 * 4096, 1) else { panic!() };
    assert_eq!(&bytes[100..106], b"he\0\0\0\0", "what was cut off reads as zeros");
    let list = rig.store().chunk_list(Ino(1), ChunkIndex(0)).unwrap();
    assert_eq!((list.chunks.len(), list.more), (1, false));
    assert_eq!(list.chunks[0].blocks_written, 1);
}

#[test]
fn appends_lie_in_one_run() {
    let mut rig = rig(2);
    for block in 0..16 {
        assert_eq!(rig.write(CHUNK, block * 4096, &pattern(3, 4096)), Answer::Done);
    }
    let list = rig.store().chunk_list(Ino(1), ChunkIndex(0)).unwrap();
    assert_eq!((list.chunks[0].blocks_written, list.chunks[0].extent_count), (16, 1));
}

#[test]
fn concurrent_syncs_share_a_flush() {
    let mut rig = rig(3);
    assert_eq!(rig.write(CHUNK, 0, &[1; 4096]), Answer::Done);
    let syncs: Vec<u64> = (0..10).map(|ino| rig.begin_sync(Ino(ino))).collect();
    rig.settle();
    assert!(syncs.iter().all(|op| rig.answers.remove(op) == Some(Answer::Done)));
    assert_eq!(rig.store().counters().flushes, 1);
    assert_eq!(rig.sync(), Answer::Done);
    assert_eq!(rig.store().counters().flushes, 1, "nothing new: nothing to flush");
}

#[test]
fn an_intent_is_flushed_once_per_chunk_and_interval() {
    let mut rig = rig(4);
    assert_eq!(rig.write(CHUNK, 0, &[1; 16 * 4096]), Answer::Done);
    assert_eq!(rig.write(CHUNK, 0, &[1; 4096]), Answer::Done);
    assert_eq!(rig.store().counters().intents, 0, "written just now: it moves");
    let checkpoint = |rig: &mut Rig| {
        for _ in 0..8 {
            rig.tick();
            rig.settle();
        }
    };
    checkpoint(&mut rig);
    assert_eq!(rig.store().counters().flushes, 1);
    for block in 0..8 {
        assert_eq!(rig.write(CHUNK, block * 4096, &[7; 4096]), Answer::Done);
    }
    let counters = *rig.store().counters();
    assert_eq!((counters.intents, counters.intent_flushes, counters.flushes), (8, 1, 2));
    checkpoint(&mut rig);
    assert_eq!(rig.write(CHUNK, 4096, &[1; 4096]), Answer::Done);
    assert_eq!(rig.store().counters().intent_flushes, 2);
    rig.kill();
    let report = rig.open(BOOT).unwrap();
    assert_eq!(report.uncertain, [CHUNK]);
}

#[test]
fn flipped_data_is_damaged_until_rewritten() {
    let mut rig = rig(5);
    let bytes = pattern(9, 3 * 4096);
    assert_eq!(rig.write(CHUNK, 0, &bytes), Answer::Done);
    rig.shutdown();
    let at = rig.disk.find(5 << 20, &bytes[..64]).unwrap();
    rig.disk.flip(at + 4096 + 77, 3);
    rig.open(BOOT).unwrap();
    assert_eq!(rig.read(CHUNK, 0, 3 * 4096), Answer::Failed(Status::Damaged));
    assert_eq!(rig.write(CHUNK, 5000, b"part"), Answer::Failed(Status::Damaged));
    assert_eq!(rig.truncate(Ino(1), 1, Some((0, 5000))), Answer::Done, "it can be cut through");
    assert_eq!(rig.read(CHUNK, 4096, 4096), Answer::Failed(Status::Damaged), "and stays damaged");
    assert_eq!(rig.read(CHUNK, 0, 4096), Answer::Read(0, bytes[..4096].to_vec()), "the others are");
    assert_eq!(rig.store().counters().damaged_blocks, 4);
    assert_eq!(rig.write(CHUNK, 4096, &bytes[4096..]), Answer::Done);
    assert_eq!(rig.read(CHUNK, 0, 3 * 4096), Answer::Read(0, bytes));
}

#[test]
fn a_cut_through_a_block_that_cannot_be_read_ends_and_names_it() {
    let mut rig = rig(6);
    let bytes = pattern(10, 3 * 4096);
    assert_eq!(rig.write(CHUNK, 0, &bytes), Answer::Done);
    let at = rig.disk.find(5 << 20, &bytes[..64]).unwrap();
    rig.unreadable.push(u64::try_from(at + 4096).unwrap());
    // Where nothing can be written either, nothing is given up.
    rig.faults.data = true;
    let failed = (0..200).find(|_| {
        let answer = rig.truncate(Ino(1), 1, Some((0, 5000)));
        let whole = rig.read(CHUNK, 0, 4096);
        assert_eq!(whole, Answer::Read(0, bytes[..4096].to_vec()));
        answer == Answer::Failed(Status::Io) || answer == Answer::Done
    });
    assert!(failed.is_some());
    rig.faults.data = false;
    assert_eq!(rig.truncate(Ino(1), 1, Some((0, 5000))), Answer::Done, "it is not tried for ever");
    rig.unreadable.clear();
    assert_eq!(rig.read(CHUNK, 4096, 4096), Answer::Failed(Status::Damaged), "never other bytes");
    let named = rig.store().damages(None);
    assert_eq!((named[0].chunk, named[0].first, named[0].count), (CHUNK, 1, 1));
    assert_eq!(rig.read(CHUNK, 0, 4096), Answer::Read(0, bytes[..4096].to_vec()), "the others are");
    // A device that stumbles once loses nothing.
    assert_eq!(rig.write(CHUNK, 4096, &bytes[4096..]), Answer::Done);
    rig.unreadable.push(u64::try_from(rig.disk.find(5 << 20, &bytes[8192..]).unwrap()).unwrap());
    let cut = rig.begin_truncate(Ino(1), 1, Some((0, 9000)));
    rig.unreadable.clear();
    assert_eq!(rig.finish(cut), Answer::Done);
    assert_eq!(rig.read(CHUNK, 8192, 808), Answer::Read(2, kept(&bytes[8192..9000])));
}

/// A block of which so much was kept.
fn kept(bytes: &[u8]) -> Vec<u8> {
    let mut block = bytes.to_vec();
    block.resize(4096, 0);
    block
}

#[test]
fn a_damaged_superblock_is_told_and_the_other_used() {
    let mut rig = rig(6);
    rig.shutdown();
    let last = usize::try_from(CAPACITY_BYTES).unwrap() - 4096;
    for bit in (0..4096 * 8).step_by(61) {
        rig.disk.flip(bit / 8, u8::try_from(bit % 8).unwrap());
        assert_eq!(inspect_copies(&mut rig.disk).unwrap().1, Copies::OnlySecond, "bit {bit}");
        rig.disk.flip(bit / 8, u8::try_from(bit % 8).unwrap());
    }
    rig.disk.flip(last + 40, 1);
    assert_eq!(rig.open(BOOT).unwrap().copies, Copies::OnlyFirst);
    rig.store = None;
    rig.disk.flip(20, 1);
    assert_eq!(inspect(&mut rig.disk).unwrap_err().kind, Kind::Damaged);
    rig.disk.flip(0, 1);
    assert_eq!(inspect(&mut rig.disk).unwrap_err().kind, Kind::Damaged, "the other had the magic");
    rig.disk.flip(last, 1);
    assert_eq!(inspect(&mut rig.disk).unwrap_err().kind, Kind::Foreign);
}

#[test]
fn another_file_system_over_a_target_is_not_opened() {
    let zeros = [0; 4096];
    // Whether the program zeroed the first block, and what it wrote where.
    let cases: [(&str, bool, u64, &[u8]); 6] = [
        ("XFS", false, 0, &[b'X'; 512]),
        ("ext4 after mke2fs zapped the boot block", true, 1024, &[0x53; 200]),
        ("a partition table", true, 446, &[0x55; 66]),
        ("btrfs", true, 64 << 10, b"_BHRfS_M"),
        ("RAID", true, 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
        ("noise", false, 0, &[0xa5; 4096]),
    ];
    for (name, zeroed, at, bytes) in cases {
        let mut rig = rig(6);
        rig.shutdown();
        if zeroed {
            rig.disk.write(0, &zeros);
        }
        rig.disk.write(at, bytes);
        assert_eq!(inspect(&mut rig.disk).unwrap_err().kind, Kind::Overwritten, "{name}");
        assert_eq!(rig.open(BOOT).unwrap_err().kind, Kind::Overwritten, "{name}");
    }
    let mut rig = rig(6);
    rig.shutdown();
    rig.disk.write(0, &zeros);
    assert_eq!(rig.open(BOOT).unwrap().copies, Copies::OnlySecond, "zeros are nobody's");
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let mut rig = rig(7);
    let open = |rig: &mut Rig, cluster, dir| {
        Store::open(OpenParams::new(dir, cluster), &mut rig.disk).map(|_| ()).unwrap_err().kind
    };
    let dir = rig.index_dir();
    assert_eq!(open(&mut rig, CLUSTER, dir.clone()), Kind::Busy, "open already");
    rig.shutdown();
    assert_eq!(open(&mut rig, ClusterId([8; 16]), dir), Kind::Mismatch);
    let mut params = FormatParams {
        cluster: CLUSTER,
        target_uuid: TargetUuid([1; 16]),
        target_id: TargetId(1),
        capacity_bytes: CAPACITY_BYTES,
    };
    let other = rig.dir.path().join("other");
    Store::create_index(&other, &format_plan(&params).unwrap().superblock).unwrap();
    assert_eq!(open(&mut rig, CLUSTER, other), Kind::Mismatch);
    let none = rig.dir.path().join("none");
    assert_eq!(open(&mut rig, CLUSTER, none), Kind::Missing);
    params.capacity_bytes = 5 << 20;
    assert_eq!(format_plan(&params).unwrap_err().kind, Kind::TooSmall);
    params.cluster = ClusterId([0; 16]);
    assert_eq!(format_plan(&params).unwrap_err().kind, Kind::Invalid);
}

#[test]
fn an_index_older_than_the_journal_is_refused() {
    let mut rig = rig(8);
    let backup = rig.dir.path().join("backup");
    let write_and_checkpoint = |rig: &mut Rig, value| {
        assert_eq!(rig.write(CHUNK, 0, &[value; 4096]), Answer::Done);
        rig.shutdown();
        rig.open(BOOT).unwrap();
    };
    write_and_checkpoint(&mut rig, 1);
    rig.shutdown();
    std::fs::create_dir(&backup).unwrap();
    std::fs::copy(rig.index_dir().join("data.mdb"), backup.join("data.mdb")).unwrap();
    rig.open(BOOT).unwrap();
    for value in 2..5 {
        write_and_checkpoint(&mut rig, value);
    }
    rig.store = None;
    std::fs::copy(backup.join("data.mdb"), rig.index_dir().join("data.mdb")).unwrap();
    assert_eq!(rig.open(BOOT).unwrap_err().kind, Kind::Mismatch);
}

#[test]
fn a_flipped_journal_record_before_the_last_is_damage() {
    for synced in [false, true] {
        let mut rig = rig(9);
        rig.dirty_chunks_max = 1000;
        rig.shutdown();
        rig.open(BOOT).unwrap();
        for block in 0..4 {
            assert_eq!(rig.write(CHUNK, block * 4096, &pattern(5, 4096)), Answer::Done);
            if synced {
                assert_eq!(rig.sync(), Answer::Done);
            }
        }
        rig.kill();
        let nonce: Vec<u8> = (u64::from_le_bytes([3; 8])
            ^ u64::from_le_bytes([3; 8]).rotate_left(1))
        .to_le_bytes()
        .to_vec();
        let start = rig.disk.find(1 << 20, &nonce).unwrap();
        let second = rig.disk.find(start + 8, &nonce).unwrap();
        rig.disk.flip(second + 30, 2);
        // The machine never stopped, or a mark says that it was durable.
        let boot = if synced { [0; 16] } else { BOOT };
        assert_eq!(rig.open(boot).unwrap_err().kind, Kind::Damaged, "synced: {synced}");
        rig.disk.flip(second + 30, 2);
        assert!(rig.open(boot).unwrap().replayed_records > 0);
        assert_eq!(rig.read(CHUNK, 0, 4096), Answer::Read(0, pattern(5, 4096)));
    }
}

#[test]
fn the_journal_wraps_many_times() {
    let mut rig = rig(10);
    rig.dirty_chunks_max = 1_000_000;
    rig.shutdown();
    rig.open(BOOT).unwrap();
    let mut value = 0u8;
    for _ in 0..8_000 {
        value = value.wrapping_add(1);
        let op = rig.begin_write(CHUNK, 0, &vec![value; 200 * 4096]);
        assert_eq!(rig.finish(op), Answer::Done);
        if rig.store().counters().checkpoints >= 3 {
            break;
        }
    }
    assert!(rig.store().counters().checkpoints >= 3, "half full segments are left");
    rig.kill();
    rig.open(BOOT).unwrap();
    assert_eq!(rig.read(CHUNK, 0, 4096), Answer::Read(0, vec![value; 4096]));
}

#[test]
fn a_failed_append_or_flush_makes_the_target_read_only() {
    let journal = Faults { journal: true, ..Faults::default() };
    let flush = Faults { flush: true, ..Faults::default() };
    for (seed, faults) in (0..20).flat_map(|seed| [(seed, journal), (seed, flush)]) {
        let mut rig = rig(seed);
        assert_eq!(rig.write(CHUNK, 0, &pattern(1, 4096)), Answer::Done);
        assert_eq!(rig.sync(), Answer::Done);
        rig.faults = faults;
        let mut acknowledged = pattern(1, 4096);
        let mut failed = false;
        for value in 0..200 {
            let bytes = vec![value; 4096];
            match rig.write(CHUNK, 0, &bytes) {
                Answer::Done => acknowledged = bytes,
                Answer::Failed(Status::Io) => failed = true,
                Answer::Failed(Status::ReadOnly) => break,
                answer => panic!("{answer:?}"),
            }
            match rig.sync() {
                Answer::Done => assert!(!failed, "nothing is acknowledged after a failure"),
                Answer::Failed(Status::Io) => failed = true,
                answer => panic!("{answer:?}"),
            }
        }
        assert!(failed && rig.store().is_read_only());
        assert_eq!(rig.truncate(Ino(1), 0, None), Answer::Failed(Status::ReadOnly));
        rig.faults = Faults::default();
        rig.shutdown();
        rig.open(BOOT).unwrap();
        let Answer::Read(0, bytes) = rig.read(CHUNK, 0, 4096) else { panic!("seed {seed}") };
        let newer = bytes.iter().all(|byte| *byte == bytes[0]);
        assert!(bytes == acknowledged || newer, "acknowledged, or a later one that was not");
    }
}

#[test]
fn failed_data_writes_fail_their_write_only() {
    let mut failures = 0;
    for seed in 0..10 {
        let mut rig = rig(seed);
        for number in 0..60u8 {
            let chunk = ChunkId { ino: Ino(1), index: ChunkIndex(u64::from(number % 7)) };
            let before = rig.read(chunk, 0, 64 * 4096);
            rig.faults = Faults { data: true, reads: true, ..Faults::default() };
            let bytes = vec![number; 3000];
            let offset = u32::from(number) * 3000;
            let answer = rig.write(chunk, offset, &bytes);
            rig.faults = Faults::default();
            let after = rig.read(chunk, 0, 64 * 4096);
            match answer {
                Answer::Done => assert_ne!(before, after),
                Answer::Failed(Status::Io) => {
                    failures += 1;
                    assert_eq!(before, after, "the old blocks are where they were");
                }
                answer => panic!("{answer:?}"),
            }
        }
        assert!(!rig.store().is_read_only());
        assert_eq!(rig.truncate(Ino(1), 0, None), Answer::Done);
        assert_eq!(rig.sync(), Answer::Done);
        assert_eq!(rig.store().space().used_bytes, 0, "nothing leaked");
    }
    assert!(failures > 20);
}

#[test]
fn a_bad_payload_and_bad_ranges_are_refused() {
    use weft_store::Action;
    use weft_wire::data::ChunkRange;
    let mut rig = rig(11);
    let pool = rig.pool.clone();
    let mut refused = |range: ChunkRange, sums: Vec<u32>, capacity: usize| {
        let slot = pool.alloc(capacity).unwrap();
        let mut out = Vec::new();
        rig.store().write(1, range, sums, slot, &pool, &mut out);
        match out.as_slice() {
            [Action::Reply { op: 1, result: Err(status) }] => *status,
            other => panic!("{other:?}"),
        }
    };
    let range = |offset, bytes| ChunkRange { chunk: CHUNK, offset, bytes };
    assert_eq!(refused(range(0, 4096), vec![1], 4096), Status::Damaged);
    assert_eq!(refused(range(0, 4096), vec![], 4096), Status::Protocol);
    assert_eq!(refused(range(4095, 2), vec![1, 2], 4096), Status::Protocol, "payload too short");
    assert_eq!(refused(range(0, 0), vec![], 4096), Status::Invalid);
    assert_eq!(refused(range((4 << 20) - 1, 2), vec![1, 2], 8192), Status::Invalid);
    assert_eq!(refused(range(u32::MAX, u32::MAX), vec![], 8192), Status::Invalid);
    assert_eq!(rig.store().counters().payload_mismatches, 1);
    assert_eq!(rig.truncate(Ino(1), 9, Some((0, u32::MAX))), Answer::Failed(Status::Invalid));
    assert_eq!(rig.store().space().used_bytes, 0);
}

#[test]
fn without_buffers_the_answer_is_busy_and_nothing_is_lost() {
    let mut rig = rig(12);
    assert_eq!(rig.write(CHUNK, 0, &[1; 8192]), Answer::Done);
    let held: Vec<_> = std::iter::from_fn(|| rig.pool.alloc(4096)).collect();
    assert_eq!(rig.read(CHUNK, 0, 8192), Answer::Failed(Status::Busy));
    assert_eq!(rig.truncate(Ino(1), 1, Some((0, 100))), Answer::Failed(Status::Busy));
    drop(held);
    assert_eq!(rig.read(CHUNK, 0, 8192), Answer::Read(0, vec![1; 8192]));
    assert_eq!(rig.truncate(Ino(1), 0, None), Answer::Done);
    assert_eq!(rig.sync(), Answer::Done);
    assert_eq!(rig.store().space().used_bytes, 0);
}

/// What a sync promised and the device does not give is an error, not what was there before.
#[test]
fn a_promised_block_that_cannot_be_read_at_open_does_not_fall_back() {
    for promised in [true, false] {
        let mut rig = rig(40);
        assert_eq!(rig.write(CHUNK, 0, &pattern(1, 4096)), Answer::Done);
        assert_eq!((rig.sync(), rig.sync()), (Answer::Done, Answer::Done));
        // Covered in part: it goes to a new place.
        assert_eq!(rig.write(CHUNK, 0, b"the new one"), Answer::Done);
        if promised {
            assert_eq!(rig.sync(), Answer::Done);
        }
        rig.disk.unreadable = rig.disk.find(5 << 20, b"the new one");
        rig.power_loss();
        let report = rig.open([1; 16]).unwrap();
        let found = rig.read(CHUNK, 0, 4096);
        if promised {
            assert_eq!((report.reverted_blocks, report.damaged), (0, vec![(CHUNK, 0)]));
            // The test's device gives it again: nothing was taken in its place.
            let Answer::Read(0, bytes) = found else { panic!("{found:?}") };
            assert_eq!(&bytes[..11], b"the new one");
        } else {
            assert_eq!((report.damaged_blocks, found), (0, Answer::Read(0, pattern(1, 4096))));
        }
    }
}
