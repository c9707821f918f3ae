//! Power cuts: whatever of the unsynced writes reaches the disk, the environment opens as of the
//! last acknowledged commit, or the one under way, and goes on from there (`doc/power_cuts.md`).
//!
//! A seed is a life of one environment: a recorded piece of work, cut at many places, each image
//! opened and checked; the last of them is where the next piece of work starts. A failure names
//! its seed: `WEFT_POWER_CUT_SEED=shape:seed` runs that one, `WEFT_POWER_CUT_SEEDS=n` more of them.

#![allow(unsafe_code, reason = "the recorder stands in for functions of libc")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    reason = "a test: numbers are small or pseudo-random; the recorder's macro carries one comment"
)]

mod creation;
mod disk;
mod pages;
mod record;
mod work;

use disk::{Disk, Rng};
use record::Op;
use std::fs;
use std::path::Path;
use work::{Models, SHAPES, Shape};

/// Pieces of work in a life.
const ROUNDS: usize = 4;
/// Power cuts of each.
const CUTS: usize = 16;
/// Lives of each shape in a usual run.
const SEEDS: u64 = 10;
/// Lives within which a planted fault must be found.
const PLANTED_SEEDS: u64 = 10;

/// A fault that the checks must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    /// The sync before the meta page is left out.
    NoSync,
    /// The meta page is written without waiting for it.
    MetaNotSynced,
    /// The meta page goes out before the sync of what it leads to.
    MetaFirst,
    /// The last write of a commit comes after its sync.
    SyncTooEarly,
}

/// How often an image came back as what.
#[derive(Default, Debug)]
struct Tally {
    as_acknowledged: u64,
    as_under_way: u64,
    torn: u64,
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory")
}

fn life(
    shape: &Shape,
    seed: u64,
    planted: Option<Planted>,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut rng = Rng(seed);
    let dir = temp();
    let data = dir.path().join("data.mdb");
    drop(shape.open(dir.path(), true).map_err(|e| e.to_string())?);
    let mut base = fs::read(&data).expect("just made");
    let mut models = Models::from([(0, shape.empty())]);
    for round in 0..ROUNDS {
        fs::write(&data, &base).expect("there is room");
        let first = *models.last_key_value().expect("there is one").0;
        let mut ops = record::record(|| {
            let opened = shape.open(dir.path(), false).expect("checked before");
            shape.run(&opened, &mut models, &mut rng);
        });
        let mut whole = Disk::new(base.clone());
        ops.iter().for_each(|op| whole.done(op));
        assert!(whole.cached() == fs::read(&data).expect("there"), "not all was recorded");
        plant(&mut ops, planted);
        for index in 0..CUTS {
            let at = place_of_cut(&ops, &mut rng);
            let (image, acknowledged) = cut(&base, &ops, at, first, &mut rng);
            tally.torn += u64::from(image != cut(&base, &ops, at, first, &mut Rng(1)).0);
            let n = verify(shape, dir.path(), &image, &models, acknowledged, &mut rng)
                .map_err(|e| format!("round {round}, cut {index} at {at} of {}: {e}", ops.len()))?;
            tally.as_acknowledged += u64::from(n == acknowledged);
            tally.as_under_way += u64::from(n > acknowledged);
            if index == CUTS - 1 {
                base = image;
                models.split_off(&(n + 1));
            }
        }
    }
    Ok(())
}

/// Half of the cuts anywhere, half next to a sync or a meta page.
fn place_of_cut(ops: &[Op], rng: &mut Rng) -> usize {
    let at = rng.below(ops.len() + 1);
    let is_edge = |op: &Op| matches!(op, Op::Sync | Op::Write { synced: true, .. });
    if rng.one_in(2) {
        return at;
    }
    let edge = ops[at..].iter().position(is_edge).map_or(ops.len(), |i| at + i);
    (edge + rng.below(3)).saturating_sub(1).min(ops.len())
}

/// What is left when the power goes while operation `at` is under way; and the last commit that
/// was acknowledged.
fn cut(base: &[u8], ops: &[Op], at: usize, first: u64, rng: &mut Rng) -> (Vec<u8>, u64) {
    let mut disk = Disk::new(base.to_vec());
    let mut acknowledged = first;
    for op in &ops[..at] {
        disk.done(op);
        if let Op::Acknowledged(n) = op {
            acknowledged = *n;
        }
    }
    if let Some(op) = ops.get(at) {
        disk.begun(op);
    }
    (disk.cut(rng), acknowledged)
}

