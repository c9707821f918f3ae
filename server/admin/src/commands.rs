//! The commands, a module each. Each gives a [`Report`] or the one error that ended it.

mod bench;
mod check;
mod create;
mod generate;
mod grow;
mod layout;
mod mount_list;
mod mount_ops;
mod mount_upgrade;
mod names;
mod node;
mod ping;
mod scrub;
mod shards;
mod stat;
mod target;
mod target_check;
mod top;
mod trace;

use clap::CommandFactory;
use serde_json::json;

use crate::cli::{
    Cli, Command, FsCommand, LayoutCommand, MountCommand, NodeCommand, TargetCommand,
};
use crate::error::AdminError;
use crate::output::{Outcome, Report};

/// Runs what the command line asks for.
///
/// # Errors
/// What ended the command before it had anything to show.
pub(crate) fn run(cli: &Cli) -> Result<Report, AdminError> {
    let timeout = cli.timeout;
    match &cli.command {
        Command::Gen(args) => generate::run(args),
        Command::Fs(FsCommand::Create(args)) => create::run(args, timeout),
        Command::Fs(FsCommand::Check { config }) => check::run(config, timeout),
        Command::Fs(FsCommand::Stat(args)) => stat::run(args, timeout),
        Command::Fs(FsCommand::Layout(LayoutCommand::Get { path, server })) => {
            layout::get(path, server.as_deref(), timeout)
        }
        Command::Fs(FsCommand::Layout(LayoutCommand::Set(args))) => layout::set(args, timeout),
        Command::Fs(FsCommand::Df { path, server }) => node::df(path.as_deref(), server, timeout),
        Command::Target(TargetCommand::Format(args)) => target::format(args, timeout),
        Command::Target(TargetCommand::List { server }) => target::list(server, timeout),
        Command::Target(TargetCommand::Grow { target, server }) => {
            grow::run(target, server, timeout)
        }
        Command::Target(TargetCommand::Show { path }) => target::show(path),
        Command::Target(TargetCommand::Check(args)) => target_check::run(args, timeout),
        Command::Target(TargetCommand::Scrub(args)) => scrub::run(args, timeout),
        Command::Node(NodeCommand::Status { server }) => node::status(server, timeout),
        Command::Mount(MountCommand::List) => mount_list::run(),
        Command::Mount(MountCommand::Ops { mount_point }) => mount_ops::run(mount_point.as_deref()),
        Command::Mount(MountCommand::Upgrade { mount_point, program }) => {
            mount_upgrade::run(mount_point, program.as_deref())
        }
        Command::Top(args) => top::run(args, timeout, cli.json),
        Command::Trace(args) => trace::run(args, timeout),
        Command::Bench(args) => Err(bench::run(args)),
        Command::Ping(server) => ping::run(server, timeout),
        Command::Completions { shell } => Ok(completions(*shell)),
    }
}

/// The exit status of a command that ended with an error.
pub(crate) fn failure_code(cli: &Cli) -> u8 {
    match cli.command {
        // As fsck: the check could not be made.
        Command::Target(TargetCommand::Check(_)) => 8,
        _ => Outcome::Failed.code(),
    }
}

fn completions(shell: clap_complete::Shell) -> Report {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let json = json!({ "shell": shell.to_string(), "script": script });
    Report::done(script, json)
}
