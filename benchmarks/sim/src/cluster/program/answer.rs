//! What a program makes of an answer: right, excused, or wrong.

use weft_client_core::{DataPiece, FsReply, Handle, OpId};
use weft_wire::Ino;
use weft_wire::limits::INLINE_BYTES_MAX;
use weft_wire::meta::{Attr, FileKind, MetaReply};
use weft_wire::units::{to_u64, to_usize};

use super::{Doing, Excuses, Program};
use crate::cluster::tree::{Change, ENODATA, ENOENT, NodeId, ROOT};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EOPNOTSUPP: i32 = 95;
const EROFS: i32 = 30;
const ESTALE: i32 = 116;

type Reply = Result<FsReply, i32>;

impl Program {
    /// Takes an answer in.
    ///
    /// # Errors
    /// A sentence: it is wrong.
    pub(crate) fn answered(
        &mut self,
        op: OpId,
        reply: Reply,
        excuses: &Excuses,
    ) -> Result<(), String> {
        let Some((asked, doing)) = self.doing.take() else {
            return Err(format!("an answer to {op:?}, which is not under way"));
        };
        if asked != op {
            return Err(format!("an answer to {op:?} where {asked:?} is under way"));
        }
        let told = format!("{doing:?}");
        let told: String = told.chars().take(200).collect();
        let got = format!("{reply:?}");
        let got: String = got.chars().take(200).collect();
        if excuses.away && matches!(reply, Err(ESTALE)) && self.is_gone(&doing) {
            return Ok(());
        }
        let outcome = match doing {
            Doing::Change { change, expected } => self.changed(&change, expected, reply, excuses),
            Doing::Read { node, offset, asked } => self.read(node, offset, asked, reply, excuses),
            Doing::Write { node, offset, bytes, source: Some(source) } => {
                self.copied(source, (node, offset, bytes), reply, excuses)
            }
            Doing::Write { node, offset, bytes, .. } => {
                self.wrote(node, offset, bytes, reply, excuses)
            }
            Doing::Cut { node } => self.cut(node, reply, excuses),
            Doing::Settle { node, durable } => self.settled(node, durable, reply, excuses),
            doing => self.looked(&doing, reply, excuses),
        };
        outcome.map_err(|why| format!("{told} got {got}: {why}"))
    }

    /// Whether it was done to a file without a name, which went when the session was over.
    fn is_gone(&mut self, doing: &Doing) -> bool {
        let (Doing::Read { node, .. }
        | Doing::Write { node, .. }
        | Doing::Cut { node }
        | Doing::Settle { node, .. }) = doing
        else {
            return false;
        };
        let mut gone = self.tree.node(*node).nlink == 0;
        if let Doing::Write { source: Some(source), .. } = doing {
            gone |= self.tree.node(*source).nlink == 0;
        }
        if gone {
            self.file(*node).cut_unsure();
            self.file(*node).gave_up();
        }
        gone
    }

    fn changed(
        &mut self,
        change: &Change,
        expected: Result<Option<NodeId>, i32>,
        reply: Reply,
        excuses: &Excuses,
    ) -> Result<(), String> {
        match (reply, expected) {
            (Ok(reply), Ok(node)) => {
                self.tree = self.after.take().expect("made with the operation");
                if !matches!(change, Change::Chmod { .. }) && !excuses.unheard() {
                    // What was sent before it is in the log before it.
                    self.tree.modes_are_sure();
                }
                self.take_reply(change, node, reply, excuses)
            }
            (Err(code), Err(right)) if code == right => {
                self.after = None;
                Ok(())
            }
            // It has happened or not: there is nothing to go on from.
            (Err(EIO), _) if excuses.fenced => {
                self.left = 0;
                Ok(())
            }
            // It did not happen, and never will.
            (Err(EIO), _) if excuses.log_failed && !self.happened => {
                self.after = None;
                Ok(())
            }
            (_, expected) => Err(format!("{expected:?} is right")),
        }
    }

    fn take_reply(
        &mut self,
        change: &Change,
        node: Option<NodeId>,
        reply: FsReply,
        excuses: &Excuses,
    ) -> Result<(), String> {
        match (reply, node) {
            (FsReply::Created(attr, _, opened), Some(node)) => {
                self.opened(opened.handle, node);
                self.learn(node, &attr, excuses)
            }
            (FsReply::Entry(attr, _), Some(node)) => self.learn(node, &attr, excuses),
            (FsReply::Entry(attr, _), None) => match change {
                Change::Link { node, .. } => self.learn(*node, &attr, excuses),
                _ => Err("an entry where none is expected".to_owned()),
            },
            (FsReply::Attr(attr, _), None) => match change {
                Change::Chmod { node, .. } => self.learn(*node, &attr, excuses),
                _ => Err("attributes where none are expected".to_owned()),
            },
            (FsReply::Done, None) => Ok(()),
            _ => Err("not the reply to this operation".to_owned()),
        }
    }

