//! Records: back as they were, whole or not there whenever the writer stops.

use weft_wire::meta::{Attr, Time};
use weft_wire::{Layout, TargetId};

use super::*;

fn write(order: u64) -> WriteRecord {
    WriteRecord {
        order,
        ino: weft_wire::Ino(7),
        offset: 1 << 40,
        bytes: 4096,
        slot: (8 << 20, 1 << 20),
        start: 80,
        memory_bytes: 1 << 20,
    }
}

fn file() -> FileRecord {
    let targets = (0..64).map(TargetId).collect();
    FileRecord {
        attr: Attr {
            ino: weft_wire::Ino(u64::MAX),
            mode: 0o100_644,
            nlink: 1,
            uid: 1,
            gid: 2,
            rdev: 0,
            size: u64::MAX,
            version: 9,
            blocks: 8,
            atime: Time::default(),
            mtime: Time { seconds: -1, nanos: 999_999_999 },
            ctime: Time::default(),
            btime: Time::default(),
        },
        inline_max: Some(4096),
        begun_max: Some(100),
        layout: Some(Layout::new(20, targets).unwrap()),
        server_opens: 3,
        writer: (4, 5),
        local_end: 6,
        local_mtime: Some(Time { seconds: 7, nanos: 8 }),
        acked_end: 9,
        untold: true,
        let_go: true,
        blocks: -1,
        error_count: 10,
        errno: 5,
    }
}

fn op(waits_for: &str) -> OpRecord {
    OpRecord {
        op: u64::MAX,
        what: "removexattr".to_owned(),
        ino: weft_wire::Ino(u64::MAX),
        pid: u32::MAX,
        state: OpState::GivenUp,
        since_ms: u64::MAX,
        state_since_ms: u64::MAX,
        waits_for: waits_for.to_owned(),
        opens: true,
    }
}

#[test]
fn records_come_back_as_they_were_and_fit_their_places() {
    let mut keep = Keep::open(KeepMemory::heap()).unwrap();
    assert!(!keep.is_used());
    keep.set_ready();
    keep.set_next_handle(77);
    keep.set_sequence(VolumeId(5), 255, 1 << 50);
    let handle = HandleRecord {
        handle: u64::MAX,
        ino: weft_wire::Ino(1),
        dir: true,
        errors_seen: u64::MAX,
        made_by: u64::MAX,
    };
    let change = Change {
        order: 1,
        volume: VolumeId(5),
        slot: 255,
        sequence: 1 << 50,
        op: 3,
        kind: weft_wire::Kind::SetXattr,
        body: vec![7; (72 << 10) - Change::HEAD_BYTES],
    };
    let text = "w".repeat(records::WAITS_FOR_BYTES_MAX + 10);
    keep.insert(Which::Ops, 1, &op(&text).encode()).unwrap();
    keep.insert(Which::Handles, 1, &handle.encode()).unwrap();
    keep.insert(Which::Files, 1, &file().encode()).unwrap();
    keep.insert(Which::Writes, 2, &write(1).encode()).unwrap();
    keep.insert(Which::Changes, 1, &change.encode()).unwrap();
    let mut again =
        Keep::open(std::mem::replace(&mut keep.memory, KeepMemory::Heap(Vec::new()))).unwrap();
    assert!(again.is_used());
    assert_eq!(again.sequences(VolumeId(5))[255], 1 << 50);
    assert!(again.sequences(VolumeId(4)).is_empty());
    let found = again.find();
    assert_eq!(found.next_handle, 77);
    assert_eq!(found.ops, vec![(0, op(&text[..records::WAITS_FOR_BYTES_MAX]))]);
    assert_eq!(found.handles, vec![(0, handle)]);
    assert_eq!(found.files, vec![(0, file())]);
    assert_eq!(found.writes, vec![(0, 2, write(1))]);
    assert_eq!(found.changes, vec![(0, change)]);
    let bytes = again.memory.bytes();
    let read = |at: u64, out: &mut [u8]| {
        let at = to_usize(at);
        out.copy_from_slice(&bytes[at..at + out.len()]);
        Ok::<(), ()>(())
    };
    assert_eq!(read_ops(read).unwrap().len(), 1);
}

#[test]
fn another_version_is_refused() {
    let mut memory = KeepMemory::heap();
    memory.bytes_mut()[8] = 99;
    assert_eq!(Keep::open(memory).unwrap_err(), WrongVersion);
}

#[test]
fn a_record_that_was_being_changed_is_as_before_and_can_be_changed_again() {
    let shape = Shape { at: 64, used_at: 0, count: 4, copies: 2, content_bytes: 104 };
    let mut bytes = vec![0; shape.end()];
    let mut table = Table::open(shape, &mut bytes);
    let at = table.insert(&mut bytes, 1, &write(1).encode()).unwrap();
    let found = |table: &Table, bytes: &[u8]| {
        let mut found = Vec::new();
        table.for_each(bytes, &mut |_, _, content| found.extend(WriteRecord::decode(content)));
        found
    };
    for round in 2..6 {
        let before = bytes.clone();
        table.update(&mut bytes, at, &write(round).encode());
        // Every cut of the stores, in either order of bytes: a part of what changed is there.
        let changed: Vec<usize> = (0..bytes.len()).filter(|at| before[*at] != bytes[*at]).collect();
        for (cut, prefix) in (0..changed.len()).flat_map(|cut| [(cut, true), (cut, false)]) {
            let mut torn = before.clone();
            for (index, at) in changed.iter().enumerate() {
                if (index < cut) == prefix {
                    torn[*at] = bytes[*at];
                }
            }
            let mut opened = Table::open(shape, &mut torn);
            let one = found(&opened, &torn);
            assert!(one == [write(round - 1)] || one == [write(round)], "{one:?}");
            opened.update(&mut torn, at, &write(1000).encode());
            assert_eq!(found(&opened, &torn), [write(1000)]);
        }
    }
}

#[test]
fn what_nobody_holds_is_freed_and_its_place_used_again() {
    let mut keep = Keep::open(KeepMemory::heap()).unwrap();
    let held = keep.hold(Which::Writes, 1, &write(1).encode()).unwrap();
    let other = keep.hold(Which::Writes, 1, &write(2).encode()).unwrap();
    drop(held);
    assert_eq!(keep.find().writes.len(), 2, "not before everything else is written");
    keep.free_dropped();
    assert_eq!(keep.find().writes, vec![(1, 1, write(2))]);
    assert_eq!(keep.insert(Which::Writes, 1, &write(3).encode()), Some(0));
    drop(other);
    let memory = std::mem::replace(&mut keep.memory, KeepMemory::Heap(Vec::new()));
    let mut again = Keep::open(memory).unwrap();
    assert_eq!(again.find().writes.len(), 2, "the record outlives its holder's process");
}
