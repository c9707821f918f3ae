//! `weft trace`: what an operation of a program did, step by step, at the mount and at the servers, on one clock.
//!
//! The mount's part is read from the memory that the supervisor keeps for its client-cores (so it also works while the
//! client-core hangs or is dead); each server is asked what it recorded of the same requests. What cannot be known is
//! said: a recorder that has written over it, a server that does not answer.

mod clocks;
mod path;
mod servers;

use std::cmp::Reverse;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use serde_json::{Value, json};
use weft_client_core::keep::op_names;
use weft_client_core::keep::trace::{OpSpan, RequestSpan, Trace, read_trace};
use weft_wire::Ino;

use crate::cli::TraceArgs;
use crate::client::SERVER_DEFAULT;
use crate::clock;
use crate::error::AdminError;
use crate::locate;
use crate::mounts::{self, Mount};
use crate::output::{Outcome, Report};
use path::Path;
use servers::Servers;

/// Operations shown unless a number is given.
const SHOWN: usize = 3;

pub(super) fn run(args: &TraceArgs, timeout: Duration) -> Result<Report, AdminError> {
    let (wanted, of) = Wanted::of(args, timeout)?;
    let mut whole = Report::done(String::new(), json!({}));
    let (mut operations, mut mounts) = (Vec::new(), Vec::new());
    for mount in of {
        let trace = match trace_of(&mount) {
            Ok(trace) => trace,
            // Of another user, or dead: asked for by name it is an error.
            Err(_) if args.file.is_none() && args.mount.is_none() => continue,
            Err(error) => return Err(error),
        };
        let look = Look::new(mount, trace, &wanted, timeout);
        whole.text.push_str(&look.text(&wanted));
        operations.extend(look.paths.iter().map(|path| look.op_json(path)));
        mounts.push(look.json());
        if look.silent() {
            whole.outcome = Outcome::Partial;
        }
    }
    if mounts.is_empty() {
        let next = "`weft mount list` shows them; run it as root";
        let why = "no Weft mount of this machine can be looked into";
        return Err(AdminError::new("trace", why, next));
    }
    whole.json = json!({ "operations": operations, "mounts": mounts });
    Ok(whole)
}

/// What is asked for.
struct Wanted {
    /// The file, and how it was named.
    file: Option<(Ino, String)>,
    op: Option<&'static str>,
    slowest: bool,
    count: usize,
}

impl Wanted {
    fn of(args: &TraceArgs, timeout: Duration) -> Result<(Wanted, Vec<Mount>), AdminError> {
        let mut mounts = None;
        let mut file = None;
        if let Some(path) = &args.file {
            let found = locate::mounted(path, Some(SERVER_DEFAULT), timeout)?;
            file = Some((found.ino(), path.display().to_string()));
            mounts = Some(vec![found.mount]);
        }
        let mounts = match (mounts, &args.mount) {
            (Some(mounts), _) => mounts,
            (None, Some(point)) => vec![mounts::at(point)?],
            (None, None) => mounts::all()?.into_iter().filter(|mount| mount.is_weft).collect(),
        };
        let op = match &args.op {
            None => None,
            Some(name) => Some(op_names().find(|known| known == name).ok_or_else(|| {
                let names = op_names().collect::<Vec<_>>().join(", ");
                AdminError::new(format!("--op {name}"), "no operation has that name", names)
            })?),
        };
        let count = args
            .slowest
            .or(args.last)
            .map_or(SHOWN, |count| usize::try_from(count).unwrap_or(usize::MAX));
        Ok((Wanted { file, op, slowest: args.slowest.is_some(), count }, mounts))
    }

    fn matches(&self, op: &OpSpan) -> bool {
        let of_file = |ino: &Ino| op.ino == *ino || op.found == *ino;
        // What this command asked of the mount is not what is looked for.
        op.pid != std::process::id()
            && self.file.as_ref().is_none_or(|(ino, _)| of_file(ino))
            && self.op.is_none_or(|name| name == op.name)
    }

    /// In words.
    fn told(&self) -> String {
        let op = self.op.unwrap_or("operation");
        match &self.file {
            Some((_, path)) => format!("{op} on {path}"),
            None => op.to_owned(),
        }
    }
}

fn trace_of(mount: &Mount) -> Result<Trace, AdminError> {
    let what = || format!("trace of {}", mount.mount_point.display());
    let memory = mounts::client(mount).supervisor.and_then(mounts::kept_memory);
    let Some(memory) = memory else {
        let next = "run it as root on the machine with the mount; is its supervisor dead?";
        return Err(AdminError::new(what(), "its supervisor cannot be looked into", next));
    };
    let read = |at: u64, bytes: &mut [u8]| memory.read_exact_at(bytes, at);
    let trace = read_trace(read).map_err(|error| AdminError::new(what(), error, ""))?;
    trace.ok_or_else(|| {
        let next = "use the `weft` of the mount's version, or mount again";
        AdminError::new(what(), "its client is of a version that records otherwise", next)
    })
}

/// One mount's part of the answer.
struct Look {
    mount: Mount,
    trace: Trace,
    servers: Servers,
    /// What was found.
    paths: Vec<Path>,
    /// The machine's clock.
    now: u64,
}

