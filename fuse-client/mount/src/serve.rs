//! The client's event loop: one thread, one ring, on it the kernel's requests and the servers' connections.
//!
//! Start: connect first, and have the supervisor mount second, so that a mount never exists that could not serve; the
//! caller of mount(8) is let go once the kernel's INIT is answered. Then each turn: completions to the core or the transport, the core's
//! outputs to the ring. End: the kernel unmounts, or a signal asks it to.
//!
//! What an operation means is the core's; what the kernel's bytes mean is `translate`'s.

mod device;
mod forget;
mod kick;
mod links;
mod status;
mod supervisor;
mod translate;
mod ways;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::MountFlags;
use weft_client_core::{Caller, ClientConfig, ClientCore, FsOp, FsReply, OnTimeout, OpId, Output};
use weft_iobuf::Pool;
use weft_ring::{Op, Ring};
use weft_wire::SessionId;

use crate::clock;
use crate::kernel_mount;
use crate::negotiate::{Limits, negotiate};
use crate::options::{self, Options};
use crate::reply::ReplyHead;
use crate::request::{Operation, RESENT, Unique};
use crate::supervise::channel::Channel;
use crate::transport::{Event, Incoming, Reply, Transport, UringConfig};
use device::TRANSPORT_TOKENS;
pub(crate) use device::kept_bytes;
use forget::Forgetter;
use kick::Kicker;
use links::Links;
pub(crate) use status::{Facts, Status};
use supervisor::SupervisorLink;
use translate::{Shape, Translated};
use ways::Ways;

/// Requests of the kernel taken in one turn, so that the servers' answers get theirs.
const REQUESTS_PER_TURN: usize = 64;
/// Memory for requests, write-behind and replies.
const POOL_BYTES: usize = 256 << 20;
/// Interrupts kept for requests that have not come.
const EARLY_INTERRUPTS_MAX: usize = 1024;
/// Longest turn without a look at the clock.
const TICK: Duration = Duration::from_millis(50);
/// How often the core is told the time of day, which others may set.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);
/// Time for the rest of the writes and the goodbye after an unmount.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long operations in progress may take to end before a successor takes them over.
const RETIRE_PATIENCE: Duration = Duration::from_millis(500);

/// How a client-core ended as it should.
enum End {
    Unmounted,
    /// Another one takes over.
    Retired,
}

/// One mount being served.
pub(crate) struct Mount {
    core: ClientCore,
    ring: Ring,
    pool: Pool,
    links: Links,
    /// Absent until the servers answered and the kernel mounted.
    transport: Option<Box<dyn Transport>>,
    /// The queues to be registered with the kernel, where it offers them.
    queues: Option<UringConfig>,
    /// Tells the kernel to forget; there once the transport is.
    forgetter: Option<Forgetter>,
    limits: Limits,
    /// What the reply of an operation needs to be shaped, where its kind does not say it.
    shapes: BTreeMap<u64, Shape>,
    /// Interrupts that came before their requests: they take different ways.
    early_interrupts: BTreeSet<u64>,
    /// Has requests come on a CPU, when those that wait there in the kernel might not.
    kicker: Option<Kicker>,
    /// Operations the ring had no room for.
    backlog: VecDeque<(u64, Op)>,
    /// When the core is told the time of day again.
    clock_due: Duration,
    ready: bool,
    /// INIT was answered.
    serving: bool,
    /// A successor can have the kernel ask again for what this process has not answered.
    resumable: bool,
    /// Requests that the kernel asked before, of a client-core that died: their replies name them so.
    resent: BTreeSet<u64>,
    /// The kernel was told to ask again, and not all of that has come.
    asked_again: bool,
    /// A successor is to take over: no more requests are taken.
    retiring: Arc<AtomicBool>,
    unmounted: bool,
    failed: Option<String>,
}

