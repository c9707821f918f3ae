//! Files that were closed and not synced.

use weft_wire::session::{FEATURE_LEASES, FEATURE_PARENTS};

use super::world::{World, config};
use super::*;
use crate::limits::{LINGERING_MANY, UNSEEN_ERRORS_MAX};

impl World {
    pub(super) fn close(&mut self, handle: Handle) {
        self.flush(handle);
        self.done(FsOp::Release { handle }).unwrap();
    }

    /// A file with these bytes, closed.
    fn closed(&mut self, name: &[u8], bytes: &[u8]) -> Ino {
        let (ino, handle) = self.create(name);
        self.write(handle, 0, bytes, false).unwrap();
        self.close(handle);
        ino
    }

    /// The volume hears that nobody has anything open.
    fn give_opens_back(&mut self) {
        while self.core.releases_due.is_none() {
            self.step();
        }
        self.core.send_all_releases(Ino::ROOT.volume());
        self.core.tick(self.now);
        self.drain();
        self.rest(ms(20));
    }

    fn crash_all(&mut self) {
        (0..2).for_each(|shard| self.crash(shard));
    }

    /// Opens and syncs it.
    fn sync(&mut self, ino: Ino) -> Result<(), i32> {
        let handle = self.open(ino, OpenFlags::default()).handle;
        let result = self.done(settled(handle));
        self.done(FsOp::Release { handle }).unwrap();
        result
    }

    fn chunk_count(&self, ino: Ino) -> usize {
        let chunks = self.fake.targets.values().flat_map(|target| target.chunks.keys());
        chunks.filter(|(of, _)| *of == ino).count()
    }

    fn lingers(&self) -> usize {
        self.core.lingering.files.len()
    }
}

#[test]
fn an_fsync_after_a_reboot_covers_what_was_written_before_the_close() {
    for seed in 80..100 {
        let mut world = World::ready(config(), seed);
        let bytes = pattern(80, 3 * CHUNK + 100);
        let ino = world.closed(b"a", &bytes);
        world.rest(ms(seed % 4 * 10));
        world.crash_all();
        if seed % 2 == 0 {
            world.rest(ms(100)); // Or it is opened before the mount knows.
        }
        world.sync(ino).unwrap();
        world.crash_all();
        assert!(world.fake.content(ino) == bytes, "seed {seed}");
    }
}

#[test]
fn what_was_closed_is_made_durable_together_and_costs_no_message_of_its_own() {
    let mut world = World::ready(config(), 81);
    world.rest(ms(10));
    let (start, file_count) = (world.now, 40);
    let kinds = [Kind::Make, Kind::Write, Kind::Wrote, Kind::Release, Kind::Sync];
    let before: u64 = world.fake.counts.values().sum();
    let files: Vec<Ino> = (0..file_count).map(|name| world.closed(&[name], b"small")).collect();
    world.give_opens_back();
    assert!(world.now < start + ms(1000) && world.lingers() == files.len());
    let n = u64::from(file_count);
    assert_eq!(kinds.map(|kind| world.count(kind)), [n, n, n, n, 0]);
    let pings = world.count(Kind::Ping);
    assert_eq!(world.fake.counts.values().sum::<u64>() - before, 4 * n + pings, "and no other");
    world.rest(ms(1100));
    assert_eq!(kinds.map(|kind| world.count(kind)), [n, n, n, n, 1], "of the one target");
    assert_eq!((world.lingers(), world.core.unsynced_bytes), (0, 0));
    world.crash_all();
    for ino in files {
        assert_eq!(world.fake.content(ino), b"small", "durable");
    }
    world.rest(ms(3000));
    assert_eq!(world.count(Kind::Sync), 1, "once");
}

#[test]
fn many_closed_files_do_not_wait() {
    let mut world = World::ready(config(), 82);
    for name in 0..LINGERING_MANY {
        assert_eq!(world.count(Kind::Sync), 0);
        // In time a millisecond and more each: the delay is not to be what asks.
        world.core.lingering.due = world.core.lingering.due.map(|due| due + ms(1000));
        world.closed(format!("{name}").as_bytes(), b"x");
    }
    world.rest(ms(20));
    assert_eq!((world.count(Kind::Sync), world.lingers()), (1, 0));
}

