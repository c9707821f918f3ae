//! Starting other programs: with a time limit (coreutils' `timeout`), so that a hung file system ends a run with an
//! error and not never, and with every failure reported.

use crate::clock;
use crate::error::{At, Error, Result};
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What `timeout` exits with when the limit struck, and when it had to use SIGKILL.
const TIMEOUT_EXITS: [i32; 2] = [124, 137];
const STDERR_CHARS_MAX: usize = 600;

/// A command under a limit.
pub(crate) fn limited(limit_s: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "-k", "5", &limit_s.to_string()]).arg(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Standard output and seconds of a program that worked.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) stdout: Vec<u8>,
    pub(crate) seconds: f64,
}

/// Runs a command made by [`limited`] to its end. Any exit but 0 is an error with the end of its standard error.
pub(crate) fn run(op: &'static str, command: &mut Command, stdin: &[u8]) -> Result<Finished> {
    if !stdin.is_empty() {
        command.stdin(Stdio::piped());
    }
    let start_ns = clock::monotonic_ns();
    let mut child = command.spawn().at(op, Path::new("timeout"))?;
    // A program that ends before it reads all of its input says why below.
    let fed = child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(stdin));
    let output = child.wait_with_output().at(op, Path::new("wait"))?;
    let seconds = clock::seconds_between(start_ns, clock::monotonic_ns());
    check(op, &output)?;
    fed.at(op, Path::new("standard input"))?;
    Ok(Finished { stdout: output.stdout, seconds })
}

fn check(op: &'static str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    if output.status.code().is_some_and(|code| TIMEOUT_EXITS.contains(&code)) {
        return Err(Error::program(op, "did not end within its time limit (--limit-s)"));
    }
    let mut said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.is_empty() {
        said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    }
    let end: String = said.chars().take(STDERR_CHARS_MAX).collect();
    Err(Error::program(op, format!("{}: {end}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_input_pass_through() {
        let done = run("cat", &mut limited(60, "cat"), b"hello").expect("cat works");
        assert_eq!(done.stdout, b"hello");
        assert!(done.seconds > 0.0);
    }

    #[test]
    fn failure_says_what_the_program_said() {
        let mut command = limited(60, "sh");
        command.args(["-c", "echo reason >&2; exit 3"]);
        let error = run("sh", &mut command, b"").expect_err("exit 3");
        let text = error.to_string();
        assert!(text.contains("reason") && text.contains('3'), "{text}");
    }

    #[test]
    fn missing_program_is_an_error() {
        assert!(run("x", &mut limited(60, "weft-no-such-program"), b"").is_err());
    }

    #[test]
    fn limit_strikes() {
        let mut command = limited(1, "sleep");
        command.arg("600");
        let text = run("sleep", &mut command, b"").expect_err("too slow").to_string();
        assert!(text.contains("time limit"), "{text}");
    }
}
