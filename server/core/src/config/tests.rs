use std::path::Path;

use super::*;

const WHOLE: &str = r#"
cluster = "0d9c0f6e-1d3b-4a53-9a9e-2f1f6f5a3c11"
node = "n1"
listen = "127.0.0.1:7811"
state_dir = "state"
targets = ["t0", "/dev/nvme0n1"]
cores = [0, 3]
memory_mib = 256
log = "info,weft_store=debug"
session_timeout_s = 61
grace_s = 11
checkpoint_s = 6
credits = 129
idle_poll = "off"
io_poll = "on"
passthrough = "off"
discard = "on"
scrub_interval_days = 14
scrub_mib_per_second = 32
lease_ms = 5001
metrics = "127.0.0.1:7812"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/weft"))
}

/// `WHOLE` with the line of `key` replaced.
fn with(key: &str, line: &str) -> String {
    let is_it = |l: &&str| l.split(' ').next() == Some(key);
    assert_eq!(WHOLE.lines().filter(is_it).count(), 1, "{key}");
    let lines: Vec<&str> = WHOLE.lines().map(|l| if is_it(&l) { line } else { l }).collect();
    lines.join("\n")
}

#[test]
fn every_key_is_read() {
    let config = parse(WHOLE).expect("good");
    assert_eq!(config.cluster.to_string(), "0d9c0f6e-1d3b-4a53-9a9e-2f1f6f5a3c11");
    assert_eq!((config.node.as_str(), config.listen.as_str()), ("n1", "127.0.0.1:7811"));
    assert_eq!(config.state_dir, Path::new("/etc/weft/state"));
    assert_eq!(config.targets, [Path::new("/etc/weft/t0"), Path::new("/dev/nvme0n1")]);
    assert_eq!((config.cores.as_slice(), config.memory_mib), (&[0, 3][..], 256));
    assert_eq!(config.log, "info,weft_store=debug");
    assert_eq!((config.session_timeout_s, config.grace_s), (61, 11));
    assert_eq!((config.checkpoint_s, config.credits), (6, 129));
    assert_eq!((config.io_poll, config.passthrough), (Wanted::On, Wanted::Off));
    assert_eq!(config.idle_poll, Wanted::Off);
    assert_eq!(config.shard_memory_bytes(), 128 << 20);
    assert_eq!(config.discard, Wanted::On);
    assert_eq!((config.scrub_interval_days, config.scrub_mib_per_second), (14, 32));
    assert_eq!(config.lease_ms, 5001);
    assert_eq!(config.metrics, "127.0.0.1:7812");
}

#[test]
fn optional_keys_have_defaults() {
    let needed: Vec<&str> = WHOLE.lines().take(6).collect();
    let config = parse(&needed.join("\n")).expect("good");
    assert_eq!((config.cores.as_slice(), config.memory_mib), (&[0][..], 1024));
    assert_eq!((config.session_timeout_s, config.grace_s), (60, 10));
    assert_eq!((config.checkpoint_s, config.credits, config.log.as_str()), (5, 128, "info"));
    assert_eq!((config.io_poll, config.passthrough), (Wanted::Auto, Wanted::Auto));
    assert_eq!((config.discard, config.idle_poll), (Wanted::Auto, Wanted::Auto));
    assert_eq!((config.scrub_interval_days, config.scrub_mib_per_second), (7, 64));
}

#[test]
fn the_first_five_keys_must_be_there() {
    for key in &KEYS[..5] {
        let error = parse(&with(key, "")).expect_err("missing");
        assert_eq!((error.kind, error.key.as_str()), (ConfigErrorKind::MissingKey, *key));
    }
}

