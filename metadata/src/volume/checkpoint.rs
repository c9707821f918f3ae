//! A checkpoint: the state becomes durable in the database, and the log begins anew in its other area.
//!
//! It has a beginning and an end, and changes go on between them. The beginning ends the database's transaction in
//! memory and gives what is to be written; from there on batches go to the other area, with the next generation's
//! number. The end is the word that all of it is durable. Until then the database on the disk is that of the checkpoint
//! before, so the area that was left is still needed: **it is written over only after the next checkpoint's beginning,
//! and that waits for this one's end.** A crash in between finds the older database, the log of its generation, and
//! behind it the log of the next (`crate::log::Replay`).
//!
//! What waits for the end: the next checkpoint; a batch for which there is no memory or no log left; a batch that is
//! sent again after a failed write, because its first copy must be out of the way by then; and the stop.

use weft_lmdb::{Commit, Written};

use super::{Action, Health, Volume, open};
use crate::error::{Kind, MetaError};
use crate::planted::{self, Bug};
use crate::store::Name;

/// What a checkpoint has to write. Dropped, it is as if the process had died: the volume waits for it.
#[derive(Debug)]
pub struct Checkpoint(Commit);

/// A checkpoint whose writing is over.
#[derive(Debug)]
pub struct CheckpointWritten(Written);

impl Checkpoint {
    /// Writes it and makes it durable: blocks for as long as the disk takes.
    pub fn write(self) -> CheckpointWritten {
        CheckpointWritten(self.0.write())
    }
}

impl Volume {
    /// A checkpoint begins, if the disk has room for it. If it has none, nothing is lost and nothing is done: `starved`,
    /// until a tick finds room.
    pub(super) fn begin_checkpoint(&mut self) -> Result<Option<Checkpoint>, MetaError> {
        assert!(self.flights.is_empty(), "what is in the log is applied");
        assert!(!self.writing, "the area that the log goes to is not needed");
        self.checkpoint_due = false;
        let rows = self.slots.dirty_rows();
        let bytes = self
            .store
            .check_rows(&rows)
            .map_err(|_| MetaError::new(Kind::Damaged, "checkpoint"))?;
        self.store.write_rows(&rows, bytes)?;
        self.starved = !self.store.can_commit();
        if self.starved {
            return Ok(None);
        }
        self.begin_area();
        self.state.live_bytes = self.store.live_bytes;
        self.store.write(Name::Meta, open::STATE_KEY, Some(&self.state.encode()))?;
        let commit = match planted::is(Bug::CutLogEarly) {
            true => None,
            false => self.store.begin_commit()?,
        };
        self.slots.set_clean();
        self.writing = commit.is_some();
        self.settles_unsure = self.unsure_count > 0;
        if !self.writing {
            self.settle_unsure();
        }
        assert_eq!(self.next_sequence, self.state.applied + 1, "the log continues the state");
        Ok(commit.map(Checkpoint))
    }

    fn begin_area(&mut self) {
        self.state.generation += 1;
        self.log_used_bytes = 0;
        self.commands_since_checkpoint = 0;
    }

    /// A checkpoint from its beginning to its end, here and now.
    pub(crate) fn checkpoint(&mut self) -> Result<(), MetaError> {
        match self.begin_checkpoint()? {
            Some(checkpoint) => self.end_checkpoint(checkpoint.write()),
            None => Ok(()),
        }
    }

    /// The writing of [`Action::WriteCheckpoint`] is over.
    pub fn checkpoint_written(&mut self, written: CheckpointWritten, out: &mut Vec<Action>) {
        // One that broke meanwhile is past it.
        if self.writing
            && let Err(error) = self.end_checkpoint(written)
        {
            self.fail(error, out);
        }
    }

    fn end_checkpoint(&mut self, written: CheckpointWritten) -> Result<(), MetaError> {
        self.store.committed(written.0)?;
        self.writing = false;
        self.settle_unsure();
        self.note_checkpoint_due();
        Ok(())
    }

    /// What a failed write may have left in the log counts no more: its commands may go out again.
    fn settle_unsure(&mut self) {
        if std::mem::take(&mut self.settles_unsure) {
            self.tried_before |= std::mem::take(&mut self.unsure_count) > 0;
            self.retry_due |= matches!(self.health, Health::ReadOnly(_));
        }
    }

    /// Begins the checkpoint that is due. False: the volume is broken.
    pub(super) fn checkpoint_if_due(&mut self, out: &mut Vec<Action>) -> bool {
        if !self.checkpoint_due && self.unsure_count == 0 {
            return true;
        }
        if self.writing {
            if planted::is(Bug::CutLogTwice) && std::mem::take(&mut self.checkpoint_due) {
                self.begin_area();
            }
            return true;
        }
        match self.begin_checkpoint() {
            Ok(checkpoint) => out.extend(checkpoint.map(Action::WriteCheckpoint)),
            Err(error) => {
                self.fail(error, out);
                return false;
            }
        }
        true
    }

    /// Looks whether the log or the changes in memory have come to where a checkpoint bounds them.
    pub(super) fn note_checkpoint_due(&mut self) {
        self.checkpoint_due |= self.log_used_bytes > self.identity.segment_bytes / 2
            || self.commands_since_checkpoint >= self.checkpoint_commands_max
            || !self.writing && self.store.is_full();
    }
}
