//! Crashes, damage and full disks, each made by hand.

use super::*;
use crate::log::{BATCH_HEADER_BYTES, parse_batch};
use crate::{Health, Kind};
use weft_wire::blocks::crc32c;

const ROOT: Ino = Ino::ROOT;

/// One change in a slot of its own, sent to the log but not completed.
fn send(rig: &mut Rig, slot: u16, name: &str) -> u64 {
    rig.sequence += 1;
    let caller = Caller { uid: 0, gid: 0, slot, sequence: rig.sequence };
    rig.submit_as(ALICE, caller, &make(ROOT, name.as_bytes(), FILE))
}

/// The same without letting anything happen.
fn has_now(rig: &mut Rig, name: &str) -> bool {
    let request = MetaRequest::Lookup { parent: ROOT, name: name.as_bytes() };
    let op = rig.submit(&request);
    rig.answer(op, &request).is_ok()
}

pub(super) fn has(rig: &mut Rig, name: &str) -> bool {
    rig.ask(&MetaRequest::Lookup { parent: ROOT, name: name.as_bytes() }).is_ok()
}

#[test]
fn acknowledged_changes_survive_and_torn_ones_do_not_exist() {
    let mut rig = Rig::new();
    for number in 0..10 {
        rig.make(ROOT, format!("kept-{number}").as_bytes(), FILE).unwrap();
    }
    let report = rig.crash(|_, _| panic!("nothing is under way")).unwrap();
    assert_eq!((report.replayed_batches, report.replayed_commands), (10, 10));
    // A batch of several blocks of which the first is missing, then only the first is there.
    for missing in [0, 1] {
        for slot in 0..60 {
            send(&mut rig, slot, &format!("torn-{missing}-{slot}-{}", "x".repeat(200)));
        }
        rig.flush();
        let report = rig.crash(|log, append| {
            assert!(append.bytes.len() > 8192);
            let (at, cut) = (to_usize(append.offset), 4096);
            match missing {
                0 => log.0[at + cut..at + append.bytes.len()].copy_from_slice(&append.bytes[cut..]),
                _ => log.0[at..at + cut].copy_from_slice(&append.bytes[..cut]),
            }
        });
        assert_eq!(report.unwrap().replayed_commands, 0);
        assert_eq!(rig.assert_sound().inode_count, 11);
    }
    for number in 0..10 {
        assert!(has(&mut rig, &format!("kept-{number}")));
    }
}

#[test]
fn a_whole_batch_that_was_not_acknowledged_is_applied_and_answered_once() {
    let mut rig = Rig::new();
    send(&mut rig, 3, "f");
    rig.flush();
    let sequence = rig.sequence;
    let report = rig.crash(|log, append| {
        let at = to_usize(append.offset);
        log.0[at..at + append.bytes.len()].copy_from_slice(&append.bytes);
    });
    assert_eq!(report.unwrap().replayed_commands, 1);
    assert!(has(&mut rig, "f"));
    let caller = Caller { uid: 0, gid: 0, slot: 3, sequence };
    let op = rig.submit_as(ALICE, caller, &make(ROOT, b"f", FILE));
    assert_eq!(rig.replies[&op].0, Status::Ok, "the outcome of the first time, not Exists");
}

/// Two changes on their way to the log, each in a batch of its own; the names are "first" and "second".
fn two_under_way(rig: &mut Rig) -> [u64; 2] {
    let first = send(rig, 1, "first");
    rig.flush();
    let second = send(rig, 2, "second");
    rig.flush();
    assert_eq!(rig.appends.len(), 2);
    [first, second]
}

fn land(log: &mut MemoryLog, append: &Append) {
    let at = to_usize(append.offset);
    log.0[at..at + append.bytes.len()].copy_from_slice(&append.bytes);
}

