//! What happens while a checkpoint is being written: everything but the next one.

use crate::rig::{Answer, BOOT, Faults, Rig};
use weft_wire::{ChunkId, ChunkIndex, Ino, Status};

const CAPACITY_BYTES: u64 = 8 << 20;
/// Changed chunks that begin a checkpoint, as the rig has it.
const DIRTY_MAX: u64 = 8;

fn chunk(index: u64) -> ChunkId {
    ChunkId { ino: Ino(1), index: ChunkIndex(index) }
}

fn block(value: u64) -> Vec<u8> {
    vec![u8::try_from(value % 251).unwrap(); 4096]
}

fn write(rig: &mut Rig, index: u64, value: u64) -> Answer {
    rig.write(chunk(index), 0, &block(value))
}

fn check(rig: &mut Rig, index: u64, value: u64) {
    assert_eq!(rig.read(chunk(index), 0, 4096), Answer::Read(0, block(value)), "chunk {index}");
}

/// A store in which a checkpoint of chunks `0..DIRTY_MAX` is being written and does not come to its end.
fn writing(seed: u64) -> Rig {
    let mut rig = Rig::new(seed, CAPACITY_BYTES);
    rig.writing_hangs = true;
    for index in 0..DIRTY_MAX {
        assert_eq!(write(&mut rig, index, index), Answer::Done);
    }
    assert!(rig.is_writing() && rig.store().counters().checkpoints == 0);
    rig
}

#[test]
fn what_is_asked_meanwhile_is_answered() {
    let mut rig = writing(1);
    check(&mut rig, 3, 3);
    assert_eq!(write(&mut rig, 3, 100), Answer::Done);
    assert_eq!(write(&mut rig, 50, 50), Answer::Done);
    assert_eq!(rig.truncate(Ino(1), 7, None), Answer::Done);
    assert_eq!(rig.sync(), Answer::Done);
    check(&mut rig, 3, 100);
    assert_eq!(rig.read(chunk(50), 0, 4096), Answer::Read(0, vec![]), "it was cut off");
    assert_eq!(rig.store().space().chunk_count, DIRTY_MAX - 1);
    rig.writing_hangs = false;
    rig.settle();
    assert!(!rig.is_writing() && rig.store().counters().checkpoints == 1);
    // Records that are clean now leave memory, and are read from the index again.
    for index in 100..140 {
        assert_eq!(write(&mut rig, index, index), Answer::Done);
    }
    for index in 0..DIRTY_MAX - 1 {
        check(&mut rig, index, if index == 3 { 100 } else { index });
    }
}

#[test]
fn the_next_checkpoint_waits_and_so_does_what_would_need_it() {
    let mut rig = writing(2);
    let ops: Vec<u64> =
        (20..60).map(|index| rig.begin_write(chunk(index), 0, &block(index))).collect();
    rig.settle();
    let answered = |rig: &Rig| ops.iter().filter(|op| rig.answers.contains_key(op)).count();
    let before = u64::try_from(answered(&rig)).unwrap();
    // Operations that were let in together are all over the bound together.
    assert!(before >= DIRTY_MAX && rig.store().space().dirty_chunk_count >= DIRTY_MAX);
    let more = rig.begin_write(chunk(90), 0, &block(90));
    let removal = rig.begin_truncate(Ino(2), 0, None);
    rig.settle();
    assert!(!rig.answers.contains_key(&more) && !rig.answers.contains_key(&removal));
    check(&mut rig, 1, 1);
    assert_eq!(rig.sync(), Answer::Done, "what waits for the index is no sync");
    rig.writing_hangs = false;
    rig.settle();
    assert_eq!(answered(&rig), ops.len());
    assert_eq!(rig.answers.remove(&more), Some(Answer::Done));
    assert_eq!(rig.answers.remove(&removal), Some(Answer::Done));
    assert!(rig.store().counters().checkpoints >= 2);
    for index in (0..DIRTY_MAX).chain(20..60) {
        check(&mut rig, index, index);
    }
}

#[test]
fn one_at_a_time_changes_stop_at_the_bound() {
    let mut rig = writing(3);
    let mut taken = 0;
    let waits = loop {
        let op = rig.begin_write(chunk(20 + taken), 0, &block(taken));
        rig.settle();
        if rig.answers.remove(&op).is_none() {
            break op;
        }
        taken += 1;
    };
    assert_eq!((taken, rig.store().space().dirty_chunk_count), (DIRTY_MAX, DIRTY_MAX));
    rig.writing_hangs = false;
    rig.settle();
    assert_eq!(rig.answers.remove(&waits), Some(Answer::Done));
}

/// What is left of a full index is for a few changes at a time: more must not gather while a commit is being written.
#[test]
fn a_full_index_bounds_what_changes_meanwhile() {
    const CHUNKS: u64 = 60;
    let mut rig = Rig::new(5, CAPACITY_BYTES);
    for index in 0..CHUNKS {
        assert_eq!(write(&mut rig, index, index), Answer::Done);
    }
    assert_eq!((rig.sync(), rig.sync()), (Answer::Done, Answer::Done));
    rig.kill();
    (rig.dirty_chunks_max, rig.cache_bytes_max) = (1000, 1 << 20);
    rig.index_bytes_max = Some(280 << 10);
    rig.open([2; 16]).unwrap();
    assert_eq!(write(&mut rig, 900, 1), Answer::Failed(Status::NoSpace));
    rig.writing_hangs = true;
    let mut taken = 0;
    let waits = loop {
        let op = rig.begin_write(chunk(taken), 0, &block(100 + taken));
        rig.settle();
        if rig.answers.remove(&op).is_none() {
            break op;
        }
        taken += 1;
        assert!(taken < 30 && !rig.store().is_read_only(), "{taken}");
    };
    assert!(rig.is_writing());
    let removal = rig.begin_truncate(Ino(1), 50, None);
    rig.writing_hangs = false;
    rig.settle();
    assert_eq!(rig.answers.remove(&waits), Some(Answer::Done));
    assert_eq!(rig.answers.remove(&removal), Some(Answer::Done));
    for index in 0..50 {
        check(&mut rig, index, if index <= taken { 100 + index } else { index });
    }
    assert!(!rig.store().is_read_only());
}

