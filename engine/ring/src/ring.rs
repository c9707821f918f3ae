//! The ring itself: submission, waiting, completion, and the end of it all.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{cqueue, opcode};
use rustix::io::Errno;
use weft_iobuf::Pool;

use crate::awake::Awake;
use crate::clock;
use crate::config::{Registration, RingConfig, Stats};
use crate::crowd::Crowd;
use crate::error::{Kind, RingError};
use crate::files::FileTable;
use crate::limits::DRAIN_ROUND_MS;
use crate::mailbox::Bell;
use crate::nvme::{self, Namespace};
use crate::op::{Completion, FileId, Op, OpId, Reject, Rejected};
use crate::queue::{Cqe, Queue, Sqe};
use crate::spin::{Spin, Until};
use crate::sqe;
use crate::table::{InFlight, Table};
use crate::transfer::{self, Verdict};

/// Completion of the poll on the bell's eventfd. No `OpId` is this large: an index is below
/// `OPS_MAX`.
const BELL_TAG: u64 = u64::MAX;
/// Completion of a cancellation: what counts is the completion of what it cancelled.
const CANCEL_TAG: u64 = u64::MAX - 1;

/// One thread's io_uring with the table of what is in flight on it.
pub struct Ring {
    // Dropped first: closes the ring, after which the kernel completes nothing into it.
    queue: Queue,
    table: Table,
    files: FileTable,
    pool: Option<Pool>,
    /// Entries that found the submission queue full, in order.
    backlog: VecDeque<Sqe>,
    /// Completions that the kernel has no part in, or taken while draining.
    ready: VecDeque<Completion>,
    bell: Bell,
    bell_armed: bool,
    spin: Spin,
    /// Looked at while spinning.
    crowd: Crowd,
    awake: Awake,
    stats: Stats,
    drain_ms_max: u32,
    draining: bool,
    iopoll: bool,
    /// The kernel takes submissions from the thread that made the ring only.
    not_send: PhantomData<*const ()>,
}

impl Ring {
    /// Makes a ring on the thread that will use it.
    ///
    /// # Errors
    /// [`Kind::Config`] for a setting out of range; otherwise io_uring cannot be used here, and
    /// the error says what to look at.
    pub fn new(config: RingConfig) -> Result<Ring, RingError> {
        let RingConfig { ops_max, files_max, spin_us_max, drain_ms_max, .. } = config;
        if !config.is_within_limits() {
            return Err(RingError::refused(Kind::Config, "configuration"));
        }
        let queue = Queue::new(&config)?;
        queue
            .submitter()
            .register_files_sparse(files_max)
            .map_err(|source| RingError::setup("register_files_sparse", source))?;
        Ok(Ring {
            queue,
            table: Table::new(ops_max),
            files: FileTable::new(files_max),
            pool: None,
            backlog: VecDeque::new(),
            ready: VecDeque::new(),
            bell: Bell::new()?,
            bell_armed: false,
            spin: Spin::new(Duration::from_micros(u64::from(spin_us_max))),
            crowd: Crowd::new(),
            awake: Awake::new(config.idle_poll),
            stats: Stats::default(),
            drain_ms_max,
            draining: false,
            iopoll: config.iopoll,
            not_send: PhantomData,
        })
    }

    /// Registers a pool's memory as fixed buffers; it is pinned, and so taken from the system, now.
    /// When the kernel will not pin that much, its slots still work, as plain memory. Slots of
    /// other pools always work as plain memory.
    ///
    /// # Errors
    /// [`Kind::PoolTwice`], or an answer of the kernel other than a refusal to pin.
    pub fn register_pool(&mut self, pool: &Pool) -> Result<Registration, RingError> {
        let op = "register_buffers";
        if self.pool.is_some() {
            return Err(RingError::refused(Kind::PoolTwice, op));
        }
        let regions = pool.regions().into_iter();
        let iov: Vec<libc::iovec> = regions
            .map(|region| libc::iovec {
                iov_base: region.ptr.as_ptr().cast(),
                iov_len: region.len_bytes,
            })
            .collect();
        // SAFETY: alive - `self.pool` keeps the mapping as long as the ring; until - the ring is
        // closed, before `self.pool` is dropped; alone - registering reads and writes nothing, and
        // each transfer owns its slot.
        match unsafe { self.queue.submitter().register_buffers(&iov) } {
            Ok(()) => {
                self.pool = Some(pool.clone());
                Ok(Registration::Fixed)
            }
            Err(source) => match Errno::from_io_error(&source) {
                Some(errno @ (Errno::NOMEM | Errno::PERM | Errno::OPNOTSUPP)) => {
                    Ok(Registration::Plain(errno))
                }
                _ => Err(RingError::kernel(op, source)),
            },
        }
    }

