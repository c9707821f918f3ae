//! The kernel's two queues, in the two sizes of entries a ring can be made with.
//!
//! Device commands need entries of 128 bytes, and NVMe completions of 32 bytes with them; all
//! others do with 64 and 16, which is half the memory to touch per operation.

use std::mem::offset_of;

use io_uring::squeue::{Entry, Entry128};
use io_uring::{Builder, IoUring, Parameters, Submitter, cqueue};

use crate::config::RingConfig;
use crate::error::{Kind, RingError};

/// Where the length lies in a submission entry (`struct io_uring_sqe`, stable kernel ABI): the
/// bindings' commands have no setter for it.
const LEN_OFFSET_BYTES: usize = 24;

/// A submission entry.
pub(crate) enum Sqe {
    Plain(Entry),
    /// Fits rings with `sqe128` only.
    Command(Entry128),
}

/// The rings' memory and descriptor.
pub(crate) enum Queue {
    Plain(IoUring<Entry, cqueue::Entry>),
    Wide(IoUring<Entry128, cqueue::Entry32>),
}

/// What one completion says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cqe {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

impl Queue {
    /// A ring as the loop wants it: one submitter, completions run when asked for.
    pub(crate) fn new(config: &RingConfig) -> Result<Queue, RingError> {
        let sq_entries = config.sq_entries.next_power_of_two();
        let cq_entries = (2 * config.ops_max.next_power_of_two()).max(2 * sq_entries);
        let op = "io_uring_setup";
        let failed = |source| RingError::setup(op, source);
        let queue = if config.sqe128 {
            let mut builder = IoUring::<Entry128, cqueue::Entry32>::builder();
            tune(&mut builder, cq_entries, config.iopoll);
            Queue::Wide(builder.build(sq_entries).map_err(failed)?)
        } else {
            let mut builder = IoUring::<Entry, cqueue::Entry>::builder();
            tune(&mut builder, cq_entries, config.iopoll);
            Queue::Plain(builder.build(sq_entries).map_err(failed)?)
        };
        let params = queue.params();
        let complete = params.is_feature_nodrop()
            && params.is_feature_submit_stable()
            && params.is_feature_ext_arg()
            && params.is_feature_fast_poll();
        if complete { Ok(queue) } else { Err(RingError::refused(Kind::TooOld, op)) }
    }

    pub(crate) fn params(&self) -> &Parameters {
        match self {
            Queue::Plain(uring) => uring.params(),
            Queue::Wide(uring) => uring.params(),
        }
    }

    /// Whether commands fit.
    pub(crate) fn is_wide(&self) -> bool {
        matches!(self, Queue::Wide(_))
    }

    pub(crate) fn submitter(&self) -> Submitter<'_> {
        match self {
            Queue::Plain(uring) => uring.submitter(),
            Queue::Wide(uring) => uring.submitter(),
        }
    }

    /// Whether the submission queue has no room.
    pub(crate) fn is_full(&mut self) -> bool {
        match self {
            Queue::Plain(uring) => uring.submission().is_full(),
            Queue::Wide(uring) => uring.submission().is_full(),
        }
    }

    /// Whether entering the kernel has a use: something to submit, or completions it holds back.
    pub(crate) fn wants_enter(&mut self) -> bool {
        fn wants<E: io_uring::squeue::EntryMarker>(
            queue: &io_uring::squeue::SubmissionQueue<'_, E>,
        ) -> bool {
            !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
        }
        match self {
            Queue::Plain(uring) => wants(&uring.submission()),
            Queue::Wide(uring) => wants(&uring.submission()),
        }
    }

    /// Whether completions can be taken.
    pub(crate) fn has_completions(&mut self) -> bool {
        match self {
            Queue::Plain(uring) => !uring.completion().is_empty(),
            Queue::Wide(uring) => !uring.completion().is_empty(),
        }
    }

    /// The next completion.
    pub(crate) fn pop(&mut self) -> Option<Cqe> {
        match self {
            Queue::Plain(uring) => {
                let cqe = uring.completion().next()?;
                let (user_data, result, flags) = (cqe.user_data(), cqe.result(), cqe.flags());
                Some(Cqe { user_data, result, flags })
            }
            Queue::Wide(uring) => {
                let cqe = uring.completion().next()?;
                let (user_data, result, flags) = (cqe.user_data(), cqe.result(), cqe.flags());
                Some(Cqe { user_data, result, flags })
            }
        }
    }

    /// Queues an entry; false when there is no room.
    ///
    /// # Safety
    /// What the entry points to stays, and is nobody else's, until its completion was taken.
    pub(crate) unsafe fn push(&mut self, sqe: &Sqe) -> bool {
        match (self, sqe) {
            (Queue::Plain(uring), Sqe::Plain(entry)) => {
                // SAFETY: alive, until, alone - as the caller promises.
                unsafe { uring.submission().push(entry) }.is_ok()
            }
            (Queue::Wide(uring), Sqe::Plain(entry)) => {
                // SAFETY: alive, until, alone - as the caller promises.
                unsafe { uring.submission().push(&Entry128::from(entry.clone())) }.is_ok()
            }
            (Queue::Wide(uring), Sqe::Command(entry)) => {
                // SAFETY: alive, until, alone - as the caller promises.
                unsafe { uring.submission().push(entry) }.is_ok()
            }
            (Queue::Plain(_), Sqe::Command(_)) => {
                unreachable!("commands are refused when submitted to a ring without sqe128")
            }
        }
    }
}

fn tune<S, C>(builder: &mut Builder<S, C>, cq_entries: u32, iopoll: bool)
where
    S: io_uring::squeue::EntryMarker,
    C: cqueue::EntryMarker,
{
    builder
        .dontfork()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(cq_entries);
    if iopoll {
        builder.setup_iopoll();
    }
}

/// An entry with its length field set.
pub(crate) fn with_len(mut entry: Entry128, len: u32) -> Entry128 {
    /// The start of `struct io_uring_sqe`, as far as the length.
    #[repr(C)]
    struct Start {
        before: [u8; LEN_OFFSET_BYTES],
        len: u32,
    }
    const _: () = assert!(offset_of!(Start, len) == LEN_OFFSET_BYTES);
    const _: () = assert!(size_of::<Entry128>() == 128);
    let start = (&raw mut entry).cast::<Start>();
    // SAFETY: alive - an entry of our own, longer than `Start` and aligned for its u64; until -
    // returned by value; alone - by value. Both are plain C structs: any bytes are valid.
    unsafe { (*start).len = len };
    entry
}
