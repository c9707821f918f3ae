//! What a volume answers. The request's kind says which reply to expect; an error is the header's status with an
//! empty body.

use super::attr::{Attr, FileKind};
use super::inline::Inline;
use crate::codec::{Reader, WireError, WireErrorKind, Writer};
use crate::header::Kind;
use crate::ids::Ino;
use crate::layout::{Layout, LayoutPolicy};
use crate::limits::{BODY_BYTES_MAX, FIND_NAMES_MAX, NAME_BYTES_MAX, REOPEN_COUNT_MAX};
use crate::units::{to_u32, to_usize};

/// Room for most replies, with the directories behind them, taken at once: growing field by field costs more than the
/// fields.
const USUAL_BYTES: usize = 256;

/// Space and inodes of the whole file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatFs {
    /// Bytes of all targets' data areas.
    pub total_bytes: u64,
    /// Bytes not given out.
    pub free_bytes: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Inodes that still fit the volume's database, an estimate.
    pub inodes_free: u64,
}

/// One name of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry<'a> {
    /// The inode.
    pub ino: Ino,
    /// Where to go on after this entry; stable while the directory changes; never 0; below 2^63.
    pub cookie: u64,
    /// Its type.
    pub kind: FileKind,
    /// The name.
    pub name: &'a [u8],
    /// Its attributes, when asked for.
    pub attr: Option<Attr>,
}

/// One name that [`super::MetaRequest::FindNames`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundName {
    /// The inode it leads to.
    pub ino: Ino,
    /// The directory it is in.
    pub directory: Ino,
    /// The name.
    pub name: Vec<u8>,
}

/// Appends one entry to the packed list of a `Dir` reply.
pub fn push_dir_entry(list: &mut Vec<u8>, entry: &DirEntry<'_>) {
    let out = &mut Writer::new(list);
    out.u64(entry.ino.0).u64(entry.cookie).u32(entry.kind.mode_bits()).bytes(entry.name);
    out.bool(entry.attr.is_some());
    if let Some(attr) = &entry.attr {
        attr.encode(out);
    }
}

/// The answer to a [`super::MetaRequest`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetaReply {
    /// To `Lookup`, `Link`.
    Entry(Attr),
    /// To `GetAttr`, `SetAttr`, `Wrote`, `WriteData`.
    Attr(Attr),
    /// To `Make`: whether it was made now, and where the data of a regular file is.
    Made(Attr, bool, Option<DataPlace>),
    /// To `Open`: attributes now, and where the data of a regular file is.
    Opened(Attr, Option<DataPlace>),
    /// To `GetData`, `MoveData`: with the data, if that is in the inode.
    Data(Attr, Option<Inline>),
    /// To `ReadLink`, `GetXattr`, `ListXattr`.
    Bytes(Vec<u8>),
    /// To `ReadDir`: packed entries (see [`MetaReply::dir_entries`]) and whether they are the last.
    Dir(Vec<u8>, bool),
    /// To `StatFs`.
    StatFs(StatFs),
    /// To `GetLayout` of a file.
    Layout(Layout),
    /// To `GetLayout` of a directory.
    Policy(LayoutPolicy),
    /// To `Reopen`: the inodes that are gone.
    Reopened(Vec<Ino>),
    /// To `FindNames`: what was found, and from which directory's cookie on to go on; `None` at the end.
    Names(Vec<FoundName>, Option<(Ino, u64)>),
    /// To what only succeeds or fails.
    Done,
}

/// Where the data of a regular file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataPlace {
    /// At its targets, by this layout.
    pub layout: Layout,
    /// Unless it is in the inode still.
    pub inline: Option<Inline>,
}

impl DataPlace {
    /// At its targets.
    pub fn striped(layout: Layout) -> DataPlace {
        DataPlace { layout, inline: None }
    }
}

fn decode_place(from: &mut Reader<'_>) -> Result<Option<DataPlace>, WireError> {
    let known = from.u8()?;
    if known > 2 {
        return Err(from.error(WireErrorKind::Value));
    }
    let layout = (known > 0).then(|| Layout::decode(from)).transpose()?;
    let inline = (known > 1).then(|| Inline::decode(from)).transpose()?;
    Ok(layout.map(|layout| DataPlace { layout, inline }))
}

/// A client that does not know of data in inodes gets none of it: then the first byte is as in the first version.
fn push_place(out: &mut Writer<'_>, place: Option<&DataPlace>) {
    let Some(place) = place else {
        out.u8(0);
        return;
    };
    place.layout.encode(out.u8(1 + u8::from(place.inline.is_some())));
    if let Some(inline) = &place.inline {
        inline.encode(out);
    }
}

