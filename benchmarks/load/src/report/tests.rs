use super::*;
use crate::compare::Place;
use crate::host::Host;
use std::collections::BTreeMap;

fn outcome() -> Outcome {
    let place = |label: &str, file_system: &str| Place {
        label: label.into(),
        path: format!("/{label}").into(),
        file_system: file_system.into(),
    };
    Outcome {
        date: "2026-11-21T00:00:00Z".into(),
        host: Host {
            host: "here".into(),
            kernel: "6.18".into(),
            cpu: "EPYC".into(),
            cpu_count: 2,
            commit: "abc".into(),
            load_average: 0.5,
        },
        places: vec![place("mnt", "fuse.weft (x)"), place("local", "ext4 (y)")],
        engine: "io_uring",
        notes: vec!["something to know".into()],
        samples: BTreeMap::new(),
        failures: BTreeMap::new(),
    }
}

fn add(outcome: &mut Outcome, row_id: &'static str, place: usize, values: &[f64]) {
    let sample = |v: &f64| Sample::new(*v, 10, 1.0).expect("good");
    outcome.samples.insert((row_id, place), values.iter().map(sample).collect());
}

fn full() -> Outcome {
    let mut outcome = outcome();
    add(&mut outcome, "seq-write", MOUNT, &[500.0, 496.0, 700.0]);
    add(&mut outcome, "seq-write", LOCAL, &[1000.0, 992.0, 1000.0]);
    add(&mut outcome, "untar", MOUNT, &[34.0, 34.0, 34.0]);
    add(&mut outcome, "untar", LOCAL, &[0.5, 0.5, 0.5]);
    add(&mut outcome, "mkdir", MOUNT, &[3.0]);
    add(&mut outcome, "mkdir", LOCAL, &[3.0]);
    for sample in outcome.samples.get_mut(&("seq-write", MOUNT)).expect("added") {
        sample.cpu = Some(CpuUse { server_s: 1.5, mount_s: 0.25 });
        sample.busy = Some(0.5);
    }
    outcome
}

fn line_of<'a>(text: &'a str, title: &str) -> &'a str {
    text.lines().find(|line| line.contains(title)).unwrap_or_else(|| panic!("{title} in {text}"))
}

#[test]
fn table_of_figures() {
    let peers = Peers::built_in().expect("good");
    let text = markdown(&full(), &peers, "weft-load compare");
    assert_eq!(
        line_of(&text, "sequential write, direct"),
        "| sequential write, direct, 1 MiB x 16, new file | MiB/s | 500 (496..700) | 1000 (992..1000) | \
         0.50 (0.50..0.70) | 0.80 of local: NO | MooseFS 3.0 777 | behind 1.55x |"
    );
    assert_eq!(
        line_of(&text, "tar -x"),
        "| tar -x of 2,600 small files (less is better) | s | 34.0 (34.0..34.0) | 0.50 (0.50..0.50) | \
         68.0 (68.0..68.0) | 1.50: NO | MooseFS 3.0 6.00 | behind 5.7x |"
    );
    assert!(line_of(&text, "mkdir").ends_with("| 1.00 (1.00..1.00) | - | - | - |"));
    // 10 bytes in 1.5 and 0.25 s of CPU, and half the cores busy.
    let cost = text.lines().filter(|line| line.contains("sequential write, direct")).nth(1);
    assert_eq!(
        cost.expect("the second table"),
        "| sequential write, direct, 1 MiB x 16, new file | - | - | 161061274 | 26843546 | GiB | 50 % | - | \
         50 % of the device |"
    );
    assert!(text.contains(
        "| tar -x of 2,600 small files | s | 17.0 | 9.00 | 6.00 | 0.60 | theirs: another tree"
    ));
    assert!(text.contains("**Note:** something to know"));
    assert!(!text.contains("rmdir"), "rows that did not run are not there");
    let columns = |line: &str| line.matches('|').count();
    let tables: Vec<&str> = text.split("\n\n").filter(|part| part.starts_with('|')).collect();
    let lengths: Vec<usize> = tables.iter().map(|table| table.lines().count()).collect();
    assert_eq!(lengths, [5, 5, 4], "{text}");
    for table in tables {
        let wide: Vec<usize> = table.lines().map(columns).collect();
        assert!(wide.iter().all(|count| *count == wide[0]), "{table}");
    }
}

#[test]
fn a_failure_is_never_a_figure() {
    let mut outcome = full();
    outcome.failures.insert(("seq-write", MOUNT), "no space".into());
    let peers = Peers::built_in().expect("good");
    let text = markdown(&outcome, &peers, "x");
    let line = line_of(&text, "sequential write, direct");
    assert!(line.contains("| FAILED |") && line.contains("behind: ours FAILED"), "{line}");
    assert!(line.contains("| - | 0.80 of local: NO |"), "no ratio: {line}");
    assert!(text.contains("- FAILED: seq-write, mnt: no space"));
}

#[test]
fn only_weft_is_compared_with_other_systems() {
    let mut outcome = full();
    outcome.places[MOUNT].file_system = "ext4 (/dev/vda)".into();
    let text = markdown(&outcome, &Peers::built_in().expect("good"), "x");
    assert!(!text.contains("ahead") && !text.contains("behind"), "{text}");
    assert!(line_of(&text, "sequential write, direct").contains("| not Weft |"));
}

#[test]
fn json_has_all_of_a_run() {
    let peers = Peers::built_in().expect("good");
    let text = json_lines(&full(), &peers, "weft-load compare");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 3);
    let first = &lines[0];
    assert_eq!(first["row"], "seq-write");
    assert_eq!(first["places"][0]["spread"]["median"], 500.0);
    assert_eq!(first["places"][0]["rounds"][0]["cpu"]["server_s"], 1.5);
    assert_eq!(first["mount_to_local"]["median"], 0.5);
    assert_eq!(first["peers"]["orangefs"], 248.0);
    for (key, want) in [("kernel", "6.18"), ("host", "here"), ("commit", "abc")] {
        assert_eq!(first["host"][key], want);
    }
    assert_eq!(first["host"]["cpu_count"], 2);
    assert_eq!(first["command"], "weft-load compare");
    assert_eq!(first["date"], "2026-11-21T00:00:00Z");
}

#[test]
fn appending_makes_the_folder_and_keeps_what_is_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a/b/results.jsonl");
    append(&path, "1\n").expect("made");
    append(&path, "2\n").expect("added");
    assert_eq!(fs::read_to_string(&path).expect("read"), "1\n2\n");
    assert!(append(dir.path(), "x").is_err(), "a folder is no file");
}

#[test]
fn digits() {
    let of = [(12_345.6, "12346"), (99.94, "99.9"), (1.234, "1.23"), (0.012_34, "0.0123")];
    for (value, want) in of {
        assert_eq!(short(value), want);
    }
}
