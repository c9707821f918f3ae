"""Proof 3, fsx: random reads, writes, truncates, maps, allocations, holes and copies of one file against a model in memory."""

import os
import sys
import time

from lib.base import ROOT, case, check
from lib.procs import spawn, tail, wait
from lib.trees import FSX, tool

PAIR = ROOT / "tests" / "fsx_pair.py"
CONFIG = """\
flen = %(length)d
nomsyncafterwrite = true
[opsize]
max = %(most)d
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 10
fsync = 0.3
fdatasync = 0.3
posix_fallocate = 2
punch_hole = 3
sendfile = 5
posix_fadvise = 2
copy_file_range = 5
"""


def _config(ctx, length, most):
    path = ctx.work / ("fsx-%d.toml" % length)
    path.write_text(CONFIG % {"length": length, "most": most})
    return path


def _arguments(ctx, fs, name, count, config, seed):
    artifacts = ctx.work / "artifacts"
    artifacts.mkdir(exist_ok=True)
    fsx = tool("fsx", FSX)
    return [fsx, "-N", count, "-S", seed, "-f", config, "-P", artifacts, fs.path / name]


@case(timeout_s=900, peer=True)
def fsx(ctx):
    """fsx, 100,000 operations on a file inside one chunk, 8,000 on one over all targets, at once: no mismatch."""
    fs = ctx.fs()
    plans = [
        ("small", 256 << 10, 96 << 10, ctx.scaled(100_000, 5_000)),
        ("striped", 10 << 20, 1_300_000, ctx.scaled(8_000, 1_000)),
    ]
    begin = time.monotonic()
    running = {}
    for name, length, most, count in plans:
        log = ctx.work / ("fsx-%s.log" % name)
        running[name] = spawn(_arguments(ctx, fs, name, count, _config(ctx, length, most), ctx.seed), log)
    for name, _, _, count in plans:
        code = wait(running[name], 600, "fsx " + name)
        check(code == 0, "fsx", name, "ended with", code, "\n" + tail(ctx.work / ("fsx-%s.log" % name), 40))
    total = sum(plan[3] for plan in plans)
    ctx.figure("fsx.operations", total, "operations")
    ctx.figure("fsx.rate", total / (time.monotonic() - begin), "operations/s")
    fs.close()


@case(timeout_s=400, peer=True)
def fsx_kill(ctx):
    """fsx while the server is killed and restarted again and again: pauses, no error, no mismatch."""
    fs = ctx.fs()
    count, log = ctx.scaled(20_000, 3_000), ctx.work / "fsx.log"
    child = spawn(_arguments(ctx, fs, "killed", count, _config(ctx, 3 << 20, 200_000), ctx.seed + 1), log)
    kills = 0
    while child.poll() is None and kills < ctx.scaled(6, 3):
        time.sleep(0.3 + ctx.random.random())
        if child.poll() is not None:
            break
        fs.kill()
        time.sleep(ctx.random.random() * 0.5)
        fs.start()
        kills += 1
    code = wait(child, 300, "fsx")
    check(code == 0, "fsx ended with", code, "\n" + tail(log, 40))
    check(kills > 0 or fs.is_peer, "fsx was over before the first kill")
    ctx.figure("fsx_kill.kills", kills, "kills")
    fs.close()


# As many operations in each mode; a second is enough for 100 of them, also where the machine is shared.
PAIR_OPS = int(os.environ.get("WEFT_FSX_OPS", 0))
PAIR_S = max(2_900, PAIR_OPS // 100)


@case(timeout_s=PAIR_S + 100)
def fsx_pair(ctx):
    """tests/fsx_pair.py: buffered, direct and mapped, on one mount and on two of the same file, six at once.

    WEFT_FSX_OPS=1000000 for the long run.
    """
    count = PAIR_OPS or ctx.scaled(3_000, 1_000)
    fs = ctx.fs()
    other = fs.mount("other").path
    running = {}
    for mode in ("buffered", "direct", "mmap"):
        for name, mounts in (("one", (fs.path,)), ("two", (fs.path, other))):
            title = "%s-%s" % (name, mode)
            files = [path / title for path in mounts]
            args = [sys.executable, PAIR, *files, "--mode", mode, "--ops", count, "--seed", ctx.seed]
            running[title] = spawn(args, ctx.work / (title + ".log"))
    begin = time.monotonic()
    for title, child in running.items():
        code = wait(child, PAIR_S, title)
        check(code == 0, title, "ended with", code, "\n" + tail(ctx.work / (title + ".log"), 50))
    ctx.figure("fsx_pair.rate", len(running) * count / (time.monotonic() - begin), "operations/s")
    fs.close()
