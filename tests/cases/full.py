"""Proof 5, a full file system: ENOSPC where POSIX says it, nothing else harmed, freed space usable again."""

import errno
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor

from lib.base import case, check, eventually, remember
from lib.cluster import MIB, Cluster
from lib.procs import run
from lib.trees import file_hash

PIECE = 1 << 20


def _fill(path, seed, limit):
    """Writes until `limit` bytes or ENOSPC; (bytes that were synced whole, whether it was full)."""
    source = random.Random(seed)
    out = os.open(path, os.O_WRONLY | os.O_CREAT)
    synced, full = 0, False
    try:
        while synced < limit:
            data = source.randbytes(PIECE)
            view = memoryview(data)
            while view:
                view = view[os.write(out, view) :]
            os.fsync(out)
            synced += PIECE
    except OSError as error:
        check(error.errno == errno.ENOSPC, "the full file system says", error)
        full = True
    try:
        os.close(out)
    except OSError as error:
        check(error.errno == errno.ENOSPC, "close says", error)
        full = True
    return synced, full


def _free(path):
    info = os.statvfs(path)
    return info.f_bavail * info.f_frsize


def _verify(path, seed, synced):
    source = random.Random(seed)
    with open(path, "rb") as found:
        for offset in range(0, synced, PIECE):
            check(found.read(PIECE) == source.randbytes(PIECE), path.name, "is wrong at", offset)


