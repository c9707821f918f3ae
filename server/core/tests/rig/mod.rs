//! One shard over real stores and a real volume, on devices in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use weft_iobuf::Pool;
use weft_metadata::{LogDevice, Volume, VolumeParams};
use weft_net::Frame;
use weft_server_core::memory::{MemoryPlan, SHARD_BYTES_MIN};
use weft_server_core::{
    Action, ConnId, Now, OfflineTarget, ScrubSchedule, Shard, ShardParams, TargetParams,
};
use weft_store::{Action as Io, Device, IoDone, IoError, IoId, OpenParams, Store, TargetUuid};
use weft_wire::blocks::checksums;
use weft_wire::data::{ChunkRange, DataRequest};
use weft_wire::lease::{Reclaim, Reclaimed};
use weft_wire::meta::{Caller, MakeHow, MetaReply, MetaRequest, NO_SLOT, Time};
use weft_wire::session::{
    ClusterMap, FEATURE_FENCES, FEATURE_LEASES, Hello, NodeEntry, Place, Welcome,
};
use weft_wire::{
    ChunkId, ChunkIndex, ClusterId, Header, Ino, Kind, LeaseBits, SessionId, ShardId, Status,
    TargetId, VolumeId,
};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const BOOT: u64 = 77;
const TARGETS: u16 = 2;
const MIB: u64 = 1 << 20;

/// A device in memory.
pub(crate) struct Memory(Vec<u8>);

impl Memory {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        let at = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.0[at..at + buf.len()]);
    }
}

impl Device for Memory {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.read(offset, buf);
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn len_bytes(&self) -> u64 {
        u64::try_from(self.0.len()).unwrap()
    }
}

impl LogDevice for Memory {
    fn len_bytes(&mut self) -> std::io::Result<u64> {
        Ok(Device::len_bytes(self))
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.read(offset, buffer);
        Ok(())
    }
}

/// What a target's flushes come to.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Flush {
    Works,
    Fails,
    /// It is under way until the process is killed, or told to end.
    Hangs,
}

/// A status, the body and the payload of an answer.
type Answer = (Status, Vec<u8>, Vec<u8>);

pub(crate) struct Node {
    dir: TempDir,
    targets: Vec<Memory>,
    log: Memory,
    pub(crate) flush: Vec<Flush>,
    /// Targets that write no data.
    pub(crate) unwritable: BTreeSet<usize>,
    pool: Pool,
    pub(crate) shard: Option<Shard>,
    /// Targets of the shard, in its order.
    online: Vec<usize>,
    hung: Vec<(usize, IoId)>,
    /// Reads of targets do not end.
    pub(crate) reads_hang: bool,
    hung_reads: Vec<(usize, Io)>,
    pub(crate) stopped: bool,
    now: Duration,
    request_id: u64,
    sequence: u64,
    /// Who speaks: its connection and session have this number.
    pub(crate) client: u8,
    pub(crate) lease_time: Duration,
    /// What its hello says it can do.
    pub(crate) features: u64,
    /// Writes of the volume's log do not end: the first of them.
    pub(crate) log_hangs: bool,
    hung_log: Option<(u64, u64, Vec<u8>)>,
    /// What clients were asked to give back: the client, and the recall's number.
    pub(crate) recalls: Vec<(u8, u64)>,
    pub(crate) answers: BTreeMap<u64, Answer>,
    /// Connections that the shard closed.
    pub(crate) closed: Vec<ConnId>,
}

impl Node {
    pub(crate) fn new() -> Node {
        let dir = tempfile::tempdir().unwrap();
        let targets = (0..TARGETS).map(|id| format(dir.path(), id)).collect();
        let params = weft_metadata::FormatParams {
            segment_bytes: 1 << 20,
            root_mode: 0o777,
            ..weft_metadata::FormatParams::new(CLUSTER, Time::default(), [5; 24])
        };
        std::fs::create_dir(dir.path().join("volume")).unwrap();
        Volume::format(&dir.path().join("volume"), &params).unwrap();
        let log_bytes = usize::try_from(weft_metadata::log_bytes(1 << 20)).unwrap();
        Node {
            dir,
            targets,
            log: Memory(vec![0; log_bytes]),
            flush: vec![Flush::Works; usize::from(TARGETS)],
            unwritable: BTreeSet::new(),
            pool: Pool::new(16 << 20, 1 << 20).unwrap(),
            shard: None,
            online: Vec::new(),
            hung: Vec::new(),
            reads_hang: false,
            hung_reads: Vec::new(),
            stopped: false,
            now: Duration::from_secs(1),
            request_id: 0,
            sequence: 0,
            client: 4,
            // Nobody else is there to be waited for.
            lease_time: Duration::ZERO,
            features: FEATURE_LEASES | FEATURE_FENCES,
            log_hangs: false,
            hung_log: None,
            recalls: Vec::new(),
            answers: BTreeMap::new(),
            closed: Vec::new(),
        }
    }

