//! What a client asks of a volume.

use super::attr::{SetAttr, Time};
use super::inline::{DataWrite, MoveStep};
use crate::codec::{Reader, WireError, WireErrorKind, Writer};
use crate::header::Kind;
use crate::ids::Ino;
use crate::layout::LayoutPolicy;
use crate::limits::{
    FIND_INODES_MAX, NAME_BYTES_MAX, REOPEN_COUNT_MAX, SYMLINK_BYTES_MAX, XATTR_NAME_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
};
use crate::units::to_u32;

/// `Caller::slot` of a request that changes nothing.
pub const NO_SLOT: u16 = u16::MAX;
/// `Rename::flags`: fail when the new name exists.
pub const RENAME_NOREPLACE: u32 = 1;
/// `Rename::flags`: exchange the two names.
pub const RENAME_EXCHANGE: u32 = 2;
/// `Rename::flags`: leave a whiteout (character device 0, 0) at the old name.
pub const RENAME_WHITEOUT: u32 = 4;
/// `SetXattr::flags` of an ACL: the setgid bit stays. Only to a server with [`crate::session::FEATURE_ACL_SETGID`].
pub const XATTR_KEEP_SETGID: u32 = 4;
/// `SetXattr::flags` of an ACL: the setgid bit goes. As above; without both it stays where the caller's one known group is
/// the file's, or the caller is root.
pub const XATTR_CLEAR_SETGID: u32 = 8;

/// Who asks, and in which slot: at the front of every metadata request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The program's user id.
    pub uid: u32,
    /// The program's group id.
    pub gid: u32,
    /// Slot of the session that carries this change, or [`NO_SLOT`]. One change at a time is in a slot.
    pub slot: u16,
    /// Number of the change in its slot, from 1, each one more than the last. A repeated number is a replay and
    /// gets the first outcome again.
    pub sequence: u64,
}

/// Room for most requests, taken at once: growing field by field costs more than the fields.
const USUAL_BYTES: usize = 128;

impl Caller {
    fn encode(&self, out: &mut Writer<'_>) {
        out.u32(self.uid).u32(self.gid).u16(self.slot).u64(self.sequence);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Caller, WireError> {
        Ok(Caller { uid: from.u32()?, gid: from.u32()?, slot: from.u16()?, sequence: from.u64()? })
    }
}

/// What `Make` makes and what it does with an existing name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MakeHow {
    /// Type and permission bits, before the umask.
    pub mode: u32,
    /// Permission bits that go, unless the directory has a default ACL.
    pub umask: u32,
    /// Device number of a device file; else 0.
    pub rdev: u32,
    /// Fail with `Exists` when the name is there. Without it an existing regular file is the answer.
    pub exclusive: bool,
    /// Open the file as well (counts as one `Open` of the session). Only for regular files.
    pub open: bool,
    /// Whoever asks understands [`super::Inline`]: a new file's data may be in the inode.
    pub inline: bool,
    /// And whether it begins to write at the targets of a new file without a word, which it tells later
    /// ([`MetaRequest::Wrote`]). Of files that are opened. Only to a server with [`crate::session::FEATURE_FRESH`].
    pub fresh: bool,
}

