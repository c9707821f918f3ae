//! Random programs, each with its own file, against a model in memory, while everything goes wrong around them.

use weft_wire::units::{to_u64, to_usize};

use super::world::{Faults, Random, World, config};
use super::*;

const FILE_BYTES_MAX: u64 = 300_000;
/// Of files whose data is in the inode.
const SMALL_BYTES_MAX: u64 = 4096;

/// One program: it waits for each operation before the next.
struct Program {
    random: Random,
    file_bytes_max: u64,
    ino: Ino,
    handle: Handle,
    model: Vec<u8>,
    /// Another file, which takes its turns with this one, and the bytes of which are copied here.
    other: (Ino, Handle, Vec<u8>),
    doing: Doing,
    steps_left: u32,
    /// A server may lose what was not synced: it is there again later.
    servers_forget: bool,
    /// Interrupted with one chance in so many, each step, while nothing is being changed.
    interrupts: u64,
}

enum Doing {
    Nothing,
    Asked(OpId, Check),
}

/// What the answer must be.
enum Check {
    Done,
    Written(u32),
    Zeroed,
    /// So many bytes from there, here.
    Copied {
        bytes: u64,
        from: u64,
        to: u64,
        other: bool,
    },
    Read(Vec<u8>),
    Size(u64),
    Cut(u64),
    Closing {
        whole: bool,
    },
    Closed,
    Opened,
}

impl Check {
    /// Whether nothing is different when the operation does not happen, or happens and nobody hears of it.
    fn may_be_interrupted(&self) -> bool {
        matches!(self, Check::Done | Check::Read(_) | Check::Size(_) | Check::Closing { .. })
    }
}

impl Program {
    fn next(&mut self, world: &mut World) -> Doing {
        self.steps_left -= 1;
        let handle = self.handle;
        let size = to_u64(self.model.len());
        let (op, check) = match self.random.below(26) {
            0..=8 => return self.next_write(world),
            9..=13 => {
                let offset = self.random.below(size + 5000);
                let bytes = self.random.below(100_000);
                let found = self.model.iter().skip(to_usize(offset)).take(to_usize(bytes)).copied();
                let check = Check::Read(found.collect());
                let bytes = u32::try_from(bytes).unwrap();
                let into = world.place_for(bytes);
                (FsOp::Read { handle, offset, bytes, into }, check)
            }
            14 => (FsOp::Flush { handle }, Check::Done),
            15 => (settled(handle), Check::Done),
            16 => {
                let size = self.random.below(self.file_bytes_max);
                self.model.resize(to_usize(size), 0);
                let set = SetAttr { size: Some(size), ..SetAttr::default() };
                (FsOp::SetAttr { ino: self.ino, set, handle: None }, Check::Cut(size))
            }
            17 | 18 => (FsOp::GetAttr { ino: self.ino, handle: None }, Check::Size(size)),
            19 | 20 => return self.next_zero(world),
            21..=23 => return self.next_copy(world),
            24 => {
                let own = (self.ino, self.handle, std::mem::take(&mut self.model));
                let (ino, handle, model) = std::mem::replace(&mut self.other, own);
                (self.ino, self.handle, self.model) = (ino, handle, model);
                return Doing::Nothing;
            }
            _ if self.random.one_in(2) => (settled(handle), Check::Closing { whole: true }),
            _ => (FsOp::Flush { handle }, Check::Closing { whole: false }),
        };
        Doing::Asked(world.ask(op), check)
    }

    /// A range becomes zeros, a hole, or space given out; the file may become longer by it.
    fn next_zero(&mut self, world: &mut World) -> Doing {
        let offset = self.random.below(self.file_bytes_max);
        let bytes = 1 + self.random.below(self.file_bytes_max - offset);
        let mode = [0x00, 0x10, 0x03, 0x11][to_usize(self.random.below(4))];
        let (start, end) = (to_usize(offset), to_usize(offset + bytes));
        if mode & 1 == 0 && self.model.len() < end {
            self.model.resize(end, 0);
        }
        if mode != 0 {
            let there = self.model.len();
            self.model[start.min(there)..end.min(there)].fill(0);
        }
        let op = FsOp::Fallocate { handle: self.handle, offset, bytes, mode };
        Doing::Asked(world.ask(op), Check::Zeroed)
    }

