use std::path::Path;

use super::*;
use crate::cli::ConfigArgs;
use crate::output::Outcome;
use crate::testing::{CLUSTER, Manner, serve};

/// A config file in `dir` for a cluster with two targets of 16 MiB.
fn config_in(dir: &Path, cluster: ClusterId) -> CreateArgs {
    let targets = ["t0", "t1"].map(|name| dir.join(name));
    let mut config = Config::new(cluster, "n", dir.join("state"), targets.to_vec());
    config.memory_mib = 64;
    // Nobody listens on port 1 here.
    config.listen = "127.0.0.1:1".to_owned();
    let file = dir.join("weft.toml");
    std::fs::write(&file, config.generate()).expect("written");
    CreateArgs {
        config: ConfigArgs { config: Some(file) },
        target_bytes: 16 << 20,
        force: false,
        if_missing: false,
    }
}

fn create(args: &CreateArgs) -> Result<Report, AdminError> {
    run(args, Duration::from_secs(1))
}

#[test]
fn a_file_system_is_made_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let args = config_in(dir.path(), CLUSTER);
    let report = create(&args).expect("made");
    assert_eq!((report.outcome, &report.json["created"]), (Outcome::Done, &json!(true)));
    assert!(report.text.contains("weft ping"), "{}", report.text);
    assert_eq!(report.json["targets"][1]["id"], 1);
    for name in ["t0", "t1"] {
        let (superblock, _) = format::inspect_file(&dir.path().join(name)).expect("a target");
        assert_eq!(superblock.cluster, CLUSTER);
    }
    let error = create(&args).expect_err("there already").to_string();
    assert!(error.contains("LOSES ALL FILES") && error.contains("target 1 of"), "{error}");
    let again = CreateArgs { if_missing: true, ..args.clone() };
    let before = format::inspect_file(&dir.path().join("t0")).expect("a target");
    assert_eq!(create(&again).expect("already there").json["created"], false);
    assert_eq!(format::inspect_file(&dir.path().join("t0")).expect("a target"), before);
    let forced = CreateArgs { force: true, ..args };
    let report = create(&forced).expect("made anew");
    assert!(report.text.contains("was overwritten"), "{}", report.text);
    assert_ne!(format::inspect_file(&dir.path().join("t0")).expect("a target"), before);
}

#[test]
fn if_missing_makes_it_and_refuses_what_is_mixed() {
    let dir = tempfile::tempdir().expect("a folder");
    let args = CreateArgs { if_missing: true, ..config_in(dir.path(), CLUSTER) };
    assert_eq!(create(&args).expect("made").json["created"], true);
    std::fs::remove_file(dir.path().join("t1")).expect("was made");
    let error = create(&args).expect_err("one target is missing").to_string();
    assert!(error.contains("nothing was changed"), "{error}");
    assert!(!dir.path().join("t1").exists());
    let other = CreateArgs { if_missing: true, ..config_in(dir.path(), ClusterId([1; 16])) };
    let error = create(&other).expect_err("of another cluster").to_string();
    assert!(error.contains(&CLUSTER.to_string()), "{error}");
}

#[test]
fn nothing_is_touched_when_one_target_holds_something() {
    let dir = tempfile::tempdir().expect("a folder");
    let args = config_in(dir.path(), CLUSTER);
    let mut disk = vec![0u8; 16 << 20];
    disk[..4].copy_from_slice(b"XFSB");
    std::fs::write(dir.path().join("t1"), &disk).expect("written");
    let error = create(&args).expect_err("an XFS").to_string();
    assert!(error.contains("an XFS file system") && error.contains("--force"), "{error}");
    assert!(!dir.path().join("t0").exists() && !dir.path().join("state").exists());
    assert!(create(&CreateArgs { if_missing: true, ..args.clone() }).is_err());
    assert!(create(&CreateArgs { force: true, ..args }).is_ok());
}

#[test]
fn a_running_server_is_not_formatted_under() {
    let dir = tempfile::tempdir().expect("a folder");
    let args = CreateArgs { force: true, ..config_in(dir.path(), CLUSTER) };
    let file = args.config.config.clone().expect("named");
    let text = std::fs::read_to_string(&file).expect("there");
    let (address, _) = serve(Manner::Good);
    std::fs::write(&file, text.replace("127.0.0.1:1\"", &format!("{address}\""))).expect("written");
    let error = create(&args).expect_err("a server runs").to_string();
    assert!(error.contains("is running at") && error.contains("stop it first"), "{error}");
    assert!(!dir.path().join("t0").exists());
}

#[test]
fn what_was_made_passes_the_check() {
    let dir = tempfile::tempdir().expect("a folder");
    let args = config_in(dir.path(), CLUSTER);
    let error = super::super::check::run(&args.config, Duration::from_secs(1));
    assert!(error.expect_err("nothing there").to_string().contains("weft fs create"));
    create(&args).expect("made");
    let report = super::super::check::run(&args.config, Duration::from_secs(1)).expect("checked");
    assert_eq!((report.outcome, &report.json["sound"]), (Outcome::Done, &json!(true)));
    assert_eq!(report.json["inodes"], 1);
}

#[test]
fn a_failure_half_way_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let args = config_in(dir.path(), CLUSTER);
    // The second target is there, and too small.
    std::fs::write(dir.path().join("t1"), [0u8; 4096]).expect("written");
    let error = create(&args).expect_err("too small").to_string();
    assert!(error.contains("too small"), "{error}");
    assert!(!dir.path().join("t0").exists(), "what was made is gone");
    assert!(dir.path().join("t1").exists(), "what was there stays");
    let indexes = std::fs::read_dir(dir.path().join("state/targets")).expect("a folder");
    assert_eq!(indexes.count(), 0);
    std::fs::remove_file(dir.path().join("t1")).expect("was there");
    assert_eq!(create(&args).expect("made").json["created"], true);
}
