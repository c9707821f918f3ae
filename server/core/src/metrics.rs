//! What a shard counts, by name and unit: all there is to see of it with Prometheus and `weft top`.
//!
//! Times are from a request's arrival at the shard to its answer's place in the send queue. A series is there from its
//! first use on. Recording costs a few nanoseconds (the daemon's registry); without a registry, as in simulations,
//! nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};
use weft_wire::{Kind, ShardId, Status};

/// Requests by kind, from arrival to answer.
pub const REQUEST_SECONDS: &str = "weft_server_request_seconds";
/// Answers that are errors, by status.
pub const ERRORS: &str = "weft_server_errors_total";
/// Payload bytes that came with writes, and that left with reads.
pub const RECEIVED_BYTES: &str = "weft_server_received_bytes_total";
/// See [`RECEIVED_BYTES`].
pub const SENT_BYTES: &str = "weft_server_sent_bytes_total";
/// Bytes that copies from chunk to chunk moved within the node, at the destination's shard.
pub const COPIED_BYTES: &str = "weft_server_copied_bytes_total";
/// Those of them whose source was at another shard.
pub const COPIED_ACROSS_BYTES: &str = "weft_server_copied_across_bytes_total";
/// Connections past their hello or before.
pub const CONNECTIONS: &str = "weft_server_connections";
/// Counted by the event loop: those of them over a unix socket, of this machine.
pub const LOCAL_CONNECTIONS: &str = "weft_server_local_connections";
/// Sessions, also those without a connection now.
pub const SESSIONS: &str = "weft_server_sessions";
/// Requests that came and are not answered.
pub const IN_FLIGHT: &str = "weft_server_requests_in_flight";
/// Memory of data requests in flight, and what there is for them.
pub const REQUESTS_BYTES: &str = "weft_server_requests_bytes";
/// See [`REQUESTS_BYTES`].
pub const REQUESTS_BYTES_MAX: &str = "weft_server_requests_bytes_max";
/// Locks held and waited for.
pub const LOCKS: &str = "weft_server_locks";
/// Leases that clients hold.
pub const LEASES: &str = "weft_server_leases";
/// Length of a target that holds data.
pub const TARGET_BYTES: &str = "weft_target_bytes";
/// Free bytes of a target.
pub const TARGET_FREE_BYTES: &str = "weft_target_free_bytes";
/// Chunks of a target.
pub const TARGET_CHUNKS: &str = "weft_target_chunks";
/// Blocks known to be damaged.
pub const TARGET_DAMAGED_BLOCKS: &str = "weft_target_damaged_blocks";
/// 1 when a target is served, 0 when it could not be opened.
pub const TARGET_ONLINE: &str = "weft_target_online";

/// Counted by the event loop: device work of a target, from when it was wanted to its end, by what it was.
pub const TARGET_IO_SECONDS: &str = "weft_target_io_seconds";
/// Counted by the event loop: bytes of a target's device work.
pub const TARGET_IO_BYTES: &str = "weft_target_io_bytes_total";
/// Counted by the event loop: device work under way.
pub const TARGET_IO_IN_FLIGHT: &str = "weft_target_io_in_flight";
/// Counted by the event loop: writes of the metadata log, from when they were wanted until they are durable.
pub const LOG_WRITE_SECONDS: &str = "weft_volume_log_write_seconds";
/// Counted by the event loop, in nanoseconds: the time a shard's thread did not wait.
pub const BUSY_SECONDS: &str = "weft_shard_busy_seconds_total";
/// Counted by the event loop: its turns.
pub const TURNS: &str = "weft_shard_turns_total";

/// How often numbers that are looked up rather than counted are brought up to date.
pub(crate) const GAUGE_INTERVAL: Duration = Duration::from_secs(1);

/// Tells the process's registry what the names mean.
pub fn describe() {
    metrics::describe_histogram!(
        REQUEST_SECONDS,
        Unit::Seconds,
        "Time from a request's arrival at its shard to its answer"
    );
    metrics::describe_histogram!(
        TARGET_IO_SECONDS,
        Unit::Seconds,
        "Time that device work of a target takes"
    );
    metrics::describe_histogram!(
        LOG_WRITE_SECONDS,
        Unit::Seconds,
        "Time until a write of the metadata log is durable"
    );
    metrics::describe_counter!(TARGET_IO_BYTES, Unit::Bytes, "Bytes of a target's device work");
    metrics::describe_counter!(BUSY_SECONDS, Unit::Seconds, "Time a shard's thread did not wait");
    metrics::describe_counter!(TURNS, Unit::Count, "Turns of a shard's event loop");
    metrics::describe_counter!(ERRORS, Unit::Count, "Answers that are errors, by status");
    metrics::describe_counter!(RECEIVED_BYTES, Unit::Bytes, "Payload of writes that came");
    metrics::describe_counter!(SENT_BYTES, Unit::Bytes, "Payload of reads that left");
    metrics::describe_counter!(COPIED_BYTES, Unit::Bytes, "Bytes copied within the node");
    metrics::describe_counter!(
        COPIED_ACROSS_BYTES,
        Unit::Bytes,
        "Bytes copied from targets of other shards"
    );
    for (name, unit, help) in [
        (CONNECTIONS, Unit::Count, "Connections to the shard"),
        (LOCAL_CONNECTIONS, Unit::Count, "Those of them over a unix socket, of this machine"),
        (SESSIONS, Unit::Count, "Sessions of clients, also those without a connection now"),
        (IN_FLIGHT, Unit::Count, "Requests that came and are not answered"),
        (REQUESTS_BYTES, Unit::Bytes, "Memory that data requests in flight take"),
        (REQUESTS_BYTES_MAX, Unit::Bytes, "Memory there is for data requests in flight"),
        (LOCKS, Unit::Count, "File locks, held and waited for"),
        (LEASES, Unit::Count, "Leases that clients hold on inodes"),
        (TARGET_IO_IN_FLIGHT, Unit::Count, "Device work of a target under way"),
        (TARGET_BYTES, Unit::Bytes, "Room of a target for data"),
        (TARGET_FREE_BYTES, Unit::Bytes, "Free room of a target"),
        (TARGET_CHUNKS, Unit::Count, "Chunks of a target"),
        (TARGET_DAMAGED_BLOCKS, Unit::Count, "Blocks of a target known to be damaged"),
        (TARGET_ONLINE, Unit::Count, "1 when the target is served, 0 when it could not be opened"),
    ] {
        metrics::describe_gauge!(name, unit, help);
    }
}

