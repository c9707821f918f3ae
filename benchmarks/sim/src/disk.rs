//! A simulated device under virtual time.
//!
//! Two images: what reads see, and what a power loss leaves for sure. Between them lie the writes
//! since the last flush, as in a volatile cache. Each I/O takes a time drawn from the seed, so
//! completions come in any order; its effect happens when it completes, or partly when a crash
//! comes first.
//!
//! What may go wrong is told by [`Faults`]. They come in two sorts, and every user of this disk
//! says which guarantee it expects under which sort:
//! - **Told**: errors of reads, writes and flushes. A failed write leaves any part of itself; a
//!   failed flush may take unsynced writes back, as a kernel does that drops pages it could not
//!   write.
//! - **Lies**: writes acknowledged and never there, writes that land elsewhere, bits that flip.
//!
//! Power loss and kill are no faults: they are calls ([`Disk::power_loss`], [`Disk::kill`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::time::Duration;

use weft_iobuf::BufSlot;
use weft_store::{Device, IoDone, IoError};

use crate::random::Random;

/// What a device writes whole or not at all.
pub const SECTOR: usize = 512;
const BLOCK: u64 = 4096;
const BLOCK_LEN: usize = 4096;
/// What a new device holds: nothing of anybody's.
const FILL: u8 = 0xee;
const EIO: i32 = 5;
/// Writes remembered as the places where bits flip.
const RECENT_MAX: usize = 16;

/// How a write reaches the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Through {
    /// O_DIRECT: a process that dies does not stop it halfway.
    Direct,
    /// The page cache: a process that dies may leave the first pages only.
    PageCache,
    /// RWF_DSYNC: durable when it completes.
    Durably,
}

/// One I/O.
#[derive(Debug)]
pub enum Work {
    /// Fills the start of a buffer.
    Read {
        /// From the device's start, in bytes.
        offset: u64,
        /// Comes back in the completion.
        buf: BufSlot,
        /// How many.
        bytes: usize,
    },
    /// Writes bytes.
    Write {
        /// From the device's start, in bytes.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
        /// How.
        through: Through,
    },
    /// Makes durable what was complete when it began.
    Flush,
    /// The device may forget these bytes: they read as before, as zeros or as anything.
    Discard {
        /// From the device's start, in bytes.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// Nothing: a turn of the process.
    Turn,
}

/// An I/O that is complete.
#[derive(Debug)]
pub struct Done {
    /// As submitted.
    pub tag: u64,
    /// When, in virtual time.
    pub at: Duration,
    /// As the store is to be told.
    pub result: Result<IoDone, IoError>,
}

/// What goes wrong, in ten thousand I/Os of the kind.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Device bytes the faults may hit; lies land there too.
    pub area: Range<u64>,
    /// Reads that fail once.
    pub read_errors: u32,
    /// Reads after which the place cannot be read until it is written.
    pub read_errors_for_good: u32,
    /// Writes that fail, leaving any part of themselves.
    pub write_errors: u32,
    /// Flushes that fail, taking some unsynced writes back.
    pub flush_errors: u32,
    /// Lie: acknowledged, never there.
    pub dropped: u32,
    /// Lie: landed elsewhere; the old place keeps the old bytes.
    pub misdirected: u32,
    /// Lie: a bit of the area flips while an I/O completes.
    pub rot: u32,
}

/// What went wrong so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// I/Os completed.
    pub ios: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Flushes that failed, told to somebody or not.
    pub failed_flushes: u64,
    /// I/Os that failed.
    pub errors: u64,
    /// Writes dropped or misdirected and bits flipped.
    pub lies: u64,
}

#[derive(Debug)]
struct Flight {
    tag: u64,
    work: Work,
    /// Writes complete when it was submitted: what a flush covers.
    covers: u64,
}

/// A write that a flush has not made durable yet.
#[derive(Debug)]
struct Cached {
    number: u64,
    offset: usize,
    bytes: Vec<u8>,
}

impl Cached {
    fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.bytes.len()
    }
}

/// The device.
#[derive(Debug)]
pub struct Disk {
    /// What a power loss leaves for sure.
    durable: Vec<u8>,
    /// What reads see.
    current: Vec<u8>,
    cache: Vec<Cached>,
    /// Writes completed so far.
    written: u64,
    flights: BTreeMap<(Duration, u64), Flight>,
    next_flight: u64,
    /// Where was written lately.
    recent: VecDeque<Range<u64>>,
    /// Blocks that cannot be read until they are written.
    bad: BTreeSet<u64>,
    random: Random,
    /// Blocking calls ([`Device`]) until the power fails; `None` for never.
    calls_left: Option<u32>,
    /// What goes wrong from now on.
    pub faults: Faults,
    /// What was done and went wrong.
    pub counts: Counts,
}

