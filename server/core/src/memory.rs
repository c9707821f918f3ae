//! Where the memory of a shard goes: every part is a number, and together they are what the config says.
//!
//! The page for people is `doc/memory.md`; a test holds its table against the constants here. Each part says what
//! happens at its bound: a request is answered `Busy` (the client asks again after a pause, `net::link`), bytes stay
//! in the socket, or a checkpoint comes early. Nothing is dropped.

use weft_metadata::limits::MEMORY_BYTES_MIN;
use weft_net::stream::INBOX_BYTES;
use weft_wire::limits::BODY_BYTES_MAX;
use weft_wire::units::to_u64;

use crate::trace::TRACE_BYTES;

/// Operations in flight on a shard's ring, their tables and the mailbox: the same for every shard.
pub const RING_TABLES_BYTES: u64 = 4 << 20;
/// What a shard needs besides the map of free blocks. The config's least leaves room for that of 120 GiB.
pub const SHARD_BYTES_MIN: u64 = 60 << 20;

/// Beside its inbox, what a connection takes when it is idle: its state, and the buffer its replies gather in.
pub const CONN_BYTES: u64 = 10 << 10;
/// What a data request takes until it is answered: its entries in the tables, and these for each of its blocks.
pub const REQUEST_BYTES: u64 = 1 << 10;
/// Checksum and place, on their way in and out.
pub const REQUEST_BLOCK_BYTES: u64 = 8;
/// What a lock, or a third of a request that waits for one, takes at most in the tables.
pub const LOCK_BYTES: u64 = 512;
/// Buffers are cut from pieces of this length, which is also the longest: a 4 MiB chunk that begins within a block
/// needs the next power of two.
pub const SLOT_BYTES_MAX: u64 = 8 << 20;
/// Connections beyond `conns_max` that are kept just long enough to be told `Busy`.
pub const CONNS_REFUSED_MAX: u64 = 16;
/// Part of the buffers that the inboxes of connections may take, as a divisor.
const INBOX_DIVISOR: u64 = 4;

/// Shares of what is left after the ring's tables, the flight recorder and the map of free blocks, in percent.
mod percent {
    pub(super) const BUFFERS: u64 = 45;
    pub(super) const INDEX_CACHE: u64 = 10;
    pub(super) const STORE_TABLES: u64 = 7;
    pub(super) const INDEX_COMMITS: u64 = 2;
    pub(super) const VOLUME: u64 = 19;
    pub(super) const REQUESTS: u64 = 4;
    pub(super) const BODIES: u64 = 3;
    pub(super) const REPLIES: u64 = 3;
    pub(super) const CONNECTIONS: u64 = 4;
    pub(super) const LOCKS: u64 = 1;
    pub(super) const LEASES: u64 = 2;
    const SHARES: [u64; 11] = [
        BUFFERS,
        INDEX_CACHE,
        STORE_TABLES,
        INDEX_COMMITS,
        VOLUME,
        REQUESTS,
        BODIES,
        REPLIES,
        CONNECTIONS,
        LOCKS,
        LEASES,
    ];
    const _: () = {
        let (mut sum, mut at) = (0, 0);
        while at < SHARES.len() {
            sum += SHARES[at];
            at += 1;
        }
        assert!(sum == 100);
    };
}

/// What the smallest shard has to deal out.
const LEAST_DEALT_BYTES: u64 = SHARD_BYTES_MIN - RING_TABLES_BYTES - TRACE_BYTES;

const _: () = assert!(
    LEAST_DEALT_BYTES / 100 * percent::BODIES >= 4 * BODY_BYTES_MAX as u64,
    "the smallest shard still takes several of the longest bodies at once"
);
const _: () = assert!(
    LEAST_DEALT_BYTES / 100 * percent::VOLUME >= MEMORY_BYTES_MIN,
    "and gives the volume the least it works with"
);
const _: () = assert!(
    LEAST_DEALT_BYTES / 100 * percent::BUFFERS >= 3 * SLOT_BYTES_MAX,
    "and reads and writes the longest payload at once"
);

