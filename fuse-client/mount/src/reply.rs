//! Replies as the kernel wants them: a head on the stack, and payload that is never copied.
//!
//! A reply is one write: [`ReplyHead::as_bytes`] followed by as many payload bytes as the head was
//! told of. The kernel takes a reply only whole, so the length in the head is fixed at creation.

mod dir;
mod notify;
#[cfg(test)]
mod tests;

use std::time::Duration;

use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

pub use dir::{DirBuffer, DirEntry};
pub use notify::{inc_epoch, inval_entry, inval_inode, resend};

use crate::abi::input::FileLock;
use crate::abi::output::{
    Attr, AttrOut, BmapOut, CopyFileRangeOut, CreateOut, EntryOut, GetxattrOut, InitOut, Kstatfs,
    LkOut, LseekOut, OpenOut, OutHeader, PollOut, Statx, StatxOut, WriteOut,
};
use crate::request::{FileHandle, NodeId, RESENT, Unique};

/// The longest head: that of a statx reply.
pub const HEAD_BYTES_MAX: usize = size_of::<OutHeader>() + size_of::<StatxOut>();
const _: () = assert!(HEAD_BYTES_MAX == 304);

/// The header of one reply and its fixed part.
#[derive(Clone, Debug)]
pub struct ReplyHead {
    unique: Unique,
    bytes: [u8; HEAD_BYTES_MAX],
    len_bytes: usize,
    payload_bytes: u32,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The inode; each reply with it counts one lookup, until a FORGET.
    pub node: NodeId,
    /// Tells apart inodes that had the same number one after the other.
    pub generation: u64,
    /// The inode's attributes.
    pub attr: Attr,
    /// How long the kernel may believe the attributes.
    pub attr_timeout: Duration,
    /// How long the kernel may believe the name.
    pub entry_timeout: Duration,
}

impl Entry {
    /// "There is no such name", to be believed for `entry_timeout`; only in reply to a LOOKUP.
    #[must_use]
    pub fn negative(entry_timeout: Duration) -> Self {
        Self {
            node: NodeId(0),
            generation: 0,
            attr: Attr::default(),
            attr_timeout: Duration::ZERO,
            entry_timeout,
        }
    }

    pub(crate) fn to_kernel(self) -> EntryOut {
        EntryOut {
            nodeid: self.node.0,
            generation: self.generation,
            entry_valid: self.entry_timeout.as_secs(),
            attr_valid: self.attr_timeout.as_secs(),
            entry_valid_nsec: self.entry_timeout.subsec_nanos(),
            attr_valid_nsec: self.attr_timeout.subsec_nanos(),
            attr: self.attr,
        }
    }
}

impl ReplyHead {
    /// The same, to a request that was asked again.
    #[must_use]
    pub fn asked_again(mut self) -> Self {
        self.unique.0 |= RESENT;
        let at = size_of::<u32>() + size_of::<i32>(); // behind length and error
        self.bytes[at..at + 8].copy_from_slice(&self.unique.0.to_ne_bytes());
        self
    }

