use super::*;
use weft_wire::{ChunkIndex, Kind, Status, TargetId};

fn op(id: u64, name: &'static str, started: u64, took: u64) -> OpSpan {
    OpSpan {
        op: id,
        name,
        pid: 1,
        ino: Ino(5),
        found: Ino(0),
        offset: 0,
        asked_bytes: 4096,
        bytes: 4096,
        errno: 0,
        core: 1,
        started,
        finished: started + took,
    }
}

fn request(op: u64, id: u64, asked: u64, took: u64) -> RequestSpan {
    RequestSpan {
        op,
        request_id: id,
        kind: Some(Kind::Write),
        status: Some(Status::Ok),
        link: 0,
        target: Some(TargetId(3)),
        ino: Ino(5),
        chunk: ChunkIndex(0),
        offset: 0,
        bytes: 4096,
        send_count: 1,
        asked,
        sent: asked + 10,
        answered: asked + took,
    }
}

fn wanted(slowest: bool, count: usize) -> Wanted {
    Wanted { file: None, op: None, slowest, count }
}

fn ids(chosen: &[(OpSpan, Vec<RequestSpan>)]) -> Vec<u64> {
    chosen.iter().map(|(op, _)| op.op).collect()
}

#[test]
fn the_newest_or_the_slowest_are_chosen_those_kept_beside_the_ring_too() {
    let kept = (op(1, "write", 1_000, 50_000), vec![request(1, 3, 2_000, 40_000)]);
    let ops =
        vec![op(2, "write", 90_000, 100), op(3, "read", 91_000, 900), op(4, "write", 92_000, 300)];
    let slowest = vec![kept.clone(), (ops[1], Vec::new())];
    let trace = Trace { ops, slowest, ..Trace::default() };
    assert_eq!(ids(&choose(&trace, &wanted(false, 2))), [4, 3]);
    let slow = choose(&trace, &wanted(true, 3));
    assert_eq!(ids(&slow), [1, 3, 4]);
    assert_eq!(slow[0].1, kept.1, "with the requests that were kept with it");
    let of_kind = Wanted { op: Some("read"), ..wanted(true, 9) };
    assert_eq!(ids(&choose(&trace, &of_kind)), [3]);
    let of_file = Wanted { file: Some((Ino(6), "f".to_owned())), ..wanted(false, 9) };
    assert!(choose(&trace, &of_file).is_empty());
}

#[test]
fn what_this_command_asked_of_the_mount_is_left_out() {
    let ours = OpSpan { pid: std::process::id(), ..op(1, "getattr", 5, 5) };
    let trace = Trace { ops: vec![ours], ..Trace::default() };
    assert!(choose(&trace, &wanted(false, 9)).is_empty());
}

/// The steps are in order and together take as long as the operation, also where a request began before it.
#[test]
fn steps_add_up_to_the_whole() {
    let sync = op(9, "fsync", 10_000, 5_000);
    let requests = vec![request(0, 1, 9_000, 2_000), request(0, 2, 11_100, 3_500)];
    let path = Path::new(sync, requests, &Servers::new());
    let json = path.json();
    let steps = json["steps"].as_array().expect("a list");
    let since: f64 = steps.iter().map(|step| step["since_us"].as_f64().expect("a number")).sum();
    assert!((since - 5.0).abs() < 1e-9, "{since}");
    let times: Vec<f64> = steps.iter().map(|step| step["at_us"].as_f64().expect("one")).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!((times[0], *times.last().expect("some")), (0.0, 5.0));
    assert_eq!(json["requests"][0]["asked_us"], -1.0);
    let text = path.text(1.5);
    assert!(text.contains("under way before") && text.contains("for the file"), "{text}");
    assert!(text.contains("request 2 came back: done"), "{text}");
}
