//! The running store: operations in, actions out, completions in, replies out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use slab::Slab;
use weft_iobuf::{BufSlot, Pool};
use weft_wire::blocks::{BLOCK_LEN, crc32c, first_mismatch};
use weft_wire::data::{ChunkListReply, ChunkRange};
use weft_wire::limits::PAYLOAD_BYTES_MAX;
use weft_wire::scrub::DamageKind;
use weft_wire::units::{to_u64, to_usize};
use weft_wire::{ChunkId, ChunkIndex, ClusterId, Ino, Status};

use crate::action::{Action, IoDone, IoError, IoId, Outcome};
use crate::chunk::Window;
use crate::counters::{Counters, Space as SpaceReport};
use crate::damage::Damages;
use crate::discard::Discards;
use crate::error::{Kind, StoreError};
use crate::flush_note::FlushNote;
use crate::index::{Index, Meta, Room};
use crate::journal::Journal;
use crate::limits::{
    BLOCK, INDEX_BYTES_MIN, INDEX_HEADROOM_BYTES_MAX, INDEX_HEADROOM_BYTES_MIN,
    INDEX_HEADROOM_SHARE, PUTS_PER_CALL, SPARE_WRITES_MAX,
};
use crate::locks::{Hold, Locks};
use crate::map::Map;
use crate::planted::{self, Bug};
use crate::recent::Recent;
use crate::recover::{self, RecoveryReport};
use crate::space::{Extent, Space};
use crate::superblock::{Device, Superblock, inspect_copies};

mod checkpoint;
mod gather;
mod grow;
mod ios;
mod punch;
mod read;
mod scrub;
mod truncate;
mod write;

use checkpoint::{Checkpoint, FlushStage};
use gather::Gather;
use grow::Grow;
use ios::Ios;
use punch::PunchOp;
use read::ReadOp;
use scrub::{Scrub, ScrubOp};
use truncate::TruncateOp;
use write::WriteOp;

/// How to open a target.
#[derive(Clone, Debug)]
pub struct OpenParams {
    /// The index's directory: `<state_dir>/targets/<target uuid>`.
    pub index_dir: PathBuf,
    /// The cluster this server belongs to.
    pub cluster: ClusterId,
    /// `/proc/sys/kernel/random/boot_id`; all zero when unknown. Within one boot nothing that was
    /// written can be lost, so fewer blocks are looked at.
    pub boot_id: [u8; 16],
    /// Memory for chunk records; changed ones stay in memory beyond it until the checkpoint.
    pub cache_bytes_max: u64,
    /// Memory for what is remembered between two flushes and two checkpoints: recent blocks, blocks to be freed,
    /// intents. At the bound a flush or a checkpoint comes early.
    pub tables_bytes_max: u64,
    /// Memory for the pages of the index that a checkpoint changes; what it changes beyond is written early.
    pub commit_bytes_max: u64,
    /// Address space for the index, if it is to be less than is right for the target: for tests.
    pub index_bytes_max: Option<u64>,
    /// A checkpoint begins when so many chunks changed.
    pub dirty_chunks_max: u64,
    /// A checkpoint begins so long after the last one, when anything changed.
    pub checkpoint_interval: Duration,
    /// Tell the device which blocks are not needed any more ([`Action::Discard`]).
    pub discard: bool,
    /// Open compares the map of used blocks with all records (which then takes as long as reading
    /// those): for tests and after repairs.
    pub check_space: bool,
}

impl OpenParams {
    /// 256 MiB of records, 16 MiB of tables, 16 MiB of changed pages; a checkpoint for 16,384 changed chunks or every 5
    /// seconds; no discards.
    pub fn new(index_dir: PathBuf, cluster: ClusterId) -> OpenParams {
        OpenParams {
            index_dir,
            cluster,
            boot_id: [0; 16],
            cache_bytes_max: 256 << 20,
            tables_bytes_max: 16 << 20,
            commit_bytes_max: 16 << 20,
            index_bytes_max: None,
            dirty_chunks_max: 16_384,
            checkpoint_interval: Duration::from_secs(5),
            discard: false,
            check_space: cfg!(debug_assertions),
        }
    }
}

