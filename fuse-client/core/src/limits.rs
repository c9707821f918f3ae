//! Every bound of the client core.

use std::time::Duration;

use weft_wire::blocks::BLOCK_LEN;
use weft_wire::limits::{BODY_BYTES_MAX, CHUNK_LOG2_MAX};

/// How long the kernel may answer from its caches at most; the leases on what it caches end sooner.
pub const TTL_DEFAULT: Duration = Duration::from_secs(60);
/// Bytes written and not yet acknowledged by the targets, per mount.
pub const DIRTY_BYTES_DEFAULT: usize = 64 << 20;
/// The same for one file.
pub const DIRTY_FILE_BYTES_DEFAULT: usize = 16 << 20;
/// Bytes acknowledged by the targets but not durable there, kept to be written again if the server restarts, over a close
/// too. From here on a file that adds to them is made durable in the background; at twice as many the oldest are let go, and
/// a restart of the server is then an error of the file.
pub const UNSYNCED_BYTES_DEFAULT: usize = 64 << 20;
/// Silence with requests in flight after which a connection counts as lost.
pub const REPLY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);
/// The kernel counts its time-outs from when it has the answer: so much later than we do at most.
pub const KERNEL_LATE: Duration = Duration::from_secs(1);
/// How finely it is remembered what the kernel was told when.
pub const TOLD_INTERVAL: Duration = Duration::from_secs(1);
/// Operations in progress; the kernel keeps far below.
pub const OPS_MAX: usize = 64 << 10;
/// Inodes whose version is remembered after their last close.
pub const VERSIONS_MAX: usize = 64 << 10;
/// Inodes of which answers that were overtaken by a change of ours are kept apart; of more, all answers are.
pub(crate) const OVERTAKING_MAX: usize = 256;
/// Inodes of which something is known under a lease, and which the kernel knows: some 270 bytes each.
pub const CACHED_INODES_MAX: usize = 1 << 20;
/// Names known under leases: some 100 bytes each, if they are short.
pub const CACHED_NAMES_MAX: usize = 1 << 20;
/// So many inodes and names have to go before their memory is given back to the system, and so long after that it is: others
/// will have gone by then.
pub const TRIM_COUNT_MIN: usize = 16 << 10;
/// See [`TRIM_COUNT_MIN`].
pub const TRIM_DELAY: Duration = Duration::from_secs(1);
/// From this length on a piece of a write goes out at once and without a copy.
pub const ZERO_COPY_BYTES_MIN: usize = 64 << 10;
/// Longest run of small writes that goes out as one.
pub const RUN_BYTES_MAX: usize = 1 << 20;
/// Shortest buffer for such a run.
pub const RUN_BYTES_MIN: usize = 4 << 10;
/// How long a run waits for its next write.
pub const RUN_WAIT: Duration = Duration::from_millis(2);
/// How long after a write its size and time are told to the volume, unless something asks for it before.
pub const WROTE_DELAY: Duration = Duration::from_secs(1);
/// How long an interrupted operation may still take when the servers are answering. Most signals are not meant to
/// end a system call; programs that get EINTR for each of them break.
pub const INTERRUPT_PATIENCE: Duration = Duration::from_secs(1);
/// When a volume that took no change is told once more that this session is there.
pub const KNOWN_RETRY: Duration = Duration::from_secs(1);
/// How long a change that nobody waits for may wait for others that go to the same server: they are sent, and made durable,
/// together.
pub const HELD_WAIT: Duration = Duration::from_millis(1);
/// How long programs wait for each change at a volume that refused one they had not waited for.
pub const WARY: Duration = Duration::from_secs(10);
/// Files whose opens are given back at once: a message for each, but one sending and one waking of the server for all.
pub const RELEASES_PUT_OFF_MAX: usize = 16;
/// How long the first of them waits at most. A file that is removed meanwhile by another mount stays that much longer.
pub const RELEASE_DELAY: Duration = Duration::from_millis(10);
/// How long a closed file stays open at its volume while a lease is held on it: opened again in that time, nobody is asked.
pub const OPEN_KEPT: Duration = Duration::from_secs(5);
/// So many files at most, of each volume: 144 bytes each at its server.
pub const OPENS_KEPT_MAX: usize = 1024;
/// What is given back in so short a time is given back at once.
pub const RELEASES_TOGETHER: Duration = Duration::from_millis(100);
/// Closed files with data that is not durable, and for how long at most they wait for others to be made durable with: a
/// request to each target for all of them. From so many on it is sent at once, and at twice as many, because the answer
/// to the one before is late, each asks for itself.
pub const LINGERING_MANY: usize = LINGERING_MAX / 2;
/// See [`LINGERING_MANY`].
pub const LINGERING_MAX: usize = 1024;
/// See [`LINGERING_MANY`].
pub const LINGER_DELAY: Duration = Duration::from_secs(1);
/// Closed files with an error that nobody has heard; those with the lowest numbers are forgotten.
pub const UNSEEN_ERRORS_MAX: usize = LINGERING_MAX / 4;
/// Longest single read.
pub const READ_BYTES_MAX: u32 = 64 << 20;
/// Longest single write.
pub const WRITE_BYTES_MAX: usize = 64 << 20;
/// Longest page of a directory asked for.
pub const DIR_BYTES_MAX: u32 = 128 << 10;
/// Inodes in one `Reopen`.
pub const REOPEN_COUNT: usize = 4096;
/// A client-core numbers its requests from its own number times two to this.
pub(crate) const REQUESTS_OF_A_CORE_LOG2: u32 = 40;

const _: () = assert!(DIRTY_FILE_BYTES_DEFAULT <= DIRTY_BYTES_DEFAULT);
// A run that begins anywhere has room for the rest of that block, and ends with a block.
const _: () = assert!(RUN_BYTES_MIN >= BLOCK_LEN && RUN_BYTES_MAX >= 2 * RUN_BYTES_MIN);
const _: () = assert!(RUN_BYTES_MIN < ZERO_COPY_BYTES_MIN && ZERO_COPY_BYTES_MIN <= RUN_BYTES_MAX);
const _: () = assert!(RUN_BYTES_MAX.is_power_of_two() && RUN_BYTES_MAX <= 1 << CHUNK_LOG2_MAX);
const _: () = assert!(DIR_BYTES_MAX * 2 <= BODY_BYTES_MAX);
const _: () = assert!(REOPEN_COUNT * 12 + 64 < BODY_BYTES_MAX as usize);

/// Requests of one fallocate that are out at once.
pub(crate) const ZEROS_MAX: u32 = 32;
/// Pieces of one copy that are asked for at once.
pub(crate) const COPIES_MAX: u32 = 8;
/// What one copy_file_range copies at most: its caller goes on with the next. The destination is held for so long.
pub const COPIED_AT_ONCE_BYTES_MAX: u64 = 64 << 20;
/// Less than this is read and written: that needs no sync, and costs a copy of memory or two.
pub const COPY_BYTES_MIN_DEFAULT: u64 = 64 << 10;
/// After a source's server was found to be another one than known: until the connection to it says so, too.
pub(crate) const COPY_AGAIN_PAUSE: Duration = Duration::from_millis(20);
/// A fallocate of so much asks first whether there is room, so that one that cannot be does not fill the targets.
pub(crate) const ROOM_ASKED_BYTES: u64 = 64 << 20;
