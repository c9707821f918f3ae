//! One sample of every frame and message, with the bytes it encodes to.

use weft_wire::data::{
    BlocksReply, ChunkCopy, ChunkInfo, ChunkListReply, ChunkRange, CopyReply, DataRequest,
    GrowReply, Known, ReadReply, SeekFrom, SeekReply, Subject, ZeroHow,
};
use weft_wire::header::Header;
use weft_wire::layout::LayoutPolicy;
use weft_wire::lease::{Recall, Reclaim, Reclaimed};
use weft_wire::locks::*;
use weft_wire::meta::*;
use weft_wire::scrub::*;
use weft_wire::session::*;
use weft_wire::trace::{Span, TraceQuery, TraceReply};
use weft_wire::*;

/// Name, kind (whose decoder reads it), whether it is a reply, body, payload length.
pub(crate) type Sample = (String, Kind, bool, Vec<u8>, u32);

fn attr() -> Attr {
    let time = |seconds| Time { seconds, nanos: 999_999_999 };
    Attr {
        ino: Ino(0x0002_0000_0000_0007),
        mode: 0o100_644,
        nlink: 2,
        uid: 1000,
        gid: 100,
        rdev: 0,
        size: 1 << 40,
        blocks: 5,
        version: 17,
        atime: time(-1),
        mtime: time(1),
        ctime: time(1 << 40),
        btime: time(0),
    }
}

fn layout() -> Layout {
    Layout::new(20, vec![TargetId(3), TargetId(0), TargetId(500)]).expect("valid")
}

fn requests() -> Vec<MetaRequest<'static>> {
    let (ino, parent, name) = (Ino(9), Ino::ROOT, &b"n\xffme"[..]);
    let policy = LayoutPolicy { chunk_log2: 16, width: 2, ..LayoutPolicy::default() };
    let how = MakeHow {
        mode: 0o120_777,
        umask: 0,
        rdev: 5,
        exclusive: true,
        open: false,
        inline: false,
        fresh: false,
    };
    let set = SetAttr {
        mode: Some(0o4755),
        uid: Some(1),
        gid: None,
        size: Some(7),
        atime: Some(TimeSet::Now),
        mtime: Some(TimeSet::To(Time { seconds: -5, nanos: 5 })),
        ctime: None,
    };
    vec![
        MetaRequest::Lookup { parent, name },
        MetaRequest::GetAttr { ino },
        MetaRequest::SetAttr { ino, set },
        MetaRequest::ReadLink { ino },
        MetaRequest::Make { parent, name, how, target: b"to/where" },
        MetaRequest::Unlink { parent, name },
        MetaRequest::Rmdir { parent, name },
        MetaRequest::Rename { parent, name, new_parent: ino, new_name: b"b", flags: 1 },
        MetaRequest::Link { ino, parent, name },
        MetaRequest::Open { ino, inline: false },
        MetaRequest::Release { ino, count: 3, atime: Some(Time { seconds: 3, nanos: 4 }) },
        MetaRequest::ReadDir { ino, cookie: 1 << 62, bytes_max: 65_536, plus: true },
        MetaRequest::GetXattr { ino, name: b"user.a" },
        MetaRequest::SetXattr { ino, name: b"user.a", value: b"v", flags: 2 },
        MetaRequest::ListXattr { ino },
        MetaRequest::RemoveXattr { ino, name: b"user.a" },
        MetaRequest::StatFs,
        MetaRequest::Wrote {
            ino,
            size_min: 4097,
            mtime: Time { seconds: 3, nanos: 4 },
            blocks_added: -2,
            at_targets: false,
        },
        MetaRequest::GetLayout { ino },
        MetaRequest::SetLayout { ino, policy },
        MetaRequest::Reopen { opens: vec![(ino, 1), (Ino(10), 2)] },
        MetaRequest::FindNames { inos: vec![ino, Ino(10)], directory: parent, cookie: 0x100 },
    ]
}