/// One metadata operation. Names are any bytes but `/` and NUL, 1 to 255 of them, not `.` or `..` (the volume
/// checks).
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(
    missing_docs,
    reason = "the fields are named as in POSIX; units and meaning stand at each variant"
)]
pub enum MetaRequest<'a> {
    /// → `Entry`. `..` is allowed here and gives the parent.
    Lookup { parent: Ino, name: &'a [u8] },
    /// → `Attr`.
    GetAttr { ino: Ino },
    /// → `Attr`.
    SetAttr { ino: Ino, set: SetAttr },
    /// → `Bytes`.
    ReadLink { ino: Ino },
    /// → `Made`. Without a name (empty): a regular file that has none yet and is opened, to be linked or to go with its
    /// last close (O_TMPFILE). `target` is a symbolic link's target, else empty.
    Make { parent: Ino, name: &'a [u8], how: MakeHow, target: &'a [u8] },
    /// → `Done`.
    Unlink { parent: Ino, name: &'a [u8] },
    /// → `Done`.
    Rmdir { parent: Ino, name: &'a [u8] },
    /// → `Done`. `flags`: [`RENAME_NOREPLACE`], [`RENAME_EXCHANGE`], [`RENAME_WHITEOUT`].
    Rename { parent: Ino, name: &'a [u8], new_parent: Ino, new_name: &'a [u8], flags: u32 },
    /// → `Entry`.
    Link { ino: Ino, parent: Ino, name: &'a [u8] },
    /// → `Opened`. `inline`: as [`MakeHow::inline`]; without it a file whose data is in the inode is not opened.
    Open { ino: Ino, inline: bool },
    /// Gives `count` opens of the session back; `atime`: when it was read meanwhile. That is kept soon, not before the
    /// reply. → `Done`.
    Release { ino: Ino, count: u32, atime: Option<Time> },
    /// Entries after `cookie` (0: from the start), at most about `bytes_max` bytes of them, with attributes when
    /// `plus`. `.` and `..` are not among them. → `Dir`.
    ReadDir { ino: Ino, cookie: u64, bytes_max: u32, plus: bool },
    /// → `Bytes`.
    GetXattr { ino: Ino, name: &'a [u8] },
    /// `flags` as in setxattr(2): 1 create only, 2 replace only; [`XATTR_KEEP_SETGID`], [`XATTR_CLEAR_SETGID`].
    /// → `Done`.
    SetXattr { ino: Ino, name: &'a [u8], value: &'a [u8], flags: u32 },
    /// → `Bytes`: each name followed by a NUL.
    ListXattr { ino: Ino },
    /// → `Done`.
    RemoveXattr { ino: Ino, name: &'a [u8] },
    /// → `StatFs`.
    StatFs,
    /// Data up to `size_min` was written at `mtime`: the file is made at least that long; mtime is set to `mtime`
    /// when later than the one there, ctime likewise. The file has `blocks_added` more blocks (or fewer) by what the
    /// targets said. `at_targets`: of a file made [`MakeHow::fresh`], the data is there from now on. → `Attr`.
    Wrote { ino: Ino, size_min: u64, mtime: Time, blocks_added: i64, at_targets: bool },
    /// → `Data`.
    GetData { ino: Ino },
    /// → `Attr`. Only where [`super::Inline`] says so, and under the lease to write.
    WriteData(DataWrite<'a>),
    /// → `Data`. Under the lease to write; between `Begin` and `End` whoever asks writes the data to the target.
    MoveData { ino: Ino, step: MoveStep },
    /// → `Layout` (a file) or `Policy` (a directory).
    GetLayout { ino: Ino },
    /// → `Done`.
    SetLayout { ino: Ino, policy: LayoutPolicy },
    /// After a reconnect: the session still has these open, so often. → `Reopened`: those that are gone.
    Reopen { opens: Vec<(Ino, u32)> },
    /// Names that lead to one of `inos`, among a bounded stretch of the volume's names from this directory's
    /// `cookie` on (directory 0 and cookie 0: from the first). → `Names`.
    FindNames { inos: Vec<Ino>, directory: Ino, cookie: u64 },
}

fn name<'a>(from: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    // One byte over the limit passes so that the volume, not the decoder, answers ENAMETOOLONG.
    from.bytes(NAME_BYTES_MAX * 4)
}

/// Ends a request with a flag: only a server that said it understands the byte is sent it.
pub(super) fn push_last_flag(out: &mut Writer<'_>, flag: bool) {
    out.raw(if flag { &[1] } else { &[] });
}

/// Takes it: without it, false.
pub(super) fn last_flag(from: &mut Reader<'_>) -> Result<bool, WireError> {
    Ok(from.clone().end().is_err() && from.bool()?)
}

impl<'a> MetaRequest<'a> {
    /// The frame kind that carries this request.
    pub fn kind(&self) -> Kind {
        match self {
            MetaRequest::Lookup { .. } => Kind::Lookup,
            MetaRequest::GetAttr { .. } => Kind::GetAttr,
            MetaRequest::SetAttr { .. } => Kind::SetAttr,
            MetaRequest::ReadLink { .. } => Kind::ReadLink,
            MetaRequest::Make { .. } => Kind::Make,
            MetaRequest::Unlink { .. } => Kind::Unlink,
            MetaRequest::Rmdir { .. } => Kind::Rmdir,
            MetaRequest::Rename { .. } => Kind::Rename,
            MetaRequest::Link { .. } => Kind::Link,
            MetaRequest::Open { .. } => Kind::Open,
            MetaRequest::Release { .. } => Kind::Release,
            MetaRequest::ReadDir { .. } => Kind::ReadDir,
            MetaRequest::GetXattr { .. } => Kind::GetXattr,
            MetaRequest::SetXattr { .. } => Kind::SetXattr,
            MetaRequest::ListXattr { .. } => Kind::ListXattr,
            MetaRequest::RemoveXattr { .. } => Kind::RemoveXattr,
            MetaRequest::StatFs => Kind::StatFs,
            MetaRequest::Wrote { .. } => Kind::Wrote,
            MetaRequest::GetData { .. } => Kind::GetData,
            MetaRequest::WriteData(_) => Kind::WriteData,
            MetaRequest::MoveData { .. } => Kind::MoveData,
            MetaRequest::GetLayout { .. } => Kind::GetLayout,
            MetaRequest::SetLayout { .. } => Kind::SetLayout,
            MetaRequest::Reopen { .. } => Kind::Reopen,
            MetaRequest::FindNames { .. } => Kind::FindNames,
        }
    }

    /// Whether the request changes durable state: it takes a slot, is logged, and its outcome is kept.
    pub fn is_mutation(&self) -> bool {
        matches!(
            self,
            MetaRequest::SetAttr { .. }
                | MetaRequest::Make { .. }
                | MetaRequest::Unlink { .. }
                | MetaRequest::Rmdir { .. }
                | MetaRequest::Rename { .. }
                | MetaRequest::Link { .. }
                | MetaRequest::SetXattr { .. }
                | MetaRequest::RemoveXattr { .. }
                | MetaRequest::Wrote { .. }
                | MetaRequest::WriteData(_)
                | MetaRequest::MoveData { .. }
                | MetaRequest::SetLayout { .. }
        )
    }

    /// Appends the body: the caller, then the request's own fields.
    pub fn encode(&self, caller: &Caller, body: &mut Vec<u8>) {
        body.reserve(USUAL_BYTES);
        let out = &mut Writer::new(body);
        caller.encode(out);
        match self {
            MetaRequest::Lookup { parent, name }
            | MetaRequest::Unlink { parent, name }
            | MetaRequest::Rmdir { parent, name } => {
                out.u64(parent.0).bytes(name);
            }
            MetaRequest::GetAttr { ino }
            | MetaRequest::ReadLink { ino }
            | MetaRequest::ListXattr { ino }
            | MetaRequest::GetData { ino }
            | MetaRequest::GetLayout { ino } => {
                out.u64(ino.0);
            }
            MetaRequest::Open { ino, inline } => push_last_flag(out.u64(ino.0), *inline),
            MetaRequest::SetAttr { ino, set } => set.encode(out.u64(ino.0)),
            MetaRequest::Make { parent, name, how, target } => {
                out.u64(parent.0)
                    .u32(how.mode)
                    .u32(how.umask)
                    .u32(how.rdev)
                    .bool(how.exclusive)
                    .u8(u8::from(how.open) | u8::from(how.inline) << 1 | u8::from(how.fresh) << 2);
                out.bytes(name).bytes(target);
            }
            MetaRequest::Rename { parent, name, new_parent, new_name, flags } => {
                out.u64(parent.0).u64(new_parent.0).u32(*flags).bytes(name).bytes(new_name);
            }
            MetaRequest::Link { ino, parent, name } => {
                out.u64(ino.0).u64(parent.0).bytes(name);
            }
            MetaRequest::Release { ino, count, atime } => {
                out.u64(ino.0).u32(*count).bool(atime.is_some());
                if let Some(atime) = atime {
                    atime.encode(out);
                }
            }
            MetaRequest::ReadDir { ino, cookie, bytes_max, plus } => {
                out.u64(ino.0).u64(*cookie).u32(*bytes_max).bool(*plus);
            }
            MetaRequest::GetXattr { ino, name } | MetaRequest::RemoveXattr { ino, name } => {
                out.u64(ino.0).bytes(name);
            }
            MetaRequest::SetXattr { ino, name, value, flags } => {
                out.u64(ino.0).u32(*flags).bytes(name).bytes(value);
            }
            MetaRequest::StatFs => {}
            MetaRequest::Wrote { ino, size_min, mtime, blocks_added, at_targets } => {
                mtime.encode(out.u64(ino.0).u64(*size_min).i64(*blocks_added));
                push_last_flag(out, *at_targets);
            }
            MetaRequest::WriteData(write) => write.encode(out),
            MetaRequest::MoveData { ino, step } => step.encode(out.u64(ino.0)),
            MetaRequest::SetLayout { ino, policy } => policy.encode(out.u64(ino.0)),
            MetaRequest::Reopen { opens } => {
                out.u32(to_u32(opens.len()));
                for (ino, count) in opens {
                    out.u64(ino.0).u32(*count);
                }
            }
            MetaRequest::FindNames { inos, directory, cookie } => {
                out.u64(directory.0).u64(*cookie).u32(to_u32(inos.len()));
                for ino in inos {
                    out.u64(ino.0);
                }
            }
        }
    }

    /// Reads the body of a frame of `kind`.
    ///
    /// # Errors
    /// Any [`WireErrorKind`]; `Value` when `kind` is not a metadata request.
    pub fn decode(kind: Kind, body: &'a [u8]) -> Result<(Caller, MetaRequest<'a>), WireError> {
        let mut from = Reader::new(body, "metadata request");
        let caller = Caller::decode(&mut from)?;
        let request = Self::decode_fields(kind, &mut from)?;
        from.end()?;
        if request.is_mutation() == (caller.slot == NO_SLOT) {
            return Err(WireError::new(WireErrorKind::Value, "slot of a metadata request"));
        }
        Ok((caller, request))
    }

    fn decode_fields(kind: Kind, from: &mut Reader<'a>) -> Result<MetaRequest<'a>, WireError> {
        if kind == Kind::StatFs {
            return Ok(MetaRequest::StatFs);
        }
        if kind == Kind::Reopen {
            return Self::decode_reopen(from);
        }
        let ino = Ino(match kind.is_metadata() {
            true => from.u64()?,
            false => return Err(WireError::new(WireErrorKind::Value, "kind")),
        });
        Ok(match kind {
            Kind::Lookup => MetaRequest::Lookup { parent: ino, name: name(from)? },
            Kind::GetAttr => MetaRequest::GetAttr { ino },
            Kind::SetAttr => MetaRequest::SetAttr { ino, set: SetAttr::decode(from)? },
            Kind::ReadLink => MetaRequest::ReadLink { ino },
            Kind::Make => Self::decode_make(ino, from)?,
            Kind::Unlink => MetaRequest::Unlink { parent: ino, name: name(from)? },
            Kind::Rmdir => MetaRequest::Rmdir { parent: ino, name: name(from)? },
            Kind::Rename => Self::decode_rename(ino, from)?,
            Kind::Link => MetaRequest::Link { ino, parent: Ino(from.u64()?), name: name(from)? },
            Kind::Open => MetaRequest::Open { ino, inline: last_flag(from)? },
            Kind::Release => {
                let count = from.u32()?;
                let atime = from.bool()?.then(|| Time::decode(from)).transpose()?;
                MetaRequest::Release { ino, count, atime }
            }
            Kind::ReadDir => MetaRequest::ReadDir {
                ino,
                cookie: from.u64()?,
                bytes_max: from.u32()?,
                plus: from.bool()?,
            },
            Kind::GetXattr => {
                MetaRequest::GetXattr { ino, name: from.bytes(XATTR_NAME_BYTES_MAX * 2)? }
            }
            Kind::SetXattr => {
                let flags = from.u32()?;
                let name = from.bytes(XATTR_NAME_BYTES_MAX * 2)?;
                let value = from.bytes(XATTR_VALUE_BYTES_MAX + 1)?;
                MetaRequest::SetXattr { ino, name, value, flags }
            }
            Kind::ListXattr => MetaRequest::ListXattr { ino },
            Kind::RemoveXattr => {
                MetaRequest::RemoveXattr { ino, name: from.bytes(XATTR_NAME_BYTES_MAX * 2)? }
            }
            Kind::Wrote => {
                let (size_min, blocks_added) = (from.u64()?, from.i64()?);
                let mtime = Time::decode(from)?;
                let at_targets = last_flag(from)?;
                MetaRequest::Wrote { ino, size_min, mtime, blocks_added, at_targets }
            }
            Kind::GetData => MetaRequest::GetData { ino },
            Kind::WriteData => MetaRequest::WriteData(DataWrite::decode(ino, from)?),
            Kind::MoveData => MetaRequest::MoveData { ino, step: MoveStep::decode(from)? },
            Kind::GetLayout => MetaRequest::GetLayout { ino },
            Kind::SetLayout => MetaRequest::SetLayout { ino, policy: LayoutPolicy::decode(from)? },
            Kind::FindNames => {
                let cookie = from.u64()?;
                let count = from.count(FIND_INODES_MAX)?;
                let inos = (0..count).map(|_| from.u64().map(Ino)).collect::<Result<_, _>>()?;
                MetaRequest::FindNames { inos, directory: ino, cookie }
            }
            _ => return Err(WireError::new(WireErrorKind::Value, "kind")),
        })
    }

    fn decode_make(parent: Ino, from: &mut Reader<'a>) -> Result<MetaRequest<'a>, WireError> {
        let (mode, umask, rdev) = (from.u32()?, from.u32()?, from.u32()?);
        let (exclusive, flags) = (from.bool()?, from.u8()?);
        if flags > 7 {
            return Err(from.error(WireErrorKind::Value));
        }
        let (open, inline, fresh) = (flags & 1 == 1, flags & 2 == 2, flags & 4 == 4);
        let how = MakeHow { mode, umask, rdev, exclusive, open, inline, fresh };
        let name = name(from)?;
        let target = from.bytes(SYMLINK_BYTES_MAX + 1)?;
        Ok(MetaRequest::Make { parent, name, how, target })
    }

    fn decode_rename(parent: Ino, from: &mut Reader<'a>) -> Result<MetaRequest<'a>, WireError> {
        let new_parent = Ino(from.u64()?);
        let flags = from.u32()?;
        let name_then = name(from)?;
        let new_name = name(from)?;
        Ok(MetaRequest::Rename { parent, name: name_then, new_parent, new_name, flags })
    }

    fn decode_reopen(from: &mut Reader<'a>) -> Result<MetaRequest<'a>, WireError> {
        let count = from.count(REOPEN_COUNT_MAX)?;
        let opens = (0..count)
            .map(|_| Ok((Ino(from.u64()?), from.u32()?)))
            .collect::<Result<Vec<_>, WireError>>()?;
        Ok(MetaRequest::Reopen { opens })
    }
}
