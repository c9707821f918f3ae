//! Records what this thread does to a data file and to the directories around it.
//!
//! The functions below have the names of libc's: in this test's own executable the linker takes
//! them for LMDB's C code and for the standard library alike, so the library under test is the
//! shipped one, unchanged. A call they do not know is not lost silently: each recording is held
//! against the file (`disk::Disk::cached`), which then differs.

use libc::{c_char, c_int, c_long, c_void, iovec, mode_t, off_t, size_t, ssize_t};
use std::cell::RefCell;
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What was asked of the kernel, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Bytes at an offset of the data file; `synced` if durable on return (`O_DSYNC`).
    Write { at: usize, bytes: Vec<u8>, synced: bool },
    /// The data file has this length.
    SetLen(usize),
    /// `fdatasync` or `fsync` of the data file.
    Sync,
    /// A directory was made.
    MakeDir(PathBuf),
    /// The data file got its name.
    Rename,
    /// `fsync` of a directory.
    SyncDir(PathBuf),
    /// The commit of this number returned (not a call: a mark of the test).
    Acknowledged(u64),
}

thread_local! {
    static OPS: RefCell<Option<Vec<Op>>> = const { RefCell::new(None) };
}

/// Records what `f` does on this thread.
pub(crate) fn record(f: impl FnOnce()) -> Vec<Op> {
    OPS.with(|ops| *ops.borrow_mut() = Some(Vec::new()));
    f();
    OPS.with(|ops| ops.borrow_mut().take()).expect("only taken here")
}

/// Marks that commit `n` is acknowledged.
pub(crate) fn acknowledged(n: u64) {
    push(|| Some(Op::Acknowledged(n)));
}

fn push(op: impl FnOnce() -> Option<Op>) {
    // Gone while the thread ends, borrowed while the recorder itself allocates: not ours then.
    OPS.try_with(|ops| {
        if let Ok(mut ops) = ops.try_borrow_mut()
            && let Some(ops) = ops.as_mut()
        {
            ops.extend(op());
        }
    })
    .unwrap_or(());
}

fn path_of(fd: c_int) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default()
}

fn is_data(fd: c_int) -> bool {
    path_of(fd).file_name() == Some(OsStr::new("data.mdb"))
}

fn wrote(fd: c_int, at: off_t, result: c_long, bytes: impl FnOnce(usize) -> Vec<u8>) -> ssize_t {
    push(|| {
        let count = usize::try_from(result).ok()?;
        // SAFETY: only asks for the descriptor's flags.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        let synced = flags & libc::O_DSYNC != 0;
        let at = usize::try_from(at).ok()?;
        is_data(fd).then(|| Op::Write { at, bytes: bytes(count), synced })
    });
    result as ssize_t
}

/// # Safety
/// `from` points to at least the `count` bytes that the kernel has just read there.
unsafe fn copy(from: *const c_void, count: usize) -> Vec<u8> {
    // SAFETY: by the contract above; nobody writes there during the call.
    unsafe { std::slice::from_raw_parts(from.cast::<u8>(), count) }.to_vec()
}

/// # Safety
/// As [`copy`], for `parts` buffers.
unsafe fn gather(parts: *const iovec, part_count: c_int, count: usize) -> Vec<u8> {
    // SAFETY: by the contract above.
    let parts = unsafe { std::slice::from_raw_parts(parts, part_count as usize) };
    // SAFETY: by the contract above.
    let all = parts.iter().flat_map(|part| unsafe { copy(part.iov_base, part.iov_len) });
    all.take(count).collect()
}

macro_rules! interpose {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $kind:ty),*) -> $ret:ty $body:block)*) => {$(
        /// # Safety
        /// As libc's function of this name.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $kind),*) -> $ret $body
    )*};
}

// SAFETY (all): each passes its arguments on as its caller gave them, and reads only memory that
// the kernel has just read for the same call.
interpose! {
    fn pwrite(fd: c_int, from: *const c_void, count: size_t, at: off_t) -> ssize_t {
        let result = unsafe { libc::syscall(libc::SYS_pwrite64, fd, from, count, at) };
        wrote(fd, at, result, |count| unsafe { copy(from, count) })
    }
    fn pwrite64(fd: c_int, from: *const c_void, count: size_t, at: off_t) -> ssize_t {
        unsafe { pwrite(fd, from, count, at) }
    }
    fn write(fd: c_int, from: *const c_void, count: size_t) -> ssize_t {
        let at = unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) };
        let result = unsafe { libc::syscall(libc::SYS_write, fd, from, count) };
        wrote(fd, at, result, |count| unsafe { copy(from, count) })
    }
    fn writev(fd: c_int, parts: *const iovec, part_count: c_int) -> ssize_t {
        let at = unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) };
        let result = unsafe { libc::syscall(libc::SYS_writev, fd, parts, part_count) };
        wrote(fd, at, result, |count| unsafe { gather(parts, part_count, count) })
    }
    fn ftruncate(fd: c_int, len: off_t) -> c_int {
        let result = unsafe { libc::syscall(libc::SYS_ftruncate, fd, len) };
        push(|| (result == 0 && is_data(fd)).then_some(Op::SetLen(len as usize)));
        result as c_int
    }
    fn ftruncate64(fd: c_int, len: off_t) -> c_int {
        unsafe { ftruncate(fd, len) }
    }
    fn fallocate(fd: c_int, mode: c_int, at: off_t, len: off_t) -> c_int {
        let result = unsafe { libc::syscall(libc::SYS_fallocate, fd, mode, at, len) };
        push(|| {
            let len = std::fs::metadata(path_of(fd)).ok()?.len() as usize;
            // Room set aside behind the end is no change to the file.
            let longer = mode & libc::FALLOC_FL_KEEP_SIZE == 0;
            (result == 0 && longer && is_data(fd)).then_some(Op::SetLen(len))
        });
        result as c_int
    }
    fn fallocate64(fd: c_int, mode: c_int, at: off_t, len: off_t) -> c_int {
        unsafe { fallocate(fd, mode, at, len) }
    }
    fn fdatasync(fd: c_int) -> c_int {
        let result = unsafe { libc::syscall(libc::SYS_fdatasync, fd) };
        push(|| (result == 0 && is_data(fd)).then_some(Op::Sync));
        result as c_int
    }
    fn fsync(fd: c_int) -> c_int {
        let result = unsafe { libc::syscall(libc::SYS_fsync, fd) };
        push(|| {
            let path = path_of(fd);
            match result {
                0 if is_data(fd) => Some(Op::Sync),
                0 if path.is_dir() => Some(Op::SyncDir(path)),
                _ => None,
            }
        });
        result as c_int
    }
    fn rename(from: *const c_char, to: *const c_char) -> c_int {
        let result = unsafe { libc::syscall(libc::SYS_rename, from, to) };
        push(|| (result == 0).then_some(Op::Rename));
        result as c_int
    }
    fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
        let result = unsafe { libc::syscall(libc::SYS_mkdir, path, mode) };
        push(|| {
            let path = unsafe { CStr::from_ptr(path) };
            let path = PathBuf::from(OsStr::from_bytes(path.to_bytes()));
            (result == 0).then_some(Op::MakeDir(path))
        });
        result as c_int
    }
}