/// One operation under way.
#[derive(Debug)]
struct Op {
    reply_to: u64,
    ino: Ino,
    /// I/Os of it that are not completed.
    outstanding: u32,
    /// The first failure; the operation ends when its last I/O is back.
    error: Option<Status>,
    /// Journal bytes set aside for it.
    reserved_bytes: u64,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Read(ReadOp),
    /// Boxed: an operation is moved about, and this is the largest.
    Write(Box<WriteOp>),
    Truncate(TruncateOp),
    Punch(PunchOp),
    Scrub(ScrubOp),
    /// Taken out while it is worked on.
    Taken,
}

/// Whose completion it is.
#[derive(Clone, Copy, Debug)]
enum IoUse {
    Part {
        op: usize,
        part: usize,
    },
    Append,
    Flush,
    ScrubSuperblock {
        copy: u8,
        pass: u32,
    },
    ScrubRepair,
    Discard,
    /// A superblock of the target that grows.
    Grow,
    /// A pause between two parts of gathering a checkpoint.
    Gather,
}

/// Why an operation does not go on.
#[derive(Clone, Copy, Debug)]
enum Halt {
    /// It ends.
    Fail(Status),
    /// It is tried again after the end of the next checkpoint, flush or other operation.
    Park,
}

/// Entries of the tables that grow until a flush or a checkpoint empties them.
#[derive(Clone, Copy, Debug)]
struct TableLimits {
    recent: usize,
    freed: usize,
    intents: usize,
}

impl TableLimits {
    /// Half of the bytes for recent blocks, a quarter each for the others. An entry is counted at twice its size:
    /// nodes of trees are half empty at worst, and a queue grows by doubling.
    fn new(bytes: u64) -> TableLimits {
        let entries = |share: u64, entry_bytes: usize| to_usize(share / (2 * to_u64(entry_bytes)));
        TableLimits {
            recent: entries(bytes / 2, crate::recent::ENTRY_BYTES),
            freed: entries(bytes / 4, size_of::<(u64, Extent)>()),
            intents: entries(bytes / 4, size_of::<ChunkId>()),
        }
    }
}

/// Who waits for a record to be durable.
#[derive(Clone, Copy, Debug)]
enum Waiter {
    Sync {
        reply_to: u64,
    },
    Intent {
        op: usize,
    },
    /// Its next step.
    Truncate {
        op: usize,
    },
    /// The superblock written last.
    Grow,
}

/// The chunk store of one target.
#[derive(Debug)]
pub struct Store {
    superblock: Superblock,
    map: Map,
    space: Space,
    journal: Journal,
    locks: Locks,
    ops: Slab<Op>,
    /// Writes that ended, for their memory.
    #[expect(clippy::vec_box, reason = "they go back into operations as they are")]
    spare_writes: Vec<Box<WriteOp>>,
    /// A plan's view of its chunk, kept for its memory.
    window: Window,
    ios: Ios,
    /// Operations whose turn has come.
    ready: VecDeque<usize>,
    /// Operations that wait for journal bytes or free blocks.
    parked: VecDeque<usize>,
    /// Operations whose record waits for its append, ascending.
    recorded: VecDeque<(u64, usize)>,
    /// Who waits for which record to be durable.
    waiters: BTreeMap<(u64, u64), Waiter>,
    next_waiter: u64,
    /// Blocks freed by a record, which may be given out once that record is durable, ascending.
    freed: VecDeque<(u64, Extent)>,
    freed_block_count: u64,
    discards: Discards,
    /// A target that is being made longer.
    grow: Option<Grow>,
    /// Address space of the index.
    index_bytes_max: u64,
    /// Chunks with a durable intent in the segments that replay would read.
    intents: BTreeSet<ChunkId>,
    /// Blocks that are not overwritten where they are.
    recent: Recent,
    flush: FlushStage,
    /// What the next flush waits for.
    gather: Gather,
    /// What the mark of the newest flush says is durable: known to replay once that flush is done.
    marked: u64,
    /// Somebody waits for records up to here to be durable.
    flush_wanted: u64,
    durable: u64,
    checkpoint: Option<Checkpoint>,
    checkpoint_due: bool,
    last_checkpoint: Duration,
    dirty_chunks_max: u64,
    puts_per_call: u32,
    tables: TableLimits,
    checkpoint_interval: Duration,
    /// As the index is to say: all zero without a note.
    boot_id: [u8; 16],
    /// Says whether a flush is in doubt; `None` where none can be kept.
    note: Option<FlushNote>,
    loss_count: u32,
    zero_sum: u32,
    /// The journal can no longer be trusted to take records: nothing may change any more.
    failed: bool,
    stopping: bool,
    stopped: bool,
    scrub: Scrub,
    damages: Damages,
    counters: Counters,
}

