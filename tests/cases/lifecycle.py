"""Starting, stopping, dying: what a program sees while the server goes and comes, and what a mount says."""

import hashlib
import os
import re
import signal
import subprocess
import time

from lib.base import Skip, case, check, eventually, remember
from lib.cluster import Cluster, free_port, is_mounted, program
from lib.procs import fork_worker, join_workers, mount_pids, run, send, start_time

BLOCK = 96 * 1024


def _block(index):
    return (hashlib.sha256(b"%d" % index).digest() * (BLOCK // 32))[: BLOCK - index % 7]


def _write_on(path, stop, progress):
    """Writes block after block, no fsync, until `stop` exists; then fsync. An error ends the worker with 1."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT)
    index = 0
    while not stop.exists():
        data = _block(index)
        check(os.write(out, data) == len(data), "short write")
        index += 1
        progress.write_text(str(index))
        time.sleep(0.002)
    os.fsync(out)
    os.close(out)


def _verify(path, count):
    with open(path, "rb") as source:
        for index in range(count):
            want = _block(index)
            check(source.read(len(want)) == want, "block", index, "of", count, "is wrong after the restart")
        check(source.read(1) == b"", "the file is too long")


def _writer_survives(ctx, fs, end):
    """A writer runs while `end()` ends the server three times; it sees no error and nothing is lost."""
    path, stop, progress = fs.path / "stream", ctx.work / "stop", ctx.work / "progress"
    count = lambda: int(progress.read_text() or 0) if progress.exists() else 0  # noqa: E731
    writer = fork_worker(_write_on, path, stop, progress)
    slowest = 0.0
    for _ in range(3):
        before = count()
        eventually("the writer writes", lambda before=before: count() > before + 20, 60)
        end()
        time.sleep(0.2)
        ready_s = fs.start() or 0.0
        slowest = max(slowest, ready_s)
        before = count()
        eventually("the writer goes on after the restart", lambda before=before: count() > before + 20, 60)
    stop.write_text("")
    join_workers([writer], 60, "writer")
    _verify(path, count())
    fs.remount()
    _verify(path, count())
    return slowest


@case(timeout_s=180, peer=True)
def start_stop(ctx):
    """A file system is made, mounted, written, unmounted, stopped; started again it is all there."""
    fs = ctx.fs()
    (fs.path / "file").write_bytes(b"hello" * 1000)
    os.makedirs(fs.path / "a" / "b")
    fs.close()
    if fs.is_peer:
        return
    ctx.figure("start_stop.restart", fs.start(), "s")
    fs.mount()
    check((fs.path / "file").read_bytes() == b"hello" * 1000, "the file changed")
    check((fs.path / "a" / "b").is_dir(), "the folders are gone")
    answer = fs.weft("ping", "--config", fs.config)
    ctx.note(answer.out)
    check("target" in fs.weft("target", "list", "--config", fs.config, "--json").out, "target list says nothing")
    check(fs.weft("fs", "stat", fs.path / "file").out.strip(), "fs stat says nothing")
    fs.close()
    fs.weft("fs", "check", "--config", fs.config)


@case(timeout_s=240, peer=True)
def sigterm_while_writing(ctx):
    """SIGTERM while a program writes: the server ends cleanly, the program sees a pause and no error."""
    fs = ctx.fs()
    stops = []
    slowest = _writer_survives(ctx, fs, lambda: stops.append(fs.stop() or 0.0))
    ctx.figure("sigterm.stop", max(stops), "s")
    ctx.figure("sigterm.restart", slowest, "s")
    check(slowest < 10, "the restart took", slowest, "s")
    fs.close()


@case(timeout_s=240, peer=True)
def kill_while_writing(ctx):
    """kill -9 while a program writes without fsync: a pause, no error, and after its fsync every byte is there."""
    fs = ctx.fs()
    slowest = _writer_survives(ctx, fs, fs.kill)
    ctx.figure("kill.restart", slowest, "s")
    check(slowest < 10, "the restart took", slowest, "s")
    fs.close()


@case(timeout_s=120)
def dead_server_with_eio(ctx):
    """on_timeout=eio: with a dead server a read ends with an error in the stated time, and works again later."""
    fs = Cluster(ctx)
    fs.create()
    fs.start()
    fs.mount(options=["on_timeout=eio", "timeout_ms=2000"])
    data = os.urandom(5 << 20)
    (fs.path / "file").write_bytes(data)
    run(["sync", "-f", fs.path / "file"])
    fs.remount(options=["on_timeout=eio", "timeout_ms=2000"])
    fs.kill()
    begin = time.monotonic()
    result = run(["cat", fs.path / "file"], timeout_s=30, ok=None)
    took = time.monotonic() - begin
    check(result.code != 0, "cat read a file of a dead server")
    check(took < 15, "the error took", took, "s; the option says 2 s for each operation")
    ctx.figure("eio.time", took, "s")
    fs.start()
    same = lambda: run(["cmp", fs.path / "file", "-"], stdin=_pipe(data), ok=None).code == 0  # noqa: E731
    eventually("the file reads again", same, 30, 0.5)
    fs.close()


def _pipe(data):
    """A file object that holds `data`."""
    import tempfile

    source = tempfile.TemporaryFile()
    source.write(data)
    source.seek(0)
    return source


@case(timeout_s=120)
def dead_server_killable(ctx):
    """on_timeout=wait: with a dead server a program waits, dies at once when killed, and others go on later."""
    fs = ctx.fs()
    (fs.path / "file").write_bytes(b"x" * 100_000)
    run(["sync", "-f", fs.path / "file"])
    fs.remount()
    fs.kill()
    stuck = subprocess.Popen(["cat", str(fs.path / "file")], stdout=subprocess.DEVNULL)
    time.sleep(2)
    check(stuck.poll() is None, "cat did not wait for the server")
    begin = time.monotonic()
    send(stuck.pid, signal.SIGKILL)
    stuck.wait(timeout=20)
    ctx.figure("killable.time", time.monotonic() - begin, "s")
    fs.start()
    check(run(["cat", fs.path / "file"], timeout_s=30).out == "x" * 100_000, "the file changed")
    fs.close()


@case(timeout_s=60)
def mount_of_nobody(ctx):
    """A mount of an address nobody listens at fails in the stated time with a sentence; so do wrong arguments."""
    point = ctx.work / "point"
    point.mkdir()
    remember(ctx.work, "mount", point)
    nobody = "127.0.0.1:%d:/" % free_port()
    args = [program("mount-weft"), nobody, point, "-o", "on_timeout=eio,timeout_ms=2000"]
    result = run(args, timeout_s=20, ok=(32,))
    check(result.seconds < 10, "it took", result.seconds, "s")
    sentence = result.out.strip()
    check(len(sentence.split()) >= 5 and nobody.rpartition(":")[0] in sentence, "no sentence:", sentence)
    check("panicked" not in sentence, sentence)
    check(not is_mounted(point), "it is mounted all the same")
    for bad in (["-o", "on_timout=eio"], ["-o", "timeout_ms=soon"], ["--nosuch"]):
        result = run([program("mount-weft"), nobody, point, *bad], timeout_s=20, ok=None)
        check(result.code not in (0, 101) and result.code > 0, bad, "ended with", result.code)
        check(result.out.strip(), bad, "failed without a word")
    misspelt = run([program("mount-weft"), nobody, point, "-o", "on_timout=eio"], ok=None)
    check("on_timeout" in misspelt.out, "the nearest option is not named:", misspelt.out)
    gone = run([program("mount-weft"), nobody, point / "gone"], timeout_s=60, ok=None)
    check(gone.code != 0 and "gone" in gone.out, "missing mount point:", gone.out)


@case(timeout_s=120)
def mount_command(ctx):
    """mount -t weft and an fstab line work (in a mount namespace of its own); umount ends the process."""
    fs = Cluster(ctx)
    fs.create()
    fs.start()
    if run(["unshare", "-m", "true"], ok=None).code != 0:
        raise Skip("no-mount-namespace")
    point, script = ctx.work / "with space", ctx.work / "script.sh"
    point.mkdir()
    source = "127.0.0.1:%d:/" % fs.port
    log = "log_file=%s" % (ctx.work / "mount.log")
    fstab = ctx.work / "fstab"
    fstab.write_text("%s %s weft %s,_netdev,noauto 0 0\n" % (source, str(point).replace(" ", "\\040"), log))
    script.write_text(
        """set -eux
        mount -t tmpfs none /sbin
        ln -s "$1" /sbin/mount.weft
        mount -t weft -o "$5" "$2" "$3"
        echo hello > "$3/file"
        umount "$3"
        mount -T "$4" "$3"
        grep -q hello "$3/file"
        grep -F ' - fuse' /proc/self/mountinfo
        umount "$3"
        """
    )
    args = ["unshare", "-m", "sh", script, program("mount-weft"), source, point, fstab, log]
    try:
        found = run(args, timeout_s=60, quiet=False)
    finally:
        for pid in mount_pids(point, "mount"):
            remember(ctx.work, "pid", "%d %d" % (pid, start_time(pid)))
    check(re.search(r"fuse\.weft", found.out), "mountinfo does not say fuse.weft:", found.out)
    eventually("the mount's process ends", lambda: not mount_pids(point, "mount"), 20)
    fs.close()
