//! Bringing the shards up and down.
//!
//! Each shard's thread makes its own ring (the kernel ties a ring to its thread) and reports its mailbox; when all
//! are there each gets the others' mailboxes, opens its targets and runs. The first failure, or a signal, stops all.

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use weft_iobuf::Pool;
use weft_ring::{Mailbox, Registration, Ring, RingConfig, Sender};
use weft_server_core::config::{Config, Wanted};
use weft_server_core::memory::{MemoryPlan, SLOT_BYTES_MAX};
use weft_server_core::{OfflineTarget, ScrubSchedule, Shard, ShardParams};
use weft_target::{IndexThread, Targets, WriterThread};
use weft_wire::session::{ClusterMap, NodeEntry, Place};
use weft_wire::units::{to_u64, to_usize};
use weft_wire::{ShardId, TargetId, VolumeId};

use crate::clock;
use crate::listen::Listeners;
use crate::metrics::{self, Registry};
use crate::open::{self, TargetMemory, TargetPlace, Unopened};
use crate::shard::{Mail, ShardLoop, ShardSetup};

/// Messages that may wait for one shard.
const MAIL_MAX: usize = 4096;
/// How long a shard may take to write everything down after a signal.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// What threads tell the main one.
enum Report {
    /// A shard's ring is there; here is its mailbox.
    Up(ShardId, Sender<Mail>),
    /// A shard takes requests.
    Serving,
    /// A shard ended; with a sentence when it failed.
    Ended(ShardId, Result<(), String>),
    /// SIGTERM or SIGINT.
    Signal,
}

/// What a shard's thread is given.
struct Seed {
    id: ShardId,
    config: Config,
    targets: Vec<TargetPlace>,
    map: ClusterMap,
    epoch: u64,
    listeners: Option<Listeners>,
    /// Of the state folder; goes into the ring, see [`Config::lock_state`].
    lock: std::fs::File,
    peers: mpsc::Receiver<Vec<Option<Sender<Mail>>>>,
    offline: Arc<OfflineBoard>,
    registry: Arc<Registry>,
}

/// Where shards tell one another which targets could not be opened: the volume must not put new files on them.
struct OfflineBoard {
    all_there: Barrier,
    offline: Mutex<Vec<OfflineTarget>>,
}

impl OfflineBoard {
    fn new(shard_count: usize) -> OfflineBoard {
        OfflineBoard { all_there: Barrier::new(shard_count), offline: Mutex::new(Vec::new()) }
    }

    /// Adds this shard's and waits for the others'. A shard that fails before ends the process, and with it the wait.
    fn exchange(&self, mine: &[OfflineTarget]) -> Result<BTreeSet<TargetId>, String> {
        let poisoned = "another shard panicked";
        self.offline.lock().map_err(|_| poisoned)?.extend_from_slice(mine);
        self.all_there.wait();
        let all = self.offline.lock().map_err(|_| poisoned)?;
        Ok(all.iter().map(|target| target.id).collect())
    }
}

/// Serves until a signal says stop.
pub(crate) fn serve(config: &Config) -> Result<(), String> {
    let lock = config
        .lock_state()
        .map_err(|error| format!("{}: {}", config.state_dir.display(), error))?;
    let listeners = Listeners::new(&config.listen)?;
    let targets = open::locate_targets(config)?;
    let map = cluster_map(config, &targets);
    let epoch = clock::epoch();
    tracing::info!(
        cluster = %config.cluster, node = %config.node, listen = %config.listen,
        shards = config.cores.len(), targets = targets.len(), "starting"
    );
    let registry = metrics::install()?;
    weft_server_core::metrics::describe();
    if !config.metrics.is_empty() {
        metrics::serve(&config.metrics, Arc::clone(&registry))?;
    }
    let (reports, inbox) = mpsc::channel();
    watch_signals(reports.clone())?;
    let mut threads = Vec::new();
    let mut peer_senders = Vec::new();
    let mut listeners = Some(listeners);
    let offline = Arc::new(OfflineBoard::new(config.cores.len()));
    for index in 0..config.cores.len() {
        let (peers_out, peers) = mpsc::channel();
        peer_senders.push(peers_out);
        let id = ShardId(u16::try_from(index).expect("the configuration bounds the cores"));
        let (config, targets, map) = (config.clone(), targets.clone(), map.clone());
        let listeners = listeners.take();
        let lock = lock.try_clone().map_err(|error| error.to_string())?;
        let offline = Arc::clone(&offline);
        let registry = Arc::clone(&registry);
        let seed =
            Seed { id, config, targets, map, epoch, listeners, lock, peers, offline, registry };
        threads.push(spawn(seed, reports.clone())?);
    }
    drop(reports);
    let outcome = supervise(&inbox, &peer_senders, config);
    if outcome.is_ok() {
        for thread in threads {
            if thread.join().is_err() {
                return Err("a shard panicked while stopping: see the log".to_owned());
            }
        }
        tracing::info!("stopped");
    }
    outcome
}

