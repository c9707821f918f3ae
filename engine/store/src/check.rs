//! A whole check of one target that nobody has open: superblocks, journal, index against the space map, and every
//! block's checksum. It changes nothing.
//!
//! The journal is applied in memory as open would, so what is checked is what a server would serve. Whatever is
//! wrong becomes a [`Problem`]; the check goes on where it can.

use std::collections::BTreeMap;

use weft_wire::blocks::{BLOCK_LEN, crc32c};
use weft_wire::scrub::DamageKind;
use weft_wire::units::{to_u32, to_u64, to_usize};
use weft_wire::{ChunkId, ChunkIndex, Ino};

use crate::chunk::Run;
use crate::error::{Kind, StoreError};
use crate::index::Index;
use crate::limits::{BLOCK, SCAN_BYTES};
use crate::map::Map;
use crate::recover::Rehearsal;
use crate::space::{Extent, Space};
use crate::store::{OpenParams, index_bytes_max};
use crate::superblock::{Copies, Device, Superblock, inspect_copies};

/// Problems kept by name; more are counted.
const PROBLEMS_MAX: usize = 10_000;

/// Something that is wrong with a target.
#[derive(Debug)]
pub enum Problem {
    /// A part of the target as a whole: nothing behind it could be looked at.
    Whole(StoreError),
    /// One copy of the superblock.
    Superblock(Copies),
    /// Blocks that cannot be read back, or, with `Index`, a place behind which chunks cannot be found.
    Blocks {
        /// The chunk.
        chunk: ChunkId,
        /// First block, counted in the chunk.
        first: u32,
        /// How many.
        count: u32,
        /// What is wrong.
        kind: DamageKind,
    },
    /// A block whose place is not on the device.
    OutOfRange {
        /// The chunk.
        chunk: ChunkId,
        /// The block.
        block: u32,
        /// Block of the data area it claims.
        device_block: u64,
    },
    /// Two blocks, of chunks or of one, that claim the same place.
    Shared {
        /// Whose it is by the order of the index.
        chunk: ChunkId,
        /// And its block.
        block: u32,
        /// Who claims it as well.
        other: ChunkId,
        /// And its block.
        other_block: u32,
        /// Block of the data area.
        device_block: u64,
    },
}

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// What the target says it is, when it can be read.
    pub superblock: Option<Superblock>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Problems that [`CheckReport::problems`] has no room for.
    pub unlisted_problems: u64,
    /// Chunks looked at.
    pub chunks: u64,
    /// Blocks they have.
    pub blocks: u64,
    /// Blocks read and compared.
    pub checked_blocks: u64,
    /// Changes the journal has that are not in the index yet.
    pub replayed_records: u64,
    /// The journal ended before its last record: appends that no sync covered were lost.
    pub lost_records: bool,
    /// Blocks that a crash left in doubt. Opening the target settles each; those that match nothing are among the
    /// problems.
    pub uncertain: Vec<(ChunkId, u32)>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty() && self.unlisted_problems == 0
    }

    fn add(&mut self, problem: Problem) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        } else {
            self.unlisted_problems += 1;
        }
    }
}

