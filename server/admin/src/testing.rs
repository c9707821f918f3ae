//! A server of a thread and a socket, for tests: answers hello, map, target list and reads as told, or misbehaves.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weft_wire::blocks::{BLOCK_LEN, crc32c};
use weft_wire::data::{ChunkInfo, ChunkListReply, DataRequest, GrowReply, ReadReply};
use weft_wire::header::HEADER_BYTES;
use weft_wire::layout::LayoutPolicy;
use weft_wire::meta::{Attr, Inline, MetaReply, MetaRequest, StatFs, Time};
use weft_wire::scrub::{ScrubInfo, TargetHealth, TargetHealthReply, TargetState};
use weft_wire::session::{
    ClusterMap, FEATURE_INLINE, FEATURE_TRACE, Hello, NodeEntry, Place, TargetInfo,
    TargetListReply, Welcome,
};
use weft_wire::units::to_usize;
use weft_wire::{
    ChunkIndex, ClusterId, Header, Ino, Kind, Layout, ShardId, Status, TargetId, VolumeId,
};

/// The cluster of every test server.
pub(crate) const CLUSTER: ClusterId = ClusterId([9; 16]);

/// How a test server behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Manner {
    /// As it should: two shards, targets 1 and 2 on them, the volume on shard 0.
    Good,
    /// Sends bytes that are no frame.
    Garbage,
    /// Takes connections and never answers.
    Silent,
    /// One byte of an answer now and then.
    Trickle,
    /// Closes after the hello is read.
    HangUp,
    /// A right frame, but the answer to another request.
    OtherRequest,
    /// Shard 1 refuses its hello.
    OneShardDown,
    /// Target 2 answers reads with an error.
    OneTargetDown,
    /// The blocks of a read do not match their checksums.
    BadBlocks,
    /// Does not say that it knows of data in inodes.
    Older,
    /// Says that it knows trace, and answers that with what is none.
    BadTrace,
    /// Answers `Busy` the first time each request comes.
    BusyOnce,
}

/// What the server was asked to change, for a test to look at.
pub(crate) type Changes = Arc<Mutex<Vec<(Ino, LayoutPolicy)>>>;

/// Starts a server; it ends with the test process. Gives its address and the changes it took.
pub(crate) fn serve(manner: Manner) -> (String, Changes) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let changes = Changes::default();
    let seen = Arc::clone(&changes);
    let accept = move || {
        while let Ok((stream, _)) = listener.accept() {
            let seen = Arc::clone(&seen);
            thread(move || talk(stream, manner, &seen).unwrap_or(()));
        }
    };
    thread(accept);
    (address, changes)
}

fn thread(body: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().name("test-server".to_owned()).spawn(body).expect("a thread");
}

fn talk(mut stream: TcpStream, manner: Manner, changes: &Changes) -> std::io::Result<()> {
    let mut shard = ShardId(0);
    let mut last_busy = None;
    loop {
        let mut head = [0u8; HEADER_BYTES];
        stream.read_exact(&mut head)?;
        let header = Header::decode(&head).expect("the client sends good frames");
        let mut body = vec![0u8; to_usize(u64::from(header.body_bytes))];
        stream.read_exact(&mut body)?;
        header.check_body(&body).expect("the client sends good bodies");
        if header.kind == Kind::Hello {
            shard = Hello::decode(&body).expect("a hello").shard;
        }
        match manner {
            Manner::Garbage => {
                stream.write_all(&[b'x'; 200])?;
                continue;
            }
            Manner::Silent => continue,
            Manner::HangUp => return Ok(()),
            Manner::Trickle => {
                stream.write_all(&head[..1])?;
                std::thread::park_timeout(Duration::from_millis(10));
                stream.write_all(&head[1..2])?;
                continue;
            }
            _ => {}
        }
        let (mut status, mut reply, mut payload) = answer(&header, &body, shard, manner, changes);
        if manner == Manner::BusyOnce && last_busy != Some(header.kind) {
            (status, reply, payload) = (Status::Busy, Vec::new(), Vec::new());
            last_busy = Some(header.kind);
        }
        let payload_bytes = u32::try_from(payload.len()).expect("small");
        let mut answered = header.reply(status, &reply, payload_bytes);
        answered.request_id += u64::from(manner == Manner::OtherRequest);
        stream.write_all(&answered.encode())?;
        stream.write_all(&reply)?;
        stream.write_all(&payload)?;
    }
}

type Answer = (Status, Vec<u8>, Vec<u8>);

fn answer(
    header: &Header,
    body: &[u8],
    shard: ShardId,
    manner: Manner,
    changes: &Changes,
) -> Answer {
    let mut out = Vec::new();
    match header.kind {
        Kind::Hello => {
            let hello = Hello::decode(body).expect("a hello");
            if hello.cluster != CLUSTER && hello.cluster != ClusterId::default() {
                return (Status::WrongCluster, out, Vec::new());
            }
            if manner == Manner::OneShardDown && shard == ShardId(1) {
                return (Status::Unavailable, out, Vec::new());
            }
            let features = match manner {
                Manner::BadTrace => FEATURE_TRACE | FEATURE_INLINE,
                Manner::Older => 0,
                _ => FEATURE_INLINE,
            };
            Welcome { features, ..welcome(shard) }.encode(&mut out);
        }
        Kind::Trace if manner == Manner::BadTrace => out.extend_from_slice(&[0xff; 30]),
        Kind::Trace => panic!("a server that does not know it would hang up"),
        Kind::ClusterMap => map().encode(&mut out),
        Kind::TargetList => TargetListReply { targets: vec![target(shard)] }.encode(&mut out),
        Kind::TargetHealth => TargetHealthReply { targets: vec![health(shard)] }.encode(&mut out),
        Kind::Goodbye | Kind::Ping => {}
        kind if kind.is_metadata() => return meta(kind, body, changes),
        kind if kind.is_data() => return data(kind, body, manner),
        _ => return (Status::NotSupported, out, Vec::new()),
    }
    (Status::Ok, out, Vec::new())
}

