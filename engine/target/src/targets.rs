//! The targets of one thread: actions in, operations of its ring out, and back.

use std::collections::VecDeque;
use std::io;

use rustix::fs::{FallocateFlags, SeekFrom, seek};
use weft_ring::{Completion, Errno, FileId, Op, Ring, RingError};
use weft_store::{Action, Checkpoint, CheckpointWritten, IoDone, IoError, IoId};
use weft_wire::units::{to_u64, to_usize};

use crate::open::DataPath;
use crate::polled::Polled;
use crate::tail::Tail;
use crate::writer::{Writer, WriterThread};

/// The descriptors of one target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TargetFiles {
    /// Where data goes, past the page cache: of the caller's ring, or of the polled one.
    pub(crate) data: FileId,
    pub(crate) path: DataPath,
    /// O_DIRECT, on the caller's ring: the way that always works.
    pub(crate) direct: FileId,
    /// Buffered, on the caller's ring: the journal's records survive the death of this process in
    /// the page cache, and one fdatasync makes them and the data before them durable.
    pub(crate) buffered: FileId,
}

/// How an action of a store goes on.
#[derive(Debug)]
pub enum Step {
    /// To be submitted to the caller's ring; [`Targets::completed`] takes its completion.
    Ring(IoId, Op),
    /// Over.
    Done(IoId, Result<IoDone, IoError>),
    /// On the polled ring, or for the next turn; it comes out of [`Targets::next_polled`].
    Polled,
    /// With the thread that writes indices; it comes out of [`Targets::next_written`].
    Writing,
}

/// An I/O that is over: which target, which I/O, how it went.
pub(crate) type Done = (usize, IoId, Result<IoDone, IoError>);

/// The end of a target's checkpoint.
type IndexWritten = (usize, CheckpointWritten);

/// The thread that writes the indices of all targets of one thread.
pub type IndexThread = WriterThread<(usize, Checkpoint), IndexWritten>;

impl IndexThread {
    /// Starts it, for so many targets: each has one checkpoint under way.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of_targets(count: usize) -> io::Result<IndexThread> {
        WriterThread::start("index", count, |(index, job)| (index, job.write()))
    }
}

/// All targets that one thread drives.
#[derive(Debug)]
pub struct Targets {
    files: Vec<TargetFiles>,
    /// Where the targets' journals grow.
    tails: Vec<Tail>,
    pub(crate) polled: Option<Polled>,
    writer: Writer<(usize, Checkpoint), IndexWritten>,
    /// What goes on at the next turn, and what does at this one.
    next_turn: Vec<(usize, IoId)>,
    this_turn: VecDeque<(usize, IoId)>,
}

impl Targets {
    /// None yet; [`Opened`] adds them. Their indices are written by `writer`, which rings the bell of `ring`.
    #[must_use]
    pub fn new(writer: IndexThread, ring: &Ring) -> Targets {
        let writer = writer.join(&ring.bell());
        let (next_turn, this_turn) = (Vec::new(), VecDeque::new());
        Targets { files: Vec::new(), tails: Vec::new(), polled: None, writer, next_turn, this_turn }
    }

    pub(crate) fn add(&mut self, files: TargetFiles) -> usize {
        self.files.push(files);
        self.tails.push(Tail::default());
        self.files.len() - 1
    }

    /// How a target's data goes.
    #[must_use]
    pub fn data_path(&self, index: usize) -> DataPath {
        self.files[index].path
    }

    /// Begins a store's action; `ring` is the one the target was opened with.
    ///
    /// # Panics
    /// On replies and the like, which are not disk work.
    pub fn start(&mut self, ring: &Ring, index: usize, action: Action) -> Step {
        let TargetFiles { data: file, path, direct, buffered } = self.files[index];
        let (io, op) = match action {
            Action::ReadData { io, offset, buf, bytes } => {
                let range = 0..to_usize(u64::from(bytes));
                (io, Op::Read { file, offset, buf, range })
            }
            Action::WriteData { io, offset, buf, start, bytes } => {
                let start = to_usize(u64::from(start));
                let range = start..start + to_usize(u64::from(bytes));
                (io, Op::Write { file, offset, buf, range })
            }
            Action::AppendJournal { io, offset, bytes, settled_bytes, room_bytes } => {
                let device = ring.file(buffered).expect("a target's files stay registered");
                let tail = &mut self.tails[index];
                let done = tail.append(device, offset, &bytes, settled_bytes, room_bytes);
                let failed = |errno: Errno| IoError { errno: errno.raw_os_error(), buf: None };
                let done = done.map(|()| IoDone { bytes: Some(bytes), ..IoDone::default() });
                return Step::Done(io, done.map_err(failed));
            }
            Action::Flush { io } => {
                return Step::Ring(io, Op::Fsync { file: buffered, datasync: true });
            }
            Action::Discard { io, offset, bytes } => {
                // On a block device this unmaps, or fails: it never writes zeros out.
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                return Step::Ring(io, Op::Fallocate { file: direct, mode, offset, bytes });
            }
            Action::GoOn { io } => {
                self.next_turn.push((index, io));
                return Step::Polled;
            }
            Action::WriteCheckpoint(checkpoint) => {
                self.writer.give((index, checkpoint));
                return Step::Writing;
            }
            Action::Reply { .. } | Action::Stopped => {
                unreachable!("the caller keeps what is not disk work")
            }
        };
        match (path, &mut self.polled) {
            (DataPath::Polled { .. }, Some(polled)) => {
                polled.submit(index, io, op);
                Step::Polled
            }
            _ => Step::Ring(io, op),
        }
    }