/// A client-core's life: serves what its supervisor, at the other end of the standard input, mounts or has mounted.
///
/// # Errors
/// A sentence for the person who mounts; the supervisor has been told.
pub fn run(options: &Options) -> Result<(), String> {
    let channel = Channel::take_from_stdin()
        .map_err(|error| format!("no supervisor started this client-core: {error}"))?;
    let link = SupervisorLink::new(channel);
    let result = live(options, &link);
    if let Err(reason) = &result {
        link.failed(reason);
    }
    result
}

fn live(options: &Options, link: &SupervisorLink) -> Result<(), String> {
    let order = link.hello()?;
    if let Err(error) = weft_ring::run_soon() {
        tracing::info!(%error, "the scheduler gives no short slices");
    }
    let (taken, session, max_write) = (order.device, order.session, order.max_write_bytes);
    let mut mount = Mount::new(options, session, max_write, &order.keep)?;
    let transport = match taken {
        Some(device) => mount.take_device(device)?,
        None => {
            mount.connect(options)?;
            mount.open_device(options, link.mounted()?)?
        }
    };
    if mount.queues.is_some() && !options.local_locks {
        mount.kicker = Some(Kicker::new(options.mount_point.clone()));
    }
    link.serving(transport, mount.resumable, mount.limits.max_write_bytes)?;
    let orphaned = link.listen(Arc::clone(&mount.retiring))?;
    watch_signals(options.mount_point.clone(), orphaned)?;
    match mount.serve()? {
        End::Unmounted => link.unmounted(),
        End::Retired => link.retired(),
    }
    Ok(())
}

impl Mount {
    /// `max_write`: what the kernel was promised when there is a mount already.
    fn new(
        options: &Options,
        session: SessionId,
        max_write: Option<u32>,
        kept: &OwnedFd,
    ) -> Result<Mount, String> {
        let (ring, queues) = device::ring(options)?;
        let max_write_bytes = max_write.unwrap_or(options.max_write_bytes());
        // The ring does not know it: sockets gain nothing from that, and it would take all of the memory at once.
        let (pool, keep) = device::memory(kept, max_write_bytes)?;
        let limits = Limits {
            max_write_bytes,
            max_readahead_bytes: options.read_ahead_kib.saturating_mul(1024),
            over_io_uring: queues.is_some(),
            locks: !options.local_locks,
            ..Limits::default()
        };
        let config = ClientConfig {
            attr_ttl: options.attr_timeout,
            entry_ttl: options.entry_timeout,
            on_timeout: match options.on_timeout {
                options::OnTimeout::Wait => OnTimeout::Wait,
                options::OnTimeout::Eio => OnTimeout::Eio(options.timeout),
            },
            atime: !options.mount_flags.intersects(MountFlags::NOATIME | MountFlags::RDONLY),
            ..ClientConfig::new(session)
        };
        let address = options.source.address();
        tracing::info!(session = %session, source = %options.source, "mounting");
        Ok(Mount {
            core: ClientCore::keeping(config, pool.clone(), &address, keep, clock::mono()),
            ring,
            pool,
            links: Links::new(Ways::new(options.local_socket)),
            transport: None,
            queues,
            forgetter: None,
            limits,
            shapes: BTreeMap::new(),
            early_interrupts: BTreeSet::new(),
            kicker: None,
            backlog: VecDeque::new(),
            clock_due: Duration::ZERO,
            ready: false,
            serving: false,
            resumable: false,
            resent: BTreeSet::new(),
            asked_again: false,
            retiring: Arc::default(),
            unmounted: false,
            failed: None,
        })
    }

    /// Talks to the servers until the core is ready to serve, for `timeout` at most.
    fn connect(&mut self, options: &Options) -> Result<(), String> {
        let start = clock::mono();
        self.core.set_clock(start, clock::wall());
        self.core.start(start);
        while !self.ready {
            self.turn()?;
            if let Some(sentence) = self.failed.take() {
                return Err(sentence);
            }
            if clock::mono() - start >= options.timeout {
                return Err(format!(
                    "{}: no server answered within {} ms; is weft-server running there, and does `weft ping \
                     --server {}` reach it?",
                    options.source,
                    options.timeout.as_millis(),
                    options.source.address()
                ));
            }
        }
        Ok(())
    }

