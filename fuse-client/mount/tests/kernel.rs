//! The layer against the real kernel: a tiny read-only tree is mounted and read with `std::fs`, with each transport.
//! Needs root and /dev/fuse, and the ring Linux 6.14; says so and passes otherwise. The tree lives only here.

#![allow(clippy::unwrap_used, reason = "test code: a failed unwrap is a failed test")]

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::MountFlags;
use weft_iobuf::{BufSlot, Pool};
use weft_mount::abi::flags::init::OVER_IO_URING;
use weft_mount::abi::output::{Attr, Kstatfs};
use weft_mount::kernel_mount::{self, KernelMount, Kind, MountConfig};
use weft_mount::negotiate::{Features, Limits, Negotiated, negotiate};
use weft_mount::reply::{DirBuffer, DirEntry, Entry, ReplyHead};
use weft_mount::request::{FileHandle, NodeId, Operation, Read, Request, Write};
use weft_mount::transport::{
    Classic, ClassicConfig, Event, Incoming, Reply, Transport, Uring, UringConfig, offer,
};
use weft_ring::{Ring, RingConfig, SendData};

const TOKEN: u64 = 7;
/// Few, so that they are all in use at times.
const DEPTH: u32 = 2;
const TTL: Duration = Duration::from_secs(1);
const HELLO: &[u8] = b"hello from the test\n";
const BIG_BYTES: u64 = 5 << 20;
const FILES: u64 = 300;

/// Node 1 is the root, 2 "hello", 3 "big", 4 "sink" (takes writes), 10.. "file-NNN".
struct Tree {
    limits: Limits,
    features: Option<Features>,
    pool: Pool,
    sink: Sink,
}

/// Of the writes to "sink": how many, their highest end, and whether the data of each was right and
/// page-aligned in memory.
type Sink = (u64, u64, bool);

fn big_byte(offset: u64) -> u8 {
    u8::try_from(offset / 7 % 251).unwrap()
}

fn attr(node: u64, sink_bytes: u64) -> Option<Attr> {
    let (mode, size) = match node {
        1 => (0o040_755, 4096),
        2 => (0o100_644, HELLO.len().try_into().unwrap()),
        3 => (0o100_644, BIG_BYTES),
        4 => (0o100_666, sink_bytes),
        10.. if node < 10 + FILES => (0o100_600, node),
        _ => return None,
    };
    let (mtime, mtimensec) = (1_700_000_000, 123_456_789);
    let blocks = size / 512;
    Some(Attr { ino: node, size, blocks, mode, nlink: 1, mtime, mtimensec, ..Attr::default() })
}

fn node_of(name: &[u8]) -> Option<u64> {
    match name {
        b"hello" => Some(2),
        b"big" => Some(3),
        b"sink" => Some(4),
        _ => {
            let number = std::str::from_utf8(name).ok()?.strip_prefix("file-")?.parse::<u64>();
            number.ok().filter(|&number| number < FILES).map(|number| 10 + number)
        }
    }
}

fn names() -> Vec<(u64, String)> {
    let mut names = vec![(1, ".".into()), (1, "..".into()), (2, "hello".into()), (3, "big".into())];
    names.extend((0..FILES).map(|number| (10 + number, format!("file-{number:03}"))));
    names
}

impl Tree {
    fn entry(&self, node: u64) -> Entry {
        let attr = attr(node, self.sink.1).unwrap();
        Entry { node: NodeId(node), generation: 0, attr, attr_timeout: TTL, entry_timeout: TTL }
    }

