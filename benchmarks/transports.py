#!/usr/bin/env python3
"""FUSE over io_uring beside the classic device: the same loads on both, in turn, in one run.

    benchmarks/transports.py [--local [--serving]] [--rounds N] [--seconds S] [--only WORD] [--options O,...] [--json FILE]

A cluster of its own (one node, 4 target files), mounted twice with nothing cached by the kernel, and each load in each
mount in turn, ROUNDS times. Without the kernel's cache a stat or lookup is two to five requests of it, which the client
answers under its leases; `lookup asked` looks for another name each time, in a directory that the other mount made, so that the
server is asked as well. With --local no server is asked: `local_answers`, an example of fuse-client/mount, answers
from memory, which shows the way from the kernel alone (build it: cargo build --release -p weft-mount --examples); with
--serving its loop spins before it sleeps, as a mount's does (--options spin_us=0: a mount that does not).
Prints medians, their range, the ratio ring/classic, and microseconds of CPU per operation of the client and of the
loading programs together. What is measured on a loaded machine is worth little; the ratios are worth more than the rest.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))

from lib.cluster import MIB, Cluster, binaries, is_mounted  # noqa: E402
from lib.procs import join_workers, run, spawn, wait  # noqa: E402
from lib.runner import Scratch, append_json  # noqa: E402

WAYS = ("classic", "uring")
FILE_MIB = 512
TICKS = os.sysconf("SC_CLK_TCK")


def loop(step, seconds, out):
    """Repeats `step` for so long; writes how often per second."""
    begin = time.monotonic()
    end, count = begin + seconds, 0
    while time.monotonic() < end:
        for _ in range(50):
            step()
        count += 50
    Path(out).write_text(str(count / (time.monotonic() - begin)))


def metadata(kind, folder, worker):
    """What one worker repeats."""
    path = str(folder / "file")
    if kind == "stat":
        return lambda: os.stat(path)
    if kind == "lookup missing":
        missing = str(folder / "nothing")

        def look():
            try:
                os.stat(missing)
            except FileNotFoundError:
                pass

        return look
    if kind == "fstat":
        file = os.open(path, os.O_RDONLY)
        return lambda: os.fstat(file)
    if kind == "open+close":
        return lambda: os.close(os.open(path, os.O_RDONLY))
    state = [0]
    if kind == "lookup asked":
        asked = folder / "asked"
        asked = str(asked if asked.is_dir() else folder)

        def ask():
            state[0] += 1
            try:
                os.stat("%s/no-%d-%d-%d" % (asked, worker, os.getpid(), state[0]))
            except FileNotFoundError:
                pass

        return ask

    def create():
        state[0] += 1
        os.close(os.open("%s/new-%d-%d-%d" % (folder, worker, os.getpid(), state[0]), os.O_CREAT | os.O_WRONLY))

    return create


def run_metadata(kind, threads, folders, seconds, work):
    """Operations per second of all workers, in a folder, or spread over several."""
    folders = folders if isinstance(folders, list) else [folders]
    outs = [work / ("rate%d" % worker) for worker in range(threads)]
    pids = []
    for worker, out in enumerate(outs):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                loop(metadata(kind, folders[worker % len(folders)], worker), seconds, out)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    join_workers(pids, seconds + 60, kind)
    return sum(float(out.read_text()) for out in outs)


def run_fio(mode, block, jobs, depth, folder, seconds, work, extra=()):
    """I/Os per second; direct, in one file, unless `extra` says otherwise."""
    args = ["fio", "--name=row", "--filename=%s" % (folder / "file"), "--rw=" + mode, "--bs=" + block, "--direct=1"]
    args += ["--ioengine=libaio", "--iodepth=%d" % depth, "--numjobs=%d" % jobs, "--group_reporting"]
    args += ["--size=%dm" % FILE_MIB, "--runtime=%dms" % (1000 * seconds), "--time_based", "--output-format=json"]
    out = run([*args, *extra], timeout_s=seconds + 120, cwd=work).out
    found = json.loads(out[out.index("{") :])["jobs"][0]
    return found["write" if "write" in mode else "read"]["iops"]


def rows():
    """Name and what measures it: a function of folder, seconds and work."""
    for kind in ("stat", "lookup missing", "lookup asked", "fstat", "open+close", "create"):
        for threads in (1, 2):
            name = "%s, %d" % (kind, threads)
            yield name, lambda *at, kind=kind, threads=threads: run_metadata(kind, threads, *at)
    for mode in ("randread", "randwrite"):
        for jobs, depth in ((1, 1), (1, 4), (1, 16), (1, 32), (2, 1), (2, 16)):
            name = "4k %s, %d x %d" % (mode, jobs, depth)
            yield name, lambda *at, mode=mode, jobs=jobs, depth=depth: run_fio(mode, "4k", jobs, depth, *at)
    for mode in ("read", "write"):
        for jobs, depth in ((1, 1), (1, 8), (1, 32), (2, 8), (2, 32)):
            name = "1m %s, %d x %d" % (mode, jobs, depth)
            yield name, lambda *at, mode=mode, jobs=jobs, depth=depth: run_fio(mode, "1m", jobs, depth, *at)


def cpu_seconds(pid):
    """CPU of a process so far, and of the children of this one that ended."""
    fields = Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (int(fields[11]) + int(fields[12])) / TICKS, children.ru_utime + children.ru_stime


def mounts_of_cluster(ctx, options):
    """Folder and process of each way, on one cluster."""
    cluster = Cluster(ctx, target_bytes=3072 * MIB)
    cluster.create()
    cluster.start()
    found = {}
    for way in WAYS:
        chosen = ["transport=" + way, "attr_timeout_ms=0", "entry_timeout_ms=0", *options]
        mount = cluster.mount(way, options=chosen)
        folder = mount.path / ("of-" + way)
        folder.mkdir()
        fill = ["fio", "--name=fill", "--filename=%s" % (folder / "file"), "--rw=write", "--bs=1m", "--direct=1"]
        run([*fill, "--size=%dm" % FILE_MIB, "--end_fsync=1"], timeout_s=300, cwd=ctx.work)
        found[way] = folder, mount.core_pid()
    for way, other in (WAYS, WAYS[::-1]):
        (cluster.mounts[other].path / ("of-" + way) / "asked").mkdir()
    return found, cluster.close


def mounts_of_memory(ctx, serving):
    """Folder and process of each way, answered from memory."""
    found, children = {}, []
    for way in WAYS:
        point = ctx.work / way
        point.mkdir()
        log = ctx.work / (way + ".log")
        child = spawn([binaries() / "examples" / "local_answers", point, way, *(["serving"] if serving else [])], log)
        children.append((point, child))
        while not is_mounted(point):
            if child.poll() is not None:
                sys.exit("local_answers: " + log.read_text())
            time.sleep(0.01)
        found[way] = point, child.pid

    def close():
        for point, child in children:
            run(["umount", point], timeout_s=30)
            wait(child, 30, "local_answers")

    return found, close


def measure(found, args, work):
    """Prints the table; the rows as dictionaries."""
    print("| load, threads | classic op/s | ring op/s | ring/classic | CPU us/op classic | ring |")
    print("|---|---|---|---|---|---|")
    table = []
    for name, load in rows():
        if args.only and args.only not in name:
            continue
        rates, cpus = {way: [] for way in WAYS}, {way: [] for way in WAYS}
        for round_ in range(args.rounds):
            for way in WAYS if round_ % 2 == 0 else WAYS[::-1]:
                folder, pid = found[way]
                before = cpu_seconds(pid)
                begin = time.monotonic()
                rate = load(folder, args.seconds, work)
                operations = rate * min(time.monotonic() - begin, args.seconds)
                used = sum(after - at for after, at in zip(cpu_seconds(pid), before))
                rates[way].append(rate)
                cpus[way].append(1e6 * used / max(operations, 1))
        row = {"load": name, "rates": rates, "cpu_us": cpus}
        middle = {way: statistics.median(rates[way]) for way in WAYS}
        cpu = {way: statistics.median(cpus[way]) for way in WAYS}
        row["ratio"] = middle["uring"] / middle["classic"]
        shown = ["%.0f (%.0f-%.0f)" % (middle[way], min(rates[way]), max(rates[way])) for way in WAYS]
        print("| %s | %s | %s | %.2f | %.1f | %.1f |" % (name, *shown, row["ratio"], cpu["classic"], cpu["uring"]), flush=True)
        table.append(row)
    return table


def main():
    """Mounts both ways, measures, cleans up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local", action="store_true", help="answers from memory, without a server")
    parser.add_argument("--serving", action="store_true", help="with --local: the loop spins and has short slices")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load in each round")
    parser.add_argument("--only", metavar="WORD", help="loads whose name has this in it")
    parser.add_argument("--options", default="", help="further mount options, for both")
    parser.add_argument("--json", metavar="FILE", help="all figures, one line")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("this mounts file systems: run it as root")
    with Scratch("transports") as ctx:
        options = [option for option in args.options.split(",") if option]
        found, close = mounts_of_memory(ctx, args.serving) if args.local else mounts_of_cluster(ctx, options)
        table = measure(found, args, ctx.work)
        close()
        append_json(args.json, {"local": args.local, "serving": args.serving, "options": options, "rows": table})


if __name__ == "__main__":
    sys.exit(main())
