//! Threads that have the kernel send one request on a given CPU.
//!
//! Over io_uring the kernel hands requests that found no free entry out only when an entry of their CPU asks for its next
//! request. While requests are held (locks that wait) entries are added, but where all that asked are held nobody asks:
//! requests, the unlock among them, would wait for ever. A request made here finds a new entry, and its answer asks. It
//! is answered without asking anybody (`Mount::request`).
//!
//! A thread for each: should another request take the new entry first, this one waits with the others, and if the other
//! one is held as well the next kick must not wait behind it. There are at most as many as held requests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::thread::{CpuSet, gettid, sched_setaffinity};

/// The threads of now.
#[derive(Debug)]
pub(super) struct Kicker {
    mount_point: PathBuf,
    threads: Arc<Mutex<BTreeSet<u32>>>,
}

impl Kicker {
    /// For the mount at this point.
    pub(super) fn new(mount_point: PathBuf) -> Kicker {
        Kicker { mount_point, threads: Arc::default() }
    }

    /// One request on this CPU, soon.
    pub(super) fn kick(&self, cpu: u16) {
        let (mount_point, threads) = (self.mount_point.clone(), Arc::clone(&self.threads));
        let started = std::thread::Builder::new().name("kick".to_owned()).spawn(move || {
            let me = gettid().as_raw_nonzero().get().unsigned_abs();
            threads.lock().unwrap_or_else(PoisonError::into_inner).insert(me);
            make_request(cpu, &mount_point);
            threads.lock().unwrap_or_else(PoisonError::into_inner).remove(&me);
        });
        if let Err(error) = started {
            tracing::error!(cpu, %error, "no thread: requests may wait until the next one of this CPU");
        }
    }

    /// Whether a request of this thread is one of these.
    pub(super) fn is_me(&self, thread: u32) -> bool {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).contains(&thread)
    }
}

fn make_request(cpu: u16, mount_point: &Path) {
    let mut cpus = CpuSet::new();
    cpus.set(usize::from(cpu));
    if let Err(errno) = sched_setaffinity(None, &cpus) {
        tracing::warn!(
            cpu,
            %errno,
            "programs run on a CPU that this process may not use: if they wait for locks, allow it, or mount with \
             transport=classic"
        );
        return;
    }
    if let Err(errno) = rustix::fs::statfs(mount_point) {
        tracing::debug!(%errno, "not mounted any more");
    }
}
