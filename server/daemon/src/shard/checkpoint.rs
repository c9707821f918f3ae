//! The thread that writes the volume's checkpoints, so that the shard need not wait for a disk.
//!
//! Why a thread and not the ring: the pages are written through the page cache (LMDB reads its file through a map), which
//! the ring would hand to a worker thread of the kernel all the same, page by page; here sums are made and neighbours are
//! joined on the way. It is bound to no core: those of the shards are busy.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use weft_metadata::{Checkpoint, CheckpointWritten};
use weft_ring::{Bell, Mailbox, Sender};

/// What the shard's thread has of it.
pub(crate) struct CheckpointWriter {
    jobs: SyncSender<Checkpoint>,
    written: Mailbox<CheckpointWritten>,
    thread: JoinHandle<()>,
}

/// The thread, before the shard has a ring to be woken by.
pub(crate) struct WriterThread {
    jobs: SyncSender<Checkpoint>,
    bells: SyncSender<Sender<CheckpointWritten>>,
    thread: JoinHandle<()>,
}

impl WriterThread {
    /// Starts it. Threads begin on the cores of the one that starts them: so before that is bound to its own.
    pub(crate) fn start() -> Result<WriterThread, String> {
        let (jobs, inbox) = sync_channel(1);
        let (bells, told) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || run(&inbox, &told))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(WriterThread { jobs, bells, thread })
    }

    /// Its ends ring the shard's bell.
    pub(crate) fn join_shard(self, bell: &Bell) -> CheckpointWriter {
        // One checkpoint is under way at a time: there is always room.
        let (sender, written) = weft_ring::mailbox(bell, 1);
        let told = self.bells.send(sender);
        assert!(told.is_ok(), "it waits for this");
        CheckpointWriter { jobs: self.jobs, written, thread: self.thread }
    }
}

fn run(inbox: &Receiver<Checkpoint>, bells: &Receiver<Sender<CheckpointWritten>>) {
    let Ok(shard) = bells.recv() else { return };
    for checkpoint in inbox {
        if shard.try_send(checkpoint.write()).is_err() {
            return; // The shard has ended.
        }
    }
}

impl CheckpointWriter {
    /// Has it written.
    pub(crate) fn write(&self, checkpoint: Checkpoint) {
        // One that is gone is noticed by `next_written`.
        let sent = self.jobs.try_send(checkpoint);
        debug_assert!(!matches!(sent, Err(TrySendError::Full(_))), "one at a time");
    }

    /// What ended since.
    ///
    /// # Errors
    /// The thread is gone: nothing would ever end.
    pub(crate) fn next_written(&self) -> Result<Option<CheckpointWritten>, String> {
        let gone = self.thread.is_finished();
        match self.written.try_recv() {
            None if gone => Err("the thread for checkpoints panicked: a bug".to_owned()),
            written => Ok(written),
        }
    }
}
