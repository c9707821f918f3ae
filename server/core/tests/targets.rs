//! A shard over real stores and a real volume, with targets that fail, and targets that are gone.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic where its tests would")]

mod copies;
mod rig;

use std::time::Duration;

use rig::{Flush, Node, read, write};
use weft_wire::data::DataRequest;
use weft_wire::meta::{DataWrite, MetaReply, MetaRequest, MoveStep, SetAttr, Time};
use weft_wire::session::{FEATURE_LEASES, FENCE_ENDED};
use weft_wire::trace::{TraceQuery, TraceReply};
use weft_wire::{Ino, Kind, LeaseBits, SessionId, Status, TargetId};

/// Clients write again what they have not synced when the welcome's boot is another one.
#[test]
fn the_boot_differs_after_a_flush_that_failed_or_may_have() {
    let mut node = Node::new();
    let first = node.restarted();
    assert_eq!(node.restarted(), first, "nothing was lost by a kill");
    let (ino, bytes) = (Ino(9), [1; 4096]);
    for flush in [Flush::Fails, Flush::Hangs] {
        let before = node.restarted();
        assert_eq!(node.data(1, &write(ino, 0, &bytes), Some(&bytes)), Status::Ok);
        assert_eq!(node.data(1, &DataRequest::Sync(ino), None), Status::Ok);
        assert_eq!(node.restarted(), before, "a flush that worked takes nothing");
        assert_eq!(node.data(1, &write(ino, 0, &bytes), Some(&bytes)), Status::Ok);
        node.flush[1] = flush;
        let mut body = Vec::new();
        DataRequest::Sync(ino).encode(TargetId(1), &mut body);
        let sync = node.send(Kind::Sync, body, None);
        let status = node.answers.remove(&sync).map(|(status, ..)| status);
        assert_eq!(status, (flush == Flush::Fails).then_some(Status::Io));
        node.flush[1] = Flush::Works;
        let after = node.restarted();
        assert_ne!(after, before, "a flush failed, or nobody knows whether it did");
        assert_eq!(node.restarted(), after, "and is told once");
    }
}

/// A cut of a file that waits for a target that is gone holds that file, and nothing else.
#[test]
fn a_cut_left_over_for_a_target_that_is_gone_holds_its_file_alone() {
    let mut node = Node::new();
    node.restarted();
    let (cut, other) = (node.make(b"cut"), node.make(b"other"));
    let bytes = [7; 8192];
    for (ino, target) in [(cut, 0), (cut, 1), (other, 0)] {
        let index = u64::from(target);
        assert_eq!(node.data(target, &write(ino, index, &bytes), Some(&bytes)), Status::Ok);
    }
    node.flush = vec![Flush::Hangs; 2];
    let set = SetAttr { size: Some(100), ..SetAttr::default() };
    let resize = MetaRequest::SetAttr { ino: cut, set };
    let asked = node.change(&resize);
    assert!(!node.answers.contains_key(&asked), "the cut is not durable on its targets");
    node.flush = vec![Flush::Works; 2];

    for gone in [&[1][..], &[0, 1]] {
        node.start(gone);
        assert!(node.shard.as_ref().unwrap().may_serve(), "without {gone:?}");
        node.hello();
        let Ok(MetaReply::Attr(attr)) = node.look(&MetaRequest::GetAttr { ino: cut }) else {
            panic!()
        };
        assert_eq!(attr.size, 100, "names are served");
        let served = if gone.contains(&0) { Status::WrongShard } else { Status::Ok };
        assert_eq!(node.data(0, &read(other, 0), None), served);
        let refused = if gone.contains(&0) { Status::WrongShard } else { Status::Io };
        assert_eq!(node.data(0, &read(cut, 0), None), refused);
        assert_eq!(node.data(0, &write(cut, 0, &bytes), Some(&bytes)), refused);
        let again = node.change(&resize);
        assert_eq!(node.answers[&again].0, Status::Io, "it is not cut once more");
    }

    node.restarted();
    assert!(node.shard.as_ref().unwrap().may_serve());
    let (status, found) = node.read(0, &read(cut, 0), None);
    assert_eq!((status, &found[..100]), (Status::Ok, &[7; 100][..]));
    assert!(found[100..].iter().all(|byte| *byte == 0), "it is cut now");
    let (status, found) = node.read(1, &read(cut, 1), None);
    assert!(status == Status::Ok && found.iter().all(|byte| *byte == 0));
    assert_eq!(node.data(0, &write(cut, 0, &bytes), Some(&bytes)), Status::Ok, "and held no more");
    assert_eq!(node.data(0, &read(other, 0), None), Status::Ok);
}

