//! What is sent in one gathered operation: small bytes and payload pieces, in order.

use std::ops::Range;

use weft_iobuf::{BufSlot, SharedSlot};

/// A list of parts that leaves as one stream of bytes.
///
/// Small bytes (headers) are copied into one buffer inside; payloads are held, not copied. Several
/// frames may be queued one after another and leave in one send. After its completion, call
/// [`SendData::clear`] and use it again: its memory is kept, so a send allocates nothing.
#[derive(Debug, Default)]
pub struct SendData {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    len_bytes: usize,
}

#[derive(Debug)]
enum Part {
    /// A range of `SendData::bytes`.
    Inline(Range<usize>),
    Vec(Vec<u8>),
    Slot(BufSlot, Range<usize>),
    Shared(SharedSlot, Range<usize>),
}

impl SendData {
    /// Nothing to send yet.
    #[must_use]
    pub fn new() -> SendData {
        SendData::default()
    }

    /// Appends a copy of `bytes`. Meant for headers; neighbours become one part.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.len_bytes += bytes.len();
        match self.parts.last_mut() {
            Some(Part::Inline(range)) => range.end = self.bytes.len(),
            _ => self.parts.push(Part::Inline(start..self.bytes.len())),
        }
    }

    /// Appends a buffer without copying it.
    pub fn push_vec(&mut self, bytes: Vec<u8>) {
        self.len_bytes += bytes.len();
        self.parts.push(Part::Vec(bytes));
    }

    /// Appends `range` of an owned slot.
    ///
    /// # Errors
    /// The range is not within the slot: the slot comes back and nothing is appended.
    pub fn push_slot(&mut self, slot: BufSlot, range: Range<usize>) -> Result<(), BufSlot> {
        if range.start > range.end || range.end > slot.capacity_bytes() {
            return Err(slot);
        }
        self.len_bytes += range.len();
        self.parts.push(Part::Slot(slot, range));
        Ok(())
    }

    /// Appends `range` of a shared slot.
    ///
    /// # Errors
    /// The range is not within the slot: the share comes back and nothing is appended.
    pub fn push_shared(&mut self, slot: SharedSlot, range: Range<usize>) -> Result<(), SharedSlot> {
        if range.start > range.end || range.end > slot.len() {
            return Err(slot);
        }
        self.len_bytes += range.len();
        self.parts.push(Part::Shared(slot, range));
        Ok(())
    }

    /// All bytes there are to send.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    /// Memory that stays with it after [`SendData::clear`], in bytes.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.bytes.capacity() + self.parts.capacity() * size_of::<Part>()
    }

    /// How many parts; at most [`crate::SEND_PARTS_MAX`] can be submitted.
    #[must_use]
    pub fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// Lets go of everything held, and keeps the memory for the next use.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.parts.clear();
        self.len_bytes = 0;
    }

    /// As [`SendData::clear`], handing each owned slot to `keep`, in order.
    pub fn clear_into(&mut self, mut keep: impl FnMut(BufSlot)) {
        for part in self.parts.drain(..) {
            if let Part::Slot(slot, _) = part {
                keep(slot);
            }
        }
        self.clear();
    }

    /// The parts' bytes, in order: for simulators and tests, which have no kernel to gather them.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| match part {
            Part::Inline(range) => &self.bytes[range.clone()],
            Part::Vec(bytes) => bytes.as_slice(),
            Part::Slot(slot, range) => &slot.as_slice()[range.clone()],
            Part::Shared(slot, range) => &slot[range.clone()],
        })
    }

    /// Writes the parts after the first `skip_bytes` into `iov`, replacing what it held.
    pub(crate) fn gather(&self, skip_bytes: usize, iov: &mut Vec<libc::iovec>) {
        iov.clear();
        let mut skip_bytes = skip_bytes;
        for slice in self.slices() {
            let skipped = skip_bytes.min(slice.len());
            skip_bytes -= skipped;
            let rest = &slice[skipped..];
            if !rest.is_empty() {
                // The kernel only reads through it: the pointer is mutable by C's lack of a choice.
                let iov_base = rest.as_ptr().cast_mut().cast();
                iov.push(libc::iovec { iov_base, iov_len: rest.len() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SendData {
        let pool = weft_iobuf::Pool::new(1 << 20, 1 << 20).unwrap();
        let mut slot = pool.alloc(4096).unwrap();
        slot.as_mut_slice()[..6].copy_from_slice(b"012345");
        let share = slot.share();
        let mut data = SendData::new();
        data.push_bytes(b"he");
        data.push_bytes(b"ad");
        data.push_shared(share.clone(), 1..4).unwrap();
        data.push_bytes(b"");
        data.push_vec(b"vec".to_vec());
        data.push_bytes(b"tail");
        data.push_shared(share, 5..6).unwrap();
        data
    }

    #[test]
    fn parts_keep_their_order_and_neighbours_join() {
        let data = sample();
        let all: Vec<u8> = data.slices().flatten().copied().collect();
        assert_eq!(all, b"head123vectail5");
        assert_eq!((data.len_bytes(), data.part_count()), (15, 5));
    }

    #[test]
    fn gathering_skips_what_was_sent_at_every_byte() {
        let data = sample();
        let mut iov = Vec::new();
        for skip in 0..=data.len_bytes() {
            data.gather(skip, &mut iov);
            let left: usize = iov.iter().map(|part| part.iov_len).sum();
            assert_eq!(left, data.len_bytes() - skip);
            assert!(iov.iter().all(|part| part.iov_len > 0));
        }
        assert!(iov.is_empty());
    }

    #[test]
    fn a_range_past_its_slot_gives_the_slot_back() {
        let pool = weft_iobuf::Pool::new(1 << 20, 1 << 20).unwrap();
        let mut data = SendData::new();
        let slot = pool.alloc(4096).unwrap();
        let slot = data.push_slot(slot, 0..4097).unwrap_err();
        let share = data.push_shared(slot.share(), 4097..4097).unwrap_err();
        assert!(data.is_empty());
        let slot = share.try_unshare().unwrap();
        data.push_slot(slot, 0..4096).unwrap();
        let mut kept = Vec::new();
        data.clear_into(|slot| kept.push(slot));
        assert_eq!((kept.len(), data.len_bytes()), (1, 0));
    }
}
