//! mount.weft: mounts a Weft file system; called by mount(8).

use std::env;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use weft_mount::daemonize::{self, Handshake};
use weft_mount::options::{self, Command, EXIT_MOUNT_FAILURE, EXIT_OK, EXIT_USAGE, Options, USAGE};
use weft_mount::supervise::{self, CoreCommand};

/// How long a mount may take to serve before it is given up.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let mut args = env::args_os();
    let program_name = args.next().unwrap_or_else(|| OsString::from("mount.weft"));
    let args: Vec<OsString> = args.collect();
    ExitCode::from(match options::parse(args.clone()) {
        Ok(Command::Help) => print(USAGE),
        Ok(Command::Version) => print(concat!("mount.weft ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Command::Mount(options)) => run(&options, &program_name, args),
        Err(error) => fail(EXIT_USAGE, &error),
    })
}

fn run(options: &Options, program_name: &OsString, args: Vec<OsString>) -> u8 {
    if options.fake {
        return EXIT_OK;
    }
    if options.client_core {
        return serve(options);
    }
    // By the open file, not the path: that may be relative, or replaced by an upgrade.
    let program = "/proc/self/exe".into();
    let in_background = !options.foreground;
    let command =
        CoreCommand { program, name: program_name.clone(), args: args.clone(), in_background };
    if options.daemon_child {
        let handshake = match Handshake::take_from_stdout() {
            Ok(handshake) => handshake,
            Err(error) => return fail(EXIT_MOUNT_FAILURE, &error),
        };
        return supervise(options, command, Some(handshake));
    }
    if options.foreground {
        return supervise(options, command, None);
    }
    match daemonize::start(daemonize::child_command(program_name, args), READY_TIMEOUT) {
        Ok(()) => EXIT_OK,
        Err(error) => fail(EXIT_MOUNT_FAILURE, &error),
    }
}

/// Mounts and has it served until unmounted. Whoever waits for the mount is told of a failure before that.
fn supervise(options: &Options, command: CoreCommand, mut handshake: Option<Handshake>) -> u8 {
    let started = start_log(options, handshake.is_some());
    let ready = || handshake.take().map_or(Ok(()), Handshake::ready);
    let Err(reason) = started.and_then(|()| supervise::run(options, command, ready)) else {
        return EXIT_OK;
    };
    match handshake.map(|handshake| handshake.failed(&reason)) {
        Some(Ok(())) => EXIT_MOUNT_FAILURE,
        _ => fail(EXIT_MOUNT_FAILURE, &reason),
    }
}

/// Serves what a supervisor mounts, which hears of a failure.
fn serve(options: &Options) -> u8 {
    if !options.foreground {
        // Away from the terminal of whoever mounts.
        if let Err(errno) = rustix::process::setsid() {
            tracing::debug!(%errno, "leads its group already");
        }
    }
    let started = start_log(options, !options.foreground);
    match started.and_then(|()| weft_mount::serve::run(options)) {
        Ok(()) => EXIT_OK,
        Err(_) => EXIT_MOUNT_FAILURE,
    }
}

/// To the log file when there is one; else to the standard error in the foreground, and nowhere in the background.
fn start_log(options: &Options, in_background: bool) -> Result<(), String> {
    let log = tracing_subscriber::fmt()
        .with_max_level(options.log.as_str().parse().unwrap_or(tracing::Level::INFO))
        .with_ansi(false);
    match &options.log_file {
        Some(path) => {
            let file = std::fs::File::options().create(true).append(true).open(path);
            let file = file.map_err(|error| format!("log_file {}: {error}", path.display()))?;
            log.with_writer(std::sync::Mutex::new(file)).init();
        }
        None if !in_background => log.with_writer(std::io::stderr).init(),
        None => {}
    }
    Ok(())
}

fn print(text: &str) -> u8 {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => EXIT_OK,
        Err(_) => EXIT_USAGE, // the reader is gone: nobody is left to tell
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> u8 {
    eprintln!("mount.weft: {error}");
    code
}
