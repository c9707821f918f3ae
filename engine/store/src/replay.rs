//! The reading side of the journal: which records come after those in the index.
//!
//! The journal ends at the first place that does not hold the next record. After a power loss that
//! is a torn or lost append that nobody was promised. It is damage instead when later records
//! prove that the missing one had been whole: because the machine never stopped, so the page
//! cache still has all appends; or because a later mark says that it was durable.

use weft_wire::units::{to_u64, to_usize};

use crate::error::{Kind, StoreError};
use crate::index::Meta;
use crate::record::{self, Found, RECORD_ALIGN, Record};
use crate::superblock::{Device, SEGMENT_COUNT, Superblock};

/// What the journal told.
#[derive(Debug)]
pub(crate) struct Replay {
    /// Records to apply, in order.
    pub(crate) records: Vec<Found>,
    /// The last of them, or what the index has already.
    pub(crate) last_sequence: u64,
    /// Newer than any generation seen.
    pub(crate) next_generation: u64,
    /// Bytes after the end that hold records which were lost.
    pub(crate) lost_records: bool,
}

impl Replay {
    /// How many records say something of chunks.
    pub(crate) fn change_count(&self) -> u64 {
        let administrative =
            |found: &&Found| matches!(found.record, Record::Start { .. } | Record::Mark { .. });
        to_u64(self.records.len() - self.records.iter().filter(administrative).count())
    }
}

struct Segment {
    offset: u64,
    bytes: Vec<u8>,
    /// Generation and `applied` of its first record, if it is one of interest.
    start: Option<(u64, u64)>,
    /// How far the chain came.
    read_bytes: usize,
}

/// Reads both segments.
pub(crate) fn read(
    device: &mut dyn Device,
    superblock: &Superblock,
    meta: &Meta,
    same_boot: bool,
) -> Result<Replay, StoreError> {
    let nonce = superblock.nonce();
    let mut segments = Vec::new();
    for number in 0..to_usize(u64::from(SEGMENT_COUNT)) {
        let offset = superblock.areas.segment_offset(number);
        let mut bytes = vec![0; to_usize(superblock.areas.segment_bytes)];
        device
            .read_at(offset, &mut bytes)
            .map_err(|source| StoreError::device("journal read", offset, source))?;
        let start = start_of(&bytes, nonce);
        segments.push(Segment { offset, bytes, start, read_bytes: 0 });
    }
    let seen =
        segments.iter().filter_map(|segment| segment.start).map(|(generation, _)| generation);
    let next_generation = seen.max().unwrap_or(0).max(meta.generation) + 1;
    segments.sort_by_key(|segment| segment.start);
    for segment in &mut segments {
        check_start(segment, meta)?;
    }
    let mut replay = Replay {
        records: Vec::new(),
        last_sequence: meta.applied,
        next_generation,
        lost_records: false,
    };
    for segment in &mut segments {
        if !follow(segment, nonce, &mut replay) {
            break;
        }
    }
    let damage =
        |offset| StoreError::new(Kind::Damaged, "journal: a record before the last", offset);
    for segment in &segments {
        let (later, proof) = look_behind(segment, nonce, meta.generation, replay.last_sequence);
        replay.lost_records |= later;
        if proof || (later && same_boot) {
            return Err(damage(segment.offset + to_u64(segment.read_bytes)));
        }
    }
    Ok(replay)
}

fn start_of(bytes: &[u8], nonce: u64) -> Option<(u64, u64)> {
    let found = record::decode(bytes, nonce)?;
    match found.record {
        Record::Start { applied } => Some((found.stamp.generation, applied)),
        _ => None,
    }
}

/// Forgets segments from before the last checkpoint; refuses those the index cannot belong to.
fn check_start(segment: &mut Segment, meta: &Meta) -> Result<(), StoreError> {
    let Some((generation, applied)) = segment.start else { return Ok(()) };
    if generation < meta.generation {
        segment.start = None;
    } else if applied > meta.applied || generation > meta.generation + 1 {
        let op = "journal: the index is older than the device";
        return Err(StoreError::new(Kind::Mismatch, op, segment.offset));
    }
    Ok(())
}

/// Takes the segment's records as long as each is the next one; whether the next segment may
/// follow.
fn follow(segment: &mut Segment, nonce: u64, replay: &mut Replay) -> bool {
    let Some((generation, _)) = segment.start else { return true };
    while let Some(found) = record::decode(&segment.bytes[segment.read_bytes..], nonce) {
        if found.stamp.generation != generation {
            break;
        }
        if found.stamp.sequence != replay.last_sequence + 1 {
            return false;
        }
        replay.last_sequence += 1;
        segment.read_bytes += found.len_bytes;
        replay.records.push(found);
    }
    true
}

/// Whether there are records behind the end that come later, and whether one of them proves that
/// the next one had been durable.
fn look_behind(segment: &Segment, nonce: u64, generation: u64, last: u64) -> (bool, bool) {
    let (mut later, mut proof) = (false, false);
    let mut at = segment.read_bytes;
    let step = to_usize(RECORD_ALIGN);
    let wanted = nonce.to_le_bytes();
    while at + 16 <= segment.bytes.len() {
        // The nonce lies 8 bytes into a record's header.
        if segment.bytes[at + 8..at + 16] == wanted
            && let Some(found) = record::decode(&segment.bytes[at..], nonce)
        {
            if found.stamp.generation >= generation && found.stamp.sequence > last {
                later = true;
                proof |= matches!(found.record, Record::Mark { durable } if durable > last);
            }
            at += found.len_bytes;
        } else {
            at += step;
        }
    }
    (later, proof)
}
