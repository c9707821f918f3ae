"""Locks across mounts: flock, fcntl and open-file-description locks; who waits, who is killed, what a restart keeps."""

import errno
import fcntl
import json
import os
import select
import signal
import sqlite3
import struct
import time

from cases.transport import SWITCH
from lib.base import Skip, case, check, eventually
from lib.cluster import Cluster
from lib.procs import fork_worker, join_workers, run

FLOCK = struct.Struct("@hhqqi4x")
OFD_GETLK, OFD_SETLK, OFD_SETLKW = 36, 37, 38
KINDS = {"r": fcntl.F_RDLCK, "w": fcntl.F_WRLCK, "u": fcntl.F_UNLCK}
WHOLE = {"r": fcntl.LOCK_SH, "w": fcntl.LOCK_EX, "u": fcntl.LOCK_UN}
# Longer than any answer of a healthy server takes, much shorter than a session without a connection lives.
AT_ONCE_S = 15


class _Interrupted(Exception):
    pass


def _interrupt(*_):
    raise _Interrupted


class Locker:
    """A process that opens one file and locks it as it is told."""

    def __init__(self, path, way, flags=os.O_RDWR | os.O_CREAT):
        to_child, self.to = os.pipe()
        self.back, from_child = os.pipe()
        self.way = way
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.to)
            os.close(self.back)
            try:
                self._serve(to_child, from_child, path, flags)
            finally:
                os._exit(0)
        os.close(to_child)
        os.close(from_child)
        self.answers = b""

    def _serve(self, to_child, from_child, path, flags):
        signal.signal(signal.SIGUSR1, _interrupt)
        files = {0: os.open(path, flags, 0o644)}
        for line in os.fdopen(to_child):
            what, *args = json.loads(line)
            if what == "end":
                return
            try:
                answer = self._do(files, what, args)
            except _Interrupted:
                answer = "EINTR"
            except OSError as error:
                answer = "EDEADLK" if error.errno == errno.EDEADLK else errno.errorcode[error.errno]
            os.write(from_child, (json.dumps(answer) + "\n").encode())

    def _do(self, files, what, args):
        if what == "close":
            os.close(files.pop(args[0]))
        elif what == "open":
            files[args[0]] = os.open(args[1], os.O_RDWR | os.O_CREAT)
        elif what == "dup":
            files[args[0]] = os.dup(files[0])
        elif what == "write":
            os.pwrite(files[0], args[0].encode(), 0)
        elif what == "fsync":
            os.fsync(files[0])
        elif what == "test":
            kind, start, length = args
            command = OFD_GETLK if self.way == "ofd" else fcntl.F_GETLK
            asked = FLOCK.pack(KINDS[kind], os.SEEK_SET, start, length, 0)
            found = FLOCK.unpack(fcntl.fcntl(files[0], command, asked)[: FLOCK.size])
            if found[0] == fcntl.F_UNLCK:
                return "free"
            return ["r" if found[0] == fcntl.F_RDLCK else "w", found[2], found[3], found[4]]
        elif self.way == "flock":
            kind, sleep = args[0], args[3]
            fcntl.flock(files[args[4]], WHOLE[kind] | (0 if sleep else fcntl.LOCK_NB))
        else:
            kind, start, length, sleep, file = args
            ofd = self.way == "ofd"
            command = (OFD_SETLKW if ofd else fcntl.F_SETLKW) if sleep else (OFD_SETLK if ofd else fcntl.F_SETLK)
            fcntl.fcntl(files[file], command, FLOCK.pack(KINDS[kind], os.SEEK_SET, start, length, 0))
        return "ok"

    def tell(self, *what):
        """Begins something."""
        os.write(self.to, (json.dumps(what) + "\n").encode())

    def answer(self, timeout_s=AT_ONCE_S):
        """How it ended; None when it has not after `timeout_s`."""
        end = time.monotonic() + timeout_s
        while b"\n" not in self.answers:
            ready, _, _ = select.select([self.back], [], [], max(0, end - time.monotonic()))
            if not ready:
                return None
            part = os.read(self.back, 4096)
            if not part:
                return "gone"
            self.answers += part
        line, _, self.answers = self.answers.partition(b"\n")
        return json.loads(line)

    def ask(self, *what):
        """Does something."""
        self.tell(*what)
        return self.answer()

    def lock(self, kind, start=0, length=0, file=0):
        """Takes or gives up a lock without waiting."""
        return self.ask("lock", kind, start, length, False, file)

    def begin(self, kind, start=0, length=0, file=0):
        """Waits for a lock."""
        self.tell("lock", kind, start, length, True, file)

    def signal(self, number):
        """Sends a signal."""
        os.kill(self.pid, number)

    def close(self):
        """Ends the process as a program ends. Closing the pipe is not enough: later processes have copies of it."""
        self.tell("end")
        os.close(self.to)
        os.close(self.back)
        os.waitpid(self.pid, 0)

    def kill(self):
        """kill -9."""
        self.signal(signal.SIGKILL)
        os.close(self.to)
        os.waitpid(self.pid, 0)


