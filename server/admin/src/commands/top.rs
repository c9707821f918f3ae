//! `weft top`: what shards, targets and the mounts of this machine do now, from two looks at what they count.

use std::io::IsTerminal;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use serde_json::{Value, json};
use weft_client_core::keep::{OpCounts, read_counts};
use weft_server_core::metrics::{self as names, float};
use weft_wire::buckets::bound_micros;

use super::shards::Shards;
use crate::cli::TopArgs;
use crate::clock;
use crate::error::AdminError;
use crate::locate;
use crate::metrics::{Histogram, Sample};
use crate::mounts;
use crate::output::Align::{Left, Right};
use crate::output::{self, Outcome, Report, Table};
use crate::units::{human_bytes, percent};

/// Kinds of requests shown, the most frequent first.
const KINDS_SHOWN: usize = 12;
/// Home, and clear what follows.
const CLEAR: &str = "\x1b[H\x1b[J";

/// What every shard counted, and when.
struct Look {
    sample: Sample,
    /// By node and shard, in order; those that did not answer with the reason.
    shards: Vec<(String, u16, Option<String>)>,
    /// What the mounts of this machine counted, by mount point.
    mounts: Vec<(String, Vec<OpCounts>)>,
    at: std::time::Instant,
}

pub(super) fn run(args: &TopArgs, timeout: Duration, json: bool) -> Result<Report, AdminError> {
    let server = locate::server(&args.server)?;
    let mut shards = Shards::open(&server.address, &server.session(timeout))?;
    let terminal = std::io::stdout().is_terminal() && !json;
    let count = args.count.or_else(|| (!terminal).then_some(1));
    let mut before = look(&mut shards);
    let mut seen = 0;
    loop {
        clock::pause(args.interval);
        let now = look(&mut shards);
        let shown = Shown { before: &before, now: &now };
        seen += 1;
        if count.is_some_and(|count| seen >= count) {
            shards.close();
            let bad = now.shards.iter().filter(|(.., error)| error.is_some()).count();
            let outcome = Outcome::of_parts(now.shards.len() - bad, bad);
            let clear = if terminal { CLEAR } else { "" };
            let text = format!("{clear}{}", shown.text(&server.address));
            return Ok(Report { outcome, text, json: shown.json() });
        }
        let text = match (json, terminal) {
            (true, _) => output::json_text(&shown.json()),
            (_, true) => format!("{CLEAR}{}", shown.text(&server.address)),
            _ => format!("{}\n", shown.text(&server.address)),
        };
        if output::print(&text).is_err() {
            // Whoever read it has gone.
            shards.close();
            return Ok(Report::done(String::new(), json!({})));
        }
        before = now;
    }
}

fn look(shards: &mut Shards) -> Look {
    let mut sample = Sample::default();
    let mut answered = Vec::new();
    for (node, place) in shards.places() {
        let text = shards.at(place).and_then(|shard| shard.metrics());
        let error = match text {
            Ok(text) => {
                sample.add(&text);
                None
            }
            Err(error) => {
                shards.forget(place);
                Some(error.why())
            }
        };
        answered.push((node, place.shard.0, error));
    }
    Look { sample, shards: answered, mounts: mounts_now(), at: clock::now() }
}

/// What the mounts of this machine counted: those that we may look into.
fn mounts_now() -> Vec<(String, Vec<OpCounts>)> {
    let all = mounts::all().unwrap_or_default();
    let counts = |mount: &mounts::Mount| {
        let memory = mounts::client(mount).supervisor.and_then(mounts::kept_memory)?;
        let counts = read_counts(|at, bytes: &mut [u8]| memory.read_exact_at(bytes, at)).ok()?;
        Some((mount.mount_point.to_string_lossy().into_owned(), counts))
    };
    all.iter().filter(|mount| mount.is_weft).filter_map(counts).collect()
}

