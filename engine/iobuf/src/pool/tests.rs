use proptest::prelude::*;

use super::*;
use crate::limits::CLASS_BYTES_DEFAULT;

const MIB: usize = 1 << 20;

fn pool(arena_bytes: usize) -> Pool {
    Pool::new(arena_bytes, CLASS_BYTES_DEFAULT).unwrap()
}

#[test]
fn bad_arguments_are_errors() {
    for class_bytes in [0, 1, 4095, 12 << 10, 2 << 30, usize::MAX] {
        assert_eq!(Pool::new(MIB, class_bytes).unwrap_err().kind, Kind::ClassBytes);
    }
    for arena_bytes in [0, ARENA_BYTES_MAX + 1, usize::MAX] {
        assert_eq!(Pool::new(arena_bytes, 4096).unwrap_err().kind, Kind::ArenaBytes);
    }
}

#[test]
fn the_arena_is_rounded_up_and_aligned() {
    let pool = pool(2 * MIB + 1);
    assert_eq!(pool.capacity_bytes(), 4 * MIB);
    assert_eq!(pool.free_bytes(), 4 * MIB);
    let regions = pool.regions();
    assert_eq!(regions.len(), 1);
    assert_eq!(regions[0].len_bytes, 4 * MIB);
    assert_eq!(regions[0].ptr.addr().get() % (2 * MIB), 0);
}

#[test]
fn slots_have_their_class_and_their_alignment() {
    let pool = pool(4 * MIB);
    let asked = [0, 1, 4096, 4097, 100_000, 2 * MIB];
    let classes = [4096, 4096, 4096, 8192, 131_072, 2 * MIB];
    for (bytes_min, class) in asked.into_iter().zip(classes) {
        let slot = pool.alloc(bytes_min).unwrap();
        assert_eq!(slot.capacity_bytes(), class);
        assert_eq!(slot.as_ptr().addr() % class, 0, "a class is aligned to itself");
        assert_eq!(pool.free_bytes(), 4 * MIB - class);
    }
    assert!(pool.alloc(2 * MIB + 1).is_none(), "longer than any class");
    assert_eq!(pool.free_bytes(), 4 * MIB);
}

#[test]
fn exhaustion_is_none_and_a_dropped_slot_ends_it() {
    let pool = pool(2 * MIB);
    let mut slots: Vec<_> = (0..512).map(|_| pool.alloc(4096).unwrap()).collect();
    assert!(pool.alloc(1).is_none());
    assert_eq!(pool.free_class_bytes_max(), 0);
    slots.pop();
    assert_eq!(pool.free_class_bytes_max(), 4096);
    assert!(pool.alloc(1).is_some());
    drop(slots);
    assert_eq!(pool.free_class_bytes_max(), 2 * MIB);
}

#[test]
fn regions_are_at_most_a_gibibyte_and_slots_say_theirs() {
    // Address space only: nothing is written.
    let pool = Pool::new(2 * REGION_BYTES_MAX + MIB, REGION_BYTES_MAX / 2).unwrap();
    let regions = pool.regions();
    let lengths: Vec<_> = regions.iter().map(|region| region.len_bytes).collect();
    assert_eq!(lengths, [REGION_BYTES_MAX, REGION_BYTES_MAX, REGION_BYTES_MAX / 2]);
    let mut seen = [0; 3];
    let slots: Vec<_> = (0..5).map(|_| pool.alloc(REGION_BYTES_MAX / 2).unwrap()).collect();
    for slot in &slots {
        let region = regions[slot.region_index()];
        let start = slot.as_ptr().addr();
        assert!(start >= region.ptr.addr().get());
        assert!(
            start + slot.capacity_bytes() <= region.ptr.addr().get() + region.len_bytes,
            "a slot lies in one region"
        );
        seen[slot.region_index()] += 1;
    }
    assert_eq!(seen, [2, 2, 1]);
}

#[test]
fn a_slot_outlives_every_pool_handle() {
    let pool = pool(MIB);
    let mut slot = pool.alloc(8192).unwrap();
    assert!(pool.owns(&slot));
    assert!(!super::Pool::new(MIB, 4096).unwrap().owns(&slot));
    drop(pool);
    assert_eq!(slot.as_slice()[8191], 0, "zeroed by mmap");
    slot.as_mut_slice().fill(7);
    assert!(slot.as_slice().iter().all(|&byte| byte == 7));
}

#[test]
fn a_share_reads_the_same_bytes_and_returns_last() {
    let pool = pool(2 * MIB);
    let mut slot = pool.alloc(4096).unwrap();
    slot.as_mut_slice()[..4].copy_from_slice(b"weft");
    let kept = slot.share();
    let sent = kept.clone();
    assert_eq!(&sent[..4], b"weft");
    let kept = kept.try_unshare().unwrap_err();
    drop(sent);
    assert_eq!(pool.free_bytes(), 2 * MIB - 4096);
    let mut slot = kept.try_unshare().unwrap();
    slot.as_mut_slice()[0] = b'W';
    drop(slot);
    assert_eq!(pool.free_bytes(), 2 * MIB);
}

