//! The tables against an obvious model, through commits, aborts and reopens.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that fails panics; the narrowed numbers are pseudo-random"
)]

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use weft_lmdb::{Commit, Env, Kind, OpenOptions, Reader, Table};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn options() -> OpenOptions {
    OpenOptions { map_bytes_max: 64 << 30, create: true, tables_max: 4, ..OpenOptions::default() }
}

#[derive(Clone, Debug)]
enum Op {
    Put {
        key: u16,
        value_bytes: usize,
        fill: u8,
    },
    Delete {
        key: u16,
    },
    Next {
        key: u16,
    },
    Commit,
    /// Commit in memory.
    Apart,
    /// Write what was committed so.
    Write,
    Abort,
    Reopen,
}

fn value_bytes() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0_usize..300,
        2 => 300_usize..2100,
        // Around the ends of overflow runs, where the sum sits.
        2 => (1_usize..4, 0_usize..48).prop_map(|(pages, back)| pages * 4096 - back),
        1 => 4096_usize..70 * 1024,
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0_u16..400;
    prop_oneof![
        12 => (key.clone(), value_bytes(), any::<u8>())
            .prop_map(|(key, value_bytes, fill)| Op::Put { key, value_bytes, fill }),
        5 => key.clone().prop_map(|key| Op::Delete { key }),
        2 => key.prop_map(|key| Op::Next { key }),
        1 => Just(Op::Commit),
        2 => Just(Op::Apart),
        1 => Just(Op::Write),
        1 => Just(Op::Abort),
        1 => Just(Op::Reopen),
    ]
}

/// `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig { cases: if asked { default.cases } else { 64 }, ..default }
}

fn key_of(key: u16) -> Vec<u8> {
    // Lengths from 2 to 511.
    let mut bytes = key.to_be_bytes().to_vec();
    bytes.resize(2 + usize::from(key) * 509 / 400, 7);
    bytes
}

fn value_of(value_bytes: usize, fill: u8) -> Vec<u8> {
    (0..value_bytes).map(|i| fill.wrapping_add((i % 251) as u8)).collect()
}

fn assert_same(txn: &impl Reader, table: Table, model: &Model) {
    let mut seen = Model::new();
    txn.scan(table, b"", &mut |k, v| {
        seen.insert(k.to_vec(), v.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(seen == *model, "a scan gives {} entries, not {}", seen.len(), model.len());
    assert_eq!(txn.entries(table).unwrap(), model.len() as u64);
    let last = model.iter().next_back().map(|(k, v)| (k.as_slice(), v.as_slice()));
    assert!(txn.last(table).unwrap() == last);
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn agrees_with_a_btree_map(
        ops in prop::collection::vec(op(), 1..400),
        changed_pages_max in prop_oneof![Just(None), (1_u32..40).prop_map(Some)],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions { changed_pages_max, ..options() };
        let mut env = Env::open(dir.path(), &options).unwrap();
        let mut table = env.table("t").unwrap();
        // What the file has, what is committed, and what the transaction sees.
        let mut written = Model::new();
        let mut committed = Model::new();
        let mut model = Model::new();
        let mut txn = env.write().unwrap();
        let mut apart = None;
        for op in ops {
            let write_first = matches!(op, Op::Commit | Op::Apart | Op::Write);
            if write_first && let Some(commit) = apart.take() {
                assert_same(&env.read().unwrap(), table, &written);
                txn.written(Commit::write(commit)).unwrap();
                written = committed.clone();
                assert_same(&env.read().unwrap(), table, &written);
            }
            match op {
                Op::Write => {}
                Op::Apart => {
                    let snapshot = env.read().unwrap();
                    apart = txn.commit_apart().unwrap();
                    assert_same(&snapshot, table, &written);
                    committed = model.clone();
                    if apart.is_none() {
                        prop_assert!(written == committed);
                    }
                    txn = env.write().unwrap();
                }
                Op::Put { key, value_bytes, fill } => {
                    let value = value_of(value_bytes, fill);
                    txn.put(table, &key_of(key), &value).unwrap();
                    model.insert(key_of(key), value);
                }
                Op::Delete { key } => {
                    let was = txn.delete(table, &key_of(key)).unwrap();
                    prop_assert_eq!(was, model.remove(&key_of(key)).is_some());
                }
                Op::Next { key } => {
                    let key = key_of(key);
                    let after = model.range(key.clone()..).next();
                    let after = after.map(|(k, v)| (k.as_slice(), v.as_slice()));
                    prop_assert!(txn.next_at_or_after(table, &key).unwrap() == after);
                    let before = model.range(..key.clone()).next_back();
                    let before = before.map(|(k, v)| (k.as_slice(), v.as_slice()));
                    prop_assert!(txn.prev_before(table, &key).unwrap() == before);
                    prop_assert!(txn.get(table, &key).unwrap() == model.get(&key).map(Vec::as_slice));
                }
                Op::Commit => {
                    let snapshot = env.read().unwrap();
                    txn.commit().unwrap();
                    assert_same(&snapshot, table, &committed);
                    committed = model.clone();
                    written = model.clone();
                    assert_same(&env.read().unwrap(), table, &committed);
                    txn = env.write().unwrap();
                }
                Op::Abort => {
                    drop(txn);
                    model = committed.clone();
                    txn = env.write().unwrap();
                }
                Op::Reopen => {
                    drop(txn);
                    drop(env);
                    // A commit that nobody wrote is as if it had never been.
                    apart = None;
                    committed = written.clone();
                    model = written.clone();
                    env = Env::open(dir.path(), &options).unwrap();
                    table = env.table("t").unwrap();
                    assert_same(&env.read().unwrap(), table, &committed);
                    txn = env.write().unwrap();
                }
            }
        }
        assert_same(&txn, table, &model);
    }
}

#[test]
fn values_of_every_length_around_the_end_of_a_run_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::open(dir.path(), &options()).unwrap();
    let table = env.table("t").unwrap();
    let lengths = || (2000..2100_usize).chain(4030..4110).chain(8130..8210).chain([70 * 1024]);
    let mut txn = env.write().unwrap();
    for len in lengths() {
        txn.put(table, &len.to_be_bytes(), &value_of(len, 1)).unwrap();
    }
    txn.commit().unwrap();
    drop(env);
    let env = Env::open(dir.path(), &options()).unwrap();
    let table = env.table("t").unwrap();
    let txn = env.read().unwrap();
    for len in lengths() {
        assert!(
            txn.get(table, &len.to_be_bytes()).unwrap() == Some(&value_of(len, 1)[..]),
            "{len}"
        );
    }
}

/// Upstream chose split points that did not fit when key and value lengths were both odd.
#[test]
fn entries_of_odd_lengths_split_pages_that_fit() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::open(dir.path(), &options()).unwrap();
    let table = env.table("t").unwrap();
    let mut model = Model::new();
    let mut txn = env.write().unwrap();
    let mut seed = 3_u64;
    for i in 0..30_000_u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut key = ((seed >> 40) % 4000).to_be_bytes().to_vec();
        key.resize(9 + (seed >> 20) as usize % 250 * 2, 5);
        let longest = [40, 400, 1700, 2100][(seed >> 60) as usize % 4];
        let value = value_of(((seed >> 30) as usize % longest) | 1, i as u8);
        txn.put(table, &key, &value).unwrap();
        model.insert(key, value);
    }
    assert_same(&txn, table, &model);
    txn.commit().unwrap();
    assert_same(&env.read().unwrap(), table, &model);
}