struct Shown<'a> {
    before: &'a Look,
    now: &'a Look,
}

impl Shown<'_> {
    fn seconds(&self) -> f64 {
        self.now.at.saturating_duration_since(self.before.at).as_secs_f64().max(1e-3)
    }

    /// How much a counter grew a second.
    fn rate(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.now.sample.since(&self.before.sample, name, labels) / self.seconds()
    }

    fn text(&self, server: &str) -> String {
        format!(
            "{server}, over {:.1} s\n\n{}\n{}\n{}\n{}",
            self.seconds(),
            self.shard_table(),
            self.target_table(),
            self.request_table(),
            self.mount_table()
        )
    }

    fn json(&self) -> Value {
        json!({
            "seconds": self.seconds(),
            "shards": self.shards().iter().map(|row| row.json()).collect::<Vec<_>>(),
            "targets": self.targets().iter().map(|row| row.json()).collect::<Vec<_>>(),
            "requests": self.requests().iter().map(|row| row.json()).collect::<Vec<_>>(),
            "mounts": self.mount_ops().iter().map(|row| row.json()).collect::<Vec<_>>(),
        })
    }

    fn shards(&self) -> Vec<ShardRow> {
        let requests =
            self.now.sample.histograms_since(&self.before.sample, names::REQUEST_SECONDS);
        let row = |(node, shard, error): &(String, u16, Option<String>)| {
            let id = shard.to_string();
            let labels = [("shard", id.as_str())];
            let own = requests.iter().filter(|(series, _)| series.label("shard") == id);
            let answered: f64 = own.map(|(_, histogram)| histogram.count()).sum();
            let now = |name| self.now.sample.number(name, &labels);
            let errors =
                self.now.sample.numbers(names::ERRORS).filter(|(s, _)| s.label("shard") == id);
            let errors = errors.map(|(series, _)| {
                let labels: Vec<(&str, &str)> =
                    series.labels.iter().map(|(l, v)| (l.as_str(), v.as_str())).collect();
                self.rate(names::ERRORS, &labels)
            });
            ShardRow {
                node: node.clone(),
                shard: *shard,
                error: error.clone(),
                busy: self.rate(names::BUSY_SECONDS, &labels),
                requests: answered / self.seconds(),
                received: self.rate(names::RECEIVED_BYTES, &labels),
                sent: self.rate(names::SENT_BYTES, &labels),
                // The sum of nothing is -0.
                errors: errors.sum::<f64>() + 0.0,
                in_flight: now(names::IN_FLIGHT),
                connections: now(names::CONNECTIONS),
                locks: now(names::LOCKS),
                leases: now(names::LEASES),
            }
        };
        self.now.shards.iter().map(row).collect()
    }

    fn targets(&self) -> Vec<TargetRow> {
        let work = self.now.sample.histograms_since(&self.before.sample, names::TARGET_IO_SECONDS);
        let of = |series: &crate::metrics::Series, online: f64| {
            let (shard, id) = (series.label("shard"), series.label("target"));
            let labels = [("shard", shard), ("target", id)];
            let io = |kind: &str| {
                let own = work
                    .iter()
                    .find(|(series, _)| series.label("target") == id && series.label("op") == kind);
                let with = [labels[0], labels[1], ("op", kind)];
                Work {
                    times: own.map_or_else(Histogram::default, |(_, histogram)| histogram.clone()),
                    bytes: self.rate(names::TARGET_IO_BYTES, &with),
                }
            };
            let now = |name| self.now.sample.number(name, &labels);
            TargetRow {
                id: id.to_owned(),
                shard: shard.to_owned(),
                online: online > 0.0,
                read: io("read"),
                write: io("write"),
                flush: io("flush"),
                depth: now(names::TARGET_IO_IN_FLIGHT),
                bytes: now(names::TARGET_BYTES),
                free: now(names::TARGET_FREE_BYTES),
                seconds: self.seconds(),
            }
        };
        self.now.sample.numbers(names::TARGET_ONLINE).map(|(s, online)| of(s, online)).collect()
    }

    /// By kind, over all shards, the most frequent first.
    fn requests(&self) -> Vec<RequestRow> {
        let mut rows: Vec<RequestRow> = Vec::new();
        let all = self.now.sample.histograms_since(&self.before.sample, names::REQUEST_SECONDS);
        for (series, times) in all {
            let kind = series.label("kind");
            match rows.iter_mut().find(|row| row.kind == kind) {
                Some(row) => row.times.merge(&times),
                None => {
                    rows.push(RequestRow { kind: kind.to_owned(), times, seconds: self.seconds() })
                }
            }
        }
        rows.retain(|row| row.times.count() > 0.0);
        rows.sort_by(|a, b| b.times.count().total_cmp(&a.times.count()));
        rows
    }

    /// What programs asked of this machine's mounts, by mount and the most frequent first.
    fn mount_ops(&self) -> Vec<MountRow> {
        let mut rows = Vec::new();
        for (mount, counts) in &self.now.mounts {
            let before = self.before.mounts.iter().find(|(other, _)| other == mount);
            let mut own: Vec<MountRow> = Vec::new();
            for (index, now) in counts.iter().enumerate() {
                let was = before.and_then(|(_, before)| before.get(index));
                own.extend(MountRow::new(mount, now, was, self.seconds()));
            }
            own.sort_by(|a, b| b.times.count().total_cmp(&a.times.count()));
            rows.append(&mut own);
        }
        rows
    }

    fn mount_table(&self) -> String {
        let mut table = Table::new(&[
            ("MOUNT", Left),
            ("OPERATION", Left),
            ("PER S", Right),
            ("BYTES/S", Right),
            ("P50", Right),
            ("P99", Right),
            ("LONGEST", Right),
            ("FROM CACHE", Right),
        ]);
        for row in self.mount_ops() {
            table.row([
                row.mount,
                row.operation.to_owned(),
                whole(row.times.count() / row.seconds),
                bytes(row.bytes / row.seconds),
                time(row.times.quantile(0.5)),
                time(row.times.quantile(0.99)),
                time(row.times.quantile(1.0)),
                match row.cached {
                    Some(part) => format!("{:.0} %", part * 100.0),
                    None => "-".to_owned(),
                },
            ]);
        }
        table.render()
    }

    fn shard_table(&self) -> String {
        let mut table = Table::new(&[
            ("NODE", Left),
            ("SHARD", Right),
            ("BUSY", Right),
            ("REQUESTS/S", Right),
            ("RECEIVED/S", Right),
            ("SENT/S", Right),
            ("ERRORS/S", Right),
            ("IN FLIGHT", Right),
            ("CONNECTIONS", Right),
            ("LOCKS", Right),
            ("LEASES", Right),
            ("STATE", Left),
        ]);
        for row in self.shards() {
            table.row([
                row.node,
                row.shard.to_string(),
                format!("{:.0} %", row.busy * 100.0),
                whole(row.requests),
                bytes(row.received),
                bytes(row.sent),
                whole(row.errors),
                whole(row.in_flight),
                whole(row.connections),
                whole(row.locks),
                whole(row.leases),
                row.error.unwrap_or_else(|| "up".to_owned()),
            ]);
        }
        table.render()
    }

    fn target_table(&self) -> String {
        let mut table = Table::new(&[
            ("TARGET", Right),
            ("READS/S", Right),
            ("READ/S", Right),
            ("P50", Right),
            ("P99", Right),
            ("WRITES/S", Right),
            ("WRITTEN/S", Right),
            ("P50", Right),
            ("P99", Right),
            ("FLUSHES/S", Right),
            ("P50", Right),
            ("P99", Right),
            ("QUEUE", Right),
            ("USE", Right),
            ("STATE", Left),
        ]);
        for row in self.targets() {
            let mut cells = vec![row.id.clone()];
            for (work, with_bytes) in [(&row.read, true), (&row.write, true), (&row.flush, false)] {
                cells.push(whole(work.times.count() / row.seconds));
                if with_bytes {
                    cells.push(bytes(work.bytes));
                }
                cells.extend([time(work.times.quantile(0.5)), time(work.times.quantile(0.99))]);
            }
            let used = count(row.bytes).saturating_sub(count(row.free));
            let state = if row.online { "online" } else { "OFFLINE" };
            cells.extend([whole(row.depth), percent(used, count(row.bytes)), state.to_owned()]);
            table.row(cells);
        }
        table.render()
    }

    fn request_table(&self) -> String {
        let mut table = Table::new(&[
            ("REQUEST", Left),
            ("PER S", Right),
            ("P50", Right),
            ("P99", Right),
            ("LONGEST", Right),
        ]);
        let rows = self.requests();
        for row in rows.iter().take(KINDS_SHOWN) {
            table.row([
                row.kind.clone(),
                whole(row.times.count() / row.seconds),
                time(row.times.quantile(0.5)),
                time(row.times.quantile(0.99)),
                time(row.times.quantile(1.0)),
            ]);
        }
        table.render()
    }
}

