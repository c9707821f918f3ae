//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use weft_wire::{ClusterId, TargetId};

use crate::units::{parse_bytes, parse_inline};

/// The version, and which wire it speaks.
static VERSION_TEXT: LazyLock<String> = LazyLock::new(|| {
    use weft_wire::header::{VERSION, VERSION_MIN};
    format!(
        "{} (speaks wire version {VERSION}, understands {VERSION_MIN} to {VERSION})",
        env!("CARGO_PKG_VERSION")
    )
});

/// Makes, shows and checks Weft file systems.
#[derive(Parser, Debug)]
#[command(
    name = "weft",
    version = VERSION_TEXT.as_str(),
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit status: 0 done, 1 failed, 2 some of it failed; target check: 0 clean, 4 problems found, 8 no check."
)]
pub(crate) struct Cli {
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Seconds to wait for each answer of a server
    #[arg(long, global = true, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(crate) timeout: Duration,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Print a config for a node, with a fresh cluster id
    Gen(GenArgs),
    /// The file system: create, check, look into
    #[command(subcommand)]
    Fs(FsCommand),
    /// Storage targets
    #[command(subcommand)]
    Target(TargetCommand),
    /// Servers
    #[command(subcommand)]
    Node(NodeCommand),
    /// Mounts of this machine
    #[command(subcommand)]
    Mount(MountCommand),
    /// What shards, targets and the mounts of this machine do now: rates, latencies, queues; live on a terminal
    Top(TopArgs),
    /// What operations did, step by step, at a mount of this machine and at the servers, on one clock
    Trace(TraceArgs),
    /// How fast a mount is beside a local directory: fio, metadata and tree loads (weft-load)
    Bench(BenchArgs),
    /// Walk every step from the config to a read on each target, with times
    Ping(ServerArgs),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Which server.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ServerArgs {
    /// Server to ask; else what the config says, else 127.0.0.1:7811
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config")]
    pub(crate) server: Option<String>,
    /// Node config; else $WEFT_CONFIG, ./var/weft.toml, /etc/weft/weft.toml
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct GenArgs {
    /// Folder for the metadata and, without --target, for two targets as files
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Name of this node; else the host's name
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Address and port for clients
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// A block device, or a file to be made; may be given more than once
    #[arg(long = "target", value_name = "PATH")]
    pub(crate) targets: Vec<PathBuf>,
    /// Cores to run on, one shard each
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    pub(crate) cores: Vec<u16>,
    /// Memory of the node for buffers and tables, in MiB
    #[arg(long, value_name = "N")]
    pub(crate) memory_mib: Option<u32>,
    /// An existing cluster's id; else a fresh one
    #[arg(long, value_name = "UUID")]
    pub(crate) cluster: Option<ClusterId>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// A directory on the mount
    #[arg(value_name = "MOUNT_DIR")]
    pub(crate) mount: PathBuf,
    /// A directory on a local file system, best on a disk like the targets'
    #[arg(value_name = "LOCAL_DIR")]
    pub(crate) local: PathBuf,
    /// Options of `weft-load compare`: --peer NAME=DIR, --quick, --rounds N, --only LOAD, --plot FILE, --json FILE; --help lists all
    #[arg(value_name = "OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<OsString>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum FsCommand {
    /// Format the metadata volume and every target of a config
    Create(CreateArgs),
    /// Check the metadata volume; the server must be stopped
    Check {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Show how a file is stored: layout, chunks, where data and holes are
    Stat(StatArgs),
    /// Striping of files, and what new files in a directory get
    #[command(subcommand)]
    Layout(LayoutCommand),
    /// Space and inodes of the file system
    Df {
        /// A path on a mount
        path: Option<PathBuf>,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// Which config.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConfigArgs {
    /// Node config; else $WEFT_CONFIG, ./var/weft.toml, /etc/weft/weft.toml
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Length of targets that are files and not there yet
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = parse_bytes)]
    pub(crate) target_bytes: u64,
    /// Overwrite whatever is there
    #[arg(long, conflicts_with = "if_missing")]
    pub(crate) force: bool,
    /// Done already when the volume and all targets belong to this cluster
    #[arg(long)]
    pub(crate) if_missing: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StatArgs {
    /// A file on a mount
    #[arg(value_name = "FILE")]
    pub(crate) path: PathBuf,
    /// Print every chunk, not only the first 64
    #[arg(long)]
    pub(crate) all: bool,
    /// Server to ask; else the mount's
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) server: Option<String>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum LayoutCommand {
    /// Show a file's layout, or what new files in a directory get
    Get {
        /// A file or directory on a mount
        path: PathBuf,
        /// Server to ask; else the mount's
        #[arg(long, value_name = "HOST:PORT")]
        server: Option<String>,
    },
    /// Set what new files in a directory get; files that are there keep theirs
    Set(LayoutSetArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LayoutSetArgs {
    /// A directory on a mount
    #[arg(value_name = "DIR")]
    pub(crate) path: PathBuf,
    /// Length of a chunk: a power of two, 64KiB to 4MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, required_unless_present_any = ["width", "inline"])]
    pub(crate) stripe_unit: Option<u64>,
    /// Targets to stripe over, 1 to 64; 0 for all there are
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=64))]
    pub(crate) width: Option<u8>,
    /// Files of up to so much are kept with the names, up to 4KiB; 0 for none
    #[arg(long, value_name = "SIZE", value_parser = parse_inline)]
    pub(crate) inline: Option<u16>,
    /// Server to ask; else the mount's
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) server: Option<String>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum TargetCommand {
    /// Format one target
    Format(TargetFormatArgs),
    /// Space and use of every target
    List {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Use all of a target's device or file, which was made longer; the server runs on
    Grow {
        /// The target's id, or the path the server has it at (weft target list)
        #[arg(value_name = "ID|PATH")]
        target: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show what a device or file holds, without a server
    Show {
        /// The device or file
        path: PathBuf,
    },
    /// Check a whole target: superblocks, journal, index, data; the server must be stopped
    Check(TargetCheckArgs),
    /// Read and check every block; name the files that are damaged
    Scrub(ScrubArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TargetCheckArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The device or file, or the target's number
    #[arg(value_name = "PATH|ID")]
    pub(crate) target: PathBuf,
    /// Leave the data unread: superblocks, journal and index only
    #[arg(long)]
    pub(crate) quick: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ScrubArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Only this target; else all
    #[arg(long, value_name = "N", value_parser = target_id, conflicts_with = "all")]
    pub(crate) target: Option<TargetId>,
    /// All targets, as without --target
    #[arg(long)]
    pub(crate) all: bool,
    /// Wait until the pass ends, showing how far it is
    #[arg(long)]
    pub(crate) wait: bool,
    /// Begin a whole new pass; without it one that was stopped goes on
    #[arg(long, conflicts_with_all = ["stop", "status"])]
    pub(crate) now: bool,
    /// Stop the pass where it is
    #[arg(long, conflicts_with_all = ["status", "wait"])]
    pub(crate) stop: bool,
    /// Start and stop nothing: show how far it is and what is damaged
    #[arg(long)]
    pub(crate) status: bool,
    /// Read so fast at most; else what the server's config says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) mib_per_second: Option<u32>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TargetFormatArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The device or file
    pub(crate) path: PathBuf,
    /// Length of the file to make; a device and a file that is there keep theirs
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) bytes: Option<u64>,
    /// The target's id, unique in the cluster; else its place in the config
    #[arg(long, value_name = "N", value_parser = target_id)]
    pub(crate) id: Option<TargetId>,
    /// Overwrite whatever is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum NodeCommand {
    /// Version, cluster, shards and volumes of a server
    Status {
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub(crate) interval: Duration,
    /// Looks; else until interrupted on a terminal, and one elsewhere and with --json
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: Option<u32>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TraceArgs {
    /// Only operations on this file or directory, or that found or made it
    pub(crate) file: Option<PathBuf>,
    /// Only operations of this kind: read, write, create, fsync, lookup, ...
    #[arg(long, value_name = "NAME")]
    pub(crate) op: Option<String>,
    /// The newest so many (3)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) last: Option<u32>,
    /// The slowest so many instead
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "3", conflicts_with = "last",
          require_equals = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) slowest: Option<u32>,
    /// Only this mount; else that of FILE, else all of this machine
    #[arg(long, value_name = "MOUNT_POINT", conflicts_with = "file")]
    pub(crate) mount: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum MountCommand {
    /// Weft mounts of this machine
    List,
    /// What programs ask of a mount now: state, for how long, and what it waits for
    Ops {
        /// The mount point; all mounts when it is left out
        mount_point: Option<PathBuf>,
    },
    /// Another program takes over a mount that is in use; nobody sees an error
    Upgrade {
        /// The mount point
        mount_point: PathBuf,
        /// The new program; else the one that is now where the old one was started from
        #[arg(long)]
        program: Option<PathBuf>,
    },
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a number of seconds from 0.001 to 3600");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if !(0.001..=3600.0).contains(&seconds) {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

fn target_id(text: &str) -> Result<TargetId, String> {
    text.parse().map(TargetId).map_err(|_| format!("`{text}` is not a number from 0 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_is_read() {
        for line in [
            "weft gen --dir /d --node n --listen h:1 --target /a --target /b --cores 0,1 --memory-mib 256",
            "weft fs create --config f --target-bytes 4GiB --force",
            "weft fs create --if-missing --json",
            "weft fs check --config f",
            "weft fs stat /mnt/f --server h:1",
            "weft fs layout get /mnt",
            "weft fs layout set /mnt --stripe-unit 1MiB --width 2",
            "weft fs df",
            "weft target format --config f /dev/x --bytes 1GiB --id 3 --force",
            "weft target list --server h:1 --timeout 0.5",
            "weft target show /dev/x",
            "weft target grow 3 --config f",
            "weft target grow /dev/x --server h:1",
            "weft target scrub --target 3 --wait --now --mib-per-second 100 --server h:1",
            "weft target scrub --all --status",
            "weft target check --config f 3",
            "weft target check /dev/x --quick --json",
            "weft node status --config f",
            "weft mount list",
            "weft mount ops --json",
            "weft mount upgrade /mnt/weft --program /usr/local/sbin/mount.weft",
            "weft ping --json",
            "weft top --server h:1 --interval 0.5 --count 3",
            "weft trace /mnt/f --last 5 --json",
            "weft trace --op write --slowest --mount /mnt",
            "weft trace --slowest=9",
            "weft completions bash",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn values_arrive() {
        let cli = parse("weft --timeout 0.25 fs create --target-bytes 1.5GiB").expect("good");
        assert_eq!(cli.timeout, Duration::from_millis(250));
        let Command::Fs(FsCommand::Create(args)) = cli.command else { panic!("fs create") };
        assert_eq!((args.target_bytes, args.force, args.if_missing), (3 << 29, false, false));
    }

    #[test]
    fn a_mistake_names_the_nearest_option_or_command() {
        for (line, nearest) in [
            ("weft fs create --confg f", "--config"),
            ("weft fs create --targetbytes 1", "--target-bytes"),
            ("weft png", "ping"),
            ("weft target lst", "list"),
            ("weft ping --sever h:1", "--server"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(&format!("'{nearest}'")), "{line}: {error}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for line in [
            "weft fs layout set /mnt",
            "weft fs layout set /mnt --width 65",
            "weft fs layout set /mnt --stripe-unit much",
            "weft target format /dev/x --id 65536",
            "weft ping --timeout 0",
            "weft ping --timeout nan",
            "weft ping --server a:1 --config f",
            "weft fs create --force --if-missing",
            "weft gen --dir /d --cores 0,x",
            "weft target scrub --stop --wait",
            "weft target scrub --mib-per-second 0",
            "weft target scrub --target 1 --all",
            "weft gen --dir /d --cluster 12",
            "weft trace --last 0",
            "weft trace --slowest --last 2",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
