//! Scenarios against the fake cluster, and random programs against a model.

mod behind;
mod closed;
mod copy;
mod fake;
mod inline;
mod leases;
mod locks;
mod random;
mod releases;
mod states;
mod strip;
mod world;

use std::time::Duration;

use weft_iobuf::Pool;
use weft_wire::meta::{Attr, MetaReply, SetAttr, Time, TimeSet};
use weft_wire::units::{to_u32, to_u64};
use weft_wire::{Ino, Kind, LeaseMode, Status, TargetId};

use crate::op::*;
use crate::state::errno::*;
use crate::{ClientConfig, OnTimeout};
use fake::CHUNK_LOG2;
use world::{Faults, World, config};

const CHUNK: usize = 1 << CHUNK_LOG2;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Bytes that tell where they were meant to go.
fn pattern(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| seed ^ u8::try_from(at * 7 / 3 % 251).unwrap()).collect()
}

fn write(pool: &Pool, handle: Handle, offset: u64, bytes: &[u8], direct: bool) -> FsOp {
    // In the midst of a large slot, as the mount has them.
    let mut slot = pool.alloc((bytes.len() + 100).max(64 << 10)).expect("the test's pool is large");
    slot.as_mut_slice()[100..100 + bytes.len()].copy_from_slice(bytes);
    let (append, strips, data) = (false, Strips::NOTHING, (slot, 100..100 + bytes.len()));
    FsOp::Write { handle, offset, data, direct, append, strips }
}

fn flat(pieces: &[DataPiece]) -> Vec<u8> {
    let mut out = vec![];
    for piece in pieces {
        match piece {
            DataPiece::Slot(slot, range) => out.extend_from_slice(&slot[range.clone()]),
            DataPiece::Bytes(bytes) => out.extend_from_slice(bytes),
            DataPiece::Zeros(count) => out.resize(out.len() + count, 0),
        }
    }
    out
}

impl World {
    fn create(&mut self, name: &[u8]) -> (Ino, Handle) {
        let (parent, name, flags) =
            (Ino::ROOT, name.to_vec(), OpenFlags { write: true, ..OpenFlags::default() });
        match self.run(FsOp::Create { parent, name, mode: 0o100_644, umask: 0, flags }) {
            Ok(FsReply::Created(attr, _, opened)) => (attr.ino, opened.handle),
            other => panic!("{other:?}"),
        }
    }

    fn open(&mut self, ino: Ino, flags: OpenFlags) -> Opened {
        match self.run(FsOp::Open { ino, flags }) {
            Ok(FsReply::Opened(opened)) => opened,
            other => panic!("{other:?}"),
        }
    }