impl Disk {
    /// A device of `bytes`, full of nothing useful.
    pub fn new(bytes: usize, random: Random) -> Disk {
        Disk {
            durable: vec![FILL; bytes],
            current: vec![FILL; bytes],
            cache: Vec::new(),
            written: 0,
            flights: BTreeMap::new(),
            next_flight: 0,
            recent: VecDeque::new(),
            bad: BTreeSet::new(),
            random,
            calls_left: None,
            faults: Faults::default(),
            counts: Counts::default(),
        }
    }

    /// Begins an I/O. `tag` comes back in its completion.
    pub fn submit(&mut self, now: Duration, tag: u64, work: Work) {
        let work = match work {
            Work::Discard { offset, bytes } => self.discarded(offset, bytes),
            work => work,
        };
        let at = now + self.latency(&work);
        let flight = Flight { tag, work, covers: self.written };
        self.flights.insert((at, self.next_flight), flight);
        self.next_flight += 1;
    }

    /// When the next I/O completes.
    pub fn next_at(&self) -> Option<Duration> {
        self.flights.first_key_value().map(|((at, _), _)| *at)
    }

    /// What reads see, errors aside.
    pub fn contents(&self) -> &[u8] {
        &self.current
    }

    /// How many I/Os are under way.
    pub fn flight_count(&self) -> usize {
        self.flights.len()
    }

    /// Completes the I/O whose time comes next.
    pub fn complete(&mut self) -> Option<Done> {
        let ((at, _), flight) = self.flights.pop_first()?;
        self.counts.ios += 1;
        let result = self.execute(flight.work, flight.covers);
        self.counts.errors += u64::from(result.is_err());
        if self.random.rarely(self.faults.rot) && !self.faults.area.is_empty() {
            self.rot(1);
        }
        Some(Done { tag: flight.tag, at, result })
    }

    /// The process dies, the machine goes on: what was complete stays, and what was under way
    /// arrives or not. Where flushes fail, one under way may fail and nobody hears of it.
    pub fn kill(&mut self) {
        for flight in std::mem::take(&mut self.flights).into_values() {
            let Work::Write { offset, mut bytes, through } = flight.work else {
                let fails = matches!(flight.work, Work::Flush) && self.faults.flush_errors > 0;
                if fails && self.random.chance(50) {
                    self.counts.errors += 1;
                    self.take_back(flight.covers);
                }
                continue;
            };
            if self.random.chance(50) {
                continue;
            }
            if through == Through::PageCache && self.random.chance(50) {
                let pages = self.random.index(bytes.len() / BLOCK_LEN + 1);
                bytes.truncate(pages * BLOCK_LEN);
            }
            self.write_cached(index(offset), bytes);
        }
    }