#[test]
fn what_is_durable_behind_what_is_not_waits_for_it() {
    let mut rig = Rig::new();
    let [first, second] = two_under_way(&mut rig);
    let third = send(&mut rig, 3, "third");
    rig.flush();
    assert_eq!(rig.appends.len(), LOG_WRITES_MAX, "the third waits for one of them");
    rig.complete_nth(1);
    assert!(rig.replies.is_empty() && !has_now(&mut rig, "second"));
    rig.flush();
    assert_eq!(rig.appends.len(), 1, "one is still to be applied");
    rig.complete();
    assert!([first, second].iter().all(|op| rig.replies[op].0 == Status::Ok));
    rig.settle();
    assert_eq!(rig.replies[&third].0, Status::Ok);
    let report = rig.crash(|_, _| panic!("nothing is under way")).unwrap();
    assert_eq!(report.replayed_batches, 3);
}

#[test]
fn what_is_whole_behind_the_end_of_the_log_never_comes_back() {
    for lands in [[false, true], [true, false], [true, true], [false, false]] {
        let mut rig = Rig::new();
        rig.make(ROOT, b"before", FILE).unwrap();
        two_under_way(&mut rig);
        let mut lands_of = lands.iter();
        let report = rig.crash(|log, append| {
            if *lands_of.next().unwrap() {
                land(log, &append);
            }
        });
        let there = [lands[0], lands[0] && lands[1]];
        let batches = 1 + there.iter().map(|there| u64::from(*there)).sum::<u64>();
        assert_eq!(report.unwrap().replayed_batches, batches);
        for _ in 0..3 {
            assert_eq!([has(&mut rig, "first"), has(&mut rig, "second")], there);
            assert!(has(&mut rig, "before"));
            // As long as the one that was lost: what came behind it would follow.
            send(&mut rig, 5, "after");
            rig.settle();
            rig.crash(|_, _| panic!("nothing is under way")).unwrap();
        }
        rig.assert_sound();
    }
}

/// Two appends are under way, of which one fails or both; each may be on the log all the same.
#[test]
fn a_log_write_that_fails_takes_those_behind_it_along() {
    for case in 0..16 {
        let (landed, second_first) = ([case & 1 > 0, case & 2 > 0], case & 4 > 0);
        let fails = [case < 8, case >= 4];
        let mut rig = Rig::new();
        let ops = two_under_way(&mut rig);
        let waits = send(&mut rig, 3, "waits");
        let appends: Vec<Append> = rig.appends.drain(..).collect();
        let order = if second_first { [1, 0] } else { [0, 1] };
        for (turn, nth) in order.into_iter().enumerate() {
            let append = &appends[nth];
            if landed[nth] || !fails[nth] {
                land(&mut rig.log, append);
            }
            let mut out = Vec::new();
            rig.volume().log_done(append.io, if fails[nth] { Err(5) } else { Ok(()) }, &mut out);
            rig.take(out);
            if turn == 0 && fails[nth] {
                rig.flush();
                assert!(rig.appends.is_empty(), "nothing goes behind a write that failed");
            }
        }
        assert_eq!(rig.replies.contains_key(&ops[0]), !fails[0]);
        assert!(!rig.replies.contains_key(&ops[1]) && !rig.replies.contains_key(&waits));
        assert_eq!(rig.volume().health(), Health::Good, "nobody notices");
        rig.settle();
        assert!(ops.iter().chain([&waits]).all(|op| rig.replies[op].0 == Status::Ok));
        rig.crash(|_, _| panic!("nothing is under way")).unwrap();
        assert!(["first", "second", "waits"].iter().all(|name| has(&mut rig, name)));
        assert_eq!(rig.assert_sound().inode_count, 4);
    }
}

#[test]
fn damage_before_later_batches_is_an_error() {
    let mut rig = Rig::new();
    let mut appends = Vec::new();
    for number in 0..5 {
        send(&mut rig, 0, &number.to_string());
        rig.flush();
        appends.push(rig.complete().unwrap());
    }
    let (whole, volume_dir) = (rig.log.clone(), rig.dir.path().to_owned());
    let params = rig.params.clone();
    rig.volume = None;
    for (index, append) in appends.iter().enumerate() {
        for byte in [0, 20, 60, 70, 120] {
            let mut log = whole.clone();
            log.0[to_usize(append.offset) + byte] ^= 0x10;
            let opened = Volume::open(&volume_dir, &params, &mut log);
            if index < 4 {
                let error = opened.map(drop).unwrap_err();
                assert_eq!((error.kind, error.detail), (Kind::LogDamaged, append.offset));
                assert!(error.to_string().contains("log is damaged"));
            } else {
                // The last batch cannot be told from one that was torn. Not opened for good: that would
                // begin a new generation.
                drop(opened.unwrap());
                return;
            }
        }
    }
}

