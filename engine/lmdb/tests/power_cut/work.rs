//! What is written before the power goes: eight kinds of work, and a model of each commit.

use crate::disk::Rng;
use crate::record;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use weft_lmdb::{Commit, Env, Error, OpenOptions, Reader, Table, WriteTxn};

/// Values are made from these again when needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    tag: u64,
    len: usize,
}

impl Value {
    fn bytes(self) -> Vec<u8> {
        let words = self.len.div_ceil(8) as u64;
        let mut bytes: Vec<u8> =
            (0..words).flat_map(|i| (self.tag ^ i << 40).to_le_bytes()).collect();
        bytes.truncate(self.len);
        bytes
    }
}

/// One table's contents.
type Rows = BTreeMap<Vec<u8>, Value>;
/// All tables' contents.
pub(crate) type Model = Vec<Rows>;
/// What each commit left, by its number. Commit 0 is the empty environment.
pub(crate) type Models = BTreeMap<u64, Model>;

/// Where the number of the last commit is, in the first table.
const NUMBER_KEY: &[u8] = b"number";

/// A kind of work.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) tables: &'static [&'static str],
    /// Commits in one recording, at most.
    commits_max: usize,
    /// Changes in one commit, at most.
    changes_max: usize,
    keys: usize,
    key_bytes: usize,
    /// Of the changes; the odd and the even commits'.
    delete_percent: [usize; 2],
    /// One value in so many is long; `(short, long)` are the longest.
    long_one_in: usize,
    value_bytes_max: (usize, usize),
    /// Pages a transaction keeps in memory; all of them without.
    changed_pages_max: Option<u32>,
    /// Commits are made apart: each is written while the next transaction goes on.
    apart: bool,
}

pub(crate) const SHAPES: [Shape; 8] = [
    // As the chunk index is used: few tables, a checkpoint's records at a time.
    Shape {
        name: "index",
        tables: &["chunks", "meta"],
        commits_max: 6,
        changes_max: 40,
        keys: 400,
        key_bytes: 16,
        delete_percent: [20, 20],
        long_one_in: 10,
        value_bytes_max: (600, 3000),
        changed_pages_max: None,
        apart: false,
    },
    // As the namespace is used: many tables, everything since the last checkpoint at once.
    Shape {
        name: "volume",
        tables: &["inodes", "entries", "xattrs", "orphans", "works", "slots", "meta"],
        commits_max: 3,
        changes_max: 400,
        keys: 500,
        key_bytes: 18,
        delete_percent: [30, 40],
        long_one_in: 40,
        value_bytes_max: (300, 4096),
        changed_pages_max: None,
        apart: false,
    },
    // Runs of pages come, go and change their length.
    Shape {
        name: "runs",
        tables: &["runs"],
        commits_max: 8,
        changes_max: 6,
        keys: 24,
        key_bytes: 12,
        delete_percent: [30, 30],
        long_one_in: 1,
        value_bytes_max: (1, 40_000),
        changed_pages_max: None,
        apart: false,
    },
    // Filled and emptied: the free list is long, and its pages are used again.
    Shape {
        name: "churn",
        tables: &["a", "b"],
        commits_max: 10,
        changes_max: 150,
        keys: 150,
        key_bytes: 200,
        delete_percent: [5, 95],
        long_one_in: 30,
        value_bytes_max: (200, 9000),
        changed_pages_max: None,
        apart: false,
    },
    // The file grows with each commit.
    Shape {
        name: "growth",
        tables: &["t"],
        commits_max: 5,
        changes_max: 60,
        keys: 1 << 30,
        key_bytes: 16,
        delete_percent: [0, 2],
        long_one_in: 20,
        value_bytes_max: (400, 20_000),
        changed_pages_max: None,
        apart: false,
    },
    // As the chunk index is used where there is little memory: most of a commit is written before it.
    Shape {
        name: "early",
        tables: &["chunks", "space", "meta"],
        commits_max: 4,
        changes_max: 400,
        keys: 2_000,
        key_bytes: 16,
        delete_percent: [20, 60],
        long_one_in: 10,
        value_bytes_max: (600, 9000),
        changed_pages_max: Some(32),
        apart: false,
    },
    // As the namespace is used: changes go on while a checkpoint is written.
    Shape {
        name: "apart",
        tables: &["inodes", "entries", "xattrs", "orphans", "works", "slots", "meta"],
        commits_max: 8,
        changes_max: 200,
        keys: 500,
        key_bytes: 18,
        delete_percent: [30, 60],
        long_one_in: 20,
        value_bytes_max: (300, 9000),
        changed_pages_max: None,
        apart: true,
    },
    // The same, and the next transaction writes most of what it changes before the commit under it is written.
    Shape {
        name: "apart-early",
        tables: &["chunks", "space", "meta"],
        commits_max: 5,
        changes_max: 400,
        keys: 2_000,
        key_bytes: 16,
        delete_percent: [20, 60],
        long_one_in: 10,
        value_bytes_max: (600, 9000),
        changed_pages_max: Some(32),
        apart: true,
    },
];

