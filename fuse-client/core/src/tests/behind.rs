//! Changes that a program does not wait for.

use weft_wire::session::{FEATURE_FRESH, FEATURE_INLINE};

use super::world::{World, config};
use super::*;

const FRESH: u64 = FEATURE_INLINE | FEATURE_FRESH;
const LONG_AGO: Time = Time { seconds: 1000, nanos: 5 };

fn set(ino: Ino, set: SetAttr) -> FsOp {
    FsOp::SetAttr { ino, set, handle: None }
}

fn mode(mode: u32) -> SetAttr {
    SetAttr { mode: Some(mode), ..SetAttr::default() }
}

fn mtime(time: Time) -> SetAttr {
    let time = Some(TimeSet::To(time));
    SetAttr { mtime: time, atime: time, ..SetAttr::default() }
}

/// Its server offers this.
fn ready(mut world: World, features: u64) -> World {
    world.fake.features |= features;
    world.step_until(|world| world.ready);
    world
}

impl World {
    /// The answer that is there without a word of a server.
    fn at_once(&mut self, op: FsOp) -> Result<FsReply, i32> {
        let id = self.ask(op);
        self.replies.remove(&id).expect("answered at once")
    }

    /// What tar does with each file; then the file is closed.
    fn unpack(&mut self, name: &[u8], bytes: &[u8]) -> Ino {
        let (ino, handle) = self.create(name);
        self.write(handle, 0, bytes, false).unwrap();
        for change in [mtime(LONG_AGO), owner(7, 8), mode(0o640)] {
            assert!(matches!(self.at_once(set(ino, change)), Ok(FsReply::Attr(..))));
        }
        self.done(FsOp::Flush { handle }).unwrap();
        self.done(FsOp::Release { handle }).unwrap();
        ino
    }

    fn is_unpacked(&mut self, ino: Ino, bytes: &[u8]) {
        assert!(self.fake.content(ino) == bytes);
        let attr = self.fake.inodes[&ino].attr;
        assert_eq!((attr.mode & 0o7777, attr.uid, attr.gid), (0o640, 7, 8));
        assert_eq!((attr.mtime, attr.atime), (LONG_AGO, LONG_AGO));
        assert_eq!(attr.size, to_u64(bytes.len()));
    }
}

fn owner(uid: u32, gid: u32) -> SetAttr {
    SetAttr { uid: Some(uid), gid: Some(gid), ..SetAttr::default() }
}

#[test]
fn attributes_of_a_file_of_ours_are_set_without_waiting_and_in_order() {
    for (seed, bytes) in [(400, 10), (401, 3901), (402, 9000), (403, 2 * CHUNK + 5)] {
        let mut world = ready(World::new(config(), seed), FRESH);
        let bytes = pattern(4, bytes);
        let ino = world.unpack(b"a", &bytes);
        let kinds = [Kind::GetAttr, Kind::GetData, Kind::Open];
        let asked = kinds.map(|kind| world.count(kind));
        let before = world.attr(ino);
        assert_eq!((before.mode & 0o7777, before.uid, before.mtime), (0o640, 7, LONG_AGO));
        assert_eq!(kinds.map(|kind| world.count(kind)), asked, "nobody is asked");
        world.step_until(|world| world.core.is_clean());
        world.is_unpacked(ino, &bytes);
        let after = world.attr(ino);
        assert_eq!(
            kinds.map(|kind| world.count(kind)),
            asked,
            "nor later: what was answered is known"
        );
        assert_eq!(before, Attr { version: before.version, blocks: before.blocks, ..after });
    }
}

/// Its number of names is another, though an answer from before comes after the unlink was sent.
#[test]
fn what_an_unlink_changed_is_asked_for_again() {
    let mut world = ready(World::new(config(), 404), 0);
    let (ino, handle) = world.create(b"a");
    let link = FsOp::Link { ino, parent: Ino::ROOT, name: b"b".to_vec() };
    assert!(matches!(world.run(link), Ok(FsReply::Entry(attr, _)) if attr.nlink == 2));
    world.write(handle, 0, &pattern(1, 9000), false).unwrap();
    world.done(FsOp::Flush { handle }).unwrap(); // Its length is on its way.
    world.done(FsOp::Unlink { parent: Ino::ROOT, name: b"b".to_vec() }).unwrap();
    let Ok(FsReply::Attr(attr, _)) = world.run(set(ino, mode(0o600))) else { panic!() };
    assert_eq!(attr.nlink, world.fake.inodes[&ino].attr.nlink);
    assert_eq!(attr.nlink, 1);
}

