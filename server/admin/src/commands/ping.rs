//! `weft ping`: every step from the config to a read on each target, each with its time. The first thing to run when
//! something does not work: it says which step failed and what to do.

use std::time::Duration;

use serde_json::json;
use weft_wire::data::ChunkRange;
use weft_wire::meta::{MetaReply, MetaRequest};
use weft_wire::session::Place;
use weft_wire::{ChunkId, ChunkIndex, Ino, ShardId, TargetId};

use super::shards::Shards;
use crate::cli::ServerArgs;
use crate::client::{self, Connection};
use crate::clock;
use crate::error::AdminError;
use crate::locate::{self, Server};
use crate::output::Align::{Left, Right};
use crate::output::{Outcome, Report, Table};

/// What a failed step means for the whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Weight {
    /// Nothing works without it.
    Whole,
    /// One of several alike: a shard, a target.
    Part,
}

#[derive(Debug)]
struct Step {
    name: String,
    weight: Weight,
    micros: u64,
    result: Result<String, AdminError>,
}

#[derive(Debug, Default)]
struct Walk {
    steps: Vec<Step>,
}

pub(super) fn run(args: &ServerArgs, timeout: Duration) -> Result<Report, AdminError> {
    let mut walk = Walk::default();
    let found = walk.step("config", Weight::Whole, || {
        let server = locate::server(args)?;
        let said = match &server.located {
            Some(located) => format!("{}", located.file.display()),
            None => "none: any cluster at this address will do".to_owned(),
        };
        Ok((server, said))
    });
    let address = found.as_ref().map_or(String::new(), |server| server.address.clone());
    if let Some(server) = found {
        walk.machine(&server);
        walk.network(&server, timeout);
    }
    Ok(walk.report(&address))
}

impl Walk {
    /// Takes the time of `body` and notes how it went. Gives what it made.
    fn step<T>(
        &mut self,
        name: impl Into<String>,
        weight: Weight,
        body: impl FnOnce() -> Result<(T, String), AdminError>,
    ) -> Option<T> {
        let start = clock::now();
        let (made, result) = match body() {
            Ok((made, said)) => (Some(made), Ok(said)),
            Err(error) => (None, Err(error)),
        };
        let micros = clock::micros(start, clock::now());
        self.steps.push(Step { name: name.into(), weight, micros, result });
        made
    }

    fn machine(&mut self, server: &Server) {
        let Some(located) = &server.located else { return };
        self.step("paths, cores, memory", Weight::Whole, || {
            let checked = located.config.check();
            let warnings = checked.map_err(|e| AdminError::config(&located.file, &e))?;
            let said = match warnings.as_slice() {
                [] => "good".to_owned(),
                warnings => format!("good, but: {}", warnings.join("; ")),
            };
            Ok(((), said))
        });
    }

    fn network(&mut self, server: &Server, timeout: Duration) {
        let session = server.session(timeout);
        let address = server.address.as_str();
        let Some(addresses) = self.step(format!("resolve {address}"), Weight::Whole, || {
            let addresses = client::resolve(address)?;
            let said = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Ok((addresses, said))
        }) else {
            return;
        };
        let Some(stream) = self.step("TCP connect", Weight::Whole, || {
            let stream = client::connect(address, &addresses, timeout)?;
            let peer = stream.peer_addr().map_or(address.to_owned(), |peer| peer.to_string());
            Ok((stream, peer))
        }) else {
            return;
        };
        let Some(mut first) = self.step("hello, shard 0", Weight::Whole, || {
            let connection = Connection::hello(stream, address, &session, ShardId(0))?;
            let said = said_hello(&connection);
            Ok((connection, said))
        }) else {
            return;
        };
        let Some(map) = self.step("cluster map", Weight::Whole, || {
            let map = first.cluster_map()?;
            let (nodes, targets) = (map.nodes.len(), map.targets.len());
            let said =
                format!("nodes: {nodes}, targets: {targets}, volumes: {}", map.volumes.len());
            Ok((map, said))
        }) else {
            return;
        };
        let mut shards = Shards::with_map(address, &session, map, first);
        self.shards(&mut shards);
        self.root(&mut shards);
        self.targets(&mut shards);
        shards.close();
    }

