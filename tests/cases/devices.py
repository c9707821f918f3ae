"""Block devices as targets: sector sizes, what is on them already, discards, growth."""

import os
import random
import subprocess
from pathlib import Path

from lib.base import case, check, eventually
from lib.cluster import MIB, Cluster
from lib.procs import run
from lib.trees import file_hash

PIECE = 1 << 20


def _loop(path, size, sector=512):
    """A loop device over a sparse file."""
    with open(path, "wb") as made:
        made.truncate(size)
    return run(["losetup", "--find", "--show", "--sector-size", sector, path]).out.strip()


def _write(path, seed, count):
    source = random.Random(seed)
    with open(path, "wb") as out:
        for _ in range(count):
            out.write(source.randbytes(PIECE))
        os.fsync(out.fileno())
    return file_hash(path)


def _held(files):
    """Bytes the files take of their disk."""
    return sum(os.stat(path).st_blocks * 512 for path in files)


def _total(path):
    info = os.statvfs(path)
    return info.f_blocks * info.f_frsize


def _refused(fs, words, *args):
    """The command fails and says why."""
    said = fs.weft(*args, ok=(1,)).out
    for word in (*words, "next:"):
        check(word in said, "no word of", repr(word), "in:", said)


def _occupied(ctx, fs, loops):
    """A device with a file system is not formatted; one that is mounted not even with --force."""
    device = _loop(ctx.work / "other.img", 64 * MIB)
    loops.append(device)
    run(["mkfs.ext4", "-q", device], timeout_s=60)
    args = ["target", "format", "--config", fs.config, device, "--id", "9"]
    _refused(fs, ["ext2/3/4", "--force"], *args)
    point = ctx.work / "other"
    point.mkdir()
    run(["mount", device, point])
    try:
        _refused(fs, ["in use"], *args, "--force")
    finally:
        run(["umount", point])


@case(timeout_s=300)
def block_devices(ctx):
    """Loop devices, 512- and 4,096-byte sectors: files over kill -9, freed space leaves the device, growth online."""
    files = [ctx.work / "d512.img", ctx.work / "d4096.img"]
    loops = []
    try:
        for path, sector in zip(files, (512, 4096)):
            loops.append(_loop(path, 192 * MIB, sector))
        _devices(ctx, files, loops)
    finally:
        for device in loops:
            subprocess.run(["losetup", "--detach", device], check=False)


def _devices(ctx, files, loops):
    fs = Cluster(ctx, devices=[Path(device) for device in loops])
    fs.create()
    _occupied(ctx, fs, loops)
    fs.start()
    fs.mount()
    empty, total = _held(files), _total(fs.path)
    want = _write(fs.path / "big", 1, 200)
    check(_held(files) > empty + 190 * MIB, "200 MiB written take", _held(files) - empty)
    fs.kill()
    fs.start()
    fs.remount()
    check(file_hash(fs.path / "big") == want, "a file changed over kill -9")
    keep = _write(fs.path / "keep", 2, 8)
    os.unlink(fs.path / "big")
    eventually("freed space leaves the devices", lambda: _held(files) < empty + 40 * MIB, 30, 0.2)
    ctx.figure("discard.held", (_held(files) - empty) / MIB, "MiB")
    check(file_hash(fs.path / "keep") == keep, "a file changed by discards")
    for path, device in zip(files, loops):
        os.truncate(path, 448 * MIB)
        run(["losetup", "--set-capacity", device])
    fs.weft("target", "grow", "0", "--config", fs.config)
    fs.weft("target", "grow", loops[1], "--config", fs.config)
    eventually("df shows the growth", lambda: _total(fs.path) >= total + 500 * MIB, 10, 0.1)
    want = _write(fs.path / "more", 3, 500)
    fs.stop()
    fs.start()
    fs.remount()
    check(file_hash(fs.path / "more") == want, "a file on new space changed over a restart")
    check(file_hash(fs.path / "keep") == keep, "an old file changed by growth")
    check(_total(fs.path) >= total + 500 * MIB, "the growth is gone after a restart:", _total(fs.path))
    _refused(fs, ["no such target"], "target", "grow", "7", "--config", fs.config)
    fs.check_server()
    fs.close()
    fs.weft("fs", "check", "--config", fs.config)
