//! The records of the database: little-endian, no padding, a format number in each, reserved bytes zero.
//!
//! Decoding gives `None` for bytes this build cannot have written: the caller answers `Damaged`. The byte tables
//! are in `doc/format.md`, held by `tests/format.rs`.

use weft_wire::codec::{Reader, Writer};
use weft_wire::layout::LayoutPolicy;
use weft_wire::limits::{INLINE_BYTES_MAX, NAME_BYTES_MAX, SYMLINK_BYTES_MAX};
use weft_wire::meta::{Attr, FileKind, Time};
use weft_wire::{ChunkIndex, ClusterId, Ino, Layout, Status, TargetId, VolumeId};
use zerocopy::byteorder::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Format number of every record.
pub(crate) const FORMAT: u16 = 1;
/// Format number of the volume's own record: from 2 on there are files whose data is in the inode, from 3 on fresh ones.
pub(crate) const VOLUME_FORMAT: u16 = 3;
/// First bytes of the volume record.
pub(crate) const VOLUME_MAGIC: [u8; 8] = *b"WEFTMETA";

/// What the type of an inode adds to its attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Tail {
    File(Layout, DataAt),
    Directory { parent: Ino, policy: LayoutPolicy },
    Symlink(Vec<u8>),
    Special,
}

/// Where the data of a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DataAt {
    /// At its targets, by its layout.
    Targets,
    /// In the table of data, if it has any; nothing is at the targets. `bytes_max` fit.
    Inode { bytes_max: u16 },
    /// It counts as before, but some of it may be at the targets, too.
    Moving { bytes_max: u16 },
    /// The same, and it changed since: what is at the targets is not what counts.
    MovingOld { bytes_max: u16 },
    /// As in the inode, without data. Whoever made it may have begun to write at the targets, which does not count before
    /// that is told.
    Fresh { bytes_max: u16 },
}

impl DataAt {
    fn inline_max(self) -> Option<u16> {
        match self {
            DataAt::Targets => None,
            DataAt::Inode { bytes_max }
            | DataAt::Moving { bytes_max }
            | DataAt::MovingOld { bytes_max }
            | DataAt::Fresh { bytes_max } => Some(bytes_max),
        }
    }
}

/// First byte of what follows the layout, where anything does.
const IN_INODE: u8 = 1;
const MOVING: u8 = 2;
const MOVING_OLD: u8 = 3;
const FRESH: u8 = 4;

/// An inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Inode {
    /// `blocks` is that of the field below, or 0 when that is negative.
    pub(crate) attr: Attr,
    /// Blocks of its data by what was told: less than none for a moment when a cut is told before the writes it cut.
    pub(crate) blocks: i64,
    /// Extended attributes it has.
    pub(crate) xattr_count: u32,
    /// Bytes of their names, each with a NUL.
    pub(crate) xattr_list_bytes: u32,
    pub(crate) tail: Tail,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawInode {
    pub(crate) format: U16,
    pub(crate) reserved: [u8; 2],
    pub(crate) mode: U32,
    pub(crate) nlink: U32,
    pub(crate) uid: U32,
    pub(crate) gid: U32,
    pub(crate) rdev: U32,
    pub(crate) size: U64,
    pub(crate) version: U64,
    pub(crate) seconds: [I64; 4],
    pub(crate) nanos: [U32; 4],
    pub(crate) xattr_count: U32,
    pub(crate) xattr_list_bytes: U32,
    pub(crate) blocks: I64,
}
const _: () = assert!(size_of::<RawInode>() == 104);

impl Inode {
    pub(crate) fn kind(&self) -> FileKind {
        self.attr.kind()
    }

    pub(crate) fn is_directory(&self) -> bool {
        matches!(self.tail, Tail::Directory { .. })
    }

    pub(crate) fn layout(&self) -> Option<&Layout> {
        match &self.tail {
            Tail::File(layout, _) => Some(layout),
            _ => None,
        }
    }

    /// How many bytes fit the inode, when that is where the data is.
    pub(crate) fn inline_max(&self) -> Option<u16> {
        match self.tail {
            Tail::File(_, at) => at.inline_max(),
            _ => None,
        }
    }

