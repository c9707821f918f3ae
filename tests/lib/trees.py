"""Trees of files: a real one to copy, manifests of what stands where, comparisons that say what differs."""

import hashlib
import os
import shutil
import stat
import subprocess
from multiprocessing.pool import ThreadPool
from pathlib import Path

from lib.base import CACHE, ROOT, TOOLS, Failed, check
from lib.procs import run

FSX = "0.3.2"
PJDFSTEST = "0.2.2"


def cargo_home():
    """Where cargo keeps its registry."""
    return Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))


def tool(name, version):
    """A published test tool, installed once under var/tools; lightly optimised, as building it is most of its cost."""
    path = TOOLS / "bin" / name
    if not path.exists():
        args = ["cargo", "install", "-q", "--locked", "--debug", "--version", version, "--root", TOOLS, name]
        env = {
            "CARGO_TARGET_DIR": CACHE / "tools-target",
            "CARGO_PROFILE_DEV_OPT_LEVEL": 1,
            "CARGO_PROFILE_DEV_DEBUG": "false",
        }
        run(args, timeout_s=1200, env=env, cwd="/")
    return path


def crate_source(name, version):
    """The unpacked sources of a published crate that `tool` installed."""
    find = lambda: sorted(cargo_home().glob("registry/src/*/%s-%s" % (name, version)))  # noqa: E731
    if not find():
        (TOOLS / "bin" / name).unlink(missing_ok=True)
        tool(name, version)
    check(find(), "cargo did not leave the sources of", name, "under", cargo_home())
    return find()[0]


def dependency_closure():
    """The unpacked crates of this workspace and of its test tools: made by cargo vendor, once per Cargo.lock."""
    lock = (ROOT / "Cargo.lock").read_bytes()
    goal = CACHE / ("vendor-" + hashlib.sha256(lock).hexdigest()[:12])
    if goal.exists():
        return goal
    for old in CACHE.glob("vendor-*"):
        shutil.rmtree(old)
    part = CACHE / "vendor-part"
    CACHE.mkdir(parents=True, exist_ok=True)
    args = ["cargo", "vendor", "-q", "--locked", "--versioned-dirs"]
    for name, version in (("fsx", FSX), ("pjdfstest", PJDFSTEST)):
        args += ["--sync", crate_source(name, version) / "Cargo.toml"]
    run(args + [part], cwd=ROOT, timeout_s=600)
    part.rename(goal)
    return goal


def file_hash(path):
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as source:
        while True:
            piece = source.read(1 << 20)
            if not piece:
                return digest.hexdigest()
            digest.update(piece)


def manifest(top, times=True):
    """{relative path: what stands there}: type, permissions, owner, size, mtime, content hash or link target."""
    found = {}
    for folder, names, files in os.walk(top):
        names.sort()
        for name in sorted(names + files):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            entry = [stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid]
            if stat.S_ISREG(info.st_mode):
                entry += [info.st_size, info.st_nlink, file_hash(path)]
            elif stat.S_ISLNK(info.st_mode):
                entry.append(os.readlink(path))
            if times and not stat.S_ISLNK(info.st_mode):
                entry.append(info.st_mtime_ns)
            found[os.path.relpath(path, top)] = tuple(entry)
    return found


def same(want, got, what):
    """Fails unless two manifests agree, naming the first differences."""
    lines = []
    for path in sorted(set(want) | set(got)):
        if want.get(path) != got.get(path):
            lines.append("%s: wanted %s, found %s" % (path, want.get(path), got.get(path)))
    if lines:
        raise Failed("%s: %d of %d differ\n%s" % (what, len(lines), len(want), "\n".join(lines[:10])))


def _fsync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(top, threads=16):
    """fsync of every file and directory: from here on it must survive anything. Returns the number of files."""
    paths = []
    for folder, _, files in os.walk(top):
        paths += [os.path.join(folder, name) for name in files + ["."]]
    paths = [path for path in paths if not os.path.islink(path)]
    with ThreadPool(threads) as pool:
        pool.map(_fsync, paths)
    return len(paths)


def pipe_tar(source, goal, timeout_s):
    """`tar -c SOURCE | tar -x` into GOAL."""
    os.makedirs(goal)
    pack = subprocess.Popen(["tar", "-C", str(source), "--format=posix", "-cf", "-", "."], stdout=subprocess.PIPE)
    try:
        run(["tar", "-C", goal, "-xf", "-"], stdin=pack.stdout, timeout_s=timeout_s)
    finally:
        pack.stdout.close()
        pack.wait(timeout=30)
    check(pack.returncode == 0, "tar -c ended with", pack.returncode)