impl Shape {
    pub(crate) fn options(&self, create: bool) -> OpenOptions {
        let changed_pages_max = self.changed_pages_max;
        OpenOptions { create, changed_pages_max, ..OpenOptions::default() }
    }
}

/// An open environment and its tables.
pub(crate) struct Opened {
    pub(crate) env: Env,
    tables: Vec<Table>,
}

impl Shape {
    pub(crate) fn empty(&self) -> Model {
        vec![Rows::new(); self.tables.len()]
    }

    pub(crate) fn open(&self, dir: &std::path::Path, create: bool) -> Result<Opened, Error> {
        let env = Env::open(dir, &self.options(create))?;
        let tables = self.tables.iter().map(|name| env.table(name)).collect::<Result<_, _>>()?;
        Ok(Opened { env, tables })
    }

    /// Some commits, and transactions that are given up, each noted in `models` and in the
    /// recording.
    pub(crate) fn run(&self, opened: &Opened, models: &mut Models, rng: &mut Rng) {
        if self.apart {
            return self.run_apart(opened, models, rng);
        }
        let mut snapshot = None;
        for _ in 0..1 + rng.below(self.commits_max) {
            if rng.one_in(12) {
                // A reader keeps freed pages from being used again for a while.
                snapshot = Some(opened.env.read().expect("the environment is good"));
            } else if rng.one_in(3) {
                snapshot = None;
            }
            if rng.one_in(4) {
                let used_bytes = opened.env.used_bytes().expect("LMDB knows it");
                let ahead_bytes = rng.next() % (1 << 19);
                opened.env.reserve(used_bytes + ahead_bytes).expect("there is room");
            }
            if rng.one_in(8) {
                let mut given_up = opened.env.write().expect("the environment is good");
                self.change(opened, &mut given_up, &mut self.empty(), 1, rng).expect("it has room");
            }
            let (n, model) = self.commit(opened, models, rng).expect("the environment is good");
            record::acknowledged(n);
            models.insert(n, model);
        }
        drop(snapshot);
    }

    /// Commits, each written at some moment of the next one's changes, or before them, or after.
    fn run_apart(&self, opened: &Opened, models: &mut Models, rng: &mut Rng) {
        let mut under_way: Option<(u64, Commit)> = None;
        let mut snapshot = None;
        for _ in 0..1 + rng.below(self.commits_max) {
            let (last, model) = models.last_key_value().expect("commit 0 is always there");
            let (n, mut model) = (last + 1, model.clone());
            let mut txn = opened.env.write().expect("the environment is good");
            for part in 0..3 {
                if rng.one_in(3) || part == 2 {
                    write_out(under_way.take(), &mut txn);
                }
                if rng.one_in(6) {
                    snapshot = Some(opened.env.read().expect("the environment is good"));
                } else if rng.one_in(3) {
                    snapshot = None;
                }
                self.change(opened, &mut txn, &mut model, n, rng).expect("it has room");
            }
            txn.put(opened.tables[0], NUMBER_KEY, &n.to_be_bytes()).expect("it has room");
            self.check_rows(opened, &txn, n, &model).expect("what was changed can be read");
            let commit = txn.commit_apart().expect("none is under way").expect("much changed");
            under_way = Some((n, commit));
            models.insert(n, model);
        }
        if rng.one_in(4) {
            return; // Never written: the environment is closed over it.
        }
        let mut txn = opened.env.write().expect("the environment is good");
        write_out(under_way.take(), &mut txn);
        drop(snapshot);
    }

