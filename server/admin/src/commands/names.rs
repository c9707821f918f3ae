//! From inodes to paths. Files know nothing of their names, so all names of the volume are looked through, a bounded
//! stretch with each request; directories know their parents.

use std::collections::{BTreeMap, BTreeSet};

use weft_wire::limits::FIND_INODES_MAX;
use weft_wire::meta::{FoundName, MetaReply, MetaRequest};
use weft_wire::{Ino, Layout};

use super::shards::Shards;
use crate::client::ClientErrorKind;
use crate::error::AdminError;
use crate::output::tame;

/// Directories above one another: more is a loop in damaged metadata.
const DEPTH_MAX: usize = 4096;

/// What is known of an inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// It has these paths, one or more.
    Named(Vec<String>),
    /// Removed, and still open somewhere.
    Open,
    /// There is no such file any more: its chunks are about to be removed.
    Gone,
    /// The metadata cannot say; why.
    Unknown(String),
}

/// An inode's names, and how it is striped when it is a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Named {
    pub(super) known: Known,
    pub(super) layout: Option<Layout>,
}

impl Named {
    /// In words, to begin a line with.
    pub(super) fn text(&self, ino: Ino) -> String {
        match &self.known {
            Known::Named(paths) => {
                paths.iter().map(|path| tame(path)).collect::<Vec<_>>().join(" = ")
            }
            Known::Open => format!("inode {ino} (deleted, still open)"),
            Known::Gone => format!("inode {ino} (no file any more)"),
            Known::Unknown(why) => format!("inode {ino} (its name cannot be found: {why})"),
        }
    }
}

/// Finds the names of `inos`.
///
/// # Errors
/// The server cannot be asked at all.
pub(super) fn find(
    shards: &mut Shards,
    inos: &BTreeSet<Ino>,
) -> Result<BTreeMap<Ino, Named>, AdminError> {
    let mut all = BTreeMap::new();
    let mut links: BTreeMap<Ino, u64> = BTreeMap::new();
    for ino in inos {
        let named = match ask(shards, *ino, &MetaRequest::GetAttr { ino: *ino }) {
            Ok(MetaReply::Attr(attr)) if attr.nlink == 0 => Known::Open,
            Ok(MetaReply::Attr(attr)) => {
                links.insert(*ino, u64::from(attr.nlink));
                Known::Named(Vec::new())
            }
            Ok(_) => return Err(shards.misfit("attributes")),
            Err(Refused::Gone) => Known::Gone,
            Err(Refused::Other(why)) => Known::Unknown(why),
            Err(Refused::Failed(error)) => return Err(error),
        };
        let layout = match ask(shards, *ino, &MetaRequest::GetLayout { ino: *ino }) {
            Ok(MetaReply::Layout(layout)) => Some(layout),
            _ => None,
        };
        all.insert(*ino, Named { known: named, layout });
    }
    let wanted: Vec<Ino> = links.keys().copied().collect();
    let mut folders = BTreeMap::from([(Ino::ROOT, Some(String::new()))]);
    for some in wanted.chunks(FIND_INODES_MAX) {
        let mut missing: BTreeMap<Ino, u64> = some.iter().map(|ino| (*ino, links[ino])).collect();
        for found in names_of(shards, some, &mut missing)? {
            let folder = folder(shards, found.directory, &mut folders)?;
            let name = String::from_utf8_lossy(&found.name).into_owned();
            if let Some(Named { known: Known::Named(paths), .. }) = all.get_mut(&found.ino) {
                let folder = folder.unwrap_or_else(|| format!("(folder {})", found.directory));
                paths.push(format!("{folder}/{name}"));
            }
        }
    }
    for named in all.values_mut() {
        if named.known == Known::Named(Vec::new()) {
            named.known = Known::Unknown("no name leads to it".to_owned());
        }
    }
    Ok(all)
}