fn replies() -> Vec<(Kind, MetaReply)> {
    let mut packed = Vec::new();
    for (name, plus) in [(&b"a"[..], None), (b"bb", Some(attr()))] {
        let entry = DirEntry { ino: Ino(4), cookie: 77, kind: FileKind::Regular, name, attr: plus };
        push_dir_entry(&mut packed, &entry);
    }
    let found = FoundName { ino: Ino(5), directory: Ino::ROOT, name: b"n\xffme".to_vec() };
    let fs = StatFs { total_bytes: 1, free_bytes: 2, inodes: 3, inodes_free: 4 };
    vec![
        (Kind::Lookup, MetaReply::Entry(attr())),
        (Kind::GetAttr, MetaReply::Attr(attr())),
        (Kind::Make, MetaReply::Made(attr(), true, Some(DataPlace::striped(layout())))),
        (Kind::Open, MetaReply::Opened(attr(), None)),
        (Kind::ReadLink, MetaReply::Bytes(b"to/where".to_vec())),
        (Kind::ReadDir, MetaReply::Dir(packed, true)),
        (Kind::StatFs, MetaReply::StatFs(fs)),
        (Kind::GetLayout, MetaReply::Layout(layout())),
        (Kind::SetLayout, MetaReply::Done),
        (Kind::Reopen, MetaReply::Reopened(vec![Ino(5)])),
        (Kind::FindNames, MetaReply::Names(vec![found], Some((Ino(9), 0x100)))),
    ]
}

fn session_samples(all: &mut Vec<Sample>) {
    let mut push = |name: &str, kind, reply, body| all.push((name.into(), kind, reply, body, 0));
    let body = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        encode(&mut out);
        out
    };
    let (cluster, session) = (ClusterId([1; 16]), SessionId([2; 16]));
    let hello = Hello { versions: (1, 1), features: 0, cluster, session, shard: ShardId(3) };
    push("hello", Kind::Hello, false, body(&|out| hello.encode(out)));
    let welcome = Welcome {
        version: 1,
        features: 0,
        cluster,
        shard_count: 2,
        epoch: 99,
        boot: 77,
        credits: 128,
        payload_bytes_max: 1 << 24,
        slot_count: 256,
        lease_ms: 0,
        fence: 0,
    };
    push("welcome", Kind::Hello, true, body(&|out| welcome.encode(out)));
    let leases = Welcome { features: FEATURE_LEASES, lease_ms: 5000, fence: 3, ..welcome };
    push("welcome_leases", Kind::Hello, true, body(&|out| leases.encode(out)));
    let place = Place { node: 0, shard: ShardId(1) };
    let node = NodeEntry { name: "n1".into(), address: "10.0.0.1:7811".into(), shard_count: 2 };
    let map = ClusterMap {
        nodes: vec![node],
        targets: vec![(TargetId(0), place)],
        volumes: vec![(VolumeId(0), place)],
    };
    push("cluster_map", Kind::ClusterMap, true, body(&|out| map.encode(out)));
    let info = TargetInfo {
        id: TargetId(1),
        uuid: [3; 16],
        shard: ShardId(1),
        path: "/dev/nvme0n1".into(),
        total_bytes: 100,
        free_bytes: 50,
        chunk_count: 7,
        op_counts: (1, 2),
        damaged_blocks: 0,
    };
    let list = TargetListReply { targets: vec![info] };
    push("target_list", Kind::TargetList, true, body(&|out| list.encode(out)));
}

fn data_requests(all: &mut Vec<Sample>) {
    let chunk = ChunkId { ino: Ino(9), index: ChunkIndex(1 << 33) };
    let range = ChunkRange { chunk, offset: 4095, bytes: 2 };
    let cut = Some((ChunkIndex(4), 100));
    let requests = [
        (DataRequest::Read(range), 0),
        (DataRequest::Write(range, vec![0x1111_1111, 0x2222_2222]), 2),
        (DataRequest::Sync(Ino(9)), 0),
        (DataRequest::Truncate { ino: Ino(9), remove_from: ChunkIndex(5), cut }, 0),
        (DataRequest::ChunkList(Ino(9), ChunkIndex(0)), 0),
        (DataRequest::Zero(range, ZeroHow::Punch), 0),
        (
            DataRequest::Copy(ChunkCopy {
                to: range,
                source: TargetId(8),
                from: ChunkId { ino: Ino(11), index: ChunkIndex(12) },
                from_offset: 4097,
                known: Known { epoch: 13, boot: 14 },
            }),
            0,
        ),
        (
            DataRequest::Seek(SeekFrom {
                ino: Ino(9),
                index: ChunkIndex(7),
                block: 3,
                chunk_blocks: 256,
                stride: 4,
                hole: true,
            }),
            0,
        ),
        (DataRequest::Grow, 0),
    ];
    for (request, payload) in requests {
        let mut body = Vec::new();
        request.encode(TargetId(2), &mut body);
        let subject = Subject::of(request.kind(), &body).expect("long enough");
        assert_eq!((subject.target, subject.ino), (TargetId(2), request.ino().unwrap_or(Ino(0))));
        if let DataRequest::Read(range) | DataRequest::Write(range, _) = &request {
            assert_eq!(subject.range, Some((range.chunk.index, range.offset, range.bytes)));
        }
        all.push((format!("{:?}", request.kind()), request.kind(), false, body, payload));
    }
}