    fn serve(&mut self) -> Result<End, String> {
        let mut retired_at = None;
        while !self.unmounted {
            self.turn()?;
            if self.retiring.load(Ordering::Relaxed) {
                let since = *retired_at.get_or_insert_with(clock::mono);
                if self.core.is_idle() || clock::mono() - since >= RETIRE_PATIENCE {
                    self.carry_out();
                    tracing::info!("a successor takes over");
                    return Ok(End::Retired);
                }
            }
            if let Some(sentence) = self.failed.take() {
                tracing::error!(sentence, "the mount cannot go on: every operation gets EIO");
            }
        }
        let end = clock::mono() + GOODBYE;
        self.core.leaving(clock::mono());
        while !self.core.is_clean() && clock::mono() < end {
            self.turn()?;
        }
        self.core.goodbye(clock::mono());
        while !self.core.is_gone() && clock::mono() < end {
            self.turn()?;
        }
        tracing::info!("unmounted");
        Ok(End::Unmounted)
    }

    /// One turn of the loop.
    fn turn(&mut self) -> Result<(), String> {
        self.carry_out();
        let starved_of = self.transport.as_ref().and_then(|transport| transport.starved_of());
        if let Some(bytes) = starved_of {
            self.core.make_room(bytes);
        }
        for (token, op) in std::mem::take(&mut self.backlog) {
            self.submit(token, op);
        }
        if let Some(transport) = &mut self.transport {
            transport.pump(&mut self.ring);
        }
        let now = clock::mono();
        let timer = self.core.next_timer().map_or(TICK, |at| at.saturating_sub(now).min(TICK));
        let has_more = self.transport.as_ref().is_some_and(|transport| transport.has_more());
        let patience = match has_more {
            true => Duration::ZERO,
            false if starved_of.is_some() || self.links.any_stalled() => Duration::from_millis(1),
            false => timer,
        };
        self.wait(patience)?;
        self.kick();
        self.take_forgotten();
        self.take_requests();
        self.retry_stalled();
        let now = clock::mono();
        if now >= self.clock_due {
            self.core.set_clock(now, clock::wall());
            self.clock_due = now + CLOCK_INTERVAL;
        }
        self.core.tick(now);
        Ok(())
    }

    /// Gives the kernel what was submitted, and what it completed to its owners.
    fn wait(&mut self, patience: Duration) -> Result<(), String> {
        let waited = match self.core.is_idle() {
            true => self.ring.wait(Some(patience)),
            false => self.ring.wait_under_way(Some(patience)),
        };
        waited.map_err(|error| error.to_string())?;
        while let Some(completion) = self.ring.next_completion() {
            match &mut self.transport {
                Some(transport) if completion.token >= TRANSPORT_TOKENS => {
                    transport.on_completion(completion);
                }
                _ => self.link_completed(completion),
            }
        }
        Ok(())
    }

    fn submit(&mut self, token: u64, op: Op) {
        if !self.backlog.is_empty() {
            return self.backlog.push_back((token, op));
        }
        if let Err(rejected) = self.ring.submit(token, op) {
            match rejected.reason {
                weft_ring::Reject::Full | weft_ring::Reject::Busy => {
                    self.backlog.push_back((token, rejected.op));
                }
                reason => tracing::debug!(?reason, "operation on a closed connection"),
            }
        }
    }

    /// Does what the core wants.
    fn carry_out(&mut self) {
        while let Some(output) = self.core.poll() {
            match output {
                Output::Reply { op, result } => self.reply(op, result),
                Output::Connect { link, address, local } => {
                    self.connect_link(link, &address, local);
                }
                Output::Send { link, head, payload } => self.links.queue(link, &head, payload),
                Output::Close { link } => self.close_link(link),
                Output::Forget { id, inodes, names } => self.forget_in_kernel(id, inodes, names),
                Output::TrimMemory => weft_iobuf::trim_heap(),
                Output::Ready => self.ready = true,
                Output::Failed { sentence } => self.failed = Some(sentence),
            }
        }
        // The replies are with the kernel, and what is sent from here on has not left: see `ClientCore::replied`.
        self.core.replied();
        self.send_queued();
    }