impl MetaReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        body.reserve(USUAL_BYTES);
        let out = &mut Writer::new(body);
        match self {
            MetaReply::Entry(attr) | MetaReply::Attr(attr) => attr.encode(out),
            MetaReply::Made(attr, made, place) => {
                attr.encode(out);
                push_place(out.bool(*made), place.as_ref());
            }
            MetaReply::Opened(attr, place) => {
                attr.encode(out);
                push_place(out, place.as_ref());
            }
            MetaReply::Data(attr, inline) => {
                attr.encode(out);
                Inline::encode_optional(inline.as_ref(), out);
            }
            MetaReply::Bytes(bytes) => {
                out.bytes(bytes);
            }
            MetaReply::Dir(entries, last) => {
                out.bool(*last).bytes(entries);
            }
            MetaReply::StatFs(fs) => {
                out.u64(fs.total_bytes).u64(fs.free_bytes).u64(fs.inodes).u64(fs.inodes_free);
            }
            MetaReply::Layout(layout) => layout.encode(out.u8(1)),
            MetaReply::Policy(policy) => policy.encode(out.u8(2)),
            MetaReply::Reopened(gone) => {
                out.u32(to_u32(gone.len()));
                for ino in gone {
                    out.u64(ino.0);
                }
            }
            MetaReply::Names(names, next) => {
                let (directory, cookie) = next.unwrap_or((Ino(0), 0));
                out.bool(next.is_some()).u64(directory.0).u64(cookie).u32(to_u32(names.len()));
                for found in names {
                    out.u64(found.ino.0).u64(found.directory.0).bytes(&found.name);
                }
            }
            MetaReply::Done => {}
        }
    }

    /// Reads the body of the reply to a request of `kind` that ended with status `Ok`.
    ///
    /// # Errors
    /// Any [`WireErrorKind`].
    pub fn decode(kind: Kind, body: &[u8]) -> Result<MetaReply, WireError> {
        let from = &mut Reader::new(body, "metadata reply");
        let reply = match kind {
            Kind::Lookup | Kind::Link => MetaReply::Entry(Attr::decode(from)?),
            Kind::GetAttr | Kind::SetAttr | Kind::Wrote | Kind::WriteData => {
                MetaReply::Attr(Attr::decode(from)?)
            }
            Kind::Make => MetaReply::Made(Attr::decode(from)?, from.bool()?, decode_place(from)?),
            Kind::Open => MetaReply::Opened(Attr::decode(from)?, decode_place(from)?),
            Kind::GetData | Kind::MoveData => {
                MetaReply::Data(Attr::decode(from)?, Inline::decode_optional(from)?)
            }
            Kind::ReadLink | Kind::GetXattr | Kind::ListXattr => {
                MetaReply::Bytes(from.bytes(to_usize(u64::from(BODY_BYTES_MAX)))?.to_vec())
            }
            Kind::ReadDir => {
                let last = from.bool()?;
                let entries = from.bytes(to_usize(u64::from(BODY_BYTES_MAX)))?;
                MetaReply::Dir(entries.to_vec(), last)
            }
            Kind::StatFs => MetaReply::StatFs(StatFs {
                total_bytes: from.u64()?,
                free_bytes: from.u64()?,
                inodes: from.u64()?,
                inodes_free: from.u64()?,
            }),
            Kind::GetLayout => match from.u8()? {
                1 => MetaReply::Layout(Layout::decode(from)?),
                2 => MetaReply::Policy(LayoutPolicy::decode(from)?),
                _ => return Err(from.error(WireErrorKind::Value)),
            },
            Kind::Reopen => {
                let count = from.count(REOPEN_COUNT_MAX)?;
                MetaReply::Reopened(
                    (0..count).map(|_| from.u64().map(Ino)).collect::<Result<_, _>>()?,
                )
            }
            Kind::FindNames => decode_names(from)?,
            _ => MetaReply::Done,
        };
        from.clone().end()?;
        Ok(reply)
    }

    /// Walks the packed entries of a `Dir` reply.
    pub fn dir_entries(packed: &[u8]) -> impl Iterator<Item = Result<DirEntry<'_>, WireError>> {
        let mut from = Reader::new(packed, "directory entries");
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed || from.clone().end().is_ok() {
                return None;
            }
            let entry = decode_entry(&mut from);
            failed = entry.is_err();
            Some(entry)
        })
    }
}

fn decode_names(from: &mut Reader<'_>) -> Result<MetaReply, WireError> {
    let (more, next) = (from.bool()?, (Ino(from.u64()?), from.u64()?));
    let count = from.count(FIND_NAMES_MAX)?;
    let mut names = Vec::new();
    for _ in 0..count {
        let (ino, directory) = (Ino(from.u64()?), Ino(from.u64()?));
        names.push(FoundName { ino, directory, name: from.bytes(NAME_BYTES_MAX)?.to_vec() });
    }
    Ok(MetaReply::Names(names, more.then_some(next)))
}

fn decode_entry<'a>(from: &mut Reader<'a>) -> Result<DirEntry<'a>, WireError> {
    let (ino, cookie, mode) = (Ino(from.u64()?), from.u64()?, from.u32()?);
    let kind = FileKind::from_mode(mode).ok_or(from.error(WireErrorKind::Value))?;
    let name = from.bytes(NAME_BYTES_MAX)?;
    let attr = from.bool()?.then(|| Attr::decode(from)).transpose()?;
    Ok(DirEntry { ino, cookie, kind, name, attr })
}
