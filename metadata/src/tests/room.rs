//! A disk or a map that is full under the database, and memory that is used up: what is refused, and that everything else goes
//! on. Files cannot grow beyond `RLIMIT_FSIZE` in the child processes here, as on a full disk.

use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::crash::{fill, has};
use super::*;
use crate::limits::{COMMAND_BYTES, MEMORY_BYTES_MIN, MemoryShares, OPEN_BYTES, REMOVAL_BYTES};
use crate::store::Name;
use crate::{Health, limits};
use weft_wire::meta::DataWrite;
use weft_wire::units::to_u64;

const MIB: u64 = 1 << 20;
const ROOT: Ino = Ino::ROOT;

/// Runs `name` of this binary in a process in which writing too far is an error and no signal.
fn in_child(name: &str) {
    let output = Command::new("/bin/sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("tests::room::{name}"), "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "the child ran no test: {text}");
}

/// No file gets longer than that from here on.
fn limit_files(bytes: Option<u64>) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum }).unwrap();
}

fn unlink_all(rig: &mut Rig, prefix: &str, count: u64) {
    for number in 0..count {
        let name = format!("{prefix}-{}-{}", number / 200, number % 200);
        rig.sequence += 1;
        let slot = u16::try_from(number % 200).unwrap();
        let caller = Caller { uid: 0, gid: 0, slot, sequence: rig.sequence };
        let unlink = MetaRequest::Unlink { parent: ROOT, name: name.as_bytes() };
        let op = rig.submit_as(ALICE, caller, &unlink);
        if slot == 199 || number + 1 == count {
            rig.settle();
            assert_eq!(rig.replies[&op].0, Status::Ok, "{name}");
        }
    }
}

#[test]
fn a_full_disk_refuses_new_names_and_still_deletes() {
    in_child("child_fills_the_disk");
}

#[test]
#[ignore = "run by a_full_disk_refuses_new_names_and_still_deletes in a process of its own"]
fn child_fills_the_disk() {
    limit_files(Some(12 * MIB));
    let mut rig = Rig::with(VolumeParams { memory_bytes_max: MEMORY_BYTES_MIN, ..params() });
    for round in ["a", "b"] {
        let made = fill(&mut rig, round);
        assert!(made > 3_000, "{made}");
        assert!(rig.volume().counters().disk_full, "the map is longer than the disk");
        assert_eq!(rig.volume().health(), Health::Good);
        // Also after a restart, with the disk as full as before.
        rig.crash(|_, _| ()).unwrap();
        rig.volume().grace_over();
        let more = fill(&mut rig, "more");
        assert!(more < made / 4, "{more} more than {made}");
        unlink_all(&mut rig, round, made);
        unlink_all(&mut rig, "more", more);
        assert_eq!(rig.volume().health(), Health::Good);
        rig.assert_sound();
    }
    // The disk has room again: so has the volume, at the next tick.
    limit_files(None);
    rig.settle();
    assert!(!rig.volume().counters().disk_full);
}

#[test]
fn a_checkpoint_waits_for_a_disk_without_room() {
    in_child("child_starves_a_checkpoint");
}