/// Builds from before several writes were under way at a time say nothing of what was durable: all before it was.
#[test]
fn a_log_of_an_older_build_is_read_and_its_damage_told() {
    let mut rig = Rig::new();
    let mut appends = Vec::new();
    for number in 0..3 {
        send(&mut rig, 0, &number.to_string());
        rig.flush();
        appends.push(rig.complete().unwrap());
    }
    for append in &appends {
        let at = to_usize(append.offset);
        let header = &mut rig.log.0[at..at + BATCH_HEADER_BYTES];
        header[8] = 1;
        header[48..56].fill(0);
        let checksum = crc32c(&header[4..]);
        header[..4].copy_from_slice(&checksum.to_le_bytes());
    }
    let whole = rig.log.clone();
    rig.log.0[to_usize(appends[1].offset) + 70] ^= 1;
    let error = rig.open().unwrap_err();
    assert_eq!((error.kind, error.detail), (Kind::LogDamaged, appends[1].offset));
    rig.log = whole;
    assert_eq!(rig.open().unwrap().replayed_batches, 3);
}

#[test]
fn a_database_that_went_back_in_time_is_refused() {
    let mut rig = Rig::new();
    let path = rig.dir.path().join("index/data.mdb");
    for _ in 0..3 {
        rig.make(ROOT, b"a", FILE).unwrap();
        rig.volume = None;
        let old = std::fs::read(&path).unwrap();
        rig.open().unwrap();
        rig.make(ROOT, b"b", FILE).unwrap();
        rig.volume = None;
        let new = std::fs::read(&path).unwrap();
        std::fs::write(&path, old).unwrap();
        assert_eq!(rig.open().unwrap_err().kind, Kind::LogNewer);
        std::fs::write(&path, new).unwrap();
        rig.open().unwrap();
        for name in [b"a", b"b"] {
            rig.done(&MetaRequest::Unlink { parent: ROOT, name }).unwrap();
        }
    }
}

#[test]
fn a_damaged_database_file_is_named_damage() {
    let mut rig = Rig::new();
    let path = rig.dir.path().join("index/data.mdb");
    rig.make(ROOT, b"a", FILE).unwrap();
    rig.volume = None;
    let good = std::fs::read(&path).unwrap();
    let mut flipped = good.clone();
    flipped[30] ^= 1;
    let noise = vec![0x5a; good.len()];
    for bad in [&good[..good.len() / 2], &good[..0], &flipped, &noise] {
        std::fs::write(&path, bad).unwrap();
        let error = rig.open().unwrap_err();
        assert_eq!(error.kind, Kind::Damaged);
        assert_eq!(error.status(), weft_wire::Status::Damaged);
    }
    std::fs::write(&path, good).unwrap();
    rig.open().unwrap();
}

#[test]
fn strange_logs_are_refused() {
    let mut rig = Rig::new();
    rig.volume = None;
    let mut short = MemoryLog(vec![0; 4096]);
    let error = Volume::open(rig.dir.path(), &rig.params, &mut short).map(drop).unwrap_err();
    assert_eq!(error.kind, Kind::LogShort);
    let mut other = rig.params.clone();
    other.cluster = ClusterId([1; 16]);
    let error = Volume::open(rig.dir.path(), &other, &mut rig.log).map(drop).unwrap_err();
    assert_eq!(error.kind, Kind::WrongCluster);
    let error = Volume::format(rig.dir.path(), &format_params()).unwrap_err();
    assert_eq!(error.kind, Kind::Exists);
    let nowhere = tempfile::tempdir().unwrap();
    let error = Volume::open(nowhere.path(), &rig.params, &mut rig.log).map(drop).unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    let bad = FormatParams { segment_bytes: 12345, ..format_params() };
    assert_eq!(Volume::format(nowhere.path(), &bad).unwrap_err().kind, Kind::Invalid);
    // Noise of any kind is not a batch.
    let mut rng = Rng(5);
    for byte in &mut rig.log.0 {
        *byte = u8::try_from(rng.below(256)).unwrap();
    }
    assert_eq!(rig.open().unwrap().replayed_commands, 0);
}

