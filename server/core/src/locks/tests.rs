//! The table against a model that knows nothing but bytes, and the scenarios that matter one by one.

use super::*;
use proptest::prelude::*;
use weft_wire::locks::HeldLock;

const BYTES: usize = 8;
const EXCLUSIVE: LockKind = LockKind::Exclusive;
const SHARED: LockKind = LockKind::Shared;

fn session(number: u8) -> SessionId {
    SessionId([number; 16])
}

fn range_owner(id: u64) -> LockOwner {
    LockOwner { space: LockSpace::Range, id }
}

fn bytes(start: u64, end: u64) -> LockRange {
    LockRange::new(start, end).unwrap()
}

/// A table, a clock, and tickets.
struct Rig {
    table: LockTable,
    now: Duration,
    ticket: u64,
}

impl Rig {
    fn new(count_max: usize) -> Rig {
        let table = LockTable::new(count_max, BTreeSet::new());
        Rig { table, now: Duration::ZERO, ticket: 0 }
    }

    fn request(&mut self, ino: u64, owner: LockOwner, range: LockRange) -> LockRequest {
        self.ticket += 1;
        let (ino, ticket) = (Ino(ino), self.ticket);
        LockRequest { ino, owner, pid: 1, range, kind: None, wait: false, ticket }
    }

    fn lock(
        &mut self,
        who: (u8, u64),
        ino: u64,
        kind: LockKind,
        wait: bool,
    ) -> Result<bool, Status> {
        let request = self.request(ino, range_owner(who.1), bytes(0, 9));
        self.table.lock(
            session(who.0),
            &LockRequest { kind: Some(kind), wait, ..request },
            self.now,
        )
    }

    fn unlock(&mut self, who: (u8, u64), ino: u64) {
        let request = self.request(ino, range_owner(who.1), LockRange::ALL);
        assert_eq!(self.table.lock(session(who.0), &request, self.now), Ok(false));
    }

    fn events(&mut self, of: u8) -> Vec<(u64, Status)> {
        self.table.take_events(session(of), 100)
    }

    fn holds(&self, who: (u8, u64), ino: u64, kind: LockKind) -> bool {
        let holder = Holder { session: session(who.0), owner: range_owner(who.1) };
        let held = self.table.files.get(&Ino(ino)).and_then(|file| file.held_by(holder));
        held.is_some_and(|held| held.has(bytes(0, 9), kind))
    }
}

#[test]
fn cycles_of_any_length_are_refused_and_only_they() {
    for length in 2..=5u8 {
        let mut rig = Rig::new(1000);
        for at in 0..length {
            assert_eq!(rig.lock((at, 1), u64::from(at), EXCLUSIVE, true), Ok(false));
        }
        for at in 0..length - 1 {
            assert_eq!(rig.lock((at, 1), u64::from(at) + 1, EXCLUSIVE, true), Ok(true));
        }
        assert_eq!(rig.lock((length - 1, 1), 0, SHARED, true), Err(Status::Deadlock));
        assert_eq!(rig.lock((length - 1, 2), 0, SHARED, true), Ok(true), "another owner may wait");
        rig.unlock((length - 1, 1), u64::from(length) - 1);
        assert_eq!(rig.events(length - 2).len(), 1, "the others go on");
    }
}

#[test]
fn two_who_share_and_both_want_it_alone_are_a_deadlock() {
    let mut rig = Rig::new(1000);
    assert_eq!(rig.lock((1, 1), 5, SHARED, false), Ok(false));
    assert_eq!(rig.lock((2, 1), 5, SHARED, false), Ok(false));
    assert_eq!(rig.lock((1, 1), 5, EXCLUSIVE, true), Ok(true));
    assert_eq!(rig.lock((2, 1), 5, EXCLUSIVE, true), Err(Status::Deadlock));
    rig.unlock((2, 1), 5);
    assert_eq!(rig.events(1).len(), 1);
    assert!(rig.holds((1, 1), 5, EXCLUSIVE));
}

