//! `weft node status` and `weft fs df`.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use weft_wire::Ino;
use weft_wire::meta::{MetaReply, MetaRequest};
use weft_wire::scrub::TargetState;

use super::shards::Shards;
use super::target::ailing_text;
use crate::cli::ServerArgs;
use crate::error::AdminError;
use crate::locate::{self, Server};
use crate::output::Align::{Left, Right};
use crate::output::{Outcome, Report, Table};
use crate::units::{human_bytes, percent};

pub(super) fn status(args: &ServerArgs, timeout: Duration) -> Result<Report, AdminError> {
    status_of(&locate::server(args)?, timeout)
}

fn status_of(server: &Server, timeout: Duration) -> Result<Report, AdminError> {
    let mut shards = Shards::open(&server.address, &server.session(timeout))?;
    let mut table = Table::new(&[
        ("NODE", Left),
        ("SHARD", Right),
        ("EPOCH", Right),
        ("CREDITS", Right),
        ("TARGETS", Left),
        ("VOLUMES", Left),
        ("STATE", Left),
    ]);
    let (mut rows, mut cluster, mut wire) = (Vec::new(), None, None);
    let (mut good, mut bad, mut ailing) = (0, 0, Vec::new());
    for (name, place) in shards.places() {
        let ids = |list: Vec<u16>| list.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let targets: Vec<u16> =
            shards.map.targets.iter().filter(|(_, at)| *at == place).map(|(id, _)| id.0).collect();
        let volumes: Vec<u16> =
            shards.map.volumes.iter().filter(|(_, at)| *at == place).map(|(id, _)| id.0).collect();
        let mut row =
            json!({ "node": name, "shard": place.shard.0, "targets": targets, "volumes": volumes });
        let asked =
            shards.at(place).and_then(|shard| Ok((*shard.welcome(), shard.target_health()?)));
        let (epoch, credits, state) = match asked {
            Ok((welcome, health)) => {
                ailing.extend(health.into_iter().filter(|one| one.state != TargetState::Online));
                (cluster, wire) = (Some(welcome.cluster), Some(welcome.version));
                good += 1;
                row["epoch"] = welcome.epoch.into();
                row["credits"] = welcome.credits.into();
                (welcome.epoch.to_string(), welcome.credits.to_string(), "up".to_owned())
            }
            Err(error) => {
                bad += 1;
                row["error"] = error.why().into();
                ("-".to_owned(), "-".to_owned(), error.why())
            }
        };
        row["up"] = (state == "up").into();
        let shard = place.shard.to_string();
        table.row([name, shard, epoch, credits, ids(targets), ids(volumes), state]);
        rows.push(row);
    }
    shards.close();
    let cluster = cluster.map_or("-".to_owned(), |id| id.to_string());
    let wire_text = wire.map_or("-".to_owned(), |version| version.to_string());
    let mut text = format!(
        "server   {}\ncluster  {cluster}\nwire     version {wire_text}\n\n{}",
        server.address,
        table.render()
    );
    ailing.iter().for_each(|one| text.push_str(&format!("{}\n", ailing_text(one))));
    let json = json!({
        "server": server.address, "cluster": cluster, "wire_version": wire, "shards": rows,
    });
    Ok(Report { outcome: Outcome::of_parts(good, bad), text, json })
}

pub(super) fn df(
    path: Option<&Path>,
    args: &ServerArgs,
    timeout: Duration,
) -> Result<Report, AdminError> {
    let server = match path {
        Some(path) => locate::mounted(path, args.server.as_deref(), timeout)?.server,
        None => locate::server(args)?,
    };
    df_of(&server, timeout)
}

fn df_of(server: &Server, timeout: Duration) -> Result<Report, AdminError> {
    let mut shards = Shards::open(&server.address, &server.session(timeout))?;
    let MetaReply::StatFs(fs) = shards.meta(Ino::ROOT, &MetaRequest::StatFs)? else {
        return Err(shards.misfit("space"));
    };
    shards.close();
    let used_bytes = fs.total_bytes.saturating_sub(fs.free_bytes);
    let columns = [("SERVER", Left), ("SIZE", Right), ("USED", Right), ("FREE", Right)];
    let columns =
        columns.into_iter().chain([("USE", Right), ("INODES", Right), ("INODES FREE", Right)]);
    let mut table = Table::new(&columns.collect::<Vec<_>>());
    table.row([
        server.address.clone(),
        human_bytes(fs.total_bytes),
        human_bytes(used_bytes),
        human_bytes(fs.free_bytes),
        percent(used_bytes, fs.total_bytes),
        fs.inodes.to_string(),
        fs.inodes_free.to_string(),
    ]);
    let json = json!({
        "server": server.address,
        "total_bytes": fs.total_bytes, "used_bytes": used_bytes, "free_bytes": fs.free_bytes,
        "inodes": fs.inodes, "inodes_free": fs.inodes_free,
    });
    Ok(Report::done(table.render(), json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CLUSTER, Manner, serve};

    fn server(manner: Manner) -> ServerArgs {
        ServerArgs { server: Some(serve(manner).0), config: None }
    }

    const TIMEOUT: Duration = Duration::from_secs(5);

    #[test]
    fn a_node_shows_its_shards() {
        let report = status(&server(Manner::Good), TIMEOUT).expect("good");
        assert_eq!(report.outcome, Outcome::Done);
        assert_eq!(report.json["cluster"], CLUSTER.to_string());
        assert_eq!(report.json["shards"][1]["targets"], json!([2]));
        assert!(
            report.text.contains("n1        1     77      128  2                 up"),
            "{}",
            report.text
        );
    }

    #[test]
    fn a_shard_that_refuses_makes_it_partial() {
        let report = status(&server(Manner::OneShardDown), TIMEOUT).expect("good");
        assert_eq!(report.outcome, Outcome::Partial);
        assert_eq!(report.json["shards"][1]["up"], false);
    }

    #[test]
    fn df_adds_up() {
        let report = df(None, &server(Manner::Good), TIMEOUT).expect("good");
        assert_eq!(report.json["used_bytes"], 2u64 << 30);
        assert!(report.text.contains("8 GiB  2 GiB  6 GiB  25%"), "{}", report.text);
    }
}
