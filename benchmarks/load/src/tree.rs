//! The source-tree load: 2,600 small files unpacked by tar, looked through by find and grep, removed by rm; each the
//! program a user would run. The tree is the same in every run and everywhere.

use crate::error::{At, Error, Result};
use crate::limits::{TREE_DIR_COUNT, TREE_FILE_COUNT};
use crate::program::{self, limited};
use crate::sample::{Recorder, Sample};
use std::fs;
use std::path::{Path, PathBuf};

const NEEDLE: &str = "weft-load-needle";
const FOLDER_GROUP_COUNT: u32 = 10;
const LINE: &[u8] = b"    let answer = question.ask(&everyone)?; // as any line of code\n";

/// The tree, packed.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    limit_s: u32,
}

impl Archive {
    /// Makes the tree in `dir`, packs it as `dir/tree.tar` and removes it.
    pub(crate) fn make(dir: &Path, limit_s: u32) -> Result<Self> {
        let stage = dir.join("stage");
        for index in 0..TREE_FILE_COUNT {
            let path = stage.join(name(index));
            let parent = path.parent().expect("a name has folders");
            fs::create_dir_all(parent).at("mkdir", parent)?;
            fs::write(&path, contents(index)).at("write", &path)?;
        }
        let path = dir.join("tree.tar");
        let mut tar = limited(limit_s, "tar");
        tar.arg("-cf").arg(&path).arg("-C").arg(&stage).arg("tree");
        program::run("tar -c", limit_s, &mut tar, b"")?;
        fs::remove_dir_all(&stage).at("remove", &stage)?;
        Ok(Self { path, limit_s })
    }

    /// Runs the load in `dir` and leaves nothing there.
    pub(crate) fn run(&self, dir: &Path, recorder: &mut Recorder<'_>) -> Result<()> {
        let tree = dir.join("tree");
        let files = u64::from(TREE_FILE_COUNT);
        recorder.row("untar", || {
            let mut tar = limited(self.limit_s, "tar");
            tar.arg("-xf").arg(&self.path).arg("-C").arg(dir);
            let done = program::run("tar -x", self.limit_s, &mut tar, b"")?;
            Sample::time(files, done.seconds)
        })?;
        recorder.row("find", || {
            let mut find = limited(self.limit_s, "find");
            find.arg(&tree).args(["-type", "f", "-printf", "%s\n"]);
            let done = program::run("find", self.limit_s, &mut find, b"")?;
            check_sizes(&String::from_utf8_lossy(&done.stdout))?;
            Sample::time(files, done.seconds)
        })?;
        recorder.row("grep", || {
            let mut grep = limited(self.limit_s, "grep");
            grep.args(["-rl", NEEDLE]).arg(&tree);
            let done = program::run("grep -r", self.limit_s, &mut grep, b"")?;
            let found = done.stdout.iter().filter(|byte| **byte == b'\n').count();
            check_count("grep -r", u64::try_from(found).expect("u64 holds a count"))?;
            Sample::time(files, done.seconds)
        })?;
        check_contents(dir)?;
        recorder.row("rm-rf", || {
            let mut rm = limited(self.limit_s, "rm");
            rm.arg("-rf").arg(&tree);
            let done = program::run("rm -rf", self.limit_s, &mut rm, b"")?;
            if fs::symlink_metadata(&tree).is_ok() {
                return Err(Error::wrong("rm -rf", format!("{} is still there", tree.display())));
            }
            Sample::time(files, done.seconds)
        })
    }
}

fn check_count(op: &'static str, found: u64) -> Result<()> {
    if found != u64::from(TREE_FILE_COUNT) {
        return Err(Error::wrong(op, format!("{found} files found, not {TREE_FILE_COUNT}")));
    }
    Ok(())
}