    /// Whether idle cores poll when this ring wants them to: [`RingConfig::idle_poll`] said so, and the kernel lets it ask.
    #[must_use]
    pub fn has_idle_poll(&self) -> bool {
        self.awake.is_on()
    }

    /// Whether a pool's slots go as fixed buffers.
    #[must_use]
    pub fn has_fixed_buffers(&self) -> bool {
        self.pool.is_some()
    }

    /// Registers a file, socket or device. It should be in blocking mode.
    ///
    /// # Errors
    /// [`Kind::FilesFull`], or the kernel refused; the descriptor is closed.
    pub fn register_file(&mut self, fd: OwnedFd) -> Result<FileId, RingError> {
        let raw = fd.as_raw_fd();
        let op = "register_file";
        let file = self.files.insert(fd).ok_or(RingError::refused(Kind::FilesFull, op))?;
        if let Err(source) = self.update_file(file, raw) {
            self.files.remove(file);
            return Err(RingError::kernel(op, source));
        }
        Ok(file)
    }

    /// Registers a namespace's character device (`/dev/ng0n1`): reads, writes and flushes of it go
    /// as NVMe commands, past the block layer and its page cache. Offsets and lengths are whole
    /// blocks of the namespace; a failed command is not tried again by the kernel.
    ///
    /// # Errors
    /// [`Kind::Config`] on a ring without [`RingConfig::sqe128`], else as
    /// [`Ring::register_file`].
    pub fn register_nvme(
        &mut self,
        fd: OwnedFd,
        namespace: Namespace,
    ) -> Result<FileId, RingError> {
        if !self.queue.is_wide() {
            return Err(RingError::refused(Kind::Config, "register_nvme without sqe128"));
        }
        let file = self.register_file(fd)?;
        self.files.set_nvme(file, namespace);
        Ok(file)
    }

    /// Registers a block device whose reads and writes go in parts of at most `part_bytes_max`, one
    /// after the other. On a polled ring that is a must: Linux before 6.5 ends a polled I/O that the
    /// block layer would have to split with EAGAIN, and its worker thread tries it again for ever.
    ///
    /// # Errors
    /// As [`Ring::register_file`].
    ///
    /// # Panics
    /// When `part_bytes_max` is 0.
    pub fn register_in_parts(
        &mut self,
        fd: OwnedFd,
        part_bytes_max: u32,
    ) -> Result<FileId, RingError> {
        assert!(part_bytes_max > 0, "a part transfers something");
        let file = self.register_file(fd)?;
        self.files.set_part_bytes_max(file, part_bytes_max);
        Ok(file)
    }

    /// Takes a file out: it takes no more operations, and is closed when its last one has ended
    /// (cancel them, or use [`Op::Close`], which does so and tells when).
    ///
    /// # Errors
    /// [`Kind::BadFile`] when it is closed or closing already.
    pub fn unregister_file(&mut self, file: FileId) -> Result<(), RingError> {
        if self.files.get(file).is_none() {
            return Err(RingError::refused(Kind::BadFile, "unregister_file"));
        }
        if self.files.close(file, None) {
            self.finish_close(file);
        }
        Ok(())
    }

