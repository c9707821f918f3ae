//! The second ring of a thread: I/O whose end is asked for instead of told by an interrupt.
//!
//! A ring made for polling takes nothing but reads and writes of devices that can be polled, so
//! sockets, timers, flushes and mail stay on the first. While anything is under way here the thread
//! must not sleep: nobody would wake it.

use std::collections::VecDeque;

use slab::Slab;
use weft_iobuf::Pool;
use weft_ring::{Completion, Op, Reject, Ring, RingConfig, RingError};
use weft_store::{IoError, IoId};
use weft_wire::units::{to_u64, to_usize};

use crate::targets::Done;

/// A polled ring and whose its operations are.
#[derive(Debug)]
pub(crate) struct Polled {
    pub(crate) ring: Ring,
    owners: Slab<(usize, IoId)>,
    /// What found the ring full.
    backlog: VecDeque<(usize, IoId, Op)>,
    /// What the ring refused for good.
    refused: VecDeque<Done>,
}

impl Polled {
    /// Wide, so that NVMe commands fit.
    pub(crate) fn new(pool: &Pool) -> Result<Polled, RingError> {
        let config =
            RingConfig { iopoll: true, sqe128: true, files_max: 512, ..RingConfig::default() };
        let mut ring = Ring::new(config)?;
        ring.register_pool(pool)?;
        Ok(Polled { ring, owners: Slab::new(), backlog: VecDeque::new(), refused: VecDeque::new() })
    }

    pub(crate) fn submit(&mut self, index: usize, io: IoId, op: Op) {
        let key = self.owners.insert((index, io));
        let Err(rejected) = self.ring.submit(to_u64(key), op) else { return };
        self.owners.remove(key);
        match rejected.reason {
            Reject::Full | Reject::Busy => self.backlog.push_back((index, io, rejected.op)),
            _ => {
                let errno = weft_ring::Errno::IO.raw_os_error();
                let buf = match rejected.op {
                    Op::Read { buf, .. } => Some(buf),
                    _ => None,
                };
                self.refused.push_back((index, io, Err(IoError { errno, buf })));
            }
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.ring.in_flight() > 0 || !self.backlog.is_empty() || !self.refused.is_empty()
    }

    pub(crate) fn poll(&mut self) -> Result<(), RingError> {
        for (index, io, op) in std::mem::take(&mut self.backlog) {
            self.submit(index, io, op);
        }
        self.ring.wait(None)
    }

    /// The next operation that never began.
    pub(crate) fn next_refused(&mut self) -> Option<Done> {
        self.refused.pop_front()
    }

    /// The next operation that is over, and whose it was.
    pub(crate) fn next_completion(&mut self) -> Option<(usize, IoId, Completion)> {
        let completion = self.ring.next_completion()?;
        let (index, io) = self.owners.remove(to_usize(completion.token));
        Some((index, io, completion))
    }
}

/// Runs one operation on a ring that has nothing else to do.
pub(crate) fn run(ring: &mut Ring, op: Op) -> Result<(), weft_ring::Errno> {
    ring.submit(0, op).map_err(|_| weft_ring::Errno::IO)?;
    loop {
        if let Some(completion) = ring.next_completion() {
            return completion.result.map(drop);
        }
        ring.wait(None).map_err(|_| weft_ring::Errno::IO)?;
    }
}
