//! A cluster of one node that speaks the real messages: a namespace, chunks that are volatile until synced, slots.
//! Only as far as the tests need; it panics when a client breaks a rule.

use std::collections::BTreeMap;

use weft_iobuf::Pool;
use weft_net::Frame;
use weft_wire::blocks::{BLOCK_BYTES, BLOCK_LEN, checksums, first_mismatch};
use weft_wire::data::{BlocksReply, CopyReply, DataRequest, Known, ReadReply, SeekReply, ZeroHow};
use weft_wire::header::{HEADER_BYTES, Header};
use weft_wire::lease::{Reclaim, Reclaimed};
use weft_wire::locks::{LockClaim, LockClaimReply, LockRequest};
use weft_wire::meta::{
    Attr, DataPlace, DirEntry, FileKind, Inline, MakeHow, MetaReply, MetaRequest, MoveStep,
    NO_SLOT, SetAttr, StatFs, Time, TimeSet, push_dir_entry, push_parents,
};
use weft_wire::session::{
    ClusterMap, FEATURE_COPY, FEATURE_CTIME, FEATURE_LEASES, FEATURE_PARENTS, FEATURE_SYNC_ALL,
    FENCE_ENDED, Hello, NodeEntry, Place, Welcome,
};
use weft_wire::units::{to_u32, to_u64, to_usize};
use weft_wire::{
    ChunkIndex, ClusterId, Ino, Kind, Layout, LeaseBits, ShardId, Status, TargetId, VolumeId,
};

pub(super) const CLUSTER: ClusterId = ClusterId([9; 16]);
pub(super) const CHUNK_LOG2: u8 = 16;

pub(super) struct Inode {
    pub(super) attr: Attr,
    pub(super) names: BTreeMap<Vec<u8>, Ino>,
    pub(super) opens: u32,
    link: Vec<u8>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The data, where it is in the inode.
    pub(super) inline: Option<Vec<u8>>,
    /// Whoever made it may have begun at the targets.
    pub(super) fresh: bool,
}

/// Bytes that fit an inode.
pub(super) const INLINE_MAX: u16 = 4096;

type Chunks = BTreeMap<(Ino, ChunkIndex), Vec<u8>>;

#[derive(Default)]
pub(super) struct Target {
    pub(super) chunks: Chunks,
    durable: Chunks,
}

pub(super) struct Fake {
    pub(super) inodes: BTreeMap<Ino, Inode>,
    pub(super) targets: BTreeMap<TargetId, Target>,
    next_ino: u64,
    clock: i64,
    pub(super) slots: BTreeMap<u16, (u64, Status, Vec<u8>)>,
    pub(super) slot_count: u16,
    pub(super) epochs: [u64; 2],
    pub(super) credits: u32,
    pub(super) lease_ms: u32,
    pub(super) features: u64,
    pub(super) fence: u32,
    /// The machine's boot; 0: each start of a process is of another, and loses what was not synced.
    pub(super) boot: u64,
    /// What is granted to whoever asks.
    pub(super) grants: bool,
    /// Others write every file, too.
    pub(super) shared: bool,
    /// What a reclaim is told is not its own any more.
    pub(super) refused: Vec<Ino>,
    /// What was reclaimed.
    pub(super) reclaimed: Vec<Reclaim>,
    /// Where in their chunks writes ended.
    pub(super) write_ends: Vec<u32>,
    /// How often each kind of request was executed.
    pub(super) counts: BTreeMap<Kind, u64>,
    /// Writes to this target end so.
    pub(super) write_status: BTreeMap<TargetId, Status>,
    /// The same of syncs.
    pub(super) sync_status: BTreeMap<TargetId, Status>,
    /// Copies from these targets fail so.
    pub(super) read_status: BTreeMap<TargetId, Status>,
    pub(super) copied_bytes: u64,
    /// Copies refused because their source's server was another one than known.
    pub(super) unknown_sources: u32,
    /// So many reads are answered with a damaged block.
    pub(super) damaged_reads: u32,
    /// The volume's log fails: no change is taken.
    pub(super) log_fails: bool,
    /// The node's address in the map.
    pub(super) node_address: String,
    /// Locks are not held any more after a reconnect.
    pub(super) refuse_claims: bool,
    /// Locks are queued, and never granted.
    pub(super) queue_locks: bool,
    /// All that were asked for.
    pub(super) locks: Vec<LockRequest>,
}

