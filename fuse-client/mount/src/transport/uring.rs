//! FUSE over io_uring (Linux 6.14+): each CPU has a queue of entries, registered ahead; the kernel puts a request into
//! one of the queue of the CPU its caller is on, and one submission hands over the reply and asks for the next request.
//!
//! One thread serves all queues through one ring. INIT comes over /dev/fuse, and so do FORGETs, interrupts and
//! notifications for ever: this transport is [`Classic`] with queues beside it, and where the kernel refuses the queues
//! it stays classic, as does the kernel.
//!
//! Invariants:
//! - An entry's memory belongs to the ring from the submission of a command to its completion, else to the entry.
//! - A request is answered on the entry it came in, whatever happened to it meanwhile: a queue without entries would
//!   hang its CPU. An entry is lost only when the kernel says so.
//! - Entries' addresses never change and their memory is a pool of its own that nothing else draws from, so that
//!   another process that maps it at the same place can answer what this one had taken. See `doc/uring.md`.

mod entry;

use std::collections::{BTreeMap, VecDeque};

use rustix::io::Errno;
use weft_iobuf::{BufSlot, IobufError, Pool};
use weft_ring::{Command, Completion, FileId, Op, Ring, SendData};
use weft_wire::units::to_usize;

use super::{Classic, Event, Incoming, Reply, Transport};
use crate::abi::opcode;
use crate::abi::uring::ReqHeader;
use crate::negotiate::{MAX_PAGES_MIN, PAGE_BYTES};
use crate::request::Unique;
use entry::{Lent, Outgoing};

/// Ring requests taken before /dev/fuse is looked at again: interrupts must get through under any load.
const RING_REQUESTS_MAX: u32 = 16;
/// Most address space for payloads. Pages are taken from the system when they are first used.
const PAYLOAD_BYTES_MAX: usize = 4 << 30;
/// Most entries of one queue.
pub const DEPTH_MAX: u32 = 64;
/// Most entries of all queues, unless there are more queues.
const ENTRIES_MAX: u32 = 4096;
/// Most entries that are added for requests that are held.
const HELD_MAX: u32 = 1024;
/// The least the kernel accepts, as `negotiate` tells it.
const PAYLOAD_BYTES_MIN: u32 = MAX_PAGES_MIN * PAGE_BYTES;

/// How the queues are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UringConfig {
    /// What the commands of the first entry carry in the ring; each further entry's carry one more.
    pub first_token: u64,
    /// One queue for each CPU there may ever be.
    pub queue_count: u16,
    /// Entries of each queue, before [`UringConfig::fitted`].
    pub depth: u32,
    /// The longest WRITE, as given to `negotiate`.
    pub max_write_bytes: u32,
}

impl UringConfig {
    /// With as many entries as the address space for payloads allows, at least one for each queue.
    #[must_use]
    pub fn fitted(self) -> Self {
        let queues = usize::from(self.queue_count.max(1));
        let most = PAYLOAD_BYTES_MAX / (queues * self.slot_bytes());
        let most = u32::try_from(most)
            .unwrap_or(DEPTH_MAX)
            .min(ENTRIES_MAX / u32::from(self.queue_count.max(1)));
        let most = most.clamp(1, DEPTH_MAX);
        Self { depth: self.depth.clamp(1, most), ..self }
    }

    /// Entries of all queues: so many commands are in the ring for as long as the mount lives.
    #[must_use]
    pub fn entry_count(&self) -> u32 {
        u32::from(self.queue_count) * self.depth
    }

    /// Entries that may be added for requests that are held: fewer where each takes much address space.
    #[must_use]
    pub fn held_max(&self) -> u32 {
        let most = PAYLOAD_BYTES_MAX / self.slot_bytes();
        u32::try_from(most).unwrap_or(HELD_MAX).min(HELD_MAX)
    }

    /// What the kernel wants to have room for: its `max_pages`, which `negotiate` gives it.
    fn payload_bytes(&self) -> usize {
        to_usize(u64::from(self.max_write_bytes.max(PAYLOAD_BYTES_MIN)))
    }

    fn slot_bytes(&self) -> usize {
        self.payload_bytes().next_power_of_two()
    }
}

