"""Suites of others that load a file system with everything at once: stress-ng's stressors, and dbench."""

import shutil

from lib.base import case, check
from lib.procs import run

# All of stress-ng's class "filesystem" but those that need what a FUSE file system or this machine cannot have: bind-mount,
# binderfs, fiemap, verity; and those that do not touch the file system under test: eventfd, ioprio, procfs.
STRESSORS = """
access chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify dup fallocate fanotify fcntl file-ioctl filename
flock fpunch fsize fstat getdent handle hdd inode-flags inotify io iomix lease link locka lockf lockofd mknod open rename
symlink sync-file touch utime xattr
""".split()


@case(timeout_s=240, peer=True)
def stress_ng(ctx):
    """41 stressors of stress-ng at once, each checking what it does: none fails."""
    fs = ctx.fs()
    folder = fs.path / "stress"
    folder.mkdir()
    args = ["stress-ng", "--temp-path", folder, "--verify", "--timeout", ctx.scaled(12, 3)]
    for stressor in STRESSORS:
        args += ["--" + stressor, 1]
    told = run(args, timeout_s=200).out
    check("successful run completed" in told, "stress-ng:", told)
    check("fail:" not in told, "stress-ng:", told)
    fs.close()


@case(timeout_s=180, peer=True)
def dbench(ctx):
    """dbench, four clients: the load of an office's file server, with locks; every operation succeeds."""
    fs = ctx.fs()
    check(shutil.which("dbench"), "dbench is not installed: packaging/test-deps.sh")
    told = run(["dbench", "-t", ctx.scaled(8, 3), "-D", fs.path, 4], timeout_s=150).out
    rate = [line for line in told.splitlines() if line.startswith("Throughput")]
    check(rate, "dbench did not end well:", told)
    ctx.figure("dbench.throughput", float(rate[0].split()[1]), "MB/s")
    fs.close()
