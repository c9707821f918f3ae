//! /dev/fuse the classic way: a poll in the ring says that there are requests, `read(2)` takes them, `writev(2)`
//! answers.
//!
//! Reads do not go through the ring: on this device it carries them out blocking once a poll said "readable", and
//! when another read (or the death of the caller) took the request meanwhile, the whole loop slept until the next
//! one; seen within seconds of `cp -a`. The descriptor is non-blocking instead, and a read that finds nothing says
//! so. A reply never waits, so writing it at once costs the same system call and holds nothing.
//!
//! A request is read to 80 bytes before the second page of its slot, so that the data of a WRITE (behind a 40-byte
//! header and a 40-byte struct) is page-aligned, and the slot is `max_write` and one page long.

use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;
use weft_iobuf::{BufSlot, Pool};
use weft_ring::{Completion, FileId, Op, PollFlags, Ring, RingError, SendData};
use weft_wire::units::to_usize;

use super::{Event, Incoming, Reply, Transport};
use crate::abi::input::{InHeader, WriteIn};
use crate::negotiate::{MAX_PAGES_MIN, PAGE_BYTES};
use crate::request::Unique;

/// Empty lists that are kept for the next replies.
const SPARES_MAX: usize = 64;
/// What precedes the data of a WRITE.
const WRITE_HEAD_BYTES: usize = size_of::<InHeader>() + size_of::<WriteIn>();
const _: () = assert!(WRITE_HEAD_BYTES == 80);

/// How the classic transport works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassicConfig {
    /// What its operations carry in the ring.
    pub token: u64,
    /// The longest WRITE, as given to `negotiate`.
    pub max_write_bytes: u32,
}

/// The classic transport of one mount.
#[derive(Debug)]
pub struct Classic {
    file: FileId,
    pool: Pool,
    token: u64,
    slot_bytes: usize,
    /// There was no memory for the next request.
    starved: bool,
    /// The multishot poll is in the ring.
    armed: bool,
    /// A read may find a request.
    readable: bool,
    /// The kernel gives no more requests.
    closed: bool,
    /// What a reply met, to be told with the next event.
    trouble: Option<Event>,
    spares: Vec<SendData>,
    /// Pages of the pool that this process has written to, a bit each.
    touched: Pages,
}

impl Classic {
    /// Registers the device with the ring. Slots of [`Classic::slot_bytes`] come from `pool`.
    ///
    /// # Errors
    /// The ring has no room for another file, or the device cannot be made non-blocking.
    pub fn new(
        ring: &mut Ring,
        device: OwnedFd,
        pool: Pool,
        config: ClassicConfig,
    ) -> Result<Self, ClassicError> {
        let ClassicConfig { token, max_write_bytes } = config;
        let slot_bytes = Self::slot_bytes(max_write_bytes);
        assert!(slot_bytes <= pool.class_bytes_max(), "the pool's slots hold a request");
        let flags = rustix::fs::fcntl_getfl(&device)?;
        rustix::fs::fcntl_setfl(&device, flags | OFlags::NONBLOCK)?;
        Ok(Self {
            file: ring.register_file(device)?,
            pool,
            token,
            slot_bytes,
            starved: false,
            armed: false,
            readable: false,
            closed: false,
            trouble: None,
            spares: Vec::new(),
            touched: Pages::default(),
        })
    }

    /// The length of the slot a request is read into.
    #[must_use]
    pub fn slot_bytes(max_write_bytes: u32) -> usize {
        // Not less than the longest value of an attribute needs: the kernel answers E2BIG for what does not fit.
        let longest = max_write_bytes.max(MAX_PAGES_MIN * PAGE_BYTES);
        to_usize(u64::from(longest)) + page_bytes()
    }

    /// The registered device: to close it, which ends the mount.
    #[must_use]
    pub const fn file(&self) -> FileId {
        self.file
    }

    /// Bytes of a slot for any request.
    pub(super) const fn longest_bytes(&self) -> usize {
        self.slot_bytes
    }

    fn read(&mut self, ring: &Ring) -> Event {
        // Without a free slot the requests wait in the kernel. Not the last one: replies need some, and what they wait for
        // lies behind replies.
        let slot = self.pool.alloc_to_begin(self.slot_bytes);
        self.starved = slot.is_none();
        let Some(mut slot) = slot else { return Event::Nothing };
        let Some(device) = ring.file(self.file) else { return self.close() };
        self.touch(&mut slot);
        let start = page_bytes() - WRITE_HEAD_BYTES;
        loop {
            match rustix::io::read(device, &mut slot.as_mut_slice()[start..self.slot_bytes]) {
                Ok(len) => return Event::Request(Incoming::new(slot, start..start + len)),
                // ENOENT: the request was given up before it could be read.
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    return Event::Nothing;
                }
                Err(Errno::NODEV | Errno::CONNABORTED) => return self.close(),
                Err(errno) => {
                    self.closed = true;
                    return Event::Failed(errno);
                }
            }
        }
    }

    /// Writes to each page of a slot that this process has not written to. A process that is being killed cannot have
    /// pages mapped any more: a request that the kernel copies to such a page then fails with EIO, instead of being
    /// kept for a successor.
    fn touch(&mut self, slot: &mut BufSlot) {
        let first = slot.offset_bytes() / page_bytes();
        let count = self.slot_bytes.div_ceil(page_bytes());
        self.touched.add(first..first + count, |page| {
            slot.as_mut_slice()[(page - first) * page_bytes()] = 0;
        });
    }

    fn close(&mut self) -> Event {
        self.closed = true;
        Event::Unmounted
    }

    pub(super) fn keep_spare(&mut self, mut data: SendData) {
        data.clear();
        if self.spares.len() < SPARES_MAX {
            self.spares.push(data);
        }
    }
}

