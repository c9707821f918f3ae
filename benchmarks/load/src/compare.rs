//! A comparison: every load in every directory, in turn, some rounds over. Directories alternate within a round, and
//! every other round goes through them backwards, so that what drifts (a busy neighbour, a filling disk) hits all.
//!
//! A step that fails in a directory is not tried there again; its rows say so, and the run ends with exit code 1.

use crate::clock;
use crate::cpu::Daemons;
use crate::error::{At, Error, Kind, Result};
use crate::host::{self, Host};
use crate::rows::{Load, ROWS, Row};
use crate::sample::{Recorder, Sample};
use crate::scratch::Scratch;
use crate::tree::Archive;
use crate::{fio, meta};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The mount's and the local directory's places among a run's directories; peers follow.
pub(crate) const MOUNT: usize = 0;
pub(crate) const LOCAL: usize = 1;

/// What to run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Label and path: mount, local, peers.
    pub(crate) directories: Vec<(String, PathBuf)>,
    pub(crate) round_count: u32,
    pub(crate) file_bytes: u64,
    pub(crate) runtime_s: u32,
    pub(crate) limit_s: u32,
    pub(crate) meta: meta::Settings,
    pub(crate) loads: BTreeSet<Load>,
    pub(crate) daemon_pids: Vec<u32>,
}

/// A directory, as the report names it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) label: String,
    pub(crate) path: PathBuf,
    pub(crate) file_system: String,
}

impl Place {
    /// Whether it lies on a Weft mount, going by the type in the mount table.
    pub(crate) fn is_weft(&self) -> bool {
        self.file_system.starts_with("fuse.weft")
    }
}

/// Everything a run found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) date: String,
    pub(crate) host: Host,
    pub(crate) places: Vec<Place>,
    /// fio's engine for parallel direct I/O; empty without fio rows.
    pub(crate) engine: &'static str,
    /// What a reader of the figures must know.
    pub(crate) notes: Vec<String>,
    /// By row id and place.
    pub(crate) samples: BTreeMap<(&'static str, usize), Vec<Sample>>,
    pub(crate) failures: BTreeMap<(&'static str, usize), String>,
}

/// What runs in a directory before the next directory's turn: one fio job, or a whole other load.
struct Step {
    load: Load,
    rows: Vec<&'static Row>,
}

fn steps(loads: &BTreeSet<Load>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for row in ROWS.iter().filter(|row| loads.contains(&row.load)) {
        match steps.last_mut() {
            Some(step) if step.load == row.load && row.load != Load::Fio => step.rows.push(row),
            _ => steps.push(Step { load: row.load, rows: vec![row] }),
        }
    }
    steps
}

/// The order of directories in a round.
fn turns(place_count: usize, round: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..place_count).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

struct Run<'a> {
    plan: &'a Plan,
    daemons: Daemons,
    scratches: Vec<Scratch>,
    /// Places whose file system hangs.
    stuck: BTreeSet<usize>,
    fio: fio::Settings,
    archive: Option<Archive>,
    outcome: Outcome,
}

/// Runs the plan. An error here is one that leaves nothing to report; what fails later is in the outcome.
pub(crate) fn run(plan: &Plan) -> Result<Outcome> {
    let mut run = Run::prepare(plan)?;
    for round in 0..plan.round_count {
        for step in &steps(&plan.loads) {
            for place in turns(plan.directories.len(), round) {
                run.step(step, place, round);
            }
        }
    }
    run.finish()
}

impl<'a> Run<'a> {
    fn prepare(plan: &'a Plan) -> Result<Self> {
        let daemons = Daemons::new(&plan.daemon_pids)?;
        let host = Host::here();
        let date = clock::utc_now();
        let mut places = Vec::new();
        let mut scratches = Vec::new();
        for (label, path) in &plan.directories {
            let path = fs::canonicalize(path).at("look at", path)?;
            scratches.push(Scratch::new(&path)?);
            places.push(Place {
                label: label.clone(),
                file_system: host::file_system(&path),
                path,
            });
        }
        let notes = notes(&places, &host)?;
        let mut outcome = Outcome {
            date,
            host,
            places,
            engine: "",
            notes,
            samples: BTreeMap::new(),
            failures: BTreeMap::new(),
        };
        let mut fio = fio::Settings {
            file_bytes: plan.file_bytes,
            runtime_s: plan.runtime_s,
            limit_s: plan.limit_s,
            engine: "",
        };
        if plan.loads.contains(&Load::Fio) {
            fio.engine = pick_engine(&scratches, plan.limit_s, &mut outcome.notes)?;
            outcome.engine = fio.engine;
            lay_out(&mut scratches, &fio, &mut outcome);
        }
        let archive = if plan.loads.contains(&Load::Tree) {
            Some(Archive::make(scratches[LOCAL].path(), plan.limit_s)?)
        } else {
            None
        };
        let stuck = BTreeSet::new();
        Ok(Self { plan, daemons, scratches, stuck, fio, archive, outcome })
    }