    /// The bytes to send, before the payload.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len_bytes]
    }

    /// The request it answers.
    #[must_use]
    pub const fn unique(&self) -> Unique {
        self.unique
    }

    /// How long the whole reply is, with its payload.
    #[must_use]
    pub fn reply_bytes(&self) -> usize {
        let payload_bytes =
            usize::try_from(self.payload_bytes).expect("Weft runs on 64-bit machines");
        self.len_bytes + payload_bytes
    }

    /// The operation failed.
    #[must_use]
    pub fn error(unique: Unique, errno: Errno) -> Self {
        let raw = errno.raw_os_error();
        // The kernel refuses a reply outside of this range, and the caller would hang.
        assert!((1..512).contains(&raw), "errno {raw} cannot be sent to the kernel");
        Self::build(unique, -raw, &[], 0)
    }

    /// The operation succeeded; nothing to tell.
    #[must_use]
    pub fn empty(unique: Unique) -> Self {
        Self::build(unique, 0, &[], 0)
    }

    /// LOOKUP, MKNOD, MKDIR, SYMLINK, LINK.
    #[must_use]
    pub fn entry(unique: Unique, entry: &Entry) -> Self {
        Self::fixed(unique, &entry.to_kernel())
    }

    /// GETATTR, SETATTR.
    #[must_use]
    pub fn attr(unique: Unique, attr: &Attr, timeout: Duration) -> Self {
        let attr_valid_nsec = timeout.subsec_nanos();
        let out = AttrOut { attr_valid: timeout.as_secs(), attr_valid_nsec, dummy: 0, attr: *attr };
        Self::fixed(unique, &out)
    }

    /// STATX.
    #[must_use]
    pub fn statx(unique: Unique, stat: &Statx, timeout: Duration) -> Self {
        let out = StatxOut {
            attr_valid: timeout.as_secs(),
            attr_valid_nsec: timeout.subsec_nanos(),
            stat: *stat,
            ..StatxOut::default()
        };
        Self::fixed(unique, &out)
    }

    /// OPEN, OPENDIR; `open_flags` are `abi::flags::fopen`.
    #[must_use]
    pub fn open(unique: Unique, fh: FileHandle, open_flags: u32) -> Self {
        Self::fixed(unique, &OpenOut { fh: fh.0, open_flags, backing_id: 0 })
    }

    /// CREATE, TMPFILE.
    #[must_use]
    pub fn create(unique: Unique, entry: &Entry, fh: FileHandle, open_flags: u32) -> Self {
        let open = OpenOut { fh: fh.0, open_flags, backing_id: 0 };
        Self::fixed(unique, &CreateOut { entry: entry.to_kernel(), open })
    }

    /// WRITE: how many bytes were taken. Also COPY_FILE_RANGE without `wide_reply`.
    #[must_use]
    pub fn write(unique: Unique, written_bytes: u32) -> Self {
        Self::fixed(unique, &WriteOut { size: written_bytes, padding: 0 })
    }

    /// COPY_FILE_RANGE with `wide_reply`.
    #[must_use]
    pub fn copied(unique: Unique, bytes_copied: u64) -> Self {
        Self::fixed(unique, &CopyFileRangeOut { bytes_copied })
    }

    /// READ, READDIR, READDIRPLUS, READLINK (without a NUL), GETXATTR and LISTXATTR with a length:
    /// `payload_bytes` follow.
    #[must_use]
    pub fn data(unique: Unique, payload_bytes: u32) -> Self {
        Self::build(unique, 0, &[], payload_bytes)
    }

    /// STATFS.
    #[must_use]
    pub fn statfs(unique: Unique, statfs: &Kstatfs) -> Self {
        Self::fixed(unique, statfs)
    }

    /// GETXATTR and LISTXATTR of length 0: how long the answer would be.
    #[must_use]
    pub fn xattr_len(unique: Unique, len_bytes: u32) -> Self {
        Self::fixed(unique, &GetxattrOut { size: len_bytes, padding: 0 })
    }

    /// LSEEK.
    #[must_use]
    pub fn lseek(unique: Unique, offset: u64) -> Self {
        Self::fixed(unique, &LseekOut { offset })
    }

    /// GETLK: the lock in the way, or one of kind F_UNLCK.
    #[must_use]
    pub fn lock(unique: Unique, lock: FileLock) -> Self {
        Self::fixed(unique, &LkOut { lk: lock })
    }

    /// BMAP.
    #[must_use]
    pub fn bmap(unique: Unique, block: u64) -> Self {
        Self::fixed(unique, &BmapOut { block })
    }

    /// POLL: the events that are ready.
    #[must_use]
    pub fn poll(unique: Unique, revents: u32) -> Self {
        Self::fixed(unique, &PollOut { revents, padding: 0 })
    }

    /// INIT.
    #[must_use]
    pub fn init(unique: Unique, init: &InitOut) -> Self {
        Self::fixed(unique, init)
    }

    fn fixed<T: IntoBytes + Immutable>(unique: Unique, out: &T) -> Self {
        Self::build(unique, 0, out.as_bytes(), 0)
    }

    fn build(unique: Unique, error: i32, fixed: &[u8], payload_bytes: u32) -> Self {
        let head_bytes = size_of::<OutHeader>();
        let len_bytes = head_bytes + fixed.len();
        let len = u32::try_from(len_bytes)
            .ok()
            .and_then(|len| len.checked_add(payload_bytes))
            .expect("a payload is at most the length a request asked for, far below 4 GiB");
        let header = OutHeader { len, error, unique: unique.0 };
        let mut bytes = [0; HEAD_BYTES_MAX];
        bytes[..head_bytes].copy_from_slice(header.as_bytes());
        bytes[head_bytes..len_bytes].copy_from_slice(fixed);
        Self { unique, bytes, len_bytes, payload_bytes }
    }
}