/// The ring transport of one mount.
#[derive(Debug)]
pub struct Uring {
    classic: Classic,
    device: FileId,
    first_token: u64,
    entries: Vec<Entry>,
    queues: Vec<Queue>,
    /// Memory of entries that are added while requests are held.
    headers: Pool,
    payloads: Pool,
    payload_bytes: usize,
    depth: u32,
    /// Entries added.
    added: u32,
    added_max: u32,
    /// Entries that asked for a request before the last wait, and between it and now, in queues where it matters
    /// whether they got one: with how many each had got.
    probes: Vec<(usize, u64)>,
    new_probes: Vec<(usize, u64)>,
    /// CPUs to be kicked, once the kernel has the entry that was added.
    kicks: Vec<(u16, Option<usize>)>,
    /// Entries with a request that was not looked at yet, in the order they came.
    arrived: VecDeque<usize>,
    /// Entries that are answered and wait for their payload.
    held: Vec<usize>,
    /// Entries whose command the ring had no room for.
    unsubmitted: VecDeque<usize>,
    /// Which entry a request is answered on.
    by_unique: BTreeMap<u64, usize>,
    /// Where a WRITE's data is moved to: it is kept after the reply, when the entry's memory is the kernel's again.
    pool: Pool,
    ring_streak: u32,
    /// A WRITE waits for a slot.
    starved: bool,
    /// The first refusal, to be told.
    refused: Option<Errno>,
}

/// What is known of one CPU's queue.
#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    entries: u32,
    /// Entries the kernel has, as far as we know.
    waiting: u32,
    /// Entries with a request that is held.
    held: u32,
    /// The kernel had no entry at some time, so requests may wait in it. It hands them out only when an entry asks for
    /// its next request: not to one that is new.
    dry: bool,
}

#[derive(Debug)]
struct Entry {
    queue: u16,
    state: State,
    /// Its request is held.
    held: bool,
    /// Requests it got.
    received: u64,
}

#[derive(Debug)]
enum State {
    /// The ring has the command: the kernel may put a request in.
    Waiting,
    /// A request came, or is being served.
    Ours { command: Box<Command>, commit_id: u64, lent: Option<Lent> },
    /// Answered, but somebody still has a part of the payload.
    Held { command: Box<Command>, commit_id: u64, lent: Lent, reply: Outgoing },
    /// Ready to be submitted.
    Ready(Box<Command>),
    /// The kernel does not know it any more.
    Lost,
}

impl Uring {
    /// Beside `classic`, which serves the device; the entries come from memory of their own.
    ///
    /// # Errors
    /// No memory for them.
    pub fn new(classic: Classic, pool: Pool, config: &UringConfig) -> Result<Self, IobufError> {
        let count = to_usize(u64::from(config.entry_count() + config.held_max()));
        let slot_bytes = config.slot_bytes();
        let payloads = Pool::new(count * slot_bytes, slot_bytes)?;
        let headers = Pool::new(count * to_usize(u64::from(PAGE_BYTES)), 2 << 20)?;
        let mut uring = Self {
            device: classic.file(),
            classic,
            first_token: config.first_token,
            entries: Vec::with_capacity(count),
            queues: vec![Queue::default(); usize::from(config.queue_count)],
            headers,
            payloads,
            payload_bytes: config.payload_bytes(),
            depth: config.depth,
            added: 0,
            added_max: config.held_max(),
            probes: Vec::new(),
            new_probes: Vec::new(),
            kicks: Vec::new(),
            arrived: VecDeque::new(),
            held: Vec::new(),
            unsubmitted: VecDeque::new(),
            by_unique: BTreeMap::new(),
            pool,
            ring_streak: 0,
            starved: false,
            refused: None,
        };
        for _ in 0..config.depth {
            for queue in 0..config.queue_count {
                uring.add_entry(queue);
            }
        }
        Ok(uring)
    }

    /// One more entry of a queue, ready to be submitted.
    fn add_entry(&mut self, queue: u16) -> usize {
        let room = "the pools were made for this many entries";
        let header = self.headers.alloc(size_of::<ReqHeader>()).expect(room);
        let payload = self.payloads.alloc(self.payload_bytes).expect(room);
        let command = entry::register(queue, header, payload, self.payload_bytes);
        let state = State::Ready(command);
        self.entries.push(Entry { queue, state, held: false, received: 0 });
        self.queues[usize::from(queue)].entries += 1;
        self.entries.len() - 1
    }

    fn token(&self, at: usize) -> u64 {
        self.first_token + u64::try_from(at).expect("entries are few")
    }

    /// Gives an entry's command to the ring, now or when there is room.
    fn submit(&mut self, ring: &mut Ring, at: usize) {
        let state = std::mem::replace(&mut self.entries[at].state, State::Waiting);
        let State::Ready(command) = state else { unreachable!("only ready entries get here") };
        self.queue_of(at).waiting += 1;
        let op = Op::Command { file: self.device, command };
        let Err(rejected) = ring.submit(self.token(at), op) else { return };
        let Op::Command { command, .. } = rejected.op else { unreachable!("it comes back whole") };
        match rejected.reason {
            weft_ring::Reject::Full | weft_ring::Reject::Busy => {
                self.queue_of(at).waiting -= 1;
                self.entries[at].state = State::Ready(command);
                self.unsubmitted.push_back(at);
            }
            // The device is being closed, or the ring was made without room for commands.
            _ => self.lose(at, Errno::NODEV),
        }
    }