/// Address space for the index of a target: far more than its records can take.
pub(crate) fn index_bytes_max(superblock: &Superblock) -> u64 {
    (superblock.areas.capacity_bytes / 8).max(INDEX_BYTES_MIN)
}

fn index_headroom_bytes(superblock: &Superblock) -> u64 {
    (superblock.areas.capacity_bytes / INDEX_HEADROOM_SHARE)
        .clamp(INDEX_HEADROOM_BYTES_MIN, INDEX_HEADROOM_BYTES_MAX)
}

fn puts_per_call(dirty_chunks_max: u64) -> u32 {
    u32::try_from(dirty_chunks_max / 4).unwrap_or(u32::MAX).clamp(1, PUTS_PER_CALL)
}

impl Store {
    /// Makes the empty index of a target that is being formatted, in `dir`, whose parent exists.
    ///
    /// # Errors
    /// `Mismatch` when `dir` has the index of another target; `Busy`; `Index`; `Damaged`.
    pub fn create_index(dir: &std::path::Path, superblock: &Superblock) -> Result<(), StoreError> {
        let meta = Meta {
            cluster: superblock.cluster,
            target_uuid: superblock.target_uuid,
            applied: 0,
            generation: 1,
            boot_id: [0; 16],
            loss_count: 0,
        };
        Index::create(dir, &meta, index_bytes_max(superblock))
    }

