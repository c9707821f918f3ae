//! Storing into a mapped page of a file that the file system no longer gives (the file was cut, the
//! disk is gone or full) raises SIGBUS, which would end the process and with it every other target.
//! The handler here puts a page of nobody's memory in its place and says so to the map's owner.
//!
//! Faults outside registered maps go to whoever had the signal before: an LMDB environment's maps
//! have a handler of their own, with another answer (`engine/lmdb/src/sigbus.rs`).

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, compiler_fence};

use libc::{c_int, c_void, siginfo_t};

use crate::limits::FILE_MAPS_MAX;

/// One map: `end` is 0 while the slot is free, and is written last.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    faulted: AtomicBool,
}

const FREE: usize = 0;
/// Taken, and not yet or no longer to be matched: no address is below it.
const TAKEN: usize = 1;

static SLOTS: [Slot; FILE_MAPS_MAX] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(FREE),
        faulted: AtomicBool::new(false),
    }
}; FILE_MAPS_MAX];
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static OS_PAGE_BYTES: AtomicUsize = AtomicUsize::new(4096);

/// A registered map; dropping it unregisters.
#[derive(Debug)]
pub(crate) struct Guard {
    slot: usize,
}

impl Guard {
    /// Registers a map that begins at `start` and, the first time, installs the handler.
    pub(crate) fn new(start: usize, len_bytes: usize) -> io::Result<Guard> {
        install()?;
        let slot = SLOTS.iter().position(|slot| {
            slot.end.compare_exchange(FREE, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        let slot = slot.ok_or(io::ErrorKind::QuotaExceeded)?;
        SLOTS[slot].faulted.store(false, Ordering::Release);
        SLOTS[slot].start.store(start, Ordering::Release);
        SLOTS[slot].end.store(start.saturating_add(len_bytes), Ordering::Release);
        Ok(Guard { slot })
    }

    /// Whether a page of the map was replaced: what was stored there is in no file.
    pub(crate) fn has_faulted(&self) -> bool {
        // Stores into the map come before the question; the handler runs on this very thread.
        compiler_fence(Ordering::SeqCst);
        SLOTS[self.slot].faulted.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        SLOTS[self.slot].end.store(TAKEN, Ordering::Release);
        SLOTS[self.slot].start.store(0, Ordering::Release);
        SLOTS[self.slot].end.store(FREE, Ordering::Release);
    }
}

fn install() -> io::Result<()> {
    static RESULT: OnceLock<c_int> = OnceLock::new();
    let errno = *RESULT.get_or_init(|| {
        OS_PAGE_BYTES.store(rustix::param::page_size(), Ordering::Release);
        // SAFETY: an all-zero sigaction is a valid one (default action, empty mask).
        let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: alive, until, alone - a local, for the call; a null action only asks.
        if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous) } != 0 {
            return io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        }
        // Known to the handler before it can run.
        PREVIOUS.get_or_init(|| previous);
        // SAFETY: as above.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_sigbus;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: alive - `on_sigbus` is a function; until, alone - the struct is a local.
        if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) } != 0 {
            return io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        }
        0
    });
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// Only calls what a signal handler may: atomics, `mmap`, `sigaction`.
extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: alive - the kernel passes a valid siginfo to an SA_SIGINFO handler; until - we
    // return; alone - it is on this thread's signal stack.
    let info_ref = unsafe { &*info };
    // SAFETY: for SIGBUS the kernel fills in the address member of the union.
    let fault = unsafe { info_ref.si_addr() }.addr();
    let ours = SLOTS.iter().find(|slot| {
        fault < slot.end.load(Ordering::Acquire) && fault >= slot.start.load(Ordering::Acquire)
    });
    if let Some(slot) = ours {
        slot.faulted.store(true, Ordering::Release);
        if replace(fault) {
            return;
        }
    }
    hand_on(signal, info, context);
}

/// Puts memory of our own where the page was: the store that faulted goes there.
fn replace(fault: usize) -> bool {
    let page_bytes = OS_PAGE_BYTES.load(Ordering::Acquire);
    let at: *mut c_void = std::ptr::without_provenance_mut(fault & !(page_bytes - 1));
    // SAFETY: alive - the page lies in a map of ours that is registered only while mapped; until
    // - the map's owner unmaps it; alone - maps are written through raw pointers, and not read.
    let got = unsafe {
        libc::mmap(
            at,
            page_bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    got == at
}

fn hand_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.get();
    let handler = previous.map_or(libc::SIG_DFL, |p| p.sa_sigaction);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // SAFETY: an all-zero sigaction is the default action: the instruction faults again and
        // the process ends as it would have without us.
        let action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: alive, until, alone - a local, for the call.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    } else if previous.is_some_and(|p| p.sa_flags & libc::SA_SIGINFO != 0) {
        // SAFETY: installed with SA_SIGINFO, so it has this type.
        let call: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
            unsafe { std::mem::transmute(handler) };
        call(signal, info, context);
    } else {
        // SAFETY: installed without SA_SIGINFO, so it has this type.
        let call: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
        call(signal);
    }
}
