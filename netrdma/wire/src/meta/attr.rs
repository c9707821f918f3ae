//! Attributes of an inode.

use crate::codec::{Reader, WireError, WireErrorKind, Writer};
use crate::ids::Ino;

/// A point in time: seconds since 1970 UTC (negative before) and nanoseconds, always below 1,000,000,000.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time {
    /// Whole seconds.
    pub seconds: i64,
    /// The rest, in nanoseconds.
    pub nanos: u32,
}

impl Time {
    pub(crate) fn encode(self, out: &mut Writer<'_>) {
        out.i64(self.seconds).u32(self.nanos);
    }

    pub(crate) fn decode(from: &mut Reader<'_>) -> Result<Time, WireError> {
        let time = Time { seconds: from.i64()?, nanos: from.u32()? };
        if time.nanos < 1_000_000_000 { Ok(time) } else { Err(from.error(WireErrorKind::Value)) }
    }

    /// A nanosecond later.
    #[must_use]
    pub fn next(self) -> Time {
        match self.nanos {
            999_999_999.. => Time { seconds: self.seconds.saturating_add(1), nanos: 0 },
            nanos => Time { nanos: nanos + 1, ..self },
        }
    }
}

/// The type of a file, as in the top bits of `st_mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice,
    /// A directory.
    Directory,
    /// A block device.
    BlockDevice,
    /// A regular file.
    Regular,
    /// A symbolic link.
    Symlink,
    /// A socket.
    Socket,
}

/// Mask of the type bits in a mode.
const TYPE_MASK: u32 = 0o170_000;

impl FileKind {
    /// The kind in the type bits of `mode`; `None` when they name none.
    pub const fn from_mode(mode: u32) -> Option<FileKind> {
        Some(match mode & TYPE_MASK {
            0o010_000 => FileKind::Fifo,
            0o020_000 => FileKind::CharDevice,
            0o040_000 => FileKind::Directory,
            0o060_000 => FileKind::BlockDevice,
            0o100_000 => FileKind::Regular,
            0o120_000 => FileKind::Symlink,
            0o140_000 => FileKind::Socket,
            _ => return None,
        })
    }

    /// The type bits of `st_mode`.
    pub const fn mode_bits(self) -> u32 {
        match self {
            FileKind::Fifo => 0o010_000,
            FileKind::CharDevice => 0o020_000,
            FileKind::Directory => 0o040_000,
            FileKind::BlockDevice => 0o060_000,
            FileKind::Regular => 0o100_000,
            FileKind::Symlink => 0o120_000,
            FileKind::Socket => 0o140_000,
        }
    }
}

/// What `stat` shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// The inode.
    pub ino: Ino,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Names of the inode (a directory: 2 and one for each directory in it).
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file, in the kernel's encoding; else 0.
    pub rdev: u32,
    /// Length in bytes (a symbolic link: of its target; a directory: number of entries).
    pub size: u64,
    /// Blocks of 4 KiB that its data takes on the targets, as far as the volume was told.
    pub blocks: u64,
    /// Grows by one with each change of the inode or its data that the volume hears of.
    pub version: u64,
    /// Last read, as with `relatime`.
    pub atime: Time,
    /// Last change of the data.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// When it was made.
    pub btime: Time,
}

impl Attr {
    /// Length when encoded.
    pub const BYTES: usize = 100;

    /// The type; the volume never stores a mode without one.
    ///
    /// # Panics
    /// If the mode has no type: a bug, decoding refuses it.
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode).expect("every stored and decoded mode has a type")
    }

    /// Appends the attributes.
    pub fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.ino.0).u32(self.mode).u32(self.nlink).u32(self.uid).u32(self.gid);
        out.u32(self.rdev).u64(self.size).u64(self.blocks).u64(self.version);
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            time.encode(out);
        }
    }

    /// Reads attributes.
    ///
    /// # Errors
    /// `Short`; `Value` for a mode without a type or a time out of range.
    pub fn decode(from: &mut Reader<'_>) -> Result<Attr, WireError> {
        let attr = Attr {
            ino: Ino(from.u64()?),
            mode: from.u32()?,
            nlink: from.u32()?,
            uid: from.u32()?,
            gid: from.u32()?,
            rdev: from.u32()?,
            size: from.u64()?,
            blocks: from.u64()?,
            version: from.u64()?,
            atime: Time::decode(from)?,
            mtime: Time::decode(from)?,
            ctime: Time::decode(from)?,
            btime: Time::decode(from)?,
        };
        if FileKind::from_mode(attr.mode).is_none() {
            return Err(from.error(WireErrorKind::Value));
        }
        Ok(attr)
    }
}

/// What a time is set to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeSet {
    /// The volume's clock when it takes the command.
    Now,
    /// This.
    To(Time),
}

/// Which attributes change, and to what. `None` leaves one as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// Permission bits (07777); the type cannot change.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes; data beyond it is gone before the reply.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<TimeSet>,
    /// Last change of the data.
    pub mtime: Option<TimeSet>,
    /// When this happens, by the clock of a client that has told its programs; no earlier than the last change. `None` is the
    /// volume's time. Only to a server with [`crate::session::FEATURE_CTIME`].
    pub ctime: Option<Time>,
}

impl SetAttr {
    /// Appends the change: a bit mask of what is there, then the values.
    pub fn encode(&self, out: &mut Writer<'_>) {
        let present = [
            self.mode.is_some(),
            self.uid.is_some(),
            self.gid.is_some(),
            self.size.is_some(),
            self.atime.is_some(),
            self.mtime.is_some(),
            self.ctime.is_some(),
        ];
        let mask = present.iter().enumerate().fold(0u8, |m, (bit, on)| m | u8::from(*on) << bit);
        out.u8(mask);
        for value in [self.mode, self.uid, self.gid].into_iter().flatten() {
            out.u32(value);
        }
        if let Some(size) = self.size {
            out.u64(size);
        }
        for time in [self.atime, self.mtime].into_iter().flatten() {
            match time {
                TimeSet::Now => {
                    out.u8(0);
                }
                TimeSet::To(time) => time.encode(out.u8(1)),
            }
        }
        if let Some(time) = self.ctime {
            time.encode(out);
        }
    }

    /// Reads a change.
    ///
    /// # Errors
    /// `Short`; `Value` for unknown mask bits or a time out of range.
    pub fn decode(from: &mut Reader<'_>) -> Result<SetAttr, WireError> {
        let mask = from.u8()?;
        if mask >> 7 != 0 {
            return Err(from.error(WireErrorKind::Value));
        }
        let has = |bit: u8| mask >> bit & 1 == 1;
        let time = |from: &mut Reader<'_>| match from.u8()? {
            0 => Ok(TimeSet::Now),
            1 => Time::decode(from).map(TimeSet::To),
            _ => Err(from.error(WireErrorKind::Value)),
        };
        Ok(SetAttr {
            mode: has(0).then(|| from.u32()).transpose()?,
            uid: has(1).then(|| from.u32()).transpose()?,
            gid: has(2).then(|| from.u32()).transpose()?,
            size: has(3).then(|| from.u64()).transpose()?,
            atime: has(4).then(|| time(from)).transpose()?,
            mtime: has(5).then(|| time(from)).transpose()?,
            ctime: has(6).then(|| Time::decode(from)).transpose()?,
        })
    }
}