def _two_mounts(ctx, options=(), setting=None):
    fs = Cluster(ctx, target_count=1, target_bytes=256 << 20)
    fs.create()
    for key, value in (setting or {}).items():
        lines = [line for line in fs.config.read_text().splitlines() if not line.startswith(key + " ")]
        fs.config.write_text("\n".join(["%s = %d" % (key, value), *lines]) + "\n")
    fs.start()
    fs.mount("a", options)
    fs.mount("b", options)
    return fs


def _same(found, expected, *what):
    check(found == expected, *what, "gave", found, "and not", expected)


def _conflicts(one, two, ranges):
    """What two processes may have at once, on bytes 0 to 9 and where byte ranges are known on others."""
    _same(one.lock("r", 0, 10), "ok", "shared")
    _same(two.lock("r", 0, 10), "ok", "shared beside shared")
    _same(two.lock("w", 0, 10), "EAGAIN", "exclusive beside shared")
    if not ranges:
        two.lock("r")  # flock loses the lock it wanted to change, as the manual says
    _same(two.lock("u", 0, 10), "ok", "unlock")
    _same(one.lock("w", 0, 10), "ok", "shared to exclusive")
    _same(two.lock("r", 0, 10), "EAGAIN", "shared beside exclusive")
    if ranges:
        _same(two.lock("w", 10, 5), "ok", "the bytes behind")
        _same(two.lock("w", 9, 5), "EAGAIN", "one byte of them")
        _same(one.lock("u", 4, 2), "ok", "a hole in the middle")
        _same(two.lock("w", 4, 2), "ok", "the hole")
        _same(two.lock("w", 3, 1), "EAGAIN", "beside it")
        found = two.ask("test", "r", 5, 100)
        _same(found[:3], ["w", 6, 4], "F_GETLK")
        _same(one.ask("test", "w", 20, 0), "free", "F_GETLK of free bytes")
        _same(one.ask("test", "w", 12, 0)[:3], ["w", 10, 5], "F_GETLK to the end")
        two.lock("u")
    one.lock("u")
    _same(two.lock("w"), "ok", "all of it")
    if ranges:
        _same(one.ask("test", "r", 1 << 62, 1)[:3], ["w", 0, 0], "F_GETLK of a lock to the end")
    two.lock("u")


def _waiting(one, two):
    """Waiting, its end by an unlock, by a signal, and by the end of the holder."""
    one.lock("w")
    two.begin("w")
    _same(two.answer(0.3), None, "a lock that somebody has")
    one.lock("u")
    _same(two.answer(), "ok", "after the unlock")
    one.begin("r")
    _same(one.answer(0.2), None, "a lock that somebody has")
    one.signal(signal.SIGUSR1)
    _same(one.answer(), "EINTR", "after a signal")
    _same(two.lock("u"), "ok", "unlock")
    _same(two.lock("w"), "ok", "nothing is left of the interrupted request")
    one.begin("w")
    two.ask("dup", 7)
    _same(two.ask("close", 7), "ok", "close of a copy")
    if two.way == "fcntl":
        _same(one.answer(), "ok", "any close of a process gives its locks up")
        one.lock("u")
    else:
        _same(one.answer(0.3), None, "the description is still open")
        two.ask("close", 0)
        _same(one.answer(), "ok", "after the last close")
        one.lock("u")


@case(timeout_s=240)
def locks_kinds(ctx):
    """flock, fcntl and OFD locks between two mounts, and between two processes of one: conflicts, waiting, signals."""
    fs = _two_mounts(ctx)
    for way in ("flock", "fcntl", "ofd"):
        for name, other in (("a", "b"), ("a", "a")):
            ctx.note(way, name, other)
            file = "%s-%s%s" % (way, name, other)
            one, two = Locker(fs.mounts[name].path / file, way), Locker(fs.mounts[other].path / file, way)
            _conflicts(one, two, way != "flock")
            if way == "fcntl":
                two.lock("w", 5, 5)
                pid = one.ask("test", "w", 0, 0)[3]
                check(pid == (two.pid if name == other else 0), "F_GETLK names process", pid)
                two.lock("u")
            _waiting(one, two)
            one.close()
            two.close()
    path, other = fs.mounts["a"].path / "spaces", fs.mounts["b"].path / "spaces"
    one, two = Locker(path, "flock"), Locker(other, "fcntl")
    _same((one.lock("w"), two.lock("w")), ("ok", "ok"), "flock and fcntl do not see each other")
    one.close()
    two.close()
    fs.close()


