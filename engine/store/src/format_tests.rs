//! `doc/format.md` and the golden bytes, held against the code.

use std::mem::offset_of;
use std::path::PathBuf;

use weft_wire::scrub::DamageKind;
use weft_wire::{ChunkId, ChunkIndex, ClusterId, Ino, TargetId};
use zerocopy::IntoBytes;

use crate::chunk::{Chunk, Placed, RawChunk, RawRun, Run};
use crate::damage::{self, Damages, RawDamage, RawScrub, ScrubStatus};
use crate::index::{Meta, RawMeta, raw_meta};
use crate::record::{
    self, Cut, Placement, Punch, RawHeader, RawPlacement, RawPunch, RawTruncate, Record, Stamp,
    Truncate,
};
use crate::space_rows::{RawSpaceHead, SpaceHead};
use crate::superblock::{Areas, RawSuperblock, Superblock, TargetUuid};

/// Name, offset and length of each field, in order, from the table under a heading.
fn table(heading: &str) -> Vec<(String, usize, usize)> {
    let text = include_str!("../doc/format.md");
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).expect("the heading is there");
    let section = section.split("\n## ").next().unwrap();
    let lines = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        (cells[2].to_owned(), cells[0].parse().unwrap(), cells[1].parse().unwrap())
    })
    .collect()
}

macro_rules! check {
    ($heading:literal, $raw:ty, $($field:ident)*) => {{
        let rows = table($heading);
        let names = [$(stringify!($field)),*];
        let offsets = [$(offset_of!($raw, $field)),*];
        assert_eq!(rows.len(), names.len(), $heading);
        let ends = offsets[1..].iter().copied().chain([size_of::<$raw>()]);
        for (((row, name), offset), end) in rows.iter().zip(names).zip(offsets).zip(ends) {
            assert_eq!(*row, (name.to_owned(), offset, end - offset), $heading);
        }
    }};
}

#[test]
fn the_byte_tables_are_true() {
    check!("Superblock", RawSuperblock, magic crc version cluster target_uuid target_id reserved_a
        block_bytes capacity_bytes copy_b_offset journal_offset segment_bytes segment_count
        reserved_b data_offset data_block_count);
    check!("Journal record header", RawHeader,
        crc body_bytes nonce generation sequence kind reserved);
    check!("Placement", RawPlacement, ino chunk_index run_count reserved);
    check!("Run", RawRun, first count device_block);
    check!("Truncate", RawTruncate, ino remove_from cut_index tail_device_block cut_keep_blocks
        tail_sum flags reserved);
    check!("Punch", RawPunch, ino chunk_index first count);
    check!("Chunk head", RawChunk, format run_count version);
    check!("Index meta", RawMeta,
        magic version loss_count cluster target_uuid applied generation boot_id);
    check!("Space head", RawSpaceHead, magic applied block_count used_count);
    check!("Scrub head", RawScrub, magic flags damage_count bytes_per_second started_s finished_s
        checked_bytes total_bytes checked_chunks position_ino position_chunk found_blocks
        unlisted_blocks index_gaps superblocks_bad superblocks_repaired reserved);
    check!("Damage", RawDamage, ino chunk_index first count kind reserved);
}

#[test]
fn the_areas_are_as_documented_and_do_not_overlap() {
    for capacity in [8 << 20, (1 << 30) + 12_345, 1 << 40, 16 << 40] {
        let areas = Areas::of_capacity(capacity).unwrap();
        let journal = (areas.capacity_bytes / 64).clamp(4 << 20, 128 << 20);
        assert_eq!(areas.journal_offset, 1_048_576);
        assert_eq!(areas.segment_bytes, journal / 2 / 4096 * 4096);
        let journal_end = areas.journal_offset + 2 * areas.segment_bytes;
        assert_eq!(areas.data_offset, journal_end.next_multiple_of(1 << 20));
        let data_end = areas.data_offset + areas.data_block_count * 4096;
        assert_eq!(data_end, areas.copy_b_offset);
        assert_eq!(areas.copy_b_offset + 4096, capacity / 4096 * 4096);
    }
    assert!(Areas::of_capacity((8 << 20) - 1).is_err());
}

