//! What a restart of the server finds claimed, and a server that grants nothing.

use weft_wire::session::{FEATURE_FENCES, FEATURE_LEASES, FENCE_ENDED};
use weft_wire::{ChunkIndex, Ino, Kind, LeaseMode, Status, TargetId};

use super::fake::Fake;
use super::world::{World, config};
use super::{ms, write};
use crate::limits::TRIM_COUNT_MIN;
use crate::state::errno::{ENODATA, ENOENT};
use crate::{Caller, FsOp, FsReply, Handle, OpId, OpenFlags};

fn reclaimed(world: &World) -> Vec<Ino> {
    let last = world.fake.reclaimed.last().expect("something was reclaimed");
    last.inodes.iter().map(|(ino, ..)| *ino).collect()
}

/// A file with something that no target takes.
fn with_unsent(world: &mut World) -> (Ino, Handle) {
    let (ino, handle) = world.create(b"a");
    (0..3).for_each(|id| {
        world.fake.write_status.insert(TargetId(id), Status::Busy);
    });
    world.write(handle, 0, b"data", false).unwrap();
    (ino, handle)
}

fn take_writes_again(world: &mut World, handle: Handle) {
    world.fake.write_status.clear();
    world.done(FsOp::Fsync { handle, datasync: false }).unwrap();
}

#[test]
fn a_reclaim_whose_answer_was_lost_is_said_again() {
    let mut world = World::ready(config(), 31);
    let (ino, handle) = with_unsent(&mut world);
    world.crash(0);
    while world.fake.reclaimed.is_empty() {
        world.step();
    }
    assert_eq!(reclaimed(&world), [ino]);
    world.disconnect_shard(0);
    take_writes_again(&mut world, handle);
    let count = world.fake.reclaimed.len();
    assert!(count >= 2, "{count}");
    assert_eq!(reclaimed(&world), [ino]);
    assert_eq!(world.fake.content(ino), b"data");
    world.disconnect_shard(0);
    world.attr(ino);
    assert_eq!(world.fake.reclaimed.len(), count, "it was answered");
}

#[test]
fn what_was_being_given_back_is_reclaimed() {
    let mut world = World::ready(config(), 32);
    let (ino, handle) = with_unsent(&mut world);
    world.begin_recall(vec![(ino, LeaseMode::None)]);
    world.crash(0);
    while world.fake.reclaimed.is_empty() {
        world.step();
    }
    assert_eq!((reclaimed(&world), world.returned.len()), (vec![ino], 0));
    take_writes_again(&mut world, handle);
    assert_eq!(world.fake.content(ino), b"data");
}

#[test]
fn a_change_brings_what_the_kernel_asks_for_next() {
    let mut world = World::ready(config(), 34);
    let count = |world: &World| world.count(Kind::GetAttr);
    let before = count(&world);
    let (ino, handle) = world.create(b"a");
    world.create(b"b");
    assert_eq!(world.attr(Ino::ROOT).size, 2);
    let rename = |name: &[u8], new_name: &[u8]| FsOp::Rename {
        parent: Ino::ROOT,
        name: name.to_vec(),
        new_parent: Ino::ROOT,
        new_name: new_name.to_vec(),
        flags: 0,
    };
    world.done(rename(b"a", b"c")).unwrap();
    let version = world.attr(Ino::ROOT).version;
    assert_eq!(version, world.fake.inodes[&Ino::ROOT].attr.version);
    let unlink = |name: &[u8]| FsOp::Unlink { parent: Ino::ROOT, name: name.to_vec() };
    world.done(unlink(b"c")).unwrap();
    assert_eq!(world.attr(Ino::ROOT).size, 1);
    assert_eq!(count(&world), before, "each change told");

    let name = b"security.capability".to_vec();
    let asked = world.run(FsOp::GetXattr { ino, name, bytes_max: 0 });
    assert_eq!((asked.err(), world.count(Kind::GetXattr)), (Some(ENODATA), 0), "it is new");
    world.done(FsOp::Release { handle }).unwrap();

    // What others do to the directory is asked for.
    world.fake.grants = false;
    world.recall(vec![(Ino::ROOT, LeaseMode::None)]);
    world.fake.inodes.get_mut(&Ino::ROOT).unwrap().attr.mode = 0o040_700;
    assert_eq!(world.attr(Ino::ROOT).mode, 0o040_700);
    world.done(unlink(b"b")).unwrap();
    assert_eq!((world.attr(Ino::ROOT).size, count(&world)), (0, before + 2));
}