@case(timeout_s=120)
def locks_local(ctx):
    """Mounted with locks=local, locks hold within the mount only, and work there."""
    fs = _two_mounts(ctx, ["locks=local"])
    for way in ("flock", "fcntl"):
        one, two = Locker(fs.mounts["a"].path / way, way), Locker(fs.mounts["b"].path / way, way)
        beside = Locker(fs.mounts["a"].path / way, way)
        _same((one.lock("w"), two.lock("w"), beside.lock("w")), ("ok", "ok", "EAGAIN"), "local locks")
        for locker in (one, two, beside):
            locker.close()
    fs.close()


@case(timeout_s=180)
def locks_killed(ctx):
    """A killed process's locks are free at once; a killed mount's when its session ends, and not before."""
    fs = _two_mounts(ctx, setting={"session_timeout_s": 5})
    path, other = fs.mounts["a"].path / "file", fs.mounts["b"].path / "file"
    for way in ("flock", "fcntl", "ofd"):
        one, two, three = Locker(path, way), Locker(other, way), Locker(other, way)
        _same(one.lock("w"), "ok", way)
        two.begin("w")
        _same(two.answer(0.2), None, "a lock that somebody has")
        one.kill()
        _same(two.answer(), "ok", "after the death of the holder")
        three.begin("w")
        _same(three.answer(0.2), None, "a lock that somebody has")
        three.kill()
        two.lock("u")
        four = Locker(path, way)
        four.begin("w")
        _same(four.answer(), "ok", "nothing is left of the waiter that was killed")
        four.close()
        two.close()
    one, two = Locker(path, "fcntl"), Locker(other, "fcntl")
    _same(one.lock("w"), "ok", "fcntl")
    begin = time.monotonic()
    two.begin("w")
    mount = fs.mounts.pop("a")
    mount.kill()
    _same(two.answer(60), "ok", "after the end of the session")
    ctx.figure("locks_killed.mount", time.monotonic() - begin, "s")
    check(time.monotonic() - begin > 3, "a mount that might have come back lost its locks")
    one.kill()
    two.close()
    run(["umount", "-l", mount.path], timeout_s=20)
    fs.close()


@case(timeout_s=120)
def locks_deadlock(ctx):
    """fcntl: whoever would close a circle of waiters over two mounts gets EDEADLK, and the others go on."""
    fs = _two_mounts(ctx)
    for count in (2, 3, 5):
        lockers = []
        for index in range(count):
            mount = fs.mounts["ab"[index % 2]]
            lockers.append(Locker(mount.path / ("ring%d" % count), "fcntl"))
            _same(lockers[-1].lock("w", index, 1), "ok", "its own byte")
        for index in range(count - 1):
            lockers[index].begin("w", index + 1, 1)
            _same(lockers[index].answer(0.2), None, "the next one's byte")
        lockers[-1].begin("w", 0, 1)
        _same(lockers[-1].answer(), "EDEADLK", "the circle")
        lockers[-1].lock("u")
        for index in reversed(range(count - 1)):
            _same(lockers[index].answer(), "ok", "the others")
            lockers[index].lock("u")
        for locker in lockers:
            locker.close()
    fs.close()


@case(timeout_s=180)
def locks_restart(ctx):
    """kill -9 of the server: what was held is held, who waited waits, nothing is granted twice; cut connections too."""
    fs = _two_mounts(ctx)
    path, other = fs.mounts["a"].path / "file", fs.mounts["b"].path / "file"
    for way in ("flock", "fcntl", "ofd"):
        one, two, three = Locker(path, way), Locker(other, way), Locker(other, way)
        _same(one.lock("w", 0, 10), "ok", way)
        if way != "flock":
            _same(two.lock("r", 20, 10), "ok", way)
        two.begin("w", 0, 10)
        _same(two.answer(0.3), None, "a lock that somebody has")
        fs.kill()
        fs.start()
        begin = time.monotonic()
        _same(three.lock("w", 5, 1), "EAGAIN", "a lock that was held before the restart")
        ctx.figure("locks_restart." + way, time.monotonic() - begin, "s")
        _same(two.answer(0.3), None, "it is still held")
        _same(one.lock("u", 0, 10), "ok", "unlock")
        _same(two.answer(), "ok", "after the unlock")
        _same(one.lock("w", 25, 1) if way != "flock" else "EAGAIN", "EAGAIN", "the other range")
        fs.kill()
        _same(two.answer(0), None, "nothing more to say")
        two.tell("lock", "u", 0, 0, False, 0)
        fs.start()
        _same(two.answer(), "ok", "an unlock that the restart met")
        three.begin("w")
        _same(three.answer(), "ok", "all is free")
        for locker in (one, two, three):
            locker.close()
    fs.close()


