//! One program of a client: it does one random thing after another in names of its own, and knows what each must
//! come to.

use weft_client_core::{FsOp, Handle, OpId, OpenFlags, Strips};
use weft_iobuf::Pool;
use weft_wire::Ino;
use weft_wire::meta::{FileKind, SetAttr};
use weft_wire::units::{to_u64, to_usize};

mod answer;
mod ranges;

pub(super) use answer::{excused, gather};

use super::check::{Compared, Files};
use super::data::FileData;
use super::plan::Plan;
use super::tree::{Change, EXCHANGE, NOREPLACE, NodeId, Place, ROOT, Tree};
use crate::random::Random;

/// Longest file.
const FILE_BYTES_MAX: u64 = 200_000;
/// Files a program has open at most.
const OPEN_MAX: usize = 3;

/// What an answer must be.
#[derive(Debug)]
enum Doing {
    /// A change of names, and what it comes to.
    Change {
        change: Change,
        expected: Result<Option<NodeId>, i32>,
    },
    /// `GetAttr` and `Lookup`.
    Look {
        node: NodeId,
    },
    /// A name that is not there.
    LookNowhere,
    List {
        node: NodeId,
    },
    ReadLink {
        node: NodeId,
    },
    GetXattr {
        node: NodeId,
        name: Vec<u8>,
    },
    Open {
        node: NodeId,
    },
    OpenDir {
        node: NodeId,
    },
    ReleaseDir,
    Read {
        node: NodeId,
        offset: usize,
        asked: usize,
    },
    Write {
        node: NodeId,
        offset: usize,
        bytes: Vec<u8>,
        /// The file that they are copied from.
        source: Option<NodeId>,
    },
    Cut {
        node: NodeId,
    },
    Settle {
        node: NodeId,
        durable: bool,
    },
    Release {
        handle: Handle,
    },
    StatFs,
}

/// What went wrong so far in the world, which excuses errors.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Excuses {
    /// Targets are small.
    pub(super) full: bool,
    /// Targets fail.
    pub(super) disk_errors: bool,
    /// The log failed: changes may be refused with EIO, and what a file was to be told may come as an error later.
    pub(super) log_failed: bool,
    /// The servers fenced the client off: what it had written is lost, and of changes nobody says how they ended.
    pub(super) fenced: bool,
    /// The client was cut off: what has no name and was open may be gone.
    pub(super) away: bool,
    /// Its leases ran out once: a server that was started meanwhile may have let others go on, and refuses what it had still
    /// to write where the file has changed, also by a change of its own that it had no answer to.
    pub(super) late: bool,
}

impl Excuses {
    /// Whether writes may fail, of which the program hears with the next flush.
    fn unheard(&self) -> bool {
        self.unheard_of_any() || self.fenced || self.late
    }

