//! Directory entries, packed into the length the kernel asked for.

use zerocopy::IntoBytes;

use super::Entry;
use crate::abi::output::{Dirent, Direntplus};
use crate::abi::record_align;

/// One name of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The inode's number, for `d_ino`.
    pub ino: u64,
    /// Where the listing goes on after this entry: comes back as the offset of the next READDIR.
    pub next_offset: u64,
    /// The file type bits of `st_mode` (`S_IFMT`); 0 is unknown.
    pub mode: u32,
    /// The name.
    pub name: &'a [u8],
}

/// The payload of one READDIR or READDIRPLUS reply, written in place.
#[derive(Debug)]
pub struct DirBuffer<'a> {
    out: &'a mut [u8],
    used_bytes: usize,
}

impl<'a> DirBuffer<'a> {
    /// Packs into `out`, whose length must be at most what the kernel asked for.
    #[must_use]
    pub const fn new(out: &'a mut [u8]) -> Self {
        Self { out, used_bytes: 0 }
    }

    /// Adds an entry of a READDIR; false, and nothing added, when it does not fit.
    #[must_use]
    pub fn push(&mut self, entry: &DirEntry<'_>) -> bool {
        self.push_record(dirent(entry).as_bytes(), entry.name)
    }

    /// Adds an entry of a READDIRPLUS. With `lookup` the kernel takes it as the answer to a LOOKUP
    /// (which counts one lookup); without it, as for "." and "..", it learns the name only.
    #[must_use]
    pub fn push_plus(&mut self, entry: &DirEntry<'_>, lookup: Option<&Entry>) -> bool {
        let known = lookup.map(|entry| entry.to_kernel()).unwrap_or_default();
        let record = Direntplus { entry: known, dirent: dirent(entry) };
        self.push_record(record.as_bytes(), entry.name)
    }

    /// How many bytes are filled: the reply's payload.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        self.used_bytes
    }

    fn push_record(&mut self, fixed: &[u8], name: &[u8]) -> bool {
        assert!(!name.is_empty(), "the kernel takes an empty name for a broken reply");
        let name_at = fixed.len();
        let record_bytes = record_align(name_at + name.len());
        let Some(record) = self
            .used_bytes
            .checked_add(record_bytes)
            .and_then(|end| self.out.get_mut(self.used_bytes..end))
        else {
            return false;
        };
        let (head, tail) = record.split_at_mut(name_at);
        head.copy_from_slice(fixed);
        let (name_out, pad) = tail.split_at_mut(name.len());
        name_out.copy_from_slice(name);
        pad.fill(0);
        self.used_bytes += record_bytes;
        true
    }
}

fn dirent(entry: &DirEntry<'_>) -> Dirent {
    Dirent {
        ino: entry.ino,
        off: entry.next_offset,
        namelen: u32::try_from(entry.name.len()).expect("names are at most 255 bytes"),
        kind: (entry.mode >> 12) & 0xf,
    }
}