    /// Answers, once the payload is back.
    fn commit(
        &mut self,
        ring: &mut Ring,
        at: usize,
        mut command: Box<Command>,
        commit_id: u64,
        lent: Option<Lent>,
        reply: Outgoing,
    ) {
        if let Some(Err(lent)) = lent.map(|lent| lent.give_back(&mut command)) {
            self.entries[at].state = State::Held { command, commit_id, lent, reply };
            self.held.push(at);
            return;
        }
        let spare = entry::commit(&mut command, self.entries[at].queue, commit_id, reply);
        self.keep(spare);
        self.entries[at].state = State::Ready(command);
        if self.queue_of(at).dry {
            self.new_probes.push((at, self.entries[at].received));
        }
        self.submit(ring, at);
    }

    fn queue_of(&mut self, at: usize) -> &mut Queue {
        &mut self.queues[usize::from(self.entries[at].queue)]
    }

    /// An entry that asked for a request before the last wait and got none: the kernel has none left for its CPU.
    fn look_at_probes(&mut self) {
        let asked_later = std::mem::take(&mut self.new_probes);
        for (at, received) in std::mem::replace(&mut self.probes, asked_later) {
            let entry = &self.entries[at];
            if entry.received == received && matches!(entry.state, State::Waiting) {
                self.queue_of(at).dry = false;
            }
        }
    }

    fn retry_held(&mut self, ring: &mut Ring) {
        for at in std::mem::take(&mut self.held) {
            let state = std::mem::replace(&mut self.entries[at].state, State::Lost);
            let State::Held { command, commit_id, lent, reply } = state else {
                unreachable!("only held entries are listed")
            };
            self.commit(ring, at, command, commit_id, Some(lent), reply);
        }
    }

    fn keep(&mut self, spare: Option<SendData>) {
        if let Some(data) = spare {
            self.classic.keep_spare(data);
        }
    }

    fn lose(&mut self, at: usize, errno: Errno) {
        let queue = self.entries[at].queue;
        if matches!(self.entries[at].state, State::Waiting) {
            self.queue_of(at).waiting -= 1;
        }
        self.queue_of(at).entries -= 1;
        match errno {
            // The connection ended, and all entries with it.
            Errno::NOTCONN | Errno::CONNABORTED | Errno::NODEV | Errno::CANCELED => {}
            _ => tracing::error!(queue, %errno, "the kernel does not know an entry any more"),
        }
        self.entries[at].state = State::Lost;
        self.refused.get_or_insert(errno);
    }

    /// A request that lies in an entry, as something of its own. `None` when a WRITE finds no slot.
    fn take_request(&mut self, at: usize) -> Option<Incoming> {
        let State::Ours { command, commit_id, .. } = &mut self.entries[at].state else {
            unreachable!("what arrived is ours until it is answered")
        };
        let (incoming, unique) = match entry::received(command) {
            Ok(received) => {
                *commit_id = received.commit_id;
                let payload = entry::payload(command, received.payload_bytes);
                let data = if received.header.opcode == opcode::WRITE {
                    super::SplitData::Slot(copy(&self.pool, payload)?, payload.len())
                } else {
                    super::SplitData::Bytes(payload.to_vec())
                };
                let unique = received.header.unique;
                (Incoming::split(received.header, received.op_in, data), unique)
            }
            Err(error) => {
                let unique = error.unique.map_or(0, |unique| unique.0);
                *commit_id = unique;
                (Incoming::broken(error), unique)
            }
        };
        self.by_unique.insert(unique, at);
        Some(incoming)
    }
}

fn copy(pool: &Pool, payload: &[u8]) -> Option<BufSlot> {
    let mut slot = pool.alloc_to_begin(payload.len())?;
    slot.as_mut_slice()[..payload.len()].copy_from_slice(payload);
    Some(slot)
}

impl Transport for Uring {
    fn agreed(&mut self, ring: &mut Ring, over_io_uring: bool) {
        if !over_io_uring {
            self.entries.clear();
            self.refused = Some(Errno::OPNOTSUPP);
            return;
        }
        for at in 0..self.entries.len() {
            self.submit(ring, at);
        }
    }

