//! When opens are asked for and given back.

use super::world::{World, config};
use super::*;
use crate::limits::{OPENS_KEPT_MAX, RELEASE_DELAY, RELEASES_PUT_OFF_MAX};

#[test]
fn opens_without_a_lease_are_given_back_soon_and_together() {
    let mut world = World::ready(config(), 23);
    let opens = |world: &World, ino: Ino| world.fake.inodes[&ino].opens;
    for many in [2, RELEASES_PUT_OFF_MAX] {
        let name = |at: usize| [b'a', u8::try_from(many + at).unwrap()];
        let files: Vec<_> = (0..many).map(|at| world.create(&name(at))).collect();
        world.recall(files.iter().map(|(ino, _)| (*ino, LeaseMode::None)).collect());
        let (start, before) = (world.now, world.count(Kind::Release));
        for (_, handle) in &files {
            assert_eq!(world.count(Kind::Release), before);
            world.done(FsOp::Release { handle: *handle }).unwrap();
        }
        let waits = world.core.releases_due == Some(start + RELEASE_DELAY);
        assert_eq!(waits, many == 2, "many wait for no time");
        world.rest(ms(20));
        assert!(files.iter().all(|(ino, _)| opens(&world, *ino) == 0));
        let again = world.open(files[0].0, OpenFlags::default());
        world.recall(vec![(files[0].0, LeaseMode::None)]);
        world.done(FsOp::Release { handle: again.handle }).unwrap();
        world.open(files[0].0, OpenFlags::default());
        assert_eq!(opens(&world, files[0].0), 2, "the one before was not given back yet");
    }
}

#[test]
fn with_a_lease_an_open_file_or_one_closed_lately_is_opened_without_a_word() {
    let mut world = World::ready(config(), 24);
    let files: Vec<_> = (0..4_u8).map(|name| world.create(&[b'a' + name])).collect();
    let opens = |world: &World, at: usize| world.fake.inodes[&files[at].0].opens;
    world.write(files[0].1, 0, b"data", false).unwrap();
    // The fake's names are not known to be absent: each file made had all attributes forgotten.
    world.run(FsOp::GetAttr { ino: files[0].0, handle: None }).unwrap();
    let open = world.open(files[0].0, OpenFlags { write: true, ..OpenFlags::default() });
    assert_eq!((world.count(Kind::Open), opens(&world, 0)), (0, 1), "open");
    for handle in files.iter().map(|(_, handle)| *handle).chain([open.handle]) {
        world.close(handle);
    }
    for _ in 0..10 {
        world.rest(ms(1000));
        let open = world.open(files[0].0, OpenFlags::default());
        world.close(open.handle);
    }
    assert_eq!((world.count(Kind::Open), world.count(Kind::Release)), (0, 3), "closed lately");
    assert_eq!([0, 1, 2, 3].map(|at| opens(&world, at)), [1, 0, 0, 0], "and not so lately");
    // Another removes it, or changes it.
    world.recall(vec![(files[0].0, LeaseMode::None)]);
    world.rest(ms(10));
    assert_eq!((world.count(Kind::Release), opens(&world, 0)), (4, 0));
    let open = world.open(files[0].0, OpenFlags::default());
    assert_eq!((world.count(Kind::Open), opens(&world, 0)), (1, 1));
    world.close(open.handle);
    // We change it by its name: its data may be elsewhere.
    let set = SetAttr { size: Some(1), ..SetAttr::default() };
    world.run(FsOp::SetAttr { ino: files[0].0, handle: None, set }).unwrap();
    let open = world.open(files[0].0, OpenFlags::default());
    assert_eq!(
        (world.count(Kind::Open), world.read(open.handle, 0, 9).unwrap()),
        (2, b"d".to_vec())
    );
    world.close(open.handle);
    // We remove it.
    world.done(FsOp::Unlink { parent: Ino::ROOT, name: b"a".to_vec() }).unwrap();
    assert!(!world.fake.inodes.contains_key(&files[0].0), "nobody has it open");
}

#[test]
fn so_many_closed_files_stay_open_and_no_more() {
    let mut world = World::ready(config(), 25);
    for name in 0..OPENS_KEPT_MAX + 100 {
        let (_, handle) = world.create(format!("{name}").as_bytes());
        world.close(handle);
        let open = world.fake.inodes.values().filter(|inode| inode.opens > 0).count();
        assert!(open <= OPENS_KEPT_MAX);
    }
    let open: Vec<_> = world.fake.inodes.iter().filter(|(_, inode)| inode.opens > 0).collect();
    assert!(open.len() > OPENS_KEPT_MAX / 2);
    world.rest(ms(6000));
    assert!(world.fake.inodes.values().all(|inode| inode.opens == 0));
}

#[test]
fn opens_are_counted_right_after_a_lost_connection() {
    let mut world = World::ready(config(), 22);
    let (ino, handle) = world.create(b"a");
    world.faults.disconnect = 6;
    for _ in 0..20 {
        let opened = world.open(ino, OpenFlags::default());
        world.done(FsOp::Release { handle: opened.handle }).unwrap();
        world.rest(ms(50));
        assert!(world.fake.inodes[&ino].opens >= 1, "never fewer than there are");
    }
    world.faults.disconnect = 0;
    world.done(FsOp::Release { handle }).unwrap();
    world.rest(ms(3000));
    assert!(world.core.files.is_empty());
}
