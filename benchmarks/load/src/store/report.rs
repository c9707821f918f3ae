//! A table for people and JSON lines for programs, with the bars of the task.

use super::jobs::{Job, Sample};
use super::{Place, StoreArgs, is_device, path_name};
use crate::clock::utc_now;
use crate::host::{self, Host};
use crate::stats::Spread;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use weft_target::DataPath;

/// CPU for an operation, as a multiple of fio's.
const CPU_RATIO_MAX: f64 = 1.5;
/// Device syncs for the fsync of one dirty chunk.
const SYNCS_MAX: u64 = 2;
/// 32 fsyncs at once, as a multiple of the time of one.
const FSYNC_RATIO_MAX: f64 = 4.0;

/// What a run found.
pub(super) struct Outcome {
    date: String,
    host: Host,
    what: String,
    command: String,
    way: Option<DataPath>,
    store: BTreeMap<Job, Vec<Sample>>,
    fio: BTreeMap<Job, Vec<Sample>>,
    /// fio with a checksum of each 4 KiB.
    checked: BTreeMap<Job, Vec<Sample>>,
}

fn spread(samples: Option<&Vec<Sample>>, pick: fn(&Sample) -> f64) -> Option<Spread> {
    Spread::of(&samples?.iter().map(pick).collect::<Vec<_>>())
}

fn ratios(store: &[Sample], fio: &[Sample], pick: fn(&Sample) -> f64) -> Option<Spread> {
    let values = |samples: &[Sample]| samples.iter().map(pick).collect::<Vec<_>>();
    Spread::of_ratios(&values(store), &values(fio))
}

fn title(job: Job) -> (&'static str, &'static str) {
    match job {
        Job::SeqWrite => ("1 MiB sequential write, depth 16", "MiB/s"),
        Job::SeqRead => ("1 MiB sequential read, depth 16", "MiB/s"),
        Job::RandRead => ("4 KiB random read, depth 32", "op/s"),
        Job::RandWrite => ("4 KiB random overwrite, depth 32", "op/s"),
        Job::Fsync => ("4 KiB write + fsync of one chunk", "us"),
        Job::Fsync32 => ("32 x (4 KiB write + fsync) at once", "us"),
    }
}

impl Outcome {
    pub(super) fn new(args: &StoreArgs, place: &Place) -> Outcome {
        let kind = if is_device(&place.path) {
            "block device".to_owned()
        } else {
            let path = place.path.canonicalize().unwrap_or_else(|_| place.path.clone());
            format!("file on {}", host::file_system(&path))
        };
        let mib = |bytes: u64| bytes >> 20;
        let what = format!(
            "{}, {kind}, {} MiB, {} MiB of data, core {}",
            place.path.display(),
            mib(place.bytes),
            mib(args.data),
            args.core
        );
        Outcome {
            date: utc_now(),
            host: Host::here(),
            what,
            command: std::env::args().collect::<Vec<_>>().join(" "),
            way: None,
            store: BTreeMap::new(),
            fio: BTreeMap::new(),
            checked: BTreeMap::new(),
        }
    }

    pub(super) fn way(&mut self, way: DataPath) {
        self.way = Some(way);
    }

    pub(super) fn store(&mut self, job: Job, sample: Sample) {
        self.store.entry(job).or_default().push(sample);
    }

    pub(super) fn fio(&mut self, job: Job, sample: Sample) {
        self.fio.entry(job).or_default().push(sample);
    }

    pub(super) fn checked(&mut self, job: Job, sample: Sample) {
        self.checked.entry(job).or_default().push(sample);
    }

    fn ratio(&self, job: Job, pick: fn(&Sample) -> f64) -> Option<Spread> {
        ratios(self.store.get(&job)?, self.fio.get(&job)?, pick)
    }

    fn checked_ratio(&self, job: Job, pick: fn(&Sample) -> f64) -> Option<Spread> {
        ratios(self.store.get(&job)?, self.checked.get(&job)?, pick)
    }