    /// The length of a target's device or file now, in bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn length(&self, ring: &Ring, index: usize) -> io::Result<u64> {
        let file = ring.file(self.files[index].buffered);
        // Nobody uses the descriptor's own position. A block device's length is where its end is,
        // not what stat says.
        Ok(seek(file.expect("a target's files stay registered"), SeekFrom::End(0))?)
    }

    /// Whether I/O is under way that only [`Targets::poll`] brings to its end: do not sleep.
    #[must_use]
    pub fn must_poll(&self) -> bool {
        let waits = !self.next_turn.is_empty() || !self.this_turn.is_empty();
        waits || self.polled.as_ref().is_some_and(Polled::is_busy)
    }

    /// Hands over what was started and asks the devices what is over. Call once a turn.
    ///
    /// # Errors
    /// The polled ring failed.
    pub fn poll(&mut self) -> Result<(), RingError> {
        self.this_turn.extend(self.next_turn.drain(..));
        self.polled.as_mut().map_or(Ok(()), Polled::poll)
    }

    /// The next I/O of the polled ring that goes on: over, or once more on the caller's ring.
    #[must_use]
    pub fn next_polled(&mut self) -> Option<(usize, Step)> {
        if let Some((index, io)) = self.this_turn.pop_front() {
            return Some((index, Step::Done(io, Ok(IoDone::default()))));
        }
        let polled = self.polled.as_mut()?;
        if let Some((index, io, result)) = polled.next_refused() {
            return Some((index, Step::Done(io, result)));
        }
        let (index, io, completion) = polled.next_completion()?;
        Some((index, self.completed(index, io, completion)))
    }

    /// The next checkpoint that was written, for [`weft_store::Store::checkpoint_written`], and whose it is. Look after each
    /// wait of the ring.
    ///
    /// # Errors
    /// The thread that writes is gone.
    pub fn next_written(&self) -> io::Result<Option<IndexWritten>> {
        self.writer.next()
    }

    /// How an operation of [`Targets::start`] went, in the store's words. What failed on a better
    /// way is tried once more on the plain one: the kernel does not repeat commands of ours that a
    /// reset of the controller ended, as it does with its own.
    pub fn completed(&self, index: usize, io: IoId, completion: Completion) -> Step {
        let TargetFiles { data, direct, .. } = self.files[index];
        if data == direct || completion.result.is_ok() {
            return Step::Done(io, finished(completion));
        }
        match completion.op {
            Op::Read { file, offset, buf, range } if file == data => {
                Step::Ring(io, Op::Read { file: direct, offset, buf, range })
            }
            Op::Write { file, offset, buf, range } if file == data => {
                Step::Ring(io, Op::Write { file: direct, offset, buf, range })
            }
            op => Step::Done(io, finished(Completion { op, ..completion })),
        }
    }
}

fn finished(completion: Completion) -> Result<IoDone, IoError> {
    let wanted = match &completion.op {
        Op::Read { range, .. } | Op::Write { range, .. } => range.len(),
        _ => 0,
    };
    let short = matches!(completion.result, Ok(bytes) if u64::from(bytes) < to_u64(wanted));
    let buf = match completion.op {
        Op::Read { buf, .. } => Some(buf),
        _ => None,
    };
    match completion.result {
        Ok(_) if !short => Ok(IoDone { buf, ..IoDone::default() }),
        Ok(_) => Err(IoError { errno: Errno::IO.raw_os_error(), buf }),
        Err(errno) => Err(IoError { errno: errno.raw_os_error(), buf }),
    }
}
