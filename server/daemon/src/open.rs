//! Opening what a node keeps: its state folder, its targets and its volume, each with an error that says what to do.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use weft_iobuf::Pool;
use weft_metadata::{Volume, VolumeParams};
use weft_ring::{FileId, Ring};
use weft_server_core::TargetParams;
use weft_server_core::config::{Config, Wanted};
use weft_store::{Copies, OpenParams, Superblock};
use weft_target::{BlockingDevice, Opened, Options, Targets, Wish, open_device};
use weft_wire::{ShardId, TargetId};

use crate::advice;
use crate::known::KnownTargets;
use crate::shard::LogFiles;

/// A target before its shard opens it.
#[derive(Clone, Debug)]
pub(crate) struct TargetPlace {
    pub(crate) id: TargetId,
    pub(crate) path: PathBuf,
    pub(crate) shard: ShardId,
    /// What it says of itself, or a sentence why it says nothing that could be used.
    superblock: Result<Superblock, String>,
}

impl TargetPlace {
    /// Memory of its map of free blocks.
    pub(crate) fn free_map_bytes(&self) -> u64 {
        self.superblock.as_ref().map_or(0, weft_store::free_map_bytes)
    }
}

/// What one target may take of the shard's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TargetMemory {
    pub(crate) cache_bytes_max: u64,
    pub(crate) tables_bytes_max: u64,
    pub(crate) commit_bytes_max: u64,
}

/// Reads every target's superblock and deals the targets out to the shards, in order of their ids. One that cannot be
/// read keeps its place, if it was there at an earlier start.
pub(crate) fn locate_targets(config: &Config) -> Result<Vec<TargetPlace>, String> {
    let (mut places, mut dead) = (Vec::new(), Vec::new());
    for path in &config.targets {
        match read_superblock(config, path) {
            Ok(superblock) => {
                let (id, path, shard) = (superblock.target_id, path.clone(), ShardId(0));
                places.push(TargetPlace { id, path, shard, superblock: Ok(superblock) });
            }
            Err(Unopened::Offline(reason)) => dead.push((path.clone(), reason)),
            Err(Unopened::Refused(sentence)) => return Err(sentence),
        }
    }
    let before = KnownTargets::load(&config.state_dir);
    let there: BTreeSet<TargetId> = places.iter().map(|place| place.id).collect();
    let mut missing = before.clone();
    for (path, reason) in dead {
        let Some(id) = missing.take(&path, &there) else {
            return Err(format!(
                "{reason} (this node knows of no target that is missing: is the path in `targets` right? `weft fs create` and \
                 `weft target format` make targets)"
            ));
        };
        places.push(TargetPlace { id, path, shard: ShardId(0), superblock: Err(reason) });
    }
    places.sort_by_key(|place| place.id);
    if let Some(pair) = places.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(format!(
            "targets {} and {} both say they are target {}: is one a copy of the other?",
            pair[0].path.display(),
            pair[1].path.display(),
            pair[0].id
        ));
    }
    // The last shard first: shard 0 has the volume as well.
    let shards = config.cores.len();
    for (index, place) in places.iter_mut().enumerate() {
        let shard = shards - 1 - index % shards;
        place.shard = ShardId(u16::try_from(shard).expect("the configuration bounds the cores"));
    }
    let now = places.iter().map(|place| (place.id, place.path.clone()));
    if let Err(error) = before.save(&config.state_dir, now) {
        let dir = config.state_dir.display();
        tracing::warn!(%dir, %error, "cannot keep which targets there are: a dead one would stop the next start");
    }
    Ok(places)
}

fn read_superblock(config: &Config, path: &Path) -> Result<Superblock, Unopened> {
    let what = format!("target {}", path.display());
    let mut device = BlockingDevice::open(path).map_err(|error| match error.kind {
        weft_target::Kind::Device => Unopened::Offline(advice::sentence(
            &what,
            &error,
            advice::target(weft_store::Kind::Device),
        )),
        _ => Unopened::Refused(error.to_string()),
    })?;
    let superblock = weft_store::inspect(&mut device).map_err(|error| {
        let sentence = advice::sentence(&what, &error, advice::target(error.kind));
        match is_its_own(error.kind) {
            true => Unopened::Offline(sentence),
            false => Unopened::Refused(sentence),
        }
    })?;
    if superblock.cluster != config.cluster {
        return Err(Unopened::Offline(format!(
            "{what} belongs to cluster {}, not to {}: take it out of `targets`, or start it with its own cluster's \
             configuration",
            superblock.cluster, config.cluster
        )));
    }
    Ok(superblock)
}

