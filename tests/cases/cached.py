"""Very many names known to a mount: no message for a look at them, memory within its bound, and given back under pressure."""

import os
import time
from pathlib import Path

from cases.coherence import OVER_TCP, received
from cases.hostile import own_memory_mib
from lib.base import case, check, eventually
from lib.procs import fork_worker, join_workers

# The proof of the issue: WEFT_CACHED_NAMES=1000000. It takes a server of 16 GiB, as each is a lease there.
NAMES = int(os.environ.get("WEFT_CACHED_NAMES", "80000"))
FOLDER = 5000
PROCESSES = 4
# What `CACHED_INODES_MAX` and `CACHED_NAMES_MAX` say an inode and its name take.
NAME_BYTES = 400
REST_MIB = 48
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
