//! One process of the metadata load. It is told phases on standard input, one id a line, and answers each with one
//! JSON line. A phase checks what it sees: a missing file, a wrong size, other contents or a name too many is an
//! error. What it cannot see: the outcome of close (std does not tell); the read phase looks at the contents.

use crate::clock;
use crate::error::{At, Error, Result};
use crate::limits::{HARD_FILE_BYTES, READDIR_PASS_COUNT};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};

/// Phases that are not rows: making and removing each process's folders.
pub(crate) const SET_UP: &str = "set-up";
pub(crate) const TEAR_DOWN: &str = "tear-down";
/// The folder all processes share; the parent makes and removes it.
pub(crate) const SHARED: &str = "shared";

/// What a process works on.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) root: PathBuf,
    pub(crate) rank: u32,
    pub(crate) rank_count: u32,
    /// Files (and folders) of each process's own directory.
    pub(crate) easy_count: u32,
    /// Files of each process in the shared directory.
    pub(crate) hard_count: u32,
}

/// What a phase did, and when on the monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) count: u64,
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
}

/// The answer to one phase.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done(Done),
    Failed(String),
}

/// Answers phases until the input ends.
pub(crate) fn serve(worker: &Worker, input: impl BufRead, mut output: impl Write) -> Result<()> {
    let pipe = Path::new("the parent's pipe");
    for line in input.lines() {
        let answer = match worker.phase(line.at("read", pipe)?.trim()) {
            Ok(done) => Answer::Done(done),
            Err(error) => Answer::Failed(error.to_string()),
        };
        let mut text = serde_json::to_string(&answer).expect("plain data");
        text.push('\n');
        output.write_all(text.as_bytes()).at("write", pipe)?;
        output.flush().at("write", pipe)?;
    }
    Ok(())
}

impl Worker {
    /// Runs one phase.
    pub(crate) fn phase(&self, id: &str) -> Result<Done> {
        match id {
            SET_UP => timed(1, |_| self.set_up()),
            TEAR_DOWN => timed(1, |_| self.tear_down()),
            "easy-create" | "crowd-create" => timed(self.easy_count, |i| {
                let path = self.easy(self.rank, 'f', i);
                create_new(&path).map(drop)
            }),
            "easy-stat" => {
                timed_shuffled(self.easy_count, |i| stat(&self.easy(self.neighbour(), 'f', i), 0))
            }
            "rename" => timed(self.easy_count, |i| {
                let from = self.easy(self.rank, 'f', i);
                fs::rename(&from, self.easy(self.rank, 'r', i)).at("rename", &from)
            }),
            "easy-delete" | "crowd-delete" => timed_shuffled(self.easy_count, |i| {
                // The crowd renames nothing.
                let kind = if id == "easy-delete" { 'r' } else { 'f' };
                let path = self.easy(self.rank, kind, i);
                fs::remove_file(&path).at("unlink", &path)
            }),
            "mkdir" => timed(self.easy_count, |i| {
                let path = self.easy(self.rank, 'd', i);
                fs::create_dir(&path).at("mkdir", &path)
            }),
            "rmdir" => timed_shuffled(self.easy_count, |i| {
                let path = self.easy(self.rank, 'd', i);
                fs::remove_dir(&path).at("rmdir", &path)
            }),
            "hard-create" => timed(self.hard_count, |i| self.hard_create(i)),
            "readdir" => self.read_shared(),
            "hard-stat" => {
                let bytes = u64::try_from(HARD_FILE_BYTES).expect("a small constant");
                timed_shuffled(self.hard_count, |i| stat(&self.hard(self.neighbour(), i), bytes))
            }
            "hard-read" => timed_shuffled(self.hard_count, |i| self.hard_read(i)),
            "hard-delete" => timed_shuffled(self.hard_count, |i| {
                let path = self.hard(self.rank, i);
                fs::remove_file(&path).at("unlink", &path)
            }),
            _ => Err(Error::usage("no such phase", id)),
        }
    }

    /// The process whose files this one looks at, so that nobody looks at what it has just made.
    fn neighbour(&self) -> u32 {
        (self.rank + 1) % self.rank_count
    }

    fn own(&self, rank: u32) -> PathBuf {
        self.root.join(format!("own.{rank}"))
    }