    /// Opens a target: blocking. The caller holds the device exclusively (a lock that lives as
    /// long as the last I/O of its former owner, such as `flock` on the device's descriptor).
    ///
    /// # Errors
    /// Any [`Kind`] but `Invalid`. The device was not changed.
    pub fn open(
        params: OpenParams,
        device: &mut dyn Device,
    ) -> Result<(Store, RecoveryReport), StoreError> {
        let (superblock, copies) = inspect_copies(device)?;
        let mismatch = |op| StoreError::new(Kind::Mismatch, op, 0);
        if superblock.cluster != params.cluster {
            return Err(mismatch("open: the target belongs to another cluster"));
        }
        let map_bytes_max = params.index_bytes_max.unwrap_or(index_bytes_max(&superblock));
        let (index, meta) = Index::open(&params.index_dir, map_bytes_max, params.commit_bytes_max)?;
        if (meta.cluster, meta.target_uuid) != (superblock.cluster, superblock.target_uuid) {
            return Err(mismatch("open: the index belongs to another target"));
        }
        let map = Map::new(index, params.cache_bytes_max, index_headroom_bytes(&superblock))?;
        let mut note = FlushNote::open(&params.index_dir).ok();
        let done = recover::recover(device, &superblock, copies, map, &meta, &params, &mut note)?;
        let (scrub, mut damages) = scrub::restore(done.map.read_scrub());
        // What replay removed is damaged no more, and no pass would come by to say so.
        damages.keep(|chunk, block| {
            let there = done.map.peek(chunk);
            there.map_or(true, |chunk| chunk.is_some_and(|chunk| chunk.get(block).is_some()))
        });
        for (chunk, block) in &done.report.damaged {
            damages.add(*chunk, *block, DamageKind::Mismatch);
        }
        let discards = Discards::opened(params.discard, done.space.total());
        let store = Store {
            superblock,
            map: done.map,
            space: done.space,
            journal: Journal::new(&superblock, done.last_sequence, done.generation),
            locks: Locks::default(),
            ops: Slab::new(),
            spare_writes: Vec::new(),
            window: Window::default(),
            ios: Ios::default(),
            ready: VecDeque::new(),
            parked: VecDeque::new(),
            recorded: VecDeque::new(),
            waiters: BTreeMap::new(),
            next_waiter: 0,
            freed: VecDeque::new(),
            freed_block_count: 0,
            discards,
            grow: None,
            index_bytes_max: index_bytes_max(&superblock),
            intents: BTreeSet::new(),
            recent: Recent::default(),
            flush: FlushStage::Idle,
            gather: Gather::default(),
            marked: done.last_sequence,
            flush_wanted: done.last_sequence,
            durable: done.last_sequence,
            checkpoint: None,
            checkpoint_due: false,
            last_checkpoint: Duration::ZERO,
            dirty_chunks_max: params.dirty_chunks_max,
            puts_per_call: puts_per_call(params.dirty_chunks_max),
            tables: TableLimits::new(params.tables_bytes_max),
            checkpoint_interval: params.checkpoint_interval,
            boot_id: if note.is_some() { params.boot_id } else { [0; 16] },
            note,
            loss_count: done.loss_count,
            zero_sum: crc32c(&[0; BLOCK_LEN]),
            failed: false,
            stopping: false,
            stopped: false,
            scrub,
            damages,
            counters: Counters::default(),
        };
        Ok((store, done.report))
    }

    /// What the device says about itself.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Whether a journal append, a flush or a checkpoint failed, so that nothing may change until
    /// the target is opened again.
    pub fn is_read_only(&self) -> bool {
        self.failed
    }

    /// Differs after an open before which what was acknowledged and not synced may have been lost: by another boot of the
    /// machine, or by a failed flush in this one.
    pub fn loss_count(&self) -> u32 {
        self.loss_count
    }

    /// The error with which the device refused to discard: from then on it was not asked again.
    pub fn discard_refused(&self) -> Option<i32> {
        self.discards.refused()
    }

    /// What was counted since open.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How full the target is.
    pub fn space(&self) -> SpaceReport {
        let free = self.space.free() + self.freed_block_count + self.discards.block_count();
        SpaceReport {
            total_bytes: self.space.total() * BLOCK,
            free_bytes: free * BLOCK,
            used_bytes: (self.space.total() - free) * BLOCK,
            chunk_count: self.map.chunk_count(),
            reserve_bytes: self.space.reserve() * BLOCK,
            cache_bytes: self.map.cache().bytes(),
            dirty_chunk_count: self.map.cache().dirty_count(),
        }
    }

    /// The chunks of `ino` from `from` on, as many as one reply holds. Blocking index reads.
    ///
    /// # Errors
    /// `Damaged`, `Index`.
    pub fn chunk_list(&self, ino: Ino, from: ChunkIndex) -> Result<ChunkListReply, StoreError> {
        self.map.list(ino, from)
    }

    /// Reads blocks. Ends with [`Outcome::Read`], or with `Invalid`, `Busy` (no buffers), `Damaged`,
    /// `Io`.
    pub fn read(&mut self, op: u64, range: ChunkRange, pool: &Pool, out: &mut Vec<Action>) {
        if let Err(status) = self.admit(&range) {
            out.push(Action::Reply { op, result: Err(status) });
            return;
        }
        let hold = hold_of(&range, false);
        self.queue(op, range.chunk.ino, hold, Body::Read(ReadOp::new(range)));
        self.run(pool, out);
    }