#[test]
#[ignore = "run by a_checkpoint_waits_for_a_disk_without_room in a process of its own"]
fn child_starves_a_checkpoint() {
    limit_files(Some(4 * MIB));
    let mut rig = Rig::with(VolumeParams { memory_bytes_max: MEMORY_BYTES_MIN, ..params() });
    let old = rig.make(ROOT, b"old", FILE).unwrap();
    // Past the question whether there is room: more than there can be.
    for number in 0..1500_u32 {
        let key = [&old.0.to_be_bytes()[..], &number.to_be_bytes()[..]].concat();
        rig.volume().store_mut().write(Name::Xattrs, &key, Some(&[1; 3000])).unwrap();
    }
    rig.make(ROOT, b"last", FILE).unwrap_err();
    rig.done(&resize(old, 7)).unwrap();
    rig.settle();
    assert_eq!(rig.volume().health(), Health::Good);
    assert!(rig.volume().counters().disk_full);
    // Nothing can be made durable in the database: no change, but everything there is can be read.
    let unlink = MetaRequest::Unlink { parent: ROOT, name: b"old" };
    assert_eq!(rig.done(&unlink), Err(Status::NoSpace));
    assert_eq!(rig.attr(old).unwrap().size, 7);
    let generation = rig.volume().counters().generation;
    rig.settle();
    assert_eq!(rig.volume().counters().generation, generation);
    limit_files(None);
    rig.settle();
    assert!(rig.volume().counters().generation > generation, "the checkpoint was made");
    rig.done(&unlink).unwrap();
    let new = rig.make(ROOT, b"new", FILE).unwrap();
    rig.crash(|_, _| ()).unwrap();
    assert_eq!((rig.attr(old).err(), rig.attr(new).err()), (Some(Status::Stale), None));
}

/// The database's own end, not the disk's, with crashes that tear the log or do not.
#[test]
fn a_database_at_the_end_of_its_map_deletes_and_recovers_over_restarts() {
    let small = VolumeParams { map_bytes_max: limits::MAP_BYTES_MIN, ..params() };
    let mut rig = Rig::with(VolumeParams { checkpoint_commands_max: 300, ..small });
    let mut rng = Rng(17);
    for round in ["a", "b"] {
        let made = fill(&mut rig, round);
        assert!(made > 1_000, "{round}: {made}");
        let name = |number: u64| format!("{round}-{}-{}", number / 200, number % 200);
        let mut names: Vec<String> = (0..made).map(name).collect();
        rig.crash(|_, _| ()).unwrap();
        rig.volume().grace_over();
        // As full as before, but for what was kept free for those under way: then nothing that needs a row is taken, and
        // nothing of it is there.
        for number in 0.. {
            let name = format!("{round}+{number}");
            match rig.make(ROOT, name.as_bytes(), FILE) {
                Ok(_) => names.push(name),
                Err(status) => {
                    assert_eq!(status, Status::NoSpace);
                    break;
                }
            }
        }
        assert!(to_u64(names.len()) < made + made / 4, "{} after {made}", names.len());
        let (from, to) = (names[0].as_bytes(), b"other");
        let (parent, new_parent) = (ROOT, ROOT);
        let rename = MetaRequest::Rename { parent, name: from, new_parent, new_name: to, flags: 0 };
        assert_eq!(rig.done(&rename), Err(Status::NoSpace));
        assert_eq!(rig.assert_sound().inode_count, to_u64(names.len()) + 1);
        while !names.is_empty() {
            let mut some = Vec::new();
            for slot in 0..100.min(names.len()) {
                let name = names.swap_remove(to_usize(rng.below(to_u64(names.len()))));
                rig.sequence += 1;
                let slot = u16::try_from(slot).unwrap();
                let caller = Caller { uid: 0, gid: 0, slot, sequence: rig.sequence };
                let unlink = MetaRequest::Unlink { parent: ROOT, name: name.as_bytes() };
                rig.submit_as(ALICE, caller, &unlink);
                some.push(name);
            }
            if !rng.one_in(5) {
                rig.settle();
                continue;
            }
            rig.flush();
            let blocks = rig.appends.front().map_or(0, |append| append.bytes.len() / 4096);
            let kept = to_usize(rng.below(to_u64(blocks) + 1));
            let torn = |log: &mut MemoryLog, append: Append| {
                let at = to_usize(append.offset);
                log.0[at..at + kept * 4096].copy_from_slice(&append.bytes[..kept * 4096]);
            };
            rig.crash(torn).unwrap();
            rig.volume().grace_over();
            let there = |rig: &mut Rig, name: &String| {
                let name = name.as_bytes();
                rig.done(&MetaRequest::Lookup { parent: ROOT, name }).is_ok()
            };
            let left: Vec<String> = some.into_iter().filter(|name| there(&mut rig, name)).collect();
            assert!(kept < blocks || left.len() < 100, "a whole batch is applied");
            names.extend(left);
        }
        rig.settle();
        assert_eq!(rig.volume().health(), Health::Good);
        assert_eq!(rig.assert_sound().inode_count, 1);
    }
}