    /// The descriptor of a registered file, for socket options and the like.
    #[must_use]
    pub fn file(&self, file: FileId) -> Option<BorrowedFd<'_>> {
        self.files.get(file)
    }

    /// Takes an operation with all it owns. It starts at the next [`Ring::wait`] (or when the
    /// submission queue is full); operations submitted together run in no particular order.
    ///
    /// # Errors
    /// It did not start and comes back; see [`Reject`].
    // An operation is given back by value so that its resources cannot be lost on the way.
    pub fn submit(&mut self, token: u64, op: Op) -> Result<OpId, Rejected> {
        let total_bytes = match self.admit(&op) {
            Ok(total_bytes) => total_bytes,
            Err(reason) => return Err(Rejected { reason, op }),
        };
        let file = op.file();
        let closing = matches!(op, Op::Close { .. });
        let entry = InFlight {
            token,
            op,
            done_bytes: 0,
            total_bytes,
            command_bytes: None,
            cancelled: false,
        };
        let id = self.table.insert(entry);
        self.stats.ops_submitted_count += 1;
        match file {
            Some(file) if closing => self.start_close(file, id),
            Some(file) => {
                self.files.op_started(file);
                self.push_op(id);
            }
            None => self.push_op(id),
        }
        Ok(id)
    }

    /// Asks for the end of an operation. Its completion still comes, with ECANCELED or whatever
    /// happened first. A stale id, and [`Op::Close`], is ignored.
    pub fn cancel(&mut self, id: OpId) {
        let Some((entry, _)) = self.table.get_mut(id) else { return };
        if entry.cancelled || matches!(entry.op, Op::Close { .. }) {
            return;
        }
        entry.cancelled = true;
        let target = CancelBuilder::user_data(id.user_data());
        let cancel = opcode::AsyncCancel2::new(target).build();
        self.push(Sqe::Plain(cancel.user_data(CANCEL_TAG)));
    }

    /// Submits all that is pending, and waits until there is a completion, the bell rings, or
    /// `timeout` is over (`None`: no limit). May return early with nothing to take; before the
    /// next wait, take all completions and all messages.
    ///
    /// # Errors
    /// The kernel failed in a way that is not expected; the ring is of no more use.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<(), RingError> {
        self.wait_until(Until::Asked, Gather::ONE, timeout)
    }

    /// As [`Ring::wait`], for a loop that knows that something it waits for is under way, at a device or a peer: it spins
    /// for up to all of [`RingConfig::spin_us_max`] before it sleeps, and not just for a part of it.
    ///
    /// # Errors
    /// As [`Ring::wait`].
    pub fn wait_under_way(&mut self, timeout: Option<Duration>) -> Result<(), RingError> {
        self.wait_until(Until::Done, Gather::ONE, timeout)
    }

    /// As [`Ring::wait`]; but once asleep, sleeps until there are `count` completions, or one after
    /// `patience` (whole microseconds). A wake-up for each completion costs a loop that has many in
    /// flight more than they do. A ring of the bell counts as one of them. Linux before 6.12 cannot
    /// do that: there it is [`Ring::wait`].
    ///
    /// # Errors
    /// As [`Ring::wait`].
    pub fn wait_for(
        &mut self,
        count: usize,
        patience: Duration,
        timeout: Option<Duration>,
    ) -> Result<(), RingError> {
        self.wait_until(Until::Asked, Gather { count, patience }, timeout)
    }

    fn wait_until(
        &mut self,
        until: Until,
        gather: Gather,
        timeout: Option<Duration>,
    ) -> Result<(), RingError> {
        self.push_backlog();
        if self.iopoll {
            return self.ask();
        }
        if self.is_ready() || timeout == Some(Duration::ZERO) {
            return self.enter_now();
        }
        if !self.spin.is_on() && !self.awake.is_on() {
            return self.sleep(gather, timeout);
        }
        let start = clock::now();
        self.stats.idle_poll_count += u64::from(self.awake.wait_begins(until, start));
        if self.spin_until_ready(until, start, timeout)? {
            self.stats.spin_hit_count += 1;
        } else {
            let spun = clock::now().saturating_sub(start);
            self.sleep(gather, timeout.map(|timeout| timeout.saturating_sub(spun)))?;
        }
        let waited = clock::now().saturating_sub(start);
        self.spin.waited(until, waited);
        self.awake.waited(until, waited);
        Ok(())
    }

    /// The next completion, or `None` when there is none now.
    #[must_use]
    pub fn next_completion(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.ready.pop_front() {
                return Some(completion);
            }
            let cqe = self.queue.pop()?;
            if let Some(completion) = self.take(cqe) {
                return Some(completion);
            }
        }
    }

    /// Operations submitted and not completed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.table.len()
    }

    /// What wakes this ring from other threads; mailboxes are made on it.
    #[must_use]
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Counts since the ring was made.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }
}

/// Submission.
impl Ring {
    /// Checks that an operation can start; gives its length.
    fn admit(&mut self, op: &Op) -> Result<u32, Reject> {
        let total_bytes = transfer::total_bytes(op)?;
        if matches!(op, Op::Command { .. }) && !self.queue.is_wide() {
            return Err(Reject::Narrow);
        }
        if op.file().is_some_and(|file| self.files.get(file).is_none()) {
            return Err(Reject::File);
        }
        if self.table.is_full() {
            return Err(Reject::Full);
        }
        self.push_backlog();
        if self.backlog.is_empty() { Ok(total_bytes) } else { Err(Reject::Busy) }
    }

