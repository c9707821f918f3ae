//! The table of operations in flight.
//!
//! It is made once and never grows, so what the kernel points into keeps its address. An entry is
//! removed only by the completion of its operation.

use io_uring::types::Timespec;
use rustix::net::SocketAddrAny;
use slab::Slab;

use crate::op::{FileId, Op, OpId};

/// One operation the table owns.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) token: u64,
    pub(crate) op: Op,
    /// Bytes transferred by earlier rounds.
    pub(crate) done_bytes: u32,
    /// Bytes the whole transfer has; 0 for operations that transfer nothing.
    pub(crate) total_bytes: u32,
    /// Bytes that the NVMe command under way transfers; `None` when it is none.
    pub(crate) command_bytes: Option<u32>,
    /// The caller asked for its end: it is not continued.
    pub(crate) cancelled: bool,
}

/// What the kernel reads besides the buffers. Written only while its operation is not in flight.
#[derive(Debug)]
pub(crate) struct Scratch {
    generation: u32,
    pub(crate) iov: Vec<libc::iovec>,
    pub(crate) message: libc::msghdr,
    pub(crate) addr: Option<SocketAddrAny>,
    pub(crate) time: Timespec,
}

/// Operations in flight, by index.
#[derive(Debug)]
pub(crate) struct Table {
    entries: Slab<InFlight>,
    scratch: Box<[Scratch]>,
}

impl Table {
    pub(crate) fn new(ops_max: u32) -> Table {
        let len = usize::try_from(ops_max).expect("u32 fits usize");
        let scratch = (0..len).map(|_| Scratch::new()).collect();
        Table { entries: Slab::with_capacity(len), scratch }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() == self.scratch.len()
    }

    /// Adds an entry. The table must not be full.
    pub(crate) fn insert(&mut self, entry: InFlight) -> OpId {
        assert!(!self.is_full(), "addresses of entries in flight must not change");
        let key = self.entries.insert(entry);
        let index = u32::try_from(key).expect("at most OPS_MAX");
        OpId { index, generation: self.scratch[key].generation }
    }

    /// The entry and its scratch, unless `id` is stale.
    pub(crate) fn get_mut(&mut self, id: OpId) -> Option<(&mut InFlight, &mut Scratch)> {
        let key = usize::try_from(id.index).expect("u32 fits usize");
        let scratch = self.scratch.get_mut(key)?;
        if scratch.generation != id.generation {
            return None;
        }
        Some((self.entries.get_mut(key)?, scratch))
    }

    /// Takes an entry out: its operation is over.
    pub(crate) fn remove(&mut self, id: OpId) -> InFlight {
        let key = usize::try_from(id.index).expect("u32 fits usize");
        assert!(self.scratch[key].generation == id.generation, "removed once");
        self.scratch[key].generation = id.generation.wrapping_add(1);
        self.entries.remove(key)
    }

    /// Operations on one file other than its closing.
    pub(crate) fn ids_on(&self, file: FileId) -> Vec<OpId> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.op.file() == Some(file))
            .filter(|(_, entry)| !matches!(entry.op, Op::Close { .. }))
            .map(|(key, _)| OpId {
                index: u32::try_from(key).expect("at most OPS_MAX"),
                generation: self.scratch[key].generation,
            })
            .collect()
    }

    /// Gives up every entry for good: the kernel would not let go of them.
    pub(crate) fn leak(&mut self) {
        let abandoned = std::mem::replace(self, Table::new(0));
        Box::leak(Box::new(abandoned));
    }
}

impl Scratch {
    fn new() -> Scratch {
        // SAFETY: alive - a value of its own; until - returned by value; alone - nothing else
        // refers to it. All-zero is a valid msghdr: null pointers with zero lengths.
        let message = unsafe { std::mem::zeroed() };
        Scratch { generation: 0, iov: Vec::new(), message, addr: None, time: Timespec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> InFlight {
        let op = Op::Timeout { duration: std::time::Duration::ZERO };
        InFlight {
            token: 0,
            op,
            done_bytes: 0,
            total_bytes: 0,
            command_bytes: None,
            cancelled: false,
        }
    }

    #[test]
    fn a_stale_id_finds_nothing() {
        let mut table = Table::new(2);
        let old = table.insert(entry());
        table.remove(old);
        let new = table.insert(entry());
        assert_eq!(new.index, old.index);
        assert!(table.get_mut(old).is_none());
        assert!(table.get_mut(new).is_some());
        assert!(table.get_mut(OpId { index: 9, generation: 0 }).is_none());
        assert_eq!(OpId::from_user_data(new.user_data()), new);
    }

    #[test]
    fn entries_keep_their_addresses_until_full() {
        let mut table = Table::new(64);
        let first = table.insert(entry());
        let address = std::ptr::from_mut(table.get_mut(first).unwrap().0).addr();
        while !table.is_full() {
            table.insert(entry());
        }
        assert_eq!(std::ptr::from_mut(table.get_mut(first).unwrap().0).addr(), address);
    }
}