/// A name as in the code, as a label: `GetAttr` is `get_attr`.
pub fn label(name: &str) -> String {
    let mut out = String::new();
    for (index, letter) in name.chars().enumerate() {
        if letter.is_ascii_uppercase() && index > 0 {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// The series of one shard.
pub(crate) struct ShardMetrics {
    shard: String,
    /// By the kind's number; made when first used.
    requests: Vec<Option<Histogram>>,
    /// By the status's number; made when first used.
    errors: Vec<Option<Counter>>,
    /// By target; made when first told of.
    targets: BTreeMap<(u16, &'static str), Gauge>,
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) copied_bytes: Counter,
    pub(crate) copied_across_bytes: Counter,
    pub(crate) connections: Gauge,
    pub(crate) sessions: Gauge,
    pub(crate) in_flight: Gauge,
    pub(crate) requests_bytes: Gauge,
    pub(crate) requests_bytes_max: Gauge,
    pub(crate) locks: Gauge,
    pub(crate) leases: Gauge,
    pub(crate) told: Duration,
}

impl ShardMetrics {
    pub(crate) fn new(shard: ShardId) -> ShardMetrics {
        let shard = shard.to_string();
        let kinds = Kind::ALL.iter().map(|kind| usize::from(kind.code()) + 1).max().unwrap_or(0);
        let statuses = Status::ALL.iter().map(|status| usize::from(status.code()) + 1);
        let gauge = |name| metrics::gauge!(name, "shard" => shard.clone());
        let counter = |name| metrics::counter!(name, "shard" => shard.clone());
        ShardMetrics {
            requests: vec![None; kinds],
            errors: vec![None; statuses.max().unwrap_or(0)],
            targets: BTreeMap::new(),
            received_bytes: counter(RECEIVED_BYTES),
            sent_bytes: counter(SENT_BYTES),
            copied_bytes: counter(COPIED_BYTES),
            copied_across_bytes: counter(COPIED_ACROSS_BYTES),
            connections: gauge(CONNECTIONS),
            sessions: gauge(SESSIONS),
            in_flight: gauge(IN_FLIGHT),
            requests_bytes: gauge(REQUESTS_BYTES),
            requests_bytes_max: gauge(REQUESTS_BYTES_MAX),
            locks: gauge(LOCKS),
            leases: gauge(LEASES),
            told: Duration::ZERO,
            shard,
        }
    }

    /// A request was answered.
    pub(crate) fn answered(&mut self, kind: Kind, took: Duration, status: Status) {
        let series = &mut self.requests[usize::from(kind.code())];
        let shard = &self.shard;
        let series = series.get_or_insert_with(|| {
            let kind = label(&format!("{kind:?}"));
            metrics::histogram!(REQUEST_SECONDS, "shard" => shard.clone(), "kind" => kind)
        });
        series.record(took);
        if !matches!(status, Status::Ok | Status::NotFound) {
            let series = self.errors[usize::from(status.code())].get_or_insert_with(|| {
                let status = label(&format!("{status:?}"));
                metrics::counter!(ERRORS, "shard" => shard.clone(), "status" => status)
            });
            series.increment(1);
        }
    }

    /// Sets a number of one target.
    pub(crate) fn target(&mut self, name: &'static str, target: u16, value: u64) {
        let shard = &self.shard;
        let series = self.targets.entry((target, name)).or_insert_with(
            || metrics::gauge!(name, "shard" => shard.clone(), "target" => target.to_string()),
        );
        series.set(float(value));
    }
}

/// A gauge is a float: exact up to 2^53.
#[allow(clippy::cast_precision_loss, reason = "said above")]
pub fn float(value: u64) -> f64 {
    value as f64
}

impl std::fmt::Debug for ShardMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardMetrics").field("shard", &self.shard).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_words_with_underscores() {
        assert_eq!(label("GetAttr"), "get_attr");
        assert_eq!(label("Read"), "read");
    }
}