/// A target that is there and cannot do the cut holds the file, not the node.
#[test]
fn a_cut_left_over_that_its_target_cannot_do_holds_its_file_until_it_can() {
    let mut node = Node::new();
    node.restarted();
    let (cut, other) = (node.make(b"cut"), node.make(b"other"));
    let bytes = [7; 8192];
    for ino in [cut, other] {
        assert_eq!(node.data(0, &write(ino, 0, &bytes), Some(&bytes)), Status::Ok);
    }
    node.unwritable.insert(0);
    let set = SetAttr { size: Some(100), ..SetAttr::default() };
    let asked = node.change(&MetaRequest::SetAttr { ino: cut, set });
    assert!(!node.answers.contains_key(&asked), "the end of its last block cannot be written");

    node.restarted();
    assert!(node.shard.as_ref().unwrap().may_serve());
    node.wait(Duration::from_secs(2));
    assert_eq!(node.data(0, &read(cut, 0), None), Status::Io);
    assert_eq!(node.data(0, &write(cut, 0, &bytes), Some(&bytes)), Status::Io);
    assert_eq!(node.data(0, &read(other, 0), None), Status::Ok);

    node.unwritable.clear();
    node.wait(Duration::from_secs(2));
    let (status, found) = node.read(0, &read(cut, 0), None);
    assert_eq!((status, &found[..100]), (Status::Ok, &[7; 100][..]));
    assert!(found[100..].iter().all(|byte| *byte == 0), "it is cut now");
    assert_eq!(node.data(0, &write(cut, 0, &bytes), Some(&bytes)), Status::Ok, "and held no more");
    node.restarted();
    assert_eq!(node.read(0, &read(cut, 0), None), (Status::Ok, bytes[..4096].to_vec()));
}

/// Each work that waits fails at once then: they must not be within each other.
#[test]
fn a_server_stops_with_thousands_of_works_waiting() {
    let mut node = Node::new();
    node.restarted();
    let names: Vec<Vec<u8>> = (0..3000).map(|number| format!("{number}").into_bytes()).collect();
    let inodes: Vec<Ino> = names.iter().map(|name| node.make(name)).collect();
    let bytes = [7; 4096];
    // As many as are cut at once, so that the others wait behind them; and the last.
    for ino in inodes.iter().take(64).chain(inodes.last()) {
        assert_eq!(node.data(0, &write(*ino, 0, &bytes), Some(&bytes)), Status::Ok);
    }
    node.flush.fill(Flush::Hangs);
    for name in &names {
        node.change(&MetaRequest::Unlink { parent: Ino::ROOT, name });
    }
    node.flush.fill(Flush::Works);
    node.stop();
    assert!(node.stopped);
    node.restarted();
    node.wait(Duration::from_secs(2));
    for ino in [inodes[0], inodes[2999]] {
        assert_eq!(node.read(0, &read(ino, 0), None), (Status::Ok, vec![]), "done by the next");
    }
}

/// Outcomes of its changes are forgotten: what it sends again would be made twice.
#[test]
fn who_comes_back_after_its_session_expired_is_told_over_restarts_too() {
    let mut node = Node::new();
    node.start(&[]);
    assert_eq!(node.hello().fence, 0);
    node.cut_off(Duration::from_secs(61));
    assert_eq!(node.hello().fence / FENCE_ENDED, 0, "it had changed nothing");
    node.make(b"f");
    for count in [1, 2] {
        node.cut_off(Duration::from_secs(61));
        if count == 2 {
            node.start(&[]);
        }
        assert_eq!(node.hello().fence / FENCE_ENDED, count);
        node.start(&[]);
        assert_eq!(node.hello().fence / FENCE_ENDED, count);
        node.make(&[b'g', u8::try_from(count).unwrap()]);
    }
}

