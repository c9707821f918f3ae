//! Files whose data is in the inode.

use weft_wire::session::{FEATURE_FRESH, FEATURE_INLINE};

use super::world::{World, config};
use super::*;

impl World {
    fn small(&mut self, name: &[u8], bytes: &[u8]) -> (Ino, Handle) {
        let (ino, handle) = self.create(name);
        self.write(handle, 0, bytes, false).unwrap();
        (ino, handle)
    }

    fn shut(&mut self, handle: Handle) {
        self.flush(handle);
        self.done(FsOp::Release { handle }).unwrap();
    }

    fn counts_of(&self, kinds: &[Kind]) -> Vec<u64> {
        kinds.iter().map(|kind| self.count(*kind)).collect()
    }

    fn read_all(&mut self, handle: Handle) -> Vec<u8> {
        let read = FsOp::Read { handle, offset: 0, bytes: 20_000, into: None };
        let Ok(FsReply::Data(pieces)) = self.run(read) else { panic!() };
        flat(&pieces)
    }

    fn is_inline(&mut self, ino: Ino) -> bool {
        self.fake.inode(ino).unwrap().inline.is_some()
    }
}

#[test]
fn a_small_file_costs_two_messages_and_two_to_read_again() {
    let mut world = World::inlining(config(), 300);
    let bytes = pattern(1, 3901);
    let kinds = [Kind::Make, Kind::WriteData, Kind::Write, Kind::Wrote, Kind::Sync, Kind::GetAttr];
    let before = world.counts_of(&kinds);
    let (ino, handle) = world.small(b"a", &bytes);
    world.shut(handle);
    let after = world.counts_of(&kinds);
    let more: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    assert_eq!(more, [1, 1, 0, 0, 0, 0], "make and write, no more");
    assert!(world.is_inline(ino) && world.fake.content(ino) == bytes);
    world.recall(vec![(ino, LeaseMode::None)]);
    world.rest(ms(50));
    let kinds = [Kind::Open, Kind::Read, Kind::GetData, Kind::GetAttr];
    let before = world.counts_of(&kinds);
    let handle = world.open(ino, OpenFlags::default()).handle;
    assert!(world.read_all(handle) == bytes);
    let after = world.counts_of(&kinds);
    let more: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    assert_eq!(more, [1, 0, 0, 0], "the open brings it");
}

#[test]
fn what_does_not_fit_moves_to_its_target_durably_and_whole() {
    for seed in 310..330 {
        let mut world = World::inlining(config(), seed);
        let mut bytes = pattern(2, 100);
        let (ino, handle) = world.small(b"a", &bytes);
        world.done(settled(handle)).unwrap();
        assert!(world.is_inline(ino));
        bytes.extend(pattern(3, 5000));
        world.write(handle, 100, &bytes[100..], seed % 2 == 0).unwrap();
        if seed % 3 == 0 {
            (0..2).for_each(|shard| world.crash(shard));
        }
        world.flush(handle);
        assert!(!world.is_inline(ino) && world.fake.content(ino) == bytes);
        assert!(world.read_all(handle) == bytes);
        world.done(settled(handle)).unwrap();
        (0..2).for_each(|shard| world.crash(shard));
        assert!(world.fake.content(ino) == bytes, "seed {seed}: durable");
        world.shut(handle);
    }
}

#[test]
fn a_file_that_begins_long_is_at_its_targets_at_once() {
    let mut world = World::inlining(config(), 340);
    let bytes = pattern(4, 9000);
    let (ino, handle) = world.small(b"a", &bytes);
    world.shut(handle);
    assert!(!world.is_inline(ino) && world.fake.content(ino) == bytes);
    let kinds = [Kind::MoveData, Kind::WriteData, Kind::Write, Kind::Sync];
    assert_eq!(world.counts_of(&kinds), [1, 0, 1, 0], "nothing was there to move");
}

#[test]
fn who_made_a_file_begins_at_its_targets_without_a_word() {
    let mut world = World::freshening(config(), 341);
    let bytes = pattern(4, 9000);
    let kinds = [Kind::Make, Kind::MoveData, Kind::WriteData, Kind::Write, Kind::Wrote];
    let before = world.counts_of(&kinds);
    let (ino, handle) = world.small(b"a", &bytes);
    world.rest(ms(20)); // Its target has it.
    assert!(world.is_inline(ino), "the volume has not heard");
    assert!(world.read_all(handle) == bytes, "here it counts");
    world.shut(handle);
    assert!(!world.is_inline(ino) && world.fake.content(ino) == bytes);
    let after = world.counts_of(&kinds);
    let more: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    assert_eq!(more, [1, 0, 0, 1, 1], "the word that it has grown is the only one");
}

