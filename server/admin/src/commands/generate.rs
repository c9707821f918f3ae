//! `weft gen`: a config with a fresh cluster id, for this machine.

use std::path::{Path, PathBuf};

use serde_json::json;
use weft_server_core::config::{Config, NODE_NAME_BYTES_MAX, SHARD_MEMORY_MIB_MIN};
use weft_wire::ClusterId;

use crate::cli::GenArgs;
use crate::error::AdminError;
use crate::output::Report;

/// Targets made when none are named.
const TARGET_COUNT_DEFAULT: usize = 2;

pub(super) fn run(args: &GenArgs) -> Result<Report, AdminError> {
    let config = build(args)?;
    let text = config.generate();
    // What is printed must be what a server takes: the same checks, on the same text.
    let parsed = Config::parse(&text, Path::new("/"))
        .map_err(|error| AdminError::new("make a config", error, "give another value"))?;
    let json = json!({
        "config": text,
        "cluster": parsed.cluster.to_string(),
        "node": parsed.node,
        "listen": parsed.listen,
    });
    Ok(Report::done(text, json))
}

fn build(args: &GenArgs) -> Result<Config, AdminError> {
    let dir = std::path::absolute(&args.dir).map_err(|error| {
        AdminError::new(format!("find {}", args.dir.display()), error, "give a whole path")
    })?;
    let targets = match args.targets.as_slice() {
        [] => (0..TARGET_COUNT_DEFAULT).map(|index| dir.join(format!("target{index}"))).collect(),
        targets => targets.iter().map(absolute).collect::<Result<Vec<PathBuf>, AdminError>>()?,
    };
    for path in targets.iter().chain([&dir]) {
        if path.to_str().is_none() {
            let what = format!("write the path {}", path.display());
            return Err(AdminError::new(what, "a config holds UTF-8 only", "use another path"));
        }
    }
    let cluster = args.cluster.unwrap_or_else(|| ClusterId(uuid::Uuid::new_v4().into_bytes()));
    let node = args.node.clone().unwrap_or_else(host_name);
    let mut config = Config::new(cluster, &node, dir.join("state"), targets);
    if let Some(listen) = &args.listen {
        config.listen.clone_from(listen);
    }
    config.cores = match args.cores.as_slice() {
        [] => default_cores(config.targets.len()),
        cores => cores.to_vec(),
    };
    let shard_count = u32::try_from(config.cores.len()).unwrap_or(u32::MAX);
    let needed = SHARD_MEMORY_MIB_MIN.saturating_mul(shard_count);
    config.memory_mib = args.memory_mib.unwrap_or(config.memory_mib.max(needed));
    Ok(config)
}

fn absolute(path: &PathBuf) -> Result<PathBuf, AdminError> {
    std::path::absolute(path)
        .map_err(|error| AdminError::new(format!("find {}", path.display()), error, ""))
}

/// As many of this process's cores as there are targets: a shard without a target carries no data.
fn default_cores(target_count: usize) -> Vec<u16> {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return vec![0] };
    let cores: Vec<u16> = (0..1024u16)
        .filter(|core| allowed.is_set(usize::from(*core)))
        .take(target_count.max(1))
        .collect();
    if cores.is_empty() { vec![0] } else { cores }
}

/// The host's name as far as a node's name may have its letters.
fn host_name() -> String {
    let host = rustix::system::uname();
    let host: String = host
        .nodename()
        .to_string_lossy()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .take(NODE_NAME_BYTES_MAX)
        .collect();
    if host.is_empty() { "node1".to_owned() } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &str) -> GenArgs {
        GenArgs {
            dir: dir.into(),
            node: None,
            listen: None,
            targets: Vec::new(),
            cores: Vec::new(),
            memory_mib: None,
            cluster: None,
        }
    }

    #[test]
    fn the_printed_config_is_one_a_server_takes() {
        let report = run(&args("/srv/weft")).expect("good");
        assert!(report.text.lines().count() <= 15, "{}", report.text);
        let config = Config::parse(&report.text, Path::new("/")).expect("good");
        assert_eq!(config.state_dir, Path::new("/srv/weft/state"));
        assert_eq!(
            config.targets,
            [Path::new("/srv/weft/target0"), Path::new("/srv/weft/target1")]
        );
        assert!(config.check_machine().is_ok());
        let again = run(&args("/srv/weft")).expect("good");
        assert_ne!(again.json["cluster"], report.json["cluster"]);
    }

    #[test]
    fn options_are_taken_and_bad_ones_refused() {
        let whole = GenArgs {
            node: Some("n7".to_owned()),
            listen: Some("[::]:9000".to_owned()),
            targets: vec!["/dev/nvme0n1".into()],
            cores: vec![3, 4],
            memory_mib: Some(512),
            cluster: Some(ClusterId([5; 16])),
            ..args("/d")
        };
        let config = build(&whole).expect("good");
        assert_eq!((config.node.as_str(), config.listen.as_str()), ("n7", "[::]:9000"));
        assert_eq!((config.cores.as_slice(), config.memory_mib), (&[3, 4][..], 512));
        assert_eq!((config.targets.len(), config.cluster), (1, ClusterId([5; 16])));
        let many = GenArgs { cores: (0..40).collect(), ..args("/d") };
        assert_eq!(build(&many).expect("good").memory_mib, 2560);
        for bad in [
            GenArgs { listen: Some("here".to_owned()), ..args("/d") },
            GenArgs { node: Some("a b".to_owned()), ..args("/d") },
            GenArgs { cores: vec![1, 1], ..args("/d") },
            GenArgs { memory_mib: Some(1), ..args("/d") },
            GenArgs { cluster: Some(ClusterId([0; 16])), ..args("/d") },
        ] {
            assert!(run(&bad).is_err(), "{bad:?}");
        }
    }
}