    fn conn(&self) -> ConnId {
        ConnId(u64::from(self.client))
    }

    fn now(&self) -> Now {
        Now { mono: self.now, wall: Time::default() }
    }

    /// Starts the server, in the same boot, after a kill of the last one; without the targets that are `gone`.
    pub(crate) fn start(&mut self, gone: &[u16]) {
        self.shard = None;
        self.hung.clear();
        (self.log_hangs, self.hung_log) = (false, None);
        self.answers.clear();
        let ids: Vec<u16> = (0..TARGETS).filter(|id| !gone.contains(id)).collect();
        let targets = ids.iter().map(|id| self.open(*id)).collect();
        let params = VolumeParams::new(CLUSTER, (0..TARGETS).map(TargetId).collect());
        let volume = Volume::open(&self.dir.path().join("volume"), &params, &mut self.log);
        let place = Place { node: 0, shard: ShardId(0) };
        let map = ClusterMap {
            nodes: vec![NodeEntry { name: "n".into(), address: String::new(), shard_count: 1 }],
            targets: (0..TARGETS).map(|id| (TargetId(id), place)).collect(),
            volumes: vec![(VolumeId(0), place)],
        };
        let offline = gone.iter().map(|id| {
            let (path, reason) = (id.to_string(), "it is gone".into());
            OfflineTarget { id: TargetId(*id), path, reason }
        });
        let params = ShardParams {
            id: ShardId(0),
            cluster: CLUSTER,
            epoch: 1,
            boot: BOOT,
            credits: 16,
            payload_bytes_max: MIB,
            memory: memory_plan(),
            session_timeout: Duration::from_secs(60),
            lease_time: self.lease_time,
            grace: Duration::ZERO,
            map,
            targets,
            offline: offline.collect(),
            offline_of_node: gone.iter().map(|id| TargetId(*id)).collect::<BTreeSet<_>>(),
            scrub: ScrubSchedule { interval: None, bytes_per_second: 1 << 20 },
            volume: Some(volume.unwrap().0),
        };
        let mut shard = Shard::new(params, self.pool.clone());
        shard.start(self.now()).unwrap();
        self.shard = Some(shard);
        self.online = ids.into_iter().map(usize::from).collect();
        self.run();
    }

    fn open(&mut self, id: u16) -> TargetParams {
        let dir = index_dir(self.dir.path(), id);
        let params = OpenParams { boot_id: [3; 16], ..OpenParams::new(dir, CLUSTER) };
        let (store, _) = Store::open(params, &mut self.targets[usize::from(id)]).unwrap();
        let uuid = store.superblock().target_uuid.0;
        TargetParams { id: TargetId(id), uuid, path: id.to_string(), store }
    }

    /// Says hello.
    pub(crate) fn hello(&mut self) -> Welcome {
        let conn = self.conn();
        self.shard.as_mut().unwrap().opened(conn);
        let hello = Hello {
            versions: (1, 1),
            features: self.features,
            cluster: CLUSTER,
            session: SessionId([self.client; 16]),
            shard: ShardId(0),
        };
        let mut body = Vec::new();
        hello.encode(&mut body);
        let (status, body, _) = self.ask(Kind::Hello, body, None);
        assert_eq!(status, Status::Ok);
        Welcome::decode(&body).unwrap()
    }

    /// Starts the server with all targets; gives the welcome's boot.
    pub(crate) fn restarted(&mut self) -> u64 {
        self.start(&[]);
        self.hello().boot
    }

    /// Asks for what is answered when nothing is under way.
    fn ask(&mut self, kind: Kind, body: Vec<u8>, payload: Option<&[u8]>) -> Answer {
        let id = self.send(kind, body, payload);
        self.answers.remove(&id).expect("nothing is under way, so it was answered")
    }