/// What a holder does.
#[derive(Clone, Debug)]
enum Step {
    Alloc { bytes_min: usize },
    Drop { which: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let alloc = (0usize..=8 * 4096).prop_map(|bytes_min| Step::Alloc { bytes_min });
    let give = any::<usize>().prop_map(|which| Step::Drop { which });
    proptest::collection::vec(prop_oneof![3 => alloc, 2 => give], 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Against the obvious oracle: each live slot is filled with its own number, and a slot that
    /// lost a byte to another one says so when it is checked.
    #[test]
    fn slots_never_overlap_and_everything_comes_back(steps in steps()) {
        let pool = Pool::new(MIB, 8 * 4096).unwrap();
        let mut live: Vec<(u8, BufSlot)> = Vec::new();
        let mut serial = 0u8;
        for step in steps {
            match step {
                Step::Alloc { bytes_min } => {
                    let could = pool.free_class_bytes_max() >= bytes_min.max(4096);
                    let got = pool.alloc(bytes_min);
                    prop_assert_eq!(got.is_some(), could);
                    if let Some(mut slot) = got {
                        prop_assert!(slot.capacity_bytes() >= bytes_min);
                        serial = serial.wrapping_add(1);
                        slot.as_mut_slice().fill(serial);
                        live.push((serial, slot));
                    }
                }
                Step::Drop { which } if !live.is_empty() => {
                    let (mark, slot) = live.swap_remove(which % live.len());
                    prop_assert!(slot.as_slice().iter().all(|&byte| byte == mark));
                }
                Step::Drop { .. } => {}
            }
            let held: usize = live.iter().map(|(_, slot)| slot.capacity_bytes()).sum();
            prop_assert_eq!(pool.free_bytes() + held, pool.capacity_bytes());
        }
        for (mark, slot) in &live {
            prop_assert!(slot.as_slice().iter().all(|byte| byte == mark));
        }
        drop(live);
        prop_assert_eq!(pool.free_bytes(), pool.capacity_bytes());
        let whole: Vec<_> = std::iter::from_fn(|| pool.alloc(8 * 4096)).collect();
        prop_assert_eq!(whole.len() * 8 * 4096, pool.capacity_bytes(), "coalesced to the full arena");
    }
}

#[test]
fn a_lent_slot_is_whole_again_when_its_last_part_is_gone() {
    let pool = pool(4 * MIB);
    let free_bytes = pool.free_bytes();
    let slot = pool.alloc(64 << 10).unwrap();
    let address = slot.as_ptr().addr();
    let (lent, mut first) = slot.lend();
    let mut second = first.split_off(10_000);
    let third = second.split_off(0);
    assert_eq!((first.capacity_bytes(), second.capacity_bytes()), (10_000, 0));
    assert_eq!(third.capacity_bytes(), (64 << 10) - 10_000);
    assert_eq!(third.as_ptr().addr(), address + 10_000);
    assert!(pool.owns(&third));
    first.as_mut_slice().fill(1);
    let mut third = third;
    third.as_mut_slice().fill(3);
    assert_eq!(lent.position_of(&third.as_slice()[5..9]), Some(10_005));
    assert_eq!(lent.position_of(&[0; 4]), None);
    let third = third.share();
    let lent = lent.try_reclaim().unwrap_err();
    drop((first, second));
    let lent = lent.try_reclaim().unwrap_err();
    drop(third);
    let slot = lent.try_reclaim().unwrap();
    assert_eq!((slot.as_slice()[9_999], slot.as_slice()[10_000]), (1, 3));
    assert_eq!(pool.free_bytes(), free_bytes - (64 << 10));
    drop(slot);
    assert_eq!(pool.free_bytes(), free_bytes);
}

#[test]
fn a_lender_may_go_before_its_parts() {
    let pool = pool(4 * MIB);
    let free_bytes = pool.free_bytes();
    let (lent, mut part) = pool.alloc(4096).unwrap().lend();
    let rest = part.split_off(100);
    drop((lent, part));
    assert_eq!(pool.free_bytes(), free_bytes - 4096);
    drop(rest);
    assert_eq!(pool.free_bytes(), free_bytes);
}

#[test]
#[should_panic(expected = "only a lent slot has parts")]
fn a_slot_that_is_not_lent_has_no_parts() {
    drop(pool(MIB).alloc(4096).unwrap().split_off(1));
}

#[test]
fn what_is_in_a_file_is_found_again_by_the_next_pool() {
    use std::os::fd::AsFd;
    let file = rustix::fs::memfd_create("pool", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let bytes = Pool::rounded_bytes(1 << 20, 1 << 20);
    rustix::fs::ftruncate(&file, 4096 + bytes as u64).unwrap();
    let pool = Pool::over_file(file.as_fd(), 4096, 1 << 20, 1 << 20).unwrap();
    let _other = pool.alloc(1 << 16).unwrap();
    let mut slot = pool.alloc(5000).unwrap();
    slot.as_mut_slice()[..5].copy_from_slice(b"woven");
    let (at, capacity) = (slot.offset_bytes(), slot.capacity_bytes());
    std::mem::drop((slot, _other, pool));
    let next = Pool::over_file(file.as_fd(), 4096, 1 << 20, 1 << 20).unwrap();
    assert!(next.claim(at, 3000).is_none() && next.claim(at + 1, 4096).is_none());
    let found = next.claim(at, capacity).unwrap();
    assert_eq!(&found.as_slice()[..5], b"woven");
    assert!(next.claim(at, capacity).is_none(), "it is in use");
    let mut mapped = crate::Mapped::new(file.as_fd(), 4096).unwrap();
    mapped.as_mut_slice()[7] = 7;
    assert_eq!(mapped.as_slice()[7], 7);
}
