//! Making a volume, and opening one: the last checkpoint, then the log.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use weft_wire::limits::LIST_COUNT_MAX;
use weft_wire::meta::Time;
use weft_wire::units::{to_u32, to_u64};
use weft_wire::{ClusterId, Ino, Status, TargetId, VolumeId};

use super::{Health, Volume, WorkState};
use crate::apply::root_inode;
use crate::error::{Kind, MetaError};
use crate::limits::{
    CHECKPOINT_COMMANDS_DEFAULT, CHECKPOINT_SECONDS_DEFAULT, LOG_BLOCK_BYTES, MAP_BYTES_DEFAULT,
    MAP_BYTES_MIN, MEMORY_BYTES_DEFAULT, MemoryShares, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
};
use crate::log::{LogDevice, Replay};
use crate::opens::Opens;
use crate::record::{Identity, State, Work, key_number, number_key};
use crate::slots::Slots;
use crate::store::{Name, Store};

/// Key of the volume record in the meta table.
pub(crate) const VOLUME_KEY: &[u8] = b"volume";
/// Key of the state record in the meta table.
pub(crate) const STATE_KEY: &[u8] = b"state";

/// What a new volume is made of.
#[derive(Clone, Copy, Debug)]
pub struct FormatParams {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its number in the cluster.
    pub volume: VolumeId,
    /// Permission bits of its root directory.
    pub root_mode: u32,
    /// Owner of its root directory.
    pub root_uid: u32,
    /// Group of its root directory.
    pub root_gid: u32,
    /// Now.
    pub now: Time,
    /// Random bytes: the keys that names are hashed and log batches are marked with.
    pub seed: [u8; 24],
    /// Length of each of the log's two areas, in bytes: a multiple of 4096 from 1 MiB to 1 GiB.
    pub segment_bytes: u32,
    /// How large the database may grow, in bytes.
    pub map_bytes_max: u64,
}

impl FormatParams {
    /// Volume 0 of `cluster` with an `rwxr-xr-x` root of user 0, and everything else as usual.
    pub fn new(cluster: ClusterId, now: Time, seed: [u8; 24]) -> FormatParams {
        FormatParams {
            cluster,
            volume: VolumeId(0),
            root_mode: 0o755,
            root_uid: 0,
            root_gid: 0,
            now,
            seed,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            map_bytes_max: MAP_BYTES_DEFAULT,
        }
    }

    fn check(&self) -> Result<(), MetaError> {
        let segment = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes)
            && self.segment_bytes.is_multiple_of(LOG_BLOCK_BYTES);
        match segment && self.map_bytes_max >= MAP_BYTES_MIN {
            true => Ok(()),
            false => Err(MetaError::new(Kind::Invalid, "format")),
        }
    }
}

/// How a volume is opened.
#[derive(Clone, Debug)]
pub struct VolumeParams {
    /// The cluster it must belong to.
    pub cluster: ClusterId,
    /// The targets new files are put on, in the order they take turns.
    pub targets: Vec<TargetId>,
    /// How large the database may grow, in bytes.
    pub map_bytes_max: u64,
    /// Memory the volume may take, in bytes; see [`crate::limits::MemoryShares`].
    pub memory_bytes_max: u64,
    /// Commands between two checkpoints; more when the first takes so long.
    pub checkpoint_commands_max: u32,
    /// Time between two checkpoints, when anything changed.
    pub checkpoint_interval: Duration,
}

impl VolumeParams {
    /// The usual limits.
    pub fn new(cluster: ClusterId, targets: Vec<TargetId>) -> VolumeParams {
        VolumeParams {
            cluster,
            targets,
            map_bytes_max: MAP_BYTES_DEFAULT,
            memory_bytes_max: MEMORY_BYTES_DEFAULT,
            checkpoint_commands_max: CHECKPOINT_COMMANDS_DEFAULT,
            checkpoint_interval: Duration::from_secs(u64::from(CHECKPOINT_SECONDS_DEFAULT)),
        }
    }
}

/// What was found at open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenReport {
    /// Batches of the log that were applied again.
    pub replayed_batches: u64,
    /// Commands in them.
    pub replayed_commands: u64,
    /// Commands among them that met damage: changes that may have been acknowledged and are lost. An alarm.
    pub damaged_commands: u64,
    /// Slots, orphans and works whose record cannot be read. An alarm.
    pub damaged_rows: u64,
    /// Inodes without a name; they wait for [`Volume::grace_over`].
    pub orphan_count: usize,
    /// Works the targets were not done with; see [`Volume::pending_works`].
    pub work_count: usize,
}

