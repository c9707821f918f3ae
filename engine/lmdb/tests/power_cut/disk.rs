//! The data file under a power cut: what a recorded sequence may leave of it.
//!
//! A sync makes all before it durable, a synced write its own sectors. Of what came since, each
//! 512-byte sector keeps any of the contents it had, in any combination; the file has any of the
//! lengths it had. Sectors newly in the file whose contents did not make it are zeros, or junk.

use crate::record::Op;
use std::collections::BTreeMap;

const SECTOR: usize = 512;

/// splitmix64: a seed is a run.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What a sector held after the write of this number.
type Version = (usize, Vec<u8>);

/// The file as programs see it, and what of it is durable.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// By sector: what it held since it was durable last.
    unsynced: BTreeMap<usize, Vec<Version>>,
    lens_unsynced: Vec<usize>,
    write_count: usize,
}

impl Disk {
    pub(crate) fn new(durable: Vec<u8>) -> Disk {
        Disk {
            cached: durable.clone(),
            durable,
            unsynced: BTreeMap::new(),
            lens_unsynced: Vec::new(),
            write_count: 0,
        }
    }

    /// What a program reads.
    pub(crate) fn cached(&self) -> &[u8] {
        &self.cached
    }

    /// The operation was carried out.
    pub(crate) fn done(&mut self, op: &Op) {
        self.begun(op);
        match op {
            Op::Sync => self.sync(0..usize::MAX),
            Op::Write { at, bytes, synced: true } => {
                self.sync(at / SECTOR..(at + bytes.len()).div_ceil(SECTOR));
            }
            _ => {}
        }
    }

    /// The operation was under way.
    pub(crate) fn begun(&mut self, op: &Op) {
        match op {
            Op::Write { at, bytes, .. } => {
                self.set_len(self.cached.len().max(at + bytes.len()));
                self.cached[*at..at + bytes.len()].copy_from_slice(bytes);
                self.write_count += 1;
                for sector in at / SECTOR..(at + bytes.len()).div_ceil(SECTOR) {
                    let version = (self.write_count, sector_of(&self.cached, sector));
                    self.unsynced.entry(sector).or_default().push(version);
                }
            }
            Op::SetLen(len) => self.set_len(*len),
            _ => {}
        }
    }

    fn set_len(&mut self, len: usize) {
        assert!(len >= self.cached.len(), "LMDB never makes its file shorter");
        if len > self.cached.len() {
            self.cached.resize(len, 0);
            self.lens_unsynced.push(len);
        }
    }

    fn sync(&mut self, sectors: std::ops::Range<usize>) {
        if sectors.end == usize::MAX {
            self.lens_unsynced.clear();
            self.durable.resize(self.cached.len(), 0);
        }
        let synced: Vec<usize> = self.unsynced.range(sectors).map(|(sector, _)| *sector).collect();
        for sector in synced {
            self.unsynced.remove(&sector);
            let end = ((sector + 1) * SECTOR).min(self.cached.len());
            self.durable.resize(self.durable.len().max(end), 0);
            self.durable[sector * SECTOR..end].copy_from_slice(&self.cached[sector * SECTOR..end]);
        }
    }

    /// What a power cut leaves now.
    pub(crate) fn cut(&self, rng: &mut Rng) -> Vec<u8> {
        let mode = rng.below(8);
        let junk = rng.one_in(4);
        let salt = rng.next();
        let an_op = self.write_count - rng.below(self.write_count.clamp(1, 12));
        let lens = self.lens_unsynced.len();
        let len = match rng.below(2 + lens) {
            0 => self.durable.len(),
            choice if choice <= lens => self.lens_unsynced[choice - 1],
            _ => self.cached.len(),
        };
        let mut image = self.durable.clone();
        image.resize(image.len().max(self.cached.len()), 0);
        for (sector, versions) in &self.unsynced {
            let last = versions.len();
            let newest_of = |takes: &dyn Fn(usize) -> bool| {
                versions.iter().rposition(|(op, _)| takes(*op)).map_or(0, |i| i + 1)
            };
            // 0: what was durable; else the version of this number.
            let choice = match mode {
                0 => 0,
                1 => last,
                2 | 3 => rng.below(last + 1),
                4 => newest_of(&|op| Rng(salt ^ op as u64).one_in(2)),
                5 => newest_of(&|op| op == an_op),
                6 => newest_of(&|op| op != an_op),
                _ => last * usize::from(!rng.one_in(24)),
            };
            let end = ((sector + 1) * SECTOR).min(image.len());
            let place = &mut image[sector * SECTOR..end];
            match choice {
                0 if junk && sector * SECTOR >= self.durable.len() => {
                    place.fill_with(|| rng.next() as u8);
                }
                0 => {}
                _ => place.copy_from_slice(&versions[choice - 1].1[..place.len()]),
            }
        }
        image.truncate(len);
        image
    }
}

fn sector_of(file: &[u8], sector: usize) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR];
    let end = ((sector + 1) * SECTOR).min(file.len());
    let there = &file[sector * SECTOR..end];
    bytes[..there.len()].copy_from_slice(there);
    bytes
}
