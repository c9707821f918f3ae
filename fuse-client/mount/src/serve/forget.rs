//! Has the kernel forget what others are about to change, in threads of their own.
//!
//! Order within one order: names (an increase of the epoch), attributes, then pages. After the attributes every stat and
//! read of the kernel asks us first, so the loop hears of that at once, and of the pages when they are gone.
//!
//! Names and attributes wait for nothing: one thread does them. Dropping pages waits for those that are locked, which
//! may be by a request that the loop is to answer when another mount gave a lease back; and that mount may wait for
//! pages in the same way. So no order waits behind another's pages: a thread that waits for them is replaced.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use rustix::io::Errno;
use weft_ring::{Mailbox, Ring, Sender};
use weft_wire::Ino;

use crate::reply::{inc_epoch, inval_inode};
use crate::request::NodeId;

/// Answers that wait for the loop; more make the thread wait.
const MAIL_MAX: usize = 1024;
/// Threads that drop pages at the same time. Each may wait for one file's locked pages; where all do, orders queue.
const DROPPERS_MAX: usize = 256;

/// What is to be forgotten.
#[derive(Debug)]
struct Order {
    id: u64,
    inodes: Vec<Ino>,
    names: bool,
}

/// The number of an order, and whether the pages are gone, too.
pub(super) type Forgotten = (u64, bool);

/// The thread's end in the loop.
#[derive(Debug)]
pub(super) struct Forgetter {
    orders: mpsc::Sender<Order>,
    done: Mailbox<Forgotten>,
}

impl Forgetter {
    /// Starts the thread over its own descriptor of the device.
    pub(super) fn start(device: OwnedFd, ring: &Ring) -> Result<Forgetter, String> {
        let (orders, inbox) = mpsc::channel();
        let (sender, done) = weft_ring::mailbox(&ring.bell(), MAIL_MAX);
        std::thread::Builder::new()
            .name("forget".to_owned())
            .spawn(move || run(File::from(device), &inbox, &sender))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Forgetter { orders, done })
    }

    /// Orders it.
    pub(super) fn order(&self, id: u64, inodes: Vec<Ino>, names: bool) {
        if self.orders.send(Order { id, inodes, names }).is_err() {
            tracing::error!("the thread that tells the kernel to forget is gone; a bug");
        }
    }

    /// What is done.
    pub(super) fn next(&self) -> Option<Forgotten> {
        self.done.try_recv()
    }
}

/// Has the kernel forget all names; false when it cannot.
pub(super) fn forgets_names(device: &OwnedFd) -> bool {
    rustix::io::write(device, &inc_epoch()).is_ok()
}

fn run(device: File, orders: &mpsc::Receiver<Order>, done: &Sender<Forgotten>) {
    let device = Arc::new(device);
    let (to_droppers, inbox) = mpsc::channel();
    let mut droppers =
        Droppers { inbox: Arc::new(Mutex::new(inbox)), idle: Arc::default(), count: 0 };
    while let Ok(order) = orders.recv() {
        if order.names {
            tell(&device, &inc_epoch());
        }
        for ino in &order.inodes {
            tell(&device, &inval_inode(NodeId(ino.0), -1, 0));
        }
        report(done, (order.id, false));
        droppers.take_one(&device, done);
        if to_droppers.send(order).is_err() {
            return;
        }
    }
}

/// The threads that drop pages.
struct Droppers {
    inbox: Arc<Mutex<mpsc::Receiver<Order>>>,
    /// How many wait for an order, less the orders that wait for one.
    idle: Arc<AtomicIsize>,
    count: usize,
}

impl Droppers {
    /// One of them is to take the next order, one more if all are busy.
    fn take_one(&mut self, device: &Arc<File>, done: &Sender<Forgotten>) {
        if self.idle.fetch_sub(1, Ordering::SeqCst) > 0 || self.count >= DROPPERS_MAX {
            return;
        }
        let (inbox, idle) = (Arc::clone(&self.inbox), Arc::clone(&self.idle));
        let (device, done) = (Arc::clone(device), done.clone());
        let started = std::thread::Builder::new()
            .name("drop-pages".to_owned())
            .spawn(move || drop_pages(&device, &inbox, &idle, &done));
        match started {
            Ok(_) => {
                self.count += 1;
                self.idle.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => {
                tracing::warn!(%error, "no thread to drop pages: they wait for one another")
            }
        }
    }
}

fn drop_pages(
    device: &File,
    inbox: &Mutex<mpsc::Receiver<Order>>,
    idle: &AtomicIsize,
    done: &Sender<Forgotten>,
) {
    loop {
        let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(order) = next else { return };
        for ino in &order.inodes {
            tell(device, &inval_inode(NodeId(ino.0), 0, 0));
        }
        report(done, (order.id, true));
        idle.fetch_add(1, Ordering::SeqCst);
    }
}

fn tell(mut device: &File, message: &[u8]) {
    if let Err(error) = device.write(message) {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            // It does not know the inode, or is being unmounted: there is nothing to forget.
            Some(Errno::NOENT | Errno::NODEV | Errno::NOTCONN | Errno::PERM) => {}
            _ => tracing::warn!(%error, "the kernel does not forget"),
        }
    }
}

fn report(done: &Sender<Forgotten>, mut what: Forgotten) {
    while let Err(weft_ring::SendError::Full(back)) = done.try_send(what) {
        what = back;
        std::thread::yield_now();
    }
}