impl Volume {
    /// Makes an empty volume in the directory `dir`. The caller makes its log: a file `dir`/log of
    /// [`crate::log_bytes`] bytes, all zero.
    ///
    /// # Errors
    /// `Invalid` parameters; `Exists`; `Database`.
    pub fn format(dir: &Path, params: &FormatParams) -> Result<(), MetaError> {
        params.check()?;
        let mut store = Store::open(dir, params.map_bytes_max, true)?;
        let read = store.get(Name::Meta, VOLUME_KEY).map(|v| v.is_some());
        if read.map_err(|_| MetaError::new(Kind::Damaged, "format"))? {
            return Err(MetaError::new(Kind::Exists, "format"));
        }
        let (hash_seed, nonce) = params.seed.split_first_chunk::<16>().expect("24 are 16 and 8");
        let identity = Identity {
            cluster: params.cluster,
            volume: params.volume,
            hash_seed: *hash_seed,
            log_nonce: u64::from_le_bytes(nonce.try_into().expect("24 less 16 are 8")),
            segment_bytes: params.segment_bytes,
        };
        let state = State {
            applied: 0,
            generation: 0,
            next_counter: Ino::ROOT.0 + 1,
            next_work: 1,
            live_bytes: 0,
            targets: Vec::new(),
        };
        let root = root_ino(params.volume);
        let (uid, gid) = (params.root_uid, params.root_gid);
        let inode = root_inode(root, params.root_mode, uid, gid, params.now);
        store.write(Name::Inodes, &number_key(root.0), Some(&inode.encode()))?;
        store.write(Name::Meta, VOLUME_KEY, Some(&identity.encode()))?;
        store.write(Name::Meta, STATE_KEY, Some(&state.encode()))?;
        store.commit()
    }

    /// How long the log file of the volume in `dir` must be, in bytes.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`, `Version`, `Database`.
    pub fn log_plan(dir: &Path) -> Result<u64, MetaError> {
        let store = Store::open(dir, MAP_BYTES_MIN, false)?;
        Ok(crate::log_bytes(load_identity(&store)?.segment_bytes))
    }

    /// Opens the volume in `dir`: state of the last checkpoint, then what the log has beyond it. Ends with a
    /// checkpoint.
    ///
    /// # Errors
    /// `NotFound`, `WrongCluster`, `Version`, `Invalid` parameters; `Damaged`, `LogDamaged`, `LogShort`, `LogIo`,
    /// `Database`: nothing was changed.
    pub fn open(
        dir: &Path,
        params: &VolumeParams,
        log: &mut dyn LogDevice,
    ) -> Result<(Volume, OpenReport), MetaError> {
        let targets_fit = (1..=LIST_COUNT_MAX).contains(&params.targets.len());
        if !targets_fit || params.map_bytes_max < MAP_BYTES_MIN {
            return Err(MetaError::new(Kind::Invalid, "open"));
        }
        let mut store = Store::open(dir, params.map_bytes_max, false)?;
        let identity = load_identity(&store)?;
        if identity.cluster != params.cluster {
            return Err(MetaError::new(Kind::WrongCluster, "open"));
        }
        let state = load_state(&store)?;
        store.hash_seed = identity.hash_seed;
        store.live_bytes = state.live_bytes;
        let mut report = OpenReport::default();
        let memory = MemoryShares::new(params.memory_bytes_max);
        store.set_dirty_bytes_max(memory.dirty_bytes, memory.meanwhile_bytes);
        let mut volume = Volume::idle(identity, store, state, params);
        volume.load_rows(&mut report)?;
        volume.replay(log, &mut report)?;
        // What changes now without being logged, the targets, must not be missing before the next commands: a database
        // from before this checkpoint is refused where it would not be if the generations were next to each other.
        volume.state.generation += 1;
        volume.state.targets.clone_from(&params.targets);
        // A volume of an older build is one of this build from here on.
        volume.store.write(Name::Meta, VOLUME_KEY, Some(&volume.identity.encode()))?;
        volume.checkpoint()?;
        if volume.starved {
            let full = weft_lmdb::Error { kind: weft_lmdb::Kind::Full, op: "commit", code: 0 };
            return Err(MetaError::database("open", full));
        }
        report.orphan_count = volume.orphans.len();
        report.work_count = volume.works.len();
        Ok((volume, report))
    }