/// One request as it came over the wire.
pub(super) struct Asked {
    pub(super) header: Header,
    pub(super) body: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Asked {
    pub(super) fn new(head: &[u8], payload: Vec<u8>) -> Asked {
        let header = Header::decode(head).expect("the client sends frames");
        let body = head[HEADER_BYTES..].to_vec();
        header.check_body(&body).expect("and their checksum is right");
        assert_eq!(header.payload_bytes, to_u32(payload.len()));
        Asked { header, body, payload }
    }
}

/// The directories whose names a request changes.
fn parents_of(request: &MetaRequest<'_>) -> Vec<Ino> {
    match request {
        MetaRequest::Rename { parent, new_parent, .. } => vec![*parent, *new_parent],
        MetaRequest::Make { parent, .. }
        | MetaRequest::Link { parent, .. }
        | MetaRequest::Unlink { parent, .. }
        | MetaRequest::Rmdir { parent, .. } => vec![*parent],
        _ => vec![],
    }
}

fn new_attr(ino: Ino, mode: u32, clock: i64) -> Attr {
    let now = Time { seconds: clock, nanos: 0 };
    let (nlink, uid, gid) = (1, 0, 0);
    let times = (now, now, now, now);
    let (atime, mtime, ctime, btime) = times;
    Attr {
        ino,
        mode,
        nlink,
        uid,
        gid,
        rdev: 0,
        size: 0,
        blocks: 0,
        version: 1,
        atime,
        mtime,
        ctime,
        btime,
    }
}

impl Fake {
    pub(super) fn new() -> Fake {
        let root = Inode {
            attr: new_attr(Ino::ROOT, 0o040_755, 0),
            names: BTreeMap::new(),
            opens: 0,
            link: vec![],
            xattrs: BTreeMap::new(),
            inline: None,
            fresh: false,
        };
        Fake {
            inodes: [(Ino::ROOT, root)].into(),
            targets: (0..3).map(|id| (TargetId(id), Target::default())).collect(),
            next_ino: 2,
            clock: 0,
            slots: BTreeMap::new(),
            slot_count: 12,
            epochs: [1, 1],
            credits: 8,
            lease_ms: 5000,
            features: FEATURE_LEASES
                | FEATURE_PARENTS
                | FEATURE_SYNC_ALL
                | FEATURE_COPY
                | FEATURE_CTIME,
            fence: 0,
            boot: 0,
            grants: true,
            shared: false,
            refused: vec![],
            reclaimed: Vec::new(),
            write_ends: Vec::new(),
            counts: BTreeMap::new(),
            write_status: BTreeMap::new(),
            sync_status: BTreeMap::new(),
            read_status: BTreeMap::new(),
            copied_bytes: 0,
            unknown_sources: 0,
            damaged_reads: 0,
            log_fails: false,
            node_address: String::new(),
            refuse_claims: false,
            queue_locks: false,
            locks: Vec::new(),
        }
    }

    pub(super) fn layout() -> Layout {
        Layout::new(CHUNK_LOG2, vec![TargetId(0), TargetId(1), TargetId(2)]).unwrap()
    }

    /// Target 0 and the volume are at shard 0, targets 1 and 2 at shard 1.
    fn map(&self) -> ClusterMap {
        let place = |shard| Place { node: 0, shard: ShardId(shard) };
        let node =
            NodeEntry { name: "a".into(), address: self.node_address.clone(), shard_count: 2 };
        ClusterMap {
            nodes: vec![node],
            targets: vec![
                (TargetId(0), place(0)),
                (TargetId(1), place(1)),
                (TargetId(2), place(1)),
            ],
            volumes: vec![(VolumeId(0), place(0))],
        }
    }