fn data_samples(all: &mut Vec<Sample>) {
    data_requests(all);
    let mut body = Vec::new();
    ReadReply { first_block: 1, sums: vec![7, 8] }.encode(&mut body);
    all.push(("Read_reply".into(), Kind::Read, true, body, 8192));
    let info = ChunkInfo {
        index: ChunkIndex(1),
        blocks_written: 256,
        blocks_allocated: 256,
        extent_count: 1,
    };
    let mut body = Vec::new();
    ChunkListReply { chunks: vec![info], more: true }.encode(&mut body);
    all.push(("ChunkList_reply".into(), Kind::ChunkList, true, body, 0));
    for (kind, added) in [(Kind::Write, 2), (Kind::Zero, -3)] {
        let mut body = Vec::new();
        let reply = BlocksReply { added };
        reply.encode(&mut body);
        assert_eq!(BlocksReply::decode(&body), Ok(reply));
        all.push((format!("{kind:?}_reply"), kind, true, body, 0));
    }
    for (name, reply) in
        [("Copy_reply", CopyReply::Copied(-3)), ("Copy_unknown", CopyReply::Unknown)]
    {
        let mut body = Vec::new();
        reply.encode(&mut body);
        assert_eq!(CopyReply::decode(&body), Ok(reply));
        all.push((name.into(), Kind::Copy, true, body, 0));
    }
    for (name, reply) in [
        ("Seek_found", SeekReply::Found(ChunkIndex(8), 9)),
        ("Seek_further", SeekReply::Further(ChunkIndex(8))),
        ("Seek_end", SeekReply::End),
    ] {
        let mut body = Vec::new();
        reply.encode(&mut body);
        assert_eq!(SeekReply::decode(&body), Ok(reply));
        all.push((name.into(), Kind::Seek, true, body, 0));
    }
    let mut body = Vec::new();
    GrowReply { before_bytes: 1 << 30, capacity_bytes: 2 << 30 }.encode(&mut body);
    all.push(("Grow_reply".into(), Kind::Grow, true, body, 0));
}