struct ShardRow {
    node: String,
    shard: u16,
    error: Option<String>,
    /// Part of the time, 0 to 1; the rest, but for the last three, are a second.
    busy: f64,
    requests: f64,
    received: f64,
    sent: f64,
    errors: f64,
    in_flight: f64,
    connections: f64,
    locks: f64,
    leases: f64,
}

impl ShardRow {
    fn json(&self) -> Value {
        json!({
            "node": self.node, "shard": self.shard, "error": self.error, "busy": self.busy,
            "requests_per_s": self.requests, "received_bytes_per_s": self.received,
            "sent_bytes_per_s": self.sent, "errors_per_s": self.errors,
            "in_flight": self.in_flight, "connections": self.connections, "locks": self.locks,
            "leases": self.leases,
        })
    }
}

/// One kind of device work of a target between the two looks.
struct Work {
    times: Histogram,
    bytes: f64,
}

struct TargetRow {
    id: String,
    shard: String,
    online: bool,
    read: Work,
    write: Work,
    flush: Work,
    depth: f64,
    bytes: f64,
    free: f64,
    seconds: f64,
}

impl TargetRow {
    fn json(&self) -> Value {
        let work = |work: &Work| {
            json!({
                "per_s": work.times.count() / self.seconds, "bytes_per_s": work.bytes,
                "p50_s": work.times.quantile(0.5), "p99_s": work.times.quantile(0.99),
            })
        };
        json!({
            "target": self.id, "shard": self.shard, "online": self.online,
            "reads": work(&self.read), "writes": work(&self.write), "flushes": work(&self.flush),
            "queue_depth": self.depth, "total_bytes": self.bytes, "free_bytes": self.free,
        })
    }
}

