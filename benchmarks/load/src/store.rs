//! `weft-load store`: a chunk store on one pinned thread, against fio on the same file or device.
//!
//! Each round fio does its jobs, then the target is formatted afresh and the store does the same (every other round
//! the other way round), so what drifts hits both. Ratios are within a round. The store runs as in the server: its
//! own ring, fixed buffers and files, checksums on; payloads carry checksums as a client's would. `--verify` measures
//! nothing and compares every byte instead.

pub(crate) mod fio;
pub(crate) mod jobs;
mod report;
mod verify;

use crate::error::{At, Error, Result};
use crate::options::parse_bytes;
use clap::Args;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock};
use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use weft_store::{FormatParams, OpenParams, TargetUuid};
use weft_target::{DataPath, Options, Runner, RunnerParams, Wish, open_device};
use weft_wire::{ClusterId, TargetId};

/// Everything is measured in chunks of the default length.
const CHUNK_BYTES: u64 = 1 << 20;
/// Where data begins at the latest: fio works behind it, where the store's data is.
const DATA_OFFSET_MAX: u64 = 130 << 20;
const CLUSTER: ClusterId = ClusterId([0x5e; 16]);
const POOL_BYTES: usize = 128 << 20;
const SLOT_BYTES_MAX: usize = 8 << 20;

/// Options of `store`.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// A file to make and fill (left behind with --keep)
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "device",
        conflicts_with = "device"
    )]
    file: Option<PathBuf>,
    /// A block device; all that is on it is lost
    #[arg(long, value_name = "DEVICE")]
    device: Option<PathBuf>,
    /// Really overwrite the device
    #[arg(long)]
    force: bool,
    /// Keep the file
    #[arg(long)]
    keep: bool,
    /// Length of the file
    #[arg(long, value_name = "BYTES[M|G]", value_parser = parse_bytes, default_value = "4G")]
    size: u64,
    /// How much data the jobs work on
    #[arg(long, value_name = "BYTES[M|G]", value_parser = parse_bytes, default_value = "1G")]
    data: u64,
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=101))]
    rounds: u32,
    /// Seconds of each random job
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=3600))]
    runtime_s: u32,
    /// The core both run on
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Ask for completions instead of being interrupted: auto, on, off
    #[arg(long, default_value = "auto")]
    io_poll: Wish,
    /// NVMe commands of our own: auto, on, off
    #[arg(long, default_value = "auto")]
    passthrough: Wish,
    /// Only the store, without fio beside it
    #[arg(long)]
    no_fio: bool,
    /// Measure nothing: write, overwrite, sync, reopen, and compare every byte
    #[arg(long)]
    verify: bool,
    /// With --verify: fail unless data goes this way: direct, passthrough, polled, polled-passthrough
    #[arg(long, value_name = "WAY", requires = "verify")]
    expect_path: Option<String>,
    /// Only these jobs
    #[arg(long, value_name = "JOB", value_enum, value_delimiter = ',')]
    only: Vec<jobs::Job>,
    /// Adds one JSON line a job to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seconds after which fio has hung and is ended
    #[arg(long, default_value_t = 600)]
    limit_s: u32,
}

/// The target under test.
pub(crate) struct Place {
    path: PathBuf,
    bytes: u64,
    /// The index of the target lives here, on the file system of temporary files.
    index: tempfile::TempDir,
    options: Options,
    /// Removed at the end.
    made: bool,
    format_count: u8,
}

/// True when every bar was met, or with `--verify` every byte was right.
pub(crate) fn run(args: &StoreArgs) -> Result<bool> {
    let mut place = Place::new(args)?;
    let outcome =
        if args.verify { verify::run(args, &mut place) } else { measure(args, &mut place) };
    if !args.keep {
        place.remove()?;
    }
    outcome
}

