"""`weft trace`: the steps of operations, at the mount and at two shards, held against what the test did and measured."""

import json
import mmap
import os
import time

from lib.base import case, check, eventually
from lib.cluster import Cluster

MIB = 1 << 20


def _traced(fs, *args, ok=(0,)):
    return json.loads(fs.weft("trace", *args, "--json", ok=ok).out)


def _two_shards(ctx):
    fs = Cluster(ctx, gen=("--cores", "0,1"))
    fs.create()
    fs.start()
    fs.mount()
    return fs


def _work(fs, name):
    """Creates a file, writes 1 MiB directly, syncs and reads it; seconds of each as the caller saw them."""
    path, took = str(fs.path / name), {}

    def timed(what, act):
        begin = time.monotonic()
        result = act()
        took[what] = time.monotonic() - begin
        return result

    fd = timed("create", lambda: os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    buffer = mmap.mmap(-1, MIB)
    buffer.write(b"t" * MIB)
    try:
        # Over the border of two chunks, so that both shards have a part.
        timed("write", lambda: os.pwrite(fd, buffer, MIB // 2))
        timed("fsync", lambda: os.fsync(fd))
        timed("read", lambda: os.preadv(fd, [buffer], MIB // 2))
    finally:
        os.close(fd)
    check(buffer[:] == b"t" * MIB, "wrong bytes")
    return took


def _check_steps(op):
    """The steps are in order, begin and end with the operation, and add up to it; each request's are in order, too."""
    steps, whole = op["steps"], op["took_us"]
    times = [step["at_us"] for step in steps]
    check(times == sorted(times) and times[0] == 0, "not in order:", steps)
    check(abs(times[-1] - whole) < 0.01, "the last step is not the end:", steps)
    check(abs(sum(step["since_us"] for step in steps) - whole) < 0.01, "the steps are not the whole:", steps)
    for request in op["requests"]:
        server = request["server"]
        check(server, "a request that its server does not know:", request)
        way = [request["asked_us"], request["sent_us"], server["received_us"], server["admitted_us"]]
        if server["device_began_us"] is not None:
            way += [server["device_began_us"], server["device_ended_us"]]
        way += [server["replied_us"], request["answered_us"]]
        check(way == sorted(way), "a request's steps are not in order:", request)
        check(server["clock_uncertainty_us"] < whole + 1000, "clocks:", request)
        check(request["status"] == "done", request)


def _check_times(op, seconds):
    """What the mount says is not more than the program saw, nor a small part of it (programs wait for cores, too)."""
    took = op["took_us"] / 1e6
    check(0 < took <= seconds, op["operation"], "took", took, "the program saw", seconds)
    check(took >= seconds / 50 or seconds < 0.005, op["operation"], "took", took, "of", seconds)


@case(90)
def trace(ctx):
    """Create, direct write, fsync and read of a file: every step in order, at both shards, the sum the whole."""
    fs = _two_shards(ctx)
    try:
        took = _work(fs, "file")
        inode = os.stat(fs.path / "file").st_ino
        told = _traced(fs, fs.path / "file", "--last", "50")
        ops = {}
        for op in told["operations"]:
            ops.setdefault(op["operation"], op)
        check({"create", "write", "fsync", "read"} <= set(ops), "operations:", sorted(ops))
        for name, seconds in took.items():
            op = ops[name]
            check(inode in (op["inode"], op["found_inode"]) and op["errno"] == 0, op)
            check(op["pid"] == os.getpid() and op["mount_point"] == str(fs.path), op)
            _check_steps(op)
            _check_times(op, seconds)
        for name in ("write", "read"):
            op, parts = ops[name], ops[name]["requests"]
            check((op["bytes"], op["offset"]) == (MIB, MIB // 2), op)
            own = [part for part in parts if part["own"] and part["kind"] == name]
            check(sum(part["bytes"] for part in own) == MIB, "the parts are not the whole:", parts)
            check({part["chunk"] for part in own} == {0, 1}, parts)
            check({part["shard"] for part in own} == {"shard 0", "shard 1"}, parts)
            check(len({part["target"] for part in own}) == 2, parts)
            check(all(part["server"]["device_began_us"] is not None for part in own), "no device work:", parts)
        kinds = {part["kind"] for part in ops["fsync"]["requests"]}
        check({"sync", "wrote"} <= kinds, "an fsync tells and syncs:", kinds)
        make = ops["create"]["requests"][0]
        check(make["kind"] == "make" and make["server"]["device_began_us"] is not None, "no log write:", make)
        mount = told["mounts"][0]
        check(not mount["overrun"] and mount["client_cores"] == 1, mount)
        check(all(server["error"] is None for server in mount["servers"]), mount)
        text = fs.weft("trace", "--op", "write", "--mount", fs.path, "--last", "1").out
        for said in ("read from the kernel", "device work begun", "answered to the kernel: ok", "right to"):
            check(said in text, said, "is not in", text)
        outside = fs.weft("trace", ctx.work, ok=(1,))
        check("not on a Weft mount" in outside.out, outside.out)
        other = fs.weft("trace", "--op", "wirte", ok=(1,))
        check("no operation has that name" in other.out and "write" in other.out, other.out)
    finally:
        fs.close()


@case(120)
def trace_overrun(ctx):
    """What the ring no longer holds is not invented; the slowest of a kind is kept, and found at its server."""
    fs = ctx.fs()
    _work(fs, "slow")
    path = fs.path / "busy"
    path.write_bytes(b"b" * 4096)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, 4096)
    try:
        for _ in range(20_000):
            os.preadv(fd, [buffer], 0)
    finally:
        os.close(fd)
    told = _traced(fs, "--op", "create", "--mount", fs.path, "--slowest=1")
    mount = told["mounts"][0]
    check(mount["overrun"] and mount["operations_ever"] > 20_000, mount)
    check(mount["operations_recorded"] < 20_000, mount)
    (create,) = told["operations"]
    _check_steps(create)
    newest = _traced(fs, path, "--last", "1")["operations"][0]
    check(newest["ended_seconds_ago"] < 60, newest)
    told = fs.weft("trace", fs.path / "slow", "--op", "flush").out
    check("the mount's recorder holds the last" in told, told)


@case(120)
def trace_takeover(ctx):
    """A client-core is killed: what it recorded is there, its successor goes on and says since when. Then the server is
    away: the mount's steps are told all the same, and that the rest is not known."""
    fs = _two_shards(ctx)
    try:
        _work(fs, "before")
        mount = fs.mounts["mnt"]
        killed = mount.core_pid()
        os.kill(killed, 9)
        eventually("a successor serves", lambda: mount.core_pid() not in (None, killed))
        took = _work(fs, "after")
        told = _traced(fs, fs.path / "after", "--last", "50")
        state = told["mounts"][0]
        check(state["client_cores"] == 2 and state["client_core_seconds"] < 60, state)
        writes = [op for op in told["operations"] if op["operation"] == "write"]
        check(writes and writes[0]["client_core"] == 2, told["operations"])
        _check_steps(writes[0])
        _check_times(writes[0], took["write"])
        before = _traced(fs, fs.path / "before", "--op", "write")["operations"]
        check(before and before[0]["client_core"] == 1, "what the killed one recorded:", before)
        _check_steps(before[0])
        check("client-core 2 serves" in fs.weft("trace", "--mount", fs.path).out, "nothing of the successor")
        fs.kill()
        told = _traced(fs, "--op", "write", "--last", "1", "--mount", fs.path, ok=(2,))
        (write,) = told["operations"]
        check(all(part["server"] is None and part["server_unknown"] for part in write["requests"]), write)
        check(write["requests"] and write["steps"][-1]["at_us"] > 0, write)
        check(all(server["error"] for server in told["mounts"][0]["servers"]), told["mounts"])
        fs.start()
        # The server that was started anew recorded nothing of it: that is said, and no other request taken for it.
        told = eventually("the server answers", lambda: _traced(fs, "--op", "write", "--last", "1", "--mount", fs.path))
        why = [part["server_unknown"] for part in told["operations"][0]["requests"]]
        check(all(reason for reason in why), "a server that was started anew knows:", told)
    finally:
        fs.close()


@case(60)
def trace_server_away(ctx):
    """Commands that name a file end in time when its server is away, and say what to do; what needs no server is shown."""
    fs = Cluster(ctx)
    fs.create()
    fs.start()
    fs.mount()
    (fs.path / "file").write_bytes(b"x")
    fs.remount()
    fs.kill()
    try:
        for command in (["trace"], ["fs", "stat"], ["fs", "df"], ["fs", "layout", "get"]):
            begin = time.monotonic()
            said = fs.weft("--timeout", "2", *command, fs.path / "file", ok=(1,)).out
            check("no answer within 2 s" in said and "weft mount ops" in said, command, "said:", said)
            check(1.5 < time.monotonic() - begin < 20, command, "took", time.monotonic() - begin)
        fs.weft("--timeout", "2", "trace", "--mount", fs.path, ok=(0, 2))
    finally:
        fs.start()
        fs.close()
