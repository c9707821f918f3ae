//! The mdtest-like load: worker processes that go from phase to phase together. A phase's time is from the first
//! start to the last end, by the workers' own readings of the clock they share.

use crate::clock;
use crate::error::{At, Error, Kind, Result};
use crate::limits::READDIR_PASS_COUNT;
use crate::program;
use crate::rows::{Load, of_load};
use crate::sample::{Recorder, Sample};
use crate::worker::{Answer, Done, SET_UP, SHARED, TEAR_DOWN};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// How much load.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// This program, started again for each worker.
    pub(crate) program: PathBuf,
    pub(crate) process_count: u32,
    pub(crate) easy_count: u32,
    pub(crate) hard_count: u32,
    pub(crate) crowd: Crowd,
    pub(crate) limit_s: u32,
}

/// The load of many processes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) process_count: u32,
    /// Files of each process.
    pub(crate) file_count: u32,
}

impl Settings {
    /// These settings, for the processes of [`Load::Crowd`].
    pub(crate) fn of_crowd(&self) -> Self {
        let Crowd { process_count, file_count } = self.crowd;
        Self { process_count, easy_count: file_count, ..self.clone() }
    }

    /// What one process must report for a row.
    fn want(&self, row_id: &str) -> u64 {
        let (easy, hard) = (u64::from(self.easy_count), u64::from(self.hard_count));
        match row_id {
            "readdir" => hard * u64::from(self.process_count) * u64::from(READDIR_PASS_COUNT),
            id if id.starts_with("hard-") => hard,
            _ => easy,
        }
    }
}

/// Runs the whole load ([`Load::Meta`] or [`Load::Crowd`]) in `dir`, an empty folder, and leaves it empty.
pub(crate) fn run(
    load: Load,
    dir: &Path,
    settings: &Settings,
    recorder: &mut Recorder<'_>,
) -> Result<()> {
    let shared = dir.join(SHARED);
    fs::create_dir(&shared).at("mkdir", &shared)?;
    let mut team = Team::start(dir, settings)?;
    team.phase(SET_UP)?;
    for row in of_load(load) {
        recorder.row(row.id, || team.measure(row.id, settings))?;
    }
    team.phase(TEAR_DOWN)?;
    team.dismiss()?;
    fs::remove_dir(&shared).at("rmdir", &shared)
}

struct Team(Vec<Member>);

struct Member {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    limit_s: u32,
}

impl Team {
    fn start(dir: &Path, settings: &Settings) -> Result<Self> {
        let start = |rank| Member::start(dir, settings, rank);
        (0..settings.process_count).map(start).collect::<Result<_>>().map(Self)
    }

    fn measure(&mut self, row_id: &'static str, settings: &Settings) -> Result<Sample> {
        let all = self.phase(row_id)?;
        let want = settings.want(row_id);
        if let Some(odd) = all.iter().find(|done| done.count != want) {
            return Err(Error::wrong(row_id, format!("{} done, not {want}", odd.count)));
        }
        let start_ns = all.iter().map(|done| done.start_ns).min().unwrap_or(0);
        let end_ns = all.iter().map(|done| done.end_ns).max().unwrap_or(0);
        let amount = all.iter().map(|done| done.count).sum();
        Sample::rate(amount, clock::seconds_between(start_ns, end_ns))
    }

    /// Tells everyone to start, and waits for all even when one fails, so that they stay in step.
    fn phase(&mut self, id: &'static str) -> Result<Vec<Done>> {
        for member in &mut self.0 {
            member.orders.write_all(format!("{id}\n").as_bytes()).at(id, Path::new("a worker"))?;
        }
        let mut answers: Vec<_> = self.0.iter_mut().map(|member| member.answer(id)).collect();
        // That the file system hangs matters more than what its other workers said.
        let stuck = answers.iter().position(|a| a.as_ref().is_err_and(|e| e.kind == Kind::Stuck));
        if let Some(index) = stuck {
            return answers.swap_remove(index).map(|done| vec![done]);
        }
        answers.into_iter().collect()
    }

    fn dismiss(mut self) -> Result<()> {
        for mut member in self.0.drain(..) {
            drop(member.orders);
            let status = program::wait("a worker", member.limit_s, &mut member.child)?;
            if !status.success() {
                return Err(Error::program("a worker ended badly", status.to_string()));
            }
        }
        Ok(())
    }
}

impl Drop for Team {
    /// After an error: a worker ends with its input, or at its time limit.
    fn drop(&mut self) {
        for mut member in self.0.drain(..) {
            drop(member.orders);
            program::wait("a worker", member.limit_s, &mut member.child).ok();
        }
    }
}

impl Member {
    fn start(dir: &Path, settings: &Settings, rank: u32) -> Result<Self> {
        let mut command = program::limited(settings.limit_s, &settings.program);
        command.arg("worker").arg("--root").arg(dir);
        for (option, value) in [
            ("--rank", rank),
            ("--rank-count", settings.process_count),
            ("--easy-count", settings.easy_count),
            ("--hard-count", settings.hard_count),
        ] {
            command.args([option, &value.to_string()]);
        }
        command.stdin(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().at("start a worker", &settings.program)?;
        let orders = child.stdin.take().expect("piped above");
        let answers = BufReader::new(child.stdout.take().expect("piped by `limited`"));
        Ok(Self { child, orders, answers, limit_s: settings.limit_s })
    }

    fn answer(&mut self, id: &'static str) -> Result<Done> {
        let mut line = String::new();
        // One line an answer, so nothing waits in the reader's own buffer.
        program::readable(id, self.limit_s, self.answers.get_ref())?;
        self.answers.read_line(&mut line).at(id, Path::new("a worker"))?;
        if line.is_empty() {
            return Err(Error::program(id, "a worker died or reached its time limit (--limit-s)"));
        }
        match serde_json::from_str(&line) {
            Ok(Answer::Done(done)) => Ok(done),
            Ok(Answer::Failed(why)) => Err(Error::wrong(id, why)),
            Err(error) => Err(Error::program(id, format!("a worker answered {line:?}: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(program: &str) -> Settings {
        Settings {
            program: program.into(),
            process_count: 2,
            easy_count: 5,
            hard_count: 3,
            crowd: Crowd { process_count: 4, file_count: 7 },
            limit_s: 60,
        }
    }

    #[test]
    fn what_each_row_must_count() {
        let settings = settings("unused");
        assert_eq!(settings.want("easy-create"), 5);
        assert_eq!(settings.want("mkdir"), 5);
        assert_eq!(settings.want("hard-read"), 3);
        assert_eq!(settings.want("readdir"), 30);
        let crowd = settings.of_crowd();
        assert_eq!((crowd.process_count, crowd.want("crowd-create")), (4, 7));
    }

    /// Workers that are no workers: their silence and their nonsense are errors, not figures.
    #[test]
    fn dead_and_babbling_workers() {
        for program in ["true", "echo", "false"] {
            let dir = tempfile::tempdir().expect("a folder");
            let mut recorder = Recorder::new(None);
            assert!(
                run(Load::Meta, dir.path(), &settings(program), &mut recorder).is_err(),
                "{program}"
            );
            assert!(recorder.samples.is_empty());
        }
    }
}
