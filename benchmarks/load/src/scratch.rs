//! The folder a run works in, inside each directory it compares: `weft-load.HOST.PID`, removed at the end. What a
//! killed run of this host left is removed at the next start.

use crate::error::{At, Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Our own folder; dropped, it is removed with everything in it.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    left_behind: bool,
}

impl Scratch {
    /// Makes the folder in `parent`.
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        let uname = rustix::system::uname();
        let prefix = format!("weft-load.{}.", uname.nodename().to_string_lossy());
        sweep(parent, &prefix)?;
        let path = parent.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir(&path).at("create the working folder", &path)?;
        Ok(Self { path, left_behind: false })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the folder where it is: its file system hangs, and removing would as well.
    pub(crate) fn leave_behind(&mut self) {
        self.left_behind = true;
    }

    /// Removes the folder and says whether that worked.
    pub(crate) fn remove(self) -> Result<()> {
        if self.left_behind {
            return Err(Error::wrong("left behind", self.path.display().to_string()));
        }
        fs::remove_dir_all(&self.path).at("remove the working folder", &self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After `remove` it is gone; after an error the run has its own message.
        if !self.left_behind {
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

/// Removes the folders of runs whose process is gone.
fn sweep(parent: &Path, prefix: &str) -> Result<()> {
    for entry in fs::read_dir(parent).at("list", parent)? {
        let path = entry.at("list", parent)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let pid: Option<u32> =
            name.and_then(|n| n.strip_prefix(prefix)).and_then(|p| p.parse().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            fs::remove_dir_all(&path).at("remove what an earlier run left", &path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_swept_and_removed() {
        let parent = tempfile::tempdir().expect("a folder");
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let dead = parent.path().join(format!("weft-load.{host}.{}", u32::MAX));
        let other = parent.path().join("weft-load.another-host.1");
        fs::create_dir(&dead).expect("mkdir");
        fs::write(dead.join("file"), "x").expect("write");
        fs::create_dir(&other).expect("mkdir");
        let scratch = Scratch::new(parent.path()).expect("made");
        let path = scratch.path().to_owned();
        assert!(path.is_dir() && !dead.exists() && other.exists());
        assert!(Scratch::new(parent.path()).is_err(), "one run at a time in one process");
        scratch.remove().expect("removed");
        assert!(!path.exists());
    }

    #[test]
    fn left_behind_is_said() {
        let parent = tempfile::tempdir().expect("a folder");
        let mut scratch = Scratch::new(parent.path()).expect("made");
        let path = scratch.path().to_owned();
        scratch.leave_behind();
        assert!(scratch.remove().is_err());
        assert!(path.is_dir());
    }

    #[test]
    fn missing_parent_is_an_error() {
        assert!(Scratch::new(Path::new("/nonexistent/weft")).is_err());
    }
}
