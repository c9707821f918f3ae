//! `weft target format`, `weft target list`, `weft target show`.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use weft_server_core::config::Config;
use weft_store::{Copies, Superblock};
use weft_wire::blocks::BLOCK_BYTES;
use weft_wire::scrub::{TargetHealth, TargetState};
use weft_wire::session::TargetInfo;
use weft_wire::{ClusterId, ShardId, TargetId};

use super::shards::Shards;
use crate::cli::{ServerArgs, TargetFormatArgs};
use crate::client::{Connection, Session};
use crate::error::AdminError;
use crate::format::{self, Content, TargetOrder};
use crate::locate::{self, Server};
use crate::output::Align::{Left, Right};
use crate::output::{Outcome, Report, Table, tame};
use crate::units::{human_bytes, percent};

/// Length of a file that is made, unless told otherwise.
const FILE_BYTES_DEFAULT: u64 = 4 << 30;

/// Refuses to format under a server that is up.
///
/// # Errors
/// One of this cluster answers at the config's address.
pub(super) fn refuse_running(config: &Config, timeout: Duration) -> Result<(), AdminError> {
    let session = Session::new(config.cluster, timeout.min(Duration::from_secs(1)));
    match Connection::open(&config.listen, &session, ShardId(0)) {
        Err(_nobody) => Ok(()),
        Ok(connection) => {
            connection.goodbye();
            let why = format!("a server of this cluster is running at {}", config.listen);
            let next = "stop it first: systemctl stop weft-server";
            Err(AdminError::new("format", why, next))
        }
    }
}

pub(super) fn format(args: &TargetFormatArgs, timeout: Duration) -> Result<Report, AdminError> {
    let located = locate::config(args.config.config.as_deref())?;
    let config = &located.config;
    let path = std::path::absolute(&args.path)
        .map_err(|error| AdminError::new(format!("find {}", args.path.display()), error, ""))?;
    refuse_occupied(args, &path)?;
    let id = match args.id {
        Some(id) => id,
        None => id_from_config(config, &path)?,
    };
    refuse_taken(config, &path, id)?;
    refuse_running(config, timeout)?;
    let _lock = format::take_state_dir(config)?;
    // Another command may have been here between the first look and the lock.
    refuse_occupied(args, &path)?;
    refuse_taken(config, &path, id)?;
    let file_bytes = args.bytes.unwrap_or(FILE_BYTES_DEFAULT);
    let order = TargetOrder { config, path: &path, id, file_bytes };
    let superblock = format::format_target(&order)?;
    let listed = config.targets.contains(&path);
    let next = match listed {
        true => "next: start the server".to_owned(),
        false => format!(
            "next: add it to `targets` in {}, then start the server",
            located.file.display()
        ),
    };
    let text = format!(
        "{} is now target {id} of cluster {} ({})\n{next}\n",
        path.display(),
        config.cluster,
        human_bytes(superblock.areas.capacity_bytes)
    );
    Ok(Report::done(text, superblock_json(&path, &superblock, Copies::Both)))
}

fn refuse_occupied(args: &TargetFormatArgs, path: &Path) -> Result<(), AdminError> {
    let content = format::survey_target(path)?;
    if args.force || content.is_free() {
        return Ok(());
    }
    let why = format!("it holds {}; nothing was changed", content.describe());
    let next = "name another device; or --force, which LOSES what is there";
    Err(AdminError::new(format!("format {}", path.display()), why, next))
}

fn id_from_config(config: &Config, path: &Path) -> Result<TargetId, AdminError> {
    let index = config.targets.iter().position(|target| target == path);
    index.and_then(|index| u16::try_from(index).ok()).map(TargetId).ok_or_else(|| {
        let what = format!("choose an id for {}", path.display());
        let next = "give one that no target of the cluster has, with --id N (weft target list)";
        AdminError::new(what, "it is not in the config's `targets`", next)
    })
}

