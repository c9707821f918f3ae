//! The built program, end to end, on plain local directories.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn compare(mount: &Path, local: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft-load"))
        .args(["compare", "--quick", "--mount"])
        .arg(mount)
        .arg("--local")
        .arg(local)
        .args(more)
        .output()
        .expect("weft-load starts")
}

fn folders() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::create_dir(&a).expect("mkdir");
    fs::create_dir(&b).expect("mkdir");
    (dir, a, b)
}

fn entries(path: &Path) -> usize {
    fs::read_dir(path).expect("list").count()
}

const SMALL: [&str; 6] = ["--only", "meta,crowd,tree", "--files", "20", "--hard-files", "10"];

#[test]
fn a_run_reports_every_row_and_leaves_nothing() {
    let (dir, a, b) = folders();
    let json = dir.path().join("out/results.jsonl");
    let plot = dir.path().join("out/plot.svg");
    let json_text = json.to_str().expect("a plain path");
    let mut more = SMALL.to_vec();
    more.extend(["--rounds", "2", "--processes", "3", "--json", json_text]);
    more.extend(["--plot", plot.to_str().expect("a plain path")]);
    let output = compare(&a, &b, &more);
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{said}");
    assert!(text.contains("only a check of the method"), "one device: {text}");
    let rows = text.lines().filter(|line| line.starts_with('|')).count();
    // Figures and costs of each row, and what other systems reached at 12 of them.
    assert_eq!(rows, 3 * 2 + 2 * 17 + 11, "{text}");
    assert!(!text.contains("FAILED"), "{text}");
    let lines = fs::read_to_string(&json).expect("results");
    for line in lines.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(value["places"][0]["rounds"].as_array().map(Vec::len), Some(2), "{line}");
        let amount = &value["places"][1]["rounds"][0]["amount"];
        let want = match value["row"].as_str().expect("a row") {
            "readdir" => 3 * 3 * 10 * 5,
            row if row.starts_with("hard-") => 30,
            row if row.starts_with("crowd-") => 16 * 125,
            "untar" | "find" | "grep" | "rm-rf" => 2600,
            _ => 60,
        };
        assert_eq!(amount, want, "{line}");
    }
    assert_eq!(lines.lines().count(), 17);
    let drawn = fs::read_to_string(&plot).expect("a plot");
    assert!(drawn.starts_with("<svg") && drawn.contains("rm -rf"), "{drawn}");
    assert_eq!((entries(&a), entries(&b)), (0, 0));
}

#[test]
fn a_directory_that_is_not_there() {
    let (dir, a, _) = folders();
    let output = compare(&dir.path().join("nothing"), &a, &SMALL);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nothing") && said.contains("No such file"), "{said}");
    assert!(output.stdout.is_empty());
    assert_eq!(entries(&a), 0);
}

#[test]
fn wrong_options() {
    let (_dir, a, b) = folders();
    for more in [["--rounds", "0"], ["--only", "fios"], ["--size", "7"], ["--peer", "/"]] {
        let output = compare(&a, &b, &more);
        assert_eq!(output.status.code(), Some(2), "{more:?}");
    }
}

/// A load that cannot finish (more files than fit into its time limit): the failure is in the table and the exit code.
#[test]
fn a_failing_load_is_said_and_counted() {
    let (_dir, a, b) = folders();
    let more = [
        "--only",
        "meta",
        "--rounds",
        "1",
        "--files",
        "3000000",
        "--hard-files",
        "1",
        "--limit-s",
        "1",
    ];
    let output = compare(&a, &b, &more);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("FAILED") && text.contains("time limit"), "{text}");
    assert_eq!((entries(&a), entries(&b)), (0, 0), "cleaned up all the same");
}
