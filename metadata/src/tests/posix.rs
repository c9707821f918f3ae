//! O_TMPFILE, whiteouts, ACLs.

use super::*;
use weft_wire::meta::{
    Attr, Caller, MakeHow, RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, XATTR_CLEAR_SETGID,
    XATTR_KEEP_SETGID,
};

const ROOT: Ino = Ino::ROOT;
const NOBODY: u32 = u32::MAX;

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

fn xattr(rig: &mut Rig, ino: Ino, name: &[u8]) -> Result<Vec<u8>, Status> {
    match rig.ask(&MetaRequest::GetXattr { ino, name })? {
        MetaReply::Bytes(value) => Ok(value),
        other => panic!("{other:?}"),
    }
}

fn tmpfile(rig: &mut Rig) -> Ino {
    let how = MakeHow {
        mode: FILE,
        umask: 0o022,
        rdev: 0,
        exclusive: true,
        open: true,
        inline: false,
        fresh: false,
    };
    let wanted = MetaRequest::Make { parent: ROOT, name: b"", how, target: b"" };
    let Ok(MetaReply::Made(attr, true, Some(_))) = rig.ask(&wanted) else { panic!() };
    assert_eq!((attr.nlink, attr.mode), (0, 0o100_644));
    attr.ino
}

#[test]
fn a_file_without_a_name_gets_one_or_goes_with_its_last_close() {
    let mut rig = Rig::new();
    let kept = tmpfile(&mut rig);
    let gone = tmpfile(&mut rig);
    assert_eq!(rig.attr(ROOT).unwrap().size, 0, "the directory has no entry");
    rig.assert_sound();
    rig.done(&MetaRequest::Link { ino: kept, parent: ROOT, name: b"f" }).unwrap();
    for ino in [kept, gone] {
        rig.done(&MetaRequest::Release { ino, count: 1, atime: None }).unwrap();
    }
    rig.settle();
    assert_eq!(rig.attr(kept).unwrap().nlink, 1);
    assert_eq!(rig.attr(gone), Err(Status::Stale));
    // Once it had a name it does not come back.
    rig.ask(&MetaRequest::Open { ino: kept, inline: true }).unwrap();
    rig.done(&MetaRequest::Unlink { parent: ROOT, name: b"f" }).unwrap();
    let again = rig.done(&MetaRequest::Link { ino: kept, parent: ROOT, name: b"g" });
    assert_eq!(again, Err(Status::NotFound));
    rig.assert_sound();
    let how = MakeHow {
        mode: DIR,
        umask: 0,
        rdev: 0,
        exclusive: true,
        open: false,
        inline: false,
        fresh: false,
    };
    let wanted = MetaRequest::Make { parent: ROOT, name: b"", how, target: b"" };
    assert_eq!(rig.ask(&wanted), Err(Status::Invalid));
}

#[test]
fn a_file_without_a_name_stays_over_a_crash_until_its_session_is_over() {
    let mut rig = Rig::new();
    let (named, lost) = (tmpfile(&mut rig), tmpfile(&mut rig));
    rig.done(&MetaRequest::Link { ino: named, parent: ROOT, name: b"f" }).unwrap();
    rig.crash(|_, _| ()).unwrap();
    assert_eq!(rig.attr(lost).unwrap().nlink, 0);
    rig.volume().grace_over();
    rig.settle();
    assert_eq!(rig.attr(lost), Err(Status::Stale));
    assert_eq!(rig.attr(named).unwrap().nlink, 1);
    rig.assert_sound();
}

