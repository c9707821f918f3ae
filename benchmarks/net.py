#!/usr/bin/env python3
"""make bench-net: a server of its own, and `weft-load net` against it over TCP on loopback.

    benchmarks/net.py [ARGUMENTS OF weft-load net]      e.g. --rounds 1, --data 256M

The server has one shard on core 0 and one target under var/; the client runs on core 1, with a store of its own on
the same disk for the ratio. The exit code is that of weft-load; the figures are also in var/bench.jsonl.
"""

import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))

from lib.base import ROOT, VAR  # noqa: E402
from lib.cluster import MIB, Cluster, program  # noqa: E402
from lib.runner import Scratch  # noqa: E402

TARGET_BYTES = 2048 * MIB


def written(path):
    """Writes every byte of a new target file: blocks that are only promised cost a file system more."""
    with open(path, "wb") as file:
        for _ in range(TARGET_BYTES // (8 * MIB)):
            file.write(bytes(8 * MIB))
        os.fsync(file.fileno())


def main():
    """Makes the server, runs the load, cleans up."""
    scratch = Scratch("bench-net")
    with scratch as ctx:
        cluster = Cluster(ctx, target_count=1, target_bytes=TARGET_BYTES)
        cluster.targets[0].parent.mkdir(parents=True)
        written(cluster.targets[0])
        cluster.create()
        cluster.start()
        args = [program("weft-load"), "net", "--server", "127.0.0.1:%d" % cluster.port, "--target", 0]
        args += ["--store-file", ctx.work / "store", "--json", VAR / "bench.jsonl"]
        code = subprocess.call([str(part) for part in [*args, *sys.argv[1:]]], cwd=ROOT)
        cluster.close()
    return 1 if scratch.complaints else code


if __name__ == "__main__":
    sys.exit(main())
