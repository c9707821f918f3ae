//! Messages between threads that each run a ring, and the bell that wakes a sleeping one.
//!
//! # Why no wake-up is lost
//! The bell is one atomic with three values. A sender pushes its message and then swaps in `RUNG`;
//! if the swap returns `ASLEEP`, it writes the eventfd. The ring goes to sleep only if its
//! compare-and-swap from `AWAKE` to `ASLEEP` succeeds. All of this happens to one location, so the
//! swaps and the compare-and-swap have one order that everybody agrees on:
//! - A swap after the compare-and-swap sees `ASLEEP` (from the first such sender; later ones see
//!   that one's `RUNG`) and writes the eventfd. The eventfd's counter stays up until the armed poll
//!   reports it, whether the ring is in the kernel yet or not, so the sleep ends.
//! - A swap before it leaves `RUNG`. Either the compare-and-swap fails on that and the ring does
//!   not sleep; or the ring had swapped the `RUNG` away before, in an earlier `wait`. That swap
//!   acquires what the sender released, so the message was visible to the owner, who looks into
//!   the mailboxes after each `wait`.
//!
//! The owner's part of the bargain: after each `wait`, take messages until there are none, or wait
//! next with a timeout of zero.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crossbeam_channel::TrySendError;
use rustix::event::EventfdFlags;

use crate::error::RingError;

/// The ring runs, and has seen every ring of the bell.
const AWAKE: u8 = 0;
/// The bell rang and the ring has not looked yet.
const RUNG: u8 = 1;
/// The ring is in the kernel, or on the way: whoever rings must write the eventfd.
const ASLEEP: u8 = 2;

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    eventfd: OwnedFd,
}

/// Wakes one ring, from any thread. [`crate::Ring::bell`] gives it.
#[derive(Clone, Debug)]
pub struct Bell {
    shared: Arc<Shared>,
}

impl Bell {
    pub(crate) fn new() -> Result<Bell, RingError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let eventfd = rustix::event::eventfd(0, flags)
            .map_err(|errno| RingError::kernel("eventfd", errno.into()))?;
        Ok(Bell { shared: Arc::new(Shared { state: AtomicU8::new(AWAKE), eventfd }) })
    }

    /// Makes the ring's current or next `wait` return. Costs an atomic swap, and a system call if
    /// the ring sleeps.
    pub fn ring(&self) {
        if self.shared.state.swap(RUNG, Ordering::AcqRel) == ASLEEP {
            let written = rustix::io::write(&self.shared.eventfd, &1u64.to_ne_bytes());
            // EAGAIN would mean 2^64 - 2 wake-ups stand unread: the poll has long reported them.
            debug_assert!(written.is_ok(), "an eventfd takes eight bytes");
        }
    }

    /// The eventfd that the ring polls.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.shared.eventfd.as_fd()
    }

    /// Whether it rang since the last look. A hint: [`Bell::wake`] takes the ring away.
    pub(crate) fn has_rung(&self) -> bool {
        self.shared.state.load(Ordering::Relaxed) == RUNG
    }

    /// Announces sleep; false when the bell rang and sleeping would miss it.
    pub(crate) fn try_sleep(&self) -> bool {
        let state = &self.shared.state;
        state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Announces being awake, and takes away any ring so far.
    pub(crate) fn wake(&self) {
        self.shared.state.swap(AWAKE, Ordering::AcqRel);
    }
}

/// A message that was not sent, given back.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError<T> {
    /// The mailbox holds as many as it may: hold back, and try again later.
    Full(T),
    /// The mailbox is gone.
    Closed(T),
}

/// The sending side, for any number of threads.
#[derive(Debug)]
pub struct Sender<T> {
    queue: crossbeam_channel::Sender<T>,
    bell: Bell,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender { queue: self.queue.clone(), bell: self.bell.clone() }
    }
}

impl<T> Sender<T> {
    /// Sends a message and wakes the owner's ring if it sleeps. Never waits.
    ///
    /// # Errors
    /// The mailbox is full or gone: the message comes back.
    pub fn try_send(&self, message: T) -> Result<(), SendError<T>> {
        self.queue.try_send(message).map_err(|error| match error {
            TrySendError::Full(message) => SendError::Full(message),
            TrySendError::Disconnected(message) => SendError::Closed(message),
        })?;
        self.bell.ring();
        Ok(())
    }
}

/// The receiving side, held by the thread that runs the ring.
#[derive(Debug)]
pub struct Mailbox<T> {
    queue: crossbeam_channel::Receiver<T>,
}

impl<T> Mailbox<T> {
    /// The next message, or `None` when there is none now (or all senders are gone).
    #[must_use]
    pub fn try_recv(&self) -> Option<T> {
        self.queue.try_recv().ok()
    }

    /// Messages waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether no message waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// A mailbox of at most `messages_max` (at least 1) whose senders ring `bell`. A ring may have
/// several mailboxes, of different messages.
#[must_use]
pub fn mailbox<T>(bell: &Bell, messages_max: usize) -> (Sender<T>, Mailbox<T>) {
    // A bound of zero would be a rendezvous, which a sender that never waits cannot meet.
    let (sender, receiver) = crossbeam_channel::bounded(messages_max.max(1));
    (Sender { queue: sender, bell: bell.clone() }, Mailbox { queue: receiver })
}