    /// Queues an operation, or the rest of it.
    fn push_op(&mut self, id: OpId) {
        let (entry, scratch) = self.table.get_mut(id).expect("only entries in the table get here");
        if self.queue.is_wide()
            && let Some(namespace) = entry.op.file().and_then(|file| self.files.nvme(file))
        {
            match sqe::build_nvme(id, entry, namespace, self.pool.as_ref()) {
                Ok(sqe) => self.push(sqe),
                Err(errno) => self.end(id, Err(errno)),
            }
            return;
        }
        let part_bytes_max =
            entry.op.file().map_or(u32::MAX, |file| self.files.part_bytes_max(file));
        if let Some(sqe) = sqe::build(id, entry, scratch, part_bytes_max, self.pool.as_ref()) {
            self.push(sqe);
        }
    }

    /// Queues an entry; behind those that wait already, so that a cancellation stays behind what
    /// it cancels.
    fn push(&mut self, sqe: Sqe) {
        if !self.backlog.is_empty() || !self.try_push(&sqe) {
            self.backlog.push_back(sqe);
        }
    }

    fn push_backlog(&mut self) {
        while let Some(sqe) = self.backlog.pop_front() {
            if !self.try_push(&sqe) {
                self.backlog.push_front(sqe);
                return;
            }
        }
    }

    /// Ends an operation that cannot begin, as the kernel would: by a completion.
    fn end(&mut self, id: OpId, result: Result<u32, Errno>) {
        let InFlight { token, op, .. } = self.table.remove(id);
        self.stats.ops_completed_count += 1;
        if op.file().is_some_and(|file| self.files.op_ended(file)) {
            self.finish_close(op.file().expect("just looked"));
        }
        self.ready.push_back(Completion { token, id, result, op, more: false, accepted: None });
    }

    /// Puts an entry into the queue, handing the queue to the kernel first when it is full.
    fn try_push(&mut self, sqe: &Sqe) -> bool {
        if self.queue.is_full() && self.enter_now().is_err() {
            return false; // the next wait meets the same error and reports it
        }
        // SAFETY: alive - the entry points into its operation's entry and scratch in the table
        // only (the bell's poll and cancellations point nowhere); until - the table gives them up
        // with the completion, and leaks them when there is none; alone - the table hands out no
        // reference to what it owns.
        unsafe { self.queue.push(sqe) }
    }

    /// Closing needs no kernel operation: cancel what is left, close after the last of it.
    fn start_close(&mut self, file: FileId, id: OpId) {
        if self.files.close(file, Some(id)) {
            self.finish_close(file);
            return;
        }
        for op in self.table.ids_on(file) {
            self.cancel(op);
        }
    }

    /// The last operation on a closing file is over.
    fn finish_close(&mut self, file: FileId) {
        let cleared = self.update_file(file, -1);
        let (fd, closer) = self.files.remove(file);
        drop(fd);
        if let Some(id) = closer {
            let entry = self.table.remove(id);
            self.stats.ops_completed_count += 1;
            let result = match cleared {
                Ok(()) => Ok(0),
                Err(source) => Err(Errno::from_io_error(&source).unwrap_or(Errno::IO)),
            };
            let InFlight { token, op, .. } = entry;
            self.ready.push_back(Completion { token, id, result, op, more: false, accepted: None });
        }
    }

    fn update_file(&self, file: FileId, raw: RawFd) -> std::io::Result<()> {
        self.queue.submitter().register_files_update(file.index, &[raw]).map(drop)
    }
}

/// Waiting.
impl Ring {
    /// Whether a wait has its reason to end already. Takes away a ring of the bell.
    fn is_ready(&mut self) -> bool {
        let rung = self.bell.has_rung();
        if rung {
            self.bell.wake();
        }
        rung || !self.ready.is_empty() || self.queue.has_completions()
    }

    /// Submits, and lets the kernel finish what it deferred; never sleeps.
    fn enter_now(&mut self) -> Result<(), RingError> {
        if !self.queue.wants_enter() {
            return Ok(());
        }
        self.stats.enter_count += 1;
        settle(self.queue.submitter().submit())
    }

    /// Submits, and asks the devices once what is over; never sleeps.
    fn ask(&mut self) -> Result<(), RingError> {
        if self.table.len() == 0 {
            return Ok(());
        }
        self.stats.enter_count += 1;
        settle(self.queue.submitter().submit())
    }

