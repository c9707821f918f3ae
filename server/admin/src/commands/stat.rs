//! `weft fs stat`: how one file is stored.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use weft_wire::blocks::BLOCK_BYTES;
use weft_wire::data::ChunkInfo;
use weft_wire::meta::{MetaReply, MetaRequest};
use weft_wire::{Ino, Layout, TargetId};

use super::layout::{inline_json, inline_text, layout_json, layout_text, policy_json, policy_text};
use super::shards::Shards;
use crate::cli::StatArgs;
use crate::error::AdminError;
use crate::locate::{self, Server};
use crate::output::Align::{Left, Right};
use crate::output::{Outcome, Report, Table};
use crate::units::human_bytes;

/// Rows printed unless all are asked for.
const ROWS_MAX: usize = 64;

pub(super) fn run(args: &StatArgs, timeout: Duration) -> Result<Report, AdminError> {
    let found = locate::mounted(&args.path, args.server.as_deref(), timeout)?;
    let file = File { ino: found.ino(), bytes: found.metadata.len(), all: args.all };
    let (mut report, mount) = (look(&found.server, &file, timeout)?, found.mount);
    report.text = format!(
        "file     {}\nmount    {} on {}\n{}",
        args.path.display(),
        mount.source,
        mount.mount_point.display(),
        report.text
    );
    report.json["path"] = args.path.to_string_lossy().into();
    report.json["mount_point"] = mount.mount_point.to_string_lossy().into();
    Ok(report)
}

/// What is asked about.
struct File {
    ino: Ino,
    /// Its length as the mount sees it: ahead of the volume's while it is written.
    bytes: u64,
    all: bool,
}

fn look(server: &Server, file: &File, timeout: Duration) -> Result<Report, AdminError> {
    let mut shards = Shards::open(&server.address, &server.session(timeout))?;
    let ino = file.ino;
    let head = format!("inode    {ino}\nserver   {}\n", server.address);
    let mut json = json!({ "ino": ino.0, "server": server.address, "bytes": file.bytes });
    let report = match shards.meta(ino, &MetaRequest::GetLayout { ino })? {
        MetaReply::Policy(policy) => {
            json["policy"] = policy_json(&policy);
            let text = format!("{head}new files here get: {}\n", policy_text(&policy));
            Report::done(text, json)
        }
        MetaReply::Layout(layout) => {
            json["layout"] = layout_json(&layout);
            let head = format!(
                "{head}size     {} ({} bytes)\nlayout   {}\n",
                human_bytes(file.bytes),
                file.bytes,
                layout_text(&layout)
            );
            match shards.inline_of(ino)? {
                // Its targets have nothing of it, and need not be up for it.
                Some(inline) => {
                    json["inline"] = inline_json(&inline);
                    Report::done(format!("{head}{}", inline_text(&inline)), json)
                }
                None => {
                    let found = Found::gather(&mut shards, file.ino, &layout);
                    found.report(file, &layout, &head, json)
                }
            }
        }
        _ => return Err(shards.misfit("layout")),
    };
    shards.close();
    Ok(report)
}

/// What the targets of a layout say.
#[derive(Default)]
struct Found {
    /// By chunk index.
    chunks: BTreeMap<u64, (TargetId, ChunkInfo)>,
    silent: Vec<(TargetId, AdminError)>,
    target_count: usize,
}

impl Found {
    fn gather(shards: &mut Shards, ino: Ino, layout: &Layout) -> Found {
        let mut found = Found::default();
        let mut targets = layout.targets().to_vec();
        targets.sort_unstable();
        targets.dedup();
        found.target_count = targets.len();
        for target in targets {
            match chunks_of(shards, target, ino) {
                Ok(chunks) => {
                    let here = chunks.into_iter().map(|chunk| (chunk.index.0, (target, chunk)));
                    found.chunks.extend(here);
                }
                Err(error) => found.silent.push((target, error)),
            }
        }
        found
    }