#[test]
fn what_waits_for_the_log_is_bounded() {
    let mut rig = Rig::with(VolumeParams { memory_bytes_max: MEMORY_BYTES_MIN, ..params() });
    let shares = MemoryShares::new(MEMORY_BYTES_MIN);
    let long = [b'x'; 200];
    let mut taken = 0;
    let busy = (0..).find(|number: &u16| {
        let name = [&number.to_be_bytes()[..], &long[..]].concat();
        let name: Vec<u8> = name.iter().map(|byte| byte % 26 + b'a').collect();
        rig.sequence += 1;
        let session = SessionId([number.to_be_bytes()[0] + 10; 16]);
        let slot = number % 256;
        let caller = Caller { uid: 0, gid: 0, slot, sequence: rig.sequence };
        let op = rig.submit_as(session, caller, &make(ROOT, &name, FILE));
        taken += u64::from(!rig.replies.contains_key(&op));
        rig.replies.remove(&op).is_some_and(|(status, _)| status == Status::Busy)
    });
    assert!(busy.is_some() && taken * (COMMAND_BYTES + 200) <= shares.pending_bytes, "{taken}");
    assert!(taken * 2 * (COMMAND_BYTES + 200) > shares.pending_bytes, "{taken}");
    rig.settle();
    assert!(rig.make(ROOT, b"again", FILE).is_ok(), "the same change is taken later");
}

#[test]
fn opens_removals_and_slots_are_bounded() {
    let mut rig = Rig::with(VolumeParams { memory_bytes_max: MEMORY_BYTES_MIN, ..params() });
    let shares = MemoryShares::new(MEMORY_BYTES_MIN);
    let file = rig.make(ROOT, b"file", FILE).unwrap();
    let open = MetaRequest::Open { ino: file, inline: true };
    let mut session = 0_u64;
    let refused = loop {
        session += 1;
        let id = SessionId([&session.to_be_bytes()[..], &[9; 8]].concat().try_into().unwrap());
        let op = rig.submit_as(id, Caller { uid: 0, gid: 0, slot: NO_SLOT, sequence: 0 }, &open);
        if rig.replies[&op].0 != Status::Ok {
            break rig.replies[&op].0;
        }
    };
    assert_eq!((refused, session), (Status::Busy, shares.opens_bytes.div_ceil(OPEN_BYTES) + 1));
    rig.volume().session_ended(
        SessionId([&1_u64.to_be_bytes()[..], &[9; 8]].concat().try_into().unwrap()),
        false,
    );
    rig.done(&open).unwrap();

    // Removals wait while the targets do not keep up, and nothing else does.
    let count = shares.removals_bytes / REMOVAL_BYTES + 10;
    for number in 0..count {
        rig.make(ROOT, format!("r{number}").as_bytes(), FILE).unwrap();
    }
    let mut removed = 0;
    loop {
        let name = format!("r{removed}");
        let op = rig.submit(&MetaRequest::Unlink { parent: ROOT, name: name.as_bytes() });
        rig.volume().tick(Duration::ZERO);
        rig.flush();
        rig.complete();
        if rig.replies.remove(&op).is_some_and(|(status, _)| status == Status::Busy) {
            break;
        }
        removed += 1;
        assert!(removed < count, "nothing bounds the removals");
    }
    assert!(removed > 100, "{removed}");
    let op = rig.submit(&make(ROOT, b"meanwhile", FILE));
    rig.flush();
    rig.complete();
    assert_eq!(rig.replies[&op].0, Status::Ok);
    rig.settle();
    let name = format!("r{removed}");
    rig.done(&MetaRequest::Unlink { parent: ROOT, name: name.as_bytes() }).unwrap();
}

