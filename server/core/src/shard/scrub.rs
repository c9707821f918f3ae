//! The scrub of the targets: its schedule, its log lines, and what people ask about the targets' health.

use std::time::Duration;

use weft_store::ScrubStatus;
use weft_wire::limits::LIST_COUNT_MAX;
use weft_wire::scrub::{
    DamageQuery, DamageReply, ScrubAction, ScrubInfo, ScrubOrder, TargetHealth, TargetHealthReply,
    TargetState,
};
use weft_wire::{Header, Status};

use super::Shard;
use crate::action::ConnId;

/// A pass under way is told of so often.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// When and how fast targets are scrubbed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubSchedule {
    /// From the begin of a pass to that of the next one; `None`: only when somebody asks.
    pub interval: Option<Duration>,
    /// How fast one target is read.
    pub bytes_per_second: u64,
}

/// What the log was last told of a target's scrub.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    at: Duration,
    status: ScrubStatus,
}

impl Shard {
    /// Lets every scrub go on, begins those that are due, and tells the log.
    pub(super) fn tick_scrubs(&mut self) {
        let wall_s = u64::try_from(self.now.wall.seconds).unwrap_or(0);
        for index in 0..self.targets.len() {
            self.begin_if_due(index, wall_s);
            let mut actions = Vec::new();
            let store = &mut self.targets[index].params.store;
            store.scrub_tick(self.now.mono, wall_s, &self.pool, &mut actions);
            self.store_actions(index, actions);
            self.tell_scrub(index);
        }
    }

    fn begin_if_due(&mut self, index: usize, wall_s: u64) {
        let Some(interval) = self.scrub.interval else { return };
        let store = &mut self.targets[index].params.store;
        let status = store.scrub_status();
        let last_s = status.started_s;
        let due = last_s == 0 || wall_s.saturating_sub(last_s) >= interval.as_secs();
        if due && !status.running && !self.stopping {
            store.scrub_start(self.scrub.bytes_per_second, true, wall_s);
        }
    }

    fn tell_scrub(&mut self, index: usize) {
        let target = &mut self.targets[index];
        let (id, path) = (target.params.id.0, &target.params.path);
        let status = target.params.store.scrub_status();
        let before = std::mem::replace(&mut target.told.status, status);
        let again = status.started_s != before.started_s || !before.running;
        if status.running && again {
            target.told.at = self.now.mono;
            let rate_mib = status.bytes_per_second >> 20;
            tracing::info!(target = id, %path, rate_mib, from = ?status.position, "scrub begins");
        }
        if status.found_blocks > before.found_blocks {
            let blocks = status.found_blocks;
            tracing::warn!(target = id, %path, blocks, "scrub: damaged blocks; `weft target scrub --status` names the files");
        }
        if status.index_gaps > before.index_gaps {
            let gaps = status.index_gaps;
            tracing::error!(target = id, %path, gaps, "scrub: the index cannot be read in places: chunks are lost; see `weft target check`");
        }
        if status.superblocks_bad > before.superblocks_bad {
            tracing::warn!(target = id, %path, "scrub: a superblock is damaged: look at the device");
        }
        if status.superblocks_repaired > before.superblocks_repaired {
            tracing::info!(target = id, %path, "scrub: the damaged superblock was written again");
        }
        let (mib, of_mib) = (status.checked_bytes >> 20, status.total_bytes >> 20);
        if before.running && !status.running {
            let done = status.finished_s != before.finished_s;
            let (chunks, damaged) = (status.checked_chunks, status.found_blocks);
            tracing::info!(target = id, %path, done, mib, chunks, damaged, "scrub ended");
        } else if status.running && self.now.mono.saturating_sub(target.told.at) >= TELL_INTERVAL {
            target.told.at = self.now.mono;
            tracing::info!(target = id, %path, mib, of_mib, "scrub goes on");
        }
    }

    pub(super) fn scrub_order(&mut self, conn: ConnId, header: &Header, body: &[u8]) {
        let Ok(order) = ScrubOrder::decode(body) else {
            return self.break_off(conn, "a scrub order that cannot be read");
        };
        let status = match self.target_index(order.target) {
            None if self.offline.iter().any(|target| target.id == order.target) => Status::Io,
            None => Status::WrongShard,
            Some(index) => {
                let wall_s = u64::try_from(self.now.wall.seconds).unwrap_or(0);
                let rate = match order.bytes_per_second {
                    0 => self.scrub.bytes_per_second,
                    rate => rate,
                };
                let store = &mut self.targets[index].params.store;
                match order.action {
                    ScrubAction::Start => store.scrub_start(rate, false, wall_s),
                    ScrubAction::Again => store.scrub_start(rate, true, wall_s),
                    ScrubAction::Stop => store.scrub_stop(),
                }
                Status::Ok
            }
        };
        self.answer(conn, header, status, &[], Vec::new());
    }

    pub(super) fn damage_list(&mut self, conn: ConnId, header: &Header, body: &[u8]) {
        let Ok(query) = DamageQuery::decode(body) else {
            return self.break_off(conn, "a damage query that cannot be read");
        };
        let Some(index) = self.target_index(query.target) else {
            return self.answer(conn, header, Status::WrongShard, &[], Vec::new());
        };
        let mut found = self.targets[index].params.store.damages(query.from);
        let more = found.len() > LIST_COUNT_MAX;
        found.truncate(LIST_COUNT_MAX);
        let mut body = Vec::new();
        DamageReply { damages: found, more }.encode(&mut body);
        self.answer(conn, header, Status::Ok, &body, Vec::new());
    }

    pub(super) fn target_health(&self) -> TargetHealthReply {
        let targets = self.targets.iter().map(|target| {
            let store = &target.params.store;
            let (state, reason) = match store.is_read_only() {
                false => (TargetState::Online, ""),
                true => (
                    TargetState::ReadOnly,
                    "a write, flush or checkpoint failed: see the server's log and the device, \
                     then start the server again",
                ),
            };
            TargetHealth {
                id: target.params.id,
                path: target.params.path.clone(),
                state,
                reason: reason.to_owned(),
                scrub: info(&store.scrub_status()),
            }
        });
        let offline = self.offline.iter().map(|target| TargetHealth {
            id: target.id,
            path: target.path.clone(),
            state: TargetState::Offline,
            reason: target.reason.clone(),
            scrub: ScrubInfo::default(),
        });
        TargetHealthReply { targets: targets.chain(offline).collect() }
    }
}

fn info(status: &ScrubStatus) -> ScrubInfo {
    ScrubInfo {
        running: status.running,
        bytes_per_second: status.bytes_per_second,
        started_s: status.started_s,
        finished_s: status.finished_s,
        checked_bytes: status.checked_bytes,
        total_bytes: status.total_bytes,
        checked_chunks: status.checked_chunks,
        found_blocks: status.found_blocks,
        index_gaps: status.index_gaps,
        superblocks_bad: status.superblocks_bad,
        superblocks_repaired: status.superblocks_repaired,
        listed_blocks: status.listed_blocks,
        unlisted_blocks: status.unlisted_blocks,
    }
}