    fn forget_in_kernel(&mut self, id: u64, inodes: Vec<weft_wire::Ino>, names: bool) {
        match &self.forgetter {
            Some(forgetter) => forgetter.order(id, inodes, names),
            // Not mounted yet: the kernel knows nothing.
            None => self.core.kernel_forgot(id, true, clock::mono()),
        }
    }

    fn take_forgotten(&mut self) {
        while let Some((id, pages)) = self.forgetter.as_ref().and_then(Forgetter::next) {
            self.core.kernel_forgot(id, pages, clock::mono());
        }
    }

    fn take_requests(&mut self) {
        if self.retiring.load(Ordering::Relaxed) {
            return;
        }
        for _ in 0..REQUESTS_PER_TURN {
            let Some(transport) = &mut self.transport else { return };
            match transport.next(&self.ring) {
                Event::Request(incoming) => self.request(incoming),
                Event::Nothing => return self.all_came(),
                Event::Unmounted => self.unmounted = true,
                Event::ReplyRefused(errno) => {
                    tracing::error!(%errno, "the kernel refused a reply: its caller waits; a bug");
                }
                Event::Failed(errno) => {
                    tracing::error!(%errno, "/dev/fuse does not work any more");
                    self.unmounted = true;
                }
            }
        }
    }

    fn request(&mut self, incoming: Incoming) {
        let request = match incoming.decode() {
            Ok(request) => request,
            Err(error) => {
                tracing::error!(%error, "a request of the kernel that cannot be read");
                if let Some(unique) = error.unique {
                    self.send(&ReplyHead::error(unique, error.errno()), |_| {});
                }
                return;
            }
        };
        let unique = Unique(request.unique.0 & !RESENT);
        if unique != request.unique {
            self.resent.insert(unique.0);
        }
        tracing::trace!(unique = unique.0, op = ?request.op, "request");
        match &request.op {
            Operation::Init(init) => {
                let answer = negotiate(init, &self.limits);
                self.answer_init(unique, init.flags, &answer);
            }
            Operation::Destroy => self.send(&ReplyHead::empty(unique), |_| {}),
            Operation::Interrupt { target } => self.interrupt(Unique(target.0 & !RESENT)),
            Operation::Statfs if self.kicker.as_ref().is_some_and(|k| k.is_me(request.pid)) => {
                self.send(&ReplyHead::statfs(unique, &Default::default()), |_| {});
            }
            Operation::BatchForget(list) => {
                for (node, count) in list.iter() {
                    self.forget(node.0, count);
                }
            }
            Operation::Forget { lookup_count } => self.forget(request.node.0, *lookup_count),
            _ => {
                let (caller, translated) =
                    (translate::caller(&request), translate::operation(&request));
                let may_wait = matches!(request.op, Operation::Setlkw(_));
                if may_wait && !self.hold(unique) {
                    return self.send(&ReplyHead::error(unique, Errno::NOLCK), |_| {});
                }
                self.start(unique, caller, translated, incoming);
            }
        }
    }

    fn start(
        &mut self,
        unique: Unique,
        caller: Caller,
        translated: Result<(Translated, Option<Shape>), Errno>,
        incoming: Incoming,
    ) {
        match translated {
            Ok((translated, shape)) => {
                if let Some(shape) = shape {
                    self.shapes.insert(unique.0, shape);
                }
                let mut op = translated.with_data_of(incoming);
                if let (FsOp::Read { into, .. }, Some(transport)) = (&mut op, &mut self.transport) {
                    *into = transport.lend(unique);
                }
                self.core.op(OpId(unique.0), caller, op, clock::mono());
                if self.early_interrupts.remove(&unique.0) {
                    self.core.interrupt(OpId(unique.0), clock::mono());
                }
            }
            Err(errno) => self.send(&ReplyHead::error(unique, errno), |_| {}),
        }
    }

