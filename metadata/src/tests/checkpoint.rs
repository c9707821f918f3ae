//! Checkpoints that are under way: what goes on meanwhile, what waits, and crashes at each of their moments.

use super::*;
use crate::limits::{MEMORY_BYTES_MIN, MemoryShares};
use crate::{Health, Kind};

const ROOT: Ino = Ino::ROOT;

/// Checkpoints begin when asked for, and are held back.
fn held_back(memory_bytes_max: u64) -> Rig {
    let mut rig = Rig::with(VolumeParams { memory_bytes_max, ..params() });
    rig.checkpoints_wait = true;
    rig
}

fn begin(rig: &mut Rig) {
    let generation = rig.volume().counters().generation;
    rig.volume().tick(Duration::ZERO);
    rig.volume().tick(Duration::from_secs(1_000 * (generation + 1)));
    rig.flush();
    assert_eq!(rig.volume().counters().generation, generation + 1);
    assert!(rig.checkpoint.is_some());
}

fn make_all(rig: &mut Rig, names: &[&str]) {
    for name in names {
        rig.make(ROOT, name.as_bytes(), FILE).unwrap();
    }
}

fn assert_has(rig: &mut Rig, names: &[&str]) {
    for name in names {
        let request = MetaRequest::Lookup { parent: ROOT, name: name.as_bytes() };
        assert!(rig.ask(&request).is_ok(), "{name}");
    }
    assert_eq!(rig.assert_sound().inode_count, names.len() as u64 + 1);
}

/// Ends the process with a checkpoint under way: not written, or written and nobody was told.
fn crash(rig: &mut Rig, written: bool) -> OpenReport {
    let checkpoint = rig.checkpoint.take().unwrap();
    match written {
        true => drop(checkpoint.write()),
        false => drop(checkpoint),
    }
    rig.crash(|_, _| panic!("nothing is under way")).unwrap()
}

#[test]
fn a_crash_under_a_checkpoint_loses_nothing() {
    for written in [false, true] {
        let mut rig = held_back(MEMORY_BYTES_MIN);
        make_all(&mut rig, &["a", "b"]);
        begin(&mut rig);
        make_all(&mut rig, &["c", "d", "e"]);
        let (name, new_parent, new_name) = (b"a", ROOT, b"z");
        let rename = MetaRequest::Rename { parent: ROOT, name, new_parent, new_name, flags: 0 };
        rig.done(&rename).unwrap();
        let report = crash(&mut rig, written);
        assert_eq!(report.replayed_commands, if written { 4 } else { 6 });
        assert_has(&mut rig, &["z", "b", "c", "d", "e"]);
        // And once more, in what began with the opening.
        make_all(&mut rig, &["f"]);
        begin(&mut rig);
        make_all(&mut rig, &["g"]);
        rig.write_checkpoint();
        begin(&mut rig);
        make_all(&mut rig, &["h"]);
        let report = crash(&mut rig, written);
        assert_eq!(report.replayed_commands, if written { 1 } else { 2 });
        assert_has(&mut rig, &["z", "b", "c", "d", "e", "f", "g", "h"]);
    }
}

#[test]
fn a_torn_write_behind_a_checkpoint_under_way_is_the_end_of_the_log() {
    for kept_bytes in [0, 512, 4096] {
        let mut rig = held_back(MEMORY_BYTES_MIN);
        make_all(&mut rig, &["a"]);
        begin(&mut rig);
        for slot in 0..60 {
            let caller = Caller { uid: 0, gid: 0, slot, sequence: 9 };
            let name = format!("torn-{slot}-{}", "x".repeat(200));
            rig.submit_as(ALICE, caller, &make(ROOT, name.as_bytes(), FILE));
        }
        rig.flush();
        rig.checkpoint = None;
        let report = rig.crash(|log, append| {
            let at = to_usize(append.offset);
            log.0[at..at + kept_bytes].copy_from_slice(&append.bytes[..kept_bytes]);
        });
        assert_eq!(report.unwrap().replayed_commands, 1);
        assert_has(&mut rig, &["a"]);
    }
}

#[test]
fn damage_in_either_log_is_an_error() {
    // A batch each: two of the database's generation, two of the next.
    for damaged in 0..4 {
        let mut rig = held_back(MEMORY_BYTES_MIN);
        let mut places = Vec::new();
        for number in 0..4 {
            if number == 2 {
                begin(&mut rig);
            }
            rig.submit(&make(ROOT, &[b'a' + number], FILE));
            rig.flush();
            places.push(rig.complete().unwrap().offset);
        }
        rig.checkpoint = None;
        rig.log.0[to_usize(places[damaged]) + 70] ^= 4;
        match rig.crash(|_, _| ()) {
            // Cannot be told from one that was torn.
            Ok(report) => assert_eq!((damaged, report.replayed_commands), (3, 3)),
            Err(error) => {
                assert_eq!(error.kind, Kind::LogDamaged);
                assert!(damaged < 3);
            }
        }
    }
}

#[test]
fn a_database_two_checkpoints_old_is_refused() {
    let mut rig = held_back(MEMORY_BYTES_MIN);
    make_all(&mut rig, &["a"]);
    let path = rig.dir.path().join("index/data.mdb");
    let old = std::fs::read(&path).unwrap();
    for name in ["b", "c"] {
        begin(&mut rig);
        make_all(&mut rig, &[name]);
        rig.write_checkpoint();
    }
    rig.volume = None;
    std::fs::write(&path, old).unwrap();
    assert_eq!(rig.open().unwrap_err().kind, Kind::LogNewer);
}

