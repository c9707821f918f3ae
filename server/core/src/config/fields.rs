//! From a TOML table to a [`Config`]: one reader for each type of value.

use std::path::{Path, PathBuf};

use toml::{Table, Value};
use weft_wire::ClusterId;

use super::{
    CORE_COUNT_MAX, Config, ConfigError, ConfigErrorKind, KEYS, MEMORY_MIB_MAX,
    NODE_NAME_BYTES_MAX, SHARD_MEMORY_MIB_MIN, TARGET_COUNT_MAX, Wanted,
};

pub(super) const LISTEN_DEFAULT: &str = "127.0.0.1:7811";
pub(super) const LOG_DEFAULT: &str = "info";
pub(super) const MEMORY_MIB: Bounds =
    Bounds { key: "memory_mib", default: 1024, min: SHARD_MEMORY_MIB_MIN, max: MEMORY_MIB_MAX };
pub(super) const SESSION_TIMEOUT_S: Bounds =
    Bounds { key: "session_timeout_s", default: 60, min: 5, max: 3600 };
pub(super) const GRACE_S: Bounds = Bounds { key: "grace_s", default: 10, min: 0, max: 600 };
pub(super) const LEASE_MS: Bounds =
    Bounds { key: "lease_ms", default: 5000, min: 500, max: 60_000 };
pub(super) const CHECKPOINT_S: Bounds =
    Bounds { key: "checkpoint_s", default: 5, min: 1, max: 600 };
pub(super) const CREDITS: Bounds = Bounds { key: "credits", default: 128, min: 1, max: 4096 };

pub(super) const SCRUB_INTERVAL_DAYS: Bounds =
    Bounds { key: "scrub_interval_days", default: 7, min: 0, max: 365 };
pub(super) const SCRUB_MIB_PER_SECOND: Bounds =
    Bounds { key: "scrub_mib_per_second", default: 64, min: 1, max: 65_536 };

/// A whole number's key, default and what is allowed, both ends included.
pub(super) struct Bounds {
    pub(super) key: &'static str,
    pub(super) default: u32,
    pub(super) min: u32,
    pub(super) max: u32,
}

type Fallible<T> = Result<T, ConfigError>;

pub(super) fn parse(text: &str, base_dir: &Path) -> Fallible<Config> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let advice = format!("not TOML: {}", error.to_string().trim_end());
        ConfigError::new(ConfigErrorKind::Syntax, "", "", advice)
    })?;
    refuse_unknown(&table)?;
    let config = Config {
        cluster: cluster(&table)?,
        node: node(&table)?,
        listen: listen(&table)?,
        state_dir: path(base_dir, "state_dir", required(&table, "state_dir")?)?,
        targets: targets(&table, base_dir)?,
        cores: cores(&table)?,
        memory_mib: number(&table, &MEMORY_MIB)?,
        log: log(&table)?,
        session_timeout_s: number(&table, &SESSION_TIMEOUT_S)?,
        grace_s: number(&table, &GRACE_S)?,
        lease_ms: number(&table, &LEASE_MS)?,
        checkpoint_s: number(&table, &CHECKPOINT_S)?,
        credits: number(&table, &CREDITS)?,
        idle_poll: wanted(&table, "idle_poll")?,
        io_poll: wanted(&table, "io_poll")?,
        passthrough: wanted(&table, "passthrough")?,
        discard: wanted(&table, "discard")?,
        scrub_interval_days: number(&table, &SCRUB_INTERVAL_DAYS)?,
        scrub_mib_per_second: number(&table, &SCRUB_MIB_PER_SECOND)?,
        metrics: metrics(&table)?,
    };
    memory_for_all(&config)?;
    Ok(config)
}

fn refuse_unknown(table: &Table) -> Fallible<()> {
    let Some((key, value)) = table.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) else {
        return Ok(());
    };
    let nearest = KEYS
        .iter()
        .min_by_key(|known| strsim::damerau_levenshtein(known, &key.to_lowercase()))
        .expect("there are keys");
    let advice =
        format!("no such key; did you mean `{nearest}`? The keys are: {}", KEYS.join(", "));
    Err(ConfigError::new(ConfigErrorKind::UnknownKey, key, value, advice))
}

