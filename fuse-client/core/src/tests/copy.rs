//! Copies that the servers make, and what comes between.

use super::*;

/// A source of five chunks and some more, synced, and an empty destination.
fn with_source(world: &mut World, seed: u8) -> (Handle, Vec<u8>, Ino, Handle) {
    let (_, source) = world.create(b"source");
    let bytes = pattern(seed, 5 * CHUNK + 777);
    world.write(source, 0, &bytes, false).unwrap();
    world.done(settled(source)).unwrap();
    let (ino, handle) = world.create(b"to");
    (source, bytes, ino, handle)
}

fn copy(source: Handle, from: u64, handle: Handle, to: u64, bytes: u64) -> FsOp {
    FsOp::Copy { source, from, handle, to, bytes, set_ids: true }
}

fn copied(reply: Result<FsReply, i32>) -> u64 {
    let Ok(FsReply::Copied(bytes)) = reply else { panic!("{reply:?}") };
    bytes
}

fn small(seed: u64) -> World {
    World::ready(ClientConfig { copy_bytes_min: 1, ..config() }, seed)
}

#[test]
fn the_servers_copy_and_no_data_comes_here() {
    let mut world = World::ready(config(), 80);
    let (source, bytes, ino, handle) = with_source(&mut world, 80);
    let (reads, writes) = (world.count(Kind::Read), world.count(Kind::Write));
    let all = to_u64(bytes.len());
    assert_eq!(copied(world.run(copy(source, 0, handle, 0, all + 5000))), all, "to the end");
    assert_eq!(world.fake.copied_bytes, all);
    assert_eq!((world.count(Kind::Read), world.count(Kind::Write)), (reads, writes));
    let attr = FsOp::GetAttr { ino, handle: Some(handle) };
    let Ok(FsReply::Attr(attr, _)) = world.run(attr) else { panic!() };
    assert_eq!(attr.size, all);
    // Answered, it is told and durable: nothing of it is kept here.
    world.core.goodbye(world.now);
    (0..2).for_each(|shard| world.fake.crash(shard));
    assert!(world.fake.content(ino) == bytes);
}

#[test]
fn what_the_servers_cannot_copy_is_for_the_kernel_to_read_and_write() {
    let mut world = World::ready(config(), 81);
    let (source, _, _, handle) = with_source(&mut world, 81);
    assert_eq!(world.run(copy(source, 0, handle, 0, 1000)).unwrap_err(), EOPNOTSUPP, "little");
    let near_end = to_u64(5 * CHUNK);
    assert_eq!(world.run(copy(source, near_end, handle, 0, 1 << 20)).unwrap_err(), EOPNOTSUPP);
    assert_eq!(copied(world.run(copy(source, 1 << 40, handle, 0, 1 << 20))), 0, "beyond the end");
    assert_eq!(world.run(copy(source, 0, source, 1000, 1 << 18)).unwrap_err(), EINVAL, "overlaps");
    let far = u64::try_from(i64::MAX).unwrap();
    assert_eq!(world.run(copy(source, 0, handle, far, 1 << 18)).unwrap_err(), EFBIG);
    let mut world = World::new(config(), 81);
    world.fake.features &= !weft_wire::session::FEATURE_COPY;
    while !world.ready {
        world.step();
    }
    let (source, _, _, handle) = with_source(&mut world, 81);
    assert_eq!(world.run(copy(source, 0, handle, 0, 1 << 18)).unwrap_err(), EOPNOTSUPP, "older");
    assert_eq!(world.count(Kind::Copy), 0);
}

#[test]
fn a_source_that_cannot_be_read_is_an_error_and_the_kernel_forgets_what_it_had() {
    let mut world = World::ready(config(), 82);
    let (source, bytes, ino, handle) = with_source(&mut world, 82);
    world.fake.read_status.insert(TargetId(2), Status::Damaged);
    let before = world.forgotten.len();
    let all = to_u64(bytes.len());
    assert_eq!(world.run(copy(source, 0, handle, 0, all)).unwrap_err(), EIO);
    assert!(world.forgotten[before..].iter().any(|(inodes, _)| inodes.contains(&ino)));
    world.fake.read_status.clear();
    assert_eq!(copied(world.run(copy(source, 0, handle, 0, all))), all);
    world.done(settled(handle)).unwrap();
    assert!(world.fake.content(ino) == bytes);
}