    /// The shard's process dies and comes back: what was not synced is gone, and so are the opens.
    pub(super) fn crash(&mut self, shard: u16) {
        self.epochs[usize::from(shard)] += 1;
        let lost: &[u16] = if shard == 0 { &[0] } else { &[1, 2] };
        for id in lost.iter().filter(|_| self.boot == 0) {
            let target = self.targets.get_mut(&TargetId(*id)).unwrap();
            target.chunks = target.durable.clone();
        }
        if shard == 0 {
            self.inodes.values_mut().for_each(|inode| inode.opens = 0);
        }
    }

    pub(super) fn content(&self, ino: Ino) -> Vec<u8> {
        let size = to_usize(self.inodes[&ino].attr.size);
        let mut out = vec![0; size];
        if let Some(data) = &self.inodes[&ino].inline {
            let chunk = |(of, _): &&(Ino, ChunkIndex)| *of == ino;
            let stray = self.targets.values().flat_map(|target| target.chunks.keys()).find(chunk);
            let fresh = self.inodes[&ino].fresh;
            assert!(fresh || stray.is_none(), "data in an inode and at a target");
            out[..data.len()].copy_from_slice(data);
            return out;
        }
        for target in self.targets.values() {
            for ((of, index), bytes) in &target.chunks {
                let at = to_usize(index.0 << CHUNK_LOG2);
                if *of == ino && at < size {
                    let end = (at + bytes.len()).min(size);
                    out[at..end].copy_from_slice(&bytes[..end - at]);
                }
            }
        }
        out
    }

    /// Executes one request of the connection to `shard`.
    pub(super) fn execute(&mut self, shard: u16, asked: &Asked, pool: &Pool) -> Frame {
        let header = &asked.header;
        assert_eq!(header.shard, shard);
        *self.counts.entry(header.kind).or_default() += 1;
        let mut payload = None;
        let (status, mut body) = match header.kind {
            Kind::Hello => (Status::Ok, self.hello(asked)),
            Kind::Ping => (Status::Ok, vec![]),
            Kind::Goodbye => {
                self.inodes.values_mut().filter(|_| shard == 0).for_each(|inode| inode.opens = 0);
                (Status::Ok, vec![])
            }
            Kind::ClusterMap => {
                let mut body = vec![];
                self.map().encode(&mut body);
                (Status::Ok, body)
            }
            Kind::Reclaim => {
                self.reclaimed.push(Reclaim::decode(&asked.body).unwrap());
                let mut body = vec![];
                Reclaimed { refused: self.refused.clone() }.encode(&mut body);
                (Status::Ok, body)
            }
            kind if kind.is_metadata() => self.metadata(asked),
            Kind::Read => {
                let (body, blocks) = self.read(asked);
                if !blocks.is_empty() {
                    let mut slot = pool.alloc(blocks.len()).expect("the test's pool is large");
                    slot.as_mut_slice()[..blocks.len()].copy_from_slice(&blocks);
                    payload = Some((slot, 0..blocks.len()));
                }
                (Status::Ok, body)
            }
            Kind::Copy => self.copy(shard, asked),
            Kind::LockClaim => {
                let claim = LockClaim::decode(&asked.body).unwrap();
                let refused = (0..to_u32(claim.locks.len())).filter(|_| self.refuse_claims);
                let mut body = vec![];
                LockClaimReply { refused: refused.collect() }.encode(&mut body);
                (Status::Ok, body)
            }
            Kind::Lock => {
                self.locks.push(LockRequest::decode(&asked.body).unwrap());
                (Status::Ok, vec![u8::from(self.queue_locks)])
            }
            Kind::LockCancel | Kind::LockEvents => (Status::Ok, vec![0]),
            kind => {
                let status = self.data(shard, asked);
                let mut body = vec![];
                if matches!(kind, Kind::Write | Kind::Zero) && status == Status::Ok {
                    BlocksReply { added: 1 }.encode(&mut body);
                }
                if kind == Kind::Seek {
                    body = self.seek(asked);
                }
                (status, body)
            }
        };
        let payload_bytes = payload.as_ref().map_or(0, |(_, range)| to_u32(range.len()));
        let mut reply = header.reply(status, &body, payload_bytes);
        reply.lease = self.granted(header.lease);
        if reply.lease.has(LeaseBits::PARENTS) {
            reply = self.with_parents(reply, asked, &mut body);
        }
        Frame { header: reply, body, payload }
    }

