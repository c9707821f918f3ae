//! /dev/fuse through the ring: a few reads always waiting, one gathered write per reply.
//!
//! A request is read to 80 bytes before the second page of its slot, so that the data of a WRITE
//! (behind a 40-byte header and a 40-byte struct) is page-aligned, and the slot is `max_write` and
//! one page long.
//!
//! The descriptor stays in blocking mode: the ring waits by polling it. There is one known gap: a
//! request that is killed between the poll and the read leaves a read that blocks this thread
//! until the next request comes. Both happen within one call of the same thread, so it takes a
//! SIGKILL of the only caller within a microsecond.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use weft_iobuf::{BufSlot, Pool};
use weft_ring::{Completion, FileId, Op, Reject, Ring, RingError, SendData};

use super::{Event, Incoming, Reply, Transport};
use crate::abi::READ_BUFFER_BYTES_MIN;
use crate::abi::input::{InHeader, WriteIn};
use crate::negotiate::PAGE_BYTES;

/// The most reads that wait at once.
const READS_MAX: usize = 64;
/// Empty lists that are kept for the next replies.
const SPARES_MAX: usize = 64;
/// As many replies may wait for room in the ring before no more requests are taken.
const REPLIES_WAITING_MAX: usize = 1024;
/// What precedes the data of a WRITE.
const WRITE_HEAD_BYTES: usize = size_of::<InHeader>() + size_of::<WriteIn>();
const _: () = assert!(WRITE_HEAD_BYTES == 80);

/// How the classic transport works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassicConfig {
    /// What its operations carry in the ring.
    pub token: u64,
    /// How many reads wait at once: 1 to 64.
    pub read_count: usize,
    /// The longest WRITE, as given to `negotiate`.
    pub max_write_bytes: u32,
}

/// The classic transport of one mount.
#[derive(Debug)]
pub struct Classic {
    file: FileId,
    pool: Pool,
    token: u64,
    read_count: usize,
    slot_bytes: usize,
    reads_waiting: usize,
    /// The kernel gives no more requests.
    closed: bool,
    replies_waiting: VecDeque<SendData>,
    spares: Vec<SendData>,
}

impl Classic {
    /// Registers the device with the ring. Slots of [`Classic::slot_bytes`] come from `pool`.
    ///
    /// # Errors
    /// The ring has no room for another file.
    pub fn new(
        ring: &mut Ring,
        device: OwnedFd,
        pool: Pool,
        config: ClassicConfig,
    ) -> Result<Self, RingError> {
        let ClassicConfig { token, read_count, max_write_bytes } = config;
        assert!((1..=READS_MAX).contains(&read_count), "1 to 64 reads");
        let slot_bytes = Self::slot_bytes(max_write_bytes);
        assert!(slot_bytes <= pool.class_bytes_max(), "the pool's slots hold a request");
        Ok(Self {
            file: ring.register_file(device)?,
            pool,
            token,
            read_count,
            slot_bytes,
            reads_waiting: 0,
            closed: false,
            replies_waiting: VecDeque::new(),
            spares: Vec::new(),
        })
    }

    /// The length of the slot a request is read into.
    #[must_use]
    pub fn slot_bytes(max_write_bytes: u32) -> usize {
        let page = page_bytes();
        let max_write_bytes =
            usize::try_from(max_write_bytes).expect("Weft runs on 64-bit machines");
        max_write_bytes.max(READ_BUFFER_BYTES_MIN) + page
    }

    /// The registered device: to close it, which ends the mount.
    #[must_use]
    pub const fn file(&self) -> FileId {
        self.file
    }

    /// Reads that wait in the ring now.
    #[must_use]
    pub const fn reads_waiting(&self) -> usize {
        self.reads_waiting
    }

    /// Whether the read started.
    fn submit_read(&mut self, ring: &mut Ring, buf: BufSlot) -> bool {
        let range = page_bytes() - WRITE_HEAD_BYTES..self.slot_bytes;
        let started = ring.submit(self.token, Op::ReadStream { file: self.file, buf, range });
        match &started {
            Ok(_) => self.reads_waiting += 1,
            // Full or Busy: tried again in the next round. File: someone closed the device.
            Err(rejected) => self.closed |= rejected.reason == Reject::File,
        }
        started.is_ok()
    }

