//! `weft target scrub`: read every block of targets and check it; name the files that are damaged.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::{Value, json};
use weft_wire::blocks::BLOCK_BYTES;
use weft_wire::scrub::{
    Damage, DamageKind, ScrubAction, ScrubInfo, ScrubOrder, TargetHealth, TargetState,
};
use weft_wire::session::Place;
use weft_wire::{Ino, TargetId};

use super::names::{self, Known, Named};
use super::shards::Shards;
use crate::cli::ScrubArgs;
use crate::clock;
use crate::error::AdminError;
use crate::locate;
use crate::output::{Outcome, Report, tame};
use crate::units::{human_bytes, percent};

/// Between two looks at a pass that is waited for.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Without a terminal a line comes so often.
const LINE_PAUSE: Duration = Duration::from_secs(10);
/// Width of the bar.
const BAR_CELLS: u64 = 30;

/// One chosen target.
struct Chosen {
    id: TargetId,
    place: Place,
}

/// Damage, and whose it is.
struct Finding {
    target: TargetId,
    damage: Damage,
}

pub(super) fn run(args: &ScrubArgs, timeout: Duration) -> Result<Report, AdminError> {
    let server = locate::server(&args.server)?;
    let mut shards = Shards::open(&server.address, &server.session(timeout))?;
    let chosen = choose(&shards, args)?;
    let offline: Vec<TargetId> = look(&mut shards, &chosen)?
        .iter()
        .filter(|one| one.state == TargetState::Offline)
        .map(|one| one.id)
        .collect();
    let online = || chosen.iter().filter(|one| !offline.contains(&one.id));
    let action = match (args.status, args.stop, args.now) {
        (true, ..) => None,
        (_, true, _) => Some(ScrubAction::Stop),
        (_, _, true) => Some(ScrubAction::Again),
        _ => Some(ScrubAction::Start),
    };
    let bytes_per_second = args.mib_per_second.map_or(0, |mib| u64::from(mib) << 20);
    if let Some(action) = action {
        for one in online() {
            let order = ScrubOrder { target: one.id, action, bytes_per_second };
            shards.at(one.place)?.scrub(&order)?;
        }
    }
    if args.wait {
        wait(&mut shards, &chosen)?;
    }
    let health = look(&mut shards, &chosen)?;
    let mut findings = Vec::new();
    for one in online() {
        let damages = shards.at(one.place)?.damages(one.id)?;
        findings.extend(damages.into_iter().map(|damage| Finding { target: one.id, damage }));
    }
    let named = |finding: &&Finding| finding.damage.kind != DamageKind::Index;
    let inos: BTreeSet<Ino> = findings.iter().filter(named).map(|f| f.damage.chunk.ino).collect();
    let names = names::find(&mut shards, &inos)?;
    shards.close();
    let mut text = String::new();
    health.iter().for_each(|one| text.push_str(&format!("{}\n", line(one))));
    let mut rows = Vec::new();
    for finding in &findings {
        let name = names.get(&finding.damage.chunk.ino);
        text.push_str(&format!("{}\n", sentence(finding, name)));
        rows.push(finding_json(finding, name));
    }
    let unlisted: u64 = health.iter().map(|one| one.scrub.unlisted_blocks).sum();
    if unlisted > 0 {
        text.push_str(&format!(
            "and {unlisted} more damaged blocks, for which the list has no room\n"
        ));
    }
    if !findings.is_empty() {
        text.push_str(
            "  next: restore these files, or remove them; a block is good again once it is written\n",
        );
    }
    let targets: Vec<Value> = health.iter().map(health_json).collect();
    let json = json!({ "targets": targets, "damages": rows });
    let bad = !findings.is_empty()
        || !offline.is_empty()
        || unlisted > 0
        || health.iter().any(|one| one.scrub.superblocks_bad > one.scrub.superblocks_repaired);
    Ok(Report { outcome: if bad { Outcome::Failed } else { Outcome::Done }, text, json })
}

fn choose(shards: &Shards, args: &ScrubArgs) -> Result<Vec<Chosen>, AdminError> {
    let all = shards.map.targets.iter().map(|(id, place)| Chosen { id: *id, place: *place });
    let Some(id) = args.target else { return Ok(all.collect()) };
    let chosen: Vec<Chosen> = all.filter(|one| one.id == id).collect();
    if chosen.is_empty() {
        let next = "`weft target list` shows the targets there are";
        return Err(AdminError::new(format!("find target {id}"), "there is none", next));
    }
    Ok(chosen)
}

