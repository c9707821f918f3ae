//! `weft-server`: one node's shards, each a pinned thread with its own ring, targets and connections.
//!
//! Start: the configuration is parsed and everything in it that can be checked is checked; then each shard's thread
//! opens its targets (and shard 0 the volume), replays what a crash left, and says it is ready; then the node serves.
//! SIGTERM and SIGINT stop it: requests in flight are finished, everything is written down, exit code 0.

mod advice;
mod clock;
mod known;
mod listen;
mod metrics;
mod open;
mod shard;
mod start;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use weft_server_core::config::Config;

const _: () =
    assert!(!weft_store::planted::POSSIBLE, "bugs are planted in the simulator's own build only");

/// The Weft storage and metadata server.
#[derive(Parser, Debug)]
#[command(name = "weft-server", version, about)]
struct Args {
    /// The configuration: one TOML file, as `weft gen` writes it.
    #[arg(long, env = "WEFT_CONFIG", default_value = "/etc/weft/weft.toml")]
    config: PathBuf,
    /// Check the configuration and this machine, and exit.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are answers, everything else is the caller's mistake.
            let code = if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            if error.print().is_err() {
                return ExitCode::FAILURE;
            }
            return code;
        }
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("weft-server: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// Everything a person sees of a failure is the sentence returned here.
fn run(args: &Args) -> Result<(), String> {
    let config = read_config(&args.config)?;
    let checked = if args.check_config { config.check() } else { config.check_for_start() };
    let warnings = checked.map_err(|error| format!("{}: {error}", args.config.display()))?;
    check_kernel()?;
    if args.check_config {
        for warning in warnings {
            println!("warning: {warning}");
        }
        println!("{}: good", args.config.display());
        return Ok(());
    }
    start_log(&config)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    start::serve(&config)
}

fn read_config(path: &std::path::Path) -> Result<Config, String> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!("cannot read {}: {error}; `weft gen` writes a configuration", path.display())
    })?;
    let base = path.parent().unwrap_or_else(|| std::path::Path::new("."));
    let base = std::path::absolute(base).map_err(|error| format!("{}: {error}", base.display()))?;
    Config::parse(&text, &base).map_err(|error| format!("{}: {error}", path.display()))
}

fn check_kernel() -> Result<(), String> {
    let support = weft_ring::probe().map_err(|error| error.to_string())?;
    if support.is_complete() {
        return Ok(());
    }
    Err(format!(
        "this kernel ({}) lacks io_uring operations Weft needs: {}; Linux 6.1 or newer has them",
        support.release,
        support.missing_ops.join(", ")
    ))
}

fn start_log(config: &Config) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log)
        .map_err(|error| format!("log = {:?}: {error}", config.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init()
        .map_err(|error| error.to_string())
}
