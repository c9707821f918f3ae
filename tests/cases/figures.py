"""Proof 7: `make bench` gives its figures. One quick round here, for the exit code: every row counts its own errors.

No figure is asserted: a test machine may be busy. What the figures say stands in benchmarks/RESULTS.md.
"""

from lib.base import case, check
from lib.cluster import MIB, Cluster, program
from lib.procs import run

TARGET_BYTES = 2048 * MIB


@case(timeout_s=600)
def first_figures(ctx):
    """weft-load compare, quick, one round, on a mount and a local directory."""
    fs = Cluster(ctx, target_bytes=TARGET_BYTES)
    fs.create()
    fs.start()
    fs.mount()
    local = ctx.work / "local"
    local.mkdir()
    done = run(
        [program("weft-load"), "compare", "--mount", fs.path, "--local", local, "--quick", "--rounds", "1"],
        timeout_s=540,
    )
    rows = [line for line in done.out.splitlines() if line.startswith("| ") and "---" not in line]
    check(len(rows) > 20, "only", len(rows), "rows:", done.out)
    fs.close()