    /// Whether its targets may have something of it that does not count.
    pub(crate) fn may_have_leftovers(&self) -> bool {
        let Tail::File(_, at) = self.tail else { return false };
        match at {
            DataAt::Targets | DataAt::Inode { .. } => false,
            DataAt::Fresh { .. } | DataAt::Moving { .. } | DataAt::MovingOld { .. } => true,
        }
    }

    /// The data has so many more blocks, or fewer.
    pub(crate) fn add_blocks(&mut self, added: i64) {
        self.blocks = self.blocks.saturating_add(added);
        self.attr.blocks = shown(self.blocks);
    }

    /// It has so many.
    pub(crate) fn set_blocks(&mut self, blocks: i64) {
        self.blocks = blocks;
        self.attr.blocks = shown(blocks);
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let attr = &self.attr;
        let times = [attr.atime, attr.mtime, attr.ctime, attr.btime];
        let raw = RawInode {
            format: U16::new(FORMAT),
            reserved: [0; 2],
            mode: U32::new(attr.mode),
            nlink: U32::new(attr.nlink),
            uid: U32::new(attr.uid),
            gid: U32::new(attr.gid),
            rdev: U32::new(attr.rdev),
            size: U64::new(attr.size),
            version: U64::new(attr.version),
            seconds: times.map(|t| I64::new(t.seconds)),
            nanos: times.map(|t| U32::new(t.nanos)),
            xattr_count: U32::new(self.xattr_count),
            xattr_list_bytes: U32::new(self.xattr_list_bytes),
            blocks: I64::new(self.blocks),
        };
        let mut out = raw.as_bytes().to_vec();
        match &self.tail {
            Tail::File(layout, at) => {
                let out = &mut Writer::new(&mut out);
                layout.encode(out);
                let (place, bytes_max) = match at {
                    DataAt::Targets => (None, 0),
                    DataAt::Inode { bytes_max } => (Some(IN_INODE), *bytes_max),
                    DataAt::Moving { bytes_max } => (Some(MOVING), *bytes_max),
                    DataAt::MovingOld { bytes_max } => (Some(MOVING_OLD), *bytes_max),
                    DataAt::Fresh { bytes_max } => (Some(FRESH), *bytes_max),
                };
                if let Some(place) = place {
                    out.u8(place).u16(bytes_max);
                }
            }
            Tail::Directory { parent, policy } => {
                policy.encode(Writer::new(&mut out).u64(parent.0));
            }
            Tail::Symlink(target) => out.extend_from_slice(target),
            Tail::Special => {}
        }
        out
    }

    pub(crate) fn decode(ino: Ino, bytes: &[u8]) -> Option<Inode> {
        let (raw, tail) = RawInode::read_from_prefix(bytes).ok()?;
        if raw.format.get() != FORMAT || raw.reserved != [0; 2] {
            return None;
        }
        let kind = FileKind::from_mode(raw.mode.get()).filter(|_| raw.mode.get() < 1 << 16)?;
        let mut times = [Time::default(); 4];
        for (time, (seconds, nanos)) in times.iter_mut().zip(raw.seconds.iter().zip(&raw.nanos)) {
            *time = Time { seconds: seconds.get(), nanos: nanos.get() };
        }
        if times.iter().any(|t| t.nanos >= 1_000_000_000) {
            return None;
        }
        let [atime, mtime, ctime, btime] = times;
        let attr = Attr {
            ino,
            mode: raw.mode.get(),
            nlink: raw.nlink.get(),
            uid: raw.uid.get(),
            gid: raw.gid.get(),
            rdev: raw.rdev.get(),
            size: raw.size.get(),
            blocks: shown(raw.blocks.get()),
            version: raw.version.get(),
            atime,
            mtime,
            ctime,
            btime,
        };
        Some(Inode {
            attr,
            blocks: raw.blocks.get(),
            xattr_count: raw.xattr_count.get(),
            xattr_list_bytes: raw.xattr_list_bytes.get(),
            tail: decode_tail(kind, tail)?,
        })
    }
}