fn scrub_samples(all: &mut Vec<Sample>) {
    let mut push = |name: &str, kind, reply, body| all.push((name.into(), kind, reply, body, 0));
    let target = TargetId(2);
    let scrub = ScrubInfo {
        running: true,
        bytes_per_second: 1,
        started_s: 2,
        finished_s: 3,
        checked_bytes: 4,
        total_bytes: 5,
        checked_chunks: 6,
        found_blocks: 7,
        index_gaps: 8,
        superblocks_bad: 9,
        superblocks_repaired: 10,
        listed_blocks: 11,
        unlisted_blocks: 12,
    };
    let health = |id, state, reason: &str| TargetHealth {
        id,
        path: "/dev/nvme0n1".into(),
        state,
        reason: reason.into(),
        scrub,
    };
    let targets = vec![
        health(target, TargetState::Online, ""),
        health(target, TargetState::ReadOnly, "a"),
        health(target, TargetState::Offline, "b"),
    ];
    let mut body = Vec::new();
    let reply = TargetHealthReply { targets };
    reply.encode(&mut body);
    assert_eq!(TargetHealthReply::decode(&body), Ok(reply));
    push("target_health", Kind::TargetHealth, true, body);
    for (name, action) in [
        ("scrub_start", ScrubAction::Start),
        ("scrub_again", ScrubAction::Again),
        ("scrub_stop", ScrubAction::Stop),
    ] {
        let mut body = Vec::new();
        let order = ScrubOrder { target, action, bytes_per_second: 64 << 20 };
        order.encode(&mut body);
        assert_eq!(ScrubOrder::decode(&body), Ok(order));
        push(name, Kind::Scrub, false, body);
    }
    let chunk = ChunkId { ino: Ino(9), index: ChunkIndex(1 << 33) };
    for (name, from) in [("damage_all", None), ("damage_from", Some((chunk, 5)))] {
        let mut body = Vec::new();
        let query = DamageQuery { target, from };
        query.encode(&mut body);
        assert_eq!(DamageQuery::decode(&body), Ok(query));
        push(name, Kind::DamageList, false, body);
    }
    let damage = |kind| Damage { chunk, first: 4, count: 2, kind };
    let kinds = [DamageKind::Mismatch, DamageKind::Unreadable, DamageKind::Index];
    let list = DamageReply { damages: kinds.map(damage).to_vec(), more: true };
    let mut body = Vec::new();
    list.encode(&mut body);
    assert_eq!(DamageReply::decode(&body), Ok(list));
    push("damage_list", Kind::DamageList, true, body);
    push("metrics", Kind::Metrics, false, Vec::new());
    push("metrics_text", Kind::Metrics, true, b"weft_server_connections{shard=\"0\"} 1\n".to_vec());
}

fn trace_samples(all: &mut Vec<Sample>) {
    let mut push = |name: &str, reply, body| all.push((name.into(), Kind::Trace, reply, body, 0));
    let query = TraceQuery { session: SessionId([6; 16]), ids: vec![3, 1 << 40] };
    let mut body = Vec::new();
    query.encode(&mut body);
    assert_eq!(TraceQuery::decode(&body), Ok(query));
    push("trace", false, body);
    let span = Span {
        request_id: 3,
        kind: Kind::Write,
        status: Status::Ok,
        target: Some(TargetId(5)),
        bytes: 1 << 20,
        received: 1_000,
        admitted: 1_001,
        device_began: 1_002,
        device_ended: 1 << 40,
        replied: (1 << 40) + 1,
    };
    let other = Span { target: None, device_began: 0, device_ended: 0, kind: Kind::Lookup, ..span };
    let reply = TraceReply { now: 1 << 41, oldest: 7, spans: vec![span, other] };
    let mut body = Vec::new();
    reply.encode(&mut body);
    assert_eq!(body.len(), 20 + 2 * weft_wire::trace::SPAN_BYTES);
    assert_eq!(TraceReply::decode(&body), Ok(reply));
    push("trace_spans", true, body);
}

