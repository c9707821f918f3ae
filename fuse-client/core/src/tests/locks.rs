//! Locks over lost connections: what is claimed, what was lost, what nobody waits for any more.

use std::time::Duration;

use weft_wire::locks::{LockKind, LockOwner, LockRange, LockSpace};
use weft_wire::{Ino, Kind};

use super::fake::Fake;
use super::world::{World, config};
use crate::state::errno::{EINTR, EIO};
use crate::{FsOp, FsReply, Handle, LockAsked, OpenFlags};

const OWNER: LockOwner = LockOwner { space: LockSpace::Range, id: 7 };

fn opened(world: &mut World) -> (Ino, Handle) {
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let name = b"file".to_vec();
    let reply =
        world.run(FsOp::Create { parent: Ino::ROOT, name, mode: 0o100_644, umask: 0, flags });
    let Ok(FsReply::Created(attr, _, opened)) = reply else { panic!("{reply:?}") };
    (attr.ino, opened.handle)
}

fn asked((ino, handle): (Ino, Handle), range: (u64, u64), kind: Option<LockKind>) -> LockAsked {
    let range = LockRange::new(range.0, range.1).unwrap();
    LockAsked { ino, handle, owner: OWNER, pid: 3, range, kind, wait: true }
}

/// What the server was asked to make of bytes, in order.
fn told(fake: &Fake) -> Vec<(u64, u64, Option<LockKind>)> {
    fake.locks.iter().map(|lock| (lock.range.start, lock.range.end, lock.kind)).collect()
}

const ALONE: Option<LockKind> = Some(LockKind::Exclusive);
const SHARED: Option<LockKind> = Some(LockKind::Shared);

#[test]
fn what_was_held_is_claimed_and_what_was_lost_is_told_once() {
    let mut world = World::ready(config(), 1);
    let file = opened(&mut world);
    assert!(world.run(FsOp::Lock(asked(file, (0, 9), ALONE))).is_ok());
    world.crash(0);
    assert!(world.run(FsOp::Lock(asked(file, (20, 29), ALONE))).is_ok(), "the claim was taken");
    assert_eq!(world.fake.counts[&Kind::LockClaim], 1);
    world.fake.refuse_claims = true;
    world.crash(0);
    assert!(world.run(FsOp::GetAttr { ino: file.0, handle: None }).is_ok());
    let fsync = world.run(FsOp::Fsync { handle: file.1, datasync: false });
    assert_eq!(fsync.unwrap_err(), EIO, "somebody else may have written");
    let unlock = world.run(FsOp::Lock(asked(file, (0, 9), None)));
    assert_eq!(unlock.unwrap_err(), EIO);
    assert!(!world.core.has_locks(file.0, OWNER), "all of it is given up");
    assert!(world.run(FsOp::Lock(asked(file, (0, 9), ALONE))).is_ok());
}

#[test]
fn an_unlock_of_nothing_asks_nobody_and_a_close_gives_up_what_is_there() {
    let mut world = World::ready(config(), 2);
    let file = opened(&mut world);
    assert!(world.run(FsOp::Lock(asked(file, (0, 9), None))).is_ok());
    assert_eq!(told(&world.fake), []);
    assert!(world.run(FsOp::Lock(asked(file, (0, 9), SHARED))).is_ok());
    assert!(world.run(FsOp::Release { handle: file.1 }).is_ok());
    while told(&world.fake).len() < 2 {
        world.step();
    }
    assert_eq!(told(&world.fake), [(0, 9, SHARED), (0, u64::MAX, None)]);
}

#[test]
fn a_lock_that_nobody_waits_for_any_more_is_undone() {
    let mut world = World::ready(config(), 3);
    let file = opened(&mut world);
    assert!(world.run(FsOp::Lock(asked(file, (4, 5), SHARED))).is_ok());
    assert!(world.run(FsOp::Lock(asked(file, (8, 20), SHARED))).is_ok());
    world.fake.locks.clear();
    // The server is away: the program need not wait for it. When it is back, it grants what it is asked.
    world.down = true;
    world.crash(0);
    let waiting = world.ask(FsOp::Lock(asked(file, (0, 9), ALONE)));
    assert!(world.core.interrupt(waiting, world.now));
    world.drain();
    assert_eq!(world.wait(waiting).unwrap_err(), EINTR);
    world.down = false;
    while told(&world.fake).len() < 5 {
        world.step();
    }
    let restored = [(0, 9, ALONE), (0, 3, None), (4, 5, SHARED), (6, 7, None), (8, 9, SHARED)];
    assert_eq!(told(&world.fake), restored);
    assert!(world.run(FsOp::GetAttr { ino: file.0, handle: None }).is_ok());
    assert_eq!(told(&world.fake).len(), 5, "once");
}

#[test]
fn what_waits_is_asked_for_again_after_a_reconnect_and_what_was_withdrawn_is_not() {
    let mut world = World::ready(config(), 4);
    let file = opened(&mut world);
    world.fake.queue_locks = true;
    let first = world.ask(FsOp::Lock(asked(file, (0, 9), ALONE)));
    let second = world.ask(FsOp::Lock(asked(file, (20, 29), ALONE)));
    while told(&world.fake).len() < 2 || !world.fake.counts.contains_key(&Kind::LockEvents) {
        world.step();
    }
    world.rest(Duration::from_millis(50)); // Both know that they wait.
    world.down = true;
    world.crash(0);
    assert!(world.core.interrupt(second, world.now));
    world.drain();
    assert_eq!(world.wait(second).unwrap_err(), EINTR);
    world.down = false;
    world.fake.queue_locks = false;
    assert!(world.wait(first).is_ok());
    assert!(world.run(FsOp::GetAttr { ino: file.0, handle: None }).is_ok());
    assert_eq!(told(&world.fake)[2..], [(0, 9, ALONE)]);
}