    /// A program that waits got a signal. Over io_uring that may be told before the request itself.
    fn interrupt(&mut self, target: Unique) {
        if self.core.interrupt(OpId(target.0), clock::mono()) {
            return;
        }
        self.early_interrupts.insert(target.0);
        if self.early_interrupts.len() > EARLY_INTERRUPTS_MAX {
            self.early_interrupts.pop_first(); // answered long ago: the kernel's numbers grow
        }
    }

    /// A request may take for ever to answer: other requests must come all the same. False when no more can be held.
    fn hold(&mut self, unique: Unique) -> bool {
        self.transport.as_mut().is_none_or(|transport| transport.hold(&mut self.ring, unique))
    }

    /// Has the kernel go on where only held requests could have asked it to.
    fn kick(&mut self) {
        let (Some(transport), Some(kicker)) = (&mut self.transport, &mut self.kicker) else {
            return;
        };
        transport.kicks().into_iter().for_each(|cpu| kicker.kick(cpu));
    }

    /// The kernel dropped `count` lookups of a node; nobody is answered.
    fn forget(&mut self, node: u64, count: u64) {
        let forget = FsOp::Forget { ino: weft_wire::Ino(node), count };
        self.core.op(OpId(0), Caller::default(), forget, clock::mono());
    }

    /// Answers the kernel.
    fn reply(&mut self, op: OpId, result: Result<FsReply, i32>) {
        let unique = Unique(op.0);
        let shape = self.shapes.remove(&op.0);
        let result = match shape {
            Some(Shape::UnlockAfter { ino, handle, owner }) if self.core.has_locks(ino, owner) => {
                let flushed = result.map(drop);
                self.shapes.insert(op.0, Shape::Unlocked { flushed });
                let unlock = translate::unlock(ino, handle, owner);
                return self.core.op(op, Caller::default(), unlock, clock::mono());
            }
            Some(Shape::Unlocked { flushed: Err(errno) }) => Err(errno),
            _ => result,
        };
        let reply = match result {
            Ok(reply) => reply,
            Err(errno) => {
                return self
                    .send(&ReplyHead::error(unique, Errno::from_raw_os_error(errno)), |_| {});
            }
        };
        if let (Some(Shape::SyncAfter { handle, .. }), FsReply::Written(bytes)) = (&shape, &reply) {
            // O_SYNC: the write is over when it is durable.
            let fsync = FsOp::Fsync { handle: *handle, datasync: true };
            self.shapes.insert(op.0, Shape::WrittenAndSynced { bytes: *bytes });
            return self.core.op(op, Caller::default(), fsync, clock::mono());
        }
        let answer = translate::answer(unique, reply, shape);
        self.send(&answer.head, |reply| answer.payload.push_to(reply));
    }

    fn send(&mut self, head: &ReplyHead, payload: impl FnOnce(&mut Reply)) {
        let Some(transport) = &mut self.transport else { return };
        let asked_again = !self.resent.is_empty() && self.resent.remove(&head.unique().0);
        let head = &if asked_again { head.clone().asked_again() } else { head.clone() };
        let mut reply = Reply::new(transport.spare(), head);
        payload(&mut reply);
        transport.reply(&mut self.ring, reply);
    }
}

/// SIGTERM and SIGINT are for the supervisor; when that is gone (`orphaned`) they unmount, and the loop ends when the
/// kernel lets go.
fn watch_signals(mount_point: PathBuf, orphaned: Arc<AtomicBool>) -> Result<(), String> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])
        .map_err(|error| format!("cannot watch for signals: {error}"))?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                if !orphaned.load(Ordering::Relaxed) {
                    continue;
                }
                tracing::info!(signal, "unmounting");
                if let Err(error) = kernel_mount::unmount(&mount_point) {
                    tracing::warn!(%error, "cannot unmount");
                }
            }
        })
        .map(drop)
        .map_err(|error| format!("cannot start a thread: {error}"))
}
