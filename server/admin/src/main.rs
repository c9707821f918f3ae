//! `weft`: the one command for people. Makes and formats a cluster's storage, shows what it does, and says what is
//! wrong and what to do next.
//!
//! Every command prints for people or, with `--json`, one JSON document. Exit status: 0 done, 1 failed, 2 some of it
//! failed; of `target check` as fsck: 4 problems, 8 no check. Nothing here is on the data path; it talks to servers with a blocking client (`client.rs`) and to devices
//! only when no server has them (`fs create`, `fs check`, `target format`, `target show`).

mod cli;
mod client;
mod clock;
mod commands;
mod error;
mod format;
mod locate;
mod metrics;
mod mounts;
mod output;
mod signature;
#[cfg(test)]
mod testing;
mod units;

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use error::AdminError;
use output::Outcome;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let json = cli.json;
    match commands::run(&cli) {
        Ok(report) => {
            let text = if json { report.json_text() } else { report.text.clone() };
            match output::print(&text) {
                Ok(()) => ExitCode::from(report.outcome.code()),
                Err(_) => ExitCode::from(Outcome::Failed.code()), // the reader is gone: nobody is left to tell
            }
        }
        Err(error) => {
            tell(&error, json);
            ExitCode::from(commands::failure_code(&cli))
        }
    }
}

/// What clap has to say: help and version are no errors, everything else ends with 1, not clap's 2.
fn usage(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    let good = !error.use_stderr() && printed.is_ok();
    ExitCode::from(if good { Outcome::Done.code() } else { Outcome::Failed.code() })
}

fn tell(error: &AdminError, json: bool) {
    let printed = json && output::print(&output::json_text(&error.to_json())).is_ok();
    if !printed {
        eprintln!("weft: {error}");
    }
}