/// Recovers a target and finds the best way to its device.
pub(crate) fn open_target(
    place: &TargetPlace,
    config: &Config,
    memory: TargetMemory,
    targets: &mut Targets,
    ring: &mut Ring,
    pool: &Pool,
) -> Result<TargetParams, Unopened> {
    let path = place.path.display();
    let superblock = place.superblock.as_ref().map_err(|why| Unopened::Offline(why.clone()))?;
    let uuid = superblock.target_uuid;
    let index = config.index_dir(uuid.0);
    let params = OpenParams {
        boot_id: boot_id(),
        cache_bytes_max: memory.cache_bytes_max,
        tables_bytes_max: memory.tables_bytes_max,
        commit_bytes_max: memory.commit_bytes_max,
        checkpoint_interval: Duration::from_secs(u64::from(config.checkpoint_s)),
        discard: match config.discard {
            Wanted::Auto => weft_target::can_discard(&place.path),
            wanted => wanted == Wanted::On,
        },
        ..OpenParams::new(index.clone(), config.cluster)
    };
    let opened = targets.open(&place.path, params, target_options(config), ring, pool);
    let Opened { index: at, store, report, notes } = opened.map_err(|error| {
        let what = format!("target {} ({path}, index {})", place.id, index.display());
        match error.store() {
            Some(error) if is_its_own(error.kind) => {
                Unopened::Offline(advice::sentence(&what, error, advice::target(error.kind)))
            }
            Some(error) => {
                Unopened::Refused(advice::sentence(&what, error, advice::target(error.kind)))
            }
            None if error.kind == weft_target::Kind::Device => {
                Unopened::Offline(format!("{what}: {error}"))
            }
            None => Unopened::Refused(format!("{what}: {error}")),
        }
    })?;
    let way = targets.data_path(at);
    tracing::info!(target = place.id.0, %path, ?way, ?report, "target open");
    for note in notes {
        tracing::warn!(target = place.id.0, %path, "{note}");
    }
    if report.copies != Copies::Both {
        tracing::warn!(target = place.id.0, %path, copies = ?report.copies, "a superblock is damaged: look at the device");
    }
    if report.damaged_blocks > 0 {
        let blocks = report.damaged_blocks;
        tracing::warn!(target = place.id.0, %path, blocks, "damaged blocks: reading them gives EIO");
    }
    let path = place.path.display().to_string();
    Ok(TargetParams { id: place.id, uuid: uuid.0, path, store })
}

/// Why a target is not open; a sentence for people.
pub(crate) enum Unopened {
    /// It is gone, damaged or somebody else's, or its parts do not fit together: the others can serve without it.
    Offline(String),
    /// The node as a whole is not as it should be.
    Refused(String),
}

/// Whether the failure is this target's alone.
fn is_its_own(kind: weft_store::Kind) -> bool {
    use weft_store::Kind;
    matches!(
        kind,
        Kind::Foreign
            | Kind::Damaged
            | Kind::Missing
            | Kind::Mismatch
            | Kind::TooSmall
            | Kind::Device
            | Kind::Overwritten
    )
}

/// How the configuration wants data to reach the devices.
pub(crate) fn target_options(config: &Config) -> Options {
    let wish = |wanted: Wanted| match wanted {
        Wanted::Auto => Wish::Auto,
        Wanted::On => Wish::On,
        Wanted::Off => Wish::Off,
    };
    Options { io_poll: wish(config.io_poll), passthrough: wish(config.passthrough) }
}

/// Whether idle cores shall poll while something is under way.
pub(crate) fn idle_poll(config: &Config) -> bool {
    match config.idle_poll {
        Wanted::Auto => weft_ring::idle_poll_pays(),
        Wanted::On => true,
        Wanted::Off => false,
    }
}

/// Which boot of the machine this is; all zero when the kernel does not say.
pub(crate) fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().parse().map_or([0; 16], |id: weft_wire::SessionId| id.0)
}

/// Recovers the volume and registers its log with the ring.
pub(crate) fn open_volume(
    config: &Config,
    targets: Vec<TargetId>,
    memory_bytes_max: u64,
    ring: &mut Ring,
) -> Result<(Volume, LogFiles), String> {
    let dir = config.volume_dir();
    let log_path = config.volume_log();
    let what = format!(
        "metadata volume {0} (database {0}/index, log {1})",
        dir.display(),
        log_path.display()
    );
    let mut log = open_device(&log_path, OFlags::empty()).map_err(|error| {
        let kind = match dir.exists() {
            true => weft_metadata::Kind::LogShort,
            false => weft_metadata::Kind::NotFound,
        };
        advice::sentence(&format!("{what}: cannot open the log"), &error, advice::volume(kind))
    })?;
    let params = VolumeParams {
        memory_bytes_max,
        checkpoint_interval: Duration::from_secs(u64::from(config.checkpoint_s)),
        ..VolumeParams::new(config.cluster, targets)
    };
    let (volume, report) = Volume::open(&dir, &params, &mut log)
        .map_err(|error| advice::sentence(&what, &error, advice::volume(error.kind)))?;
    tracing::info!(dir = %dir.display(), ?report, "volume open");
    if report.damaged_commands + report.damaged_rows > 0 {
        tracing::warn!(dir = %dir.display(), "damaged records: changes are lost; stop the server, see `weft fs check`");
    }
    let direct = open_device(&log_path, OFlags::DIRECT | OFlags::DSYNC).map_err(|error| {
        format!("{what}: {error}; the file system of state_dir must allow O_DIRECT")
    })?;
    let files =
        LogFiles { direct: register(ring, direct.into())?, buffered: register(ring, log.into())? };
    Ok((volume, files))
}

fn register(ring: &mut Ring, fd: OwnedFd) -> Result<FileId, String> {
    ring.register_file(fd).map_err(|error| error.to_string())
}
