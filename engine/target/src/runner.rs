//! One store with a ring and a loop around it, for callers that have no loop of their own.
//!
//! The caller gives the store work ([`Runner::with_store`]), calls [`Runner::turn`] until there are
//! answers ([`Runner::next_reply`]), and tells it the time ([`Runner::tick`]): nothing here reads a
//! clock.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use slab::Slab;
use weft_iobuf::Pool;
use weft_ring::{Op, Reject, Ring, RingConfig, RingError};
use weft_store::{Action, IoId, OpenParams, Outcome, RecoveryReport, Store};
use weft_wire::Status;
use weft_wire::units::{to_u64, to_usize};

use crate::error::{Kind, TargetError};
use crate::open::{DataPath, Opened, Options, needs_wide_ring};
use crate::targets::{IndexThread, Step, Targets};

/// Ends taken in a turn, before what follows from them is begun: few at first, twice as many in each turn that leaves some.
/// Devices and hypervisors end what they have in one go and then wait for more, so the first must come soon; but
/// each submission costs a call and the device's doorbell (`benchmarks/RESULTS.md`).
const ENDS_PER_TURN: std::ops::RangeInclusive<usize> = 8..=32;
/// Bytes moved by the ends of a turn: the device is not kept waiting for the checksums of more.
const END_BYTES_PER_TURN: usize = 4 << 20;
/// A sleep waits for one of so many I/Os under way, [`GATHER_MAX`] at most, for as long as [`GATHER`]. To wake
/// up for each completion costs more than the completion: file systems end a direct write in a worker of this very core.
const IOS_PER_COMPLETION: usize = 8;
const GATHER_MAX: usize = 4;
const GATHER: Duration = Duration::from_micros(50);
/// Calls of [`Runner::with_store`] after which what they began is handed over: the device works while the caller goes
/// on with a burst.
const GIVEN_PER_SUBMIT: u32 = 8;

/// How to run a target.
#[derive(Clone, Debug)]
pub struct RunnerParams {
    /// How to open its store.
    pub store: OpenParams,
    /// How data is to reach the device.
    pub options: Options,
    /// Memory for buffers, in bytes; pinned.
    pub pool_bytes: usize,
    /// Largest buffer, in bytes: a power of two.
    pub slot_bytes_max: usize,
}

/// The end of an operation of the store.
#[derive(Debug)]
pub struct Reply {
    /// As given with the operation.
    pub op: u64,
    /// How it ended.
    pub result: Result<Outcome, Status>,
}

/// A store and what drives it.
#[derive(Debug)]
pub struct Runner {
    path: PathBuf,
    store: Store,
    targets: Targets,
    index: usize,
    ring: Ring,
    pool: Pool,
    owners: Slab<IoId>,
    /// Operations that found the ring full.
    backlog: VecDeque<(IoId, Op)>,
    actions: Vec<Action>,
    /// The last turn's, emptied: kept for its memory.
    doing: Vec<Action>,
    replies: VecDeque<Reply>,
    /// Calls of `with_store` since the last submission.
    given: u32,
    /// Ends that the next turn takes at most.
    ends_max: usize,
    /// What the ring said to a submission between turns.
    failed: Option<RingError>,
    stopped: bool,
}

impl Runner {
    /// Opens and recovers a target. Gives what recovery found, and sentences about what was asked
    /// for and is not used.
    ///
    /// # Errors
    /// Any [`Kind`].
    pub fn open(
        path: &Path,
        params: RunnerParams,
    ) -> Result<(Runner, RecoveryReport, Vec<String>), TargetError> {
        let RunnerParams { store, options, pool_bytes, slot_bytes_max } = params;
        let failed = |op, error: RingError| TargetError::because(Kind::Ring, op, path, error);
        let sqe128 = needs_wide_ring([path], options);
        let mut ring = Ring::new(RingConfig { sqe128, files_max: 64, ..RingConfig::default() })
            .map_err(|error| failed("make a ring for", error))?;
        let pool = Pool::new(pool_bytes, slot_bytes_max)
            .map_err(|error| TargetError::because(Kind::Ring, "make buffers for", path, error))?;
        ring.register_pool(&pool).map_err(|error| failed("register buffers for", error))?;
        let writer = IndexThread::of_targets(1);
        let writer = writer.map_err(|error| {
            TargetError::because(Kind::Thread, "start a thread for", path, error)
        })?;
        let mut targets = Targets::new(writer, &ring);
        let Opened { index, store, report, notes } =
            targets.open(path, store, options, &mut ring, &pool)?;
        let runner = Runner {
            path: path.to_owned(),
            store,
            targets,
            index,
            ring,
            pool,
            owners: Slab::new(),
            backlog: VecDeque::new(),
            actions: Vec::new(),
            doing: Vec::new(),
            replies: VecDeque::new(),
            given: 0,
            ends_max: *ENDS_PER_TURN.start(),
            failed: None,
            stopped: false,
        };
        Ok((runner, report, notes))
    }

