//! What this machine offers: the daemons' check before they start, and their place on a core.

use io_uring::{Probe, opcode};
use rustix::thread::CpuSet;

use crate::config::RingConfig;
use crate::error::{Kind, RingError};
use crate::queue::Queue;

/// What the kernel's io_uring can do for this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSupport {
    /// The kernel's release, as `uname -r` says it.
    pub release: String,
    /// Operations the ring uses and this kernel lacks; empty on a kernel that is new enough.
    pub missing_ops: Vec<&'static str>,
    /// Sends without a copy (`SENDMSG_ZC`): worth it on real network cards only.
    pub send_zero_copy: bool,
    /// Device commands through the ring, as FUSE over io_uring needs them.
    pub device_commands: bool,
}

impl KernelSupport {
    /// Whether a ring can do all that this crate offers.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing_ops.is_empty()
    }
}

/// Operations [`crate::Op`] and the loop itself are made of.
const OPS_NEEDED: [(u8, &str); 17] = [
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::Fallocate::CODE, "FALLOCATE"),
    (opcode::Fsync::CODE, "FSYNC"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::Read::CODE, "READ"),
    (opcode::ReadFixed::CODE, "READ_FIXED"),
    (opcode::Recv::CODE, "RECV"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::Shutdown::CODE, "SHUTDOWN"),
    (opcode::Timeout::CODE, "TIMEOUT"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::WriteFixed::CODE, "WRITE_FIXED"),
    (opcode::Writev::CODE, "WRITEV"),
    (opcode::Socket::CODE, "SOCKET (marks 5.19)"),
    (opcode::SendZc::CODE, "SEND_ZC (marks 6.0)"),
];

/// Makes a small ring with the flags the loop needs, and asks it what it can do.
///
/// # Errors
/// io_uring cannot be used here; the error says which kernel or sysctl to look at.
pub fn probe() -> Result<KernelSupport, RingError> {
    let small = RingConfig { sq_entries: 8, ops_max: 8, ..RingConfig::default() };
    let queue = Queue::new(&small)?;
    let mut probe = Probe::new();
    queue
        .submitter()
        .register_probe(&mut probe)
        .map_err(|source| RingError::setup("register_probe", source))?;
    let missing = OPS_NEEDED.iter().filter(|(code, _)| !probe.is_supported(*code));
    Ok(KernelSupport {
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        missing_ops: missing.map(|&(_, name)| name).collect(),
        send_zero_copy: probe.is_supported(opcode::SendMsgZc::CODE),
        device_commands: probe.is_supported(opcode::UringCmd16::CODE),
    })
}

/// Ties the calling thread to one core. Call it before making the ring and its pool, so that their
/// memory comes from that core's node.
///
/// # Errors
/// [`Kind::BadCore`]: there is no such core, or this process may not use it.
pub fn pin_to_core(core: usize) -> Result<(), RingError> {
    let op = "pinning the thread";
    if core >= CpuSet::MAX_CPU {
        return Err(RingError::refused(Kind::BadCore, op));
    }
    let mut cores = CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).map_err(|errno| {
        let mut error = RingError::kernel(op, errno.into());
        if errno == rustix::io::Errno::INVAL {
            error.kind = Kind::BadCore;
        }
        error
    })
}

/// The time slice of [`run_soon`]. A turn of an event loop takes tens of microseconds.
const SLICE_NS: u64 = 100_000;

/// Asks the scheduler for short time slices for the calling thread. Its share of the CPU stays as it is, but it gets it
/// sooner: a thread that wakes with a shorter slice than the running one's need not wait until that one's (3 ms) is over.
/// Event loops that others wait for want it. Linux before 6.12 takes no notice.
///
/// # Errors
/// The kernel refused; the thread runs as before.
pub fn run_soon() -> Result<(), RingError> {
    let failed = || RingError::kernel("sched_setattr", std::io::Error::last_os_error());
    let mut attr = libc::sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let length = size_of::<libc::sched_attr>();
    // SAFETY: alive, until - `attr` outlives the call; alone - it is a local. The kernel writes at most `length` bytes.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, length, 0) };
    if got != 0 {
        return Err(failed());
    }
    // Real-time classes have no slices of this kind: whoever chose one knows better.
    let fair = [libc::SCHED_OTHER, libc::SCHED_BATCH].map(i32::cast_unsigned);
    if !fair.contains(&attr.sched_policy) {
        return Ok(());
    }
    attr.sched_runtime = SLICE_NS;
    // SAFETY: alive, until - `attr` outlives the call; alone - it is a local, which the kernel only reads.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if set == 0 { Ok(()) } else { Err(failed()) }
}

/// A list of cores as `0-3,8`.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// How many cores run; `None` where the kernel does not tell.
pub(crate) fn online_cores() -> Option<u32> {
    count_cores(&std::fs::read_to_string(ONLINE).ok()?)
}

/// How many cores a list as `0-3,8` names, the kernel's form; `None` when it is none.
#[must_use]
pub fn count_cores(list: &str) -> Option<u32> {
    let mut count = 0u32;
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_all_the_loop_needs() {
        let support = probe().unwrap();
        assert_eq!(support.missing_ops, Vec::<&str>::new());
        assert!(support.is_complete());
        assert!(!support.release.is_empty());
    }

    #[test]
    fn lists_of_cores_are_counted_and_nonsense_is_none() {
        assert!(online_cores().is_some_and(|count| count > 0), "this kernel tells");
        assert_eq!(count_cores("0-1\n"), Some(2));
        assert_eq!(count_cores("0,4-6,9"), Some(5));
        for bad in ["", "a", "3-1", "0-4294967295", "1-"] {
            assert_eq!(count_cores(bad), None, "{bad}");
        }
    }

    #[test]
    fn short_slices_leave_the_priority_as_it_is() {
        let before = rustix::process::getpriority_process(None).unwrap();
        run_soon().unwrap();
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before);
    }

    #[test]
    fn a_core_that_is_not_there_is_an_error_and_core_0_is_there() {
        assert_eq!(pin_to_core(CpuSet::MAX_CPU).unwrap_err().kind, Kind::BadCore);
        assert_eq!(pin_to_core(CpuSet::MAX_CPU - 1).unwrap_err().kind, Kind::BadCore);
        let before = rustix::thread::sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|&core| before.is_set(core)).unwrap();
        pin_to_core(first).unwrap();
        let now = rustix::thread::sched_getaffinity(None).unwrap();
        assert!(now.is_set(first));
        assert_eq!(now.count(), 1);
        rustix::thread::sched_setaffinity(None, &before).unwrap();
    }
}
