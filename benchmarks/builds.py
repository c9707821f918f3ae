#!/usr/bin/env python3
"""Two builds of Weft beside each other: the same loads on both, in turn, in one run. What a change costs or brings.

    benchmarks/builds.py OLD_BIN_DIR NEW_BIN_DIR [--rounds N] [--seconds S] [--only NAME,...] [--busy N] [--json FILE]

A cluster of its own for each build (one node, 4 target files), and each load on each in turn. Prints the old build's
medians, and median and quartiles of the rounds' ratios new/old: operations per second, and processor time of server and
mount together for each operation. The places are not alike (files lie elsewhere on the disk), so run it a second time
with the builds exchanged, and with one of them twice to see what a difference of nothing looks like. --busy: with so
many programs beside it that only use a core.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))

from lib.cluster import MIB, Cluster, program  # noqa: E402
from lib.procs import run  # noqa: E402
from lib.runner import Scratch, append_json  # noqa: E402

FILE_MIB = 256
THREADS = 8


def fio(mode, threads):
    """4 KiB direct I/O, one at a time in each thread."""

    def load(folder, seconds):
        job = ["fio", "--name=job", "--filename=%s/file" % folder, "--size=%dM" % FILE_MIB, "--bs=4k", "--rw=" + mode]
        how = ["--direct=1", "--ioengine=psync", "--thread", "--numjobs=%d" % threads, "--group_reporting"]
        end = ["--time_based", "--runtime=%dms" % (1000 * seconds), "--output-format=json"]
        done = json.loads(run([*job, *how, *end], timeout_s=60 + seconds).out)["jobs"][0]
        return done["read"]["total_ios"] + done["write"]["total_ios"]

    return load


def create(data):
    """New files in a new directory, one after the other."""

    def load(folder, seconds):
        made = tempfile.mkdtemp(prefix="made-", dir=folder)
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            file = os.open("%s/%d" % (made, count), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            if data:
                os.write(file, data)
            os.close(file)
            count += 1
        return count

    return load


def make_and_remove(data):
    """The same, and then all of them are removed: an operation is both."""
    make = create(data)

    def load(folder, seconds):
        count = make(folder, seconds / 2)
        for made in Path(folder).glob("made-*"):
            shutil.rmtree(made)
        return count

    return load


def read_small(folder, seconds):
    """Files of 3,901 bytes, opened, read and closed one after the other; nothing of them is cached."""
    made = Path(folder, "small")
    if not made.exists():
        made.mkdir()
        for number in range(4000):
            (made / str(number)).write_bytes(b"x" * 3901)
    run(["sh", "-c", "sync; echo 3 > /proc/sys/vm/drop_caches"], timeout_s=60)
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        assert len((made / str(count % 4000)).read_bytes()) == 3901
        count += 1
    return count


def reopen(folder, seconds):
    """Two files, of 3,901 bytes and of 64 KiB, opened, read and closed again and again."""
    files = [Path(folder, "again-%d" % size) for size in (3901, 65536)]
    for file, size in zip(files, (3901, 65536)):
        file.write_bytes(b"x" * size)
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for file in files:
            file.read_bytes()
        count += 2
    return count


def unpack(folder, seconds):
    """An archive of 400 files of 100 bytes to 24 KiB, unpacked by root's tar: owner, mode and times of each are set."""
    archive = Path(folder, "archive.tar")
    if not archive.exists():
        with tarfile.open(archive, "w") as tar:
            for number in range(400):
                member = tarfile.TarInfo("d%d/f%d" % (number // 40, number))
                member.size, member.mtime, member.uid = 100 + number * 61, 1_000_000_000 + number, 1000 + number % 3
                tar.addfile(member, io.BytesIO(b"x" * member.size))
        run(["sync", str(archive)], timeout_s=60)
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        into = tempfile.mkdtemp(prefix="unpacked-", dir=folder)
        run(["tar", "-xf", str(archive), "-C", into], timeout_s=60)
        count += 400
    return count


class Workers:
    """Processes of `weft-load`'s metadata load: one phase, timed, between those that it needs before and after it."""

    def __init__(self, process_count, file_count, phases, timed):
        self.process_count, self.file_count = process_count, file_count
        self.phases, self.timed = phases, timed
        self.workers = []

    def _run(self, phase):
        for worker in self.workers:
            worker.stdin.write(phase + "\n")
            worker.stdin.flush()
        answers = [worker.stdout.readline() for worker in self.workers]
        for answer in answers:
            if "Done" not in answer:
                sys.exit("%s: %s" % (phase, answer or "a worker died"))

    def prepare(self, folder):
        """Up to the timed phase."""
        root = Path(tempfile.mkdtemp(prefix="workers-", dir=folder))
        (root / "shared").mkdir()
        for rank in range(self.process_count):
            args = [program("weft-load"), "worker", "--root", root, "--rank", rank, "--rank-count", self.process_count]
            args += ["--easy-count", self.file_count, "--hard-count", self.file_count]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self.workers.append(subprocess.Popen([str(arg) for arg in args], **pipes))
        for phase in self.phases[: self.phases.index(self.timed)]:
            self._run(phase)

    def __call__(self, _folder, _seconds):
        """The timed phase."""
        self._run(self.timed)
        return self.process_count * self.file_count

    def finish(self):
        """What is left."""
        for phase in self.phases[self.phases.index(self.timed) + 1 :]:
            self._run(phase)
        for worker in self.workers:
            worker.stdin.close()
            worker.wait()
        self.workers = []


def own(process_count, file_count, timed):
    """Empty files, each process in a directory of its own."""
    return Workers(process_count, file_count, ["set-up", "crowd-create", "easy-stat", "crowd-delete", "tear-down"], timed)


def shared(process_count, file_count, timed):
    """Files of 3,901 bytes, all in one directory."""
    return Workers(process_count, file_count, ["set-up", "hard-create", "hard-read", "hard-delete", "tear-down"], timed)


LOADS = {
    "reads": fio("randread", THREADS),
    "overwrites": fio("randwrite", THREADS),
    "reads-alone": fio("randread", 1),
    "creates": create(b""),
    "small-files": create(b"x" * 3901),
    "10-kib-files": create(b"x" * 10240),
    "removals": make_and_remove(b""),
    "small-removals": make_and_remove(b"x" * 3901),
    "small-reads": read_small,
    "reopens": reopen,
    "unpacks": unpack,
    "writes-alone": fio("randwrite", 1),
    "creates-2": own(2, 600, "crowd-create"),
    "creates-16": own(16, 150, "crowd-create"),
    "stats-2": own(2, 1500, "easy-stat"),
    "removals-2": own(2, 600, "crowd-delete"),
    "small-files-2": shared(2, 300, "hard-create"),
    "small-reads-2": shared(2, 600, "hard-read"),
}


def cpu_us(pids):
    """Processor time of processes, all threads, in microseconds."""
    total_ns = 0
    for pid in pids:
        for task in Path("/proc/%d/task" % pid).iterdir():
            total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns / 1000


def start(ctx, name, programs):
    """A mounted file system of one build: its folder, and the processes that serve it."""
    os.environ["WEFT_BIN"] = str(Path(programs).resolve())
    fs = Cluster(ctx, name, target_bytes=2048 * MIB)
    fs.create()
    fs.start()
    mount = fs.mount(name)
    run(["dd", "if=/dev/zero", "of=%s/file" % mount.path, "bs=1M", "count=%d" % FILE_MIB, "conv=fsync"], timeout_s=120)
    return mount.path, [fs.server_pid(), mount.child.pid, mount.core_pid()]


def ratios(old, new):
    """Median and quartiles of the rounds' ratios, to be read."""
    both = [after / before for before, after in zip(old, new)]
    low, middle, high = statistics.quantiles(both, n=4)
    return "%.3f (%.3f-%.3f)" % (middle, low, high)


def measure(builds, args):
    """Prints the table; gives all figures."""
    print("| load | old op/s | old CPU us/op | op/s new/old | CPU/op new/old |")
    print("|---|---|---|---|---|")
    rows = []
    for name in args.only:
        rates, cpus = ([], []), ([], [])
        for round_ in range(args.rounds):
            for which in (0, 1) if round_ % 2 == 0 else (1, 0):
                folder, pids = builds[which]
                load = LOADS[name]
                if isinstance(load, Workers):
                    load.prepare(folder)
                used, begin = cpu_us(pids), time.monotonic()
                count = load(folder, args.seconds)
                rates[which].append(count / (time.monotonic() - begin))
                cpus[which].append((cpu_us(pids) - used) / count)
                if isinstance(load, Workers):
                    load.finish()
        middle = statistics.median(rates[0]), statistics.median(cpus[0])
        print("| %s | %.0f | %.1f | %s | %s |" % (name, *middle, ratios(*rates), ratios(*cpus)), flush=True)
        rows.append({"load": name, "rates": rates, "cpu_us": cpus})
    return rows


def loads(text):
    """Names of loads."""
    names = text.split(",")
    if unknown := set(names) - set(LOADS):
        raise argparse.ArgumentTypeError("no load is called %s: %s" % (", ".join(unknown), ", ".join(LOADS)))
    return names


def main():
    """Starts both, measures, cleans up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="folder with weft, weft-server and mount-weft")
    parser.add_argument("new", help="the same of the other build")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each load in each round")
    parser.add_argument("--only", type=loads, default=list(LOADS), help="loads: " + ", ".join(LOADS))
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="programs beside it that use a core each")
    parser.add_argument("--json", metavar="FILE", help="all figures, one line")
    args = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("fio"):
        sys.exit("this mounts file systems and runs fio: install fio, and run it as root")
    if args.rounds < 2:
        sys.exit("--rounds: quartiles take two at least")
    with Scratch("builds") as ctx:
        builds = [start(ctx, "old", args.old), start(ctx, "new", args.new)]
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(args.busy)]
        try:
            rows = measure(builds, args)
        finally:
            for child in busy:
                child.kill()
                child.wait()
        append_json(args.json, {"old": args.old, "new": args.new, "busy": args.busy, "rows": rows})


if __name__ == "__main__":
    sys.exit(main())