fn spawn(seed: Seed, reports: mpsc::Sender<Report>) -> Result<JoinHandle<()>, String> {
    let id = seed.id;
    std::thread::Builder::new()
        .name(format!("shard-{id}"))
        .spawn(move || {
            let run = || run_shard(seed, &reports);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
                .unwrap_or_else(|_| Err("panicked: a bug; the log has the place".to_owned()));
            // The main thread is gone only when the process ends anyway.
            drop(reports.send(Report::Ended(id, outcome)));
        })
        .map_err(|error| format!("cannot start a thread: {error}"))
}

/// Passes mailboxes around, waits for the end, and sees to it that all shards stop when one does.
fn supervise(
    inbox: &mpsc::Receiver<Report>,
    peer_senders: &[mpsc::Sender<Vec<Option<Sender<Mail>>>>],
    config: &Config,
) -> Result<(), String> {
    let shard_count = config.cores.len();
    let mut mailboxes: Vec<Option<Sender<Mail>>> = (0..shard_count).map(|_| None).collect();
    let (mut serving, mut running, mut stopping) = (0, shard_count, false);
    let mut failure = None;
    while running > 0 {
        let report = match stopping {
            false => inbox.recv().map_err(|_| "all threads are gone".to_owned())?,
            true => inbox.recv_timeout(STOP_PATIENCE).map_err(|_| {
                format!("a shard did not stop within {} s: see the log", STOP_PATIENCE.as_secs())
            })?,
        };
        match report {
            Report::Up(id, mailbox) => {
                mailboxes[usize::from(id.0)] = Some(mailbox);
                if mailboxes.iter().all(Option::is_some) {
                    introduce(&mailboxes, peer_senders);
                }
            }
            Report::Serving => {
                serving += 1;
                if serving == shard_count {
                    tracing::info!(listen = %config.listen, "serving");
                }
            }
            Report::Ended(id, outcome) => {
                running -= 1;
                if let Err(sentence) = outcome {
                    tracing::error!(shard = id.0, sentence, "shard failed");
                    // The others may wait for this one: a process that cannot serve ends, and systemd restarts it.
                    return Err(failure.unwrap_or(format!("shard {id}: {sentence}")));
                }
                stop_all(&mailboxes);
                stopping = true;
            }
            Report::Signal if stopping => failure = Some("stopped by a second signal".to_owned()),
            Report::Signal => {
                tracing::info!("signal: stopping");
                stop_all(&mailboxes);
                stopping = true;
            }
        }
        if stopping && let Some(sentence) = failure.take() {
            return Err(sentence);
        }
    }
    Ok(())
}

/// Gives each shard the mailboxes of the others.
fn introduce(
    mailboxes: &[Option<Sender<Mail>>],
    peer_senders: &[mpsc::Sender<Vec<Option<Sender<Mail>>>>],
) {
    for (index, sender) in peer_senders.iter().enumerate() {
        let others = mailboxes.iter().enumerate();
        let peers = others.map(|(at, mailbox)| mailbox.clone().filter(|_| at != index));
        // A shard that is gone has reported why.
        drop(sender.send(peers.collect()));
    }
}

