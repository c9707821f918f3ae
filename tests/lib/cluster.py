"""One node of Weft in a directory of its own, on a port of its own: made, started, killed, mounted, damaged.

The server and the mounts run in the foreground as children of the case, so their pids are known and their output
lands in `server.log` and `NAME.log`. Every pid and mount point is written down before it can be lost, so that the
runner cleans up whatever happens to the case.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from lib.base import ROOT, Failed, check, eventually, remember
from lib.procs import alive, children, run, send, spawn, start_time, tail, wait

MIB = 1 << 20
START_S = 60.0
SERVING = "serving mount_point="
STOP_S = 30.0


def binaries():
    """The folder with the built programs: WEFT_BIN, or the release folder of cargo's target directory."""
    if os.environ.get("WEFT_BIN"):
        return Path(os.environ["WEFT_BIN"])
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def program(name):
    """Path of one of our programs."""
    path = binaries() / name
    check(path.exists(), "%s is not built: run `cargo build --release`, or set WEFT_BIN" % path)
    return path


def free_port():
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_mounted(path):
    """Whether something is mounted exactly there; asks only /proc, so it cannot hang."""
    want = str(path).replace("\\", "\\134").replace(" ", "\\040")
    with open("/proc/self/mountinfo") as table:
        return any(line.split()[4] == want for line in table)


