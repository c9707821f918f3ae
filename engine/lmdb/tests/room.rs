//! A full disk: what is set aside stays usable to the last byte, and a commit that fits in it does
//! not fail. Files cannot grow beyond `ulimit -f` in the child processes here, as on a full disk.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use weft_lmdb::{Env, Kind, OpenOptions, Reader, Table};

const MIB: u64 = 1 << 20;
/// What `ulimit -f` of the children comes to.
const DISK_BYTES: u64 = 12 * MIB;
const MAP_BYTES: u64 = 64 * MIB;

fn open(dir: &Path) -> (Env, Table) {
    let options = OpenOptions { map_bytes_max: MAP_BYTES, create: true, ..OpenOptions::default() };
    let env = Env::open(dir, &options).unwrap();
    let table = env.table("t").unwrap();
    (env, table)
}

fn key(n: u64) -> [u8; 8] {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()
}

#[test]
fn what_is_set_aside_is_allocated() {
    let dir = tempfile::tempdir().unwrap();
    let (env, table) = open(dir.path());
    assert_eq!(env.reserved_bytes(), 0);
    env.reserve(8 * MIB).unwrap();
    env.reserve(MIB).unwrap();
    assert_eq!(env.reserved_bytes(), 8 * MIB);
    let file = std::fs::metadata(dir.path().join("data.mdb")).unwrap();
    assert!(file.blocks() * 512 >= 8 * MIB, "{} blocks", file.blocks());
    assert!(file.len() < MIB, "the length goes with the contents");
    // It is room, not contents: the rest of the disk and of the map is still free besides.
    assert!(env.free_bytes().unwrap() > 50 * MIB && env.used_bytes().unwrap() < MIB);
    let mut txn = env.write().unwrap();
    txn.put(table, b"k", b"v").unwrap();
    txn.commit().unwrap();
    drop(env);
    let (env, table) = open(dir.path());
    assert_eq!(env.read().unwrap().get(table, b"k").unwrap(), Some(&b"v"[..]));
    // The map is the end of it.
    env.reserve(u64::MAX).unwrap();
    assert_eq!(env.reserved_bytes(), MAP_BYTES);
    assert!(env.free_bytes().unwrap() < MAP_BYTES);
}

#[test]
fn commits_within_what_is_set_aside_fit() {
    let dir = tempfile::tempdir().unwrap();
    let (env, table) = open(dir.path());
    for round in 0..60 {
        let mut txn = env.write().unwrap();
        for n in 0..200 {
            let n = round * 37 + n * 11 % 3000;
            if (n + round) % 3 == 0 {
                txn.delete(table, &key(n)).unwrap();
            } else {
                let len = if n % 40 == 0 { 9000 } else { n % 300 };
                txn.put(table, &key(n), &vec![1; usize::try_from(len).unwrap()]).unwrap();
            }
        }
        let promised = txn.commit_bytes();
        assert!(txn.dirty_bytes() >= 4096);
        txn.commit().unwrap();
        assert!(env.used_bytes().unwrap() <= promised, "round {round}: longer than it said");
    }
}

/// What is changed in one transaction takes no more memory than it is given, in any order of keys, and is all there.
#[test]
fn a_long_transaction_keeps_to_its_pages() {
    const PAGES_MAX: u32 = 64;
    const KEYS: u64 = 40_000;
    let dir = tempfile::tempdir().unwrap();
    let options =
        OpenOptions { changed_pages_max: Some(PAGES_MAX), create: true, ..OpenOptions::default() };
    let env = Env::open(dir.path(), &options).unwrap();
    let table = env.table("t").unwrap();
    for round in 0..3_u8 {
        let mut txn = env.write().unwrap();
        let mut most = 0;
        for n in 0..KEYS {
            // Scattered, and short enough for no runs of pages, which `dirty_bytes` would count for ever.
            txn.put(table, &key(n), &[round; 300]).unwrap();
            most = most.max(txn.dirty_bytes() / 4096);
        }
        // One change may need some pages at once: two ways down the tree, twice.
        assert!(most <= u64::from(PAGES_MAX) + 16, "{most} pages in memory");
        assert!(most > u64::from(PAGES_MAX) / 2, "the test changed too little");
        if round == 1 {
            drop(txn); // What was written early counts for nothing.
        } else {
            txn.commit().unwrap();
        }
        let expected = if round == 1 { 0 } else { round };
        let (env, txn) = (&env, env.read().unwrap());
        assert_eq!(env.entries(table).unwrap(), KEYS);
        assert!((0..KEYS).all(|n| txn.get(table, &key(n)).unwrap() == Some(&[expected; 300][..])));
    }
}

