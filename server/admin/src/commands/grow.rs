//! `weft target grow`.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use weft_wire::session::TargetInfo;
use weft_wire::{Status, TargetId};

use super::shards::Shards;
use crate::cli::ServerArgs;
use crate::client::{ClientError, ClientErrorKind, Connection, Session};
use crate::error::AdminError;
use crate::locate;
use crate::output::Report;
use crate::units::human_bytes;

pub(super) fn run(
    target: &str,
    args: &ServerArgs,
    timeout: Duration,
) -> Result<Report, AdminError> {
    let server = locate::server(args)?;
    let session: Session = server.session(timeout);
    let mut shards = Shards::open(&server.address, &session)?;
    let what = format!("grow target {target}");
    let id = find(&mut shards, target)?;
    let place = id.and_then(|id| shards.place_of_target(id).map(|place| (id, place)));
    let Some((id, place)) = place else {
        let why = format!("the cluster of {} has no such target", server.address);
        return Err(AdminError::new(what, why, "see weft target list for ids and paths"));
    };
    let grown = shards.at(place)?.grow(id).map_err(|error| explain(&what, error))?;
    shards.close();
    let (before, now) = (grown.before_bytes, grown.capacity_bytes);
    let text = match before == now {
        true => format!(
            "target {id} uses all of its device already ({}, {now} bytes)\n\
             next: make the device or file longer, then run this again\n",
            human_bytes(now)
        ),
        false => format!("target {id} grew from {} to {}\n", human_bytes(before), human_bytes(now)),
    };
    let json = json!({ "id": id.0, "before_bytes": before, "capacity_bytes": now });
    Ok(Report::done(text, json))
}

/// The target meant by an id or a path.
fn find(shards: &mut Shards, target: &str) -> Result<Option<TargetId>, AdminError> {
    if let Ok(id) = target.parse() {
        return Ok(Some(TargetId(id)));
    }
    let path = std::path::absolute(target).unwrap_or_else(|_| target.into());
    let is_meant = |info: &TargetInfo| info.path == target || Path::new(&info.path) == path;
    for (_, place) in shards.places() {
        let targets = shards.at(place).and_then(Connection::target_list)?;
        if let Some(info) = targets.iter().find(|info| is_meant(info)) {
            return Ok(Some(info.id));
        }
    }
    Ok(None)
}

fn explain(what: &str, error: ClientError) -> AdminError {
    let (why, next) = match error.kind {
        ClientErrorKind::Refused(Status::Invalid) => {
            ("its device is shorter than the target is", "targets do not shrink; see the device")
        }
        ClientErrorKind::Refused(Status::NoSpace) => (
            "that is more than 64 times what its index was opened for",
            "restart the server, then run this again",
        ),
        ClientErrorKind::Refused(Status::TooBig) => (
            "its map of free blocks would take more than half of its memory for chunk records",
            "raise memory_mib in the node's configuration, restart the server, then run this again",
        ),
        ClientErrorKind::Refused(Status::ReadOnly) => {
            ("it is read-only after an error of its device", "see the server's log")
        }
        _ => return error.into(),
    };
    AdminError::new(what, why, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Manner, serve};

    fn grow(target: &str) -> Result<Report, AdminError> {
        let args = ServerArgs { server: Some(serve(Manner::Good).0), config: None };
        run(target, &args, Duration::from_secs(5))
    }

    #[test]
    fn a_target_is_named_by_id_or_path() {
        for target in ["1", "/dev/nvme0n1"] {
            let report = grow(target).expect("good");
            assert_eq!(report.text, "target 1 grew from 4 GiB to 5 GiB\n");
            assert_eq!(report.json["capacity_bytes"], 5u64 << 30);
        }
        for target in ["7", "/dev/nvme7n1", "none"] {
            let error = grow(target).expect_err(target).to_string();
            assert!(error.contains("no such target") && error.contains("next: "), "{error}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let error = grow("/dev/nvme1n1").expect_err("refused").to_string();
        assert!(error.contains("shorter") && error.contains("next: "), "{error}");
    }
}
