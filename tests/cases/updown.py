"""Proof 7, the entry commands: make up twice, write, make down, make up, read back, make wipe; in a path with a space."""

import os
import signal
import subprocess

from lib.base import ROOT, case, check, eventually, remember
from lib.cluster import binaries, free_port, is_mounted
from lib.procs import alive, mount_pids, run, send, start_time


def _checkout(ctx):
    """The tracked files of this checkout as they are now, in a folder with a space."""
    goal = ctx.work / "a checkout"
    goal.mkdir()
    git = ["git", "-c", "safe.directory=*", "-C", ROOT]
    names = run([*git, "ls-files", "-z"]).out
    pack = subprocess.run(
        ["tar", "-C", str(ROOT), "--null", "--verbatim-files-from", "-T", "-", "-cf", "-"],
        input=names.encode(),
        stdout=subprocess.PIPE,
        timeout=120,
    )
    unpack = subprocess.run(["tar", "-C", str(goal), "-xf", "-"], input=pack.stdout, timeout=120)
    check(unpack.returncode == 0, "the checkout could not be copied")
    return goal


class Commands:
    """make in the copy, with the programs that are already built."""

    def __init__(self, ctx, top, port):
        self.ctx, self.top = ctx, top
        self.env = {"BIN": binaries(), "PORT": port, "SIZE": "512M"}

    def make(self, *args, ok=(0,), timeout_s=120, **env):
        """Runs make; its output goes to the case's log."""
        settings = ["%s=%s" % pair for pair in {**self.env, **env}.items()]
        out = run(["make", "-C", self.top, *args, *settings], timeout_s=timeout_s, ok=ok, quiet=False)
        self.note_processes()
        return out.out

    def server_pid(self):
        """The pid in the pid file, or None."""
        path = self.top / "var" / "run" / "weft-server.pid"
        return int(path.read_text()) if path.exists() and path.read_text().strip() else None

    def mount_pids(self):
        """The processes that serve the copy's mount point."""
        return mount_pids(self.top / "mnt", "mount-weft")

    def note_processes(self):
        """Writes down what make started, for the clean-up."""
        for pid in [self.server_pid(), *self.mount_pids()]:
            if pid and alive(pid):
                remember(self.ctx.work, "pid", "%d %d" % (pid, start_time(pid)))


@case(timeout_s=400)
def up_down(ctx):
    """make up, again, write, make down, make up, read back; after a kill -9 of everything; make wipe."""
    top = _checkout(ctx)
    mnt = top / "mnt"
    remember(ctx.work, "mount", mnt)
    commands = Commands(ctx, top, free_port())

    told = commands.make("up")
    check(is_mounted(mnt), "make up did not mount")
    check(str(commands.server_pid()) in told and "mnt" in told and "make down" in told, "make up says little:", told)
    first = commands.server_pid()
    (mnt / "file").write_bytes(b"woven" * 100_000)
    (mnt / "a folder").mkdir()
    check("already" in commands.make("up"), "the second make up does not say that it is up already")
    check(commands.server_pid() == first, "the second make up started another server")

    with open(mnt / "file", "rb"):
        refused = commands.make("down", ok=(2,))
        check("pid %d" % os.getpid() in refused, "make down does not say who holds the mount:", refused)
        check(is_mounted(mnt), "make down unmounted a mount in use")
    commands.make("down")
    check(not is_mounted(mnt) and not alive(first), "make down left something")
    check(not commands.mount_pids(), "make down left the mount's process")
    commands.make("down")

    commands.make("up")
    check((mnt / "file").read_bytes() == b"woven" * 100_000, "the file is not what it was")
    check((mnt / "a folder").is_dir(), "the folder is gone")

    send(commands.server_pid(), signal.SIGKILL)
    for pid in commands.mount_pids():
        send(pid, signal.SIGKILL)
    eventually("they are dead", lambda: not commands.mount_pids() and not alive(commands.server_pid()))
    commands.make("up")
    check((mnt / "file").read_bytes() == b"woven" * 100_000, "the file is not what it was after kill -9 of everything")

    refused = commands.make("wipe", ok=(2,))
    check("YES=1" in refused and (mnt / "file").exists(), "make wipe did not ask:", refused)
    commands.make("wipe", YES=1)
    check(not is_mounted(mnt) and not (top / "var" / "targets").exists(), "make wipe left something")
    commands.make("up")
    check(os.listdir(mnt) == [], "a new file system is not empty:", os.listdir(mnt))
    commands.make("wipe", YES=1)


@case(timeout_s=120)
def up_says_why(ctx):
    """make up says what is wrong where it cannot: a size that is none, a device that is none, too little disk."""
    top = _checkout(ctx)
    commands = Commands(ctx, top, free_port())
    for env, word in (
        ({"SIZE": "huge"}, "SIZE=huge"),
        ({"SIZE": "900000G"}, "not enough disk"),
        ({"TARGETS": "/dev/null"}, "/dev/null is not a block device"),
        ({"BIN": "/nowhere"}, "/nowhere"),
    ):
        told = commands.make("up", ok=(2,), **env)
        check(word in told, "make up with", env, "says:", told)
        check(not is_mounted(top / "mnt"), "it is mounted all the same")
        commands.make("wipe", YES=1)
    check("make up" in commands.make("help"), "make help says little")
