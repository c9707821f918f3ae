use super::*;

fn command(line: &str) -> Result<Command, UsageError> {
    parse(line.split_whitespace().map(OsString::from))
}

fn options(line: &str) -> Options {
    match command(line) {
        Ok(Command::Mount(options)) => *options,
        other => panic!("{other:?}"),
    }
}

fn error(line: &str) -> UsageError {
    command(line).unwrap_err()
}

#[test]
fn the_plain_line_has_the_defaults() {
    let got = options("node1:/ /mnt/weft");
    assert_eq!(got.source, Source { host: "node1".into(), port: 7811 });
    assert_eq!(got.mount_point, PathBuf::from("/mnt/weft"));
    assert_eq!((got.max_write_bytes(), got.read_ahead_kib), (1 << 20, 8192));
    assert_eq!(got.attr_timeout, Duration::from_secs(60));
    assert_eq!((got.on_timeout, got.log), (OnTimeout::Wait, LogLevel::Info));
    assert!(!got.fake && !got.foreground && !got.daemon_child && got.mount_flags.is_empty());
}

#[test]
fn mount_8_calls_it_like_this() {
    let got = options(
        "node1:9000:/ /mnt -sfnv -t fuse.weft -N /proc/1/ns/mnt \
         -o rw,nosuid,nodev,noexec,noatime,_netdev,noauto,nofail,x-systemd.automount,defaults,user=joe",
    );
    assert!(got.fake && got.verbose);
    let expected =
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    assert_eq!(got.mount_flags, expected);
    assert_eq!(got.source.to_string(), "node1:9000:/");
    let got = options("-oro,user,exec -o rw n:/ /mnt");
    assert_eq!(got.mount_flags, MountFlags::NOSUID | MountFlags::NODEV);
}

#[test]
fn our_own_options() {
    let got = options(
        "n:/ /mnt --foreground -o attr_timeout_ms=0,entry_timeout_ms=5,max_write_kib=4096,\
         read_ahead_kib=128,on_timeout=eio,timeout_ms=100,log=debug,log_file=/var/log/w,\
         transport=classic,queue_depth=3,locks=local,spin_us=0,idle_poll=off,local_socket=off",
    );
    assert!(got.foreground);
    assert_eq!((got.attr_timeout, got.entry_timeout), (Duration::ZERO, Duration::from_millis(5)));
    assert_eq!((got.max_write_bytes(), got.read_ahead_kib), (4 << 20, 128));
    assert_eq!((got.transport, got.queue_depth), (TransportKind::Classic, 3));
    assert!(got.local_locks);
    assert!(!got.local_socket && options("n:/ /mnt").local_socket);
    assert!(options("n:/ /mnt -o local_socket=auto").local_socket);
    assert_eq!((got.spin_us, options("n:/ /mnt").spin_us), (0, 400));
    assert_eq!((got.idle_poll, options("n:/ /mnt").idle_poll), (Some(false), None));
    assert_eq!(options("n:/ /mnt -o idle_poll=on,idle_poll=auto").idle_poll, None);
    assert_eq!(options("n:/ /mnt").transport, TransportKind::Auto);
    assert_eq!(options("n:/ /mnt -o transport=uring").transport, TransportKind::Uring);
    assert_eq!((got.on_timeout, got.timeout), (OnTimeout::Eio, Duration::from_millis(100)));
    assert_eq!((got.log, got.log_file), (LogLevel::Debug, Some(PathBuf::from("/var/log/w"))));
    assert!(options("n:/ /mnt -o foreground").foreground);
    assert!(options("--daemon-child n:/ /mnt").daemon_child);
}

