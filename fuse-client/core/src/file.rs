//! What is kept of an inode that is open here, or has writes on their way.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use weft_iobuf::BufSlot;
use weft_wire::blocks::{BLOCK_BYTES, BLOCK_LEN};
use weft_wire::meta::{Attr, Time};
use weft_wire::units::to_u64;
use weft_wire::{ChunkPiece, Ino, Layout};

use crate::behind::Behind;
use crate::inline::InlineFile;
use crate::keep::Kept;
use crate::op::{Caller, OpId};
use crate::writes::{Unsynced, WriteSet};

/// A run of small writes that is being gathered, within one chunk.
#[derive(Debug)]
pub(crate) struct Run {
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// Bytes gathered; they begin at the slot's start.
    pub(crate) bytes: usize,
    /// Bytes it may grow to: the slot's or the chunk's rest.
    pub(crate) bytes_max: usize,
    pub(crate) slot: BufSlot,
    /// Its record.
    pub(crate) kept: Option<Rc<Kept>>,
    /// As in the record.
    pub(crate) order: u64,
    /// When it goes out at the latest.
    pub(crate) due: Duration,
}

impl Run {
    pub(crate) fn end(&self) -> u64 {
        self.offset + weft_wire::units::to_u64(self.bytes)
    }
}

/// How far the volume has been told about writes.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    /// Grows with each acknowledged write.
    pub(crate) wanted: u64,
    /// Up to where it is asked for now.
    pub(crate) urgent: u64,
    /// Up to where the `Wrote` in flight reaches.
    pub(crate) in_flight: Option<u64>,
    /// It says that the data is at the targets.
    pub(crate) begins: bool,
    pub(crate) done: u64,
    /// When the rest is told anyway.
    pub(crate) due: Option<Duration>,
    /// End of the acknowledged writes since the last cut.
    pub(crate) acked_end: u64,
    /// Blocks the file has more than the volume was told, and those of the `Wrote` in flight.
    pub(crate) blocks: i64,
    pub(crate) blocks_in_flight: i64,
}

impl Telling {
    pub(crate) fn is_settled(&self) -> bool {
        self.done == self.wanted
    }
}

/// What the kernel keeps of a file's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Nothing: it was dropped, and nothing was read or written since.
    None,
    /// At least as new as this version.
    Of(u64),
    /// It may be anything.
    Unknown,
}

impl Pages {
    /// Whether none of it is of another version than this.
    pub(crate) fn agree(self, version: u64) -> bool {
        matches!(self, Pages::None) || self == Pages::Of(version)
    }
}

/// One inode.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) layout: Option<Layout>,
    /// The data is in the inode, not at the targets.
    pub(crate) inline: Option<InlineFile>,
    /// It is at the targets, but the volume has not heard: to it the data is in the inode, of which so many bytes fit.
    pub(crate) begun: Option<u16>,
    /// As the volume said last.
    pub(crate) attr: Attr,
    /// A change of ours that was not answered with attributes may have changed them since.
    pub(crate) attr_unsure: bool,
    /// What programs were told of before the volume has it.
    pub(crate) behind: Behind,
    /// Changes of it that nobody need wait for and that were sent: more than one only by a successor.
    pub(crate) sent_behind: u32,
    pub(crate) pages: Pages,
    /// The kernel was told to forget by this order, and was given nothing to keep since.
    pub(crate) dropping: Option<u64>,
    /// Length and time of change that the kernel was told last.
    pub(crate) told: Option<(u64, Time)>,
    /// Handles.
    pub(crate) open_count: u32,
    /// Opens the volume counts for us.
    pub(crate) server_opens: u32,
    /// Who wrote last.
    pub(crate) writer: Caller,
    pub(crate) writes: WriteSet,
    pub(crate) unsynced: Unsynced,
    /// Before the last open here, others (or we, and closed it) may have written what is not durable.
    pub(crate) written_before: bool,
    /// Everything below this write is to be made durable.
    pub(crate) sync_wanted: u64,
    pub(crate) run: Option<Run>,
    /// Length of the last run, to choose the next buffer.
    pub(crate) last_run_bytes: usize,
    pub(crate) dirty_bytes: usize,
    /// End of all writes the volume has not been told of; 0 when there are none.
    pub(crate) local_end: u64,
    pub(crate) local_mtime: Option<Time>,
    /// When it was read, if the volume is to be told.
    pub(crate) local_atime: Option<Time>,
    pub(crate) telling: Telling,
    /// Grows with each failure of a write nobody waits for; and the last of these.
    pub(crate) error_count: u64,
    pub(crate) errno: i32,
    /// No program was told of the last of them: those that open it are, as those that had it open.
    pub(crate) error_unseen: bool,
    /// It lingered, and nothing is sent to its targets before the volume said that it is there.
    pub(crate) asked_whether_there: bool,
    /// Operations that change the length: reads and writes wait for them.
    pub(crate) exclusive: u32,
    /// Requests of allocations that are not answered: they hold the file, too.
    pub(crate) zeroing: u32,
    /// Changes of ours, whatever they changed, that its attributes are sure to have.
    pub(crate) changes_seen: u64,
    /// What was written and is not at the servers was written under a lease to write that was not given back.
    pub(crate) owned: bool,
    /// Several write it, and it had no capabilities after the lease for that came.
    pub(crate) without_capabilities: bool,
    /// A lease to write was asked for and the answer is not there.
    pub(crate) asking: bool,
    /// It came just now: whoever waits for it goes on, with the lease or without.
    pub(crate) answered: Option<Result<(), i32>>,
    /// Operations that wait for something here, in order.
    pub(crate) waiting: Vec<OpId>,
    /// Its record.
    pub(crate) kept: Option<u32>,
}

