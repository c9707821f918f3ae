#!/usr/bin/env python3
"""Checks that what the documents name is there: `file::function` in ARCHITECTURE.md, and every relative link.

Prints one line per mistake and, last, `N passed, N failed, 0 skipped`.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def rust_files():
    listed = subprocess.run(["git", "ls-files", "*.rs"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.split()


def check_functions():
    """Yields (what, good) for each `path.rs::function`; a short path may be the end of a longer one."""
    files = rust_files()
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path, function in sorted(set(re.findall(r"`([\w/.-]+\.rs)::(\w+)`", text))):
        found = [f for f in files if f == path or f.endswith("/" + path)]
        good = any(re.search(r"\bfn %s\b" % function, (ROOT / f).read_text()) for f in found)
        yield "ARCHITECTURE.md: %s::%s" % (path, function), good


def check_links():
    for document in sorted(ROOT.glob("*.md")):
        for target in re.findall(r"\]\(([^)#\s]+)\)", document.read_text()):
            if "://" not in target:
                yield "%s: link to %s" % (document.name, target), (ROOT / target).exists()


def main():
    results = list(check_functions()) + list(check_links())
    bad = [what for what, good in results if not good]
    for what in bad:
        print("not there: " + what)
    print("%d passed, %d failed, 0 skipped" % (len(results) - len(bad), len(bad)))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
