//! On real files: what was written and synced is there after opening again, whichever way it went.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use weft_store::{FormatParams, OpenParams, Outcome, ReadPiece, TargetUuid};
use weft_wire::blocks::{BLOCK_BYTES, crc32c};
use weft_wire::data::ChunkRange;
use weft_wire::{ChunkId, ChunkIndex, ClusterId, Ino, TargetId};

use super::*;

const TARGET_BYTES: u64 = 64 << 20;
const CLUSTER: ClusterId = ClusterId([7; 16]);

struct Place {
    // Removed when dropped.
    _dir: tempfile::TempDir,
    target: PathBuf,
    index: PathBuf,
}

impl Place {
    /// A formatted target in a file.
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let (target, index) = (dir.path().join("target"), dir.path().join("index"));
        let file = File::options().create_new(true).read(true).write(true).open(&target).unwrap();
        file.set_len(TARGET_BYTES).unwrap();
        let params = FormatParams {
            cluster: CLUSTER,
            target_uuid: TargetUuid([3; 16]),
            target_id: TargetId(1),
            capacity_bytes: TARGET_BYTES,
        };
        format(&file, &target, &params, &index).unwrap();
        Place { _dir: dir, target, index }
    }

    fn open(&self, options: Options) -> (Runner, Vec<String>) {
        let store = OpenParams::new(self.index.clone(), CLUSTER);
        let params = RunnerParams { store, options, pool_bytes: 16 << 20, slot_bytes_max: 8 << 20 };
        let (runner, _, notes) = Runner::open(&self.target, params).unwrap();
        (runner, notes)
    }
}

fn range(index: u64, blocks: u32) -> ChunkRange {
    let chunk = ChunkId { ino: Ino(5), index: ChunkIndex(index) };
    ChunkRange { chunk, offset: 0, bytes: blocks * BLOCK_BYTES }
}

fn block(seed: u8) -> Vec<u8> {
    (0..4096u32).map(|at| seed ^ u8::try_from(at % 251).unwrap()).collect()
}

fn answer(runner: &mut Runner) -> Reply {
    for _ in 0..1000 {
        if let Some(reply) = runner.next_reply() {
            return reply;
        }
        runner.turn(Duration::from_secs(5)).unwrap();
    }
    panic!("no answer");
}

fn write(runner: &mut Runner, index: u64, seed: u8) {
    let mut payload = runner.pool().alloc(4096).unwrap();
    payload.as_mut_slice()[..4096].copy_from_slice(&block(seed));
    let sums = vec![crc32c(&block(seed))];
    runner.with_store(|store, pool, out| store.write(1, range(index, 1), sums, payload, pool, out));
    assert!(matches!(answer(runner).result, Ok(Outcome::Written { .. })));
}

fn read(runner: &mut Runner, index: u64) -> Vec<u8> {
    runner.with_store(|store, pool, out| store.read(2, range(index, 1), pool, out));
    let Ok(Outcome::Read { pieces, .. }) = answer(runner).result else { panic!("no data") };
    match &pieces[..] {
        [ReadPiece::Data { slot, .. }] => slot.as_slice()[..4096].to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_written_is_there_after_opening_again() {
    let place = Place::new();
    let (mut runner, notes) = place.open(Options::default());
    assert_eq!((runner.data_path(), notes), (DataPath::Direct, Vec::new()));
    for index in 0..8 {
        write(&mut runner, index, u8::try_from(index).unwrap());
    }
    write(&mut runner, 3, 99); // in place: an intent, a flush, then the data
    runner.with_store(|store, _, out| store.sync(3, Ino(5), out));
    assert!(matches!(answer(&mut runner).result, Ok(Outcome::Synced)));
    runner.shutdown().unwrap();
    let (mut runner, _) = place.open(Options::default());
    for index in 0..8 {
        let seed = if index == 3 { 99 } else { u8::try_from(index).unwrap() };
        assert_eq!(read(&mut runner, index), block(seed), "chunk {index}");
    }
    runner.shutdown().unwrap();
}

#[test]
fn a_device_without_queues_for_polling_is_told_once_and_works() {
    let place = Place::new();
    let (mut runner, notes) = place.open(Options { io_poll: Wish::On, passthrough: Wish::On });
    assert_eq!(runner.data_path(), DataPath::Direct);
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].starts_with("io_poll is not used"), "{notes:?}");
    assert!(notes[1].starts_with("passthrough is not used"), "{notes:?}");
    write(&mut runner, 0, 1);
    assert_eq!(read(&mut runner, 0), block(1));
    runner.shutdown().unwrap();
}

#[test]
fn a_target_in_use_and_a_file_that_is_none_are_told_apart() {
    let place = Place::new();
    let file = File::open(&place.target).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(BlockingDevice::open(&place.target).unwrap_err().kind, Kind::InUse);
    let store = OpenParams::new(place.index.clone(), CLUSTER);
    let params = RunnerParams {
        store,
        options: Options::default(),
        pool_bytes: 16 << 20,
        slot_bytes_max: 8 << 20,
    };
    let none = place.index.join("none");
    assert_eq!(Runner::open(&none, params.clone()).unwrap_err().kind, Kind::Device);
    let zeros = place.target.with_extension("zeros");
    File::create(&zeros).unwrap().set_len(TARGET_BYTES).unwrap();
    let error = Runner::open(&zeros, params).unwrap_err();
    assert_eq!(error.kind, Kind::Store);
    assert_eq!(error.store().unwrap().kind, weft_store::Kind::Foreign);
}

#[test]
fn a_sync_of_the_first_of_many_writes_covers_them_all() {
    let place = Place::new();
    let (mut runner, _) = place.open(Options::default());
    let flushes = runner.store().counters().flushes;
    let count = 8;
    for index in 0..count {
        let payload = runner.pool().alloc(4096).unwrap();
        let sums = vec![crc32c(&payload.as_slice()[..4096])];
        runner.with_store(|store, pool, out| {
            store.write(index, range(index, 1), sums, payload, pool, out);
        });
    }
    let mut ended = 0;
    assert!(matches!(answer(&mut runner).result, Ok(Outcome::Written { .. })));
    runner.with_store(|store, _, out| store.sync(100, Ino(5), out));
    loop {
        match answer(&mut runner).result {
            Ok(Outcome::Written { .. }) => ended += 1,
            Ok(Outcome::Synced) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ended + 1, count, "the flush waited for those on the device");
    runner.with_store(|store, _, out| store.sync(101, Ino(5), out));
    assert!(matches!(answer(&mut runner).result, Ok(Outcome::Synced)));
    assert_eq!(runner.store().counters().flushes - flushes, 1, "and no other was needed");
    runner.shutdown().unwrap();
}
