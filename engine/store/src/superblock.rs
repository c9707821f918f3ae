//! The superblock: what a device says about itself, twice.
//!
//! Copy A is the first block of the device, copy B its last. A copy is used after its magic, its
//! checksum and its version are right, in that order; one damaged copy is told and survived. Copy B
//! alone is trusted only while the first block is ours, damaged: another file system made over a
//! target seldom reaches the last block, and a server must not write into it.

use std::fmt;
use std::io;

use weft_wire::blocks::{BLOCK_BYTES, BLOCK_LEN, crc32c};
use weft_wire::units::to_usize;
use weft_wire::{ClusterId, TargetId};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Kind, StoreError};
use crate::limits::{
    BLOCK, CAPACITY_BYTES_MIN, JOURNAL_BYTES_MAX, JOURNAL_BYTES_MIN, JOURNAL_OFFSET, JOURNAL_SHARE,
};

/// The name of one target, chosen at random when it is formatted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TargetUuid(pub [u8; 16]);

impl fmt::Display for TargetUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&ClusterId(self.0), f)
    }
}

impl fmt::Debug for TargetUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A device read and flushed by blocking calls: inspection and open only.
pub trait Device {
    /// Fills `buf` from `offset`. Reads what the page cache holds too (not O_DIRECT on the journal
    /// area, or after the cache was written back).
    ///
    /// # Errors
    /// The device's; `UnexpectedEof` beyond its end.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Makes everything written earlier durable (fdatasync). Open calls it once, before what the
    /// journal told enters the index.
    ///
    /// # Errors
    /// The device's.
    fn flush(&mut self) -> io::Result<()>;

    /// Length of the device.
    fn len_bytes(&self) -> u64;
}

/// First bytes of both copies.
pub const MAGIC: [u8; 8] = *b"WEFTTGT1";
/// Version of everything on the device.
pub const FORMAT_VERSION: u32 = 1;
/// Journal segments.
pub(crate) const SEGMENT_COUNT: u32 = 2;
/// Shortest of them.
const SEGMENT_BYTES_MIN: u64 = JOURNAL_BYTES_MIN / SEGMENT_COUNT as u64;

/// A superblock as it lies on the device; the rest of its block is zero.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawSuperblock {
    pub(crate) magic: [u8; 8],
    /// CRC32C of the whole block with this field zero.
    pub(crate) crc: U32,
    pub(crate) version: U32,
    pub(crate) cluster: [u8; 16],
    pub(crate) target_uuid: [u8; 16],
    pub(crate) target_id: U16,
    pub(crate) reserved_a: [u8; 2],
    pub(crate) block_bytes: U32,
    pub(crate) capacity_bytes: U64,
    pub(crate) copy_b_offset: U64,
    pub(crate) journal_offset: U64,
    pub(crate) segment_bytes: U64,
    pub(crate) segment_count: U32,
    pub(crate) reserved_b: [u8; 4],
    pub(crate) data_offset: U64,
    pub(crate) data_block_count: U64,
}

pub(crate) const RAW_LEN: usize = size_of::<RawSuperblock>();
const _: () = assert!(RAW_LEN == 112);

/// What a device says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The cluster the target belongs to.
    pub cluster: ClusterId,
    /// The target's own name.
    pub target_uuid: TargetUuid,
    /// Its number in the cluster.
    pub target_id: TargetId,
    /// Where its parts lie.
    pub areas: Areas,
}

/// Where the parts of a device of some capacity lie, in bytes from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Areas {
    /// Bytes of the device in use.
    pub capacity_bytes: u64,
    /// The second superblock; the first is at 0.
    pub copy_b_offset: u64,
    /// First journal segment; the second follows it.
    pub journal_offset: u64,
    /// Length of one segment.
    pub segment_bytes: u64,
    /// First data block.
    pub data_offset: u64,
    /// 4 KiB blocks of data.
    pub data_block_count: u64,
}