/// The shard with the source was started anew and has lost what was not synced, and the client has not heard of that when
/// it asks the other shard for the copy.
#[test]
fn a_copy_from_a_server_that_has_forgotten_waits_for_what_is_written_again() {
    for seed in 83..93 {
        let mut world = small(seed);
        world.faults = Faults { reorder: true, ..Faults::default() };
        let (_, source) = world.create(b"source");
        let bytes = pattern(1, 6 * CHUNK);
        world.write(source, 0, &bytes, false).unwrap();
        world.done(FsOp::Flush { handle: source }).unwrap();
        let (ino, handle) = world.create(b"to");
        world.fake.crash(1);
        let all = to_u64(bytes.len());
        let asked = world.ask(copy(source, 0, handle, 0, all));
        (0..3).for_each(|_| world.step());
        world.disconnect_shard(1);
        assert_eq!(copied(world.wait(asked)), all);
        world.done(settled(handle)).unwrap();
        assert!(world.fake.content(ino) == bytes, "seed {seed}");
        assert!(world.fake.unknown_sources > 0, "seed {seed}: it was asked before it was heard of");
    }
}

#[test]
fn a_mount_that_was_fenced_off_does_not_go_on_with_its_copy() {
    let mut world = World::ready(config(), 94);
    world.fake.boot = 7;
    (0..2).for_each(|shard| world.crash(shard));
    let (source, bytes, ino, handle) = with_source(&mut world, 94);
    let asked = world.ask(copy(source, 0, handle, 0, to_u64(bytes.len())));
    world.fake.fence += 1;
    (0..2).for_each(|shard| world.disconnect_shard(shard));
    assert_eq!(world.wait(asked).unwrap_err(), EIO);
    world.rest(ms(100));
    assert!(world.fake.content(ino).is_empty());
}

/// What is asked for is done when nobody waits for it any more; a cut comes after it.
#[test]
fn a_cut_comes_after_what_is_left_of_an_interrupted_copy() {
    for seed in 95..105 {
        let mut world = World::ready(config(), seed);
        let (source, bytes, ino, handle) = with_source(&mut world, 95);
        let asked = world.ask(copy(source, 0, handle, 0, to_u64(bytes.len())));
        while world.count(Kind::Copy) == 0 {
            world.step();
        }
        world.core.interrupt(asked, world.now);
        world.core.abandon(asked, EINTR);
        world.drain();
        assert_eq!(world.wait(asked).unwrap_err(), EINTR);
        let cut = |size| SetAttr { size: Some(size), ..SetAttr::default() };
        world.run(FsOp::SetAttr { ino, set: cut(0), handle: Some(handle) }).unwrap();
        world.run(FsOp::SetAttr { ino, set: cut(100_000), handle: Some(handle) }).unwrap();
        world.done(settled(handle)).unwrap();
        assert!(world.fake.content(ino).iter().all(|byte| *byte == 0), "seed {seed}");
    }
}

#[test]
fn setuid_goes_from_the_destination_of_a_copy() {
    let mut world = World::ready(config(), 105);
    let (source, bytes, ino, handle) = with_source(&mut world, 105);
    let set = SetAttr { mode: Some(0o4755), ..SetAttr::default() };
    world.run(FsOp::SetAttr { ino, set, handle: None }).unwrap();
    let root = FsOp::Copy { source, from: 0, handle, to: 0, bytes: 1 << 17, set_ids: false };
    assert_eq!(copied(world.run(root)), 1 << 17);
    assert_eq!(world.fake.inodes[&ino].attr.mode & 0o7777, 0o4755, "of one who may keep it");
    assert_eq!(copied(world.run(copy(source, 0, handle, 0, 1 << 17))), 1 << 17);
    assert_eq!(world.fake.inodes[&ino].attr.mode & 0o7777, 0o755);
    assert!(world.fake.content(ino) == bytes[..1 << 17]);
}

/// Two copies in opposite directions hold no file that the other waits for.
#[test]
fn copies_in_opposite_directions_do_not_wait_for_each_other() {
    let mut world = small(106);
    let (source, bytes, ino, handle) = with_source(&mut world, 106);
    world.write(handle, 0, &bytes[..CHUNK], false).unwrap();
    let one = world.ask(copy(source, 0, handle, to_u64(CHUNK), to_u64(CHUNK)));
    let other = world.ask(copy(handle, 0, source, to_u64(2 * CHUNK), to_u64(CHUNK)));
    assert_eq!(
        (copied(world.wait(one)), copied(world.wait(other))),
        (to_u64(CHUNK), to_u64(CHUNK))
    );
    world.done(settled(handle)).unwrap();
    assert!(world.fake.content(ino) == [&bytes[..CHUNK], &bytes[..CHUNK]].concat());
}