    /// True when something came within the budget, while the core was ours.
    fn spin_until_ready(
        &mut self,
        until: Until,
        start: Duration,
        timeout: Option<Duration>,
    ) -> Result<bool, RingError> {
        let budget = self.spin.budget(until, start);
        let mut budget = timeout.map_or(budget, |timeout| timeout.min(budget));
        if budget.is_zero() {
            return Ok(false);
        }
        loop {
            self.enter_now()?;
            if self.is_ready() {
                return Ok(true);
            }
            let before = clock::now();
            if before.saturating_sub(start) >= budget {
                return Ok(false);
            }
            if self.spin.looks_around(until, start, before) {
                self.spin.looked(before, self.crowd.is_full());
                budget = budget.min(self.spin.budget(until, before));
            }
            // Whoever else wants this core, often the one whose answer is waited for, gets it.
            rustix::thread::sched_yield();
            if self.spin.yielded(before, clock::now()) {
                self.enter_now()?;
                return Ok(self.is_ready());
            }
        }
    }

    /// Submits and sleeps until a completion, the bell, or the time.
    fn sleep(&mut self, gather: Gather, timeout: Option<Duration>) -> Result<(), RingError> {
        if !self.bell_armed {
            self.arm_bell();
        }
        // What the queue has no room for must not wait for a sleep that may wait for it. And after
        // `try_sleep` a sender writes the eventfd, whose poll is armed at the latest by the call
        // that sleeps: that too needs the backlog to be empty.
        if !self.backlog.is_empty() || !self.bell.try_sleep() {
            self.bell.wake();
            return self.enter_now();
        }
        self.stats.sleep_count += 1;
        let entered = match self.awake.left(clock::now()) {
            None => self.nap(gather, timeout),
            Some(left) => self.nap_awake(left, gather, timeout),
        };
        self.bell.wake();
        settle(entered)
    }

    /// While idle cores poll for us they do for `left` at most.
    fn nap_awake(
        &mut self,
        left: Duration,
        gather: Gather,
        timeout: Option<Duration>,
    ) -> std::io::Result<usize> {
        if !left.is_zero() {
            let first = timeout.map_or(left, |timeout| timeout.min(left));
            let entered = self.nap(gather, Some(first));
            if !is_time_over(&entered) || timeout == Some(first) {
                return entered;
            }
        }
        self.awake.lapse();
        self.nap(gather, timeout.map(|timeout| timeout.saturating_sub(left)))
    }

    fn nap(&mut self, gather: Gather, timeout: Option<Duration>) -> std::io::Result<usize> {
        self.stats.enter_count += 1;
        let time = timeout.unwrap_or_default();
        let time = Timespec::new().sec(time.as_secs()).nsec(time.subsec_nanos());
        let mut args = SubmitArgs::new();
        let mut count = 1;
        if gather.count > 1 && self.queue.params().is_feature_min_timeout() {
            count = gather.count;
            args =
                args.min_wait_usec(u32::try_from(gather.patience.as_micros()).unwrap_or(u32::MAX));
        }
        match timeout {
            None => self.queue.submitter().submit_with_args(count, &args),
            Some(_) => self.queue.submitter().submit_with_args(count, &args.timespec(&time)),
        }
    }

    /// Polls the eventfd, again and again: each write to it is a completion, nobody reads it.
    fn arm_bell(&mut self) {
        let fd = Fd(self.bell.fd().as_raw_fd());
        let events = u32::from(rustix::event::PollFlags::IN.bits());
        let poll = opcode::PollAdd::new(fd, events).multi(true).build();
        self.push(Sqe::Plain(poll.user_data(BELL_TAG)));
        self.bell_armed = true;
    }
}