fn measure(args: &StoreArgs, place: &mut Place) -> Result<bool> {
    weft_ring::pin_to_core(args.core).map_err(|error| Error::usage("--core", error.to_string()))?;
    let wanted = |job: &jobs::Job| args.only.is_empty() || args.only.contains(job);
    let mut outcome = report::Outcome::new(args, place);
    for round in 0..args.rounds {
        let fio_first = round % 2 == 0;
        for turn in [fio_first, !fio_first] {
            if turn && !args.no_fio {
                beside_fio(args, place, &wanted, &mut outcome)?;
            } else if !turn {
                place.format()?;
                let (runner, _) = place.open()?;
                outcome.way(runner.data_path());
                let mut session =
                    jobs::Session::new(runner, args.data / CHUNK_BYTES, args.runtime_s);
                for job in jobs::Job::ALL {
                    // All others need what this one writes.
                    if wanted(&job) || job == jobs::Job::SeqWrite {
                        let sample = session.measure(job)?;
                        if wanted(&job) {
                            outcome.store(job, sample);
                        }
                    }
                }
                session.end()?;
            }
        }
    }
    let good = outcome.all_met();
    print!("{}", outcome.markdown());
    if let Some(path) = &args.json {
        crate::report::append(path, &outcome.json_lines())?;
    }
    Ok(good)
}

/// fio's jobs in the same place; the long reads once more with the store's checksums.
fn beside_fio(
    args: &StoreArgs,
    place: &Place,
    wanted: &impl Fn(&jobs::Job) -> bool,
    outcome: &mut report::Outcome,
) -> Result<()> {
    let measure = |job: jobs::Job, checks| {
        let run = fio::Run {
            path: &place.path,
            data: args.data,
            depth: job.depth(),
            core: args.core,
            runtime_s: args.runtime_s,
            limit_s: args.limit_s,
            checks,
        };
        fio::measure(job, &run)
    };
    for job in jobs::Job::ALL.into_iter().filter(|job| job.has_fio() && wanted(job)) {
        outcome.fio(job, measure(job, false)?);
        if job == jobs::Job::SeqRead {
            // What it is to check must be there. Not a figure: fio makes its data up as it writes, which costs more.
            measure(jobs::Job::SeqWrite, true)?;
            outcome.checked(job, measure(job, true)?);
        }
    }
    Ok(())
}

impl Place {
    /// A file of `bytes` for a store that is measured beside something else.
    pub(crate) fn beside(path: &Path, bytes: u64) -> Result<Place> {
        let index = tempfile::tempdir().at("make a folder for the index", &std::env::temp_dir())?;
        let options = Options::default();
        let place =
            Place { path: path.to_owned(), bytes, index, options, made: true, format_count: 0 };
        place.make_file()?;
        Ok(place)
    }

    /// Formats it and measures 1 MiB jobs on it.
    pub(crate) fn measure(&mut self, data_bytes: u64) -> Result<[(jobs::Job, jobs::Sample); 2]> {
        self.format()?;
        let (runner, _) = self.open()?;
        let mut session = jobs::Session::new(runner, data_bytes / CHUNK_BYTES, 1);
        let samples = [jobs::Job::SeqWrite, jobs::Job::SeqRead]
            .map(|job| session.measure(job).map(|sample| (job, sample)));
        session.end()?;
        let [write, read] = samples;
        Ok([write?, read?])
    }

