use super::*;
use crate::keep::counts::place;
use crate::keep::{Keep, KeepMemory};

const SESSION: SessionId = SessionId([9; 16]);

fn op(id: u64, finished: u64) -> OpSpan {
    OpSpan {
        op: id,
        name: "write",
        pid: 7,
        ino: Ino(5),
        found: Ino(0),
        offset: 1 << 40,
        asked_bytes: 4096,
        bytes: 4095,
        errno: -5,
        core: 1,
        started: finished.saturating_sub(100),
        finished,
    }
}

fn request_of(op: u64, id: u64, answered: u64) -> RequestSpan {
    RequestSpan {
        op,
        request_id: id,
        kind: Some(Kind::Write),
        status: Some(Status::Io),
        link: 3,
        target: Some(TargetId(u16::MAX)),
        ino: Ino(5),
        chunk: ChunkIndex(1 << 40),
        offset: 4096,
        bytes: 1 << 20,
        send_count: 2,
        asked: answered - 50,
        sent: answered - 40,
        answered,
    }
}

fn memory() -> Vec<u8> {
    let mut memory = vec![0; BYTES];
    begin(&mut memory, SESSION, 77);
    memory
}

/// As a reader sees memory that changes from `before` to `after` between its looks.
fn seen(before: &[u8], after: &[u8]) -> Trace {
    let mut looks = 0;
    let read = |at: u64, bytes: &mut [u8]| -> Result<(), ()> {
        if at == 0 {
            bytes.copy_from_slice(&[&MAGIC[..], &VERSION.to_le_bytes()].concat());
            return Ok(());
        }
        looks += 1;
        bytes.copy_from_slice(if looks == 1 { before } else { after });
        Ok(())
    };
    read_trace(read).expect("readable").expect("this version")
}

fn ids(trace: &Trace) -> Vec<u64> {
    trace.ops.iter().map(|op| op.op).collect()
}

#[test]
fn what_is_recorded_is_read_back() {
    let mut memory = memory();
    name_link(&mut memory, 0, ShardId(2), "host:7811");
    name_link(&mut memory, LINKS, ShardId(2), "one too many");
    let other = RequestSpan { target: None, status: Some(Status::Ok), ..request_of(0, 9, 1_000) };
    request(&mut memory, &request_of(4, 8, 990));
    request(&mut memory, &other);
    operation(&mut memory, &op(4, 1_010), place("write"));
    let trace = seen(&memory, &memory);
    assert_eq!((trace.session, trace.cores, trace.core_began), (SESSION, 1, 77));
    assert_eq!(trace.links, [(ShardId(2), "host:7811".to_owned())]);
    assert_eq!(trace.ops, [op(4, 1_010)]);
    assert_eq!(trace.requests, [request_of(4, 8, 990), other]);
    assert_eq!(trace.slowest, [(op(4, 1_010), vec![request_of(4, 8, 990), other])]);
    assert_eq!(begin(&mut memory, SESSION, 78), 2, "the next client-core goes on");
    assert_eq!(seen(&memory, &memory).ops.len(), 1);
}

#[test]
fn an_overrun_leaves_the_newest_and_the_slowest() {
    let mut memory = memory();
    let slow = OpSpan { started: 0, ..op(1, 1_000_000) };
    request(&mut memory, &request_of(1, 8, 999_000));
    operation(&mut memory, &slow, place("write"));
    for id in 2..to_u64(OPS) + 10 {
        operation(&mut memory, &op(id, 1_000_000 + id), place("write"));
    }
    let trace = seen(&memory, &memory);
    // The slot that is written next is as good as gone.
    assert_eq!(trace.ops.len(), OPS - 1);
    let (first, last) = (trace.ops[0].op, trace.ops[OPS - 2].op);
    assert_eq!((first, last), (11, to_u64(OPS) + 9));
    assert_eq!(trace.slowest, [(slow, vec![request_of(1, 8, 999_000)])]);
    assert_eq!(trace.op_count, to_u64(OPS) + 9);
}

