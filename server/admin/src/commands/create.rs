//! `weft fs create`: the metadata volume and every target of a config, or nothing at all.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use weft_server_core::config::{Config, MissingTargets};
use weft_store::{Copies, Superblock};
use weft_wire::{ClusterId, TargetId};

use super::target::{data_bytes, refuse_running, superblock_json};
use crate::cli::CreateArgs;
use crate::error::AdminError;
use crate::format::{self, Content, TargetOrder, VolumeContent};
use crate::locate::{self, Located};
use crate::output::Align::{Left, Right};
use crate::output::{Report, Table};
use crate::units::human_bytes;

pub(super) fn run(args: &CreateArgs, timeout: Duration) -> Result<Report, AdminError> {
    let located = locate::config(args.config.config.as_deref())?;
    let config = &located.config;
    if let Decision::Already(report) = decide(args, &located)? {
        return Ok(report);
    }
    refuse_running(config, timeout)?;
    let _lock = format::take_state_dir(config)?;
    // Another command may have been here between the first look and the lock.
    let found = match decide(args, &located)? {
        Decision::Already(report) => return Ok(report),
        Decision::Make(found) => found,
    };
    let mut warnings = check(&located)?;
    let made = format_all(args, config, &found)?;
    warnings.extend(found.warnings(config.cluster));
    Ok(report(&located, &made, &warnings))
}

/// What is to be done, from what is there.
enum Decision {
    Already(Report),
    Make(Found),
}

fn decide(args: &CreateArgs, located: &Located) -> Result<Decision, AdminError> {
    let cluster = located.config.cluster;
    let found = Found::survey(&located.config)?;
    match found.standing(cluster) {
        Standing::AllFree => Ok(Decision::Make(found)),
        Standing::AllOurs if args.if_missing => Ok(Decision::Already(already(located, &found))),
        _ if args.force => Ok(Decision::Make(found)),
        _ => Err(found.refusal(located)),
    }
}

fn check(located: &Located) -> Result<Vec<String>, AdminError> {
    let error = |error| AdminError::config(&located.file, &error);
    let mut warnings = located.config.check_machine().map_err(error)?;
    warnings.extend(located.config.check_paths(MissingTargets::Allowed).map_err(error)?);
    Ok(warnings)
}

/// A target that was made.
struct Made {
    path: PathBuf,
    superblock: Superblock,
}

fn format_all(args: &CreateArgs, config: &Config, found: &Found) -> Result<Vec<Made>, AdminError> {
    let mut made = Vec::new();
    let result =
        format_targets(args, config, &mut made).and_then(|()| format::format_volume(config));
    match result {
        Ok(()) => Ok(made),
        Err(error) => {
            found.take_back(config, &made);
            Err(error)
        }
    }
}

fn format_targets(
    args: &CreateArgs,
    config: &Config,
    made: &mut Vec<Made>,
) -> Result<(), AdminError> {
    for (index, path) in config.targets.iter().enumerate() {
        let id = TargetId(u16::try_from(index).expect("TARGET_COUNT_MAX is far below"));
        let order = TargetOrder { config, path, id, file_bytes: args.target_bytes };
        let superblock = format::format_target(&order)?;
        made.push(Made { path: path.clone(), superblock });
    }
    Ok(())
}

fn report(located: &Located, made: &[Made], warnings: &[String]) -> Report {
    let config = &located.config;
    let mut table = Table::new(&[("TARGET", Right), ("DATA", Right), ("PATH", Left)]);
    for target in made {
        let path = target.path.display().to_string();
        let data = human_bytes(data_bytes(&target.superblock));
        table.row([target.superblock.target_id.to_string(), data, path]);
    }
    let mut text = format!(
        "made cluster {}\nmetadata  {}\n\n{}",
        config.cluster,
        config.volume_dir().display(),
        table.render()
    );
    for warning in warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text.push_str(&format!(
        "\nnext: start the server (weft-server --config {file}, or systemctl start weft-server), \
         then: weft ping --config {file}, and: mount -t weft {listen}:/ MOUNTPOINT\n",
        file = located.file.display(),
        listen = config.listen
    ));
    let targets: Vec<Value> = made
        .iter()
        .map(|target| superblock_json(&target.path, &target.superblock, Copies::Both))
        .collect();
    let json = json!({
        "cluster": config.cluster.to_string(),
        "created": true,
        "volume": config.volume_dir().to_string_lossy(),
        "targets": targets,
        "warnings": warnings,
    });
    Report::done(text, json)
}