/// Checks a target; the caller holds it as a server would. `quick` leaves the data unread. `progress` is told the blocks
/// looked at, now and then.
///
/// # Errors
/// `Busy` when the index is open elsewhere, `Mismatch` when the index is another target's or the target another
/// cluster's, `Device` when the superblocks cannot be read: what no check can be made of. All else is a [`Problem`].
pub fn check(
    params: &OpenParams,
    device: &mut dyn Device,
    quick: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<CheckReport, StoreError> {
    let mut report = CheckReport::default();
    let superblock = match inspect_copies(device) {
        Ok((superblock, Copies::Both)) => superblock,
        Ok((superblock, copies)) => {
            report.add(Problem::Superblock(copies));
            superblock
        }
        Err(error) if error.kind == Kind::Device => return Err(error),
        Err(error) => {
            report.add(Problem::Whole(error));
            return Ok(report);
        }
    };
    report.superblock = Some(superblock);
    let mismatch = |op| Err(StoreError::new(Kind::Mismatch, op, 0));
    if superblock.cluster != params.cluster {
        return mismatch("check: the target belongs to another cluster");
    }
    let opened = open_index(params, &superblock);
    if let Ok((map, meta)) = &opened {
        compare_space(map, meta, &superblock, &mut report);
    }
    let rehearsed = opened
        .and_then(|(map, meta)| Rehearsal::new(device, &superblock, map, &meta, params.boot_id));
    let mut rehearsal = match rehearsed {
        Ok(rehearsal) => rehearsal,
        Err(error) if matches!(error.kind, Kind::Busy | Kind::Mismatch) => return Err(error),
        Err(error) => {
            report.add(Problem::Whole(error));
            return Ok(report);
        }
    };
    (report.replayed_records, report.lost_records) = rehearsal.told();
    report.uncertain = rehearsal.uncertain();
    let space = check_space(rehearsal.map(), &superblock, &mut report);
    if let Some(mut space) = space {
        // What open would decide of the blocks in doubt, so that it is those that are read below.
        if let Err(error) = rehearsal.settle(device, &superblock, &mut space) {
            report.add(Problem::Whole(error));
            return Ok(report);
        }
    }
    if !quick {
        check_data(rehearsal.map(), device, &superblock, &mut report, progress);
    }
    Ok(report)
}

fn open_index(
    params: &OpenParams,
    superblock: &Superblock,
) -> Result<(Map, crate::index::Meta), StoreError> {
    let map_bytes_max = index_bytes_max(superblock);
    let (index, meta) = Index::open(&params.index_dir, map_bytes_max, params.commit_bytes_max)?;
    if (meta.cluster, meta.target_uuid) != (superblock.cluster, superblock.target_uuid) {
        let op = "check: the index belongs to another target";
        return Err(StoreError::new(Kind::Mismatch, op, 0));
    }
    // No headroom: nothing is going to be written.
    Ok((Map::new(index, params.cache_bytes_max, 0)?, meta))
}

/// The map of used blocks, as the last checkpoint left it, is what its chunk records say: open trusts it.
fn compare_space(
    map: &Map,
    meta: &crate::index::Meta,
    superblock: &Superblock,
    report: &mut CheckReport,
) {
    let block_count = superblock.areas.data_block_count;
    // Where there is none, open makes it from the records.
    let Ok(Some(stored)) = map.read_space(meta.applied, block_count) else { return };
    let mut space = Space::new(block_count);
    let mut good = true;
    let walked = map.for_each(&mut |chunk| {
        for run in chunk.runs() {
            good &= space.claim(Extent { start: run.device_block, count: run.count });
        }
    });
    // What is wrong with the records themselves is named below.
    if walked.is_ok() && good && space != stored {
        let op = "check: the map of used blocks is not what the chunk records say";
        report.add(Problem::Whole(StoreError::new(Kind::Damaged, op, 0)));
    }
}

/// Calls `f` with the runs of each chunk; gives the places where the index cannot be read.
fn for_each_chunk(map: &Map, f: &mut dyn FnMut(ChunkId, &crate::chunk::Chunk)) -> Vec<ChunkId> {
    let mut gaps = Vec::new();
    let mut last = None;
    loop {
        let next = map.next_after(last).unwrap_or_else(|_| {
            gaps.push(last.unwrap_or(ChunkId { ino: Ino(0), index: ChunkIndex(0) }));
            map.next_behind_gap(last)
        });
        let Some(id) = next else { return gaps };
        match map.peek(id) {
            Ok(Some(chunk)) => f(id, &chunk),
            Ok(None) => {}
            Err(_) => gaps.push(id),
        }
        last = Some(id);
    }
}

/// Every place is on the device and claimed once; the space map when that is so.
fn check_space(map: &Map, superblock: &Superblock, report: &mut CheckReport) -> Option<Space> {
    let block_count = superblock.areas.data_block_count;
    let mut space = Space::new(block_count);
    let mut shared: BTreeMap<u64, Option<(ChunkId, u32)>> = BTreeMap::new();
    let mut out_of_range = Vec::new();
    let (mut chunks, mut blocks) = (0, 0);
    let gaps = for_each_chunk(map, &mut |id, chunk| {
        chunks += 1;
        for run in chunk.runs() {
            blocks += u64::from(run.count);
            if space.claim(Extent { start: run.device_block, count: run.count }) {
                continue;
            }
            for (block, device_block) in run.blocks() {
                if device_block >= block_count {
                    out_of_range.push((id, block, device_block));
                } else if !space.claim(Extent { start: device_block, count: 1 }) {
                    shared.insert(device_block, None);
                }
            }
        }
    });
    (report.chunks, report.blocks) = (chunks, blocks);
    let sound = shared.is_empty() && out_of_range.is_empty();
    for (chunk, block, device_block) in out_of_range {
        report.add(Problem::OutOfRange { chunk, block, device_block });
    }
    for chunk in gaps {
        report.add(Problem::Blocks { chunk, first: 0, count: 0, kind: DamageKind::Index });
    }
    if !shared.is_empty() {
        name_shared(map, &mut shared, report);
    }
    sound.then_some(space)
}

/// A second walk tells who the claimants of a shared block are.
fn name_shared(
    map: &Map,
    shared: &mut BTreeMap<u64, Option<(ChunkId, u32)>>,
    report: &mut CheckReport,
) {
    for_each_chunk(map, &mut |other, chunk| {
        for (other_block, device_block) in chunk.runs().iter().flat_map(Run::blocks) {
            match shared.get_mut(&device_block) {
                None => {}
                Some(first @ None) => *first = Some((other, other_block)),
                Some(Some((chunk, block))) => report.add(Problem::Shared {
                    chunk: *chunk,
                    block: *block,
                    other,
                    other_block,
                    device_block,
                }),
            }
        }
    });
}

fn check_data(
    map: &Map,
    device: &mut dyn Device,
    superblock: &Superblock,
    report: &mut CheckReport,
    progress: &mut dyn FnMut(u64),
) {
    let most = to_u32(SCAN_BYTES / BLOCK_LEN);
    let mut buf = vec![0; SCAN_BYTES];
    for_each_chunk(map, &mut |id, chunk| {
        let mut next = 0;
        while let Some(run) = chunk.run_at_or_after(next, most) {
            next = run.first + run.count;
            if run.device_block + u64::from(run.count) > superblock.areas.data_block_count {
                continue;
            }
            let bytes = &mut buf[..to_usize(u64::from(run.count)) * BLOCK_LEN];
            let offset = superblock.areas.data_byte(run.device_block);
            let whole = device.read_at(offset, bytes).is_ok();
            for (at, (block, _)) in run.blocks().enumerate() {
                let one = &mut bytes[at * BLOCK_LEN..(at + 1) * BLOCK_LEN];
                let there = whole || device.read_at(offset + to_u64(at) * BLOCK, one).is_ok();
                let sum = chunk.get(block).expect("the run is of written blocks").sum;
                let kind = match there {
                    false => DamageKind::Unreadable,
                    true if crc32c(one) == sum => continue,
                    true => DamageKind::Mismatch,
                };
                add_block(report, id, block, kind);
            }
            report.checked_blocks += u64::from(run.count);
            progress(report.checked_blocks);
        }
    });
}

/// Adds a damaged block, lengthening the last problem where it continues it.
fn add_block(report: &mut CheckReport, id: ChunkId, block: u32, wrong: DamageKind) {
    if let Some(Problem::Blocks { chunk, first, count, kind }) = report.problems.last_mut()
        && (*chunk, *kind) == (id, wrong)
        && *first + *count == block
    {
        *count += 1;
        return;
    }
    report.add(Problem::Blocks { chunk: id, first: block, count: 1, kind: wrong });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Chunk, Placed};
    use crate::index::Meta;
    use crate::space_rows::SpaceHead;
    use crate::store::Store;
    use crate::superblock::{FormatParams, TargetUuid, format_plan};
    use weft_wire::{ClusterId, TargetId};

    struct Memory(Vec<u8>);

    impl Device for Memory {
        fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
            buf.copy_from_slice(&self.0[to_usize(offset)..][..buf.len()]);
            Ok(())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }

        fn len_bytes(&self) -> u64 {
            to_u64(self.0.len())
        }
    }

    /// A formatted target with a chunk on block 5, and an index whose map says that `used` is used.
    fn checked(used: u64) -> CheckReport {
        let dir = tempfile::tempdir().unwrap();
        let params = FormatParams {
            cluster: ClusterId([7; 16]),
            target_uuid: TargetUuid([3; 16]),
            target_id: TargetId(0),
            capacity_bytes: 16 << 20,
        };
        let plan = format_plan(&params).unwrap();
        let mut device = Memory(vec![0; 16 << 20]);
        for (offset, bytes) in &plan.writes {
            device.0[to_usize(*offset)..][..bytes.len()].copy_from_slice(bytes);
        }
        let index_dir = dir.path().join("index");
        Store::create_index(&index_dir, &plan.superblock).unwrap();
        let block_count = plan.superblock.areas.data_block_count;
        {
            let map_bytes_max = index_bytes_max(&plan.superblock);
            let (index, meta) = Index::open(&index_dir, map_bytes_max, 0).unwrap();
            let mut txn = index.begin().unwrap();
            let mut chunk = Chunk::default();
            chunk.set(0, Placed { device_block: 5, sum: crc32c(&[0; BLOCK_LEN]) });
            let id = ChunkId { ino: Ino(9), index: ChunkIndex(0) };
            index.put_chunk(&mut txn, id, Some(&chunk)).unwrap();
            let mut space = Space::new(block_count);
            assert!(space.claim(Extent { start: used, count: 1 }));
            let head = SpaceHead { applied: meta.applied, block_count, used_count: 1 };
            index.put_space(&mut txn, &head, std::iter::once((0, space.row(0)))).unwrap();
            index.put_meta(&mut txn, &Meta { ..meta }).unwrap();
            txn.commit().unwrap();
        }
        let params = OpenParams::new(index_dir, params.cluster);
        check(&params, &mut device, false, &mut |_| ()).unwrap()
    }

    #[test]
    fn a_map_of_used_blocks_that_is_not_the_records_is_found() {
        let good = checked(5);
        assert!(good.is_sound() && good.chunks == 1, "{good:?}");
        let bad = checked(6);
        let [Problem::Whole(error)] = &bad.problems[..] else { panic!("{bad:?}") };
        assert_eq!(error.kind, Kind::Damaged);
        assert!(error.op.contains("used blocks"), "{error}");
    }
}
