//! One operation's way: its steps in order, at the mount and at the servers.

use serde_json::{Value, json};
use weft_client_core::keep::trace::{OpSpan, RequestSpan};
use weft_server_core::metrics::label;
use weft_wire::{Kind, Status};

use super::servers::{AtServer, Servers};
use crate::output::Align::{Left, Right};
use crate::output::Table;
use crate::units::human_bytes;

/// An operation and everything known of it.
pub(super) struct Path {
    pub(super) op: OpSpan,
    requests: Vec<Trip>,
    steps: Vec<Step>,
}

/// A request of it.
struct Trip {
    span: RequestSpan,
    shard: String,
    address: String,
    at_server: Result<AtServer, String>,
}

/// Something that happened, at a time of the client's clock.
struct Step {
    at: u64,
    /// Nanoseconds since the step before.
    since: u64,
    place: String,
    what: String,
    /// Which request, counted from 1.
    request: Option<usize>,
}

impl Path {
    pub(super) fn new(op: OpSpan, requests: Vec<RequestSpan>, servers: &Servers) -> Path {
        let mut requests = requests;
        requests.sort_by_key(|request| request.asked);
        let trip = |span: RequestSpan| match servers.get(&span.link) {
            Some(server) => Trip {
                shard: format!("shard {}", server.shard),
                address: server.address.clone(),
                at_server: server.find(&span),
                span,
            },
            None => Trip {
                shard: "server".to_owned(),
                address: String::new(),
                at_server: Err("its server is not named".to_owned()),
                span,
            },
        };
        let requests: Vec<Trip> = requests.into_iter().map(trip).collect();
        let steps = steps(&op, &requests);
        Path { op, requests, steps }
    }

    pub(super) fn text(&self, seconds_ago: f64) -> String {
        let op = &self.op;
        let mut out = format!("{}: {} us, {}", told(op), micros(op.took()), ended(op.errno));
        out.push_str(&format!(
            " ({seconds_ago:.1} s ago, inode {:x}, process {})\n",
            op.ino.0, op.pid
        ));
        let mut table =
            Table::new(&[("AT US", Right), ("+US", Right), ("WHERE", Left), ("WHAT", Left)]);
        for step in &self.steps {
            let at = micros(step.at.saturating_sub(op.started));
            let since = if step.since == 0 { String::new() } else { micros(step.since) };
            table.row([at, since, step.place.clone(), step.what.clone()]);
        }
        out.push_str(&table.render());
        for (index, trip) in self.requests.iter().enumerate() {
            match &trip.at_server {
                Ok(found) => out.push_str(&format!(
                    "request {}: the server's times are right to {} us\n",
                    index + 1,
                    micros(found.uncertainty)
                )),
                Err(why) => out.push_str(&format!("request {}: {why}\n", index + 1)),
            }
        }
        out
    }

    pub(super) fn json(&self) -> Value {
        let op = &self.op;
        let step = |step: &Step| {
            json!({
                "at_us": float_micros(step.at.saturating_sub(op.started)),
                "since_us": float_micros(step.since),
                "where": step.place,
                "what": step.what,
                "request": step.request,
            })
        };
        json!({
            "operation": op.name,
            "id": op.op,
            "inode": op.ino.0,
            "found_inode": op.found.0,
            "pid": op.pid,
            "offset": op.offset,
            "asked_bytes": op.asked_bytes,
            "bytes": op.bytes,
            "errno": op.errno,
            "client_core": op.core,
            "took_us": float_micros(op.took()),
            "requests": self.requests.iter().map(|trip| trip.json(op)).collect::<Vec<_>>(),
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
        })
    }
}

impl Trip {
    fn kind(&self) -> String {
        self.span.kind.map_or_else(|| "request".to_owned(), |kind| label(&format!("{kind:?}")))
    }

    /// What it asks of whom.
    fn told(&self, op: &OpSpan) -> String {
        let RequestSpan { target, chunk, offset, bytes, .. } = self.span;
        let mut out = self.kind();
        if bytes > 0 {
            let of = human_bytes(bytes.into());
            out.push_str(&format!(" of {of} at {offset} of chunk {chunk}"));
        }
        if let Some(target) = target {
            out.push_str(&format!(", target {target}"));
        }
        if self.span.op != op.op {
            out.push_str(", for the file");
        }
        out
    }

