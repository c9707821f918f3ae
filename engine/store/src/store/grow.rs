//! A target that became longer is taken into use at its new length, while it runs.
//!
//! 1. Copy B of the new superblock is written at the new end, and flushed.
//! 2. Copy A is written, and flushed: from here on the target has its new length.
//!
//! A crash before step 2 finds the old copy A, and the old copy B where that says. A crash in it
//! finds copy A old or new, or torn: then copy B at the new end is the one. The place of the old
//! copy B is a data block like others, but only once step 2 is durable. Journal and index are not
//! touched: they say nothing of the length.

use weft_wire::Status;

use super::{IoUse, Store, Waiter};
use crate::action::{Action, Outcome};
use crate::limits::GROW_INDEX_FACTOR_MAX;
use crate::space;
use crate::superblock::Superblock;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    CopyB,
    CopyA,
}

/// A growth under way.
#[derive(Debug)]
pub(super) struct Grow {
    reply_to: u64,
    superblock: Superblock,
    step: Step,
    /// Of the chunk records' memory, for the map of free blocks.
    lent_bytes: u64,
}

impl Store {
    /// Takes a device into use up to `capacity_bytes`, which is its length now. Ends with
    /// [`Outcome::Grown`], at once when the target has that length already; or with `Invalid` (it
    /// would become shorter), `NoSpace` (too long for the index as it was opened: open the target
    /// again first), `TooBig` (the map of free blocks would take more than half of the memory for chunk records), `Busy`
    /// (it grows already, or its superblock is being checked), `Io`, `ReadOnly`.
    pub fn grow(&mut self, op: u64, capacity_bytes: u64, out: &mut Vec<Action>) {
        let before = self.superblock.areas;
        let refused = match before.grown(capacity_bytes) {
            _ if self.stopping => Status::Unavailable,
            _ if self.failed => Status::ReadOnly,
            _ if self.grow.is_some() || self.scrubs_superblock() => Status::Busy,
            Err(_) => Status::Invalid,
            Ok(areas) if areas == before => {
                let capacity_bytes = areas.capacity_bytes;
                let outcome = Outcome::Grown { before_bytes: capacity_bytes, capacity_bytes };
                out.push(Action::Reply { op, result: Ok(outcome) });
                return;
            }
            Ok(areas) if areas.capacity_bytes / GROW_INDEX_FACTOR_MAX > self.index_bytes_max => {
                Status::NoSpace
            }
            Ok(areas) => {
                let lent_bytes = space::map_bytes(areas.data_block_count)
                    - space::map_bytes(before.data_block_count);
                if self.map.cache_mut().lend(lent_bytes) {
                    let superblock = Superblock { areas, ..self.superblock };
                    let step = Step::CopyB;
                    self.grow = Some(Grow { reply_to: op, superblock, step, lent_bytes });
                    self.write_superblock(areas.copy_b_offset, out);
                    return;
                }
                Status::TooBig
            }
        };
        out.push(Action::Reply { op, result: Err(refused) });
    }

    /// A repair of a copy must not land where the target has grown to, or undo it.
    fn scrubs_superblock(&self) -> bool {
        let scrubs = |io: &IoUse| matches!(io, IoUse::ScrubSuperblock { .. } | IoUse::ScrubRepair);
        self.ios.uses().any(scrubs)
    }

    fn write_superblock(&mut self, offset: u64, out: &mut Vec<Action>) {
        let bytes = self.grow.as_ref().expect("under way").superblock.encode();
        let io = self.new_io(IoUse::Grow);
        out.push(Action::AppendJournal { io, offset, bytes, settled_bytes: 0, room_bytes: 0 });
    }

    /// A copy is in the page cache: the next flush, with the mark that it will get, makes it durable.
    pub(super) fn grow_written(&mut self, good: bool, out: &mut Vec<Action>) {
        if !good || self.failed {
            return self.grow_failed(out);
        }
        self.wait_durable(self.journal.last_sequence() + 1, Waiter::Grow);
    }

    pub(super) fn grow_durable(&mut self, out: &mut Vec<Action>) {
        let grow = self.grow.as_mut().expect("it is what was waited for");
        if grow.step == Step::CopyB {
            grow.step = Step::CopyA;
            return self.write_superblock(0, out);
        }
        let grow = self.grow.take().expect("seen above");
        let before_bytes = self.superblock.areas.capacity_bytes;
        self.superblock = grow.superblock;
        let areas = self.superblock.areas;
        self.space.grow(areas.data_block_count);
        let outcome = Outcome::Grown { before_bytes, capacity_bytes: areas.capacity_bytes };
        out.push(Action::Reply { op: grow.reply_to, result: Ok(outcome) });
    }

    /// The target goes on with its old length; what the superblocks say is one or the other.
    pub(super) fn grow_failed(&mut self, out: &mut Vec<Action>) {
        let grow = self.grow.take().expect("it is what failed");
        self.map.cache_mut().take_back(grow.lent_bytes);
        out.push(Action::Reply { op: grow.reply_to, result: Err(Status::Io) });
    }
}