    /// Hello and target list of each shard.
    fn shards(&mut self, shards: &mut Shards) {
        for (node, place) in shards.places() {
            let shard = format!("{node} shard {}", place.shard);
            if !shards.is_open(place) {
                let up = self.step(format!("hello, {shard}"), Weight::Part, || {
                    let connection = shards.at(place)?;
                    Ok(((), said_hello(connection)))
                });
                if up.is_none() {
                    continue;
                }
            }
            self.step(format!("target list, {shard}"), Weight::Part, || {
                let list = attempt(shards, place, Connection::target_list)?;
                let ids: Vec<String> = list.iter().map(|target| target.id.to_string()).collect();
                let damaged: u64 = list.iter().map(|target| target.damaged_blocks).sum();
                let said = match (ids.is_empty(), damaged) {
                    (true, _) => "none".to_owned(),
                    (false, 0) => format!("targets {}", ids.join(", ")),
                    (false, _) => {
                        format!(
                            "targets {}; {damaged} damaged blocks: see `weft target list`",
                            ids.join(", ")
                        )
                    }
                };
                Ok(((), said))
            });
        }
    }

    fn root(&mut self, shards: &mut Shards) {
        self.step("root attributes", Weight::Whole, || {
            match shards.meta(Ino::ROOT, &MetaRequest::GetAttr { ino: Ino::ROOT })? {
                MetaReply::Attr(attr) => {
                    Ok(((), format!("mode {:o}, entries {}", attr.mode, attr.size)))
                }
                _ => Err(shards.misfit("attributes")),
            }
        });
    }

    /// A read of a chunk that no file has: it goes all the way to the store and finds a hole.
    fn targets(&mut self, shards: &mut Shards) {
        let targets: Vec<(TargetId, Place)> = shards.map.targets.clone();
        for (target, place) in targets {
            self.step(format!("read, target {target}"), Weight::Part, || {
                let chunk = ChunkId { ino: Ino::ROOT, index: ChunkIndex(0) };
                let range = ChunkRange { chunk, offset: 0, bytes: 4096 };
                let count = attempt(shards, place, |connection| connection.read(target, range))?;
                Ok(((), format!("answered, {count} blocks")))
            });
        }
        if shards.map.targets.is_empty() {
            self.step("read", Weight::Whole, || -> Result<((), String), AdminError> {
                let next = "add targets to the config, `weft fs create`, restart the server";
                Err(AdminError::new("find a target", "the cluster map has none", next))
            });
        }
    }

    fn outcome(&self) -> Outcome {
        let failed = |weight| {
            self.steps.iter().filter(|step| step.weight == weight && step.result.is_err()).count()
        };
        if failed(Weight::Whole) > 0 {
            return Outcome::Failed;
        }
        let parts = self.steps.iter().filter(|step| step.weight == Weight::Part).count();
        let bad = failed(Weight::Part);
        Outcome::of_parts(parts - bad, bad)
    }

    fn report(&self, address: &str) -> Report {
        let mut table = Table::new(&[("STEP", Left), ("", Left), ("TIME", Right), ("", Left)]);
        let mut advice = String::new();
        for step in &self.steps {
            let (state, said) = match &step.result {
                Ok(said) => ("ok", said.clone()),
                Err(error) => ("FAILED", error.why.clone()),
            };
            let time = format!("{} us", step.micros);
            table.row([step.name.clone(), state.to_owned(), time, said]);
            if let Err(error) = &step.result {
                advice.push_str(&format!("{} failed: {error}\n", step.name));
            }
        }
        let outcome = self.outcome();
        let last = match outcome {
            Outcome::Done => "all steps worked\n".to_owned(),
            Outcome::Failed | Outcome::Partial | Outcome::Unsound => advice,
        };
        let steps: Vec<_> = self.steps.iter().map(Step::to_json).collect();
        let json = json!({ "server": address, "steps": steps });
        Report { outcome, text: format!("{}\n{last}", table.render()), json }
    }
}