#[test]
fn a_grant_that_closes_a_cycle_refuses_who_waits_for_it() {
    let mut rig = Rig::new(1000);
    // X holds 1 and Y holds 2; X waits for 2 with one thread and for 3 with another; Y waits for 3 behind it.
    assert_eq!(rig.lock((1, 1), 1, EXCLUSIVE, false), Ok(false));
    assert_eq!(rig.lock((2, 1), 2, EXCLUSIVE, false), Ok(false));
    assert_eq!(rig.lock((3, 1), 3, EXCLUSIVE, false), Ok(false));
    assert_eq!(rig.lock((1, 1), 2, EXCLUSIVE, true), Ok(true));
    assert_eq!(rig.lock((1, 1), 3, EXCLUSIVE, true), Ok(true));
    assert_eq!(rig.lock((2, 1), 3, EXCLUSIVE, true), Ok(true));
    let last = rig.ticket;
    rig.unlock((3, 1), 3);
    assert!(rig.holds((1, 1), 3, EXCLUSIVE));
    assert_eq!(rig.events(2), vec![(last, Status::Deadlock)]);
}

#[test]
fn a_stream_of_readers_does_not_starve_a_writer_and_order_is_kept() {
    let mut rig = Rig::new(1000);
    assert_eq!(rig.lock((1, 1), 5, SHARED, true), Ok(false));
    assert_eq!(rig.lock((2, 1), 5, EXCLUSIVE, true), Ok(true));
    let writer = rig.ticket;
    assert_eq!(rig.lock((3, 1), 5, SHARED, true), Ok(true), "behind the writer");
    assert_eq!(rig.lock((3, 2), 5, SHARED, true), Ok(true));
    assert_eq!(
        rig.lock((4, 1), 5, SHARED, false),
        Ok(false),
        "who does not wait sees what is held"
    );
    rig.unlock((4, 1), 5);
    rig.unlock((1, 1), 5);
    assert_eq!(rig.events(2), vec![(writer, Status::Ok)]);
    assert_eq!(rig.events(3), vec![]);
    rig.unlock((2, 1), 5);
    assert_eq!(rig.events(3), vec![(writer + 1, Status::Ok), (writer + 2, Status::Ok)]);
}

#[test]
fn fairness_has_its_end() {
    let mut rig = Rig::new(1000);
    assert_eq!(rig.lock((1, 1), 5, SHARED, true), Ok(false));
    assert_eq!(rig.lock((2, 1), 5, EXCLUSIVE, true), Ok(true));
    assert_eq!(rig.lock((3, 1), 5, SHARED, true), Ok(true));
    let reader = rig.ticket;
    rig.now += FAIR / 2;
    rig.table.tick(rig.now);
    assert_eq!(rig.events(3), vec![]);
    rig.now += FAIR / 2;
    rig.table.tick(rig.now);
    assert_eq!(rig.events(3), vec![(reader, Status::Ok)]);
}

#[test]
fn nobody_waits_behind_a_lock_that_waits_for_himself() {
    let mut rig = Rig::new(1000);
    assert_eq!(rig.lock((1, 1), 5, SHARED, true), Ok(false));
    assert_eq!(rig.lock((2, 1), 5, EXCLUSIVE, true), Ok(true));
    assert_eq!(rig.lock((1, 1), 5, EXCLUSIVE, true), Ok(false), "he alone has it");
}

#[test]
fn flock_gives_the_old_lock_up_before_it_waits() {
    let mut rig = Rig::new(1000);
    let flock = |id| LockOwner { space: LockSpace::Flock, id };
    let mut ask = |who: u8, kind, wait| {
        let request = rig.request(5, flock(1), LockRange::ALL);
        let request = LockRequest { kind: Some(kind), wait, ..request };
        let result = rig.table.lock(session(who), &request, rig.now);
        (result, rig.table.take_events(session(1), 9).len())
    };
    assert_eq!(ask(1, SHARED, false), (Ok(false), 0));
    assert_eq!(ask(2, SHARED, false), (Ok(false), 0));
    assert_eq!(ask(1, EXCLUSIVE, true), (Ok(true), 0));
    assert_eq!(
        ask(2, EXCLUSIVE, false),
        (Err(Status::WouldBlock), 1),
        "he lost his, the other has it"
    );
    assert_eq!(ask(1, SHARED, true), (Ok(false), 0));
    assert_eq!(rig.lock((2, 1), 5, EXCLUSIVE, false), Ok(false), "fcntl does not see flock");
}