/// How a shard's memory is dealt out; all in bytes but the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryPlan {
    /// Pinned at the start: payloads in flight, and an inbox for each connection. At the bound reads are `Busy`, and
    /// a write's bytes wait in its socket.
    pub buffers_bytes: u64,
    /// Chunk records of the targets. At the bound the longest unused leave; half of it changed: a checkpoint.
    pub index_cache_bytes: u64,
    /// What the targets remember between flushes and checkpoints. At the bound: a flush, or a checkpoint.
    pub store_tables_bytes: u64,
    /// Pages of the targets' indices that checkpoints change. At the bound they are written before the commit.
    pub index_commits_bytes: u64,
    /// One bit for each block of the targets.
    pub free_map_bytes: u64,
    /// Changed pages of the namespace, and changes that wait for the log. At the bound: a checkpoint, and `Busy`.
    pub volume_bytes: u64,
    /// Leases that are out. At the bound nothing is granted, and some are asked back.
    pub leases_bytes: u64,
    /// Data requests taken and not answered, and requests that wait for leases: half of it at most. At the bound: `Busy`.
    pub requests_bytes: u64,
    /// Bodies of requests that are not whole yet. At the bound bytes wait in their sockets.
    pub bodies_bytes: u64,
    /// Replies the peers have not read yet, without payloads. At the bound: `Busy`.
    pub replies_bytes: u64,
    /// Connections, without inboxes. At the bound a new one is told `Busy`.
    pub connections_bytes: u64,
    /// Locks of the volume's files, and requests that wait for one. At the bound a lock is refused with ENOLCK.
    pub locks_bytes: u64,
    /// How many connections that is.
    pub conns_max: u32,
}

/// The config gives less than the shard needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shortage {
    /// For this shard, in bytes.
    pub needed_bytes: u64,
    /// Of it for the map of free blocks.
    pub free_map_bytes: u64,
}

impl MemoryPlan {
    /// Deals `shard_bytes` out to a shard whose targets' maps of free blocks take `free_map_bytes`.
    ///
    /// # Errors
    /// It is not enough.
    pub fn new(
        shard_bytes: u64,
        free_map_bytes: u64,
        has_volume: bool,
    ) -> Result<MemoryPlan, Shortage> {
        let needed_bytes = free_map_bytes + SHARD_BYTES_MIN;
        if shard_bytes < needed_bytes {
            return Err(Shortage { needed_bytes, free_map_bytes });
        }
        let one_percent = (shard_bytes - free_map_bytes - RING_TABLES_BYTES - TRACE_BYTES) / 100;
        let buffers_bytes = one_percent * percent::BUFFERS / SLOT_BYTES_MAX * SLOT_BYTES_MAX;
        let volume_bytes = one_percent * percent::VOLUME;
        let locks_bytes = one_percent * percent::LOCKS;
        let leases_bytes = one_percent * percent::LEASES;
        let index_cache_bytes = one_percent * percent::INDEX_CACHE;
        let without_volume = if has_volume { 0 } else { volume_bytes + locks_bytes + leases_bytes };
        let connections_bytes = one_percent * percent::CONNECTIONS;
        let conns_max = (connections_bytes / CONN_BYTES)
            .min(buffers_bytes / INBOX_DIVISOR / to_u64(INBOX_BYTES))
            - CONNS_REFUSED_MAX;
        Ok(MemoryPlan {
            buffers_bytes,
            index_cache_bytes: index_cache_bytes + without_volume,
            leases_bytes: if has_volume { leases_bytes } else { 0 },
            store_tables_bytes: one_percent * percent::STORE_TABLES,
            index_commits_bytes: one_percent * percent::INDEX_COMMITS,
            free_map_bytes,
            volume_bytes: if has_volume { volume_bytes } else { 0 },
            requests_bytes: one_percent * percent::REQUESTS,
            bodies_bytes: one_percent * percent::BODIES,
            replies_bytes: one_percent * percent::REPLIES,
            connections_bytes,
            locks_bytes: if has_volume { locks_bytes } else { 0 },
            conns_max: u32::try_from(conns_max).unwrap_or(u32::MAX),
        })
    }

