"""Memory is a number on a page (server/core/doc/memory.md): at its bounds a small server answers Busy and nothing is lost.

The server's own memory (what no file backs) must stay under `memory_mib` and PROCESS_MIB for program and malloc.
"""

import os
import re
import stat
import struct
import threading
import time
from pathlib import Path

from cases.hostile import descriptors, own_memory_mib
from lib.base import ROOT, case, check, eventually
from lib.cluster import MIB
from lib.frames import GETATTR, HEADER, HEADER_BYTES, MAKE, READ, caller, frame, greet, receive, text
from lib.procs import fork_worker, join_workers

MEMORY_MIB = 64
PROCESS_MIB = 64
CHUNK_BYTES = 1 << 20
BUSY = 6
SMALL = ("--cores", "0", "--memory-mib", str(MEMORY_MIB))
IDLE_COUNT = 1000
IDLE_BYTES_MAX = 64 << 10
IDLE_READ_BYTES = 64 << 10
# What the kernel has for each end of a connection, beside the buffers that `sockstat` counts.
SOCKET_CACHES = ("TCP", "sock_inode_cache", "filp", "skbuff_head_cache", "skbuff_small_head", "io_kiocb")


def _within(fs, ctx, name):
    """Checks the server's memory against its bound."""
    used = own_memory_mib(fs.server_pid())
    ctx.figure("memory." + name, used, "MiB")
    check(used <= MEMORY_MIB + PROCESS_MIB, "the server uses", used, "MiB, the bound is", MEMORY_MIB + PROCESS_MIB)


def _read_all(port, session, requests):
    """Sends reads without waiting for answers, then takes those: (status, payload bytes) of each request."""
    link, _, status = greet(port, session)
    check(status == 0, "hello was answered with status", status)
    link.settimeout(60)
    sender = threading.Thread(target=link.sendall, args=(b"".join(requests),))
    sender.start()
    answers = []
    for _ in requests:
        fields = HEADER.unpack(receive(link, HEADER_BYTES, 60))
        body, payload = fields[9], fields[10]
        check(len(receive(link, body + payload, 60)) == body + payload, "an answer was cut short")
        answers.append((fields[5], payload))
    sender.join()
    link.close()
    return answers


@case(timeout_s=120)
def memory_busy(ctx):
    """Twelve clients ask for thirty times the buffers at once: each request is answered or Busy, another mount's files stay right."""
    fs = ctx.fs(gen=SMALL)
    data = ctx.random.randbytes(24 * CHUNK_BYTES)
    (fs.path / "file").write_bytes(data)
    fs.remount()
    ino = os.stat(fs.path / "file").st_ino
    bodies = [
        struct.pack("<HQQII", target, ino, chunk, 0, CHUNK_BYTES)
        for chunk in range(24)
        for target in range(len(fs.targets))
    ]
    requests = [frame(READ, body, request=index + 1) for index, body in enumerate(bodies)]
    answers, lock = [], threading.Lock()

    def client(session):
        got = _read_all(fs.port, session, requests)
        with lock:
            answers.extend(got)

    clients = [threading.Thread(target=client, args=(ctx.random.randbytes(16),)) for _ in range(12)]
    for each in clients:
        each.start()
    begin = time.monotonic()
    check((fs.path / "file").read_bytes() == data, "the file reads back wrong beside the others")
    (fs.path / "more").write_bytes(data)
    ctx.figure("memory.busy_others", time.monotonic() - begin, "s")
    for each in clients:
        each.join(60)
        check(not each.is_alive(), "a client was not answered")
    check(len(answers) == 12 * len(requests), "answers are missing:", len(answers))
    statuses = {status for status, _ in answers}
    check(statuses <= {0, BUSY}, "other answers than data and Busy:", statuses)
    busy = sum(status == BUSY for status, _ in answers)
    ctx.figure("memory.busy_answers", busy, "answers")
    check(busy > 0, "nothing was ever at a bound: the test does not test")
    _within(fs, ctx, "busy")
    fs.remount()
    check((fs.path / "more").read_bytes() == data, "a file written meanwhile reads back wrong")
    fs.check_server()
    fs.close()