#[test]
fn sources() {
    for (text, host, port, shown) in [
        ("a.b-c:/", "a.b-c", 7811, "a.b-c:7811:/"),
        ("10.0.0.1:1:/", "10.0.0.1", 1, "10.0.0.1:1:/"),
        ("[::1]:/", "::1", 7811, "[::1]:7811:/"),
        ("[fe80::1]:65535:/", "fe80::1", 65535, "[fe80::1]:65535:/"),
    ] {
        let source = Source::parse(text).unwrap();
        assert_eq!((source.host.as_str(), source.port), (host, port));
        assert_eq!(source.to_string(), shown);
        assert_eq!(Source::parse(shown).unwrap(), source);
    }
    for bad in [
        "",
        "a",
        ":/",
        "a:",
        "a:/x",
        "a:0:/",
        "a:x:/",
        "a:65536:/",
        "::1:/",
        "[::1:/",
        "[a]:/",
        "[::1]x:/",
        "[::1]::/",
        "a b:/",
        "a,b:/",
        ":7811:/",
        "a::/",
    ] {
        let error = Source::parse(bad).unwrap_err();
        assert_eq!(error.kind, Kind::Source, "{bad}");
        assert!(error.message.contains("HOST[:PORT]:/"), "{error}");
    }
}

#[test]
fn unknown_options_name_the_nearest() {
    let got = error("n:/ /mnt -o attr_timout_ms=5");
    assert_eq!(got.kind, Kind::UnknownOption);
    assert!(got.message.contains("did you mean attr_timeout_ms?"), "{got}");
    assert!(error("n:/ /mnt -o noatme").message.contains("did you mean noatime?"));
    let far = error("n:/ /mnt -o qqqqqqqqqqqqqqq");
    assert!(far.message.contains("see --help"), "{far}");
    assert_eq!(options("n:/ /mnt -s -o attr_timout_ms=5").attr_timeout, Duration::from_secs(60));
}

#[test]
fn wrong_values_say_what_is_allowed() {
    for (option, says) in [
        ("attr_timeout_ms=x", "0 to"),
        ("timeout_ms=0", "1 to"),
        ("max_write_kib=0", "4 to 16384"),
        ("max_write_kib=6", "multiple of 4"),
        ("max_write_kib=16388", "4 to 16384"),
        ("on_timeout=never", "wait, eio"),
        ("log=loud", "error, warn, info, debug, trace"),
        ("log_file=x", "absolute"),
        ("transport=ring", "auto, uring, classic"),
        ("queue_depth=0", "1 to 64"),
        ("locks=maybe", "cluster, local"),
        ("local_socket=on", "auto, off"),
        ("queue_depth=65", "1 to 64"),
        ("spin_us=1001", "0 to 1000"),
        ("idle_poll=yes", "auto, on, off"),
        ("ro=1", "takes no value"),
        ("foreground=yes", "takes no value"),
        ("log", "needs a value"),
        ("read_ahead_kib=-1", "0 to"),
    ] {
        let got = error(&format!("n:/ /mnt -s -o {option}"));
        assert_eq!(got.kind, Kind::Value, "{option}");
        assert!(got.message.contains(says), "{got}");
    }
}

#[test]
fn wrong_arguments() {
    for line in ["", "n:/", "n:/ /mnt x", "n:/ /mnt -o", "n:/ /mnt -x", "n:/ /mnt --forground"] {
        assert_eq!(error(line).kind, Kind::Arguments, "{line:?}");
    }
    assert_eq!(command("-h").unwrap(), Command::Help);
    assert_eq!(command("n:/ --version").unwrap(), Command::Version);
}

#[test]
fn the_help_names_every_option_of_ours() {
    for name in [
        "attr_timeout_ms=",
        "entry_timeout_ms=",
        "max_write_kib=",
        "read_ahead_kib=",
        "on_timeout=",
        "timeout_ms=",
        "log=",
        "log_file=",
        "transport=",
        "queue_depth=",
        "spin_us=",
        "idle_poll=",
        "locks=",
        "local_socket=",
        "foreground",
    ] {
        assert!(USAGE.contains(&format!("  {name}")), "{name}");
    }
    assert!(KNOWN.contains(&"noatime") && KNOWN.contains(&"max_write_kib"));
}