    /// Removes the file, if it was made here.
    pub(crate) fn remove(&self) -> Result<()> {
        let removed = if self.made { std::fs::remove_file(&self.path) } else { Ok(()) };
        removed.at("remove", &self.path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn new(args: &StoreArgs) -> Result<Place> {
        let options = Options { io_poll: args.io_poll, passthrough: args.passthrough };
        let index = tempfile::tempdir().at("make a folder for the index", &std::env::temp_dir())?;
        let (path, made) = match (&args.file, &args.device) {
            (Some(path), _) => (path.clone(), true),
            (None, Some(path)) => (path.clone(), false),
            (None, None) => return Err(Error::usage("store", "--file or --device is needed")),
        };
        let mut place = Place { path, bytes: args.size, index, options, made, format_count: 0 };
        if made {
            place.make_file()?
        } else {
            place.take_device(args.force)?
        }
        if place.bytes < 2 * args.data + DATA_OFFSET_MAX {
            let what = format!("{} bytes are too few for twice --data", place.bytes);
            return Err(Error::usage("store", what));
        }
        Ok(place)
    }

    /// Makes the file with every byte written: blocks that are only promised cost a file system more.
    fn make_file(&self) -> Result<()> {
        let path = &self.path;
        let file = File::options().create_new(true).write(true).open(path).at("make", path)?;
        fallocate(&file, FallocateFlags::empty(), 0, self.bytes).at("fill", path)?;
        let zeros = vec![0; 8 << 20];
        let mut left = self.bytes;
        while left > 0 {
            let step = usize::try_from(left.min(8 << 20)).expect("at most 8 MiB");
            std::io::Write::write_all(&mut &file, &zeros[..step]).at("fill", path)?;
            left -= u64::try_from(step).expect("at most 8 MiB");
        }
        file.sync_all().at("sync", path)
    }

    fn take_device(&mut self, force: bool) -> Result<()> {
        let path = &self.path;
        let metadata = std::fs::metadata(path).at("look at", path)?;
        if !metadata.file_type().is_block_device() {
            return Err(Error::usage("--device", "not a block device; for a file use --file"));
        }
        if !force {
            let what = format!("everything on {} will be lost: add --force", path.display());
            return Err(Error::usage("--device", what));
        }
        // The kernel refuses a device that is mounted, or part of a RAID or LVM.
        let mut file = open_device(path, OFlags::EXCL).at("open", path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).at("lock", path)?;
        self.bytes =
            std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).at("measure", path)?;
        Ok(())
    }

    fn index_dir(&self) -> PathBuf {
        self.index.path().join(format!("index{}", self.format_count))
    }

    /// Makes an empty target.
    fn format(&mut self) -> Result<()> {
        self.format_count += 1;
        let params = FormatParams {
            cluster: CLUSTER,
            target_uuid: TargetUuid(fresh_uuid(self.format_count)),
            target_id: TargetId(1),
            capacity_bytes: self.bytes,
        };
        let device = open_device(&self.path, OFlags::empty()).at("open", &self.path)?;
        let made = weft_target::format(&device, &self.path, &params, &self.index_dir());
        made.map(drop).map_err(|error| Error::program("format", error.to_string()))
    }

    /// Opens it; says what was asked for and is not used.
    fn open(&self) -> Result<(Runner, Vec<String>)> {
        let params = RunnerParams {
            store: OpenParams::new(self.index_dir(), CLUSTER),
            options: self.options,
            pool_bytes: POOL_BYTES,
            slot_bytes_max: SLOT_BYTES_MAX,
        };
        let (runner, _, notes) = Runner::open(&self.path, params)
            .map_err(|error| Error::program("open the target", error.to_string()))?;
        for note in &notes {
            eprintln!("weft-load: {}: {note}", self.path.display());
        }
        Ok((runner, notes))
    }
}

/// A data path's name on the command line and in reports.
fn path_name(path: DataPath) -> &'static str {
    match path {
        DataPath::Direct => "direct",
        DataPath::Passthrough => "passthrough",
        DataPath::Polled { passthrough: false } => "polled",
        DataPath::Polled { passthrough: true } => "polled-passthrough",
    }
}

/// Whether `path` is a block device.
fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// A name no earlier target on the device had: its journal is still there, and must not be taken for the new one's.
fn fresh_uuid(count: u8) -> [u8; 16] {
    let mut uuid = [count; 16];
    uuid[..8].copy_from_slice(&crate::clock::monotonic_ns().to_le_bytes());
    uuid[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    uuid
}
