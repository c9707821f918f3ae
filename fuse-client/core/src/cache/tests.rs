//! The cache alone: what it answers, what it keeps, what it lets go.

use weft_wire::meta::Time;

use super::*;

fn attr(ino: u64, version: u64) -> Attr {
    let (mode, nlink, uid, gid, rdev, size, blocks) = (0o100_644, 1, 0, 0, 0, 0, 0);
    let (atime, mtime, ctime, btime) = Default::default();
    let _: Time = atime;
    let ino = Ino(ino);
    Attr { ino, mode, nlink, uid, gid, rdev, size, blocks, version, atime, mtime, ctime, btime }
}

#[test]
fn what_is_recalled_or_not_granted_is_not_answered() {
    let mut cache = Cache::default();
    cache.put_attr(&attr(1, 1));
    assert_eq!(cache.attr(Ino(1)), None, "without a lease nothing is kept");
    cache.grant(Ino(1), LeaseMode::Write, |_| false);
    cache.put_attr(&attr(1, 2));
    cache.put_attr(&attr(1, 1));
    assert_eq!(cache.attr(Ino(1)), Some(attr(1, 2)), "an overtaken answer changes nothing");
    cache.put_name(Ino(1), b"a", Some(Ino(2)));
    cache.put_name(Ino(1), b"b", None);
    cache.lower(Ino(1), LeaseMode::Read);
    assert_eq!(cache.mode(Ino(1)), LeaseMode::Read);
    assert_eq!(cache.name(Ino(1), b"a"), Some(Some(Ino(2))));
    assert_eq!((cache.name(Ino(1), b"b"), cache.name(Ino(1), b"c")), (Some(None), None));
    cache.drop_name(Ino(1), b"b");
    assert_eq!(cache.name(Ino(1), b"b"), None);
    cache.lower(Ino(1), LeaseMode::None);
    assert_eq!((cache.attr(Ino(1)), cache.name(Ino(1), b"a")), (None, None));
    assert_eq!((cache.name_count, cache.by_age.len()), (0, 0));
    cache.grant(Ino(1), LeaseMode::Through, |_| false);
    cache.put_attr(&attr(1, 2));
    assert_eq!(cache.attr(Ino(1)), None, "others write it");
}

#[test]
fn a_directory_made_here_is_known_whole_but_for_what_is_being_changed() {
    let mut cache = Cache::default();
    cache.set_empty(Ino(1));
    assert_eq!(cache.name(Ino(1), b"a"), None, "without a lease nothing is known");
    cache.grant(Ino(1), LeaseMode::Read, |_| false);
    assert_eq!(cache.name(Ino(1), b"a"), None, "others may have put names in before the lease");
    cache.set_empty(Ino(1));
    assert_eq!((cache.name(Ino(1), b"a"), cache.name(Ino(1), b"..")), (Some(None), None));
    cache.drop_name(Ino(1), b"a");
    cache.drop_name(Ino(1), b"a");
    assert_eq!((cache.name(Ino(1), b"a"), cache.name(Ino(1), b"b")), (None, Some(None)));
    cache.put_name(Ino(1), b"a", Some(Ino(2)));
    assert_eq!(cache.name(Ino(1), b"a"), Some(Some(Ino(2))));
    cache.drop_name(Ino(1), b"a");
    assert_eq!((cache.name(Ino(1), b"a"), cache.name_count), (None, 1), "removed, or not");
    cache.lower(Ino(1), LeaseMode::None);
    cache.grant(Ino(1), LeaseMode::Read, |_| false);
    assert_eq!((cache.name(Ino(1), b"b"), cache.name_count), (None, 0), "others had it");
}

#[test]
fn a_directory_known_whole_is_not_any_more_when_names_go_for_want_of_room() {
    let mut cache = Cache::default();
    (1..=2).for_each(|ino| cache.grant(Ino(ino), LeaseMode::Read, |_| false));
    (1..=2).for_each(|ino| cache.set_empty(Ino(ino)));
    cache.drop_name(Ino(1), b"unsure");
    for name in 0..CACHED_NAMES_MAX {
        cache.put_name(Ino(2), &name.to_le_bytes(), Some(Ino(9)));
    }
    assert_eq!(cache.name(Ino(2), &0_usize.to_le_bytes()), None, "not: there is none");
    let counts = cache.known.values().map(|known| known.name_count());
    assert_eq!(counts.sum::<usize>(), cache.name_count);
}