#[test]
fn a_session_that_ends_lets_everything_go() {
    let mut rig = Rig::new(1000);
    for ino in 0..5 {
        assert_eq!(rig.lock((1, ino), ino, EXCLUSIVE, true), Ok(false));
        assert_eq!(rig.lock((2, ino), ino, EXCLUSIVE, true), Ok(true));
        assert_eq!(rig.lock((1, 7), ino, EXCLUSIVE, true), Ok(true));
    }
    rig.table.end_session(session(1), rig.now);
    assert_eq!(rig.events(2).len(), 5);
    rig.table.end_session(session(2), rig.now);
    assert_eq!((rig.table.count(), rig.table.files.len()), (0, 0));
}

#[test]
fn at_the_bound_locks_are_refused_and_can_be_given_up() {
    let mut rig = Rig::new(10);
    let mut taken = 0;
    while rig.lock((1, taken), 1, SHARED, true) == Ok(false) {
        taken += 1;
    }
    assert_eq!(taken, 8, "room for a waiter is kept");
    assert_eq!(rig.lock((1, 99), 1, SHARED, true), Err(Status::NoLocks));
    rig.unlock((1, 0), 1);
    assert_eq!(rig.lock((1, 99), 1, SHARED, true), Ok(false));
    // A hole in the middle of a lock is one lock more.
    let mut rig = Rig::new(4);
    assert_eq!(rig.lock((1, 1), 1, SHARED, true), Ok(false));
    let mut hole = |at| {
        let request = rig.request(1, range_owner(1), bytes(at, at));
        rig.table.lock(session(1), &request, rig.now)
    };
    assert_eq!([hole(1), hole(3), hole(5)], [Ok(false); 3]);
    assert_eq!(hole(7), Err(Status::NoLocks));
    // Answers that nobody fetches count.
    let mut rig = Rig::new(20);
    let mut rounds = 0;
    while rig.lock((1, 1), 1, EXCLUSIVE, true) == Ok(false) {
        if rig.lock((2, 1), 1, EXCLUSIVE, true) != Ok(true) {
            break;
        }
        rig.unlock((1, 1), 1);
        rig.unlock((2, 1), 1);
        rounds += 1;
    }
    assert!((10..20).contains(&rounds), "{rounds}");
    assert!(rig.table.count() <= 20);
}

#[test]
fn after_a_start_locks_are_claimed_before_anybody_gets_a_new_one() {
    let mut rig = Rig::new(100);
    rig.table = LockTable::new(100, [session(1), session(2)].into());
    let held = HeldLock { range: bytes(0, 9), kind: EXCLUSIVE, pid: 3 };
    let claimed = |id| ClaimedLock { ino: Ino(5), owner: range_owner(id), held };
    assert_eq!(rig.lock((3, 1), 5, SHARED, true), Err(Status::Busy));
    assert!(!rig.table.claim(session(3), &claimed(1)), "it held nothing before the start");
    assert!(rig.table.claim(session(1), &claimed(1)));
    assert!(rig.table.claim(session(1), &claimed(1)), "again, after another reconnect");
    assert!(!rig.table.claim(session(2), &claimed(1)), "nothing is granted twice");
    rig.table.claimed_all(session(1), rig.now);
    assert_eq!(rig.lock((3, 1), 6, SHARED, true), Err(Status::Busy), "the other may hold it");
    assert_eq!(rig.lock((1, 1), 5, EXCLUSIVE, true), Ok(false), "what it has it has");
    rig.table.claimed_all(session(2), rig.now);
    assert_eq!(rig.lock((3, 1), 6, SHARED, true), Ok(false));
    assert_eq!(rig.lock((3, 1), 5, SHARED, false), Err(Status::WouldBlock));
    assert!(!rig.table.claim(session(2), &claimed(2)), "too late");
    assert!(rig.table.claim(session(1), &claimed(1)), "a later reconnect");
}