/// What a session has to write is refused when it comes back after the others went on: as soon as one of them has the
/// file, or it is not as it was.
#[test]
fn who_comes_back_too_late_after_a_restart_has_nothing_that_others_took() {
    let mut node = Node::new();
    node.lease_time = Duration::from_secs(1);
    node.start(&[]);
    let (late, other) = (4, 5);
    for client in [late, other] {
        node.client = client;
        node.hello();
        node.wait(Duration::from_secs(2));
        node.make(&[client]);
    }
    let f = node.make(b"f");
    let Ok(MetaReply::Attr(attr)) = node.look(&MetaRequest::GetAttr { ino: f }) else { panic!() };
    let versions = (attr.version, attr.version + 9);
    // What the other one does meanwhile, and whether it is in the way.
    for (in_time, reads, changes, in_the_way) in [
        (true, false, false, false),
        (false, false, false, false),
        (false, true, false, true),
        (false, false, true, true),
    ] {
        node.start(&[]);
        if !in_time {
            node.wait(Duration::from_secs(2));
        }
        node.client = other;
        node.hello();
        if reads {
            let id = node.want_attributes(f, LeaseBits::READ);
            assert_eq!(node.answers[&id].0, Status::Ok);
        }
        if changes {
            let (name, value) = (b"user.x", b"1");
            node.change(&MetaRequest::SetXattr { ino: f, name, value, flags: 0 });
        }
        node.client = late;
        node.hello();
        assert_eq!(node.reclaim(f, versions), in_the_way, "reads {reads} changes {changes}");
        if !in_the_way {
            assert!(!node.reclaim(f, versions), "the answer may have been lost");
        }
    }
}

/// A node, and a file that client 4 has to write and client 5 wants; both are known.
fn contended() -> (Node, Ino, (u64, u64)) {
    let mut node = Node::new();
    node.lease_time = Duration::from_secs(1);
    node.start(&[]);
    for client in [5, 4] {
        node.client = client;
        node.hello();
        node.make(&[client]);
    }
    let f = node.make(b"f");
    let id = node.want_attributes(f, LeaseBits::WRITE);
    assert_eq!(node.answers[&id].0, Status::Ok);
    let Ok(MetaReply::Attr(attr)) = node.look(&MetaRequest::GetAttr { ino: f }) else { panic!() };
    (node, f, (attr.version, attr.version + 9))
}

/// The server may be started again before its client hears of it.
#[test]
fn nobody_goes_on_without_a_session_before_that_is_durable() {
    let (mut node, f, _) = contended();
    node.cut_off(Duration::ZERO);
    (node.client, node.log_hangs) = (5, true);
    let id = node.want_attributes(f, LeaseBits::WRITE);
    node.wait(Duration::from_secs(2));
    node.wait(Duration::from_secs(2));
    assert!(!node.answers.contains_key(&id), "it is not logged yet");
    node.log_goes_on();
    assert_eq!(node.answers[&id].0, Status::Ok);
    node.client = 4;
    assert_eq!(node.hello().fence, 1);
    for turn in 0..3 {
        node.start(&[]);
        node.client = 4;
        assert_eq!(node.hello().fence, 1, "start {turn}");
    }
    // One that does not know of that counts from the start, and would give up what it has written since.
    node.features = FEATURE_LEASES;
    assert_eq!(node.hello().fence, 0);
}

/// A crash before that takes nothing from it, and nobody has gone on.
#[test]
fn a_fence_that_was_not_logged_did_not_happen() {
    let (mut node, f, versions) = contended();
    node.cut_off(Duration::ZERO);
    (node.client, node.log_hangs) = (5, true);
    node.want_attributes(f, LeaseBits::WRITE);
    node.wait(Duration::from_secs(2));
    node.start(&[]);
    node.client = 4;
    assert_eq!((node.hello().fence, node.reclaim(f, versions)), (0, false));
}

/// What others changed is not its own, and a second start does not know what that was.
#[test]
fn who_is_late_and_does_not_hear_of_it_before_the_next_start_is_fenced_off() {
    // Whether it comes back, its file was changed meanwhile, and it goes on before the next start.
    for (comes, changed, goes_on, fenced) in [
        (false, false, false, true),
        (true, false, false, false),
        (true, true, false, true),
        (true, true, true, false),
    ] {
        let told = format!("comes {comes} changed {changed} goes on {goes_on}");
        let (mut node, f, versions) = contended();
        node.start(&[]);
        node.log_hangs = true;
        node.client = 5;
        node.hello();
        node.wait(Duration::from_secs(2));
        let id = node.want_attributes(Ino::ROOT, LeaseBits::READ);
        assert!(!node.answers.contains_key(&id), "it is not logged yet: {told}");
        node.log_goes_on();
        assert_eq!(node.answers[&id].0, Status::Ok, "{told}");
        if changed {
            let (name, value) = (b"user.x", b"1");
            node.change(&MetaRequest::SetXattr { ino: f, name, value, flags: 0 });
        }
        node.client = 4;
        if comes {
            assert_eq!((node.hello().fence, node.reclaim(f, versions)), (0, changed), "{told}");
        }
        if goes_on {
            assert!(node.look(&MetaRequest::GetAttr { ino: f }).is_ok());
            node.wait(Duration::ZERO);
        }
        for _ in 0..2 {
            node.start(&[]);
            assert_eq!(node.hello().fence, u32::from(fenced), "{told}");
        }
        // Late once more, it is told another number.
        (0..2).for_each(|_| node.wait(Duration::from_secs(2)));
        node.start(&[]);
        assert_eq!(node.hello().fence, u32::from(fenced) + 1, "{told}");
    }
}

