//! What a run says: a Markdown table for people, and one JSON object a row and run for programs.

use crate::compare::{LOCAL, MOUNT, Outcome};
use crate::cpu::CpuUse;
use crate::error::{At, Result};
use crate::peers::{Peers, standing};
use crate::rows::{Bar, Limit, ROWS, Row, Unit};
use crate::sample::Sample;
use crate::stats::Spread;
use serde::Serialize;
use serde_json::json;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

pub(crate) mod plot;

const NONE: &str = "-";

/// The report as Markdown.
pub(crate) fn markdown(outcome: &Outcome, peers: &Peers, command: &str) -> String {
    let mut text = head(outcome, command);
    text.push_str(&table(outcome, peers));
    text.push_str("\nWhat that costs and how near its limit it is, medians:\n\n");
    text.push_str(&costs(outcome));
    text.push_str(&foot(outcome));
    writeln!(text, "\nOther systems: {} ({}; {}).\n", peers.source, peers.date, peers.machine)
        .expect("to a string");
    text.push_str(&others(outcome, peers));
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

/// The figures, and how they stand against the bar and the best of the other systems.
fn table(outcome: &Outcome, peers: &Peers) -> String {
    let labels: Vec<&str> = outcome.places.iter().map(|place| place.label.as_str()).collect();
    let mut columns = vec!["".to_owned(), "unit".to_owned()];
    columns.extend(labels.iter().map(|label| format!("{label}: median (min..max)")));
    columns.extend(labels.iter().skip(1).map(|label| format!("{} / {label}", labels[MOUNT])));
    columns.extend(["bar", "best other", "against it"].map(str::to_owned));
    rows_of(outcome, columns, |row| cells(outcome, peers, row))
}

/// What the figures cost, and how near the row's limit they are.
fn costs(outcome: &Outcome) -> String {
    let mount = &outcome.places[MOUNT].label;
    let local = &outcome.places[LOCAL].label;
    let columns = vec![
        "".to_owned(),
        format!("p99 us: {mount}"),
        local.clone(),
        "CPU s: server".into(),
        "mount".into(),
        "per".into(),
        format!("cores busy: {mount}"),
        local.clone(),
        "of its limit".into(),
    ];
    rows_of(outcome, columns, |row| cost_cells(outcome, row))
}

/// What other systems reached.
fn others(outcome: &Outcome, peers: &Peers) -> String {
    let names = &peers.names;
    let columns =
        ["", "unit", &names.orangefs, &names.glusterfs, &names.moosefs, "local then", "note"];
    rows_of(outcome, columns.map(str::to_owned).to_vec(), |row| {
        let Some(figure) = peers.figure(row.id) else { return Vec::new() };
        let values = peers.named(figure).map(|(_, value)| short(value));
        let mut cells = vec![row.title.to_owned(), row.unit.name().to_owned()];
        cells.extend(values);
        cells.push(figure.local.map_or(NONE.into(), short));
        cells.push(figure.note.clone().unwrap_or_default());
        cells
    })
}

/// A table of the rows that ran; one without cells is left out.
fn rows_of(outcome: &Outcome, columns: Vec<String>, cells: impl Fn(&Row) -> Vec<String>) -> String {
    let mut text = line(&columns);
    text.push_str(&line(&vec!["---".to_owned(); columns.len()]));
    let present = ROWS.iter().filter(|row| present(outcome, row)).map(cells);
    for cells in present.filter(|cells| !cells.is_empty()) {
        text.push_str(&line(&cells));
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
    cells.push(bar(outcome, row));
    let figure = peers.figure(row.id);
    let best = figure.map(|figure| peers.best(figure, row.unit));
    cells.push(best.map_or(NONE.into(), |(name, value)| format!("{name} {}", short(value))));
    cells.push(match (best, spread(outcome, row, MOUNT)) {
        // Whatever is there instead proves nothing about Weft.
        _ if !outcome.places[MOUNT].is_weft() => "not Weft".into(),
        (Some((_, theirs)), Some(ours)) => standing(&ours, theirs, row.unit),
        (Some(_), None) => "behind: ours FAILED".into(),
        (None, _) => NONE.into(),
    });
    cells
}

/// The bar and whether the median reaches it: `0.80 of local: yes`.
fn bar(outcome: &Outcome, row: &Row) -> String {
    let Some(bar) = row.bar else { return NONE.into() };
    let local = &outcome.places[LOCAL].label;
    let ours = spread(outcome, row, MOUNT).map(|s| s.median);
    let (text, met) = match bar {
        Bar::OfLocal(part) => {
            let ratio = ratios(outcome, row, LOCAL).map(|r| r.median);
            (format!("{part:.2} of {local}"), ratio.is_some_and(|ratio| ratio >= part))
        }
        Bar::AtLeast(rate) => (short(rate), ours.is_some_and(|ours| ours >= rate)),
        Bar::AtMost(seconds) => (short(seconds), ours.is_some_and(|ours| ours <= seconds)),
    };
    format!("{text}: {}", if met { "yes" } else { "NO" })
}

fn cost_cells(outcome: &Outcome, row: &Row) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or(NONE.into(), short);
    let percent = |value: Option<f64>| value.map_or(NONE.into(), |v| format!("{:.0} %", v * 100.0));
    let median = |place, pick: fn(&Sample) -> Option<f64>| {
        let picked: Option<Vec<f64>> = samples(outcome, row, place).iter().map(pick).collect();
        picked.and_then(|values| Spread::of(&values)).map(|s| s.median)
    };
    let cost = cost(outcome, row);
    let busy = median(MOUNT, |s| s.busy);
    let of_local = ratios(outcome, row, LOCAL)
        .map(|r| if row.unit.less_is_better() { 1.0 / r.median } else { r.median });
    let of_limit = match row.limit {
        Limit::Device => format!("{} of the device", percent(of_local)),
        Limit::Memory => format!("{} of the page cache", percent(of_local)),
        Limit::Cpu => format!("{} of the cores", percent(busy)),
    };
    vec![
        row.title.to_owned(),
        number(median(MOUNT, |s| s.p99_us)),
        number(median(LOCAL, |s| s.p99_us)),
        number(cost.map(|cost| cost.server_s)),
        number(cost.map(|cost| cost.mount_s)),
        per(row).1.to_owned(),
        percent(busy),
        percent(median(LOCAL, |s| s.busy)),
        of_limit,
    ]
}

/// What a row's cost is for: this much of [`Sample::amount`], and its name.
fn per(row: &Row) -> (f64, &'static str) {
    match row.unit {
        Unit::MibPerS => (1_073_741_824.0, "GiB"),
        Unit::OpPerS => (100_000.0, "100,000 op"),
        Unit::Seconds => (100_000.0, "100,000 files"),
    }
}

fn foot(outcome: &Outcome) -> String {
    let mut text = String::new();
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

/// CPU seconds of Weft's processes for each [`per`] of the row, medians; none where a round has no reading.
fn cost(outcome: &Outcome, row: &Row) -> Option<CpuUse> {
    let (amount, _) = per(row);
    let used = |pick: fn(&CpuUse) -> f64| {
        let rounds = samples(outcome, row, MOUNT).iter();
        let costs: Option<Vec<f64>> =
            rounds.map(|s| Some(pick(&s.cpu?) * amount / s.amount as f64)).collect();
        Some(Spread::of(&costs?)?.median)
    };
    Some(CpuUse { server_s: used(|cpu| cpu.server_s)?, mount_s: used(|cpu| cpu.mount_s)? })
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
            "bar": row.bar.map(|_| bar(outcome, row)),
            "mount_cpu": cost(outcome, row),
            "mount_cpu_per": per(row).1,
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

fn make_folder_of(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), |parent| fs::create_dir_all(parent).at("mkdir", parent))
}

/// Adds the lines to a file, made with its folder when it is not there.
pub(crate) fn append(path: &Path, lines: &str) -> Result<()> {
    make_folder_of(path)?;
    let mut file = OpenOptions::new().append(true).create(true).open(path).at("open", path)?;
    file.write_all(lines.as_bytes()).at("write", path)
}

#[cfg(test)]
mod tests;
