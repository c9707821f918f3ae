//! Starting other programs: with a time limit (coreutils' `timeout`), so that a hung file system ends a run with an
//! error and not never, and with every failure reported.

use crate::clock;
use crate::error::{At, Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// What `timeout` exits with when the limit struck, and when it had to use SIGKILL.
const TIMEOUT_EXITS: [i32; 2] = [124, 137];
const KILL_SIGNAL: i32 = 9;
/// Seconds from the polite signal to the last one, and from there until we give up.
const KILL_S: u32 = 5;
const SPARE_S: u32 = 10;
const STDERR_CHARS_MAX: usize = 600;

/// A command under a limit.
pub(crate) fn limited(limit_s: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "-k", &KILL_S.to_string(), &limit_s.to_string()]).arg(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Standard output and seconds of a program that worked.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) stdout: Vec<u8>,
    pub(crate) seconds: f64,
}

/// Runs a command made by [`limited`] to its end. Any exit but 0 is an error with the end of its standard error. Output
/// goes to files: a pipe ends only when the last process that holds it does, which a hung one never may.
pub(crate) fn run(
    op: &'static str,
    limit_s: u32,
    command: &mut Command,
    stdin: &[u8],
) -> Result<Finished> {
    let mut stdout = output_file(op)?;
    let mut stderr = output_file(op)?;
    command.stdout(stdout.try_clone().at(op, Path::new("standard output"))?);
    command.stderr(stderr.try_clone().at(op, Path::new("standard error"))?);
    if !stdin.is_empty() {
        command.stdin(Stdio::piped());
    }
    let start_ns = clock::monotonic_ns();
    let mut child = command.spawn().at(op, Path::new("timeout"))?;
    // A program that ends before it reads all of its input says why below.
    let fed = child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(stdin));
    let status = wait(op, limit_s, &mut child)?;
    let seconds = clock::seconds_between(start_ns, clock::monotonic_ns());
    let stdout = contents(op, &mut stdout)?;
    check(op, status, &stdout, &contents(op, &mut stderr)?)?;
    fed.at(op, Path::new("standard input"))?;
    Ok(Finished { stdout, seconds })
}

/// Waits for a child made by [`limited`], a little longer than its limit: what is still there then is stuck in the
/// kernel, and is left behind.
pub(crate) fn wait(op: &'static str, limit_s: u32, child: &mut Child) -> Result<ExitStatus> {
    let raw = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
    let pidfd = pidfd_open(raw, PidfdFlags::empty()).at(op, Path::new("pidfd"))?;
    readable(op, limit_s, &pidfd)?;
    child.wait().at(op, Path::new("wait"))
}

/// Waits until `fd` has something, or its end, to read; stuck when nothing comes past the limit.
pub(crate) fn readable(op: &'static str, limit_s: u32, fd: &impl AsFd) -> Result<()> {
    let end_ns = clock::monotonic_ns() + u64::from(limit_s + KILL_S + SPARE_S) * 1_000_000_000;
    loop {
        let left_ns = end_ns.saturating_sub(clock::monotonic_ns());
        let left = Timespec {
            tv_sec: i64::try_from(left_ns / 1_000_000_000).expect("a day at most"),
            tv_nsec: i64::try_from(left_ns % 1_000_000_000).expect("less than a second"),
        };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(Error::stuck(op)),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).at(op, Path::new("poll")),
        }
    }
}

fn output_file(op: &'static str) -> Result<File> {
    tempfile::tempfile().at(op, Path::new("a temporary file"))
}

fn contents(op: &'static str, file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind().at(op, Path::new("output"))?;
    file.read_to_end(&mut bytes).at(op, Path::new("output"))?;
    Ok(bytes)
}

fn check(op: &'static str, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    // Killed by the limit, `timeout` ends by the same signal or says 128 + 9.
    if status.signal() == Some(KILL_SIGNAL)
        || status.code().is_some_and(|c| TIMEOUT_EXITS.contains(&c))
    {
        return Err(Error::late(op));
    }
    let said = [stderr, stdout].map(|s| String::from_utf8_lossy(s).trim().to_owned());
    let said = said.iter().find(|s| !s.is_empty()).map_or("", String::as_str);
    let end: String = said.chars().take(STDERR_CHARS_MAX).collect();
    Err(Error::program(op, format!("{status}: {end}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_input_pass_through() {
        let done = run("cat", 60, &mut limited(60, "cat"), b"hello").expect("cat works");
        assert_eq!(done.stdout, b"hello");
        assert!(done.seconds > 0.0);
    }

    #[test]
    fn failure_says_what_the_program_said() {
        let mut command = limited(60, "sh");
        command.args(["-c", "echo reason >&2; exit 3"]);
        let error = run("sh", 60, &mut command, b"").expect_err("exit 3");
        let text = error.to_string();
        assert!(text.contains("reason") && text.contains('3'), "{text}");
    }

    #[test]
    fn missing_program_is_an_error() {
        assert!(run("x", 60, &mut limited(60, "weft-no-such-program"), b"").is_err());
    }

    #[test]
    fn limit_strikes() {
        let mut command = limited(1, "sleep");
        command.arg("600");
        let text = run("sleep", 1, &mut command, b"").expect_err("too slow").to_string();
        assert!(text.contains("time limit"), "{text}");
    }

    /// As fio's jobs do: a grandchild in a session of its own, which the limit's signals do not reach.
    #[test]
    fn a_grandchild_that_lives_on_does_not_hold_us() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = limited(1, "sh");
        command.args(["-c", "setsid sh -c 'sleep 45; touch ended' & exec sleep 600"]);
        let error = run("sh", 1, command.current_dir(dir.path()), b"").expect_err("too slow");
        assert_eq!(error.kind, crate::error::Kind::Late);
        assert!(!dir.path().join("ended").exists(), "waited for the grandchild");
    }
}