fn verify(
    shape: &Shape,
    dir: &Path,
    image: &[u8],
    models: &Models,
    acknowledged: u64,
    rng: &mut Rng,
) -> Result<u64, String> {
    let data = dir.join("data.mdb");
    fs::write(&data, image).expect("there is room");
    let opened = shape.open(dir, false).map_err(|e| format!("open: {e}"))?;
    // Tables that a cut unmade are made again by the opening.
    pages::check(&fs::read(&data).expect("there"))?;
    let n = shape.check(&opened, models)?;
    if n < acknowledged {
        return Err(format!("commit {acknowledged} was acknowledged, {n} is there"));
    }
    let mut models = models.clone();
    models.split_off(&(n + 1));
    for _ in 0..2 {
        let (n, model) = shape.commit(&opened, &models, rng).map_err(|e| format!("later: {e}"))?;
        models.insert(n, model);
        shape.check(&opened, &models).map_err(|e| format!("after a later commit: {e}"))?;
    }
    pages::check(&fs::read(&data).expect("there")).map_err(|e| format!("later: {e}"))?;
    Ok(n)
}

fn plant(ops: &mut Vec<Op>, planted: Option<Planted>) {
    let Some(planted) = planted else { return };
    let is_meta = |op: &Op| matches!(op, Op::Write { synced: true, .. });
    match planted {
        Planted::NoSync => ops.retain(|op| *op != Op::Sync),
        Planted::MetaNotSynced => {
            for op in ops {
                if let Op::Write { synced, .. } = op {
                    *synced = false;
                }
            }
        }
        Planted::MetaFirst => {
            for at in 1..ops.len() {
                if ops[at - 1] == Op::Sync && is_meta(&ops[at]) {
                    ops.swap(at - 1, at);
                }
            }
        }
        Planted::SyncTooEarly => {
            for at in 1..ops.len() {
                if ops[at] == Op::Sync && matches!(ops[at - 1], Op::Write { .. }) {
                    ops.swap(at - 1, at);
                }
            }
        }
    }
}

fn lives(name: &str) {
    let shape = SHAPES.iter().find(|shape| shape.name == name).expect("a shape's name");
    let one = std::env::var("WEFT_POWER_CUT_SEED").ok();
    let many = std::env::var("WEFT_POWER_CUT_SEEDS").ok();
    let seeds = match (&one, &many) {
        (Some(one), _) => match one.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')) {
            Some(seed) => seed.parse().map(|seed| seed..seed + 1).expect("shape:number"),
            None => return,
        },
        (None, Some(many)) => 0..many.parse().expect("WEFT_POWER_CUT_SEEDS is a number"),
        (None, None) => 0..SEEDS,
    };
    let mut tally = Tally::default();
    for seed in seeds {
        if let Err(wrong) = life(shape, seed, None, &mut tally) {
            panic!("WEFT_POWER_CUT_SEED={name}:{seed}: {wrong}");
        }
    }
    println!("{name}: {tally:?}");
    assert!(
        one.is_some() || tally.as_acknowledged > 20 && tally.as_under_way > 5 && tally.torn > 20,
        "the cuts were no test: {tally:?}"
    );
}

#[test]
fn an_index_survives() {
    lives("index");
}

#[test]
fn a_volume_survives() {
    lives("volume");
}

#[test]
fn runs_of_pages_survive() {
    lives("runs");
}

#[test]
fn a_long_free_list_survives() {
    lives("churn");
}

#[test]
fn a_growing_file_survives() {
    lives("growth");
}

#[test]
fn what_is_written_before_the_commit_survives() {
    lives("early");
}

#[test]
fn commits_written_while_changes_go_on_survive() {
    lives("apart");
}

#[test]
fn commits_written_while_changes_are_written_early_survive() {
    lives("apart-early");
}

#[test]
fn planted_faults_are_found() {
    let all = [Planted::NoSync, Planted::MetaNotSynced, Planted::MetaFirst, Planted::SyncTooEarly];
    for planted in all {
        for shape in &SHAPES {
            let mut tally = Tally::default();
            let found = (0..PLANTED_SEEDS)
                .find_map(|seed| Some((seed, life(shape, seed, Some(planted), &mut tally).err()?)));
            let (seed, what) = found.expect("a planted fault is found");
            println!("{planted:?}, {}: seed {seed}, {what}", shape.name);
        }
    }
}
