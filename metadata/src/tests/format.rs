//! The bytes of every record, and the tables of `doc/format.md`.

use super::*;
use crate::ended::{End, RawEnd};
use crate::log::{Command, RawBatch, RawCommand, encode_batch};
use crate::record::{
    DataAt, Entry, Identity, Inode, Outcome, RawEntry, RawIdentity, RawInode, RawSlot, RawState,
    RawWork, State, Tail, xattr_key,
};
use std::mem::offset_of;
use weft_wire::layout::LayoutPolicy;
use weft_wire::meta::{Attr, FileKind};
use weft_wire::{ChunkIndex, Layout, VolumeId};

fn attr(mode: u32) -> Attr {
    let time = |n: i64| Time { seconds: -1 - n, nanos: 0x0102 + u32::try_from(n).unwrap() };
    Attr {
        ino: Ino(0x0a0b),
        mode,
        nlink: 2,
        uid: 3,
        gid: 4,
        rdev: 5,
        size: 6,
        blocks: 10,
        version: 7,
        atime: time(0),
        mtime: time(1),
        ctime: time(2),
        btime: time(3),
    }
}

fn layout() -> Layout {
    Layout::new(20, vec![TargetId(1), TargetId(0x0203)]).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

const FIXED: &str = "02000000030000000400000005000000060000000000000007000000000000\
    00fffffffffffffffffefffffffffffffffdfffffffffffffffcffffffffffffff0201000003010000040100000501000008000000090000000a00000000000000";

#[test]
fn inodes_have_these_bytes() {
    for (mode, start, tail, tail_hex) in [
        (0o100_644, "01000000a4810000", Tail::File(layout(), DataAt::Targets), "140201000302"),
        (
            0o100_644,
            "01000000a4810000",
            Tail::File(layout(), DataAt::Inode { bytes_max: 0x0102 }),
            "140201000302010201",
        ),
        (
            0o100_644,
            "01000000a4810000",
            Tail::File(layout(), DataAt::Moving { bytes_max: 4096 }),
            "140201000302020010",
        ),
        (
            0o100_644,
            "01000000a4810000",
            Tail::File(layout(), DataAt::MovingOld { bytes_max: 1 }),
            "140201000302030100",
        ),
        (
            0o040_755,
            "01000000ed410000",
            Tail::Directory {
                parent: Ino(0x0c0d),
                policy: LayoutPolicy { chunk_log2: 16, width: 9, inline_bytes: 4096 },
            },
            "0d0c0000000000001009",
        ),
        (
            0o040_755,
            "01000000ed410000",
            Tail::Directory {
                parent: Ino(0x0c0d),
                policy: LayoutPolicy { chunk_log2: 16, width: 9, inline_bytes: 0x0102 },
            },
            "0d0c00000000000010090201",
        ),
        (0o120_777, "01000000ffa10000", Tail::Symlink(b"ab".to_vec()), "6162"),
        (0o010_600, "0100000080110000", Tail::Special, ""),
    ] {
        let inode =
            Inode { attr: attr(mode), blocks: 10, xattr_count: 8, xattr_list_bytes: 9, tail };
        let bytes = inode.encode();
        assert_eq!(hex(&bytes), format!("{start}{FIXED}{tail_hex}"));
        assert_eq!(Inode::decode(Ino(0x0a0b), &bytes), Some(inode));
        // Nothing shorter, longer (but a longer link) or of another format is an inode.
        for short in 0..bytes.len().min(105) {
            assert_eq!(Inode::decode(Ino(1), &bytes[..short]), None.filter(|_: &Inode| short == 0));
        }
        for (at, value) in [(0, 2), (2, 1), (75, 0xff), (7, 0xff)] {
            let mut bad = bytes.clone();
            bad[at] = value;
            assert_eq!(Inode::decode(Ino(1), &bad), None, "byte {at}");
        }
    }
}

#[test]
fn where_data_is_is_known_and_fits() {
    let tail = Tail::File(layout(), DataAt::Inode { bytes_max: 4096 });
    let attr = attr(0o100_644);
    let bytes = Inode { attr, blocks: 10, xattr_count: 0, xattr_list_bytes: 0, tail }.encode();
    assert!(Inode::decode(Ino(1), &bytes).is_some());
    for place in 1..5 {
        let mut good = bytes.clone();
        let at = good.len() - 3;
        good[at] = place;
        assert_eq!(Inode::decode(Ino(1), &good).unwrap().encode(), good);
    }
    for (place, bytes_max) in [(0, 1), (5, 1), (1, 0), (2, 4097), (3, 0xffff_u16)] {
        let mut bad = bytes.clone();
        let at = bad.len() - 3;
        bad[at] = place;
        bad[at + 1..].copy_from_slice(&bytes_max.to_le_bytes());
        assert_eq!(Inode::decode(Ino(1), &bad), None, "{place} {bytes_max}");
    }
    assert_eq!(Inode::decode(Ino(1), &bytes[..bytes.len() - 1]), None);
    assert_eq!(Inode::decode(Ino(1), &[&bytes[..], &[0]].concat()), None);
}

#[test]
fn entries_works_and_slots_have_these_bytes() {
    let entry = Entry { ino: Ino(0x0102), kind: FileKind::Directory, name: b"ab" };
    assert_eq!(hex(&entry.encode()), "02010000000000000100000000400000".to_owned() + "6162");
    assert_eq!(Entry::decode(&entry.encode()), Some(entry));
    assert_eq!(Entry::decode(&entry.encode()[..16]), None, "a name is not empty");
    let cut = Some((ChunkIndex(4), 5));
    let work = Work {
        id: 9,
        ino: Ino(2),
        layout: layout(),
        remove_from: ChunkIndex(3),
        cut,
        shrink: true,
        uncounted: false,
    };
    let bytes = work.encode();
    let golden = "01000300050000000200000000000000030000000000000004000000000000000";
    assert_eq!(hex(&bytes), golden[..64].to_owned() + "140201000302");
    assert_eq!(Work::decode(9, &bytes), Some(work));
    assert_eq!(Work::decode(9, &bytes[..37]), None);
    let outcome =
        Outcome { sequence: 2, status: Status::Exists, work: 3, opened: Ino(4), body: vec![5] };
    let bytes = outcome.encode();
    let golden = "010007000000000002000000000000000300000000000000040000000000000005";
    assert_eq!(hex(&bytes), golden);
    assert_eq!(Outcome::decode(&bytes), Some(outcome));
    let end = End { count: 1, sequence: 2, ..End::default() };
    assert_eq!(hex(&end.encode()), "01000000010000000200000000000000");
    assert_eq!(End::decode(&end.encode()), Some(end));
    let fenced = End { fences: 0x0304, late: true, ..end };
    assert_eq!(hex(&fenced.encode()), "01000483010000000200000000000000");
    assert_eq!(End::decode(&fenced.encode()), Some(fenced));
    assert_eq!(hex(&xattr_key(Ino(0x0102), b"user.a")), "0000000000000102757365722e61");
    assert_eq!(hex(&crate::record::entry_key(Ino(1), 0x0203)), "00000000000000010000000000000203");
}

fn identity() -> Identity {
    Identity {
        cluster: ClusterId([1; 16]),
        volume: VolumeId(2),
        hash_seed: [3; 16],
        log_nonce: 4,
        segment_bytes: 1 << 20,
    }
}

#[test]
fn volume_and_state_have_these_bytes() {
    let bytes = identity().encode();
    let (ones, threes) = ("01".repeat(16), "03".repeat(16));
    let golden =
        format!("574546544d4554410300020000001000{ones}{threes}04000000000000000000000000000000");
    assert_eq!(hex(&bytes), golden);
    assert_eq!(Identity::decode(&bytes), Some(Ok(identity())));
    let mut newer = bytes.clone();
    newer[8] = 1;
    assert_eq!(Identity::decode(&newer), Some(Ok(identity())), "without data in inodes");
    newer[8] = 2;
    assert_eq!(Identity::decode(&newer), Some(Ok(identity())), "without fresh files");
    newer[8] = 4;
    assert_eq!(Identity::decode(&newer), Some(Err(4)));
    newer[8] = 0;
    assert_eq!(Identity::decode(&newer), Some(Err(0)));
    let targets = vec![TargetId(6), TargetId(7)];
    let state =
        State { applied: 1, generation: 2, next_counter: 3, next_work: 4, live_bytes: 5, targets };
    let bytes = state.encode();
    let golden = "0100020000000000010000000000000002000000000000000300000000000000\
        0400000000000000050000000000000006000700";
    assert_eq!(hex(&bytes), golden);
    assert_eq!(State::decode(&bytes), Some(state));
    assert_eq!(State::decode(&bytes[..50]), None);
}

#[test]
fn batches_have_these_bytes() {
    let command = Command {
        sequence: 9,
        session: SessionId([1; 16]),
        now: Time { seconds: 2, nanos: 3 },
        kind: crate::log::WORKS_DONE,
        body: vec![0xaa],
    };
    let bytes = encode_batch(&identity(), 5, 7, std::slice::from_ref(&command));
    assert_eq!(bytes.len(), 4096);
    let head = "574c4f47020000000100000004000000000000000500000000000000090000000000000031000000";
    assert_eq!(hex(&bytes[4..44]), head);
    assert_eq!(hex(&bytes[48..64]), "07000000000000000000000000000000");
    let ones = "01".repeat(16);
    let body = format!("090000000000000002000000000000000300000002ff0000{ones}0100000000000000aa");
    assert_eq!(hex(&bytes[64..113]), body);
    assert!(bytes[113..].iter().all(|b| *b == 0));
    assert_eq!(weft_wire::blocks::crc32c(&bytes[4..64]).to_le_bytes(), bytes[..4]);
    assert_eq!(weft_wire::blocks::crc32c(&bytes[64..113]).to_le_bytes(), bytes[44..48]);
    assert_eq!(parse(&bytes), [command]);
}

fn parse(bytes: &[u8]) -> Vec<Command> {
    crate::log::parse_batch(bytes)
}

/// Each line of a table in the document is `| offset | bytes | field | ...`.
#[test]
fn the_document_has_the_offsets_of_the_code() {
    let doc = include_str!("../../doc/format.md");
    let has = |record: &str, field: &str, offset: usize, bytes: usize| {
        let section = doc.split("\n## ").find(|s| s.starts_with(record)).expect("a section each");
        let line = format!("| {offset} | {bytes} | {field} |");
        assert!(section.contains(&line), "{record}: {line}");
    };
    macro_rules! held {
        ($record:literal, $raw:ty, $($field:ident: $bytes:literal),*) => {
            $(has($record, stringify!($field), offset_of!($raw, $field), $bytes);)*
            assert_eq!(size_of::<$raw>(), 0 $(+ $bytes)*, "no field is left out");
        };
    }
    held!("Inode", RawInode, format: 2, reserved: 2, mode: 4, nlink: 4, uid: 4, gid: 4, rdev: 4, size: 8,
        version: 8, seconds: 32, nanos: 16, xattr_count: 4, xattr_list_bytes: 4, blocks: 8);
    held!("Entry", RawEntry, ino: 8, format: 2, reserved: 2, kind: 4);
    held!("Work", RawWork, format: 2, flags: 2, cut_bytes: 4, ino: 8, remove_from: 8, cut_index: 8);
    held!("Slot", RawSlot, format: 2, status: 2, reserved: 4, sequence: 8, work: 8, opened: 8);
    held!("End", RawEnd, format: 2, fences: 2, count: 4, sequence: 8);
    held!("Volume", RawIdentity, magic: 8, format: 2, volume: 2, segment_bytes: 4, cluster: 16,
        hash_seed: 16, log_nonce: 8, reserved: 8);
    held!("State", RawState, format: 2, target_count: 2, reserved: 4, applied: 8, generation: 8,
        next_counter: 8, next_work: 8, live_bytes: 8);
    held!("Batch", RawBatch, checksum: 4, magic: 4, format: 2, reserved: 2, command_count: 4, nonce: 8,
        generation: 8, first_sequence: 8, body_bytes: 4, body_checksum: 4, durable_below: 8, reserved_tail: 8);
    held!("Command", RawCommand, sequence: 8, seconds: 8, nanos: 4, kind: 2, reserved: 2, session: 16,
        body_bytes: 4, reserved_tail: 4);
}
