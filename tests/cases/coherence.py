"""Several mounts of one file system agree: what one changed, the others see as soon as its call has returned."""

import errno
import json
import mmap
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time

from lib.base import case, check, eventually
from lib.cable import Cable
from lib.cluster import Cluster
from lib.procs import run

LEASE_S = 2.0
# The kernel counts the bytes of these.
OVER_TCP = ["local_socket=off"]
CONFIG = "\nlease_ms = 2000\n"


def _node(ctx, host="127.0.0.1"):
    """A node with short leases, started."""
    cluster = Cluster(ctx, target_count=2, target_bytes=256 << 20, host=host)
    cluster.create()
    with open(cluster.config, "a") as config:
        config.write(CONFIG)
    cluster.start()
    return cluster


def _cluster(ctx, mounts, options=()):
    """A node and so many mounts of it; their paths."""
    cluster = _node(ctx)
    return cluster, [cluster.mount("m%d" % at, options).path for at in range(mounts)]


def received(cluster):
    """Bytes that the server's TCP connections have received: of mounts with [OVER_TCP]."""
    out = run(["ss", "-tinH", "sport", "=", ":%d" % cluster.port]).out
    return sum(int(number) for number in re.findall(r"bytes_received:(\d+)", out))


def _read(path):
    with open(path, "rb") as source:
        return source.read()


def _write(path, data):
    with open(path, "wb") as goal:
        goal.write(data)


def _lock_step(writer, reader, tag):
    """Each change through one mount, looked at through the other at once."""
    w, r = writer / tag, reader / tag
    check(not r.exists(), "not there yet")
    _write(w, b"one")
    check(_read(r) == b"one", "created after its absence was seen")
    with open(r, "rb") as held, open(r, "rb") as mapped_file:
        mapped = mmap.mmap(mapped_file.fileno(), 3, prot=mmap.PROT_READ)
        for turn in range(10):
            data = b"%03d" % turn
            with open(w, "r+b") as goal:
                goal.write(data)
            check(os.pread(held.fileno(), 10, 0) == data, "written, through an open file", turn)
            check(mapped[:] == data, "written, through a mapping", turn)
            os.chmod(w, 0o600 + turn)
            check(os.stat(r).st_mode & 0o777 == 0o600 + turn, "chmod", turn)
            os.truncate(w, 10 + turn)
            check(os.fstat(held.fileno()).st_size == 10 + turn, "length", turn)
            os.truncate(w, 3)
            os.setxattr(w, "user.a", b"%d" % turn)
            check(os.getxattr(r, "user.a") == b"%d" % turn, "xattr", turn)
            os.utime(w, ns=(turn, turn))
            check(os.stat(r).st_mtime_ns == turn, "time", turn)
        mapped.close()
    other = tag + "-other"
    os.rename(w, writer / other)
    check(not r.exists() and (reader / other).exists(), "renamed")
    os.link(writer / other, w)
    check(os.stat(reader / other).st_nlink == 2, "linked")
    os.unlink(writer / other)
    check(not (reader / other).exists() and os.stat(r).st_nlink == 1, "unlinked")
    os.unlink(w)
    check(not r.exists() and tag not in os.listdir(reader), "gone")


@case(timeout_s=240)
def coherence_lock_step(ctx):
    """Two mounts in turns, both ways: data, length, attributes, names, absence, mapping."""
    cluster, (a, b) = _cluster(ctx, 2)
    for turn in range(3):
        _lock_step(a, b, "ab%d" % turn)
        _lock_step(b, a, "ba%d" % turn)
    cluster.close()


