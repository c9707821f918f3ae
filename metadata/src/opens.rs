//! Who has which inode open, how often. Lost at a restart; sessions say it again (`Reopen`).

use std::collections::BTreeMap;

use weft_wire::{Ino, SessionId};

#[derive(Debug, Default)]
pub(crate) struct Opens {
    counts: BTreeMap<(SessionId, Ino), u32>,
    /// Sessions that have the inode open.
    holders: BTreeMap<Ino, u32>,
}

impl Opens {
    pub(crate) fn is_open(&self, ino: Ino) -> bool {
        self.holders.contains_key(&ino)
    }

    /// One more open.
    pub(crate) fn add(&mut self, session: SessionId, ino: Ino) {
        let count = self.count(session, ino);
        self.set(session, ino, count.saturating_add(1));
    }

    /// `count` opens are given back; more than there are gives back what is there.
    pub(crate) fn release(&mut self, session: SessionId, ino: Ino, count: u32) {
        let held = self.count(session, ino);
        self.set(session, ino, held.saturating_sub(count));
    }

    /// The session has `ino` open so often.
    pub(crate) fn set(&mut self, session: SessionId, ino: Ino, count: u32) {
        let key = (session, ino);
        let before = match count {
            0 => self.counts.remove(&key),
            _ => self.counts.insert(key, count),
        };
        match (before, count) {
            (None, 1..) => *self.holders.entry(ino).or_insert(0) += 1,
            (Some(_), 0) => self.drop_holder(ino),
            _ => {}
        }
    }

    /// The session is over: the inodes it had open.
    pub(crate) fn end(&mut self, session: SessionId) -> Vec<Ino> {
        let all = (session, Ino(0))..=(session, Ino(u64::MAX));
        let inos: Vec<Ino> = self.counts.range(all).map(|((_, ino), _)| *ino).collect();
        for ino in &inos {
            self.set(session, *ino, 0);
        }
        inos
    }

    pub(crate) fn count(&self, session: SessionId, ino: Ino) -> u32 {
        self.counts.get(&(session, ino)).copied().unwrap_or(0)
    }

    /// Inodes open, by session.
    pub(crate) fn len(&self) -> usize {
        self.counts.len()
    }

    fn drop_holder(&mut self, ino: Ino) {
        if let Some(holders) = self.holders.get_mut(&ino) {
            *holders -= 1;
            if *holders == 0 {
                self.holders.remove(&ino);
            }
        }
    }
}
