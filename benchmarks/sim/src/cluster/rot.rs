//! What open makes of a log with damage in it: tried on a copy of the volume at starts of the server, so that the
//! simulation goes on as if it had not been.
//!
//! Bits flip, blocks are zeros or another block of the log: a write that was lost or went astray. Anywhere in both areas,
//! so also in what a checkpoint made superfluous. Then the volume is refused by the name of the damage, or is all that
//! was promised. Only of the last batches nothing is asked but that the namespace is whole: what is not whole there may be
//! the end of the log (`metadata/doc/format.md`).

use std::collections::VecDeque;
use std::ops::Range;

use weft_metadata::limits::LOG_WRITES_MAX;
use weft_metadata::{Kind, LogDevice, Volume};
use weft_wire::units::{to_u64, to_usize};

use super::World;
use super::check::dump;
use super::node::{SEGMENT_BYTES, volume_params};
use crate::random::Random;

const BLOCK: u64 = weft_metadata::limits::LOG_BLOCK_BYTES as u64;
/// Starts at which it is tried, of each seed.
const TRIES_MAX: u32 = 4;

/// What the trials of a seed draw on and remember.
#[derive(Debug)]
pub(super) struct LogRot {
    /// Its own: whatever it draws, the rest of the seed stays as it is.
    random: Random,
    tries_left: u32,
    /// The last batches that were sent to the log. Those that were under way at the end may be missing, and those that
    /// were when the first of these was sent are durable by no word of a later one.
    last: VecDeque<Range<u64>>,
}

impl LogRot {
    pub(super) fn new(seed: u64) -> LogRot {
        LogRot { random: Random::new(!seed), tries_left: TRIES_MAX, last: VecDeque::new() }
    }

    /// A batch goes to the log.
    pub(super) fn appended(&mut self, batch: Range<u64>) {
        self.last.push_back(batch);
        if self.last.len() > 2 * LOG_WRITES_MAX {
            self.last.pop_front();
        }
    }

    /// Damages a block; where.
    fn damage(&mut self, log: &mut [u8]) -> Range<u64> {
        // Where batches are, rather than in the zeros behind them.
        let used =
            |at: &u64| log[to_usize(*at)..to_usize(at + BLOCK)].iter().any(|byte| *byte != 0);
        let blocks: Vec<u64> =
            (0..to_u64(log.len()) / BLOCK).map(|number| number * BLOCK).collect();
        let used: Vec<u64> = blocks.iter().copied().filter(used).collect();
        let at = self.random.pick(if used.is_empty() { &blocks } else { &used });
        let block = to_usize(at)..to_usize(at + BLOCK);
        match self.random.below(4) {
            0 => log[block].fill(0),
            1 => {
                let from = self.random.pick(if used.is_empty() { &blocks } else { &used });
                log.copy_within(to_usize(from)..to_usize(from + BLOCK), block.start);
            }
            // More often near the start, where something is.
            _ => {
                let within = self.random.pick(&[16, 64, 512, BLOCK]);
                log[to_usize(at + self.random.below(within))] ^= 1 << self.random.below(8);
            }
        }
        at..at + BLOCK
    }
}

/// A log in memory.
struct Copied(Vec<u8>);

impl LogDevice for Copied {
    fn len_bytes(&mut self) -> std::io::Result<u64> {
        Ok(to_u64(self.0.len()))
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        buffer.copy_from_slice(&self.0[to_usize(offset)..to_usize(offset) + buffer.len()]);
        Ok(())
    }
}

impl World {
    /// Before a start: the server is not running.
    pub(super) fn try_log_rot(&mut self) {
        let rot = &mut self.log_rot;
        if self.calm || rot.tries_left == 0 || !rot.random.chance(20) {
            return;
        }
        rot.tries_left -= 1;
        let mut log = Copied(self.node.log.contents().to_vec());
        let damaged = rot.damage(&mut log.0);
        let unsure =
            rot.last.iter().any(|last| last.start < damaged.end && damaged.start < last.end);
        let copy = self.node.copy_volume();
        let opened = Volume::open(copy.path(), &volume_params(&self.plan), &mut log);
        let now = self.now;
        let told = opened.as_ref().map(drop);
        self.telling.step(now, || format!("log damaged at {damaged:?}, unsure {unsure}: {told:?}"));
        match opened {
            Err(error) => {
                let named =
                    error.kind == Kind::LogDamaged && error.detail < u64::from(SEGMENT_BYTES) * 2;
                assert!(named, "damage of the log at {damaged:?} is not told as such: {error:?}");
            }
            Ok((mut volume, report)) => {
                assert_eq!((report.damaged_commands, report.damaged_rows), (0, 0), "{report:?}");
                let check = weft_metadata::check(&volume);
                assert!(
                    check.is_sound(),
                    "the volume is not sound after damage at {damaged:?}: {check:?}"
                );
                if !unsure {
                    self.compare_all(&mut volume, &damaged);
                }
            }
        }
    }

    /// What every program was promised is there.
    fn compare_all(&self, volume: &mut Volume, damaged: &Range<u64>) {
        let dump = dump(volume).unwrap_or_else(|why| panic!("the volume cannot be read: {why}"));
        for program in self.clients.iter().flat_map(|client| &client.programs) {
            let compared = program
                .compared(|tree, files, prefix| super::check::compare(tree, files, prefix, &dump));
            if let Err(why) = compared {
                panic!("the log was damaged at {damaged:?}, and open did not say so: {why}");
            }
        }
    }
}
