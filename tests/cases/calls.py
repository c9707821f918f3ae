"""What a steady load asks of the kernel. System calls, as strace sees them: one submission for each side of the mount and of
the server, and no other call. Idle cores: to poll, for as long.

A third io_uring_enter that brings nothing is the sleep after a send whose own end woke the loop: `benchmarks/RESULTS.md`.
"""

import mmap
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

from cases.transport import SWITCH
from lib.base import Skip, case, check, eventually
from lib.cluster import Cluster
from lib.procs import send, wait

READS = 1000
BLOCK = 4096
# What is left of a shorter count: signs of life, ticks of 50 ms, the scrub's look around.
REST = 0.25
# A spin is of 400 us at most.
LOOKS_MAX = 16
# What the kernel says idle cores may take to wake, in microseconds.
LATENCY = Path("/dev/cpu_dma_latency")
ENTER = re.compile(r"io_uring_enter\(\d+, (\d+), ")


def _traced(pid, log):
    """Starts strace on a process and waits until it is attached."""
    child = subprocess.Popen(["strace", "-f", "-qq", "-o", str(log), "-p", str(pid)], stderr=subprocess.DEVNULL)
    tasks = Path("/proc/%d/task" % pid)

    def attached():
        tracers = [re.search(r"TracerPid:\s+(\d+)", (task / "status").read_text()).group(1) for task in tasks.iterdir()]
        return all(tracer != "0" for tracer in tracers)

    eventually("strace is attached to %d" % pid, attached, 20)
    return child


def _counts(log):
    """Of each system call how often it was made; `submit` are those of io_uring_enter that bring something."""
    counts = {}
    for line in log.read_text().splitlines():
        name = re.match(r"\d+\s+(\w+)\(", line)
        if name:
            found = ENTER.search(line)
            names = [name.group(1)] + (["submit"] if found and int(found.group(1)) else [])
            for each in names:
                counts[each] = counts.get(each, 0) + 1
    return counts


def _fill(path):
    """A file whose blocks say which they are."""
    with open(path, "wb") as out:
        for block in range(4096):
            out.write(block.to_bytes(8, "little") + bytes(BLOCK - 8))
        os.fsync(out.fileno())


def _read(path, random):
    """READS reads of a block each, one at a time, past every cache."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, BLOCK)
    blocks = os.fstat(file).st_size // BLOCK
    for _ in range(READS):
        block = random.randrange(blocks)
        check(os.preadv(file, [buffer], block * BLOCK) == BLOCK, "short read")
        check(buffer[:8] == block.to_bytes(8, "little"), "block", block, "is another")
    os.close(file)


def _calls(ctx, fs, way):
    """System calls of the client-core and of the server for each read."""
    mount = fs.mount(way, options=["transport=" + way])
    _read(mount.path / "file", ctx.random)
    logs = {"mount": ctx.work / (way + "-mount"), "server": ctx.work / (way + "-server")}
    children = [_traced(mount.core_pid(), logs["mount"]), _traced(fs.server_pid(), logs["server"])]
    _read(mount.path / "file", ctx.random)
    for child in children:
        send(child.pid, signal.SIGINT)
        wait(child, 20, "strace")
    fs.unmount(way)
    found = {}
    for who, log in logs.items():
        found[who] = {name: count / READS for name, count in _counts(log).items() if count > READS * 0.02}
        for name, count in sorted(found[who].items()):
            ctx.figure("calls_of_reads.%s.%s.%s" % (way, who, name), count, "calls/read")
    return found


@case(timeout_s=120)
def calls_of_reads(ctx):
    """4 KiB reads one at a time: one submission to the server, one to the kernel; there one to the disk, one to the mount."""
    fs = ctx.fs(gen=("--cores", "0"))
    _fill(fs.path / "file")
    for way in ["classic"] + (["uring"] if SWITCH.exists() else []):
        for who, calls in _calls(ctx, fs, way).items():
            submits, other = calls["submit"], set(calls) - {"submit", "io_uring_enter", "sched_yield", "pread64", "write"}
            # The classic device is read (once more, until nothing is there) and written without the ring.
            classic = (way, who) == ("classic", "mount")
            check(1.9 < submits < 2 + REST, way, who, "submits", submits, "times for each read")
            check(other == ({"read", "writev"} if classic else set()), way, who, "makes other calls:", calls)
            # A spin looks every 25 us whether the machine has idle cores (`engine/ring/src/crowd.rs`).
            looks = calls.get("pread64", 0)
            check(looks < LOOKS_MAX, way, who, "looks around", looks, "times for each read")
            # What idle cores are asked for, when waits were long and are short again (`engine/ring/src/awake.rs`).
            check(calls.get("write", 0) < REST, way, who, "asks for idle polling", calls)
            check(not classic or calls["writev"] + calls["read"] < 3 + REST, "calls of /dev/fuse:", calls)
    fs.close()


def _bound():
    """The bound in force, in microseconds."""
    with LATENCY.open("rb") as device:
        return int.from_bytes(device.read(4), "little", signed=True)


def _polled(fs, random):
    """How often idle cores polled, of all looks, while blocks were read one at a time."""
    reader = threading.Thread(target=_read, args=(fs.path / "file", random))
    reader.start()
    seen = []
    while reader.is_alive():
        seen.append(_bound() == 0)
        time.sleep(0.001)
    reader.join()
    check(len(seen) > 20, "the reads were over after", len(seen), "looks")
    return sum(seen) / len(seen)


@case(timeout_s=120)
def idle_poll(ctx):
    """Where it is wanted idle cores poll while answers come soon, halt again when nothing is asked for, and when server and client-core are killed."""
    if not LATENCY.exists():
        raise Skip("no-cpu-latency")
    before = _bound()
    check(before > 0, "something on this machine holds", LATENCY, "at 0: end it, and try again")
    fs = Cluster(ctx)
    fs.create()
    config = fs.config.read_text()
    for wanted in ("off", "on"):
        fs.config.write_text(config + 'idle_poll = "%s"\n' % wanted)
        fs.start()
        mount = fs.mount(options=["idle_poll=" + wanted])
        _fill(fs.path / "file")
        part = _polled(fs, ctx.random)
        ctx.figure("idle_poll.%s" % wanted, part, "of the time")
        # A machine that is busy with other things makes waits long.
        check(part > 0.2 if wanted == "on" else part == 0, "idle_poll=%s: polled for %.2f of the time" % (wanted, part))
        eventually("idle cores halt again", lambda: _bound() == before, 5)
        if wanted == "on":
            break
        fs.unmount()
        fs.stop()
    core = mount.core_pid()
    reader = subprocess.Popen(["dd", "if=%s/file" % fs.path, "of=/dev/null", "bs=4k", "iflag=direct", "status=none"])
    eventually("idle cores poll", lambda: _bound() == 0, 5, 0.001)
    fs.kill()
    send(core, signal.SIGKILL)
    eventually("idle cores halt again", lambda: _bound() == before, 5)
    fs.start()
    check(wait(reader, 60, "dd") == 0, "a program saw an error")
    fs.close()