    /// One commit: its number, and what it leaves.
    pub(crate) fn commit(
        &self,
        opened: &Opened,
        models: &Models,
        rng: &mut Rng,
    ) -> Result<(u64, Model), Error> {
        let (last, model) = models.last_key_value().expect("commit 0 is always there");
        let (n, mut model) = (last + 1, model.clone());
        let mut txn = opened.env.write()?;
        self.change(opened, &mut txn, &mut model, n, rng)?;
        txn.put(opened.tables[0], NUMBER_KEY, &n.to_be_bytes())?;
        txn.commit()?;
        Ok((n, model))
    }

    fn change(
        &self,
        opened: &Opened,
        txn: &mut WriteTxn,
        model: &mut Model,
        n: u64,
        rng: &mut Rng,
    ) -> Result<(), Error> {
        for _ in 0..1 + rng.below(self.changes_max) {
            let which = rng.below(self.tables.len());
            let (table, rows) = (opened.tables[which], &mut model[which]);
            let mut key = rng.below(self.keys).to_be_bytes().to_vec();
            key.resize(self.key_bytes, b'k');
            if rng.below(100) < self.delete_percent[(n % 2) as usize] {
                // Mostly one that is there.
                let there = rows.range(key.clone()..).next().map(|(key, _)| key.clone());
                let key = there.unwrap_or(key);
                txn.delete(table, &key)?;
                rows.remove(&key);
            } else {
                let (short, long) = self.value_bytes_max;
                let max = if rng.one_in(self.long_one_in) { long } else { short };
                let value = Value { tag: rng.next(), len: rng.below(max + 1) };
                txn.put(table, &key, &value.bytes())?;
                rows.insert(key, value);
            }
        }
        Ok(())
    }

    /// The number of the last commit, if the environment holds exactly what that commit left.
    pub(crate) fn check(&self, opened: &Opened, models: &Models) -> Result<u64, String> {
        let told = |e: Error| format!("read: {e}");
        let txn = opened.env.read().map_err(told)?;
        let n = match txn.get(opened.tables[0], NUMBER_KEY).map_err(told)? {
            Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| "a bad number")?),
            None => 0,
        };
        let model = models.get(&n).ok_or(format!("commit {n} was never begun"))?;
        self.check_rows(opened, &txn, n, model)?;
        Ok(n)
    }

    /// Whether a transaction sees exactly what commit `n` leaves.
    fn check_rows(
        &self,
        opened: &Opened,
        txn: &impl Reader,
        n: u64,
        model: &Model,
    ) -> Result<(), String> {
        for (table, rows) in opened.tables.iter().zip(model) {
            let mut expect = rows.iter();
            let mut wrong = None;
            txn.scan(*table, b"", &mut |key, value| {
                if key == NUMBER_KEY {
                    return ControlFlow::Continue(());
                }
                match expect.next() {
                    Some((k, v)) if k == key && v.bytes() == value => ControlFlow::Continue(()),
                    other => {
                        wrong = Some(format!("commit {n}: {other:?} expected at {key:?}"));
                        ControlFlow::Break(())
                    }
                }
            })
            .map_err(|e| format!("read: {e}"))?;
            if let Some(wrong) = wrong {
                return Err(wrong);
            }
            if let Some(missing) = expect.next() {
                return Err(format!("commit {n}: {missing:?} is missing"));
            }
        }
        Ok(())
    }
}

/// The commit that `txn` is on top of is written, if there is one.
fn write_out(commit: Option<(u64, Commit)>, txn: &mut WriteTxn) {
    let Some((n, commit)) = commit else { return };
    txn.written(commit.write()).expect("the disk is good");
    record::acknowledged(n);
}