    /// Writes bytes; `payload` holds them from `range.offset % 4096` on, `sums` has one checksum
    /// for each piece of them cut at block borders. Ends with [`Outcome::Written`], or with
    /// `Invalid`, `Protocol` (too few checksums or bytes), `Damaged` (payload and checksums differ,
    /// or a partly covered block is damaged), `NoSpace`, `Busy`, `Io`, `ReadOnly`.
    pub fn write(
        &mut self,
        op: u64,
        range: ChunkRange,
        sums: Vec<u32>,
        payload: BufSlot,
        pool: &Pool,
        out: &mut Vec<Action>,
    ) {
        let checked = self.admit(&range).and_then(|()| self.check_payload(&range, &sums, &payload));
        if let Err(status) = checked {
            out.push(Action::Reply { op, result: Err(status) });
            return;
        }
        let hold = hold_of(&range, true);
        let write = match self.spare_writes.pop() {
            Some(mut write) => {
                write.renew(range, sums, payload);
                write
            }
            None => Box::new(WriteOp::new(range, sums, payload)),
        };
        self.queue(op, range.chunk.ino, hold, Body::Write(write));
        self.run(pool, out);
    }

    /// Removes the chunks of `ino` from `remove_from` on, and what lies behind the first so many
    /// bytes of the `cut` chunk. Removing from 0 deletes the file. Ends with
    /// [`Outcome::Truncated`], or with `Invalid`, `NoSpace`, `Busy`, `Damaged`, `Io`, `ReadOnly`.
    pub fn truncate(
        &mut self,
        op: u64,
        ino: Ino,
        remove_from: ChunkIndex,
        cut: Option<(ChunkIndex, u32)>,
        pool: &Pool,
        out: &mut Vec<Action>,
    ) {
        let refused = match cut {
            _ if self.stopping => Some(Status::Unavailable),
            Some((_, bytes)) if bytes > PAYLOAD_BYTES_MAX => Some(Status::Invalid),
            _ => None,
        };
        if let Some(status) = refused {
            out.push(Action::Reply { op, result: Err(status) });
            return;
        }
        let cut = cut.filter(|(index, _)| *index < remove_from);
        let first = cut.map_or(remove_from, |(index, _)| index);
        let hold = Hold { chunks: first.0..=u64::MAX, blocks: 0..=u32::MAX, exclusive: true };
        self.queue(op, ino, hold, Body::Truncate(TruncateOp::new(ino, remove_from, cut)));
        self.run(pool, out);
    }

    /// Which operation an I/O under way is for, when it is for one alone: as its caller named it.
    #[must_use]
    pub fn operation_of(&self, io: IoId) -> Option<u64> {
        let IoUse::Part { op, .. } = self.ios.used(io)? else { return None };
        let op = self.ops.get(*op)?;
        (!matches!(op.body, Body::Scrub(_))).then_some(op.reply_to)
    }

    /// A completion. Unknown ones are counted and otherwise ignored.
    pub fn io_done(
        &mut self,
        io: IoId,
        result: Result<IoDone, IoError>,
        pool: &Pool,
        out: &mut Vec<Action>,
    ) {
        let Some(used) = self.ios.end(io) else {
            self.counters.unknown_completions += 1;
            return;
        };
        if let IoUse::Discard = used {
            self.discard_done(&result);
            return self.run(pool, out);
        }
        self.counters.io_errors += u64::from(result.is_err());
        match used {
            IoUse::Append if result.is_ok() => {
                self.append_done(result.ok().and_then(|done| done.bytes), out);
            }
            IoUse::Part { op, part } => self.part_done(op, part, result, pool, out),
            IoUse::Flush if result.is_ok() => self.flush_done(out),
            IoUse::Append | IoUse::Flush => self.fail(out),
            IoUse::ScrubSuperblock { copy, pass } => {
                self.scrub_superblock_done(copy, pass, result, out);
            }
            IoUse::ScrubRepair => self.scrub_repair_done(&result),
            IoUse::Grow => self.grow_written(result.is_ok(), out),
            IoUse::Gather => self.gather_checkpoint(out),
            IoUse::Discard => unreachable!("handled above"),
        }
        self.run(pool, out);
    }

