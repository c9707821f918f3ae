//! Small files, whose data is in the inode.

use crate::blocks::crc32c;
use crate::codec::{Reader, WireError, WireErrorKind, Writer};
use crate::ids::Ino;
use crate::limits::INLINE_BYTES_MAX;

use super::Time;

/// What an answer tells of a file whose data is in its inode. What its targets may have of it does not count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inline {
    /// Bytes that fit, at most [`INLINE_BYTES_MAX`]. Before a write that ends behind them the data moves to the targets.
    pub bytes_max: u16,
    /// The data from the file's first byte on; up to the file's length zeros follow. `None`: it is not told here.
    pub data: Option<Vec<u8>>,
}

impl Inline {
    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.u16(self.bytes_max).bool(self.data.is_some());
        if let Some(data) = &self.data {
            out.u32(crc32c(data)).bytes(data);
        }
    }

    pub(crate) fn decode(from: &mut Reader<'_>) -> Result<Inline, WireError> {
        let bytes_max = from.u16()?;
        if usize::from(bytes_max) > INLINE_BYTES_MAX {
            return Err(from.error(WireErrorKind::TooLong));
        }
        let data = match from.bool()? {
            true => {
                let (sum, data) = (from.u32()?, from.bytes(INLINE_BYTES_MAX)?);
                if crc32c(data) != sum {
                    return Err(from.error(WireErrorKind::Value));
                }
                Some(data.to_vec())
            }
            false => None,
        };
        Ok(Inline { bytes_max, data })
    }

    pub(crate) fn encode_optional(inline: Option<&Inline>, out: &mut Writer<'_>) {
        out.bool(inline.is_some());
        if let Some(inline) = inline {
            inline.encode(out);
        }
    }

    pub(crate) fn decode_optional(from: &mut Reader<'_>) -> Result<Option<Inline>, WireError> {
        from.bool()?.then(|| Inline::decode(from)).transpose()
    }
}

/// Bytes for a file whose data is in its inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataWrite<'a> {
    /// The file.
    pub ino: Ino,
    /// Where they begin in the file.
    pub offset: u32,
    /// The bytes; none is a change of nothing: what stands here instead of a write that is not wanted any more.
    pub bytes: &'a [u8],
    /// Their CRC32C, by whoever wrote them.
    pub checksum: u32,
    /// When they were written: the file's mtime and ctime, unless these are later.
    pub mtime: Time,
    /// Whoever writes made the file ([`super::MakeHow::fresh`]) and brought nothing to its targets.
    pub untouched: bool,
}

impl<'a> DataWrite<'a> {
    /// Bytes at `offset` with their checksum.
    pub fn new(ino: Ino, offset: u32, bytes: &'a [u8], mtime: Time) -> DataWrite<'a> {
        DataWrite { ino, offset, bytes, checksum: crc32c(bytes), mtime, untouched: false }
    }

    /// Whether the bytes are those that were written.
    pub fn is_whole(&self) -> bool {
        crc32c(self.bytes) == self.checksum
    }

    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        self.mtime.encode(out.u64(self.ino.0).u32(self.offset));
        out.u32(self.checksum).bytes(self.bytes);
        super::request::push_last_flag(out, self.untouched);
    }

    pub(crate) fn decode(ino: Ino, from: &mut Reader<'a>) -> Result<DataWrite<'a>, WireError> {
        let (offset, mtime) = (from.u32()?, Time::decode(from)?);
        let (checksum, bytes) = (from.u32()?, from.bytes(INLINE_BYTES_MAX)?);
        let untouched = super::request::last_flag(from)?;
        Ok(DataWrite { ino, offset, bytes, checksum, mtime, untouched })
    }
}

/// How far the data of a file moves from its inode to its targets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveStep {
    /// No further: what stands here instead of a step that is not wanted any more.
    Stay,
    /// The targets may have some of it from now on. The inode still counts. At once the end for a file that never had
    /// data; of one whose data was cut since an earlier `Begin` the first block must be written all the same.
    Begin,
    /// The targets have it, durable, as the file's first block: from now on they count. `Invalid` when the data changed
    /// since `Begin`, or there was none.
    End,
}

impl MoveStep {
    pub(crate) fn encode(self, out: &mut Writer<'_>) {
        match self {
            MoveStep::Stay => out.u8(0),
            MoveStep::Begin => out.u8(1),
            MoveStep::End => out.u8(2),
        };
    }

    pub(crate) fn decode(from: &mut Reader<'_>) -> Result<MoveStep, WireError> {
        Ok(match from.u8()? {
            0 => MoveStep::Stay,
            1 => MoveStep::Begin,
            2 => MoveStep::End,
            _ => return Err(from.error(WireErrorKind::Value)),
        })
    }
}
