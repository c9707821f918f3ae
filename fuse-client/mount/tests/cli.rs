//! The program as mount(8) sees it: its exit codes and what it says.

#![allow(clippy::unwrap_used, reason = "test code: a failed unwrap is a failed test")]

use std::process::{Command, Output};

fn mount_weft(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mount-weft")).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn wrong_usage_is_1_and_says_what_is_right() {
    let output = mount_weft(&["node1:/", "/mnt", "-o", "read_ahead_kb=1"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "mount.weft: unknown option read_ahead_kb; did you mean read_ahead_kib?\n"
    );
}

#[test]
fn help_and_fake_succeed() {
    let help = mount_weft(&["--help"]);
    assert!(help.status.success() && help.stdout.starts_with(b"Mounts a Weft"));
    assert!(mount_weft(&["-V"]).stdout.starts_with(b"mount.weft "));
    assert!(mount_weft(&["node1:/", "/mnt", "-f", "-o", "rw"]).status.success());
}

#[test]
fn a_failure_in_the_background_is_32_with_the_childs_words() {
    let background = mount_weft(&["[::1]:/", "/no/such/dir"]);
    let foreground = mount_weft(&["[::1]:/", "/no/such/dir", "--foreground"]);
    assert_eq!((background.status.code(), foreground.status.code()), (Some(32), Some(32)));
    assert_eq!(stderr(&background), stderr(&foreground));
    assert!(stderr(&background).contains("/no/such/dir"), "{}", stderr(&background));
}