fn already(located: &Located, found: &Found) -> Report {
    let config = &located.config;
    let text = format!(
        "already there: the metadata volume and {} targets of cluster {}; nothing was changed\n",
        found.targets.len(),
        config.cluster
    );
    Report::done(text, json!({ "cluster": config.cluster.to_string(), "created": false }))
}

/// What is there before anything is made.
struct Found {
    volume: VolumeContent,
    targets: Vec<(PathBuf, Content)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    AllFree,
    AllOurs,
    Mixed,
}

impl Found {
    fn survey(config: &Config) -> Result<Found, AdminError> {
        let volume = format::survey_volume(config)?;
        let targets = config
            .targets
            .iter()
            .map(|path| Ok((path.clone(), format::survey_target(path)?)))
            .collect::<Result<Vec<_>, AdminError>>()?;
        Ok(Found { volume, targets })
    }

    fn standing(&self, cluster: ClusterId) -> Standing {
        let is_ours = |content: &Content| matches!(content, Content::Target { superblock, .. } if superblock.cluster == cluster);
        let volume_free = self.volume == VolumeContent::Missing;
        if volume_free && self.targets.iter().all(|(_, content)| content.is_free()) {
            return Standing::AllFree;
        }
        let volume_ours = self.volume == VolumeContent::Volume(cluster);
        match volume_ours && self.targets.iter().all(|(_, content)| is_ours(content)) {
            true => Standing::AllOurs,
            false => Standing::Mixed,
        }
    }

    fn refusal(&self, located: &Located) -> AdminError {
        let mut why = "something is there already; nothing was changed:".to_owned();
        let state_dir = located.config.state_dir.display();
        if self.volume != VolumeContent::Missing {
            why.push_str(&format!("\n  {state_dir} holds {}", self.volume.describe()));
        }
        for (path, content) in &self.targets {
            why.push_str(&format!("\n  {} holds {}", path.display(), content.describe()));
        }
        let next = match self.standing(located.config.cluster) {
            Standing::AllOurs => {
                "it is this very cluster: start the server; --if-missing takes this for done; --force formats it \
                 anew and LOSES ALL FILES"
            }
            _ => "name other paths in the config; or --force, which LOSES what is there",
        };
        AdminError::new(format!("create the file system of {}", located.file.display()), why, next)
    }

    /// After a failure: removes what this run made where there was nothing, so that the next run can begin anew. What
    /// cannot be removed is found, and named, by that run.
    fn take_back(&self, config: &Config, made: &[Made]) {
        for (path, _) in self.targets.iter().filter(|(_, held)| matches!(held, Content::Missing)) {
            if let Some(target) = made.iter().find(|target| target.path == *path) {
                format::drop_index(config, target.superblock.target_uuid).unwrap_or(());
            }
            std::fs::remove_file(path).unwrap_or(());
        }
        if self.volume == VolumeContent::Missing {
            format::remove_volume(config).unwrap_or(());
        }
    }

    fn warnings(&self, cluster: ClusterId) -> Vec<String> {
        if self.standing(cluster) == Standing::AllFree {
            return Vec::new();
        }
        let lost = |(path, content): &(PathBuf, Content)| {
            format!("{} was overwritten; it held {}", path.display(), content.describe())
        };
        self.targets.iter().filter(|(_, content)| !content.is_free()).map(lost).collect()
    }
}

#[cfg(test)]
mod tests;
