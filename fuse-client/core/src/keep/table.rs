//! A table of records of one length, each whole or not there whenever the writer stops.
//!
//! A record: eight bytes that say whether it is there (0: no) and in which state, then one or two copies of its
//! contents. A copy: checksum and length (4 bytes each), a generation (8), the contents. The one with the right
//! checksum and the highest generation counts; a change writes the other one.

use weft_wire::blocks::crc32c;
use weft_wire::units::{to_u32, to_usize};

const COPY_HEADER_BYTES: usize = 16;

/// Where a table is and how its records look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) at: usize,
    /// Where the count of records that were ever used stands.
    pub(super) used_at: usize,
    pub(super) count: u32,
    pub(super) copies: usize,
    /// Longest contents, a multiple of 8.
    pub(super) content_bytes: usize,
}

impl Shape {
    pub(super) const fn record_bytes(&self) -> usize {
        8 + self.copies * self.copy_bytes()
    }

    const fn copy_bytes(&self) -> usize {
        COPY_HEADER_BYTES + self.content_bytes
    }

    pub(super) const fn end(&self) -> usize {
        let end = self.at + self.record_bytes() * self.count as usize;
        end.next_multiple_of(4096)
    }

    /// A copy that was being written when the writer ended is the next to be written over.
    fn age_torn_copies(&self, bytes: &mut [u8], record: usize) {
        for copy in 0..self.copies {
            let start = record + 8 + copy * self.copy_bytes();
            if content_of(&bytes[start..start + self.copy_bytes()]).is_none() {
                put_number(bytes, start + 8, 0);
            }
        }
    }

    fn record(&self, at: u32) -> usize {
        self.at + to_usize(u64::from(at)) * self.record_bytes()
    }
}

/// Which records are free.
#[derive(Debug)]
pub(super) struct Table {
    shape: Shape,
    /// Records below were used once.
    used: u32,
    free: Vec<u32>,
}

pub(super) fn number(bytes: &[u8], at: usize) -> u64 {
    let eight = bytes[at..at + 8].try_into().expect("eight bytes");
    u64::from_le_bytes(eight)
}

/// One aligned store: a kill leaves the old number or the new one.
pub(super) fn put_number(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
    // What is written before and after it stays before and after it.
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
}

/// The contents that count in a record's bytes.
pub(super) fn content<'a>(record: &'a [u8], shape: &Shape) -> Option<&'a [u8]> {
    let copies = record[8..].chunks_exact(shape.copy_bytes()).take(shape.copies);
    let valid = copies.filter_map(|copy| Some((number(copy, 8), content_of(copy)?)));
    valid.max_by_key(|(generation, _)| *generation).map(|(_, content)| content)
}

/// The contents of one copy, if they are whole.
fn content_of(copy: &[u8]) -> Option<&[u8]> {
    let head = number(copy, 0);
    let end = COPY_HEADER_BYTES.checked_add(to_usize(head >> 32))?;
    let sum = crc32c(copy.get(4..end)?);
    (head & 0xffff_ffff == u64::from(sum)).then(|| &copy[COPY_HEADER_BYTES..end])
}

impl Table {
    pub(super) fn open(shape: Shape, bytes: &mut [u8]) -> Table {
        let used = number(bytes, shape.used_at).min(u64::from(shape.count));
        let used = u32::try_from(used).expect("at most `count`");
        let mut free: Vec<u32> = Vec::new();
        for at in 0..used {
            let start = shape.record(at);
            if number(bytes, start) == 0 {
                free.push(at);
            } else if content(&bytes[start..start + shape.record_bytes()], &shape).is_none() {
                debug_assert!(false, "a record is there when its contents are");
                put_number(bytes, start, 0);
                free.push(at);
            } else {
                shape.age_torn_copies(bytes, start);
            }
        }
        free.reverse();
        Table { shape, used, free }
    }

    pub(super) fn content<'a>(&self, bytes: &'a [u8], at: u32) -> Option<&'a [u8]> {
        let start = self.shape.record(at);
        content(&bytes[start..start + self.shape.record_bytes()], &self.shape)
    }

    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.used < self.shape.count
    }

    pub(super) fn for_each(&self, bytes: &[u8], what: &mut dyn FnMut(u32, u64, &[u8])) {
        for at in 0..self.used {
            let start = self.shape.record(at);
            let record = &bytes[start..start + self.shape.record_bytes()];
            if let (live @ 1.., Some(content)) = (number(record, 0), content(record, &self.shape)) {
                what(at, live, content);
            }
        }
    }

    pub(super) fn insert(&mut self, bytes: &mut [u8], live: u64, content: &[u8]) -> Option<u32> {
        assert!(live != 0, "0 means that there is no record");
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.used < self.shape.count => {
                self.used += 1;
                self.used - 1
            }
            None => return None,
        };
        self.update(bytes, at, content);
        put_number(bytes, self.shape.record(at), live);
        // After the record: those beyond count as not there.
        if number(bytes, self.shape.used_at) < u64::from(self.used) {
            put_number(bytes, self.shape.used_at, u64::from(self.used));
        }
        Some(at)
    }

    pub(super) fn update(&mut self, bytes: &mut [u8], at: u32, content: &[u8]) {
        assert!(content.len() <= self.shape.content_bytes, "contents fit their record");
        let first = self.shape.record(at) + 8;
        let generation = |copy: usize| number(bytes, first + copy * self.shape.copy_bytes() + 8);
        let newest = (0..self.shape.copies).map(generation).max().unwrap_or(0);
        let older = (0..self.shape.copies).min_by_key(|copy| generation(*copy)).unwrap_or(0);
        let start = first + older * self.shape.copy_bytes();
        let copy = &mut bytes[start..start + COPY_HEADER_BYTES + content.len()];
        copy[COPY_HEADER_BYTES..].copy_from_slice(content);
        copy[8..16].copy_from_slice(&(newest + 1).to_le_bytes());
        copy[4..8].copy_from_slice(&to_u32(content.len()).to_le_bytes());
        let sum = crc32c(&copy[4..]);
        let head = u64::from(to_u32(content.len())) << 32 | u64::from(sum);
        put_number(bytes, start, head);
    }

    pub(super) fn set_live(&mut self, bytes: &mut [u8], at: u32, live: u64) {
        assert!(live != 0, "0 means that there is no record");
        put_number(bytes, self.shape.record(at), live);
    }

    pub(super) fn remove(&mut self, bytes: &mut [u8], at: u32) {
        put_number(bytes, self.shape.record(at), 0);
        self.free.push(at);
    }
}
