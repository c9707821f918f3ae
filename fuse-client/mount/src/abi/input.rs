//! What the kernel sends: the request header and the fixed part of each operation.
#![allow(missing_docs, reason = "the kernel's own names, documented in fuse_kernel.h")]
#![allow(
    missing_debug_implementations,
    reason = "all have it; zerocopy's derive makes helpers without"
)]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! kernel_struct {
    ($(#[$meta:meta])* $name:ident, $bytes:literal, { $($field:ident: $kind:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[repr(C)]
        pub struct $name { $(pub $field: $kind),* }
        const _: () = assert!(size_of::<$name>() == $bytes);
    };
}
pub(super) use kernel_struct;

kernel_struct!(InHeader, 40, {
    len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32,
    total_extlen: u16, padding: u16,
});
kernel_struct!(
    /// INIT as every kernel sends it; `InitInExt` follows from 7.36 on.
    InitIn, 16, { major: u32, minor: u32, max_readahead: u32, flags: u32 });
kernel_struct!(InitInExt, 48, { flags2: u32, unused: [u32; 11] });
kernel_struct!(ForgetIn, 8, { nlookup: u64 });
kernel_struct!(ForgetOne, 16, { nodeid: u64, nlookup: u64 });
kernel_struct!(BatchForgetIn, 8, { count: u32, dummy: u32 });
kernel_struct!(GetattrIn, 16, { getattr_flags: u32, dummy: u32, fh: u64 });
kernel_struct!(SetattrIn, 88, {
    valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64,
    ctime: u64, atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32, uid: u32,
    gid: u32, unused5: u32,
});
kernel_struct!(MknodIn, 16, { mode: u32, rdev: u32, umask: u32, padding: u32 });
kernel_struct!(MkdirIn, 8, { mode: u32, umask: u32 });
kernel_struct!(RenameIn, 8, { newdir: u64 });
kernel_struct!(Rename2In, 16, { newdir: u64, flags: u32, padding: u32 });
kernel_struct!(LinkIn, 8, { oldnodeid: u64 });
kernel_struct!(OpenIn, 8, { flags: u32, open_flags: u32 });
kernel_struct!(CreateIn, 16, { flags: u32, mode: u32, umask: u32, open_flags: u32 });
kernel_struct!(ReleaseIn, 24, { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 });
kernel_struct!(FlushIn, 24, { fh: u64, unused: u32, padding: u32, lock_owner: u64 });
kernel_struct!(ReadIn, 40, {
    fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32,
});
kernel_struct!(WriteIn, 40, {
    fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32,
});
kernel_struct!(FsyncIn, 16, { fh: u64, fsync_flags: u32, padding: u32 });
kernel_struct!(SetxattrIn, 8, { size: u32, flags: u32 });
kernel_struct!(
    /// Follows `SetxattrIn` where `SETXATTR_EXT` was agreed on.
    SetxattrInExt, 8, { setxattr_flags: u32, padding: u32 });
kernel_struct!(GetxattrIn, 8, { size: u32, padding: u32 });
kernel_struct!(FileLock, 24, { start: u64, end: u64, kind: u32, pid: u32 });
kernel_struct!(LkIn, 48, { fh: u64, owner: u64, lk: FileLock, lk_flags: u32, padding: u32 });
kernel_struct!(AccessIn, 8, { mask: u32, padding: u32 });
kernel_struct!(InterruptIn, 8, { unique: u64 });
kernel_struct!(BmapIn, 16, { block: u64, blocksize: u32, padding: u32 });
kernel_struct!(IoctlIn, 32, {
    fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32,
});
kernel_struct!(PollIn, 24, { fh: u64, kh: u64, flags: u32, events: u32 });
kernel_struct!(FallocateIn, 32, { fh: u64, offset: u64, length: u64, mode: u32, padding: u32 });
kernel_struct!(LseekIn, 24, { fh: u64, offset: u64, whence: u32, padding: u32 });
kernel_struct!(CopyFileRangeIn, 56, {
    fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64,
});
kernel_struct!(SyncfsIn, 8, { padding: u64 });
kernel_struct!(StatxIn, 24, {
    getattr_flags: u32, reserved: u32, fh: u64, sx_flags: u32, sx_mask: u32,
});
