//! Random clients against the model: changes in several slots at once, replies lost in crashes, torn log writes,
//! replays. Each seed is one history; a failure names it.

use std::collections::BTreeSet;

use super::model::{INLINE_MAX, Model};
use super::*;
use crate::log::parse_batch;
use weft_wire::layout::LayoutPolicy;
use weft_wire::meta::{DataWrite, FileKind, MoveStep, RENAME_EXCHANGE, RENAME_NOREPLACE, TimeSet};

const SEED_COUNT: u64 = 24;
const STEP_COUNT: u64 = 1200;
const SLOT_COUNT: u16 = 4;

/// A change that is not answered yet.
#[derive(Clone)]
struct Sent {
    op: u64,
    session: SessionId,
    caller: Caller,
    kind: weft_wire::Kind,
    body: Vec<u8>,
    /// A move tells the data as it is, not what is kept with its outcome: what it told since this was asked. An answer
    /// that waits for work is made before the work is done.
    told: Vec<Vec<u8>>,
}

struct World {
    rig: Rig,
    rng: Rng,
    model: Model,
    sent: Vec<Sent>,
    sequences: BTreeMap<(SessionId, u16), u64>,
    /// What each session knows it has open.
    opens: BTreeMap<(SessionId, Ino), u32>,
    /// Changes whose open is in `opens`.
    opened: BTreeSet<(SessionId, u16, u64)>,
    /// Batches that are durable while one before them is not.
    early: Vec<Append>,
    overtaken_count: u64,
    crash_count: u64,
    replay_count: u64,
}

fn first_of(append: &Append) -> u64 {
    parse_batch(&append.bytes)[0].sequence
}

fn session(number: u64) -> SessionId {
    SessionId([u8::try_from(number).unwrap() + 1; 16])
}

impl World {
    fn new(seed: u64) -> World {
        let checkpoint_commands_max = [1, 7, 50, 100_000][to_usize(seed % 4)];
        let mut rig = Rig::with(VolumeParams { checkpoint_commands_max, ..params() });
        // Checkpoints take their time in three lives of four.
        rig.checkpoints_wait = !(seed / 4).is_multiple_of(4);
        let policy = LayoutPolicy { inline_bytes: INLINE_MAX, ..LayoutPolicy::default() };
        let caller = Caller { uid: 0, gid: 0, slot: 0, sequence: 1 };
        let nobody = SessionId([0xff; 16]);
        rig.submit_as(nobody, caller, &MetaRequest::SetLayout { ino: Ino::ROOT, policy });
        rig.settle();
        rig.volume().session_ended(nobody, false);
        rig.settle();
        rig.replies.clear();
        let root = rig.attr(Ino::ROOT).unwrap();
        let model = Model::new(&rig.params.targets, root);
        World {
            rig,
            rng: Rng(seed),
            model,
            sent: Vec::new(),
            sequences: BTreeMap::new(),
            opens: BTreeMap::new(),
            opened: BTreeSet::new(),
            early: Vec::new(),
            overtaken_count: 0,
            crash_count: 0,
            replay_count: 0,
        }
    }

    fn step(&mut self) {
        self.rig.now.seconds += i64::try_from(self.rng.below(3)).unwrap();
        match self.rng.below(100) {
            0..55 => self.send_change(),
            55..70 => self.read_something(),
            70..80 => self.open_or_release(),
            80..85 => self.finish_work(),
            85..86 => self.crash(),
            86..87 => self.end_session(),
            _ => self.turn(),
        }
        self.take_replies();
    }

    /// One turn of the server's loop.
    fn turn(&mut self) {
        if self.rng.one_in(4) {
            self.rig.volume().tick(Duration::from_secs(self.rng.below(1000)));
        }
        if self.rng.one_in(2) {
            self.rig.flush();
        }
        if self.rng.one_in(2) {
            self.complete();
        }
        if self.rng.one_in(8) {
            self.rig.write_checkpoint();
        }
    }

