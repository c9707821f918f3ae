//! Damaged files: every answer is the committed one or `Damaged`, and the process lives.
//!
//! The sweeps run in a child process (the same binary), so that a crash is a failed test with the
//! flip that caused it as the last line of its output.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that fails panics; the narrowed numbers are pseudo-random"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use weft_lmdb::{Env, Error, Kind, OpenOptions, Reader, Table};

const PAGE: usize = 4096;
type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn options() -> OpenOptions {
    OpenOptions { map_bytes_max: 1 << 30, create: true, tables_max: 4, ..OpenOptions::default() }
}

/// Memory where there is some: the sweeps sync thousands of times.
fn temp() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn data_file(dir: &Path) -> PathBuf {
    dir.join("data.mdb")
}

/// A child has the locks of all databases that were open when it began, until it closes them on its way to its own program: a
/// moment after `spawn` has returned, in which one that was dropped here is still in use.
#[expect(clippy::disallowed_methods, reason = "another process is waited for")]
fn open(dir: &Path, options: &OpenOptions) -> Result<Env, Error> {
    for _ in 0..500 {
        match Env::open(dir, options) {
            Err(error) if error.kind == Kind::Busy => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened,
        }
    }
    Env::open(dir, options)
}

/// Two tables, three levels deep, with overflow runs and a list of free pages.
fn build(dir: &Path) -> [Model; 2] {
    let env = open(dir, &options()).unwrap();
    let tables = [env.table("small").unwrap(), env.table("large").unwrap()];
    let mut models = [Model::new(), Model::new()];
    for round in 0..4_u32 {
        let mut txn = env.write().unwrap();
        for i in (round..240).step_by(1 + round as usize) {
            // Long keys make branch pages narrow, and the tree deep.
            let mut key = i.wrapping_mul(2_654_435_761).to_be_bytes().to_vec();
            key.resize(300, 1);
            let value = vec![(i ^ round) as u8; 40];
            txn.put(tables[0], &key, &value).unwrap();
            models[0].insert(key, value);
        }
        for i in 0..12_u32 {
            let key = i.to_be_bytes().to_vec();
            let value = vec![(i * 7 + round) as u8; 1000 + i as usize * 1700];
            txn.put(tables[1], &key, &value).unwrap();
            models[1].insert(key, value);
        }
        let gone = models[0].keys().nth(round as usize * 10).unwrap().clone();
        assert!(txn.delete(tables[0], &gone).unwrap());
        models[0].remove(&gone);
        txn.commit().unwrap();
    }
    models
}

