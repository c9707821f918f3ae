//! What a volume answers. The request's kind says which reply to expect; an error is the header's status with an
//! empty body.

use super::attr::{Attr, FileKind};
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
    /// To `GetAttr`, `SetAttr`, `Wrote`.
    Attr(Attr),
    /// To `Make`: whether it was made now, and the layout of a regular file.
    Made(Attr, bool, Option<Layout>),
    /// To `Open`: attributes now, and the layout of a regular file.
    Opened(Attr, Option<Layout>),
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

fn optional_layout(from: &mut Reader<'_>) -> Result<Option<Layout>, WireError> {
    from.bool()?.then(|| Layout::decode(from)).transpose()
}

fn push_optional_layout(out: &mut Writer<'_>, layout: Option<&Layout>) {
    out.bool(layout.is_some());
    if let Some(layout) = layout {
        layout.encode(out);
    }
}

impl MetaReply {
    /// Appends the body.
    pub fn encode(&self, body: &mut Vec<u8>) {
        body.reserve(USUAL_BYTES);
        let out = &mut Writer::new(body);
        match self {
            MetaReply::Entry(attr) | MetaReply::Attr(attr) => attr.encode(out),
            MetaReply::Made(attr, made, layout) => {
                attr.encode(out);
                push_optional_layout(out.bool(*made), layout.as_ref());
            }
            MetaReply::Opened(attr, layout) => {
                attr.encode(out);
                push_optional_layout(out, layout.as_ref());
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
            Kind::GetAttr | Kind::SetAttr | Kind::Wrote => MetaReply::Attr(Attr::decode(from)?),
            Kind::Make => {
                MetaReply::Made(Attr::decode(from)?, from.bool()?, optional_layout(from)?)
            }
            Kind::Open => MetaReply::Opened(Attr::decode(from)?, optional_layout(from)?),
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