    fn idle(identity: Identity, store: Store, state: State, params: &VolumeParams) -> Volume {
        Volume {
            identity,
            store,
            next_sequence: state.applied + 1,
            state,
            slots: Slots::default(),
            opens: Opens::default(),
            works: Default::default(),
            orphans: Default::default(),
            to_drop: Default::default(),
            dropping: Default::default(),
            grace: true,
            works_done: Default::default(),
            read_times: Default::default(),
            read_times_logged: Default::default(),
            internal_urgent: false,
            pending: Default::default(),
            pending_bytes: 0,
            unsure_count: 0,
            tried_before: false,
            retry_at: None,
            retry_due: false,
            memory: MemoryShares::new(params.memory_bytes_max),
            flights: Default::default(),
            next_io: 0,
            log_used_bytes: 0,
            commands_since_checkpoint: 0,
            checkpoint_commands_max: params.checkpoint_commands_max.max(1),
            checkpoint_interval: params.checkpoint_interval,
            checkpoint_at: None,
            checkpoint_due: false,
            writing: false,
            settles_unsure: false,
            starved: false,
            stopping: false,
            stopped: false,
            health: Health::Good,
        }
    }

    fn load_rows(&mut self, report: &mut OpenReport) -> Result<(), MetaError> {
        let Volume { store, slots, works, orphans, .. } = self;
        let damaged = |_: Status| MetaError::new(Kind::Damaged, "open");
        let bad = &mut report.damaged_rows;
        store
            .scan(Name::Slots, &[], &mut |key, value| {
                *bad += u64::from(!slots.load(key, value));
                ControlFlow::Continue(())
            })
            .map_err(damaged)?;
        store
            .scan(Name::Ended, &[], &mut |key, value| {
                *bad += u64::from(!slots.ended.load(key, value));
                ControlFlow::Continue(())
            })
            .map_err(damaged)?;
        store
            .scan(Name::Orphans, &[], &mut |key, _| {
                match key_number(key) {
                    Some(ino) => drop(orphans.insert(Ino(ino))),
                    None => *bad += 1,
                }
                ControlFlow::Continue(())
            })
            .map_err(damaged)?;
        store
            .scan(Name::Works, &[], &mut |key, value| {
                match key_number(key).and_then(|id| Work::decode(id, value)) {
                    Some(Work { id, shrink, .. }) => {
                        works.insert(id, WorkState { shrink, waiters: Vec::new() });
                    }
                    None => *bad += 1,
                }
                ControlFlow::Continue(())
            })
            .map_err(damaged)
    }

    fn replay(
        &mut self,
        log: &mut dyn LogDevice,
        report: &mut OpenReport,
    ) -> Result<(), MetaError> {
        let generation = self.state.generation;
        let mut replay = Replay::new(log, &self.identity, generation, self.next_sequence)?;
        let mut nobody = Vec::new();
        while let Some(commands) = replay.next_batch()? {
            report.replayed_batches += 1;
            report.replayed_commands += to_u64(commands.len());
            self.next_sequence += to_u64(commands.len());
            for command in &commands {
                let status = self.run(command, false, &mut nobody)?;
                report.damaged_commands += u64::from(status == Status::Damaged);
            }
        }
        debug_assert!(nobody.is_empty() && to_u32(nobody.len()) == 0, "nobody waits in a replay");
        Ok(())
    }
}

/// The directory a volume begins with: counter 1.
pub(crate) fn root_ino(volume: VolumeId) -> Ino {
    Ino::new(volume, Ino::ROOT.0).expect("1 fits")
}

fn load_identity(store: &Store) -> Result<Identity, MetaError> {
    let damaged = MetaError::new(Kind::Damaged, "open");
    let bytes = store.get(Name::Meta, VOLUME_KEY).map_err(|_| damaged)?;
    let bytes = bytes.ok_or(MetaError::new(Kind::NotFound, "open"))?;
    match Identity::decode(bytes).ok_or(damaged)? {
        Ok(identity) => Ok(identity),
        Err(format) => Err(MetaError::at(Kind::Version, "open", u64::from(format))),
    }
}

fn load_state(store: &Store) -> Result<State, MetaError> {
    let damaged = MetaError::new(Kind::Damaged, "open");
    let bytes = store.get(Name::Meta, STATE_KEY).map_err(|_| damaged)?;
    State::decode(bytes.ok_or(damaged)?).ok_or(damaged)
}
