"""copy_file_range and cp: the servers copy, and what is copied is right whatever happens meanwhile."""

import errno
import hashlib
import os
import random
import stat
import time
from pathlib import Path

from cases.metrics import scraped, total
from cases.transport import SWITCH
from lib.base import case, check
from lib.cluster import MIB, Cluster, free_port
from lib.procs import fork_worker, join_workers, run

BLOCK = 4096


def _stretches(fd):
    """Data of the file as lseek finds it: (start, end)."""
    found, at = [], 0
    while True:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            check(error.errno == errno.ENXIO, "SEEK_DATA:", error)
            return found
        at = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, at))


def _copy(source, goal, count, start=0, to=0):
    """All of it, as cp does: on and on until there is no more. How many bytes that was."""
    done = 0
    while done < count:
        step = os.copy_file_range(source, goal, count - done, start + done, to + done)
        if step == 0:
            break
        done += step
    return done


def _hash(path):
    digest = hashlib.blake2b()
    with open(path, "rb") as source:
        while piece := source.read(4 * MIB):
            digest.update(piece)
    return digest.hexdigest()


def _fill(path, seed, length, hole):
    """A file of random bytes with a hole."""
    source = random.Random(seed)
    with open(path, "wb", buffering=0) as out:
        at = 0
        while at < length:
            step = min(4 * MIB, length - at, *(edge - at for edge in hole if edge > at))
            if not hole[0] <= at < hole[1]:
                os.pwrite(out.fileno(), source.randbytes(step), at)
            at += step
        os.fsync(out.fileno())


@case(timeout_s=300)
def copies_at_servers(ctx):
    """copy_file_range and cp of a large file with a hole, from two mounts: no data passes a mount, the copies are right."""
    port = free_port()
    fs = Cluster(ctx)
    fs.create()
    with open(fs.config, "a") as config:
        config.write('metrics = "127.0.0.1:%d"\n' % port)
    fs.start()
    one, two = fs.mount("one").path, fs.mount("two").path
    length, hole = 200 * MIB + 12_345, (90 * MIB, 130 * MIB)
    _fill(one / "source", ctx.seed, length, hole)
    plain = 70 * MIB + 70_000
    _fill(one / "plain", ctx.seed + 1, plain, (plain, plain))
    before = scraped(port)
    with open(one / "source", "r+b", buffering=0) as source:
        os.pwrite(source.fileno(), b"written just now" * 64 * 1024, 5 * MIB)
    with open(two / "source", "rb") as source, open(two / "copy", "wb") as goal:
        check(os.fstat(source.fileno()).st_size == length, "the other mount sees its length")
        done = _copy(source.fileno(), goal.fileno(), 1 << 40)
        check(done == length, done, "bytes were copied")
        check(os.copy_file_range(source.fileno(), goal.fileno(), 1 << 20, length, 0) == 0, "beyond the end there is nothing")
    # Of a file with holes cp looks at each byte for more of them (coreutils 9.1).
    # Its first chunk is at another shard than that of the file made three before.
    (two / "between").touch()
    run(["cp", "--reflink=auto", two / "plain", two / "cp"], timeout_s=120)
    after = scraped(port)

    def grew(name):
        return total(after, name) - total(before, name)

    # The rest of a file is read and written when it is short.
    copied, data = grew("weft_server_copied_bytes_total"), length - (hole[1] - hole[0])
    check(copied >= length + plain - 2 * 64 * 1024, "the servers copied", copied, "bytes")
    check(grew("weft_server_copied_across_bytes_total") > 0 or os.cpu_count() == 1, "some of it between shards")
    passed = grew("weft_server_received_bytes_total") + grew("weft_server_sent_bytes_total")
    check(passed < 3 * MIB, "bytes passed between mounts and servers:", passed)
    ctx.figure("copies.passed", passed / copied * 100, "% of what was copied")
    for name, source in (("copy", "source"), ("cp", "plain")):
        right = _hash(one / source)
        for path in (one, two):
            check(_hash(path / name) == right, path.name, name, "is not as its source")
    with open(one / "source", "rb") as source:
        places = _stretches(source.fileno())
    check(places == [(0, hole[0]), (hole[1], length)], "the source's data is at", places)
    with open(one / "copy", "rb") as copy:
        check(_stretches(copy.fileno()) == places, "the copy has its data at", _stretches(copy.fileno()))
        taken = os.fstat(copy.fileno()).st_blocks * 512
        check(abs(taken - data) < MIB, "the copy takes", taken, "bytes")
    fs.close()


