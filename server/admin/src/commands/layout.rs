//! `weft fs layout`: striping of a file, and the policy of a directory.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use weft_wire::layout::LayoutPolicy;
use weft_wire::limits::{CHUNK_LOG2_MAX, CHUNK_LOG2_MIN};
use weft_wire::meta::{MetaReply, MetaRequest};
use weft_wire::{Ino, Layout};

use super::shards::Shards;
use crate::cli::LayoutSetArgs;
use crate::error::AdminError;
use crate::locate::{self, Server};
use crate::output::Report;
use crate::units::human_bytes;

pub(super) fn get(
    path: &Path,
    server: Option<&str>,
    timeout: Duration,
) -> Result<Report, AdminError> {
    let (_, server) = locate::mounted(path, server)?;
    let mut report = get_of(&server, ino_of(path)?, timeout)?;
    report.json["path"] = path.to_string_lossy().into();
    Ok(report)
}

fn get_of(server: &Server, ino: Ino, timeout: Duration) -> Result<Report, AdminError> {
    let mut shards = Shards::open(&server.address, &server.session(timeout))?;
    let report = match shards.meta(ino, &MetaRequest::GetLayout { ino })? {
        MetaReply::Policy(policy) => {
            let text = format!("new files here get: {}\n", policy_text(&policy));
            Report::done(text, json!({ "ino": ino.0, "policy": policy_json(&policy) }))
        }
        MetaReply::Layout(layout) => {
            let json = json!({ "ino": ino.0, "layout": layout_json(&layout) });
            Report::done(format!("{}\n", layout_text(&layout)), json)
        }
        _ => return Err(shards.misfit("layout")),
    };
    shards.close();
    Ok(report)
}

pub(super) fn set(args: &LayoutSetArgs, timeout: Duration) -> Result<Report, AdminError> {
    let chunk_log2 = args.stripe_unit.map(stripe_unit_log2).transpose()?;
    let (_, server) = locate::mounted(&args.path, args.server.as_deref())?;
    if !args.path.is_dir() {
        let why = "it is not a directory; a file's layout is fixed when it is made";
        let next = "set it on the directory, then copy the file";
        return Err(AdminError::new(
            format!("set the layout of {}", args.path.display()),
            why,
            next,
        ));
    }
    let mut report = set_of(&server, ino_of(&args.path)?, chunk_log2, args.width, timeout)?;
    report.json["path"] = args.path.to_string_lossy().into();
    Ok(report)
}

/// Changes what is given and keeps the rest.
fn set_of(
    server: &Server,
    ino: Ino,
    chunk_log2: Option<u8>,
    width: Option<u8>,
    timeout: Duration,
) -> Result<Report, AdminError> {
    let mut shards = Shards::open(&server.address, &server.session(timeout))?;
    let MetaReply::Policy(before) = shards.meta(ino, &MetaRequest::GetLayout { ino })? else {
        return Err(shards.misfit("layout"));
    };
    let policy = LayoutPolicy {
        chunk_log2: chunk_log2.unwrap_or(before.chunk_log2),
        width: width.unwrap_or(before.width),
    };
    let MetaReply::Done = shards.meta(ino, &MetaRequest::SetLayout { ino, policy })? else {
        return Err(shards.misfit("answer"));
    };
    shards.close();
    let text = format!(
        "new files here get: {}\nfiles that are there already keep theirs\n",
        policy_text(&policy)
    );
    let json =
        json!({ "ino": ino.0, "before": policy_json(&before), "policy": policy_json(&policy) });
    Ok(Report::done(text, json))
}

fn ino_of(path: &Path) -> Result<Ino, AdminError> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| AdminError::new(format!("stat {}", path.display()), error, ""))?;
    Ok(Ino(metadata.ino()))
}

fn stripe_unit_log2(bytes: u64) -> Result<u8, AdminError> {
    let log2 = u8::try_from(bytes.trailing_zeros()).unwrap_or(u8::MAX);
    if bytes.is_power_of_two() && (CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).contains(&log2) {
        return Ok(log2);
    }
    let allowed: Vec<String> =
        (CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).map(|log2| human_bytes(1 << log2)).collect();
    let why = format!("{} is not allowed; these are: {}", human_bytes(bytes), allowed.join(", "));
    Err(AdminError::new(format!("--stripe-unit {bytes}"), why, "take one of them"))
}

pub(super) fn policy_text(policy: &LayoutPolicy) -> String {
    let width = match policy.width {
        0 => "over all targets".to_owned(),
        1 => "on 1 target".to_owned(),
        width => format!("over {width} targets"),
    };
    format!("chunks of {} {width}", human_bytes(1 << policy.chunk_log2))
}

pub(super) fn policy_json(policy: &LayoutPolicy) -> Value {
    json!({ "stripe_unit_bytes": 1u64 << policy.chunk_log2, "width": policy.width })
}

pub(super) fn layout_text(layout: &Layout) -> String {
    let targets: Vec<String> = layout.targets().iter().map(ToString::to_string).collect();
    let chunk = human_bytes(u64::from(layout.chunk_bytes()));
    format!("chunks of {chunk} over targets {}", targets.join(", "))
}

pub(super) fn layout_json(layout: &Layout) -> Value {
    let targets: Vec<u16> = layout.targets().iter().map(|target| target.0).collect();
    json!({ "stripe_unit_bytes": layout.chunk_bytes(), "targets": targets })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ServerArgs;
    use crate::testing::{Manner, serve};

    #[test]
    fn stripe_units_are_powers_of_two_within_the_limits() {
        assert_eq!(stripe_unit_log2(64 << 10), Ok(16));
        assert_eq!(stripe_unit_log2(4 << 20), Ok(22));
        for bytes in [0, 1, 32 << 10, 96 << 10, 8 << 20, u64::MAX] {
            let error = stripe_unit_log2(bytes).expect_err("refused").to_string();
            assert!(error.contains("64 KiB, 128 KiB"), "{error}");
        }
    }

    #[test]
    fn a_change_keeps_what_is_not_given() {
        let (address, changes) = serve(Manner::Good);
        let args = ServerArgs { server: Some(address), config: None };
        let server = locate::server(&args).expect("named");
        let timeout = Duration::from_secs(5);
        set_of(&server, Ino::ROOT, Some(17), None, timeout).expect("set");
        set_of(&server, Ino::ROOT, None, Some(3), timeout).expect("set");
        let policies: Vec<LayoutPolicy> =
            changes.lock().expect("no panic").iter().map(|(_, policy)| *policy).collect();
        assert_eq!(
            policies,
            [LayoutPolicy { chunk_log2: 17, width: 0 }, LayoutPolicy { chunk_log2: 20, width: 3 }]
        );
        assert!(set_of(&server, Ino(5), Some(17), None, timeout).is_err(), "a file has no policy");
    }

    #[test]
    fn files_and_directories_are_shown() {
        let (address, _) = serve(Manner::Good);
        let args = ServerArgs { server: Some(address), config: None };
        let server = locate::server(&args).expect("named");
        let file = get_of(&server, Ino(5), Duration::from_secs(5)).expect("shown");
        assert_eq!(file.text, "chunks of 1 MiB over targets 1, 2\n");
        let dir = get_of(&server, Ino::ROOT, Duration::from_secs(5)).expect("shown");
        assert_eq!(dir.text, "new files here get: chunks of 1 MiB over all targets\n");
    }
}
