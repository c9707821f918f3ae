//! What the kernel knows of what it was told, and what it lets go of.
//!
//! It answers by itself for as long as a lease is left, so what it was told longer ago than that it asks for again. When
//! it has little memory it lets go of inodes, and so does the cache here.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_wire::Ino;

use crate::core::{ClientCore, at};
use crate::limits::{KERNEL_LATE, TOLD_INTERVAL, TRIM_COUNT_MIN, TRIM_DELAY};
use crate::op::Output;

impl ClientCore {
    /// The kernel does not know the inode any more, as a rule for want of memory: what nobody else needs goes here, too. Should
    /// it have come to know it again meanwhile, recalls tell it so whatever is known here.
    pub(crate) fn kernel_let_go(&mut self, ino: Ino) {
        if !self.files.contains_key(&ino) && !self.lingering.files.contains_key(&ino) {
            self.cache.let_go(ino);
        }
    }

    /// Has memory given back once much has gone.
    pub(crate) fn trim_memory_due(&mut self) {
        if self.cache.freed_count() < TRIM_COUNT_MIN {
            return;
        }
        let due = *self.trim_due.get_or_insert(self.now + TRIM_DELAY);
        if due <= self.now {
            self.trim_due = None;
            self.cache.gave_back();
            self.push(Output::TrimMemory);
        }
    }

    /// All that the kernel may know without asking: names by their epoch, and with them the attributes of what is found
    /// by name; then those of what is open, also when the client-core before this one let it know; and those that it was told
    /// lately, for who stands in a directory. What it was told before has timed out, and that may be very many.
    pub(crate) fn known_to_kernel(&self) -> Vec<Ino> {
        let open = self.handles.values().map(|handle| handle.ino);
        let timed_out = |told: &&(Duration, u64)| told.0 + KERNEL_LATE <= self.now;
        let age = self.told.iter().rev().find(timed_out).map_or(0, |(_, age)| *age);
        let all: BTreeSet<Ino> =
            open.chain(self.files.keys().copied()).chain(self.cache.used_since(age)).collect();
        all.into_iter().collect()
    }

    /// Remembers until when what the kernel was told so far may hold.
    pub(crate) fn mark_told(&mut self) {
        let links = self.volumes.values().map(|volume| &self.links[at(volume.link)]);
        let until = links.map(|link| link.leases_until()).max().unwrap_or(Duration::ZERO);
        if self.told.back().is_none_or(|(last, _)| *last + TOLD_INTERVAL <= until) {
            self.told.push_back((until, self.cache.next_age()));
        }
        while self.told.get(1).is_some_and(|(until, _)| *until + KERNEL_LATE <= self.now) {
            self.told.pop_front();
        }
    }
}