@case(timeout_s=180)
def locks_lost(ctx):
    """A mount that is stopped for longer than its session lives lost its locks: its programs are told by EIO."""
    fs = _two_mounts(ctx, setting={"session_timeout_s": 5})
    one = Locker(fs.mounts["a"].path / "file", "fcntl")
    two = Locker(fs.mounts["b"].path / "file", "fcntl")
    _same(one.lock("w"), "ok", "fcntl")
    mount = fs.mounts["a"].core_pid()
    os.kill(mount, signal.SIGSTOP)
    fs.kill()
    time.sleep(0.5)
    fs.start()
    two.begin("w")
    _same(two.answer(60), "ok", "after the grace")
    os.kill(mount, signal.SIGCONT)
    log = fs.mounts["a"].log
    eventually("the mount says so", lambda: "a lock was lost" in log.read_text(), 30)
    _same(one.lock("u"), "EIO", "the unlock of a lock that was lost")
    _same(one.lock("w"), "EAGAIN", "the other has it")
    _same(two.lock("u"), "ok", "unlock")
    _same(one.lock("w"), "ok", "and so on")
    one.close()
    two.close()
    fs.close()


@case(timeout_s=120)
def locks_takeover(ctx):
    """kill -9 of the client-core under a mount: its successor holds what was held, waits for what was waited for."""
    fs = _two_mounts(ctx, ["transport=classic"])
    path, other = fs.mounts["a"].path / "file", fs.mounts["b"].path / "file"
    for way in ("flock", "fcntl", "ofd"):
        one, two, three = Locker(path, way), Locker(path, way), Locker(other, way)
        _same(one.lock("w", 0, 10), "ok", way)
        two.begin("w", 0, 10)
        _same(two.answer(0.2), None, "a lock that somebody has")
        core = fs.mounts["a"].core_pid()
        os.kill(core, signal.SIGKILL)
        eventually("a successor", lambda: fs.mounts["a"].core_pid() not in (None, core), 20)
        _same(three.lock("r", 5, 1), "EAGAIN", "a lock that was held before")
        _same(two.answer(0.2), None, "it is still held")
        _same(one.ask("close", 0), "ok", "close")
        _same(two.answer(), "ok", "after the close")
        _same(three.lock("r", 5, 1), "EAGAIN", "the next one's")
        two.close()
        three.begin("w")
        _same(three.answer(), "ok", "all is free")
        one.close()
        three.close()
    fs.close()


def _crowd(path, way, marks, rounds, cpus):
    if cpus:
        os.sched_setaffinity(0, cpus)
    file = os.open(path, os.O_RDWR)
    for _ in range(rounds):
        if way == "flock":
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            fcntl.lockf(file, fcntl.LOCK_EX)
        os.write(marks, b"<")
        os.write(marks, b">")
        if way == "flock":
            fcntl.flock(file, fcntl.LOCK_UN)
        else:
            fcntl.lockf(file, fcntl.LOCK_UN)


def _stat_often(path, cpus, rounds):
    os.sched_setaffinity(0, cpus)
    for _ in range(rounds):
        os.stat(path)