    fn admit(&self, range: &ChunkRange) -> Result<(), Status> {
        let end = u64::from(range.offset) + u64::from(range.bytes);
        match range.bytes {
            _ if self.stopping => Err(Status::Unavailable),
            0 => Err(Status::Invalid),
            _ if end > u64::from(PAYLOAD_BYTES_MAX) => Err(Status::Invalid),
            _ => Ok(()),
        }
    }

    fn check_payload(
        &mut self,
        range: &ChunkRange,
        sums: &[u32],
        payload: &BufSlot,
    ) -> Result<(), Status> {
        let start = to_usize(u64::from(range.offset) % BLOCK);
        let end = start + to_usize(u64::from(range.bytes));
        if self.failed {
            return Err(Status::ReadOnly);
        }
        let sum_count = to_usize(u64::from(range.block_count()));
        if sums.len() != sum_count || payload.as_slice().len() < end.next_multiple_of(BLOCK_LEN) {
            return Err(Status::Protocol);
        }
        if first_mismatch(range.offset, &payload.as_slice()[start..end], sums).is_some() {
            self.counters.payload_mismatches += 1;
            return Err(Status::Damaged);
        }
        Ok(())
    }

    fn queue(&mut self, reply_to: u64, ino: Ino, hold: Hold, body: Body) {
        let op = self.ops.insert(Op {
            reply_to,
            ino,
            outstanding: 0,
            error: None,
            reserved_bytes: 0,
            body,
        });
        if self.locks.acquire(ino, op, hold) {
            self.ready.push_back(op);
        }
    }

    /// Starts what may start, then hands out what the journal has to do.
    fn run(&mut self, pool: &Pool, out: &mut Vec<Action>) {
        loop {
            while let Some(op) = self.ready.pop_front() {
                match self.ops[op].body {
                    Body::Read(_) => self.start_read(op, pool, out),
                    Body::Write(_) => self.start_write(op, pool, out),
                    Body::Truncate(_) => self.start_truncate(op, pool, out),
                    Body::Punch(_) => self.start_punch(op, out),
                    Body::Scrub(_) => self.start_scrub(op, pool, out),
                    Body::Taken => unreachable!("put back before the next operation"),
                }
            }
            self.pump(out);
            if self.ready.is_empty() {
                return;
            }
        }
    }

    fn part_done(
        &mut self,
        op: usize,
        part: usize,
        result: Result<IoDone, IoError>,
        pool: &Pool,
        out: &mut Vec<Action>,
    ) {
        let entry = &mut self.ops[op];
        entry.outstanding -= 1;
        if result.is_err() {
            entry.error.get_or_insert(Status::Io);
        }
        let buf = match result {
            Ok(done) => done.buf,
            Err(error) => error.buf,
        };
        match entry.body {
            Body::Read(_) => self.read_done(op, part, buf, out),
            Body::Write(_) => self.write_part_done(op, part, buf, out),
            Body::Truncate(_) => self.truncate_part_done(op, buf, out),
            Body::Punch(_) => unreachable!("it has no I/O of its own"),
            Body::Scrub(_) => self.scrub_read_done(op, buf, pool, out),
            Body::Taken => unreachable!("put back before the next completion"),
        }
    }

    fn new_io(&mut self, used: IoUse) -> IoId {
        self.ios.begin(used)
    }

    fn part_io(&mut self, op: usize, part: usize) -> IoId {
        self.ops[op].outstanding += 1;
        self.new_io(IoUse::Part { op, part })
    }

    /// Ends an operation: its range is free for the next one.
    fn finish(&mut self, op: usize, result: Result<Outcome, Status>, out: &mut Vec<Action>) {
        let entry = self.ops.remove(op);
        debug_assert!(entry.outstanding == 0, "an operation owns its buffers until the end");
        self.journal.release(entry.reserved_bytes);
        self.locks.release(entry.ino, op, &mut self.ready);
        if entry.reserved_bytes > 0 {
            self.ready.extend(self.parked.drain(..));
        }
        match &result {
            Err(Status::Busy) => self.counters.busy += 1,
            Err(Status::NoSpace) => self.counters.no_space += 1,
            _ => {}
        }
        if let Body::Write(mut write) = entry.body
            && self.spare_writes.len() < SPARE_WRITES_MAX
            && write.end()
        {
            self.spare_writes.push(write);
        }
        out.push(Action::Reply { op: entry.reply_to, result });
    }

