//! The server: its machine with disks and databases, and the process that runs on it, if one does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_iobuf::Pool;
use weft_metadata::{Checkpoint, CheckpointWritten, LogDevice, Volume, VolumeParams};
use weft_net::Budget;
use weft_server_core::memory::{MemoryPlan, SHARD_BYTES_MIN};
use weft_server_core::{Message, Now, ScrubSchedule, Shard, ShardParams, TargetParams};
use weft_store::{Device, OpenParams, Store, TargetUuid};
use weft_wire::meta::Time;
use weft_wire::session::{ClusterMap, NodeEntry, Place};
use weft_wire::units::to_u64;
use weft_wire::{ClusterId, ShardId, TargetId, VolumeId};

use super::plan::Plan;
use crate::disk::{Disk, Through, Work};
use crate::random::Random;

pub(super) const CLUSTER: ClusterId = ClusterId([7; 16]);
/// Length of each of the log's two areas.
pub(super) const SEGMENT_BYTES: u32 = 1 << 20;
const VOLUME_DIR: &str = "volume";
/// How large the volume's database may grow.
const VOLUME_BYTES_MAX: u64 = 64 << 20;
/// Buffers of a shard.
const POOL_BYTES: usize = 16 << 20;
const SLOT_BYTES_MAX: usize = 1 << 20;
/// Seconds since 1970 when a simulation begins.
const WALL_START: i64 = 1_700_000_000;

/// Which device: a target by its index, or the volume's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Which {
    Target(usize),
    Log,
}

/// One shard of the running server.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) core: Shard,
    pub(super) pool: Pool,
    /// Memory for bodies of requests that are not whole yet.
    pub(super) bodies: Budget,
    /// Disks of its targets, in the shard's order.
    pub(super) disks: Vec<usize>,
    /// A turn is due.
    pub(super) turn: bool,
    pub(super) stopped: bool,
    pub(super) serving: bool,
}

/// The server's process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) shards: Vec<Host>,
    /// Messages on their way, by receiver.
    pub(super) mail: BTreeMap<(usize, usize), VecDeque<Message>>,
    /// The checkpoints under way, of the volume and of targets. They die with the process, as its threads would.
    pub(super) checkpoints: BTreeMap<Written, Writing>,
    pub(super) stopping: bool,
}

/// Whose checkpoint it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Written {
    Volume,
    /// A shard, and the target by its place there.
    Target(usize, usize),
}

/// How far a checkpoint's writing is.
#[derive(Debug)]
pub(super) enum Writing {
    Begun(Checkpoint),
    /// The volume does not know.
    Written(CheckpointWritten),
    IndexBegun(weft_store::Checkpoint),
    /// The store does not know.
    IndexWritten(weft_store::CheckpointWritten),
}

/// The machine.
#[derive(Debug)]
pub(super) struct Node {
    dir: tempfile::TempDir,
    pub(super) targets: Vec<Disk>,
    pub(super) log: Disk,
    boot: u64,
    /// Counts starts of the server.
    pub(super) epoch: u64,
    pub(super) process: Option<Process>,
}

/// The two clocks at `now`.
pub(super) fn clocks(now: Duration) -> Now {
    Now { mono: now, wall: wall(now) }
}

/// The time of day at `now`.
pub(super) fn wall(now: Duration) -> Time {
    let seconds = i64::try_from(now.as_secs()).expect("simulations are short");
    Time { seconds: WALL_START + seconds, nanos: now.subsec_nanos() }
}

impl LogDevice for Disk {
    fn len_bytes(&mut self) -> std::io::Result<u64> {
        Ok(Device::len_bytes(self))
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        Device::read_at(self, offset, buffer)
    }
}

/// Memory where there is some: the syncs of the databases are not what is tested here.
fn scratch() -> PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() }
}

impl Node {
    /// A machine with formatted targets and a volume.
    pub(super) fn new(plan: &Plan, random: &mut Random) -> Node {
        let dir = tempfile::Builder::new().prefix("weft-sim").tempdir_in(scratch());
        let dir = dir.expect("scratch space is there");
        let targets = (0..plan.targets).map(|id| format_target(dir.path(), plan, id, random));
        let targets = targets.collect();
        let params = weft_metadata::FormatParams {
            segment_bytes: SEGMENT_BYTES,
            map_bytes_max: VOLUME_BYTES_MAX,
            root_mode: 0o777,
            ..weft_metadata::FormatParams::new(CLUSTER, wall(Duration::ZERO), [5; 24])
        };
        let volume = dir.path().join(VOLUME_DIR);
        std::fs::create_dir(&volume).expect("a new directory");
        Volume::format(&volume, &params).expect("formats");
        let bytes = usize::try_from(weft_metadata::log_bytes(SEGMENT_BYTES)).expect("2 MiB");
        let mut log = Disk::new(bytes, random.fork());
        log.write_now(0, &vec![0; bytes]);
        log.flush_now();
        Node { dir, targets, log, boot: 1, epoch: 0, process: None }
    }

