//! Against the real kernel: files, loopback sockets, and the end of a ring.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use weft_iobuf::{BufSlot, Pool};

use super::*;
use crate::op::{COMMAND_BYTES, Command};

mod files;
mod lifecycle;
mod mailboxes;
mod sockets;

const MIB: usize = 1 << 20;
/// No test waits longer: a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

fn ring() -> Ring {
    Ring::new(RingConfig { ops_max: 64, files_max: 16, ..RingConfig::default() }).unwrap()
}

fn pool() -> Pool {
    Pool::new(16 * MIB, 8 * MIB).unwrap()
}

/// A slot whose bytes depend on their place and on `seed`.
fn patterned(pool: &Pool, bytes: usize, seed: usize) -> BufSlot {
    let mut slot = pool.alloc(bytes).unwrap();
    for (index, byte) in slot.as_mut_slice()[..bytes].iter_mut().enumerate() {
        *byte = pattern(index, seed);
    }
    slot
}

fn pattern(index: usize, seed: usize) -> u8 {
    u8::try_from((index * 31 + index / 4096 + seed) % 251).unwrap()
}

/// Waits for the next completion.
fn next(ring: &mut Ring) -> Completion {
    let deadline = clock::now() + PATIENCE;
    loop {
        if let Some(completion) = ring.next_completion() {
            return completion;
        }
        assert!(clock::now() < deadline, "no completion, or none that woke us: {ring:?}");
        ring.wait(Some(PATIENCE)).unwrap();
    }
}

/// Submits one operation and waits for its end.
fn run(ring: &mut Ring, op: Op) -> Completion {
    let id = ring.submit(7, op).unwrap();
    let completion = next(ring);
    assert_eq!((completion.token, completion.id, completion.more), (7, id, false));
    completion
}

/// Asserts that nothing completes for a moment.
fn assert_quiet(ring: &mut Ring) {
    ring.wait(Some(Duration::from_millis(5))).unwrap();
    assert!(ring.next_completion().is_none());
}

/// Two ends of a loopback connection: the registered one and the tester's.
fn connection(ring: &mut Ring) -> (FileId, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    (ring.register_file(ours.into()).unwrap(), theirs)
}
