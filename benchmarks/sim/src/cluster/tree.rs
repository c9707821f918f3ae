//! The oracle of names: a tree in memory and what each operation makes of it, in a few obvious lines.

use std::collections::BTreeMap;

use weft_wire::Ino;
use weft_wire::meta::FileKind;

/// A node of the model, whatever inode number the volume gives it.
pub(super) type NodeId = u32;
/// The root of the namespace.
pub(super) const ROOT: NodeId = 0;

pub(super) const EPERM: i32 = 1;
pub(super) const ENOENT: i32 = 2;
pub(super) const EEXIST: i32 = 17;
pub(super) const ENOTDIR: i32 = 20;
pub(super) const EISDIR: i32 = 21;
pub(super) const EINVAL: i32 = 22;
pub(super) const ENOTEMPTY: i32 = 39;
pub(super) const ENODATA: i32 = 61;

/// Fail when the new name is there.
pub(super) const NOREPLACE: u32 = 1;
/// Exchange the two names.
pub(super) const EXCHANGE: u32 = 2;

/// One inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Node {
    /// As the volume said; 0 until it has.
    pub(super) ino: Ino,
    pub(super) kind: FileKind,
    /// Permission bits.
    pub(super) mode: u32,
    /// Those of before, of a file, where the volume may not have the change yet that a program was told of.
    pub(super) modes_before: Vec<u32>,
    pub(super) nlink: u32,
    pub(super) target: Vec<u8>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) children: BTreeMap<Vec<u8>, NodeId>,
    /// Of a directory.
    pub(super) parent: NodeId,
}

/// A directory and a name in it.
pub(super) type Place = (NodeId, Vec<u8>);

/// What changes names and attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// mkdir, mknod and symlink; with `open` a create that opens what is there.
    Make {
        at: Place,
        kind: FileKind,
        mode: u32,
        target: Vec<u8>,
        open: bool,
        exclusive: bool,
    },
    Unlink {
        at: Place,
    },
    Rmdir {
        at: Place,
    },
    Link {
        node: NodeId,
        at: Place,
    },
    Rename {
        from: Place,
        to: Place,
        flags: u32,
    },
    Chmod {
        node: NodeId,
        mode: u32,
    },
    SetXattr {
        node: NodeId,
        name: Vec<u8>,
        value: Vec<u8>,
    },
    RemoveXattr {
        node: NodeId,
        name: Vec<u8>,
    },
}

/// The namespace as one program knows it: only what is its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    next: NodeId,
}

impl Tree {
    pub(super) fn new() -> Tree {
        let mut tree = Tree { nodes: BTreeMap::new(), next: ROOT };
        let root = tree.add(FileKind::Directory, 0o755, Vec::new(), ROOT);
        tree.node_mut(root).ino = Ino::ROOT;
        tree
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("nodes stay, also without a name")
    }

    pub(super) fn child(&self, at: &Place) -> Option<NodeId> {
        self.node(at.0).children.get(&at.1).copied()
    }

    fn add(&mut self, kind: FileKind, mode: u32, target: Vec<u8>, parent: NodeId) -> NodeId {
        let id = self.next;
        self.next += 1;
        let (xattrs, children) = (BTreeMap::new(), BTreeMap::new());
        let ino = Ino(0);
        let modes_before = Vec::new();
        let node =
            Node { ino, kind, mode, modes_before, nlink: 1, target, xattrs, children, parent };
        self.nodes.insert(id, node);
        id
    }

    fn is_directory(&self, id: NodeId) -> bool {
        self.node(id).kind == FileKind::Directory
    }

    fn is_within(&self, id: NodeId, above: NodeId) -> bool {
        let mut at = id;
        while at != above && at != ROOT {
            at = self.node(at).parent;
        }
        at == above
    }

    fn put(&mut self, at: Place, id: NodeId) {
        if self.is_directory(id) {
            self.node_mut(id).parent = at.0;
        }
        self.node_mut(at.0).children.insert(at.1, id);
    }

    fn take(&mut self, at: &Place) {
        self.node_mut(at.0).children.remove(&at.1);
    }

    fn drop_link(&mut self, id: NodeId) {
        self.node_mut(id).nlink -= 1;
    }