#[test]
fn a_session_has_its_first_slots_whatever_others_hold() {
    let mut rig = Rig::with(VolumeParams { memory_bytes_max: MEMORY_BYTES_MIN, ..params() });
    let mut send = |session: u8, slot: u16| {
        rig.sequence += 1;
        let caller = Caller { uid: 0, gid: 0, slot, sequence: rig.sequence };
        let op = rig.submit_as(SessionId([session; 16]), caller, &resize(ROOT, 1));
        rig.settle();
        rig.replies.remove(&op).unwrap().0
    };
    let full = (10..250).find(|session| (0..256).any(|slot| send(*session, slot) == Status::Busy));
    let full = full.expect("slots are bounded");
    assert_eq!(send(251, limits::SLOTS_SURE), Status::Busy);
    assert_ne!(send(251, limits::SLOTS_SURE - 1), Status::Busy);
    assert_ne!(send(full, 0), Status::Busy, "a slot that is there is used again");
}

#[test]
fn changes_are_bounded_by_memory() {
    for memory_bytes_max in [MEMORY_BYTES_MIN, 16 * MIB] {
        let mut rig = Rig::with(VolumeParams { memory_bytes_max, ..params() });
        let shares = MemoryShares::new(memory_bytes_max);
        assert!(shares.total_bytes() <= memory_bytes_max);
        assert_eq!(limits::memory_bytes_max(memory_bytes_max), shares.total_bytes());
        let (mut most, mut checkpoints) = (0, 0);
        for number in 0..8_000_u64 {
            let key = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let name = format!("{key:x}");
            let slot = u16::try_from(number % 200).unwrap();
            rig.sequence += 1;
            let caller = Caller { uid: 0, gid: 0, slot, sequence: rig.sequence };
            rig.submit_as(ALICE, caller, &make(ROOT, name.as_bytes(), FILE));
            if slot == 199 {
                let before = rig.volume().counters().generation;
                rig.settle();
                most = most.max(rig.volume().counters().dirty_bytes);
                checkpoints += rig.volume().counters().generation - before;
            }
        }
        assert!(most <= shares.dirty_bytes + shares.batch_dirty_bytes, "{most}");
        assert!(memory_bytes_max > MEMORY_BYTES_MIN || checkpoints > 0);
    }
}