/// A set of pages. Looked at for each request with as many pages as the longest one has, so by words.
#[derive(Debug, Default)]
struct Pages(Vec<u64>);

impl Pages {
    /// Adds pages; calls `new` with each that was not among them, ascending.
    fn add(&mut self, pages: Range<usize>, mut new: impl FnMut(usize)) {
        let words = pages.end.div_ceil(64);
        if self.0.len() < words {
            self.0.resize(words, 0);
        }
        let mut page = pages.start;
        while page < pages.end {
            let (word, end) = (page / 64, pages.end.min((page / 64 + 1) * 64));
            let wanted = (u64::MAX << (page % 64)) & (u64::MAX >> (63 - (end - 1) % 64));
            let mut missing = wanted & !self.0[word];
            self.0[word] |= wanted;
            while missing != 0 {
                new(word * 64 + to_usize(missing.trailing_zeros().into()));
                missing &= missing - 1;
            }
            page = end;
        }
    }
}

/// Why the classic transport cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ClassicError {
    /// The ring refused the device.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The kernel refused a flag.
    #[error("/dev/fuse cannot be made non-blocking: {0}")]
    Flags(#[from] Errno),
}

impl Transport for Classic {
    fn agreed(&mut self, _ring: &mut Ring, _over_io_uring: bool) {}

    fn state(&self) -> Result<&'static str, Errno> {
        Ok("classic")
    }

    fn pump(&mut self, ring: &mut Ring) {
        if self.armed || self.closed {
            return;
        }
        let poll = Op::PollAdd { file: self.file, events: PollFlags::IN, multishot: true };
        // Full or busy: tried again in the next round.
        self.armed = ring.submit(self.token, poll).is_ok();
    }

    fn on_completion(&mut self, completion: Completion) {
        assert_eq!(completion.token, self.token, "the loop hands completions to their owner");
        self.armed &= completion.more;
        // Whatever the poll says, the next read says it better.
        self.readable = true;
    }

    fn next(&mut self, ring: &Ring) -> Event {
        if let Some(event) = self.trouble.take() {
            return event;
        }
        if self.closed || !self.readable {
            return Event::Nothing;
        }
        self.read(ring)
    }

    fn has_more(&self) -> bool {
        !self.closed && (self.readable && !self.starved || self.trouble.is_some())
    }

    fn starved_of(&self) -> Option<usize> {
        self.starved.then_some(self.slot_bytes)
    }

    fn spare(&mut self) -> SendData {
        self.spares.pop().unwrap_or_default()
    }

    fn hold(&mut self, _ring: &mut Ring, _unique: Unique) -> bool {
        true // a request that was read occupies nothing of the device
    }

    fn kicks(&mut self) -> Vec<u16> {
        Vec::new()
    }

    fn lend(&mut self, _unique: Unique) -> Option<BufSlot> {
        None
    }

    fn reply(&mut self, ring: &mut Ring, reply: Reply) {
        let data = reply.into_parts();
        let Some(device) = ring.file(self.file) else { return };
        let parts: Vec<IoSlice<'_>> = data.slices().map(IoSlice::new).collect();
        let result = loop {
            match rustix::io::writev(device, &parts) {
                Err(Errno::INTR) => {}
                result => break result,
            }
        };
        drop(parts);
        self.keep_spare(data);
        match result {
            // ENOENT: the caller was killed meanwhile, or the kernel holds nothing to invalidate.
            Ok(_) | Err(Errno::NOENT) => {}
            Err(Errno::NODEV | Errno::PERM | Errno::CONNABORTED | Errno::NOTCONN) => {
                self.trouble = Some(self.close());
            }
            Err(errno) => self.trouble = Some(Event::ReplyRefused(errno)),
        }
    }
}

fn page_bytes() -> usize {
    usize::try_from(PAGE_BYTES).expect("Weft runs on 64-bit machines")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Pages;

    #[test]
    fn each_page_is_new_once_wherever_ranges_begin_and_end() {
        let (mut pages, mut model) = (Pages::default(), BTreeSet::new());
        let ranges = [0..1, 62..66, 63..64, 64..128, 5..257, 300..300, 256..320, 0..400];
        for range in ranges {
            let mut new = Vec::new();
            pages.add(range.clone(), |page| new.push(page));
            let wanted: Vec<usize> = range.filter(|page| model.insert(*page)).collect();
            assert_eq!(new, wanted);
        }
    }
}