    /// Bytes of the other file, or of this one, are copied.
    fn next_copy(&mut self, world: &mut World) -> Doing {
        let other = !self.random.one_in(4);
        let size = to_u64(if other { self.other.2.len() } else { self.model.len() });
        let (mut from, mut to) =
            (self.random.below(size + 5000), self.random.below(self.file_bytes_max));
        if self.random.one_in(3) {
            (from, to) = (from / 4096 * 4096, to / 4096 * 4096);
        }
        let mut asked = 1 + self.random.below(self.file_bytes_max - to);
        if !other {
            asked = asked.min(from.abs_diff(to)).max(1);
        }
        let bytes = asked.min(size.saturating_sub(from));
        if !other && from == to {
            return Doing::Nothing;
        }
        let source = if other { self.other.1 } else { self.handle };
        let op = FsOp::Copy { source, from, handle: self.handle, to, bytes: asked, set_ids: true };
        Doing::Asked(world.ask(op), Check::Copied { bytes, from, to, other })
    }

    fn copied(&mut self, bytes: u64, from: u64, to: u64, other: bool) {
        let source = if other { &self.other.2 } else { &self.model };
        let found = source[to_usize(from)..to_usize(from + bytes)].to_vec();
        let end = to_usize(to) + found.len();
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model[to_usize(to)..end].copy_from_slice(&found);
    }

    fn next_write(&mut self, world: &mut World) -> Doing {
        let long = self.random.one_in(4);
        let short = self.file_bytes_max / 50;
        let bytes = self.random.below(if long { self.file_bytes_max / 2 } else { short });
        let offset = match self.random.below(3) {
            0 => to_u64(self.model.len()),
            1 => self.random.below(self.file_bytes_max),
            _ => self.random.below(self.file_bytes_max) / 4096 * 4096,
        };
        let offset = offset.min(self.file_bytes_max);
        let bytes =
            bytes.min(self.file_bytes_max.saturating_sub(offset).max(self.file_bytes_max / 100));
        let seed = u8::try_from(self.random.below(256)).unwrap();
        let data = pattern(seed, to_usize(bytes));
        let (start, end) = (to_usize(offset), to_usize(offset) + data.len());
        if self.model.len() < end && !data.is_empty() {
            self.model.resize(end, 0);
        }
        if !data.is_empty() {
            self.model[start..end].copy_from_slice(&data);
        }
        let direct = self.random.one_in(4);
        let op = write(&world.pool, self.handle, offset, &data, direct);
        Doing::Asked(world.ask(op), Check::Written(u32::try_from(bytes).unwrap()))
    }

    fn go_on(&mut self, world: &mut World) {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Nothing if self.steps_left > 0 => self.doing = self.next(world),
            Doing::Nothing => {}
            Doing::Asked(id, check) => match world.replies.remove(&id) {
                Some(Err(EINTR)) if self.interrupts > 0 => assert!(check.may_be_interrupted()),
                Some(result) => self.check(world, check, result),
                None => {
                    if check.may_be_interrupted() && self.random.one_in(self.interrupts) {
                        world.core.interrupt(id, world.now);
                        world.drain();
                    }
                    self.doing = Doing::Asked(id, check);
                }
            },
        }
    }

    fn check(&mut self, world: &mut World, check: Check, result: Result<FsReply, i32>) {
        if let (Check::Copied { bytes, other, .. }, Err(EOPNOTSUPP)) = (&check, &result) {
            let ino = if *other { self.other.0 } else { self.ino };
            let small = world.fake.inodes[&ino].inline.is_some();
            return assert!(small && *bytes > 0, "only data in an inode is not copied");
        }
        let reply = result.unwrap_or_else(|code| panic!("no operation may fail: errno {code}"));
        match (check, reply) {
            (Check::Done | Check::Zeroed, FsReply::Done) => {}
            (Check::Written(bytes), FsReply::Written(count)) => assert_eq!(count, bytes),
            (Check::Copied { bytes, from, to, other }, FsReply::Copied(count)) => {
                assert_eq!(count, bytes);
                if count > 0 {
                    self.copied(bytes, from, to, other);
                }
            }
            (Check::Read(expected), FsReply::Data(pieces)) => {
                let found = flat(&pieces);
                assert_eq!(found.len(), expected.len());
                let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
                assert_eq!(differs, None, "a wrong byte of {}", expected.len());
            }
            (Check::Size(size) | Check::Cut(size), FsReply::Attr(attr, _)) => {
                assert_eq!(attr.size, size)
            }
            (Check::Closing { whole }, FsReply::Done) => {
                let whole =
                    !whole || self.servers_forget || world.fake.content(self.ino) == self.model;
                assert!(whole, "a closed file is whole");
                let id = world.ask(FsOp::Release { handle: self.handle });
                self.doing = Doing::Asked(id, Check::Closed);
            }
            (Check::Closed, FsReply::Done) => {
                let flags = OpenFlags { write: true, ..OpenFlags::default() };
                let id = world.ask(FsOp::Open { ino: self.ino, flags });
                self.doing = Doing::Asked(id, Check::Opened);
            }
            (Check::Opened, FsReply::Opened(opened)) => self.handle = opened.handle,
            (_, other) => panic!("the wrong reply: {other:?}"),
        }
    }
}

