//! A file system that answers at once, from memory: what the way from the kernel costs, and nothing else.
//!
//! `local_answers MOUNTPOINT classic|uring [serving]` mounts it and serves until it is unmounted; `benchmarks/transports.py
//! --local` measures it. `serving`: its loop spins before it sleeps and asks for short slices, as a mount's does. Every name but those that begin with "no" is a file of 1 GiB of zeros; writes are taken and forgotten.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::MountFlags;
use weft_iobuf::{BufSlot, Pool, SharedSlot};
use weft_mount::abi::flags::fopen;
use weft_mount::abi::flags::init::OVER_IO_URING;
use weft_mount::abi::output::{Attr, Kstatfs};
use weft_mount::kernel_mount::{KernelMount, MountConfig};
use weft_mount::negotiate::{Limits, Negotiated, negotiate};
use weft_mount::reply::{Entry, ReplyHead};
use weft_mount::request::{FileHandle, NodeId, Operation, Unique};
use weft_mount::transport::{
    Classic, ClassicConfig, Event, Incoming, Reply, Transport, Uring, UringConfig, offer,
};
use weft_ring::{Ring, RingConfig, SendData};

const TOKEN: u64 = 1;
const FILE_BYTES: u64 = 1 << 30;
const MAX_WRITE_BYTES: u32 = 1 << 20;
const DEPTH: u32 = 16;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (mount_point, way, as_mount) = match args.as_slice() {
        [mount_point, way] => (mount_point, way, false),
        [mount_point, way, how] if how == "serving" => (mount_point, way, true),
        _ => {
            eprintln!("usage: local_answers MOUNTPOINT classic|uring [serving]");
            return ExitCode::from(2);
        }
    };
    match serve(Path::new(mount_point), way == "uring", as_mount) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("local_answers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(mount_point: &Path, over_ring: bool, as_mount: bool) -> Result<(), Failure> {
    let pool = Pool::new(64 << 20, 2 << 20)?;
    let config = if as_mount { RingConfig::serving() } else { RingConfig::default() };
    if as_mount {
        weft_ring::run_soon()?;
    }
    let mut ring = Ring::new(RingConfig { sqe128: over_ring, ..config })?;
    let config = MountConfig {
        source: "local:1:/".to_owned(),
        mount_point: mount_point.to_owned(),
        flags: MountFlags::empty(),
        max_read_bytes: MAX_WRITE_BYTES,
    };
    let (device, _) = KernelMount::new(&config)?.into_parts();
    let config = ClassicConfig { token: TOKEN, max_write_bytes: MAX_WRITE_BYTES };
    let classic = Classic::new(&mut ring, device, pool.clone(), config)?;
    let mut transport: Box<dyn Transport> = if over_ring {
        let queue_count = offer::ask()?.queue_count;
        let (first_token, max_write_bytes) = (TOKEN + 1, MAX_WRITE_BYTES);
        let config = UringConfig { first_token, queue_count, depth: DEPTH, max_write_bytes };
        Box::new(Uring::new(classic, pool.clone(), &config.fitted())?)
    } else {
        Box::new(classic)
    };
    let zeros = pool.alloc(1 << 20).ok_or("no memory")?.share();
    loop {
        transport.pump(&mut ring);
        let patience = if transport.has_more() { 0 } else { 1000 };
        ring.wait(Some(Duration::from_millis(patience)))?;
        while let Some(completion) = ring.next_completion() {
            transport.on_completion(completion);
        }
        loop {
            match transport.next(&ring) {
                Event::Request(incoming) => {
                    answer(&mut *transport, &mut ring, &zeros, incoming, over_ring)?;
                }
                Event::Nothing => break,
                Event::Unmounted => return Ok(()),
                event => return Err(format!("{event:?}").into()),
            }
        }
    }
}

fn answer(
    transport: &mut dyn Transport,
    ring: &mut Ring,
    zeros: &SharedSlot,
    incoming: Incoming,
    over_io_uring: bool,
) -> Result<(), Failure> {
    let request = incoming.decode()?;
    let (unique, node) = (request.unique, request.node.0);
    let head = match &request.op {
        Operation::Forget { .. } | Operation::BatchForget(_) | Operation::Interrupt { .. } => {
            return Ok(());
        }
        Operation::Init(init) => {
            let limits = Limits { over_io_uring, ..Limits::default() };
            let Negotiated::Agreed(out, features) = negotiate(init, &limits) else {
                return Err("the kernel is too old".into());
            };
            let reply = Reply::new(transport.spare(), &ReplyHead::init(unique, &out));
            transport.reply(ring, reply);
            transport.agreed(ring, features.has(OVER_IO_URING));
            return Ok(());
        }
        Operation::Lookup { name } if name.starts_with(b"no") => {
            ReplyHead::error(unique, Errno::NOENT)
        }
        Operation::Lookup { .. } => ReplyHead::entry(unique, &entry()),
        Operation::Getattr { .. } | Operation::Setattr(_) => {
            ReplyHead::attr(unique, &attr(node), Duration::ZERO)
        }
        Operation::Open { .. } => ReplyHead::open(unique, FileHandle(2), fopen::DIRECT_IO),
        Operation::Opendir { .. } => ReplyHead::open(unique, FileHandle(1), 0),
        Operation::Create { .. } => {
            ReplyHead::create(unique, &entry(), FileHandle(2), fopen::DIRECT_IO)
        }
        Operation::Read(read) => {
            let len_bytes = read.len_bytes;
            drop(incoming);
            return send_zeros(transport, ring, zeros, unique, len_bytes);
        }
        Operation::Write(write) => ReplyHead::write(unique, u32::try_from(write.data.len())?),
        Operation::Statfs => {
            ReplyHead::statfs(unique, &Kstatfs { bsize: 4096, ..Kstatfs::default() })
        }
        Operation::Readdir(_) | Operation::Readdirplus(_) => ReplyHead::data(unique, 0),
        _ => ReplyHead::empty(unique),
    };
    let reply = Reply::new(transport.spare(), &head);
    transport.reply(ring, reply);
    Ok(())
}

/// From lent memory as a socket would have filled it, else from the slot of zeros.
fn send_zeros(
    transport: &mut dyn Transport,
    ring: &mut Ring,
    zeros: &SharedSlot,
    unique: Unique,
    len_bytes: u32,
) -> Result<(), Failure> {
    let lent: Option<BufSlot> = transport.lend(unique);
    let spare: SendData = transport.spare();
    let mut reply = Reply::new(spare, &ReplyHead::data(unique, len_bytes));
    let slot = lent.map_or_else(|| zeros.clone(), BufSlot::share);
    let pushed = reply.payload().push_shared(slot, 0..usize::try_from(len_bytes)?);
    pushed.map_err(|_| "a read is at most 1 MiB")?;
    transport.reply(ring, reply);
    Ok(())
}

fn attr(node: u64) -> Attr {
    let mode = if node == 1 { 0o040_777 } else { 0o100_666 };
    Attr { ino: node, size: FILE_BYTES, mode, nlink: 1, ..Attr::default() }
}

fn entry() -> Entry {
    Entry {
        node: NodeId(2),
        generation: 0,
        attr: attr(2),
        attr_timeout: Duration::ZERO,
        entry_timeout: Duration::ZERO,
    }
}