    pub(crate) fn send(&mut self, kind: Kind, body: Vec<u8>, payload: Option<&[u8]>) -> u64 {
        self.send_wanting(LeaseBits::NONE, kind, body, payload)
    }

    fn send_wanting(
        &mut self,
        lease: LeaseBits,
        kind: Kind,
        body: Vec<u8>,
        payload: Option<&[u8]>,
    ) -> u64 {
        self.request_id += 1;
        let payload = payload.map(|bytes| {
            let mut slot = self.pool.alloc(bytes.len()).unwrap();
            slot.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
            (slot, 0..bytes.len())
        });
        let payload_bytes = payload.as_ref().map_or(0, |(_, range)| range.len());
        let payload_bytes = u32::try_from(payload_bytes).unwrap();
        let base = Header::request(kind, self.request_id, &body, payload_bytes);
        let header = Header { lease, ..base };
        let now = self.now();
        let conn = self.conn();
        self.shard.as_mut().unwrap().frame(conn, Frame { header, body, payload }, now);
        self.run();
        self.request_id
    }

    /// Sends a change of the namespace; gives its request.
    pub(crate) fn change(&mut self, request: &MetaRequest<'_>) -> u64 {
        self.sequence += 1;
        let caller = Caller { uid: 0, gid: 0, slot: 0, sequence: self.sequence };
        let mut body = Vec::new();
        request.encode(&caller, &mut body);
        self.send(request.kind(), body, None)
    }

    pub(crate) fn look(&mut self, request: &MetaRequest<'_>) -> Result<MetaReply, Status> {
        let body = body_of(request);
        match self.ask(request.kind(), body, None) {
            (Status::Ok, body, _) => Ok(MetaReply::decode(request.kind(), &body).unwrap()),
            (status, ..) => Err(status),
        }
    }

    /// Sends what only looks; gives its request.
    pub(crate) fn ask_for(&mut self, request: &MetaRequest<'_>) -> u64 {
        self.send(request.kind(), body_of(request), None)
    }

    /// Asks for attributes, and for leases with them; gives the request.
    pub(crate) fn want_attributes(&mut self, ino: Ino, wants: LeaseBits) -> u64 {
        self.send_wanting(wants, Kind::GetAttr, body_of(&MetaRequest::GetAttr { ino }), None)
    }

    pub(crate) fn requests_bytes_max() -> u64 {
        memory_plan().requests_bytes
    }

    /// Clients give back what they were asked for.
    pub(crate) fn give_back(&mut self) {
        for (client, id) in std::mem::take(&mut self.recalls) {
            let base = Header::request(Kind::Recall, id, &[], 0);
            let header = Header { reply: true, ..base };
            let frame = Frame { header, body: Vec::new(), payload: None };
            let (conn, now) = (ConnId(u64::from(client)), self.now());
            self.shard.as_mut().unwrap().frame(conn, frame, now);
        }
        self.run();
    }

    /// The write of the log that hung ends well.
    pub(crate) fn log_goes_on(&mut self) {
        self.log_hangs = false;
        if let Some((io, offset, bytes)) = self.hung_log.take() {
            self.act(Action::Volume(weft_metadata::Action::AppendLog { io, offset, bytes }));
        }
        self.run();
    }

    /// Says what it has to write, and between which versions; whether that is refused.
    pub(crate) fn reclaim(&mut self, ino: Ino, versions: (u64, u64)) -> bool {
        let reclaim = Reclaim { inodes: vec![(ino, versions.0, versions.1)], more: false };
        let mut body = Vec::new();
        reclaim.encode(&mut body);
        let (status, body, _) = self.ask(Kind::Reclaim, body, None);
        assert_eq!(status, Status::Ok);
        !Reclaimed::decode(&body).unwrap().refused.is_empty()
    }

    /// The server is told to end; then the flushes that hang end well.
    pub(crate) fn stop(&mut self) {
        let now = self.now();
        let shard = self.shard.as_mut().unwrap();
        shard.stop(now);
        for (index, io) in std::mem::take(&mut self.hung) {
            shard.target_io_done(index, io, Ok(IoDone::default()), now);
        }
        self.run();
    }

