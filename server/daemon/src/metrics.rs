//! The process's metrics: what the event loops count (names and units of all are in
//! `weft_server_core::metrics`), where all of it is kept, and the HTTP endpoint that tells it.

mod http;
mod registry;

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};
use weft_server_core::metrics::{
    BUSY_SECONDS, LOCAL_CONNECTIONS, LOG_WRITE_SECONDS, TARGET_IO_BYTES, TARGET_IO_IN_FLIGHT,
    TARGET_IO_SECONDS, TURNS,
};
use weft_store::{Action, IoId};
use weft_wire::TargetId;
use weft_wire::units::to_nanos;

pub(crate) use http::serve;
pub(crate) use registry::{Registry, install};

/// Kinds of device work.
const IO_KINDS: [&str; 5] = ["read", "write", "journal", "flush", "discard"];

/// What one shard's event loop counts.
pub(crate) struct LoopMetrics {
    targets: Vec<TargetMetrics>,
    log: Histogram,
    log_began: BTreeMap<u64, Duration>,
    busy_nanos: Counter,
    turns: Counter,
    local_connections: Gauge,
}

struct TargetMetrics {
    seconds: [Histogram; IO_KINDS.len()],
    bytes: [Counter; IO_KINDS.len()],
    in_flight: Gauge,
    /// Kind and start of what is under way.
    began: BTreeMap<IoId, (usize, Duration)>,
}

impl LoopMetrics {
    pub(crate) fn new(shard: &str, targets: &[TargetId]) -> LoopMetrics {
        let target = |id: &TargetId| {
            let labels = |kind: &str| {
                [
                    ("shard".to_owned(), shard.to_owned()),
                    ("target".to_owned(), id.to_string()),
                    ("op".to_owned(), kind.to_owned()),
                ]
            };
            let base = &labels("")[..2];
            TargetMetrics {
                seconds: IO_KINDS
                    .map(|kind| metrics::histogram!(TARGET_IO_SECONDS, &labels(kind)[..])),
                bytes: IO_KINDS.map(|kind| metrics::counter!(TARGET_IO_BYTES, &labels(kind)[..])),
                in_flight: metrics::gauge!(TARGET_IO_IN_FLIGHT, base),
                began: BTreeMap::new(),
            }
        };
        let label = || shard.to_owned();
        LoopMetrics {
            targets: targets.iter().map(target).collect(),
            log: metrics::histogram!(LOG_WRITE_SECONDS, "shard" => label()),
            log_began: BTreeMap::new(),
            busy_nanos: metrics::counter!(BUSY_SECONDS, "shard" => label()),
            turns: metrics::counter!(TURNS, "shard" => label()),
            local_connections: metrics::gauge!(LOCAL_CONNECTIONS, "shard" => label()),
        }
    }

    /// Device work begins.
    pub(crate) fn io_began(&mut self, index: usize, action: &Action, now: Duration) {
        let (kind, io, bytes) = match action {
            Action::ReadData { io, bytes, .. } => (0, *io, u64::from(*bytes)),
            Action::WriteData { io, bytes, .. } => (1, *io, u64::from(*bytes)),
            Action::AppendJournal { io, bytes, .. } => {
                (2, *io, weft_wire::units::to_u64(bytes.len()))
            }
            Action::Flush { io } => (3, *io, 0),
            Action::Discard { io, bytes, .. } => (4, *io, *bytes),
            _ => return,
        };
        let target = &mut self.targets[index];
        target.bytes[kind].increment(bytes);
        target.began.insert(io, (kind, now));
    }

    /// Device work ended.
    pub(crate) fn io_ended(&mut self, index: usize, io: IoId, now: Duration) {
        let target = &mut self.targets[index];
        if let Some((kind, began)) = target.began.remove(&io) {
            target.seconds[kind].record(now.saturating_sub(began));
        }
    }

    /// A write of the metadata log begins.
    pub(crate) fn log_began(&mut self, io: u64, now: Duration) {
        self.log_began.insert(io, now);
    }

    /// It ended.
    pub(crate) fn log_ended(&mut self, io: u64, now: Duration) {
        if let Some(began) = self.log_began.remove(&io) {
            self.log.record(now.saturating_sub(began));
        }
    }

    /// A connection came or went; counted if it is one of this machine.
    pub(crate) fn local_connections(&self, is_local: bool, change: f64) {
        if is_local {
            self.local_connections.increment(change);
        }
    }

    /// The thread did something for so long between two waits.
    pub(crate) fn turned(&self, busy: Duration) {
        self.busy_nanos.increment(to_nanos(busy));
        self.turns.increment(1);
    }

    /// Brings the numbers up to date that are not counted as they change.
    pub(crate) fn count(&self) {
        for target in &self.targets {
            let depth = u32::try_from(target.began.len()).unwrap_or(u32::MAX);
            target.in_flight.set(f64::from(depth));
        }
    }
}