fn shown(blocks: i64) -> u64 {
    u64::try_from(blocks).unwrap_or(0)
}

fn decode_tail(kind: FileKind, bytes: &[u8]) -> Option<Tail> {
    let mut from = Reader::new(bytes, "inode tail");
    let tail = match kind {
        FileKind::Regular => {
            let layout = Layout::decode(&mut from).ok()?;
            Tail::File(layout, decode_data_at(&mut from)?)
        }
        FileKind::Directory => Tail::Directory {
            parent: Ino(from.u64().ok()?),
            policy: LayoutPolicy::decode(&mut from).ok()?,
        },
        FileKind::Symlink => {
            let target = from.rest();
            if target.is_empty() || target.len() > SYMLINK_BYTES_MAX {
                return None;
            }
            Tail::Symlink(target.to_vec())
        }
        _ => Tail::Special,
    };
    from.end().ok()?;
    Some(tail)
}

fn decode_data_at(from: &mut Reader<'_>) -> Option<DataAt> {
    if from.clone().end().is_ok() {
        return Some(DataAt::Targets);
    }
    let (place, bytes_max) = (from.u8().ok()?, from.u16().ok()?);
    match place {
        _ if !(1..=INLINE_BYTES_MAX).contains(&usize::from(bytes_max)) => None,
        IN_INODE => Some(DataAt::Inode { bytes_max }),
        MOVING => Some(DataAt::Moving { bytes_max }),
        MOVING_OLD => Some(DataAt::MovingOld { bytes_max }),
        FRESH => Some(DataAt::Fresh { bytes_max }),
        _ => None,
    }
}

/// A name of a directory: the value; the key is [`entry_key`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) ino: Ino,
    pub(crate) kind: FileKind,
    pub(crate) name: &'a [u8],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawEntry {
    pub(crate) ino: U64,
    pub(crate) format: U16,
    pub(crate) reserved: [u8; 2],
    /// Type bits as in `st_mode`, nothing else.
    pub(crate) kind: U32,
}
const _: () = assert!(size_of::<RawEntry>() == 16);

impl<'a> Entry<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let raw = RawEntry {
            ino: U64::new(self.ino.0),
            format: U16::new(FORMAT),
            reserved: [0; 2],
            kind: U32::new(self.kind.mode_bits()),
        };
        let mut out = raw.as_bytes().to_vec();
        out.extend_from_slice(self.name);
        out
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Entry<'a>> {
        let (raw, name) = RawEntry::read_from_prefix(bytes).ok()?;
        let kind = FileKind::from_mode(raw.kind.get())?;
        let whole = raw.format.get() == FORMAT
            && raw.reserved == [0; 2]
            && raw.kind.get() == kind.mode_bits()
            && (1..=NAME_BYTES_MAX).contains(&name.len());
        whole.then_some(Entry { ino: Ino(raw.ino.get()), kind, name })
    }
}

/// Key of a directory entry: the directory, then the cookie, both big-endian so that a scan is in cookie order.
pub(crate) fn entry_key(parent: Ino, cookie: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&parent.0.to_be_bytes());
    key[8..].copy_from_slice(&cookie.to_be_bytes());
    key
}

/// Directory and cookie of an entry's key.
pub(crate) fn split_entry_key(key: &[u8]) -> Option<(Ino, u64)> {
    let (parent, cookie) = key.split_first_chunk::<8>()?;
    let cookie: &[u8; 8] = cookie.try_into().ok()?;
    Some((Ino(u64::from_be_bytes(*parent)), u64::from_be_bytes(*cookie)))
}