impl Areas {
    /// The parts of a device of `capacity_bytes`, each computed from the one before.
    ///
    /// # Errors
    /// `TooSmall` below [`CAPACITY_BYTES_MIN`].
    pub fn of_capacity(capacity_bytes: u64) -> Result<Areas, StoreError> {
        let journal_bytes =
            (capacity_bytes / JOURNAL_SHARE).clamp(JOURNAL_BYTES_MIN, JOURNAL_BYTES_MAX);
        let segment_bytes = journal_bytes / u64::from(SEGMENT_COUNT) / BLOCK * BLOCK;
        Areas::with_journal(capacity_bytes, segment_bytes)
    }

    /// The parts when the device is `capacity_bytes` long now: the journal stays, the data area
    /// becomes longer.
    ///
    /// # Errors
    /// `TooSmall` when it would become shorter.
    pub fn grown(&self, capacity_bytes: u64) -> Result<Areas, StoreError> {
        if capacity_bytes < self.capacity_bytes {
            return Err(StoreError::new(Kind::TooSmall, "growth", capacity_bytes));
        }
        Areas::with_journal(capacity_bytes, self.segment_bytes)
    }

    fn with_journal(capacity_bytes: u64, segment_bytes: u64) -> Result<Areas, StoreError> {
        let capacity_bytes = capacity_bytes - capacity_bytes % BLOCK;
        if capacity_bytes < CAPACITY_BYTES_MIN {
            return Err(StoreError::new(Kind::TooSmall, "area layout", capacity_bytes));
        }
        let copy_b_offset = capacity_bytes - BLOCK;
        let journal_end = JOURNAL_OFFSET + u64::from(SEGMENT_COUNT) * segment_bytes;
        let data_offset = journal_end.next_multiple_of(JOURNAL_OFFSET);
        Ok(Areas {
            capacity_bytes,
            copy_b_offset,
            journal_offset: JOURNAL_OFFSET,
            segment_bytes,
            data_offset,
            data_block_count: (copy_b_offset - data_offset) / BLOCK,
        })
    }

    /// Where a journal segment begins.
    pub(crate) fn segment_offset(&self, segment: usize) -> u64 {
        self.journal_offset + if segment == 0 { 0 } else { self.segment_bytes }
    }

    /// Where a block of the data area begins.
    pub(crate) fn data_byte(&self, device_block: u64) -> u64 {
        debug_assert!(device_block < self.data_block_count);
        self.data_offset + device_block * BLOCK
    }
}

impl Superblock {
    /// What journal records of this target carry, so that those of another formatting are foreign.
    pub(crate) fn nonce(&self) -> u64 {
        let (a, b) = self.target_uuid.0.split_at(8);
        let half = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        half(a) ^ half(b).rotate_left(1)
    }

