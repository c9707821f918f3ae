//! `weft target check`: one target, whole, while no server has it. Exit status as fsck: 0 clean, 4 problems found and
//! left, 8 the check could not be made.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use weft_server_core::config::Config;
use weft_store::{CheckReport, Copies, OpenParams, Problem};
use weft_wire::TargetId;
use weft_wire::scrub::DamageKind;

use super::target::refuse_running;
use crate::cli::TargetCheckArgs;
use crate::error::AdminError;
use crate::format::{self, chain};
use crate::locate;
use crate::output::{Outcome, Report};
use crate::units::human_bytes;

/// Problems, and uncertain blocks, printed one by one.
const SHOWN_MAX: usize = 100;
/// The progress is shown each so many blocks.
const PROGRESS_BLOCKS: u64 = 16_384;
/// Memory for chunk records.
const CACHE_BYTES_MAX: u64 = 64 << 20;

pub(super) fn run(args: &TargetCheckArgs, timeout: Duration) -> Result<Report, AdminError> {
    let located = locate::config(args.config.config.as_deref())?;
    let config = &located.config;
    let path = find(config, &args.target)?;
    refuse_running(config, timeout)?;
    let _lock = format::take_state_dir(config)?;
    let mut device = format::take_device(&path)?;
    let failed = |error: weft_store::StoreError| {
        let next = match error.kind {
            weft_store::Kind::Busy => "stop the server first: systemctl stop weft-server",
            weft_store::Kind::Mismatch => "is this the right config?",
            _ => "see `dmesg` for what the device says",
        };
        AdminError::new(format!("check {}", path.display()), chain(&error), next)
    };
    let uuid = match weft_store::inspect(&mut device) {
        Ok(superblock) => superblock.target_uuid,
        // The check itself tells what is wrong with it.
        Err(_) => weft_store::TargetUuid::default(),
    };
    let params = OpenParams {
        boot_id: boot_id(),
        cache_bytes_max: CACHE_BYTES_MAX,
        ..OpenParams::new(config.index_dir(uuid.0), config.cluster)
    };
    let terminal = std::io::stderr().is_terminal();
    let mut progress = |blocks: u64| {
        if terminal && blocks.is_multiple_of(PROGRESS_BLOCKS) {
            // Nobody but the person at the terminal misses it.
            drop(write!(std::io::stderr(), "\r{} checked", human_bytes(blocks * 4096)));
        }
    };
    let seen =
        weft_store::check(&params, &mut device, args.quick, &mut progress).map_err(failed)?;
    if terminal {
        drop(write!(std::io::stderr(), "\r\x1b[K"));
    }
    let outcome = if seen.is_sound() { Outcome::Done } else { Outcome::Unsound };
    Ok(Report { outcome, text: text(&path, &seen, args.quick), json: report_json(&path, &seen) })
}

/// The path of a target given by path or number.
fn find(config: &Config, wanted: &Path) -> Result<PathBuf, AdminError> {
    let number = wanted.to_str().and_then(|text| text.parse().ok()).map(TargetId);
    let Some(id) = number.filter(|_| !wanted.exists()) else {
        return std::path::absolute(wanted)
            .map_err(|error| AdminError::new(format!("find {}", wanted.display()), error, ""));
    };
    let mut unreadable = Vec::new();
    for path in &config.targets {
        match format::inspect_file(path) {
            Ok((superblock, _)) if superblock.target_id == id => return Ok(path.clone()),
            Ok(_) => {}
            Err(_) => unreadable.push(path.display().to_string()),
        }
    }
    let why = match unreadable.is_empty() {
        true => "no target of the config says it is this one".to_owned(),
        false => format!(
            "no target of the config says it is this one; {} cannot be read as a target",
            unreadable.join(", ")
        ),
    };
    Err(AdminError::new(format!("find target {id}"), why, "name it by its path"))
}

fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().parse().map_or([0; 16], |id: weft_wire::SessionId| id.0)
}