    /// The reads that hang end well.
    pub(crate) fn reads_go_on(&mut self) {
        self.reads_hang = false;
        for (index, action) in std::mem::take(&mut self.hung_reads) {
            self.target_io(index, action);
        }
        self.run();
    }

    /// Another shard says something.
    pub(crate) fn tell(&mut self, message: weft_server_core::Message) {
        let now = self.now();
        self.shard.as_mut().unwrap().message(message, now);
        self.run();
    }

    /// A bit of these bytes, which a target has once, turns over.
    pub(crate) fn damage(&mut self, target: usize, bytes: &[u8]) {
        let disk = &mut self.targets[target].0;
        let at = disk.windows(bytes.len()).position(|it| it == bytes).unwrap();
        disk[at] ^= 1;
    }

    /// Time passes.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.run();
    }

    /// The connection is gone, and time passes.
    pub(crate) fn cut_off(&mut self, time: Duration) {
        let now = self.now();
        let conn = self.conn();
        self.shard.as_mut().unwrap().closed(conn, now);
        self.wait(time);
    }

    /// Makes a file whose data is at its targets.
    pub(crate) fn make(&mut self, name: &[u8]) -> Ino {
        self.make_how(name, false)
    }

    /// Makes one whose data is in the inode.
    pub(crate) fn make_small(&mut self, name: &[u8]) -> Ino {
        self.make_how(name, true)
    }

    fn make_how(&mut self, name: &[u8], inline: bool) -> Ino {
        let how = MakeHow {
            mode: 0o100_644,
            umask: 0,
            rdev: 0,
            exclusive: true,
            open: false,
            inline,
            fresh: false,
        };
        let request = MetaRequest::Make { parent: Ino::ROOT, name, how, target: b"" };
        let id = self.change(&request);
        let (status, body, _) = self.answers.remove(&id).unwrap();
        assert_eq!(status, Status::Ok);
        let Ok(MetaReply::Made(attr, true, Some(place))) = MetaReply::decode(Kind::Make, &body)
        else {
            panic!()
        };
        assert_eq!(place.inline.is_some(), inline);
        attr.ino
    }

    pub(crate) fn data(
        &mut self,
        target: u16,
        request: &DataRequest,
        payload: Option<&[u8]>,
    ) -> Status {
        self.read(target, request, payload).0
    }

    /// Sends a data request; gives its status and payload.
    pub(crate) fn read(
        &mut self,
        target: u16,
        request: &DataRequest,
        payload: Option<&[u8]>,
    ) -> (Status, Vec<u8>) {
        let mut body = Vec::new();
        request.encode(TargetId(target), &mut body);
        let (status, _, payload) = self.ask(request.kind(), body, payload);
        (status, payload)
    }

    /// Does what the shard wants until it wants no more.
    fn run(&mut self) {
        for quiet in [false, true] {
            loop {
                let now = self.now();
                let shard = self.shard.as_mut().unwrap();
                let actions = shard.take_actions(now);
                if actions.is_empty() {
                    break;
                }
                actions.into_iter().for_each(|action| self.act(action));
            }
            if !quiet {
                // What was put off goes with a tick.
                self.now += Duration::from_millis(50);
                let now = self.now();
                self.shard.as_mut().unwrap().tick(now);
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { conn, head, pieces } => self.take_answer(conn, &head, &pieces),
            Action::Target { index, action } => self.target_io(index, action),
            Action::Volume(weft_metadata::Action::AppendLog { io, offset, bytes }) => {
                if self.log_hangs {
                    return self.hung_log = Some((io, offset, bytes));
                }
                self.log.write(offset, &bytes);
                let now = self.now();
                self.shard.as_mut().unwrap().volume_io_done(io, Ok(()), now);
            }
            Action::Volume(weft_metadata::Action::WriteCheckpoint(checkpoint)) => {
                let (written, now) = (checkpoint.write(), self.now());
                self.shard.as_mut().unwrap().checkpoint_written(written, now);
            }
            Action::OpenUp { .. } => {}
            Action::Close { conn } => self.closed.push(conn),
            Action::Stopped => self.stopped = true,
            action => panic!("{action:?}"),
        }
    }

    fn take_answer(&mut self, conn: ConnId, head: &[u8], pieces: &[weft_store::ReadPiece]) {
        let header = Header::decode(head).unwrap();
        if header.kind == Kind::Recall {
            return self.recalls.push((u8::try_from(conn.0).unwrap(), header.request_id));
        }
        let body = head[head.len() - usize::try_from(header.body_bytes).unwrap()..].to_vec();
        let mut payload = Vec::new();
        for piece in pieces {
            let bytes = usize::try_from(piece.bytes()).unwrap();
            match piece {
                weft_store::ReadPiece::Data { slot, .. } => {
                    payload.extend_from_slice(&slot.as_slice()[..bytes]);
                }
                weft_store::ReadPiece::Zeros { .. } => payload.resize(payload.len() + bytes, 0),
            }
        }
        self.answers.insert(header.request_id, (header.status, body, payload));
    }

    fn target_io(&mut self, index: usize, action: Io) {
        if self.reads_hang && matches!(action, Io::ReadData { .. }) {
            return self.hung_reads.push((index, action));
        }
        if let Io::WriteCheckpoint(checkpoint) = action {
            let (written, now) = (checkpoint.write(), self.now());
            return self.shard.as_mut().unwrap().target_written(index, written, now);
        }
        let target = self.online[index];
        let disk = &mut self.targets[target];
        let length = |bytes: u32| usize::try_from(bytes).unwrap();
        let (io, result) = match action {
            Io::ReadData { io, offset, mut buf, bytes } => {
                disk.read(offset, &mut buf.as_mut_slice()[..length(bytes)]);
                (io, Ok(IoDone { buf: Some(buf), ..IoDone::default() }))
            }
            Io::WriteData { io, .. } if self.unwritable.contains(&target) => {
                (io, Err(IoError { errno: 5, buf: None }))
            }
            Io::WriteData { io, offset, buf, start, bytes } => {
                disk.write(offset, &buf[length(start)..length(start) + length(bytes)]);
                (io, Ok(IoDone::default()))
            }
            Io::AppendJournal { io, offset, bytes, .. } => {
                disk.write(offset, &bytes);
                (io, Ok(IoDone::default()))
            }
            Io::GoOn { io } => (io, Ok(IoDone::default())),
            Io::Flush { io } => match self.flush[target] {
                Flush::Works => (io, Ok(IoDone::default())),
                Flush::Fails => (io, Err(IoError { errno: 5, buf: None })),
                Flush::Hangs => return self.hung.push((index, io)),
            },
            action => panic!("{action:?}"),
        };
        let now = self.now();
        self.shard.as_mut().unwrap().target_io_done(index, io, result, now);
    }
}