    /// The block to write at both places.
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = RawSuperblock {
            magic: MAGIC,
            crc: U32::ZERO,
            version: FORMAT_VERSION.into(),
            cluster: self.cluster.0,
            target_uuid: self.target_uuid.0,
            target_id: self.target_id.0.into(),
            reserved_a: [0; 2],
            block_bytes: BLOCK_BYTES.into(),
            capacity_bytes: self.areas.capacity_bytes.into(),
            copy_b_offset: self.areas.copy_b_offset.into(),
            journal_offset: self.areas.journal_offset.into(),
            segment_bytes: self.areas.segment_bytes.into(),
            segment_count: SEGMENT_COUNT.into(),
            reserved_b: [0; 4],
            data_offset: self.areas.data_offset.into(),
            data_block_count: self.areas.data_block_count.into(),
        };
        let mut block = vec![0u8; BLOCK_LEN];
        block[..RAW_LEN].copy_from_slice(raw.as_bytes());
        raw.crc = crc32c(&block).into();
        block[..RAW_LEN].copy_from_slice(raw.as_bytes());
        block
    }

    /// Reads one copy, which lay at `offset`.
    ///
    /// # Errors
    /// `Foreign`, `Damaged`, `Version`, in the order in which they are looked for.
    pub fn decode(block: &[u8], offset: u64) -> Result<Superblock, StoreError> {
        let error = |kind| StoreError::new(kind, "superblock check", offset);
        let (raw, rest) =
            RawSuperblock::read_from_prefix(block).map_err(|_| error(Kind::Damaged))?;
        if raw.magic != MAGIC {
            return Err(error(Kind::Foreign));
        }
        let mut unsummed = block.to_vec();
        unsummed[8..12].fill(0);
        if block.len() != BLOCK_LEN || crc32c(&unsummed) != raw.crc.get() {
            return Err(error(Kind::Damaged));
        }
        if raw.version.get() != FORMAT_VERSION {
            return Err(error(Kind::Version));
        }
        let areas = Areas {
            capacity_bytes: raw.capacity_bytes.get(),
            copy_b_offset: raw.copy_b_offset.get(),
            journal_offset: raw.journal_offset.get(),
            segment_bytes: raw.segment_bytes.get(),
            data_offset: raw.data_offset.get(),
            data_block_count: raw.data_block_count.get(),
        };
        // The journal has the length that a target formatted with this capacity or less gets, and
        // the rest follows from that: anything else is no work of ours.
        let fitting = Areas::of_capacity(areas.capacity_bytes)?;
        let segments = SEGMENT_BYTES_MIN..=fitting.segment_bytes;
        if !segments.contains(&areas.segment_bytes) || !areas.segment_bytes.is_multiple_of(BLOCK) {
            return Err(error(Kind::Damaged));
        }
        let expected = Areas::with_journal(areas.capacity_bytes, areas.segment_bytes)?;
        let reserved_zero = raw.reserved_a == [0; 2]
            && raw.reserved_b == [0; 4]
            && rest.iter().all(|byte| *byte == 0);
        if expected != areas
            || !reserved_zero
            || raw.block_bytes.get() != BLOCK_BYTES
            || raw.segment_count.get() != SEGMENT_COUNT
        {
            return Err(error(Kind::Damaged));
        }
        Ok(Superblock {
            cluster: ClusterId(raw.cluster),
            target_uuid: TargetUuid(raw.target_uuid),
            target_id: TargetId(raw.target_id.get()),
            areas,
        })
    }
}

/// A first block that differs from what the last one says in no more bytes than this is ours,
/// damaged, even when the damage hit the magic. Ours has more than 40 bytes that are not zero, so
/// nobody else's block comes near it.
const WRONG_BYTES_MAX: usize = 16;

/// Which copies of the superblock were good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copies {
    /// Both, and they agree.
    Both,
    /// The first is damaged, unreadable or zero: the target works, and should be looked at.
    OnlySecond,
    /// The second is damaged: the target works, and should be looked at.
    OnlyFirst,
}

/// Reads a device's superblock: for lists of targets, at server start, and to refuse to format a
/// device that is in use.
///
/// # Errors
/// `Foreign` when neither copy has our magic, `Overwritten` when only the last block is still ours,
/// `Version`, `Damaged` when no copy is whole, `TooSmall` when the device is shorter than it was,
/// `Device`.
pub fn inspect(device: &mut dyn Device) -> Result<Superblock, StoreError> {
    inspect_copies(device).map(|(superblock, _)| superblock)
}

/// [`inspect`], telling which copies were good.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_copies(device: &mut dyn Device) -> Result<(Superblock, Copies), StoreError> {
    let len_bytes = device.len_bytes();
    let first = read_copy(device, 0);
    let second_offset = match &first {
        Ok(superblock) => superblock.areas.copy_b_offset,
        Err(_) => (len_bytes - len_bytes % BLOCK).saturating_sub(BLOCK),
    };
    let second = read_copy(device, second_offset);
    let (superblock, copies) = match (first, second) {
        (Ok(first), Ok(second)) if first == second => (first, Copies::Both),
        (Ok(first), _) => (first, Copies::OnlyFirst),
        (Err(first), Ok(second)) => {
            check_first_is_ours(device, first, &second)?;
            (second, Copies::OnlySecond)
        }
        // A copy that has our magic tells more than one that has not.
        (Err(first), Err(second)) if first.kind == Kind::Foreign => return Err(second),
        (Err(first), Err(_)) => return Err(first),
    };
    if superblock.areas.capacity_bytes > len_bytes {
        return Err(StoreError::new(Kind::TooSmall, "comparison with the superblock", len_bytes));
    }
    Ok((superblock, copies))
}

