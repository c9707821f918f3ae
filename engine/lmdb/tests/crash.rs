//! kill -9 in the middle of commits: what reopens is a committed state, and none is lost.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that fails panics; the narrowed numbers are pseudo-random"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use weft_lmdb::{Env, OpenOptions, Reader};

const DIR_VARIABLE: &str = "WEFT_LMDB_CRASH_DIR";
const KEYS: u64 = 40;

fn options() -> OpenOptions {
    OpenOptions { map_bytes_max: 1 << 30, create: true, tables_max: 4, ..OpenOptions::default() }
}

/// What transaction `n` leaves at `key`: its length moves, so pages and runs come and go.
fn value_of(n: u64, key: u64) -> Vec<u8> {
    vec![(n + key) as u8; ((n * 37 + key * 911) % 6000) as usize]
}

fn committed(dir: &Path) -> u64 {
    let env = Env::open(dir, &options()).unwrap();
    let table = env.table("t").unwrap();
    let txn = env.read().unwrap();
    let Some(bytes) = txn.get(table, b"n").unwrap() else {
        assert_eq!(txn.entries(table).unwrap(), 0);
        return 0;
    };
    let n = u64::from_be_bytes(bytes.try_into().unwrap());
    for key in 0..KEYS {
        assert!(txn.get(table, &key.to_be_bytes()).unwrap() == Some(&value_of(n, key)[..]));
    }
    assert_eq!(txn.entries(table).unwrap(), KEYS + 1);
    n
}

#[test]
fn a_killed_writer_leaves_the_last_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..25_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_commits_until_killed", "--ignored", "--nocapture"])
            .env(DIR_VARIABLE, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines
            .map(Result::unwrap)
            .filter_map(|line| line.strip_prefix("committed ").map(|n| n.parse::<u64>().unwrap()))
            .nth(round * 7 % 20)
            .expect("the child commits until it is killed");
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        let found = committed(dir.path());
        assert!(found >= said, "commit {said} was acknowledged, {found} is there");
        assert!(found > last, "round {round} got no further");
        last = found;
    }
}

#[test]
#[ignore = "run by a_killed_writer_leaves_the_last_commit, which kills it"]
fn child_commits_until_killed() {
    let dir = std::env::var_os(DIR_VARIABLE).expect("started by its parent");
    let start = committed(Path::new(&dir));
    let env = Env::open(Path::new(&dir), &options()).unwrap();
    let table = env.table("t").unwrap();
    for n in start + 1.. {
        let mut txn = env.write().unwrap();
        for key in 0..KEYS {
            txn.put(table, &key.to_be_bytes(), &value_of(n, key)).unwrap();
        }
        txn.put(table, b"n", &n.to_be_bytes()).unwrap();
        txn.commit().unwrap();
        println!("committed {n}");
        std::io::stdout().flush().unwrap();
    }
}
