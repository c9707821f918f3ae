//! Has the kernel forget what others are about to change: a thread of its own, because dropping pages waits for those
//! that are locked, which may be by a request that the loop is to answer.
//!
//! Order within one order: names (an increase of the epoch, which waits for nothing), attributes, then pages. After the
//! attributes every stat and read of the kernel asks us first, so the loop hears of that at once, and of the pages when
//! they are gone.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::mpsc;

use rustix::io::Errno;
use weft_ring::{Mailbox, Ring, Sender};
use weft_wire::Ino;

use crate::reply::{inc_epoch, inval_inode};
use crate::request::NodeId;

/// Answers that wait for the loop; more make the thread wait.
const MAIL_MAX: usize = 1024;

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

fn run(device: File, orders: &mpsc::Receiver<Order>, done: &Sender<Forgotten>) {
    while let Ok(Order { id, inodes, names }) = orders.recv() {
        if names {
            tell(&device, &inc_epoch());
        }
        for ino in &inodes {
            tell(&device, &inval_inode(NodeId(ino.0), -1, 0));
        }
        report(done, (id, false));
        for ino in &inodes {
            tell(&device, &inval_inode(NodeId(ino.0), 0, 0));
        }
        report(done, (id, true));
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