/// Runs `name` of this binary where no file can be longer than [`DISK_BYTES`].
fn on_a_full_disk(name: &str) {
    // dash counts 512 bytes. The signal of a file too long would end the process.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", DISK_BYTES / 512);
    let output = Command::new("/bin/dash")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "the child ran no test: {text}");
}

#[test]
fn a_full_disk_is_met_before_the_commit() {
    on_a_full_disk("child_fills_the_disk");
}

#[test]
#[ignore = "run by a_full_disk_is_met_before_the_commit under ulimit -f"]
fn child_fills_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (env, table) = open(dir.path());
    assert_eq!(env.reserve(DISK_BYTES + MIB).unwrap_err().kind, Kind::Full);
    let blocks = std::fs::metadata(dir.path().join("data.mdb")).unwrap().blocks();
    assert!(blocks * 512 < MIB, "a reservation that failed keeps nothing: {blocks}");
    env.reserve(DISK_BYTES).unwrap();
    let mut count = 0;
    loop {
        let mut txn = env.write().unwrap();
        for n in count..count + 500 {
            txn.put(table, &key(n), &[7; 300]).unwrap();
        }
        if txn.commit_bytes() > env.reserved_bytes() {
            break;
        }
        txn.commit().unwrap();
        count += 500;
    }
    assert!(count > 10_000, "{count}");
    // All of it goes again, in small steps, within what is set aside.
    for start in (0..count).step_by(50) {
        let mut txn = env.write().unwrap();
        for n in start..start + 50 {
            assert!(txn.delete(table, &key(n)).unwrap());
        }
        assert!(txn.commit_bytes() <= env.reserved_bytes(), "no room to delete at {start}");
        txn.commit().unwrap();
    }
    assert_eq!(env.entries(table).unwrap(), 0);
    // Without the question a commit fails, changes nothing, and harms nothing.
    let mut txn = env.write().unwrap();
    for n in 0..60_000 {
        txn.put(table, &key(n), &[8; 300]).unwrap();
    }
    assert!(txn.commit_bytes() > env.reserved_bytes());
    assert_eq!(txn.commit().unwrap_err().kind, Kind::Full);
    let mut txn = env.write().unwrap();
    assert_eq!(txn.entries(table).unwrap(), 0);
    txn.put(table, b"after", b"1").unwrap();
    txn.commit().unwrap();
}

/// It is written through a map: where its blocks are not there on a full disk, that is SIGBUS.
#[test]
fn the_reader_table_keeps_its_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("env");
    let options = OpenOptions { create: true, ..OpenOptions::default() };
    let table = || std::fs::metadata(path.join("lock.mdb")).unwrap();
    drop(Env::open(&path, &options).unwrap());
    let before = table();
    assert!(before.blocks() * 512 >= before.len() && before.len() > 0, "{before:?}");
    for garbage in [vec![0xff; 4096], vec![0x55; usize::try_from(before.len()).unwrap()]] {
        std::fs::write(path.join("lock.mdb"), &garbage).unwrap();
        let env = Env::open(&path, &options).unwrap();
        let read = env.read().unwrap();
        drop((read, env));
        assert!(table().blocks() * 512 >= table().len());
    }
    std::fs::File::create(path.join("lock.mdb")).unwrap().set_len(1 << 40).unwrap();
    drop(Env::open(&path, &options).unwrap());
    assert_eq!(table().len(), before.len());
}
