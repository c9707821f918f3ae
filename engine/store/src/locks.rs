//! Which operations may run at the same time: range locks, granted in order of arrival.
//!
//! An operation holds one range: blocks of one chunk (a read, a write) or all blocks of a row of
//! chunks (a truncation). It runs once nothing that came before it on the same inode overlaps it,
//! unless both only read. Since nobody overtakes, nobody starves and there is no deadlock.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use weft_wire::Ino;

/// What an operation holds.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) chunks: RangeInclusive<u64>,
    pub(crate) blocks: RangeInclusive<u32>,
    pub(crate) exclusive: bool,
}

impl Hold {
    fn conflicts(&self, other: &Hold) -> bool {
        overlap(&self.chunks, &other.chunks)
            && overlap(&self.blocks, &other.blocks)
            && (self.exclusive || other.exclusive)
    }
}

#[derive(Debug)]
struct Entry {
    op: usize,
    hold: Hold,
    granted: bool,
}

/// The operations on one inode, in order of arrival as long as one of them waits.
#[derive(Debug, Default)]
struct Queue {
    entries: Vec<Entry>,
    waiting: usize,
}

/// The queues, one for each inode with operations under way.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    queues: BTreeMap<Ino, Queue>,
}

impl Locks {
    /// Queues `op`; whether it may run at once.
    pub(crate) fn acquire(&mut self, ino: Ino, op: usize, hold: Hold) -> bool {
        let queue = self.queues.entry(ino).or_default();
        let granted = !queue.entries.iter().any(|entry| entry.hold.conflicts(&hold));
        queue.waiting += usize::from(!granted);
        queue.entries.push(Entry { op, hold, granted });
        granted
    }

    /// Takes `op` out and appends to `ready` the operations that may run now.
    pub(crate) fn release(&mut self, ino: Ino, op: usize, ready: &mut impl Extend<usize>) {
        let queue = self.queues.get_mut(&ino).expect("held since acquire");
        let entries = &mut queue.entries;
        let at = entries.iter().position(|entry| entry.op == op).expect("held since acquire");
        if queue.waiting == 0 {
            // Whoever comes later comes after all of them, whatever their order is.
            entries.swap_remove(at);
        } else {
            queue.waiting -= usize::from(!entries.remove(at).granted);
            for next in at..entries.len() {
                let (before, rest) = entries.split_at_mut(next);
                let entry = &mut rest[0];
                if !entry.granted && !before.iter().any(|other| other.hold.conflicts(&entry.hold)) {
                    entry.granted = true;
                    queue.waiting -= 1;
                    ready.extend([entry.op]);
                }
            }
        }
        if entries.is_empty() {
            self.queues.remove(&ino);
        }
    }
}

fn overlap<T: PartialOrd>(a: &RangeInclusive<T>, b: &RangeInclusive<T>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(chunk: u64, blocks: RangeInclusive<u32>, exclusive: bool) -> Hold {
        Hold { chunks: chunk..=chunk, blocks, exclusive }
    }

    #[test]
    fn overlapping_operations_run_in_order_of_arrival() {
        let mut locks = Locks::default();
        let ino = Ino(1);
        assert!(locks.acquire(ino, 0, hold(0, 0..=9, false)));
        assert!(locks.acquire(ino, 1, hold(0, 5..=6, false)), "readers share");
        assert!(!locks.acquire(ino, 2, hold(0, 6..=7, true)));
        assert!(!locks.acquire(ino, 3, hold(0, 7..=7, false)), "no overtaking the writer");
        assert!(locks.acquire(ino, 4, hold(0, 10..=11, true)));
        assert!(locks.acquire(ino, 5, hold(1, 0..=99, true)));
        let all = Hold { chunks: 0..=u64::MAX, blocks: 0..=u32::MAX, exclusive: true };
        assert!(!locks.acquire(ino, 6, all.clone()));
        assert!(locks.acquire(Ino(2), 7, all));
        let mut ready = Vec::new();
        locks.release(ino, 0, &mut ready);
        assert_eq!(ready, [] as [usize; 0]);
        locks.release(ino, 1, &mut ready);
        assert_eq!(ready, [2]);
        locks.release(ino, 2, &mut ready);
        assert_eq!(ready, [2, 3]);
        for op in [3, 4, 5] {
            locks.release(ino, op, &mut ready);
        }
        assert_eq!(ready, [2, 3, 6]);
        locks.release(ino, 6, &mut ready);
        locks.release(Ino(2), 7, &mut ready);
        assert!(locks.queues.is_empty());
    }
}
