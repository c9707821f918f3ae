//! What a run says: a Markdown table for people, and one JSON object a row and run for programs.

use crate::compare::{LOCAL, MOUNT, Outcome};
use crate::cpu::CpuUse;
use crate::error::{At, Result};
use crate::peers::{Figure, Peers, standing};
use crate::rows::{ROWS, Row};
use crate::sample::Sample;
use crate::stats::Spread;
use serde::Serialize;
use serde_json::json;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

const NONE: &str = "-";

/// The report as Markdown.
pub(crate) fn markdown(outcome: &Outcome, peers: &Peers, command: &str) -> String {
    let mut text = head(outcome, command);
    text.push_str(&table(outcome, peers));
    text.push_str(&foot(outcome, peers));
    text
}

fn head(outcome: &Outcome, command: &str) -> String {
    let host = &outcome.host;
    let mut text = format!(
        "{}, commit {}, {}: Linux {}, {} x {}, load average {}\n\n    {command}\n\n",
        outcome.date,
        host.commit,
        host.host,
        host.kernel,
        host.cpu_count,
        host.cpu,
        host.load_average
    );
    for place in &outcome.places {
        let path = place.path.display();
        writeln!(text, "- {}: {path}, {}", place.label, place.file_system).expect("to a string");
    }
    for note in &outcome.notes {
        writeln!(text, "- **Note:** {note}").expect("to a string");
    }
    text.push('\n');
    text
}

fn table(outcome: &Outcome, peers: &Peers) -> String {
    let labels: Vec<&str> = outcome.places.iter().map(|place| place.label.as_str()).collect();
    let names = &peers.names;
    let mut columns = vec!["".to_owned(), "unit".to_owned()];
    columns.extend(labels.iter().map(|label| format!("{label}: median (min..max)")));
    columns.extend(labels.iter().skip(1).map(|label| format!("{} / {label}", labels[MOUNT])));
    columns.push(format!("against {}", names.orangefs));
    columns.extend([&names.orangefs, &names.glusterfs, &names.moosefs].map(Clone::clone));
    columns.push("local then".into());
    columns.push("CPU s: server / mount".into());
    let mut text = line(&columns);
    text.push_str(&line(&vec!["---".to_owned(); columns.len()]));
    for row in ROWS.iter().filter(|row| present(outcome, row)) {
        text.push_str(&line(&cells(outcome, peers, row)));
    }
    text
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// A row nobody asked for has neither samples nor failures.
fn present(outcome: &Outcome, row: &Row) -> bool {
    (0..outcome.places.len()).any(|place| {
        let key = (row.id, place);
        outcome.samples.contains_key(&key) || outcome.failures.contains_key(&key)
    })
}

fn cells(outcome: &Outcome, peers: &Peers, row: &Row) -> Vec<String> {
    let places = 0..outcome.places.len();
    let less = if row.unit.less_is_better() { " (less is better)" } else { "" };
    let mut cells = vec![format!("{}{less}", row.title), row.unit.name().to_owned()];
    cells.extend(places.clone().map(|place| match spread(outcome, row, place) {
        Some(s) => format!("{} ({}..{})", short(s.median), short(s.min), short(s.max)),
        None => "FAILED".into(),
    }));
    cells.extend(places.skip(1).map(|place| {
        ratios(outcome, row, place).map_or(NONE.into(), |r| {
            format!("{} ({}..{})", short(r.median), short(r.min), short(r.max))
        })
    }));
    let figure = peers.figure(row.id);
    let ours = spread(outcome, row, MOUNT);
    cells.push(match (figure, ours) {
        // Whatever is there instead proves nothing about Weft.
        _ if !outcome.places[MOUNT].is_weft() => "not Weft".into(),
        (Some(figure), Some(ours)) => standing(&ours, figure.orangefs, row.unit),
        (Some(_), None) => "behind: ours FAILED".into(),
        (None, _) => NONE.into(),
    });
    let theirs = |pick: fn(&Figure) -> f64| figure.map_or(NONE.into(), |f| short(pick(f)));
    cells.extend([theirs(|f| f.orangefs), theirs(|f| f.glusterfs), theirs(|f| f.moosefs)]);
    cells.push(figure.and_then(|f| f.local).map_or(NONE.into(), short));
    cells.push(
        cpu(outcome, row)
            .map_or(NONE.into(), |cpu| format!("{:.2} / {:.2}", cpu.server_s, cpu.mount_s)),
    );
    cells
}

fn foot(outcome: &Outcome, peers: &Peers) -> String {
    let mut text = format!(
        "\nOther systems: {} ({}; {}). Local then: plain ext4 next to them.\n",
        peers.source, peers.date, peers.machine
    );
    for row in ROWS.iter().filter(|row| present(outcome, row)) {
        if let Some(note) = peers.figure(row.id).and_then(|figure| figure.note.as_ref()) {
            writeln!(text, "- {}: {note}.", row.id).expect("to a string");
        }
    }
    for ((row_id, place), error) in &outcome.failures {
        let label = &outcome.places[*place].label;
        writeln!(text, "- FAILED: {row_id}, {label}: {error}").expect("to a string");
    }
    text
}

fn samples<'a>(outcome: &'a Outcome, row: &Row, place: usize) -> &'a [Sample] {
    outcome.samples.get(&(row.id, place)).map_or(&[], Vec::as_slice)
}

