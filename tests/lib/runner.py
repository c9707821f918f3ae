"""Runs cases one after the other, each in a process of its own under a deadline, and cleans up after each.

A case that hangs is a failure: the runner prints what its processes are doing and the ends of its logs, aborts its
FUSE connections (so that nothing stays in an uninterruptible sleep), ends its processes and goes on.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from lib.base import VAR, Context, Skip
from lib.cluster import is_mounted
from lib.procs import alive, describe, end_all, in_session, run, start_time, tail

SKIPS = Path(__file__).resolve().parents[1] / "skips.txt"
SLACK_S = 15.0


def load_skips():
    """`key: reason` lines of skips.txt. A key is a case that never runs or a condition a case names."""
    skips = {}
    for line in SKIPS.read_text().splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            key, _, reason = line.partition(":")
            skips[key.strip()] = reason.strip()
    return skips


def _cleanup_list(work, kind):
    path = work / "cleanup.list"
    if not path.exists():
        return []
    lines = (line.partition(" ") for line in path.read_text().splitlines())
    return [rest for word, _, rest in lines if word == kind]


def recorded_pids(work):
    """Pids the case wrote down that still are the process they were."""
    pairs = (pair.split() for pair in _cleanup_list(work, "pid"))
    return [int(pid) for pid, begun in pairs if alive(int(pid)) and start_time(int(pid)) == int(begun)]


def abort_mount(path):
    """Ends the FUSE connection of a mount point through the kernel's control files, where they are there."""
    want = str(path).replace("\\", "\\134").replace(" ", "\\040")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == want:
            control = Path("/sys/fs/fuse/connections") / fields[2].split(":")[1] / "abort"
            try:
                control.write_text("1")
            except OSError:
                pass


def _remove_points(points):
    """Removes the empty mount points made under /tmp; only ever empty folders."""
    for path in map(Path, points):
        if path.parent.parent == Path("/tmp") and path.parent.name.startswith("weft-"):
            for folder in (path, path.parent):
                try:
                    folder.rmdir()
                except OSError:
                    pass  # something is in it still: better left than emptied


def clean(work, session):
    """Ends and unmounts what is left of a case. Returns complaints about what would not go."""
    complaints = []
    points = sorted(set(_cleanup_list(work, "mount")))
    mounts = [path for path in points if is_mounted(path)]
    end_all(in_session(session), 0.5)
    pids = recorded_pids(work)
    for path in mounts:
        abort_mount(path)
        run(["umount", "-l", path], timeout_s=20, ok=None)
        if is_mounted(path):
            complaints.append("still mounted: " + path)
    _remove_points(points)
    left = end_all(sorted(set(pids + in_session(session))))
    if left:
        complaints.append("will not die:\n" + describe(left))
    return complaints


class Scratch:
    """What a benchmark works in: the context of a case in a folder of its own under var/, gone at the end with all that ran there.

    Afterwards `complaints` says what would not go; it was printed.
    """

    def __init__(self, name):
        self.name, self.ctx, self.complaints = name, None, []

    def __enter__(self):
        VAR.mkdir(exist_ok=True)
        self.ctx = Context(tempfile.mkdtemp(prefix=self.name + "-", dir=VAR), False, 1, None)
        return self.ctx

    def __exit__(self, *error):
        self.complaints = clean(self.ctx.work, -1)
        for complaint in self.complaints:
            print(complaint)
        shutil.rmtree(self.ctx.work, ignore_errors=True)


def append_json(path, figures):
    """Adds a benchmark's figures to a file, one line; without a path nowhere."""
    if path:
        with open(path, "a") as out:
            out.write(json.dumps(figures) + "\n")


