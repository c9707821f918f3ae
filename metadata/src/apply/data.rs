//! The data of small files, which is in the inode: its row in the table of data, and its way out to the targets.
//!
//! What holds while it is there: the row has no more bytes than fit and than the file is long, and is not there when it
//! would be empty; the inode has one block with a row, none without.

use weft_wire::meta::{DataWrite, Inline, MetaReply, MoveStep};
use weft_wire::units::{to_u64, to_usize};
use weft_wire::{Ino, Status};

use super::Done;
use super::attr::cut;
use crate::change::Change;
use crate::record::{DataAt, Inode, Tail, Work, number_key};
use crate::store::Name;

impl Inode {
    /// Whoever made the file has written to its targets: they count.
    pub(super) fn count_targets(&mut self) -> Result<(), Status> {
        match &mut self.tail {
            Tail::File(_, at @ DataAt::Fresh { .. }) => *at = DataAt::Targets,
            Tail::File(_, DataAt::Targets) => {}
            // It did not hear that others went on.
            _ => return Err(Status::Invalid),
        }
        Ok(())
    }
}

impl Change<'_> {
    /// Bytes of a program. Where the data is not in the inode any more they come too late, or from a client that is
    /// mistaken.
    pub(super) fn write_data(&mut self, write: &DataWrite<'_>) -> Result<Done, Status> {
        if !write.is_whole() {
            return Err(Status::Io);
        }
        let ino = write.ino;
        let inode = self.inode_mut(ino)?;
        let bytes_max = inode.inline_max().ok_or(Status::Invalid)?;
        let start = to_usize(u64::from(write.offset));
        let end = start + write.bytes.len();
        if end > usize::from(bytes_max) {
            return Err(Status::TooBig);
        }
        let attr = &mut inode.attr;
        if write.bytes.is_empty() {
            return Ok(MetaReply::Attr(*attr).into());
        }
        attr.size = attr.size.max(to_u64(end));
        attr.mtime = attr.mtime.max(write.mtime);
        attr.ctime = attr.ctime.max(write.mtime);
        attr.version = attr.version.wrapping_add(1);
        if let Tail::File(_, at) = &mut inode.tail
            && let DataAt::Fresh { bytes_max } = *at
        {
            *at = match write.untouched {
                true => DataAt::Inode { bytes_max },
                // Whoever made it may be gone, and have left something.
                false => DataAt::MovingOld { bytes_max },
            };
        }
        let mut data = self.store.data(ino)?;
        data.resize(data.len().max(end), 0);
        data[start..end].copy_from_slice(write.bytes);
        self.put_data(ino, data)?;
        Ok(MetaReply::Attr(self.inode_mut(ino)?.attr).into())
    }

    /// The row, and what `stat` shows of it.
    fn put_data(&mut self, ino: Ino, data: Vec<u8>) -> Result<(), Status> {
        let inode = self.inode_mut(ino)?;
        // Programs take a file without blocks for one without data.
        inode.set_blocks(i64::from(!data.is_empty()));
        if let Tail::File(_, at) = &mut inode.tail
            && let DataAt::Moving { bytes_max } = *at
        {
            *at = DataAt::MovingOld { bytes_max };
        }
        let key = number_key(ino.0).to_vec();
        match data.is_empty() {
            true => self.remove(Name::Data, key),
            false => self.put(Name::Data, key, data),
        }
        Ok(())
    }

    /// The file is cut to `size` bytes, or made so long. False when its data is not in the inode.
    pub(super) fn cut_data(&mut self, ino: Ino, size: u64) -> Result<bool, Status> {
        if self.inode_mut(ino)?.inline_max().is_none() {
            return Ok(false);
        }
        let mut data = self.store.data(ino)?;
        if to_u64(data.len()) > size {
            data.truncate(to_usize(size));
            self.put_data(ino, data)?;
        }
        Ok(true)
    }

    /// Moves the data on towards the targets. The reply is kept with the session, so it is without the data: whoever
    /// sends it adds that.
    pub(super) fn move_data(&mut self, ino: Ino, step: MoveStep) -> Result<Done, Status> {
        let empty = self.store.data(ino)?.is_empty();
        let inode = self.inode_mut(ino)?;
        let empties = step == MoveStep::Begin && inode.may_have_leftovers();
        let left = inode.layout().filter(|_| empties).cloned();
        let Tail::File(_, at) = &mut inode.tail else { return Err(Status::Invalid) };
        let (next, blocks) = match (step, *at) {
            (MoveStep::Stay, _) | (_, DataAt::Targets) => (*at, None),
            (MoveStep::Begin, DataAt::Inode { .. }) if empty => (DataAt::Targets, None),
            (MoveStep::Begin, DataAt::Fresh { .. }) => (DataAt::Targets, None),
            // Also of no data: the first try may have brought some to the targets that was cut since.
            (
                MoveStep::Begin,
                DataAt::Inode { bytes_max }
                | DataAt::Moving { bytes_max }
                | DataAt::MovingOld { bytes_max },
            ) => (DataAt::Moving { bytes_max }, None),
            (MoveStep::End, DataAt::Moving { .. }) => (DataAt::Targets, Some(1)),
            (
                MoveStep::End,
                DataAt::Inode { .. } | DataAt::MovingOld { .. } | DataAt::Fresh { .. },
            ) => return Err(Status::Invalid),
        };
        let changed = next != *at;
        *at = next;
        if changed {
            inode.attr.version = inode.attr.version.wrapping_add(1);
        }
        if let Some(blocks) = blocks {
            inode.set_blocks(blocks);
        }
        let inline = inode.inline_max().map(|bytes_max| Inline { bytes_max, data: None });
        let attr = inode.attr;
        if inline.is_none() && !empty {
            self.remove(Name::Data, number_key(ino.0).to_vec());
        }
        let mut done = Done::from(MetaReply::Data(attr, inline));
        if let Some(layout) = left {
            // Whoever began before may be gone: where the file has a hole there must be zeros.
            done.work = self.add_work(Work { uncounted: true, ..cut(ino, layout, 0) });
        }
        Ok(done)
    }
}