#[test]
fn a_whiteout_stays_where_a_name_was() {
    let mut rig = Rig::new();
    let f = rig.make(ROOT, b"f", FILE).unwrap();
    let rename = |name, new_name, flags| MetaRequest::Rename {
        parent: ROOT,
        name,
        new_parent: ROOT,
        new_name,
        flags,
    };
    assert_eq!(
        rig.done(&rename(b"f", b"g", RENAME_WHITEOUT | RENAME_EXCHANGE)),
        Err(Status::Invalid)
    );
    rig.done(&rename(b"f", b"g", RENAME_WHITEOUT | RENAME_NOREPLACE)).unwrap();
    let Ok(MetaReply::Entry(left)) = rig.ask(&MetaRequest::Lookup { parent: ROOT, name: b"f" })
    else {
        panic!()
    };
    assert_eq!((left.mode, left.rdev, left.nlink), (0o020_000, 0, 1));
    let Ok(MetaReply::Entry(moved)) = rig.ask(&MetaRequest::Lookup { parent: ROOT, name: b"g" })
    else {
        panic!()
    };
    assert_eq!(moved.ino, f);
    assert_eq!(rig.attr(ROOT).unwrap().size, 2);
    rig.assert_sound();
}

#[test]
fn acls_and_modes_follow_each_other() {
    let mut rig = Rig::new();
    let f = rig.make(ROOT, b"f", FILE).unwrap();
    let name = &b"system.posix_acl_access"[..];
    let full = [(1, 6, NOBODY), (2, 7, 9), (4, 4, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY)];
    let set = |name, value| MetaRequest::SetXattr { ino: f, name, value, flags: 0 };
    let value = acl(&full);
    rig.done(&set(name, &value)).unwrap();
    assert_eq!(rig.attr(f).unwrap().mode, 0o100_670);
    assert_eq!(xattr(&mut rig, f, name), Ok(acl(&full)));
    let chmod = SetAttr { mode: Some(0o705), ..SetAttr::default() };
    rig.done(&MetaRequest::SetAttr { ino: f, set: chmod }).unwrap();
    let changed = [(1, 7, NOBODY), (2, 7, 9), (4, 4, NOBODY), (16, 0, NOBODY), (32, 5, NOBODY)];
    assert_eq!(xattr(&mut rig, f, name), Ok(acl(&changed)));
    let plain = [(1, 6, NOBODY), (4, 4, NOBODY), (32, 1, NOBODY)];
    let value = acl(&plain);
    rig.done(&set(name, &value)).unwrap();
    assert_eq!(rig.attr(f).unwrap().mode, 0o100_641);
    assert_eq!(xattr(&mut rig, f, name), Err(Status::NoData), "the mode says it all");
    assert_eq!(rig.done(&set(name, b"\x02\0\0\0\x01")), Err(Status::Invalid));
    let default = &b"system.posix_acl_default"[..];
    let value = acl(&full);
    assert_eq!(rig.done(&set(default, &value)), Err(Status::Access), "not of a file");
    rig.assert_sound();
}

#[test]
fn an_acl_leaves_the_setgid_bit_to_who_knows_the_callers_groups() {
    let mut rig = Rig::new();
    let f = rig.make(ROOT, b"f", FILE).unwrap();
    let owned = SetAttr { uid: Some(7), gid: Some(8), ..SetAttr::default() };
    rig.done(&MetaRequest::SetAttr { ino: f, set: owned }).unwrap();
    let value = acl(&[(1, 7, NOBODY), (4, 5, NOBODY), (32, 5, NOBODY)]);
    let (access, default) = (&b"system.posix_acl_access"[..], &b"system.posix_acl_default"[..]);
    let (keep, clear) = (XATTR_KEEP_SETGID, XATTR_CLEAR_SETGID);
    let cases = [((7, 9), keep, true), ((7, 8), clear, false), ((0, 0), clear, false)];
    let judged_here = [((7, 9), 0, false), ((7, 8), 0, true), ((0, 0), 0, true)];
    for ((uid, gid), flags, stays) in cases.into_iter().chain(judged_here) {
        let chmod = SetAttr { mode: Some(0o2755), ..SetAttr::default() };
        rig.done(&MetaRequest::SetAttr { ino: f, set: chmod }).unwrap();
        let set = MetaRequest::SetXattr { ino: f, name: access, value: &value, flags };
        rig.sequence += 1;
        let caller = Caller { uid, gid, slot: 0, sequence: rig.sequence };
        let op = rig.submit_as(ALICE, caller, &set);
        rig.settle();
        assert!(rig.answer(op, &set).is_ok());
        let mode = if stays { 0o102_755 } else { 0o100_755 };
        assert_eq!(rig.attr(f).unwrap().mode, mode, "{uid} {gid} {flags}");
    }
    let name = b"user.a";
    let other = MetaRequest::SetXattr { ino: f, name, value: b"", flags: keep };
    assert_eq!(rig.done(&other), Err(Status::Invalid), "of ACLs alone");
    let dir = rig.make(ROOT, b"d", DIR).unwrap();
    let chmod = SetAttr { mode: Some(0o2755), ..SetAttr::default() };
    rig.done(&MetaRequest::SetAttr { ino: dir, set: chmod }).unwrap();
    let set = MetaRequest::SetXattr { ino: dir, name: default, value: &value, flags: clear };
    rig.done(&set).unwrap();
    assert_eq!(rig.attr(dir).unwrap().mode & 0o7777, 0o2755, "a default ACL changes no mode");
    rig.assert_sound();
}

