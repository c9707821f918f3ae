#!/usr/bin/env python3
"""make bench-scaling: what grows and what stays flat: shards and clients, files, lengths, connections.

    benchmarks/scaling.py [--only PART,...] [--files N] [--rounds N] [--seconds S] [--disk] [--json FILE]

- shards: a server of one shard beside one of two, and 1, 2 and 4 programs in one mount or two. With the rate comes how
  many cores server and mounts took, so that one sees what was full: a shard and a mount can take one each.
- files: servers with 10 thousand, 100 thousand, ... and --files files (`weft-load names` makes them over the wire), in
  directories of 100 and then all in one. What a lookup, a create and a removal of random names costs over the wire, one
  and 64 at a time, and through a new mount that knows no name.
- length: files of 1 MiB, 1 GiB and 1 TiB, each with the same 128 blocks of data, evenly spread.
- connections: what 1,000 idle ones cost (the bar is that of `tests/run.py memory_idle_connections`).

All files of the nodes are on a tmpfs, so that no disk is the limit, unless --disk says under var/. What is compared runs
in turn; the tables have medians and quartiles of the rounds. On a loaded machine rates are worth little and CPU more.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))

from builds import cpu_us  # noqa: E402
from cases.memory import IDLE_BYTES_MAX, IDLE_COUNT, idle_connections  # noqa: E402
from lib.base import remember  # noqa: E402
from lib.cluster import MIB, Cluster, program  # noqa: E402
from lib.procs import fork_worker, join_workers, run  # noqa: E402
from lib.runner import Scratch, append_json  # noqa: E402
from transports import FILE_MIB, run_fio, run_metadata  # noqa: E402

FILES_LEAST = 10_000
DIR_FILES = 100
# Files of one sample, over the wire and through a mount.
SAMPLE = 10_000
BLOCK = 4096
# Blocks of data in a file of any length; between two of them is a hole, and one at the end.
BLOCKS = 128
# Reads and writes of such blocks in each sample.
BLOCK_IOS = 20_000
LENGTHS = {"1 MiB": 1 << 20, "1 GiB": 1 << 30, "1 TiB": 1 << 40}
# Programs and mounts.
CLIENTS = ((1, 1), (2, 1), (4, 1), (2, 2), (4, 2))


def quartiles(samples, digits=0):
    """Median and quartiles, to be read."""
    low, middle, high = statistics.quantiles(samples, n=4)
    return "%.*f (%.*f-%.*f)" % (digits, middle, digits, low, digits, high)


@contextlib.contextmanager
def node(ctx, name, args, **settings):
    """A running server whose files are in memory, or on the disk."""
    cluster = Cluster(ctx, name, **settings)
    cluster.dir.mkdir()
    if not args.disk:
        remember(ctx.work, "mount", cluster.dir)
        run(["mount", "-t", "tmpfs", "-o", "size=90%", "weft-scaling", cluster.dir])
    cluster.create()
    cluster.start()
    yield cluster
    cluster.close()
    if not args.disk:
        run(["umount", cluster.dir])
    shutil.rmtree(cluster.dir)


def nodes(stack, ctx, args, settings):
    """Several of them, by the keys of their settings."""
    return {key: stack.enter_context(node(ctx, str(key), args, **how)) for key, how in settings.items()}


def served_by(cluster):
    """Processes: the server's, the mounts'."""
    mounts = [pid for mount in cluster.mounts.values() for pid in (mount.child.pid, mount.core_pid())]
    return {"server": [cluster.server_pid()], "mounts": mounts}


def metered(cluster, work):
    """What `work` returns, its seconds, and {who: microseconds of CPU meanwhile}."""
    groups = served_by(cluster)

    def now():
        return {who: cpu_us(pids) for who, pids in groups.items()}

    before, begin = now(), time.monotonic()
    result = work()
    seconds = time.monotonic() - begin
    return result, seconds, {who: used - before[who] for who, used in now().items()}


def in_turn(keys, round_):
    """Forwards and backwards, so that what changes with time changes all alike."""
    return list(keys) if round_ % 2 == 0 else list(keys)[::-1]


def table(*columns):
    """Prints the head of a table."""
    print("\n| %s |\n|%s" % (" | ".join(columns), "---|" * len(columns)), flush=True)


# Shards and clients.


def names(cluster, work, **options):
    """Runs `weft-load names`; what it says."""
    args = [program("weft-load"), "names", work, "--server", "127.0.0.1:%d" % cluster.port]
    for option, value in options.items():
        args += ["--" + option.replace("_", "-"), value]
    return json.loads(run(args, timeout_s=3600).out)


def touch_all(step, paths, programs):
    """Programs that do `step` to all paths between them; how many a second."""
    parts = [paths[number::programs] for number in range(programs)]
    begin = time.monotonic()
    join_workers([fork_worker(lambda part=part: [step(path) for path in part]) for part in parts], 600, "names")
    return len(paths) / (time.monotonic() - begin)


def in_mounts(load, mounts, programs, args, work):
    """The sum of what the load says of each mount, at the same time."""
    with ThreadPoolExecutor() as pool:
        rates = [pool.submit(load, programs // len(mounts), mount.path, args.seconds, work) for mount in mounts]
        return sum(rate.result() for rate in rates)


def fio(mode, block, depth):
    """Each program has its own quarter of the mount's file."""
    part = ["--size=%dm" % (FILE_MIB // 4), "--offset_increment=%dm" % (FILE_MIB // 4)]

    def load(programs, folder, seconds, work):
        return run_fio(mode, block, programs, depth, folder / folder.name, seconds, work, part)

    return load


SHARD_LOADS = {
    "1 MiB writes, direct, depth 8": fio("write", "1m", 8),
    "1 MiB reads, direct, depth 8": fio("read", "1m", 8),
    "4 KiB random writes, direct, depth 16": fio("randwrite", "4k", 16),
    "4 KiB random reads, direct, depth 16": fio("randread", "4k", 16),
    "creates": None,
    "stats of names nobody knows": None,
}


def shard_load(name, cluster, programs, mount_count, args, work):
    """One sample: rate, and how many cores each took."""
    mounts = [cluster.mounts["m%d" % number] for number in range(mount_count)]
    if name == "creates":
        folders = [mount.path / mount.path.name for mount in mounts]
        what = lambda: run_metadata("create", programs, folders, args.seconds, work)  # noqa: E731
    elif name.startswith("stats"):
        mounts = [cluster.mount("new%d" % number) for number in range(mount_count)]
        numbers = range(FILES_LEAST)
        paths = ["%s/d%d/f%d" % (mounts[n % mount_count].path, n // DIR_FILES, n) for n in numbers]
        what = lambda: touch_all(os.stat, paths, programs)  # noqa: E731
    else:
        what = lambda: in_mounts(SHARD_LOADS[name], mounts, programs, args, work)  # noqa: E731
    rate, seconds, used = metered(cluster, what)
    if name.startswith("stats"):
        for mount in mounts:
            cluster.unmount(mount.name)
    else:
        seconds = args.seconds  # Without the start of the programs.
    return {"rate": rate, **{who: us / (1e6 * seconds) for who, us in used.items()}}


def prepared(cluster, work):
    """Two mounts, each with a folder and a file of its own, and files made over the wire."""
    for name in ("m0", "m1"):
        folder = cluster.mount(name).path / name
        folder.mkdir()
        fill = ["fio", "--name=fill", "--filename=%s" % (folder / "file"), "--rw=write", "--bs=1m", "--direct=1"]
        run([*fill, "--size=%dm" % FILE_MIB, "--end_fsync=1"], timeout_s=300, cwd=work)
    names(cluster, "fill", total=FILES_LEAST)


def shards(ctx, args):
    """One shard and two."""
    with contextlib.ExitStack() as stack:
        cores = {1: "0", 2: "0,1"}
        found = nodes(stack, ctx, args, {count: {"gen": ("--cores", of)} for count, of in cores.items()})
        for cluster in found.values():
            prepared(cluster, ctx.work)
        table("load", "programs, mounts", "shards", "op/s", "cores of the server", "of the mounts", "op/s, 2 shards/1")
        rows = []
        for name in SHARD_LOADS:
            for programs, mount_count in CLIENTS:
                samples = {count: [] for count in found}
                for round_ in range(args.rounds):
                    for count in in_turn(found, round_):
                        sample = shard_load(name, found[count], programs, mount_count, args, ctx.work)
                        samples[count].append(sample)
                print_shards(name, "%d, %d" % (programs, mount_count), samples)
                rows.append({"load": name, "programs": programs, "mounts": mount_count, "samples": samples})
    return rows


def print_shards(name, clients, samples):
    """Two lines of the table."""
    rates = {count: [sample["rate"] for sample in of] for count, of in samples.items()}
    ratio = quartiles([two / one for one, two in zip(rates[1], rates[2])], 2)
    for count, of in samples.items():
        shares = ["%.2f" % statistics.median(sample[who] for sample in of) for who in ("server", "mounts")]
        line = (name, clients, str(count), quartiles(rates[count]), *shares, ratio if count == 2 else "")
        print("| %s |" % " | ".join(line), flush=True)


# Files.


def sizes(files):
    """10 thousand, ten times that, and so on."""
    found = [FILES_LEAST]
    while found[-1] * 10 <= files:
        found.append(found[-1] * 10)
    return found


def sampled_paths(total, dir_files, source):
    """Files below a mount point: in as many directories whatever the total, or all in one."""
    if dir_files >= total:
        return ["d0/f%d" % number for number in source.sample(range(total), SAMPLE)]
    count = SAMPLE // dir_files
    numbers = [d * dir_files + n for d in source.sample(range(total // dir_files), count) for n in range(dir_files)]
    source.shuffle(numbers)
    return ["d%d/f%d" % (number // dir_files, number) for number in numbers]


def create(path):
    """An empty file."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def through_mount(cluster, total, dir_files, seed):
    """{operation: (rate, CPU us of the server, of the mount)}, by one program in a new mount."""
    mount = cluster.mount("new")
    paths = ["%s/%s" % (mount.path, path) for path in sampled_paths(total, dir_files, random.Random(seed))]
    found = {}
    steps = (("lookup + stat", os.stat, ""), ("create", create, ".new"), ("remove", os.unlink, ".new"))
    for name, step, suffix in steps:
        rate, _, used = metered(cluster, lambda: touch_all(step, [path + suffix for path in paths], 1))
        found[name, "mount"] = rate, used["server"] / len(paths), used["mounts"] / len(paths)
    cluster.unmount("new")
    return found


def over_wire(cluster, total, dir_files, seed):
    """The same over the wire, one and 64 at a time."""
    found = {}
    for depth in (1, 64):
        for name, work in (("lookup + stat", "stat"), ("create", "make"), ("remove", "remove")):
            how = {"total": total, "dir_files": dir_files, "seed": seed, "depth": depth, "count": SAMPLE}
            said, _, used = metered(cluster, lambda: names(cluster, work, **how))
            found[name, "wire, %d" % depth] = said["rate"], used["server"] / SAMPLE, 0
    return found


def kept(cluster):
    """Bytes of the volume's database, and MiB of the server's memory: its own, and of files it has mapped."""
    volume = sum(512 * path.stat().st_blocks for path in cluster.state.glob("state/volume*/index/*"))
    status = Path("/proc/%d/status" % cluster.server_pid()).read_text()
    memory = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("Rss")}
    return volume, memory["RssAnon"], memory["RssFile"] + memory["RssShmem"]


def files(ctx, args):
    """Few files and many, in small directories and in one."""
    rows = []
    for dir_files, where in ((DIR_FILES, "directories of %d" % DIR_FILES), (1_000_000_000, "one directory")):
        with contextlib.ExitStack() as stack:
            how = {"target_count": 1, "target_bytes": 256 * MIB, "gen": ("--cores", "0", "--memory-mib", "1024")}
            found = nodes(stack, ctx, args, {total: how for total in sizes(args.files)})
            print("\n%s: | files | made a second | database | bytes for each | server's own memory | mapped |" % where)
            for total, cluster in found.items():
                rate = names(cluster, "fill", total=total, dir_files=dir_files)["rate"]
                volume, own, mapped = kept(cluster)
                line = (total, rate, volume / MIB, volume / total, own, mapped)
                print("| %d | %.0f | %.0f MiB | %.0f | %.0f MiB | %.0f MiB |" % line, flush=True)
                rows.append({"where": where, "files": total, "fill": line})
            samples = {total: {} for total in found}
            for round_ in range(args.rounds):
                for total in in_turn(found, round_):
                    for look in (over_wire, through_mount):
                        for what, figures in look(found[total], total, dir_files, round_ + 1).items():
                            samples[total].setdefault(what, []).append(figures)
        rows.append({"where": where, "samples": print_files(where, samples)})
    return rows


def print_files(where, samples):
    """The table; the samples with keys that JSON takes."""
    table("%s, files" % where, "operation", "op/s", "CPU us/op of server", "of mount", "server CPU to that of the least")
    least = samples[FILES_LEAST]
    for what in least:
        for total, of in samples.items():
            rate, server, mount = zip(*of[what])
            ratio = quartiles([now / then[1] for now, then in zip(server, least[what])], 2)
            line = (total, ", ".join(what), quartiles(rate), quartiles(server, 1), quartiles(mount, 1), ratio)
            print("| %d | %s | %s | %s | %s | %s |" % line, flush=True)
    return {total: {", ".join(what): figures for what, figures in of.items()} for total, of in samples.items()}


# Lengths.


def repeat(step, seconds):
    """How often, and how often a second."""
    begin, count = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        for number in range(20):
            step(count + number)
        count += 20
    return count, count / (time.monotonic() - begin)


def block_log(path, mode, stride, work):
    """A log for fio to play: so many blocks with data, anywhere. Its own random offsets are at most 4 GiB apart."""
    log = work / ("%s-%s" % (path.name, mode))
    places = random.Random(1).choices(range(BLOCKS), k=BLOCK_IOS)
    lines = ["%s %s %d %d" % (path, mode, place * stride, BLOCK) for place in places]
    log.write_text("\n".join(["fio version 2 iolog", "%s add" % path, "%s open" % path, *lines, "%s close" % path, ""]))
    return log


def length_loads(path, length, args, work):
    """{name: what measures it}; all work on blocks with data, spread over the file, and the holes behind them."""
    stride = length // BLOCKS
    file = os.open(path, os.O_RDWR)

    def blocks(mode):
        log = block_log(path, mode, stride, work)
        return lambda: (BLOCK_IOS, run_fio(mode, "4k", 1, 16, path.parent, 60, work, ["--read_iolog=%s" % log]))

    def cut(_):
        os.ftruncate(file, length - BLOCK)
        os.ftruncate(file, length)

    def seek(number, offset, whence, want):
        at = number * 37 % (BLOCKS - 1) * stride
        found = os.lseek(file, at + offset, whence)
        assert found == at + want, (found, at, want)

    steps = {
        "stat": lambda _: os.stat(path),
        "open + close": lambda _: os.close(os.open(path, os.O_RDONLY)),
        "truncate by a block and back": cut,
        "SEEK_HOLE from data": lambda number: seek(number, 0, os.SEEK_HOLE, BLOCK),
        "SEEK_DATA from a hole": lambda number: seek(number, BLOCK, os.SEEK_DATA, stride),
    }
    timed = {name: lambda step=step: repeat(step, args.seconds) for name, step in steps.items()}
    return {"4 KiB random overwrites": blocks("write"), "4 KiB random reads": blocks("read"), **timed}, file


def lengths(ctx, args):
    """Short files and long ones."""
    with node(ctx, "length", args, gen=("--cores", "0", "--memory-mib", "1024")) as cluster:
        folder = cluster.mount("mnt", options=["attr_timeout_ms=0", "entry_timeout_ms=0"]).path
        loads, open_files = {}, []
        for name, length in LENGTHS.items():
            path = folder / name.replace(" ", "-")
            with open(path, "wb") as file:
                for number in range(BLOCKS):
                    os.pwrite(file.fileno(), random.Random(number).randbytes(BLOCK), number * (length // BLOCKS))
                os.ftruncate(file.fileno(), length)
                os.fsync(file.fileno())
            loads[name], opened = length_loads(path, length, args, ctx.work)
            open_files.append(opened)
        table("operation", "length", "op/s", "CPU us/op of server", "of mount", "both, to those of 1 MiB")
        rows = []
        for what in loads["1 MiB"]:
            samples = {name: [] for name in loads}
            for round_ in range(args.rounds):
                for name in in_turn(loads, round_):
                    (done, rate), _, used = metered(cluster, loads[name][what])
                    samples[name].append((rate, used["server"] / done, used["mounts"] / done))
            print_length(what, samples)
            rows.append({"operation": what, "samples": samples})
        for file in open_files:
            os.close(file)
    return rows


def print_length(what, samples):
    """A line for each length."""
    for name, of in samples.items():
        rate, server, mount = zip(*of)
        pairs = zip(of, samples["1 MiB"])
        ratio = quartiles([(s + m) / (first_s + first_m) for (_, s, m), (_, first_s, first_m) in pairs], 2)
        line = (what, name, quartiles(rate), quartiles(server, 1), quartiles(mount, 1), ratio)
        print("| %s | %s | %s | %s | %s | %s |" % line, flush=True)


# Connections.


def connections(ctx, args):
    """Idle ones."""
    with node(ctx, "idle", args, target_count=1, gen=("--cores", "0", "--memory-mib", "512")) as cluster:
        cluster.mount()
        costs = idle_connections(cluster, ctx.random, IDLE_COUNT)
    title = "%d connections, bytes for each" % IDLE_COUNT
    table(title, "server's memory grew", "inbox, set aside before", "kernel, both ends", "all", "below %d" % IDLE_BYTES_MAX)
    for state, parts in costs.items():
        cells = ["%.0f" % parts[part] for part in ("own", "inbox", "kernel")]
        total = sum(parts.values())
        print("| %s | %s | %.0f | %s |" % (state, " | ".join(cells), total, "yes" if total < IDLE_BYTES_MAX else "NO"))
    return costs


PARTS = {"shards": shards, "files": files, "length": lengths, "connections": connections}


def parts(text):
    """Names of parts."""
    chosen = text.split(",")
    if unknown := set(chosen) - set(PARTS):
        raise argparse.ArgumentTypeError("no part is called %s: %s" % (", ".join(unknown), ", ".join(PARTS)))
    return chosen


def main():
    """Measures each part in a place of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=parts, default=list(PARTS), help="parts: " + ", ".join(PARTS))
    parser.add_argument("--files", type=int, default=1_000_000, help="of the fullest server; 10000000 takes about 4 GiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each timed load in each round")
    parser.add_argument("--disk", action="store_true", help="the nodes' files are under var/, not in memory")
    parser.add_argument("--json", metavar="FILE", help="all figures, a line for each part")
    args = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("fio"):
        sys.exit("this mounts file systems and runs fio: install fio, and run it as root")
    if args.rounds < 2 or args.files < FILES_LEAST:
        sys.exit("--rounds: quartiles take two at least; --files: %d at least" % FILES_LEAST)
    complaints = []
    for part in args.only:
        scratch = Scratch("scaling-" + part)
        with scratch as ctx:
            load = os.getloadavg()
            rows = PARTS[part](ctx, args)
            print("\n%s, load averages before and after: %.1f and %.1f" % (part, load[0], os.getloadavg()[0]), flush=True)
            append_json(args.json, {"part": part, "rows": rows})
        complaints += scratch.complaints
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