fn lock_samples(all: &mut Vec<Sample>) {
    let mut push = |name: &str, kind, reply, body| all.push((name.into(), kind, reply, body, 0));
    let body = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        encode(&mut out);
        out
    };
    let (ino, range) = (Ino(9), LockRange::new(5, u64::MAX).expect("forward"));
    let owner = LockOwner { space: LockSpace::Range, id: 0x77 };
    let kind = LockKind::Exclusive;
    let lock = LockRequest { ino, owner, pid: 8, range, kind: Some(kind), wait: true, ticket: 6 };
    assert_eq!(LockRequest::decode(&body(&|out| lock.encode(out))), Ok(lock));
    push("lock", Kind::Lock, false, body(&|out| lock.encode(out)));
    let flock = LockOwner { space: LockSpace::Flock, ..owner };
    let unlock = LockRequest { owner: flock, kind: None, wait: false, ..lock };
    assert_eq!(LockRequest::decode(&body(&|out| unlock.encode(out))), Ok(unlock));
    push("unlock", Kind::Lock, false, body(&|out| unlock.encode(out)));
    let reply = LockReply { queued: true };
    assert_eq!(LockReply::decode(&body(&|out| reply.encode(out))), Ok(reply));
    push("lock_reply", Kind::Lock, true, body(&|out| reply.encode(out)));
    let test = LockTest { ino, owner, range, kind: LockKind::Shared };
    assert_eq!(LockTest::decode(&body(&|out| test.encode(out))), Ok(test));
    push("lock_test", Kind::LockTest, false, body(&|out| test.encode(out)));
    let conflict = LockConflict { range, kind, pid: 4 };
    for (name, conflict) in [("lock_free", None), ("lock_conflict", Some(conflict))] {
        let reply = LockTestReply { conflict };
        assert_eq!(LockTestReply::decode(&body(&|out| reply.encode(out))), Ok(reply));
        push(name, Kind::LockTest, true, body(&|out| reply.encode(out)));
    }
    let cancel = LockCancel { ticket: 6 };
    assert_eq!(LockCancel::decode(&body(&|out| cancel.encode(out))), Ok(cancel));
    push("lock_cancel", Kind::LockCancel, false, body(&|out| cancel.encode(out)));
    let reply = LockCancelReply { withdrawn: true };
    assert_eq!(LockCancelReply::decode(&body(&|out| reply.encode(out))), Ok(reply));
    push("lock_cancel_reply", Kind::LockCancel, true, body(&|out| reply.encode(out)));
    let held = HeldLock { range, kind, pid: 8 };
    let claim = LockClaim { locks: vec![ClaimedLock { ino, owner, held }], last: true };
    assert_eq!(LockClaim::decode(&body(&|out| claim.encode(out))), Ok(claim.clone()));
    push("lock_claim", Kind::LockClaim, false, body(&|out| claim.encode(out)));
    let reply = LockClaimReply { refused: vec![0] };
    assert_eq!(LockClaimReply::decode(&body(&|out| reply.encode(out))), Ok(reply.clone()));
    push("lock_claim_reply", Kind::LockClaim, true, body(&|out| reply.encode(out)));
    let events = LockEventsReply { events: vec![(6, Status::Ok), (7, Status::WouldBlock)] };
    assert_eq!(LockEventsReply::decode(&body(&|out| events.encode(out))), Ok(events.clone()));
    push("lock_events", Kind::LockEvents, true, body(&|out| events.encode(out)));
}

fn lease_samples(all: &mut Vec<Sample>) {
    let mut push = |name: &str, kind, reply, body| all.push((name.into(), kind, reply, body, 0));
    let modes = [LeaseMode::None, LeaseMode::Through, LeaseMode::Read];
    let inodes = modes.into_iter().zip(9..).map(|(keep, ino)| (Ino(ino), keep)).collect();
    let (mut body, recall) = (Vec::new(), Recall { inodes });
    recall.encode(&mut body);
    assert_eq!(Recall::decode(&body), Ok(recall));
    push("recall", Kind::Recall, false, body);
    push("recall_reply", Kind::Recall, true, Vec::new());
    let (mut body, reclaim) = (Vec::new(), Reclaim { inodes: vec![(Ino(9), 17, 19)], more: true });
    reclaim.encode(&mut body);
    assert_eq!(Reclaim::decode(&body), Ok(reclaim));
    push("reclaim", Kind::Reclaim, false, body);
    let (mut body, reclaimed) = (Vec::new(), Reclaimed { refused: vec![Ino(9)] });
    reclaimed.encode(&mut body);
    assert_eq!(Reclaimed::decode(&body), Ok(reclaimed));
    push("reclaim_reply", Kind::Reclaim, true, body);
}

/// All samples.
/// A rename that tells both directories.
fn parents_sample(all: &mut Vec<Sample>) {
    let mut body = Vec::new();
    let parents = [Attr { mode: 0o040_755, ..attr() }, attr()];
    push_parents(&mut body, &parents);
    all.push(("Rename_parents".into(), Kind::Rename, true, body.clone(), 0));
    assert_eq!(take_parents(&mut body).as_deref(), Ok(&parents[..]));
    assert!(body.is_empty(), "the rest is the reply itself");
    for bad in [&[3][..], &[1], &[1, 2, 3, 2]] {
        assert!(take_parents(&mut bad.to_vec()).is_err(), "{bad:?}");
    }
}