    fn halt(&mut self, op: usize, halt: Halt, out: &mut Vec<Action>) {
        match halt {
            Halt::Fail(status) => self.finish(op, Err(status), out),
            Halt::Park => {
                self.counters.parked += 1;
                self.parked.push_back(op);
            }
        }
    }

    /// The status of an operation whose chunk record cannot be had.
    fn index_status(&mut self, error: &StoreError) -> Status {
        self.counters.index_errors += 1;
        if error.kind == Kind::Damaged { Status::Damaged } else { Status::Io }
    }

    /// Takes blocks, or waits for some that will be free, or fails.
    fn alloc(&mut self, want: crate::space::Want) -> Result<Vec<Extent>, Halt> {
        if !want.may_use_reserve {
            match self.map.index_room() {
                Room::Enough => {}
                Room::Full => return Err(Halt::Fail(Status::NoSpace)),
                Room::Later => return Err(Halt::Park),
            }
        }
        if let Some(extents) = self.space.alloc(want) {
            return Ok(extents);
        }
        match self.freed.back() {
            Some((sequence, _)) => {
                let sequence = *sequence;
                self.want_durable(sequence);
                Err(Halt::Park)
            }
            None if self.discards.block_count() > 0 => Err(Halt::Park),
            None => Err(Halt::Fail(Status::NoSpace)),
        }
    }

    /// Blocks are free once the record that frees them, `sequence`, is durable. Not before: until
    /// then a power loss brings back the record that points at them, and they would hold what
    /// another chunk wrote there since.
    fn free_later(&mut self, sequence: u64, extents: Vec<Extent>) {
        for extent in extents {
            self.map.touch(extent);
            if planted::is(Bug::FreeEarly) {
                self.space.give_back(extent);
                continue;
            }
            if planted::is(Bug::LeakBlock) && extent.start.is_multiple_of(16) {
                continue;
            }
            self.freed_block_count += u64::from(extent.count);
            self.freed.push_back((sequence, extent));
        }
    }

    /// Tells the device of blocks that are not needed any more, when there are some.
    fn discard(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.failed || self.stopping {
            return;
        }
        if let Some(extent) = self.discards.next(now, &mut self.space) {
            let (offset, bytes) = (self.data_byte(extent.start), u64::from(extent.count) * BLOCK);
            let io = self.new_io(IoUse::Discard);
            out.push(Action::Discard { io, offset, bytes });
        }
    }

    fn discard_done(&mut self, result: &Result<IoDone, IoError>) {
        let refused = result.as_ref().err().map(|error| error.errno);
        let extent = self.discards.done(refused);
        if refused.is_none() {
            self.counters.discards += 1;
            self.counters.discard_bytes += u64::from(extent.count) * BLOCK;
        }
        self.space.give_back(extent);
        self.ready.extend(self.parked.drain(..));
    }

    fn data_byte(&self, device_block: u64) -> u64 {
        self.superblock.areas.data_byte(device_block)
    }
}

fn hold_of(range: &ChunkRange, exclusive: bool) -> Hold {
    let index = range.chunk.index.0;
    let first = range.offset / weft_wire::blocks::BLOCK_BYTES;
    Hold { chunks: index..=index, blocks: first..=first + range.block_count() - 1, exclusive }
}

/// Whether `block` of `bytes` has this checksum.
fn block_matches(bytes: &[u8], block: usize, sum: u32) -> bool {
    debug_assert!(to_u64(bytes.len()) >= to_u64(block + 1) * BLOCK);
    crc32c(&bytes[block * BLOCK_LEN..(block + 1) * BLOCK_LEN]) == sum
}
