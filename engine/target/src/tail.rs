//! Where a journal grows: its next pages, mapped.
//!
//! A journal record is 88 bytes as a rule, and a 4 KiB overwrite takes two. A `pwrite` into the page
//! cache takes 2 us, a store into a mapped page 0.1 us, the faults after each flush included. So
//! the first append into new pages is written, with zeros some pages ahead, and those that follow
//! are stored: the pages are there (no fault reads them from the device) and the file has room for
//! them. Both leave the same bytes in the same page cache, so all that is said of appends
//! holds for either. Where a map cannot be had, every append is written.

use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::AsFd;

use rustix::io::Errno;
use weft_iobuf::FileMap;
use weft_wire::units::{to_u64, to_usize};

/// Longest map: the journal's pages in it count as this process's memory.
const MAP_BYTES_MAX: u64 = 1 << 20;
/// Zeros written behind an append. They are on the device with the next flush, so they are few.
static AHEAD: [u8; 16 << 10] = [0; 16 << 10];

/// The end of one target's journal.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    map: Option<Mapped>,
    /// Device bytes within the map that are in the page cache and have a place on the device.
    ready: Range<u64>,
    /// Maps are refused here.
    off: bool,
}

#[derive(Debug)]
struct Mapped {
    map: FileMap,
    bytes: Range<u64>,
}

impl Tail {
    /// Puts whole pages into the page cache at `offset`, of which the first `settled_bytes` are
    /// there. Up to `room_bytes` behind them zeros may be put.
    pub(crate) fn append(
        &mut self,
        device: impl AsFd,
        offset: u64,
        bytes: &[u8],
        settled_bytes: usize,
        room_bytes: u64,
    ) -> Result<(), Errno> {
        let end = offset + to_u64(bytes.len());
        if let Some(mapped) = &mut self.map
            && self.ready.start <= offset
            && end <= self.ready.end
        {
            let at = to_usize(offset - mapped.bytes.start) + settled_bytes;
            return mapped.map.store(at, &bytes[settled_bytes..]);
        }
        let ahead = &AHEAD[..AHEAD.len().min(to_usize(room_bytes))];
        write(&device, offset, bytes, ahead)?;
        if !ahead.is_empty() {
            self.ready = offset..end + to_u64(ahead.len());
            self.map_ready(device, end + room_bytes);
        }
        Ok(())
    }

    /// Sees to it that what is ready is mapped, or nothing is. The journal reaches to `end`.
    fn map_ready(&mut self, device: impl AsFd, end: u64) {
        let covers = |mapped: &Mapped| {
            mapped.bytes.start <= self.ready.start && self.ready.end <= mapped.bytes.end
        };
        if self.off || self.map.as_ref().is_some_and(covers) {
            return;
        }
        self.map = None;
        let bytes = self.ready.start..end.min(self.ready.start + MAP_BYTES_MAX);
        if bytes.end < self.ready.end {
            return; // an append of a whole map's length
        }
        match FileMap::new(device, bytes.start, to_usize(bytes.end - bytes.start)) {
            Ok(map) => self.map = Some(Mapped { map, bytes }),
            Err(_) => self.off = true,
        }
    }
}

/// Writes `bytes` and then `ahead` into the page cache. A copy of a few pages, which takes
/// microseconds; the ring would hand it to a worker thread (ext4 does not write without blocking),
/// two wake-ups of 35 us.
fn write(
    device: impl AsFd,
    mut offset: u64,
    mut bytes: &[u8],
    mut ahead: &[u8],
) -> Result<(), Errno> {
    while !bytes.is_empty() || !ahead.is_empty() {
        let parts = [IoSlice::new(bytes), IoSlice::new(ahead)];
        match rustix::io::pwritev(&device, &parts, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                offset += to_u64(written);
                let of_bytes = written.min(bytes.len());
                bytes = &bytes[of_bytes..];
                ahead = &ahead[written - of_bytes..];
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// Appends records of odd lengths as a journal does, and compares the file with them.
    #[test]
    fn appends_lie_one_after_the_other_whether_stored_or_written() {
        for off in [false, true] {
            let file = tempfile::tempfile().unwrap();
            let (start, end) = (8192u64, 8192 + (3 << 20));
            file.set_len(end + 4096).unwrap();
            file.write_all_at(&[0xee; 4096], end).unwrap();
            let mut tail = Tail { off, ..Tail::default() };
            let mut all: Vec<u8> = Vec::new();
            let mut number = 0u32;
            while all.len() + 40_000 < 3 << 20 {
                number += 1;
                let settled_bytes = all.len() % 4096;
                let from = all.len() - settled_bytes;
                let len = 1 + usize::try_from(number * 7919 % 37_000).unwrap()
                    / (1 + number as usize % 40);
                all.extend((0..len).map(|at| u8::try_from((at + number as usize) % 251).unwrap()));
                let mut bytes = all[from..].to_vec();
                bytes.resize(bytes.len().next_multiple_of(4096), 0);
                let offset = start + to_u64(from);
                let room_bytes = end - offset - to_u64(bytes.len());
                tail.append(&file, offset, &bytes, settled_bytes, room_bytes).unwrap();
            }
            assert_eq!(tail.map.is_some(), !off);
            let mut found = vec![0; all.len() + 4096];
            file.read_exact_at(&mut found, start).unwrap();
            assert!(found[..all.len()] == all[..]);
            assert!(found[all.len()..].iter().all(|byte| *byte == 0), "zeros end the journal");
            file.read_exact_at(&mut found[..4096], end).unwrap();
            assert_eq!(found[..4096], [0xee; 4096], "what follows the journal is left alone");
        }
    }

    #[test]
    fn a_file_that_lost_the_pages_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let mut tail = Tail::default();
        tail.append(&file, 0, &[1; 4096], 0, 1 << 19).unwrap();
        tail.append(&file, 4096, &[2; 4096], 0, 1 << 19).unwrap();
        assert!(tail.map.is_some());
        file.set_len(0).unwrap();
        assert_eq!(tail.append(&file, 8192, &[3; 4096], 0, 1 << 19), Err(Errno::IO));
    }
}
