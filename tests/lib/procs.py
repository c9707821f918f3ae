"""Processes: run one with a deadline, see what one is doing, end those that a case started.

A process is ended only when it belongs to the case: it is in the case's session (every case is a session leader)
or its pid and start time were written down when it was started.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

from lib.base import Failed


def proc_stat(pid):
    """(state, parent, session, start time) of a process, or None when it is gone."""
    try:
        text = Path("/proc/%d/stat" % pid).read_text()
    except (OSError, ValueError):
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[3]), int(fields[19])


def alive(pid):
    """Whether the process runs (a zombie does not)."""
    stat = proc_stat(pid)
    return stat is not None and stat[0] not in "ZX"


def start_time(pid):
    """The kernel's start time of a process: with the pid it names one process for good."""
    stat = proc_stat(pid)
    return stat[3] if stat else 0


def in_session(session):
    """Pids of the processes of a session, itself left out."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = proc_stat(int(entry))
            if stat and stat[2] == session and int(entry) != session and stat[0] != "Z":
                found.append(int(entry))
    return found


def send(pid, number):
    """Sends a signal; a process that is gone is fine."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def end_all(pids, patience_s=5.0):
    """SIGKILLs these processes and waits until they are gone. Returns those that will not go."""
    for pid in pids:
        send(pid, signal.SIGKILL)
    end = time.monotonic() + patience_s
    left = list(pids)
    while left and time.monotonic() < end:
        left = [pid for pid in left if alive(pid)]
        time.sleep(0.02)
    return left


def _read(path):
    try:
        return Path(path).read_text(errors="replace").replace("\0", " ").strip()
    except OSError as error:
        return "(%s)" % error.strerror


def describe(pids):
    """What these processes are doing: command, state, where they wait in the kernel."""
    lines = []
    for pid in pids:
        stat = proc_stat(pid)
        if not stat:
            continue
        base = "/proc/%d" % pid
        lines.append("pid %d state %s: %s" % (pid, stat[0], _read(base + "/cmdline")[:200]))
        try:
            threads = sorted(os.listdir(base + "/task"))
        except OSError:
            threads = []
        for thread in threads[:8]:
            where = "%s/task/%s" % (base, thread)
            stack = _read(where + "/stack").splitlines()[:6]
            head = "  thread %s %s waits in %s" % (thread, _read(where + "/comm"), _read(where + "/wchan"))
            lines.append(head)
            lines.extend("    " + line for line in stack)
    return "\n".join(lines)


def tail(path, lines=25):
    """The last lines of a file, for a report."""
    try:
        with open(path, errors="replace") as source:
            return "".join(source.readlines()[-lines:])
    except OSError as error:
        return "(%s: %s)\n" % (path, error.strerror)


class Result:
    """How a command ended."""

    def __init__(self, code, out, seconds):
        self.code, self.out, self.seconds = code, out, seconds


def run(args, timeout_s=60.0, cwd=None, env=None, ok=(0,), quiet=True, stdin=None):
    """Runs a command, stdout and stderr together, and returns its `Result`.

    Fails when it ends with a code not in `ok` (None: any code) or does not end within `timeout_s`.
    """
    args = [str(arg) for arg in args]
    begin = time.monotonic()
    full_env = dict(os.environ, **{key: str(value) for key, value in (env or {}).items()})
    child = subprocess.Popen(
        args,
        cwd=cwd,
        env=full_env,
        stdin=stdin if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        out = child.communicate(timeout=timeout_s)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        print("HANG after %g s: %s\n%s" % (timeout_s, " ".join(args), describe([child.pid])), flush=True)
        send(child.pid, signal.SIGKILL)
        raise Failed("%s did not end within %g s" % (" ".join(args)[:160], timeout_s))
    seconds = time.monotonic() - begin
    wrong = ok is not None and child.returncode not in ok
    if wrong or not quiet:
        print("$ %s\n%s-> %d" % (" ".join(args), out[-4000:], child.returncode), flush=True)
    if wrong:
        last = out.strip().splitlines()[-1:] or [""]
        raise Failed("%s ended with %d: %s" % (" ".join(args)[:160], child.returncode, last[0][:300]))
    return Result(child.returncode, out, seconds)


def spawn(args, log, cwd=None, env=None):
    """Starts a command in the background with its output appended to the file `log`."""
    full_env = dict(os.environ, **{key: str(value) for key, value in (env or {}).items()})
    with open(log, "ab") as out:
        return subprocess.Popen(
            [str(arg) for arg in args],
            cwd=cwd,
            env=full_env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def wait(child, timeout_s, what):
    """Waits for a spawned process and returns its code (negative: the signal that ended it)."""
    try:
        return child.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        print("HANG: %s\n%s" % (what, describe([child.pid])), flush=True)
        raise Failed("%s did not end within %g s" % (what, timeout_s))


def fork_worker(function, *args):
    """Runs `function(*args)` in a forked process; its pid. The process ends with 0, or 1 after a traceback."""
    import sys
    import traceback

    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function(*args)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def join_workers(pids, timeout_s, what):
    """Waits until all forked workers ended; fails when one failed or the time is over."""
    end = time.monotonic() + timeout_s
    left, bad = dict.fromkeys(pids), []
    while left:
        for pid in list(left):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del left[pid]
                if status:
                    bad.append((pid, status))
        if left and time.monotonic() > end:
            print("HANG: %s\n%s" % (what, describe(list(left)[:4])), flush=True)
            end_all(left)
            raise Failed("%s: %d workers did not end within %g s" % (what, len(left), timeout_s))
        time.sleep(0.002)
    if bad:
        raise Failed("%s: %d of %d workers failed (status %d)" % (what, len(bad), len(pids), bad[0][1]))


def children(pid):
    """Pids of the living children of a process."""
    try:
        text = Path("/proc/%d/task/%d/children" % (pid, pid)).read_text()
    except OSError:
        return []
    return [child for child in map(int, text.split()) if alive(child)]


def mount_pids(point, program):
    """Pids of the processes that serve the mount point; `program` is in the name they were started by."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and alive(int(entry)):
            try:
                with open("/proc/%s/cmdline" % entry, "rb") as source:
                    words = source.read().decode(errors="replace").split("\0")
            except OSError:
                continue
            if str(point) in words and program in os.path.basename(words[0]):
                found.append(int(entry))
    return found
