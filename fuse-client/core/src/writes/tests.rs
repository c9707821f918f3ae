use proptest::prelude::*;
use weft_iobuf::Pool;

use super::*;

fn write(pool: &Pool, index: u64, offset: u32, bytes: u32) -> Write {
    let payload_bytes = to_usize(u64::from(bytes));
    Write {
        kept: None,
        order: 0,
        target: TargetId(u16::try_from(index % 2).unwrap()),
        index: ChunkIndex(index),
        offset,
        bytes,
        file_end: (index << 16) + u64::from(offset + bytes),
        payload: (pool.alloc(payload_bytes).unwrap().share(), 0..payload_bytes),
        tag: None,
        op: None,
        memory_bytes: payload_bytes,
        dirty: true,
        again: false,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(u64, u32, u32),
    Answer(usize),
    Lose(u16),
    Sync(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..3, 0u32..20_000, 1u32..9_000).prop_map(|(i, o, b)| Step::Add(i, o, b)),
        4 => (0usize..6).prop_map(Step::Answer),
        1 => (0u16..2).prop_map(Step::Lose),
        1 => (0u16..2).prop_map(Step::Sync),
    ]
}

/// What is in flight is known by id here, and how often each write was acknowledged since it was last lost.
#[derive(Default)]
struct Model {
    in_flight: Vec<u64>,
    all: Vec<(ChunkIndex, Range<u32>)>,
    acked: BTreeSet<u64>,
    next_tag: u64,
}

impl Model {
    /// Sends what may be sent: nothing may overlap something earlier that is not acknowledged.
    fn send(&mut self, set: &mut WriteSet) {
        while let Some((id, write)) = set.take_ready() {
            self.next_tag += 1;
            write.tag = Some(self.next_tag);
            let (index, blocks) = self.all[usize::try_from(id).unwrap()].clone();
            for earlier in (0..id).filter(|earlier| !self.acked.contains(earlier)) {
                let (other, their) = &self.all[usize::try_from(earlier).unwrap()];
                let touch = their.start < blocks.end && blocks.start < their.end;
                assert!(*other != index || !touch, "{id} overtook {earlier}");
            }
            assert!(!self.in_flight.contains(&id), "sent twice");
            self.in_flight.push(id);
        }
    }
}

proptest! {
    #[test]
    fn nothing_overtakes_and_nothing_is_forgotten(steps in prop::collection::vec(step(), 1..120)) {
        let pool = Pool::new(16 << 20, 1 << 20).unwrap();
        let (mut set, mut unsynced) = (WriteSet::default(), Unsynced::default());
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Add(index, offset, bytes) => {
                    let new = write(&pool, index, offset, bytes);
                    model.all.push((new.index, new.blocks()));
                    set.add(new);
                }
                Step::Answer(at) if at < model.in_flight.len() => {
                    let id = model.in_flight.remove(at);
                    let answered = set.remove(id).expect("in flight");
                    model.acked.insert(id);
                    unsynced.add(id, answered);
                }
                Step::Answer(_) => {}
                Step::Lose(target) => {
                    let lost = |id: TargetId| id.0 == target;
                    let (kept, incomplete) = unsynced.take_lost(lost);
                    prop_assert!(!incomplete);
                    let of_lost = |id: &u64| {
                        model.all[usize::try_from(*id).unwrap()].0.0 % 2 == u64::from(target)
                    };
                    let cancelled = model.in_flight.iter().filter(|id| of_lost(id)).count();
                    model.in_flight.retain(|id| !of_lost(id));
                    kept.keys().for_each(|id| assert!(model.acked.remove(id), "it was there"));
                    prop_assert_eq!(set.rewrite(lost, kept).len(), cancelled);
                }
                Step::Sync(target) => {
                    let barrier = set.next_id();
                    while unsynced.next_to_sync(barrier).is_some() {}
                    unsynced.synced(TargetId(target));
                    unsynced.synced(TargetId(1 - target));
                    prop_assert!(unsynced.passed(barrier, 0));
                }
            }
            model.send(&mut set);
        }
        let mut rounds = 0;
        while let Some(id) = model.in_flight.pop() {
            let answered = set.remove(id).expect("in flight");
            model.acked.insert(id);
            unsynced.add(id, answered);
            model.send(&mut set);
            rounds += 1;
            prop_assert!(rounds < 10_000);
        }
        prop_assert!(set.is_empty() && !set.has_new());
        prop_assert_eq!(model.acked.len(), model.all.len());
        unsynced.clear();
        drop(unsynced);
        prop_assert_eq!(pool.free_bytes(), pool.capacity_bytes());
    }
}

