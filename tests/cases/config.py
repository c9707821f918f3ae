"""Proof 5, the config: every key misspelt in turn, wrong values, missing keys: an error that says what to write."""

import re

from lib.base import case, check
from lib.cluster import Cluster, program
from lib.procs import run

KEY = re.compile(r"(?m)(?:^|[{,])[ \t]*([a-z][a-z0-9_]*)[ \t]*=")
SECTION = re.compile(r"(?m)^\[+([a-z][a-z0-9_.]*)\]+")


def _misspell(word):
    """The word with a letter lost in its middle, or doubled when it is short."""
    middle = len(word) // 2
    return word[:middle] + word[middle + 1 :] if len(word) > 3 else word + word[-1]


def _check_config(fs, text):
    path = fs.dir / "bad.toml"
    path.write_text(text)
    result = run([program("weft-server"), "--config", path, "--check-config"], timeout_s=20, ok=None)
    check(result.code >= 0 and result.code != 101, "--check-config died with", result.code, "\n" + result.out)
    check("panicked" not in result.out, result.out)
    return result


@case(timeout_s=120)
def config_misspelt(ctx):
    """Every key and section of the config misspelt in turn: refused, and the right name is said."""
    fs = Cluster(ctx, target_bytes=256 << 20)
    fs.create()
    good = fs.config.read_text()
    check(_check_config(fs, good).code == 0, "the generated config is not accepted")
    lines = [line for line in good.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    check(len(lines) <= 15, "the config has", len(lines), "lines")
    count = 0
    for pattern in (KEY, SECTION):
        for found in pattern.finditer(good):
            word = found.group(1).split(".")[-1]
            begin = found.end(1) - len(word)
            text = good[:begin] + _misspell(word) + good[begin + len(word) :]
            result = _check_config(fs, text)
            check(result.code != 0, _misspell(word), "for", word, "was accepted:\n" + text)
            check(_misspell(word) in result.out, "the error does not name", _misspell(word) + ":", result.out)
            check(re.search(r"\b%s\b" % re.escape(word), result.out), "the error does not name", word + ":", result.out)
            count += 1
    check(count >= 4, "found only", count, "keys in\n" + good)
    ctx.figure("config.keys", count, "keys")


@case(timeout_s=120)
def config_wrong(ctx):
    """Wrong values, lines lost, an empty and a binary config: refused with words, never a panic."""
    fs = Cluster(ctx, target_bytes=256 << 20)
    fs.create()
    good = fs.config.read_text()
    for text in ("", "weft", "= 1", "[[[", "\0\1\2", "listen = 5\n", good + good):
        result = _check_config(fs, text)
        check(result.code != 0 and result.out.strip(), "accepted:\n" + text)
    for found in KEY.finditer(good):
        text = good[: found.end()] + " -1.5e99" + good[good.find("\n", found.end()) :]
        result = _check_config(fs, text)
        check(result.code != 0, "accepted:\n" + text)
        check(result.out.strip(), "refused without a word:\n" + text)
    missing = run([program("weft-server"), "--config", fs.dir / "nosuch.toml"], timeout_s=20, ok=None)
    check(missing.code > 0 and "nosuch.toml" in missing.out, "missing config:", missing.out)
    fs.config.write_text(good)
    fs.start()
    taken = run([program("weft-server"), "--config", fs.config], timeout_s=30, ok=None)
    check(taken.code > 0 and taken.out.strip(), "a second server on the same files and port:", taken.code, taken.out)
    fs.check_server()
    fs.close()
