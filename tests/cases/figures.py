"""Proof 7: `make bench` gives its figures. One quick round here, for the exit code: every row counts its own errors.

No figure is asserted: a test machine may be busy. What the figures say stands in benchmarks/RESULTS.md.
"""

import re
import subprocess
import sys

from lib.base import ROOT, case, check
from lib.cluster import MIB, Cluster, program
from lib.procs import run

TARGET_BYTES = 2048 * MIB


@case(timeout_s=600)
def first_figures(ctx):
    """weft bench, quick, one round, on a mount and a local directory, with a third beside them."""
    fs = Cluster(ctx, target_bytes=TARGET_BYTES)
    fs.create()
    fs.start()
    fs.mount()
    local, other = ctx.work / "local", ctx.work / "other"
    local.mkdir()
    other.mkdir()
    plot = ctx.work / "plot.svg"
    done = run(
        [program("weft"), "bench", fs.path, local, "--quick", "--rounds", "1", "--peer", other, "--plot", plot],
        timeout_s=540,
    )
    rows = [line for line in done.out.splitlines() if line.startswith("| ") and "---" not in line]
    check(len(rows) > 60, "only", len(rows), "rows:", done.out)
    check("other: median" in done.out and "tar -x" in plot.read_text(), "a directory or the plot is missing:", done.out)
    fs.close()


@case(timeout_s=300)
def checkpoint_waits(ctx):
    """How long creates, and questions that need no disk, wait while the names' checkpoints are made, one a second."""
    fs = Cluster(ctx)
    fs.create()
    text, changed = re.subn(r"(?m)^checkpoint_s.*$", "checkpoint_s = 1", fs.config.read_text())
    check(changed == 1, "no checkpoint_s in the config:", text)
    fs.config.write_text(text)
    fs.start()
    fs.mount()
    seconds = ctx.scaled(60, 10)
    workers = []
    for number, what in enumerate(["make"] * 4 + ["look"]):
        directory = fs.path / ("%s-%d" % (what, number))
        directory.mkdir()
        command = [sys.executable, ROOT / "tests" / "latency.py", what, directory, seconds]
        workers.append((what, subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE)))
    names = ("p50", "p99", "p99.9", "longest")
    worst = {}
    for what, worker in workers:
        out, _ = worker.communicate(timeout=seconds + 60)
        check(worker.returncode == 0, what, "failed")
        *times, count = out.split()
        check(int(count) > seconds, "only", int(count), "operations")
        for name, value in [*zip(names, map(float, times)), ("count", -int(count))]:
            worst[what, name] = max(worst.get((what, name), value), value)
    for (what, name), value in worst.items():
        ctx.figure("checkpoint_waits.%s.%s" % (what, name), abs(value), "" if name == "count" else "ms")
    fs.check_server()
    fs.close()