fn stop_all(mailboxes: &[Option<Sender<Mail>>]) {
    for mailbox in mailboxes.iter().flatten() {
        if let Err(weft_ring::SendError::Full(_)) = mailbox.try_send(Mail::Stop) {
            tracing::error!("a shard's mailbox is full: it will not stop in order");
        }
    }
}

fn watch_signals(reports: mpsc::Sender<Report>) -> Result<(), String> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])
        .map_err(|error| format!("cannot watch for signals: {error}"))?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                if reports.send(Report::Signal).is_err() {
                    return;
                }
            }
        })
        .map(drop)
        .map_err(|error| format!("cannot start a thread: {error}"))
}

/// The machine's boot as a number.
fn boot() -> u64 {
    let id = open::boot_id();
    let (low, high) = id.split_at(8);
    let half = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("half of 16 bytes"));
    half(low) ^ half(high)
}

fn cluster_map(config: &Config, targets: &[TargetPlace]) -> ClusterMap {
    let shard_count =
        u16::try_from(config.cores.len()).expect("the configuration bounds the cores");
    let place = |shard| Place { node: 0, shard };
    ClusterMap {
        nodes: vec![NodeEntry { name: config.node.clone(), address: String::new(), shard_count }],
        targets: targets.iter().map(|target| (target.id, place(target.shard))).collect(),
        volumes: vec![(VolumeId(0), place(ShardId(0)))],
    }
}

/// A shard's thread, from its ring to its end.
fn run_shard(seed: Seed, reports: &mpsc::Sender<Report>) -> Result<(), String> {
    let cannot = |error| format!("cannot start a thread: {error}");
    let mine = seed.targets.iter().filter(|target| target.shard == seed.id);
    let index_thread = IndexThread::of_targets(mine.clone().count()).map_err(cannot)?;
    let checkpoints = (seed.id == ShardId(0))
        .then(|| WriterThread::start("checkpoint", 1, weft_metadata::Checkpoint::write))
        .transpose()
        .map_err(cannot)?;
    let core = usize::from(seed.config.cores[usize::from(seed.id.0)]);
    weft_ring::pin_to_core(core).map_err(|error| error.to_string())?;
    if let Err(error) = weft_ring::run_soon() {
        tracing::info!(%error, "the scheduler gives no short slices");
    }
    let options = open::target_options(&seed.config);
    let sqe128 = weft_target::needs_wide_ring(mine.map(|target| target.path.as_path()), options);
    let idle_poll = open::idle_poll(&seed.config);
    let ring = Ring::new(RingConfig { sqe128, idle_poll, ..RingConfig::serving() })
        .map_err(|error| error.to_string())?;
    if idle_poll && !ring.has_idle_poll() {
        let why = "/dev/cpu_dma_latency cannot be opened (root may): idle cores halt";
        match seed.config.idle_poll {
            Wanted::On => tracing::warn!("idle_poll = \"on\": {why}"),
            _ => tracing::info!("idle_poll = \"auto\": {why}"),
        }
    }
    let (sender, mailbox) = weft_ring::mailbox(&ring.bell(), MAIL_MAX);
    let told = reports.send(Report::Up(seed.id, sender));
    let (Ok(()), Ok(peers)) = (told, seed.peers.recv()) else {
        return Ok(()); // the node is going down before it was up
    };
    let checkpoints = checkpoints.map(|thread| thread.join(&ring.bell()));
    let targets = Targets::new(index_thread, &ring);
    let shard = ShardLoop::new(build_shard(seed, ring, targets, mailbox, peers)?, checkpoints)?;
    shard.run(|| drop(reports.send(Report::Serving)))
}

/// Deals the shard's memory out.
fn plan_memory(
    config: &Config,
    shard: ShardId,
    targets: &[&TargetPlace],
) -> Result<MemoryPlan, String> {
    let free_map_bytes = targets.iter().map(|target| target.free_map_bytes()).sum();
    let plan = MemoryPlan::new(config.shard_memory_bytes(), free_map_bytes, shard == ShardId(0))
        .map_err(|short| {
            let shards = to_u64(config.cores.len());
            format!(
                "memory_mib = {}: too little for shard {shard}: the map of free blocks of its {} targets takes {} MiB; \
                 {} is enough",
                config.memory_mib,
                targets.len(),
                short.free_map_bytes >> 20,
                (short.needed_bytes * shards).div_ceil(1 << 20),
            )
        })?;
    tracing::info!(shard = shard.0, ?plan, "memory");
    Ok(plan)
}

