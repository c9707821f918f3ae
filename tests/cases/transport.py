"""How requests come from the kernel: over io_uring and the classic way, chosen, shown, loaded, killed, torn down."""

import os
import time
from pathlib import Path

from lib.base import Skip, case, check, eventually
from lib.cluster import Cluster, program
from lib.procs import alive, fork_worker, join_workers, run, wait

SWITCH = Path("/sys/module/fuse/parameters/enable_uring")
DEAD = (OSError,)


def _cluster(ctx):
    """A cluster that is served and not mounted; skips where the kernel has no FUSE over io_uring."""
    if not SWITCH.exists():
        raise Skip("no-fuse-uring")
    fs = Cluster(ctx)
    fs.create()
    fs.start()
    return fs


def _transport(fs, mount):
    """By what transport `weft mount list` says that a mount is served."""
    found = fs.listed(mount)
    check(found["pid"] == mount.child.pid, "of another process:", found)
    check(found["client_core_pid"] == mount.core_pid(), "another client-core:", found)
    return found["transport"]


def _churn(folder, seed, rounds, cpus=None):
    """Makes, writes, reads back, renames and removes files of its own."""
    if cpus:
        os.sched_setaffinity(0, cpus)
    folder = Path(folder) / ("worker%d" % seed)
    folder.mkdir()
    for index in range(rounds):
        path = folder / ("file%d" % index)
        data = bytes([(seed * 7 + index + at) % 251 for at in range(3000)]) * (1 + index % 50)
        path.write_bytes(data)
        path.rename(folder / "renamed")
        check((folder / "renamed").read_bytes() == data, "worker", seed, "read other bytes in round", index)
        names = os.listdir(folder)
        check(names == ["renamed"], "worker", seed, "found", names)
        (folder / "renamed").unlink()
    folder.rmdir()


@case(timeout_s=240)
def transport_chosen(ctx):
    """transport= is followed, told by the log and `weft mount list`; both ways agree on the data; one entry per CPU does."""
    fs = _cluster(ctx)
    ways = {"auto": "classic", "uring": "uring", "classic": "classic"}
    mounts = {}
    for way, expected in ways.items():
        mounts[way] = fs.mount(way, options=["transport=" + way, "attr_timeout_ms=0", "entry_timeout_ms=0"])
        check(_transport(fs, mounts[way]) == expected, way, "is", _transport(fs, mounts[way]))
        check('transport="%s"' % expected in mounts[way].log.read_text(), "the log does not say", expected)
    for way, mount in mounts.items():
        data = os.urandom(5_000_011)
        (mount.path / ("from-" + way)).write_bytes(data)
        for other in mounts.values():
            check((other.path / ("from-" + way)).read_bytes() == data, other.name, "reads other bytes of", way)
    fs.mount("ro", options=["transport=uring", "ro"])
    try:
        (fs.mounts["ro"].path / "new").write_bytes(b"")
        check(False, "a file was made on a mount that is read-only")
    except OSError as error:
        check("Read-only" in str(error), error)
    narrow = fs.mount("narrow", options=["transport=uring", "queue_depth=1", "max_write_kib=16"])
    cpus = sorted(os.sched_getaffinity(0))
    rounds = 5 if ctx.quick else 40
    workers = [fork_worker(_churn, narrow.path, seed, rounds, {cpus[seed % len(cpus)]}) for seed in range(32)]
    join_workers(workers, 200, "churn on one entry for each CPU")
    fs.close()
    check(not Path("/run/weft-mounts/%d" % narrow.child.pid).exists(), "a mount that ended left its status")