fn required<'a>(table: &'a Table, key: &'static str) -> Fallible<&'a Value> {
    table.get(key).ok_or_else(|| {
        let advice = "this key must be there; `weft gen` prints a whole config";
        ConfigError::new(ConfigErrorKind::MissingKey, key, "", advice)
    })
}

fn wrong_type(key: &str, value: &Value, wanted: &str) -> ConfigError {
    let advice = format!("{wanted} is expected, this is of type {}", value.type_str());
    ConfigError::new(ConfigErrorKind::Type, key, value, advice)
}

fn out_of_range(key: &str, value: &Value, allowed: impl Into<String>) -> ConfigError {
    ConfigError::new(ConfigErrorKind::Range, key, value, allowed)
}

fn text<'a>(key: &str, value: &'a Value) -> Fallible<&'a str> {
    value.as_str().ok_or_else(|| wrong_type(key, value, "a text in quotes"))
}

fn list<'a>(key: &str, value: &'a Value, count_max: usize) -> Fallible<&'a [Value]> {
    let list = value.as_array().ok_or_else(|| wrong_type(key, value, "a list in [ ]"))?;
    if list.is_empty() || list.len() > count_max {
        let advice = format!("1 to {count_max} entries are allowed, not {}", list.len());
        return Err(out_of_range(key, value, advice));
    }
    Ok(list)
}

fn number(table: &Table, bounds: &Bounds) -> Fallible<u32> {
    let Some(value) = table.get(bounds.key) else { return Ok(bounds.default) };
    let number =
        value.as_integer().ok_or_else(|| wrong_type(bounds.key, value, "a whole number"))?;
    match u32::try_from(number) {
        Ok(number) if (bounds.min..=bounds.max).contains(&number) => Ok(number),
        _ => {
            let allowed = format!("{} to {} is allowed", bounds.min, bounds.max);
            Err(out_of_range(bounds.key, value, allowed))
        }
    }
}

fn cluster(table: &Table) -> Fallible<ClusterId> {
    let value = required(table, "cluster")?;
    let id: ClusterId =
        text("cluster", value)?.parse().map_err(|error: weft_wire::ids::NotAUuid| {
            out_of_range("cluster", value, error.to_string())
        })?;
    if id == ClusterId::default() {
        let advice =
            "all zeros means `any cluster` and is no cluster's own id; `weft gen` makes one";
        return Err(out_of_range("cluster", value, advice));
    }
    Ok(id)
}

fn node(table: &Table) -> Fallible<String> {
    let value = required(table, "node")?;
    let name = text("node", value)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NODE_NAME_BYTES_MAX || !name.chars().all(allowed) {
        let advice =
            format!("1 to {NODE_NAME_BYTES_MAX} of A-Z, a-z, 0-9, '.', '_', '-' are allowed");
        return Err(out_of_range("node", value, advice));
    }
    Ok(name.to_owned())
}

fn listen(table: &Table) -> Fallible<String> {
    address("listen", required(table, "listen")?)
}

/// Not said, or empty: nowhere.
fn metrics(table: &Table) -> Fallible<String> {
    match table.get("metrics") {
        None => Ok(String::new()),
        Some(Value::String(text)) if text.is_empty() => Ok(String::new()),
        Some(value) => address("metrics", value),
    }
}

fn address(key: &str, value: &Value) -> Fallible<String> {
    let address = text(key, value)?;
    let port = address.rsplit_once(':').filter(|(host, _)| is_host(host)).map(|(_, port)| port);
    match port.map(str::parse::<u16>) {
        Some(Ok(1..)) => Ok(address.to_owned()),
        _ => {
            let advice = "HOST:PORT is expected with a port of 1 to 65535, such as \
                          \"127.0.0.1:7811\" or \"[::]:7811\"";
            Err(out_of_range(key, value, advice))
        }
    }
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '[', ']', ' ']),
    }
}