@case(timeout_s=120)
def memory_connections(ctx):
    """More connections than a small server takes: the others are told Busy, old mounts go on, a new one waits its turn."""
    fs = ctx.fs(gen=SMALL)
    links, busy = [], 0
    for _ in range(400):
        try:
            link, _, status = greet(fs.port, ctx.random.randbytes(16))
        except (OSError, struct.error):
            busy += 1
            continue
        if status == BUSY:
            busy += 1
            link.close()
            continue
        check(status == 0, "hello was answered with status", status)
        links.append(link)
    check(busy > 0 and len(links) >= 100, len(links), "connections were taken and", busy, "refused")
    data = ctx.random.randbytes(3 << 20)
    (fs.path / "file").write_bytes(data)
    _within(fs, ctx, "connections")

    def release():
        time.sleep(1.5)
        for link in links:
            link.close()

    waiting = threading.Thread(target=release)
    begin = time.monotonic()
    waiting.start()
    other = fs.mount("other")
    ctx.figure("memory.mount_waited", time.monotonic() - begin, "s")
    waiting.join()
    eventually("the other mount reads it", lambda: (other.path / "file").read_bytes() == data, 30)
    fs.check_server()
    fs.close()


def _inbox_bytes():
    """Of the server's buffers, which are resident from its start, what one connection has; a unit test holds the page."""
    page = (ROOT / "server/core/doc/memory.md").read_text()
    return int(re.search(r"an inbox of (\d+) KiB for each connection", page).group(1)) << 10


def _socket_bytes():
    """What the kernel has for TCP sockets of the whole machine: buffers and, where it tells them, objects."""
    sockets = Path("/proc/net/sockstat").read_text()
    total = os.sysconf("SC_PAGESIZE") * int(re.search(r"^TCP: .*\bmem (\d+)", sockets, re.M).group(1))
    caches = Path("/proc/slabinfo")
    for line in caches.read_text().splitlines() if caches.exists() else ():
        words = line.split()
        if words[0] in SOCKET_CACHES:
            total += int(words[1]) * int(words[3])
    return total


def _use(link, ino, name):
    """What leaves traces of a session: a file made, attributes asked for, and data read."""
    how = struct.pack("<QIIIBB", 1, stat.S_IFREG | 0o644, 0, 0, 1, 0)
    asked = (
        frame(MAKE, caller(0, 1) + how + text(name) + text(b""), request=1),
        frame(GETATTR, caller() + struct.pack("<Q", ino), request=2),
        frame(READ, struct.pack("<HQQII", 0, ino, 0, 0, IDLE_READ_BYTES), request=3),
    )
    for request in asked:
        link.sendall(request)
        fields = HEADER.unpack(receive(link, HEADER_BYTES, 60))
        check(fields[5] == 0, "request", fields[6], "was answered with status", fields[5])
        receive(link, fields[9] + fields[10], 60)


