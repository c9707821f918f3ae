//! What `weft mount ops` reads of an operation, in each of its states.

use weft_wire::{Ino, Kind, Status, TargetId};

use super::ms;
use super::world::{World, config};
use crate::keep::read_ops;
use crate::records::{OpRecord, OpState};
use crate::{FsOp, OpId};

/// The record of an operation, as another process finds it in the memory now.
fn record(world: &World, id: OpId) -> Option<OpRecord> {
    let memory = world.core.keep.as_ref().expect("it keeps").bytes();
    let read = |at: u64, bytes: &mut [u8]| {
        let at = usize::try_from(at).unwrap();
        bytes.copy_from_slice(&memory[at..at + bytes.len()]);
        Ok::<(), ()>(())
    };
    read_ops(read).unwrap().into_iter().find(|op| op.op == id.0)
}

fn state(world: &World, id: OpId) -> Option<OpState> {
    record(world, id).map(|op| op.state)
}

const ATTR: FsOp = FsOp::GetAttr { ino: Ino::ROOT, handle: None };

#[test]
fn asked_and_answered_and_told() {
    let mut world = World::keeping(config(), 50);
    let statfs = world.ask(FsOp::StatFs);
    assert_eq!(state(&world, statfs), Some(OpState::InProgress));
    world.wait(statfs).unwrap();
    // The client-core may hang just here, as long as it writes to the kernel.
    let serviced = record(&world, statfs).unwrap();
    assert_eq!((serviced.state, serviced.waits_for.as_str()), (OpState::Serviced, ""));
    let now_ms = u64::try_from(world.now.as_millis()).unwrap();
    assert!(serviced.since_ms <= serviced.state_since_ms && serviced.state_since_ms <= now_ms);
    world.core.replied();
    assert_eq!(state(&world, statfs), None, "it is over");
    let next = world.ask(FsOp::StatFs);
    assert_eq!(state(&world, next), Some(OpState::InProgress), "not what its place held before");
}

#[test]
fn an_answer_that_no_kernel_heard_is_asked_for_again() {
    let mut world = World::keeping(config(), 51);
    let id = world.ask(ATTR);
    world.wait(id).unwrap();
    assert_eq!(state(&world, id), Some(OpState::Serviced));
    let dead = record(&world, id).unwrap().without_core();
    assert_eq!((dead.state, dead.waits_for.as_str()), (OpState::Unknown, "a client-core"));
    world.take_over();
    assert_eq!(state(&world, id), Some(OpState::Purged));
}

#[test]
fn one_in_progress_whose_client_core_dies_is_purged_and_keeps_its_time() {
    let mut world = World::keeping(config(), 52);
    let id = world.ask(FsOp::StatFs);
    let asked = record(&world, id).unwrap();
    world.now += ms(5000);
    world.take_over();
    let purged = record(&world, id).unwrap();
    assert_eq!((purged.state, purged.since_ms), (OpState::Purged, asked.since_ms));
    assert!(purged.state_since_ms >= asked.since_ms + 5000);
}

#[test]
fn what_waits_says_for_what() {
    let mut world = World::keeping(config(), 53);
    let (_, handle) = world.create(b"a");
    (0..3).for_each(|id| {
        world.fake.write_status.insert(TargetId(id), Status::Busy);
    });
    world.write(handle, 0, b"data", false).unwrap();
    let fsync = world.ask(FsOp::Fsync { handle, datasync: false });
    world.rest(ms(2000));
    let waiting = record(&world, fsync).unwrap();
    let told = (waiting.state, waiting.waits_for.as_str());
    assert_eq!(told, (OpState::Waiting, "targets to make data durable"));
    assert!(waiting.state_since_ms >= waiting.since_ms);
    world.fake.write_status.clear();
    world.wait(fsync).unwrap();
    assert_eq!(state(&world, fsync), Some(OpState::Serviced));
}

#[test]
fn one_that_was_given_up_is_so_until_the_server_has_answered() {
    let mut world = World::keeping(config(), 54);
    let unlink = FsOp::Unlink { parent: Ino::ROOT, name: b"none".to_vec() };
    let id = world.ask(unlink);
    assert_eq!(state(&world, id), Some(OpState::InProgress));
    // A signal, and a server that does not answer in time.
    world.core.interrupt(id, world.now);
    world.advance(ms(1001));
    assert!(world.replies.contains_key(&id), "the program goes on");
    world.core.replied();
    assert_eq!(state(&world, id), Some(OpState::GivenUp), "a server may still do it");
    world.rest(ms(100));
    assert_eq!(world.count(Kind::Unlink), 1, "it did");
    assert_eq!(state(&world, id), None);
}