/// It was known once, or it would have no lease; and it is not any more.
#[test]
fn a_session_that_is_forgotten_has_nothing_to_write() {
    let (mut node, f, versions) = contended();
    node.start(&[]);
    node.client = 6;
    node.hello();
    assert!(node.reclaim(f, versions));
    node.client = 4;
    node.hello();
    assert!(!node.reclaim(f, versions));
}

/// What waits for leases has its part of the memory, and what others wait for can still come in.
#[test]
fn requests_that_wait_for_a_lease_are_bounded() {
    let mut node = Node::new();
    node.lease_time = Duration::from_secs(600);
    node.restarted();
    let f = node.make(b"f");
    let owner = node.client;
    let mine = node.want_attributes(f, LeaseBits::READ.with(LeaseBits::WRITE));
    assert_eq!(node.answers[&mine].0, Status::Ok);
    let (mut asked, mut busy) = (Vec::new(), 0);
    for client in owner + 1..owner + 160 {
        node.client = client;
        node.hello();
        // Half of its 16 credits.
        for _ in 0..8 {
            let id = node.want_attributes(f, LeaseBits::READ);
            match node.answers.get(&id) {
                None => asked.push(id),
                Some((status, ..)) => {
                    assert_eq!(*status, Status::Busy);
                    busy += 1;
                }
            }
        }
    }
    let bytes_max = usize::try_from(Node::requests_bytes_max() / 2).unwrap();
    assert!(busy > 0 && asked.len() * 1024 <= bytes_max, "{busy} busy, {} wait", asked.len());
    assert!((asked.len() + 20) * 1100 > bytes_max, "its part is used");
    node.client = owner;
    let bytes = [7; 4096];
    assert_eq!(node.data(0, &write(f, 0, &bytes), Some(&bytes)), Status::Ok);
    node.give_back();
    assert!(asked.iter().all(|id| node.answers[id].0 == Status::Ok));
    node.client = owner + 1;
    let id = node.want_attributes(f, LeaseBits::READ);
    assert_eq!(node.answers[&id].0, Status::Ok, "the memory is free again");
}

/// What `weft trace` is told: who waited for a lease, for the log, for a device; and nobody of another's requests.
#[test]
fn the_recorder_tells_when_a_request_was_admitted_and_carried_out() {
    let mut node = Node::new();
    node.lease_time = Duration::from_secs(600);
    node.restarted();
    node.wait(Duration::from_secs(1));
    let f = node.make(b"f");
    let bytes = [7; 4096];
    assert_eq!(node.data(0, &write(f, 0, &bytes), Some(&bytes)), Status::Ok);
    let owner = node.client;
    node.want_attributes(f, LeaseBits::READ.with(LeaseBits::WRITE));
    node.client = owner + 1;
    node.hello();
    let waits = node.want_attributes(f, LeaseBits::READ);
    assert!(!node.answers.contains_key(&waits), "the owner has to give it back");
    node.wait(Duration::from_secs(3));
    node.give_back();
    let told = |node: &mut Node, client: u8| {
        let session = SessionId([client; 16]);
        let mut body = Vec::new();
        TraceQuery { session, ids: (0..=waits).collect() }.encode(&mut body);
        let id = node.send(Kind::Trace, body, None);
        TraceReply::decode(&node.answers[&id].1).unwrap().spans
    };
    let spans = told(&mut node, owner + 1);
    let waited = spans.iter().find(|span| span.request_id == waits).unwrap();
    assert!(spans.iter().all(|span| span.kind != Kind::Write), "that was another's");
    assert_eq!(waited.kind, Kind::GetAttr);
    assert!(waited.admitted - waited.received >= 3_000_000_000, "{waited:?}");
    assert!(waited.replied >= waited.admitted && waited.device_began == 0, "{waited:?}");
    let spans = told(&mut node, owner);
    for (kind, target, bytes) in [(Kind::Make, None, 0), (Kind::Write, Some(TargetId(0)), 4096)] {
        let span = spans.iter().find(|span| span.kind == kind).unwrap();
        assert_eq!((span.status, span.target, span.bytes), (Status::Ok, target, bytes));
        let times =
            [span.received, span.admitted, span.device_began, span.device_ended, span.replied];
        assert!(times.is_sorted() && times[0] >= 1_000_000_000, "{kind:?}: {span:?}");
    }
}