    /// Any of the writes ends; the model follows when all before it have.
    fn complete(&mut self) {
        let count = to_u64(self.rig.appends.len());
        if count == 0 {
            return;
        }
        let nth = to_usize(self.rng.below(count));
        self.early.extend(self.rig.appends.get(nth).cloned());
        self.overtaken_count += u64::from(nth > 0);
        let (first, second) = (self.rig.appends.front(), self.rig.appends.get(1));
        let waits_for = if nth > 0 { first } else { second }.map(first_of);
        let mut early = std::mem::take(&mut self.early);
        early.sort_by_key(first_of);
        for append in early {
            match waits_for {
                Some(first) if first < first_of(&append) => self.early.push(append),
                _ => self.durable(&append),
            }
        }
        self.rig.complete_nth(nth);
    }

    /// The batch is on the device: the model follows.
    fn durable(&mut self, append: &Append) {
        for command in parse_batch(&append.bytes) {
            self.model.apply(&command);
            self.tell_moves();
            if command.kind == crate::log::SESSION_END {
                self.opens.retain(|(session, _), _| *session != command.session);
            }
        }
        for ino in std::mem::take(&mut self.model.dropped) {
            assert!(self.opens.keys().all(|(_, open)| *open != ino), "{ino} is open");
        }
    }

    fn take_replies(&mut self) {
        for (op, (status, body)) in std::mem::take(&mut self.rig.replies) {
            let at = self.sent.iter().position(|sent| sent.op == op).expect("was asked");
            let sent = self.sent.remove(at);
            let key = (sent.session, sent.caller.slot, sent.caller.sequence);
            let Some(outcome) = self.model.outcomes.get(&key) else {
                // The session ended in the same batch; or it was refused.
                assert!(!self.sequences.contains_key(&(key.0, key.1)), "{status:?}");
                continue;
            };
            assert_eq!(status, outcome.status, "{:?}", sent.kind);
            assert!(body == outcome.body || sent.told.contains(&body), "{:?}", sent.kind);
            assert!(!self.model.works.contains_key(&outcome.work), "the shrink is done first");
            // A change answered twice (it was asked twice) opened once.
            if outcome.opened != Ino(0) && self.opened.insert(key) {
                *self.opens.entry((sent.session, outcome.opened)).or_default() += 1;
            }
        }
    }

    /// What moves that are not answered yet are told by the model as it is now.
    fn tell_moves(&mut self) {
        for sent in &mut self.sent {
            let (_, request) = MetaRequest::decode(sent.kind, &sent.body).unwrap();
            let MetaRequest::MoveData { ino, .. } = request else { continue };
            // A file that went is told so by the outcome's own status.
            let Some(node) = self.model.nodes.get(&ino.0) else { continue };
            let mut now = Vec::new();
            MetaReply::Data(node.attr, node.inline(true)).encode(&mut now);
            if sent.told.last() != Some(&now) {
                sent.told.push(now);
            }
        }
    }

    fn send(&mut self, session: SessionId, slot: u16, request: &MetaRequest<'_>) {
        let sequence = self.sequences.entry((session, slot)).or_default();
        *sequence += 1 + u64::from(self.rng.one_in(10));
        let caller = Caller { uid: 5, gid: 6, slot, sequence: *sequence };
        let op = self.rig.submit_as(session, caller, request);
        let mut body = Vec::new();
        request.encode(&caller, &mut body);
        self.sent.push(Sent { op, session, caller, kind: request.kind(), body, told: Vec::new() });
        self.tell_moves();
        if self.rng.one_in(20) {
            self.resend(self.sent.len() - 1);
        }
    }

    /// Asks again what is not answered yet; the answer to either will do, so both are expected.
    fn resend(&mut self, at: usize) {
        let sent = self.sent[at].clone();
        let (caller, request) = MetaRequest::decode(sent.kind, &sent.body).unwrap();
        let op = self.rig.submit_as(sent.session, caller, &request);
        self.sent.push(Sent { op, ..sent });
        self.tell_moves();
    }