#[test]
fn every_misspelt_key_names_the_right_one() {
    for key in KEYS {
        let letters: Vec<char> = key.chars().collect();
        let mut wrong: Vec<String> = (0..letters.len())
            .map(|at| {
                letters.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, c)| c).collect()
            })
            .collect();
        wrong.extend((1..letters.len()).map(|at| {
            let mut swapped = letters.clone();
            swapped.swap(at - 1, at);
            swapped.into_iter().collect()
        }));
        wrong.extend([format!("{key}s"), key.to_uppercase(), key.replace('_', "-") + "-"]);
        for wrong in wrong.into_iter().filter(|wrong| wrong != key) {
            let error = parse(&format!("{}\n{wrong} = 1", with(key, ""))).expect_err(&wrong);
            assert_eq!((error.kind, &error.key), (ConfigErrorKind::UnknownKey, &wrong));
            let text = error.to_string();
            assert!(text.contains(&format!("did you mean `{key}`?")), "{wrong}: {text}");
            assert!(KEYS.iter().all(|known| text.contains(known)), "{text}");
        }
    }
}

#[test]
fn a_wrong_type_says_which_is_right() {
    for key in KEYS {
        let error = parse(&with(key, &format!("{key} = 1979-05-27"))).expect_err(key);
        assert_eq!((error.kind, error.key.as_str()), (ConfigErrorKind::Type, key));
        assert!(error.to_string().contains("1979-05-27"), "{error}");
        assert!(error.to_string().contains("expected"), "{error}");
    }
    for line in ["targets = [1]", "cores = [\"0\"]", "cores = [0.5]"] {
        let key = line.split(' ').next().expect("a key");
        assert_eq!(parse(&with(key, line)).expect_err(line).kind, ConfigErrorKind::Type);
    }
}

#[test]
fn a_value_out_of_range_says_what_is_allowed() {
    for (line, allowed) in [
        ("cluster = \"12\"", "UUID"),
        ("cluster = \"00000000-0000-0000-0000-000000000000\"", "any cluster"),
        ("node = \"\"", "A-Z"),
        ("node = \"a b\"", "A-Z"),
        ("listen = \"127.0.0.1\"", "HOST:PORT"),
        ("listen = \"127.0.0.1:0\"", "1 to 65535"),
        ("listen = \"127.0.0.1:65536\"", "1 to 65535"),
        ("listen = \":7811\"", "HOST:PORT"),
        ("metrics = \"7812\"", "HOST:PORT"),
        ("metrics = \"127.0.0.1:0\"", "1 to 65535"),
        ("listen = \"::1:7811\"", "HOST:PORT"),
        ("listen = \"[::1:7811\"", "HOST:PORT"),
        ("state_dir = \"\"", "a path"),
        ("targets = []", "1 to 256"),
        ("targets = [\"\"]", "a path"),
        ("cores = []", "1 to 256"),
        ("cores = [-1]", "0 to 1023"),
        ("cores = [1024]", "0 to 1023"),
        ("memory_mib = 63", "64 to 1048576"),
        ("memory_mib = 127", "64 for each of the 2 shards"),
        ("memory_mib = 99999999999", "64 to 1048576"),
        ("log = \"inof\"", "trace"),
        ("log = \"\"", "trace"),
        ("log = \"info,weft_store=loud\"", "trace"),
        ("session_timeout_s = 4", "5 to 3600"),
        ("lease_ms = 499", "500 to 60000"),
        ("grace_s = -1", "0 to 600"),
        ("checkpoint_s = 0", "1 to 600"),
        ("credits = 0", "1 to 4096"),
        ("io_poll = \"yes\"", "\"auto\", \"on\" or \"off\""),
        ("credits = 4097", "1 to 4096"),
        ("discard = \"yes\"", "\"auto\", \"on\" or \"off\""),
        ("scrub_interval_days = 366", "0 to 365"),
        ("scrub_mib_per_second = 0", "1 to 65536"),
    ] {
        let key = line.split(' ').next().expect("a key");
        let error = parse(&with(key, line)).expect_err(line);
        assert_eq!((error.kind, error.key.as_str()), (ConfigErrorKind::Range, key), "{error}");
        assert!(error.to_string().starts_with(&format!("{key} = ")), "{error}");
        assert!(error.to_string().contains(allowed), "{line}: {error}");
    }
}

