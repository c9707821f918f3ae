//! A simulated device: a durable image, and writes since the last flush kept apart.

use std::io;

use weft_store::Device;

pub(crate) const SECTOR: usize = 512;

/// A xorshift generator: the seed is the whole test.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What a flush has not made durable yet: offset, bytes.
type Write = (usize, Vec<u8>);

pub(crate) struct Disk {
    /// What a power loss leaves for sure.
    durable: Vec<u8>,
    /// What reads see: page cache and device cache included.
    current: Vec<u8>,
    unsynced: Vec<Write>,
    /// What starts here cannot be read by an open.
    pub(crate) unreadable: Option<usize>,
}

impl Disk {
    pub(crate) fn new(bytes: usize) -> Disk {
        let (durable, current) = (vec![0xee; bytes], vec![0xee; bytes]);
        Disk { durable, current, unsynced: Vec::new(), unreadable: None }
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        self.current[at..at + bytes.len()].copy_from_slice(bytes);
        self.unsynced.push((at, bytes.to_vec()));
    }

    /// Makes durable what was written before `count` writes ago; a flush covers what was completed
    /// when it began.
    pub(crate) fn flush_first(&mut self, count: usize) {
        for (at, bytes) in self.unsynced.drain(..count) {
            self.durable[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }

    pub(crate) fn unsynced_count(&self) -> usize {
        self.unsynced.len()
    }

    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) {
        let at = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.current[at..at + buf.len()]);
    }

    /// Power loss: of each unsynced write all, nothing, or some sectors arrive. Order is kept
    /// where writes overlap in a sector.
    pub(crate) fn power_loss(&mut self, random: &mut Random) {
        let share = [0, 20, 50, 80, 100][usize::try_from(random.below(5)).unwrap()];
        for (at, bytes) in self.unsynced.drain(..) {
            let whole = random.chance(70).then(|| random.chance(share));
            for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                if whole.unwrap_or_else(|| random.chance(share)) {
                    let at = at + number * SECTOR;
                    self.durable[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        self.current.copy_from_slice(&self.durable);
    }

    /// A discard: what was there reads as zeros, as before, or as anything, block by block, and a
    /// power loss before the next flush may bring back what was there.
    pub(crate) fn discard(&mut self, offset: u64, bytes: usize, random: &mut Random) {
        let mut left = vec![0; bytes];
        self.read(offset, &mut left);
        for block in left.chunks_mut(4096) {
            match random.below(3) {
                0 => block.fill(0),
                1 => {}
                _ => block.iter_mut().for_each(|byte| *byte = random.next().to_le_bytes()[7]),
            }
        }
        self.write(offset, &left);
    }

    /// The device becomes longer; what is new holds anything.
    pub(crate) fn extend(&mut self, bytes: usize) {
        self.durable.resize(self.durable.len().max(bytes), 0xee);
        self.current.resize(self.durable.len(), 0xee);
    }

    pub(crate) fn flip(&mut self, offset: usize, bit: u8) {
        self.current[offset] ^= 1 << bit;
        self.durable[offset] ^= 1 << bit;
    }

    pub(crate) fn find(&self, from: usize, pattern: &[u8]) -> Option<usize> {
        self.current[from..].windows(pattern.len()).position(|w| w == pattern).map(|at| at + from)
    }
}

impl Device for Disk {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        let end = at + buf.len();
        if self.unreadable == Some(at) {
            return Err(io::Error::other("a medium error"));
        }
        let bytes = self.current.get(at..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_first(self.unsynced.len());
        Ok(())
    }

    fn len_bytes(&self) -> u64 {
        u64::try_from(self.current.len()).unwrap()
    }
}