/// Data in inodes: what was added to messages that were there, and the new ones.
fn inline_samples(all: &mut Vec<Sample>) {
    let (ino, parent) = (Ino(9), Ino::ROOT);
    let how = |open| MakeHow {
        mode: 0o100_644,
        umask: 0o022,
        rdev: 0,
        exclusive: false,
        open,
        inline: true,
        fresh: false,
    };
    let make = |open| MetaRequest::Make { parent, name: b"n", how: how(open), target: b"" };
    let policy = |inline_bytes| LayoutPolicy { chunk_log2: 16, width: 2, inline_bytes };
    let write = DataWrite::new(ino, 5, b"data", Time { seconds: 3, nanos: 4 });
    let moves = |step| MetaRequest::MoveData { ino, step };
    let how_fresh = MakeHow { fresh: true, ..how(true) };
    let made_fresh = MetaRequest::Make { parent, name: b"n", how: how_fresh, target: b"" };
    let mtime = write.mtime;
    let (size_min, blocks_added, at_targets) = (9000, 3, true);
    let wrote = MetaRequest::Wrote { ino, size_min, mtime, blocks_added, at_targets };
    let untouched = DataWrite { untouched: true, ..write };
    let ctime = Some(Time { seconds: 6, nanos: 7 });
    let told = SetAttr { mode: Some(0o640), ctime, ..SetAttr::default() };
    for (name, request) in [
        ("Make_inline", make(false)),
        ("Make_inline_open", make(true)),
        ("Open_inline", MetaRequest::Open { ino, inline: true }),
        ("SetLayout_inline", MetaRequest::SetLayout { ino, policy: policy(0) }),
        ("GetData", MetaRequest::GetData { ino }),
        ("WriteData", MetaRequest::WriteData(write)),
        ("MoveData_stay", moves(MoveStep::Stay)),
        ("MoveData_begin", moves(MoveStep::Begin)),
        ("MoveData_end", moves(MoveStep::End)),
        ("Make_fresh", made_fresh),
        ("Wrote_at_targets", wrote),
        ("WriteData_untouched", MetaRequest::WriteData(untouched)),
        ("SetAttr_ctime", MetaRequest::SetAttr { ino, set: told }),
    ] {
        push_request(all, name.into(), &request);
    }
    let inline = |data: Option<&[u8]>| Inline { bytes_max: 4096, data: data.map(<[u8]>::to_vec) };
    let place = |data| Some(DataPlace { layout: layout(), inline: Some(inline(data)) });
    for (name, kind, reply) in [
        ("Make_reply_inline", Kind::Make, MetaReply::Made(attr(), false, place(None))),
        ("Open_reply_striped", Kind::Open, MetaReply::Opened(attr(), place(None).map(striped))),
        ("Open_reply_inline", Kind::Open, MetaReply::Opened(attr(), place(Some(b"data")))),
        ("GetData_reply", Kind::GetData, MetaReply::Data(attr(), Some(inline(Some(b"data"))))),
        ("GetData_reply_empty", Kind::GetData, MetaReply::Data(attr(), Some(inline(Some(b""))))),
        ("WriteData_reply", Kind::WriteData, MetaReply::Attr(attr())),
        ("MoveData_reply", Kind::MoveData, MetaReply::Data(attr(), None)),
        ("GetLayout_policy", Kind::GetLayout, MetaReply::Policy(policy(4096))),
        ("GetLayout_policy_inline", Kind::GetLayout, MetaReply::Policy(policy(100))),
    ] {
        push_reply(all, name.into(), kind, &reply);
    }
}

fn striped(place: DataPlace) -> DataPlace {
    DataPlace::striped(place.layout)
}

fn push_request(all: &mut Vec<Sample>, name: String, request: &MetaRequest<'_>) {
    let slot = if request.is_mutation() { 3 } else { NO_SLOT };
    let caller = Caller { uid: 1000, gid: 100, slot, sequence: 42 };
    let mut body = Vec::new();
    request.encode(&caller, &mut body);
    assert_eq!(MetaRequest::decode(request.kind(), &body), Ok((caller, request.clone())));
    all.push((name, request.kind(), false, body, 0));
}

