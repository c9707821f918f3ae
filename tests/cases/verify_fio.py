"""Proof 3, fio with verify: what is read is what was written, at once and again after kill -9 and remount."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

from lib.base import Failed, case, check
from lib.procs import run

JOBS = 4


def _arguments(fs, name, rw, direct, sizes, size, extra):
    engine = ["--ioengine=libaio", "--iodepth=8"] if direct else ["--ioengine=psync"]
    return [
        "fio",
        "--name=" + name,
        "--directory=%s" % fs.path,
        "--rw=" + rw,
        "--direct=%d" % direct,
        "--numjobs=%d" % JOBS,
        "--size=%d" % size,
        "--end_fsync=1",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--randseed=12345",
        "--group_reporting",
        "--output-format=json",
        *engine,
        *sizes,
        *extra,
    ]


def _fio_writes(args):
    """Runs fio without verifying."""
    return _fio(args, "write")


def _fio(args, way="read"):
    """Runs fio; fails on an exit code, an error or a count of zero."""
    result = run(args, timeout_s=300, ok=None)
    start = result.out.find("{")
    if result.code != 0 or start < 0:
        raise Failed("%s ended with %d:\n%s" % (" ".join(args[:6]), result.code, result.out[-3000:]))
    job = json.loads(result.out[start:])["jobs"][0]
    check(job["error"] == 0, "fio reports error", job["error"])
    check(job[way]["total_ios"] > 0, "fio did nothing")
    return job


def _combinations(quick):
    """(name, rw, direct, block sizes, MiB of each job)."""
    for direct in (0, 1):
        for rw in ("write", "randwrite"):
            for block, mib in (("4k", 8), ("64k", 32), ("1m", 64)):
                if quick and (rw, block) not in (("randwrite", "4k"), ("write", "1m")):
                    continue
                name = "%s-%s-%s" % (rw, "direct" if direct else "buffered", block)
                yield name, rw, direct, ["--bs=" + block], mib // 4 if quick else mib
    for rw in ("write", "randwrite"):
        sizes = ["--bsrange=512-70001", "--bs_unaligned=1"]
        yield rw + "-buffered-unaligned", rw, 0, sizes, 4 if quick else 16


@case(timeout_s=900, peer=True)
def fio_verify(ctx):
    """fio --verify=crc32c: random and sequential, direct and buffered, 4 jobs, 4k to 1m and unaligned sizes."""
    fs = ctx.fs()
    done = []
    for name, rw, direct, sizes, mib in _combinations(ctx.quick):
        args = _arguments(fs, name, rw, direct, sizes, mib << 20, [])
        job = _fio([*args, "--do_verify=1"])
        ctx.note(name, job["write"]["bw"] // 1024, "MiB/s written and verified")
        if sizes[0].startswith("--bs="):
            done.append((name, args))
    fs.kill()
    fs.start()
    fs.remount()
    for name, args in done:
        ctx.note("again after kill -9:", name)
        _fio([*args, "--verify_only=1"])
    ctx.figure("fio_verify.combinations", len(list(_combinations(ctx.quick))), "runs")
    fs.close()


def _way(block, direct, name):
    """Arguments of a job on its own files that is verified later, through whichever mount."""
    rw = "randwrite" if block == "4k" else "write"
    size = 2 << 20 if block == "4k" else 16 << 20

    def of(folder, extra):
        return _arguments(SimpleNamespace(path=folder), name, rw, direct, ["--bs=" + block], size, extra)

    return of


def _both(acts):
    """Does them at the same time, and fails as the first that failed."""
    with ThreadPoolExecutor(len(acts)) as pool:
        for done in [pool.submit(act) for act in acts]:
            done.result()


@case(timeout_s=600)
def fio_pair(ctx):
    """fio --verify from two mounts: what each writes the other verifies, both at once; then halves of the same files."""
    fs = ctx.fs()
    mounts = [fs.path, fs.mount("other").path]
    for direct in (0, 1):
        for block in ("4k", "1m"):
            name = "%s-%d" % (block, direct)
            ways = [_way(block, direct, "%s-%d" % (name, at)) for at in range(2)]
            _both([partial(_fio_writes, way(mounts[at], ["--do_verify=0"])) for at, way in enumerate(ways)])
            _both([partial(_fio, way(mounts[1 - at], ["--verify_only=1"])) for at, way in enumerate(ways)])
            # The same files: each mount writes the half that the other does not.
            half = ["--filename_format=shared-%s.$jobnum" % name]
            size = 2 << 20 if block == "4k" else 16 << 20
            halves = [_way(block, direct, name), _way(block, direct, name)]
            offsets = [[*half, "--offset=%d" % (at * size)] for at in range(2)]
            _both(
                [
                    partial(_fio_writes, way(mounts[at], [*offsets[at], "--do_verify=0"]))
                    for at, way in enumerate(halves)
                ]
            )
            _both(
                [
                    partial(_fio, way(mounts[1 - at], [*offsets[at], "--verify_only=1"]))
                    for at, way in enumerate(halves)
                ]
            )
            ctx.note("verified through the other mount:", name)
    fs.close()
