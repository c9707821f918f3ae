"""Proof 5, bad input on the wire: a minute of noise, mutated and lying frames, while a mount keeps verifying files.

Memory: the server's own memory (VmRSS without the pages of mapped files, which are LMDB's and go when the kernel
wants them) must stay under `memory_mib` of its config (default below) plus ALLOWANCE_MIB for code, stacks and malloc.
"""

import os
import random
import re
import socket
import threading
import time

from lib.base import ROOT, case, check, eventually
from lib.frames import HELLO, PING, Fuzz, frame, golden, greet
from lib.procs import fork_worker, join_workers
from lib.trees import file_hash

GOLDEN = ROOT / "netrdma" / "wire" / "tests" / "golden" / "v1.txt"
SENDERS = 6
IDLE_CONNECTIONS = 100
HOARDERS = 70
PATIENCE_S = 15
MEMORY_MIB_DEFAULT = 1024
ALLOWANCE_MIB = 192


def own_memory_mib(pid):
    """Resident memory of a process that no file backs."""
    with open("/proc/%d/status" % pid) as source:
        status = source.read()
    parts = re.findall(r"^(?:RssAnon|RssShmem):\s+(\d+) kB", status, re.M)
    return sum(int(part) for part in parts) / 1024.0


def descriptors(pid):
    """Open files of a process."""
    return len(os.listdir("/proc/%d/fd" % pid))


def _send(port, seed, stop, counts, recorded):
    """One sender: connection after connection, until told to stop."""
    fuzz, sent, connections = Fuzz(seed, recorded), 0, 0
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), 10) as link:
                connections += 1
                link.settimeout(0.2)
                link.sendall(fuzz.greeting())
                try:
                    fuzz.welcomed(link.recv(4096))
                except socket.timeout:
                    pass
                link.settimeout(2)
                for _ in range(fuzz.random.randrange(1, 60)):
                    link.sendall(fuzz.piece())
                    sent += 1
                    if fuzz.random.random() < 0.3:
                        link.settimeout(0.01)
                        try:
                            link.recv(1 << 16)
                        except socket.timeout:
                            pass
                        link.settimeout(2)
                if fuzz.random.random() < 0.3:
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        except OSError:
            pass
        if connections > 100 and connections % 100 == 0:
            time.sleep(0.001)
    counts.append((sent, connections))


def _keep_verifying(folder, stop_file, seed):
    """A program on the mount: reads the old files, writes new ones, compares; until `stop_file` exists."""
    want = {name: file_hash(folder / name) for name in sorted(os.listdir(folder))}
    source, rounds = random.Random(seed), 0
    while not stop_file.exists():
        for name, digest in want.items():
            check(file_hash(folder / name) == digest, name, "changed")
        data = source.randbytes(source.randrange(1, 3 << 20))
        new = folder / "new"
        new.write_bytes(data)
        descriptor = os.open(new, os.O_RDWR)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        check(new.read_bytes() == data, "what was just written reads back wrong")
        new.unlink()
        rounds += 1
    check(rounds > 0, "the verifier never came round")


@case(timeout_s=240)
def hostile_frames(ctx):
    """60 s of random, mutated and lying frames from many connections: no panic, bounded memory, files intact."""
    fs = ctx.fs()
    folder = fs.path / "files"
    folder.mkdir()
    for index in range(20):
        (folder / ("f%d" % index)).write_bytes(ctx.random.randbytes(ctx.random.randrange(1, 4 << 20)))
    pid, limit = fs.server_pid(), fs.config_number("memory_mib", MEMORY_MIB_DEFAULT) + ALLOWANCE_MIB
    descriptors_before, memory_before = descriptors(pid), own_memory_mib(pid)
    stop_file = ctx.work / "stop"
    verifier = fork_worker(_keep_verifying, folder, stop_file, ctx.seed)

    stop, counts, recorded = threading.Event(), [], list(golden(GOLDEN).values())
    senders = [
        threading.Thread(target=_send, args=(fs.port, ctx.seed + index, stop, counts, recorded))
        for index in range(SENDERS)
    ]
    for sender in senders:
        sender.start()
    end, highest = time.monotonic() + ctx.scaled(60, 10), 0.0
    while time.monotonic() < end:
        time.sleep(0.25)
        fs.check_server()
        highest = max(highest, own_memory_mib(pid))
    stop.set()
    for sender in senders:
        sender.join(30)
        check(not sender.is_alive(), "a sender hangs")
    stop_file.write_text("")
    join_workers([verifier], 60, "verifier")

    ctx.figure("hostile.pieces", sum(count[0] for count in counts), "pieces")
    ctx.figure("hostile.connections", sum(count[1] for count in counts), "connections")
    ctx.figure("hostile.memory_before", memory_before, "MiB")
    ctx.figure("hostile.memory_highest", highest, "MiB")
    ctx.figure("hostile.memory_limit", limit, "MiB")
    check(highest <= limit, "the server used", highest, "MiB, the bound is", limit)
    check(sum(count[0] for count in counts) > 1000, "hardly anything was sent:", counts)
    eventually("the connections are given back", lambda: descriptors(pid) <= descriptors_before + 4, 30, 0.2)
    fs.check_server()
    fs.close()