/// Completion.
impl Ring {
    /// Turns a kernel completion into one for the caller, unless it is the ring's own business or
    /// there is more to transfer.
    fn take(&mut self, cqe: Cqe) -> Option<Completion> {
        let more = cqueue::more(cqe.flags);
        match cqe.user_data {
            BELL_TAG => {
                self.bell_armed = more;
                return None;
            }
            CANCEL_TAG => return None,
            _ => {}
        }
        let id = OpId::from_user_data(cqe.user_data);
        let (entry, _) = self.table.get_mut(id).expect("an entry leaves with its last completion");
        entry.cancelled |= self.draining;
        let accepted = accepted(&entry.op, cqe.result);
        let raw = match entry.command_bytes.take() {
            Some(bytes) => nvme::result(bytes, cqe.result),
            None => cqe.result,
        };
        let result = match transfer::step(entry, raw) {
            Verdict::Again => {
                self.stats.continued_count += 1;
                self.push_op(id);
                return None;
            }
            Verdict::Done(result) => result,
        };
        if let Some(op) = entry.op.repeat().filter(|_| more) {
            let token = entry.token;
            return Some(Completion { token, id, result, op, more, accepted });
        }
        assert!(!more, "the kernel repeats only what was asked to repeat");
        let InFlight { token, mut op, .. } = self.table.remove(id);
        self.stats.ops_completed_count += 1;
        if let (Op::RecvVec { buf, .. }, Ok(bytes)) = (&mut op, result) {
            received(buf, bytes);
        }
        if op.file().is_some_and(|file| self.files.op_ended(file)) {
            self.finish_close(op.file().expect("just looked"));
        }
        Some(Completion { token, id, result, op, more, accepted })
    }

    /// Cancels everything and takes completions until nothing is in flight or the time is over.
    fn drain(&mut self) {
        self.draining = true;
        let deadline = clock::now() + Duration::from_millis(u64::from(self.drain_ms_max));
        let round = Duration::from_millis(u64::from(DRAIN_ROUND_MS));
        let mut cancel_at = Duration::ZERO;
        while self.table.len() > 0 && clock::now() < deadline {
            self.push_backlog();
            if !self.iopoll && clock::now() >= cancel_at {
                let all = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
                self.push(Sqe::Plain(all.user_data(CANCEL_TAG)));
                cancel_at = clock::now() + round;
            }
            self.bell_armed = true; // it is cancelled with the rest, and not wanted any more
            let waited =
                if self.iopoll { self.ask() } else { self.sleep(Gather::ONE, Some(round)) };
            if waited.is_err() {
                return;
            }
            while let Some(completion) = self.next_completion() {
                drop(completion);
            }
        }
    }
}

impl Drop for Ring {
    /// Cancels what is in flight and waits for it, for a bounded time. What was submitted and not
    /// waited for may or may not happen. What the kernel does not let go of is leaked.
    fn drop(&mut self) {
        self.drain();
        if self.table.len() > 0 {
            self.table.leak();
            return;
        }
        // Closing the ring lets go of its files some time later; this way a listener's port is
        // free when this returns. A failure leaves them to that.
        let unregistered = self.queue.submitter().unregister_files();
        debug_assert!(unregistered.is_ok(), "the table was registered when the ring was made");
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("in_flight", &self.in_flight())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// How many completions a sleep waits for, and how long for more than one.
#[derive(Clone, Copy)]
struct Gather {
    count: usize,
    patience: Duration,
}

impl Gather {
    const ONE: Gather = Gather { count: 1, patience: Duration::ZERO };
}

/// Sorts the answers of `io_uring_enter`: the ones that only mean "not now" are fine.
fn settle(entered: std::io::Result<usize>) -> Result<(), RingError> {
    let Err(source) = entered else { return Ok(()) };
    match Errno::from_io_error(&source) {
        // The time is over; a signal; completions to be taken first; memory short for the moment.
        Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
        _ => Err(RingError::kernel("io_uring_enter", source)),
    }
}

/// Whether a call of `io_uring_enter` ended because its time was over.
fn is_time_over(entered: &std::io::Result<usize>) -> bool {
    entered.as_ref().is_err_and(|error| Errno::from_io_error(error) == Some(Errno::TIME))
}

/// The socket that an accept made.
fn accepted(op: &Op, result: i32) -> Option<OwnedFd> {
    if !matches!(op, Op::Accept { .. }) || result < 0 {
        return None;
    }
    // SAFETY: alive - the kernel has just opened it for this completion; until - its owner drops
    // it; alone - the number is in this completion only.
    Some(unsafe { OwnedFd::from_raw_fd(result) })
}

/// Counts received bytes into a vector.
fn received(buf: &mut Vec<u8>, bytes: u32) {
    let len = buf.len() + usize::try_from(bytes).expect("u32 fits usize");
    assert!(len <= buf.capacity(), "the kernel fills at most the spare capacity");
    // SAFETY: alive - within the capacity; until - the vector's own life; alone - the operation is
    // over, the vector is ours. The kernel has written these bytes.
    unsafe { buf.set_len(len) };
}

#[cfg(test)]
mod tests;
