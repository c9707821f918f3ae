"""The way between a mount and a server of its own machine: a unix socket where one is offered by whom it can be believed of, else TCP."""

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time

from cases.metrics import scraped, total
from lib.base import case, check, eventually, remember
from lib.cable import Cable
from lib.cluster import MIB, Cluster, free_port, program
from lib.procs import fork_worker, join_workers, run, send, start_time, wait

SOMEBODY = 47110
# Also when the run is over TCP otherwise.
AUTO = ["local_socket=auto"]
# Whoever it is takes a name, says so, and reports each byte that it is sent until its input ends.
SQUAT = """
import os, select, socket, sys
os.setuid(int(sys.argv[2]))
taken = socket.socket(socket.AF_UNIX)
taken.bind("\\0" + sys.argv[1])
taken.listen(64)
print("taken", flush=True)
came = []
while True:
    for ready in select.select([taken, sys.stdin, *came], [], [])[0]:
        if ready is sys.stdin:
            sys.exit()
        if ready is taken:
            came.append(taken.accept()[0])
            print("came", flush=True)
        else:
            data = ready.recv(4096)
            if data:
                print("heard", len(data), flush=True)
            else:
                came.remove(ready)
"""


def _name(cluster):
    return "weft/%s:%d" % (cluster.host, cluster.port)


def _goes(cluster, mount, way):
    """Waits until all connections of a mount go this way."""
    other = {"unix": "tcp", "tcp": "unix"}[way]

    def all_do():
        now = cluster.listed(mount)["servers"]
        return now and now[way] > 0 and now[other] == 0

    eventually("%s is connected over %s" % (mount.name, way), all_do, 30)


def _local_connections(port):
    return total(scraped(port), "weft_server_local_connections")


def _node(ctx, name="a", **how):
    cluster = Cluster(ctx, name, target_count=2, target_bytes=256 * MIB, gen=("--cores", "0,1"), **how)
    cluster.create()
    return cluster


def _check_io(write, read, name, data):
    """Written through one mount, durable, and the same through the other, where nothing of it is cached."""
    with open(write / name, "wb") as goal:
        goal.write(data)
        os.fsync(goal.fileno())
    check((read / name).read_bytes() == data, name, "reads back as something else")


class Squatter:
    """A process of a user that has a name."""

    def __init__(self, ctx, name, uid=SOMEBODY):
        pipe = subprocess.PIPE
        # The interpreter by its real path: this process's own may lie where others may not go.
        python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
        self.child = subprocess.Popen([python, "-c", SQUAT, name, str(uid)], stdin=pipe, stdout=pipe, text=True, cwd="/")
        remember(ctx.work, "pid", "%d %d" % (self.child.pid, start_time(self.child.pid)))
        check(self.child.stdout.readline() == "taken\n", "the name could not be taken")

    def close(self):
        """Ends it; the words it said."""
        words = self.child.communicate("", timeout=20)[0].split("\n")
        wait(self.child, 20, "squatter")
        return words


@case(timeout_s=180)
def sockets_local(ctx):
    """A mount of this machine uses a unix socket, and TCP when told to; kills of server and client-core, large and small I/O; shown."""
    fs = _node(ctx)
    port = free_port()
    with open(fs.config, "a") as config:
        config.write('metrics = "127.0.0.1:%d"\n' % port)
    fs.start()
    near, far = fs.mount("near", AUTO), fs.mount("far", options=["local_socket=off"])
    servers = {mount.name: fs.listed(mount)["servers"] for mount in (near, far)}
    check(servers["near"] == {"unix": 2, "tcp": 0}, "one connection to each of two shards:", servers)
    check(servers["far"] == {"unix": 0, "tcp": 2}, "told to use TCP:", servers)
    shown = [line for line in fs.weft("mount", "list").out.splitlines() if str(near.path) in line]
    check(re.search(r"\sunix\s", shown[0]), "shown to people:", shown)
    data = os.urandom(37 * MIB + 4097)
    for turn, end in enumerate(("start", "kill", "stop", "core")):
        if end == "kill":
            fs.kill()
            fs.start()
        elif end == "stop":
            fs.stop()
            fs.start()
        elif end == "core":
            for mount in (near, far):
                core = mount.core_pid()
                send(core, signal.SIGKILL)
                eventually("another client-core", lambda m=mount, core=core: m.core_pid() not in (None, core), 30)
        _check_io(near.path, far.path, "near-%d" % turn, data)
        _check_io(far.path, near.path, "far-%d" % turn, data[: 5 * MIB])
        for index in range(50):
            (near.path / ("small-%d-%d" % (turn, index))).write_bytes(data[index : index + 100 * index])
        for index in range(50):
            check((far.path / ("small-%d-%d" % (turn, index))).read_bytes() == data[index : index + 100 * index], "small", index)
        _goes(fs, near, "unix")
        _goes(fs, far, "tcp")
        eventually("the server counts two unix connections", lambda: _local_connections(port) == 2, 20)
    files = ["/run/weft-mounts/%d.servers" % mount.core_pid() for mount in (near, far)]
    check(all(os.path.exists(file) for file in files), "what `weft mount list` reads is", files)
    fs.close()
    check(not any(os.path.exists(file) for file in files), "mounts that ended left", files)