    fn step(&mut self, step: &Step, place: usize, round: u32) {
        if self.stuck.contains(&place) {
            return;
        }
        if step.rows.iter().any(|row| self.outcome.failures.contains_key(&(row.id, place))) {
            return;
        }
        let label = &self.outcome.places[place].label;
        let names: Vec<&str> = step.rows.iter().map(|row| row.id).collect();
        eprintln!("round {} of {}, {label}: {}", round + 1, self.plan.round_count, names.join(" "));
        rustix::fs::sync();
        let mut recorder = Recorder::new((place == MOUNT).then_some(&self.daemons));
        let result = self.load(step, place, &mut recorder);
        let measured = recorder.samples;
        let is_stuck = result.as_ref().is_err_and(|error| error.kind == Kind::Stuck);
        if let Err(error) = result {
            eprintln!("FAILED: {label}: {error}");
            let done: BTreeSet<_> = measured.iter().map(|(id, _)| *id).collect();
            for row in step.rows.iter().filter(|row| !done.contains(row.id)) {
                self.outcome.failures.insert((row.id, place), error.to_string());
            }
            if done.len() == step.rows.len() {
                // Every row was measured and cleaning up failed: that spoils the last one.
                let last = step.rows[step.rows.len() - 1];
                self.outcome.failures.insert((last.id, place), error.to_string());
            }
        }
        for (row_id, sample) in measured {
            self.outcome.samples.entry((row_id, place)).or_default().push(sample);
        }
        if is_stuck {
            self.give_up(place, step, round);
        }
    }

    /// Nothing more is tried where the file system hangs: each attempt would leave another process stuck. What was
    /// measured before stays; a note says that there are fewer rounds.
    fn give_up(&mut self, place: usize, step: &Step, round: u32) {
        self.scratches[place].leave_behind();
        self.stuck.insert(place);
        let outcome = &mut self.outcome;
        let (label, at) = (&outcome.places[place].label, step.rows[0].id);
        let why = format!("{label} hung in round {}, at {at} or in its load", round + 1);
        for row in ROWS.iter().filter(|row| self.plan.loads.contains(&row.load)) {
            if !outcome.samples.contains_key(&(row.id, place)) {
                outcome.failures.entry((row.id, place)).or_insert_with(|| why.clone());
            }
        }
        outcome.notes.push(why);
    }

    fn load(&self, step: &Step, place: usize, recorder: &mut Recorder<'_>) -> Result<()> {
        let dir = self.scratches[place].path();
        match step.load {
            Load::Fio => {
                let row_id = step.rows[0].id;
                if fio::wants_cold(row_id) {
                    // Where it is not allowed, the notes say so.
                    host::drop_caches();
                }
                recorder.row(row_id, || fio::measure(row_id, dir, &self.fio))
            }
            Load::Meta => {
                let settings = &self.plan.meta;
                in_folder(dir, "meta", |dir| meta::run(step.load, dir, settings, recorder))
            }
            Load::Crowd => {
                let settings = self.plan.meta.of_crowd();
                in_folder(dir, "crowd", |dir| meta::run(step.load, dir, &settings, recorder))
            }
            Load::Tree => {
                let archive = self.archive.as_ref().expect("made for this load");
                in_folder(dir, "tree", |dir| archive.run(dir, recorder))
            }
        }
    }