    fn with_parents(&self, reply: Header, asked: &Asked, body: &mut Vec<u8>) -> Header {
        let lease = reply.lease;
        if reply.status != Status::Ok {
            return Header { lease: lease.without(LeaseBits::PARENTS), ..reply };
        }
        let (_, request) = MetaRequest::decode(reply.kind, &asked.body).unwrap();
        let inos = parents_of(&request);
        let parents: Vec<Attr> = inos.iter().map(|ino| self.inodes[ino].attr).collect();
        push_parents(body, &parents);
        Header { lease, ..asked.header.reply(Status::Ok, body, 0) }
    }

    fn changed_names(&mut self, parent: Ino) {
        if let Some(inode) = self.inodes.get_mut(&parent) {
            inode.attr.size = to_u64(inode.names.len());
            inode.attr.version += 1;
        }
    }

    /// There is nobody else: what is asked for.
    fn granted(&self, wanted: LeaseBits) -> LeaseBits {
        match wanted.has(LeaseBits::WRITE) {
            _ if !self.grants => LeaseBits::NONE,
            _ if self.shared => LeaseBits::THROUGH,
            true => wanted.without(LeaseBits::READ),
            false => wanted,
        }
    }

    fn hello(&self, asked: &Asked) -> Vec<u8> {
        let hello = Hello::decode(&asked.body).unwrap();
        let mut body = vec![];
        let welcome = Welcome {
            version: 1,
            features: hello.features & self.features,
            cluster: CLUSTER,
            shard_count: 2,
            epoch: self.epochs[usize::from(hello.shard.0)],
            credits: self.credits,
            payload_bytes_max: 1 << 20,
            boot: self.boot,
            slot_count: if hello.shard.0 == 0 { self.slot_count } else { 0 },
            lease_ms: self.lease_ms,
            fence: self.fence,
        };
        welcome.encode(&mut body);
        body
    }

    fn data(&mut self, shard: u16, asked: &Asked) -> Status {
        let payload_bytes = to_u32(asked.payload.len());
        let (id, request) =
            DataRequest::decode(asked.header.kind, &asked.body, payload_bytes).unwrap();
        assert_eq!(u16::from(id.0 > 0), shard, "asked where the target is");
        let target = self.targets.get_mut(&id).unwrap();
        match request {
            DataRequest::Write(range, sums) => {
                if let Some(status) = self.write_status.get(&id) {
                    return *status;
                }
                assert_eq!(Self::layout().target(range.chunk.index), id);
                assert_eq!(first_mismatch(range.offset, &asked.payload, &sums), None);
                let chunk = target.chunks.entry((range.chunk.ino, range.chunk.index)).or_default();
                let start = to_usize(range.offset.into());
                let end = start + asked.payload.len();
                self.write_ends.push(to_u32(end));
                if chunk.len() < end {
                    chunk.resize(end, 0);
                }
                chunk[start..end].copy_from_slice(&asked.payload);
                Status::Ok
            }
            DataRequest::Zero(range, how) => {
                let chunk = target.chunks.entry((range.chunk.ino, range.chunk.index)).or_default();
                let start = to_usize(range.offset.into());
                let end = start + to_usize(range.bytes.into());
                match how {
                    ZeroHow::Allocate if chunk.len() < end => chunk.resize(end, 0),
                    ZeroHow::Allocate => {}
                    ZeroHow::Erase | ZeroHow::Punch => {
                        let there = chunk.len();
                        chunk[start.min(there)..end.min(there)].fill(0);
                    }
                }
                Status::Ok
            }
            DataRequest::Seek(_) => Status::Ok,
            DataRequest::Sync(ino) => {
                if let Some(status) = self.sync_status.get(&id) {
                    return *status;
                }
                let all = ino == DataRequest::ALL_FILES;
                assert!(
                    !all || self.features & FEATURE_SYNC_ALL != 0,
                    "not known to an older server"
                );
                let of_file = target.chunks.iter().filter(|((of, _), _)| all || *of == ino);
                target.durable.extend(of_file.map(|(at, bytes)| (*at, bytes.clone())));
                Status::Ok
            }
            other => panic!("not expected from a client: {other:?}"),
        }
    }