/// The body of a request that only looks.
fn body_of(request: &MetaRequest<'_>) -> Vec<u8> {
    let caller = Caller { uid: 0, gid: 0, slot: NO_SLOT, sequence: 0 };
    let mut body = Vec::new();
    request.encode(&caller, &mut body);
    body
}

fn memory_plan() -> MemoryPlan {
    MemoryPlan::new(SHARD_BYTES_MIN, 0, true).unwrap()
}

fn index_dir(dir: &Path, id: u16) -> PathBuf {
    dir.join(format!("target-{id}"))
}

fn format(dir: &Path, id: u16) -> Memory {
    let params = weft_store::FormatParams {
        cluster: CLUSTER,
        target_uuid: TargetUuid([u8::try_from(id + 1).unwrap(); 16]),
        target_id: TargetId(id),
        capacity_bytes: 16 * MIB,
    };
    let plan = weft_store::format_plan(&params).unwrap();
    let mut disk = Memory(vec![0; 16 << 20]);
    Store::create_index(&index_dir(dir, id), &plan.superblock).unwrap();
    plan.writes.iter().for_each(|(offset, bytes)| disk.write(*offset, bytes));
    disk
}

/// Writes `bytes` to the start of a chunk.
pub(crate) fn write(ino: Ino, index: u64, bytes: &[u8]) -> DataRequest {
    let chunk = ChunkId { ino, index: ChunkIndex(index) };
    let range = ChunkRange { chunk, offset: 0, bytes: u32::try_from(bytes.len()).unwrap() };
    DataRequest::Write(range, checksums(0, bytes))
}

/// Reads the first block of a chunk.
pub(crate) fn read(ino: Ino, index: u64) -> DataRequest {
    let chunk = ChunkId { ino, index: ChunkIndex(index) };
    DataRequest::Read(ChunkRange { chunk, offset: 0, bytes: 4096 })
}