fn text(path: &Path, seen: &CheckReport, quick: bool) -> String {
    let name =
        seen.superblock.map_or("?".to_owned(), |superblock| superblock.target_id.to_string());
    let data = match quick {
        true => "data not read (--quick)".to_owned(),
        false => format!("{} read", human_bytes(seen.checked_blocks * 4096)),
    };
    let mut text = format!(
        "target {name} ({}): {} chunks, {} blocks, {data}; {} changes in the journal\n",
        path.display(),
        seen.chunks,
        seen.blocks,
        seen.replayed_records
    );
    if seen.lost_records {
        text.push_str("the journal's end was lost in a crash: nothing that a sync covered\n");
    }
    if !seen.uncertain.is_empty() {
        let count = seen.uncertain.len();
        text.push_str(&format!(
            "{count} blocks were in doubt after a crash; the next start settles each\n"
        ));
        for (chunk, block) in seen.uncertain.iter().take(SHOWN_MAX) {
            text.push_str(&format!(
                "  in doubt: inode {} chunk {} block {block}\n",
                chunk.ino, chunk.index
            ));
        }
    }
    for problem in seen.problems.iter().take(SHOWN_MAX) {
        text.push_str(&format!("{}\n", sentence(problem)));
    }
    let more = seen.problems.len().saturating_sub(SHOWN_MAX);
    if more > 0 || seen.unlisted_problems > 0 {
        let unlisted = seen.unlisted_problems;
        text.push_str(&format!("and {more} more (--json lists them), {unlisted} not listed\n"));
    }
    text.push_str(match seen.is_sound() {
        true => "sound\n",
        false => {
            "NOT SOUND\n  next: blocks named here give EIO until they are written again; what cannot be read as a whole \
             needs a backup: keep the target and its index as they are\n"
        }
    });
    text
}

fn sentence(problem: &Problem) -> String {
    match problem {
        Problem::Whole(error) => chain(error),
        Problem::Superblock(copies) => super::target::copies_text(*copies).to_owned(),
        Problem::Blocks { chunk, kind: DamageKind::Index, .. } => {
            let kind = DamageKind::Index;
            let (ino, index) = (chunk.ino, chunk.index);
            format!("inode {ino} chunk {index}: {kind} behind this chunk: chunks are lost")
        }
        Problem::Blocks { chunk, first, count, kind } => format!(
            "inode {} chunk {} blocks {first}..{}: {}",
            chunk.ino,
            chunk.index,
            first + count,
            kind
        ),
        Problem::OutOfRange { chunk, block, device_block } => format!(
            "inode {} chunk {} block {block}: its place {device_block} is beyond the device",
            chunk.ino, chunk.index
        ),
        Problem::Shared { chunk, block, other, other_block, device_block } => format!(
            "inode {} chunk {} block {block} and inode {} chunk {} block {other_block} are both at place {device_block}",
            chunk.ino, chunk.index, other.ino, other.index
        ),
    }
}

fn report_json(path: &Path, seen: &CheckReport) -> Value {
    let place = |chunk: &weft_wire::ChunkId, block: u32| json!({ "ino": chunk.ino.0, "chunk": chunk.index.0, "block": block });
    let problem = |problem: &Problem| {
        let mut row = match problem {
            Problem::Whole(_) => json!({ "kind": "whole" }),
            Problem::Superblock(copies) => {
                json!({ "kind": "superblock", "copies": copies_name(*copies) })
            }
            Problem::Blocks { chunk, first, count, kind } => json!({
                "kind": kind.name(),
                "ino": chunk.ino.0, "chunk": chunk.index.0, "first_block": first, "blocks": count,
            }),
            Problem::OutOfRange { chunk, block, device_block } => json!({
                "kind": "out_of_range", "at": place(chunk, *block), "device_block": device_block,
            }),
            Problem::Shared { chunk, block, other, other_block, device_block } => json!({
                "kind": "shared", "at": place(chunk, *block), "other": place(other, *other_block),
                "device_block": device_block,
            }),
        };
        row["text"] = sentence(problem).into();
        row
    };
    json!({
        "path": path.to_string_lossy(),
        "target": seen.superblock.map(|superblock| superblock.target_id.0),
        "sound": seen.is_sound(),
        "chunks": seen.chunks,
        "blocks": seen.blocks,
        "checked_blocks": seen.checked_blocks,
        "replayed_records": seen.replayed_records,
        "lost_records": seen.lost_records,
        "uncertain": seen.uncertain.iter().map(|(chunk, block)| place(chunk, *block)).collect::<Vec<_>>(),
        "problems": seen.problems.iter().map(problem).collect::<Vec<_>>(),
        "unlisted_problems": seen.unlisted_problems,
    })
}

fn copies_name(copies: Copies) -> &'static str {
    match copies {
        Copies::Both => "both good",
        Copies::OnlyFirst => "second damaged",
        Copies::OnlySecond => "first damaged",
    }
}