    fn copy(&mut self, shard: u16, asked: &Asked) -> (Status, Vec<u8>) {
        let (id, request) = DataRequest::decode(Kind::Copy, &asked.body, 0).unwrap();
        let DataRequest::Copy(copy) = request else { unreachable!() };
        assert_eq!(u16::from(id.0 > 0), shard, "asked where the destination is");
        assert_eq!(Self::layout().target(copy.to.chunk.index), id);
        assert_eq!(Self::layout().target(copy.from.index), copy.source);
        let epoch = self.epochs[usize::from(copy.source.0 > 0)];
        let mut body = vec![];
        if !copy.known.has_all(Known { epoch, boot: self.boot }) {
            self.unknown_sources += 1;
            CopyReply::Unknown.encode(&mut body);
            return (Status::Ok, body);
        }
        if let Some(status) = self.read_status.get(&copy.source) {
            return (*status, body);
        }
        let at = to_usize(copy.from_offset.into());
        let bytes = to_usize(copy.to.bytes.into());
        let chunks = &self.targets[&copy.source].chunks;
        let mut found = chunks.get(&(copy.from.ino, copy.from.index)).cloned().unwrap_or_default();
        found.resize(found.len().max(at + bytes), 0);
        let chunks = &mut self.targets.get_mut(&id).unwrap().chunks;
        let chunk = chunks.entry((copy.to.chunk.ino, copy.to.chunk.index)).or_default();
        let start = to_usize(copy.to.offset.into());
        chunk.resize(chunk.len().max(start + bytes), 0);
        chunk[start..start + bytes].copy_from_slice(&found[at..at + bytes]);
        self.copied_bytes += to_u64(bytes);
        CopyReply::Copied(0).encode(&mut body);
        (Status::Ok, body)
    }

    /// A chunk that is there is data as a whole.
    fn seek(&self, asked: &Asked) -> Vec<u8> {
        let (id, request) = DataRequest::decode(Kind::Seek, &asked.body, 0).unwrap();
        let DataRequest::Seek(from) = request else { unreachable!() };
        let there = |index| self.targets[&id].chunks.contains_key(&(from.ino, ChunkIndex(index)));
        let stride = usize::try_from(from.stride).unwrap();
        let mut wanted = (from.index.0..100).step_by(stride);
        let found = wanted.find(|index| there(*index) != from.hole);
        let block = found.filter(|index| *index == from.index.0).map_or(0, |_| from.block);
        let mut body = vec![];
        found
            .map_or(SeekReply::End, |at| SeekReply::Found(ChunkIndex(at), block))
            .encode(&mut body);
        body
    }

    fn read(&mut self, asked: &Asked) -> (Vec<u8>, Vec<u8>) {
        let (id, request) = DataRequest::decode(Kind::Read, &asked.body, 0).unwrap();
        let DataRequest::Read(range) = request else { unreachable!() };
        let first_block = range.offset / BLOCK_BYTES;
        let chunks = &self.targets[&id].chunks;
        let mut chunk =
            chunks.get(&(range.chunk.ino, range.chunk.index)).cloned().unwrap_or_default();
        chunk.resize(chunk.len().next_multiple_of(BLOCK_LEN), 0);
        let start = to_usize(first_block.into()) * BLOCK_LEN;
        let end = to_usize((range.offset + range.bytes).into()).next_multiple_of(BLOCK_LEN);
        let mut blocks = chunk[start.min(chunk.len())..end.min(chunk.len())].to_vec();
        let sums = checksums(first_block * BLOCK_BYTES, &blocks);
        if self.damaged_reads > 0 && !blocks.is_empty() {
            self.damaged_reads -= 1;
            blocks[0] ^= 1;
        }
        let mut body = vec![];
        ReadReply { first_block, sums }.encode(&mut body);
        (body, blocks)
    }

