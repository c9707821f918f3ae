//! Every number the store counts. All only grow, from open on.

/// Counts since open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Reads answered with data, operations.
    pub reads: u64,
    /// Bytes of blocks read for them, bytes.
    pub read_bytes: u64,
    /// Writes acknowledged, operations.
    pub writes: u64,
    /// Payload of those, bytes.
    pub write_bytes: u64,
    /// Truncations acknowledged, operations.
    pub truncates: u64,
    /// Syncs acknowledged, operations.
    pub syncs: u64,
    /// Device flushes, calls.
    pub flushes: u64,
    /// Journal appends, calls.
    pub appends: u64,
    /// Journal bytes appended, padding and repeated pages included, bytes.
    pub append_bytes: u64,
    /// Checkpoints committed, calls.
    pub checkpoints: u64,
    /// Write intents recorded, records.
    pub intents: u64,
    /// Write intents that had to wait for a flush, records.
    pub intent_flushes: u64,
    /// Payloads that did not match their checksums, operations: worth a log line each.
    pub payload_mismatches: u64,
    /// Blocks read that did not match their checksums, blocks: an alarm.
    pub damaged_blocks: u64,
    /// Bytes the scrub read and compared, bytes.
    pub scrub_bytes: u64,
    /// Device reads and writes that failed, calls: an alarm.
    pub io_errors: u64,
    /// Index records that could not be read, operations: an alarm.
    pub index_errors: u64,
    /// Operations refused for want of buffers, operations.
    pub busy: u64,
    /// Operations refused for want of space, operations.
    pub no_space: u64,
    /// Operations that waited for a checkpoint or for freed space, waits.
    pub parked: u64,
    /// Discards the device carried out, calls.
    pub discards: u64,
    /// What those covered, bytes.
    pub discard_bytes: u64,
    /// Completions of I/Os that were not under way, calls: a bug of the caller.
    pub unknown_completions: u64,
}

/// How full a target is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// Bytes of the data area.
    pub total_bytes: u64,
    /// Bytes that new data may take, those that become free with the next flush included.
    pub free_bytes: u64,
    /// Bytes written and not removed.
    pub used_bytes: u64,
    /// Chunks.
    pub chunk_count: u64,
    /// Bytes kept for rewriting partly covered blocks when all else is full; part of `free_bytes`.
    pub reserve_bytes: u64,
    /// Memory of chunk records.
    pub cache_bytes: u64,
    /// Chunks changed since the last checkpoint began.
    pub dirty_chunk_count: u64,
}
