//! fio's side: the same job, in the same place of the same file or device.

use super::DATA_OFFSET_MAX;
use super::jobs::{Job, Sample};
use crate::error::{Error, Result};
use crate::program;
use serde::Deserialize;
use std::path::Path;
use weft_wire::blocks::BLOCK_BYTES;

const MIB: f64 = 1_048_576.0;

#[derive(Debug, Deserialize)]
struct Report {
    jobs: Vec<JobReport>,
}

#[derive(Debug, Deserialize)]
struct JobReport {
    error: i32,
    read: Direction,
    write: Direction,
    usr_cpu: f64,
    sys_cpu: f64,
    /// Milliseconds that the percentages are of.
    job_runtime: f64,
}

#[derive(Debug, Deserialize)]
struct Direction {
    io_bytes: u64,
    total_ios: u64,
    iops: f64,
    bw_bytes: f64,
}

/// Where and how long.
pub(crate) struct Run<'a> {
    pub(crate) path: &'a Path,
    /// Bytes the jobs work on.
    pub(crate) data: u64,
    pub(crate) depth: usize,
    pub(crate) core: usize,
    /// Seconds of jobs that are not sequential.
    pub(crate) runtime_s: u32,
    /// Seconds after which it is taken for hung.
    pub(crate) limit_s: u32,
    /// It makes and checks a CRC32C of each 4 KiB, as the store does.
    pub(crate) checks: bool,
}

/// Runs one job.
pub(crate) fn measure(job: Job, run: &Run<'_>) -> Result<Sample> {
    let rw = match job {
        Job::SeqWrite => "write",
        Job::SeqRead => "read",
        Job::RandRead => "randread",
        Job::RandWrite => "randwrite",
        Job::Fsync | Job::Fsync32 => return Err(Error::usage("fio", "no such job")),
    };
    let mut text = format!(
        "[{rw}]\nfilename={}\nioengine=io_uring\nfixedbufs=1\nregisterfiles=1\ndirect=1\nthread=1\nrw={rw}\n\
         bs={}\niodepth={}\noffset={DATA_OFFSET_MAX}\nsize={}\ncpus_allowed={}\nrandrepeat=0\nnorandommap=1\n\
         allow_file_create=0\n",
        run.path.display(),
        job.bytes(),
        run.depth,
        run.data,
        run.core,
    );
    if !job.is_sequential() {
        text += &format!("time_based=1\nruntime={}\n", run.runtime_s);
    }
    if run.checks {
        // What was written is checked by the job that reads, not by this one.
        text +=
            &format!("verify=crc32c\nverify_interval={BLOCK_BYTES}\nverify_fatal=1\ndo_verify=0\n");
    }
    let mut command = program::limited(run.limit_s, "fio");
    command.args(["--output-format=json", "-"]);
    let done = program::run("fio", run.limit_s, &mut command, text.as_bytes())?;
    let output = String::from_utf8_lossy(&done.stdout);
    let start = if output.starts_with('{') { Some(0) } else { output.find("\n{") };
    let json = start.map(|at| &output[at..]);
    let json = json.ok_or_else(|| Error::wrong("fio", "its output holds no JSON"))?;
    let report: Report = serde_json::from_str(json.trim_end())
        .map_err(|error| Error::wrong("fio", format!("JSON not understood: {error}")))?;
    sample(job, &report, run.data)
}

fn sample(job: Job, report: &Report, data: u64) -> Result<Sample> {
    let [told] = &report.jobs[..] else {
        return Err(Error::wrong("fio", format!("{} jobs reported, not 1", report.jobs.len())));
    };
    let way = if job.writes() { &told.write } else { &told.read };
    let whole = !job.is_sequential() || way.io_bytes == data;
    if told.error != 0 || way.total_ios == 0 || !whole {
        return Err(Error::wrong("fio", format!("it did not do what it was told: {told:?}")));
    }
    let cpu_ms = (told.usr_cpu + told.sys_cpu) / 100.0 * told.job_runtime;
    Ok(Sample {
        value: if job.is_sequential() { way.bw_bytes / MIB } else { way.iops },
        cpu_us: cpu_ms * 1000.0 / way.total_ios as f64,
        syncs_max: 0,
    })
}
