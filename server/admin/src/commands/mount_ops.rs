//! `weft mount ops`: what programs ask of the mounts of this machine now.
//!
//! Read from the memory that the supervisor keeps for its client-cores, so it also works while the client-core hangs or
//! is dead.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde_json::json;
use weft_client_core::keep::read_ops;
use weft_client_core::records::OpRecord;

use crate::clock;
use crate::error::AdminError;
use crate::mounts::{self, Client, Mount};
use crate::output::Align::{Left, Right};
use crate::output::{Report, Table};

pub(super) fn run(mount_point: Option<&Path>) -> Result<Report, AdminError> {
    let of = match mount_point {
        Some(path) => vec![mounts::at(path)?],
        None => mounts::all()?.into_iter().filter(|mount| mount.is_weft).collect(),
    };
    let mut table = Table::new(&[
        ("MOUNT POINT", Left),
        ("OPERATION", Left),
        ("INODE", Right),
        ("PID", Right),
        ("STATE", Left),
        ("IN IT S", Right),
        ("ASKED S AGO", Right),
        ("WAITS FOR", Left),
    ]);
    let mut rows = Vec::new();
    for mount in of {
        let ops = ops_of(&mount);
        if mount_point.is_none() && ops.is_err() {
            continue; // of another user, or dead: asked for by name it is an error
        }
        let mut ops = ops?;
        ops.sort_by_key(|op| op.since_ms);
        for op in ops {
            let ago = |since_ms| clock::machine_ms().saturating_sub(since_ms) / 1000;
            let (state_seconds, seconds) = (ago(op.state_since_ms), ago(op.since_ms));
            let point = mount.mount_point.to_string_lossy().into_owned();
            rows.push(json!({
                "mount_point": point,
                "id": op.op,
                "operation": op.what,
                "inode": op.ino.0,
                "pid": op.pid,
                "state": op.state.as_str(),
                "state_seconds": state_seconds,
                "seconds": seconds,
                "waits_for": op.waits_for,
            }));
            let (ino, pid) = (format!("{:x}", op.ino.0), op.pid.to_string());
            let state = op.state.as_str().to_owned();
            let (in_it, asked) = (state_seconds.to_string(), seconds.to_string());
            table.row([point, op.what, ino, pid, state, in_it, asked, op.waits_for]);
        }
    }
    let text = match rows.is_empty() {
        true => "no operation is in progress\n".to_owned(),
        false => table.render(),
    };
    Ok(Report::done(text, json!({ "ops": rows })))
}

fn ops_of(mount: &Mount) -> Result<Vec<OpRecord>, AdminError> {
    let what = || format!("operations of {}", mount.mount_point.display());
    let Client { supervisor, core } = mounts::client(mount);
    let memory = supervisor.and_then(mounts::kept_memory);
    let Some(memory) = memory else {
        let next = "run it as root on the machine with the mount; is its supervisor dead?";
        return Err(AdminError::new(what(), "its supervisor cannot be looked into", next));
    };
    let read = |at: u64, bytes: &mut [u8]| memory.read_exact_at(bytes, at);
    let ops = read_ops(read).map_err(|error| AdminError::new(what(), error, ""))?;
    Ok(if core.is_some() { ops } else { ops.into_iter().map(OpRecord::without_core).collect() })
}