struct RequestRow {
    kind: String,
    times: Histogram,
    seconds: f64,
}

impl RequestRow {
    fn json(&self) -> Value {
        json!({
            "kind": self.kind, "per_s": self.times.count() / self.seconds,
            "p50_s": self.times.quantile(0.5), "p99_s": self.times.quantile(0.99),
            "longest_s": self.times.quantile(1.0),
        })
    }
}

/// One kind of operation of one mount between the two looks.
struct MountRow {
    mount: String,
    operation: &'static str,
    times: Histogram,
    bytes: f64,
    /// Of those that may be answered from what the client holds: the part that was.
    cached: Option<f64>,
    seconds: f64,
}

impl MountRow {
    /// `None` when there was none. Counts that fell are of another mount at the same place.
    fn new(mount: &str, now: &OpCounts, was: Option<&OpCounts>, seconds: f64) -> Option<MountRow> {
        let total = |counts: &OpCounts| counts.buckets.iter().sum::<u64>();
        let was = was.filter(|was| was.name == now.name && total(was) <= total(now));
        let since = |now: u64, was: Option<u64>| now.saturating_sub(was.unwrap_or(0));
        let added = now.buckets.iter().enumerate().map(|(index, now)| {
            let count = since(*now, was.map(|was| was.buckets[index]));
            (bound_micros(index) / 1e6, float(count))
        });
        let times = Histogram::of_counts(added);
        if times.count() == 0.0 {
            return None;
        }
        let may_be_cached =
            matches!(now.name, "lookup" | "getattr" | "read" | "readlink" | "readdir" | "getxattr");
        let unasked = float(since(now.unasked, was.map(|was| was.unasked)));
        Some(MountRow {
            mount: mount.to_owned(),
            operation: now.name,
            cached: may_be_cached.then(|| unasked / times.count()),
            bytes: float(since(now.bytes, was.map(|was| was.bytes))),
            times,
            seconds,
        })
    }

