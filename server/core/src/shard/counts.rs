//! What the shard tells of itself: numbers that are looked up now and then rather than counted.

use weft_wire::units::to_u32;
use weft_wire::{Header, ShardId, Status, TargetId};

use super::{Shard, damaged_blocks};
use crate::action::{ConnId, Now};
use crate::metrics::{self, GAUGE_INTERVAL};

impl Shard {
    pub(super) fn tick_metrics(&mut self) {
        if self.now.mono.saturating_sub(self.metrics.told) >= GAUGE_INTERVAL {
            self.count();
        }
    }

    /// Which shard it is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The targets that are served, in the order of the parameters.
    pub fn target_ids(&self) -> Vec<TargetId> {
        self.targets.iter().map(|target| target.params.id).collect()
    }

    /// Brings the numbers up to date that are not counted as they change.
    pub fn count(&mut self) {
        self.metrics.told = self.now.mono;
        let in_flight: u32 = self.conns.values().map(super::conns::Conn::in_flight).sum();
        let leases = self.lease_count();
        let metrics = &mut self.metrics;
        metrics.connections.set(f64::from(to_u32(self.conns.len())));
        metrics.sessions.set(f64::from(to_u32(self.sessions.len())));
        metrics.in_flight.set(f64::from(in_flight));
        metrics.locks.set(f64::from(to_u32(self.locks.count())));
        metrics.leases.set(metrics::float(leases));
        metrics.requests_bytes.set(metrics::float(self.requests_bytes));
        metrics.requests_bytes_max.set(metrics::float(self.memory.requests_bytes));
        for target in &self.targets {
            let (id, space) = (target.params.id.0, target.params.store.space());
            metrics.target(metrics::TARGET_BYTES, id, space.total_bytes);
            metrics.target(metrics::TARGET_FREE_BYTES, id, space.free_bytes);
            metrics.target(metrics::TARGET_CHUNKS, id, space.chunk_count);
            metrics.target(
                metrics::TARGET_DAMAGED_BLOCKS,
                id,
                damaged_blocks(&target.params.store),
            );
            metrics.target(metrics::TARGET_ONLINE, id, 1);
        }
        for target in &self.offline {
            metrics.target(metrics::TARGET_ONLINE, target.id.0, 0);
        }
    }

    /// The answer to [`crate::Action::TellMetrics`]: the registry's text about this shard.
    pub fn metrics(&mut self, conn: ConnId, request: &Header, text: &str, now: Now) {
        self.now = now;
        // Whole lines only: they are ASCII, labels too.
        let bytes_max = weft_wire::units::to_usize(weft_wire::limits::BODY_BYTES_MAX.into());
        let fits = match text.get(..bytes_max) {
            None => text,
            Some(first) => first.rsplit_once('\n').map_or("", |(whole, _)| whole),
        };
        self.answer(conn, request, Status::Ok, fits.as_bytes(), Vec::new());
    }
}