impl File {
    pub(crate) fn new(attr: Attr, layout: Option<Layout>) -> File {
        File {
            layout,
            inline: None,
            begun: None,
            attr,
            attr_unsure: false,
            behind: Behind::default(),
            sent_behind: 0,
            pages: Pages::Unknown,
            dropping: None,
            told: None,
            open_count: 0,
            server_opens: 0,
            writer: Caller::default(),
            writes: WriteSet::default(),
            unsynced: Unsynced::default(),
            written_before: false,
            sync_wanted: 0,
            run: None,
            last_run_bytes: 0,
            dirty_bytes: 0,
            local_end: 0,
            local_mtime: None,
            local_atime: None,
            telling: Telling::default(),
            error_count: 0,
            errno: 0,
            error_unseen: false,
            asked_whether_there: false,
            exclusive: 0,
            zeroing: 0,
            changes_seen: 0,
            owned: false,
            without_capabilities: false,
            asking: false,
            answered: None,
            waiting: Vec::new(),
            kept: None,
        }
    }

    /// Reads and writes must wait.
    pub(crate) fn is_held(&self) -> bool {
        self.exclusive > 0 || self.zeroing > 0
    }

    /// The length as a program of this mount must see it.
    pub(crate) fn size(&self) -> u64 {
        self.attr.size.max(self.local_end)
    }

    /// What the volume said, with what it has not been told.
    pub(crate) fn overlay(&self, attr: Attr) -> Attr {
        let mut attr = attr;
        attr.size = attr.size.max(self.local_end);
        let untold = self.telling.blocks + self.telling.blocks_in_flight;
        attr.blocks = attr.blocks.saturating_add_signed(untold);
        // What is on its way takes place, too, as far as the file is not full yet.
        let dirty = to_u64(self.dirty_bytes.div_ceil(BLOCK_LEN));
        let whole = attr.size.div_ceil(to_u64(BLOCK_LEN));
        attr.blocks = attr.blocks.max(whole.min(attr.blocks.saturating_add(dirty)));
        // Reads and writes that are known here came after these.
        self.behind.overlay(&mut attr);
        attr.atime = self.local_atime.map_or(attr.atime, |atime| attr.atime.max(atime));
        if let Some(mtime) = self.local_mtime {
            attr.mtime = attr.mtime.max(mtime);
            attr.ctime = attr.ctime.max(mtime);
        }
        attr
    }

