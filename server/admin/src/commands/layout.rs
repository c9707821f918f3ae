//! `weft fs layout`: striping of a file, and the policy of a directory.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use weft_wire::layout::LayoutPolicy;
use weft_wire::limits::{CHUNK_LOG2_MAX, CHUNK_LOG2_MIN};
use weft_wire::meta::{Inline, MetaReply, MetaRequest};
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
    let found = locate::mounted(path, server, timeout)?;
    let mut report = get_of(&found.server, found.ino(), timeout)?;
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
            let mut report = Report::done(format!("{}\n", layout_text(&layout)), json);
            if let Some(inline) = shards.inline_of(ino)? {
                report.text.push_str(&inline_text(&inline));
                report.json["inline"] = inline_json(&inline);
            }
            report
        }
        _ => return Err(shards.misfit("layout")),
    };
    shards.close();
    Ok(report)
}

pub(super) fn set(args: &LayoutSetArgs, timeout: Duration) -> Result<Report, AdminError> {
    let chunk_log2 = args.stripe_unit.map(stripe_unit_log2).transpose()?;
    let found = locate::mounted(&args.path, args.server.as_deref(), timeout)?;
    if !found.metadata.is_dir() {
        let why = "it is not a directory; a file's layout is fixed when it is made";
        let next = "set it on the directory, then copy the file";
        return Err(AdminError::new(
            format!("set the layout of {}", args.path.display()),
            why,
            next,
        ));
    }
    let wanted = Wanted { chunk_log2, width: args.width, inline_bytes: args.inline };
    let mut report = set_of(&found.server, found.ino(), wanted, timeout)?;
    report.json["path"] = args.path.to_string_lossy().into();
    Ok(report)
}

/// What is given of a policy.
#[derive(Clone, Copy, Default)]
struct Wanted {
    chunk_log2: Option<u8>,
    width: Option<u8>,
    inline_bytes: Option<u16>,
}

/// Changes what is given and keeps the rest.
fn set_of(
    server: &Server,
    ino: Ino,
    wanted: Wanted,
    timeout: Duration,
) -> Result<Report, AdminError> {
    let mut shards = Shards::open(&server.address, &server.session(timeout))?;
    if wanted.inline_bytes.is_some() && !shards.knows_inline(ino)? {
        let why = "it is of an older version, which has no data of files with the names";
        let next = "upgrade the servers first";
        return Err(AdminError::new(format!("set --inline at {}", server.address), why, next));
    }
    let MetaReply::Policy(before) = shards.meta(ino, &MetaRequest::GetLayout { ino })? else {
        return Err(shards.misfit("layout"));
    };
    let policy = LayoutPolicy {
        chunk_log2: wanted.chunk_log2.unwrap_or(before.chunk_log2),
        width: wanted.width.unwrap_or(before.width),
        inline_bytes: wanted.inline_bytes.unwrap_or(before.inline_bytes),
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
    let inline = match policy.inline_bytes {
        0 => "small files too".to_owned(),
        bytes => format!("files of up to {} with the names", human_bytes(bytes.into())),
    };
    format!("chunks of {} {width}, {inline}", human_bytes(1 << policy.chunk_log2))
}

/// A file whose data is in its inode: its layout is that of the day when it outgrows that.
pub(super) fn inline_text(inline: &Inline) -> String {
    let bytes_max = human_bytes(inline.bytes_max.into());
    let bytes = inline.data.as_ref().map_or(0, Vec::len);
    format!("its {bytes} bytes are with the names until it is longer than {bytes_max}\n")
}

pub(super) fn inline_json(inline: &Inline) -> Value {
    json!({ "bytes": inline.data.as_ref().map(Vec::len), "bytes_max": inline.bytes_max })
}

pub(super) fn policy_json(policy: &LayoutPolicy) -> Value {
    json!({
        "stripe_unit_bytes": 1u64 << policy.chunk_log2,
        "width": policy.width,
        "inline_bytes": policy.inline_bytes,
    })
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
        let chunk = Wanted { chunk_log2: Some(17), ..Wanted::default() };
        set_of(&server, Ino::ROOT, chunk, timeout).expect("set");
        let width = Wanted { width: Some(3), ..Wanted::default() };
        set_of(&server, Ino::ROOT, width, timeout).expect("set");
        let inline = |bytes| Wanted { inline_bytes: Some(bytes), ..Wanted::default() };
        let off = set_of(&server, Ino::ROOT, inline(0), timeout).expect("set");
        assert!(off.text.contains("chunks of 1 MiB over all targets, small files too\n"));
        assert_eq!(off.json["policy"]["inline_bytes"], 0);
        set_of(&server, Ino::ROOT, inline(100), timeout).expect("set");
        let policies: Vec<LayoutPolicy> =
            changes.lock().expect("no panic").iter().map(|(_, policy)| *policy).collect();
        assert_eq!(
            policies,
            [
                LayoutPolicy { chunk_log2: 17, ..LayoutPolicy::default() },
                LayoutPolicy { width: 3, ..LayoutPolicy::default() },
                LayoutPolicy { inline_bytes: 0, ..LayoutPolicy::default() },
                LayoutPolicy { inline_bytes: 100, ..LayoutPolicy::default() },
            ]
        );
        assert!(set_of(&server, Ino(5), chunk, timeout).is_err(), "a file has no policy");
    }

    /// One of an older version would hang up on what it cannot read.
    #[test]
    fn a_server_that_knows_no_data_in_inodes_is_not_asked_for_any() {
        let (address, changes) = serve(Manner::Older);
        let args = ServerArgs { server: Some(address), config: None };
        let server = locate::server(&args).expect("named");
        let timeout = Duration::from_secs(5);
        let inline = Wanted { inline_bytes: Some(0), ..Wanted::default() };
        let error = set_of(&server, Ino::ROOT, inline, timeout).expect_err("refused").to_string();
        assert!(error.contains("older version") && error.contains("upgrade"), "{error}");
        assert!(changes.lock().expect("no panic").is_empty());
        let width = Wanted { width: Some(3), ..Wanted::default() };
        set_of(&server, Ino::ROOT, width, timeout).expect("what it knows is set");
        let file = get_of(&server, Ino(7), timeout).expect("shown");
        assert_eq!(file.text, "chunks of 1 MiB over targets 1, 2\n");
    }

    #[test]
    fn files_and_directories_are_shown() {
        let (address, _) = serve(Manner::Good);
        let args = ServerArgs { server: Some(address), config: None };
        let server = locate::server(&args).expect("named");
        let file = get_of(&server, Ino(5), Duration::from_secs(5)).expect("shown");
        assert_eq!(file.text, "chunks of 1 MiB over targets 1, 2\n");
        let dir = get_of(&server, Ino::ROOT, Duration::from_secs(5)).expect("shown");
        let policy = "chunks of 1 MiB over all targets, files of up to 4 KiB with the names";
        assert_eq!(dir.text, format!("new files here get: {policy}\n"));
        let small = get_of(&server, Ino(7), Duration::from_secs(5)).expect("shown");
        let place = "its 4 bytes are with the names until it is longer than 4 KiB\n";
        assert_eq!(small.text, format!("chunks of 1 MiB over targets 1, 2\n{place}"));
        assert_eq!(small.json["inline"]["bytes"], 4);
    }
}
