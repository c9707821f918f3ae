//! Work the namespace owes the targets: the chunks of a file that died, the tail of one that was cut short.
//!
//! The volume keeps each work durably from the command that made it until [`Volume::work_done`]; so a crash anywhere
//! between repeats it, and truncating twice is truncating once. A work is done when every target of the layout has
//! said so; one that fails is tried again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use weft_metadata::{MetaError, Work};
use weft_wire::ids::{ChunkIndex, Ino, TargetId};
use weft_wire::{Layout, ShardId, Status};

use super::Shard;
use crate::action::Message;

/// Works in progress at once; more wait in order.
const WORKS_MAX: usize = 64;
/// Pause before a failed work is tried again.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Works {
    running: BTreeMap<u64, Running>,
    waiting: VecDeque<Work>,
    failed: Vec<(Duration, Work)>,
    /// Blocks that went by works that are not done: a second try finds them gone.
    freed: BTreeMap<u64, u64>,
    /// Cuts of the last run: nothing is served before they are done, or their files held.
    leftover: BTreeSet<u64>,
    /// Those of them whose file is held. They are tried on.
    held: BTreeMap<u64, Ino>,
}

#[derive(Debug)]
struct Running {
    work: Work,
    missing: BTreeSet<TargetId>,
    failed: bool,
    /// A target that cannot do it.
    refused_by: Option<TargetId>,
}

impl Shard {
    /// Takes up the works of the last run.
    ///
    /// A shrink must be done before anybody writes the file again, on all targets: repeated later it would cut what was
    /// written since. So while it waits for a target that is offline, or cannot do it, the file is held: its data gives
    /// EIO.
    ///
    /// # Errors
    /// The volume's list of them cannot be read.
    pub(super) fn take_pending_works(&mut self) -> Result<(), MetaError> {
        let Some(volume) = &self.volume else { return Ok(()) };
        for work in volume.pending_works()? {
            match self.offline_of(&work.layout).filter(|_| work.shrink) {
                Some(target) => self.hold_for(work.ino, target),
                None => {
                    self.works.leftover.extend(work.shrink.then_some(work.id));
                    self.start_work(work);
                }
            }
        }
        Ok(())
    }

    fn hold_for(&mut self, ino: Ino, target: TargetId) {
        tracing::error!(
            ino = ino.0,
            target = target.0,
            "a file was being cut short, which must end first: its data gives EIO; next: see to the target (`weft target \
             list`), then start the server again"
        );
        self.send_to_all(&Message::Hold { ino });
    }

    /// Whether the works that must precede any service (cut files) of the last run are done, or their files held.
    pub fn may_serve(&self) -> bool {
        self.works.leftover.is_empty()
    }

    /// A target of the layout that is offline.
    pub(super) fn offline_of(&self, layout: &Layout) -> Option<TargetId> {
        layout.targets().iter().find(|target| self.offline_of_node.contains(target)).copied()
    }

    pub(super) fn start_work(&mut self, work: Work) {
        if let Some(target) = self.offline_of(&work.layout) {
            // The volume keeps it: the next start with this target takes it up.
            tracing::info!(
                work = work.id,
                ino = work.ino.0,
                target = target.0,
                "removal waits for a target that is offline"
            );
            return;
        }
        if self.works.running.len() >= WORKS_MAX {
            return self.works.waiting.push_back(work);
        }
        let id = work.id;
        let messages: Vec<(ShardId, Message)> = work
            .layout
            .targets()
            .iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter_map(|target| self.work_message(&work, *target))
            .collect();
        let missing = messages.iter().filter_map(|(_, message)| match message {
            Message::Truncate { target, .. } => Some(*target),
            _ => None,
        });
        let missing: BTreeSet<TargetId> = missing.collect();
        // A target that is not in the map (its node is down) keeps the work from being done: try again later.
        let known = missing.len() == work.layout.targets().iter().collect::<BTreeSet<_>>().len();
        self.works.running.insert(id, Running { work, missing, failed: !known, refused_by: None });
        for (shard, message) in messages {
            self.send_to_shard(shard, message);
        }
        self.end_work_if_done(id);
    }

    fn work_message(&self, work: &Work, target: TargetId) -> Option<(ShardId, Message)> {
        let shard = self.map.targets.iter().find(|entry| entry.0 == target)?.1.shard;
        let cut =
            work.cut.filter(|(index, _): &(ChunkIndex, u32)| work.layout.target(*index) == target);
        let (ino, remove_from) = (work.ino, work.remove_from);
        let message =
            Message::Truncate { from: self.id, work: work.id, target, ino, remove_from, cut };
        Some((shard, message))
    }

    pub(super) fn work_piece_done(
        &mut self,
        work: u64,
        target: TargetId,
        status: Status,
        freed_count: u64,
    ) {
        let Some(running) = self.works.running.get_mut(&work) else { return };
        running.missing.remove(&target);
        *self.works.freed.entry(work).or_default() += freed_count;
        if status != Status::Ok {
            running.failed = true;
            if status != Status::Busy && !self.stopping {
                running.refused_by = Some(target);
                tracing::warn!(work, target = target.0, %status, "cannot cut chunks, will retry");
            }
        }
        self.end_work_if_done(work);
    }

    fn end_work_if_done(&mut self, id: u64) {
        let Some(running) = self.works.running.get(&id) else { return };
        if !running.missing.is_empty() {
            return;
        }
        let running = self.works.running.remove(&id).expect("looked at above");
        if running.failed {
            let leftover = |_: &TargetId| self.works.leftover.contains(&id);
            if let Some(target) = running.refused_by.filter(leftover) {
                self.hold_for(running.work.ino, target);
                self.works.held.insert(id, running.work.ino);
                self.works.leftover.remove(&id);
            }
            self.works.failed.push((self.now.mono + RETRY, running.work));
        } else {
            let freed_count = self.works.freed.remove(&id).unwrap_or_default();
            self.with_volume(|volume, _| volume.work_done(id, freed_count));
            self.works.leftover.remove(&id);
            self.let_go(id);
        }
    }

    /// Takes up works that waited. Not at the end of another, in whose course they would be: those that fail at once, as all
    /// do when a target stops, would be within each other, thousands deep.
    pub(super) fn start_waiting_works(&mut self) {
        while self.works.running.len() < WORKS_MAX
            && !self.stopping
            && let Some(work) = self.works.waiting.pop_front()
        {
            self.start_work(work);
        }
    }

    /// A cut that a file was held for is done.
    fn let_go(&mut self, id: u64) {
        let Some(ino) = self.works.held.remove(&id) else { return };
        if self.works.held.values().any(|other| *other == ino) {
            return;
        }
        tracing::info!(ino = ino.0, "a file that was being cut short is, and is served again");
        self.send_to_all(&Message::LetGo { ino });
    }

    pub(super) fn retry_works(&mut self) {
        let now = self.now.mono;
        let (due, later) =
            std::mem::take(&mut self.works.failed).into_iter().partition(|(at, _)| *at <= now);
        self.works.failed = later;
        for (_, work) in due as Vec<(Duration, Work)> {
            self.start_work(work);
        }
    }
}