#[test]
fn a_transaction_of_a_hundred_thousand_puts_commits_and_reopens() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::open(dir.path(), &options()).unwrap();
    let table = env.table("t").unwrap();
    let mut model = Model::new();
    let mut txn = env.write().unwrap();
    let mut seed = 1_u64;
    for _ in 0..100_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = (seed >> 16).to_be_bytes().to_vec();
        let value = value_of((seed >> 33) as usize % 300, seed as u8);
        txn.put(table, &key, &value).unwrap();
        model.insert(key, value);
    }
    txn.commit().unwrap();
    drop(env);
    let env = Env::open(dir.path(), &options()).unwrap();
    let table = env.table("t").unwrap();
    assert_same(&env.read().unwrap(), table, &model);
}

#[test]
fn a_transaction_larger_than_the_dirty_list_spills_and_commits() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::open(dir.path(), &options()).unwrap();
    let table = env.table("t").unwrap();
    let mut txn = env.write().unwrap();
    // Each value is a page of its own: 150,000 > 2^17 dirty pages.
    let value_at = |i: u32, round: u8| value_of(2100, (i % 200) as u8 ^ round);
    for i in 0..150_000_u32 {
        txn.put(table, &i.to_be_bytes(), &value_at(i, 0)).unwrap();
    }
    for i in (0..150_000_u32).step_by(7) {
        txn.put(table, &i.to_be_bytes(), &value_at(i, 1)).unwrap();
    }
    txn.commit().unwrap();
    drop(env);
    let env = Env::open(dir.path(), &options()).unwrap();
    let table = env.table("t").unwrap();
    let txn = env.read().unwrap();
    for i in 0..150_000_u32 {
        let round = u8::from(i % 7 == 0);
        assert!(txn.get(table, &i.to_be_bytes()).unwrap() == Some(&value_at(i, round)[..]), "{i}");
    }
}

#[test]
fn a_second_opener_and_a_second_writer_are_told_busy() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::open(dir.path(), &options()).unwrap();
    assert_eq!(Env::open(dir.path(), &options()).unwrap_err().kind, Kind::Busy);
    let txn = env.write().unwrap();
    assert_eq!(env.write().unwrap_err().kind, Kind::Busy);
    assert_eq!(env.table("late").unwrap_err().kind, Kind::Busy);
    drop(txn);
    env.table("late").unwrap();
    // A transaction keeps the environment open.
    let txn = env.write().unwrap();
    drop(env);
    assert_eq!(Env::open(dir.path(), &options()).unwrap_err().kind, Kind::Busy);
    drop(txn);
    Env::open(dir.path(), &options()).unwrap();
}

