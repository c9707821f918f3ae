//! `weft-load`: how fast a mount is, next to a plain local directory and to what other systems reached.
//!
//! `compare` runs fio, an mdtest-like load and a source-tree load in each directory in turn ([`compare`]), checks all
//! that they did, and reports medians with their range, ratios within the run, and where Weft stands against the
//! figures of `peers.toml` ([`report`]). What fails is shown as failed and makes the exit code 1; there is no figure
//! without its check. It measures one client machine; for many use IOR and mdtest (`benchmarks/recipes/README.md`).

mod client;
mod clock;
mod compare;
mod cpu;
mod error;
mod fio;
mod host;
mod limits;
mod meta;
mod names;
mod net;
mod options;
mod peers;
mod program;
mod report;
mod rows;
mod sample;
mod scratch;
mod stats;
mod store;
mod tree;
mod worker;

use clap::Parser;
use error::Result;
use options::{Command, CompareArgs, Options};
use std::process::ExitCode;

const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let result = match Options::parse().command {
        Command::Compare(args) => compare(&args),
        Command::Store(args) => store::run(&args),
        Command::Net(args) => net::run(&args),
        Command::Names(args) => names::run(&args),
        Command::Worker(args) => serve(args.into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weft-load: {error}");
            if compare::is_usage(&error) { EXIT_USAGE.into() } else { ExitCode::FAILURE }
        }
    }
}

/// True when every row was measured everywhere.
fn compare(args: &CompareArgs) -> Result<bool> {
    let peers = peers::Peers::built_in()?;
    let plan = args.plan()?;
    let words: Vec<_> = std::env::args().collect();
    let command = words.join(" ");
    let outcome = compare::run(&plan)?;
    print!("{}", report::markdown(&outcome, &peers, &command));
    if let Some(path) = &args.plot {
        report::plot::write(path, &outcome, &peers)?;
    }
    if let Some(path) = &args.json {
        report::append(path, &report::json_lines(&outcome, &peers, &command))?;
    }
    Ok(outcome.failures.is_empty())
}

fn serve(worker: worker::Worker) -> Result<bool> {
    worker::serve(&worker, std::io::stdin().lock(), std::io::stdout().lock()).map(|()| true)
}