#[test]
fn a_default_acl_is_inherited_in_the_umasks_place() {
    let mut rig = Rig::new();
    let dir = rig.make(ROOT, b"d", DIR).unwrap();
    let (access, default) = (&b"system.posix_acl_access"[..], &b"system.posix_acl_default"[..]);
    let full = [(1, 7, NOBODY), (2, 7, 9), (4, 5, NOBODY), (16, 7, NOBODY), (32, 5, NOBODY)];
    let value = acl(&full);
    rig.done(&MetaRequest::SetXattr { ino: dir, name: default, value: &value, flags: 0 }).unwrap();
    let mut make_in = |parent, name, mode| {
        let how = MakeHow {
            mode,
            umask: 0o077,
            rdev: 0,
            exclusive: true,
            open: false,
            inline: false,
            fresh: false,
        };
        match rig.ask(&MetaRequest::Make { parent, name, how, target: b"" }) {
            Ok(MetaReply::Made(attr, true, _)) => attr,
            other => panic!("{other:?}"),
        }
    };
    let file = make_in(dir, b"f", 0o100_666);
    let below = make_in(dir, b"e", 0o040_777);
    let plain = make_in(ROOT, b"p", 0o100_666);
    assert_eq!((file.mode, below.mode, plain.mode), (0o100_664, 0o040_775, 0o100_600));
    let narrowed = [(1, 6, NOBODY), (2, 7, 9), (4, 5, NOBODY), (16, 6, NOBODY), (32, 4, NOBODY)];
    assert_eq!(xattr(&mut rig, file.ino, access), Ok(acl(&narrowed)));
    assert_eq!(xattr(&mut rig, below.ino, default), Ok(value));
    assert_eq!(xattr(&mut rig, file.ino, default), Err(Status::NoData));
    rig.assert_sound();
}

#[test]
fn a_read_is_told_with_the_release_and_kept() {
    let mut rig = Rig::new();
    let f = rig.make(ROOT, b"f", FILE).unwrap();
    let before = rig.attr(f).unwrap();
    let later = Time { seconds: before.atime.seconds + 1000, nanos: 7 };
    let release = MetaRequest::Release { ino: f, count: 1, atime: Some(later) };
    rig.done(&release).unwrap();
    assert_eq!(rig.attr(f), Ok(before), "a session that has not got it open says nothing of it");
    rig.ask(&MetaRequest::Open { ino: f, inline: true }).unwrap();
    rig.done(&release).unwrap();
    assert_eq!(
        rig.attr(f),
        Ok(Attr { atime: later, ..before }),
        "seen at once; no change of the file"
    );
    rig.settle();
    rig.crash(|_, _| ()).unwrap();
    assert_eq!(rig.attr(f), Ok(Attr { atime: later, ..before }));
    rig.assert_sound();
}