/// The health of the chosen targets, in their order.
fn look(shards: &mut Shards, chosen: &[Chosen]) -> Result<Vec<TargetHealth>, AdminError> {
    let mut all = Vec::new();
    for one in chosen {
        let health = shards.at(one.place)?.target_health()?;
        let found = health.into_iter().find(|health| health.id == one.id);
        all.push(found.ok_or_else(|| shards.misfit("target's health"))?);
    }
    Ok(all)
}

/// Until no pass of the chosen targets is under way.
fn wait(shards: &mut Shards, chosen: &[Chosen]) -> Result<(), AdminError> {
    let terminal = std::io::stderr().is_terminal();
    let mut told = clock::now();
    loop {
        let health = look(shards, chosen)?;
        let running = health.iter().any(|one| one.scrub.running);
        let (done, total) = health.iter().fold((0, 0), |(done, total), one| {
            (done + one.scrub.checked_bytes, total + one.scrub.total_bytes)
        });
        let found: u64 = health.iter().map(|one| one.scrub.found_blocks).sum();
        let words =
            format!("{} of {}, {found} damaged blocks", human_bytes(done), human_bytes(total));
        // Nobody but the person at the terminal misses a line that cannot be written.
        let mut out = std::io::stderr().lock();
        if terminal {
            let end = if running { "" } else { "\n" };
            drop(
                write!(out, "\r{} {words}\x1b[K{end}", bar(done, total)).and_then(|()| out.flush()),
            );
        } else if clock::now() - told >= LINE_PAUSE {
            told = clock::now();
            drop(writeln!(out, "scrub: {words}"));
        }
        if !running {
            return Ok(());
        }
        clock::pause(LOOK_PAUSE);
    }
}

fn bar(done: u64, total: u64) -> String {
    let part = |whole: u64| {
        let product = u128::from(done.min(total)) * u128::from(whole);
        u64::try_from(product / u128::from(total.max(1))).expect("at most `whole`")
    };
    let cells = usize::try_from(part(BAR_CELLS)).expect("a few");
    let rest = usize::try_from(BAR_CELLS).expect("a few") - cells;
    format!("[{}{}] {:>3}%", "#".repeat(cells), "-".repeat(rest), part(100))
}

fn line(health: &TargetHealth) -> String {
    let name = format!("target {}", health.id);
    let path = tame(&health.path);
    if health.state == TargetState::Offline {
        return format!("{name} ({path}): offline: {}", tame(&health.reason));
    }
    let scrub = &health.scrub;
    let state = match scrub {
        ScrubInfo { running: true, .. } => format!(
            "scrub at {} ({} of {}, at most {}/s)",
            percent(scrub.checked_bytes, scrub.total_bytes),
            human_bytes(scrub.checked_bytes),
            human_bytes(scrub.total_bytes),
            human_bytes(scrub.bytes_per_second)
        ),
        ScrubInfo { started_s: 0, .. } => "never scrubbed".to_owned(),
        _ if scrub.finished_s >= scrub.started_s => format!(
            "scrubbed {} ({} in {} chunks)",
            time_text(scrub.finished_s),
            human_bytes(scrub.checked_bytes),
            scrub.checked_chunks
        ),
        _ => format!(
            "scrub stopped at {} of {}",
            human_bytes(scrub.checked_bytes),
            human_bytes(scrub.total_bytes)
        ),
    };
    let mut text = format!("{name} ({path}): {state}; damaged blocks: {}", scrub.listed_blocks);
    if scrub.superblocks_bad > 0 {
        let (bad, repaired) = (scrub.superblocks_bad, scrub.superblocks_repaired);
        text.push_str(&format!("; superblocks damaged: {bad}, written again: {repaired}"));
    }
    text
}

/// `2026-11-22 01:02:03 UTC`.
fn time_text(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date: years of 365 or 366 days, counted from 1970.
    let (mut year, mut day) = (1970, days);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= months[month] {
        day -= months[month];
        month += 1;
    }
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year}-{:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", month + 1, day + 1)
}

