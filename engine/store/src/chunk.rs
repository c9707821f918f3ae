//! One chunk's record: where its blocks lie and what their checksums are.
//!
//! A block either has a place and a checksum (it was written) or neither (it never was: a hole).
//! There is no third state: space is given when data is recorded, not before. In memory a record
//! is dense, one entry for each block up to the last written one; on disk it is a list of runs.

use weft_wire::units::{to_u32, to_u64, to_usize};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits::CHUNK_BLOCKS_MAX;

/// Blocks of a chunk that lie in a row on the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    /// First block, counted in the chunk.
    pub(crate) first: u32,
    /// How many.
    pub(crate) count: u32,
    /// Block of the data area where the first one lies.
    pub(crate) device_block: u64,
}

impl Run {
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u32, u64)> + use<> {
        let run = *self;
        (0..run.count).map(move |at| (run.first + at, run.device_block + u64::from(at)))
    }
}

/// Appends a block to a list of runs, lengthening the last run where it continues it.
pub(crate) fn push_block(runs: &mut Vec<Run>, block: u32, device_block: u64) {
    if let Some(last) = runs.last_mut()
        && last.first + last.count == block
        && last.device_block + u64::from(last.count) == device_block
    {
        last.count += 1;
        return;
    }
    runs.push(Run { first: block, count: 1, device_block });
}

/// Where a written block lies and what it must contain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Placed {
    pub(crate) device_block: u64,
    pub(crate) sum: u32,
}

/// Place of a block that was never written.
const HOLE: u64 = u64::MAX;

/// A run as it lies in the index and in journal records.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawRun {
    pub(crate) first: U32,
    pub(crate) count: U32,
    pub(crate) device_block: U64,
}

/// Head of an index value; the runs and then the checksums of their blocks follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawChunk {
    /// [`CHUNK_FORMAT`].
    pub(crate) format: U32,
    pub(crate) run_count: U32,
    /// How many times the chunk changed.
    pub(crate) version: U64,
}

pub(crate) const CHUNK_FORMAT: u32 = 1;
pub(crate) const RAW_RUN_LEN: usize = size_of::<RawRun>();
pub(crate) const RAW_CHUNK_LEN: usize = size_of::<RawChunk>();
const _: () = assert!(RAW_RUN_LEN == 16 && RAW_CHUNK_LEN == 16);

impl RawRun {
    pub(crate) fn of(run: &Run) -> RawRun {
        RawRun {
            first: run.first.into(),
            count: run.count.into(),
            device_block: run.device_block.into(),
        }
    }

    /// The run, if it lies within a chunk.
    pub(crate) fn run(&self) -> Option<Run> {
        let (first, count) = (self.first.get(), self.count.get());
        let end = first.checked_add(count)?;
        let device_block = self.device_block.get();
        device_block.checked_add(u64::from(count))?;
        (count > 0 && end <= CHUNK_BLOCKS_MAX).then_some(Run { first, count, device_block })
    }
}

/// Where the blocks of one chunk lie.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Chunk {
    version: u64,
    devices: Vec<u64>,
    sums: Vec<u32>,
}

/// What planning a write needs to know of a chunk: a copy of the few entries around the range
/// instead of the whole record, which has one for each block.
#[derive(Debug, Default)]
pub(crate) struct Window {
    first: u32,
    placed: Vec<Option<Placed>>,
    end: u32,
}

impl Window {
    /// The blocks from the one before `first` on, `count` and that one.
    pub(crate) fn show(&mut self, chunk: Option<&Chunk>, first: u32, count: u32) {
        self.first = first.saturating_sub(1);
        self.end = chunk.map_or(0, Chunk::end);
        self.placed.clear();
        let blocks = self.first..first + count;
        self.placed.extend(blocks.map(|block| chunk.and_then(|chunk| chunk.get(block))));
    }

    /// As [`Chunk::get`], of a block of the window.
    pub(crate) fn get(&self, block: u32) -> Option<Placed> {
        self.placed[index(block - self.first)]
    }

    /// As [`Chunk::end`].
    pub(crate) fn end(&self) -> u32 {
        self.end
    }
}

impl Chunk {
    /// Where `block` lies; `None` if it was never written.
    pub(crate) fn get(&self, block: u32) -> Option<Placed> {
        let at = index(block);
        let device_block = *self.devices.get(at)?;
        (device_block != HOLE).then(|| Placed { device_block, sum: self.sums[at] })
    }

    /// Says where `block` lies from now on; gives what was there.
    pub(crate) fn set(&mut self, block: u32, placed: Placed) -> Option<Placed> {
        assert!(block < CHUNK_BLOCKS_MAX);
        let before = self.get(block);
        let at = index(block);
        if at >= self.devices.len() {
            self.devices.resize(at + 1, HOLE);
            self.sums.resize(at + 1, 0);
        }
        self.devices[at] = placed.device_block;
        self.sums[at] = placed.sum;
        before
    }

    /// Forgets `block`; gives what was there.
    pub(crate) fn clear(&mut self, block: u32) -> Option<Placed> {
        let before = self.get(block)?;
        self.devices[index(block)] = HOLE;
        self.trim();
        Some(before)
    }

    /// Forgets the blocks from `keep_blocks` on; gives the places they had.
    pub(crate) fn cut(&mut self, keep_blocks: u32) -> Vec<u64> {
        let keep = index(keep_blocks).min(self.devices.len());
        let gone = self.devices.split_off(keep);
        self.trim();
        gone.into_iter().filter(|device_block| *device_block != HOLE).collect()
    }