@case(timeout_s=240)
def coherence_racing(ctx):
    """Four mounts at once: a counter under O_EXCL, and a value that no reader sees go back."""
    cluster, paths = _cluster(ctx, 4)
    _write(paths[0] / "value", b"%08d" % 0)
    failures, stop = [], threading.Event()

    def reader(path):
        last = 0
        while not stop.is_set():
            with open(path / "value", "rb") as source:
                seen = int(source.read() or b"0")
            if seen < last:
                failures.append("%s: %d after %d" % (path, seen, last))
                return
            last = seen

    def counter(path, at):
        for turn in range(50):
            while True:
                try:
                    os.close(os.open(path / "lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                    break
                except FileExistsError:
                    time.sleep(0.001)
            with open(path / "count", "a+b") as goal:
                goal.seek(0)
                before = int(goal.read() or b"0")
                goal.truncate(0)
                goal.write(b"%d" % (before + 1))
            os.unlink(path / "lock")

    readers = [threading.Thread(target=reader, args=(path,)) for path in paths[1:]]
    counters = [threading.Thread(target=counter, args=(path, at)) for at, path in enumerate(paths)]
    for thread in readers + counters:
        thread.start()
    goal = os.open(paths[0] / "value", os.O_WRONLY)
    for value in range(1, 200):
        os.pwrite(goal, b"%08d" % value, 0)
        check(_read(paths[1 + value % 3] / "value") == b"%08d" % value, "seen at once", value)
    os.close(goal)
    for thread in counters:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    check(not failures, failures)
    check(_read(paths[3] / "count") == b"200", "each counted", _read(paths[3] / "count"))
    cluster.close()


def _agree(paths, count, *what):
    """All mounts say the same of the directory, which has so many entries."""
    seen = [os.stat(path) for path in paths]
    check(all(stat.st_size == count for stat in seen), *what, "entries", [stat.st_size for stat in seen], "not", count)
    times = [(stat.st_mtime_ns, stat.st_ctime_ns, stat.st_nlink, stat.st_mode) for stat in seen]
    check(all(time == times[0] for time in times), *what, times)


@case(timeout_s=240)
def coherence_directories(ctx):
    """What a change made of its directory is what all mounts see of it, with changes of others before, after and between."""
    cluster, mounts = _cluster(ctx, 2)
    (mounts[0] / "d").mkdir()
    paths = [mount / "d" for mount in mounts]
    for turn in range(20):
        one, other = paths[turn % 2], paths[(turn + 1) % 2]
        _write(one / "a", b"")
        _agree(paths, 1, turn, "created")
        os.mkdir(other / "sub")
        os.chmod(one, 0o700 + turn % 8)
        _agree(paths, 2, turn, "mkdir in the other mount, chmod in this one")
        os.rename(one / "a", one / "b")
        os.link(other / "b", other / "c")
        _agree(paths, 3, turn, "renamed, linked in the other mount")
        os.unlink(one / "b")
        os.rmdir(one / "sub")
        os.rename(other / "c", other.parent / "c")
        _agree(paths, 0, turn, "emptied")
        os.unlink(mounts[1] / "c")

    def work(path, name):
        for turn in range(100):
            _write(path / name, b"")
            os.stat(path)
            os.rename(path / name, path / (name + "-%d" % turn))
            if turn % 2:
                os.unlink(path / (name + "-%d" % turn))

    workers = [(path, "%d-%d" % (mount, at)) for mount, path in enumerate(paths) for at in range(2)]
    threads = [threading.Thread(target=work, args=worker) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _agree(paths, 200, "after changes at once")
    cluster.close()


@case(timeout_s=240)
def coherence_unpacked(ctx):
    """What one mount does not wait for, the others see all the same when the call has returned: owner, mode, times, data of a file."""
    cluster, mounts = _cluster(ctx, 2)

    def look(path):
        stat = os.stat(path)
        times = (stat.st_atime_ns, stat.st_mtime_ns, stat.st_ctime_ns)
        return (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, *times)

    for turn in range(150):
        one, other = mounts[turn % 2] / ("f%d" % turn), mounts[(turn + 1) % 2] / ("f%d" % turn)
        data = os.urandom((0, 10, 3901, 4097, 70000)[turn % 5])
        file = os.open(one, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(file, data)
        os.utime(file, ns=(10**18 + turn, 10**18 + turn))
        if turn % 3 == 0:
            check(look(other)[5] == 10**18 + turn, "the times of", other, "are not those that were set")
        os.fchown(file, 1000 + turn, turn)
        os.fchmod(file, 0o640)
        if turn % 3 == 1:
            check(look(other) == look(one), other, "is", look(other), "and", look(one), "where it was made")
        os.close(file)
        check(look(other) == look(one), other, "is", look(other), "and", look(one), "where it was made")
        check(look(other)[:4] == (0o100640, 1000 + turn, turn, len(data)), other, "is", look(other))
        check(_read(other) == data, other, "has other data")
        before = look(one)[6]
        os.chmod(other, 0o600)
        check(look(one)[6] > before and look(one)[0] == 0o100600, "a later change of", one, "is not seen")
    cluster.close()


@case(timeout_s=240)
def coherence_append(ctx):
    """Four mounts append to one file: nothing is lost or torn."""
    cluster, paths = _cluster(ctx, 4)
    count = 50

    def append(path, at):
        goal = os.open(path / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for turn in range(count):
            line = b"%d:%04d:%s\n" % (at, turn, b"x" * (turn * 7 % 300))
            check(os.write(goal, line) == len(line), "written whole")
        os.close(goal)

    threads = [threading.Thread(target=append, args=(path, at)) for at, path in enumerate(paths)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = [_read(path / "log") for path in paths]
    check(all(other == seen[0] for other in seen), "all mounts see the same")
    lines = seen[0].split(b"\n")
    check(lines.pop() == b"" and len(lines) == 4 * count, "lines", len(lines))
    for at in range(4):
        own = [line for line in lines if line.startswith(b"%d:" % at)]
        wanted = [b"%d:%04d:%s" % (at, turn, b"x" * (turn * 7 % 300)) for turn in range(count)]
        check(own == wanted, "each line of a mount, in its order", at)
    cluster.close()


def _timed(what, act):
    begin = time.monotonic()
    act()
    took = time.monotonic() - begin
    check(took <= LEASE_S + 1.0, what, "waited for", took)
    return took


@case(timeout_s=240)
def coherence_vanished(ctx):
    """A mount that is stopped, or killed with all its processes, delays others by the lease time; what it wrote and did not send is refused."""
    cluster, (a, b) = _cluster(ctx, 2)
    _write(a / "f", b"old")
    late = os.open(a / "f", os.O_WRONLY)
    os.pwrite(late, b"1st", 0)
    serving = cluster.mounts["m0"]
    core = serving.core_pid()
    os.kill(core, signal.SIGSTOP)
    try:
        took = _timed("a change after SIGSTOP", lambda: _write(b / "f", b"newer"))
        check(took > 0.1, "it held leases")
        check(_read(b / "f") == b"newer", "written")
    finally:
        os.kill(core, signal.SIGCONT)
    eventually("the stopped mount is told", lambda: "fenced" in serving.log.read_text(errors="replace"), 10)
    check(_read(a / "f") == b"newer", "the one that was stopped reads anew")
    try:
        os.fsync(late)
        check(False, "what was written under a lease that was lost is not refused")
    except OSError as error:
        check(error.errno == errno.EIO, "refused with", error)
    os.close(late)
    os.stat(a / "f")
    serving.kill()
    _timed("a change after kill -9", lambda: os.chmod(b / "f", 0o600))
    run(["umount", "-l", a], ok=(0, 1, 32))
    del cluster.mounts["m0"]
    cluster.close()


# A program of its own: one that starts a server must not have files open that wait for it. It stops the mount's client-core
# itself, as what is written leaves after 2 ms.
LATE = """
import os, signal, sys
late = os.open(sys.argv[1], os.O_WRONLY)
os.pwrite(late, b"1st", 0)
os.kill(int(sys.argv[2]), signal.SIGSTOP)
print("written", flush=True)
sys.stdin.readline()
try:
    os.fsync(late)
    print(0, flush=True)
except OSError as error:
    print(error.errno, flush=True)
"""


def _write_in_place(path, data):
    goal = os.open(path, os.O_WRONLY)
    os.pwrite(goal, data, 0)
    os.fsync(goal)
    os.close(goal)


@case(timeout_s=240)
def coherence_fenced_restart(ctx):
    """A mount that is fenced off while it is stopped goes on when the server was killed and started again: its late write is refused."""
    cluster, (a, b) = _cluster(ctx, 2)
    stopped = cluster.mounts["m0"]
    _write(a / "f", b"old.")
    _write(a / "own", b"old")
    refused = 0
    for turn in range(3):
        held = b"new%d" % turn
        pipe = subprocess.PIPE
        core = stopped.core_pid()
        try:
            args = [sys.executable, "-c", LATE, a / "f", str(core)]
            late = subprocess.Popen(args, stdin=pipe, stdout=pipe, text=True)
            check(late.stdout.readline() == "written\n", "written late", turn)
            began = time.monotonic()
            # Where the machine is busy the write may have left before the stop, and is no late one.
            early = _read(b / "f").startswith(b"1st")
            # In place and made durable: one change of the file, as the stopped mount may have made one.
            _write_in_place(b / "f", held)
            check(time.monotonic() - began > 0.1, "it held leases", turn)
            cluster.kill()
            cluster.start()
        finally:
            os.kill(core, signal.SIGCONT)
        eventually("the stopped mount is told", lambda: stopped.log.read_text(errors="replace").count("fenced") > turn, 30)
        told = late.communicate("\n", timeout=60)[0]
        check(told == "%d\n" % (0 if early else errno.EIO), "refused with", told, turn)
        refused += not early
        check(_read(b / "f") == held and _read(a / "f") == held, "nothing of it arrived", turn)
        _write(a / "own", held)
        check(_read(b / "own") == held, "everything else goes on", turn)
    check(refused, "each write had left before the mount was stopped")
    # One that it heard of is no fence of the next server.
    cluster.kill()
    cluster.start()
    _write(a / "own", b"last")
    check(_read(b / "own") == b"last", "written")
    check(stopped.log.read_text(errors="replace").count("fenced") == 3, "fenced off again by a restart")
    cluster.close()


@case(timeout_s=240)
def coherence_cable(ctx):
    """A mount whose packets are dropped delays others by the lease time; when they arrive again, what it wrote is refused."""
    with Cable() as cable:
        cluster = _node(ctx, cable.server)
        far = cluster.mount("m0", within=["nsenter", "--net=/run/netns/" + cable.space])
        a, b = far.path, cluster.mount("m1").path
        _write(a / "f", b"old")
        late = os.open(a / "f", os.O_WRONLY)
        for turn in range(3):
            os.pwrite(late, b"1st", 0)
            held = b"new%d" % turn
            cable.pull()
            # Taken under the lease to write, and not sent.
            os.pwrite(late, b"2nd", 0)
            took = _timed("a change with the cable out", lambda: _write(b / "f", held))
            check(took > 0.1, "it held leases")
            check(_read(b / "f") == held, "written", turn)
            cable.put_in()
            eventually("the mount is told", lambda: far.log.read_text(errors="replace").count("fenced") > turn, 60)
            check(_read(a / "f") == held, "it reads anew", turn)
            try:
                os.fsync(late)
                check(False, "what was written under a lease that was lost is not refused")
            except OSError as error:
                check(error.errno == errno.EIO, "refused with", error)
            check(_read(b / "f") == held, "nothing of it arrived", turn)
        os.close(late)
        cluster.close()


@case(timeout_s=240)
def coherence_killed_dropping(ctx):
    """A client-core killed with -9 while the kernel drops pages that a write keeps locked: that write goes on."""
    cluster = Cluster(ctx, target_count=2, target_bytes=256 << 20)
    cluster.create()
    with open(cluster.config, "a") as config:
        config.write("\nlease_ms = 6000\n")
    cluster.start()
    mounts = [cluster.mount("m%d" % at, ["transport=classic"]) for at in range(3)]
    a, b, c = [mount.path for mount in mounts]
    _write(c / "f", b"x" * 8192)
    check(len(_read(b / "f")) == os.stat(a / "f").st_size, "both cache it")
    goal = os.open(a / "f", os.O_WRONLY)
    killed, stopped = mounts[0].core_pid(), mounts[1].core_pid()
    os.kill(stopped, signal.SIGSTOP)
    try:
        # Waits for the lease of the mount that is stopped. The kernel has not got the rest of the page: it stays locked.
        writer = threading.Thread(target=os.pwrite, args=(goal, b"new", 4096))
        writer.start()
        time.sleep(0.5)
        # What the first mount caches is recalled as well.
        other = threading.Thread(target=os.chmod, args=(c / "f", 0o600))
        other.start()
        time.sleep(0.5)
        check(writer.is_alive(), "the write waits")
        os.kill(killed, signal.SIGKILL)
        writer.join(60)
        check(not writer.is_alive(), "the write goes on with the next client-core")
        other.join(60)
        check(not other.is_alive(), "and so does the other mount")
    finally:
        os.kill(stopped, signal.SIGCONT)
    eventually("the killed one is gone", lambda: mounts[0].core_pid() != killed, 10)
    os.fsync(goal)
    os.close(goal)
    check(_read(c / "f")[4095:4100] == b"xnewx", "written")
    cluster.close()


@case(timeout_s=240)
def coherence_takeover(ctx):
    """A mount whose client-core is killed with -9 has what it wrote seen by the other, and sees what the other changes."""
    cluster = Cluster(ctx, target_count=2, target_bytes=256 << 20)
    cluster.create()
    cluster.start()
    mounts = [cluster.mount("m%d" % at, ["transport=classic"]) for at in range(2)]
    a, b = [mount.path for mount in mounts]
    goal = os.open(a / "f", os.O_RDWR | os.O_CREAT, 0o644)
    for turn in range(6):
        data = b"%08d" % turn
        os.pwrite(goal, data, 0)
        check(_read(a / "f") == data and not (a / ("new%d" % turn)).exists(), "its own kernel knows it", turn)
        core = mounts[0].core_pid()
        os.kill(core, signal.SIGKILL)
        if turn % 2:
            eventually("another client-core", lambda: mounts[0].core_pid() not in (None, core), 10)
            check(os.fstat(goal).st_size == 8, "it answers", turn)
        check(_read(b / "f") == data, "written before the kill", turn)
        _write(b / "f", b"other %d" % turn)
        _write(b / ("new%d" % turn), b"")
        os.chmod(b / "f", 0o600 + turn)
        check(os.pread(goal, 100, 0) == b"other %d" % turn, "changed by the other", turn)
        check(os.stat(a / "f").st_mode & 0o777 == 0o600 + turn, "mode", turn)
        check((a / ("new%d" % turn)).exists(), "a new name", turn)
    os.close(goal)
    cluster.close()


@case(timeout_s=240)
def coherence_cached(ctx):
    """A stat, open or read of what nobody else wants sends no message, however long."""
    cluster, (a, b) = _cluster(ctx, 2, OVER_TCP)
    for name in ("f", "small"):
        _write(a / name, b"x" * {"f": 100000, "small": 1000}[name])
    held = os.open(b / "f", os.O_RDONLY)

    def look():
        os.stat(b / "f")
        check(len(os.pread(held, 100000, 0)) == 100000, "read")
        check(not os.path.exists(b / "none"), "absent")
        check(len(_read(b / "f")) == 100000 and len(_read(b / "small")) == 1000, "opened and read")

    before = received(cluster)
    look()
    check(received(cluster) > before + 100, "the first look asks the server, and that shows")
    look()  # After the first read the volume was told when that was.
    before, looks = received(cluster), 0
    end = time.monotonic() + 2 * LEASE_S
    while time.monotonic() < end:
        look()
        looks += 1
    # A sign of life is a header of 64 bytes, from each of two mounts to each of two shards.
    signs = 64 * 4 * (3 * 2 + 2)
    # The machine's kernel may take pages back while nothing is short (DAMON's pageout scheme, on where this is
    # developed and checked): each of the file's 25 pages is asked for again once at most, in 90 bytes.
    taken_back = 25 * 90
    check(looks * 64 > 4 * (signs + taken_back), "looks", looks)
    read = received(cluster) - before
    check(read <= signs + taken_back, "bytes received for", looks, "looks:", read)
    os.close(held)
    cluster.close()


# Revision 2, effective; permitted: CAP_NET_RAW.
CAPABILITIES = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def _has_capabilities(path):
    try:
        return os.getxattr(path, "security.capability") == CAPABILITIES
    except OSError as error:
        check(error.errno == errno.ENODATA, error)
        return False


@case(timeout_s=120)
def coherence_capabilities(ctx):
    """A write takes capabilities away that another mount gave; that there are none costs no message for each write."""
    cluster, (a, b) = _cluster(ctx, 2)
    with open(a / "x", "wb", buffering=0) as out:
        for turn in range(5):
            out.write(b"none")
            check(not _has_capabilities(a / "x") and not _has_capabilities(b / "x"), "none yet", turn)
            out.write(b"none, and that is known")
            os.setxattr(b / "x", "security.capability", CAPABILITIES)
            check(_has_capabilities(a / "x"), "given through the other mount", turn)
            out.write(b"write")
            check(not _has_capabilities(a / "x"), "gone with the write", turn)
            check(not _has_capabilities(b / "x"), "gone in the other mount", turn)
            os.setxattr(a / "x", "security.capability", CAPABILITIES)
            out.write(b"write")
            check(not _has_capabilities(b / "x"), "given through the same mount", turn)
        with open(a / "new", "wb", buffering=0) as new:
            os.setxattr(b / "new", "security.capability", CAPABILITIES)
            new.write(b"first")
            check(not _has_capabilities(b / "new"), "gone with the first write of a new file")
        stop = threading.Event()

        def work():
            while not stop.is_set():
                out.write(b"w" * 4096)
                out.seek(0)

        worker = threading.Thread(target=work)
        worker.start()
        try:
            told = json.loads(cluster.weft("top", "--config", cluster.config, "--json", "--interval", "1").out)
        finally:
            stop.set()
            worker.join()
    [asked] = [row for row in told["mounts"] if row["mount_point"] == str(a) and row["operation"] == "getxattr"]
    ctx.figure("capabilities.asked", asked["per_s"], "times/s")
    check(asked["from_cache"] > 0.9, "asked the server:", asked)
    cluster.close()
