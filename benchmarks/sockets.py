#!/usr/bin/env python3
"""A mount that meets its own machine's server over a unix socket beside one that uses TCP: the same loads, in turn, in one run.

    benchmarks/sockets.py [--rounds N] [--seconds S] [--only WORD] [--json FILE]

A cluster of its own (one node, 4 target files), mounted twice, once with local_socket=off, and each load in each mount in
turn. Prints the medians over TCP, and median and quartiles of the rounds' ratios unix/TCP: operations per second, and
processor time of the server and of the mount for each operation. On a loaded machine the rates are worth little.
"""

import argparse
import os
import shutil
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))

from builds import cpu_us, ratios  # noqa: E402
from lib.cluster import MIB, Cluster  # noqa: E402
from lib.procs import run  # noqa: E402
from lib.runner import Scratch, append_json  # noqa: E402
from transports import run_fio, run_metadata  # noqa: E402

WAYS = {"tcp": ["local_socket=off"], "unix": ["local_socket=auto"]}
FILE_MIB = 512
LOADS = {
    "4 KiB random writes, 32 x 2": lambda *at: run_fio("randwrite", "4k", 2, 32, *at),
    "4 KiB random reads, 32 x 2": lambda *at: run_fio("randread", "4k", 2, 32, *at),
    "4 KiB writes, one at a time": lambda *at: run_fio("randwrite", "4k", 1, 1, *at),
    "4 KiB reads, one at a time": lambda *at: run_fio("randread", "4k", 1, 1, *at),
    "1 MiB writes, depth 16": lambda *at: run_fio("write", "1m", 1, 16, *at),
    "1 MiB reads, depth 16": lambda *at: run_fio("read", "1m", 1, 16, *at),
    "creates, 2 processes": lambda *at: run_metadata("create", 2, *at),
}


def mounts_of(cluster, work):
    """Folder and client-core of each way."""
    found = {}
    for way, options in WAYS.items():
        mount = cluster.mount(way, options)
        servers = cluster.listed(mount)["servers"]
        assert servers[way] > 0 and sum(servers.values()) == servers[way], servers
        folder = mount.path / ("of-" + way)
        folder.mkdir()
        fill = ["fio", "--name=fill", "--filename=%s" % (folder / "file"), "--rw=write", "--bs=1m", "--direct=1"]
        run([*fill, "--size=%dm" % FILE_MIB, "--end_fsync=1"], timeout_s=300, cwd=work)
        found[way] = folder, mount.core_pid()
    return found


def once(load, place, server, seconds, work):
    """Operations per second, and microseconds of the server, of the mount and of both for each."""
    folder, mount = place
    before, begin = [cpu_us([pid]) for pid in (server, mount)], time.monotonic()
    rate = load(folder, seconds, work)
    operations = max(rate * min(time.monotonic() - begin, seconds), 1)
    of_server, of_mount = ((cpu_us([pid]) - at) / operations for pid, at in zip((server, mount), before))
    return rate, of_server, of_mount, of_server + of_mount


def measure(server, found, args, work):
    """Prints the table; the rows as dictionaries."""
    print("| load | op/s TCP | unix/TCP | server CPU us/op TCP | unix/TCP | mount CPU us/op TCP | unix/TCP | both, unix/TCP |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for name, load in LOADS.items():
        if args.only and args.only not in name:
            continue
        samples = {way: [] for way in WAYS}
        for round_ in range(args.rounds):
            for way in list(WAYS) if round_ % 2 == 0 else list(WAYS)[::-1]:
                samples[way].append(once(load, found[way], server, args.seconds, work))
        columns = list(zip(zip(*samples["tcp"]), zip(*samples["unix"])))
        cells = []
        for (tcp, unix), digits in zip(columns[:3], (0, 1, 1)):
            cells += ["%.*f" % (digits, statistics.median(tcp)), ratios(tcp, unix)]
        print("| %s | %s | %s |" % (name, " | ".join(cells), ratios(*columns[3])), flush=True)
        rows.append({"load": name, "samples": samples})
    return rows


def main():
    """Mounts both ways, measures, cleans up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load in each round")
    parser.add_argument("--only", metavar="WORD", help="loads whose name has this in it")
    parser.add_argument("--json", metavar="FILE", help="all figures, one line")
    args = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("fio"):
        sys.exit("this mounts file systems and runs fio: install fio, and run it as root")
    if args.rounds < 2:
        sys.exit("--rounds: quartiles take two at least")
    with Scratch("sockets") as ctx:
        cluster = Cluster(ctx, target_bytes=1024 * MIB)
        cluster.create()
        cluster.start()
        rows = measure(cluster.server_pid(), mounts_of(cluster, ctx.work), args, ctx.work)
        cluster.close()
        append_json(args.json, {"rows": rows})


if __name__ == "__main__":
    sys.exit(main())
