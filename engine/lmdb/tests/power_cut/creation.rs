//! Power cuts while an environment is made: there is none, or a whole one.

use crate::disk::{Disk, Rng};
use crate::record::{self, Op};
use crate::work::{Models, SHAPES};
use crate::{pages, temp};
use std::fs;
use std::path::Path;
use weft_lmdb::Kind;

/// Images of each place of the cut.
const CUTS: u64 = 24;

/// What the directories hold after a cut: names are durable once their directory was synced,
/// before that they may be there or not.
struct Names {
    dir: bool,
    data: bool,
}

fn names(ops: &[Op], dir: &Path, rng: &mut Rng) -> Names {
    let parent = dir.parent().expect("it is in one");
    let place = |wanted: &dyn Fn(&Op) -> bool| ops.iter().position(wanted);
    let mut is_there = |made: Option<usize>, holder: &Path| {
        made.is_some_and(|made| {
            let synced = Op::SyncDir(holder.to_owned());
            ops[made..].contains(&synced) || rng.one_in(2)
        })
    };
    Names {
        dir: is_there(place(&|op| *op == Op::MakeDir(dir.to_owned())), parent),
        data: is_there(place(&|op| *op == Op::Rename), dir),
    }
}

/// Rebuilds what a cut at `at` leaves, opens it, says what is wrong.
fn verify(ops: &[Op], at: usize, recorded_dir: &Path, rng: &mut Rng) -> Result<(), String> {
    let shape = &SHAPES[0];
    let mut disk = Disk::new(Vec::new());
    ops[..at].iter().for_each(|op| disk.done(op));
    if let Some(op) = ops.get(at) {
        disk.begun(op);
    }
    let under_way = (at + 1).min(ops.len());
    let names = names(&ops[..under_way], recorded_dir, rng);
    let acknowledged = ops[..at].contains(&Op::Acknowledged(1));
    let holder = temp();
    let dir = holder.path().join("env");
    if names.dir {
        fs::create_dir(&dir).expect("new");
        if names.data {
            fs::write(dir.join("data.mdb"), disk.cut(rng)).expect("there is room");
        }
        if rng.one_in(2) {
            fs::create_dir(dir.join("new")).expect("new");
            fs::write(dir.join("new/data.mdb"), disk.cut(rng)).expect("there is room");
        }
        if rng.one_in(2) {
            fs::write(dir.join("owner.lock"), b"").expect("there is room");
        }
    }
    let whole = names.dir && names.data;
    match weft_lmdb::Env::open(&dir, &weft_lmdb::OpenOptions::default()) {
        Err(e) if e.kind == Kind::NotFound || !names.dir => {
            if whole || acknowledged {
                return Err(format!("commit 1 was acknowledged: {acknowledged}; {e}"));
            }
        }
        Err(e) => return Err(format!("open: {e}")),
        Ok(_) if !whole => return Err("opened from nothing".to_owned()),
        Ok(_) => {}
    }
    let opened = shape.open(&dir, true).map_err(|e| format!("open or make: {e}"))?;
    pages::check(&fs::read(dir.join("data.mdb")).expect("there"))?;
    let (_, model) =
        MODEL.with_borrow(|m| m.last_key_value().map(|(n, m)| (*n, m.clone()))).expect("recorded");
    let mut models = Models::from([(0, shape.empty()), (1, model)]);
    let n = shape.check(&opened, &models)?;
    if acknowledged && n == 0 {
        return Err("the acknowledged commit is gone".to_owned());
    }
    models.split_off(&(n + 1));
    shape.commit(&opened, &models, rng).map(drop).map_err(|e| format!("later: {e}"))
}

thread_local! {
    static MODEL: std::cell::RefCell<Models> = const { std::cell::RefCell::new(Models::new()) };
}

/// Makes an environment in a new directory, and one commit.
fn recording(dir: &Path) -> Vec<Op> {
    let shape = &SHAPES[0];
    record::record(|| {
        let opened = shape.open(dir, true).expect("there is room");
        let models = Models::from([(0, shape.empty())]);
        let (n, model) = shape.commit(&opened, &models, &mut Rng(7)).expect("there is room");
        record::acknowledged(n);
        MODEL.set(Models::from([(n, model)]));
    })
}

fn cut_everywhere(ops: &[Op], dir: &Path) -> Result<(), String> {
    for at in 0..=ops.len() {
        for seed in 0..CUTS {
            verify(ops, at, dir, &mut Rng(seed)).map_err(|e| {
                format!("seed {seed}, cut at {at} of {}, {:?}: {e}", ops.len(), ops.get(at))
            })?;
        }
    }
    Ok(())
}

#[test]
fn an_environment_is_made_whole_or_not_at_all() {
    let holder = temp();
    let dir = holder.path().join("env");
    let ops = recording(&dir);
    cut_everywhere(&ops, &dir).expect("whole or not at all");
    // Each of the syncs is needed: without it, a cut is found that shows it.
    let syncs = [
        ("a sync of the file", Op::Sync),
        ("the sync of its directory", Op::SyncDir(dir.clone())),
        ("the sync of that one's directory", Op::SyncDir(holder.path().into())),
    ];
    for (what, sync) in syncs {
        let mut faulty = ops.clone();
        let first = faulty.iter().position(|op| *op == sync);
        faulty.remove(first.unwrap_or_else(|| panic!("{what} is not there at all")));
        let found = cut_everywhere(&faulty, &dir).expect_err(what);
        println!("without {what}: {found}");
    }
}