@case(timeout_s=120)
def hostile_idle(ctx):
    """Connections that say nothing, half a header, or announce 4 MiB and stop: others are served, memory is bounded."""
    fs = ctx.fs()
    (fs.path / "file").write_bytes(b"y" * 3_000_000)
    pid, limit = fs.server_pid(), fs.config_number("memory_mib", MEMORY_MIB_DEFAULT) + ALLOWANCE_MIB
    before = descriptors(pid)
    links = []
    for index in range(IDLE_CONNECTIONS):
        kind = index % 4
        try:
            if kind == 0:
                links.append(socket.create_connection(("127.0.0.1", fs.port), 10))
                continue
            link, answer, status = greet(fs.port, ctx.random.randbytes(16))
            check(answer == HELLO and status == 0, "hello was answered with kind", answer, "status", status)
            links.append(link)
            if kind == 1:
                link.sendall(frame(2, b"x" * 100)[:40])
            elif kind == 2:
                link.sendall(frame(0x201, b"z" * 30, payload_bytes=4 << 20) + b"p" * 1000)
        except OSError as error:
            ctx.note("connection", index, "was refused:", error)
    check(len(links) > IDLE_CONNECTIONS // 2, "only", len(links), "connections were taken")
    time.sleep(2)
    data = ctx.random.randbytes(8 << 20)
    begin = time.monotonic()
    (fs.path / "more").write_bytes(data)
    fs.remount()
    check((fs.path / "more").read_bytes() == data, "the file reads back wrong")
    ctx.figure("idle.others", time.monotonic() - begin, "s")
    ctx.figure("idle.memory", own_memory_mib(pid), "MiB")
    check(own_memory_mib(pid) <= limit, "the server uses", own_memory_mib(pid), "MiB, the bound is", limit)
    for link in links:
        link.close()
    eventually("the connections are given back", lambda: descriptors(pid) <= before + 4, 30, 0.2)
    fs.check_server()
    fs.close()


def _never_reads(port, session, limit):
    """Sends pings and reads no answer; bytes sent until the server takes no more, `limit` at most."""
    link = greet(port, session)[0]
    link.settimeout(3)
    ping, sent = frame(PING, b"e" * 60_000), 0
    try:
        while sent < limit:
            sent += link.send(ping)
    except socket.timeout:
        pass
    return link, sent


@case(timeout_s=180)
def hostile_hoard(ctx):
    """Peers that announce more payload than there is memory, and peers that read no answer: bounded, dropped, and others are served."""
    fs = ctx.fs()
    pid, limit = fs.server_pid(), fs.config_number("memory_mib", MEMORY_MIB_DEFAULT) + ALLOWANCE_MIB
    before, links = descriptors(pid), []
    for _ in range(4):
        link, sent = _never_reads(fs.port, ctx.random.randbytes(16), 256 << 20)
        check(sent < 256 << 20, "the server took", sent, "bytes of a peer that reads nothing")
        ctx.note("took", sent, "bytes of a peer that reads nothing")
        links.append(link)
    for _ in range(HOARDERS):
        link = greet(fs.port, ctx.random.randbytes(16))[0]
        link.sendall(frame(0x201, b"z" * 30, payload_bytes=4 << 20) + b"p" * 1000)
        links.append(link)
    data = ctx.random.randbytes(32 << 20)
    begin = time.monotonic()
    (fs.path / "more").write_bytes(data)
    fs.remount()
    check((fs.path / "more").read_bytes() == data, "the file reads back wrong")
    took = time.monotonic() - begin
    ctx.figure("hoard.others", took, "s")
    ctx.figure("hoard.memory", own_memory_mib(pid), "MiB")
    check(took < 3 * PATIENCE_S, "another client waited", took, "s")
    check(own_memory_mib(pid) <= limit, "the server uses", own_memory_mib(pid), "MiB, the bound is", limit)
    eventually("the hoarders are dropped", lambda: descriptors(pid) <= before + 4, 5 * PATIENCE_S, 0.2)
    fs.check_server()
    for link in links:
        link.close()
    fs.close()
