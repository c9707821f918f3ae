//! The bytes on the wire are what `doc/format.md` and the golden file say.

use std::collections::BTreeMap;

use crate::samples;
use weft_wire::codec::{Reader, WireErrorKind};
use weft_wire::header::{HEADER_BYTES, Header};
use weft_wire::layout::LayoutPolicy;
use weft_wire::meta::{Caller, DataWrite, MetaReply, MetaRequest, Time};
use weft_wire::{Ino, Kind, LeaseBits, Status};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// To add the samples of a new message: `WEFT_GOLDEN_ADD=1 cargo test -p weft-wire --test wire`. Existing lines
/// are never changed by it.
#[test]
fn every_message_has_its_golden_bytes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.txt");
    let mut text = std::fs::read_to_string(path).unwrap_or_default();
    let known: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, hex)| (name.to_owned(), hex.to_owned()))
        .collect();
    for sample in samples::all() {
        let bytes = hex(&samples::frame(&sample));
        match known.get(&sample.0) {
            Some(golden) => assert_eq!(*golden, bytes, "{} changed its bytes", sample.0),
            None if std::env::var_os("WEFT_GOLDEN_ADD").is_some() => {
                text += &format!("{} {bytes}\n", sample.0);
            }
            None => panic!("{} has no golden bytes: see the comment here", sample.0),
        }
    }
    if std::env::var_os("WEFT_GOLDEN_ADD").is_some() {
        std::fs::write(path, text).expect("the source tree is writable");
    }
}

fn header() -> Header {
    Header {
        kind: Kind::Ping,
        reply: false,
        status: Status::Ok,
        lease: LeaseBits::NONE,
        request_id: 0,
        epoch: 0,
        deadline_ms: 0,
        credits: 0,
        shard: 0,
        body_bytes: 0,
        payload_bytes: 0,
        body_checksum: 0,
    }
}

/// Bytes that change, outside the checksum, when `change` is made to a header.
fn changed(change: impl FnOnce(&mut Header)) -> Vec<usize> {
    let (before, mut after) = (header(), header());
    change(&mut after);
    let (before, after) = (before.encode(), after.encode());
    (4..HEADER_BYTES).filter(|at| before[*at] != after[*at]).collect()
}

#[test]
fn the_header_table_is_the_header() {
    let doc = include_str!("../../doc/format.md");
    let mut rows = BTreeMap::new();
    let mut next = 0;
    let table = doc.split("## Header").nth(1).and_then(|rest| rest.split("## Bodies").next());
    for line in table.expect("both headings are there").lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, offset, bytes, field, ..] = cells[..]
            && let (Ok(offset), Ok(bytes)) = (offset.parse::<usize>(), bytes.parse::<usize>())
        {
            assert_eq!(offset, next, "{field} follows the one before");
            next += bytes;
            rows.insert(field.to_owned(), (offset..offset + bytes).collect::<Vec<_>>());
        }
    }
    assert_eq!(next, HEADER_BYTES);
    let all = [
        ("request_id", changed(|h| h.request_id = u64::MAX)),
        ("epoch", changed(|h| h.epoch = u64::MAX)),
        ("body_checksum", changed(|h| h.body_checksum = u32::MAX)),
        ("body_bytes", changed(|h| h.body_bytes = u32::MAX)),
        ("payload_bytes", changed(|h| h.payload_bytes = u32::MAX)),
        ("credits", changed(|h| h.credits = u32::MAX)),
        ("deadline_ms", changed(|h| h.deadline_ms = u32::MAX)),
        ("shard", changed(|h| h.shard = u16::MAX)),
    ];
    for (field, bytes) in all {
        assert_eq!(rows[field], bytes, "{field}");
    }
    for (field, bytes) in [
        ("kind", changed(|h| h.kind = Kind::Hello)),
        ("flags", changed(|h| h.reply = true)),
        ("flags", changed(|h| h.lease = LeaseBits::READ.with(LeaseBits::NAMES))),
        ("status", changed(|h| h.status = Status::Io)),
    ] {
        assert!(!bytes.is_empty() && bytes.iter().all(|at| rows[field].contains(at)), "{field}");
    }
}

#[test]
fn the_table_of_bodies_names_every_kind() {
    let doc = include_str!("../../doc/format.md");
    for kind in Kind::ALL.iter().filter(|kind| !kind.is_metadata()) {
        let row = format!("| {:#06x} {kind:?} |", kind.code());
        assert!(doc.contains(&row), "{row}");
    }
}

/// What builds without data in inodes send and store means what it meant, and what is out of bounds is refused.
#[test]
fn what_was_added_for_data_in_inodes_may_be_missing_and_has_bounds() {
    let policy = |bytes: &[u8]| LayoutPolicy::decode(&mut Reader::new(bytes, "policy"));
    assert_eq!(policy(&[16, 2]).map(|policy| policy.inline_bytes), Ok(4096));
    assert_eq!(policy(&[16, 2, 0, 0]).map(|policy| policy.inline_bytes), Ok(0));
    assert_eq!(policy(&[16, 2, 0]).map_err(|e| e.kind), Err(WireErrorKind::Short));
    assert_eq!(policy(&[16, 2, 1, 16]).map_err(|e| e.kind), Err(WireErrorKind::Value));
    let all = samples::all();
    let body = |name: &str| {
        all.iter().find(|sample| sample.0 == name).map(|sample| sample.3.clone()).expect("a sample")
    };
    let damaged = |name: &str, kind, from_end: usize| {
        let mut body = body(name);
        let at = body.len() - from_end;
        body[at] ^= 1;
        MetaReply::decode(kind, &body).map_err(|e| e.kind)
    };
    let value = WireErrorKind::Value;
    for from_end in [1, 4, 12] {
        assert_eq!(damaged("GetData_reply", Kind::GetData, from_end), Err(value), "{from_end}");
        assert_eq!(damaged("Open_reply_inline", Kind::Open, from_end), Err(value), "{from_end}");
    }
    let mut step = body("MoveData_end");
    *step.last_mut().expect("the step") = 3;
    assert_eq!(MetaRequest::decode(Kind::MoveData, &step).map_err(|e| e.kind), Err(value));
    // The volume, not the parser, says what becomes of a write that was damaged on its way.
    let (caller, mut out) = (Caller { uid: 0, gid: 0, slot: 1, sequence: 1 }, Vec::new());
    let write = DataWrite::new(Ino(9), 0, &[7; 4096], Time::default());
    MetaRequest::WriteData(write).encode(&caller, &mut out);
    *out.last_mut().expect("data") ^= 1;
    let Ok((_, MetaRequest::WriteData(read))) = MetaRequest::decode(Kind::WriteData, &out) else {
        panic!("it can be read")
    };
    assert!(write.is_whole() && !read.is_whole());
    out.clear();
    MetaRequest::WriteData(DataWrite { bytes: &[7; 4097], ..write }).encode(&caller, &mut out);
    assert!(MetaRequest::decode(Kind::WriteData, &out).is_err(), "more than ever fits");
}