    pub(super) fn disk(&mut self, which: Which) -> &mut Disk {
        match which {
            Which::Target(index) => &mut self.targets[index],
            Which::Log => &mut self.log,
        }
    }

    /// The device that completes something next, and when.
    pub(super) fn next_io(&self) -> Option<(Duration, Which)> {
        let targets = self.targets.iter().enumerate();
        let targets = targets.map(|(index, disk)| (disk.next_at(), Which::Target(index)));
        let all = targets.chain(std::iter::once((self.log.next_at(), Which::Log)));
        all.filter_map(|(at, which)| at.map(|at| (at, which))).min_by_key(|(at, _)| *at)
    }

    /// The shard that owns a target, and the target's place there.
    pub(super) fn owner(&self, target: usize) -> Option<(usize, usize)> {
        let shards = self.process.as_ref()?.shards.iter().enumerate();
        let place = |host: &Host| host.disks.iter().position(|disk| *disk == target);
        shards.into_iter().find_map(|(shard, host)| place(host).map(|at| (shard, at)))
    }

    /// Whether a target's flush is under way, or one that the server begins and has not asked for yet: the next one cannot
    /// know how it ended.
    pub(super) fn may_be_flushing(&self) -> bool {
        let is_noted = |index| {
            let note = std::fs::read(index_dir(self.dir.path(), index).join("flush"));
            note.is_ok_and(|note| note.first() != Some(&1))
        };
        self.targets.iter().any(Disk::is_flushing) || (0..self.targets.len()).any(is_noted)
    }

    /// The process is killed; the machine goes on. Whether a target's flush failed that was under way.
    pub(super) fn kill(&mut self) -> bool {
        let failed_flushes = |targets: &[Disk]| -> u64 {
            targets.iter().map(|disk| disk.counts.failed_flushes).sum()
        };
        let before = failed_flushes(&self.targets);
        self.process = None;
        self.targets.iter_mut().for_each(Disk::kill);
        self.log.kill();
        failed_flushes(&self.targets) > before
    }

    /// The power goes.
    pub(super) fn power_loss(&mut self) {
        self.process = None;
        self.targets.iter_mut().for_each(Disk::power_loss);
        self.log.power_loss();
        self.boot += 1;
    }

    fn boot_id(&self) -> [u8; 16] {
        let mut id = [3; 16];
        id[..8].copy_from_slice(&self.boot.to_le_bytes());
        id
    }

    /// Opens a target's store.
    ///
    /// # Errors
    /// What open said.
    pub(super) fn open_store(
        &mut self,
        index: usize,
        plan: &Plan,
    ) -> Result<Store, weft_store::StoreError> {
        let params = OpenParams {
            boot_id: self.boot_id(),
            dirty_chunks_max: 16,
            cache_bytes_max: 256 << 10,
            checkpoint_interval: plan.checkpoint_interval,
            ..OpenParams::new(index_dir(self.dir.path(), index), CLUSTER)
        };
        Store::open(params, &mut self.targets[index]).map(|(store, _)| store)
    }

    /// Opens the volume.
    ///
    /// # Errors
    /// What open said.
    pub(super) fn open_volume(&mut self, plan: &Plan) -> Result<Volume, weft_metadata::MetaError> {
        let dir = self.dir.path().join(VOLUME_DIR);
        let (volume, report) = Volume::open(&dir, &volume_params(plan), &mut self.log)?;
        assert_eq!((report.damaged_commands, report.damaged_rows), (0, 0), "{report:?}");
        Ok(volume)
    }

    /// A copy of the volume's database, which nobody has open.
    pub(super) fn copy_volume(&self) -> tempfile::TempDir {
        let copy = tempfile::Builder::new().prefix("weft-sim").tempdir_in(scratch());
        let copy = copy.expect("scratch space is there");
        std::fs::create_dir(copy.path().join("index")).expect("a new directory");
        let file = Path::new("index/data.mdb");
        std::fs::copy(self.dir.path().join(VOLUME_DIR).join(file), copy.path().join(file))
            .expect("the database is there");
        copy
    }