#[test]
fn little_memory_makes_closed_files_durable_sooner_or_their_loss_an_error() {
    let tight = ClientConfig { unsynced_bytes_max: 2 * CHUNK, ..config() };
    let mut world = World::ready(tight, 83);
    world.closed(b"a", &pattern(83, CHUNK));
    assert_eq!(world.count(Kind::Sync), 0);
    let (_, handle) = world.create(b"b");
    world.write(handle, 0, &pattern(83, 2 * CHUNK), true).unwrap();
    world.rest(ms(20));
    assert_eq!(world.lingers(), 0, "not after a second");
    let mut world = World::ready(ClientConfig { unsynced_bytes_max: 4 * CHUNK, ..config() }, 84);
    let ino = world.closed(b"a", &pattern(84, CHUNK));
    let pool = world.pool.clone();
    let scarce: Vec<_> = (0..50).map(|_| pool.alloc(1 << 20).unwrap()).collect();
    let (_, handle) = world.create(b"b");
    world.write(handle, 0, b"more", true).unwrap();
    drop(scarce);
    assert!(world.core.unsynced_bytes <= CHUNK / 2);
    world.crash_all();
    world.rest(ms(100));
    assert_eq!(world.sync(ino), Err(EIO), "lost, and said so");
    assert_eq!(world.sync(ino), Ok(()), "once");
}

#[test]
fn a_failure_that_nobody_heard_is_told_to_who_opens_the_file_next() {
    let mut world = World::ready(config(), 85);
    world.fake.sync_status.insert(TargetId(0), Status::Io);
    let files: Vec<Ino> = (0..=UNSEEN_ERRORS_MAX)
        .map(|name| world.closed(format!("{name}").as_bytes(), b"x"))
        .collect();
    world.rest(ms(1500));
    world.fake.sync_status.clear();
    assert_eq!(world.lingers(), UNSEEN_ERRORS_MAX, "bounded");
    assert_eq!(world.sync(files[1]), Err(EIO));
    assert_eq!(world.sync(files[1]), Ok(()));
    world.rest(ms(1500));
    assert_eq!(world.lingers(), UNSEEN_ERRORS_MAX - 1, "who was told is forgotten");
}

#[test]
fn an_older_server_is_asked_for_each_file() {
    let mut world = World::new(config(), 86);
    world.fake.features = FEATURE_LEASES | FEATURE_PARENTS;
    while !world.ready {
        world.step();
    }
    let files: Vec<Ino> = (0..3).map(|name| world.closed(&[name], b"small")).collect();
    world.rest(ms(1500));
    assert_eq!((world.count(Kind::Sync), world.lingers()), (3, 0));
    world.crash_all();
    files.into_iter().for_each(|ino| assert_eq!(world.fake.content(ino), b"small"));
}

#[test]
fn a_mount_that_ends_makes_durable_what_was_closed() {
    let mut world = World::ready(config(), 87);
    let bytes = pattern(87, 2 * CHUNK);
    let ino = world.closed(b"a", &bytes);
    assert!(world.core.is_clean(), "at the servers");
    let start = world.now;
    world.core.leaving(world.now);
    assert!(!world.core.is_clean(), "not durable");
    world.step_until(|world| world.core.is_clean());
    assert!(world.now < start + ms(500), "at once");
    world.crash_all();
    assert!(world.fake.content(ino) == bytes);
}

/// Nobody would remove those chunks.
#[test]
fn what_went_meanwhile_is_not_written_again() {
    let mut world = World::ready(config(), 88);
    let ino = world.closed(b"a", &pattern(88, 3 * CHUNK));
    world.done(FsOp::Unlink { parent: Ino::ROOT, name: b"a".to_vec() }).unwrap();
    assert!(!world.fake.inodes.contains_key(&ino), "nobody had it open");
    world.crash(1); // The volume's shard goes on.
    world.rest(ms(1500));
    assert_eq!((world.chunk_count(ino), world.lingers()), (1, 0), "what the other shard has");
}

#[test]
fn what_is_written_again_cannot_go_meanwhile() {
    let mut world = World::ready(config(), 89);
    let ino = world.closed(b"a", &pattern(89, 3 * CHUNK));
    world.give_opens_back();
    assert_eq!(world.fake.inodes[&ino].opens, 0);
    world.crash(1);
    world.step_until(|world| world.chunk_count(ino) >= 2);
    assert_eq!(world.fake.inodes[&ino].opens, 1);
    world.step_until(|world| world.chunk_count(ino) == 3);
    world.rest(ms(6000));
    assert_eq!((world.chunk_count(ino), world.fake.inodes[&ino].opens), (3, 0), "given back");
}