    fn metadata(&mut self, asked: &Asked) -> (Status, Vec<u8>) {
        let (caller, request) = MetaRequest::decode(asked.header.kind, &asked.body).unwrap();
        if caller.slot != NO_SLOT {
            assert!(caller.slot < self.slot_count);
            if let Some((sequence, status, body)) = self.slots.get(&caller.slot) {
                if *sequence == caller.sequence {
                    let (status, body) = (*status, body.clone());
                    self.replayed(&request, &body, status);
                    return (status, body);
                }
                assert_eq!(caller.sequence, sequence + 1, "no number is left out");
            } else if self.fence < FENCE_ENDED {
                // Of a session that was over before nothing is remembered.
                assert_eq!(caller.sequence, 1);
            }
        }
        self.clock += 1;
        let refused = self.log_fails && caller.slot != NO_SLOT;
        let applied = if refused { Err(Status::Io) } else { self.apply(&request) };
        let (status, body) = match applied {
            Ok(reply) => {
                parents_of(&request).into_iter().for_each(|parent| self.changed_names(parent));
                let mut body = vec![];
                reply.encode(&mut body);
                (Status::Ok, body)
            }
            Err(status) => (status, vec![]),
        };
        if caller.slot != NO_SLOT {
            self.slots.insert(caller.slot, (caller.sequence, status, body.clone()));
        }
        (status, body)
    }

    /// A replayed open-or-create counts as an open if the restart has forgotten it.
    fn replayed(&mut self, request: &MetaRequest<'_>, body: &[u8], status: Status) {
        if let (MetaRequest::Make { how, .. }, Status::Ok) = (request, status)
            && how.open
            && let Ok(MetaReply::Made(attr, ..)) = MetaReply::decode(Kind::Make, body)
            && let Some(inode) = self.inodes.get_mut(&attr.ino)
            && inode.opens == 0
        {
            inode.opens = 1;
        }
    }

    pub(super) fn inode(&mut self, ino: Ino) -> Result<&mut Inode, Status> {
        self.inodes.get_mut(&ino).ok_or(Status::Stale)
    }

    fn named(&mut self, parent: Ino, name: &[u8]) -> Result<Ino, Status> {
        self.inode(parent)?.names.get(name).copied().ok_or(Status::NotFound)
    }

    fn apply(&mut self, request: &MetaRequest<'_>) -> Result<MetaReply, Status> {
        Ok(match request {
            MetaRequest::Lookup { parent, name } => {
                let ino = self.named(*parent, name)?;
                MetaReply::Entry(self.inode(ino)?.attr)
            }
            MetaRequest::GetAttr { ino } => MetaReply::Attr(self.inode(*ino)?.attr),
            MetaRequest::SetAttr { ino, set } => MetaReply::Attr(self.set_attr(*ino, set)?),
            MetaRequest::ReadLink { ino } => MetaReply::Bytes(self.inode(*ino)?.link.clone()),
            MetaRequest::Make { parent, name, how, target } => {
                let regular = FileKind::from_mode(how.mode) == Some(FileKind::Regular);
                let inline = (regular && how.inline).then(Vec::new);
                let place = regular.then(|| Self::place(inline.as_deref()));
                if let Ok(ino) = self.named(*parent, name) {
                    return self.make_existing(ino, how);
                }
                let ino = Ino(self.next_ino);
                self.next_ino += 1;
                let attr = new_attr(ino, how.mode, self.clock);
                self.inode(*parent)?.names.insert(name.to_vec(), ino);
                let (opens, link) = (u32::from(how.open), target.to_vec());
                let (names, xattrs) = (BTreeMap::new(), BTreeMap::new());
                let fresh = inline.is_some() && how.fresh && how.open;
                self.inodes.insert(ino, Inode { attr, names, opens, link, xattrs, inline, fresh });
                MetaReply::Made(attr, true, place)
            }
            MetaRequest::Unlink { parent, name } | MetaRequest::Rmdir { parent, name } => {
                self.unlink(*parent, name)?
            }
            MetaRequest::Link { ino, parent, name } => {
                self.inode(*parent)?.names.insert(name.to_vec(), *ino);
                let attr = &mut self.inode(*ino)?.attr;
                (attr.nlink, attr.version) = (attr.nlink + 1, attr.version + 1);
                MetaReply::Entry(*attr)
            }
            MetaRequest::Rename { parent, name, new_parent, new_name, .. } => {
                let ino = self.named(*parent, name)?;
                self.inode(*parent)?.names.remove(*name);
                self.inode(*new_parent)?.names.insert(new_name.to_vec(), ino);
                MetaReply::Done
            }
            MetaRequest::Open { ino, .. } => {
                let inode = self.inode(*ino)?;
                inode.opens += 1;
                MetaReply::Opened(inode.attr, Some(Self::place(inode.inline.as_deref())))
            }
            MetaRequest::Release { ino, count, atime } => {
                let inode = self.inode(*ino)?;
                inode.attr.atime = inode.attr.atime.max(atime.unwrap_or(inode.attr.atime));
                inode.opens = inode.opens.saturating_sub(*count);
                MetaReply::Done
            }
            MetaRequest::Wrote { ino, size_min, mtime, blocks_added, at_targets } => {
                let inode = self.inode(*ino)?;
                if *at_targets && inode.inline.take().is_some() {
                    assert!(std::mem::take(&mut inode.fresh), "only of a fresh file");
                }
                let attr = &mut inode.attr;
                attr.size = attr.size.max(*size_min);
                attr.mtime = attr.mtime.max(*mtime);
                attr.version += 1;
                attr.blocks = attr.blocks.saturating_add_signed(*blocks_added);
                MetaReply::Attr(*attr)
            }
            MetaRequest::Reopen { opens } => MetaReply::Reopened(self.reopen(opens)),
            MetaRequest::StatFs => MetaReply::StatFs(StatFs::default()),
            other => self.apply_more(other)?,
        })
    }

