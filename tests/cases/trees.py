"""Proof 1, real trees: tens of thousands of files copied in, compared, and compared again after kill -9."""

import shutil
import time

from lib.base import case, check
from lib.procs import run
from lib.trees import dependency_closure, fsync_tree, manifest, pipe_tar, same


def _source(ctx):
    """The dependency closure; with --quick every tenth crate of it."""
    full = dependency_closure()
    if not ctx.quick:
        return full
    part = ctx.work / "bulk"
    part.mkdir()
    for crate in sorted(full.iterdir())[::10]:
        shutil.copytree(crate, part / crate.name, symlinks=True)
    return part


@case(timeout_s=900, peer=True)
def trees(ctx):
    """The dependency closure by cp -a and tar: diff -r and sha256 agree, also after kill -9 and remount."""
    source = _source(ctx)
    want = manifest(source)
    files = sum(1 for entry in want.values() if len(entry) > 6)
    ctx.figure("trees.files", files, "files")
    fs = ctx.fs()
    by_cp, by_tar = fs.path / "by-cp", fs.path / "by-tar"

    took = run(["cp", "-a", source, by_cp], timeout_s=400).seconds
    ctx.figure("trees.cp", files / took, "files/s")
    begin = time.monotonic()
    pipe_tar(source, by_tar, 400)
    ctx.figure("trees.tar", files / (time.monotonic() - begin), "files/s")

    for copy in (by_cp, by_tar):
        took = run(["diff", "-r", "--no-dereference", source, copy], timeout_s=400).seconds
        ctx.figure("trees.diff", files / took, "files/s")
        same(want, manifest(copy), "%s against its source" % copy.name)
    begin = time.monotonic()
    synced = sum(fsync_tree(copy) for copy in (by_cp, by_tar))
    ctx.figure("trees.fsync", synced / (time.monotonic() - begin), "files/s")

    fs.kill()
    fs.start()
    fs.remount()
    for copy in (by_cp, by_tar):
        same(want, manifest(copy), "%s after kill -9 and remount" % copy.name)
    begin = time.monotonic()
    run(["rm", "-rf", by_cp], timeout_s=300)
    ctx.figure("trees.rm", files / (time.monotonic() - begin), "files/s")
    check(not by_cp.exists(), "rm -rf left the tree")
    same(want, manifest(by_tar), "by-tar after its neighbour was removed")
    fs.close()