@case(timeout_s=300)
def full_target(ctx):
    """Small targets filled up: ENOSPC, other files intact, after a removal every byte is there again; three times."""
    fs = Cluster(ctx, target_bytes=128 * MIB)
    fs.create()
    fs.start()
    fs.mount()
    keep = fs.path / "keep"
    new = _free(fs.path)
    keep.write_bytes(random.Random(1).randbytes(5 * MIB))
    want = file_hash(keep)
    with open(keep, "rb") as kept:
        os.fsync(kept.fileno())
    # Targets tell the metadata what is free a few times a second.
    eventually("statvfs knows of 5 MiB written", lambda: _free(fs.path) == new - 5 * MIB, 10, 0.1)
    empty = _free(fs.path)
    check(empty > 50 * MIB, "statvfs says that only", empty, "bytes are free in a new file system")
    limit = 4 * 128 * MIB
    fills = []
    for turn in range(3):
        synced, full = _fill(fs.path / "big", 7 + turn, limit)
        fills.append(synced)
        check(full, "wrote", synced, "bytes into", limit, "without ENOSPC")
        check(synced >= empty * 0.6, "full after", synced, "of", empty, "free bytes")
        ctx.figure("full.used", 100.0 * synced / empty, "%")
        _verify(fs.path / "big", 7 + turn, synced)
        check(file_hash(keep) == want, "another file changed")
        small_full = _fill(fs.path / "second", 99, 64 * MIB)[1]
        check(small_full, "a full file system took 64 MiB more")
        os.unlink(fs.path / "second")
        if turn == 0:
            fs.kill()
            fs.start()
            fs.remount()
            _verify(fs.path / "big", 7, synced)
        if turn == 1:
            os.truncate(fs.path / "big", synced // 2 + 5000)
            eventually("cut space comes back", lambda: _free(fs.path) > synced // 3, 30, 0.2)
        os.unlink(fs.path / "big")
        eventually("every byte comes back", lambda: _free(fs.path) == empty, 30, 0.2)
    check(max(fills) - min(fills) <= 8 * PIECE, "not as much fits each time:", fills)
    synced, full = _fill(fs.path / "after", 11, empty // 2 // PIECE * PIECE)
    check(not full, "half of the freed space cannot be used again: full after", synced)
    _verify(fs.path / "after", 11, synced)
    check(file_hash(keep) == want, "another file changed")
    fs.check_server()
    fs.close()
    fs.weft("fs", "check", "--config", fs.config)


MAKERS = 8


def _until_full(make):
    """Several at once call make(0), make(1), ... until ENOSPC; the numbers that were made."""

    def maker(first):
        made = []
        for number in range(first, 100_000, MAKERS):
            try:
                make(number)
            except OSError as error:
                check(error.errno == errno.ENOSPC, "the full file system says", error)
                return made
            made.append(number)
        check(False, len(made), "were made without ENOSPC")

    with ThreadPoolExecutor(MAKERS) as makers:
        return sum(makers.map(maker, range(MAKERS)), [])


def _ballast(path):
    """Takes what the disk has left."""
    with open(path, "wb") as out:
        try:
            while True:
                out.write(bytes(PIECE))
                out.flush()
        except OSError as error:
            check(error.errno == errno.ENOSPC, "the full disk says", error)
    # What did not fit is still in Python's buffer; the next piece of the disk goes too.
    with open(str(path) + "2", "wb", buffering=0) as out:
        while True:
            try:
                out.write(bytes(4096))
            except OSError:
                return


@case(timeout_s=300)
def full_state(ctx):
    """The disk under state_dir is full: ENOSPC for new names and data, removing works, and all is well when it has room."""
    fs = Cluster(ctx, target_count=2, target_bytes=256 * MIB)
    fs.state.mkdir(parents=True)
    image = fs.dir / "state.img"
    with open(image, "wb") as out:
        out.truncate(104 * MIB)
    run(["mkfs.ext4", "-q", "-F", "-m", "0", image])
    run(["mount", "-o", "loop", image, fs.state])
    remember(ctx.work, "mount", fs.state)
    fs.create()
    fs.start()
    fs.mount()
    old = fs.path / "old"
    old.write_bytes(random.Random(3).randbytes(3 * MIB))
    want = file_hash(old)
    data = fs.path / "data"
    data.touch()
    for turn in range(2):
        ballast = fs.state / "ballast"
        _ballast(ballast)
        links = fs.path / ("links%d" % turn)
        links.mkdir()
        # Long links fill the database soonest; then names and small files.
        made = _until_full(lambda number: os.symlink("x" * 3600, links / str(number)))
        names = _until_full(lambda number: open(links / ("n%d" % number), "x").close())
        check(len(made) > 300, "full after", len(made), "links and", len(names), "names")
        ctx.figure("full_state.links", len(made), "links")
        check(file_hash(old) == want, "another file changed")
        os.chmod(old, 0o640 + turn)
        if turn == 0:
            fs.kill()
            fs.start()
            fs.remount()
        # Data of a file that is there: written, or ENOSPC; never worse.
        _fill(data, 5, 32 * MIB)
        with ThreadPoolExecutor(MAKERS) as removers:
            list(removers.map(lambda number: os.unlink(links / str(number)), made))
        check(len(os.listdir(links)) == len(names), "the names are not there")
        shutil.rmtree(links)
        os.unlink(ballast)
        os.unlink(str(ballast) + "2")
        # The volume and the indices take room again as time passes.
        again = fs.path / ("again%d" % turn)
        eventually("links can be made again", lambda: _can_link(again, 1000), 20, 0.2)
        shutil.rmtree(again)
        check(file_hash(old) == want, "another file changed")
    synced, full = _fill(fs.path / "after", 11, 64 * MIB)
    check(not full, "full after", synced)
    _verify(fs.path / "after", 11, synced)
    fs.check_server()
    fs.close()
    fs.weft("fs", "check", "--config", fs.config)
    run(["umount", fs.state])


def _can_link(folder, count):
    """Whether so many long links fit; those that did stay."""
    try:
        folder.mkdir(exist_ok=True)
        for number in range(len(os.listdir(folder)), count):
            os.symlink("x" * 3600, folder / str(number))
    except OSError as error:
        check(error.errno == errno.ENOSPC, "making a name says", error)
        return False
    return True
