use super::*;
use crate::rows::{Load, of_load};

fn pair(root: &Path) -> [Worker; 2] {
    [0, 1].map(|rank| Worker {
        root: root.to_owned(),
        rank,
        rank_count: 2,
        easy_count: 10,
        hard_count: 7,
    })
}

/// Runs every phase up to and with `last` in both workers.
fn run_until(workers: &[Worker; 2], last: &str) {
    fs::create_dir(workers[0].root.join(SHARED)).expect("mkdir");
    for id in [SET_UP].into_iter().chain(of_load(Load::Meta).map(|row| row.id)) {
        for worker in workers {
            worker.phase(id).expect(id);
        }
        if id == last {
            return;
        }
    }
    panic!("no phase {last}");
}

#[test]
fn all_phases_count_and_leave_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let workers = pair(dir.path());
    fs::create_dir(dir.path().join(SHARED)).expect("mkdir");
    let mut counts = Vec::new();
    for id in [SET_UP].into_iter().chain(of_load(Load::Meta).map(|row| row.id)).chain([TEAR_DOWN]) {
        for worker in &workers {
            let done = worker.phase(id).expect(id);
            assert!(done.start_ns <= done.end_ns);
            counts.push(done.count);
        }
    }
    let easy = [10; 12];
    let want: Vec<u64> =
        [1, 1].into_iter().chain(easy).chain([7, 7, 70, 70]).chain([7; 6]).chain([1, 1]).collect();
    assert_eq!(counts, want);
    fs::remove_dir(dir.path().join(SHARED)).expect("it is empty");
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
}

#[test]
fn a_lost_file_is_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let workers = pair(dir.path());
    run_until(&workers, "easy-create");
    fs::remove_file(dir.path().join("own.1/f.3")).expect("remove");
    assert!(workers[0].phase("easy-stat").is_err());
    assert!(workers[1].phase("easy-stat").is_ok(), "looks at the other's files");
    assert!(workers[1].phase("rename").is_err());
    assert!(workers[1].phase(TEAR_DOWN).is_err(), "files are left");
}

#[test]
fn a_file_made_twice_is_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let workers = pair(dir.path());
    run_until(&workers, "hard-create");
    assert!(workers[0].phase("hard-create").is_err());
}

#[test]
fn wrong_size_contents_or_names_are_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let workers = pair(dir.path());
    run_until(&workers, "hard-create");
    let victim = dir.path().join(SHARED).join("1.2");
    let good = fs::read(&victim).expect("read");
    let mut bad = good.clone();
    bad[3000] ^= 1;
    fs::write(&victim, &bad).expect("write");
    assert!(workers[0].phase("hard-stat").is_ok());
    assert!(workers[0].phase("hard-read").is_err());
    fs::write(&victim, &good[..3900]).expect("write");
    assert!(workers[0].phase("hard-stat").is_err());
    assert!(workers[0].phase("hard-read").is_err());
    fs::write(&victim, &good).expect("write");
    assert!(workers[0].phase("readdir").is_ok());
    fs::write(dir.path().join(SHARED).join("extra"), "").expect("write");
    assert!(workers[0].phase("readdir").is_err());
    fs::remove_file(&victim).expect("remove");
    let text = workers[0].phase("readdir").expect_err("one lost, one too many").to_string();
    assert!(text.contains("14 names"), "{text}");
}

#[test]
fn strides_visit_all() {
    for count in [1, 2, 3, 10, 618, 1000, 4096, 9973] {
        let mut seen = vec![false; usize::try_from(count).expect("small")];
        let done = timed_shuffled(count, |index| {
            let slot = &mut seen[usize::try_from(index).expect("small")];
            assert!(!*slot, "{index} of {count} twice");
            *slot = true;
            Ok(())
        });
        assert_eq!(done.expect("no step fails").count, u64::from(count));
        assert!(seen.iter().all(|s| *s));
    }
}

#[test]
fn contents_tell_files_apart() {
    assert_ne!(contents(0, 1), contents(1, 0));
    assert_ne!(contents(0, 1)[..8], contents(0, 1)[8..16]);
}

#[test]
fn answers_are_lines() {
    let dir = tempfile::tempdir().expect("a folder");
    let [worker, _] = pair(dir.path());
    let mut output = Vec::new();
    serve(&worker, &b"set-up\nnonsense\n"[..], &mut output).expect("served");
    let text = String::from_utf8(output).expect("text");
    let answers: Vec<Answer> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(matches!(&answers[..], [Answer::Done(_), Answer::Failed(_)]), "{answers:?}");
}
