//! Every bound both ends of a connection must agree on.

use crate::blocks::BLOCK_BYTES;

/// Body bytes of one frame, without payload: a page of a directory listing is the longest.
pub const BODY_BYTES_MAX: u32 = 256 << 10;
/// Payload bytes of one frame: one whole chunk at most.
pub const PAYLOAD_BYTES_MAX: u32 = 4 << 20;
/// Bytes that one `Copy` moves: what a server has in memory for it.
pub const COPY_BYTES_MAX: u32 = 1 << 20;
/// A file name, as in POSIX `NAME_MAX`.
pub const NAME_BYTES_MAX: usize = 255;
/// A symbolic link's target.
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Data of a file that may be in its inode: one block, so that its first write to a target is of a whole one.
pub const INLINE_BYTES_MAX: usize = BLOCK_BYTES as usize;
/// One extended attribute's value.
pub const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;
/// One extended attribute's name.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// All names of one inode's extended attributes together, as in Linux `XATTR_LIST_MAX`.
pub const XATTR_LIST_BYTES_MAX: usize = 64 << 10;
/// Smallest and largest chunk, as powers of two: 64 KiB to 4 MiB.
pub const CHUNK_LOG2_MIN: u8 = 16;
/// See [`CHUNK_LOG2_MIN`].
pub const CHUNK_LOG2_MAX: u8 = 22;
/// The default chunk: 1 MiB.
pub const CHUNK_LOG2_DEFAULT: u8 = 20;
/// Targets one file is striped over.
pub const STRIPE_WIDTH_MAX: usize = 64;
/// Requests a session may have unanswered at one volume that change something: each has a slot whose last
/// outcome the volume keeps, so that a replay is answered and not repeated.
pub const SLOTS_MAX: u16 = 256;
/// Hard links of one file.
pub const LINKS_MAX: u32 = 65_000;
/// Inodes in one `Reopen`.
pub const REOPEN_COUNT_MAX: usize = 8_192;
/// Inodes whose names one `FindNames` looks for.
pub const FIND_INODES_MAX: usize = 256;
/// Names that one reply to it holds.
pub const FIND_NAMES_MAX: usize = 256;
/// Inodes in one `Recall` or `Reclaim`.
pub const RECALL_COUNT_MAX: usize = 4_096;
/// The largest file size: what a signed 64-bit offset holds.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// Text of an address, node name or path in a message.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Entries of a list in a message (targets, nodes, chunks).
pub const LIST_COUNT_MAX: usize = 4096;

const _: () = assert!(1u32 << CHUNK_LOG2_MAX == PAYLOAD_BYTES_MAX);
const _: () = assert!((1u32 << CHUNK_LOG2_MIN).is_multiple_of(BLOCK_BYTES));
const _: () = assert!(XATTR_VALUE_BYTES_MAX + 1024 < BODY_BYTES_MAX as usize);
const _: () = assert!(REOPEN_COUNT_MAX * 8 + 64 < BODY_BYTES_MAX as usize);
const _: () = assert!(RECALL_COUNT_MAX * 24 + 64 < BODY_BYTES_MAX as usize);
const _: () = assert!(FIND_NAMES_MAX * (20 + NAME_BYTES_MAX) + 64 < BODY_BYTES_MAX as usize);
const _: () = assert!(CHUNK_LOG2_MIN <= CHUNK_LOG2_DEFAULT && CHUNK_LOG2_DEFAULT <= CHUNK_LOG2_MAX);
const _: () = assert!(COPY_BYTES_MAX <= PAYLOAD_BYTES_MAX);
