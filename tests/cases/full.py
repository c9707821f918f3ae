"""Proof 5, a full file system: ENOSPC where POSIX says it, nothing else harmed, freed space usable again."""

import errno
import os
import random

from lib.base import case, check, eventually
from lib.cluster import MIB, Cluster
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
    """Small targets filled up: ENOSPC, other files intact, after a removal the space is there again; twice."""
    fs = Cluster(ctx, target_bytes=128 * MIB)
    fs.create()
    fs.start()
    fs.mount()
    keep = fs.path / "keep"
    keep.write_bytes(random.Random(1).randbytes(5 * MIB))
    want = file_hash(keep)
    empty = _free(fs.path)
    check(empty > 50 * MIB, "statvfs says that only", empty, "bytes are free in a new file system")
    limit = 4 * 128 * MIB
    for turn in range(2):
        synced, full = _fill(fs.path / "big", 7 + turn, limit)
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
        os.unlink(fs.path / "big")
        eventually("the space comes back", lambda: _free(fs.path) > empty * 0.9, 30, 0.2)
    synced, full = _fill(fs.path / "after", 11, empty // 2 // PIECE * PIECE)
    check(not full, "half of the freed space cannot be used again: full after", synced)
    _verify(fs.path / "after", 11, synced)
    check(file_hash(keep) == want, "another file changed")
    fs.check_server()
    fs.close()
    fs.weft("fs", "check", "--config", fs.config)
