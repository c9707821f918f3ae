use super::*;
use crate::rows::{Load, of_load};

fn direction(io_bytes: u64, total_ios: u64, short_ios: u64) -> String {
    format!(
        r#"{{"io_bytes": {io_bytes}, "total_ios": {total_ios}, "short_ios": {short_ios},
        "drop_ios": 0, "iops": 1000.5, "bw_bytes": 2097152, "runtime": 2000, "unknown": [1],
        "clat_ns": {{"mean": 1.0, "percentile": {{"50.000000": 5000, "99.000000": 9000}}}}}}"#
    )
}

fn job_report(error: i32, read: &str, write: &str) -> String {
    format!(r#"{{"jobname": "j", "error": {error}, "read": {read}, "write": {write}}}"#)
}

fn report(jobs: &[String]) -> Report {
    let text = format!(r#"{{"fio version": "fio-3.33", "jobs": [{}]}}"#, jobs.join(","));
    Report::parse(&text).expect("good JSON")
}

fn settings(file_bytes: u64) -> Settings {
    Settings { file_bytes, runtime_s: 1, limit_s: 60, engine: "psync" }
}

fn one(error: i32, read: (u64, u64, u64), write: (u64, u64, u64)) -> Report {
    let read = direction(read.0, read.1, read.2);
    report(&[job_report(error, &read, &direction(write.0, write.1, write.2))])
}

const IDLE: (u64, u64, u64) = (0, 0, 0);

#[test]
fn stream_and_random_figures() {
    let good = one(0, IDLE, (4096, 4, 0));
    let sample = good.sample(&job("seq-write").expect("a job"), &settings(4096)).expect("sample");
    assert_eq!((sample.value, sample.amount, sample.seconds), (2.0, 4096, 2.0));
    assert_eq!(sample.p99_us, Some(9.0));
    let good = one(0, (8192, 2, 0), IDLE);
    let sample = good.sample(&job("rand-read").expect("a job"), &settings(4096)).expect("sample");
    assert_eq!((sample.value, sample.amount), (1000.5, 2));
}

#[test]
fn whatever_went_wrong_is_an_error() {
    let write = job("seq-write").expect("a job");
    let sample = |report: Report| report.sample(&write, &settings(4096));
    assert!(sample(one(5, IDLE, (4096, 4, 0))).is_err(), "fio's error field");
    assert!(sample(one(0, IDLE, (4096, 4, 1))).is_err(), "short I/O");
    assert!(sample(one(0, IDLE, (2048, 4, 0))).is_err(), "not the whole file");
    assert!(sample(one(0, (4096, 4, 0), (4096, 4, 0))).is_err(), "the other direction");
    assert!(sample(one(0, IDLE, IDLE)).is_err(), "nothing done");
    assert!(sample(report(&[])).is_err(), "no job");
    let job = job_report(0, &direction(0, 0, 0), &direction(2048, 4, 0));
    assert!(sample(report(&[job.clone(), job])).is_err(), "two jobs where one was meant");
}

#[test]
fn notes_before_the_json() {
    let text = r#"{"jobs": []}"#;
    assert!(Report::parse(text).is_ok());
    assert!(Report::parse(&format!("note: something {{odd}}\n{text}\nnote\n")).is_ok());
    assert!(Report::parse("fio: died\n").is_err());
    assert!(Report::parse(r#"{"jobs": [{"jobname": "j"}]}"#).is_err());
    assert!(Report::parse(r#"{"jobs": ["#).is_err());
}

#[test]
fn every_row_has_its_job() {
    for row in of_load(Load::Fio) {
        let job = job(row.id).expect("a recipe");
        assert!(job.recipe.contains(&format!("[{}]", row.id)), "{}", row.id);
        assert_eq!(job.in_bytes, row.unit.name() == "MiB/s", "{}", row.id);
        assert_eq!(job.whole_file, !job.recipe.contains("time_based=1"), "{}", row.id);
        let writes = job.recipe.contains("rw=write") || job.recipe.contains("rw=randwrite");
        assert_eq!(job.writes, writes, "{}", row.id);
    }
}

/// The real fio, small: every recipe runs and gives a figure.
#[test]
fn real_fio_runs_every_recipe() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = Settings { file_bytes: 4 << 20, ..settings(0) };
    // tmpfs has no O_DIRECT before Linux 6.6, and a container may refuse io_uring: psync does everywhere.
    engine_works(dir.path(), "psync", 60).expect("fio is installed and can write here");
    lay_out(dir.path(), &settings).expect("laid out");
    for row in of_load(Load::Fio) {
        let sample = measure(row.id, dir.path(), &settings).expect(row.id);
        assert!(sample.p99_us.is_some(), "{}", row.id);
    }
    std::fs::remove_file(dir.path().join("seq")).expect("remove");
    let missing = measure("seq-write", dir.path(), &settings);
    assert!(missing.is_err(), "its file is gone, so something else was at work here");
}
