//! `weft fs create`: the metadata volume and every target of a config, or nothing at all.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use weft_server_core::config::{Config, MissingTargets};
use weft_wire::{ClusterId, TargetId};

use super::target::refuse_running;
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
    let found = Found::survey(config)?;
    if args.if_missing {
        match found.standing(config.cluster) {
            Standing::AllOurs => return Ok(already(&located, &found)),
            Standing::AllFree => {}
            Standing::Mixed => return Err(found.refusal(&located)),
        }
    } else if !args.force && found.standing(config.cluster) != Standing::AllFree {
        return Err(found.refusal(&located));
    }
    refuse_running(config, timeout)?;
    let _lock = format::take_state_dir(config)?;
    let mut warnings = check(&located)?;
    let formatted = format_all(args, config)?;
    warnings.extend(found.warnings(config.cluster));
    Ok(report(&located, &formatted, &warnings))
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
    id: TargetId,
    data_bytes: u64,
}

fn format_all(args: &CreateArgs, config: &Config) -> Result<Vec<Made>, AdminError> {
    let mut made = Vec::new();
    for (index, path) in config.targets.iter().enumerate() {
        let id = TargetId(u16::try_from(index).expect("TARGET_COUNT_MAX is far below"));
        let order = TargetOrder { config, path, id, file_bytes: args.target_bytes };
        let superblock = format::format_target(&order)?;
        let data_bytes =
            superblock.areas.data_block_count * u64::from(weft_wire::blocks::BLOCK_BYTES);
        made.push(Made { path: path.clone(), id, data_bytes });
    }
    format::format_volume(config)?;
    Ok(made)
}

fn report(located: &Located, made: &[Made], warnings: &[String]) -> Report {
    let config = &located.config;
    let mut table = Table::new(&[("TARGET", Right), ("DATA", Right), ("PATH", Left)]);
    for target in made {
        let path = target.path.display().to_string();
        table.row([target.id.to_string(), human_bytes(target.data_bytes), path]);
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
        .map(|target| {
            json!({ "id": target.id.0, "path": target.path.to_string_lossy(), "data_bytes": target.data_bytes })
        })
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