impl World {
    fn make_directory(&mut self, name: &[u8]) -> OpId {
        let (parent, name, target) = (Ino::ROOT, name.to_vec(), vec![]);
        self.ask(FsOp::Make { parent, name, mode: 0o040_755, umask: 0, rdev: 0, target })
    }

    fn look_up(&mut self, parent: Ino, name: &[u8]) -> Result<Ino, i32> {
        match self.run(FsOp::Lookup { parent, name: name.to_vec() })? {
            FsReply::Entry(attr, _) => Ok(attr.ino),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_listing_of_a_directory_that_another_mount_removed_is_over() {
    let mut world = World::ready(config(), 37);
    let made = world.make_directory(b"d");
    let Ok(FsReply::Entry(attr, _)) = world.wait(made) else { panic!() };
    let Ok(FsReply::Opened(dir)) = world.run(FsOp::OpenDir { ino: attr.ino }) else { panic!() };
    world.recall(vec![(attr.ino, LeaseMode::None)]);
    world.fake.inodes.remove(&attr.ino);
    let op = FsOp::ReadDir { handle: dir.handle, cookie: 1, bytes_max: 4096, plus: false };
    assert_eq!(world.run(op).err(), Some(ENOENT), "getdents says that of a removed directory");
}

#[test]
fn what_is_not_in_a_directory_made_here_is_known_until_others_change_it() {
    let mut world = World::ready(config(), 36);
    let made = world.make_directory(b"d");
    let Ok(FsReply::Entry(directory, _)) = world.wait(made) else { panic!("not made") };
    let parent = directory.ino;
    assert_eq!(world.look_up(parent, b"a"), Err(ENOENT));
    assert_eq!(world.count(Kind::Lookup), 0, "nobody else can have made it");
    let create = FsOp::Create {
        parent,
        name: b"a".to_vec(),
        mode: 0o100_644,
        umask: 0,
        flags: OpenFlags::default(),
    };
    let Ok(FsReply::Created(attr, ..)) = world.run(create) else { panic!("not created") };
    assert_eq!(world.look_up(parent, b"a"), Ok(attr.ino));
    assert_eq!(world.look_up(parent, b"b"), Err(ENOENT));
    assert_eq!(world.count(Kind::Lookup), 0);
    world.recall(vec![(parent, LeaseMode::None)]);
    world.fake.inodes.get_mut(&parent).unwrap().names.insert(b"b".to_vec(), attr.ino);
    assert_eq!(world.look_up(parent, b"b"), Ok(attr.ino));
}

/// The outcome of a change that is sent again is an old one: others may have come in between.
#[test]
fn a_directory_whose_making_was_answered_late_is_not_taken_for_empty() {
    let mut late_count = 0;
    for seed in 40..60 {
        let mut world = World::ready(config(), seed);
        let made = world.make_directory(b"d");
        world.disconnect_shard(0);
        let Some(parent) = world.fake.inodes[&Ino::ROOT].names.get(&b"d"[..]).copied() else {
            continue; // it did not arrive
        };
        late_count += 1;
        world.fake.inodes.get_mut(&parent).unwrap().names.insert(b"b".to_vec(), Ino::ROOT);
        assert!(world.wait(made).is_ok());
        assert_eq!(world.look_up(parent, b"b"), Ok(Ino::ROOT), "seed {seed}");
    }
    assert!(late_count > 0, "some must have arrived");
}

#[test]
fn a_server_from_before_tells_no_directories() {
    let mut world = World::new(config(), 35);
    world.fake.features = FEATURE_LEASES;
    while !world.ready {
        world.step();
    }
    world.create(b"a");
    let before = world.count(Kind::GetAttr);
    assert_eq!(world.attr(Ino::ROOT).size, 1);
    assert_eq!(world.count(Kind::GetAttr), before + 1);
}

#[test]
fn a_server_that_grants_nothing_can_be_written_and_appended_to() {
    let mut world = World::new(config(), 33);
    (world.fake.lease_ms, world.fake.grants) = (0, false);
    while !world.ready {
        world.step();
    }
    let (ino, handle) = world.create(b"a");
    world.write(handle, 0, b"one", false).unwrap();
    let FsOp::Write { handle, data, .. } = write(&world.pool, handle, 0, b"two", false) else {
        unreachable!()
    };
    let strips = crate::op::Strips { capabilities: true, set_ids: true };
    let append = FsOp::Write { handle, offset: 0, data, direct: false, append: true, strips };
    assert!(matches!(world.run(append), Ok(FsReply::Written(3))));
    assert_eq!(world.fake.content(ino), b"onetwo");
}

/// Another mount made the file longer, and the lease came back to nobody.
fn grow_elsewhere(world: &mut World, ino: Ino, bytes: &[u8]) {
    let length = bytes.len() as u64;
    let inode = world.fake.inodes.get_mut(&ino).unwrap();
    (inode.attr.size, inode.attr.version) = (length, inode.attr.version + 1);
    inode.attr.mtime.seconds += 1;
    let chunk = (ino, ChunkIndex(0));
    let target = Fake::layout().pieces(0, length).next().unwrap().target;
    world.fake.targets.get_mut(&target).unwrap().chunks.insert(chunk, bytes.to_vec());
}

/// The kernel takes no notice of attributes that it asked for before an order to forget: a read would end too early.
#[test]
fn a_length_that_changed_elsewhere_comes_without_an_order_to_forget() {
    let mut world = World::ready(config(), 34);
    let (ino, handle) = world.create(b"a");
    world.write(handle, 0, b"data", true).unwrap();
    world.done(FsOp::Flush { handle }).unwrap();
    world.attr(ino);
    for grants in [true, false] {
        world.fake.grants = grants;
        world.recall(vec![(ino, LeaseMode::None)]);
        for turn in 1..5 {
            assert!(!world.read(handle, 0, 100).unwrap().is_empty());
            if grants {
                world.recall(vec![(ino, LeaseMode::None)]);
            }
            let length = world.fake.inodes[&ino].attr.size + 10;
            grow_elsewhere(&mut world, ino, &vec![turn; usize::try_from(length).unwrap()]);
            world.forgotten.clear();
            assert_eq!(world.attr(ino).size, length, "grants {grants}, turn {turn}");
            assert_eq!(world.forgotten, [], "grants {grants}, turn {turn}");
            world.attr(ino);
            // Without a lease pages of before may be there: told no other length, the kernel drops them by order.
            assert_eq!(world.forgotten.is_empty(), grants, "turn {turn}");
            world.forgotten.clear();
            world.attr(ino);
            assert_eq!(world.forgotten, [], "once is enough");
            assert_eq!(world.read(handle, 0, 1000).unwrap().len() as u64, length);
        }
    }
}

#[test]
fn a_hole_is_punched_up_to_the_length_that_another_mount_gave_the_file() {
    const PUNCH_HOLE_KEEP_SIZE: u32 = 3;
    let mut world = World::ready(config(), 35);
    let (ino, handle) = world.create(b"a");
    world.write(handle, 0, b"data", true).unwrap();
    world.done(FsOp::Flush { handle }).unwrap();
    world.recall(vec![(ino, LeaseMode::None)]);
    grow_elsewhere(&mut world, ino, &[7; 20_000]);
    let mode = PUNCH_HOLE_KEEP_SIZE;
    world.done(FsOp::Fallocate { handle, offset: 8192, bytes: 8192, mode }).unwrap();
    let found = world.read(handle, 0, 100_000).unwrap();
    assert_eq!(found.len(), 20_000);
    assert!(found[8192..16384].iter().all(|byte| *byte == 0));
    assert!(found[..8192].iter().chain(&found[16384..]).all(|byte| *byte == 7));
}

/// Setting an ACL changes the mode: a look at the file that orders the kernel to forget would leave it the old one.
#[test]
fn after_an_extended_attribute_changed_the_next_look_gives_no_order_to_forget() {
    let mut world = World::ready(config(), 36);
    let (ino, handle) = world.create(b"a");
    world.write(handle, 0, b"data", true).unwrap();
    let set = |world: &mut World| {
        let (name, value) = (b"user.a".to_vec(), b"v".to_vec());
        world.done(FsOp::SetXattr { ino, name, value, flags: 0 }).unwrap();
        std::mem::take(&mut world.forgotten)
    };
    let look = |world: &mut World| {
        world.attr(ino);
        world.attr(ino);
        std::mem::take(&mut world.forgotten)
    };
    world.done(FsOp::Flush { handle }).unwrap();
    look(&mut world);
    // With a lease the pages are known to be right, and stay; however many such changes come before the next look.
    assert_eq!((set(&mut world), set(&mut world)), (vec![], vec![]));
    assert_eq!(look(&mut world), []);
    // Where that is not known they are forgotten before the change is answered.
    world.fake.grants = false;
    world.recall(vec![(ino, LeaseMode::None)]);
    assert!(!world.read(handle, 0, 100).unwrap().is_empty());
    assert_eq!(set(&mut world), [(vec![ino], false)]);
    assert_eq!(look(&mut world), []);
}

/// Its session may have been over, and nothing is granted to one that the volume does not know.
#[test]
fn a_mount_that_was_fenced_off_makes_itself_known_again() {
    let mut world = World::ready(config(), 35);
    world.rest(ms(100));
    let count = world.count(Kind::RemoveXattr);
    assert!(count > 0, "as it does at the start");
    world.fake.fence += 1;
    world.disconnect_shard(0);
    world.rest(ms(100));
    assert_eq!(world.count(Kind::RemoveXattr), count + 1);
    world.disconnect_shard(0);
    world.rest(ms(100));
    assert_eq!(world.count(Kind::RemoveXattr), count + 1, "once for each fence");
}

/// Nothing is granted to a session that the volume does not know: a write that needs a lease would ask for ever.
#[test]
fn a_mount_that_could_not_be_made_known_tries_again() {
    let mut world = World::ready(config(), 39);
    world.fake.log_fails = true;
    world.fake.fence += 1;
    world.disconnect_shard(0);
    world.rest(ms(2500));
    let count = world.count(Kind::RemoveXattr);
    assert!(count >= 4, "at the start, and each second since");
    world.fake.log_fails = false;
    world.rest(ms(1500));
    let known = world.count(Kind::RemoveXattr);
    assert!(known > count);
    world.rest(ms(5000));
    assert_eq!(world.count(Kind::RemoveXattr), known, "once is enough");
}

/// What it has to write is its own still: a server remembers over its restarts that a session was over.
#[test]
fn a_session_that_was_over_once_is_not_fenced_off_again_by_a_restart() {
    let mut world = World::ready(config(), 36);
    world.fake.fence = FENCE_ENDED;
    world.fake.slots.clear();
    world.disconnect_shard(0);
    world.rest(ms(100));
    assert_eq!(world.core.fence_count(), 1);
    let (ino, handle) = with_unsent(&mut world);
    world.crash(0);
    take_writes_again(&mut world, handle);
    assert_eq!((world.core.fence_count(), world.fake.content(ino)), (1, b"data".to_vec()));
    world.fake.fence += FENCE_ENDED;
    world.fake.slots.clear();
    world.crash(0);
    world.rest(ms(100));
    assert_eq!(world.core.fence_count(), 2, "that it was over again meanwhile is heard");
}

/// It must not be written again, but that it is gone is told.
#[test]
fn what_was_written_before_a_fence_and_is_lost_after_it_is_an_error() {
    let mut world = World::ready(config(), 37);
    let (_, handle) = world.create(b"a");
    world.write(handle, 0, &[7; 10_000], false).unwrap();
    world.flush(handle);
    world.fake.fence += 1;
    (0..2).for_each(|shard| world.disconnect_shard(shard));
    world.rest(ms(100));
    world.done(FsOp::Flush { handle }).unwrap();
    (0..2).for_each(|shard| world.crash(shard));
    world.rest(ms(100));
    let synced = world.done(FsOp::Fsync { handle, datasync: false });
    assert_eq!(synced.unwrap_err(), Status::Io.errno());
}

/// Its number outlives the server: what it heard of is no news, and what it did not hear of is.
#[test]
fn a_mount_hears_once_of_a_fence_whatever_server_tells_it() {
    let mut world = World::ready(config(), 38);
    world.fake.features |= FEATURE_FENCES;
    world.fake.fence = 1;
    world.disconnect_shard(0);
    world.rest(ms(100));
    assert_eq!(world.core.fence_count(), 1);
    let (ino, handle) = with_unsent(&mut world);
    world.crash(0);
    take_writes_again(&mut world, handle);
    assert_eq!((world.core.fence_count(), world.fake.content(ino)), (1, b"data".to_vec()));
    // Fenced off, and the server started again before it hears.
    let (_, handle) = with_unsent(&mut world);
    world.fake.fence = 2;
    world.crash(0);
    world.rest(ms(100));
    assert_eq!(world.core.fence_count(), 2);
    let synced = world.done(FsOp::Fsync { handle, datasync: false });
    assert_eq!(synced.unwrap_err(), Status::Io.errno());
    // A shard without a volume may not have heard yet.
    world.fake.fence = 1;
    world.disconnect_shard(1);
    world.rest(ms(100));
    world.fake.fence = 2;
    world.disconnect_shard(1);
    world.rest(ms(100));
    assert_eq!(world.core.fence_count(), 2, "not fenced off anew");
}

/// A mount that knows a million inodes is back in time: of those that nobody looked at lately the kernel's knowledge is over.
#[test]
fn at_a_restart_the_kernel_is_told_of_what_it_may_still_know() {
    let mut world = World::ready(config(), 40);
    let closed = |world: &mut World, name: &[u8]| {
        let (ino, handle) = world.create(name);
        world.done(FsOp::Release { handle }).unwrap();
        ino
    };
    let (old, looked_at) = (closed(&mut world, b"old"), closed(&mut world, b"looked at"));
    let (open, _) = world.create(b"open");
    for ino in [old, looked_at] {
        world.attr(ino);
    }
    // Other mounts' leases are renewed all the time, and so are these.
    world.rest(ms(8000));
    let before = world.count(Kind::GetAttr);
    world.attr(looked_at);
    assert_eq!(world.count(Kind::GetAttr), before, "it is known");
    world.rest(ms(2000));
    world.forgotten.clear();
    world.crash(0);
    while world.forgotten.is_empty() {
        world.step();
    }
    let (inodes, names) = &world.forgotten[0];
    assert!(*names && inodes.contains(&looked_at) && inodes.contains(&open), "{inodes:?}");
    assert!(!inodes.contains(&old), "{inodes:?}");
    world.rest(ms(100));
    assert_eq!(world.attr(old).ino, old);
    assert!(world.count(Kind::GetAttr) > before, "it is asked for");
}

/// What the kernel lets go of for want of memory takes none here either; but what is written and not told yet is kept.
#[test]
fn the_cache_shrinks_with_the_kernels() {
    let mut world = World::ready(config(), 39);
    let (open, handle) = world.create(b"open");
    world.write(handle, 0, b"data", false).unwrap();
    let mknod = |index: usize| FsOp::Make {
        parent: Ino::ROOT,
        name: index.to_le_bytes().to_vec(),
        mode: 0o100_644,
        umask: 0,
        rdev: 0,
        target: Vec::new(),
    };
    // As many inodes as names go.
    let made = |index| match world.run(mknod(index)) {
        Ok(FsReply::Entry(attr, _)) => attr.ino,
        other => panic!("{other:?}"),
    };
    let inodes: Vec<Ino> = (0..TRIM_COUNT_MIN / 2 + 100).map(made).collect();
    let asked = |world: &World| world.count(Kind::GetAttr);
    // A change of a name that was never looked up makes all attributes unsure.
    let look = |world: &mut World| {
        for ino in &inodes {
            world.attr(*ino);
        }
        world.attr(open);
    };
    look(&mut world);
    let before = asked(&world);
    look(&mut world);
    assert_eq!(asked(&world), before, "all are known");
    assert_eq!(world.trimmed_count, 0);
    for ino in inodes.iter().chain([&open]) {
        let now = world.now;
        world.core.op(OpId(0), Caller::default(), FsOp::Forget { ino: *ino, count: 1 }, now);
    }
    world.rest(ms(3000));
    assert_eq!(world.trimmed_count, 1, "memory is given back once for all");
    world.attr(inodes[0]);
    assert_eq!(asked(&world), before + 1, "it is asked for again");
    world.attr(open);
    assert_eq!(asked(&world), before + 1, "an open file stays known");
}

/// An unlink says nothing of the file: an answer that was asked before it, and comes after it, may show the name as there.
#[test]
fn what_a_change_overtook_is_not_believed() {
    use crate::leases::{Changes, Overtaking};
    use weft_wire::meta::{MetaRequest, SetAttr};
    let [file, other] = [Ino(7), Ino(8)];
    let changes = |ino| Changes::of(&MetaRequest::SetAttr { ino, set: SetAttr::default() });
    let mut overtaking = Overtaking::default();
    // Call 5 is under way when the change, call 6, is answered; 9 is the next.
    overtaking.changed(&changes(file), (6, None), Some(5), 9);
    assert!(overtaking.may_overtake(file, 5, None) && overtaking.may_overtake(file, 8, None));
    assert!(!overtaking.may_overtake(file, 6, None), "the change's own answer knows");
    assert!(!overtaking.may_overtake(file, 9, None), "asked since");
    assert!(!overtaking.may_overtake(other, 5, None));
    // Everything from before was answered.
    overtaking.changed(&changes(other), (10, None), Some(9), 12);
    assert!(!overtaking.may_overtake(file, 8, None) && overtaking.may_overtake(other, 9, None));
    // Nothing is under way: nothing can come late.
    overtaking.changed(&changes(file), (12, None), None, 13);
    assert!(!overtaking.may_overtake(file, 5, None) && !overtaking.may_overtake(other, 9, None));
    // An earlier change that is answered later knows no better, whether others are under way or not.
    for oldest in [None, Some(14)] {
        let mut overtaking = Overtaking::default();
        overtaking.changed(&changes(file), (16, None), Some(15), 18);
        overtaking.changed(&changes(file), (15, None), oldest, 18);
        assert!(overtaking.may_overtake(file, 15, None), "{oldest:?}");
        overtaking.changed(&changes(file), (19, None), Some(17), 20);
        assert!(
            !overtaking.may_overtake(file, 19, None) && overtaking.may_overtake(file, 17, None)
        );
    }
    // Changes that were sent one after the other, and told versions: these tell.
    let mut overtaking = Overtaking::default();
    overtaking.changed(&changes(file), (3, Some((file, 70))), Some(2), 6);
    assert!(!overtaking.may_overtake(file, 4, Some(71)), "it was made after that");
    assert!(overtaking.may_overtake(file, 2, Some(69)) && overtaking.may_overtake(file, 2, None));
    overtaking.changed(&changes(file), (4, Some((file, 71))), Some(2), 6);
    assert!(
        !overtaking.may_overtake(file, 4, Some(71)) && !overtaking.may_overtake(file, 5, Some(72))
    );
    assert!(overtaking.may_overtake(file, 2, Some(70)));
    // An unlink in between says nothing of the file, and versions nothing of it.
    overtaking.changed(&changes(file), (5, None), Some(2), 6);
    assert!(
        overtaking.may_overtake(file, 2, Some(72)) && !overtaking.may_overtake(file, 6, Some(72))
    );
    // More than are kept apart: all.
    let mut overtaking = Overtaking::default();
    for ino in 0..400 {
        overtaking.changed(&changes(Ino(ino)), (20, None), Some(14), 30);
    }
    assert!(
        overtaking.may_overtake(Ino(399), 14, None) && overtaking.may_overtake(Ino(1000), 14, None)
    );
    assert!(!overtaking.may_overtake(Ino(0), 30, None));
}
