//! The program as it is run: exit status, streams, JSON.

use std::path::Path;
use std::process::{Command, Output};

fn weft(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(args)
        .current_dir(dir)
        .env_remove("WEFT_CONFIG")
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("one JSON document on standard output")
}

#[test]
fn from_nothing_to_a_formatted_cluster() {
    let dir = tempfile::tempdir().expect("a folder");
    let printed =
        weft(dir.path(), &["gen", "--dir", "var", "--cores", "0", "--listen", "127.0.0.1:1"]);
    assert_eq!(printed.status.code(), Some(0));
    std::fs::create_dir(dir.path().join("var")).expect("made");
    std::fs::write(dir.path().join("var/weft.toml"), &printed.stdout).expect("written");

    // ./var/weft.toml is found without an option.
    let made = weft(dir.path(), &["fs", "create", "--target-bytes", "16MiB", "--json"]);
    assert_eq!(made.status.code(), Some(0), "{}{}", text(&made.stdout), text(&made.stderr));
    assert_eq!(json(&made)["created"], true);
    let again = weft(dir.path(), &["fs", "create"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("already"), "{}", text(&again.stderr));
    let kept = weft(dir.path(), &["fs", "create", "--if-missing", "--json"]);
    assert_eq!((kept.status.code(), &json(&kept)["created"]), (Some(0), &false.into()));
    let shown = weft(dir.path(), &["target", "show", "var/target1", "--json"]);
    assert_eq!((shown.status.code(), &json(&shown)["id"]), (Some(0), &1.into()));
    let refused = weft(dir.path(), &["target", "format", "var/target1"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("target 1 of cluster"), "{}", text(&refused.stderr));
    let taken = weft(dir.path(), &["target", "format", "var/new", "--id", "1", "--bytes", "16MiB"]);
    assert!(text(&taken.stderr).contains("has this id"), "{}", text(&taken.stderr));
    let added = weft(dir.path(), &["target", "format", "var/new", "--id", "2", "--bytes", "16MiB"]);
    assert_eq!(added.status.code(), Some(0), "{}", text(&added.stderr));
    assert!(text(&added.stdout).contains("add it to `targets`"), "{}", text(&added.stdout));
    let checked = weft(dir.path(), &["fs", "check", "--json"]);
    assert_eq!((checked.status.code(), &json(&checked)["sound"]), (Some(0), &true.into()));
    let pinged = weft(dir.path(), &["ping", "--json"]);
    assert_eq!((pinged.status.code(), &json(&pinged)["outcome"]), (Some(1), &"failed".into()));
}

#[test]
fn usage_errors_end_with_1_and_help_with_0() {
    let dir = Path::new("/");
    for args in [&["fs", "creat"][..], &["ping", "--sevrer", "x"], &["fs"], &[]] {
        let output = weft(dir, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
        assert!(!output.stderr.contains(&0x1b), "no colours where nobody sees them");
    }
    let misspelt = weft(dir, &["ping", "--sevrer", "x"]);
    assert!(text(&misspelt.stderr).contains("--server"), "{}", text(&misspelt.stderr));
    for args in [&["--help"][..], &["fs", "create", "--help"], &["--version"]] {
        assert_eq!(weft(dir, args).status.code(), Some(0), "{args:?}");
    }
    assert!(text(&weft(dir, &["--version"]).stdout).contains("wire version 1"));
}

#[test]
fn an_error_is_json_when_asked_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let output = weft(dir.path(), &["target", "show", "none", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(json(&output)["error"]["next"].is_string());
    assert!(output.stderr.is_empty());
    let output = weft(dir.path(), &["mount", "list", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(json(&output)["mounts"].is_array());
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = weft(Path::new("/"), &["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("if-missing"), "{shell}");
    }
}