/// Another target of the config must not have the id.
fn refuse_taken(config: &Config, path: &Path, id: TargetId) -> Result<(), AdminError> {
    for other in config.targets.iter().filter(|other| *other != path) {
        let content = format::survey_target(other)?;
        let Content::Target { superblock, .. } = content else { continue };
        if superblock.cluster == config.cluster && superblock.target_id == id {
            let what = format!("format {} as target {id}", path.display());
            let why = format!("{} has this id", other.display());
            return Err(AdminError::new(what, why, "give another with --id N"));
        }
    }
    Ok(())
}

pub(super) fn show(path: &Path) -> Result<Report, AdminError> {
    let (superblock, copies) = format::inspect_file(path)?;
    let areas = superblock.areas;
    let mut text = format!(
        "path     {}\ntarget   {}\nuuid     {}\ncluster  {}\nlength   {} ({} bytes)\n\
         journal  2 x {} at byte {}\ndata     {} at byte {}\n",
        path.display(),
        superblock.target_id,
        superblock.target_uuid,
        superblock.cluster,
        human_bytes(areas.capacity_bytes),
        areas.capacity_bytes,
        human_bytes(areas.segment_bytes),
        areas.journal_offset,
        human_bytes(data_bytes(&superblock)),
        areas.data_offset
    );
    if copies != Copies::Both {
        text.push_str(&format!("warning: {}\n", copies_text(copies)));
    }
    Ok(Report::done(text, superblock_json(path, &superblock, copies)))
}

pub(super) fn copies_text(copies: Copies) -> &'static str {
    match copies {
        Copies::Both => "both copies of the superblock are good",
        Copies::OnlyFirst => "the second copy of the superblock is damaged; look at the device",
        Copies::OnlySecond => "the first copy of the superblock is damaged; look at the device",
    }
}

pub(super) fn state_text(state: TargetState) -> &'static str {
    match state {
        TargetState::Online => "online",
        TargetState::ReadOnly => "read-only",
        TargetState::Offline => "offline",
    }
}

/// A target that is not online, and why.
pub(super) fn ailing_text(health: &TargetHealth) -> String {
    let (path, reason) = (tame(&health.path), tame(&health.reason));
    format!(
        "target {} ({path}) is {}: {reason}",
        health.id,
        state_text(health.state).to_uppercase()
    )
}

/// Bytes a target has for data.
pub(super) fn data_bytes(superblock: &Superblock) -> u64 {
    superblock.areas.data_block_count * u64::from(BLOCK_BYTES)
}

pub(super) fn superblock_json(path: &Path, superblock: &Superblock, copies: Copies) -> Value {
    let areas = superblock.areas;
    json!({
        "path": path.to_string_lossy(),
        "id": superblock.target_id.0,
        "uuid": superblock.target_uuid.to_string(),
        "cluster": superblock.cluster.to_string(),
        "capacity_bytes": areas.capacity_bytes,
        "journal_offset": areas.journal_offset,
        "segment_bytes": areas.segment_bytes,
        "data_offset": areas.data_offset,
        "data_block_count": areas.data_block_count,
        "data_bytes": data_bytes(superblock),
        "superblocks": copies_text(copies),
    })
}

pub(super) fn list(args: &ServerArgs, timeout: Duration) -> Result<Report, AdminError> {
    list_of(&locate::server(args)?, timeout)
}