/// Key of an inode, orphan or work: its number, big-endian.
pub(crate) fn number_key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The number of a [`number_key`].
pub(crate) fn key_number(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

/// Key of an extended attribute: the inode, then the name.
pub(crate) fn xattr_key(ino: Ino, name: &[u8]) -> Vec<u8> {
    let mut key = ino.0.to_be_bytes().to_vec();
    key.extend_from_slice(name);
    key
}

/// What the targets still have to do for a change that is already made: remove an inode's chunks, or cut them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Work {
    /// Number of the work in its volume; never reused.
    pub id: u64,
    /// The file.
    pub ino: Ino,
    /// Where its chunks are.
    pub layout: Layout,
    /// First chunk to remove.
    pub remove_from: ChunkIndex,
    /// A chunk to shorten, and how many bytes of it stay. `None` with `remove_from` 0: the file is gone.
    pub cut: Option<(ChunkIndex, u32)>,
    /// Whether the file lives on: a change of it is answered when the work is done.
    pub shrink: bool,
    /// What it removes was never counted among the file's blocks.
    pub uncounted: bool,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawWork {
    pub(crate) format: U16,
    /// Bit 0: there is a cut. Bit 1: a shrink. Bit 2: of what was not counted.
    pub(crate) flags: U16,
    pub(crate) cut_bytes: U32,
    pub(crate) ino: U64,
    pub(crate) remove_from: U64,
    pub(crate) cut_index: U64,
}
const _: () = assert!(size_of::<RawWork>() == 32);

impl Work {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (cut_index, cut_bytes) = self.cut.unwrap_or_default();
        let raw = RawWork {
            format: U16::new(FORMAT),
            flags: U16::new(
                u16::from(self.cut.is_some())
                    | u16::from(self.shrink) << 1
                    | u16::from(self.uncounted) << 2,
            ),
            cut_bytes: U32::new(cut_bytes),
            ino: U64::new(self.ino.0),
            remove_from: U64::new(self.remove_from.0),
            cut_index: U64::new(cut_index.0),
        };
        let mut out = raw.as_bytes().to_vec();
        self.layout.encode(&mut Writer::new(&mut out));
        out
    }

    pub(crate) fn decode(id: u64, bytes: &[u8]) -> Option<Work> {
        let (raw, layout) = RawWork::read_from_prefix(bytes).ok()?;
        let flags = raw.flags.get();
        let mut from = Reader::new(layout, "work layout");
        let layout = Layout::decode(&mut from).ok()?;
        from.end().ok()?;
        if raw.format.get() != FORMAT || flags > 7 {
            return None;
        }
        let cut = (ChunkIndex(raw.cut_index.get()), raw.cut_bytes.get());
        Some(Work {
            id,
            ino: Ino(raw.ino.get()),
            layout,
            remove_from: ChunkIndex(raw.remove_from.get()),
            cut: (flags & 1 == 1).then_some(cut),
            shrink: flags & 2 == 2,
            uncounted: flags & 4 == 4,
        })
    }
}

/// How the last change in a slot ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    pub(crate) sequence: u64,
    pub(crate) status: Status,
    /// The work the reply waits for, or 0.
    pub(crate) work: u64,
    /// The inode a `Make` opened, or 0.
    pub(crate) opened: Ino,
    pub(crate) body: Vec<u8>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawSlot {
    pub(crate) format: U16,
    pub(crate) status: U16,
    pub(crate) reserved: [u8; 4],
    pub(crate) sequence: U64,
    pub(crate) work: U64,
    pub(crate) opened: U64,
}
const _: () = assert!(size_of::<RawSlot>() == 32);

impl Outcome {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let raw = RawSlot {
            format: U16::new(FORMAT),
            status: U16::new(self.status.code()),
            reserved: [0; 4],
            sequence: U64::new(self.sequence),
            work: U64::new(self.work),
            opened: U64::new(self.opened.0),
        };
        let mut out = raw.as_bytes().to_vec();
        out.extend_from_slice(&self.body);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Outcome> {
        let (raw, body) = RawSlot::read_from_prefix(bytes).ok()?;
        if raw.format.get() != FORMAT || raw.reserved != [0; 4] {
            return None;
        }
        Some(Outcome {
            sequence: raw.sequence.get(),
            status: Status::from_code(raw.status.get()).ok()?,
            work: raw.work.get(),
            opened: Ino(raw.opened.get()),
            body: body.to_vec(),
        })
    }
}