    fn trim(&mut self) {
        let len = self.devices.iter().rposition(|device| *device != HOLE).map_or(0, |at| at + 1);
        self.devices.truncate(len);
        self.sums.truncate(len);
    }

    /// Counts a change.
    pub(crate) fn touch(&mut self) {
        self.version += 1;
    }

    /// One more than the last written block.
    pub(crate) fn end(&self) -> u32 {
        to_u32(self.devices.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    pub(crate) fn written_count(&self) -> u32 {
        self.runs().iter().map(|run| run.count).sum()
    }

    /// The written blocks as runs, ascending.
    pub(crate) fn runs(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        for (block, device_block) in (0u32..).zip(&self.devices) {
            if *device_block != HOLE {
                push_block(&mut runs, block, *device_block);
            }
        }
        runs
    }

    /// The first blocks from `block` on that were written and lie in a row, `count_max` at most.
    pub(crate) fn run_at_or_after(&self, block: u32, count_max: u32) -> Option<Run> {
        let first = (block..self.end()).find(|block| self.get(*block).is_some())?;
        let device_block = self.devices[index(first)];
        let follows = |at: &u32| {
            let place = self.devices.get(index(first + at));
            place.is_some_and(|place| *place == device_block.wrapping_add(u64::from(*at)))
        };
        let count = to_u32((0..count_max).take_while(follows).count());
        Some(Run { first, count, device_block })
    }

    /// Memory it takes, about.
    pub(crate) fn memory_bytes(&self) -> u64 {
        to_u64(size_of::<Chunk>() + self.devices.capacity() * 8 + self.sums.capacity() * 4)
    }

    /// The index value.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let runs = self.runs();
        let head = RawChunk {
            format: CHUNK_FORMAT.into(),
            run_count: to_u32(runs.len()).into(),
            version: self.version.into(),
        };
        let mut out = head.as_bytes().to_vec();
        for run in &runs {
            out.extend_from_slice(RawRun::of(run).as_bytes());
        }
        for (device_block, sum) in self.devices.iter().zip(&self.sums) {
            if *device_block != HOLE {
                out.extend_from_slice(&sum.to_le_bytes());
            }
        }
        out
    }

    /// Reads an index value; `None` when it is none.
    pub(crate) fn decode(value: &[u8]) -> Option<Chunk> {
        let (head, rest) = RawChunk::read_from_prefix(value).ok()?;
        if head.format.get() != CHUNK_FORMAT || head.run_count.get() > CHUNK_BLOCKS_MAX {
            return None;
        }
        let (runs, sums) = decode_runs(rest, head.run_count.get())?;
        let mut chunk = Chunk { version: head.version.get(), ..Chunk::default() };
        let mut sums = sums.iter();
        for run in runs {
            if run.first < chunk.end() {
                return None;
            }
            for (block, device_block) in run.blocks() {
                chunk.set(block, Placed { device_block, sum: sums.next()?.get() });
            }
        }
        sums.next().is_none().then_some(chunk)
    }
}

/// Cuts runs and the checksums of their blocks from exactly `bytes`.
pub(crate) fn decode_runs(bytes: &[u8], run_count: u32) -> Option<(Vec<Run>, &[U32])> {
    let runs_len = index(run_count).checked_mul(RAW_RUN_LEN)?;
    let (runs, sums) = bytes.split_at_checked(runs_len)?;
    let raw_runs = <[RawRun]>::ref_from_bytes(runs).ok()?;
    let runs = raw_runs.iter().map(RawRun::run).collect::<Option<Vec<_>>>()?;
    let sums = <[U32]>::ref_from_bytes(sums).ok()?;
    let block_count: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
    (block_count == to_u64(sums.len())).then_some((runs, sums))
}

fn index(block: u32) -> usize {
    to_usize(u64::from(block))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(device_block: u64) -> Placed {
        Placed { device_block, sum: 7 * u32::try_from(device_block).unwrap() }
    }

    #[test]
    fn a_record_with_holes_comes_back() {
        let mut chunk = Chunk::default();
        for (block, device) in [(3, 40), (4, 41), (9, 2), (5, 42), (1023, 1)] {
            assert_eq!(chunk.set(block, placed(device)), None);
        }
        chunk.touch();
        assert_eq!(chunk.runs().len(), 3);
        assert_eq!(chunk.written_count(), 5);
        let value = chunk.encode();
        assert_eq!(value.len(), 16 + 3 * 16 + 5 * 4);
        assert_eq!(Chunk::decode(&value).unwrap(), chunk);
        assert_eq!(chunk.get(0), None);
        assert_eq!(chunk.get(4), Some(placed(41)));
        assert_eq!(chunk.cut(5), [42, 2, 1]);
        assert_eq!(chunk.end(), 5);
        assert_eq!(chunk.clear(4), Some(placed(41)));
        assert_eq!(chunk.end(), 4);
        assert_eq!(chunk.cut(0), [40]);
        assert!(chunk.is_empty());
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let mut chunk = Chunk::default();
        chunk.set(3, placed(40));
        chunk.set(8, placed(50));
        let value = chunk.encode();
        for len in 0..value.len() {
            assert_eq!(Chunk::decode(&value[..len]), None, "cut at {len}");
        }
        let changed = |at: usize, byte: u8| {
            let mut value = value.clone();
            value[at] = byte;
            Chunk::decode(&value)
        };
        assert_eq!(changed(0, 2), None, "format");
        assert_eq!(changed(4, 3), None, "run count");
        assert_eq!(changed(20, 2), None, "blocks without checksums");
        assert_eq!(changed(32, 3), None, "overlapping runs");
        assert_eq!(changed(33, 4), None, "a run beyond the chunk");
    }
}