    fn report(&self, file: &File, layout: &Layout, head: &str, mut json: Value) -> Report {
        let rows = rows(self, file.bytes, layout);
        let mut table = Table::new(&[
            ("CHUNK", Right),
            ("OFFSET", Right),
            ("TARGET", Right),
            ("WRITTEN", Right),
            ("ALLOCATED", Right),
            ("EXTENTS", Right),
            ("", Left),
        ]);
        let shown = if file.all { rows.len() } else { rows.len().min(ROWS_MAX) };
        rows[..shown].iter().for_each(|row| table.row(row.cells(layout)));
        let mut text = format!("{head}\n{}", table.render());
        if shown < rows.len() {
            text.push_str(&format!("and {} rows more: --all shows them\n", rows.len() - shown));
        }
        for (target, error) in &self.silent {
            text.push_str(&format!("target {target} is missing above: {error}\n"));
        }
        let blocks = |count: fn(&ChunkInfo) -> u32| -> u64 {
            self.chunks.values().map(|(_, chunk)| u64::from(count(chunk))).sum::<u64>()
                * u64::from(BLOCK_BYTES)
        };
        let (written, allocated) = (blocks(|c| c.blocks_written), blocks(|c| c.blocks_allocated));
        text.push_str(&format!(
            "{} chunks, {} written, {} allocated\n",
            self.chunks.len(),
            human_bytes(written),
            human_bytes(allocated)
        ));
        json["chunks"] = rows.iter().map(|row| row.to_json(layout)).collect();
        json["written_bytes"] = written.into();
        json["allocated_bytes"] = allocated.into();
        let silent = |(target, error): &(TargetId, AdminError)| json!({ "target": target.0, "error": error.to_string() });
        json["silent_targets"] = self.silent.iter().map(silent).collect();
        let bad = self.silent.len();
        Report { outcome: Outcome::of_parts(self.target_count - bad, bad), text, json }
    }
}

fn chunks_of(
    shards: &mut Shards,
    target: TargetId,
    ino: Ino,
) -> Result<Vec<ChunkInfo>, AdminError> {
    let place = shards.place_of_target(target).ok_or_else(|| {
        let next = "is the node that has it up, and in the map (weft target list)?";
        AdminError::new(format!("find target {target}"), "the cluster map does not have it", next)
    })?;
    let chunks = shards.at(place).and_then(|connection| connection.chunks(target, ino));
    if chunks.is_err() {
        shards.forget(place);
    }
    Ok(chunks?)
}

/// A chunk, or a run of chunks that are not there.
enum Row {
    Chunk {
        index: u64,
        target: TargetId,
        info: ChunkInfo,
        state: State,
    },
    Hole {
        first: u64,
        last: u64,
    },
    /// On targets that do not answer, among others.
    Unknown {
        first: u64,
        last: u64,
    },
}

/// How much of a chunk was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Data,
    PartlyHole,
    /// There, but beyond the end of the file, such as after an unfinished truncation.
    BeyondEnd,
    /// On a target the layout does not put it on.
    Misplaced,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Data => "data",
            State::PartlyHole => "data and hole",
            State::BeyondEnd => "beyond the end",
            State::Misplaced => "on the wrong target",
        }
    }
}

fn rows(found: &Found, bytes: u64, layout: &Layout) -> Vec<Row> {
    let chunk_bytes = u64::from(layout.chunk_bytes());
    let chunk_count = bytes.div_ceil(chunk_bytes);
    let mut rows = Vec::new();
    let gap = |rows: &mut Vec<Row>, first: u64, end: u64| {
        if first < end {
            let last = end - 1;
            rows.push(match found.silent.is_empty() {
                true => Row::Hole { first, last },
                false => Row::Unknown { first, last },
            });
        }
    };
    let mut next = 0;
    for (&index, &(target, info)) in &found.chunks {
        gap(&mut rows, next, index.min(chunk_count));
        let in_file = bytes.saturating_sub(index.saturating_mul(chunk_bytes)).min(chunk_bytes);
        let blocks_in_file = in_file.div_ceil(u64::from(BLOCK_BYTES));
        let state = if layout.target(info.index) != target {
            State::Misplaced
        } else if in_file == 0 {
            State::BeyondEnd
        } else if u64::from(info.blocks_written) >= blocks_in_file {
            State::Data
        } else {
            State::PartlyHole
        };
        rows.push(Row::Chunk { index, target, info, state });
        next = index.saturating_add(1);
    }
    gap(&mut rows, next, chunk_count);
    rows
}

