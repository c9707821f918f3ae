"""Proof 7: `make bench` gives its figures. One quick round here, for the exit code: every row counts its own errors.

No figure is asserted: a test machine may be busy. What the figures say stands in benchmarks/RESULTS.md.
"""

from lib.base import case, check
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