fn scrub_schedule(config: &Config) -> ScrubSchedule {
    let interval_s = u64::from(config.scrub_interval_days) * 24 * 3600;
    ScrubSchedule {
        interval: (interval_s > 0).then_some(Duration::from_secs(interval_s)),
        bytes_per_second: u64::from(config.scrub_mib_per_second) << 20,
    }
}

/// Opens what the shard owns.
fn build_shard(
    seed: Seed,
    mut ring: Ring,
    mut targets: Targets,
    mailbox: Mailbox<Mail>,
    peers: Vec<Option<Sender<Mail>>>,
) -> Result<ShardSetup, String> {
    ring.register_file(seed.lock.into()).map_err(|error| error.to_string())?;
    let config = &seed.config;
    let mine: Vec<&TargetPlace> = seed.targets.iter().filter(|t| t.shard == seed.id).collect();
    let memory = plan_memory(config, seed.id, &mine)?;
    let pool = Pool::new(to_usize(memory.buffers_bytes), to_usize(SLOT_BYTES_MAX))
        .map_err(|error| error.to_string())?;
    if let Registration::Plain(errno) = ring.register_pool(&pool).map_err(|e| e.to_string())? {
        tracing::warn!(shard = seed.id.0, %errno, "buffers are not registered: more CPU per operation; raise memlock");
    }
    let (mut params, mut offline) = (Vec::new(), Vec::new());
    let count = to_u64(mine.len().max(1));
    let share = TargetMemory {
        cache_bytes_max: memory.index_cache_bytes / count,
        tables_bytes_max: memory.store_tables_bytes / count,
        commit_bytes_max: memory.index_commits_bytes / count,
    };
    for target in &mine {
        match open::open_target(target, config, share, &mut targets, &mut ring, &pool) {
            Ok(open) => params.push(open),
            Err(Unopened::Offline(reason)) => {
                tracing::error!(target = target.id.0, reason, "target OFFLINE: its data gives EIO");
                let path = target.path.display().to_string();
                offline.push(OfflineTarget { id: target.id, path, reason });
            }
            Err(Unopened::Refused(sentence)) => return Err(sentence),
        }
    }
    let offline_of_node = seed.offline.exchange(&offline)?;
    let (volume, log) = match seed.id {
        ShardId(0) => {
            let all: Vec<TargetId> = seed.targets.iter().map(|target| target.id).collect();
            let open = |id: &TargetId| !offline_of_node.contains(id);
            let mut ids: Vec<TargetId> = all.iter().copied().filter(open).collect();
            if ids.is_empty() {
                // Names are served all the same; a new file has to be somewhere, and cannot be written yet.
                tracing::error!("all targets are OFFLINE: names are served, and no data");
                ids = all;
            }
            let (volume, log) = open::open_volume(config, ids, memory.volume_bytes, &mut ring)?;
            (Some(volume), Some(log))
        }
        _ => (None, None),
    };
    let params = ShardParams {
        id: seed.id,
        cluster: config.cluster,
        epoch: seed.epoch,
        boot: boot(),
        credits: config.credits,
        payload_bytes_max: to_u64(pool.capacity_bytes()) / 4,
        memory,
        session_timeout: Duration::from_secs(u64::from(config.session_timeout_s)),
        lease_time: Duration::from_millis(u64::from(config.lease_ms)),
        grace: Duration::from_secs(u64::from(config.grace_s)),
        map: seed.map,
        targets: params,
        offline,
        offline_of_node,
        scrub: scrub_schedule(config),
        volume,
    };
    let core = Shard::new(params, pool.clone());
    let (listeners, registry) = (seed.listeners, seed.registry);
    Ok(ShardSetup { core, ring, pool, targets, memory, log, mailbox, peers, listeners, registry })
}