    /// Gives the reply back when the ring has no room: it waits.
    fn submit_reply(&mut self, ring: &mut Ring, data: SendData) -> Result<(), SendData> {
        match ring.submit(self.token, Op::WriteStream { file: self.file, data }) {
            Ok(_) => Ok(()),
            Err(rejected) => {
                let Op::WriteStream { data, .. } = rejected.op else {
                    unreachable!("the ring gives back the operation it was given")
                };
                match rejected.reason {
                    Reject::Full | Reject::Busy => Err(data),
                    // Closed: nobody is left to answer.
                    Reject::File => {
                        self.closed = true;
                        self.keep_spare(data);
                        Ok(())
                    }
                    Reject::Range | Reject::Parts => {
                        panic!("a reply of {} parts cannot be sent", data.part_count())
                    }
                }
            }
        }
    }

    fn keep_spare(&mut self, mut data: SendData) {
        data.clear();
        if self.spares.len() < SPARES_MAX {
            self.spares.push(data);
        }
    }

    fn on_read(&mut self, result: Result<u32, Errno>, buf: BufSlot) -> Event {
        self.reads_waiting -= 1;
        match result {
            Ok(len) => {
                let start = page_bytes() - WRITE_HEAD_BYTES;
                let len = usize::try_from(len).expect("Weft runs on 64-bit machines");
                Event::Request(Incoming::new(buf, start..start + len))
            }
            // ENOENT: the request was given up before it could be read.
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => Event::Nothing,
            Err(Errno::NODEV | Errno::CONNABORTED) => {
                self.closed = true;
                Event::Unmounted
            }
            Err(Errno::CANCELED) => {
                self.closed = true;
                Event::Nothing
            }
            Err(errno) => {
                self.closed = true;
                Event::Failed(errno)
            }
        }
    }

    fn on_reply(&mut self, result: Result<u32, Errno>, data: SendData) -> Event {
        self.keep_spare(data);
        match result {
            // ENOENT: the caller was killed meanwhile, or the kernel holds nothing to invalidate.
            Ok(_) | Err(Errno::NOENT | Errno::CANCELED) => Event::Nothing,
            Err(Errno::NODEV | Errno::PERM | Errno::CONNABORTED | Errno::NOTCONN) => {
                self.closed = true;
                Event::Unmounted
            }
            Err(errno) => Event::ReplyRefused(errno),
        }
    }
}

impl Transport for Classic {
    fn pump(&mut self, ring: &mut Ring) {
        while let Some(data) = self.replies_waiting.pop_front() {
            if let Err(data) = self.submit_reply(ring, data) {
                self.replies_waiting.push_front(data);
                return;
            }
        }
        for _ in self.reads_waiting..self.read_count {
            if self.closed || self.replies_waiting.len() >= REPLIES_WAITING_MAX {
                return;
            }
            // Without a free slot the requests wait in the kernel.
            let Some(buf) = self.pool.alloc(self.slot_bytes) else { return };
            if !self.submit_read(ring, buf) {
                return;
            }
        }
    }

    fn on_completion(&mut self, completion: Completion) -> Event {
        let Completion { token, result, op, .. } = completion;
        assert_eq!(token, self.token, "the loop hands completions to their owner");
        match op {
            Op::ReadStream { buf, .. } => self.on_read(result, buf),
            Op::WriteStream { data, .. } => self.on_reply(result, data),
            Op::Close { .. } => {
                self.closed = true;
                Event::Unmounted
            }
            op => unreachable!("{op:?} was not submitted with this token"),
        }
    }

    fn spare(&mut self) -> SendData {
        self.spares.pop().unwrap_or_default()
    }

    fn reply(&mut self, ring: &mut Ring, reply: Reply) {
        let data = reply.into_parts();
        // Those that wait go first: a reply never overtakes another.
        if !self.replies_waiting.is_empty() {
            self.replies_waiting.push_back(data);
        } else if let Err(data) = self.submit_reply(ring, data) {
            self.replies_waiting.push_back(data);
        }
    }
}

fn page_bytes() -> usize {
    usize::try_from(PAGE_BYTES).expect("Weft runs on 64-bit machines")
}
