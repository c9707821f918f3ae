"""A client-core that dies, is upgraded, hangs on a dead server: programs see a pause and no error, and nothing is done twice."""

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

from lib.base import case, check, eventually, remember
from lib.cluster import Cluster, program
from lib.procs import alive, fork_worker, join_workers, send, start_time

# More of everything: WEFT_TAKEOVER_KILLS=50 for the proof of the issue, with its 64 processes.
KILLS = int(os.environ.get("WEFT_TAKEOVER_KILLS", "0"))
PROCESSES = 64
CRATE = {
    "Cargo.toml": '[package]\nname = "round"\nversion = "0.1.0"\nedition = "2021"\n\n[workspace]\n',
    "build.rs": 'fn main() { println!("cargo:rerun-if-changed=build.rs"); }\n',
    "src/lib.rs": "pub mod number;\n\npub fn told() -> String { number::NUMBER.to_string() }\n",
    "src/main.rs": 'fn main() { println!("{}", round::told()); }\n',
}


def _until(stop):
    """Counts up until the file `stop` is there."""
    index = 0
    while not stop.exists():
        yield index
        index += 1


def _names(folder, seed, stop):
    """Every change of names, each of which fails when it is done twice or not at all."""
    home = Path(folder) / ("names%d" % seed)
    home.mkdir()
    for index in _until(stop):
        path = home / ("file%d" % index)
        data = (b"%d %d " % (seed, index)) * (index % 300 + 1)
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        check(os.write(out, data) == len(data), "short write")
        os.close(out)
        os.link(path, home / "linked")
        check(os.stat(path).st_nlink == 2, "a link counts", os.stat(path).st_nlink)
        os.rename(path, home / "renamed")
        os.unlink(home / "linked")
        check((home / "renamed").read_bytes() == data, "other bytes in round", index)
        os.setxattr(home / "renamed", "user.round", b"%d" % index, os.XATTR_CREATE)
        os.truncate(home / "renamed", len(data) // 2)
        check((home / "renamed").read_bytes() == data[: len(data) // 2], "cut wrong in round", index)
        os.symlink("renamed", home / "pointer")
        check(os.readlink(home / "pointer") == "renamed", "the link points elsewhere")
        os.mkdir(home / "folder")
        check(sorted(os.listdir(home)) == ["folder", "pointer", "renamed"], os.listdir(home))
        os.rmdir(home / "folder")
        os.unlink(home / "pointer")
        os.unlink(home / "renamed")
    check(os.listdir(home) == [], "left over:", os.listdir(home))
    os.rmdir(home)


def _block(seed, index):
    length = 500 + (index * 7919) % 150_000
    return (hashlib.sha256(b"%d %d" % (seed, index)).digest() * (length // 32 + 1))[:length]


def _write_all(file, data):
    """One write(2); when it is short, says what the rest says."""
    done = os.write(file, data)
    if done < len(data):
        check(False, "short write:", done, "of", len(data), "and then", os.write(file, data[done:]))


def _stream(folder, seed, stop):
    """One open file: small and large writes, now and then made durable; then every byte is checked, by another handle too."""
    path = Path(folder) / ("stream%d" % seed)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    count = 0
    for index in _until(stop):
        data = _block(seed, index)
        _write_all(file, data)
        count += 1
        if index % 20 == 0:
            os.fsync(file)
        if index > 2000:
            time.sleep(0.01)
    os.fsync(file)
    for number in (file, os.open(path, os.O_RDONLY)):
        at = 0
        for index in range(count):
            want = _block(seed, index)
            check(os.pread(number, len(want), at) == want, "block", index, "of", count, "at", at, "is wrong")
            at += len(want)
        check(os.fstat(number).st_size == at, "the length is", os.fstat(number).st_size, "not", at)
        os.close(number)
    os.unlink(path)


def _unpack(folder, seed, stop):
    """Files as tar makes them: owner, mode and times set before the close, which waits for none of that."""
    home = Path(folder) / ("unpacked%d" % seed)
    home.mkdir()
    right = {}
    for index in _until(stop):
        path, data = home / str(index), _block(seed, index)[: (index * 977) % 12000]
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        _write_all(file, data)
        os.utime(file, ns=(10**18 + index, 10**18 + 2 * index))
        os.fchown(file, 1000 + index % 7, index % 5)
        os.fchmod(file, 0o640 + index % 4)
        right[index] = _look(os.fstat(file))
        os.close(file)
        check(_look(os.stat(path)) == right[index], "after the close of", path, _look(os.stat(path)), "not", right[index])
        if index % 50 == 49:
            time.sleep(0.01)
    for index, looks in right.items():
        path, wanted = home / str(index), (10**18 + 2 * index, 1000 + index % 7, index % 5, 0o100640 + index % 4)
        check(looks[:4] == wanted and _look(os.stat(path)) == looks, "at the end", path, _look(os.stat(path)), "not", looks)
        check(path.read_bytes() == _block(seed, index)[: (index * 977) % 12000], path, "has other data")
    shutil.rmtree(home)


def _look(stat):
    return (stat.st_mtime_ns, stat.st_uid, stat.st_gid, stat.st_mode, stat.st_ctime_ns, stat.st_size)


def _orphan(folder, seed, stop):
    """A file without a name, open all the time."""
    path = Path(folder) / ("orphan%d" % seed)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.unlink(path)
    for index in _until(stop):
        data = _block(seed, index % 50)
        check(os.pwrite(file, data, (index % 10) << 20) == len(data), "short write")
        check(os.pread(file, len(data), (index % 10) << 20) == data, "other bytes in round", index)
        time.sleep(0.002)
    os.close(file)


def _sqlite(folder, stop):
    """Transactions; every one that was committed is there, once."""
    base = sqlite3.connect(str(Path(folder) / "base.db"), timeout=120)
    base.execute("create table rows (id integer primary key, value text)")
    base.commit()
    count = 0
    for index in _until(stop):
        base.execute("insert into rows values (?, ?)", (index, "value %d" % index))
        base.commit()
        count += 1
    found = base.execute("select count(*), max(id) from rows").fetchone()
    check(found == (count, count - 1 if count else None), "rows:", found, "of", count)
    check(base.execute("pragma integrity_check").fetchone() == ("ok",), "the database is damaged")
    base.close()


def _git(folder, stop):
    """Commits; then fsck."""
    home = Path(folder) / "repository"
    git = ["git", "-c", "user.name=w", "-c", "user.email=w@x", "-C", str(home)]

    def call(*args):
        made = subprocess.run([*git, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        check(made.returncode == 0, "git", args, "says", made.stdout.decode(errors="replace"))
        return made.stdout.decode()

    home.mkdir()
    call("init", "-q")
    count = 0
    for index in _until(stop):
        (home / ("file%d" % (index % 30))).write_bytes(_block(1, index))
        call("add", "-A")
        call("commit", "-q", "-m", "round %d" % index)
        count += 1
    check(int(call("rev-list", "--count", "--all")) == count, "commits are missing")
    call("fsck", "--full", "--strict")
    check(call("status", "--porcelain") == "", "the tree is not clean")


def _cargo_build(folder, stop):
    """A crate with a library, a program and a build script: each round changes it, and has the program that says so."""
    home = Path(folder) / "crate"
    (home / "src").mkdir(parents=True)
    for name, text in CRATE.items():
        (home / name).write_text(text)
    env = dict(os.environ, CARGO_TARGET_DIR=str(home / "target"), CARGO_TERM_COLOR="never")

    def build():
        made = subprocess.run(["cargo", "build", "--offline"], cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        told = made.stdout.decode(errors="replace")
        check(made.returncode == 0, "cargo build says", told)
        return told

    for index in _until(stop):
        (home / "src" / "number.rs").write_text("pub const NUMBER: u64 = %d;\n" % index)
        check("Compiling round" in build(), "cargo did not see the change of round", index)
        made = subprocess.run([home / "target" / "debug" / "round"], stdout=subprocess.PIPE)
        check(made.stdout == b"%d\n" % index, "the program of round", index, "says", made.stdout)
        if index % 4 == 3:
            shutil.rmtree(home / "target")
    build()
    check("Compiling" not in build(), "cargo thinks that something changed")
    shutil.rmtree(home)


def _probe(folder, stop, longest):
    """How long the longest lookup of a name takes that nobody has cached."""
    slowest = 0.0
    for index in _until(stop):
        begin = time.monotonic()
        check(not os.path.lexists(Path(folder) / ("missing%d" % index)), "a name that is not there")
        slowest = max(slowest, time.monotonic() - begin)
        time.sleep(0.002)
    longest.write_text(str(slowest))


def _start(ctx, folder, stop):
    """Everything at once; the pids."""
    pids = [fork_worker(_names, folder, seed, stop) for seed in range(PROCESSES if KILLS else PROCESSES // 4)]
    pids += [fork_worker(_stream, folder, seed, stop) for seed in range(2)]
    pids += [fork_worker(_unpack, folder, 0, stop)]
    pids += [fork_worker(_orphan, folder, 0, stop), fork_worker(_sqlite, folder, stop)]
    pids += [fork_worker(_git, folder, stop), fork_worker(_cargo_build, folder, stop)]
    pids += [fork_worker(_fio, ctx, folder, stop), fork_worker(_probe, folder, stop, ctx.work / "longest")]
    return pids


def _fio(ctx, folder, stop):
    """fio writes and verifies, buffered and direct by turns."""
    for index in _until(stop):
        args = ["fio", "--name=v", "--filename=%s" % (Path(folder) / "fio"), "--rw=randwrite", "--bsrange=4k-256k"]
        args += ["--size=16m", "--verify=crc32c", "--direct=%d" % (index % 2), "--bsrange=4k-256k", "--iodepth=8"]
        args += ["--ioengine=libaio" if index % 2 else "--ioengine=psync", "--verify_fatal=1", "--bs_unaligned=0"]
        made = subprocess.run(args, cwd=ctx.work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        check(made.returncode == 0, "fio:", made.stdout.decode(errors="replace")[-2000:])


def _kill_core(mount):
    """kill -9 of the client-core of now; waits for the next one."""
    before = mount.core_pid()
    if before is None:
        eventually("a client-core", mount.core_pid, 30, 0.01)
        before = mount.core_pid()
    send(before, signal.SIGKILL)
    eventually("another client-core", lambda: mount.core_pid() not in (None, before), 30, 0.005)


def _under(ctx, name, what):
    """Runs `what(fs, mount)` under load; then everything is right. Says how long the longest pause was."""
    fs = Cluster(ctx)
    fs.create()
    fs.start()
    mount = fs.mount()
    stop, folder = ctx.work / "stop", fs.path / "work"
    folder.mkdir()
    pids = _start(ctx, folder, stop)
    what(fs, mount)
    dead = [pid for pid in pids if not alive(pid)]
    stop.write_text("")
    join_workers(pids, 240, "workers")
    check(not dead, "workers ended early:", dead)
    fs.close()
    ctx.figure(name + ".longest_pause", float((ctx.work / "longest").read_text()), "s")


def _random(ctx):
    return random.Random(ctx.seed)


@case(timeout_s=600)
def takeover_killed(ctx):
    """kill -9 of the client-core at random moments under names, streams, sqlite, git, cargo and fio: no error, nothing lost or double."""
    moments = _random(ctx)
    count = KILLS or 6

    def kill(_fs, mount):
        for _ in range(count):
            time.sleep(moments.uniform(0.1, 1.2))
            _kill_core(mount)
        time.sleep(0.5)

    _under(ctx, "takeover_killed", kill)


@case(timeout_s=600)
def takeover_server(ctx):
    """The server alone killed at random moments, and away for up to a second, under the same load: as before."""
    moments = _random(ctx)
    away = []

    def kill(fs, _mount):
        for _ in range(KILLS or 3):
            time.sleep(moments.uniform(0.2, 1.5))
            begin = time.monotonic()
            fs.kill()
            time.sleep(moments.uniform(0, 1))
            fs.start()
            away.append(time.monotonic() - begin)
        time.sleep(1)

    _under(ctx, "takeover_server", kill)
    ctx.figure("takeover_server.longest_away", max(away), "s")


@case(timeout_s=600)
def takeover_both(ctx):
    """The server killed, the client-core killed, both at once, under the same load: as before."""
    moments = _random(ctx)
    count = KILLS or 3

    def kill(fs, mount):
        for round_ in range(count):
            time.sleep(moments.uniform(0.2, 1.0))
            fs.kill()
            if round_ % 3 != 1:
                time.sleep(moments.uniform(0, 0.3))
                _kill_core(mount)
            fs.start()
            if round_ % 3 == 1:
                time.sleep(moments.uniform(0, 0.3))
                _kill_core(mount)
        time.sleep(1)

    _under(ctx, "takeover_both", kill)


def _mount_json(fs, *args):
    return json.loads(fs.weft("mount", *args, "--json").out)


@case(timeout_s=400)
def takeover_upgrade(ctx):
    """`weft mount upgrade` under load: another program serves, no error; what is no client-core is refused and harms nothing."""
    copy = ctx.work / "next" / "mount-weft"
    copy.parent.mkdir()
    copy.write_bytes(program("mount-weft").read_bytes())
    copy.chmod(0o755)

    def upgrade(fs, mount):
        for path in (copy, program("mount-weft")):
            time.sleep(0.5)
            before = mount.core_pid()
            told = _mount_json(fs, "upgrade", mount.path, "--program", path)
            check(told["client_core_pid"] not in (None, before), "the same process:", told)
            check(os.readlink("/proc/%d/exe" % told["client_core_pid"]) == str(path), "another program serves")
        refused = fs.weft("mount", "upgrade", mount.path, "--program", "/bin/true", ok=None)
        check(refused.code != 0 and "is it mount.weft" in refused.out, "an upgrade to /bin/true:", refused.out)
        listed = [entry for entry in _mount_json(fs, "list")["mounts"] if entry["mount_point"] == str(mount.path)]
        check(listed[0]["client_core_pid"] == mount.core_pid(), listed)
        check(listed[0]["supervisor_pid"] == mount.child.pid and listed[0]["transport"] == "classic", listed)
        time.sleep(0.5)

    _under(ctx, "takeover_upgrade", upgrade)


def _waiting(path):
    return subprocess.Popen(["stat", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@case(timeout_s=120)
def takeover_interrupted(ctx):
    """Server and client-core gone: a program that waits ends within a second of Ctrl-C and of kill -9; `weft mount ops` says why."""
    fs = Cluster(ctx)
    fs.create()
    fs.start()
    mount = fs.mount()
    (fs.path / "file").write_bytes(b"x")
    fs.kill()
    slowest = 0.0
    for end in (signal.SIGINT, signal.SIGKILL):
        stuck = [_waiting(fs.path / ("none%d" % index)) for index in range(4)]
        pids = {child.pid for child in stuck}
        asked = lambda pids=pids: [op for op in _mount_json(fs, "ops", mount.path)["ops"] if op["pid"] in pids]  # noqa: E731
        eventually("they wait", lambda: len(asked()) == 4, 20)
        eventually("why they wait", lambda: any(str(fs.port) in op["waits_for"] for op in asked()), 20)
        _kill_core(mount)
        states = {"purged", "waiting"}
        eventually("a successor has them", lambda states=states: {op["state"] for op in asked()} <= states, 20)
        for child in stuck:
            begin = time.monotonic()
            child.send_signal(end)
            child.wait(timeout=20)
            slowest = max(slowest, time.monotonic() - begin)
    ctx.figure("takeover_interrupted.time", slowest, "s")
    check(slowest < 1, "a signal took", slowest, "s")
    fs.start()
    check((fs.path / "file").read_bytes() == b"x", "the file changed")
    eventually("nothing waits", lambda: not _mount_json(fs, "ops", mount.path)["ops"], 20)
    fs.close()


@case(timeout_s=240)
def takeover_many_open(ctx):
    """600 open files (10,000 with WEFT_TAKEOVER_KILLS) are open in the successor, with what was written and not synced, without names too."""
    fs = Cluster(ctx)
    fs.create()
    fs.start()
    mount = fs.mount()
    count = 10_000 if KILLS else 600
    files = []
    for index in range(count):
        path = fs.path / ("file%d" % index)
        files.append(os.open(path, os.O_RDWR | os.O_CREAT))
        os.write(files[-1], b"before %d" % index)
        if index % 3 == 0:
            os.unlink(path)
    before = mount.core_pid()
    begin = time.monotonic()
    send(before, signal.SIGKILL)
    check(not os.path.lexists(fs.path / "not-there"), "a name that is not there")
    ctx.figure("takeover_many_open.pause", time.monotonic() - begin, "s")
    for index, file in enumerate(files):
        want = b"before %d" % index
        check(os.pread(file, 100, 0) == want, "file", index, "holds", os.pread(file, 100, 0))
        check(os.write(file, b" after") == 6, "short write")
        check(os.fstat(file).st_size == len(want) + 6, "length of", index)
        os.close(file)
    check(mount.core_pid() != before, "it was not killed")
    for index in range(1, count, 997):
        path = fs.path / ("file%d" % index)
        if index % 3:
            check(path.read_bytes() == b"before %d after" % index, path, "holds", path.read_bytes())
    fs.close()


@case(timeout_s=120)
def takeover_supervisor_dies(ctx):
    """The supervisor killed: the mount works on. Both killed: a new mount at the same place works at once, and says so."""
    fs = Cluster(ctx)
    fs.create()
    fs.start()
    mount = fs.mount()
    file = open(fs.path / "file", "wb", buffering=0)
    file.write(b"one ")
    core = mount.core_pid()
    remember(ctx.work, "pid", "%d %d" % (core, start_time(core)))
    send(mount.child.pid, signal.SIGKILL)
    mount.child.wait(timeout=20)
    file.write(b"two")
    os.fsync(file.fileno())
    check((fs.path / "file").read_bytes() == b"one two", "the file is wrong without a supervisor")
    send(core, signal.SIGKILL)
    eventually("it is dead", lambda: not alive(core))
    for what in (lambda: file.write(b"three"), file.close):
        try:
            what()
            check(False, "a dead mount takes data")
        except OSError:
            pass
    fs.mounts.clear()
    again = fs.mount()
    check((fs.path / "file").read_bytes() == b"one two", "the file is wrong in the new mount")
    check("whose client is dead" in again.log.read_text(), "the log does not say that a dead mount was there")
    check(not Path("/run/weft-mounts/%d" % mount.child.pid).exists(), "the dead supervisor's file is still there")
    fs.close()