    fn state(&self) -> Result<&'static str, Errno> {
        match self.refused {
            None => Ok("uring"),
            Some(errno) => Err(errno),
        }
    }

    fn pump(&mut self, ring: &mut Ring) {
        self.classic.pump(ring);
        self.look_at_probes();
        self.starved = false;
        self.retry_held(ring);
        for _ in 0..self.unsubmitted.len() {
            if let Some(at) = self.unsubmitted.pop_front() {
                self.submit(ring, at);
            }
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        let Op::Command { command, .. } = completion.op else {
            return self.classic.on_completion(completion);
        };
        let at = to_usize(completion.token - self.first_token);
        match completion.result {
            Ok(_) => {
                let queue = self.queue_of(at);
                queue.waiting -= 1;
                queue.dry |= queue.waiting == 0;
                self.entries[at].received += 1;
                self.entries[at].state = State::Ours { command, commit_id: 0, lent: None };
                self.arrived.push_back(at);
            }
            Err(errno) => self.lose(at, errno),
        }
    }

    fn next(&mut self, ring: &Ring) -> Event {
        if self.ring_streak >= RING_REQUESTS_MAX || self.arrived.is_empty() || self.starved {
            self.ring_streak = 0;
            match self.classic.next(ring) {
                Event::Nothing => {}
                event => return event,
            }
        }
        if self.starved {
            return Event::Nothing;
        }
        let Some(&at) = self.arrived.front() else { return Event::Nothing };
        match self.take_request(at) {
            Some(incoming) => {
                self.arrived.pop_front();
                self.ring_streak += 1;
                Event::Request(incoming)
            }
            None => {
                self.starved = true;
                Event::Nothing
            }
        }
    }

    fn has_more(&self) -> bool {
        let arrived = !self.arrived.is_empty() && !self.starved;
        arrived || !self.kicks.is_empty() || self.classic.has_more()
    }

    fn starved_of(&self) -> Option<usize> {
        // A WRITE's payload is the longest thing of a request in either way.
        self.starved.then(|| self.classic.longest_bytes()).or_else(|| self.classic.starved_of())
    }

    fn spare(&mut self) -> SendData {
        self.classic.spare()
    }

    fn lend(&mut self, unique: Unique) -> Option<BufSlot> {
        let at = *self.by_unique.get(&unique.0)?;
        let State::Ours { command, lent, .. } = &mut self.entries[at].state else { return None };
        if lent.is_some() {
            return None;
        }
        let (loan, part) = entry::lend(command);
        *lent = Some(loan);
        Some(part)
    }

    fn hold(&mut self, ring: &mut Ring, unique: Unique) -> bool {
        let Some(at) = self.by_unique.get(&unique.0).copied() else { return true };
        let (depth, cpu) = (self.depth, self.entries[at].queue);
        let queue = self.queue_of(at);
        let mut added = None;
        if queue.entries < depth + queue.held + 1 {
            if self.added >= self.added_max {
                return false;
            }
            self.added += 1;
            let new = self.add_entry(cpu);
            self.submit(ring, new);
            added = Some(new);
            // The last of the others may be taken by now and requests wait, which we do not see when it counts as
            // waiting until after this one does.
            self.queue_of(at).dry = true;
        }
        self.entries[at].held = true;
        let queue = self.queue_of(at);
        queue.held += 1;
        if queue.dry {
            self.kicks.push((cpu, added));
        }
        true
    }

    fn kicks(&mut self) -> Vec<u16> {
        let entries = &self.entries;
        // One that the ring had no room for is not with the kernel: what it shall take would be stuck, too.
        let is_ready = |at: &usize| !matches!(entries[*at].state, State::Ready(_));
        let now = self.kicks.extract_if(.., |(_, added)| added.as_ref().is_none_or(is_ready));
        now.map(|(cpu, _)| cpu).collect()
    }

    fn reply(&mut self, ring: &mut Ring, reply: Reply) {
        let Some(at) = self.by_unique.remove(&reply.unique().0) else {
            return self.classic.reply(ring, reply);
        };
        if std::mem::take(&mut self.entries[at].held) {
            self.queue_of(at).held -= 1;
        }
        let state = std::mem::replace(&mut self.entries[at].state, State::Lost);
        let State::Ours { command, commit_id, lent } = state else {
            unreachable!("a request's entry is ours until it is answered")
        };
        let (reply, spare) = Outgoing::new(reply.into_parts(), lent.as_ref());
        self.keep(spare); // it may hold parts of the payload
        self.commit(ring, at, command, commit_id, lent, reply);
    }
}

#[cfg(test)]
mod tests;