/// What is fixed at format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) volume: VolumeId,
    /// Key of the hash of names. Secret: who knows it can make names collide.
    pub(crate) hash_seed: [u8; 16],
    /// In each batch of the log. Secret: who knows it can make a body look like a batch.
    pub(crate) log_nonce: u64,
    pub(crate) segment_bytes: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawIdentity {
    pub(crate) magic: [u8; 8],
    pub(crate) format: U16,
    pub(crate) volume: U16,
    pub(crate) segment_bytes: U32,
    pub(crate) cluster: [u8; 16],
    pub(crate) hash_seed: [u8; 16],
    pub(crate) log_nonce: U64,
    pub(crate) reserved: [u8; 8],
}
const _: () = assert!(size_of::<RawIdentity>() == 64);

impl Identity {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let raw = RawIdentity {
            magic: VOLUME_MAGIC,
            format: U16::new(VOLUME_FORMAT),
            volume: U16::new(self.volume.0),
            segment_bytes: U32::new(self.segment_bytes),
            cluster: self.cluster.0,
            hash_seed: self.hash_seed,
            log_nonce: U64::new(self.log_nonce),
            reserved: [0; 8],
        };
        raw.as_bytes().to_vec()
    }

    /// `Err(format)` for a format this build does not know.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Result<Identity, u16>> {
        let raw = RawIdentity::read_from_bytes(bytes).ok()?;
        if raw.magic != VOLUME_MAGIC || raw.reserved != [0; 8] {
            return None;
        }
        if !(FORMAT..=VOLUME_FORMAT).contains(&raw.format.get()) {
            return Some(Err(raw.format.get()));
        }
        Some(Ok(Identity {
            cluster: ClusterId(raw.cluster),
            volume: VolumeId(raw.volume.get()),
            hash_seed: raw.hash_seed,
            log_nonce: raw.log_nonce.get(),
            segment_bytes: raw.segment_bytes.get(),
        }))
    }
}

/// What commands change besides the tables. In the database as of the last checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct State {
    /// Sequence number of the last command applied.
    pub(crate) applied: u64,
    /// Checkpoints so far. The log since this one is in area `generation % 2`, from its start.
    pub(crate) generation: u64,
    /// Counter of the next inode.
    pub(crate) next_counter: u64,
    /// Number of the next work.
    pub(crate) next_work: u64,
    /// Bytes of all keys and values, for the headroom check.
    pub(crate) live_bytes: u64,
    /// The targets new files are put on.
    pub(crate) targets: Vec<TargetId>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RawState {
    pub(crate) format: U16,
    pub(crate) target_count: U16,
    pub(crate) reserved: [u8; 4],
    pub(crate) applied: U64,
    pub(crate) generation: U64,
    pub(crate) next_counter: U64,
    pub(crate) next_work: U64,
    pub(crate) live_bytes: U64,
}
const _: () = assert!(size_of::<RawState>() == 48);

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let count = u16::try_from(self.targets.len()).expect("open checks the number of targets");
        let raw = RawState {
            format: U16::new(FORMAT),
            target_count: U16::new(count),
            reserved: [0; 4],
            applied: U64::new(self.applied),
            generation: U64::new(self.generation),
            next_counter: U64::new(self.next_counter),
            next_work: U64::new(self.next_work),
            live_bytes: U64::new(self.live_bytes),
        };
        let mut out = raw.as_bytes().to_vec();
        self.targets.iter().for_each(|t| out.extend_from_slice(&t.0.to_le_bytes()));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<State> {
        let (raw, rest) = RawState::read_from_prefix(bytes).ok()?;
        let (targets, odd) = rest.as_chunks::<2>();
        if raw.format.get() != FORMAT
            || raw.reserved != [0; 4]
            || !odd.is_empty()
            || targets.len() != usize::from(raw.target_count.get())
        {
            return None;
        }
        Some(State {
            applied: raw.applied.get(),
            generation: raw.generation.get(),
            next_counter: raw.next_counter.get(),
            next_work: raw.next_work.get(),
            live_bytes: raw.live_bytes.get(),
            targets: targets.iter().map(|t| TargetId(u16::from_le_bytes(*t))).collect(),
        })
    }
}