    fn any_ino(&mut self) -> Ino {
        let inos: Vec<u64> = self.model.nodes.keys().copied().collect();
        if self.rng.one_in(30) { Ino(self.rng.below(2000) + 1) } else { Ino(*self.rng.pick(&inos)) }
    }

    fn any_dir(&mut self) -> Ino {
        if self.rng.one_in(30) {
            return self.any_ino();
        }
        let is_dir =
            |(_, node): &(&u64, &super::model::Node)| node.attr.kind() == FileKind::Directory;
        let dirs: Vec<u64> = self.model.nodes.iter().filter(is_dir).map(|(i, _)| *i).collect();
        Ino(*self.rng.pick(&dirs))
    }

    fn any_name(&mut self, parent: Ino) -> Vec<u8> {
        let names: Vec<Vec<u8>> =
            self.model.nodes.get(&parent.0).map_or(vec![], |n| n.entries.keys().cloned().collect());
        match names.is_empty() || self.rng.one_in(2) {
            true => format!("n{}", self.rng.below(12)).into_bytes(),
            false => self.rng.pick(&names).clone(),
        }
    }

    fn send_change(&mut self) {
        let (who, slot) = (self.rng.below(3), self.rng.below(u64::from(SLOT_COUNT)));
        let (session, slot) = (session(who), u16::try_from(slot).unwrap());
        let busy = |s: &Sent| s.session == session && s.caller.slot == slot;
        if self.sent.iter().any(busy) {
            return self.turn();
        }
        let (parent, new_parent, ino) = (self.any_dir(), self.any_dir(), self.any_ino());
        let (name, new_name) = (self.any_name(parent), self.any_name(new_parent));
        let (name, new_name) = (&name[..], &new_name[..]);
        let xattr = format!("user.{}", self.rng.below(4));
        let value = vec![7; to_usize(self.rng.below(20))];
        let value = if self.rng.one_in(20) { vec![7; 9000] } else { value };
        let near = if self.rng.one_in(2) { 120 } else { 700_000 };
        let (flags, size) = (self.rng.below(3), self.rng.below(4) * near);
        let written: Vec<u8>;
        let (offset, step) = (self.rng.below(320), self.rng.below(6));
        let request = match self.rng.below(26) {
            0..7 => self.random_make(parent, name),
            7..10 => MetaRequest::Unlink { parent, name },
            10 => MetaRequest::Rmdir { parent, name },
            11..14 => {
                let flags = [0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE][to_usize(self.rng.below(4))];
                MetaRequest::Rename { parent, name, new_parent, new_name, flags }
            }
            14 => MetaRequest::Link { ino, parent, name },
            15 => MetaRequest::SetXattr {
                ino,
                name: xattr.as_bytes(),
                value: &value,
                flags: u32::try_from(flags).unwrap(),
            },
            16 => MetaRequest::RemoveXattr { ino, name: xattr.as_bytes() },
            20..24 => {
                let offset = u32::try_from(if step == 0 { offset } else { offset / 4 }).unwrap();
                let seconds = self.rig.now.seconds - 5 + i64::try_from(flags).unwrap() * 5;
                let mtime = Time { seconds, nanos: 7 };
                let bytes: Vec<u8> =
                    (0..self.rng.below(90)).map(|at| at.to_le_bytes()[0]).collect();
                written = bytes;
                let untouched = self.rng.one_in(2);
                let write = DataWrite::new(ino, offset, &written, mtime);
                MetaRequest::WriteData(DataWrite { untouched, ..write })
            }
            24 | 25 => {
                let step = [MoveStep::Begin, MoveStep::End, MoveStep::Stay][to_usize(step % 3)];
                MetaRequest::MoveData { ino, step }
            }
            17 => MetaRequest::Wrote {
                ino,
                size_min: size,
                mtime: self.rig.now,
                blocks_added: i64::try_from(self.rng.below(9)).unwrap() - 2,
                at_targets: self.rng.one_in(3),
            },
            _ => {
                let set = SetAttr {
                    mode: self.rng.one_in(2).then_some(0o2711),
                    uid: self.rng.one_in(3).then_some(4),
                    gid: self.rng.one_in(3).then_some(4),
                    size: self.rng.one_in(2).then_some(size),
                    atime: self.rng.one_in(3).then_some(TimeSet::Now),
                    mtime: self.rng.one_in(3).then_some(TimeSet::To(Time::default())),
                    ctime: self.rng.one_in(4).then_some(self.rig.now),
                };
                MetaRequest::SetAttr { ino, set }
            }
        };
        self.send(session, slot, &request);
    }