    /// A read happened: it counts when the time of the last one is older than a change, or than a day (relatime).
    pub(crate) fn was_read(&mut self, wall: Time) {
        const DAY_S: i64 = 86_400;
        let attr = self.overlay(self.attr);
        let old = wall.seconds.saturating_sub(attr.atime.seconds) >= DAY_S;
        if attr.atime <= attr.mtime || attr.atime <= attr.ctime || old {
            self.local_atime = Some(wall);
        }
    }

    /// Takes attributes unless newer ones are there. `overtaken`: a change of ours may be newer still.
    pub(crate) fn learn(&mut self, attr: &Attr, overtaken: bool) {
        if attr.version >= self.attr.version {
            self.attr_unsure &= overtaken || attr.version == self.attr.version;
            self.attr = *attr;
        }
    }

    /// A change of ours was answered: whether it is the only one since the pages were read.
    pub(crate) fn changed_by_us(&mut self, attr: &Attr) {
        self.data_follows(attr.version);
        self.pages = match self.pages {
            Pages::None => Pages::None,
            Pages::Of(version) if version.checked_add(1) == Some(attr.version) => {
                Pages::Of(attr.version)
            }
            _ => Pages::Unknown,
        };
    }

    /// A change of ours that leaves the data alone was answered, without attributes: whether the pages are as new as
    /// the file is now. With a lease nobody else made a version in between.
    pub(crate) fn changed_beside_data(&mut self, leased: bool) -> bool {
        match self.pages {
            Pages::None => true,
            Pages::Of(version) if leased && version >= self.attr.version => {
                self.pages = Pages::Of(version.wrapping_add(1));
                true
            }
            _ => false,
        }
    }

    /// The kernel is given data that is as the file is now, or has some of ours.
    pub(crate) fn gives_pages(&mut self) {
        self.dropping = None;
        if self.pages == Pages::None {
            self.pages = Pages::Of(self.attr.version);
        }
    }

    /// Whether the kernel, told these attributes, drops its pages by itself: it does when the length or the time of the
    /// last change are not what it was told before (`AUTO_INVAL_DATA`).
    pub(crate) fn tells_change(&self, attr: &Attr) -> bool {
        self.told != Some((attr.size, attr.mtime))
    }

    pub(crate) fn fail(&mut self, errno: i32) {
        self.error_count += 1;
        self.errno = errno;
        self.error_unseen = true;
    }

    /// Has the targets make durable what was written before the last open, once for each open.
    pub(crate) fn ask_for_older_writes(&mut self) {
        let at_targets = self.written_before && self.inline.is_none();
        let Some(layout) = self.layout.as_ref().filter(|_| at_targets) else { return };
        self.written_before = false;
        let chunk_count = self.size().div_ceil(u64::from(layout.chunk_bytes()));
        let width = layout.targets().len();
        let count = usize::try_from(chunk_count).map_or(width, |count| count.min(width));
        self.unsynced.ask(layout.targets()[..count].iter().copied());
    }

    /// Whether everything written is acknowledged and told.
    pub(crate) fn is_settled(&self) -> bool {
        let still = self.writes.is_empty() && !self.is_moving() && self.behind.is_empty();
        self.run.is_none() && still && self.telling.is_settled()
    }

    /// Forgets the overlays once the volume knows everything.
    pub(crate) fn drop_overlays(&mut self) {
        if self.run.is_none() && !self.writes.has_new() && self.telling.is_settled() {
            (self.local_end, self.telling.acked_end, self.local_mtime) = (0, 0, None);
        }
    }

    /// The time of change that the volume is told with a length.
    pub(crate) fn mtime_to_tell(&self) -> Time {
        self.local_mtime.or(self.behind.mtime()).unwrap_or(self.attr.mtime)
    }

    /// Whether a read of these pieces must wait for writes below `barrier`.
    pub(crate) fn is_being_written(&self, pieces: &[ChunkPiece], barrier: u64) -> bool {
        pieces.iter().any(|piece| self.writes.touches(piece.index, &blocks_of(piece), barrier))
    }
}

/// The blocks a piece touches in its chunk.
pub(crate) fn blocks_of(piece: &ChunkPiece) -> Range<u32> {
    piece.offset / BLOCK_BYTES..(piece.offset + piece.bytes).div_ceil(BLOCK_BYTES)
}

/// The files, by inode.
pub(crate) type Files = BTreeMap<Ino, File>;
