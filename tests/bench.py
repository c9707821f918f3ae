#!/usr/bin/env python3
"""First figures: fio and an mdtest-like load, on a Weft mount and on a plain local directory, in the same run.

    tests/bench.py [--quick] [--only mount|local] [--size MIB] [--files N]

Makes a cluster of its own under var/ (4 target files, one node), runs every load on the local directory and on the
mount, and prints a table beside what OrangeFS 2.10 reached on this kind of machine (FACTS.md). Also in
var/bench.json. Exit code 0 when every figure beats OrangeFS, 1 otherwise.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib.base import VAR, Context  # noqa: E402
from lib.cluster import Cluster  # noqa: E402
from lib.procs import fork_worker, join_workers, run  # noqa: E402
from lib.runner import clean  # noqa: E402

# name, fio arguments, which side of the result, unit, OrangeFS 2.10 (FACTS.md, "Peers on this machine")
FIO = [
    ("sequential write, direct 1 MiB, depth 16", "--rw=write --bs=1m --direct=1 --iodepth=16", "write", "MiB/s", 248),
    ("sequential read, direct 1 MiB, depth 16", "--rw=read --bs=1m --direct=1 --iodepth=16", "read", "MiB/s", 326),
    ("random read, direct 4 KiB, depth 32 x 2", "--rw=randread --bs=4k --direct=1 --iodepth=32 --numjobs=2", "read", "op/s", 5300),
    ("random write, direct 4 KiB, depth 32 x 2", "--rw=randwrite --bs=4k --direct=1 --iodepth=32 --numjobs=2", "write", "op/s", 5700),
    ("random read, direct 4 KiB, one at a time", "--rw=randread --bs=4k --direct=1 --iodepth=1", "read", "op/s", 5100),
    ("random write, direct 4 KiB, one at a time", "--rw=randwrite --bs=4k --direct=1 --iodepth=1", "write", "op/s", 5700),
    ("sequential write, buffered 1 MiB", "--rw=write --bs=1m --end_fsync=1", "write", "MiB/s", 268),
    ("sequential read, buffered 1 MiB", "--rw=read --bs=1m", "read", "MiB/s", 297),
]
# name, bytes of each file, OrangeFS 2.10: create, stat, read, remove
META = [
    ("empty files", 0, {"create": 584, "stat": 14300, "remove": 1200}),
    ("files of 3,901 bytes in one directory", 3901, {"create": 411, "stat": 1400, "read": 1500, "remove": 842}),
]
PROCESSES = 2


def fio(where, arguments, side, unit, mib, seconds):
    """One fio run; its figure."""
    args = ["fio", "--name=bench", "--filename=%s/fio.data" % where, "--size=%dm" % mib, "--output-format=json"]
    args += ["--group_reporting", "--randrepeat=0", "--invalidate=1"] + arguments.split()
    args += ["--ioengine=libaio"] if "--direct=1" in arguments else ["--ioengine=psync"]
    if unit == "op/s":
        args += ["--time_based", "--runtime=%d" % seconds]
    out = run(args, timeout_s=300).out
    result = json.loads(out[out.index("{") :])["jobs"][0][side]
    return result["bw_bytes"] / (1 << 20) if unit == "MiB/s" else result["iops"]


def _phase(where, number, count, size, phase):
    top = os.path.join(where, "meta") if size else os.path.join(where, "meta", str(number))
    names = [os.path.join(top, "%d-%d" % (number, index)) for index in range(count)]
    data = b"m" * size
    for name in names:
        if phase == "create":
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            if data:
                os.write(descriptor, data)
            os.close(descriptor)
        elif phase == "stat":
            os.stat(name)
        elif phase == "read":
            with open(name, "rb", buffering=0) as source:
                source.read()
        else:
            os.unlink(name)


def metadata(where, size, phases, count, between):
    """{phase: operations per second} of PROCESSES processes; `between` empties the caches before stat and read."""
    for number in range(PROCESSES):
        os.makedirs(os.path.join(where, "meta", str(number)), exist_ok=True)
    found = {}
    for phase in phases:
        if phase in ("stat", "read"):
            between()
        begin = time.monotonic()
        workers = [fork_worker(_phase, where, number, count, size, phase) for number in range(PROCESSES)]
        join_workers(workers, 600, phase)
        found[phase] = PROCESSES * count / (time.monotonic() - begin)
    shutil.rmtree(os.path.join(where, "meta"))
    return found


def measure(where, args, between):
    """All figures of one directory: {name: value}."""
    found = {}
    fio(where, "--rw=write --bs=1m --end_fsync=1", "write", "MiB/s", args.size, 0)
    for name, arguments, side, unit, _ in FIO:
        between()
        found[name] = fio(where, arguments, side, unit, args.size, args.seconds)
        print("  %-48s %10.0f %s" % (name, found[name], unit), flush=True)
    os.unlink(os.path.join(where, "fio.data"))
    for name, size, phases in META:
        for phase, value in metadata(where, size, phases, args.files, between).items():
            found["%s: %s" % (name, phase)] = value
            print("  %-48s %10.0f op/s" % ("%s: %s" % (name, phase), value), flush=True)
    return found


def rows():
    """(name, unit, OrangeFS)."""
    for name, _, _, unit, peer in FIO:
        yield name, unit, peer
    for name, _, phases in META:
        for phase, peer in phases.items():
            yield "%s: %s" % (name, phase), "op/s", peer


def drop_caches():
    """Empties the kernel's caches, where it may be done."""
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w") as control:
            control.write("3")
    except OSError:
        pass


def main():
    """Measures, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--only", choices=("mount", "local"))
    parser.add_argument("--size", type=int, metavar="MIB", help="size of fio's file")
    parser.add_argument("--files", type=int, metavar="N", help="files of each of the %d processes" % PROCESSES)
    args = parser.parse_args()
    args.size = args.size or (256 if args.quick else 1024)
    args.files = args.files or (500 if args.quick else 5000)
    args.seconds = 3 if args.quick else 10
    VAR.mkdir(exist_ok=True)
    work = tempfile.mkdtemp(prefix="bench-", dir=VAR)
    ctx = Context(work, args.quick, 1, None)
    found = {}
    try:
        if args.only != "mount":
            print("local directory (%s):" % work)
            local = ctx.work / "local"
            local.mkdir()
            found["local"] = measure(str(local), args, drop_caches)
            shutil.rmtree(local)
        if args.only != "local":
            cluster = Cluster(ctx, target_bytes=2 << 30)
            cluster.create()
            cluster.start()
            cluster.mount()
            print("Weft:")
            found["weft"] = measure(str(cluster.path), args, drop_caches)
            cluster.close()
    finally:
        complaints = clean(ctx.work, -1)
        shutil.rmtree(work, ignore_errors=True)
    print("\n%-48s %10s %10s %10s" % ("", "local", "Weft", "OrangeFS"))
    behind = 0
    for name, unit, peer in rows():
        values = [found.get(where, {}).get(name) for where in ("local", "weft")]
        behind += values[1] is not None and values[1] < peer
        text = ["%10.0f" % value if value is not None else "%10s" % "-" for value in values]
        flag = "  behind" if values[1] is not None and values[1] < peer else ""
        print("%-48s %s %s %10d %s%s" % (name, text[0], text[1], peer, unit, flag))
    (VAR / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    for complaint in complaints:
        print(complaint)
    return 1 if behind or complaints else 0


if __name__ == "__main__":
    sys.exit(main())
