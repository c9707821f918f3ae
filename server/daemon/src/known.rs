//! Which target was behind which path at the last good start: `<state_dir>/targets.toml`.
//!
//! A target says itself who it is. One whose device is dead cannot; with what is kept here its place stays its own, the
//! node serves without it, and people are told by its id which one is missing. A path that was never a target of this
//! node is a mistake in the configuration instead.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_wire::TargetId;

const HEAD: &str =
    "# Written by weft-server at its start: the targets it knows, for when a device is gone.\n";

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Entry {
    id: u16,
    path: PathBuf,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct KnownTargets {
    #[serde(default)]
    target: Vec<Entry>,
}

impl KnownTargets {
    /// Reads the file; what cannot be read is told in the log, and is as good as nothing.
    pub(crate) fn load(state_dir: &Path) -> KnownTargets {
        let path = file_of(state_dir);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return KnownTargets::default();
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot be read; it is made anew");
                return KnownTargets::default();
            }
        };
        toml::from_str(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "is damaged; it is made anew");
            KnownTargets::default()
        })
    }

    /// Keeps what this start knows.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn save(
        &self,
        state_dir: &Path,
        now: impl Iterator<Item = (TargetId, PathBuf)>,
    ) -> io::Result<()> {
        let target = now.map(|(id, path)| Entry { id: id.0, path }).collect();
        let now = KnownTargets { target };
        if *self == now {
            return Ok(());
        }
        let text = toml::to_string(&now).map_err(io::Error::other)?;
        let (path, new) = (file_of(state_dir), state_dir.join("targets.toml.new"));
        let mut file = File::create(&new)?;
        file.write_all(HEAD.as_bytes())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        File::open(state_dir)?.sync_all()
    }

    /// Which of the targets that are `there` not a path that cannot be read stands for; each is given once. Device names
    /// may have moved: then it is one that is missing. `None`: none of this node's.
    pub(crate) fn take(&mut self, path: &Path, there: &BTreeSet<TargetId>) -> Option<TargetId> {
        self.target.retain(|entry| !there.contains(&TargetId(entry.id)));
        let own = self.target.iter().position(|entry| entry.path == path);
        let at = own.or((!self.target.is_empty()).then_some(0))?;
        Some(TargetId(self.target.remove(at).id))
    }
}

fn file_of(state_dir: &Path) -> PathBuf {
    state_dir.join("targets.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(paths: &[&str]) -> KnownTargets {
        let entry = |(id, path): (usize, &&str)| Entry {
            id: u16::try_from(id).expect("few"),
            path: PathBuf::from(path),
        };
        KnownTargets { target: paths.iter().enumerate().map(entry).collect() }
    }

    #[test]
    fn what_is_kept_comes_back() {
        let dir = tempfile::tempdir().expect("scratch");
        assert_eq!(KnownTargets::load(dir.path()), KnownTargets::default());
        let all = known(&["/dev/a", "/dev/with \"quotes\" and\nlines"]);
        let entries = all.target.iter().map(|entry| (TargetId(entry.id), entry.path.clone()));
        KnownTargets::default().save(dir.path(), entries).expect("saved");
        assert_eq!(KnownTargets::load(dir.path()), all);
        std::fs::write(file_of(dir.path()), "target = 7").expect("written");
        assert_eq!(KnownTargets::load(dir.path()), KnownTargets::default());
    }

    #[test]
    fn a_dead_path_is_the_target_it_was_or_the_one_that_is_missing() {
        let there = |ids: &[u16]| ids.iter().map(|id| TargetId(*id)).collect::<BTreeSet<_>>();
        let all = || known(&["/dev/a", "/dev/b", "/dev/c"]);
        assert_eq!(all().take(Path::new("/dev/b"), &there(&[0, 2])), Some(TargetId(1)));
        // What was c is behind b now, and c is gone: the one that is missing is b.
        assert_eq!(all().take(Path::new("/dev/c"), &there(&[0, 2])), Some(TargetId(1)));
        assert_eq!(all().take(Path::new("/dev/new"), &there(&[0, 1, 2])), None);
        let mut two = all();
        assert_eq!(two.take(Path::new("/dev/c"), &there(&[0])), Some(TargetId(2)));
        assert_eq!(two.take(Path::new("/dev/b"), &there(&[0])), Some(TargetId(1)));
        assert_eq!(two.take(Path::new("/dev/x"), &there(&[0])), None, "each is given once");
    }
}