def idle_connections(fs, random, count):
    """What each of `count` idle connections, with a session of its own, costs the server's machine: {state: {part: bytes}}.

    States: `greeted`, `used` (made, asked and read something, and idle again), `again` (as many new ones in the place of
    those). Parts: `own`, what the server's memory grew by; `inbox`, which is of the buffers that it had set aside at its
    start; `kernel`, of both ends of the socket, so more than the server's. `fs` has one target.
    """
    path = fs.path / "read-by-all"
    path.write_bytes(random.randbytes(IDLE_READ_BYTES))
    os.sync()
    ino, pid = os.stat(path).st_ino, fs.server_pid()
    own, kernel, costs = own_memory_mib(pid), _socket_bytes(), {}

    def cost():
        parts = {"own": (own_memory_mib(pid) - own) * MIB, "inbox": count * _inbox_bytes(), "kernel": _socket_bytes() - kernel}
        return {part: grown / count for part, grown in parts.items()}

    for state in ("greeted", "again"):
        links = []
        for _ in range(count):
            link, _, status = greet(fs.port, random.randbytes(16))
            check(status == 0, "hello was answered with status", status)
            links.append(link)
        costs[state] = cost()
        for number, link in enumerate(links):
            _use(link, ino, b"%s-%d" % (state.encode(), number))
        costs["used" if state == "greeted" else state] = cost()
        for link in links:
            link.close()
        eventually("the server lets go of them", lambda: descriptors(pid) < count // 2, 30)
    return costs


@case(timeout_s=180)
def memory_idle_connections(ctx):
    """1,000 connections with sessions that did something and are idle now: less than 64 KiB each, the kernel's part included."""
    fs = ctx.fs(gen=("--cores", "0", "--memory-mib", "512"), target_count=1)
    costs = idle_connections(fs, ctx.random, IDLE_COUNT)
    for state, parts in costs.items():
        for part, used in parts.items():
            ctx.figure("memory.idle_%s_%s" % (state, part), used, "bytes")
        check(sum(parts.values()) < IDLE_BYTES_MAX, "a connection costs", parts, "bytes when it is", state)
    fs.check_server()
    fs.close()


def _churn(folder, seed):
    """Makes, writes, reads and removes files."""
    for index in range(150):
        path = folder / ("%d-%d" % (seed, index))
        path.write_bytes(bytes([index]) * (4096 + index * 500))
        check(path.read_bytes() == bytes([index]) * (4096 + index * 500), path, "reads back wrong")
        if index % 3:
            path.unlink()


@case(timeout_s=180)
def memory_small(ctx):
    """A server of 64 MiB under 16 processes and large streams: slower, never wrong, never beyond its memory."""
    fs = ctx.fs(gen=SMALL)
    folder = fs.path / "churn"
    folder.mkdir()
    workers = [fork_worker(_churn, folder, seed) for seed in range(16)]
    data = ctx.random.randbytes(96 << 20)
    (fs.path / "large").write_bytes(data)
    join_workers(workers, 120, "churn")
    _within(fs, ctx, "small")
    fs.remount()
    check((fs.path / "large").read_bytes() == data, "the large file reads back wrong")
    check(len(os.listdir(fs.path / "churn")) == 16 * 50, "files are missing:", len(os.listdir(fs.path / "churn")))
    fs.check_server()
    fs.close()


@case(timeout_s=60)
def memory_holes(ctx):
    """A file of blocks and holes in turn, more pieces than one send takes, and a hole of 1 GiB: right, and no memory for zeros."""
    fs = ctx.fs(gen=SMALL)
    blocks = 512
    folder = fs.path / "longest-chunks"
    folder.mkdir()
    fs.weft("fs", "layout", "set", folder, "--stripe-unit", "4MiB")
    path = folder / "comb"
    with open(path, "wb") as file:
        for index in range(blocks):
            os.pwrite(file.fileno(), bytes([1 + index % 250]) * 4096, index * 8192)
        os.ftruncate(file.fileno(), 1 << 30)
    fs.remount()
    with open(path, "rb") as file:
        for index in range(blocks):
            want = bytes([1 + index % 250]) * 4096 + bytes(4096)
            check(file.read(8192) == want, "block", index, "reads back wrong")
        while True:
            piece = file.read(8 << 20)
            if not piece:
                break
            check(piece.count(0) == len(piece), "a hole has bytes")
    bodies = [struct.pack("<HQQII", target, os.stat(path).st_ino, 0, 0, 4 * CHUNK_BYTES) for target in range(len(fs.targets))]
    answers = _read_all(fs.port, ctx.random.randbytes(16), [frame(READ, body, request=1 + body[0]) for body in bodies])
    check(sorted(answers) == [(0, 0)] * 3 + [(0, blocks * 8192 - 4096)], "a chunk of many pieces:", answers)
    _within(fs, ctx, "holes")
    fs.check_server()
    fs.close()