@case(timeout_s=300)
def copies_ranges(ctx):
    """Ranges that begin and end anywhere, within a file and between files, holes over data: as a model in memory has them."""
    fs = ctx.fs(target_bytes=256 * MIB)
    other = fs.mount("other").path
    chance, most = random.Random(ctx.seed), 6 * MIB
    names = ("a", "b")
    models = {name: bytearray() for name in names}
    fds = {(path, name): os.open(path / name, os.O_RDWR | os.O_CREAT) for path in (fs.path, other) for name in names}
    for turn in range(ctx.scaled(400, 100)):
        path, name = chance.choice((fs.path, other)), chance.choice(names)
        model, fd = models[name], fds[path, name]
        at = chance.randrange(most)
        what = chance.randrange(10)
        if what < 3:
            data = chance.randbytes(chance.randrange(1, 500_000))
            os.pwrite(fd, data, at)
            if len(model) < at + len(data):
                model.extend(bytes(at + len(data) - len(model)))
            model[at : at + len(data)] = data
        elif what == 3:
            size = chance.randrange(most)
            os.ftruncate(fd, size)
            del model[size:]
            model.extend(bytes(size - len(model)))
        else:
            source_name = chance.choice(names)
            source = models[source_name]
            start = chance.randrange(most)
            if chance.random() < 0.5:
                at, start = at // BLOCK * BLOCK, start // BLOCK * BLOCK
            count = chance.randrange(1, 4 * MIB)
            from_fd = fds[path, source_name]
            os.fstat(from_fd)
            if source_name == name:
                # What is copied to the end of the file would be copied on.
                count = min(count, abs(at - start), max(0, len(source) - start))
            if count == 0:
                continue
            found = bytes(source[start : start + count])
            done = _copy(from_fd, fd, count, start, at)
            check(done == len(found), turn, done, "bytes of", len(found), "were copied")
            if found:
                if len(model) < at + len(found):
                    model.extend(bytes(at + len(found) - len(model)))
                model[at : at + len(found)] = found
        looker = fds[chance.choice((fs.path, other)), name]
        check(os.fstat(looker).st_size == len(model), turn, "the length is", os.fstat(looker).st_size)
        if turn % 10 == 0:
            check(os.pread(looker, most * 2, 0) == model, turn, name, "differs")
    for (path, name), fd in fds.items():
        check(os.pread(fd, most * 2, 0) == models[name], path, name, "differs")
    fd = fds[fs.path, "a"]
    os.ftruncate(fd, MIB)
    try:
        os.copy_file_range(fd, fd, MIB // 2, 0, MIB // 4)
        check(False, "an overlap is refused")
    except OSError as error:
        check(error.errno == errno.EINVAL, "an overlap gives", error)
    past = time.time() - 100
    os.utime(fs.path / "b", (past, past))
    check(_copy(fd, fds[fs.path, "b"], MIB // 2) == MIB // 2, "copied")
    check(os.stat(other / "b").st_mtime > past + 50, "the destination's time of change is now")
    list(map(os.close, fds.values()))
    fs.close()


def _read_and_write(source, goal, piece):
    """As dd does: what is read is written, a piece after the other, so reads and writes of the mount wait for each other."""
    with open(source, "rb", buffering=0) as read, open(goal, "wb", buffering=0) as write:
        while data := read.read(piece):
            check(write.write(data) == len(data), "a write of", len(data), "was cut")


@case(timeout_s=300)
def copies_through_the_mount(ctx):
    """Eight programs read and write at once, far more than the mount's memory, over each transport: it goes on, all is right."""
    fs = Cluster(ctx, target_bytes=1024 * MIB)
    fs.create()
    fs.start()
    ways = ["classic", "uring"] if SWITCH.exists() else ["classic"]
    length = 128 * MIB
    for way in ways:
        mount = fs.mount(way, options=["transport=" + way]).path
        _fill(mount / "source", ctx.seed, length, (length, length))
        wanted = _hash(mount / "source")
        Path("/proc/sys/vm/drop_caches").write_text("1")
        copies = [mount / ("copy%d" % at) for at in range(8)]
        workers = [fork_worker(_read_and_write, mount / "source", copy, 65536) for copy in copies]
        join_workers(workers, 100, "copies through a mount")
        for copy in copies:
            check(_hash(copy) == wanted, copy, "has other bytes")
            copy.unlink()


@case(timeout_s=120)
def copies_setuid(ctx):
    """A copy to a file takes its setuid away, also when another mount set it meanwhile."""
    fs = ctx.fs(target_bytes=256 * MIB)
    other = fs.mount("other").path
    (fs.path / "source").write_bytes(b"x" * MIB)
    (fs.path / "goal").write_bytes(b"")
    os.chmod(fs.path / "goal", 0o777)
    os.chmod(fs.path / "source", 0o644)

    def user(ready, go):
        os.setgroups([])
        os.setgid(1234)
        os.setuid(1234)
        source, goal = os.open(fs.path / "source", os.O_RDONLY), os.open(fs.path / "goal", os.O_WRONLY)
        _copy(source, goal, MIB)
        os.write(ready, b"1")
        os.read(go, 1)
        check(_copy(source, goal, MIB) == MIB, "copied")

    (was_ready, ready), (go, goes) = os.pipe(), os.pipe()
    child = fork_worker(user, ready, go)
    os.read(was_ready, 1)
    os.chmod(other / "goal", 0o6777)
    os.write(goes, b"1")
    join_workers([child], 60, "a copy")
    for path in (fs.path, other):
        mode = stat.S_IMODE(os.stat(path / "goal").st_mode)
        check(mode == 0o777, path, "the mode is %o" % mode)
    fs.close()


@case(timeout_s=300)
def copies_killed(ctx):
    """The server is killed again and again while cp runs: it waits, goes on, and its copies are right."""
    fs = Cluster(ctx, target_bytes=512 * MIB)
    fs.create()
    fs.start()
    fs.mount()
    length = 150 * MIB + 777
    _fill(fs.path / "source", ctx.seed, length, (length, length))
    right = _hash(fs.path / "source")

    def copier():
        for turn in range(5):
            run(["cp", "--reflink=auto", fs.path / "source", fs.path / ("copy%d" % (turn % 2))], timeout_s=120)

    child = fork_worker(copier)
    for _ in range(4):
        time.sleep(random.Random(ctx.seed).uniform(0.2, 0.8))
        fs.kill()
        fs.start()
    join_workers([child], 240, "copies")
    for name in ("copy0", "copy1"):
        check(_hash(fs.path / name) == right, name, "is not as the source")
    fs.close()


@case(timeout_s=120)
def copies_full(ctx):
    """A copy that does not fit is ENOSPC; when there is room again it can be made."""
    fs = ctx.fs(target_count=2, target_bytes=64 * MIB)
    length = 25 * MIB
    _fill(fs.path / "source", ctx.seed, length, (length, length))
    try:
        for name in ("one", "two", "three", "four", "five"):
            with open(fs.path / "source", "rb") as source, open(fs.path / name, "wb") as goal:
                _copy(source.fileno(), goal.fileno(), length)
        check(False, "six files of 25 MiB do not fit 128 MiB")
    except OSError as error:
        check(error.errno == errno.ENOSPC, "a copy that does not fit gives", error)
    for name in ("two", "three", "four", "five"):
        (fs.path / name).unlink(missing_ok=True)

    def fits():
        with open(fs.path / "source", "rb") as source, open(fs.path / "again", "wb") as goal:
            return _copy(source.fileno(), goal.fileno(), length) == length

    end = time.monotonic() + 30
    while True:
        try:
            check(fits(), "all of it is copied")
            break
        except OSError as error:
            check(error.errno == errno.ENOSPC and time.monotonic() < end, "with room again a copy gives", error)
            time.sleep(0.2)
    check(_hash(fs.path / "again") == _hash(fs.path / "source"), "the copy is not as the source")
    fs.close()