    fn write(
        &mut self,
        handle: Handle,
        offset: u64,
        bytes: &[u8],
        direct: bool,
    ) -> Result<(), i32> {
        let op = write(&self.pool, handle, offset, bytes, direct);
        match self.run(op)? {
            FsReply::Written(count) => assert_eq!(count, to_u32(bytes.len())),
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    fn read(&mut self, handle: Handle, offset: u64, bytes: u32) -> Result<Vec<u8>, i32> {
        let into = self.place_for(bytes);
        match self.run(FsOp::Read { handle, offset, bytes, into })? {
            FsReply::Data(pieces) => Ok(flat(&pieces)),
            other => panic!("{other:?}"),
        }
    }

    fn attr(&mut self, ino: Ino) -> Attr {
        match self.run(FsOp::GetAttr { ino, handle: None }) {
            Ok(FsReply::Attr(attr, _)) => attr,
            other => panic!("{other:?}"),
        }
    }

    fn done(&mut self, op: FsOp) -> Result<(), i32> {
        match self.run(op)? {
            FsReply::Done => Ok(()),
            other => panic!("{other:?}"),
        }
    }

    fn set_size(&mut self, ino: Ino, size: u64) -> Result<Attr, i32> {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        match self.run(FsOp::SetAttr { ino, set, handle: None })? {
            FsReply::Attr(attr, _) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }

    fn count(&self, kind: Kind) -> u64 {
        self.fake.counts.get(&kind).copied().unwrap_or(0)
    }

    /// Lets everything in flight end.
    fn rest(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }
}

fn settled(handle: Handle) -> FsOp {
    FsOp::Fsync { handle, datasync: false }
}

#[test]
fn what_is_written_is_read_and_is_at_the_server_after_a_flush() {
    let mut world = World::ready(config(), 1);
    let (ino, handle) = world.create(b"a");
    let bytes = pattern(1, 3 * CHUNK + 1000);
    world.write(handle, 5, &bytes, false).unwrap();
    assert_eq!(world.attr(ino).size, to_u64(bytes.len()) + 5, "seen before the volume knows");
    let found = world.read(handle, 0, 1 << 20).unwrap();
    assert_eq!(found[..5], [0; 5]);
    assert!(found[5..] == bytes);
    world.flush(handle);
    assert!(world.fake.content(ino)[5..] == bytes);
    world.done(FsOp::Release { handle }).unwrap();
    world.rest(ms(10));
    assert_eq!(world.fake.inodes[&ino].opens, 0);
    assert!(world.core.files.is_empty() && world.core.calls.is_empty());
}

#[test]
fn small_writes_go_out_as_one_and_a_pause_sends_them() {
    let mut world = World::ready(config(), 2);
    let (ino, handle) = world.create(b"a");
    for at in 0..16 {
        world.write(handle, at * 1000, &pattern(2, 1000), false).unwrap();
    }
    assert_eq!(world.count(Kind::Write), 0, "gathered");
    world.rest(ms(50));
    let writes = world.count(Kind::Write);
    assert!((1..=4).contains(&writes), "few, not 16: {writes}");
    world.rest(ms(1500));
    assert_eq!(world.count(Kind::Wrote), 1, "told once, a second later");
    assert_eq!(world.fake.inodes[&ino].attr.size, 16_000);
    world.done(FsOp::Flush { handle }).unwrap();
    assert_eq!(world.count(Kind::Wrote), 1, "a flush has nothing more to tell");
}

#[test]
fn holes_and_the_end_of_the_file() {
    let mut world = World::ready(config(), 3);
    let (ino, handle) = world.create(b"a");
    let far = to_u64(5 * CHUNK);
    world.write(handle, far, b"end", true).unwrap();
    let found = world.read(handle, far - 10, 100).unwrap();
    assert_eq!(found, [&[0; 10][..], b"end"].concat());
    assert!(world.read(handle, far + 3, 100).unwrap().is_empty());
    assert_eq!(world.set_size(ino, far + 5000).unwrap().size, far + 5000);
    assert_eq!(world.read(handle, far, 1 << 20).unwrap().len(), 5000);
    let seek = |offset, whence| FsOp::Lseek { handle, offset, whence };
    let found = |world: &mut World, at, whence| match world.run(seek(at, whence)) {
        Ok(FsReply::Offset(found)) => found,
        other => panic!("{other:?}"),
    };
    assert_eq!(found(&mut world, 9, Whence::Hole), 9);
    assert_eq!(found(&mut world, 9, Whence::Data), far);
    assert_eq!(found(&mut world, far + 1, Whence::Data), far + 1);
    assert_eq!(found(&mut world, far, Whence::Hole), far + 5000, "the end is a hole");
    let sought = world.count(Kind::Seek);
    assert_eq!(found(&mut world, far, Whence::Data), far);
    assert_eq!(world.count(Kind::Seek), sought + 1, "of one chunk one target is asked");
    assert_eq!(world.run(seek(far + 5000, Whence::Data)).unwrap_err(), ENXIO);
}

#[test]
fn a_read_into_lent_memory_finds_its_bytes_there_in_order() {
    let mut world = World::ready(config(), 5);
    world.faults.reorder = true;
    let (_, handle) = world.create(b"a");
    let bytes = pattern(7, 3 * CHUNK + 777);
    world.write(handle, 0, &bytes, true).unwrap();
    for (offset, in_place) in [(0, true), (4096, true), (to_u64(CHUNK) - 4096, true), (100, false)]
    {
        let (lent, into) = world.pool.alloc(4 * CHUNK).unwrap().lend();
        let ask = 4 * to_u32(CHUNK);
        let read = world.run(FsOp::Read { handle, offset, bytes: ask, into: Some(into) });
        let Ok(FsReply::Data(pieces)) = read else { panic!("{read:?}") };
        let mut at = 0;
        for piece in &pieces {
            let DataPiece::Slot(slot, range) = piece else { panic!("{piece:?}") };
            let there = lent.position_of(&slot[range.clone()]);
            assert_eq!(there, in_place.then_some(at), "offset {offset}");
            at += range.len();
        }
        assert!(flat(&pieces) == bytes[usize::try_from(offset).unwrap()..], "offset {offset}");
        drop(pieces);
        lent.try_reclaim().expect("no part is kept after the reply");
    }
}

/// As the kernel cuts a write(2) whose first page it does not have: the rest of that page, then all other pages.
#[test]
fn a_gathered_write_is_cut_between_blocks() {
    for (offset, first, bytes) in [(48_927, 225, 20_000), (4095, 1, 9000), (100, 50, 17_000)] {
        let mut world = World::ready(config(), 30);
        let (ino, handle) = world.create(b"a");
        let data = pattern(30, bytes);
        world.write(handle, offset, &data[..first], false).unwrap();
        world.write(handle, offset + to_u64(first), &data[first..], false).unwrap();
        world.done(settled(handle)).unwrap();
        assert!(world.fake.content(ino)[usize::try_from(offset).unwrap()..] == data);
        let end = to_u32((usize::try_from(offset).unwrap() + bytes) % CHUNK);
        let within = |at: &&u32| **at != end && !at.is_multiple_of(weft_wire::blocks::BLOCK_BYTES);
        assert_eq!(world.fake.write_ends.iter().find(within), None, "a block in two parts");
    }
}

#[test]
fn truncation_comes_after_the_writes_before_it_and_before_those_after() {
    let mut world = World::ready(config(), 4);
    world.faults.reorder = true;
    let (ino, handle) = world.create(b"a");
    let bytes = pattern(4, 2 * CHUNK);
    world.write(handle, 0, &bytes, false).unwrap();
    let set = SetAttr { size: Some(100), ..SetAttr::default() };
    let cut = world.ask(FsOp::SetAttr { ino, set, handle: None });
    let late = write(&world.pool, handle, 200, b"late", false);
    let late = world.ask(late);
    let read = world.ask(FsOp::Read { handle, offset: 0, bytes: 1 << 20, into: None });
    assert!(matches!(world.wait(cut), Ok(FsReply::Attr(attr, _)) if attr.size == 100));
    world.wait(late).unwrap();
    let Ok(FsReply::Data(pieces)) = world.wait(read) else { panic!() };
    let found = flat(&pieces);
    assert!(found.len() == 100 || found.len() == 204, "one or the other: {}", found.len());
    world.flush(handle);
    let expected = [&bytes[..100], &[0; 100], b"late"].concat();
    assert!(world.fake.content(ino) == expected);
    let opened = world.open(ino, OpenFlags { truncate: true, ..OpenFlags::default() });
    assert!(world.read(opened.handle, 0, 10).unwrap().is_empty());
    assert_eq!(world.fake.inodes[&ino].attr.size, 0);
}

#[test]
fn a_time_that_is_set_stays_set() {
    let mut world = World::ready(config(), 5);
    let (ino, handle) = world.create(b"a");
    world.write(handle, 0, b"data", false).unwrap();
    let past = Time { seconds: 77, nanos: 5 };
    let set = SetAttr { mtime: Some(TimeSet::To(past)), ..SetAttr::default() };
    world.run(FsOp::SetAttr { ino, set, handle: None }).unwrap();
    world.done(FsOp::Flush { handle }).unwrap();
    world.rest(ms(2000));
    assert_eq!(world.attr(ino).mtime, past);
}

#[test]
fn a_failed_write_behind_is_told_once_to_each_handle() {
    let mut world = World::ready(config(), 6);
    let (ino, first) = world.create(b"a");
    let second = world.open(ino, OpenFlags::default()).handle;
    world.fake.write_status.insert(TargetId(0), Status::NoSpace);
    world.write(first, 0, &pattern(6, CHUNK), false).unwrap();
    assert_eq!(world.done(FsOp::Flush { handle: first }), Err(Status::NoSpace.errno()));
    assert_eq!(world.done(FsOp::Flush { handle: first }), Ok(()), "once");
    assert_eq!(world.done(settled(second)), Err(Status::NoSpace.errno()), "to each");
    assert_eq!(world.done(settled(second)), Ok(()));
    let third = world.open(ino, OpenFlags::default()).handle;
    assert_eq!(world.done(settled(third)), Ok(()), "not to those who came later");
    assert_eq!(world.attr(ino).size, 0, "the length is what the server has");
    let direct = world.write(first, 0, b"x", true);
    assert_eq!(direct, Err(Status::NoSpace.errno()), "a direct write is told itself");
    assert_eq!(world.done(FsOp::Flush { handle: first }), Ok(()));
}

#[test]
fn dirty_bytes_are_bounded_and_writers_wait() {
    let small =
        ClientConfig { dirty_bytes_max: 4 * CHUNK, dirty_file_bytes_max: 2 * CHUNK, ..config() };
    let mut world = World::ready(small, 7);
    let (_, a) = world.create(b"a");
    let (_, b) = world.create(b"b");
    let mut ids = vec![];
    for at in 0..8 {
        let (handle, bytes) = (if at % 2 == 0 { a } else { b }, pattern(7, CHUNK));
        let op = write(&world.pool, handle, at / 2 * to_u64(CHUNK), &bytes, false);
        ids.push(world.ask(op));
    }
    assert_eq!(world.replies.len(), 4, "as many as there is room for");
    assert_eq!(world.core.dirty_bytes, 4 * CHUNK);
    ids.into_iter().for_each(|id| assert!(world.wait(id).is_ok()));
    for handle in [a, b] {
        world.done(settled(handle)).unwrap();
    }
    assert_eq!((world.core.dirty_bytes, world.core.unsynced_bytes), (0, 0));
}

#[test]
fn a_restarted_target_gets_again_what_it_forgot() {
    let mut world = World::ready(config(), 8);
    let (ino, handle) = world.create(b"a");
    let bytes = pattern(8, 3 * CHUNK);
    world.write(handle, 0, &bytes, true).unwrap();
    world.write(handle, 10, b"again", true).unwrap();
    world.crash(1);
    world.crash(0);
    world.done(settled(handle)).unwrap();
    let mut expected = bytes;
    expected[10..15].copy_from_slice(b"again");
    assert!(world.fake.content(ino) == expected);
    world.crash(1);
    world.rest(ms(100));
    assert!(world.fake.content(ino) == expected, "durable now");
    assert_eq!(world.fake.inodes[&ino].opens, 1, "and reopened");
}

/// Its chunks went with it, and a target reads zeros where it has nothing.
#[test]
fn a_read_of_a_file_that_went_meanwhile_is_no_hole() {
    for seed in 50..70 {
        let mut world = World::ready(config(), seed);
        world.fake.boot = 7;
        (0..2).for_each(|shard| world.crash(shard));
        let (ino, handle) = world.create(b"a");
        world.write(handle, 0, &pattern(50, 3 * CHUNK), true).unwrap();
        world.done(settled(handle)).unwrap();
        // Of the shard that does not have the volume.
        let (offset, bytes) = (to_u64(CHUNK), to_u32(CHUNK));
        let read = world.ask(FsOp::Read { handle, offset, bytes, into: None });
        if seed % 2 == 0 {
            world.fake.fence += 1; // It was away for long, and the server was there all the time.
            (0..2).for_each(|shard| world.disconnect_shard(shard));
        } else {
            (0..2).for_each(|shard| world.crash(shard));
        }
        world.fake.inodes.remove(&ino);
        for target in world.fake.targets.values_mut() {
            target.chunks.retain(|(of, _), _| *of != ino);
        }
        assert_eq!(world.wait(read).unwrap_err(), Status::Stale.errno(), "seed {seed}");
    }
}

/// Others may have written there since.
#[test]
fn a_mount_that_was_fenced_off_does_not_go_on_with_its_zeros() {
    let mut world = World::ready(config(), 70);
    world.fake.boot = 7;
    (0..2).for_each(|shard| world.crash(shard));
    let (ino, handle) = world.create(b"a");
    let data = pattern(70, 3 * CHUNK);
    world.write(handle, 0, &data, true).unwrap();
    world.done(settled(handle)).unwrap();
    let (offset, bytes, mode) = (0, to_u64(3 * CHUNK), 0x11);
    let zeros = world.ask(FsOp::Fallocate { handle, offset, bytes, mode });
    world.fake.fence += 1;
    (0..2).for_each(|shard| world.disconnect_shard(shard));
    assert_eq!(world.wait(zeros).unwrap_err(), EIO);
    world.rest(ms(100));
    assert!(world.fake.content(ino) == data);
}

#[test]
fn an_fsync_covers_what_was_written_before_the_file_was_opened() {
    let mut world = World::ready(config(), 21);
    let (ino, handle) = world.create(b"a");
    let bytes = pattern(21, 3 * CHUNK);
    world.write(handle, 0, &bytes, false).unwrap();
    world.done(FsOp::Flush { handle }).unwrap();
    world.done(FsOp::Release { handle }).unwrap();
    world.rest(ms(10));
    assert!(world.core.files.is_empty(), "closed and forgotten");
    assert_eq!(world.count(Kind::Sync), 0);
    let again = world.open(ino, OpenFlags::default()).handle;
    world.done(settled(again)).unwrap();
    let syncs = world.count(Kind::Sync);
    assert!(syncs > 0);
    world.done(settled(again)).unwrap();
    assert_eq!(world.count(Kind::Sync), syncs, "once for each open");
    world.crash(0);
    world.crash(1);
    world.rest(ms(100));
    assert!(world.fake.content(ino) == bytes, "durable");
}

#[test]
fn what_memory_does_not_keep_is_an_error_after_a_restart_and_synced_in_time_without() {
    let tiny = ClientConfig { unsynced_bytes_max: CHUNK, ..config() };
    let mut world = World::ready(tiny, 9);
    let (ino, handle) = world.create(b"a");
    world.write(handle, 0, &pattern(9, 6 * CHUNK), true).unwrap();
    world.rest(ms(100));
    assert!(world.core.unsynced_bytes <= 2 * CHUNK);
    assert!(world.count(Kind::Sync) > 0, "made durable in the background");
    world.crash(1);
    assert_eq!(world.done(settled(handle)), Ok(()));
    assert!(world.fake.content(ino) == pattern(9, 6 * CHUNK));
    let mut world = World::ready(ClientConfig { unsynced_bytes_max: 0, ..config() }, 9);
    let (_, handle) = world.create(b"a");
    world.write(handle, 0, &pattern(9, 3 * CHUNK), true).unwrap();
    world.crash(1);
    assert_eq!(world.done(settled(handle)), Err(EIO), "lost, and said so");
}

#[test]
fn a_damaged_block_is_read_again_and_then_an_error() {
    let mut world = World::ready(config(), 10);
    let (_, handle) = world.create(b"a");
    world.write(handle, 0, &pattern(10, 5000), true).unwrap();
    world.fake.damaged_reads = 1;
    assert!(world.read(handle, 4096, 904).unwrap() == pattern(10, 5000)[4096..]);
    world.fake.damaged_reads = 2;
    assert_eq!(world.read(handle, 4096, 904), Err(EIO));
}

#[test]
fn a_cached_file_stays_cached_until_somebody_else_changes_it() {
    let mut world = World::ready(config(), 11);
    let (ino, handle) = world.create(b"a");
    world.write(handle, 0, b"data", false).unwrap();
    world.done(FsOp::Flush { handle }).unwrap();
    world.done(FsOp::Release { handle }).unwrap();
    let again = world.open(ino, OpenFlags::default());
    assert!(again.keep_cache, "only we wrote");
    world.done(FsOp::Release { handle: again.handle }).unwrap();
    world.recall(vec![(ino, LeaseMode::None)]);
    world.fake.inodes.get_mut(&ino).unwrap().attr.version += 1;
    assert!(!world.open(ino, OpenFlags::default()).keep_cache);
}

#[test]
fn a_read_at_the_end_asks_whether_there_is_more() {
    let mut world = World::ready(config(), 12);
    let (ino, handle) = world.create(b"a");
    world.write(handle, 0, b"data", true).unwrap();
    world.done(FsOp::Flush { handle }).unwrap();
    let attr = &mut world.fake.inodes.get_mut(&ino).unwrap().attr;
    (attr.size, attr.version) = (10, attr.version + 1);
    assert_eq!(world.read(handle, 0, 100).unwrap().len(), 4, "as long as the lease holds");
    let recall = vec![(ino, LeaseMode::None)];
    assert_eq!(world.recall(recall), [(vec![ino], true)], "the kernel forgets it");
    world.fake.grants = false;
    assert_eq!(world.read(handle, 0, 100).unwrap().len(), 10);
}

#[test]
fn interrupts_are_patient_with_a_live_server_and_prompt_with_a_dead_one() {
    let mut world = World::ready(config(), 13);
    let (_, handle) = world.create(b"a");
    let read = world.ask(FsOp::GetAttr { ino: Ino::ROOT, handle: None });
    world.core.interrupt(read, world.now);
    world.drain();
    assert!(world.wait(read).is_ok(), "a stray signal harms nothing");
    world.down = true;
    world.crash(0);
    world.crash(1);
    let make = |name: &[u8]| FsOp::Unlink { parent: Ino::ROOT, name: name.to_vec() };
    let ids = [world.ask(make(b"a")), world.ask(FsOp::StatFs), world.ask(settled(handle))];
    let written = write(&world.pool, handle, 0, b"x", true);
    let direct = world.ask(written);
    world.rest(ms(100));
    for id in [ids[0], ids[1], direct] {
        assert!(!world.replies.contains_key(&id));
        world.core.interrupt(id, world.now);
        world.drain();
        assert_eq!(world.replies.remove(&id).unwrap().unwrap_err(), EINTR);
    }
    world.down = false;
    world.rest(ms(3000));
    assert_eq!(world.count(Kind::Unlink), 0, "never sent, so withdrawn");
    assert_eq!(world.done(make(b"a")), Ok(()), "and its number is used again");
}

#[test]
fn an_interrupted_open_is_given_back() {
    let mut world = World::ready(config(), 14);
    let (ino, handle) = world.create(b"a");
    world.done(FsOp::Release { handle }).unwrap();
    world.recall(vec![(ino, LeaseMode::None)]);
    let open = world.ask(FsOp::Open { ino, flags: OpenFlags::default() });
    let (parent, name, flags) = (Ino::ROOT, b"b".to_vec(), OpenFlags::default());
    let create = world.ask(FsOp::Create { parent, name, mode: 0o100_600, umask: 0, flags });
    for id in [open, create] {
        world.core.interrupt(id, world.now);
    }
    world.advance(ms(1001));
    for id in [open, create] {
        assert_eq!(world.replies.remove(&id).unwrap().unwrap_err(), EINTR);
    }
    world.rest(ms(10));
    assert!(world.count(Kind::Open) == 1 && world.count(Kind::Make) == 2, "they were sent");
    assert!(world.fake.inodes.values().all(|inode| inode.opens == 0));
}

#[test]
fn with_a_timeout_a_dead_server_is_an_error() {
    let on_timeout = OnTimeout::Eio(ms(2000));
    let mut world = World::ready(ClientConfig { on_timeout, ..config() }, 15);
    let (_, handle) = world.create(b"a");
    world.write(handle, 0, b"data", false).unwrap();
    world.rest(ms(20));
    world.down = true;
    world.crash(0);
    world.crash(1);
    let asked = world.now;
    assert_eq!(world.run(FsOp::StatFs).unwrap_err(), EIO);
    assert!(world.now >= asked + ms(2000));
    assert_eq!(world.read(handle, 0, 10), Err(EIO));
    world.down = false;
    world.rest(ms(2000));
    assert!(world.run(FsOp::StatFs).is_ok());
    assert_eq!(world.read(handle, 0, 10).unwrap(), b"data");
}

#[test]
fn another_cluster_is_refused_with_a_sentence() {
    let cluster = Some(weft_wire::ClusterId([1; 16]));
    let mut world = World::new(ClientConfig { cluster, ..config() }, 16);
    for _ in 0..100 {
        world.step();
    }
    let sentence = world.failed.take().expect("refused");
    assert!(sentence.contains("host:1") && sentence.contains("another cluster"), "{sentence}");
    assert_eq!(world.run(FsOp::StatFs).unwrap_err(), EAGAIN.min(EIO));
}

#[test]
fn a_shard_has_one_connection_whatever_its_address_is_called() {
    for address in ["", "host:1", "10.0.0.1:1"] {
        let mut world = World::new(config(), 20);
        world.fake.node_address = address.into();
        while !world.ready {
            world.step();
        }
        let (_, handle) = world.create(b"a");
        world.write(handle, 0, &pattern(20, 3 * CHUNK), true).unwrap();
        world.rest(ms(3000));
        assert!(world.kick_count <= 1, "no two links fight for a shard: {}", world.kick_count);
        let count = if address == "10.0.0.1:1" { 3 } else { 2 };
        assert_eq!(world.addresses.len(), count, "{:?}", world.addresses);
    }
}

#[test]
fn the_session_ends_with_a_goodbye() {
    let mut world = World::ready(config(), 21);
    let (ino, handle) = world.create(b"a");
    world.write(handle, 0, b"x", false).unwrap();
    world.done(FsOp::Release { handle }).unwrap();
    while !world.core.is_clean() {
        world.step();
    }
    world.core.goodbye(world.now);
    world.drain();
    world.rest(ms(100));
    assert!(world.core.is_gone());
    assert_eq!((world.count(Kind::Goodbye), world.fake.inodes[&ino].opens), (2, 0));
    assert_eq!(world.core.next_timer(), None);
}

#[test]
fn names_directories_and_attributes_pass_through() {
    let mut world = World::ready(config(), 17);
    let (ino, handle) = world.create(b"a");
    let lookup = |name: &[u8]| FsOp::Lookup { parent: Ino::ROOT, name: name.to_vec() };
    world.write(handle, 0, &[7; 123], false).unwrap();
    let Ok(FsReply::Entry(attr, ttl)) = world.run(lookup(b"a")) else { panic!() };
    assert_eq!((attr.ino, attr.size, ttl.entry), (ino, 123, ms(4500)));
    assert_eq!(world.run(lookup(b"b")).unwrap_err(), 2);
    assert_eq!(world.run(lookup(&[b'x'; 256])).unwrap_err(), ENAMETOOLONG);
    let Ok(FsReply::Opened(dir)) = world.run(FsOp::OpenDir { ino: Ino::ROOT }) else { panic!() };
    let op = FsOp::ReadDir { handle: dir.handle, cookie: 0, bytes_max: 4096, plus: true };
    let Ok(FsReply::Dir { entries, last: true, .. }) = world.run(op) else { panic!() };
    let entry = MetaReply::dir_entries(&entries).next().unwrap().unwrap();
    assert_eq!((entry.name, entry.attr.unwrap().size), (&b"a"[..], 123), "with local writes");
    assert_eq!(world.read(dir.handle, 0, 10), Err(EBADF));
    world.done(FsOp::ReleaseDir { handle: dir.handle }).unwrap();
    let name = b"user.k".to_vec();
    let (value, flags) = (b"value".to_vec(), 0);
    world.done(FsOp::SetXattr { ino, name: name.clone(), value, flags }).unwrap();
    let get = |bytes_max| FsOp::GetXattr { ino, name: name.clone(), bytes_max };
    assert!(matches!(world.run(get(0)), Ok(FsReply::Length(5))));
    assert_eq!(world.run(get(4)).unwrap_err(), ERANGE);
    assert!(matches!(world.run(get(5)), Ok(FsReply::Bytes(bytes)) if bytes == b"value"));
    let (offset, bytes, mode) = (0, 1, 0x08);
    assert_eq!(world.run(FsOp::Fallocate { handle, offset, bytes, mode }).unwrap_err(), EOPNOTSUPP);
}

#[test]
fn many_changes_share_few_slots() {
    let mut world = World::ready(config(), 18);
    world.faults = Faults { busy: 5, disconnect: 40, crash: 60, reorder: true };
    let make = |at: u32| FsOp::Make {
        parent: Ino::ROOT,
        name: format!("d{at}").into_bytes(),
        mode: 0o040_755,
        umask: 0,
        rdev: 0,
        target: vec![],
    };
    let ids: Vec<OpId> = (0..60).map(|at| world.ask(make(at))).collect();
    for id in ids {
        assert!(matches!(world.wait(id), Ok(FsReply::Entry(..))), "made once, not twice");
    }
    assert_eq!(world.fake.inodes.len(), 61);
}