#[test]
fn a_fresh_file_that_stays_small_is_in_its_inode_and_nothing_at_the_targets() {
    let mut world = World::freshening(config(), 342);
    let (ino, handle) = world.small(b"a", b"small");
    world.shut(handle);
    assert!(world.is_inline(ino) && world.fake.content(ino) == b"small");
    assert!(!world.fake.inode(ino).unwrap().fresh, "and the volume knows");
    assert_eq!(world.count(Kind::Write), 0);
}

#[test]
fn a_beginning_is_told_before_others_look_and_before_a_cut() {
    for seed in 343..363 {
        let mut world = World::freshening(config(), seed);
        let mut bytes = pattern(7, 20_000);
        let (ino, handle) = world.small(b"a", &bytes);
        if seed % 4 == 0 {
            (0..2).for_each(|shard| world.crash(shard));
            world.rest(ms(200));
        }
        match seed % 3 {
            0 => {
                world.recall(vec![(ino, LeaseMode::None)]);
                world.rest(ms(200));
            }
            1 => {
                let set = SetAttr { size: Some(7000), ..SetAttr::default() };
                world.run(FsOp::SetAttr { ino, set, handle: None }).unwrap();
                bytes.truncate(7000);
            }
            _ => world.done(settled(handle)).unwrap(),
        }
        assert!(!world.is_inline(ino), "seed {seed}");
        assert!(world.fake.content(ino) == bytes, "seed {seed}");
        assert!(world.read_all(handle) == bytes);
        world.shut(handle);
    }
}

#[test]
fn a_beginning_that_the_volume_does_not_take_is_an_error_and_the_file_is_empty() {
    let mut world = World::freshening(config(), 364);
    let (ino, handle) = world.create(b"a");
    world.fake.log_fails = true;
    world.write(handle, 0, &pattern(8, 9000), false).unwrap();
    assert_eq!(world.done(settled(handle)), Err(EIO));
    world.fake.log_fails = false;
    assert!(world.is_inline(ino) && world.fake.content(ino).is_empty());
    assert!(world.read_all(handle).is_empty(), "as everybody sees it");
    let later = pattern(9, 6000);
    world.write(handle, 0, &later, false).unwrap();
    world.shut(handle);
    assert!(!world.is_inline(ino) && world.fake.content(ino) == later);
    assert_eq!(world.count(Kind::MoveData), 1, "it is not fresh any more");
}

#[test]
fn a_fenced_maker_does_not_count_what_it_brought() {
    let mut world = World::freshening(config(), 365);
    let (ino, handle) = world.small(b"a", &pattern(8, 9000));
    world.fake.fence += 1;
    world.disconnect_shard(0);
    assert_eq!(world.done(FsOp::Flush { handle }), Err(EIO));
    assert!(world.is_inline(ino) && world.fake.content(ino).is_empty());
    assert!(world.read_all(handle).is_empty());
}

#[test]
fn what_was_not_taken_when_others_went_on_is_not_made_later() {
    let mut world = World::inlining(config(), 350);
    let (ino, handle) = world.small(b"a", b"first");
    world.done(settled(handle)).unwrap();
    world.write(handle, 0, b"later", false).unwrap();
    let flush = world.ask(settled(handle)); // It is on its way.
    world.fake.fence += 1;
    world.disconnect_shard(0);
    assert_eq!(world.wait(flush).err(), Some(EIO));
    world.rest(ms(100));
    let arrived = world.fake.content(ino) == b"later";
    assert!(arrived || world.fake.content(ino) == b"first");
    assert!(world.core.calls.is_empty() && world.core.dirty_bytes == 0);
    let data = world.fake.content(ino);
    assert_eq!(world.read_all(handle), data, "as it is there");
}

#[test]
fn a_successor_sends_what_the_one_before_had_not_and_reads_anew() {
    for seed in 360..380 {
        let fresh = if seed % 3 == 0 { FEATURE_FRESH } else { 0 };
        let mut world = World::keeping_with(config(), seed, FEATURE_INLINE | fresh);
        let mut bytes = pattern(5, 700);
        let (ino, handle) = world.small(b"a", &bytes);
        if seed % 2 == 0 {
            world.done(FsOp::Flush { handle }).unwrap();
        }
        if seed % 4 > 1 {
            bytes.extend(pattern(6, 6000));
            world.write(handle, 700, &bytes[700..], false).unwrap();
        }
        (0..seed % 7).for_each(|_| world.step());
        world.take_over();
        assert!(world.read_all(handle) == bytes, "seed {seed}");
        world.shut(handle);
        assert!(world.fake.content(ino) == bytes, "seed {seed}: after the close");
    }
}