    fn finish(mut self) -> Result<Outcome> {
        for (scratch, place) in self.scratches.drain(..).zip(&self.outcome.places) {
            if let Err(error) = scratch.remove() {
                eprintln!("FAILED: {}: {error}", place.label);
                self.outcome.notes.push(format!("cleaning up failed in {}: {error}", place.label));
                let index = self.outcome.places.iter().position(|p| p.label == place.label);
                self.outcome
                    .failures
                    .insert(("clean-up", index.unwrap_or(MOUNT)), error.to_string());
            }
        }
        Ok(self.outcome)
    }
}

/// Gives `load` an empty folder, and checks that it leaves an empty one: rmdir refuses anything else.
fn in_folder(dir: &Path, name: &str, load: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let path = dir.join(name);
    fs::create_dir(&path).at("mkdir", &path)?;
    load(&path)?;
    fs::remove_dir(&path).at("rmdir", &path)
}

/// io_uring where every directory can do it, libaio otherwise: all figures with the same one.
fn pick_engine(
    scratches: &[Scratch],
    limit_s: u32,
    notes: &mut Vec<String>,
) -> Result<&'static str> {
    let works =
        |engine| scratches.iter().try_for_each(|s| fio::engine_works(s.path(), engine, limit_s));
    let Err(refused) = works("io_uring") else { return Ok("io_uring") };
    let fallback = works("libaio");
    fallback.map_err(|error| {
        let both = format!("io_uring: {refused}; libaio: {error}");
        Error::program("fio cannot do parallel direct I/O here (is it installed?)", both)
    })?;
    notes.push(format!("fio used libaio, as io_uring did not work: {refused}"));
    Ok("libaio")
}

/// Where the files cannot be laid out there are no fio rows, but there may be others.
fn lay_out(scratches: &mut [Scratch], settings: &fio::Settings, outcome: &mut Outcome) {
    for (place, scratch) in scratches.iter_mut().enumerate() {
        let label = &outcome.places[place].label;
        eprintln!("laying out files, {label}");
        if let Err(error) = fio::lay_out(scratch.path(), settings) {
            eprintln!("FAILED: {label}: {error}");
            let stuck = error.kind == Kind::Stuck;
            if stuck {
                scratch.leave_behind();
            }
            for row in ROWS.iter().filter(|row| stuck || row.load == Load::Fio) {
                outcome.failures.insert((row.id, place), error.to_string());
            }
        }
    }
}

fn notes(places: &[Place], host: &Host) -> Result<Vec<String>> {
    use std::os::unix::fs::MetadataExt;
    let mut notes = Vec::new();
    let device = |place: &Place| fs::metadata(&place.path).map(|m| m.dev());
    let mount = &places[MOUNT];
    if device(mount).at("look at", &mount.path)?
        == device(&places[LOCAL]).at("look at", &places[LOCAL].path)?
    {
        notes.push(format!(
            "{} and {} are on one device: this is no comparison with Weft, only a check of the method",
            mount.label, places[LOCAL].label
        ));
    } else if !mount.is_weft() {
        notes.push(format!("{} is {}, not a Weft mount", mount.label, mount.file_system));
    }
    if !host::drop_caches() {
        notes.push("not root: the caches were not dropped before buf-read".into());
    }
    let busy = host.cpu_count.try_into().map_or(0.0, |count: u32| f64::from(count) / 4.0);
    if host.load_average > busy {
        notes.push(format!(
            "load average {} at the start: other work disturbed these figures",
            host.load_average
        ));
    }
    Ok(notes)
}

/// Whether the error means that the command line is wrong.
pub(crate) fn is_usage(error: &Error) -> bool {
    error.kind == Kind::Usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fio_rows_take_turns_and_other_loads_run_whole() {
        let all = steps(&[Load::Fio, Load::Meta, Load::Crowd, Load::Tree].into());
        let sizes: Vec<usize> = all.iter().map(|step| step.rows.len()).collect();
        assert_eq!(sizes, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 11, 2, 4]);
        assert_eq!(sizes.iter().sum::<usize>(), ROWS.len());
        assert_eq!(steps(&[Load::Tree].into()).len(), 1);
        assert!(steps(&BTreeSet::new()).is_empty());
    }

    #[test]
    fn rounds_alternate() {
        assert_eq!(turns(3, 0), [0, 1, 2]);
        assert_eq!(turns(3, 1), [2, 1, 0]);
        assert_eq!(turns(3, 2), [0, 1, 2]);
    }
}