fn run_programs(seed: u64, faults: Faults, config: ClientConfig) {
    run_interrupted(seed, faults, config, 0);
}

fn run_interrupted(seed: u64, faults: Faults, config: ClientConfig, interrupts: u64) {
    let config = ClientConfig { copy_bytes_min: 1, ..config };
    println!("seed {seed}");
    // Files that stay small, those that grow, and no small ones.
    let (mut world, file_bytes_max) = match seed % 5 {
        0 => (World::ready(config, seed), FILE_BYTES_MAX),
        1 => (World::inlining(config, seed), SMALL_BYTES_MAX),
        2 => (World::inlining(config, seed), 2 * SMALL_BYTES_MAX),
        3 => (World::freshening(config, seed), SMALL_BYTES_MAX),
        _ => (World::freshening(config, seed), 2 * SMALL_BYTES_MAX),
    };
    let mut programs: Vec<Program> = (0..3)
        .map(|at| {
            let (ino, handle) = world.create(&[b'a' + at]);
            let (other_ino, other_handle) = world.create(&[b'A' + at]);
            Program {
                random: Random(seed * 31 + u64::from(at)),
                file_bytes_max,
                ino,
                handle,
                model: vec![],
                other: (other_ino, other_handle, vec![]),
                doing: Doing::Nothing,
                steps_left: 60,
                servers_forget: faults.crash > 0,
                interrupts,
            }
        })
        .collect();
    world.faults = faults;
    let mut steps = 0;
    while programs.iter().any(|p| p.steps_left > 0 || !matches!(p.doing, Doing::Nothing)) {
        programs.iter_mut().for_each(|program| program.go_on(&mut world));
        world.step();
        steps += 1;
        assert!(steps < 400_000, "seed {seed}: it hangs");
    }
    for program in programs {
        for (ino, handle, model) in [(program.ino, program.handle, program.model), program.other] {
            world.done(settled(handle)).unwrap();
            assert!(world.fake.content(ino) == model, "seed {seed}: content");
            world.done(FsOp::Release { handle }).unwrap();
        }
    }
    world.faults = Faults::default();
    world.rest(ms(3000));
    assert!(world.core.files.is_empty() && world.core.calls.is_empty(), "seed {seed}: at rest");
    assert_eq!((world.core.dirty_bytes, world.core.unsynced_bytes), (0, 0));
    assert!(world.core.file_timers.is_empty() && world.core.handles.is_empty());
    drop(world.replies);
    let pool = world.pool.clone();
    drop((world.core, world.fake));
    assert_eq!(pool.free_bytes(), pool.capacity_bytes(), "seed {seed}: every slot came back");
}

/// The seeds of a test: so many as given, or `WEFT_SEEDS` times as many.
fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let times = std::env::var("WEFT_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1u64);
    first * 1_000_000..first * 1_000_000 + count * times
}

#[test]
fn all_is_well() {
    seeds(0, 15).for_each(|seed| run_programs(seed, Faults::default(), config()));
}

#[test]
fn replies_out_of_order_and_busy_servers() {
    let faults = Faults { busy: 4, reorder: true, ..Faults::default() };
    seeds(1, 25).for_each(|seed| run_programs(seed, faults, config()));
}

#[test]
fn connections_break() {
    let faults = Faults { busy: 10, disconnect: 30, reorder: true, ..Faults::default() };
    seeds(2, 25).for_each(|seed| run_programs(seed, faults, config()));
}

#[test]
fn servers_crash_and_forget() {
    let faults = Faults { busy: 10, disconnect: 100, crash: 60, reorder: true };
    seeds(3, 30).for_each(|seed| run_programs(seed, faults, config()));
}

#[test]
fn operations_are_interrupted() {
    let faults = Faults { busy: 5, disconnect: 30, crash: 80, reorder: true };
    seeds(5, 20).for_each(|seed| run_interrupted(seed, faults, config(), 10));
}

#[test]
fn little_memory() {
    let faults = Faults { busy: 10, disconnect: 100, crash: 0, reorder: true };
    let tight = ClientConfig {
        dirty_bytes_max: 100_000,
        dirty_file_bytes_max: 50_000,
        unsynced_bytes_max: 100_000,
        ..config()
    };
    seeds(4, 15).for_each(|seed| run_programs(seed, faults, tight.clone()));
}
