//! Attributes and layouts.

use weft_wire::layout::LayoutPolicy;
use weft_wire::limits::FILE_BYTES_MAX;
use weft_wire::meta::{FileKind, MetaReply, SetAttr, Time, TimeSet};
use weft_wire::{ChunkIndex, Ino, Layout, Status};

use super::Done;
use crate::change::Change;
use crate::record::{Inode, Tail, Work};

const PERMISSION_BITS: u32 = 0o7777;

/// What a `Wrote` tells of writes.
#[derive(Clone, Copy)]
pub(super) struct Told {
    pub(super) size_min: u64,
    pub(super) mtime: Time,
    pub(super) at_targets: bool,
}

impl Change<'_> {
    pub(super) fn set_attr(&mut self, ino: Ino, set: &SetAttr, now: Time) -> Result<Done, Status> {
        if let Some(size) = set.size {
            check_size(&self.store.known_inode(ino)?, size)?;
        }
        if let Some(mode) = set.mode {
            self.chmod_acl(ino, mode)?;
        }
        let changed = match set.ctime {
            Some(told) => told.max(self.inode_mut(ino)?.attr.ctime),
            None => now,
        };
        let inode = self.touch(ino, changed)?;
        let attr = &mut inode.attr;
        attr.mode =
            set.mode.map_or(attr.mode, |mode| attr.kind().mode_bits() | mode & PERMISSION_BITS);
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        if let Some(size) = set.size {
            attr.size = size;
            attr.mtime = now;
        }
        let time = |wanted: Option<TimeSet>, old| match wanted {
            Some(TimeSet::To(time)) => time,
            Some(TimeSet::Now) => now,
            None => old,
        };
        attr.atime = time(set.atime, attr.atime);
        attr.mtime = time(set.mtime, attr.mtime);
        let Some(size) = set.size else { return Ok(MetaReply::Attr(*attr).into()) };
        let layout = inode.layout().cloned().expect("only a file has a length to set");
        let in_inode = self.cut_data(ino, size)?;
        let mut done = Done::from(MetaReply::Attr(self.inode_mut(ino)?.attr));
        // Also where the file grows: targets may have bytes beyond its end that the volume was never told of (its log
        // failed, a client is gone), and what a truncation adds must be zeros.
        if !in_inode {
            done.work = self.add_work(cut(ino, layout, size));
        }
        Ok(done)
    }

    pub(super) fn wrote(
        &mut self,
        ino: Ino,
        told: Told,
        blocks_added: i64,
    ) -> Result<Done, Status> {
        let Told { size_min, mtime, at_targets } = told;
        let inode = self.inode_mut(ino)?;
        check_size(inode, size_min)?;
        if at_targets {
            inode.count_targets()?;
        }
        if inode.inline_max().is_none() {
            inode.add_blocks(blocks_added); // Before, what targets have is not counted: it does not count.
        }
        let attr = &mut inode.attr;
        attr.size = attr.size.max(size_min);
        attr.mtime = attr.mtime.max(mtime);
        attr.ctime = attr.ctime.max(mtime);
        attr.version = attr.version.wrapping_add(1);
        Ok(MetaReply::Attr(*attr).into())
    }

    pub(super) fn set_layout(
        &mut self,
        ino: Ino,
        policy: LayoutPolicy,
        now: Time,
    ) -> Result<Done, Status> {
        match &mut self.touch(ino, now)?.tail {
            Tail::Directory { policy: old, .. } => *old = policy,
            _ => return Err(Status::NotDirectory),
        }
        Ok(MetaReply::Done.into())
    }
}

fn check_size(inode: &Inode, size: u64) -> Result<(), Status> {
    match inode.kind() {
        FileKind::Regular if size > FILE_BYTES_MAX => Err(Status::TooBig),
        FileKind::Regular => Ok(()),
        FileKind::Directory => Err(Status::IsDirectory),
        _ => Err(Status::Invalid),
    }
}

/// What the targets do when the file is cut to `size` bytes.
pub(super) fn cut(ino: Ino, layout: Layout, size: u64) -> Work {
    let chunk_bytes = u64::from(layout.chunk_bytes());
    let kept = u32::try_from(size % chunk_bytes).expect("below the chunk length");
    let last = layout.chunk_at(size);
    let (remove_from, cut) = match kept {
        0 => (last, None),
        _ => (ChunkIndex(last.0 + 1), Some((last, kept))),
    };
    Work { id: 0, ino, layout, remove_from, cut, shrink: true, uncounted: false }
}