@case(timeout_s=240)
def locks_crowd(ctx):
    """256 that wait for one lock, on one CPU with 16 ring entries: other requests come through, each gets it in turn."""
    over = ["transport=uring"] if SWITCH.exists() else []
    fs = _two_mounts(ctx, [*over, "queue_depth=16", "attr_timeout_ms=0", "entry_timeout_ms=0"])
    cpus = {sorted(os.sched_getaffinity(0))[0]}
    count = ctx.scaled(256, 64)
    for way in ("fcntl", "flock"):
        file = fs.mounts["a"].path / ("file-" + way)
        holder = Locker(file, way)
        _same(holder.lock("w"), "ok", "the holder")
        os.sched_setaffinity(holder.pid, cpus)
        marks = os.open(ctx.work / ("marks-" + way), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        paths = [file, file, file, fs.mounts["b"].path / ("file-" + way)]
        lockers = [
            fork_worker(_crowd, paths[index % len(paths)], way, marks, 2, cpus if index % 4 != 3 else None)
            for index in range(count)
        ]
        # On the same CPU, while they come and when all of them wait: this must not wait behind them.
        join_workers([fork_worker(_stat_often, file, cpus, 200)], 60, "others on the same CPU")
        time.sleep(1)
        join_workers([fork_worker(_stat_often, file, cpus, 200)], 60, "others on the same CPU")
        _same(os.fstat(marks).st_size, 0, "marks before the unlock")
        begin = time.monotonic()
        _same(holder.lock("u"), "ok", "the unlock")
        join_workers(lockers, 120, "lockers")
        ctx.figure("locks_crowd." + way, 2 * count / (time.monotonic() - begin), "locks/s")
        written = (ctx.work / ("marks-" + way)).read_bytes()
        check(written == b"<>" * (2 * count), way, "was had by two at once:", written[:200])
        holder.close()
        os.close(marks)
    fs.close()


def _transactions(path, who, count):
    base = sqlite3.connect(path, timeout=120, isolation_level=None)
    for number in range(count):
        base.execute("begin immediate")
        (total,) = base.execute("select amount from total").fetchone()
        base.execute("insert into entry values (?, ?, ?)", (who, number, total))
        base.execute("update total set amount = ?", (total + 1,))
        base.execute("commit")
    base.close()


@case(timeout_s=1800)
def locks_sqlite(ctx):
    """SQLite used from two mounts at once: no transaction is lost or seen by half, and the file is sound."""
    fs = _two_mounts(ctx)
    path, other = fs.mounts["a"].path / "base", fs.mounts["b"].path / "base"
    base = sqlite3.connect(path, isolation_level=None)
    base.execute("pragma journal_mode = delete")
    base.execute("create table entry (who int, number int, seen int, primary key (who, number))")
    base.execute("create table total (amount int)")
    base.execute("insert into total values (0)")
    base.close()
    count = int(os.environ.get("WEFT_SQLITE_TRANSACTIONS", ctx.scaled(500, 50)))
    begin = time.monotonic()
    workers = [fork_worker(_transactions, where, who, count) for who, where in enumerate((path, other))]
    join_workers(workers, 300 + count // 10, "transactions")
    ctx.figure("locks_sqlite.rate", 2 * count / (time.monotonic() - begin), "transactions/s")
    for where in (path, other):
        base = sqlite3.connect(where)
        _same(base.execute("pragma integrity_check").fetchall(), [("ok",)], "integrity_check")
        _same(base.execute("select amount from total").fetchone(), (2 * count,), "the sum")
        seen = base.execute("select seen from entry order by seen").fetchall()
        _same(seen, [(number,) for number in range(2 * count)], "what each transaction saw")
        base.close()
    fs.close()


@case(timeout_s=120)
def locks_dry_queue(ctx):
    """A CPU's ring entries all taken by locks that wait, other requests behind them in the kernel: they are served."""
    if not SWITCH.exists():
        raise Skip("no-fuse-uring")
    fs = _two_mounts(ctx, ["transport=uring", "queue_depth=2"])
    cpus = {sorted(os.sched_getaffinity(0))[0]}
    path = fs.mounts["a"].path / "file"
    holder, other = Locker(path, "fcntl"), Locker(path, "fcntl")
    waiters = [Locker(path, "fcntl") for _ in range(20)]
    _same(holder.lock("w"), "ok", "the holder")
    for locker in (holder, other, *waiters):
        os.sched_setaffinity(locker.pid, cpus)
    # All of them in the kernel's queue at once, and no request of this CPU after them.
    core = fs.mounts["a"].core_pid()
    os.kill(core, signal.SIGSTOP)
    for waiter in waiters:
        waiter.begin("w")
    time.sleep(0.5)
    other.tell("fsync")
    time.sleep(0.2)
    holder.tell("lock", "u", 0, 0, False, 0)
    time.sleep(0.2)
    os.kill(core, signal.SIGCONT)
    _same(other.answer(), "ok", "an fsync behind 20 locks that wait")
    _same(holder.answer(), "ok", "the unlock behind them")
    while waiters:
        ready = eventually("the next one gets it", lambda: [one for one in waiters if one.answer(0.01) == "ok"], AT_ONCE_S)
        _same(len(ready), 1, "at once")
        waiters.remove(ready[0])
        ready[0].lock("u")
        ready[0].close()
    holder.close()
    other.close()
    fs.close()