    fn unlink(&mut self, parent: Ino, name: &[u8]) -> Result<MetaReply, Status> {
        let ino = self.named(parent, name)?;
        self.inode(parent)?.names.remove(name);
        let inode = self.inode(ino)?;
        (inode.attr.nlink, inode.attr.version) = (inode.attr.nlink - 1, inode.attr.version + 1);
        if inode.opens == 0 && inode.attr.nlink == 0 {
            self.inodes.remove(&ino);
        }
        Ok(MetaReply::Done)
    }

    fn make_existing(&mut self, ino: Ino, how: &MakeHow) -> Result<MetaReply, Status> {
        if how.exclusive {
            return Err(Status::Exists);
        }
        let inode = self.inode(ino)?;
        inode.opens += u32::from(how.open);
        let told = |_: &_| Inline { bytes_max: INLINE_MAX, data: None };
        let inline = inode.inline.as_ref().map(told);
        let place = Some(DataPlace { layout: Self::layout(), inline });
        Ok(MetaReply::Made(inode.attr, false, place))
    }

    /// What is of data in inodes.
    fn apply_inline(&mut self, request: &MetaRequest<'_>) -> Result<MetaReply, Status> {
        Ok(match request {
            MetaRequest::GetData { ino } => self.told_data(*ino)?,
            MetaRequest::WriteData(write) => {
                assert!(write.is_whole());
                let inode = self.inode(write.ino)?;
                let data = inode.inline.as_mut().ok_or(Status::Invalid)?;
                let (start, end) = (to_usize(write.offset.into()), write.bytes.len());
                let end = start + end;
                assert!(end <= usize::from(INLINE_MAX), "it fits");
                inode.fresh &= write.bytes.is_empty();
                if !write.bytes.is_empty() {
                    data.resize(data.len().max(end), 0);
                    data[start..end].copy_from_slice(write.bytes);
                    inode.attr.size = inode.attr.size.max(to_u64(end));
                }
                inode.attr.mtime = inode.attr.mtime.max(write.mtime);
                inode.attr.ctime = inode.attr.ctime.max(write.mtime);
                inode.attr.version += 1;
                MetaReply::Attr(inode.attr)
            }
            MetaRequest::MoveData { ino, step } => {
                let inode = self.inode(*ino)?;
                inode.attr.version += 1;
                let empty = inode.inline.as_ref().is_some_and(Vec::is_empty);
                let cut = *step == MoveStep::Begin && inode.fresh;
                if *step == MoveStep::End || *step == MoveStep::Begin && empty {
                    (inode.inline, inode.fresh) = (None, false);
                }
                for target in self.targets.values_mut().filter(|_| cut) {
                    target.chunks.retain(|(of, _), _| of != ino);
                    target.durable.retain(|(of, _), _| of != ino);
                }
                self.told_data(*ino)?
            }
            _ => return Err(Status::NotSupported),
        })
    }