    /// Makes the change, or says the errno. The node is the one that is made or opened.
    pub(super) fn apply(&mut self, change: &Change) -> Result<Option<NodeId>, i32> {
        match change {
            Change::Make { at, kind, mode, target, open, exclusive } => {
                if let Some(there) = self.child(at) {
                    return match (*open && !exclusive, self.node(there).kind) {
                        (true, FileKind::Regular) => Ok(Some(there)),
                        (true, FileKind::Directory) => Err(EISDIR),
                        _ => Err(EEXIST),
                    };
                }
                let id = self.add(*kind, *mode, target.clone(), at.0);
                self.put(at.clone(), id);
                Ok(Some(id))
            }
            Change::Unlink { at } => {
                let id = self.child(at).ok_or(ENOENT)?;
                if self.is_directory(id) {
                    return Err(EISDIR);
                }
                self.take(at);
                self.drop_link(id);
                Ok(None)
            }
            Change::Rmdir { at } => {
                let id = self.child(at).ok_or(ENOENT)?;
                if !self.is_directory(id) {
                    return Err(ENOTDIR);
                }
                self.check_empty(id)?;
                self.take(at);
                self.drop_link(id);
                Ok(None)
            }
            Change::Link { node, at } => {
                if self.is_directory(*node) {
                    return Err(EPERM);
                }
                if self.child(at).is_some() {
                    return Err(EEXIST);
                }
                self.node_mut(*node).nlink += 1;
                self.put(at.clone(), *node);
                Ok(None)
            }
            Change::Rename { from, to, flags } => self.rename(from, to, *flags).map(|()| None),
            Change::Chmod { node, mode } => {
                let node = self.node_mut(*node);
                if node.kind == FileKind::Regular {
                    node.modes_before.push(node.mode);
                }
                node.mode = *mode;
                Ok(None)
            }
            Change::SetXattr { node, name, value } => {
                self.node_mut(*node).xattrs.insert(name.clone(), value.clone());
                Ok(None)
            }
            Change::RemoveXattr { node, name } => {
                self.node_mut(*node).xattrs.remove(name).map(|_| None).ok_or(ENODATA)
            }
        }
    }

    fn check_empty(&self, id: NodeId) -> Result<(), i32> {
        if self.node(id).children.is_empty() { Ok(()) } else { Err(ENOTEMPTY) }
    }

    fn rename(&mut self, from: &Place, to: &Place, flags: u32) -> Result<(), i32> {
        let moved = self.child(from).ok_or(ENOENT)?;
        let there = self.child(to);
        match (flags, there) {
            (NOREPLACE, Some(_)) => return Err(EEXIST),
            (EXCHANGE, None) => return Err(ENOENT),
            (_, Some(there)) if there == moved => return Ok(()),
            _ => {}
        }
        if self.is_directory(moved) && self.is_within(to.0, moved) {
            return Err(EINVAL);
        }
        match there {
            Some(other) if flags == EXCHANGE => {
                if self.is_directory(other) && self.is_within(from.0, other) {
                    return Err(EINVAL);
                }
                self.put(from.clone(), other);
            }
            Some(other) => {
                match (self.is_directory(moved), self.is_directory(other)) {
                    (true, false) => return Err(ENOTDIR),
                    (false, true) => return Err(EISDIR),
                    (true, true) => self.check_empty(other)?,
                    (false, false) => {}
                }
                self.take(from);
                self.drop_link(other);
            }
            None => self.take(from),
        }
        self.put(to.clone(), moved);
        Ok(())
    }

    /// The volume has all changes of permissions.
    pub(super) fn modes_are_sure(&mut self) {
        self.nodes.values_mut().for_each(|node| node.modes_before.clear());
    }

    /// Every node with a name, the root first.
    pub(super) fn named(&self) -> Vec<NodeId> {
        let mut all = vec![ROOT];
        let mut at = 0;
        while at < all.len() {
            let children = self.node(all[at]).children.values();
            let new: Vec<NodeId> = children.copied().filter(|id| !all.contains(id)).collect();
            all.extend(new);
            at += 1;
        }
        all.dedup();
        all
    }
}
