"""Proof 6, many at once: 64 processes in one directory and in 64, each with a model of what it did.

Names carry their owner's number, so each process knows what must be under them; names everybody wants have rules of
their own: of all that create the same name exclusively (open, mkdir, link, rename without replace) exactly one wins.
"""

import ctypes
import errno
import json
import os
import random
import stat

from lib.base import case, check
from lib.procs import fork_worker, join_workers

PROCESSES = 64
RENAME_NOREPLACE = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Worker:
    """One process: random operations on names of its own, and the model: name -> ("file", content) and so on."""

    def __init__(self, number, home, other, seed):
        self.number, self.homes = number, [home, other]
        self.random = random.Random(seed * 1000 + number)
        self.model = {}
        self.next = 0

    def fresh(self):
        """A path that this process never used, in one of its directories."""
        self.next += 1
        return os.path.join(self.random.choice(self.homes), "p%d-%d" % (self.number, self.next))

    def pick(self, *kinds):
        """One of the paths whose kind is among these, or None."""
        paths = [path for path, entry in self.model.items() if entry[0] in kinds]
        return self.random.choice(paths) if paths else None

    def content(self):
        """Bytes for a file: mostly few, sometimes more than one block."""
        count = self.random.choice((0, 10, 300, 4096, 9000))
        return ("%d.%d;" % (self.number, self.next) * (count // 4 + 1))[:count]

    def create(self):
        """A new file."""
        path, text = self.fresh(), self.content()
        with open(path, "x") as out:
            out.write(text)
        self.model[path] = ("file", text)

    def append(self):
        """More bytes at the end of a file."""
        path = self.pick("file")
        if path:
            text = self.content()
            with open(path, "a") as out:
                out.write(text)
            self._set_content(path, self.model[path][1] + text)

    def _set_content(self, path, text):
        inode = os.stat(path).st_ino
        for other, entry in list(self.model.items()):
            if entry[0] == "file" and os.stat(other).st_ino == inode:
                self.model[other] = ("file", text)

    def rename(self):
        """A file, link or directory gets a new name, or replaces another file."""
        path = self.pick("file", "symlink", "dir")
        if path:
            over = self.pick("file", "symlink") if self.random.random() < 0.3 else None
            goal = over if over and self.model[path][0] != "dir" else self.fresh()
            same = goal in self.model and goal != path and os.lstat(path).st_ino == os.lstat(goal).st_ino
            os.rename(path, goal)
            if not same and goal != path:
                self.model[goal] = self.model.pop(path)

    def unlink(self):
        """A file or link goes away."""
        path = self.pick("file", "symlink")
        if path:
            os.unlink(path)
            del self.model[path]

    def mkdir(self):
        """A new directory."""
        path = self.fresh()
        os.mkdir(path)
        self.model[path] = ("dir", "")

    def rmdir(self):
        """A directory goes away."""
        path = self.pick("dir")
        if path:
            os.rmdir(path)
            del self.model[path]

    def symlink(self):
        """A new symbolic link."""
        path = self.fresh()
        os.symlink("to-%d" % self.next, path)
        self.model[path] = ("symlink", "to-%d" % self.next)

    def link(self):
        """Another name for a file."""
        path = self.pick("file")
        if path:
            goal = self.fresh()
            os.link(path, goal)
            self.model[goal] = self.model[path]

    def verify_one(self):
        """One name is looked at in between."""
        path = self.pick("file", "symlink", "dir")
        if path:
            check(look(path) == self.model[path], path, "is", look(path)[0], "and not", self.model[path][0])

    def run(self, count, result):
        """The work; then every file is made durable and the model written down."""
        steps = [self.create] * 5 + [self.append] * 3 + [self.rename] * 4 + [self.unlink] * 3 + [self.mkdir] * 2
        steps += [self.rmdir, self.symlink, self.link, self.verify_one, self.verify_one]
        for _ in range(count):
            self.random.choice(steps)()
        for path, entry in self.model.items():
            if entry[0] == "file":
                with open(path) as source:
                    os.fsync(source.fileno())
        with open(result, "w") as out:
            json.dump(self.model, out)


def look(path):
    """What stands at a path, as the models say it."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return ("symlink", os.readlink(path))
    if stat.S_ISDIR(mode):
        return ("dir", "")
    with open(path) as source:
        return ("file", source.read())


def _compare(homes, results, what):
    """Everything in the directories is in a model, and the other way round."""
    want = {}
    for result in results:
        want.update({path: tuple(entry) for path, entry in json.loads(result.read_text()).items()})
    inside = {os.path.join(home, name) for home in homes for name in os.listdir(home)} - set(homes)
    check(inside == set(want), what, "names differ:", sorted(inside ^ set(want))[:8])
    for path, entry in want.items():
        found = look(path)
        check(found == entry, what, path, "is", str(found)[:80], "and not", str(entry)[:80])
    return len(want)


def _crowd(ctx, homes_of):
    fs = ctx.fs()
    count = ctx.scaled(150, 25)
    homes = sorted({home for number in range(PROCESSES) for home in homes_of(str(fs.path), number)})
    for home in homes:
        os.makedirs(home, exist_ok=True)
    results = [ctx.work / ("model-%d.json" % number) for number in range(PROCESSES)]
    workers = []
    for number in range(PROCESSES):
        worker = Worker(number, *homes_of(str(fs.path), number), seed=ctx.seed)
        workers.append(fork_worker(worker.run, count, results[number]))
    join_workers(workers, 400, "crowd")
    ctx.figure("many.names", _compare(homes, results, "at once:"), "names")
    fs.kill()
    fs.start()
    fs.remount()
    _compare(homes, results, "after kill -9 and remount:")
    fs.close()


@case(timeout_s=500, peer=True)
def many_in_one(ctx):
    """64 processes create, write, rename, link and remove in one directory: the result equals their models."""
    _crowd(ctx, lambda top, number: (top + "/all", top + "/all"))


@case(timeout_s=500, peer=True)
def many_in_64(ctx):
    """64 processes in 64 directories, renaming from one to the next: the result equals their models."""
    _crowd(ctx, lambda top, number: ("%s/d%d" % (top, number), "%s/d%d" % (top, (number + 1) % PROCESSES)))


def _rename_noreplace(old, new):
    if LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), new)


def _own_file(top, number, label):
    path = os.path.join(top, "own-%d-%s" % (number, label))
    with open(path, "w") as out:
        out.write(str(number))
    return path


def _exclusive(path, number):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(descriptor, str(number).encode())
    os.close(descriptor)


def _contend(number, top, rounds, result):
    """Wants the same names as everybody, round by round; writes down what it won."""
    won = []
    for step in range(rounds):
        own_link, own_move = _own_file(top, number, "l%d" % step), _own_file(top, number, "m%d" % step)
        own_over = _own_file(top, number, "o%d" % step)
        tries = {
            "open": lambda name: _exclusive(name, number),
            "mkdir": os.mkdir,
            "symlink": lambda name: os.symlink(str(number), name),
            "link": lambda name: os.link(own_link, name),
            "move": lambda name: _rename_noreplace(own_move, name),
        }
        for label, attempt in tries.items():
            name = os.path.join(top, "%s-%d" % (label, step))
            try:
                attempt(name)
                won.append(os.path.basename(name))
            except OSError as error:
                check(error.errno == errno.EEXIST, label, "failed with", error)
        os.rename(own_over, os.path.join(top, "over-%d" % step))
        os.unlink(own_link)
    result.write_text(json.dumps(won))


@case(timeout_s=400, peer=True)
def many_want_one(ctx):
    """64 processes want the same names: open O_EXCL, mkdir, symlink, link, rename: exactly one wins each."""
    fs = ctx.fs()
    top, rounds = fs.path / "contended", ctx.scaled(20, 5)
    top.mkdir()
    results = [ctx.work / ("won-%d.json" % number) for number in range(PROCESSES)]
    workers = [fork_worker(_contend, number, str(top), rounds, results[number]) for number in range(PROCESSES)]
    join_workers(workers, 350, "contenders")
    winner = {}
    for number, result in enumerate(results):
        for name in json.loads(result.read_text()):
            check(name not in winner, name, "was won by", winner.get(name), "and by", number)
            winner[name] = number
    for step in range(rounds):
        for label in ("open", "mkdir", "symlink", "link", "move"):
            name = "%s-%d" % (label, step)
            check(name in winner, "nobody won", name)
            kind, text = look(str(top / name))
            if label != "mkdir":
                check(text == str(winner[name]), name, "was won by", winner[name], "and holds", text)
            if label in ("link", "move"):
                check(os.stat(top / name).st_nlink == 1, name, "has", os.stat(top / name).st_nlink, "links")
        check(look(str(top / ("over-%d" % step)))[1].isdigit(), "the renamed-over file is torn")
    left = [name for name in os.listdir(top) if name.startswith("own-")]
    moved = PROCESSES * rounds - rounds
    check(len(left) == moved, len(left), "own files are left, must be", moved)
    fs.close()