/// A program tells by the time of change that something changed.
#[test]
fn each_change_is_later_than_the_one_before() {
    let mut world = ready(World::new(config(), 405), 0);
    let (ino, handle) = world.create(b"a");
    let ahead = Time { seconds: 2_000_000, nanos: 999_999_999 };
    world.fake.inodes.get_mut(&ino).unwrap().attr.ctime = ahead;
    world.recall(vec![(ino, LeaseMode::None)]);
    world.write(handle, 0, b"the lease", false).unwrap();
    world.done(settled(handle)).unwrap();
    let mut last = world.attr(ino).ctime;
    assert_eq!(last, ahead, "the volume's clock is ahead");
    for _ in 0..3 {
        world.at_once(set(ino, mode(0o600))).unwrap();
        let now = world.attr(ino).ctime;
        assert!(now > last);
        last = now;
    }
    world.step_until(|world| world.core.is_clean());
    assert_eq!(world.fake.inodes[&ino].attr.ctime, last);
}

#[test]
fn a_close_of_a_small_file_does_not_wait_for_its_volume_and_an_fsync_does() {
    let mut world = ready(World::new(config(), 410), FEATURE_INLINE);
    let (ino, handle) = world.create(b"a");
    world.write(handle, 0, b"small", false).unwrap();
    assert!(matches!(world.at_once(FsOp::Flush { handle }), Ok(FsReply::Done)));
    assert!(world.fake.content(ino).is_empty(), "on its way");
    assert!(matches!(world.at_once(set(ino, mode(0o600))), Ok(FsReply::Attr(..))));
    let synced = world.ask(settled(handle));
    assert!(!world.replies.contains_key(&synced));
    world.wait(synced).unwrap();
    assert_eq!(world.fake.content(ino), b"small");
    assert_eq!(world.fake.inodes[&ino].attr.mode & 0o7777, 0o600);
}

#[test]
fn a_recall_waits_for_what_nobody_here_waited_for() {
    let mut world = ready(World::new(config(), 420), FEATURE_INLINE);
    let (ino, handle) = world.create(b"a");
    world.write(handle, 0, b"small", false).unwrap();
    world.at_once(set(ino, mode(0o600))).unwrap();
    world.at_once(FsOp::Flush { handle }).unwrap();
    let returned = world.returned.len();
    world.recall(vec![(ino, LeaseMode::None)]);
    assert!(world.returned.len() > returned);
    assert_eq!(world.fake.content(ino), b"small");
    assert_eq!(world.fake.inodes[&ino].attr.mode & 0o7777, 0o600);
    let late = world.ask(set(ino, mode(0o644)));
    assert!(!world.replies.contains_key(&late), "without the lease it waits");
    world.wait(late).unwrap();
}

#[test]
fn what_was_answered_outlives_servers_and_client_cores() {
    for seed in 430..470 {
        let features = if seed % 2 == 0 { FRESH } else { FEATURE_INLINE };
        let mut world = World::keeping_with(config(), seed, features);
        world.hears = true;
        let bytes = pattern(5, if seed % 4 == 0 { 9000 } else { 700 });
        let ino = world.unpack(b"a", &bytes);
        (0..seed % 7).for_each(|_| world.step());
        match seed % 3 {
            0 => world.take_over(),
            1 => (0..2).for_each(|shard| world.crash(shard)),
            _ => {
                (0..2).for_each(|shard| world.crash(shard));
                world.take_over();
            }
        }
        let attr = world.attr(ino);
        assert_eq!((attr.mode & 0o7777, attr.uid, attr.mtime), (0o640, 7, LONG_AGO), "seed {seed}");
        world.step_until(|world| world.core.is_clean());
        world.rest(ms(2000));
        world.is_unpacked(ino, &bytes);
    }
}