#[test]
fn what_others_may_have_written_over_is_not_written_again() {
    let mut world = World::ready(config(), 90);
    let ino = world.closed(b"a", &pattern(90, CHUNK));
    world.recall(vec![(ino, LeaseMode::None)]);
    let writes = world.count(Kind::Write);
    world.crash_all();
    world.rest(ms(200));
    assert_eq!(world.count(Kind::Write), writes);
    assert_eq!(world.sync(ino), Err(EIO), "it was not durable");
}

#[test]
fn a_mount_that_was_fenced_off_does_not_write_again_what_was_closed() {
    let mut world = World::ready(config(), 91);
    world.fake.boot = 7;
    world.crash_all();
    let ino = world.closed(b"a", &pattern(91, CHUNK));
    let writes = world.count(Kind::Write);
    world.fake.fence += 1;
    (0..2).for_each(|shard| world.disconnect_shard(shard));
    world.rest(ms(50));
    world.fake.boot = 0;
    world.crash_all();
    world.rest(ms(200));
    assert_eq!(world.count(Kind::Write), writes);
    assert_eq!(world.sync(ino), Err(EIO), "it was not durable");
}

#[test]
fn what_was_cut_off_a_closed_file_does_not_come_back() {
    let mut world = World::ready(config(), 92);
    let bytes = pattern(92, 2 * CHUNK);
    let ino = world.closed(b"a", &bytes);
    world.set_size(ino, 1000).unwrap();
    world.set_size(ino, 5000).unwrap();
    world.crash_all();
    world.sync(ino).unwrap();
    assert!(world.fake.content(ino) == [&bytes[..1000], &[0; 4000]].concat());
}

#[test]
fn a_successor_writes_again_only_what_a_cut_left() {
    for (seed, size) in [(104, CHUNK - 1000), (105, CHUNK + 1000), (106, 3 * CHUNK)] {
        let mut world = World::keeping(config(), seed);
        let mut bytes = [vec![0; CHUNK / 2], pattern(104, CHUNK)].concat();
        let (ino, handle) = world.create(b"a");
        world.write(handle, to_u64(CHUNK / 2), &bytes[CHUNK / 2..], false).unwrap();
        world.done(FsOp::Flush { handle }).unwrap();
        world.set_size(ino, to_u64(size)).unwrap();
        world.set_size(ino, to_u64(3 * CHUNK)).unwrap();
        world.core.replied();
        world.take_over();
        world.crash_all();
        world.sync(ino).unwrap();
        bytes.truncate(size);
        bytes.resize(3 * CHUNK, 0);
        let content = world.fake.content(ino);
        let wrong = content.iter().zip(&bytes).position(|(have, want)| have != want);
        assert_eq!((content.len(), wrong), (bytes.len(), None), "cut to {size}");
    }
}

#[test]
fn what_lingers_outlives_the_client_core() {
    for seed in 93..103 {
        let mut world = World::keeping(config(), seed);
        let bytes = pattern(93, 3 * CHUNK);
        let ino = world.closed(b"a", &bytes);
        if seed % 3 > 0 {
            world.give_opens_back();
        }
        if seed % 2 == 0 {
            world.crash_all(); // While nobody serves.
        }
        world.take_over();
        world.crash_all();
        world.sync(ino).unwrap();
        world.crash_all();
        assert!(world.fake.content(ino) == bytes, "seed {seed}");
        world.rest(ms(6000));
        assert_eq!((world.lingers(), world.fake.inodes[&ino].opens), (0, 0), "seed {seed}");
        world.take_over();
        assert!(world.core.files.is_empty(), "no record is left");
        let mut world = World::keeping(config(), seed);
        let ino = world.closed(b"a", &bytes);
        world.recall(vec![(ino, LeaseMode::None)]);
        world.take_over();
        world.crash_all();
        world.rest(ms(100));
        world.take_over();
        assert_eq!(world.sync(ino), Err(EIO), "that it is not kept is not forgotten");
        world.take_over();
        assert_eq!(world.sync(ino), Ok(()));
    }
}