    /// Compares attributes with the model; a new inode's number is taken.
    fn learn(&mut self, id: NodeId, attr: &Attr, excuses: &Excuses) -> Result<(), String> {
        let node = self.tree.node_mut(id);
        if node.ino == Ino(0) {
            node.ino = attr.ino;
        }
        if node.ino != attr.ino {
            return Err(format!("inode {} where {} is right", attr.ino, node.ino));
        }
        let node = self.tree.node(id);
        let mode = attr.mode & 0o7777;
        let refused = excuses.unheard() && node.modes_before.contains(&mode);
        if refused && mode != node.mode {
            let node = self.tree.node_mut(id);
            node.modes_before.push(std::mem::replace(&mut node.mode, mode));
        }
        let node = self.tree.node(id);
        if attr.kind() != node.kind || mode != node.mode {
            return Err(format!("mode {:o} where {:o} is right", attr.mode, node.mode));
        }
        match node.kind {
            FileKind::Directory => {
                let entries = to_u64(node.children.len());
                if id != ROOT && attr.size != entries {
                    return Err(format!("{} entries where {entries} are right", attr.size));
                }
            }
            kind => {
                if attr.nlink != node.nlink {
                    return Err(format!("{} links where {} are right", attr.nlink, node.nlink));
                }
                if kind == FileKind::Regular {
                    let file = self.file(id);
                    if !file.may_look_long(attr.size, excuses.unheard()) {
                        let right = file.now.len();
                        return Err(format!("size {} where {right} is right", attr.size));
                    }
                }
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        node: NodeId,
        offset: usize,
        asked: usize,
        reply: Reply,
        excuses: &Excuses,
    ) -> Result<(), String> {
        let file = self.file(node);
        match reply {
            Ok(FsReply::Data(pieces)) => {
                file.check(offset, asked, &gather(&pieces), excuses.unheard())
            }
            Err(EIO) if excuses.disk_errors || file.may_be_damaged(offset, asked) => Ok(()),
            _ => Err("data is right".to_owned()),
        }
    }

    fn wrote(
        &mut self,
        node: NodeId,
        offset: usize,
        bytes: Vec<u8>,
        reply: Reply,
        excuses: &Excuses,
    ) -> Result<(), String> {
        let file = self.file(node);
        file.write_ended();
        match reply {
            Ok(FsReply::Written(count)) if to_usize(u64::from(count)) == bytes.len() => {
                file.wrote(offset, bytes);
                Ok(())
            }
            // Of a fallocate.
            Ok(FsReply::Done) => {
                file.wrote(offset, bytes);
                Ok(())
            }
            Err(code) if excused(code, file.may_fail(), excuses) => {
                file.gave_up();
                file.perhaps_wrote(offset, bytes);
                Ok(())
            }
            _ => Err("all of it written is right".to_owned()),
        }
    }

    fn copied(
        &mut self,
        source: NodeId,
        (node, offset, bytes): (NodeId, usize, Vec<u8>),
        reply: Reply,
        excuses: &Excuses,
    ) -> Result<(), String> {
        let found = self.file(source);
        // In the inode there may be a hole behind the data.
        let small = found.now.iter().skip(INLINE_BYTES_MAX).all(|byte| *byte == 0);
        let (may_fail, sure) = (found.may_fail(), found.is_sure(excuses.unheard()));
        match reply {
            Err(EOPNOTSUPP) if small => {
                self.file(node).write_ended();
                Ok(())
            }
            // Of what was not taken nothing is there to be copied.
            Ok(FsReply::Copied(count)) if to_usize(count) < bytes.len() && !sure => {
                let file = self.file(node);
                file.write_ended();
                file.gave_up();
                file.perhaps_wrote(offset, bytes);
                Ok(())
            }
            Ok(FsReply::Copied(count)) => {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                self.wrote(node, offset, bytes, Ok(FsReply::Written(count)), excuses)
            }
            Err(EIO) if may_fail => {
                let file = self.file(node);
                file.write_ended();
                file.gave_up();
                file.perhaps_wrote(offset, bytes);
                Ok(())
            }
            reply => self.wrote(node, offset, bytes, reply, excuses),
        }
    }

    fn cut(&mut self, node: NodeId, reply: Reply, excuses: &Excuses) -> Result<(), String> {
        let file = self.file(node);
        match reply {
            Ok(FsReply::Attr(attr, _)) => {
                file.cut_done();
                self.learn(node, &attr, excuses)
            }
            Err(EIO) if excuses.fenced => {
                file.cut_unsure();
                Ok(())
            }
            Err(EIO) if excuses.log_failed => {
                file.cut_refused();
                Ok(())
            }
            _ => Err("attributes are right".to_owned()),
        }
    }

    fn settled(
        &mut self,
        node: NodeId,
        durable: bool,
        reply: Reply,
        excuses: &Excuses,
    ) -> Result<(), String> {
        let file = self.file(node);
        match reply {
            Ok(FsReply::Done) if durable => {
                file.synced();
                if !excuses.unheard() {
                    self.tree.node_mut(node).modes_before.clear();
                }
            }
            Ok(FsReply::Done) => {}
            Err(code) if excused(code, file.may_fail(), excuses) => file.gave_up(),
            _ => return Err("done is right".to_owned()),
        }
        Ok(())
    }

    fn looked(&mut self, doing: &Doing, reply: Reply, excuses: &Excuses) -> Result<(), String> {
        match (doing, reply) {
            (Doing::Look { node }, Ok(FsReply::Entry(attr, _) | FsReply::Attr(attr, _))) => {
                self.learn(*node, &attr, excuses)
            }
            (Doing::LookNowhere, Err(ENOENT))
            | (Doing::ReleaseDir, Ok(FsReply::Done))
            | (Doing::StatFs, Ok(FsReply::StatFs(_))) => Ok(()),
            (Doing::List { node }, Ok(FsReply::Dir { entries, last, .. })) => {
                self.listed(*node, &entries, last)
            }
            (Doing::List { node }, Err(ENOENT)) if self.tree.node(*node).nlink == 0 => Ok(()),
            (Doing::ReadLink { node }, Ok(FsReply::Bytes(bytes))) => {
                match bytes == self.tree.node(*node).target {
                    true => Ok(()),
                    false => Err("another target is right".to_owned()),
                }
            }
            (Doing::GetXattr { node, name }, reply) => {
                let right = self.tree.node(*node).xattrs.get(name);
                match (reply, right) {
                    (Ok(FsReply::Bytes(bytes)), Some(right)) if bytes == *right => Ok(()),
                    (Err(ENODATA), None) => Ok(()),
                    (_, right) => Err(format!("{:?} is right", right.map(Vec::len))),
                }
            }
            (Doing::Open { node }, Ok(FsReply::Opened(opened))) => {
                self.opened(opened.handle, *node);
                Ok(())
            }
            (Doing::OpenDir { node }, Ok(FsReply::Opened(opened))) => {
                self.dir = Some((opened.handle, *node));
                Ok(())
            }
            (Doing::Release { handle }, Ok(FsReply::Done)) => {
                self.open.retain(|(open, _)| open != handle);
                Ok(())
            }
            _ => Err("that is no answer to it".to_owned()),
        }
    }

    fn opened(&mut self, handle: Handle, node: NodeId) {
        self.open.push((handle, node));
    }

    fn listed(&mut self, id: NodeId, entries: &[u8], last: bool) -> Result<(), String> {
        let mut names = Vec::new();
        for entry in MetaReply::dir_entries(entries) {
            let entry = entry.map_err(|error| error.to_string())?;
            if id != ROOT || entry.name.starts_with(&self.prefix) {
                names.push(entry.name.to_vec());
            }
        }
        names.sort();
        let right: Vec<Vec<u8>> = self.tree.node(id).children.keys().cloned().collect();
        match names == right || !last {
            true => Ok(()),
            false => Err(format!("{} names where {} are right", names.len(), right.len())),
        }
    }
}

/// Whether a write's error has a reason in what went wrong.
pub(crate) fn excused(code: i32, may_fail: bool, excuses: &Excuses) -> bool {
    match code {
        ENOSPC => excuses.full,
        EIO => {
            let gone = excuses.fenced || excuses.late;
            may_fail || excuses.disk_errors || excuses.log_failed || excuses.full || gone
        }
        EROFS => excuses.disk_errors,
        _ => false,
    }
}

/// The bytes of a read.
pub(crate) fn gather(pieces: &[DataPiece]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        match piece {
            DataPiece::Slot(slot, range) => bytes.extend_from_slice(&slot[range.clone()]),
            DataPiece::Bytes(more) => bytes.extend_from_slice(more),
            DataPiece::Zeros(count) => bytes.resize(bytes.len() + count, 0),
        }
    }
    bytes
}