#[test]
fn a_reader_leaves_out_what_is_written_over_while_it_looks() {
    let mut memory = memory();
    (1..=to_u64(OPS)).for_each(|id| operation(&mut memory, &op(id, id), place("write")));
    let before = memory.clone();
    (1..=10).for_each(|id| operation(&mut memory, &op(10_000_000 + id, id), place("write")));
    let trace = seen(&before, &memory);
    assert_eq!(ids(&trace), (12..=to_u64(OPS)).collect::<Vec<_>>());
    // A record that a killed writer left half done.
    let torn = OPS_AT + 20 * RECORD_BYTES;
    table::put_number(&mut memory, torn, 0);
    let trace = seen(&memory, &memory);
    assert!(!ids(&trace).contains(&21) && ids(&trace).contains(&22));
    // A slowest one that changes is left out, too.
    assert!(!seen(&before, &before).slowest.is_empty());
    let mut slower = before.clone();
    operation(&mut slower, &OpSpan { started: 0, ..op(1, 9_999) }, place("write"));
    assert!(seen(&before, &slower).slowest.is_empty());
}

#[test]
fn an_operation_waited_for_its_own_requests_and_those_for_its_file_that_ended_meanwhile() {
    let whole = OpSpan { started: 1_000, ..op(4, 2_000) };
    for (of, answered, waited) in [
        (4, 1_500, true),
        (4, 2_000, true),
        (0, 1_500, true),
        (0, 2_001, false),
        (0, 999, false),
        (5, 1_500, false),
    ] {
        assert_eq!(request_of(of, 1, answered).is_of(&whole), waited, "{of} {answered}");
    }
    let elsewhere = RequestSpan { ino: Ino(6), ..request_of(0, 1, 1_500) };
    assert!(!elsewhere.is_of(&whole) && !elsewhere.is_of(&OpSpan { ino: Ino(0), ..whole }));
}

#[test]
fn the_slowest_of_each_kind_and_stretch_is_kept() {
    let mut memory = memory();
    for (window, took) in [(0u64, 10u64), (0, 500), (0, 20), (1, 30)] {
        let finished = window * WINDOW_NANOS + 10_000;
        let span = OpSpan { started: finished - took, ..op(took, finished) };
        operation(&mut memory, &span, place("write"));
        operation(&mut memory, &OpSpan { name: "read", op: took + 1, ..span }, place("read"));
    }
    let kept: Vec<u64> = seen(&memory, &memory).slowest.iter().map(|(op, _)| op.op).collect();
    assert_eq!(kept, [501, 31, 500, 30]);
    let later = to_u64(WINDOWS) * WINDOW_NANOS + 10_000;
    operation(&mut memory, &op(77, later), place("write"));
    let kept: Vec<u64> = seen(&memory, &memory).slowest.iter().map(|(op, _)| op.op).collect();
    assert_eq!(kept, [501, 31, 77, 30], "a stretch's place is taken by a later one");
}

#[test]
fn whatever_the_memory_holds_is_read_without_a_panic() {
    let mut bytes = vec![0u8; BYTES];
    let mut state = 0x5eed_u64;
    for byte in &mut bytes {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        *byte = state.to_be_bytes()[0];
    }
    seen(&bytes, &bytes);
    seen(&vec![0xff; BYTES], &vec![0xff; BYTES]);
    table::put_number(&mut bytes, OP_COUNT_AT, u64::MAX);
    seen(&bytes, &bytes);
}

#[test]
fn memory_of_another_version_is_not_looked_at() {
    let mut keep = Keep::open(KeepMemory::heap()).expect("fresh");
    keep.begin_trace(SESSION, std::time::Duration::from_nanos(5));
    let bytes = keep.memory.bytes().to_vec();
    let from = |bytes: Vec<u8>| {
        move |at: u64, out: &mut [u8]| -> Result<(), ()> {
            let at = to_usize(at);
            out.copy_from_slice(&bytes[at..at + out.len()]);
            Ok(())
        }
    };
    let trace = read_trace(from(bytes.clone())).expect("readable").expect("this version");
    assert_eq!((trace.session, trace.core_began), (SESSION, 5));
    let mut other = bytes;
    other[8] += 1;
    assert_eq!(read_trace(from(other)), Ok(None));
}
