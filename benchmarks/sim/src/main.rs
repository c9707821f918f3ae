//! `weft-sim`: plays seeds of the simulator's worlds.

use std::process::ExitCode;

use clap::Parser;

mod options;

fn main() -> ExitCode {
    options::Options::parse();
    ExitCode::SUCCESS
}