    fn place(inline: Option<&[u8]>) -> DataPlace {
        let told = |data: &[u8]| Inline { bytes_max: INLINE_MAX, data: Some(data.to_vec()) };
        DataPlace { layout: Self::layout(), inline: inline.map(told) }
    }

    fn told_data(&mut self, ino: Ino) -> Result<MetaReply, Status> {
        let inode = self.inode(ino)?;
        Ok(MetaReply::Data(inode.attr, Self::place(inode.inline.as_deref()).inline))
    }

    /// What is open; those that are gone.
    fn reopen(&mut self, opens: &[(Ino, u32)]) -> Vec<Ino> {
        let mut gone = vec![];
        for (ino, count) in opens {
            match self.inodes.get_mut(ino) {
                Some(inode) => inode.opens = *count,
                None => gone.push(*ino),
            }
        }
        gone
    }

    fn apply_more(&mut self, request: &MetaRequest<'_>) -> Result<MetaReply, Status> {
        Ok(match request {
            MetaRequest::ReadDir { ino, plus, .. } => {
                let names = self.inode(*ino)?.names.clone();
                let mut list = vec![];
                for (at, (name, ino)) in names.iter().enumerate() {
                    let attr = self.inode(*ino)?.attr;
                    let cookie = u64::try_from(at).unwrap() + 1;
                    let attr_shown = plus.then_some(attr);
                    let (ino, kind) = (*ino, attr.kind());
                    push_dir_entry(
                        &mut list,
                        &DirEntry { ino, cookie, kind, name, attr: attr_shown },
                    );
                }
                MetaReply::Dir(list, true)
            }
            MetaRequest::GetXattr { ino, name } => {
                let value = self.inode(*ino)?.xattrs.get(*name).cloned();
                MetaReply::Bytes(value.ok_or(Status::NoData)?)
            }
            MetaRequest::RemoveXattr { ino, name } => {
                let inode = self.inode(*ino)?;
                inode.xattrs.remove(*name).ok_or(Status::NoData)?;
                inode.attr.version += 1;
                MetaReply::Done
            }
            MetaRequest::SetXattr { ino, name, value, .. } => {
                let inode = self.inode(*ino)?;
                inode.xattrs.insert(name.to_vec(), value.to_vec());
                inode.attr.version += 1;
                MetaReply::Done
            }
            other => self.apply_inline(other)?,
        })
    }

    fn set_attr(&mut self, ino: Ino, set: &SetAttr) -> Result<Attr, Status> {
        let now = Time { seconds: self.clock, nanos: 0 };
        let attr = &mut self.inode(ino)?.attr;
        attr.mode = set.mode.map_or(attr.mode, |mode| attr.mode & 0o170_000 | mode);
        (attr.uid, attr.gid) = (set.uid.unwrap_or(attr.uid), set.gid.unwrap_or(attr.gid));
        if let Some(TimeSet::To(time)) = set.mtime {
            attr.mtime = time;
        }
        if let Some(TimeSet::To(time)) = set.atime {
            attr.atime = time;
        }
        attr.ctime = set.ctime.map_or(now, |told| told.max(attr.ctime));
        attr.version += 1;
        attr.size = set.size.unwrap_or(attr.size);
        let attr = *attr;
        if let (Some(data), Some(size)) = (&mut self.inode(ino)?.inline, set.size) {
            data.truncate(to_usize(size));
        }
        if let Some(size) = set.size {
            for target in self.targets.values_mut() {
                for chunks in [&mut target.chunks, &mut target.durable] {
                    for ((_, index), bytes) in chunks.iter_mut().filter(|((of, _), _)| *of == ino) {
                        let stays = size.saturating_sub(index.0 << CHUNK_LOG2);
                        bytes.truncate(to_usize(stays.min(1 << CHUNK_LOG2)));
                    }
                }
            }
        }
        Ok(attr)
    }
}