    fn easy(&self, rank: u32, kind: char, index: u32) -> PathBuf {
        self.root.join(format!("own.{rank}/{kind}.{index}"))
    }

    fn hard(&self, rank: u32, index: u32) -> PathBuf {
        self.root.join(format!("{SHARED}/{rank}.{index}"))
    }

    fn set_up(&self) -> Result<()> {
        let path = self.own(self.rank);
        fs::create_dir(&path).at("mkdir", &path)
    }

    /// rmdir proves that the folder is empty.
    fn tear_down(&self) -> Result<()> {
        let path = self.own(self.rank);
        fs::remove_dir(&path).at("rmdir", &path)
    }

    fn hard_create(&self, index: u32) -> Result<()> {
        let path = self.hard(self.rank, index);
        create_new(&path)?.write_all(&contents(self.rank, index)).at("write", &path)
    }

    fn hard_read(&self, index: u32) -> Result<()> {
        let rank = self.neighbour();
        let path = self.hard(rank, index);
        let mut found = [0; HARD_FILE_BYTES];
        File::open(&path).at("open", &path)?.read_exact(&mut found).at("read", &path)?;
        if found != contents(rank, index) {
            return Err(Error::wrong("contents differ", path.display().to_string()));
        }
        Ok(())
    }

    /// Lists the shared folder some times. The names are checked after the clock has stopped.
    fn read_shared(&self) -> Result<Done> {
        let path = self.root.join(SHARED);
        let mut lists = Vec::new();
        let mut done = timed(READDIR_PASS_COUNT, |_| {
            let names: std::io::Result<Vec<_>> =
                fs::read_dir(&path).at("readdir", &path)?.map(|e| Ok(e?.file_name())).collect();
            lists.push(names.at("readdir", &path)?);
            Ok(())
        })?;
        let mut want: Vec<String> = (0..self.rank_count)
            .flat_map(|rank| (0..self.hard_count).map(move |index| format!("{rank}.{index}")))
            .collect();
        want.sort_unstable();
        done.count = 0;
        for mut names in lists {
            names.sort_unstable();
            if !names.iter().eq(want.iter().map(std::ffi::OsStr::new)) {
                let what = format!("{} names, not the {} made", names.len(), want.len());
                return Err(Error::wrong("readdir", format!("{}: {what}", path.display())));
            }
            done.count += u64::try_from(names.len()).expect("u64 holds a count");
        }
        Ok(done)
    }
}

fn create_new(path: &Path) -> Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path).at("create", path)
}

fn stat(path: &Path, bytes: u64) -> Result<()> {
    let found = fs::symlink_metadata(path).at("stat", path)?;
    if !found.is_file() || found.len() != bytes {
        let what = format!("{}: {} bytes, not a file of {bytes}", path.display(), found.len());
        return Err(Error::wrong("stat", what));
    }
    Ok(())
}

/// A file's bytes: its name over and over, so that no two files and no two places in a file are easily mixed up.
fn contents(rank: u32, index: u32) -> [u8; HARD_FILE_BYTES] {
    let mut bytes = [0; HARD_FILE_BYTES];
    let word = u64::from(rank) << 32 | u64::from(index);
    for (position, chunk) in (0_u64..).zip(bytes.chunks_mut(8)) {
        let mixed = word.wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes();
        chunk.copy_from_slice(&mixed[..chunk.len()]);
    }
    bytes
}

fn timed(count: u32, mut step: impl FnMut(u32) -> Result<()>) -> Result<Done> {
    let start_ns = clock::monotonic_ns();
    for index in 0..count {
        step(index)?;
    }
    Ok(Done { count: u64::from(count), start_ns, end_ns: clock::monotonic_ns() })
}

fn timed_shuffled(count: u32, mut step: impl FnMut(u32) -> Result<()>) -> Result<Done> {
    let stride = stride(count);
    timed(count, |turn| {
        let index = u64::from(turn) * u64::from(stride) % u64::from(count);
        step(u32::try_from(index).expect("less than a u32"))
    })
}

/// A step that visits each of `count` places once, far from the order of creation.
fn stride(count: u32) -> u32 {
    let golden = u32::try_from(u64::from(count) * 618 / 1000).expect("less than a u32");
    (golden.max(1)..).find(|&step| gcd(step, count) == 1).expect("a prime comes before the end")
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
