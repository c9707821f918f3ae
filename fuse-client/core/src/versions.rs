//! Which version of a closed file the kernel's page cache holds: bounded, the least recently used goes first.

use std::collections::BTreeMap;

use weft_wire::Ino;

use crate::limits::VERSIONS_MAX;

#[derive(Debug, Default)]
pub(crate) struct Versions {
    known: BTreeMap<Ino, (u64, u64)>,
    by_age: BTreeMap<u64, Ino>,
    next_age: u64,
}

impl Versions {
    pub(crate) fn take(&mut self, ino: Ino) -> Option<u64> {
        let (version, age) = self.known.remove(&ino)?;
        self.by_age.remove(&age);
        Some(version)
    }

    pub(crate) fn put(&mut self, ino: Ino, version: u64) {
        self.take(ino);
        let age = self.next_age;
        self.next_age += 1;
        self.known.insert(ino, (version, age));
        self.by_age.insert(age, ino);
        if self.known.len() > VERSIONS_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first() {
        let mut versions = Versions::default();
        for at in 0..VERSIONS_MAX as u64 {
            versions.put(Ino(at), at);
        }
        versions.put(Ino(0), 7);
        versions.put(Ino(u64::MAX), 8);
        assert_eq!(versions.take(Ino(1)), None, "the oldest");
        assert_eq!(versions.take(Ino(0)), Some(7), "put again, so younger");
        assert_eq!(versions.take(Ino(0)), None);
        assert_eq!(versions.known.len(), versions.by_age.len());
    }
}