def _child(case, ctx, log):
    """The body of a case's process: never returns."""
    os.setsid()
    with open(log, "ab", buffering=0) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    outcome = {"status": "failed", "why": "ended without a result"}
    try:
        case.function(ctx)
        outcome = {"status": "passed", "why": ""}
    except Skip as skip:
        outcome = {"status": "skipped", "why": str(skip)}
    except BaseException as error:
        traceback.print_exc()
        outcome = {"status": "failed", "why": "%s: %s" % (type(error).__name__, error)}
    (ctx.work / "result.json").write_text(json.dumps(outcome))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _wait(pid, deadline):
    """Waits for the case's process; False when the deadline passed first."""
    while True:
        done, _ = os.waitpid(pid, os.WNOHANG)
        if done:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def _report_hang(work, session):
    print("---- hang: what its processes are doing ----")
    print(describe([session] + in_session(session) + recorded_pids(work)))


def _report_logs(work):
    for log in sorted(work.glob("*.log")) + sorted(work.glob("node-*/*.log")):
        print("---- end of %s ----" % log)
        print(tail(log, 30), end="")


def _drop_bulk(work):
    for pattern in ("node-*/targets", "node-*/saved-*", "bulk"):
        for path in work.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


class Runner:
    """Runs cases and keeps count."""

    def __init__(self, quick, keep, seed, on):
        self.quick, self.keep, self.seed, self.on = quick, keep, seed, on
        self.skips = load_skips()
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.figures = []

    def run(self, case):
        """Runs one case and prints its line."""
        if case.name in self.skips:
            self._line(case, "skipped", 0.0, self.skips[case.name])
            return
        if self.on and not case.peer:
            return
        VAR.mkdir(exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="test-%s-" % case.name, dir=VAR))
        work.chmod(0o755)
        begin = time.monotonic()
        outcome = self._run_in(case, work)
        seconds = time.monotonic() - begin
        if outcome["status"] == "skipped" and outcome["why"] not in self.skips:
            outcome = {"status": "failed", "why": "skip reason %r is not in tests/skips.txt" % outcome["why"]}
        elif outcome["status"] == "skipped":
            outcome["why"] = self.skips[outcome["why"]]
        self._line(case, outcome["status"], seconds, outcome["why"])
        if outcome["status"] == "failed":
            _report_logs(work)
            print("---- kept: %s ----" % work, flush=True)
            if not self.keep:
                _drop_bulk(work)
        elif not self.keep:
            shutil.rmtree(work, ignore_errors=True)

    def _run_in(self, case, work):
        ctx = Context(work, self.quick, self.seed, self.on)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _child(case, ctx, work / "case.log")
        ended = False
        complaints = []
        try:
            ended = _wait(pid, time.monotonic() + case.timeout_s + SLACK_S)
            if not ended:
                _report_hang(work, pid)
        finally:
            if not ended:
                os.kill(pid, signal.SIGKILL)
            complaints = clean(work, pid)
            if not ended:
                _wait(pid, time.monotonic() + 20)
            self._collect(case, work)
        if not ended:
            return {"status": "failed", "why": "did not end within %g s" % case.timeout_s}
        try:
            outcome = json.loads((work / "result.json").read_text())
        except (OSError, ValueError):
            outcome = {"status": "failed", "why": "the case's process died without a result"}
        if complaints and outcome["status"] == "passed":
            outcome = {"status": "failed", "why": "clean-up: " + "; ".join(complaints)}
        return outcome

    def _collect(self, case, work):
        path = work / "figures.jsonl"
        if path.exists():
            for line in path.read_text().splitlines():
                figure = dict(json.loads(line), case=case.name)
                self.figures.append(figure)
                print("FIGURE %s %g %s" % (figure["name"], figure["value"], figure["unit"]))

    def _line(self, case, status, seconds, why):
        self.counts[status] += 1
        text = "%-7s %-28s %7.1f s" % (status, case.name, seconds)
        print((text + "  " + why.partition("\n")[0]).rstrip(), flush=True)

    def finish(self):
        """Writes the figures and prints the last line; the exit code."""
        if self.figures:
            (VAR / "test-figures.json").write_text(json.dumps(self.figures, indent=1) + "\n")
        counts = self.counts
        print("%(passed)d passed, %(failed)d failed, %(skipped)d skipped" % counts, flush=True)
        return 1 if counts["failed"] or not counts["passed"] else 0