#[test]
fn what_a_session_does_not_claim_it_does_not_have_and_waits_for_nothing() {
    let mut rig = Rig::new(100);
    assert_eq!(rig.lock((1, 1), 5, EXCLUSIVE, false), Ok(false));
    assert_eq!(rig.lock((1, 1), 6, EXCLUSIVE, false), Ok(false));
    assert_eq!(rig.lock((2, 1), 5, EXCLUSIVE, true), Ok(true));
    assert_eq!(rig.lock((2, 1), 6, EXCLUSIVE, true), Ok(true));
    let of_six = rig.ticket;
    assert_eq!(rig.lock((1, 2), 6, EXCLUSIVE, true), Ok(true));
    let half = HeldLock { range: bytes(0, 4), kind: EXCLUSIVE, pid: 1 };
    let claimed = ClaimedLock { ino: Ino(5), owner: range_owner(1), held: half };
    assert!(rig.table.claim(session(1), &claimed));
    rig.table.forget_events(session(1)); // its connection was lost again
    assert!(rig.table.claim(session(1), &claimed));
    assert_eq!(rig.events(2), vec![], "it is not done");
    rig.table.claimed_all(session(1), rig.now);
    assert_eq!(rig.events(2), vec![(of_six, Status::Ok)]);
    let request = rig.request(5, range_owner(9), bytes(5, 9));
    let request = LockRequest { kind: Some(SHARED), ..request };
    assert_eq!(rig.table.lock(session(3), &request, rig.now), Ok(false), "the other half");
    rig.unlock((2, 1), 6);
    assert_eq!(rig.lock((3, 1), 6, EXCLUSIVE, false), Ok(false), "nobody waits");
}

#[test]
fn a_lock_that_grew_unheard_is_claimed_as_it_was() {
    let mut rig = Rig::new(100);
    assert_eq!(rig.lock((1, 1), 5, SHARED, false), Ok(false));
    assert_eq!(rig.lock((1, 1), 5, EXCLUSIVE, false), Ok(false));
    let held = HeldLock { range: bytes(0, 9), kind: SHARED, pid: 1 };
    let claimed = ClaimedLock { ino: Ino(5), owner: range_owner(1), held };
    assert!(rig.table.claim(session(1), &claimed));
    rig.table.claimed_all(session(1), rig.now);
    assert!(rig.holds((1, 1), 5, SHARED));
    assert_eq!(rig.lock((2, 1), 5, SHARED, false), Ok(false), "it is not exclusive any more");
}

/// One step of the random test.
#[derive(Clone, Debug)]
enum Step {
    Lock {
        who: (u8, u64),
        flock: bool,
        ino: u64,
        range: (u64, u64),
        kind: Option<LockKind>,
        wait: bool,
    },
    Cancel {
        nth: usize,
    },
    EndSession(u8),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        2 => Just(None),
        2 => Just(Some(SHARED)),
        3 => Just(Some(EXCLUSIVE)),
    ];
    let range = (0..8u64, 0..8u64).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let lock = ((0..3u8, 0..2u64), prop::bool::weighted(0.2), 0..3u64, range, kind, any::<bool>());
    prop_oneof![
        20 => lock.prop_map(|(who, flock, ino, range, kind, wait)| Step::Lock {
            who, flock, ino, range, kind, wait
        }),
        2 => (0..8usize).prop_map(|nth| Step::Cancel { nth }),
        1 => (0..3u8).prop_map(Step::EndSession),
        2 => (1..800u64).prop_map(Step::Pass),
    ]
}

/// Who has which byte of which file, how.
type Held = BTreeMap<(u64, Holder, usize), LockKind>;

/// And who waits, in order.
#[derive(Clone, Default)]
struct Model {
    held: Held,
    queue: Vec<(u64, Waiter)>,
}

impl Model {
    fn bytes_of(range: LockRange) -> std::ops::RangeInclusive<usize> {
        usize::try_from(range.start).unwrap()
            ..=usize::try_from(range.end).unwrap_or(BYTES - 1).min(BYTES - 1)
    }

    fn set(&mut self, ino: u64, holder: Holder, range: LockRange, kind: Option<LockKind>) {
        for byte in Self::bytes_of(range) {
            match kind {
                Some(kind) => self.held.insert((ino, holder, byte), kind),
                None => self.held.remove(&(ino, holder, byte)),
            };
        }
    }

    fn in_the_way(&self, ino: u64, wanted: &Wanted) -> BTreeSet<Holder> {
        let same = |(at, holder, byte): &(u64, Holder, usize), kind: &LockKind| {
            *at == ino
                && *holder != wanted.holder
                && holder.owner.space == wanted.holder.owner.space
                && Self::bytes_of(wanted.range).contains(byte)
                && kind.conflicts_with(wanted.kind)
        };
        self.held.iter().filter(|(key, kind)| same(key, kind)).map(|(key, _)| key.1).collect()
    }