    /// Starts the server over what was opened.
    pub(super) fn start(&mut self, plan: &Plan, stores: Vec<Store>, volume: Volume, now: Now) {
        self.epoch += 1;
        let map = cluster_map(plan);
        let mut volume = Some(volume);
        let mut shards: Vec<Host> = Vec::new();
        let mut stores: Vec<(usize, Store)> = stores.into_iter().enumerate().collect();
        for id in 0..plan.shards {
            let mine = |index: usize| shard_of(plan, index) == id;
            let (own, rest): (Vec<_>, Vec<_>) = stores.into_iter().partition(|(i, _)| mine(*i));
            stores = rest;
            let disks = own.iter().map(|(index, _)| *index).collect();
            let targets = own.into_iter().map(|(index, store)| target_params(index, store));
            let pool = Pool::new(POOL_BYTES, SLOT_BYTES_MAX).expect("memory");
            let memory = MemoryPlan::new(SHARD_BYTES_MIN + (1 << 20), 1 << 20, id == 0);
            let memory = memory.expect("it is more than the least");
            let bodies = Budget::new(memory.bodies_bytes);
            let params = ShardParams {
                id: ShardId(id),
                cluster: CLUSTER,
                epoch: self.epoch,
                boot: self.boot,
                credits: plan.credits,
                payload_bytes_max: to_u64(POOL_BYTES / 4),
                session_timeout: plan.session_timeout,
                lease_time: plan.lease_time,
                grace: plan.grace,
                map: map.clone(),
                memory,
                targets: targets.collect(),
                offline: Vec::new(),
                offline_of_node: BTreeSet::new(),
                scrub: ScrubSchedule { interval: None, bytes_per_second: 1 << 20 },
                volume: volume.take(),
            };
            let mut core = Shard::new(params, pool.clone());
            core.start(now).expect("the volume's works can be read");
            let (turn, stopped, serving) = (false, false, false);
            shards.push(Host { core, pool, bodies, disks, turn, stopped, serving });
        }
        let mail = BTreeMap::new();
        self.process =
            Some(Process { shards, mail, checkpoints: BTreeMap::new(), stopping: false });
    }
}

/// How the volume is opened.
pub(super) fn volume_params(plan: &Plan) -> VolumeParams {
    VolumeParams {
        map_bytes_max: VOLUME_BYTES_MAX,
        checkpoint_commands_max: plan.checkpoint_commands,
        checkpoint_interval: plan.checkpoint_interval,
        ..VolumeParams::new(CLUSTER, (0..plan.targets).map(TargetId).collect())
    }
}

fn index_dir(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("target-{index}"))
}

fn format_target(dir: &Path, plan: &Plan, id: u16, random: &mut Random) -> Disk {
    let mut disk = Disk::new(plan.target_bytes, random.fork());
    let mut uuid = [3; 16];
    uuid[..2].copy_from_slice(&id.to_le_bytes());
    let params = weft_store::FormatParams {
        cluster: CLUSTER,
        target_uuid: TargetUuid(uuid),
        target_id: TargetId(id),
        capacity_bytes: to_u64(plan.target_bytes),
    };
    let made = weft_store::format_plan(&params).expect("the size is fine");
    for (offset, bytes) in made.zeros {
        disk.write_now(offset, &vec![0; usize::try_from(bytes).expect("fits")]);
    }
    Store::create_index(&index_dir(dir, usize::from(id)), &made.superblock).expect("formats");
    for (offset, bytes) in made.writes {
        disk.write_now(offset, &bytes);
    }
    disk.flush_now();
    disk
}

fn target_params(index: usize, store: Store) -> TargetParams {
    let id = TargetId(u16::try_from(index).expect("few"));
    let uuid = store.superblock().target_uuid.0;
    TargetParams { id, uuid, path: format!("target-{index}"), store }
}

/// The last shard first, as the daemon deals them.
fn shard_of(plan: &Plan, target: usize) -> u16 {
    plan.shards - 1 - u16::try_from(target).expect("few") % plan.shards
}

fn cluster_map(plan: &Plan) -> ClusterMap {
    let place = |shard| Place { node: 0, shard };
    let name = "node".to_owned();
    let node = NodeEntry { name, address: String::new(), shard_count: plan.shards };
    let target = |id| (TargetId(id), place(ShardId(shard_of(plan, usize::from(id)))));
    ClusterMap {
        nodes: vec![node],
        targets: (0..plan.targets).map(target).collect(),
        volumes: vec![(VolumeId(0), place(ShardId(0)))],
    }
}

/// What a store's action is to its disk.
pub(super) fn disk_work(action: weft_store::Action) -> (u64, Work) {
    use weft_store::Action as A;
    match action {
        A::ReadData { io, offset, buf, bytes } => {
            let bytes = usize::try_from(bytes).expect("fits");
            (io.0, Work::Read { offset, buf, bytes })
        }
        A::WriteData { io, offset, buf, start, bytes } => {
            let (start, bytes) = (index(start), index(bytes));
            let bytes = buf[start..start + bytes].to_vec();
            (io.0, Work::Write { offset, bytes, through: Through::Direct })
        }
        A::AppendJournal { io, offset, bytes, .. } => {
            (io.0, Work::Write { offset, bytes, through: Through::PageCache })
        }
        A::Flush { io } => (io.0, Work::Flush),
        A::Discard { io, offset, bytes } => (io.0, Work::Discard { offset, bytes }),
        A::GoOn { io } => (io.0, Work::Turn),
        A::WriteCheckpoint(_) => unreachable!("the caller has a thread for it"),
        A::Reply { .. } | A::Stopped => unreachable!("the core keeps what is no disk work"),
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("32 bits fit")
}
