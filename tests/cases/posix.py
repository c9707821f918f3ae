"""Proof 4, pjdfstest: at least nine of ten tests that apply to Linux pass; the others stand in a list with a reason."""

import grp
import pwd
import re
import tempfile
from pathlib import Path

from lib.base import ROOT, Failed, case, check
from lib.procs import run
from lib.trees import PJDFSTEST, tool

EXPECTED = ROOT / "tests" / "pjdfstest-expected.txt"
LINE = re.compile(r"^([a-z0-9_:]+)\s+(ok|FAILED|skipped)\s*$", re.M)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CONFIG = """\
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [%s]
"""
LEAST = 0.90


def load_expected():
    """`test: reason` lines: what is known to fail."""
    found = {}
    for line in EXPECTED.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition(": ")
            check(reason.strip(), "no reason in", EXPECTED.name, "for", name)
            found[name.strip()] = reason.strip()
    return found


def _users():
    """Two ordinary users that are on this machine, each with its own group."""
    chosen = []
    for name in ("nobody", "daemon", "bin", "games", "mail"):
        try:
            user = pwd.getpwnam(name)
            chosen.append('["%s", "%s"]' % (name, grp.getgrgid(user.pw_gid).gr_name))
        except KeyError:
            continue
    check(len(chosen) >= 2, "fewer than two of the users nobody, daemon, bin, games, mail are on this machine")
    return ", ".join(chosen[:2])


@case(timeout_s=600, peer=True)
def pjdfstest(ctx):
    """pjdfstest: 90 % of what applies passes, and exactly the listed tests fail."""
    program = tool("pjdfstest", PJDFSTEST)
    config = ctx.work / "pjdfstest.toml"
    config.write_text(CONFIG % _users())
    fs = ctx.fs()
    place = fs.path / "pjdfstest"
    place.mkdir()
    place.chmod(0o755)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as second:
        Path(second).chmod(0o755)
        result = run([program, "-c", config, "-p", place, "-s", second], timeout_s=550, ok=None, cwd=ctx.work)
    out = COLOUR.sub("", result.out)
    (ctx.work / "pjdfstest.txt").write_text(out)
    tests = LINE.findall(out)
    check(len(tests) > 200, "pjdfstest ran only", len(tests), "tests:\n" + out[-2000:])
    check("total" in out.strip().splitlines()[-1] or "failed" in out, "no summary:\n" + out[-500:])
    names = {word: {name for name, verdict in tests if verdict == word} for word in ("ok", "FAILED", "skipped")}
    applies = len(names["ok"]) + len(names["FAILED"])
    ctx.figure("pjdfstest.passed", len(names["ok"]), "tests")
    ctx.figure("pjdfstest.failed", len(names["FAILED"]), "tests")
    ctx.figure("pjdfstest.not_linux", len(names["skipped"]), "tests")
    ctx.figure("pjdfstest.share", 100.0 * len(names["ok"]) / applies, "%")
    for line in re.findall(r"(?m)^\S+\s+FAILED\n(?:\t.*\n)?", out):
        ctx.note(line.strip())
    check(len(names["ok"]) >= LEAST * applies, "only", len(names["ok"]), "of", applies, "pass")
    if fs.is_peer:
        fs.close()
        return
    expected = load_expected()
    surprises = ["fails unexpectedly: " + name for name in sorted(names["FAILED"] - set(expected))]
    surprises += ["passes, but is listed as failing: " + name for name in sorted(names["ok"] & set(expected))]
    surprises += ["is listed and is no test: " + name for name in sorted(set(expected) - {name for name, _ in tests})]
    if surprises:
        raise Failed("%d surprises\n%s" % (len(surprises), "\n".join(surprises)))
    fs.close()