    /// The bar in words and whether it is met; `None` without something to compare with.
    fn bar(&self, job: Job) -> Option<(String, bool)> {
        let needed = match job {
            Job::SeqWrite | Job::SeqRead => 0.95,
            Job::RandRead | Job::RandWrite => 0.90,
            Job::Fsync => {
                let most = self.store.get(&job)?.iter().map(|sample| sample.syncs_max).max()?;
                let words = format!("at most {SYNCS_MAX} device syncs: {most}");
                return Some((words, most <= SYNCS_MAX));
            }
            Job::Fsync32 => {
                let values = |job| {
                    self.store.get(&job).map(|s| s.iter().map(|s| s.value).collect::<Vec<_>>())
                };
                let ratio = Spread::of_ratios(&values(job)?, &values(Job::Fsync)?)?;
                let words = format!("at most {FSYNC_RATIO_MAX} times one: {:.2}", ratio.median);
                return Some((words, ratio.median <= FSYNC_RATIO_MAX));
            }
        };
        let rate = self.ratio(job, |sample| sample.value)?.median;
        // To look at each byte of a MiB costs what memory gives, more than all that fio does where it looks at none: with
        // checksums on, CPU is held against a fio that has them, too.
        let checked = self.checked_ratio(job, |sample| sample.cpu_us);
        let whose = if checked.is_some() { "fio's with checksums" } else { "it" };
        let cpu = checked.or_else(|| self.ratio(job, |sample| sample.cpu_us))?.median;
        let words = format!("rate >= {needed} of fio's, CPU <= {CPU_RATIO_MAX} of {whose}");
        Some((words, rate >= needed && cpu <= CPU_RATIO_MAX))
    }

    /// Whether every bar there is was met.
    pub(super) fn all_met(&self) -> bool {
        Job::ALL.into_iter().filter_map(|job| self.bar(job)).all(|(_, met)| met)
    }

    pub(super) fn markdown(&self) -> String {
        let host = &self.host;
        let mut text = format!(
            "{}, commit {}, {}: Linux {}, {} x {}, load average {}\n{}, data path {}\n\n    {}\n\n",
            self.date,
            host.commit,
            host.host,
            host.kernel,
            host.cpu_count,
            host.cpu,
            host.load_average,
            self.what,
            self.way.map_or("-", path_name),
            self.command
        );
        text.push_str("| | unit | store: median (min..max) | fio | ratio | CPU us/op: store | fio | ratio | bar | met |\n");
        text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
        let show = |spread: Option<Spread>, digits: usize| {
            spread.map_or("-".to_owned(), |s| {
                format!("{:.digits$} ({:.digits$}..{:.digits$})", s.median, s.min, s.max)
            })
        };
        for job in Job::ALL.into_iter().filter(|job| self.store.contains_key(job)) {
            let (title, unit) = title(job);
            let value = |sample: &Sample| sample.value;
            let cpu = |sample: &Sample| sample.cpu_us;
            let (bar, met) = self.bar(job).unwrap_or_default();
            let cells = [
                title.to_owned(),
                unit.to_owned(),
                show(spread(self.store.get(&job), value), 0),
                show(spread(self.fio.get(&job), value), 0),
                show(self.ratio(job, value), 2),
                show(spread(self.store.get(&job), cpu), 1),
                show(spread(self.fio.get(&job), cpu), 1),
                show(self.ratio(job, cpu), 2),
                bar.clone(),
                if bar.is_empty() {
                    "-".into()
                } else if met {
                    "yes".into()
                } else {
                    "NO".to_owned()
                },
            ];
            writeln!(text, "| {} |", cells.join(" | ")).expect("to a string");
            if let Some(samples) = self.checked.get(&job) {
                let cells = [
                    "the same beside fio with checksums of 4 KiB".to_owned(),
                    unit.to_owned(),
                    "\"".to_owned(),
                    show(spread(Some(samples), value), 0),
                    show(self.checked_ratio(job, value), 2),
                    "\"".to_owned(),
                    show(spread(Some(samples), cpu), 1),
                    show(self.checked_ratio(job, cpu), 2),
                    "-".to_owned(),
                    "-".to_owned(),
                ];
                writeln!(text, "| {} |", cells.join(" | ")).expect("to a string");
            }
        }
        text
    }

    /// One line for each job.
    pub(super) fn json_lines(&self) -> String {
        let mut text = String::new();
        for job in Job::ALL.into_iter().filter(|job| self.store.contains_key(job)) {
            let (bar, met) = self.bar(job).unzip();
            let line = json!({
                "bench": "store",
                "job": job,
                "unit": title(job).1,
                "store": { "spread": spread(self.store.get(&job), |s| s.value), "rounds": self.store.get(&job) },
                "fio": { "spread": spread(self.fio.get(&job), |s| s.value), "rounds": self.fio.get(&job) },
                "fio_with_checksums": { "spread": spread(self.checked.get(&job), |s| s.value), "rounds": self.checked.get(&job) },
                "ratio": self.ratio(job, |s| s.value),
                "cpu_ratio": self.ratio(job, |s| s.cpu_us),
                "cpu_ratio_with_checksums": self.checked_ratio(job, |s| s.cpu_us),
                "bar": bar,
                "met": met,
                "what": self.what,
                "data_path": self.way.map(path_name),
                "date": self.date,
                "host": self.host,
                "command": self.command,
            });
            writeln!(text, "{line}").expect("to a string");
        }
        text
    }
}
