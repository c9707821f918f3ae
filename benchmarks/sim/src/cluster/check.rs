//! What a volume holds, read row by row, and whether it is what a program was promised.

use std::collections::BTreeMap;

use weft_metadata::{Action, Incoming, Volume};
use weft_wire::meta::{Attr, Caller, FileKind, MetaReply, MetaRequest, NO_SLOT, Time};
use weft_wire::{Ino, SessionId, Status};

use super::data::FileData;
use super::shared::SharedFile;
use super::tree::{NodeId, ROOT, Tree};

/// One inode of the volume.
#[derive(Debug)]
pub(super) struct Seen {
    attr: Attr,
    children: BTreeMap<Vec<u8>, Ino>,
    target: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// All of them that have a name.
pub(super) type Dump = BTreeMap<Ino, Seen>;

/// The inode numbers that were learned, or a sentence with the first difference.
pub(super) type Compared = Result<Vec<(NodeId, Ino)>, String>;

/// Files of a program, by node.
pub(super) type Files = BTreeMap<NodeId, FileData>;

/// Asks the volume, which answers what only reads at once.
pub(super) fn ask(volume: &mut Volume, request: &MetaRequest<'_>) -> Result<MetaReply, Status> {
    let caller = Caller { uid: 0, gid: 0, slot: NO_SLOT, sequence: 0 };
    let mut body = Vec::new();
    request.encode(&caller, &mut body);
    let session = SessionId([0xcc; 16]);
    let incoming = Incoming { op: 0, session, caller, request, body: &body };
    let mut out = Vec::new();
    volume.request(&incoming, Time::default(), &mut out);
    let Some(Action::Reply { status, body, .. }) = out.pop() else {
        panic!("a read is answered at once")
    };
    match status {
        Status::Ok => Ok(MetaReply::decode(request.kind(), &body).expect("its own reply")),
        status => Err(status),
    }
}

/// Reads everything that has a name.
///
/// # Errors
/// A sentence: something cannot be read.
pub(super) fn dump(volume: &mut Volume) -> Result<Dump, String> {
    let mut dump = Dump::new();
    let mut todo = vec![Ino::ROOT];
    while let Some(ino) = todo.pop() {
        if dump.contains_key(&ino) {
            continue;
        }
        let seen = look(volume, ino).map_err(|status| format!("inode {ino}: {status}"))?;
        todo.extend(seen.children.values());
        dump.insert(ino, seen);
    }
    Ok(dump)
}

fn look(volume: &mut Volume, ino: Ino) -> Result<Seen, Status> {
    let MetaReply::Attr(attr) = ask(volume, &MetaRequest::GetAttr { ino })? else {
        return Err(Status::Protocol);
    };
    let (mut children, mut target) = (BTreeMap::new(), Vec::new());
    match attr.kind() {
        FileKind::Directory => {
            let (bytes_max, plus) = (200 << 10, false);
            let request = MetaRequest::ReadDir { ino, cookie: 0, bytes_max, plus };
            let MetaReply::Dir(list, true) = ask(volume, &request)? else {
                return Err(Status::TooBig);
            };
            for entry in MetaReply::dir_entries(&list) {
                let entry = entry.map_err(|_| Status::Protocol)?;
                children.insert(entry.name.to_vec(), entry.ino);
            }
        }
        FileKind::Symlink => {
            if let MetaReply::Bytes(bytes) = ask(volume, &MetaRequest::ReadLink { ino })? {
                target = bytes;
            }
        }
        _ => {}
    }
    let mut xattrs = BTreeMap::new();
    if let MetaReply::Bytes(names) = ask(volume, &MetaRequest::ListXattr { ino })? {
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            if let MetaReply::Bytes(v) = ask(volume, &MetaRequest::GetXattr { ino, name })? {
                xattrs.insert(name.to_vec(), v);
            }
        }
    }
    Ok(Seen { attr, children, target, xattrs })
}

/// Compares a program's tree with the volume; the inode numbers that the program does not know yet.
///
/// # Errors
/// A sentence with the first difference.
pub(super) fn compare(tree: &Tree, files: &Files, prefix: &[u8], dump: &Dump) -> Compared {
    let mut learned = Vec::new();
    let mut inos = BTreeMap::from([(ROOT, Ino::ROOT)]);
    for id in tree.named() {
        let node = tree.node(id);
        let ino = inos[&id];
        let seen = dump.get(&ino).ok_or_else(|| format!("inode {ino} of node {id} is gone"))?;
        if node.ino == Ino(0) {
            learned.push((id, ino));
        } else if node.ino != ino {
            return Err(format!("node {id} is inode {ino} and was {}", node.ino));
        }
        let own = |name: &&Vec<u8>| id != ROOT || name.starts_with(prefix);
        for name in seen.children.keys().filter(own) {
            if !node.children.contains_key(name) {
                let name = String::from_utf8_lossy(name);
                return Err(format!("name {name} of inode {ino} should not be there"));
            }
        }
        for (name, child) in &node.children {
            let Some(there) = seen.children.get(name) else {
                let name = String::from_utf8_lossy(name);
                return Err(format!("name {name} of inode {ino} (node {id}) is missing"));
            };
            if inos.insert(*child, *there).is_some_and(|before| before != *there) {
                return Err(format!("the names of node {child} lead to different inodes"));
            }
        }
        if id != ROOT {
            compare_node(tree, id, files.get(&id), seen)?;
        }
    }
    Ok(learned)
}

fn compare_node(
    tree: &Tree,
    id: NodeId,
    file: Option<&FileData>,
    seen: &Seen,
) -> Result<(), String> {
    let node = tree.node(id);
    let attr = &seen.attr;
    let ino = attr.ino;
    let mode = attr.mode & 0o7777;
    if attr.kind() != node.kind || (mode != node.mode && !node.modes_before.contains(&mode)) {
        return Err(format!("inode {ino}: mode {:o}, and {:o} is right", attr.mode, node.mode));
    }
    if node.kind != FileKind::Directory && attr.nlink != node.nlink {
        return Err(format!("inode {ino}: {} links, and {} are right", attr.nlink, node.nlink));
    }
    if seen.target != node.target {
        return Err(format!("inode {ino}: the link's target is another"));
    }
    if seen.xattrs != node.xattrs {
        let (got, right) = (seen.xattrs.len(), node.xattrs.len());
        return Err(format!("inode {ino}: {got} attributes differ from the {right} that were set"));
    }
    let size_fits = match file {
        Some(file) => file.may_be_long(attr.size),
        None => node.kind != FileKind::Regular || attr.size == 0,
    };
    match size_fits {
        true => Ok(()),
        false => Err(format!(
            "inode {ino}: its size may not be {}: {}",
            attr.size,
            file.map_or_else(String::new, FileData::tell_size)
        )),
    }
}

/// Fails when a shared file that a client was told of is not there.
pub(super) fn check_shared(dump: &Dump, files: &[SharedFile]) {
    for file in files.iter().filter(|file| file.ino.is_some()) {
        let there = dump[&Ino::ROOT].children.get(&file.name).copied();
        assert_eq!(there, file.ino, "the name {}", String::from_utf8_lossy(&file.name));
    }
}

/// Fails when the root has names that no program has.
pub(super) fn check_root(dump: &Dump, prefixes: &[Vec<u8>]) {
    for name in dump[&Ino::ROOT].children.keys() {
        let known = prefixes.iter().any(|prefix| name.starts_with(prefix));
        assert!(known, "nobody made the name {}", String::from_utf8_lossy(name));
    }
}