#[test]
fn the_log_wraps_at_checkpoints_without_losing_anything() {
    let mut rig = Rig::with(VolumeParams { checkpoint_commands_max: u32::MAX, ..params() });
    let value = vec![5; 60_000];
    let f = rig.make(ROOT, b"f", FILE).unwrap();
    let mut generations = Vec::new();
    for number in 0..100u8 {
        let name = format!("user.{}", number % 8);
        let set = MetaRequest::SetXattr { ino: f, name: name.as_bytes(), value: &value, flags: 0 };
        rig.done(&set).unwrap();
        generations.push(rig.volume().counters().generation);
        if number % 20 == 19 {
            rig.crash(|_, _| ()).unwrap();
            rig.assert_sound();
        }
    }
    assert!(generations.last().unwrap() - generations[0] > 9);
    assert_eq!(rig.attr(f).unwrap().version, 101);
}

/// The write under way fails. `landed`: all of it is on the log all the same.
fn fail_append(rig: &mut Rig, landed: bool) {
    let append = rig.appends.pop_front().unwrap();
    if landed {
        let at = to_usize(append.offset);
        rig.log.0[at..at + append.bytes.len()].copy_from_slice(&append.bytes);
    }
    let mut out = Vec::new();
    rig.volume().log_done(append.io + 1, Ok(()), &mut out);
    assert!(out.is_empty(), "not the write that is under way");
    rig.volume().log_done(append.io, Err(5), &mut out);
    rig.take(out);
}

#[test]
fn a_log_write_that_fails_once_is_made_again_elsewhere_and_nobody_notices() {
    for landed in [false, true] {
        let mut rig = Rig::new();
        rig.make(ROOT, b"before", FILE).unwrap();
        let first = send(&mut rig, 1, "first");
        rig.flush();
        let waits = send(&mut rig, 2, "waits");
        let failed = rig.appends.front().cloned().unwrap();
        fail_append(&mut rig, landed);
        assert!(!rig.replies.contains_key(&first) && !rig.replies.contains_key(&waits));
        assert_eq!(rig.volume().health(), Health::Good);
        rig.flush();
        let again = rig.appends.front().cloned().unwrap();
        let half = u64::from(SEGMENT_BYTES_MIN);
        assert_ne!(again.offset / half, failed.offset / half, "the log's other area");
        rig.complete();
        assert_eq!((rig.replies[&first].0, rig.replies[&waits].0), (Status::Ok, Status::Ok));
        let report = rig.crash(|_, _| panic!("nothing is under way")).unwrap();
        assert_eq!(report.replayed_commands, 2, "once each");
        assert!(["before", "first", "waits"].iter().all(|name| has(&mut rig, name)));
        rig.assert_sound();
    }
}

#[test]
fn what_a_failed_log_may_have_is_not_answered_and_what_it_cannot_have_is_refused() {
    for landed in [false, true] {
        let mut rig = Rig::new();
        rig.make(ROOT, b"before", FILE).unwrap();
        let sent = send(&mut rig, 1, "sent");
        let sequence = rig.sequence;
        rig.flush();
        fail_append(&mut rig, landed);
        rig.flush();
        let waits = send(&mut rig, 2, "waits");
        fail_append(&mut rig, landed);
        let error = |health| matches!(health, Health::ReadOnly(e) if (e.kind, e.detail) == (Kind::LogIo, 5));
        assert!(error(rig.volume().health()));
        let late = send(&mut rig, 3, "late");
        assert_eq!((rig.replies[&waits].0, rig.replies[&late].0), (Status::Io, Status::Io));
        assert!(!rig.replies.contains_key(&sent), "it may be on the log");
        assert!(has(&mut rig, "before") && !has(&mut rig, "sent"));
        // Not before its time.
        rig.flush();
        assert!(rig.appends.is_empty());
        rig.volume().shutdown();
        rig.flush();
        assert!(rig.stopped);
        let report = rig.crash(|_, _| ()).unwrap();
        assert_eq!(report.replayed_commands, u64::from(landed));
        assert_eq!(has(&mut rig, "sent"), landed);
        // Its client asks again: it is done once, and the rest never.
        let caller = Caller { uid: 0, gid: 0, slot: 1, sequence };
        let sent = rig.submit_as(ALICE, caller, &make(ROOT, b"sent", FILE));
        rig.settle();
        assert_eq!(rig.replies[&sent].0, Status::Ok);
        assert!(has(&mut rig, "sent") && !has(&mut rig, "waits") && !has(&mut rig, "late"));
        rig.assert_sound();
    }
}