    fn json(&self, op: &OpSpan) -> Value {
        let RequestSpan { target, chunk, offset, bytes, send_count, link, .. } = self.span;
        let at = |time: u64| float_micros(time.saturating_sub(op.started));
        let (server, why) = match &self.at_server {
            Ok(found) => (
                json!({
                    "received_us": at(found.received),
                    "admitted_us": found.admitted.map(at),
                    "device_began_us": found.device.map(|(began, _)| at(began)),
                    "device_ended_us": found.device.map(|(_, ended)| at(ended)),
                    "replied_us": at(found.replied),
                    "clock_uncertainty_us": float_micros(found.uncertainty),
                }),
                Value::Null,
            ),
            Err(why) => (Value::Null, Value::from(why.as_str())),
        };
        json!({
            "kind": self.kind(),
            "id": self.span.request_id,
            "link": link,
            "shard": self.shard,
            "address": self.address,
            "target": target.map(|target| target.0),
            "chunk": chunk.0,
            "chunk_offset": offset,
            "bytes": bytes,
            "own": self.span.op == op.op,
            "status": self.span.status.map(|status| status.to_string()),
            "send_count": send_count,
            // Before the operation began: a request for the file that it found under way.
            "asked_us": signed_micros(self.span.asked, op.started),
            "sent_us": signed_micros(self.span.sent, op.started),
            "answered_us": at(self.span.answered),
            "server": server,
            "server_unknown": why,
        })
    }

    fn steps(&self, op: &OpSpan, number: usize) -> Vec<Step> {
        let step = |at: u64, place: &str, what: String| Step {
            // What it found under way began before it.
            at: at.clamp(op.started, op.finished.max(op.started)),
            since: 0,
            place: place.to_owned(),
            what,
            request: Some(number),
        };
        let span = &self.span;
        let before = if span.asked < op.started { " (under way before)" } else { "" };
        let again = match span.send_count {
            0 | 1 => String::new(),
            count => format!(" again, {count} times in all: the server was busy or away"),
        };
        let told = format!("to {}: {}{before}", self.shard, self.told(op));
        let mut steps = Vec::with_capacity(8);
        if span.sent == span.asked {
            steps.push(step(span.sent, "mount", format!("request {number} sent{again} {told}")));
        } else {
            // Until then it waited for credits, or for the connection.
            steps.push(step(span.asked, "mount", format!("request {number} queued {told}")));
            steps.push(step(span.sent, "mount", format!("request {number} sent{again}")));
        }
        if let Ok(found) = &self.at_server {
            let work = match span.kind {
                Some(Kind::Sync) => "flush",
                Some(kind) if kind.is_data() => "device work",
                _ => "log write",
            };
            let at =
                |time: u64, what: &str| step(time, &self.shard, format!("request {number} {what}"));
            steps.push(at(found.received, "received"));
            // What waited did so for leases of other mounts.
            let admitted = found.admitted.filter(|time| *time > found.received);
            steps.extend(admitted.map(|time| at(time, "admitted")));
            if let Some((began, ended)) = found.device {
                steps.push(at(began, &format!("{work} begun")));
                steps.push(at(ended, &format!("{work} done")));
            }
            steps.push(at(found.replied, "answered"));
        }
        let status = span.status.unwrap_or(Status::Ok);
        steps.push(step(span.answered, "mount", format!("request {number} came back: {status}")));
        steps
    }
}

/// Every step in the order of time; together they take as long as the operation.
fn steps(op: &OpSpan, requests: &[Trip]) -> Vec<Step> {
    let own = |at: u64, what: String| Step {
        at,
        since: 0,
        place: "mount".to_owned(),
        what,
        request: None,
    };
    let mut steps = vec![own(op.started, format!("{} read from the kernel", told(op)))];
    for (index, trip) in requests.iter().enumerate() {
        steps.extend(trip.steps(op, index + 1));
    }
    // Stable: at the same time a request's steps stay in their order.
    steps.sort_by_key(|step| step.at);
    let end = op.finished.max(op.started);
    steps.push(own(end, format!("answered to the kernel: {}", ended(op.errno))));
    let mut before = op.started;
    for step in &mut steps {
        step.since = step.at - before;
        before = step.at;
    }
    steps
}

/// What was asked for, in words.
fn told(op: &OpSpan) -> String {
    match op.asked_bytes {
        0 => op.name.to_owned(),
        bytes => format!("{} of {} at {}", op.name, human_bytes(bytes.into()), op.offset),
    }
}

fn ended(errno: i32) -> String {
    match errno {
        0 => "ok".to_owned(),
        errno => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}

fn micros(nanos: u64) -> String {
    format!("{:.1}", float_micros(nanos))
}

fn float_micros(nanos: u64) -> f64 {
    std::time::Duration::from_nanos(nanos).as_secs_f64() * 1e6
}

fn signed_micros(time: u64, from: u64) -> f64 {
    if time < from { -float_micros(from - time) } else { float_micros(time - from) }
}
