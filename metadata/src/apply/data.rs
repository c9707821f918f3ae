//! The data of small files, which is in the inode: its row in the table of data, and its way out to the targets.

use weft_wire::limits::INLINE_BYTES_MAX;
use weft_wire::meta::{Attr, DataWrite, Inline, MetaReply, MoveStep, Time};
use weft_wire::units::to_u64;
use weft_wire::{Ino, Status};

use super::Done;
use crate::change::Change;
use crate::record::{DataAt, Inode, Tail, number_key};
use crate::store::Name;

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
        let end = to_u64(write.bytes.len()) + u64::from(write.offset);
        if end > u64::from(bytes_max) {
            return Err(Status::TooBig);
        }
        let told = if write.bytes.is_empty() { Time::default() } else { write.mtime };
        let attr = told_of_write(inode, told);
        if write.bytes.is_empty() {
            return Ok(MetaReply::Attr(attr).into());
        }
        inode.attr.size = inode.attr.size.max(end);
        let mut data = self.store.data(ino)?;
        let (start, end) = (usize_of(write.offset), usize_of(write.offset) + write.bytes.len());
        data.resize(data.len().max(end), 0);
        data[start..end].copy_from_slice(write.bytes);
        let attr = self.put_data(ino, &data)?;
        Ok(MetaReply::Attr(attr).into())
    }

    /// The row, and what `stat` shows of it.
    fn put_data(&mut self, ino: Ino, data: &[u8]) -> Result<Attr, Status> {
        let key = number_key(ino.0).to_vec();
        match data.is_empty() {
            true => self.remove(Name::Data, key),
            false => self.put(Name::Data, key, data.to_vec()),
        }
        let inode = self.inode_mut(ino)?;
        // Programs take a file without blocks for one without data.
        inode.set_blocks(i64::from(!data.is_empty()));
        Ok(inode.attr)
    }

    /// The file is cut to `size` bytes, or made so long. False when its data is not in the inode.
    pub(super) fn cut_data(&mut self, ino: Ino, size: u64) -> Result<bool, Status> {
        if self.inode_mut(ino)?.inline_max().is_none() {
            return Ok(false);
        }
        let mut data = self.store.data(ino)?;
        if to_u64(data.len()) > size {
            data.truncate(usize::try_from(size).expect("less than the data has"));
            self.put_data(ino, &data)?;
        }
        Ok(true)
    }

    /// Moves the data on towards the targets.
    pub(super) fn move_data(&mut self, ino: Ino, step: MoveStep) -> Result<Done, Status> {
        let data = self.store.data(ino)?;
        let inode = self.inode_mut(ino)?;
        let bytes_max = inode.inline_max();
        let Tail::File(_, at) = &mut inode.tail else { return Err(Status::Invalid) };
        let inline = |bytes_max| Some(Inline { bytes_max, data: Some(data.clone()) });
        let (left, ended) = match (step, *at) {
            (_, DataAt::Targets) => (None, false),
            (MoveStep::Begin, DataAt::Inode { .. }) if data.is_empty() => (None, true),
            (MoveStep::Begin, DataAt::Inode { bytes_max } | DataAt::Moving { bytes_max }) => {
                *at = DataAt::Moving { bytes_max };
                (inline(bytes_max), false)
            }
            (MoveStep::End, DataAt::Moving { .. }) => (None, true),
            (MoveStep::End, DataAt::Inode { .. }) => return Err(Status::Invalid),
            (MoveStep::Stay, _) => (bytes_max.and_then(inline), false),
        };
        if ended {
            *at = DataAt::Targets;
            inode.set_blocks(i64::from(step == MoveStep::End));
            self.remove(Name::Data, number_key(ino.0).to_vec());
        }
        let attr = told_of_write(self.inode_mut(ino)?, Time::default());
        Ok(MetaReply::Data(attr, left).into())
    }
}

/// The inode or its data changed, at `mtime`.
fn told_of_write(inode: &mut Inode, mtime: Time) -> Attr {
    let attr = &mut inode.attr;
    attr.mtime = attr.mtime.max(mtime);
    attr.ctime = attr.ctime.max(mtime);
    attr.version = attr.version.wrapping_add(1);
    *attr
}

fn usize_of(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(INLINE_BYTES_MAX)
}