#[test]
fn a_log_that_works_again_makes_the_volume_good_again() {
    let mut rig = Rig::new();
    let sent = send(&mut rig, 1, "sent");
    rig.flush();
    fail_append(&mut rig, true);
    // It comes again on another connection meanwhile, and the session of another ends.
    let caller = Caller { uid: 0, gid: 0, slot: 1, sequence: rig.sequence };
    let again = rig.submit_as(ALICE, caller, &make(ROOT, b"sent", FILE));
    for round in 0..3 {
        rig.flush();
        fail_append(&mut rig, round == 1);
        rig.volume().tick(Duration::from_secs(10 * round));
        rig.flush();
        assert!(rig.appends.is_empty(), "a second has to pass");
        rig.volume().tick(Duration::from_secs(10 * round + 1));
    }
    rig.volume().session_ended(SessionId([2; 16]), false);
    rig.flush();
    assert!(rig.complete().is_some());
    assert_eq!(rig.volume().health(), Health::Good);
    assert_eq!((rig.replies[&sent].0, rig.replies[&again].0), (Status::Ok, Status::Ok));
    assert!(rig.make(ROOT, b"after", FILE).is_ok());
    rig.crash(|_, _| ()).unwrap();
    assert!(has(&mut rig, "sent") && has(&mut rig, "after"));
    rig.assert_sound();
}

/// Makes files until there is no space; how many.
pub(super) fn fill(rig: &mut Rig, prefix: &str) -> u64 {
    for round in 0.. {
        let ops: Vec<u64> =
            (0..200).map(|slot| send(rig, slot, &format!("{prefix}-{round}-{slot}"))).collect();
        rig.settle();
        let ends: Vec<Status> = ops.iter().map(|op| rig.replies[op].0).collect();
        if let Some(full) = ends.iter().position(|status| *status != Status::Ok) {
            assert_eq!(ends[full], Status::NoSpace);
            return round * 200 + full as u64;
        }
    }
    unreachable!()
}

#[test]
fn a_full_database_refuses_new_names_and_still_deletes() {
    let small = VolumeParams { map_bytes_max: 8 << 20, ..params() };
    let mut rig = Rig::with(small);
    let made = fill(&mut rig, "a");
    assert!(made > 5_000, "{made}");
    assert_eq!(rig.volume().health(), Health::Good);
    for number in 0..made {
        let name = format!("a-{}-{}", number / 200, number % 200);
        rig.sequence += 1;
        let slot = u16::try_from(number % 200).unwrap();
        let caller = Caller { uid: 0, gid: 0, slot, sequence: rig.sequence };
        let unlink = MetaRequest::Unlink { parent: ROOT, name: name.as_bytes() };
        let op = rig.submit_as(ALICE, caller, &unlink);
        if slot == 199 || number + 1 == made {
            rig.settle();
            assert_eq!(rig.replies[&op].0, Status::Ok, "{name}");
        }
    }
    assert_eq!(rig.volume().health(), Health::Good);
    let again = fill(&mut rig, "b");
    assert!(again > 1_000, "space that was given back is used again: {again}");
    rig.crash(|_, _| ()).unwrap();
    rig.assert_sound();
}