/// How long a shard stands still for a checkpoint while names are made as fast as can be. A measurement:
/// `cargo test --release -p weft-metadata pauses -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement; doc/bounds.md has its figures"]
#[allow(clippy::disallowed_methods, reason = "it measures time")]
fn pauses_of_checkpoints() {
    let names: u64 = std::env::var("WEFT_NAMES").map_or(100_000, |names| names.parse().unwrap());
    for memory_bytes_max in [1 << 30, 180 * MIB, 64 * MIB, 16 * MIB] {
        let many = VolumeParams { memory_bytes_max, map_bytes_max: 4 << 30, ..params() };
        let segment_bytes = limits::SEGMENT_BYTES_DEFAULT;
        let mut rig = Rig::formatted(many, &FormatParams { segment_bytes, ..format_params() });
        rig.checkpoints_wait = true;
        let (mut pauses, mut ends, mut writes) = (Vec::new(), Vec::new(), Vec::new());
        let begin = std::time::Instant::now();
        for round in 0..names / 200 {
            for slot in 0..200_u16 {
                let number = (round * 200 + u64::from(slot)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let name = format!("{number:x}");
                let caller = Caller { uid: 0, gid: 0, slot, sequence: round + 1 };
                rig.submit_as(ALICE, caller, &make(ROOT, name.as_bytes(), FILE));
            }
            while rig.volume().counters().pending_count > 0 {
                let before = rig.volume().counters().generation;
                let start = std::time::Instant::now();
                rig.flush();
                if rig.volume().counters().generation > before {
                    pauses.push(start.elapsed());
                }
                rig.complete();
                // Written by another thread, in a server.
                if let Some(checkpoint) = rig.checkpoint.take() {
                    let start = std::time::Instant::now();
                    let written = checkpoint.write();
                    writes.push(start.elapsed());
                    let start = std::time::Instant::now();
                    rig.volume().checkpoint_written(written, &mut Vec::new());
                    ends.push(start.elapsed());
                }
            }
            rig.replies.clear();
        }
        let all = begin.elapsed();
        println!(
            "{} MiB: {names} names in {all:?}, {} checkpoints",
            memory_bytes_max >> 20,
            pauses.len()
        );
        for (what, mut times) in [("begin", pauses), ("write", writes), ("end", ends)] {
            times.sort();
            let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
            println!("  {what}: median {median:?}, longest {longest:?}");
        }
    }
}

#[test]
fn a_checkpoint_that_fails_breaks_the_volume_and_loses_nothing() {
    in_child("child_fails_a_checkpoint");
}

#[test]
#[ignore = "run by a_checkpoint_that_fails_breaks_the_volume_and_loses_nothing in a process of its own"]
fn child_fails_a_checkpoint() {
    for kept_bytes in [0, 8 << 10, 48 << 10] {
        let mut rig = Rig::new();
        rig.checkpoints_wait = true;
        for number in 0..200 {
            rig.make(ROOT, format!("before-{number}").as_bytes(), FILE).unwrap();
        }
        rig.volume().tick(Duration::from_secs(1));
        rig.volume().tick(Duration::from_secs(100));
        rig.flush();
        rig.make(ROOT, b"meanwhile", FILE).unwrap();
        let checkpoint = rig.checkpoint.take().unwrap();
        // The disk takes no more of it than this.
        limit_files(Some(kept_bytes));
        let written = checkpoint.write();
        limit_files(None);
        let mut out = Vec::new();
        rig.volume().checkpoint_written(written, &mut out);
        rig.take(out);
        assert!(matches!(rig.volume().health(), Health::Broken(_)));
        rig.make(ROOT, b"after", FILE).unwrap_err();
        rig.crash(|_, _| ()).unwrap();
        assert!(has(&mut rig, "before-199") && has(&mut rig, "meanwhile"));
        assert_eq!(rig.assert_sound().inode_count, 202);
    }
}

fn make_small(rig: &mut Rig, name: &str) -> Result<Ino, Status> {
    let how = MakeHow {
        mode: FILE,
        umask: 0,
        rdev: 0,
        exclusive: true,
        open: false,
        inline: true,
        fresh: false,
    };
    let make = MetaRequest::Make { parent: ROOT, name: name.as_bytes(), how, target: b"" };
    match rig.ask(&make)? {
        MetaReply::Made(attr, ..) => Ok(attr.ino),
        other => panic!("{other:?}"),
    }
}

fn write(rig: &mut Rig, ino: Ino, bytes: &[u8]) -> Result<(), Status> {
    rig.done(&MetaRequest::WriteData(DataWrite::new(ino, 0, bytes, Time::default())))
}

/// A row of data is written anew as a whole, however little of it changes, and a long one takes pages side by side.
#[test]
fn a_write_into_a_long_row_needs_room_for_all_of_it() {
    let mut rig = Rig::with(VolumeParams { map_bytes_max: limits::MAP_BYTES_MIN, ..params() });
    let (long, short) = (make_small(&mut rig, "long"), make_small(&mut rig, "short"));
    let (long, short) = (long.unwrap(), short.unwrap());
    write(&mut rig, long, &[1; 4096]).unwrap();
    write(&mut rig, short, &[1; 10]).unwrap();
    // Pages are used up to the end by rows that count for nothing: few rows, as after many were removed, but nobody knows
    // of two free pages side by side.
    for number in 0_u32.. {
        if number % 20 == 0 && rig.volume().store().check_room(true, 16 << 10).is_err() {
            break;
        }
        let key = [&short.0.to_be_bytes()[..], &number.to_be_bytes()[..]].concat();
        rig.volume().store_mut().write(Name::Xattrs, &key, Some(&[1; 3000])).unwrap();
        if number % 20 == 19 {
            rig.volume().checkpoint().unwrap();
        }
    }
    assert_eq!(write(&mut rig, short, &[2; 20]), Ok(()));
    assert_eq!(write(&mut rig, short, &[2; 4096]), Err(Status::NoSpace));
    assert_eq!(write(&mut rig, long, &[2; 1]), Err(Status::NoSpace));
    assert_eq!(write(&mut rig, long, &[]), Ok(()), "a change of nothing");
    rig.done(&resize(long, 100)).unwrap();
    assert_eq!(write(&mut rig, long, &[2; 1]), Ok(()));
    assert_eq!(rig.volume().health(), Health::Good);
}

/// Cuts and removals are never refused for want of room, also where a row that stays is a long one.
#[test]
fn a_database_full_of_data_cuts_it_and_deletes() {
    let small = VolumeParams { map_bytes_max: 12 * MIB, ..params() };
    let mut rig = Rig::with(VolumeParams { checkpoint_commands_max: 50, ..small });
    let mut inos = Vec::new();
    let full = loop {
        let made = make_small(&mut rig, &inos.len().to_string());
        let written = made.and_then(|ino| write(&mut rig, ino, &[7; 4096]).map(|()| ino));
        match written {
            Ok(ino) => inos.push(ino),
            Err(status) => break status,
        }
    };
    assert!(full == Status::NoSpace && inos.len() > 300, "{full:?} after {}", inos.len());
    for ino in &inos {
        assert_eq!(rig.done(&resize(*ino, 4090)), Ok(()), "{ino}");
    }
    assert_eq!(rig.volume().health(), Health::Good);
    rig.crash(|_, _| ()).unwrap();
    rig.volume().grace_over();
    rig.assert_sound();
    for number in 0..=inos.len() {
        let name = number.to_string();
        let unlink = MetaRequest::Unlink { parent: ROOT, name: name.as_bytes() };
        let ends = rig.done(&unlink);
        assert!(ends == Ok(()) || number == inos.len(), "{name}: {ends:?}");
    }
    rig.settle();
    assert_eq!(rig.volume().health(), Health::Good);
    assert_eq!(rig.assert_sound().inode_count, 1);
    assert_eq!(rig.volume().store().row_count(Name::Data), Ok(0));
}

/// What is left for deletes must not eat what is set aside to grow: a volume whose disk has room takes more.
#[test]
fn a_database_grows_as_long_as_its_disk_has_room() {
    let large = 256 * MIB;
    let format = FormatParams { map_bytes_max: large, ..format_params() };
    let small_memory =
        VolumeParams { map_bytes_max: large, memory_bytes_max: MEMORY_BYTES_MIN, ..params() };
    let mut rig = Rig::formatted(small_memory, &format);
    let files: Vec<Ino> =
        (0..8).map(|n| rig.make(ROOT, format!("f{n}").as_bytes(), FILE).unwrap()).collect();
    let value = vec![7; 60_000];
    for number in 0..1200 {
        let name = format!("user.{number}");
        let (ino, name) = (files[number % files.len()], name.as_bytes());
        let set = MetaRequest::SetXattr { ino, name, value: &value, flags: 0 };
        assert_eq!(rig.done(&set), Ok(()), "number {number}");
    }
    assert!(!rig.volume().counters().disk_full);
    rig.assert_sound();
    // More at once than is set aside between two checkpoints waits for one.
    let mut number = 0_u32;
    let refusal = loop {
        if let Err(status) = rig.volume().store().check_room(true, 0) {
            break status;
        }
        let key = [&files[0].0.to_be_bytes()[..], &number.to_be_bytes()[..]].concat();
        rig.volume().store_mut().write(Name::Xattrs, &key, Some(&[1; 3000])).unwrap();
        number += 1;
    };
    assert_eq!(refusal, Status::Busy);
    rig.volume().checkpoint().unwrap();
    assert_eq!(rig.volume().store().check_room(true, 0), Ok(()));
}