/// First byte and end of the damaged part of the file.
fn file_bytes(damage: &Damage, named: &Named) -> Option<(u64, u64)> {
    let chunk_log2 = named.layout.as_ref()?.chunk_log2();
    let start = damage.chunk.index.0.checked_shl(u32::from(chunk_log2))?;
    let block = |number: u32| start + u64::from(number) * u64::from(BLOCK_BYTES);
    Some((block(damage.first), block(damage.first + damage.count)))
}

fn sentence(finding: &Finding, named: Option<&Named>) -> String {
    let Finding { target, damage } = finding;
    let (ino, chunk) = (damage.chunk.ino, damage.chunk.index);
    let Some(named) = named else {
        return format!(
            "target {target}: {} behind inode {ino} chunk {chunk}: chunks are lost; stop the server, `weft target check`",
            damage.kind
        );
    };
    let place = match file_bytes(damage, named) {
        Some((first, end)) => format!("bytes {first}..{end}"),
        None => format!("chunk {chunk} blocks {}..{}", damage.first, damage.first + damage.count),
    };
    format!("{} {place} on target {target}: {}", named.text(ino), damage.kind)
}

fn finding_json(finding: &Finding, named: Option<&Named>) -> Value {
    let damage = &finding.damage;
    let mut row = json!({
        "target": finding.target.0,
        "ino": damage.chunk.ino.0,
        "chunk": damage.chunk.index.0,
        "first_block": damage.first,
        "blocks": damage.count,
        "kind": damage.kind.name(),
    });
    if let Some(named) = named {
        let (state, paths) = match &named.known {
            Known::Named(paths) => ("named", paths.clone()),
            Known::Open => ("deleted, still open", Vec::new()),
            Known::Gone => ("gone", Vec::new()),
            Known::Unknown(_) => ("unknown", Vec::new()),
        };
        row["file"] = state.into();
        row["paths"] = paths.into();
        if let Some((first, end)) = file_bytes(damage, named) {
            row["first_byte"] = first.into();
            row["end_byte"] = end.into();
        }
    }
    row
}

fn health_json(health: &TargetHealth) -> Value {
    let scrub = &health.scrub;
    json!({
        "id": health.id.0,
        "path": health.path,
        "state": super::target::state_text(health.state),
        "reason": health.reason,
        "running": scrub.running,
        "bytes_per_second": scrub.bytes_per_second,
        "started_s": scrub.started_s,
        "finished_s": scrub.finished_s,
        "checked_bytes": scrub.checked_bytes,
        "total_bytes": scrub.total_bytes,
        "checked_chunks": scrub.checked_chunks,
        "found_blocks": scrub.found_blocks,
        "listed_blocks": scrub.listed_blocks,
        "unlisted_blocks": scrub.unlisted_blocks,
        "index_gaps": scrub.index_gaps,
        "superblocks_bad": scrub.superblocks_bad,
        "superblocks_repaired": scrub.superblocks_repaired,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::{ChunkId, ChunkIndex, Layout};

    #[test]
    fn a_bar_fills_up() {
        assert!(bar(0, 0).ends_with("]   0%"));
        assert_eq!(bar(1, 2), format!("[{}{}]  50%", "#".repeat(15), "-".repeat(15)));
        assert!(bar(9, 2).ends_with("] 100%"));
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(time_text(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(time_text(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(time_text(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(time_text(1_795_309_323), "2026-11-22 01:02:03 UTC");
    }

    #[test]
    fn a_finding_names_file_bytes_and_target() {
        let chunk = ChunkId { ino: Ino(7), index: ChunkIndex(3) };
        let damage = Damage { chunk, first: 2, count: 1, kind: DamageKind::Mismatch };
        let finding = Finding { target: TargetId(3), damage };
        let layout = Layout::new(16, vec![TargetId(3)]).ok();
        let paths = vec!["/dir/file".to_owned()];
        let named = Named { known: Known::Named(paths), layout };
        let begin = 3 * 65_536 + 8192;
        assert_eq!(
            sentence(&finding, Some(&named)),
            format!("/dir/file bytes {begin}..{} on target 3: checksum mismatch", begin + 4096)
        );
        let open = Named { known: Known::Open, layout: None };
        assert_eq!(
            sentence(&finding, Some(&open)),
            "inode 7 (deleted, still open) chunk 3 blocks 2..3 on target 3: checksum mismatch"
        );
    }
}