fn values(outcome: &Outcome, row: &Row, place: usize) -> Vec<f64> {
    samples(outcome, row, place).iter().map(|sample| sample.value).collect()
}

/// None when the row failed there in any round: half a result must not look like one.
fn spread(outcome: &Outcome, row: &Row, place: usize) -> Option<Spread> {
    if outcome.failures.contains_key(&(row.id, place)) {
        return None;
    }
    Spread::of(&values(outcome, row, place))
}

fn ratios(outcome: &Outcome, row: &Row, place: usize) -> Option<Spread> {
    spread(outcome, row, MOUNT)?;
    spread(outcome, row, place)?;
    Spread::of_ratios(&values(outcome, row, MOUNT), &values(outcome, row, place))
}

fn cpu(outcome: &Outcome, row: &Row) -> Option<CpuUse> {
    let used: Option<Vec<CpuUse>> =
        samples(outcome, row, MOUNT).iter().map(|sample| sample.cpu).collect();
    let used = used?;
    let server: Vec<f64> = used.iter().map(|cpu| cpu.server_s).collect();
    let mount: Vec<f64> = used.iter().map(|cpu| cpu.mount_s).collect();
    Some(CpuUse { server_s: Spread::of(&server)?.median, mount_s: Spread::of(&mount)?.median })
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 0.1 => format!("{v:.2}"),
        v => format!("{v:.4}"),
    }
}

#[derive(Serialize)]
struct PlaceResult<'a> {
    label: &'a str,
    path: &'a Path,
    file_system: &'a str,
    spread: Option<Spread>,
    rounds: &'a [Sample],
    failure: Option<&'a String>,
}

/// One line of JSON for each row.
pub(crate) fn json_lines(outcome: &Outcome, peers: &Peers, command: &str) -> String {
    let mut text = String::new();
    for row in ROWS.iter().filter(|row| present(outcome, row)) {
        let places: Vec<PlaceResult<'_>> = outcome
            .places
            .iter()
            .enumerate()
            .map(|(index, place)| PlaceResult {
                label: &place.label,
                path: &place.path,
                file_system: &place.file_system,
                spread: spread(outcome, row, index),
                rounds: samples(outcome, row, index),
                failure: outcome.failures.get(&(row.id, index)),
            })
            .collect();
        let line = json!({
            "row": row.id,
            "unit": row.unit.name(),
            "less_is_better": row.unit.less_is_better(),
            "places": places,
            "mount_to_local": ratios(outcome, row, LOCAL),
            "mount_cpu": cpu(outcome, row),
            "peers": peers.figure(row.id),
            "peers_date": peers.date,
            "date": outcome.date,
            "host": outcome.host,
            "engine": outcome.engine,
            "notes": outcome.notes,
            "command": command,
        });
        writeln!(text, "{line}").expect("to a string");
    }
    text
}

/// Adds the lines to a file, made with its folder when it is not there.
pub(crate) fn append(path: &Path, lines: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).at("mkdir", parent)?;
    }
    let mut file = OpenOptions::new().append(true).create(true).open(path).at("open", path)?;
    file.write_all(lines.as_bytes()).at("write", path)
}

#[cfg(test)]
mod tests;