fn push_reply(all: &mut Vec<Sample>, name: String, kind: Kind, reply: &MetaReply) {
    let mut body = Vec::new();
    reply.encode(&mut body);
    assert_eq!(MetaReply::decode(kind, &body).as_ref(), Ok(reply));
    all.push((name, kind, true, body, 0));
}

pub(crate) fn all() -> Vec<Sample> {
    let mut all: Vec<Sample> = Vec::new();
    session_samples(&mut all);
    lease_samples(&mut all);
    for request in requests() {
        push_request(&mut all, format!("{:?}", request.kind()), &request);
    }
    for (kind, reply) in replies() {
        push_reply(&mut all, format!("{kind:?}_reply"), kind, &reply);
    }
    inline_samples(&mut all);
    parents_sample(&mut all);
    data_samples(&mut all);
    scrub_samples(&mut all);
    lock_samples(&mut all);
    trace_samples(&mut all);
    all
}

/// A sample as a whole frame, payload left out.
pub(crate) fn frame(sample: &Sample) -> Vec<u8> {
    let (_, kind, reply, body, payload_bytes) = sample;
    let request = Header::request(*kind, 0x0102_0304_0506_0708, body, *payload_bytes);
    let header = if *reply { request.reply(Status::Ok, body, *payload_bytes) } else { request };
    [&header.encode()[..], body].concat()
}

/// Runs the decoder that a receiver would run on these bytes, whatever they are.
pub(crate) fn decode_any(kind: Kind, reply: bool, body: &[u8], payload_bytes: u32) {
    match (kind, reply) {
        (Kind::Hello, false) => drop(Hello::decode(body)),
        (Kind::Hello, true) => drop(Welcome::decode(body)),
        (Kind::ClusterMap, _) => drop(ClusterMap::decode(body)),
        (Kind::TargetList, _) => drop(TargetListReply::decode(body)),
        (Kind::TargetHealth, _) => drop(TargetHealthReply::decode(body)),
        (Kind::Recall, false) => drop(Recall::decode(body)),
        (Kind::Reclaim, false) => drop(Reclaim::decode(body)),
        (Kind::Reclaim, true) => drop(Reclaimed::decode(body)),
        (Kind::Scrub, _) => drop(ScrubOrder::decode(body)),
        (Kind::DamageList, false) => drop(DamageQuery::decode(body)),
        (Kind::DamageList, true) => drop(DamageReply::decode(body)),
        (Kind::Trace, false) => drop(TraceQuery::decode(body)),
        (Kind::Trace, true) => drop(TraceReply::decode(body)),
        (Kind::Lock, false) => drop(LockRequest::decode(body)),
        (Kind::Lock, true) => drop(LockReply::decode(body)),
        (Kind::LockTest, false) => drop(LockTest::decode(body)),
        (Kind::LockTest, true) => drop(LockTestReply::decode(body)),
        (Kind::LockCancel, false) => drop(LockCancel::decode(body)),
        (Kind::LockCancel, true) => drop(LockCancelReply::decode(body)),
        (Kind::LockClaim, false) => drop(LockClaim::decode(body)),
        (Kind::LockClaim, true) => drop(LockClaimReply::decode(body)),
        (Kind::LockEvents, true) => drop(LockEventsReply::decode(body)),
        (Kind::Read, true) => drop(ReadReply::decode(body, payload_bytes)),
        (Kind::Write | Kind::Zero, true) => drop(BlocksReply::decode(body)),
        (Kind::Copy, true) => drop(CopyReply::decode(body)),
        (Kind::Seek, true) => drop(SeekReply::decode(body)),
        (Kind::Grow, true) => drop(GrowReply::decode(body)),
        (Kind::ChunkList, true) => drop(ChunkListReply::decode(body)),
        (Kind::Rename, true) => drop(take_parents(&mut body.to_vec())),
        (kind, false) if kind.is_data() => {
            assert!(body.len() < 26 || Subject::of(kind, body).is_some());
            drop(DataRequest::decode(kind, body, payload_bytes));
        }
        (kind, false) => drop(MetaRequest::decode(kind, body)),
        (kind, true) => {
            if let Ok(MetaReply::Dir(packed, _)) = MetaReply::decode(kind, body) {
                MetaReply::dir_entries(&packed).for_each(drop);
            }
        }
    }
}
