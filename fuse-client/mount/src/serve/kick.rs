//! A thread that has the kernel send one request on a given CPU.
//!
//! Over io_uring the kernel hands requests that found no free entry out only when an entry of their CPU asks for its next
//! request. While requests are held (locks that wait) entries are added, but where all that asked are held nobody asks:
//! requests, the unlock among them, would wait for ever. A request made here finds a new entry, and its answer asks. It
//! is answered without asking anybody (`Mount::request`).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::thread::{CpuSet, gettid, sched_setaffinity};

/// The thread; it ends with this.
#[derive(Debug)]
pub(super) struct Kicker {
    to: Sender<u16>,
    thread: Arc<OnceLock<u32>>,
}

impl Kicker {
    /// Starts it for the mount at this point.
    ///
    /// # Errors
    /// There can be no thread; for people.
    pub(super) fn start(mount_point: PathBuf) -> Result<Kicker, String> {
        let (to, from) = channel();
        let thread = Arc::new(OnceLock::new());
        let its = Arc::clone(&thread);
        std::thread::Builder::new()
            .name("kicker".to_owned())
            .spawn(move || {
                its.get_or_init(|| gettid().as_raw_nonzero().get().unsigned_abs());
                kick_all(&from, &mount_point);
            })
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Kicker { to, thread })
    }

    /// One request on this CPU, soon.
    pub(super) fn kick(&self, cpu: u16) {
        if self.to.send(cpu).is_err() {
            tracing::error!(cpu, "the thread that keeps requests coming is gone; a bug");
        }
    }

    /// Whether a request of this thread is one of these.
    pub(super) fn is_me(&self, thread: u32) -> bool {
        self.thread.get() == Some(&thread)
    }
}

fn kick_all(from: &Receiver<u16>, mount_point: &PathBuf) {
    while let Ok(cpu) = from.recv() {
        let mut cpus = CpuSet::new();
        cpus.set(usize::from(cpu));
        if let Err(errno) = sched_setaffinity(None, &cpus) {
            tracing::warn!(
                cpu,
                %errno,
                "programs run on a CPU that this process may not use: if they wait for locks, allow it, or mount with \
                 transport=classic"
            );
            continue;
        }
        if let Err(errno) = rustix::fs::statfs(mount_point) {
            tracing::debug!(%errno, "not mounted any more");
        }
    }
}