    /// The reply to one request, `None` where the kernel waits for none.
    fn answer(
        &mut self,
        incoming: Incoming,
        spare: SendData,
        lent: Option<BufSlot>,
    ) -> Option<Reply> {
        let request = match incoming.decode() {
            Ok(request) => request,
            Err(error) => panic!("the kernel sent what we do not understand: {error}"),
        };
        let Request { unique, node: NodeId(node), .. } = request;
        let head = match &request.op {
            Operation::Forget { .. } | Operation::BatchForget(_) | Operation::Interrupt { .. } => {
                return None;
            }
            Operation::Init(init) => {
                let Negotiated::Agreed(out, features) = negotiate(init, &self.limits) else {
                    panic!("{init:?}")
                };
                self.features = Some(features);
                ReplyHead::init(unique, &out)
            }
            Operation::Lookup { name } => match node_of(name) {
                Some(node) => ReplyHead::entry(unique, &self.entry(node)),
                None => ReplyHead::error(unique, Errno::NOENT),
            },
            Operation::Getattr { .. } | Operation::Setattr(_) => {
                ReplyHead::attr(unique, &attr(node, self.sink.1).unwrap(), TTL)
            }
            Operation::Open { .. } | Operation::Opendir { .. } => {
                ReplyHead::open(unique, FileHandle(node), 0)
            }
            Operation::Read(read) => return Some(self.read(&request, *read, spare, lent)),
            Operation::Readdir(read) => return Some(self.list(&request, *read, false, spare)),
            Operation::Readdirplus(read) => return Some(self.list(&request, *read, true, spare)),
            Operation::Write(write) => {
                let write = write.clone();
                let written_bytes = self.write(&write, incoming);
                ReplyHead::write(unique, written_bytes)
            }
            Operation::Statfs => {
                let statfs = Kstatfs {
                    blocks: 1000,
                    bfree: 10,
                    bavail: 10,
                    bsize: 4096,
                    frsize: 4096,
                    namelen: 255,
                    ..Kstatfs::default()
                };
                ReplyHead::statfs(unique, &statfs)
            }
            Operation::Getxattr { name, len_bytes: 0 } if *name == b"user.weft" => {
                ReplyHead::xattr_len(unique, 5)
            }
            Operation::Getxattr { name, .. } if *name == b"user.weft" => {
                let mut reply = Reply::new(spare, &ReplyHead::data(unique, 5));
                reply.payload().push_bytes(b"value");
                return Some(reply);
            }
            Operation::Getxattr { .. } => ReplyHead::error(unique, Errno::NODATA),
            Operation::Setxattr { name, value, .. } => {
                let right = (0..).zip(value.iter()).all(|(at, &byte)| byte == big_byte(at));
                match *name == b"user.long" && right {
                    true => ReplyHead::empty(unique),
                    false => ReplyHead::error(unique, Errno::IO),
                }
            }
            Operation::Flush { .. }
            | Operation::Release(_)
            | Operation::Releasedir(_)
            | Operation::Fsync { .. }
            | Operation::Destroy => ReplyHead::empty(unique),
            _ => ReplyHead::error(unique, Errno::NOSYS),
        };
        Some(Reply::new(spare, &head))
    }

    fn write(&mut self, write: &Write, incoming: Incoming) -> u32 {
        let (slot, start) = incoming.into_slot().unwrap();
        let data = start + write.data.start..start + write.data.end;
        let aligned = data.start.is_multiple_of(4096);
        let right = (write.offset..)
            .zip(&slot.as_slice()[data.clone()])
            .all(|(offset, &byte)| byte == big_byte(offset));
        let len = u32::try_from(data.len()).unwrap();
        let end = write.offset + u64::from(len);
        self.sink = (self.sink.0 + 1, self.sink.1.max(end), self.sink.2 && aligned && right);
        len
    }

    /// From lent memory where there is some, but for one read in three: there only the second half.
    fn read(
        &self,
        request: &Request<'_>,
        read: Read,
        spare: SendData,
        lent: Option<BufSlot>,
    ) -> Reply {
        assert_eq!(read.fh, FileHandle(request.node.0));
        if request.node.0 == 2 {
            let at = usize::try_from(read.offset).unwrap().min(HELLO.len());
            let data = &HELLO[at..];
            let head = ReplyHead::data(request.unique, data.len().try_into().unwrap());
            let mut reply = Reply::new(spare, &head);
            reply.payload().push_bytes(data);
            return reply;
        }
        let end = BIG_BYTES.min(read.offset + u64::from(read.len_bytes));
        let len = usize::try_from(end.saturating_sub(read.offset)).unwrap();
        let own = || self.pool.alloc(len.max(1)).expect("the test's pool is large enough");
        let mut slot = lent.unwrap_or_else(own);
        for (offset, byte) in (read.offset..).zip(&mut slot.as_mut_slice()[..len]) {
            *byte = big_byte(offset);
        }
        let head = ReplyHead::data(request.unique, len.try_into().unwrap());
        let mut reply = Reply::new(spare, &head);
        if (read.offset / 4096).is_multiple_of(3) {
            let half = len / 2;
            reply.payload().push_bytes(&slot.as_slice()[..half]);
            reply.payload().push_slot(slot, half..len).unwrap();
        } else {
            reply.payload().push_slot(slot, 0..len).unwrap();
        }
        reply
    }

