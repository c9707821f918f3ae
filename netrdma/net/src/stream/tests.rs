use proptest::prelude::*;
use weft_wire::blocks::checksums;
use weft_wire::data::{ChunkRange, DataRequest};
use weft_wire::ids::{ChunkId, ChunkIndex, Ino, TargetId};
use weft_wire::units::to_u32;

use super::*;

fn write_frame(id: u64, offset: u32, payload: &[u8]) -> Vec<u8> {
    let chunk = ChunkId { ino: Ino(9), index: ChunkIndex(1) };
    let range = ChunkRange { chunk, offset, bytes: to_u32(payload.len()) };
    let mut body = Vec::new();
    DataRequest::Write(range, checksums(offset, payload)).encode(TargetId(0), &mut body);
    let header = Header::request(Kind::Write, id, &body, to_u32(payload.len()));
    [&header.encode()[..], &body, payload].concat()
}

fn ping_frame(id: u64, body: &[u8]) -> Vec<u8> {
    [&Header::request(Kind::Ping, id, body, 0).encode()[..], body].concat()
}

/// Feeds `stream` in steps of the given lengths and returns the frames as (id, payload, alignment).
fn run(stream: &[u8], steps: &[usize]) -> Result<Vec<(u64, Vec<u8>, usize)>, WireError> {
    let pool = Pool::new(16 << 20, 8 << 20).expect("pool");
    let mut reader = FrameReader::new(pool.alloc(INBOX_BYTES).expect("room"), Budget::unlimited());
    reader.open_up();
    let (mut rest, mut steps, mut frames) = (stream, steps.iter().cycle(), Vec::new());
    loop {
        match reader.next(&pool)? {
            Next::Frame(frame) => {
                let (bytes, start) = frame.payload.map_or((vec![], 0), |(slot, range)| {
                    (slot.as_slice()[range.clone()].to_vec(), range.start)
                });
                frames.push((frame.header.request_id, bytes, start));
            }
            Next::NoRoom(_) => panic!("the pool is large enough"),
            Next::More if rest.is_empty() => return Ok(frames),
            Next::More => {
                let Recv { mut slot, range, .. } = reader.recv().expect("wants more");
                let bytes = rest.len().min(range.len()).min(*steps.next().expect("cycles"));
                slot.as_mut_slice()[range.start..range.start + bytes]
                    .copy_from_slice(&rest[..bytes]);
                rest = &rest[bytes..];
                reader.received(slot, bytes);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn frames_survive_any_cut(
        sizes in prop::collection::vec((0u32..20_000, prop_oneof![1usize..100, 1usize..300_000]), 1..12),
        steps in prop::collection::vec(1usize..70_000, 1..20),
    ) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (id, (offset, bytes)) in (1u64..).zip(sizes) {
            let payload: Vec<u8> = (0..bytes).map(|at| u8::try_from((at * 7 + bytes) % 251).expect("fits")).collect();
            if bytes % 3 == 0 {
                stream.extend(ping_frame(id, &payload[..bytes.min(60_000)]));
                expected.push((id, vec![], 0));
            } else {
                stream.extend(write_frame(id, offset, &payload));
                expected.push((id, payload, to_usize(u64::from(offset)) % BLOCK_LEN));
            }
        }
        prop_assert_eq!(run(&stream, &steps).expect("valid"), expected);
    }

    #[test]
    fn any_bytes_are_an_error_or_frames(mut stream in prop::collection::vec(any::<u8>(), 64..4000), keep in any::<bool>()) {
        if keep {
            let good = write_frame(1, 5, &stream);
            let at = stream.len() % good.len();
            let bit = stream[0];
            stream = good;
            stream[at] ^= bit;
        }
        // Whatever it is, it ends: no panic, no endless loop. A damaged payload is its receiver's to find.
        drop(run(&stream, &[stream.len()]));
    }
}

#[test]
fn nothing_but_a_hello_before_the_hello() {
    let pool = Pool::new(4 << 20, 2 << 20).expect("pool");
    let mut reader = FrameReader::new(pool.alloc(INBOX_BYTES).expect("room"), Budget::unlimited());
    let frame = write_frame(1, 0, &[7; 4096]);
    let Recv { mut slot, range, .. } = reader.recv().expect("wants bytes");
    slot.as_mut_slice()[range.start..frame.len()].copy_from_slice(&frame);
    reader.received(slot, frame.len());
    assert_eq!(reader.next(&pool).expect_err("refused").kind, WireErrorKind::TooLong);
}

#[test]
fn a_payload_waits_for_memory_and_goes_on() {
    let pool = Pool::new(2 << 20, 1 << 20).expect("pool");
    let mut reader = FrameReader::new(pool.alloc(INBOX_BYTES).expect("room"), Budget::unlimited());
    reader.open_up();
    let held: Vec<_> = std::iter::from_fn(|| pool.alloc(4096)).collect();
    let frame = write_frame(3, 0, &[7; 4096]);
    let Recv { mut slot, range, .. } = reader.recv().expect("wants bytes");
    slot.as_mut_slice()[range.start..frame.len()].copy_from_slice(&frame);
    reader.received(slot, frame.len());
    assert!(matches!(reader.next(&pool), Ok(Next::NoRoom(4096))));
    drop(held);
    assert!(matches!(reader.next(&pool), Ok(Next::Frame(_))));
}

#[test]
fn what_a_peer_owes_is_told() {
    let pool = Pool::new(1 << 20, 1 << 16).unwrap();
    let mut reader = FrameReader::new(pool.alloc(INBOX_BYTES).unwrap(), Budget::unlimited());
    assert!(reader.is_owed(), "the hello");
    reader.open_up();
    assert!(!reader.is_owed(), "between frames");
    let recv = reader.recv().unwrap();
    reader.received(recv.slot, 1);
    assert!(reader.is_owed(), "the rest of a header");
}

#[test]
fn a_body_waits_for_its_budget_and_gives_it_back() {
    let pool = Pool::new(1 << 20, 1 << 20).unwrap();
    let bodies = Budget::new(1000);
    let mut reader = FrameReader::new(pool.alloc(INBOX_BYTES).unwrap(), bodies.clone());
    let stream = ping_frame(1, &[7; 600]);
    let Recv { mut slot, range, .. } = reader.recv().unwrap();
    slot.as_mut_slice()[range.start..range.start + stream.len()].copy_from_slice(&stream);
    let others = bodies.take(500).unwrap();
    reader.received(slot, stream.len());
    assert!(matches!(reader.next(&pool), Ok(Next::NoRoom(600))));
    drop(others);
    match reader.next(&pool) {
        Ok(Next::Frame(frame)) => assert_eq!(frame.body, [7; 600]),
        other => panic!("a frame, not {other:?}"),
    }
    assert_eq!(bodies.left_bytes(), 1000, "a frame handed out is its taker's to bound");
}