@case(timeout_s=120)
def sockets_same_port(ctx):
    """Two servers at one port of two addresses of this machine, and one at all addresses: each mount meets its own."""
    one, two = _node(ctx, "one"), Cluster(ctx, "two", target_count=2, target_bytes=256 * MIB, host="127.0.0.2")
    two.port = one.port
    two.create()
    one.start()
    two.start()
    for cluster in (one, two):
        mount = cluster.mount(cluster.host, AUTO)
        (mount.path / "whose").write_text(cluster.host)
        _goes(cluster, mount, "unix")
        mount = cluster.remount(cluster.host, AUTO)
        check((mount.path / "whose").read_text() == cluster.host, "a mount of", cluster.host, "met another server")
        check(len(os.listdir(mount.path)) == 1, os.listdir(mount.path))
        cluster.close()
    everywhere = Cluster(ctx, "all", target_count=2, target_bytes=256 * MIB, host="0.0.0.0")
    everywhere.create()
    everywhere.start()
    for host in ("127.0.0.1", "127.5.5.5"):
        everywhere.host = host
        _goes(everywhere, everywhere.mount(host, AUTO), "unix")
    # An address that nobody has (RFC 5737): not one of this machine, whatever listens here on all that are.
    point = ctx.work / "elsewhere"
    point.mkdir()
    elsewhere = [program("mount-weft"), "192.0.2.7:%d:/" % everywhere.port, point, "-o", "timeout_ms=1500"]
    check(run(elsewhere, ok=None, timeout_s=60).code == 32, "a mount of another machine's address met the server of this one")
    everywhere.close()


@case(timeout_s=120)
def sockets_namespace(ctx):
    """A mount in another network namespace does not see the socket and uses TCP; one beside the server uses it by any own address."""
    with Cable() as cable:
        fs = _node(ctx, host=cable.server)
        fs.start()
        far = fs.mount("far", AUTO, within=["nsenter", "--net=/run/netns/" + cable.space])
        near = fs.mount("near", AUTO)
        _goes(fs, near, "unix")
        _goes(fs, far, "tcp")
        _check_io(near.path, far.path, "file", os.urandom(3 * MIB))
        fs.close()


@case(timeout_s=180)
def sockets_squatted(ctx):
    """Another user's process that took the name hears no byte: TCP is used, and both logs say so; the next server has the socket."""
    fs = _node(ctx)
    squatter = Squatter(ctx, _name(fs))
    fs.start()
    check("listens by this name" in fs.log_since(0), "the server's log does not say that the name is taken")
    mount = fs.mount("m", AUTO)
    _goes(fs, mount, "tcp")
    _check_io(mount.path, mount.path, "file", os.urandom(3 * MIB))
    said = mount.log.read_text().count("another user's program")
    check(said == 1, "the mount's log says it", said, "times")
    fs.kill()
    fs.start()
    _check_io(mount.path, mount.path, "again", os.urandom(3 * MIB))
    words = squatter.close()
    check("came" in words, "nobody came to the squatter: this case shows nothing")
    check(not any(word.startswith("heard") for word in words), "the squatter heard the mount:", words)
    fs.kill()
    fs.start()
    _check_io(mount.path, mount.path, "third", os.urandom(3 * MIB))
    _goes(fs, mount, "unix")
    fs.close()