#[test]
fn a_sync_covers_what_was_acknowledged_before_it() {
    let pool = Pool::new(1 << 20, 1 << 20).unwrap();
    let mut unsynced = Unsynced::default();
    unsynced.add(0, write(&pool, 0, 0, 100));
    assert_eq!(unsynced.next_to_sync(9), Some(TargetId(0)));
    assert_eq!(unsynced.next_to_sync(9), None, "one at a time");
    unsynced.add(1, write(&pool, 0, 0, 50));
    assert_eq!(unsynced.synced(TargetId(0)), 100);
    assert!(unsynced.passed(1, 0) && !unsynced.passed(2, 0));
    assert_eq!(unsynced.let_oldest_go(), Some(50));
    assert!(!unsynced.passed(2, 0), "let go is not durable");
    assert!(unsynced.take_lost(|_| true).1, "and is missing after a restart");
}

#[test]
fn a_cut_shortens_and_removes() {
    let pool = Pool::new(1 << 20, 1 << 20).unwrap();
    let mut unsynced = Unsynced::default();
    unsynced.add(0, write(&pool, 0, 0, 4096));
    unsynced.add(1, write(&pool, 0, 8192, 100));
    assert_eq!(unsynced.cut(1000), 100);
    let (kept, _) = unsynced.take_lost(|_| true);
    let left: Vec<_> = kept.values().map(|w| (w.bytes, w.payload.1.len(), w.file_end)).collect();
    assert_eq!(left, [(1000, 1000, 1000)]);
}

#[test]
fn a_cut_finds_all_that_it_shortens() {
    let pool = Pool::new(1 << 20, 1 << 20).unwrap();
    let mut unsynced = Unsynced::default();
    let shortened = |unsynced: &Unsynced, at| -> Vec<u32> {
        unsynced.kept_ending_at(at).map(|write| write.bytes).collect()
    };
    unsynced.add(0, write(&pool, 0, 0, 4096));
    unsynced.add(1, write(&pool, 0, 8192, 100));
    assert_eq!(unsynced.cut(9000), 0, "the file becomes longer");
    assert_eq!(shortened(&unsynced, 9000), [0; 0]);
    assert_eq!(unsynced.cut(8200), 0);
    assert_eq!(shortened(&unsynced, 8200), [8]);
    unsynced.add(2, write(&pool, 0, 12_288, 4096));
    unsynced.add(3, write(&pool, 0, 16_384, 50));
    assert_eq!(unsynced.cut(13_000), 50, "also what came after a cut");
    assert_eq!(shortened(&unsynced, 13_000), [712]);
    assert_eq!(unsynced.cut(10), 100 + 4096);
    assert_eq!(shortened(&unsynced, 10), [10]);
}

#[test]
fn an_ask_is_answered_by_a_sync_that_began_after_it() {
    let mut unsynced = Unsynced::default();
    unsynced.ask([TargetId(3)].into_iter());
    assert_eq!(unsynced.next_to_sync(0), Some(TargetId(3)));
    unsynced.ask([TargetId(3)].into_iter());
    unsynced.synced(TargetId(3));
    assert!(unsynced.passed(0, 1) && !unsynced.passed(0, 2));
    unsynced.take_lost(|_| true);
    assert!(!unsynced.passed(0, 2), "a restart answers nothing");
    assert_eq!(unsynced.next_to_sync(0), Some(TargetId(3)));
    unsynced.synced(TargetId(3));
    assert!(unsynced.passed(0, 2) && !unsynced.is_syncing());
    assert_eq!(unsynced.next_to_sync(9), None);
}
