//! Which faults go together, and what must hold under them.
//!
//! | regime | what happens | while it runs | after a crash |
//! |---|---|---|---|
//! | `Kills` | the process dies | reads are right | every block is as answered, or as an operation under way leaves it |
//! | `Power` | the power goes, too | reads are right | what was synced is there; other blocks are old, new, or unreadable if nothing of them was synced or all of them was being overwritten |
//! | `Errors` | I/Os fail, too | reads are right or fail | the same; blocks of failed operations are old, new or unreadable |
//! | `DataLies` | data writes are dropped or land elsewhere, bits rot, too | reads are right or fail | the same or unreadable; a block may be the version before if it changed since the last sync but one, never "never written" if a sync covered it |
//! | `JournalLies` | the same, in the journal | reads are right | any version it had since the last crash, or unreadable; or the target is refused as damaged |
//!
//! In one seed of 16, of `Power` or `Errors`, pages of the index cannot be read now and then, and files go in many steps:
//! what needs such a page ends with an error, and what was done before that stays.
//!
//! In every regime: no block reads as anything it never was; every block is found and counted; a
//! block is given to one chunk at a time; and when all is removed all space is free.

use std::time::Duration;

use weft_store::Areas;

use crate::disk::Faults;
use crate::random::Random;

/// A set of faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Regime {
    /// The process dies.
    Kills,
    /// And the power goes.
    Power,
    /// And I/Os fail.
    Errors,
    /// And the device lies about data.
    DataLies,
    /// And the device lies about the journal.
    JournalLies,
}

/// Back to which sync a crash may take a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// The device is honest.
    LastSync,
    /// Whether a sync's flush was the last thing that happened cannot be known afterwards, so what
    /// the device lied about then looks like what the power loss took.
    LastButOneSync,
    /// Records are gone without a trace.
    Everything,
}

impl Regime {
    /// The regime of a seed.
    pub fn draw(random: &mut Random) -> Regime {
        match random.below(100) {
            0..10 => Regime::Kills,
            10..40 => Regime::Power,
            40..58 => Regime::Errors,
            58..85 => Regime::DataLies,
            _ => Regime::JournalLies,
        }
    }

    /// Back to which sync a crash may take a block.
    pub fn memory(self) -> Memory {
        match self {
            Regime::Kills | Regime::Power | Regime::Errors => Memory::LastSync,
            Regime::DataLies => Memory::LastButOneSync,
            Regime::JournalLies => Memory::Everything,
        }
    }

    /// Whether the device lies.
    pub fn lies(self) -> bool {
        matches!(self, Regime::DataLies | Regime::JournalLies)
    }

    /// Blocks of data that cannot be read until they are written again, on some of the devices that tell errors.
    pub fn lose_sectors(self, faults: &mut Faults, random: &mut Random) {
        // Reads of the journal at open must work.
        let data_alone = faults.area.start >= 5 << 20;
        if self == Regime::Errors && data_alone && random.chance(40) {
            faults.read_errors_for_good = random.pick(&[50, 200]);
        }
    }

    /// What goes wrong on a device of these areas.
    pub fn faults(self, areas: &Areas, random: &mut Random) -> Faults {
        let data = areas.data_offset..areas.copy_b_offset;
        let journal = areas.journal_offset..areas.journal_offset + 2 * areas.segment_bytes;
        let mut often = |choices: &[u32]| random.pick(choices);
        match self {
            Regime::Kills | Regime::Power => Faults::default(),
            Regime::Errors => {
                let area = if often(&[0, 0, 1]) == 1 { journal.start..data.end } else { data };
                // Reads of the journal at open must work: that device is for the administrator.
                Faults {
                    area,
                    read_errors: often(&[0, 50, 300]),
                    read_errors_for_good: 0,
                    write_errors: often(&[0, 50, 300]),
                    flush_errors: often(&[0, 200, 1000]),
                    ..Faults::default()
                }
            }
            Regime::DataLies => Faults {
                area: data,
                dropped: often(&[0, 300, 2000]),
                misdirected: often(&[0, 100, 500]),
                rot: often(&[0, 50, 200]),
                read_errors_for_good: often(&[0, 0, 50]),
                ..Faults::default()
            },
            Regime::JournalLies => Faults {
                area: journal,
                dropped: often(&[0, 100, 1000]),
                misdirected: often(&[0, 100, 500]),
                rot: often(&[0, 200, 2000]),
                ..Faults::default()
            },
        }
    }
}

/// How a seed's clients and its store behave.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Weights of writes, reads, syncs and truncations.
    pub weights: [u32; 4],
    /// Time between operations, at most.
    pub pause_max: Duration,
    /// Time between ticks.
    pub tick: Duration,
    /// Operations under way at a time.
    pub depth: usize,
    /// Most blocks of a write.
    pub blocks_max: u32,
    /// Percent of writes that cover blocks in part.
    pub partial: u64,
    /// How many different contents there are; 0: each write is unique.
    pub contents: u64,
    /// Blocks nobody touches, so that the device is full now and then.
    pub filler_blocks: u32,
    /// Blocks of a chunk that are touched: few are touched often.
    pub chunk_blocks: u32,
    /// Inodes and chunks of each.
    pub inos: u64,
    /// See `inos`.
    pub chunks: u64,
    /// Changed chunks that begin a checkpoint.
    pub dirty_chunks_max: u64,
    /// Memory for chunk records.
    pub cache_bytes_max: u64,
    /// Memory for what lies between flushes.
    pub tables_bytes_max: u64,
    /// Time between checkpoints.
    pub checkpoint_interval: Duration,
    /// A scrub goes on beside the clients.
    pub scrub: bool,
    /// Places change hands after each sync, and then the power goes.
    pub swaps: bool,
    /// The target grows, ranges are zeroed and allocated, and what is free may be discarded.
    pub shapes: bool,
    /// Space is given out ahead all the time, and the power goes during a sync.
    pub gives: bool,
    /// Percent of operations that do so to ranges, where they do.
    pub zeroing: u64,
}