#[test]
fn a_trace_query_that_cannot_be_read_ends_its_connection_and_nothing_else() {
    let mut node = Node::new();
    node.restarted();
    let id = node.send(Kind::Trace, vec![1; 19], None);
    assert!(!node.answers.contains_key(&id));
    assert_eq!(node.closed.len(), 1);
    node.hello();
    node.make(b"f");
}

/// Others see what was written into an inode, and where the data is, as they see what was written to targets.
#[test]
fn data_in_an_inode_is_written_and_moved_once_nobody_caches_it() {
    let mut node = Node::new();
    node.lease_time = Duration::from_secs(600);
    node.restarted();
    let (writer, reader) = (node.client, node.client + 1);
    let f = node.make_small(b"f");
    let write = |bytes| MetaRequest::WriteData(DataWrite::new(f, 0, bytes, Time::default()));
    let moves = |step| MetaRequest::MoveData { ino: f, step };
    node.client = reader;
    node.hello();
    node.make(b"so that its leases are kept");
    for request in [write(b"one"), moves(MoveStep::Begin), write(b"two"), moves(MoveStep::Stay)] {
        for wants in [LeaseBits::READ, LeaseBits::READ.with(LeaseBits::WRITE)] {
            node.client = reader;
            let mine = node.want_attributes(f, wants);
            assert_eq!(node.answers[&mine].0, Status::Ok);
            node.client = writer;
            let asked = node.change(&request);
            assert!(!node.answers.contains_key(&asked), "{:?} waits", request.kind());
            assert_eq!(
                node.recalls.iter().map(|(client, _)| *client).collect::<Vec<_>>(),
                [reader]
            );
            node.give_back();
            assert_eq!(node.answers[&asked].0, Status::Ok);
        }
    }
    // Whoever reads the data has a writer give back what it has not written yet.
    node.client = writer;
    let mine = node.want_attributes(f, LeaseBits::READ.with(LeaseBits::WRITE));
    assert_eq!(node.answers[&mine].0, Status::Ok);
    node.client = reader;
    for request in [MetaRequest::GetData { ino: f }, MetaRequest::Open { ino: f, inline: true }] {
        let asked = node.ask_for(&request);
        assert!(!node.answers.contains_key(&asked), "{:?} waits", request.kind());
    }
    node.client = writer;
    let last = node.change(&write(b"end"));
    assert_eq!(node.answers[&last].0, Status::Ok);
    node.give_back();
    node.client = reader;
    let Ok(MetaReply::Data(attr, Some(inline))) = node.look(&MetaRequest::GetData { ino: f })
    else {
        panic!()
    };
    assert_eq!((attr.size, inline.data.as_deref()), (3, Some(&b"end"[..])));
}

/// Its targets have nothing of it: they need not be there.
#[test]
fn a_file_whose_data_is_in_the_inode_needs_no_target() {
    let mut node = Node::new();
    node.restarted();
    let (small, striped) = (node.make_small(b"small"), node.make(b"striped"));
    node.start(&[0, 1]);
    node.hello();
    let write = DataWrite::new(small, 0, b"data", Time::default());
    let resize = |ino| {
        let set = SetAttr { size: Some(2), ..SetAttr::default() };
        MetaRequest::SetAttr { ino, set }
    };
    for (request, status) in [
        (MetaRequest::WriteData(write), Status::Ok),
        (resize(small), Status::Ok),
        (resize(striped), Status::Io),
        (MetaRequest::WriteData(DataWrite { ino: striped, ..write }), Status::Invalid),
    ] {
        let asked = node.change(&request);
        assert_eq!(node.answers[&asked].0, status, "{request:?}");
    }
    let Ok(MetaReply::Data(_, Some(inline))) = node.look(&MetaRequest::GetData { ino: small })
    else {
        panic!()
    };
    assert_eq!(inline.data.as_deref(), Some(&b"da"[..]));
    let asked = node.change(&MetaRequest::Unlink { parent: Ino::ROOT, name: b"small" });
    assert_eq!(node.answers[&asked].0, Status::Ok);
    node.wait(Duration::from_secs(1));
    assert_eq!(node.look(&MetaRequest::GetAttr { ino: small }).map(drop), Err(Status::Stale));
}