    /// Whether `from` waits, through others, for `to`.
    fn waits_for(&self, from: &BTreeSet<Holder>, to: Holder) -> bool {
        let mut seen = from.clone();
        loop {
            let next: BTreeSet<Holder> = self
                .queue
                .iter()
                .filter(|(_, w)| {
                    seen.contains(&w.wanted.holder)
                        && w.wanted.holder.owner.space == LockSpace::Range
                })
                .flat_map(|(ino, w)| self.in_the_way(*ino, &w.wanted))
                .collect();
            if seen.contains(&to) {
                return true;
            }
            let before = seen.len();
            seen.extend(next);
            if seen.len() == before {
                return false;
            }
        }
    }

    /// One who waits is granted or refused; `None` where that would be wrong now.
    fn decided(&self, (ticket, status): (u64, Status)) -> Option<Model> {
        let mut next = self.clone();
        let at = self.queue.iter().position(|(_, w)| w.ticket == ticket);
        let (ino, waiter) = next.queue.remove(at.expect("only who waits is told"));
        let Wanted { holder, range, kind } = waiter.wanted;
        let others = self.in_the_way(ino, &waiter.wanted);
        let right = match status {
            Status::Ok => others.is_empty(),
            Status::Deadlock => self.waits_for(&others, holder),
            status => panic!("{status}"),
        };
        if status == Status::Ok {
            next.set(ino, holder, range, Some(kind));
        }
        right.then_some(next)
    }

    /// These were decided, in an order that each session knows of its own only: one in which each was right, and that
    /// leaves `held` where that is known.
    fn after(&self, events: &[(u64, Status)], held: Option<&Held>) -> Option<Model> {
        if events.is_empty() {
            return held.is_none_or(|held| self.held == *held).then(|| self.clone());
        }
        (0..events.len()).find_map(|at| {
            let mut rest = events.to_vec();
            let event = rest.remove(at);
            self.decided(event)?.after(&rest, held)
        })
    }

    fn has_earlier(&self, ino: u64, wanted: &Wanted, before: u64) -> bool {
        self.queue
            .iter()
            .any(|(at, w)| *at == ino && w.ticket < before && w.wanted.conflicts_with(wanted))
    }

    /// An earlier waiter that is not kept waiting by the holder himself.
    fn has_unblocked_earlier(&self, ino: u64, wanted: &Wanted, before: u64) -> bool {
        self.queue.iter().any(|(at, w)| {
            *at == ino
                && w.ticket < before
                && w.wanted.conflicts_with(wanted)
                && !self.in_the_way(ino, &w.wanted).contains(&wanted.holder)
        })
    }
}

struct Both {
    rig: Rig,
    model: Model,
}

impl Both {
    fn take_events(&mut self, held: Option<&Held>) {
        let mut events: Vec<(u64, Status)> = (0..3).flat_map(|of| self.rig.events(of)).collect();
        // Most often grants came first, and a cycle is closed by the last of them.
        events.sort_by_key(|(ticket, status)| (*status, *ticket));
        let model = self.model.after(&events, held);
        self.model = model.unwrap_or_else(|| panic!("no order explains {events:?}"));
    }

    /// What the table has, byte by byte.
    fn held(&self) -> Held {
        let mut held = BTreeMap::new();
        for (ino, file) in &self.rig.table.files {
            assert!(!file.held.is_empty() || !file.queue.is_empty());
            for (holder, ranges) in &file.held {
                for lock in ranges.iter() {
                    for byte in Model::bytes_of(lock.range) {
                        held.insert((ino.0, *holder, byte), lock.kind);
                    }
                }
            }
        }
        held
    }