fn welcome(shard: ShardId) -> Welcome {
    Welcome {
        version: 1,
        features: 0,
        cluster: CLUSTER,
        shard_count: 2,
        epoch: 77,
        credits: 128,
        payload_bytes_max: 1 << 24,
        boot: 0,
        slot_count: if shard == ShardId(0) { 16 } else { 0 },
        lease_ms: 0,
        fence: 0,
    }
}

fn map() -> ClusterMap {
    let place = |shard| Place { node: 0, shard: ShardId(shard) };
    ClusterMap {
        nodes: vec![NodeEntry { name: "n1".to_owned(), address: String::new(), shard_count: 2 }],
        targets: vec![(TargetId(1), place(0)), (TargetId(2), place(1))],
        volumes: vec![(VolumeId(0), place(0))],
    }
}

fn target(shard: ShardId) -> TargetInfo {
    TargetInfo {
        id: TargetId(shard.0 + 1),
        uuid: [3; 16],
        shard,
        path: format!("/dev/nvme{shard}n1"),
        total_bytes: 4 << 30,
        free_bytes: 3 << 30,
        chunk_count: 12,
        op_counts: (5, 6),
        damaged_blocks: 0,
    }
}

/// Target 2 has stopped writing.
fn health(shard: ShardId) -> TargetHealth {
    let (state, reason) = match shard.0 {
        0 => (TargetState::Online, ""),
        _ => (TargetState::ReadOnly, "a flush failed"),
    };
    TargetHealth {
        id: TargetId(shard.0 + 1),
        path: format!("/dev/nvme{shard}n1"),
        state,
        reason: reason.to_owned(),
        scrub: ScrubInfo::default(),
    }
}

fn attr(ino: Ino) -> Attr {
    let time = Time::default();
    let mode = if ino == Ino::ROOT { 0o040_755 } else { 0o100_644 };
    Attr {
        ino,
        mode,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 6 << 20,
        blocks: 6 << 8,
        version: 1,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
    }
}

fn meta(kind: Kind, body: &[u8], changes: &Changes) -> Answer {
    let (_, request) = MetaRequest::decode(kind, body).expect("a good metadata request");
    let reply = match request {
        MetaRequest::GetAttr { ino } => MetaReply::Attr(attr(ino)),
        MetaRequest::GetLayout { ino: Ino::ROOT } => MetaReply::Policy(LayoutPolicy::default()),
        MetaRequest::GetData { ino } => {
            let data = (ino == Ino(7)).then(|| Inline { bytes_max: 4096, data: Some(vec![1; 4]) });
            MetaReply::Data(attr(ino), data)
        }
        MetaRequest::GetLayout { .. } => {
            MetaReply::Layout(Layout::new(20, vec![TargetId(1), TargetId(2)]).expect("valid"))
        }
        MetaRequest::SetLayout { ino, policy } => {
            changes.lock().expect("no panic").push((ino, policy));
            MetaReply::Done
        }
        MetaRequest::StatFs => MetaReply::StatFs(StatFs {
            total_bytes: 8 << 30,
            free_bytes: 6 << 30,
            inodes: 10,
            inodes_free: 1000,
        }),
        _ => return (Status::NotSupported, Vec::new(), Vec::new()),
    };
    let mut out = Vec::new();
    reply.encode(&mut out);
    (Status::Ok, out, Vec::new())
}

fn data(kind: Kind, body: &[u8], manner: Manner) -> Answer {
    let (target, request) = DataRequest::decode(kind, body, 0).expect("a good data request");
    if manner == Manner::OneTargetDown && target == TargetId(2) {
        return (Status::Io, Vec::new(), Vec::new());
    }
    let mut out = Vec::new();
    let mut payload = Vec::new();
    match request {
        DataRequest::Read(_) => {
            payload = vec![0u8; BLOCK_LEN];
            let bad = u32::from(manner == Manner::BadBlocks);
            ReadReply { first_block: 0, sums: vec![crc32c(&payload) ^ bad] }.encode(&mut out);
        }
        // Target 1 has chunks 0 and 4, a page each; target 2 has the first half of chunk 1.
        DataRequest::ChunkList(_, from) => {
            let (index, blocks_written) = match (target.0, from.0) {
                (1, 0) => (0, 256),
                (1, 1..=4) => (4, 256),
                (2, 0 | 1) => (1, 128),
                _ => unreachable!("nothing more was announced"),
            };
            let chunk = ChunkInfo {
                index: ChunkIndex(index),
                blocks_written,
                blocks_allocated: 256,
                extent_count: 1,
            };
            let more = (target.0, index) == (1, 0);
            ChunkListReply { chunks: vec![chunk], more }.encode(&mut out);
        }
        DataRequest::Grow if target == TargetId(2) => {
            return (Status::Invalid, Vec::new(), Vec::new());
        }
        DataRequest::Grow => {
            GrowReply { before_bytes: 4 << 30, capacity_bytes: 5 << 30 }.encode(&mut out);
        }
        _ => return (Status::NotSupported, Vec::new(), Vec::new()),
    }
    (Status::Ok, out, payload)
}