    fn random_make<'a>(&mut self, parent: Ino, name: &'a [u8]) -> MetaRequest<'a> {
        let mode = *self.rng.pick(&[FILE, FILE, FILE, DIR, DIR, 0o120_777, 0o010_600]);
        let open = mode == FILE && self.rng.one_in(3);
        let inline = !self.rng.one_in(4);
        let fresh = self.rng.one_in(2);
        let how =
            MakeHow { mode, umask: 0, rdev: 0, exclusive: self.rng.one_in(2), open, inline, fresh };
        let target: &[u8] = if mode == 0o120_777 { b"over/there" } else { b"" };
        MetaRequest::Make { parent, name, how, target }
    }

    fn ask_now(
        &mut self,
        session: SessionId,
        request: &MetaRequest<'_>,
    ) -> Result<MetaReply, Status> {
        let caller = Caller { uid: 0, gid: 0, slot: NO_SLOT, sequence: 0 };
        let op = self.rig.submit_as(session, caller, request);
        self.rig.answer(op, request)
    }

    fn read_something(&mut self) {
        let ino = self.any_ino();
        let who = session(0);
        let attr = self.ask_now(who, &MetaRequest::GetAttr { ino });
        let Some(node) = self.model.nodes.get(&ino.0).cloned() else {
            assert_eq!(attr, Err(Status::Stale));
            return;
        };
        assert_eq!(attr, Ok(MetaReply::Attr(node.attr)));
        let list: Vec<u8> = node.xattrs.keys().flat_map(|n| [n, &b"\0"[..]].concat()).collect();
        assert_eq!(self.ask_now(who, &MetaRequest::ListXattr { ino }), Ok(MetaReply::Bytes(list)));
        if let Some((name, value)) = node.xattrs.first_key_value() {
            let got = self.ask_now(who, &MetaRequest::GetXattr { ino, name });
            assert_eq!(got, Ok(MetaReply::Bytes(value.clone())));
        }
        let data = self.ask_now(who, &MetaRequest::GetData { ino });
        assert_eq!(data, Ok(MetaReply::Data(node.attr, node.inline(true))));
        match node.attr.kind() {
            FileKind::Directory => self.compare_directory(ino, &node),
            FileKind::Symlink => {
                let got = self.ask_now(who, &MetaRequest::ReadLink { ino });
                assert_eq!(got, Ok(MetaReply::Bytes(node.target)));
            }
            _ => {}
        }
    }

    fn compare_directory(&mut self, ino: Ino, node: &super::model::Node) {
        let (mut names, mut cookie) = (BTreeMap::new(), 0);
        loop {
            let read = MetaRequest::ReadDir { ino, cookie, bytes_max: 600, plus: true };
            let Ok(MetaReply::Dir(list, last)) = self.ask_now(session(0), &read) else { panic!() };
            for entry in MetaReply::dir_entries(&list) {
                let entry = entry.unwrap();
                cookie = entry.cookie;
                assert_eq!(entry.attr, Some(self.model.nodes[&entry.ino.0].attr));
                assert_eq!(entry.kind, entry.attr.unwrap().kind());
                names.insert(entry.name.to_vec(), entry.ino.0);
            }
            if last {
                break;
            }
        }
        assert_eq!(names, node.entries);
        if let Some((name, ino_there)) = node.entries.first_key_value() {
            let got = self.ask_now(session(0), &MetaRequest::Lookup { parent: ino, name });
            assert_eq!(got, Ok(MetaReply::Entry(self.model.nodes[ino_there].attr)));
        }
    }

    fn open_or_release(&mut self) {
        let (who, ino) = (session(self.rng.below(3)), self.any_ino());
        let held: Vec<(SessionId, Ino)> = self.opens.keys().copied().collect();
        if !held.is_empty() && self.rng.one_in(2) {
            let (who, ino) = *self.rng.pick(&held);
            let count = self.opens.get_mut(&(who, ino)).unwrap();
            *count -= 1;
            if *count == 0 {
                self.opens.remove(&(who, ino));
            }
            let released = self.ask_now(who, &MetaRequest::Release { ino, count: 1, atime: None });
            assert_eq!(released, Ok(MetaReply::Done));
            return;
        }
        let inline = !self.rng.one_in(4);
        match self.ask_now(who, &MetaRequest::Open { ino, inline }) {
            Ok(MetaReply::Opened(attr, place)) => {
                let node = &self.model.nodes[&ino.0];
                assert_eq!(attr, node.attr);
                assert_eq!(place.and_then(|place| place.inline), node.inline(true));
                assert!(inline || node.small.is_none());
                *self.opens.entry((who, ino)).or_default() += 1;
            }
            other => {
                let node = self.model.nodes.get(&ino.0);
                if other == Err(Status::NotSupported) {
                    assert!(!inline && node.is_some_and(|node| node.small.is_some()));
                    return;
                }
                assert_eq!(other, Err(Status::Stale));
                assert!(node.is_none_or(|node| node.attr.nlink == 0));
            }
        }
    }

    fn finish_work(&mut self) {
        if !self.rig.works.is_empty() {
            let at = to_usize(self.rng.below(self.rig.works.len() as u64));
            let work = self.rig.works.remove(at);
            let freed_count = self.rng.below(9);
            self.rig.volume().work_done(work.id, freed_count);
        }
    }

    /// Only a session that waits for nothing ends: what comes of the rest is its own affair. Others are fenced off.
    fn end_session(&mut self) {
        let who = session(self.rng.below(3));
        self.rig.volume().fence(who, *self.rng.pick(&[Fence::Off, Fence::Late, Fence::Back]));
        if self.sent.iter().all(|sent| sent.session != who) {
            let expired = self.rng.below(2) == 0;
            self.rig.volume().session_ended(who, expired);
            self.opens.retain(|(session, _), _| *session != who);
            self.sequences.retain(|(session, _), _| *session != who);
            self.opened.retain(|(session, ..)| *session != who);
            self.settle();
        }
    }

    fn crash(&mut self) {
        let mut rng = self.rng.clone();
        let mut appends = std::mem::take(&mut self.early);
        appends.extend(self.rig.appends.iter().cloned());
        appends.sort_by_key(first_of);
        if rng.one_in(2)
            && let Some(checkpoint) = self.rig.checkpoint.take()
        {
            drop(checkpoint.write());
        }
        let report = self.rig.crash(|log, append| tear(log, &append, &mut rng)).unwrap();
        self.rng.next();
        let applied = self.rig.volume().counters().applied;
        for append in appends.iter().filter(|append| first_of(append) <= applied) {
            self.durable(append);
        }
        self.crash_count += 1;
        self.replay_count += report.replayed_commands;
        assert_eq!((report.damaged_commands, report.damaged_rows), (0, 0));
        self.rig.assert_sound();
        self.rig.works = self.rig.volume().pending_works().unwrap();
        let works: Vec<(u64, bool)> = self.rig.works.iter().map(|w| (w.id, w.shrink)).collect();
        assert_eq!(works, self.model.works.iter().map(|(i, s)| (*i, *s)).collect::<Vec<_>>());
        for number in 0..3 {
            let who = session(number);
            let of = |((s, ino), count): (&(SessionId, Ino), &u32)| {
                (*s == who).then_some((*ino, *count))
            };
            let opens: Vec<(Ino, u32)> = self.opens.iter().filter_map(of).collect();
            let gone = self.ask_now(who, &MetaRequest::Reopen { opens });
            assert_eq!(gone, Ok(MetaReply::Reopened(Vec::new())));
        }
        let unanswered = std::mem::take(&mut self.sent);
        let mut asked = BTreeSet::new();
        for sent in unanswered {
            if asked.insert((sent.session, sent.caller.slot)) {
                self.sent.push(sent);
                self.resend(self.sent.len() - 1);
                let last = self.sent.len() - 1;
                self.sent.remove(last - 1);
                self.take_replies();
            }
        }
        self.rig.volume().grace_over();
    }

    fn settle(&mut self) {
        loop {
            while !self.rig.works.is_empty() {
                self.finish_work();
            }
            self.rig.volume().tick(Duration::ZERO);
            self.rig.flush();
            if self.rig.appends.is_empty() && !self.rig.write_checkpoint() {
                break;
            }
            self.complete();
        }
        self.take_replies();
    }

    fn finish(&mut self) {
        self.settle();
        assert!(self.sent.is_empty(), "everything is answered");
        for number in 0..3 {
            self.rig.volume().session_ended(session(number), false);
        }
        self.opens.clear();
        self.settle();
        let report = self.rig.assert_sound();
        assert_eq!((report.orphan_count, report.work_count), (0, 0));
        assert_eq!(report.inode_count, self.model.nodes.len() as u64);
        for ino in self.model.nodes.keys().copied().collect::<Vec<_>>() {
            let got = self.ask_now(session(0), &MetaRequest::GetAttr { ino: Ino(ino) });
            assert_eq!(got, Ok(MetaReply::Attr(self.model.nodes[&ino].attr)));
            let node = &self.model.nodes[&ino];
            let wanted = MetaReply::Data(node.attr, node.inline(true));
            let got = self.ask_now(session(0), &MetaRequest::GetData { ino: Ino(ino) });
            assert_eq!(got, Ok(wanted));
        }
    }
}