    fn lock(&mut self, ino: u64, holder: Holder, request: &LockRequest) {
        let result = self.rig.table.lock(holder.session, request, self.rig.now);
        let Some(kind) = request.kind else {
            assert_eq!(result, Ok(false));
            return self.model.set(ino, holder, request.range, None);
        };
        let wanted = Wanted { holder, range: request.range, kind };
        let has = Model::bytes_of(request.range)
            .all(|byte| self.model.held.get(&(ino, holder, byte)) == Some(&kind));
        if holder.owner.space == LockSpace::Flock && !has {
            self.model.set(ino, holder, request.range, None);
            self.take_events(None); // The table is beyond that already.
        }
        let others = self.model.in_the_way(ino, &wanted);
        match result {
            Ok(false) => {
                assert!(has || others.is_empty(), "granted against {others:?}");
                let ahead = self.model.has_unblocked_earlier(ino, &wanted, u64::MAX);
                assert!(has || !request.wait || !ahead, "overtook");
                self.model.set(ino, holder, request.range, Some(kind));
            }
            Ok(true) => {
                let (ticket, since) = (request.ticket, self.rig.now);
                assert!(request.wait);
                assert!(!others.is_empty() || self.model.has_earlier(ino, &wanted, ticket));
                self.model.queue.push((ino, Waiter { wanted, ticket, pid: 1, since }));
            }
            Err(Status::WouldBlock) => assert!(!request.wait && !others.is_empty()),
            Err(Status::Deadlock) => {
                assert!(request.wait && self.model.waits_for(&others, holder), "no cycle");
            }
            Err(status) => panic!("{status}"),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Lock { who, flock, ino, range, kind, wait } => {
                let space = if flock { LockSpace::Flock } else { LockSpace::Range };
                let owner = LockOwner { space, id: who.1 };
                let range = if flock { bytes(0, 7) } else { bytes(range.0, range.1) };
                let request = self.rig.request(ino, owner, range);
                let holder = Holder { session: session(who.0), owner };
                self.lock(ino, holder, &LockRequest { kind, wait, ..request });
            }
            Step::Cancel { nth } => {
                let Some((_, waiter)) = self.model.queue.get(nth).copied() else { return };
                let of = waiter.wanted.holder.session;
                assert!(self.rig.table.cancel(of, waiter.ticket, self.rig.now));
                assert!(!self.rig.table.cancel(of, waiter.ticket, self.rig.now));
                self.model.queue.remove(nth);
            }
            Step::EndSession(number) => {
                self.rig.table.end_session(session(number), self.rig.now);
                self.model.held.retain(|(_, holder, _), _| holder.session != session(number));
                self.model.queue.retain(|(_, w)| w.wanted.holder.session != session(number));
            }
            Step::Pass(millis) => {
                self.rig.now += Duration::from_millis(millis);
                self.rig.table.tick(self.rig.now);
            }
        }
        let held = self.held();
        self.take_events(Some(&held));
        self.check(&held);
    }

    fn check(&self, held: &Held) {
        let table = &self.rig.table;
        assert_eq!(*held, self.model.held);
        for ((ino, holder, byte), kind) in held {
            let byte = u64::try_from(*byte).unwrap();
            let wanted = Wanted { holder: *holder, range: bytes(byte, byte), kind: *kind };
            assert!(self.model.in_the_way(*ino, &wanted).is_empty(), "granted twice: {wanted:?}");
        }
        for (ino, waiter) in &self.model.queue {
            let others = self.model.in_the_way(*ino, &waiter.wanted);
            let fair = self.rig.now.saturating_sub(waiter.since) < FAIR
                && self.model.has_unblocked_earlier(*ino, &waiter.wanted, waiter.ticket);
            assert!(!others.is_empty() || fair, "waits for nothing: {waiter:?}");
            if waiter.wanted.holder.owner.space == LockSpace::Range {
                assert!(!self.model.waits_for(&others, waiter.wanted.holder), "a deadlock");
            }
        }
        let queued: usize = table.files.values().map(|file| file.queue.len()).sum();
        assert_eq!((queued, table.tickets.len()), (self.model.queue.len(), queued));
        let ranges = table.files.values().flat_map(|file| &file.held).map(|held| held.1.count());
        assert_eq!(table.held_count, ranges.sum::<usize>());
        assert_eq!(table.event_count, 0);
        let waits: usize = table.waits.values().map(Vec::len).sum();
        let in_ranges = |w: &&(u64, Waiter)| w.1.wanted.holder.owner.space == LockSpace::Range;
        assert_eq!(waits, self.model.queue.iter().filter(in_ranges).count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn the_table_is_what_each_byte_says(steps in proptest::collection::vec(step(), 1..80)) {
        let mut both = Both { rig: Rig::new(100_000), model: Model::default() };
        steps.iter().for_each(|step| both.step(step));
        for of in 0..3 {
            both.step(&Step::EndSession(of));
        }
        assert_eq!((both.rig.table.count(), both.rig.table.files.len()), (0, 0));
    }
}