    /// How many locks there may be, a request that waits counted as three.
    pub fn locks_max(&self) -> usize {
        usize::try_from(self.locks_bytes / LOCK_BYTES).unwrap_or(usize::MAX)
    }

    /// All parts together: at most what was given.
    pub fn total_bytes(&self) -> u64 {
        RING_TABLES_BYTES
            + TRACE_BYTES
            + self.buffers_bytes
            + self.index_cache_bytes
            + self.store_tables_bytes
            + self.index_commits_bytes
            + self.free_map_bytes
            + self.volume_bytes
            + self.leases_bytes
            + self.requests_bytes
            + self.bodies_bytes
            + self.replies_bytes
            + self.connections_bytes
            + self.locks_bytes
    }
}

/// What a data request of so many blocks takes until it is answered.
pub fn request_bytes(block_count: u32) -> u64 {
    REQUEST_BYTES + REQUEST_BLOCK_BYTES * u64::from(block_count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_what_the_config_says() {
        for shard_mib in [60, 64, 65, 100, 512, 1024, 6_000, 1 << 20] {
            for free_map_bytes in [0, 1 << 20, 33 << 20] {
                for has_volume in [false, true] {
                    let given = (shard_mib << 20) + free_map_bytes;
                    let plan = MemoryPlan::new(given, free_map_bytes, has_volume).unwrap();
                    assert!(plan.total_bytes() <= given, "{plan:?}");
                    let lost = given - plan.total_bytes();
                    assert!(lost < SLOT_BYTES_MAX + (1 << 20), "{lost} of {given} are not used");
                    assert!(plan.conns_max >= 100, "{plan:?}");
                    let conns = u64::from(plan.conns_max) + CONNS_REFUSED_MAX;
                    assert!(conns * CONN_BYTES <= plan.connections_bytes);
                    let inboxes = conns * to_u64(INBOX_BYTES);
                    assert!(inboxes <= plan.buffers_bytes / INBOX_DIVISOR);
                }
            }
        }
    }

    #[test]
    fn too_little_says_how_much_it_takes() {
        let short = MemoryPlan::new((93 << 20) - 1, 33 << 20, true).unwrap_err();
        assert_eq!(short, Shortage { needed_bytes: 93 << 20, free_map_bytes: 33 << 20 });
        assert!(MemoryPlan::new(93 << 20, 33 << 20, true).is_ok());
    }

    /// The page for people says what the code does.
    #[test]
    fn the_page_has_these_numbers() {
        let page = include_str!("../doc/memory.md");
        let parts = [
            ("Buffers", percent::BUFFERS),
            ("Chunk records", percent::INDEX_CACHE),
            ("Tables of the stores", percent::STORE_TABLES),
            ("Checkpoints of the stores", percent::INDEX_COMMITS),
            ("Metadata volume", percent::VOLUME),
            ("Data requests", percent::REQUESTS),
            ("Bodies", percent::BODIES),
            ("Replies", percent::REPLIES),
            ("Connections", percent::CONNECTIONS),
            ("Locks", percent::LOCKS),
            ("Leases", percent::LEASES),
        ];
        for (name, share) in parts {
            let row = format!("| {name} | {share} % |");
            assert!(page.contains(&row), "doc/memory.md has no row {row:?}");
        }
        for (name, bytes) in [
            ("for the tables of its ring", RING_TABLES_BYTES),
            ("for its flight recorder", TRACE_BYTES),
        ] {
            assert!(page.contains(&format!("{} MiB {name}", bytes >> 20)), "{name}");
        }
        let least = SHARD_BYTES_MIN >> 20;
        assert!(page.contains(&format!("at least {least} MiB - 6 MiB")));
        assert_eq!(RING_TABLES_BYTES + TRACE_BYTES, 6 << 20);
        assert!(page.contains(&format!("{} KiB", CONN_BYTES >> 10)));
        assert!(page.contains(&format!("an inbox of {} KiB for each", INBOX_BYTES >> 10)));
        assert!(page.contains(&format!("{LOCK_BYTES} bytes each")));
    }
}
