//! fio's part: the jobs of `benchmarks/recipes`, run one by one, and what fio's JSON says, checked.

use crate::error::{At, Error, Result};
use crate::program;
use crate::sample::Sample;
use serde::Deserialize;
use std::fs;
use std::path::Path;

const MIB: f64 = 1_048_576.0;
/// Files that the layout job writes.
const LAYOUT_FILE_COUNT: u64 = 4;
const PROBE: &str = "[probe]\ndirectory=${DIR}\nfilename=probe\nsize=64k\nbs=4k\niodepth=4\n\
    ioengine=${ENGINE}\ndirect=1\nrw=write\n";

/// What a job is given.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) file_bytes: u64,
    pub(crate) runtime_s: u32,
    pub(crate) limit_s: u32,
    pub(crate) engine: &'static str,
}

/// A job, and how its outcome is checked.
struct Job {
    recipe: &'static str,
    /// A file removed before: the job's point is to write a new one.
    fresh: Option<&'static str>,
    /// The job moves the file once, to the byte, instead of running for a time.
    whole_file: bool,
    /// The job runs once before, untimed, and so finds the file in the cache.
    warm: bool,
    writes: bool,
    in_bytes: bool,
}

macro_rules! recipe {
    ($name:literal) => {
        include_str!(concat!("../../recipes/", $name, ".fio"))
    };
}

fn job(row_id: &str) -> Option<Job> {
    let stream = |recipe, fresh: Option<_>, whole_file| Job {
        recipe,
        fresh,
        whole_file,
        warm: false,
        writes: fresh.is_some(),
        in_bytes: true,
    };
    let random = |recipe, writes| Job { writes, in_bytes: false, ..stream(recipe, None, false) };
    Some(match row_id {
        "seq-write" => stream(recipe!("seq-write"), Some("seq"), true),
        "seq-read" => stream(recipe!("seq-read"), None, false),
        "cache-write" => stream(recipe!("cache-write"), Some("buf"), true),
        "cache-read" => Job { warm: true, ..stream(recipe!("cache-read"), None, true) },
        "buf-write" => stream(recipe!("buf-write"), Some("buf"), true),
        "buf-read" => stream(recipe!("buf-read"), None, true),
        "rand-read" => random(recipe!("rand-read"), false),
        "rand-write" => random(recipe!("rand-write"), true),
        "one-read" => random(recipe!("one-read"), false),
        "one-write" => random(recipe!("one-write"), true),
        _ => return None,
    })
}

/// True for rows that want the caches empty before they start.
pub(crate) fn wants_cold(row_id: &str) -> bool {
    row_id == "buf-read"
}

/// Whether fio can do direct I/O with this engine in `dir`.
pub(crate) fn engine_works(dir: &Path, engine: &'static str, limit_s: u32) -> Result<()> {
    let settings = Settings { file_bytes: 65_536, runtime_s: 1, limit_s, engine };
    let report = run(PROBE, dir, &settings)?;
    let probe = dir.join("probe");
    fs::remove_file(&probe).at("remove", &probe)?;
    report.moved(true, Some(settings.file_bytes)).map(|_| ())
}

/// Writes the files that the other jobs read and rewrite.
pub(crate) fn lay_out(dir: &Path, settings: &Settings) -> Result<()> {
    let report = run(recipe!("layout"), dir, settings)?;
    report.moved(true, Some(LAYOUT_FILE_COUNT * settings.file_bytes)).map(|_| ())
}

/// Runs one row's job in `dir`, which [`lay_out`] has filled.
pub(crate) fn measure(row_id: &'static str, dir: &Path, settings: &Settings) -> Result<Sample> {
    let job = job(row_id).ok_or_else(|| Error::usage("no such fio job", row_id))?;
    if let Some(name) = job.fresh {
        let path = dir.join(name);
        fs::remove_file(&path).at("remove", &path)?;
    }
    if job.warm {
        run(job.recipe, dir, settings)?;
    }
    let report = run(job.recipe, dir, settings)?;
    report.sample(&job, settings)
}