/// Compares with the file; `WEFT_GOLDEN=add` makes a missing one.
fn golden(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if !path.exists() && std::env::var("WEFT_GOLDEN").is_ok_and(|value| value == "add") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}");
}

fn counting(first: u8) -> [u8; 16] {
    std::array::from_fn(|at| first + u8::try_from(at).unwrap())
}

#[test]
fn the_bytes_are_those_of_version_1() {
    let superblock = Superblock {
        cluster: ClusterId(counting(1)),
        target_uuid: TargetUuid(counting(17)),
        target_id: TargetId(0x0102),
        areas: Areas::of_capacity(1 << 30).unwrap(),
    };
    let block = superblock.encode();
    golden("superblock.v1.bin", &block);
    assert_eq!(Superblock::decode(&block, 0).unwrap(), superblock);

    let chunk = ChunkId { ino: Ino(0x0001_0000_0000_0007), index: ChunkIndex(9) };
    let runs = vec![
        Run { first: 0, count: 2, device_block: 1000 },
        Run { first: 5, count: 1, device_block: 77 },
    ];
    let placement = Placement { chunk, runs, sums: vec![0x1111_1111, 0x2222_2222, 0x3333_3333] };
    let tail = Some(Placed { device_block: 5, sum: 0x4444_4444 });
    let cut = Some(Cut { index: ChunkIndex(3), keep_blocks: 2, tail });
    let truncate = Truncate { ino: chunk.ino, remove_from: ChunkIndex(4), cut };
    for (name, record) in [
        ("start", Record::Start { applied: 41 }),
        ("mark", Record::Mark { durable: 40 }),
        ("write", Record::Write(placement.clone())),
        ("intent", Record::Intent(placement.clone())),
        ("truncate", Record::Truncate(truncate)),
        ("punch", Record::Punch(Punch { chunk, first: 3, count: 7 })),
    ] {
        let stamp = Stamp { nonce: superblock.nonce(), generation: 3, sequence: 42 };
        let mut bytes = Vec::new();
        record::encode(stamp, record.as_entry(), &mut bytes);
        golden(&format!("record_{name}.v1.bin"), &bytes);
    }
    let mut record = Chunk::default();
    for (block, placed) in placement.blocks() {
        record.set(block, placed);
    }
    record.touch();
    golden("chunk.v1.bin", &record.encode());
    let meta = Meta {
        cluster: superblock.cluster,
        target_uuid: superblock.target_uuid,
        applied: 41,
        generation: 3,
        boot_id: counting(33),
        loss_count: 0,
    };
    golden("index_meta.v1.bin", raw_meta(&meta).as_bytes());
    let head = SpaceHead { applied: 41, block_count: 1000, used_count: 3 };
    golden("space_head.v1.bin", head.raw().as_bytes());
}

#[test]
fn the_scrub_row_is_that_of_version_1() {
    let chunk = ChunkId { ino: Ino(0x0001_0000_0000_0007), index: ChunkIndex(9) };
    let mut damages = Damages::default();
    for block in 5..8 {
        damages.add(chunk, block, DamageKind::Mismatch);
    }
    damages.add(chunk, 8, DamageKind::Unreadable);
    damages.add_gap(chunk);
    let status = ScrubStatus {
        running: true,
        bytes_per_second: 64 << 20,
        started_s: 0x1111,
        finished_s: 0x2222,
        checked_bytes: 0x3333,
        total_bytes: 0x4444,
        checked_chunks: 0x5555,
        position: Some(chunk),
        found_blocks: 4,
        index_gaps: 1,
        superblocks_bad: 2,
        superblocks_repaired: 3,
        listed_blocks: 4,
        unlisted_blocks: 6,
    };
    let row = damage::encode(&status, &damages);
    golden("scrub.v1.bin", &row);
    assert_eq!(damage::decode(&row).unwrap().0, status);
}