#[test]
fn duplicates_are_refused() {
    for line in
        ["targets = [\"t0\", \"./t0\"]", "targets = [\"/etc/weft/t0\", \"t0\"]", "cores = [1, 1]"]
    {
        let key = line.split(' ').next().expect("a key");
        let error = parse(&with(key, line)).expect_err(line);
        assert_eq!((error.kind, error.key.as_str()), (ConfigErrorKind::Duplicate, key));
    }
    let twice = format!("{WHOLE}\ncredits = 1");
    let error = parse(&twice).expect_err("a key twice");
    assert_eq!(error.kind, ConfigErrorKind::Syntax);
    assert!(error.to_string().contains("credits"), "{error}");
}

#[test]
fn text_that_is_not_toml_names_the_line() {
    let error = parse("cluster = \"a\"\nnode = = 3").expect_err("syntax");
    assert_eq!(error.kind, ConfigErrorKind::Syntax);
    assert!(error.to_string().contains("line 2"), "{error}");
}

#[test]
fn the_generated_file_is_short_and_reads_back() {
    let mut config = parse(WHOLE).expect("good");
    config.targets.push("/a \"quoted\" # path\\with\ttab".into());
    let text = config.generate();
    assert_eq!(parse(&text), Ok(config));
    let needed: Vec<&str> = WHOLE.lines().take(6).collect();
    let config = parse(&needed.join("\n")).expect("good");
    let made = Config::new(config.cluster, "n1", config.state_dir.clone(), config.targets.clone());
    assert_eq!(made, config);
    let text = made.generate();
    assert!(text.lines().count() <= 15, "{text}");
    assert_eq!(parse(&text), Ok(made));
}

/// A config whose paths are all there.
fn on_disk(dir: &Path) -> Config {
    std::fs::create_dir(dir.join("state")).expect("made");
    for name in ["t0", "t1"] {
        std::fs::write(dir.join(name), b"").expect("made");
    }
    let text = with("targets", "targets = [\"t0\", \"t1\"]");
    let mut config = Config::parse(&text, dir).expect("good");
    config.cores = vec![0];
    config.memory_mib = 64;
    config
}

#[test]
fn a_good_config_passes_the_check() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = on_disk(dir.path());
    assert_eq!(config.check(), Ok(vec![]));
    let open = Config { listen: "0.0.0.0:7811".to_owned(), ..config };
    assert!(open.check().expect("good")[0].contains("trusted network"));
}

#[test]
fn the_check_names_what_is_wrong_on_this_machine() {
    let dir = tempfile::tempdir().expect("a folder");
    let good = on_disk(dir.path());
    let expect = |config: &Config, kind, key: &str| {
        let error = config.check().expect_err(key);
        assert_eq!((error.kind, error.key.as_str()), (kind, key), "{error}");
    };
    let mut bad = good.clone();
    bad.targets.push(dir.path().join("t2"));
    expect(&bad, ConfigErrorKind::Missing, "targets");
    assert_eq!(bad.check_paths(MissingTargets::Allowed), Ok(vec![]));
    assert_eq!(bad.check_for_start(), Ok(vec![]), "its disk may have died");
    bad.targets[2] = dir.path().join("state");
    expect(&bad, ConfigErrorKind::Unusable, "targets");
    bad.targets[2] = dir.path().join("t0/under-a-file");
    expect(&bad, ConfigErrorKind::Unusable, "targets");
    std::os::unix::fs::symlink(dir.path().join("t0"), dir.path().join("link")).expect("linked");
    bad.targets[2] = dir.path().join("link");
    expect(&bad, ConfigErrorKind::Duplicate, "targets");

    let state_dir = dir.path().join("none");
    expect(&Config { state_dir, ..good.clone() }, ConfigErrorKind::Missing, "state_dir");
    let state_dir = dir.path().join("t0");
    expect(&Config { state_dir, ..good.clone() }, ConfigErrorKind::Unusable, "state_dir");
    expect(&Config { cores: vec![1023], ..good.clone() }, ConfigErrorKind::Missing, "cores");
    let memory_mib = MEMORY_MIB_MAX;
    expect(&Config { memory_mib, ..good.clone() }, ConfigErrorKind::Unusable, "memory_mib");
    let listen = "no-such-host.invalid:7811".to_owned();
    expect(&Config { listen, ..good }, ConfigErrorKind::Unusable, "listen");
}