impl Habits {
    /// The habits of a seed.
    pub fn draw(random: &mut Random) -> Habits {
        let habits = Habits::any(random);
        match random.below(100) {
            0..50 => habits,
            50..80 => habits.crowded(random),
            _ => habits.busy(),
        }
    }

    /// Few blocks of one chunk, written again and again between checkpoints, with many syncs:
    /// whatever forgets what a sync promised is soonest seen here.
    fn busy(self) -> Habits {
        Habits {
            weights: [60, 5, 20, 3],
            blocks_max: 4,
            contents: 0,
            filler_blocks: 300,
            chunk_blocks: 12,
            inos: 1,
            chunks: 1,
            dirty_chunks_max: 1000,
            checkpoint_interval: Duration::from_secs(1),
            tables_bytes_max: 16 << 20,
            ..self
        }
    }

    /// Few blocks of few contents, moving about on a device without room: whatever takes one place
    /// for another is soonest seen here.
    fn crowded(self, random: &mut Random) -> Habits {
        Habits {
            weights: [80, 5, 6, random.pick(&[0, 4])],
            blocks_max: 1,
            partial: 0,
            contents: 2,
            filler_blocks: 738,
            chunk_blocks: 3,
            dirty_chunks_max: 1000,
            checkpoint_interval: Duration::from_secs(1),
            // Any of it makes room, or keeps places from being given out again.
            shapes: false,
            ..self
        }
    }

    /// The same, and so few blocks that what a sync gave up is given out at once, to a block that may hold the same; then
    /// the power goes: whatever takes a place that somebody else has for its own is soonest seen here.
    pub fn swapping(self, random: &mut Random) -> Habits {
        let pause_max = Duration::from_micros(random.pick(&[20, 200]));
        let filler_blocks = random.pick(&[744, 750, 753]);
        let base = Habits { pause_max, depth: 4, tick: Duration::from_millis(10), ..self };
        Habits {
            weights: [95, 2, 3, 0],
            contents: 1,
            filler_blocks,
            inos: 1,
            chunks: 2,
            scrub: false,
            cache_bytes_max: 64 << 10,
            tables_bytes_max: 16 << 20,
            swaps: true,
            ..base.crowded(random)
        }
    }

    /// Files of many chunks that come and go, and little memory for their records: removals go in many steps, each of
    /// which reads the index.
    pub fn removing(self, random: &mut Random) -> Habits {
        Habits {
            weights: [60, 15, 5, 20],
            filler_blocks: 300,
            chunk_blocks: 3,
            blocks_max: self.blocks_max.min(4),
            inos: 2,
            chunks: random.pick(&[6, 16]),
            dirty_chunks_max: random.pick(&[1, 4, 8]),
            cache_bytes_max: 1 << 10,
            ..self
        }
    }

    /// Space is given out ahead all the time, and the power goes during a sync: whatever takes it for data is soonest seen
    /// here.
    pub fn giving(self) -> Habits {
        Habits {
            weights: [20, 5, 40, 40],
            gives: true,
            zeroing: 50,
            pause_max: Duration::from_micros(200),
            depth: 24,
            filler_blocks: 300,
            chunk_blocks: 64,
            chunks: 2,
            dirty_chunks_max: 1000,
            checkpoint_interval: Duration::from_secs(1),
            tables_bytes_max: 16 << 20,
            shapes: true,
            ..self
        }
    }

    fn any(random: &mut Random) -> Habits {
        let ms = Duration::from_millis;
        Habits {
            weights: [
                random.pick(&[30, 60, 90]),
                random.pick(&[5, 30]),
                random.pick(&[1, 5, 20, 40]),
                random.pick(&[0, 3, 10]),
            ],
            pause_max: Duration::from_micros(random.pick(&[20, 200, 2_000, 20_000])),
            tick: ms(random.pick(&[1, 10, 50])),
            depth: random.pick(&[1, 4, 24]),
            blocks_max: random.pick(&[1, 4, 16, 64]),
            partial: random.pick(&[0, 20, 60]),
            contents: random.pick(&[0, 0, 0, 1, 2, 5]),
            filler_blocks: random.pick(&[0, 300, 500, 600, 700, 735]),
            chunk_blocks: random.pick(&[64, 64, 12, 3]),
            inos: random.pick(&[1, 2, 3]),
            chunks: random.pick(&[1, 2, 4]),
            dirty_chunks_max: random.pick(&[1, 3, 8, 1000]),
            cache_bytes_max: random.pick(&[1 << 10, 64 << 10]),
            tables_bytes_max: random.pick(&[4 << 10, 16 << 20]),
            checkpoint_interval: ms(random.pick(&[5, 50, 1_000])),
            scrub: random.chance(25),
            swaps: false,
            shapes: true,
            gives: false,
            zeroing: 8,
        }
    }
}