    fn list(&self, request: &Request<'_>, read: Read, plus: bool, spare: SendData) -> Reply {
        let mut out = vec![0; read.len_bytes.try_into().unwrap()];
        let mut buffer = DirBuffer::new(&mut out);
        for (at, (node, name)) in names().iter().enumerate().skip(read.offset.try_into().unwrap()) {
            let entry = DirEntry {
                ino: *node,
                next_offset: (at + 1).try_into().unwrap(),
                mode: attr(*node, 0).unwrap().mode,
                name: name.as_bytes(),
            };
            let known = (!name.starts_with('.')).then(|| self.entry(*node));
            let fits =
                if plus { buffer.push_plus(&entry, known.as_ref()) } else { buffer.push(&entry) };
            if !fits {
                break;
            }
        }
        let len = buffer.len_bytes();
        out.truncate(len);
        let mut reply =
            Reply::new(spare, &ReplyHead::data(request.unique, len.try_into().unwrap()));
        reply.payload().push_vec(out);
        reply
    }
}

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Classic,
    /// With so many CPUs.
    Uring(u16),
}

/// The ways this kernel has.
fn ways() -> Vec<Way> {
    match offer::ask() {
        Ok(offer) => vec![Way::Classic, Way::Uring(offer.queue_count)],
        Err(error) => {
            println!("skipped over io_uring: {error}");
            vec![Way::Classic]
        }
    }
}

fn transport(
    ring: &mut Ring,
    device: std::os::fd::OwnedFd,
    pool: &Pool,
    way: Way,
    max_write_bytes: u32,
) -> Box<dyn Transport> {
    let config = ClassicConfig { token: TOKEN, max_write_bytes };
    let classic = Classic::new(ring, device, pool.clone(), config).unwrap();
    let Way::Uring(queue_count) = way else { return Box::new(classic) };
    let first_token = TOKEN + 1;
    let config = UringConfig { first_token, queue_count, depth: DEPTH, max_write_bytes };
    Box::new(Uring::new(classic, pool.clone(), &config.fitted()).unwrap())
}

/// Serves until the file system is unmounted.
fn serve(device: std::os::fd::OwnedFd, way: Way, max_write_bytes: u32) -> Tree {
    let pool = Pool::new(64 << 20, 2 << 20).unwrap();
    let sqe128 = way != Way::Classic;
    let mut ring = Ring::new(RingConfig { sqe128, ..RingConfig::default() }).unwrap();
    let mut transport = transport(&mut ring, device, &pool, way, max_write_bytes);
    let limits = Limits { max_write_bytes, over_io_uring: sqe128, ..Limits::default() };
    let mut tree = Tree { limits, features: None, pool, sink: (0, 0, true) };
    let mut agreed = false;
    loop {
        transport.pump(&mut ring);
        ring.wait(Some(Duration::from_secs(60))).unwrap();
        while let Some(completion) = ring.next_completion() {
            transport.on_completion(completion);
        }
        loop {
            match transport.next(&ring) {
                Event::Request(incoming) => {
                    let lent = match incoming.decode() {
                        Ok(Request { unique, op: Operation::Read(_), .. }) => {
                            transport.lend(unique)
                        }
                        _ => None,
                    };
                    if let Some(reply) = tree.answer(incoming, transport.spare(), lent) {
                        transport.reply(&mut ring, reply);
                    }
                }
                Event::Nothing => break,
                Event::Unmounted => return tree,
                event => panic!("{event:?}"),
            }
        }
        if let Some(features) = tree.features.filter(|_| !agreed) {
            agreed = true;
            transport.agreed(&mut ring, features.has(OVER_IO_URING));
            let name = if sqe128 { "uring" } else { "classic" };
            assert_eq!(transport.state(), Ok(name));
        }
    }
}