@case(timeout_s=60)
def transport_not_offered(ctx):
    """Where the switch is off and cannot be written, transport=uring fails with what to do, and auto mounts all the same."""
    fs = _cluster(ctx)
    if run(["unshare", "-m", "true"], ok=None).code != 0:
        raise Skip("no-mount-namespace")
    point, script = ctx.work / "point", ctx.work / "script.sh"
    point.mkdir()
    script.write_text(
        """set -ux
        mount -t tmpfs none /sys/module/fuse/parameters
        echo N > /sys/module/fuse/parameters/enable_uring
        mount -o remount,ro /sys/module/fuse/parameters
        "$1" "$2" "$3" -o transport=uring,log_file="$4/no"
        test $? = 32 || exit 1
        "$1" "$2" "$3" -o transport=auto,log_file="$4/auto" || exit 2
        echo hello > "$3/file" && umount "$3"
        """
    )
    told = run(["unshare", "-m", "sh", script, program("mount-weft"), "127.0.0.1:%d:/" % fs.port, point, ctx.work]).out
    check("echo Y > " + str(SWITCH) in told, "it does not say what to do:", told)
    log = (ctx.work / "auto").read_text()
    check('transport="classic"' in log, "the log does not say which way requests come:", log)
    fs.close()


def _read_until_error(path, progress):
    """Reads without a cache until an error; how many reads there were is the length of `progress`."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_DIRECT)
        import mmap

        buffer = mmap.mmap(-1, 1 << 16)
        with open(progress, "ab", buffering=0) as out:
            while True:
                check(os.preadv(file, [buffer], 0) == 1 << 16, "short read")
                out.write(b".")
    except DEAD:
        return


@case(timeout_s=180)
def transport_killed(ctx):
    """kill -9 of the client under load: no program hangs, the mount point can be mounted again, nothing written is lost."""
    fs = _cluster(ctx)
    data = os.urandom(1 << 20)
    for round_ in range(2 if ctx.quick else 8):
        mount = fs.mount("m", options=["transport=uring"])
        file = mount.path / "file"
        if round_ == 0:
            file.write_bytes(data)
            run(["sync", "-f", file])
        check(file.read_bytes() == data, "the file changed")
        progress = [ctx.work / ("progress%d-%d" % (round_, reader)) for reader in range(8)]
        readers = [fork_worker(_read_until_error, file, path) for path in progress]
        eventually("all read", lambda: all(path.exists() and path.stat().st_size > 5 for path in progress), 30)
        mount.kill()
        begin = time.monotonic()
        join_workers(readers, 20, "readers of a dead mount")
        ctx.figure("transport_killed.noticed", time.monotonic() - begin, "s")
        fs.mounts.pop("m")
        run(["umount", "-l", mount.path], timeout_s=20)
    fs.close()


@case(timeout_s=120)
def transport_torn_down(ctx):
    """The kernel ends the connection (umount -f, abort) with requests waiting: they fail, the client ends by itself."""
    fs = _cluster(ctx)
    if run(["unshare", "-m", "true"], ok=None).code != 0:
        raise Skip("no-mount-namespace")
    for way in ("uring", "classic"):
        for end in ("force", "abort"):
            mount = fs.mount("m", options=["transport=" + way])
            (mount.path / "file").write_bytes(b"x" * (1 << 16))
            run(["sync", "-f", mount.path / "file"])
            reader = fork_worker(_read_until_error, mount.path / "file", ctx.work / ("%s-%s" % (way, end)))
            eventually("it reads", lambda way=way, end=end: (ctx.work / ("%s-%s" % (way, end))).exists(), 20)
            fs.kill()
            time.sleep(0.3)
            check(alive(reader), "the reader did not wait for the server")
            if end == "force":
                run(["umount", "-f", "-l", mount.path], timeout_s=20)
            else:
                folder = "/sys/fs/fuse/connections"
                abort = "mount -t fusectl none %s && echo 1 > %s/%d/abort" % (folder, folder, _minor_of(mount.path))
                run(["unshare", "-m", "sh", "-c", abort], timeout_s=20)
            join_workers([reader], 20, "reader of a connection that was ended")
            wait(mount.child, 30, "client of a connection that was ended")
            fs.mounts.pop("m")
            if end == "abort":
                run(["umount", "-l", mount.path], timeout_s=20)
            fs.start()
    fs.close()


def _minor_of(path):
    """The mount's device number, from the table: the mount itself may not answer."""
    with open("/proc/self/mountinfo") as table:
        lines = [line.split() for line in table]
    found = [fields[2] for fields in lines if fields[4] == str(path)]
    check(found, path, "is not in mountinfo")
    return int(found[-1].split(":")[1])