#[test]
fn names_are_bounded_also_those_that_are_not_there() {
    let mut cache = Cache::default();
    (1..=3).for_each(|ino| cache.grant(Ino(ino), LeaseMode::Read, |_| false));
    for name in 0..=CACHED_NAMES_MAX {
        cache.put_name(Ino(3), &name.to_le_bytes(), None);
    }
    assert!(cache.name_count <= CACHED_NAMES_MAX, "{}", cache.name_count);
    assert_eq!(cache.name_count, cache.known[&Ino(3)].name_count());
    assert_eq!(cache.name(Ino(3), &CACHED_NAMES_MAX.to_le_bytes()), Some(None), "the last");
}

#[test]
fn attributes_of_before_are_not_right_any_more() {
    let mut cache = Cache::default();
    cache.grant(Ino(1), LeaseMode::Read, |_| false);
    cache.put_attr(&attr(1, 2));
    cache.drop_attrs();
    assert_eq!((cache.attr(Ino(1)), cache.has_attr(Ino(1))), (None, false));
    cache.put_attr(&attr(1, 1));
    assert_eq!(cache.attr(Ino(1)), None, "overtaken");
    cache.put_attr(&attr(1, 2));
    assert_eq!(cache.attr(Ino(1)), Some(attr(1, 2)));
}

#[test]
fn the_oldest_goes_and_the_pinned_stays() {
    let mut cache = Cache::default();
    let count = CACHED_INODES_MAX as u64;
    for ino in 0..=count {
        cache.grant(Ino(ino), LeaseMode::Read, |ino| ino == Ino(0));
    }
    assert_eq!(cache.mode(Ino(0)), LeaseMode::Read);
    assert_eq!(cache.mode(Ino(1)), LeaseMode::None);
    assert_eq!((cache.known.len(), cache.by_age.len()), (CACHED_INODES_MAX, CACHED_INODES_MAX));
}

/// A directory with files in it, each known by its name.
fn with_files(count: u64) -> Cache {
    let mut cache = Cache::default();
    cache.grant(Ino(1), LeaseMode::Read, |_| false);
    cache.set_empty(Ino(1));
    for ino in 2..count + 2 {
        cache.grant(Ino(ino), LeaseMode::Read, |_| false);
        cache.put_attr(&attr(ino, 1));
        cache.put_name(Ino(1), &ino.to_le_bytes(), Some(Ino(ino)));
    }
    cache
}

#[test]
fn what_the_kernel_lets_go_of_goes_and_so_do_the_names_that_lead_there() {
    let mut cache = with_files(10_000);
    for ino in 2..9_002 {
        cache.let_go(Ino(ino));
        assert_eq!(cache.attr(Ino(ino)), None);
    }
    assert_eq!(cache.known.len(), 1_001);
    assert!(cache.name_count < 2_000, "{} names", cache.name_count);
    assert_eq!(cache.name_count, cache.known[&Ino(1)].name_count());
    assert_eq!(cache.name(Ino(1), &9_002_u64.to_le_bytes()), Some(Some(Ino(9_002))), "it stays");
    assert_eq!(cache.name(Ino(1), &2_u64.to_le_bytes()), None, "it is there, though not known");
    assert_eq!(cache.name(Ino(1), b"none"), None, "nor is it known any more what is not");
    cache.let_go(Ino(1));
    assert_eq!((cache.name_count, cache.known.len()), (0, 1_000));
    assert_eq!(cache.freed_count(), 9_000 + 10_000 + 1, "all names in the end");
    cache.gave_back();
    assert_eq!(cache.freed_count(), 0);
}

#[test]
fn a_directory_in_which_files_come_and_go_stays_known_whole() {
    let mut cache = with_files(3);
    for ino in 10..10_000 {
        cache.grant(Ino(ino), LeaseMode::Read, |_| false);
        cache.put_name(Ino(1), b"new", Some(Ino(ino)));
        cache.drop_name(Ino(1), b"new");
        cache.let_go(Ino(ino));
    }
    assert_eq!(cache.name(Ino(1), b"none"), Some(None));
    assert_eq!(cache.name(Ino(1), &2_u64.to_le_bytes()), Some(Some(Ino(2))));
}