/// find's output, one size a line: as many, and as much in all.
fn check_sizes(output: &str) -> Result<()> {
    let sizes: Vec<u64> = output.lines().filter_map(|line| line.parse().ok()).collect();
    check_count("find", u64::try_from(sizes.len()).expect("u64 holds a count"))?;
    let want: u64 = (0..TREE_FILE_COUNT).map(file_bytes).sum();
    let found: u64 = sizes.iter().sum();
    if found != want {
        return Err(Error::wrong("find", format!("{found} bytes in all, not {want}")));
    }
    Ok(())
}

fn check_contents(dir: &Path) -> Result<()> {
    for index in 0..TREE_FILE_COUNT {
        let path = dir.join(name(index));
        if fs::read(&path).at("read", &path)? != contents(index) {
            return Err(Error::wrong("contents differ", path.display().to_string()));
        }
    }
    Ok(())
}

/// 10 folders of 13 folders of 20 files.
fn name(index: u32) -> PathBuf {
    let folder = index % TREE_DIR_COUNT;
    let group = folder % FOLDER_GROUP_COUNT;
    PathBuf::from(format!("tree/group{group:02}/folder{folder:03}/file{index:04}.rs"))
}

/// 64 bytes to 64 KiB, as many in each power of two: the mean is about 9 KiB.
fn file_bytes(index: u32) -> u64 {
    let mixed = u64::from(index).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let floor = 64_u64 << (mixed % 10);
    floor + (mixed >> 8) % floor
}

fn contents(index: u32) -> Vec<u8> {
    let length = usize::try_from(file_bytes(index)).expect("64 KiB at most");
    let head = format!("// {index}\n");
    // At the end, so that grep reads the whole file.
    let tail = format!("// {NEEDLE} {index}\n");
    let mut bytes: Vec<u8> =
        head.bytes().chain(LINE.iter().copied().cycle()).take(length).collect();
    bytes.splice(length - tail.len().., tail.bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_what_it_says() {
        let mut total = 0;
        let mut folders = std::collections::BTreeSet::new();
        for index in 0..TREE_FILE_COUNT {
            let bytes = contents(index);
            assert_eq!(u64::try_from(bytes.len()).expect("small"), file_bytes(index));
            assert!(bytes.ends_with(format!("{NEEDLE} {index}\n").as_bytes()));
            assert!((64..65_536).contains(&file_bytes(index)));
            folders.insert(name(index).parent().expect("a folder").to_owned());
            total += file_bytes(index);
        }
        assert_eq!(folders.len(), usize::try_from(TREE_DIR_COUNT).expect("small"));
        let mean = total / u64::from(TREE_FILE_COUNT);
        assert!((6_000..13_000).contains(&mean), "{mean}");
    }

    #[test]
    fn lost_files_and_bytes_are_noticed() {
        let sizes: Vec<String> = (0..TREE_FILE_COUNT).map(|i| file_bytes(i).to_string()).collect();
        assert!(check_sizes(&sizes.join("\n")).is_ok());
        assert!(check_sizes(&sizes[1..].join("\n")).is_err());
        let mut short = sizes.clone();
        short[7] = "0".into();
        assert!(check_sizes(&short.join("\n")).is_err());
        assert!(check_sizes("").is_err());
    }

    #[test]
    fn whole_load_on_a_local_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let archive = Archive::make(dir.path(), 120).expect("packed");
        let place = dir.path().join("place");
        fs::create_dir(&place).expect("mkdir");
        let mut recorder = Recorder::new(None);
        archive.run(&place, &mut recorder).expect("runs");
        let ids: Vec<_> = recorder.samples.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, ["untar", "find", "grep", "rm-rf"]);
        assert_eq!(fs::read_dir(&place).expect("list").count(), 0);
    }

    #[test]
    fn changed_contents_are_noticed() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(check_contents(dir.path()).is_err());
        for index in 0..TREE_FILE_COUNT {
            let path = dir.path().join(name(index));
            fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir");
            fs::write(&path, contents(index)).expect("write");
        }
        assert!(check_contents(dir.path()).is_ok());
        let mut bytes = contents(9);
        bytes[20] ^= 1;
        fs::write(dir.path().join(name(9)), bytes).expect("write");
        assert!(check_contents(dir.path()).is_err());
    }
}