/// Looks through the names until every inode has all of its own.
fn names_of(
    shards: &mut Shards,
    inos: &[Ino],
    missing: &mut BTreeMap<Ino, u64>,
) -> Result<Vec<FoundName>, AdminError> {
    let mut all = Vec::new();
    let mut volumes: BTreeMap<_, Vec<Ino>> = BTreeMap::new();
    for ino in inos {
        volumes.entry(ino.volume()).or_default().push(*ino);
    }
    for inos in volumes.into_values() {
        let mut from = Some((Ino(0), 0));
        while let Some((directory, cookie)) = from
            && inos.iter().any(|ino| missing.contains_key(ino))
        {
            let request = MetaRequest::FindNames { inos: inos.clone(), directory, cookie };
            let MetaReply::Names(names, next) = shards.meta(inos[0], &request)? else {
                return Err(shards.misfit("names"));
            };
            for found in names {
                if let Some(count) = missing.get_mut(&found.ino) {
                    *count -= 1;
                    if *count == 0 {
                        missing.remove(&found.ino);
                    }
                    all.push(found);
                }
            }
            if next.is_some_and(|next| next <= (directory, cookie)) {
                return Err(shards.misfit("names"));
            }
            from = next;
        }
    }
    Ok(all)
}

/// The path of a directory, without a slash at its end; `None` when it cannot be found (any more).
fn folder(
    shards: &mut Shards,
    directory: Ino,
    known: &mut BTreeMap<Ino, Option<String>>,
) -> Result<Option<String>, AdminError> {
    let mut below: Vec<(Ino, String)> = Vec::new();
    let mut at = directory;
    let top = loop {
        if let Some(path) = known.get(&at) {
            break path.clone();
        }
        if below.len() == DEPTH_MAX {
            break None;
        }
        let Some((parent, name)) = parent_of(shards, at)? else { break None };
        below.push((at, name));
        at = parent;
    };
    let mut path = top;
    for (ino, name) in below.into_iter().rev() {
        path = path.map(|above| format!("{above}/{name}"));
        known.insert(ino, path.clone());
    }
    known.entry(directory).or_insert(None);
    Ok(known[&directory].clone())
}

/// A directory's parent, and its name there.
fn parent_of(shards: &mut Shards, ino: Ino) -> Result<Option<(Ino, String)>, AdminError> {
    let lookup = MetaRequest::Lookup { parent: ino, name: b".." };
    let parent = match ask(shards, ino, &lookup) {
        Ok(MetaReply::Entry(attr)) => attr.ino,
        Ok(_) => return Err(shards.misfit("parent")),
        Err(Refused::Failed(error)) => return Err(error),
        Err(_) => return Ok(None),
    };
    let mut cookie = 0;
    loop {
        let request = MetaRequest::FindNames { inos: vec![ino], directory: parent, cookie };
        let MetaReply::Names(names, next) = shards.meta(parent, &request)? else {
            return Err(shards.misfit("names"));
        };
        if let Some(found) = names.into_iter().find(|found| found.directory == parent) {
            return Ok(Some((parent, String::from_utf8_lossy(&found.name).into_owned())));
        }
        match next {
            Some((directory, next)) if directory == parent && next > cookie => cookie = next,
            _ => return Ok(None),
        }
    }
}

/// Why a question about one inode has no answer.
enum Refused {
    /// There is no such inode.
    Gone,
    /// The volume says so about this inode.
    Other(String),
    /// The server cannot be asked.
    Failed(AdminError),
}

fn ask(shards: &mut Shards, ino: Ino, request: &MetaRequest<'_>) -> Result<MetaReply, Refused> {
    use weft_wire::Status;
    let place = shards.place_of_volume(ino.volume()).map_err(|error| Refused::Other(error.why))?;
    let connection = shards.at(place).map_err(|error| Refused::Failed(error.into()))?;
    connection.meta(request).map_err(|error| match error.kind {
        ClientErrorKind::Refused(Status::Stale | Status::NotFound) => Refused::Gone,
        ClientErrorKind::Refused(status) => Refused::Other(status.to_string()),
        _ => Refused::Failed(error.into()),
    })
}