/// The log fails while a checkpoint is written: what may be there by that is made certain by the next one, whose end
/// the commands wait for.
#[test]
fn what_a_failed_log_may_have_waits_for_two_ends() {
    for (landed, ends) in [(false, 0), (true, 0), (false, 1), (true, 1), (false, 2), (true, 2)] {
        let mut rig = held_back(MEMORY_BYTES_MIN);
        make_all(&mut rig, &["a"]);
        begin(&mut rig);
        let caller = Caller { uid: 0, gid: 0, slot: 1, sequence: 9 };
        let op = rig.submit_as(ALICE, caller, &make(ROOT, b"b", FILE));
        rig.flush();
        let append = rig.appends.pop_front().unwrap();
        if landed {
            let at = to_usize(append.offset);
            rig.log.0[at..at + append.bytes.len()].copy_from_slice(&append.bytes);
        }
        let mut out = Vec::new();
        rig.volume().log_done(append.io, Err(5), &mut out);
        rig.take(out);
        for _ in 0..ends {
            rig.flush();
            assert!(rig.appends.is_empty(), "it is not certain yet");
            assert!(rig.write_checkpoint());
        }
        rig.flush();
        assert_eq!(!rig.appends.is_empty(), ends == 2);
        rig.complete();
        assert_eq!(rig.replies.contains_key(&op), ends == 2);
        rig.crash(|_, _| panic!("nothing is under way")).unwrap();
        let again = rig.submit_as(ALICE, caller, &make(ROOT, b"b", FILE));
        rig.checkpoints_wait = false;
        rig.settle();
        assert_eq!(rig.replies[&again].0, Status::Ok, "once, whenever it happened");
        assert_has(&mut rig, &["a", "b"]);
    }
}

/// Changes go on until there is no memory or no log for more of them; then they wait, and are answered in the end.
#[test]
fn changes_wait_for_a_checkpoint_at_the_bounds() {
    for (memory_bytes_max, value_bytes) in [(MEMORY_BYTES_MIN, 1), (256 << 20, 60_000)] {
        let mut rig = held_back(memory_bytes_max);
        let shares = MemoryShares::new(memory_bytes_max);
        let dir = rig.make(ROOT, b"d", DIR).unwrap();
        begin(&mut rig);
        let value = vec![7; value_bytes];
        let (mut asked, mut number) = (Vec::new(), 0_u64);
        loop {
            for slot in 0..10 {
                number += 1;
                let key = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let name = format!("user.{key:x}-{}", "n".repeat(100));
                rig.sequence += 1;
                let caller = Caller { uid: 0, gid: 0, slot, sequence: rig.sequence };
                let change = match value_bytes {
                    1 => make(dir, name.as_bytes(), FILE),
                    _ => {
                        let name = &name.as_bytes()[..8];
                        MetaRequest::SetXattr { ino: dir, name, value: &value, flags: 0 }
                    }
                };
                asked.push(rig.submit_as(ALICE, caller, &change));
            }
            rig.flush();
            if rig.appends.is_empty() {
                break;
            }
            while !rig.appends.is_empty() {
                rig.complete();
                rig.flush();
            }
            if rig.volume().counters().pending_count > 0 {
                break;
            }
            let most = shares.dirty_bytes + shares.meanwhile_bytes + 2 * shares.batch_dirty_bytes;
            assert!(rig.volume().counters().dirty_bytes <= most);
            assert!(number < 100_000, "nothing ever waits");
        }
        assert!(number > 10 && rig.volume().counters().pending_count > 0);
        assert!(rig.replies.values().all(|(status, _)| *status == Status::Ok));
        rig.volume().tick(Duration::from_secs(100));
        rig.flush();
        assert!(rig.appends.is_empty(), "they wait");
        // What was answered until here survives.
        rig.checkpoints_wait = false;
        rig.write_checkpoint();
        rig.settle();
        for op in asked {
            assert_eq!(rig.replies[&op].0, Status::Ok);
        }
        assert_eq!(rig.volume().health(), Health::Good);
        rig.assert_sound();
    }
}

#[test]
fn a_stop_waits_for_the_checkpoint_and_makes_the_last_one() {
    let mut rig = held_back(MEMORY_BYTES_MIN);
    make_all(&mut rig, &["a"]);
    begin(&mut rig);
    make_all(&mut rig, &["b"]);
    rig.volume().shutdown();
    for _ in 0..2 {
        rig.settle();
        assert!(!rig.stopped && rig.checkpoint.is_some());
        rig.write_checkpoint();
    }
    rig.settle();
    assert!(rig.stopped && rig.checkpoint.is_none());
    assert_eq!(rig.open().unwrap().replayed_commands, 0);
    assert_has(&mut rig, &["a", "b"]);
}

/// A volume that is gone while its checkpoint is still being written: nobody else opens it before that is over.
#[test]
fn nobody_opens_a_volume_whose_checkpoint_is_written() {
    let mut rig = held_back(MEMORY_BYTES_MIN);
    make_all(&mut rig, &["a"]);
    begin(&mut rig);
    make_all(&mut rig, &["b"]);
    let checkpoint = rig.checkpoint.take().unwrap();
    rig.volume = None;
    let busy = Volume::open(rig.dir.path(), &rig.params, &mut rig.log).map(drop).unwrap_err();
    assert_eq!(busy.source.unwrap().kind, weft_lmdb::Kind::Busy);
    drop(checkpoint.write());
    assert_eq!(rig.open().unwrap().replayed_commands, 1);
    assert_has(&mut rig, &["a", "b"]);
}