type Served = (Option<Features>, Sink);

struct Mounted {
    dir: tempfile::TempDir,
    read_ahead: PathBuf,
    server: Option<JoinHandle<Served>>,
}

impl Mounted {
    fn new(flags: MountFlags, way: Way) -> Option<Self> {
        Self::with(flags, way, Limits::default().max_write_bytes)
    }

    fn with(flags: MountFlags, way: Way, max_write_bytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = match KernelMount::new(&config(dir.path(), flags)) {
            Ok(mount) => mount,
            Err(error) if matches!(error.kind, Kind::NoFuse | Kind::NotPermitted) => {
                println!("skipped: {error}");
                return None;
            }
            Err(error) => panic!("{error} ({:?})", error.source),
        };
        mount.set_read_ahead(4096).unwrap();
        let read_ahead = mount.read_ahead_path();
        let (device, _) = mount.into_parts();
        #[allow(clippy::disallowed_methods, reason = "the ring stays on the thread that made it")]
        let server = std::thread::spawn(move || {
            let tree = serve(device, way, max_write_bytes);
            (tree.features, tree.sink)
        });
        Some(Self { dir, read_ahead, server: Some(server) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn unmount(mut self) -> (Features, Sink) {
        kernel_mount::unmount(self.dir.path()).unwrap();
        let (features, sink) = self.server.take().unwrap().join().unwrap();
        (features.unwrap(), sink)
    }
}

impl Drop for Mounted {
    /// A failed test must not leave a mount.
    fn drop(&mut self) {
        if self.server.is_some() {
            drop(kernel_mount::unmount(self.dir.path()));
        }
    }
}

fn config(mount_point: &Path, flags: MountFlags) -> MountConfig {
    MountConfig {
        source: "[::1]:7811:/".to_owned(),
        mount_point: mount_point.to_owned(),
        flags,
        max_read_bytes: 1 << 20,
    }
}

#[test]
fn a_tree_is_mounted_listed_and_read() {
    ways().into_iter().for_each(read_a_tree);
}

fn read_a_tree(way: Way) {
    let Some(mounted) = Mounted::new(MountFlags::RDONLY | MountFlags::NOSUID, way) else { return };
    assert_eq!(fs::read(mounted.path("hello")).unwrap(), HELLO);
    let metadata = fs::metadata(mounted.path("hello")).unwrap();
    assert_eq!(
        (metadata.ino(), metadata.mode(), metadata.mtime_nsec()),
        (2, 0o100_644, 123_456_789)
    );
    let missing = fs::read(mounted.path("nothing")).unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);

    let mut listed: Vec<_> = fs::read_dir(mounted.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.metadata().unwrap().ino(), entry.file_name().into_string().unwrap()))
        .collect();
    listed.sort();
    assert_eq!(listed, names()[2..]);

    let mut value = [0; 16];
    let len = rustix::fs::getxattr(mounted.path("hello"), "user.weft", &mut value).unwrap();
    assert_eq!(&value[..len], b"value");
    let statfs = rustix::fs::statfs(mounted.dir.path()).unwrap();
    assert_eq!((statfs.f_blocks, statfs.f_bsize), (1000, 4096));
    let unknown = rustix::fs::removexattr(mounted.path("hello"), "user.weft").unwrap_err();
    assert_eq!(unknown, Errno::ROFS);

    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(mounted.dir.path().to_str().unwrap()));
    let line = line.unwrap();
    assert!(line.starts_with("[::1]:7811:/ "), "{line}");
    assert!(line.contains(" fuse.weft ro,nosuid"), "{line}");
    assert!(line.contains("default_permissions,allow_other,max_read=1048576"), "{line}");
    assert_eq!(fs::read_to_string(&mounted.read_ahead).unwrap(), "4096\n");

    let again = KernelMount::new(&config(mounted.dir.path(), MountFlags::empty())).unwrap_err();
    assert_eq!(again.kind, Kind::Busy);
    assert!(again.to_string().contains("a Weft file system is mounted"), "{again}");