#[test]
fn the_same_log_gives_the_same_state() {
    let mut first = Rig::new();
    let mut commands = Vec::new();
    let mut rng = Rng(77);
    for number in 0..600 {
        let name = rng.below(40).to_string();
        let other = rng.below(40).to_string();
        let (name, new_name) = (name.as_bytes(), other.as_bytes());
        match rng.below(5) {
            0 => first.submit(&MetaRequest::Unlink { parent: ROOT, name }),
            1 => {
                let new_parent = ROOT;
                first.submit(&MetaRequest::Rename {
                    parent: ROOT,
                    name,
                    new_parent,
                    new_name,
                    flags: 0,
                })
            }
            2 => first.submit(&resize(Ino(rng.below(50) + 2), rng.below(9) << 20)),
            _ => first.submit(&make(ROOT, name, if number % 5 == 0 { DIR } else { FILE })),
        };
        loop {
            for work in std::mem::take(&mut first.works) {
                first.volume().work_done(work.id, 0);
            }
            first.volume().tick(Duration::ZERO);
            first.flush();
            let Some(append) = first.complete() else { break };
            commands.extend(parse_batch(&append.bytes));
        }
    }
    // The second applies the commands one by one, with checkpoints and restarts in between.
    let mut second = Rig::new();
    for (number, command) in commands.iter().enumerate() {
        let volume = second.volume();
        volume.replay_one(command).unwrap();
        if number % 40 == 0 {
            volume.checkpoint().unwrap();
            second.open().unwrap();
        }
    }
    assert!(commands.len() > 600);
    assert_eq!(dump(first.volume()), dump(second.volume()));
}

#[test]
fn a_damaged_record_fails_the_operation_only() {
    use crate::record::number_key;
    use crate::store::Name;
    let mut rig = Rig::new();
    let d = rig.make(ROOT, b"d", DIR).unwrap();
    let f = rig.make(d, b"f", FILE).unwrap();
    let g = rig.make(d, b"g", FILE).unwrap();
    let key = number_key(f.0);
    rig.volume().store_mut().write(Name::Inodes, &key, Some(b"\x01\x00 nonsense")).unwrap();
    assert_eq!(rig.attr(f), Err(Status::Damaged));
    let name = &b"f"[..];
    assert_eq!(rig.done(&MetaRequest::Lookup { parent: d, name }), Err(Status::Damaged));
    assert_eq!(rig.done(&MetaRequest::Unlink { parent: d, name }), Err(Status::Damaged));
    assert_eq!(rig.done(&resize(f, 0)), Err(Status::Damaged));
    let to = MetaRequest::Rename { parent: d, name, new_parent: ROOT, new_name: b"h", flags: 0 };
    assert_eq!(rig.done(&to), Err(Status::Damaged));
    assert_eq!(rig.attr(d).unwrap().size, 2, "a refused change left nothing behind");
    let read = MetaRequest::ReadDir { ino: d, cookie: 0, bytes_max: 4096, plus: true };
    let Ok(MetaReply::Dir(list, true)) = rig.ask(&read) else { panic!() };
    let attrs = MetaReply::dir_entries(&list).filter(|e| e.as_ref().unwrap().attr.is_none());
    assert_eq!(attrs.count(), 1, "the listing has both names, one without attributes");
    assert!(rig.attr(g).is_ok());
    let problems = check(rig.volume()).problems;
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].kind, problems[0].ino), (crate::ProblemKind::RecordDamaged, f));
    assert_eq!(rig.volume().health(), Health::Good);
}