    /// The same of every client's.
    pub(super) fn unheard_of_any(&self) -> bool {
        self.full || self.disk_errors || self.log_failed
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Program {
    /// What all its names in the root begin with.
    pub(super) prefix: Vec<u8>,
    pub(super) tree: Tree,
    pub(super) files: Files,
    open: Vec<(Handle, NodeId)>,
    dir: Option<(Handle, NodeId)>,
    doing: Option<(OpId, Doing)>,
    /// The tree as it is if the change that is under way has happened.
    pub(super) after: Option<Tree>,
    /// It was seen to have happened.
    pub(super) happened: bool,
    left: u32,
    /// Close everything and end.
    closing: bool,
    /// The first of the open files was flushed to be released next.
    releasing: bool,
    stamp: u64,
    random: Random,
    /// What came later than the first kept seeds: drawn apart, so that those stay what they are.
    extra: Random,
    /// The same of copies, where there are some.
    copies: Option<Random>,
}

impl Program {
    pub(super) fn new(number: usize, plan: &Plan, random: Random) -> Program {
        Program {
            prefix: format!("p{number}-").into_bytes(),
            tree: Tree::new(),
            files: Files::new(),
            open: Vec::new(),
            dir: None,
            doing: None,
            after: None,
            happened: false,
            left: plan.operations,
            closing: false,
            releasing: false,
            stamp: to_u64(number) << 32,
            extra: random.clone().fork(),
            copies: plan.copies.then(|| random.clone().fork().fork()),
            random,
        }
    }

    /// Waits for an answer.
    pub(super) fn is_busy(&self) -> bool {
        self.doing.is_some()
    }

    /// Has done all it wanted to.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0 && self.doing.is_none()
    }

    /// Has closed everything.
    pub(super) fn is_closed(&self) -> bool {
        self.doing.is_none() && self.open.is_empty() && self.dir.is_none()
    }

    /// From now on it only closes what is open.
    pub(super) fn close(&mut self) {
        self.closing = true;
        self.left = 0;
    }

    /// Inodes that it has open and that have no name.
    pub(super) fn orphans(&self) -> Vec<Ino> {
        let open = self.open.iter().map(|(_, node)| self.tree.node(*node));
        open.filter(|node| node.nlink == 0 && node.ino != Ino(0)).map(|node| node.ino).collect()
    }

    /// The tree as it was seen last.
    pub(super) fn seen_tree(&self) -> &Tree {
        self.after.as_ref().filter(|_| self.happened).unwrap_or(&self.tree)
    }

    /// What it waits for, to be printed.
    pub(super) fn tell(&self) -> String {
        format!("{:?}", self.doing).chars().take(200).collect()
    }

    /// The server was started: the volume has the tree, or the tree after the change that is under way, and if that
    /// was seen once, then always.
    ///
    /// # Errors
    /// A sentence: it has neither.
    pub(super) fn verify(
        &mut self,
        compare: impl Fn(&Tree, &Files, &[u8]) -> Compared,
    ) -> Result<(), String> {
        if let Some(learned) = self.compared(compare)? {
            self.happened = true;
            let tree = self.after.as_mut().expect("it was compared");
            learned.into_iter().for_each(|(id, ino)| tree.node_mut(id).ino = ino);
        }
        Ok(())
    }

    /// The same, and nothing is noted: what was learned when the change has happened.
    ///
    /// # Errors
    /// As [`Program::verify`].
    pub(super) fn compared(
        &self,
        compare: impl Fn(&Tree, &Files, &[u8]) -> Compared,
    ) -> Result<Option<Vec<(NodeId, Ino)>>, String> {
        let before = compare(&self.tree, &self.files, &self.prefix);
        let after = self.after.as_ref().map(|after| compare(after, &self.files, &self.prefix));
        match (before, after) {
            (Ok(_), None) => Ok(None),
            (Ok(_), Some(_)) if !self.happened => Ok(None),
            (_, Some(Ok(learned))) => Ok(Some(learned)),
            (Err(why), None) => Err(why),
            (before, Some(Err(after))) => {
                let before = before.err().unwrap_or_default();
                let happened = if self.happened { "which was seen before" } else { "" };
                let doing = self.tell();
                Err(format!("{before}; after {doing} {happened}: {after}"))
            }
        }
    }

    /// Its client was at rest: the volume has what it was told of.
    pub(super) fn rested(&mut self) {
        self.tree.modes_are_sure();
        self.files.values_mut().for_each(FileData::settled);
    }

    /// Its client is gone: what was under way is never answered.
    pub(super) fn vanish(&mut self) {
        match self.doing.take() {
            Some((_, Doing::Write { node, offset, bytes, .. })) => {
                self.file(node).perhaps_wrote(offset, bytes);
            }
            Some((_, Doing::Cut { node })) => self.file(node).cut_unsure(),
            _ => {}
        }
        self.open.clear();
        self.dir = None;
        self.left = 0;
        self.files.values_mut().for_each(FileData::gave_up);
    }

    /// The targets' machine lost power. `alive`: the client is there and has what it did not sync.
    pub(super) fn power_lost(&mut self, alive: bool) {
        for (node, file) in &mut self.files {
            let open = self.open.iter().any(|(_, open)| open == node);
            file.power_lost(alive && open);
        }
        if let Some((_, Doing::Write { node, offset, bytes, .. })) = &self.doing {
            let (node, offset, count) = (*node, *offset, bytes.len());
            self.file(node).endanger(offset, count);
        }
    }

    fn file(&mut self, node: NodeId) -> &mut FileData {
        self.files.entry(node).or_default()
    }

    /// What it does next; `None` when there is nothing, or it waits.
    pub(super) fn next(&mut self, op: OpId, pool: &Pool) -> Option<FsOp> {
        if self.doing.is_some() {
            return None;
        }
        let (ask, doing) = match self.closing {
            true => self.next_to_close()?,
            false => {
                self.left = self.left.checked_sub(1)?;
                self.choose(pool)
            }
        };
        if let Doing::Write { node, offset, bytes, .. } = &doing {
            let (node, end) = (*node, offset + bytes.len());
            self.file(node).write_begins(end);
        }
        self.doing = Some((op, doing));
        Some(ask)
    }

    fn next_to_close(&mut self) -> Option<(FsOp, Doing)> {
        if let Some((handle, _)) = self.dir.take() {
            return Some((FsOp::ReleaseDir { handle }, Doing::ReleaseDir));
        }
        let (handle, node) = *self.open.first()?;
        Some(self.close_step(handle, node))
    }

    /// As the kernel does it: a flush, then the release.
    fn close_step(&mut self, handle: Handle, node: NodeId) -> (FsOp, Doing) {
        self.releasing = !self.releasing;
        match self.releasing {
            true => (FsOp::Flush { handle }, Doing::Settle { node, durable: false }),
            false => (FsOp::Release { handle }, Doing::Release { handle }),
        }
    }

    fn choose(&mut self, pool: &Pool) -> (FsOp, Doing) {
        if self.releasing {
            let (handle, node) = self.open[0];
            return self.close_step(handle, node);
        }
        if self.extra.chance(5)
            && let Some(chosen) = self.choose_zero()
        {
            return chosen;
        }
        if let Some(chosen) = self.choose_copy() {
            return chosen;
        }
        for _ in 0..20 {
            let chosen = match self.random.below(100) {
                0..38 => self.choose_change(),
                38..72 => self.choose_io(pool),
                72..82 => self.choose_open(),
                _ => self.choose_look(),
            };
            if let Some(chosen) = chosen {
                return chosen;
            }
        }
        (FsOp::StatFs, Doing::StatFs)
    }

    fn some_node(&mut self, fits: impl Fn(&Program, NodeId) -> bool) -> Option<NodeId> {
        let all = self.tree.named();
        let fitting: Vec<NodeId> = all.into_iter().filter(|id| fits(self, *id)).collect();
        if fitting.is_empty() { None } else { Some(self.random.pick(&fitting)) }
    }

    fn kind(&self, id: NodeId) -> FileKind {
        self.tree.node(id).kind
    }

    fn some_name(&mut self, dir: NodeId) -> Vec<u8> {
        let name = match self.random.chance(5) {
            true => format!("{}{}", "long".repeat(40), self.random.below(4)),
            false => format!("n{}", self.random.below(12)),
        };
        let mut full = if dir == ROOT { self.prefix.clone() } else { Vec::new() };
        full.extend_from_slice(name.as_bytes());
        full
    }

    /// A place, more often one that is taken when `taken`.
    fn some_place(&mut self, taken: bool) -> Option<Place> {
        let dir = self.some_node(|p, id| p.kind(id) == FileKind::Directory)?;
        let names: Vec<Vec<u8>> = self.tree.node(dir).children.keys().cloned().collect();
        if taken && !names.is_empty() && self.random.chance(95) {
            let at = self.random.index(names.len());
            return Some((dir, names[at].clone()));
        }
        let name = self.some_name(dir);
        Some((dir, name))
    }

    fn choose_change(&mut self) -> Option<(FsOp, Doing)> {
        let change = match self.random.below(100) {
            0..14 => self.some_make(FileKind::Directory)?,
            14..18 => self.some_make(FileKind::Symlink)?,
            18..20 => self.some_make(FileKind::Fifo)?,
            20..38 => self.some_make(FileKind::Regular)?,
            38..52 => Change::Unlink { at: self.some_place(true)? },
            52..58 => Change::Rmdir { at: self.some_place(true)? },
            58..66 => {
                let node = self.some_node(|_, id| id != ROOT)?;
                Change::Link { node, at: self.some_place(false)? }
            }
            66..84 => {
                let flags = self.random.pick(&[0, 0, 0, NOREPLACE, EXCHANGE]);
                let taken = self.random.chance(60);
                let (from, to) = (self.some_place(true)?, self.some_place(taken)?);
                Change::Rename { from, to, flags }
            }
            84..89 => {
                let node = self.some_node(|_, id| id != ROOT)?;
                Change::Chmod { node, mode: self.random.pick(&[0o600, 0o755, 0o640]) }
            }
            89..96 => {
                let node = self.some_node(|_, id| id != ROOT)?;
                let name = format!("user.{}", self.random.below(3)).into_bytes();
                let bytes = self.random.pick(&[0, 10, 300, 5000]);
                let value = self.fill(bytes);
                Change::SetXattr { node, name, value }
            }
            _ => {
                let node = self.some_node(|_, id| id != ROOT)?;
                let name = format!("user.{}", self.random.below(3)).into_bytes();
                Change::RemoveXattr { node, name }
            }
        };
        self.begin_change(change)
    }

    fn some_make(&mut self, kind: FileKind) -> Option<Change> {
        let regular = kind == FileKind::Regular;
        let open = regular && self.open.len() < OPEN_MAX;
        if regular && !open {
            return None;
        }
        let at = self.some_place(false)?;
        let target = match kind {
            FileKind::Symlink => b"somewhere".to_vec(),
            _ => Vec::new(),
        };
        let exclusive = !regular || self.random.chance(50);
        let mode = self.random.pick(&[0o600, 0o644, 0o700]);
        Some(Change::Make { at, kind, mode, target, open, exclusive })
    }

    fn begin_change(&mut self, change: Change) -> Option<(FsOp, Doing)> {
        let mut after = self.tree.clone();
        let expected = after.apply(&change);
        let ask = self.ask(&change);
        self.after = Some(after);
        self.happened = false;
        Some((ask, Doing::Change { change, expected }))
    }

    fn ino(&self, id: NodeId) -> Ino {
        self.tree.node(id).ino
    }

    fn ask(&self, change: &Change) -> FsOp {
        let place = |at: &Place| (self.ino(at.0), at.1.clone());
        match change {
            Change::Make { at, kind, mode, target, open, exclusive } => {
                let ((parent, name), mode) = (place(at), kind.mode_bits() | mode);
                if *open {
                    let flags =
                        OpenFlags { write: true, exclusive: *exclusive, ..OpenFlags::default() };
                    return FsOp::Create { parent, name, mode, umask: 0, flags };
                }
                FsOp::Make { parent, name, mode, umask: 0, rdev: 0, target: target.clone() }
            }
            Change::Unlink { at } => {
                let (parent, name) = place(at);
                FsOp::Unlink { parent, name }
            }
            Change::Rmdir { at } => {
                let (parent, name) = place(at);
                FsOp::Rmdir { parent, name }
            }
            Change::Link { node, at } => {
                let (parent, name) = place(at);
                FsOp::Link { ino: self.ino(*node), parent, name }
            }
            Change::Rename { from, to, flags } => {
                let ((parent, name), (new_parent, new_name)) = (place(from), place(to));
                FsOp::Rename { parent, name, new_parent, new_name, flags: *flags }
            }
            Change::Chmod { node, mode } => {
                let set = SetAttr { mode: Some(*mode), ..SetAttr::default() };
                FsOp::SetAttr { ino: self.ino(*node), set, handle: None }
            }
            Change::SetXattr { node, name, value } => {
                let (name, value) = (name.clone(), value.clone());
                FsOp::SetXattr { ino: self.ino(*node), name, value, flags: 0 }
            }
            Change::RemoveXattr { node, name } => {
                FsOp::RemoveXattr { ino: self.ino(*node), name: name.clone() }
            }
        }
    }

    /// Bytes that are found nowhere else.
    fn fill(&mut self, count: usize) -> Vec<u8> {
        self.stamp += 1;
        let mut random = Random::new(self.stamp);
        (0..count).map(|_| random.next().to_le_bytes()[7]).collect()
    }

    fn choose_io(&mut self, pool: &Pool) -> Option<(FsOp, Doing)> {
        if self.open.is_empty() {
            return self.choose_open();
        }
        let (handle, node) = self.random.pick(&self.open.clone());
        let size = to_u64(self.file(node).now.len());
        match self.random.below(100) {
            0..45 => self.choose_write(handle, node, size, pool),
            45..65 => {
                let offset = self.random.below(size + 5000);
                let asked = 1 + self.random.below_u32(60_000);
                let doing = Doing::Read { node, offset: to_usize(offset), asked: wide(asked) };
                Some((FsOp::Read { handle, offset, bytes: asked, into: None }, doing))
            }
            65..74 => Some((FsOp::Flush { handle }, Doing::Settle { node, durable: false })),
            74..86 => {
                let ask = FsOp::Fsync { handle, datasync: false };
                Some((ask, Doing::Settle { node, durable: true }))
            }
            86..94 => {
                let size = match self.random.below(3) {
                    0 => 0,
                    1 => self.random.below(size + 1),
                    _ => self.random.below(FILE_BYTES_MAX),
                };
                self.file(node).cut_begins(to_usize(size));
                let set = SetAttr { size: Some(size), ..SetAttr::default() };
                let ask = FsOp::SetAttr { ino: self.ino(node), set, handle: Some(handle) };
                Some((ask, Doing::Cut { node }))
            }
            _ => {
                let at = self.open.iter().position(|(open, _)| *open == handle);
                self.open.swap(0, at.expect("picked from there"));
                Some(self.close_step(handle, node))
            }
        }
    }

    fn choose_write(
        &mut self,
        handle: Handle,
        node: NodeId,
        size: u64,
        pool: &Pool,
    ) -> Option<(FsOp, Doing)> {
        let count = match self.random.below(4) {
            0 => 1 + self.random.index(200),
            1 => 4096 * (1 + self.random.index(8)),
            2 => 1 + self.random.index(70_000),
            _ => 1 + self.random.index(6000),
        };
        let offset = match self.random.below(4) {
            0 => size,
            1 => self.random.below(size + 1),
            2 => self.random.below(size + 1) / 4096 * 4096,
            _ => self.random.below(FILE_BYTES_MAX),
        };
        if offset + to_u64(count) > FILE_BYTES_MAX {
            return None;
        }
        let bytes = self.fill(count);
        let mut slot = pool.alloc(count)?;
        slot.as_mut_slice()[..count].copy_from_slice(&bytes);
        let direct = self.random.chance(20);
        let strips = Strips { capabilities: direct, set_ids: direct };
        let data = (slot, 0..count);
        let ask = FsOp::Write { handle, offset, data, direct, append: false, strips };
        let offset = to_usize(offset);
        Some((ask, Doing::Write { node, offset, bytes, source: None }))
    }

    fn choose_open(&mut self) -> Option<(FsOp, Doing)> {
        if self.open.len() >= OPEN_MAX {
            return None;
        }
        let node = self.some_node(|p, id| p.kind(id) == FileKind::Regular)?;
        let flags = OpenFlags { write: true, ..OpenFlags::default() };
        Some((FsOp::Open { ino: self.ino(node), flags }, Doing::Open { node }))
    }

    fn choose_look(&mut self) -> Option<(FsOp, Doing)> {
        let node = self.some_node(|_, id| id != ROOT)?;
        let ino = self.ino(node);
        Some(match (self.random.below(4), self.kind(node)) {
            (0, _) => {
                let at = self.some_place(true)?;
                let doing =
                    self.tree.child(&at).map_or(Doing::LookNowhere, |node| Doing::Look { node });
                (FsOp::Lookup { parent: self.ino(at.0), name: at.1 }, doing)
            }
            (1, _) => {
                let name = format!("user.{}", self.random.below(3)).into_bytes();
                let ask = FsOp::GetXattr { ino, name: name.clone(), bytes_max: 65_536 };
                (ask, Doing::GetXattr { node, name })
            }
            (_, FileKind::Symlink) => (FsOp::ReadLink { ino }, Doing::ReadLink { node }),
            (2, FileKind::Directory) => match self.dir {
                None => (FsOp::OpenDir { ino }, Doing::OpenDir { node }),
                Some((handle, node)) if self.random.chance(60) => {
                    let (cookie, bytes_max, plus) = (0, 100_000, self.random.chance(50));
                    (FsOp::ReadDir { handle, cookie, bytes_max, plus }, Doing::List { node })
                }
                Some((handle, _)) => {
                    self.dir = None;
                    (FsOp::ReleaseDir { handle }, Doing::ReleaseDir)
                }
            },
            _ => (FsOp::GetAttr { ino, handle: None }, Doing::Look { node }),
        })
    }
}

fn wide(number: u32) -> usize {
    usize::try_from(number).expect("32 bits fit")
}
