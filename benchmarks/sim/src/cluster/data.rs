//! The oracle of one file's bytes: what a read may find, from what was written, synced, lost and failed.
//!
//! Of every byte is known what is durable for sure (`base`), what the program sees (`now`), and the writes since the
//! last sync. Where a failure was reported, or the client that wrote is gone, writes may or may not have happened;
//! such a file is not `exact` until it is emptied.

use std::collections::BTreeSet;

use weft_wire::units::to_u64;

const BLOCK: usize = 4096;

/// Bytes at an offset.
#[derive(Clone, Debug)]
struct Write {
    offset: usize,
    bytes: Vec<u8>,
}

impl Write {
    fn cut(&mut self, size: usize) {
        self.bytes.truncate(size.saturating_sub(self.offset));
    }

    fn blocks(&self) -> std::ops::Range<usize> {
        self.offset / BLOCK..(self.offset + self.bytes.len()).div_ceil(BLOCK)
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct FileData {
    /// What the program sees, as long as the file is exact.
    pub(super) now: Vec<u8>,
    /// What the program sees is what was written; otherwise any of the writes may be missing.
    pub(super) inexact: bool,
    /// Power was lost under writes that were not durable: until the next sync blocks may be damaged.
    shaky: bool,
    base: Vec<u8>,
    pending: Vec<Write>,
    maybe: Vec<Write>,
    damaged: BTreeSet<usize>,
    /// The volume's size is at least this: an fsync, or a cut, said so.
    told: usize,
    /// And at most this.
    longest: usize,
    /// The end of a write that is not answered: a volume that takes it knows of it before.
    writing: usize,
    /// A cut is asked for and not answered.
    cutting: Option<usize>,
    /// Written to since the last fsync: a failure may still have to be reported, also after a flush, which does not wait for
    /// the volume.
    unsynced: bool,
}

fn put(into: &mut Vec<u8>, write: &Write) {
    let end = write.offset + write.bytes.len();
    if into.len() < end {
        into.resize(end, 0);
    }
    into[write.offset..end].copy_from_slice(&write.bytes);
}

impl FileData {
    /// A write that ends here is about to be asked for.
    pub(super) fn write_begins(&mut self, end: usize) {
        self.writing = end;
    }

    /// It was answered, one way or the other.
    pub(super) fn write_ended(&mut self) {
        self.writing = 0;
    }

    /// A write was taken.
    pub(super) fn wrote(&mut self, offset: usize, bytes: Vec<u8>) {
        let write = Write { offset, bytes };
        put(&mut self.now, &write);
        self.longest = self.longest.max(self.now.len());
        self.pending.push(write);
        self.unsynced = true;
    }

    /// An error was reported, or nobody will ever say how it ended: what is not durable may be there or not.
    pub(super) fn gave_up(&mut self) {
        (self.inexact, self.unsynced) = (true, false);
        self.maybe.append(&mut self.pending);
    }

    /// A write that is not known to have been taken.
    pub(super) fn perhaps_wrote(&mut self, offset: usize, bytes: Vec<u8>) {
        self.longest = self.longest.max(offset + bytes.len());
        self.maybe.push(Write { offset, bytes });
        self.inexact = true;
    }

    /// Everything is at the servers, the length at the volume.
    pub(super) fn settled(&mut self) {
        self.unsynced = false;
        if !self.inexact {
            self.told = self.now.len();
        }
    }

    /// Everything is durable.
    pub(super) fn synced(&mut self) {
        self.settled();
        let pending = std::mem::take(&mut self.pending);
        for write in &pending {
            put(&mut self.base, write);
        }
        self.shaky = false;
        let unsure: BTreeSet<usize> = self.maybe.iter().flat_map(Write::blocks).collect();
        self.damaged.retain(|block| unsure.contains(block));
    }

    /// The length is about to be set.
    pub(super) fn cut_begins(&mut self, size: usize) {
        self.cutting = Some(size);
        self.longest = self.longest.max(size);
    }

    /// The length is set, durably.
    pub(super) fn cut_done(&mut self) {
        let Some(size) = self.cutting.take() else { return };
        for write in self.pending.iter_mut().chain(&mut self.maybe) {
            write.cut(size);
        }
        self.pending.retain(|write| !write.bytes.is_empty());
        self.maybe.retain(|write| !write.bytes.is_empty());
        self.base.truncate(size);
        self.now.resize(size, 0);
        self.damaged.retain(|block| block * BLOCK < size);
        self.inexact &= size > 0;
        (self.told, self.longest) = (size, size);
    }

    /// The length was not set, and is not going to be.
    pub(super) fn cut_refused(&mut self) {
        self.cutting = None;
    }

    /// Nobody says whether the length was set.
    pub(super) fn cut_unsure(&mut self) {
        let Some(size) = self.cutting.take() else { return };
        self.gave_up();
        self.told = self.told.min(size);
        let end = self.base.len().max(self.longest);
        let zeros = vec![0; end.saturating_sub(size)];
        self.maybe.push(Write { offset: size, bytes: zeros });
    }

    /// The machines of the targets lost power. `kept`: a client has what is not durable and writes it again.
    pub(super) fn power_lost(&mut self, kept: bool) {
        let writes = self.pending.iter().chain(&self.maybe);
        self.damaged.extend(writes.flat_map(Write::blocks));
        if !self.pending.is_empty() || !self.maybe.is_empty() {
            self.shaky = true;
            if !kept {
                self.gave_up();
            }
        }
    }

    /// Power was lost under a write that was not answered.
    pub(super) fn endanger(&mut self, offset: usize, bytes: usize) {
        self.damaged.extend(offset / BLOCK..(offset + bytes).div_ceil(BLOCK));
        self.shaky = true;
    }

    /// Whether EIO may be answered because of what a power loss took.
    pub(super) fn may_fail(&self) -> bool {
        self.shaky || !self.damaged.is_empty()
    }

    /// Whether the volume may say this size.
    pub(super) fn may_be_long(&self, size: u64) -> bool {
        let between = to_u64(self.told)..=to_u64(self.longest.max(self.told).max(self.writing));
        between.contains(&size) || self.cutting.is_some_and(|cut| to_u64(cut) == size)
    }

    /// Whether the program that has it open may see this size. `unheard`: writes may have failed unheard of.
    pub(super) fn may_look_long(&self, size: u64, unheard: bool) -> bool {
        match self.is_loose(unheard) {
            true => self.may_be_long(size),
            false => size == to_u64(self.now.len()),
        }
    }

    /// Whether its bytes are what the program wrote. `unheard`: also where writes may have failed unheard of, which then
    /// takes an fsync.
    pub(super) fn is_sure(&self, unheard: bool) -> bool {
        !self.is_loose(unheard)
    }

    fn is_loose(&self, unheard: bool) -> bool {
        self.inexact || self.may_fail() || (unheard && self.unsynced)
    }

    /// Whether a read of the block at `offset` may fail.
    pub(super) fn may_be_damaged(&self, offset: usize, bytes: usize) -> bool {
        let blocks = offset / BLOCK..(offset + bytes).div_ceil(BLOCK);
        self.damaged.range(blocks).next().is_some()
    }

    /// Compares what a read found. `unheard` as above.
    ///
    /// # Errors
    /// A sentence with the first wrong byte.
    pub(super) fn check(
        &self,
        offset: usize,
        asked: usize,
        found: &[u8],
        unheard: bool,
    ) -> Result<(), String> {
        if !self.is_loose(unheard) {
            let end = (offset + asked).min(self.now.len());
            let right = self.now.get(offset..end).unwrap_or_default();
            if right == found {
                return Ok(());
            }
            let differs = right.iter().zip(found).position(|(a, b)| a != b);
            return Err(format!(
                "{} bytes at {offset} where {} are right; first difference at {:?}",
                found.len(),
                right.len(),
                differs.map(|at| at + offset)
            ));
        }
        self.check_loosely(offset, found)
    }

    /// Compares what is there with all that may be there.
    ///
    /// # Errors
    /// As [`FileData::check`].
    fn check_loosely(&self, offset: usize, found: &[u8]) -> Result<(), String> {
        let mut fine: Vec<bool> = (offset..offset + found.len())
            .zip(found)
            .map(|(at, byte)| self.base.get(at).copied().unwrap_or(0) == *byte)
            .collect();
        let end = offset + found.len();
        for write in self.pending.iter().chain(&self.maybe) {
            let from = write.offset.max(offset);
            let to = (write.offset + write.bytes.len()).min(end);
            for at in from..to {
                fine[at - offset] |= write.bytes[at - write.offset] == found[at - offset];
            }
        }
        if let Some(cut) = self.cutting {
            for at in cut.max(offset)..end {
                fine[at - offset] |= found[at - offset] == 0;
            }
        }
        match fine.iter().position(|fine| !fine) {
            None => Ok(()),
            Some(at) => {
                let block = (at + offset) / BLOCK;
                Err(format!(
                    "byte {} of block {block} is {}, which nobody wrote there ({} of {} wrong)",
                    at + offset,
                    found[at],
                    fine.iter().filter(|fine| !**fine).count(),
                    found.len()
                ))
            }
        }
    }

    /// What sizes it may have.
    pub(super) fn tell_size(&self) -> String {
        let (told, longest, cutting) = (self.told, self.longest, self.cutting);
        format!("{told} to {longest}, or {cutting:?}")
    }

    /// The length to read.
    pub(super) fn longest(&self) -> usize {
        self.longest.max(self.now.len())
    }
}
