//! mount.weft: mounts a Weft file system; called by mount(8).

use std::env;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use weft_mount::daemonize::{self, Handshake};
use weft_mount::options::{self, Command, EXIT_MOUNT_FAILURE, EXIT_OK, EXIT_USAGE, Options, USAGE};

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
    if options.daemon_child {
        let handshake = match Handshake::take_from_stdout() {
            Ok(handshake) => handshake,
            Err(error) => return fail(EXIT_MOUNT_FAILURE, &error),
        };
        let Err(reason) = serve(options);
        return match handshake.failed(&reason) {
            Ok(()) => EXIT_MOUNT_FAILURE,
            Err(error) => fail(EXIT_MOUNT_FAILURE, &error),
        };
    }
    if options.foreground {
        let Err(reason) = serve(options);
        return fail(EXIT_MOUNT_FAILURE, &reason);
    }
    match daemonize::start(daemonize::child_command(program_name, args), READY_TIMEOUT) {
        Ok(()) => EXIT_OK,
        Err(error) => fail(EXIT_MOUNT_FAILURE, &error),
    }
}

/// Mounts and serves. The loop that joins transport and client core is not part of this build, so
/// nothing is mounted: a mount without it would hang whoever looks at it.
fn serve(options: &Options) -> Result<std::convert::Infallible, String> {
    Err(format!(
        "mount {} on {}: this build has no client loop yet; nothing was mounted",
        options.source,
        options.mount_point.display()
    ))
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