impl Step {
    fn to_json(&self) -> serde_json::Value {
        let ok = self.result.is_ok();
        let mut json = json!({ "step": self.name, "ok": ok, "time_us": self.micros });
        match &self.result {
            Ok(said) => json["detail"] = said.as_str().into(),
            Err(error) => {
                json["detail"] = error.why.as_str().into();
                json["next"] = error.next.as_str().into();
            }
        }
        json
    }
}

fn said_hello(connection: &Connection) -> String {
    let welcome = connection.welcome();
    format!(
        "cluster {}, wire version {}, epoch {}, {} shards",
        welcome.cluster, welcome.version, welcome.epoch, welcome.shard_count
    )
}

/// A request to a shard; a connection it failed on is not used again.
fn attempt<T>(
    shards: &mut Shards,
    place: Place,
    request: impl FnOnce(&mut Connection) -> Result<T, client::ClientError>,
) -> Result<T, AdminError> {
    let result = shards.at(place).and_then(request);
    if let Err(error) = &result
        && !matches!(error.kind, client::ClientErrorKind::Refused(_))
    {
        shards.forget(place);
    }
    Ok(result?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Manner, serve};

    fn ping(manner: Manner, timeout_ms: u64) -> Report {
        let args = ServerArgs { server: Some(serve(manner).0), config: None };
        run(&args, Duration::from_millis(timeout_ms)).expect("a report")
    }

    fn states(report: &Report) -> Vec<(String, bool)> {
        let steps = report.json["steps"].as_array().expect("a list");
        steps
            .iter()
            .map(|step| {
                let name = step["step"].as_str().expect("a name").to_owned();
                assert!(step["time_us"].is_u64());
                (name, step["ok"].as_bool().expect("a flag"))
            })
            .collect()
    }

    #[test]
    fn a_good_server_passes_every_step() {
        let report = ping(Manner::Good, 5000);
        assert_eq!(report.outcome, Outcome::Done, "{}", report.text);
        let names: Vec<String> = states(&report).into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names[2..].join("; "),
            "TCP connect; hello, shard 0; cluster map; \
            target list, n1 shard 0; hello, n1 shard 1; target list, n1 shard 1; \
            root attributes; read, target 1; read, target 2"
        );
        assert!(report.text.ends_with("all steps worked\n"), "{}", report.text);
    }

    #[test]
    fn a_server_that_is_none_fails_at_the_hello() {
        for (manner, timeout_ms) in
            [(Manner::Garbage, 5000), (Manner::Silent, 150), (Manner::HangUp, 5000)]
        {
            let report = ping(manner, timeout_ms);
            assert_eq!(report.outcome, Outcome::Failed, "{manner:?}");
            let last = states(&report).pop().expect("steps");
            assert_eq!(last, ("hello, shard 0".to_owned(), false), "{manner:?}");
            assert!(report.text.contains("next: "), "{}", report.text);
        }
    }

    #[test]
    fn one_bad_shard_or_target_is_partial() {
        for (manner, step) in
            [(Manner::OneShardDown, "hello, n1 shard 1"), (Manner::OneTargetDown, "read, target 2")]
        {
            let report = ping(manner, 5000);
            assert_eq!(report.outcome, Outcome::Partial, "{manner:?}: {}", report.text);
            assert!(states(&report).contains(&(step.to_owned(), false)), "{manner:?}");
        }
    }

    #[test]
    fn no_server_fails_at_the_connect_and_says_what_to_do() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let args = ServerArgs { server: Some(address), config: None };
        let report = run(&args, Duration::from_secs(1)).expect("a report");
        assert_eq!(report.outcome, Outcome::Failed);
        assert_eq!(states(&report).pop(), Some(("TCP connect".to_owned(), false)));
        assert!(report.text.contains("is weft-server running"), "{}", report.text);
    }

    #[test]
    fn a_bad_config_is_the_first_step() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("weft.toml");
        std::fs::write(&file, "nothing = 1").expect("written");
        let args = ServerArgs { server: None, config: Some(file) };
        let report = run(&args, Duration::from_secs(1)).expect("a report");
        assert_eq!(states(&report), [("config".to_owned(), false)]);
        assert_eq!(report.outcome, Outcome::Failed);
    }
}
