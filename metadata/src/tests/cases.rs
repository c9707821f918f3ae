//! One behaviour each.

use super::*;
use crate::limits::ENDED_MAX;
use weft_wire::ChunkIndex;
use weft_wire::layout::LayoutPolicy;
use weft_wire::limits::{FILE_BYTES_MAX, XATTR_LIST_BYTES_MAX};
use weft_wire::meta::{DataPlace, RENAME_EXCHANGE, RENAME_NOREPLACE, TimeSet};
use weft_wire::session::FENCE_ENDED;

const ROOT: Ino = Ino::ROOT;

fn rename<'a>(from: (Ino, &'a [u8]), to: (Ino, &'a [u8]), flags: u32) -> MetaRequest<'a> {
    MetaRequest::Rename { parent: from.0, name: from.1, new_parent: to.0, new_name: to.1, flags }
}

fn lookup(rig: &mut Rig, parent: Ino, name: &[u8]) -> Result<Ino, Status> {
    match rig.ask(&MetaRequest::Lookup { parent, name })? {
        MetaReply::Entry(attr) => Ok(attr.ino),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_are_checked() {
    let mut rig = Rig::new();
    let long = [b'x'; 256];
    for (name, status) in [
        (&b""[..], Status::Invalid),
        (b".", Status::Invalid),
        (b"..", Status::Invalid),
        (b"a/b", Status::Invalid),
        (b"a\0", Status::Invalid),
        (&long, Status::NameTooLong),
    ] {
        assert_eq!(rig.make(ROOT, name, FILE), Err(status), "{name:?}");
        assert_eq!(rig.done(&MetaRequest::Unlink { parent: ROOT, name }), Err(status));
        assert_eq!(rig.done(&rename((ROOT, b"a"), (ROOT, name), 0)), Err(status));
    }
    assert!(rig.make(ROOT, &long[..255], FILE).is_ok());
    assert_eq!(lookup(&mut rig, ROOT, b".."), Ok(ROOT));
    rig.assert_sound();
}

#[test]
fn directories_count_and_refuse() {
    let mut rig = Rig::new();
    let a = rig.make(ROOT, b"a", DIR).unwrap();
    let b = rig.make(a, b"b", DIR).unwrap();
    let f = rig.make(a, b"f", FILE).unwrap();
    assert_eq!((rig.attr(a).unwrap().nlink, rig.attr(a).unwrap().size), (3, 2));
    assert_eq!(rig.make(a, b"f", DIR), Err(Status::Exists));
    assert_eq!(rig.make(f, b"x", FILE), Err(Status::NotDirectory));
    assert_eq!(rig.done(&MetaRequest::Rmdir { parent: ROOT, name: b"a" }), Err(Status::NotEmpty));
    assert_eq!(rig.done(&MetaRequest::Rmdir { parent: a, name: b"f" }), Err(Status::NotDirectory));
    assert_eq!(rig.done(&MetaRequest::Unlink { parent: a, name: b"b" }), Err(Status::IsDirectory));
    assert_eq!(rig.done(&MetaRequest::Unlink { parent: a, name: b"x" }), Err(Status::NotFound));
    assert_eq!(lookup(&mut rig, b, b".."), Ok(a));
    rig.done(&MetaRequest::Rmdir { parent: a, name: b"b" }).unwrap();
    rig.done(&MetaRequest::Unlink { parent: a, name: b"f" }).unwrap();
    assert_eq!((rig.attr(a).unwrap().nlink, rig.attr(a).unwrap().size), (2, 0));
    assert_eq!(rig.attr(f), Err(Status::Stale));
    assert_eq!(rig.attr(b), Err(Status::Stale));
    assert_eq!(rig.make(b, b"x", FILE), Err(Status::Stale));
    assert_eq!(rig.assert_sound().inode_count, 2);
}

#[test]
fn nothing_is_made_in_a_removed_directory_that_is_open() {
    let mut rig = Rig::new();
    let a = rig.make(ROOT, b"a", DIR).unwrap();
    rig.ask(&MetaRequest::Open { ino: a, inline: true }).unwrap();
    rig.done(&MetaRequest::Rmdir { parent: ROOT, name: b"a" }).unwrap();
    assert_eq!(rig.attr(a).unwrap().nlink, 0);
    assert_eq!(rig.make(a, b"x", FILE), Err(Status::NotFound));
    rig.make(ROOT, b"f", FILE).unwrap();
    assert_eq!(rig.done(&rename((ROOT, b"f"), (a, b"f"), 0)), Err(Status::NotFound));
    rig.done(&MetaRequest::Release { ino: a, count: 1, atime: None }).unwrap();
    assert_eq!(rig.attr(a), Err(Status::Stale));
    rig.assert_sound();
}

#[test]
fn setgid_and_owner_are_inherited() {
    let mut rig = Rig::new();
    let a = rig.make(ROOT, b"a", DIR).unwrap();
    assert_eq!((rig.attr(a).unwrap().uid, rig.attr(a).unwrap().gid), (10, 20));
    let set = SetAttr { mode: Some(0o2775), gid: Some(77), ..SetAttr::default() };
    rig.done(&MetaRequest::SetAttr { ino: a, set }).unwrap();
    let (d, f) = (rig.make(a, b"d", DIR).unwrap(), rig.make(a, b"f", FILE).unwrap());
    let (d, f) = (rig.attr(d).unwrap(), rig.attr(f).unwrap());
    assert_eq!((d.mode, d.gid, d.uid), (0o042_755, 77, 10));
    assert_eq!((f.mode, f.gid), (0o100_644, 77));
}

#[test]
fn hard_links_are_one_inode() {
    let mut rig = Rig::new();
    let d = rig.make(ROOT, b"d", DIR).unwrap();
    let f = rig.make(ROOT, b"f", FILE).unwrap();
    rig.now.seconds = 200;
    rig.done(&MetaRequest::Link { ino: f, parent: d, name: b"g" }).unwrap();
    let attr = rig.attr(f).unwrap();
    assert_eq!((attr.nlink, attr.ctime.seconds, attr.mtime.seconds), (2, 200, 100));
    assert_eq!(rig.attr(d).unwrap().mtime.seconds, 200);
    let link = |ino, name| MetaRequest::Link { ino, parent: ROOT, name };
    assert_eq!(rig.done(&link(f, b"d")), Err(Status::Exists));
    assert_eq!(rig.done(&link(d, b"e")), Err(Status::NotPermitted));
    assert_eq!(rig.done(&link(Ino(999), b"e")), Err(Status::Stale));
    // Two names of one inode: a rename of one to the other does nothing.
    rig.done(&rename((ROOT, b"f"), (d, b"g"), 0)).unwrap();
    assert_eq!(lookup(&mut rig, ROOT, b"f"), Ok(f));
    rig.done(&MetaRequest::Unlink { parent: ROOT, name: b"f" }).unwrap();
    assert_eq!(rig.attr(f).unwrap().nlink, 1);
    assert_eq!(lookup(&mut rig, d, b"g"), Ok(f));
    rig.assert_sound();
}

#[test]
fn rename_follows_posix() {
    let mut rig = Rig::new();
    let a = rig.make(ROOT, b"a", DIR).unwrap();
    let b = rig.make(a, b"b", DIR).unwrap();
    let f = rig.make(ROOT, b"f", FILE).unwrap();
    let g = rig.make(ROOT, b"g", FILE).unwrap();
    let mut refuses = |from, to, flags, status| {
        assert_eq!(rig.done(&rename(from, to, flags)), Err(status), "{from:?} {to:?} {flags}");
    };
    refuses((ROOT, b"a"), (a, b"x"), 0, Status::Invalid);
    refuses((ROOT, b"a"), (b, b"x"), 0, Status::Invalid);
    refuses((ROOT, b"a"), (b, b"x"), RENAME_NOREPLACE, Status::Invalid);
    refuses((a, b"b"), (ROOT, b"a"), 0, Status::NotEmpty);
    refuses((a, b"b"), (ROOT, b"a"), RENAME_EXCHANGE, Status::Invalid);
    refuses((ROOT, b"f"), (ROOT, b"a"), 0, Status::IsDirectory);
    refuses((ROOT, b"a"), (ROOT, b"f"), 0, Status::NotDirectory);
    refuses((ROOT, b"f"), (ROOT, b"g"), RENAME_NOREPLACE, Status::Exists);
    refuses((ROOT, b"f"), (ROOT, b"h"), RENAME_EXCHANGE, Status::NotFound);
    refuses((ROOT, b"h"), (ROOT, b"f"), 0, Status::NotFound);
    refuses((ROOT, b"f"), (ROOT, b"h"), 6, Status::Invalid);
    refuses((ROOT, b"f"), (ROOT, b"h"), 3, Status::Invalid);
    rig.now.seconds = 300;
    rig.done(&rename((ROOT, b"f"), (b, b"f2"), 0)).unwrap();
    assert_eq!(lookup(&mut rig, b, b"f2"), Ok(f));
    assert_eq!(lookup(&mut rig, ROOT, b"f"), Err(Status::NotFound));
    for ino in [ROOT, b] {
        assert_eq!(rig.attr(ino).unwrap().mtime.seconds, 300);
    }
    assert_eq!(rig.attr(f).unwrap().ctime.seconds, 300);
    // Exchange a directory with a file: the directory's parent and both link counts follow.
    rig.done(&rename((a, b"b"), (ROOT, b"g"), RENAME_EXCHANGE)).unwrap();
    assert_eq!(lookup(&mut rig, ROOT, b"g"), Ok(b));
    assert_eq!(lookup(&mut rig, a, b"b"), Ok(g));
    assert_eq!(lookup(&mut rig, b, b".."), Ok(ROOT));
    assert_eq!((rig.attr(ROOT).unwrap().nlink, rig.attr(a).unwrap().nlink), (4, 2));
    // Over an empty directory and over a file.
    rig.make(ROOT, b"e", DIR).unwrap();
    rig.done(&rename((ROOT, b"g"), (ROOT, b"e"), 0)).unwrap();
    rig.done(&rename((b, b"f2"), (a, b"b"), 0)).unwrap();
    assert_eq!(rig.attr(g), Err(Status::Stale));
    assert_eq!(rig.assert_sound().inode_count, 4);
}

#[test]
fn opening_by_name_finds_or_makes() {
    let mut rig = Rig::new();
    let how = MakeHow {
        mode: FILE,
        umask: 0,
        rdev: 0,
        exclusive: false,
        open: true,
        inline: false,
        fresh: false,
    };
    let wanted = MetaRequest::Make { parent: ROOT, name: b"f", how, target: b"" };
    let Ok(MetaReply::Made(attr, true, Some(DataPlace { layout, inline: None }))) =
        rig.ask(&wanted)
    else {
        panic!()
    };
    assert_eq!(
        layout.targets(),
        [TargetId(8), TargetId(3), TargetId(5)],
        "inode 2 begins at the third of three"
    );
    let Ok(MetaReply::Made(again, false, Some(_))) = rig.ask(&wanted) else { panic!() };
    assert_eq!(attr, again);
    rig.done(&MetaRequest::Unlink { parent: ROOT, name: b"f" }).unwrap();
    rig.done(&MetaRequest::Release { ino: attr.ino, count: 1, atime: None }).unwrap();
    assert_eq!(rig.attr(attr.ino).unwrap().nlink, 0);
    rig.done(&MetaRequest::Release { ino: attr.ino, count: 1, atime: None }).unwrap();
    assert_eq!(rig.attr(attr.ino), Err(Status::Stale));
    rig.make(ROOT, b"d", DIR).unwrap();
    let wanted = MetaRequest::Make { parent: ROOT, name: b"d", how, target: b"" };
    assert_eq!(rig.ask(&wanted), Err(Status::IsDirectory));
    let how = MakeHow { mode: DIR, ..how };
    let wanted = MetaRequest::Make { parent: ROOT, name: b"x", how, target: b"" };
    assert_eq!(rig.ask(&wanted), Err(Status::Invalid));
}

#[test]
fn symlinks_have_bounds() {
    let mut rig = Rig::new();
    let how = MakeHow {
        mode: 0o120_777,
        umask: 0,
        rdev: 0,
        exclusive: true,
        open: false,
        inline: false,
        fresh: false,
    };
    let long = [b'x'; 4096];
    for (name, target, ends) in [
        (&b"a"[..], &b""[..], Some(Status::NotFound)),
        (b"a", &long, Some(Status::NameTooLong)),
        (b"a", &long[..4095], None),
    ] {
        let wanted = MetaRequest::Make { parent: ROOT, name, how, target };
        assert_eq!(rig.ask(&wanted).err(), ends);
    }
    let ino = lookup(&mut rig, ROOT, b"a").unwrap();
    assert_eq!(rig.attr(ino).unwrap().size, 4095);
    let read = rig.ask(&MetaRequest::ReadLink { ino });
    assert_eq!(read, Ok(MetaReply::Bytes(long[..4095].to_vec())));
    assert_eq!(rig.ask(&MetaRequest::ReadLink { ino: ROOT }), Err(Status::Invalid));
}

#[test]
fn a_shrink_is_answered_when_its_word_is_logged() {
    let mut rig = Rig::new();
    let f = rig.make(ROOT, b"f", FILE).unwrap();
    rig.done(&resize(f, 5 << 20)).unwrap();
    let shrink = resize(f, (3 << 20) + 7);
    let op = rig.submit(&shrink);
    rig.flush();
    rig.complete();
    rig.flush();
    assert!(rig.appends.is_empty() && !rig.replies.contains_key(&op), "waits for the targets");
    let work = rig.works.remove(0);
    assert_eq!((work.ino, work.remove_from, work.shrink), (f, ChunkIndex(4), true));
    assert_eq!(work.cut, Some((ChunkIndex(3), 7)));
    rig.volume().work_done(work.id, 7);
    rig.flush();
    assert!(!rig.replies.contains_key(&op), "waits for the log");
    rig.complete();
    let Ok(MetaReply::Attr(attr)) = rig.answer(op, &shrink) else { panic!() };
    assert_eq!(attr.size, (3 << 20) + 7);
    assert_eq!(rig.attr(f).unwrap().blocks, 0);
    let told = MetaRequest::Wrote {
        ino: f,
        size_min: 0,
        mtime: Time::default(),
        blocks_added: 9,
        at_targets: false,
    };
    rig.done(&told).unwrap();
    assert_eq!(rig.attr(f).unwrap().blocks, 2, "what the cut freed was told before what it cut");
    assert_eq!(rig.volume().pending_works().unwrap(), []);
    let op = rig.submit(&resize(f, 3 << 20));
    rig.flush();
    rig.complete();
    assert_eq!((rig.works[0].remove_from, rig.works[0].cut), (ChunkIndex(3), None));
    // A crash before the targets are done: the work is still there, and the change is not made twice.
    rig.crash(|_, _| ()).unwrap();
    assert!(!rig.replies.contains_key(&op));
    let works = rig.volume().pending_works().unwrap();
    assert_eq!(works.len(), 1);
    let caller = Caller { uid: 10, gid: 20, slot: 0, sequence: rig.sequence };
    let again = rig.submit_as(ALICE, caller, &resize(f, 3 << 20));
    assert!(!rig.replies.contains_key(&again));
    rig.works = works;
    rig.settle();
    assert!(rig.answer(again, &resize(f, 3 << 20)).is_ok());
}

#[test]
fn sizes_and_times() {
    let mut rig = Rig::new();
    let f = rig.make(ROOT, b"f", FILE).unwrap();
    assert_eq!(rig.done(&resize(f, FILE_BYTES_MAX + 1)), Err(Status::TooBig));
    assert_eq!(rig.done(&resize(ROOT, 1)), Err(Status::IsDirectory));
    let p = rig.make(ROOT, b"p", 0o010_644).unwrap();
    assert_eq!(rig.done(&resize(p, 1)), Err(Status::Invalid));
    rig.now = Time { seconds: 300, nanos: 5 };
    rig.done(&resize(f, 0)).unwrap();
    assert_eq!(rig.attr(f).unwrap().mtime, rig.now, "a truncate to the same length counts");
    let old = Time { seconds: -5, nanos: 999_999_999 };
    let set =
        SetAttr { mtime: Some(TimeSet::To(old)), atime: Some(TimeSet::Now), ..SetAttr::default() };
    rig.done(&MetaRequest::SetAttr { ino: f, set }).unwrap();
    let attr = rig.attr(f).unwrap();
    assert_eq!((attr.mtime, attr.atime, attr.ctime), (old, rig.now, rig.now));
    let before = attr.version;
    let wrote = |size_min, seconds| MetaRequest::Wrote {
        ino: f,
        size_min,
        mtime: Time { seconds, nanos: 0 },
        blocks_added: 3,
        at_targets: false,
    };
    rig.done(&wrote(100, 400)).unwrap();
    rig.done(&wrote(50, 350)).unwrap();
    let attr = rig.attr(f).unwrap();
    assert_eq!((attr.size, attr.mtime.seconds, attr.ctime.seconds), (100, 400, 400));
    assert_eq!(attr.blocks, 6);
    assert_eq!(attr.version, before + 2);
    assert_eq!(rig.done(&wrote(FILE_BYTES_MAX + 1, 1)), Err(Status::TooBig));
    assert_eq!(
        rig.done(&MetaRequest::Wrote {
            ino: ROOT,
            size_min: 0,
            mtime: old,
            blocks_added: 0,
            at_targets: false
        }),
        Err(Status::IsDirectory)
    );
}

#[test]
fn layouts_follow_the_directory() {
    let mut rig = Rig::new();
    let d = rig.make(ROOT, b"d", DIR).unwrap();
    let policy = LayoutPolicy { chunk_log2: 16, width: 2, inline_bytes: 100 };
    rig.done(&MetaRequest::SetLayout { ino: d, policy }).unwrap();
    let e = rig.make(d, b"e", DIR).unwrap();
    assert_eq!(rig.ask(&MetaRequest::GetLayout { ino: e }), Ok(MetaReply::Policy(policy)));
    let f = rig.make(e, b"f", FILE).unwrap();
    let Ok(MetaReply::Layout(layout)) = rig.ask(&MetaRequest::GetLayout { ino: f }) else {
        panic!()
    };
    assert_eq!((layout.chunk_log2(), layout.targets().len()), (16, 2));
    assert_eq!(layout.targets()[0], rig.params.targets[to_usize(f.0 % 3)]);
    assert_eq!(rig.done(&MetaRequest::SetLayout { ino: f, policy }), Err(Status::NotDirectory));
}

#[test]
fn extended_attributes() {
    let mut rig = Rig::new();
    let f = rig.make(ROOT, b"f", FILE).unwrap();
    let set = |name, value, flags| MetaRequest::SetXattr { ino: f, name, value, flags };
    let big = vec![1; (64 << 10) + 1];
    for (name, value, flags, status) in [
        (&b"user.a"[..], &b"x"[..], 2, Status::NoData),
        (b"a", b"x", 0, Status::NotSupported),
        (b"system.posix_acl_other", b"x", 0, Status::NotSupported),
        (b"user.", b"x", 0, Status::Invalid),
        (b"user.a", b"x", 4, Status::Invalid),
        (b"user.a", &big, 0, Status::ArgumentTooBig),
    ] {
        assert_eq!(rig.done(&set(name, value, flags)), Err(status), "{name:?}");
    }
    rig.done(&set(b"user.a", b"", 1)).unwrap();
    assert_eq!(rig.done(&set(b"user.a", b"", 1)), Err(Status::Exists));
    rig.done(&set(b"user.b", &big[1..], 0)).unwrap();
    let get = |name| MetaRequest::GetXattr { ino: f, name };
    assert_eq!(rig.ask(&get(b"user.a")), Ok(MetaReply::Bytes(Vec::new())));
    assert_eq!(rig.ask(&get(b"user.b")), Ok(MetaReply::Bytes(big[1..].to_vec())));
    assert_eq!(rig.ask(&get(b"user.c")), Err(Status::NoData));
    let list = rig.ask(&MetaRequest::ListXattr { ino: f });
    assert_eq!(list, Ok(MetaReply::Bytes(b"user.a\0user.b\0".to_vec())));
    rig.done(&MetaRequest::RemoveXattr { ino: f, name: b"user.a" }).unwrap();
    let remove = MetaRequest::RemoveXattr { ino: f, name: b"user.a" };
    assert_eq!(rig.done(&remove), Err(Status::NoData));
    // The list has a bound; removing the file removes the attributes.
    let mut bytes = 7;
    for number in 0.. {
        let name = format!("user.{number:0>250}");
        let fits = bytes + name.len() < XATTR_LIST_BYTES_MAX;
        let (name_bytes, flags) = (name.as_bytes(), 0);
        let ends = rig.done(&MetaRequest::SetXattr { ino: f, name: name_bytes, value: b"", flags });
        assert_eq!(ends, if fits { Ok(()) } else { Err(Status::NoSpace) });
        if !fits {
            break;
        }
        bytes += name.len() + 1;
    }
    rig.assert_sound();
    rig.done(&MetaRequest::Unlink { parent: ROOT, name: b"f" }).unwrap();
    assert_eq!(rig.assert_sound().xattr_count, 0);
}

#[test]
fn a_removed_file_lives_while_it_is_open_and_over_a_crash() {
    let mut rig = Rig::new();
    let f = rig.make(ROOT, b"f", FILE).unwrap();
    rig.ask(&MetaRequest::Open { ino: f, inline: true }).unwrap();
    rig.done(&MetaRequest::Unlink { parent: ROOT, name: b"f" }).unwrap();
    assert_eq!(rig.attr(f).unwrap().nlink, 0);
    let report = rig.crash(|_, _| ()).unwrap();
    assert_eq!(report.orphan_count, 1);
    rig.settle();
    let gone = rig.ask(&MetaRequest::Reopen { opens: vec![(f, 2), (Ino(99), 1)] });
    assert_eq!(gone, Ok(MetaReply::Reopened(vec![Ino(99)])));
    rig.volume().grace_over();
    rig.settle();
    assert!(rig.attr(f).is_ok());
    rig.volume().session_ended(ALICE, false);
    rig.settle();
    assert_eq!(rig.attr(f), Err(Status::Stale));
    assert_eq!(rig.assert_sound().orphan_count, 0);
    assert_eq!(rig.volume().counters().open_count, 0);
    // Nobody reopens: gone when the grace is over.
    let g = rig.make(ROOT, b"g", FILE).unwrap();
    rig.ask(&MetaRequest::Open { ino: g, inline: true }).unwrap();
    rig.done(&MetaRequest::Unlink { parent: ROOT, name: b"g" }).unwrap();
    rig.crash(|_, _| ()).unwrap();
    rig.settle();
    assert!(rig.attr(g).is_ok());
    rig.volume().grace_over();
    let mut out = Vec::new();
    rig.volume().flush_log(&mut out);
    rig.take(out);
    assert_eq!(rig.ask(&MetaRequest::Open { ino: g, inline: true }), Err(Status::Stale));
    rig.settle();
    assert_eq!(rig.assert_sound().work_count, 0);
}

#[test]
fn a_repeated_change_is_made_once() {
    let mut rig = Rig::new();
    let caller = |slot, sequence| Caller { uid: 1, gid: 1, slot, sequence };
    let wanted = make(ROOT, b"f", FILE);
    // Both are answered when it comes again while on its way.
    let first = rig.submit_as(ALICE, caller(4, 10), &wanted);
    let second = rig.submit_as(ALICE, caller(4, 10), &wanted);
    rig.flush();
    let third = rig.submit_as(ALICE, caller(4, 10), &wanted);
    let early = rig.submit_as(ALICE, caller(4, 11), &make(ROOT, b"g", FILE));
    rig.settle();
    let reply = rig.answer(first, &wanted);
    assert!(reply.is_ok());
    assert_eq!(rig.answer(second, &wanted), reply);
    assert_eq!(rig.answer(third, &wanted), reply);
    assert_eq!(rig.answer(early, &wanted), Err(Status::Protocol), "one change at a time");
    let applied = rig.volume().counters().applied;
    for crash in [false, true] {
        if crash {
            rig.crash(|_, _| ()).unwrap();
        }
        let again = rig.submit_as(ALICE, caller(4, 10), &wanted);
        assert_eq!(rig.answer(again, &wanted), reply, "the first outcome, at once");
        let old = rig.submit_as(ALICE, caller(4, 9), &wanted);
        assert_eq!(rig.answer(old, &wanted), Err(Status::Protocol));
        rig.settle();
        assert_eq!(rig.volume().counters().applied, applied, "nothing was logged");
    }
    let next = rig.submit_as(ALICE, caller(4, 11), &wanted);
    let bad = rig.submit_as(ALICE, caller(256, 1), &wanted);
    rig.settle();
    assert_eq!(rig.answer(next, &wanted), Err(Status::Exists));
    assert_eq!(rig.answer(bad, &wanted), Err(Status::Protocol));
    // A session that is over is forgotten: its slots begin anew, also after a crash.
    rig.volume().session_ended(ALICE, false);
    rig.settle();
    rig.crash(|_, _| ()).unwrap();
    let anew = rig.submit_as(ALICE, caller(4, 1), &wanted);
    rig.settle();
    assert_eq!(rig.answer(anew, &wanted), Err(Status::Exists));
}

/// Its client may come back to another process, and must hear that its changes are forgotten.
#[test]
fn sessions_that_expired_are_known_over_crashes_and_the_oldest_go() {
    let mut rig = Rig::new();
    let ended = |rig: &mut Rig| rig.volume().fences().collect::<Vec<_>>();
    rig.make(ROOT, b"f", FILE).unwrap();
    rig.volume().session_ended(ALICE, true);
    rig.settle();
    assert_eq!(ended(&mut rig), [(ALICE, FENCE_ENDED)]);
    rig.crash(|_, _| ()).unwrap();
    assert_eq!(ended(&mut rig), [(ALICE, FENCE_ENDED)], "from the log");
    rig.volume().checkpoint().unwrap();
    rig.crash(|_, _| ()).unwrap();
    assert_eq!(ended(&mut rig), [(ALICE, FENCE_ENDED)], "from the table");
    // One that changed nothing lost nothing.
    rig.volume().session_ended(SessionId([7; 16]), true);
    rig.make(ROOT, b"g", FILE).unwrap();
    rig.volume().session_ended(ALICE, true);
    rig.settle();
    assert_eq!(ended(&mut rig), [(ALICE, 2 * FENCE_ENDED)]);
    for number in 0..ENDED_MAX {
        let session = SessionId(u128::try_from(number + 1).unwrap().to_be_bytes());
        let caller = Caller { uid: 0, gid: 0, slot: 0, sequence: 1 };
        rig.submit_as(session, caller, &MetaRequest::Unlink { parent: ROOT, name: b"none" });
        rig.settle();
        rig.volume().session_ended(session, true);
        rig.settle();
    }
    let now = ended(&mut rig);
    assert_eq!(now.len(), ENDED_MAX);
    assert!(now.iter().all(|(session, count)| *session != ALICE && *count == FENCE_ENDED));
    rig.crash(|_, _| ()).unwrap();
    assert_eq!(ended(&mut rig), now);
    let caller = Caller { uid: 0, gid: 0, slot: 0, sequence: 2 };
    let back = rig.submit_as(now[0].0, caller, &make(ROOT, b"h", FILE));
    rig.settle();
    assert!(rig.answer(back, &make(ROOT, b"h", FILE)).is_ok());
    rig.volume().session_ended(now[0].0, false);
    rig.settle();
    assert_eq!(rig.volume().fences().count(), ENDED_MAX - 1, "it said goodbye");
    rig.assert_sound();
}

/// What others go on without is on the log before they are let: a server that is started anew says it, too.
#[test]
fn fences_are_known_over_crashes_until_the_session_ends() {
    let mut rig = Rig::new();
    let fences = |rig: &mut Rig| rig.volume().fences().collect::<Vec<_>>();
    rig.make(ROOT, b"f", FILE).unwrap();
    rig.volume().fence(ALICE, Fence::Off);
    rig.flush();
    assert_eq!(
        (fences(&mut rig), rig.fenced.clone()),
        (vec![], vec![]),
        "not before it is on the log"
    );
    rig.crash(|_, _| ()).unwrap();
    assert_eq!(fences(&mut rig), [], "it never was");
    rig.volume().fence(ALICE, Fence::Off);
    rig.settle();
    assert_eq!(rig.fenced, [(ALICE, 1)]);
    rig.crash(|_, _| ()).unwrap();
    assert_eq!(fences(&mut rig), [(ALICE, 1)], "from the log");
    rig.volume().checkpoint().unwrap();
    rig.crash(|_, _| ()).unwrap();
    assert_eq!(fences(&mut rig), [(ALICE, 1)], "from the table");
    rig.volume().fence(ALICE, Fence::Late);
    rig.settle();
    assert_eq!(
        rig.fenced.pop(),
        Some((ALICE, 1)),
        "while the server is there it hears of that in another way"
    );
    rig.crash(|_, _| ()).unwrap();
    assert_eq!(fences(&mut rig), [(ALICE, 2)]);
    rig.volume().fence(ALICE, Fence::Late);
    rig.volume().fence(ALICE, Fence::Back);
    rig.settle();
    rig.crash(|_, _| ()).unwrap();
    assert_eq!(fences(&mut rig), [(ALICE, 2)], "it may have heard of that one");
    rig.volume().session_ended(ALICE, true);
    rig.settle();
    assert_eq!(rig.fenced.pop(), Some((ALICE, FENCE_ENDED + 2)));
    assert_eq!(fences(&mut rig), [(ALICE, FENCE_ENDED + 2)]);
    rig.assert_sound();
}

/// Who lives is told numbers that grow only; of the others the oldest are forgotten.
#[test]
fn a_session_that_lives_keeps_its_fences_and_a_goodbye_ends_them() {
    let mut rig = Rig::new();
    rig.make(ROOT, b"f", FILE).unwrap();
    rig.volume().fence(ALICE, Fence::Off);
    rig.settle();
    for number in 0..2 * ENDED_MAX {
        let session = SessionId(u128::try_from(number + 1).unwrap().to_be_bytes());
        rig.volume().fence(session, Fence::Off);
        if number % 100 == 0 {
            rig.settle();
        }
    }
    rig.settle();
    rig.crash(|_, _| ()).unwrap();
    let known: Vec<_> = rig.volume().fences().collect();
    assert_eq!(known.len(), ENDED_MAX + 1);
    assert!(known.contains(&(ALICE, 1)));
    rig.volume().session_ended(ALICE, false);
    rig.settle();
    assert_eq!(rig.volume().fences().count(), ENDED_MAX, "nobody comes back after a goodbye");
    rig.assert_sound();
}

#[test]
fn shutdown_finishes_what_it_took() {
    let mut rig = Rig::new();
    let wanted = make(ROOT, b"f", FILE);
    let op = rig.submit(&wanted);
    rig.volume().shutdown();
    let caller = Caller { uid: 0, gid: 0, slot: 1, sequence: 1 };
    let late = rig.submit_as(ALICE, caller, &make(ROOT, b"g", FILE));
    rig.settle();
    assert!(rig.stopped);
    assert_eq!(rig.answer(late, &wanted), Err(Status::Unavailable));
    assert!(rig.answer(op, &wanted).is_ok());
    let report = rig.open().unwrap();
    assert_eq!(report.replayed_commands, 0, "the last checkpoint has everything");
    assert!(lookup(&mut rig, ROOT, b"f").is_ok());
}

#[test]
fn special_files_keep_their_device() {
    let mut rig = Rig::new();
    for (name, mode, rdev, stored) in
        [(&b"c"[..], 0o020_600, 0x105, 0x105), (b"s", 0o140_600, 7, 0), (b"p", 0o010_600, 7, 0)]
    {
        let how = MakeHow {
            mode,
            umask: 0,
            rdev,
            exclusive: true,
            open: false,
            inline: false,
            fresh: false,
        };
        let wanted = MetaRequest::Make { parent: ROOT, name, how, target: b"" };
        let Ok(MetaReply::Made(attr, true, None)) = rig.ask(&wanted) else { panic!() };
        assert_eq!((attr.mode, attr.rdev), (mode, stored));
    }
    assert_eq!(rig.make(ROOT, b"x", 0o644), Err(Status::Invalid), "no type");
    rig.assert_sound();
}

#[test]
fn an_open_whose_reply_was_lost_in_a_crash_counts_when_asked_again() {
    let mut rig = Rig::new();
    let how = MakeHow {
        mode: FILE,
        umask: 0,
        rdev: 0,
        exclusive: true,
        open: true,
        inline: false,
        fresh: false,
    };
    let wanted = MetaRequest::Make { parent: ROOT, name: b"f", how, target: b"" };
    let caller = Caller { uid: 0, gid: 0, slot: 9, sequence: 1 };
    rig.submit_as(ALICE, caller, &wanted);
    rig.settle();
    rig.crash(|_, _| ()).unwrap();
    for _ in 0..2 {
        let again = rig.submit_as(ALICE, caller, &wanted);
        assert!(matches!(rig.answer(again, &wanted), Ok(MetaReply::Made(_, true, _))));
    }
    rig.volume().grace_over();
    let ino = lookup(&mut rig, ROOT, b"f").unwrap();
    rig.done(&MetaRequest::Unlink { parent: ROOT, name: b"f" }).unwrap();
    assert_eq!(rig.attr(ino).unwrap().nlink, 0, "it is open");
    rig.done(&MetaRequest::Release { ino, count: 1, atime: None }).unwrap();
    assert_eq!(rig.attr(ino), Err(Status::Stale), "it was open once");
}

#[test]
fn names_of_inodes_are_found_a_stretch_at_a_time() {
    let mut rig = Rig::new();
    let folder = rig.make(ROOT, b"folder", DIR).unwrap();
    let mut wanted = Vec::new();
    for at in 0..9000u32 {
        let ino = rig.make(folder, format!("file{at}").as_bytes(), FILE).unwrap();
        if at % 3000 == 7 {
            wanted.push(ino);
        }
    }
    rig.done(&MetaRequest::Link { ino: wanted[0], parent: ROOT, name: b"other" }).unwrap();
    let (mut found, mut from, mut asked) = (Vec::new(), Some((Ino(0), 0)), 0);
    while let Some((directory, cookie)) = from {
        let request = MetaRequest::FindNames { inos: wanted.clone(), directory, cookie };
        let Ok(MetaReply::Names(names, next)) = rig.ask(&request) else { panic!("no names") };
        found.extend(names.into_iter().map(|found| (found.ino, found.directory, found.name)));
        asked += 1;
        from = next;
    }
    assert_eq!(asked, 2, "9,002 names, 8,192 at a time");
    let mut expected = vec![(wanted[0], ROOT, b"other".to_vec())];
    expected.extend(
        wanted
            .iter()
            .zip([7, 3007, 6007])
            .map(|(ino, at)| (*ino, folder, format!("file{at}").into_bytes())),
    );
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}