def _relay(name, port, stop):
    """Root's process that has the name and passes everything on to a port, until `stop` exists."""
    taken = socket.socket(socket.AF_UNIX)
    while taken.connect_ex("\0" + name) == 0:  # the ring of a killed server holds it for a moment
        taken.close()
        time.sleep(0.01)
        taken = socket.socket(socket.AF_UNIX)
    taken.bind("\0" + name)
    taken.listen(64)
    peers = {}
    while not stop.exists():
        for ready in select.select([taken, *peers], [], [], 0.1)[0]:
            if ready is taken:
                here, there = taken.accept()[0], socket.create_connection(("127.0.0.1", port))
                peers[here], peers[there] = there, here
                (stop.parent / "relayed").touch()
                continue
            if ready not in peers:
                continue
            try:
                data = ready.recv(65536)
                if data:
                    peers[ready].sendall(data)
                    continue
            except OSError:
                pass
            for each in (peers.pop(ready), ready):
                peers.pop(each, None)
                each.close()


@case(timeout_s=180)
def sockets_wrong_server(ctx):
    """Another cluster's server behind the name refuses, and TCP leads to the right one: a mount in use goes on."""
    fs, other = _node(ctx), _node(ctx, "other")
    fs.start()
    other.start()
    mount = fs.mount("m", AUTO)
    _goes(fs, mount, "unix")
    data = os.urandom(9 * MIB)
    _check_io(mount.path, mount.path, "before", data)
    fs.kill()
    stop = ctx.work / "stop"
    relay = fork_worker(_relay, _name(fs), other.port, stop)
    eventually("the relay has been met", lambda: (ctx.work / "relayed").exists(), 30)
    fs.start()
    _check_io(mount.path, mount.path, "after", data)
    check((mount.path / "before").read_bytes() == data, "another file system is seen")
    _goes(fs, mount, "tcp")
    check("refused us" in mount.log.read_text(), "the mount's log does not say why it uses TCP")
    stop.write_text("")
    join_workers([relay], 20, "relay")
    fs.kill()
    fs.start()
    _check_io(mount.path, mount.path, "last", data)
    _goes(fs, mount, "unix")
    fs.close()
    other.close()


def _read_all(path, rounds):
    """Reads past the page cache, 1 MiB at a time."""
    import mmap

    file, buffer = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, MIB)
    for _ in range(rounds):
        for at in range(0, os.fstat(file).st_size, MIB):
            check(os.preadv(file, [buffer], at) == MIB, "short read")
            check(buffer[:4] == at.to_bytes(4, "little"), "other bytes at", at)


@case(timeout_s=180)
def sockets_stopped(ctx):
    """A mount that is stopped and reads nothing is let go of in time, as over TCP: replies do not stay in the server; then it goes on."""
    fs = _node(ctx)
    fs.start()
    mount = fs.mount("m", AUTO)
    with open(mount.path / "file", "wb") as out:
        for at in range(0, 64 * MIB, MIB):
            out.write(at.to_bytes(4, "little") + bytes(MIB - 4))
        os.fsync(out.fileno())
    readers = [fork_worker(_read_all, mount.path / "file", 12) for _ in range(16)]
    core = mount.core_pid()
    time.sleep(0.5)
    for _ in range(10):
        # Stopped in the midst of replies, or it shows nothing: tried again.
        send(core, signal.SIGSTOP)
        time.sleep(0.3)
        queued = _unsent(fs)
        if queued > 4 * MIB:
            break
        send(core, signal.SIGCONT)
        time.sleep(0.05)
    begin = time.monotonic()
    eventually("the server lets go", lambda: "replies are not read" in fs.log_since(0), 60, 0.2)
    took = time.monotonic() - begin
    ctx.figure("sockets_stopped.let_go", took, "s")
    check(10 < took < 40, "let go after", took, "s")
    send(core, signal.SIGCONT)
    join_workers(readers, 90, "readers")
    _goes(fs, mount, "unix")
    fs.close()


def _unsent(fs):
    """Bytes that wait in the server's unix sockets for their readers."""
    lines = run(["ss", "-xH", "state", "connected"]).out.splitlines()
    return sum(int(line.split()[3]) for line in lines if "@" + _name(fs) in line)
