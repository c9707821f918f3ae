#!/usr/bin/env python3
"""Every test there is, in the order in which a fault is found soonest: `make test` and CI.

    tests/all.py [--quick] [--only STEP...]

Steps: format, docs (what they name is there), lints, unit (cargo test: the dev profile, so that debug assertions are on), build (release), sim
(the simulator: kept seeds and 2,000 others, one test each), planted (bugs planted in the cores, each to be found by
the simulator), system (tests/run.py), classic (quick cases once more, mounted without io_uring, as on older kernels).
Formatting, lints and the build count as one test each. A step that fails does not keep the others
from running, except that nothing runs on a build that failed. The last line is `N passed, N failed, N skipped`;
exit code 0 when nothing failed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CARGO_RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.M)
SYSTEM_RESULT = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.M)
SIM_RESULT = re.compile(r"^(\d+) seeds, .* (\d+) failed$", re.M)
PLANTED_RESULT = re.compile(r"^(\d+) planted bugs found, (\d+) not found, (\d+) skipped$", re.M)
# Seeds of the simulator in each run, besides those that found something once.
SIM_SEEDS = {"store": 2000, "cluster": 400}
# What depends on how requests come from the kernel.
ON_CLASSIC = ["lifecycle", "trees", "verify_fio", "verify_fsx", "posix"]


def stream(args):
    """Runs a command in the checkout, passing its output through; (exit code, output)."""
    print("== " + " ".join(args), flush=True)
    child = subprocess.Popen(args, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines = []
    for line in child.stdout:
        lines.append(line)
        sys.stdout.write(line)
        sys.stdout.flush()
    return child.wait(), "".join(lines)


def single(args):
    """A step that is one test: (passed, failed, skipped)."""
    code, _ = stream(args)
    return (1, 0, 0) if code == 0 else (0, 1, 0)


def counted(args, pattern):
    """A step that reports counts. An exit code that the counts do not explain is a failure too."""
    code, out = stream(args)
    passed, failed, skipped = 0, 0, 0
    for found in pattern.finditer(out):
        passed, failed, skipped = (a + int(b) for a, b in zip((passed, failed, skipped), found.groups()))
    if code != 0 and failed == 0 or passed == 0:
        failed += 1
    return passed, failed, skipped


def simulated():
    """Seeds of the simulator's worlds: each seed is a test."""
    program = os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release", "weft-sim")
    all_seeds = all_failed = 0
    for world, wanted in SIM_SEEDS.items():
        code, out = stream([program, world, "--kept", "--seeds", str(wanted)])
        found = SIM_RESULT.findall(out)
        seeds, failed = (sum(int(result[at]) for result in found) for at in (0, 1))
        if code != 0 and failed == 0 or seeds < wanted:
            failed += 1
        all_seeds += seeds
        all_failed += failed
    return all_seeds - all_failed, all_failed, 0


def main():
    """Runs the steps and adds up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="system tests with less work each")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="only these steps")
    args = parser.parse_args()
    quick = ["--quick"] if args.quick else []
    steps = {
        "format": lambda: single(["cargo", "fmt", "--check"]),
        "docs": lambda: counted([sys.executable, os.path.join("tests", "docs.py")], SYSTEM_RESULT),
        "lints": lambda: single(["cargo", "clippy", "-q", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]),
        "unit": lambda: counted(["cargo", "test", "-q", "--workspace", "--locked", "--no-fail-fast"], CARGO_RESULT),
        "build": lambda: single(["cargo", "build", "-q", "--release", "--locked"]),
        "sim": simulated,
        "planted": lambda: counted(
            ["cargo", "run", "-q", "--release", "--locked", "-p", "weft-sim", "--features", "planted", "--", "planted"], PLANTED_RESULT
        ),
        "system": lambda: counted([sys.executable, os.path.join("tests", "run.py"), *quick], SYSTEM_RESULT),
        "classic": lambda: counted(
            ["env", "WEFT_TEST_TRANSPORT=classic", sys.executable, os.path.join("tests", "run.py"), "--quick", *ON_CLASSIC], SYSTEM_RESULT
        ),
    }
    unknown = set(args.only or []) - set(steps)
    if unknown:
        sys.exit("no such step: %s; there are %s" % (", ".join(sorted(unknown)), ", ".join(steps)))
    if not shutil.which("cargo"):
        os.environ["PATH"] = os.path.expanduser("~/.cargo/bin") + os.pathsep + os.environ["PATH"]
    total = [0, 0, 0]
    summary = []
    for name, step in steps.items():
        if args.only and name not in args.only:
            continue
        begin = time.monotonic()
        counts = step()
        total = [a + b for a, b in zip(total, counts)]
        summary.append("%-8s %6.0f s  %d passed, %d failed, %d skipped." % (name, time.monotonic() - begin, *counts))
        if name == "build" and counts[1]:
            summary.append("system   not run: the build failed.")
            break
    print("\n" + "\n".join(summary))
    print("%d passed, %d failed, %d skipped" % tuple(total), flush=True)
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
