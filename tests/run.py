#!/usr/bin/env python3
"""System tests of Weft: real server, real /dev/fuse, real programs, kill -9.

    tests/run.py [NAME...] [--quick] [--list] [--keep] [--on DIR] [--seed N]

NAME is a case or a module of tests/cases (all when none is given). Needs root, /dev/fuse and the built programs
(target/release, or the folder in WEFT_BIN). With --on DIR the cases that make sense on any file system run in that
directory instead of on a mount: that shows that the cases are right. Each case has a cluster of its own under
var/test-NAME-XXXX; it stays there when the case fails, or with --keep. Prints a line for each case, a line
`FIGURE name value unit` for each measured number (all in var/test-figures.json), and as the last line
`N passed, N failed, N skipped`. Exit code 0 when something passed and nothing failed.
"""

import argparse
import importlib
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib.base import CASES, ROOT  # noqa: E402
from lib.runner import Runner  # noqa: E402
from lib.trees import FSX, PJDFSTEST, crate_source, dependency_closure, tool  # noqa: E402

MODULES = [
    "lifecycle",
    "metrics",
    "trace",
    "transport",
    "sockets",
    "calls",
    "takeover",
    "coherence",
    "config",
    "trees",
    "programs",
    "database",
    "verify_fio",
    "verify_fsx",
    "copies",
    "posix",
    "locks",
    "stress",
    "many",
    "hostile",
    "memory",
    "cached",
    "damage",
    "rot",
    "full",
    "devices",
    "updown",
    "guest",
    "figures",
]


def load(names):
    """Imports the modules and returns the cases meant, in order."""
    chosen = []
    for module in MODULES:
        before = set(CASES)
        importlib.import_module("cases." + module)
        new = [CASES[name] for name in CASES if name not in before]
        chosen += [case for case in new if not names or case.name in names or module in names]
    unknown = set(names) - set(CASES) - set(MODULES)
    if unknown:
        sys.exit("no such case or module: %s (see --list)" % ", ".join(sorted(unknown)))
    return chosen


def prepare(chosen):
    """Builds the guests' image and the published tools that some cases use, once, before any deadline runs."""
    if any(case.name.startswith("vm_") for case in chosen):
        subprocess.run([os.path.join(ROOT, "packaging", "vm", "build.sh")], stdout=subprocess.DEVNULL)
    if not {"trees", "git", "cargo_build", "fsx", "fsx_kill", "pjdfstest"} & {case.name for case in chosen}:
        return
    begin = time.monotonic()
    for name, version in (("fsx", FSX), ("pjdfstest", PJDFSTEST)):
        tool(name, version)
        crate_source(name, version)
    dependency_closure()
    print("prepared in %.1f s" % (time.monotonic() - begin), flush=True)


def main():
    """Parses the command line and runs."""
    # What a shell runs in the background ignores SIGINT, and would pass that on to the programs that cases interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="the same cases with less work each")
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    parser.add_argument("--keep", action="store_true", help="keep every case's directory")
    parser.add_argument("--on", metavar="DIR", help="run in this directory, without Weft")
    parser.add_argument("--seed", type=int, default=20261121, help="seed of the random numbers (default %(default)s)")
    args = parser.parse_args()
    chosen = load(args.names)
    if args.list:
        for case in chosen:
            print("%-28s %s%s" % (case.name, case.about, "  [also --on DIR]" if case.peer else ""))
        return 0
    if os.geteuid() != 0:
        sys.exit("tests/run.py mounts file systems: run it as root")
    if not args.on and not os.path.exists("/dev/fuse"):
        sys.exit("/dev/fuse is not there: load the module fuse, or give the container the device")
    prepare(chosen)
    runner = Runner(args.quick, args.keep, args.seed, os.path.abspath(args.on) if args.on else None)
    try:
        for case in chosen:
            runner.run(case)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        runner.counts["failed"] += 1
    return runner.finish()


if __name__ == "__main__":
    sys.exit(main())