impl Look {
    fn new(mount: Mount, trace: Trace, wanted: &Wanted, timeout: Duration) -> Look {
        let now = clock::machine_nanos();
        let chosen = choose(&trace, wanted);
        let shown: Vec<RequestSpan> =
            chosen.iter().flat_map(|(_, requests)| requests).copied().collect();
        let servers = servers::ask(&trace, &shown, timeout);
        let path = |(op, requests)| Path::new(op, requests, &servers);
        let paths = chosen.into_iter().map(path).collect();
        Look { mount, trace, servers, paths, now }
    }

    /// Whether a server said nothing.
    fn silent(&self) -> bool {
        self.servers.values().any(|server| server.error.is_some())
    }

    fn point(&self) -> String {
        self.mount.mount_point.to_string_lossy().into_owned()
    }

    /// How long ago the oldest operation ended that is known of all.
    fn oldest_seconds(&self) -> Option<f64> {
        self.trace.ops.first().map(|op| self.ago(op.finished))
    }

    fn ago(&self, time: u64) -> f64 {
        Duration::from_nanos(self.now.saturating_sub(time)).as_secs_f64()
    }

    fn overrun(&self) -> bool {
        weft_wire::units::to_u64(self.trace.ops.len()) < self.trace.op_count
    }

    fn text(&self, wanted: &Wanted) -> String {
        let mut out = String::new();
        for path in &self.paths {
            out.push_str(&path.text(self.ago(path.op.finished)));
            out.push('\n');
        }
        if self.paths.is_empty() {
            out.push_str(&format!("no {} is recorded on {}\n", wanted.told(), self.point()));
        }
        for note in self.notes() {
            out.push_str(&format!("note: {note}\n"));
        }
        out
    }

    /// What limits the answer.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let oldest = self.oldest_seconds().unwrap_or(0.0);
        if self.overrun() {
            notes.push(format!(
                "the mount's recorder holds the last {oldest:.1} s ({} operations); what is older only if it was the \
                 slowest of its kind for a while",
                self.trace.ops.len()
            ));
        }
        if self.trace.cores > 1 {
            notes.push(format!(
                "client-core {} serves the mount since {:.1} s; what the one before it had not answered counts from \
                 there",
                self.trace.cores,
                self.ago(self.trace.core_began)
            ));
        }
        for server in self.servers.values() {
            match (&server.error, server.clocks(self.now)) {
                (Some(error), _) => {
                    notes.push(format!("shard {}: the mount's steps only: {error}", server.shard));
                }
                (None, Some(clocks)) => notes.push(format!(
                    "shard {} at {}: its clock is joined by {} requests",
                    server.shard, server.address, clocks.pairs
                )),
                (None, None) => {
                    notes.push(format!("shard {}: it knows none of these requests", server.shard));
                }
            }
        }
        notes
    }

    fn json(&self) -> Value {
        let server = |server: &servers::Server| {
            let clocks = server.clocks(self.now);
            json!({
                "shard": server.shard.0,
                "address": server.address,
                "error": server.error,
                "clock_pairs": clocks.map_or(0, |clocks| clocks.pairs),
            })
        };
        json!({
            "mount_point": self.point(),
            "client_cores": self.trace.cores,
            "client_core_seconds": self.ago(self.trace.core_began),
            "operations_recorded": self.trace.ops.len(),
            "operations_ever": self.trace.op_count,
            "overrun": self.overrun(),
            "oldest_seconds": self.oldest_seconds(),
            "servers": self.servers.values().map(server).collect::<Vec<_>>(),
        })
    }

    fn op_json(&self, path: &Path) -> Value {
        let mut json = path.json();
        json["mount_point"] = self.point().into();
        json["ended_seconds_ago"] = self.ago(path.op.finished).into();
        json
    }
}

/// The operations meant, each with the requests it waited for.
fn choose(trace: &Trace, wanted: &Wanted) -> Vec<(OpSpan, Vec<RequestSpan>)> {
    let of = |op: &OpSpan| -> Vec<RequestSpan> {
        trace.requests.iter().filter(|request| request.is_of(op)).copied().collect()
    };
    let in_ring = |op: &OpSpan| trace.ops.iter().any(|other| other == op);
    let kept = trace.slowest.iter().filter(|(op, _)| wanted.matches(op) && !in_ring(op));
    let mut found: Vec<(OpSpan, Option<&Vec<RequestSpan>>)> =
        trace.ops.iter().filter(|op| wanted.matches(op)).map(|op| (*op, None)).collect();
    found.extend(kept.map(|(op, requests)| (*op, Some(requests))));
    match wanted.slowest {
        true => found.sort_by_key(|(op, _)| Reverse(op.took())),
        false => found.sort_by_key(|(op, _)| Reverse(op.finished)),
    }
    found.truncate(wanted.count);
    let slow = |op: &OpSpan| trace.slowest.iter().find(|(other, _)| other == op);
    // The ring of requests may have turned where that of operations has not.
    let whole = |op: &OpSpan, kept: Option<&Vec<RequestSpan>>| {
        let found = of(op);
        let kept = kept.or_else(|| slow(op).map(|(_, requests)| requests));
        match kept {
            Some(kept) if kept.len() > found.len() => kept.clone(),
            _ => found,
        }
    };
    found.into_iter().map(|(op, kept)| (op, whole(&op, kept))).collect()
}

#[cfg(test)]
mod tests;
