//! Opening a target: recovery, descriptors, and the fastest way to its data that works.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::OFlags;
use weft_iobuf::Pool;
use weft_ring::{Errno, FileId, Namespace, Op, Ring};
use weft_store::{OpenParams, RecoveryReport, Store};

use crate::device::{BlockingDevice, drop_clean_pages, open_device};
use crate::error::{Kind, TargetError};
use crate::nvme::BlockDevice;
use crate::polled::{Polled, run};
use crate::targets::{TargetFiles, Targets};

/// Whether something is to be used that not every device offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Where it is offered, and a read through it works.
    #[default]
    Auto,
    /// As `Auto`; what stands in the way is told.
    On,
    /// Never.
    Off,
}

impl std::str::FromStr for Wish {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Wish, &'static str> {
        match text {
            "auto" => Ok(Wish::Auto),
            "on" => Ok(Wish::On),
            "off" => Ok(Wish::Off),
            _ => Err("one of auto, on, off"),
        }
    }
}

/// How data is to reach the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Ask for completions instead of being interrupted: `io_poll`.
    pub io_poll: Wish,
    /// Send NVMe commands of our own past the block layer: `passthrough`.
    pub passthrough: Wish,
}

/// How data reaches the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPath {
    /// Direct reads and writes of the device or file, ended by interrupts.
    Direct,
    /// NVMe commands, ended by interrupts.
    Passthrough,
    /// On the polled ring; reads and writes, or NVMe commands.
    Polled {
        /// NVMe commands.
        passthrough: bool,
    },
}

/// A target that is open and recovered.
#[derive(Debug)]
pub struct Opened {
    /// Its place in its [`Targets`].
    pub index: usize,
    /// Its store.
    pub store: Store,
    /// What recovery found.
    pub report: RecoveryReport,
    /// Sentences about what was asked for and is not used.
    pub notes: Vec<String>,
}

/// Whether a ring for these targets must take commands ([`weft_ring::RingConfig::sqe128`]).
#[must_use]
pub fn needs_wide_ring<'a>(paths: impl IntoIterator<Item = &'a Path>, options: Options) -> bool {
    let mut devices = paths.into_iter().filter_map(BlockDevice::of);
    options.passthrough != Wish::Off && devices.any(|device| device.passage().is_ok())
}

impl Targets {
    /// Recovers a target, registers its descriptors with `ring` (idle as yet, its pool registered),
    /// and finds the best way to its data.
    ///
    /// # Errors
    /// Any [`Kind`]; the target was not changed.
    pub fn open(
        &mut self,
        path: &Path,
        params: OpenParams,
        options: Options,
        ring: &mut Ring,
        pool: &Pool,
    ) -> Result<Opened, TargetError> {
        let mut device = BlockingDevice::open(path)?;
        let (store, report) = Store::open(params, &mut device)
            .map_err(|error| TargetError::because(Kind::Store, "open", path, error))?;
        let direct = open_device(path, OFlags::DIRECT)
            .map_err(|error| TargetError::because(Kind::NoDirect, "open", path, error))?;
        let buffered = open_device(path, OFlags::empty())
            .map_err(|error| TargetError::because(Kind::Device, "open", path, error))?;
        // Recovery has read the journal, and blocks in doubt.
        drop_clean_pages(&buffered)
            .map_err(|error| TargetError::because(Kind::Device, "open", path, error))?;
        let mut register = |file: File| {
            ring.register_file(file.into())
                .map_err(|error| TargetError::because(Kind::Ring, "register", path, error))
        };
        let direct = register(direct)?;
        let buffered = register(buffered)?;
        let mut notes = Vec::new();
        let (data, way) = self
            .better_way(path, options, ring, pool, &mut notes)
            .unwrap_or((direct, DataPath::Direct));
        let index = self.add(TargetFiles { data, path: way, direct, buffered });
        Ok(Opened { index, store, report, notes })
    }

    /// A way better than plain direct I/O, tried with a read; what stands in the way goes into
    /// `notes` when it was asked for.
    fn better_way(
        &mut self,
        path: &Path,
        options: Options,
        ring: &mut Ring,
        pool: &Pool,
        notes: &mut Vec<String>,
    ) -> Option<(FileId, DataPath)> {
        let mut note = |wish: Wish, what: &str, why: String| {
            if wish == Wish::On {
                notes.push(format!("{what} is not used: {why}"));
            }
        };
        let device = BlockDevice::of(path);
        let none = || "the target is a file, not a block device".to_owned();
        let part_bytes_max = match options.io_poll {
            Wish::Off => None,
            wish => {
                let asked = device.as_ref().ok_or_else(none).and_then(BlockDevice::polling);
                asked.map_err(|why| note(wish, "io_poll", why)).ok()
            }
        };
        let polls = part_bytes_max.is_some();
        let passage = match options.passthrough {
            Wish::Off => None,
            wish => {
                let asked = device.as_ref().ok_or_else(none).and_then(BlockDevice::passage);
                asked.map_err(|why| note(wish, "passthrough", why)).ok()
            }
        };
        // From the best on; each is tried with a read.
        if let Some(passage) = &passage {
            let mut attempt = |namespace: Namespace| {
                let open = || open_device(&passage.path, OFlags::empty());
                let with = |ring: &mut Ring, file: File| {
                    let file = ring.register_nvme(file.into(), namespace);
                    file.map_err(|error| error.to_string())
                };
                self.try_way(open, with, polls, ring, pool)
            };
            let namespace = passage.namespace;
            let file = attempt(namespace).or_else(|_| attempt(namespace.without_fixed_buffers()));
            match file {
                Ok(file) if polls => return Some((file, DataPath::Polled { passthrough: true })),
                Ok(file) => return Some((file, DataPath::Passthrough)),
                Err(why) => note(options.passthrough, "passthrough", why),
            }
        }
        if let Some(part_bytes_max) = part_bytes_max {
            let open = || open_device(path, OFlags::DIRECT);
            let with = |ring: &mut Ring, file: File| {
                let file = ring.register_in_parts(file.into(), part_bytes_max);
                file.map_err(|error| error.to_string())
            };
            match self.try_way(open, with, true, ring, pool) {
                Ok(file) => return Some((file, DataPath::Polled { passthrough: false })),
                Err(why) => note(options.io_poll, "io_poll", why),
            }
        }
        None
    }

    /// Registers a descriptor with the ring it is for, and reads a block through it.
    fn try_way(
        &mut self,
        open: impl FnOnce() -> io::Result<File>,
        with: impl FnOnce(&mut Ring, File) -> Result<FileId, String>,
        polls: bool,
        ring: &mut Ring,
        pool: &Pool,
    ) -> Result<FileId, String> {
        let file = open().map_err(|error| error.to_string())?;
        let ring = if polls {
            if self.polled.is_none() {
                self.polled = Some(Polled::new(pool).map_err(|error| error.to_string())?);
            }
            &mut self.polled.as_mut().expect("made above").ring
        } else {
            ring
        };
        let file = with(ring, file)?;
        if let Err(errno) = probe(ring, file, pool) {
            ring.unregister_file(file).map_err(|error| error.to_string())?;
            return Err(format!("the kernel refused a read: {errno}"));
        }
        Ok(file)
    }
}

/// Whether a read of the first block works.
fn probe(ring: &mut Ring, file: FileId, pool: &Pool) -> Result<(), Errno> {
    const PROBE_BYTES: usize = 4096;
    let buf = pool.alloc(PROBE_BYTES).ok_or(Errno::NOMEM)?;
    run(ring, Op::Read { file, offset: 0, buf, range: 0..PROBE_BYTES })
}
