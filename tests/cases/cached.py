"""Very many names known to a mount: no message for a look at them, memory within its bound, and given back under pressure."""

import os
import time
from pathlib import Path

from cases.coherence import OVER_TCP, received
from cases.hostile import own_memory_mib
from lib.base import Skip, case, check, eventually
from lib.procs import fork_worker, join_workers

# The proof of the issue: WEFT_CACHED_NAMES=1000000. It takes a server of 16 GiB, as each is a lease there.
NAMES = int(os.environ.get("WEFT_CACHED_NAMES", "80000"))
FOLDER = 5000
PROCESSES = 4
# What `CACHED_INODES_MAX` and `CACHED_NAMES_MAX` say an inode and its name take.
NAME_BYTES = 400
REST_MIB = 48
# The kernel takes about 1,100 bytes for an inode and its name: a fifth of NAMES fits.
GROUP_BYTES = NAMES * 220
# Of the server's memory one part in 50 is for leases, of 256 bytes each; not more than seven in eight are out for long.
LEASE_BYTES = 256 * 50 * 8 // 7


def _folders(top):
    return [top / ("folder%d" % index) for index in range(0, NAMES, FOLDER)]


def _names(index):
    return ["name%d" % number for number in range(index, min(index + FOLDER, NAMES))]


def _make(top, process):
    for index, folder in enumerate(_folders(top)):
        if index % PROCESSES == process:
            folder.mkdir()
            for name in _names(index * FOLDER):
                os.mknod(folder / name)


def _look(top, process):
    for index, folder in enumerate(_folders(top)):
        if index % PROCESSES == process:
            for name in _names(index * FOLDER):
                os.stat(folder / name)


def _all(what, top):
    """Carries it out by several processes; seconds."""
    begin = time.monotonic()
    join_workers([fork_worker(what, top, process) for process in range(PROCESSES)], 1200, what.__name__)
    return time.monotonic() - begin


def _memory_group(name, bytes_max):
    """A control group with so much memory, of either version of the kernel's interface."""
    for root, limit in (("/sys/fs/cgroup", "memory.high"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")):
        control = Path(root) / "cgroup.subtree_control"
        if limit == "memory.high" and (not control.exists() or "memory" not in control.read_text().split()):
            continue
        group = Path(root) / name
        try:
            group.mkdir()
            (group / limit).write_text(str(bytes_max))
            # Who needs more waits until some is free: on a loaded machine the kernel would kill it before the mount has read
            # what the kernel forgot.
            if limit == "memory.limit_in_bytes":
                (group / "memory.oom_control").write_text("1")
        except OSError:
            continue
        return group
    raise Skip("no-memory-cgroup")


@case(timeout_s=600 if NAMES <= 100_000 else 3000)
def cached_names(ctx):
    """So many names are known to a mount that nobody has to be asked, in bounded memory, which is given back under pressure."""
    memory_mib = max(1024, (NAMES * LEASE_BYTES * 11 // 10) >> 20)
    fs = ctx.fs(gen=("--cores", "0", "--memory-mib", str(memory_mib)))
    top = fs.path / "top"
    top.mkdir()
    ctx.figure("cached_names.made", NAMES / _all(_make, top), "names/s")
    mount = fs.remount(options=OVER_TCP)
    core = mount.core_pid()
    base = own_memory_mib(core)
    ctx.figure("cached_names.asked", NAMES / _all(_look, top), "stats/s")
    full = own_memory_mib(core)
    ctx.figure("cached_names.bytes", (full - base) * 2**20 / NAMES, "B/name")
    check(full <= REST_MIB + NAME_BYTES * NAMES / 2**20, "the client-core takes", full, "MiB for", NAMES, "names")

    # Longer than the kernel answers by itself.
    time.sleep(6)
    before = received(fs)
    ctx.figure("cached_names.known", NAMES / _all(_look, top), "stats/s")
    asked = received(fs) - before
    check(asked < 2 * NAMES, "stats of known names made the server read", asked, "bytes")

    Path("/proc/sys/vm/drop_caches").write_text("2")
    eventually("memory is given back", lambda: own_memory_mib(core) - base < (full - base) / 4, 60)
    ctx.figure("cached_names.given_back", 100 * (full - own_memory_mib(core)) / (full - base), "%")
    before = received(fs)
    _all(_look, top)
    check(received(fs) - before > 64 * NAMES, "what was given back was not asked for again")

    # All of it the kernel has to forget before the mount may return to a server that was started again.
    fs.kill()
    fs.start()
    begin = time.monotonic()
    os.stat(top / "folder0" / "name0")
    ctx.figure("cached_names.server_back", time.monotonic() - begin, "s")
    check("fenced" not in mount.log.read_text(), "the mount did not return in time")
    check(mount.core_pid() == core, "the client-core died")
    fs.close()


@case(timeout_s=300)
def cached_names_in_a_small_group(ctx):
    """Programs of a control group with little memory look at far more names than fit: the kernel forgets, so does the mount."""
    group = _memory_group("weft-test-%d" % os.getpid(), GROUP_BYTES)

    def look(top, process):
        (group / "cgroup.procs").write_text(str(os.getpid()))
        _look(top, process)

    try:
        fs = ctx.fs(gen=("--cores", "0", "--memory-mib", "1024"))
        top = fs.path / "top"
        top.mkdir()
        _all(_make, top)
        core = fs.remount().core_pid()
        base = own_memory_mib(core)
        ctx.figure("cached_names.small_group", NAMES / _all(look, top), "stats/s")
        grown = own_memory_mib(core) - base
        ctx.figure("cached_names.small_group_memory", grown, "MiB")
        check(grown < NAME_BYTES * NAMES / 2**20 / 3, "the client-core has grown by", grown, "MiB: it knows what the kernel forgot")
        fs.close()
    finally:
        group.rmdir()
