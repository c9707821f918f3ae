"""The vocabulary of a case: how it is declared, what it is handed, how it says no.

A case is a function with the decorator `case`. It is handed a `Context` and ends in one of three ways: it
returns (passed), raises `Skip` with a reason (skipped), or raises anything else (failed). It runs in a process
of its own, in a directory of its own, under a deadline: see `lib/runner.py`.
"""

import json
import os
import random
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VAR = ROOT / "var"
CACHE = VAR / "test-cache"
TOOLS = VAR / "tools"

CASES = {}


class Failed(Exception):
    """What the case set out to show is not so."""


class Skip(Exception):
    """The case cannot run here; the text is the reason."""


class Case:
    """A declared case: its function, its deadline, and whether it can run on a plain directory."""

    def __init__(self, function, timeout_s, peer):
        self.function = function
        self.name = function.__name__
        self.about = (function.__doc__ or "").strip().splitlines()[0]
        self.timeout_s = timeout_s
        self.peer = peer


def case(timeout_s, peer=False):
    """Declares a case. `peer`: it also makes sense on a plain directory (`--on DIR`)."""

    def declare(function):
        if function.__name__ in CASES:
            raise ValueError("two cases are called " + function.__name__)
        CASES[function.__name__] = Case(function, timeout_s, peer)
        return function

    return declare


def check(condition, *why):
    """Fails the case with `why` unless the condition holds."""
    if not condition:
        raise Failed(" ".join(str(part) for part in why))


def eventually(what, predicate, timeout_s=10.0, step_s=0.05):
    """Waits until `predicate` returns something true and returns that; fails after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while True:
        found = predicate()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed("waited %g s in vain: %s" % (timeout_s, what))
        time.sleep(step_s)


class Context:
    """What a case works with: its directory, its options, its random numbers, its figures."""

    def __init__(self, work, quick, seed, on):
        self.work = Path(work)
        self.quick = quick
        self.seed = seed
        self.on = on
        self.random = random.Random(seed)

    def scaled(self, full, quick):
        """A count: `full` normally, `quick` with --quick."""
        return quick if self.quick else full

    def figure(self, name, value, unit):
        """Records a measured number; the runner prints and keeps it."""
        line = {"name": name, "value": round(float(value), 3), "unit": unit}
        with open(self.work / "figures.jsonl", "a") as out:
            out.write(json.dumps(line) + "\n")

    def note(self, *words):
        """A line in the case's log."""
        print("[%s]" % time.strftime("%H:%M:%S"), *words, flush=True)

    def fs(self, **settings):
        """A mounted file system: a cluster of its own with one mount, or a directory below --on DIR."""
        if self.on:
            from lib.peer import PeerFs

            return PeerFs(self)
        from lib.cluster import Cluster

        cluster = Cluster(self, **settings)
        cluster.create()
        cluster.start()
        cluster.mount()
        return cluster


def remember(work, kind, value):
    """Writes down something that must be cleaned up (a pid, a mount point) before it can be forgotten."""
    with open(Path(work) / "cleanup.list", "a") as out:
        out.write("%s %s\n" % (kind, value))
        out.flush()
        os.fsync(out.fileno())
