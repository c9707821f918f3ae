//! `weft fs check`: the metadata volume, as its own checker sees it. The server is stopped.

use std::time::Duration;

use serde_json::{Value, json};
use weft_metadata::{Problem, ProblemKind};

use super::target::refuse_running;
use crate::cli::ConfigArgs;
use crate::error::AdminError;
use crate::format::{self, VolumeContent};
use crate::locate;
use crate::output::{Outcome, Report};

/// Problems printed one by one.
const PROBLEMS_SHOWN_MAX: usize = 100;

pub(super) fn run(args: &ConfigArgs, timeout: Duration) -> Result<Report, AdminError> {
    let located = locate::config(args.config.as_deref())?;
    let config = &located.config;
    let content = format::survey_volume(config)?;
    if content != VolumeContent::Volume(config.cluster) {
        let what = format!("check {}", config.volume_dir().display());
        let why = format!("it holds {}, not this cluster's volume", content.describe());
        return Err(AdminError::new(
            what,
            why,
            "is this the right config (weft fs create makes volumes)?",
        ));
    }
    refuse_running(config, timeout)?;
    let _lock = format::take_state_dir(config)?;
    let mut targets = Vec::new();
    for path in &config.targets {
        targets.push(format::inspect_file(path)?.0.target_id);
    }
    // In the order in which the server names them.
    targets.sort_unstable();
    let (volume, opened) = format::open_volume(config, targets)?;
    let seen = weft_metadata::check(&volume);
    let mut text = format!(
        "inodes {}, names {}, extended attributes {}, orphans {}, works {}\nlog: {} commands replayed\n",
        seen.inode_count,
        seen.entry_count,
        seen.xattr_count,
        seen.orphan_count,
        seen.work_count,
        opened.replayed_commands
    );
    let damaged = opened.damaged_commands + opened.damaged_rows;
    if damaged > 0 {
        text.push_str(&format!(
            "{damaged} records or logged changes are damaged: some changes are lost\n"
        ));
    }
    for problem in seen.problems.iter().take(PROBLEMS_SHOWN_MAX) {
        text.push_str(&line_of(problem));
    }
    if seen.problems.len() > PROBLEMS_SHOWN_MAX {
        let more = seen.problems.len() - PROBLEMS_SHOWN_MAX;
        text.push_str(&format!("and {more} more: --json lists them\n"));
    }
    let sound = seen.is_sound() && damaged == 0;
    text.push_str(match sound {
        true => "sound\n",
        false => {
            "NOT SOUND\n  next: keep a copy of state_dir as it is, then restore it from a backup\n"
        }
    });
    let problem =
        |p: &Problem| json!({ "kind": format!("{:?}", p.kind), "ino": p.ino.0, "other": p.other });
    let problems: Vec<Value> = seen.problems.iter().map(problem).collect();
    let json = json!({
        "sound": sound, "inodes": seen.inode_count, "names": seen.entry_count,
        "xattrs": seen.xattr_count, "orphans": seen.orphan_count, "works": seen.work_count,
        "replayed_commands": opened.replayed_commands, "damaged": damaged, "problems": problems,
    });
    let outcome = if sound { Outcome::Done } else { Outcome::Failed };
    Ok(Report { outcome, text, json })
}

fn line_of(problem: &Problem) -> String {
    let Problem { kind, ino, other } = problem;
    let meaning = match kind {
        ProblemKind::TableDamaged => "a page of this table cannot be read",
        ProblemKind::RecordDamaged => "a record cannot be read",
        ProblemKind::NameWithoutInode => "so many names lead to an inode that is not there",
        ProblemKind::TypeDiffers => "a name in this directory is of another type than its inode",
        ProblemKind::NameMisplaced => {
            "a name of it in this directory cannot be found by looking it up"
        }
        ProblemKind::NamesWithoutDirectory => "so many names are in what is no directory",
        ProblemKind::LinkCount => "its link count should be this",
        ProblemKind::EntryCount => "its size should be this: so many names are in it",
        ProblemKind::Parent => "its parent should be this directory",
        ProblemKind::Unreachable => "no way leads from the root to it",
        ProblemKind::Lost => "it has no name and is not to be removed either",
        ProblemKind::FalseOrphan => "it is to be removed, but has so many names or is not there",
        ProblemKind::XattrCount => "it has so many extended attributes, and counts others",
        ProblemKind::InodeData => "so many bytes are with the names that are not as its inode says",
        ProblemKind::NumberAhead => "its number was not given out yet",
    };
    format!("{kind:?}: inode {ino}, {other} ({meaning})\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::Ino;

    #[test]
    fn a_problem_says_what_it_means() {
        let problem = Problem { kind: ProblemKind::InodeData, ino: Ino(9), other: 5000 };
        let line = line_of(&problem);
        assert!(line.starts_with("InodeData: inode 9, 5000 (so many bytes are with"), "{line}");
    }
}