    /// The power goes: of each write since the last flush, and of those under way, all, nothing or
    /// some sectors are there. Order is kept where writes overlap in a sector.
    pub fn power_loss(&mut self) {
        for flight in std::mem::take(&mut self.flights).into_values() {
            match flight.work {
                Work::Write { offset, bytes, .. } => self.write_cached(index(offset), bytes),
                Work::Flush if self.random.chance(50) => self.harden(flight.covers),
                _ => {}
            }
        }
        let share = self.random.pick(&[0, 20, 50, 80, 100]);
        for write in std::mem::take(&mut self.cache) {
            let whole = self.random.chance(70).then(|| self.random.chance(share));
            for (number, sector) in write.bytes.chunks(SECTOR).enumerate() {
                if whole.unwrap_or_else(|| self.random.chance(share)) {
                    let at = write.offset + number * SECTOR;
                    self.durable[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        self.current.copy_from_slice(&self.durable);
        self.calls_left = None;
    }

    /// Lets the power fail after so many blocking calls ([`Device`]): during open.
    pub fn power_fails_after(&mut self, calls: u32) {
        self.calls_left = Some(calls);
    }

    /// Whether it did.
    pub fn power_is_gone(&self) -> bool {
        self.calls_left == Some(0)
    }

    /// Whether a flush is under way.
    pub fn is_flushing(&self) -> bool {
        self.flights.values().any(|flight| matches!(flight.work, Work::Flush))
    }

    /// Whether there are blocks that cannot be read.
    pub fn has_bad_blocks(&self) -> bool {
        !self.bad.is_empty()
    }

    /// Writes at once, as a program does that formats the device.
    pub fn write_now(&mut self, offset: u64, bytes: &[u8]) {
        self.write_cached(index(offset), bytes.to_vec());
    }

    /// Makes everything complete durable.
    pub fn flush_now(&mut self) {
        self.harden(self.written);
    }

    /// So many blocks written lately cannot be read until they are written again, where the device has such blocks.
    pub fn lose_sectors(&mut self, blocks: u64) {
        let recent = self.recent.iter().filter(|range| self.hits(range.start));
        let recent: Vec<u64> = recent.map(|range| range.start / BLOCK).collect();
        if self.faults.read_errors_for_good == 0 || recent.is_empty() {
            return;
        }
        for _ in 0..blocks {
            self.bad.insert(recent[self.random.index(recent.len())]);
        }
    }

    /// So many bits of the faults' area flip, if anything does there: mostly where something was
    /// written lately.
    pub fn rot(&mut self, bits: u64) {
        if self.faults.rot == 0 {
            return;
        }
        for _ in 0..bits {
            let mut range = self.faults.area.clone();
            let recent = self.recent.iter().filter(|range| self.hits(range.start));
            let recent: Vec<Range<u64>> = recent.cloned().collect();
            if !recent.is_empty() && self.random.chance(75) {
                range = recent[self.random.index(recent.len())].clone();
            }
            let mut at = index(range.start + self.random.below(range.end - range.start));
            // Zeros are mostly what nobody looks at.
            for _ in 0..20 {
                if self.current[at] == 0 {
                    at = index(range.start + self.random.below(range.end - range.start));
                }
            }
            let bit = self.random.pick(&[0, 1, 2, 3, 4, 5, 6, 7]);
            self.counts.lies += 1;
            self.flip(at, bit);
        }
    }

    /// Flips a bit for good.
    pub fn flip(&mut self, offset: usize, bit: u8) {
        self.current[offset] ^= 1 << bit;
        self.durable[offset] ^= 1 << bit;
    }

    /// Where `pattern` lies, at `from` or later.
    pub fn find(&self, from: usize, pattern: &[u8]) -> Option<usize> {
        self.current[from..].windows(pattern.len()).position(|w| w == pattern).map(|at| at + from)
    }

    /// The device is longer from now on.
    pub fn grow(&mut self, bytes: usize) {
        assert!(bytes >= self.current.len());
        self.current.resize(bytes, FILL);
        self.durable.resize(bytes, FILL);
    }

    fn latency(&mut self, work: &Work) -> Duration {
        let (from, to) = match work {
            Work::Flush => self.random.pick(&[(50, 500), (500, 10_000)]),
            _ => self.random.pick(&[(10, 100), (10, 100), (100, 1_000), (1_000, 20_000)]),
        };
        Duration::from_micros(from + self.random.below(to - from))
    }

    /// What a discard leaves, decided when it begins.
    fn discarded(&mut self, offset: u64, bytes: u64) -> Work {
        let at = index(offset);
        let mut left = self.current[at..at + index(bytes)].to_vec();
        for sector in left.chunks_mut(SECTOR) {
            match self.random.below(4) {
                0 | 1 => sector.fill(0),
                2 => sector.fill(0xdd),
                _ => {}
            }
        }
        Work::Write { offset, bytes: left, through: Through::Direct }
    }

    fn execute(&mut self, work: Work, covers: u64) -> Result<IoDone, IoError> {
        match work {
            Work::Read { offset, buf, bytes } => self.read(offset, buf, bytes),
            Work::Write { offset, bytes, through } => self.write(offset, bytes, through),
            Work::Flush if self.random.rarely(self.faults.flush_errors) => {
                self.take_back(covers);
                Err(IoError { errno: EIO, buf: None })
            }
            Work::Flush => {
                self.counts.flushes += 1;
                self.harden(covers);
                Ok(IoDone::default())
            }
            Work::Turn => Ok(IoDone::default()),
            Work::Discard { .. } => unreachable!("became a write when it was submitted"),
        }
    }

    fn read(&mut self, offset: u64, mut buf: BufSlot, bytes: usize) -> Result<IoDone, IoError> {
        let at = index(offset);
        if self.hits(offset) && self.random.rarely(self.faults.read_errors_for_good) {
            self.bad.insert(offset / BLOCK);
        }
        let end = (offset + number(bytes)).div_ceil(BLOCK);
        let bad = self.bad.range(offset / BLOCK..end).next().is_some();
        if bad || (self.hits(offset) && self.random.rarely(self.faults.read_errors)) {
            return Err(IoError { errno: EIO, buf: Some(buf) });
        }
        buf.as_mut_slice()[..bytes].copy_from_slice(&self.current[at..at + bytes]);
        Ok(IoDone { buf: Some(buf), ..IoDone::default() })
    }

    fn write(
        &mut self,
        offset: u64,
        mut bytes: Vec<u8>,
        through: Through,
    ) -> Result<IoDone, IoError> {
        let mut at = index(offset);
        if self.hits(offset) {
            if self.random.rarely(self.faults.write_errors) {
                let sectors = self.random.index(bytes.len() / SECTOR + 1);
                bytes.truncate(sectors * SECTOR);
                self.write_cached(at, bytes);
                return Err(IoError { errno: EIO, buf: None });
            }
            if self.random.rarely(self.faults.dropped) {
                self.counts.lies += 1;
                return Ok(IoDone::default());
            }
            let span = (self.faults.area.end - self.faults.area.start)
                .checked_sub(number(bytes.len()))
                .filter(|span| *span >= BLOCK);
            if let Some(span) = span
                && self.random.rarely(self.faults.misdirected)
            {
                self.counts.lies += 1;
                at = index(self.faults.area.start + self.random.below(span / BLOCK) * BLOCK);
            }
        }
        self.write_cached(at, bytes);
        if through == Through::Durably {
            self.harden_last();
        }
        Ok(IoDone::default())
    }

    fn hits(&self, offset: u64) -> bool {
        self.faults.area.contains(&offset)
    }

    fn write_cached(&mut self, offset: usize, bytes: Vec<u8>) {
        let range = offset..offset + bytes.len();
        self.current[range.clone()].copy_from_slice(&bytes);
        let first = number(offset) / BLOCK;
        let end = number(range.end).div_ceil(BLOCK);
        self.bad.retain(|block| !(first..end).contains(block));
        self.written += 1;
        if !bytes.is_empty() {
            self.recent.push_back(number(range.start)..number(range.end));
            let old = self.recent.len().saturating_sub(RECENT_MAX);
            self.recent.drain(..old);
        }
        self.cache.push(Cached { number: self.written, offset, bytes });
    }

    /// Makes the first `covers` writes durable.
    fn harden(&mut self, covers: u64) {
        let later = self.cache.partition_point(|write| write.number <= covers);
        for write in self.cache.drain(..later) {
            self.durable[write.range()].copy_from_slice(&write.bytes);
        }
    }

    /// Makes the last write durable, and those before it that it overlaps.
    fn harden_last(&mut self) {
        let Some(last) = self.cache.last().map(Cached::range) else { return };
        let durable = &mut self.durable;
        self.cache.retain(|write| {
            let range = write.range();
            let apart = range.end <= last.start || range.start >= last.end;
            if !apart {
                durable[range].copy_from_slice(&write.bytes);
            }
            apart
        });
    }

    /// A flush failed: some of what it was to cover is gone for good, the rest is still unsynced.
    fn take_back(&mut self, covers: u64) {
        self.counts.failed_flushes += 1;
        let (random, current, durable) = (&mut self.random, &mut self.current, &self.durable);
        self.cache.retain(|write| {
            let gone = write.number <= covers && random.chance(30);
            if gone {
                current[write.range()].copy_from_slice(&durable[write.range()]);
            }
            !gone
        });
        for write in &self.cache {
            current[write.range()].copy_from_slice(&write.bytes);
        }
    }

    /// One blocking call; the power fails at the one that was chosen.
    fn call(&mut self) -> io::Result<()> {
        match self.calls_left.as_mut() {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Device for Disk {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.call()?;
        let at = index(offset);
        let bytes = self.current.get(at..at + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let end = (offset + number(buf.len())).div_ceil(BLOCK);
        if self.bad.range(offset / BLOCK..end).next().is_some() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        // A flush that the power loss cuts short may have done its work.
        let alive = self.call();
        if alive.is_ok() || self.random.chance(50) {
            self.harden(self.written);
        }
        alive
    }

    fn len_bytes(&self) -> u64 {
        number(self.current.len())
    }
}

/// A device offset as an index of the image.
fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("devices here fit into memory")
}

fn number(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("64 bits")
}

#[cfg(test)]
mod tests;