/// Reads everything every way. `Ok` only if all of it is there and right.
fn read_all(txn: &impl Reader, tables: [Table; 2], models: &[Model; 2]) -> Result<(), Error> {
    let mut first_error = None;
    for (table, model) in tables.into_iter().zip(models) {
        for (key, value) in model {
            match txn.get(table, key) {
                Ok(got) => assert!(got == Some(value), "get: a wrong answer"),
                Err(e) => first_error = first_error.or(Some(e)),
            }
        }
        let mut expect = model.iter();
        let scanned = txn.scan(table, b"", &mut |k, v| {
            assert!(expect.next() == Some((&k.to_vec(), &v.to_vec())), "scan: a wrong answer");
            ControlFlow::Continue(())
        });
        match scanned {
            Ok(()) => assert!(expect.next().is_none(), "scan: entries are missing"),
            Err(e) => first_error = first_error.or(Some(e)),
        }
        match txn.last(table) {
            Ok(got) => assert!(got.map(|e| e.0) == model.keys().next_back().map(Vec::as_slice)),
            Err(e) => first_error = first_error.or(Some(e)),
        }
        match txn.entries(table) {
            Ok(count) => assert_eq!(count, model.len() as u64, "entries: a wrong answer"),
            Err(e) => first_error = first_error.or(Some(e)),
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// Changes a good part of everything and commits; what then reads back must be right.
fn change_all(env: &Env, tables: [Table; 2], models: &[Model; 2]) -> Result<(), Error> {
    let mut models = models.clone();
    let mut txn = env.write()?;
    for (table, model) in tables.into_iter().zip(&mut models) {
        let keys: Vec<_> = model.keys().cloned().collect();
        for (i, key) in keys.into_iter().enumerate() {
            if i % 3 == 0 {
                assert!(txn.delete(table, &key)?, "delete: a wrong answer");
                model.remove(&key);
            } else if i % 5 == 0 {
                let value = vec![i as u8; 60 + i * 11 % 9000];
                txn.put(table, &key, &value)?;
                model.insert(key, value);
            }
        }
    }
    txn.commit()?;
    read_all(&env.read()?, tables, &models)
}

/// Opens, reads, changes. Any error must be `Damaged`; says whether there was one.
fn is_noticed(dir: &Path, models: &[Model; 2]) -> bool {
    let run = || -> Result<(), Error> {
        let env = open(dir, &OpenOptions { create: false, ..options() })?;
        let tables = [env.table("small")?, env.table("large")?];
        let read = read_all(&env.read()?, tables, models);
        let changed = change_all(&env, tables, models);
        read.and(changed)
    };
    match run() {
        Ok(()) => false,
        Err(e) => {
            assert_eq!(e.kind, Kind::Damaged, "{e}");
            true
        }
    }
}

/// Runs `name` of this binary in a process of its own.
fn in_child(name: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let tail: Vec<_> = text.lines().rev().take(4).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {tail:?} {errors}", output.status);
    assert!(text.contains("1 passed"), "the child ran no test: {tail:?}");
}

#[test]
fn flipped_bits_are_noticed() {
    in_child("child_flips_bits");
}

#[test]
#[ignore = "run by flipped_bits_are_noticed in a process of its own"]
fn child_flips_bits() {
    let dir = temp();
    let models = build(dir.path());
    let image = fs::read(data_file(dir.path())).unwrap();
    assert!(!is_noticed(dir.path(), &models), "the undamaged file reads as damaged");
    let mut flips = 0_u32;
    let mut noticed = 0_u32;
    let mut pages_noticed = 0_u32;
    let pages = image.len() / PAGE;
    for page in 0..pages {
        let mut page_noticed = false;
        // Each byte of what the meta pages hold; else header, a sample, and the sum.
        let in_page = |at: &usize| match page {
            0 | 1 => *at < 176 || *at >= PAGE - 2,
            _ => (*at < 32 && at % 3 == page % 3) || at % 331 == page % 331 || *at >= PAGE - 2,
        };
        for at in (0..PAGE).filter(in_page) {
            let bits = if page < 2 { [at % 8, (at + 3) % 8] } else { [(at + page) % 8; 2] };
            for bit in &bits[..if page < 2 { 2 } else { 1 }] {
                println!("flip page {page} at {at} bit {bit}");
                let mut bad = image.clone();
                bad[page * PAGE + at] ^= 1 << bit;
                fs::write(data_file(dir.path()), &bad).unwrap();
                flips += 1;
                if is_noticed(dir.path(), &models) {
                    noticed += 1;
                    page_noticed = true;
                } else {
                    assert!(page >= 2 || at >= 168, "a bad meta page was taken");
                }
            }
        }
        pages_noticed += u32::from(page_noticed);
    }
    println!("{flips} flips, {noticed} noticed, in {pages_noticed} of {pages} pages");
    // The rest are free pages: nothing reads them.
    assert!(pages_noticed as usize > pages / 3, "{pages_noticed} of {pages} pages");
}

#[test]
fn pages_lost_swapped_and_scrambled_are_noticed() {
    in_child("child_scrambles_pages");
}

#[test]
#[ignore = "run by pages_lost_swapped_and_scrambled_are_noticed in a process of its own"]
fn child_scrambles_pages() {
    let dir = temp();
    let models = build(dir.path());
    let image = fs::read(data_file(dir.path())).unwrap();
    let pages = image.len() / PAGE;
    let mut noticed = 0;
    for page in 0..pages {
        let here = page * PAGE..(page + 1) * PAGE;
        let other = (page + 1 + page * 31 % (pages - 1)) % pages * PAGE;
        let junk: Vec<u8> = (0..PAGE).map(|i| ((i * (page * 2 + 1) * 0x9E37) >> 7) as u8).collect();
        let variants: [(&str, Vec<u8>); 5] = [
            ("zeros", vec![0; PAGE]),
            ("ones", vec![0xFF; PAGE]),
            ("junk", junk),
            ("another page", image[other..other + PAGE].to_vec()),
            ("torn", [&image[here.start..here.start + 512], &[0; PAGE - 512]].concat()),
        ];
        for (what, bytes) in variants {
            println!("page {page} becomes {what}");
            let mut bad = image.clone();
            bad[here.clone()].copy_from_slice(&bytes);
            fs::write(data_file(dir.path()), &bad).unwrap();
            noticed += usize::from(is_noticed(dir.path(), &models));
        }
    }
    assert!(noticed > pages, "{noticed} noticed on {pages} pages");
}

#[test]
fn truncated_files_are_refused_at_open() {
    in_child("child_truncates");
}

#[test]
#[ignore = "run by truncated_files_are_refused_at_open in a process of its own"]
fn child_truncates() {
    let dir = temp();
    let models = build(dir.path());
    let image = fs::read(data_file(dir.path())).unwrap();
    let lengths = (0..image.len()).step_by(512).chain([1, 100, 8191, image.len() - 1]);
    for len in lengths {
        println!("truncate to {len}");
        fs::write(data_file(dir.path()), &image[..len]).unwrap();
        let error = open(dir.path(), &options()).unwrap_err();
        assert_eq!(error.kind, Kind::Damaged, "length {len}");
    }
    fs::write(data_file(dir.path()), &image).unwrap();
    assert!(!is_noticed(dir.path(), &models));
}

#[test]
fn files_that_are_no_environment_are_refused_at_open() {
    let dir = temp();
    drop(open(dir.path(), &options()).unwrap());
    let garbage: Vec<u8> =
        (0..40_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for bytes in [vec![], vec![0; 65536], vec![0xFF; 65536], b"hello\n".repeat(3000), garbage] {
        fs::write(data_file(dir.path()), &bytes).unwrap();
        assert_eq!(open(dir.path(), &options()).unwrap_err().kind, Kind::Damaged);
    }
    // The readers' file holds nothing that must last: garbage there is no damage.
    let dir = temp();
    let models = build(dir.path());
    fs::write(dir.path().join("lock.mdb"), [0xA5; 9000]).unwrap();
    assert!(!is_noticed(dir.path(), &models));
}

#[test]
fn a_file_cut_short_while_open_is_noticed() {
    in_child("child_cuts_an_open_file");
}

#[test]
#[ignore = "run by a_file_cut_short_while_open_is_noticed in a process of its own"]
fn child_cuts_an_open_file() {
    let dir = temp();
    let models = build(dir.path());
    let path = data_file(dir.path());
    let image = fs::read(&path).unwrap();
    for len in (0..image.len()).step_by(3 * PAGE + 512) {
        println!("cut to {len}");
        fs::write(&path, &image).unwrap();
        let env = open(dir.path(), &options()).unwrap();
        let tables = [env.table("small").unwrap(), env.table("large").unwrap()];
        let txn = env.read().unwrap();
        read_all(&txn, tables, &models).unwrap();
        let write = env.write().unwrap();
        File::options().write(true).open(&path).unwrap().set_len(len as u64).unwrap();
        let snapshot_read = read_all(&txn, tables, &models);
        assert_eq!(read_all(&write, tables, &models).is_err(), snapshot_read.is_err());
        drop((txn, write));
        let changed = change_all(&env, tables, &models);
        for e in [snapshot_read.err(), changed.err()].into_iter().flatten() {
            assert_eq!(e.kind, Kind::Damaged, "{e}");
        }
        if len < image.len() / 2 {
            assert!(snapshot_read.is_err(), "half the file is gone");
        }
    }
}

#[test]
fn damage_that_comes_after_a_good_read_is_noticed() {
    let dir = temp();
    let models = build(dir.path());
    let path = data_file(dir.path());
    let image = fs::read(&path).unwrap();
    let env = open(dir.path(), &options()).unwrap();
    let tables = [env.table("small").unwrap(), env.table("large").unwrap()];
    let txn = env.read().unwrap();
    read_all(&txn, tables, &models).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let mut noticed = 0;
    for page in 2..image.len() / PAGE {
        let at = page * PAGE + 1000;
        file.write_all_at(&[image[at] ^ 0x10], at as u64).unwrap();
        if let Err(e) = read_all(&txn, tables, &models) {
            assert_eq!(e.kind, Kind::Damaged);
            noticed += 1;
        }
        file.write_all_at(&[image[at]], at as u64).unwrap();
        // The read that failed poisoned nothing.
        read_all(&txn, tables, &models).unwrap();
    }
    assert!(noticed > 20, "{noticed} pages noticed");
    // A bad meta page starts no transaction.
    for page in 0..2 {
        let at = page * PAGE + 100;
        file.write_all_at(&[image[at] ^ 0x10], at as u64).unwrap();
    }
    assert_eq!(env.read().unwrap_err().kind, Kind::Damaged);
    assert_eq!(env.write().unwrap_err().kind, Kind::Damaged);
    for page in 0..2 {
        let at = page * PAGE + 100;
        file.write_all_at(&[image[at]], at as u64).unwrap();
    }
    drop(txn);
    change_all(&env, tables, &models).unwrap();
}

#[test]
fn a_damaged_read_leaves_the_write_transaction_usable() {
    let dir = temp();
    let models = build(dir.path());
    let path = data_file(dir.path());
    let mut image = fs::read(&path).unwrap();
    // The value of the last key of "large": a long overflow run, found by its bytes.
    let (key, value) = models[1].iter().next_back().unwrap();
    let starts = (2..image.len() / PAGE).map(|page| page * PAGE + 24);
    let at = starts.clone().find(|at| image[*at..].starts_with(value)).unwrap();
    image[at + 5000] ^= 1;
    fs::write(&path, &image).unwrap();
    let env = open(dir.path(), &options()).unwrap();
    let tables = [env.table("small").unwrap(), env.table("large").unwrap()];
    let mut txn = env.write().unwrap();
    txn.put(tables[0], b"before", b"1").unwrap();
    assert_eq!(txn.get(tables[1], key).unwrap_err().kind, Kind::Damaged);
    txn.put(tables[0], b"after", b"2").unwrap();
    txn.commit().unwrap();
    // A change that meets the damage fails, and nothing of its transaction gets out.
    let mut txn = env.write().unwrap();
    txn.put(tables[0], b"undone", b"3").unwrap();
    assert_eq!(txn.put(tables[1], key, b"new").unwrap_err().kind, Kind::Damaged);
    assert_eq!(txn.put(tables[0], b"undone", b"4").unwrap_err().kind, Kind::Damaged);
    assert_eq!(txn.commit().unwrap_err().kind, Kind::Damaged);
    let txn = env.read().unwrap();
    assert_eq!(txn.get(tables[0], b"before").unwrap(), Some(&b"1"[..]));
    assert_eq!(txn.get(tables[0], b"after").unwrap(), Some(&b"2"[..]));
    assert_eq!(txn.get(tables[0], b"undone").unwrap(), None);
}
