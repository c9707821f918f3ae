#!/usr/bin/env python3
"""Where the time of one operation goes, from a program's system call to the device and back.

    benchmarks/steps.py [--seconds S] [--only LOAD,...] [--json FILE]

One node on the disk, one mount, one program, one operation at a time; each load for some seconds on the mount and on a plain
directory of the same disk. The program's median time of a call is split by what `weft trace` recorded of the same
operations: medians in microseconds of each part, and what is left for the kernel (the call itself, the requests' way to the mount
and back, sleeping and being woken). Parts are medians of their own, so they add up nearly. Options of a mount: --options.
"""

import argparse
import json
import mmap
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))

from lib.cluster import MIB, Cluster  # noqa: E402
from lib.runner import Scratch, append_json  # noqa: E402

FILE_BYTES = 256 * MIB
BLOCK = 4096
# Operations asked of the recorder: it holds the latest of a mount.
TRACED = 400


def offsets(salt):
    """Blocks of the file in no order."""
    at = salt
    while True:
        at = (at * 1103515245 + 12345) % (1 << 31)
        yield at % (FILE_BYTES // BLOCK) * BLOCK


class Direct:
    """4 KiB read or written directly, anywhere in a file."""

    def __init__(self, writes):
        self.asked = ["write" if writes else "read"]
        self.writes = writes

    def begin(self, folder):
        file = folder / "file"
        if not file.exists():
            with open(file, "wb") as out:
                for _ in range(FILE_BYTES // MIB):
                    out.write(os.urandom(MIB))
                os.fsync(out.fileno())
        self.fd = os.open(file, os.O_RDWR | os.O_DIRECT)
        self.memory, self.at = mmap.mmap(-1, BLOCK), offsets(1)

    def once(self, _):
        if self.writes:
            os.pwritev(self.fd, [self.memory], next(self.at))
        else:
            os.preadv(self.fd, [self.memory], next(self.at))

    def end(self):
        os.close(self.fd)


class Names:
    """Files made (with `data`), looked at by a name nobody knows, or removed."""

    def __init__(self, asked, data=b""):
        self.asked, self.data = asked, data

    def begin(self, folder):
        self.folder = folder / ("names-%d" % time.monotonic_ns())
        self.folder.mkdir()
        if self.asked[-1] == "unlink":
            for number in range(20000):
                os.close(os.open(self.folder / str(number), os.O_WRONLY | os.O_CREAT))

    def once(self, number):
        if self.asked[-1] == "unlink":
            os.unlink(self.folder / str(number))
            return
        fd = os.open(self.folder / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        if self.data:
            os.write(fd, self.data)
        os.close(fd)

    def end(self):
        pass


# What a mount is asked for in each call, in order: the kernel's requests, which the program waits for.
LOADS = {
    "4 KiB read": Direct(False),
    "4 KiB write": Direct(True),
    "create + close": Names(["getattr", "lookup", "create", "flush"]),
    "create + write 3,901 + close": Names(["getattr", "lookup", "create", "getxattr", "write", "flush"], b"x" * 3901),
    "unlink": Names(["getattr", "unlink"]),
}


def timed(load, folder, seconds):
    """Median time of a call, in microseconds, and how many there were."""
    load.begin(folder)
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end and len(took) < 20000:
        begin = time.perf_counter_ns()
        load.once(len(took))
        took.append((time.perf_counter_ns() - begin) / 1000)
    load.end()
    return statistics.median(took), len(took)


def parts_of(op):
    """One operation at the mount: microseconds of each part of it."""
    own = [part for part in op["requests"] if part["own"] and part["server"]]
    if len(own) != 1:
        return None if op["requests"] else {"mount": op["took_us"]}
    (part,) = own
    server = part["server"]
    began, ended = server["device_began_us"], server["device_ended_us"]
    device = 0 if began is None else ended - began
    at_server = server["replied_us"] - server["received_us"]
    there = server["received_us"] - part["sent_us"] + part["answered_us"] - server["replied_us"]
    mount = part["sent_us"] + op["took_us"] - part["answered_us"]
    return {"mount": mount, "network": there, "server": at_server - device, "device or log": device}


def traced(cluster, mount, asked):
    """Medians of the parts over all that a call asks for."""
    total, count = {}, 0
    for name in asked:
        args = ["trace", "--op", name, "--mount", mount.path, "--last", str(TRACED), "--json"]
        ops = json.loads(cluster.weft(*args, timeout_s=60).out)["operations"]
        found = [parts for parts in map(parts_of, ops) if parts]
        if not found:
            continue
        count += 1
        for part in {part for parts in found for part in parts}:
            total[part] = total.get(part, 0) + statistics.median(parts.get(part, 0) for parts in found)
    return total, count


def main():
    """Starts the node, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(LOADS), help="loads: " + "; ".join(LOADS))
    parser.add_argument("--options", default="", help="of the mount: A=B,C=D")
    parser.add_argument("--json", help="all figures, one line")
    args = parser.parse_args()
    if unknown := set(args.only) - set(LOADS):
        sys.exit("no load is called %s: %s" % (", ".join(unknown), "; ".join(LOADS)))
    if os.geteuid() != 0:
        sys.exit("this mounts a file system: run it as root")
    rows = []
    with Scratch("steps") as ctx:
        cluster = Cluster(ctx, target_bytes=1024 * MIB)
        cluster.create()
        cluster.start()
        mount = cluster.mount("m", [option for option in args.options.split(",") if option])
        plain = Path(ctx.work, "plain")
        plain.mkdir()
        columns = ["mount", "network", "server", "device or log"]
        print("| call | plain directory us | Weft us | requests of the kernel | %s | the kernel |" % " | ".join(columns))
        print("|---|---|---|---|%s" % ("---|" * (len(columns) + 1)))
        for name in args.only:
            load = LOADS[name]
            here, _ = timed(load, plain, args.seconds / 2)
            took, calls = timed(load, mount.path, args.seconds)
            parts, requests = traced(cluster, mount, load.asked)
            values = [parts.get(column, 0) for column in columns]
            rest = took - sum(values)
            shown = " | ".join("%.0f" % value for value in [*values, rest])
            print("| %s | %.0f | %.0f | %d | %s |" % (name, here, took, requests, shown), flush=True)
            rows.append({"call": name, "plain_us": here, "weft_us": took, "calls": calls, "requests": requests, "parts_us": parts})
        cluster.close()
        append_json(args.json, {"options": args.options, "rows": rows})


if __name__ == "__main__":
    main()