fn run(recipe: &'static str, dir: &Path, settings: &Settings) -> Result<Report> {
    let mut command = program::limited(settings.limit_s, "fio");
    command.args(["--output-format=json", "-"]).current_dir(dir);
    command.env("DIR", dir).env("ENGINE", settings.engine);
    command.env("SIZE", settings.file_bytes.to_string());
    command.env("RUNTIME", settings.runtime_s.to_string());
    let done = program::run("fio", settings.limit_s, &mut command, recipe.as_bytes())?;
    Report::parse(&String::from_utf8_lossy(&done.stdout))
}

/// The part of fio's JSON that we use.
#[derive(Debug, Deserialize)]
struct Report {
    jobs: Vec<JobReport>,
}

#[derive(Debug, Deserialize)]
struct JobReport {
    jobname: String,
    error: i32,
    read: Direction,
    write: Direction,
}

#[derive(Debug, Deserialize)]
struct Direction {
    io_bytes: u64,
    total_ios: u64,
    short_ios: u64,
    drop_ios: u64,
    iops: f64,
    bw_bytes: f64,
    runtime: u64,
    clat_ns: Latency,
}

#[derive(Debug, Deserialize)]
struct Latency {
    percentile: Option<std::collections::BTreeMap<String, f64>>,
}

impl Report {
    /// fio says notes before the JSON on the same stream.
    fn parse(output: &str) -> Result<Self> {
        let start = if output.starts_with('{') { Some(0) } else { output.find("\n{") };
        let json = start.map(|at| &output[at..]);
        let json = json.ok_or_else(|| Error::wrong("fio", "its output holds no JSON"))?;
        let mut stream = serde_json::Deserializer::from_str(json).into_iter::<Self>();
        let report = stream.next().ok_or_else(|| Error::wrong("fio", "empty JSON"))?;
        report.map_err(|e| Error::wrong("fio", format!("JSON not understood: {e}")))
    }

    /// Bytes moved in the one direction that was asked for, none of it failed, short or in the other direction.
    fn moved(&self, writes: bool, exactly: Option<u64>) -> Result<u64> {
        let mut bytes = 0;
        for job in &self.jobs {
            let (asked, other) =
                if writes { (&job.write, &job.read) } else { (&job.read, &job.write) };
            if job.error != 0 {
                let what = format!("{} failed with errno {}", job.jobname, job.error);
                return Err(Error::wrong("fio", what));
            }
            if asked.short_ios + asked.drop_ios != 0 || other.io_bytes != 0 || asked.io_bytes == 0 {
                let what = format!("{} did not do what it was told: {job:?}", job.jobname);
                return Err(Error::wrong("fio", what));
            }
            bytes += asked.io_bytes;
        }
        match exactly {
            Some(want) if want != bytes => {
                Err(Error::wrong("fio", format!("{bytes} bytes moved, not {want}")))
            }
            _ if bytes == 0 => Err(Error::wrong("fio", "no job ran")),
            _ => Ok(bytes),
        }
    }

    fn sample(&self, job: &Job, settings: &Settings) -> Result<Sample> {
        let bytes = self.moved(job.writes, job.whole_file.then_some(settings.file_bytes))?;
        let [report] = &self.jobs[..] else {
            return Err(Error::wrong("fio", format!("{} jobs reported, not 1", self.jobs.len())));
        };
        let way = if job.writes { &report.write } else { &report.read };
        let (value, amount) =
            if job.in_bytes { (way.bw_bytes / MIB, bytes) } else { (way.iops, way.total_ios) };
        let mut sample = Sample::new(value, amount, way.runtime as f64 / 1000.0)?;
        let p99_ns = way.clat_ns.percentile.as_ref().and_then(|p| p.get("99.000000"));
        sample.p99_us = p99_ns.map(|ns| ns / 1000.0);
        Ok(sample)
    }
}

#[cfg(test)]
mod tests;
