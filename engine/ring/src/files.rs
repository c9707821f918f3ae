//! Book-keeping of the registered files: which places are free, and who still works on a file.
//!
//! Invariant: a file's descriptor is let go only when it is closing and no operation is left on it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::nvme::Namespace;
use crate::op::{FileId, OpId};

#[derive(Debug)]
struct Slot {
    generation: u32,
    fd: Option<OwnedFd>,
    /// Its reads, writes and flushes go as NVMe commands.
    nvme: Option<Namespace>,
    /// Longer reads and writes go in parts of at most this.
    part_bytes_max: u32,
    op_count: u32,
    closing: bool,
    /// The close operation that waits for the end.
    closer: Option<OpId>,
}

/// The places of the ring's file table.
#[derive(Debug)]
pub(crate) struct FileTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl FileTable {
    pub(crate) fn new(files_max: u32) -> FileTable {
        let empty = || Slot {
            generation: 0,
            fd: None,
            nvme: None,
            part_bytes_max: u32::MAX,
            op_count: 0,
            closing: false,
            closer: None,
        };
        FileTable {
            slots: (0..files_max).map(|_| empty()).collect(),
            free: (0..files_max).rev().collect(),
        }
    }

    /// Takes a place for `fd`; `None` gives no place, and `fd` is closed by the caller's `Err`.
    pub(crate) fn insert(&mut self, fd: OwnedFd) -> Option<FileId> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[at(index)];
        slot.fd = Some(fd);
        Some(FileId { index, generation: slot.generation })
    }

    /// The descriptor of an open file.
    pub(crate) fn get(&self, id: FileId) -> Option<BorrowedFd<'_>> {
        let slot = self.slots.get(at(id.index))?;
        let live = slot.generation == id.generation && !slot.closing;
        slot.fd.as_ref().filter(|_| live).map(AsFd::as_fd)
    }

    /// Marks an open file as a namespace's character device.
    pub(crate) fn set_nvme(&mut self, id: FileId, namespace: Namespace) {
        self.slots[at(id.index)].nvme = Some(namespace);
    }

    /// The namespace behind a file that takes NVMe commands.
    pub(crate) fn nvme(&self, id: FileId) -> Option<&Namespace> {
        self.slots[at(id.index)].nvme.as_ref()
    }

    /// Bounds how much one entry for an open file transfers.
    pub(crate) fn set_part_bytes_max(&mut self, id: FileId, part_bytes_max: u32) {
        self.slots[at(id.index)].part_bytes_max = part_bytes_max;
    }

    /// See [`FileTable::set_part_bytes_max`].
    pub(crate) fn part_bytes_max(&self, id: FileId) -> u32 {
        self.slots[at(id.index)].part_bytes_max
    }

    /// Counts an operation on a file that [`FileTable::get`] found.
    pub(crate) fn op_started(&mut self, id: FileId) {
        self.slots[at(id.index)].op_count += 1;
    }

    /// Counts it off. True when the file was waiting for this to be closed.
    pub(crate) fn op_ended(&mut self, id: FileId) -> bool {
        let slot = &mut self.slots[at(id.index)];
        assert!(slot.generation == id.generation, "a file outlives its operations");
        slot.op_count = slot.op_count.checked_sub(1).expect("each operation ends once");
        slot.closing && slot.op_count == 0
    }

    /// Marks an open file as closing. True when nothing is in flight on it.
    pub(crate) fn close(&mut self, id: FileId, closer: Option<OpId>) -> bool {
        let slot = &mut self.slots[at(id.index)];
        slot.closing = true;
        slot.closer = closer;
        slot.op_count == 0
    }

    /// Gives up the place of a file whose operations have ended.
    pub(crate) fn remove(&mut self, id: FileId) -> (Option<OwnedFd>, Option<OpId>) {
        let slot = &mut self.slots[at(id.index)];
        assert!(slot.generation == id.generation && slot.op_count == 0);
        slot.generation = slot.generation.wrapping_add(1);
        slot.closing = false;
        slot.nvme = None;
        slot.part_bytes_max = u32::MAX;
        self.free.push(id.index);
        (slot.fd.take(), slot.closer.take())
    }
}

fn at(index: u32) -> usize {
    usize::try_from(index).expect("u32 fits usize")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn a_place_is_used_again_and_the_old_id_is_stale() {
        let mut files = FileTable::new(1);
        let old = files.insert(fd()).unwrap();
        assert!(files.insert(fd()).is_none());
        assert!(files.close(old, None));
        assert!(files.get(old).is_none(), "a closing file takes nothing more");
        files.remove(old);
        let new = files.insert(fd()).unwrap();
        assert_eq!(new.index, old.index);
        assert!(files.get(old).is_none());
        assert!(files.get(new).is_some());
    }

    #[test]
    fn closing_waits_for_the_last_operation() {
        let mut files = FileTable::new(4);
        let id = files.insert(fd()).unwrap();
        files.op_started(id);
        files.op_started(id);
        assert!(!files.op_ended(id), "not closing");
        assert!(!files.close(id, None));
        assert!(files.op_ended(id));
    }
}