/// What waits for memory may be what would make some: an answer behind a reply that finds no slot.
#[test]
fn what_is_kept_is_let_go_when_something_waits_for_memory() {
    for closes in [false, true] {
        let mut world = World::ready(config(), 130);
        let bytes = pattern(130, CHUNK);
        let (ino, handle) = world.create(b"a");
        world.write(handle, 0, &bytes, false).unwrap();
        match closes {
            true => world.close(handle),
            false => world.done(FsOp::Flush { handle }).unwrap(),
        }
        assert!(world.core.unsynced_bytes > 0);
        let free = world.pool.free_bytes();
        world.core.make_room(1 << 20);
        assert_eq!(world.pool.free_bytes(), free, "there is room: nothing goes");
        let mut taken = Vec::new();
        while let Some(slot) = world.pool.alloc(1 << 14) {
            taken.push(slot);
        }
        world.core.make_room(1 << 14);
        assert_eq!(world.core.unsynced_bytes, 0);
        assert!(world.pool.alloc(1 << 14).is_some());
        drop(taken);
        assert_eq!(world.sync(ino), Ok(()), "it is at the targets, and they were not restarted");
        assert!(world.fake.content(ino) == bytes);
    }
}

/// What a client-core wrote again for the one before it is not forgotten by the one after it.
#[test]
fn what_was_written_across_two_takeovers_is_durable_or_an_error() {
    for seed in 140..160 {
        let mut world = World::keeping(config(), seed);
        let bytes = pattern(140, CHUNK);
        let (ino, handle) = world.create(b"a");
        world.write(handle, to_u64(CHUNK / 2), &bytes, false).unwrap();
        world.core.replied();
        world.take_over();
        world.done(FsOp::Flush { handle }).unwrap();
        world.core.replied();
        world.take_over();
        world.crash_all();
        assert_eq!(world.sync(ino), Err(EIO), "seed {seed}: others may have written over it");
    }
}

/// Another descriptor that nobody asks for errors is not who is told, and does not keep the error from others.
#[test]
fn a_failure_that_nobody_heard_is_told_to_who_opens_the_file_though_it_is_open() {
    let mut world = World::ready(config(), 86);
    let (ino, idle) = world.create(b"a");
    let writer = world.open(ino, OpenFlags { write: true, ..OpenFlags::default() }).handle;
    world.write(writer, 0, b"lost", false).unwrap();
    world.close(writer);
    world.fake.fence += 1;
    (0..2).for_each(|shard| world.disconnect_shard(shard));
    world.rest(ms(100));
    world.crash_all();
    world.rest(ms(100));
    assert_eq!(world.sync(ino), Err(EIO), "it is not there");
    assert_eq!(world.sync(ino), Ok(()), "that is known");
    assert_eq!(world.done(settled(idle)), Err(EIO), "to who had it open, not yet");
    assert_eq!(world.done(settled(idle)), Ok(()));
}

/// Whoever only reads has lost nothing: its close is not what tells, an fsync of its is.
#[test]
fn a_failure_is_not_told_to_who_reads_and_closes() {
    let mut world = World::ready(config(), 85);
    let (ino, writer) = world.create(b"a");
    world.write(writer, 0, b"lost", false).unwrap();
    world.done(FsOp::Flush { handle: writer }).unwrap();
    world.fake.fence += 1;
    (0..2).for_each(|shard| world.disconnect_shard(shard));
    world.rest(ms(100));
    world.crash_all();
    world.rest(ms(100));
    for _ in 0..2 {
        let reader = world.open(ino, OpenFlags::default()).handle;
        assert_eq!(world.done(FsOp::Flush { handle: reader }), Ok(()));
        world.done(FsOp::Release { handle: reader }).unwrap();
    }
    assert_eq!(world.sync(ino), Err(EIO));
    assert_eq!(world.done(FsOp::Flush { handle: writer }), Err(EIO));
}

/// Closing tells nobody; a flush before it does.
#[test]
fn a_failure_is_told_to_who_opens_the_file_next_when_it_was_closed_without_a_flush() {
    let mut world = World::ready(config(), 87);
    let (ino, handle) = world.create(b"a");
    world.write(handle, 0, b"lost", false).unwrap();
    world.done(FsOp::Flush { handle }).unwrap();
    world.fake.fence += 1;
    (0..2).for_each(|shard| world.disconnect_shard(shard));
    world.rest(ms(100));
    world.crash_all();
    world.rest(ms(100));
    world.done(FsOp::Release { handle }).unwrap();
    assert_eq!(world.sync(ino), Err(EIO));
    assert_eq!(world.sync(ino), Ok(()));
}