fn path(base_dir: &Path, key: &str, value: &Value) -> Fallible<PathBuf> {
    let written = text(key, value)?;
    if written.is_empty() || written.contains('\0') {
        return Err(out_of_range(key, value, "a path is expected, not an empty text"));
    }
    Ok(base_dir.join(written))
}

fn targets(table: &Table, base_dir: &Path) -> Fallible<Vec<PathBuf>> {
    let mut targets: Vec<PathBuf> = Vec::new();
    for value in list("targets", required(table, "targets")?, TARGET_COUNT_MAX)? {
        let target = path(base_dir, "targets", value)?;
        // Compared by components, so that `./a` and `a` are one; links are seen by `check_paths`.
        if targets.iter().any(|known| known.components().eq(target.components())) {
            let advice = "this path stands in the list twice; each target must be its own device";
            return Err(ConfigError::new(ConfigErrorKind::Duplicate, "targets", value, advice));
        }
        targets.push(target);
    }
    Ok(targets)
}

fn cores(table: &Table) -> Fallible<Vec<u16>> {
    let Some(value) = table.get("cores") else { return Ok(vec![0]) };
    let mut cores = Vec::new();
    for value in list("cores", value, CORE_COUNT_MAX)? {
        let wanted = || wrong_type("cores", value, "a core's number, such as 0,");
        let number = value.as_integer().ok_or_else(wanted)?;
        let core = u16::try_from(number)
            .ok()
            .filter(|core| *core < 1024)
            .ok_or_else(|| out_of_range("cores", value, "0 to 1023 is allowed"))?;
        if cores.contains(&core) {
            let advice = "this core stands in the list twice; one shard runs on each";
            return Err(ConfigError::new(ConfigErrorKind::Duplicate, "cores", value, advice));
        }
        cores.push(core);
    }
    Ok(cores)
}

fn log(table: &Table) -> Fallible<String> {
    let Some(value) = table.get("log") else { return Ok(LOG_DEFAULT.to_owned()) };
    let filter = text("log", value)?;
    let is_level = |word: &str| {
        let word = word.trim().to_ascii_lowercase();
        ["off", "error", "warn", "info", "debug", "trace"].contains(&word.as_str())
    };
    // `module` alone would be read by `tracing` as "everything of it", so that a misspelt level passes: refused.
    let is_directive =
        |part: &str| is_level(part.rsplit_once('=').map_or(part, |(_, level)| level));
    if !filter.split(',').all(is_directive) {
        let advice = "off, error, warn, info, debug or trace is allowed, or a list of module=level \
                      such as \"info,weft_store=debug\"";
        return Err(out_of_range("log", value, advice));
    }
    Ok(filter.to_owned())
}

fn wanted(table: &Table, key: &'static str) -> Fallible<Wanted> {
    let Some(value) = table.get(key) else { return Ok(Wanted::Auto) };
    let word = text(key, value)?;
    let all = [Wanted::Auto, Wanted::On, Wanted::Off];
    all.into_iter()
        .find(|wanted| wanted.name() == word)
        .ok_or_else(|| out_of_range(key, value, "\"auto\", \"on\" or \"off\" is allowed"))
}

fn memory_for_all(config: &Config) -> Fallible<()> {
    let shards = u32::try_from(config.cores.len()).expect("at most CORE_COUNT_MAX");
    let needed = shards * SHARD_MEMORY_MIB_MIN;
    if config.memory_mib < needed {
        let advice = format!(
            "at least {needed} is needed: {SHARD_MEMORY_MIB_MIN} for each of the {shards} shards"
        );
        return Err(ConfigError::new(
            ConfigErrorKind::Range,
            "memory_mib",
            config.memory_mib,
            advice,
        ));
    }
    Ok(())
}

const _: () =
    assert!((CORE_COUNT_MAX as u64) * (SHARD_MEMORY_MIB_MIN as u64) <= MEMORY_MIB_MAX as u64);