    let path = mounted.path("hello");
    let (features, _) = mounted.unmount();
    assert!(!path.exists());
    assert_eq!(features.max_write_bytes, 1 << 20);
    println!("agreed on 7.{} with flags {:#x}", features.minor, features.flags);
}

#[test]
fn large_reads_cached_and_direct_are_the_same_bytes() {
    ways().into_iter().for_each(read_a_large_file);
}

fn read_a_large_file(way: Way) {
    let Some(mounted) = Mounted::new(MountFlags::empty(), way) else { return };
    let expected: Vec<u8> = (0..BIG_BYTES).map(big_byte).collect();
    assert!(fs::read(mounted.path("big")).unwrap() == expected);
    let direct = 0o40000;
    let mut file =
        fs::File::options().read(true).custom_flags(direct).open(mounted.path("big")).unwrap();
    file.seek(SeekFrom::Start(3 << 20)).unwrap();
    let mut got = vec![0; 2 << 20];
    file.read_exact(&mut got).unwrap();
    assert!(got == expected[3 << 20..]);
    drop(file);
    mounted.unmount();
}

#[test]
fn writes_arrive_whole_and_page_aligned() {
    ways().into_iter().for_each(write_a_file);
}

fn write_a_file(way: Way) {
    let Some(mounted) = Mounted::new(MountFlags::empty(), way) else { return };
    let data: Vec<u8> = (0..3 << 20).map(big_byte).collect();
    let file = fs::File::options().write(true).open(mounted.path("sink")).unwrap();
    let written = rustix::io::write(&file, &data).unwrap();
    assert_eq!(written, data.len());
    drop(file);
    let (_, (requests, end, right)) = mounted.unmount();
    assert_eq!((requests, end, right), (3, 3 << 20, true), "1 MiB each");
}

#[test]
fn the_longest_value_goes_through_the_shortest_requests() {
    for way in ways() {
        let Some(mounted) = Mounted::with(MountFlags::empty(), way, 4096) else { return };
        let value: Vec<u8> = (0..65_536).map(big_byte).collect();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(mounted.path("hello"), "user.long", &value, flags).unwrap();
        let data: Vec<u8> = (0..64 << 10).map(big_byte).collect();
        fs::File::options()
            .write(true)
            .open(mounted.path("sink"))
            .unwrap()
            .write_all(&data)
            .unwrap();
        let (_, (requests, end, right)) = mounted.unmount();
        assert_eq!((requests, end, right), (16, 64 << 10, true), "4 KiB each, {way:?}");
    }
}

#[test]
fn more_readers_than_entries_all_get_their_bytes() {
    for way in ways() {
        let Some(mounted) = Mounted::new(MountFlags::empty(), way) else { return };
        let path = mounted.path("big");
        let expected: Vec<u8> = (0..BIG_BYTES).map(big_byte).collect();
        std::thread::scope(|scope| {
            for reader in 0..8u64 {
                let (path, expected) = (&path, &expected);
                scope.spawn(move || {
                    let direct = 0o40000;
                    let mut options = fs::File::options();
                    let file = options.read(true).custom_flags(direct).open(path).unwrap();
                    let mut got = vec![0; 64 << 10];
                    for round in 0..40 {
                        let at = (reader * 7 + round * 3) % 80 * (64 << 10);
                        rustix::io::pread(&file, &mut got, at).unwrap();
                        let from = usize::try_from(at).unwrap();
                        assert!(got == expected[from..from + got.len()], "{reader} {round}");
                    }
                });
            }
        });
        mounted.unmount();
    }
}

#[test]
fn a_dead_mount_says_how_to_clear_it() {
    let dir = tempfile::tempdir().unwrap();
    match KernelMount::new(&config(dir.path(), MountFlags::empty())) {
        Ok(mount) => drop(mount), // closes the device: the connection is dead, the mount stays
        Err(error) if matches!(error.kind, Kind::NoFuse | Kind::NotPermitted) => {
            println!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    }
    let error = KernelMount::new(&config(dir.path(), MountFlags::empty())).unwrap_err();
    kernel_mount::unmount(dir.path()).unwrap();
    assert_eq!(error.kind, Kind::DeadMount);
    assert!(error.to_string().contains("umount -l"), "{error}");
}