fn list_of(server: &Server, timeout: Duration) -> Result<Report, AdminError> {
    let mut shards = Shards::open(&server.address, &server.session(timeout))?;
    let mut table = Table::new(&[
        ("TARGET", Right),
        ("NODE", Left),
        ("SHARD", Right),
        ("SIZE", Right),
        ("USED", Right),
        ("FREE", Right),
        ("USE", Right),
        ("CHUNKS", Right),
        ("READS", Right),
        ("WRITES", Right),
        ("DAMAGED", Right),
        ("PATH", Left),
    ]);
    let (mut found, mut silent, mut ailing) = (Vec::new(), Vec::new(), Vec::new());
    let mut good = 0;
    for (node, place) in shards.places() {
        let asked = shards.at(place).and_then(|shard| {
            shard.target_list().and_then(|list| Ok((list, shard.target_health()?)))
        });
        match asked {
            Ok((targets, health)) => {
                good += 1;
                ailing.extend(health.into_iter().filter(|one| one.state != TargetState::Online));
                found.extend(targets.into_iter().map(|target| (node.clone(), target)));
            }
            Err(error) => {
                shards.forget(place);
                silent.push((node, place.shard, AdminError::from(error)));
            }
        }
    }
    shards.close();
    found.sort_by_key(|(_, target)| target.id);
    found.iter().for_each(|(node, target)| table.row(cells(node, target)));
    let mut text = table.render();
    for (node, shard, error) in &silent {
        text.push_str(&format!("{node} shard {shard} did not answer: {error}\n"));
    }
    ailing.iter().for_each(|one| text.push_str(&format!("{}\n", ailing_text(one))));
    let json = json!({
        "server": server.address,
        "not_online": ailing.iter().map(|one| json!({
            "id": one.id.0, "path": one.path, "state": state_text(one.state), "reason": one.reason,
        })).collect::<Vec<_>>(),
        "targets": found.iter().map(|(node, target)| target_json(node, target)).collect::<Vec<_>>(),
        "silent_shards": silent.iter().map(|(node, shard, error)| {
            json!({ "node": node, "shard": shard.0, "error": error.to_string() })
        }).collect::<Vec<_>>(),
    });
    Ok(Report { outcome: Outcome::of_parts(good, silent.len()), text, json })
}

fn cells(node: &str, target: &TargetInfo) -> Vec<String> {
    let used_bytes = target.total_bytes.saturating_sub(target.free_bytes);
    vec![
        target.id.to_string(),
        node.to_owned(),
        target.shard.to_string(),
        human_bytes(target.total_bytes),
        human_bytes(used_bytes),
        human_bytes(target.free_bytes),
        percent(used_bytes, target.total_bytes),
        target.chunk_count.to_string(),
        target.op_counts.0.to_string(),
        target.op_counts.1.to_string(),
        target.damaged_blocks.to_string(),
        target.path.clone(),
    ]
}

fn target_json(node: &str, target: &TargetInfo) -> Value {
    json!({
        "id": target.id.0,
        "uuid": ClusterId(target.uuid).to_string(),
        "node": node,
        "shard": target.shard.0,
        "path": target.path,
        "total_bytes": target.total_bytes,
        "used_bytes": target.total_bytes.saturating_sub(target.free_bytes),
        "free_bytes": target.free_bytes,
        "chunks": target.chunk_count,
        "reads": target.op_counts.0,
        "writes": target.op_counts.1,
        "damaged_blocks": target.damaged_blocks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Manner, serve};

    fn list_from(manner: Manner, timeout_ms: u64) -> Result<Report, AdminError> {
        let args = ServerArgs { server: Some(serve(manner).0), config: None };
        list(&args, Duration::from_millis(timeout_ms))
    }

    #[test]
    fn targets_of_all_shards_are_listed() {
        let report = list_from(Manner::Good, 5000).expect("good");
        assert_eq!(report.outcome, Outcome::Done);
        let lines: Vec<&str> = report.text.lines().collect();
        assert_eq!(lines.len(), 4, "{}", report.text);
        assert_eq!(lines[3], "target 2 (/dev/nvme1n1) is READ-ONLY: a flush failed");
        assert_eq!(report.json["not_online"][0]["state"], "read-only");
        assert!(
            lines[2].starts_with("     2  n1        1  4 GiB  1 GiB  3 GiB  25%"),
            "{}",
            report.text
        );
        assert!(lines[2].ends_with("/dev/nvme1n1"), "{}", report.text);
        assert_eq!(report.json["targets"][0]["used_bytes"], 1u64 << 30);
    }

    #[test]
    fn a_silent_shard_makes_it_partial() {
        let report = list_from(Manner::OneShardDown, 5000).expect("some");
        assert_eq!(report.outcome, Outcome::Partial);
        assert!(report.text.contains("n1 shard 1 did not answer"), "{}", report.text);
        assert_eq!(report.json["targets"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn no_weft_server_is_an_error() {
        for (manner, timeout_ms) in [(Manner::Garbage, 5000), (Manner::Silent, 150)] {
            let error = list_from(manner, timeout_ms).expect_err("no list").to_string();
            assert!(error.contains("next: "), "{manner:?}: {error}");
        }
    }
}
