//! What we send: the reply header, the fixed part of each reply, and notifications.
#![allow(missing_docs, reason = "the kernel's own names, documented in fuse_kernel.h")]
#![allow(
    missing_debug_implementations,
    reason = "all have it; zerocopy's derive makes helpers without"
)]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::input::{FileLock, kernel_struct};

kernel_struct!(
    /// `len` counts this header; `error` is 0 or a negative errno, in a notification its code.
    OutHeader, 16, { len: u32, error: i32, unique: u64 });
kernel_struct!(Attr, 88, {
    ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32,
    mtimensec: u32, ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32,
    blksize: u32, flags: u32,
});
kernel_struct!(EntryOut, 128, {
    nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32,
    attr_valid_nsec: u32, attr: Attr,
});
kernel_struct!(AttrOut, 104, { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr });
kernel_struct!(OpenOut, 16, { fh: u64, open_flags: u32, backing_id: i32 });
kernel_struct!(CreateOut, 144, { entry: EntryOut, open: OpenOut });
kernel_struct!(WriteOut, 8, { size: u32, padding: u32 });
kernel_struct!(Kstatfs, 80, {
    blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32,
    frsize: u32, padding: u32, spare: [u32; 6],
});
kernel_struct!(GetxattrOut, 8, { size: u32, padding: u32 });
kernel_struct!(LkOut, 24, { lk: FileLock });
kernel_struct!(InitOut, 64, {
    major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16,
    congestion_threshold: u16, max_write: u32, time_gran: u32, max_pages: u16, map_alignment: u16,
    flags2: u32, max_stack_depth: u32, request_timeout: u16, unused: [u16; 11],
});
kernel_struct!(BmapOut, 8, { block: u64 });
kernel_struct!(IoctlOut, 16, { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 });
kernel_struct!(PollOut, 8, { revents: u32, padding: u32 });
kernel_struct!(LseekOut, 8, { offset: u64 });
kernel_struct!(CopyFileRangeOut, 8, { bytes_copied: u64 });
kernel_struct!(SxTime, 16, { tv_sec: i64, tv_nsec: u32, reserved: i32 });
kernel_struct!(Statx, 256, {
    mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16,
    spare0: u16, ino: u64, size: u64, blocks: u64, attributes_mask: u64, atime: SxTime,
    btime: SxTime, ctime: SxTime, mtime: SxTime, rdev_major: u32, rdev_minor: u32, dev_major: u32,
    dev_minor: u32, spare2: [u64; 14],
});
kernel_struct!(StatxOut, 288, {
    attr_valid: u64, attr_valid_nsec: u32, flags: u32, spare: [u64; 2], stat: Statx,
});
kernel_struct!(
    /// The name follows, then zeros up to a multiple of 8.
    Dirent, 24, { ino: u64, off: u64, namelen: u32, kind: u32 });
kernel_struct!(Direntplus, 152, { entry: EntryOut, dirent: Dirent });
kernel_struct!(NotifyInvalInodeOut, 24, { ino: u64, off: i64, len: i64 });
kernel_struct!(
    /// The name and a NUL follow.
    NotifyInvalEntryOut, 16, { parent: u64, namelen: u32, flags: u32 });