def _try_lock(file):
    """Whether nobody has the file locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


class Mount:
    """A mount of the cluster, its supervisor (`child`), and the client-core below that, which serves."""

    def __init__(self, name, path, child, log):
        self.name, self.path, self.child, self.log = name, path, child, log

    def core_pid(self):
        """The client-core of now, or None while there is none."""
        return next(iter(children(self.child.pid)), None)

    def kill(self):
        """kill -9 of both at once: the mount is dead."""
        core = self.core_pid()
        send(self.child.pid, signal.SIGKILL)
        if core:
            send(core, signal.SIGKILL)
        wait(self.child, STOP_S, "killed supervisor")


class Cluster:
    """A node with its files, its server and its mounts. `path` is the first mount."""

    is_peer = False

    def __init__(self, ctx, name="a", target_count=4, target_bytes=1024 * MIB, gen=(), devices=(), host="127.0.0.1"):
        self.ctx = ctx
        self.dir = Path(ctx.work) / ("node-" + name)
        self.state = self.dir / "state"
        self.config = self.dir / "weft.toml"
        self.log = self.dir / "server.log"
        self.targets = list(devices) or [self.dir / "targets" / ("target%d" % index) for index in range(target_count)]
        self.target_bytes = target_bytes
        self.gen = list(gen)
        self.host = host
        self.port = free_port()
        self.server = None
        self.mounts = {}
        self.path = None
        self.points = None

    def weft(self, *args, ok=(0,), timeout_s=60.0):
        """Runs the command `weft`."""
        return run([program("weft"), *args], timeout_s=timeout_s, ok=ok)

    def listed(self, mount):
        """What `weft mount list` says of a mount."""
        mounts = json.loads(self.weft("mount", "list", "--json").out)["mounts"]
        found = [entry for entry in mounts if entry["mount_point"] == str(mount.path)]
        check(len(found) == 1, "weft mount list shows", mounts)
        return found[0]

    def create(self):
        """Generates the config and formats the file system."""
        self.state.mkdir(parents=True, exist_ok=True)
        self.targets[0].parent.mkdir(exist_ok=True)
        args = ["gen", "--dir", self.state, "--listen", "%s:%d" % (self.host, self.port)]
        for target in self.targets:
            args += ["--target", target]
        made = subprocess.run(
            [str(part) for part in [program("weft"), *args, *self.gen]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        check(made.returncode == 0, "weft gen:", made.stderr.decode(errors="replace"))
        self.config.write_bytes(made.stdout)
        self.weft("fs", "create", "--config", self.config, "--target-bytes", self.target_bytes, timeout_s=120)

    def start(self, timeout_s=START_S, rust_log=None):
        """Starts the server and returns the seconds until it serves."""
        check(self.server is None or self.server.poll() is not None, "the server runs already")
        offset = self.log.stat().st_size if self.log.exists() else 0
        begin = time.monotonic()
        env = {"RUST_BACKTRACE": "1"}
        if rust_log:
            env["RUST_LOG"] = rust_log
        self.server = spawn([program("weft-server"), "--config", self.config], self.log, env=env)
        remember(self.ctx.work, "pid", "%d %d" % (self.server.pid, start_time(self.server.pid)))

        def ready():
            code = self.server.poll()
            if code is not None:
                raise Failed("the server ended with %d at start:\n%s" % (code, self.log_since(offset)))
            return "serving" in self.log_since(offset)

        eventually("server says that it serves:\n" + tail(self.log, 5), ready, timeout_s, 0.01)
        return time.monotonic() - begin

    def log_since(self, offset):
        """The server's log from a byte on."""
        with open(self.log, "rb") as source:
            source.seek(offset)
            return source.read().decode(errors="replace")

    def log_offset(self):
        """Length of the server's log now."""
        return self.log.stat().st_size if self.log.exists() else 0

    def server_pid(self):
        """The server's pid."""
        return self.server.pid

    def check_server(self):
        """Fails when the server is not running or has panicked."""
        check(self.server.poll() is None, "the server died with", self.server.poll(), "\n" + tail(self.log))
        check("panicked at" not in self.log_since(0), "the server panicked:\n" + tail(self.log, 40))

    def kill(self):
        """kill -9."""
        send(self.server.pid, signal.SIGKILL)
        wait(self.server, STOP_S, "killed server")

    def stop(self, timeout_s=STOP_S):
        """SIGTERM; the server must end with 0. Returns the seconds it took."""
        begin = time.monotonic()
        send(self.server.pid, signal.SIGTERM)
        code = wait(self.server, timeout_s, "server after SIGTERM")
        check(code == 0, "the server ended with %d after SIGTERM:\n%s" % (code, tail(self.log)))
        return time.monotonic() - begin

    def mount(self, name="mnt", options=(), timeout_s=START_S, within=()):
        """Mounts the file system as `/tmp/weft-XXXX/NAME` and waits until it answers. `within`: a command that runs it.

        The path is short because programs bind sockets below it, and the name of a socket holds 107 bytes.
        """
        if self.points is None:
            self.points = Path(tempfile.mkdtemp(prefix="weft-", dir="/tmp"))
            self.points.chmod(0o755)
        path = self.points / name
        path.mkdir(exist_ok=True)
        log = self.dir / (name + ".log")
        remember(self.ctx.work, "mount", path)
        transport = os.environ.get("WEFT_TEST_TRANSPORT")
        chosen = ["transport=" + transport] if transport else []
        # The last of several counts: a case that is about it says it itself.
        chosen += ["local_socket=off"] if os.environ.get("WEFT_TEST_LOCAL_SOCKET") == "off" else []
        opts = ",".join(["foreground", *chosen, *options])
        source = "%s:%d:/" % (self.host, self.port)
        # A mount whose client was killed may be there still: the new one takes it away.
        dead = is_mounted(path) and log.read_text(errors="replace").count(SERVING)
        child = spawn([*within, program("mount-weft"), source, path, "-o", opts], log, env={"RUST_BACKTRACE": "1"})
        remember(self.ctx.work, "pid", "%d %d" % (child.pid, start_time(child.pid)))
        mount = Mount(name, path, child, log)

        def ready():
            if child.poll() is not None:
                raise Failed("mount ended with %d:\n%s" % (child.poll(), tail(log)))
            return is_mounted(path) and (dead is False or log.read_text(errors="replace").count(SERVING) > dead)

        eventually("mount of %s:\n%s" % (path, tail(log, 5)), ready, timeout_s, 0.01)
        run(["stat", "-f", path], timeout_s=timeout_s)
        self.mounts[name] = mount
        if self.path is None or name == "mnt":
            self.path = path
        return mount

    def unmount(self, name="mnt", timeout_s=60.0):
        """Unmounts; the process that served it must end with 0."""
        mount = self.mounts.pop(name)
        run(["umount", mount.path], timeout_s=timeout_s)
        code = wait(mount.child, timeout_s, "mount process after umount")
        check(code == 0, "the mount process ended with %d:\n%s" % (code, tail(mount.log)))

    def remount(self, name="mnt", options=()):
        """Unmounts and mounts again: no cache survives."""
        self.unmount(name)
        return self.mount(name, options)

    def check_mounts(self):
        """Fails when a mount process is gone or has panicked."""
        for mount in self.mounts.values():
            check(alive(mount.child.pid), "mount process of", mount.name, "died:\n" + tail(mount.log))
            check("panicked at" not in mount.log.read_text(errors="replace"), "the mount panicked:\n" + tail(mount.log, 40))

    def save(self, name):
        """Copies state and targets of the stopped node aside."""
        for part in ("state", "targets"):
            goal = self.dir / ("saved-" + name) / part
            shutil.rmtree(goal, ignore_errors=True)
            goal.parent.mkdir(exist_ok=True)
            run(["cp", "-a", "--sparse=always", "--reflink=auto", self.dir / part, goal], timeout_s=300)

    def _wait_for_last_writes(self):
        """Until a killed server's rings are gone: they hold the lock of its state folder, and with it the port.

        A new server waits for that too, but by the lock file that `load` exchanges.
        """
        for path in self.state.rglob("lock"):
            with open(path, "rb") as lock:
                eventually("last writes of a killed server", lambda: _try_lock(lock), STOP_S, 0.01)

    def load(self, name):
        """Puts back what `save` copied."""
        self._wait_for_last_writes()
        for part in ("state", "targets"):
            shutil.rmtree(self.dir / part, ignore_errors=True)
            run(
                ["cp", "-a", "--sparse=always", "--reflink=auto", self.dir / ("saved-" + name) / part, self.dir / part],
                timeout_s=300,
            )

    def config_number(self, key, default):
        """A number out of the config."""
        found = re.search(r"^\s*%s\s*=\s*([0-9_]+)" % re.escape(key), self.config.read_text(), re.M)
        return int(found.group(1)) if found else default

    def close(self):
        """Unmounts and stops in order; what fails here fails the case."""
        self.check_mounts()
        for name in list(self.mounts):
            self.unmount(name)
        if self.server and self.server.poll() is None:
            self.check_server()
            self.stop()