#[test]
fn a_crash_at_any_moment_of_it_loses_nothing() {
    for seed in 0..60 {
        let mut rig = writing(seed);
        let moment = seed % 3;
        for index in 0..4 {
            assert_eq!(write(&mut rig, index + 3, 100 + index), Answer::Done);
        }
        if moment > 0 {
            rig.write_on(); // It is in the index, and the store does not know.
        }
        // Overwritten and moved, back and forth, before the store hears of it and after.
        for round in 0..3 {
            assert_eq!(rig.sync(), Answer::Done);
            for index in 0..4 {
                assert_eq!(write(&mut rig, index, 200 + round), Answer::Done);
            }
        }
        if moment > 1 {
            rig.write_on();
        }
        assert_eq!(rig.sync(), Answer::Done);
        let boot = if seed % 2 == 0 {
            rig.power_loss();
            [1; 16]
        } else {
            rig.kill();
            BOOT
        };
        let report = rig.open(boot).unwrap();
        assert_eq!(report.damaged_blocks, 0, "{report:?}");
        for index in 0..DIRTY_MAX {
            let value = match index {
                0..4 => 202,
                4..7 => 100 + index - 3,
                _ => index,
            };
            check(&mut rig, index, value);
        }
        rig.writing_hangs = false;
        assert_eq!(rig.truncate(Ino(1), 0, None), Answer::Done);
        assert_eq!(rig.sync(), Answer::Done);
        assert_eq!(rig.store().space().used_bytes, 0);
    }
}

#[test]
fn one_that_cannot_be_written_ends_changes_and_loses_nothing() {
    let mut rig = Rig::new(5, CAPACITY_BYTES);
    for index in 100..100 + DIRTY_MAX {
        assert_eq!(write(&mut rig, index, index), Answer::Done);
    }
    assert_eq!(rig.store().counters().checkpoints, 1);
    let losses = rig.store().loss_count();
    rig.writing_hangs = true;
    rig.faults = Faults { index: true, ..Faults::default() };
    for index in 0..DIRTY_MAX {
        assert_eq!(write(&mut rig, index, index), Answer::Done);
    }
    let ops: Vec<u64> =
        (20..60).map(|index| rig.begin_write(chunk(index), 0, &block(index))).collect();
    rig.settle();
    let waits = rig.begin_write(chunk(90), 0, &block(90));
    rig.settle();
    assert!(!rig.answers.contains_key(&waits));
    rig.writing_hangs = false;
    rig.settle();
    assert!(rig.store().is_read_only() && rig.store().counters().checkpoints == 1);
    assert_eq!(rig.answers.remove(&waits), Some(Answer::Failed(Status::ReadOnly)));
    assert!(ops.iter().all(|op| rig.answers.contains_key(op)), "each has an answer");
    let syncs_fail = rig.sync();
    assert_eq!(syncs_fail, Answer::Failed(Status::Io));
    // Read from memory, and from the index as it was.
    for index in (0..DIRTY_MAX).chain(100..100 + DIRTY_MAX) {
        check(&mut rig, index, index);
    }
    rig.faults = Faults::default();
    rig.shutdown();
    rig.open(BOOT).unwrap();
    assert_ne!(rig.store().loss_count(), losses, "clients are told");
    for index in (0..DIRTY_MAX).chain(100..100 + DIRTY_MAX) {
        check(&mut rig, index, index);
    }
}

#[test]
fn the_end_waits_for_it_whatever_else_failed() {
    for fails in [false, true] {
        let mut rig = writing(6);
        rig.begin_shutdown();
        rig.faults.flush = fails;
        rig.settle();
        assert!(!rig.stopped);
        rig.write_on();
        rig.settle();
        assert!(!rig.stopped, "the store has not heard");
        rig.write_on();
        rig.writing_hangs = false;
        rig.settle();
        assert!(rig.stopped);
        rig.faults = Faults::default();
        let report = rig.open(BOOT).unwrap();
        assert_eq!(report.replayed_records, 0, "all of it is in the index");
    }
}

#[test]
fn a_removal_that_it_cuts_short_is_not_refused_as_if_nothing_had_gone() {
    let mut rig = writing(7);
    for index in 20..24 {
        assert_eq!(write(&mut rig, index, index), Answer::Done);
    }
    rig.faults.index = true;
    let removal = rig.begin_truncate(Ino(1), 0, None);
    rig.settle();
    assert!(!rig.answers.contains_key(&removal), "its next step waits");
    assert_eq!(rig.store().space().chunk_count, 4);
    rig.writing_hangs = false;
    rig.settle();
    assert_eq!(rig.answers.remove(&removal), Some(Answer::Failed(Status::Io)));
}
