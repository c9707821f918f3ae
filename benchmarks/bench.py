#!/usr/bin/env python3
"""make bench: a cluster of its own, a local directory beside it, and `weft-load compare` over both.

    benchmarks/bench.py [ARGUMENTS OF weft-load compare]      e.g. --quick, --rounds 1, --only fio
    PEER="/mnt/other beegfs=/mnt/b" benchmarks/bench.py       other mounted file systems, measured in turn with ours

The cluster (one node, 4 target files) and the local directory are under var/ on the same disk, and go away at the
end. The loads, the table and the verdict are those of benchmarks/load; its exit code is this program's. The figures
are also in var/bench.jsonl, and drawn in var/bench.svg.
"""

import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))

from lib.base import ROOT, VAR  # noqa: E402
from lib.cluster import MIB, Cluster, program  # noqa: E402
from lib.runner import Scratch  # noqa: E402

TARGET_BYTES = 3072 * MIB


def main():
    """Makes the cluster, runs the loads, cleans up."""
    if os.geteuid() != 0:
        sys.exit("make bench mounts a file system: run it as root")
    scratch = Scratch("bench")
    with scratch as ctx:
        cluster = Cluster(ctx, target_bytes=TARGET_BYTES)
        cluster.create()
        cluster.start()
        cluster.mount()
        local = ctx.work / "local"
        local.mkdir()
        pids = [cluster.server_pid(), cluster.mounts["mnt"].core_pid()]
        args = [program("weft-load"), "compare", "--mount", cluster.path, "--local", local]
        args += ["--json", VAR / "bench.jsonl", "--plot", VAR / "bench.svg"]
        args += [part for peer in os.environ.get("PEER", "").split() for part in ("--peer", peer)]
        args += [part for pid in pids for part in ("--daemon-pid", pid)]
        code = subprocess.call([str(part) for part in [*args, *sys.argv[1:]]], cwd=ROOT)
        cluster.close()
    return 1 if scratch.complaints else code


if __name__ == "__main__":
    sys.exit(main())