#[test]
fn the_checker_sees_what_is_wrong() {
    use crate::ProblemKind as P;
    use crate::record::{entry_key, number_key};
    use crate::store::Name;
    let mut rig = Rig::new();
    let d = rig.make(ROOT, b"d", DIR).unwrap();
    let e = rig.make(d, b"e", DIR).unwrap();
    let f = rig.make(d, b"f", FILE).unwrap();
    let cookie =
        |rig: &mut Rig, name: &[u8]| rig.volume().store().find_entry(d, name).unwrap().unwrap().key;
    let (e_key, f_key) = (cookie(&mut rig, b"e"), cookie(&mut rig, b"f"));
    let mut expect = |name, key: &[u8], value: Option<&[u8]>, kinds: &[P]| {
        let store = rig.volume().store_mut();
        let old = store.get(name, key).unwrap().map(<[u8]>::to_vec);
        store.write(name, key, value).unwrap();
        let mut found: Vec<P> = check(rig.volume()).problems.iter().map(|p| p.kind).collect();
        found.dedup();
        assert_eq!(found, kinds);
        rig.volume().store_mut().write(name, key, old.as_deref()).unwrap();
        rig.assert_sound();
    };
    let entry = |ino, kind| crate::record::Entry { ino, kind, name: b"f" }.encode();
    use weft_wire::meta::FileKind;
    expect(Name::Entries, &f_key, None, &[P::LinkCount, P::EntryCount, P::Lost]);
    let kinds = [P::LinkCount, P::EntryCount, P::Parent, P::Lost];
    expect(Name::Entries, &e_key, None, &kinds);
    expect(Name::Inodes, &number_key(f.0), None, &[P::NameWithoutInode]);
    expect(Name::Entries, &f_key, Some(&entry(f, FileKind::Fifo)), &[P::TypeDiffers]);
    expect(Name::Orphans, &number_key(f.0), Some(&[1, 0]), &[P::FalseOrphan]);
    expect(Name::Orphans, &number_key(99), Some(&[1, 0]), &[P::FalseOrphan]);
    expect(Name::Xattrs, &crate::record::xattr_key(f, b"user.a"), Some(&[1]), &[P::XattrCount]);
    let strange = entry_key(Ino(77), 0x500);
    let kinds = [P::NameMisplaced, P::NamesWithoutDirectory, P::LinkCount];
    expect(Name::Entries, &strange, Some(&entry(f, FileKind::Regular)), &kinds);
    let mut inode = rig.volume().store().inode(e).unwrap().unwrap();
    inode.tail = crate::record::Tail::Directory { parent: e, policy: Default::default() };
    let store = rig.volume().store_mut();
    store.write(Name::Inodes, &number_key(e.0), Some(&inode.encode())).unwrap();
    let found: Vec<P> = check(rig.volume()).problems.iter().map(|p| p.kind).collect();
    assert_eq!(found, [P::Parent, P::Unreachable]);
}

/// Whatever page of the database is damaged: an error or the right answer, never a panic or a wrong one.
#[test]
fn damaged_pages_are_answered_as_such() {
    let mut rig = Rig::new();
    let dir = rig.make(ROOT, b"d", DIR).unwrap();
    let inos: Vec<Ino> =
        (0..300).map(|n| rig.make(dir, format!("{n}").as_bytes(), FILE).unwrap()).collect();
    rig.open().unwrap();
    rig.volume = None;
    let path = rig.dir.path().join("index/data.mdb");
    let (whole, log) = (std::fs::read(&path).unwrap(), rig.log.clone());
    let (mut refused, mut damaged, mut right) = (0, 0, 0);
    let mut rng = Rng(3);
    for page in 0..whole.len() / 4096 {
        let mut bytes = whole.clone();
        let at = page * 4096 + to_usize(rng.below(4096));
        bytes[at] ^= 0x40;
        std::fs::write(&path, &bytes).unwrap();
        rig.log = log.clone();
        (rig.replies, rig.appends, rig.works) = Default::default();
        if rig.open().is_err() {
            refused += 1;
            continue;
        }
        for (number, ino) in inos.iter().enumerate() {
            let name = number.to_string();
            let name = name.as_bytes();
            match rig.ask(&MetaRequest::Lookup { parent: dir, name }) {
                Ok(MetaReply::Entry(attr)) => {
                    assert_eq!((attr.ino, attr.nlink), (*ino, 1));
                    right += 1;
                }
                other => {
                    assert_eq!(other, Err(Status::Damaged));
                    damaged += 1;
                }
            }
        }
        let unlink = MetaRequest::Unlink { parent: dir, name: b"7" };
        let ends = rig.done(&unlink);
        assert!(matches!(ends, Ok(()) | Err(Status::Damaged)), "{ends:?}");
        check(rig.volume());
    }
    assert!(refused > 0 && damaged > 0 && right > 1000, "{refused} {damaged} {right}");
}