impl Row {
    fn cells(&self, layout: &Layout) -> Vec<String> {
        let offset =
            |index: u64| human_bytes(index.saturating_mul(u64::from(layout.chunk_bytes())));
        let none = String::new;
        let run = |first: u64, last: u64| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        match *self {
            Row::Chunk { index, target, info, state } => vec![
                index.to_string(),
                offset(index),
                target.to_string(),
                human_bytes(u64::from(info.blocks_written) * u64::from(BLOCK_BYTES)),
                human_bytes(u64::from(info.blocks_allocated) * u64::from(BLOCK_BYTES)),
                info.extent_count.to_string(),
                state.name().to_owned(),
            ],
            Row::Hole { first, last } => {
                vec![
                    run(first, last),
                    offset(first),
                    none(),
                    none(),
                    none(),
                    none(),
                    "hole".to_owned(),
                ]
            }
            Row::Unknown { first, last } => {
                let state = "hole, or on a target that does not answer".to_owned();
                vec![run(first, last), offset(first), none(), none(), none(), none(), state]
            }
        }
    }

    fn to_json(&self, layout: &Layout) -> Value {
        let offset = |index: u64| index.saturating_mul(u64::from(layout.chunk_bytes()));
        match *self {
            Row::Chunk { index, target, info, state } => json!({
                "index": index, "offset": offset(index), "target": target.0, "state": state.name(),
                "blocks_written": info.blocks_written, "blocks_allocated": info.blocks_allocated,
                "extents": info.extent_count,
            }),
            Row::Hole { first, last } => json!({
                "index": first, "last_index": last, "offset": offset(first), "state": "hole",
            }),
            Row::Unknown { first, last } => json!({
                "index": first, "last_index": last, "offset": offset(first), "state": "unknown",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ServerArgs;
    use crate::testing::{Manner, serve};

    fn look_at(manner: Manner, ino: Ino, bytes: u64) -> Report {
        let args = ServerArgs { server: Some(serve(manner).0), config: None };
        let server = locate::server(&args).expect("named");
        look(&server, &File { ino, bytes, all: false }, Duration::from_secs(5)).expect("a report")
    }

    fn states(report: &Report) -> Vec<(u64, String)> {
        let chunks = report.json["chunks"].as_array().expect("a list");
        let state = |c: &Value| {
            (c["index"].as_u64().expect("n"), c["state"].as_str().expect("t").to_owned())
        };
        chunks.iter().map(state).collect()
    }

    #[test]
    fn a_file_whose_data_is_with_the_names_has_no_chunks() {
        let report = look_at(Manner::Good, Ino(7), 4);
        let place = "its 4 bytes are with the names until it is longer than 4 KiB\n";
        assert!(report.text.ends_with(place) && !report.text.contains("CHUNK"), "{}", report.text);
        assert_eq!(report.json["inline"]["bytes_max"], 4096);
        assert!(report.json.get("chunks").is_none());
    }

    #[test]
    fn data_and_holes_are_told_apart() {
        let report = look_at(Manner::Good, Ino(5), 6 << 20);
        assert_eq!(report.outcome, Outcome::Done);
        let expected = [(0, "data"), (1, "data and hole"), (2, "hole"), (4, "data"), (5, "hole")];
        assert_eq!(states(&report), expected.map(|(i, s)| (i, s.to_owned())));
        assert_eq!(report.json["written_bytes"], (256 + 128 + 256) * 4096);
        assert!(report.text.contains("2-3   2 MiB"), "{}", report.text);
    }

    #[test]
    fn a_chunk_past_the_end_is_named() {
        let report = look_at(Manner::Good, Ino(5), 1 << 20);
        let expected = [(0, "data"), (1, "beyond the end"), (4, "beyond the end")];
        assert_eq!(states(&report), expected.map(|(i, s)| (i, s.to_owned())));
    }

    #[test]
    fn a_silent_target_makes_it_partial_and_no_hole_is_claimed() {
        let report = look_at(Manner::OneTargetDown, Ino(5), 6 << 20);
        assert_eq!(report.outcome, Outcome::Partial);
        let expected = [(0, "data"), (1, "unknown"), (4, "data"), (5, "unknown")];
        assert_eq!(states(&report), expected.map(|(i, s)| (i, s.to_owned())));
        assert!(report.text.contains("target 2 is missing"), "{}", report.text);
    }

    #[test]
    fn a_directory_shows_its_policy() {
        let report = look_at(Manner::Good, Ino::ROOT, 0);
        assert_eq!(report.json["policy"]["stripe_unit_bytes"], 1 << 20);
    }
}