/// Whether the first block, which is no good superblock, is damage to ours and not somebody else's.
fn check_first_is_ours(
    device: &mut dyn Device,
    first: StoreError,
    second: &Superblock,
) -> Result<(), StoreError> {
    match first.kind {
        // With our magic, or no longer readable.
        Kind::Damaged | Kind::Device => return Ok(()),
        Kind::Foreign => {}
        _ => return Err(first),
    }
    let mut head = vec![0u8; to_usize(JOURNAL_OFFSET)];
    device
        .read_at(0, &mut head)
        .map_err(|source| StoreError::device("superblock check", 0, source))?;
    // Zeros are nobody's, unless somebody keeps his superblock further on.
    if is_ours_damaged(&head[..BLOCK_LEN], &second.encode()) || head.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(StoreError::new(Kind::Overwritten, "superblock check", 0))
}

/// Whether a block is what our superblock `right` became by damage, not what somebody else wrote.
pub(crate) fn is_ours_damaged(block: &[u8], right: &[u8]) -> bool {
    let wrong_bytes = block.iter().zip(right).filter(|(is, was)| is != was).count();
    wrong_bytes <= WRONG_BYTES_MAX
}

fn read_copy(device: &mut dyn Device, offset: u64) -> Result<Superblock, StoreError> {
    let mut block = vec![0u8; BLOCK_LEN];
    if offset + BLOCK > device.len_bytes() {
        return Err(StoreError::new(Kind::Foreign, "superblock read", offset));
    }
    device
        .read_at(offset, &mut block)
        .map_err(|source| StoreError::device("superblock read", offset, source))?;
    Superblock::decode(&block, offset)
}

/// What to format a target as.
#[derive(Clone, Copy, Debug)]
pub struct FormatParams {
    /// The cluster it will belong to; not all zero.
    pub cluster: ClusterId,
    /// Its own name: 16 random bytes.
    pub target_uuid: TargetUuid,
    /// Its number in the cluster.
    pub target_id: TargetId,
    /// Length of the device or of the preallocated file, in bytes.
    pub capacity_bytes: u64,
}

/// What to write to a device to make it an empty target, in this order, each step followed by a
/// flush: an interrupted format leaves no superblock, and so no target.
#[derive(Clone, Debug)]
pub struct FormatPlan {
    /// Byte ranges to overwrite with zeros: (offset, length).
    pub zeros: Vec<(u64, u64)>,
    /// Bytes to write: (offset, bytes).
    pub writes: Vec<(u64, Vec<u8>)>,
    /// What those bytes say.
    pub superblock: Superblock,
}

/// Plans the formatting of a target. The caller does the I/O and makes the index
/// ([`crate::Store::create_index`]) before the superblocks are written.
///
/// # Errors
/// `TooSmall`; `Invalid` when an id is all zero.
pub fn format_plan(params: &FormatParams) -> Result<FormatPlan, StoreError> {
    if params.cluster.0 == [0; 16] || params.target_uuid.0 == [0; 16] {
        return Err(StoreError::new(Kind::Invalid, "format", 0));
    }
    let areas = Areas::of_capacity(params.capacity_bytes)?;
    let superblock = Superblock {
        cluster: params.cluster,
        target_uuid: params.target_uuid,
        target_id: params.target_id,
        areas,
    };
    let block = superblock.encode();
    Ok(FormatPlan {
        // The old superblocks go first; the journal's heads so that nothing there looks begun.
        zeros: vec![
            (0, JOURNAL_OFFSET),
            (areas.segment_offset(0), BLOCK),
            (areas.segment_offset(1), BLOCK),
            (areas.copy_b_offset, BLOCK),
        ],
        writes: vec![(areas.copy_b_offset, block.clone()), (0, block)],
        superblock,
    })
}