/// What of a write under way reaches the device: nothing, all, a prefix of sectors, or some of its blocks.
pub(super) fn tear(log: &mut MemoryLog, append: &Append, rng: &mut Rng) {
    let at = to_usize(append.offset);
    let len = append.bytes.len();
    match rng.below(4) {
        0 => {}
        1 => log.0[at..at + len].copy_from_slice(&append.bytes),
        2 => {
            let kept = to_usize(rng.below(len as u64 / 512)) * 512;
            log.0[at..at + kept].copy_from_slice(&append.bytes[..kept]);
        }
        _ => {
            for start in (0..len).step_by(4096).filter(|_| rng.one_in(2)) {
                let block = &append.bytes[start..start + 4096];
                log.0[at + start..at + start + 4096].copy_from_slice(block);
            }
        }
    }
}

#[test]
fn random_histories_agree_with_the_model() {
    let (mut crash_count, mut replay_count, mut change_count) = (0, 0, 0);
    let mut overtaken_count = 0;
    for seed in 0..SEED_COUNT {
        let history = std::panic::AssertUnwindSafe(|| {
            let mut world = World::new(seed);
            for _ in 0..STEP_COUNT {
                world.step();
            }
            world.finish();
            let change_count = world.rig.volume().counters().applied;
            (world.crash_count, world.replay_count, change_count, world.overtaken_count)
        });
        match std::panic::catch_unwind(history) {
            Ok((crashes, replays, changes, overtaken)) => {
                overtaken_count += overtaken;
                crash_count += crashes;
                replay_count += replays;
                change_count += changes;
            }
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(crash_count > SEED_COUNT && replay_count > 100 && change_count > 5000);
    assert!(overtaken_count > 50, "{overtaken_count}");
}