    fn json(&self) -> Value {
        json!({
            "mount_point": self.mount, "operation": self.operation,
            "per_s": self.times.count() / self.seconds, "bytes_per_s": self.bytes / self.seconds,
            "p50_s": self.times.quantile(0.5), "p99_s": self.times.quantile(0.99),
            "longest_s": self.times.quantile(1.0), "from_cache": self.cached,
        })
    }
}

/// A count that came as a float.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are far below 2^53, and `as` keeps what is negative or none at 0"
)]
fn count(value: f64) -> u64 {
    value as u64
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

fn bytes(value: f64) -> String {
    human_bytes(count(value))
}

/// A time, in the unit that leaves three digits; `-` for none.
fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds.is_infinite() => "> 16 s".to_owned(),
        Some(seconds) if seconds < 1e-3 => format!("{:.0} us", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(text: &str, at: std::time::Instant) -> Look {
        let mut sample = Sample::default();
        sample.add(text);
        Look { sample, shards: vec![("n".to_owned(), 0, None)], mounts: Vec::new(), at }
    }

    #[test]
    fn rates_are_what_changed_in_the_time_between() {
        let start = clock::now();
        let before = look("weft_shard_busy_seconds_total{shard=\"0\"} 1.0\n", start);
        let text = "weft_shard_busy_seconds_total{shard=\"0\"} 2.0\n\
            weft_server_request_seconds_bucket{shard=\"0\",kind=\"read\",le=\"0.00003\"} 300\n\
            weft_server_request_seconds_bucket{shard=\"0\",kind=\"read\",le=\"+Inf\"} 300\n\
            weft_target_online{shard=\"0\",target=\"3\"} 1\n\
            weft_target_io_bytes_total{shard=\"0\",target=\"3\",op=\"read\"} 4096\n\
            weft_target_io_seconds_bucket{shard=\"0\",target=\"3\",op=\"read\",le=\"0.001\"} 8\n\
            weft_target_io_seconds_bucket{shard=\"0\",target=\"3\",op=\"read\",le=\"+Inf\"} 8\n";
        let now = look(text, start + Duration::from_secs(2));
        let shown = Shown { before: &before, now: &now };
        let json = shown.json();
        assert_eq!(json["shards"][0]["busy"], 0.5);
        assert_eq!(json["shards"][0]["requests_per_s"], 150.0);
        assert_eq!(json["targets"][0]["reads"]["per_s"], 4.0);
        assert_eq!(json["targets"][0]["reads"]["bytes_per_s"], 2048.0);
        assert_eq!(json["targets"][0]["reads"]["p99_s"], 0.001);
        assert_eq!(json["requests"][0]["kind"], "read");
        let text = shown.text("h:1");
        assert!(text.contains("30 us") && text.contains("1.0 ms"), "{text}");
    }
}
