use super::*;
use proptest::prelude::*;

const MINE: SessionId = SessionId([1; 16]);

fn record(recorder: &mut Recorder, id: u64, kind: Kind, at_ms: u64, took_us: u64) {
    let request = Header::request(kind, id, &[], 0);
    let replied = Duration::from_millis(at_ms);
    let received = replied - Duration::from_micros(took_us);
    let marks = Marks { admitted: to_nanos(received), ..Marks::default() };
    recorder.record(MINE, &request, (Status::Ok, 7), (received, replied), marks);
}

fn told(recorder: &Recorder, ids: &[u64]) -> TraceReply {
    let query = TraceQuery { session: MINE, ids: ids.to_vec() };
    recorder.tell(&query, Duration::from_secs(1_000))
}

fn ids(reply: &TraceReply) -> Vec<u64> {
    reply.spans.iter().map(|span| span.request_id).collect()
}

#[test]
fn a_session_is_told_of_its_own_requests_only_and_the_newest_first() {
    let mut recorder = Recorder::new();
    (0..10).for_each(|id| record(&mut recorder, id, Kind::Write, 1_000 + id, 50));
    let reply = told(&recorder, &[2, 9, 3, 77]);
    assert_eq!(ids(&reply), [9, 3, 2]);
    let span = reply.spans[0];
    assert_eq!((span.kind, span.status, span.bytes), (Kind::Write, Status::Ok, 7));
    assert_eq!((span.received, span.replied), (1_008_950_000, 1_009_000_000));
    assert_eq!((reply.now, reply.oldest), (1_000_000_000_000, 1_000_000_000));
    let query = TraceQuery { session: SessionId([2; 16]), ids: vec![2] };
    assert!(recorder.tell(&query, Duration::ZERO).spans.is_empty());
}

#[test]
fn an_overrun_leaves_the_newest_and_the_slowest_in_the_same_memory() {
    let mut recorder = Recorder::new();
    record(&mut recorder, 1, Kind::Sync, 1_000, 900_000);
    let capacity = recorder.ring.capacity();
    let count = u64::try_from(2 * RING_SPANS + 5).expect("small");
    (2..count).for_each(|id| record(&mut recorder, id, Kind::Read, 2_000, 10));
    assert_eq!((recorder.ring.len(), recorder.ring.capacity()), (RING_SPANS, capacity));
    let oldest_held = count - u64::try_from(RING_SPANS).expect("small");
    let reply = told(&recorder, &[1, oldest_held - 1, oldest_held, count - 1]);
    assert_eq!(ids(&reply), [count - 1, oldest_held, 1], "the slow one is kept beside the ring");
    // Long after it is forgotten.
    let later = 1_000 + WINDOW.as_secs() * 1_000 * u64::try_from(WINDOWS).expect("small");
    record(&mut recorder, count, Kind::Sync, later, 20);
    assert_eq!(ids(&told(&recorder, &[1, count])), [count]);
}

#[test]
fn what_ring_and_slowest_both_hold_is_told_once() {
    let mut recorder = Recorder::new();
    record(&mut recorder, 4, Kind::Write, 1_000, 500);
    assert_eq!(ids(&told(&recorder, &[4])), [4]);
}

#[test]
fn every_kind_has_a_place_of_its_own() {
    for (at, kind) in Kind::ALL.iter().enumerate() {
        assert_eq!(place(*kind), at);
    }
}

proptest! {
    #[test]
    fn the_slowest_of_a_stretch_are_those(times in prop::collection::vec(1u64..10_000, 1..40)) {
        let mut recorder = Recorder::new();
        for (id, took) in (0u64..).zip(&times) {
            record(&mut recorder, id, Kind::Make, 20_000, *took);
        }
        let kept = &recorder.slowest[place(Kind::Make)][0];
        let mut kept: Vec<u64> = kept.entries.iter().flatten().map(Entry::took).collect();
        kept.sort_unstable_by(|a, b| b.cmp(a));
        let mut wanted: Vec<u64> = times.iter().map(|micros| micros * 1_000).collect();
        wanted.sort_unstable_by(|a, b| b.cmp(a));
        wanted.truncate(SLOWEST);
        prop_assert_eq!(kept, wanted);
    }
}
