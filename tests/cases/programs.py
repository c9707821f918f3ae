"""Proof 2, real programs: a published crate built by cargo on the mount, and git with a long history."""

import os
import shutil

from lib.base import ROOT, case, check
from lib.procs import run
from lib.trees import FSX, crate_source

QUIET_GIT = {
    "GIT_AUTHOR_NAME": "Weft",
    "GIT_AUTHOR_EMAIL": "weft@example.invalid",
    "GIT_COMMITTER_NAME": "Weft",
    "GIT_COMMITTER_EMAIL": "weft@example.invalid",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def _cargo(source, target):
    env = {"CARGO_TARGET_DIR": target, "CARGO_TERM_COLOR": "never"}
    return run(["cargo", "build", "--locked", "--offline"], cwd=source, env=env, timeout_s=500)


@case(timeout_s=600, peer=True)
def cargo_build(ctx):
    """cargo build of a published crate, sources and target directory on the mount; rebuilds only what changed."""
    published = crate_source("fsx", FSX)
    fs = ctx.fs()
    source, target = fs.path / "crate", fs.path / "target"
    shutil.copytree(published, source, symlinks=True)
    with open(source / "Cargo.toml", "a") as out:
        out.write("\n[workspace]\n")  # with --on DIR: no workspace of the folders above
    first = _cargo(source, target)
    ctx.figure("cargo_build.first", first.seconds, "s")
    check("Compiling fsx" in first.out, "cargo did not compile the crate:\n" + first.out)

    again = _cargo(source, target)
    ctx.figure("cargo_build.again", again.seconds, "s")
    check("Compiling" not in again.out, "cargo thinks that something changed:\n" + again.out)

    with open(source / "src" / "main.rs", "a") as main:
        main.write("\n// changed\n")
    changed = _cargo(source, target)
    check(changed.out.count("Compiling") == 1, "one crate changed, cargo compiled:\n" + changed.out)

    version = run([target / "debug" / "fsx", "--version"], timeout_s=30).out
    check(FSX in version, "the program built on the mount says", version)
    scratch = ctx.work / "scratch"
    run([target / "debug" / "fsx", "-N", "200", "-S", "1", scratch], cwd=ctx.work, timeout_s=60)
    run(["rm", "-rf", source, target], timeout_s=120)
    fs.close()


def _git(where, *args, timeout_s=300):
    return run(["git", "-C", where, *args], env=QUIET_GIT, timeout_s=timeout_s).out


def _history(ctx, repository, commits):
    """Commits on several branches, with merges, renames and removals."""
    for number in range(commits):
        folder = repository / ("part%d" % (number % 7))
        folder.mkdir(exist_ok=True)
        lines = ["%d %s\n" % (number, ctx.random.random()) for _ in range(ctx.random.randrange(1, 400))]
        (folder / ("file%d" % (number % 23))).write_text("".join(lines))
        if number % 10 == 9:
            names = _git(repository, "ls-files").split()
            _git(repository, "mv", names[0], names[0] + ".moved%d" % number)
        if number % 25 == 24:
            _git(repository, "rm", "-q", "-f", ctx.random.choice(_git(repository, "ls-files").split()))
        _git(repository, "add", "-A")
        _git(repository, "commit", "-q", "-m", "commit %d" % number)
        if number % 20 == 5:
            _git(repository, "branch", "branch%d" % number)
    _git(repository, "merge", "-q", "-s", "ours", "-m", "merge", "branch5")


@case(timeout_s=600, peer=True)
def git(ctx):
    """git clone, commits, gc and fsck on the mount; everything still there after kill -9 and remount."""
    # The checkout may belong to another user than root, who runs this.
    settings = ctx.work / "gitconfig"
    settings.write_text("[safe]\n\tdirectory = *\n")
    QUIET_GIT["GIT_CONFIG_GLOBAL"] = str(settings)
    fs = ctx.fs()
    clone = fs.path / "clone"
    run(["git", "clone", "-q", "--no-local", ROOT, clone], env=QUIET_GIT, timeout_s=300)
    _git(clone, "fsck", "--full", "--strict")
    check(_git(clone, "rev-parse", "HEAD") == _git(ROOT, "rev-parse", "HEAD"), "the clone has another HEAD")
    check(_git(clone, "status", "--porcelain") == "", "the clone is dirty")

    made = fs.path / "made"
    made.mkdir()
    _git(made, "init", "-q", "-b", "main")
    _git(made, "config", "core.fsync", "all")
    _history(ctx, made, ctx.scaled(200, 40))
    heads = _git(made, "for-each-ref", "--format=%(objectname) %(refname)")
    log = _git(made, "log", "--all", "--stat", "--format=%H %T %s")
    _git(made, "fsck", "--full", "--strict")
    _git(made, "gc", "-q", "--aggressive", "--prune=now")
    _git(made, "fsck", "--full", "--strict")
    os.sync()

    fs.kill()
    fs.start()
    fs.remount()
    _git(made, "fsck", "--full", "--strict")
    check(heads == _git(made, "for-each-ref", "--format=%(objectname) %(refname)"), "branches changed")
    check(log == _git(made, "log", "--all", "--stat", "--format=%H %T %s"), "history changed")
    check(_git(made, "status", "--porcelain") == "", "the work tree is dirty after the restart")
    back = ctx.work / "back"
    run(["git", "clone", "-q", "--no-local", made, back], env=QUIET_GIT, timeout_s=300)
    check(_git(back, "rev-parse", "HEAD") == _git(made, "rev-parse", "HEAD"), "a clone back has another HEAD")
    fs.close()