    /// How data reaches the device.
    #[must_use]
    pub fn data_path(&self) -> DataPath {
        self.targets.data_path(self.index)
    }

    /// The buffers.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The store, to look at.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Gives the store work. What it wants done is done by the next turns, or begun before when
    /// there is more and more of it.
    pub fn with_store<T>(
        &mut self,
        work: impl FnOnce(&mut Store, &Pool, &mut Vec<Action>) -> T,
    ) -> T {
        let result = work(&mut self.store, &self.pool, &mut self.actions);
        self.given += 1;
        if self.given >= GIVEN_PER_SUBMIT {
            self.carry_out();
            self.failed = self.failed.take().or_else(|| self.wait(Duration::ZERO).err());
        }
        result
    }

    /// Tells the store the time, from any fixed instant on.
    pub fn tick(&mut self, now: Duration) {
        self.store.tick(now, &mut self.actions);
    }

    /// The next answer.
    #[must_use]
    pub fn next_reply(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }

    /// Begins what there is to do, waits for at least one end of it (at most `patience`), and takes
    /// a few of those there are; the next turn has the others. Returns at once when an answer is
    /// there already.
    ///
    /// # Errors
    /// `Ring`, `Thread`: it is of no more use.
    pub fn turn(&mut self, patience: Duration) -> Result<(), TargetError> {
        self.carry_out();
        if self.replies.is_empty() && !self.stopped {
            self.failed
                .take()
                .map_or_else(|| self.wait(patience), Err)
                .map_err(|error| TargetError::because(Kind::Ring, "wait for", &self.path, error))?;
            self.take_completions();
            self.take_written()?;
            self.carry_out();
        }
        Ok(())
    }

    fn take_written(&mut self) -> Result<(), TargetError> {
        let failed =
            |error| TargetError::because(Kind::Thread, "write the index of", &self.path, error);
        while let Some((_, written)) = self.targets.next_written().map_err(failed)? {
            self.store.checkpoint_written(written, &self.pool, &mut self.actions);
        }
        Ok(())
    }

    /// Ends what is under way and puts everything into the index.
    ///
    /// # Errors
    /// As [`Runner::turn`].
    pub fn shutdown(mut self) -> Result<(), TargetError> {
        const PATIENCE: Duration = Duration::from_secs(1);
        self.store.shutdown(&mut self.actions);
        while !self.stopped {
            self.replies.clear();
            self.turn(PATIENCE)?;
        }
        Ok(())
    }

    fn wait(&mut self, patience: Duration) -> Result<(), RingError> {
        self.given = 0;
        for (io, op) in std::mem::take(&mut self.backlog) {
            self.submit(io, op);
        }
        if self.targets.must_poll() {
            self.targets.poll()?;
            return self.ring.wait(Some(Duration::ZERO));
        }
        let count = (self.owners.len() / IOS_PER_COMPLETION).clamp(1, GATHER_MAX);
        self.ring.wait_for(count, GATHER, Some(patience))
    }

    fn take_completions(&mut self) {
        let (mut ends, mut bytes) = (0, 0);
        while ends < self.ends_max && bytes < END_BYTES_PER_TURN {
            let Some(completion) = self.ring.next_completion() else { break };
            ends += 1;
            bytes += completion.result.as_ref().map_or(0, |&bytes| to_usize(u64::from(bytes)));
            let io = self.owners.remove(to_usize(completion.token));
            let step = self.targets.completed(self.index, io, completion);
            self.step(step);
        }
        let (first, most) = (*ENDS_PER_TURN.start(), *ENDS_PER_TURN.end());
        self.ends_max = if ends == self.ends_max { most.min(2 * ends) } else { first };
        while let Some((_, step)) = self.targets.next_polled() {
            self.step(step);
        }
    }

    fn carry_out(&mut self) {
        while !self.actions.is_empty() {
            let mut doing = std::mem::replace(&mut self.actions, std::mem::take(&mut self.doing));
            for action in doing.drain(..) {
                match action {
                    Action::Reply { op, result } => self.replies.push_back(Reply { op, result }),
                    Action::Stopped => self.stopped = true,
                    action => {
                        let step = self.targets.start(&self.ring, self.index, action);
                        self.step(step);
                    }
                }
            }
            self.doing = doing;
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ring(io, op) => self.submit(io, op),
            Step::Done(io, result) => {
                self.store.io_done(io, result, &self.pool, &mut self.actions);
            }
            Step::Polled | Step::Writing => {}
        }
    }

    fn submit(&mut self, io: IoId, op: Op) {
        let key = self.owners.insert(io);
        if let Err(rejected) = self.ring.submit(to_u64(key), op) {
            self.owners.remove(key);
            let later = matches!(rejected.reason, Reject::Full | Reject::Busy);
            assert!(later, "the store asks for whole slots of files that stay registered");
            self.backlog.push_back((io, rejected.op));
        }
    }
}