#[test]
fn a_full_map_is_told_and_the_committed_state_stays() {
    let dir = tempfile::tempdir().unwrap();
    let small = OpenOptions { map_bytes_max: 1 << 20, ..options() };
    let env = Env::open(dir.path(), &small).unwrap();
    let table = env.table("t").unwrap();
    let mut txn = env.write().unwrap();
    txn.put(table, b"kept", b"value").unwrap();
    txn.commit().unwrap();
    let mut txn = env.write().unwrap();
    let error = (0..10_000_u32)
        .find_map(|i| txn.put(table, &i.to_be_bytes(), &[0; 1000]).err())
        .expect("10 MB do not fit in 1 MiB");
    assert_eq!(error.kind, Kind::Full);
    assert_eq!(txn.put(table, b"small", b"").unwrap_err().kind, Kind::Full);
    assert_eq!(txn.commit().unwrap_err().kind, Kind::Full);
    assert_eq!(env.read().unwrap().get(table, b"kept").unwrap(), Some(&b"value"[..]));
    assert_eq!(env.entries(table).unwrap(), 1);
    // A larger map makes room.
    drop(env);
    let env = Env::open(dir.path(), &options()).unwrap();
    let table = env.table("t").unwrap();
    let mut txn = env.write().unwrap();
    for i in 0..10_000_u32 {
        txn.put(table, &i.to_be_bytes(), &[0; 1000]).unwrap();
    }
    txn.commit().unwrap();
    assert!(env.used_bytes().unwrap() > 10 << 20);
    assert_eq!(env.map_bytes().unwrap(), 64 << 30);
}

#[test]
fn bad_arguments_are_errors_and_leave_the_transaction_usable() {
    let dir = tempfile::tempdir().unwrap();
    let other_dir = tempfile::tempdir().unwrap();
    let missing = Env::open(&dir.path().join("none"), &OpenOptions { create: false, ..options() });
    assert_eq!(missing.unwrap_err().kind, Kind::NotFound);
    let env = Env::open(dir.path(), &options()).unwrap();
    let other = Env::open(other_dir.path(), &options()).unwrap();
    let table = env.table("t").unwrap();
    let foreign = other.table("t").unwrap();
    let mut txn = env.write().unwrap();
    assert_eq!(txn.put(table, b"", b"").unwrap_err().kind, Kind::KeyTooLong);
    assert_eq!(txn.put(table, &[1; 512], b"").unwrap_err().kind, Kind::KeyTooLong);
    assert_eq!(txn.get(table, &[1; 512]).unwrap_err().kind, Kind::KeyTooLong);
    assert_eq!(txn.put(foreign, b"a", b"").unwrap_err().kind, Kind::Invalid);
    assert_eq!(txn.next_at_or_after(table, &[1; 600]).unwrap(), None);
    txn.put(table, &[1; 511], b"v").unwrap();
    assert!(txn.next_at_or_after(table, &[0; 600]).unwrap().is_some());
    txn.commit().unwrap();
    for name in ["a", "b", "c"] {
        env.table(name).unwrap();
    }
    assert_eq!(env.table("d").unwrap_err().kind, Kind::Limit);
    assert_eq!(env.table("t").unwrap(), table);
}

#[test]
fn a_table_opened_after_the_write_transaction_began_is_refused_in_it() {
    let dir = tempfile::tempdir().unwrap();
    {
        let env = Env::open(dir.path(), &options()).unwrap();
        env.table("t").unwrap();
    }
    let env = Env::open(dir.path(), &options()).unwrap();
    let mut txn = env.write().unwrap();
    let table = env.table("t").unwrap();
    assert_eq!(txn.get(table, b"k").unwrap_err().kind, Kind::Invalid);
    assert_eq!(txn.put(table, b"k", b"").unwrap_err().kind, Kind::Invalid);
    drop(txn);
    let mut txn = env.write().unwrap();
    txn.put(table, b"k", b"").unwrap();
    txn.commit().unwrap();
}

/// Pages given out and freed in one transaction are never written: without care the file ends
/// before the last page its meta page names, and a reopen would call it truncated.
#[test]
fn a_file_whose_last_pages_were_freed_unwritten_reopens() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..6_u8 {
        let env = Env::open(dir.path(), &options()).unwrap();
        let table = env.table("t").unwrap();
        let mut txn = env.write().unwrap();
        for i in 0..200_u32 {
            txn.put(table, &i.to_be_bytes(), &[round; 300]).unwrap();
        }
        txn.put(table, b"large", &vec![1; 600 << 10]).unwrap();
        assert!(txn.delete(table, b"large").unwrap());
        txn.commit().unwrap();
        let file_bytes = std::fs::metadata(dir.path().join("data.mdb")).unwrap().len();
        assert!(file_bytes >= env.used_bytes().unwrap());
    }
}
