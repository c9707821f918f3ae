//! A thread that does what waits for a disk, so that a shard need not: commits of the targets' indices, checkpoints of a
//! volume.
//!
//! Why a thread and not the ring: the pages are written through the page cache (LMDB reads its file through a map), which
//! the ring would hand to a worker thread of the kernel all the same, page by page; here sums are made and neighbours are
//! joined on the way. It is bound to no core: those of the shards are busy.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use weft_ring::{Bell, Mailbox, Sender};

/// The thread, before those it works for have a ring to be woken by.
#[derive(Debug)]
pub struct WriterThread<Job, Done> {
    jobs: SyncSender<Job>,
    jobs_max: usize,
    bells: SyncSender<Sender<Done>>,
    thread: JoinHandle<()>,
}

/// What the thread that has the ring has of it. Dropped, it ends when what it was given is written.
#[derive(Debug)]
pub struct Writer<Job, Done> {
    /// `None` once dropped.
    jobs: Option<SyncSender<Job>>,
    done: Mailbox<Done>,
    thread: Option<JoinHandle<()>>,
}

impl<Job: Send + 'static, Done: Send + 'static> WriterThread<Job, Done> {
    /// Starts it; `jobs_max` are under way at a time at most, one after the other. Threads begin on the cores of the one
    /// that starts them: so before that is bound to its own.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(
        name: &str,
        jobs_max: usize,
        work: fn(Job) -> Done,
    ) -> io::Result<WriterThread<Job, Done>> {
        let (jobs, inbox) = sync_channel(jobs_max);
        let (bells, told) = sync_channel(1);
        let run = move || run(&inbox, &told, work);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(WriterThread { jobs, jobs_max, bells, thread })
    }

    /// Its ends ring the bell.
    ///
    /// # Panics
    /// It ends before it is asked to: a bug.
    pub fn join(self, bell: &Bell) -> Writer<Job, Done> {
        // As many as there may be jobs: there is always room.
        let (sender, done) = weft_ring::mailbox(bell, self.jobs_max);
        let told = self.bells.send(sender);
        assert!(told.is_ok(), "it waits for this");
        Writer { jobs: Some(self.jobs), done, thread: Some(self.thread) }
    }
}

fn run<Job, Done>(inbox: &Receiver<Job>, bells: &Receiver<Sender<Done>>, work: fn(Job) -> Done) {
    let Ok(owner) = bells.recv() else { return };
    for job in inbox {
        if owner.try_send(work(job)).is_err() {
            return; // The owner has ended.
        }
    }
}

impl<Job, Done> Writer<Job, Done> {
    /// Has it done.
    ///
    /// # Panics
    /// More are under way than may be.
    pub fn give(&self, job: Job) {
        // A thread that is gone is noticed by `next`.
        let sent = self.jobs.as_ref().expect("not dropped").try_send(job);
        assert!(!matches!(sent, Err(TrySendError::Full(_))), "as many as were agreed on");
    }

    /// What ended since.
    ///
    /// # Errors
    /// The thread is gone: nothing would ever end.
    pub fn next(&self) -> io::Result<Option<Done>> {
        let gone = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        match self.done.try_recv() {
            None if gone => Err(io::Error::other("a thread that writes panicked: a bug")),
            done => Ok(done),
        }
    }
}

impl<Job, Done> Drop for Writer<Job, Done> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            thread.join().unwrap_or_default();
        }
    }
}