#[test]
fn what_the_volume_refuses_is_told_and_then_programs_wait() {
    let mut world = ready(World::new(config(), 470), FEATURE_INLINE);
    let (ino, handle) = world.create(b"a");
    world.fake.log_fails = true;
    world.at_once(set(ino, mode(0o600))).unwrap();
    assert_eq!(world.done(settled(handle)), Err(EIO));
    assert_eq!(world.done(settled(handle)), Ok(()), "once");
    let late = world.ask(set(ino, mode(0o640)));
    assert_eq!(world.wait(late).err(), Some(EIO), "the volume is looked at with care now");
    world.fake.log_fails = false;
    world.rest(ms(11_000));
    world.at_once(set(ino, mode(0o640))).unwrap();
    world.done(settled(handle)).unwrap();
    assert_eq!(world.attr(ino).mode & 0o7777, 0o640);
}

/// Others went on: what they set stays.
#[test]
fn a_fenced_mount_does_not_set_later_what_it_had_not_sent() {
    let mut world = World::ready(config(), 480);
    let (ino, handle) = world.create(b"a");
    world.at_once(set(ino, mode(0o600))).unwrap();
    world.fake.fence += 1;
    world.fake.inodes.get_mut(&ino).unwrap().attr.mode = 0o100_644;
    world.disconnect_shard(0);
    assert_eq!(world.done(settled(handle)), Err(EIO));
    world.rest(ms(100));
    assert_eq!(world.fake.inodes[&ino].attr.mode & 0o7777, 0o644);
    assert_eq!(world.attr(ino).mode & 0o7777, 0o644);
}

#[test]
fn a_write_after_times_were_set_makes_a_time_of_its_own() {
    for (seed, bytes) in [(490, 100), (491, 9000)] {
        let mut world = ready(World::new(config(), seed), FRESH);
        let (ino, handle) = world.create(b"a");
        world.write(handle, 0, &pattern(1, bytes), false).unwrap();
        world.at_once(set(ino, mtime(LONG_AGO))).unwrap();
        world.write(handle, 0, &pattern(2, bytes), false).unwrap();
        assert!(world.attr(ino).mtime > LONG_AGO);
        world.done(settled(handle)).unwrap();
        assert!(world.fake.inodes[&ino].attr.mtime > LONG_AGO);
    }
}

#[test]
fn a_read_after_times_were_set_counts() {
    let mut world = ready(World::new(config(), 495), FRESH);
    let (ino, handle) = world.create(b"a");
    world.write(handle, 0, b"small", false).unwrap();
    let (atime, mtime) = (Time { seconds: 1, nanos: 0 }, LONG_AGO);
    let (atime, mtime) = (Some(TimeSet::To(atime)), Some(TimeSet::To(mtime)));
    world.at_once(set(ino, SetAttr { atime, mtime, ..SetAttr::default() })).unwrap();
    assert_eq!(world.read(handle, 0, 5).unwrap(), b"small");
    let read_at = world.attr(ino).atime;
    assert!(read_at > LONG_AGO, "relatime: it was read after it was changed");
    world.step_until(|world| world.core.is_clean());
    assert_eq!(world.attr(ino).atime, read_at);
}

/// A server that is too busy for one of them makes none of the later ones before it.
#[test]
fn changes_of_a_file_are_made_in_the_order_of_the_calls() {
    for seed in 500..560 {
        let mut world = ready(World::new(config(), seed), if seed % 2 == 0 { FRESH } else { 0 });
        world.faults.busy = 3;
        let (ino, handle) = world.create(b"a");
        for turn in 0..10 {
            if seed % 3 > 0 {
                world.write(handle, 0, &pattern(1, 100), false).unwrap();
            }
            for at in 0..3 {
                let time = Time { seconds: 1000 + 10 * turn + at, nanos: 0 };
                let times =
                    SetAttr { mode: Some(0o600 + u32::try_from(at).unwrap()), ..mtime(time) };
                assert!(matches!(world.run(set(ino, times)), Ok(FsReply::Attr(..))));
            }
            (0..seed % 5).for_each(|_| world.step());
        }
        let right = world.attr(ino);
        assert_eq!((right.mode & 0o7777, right.mtime.seconds), (0o602, 1092));
        world.done(settled(handle)).unwrap();
        let there = world.fake.inodes[&ino].attr;
        assert_eq!(
            (there.mode, there.mtime, there.ctime),
            (right.mode, right.mtime, right.ctime),
            "{seed}"
        );
    }
}
