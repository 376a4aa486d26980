"""A command whose output is complete already ends well and touches nothing: jobs are started again after their commit.

Usage: test_complete.py WARPMERGE MAKE_CHECKPOINT
Merges, ranks, parts, statistics and finish, repeated after the commit; and what must still be refused: another recipe,
changed options, inputs that were exchanged since, an output that is not whole.
"""

import json
import os
import shutil
import subprocess
import sys

from team import (PROGRAM, SMALL, all_well, check, checkpoints, contains, end, end_all, equal, one, partial_of, recipe,
                  same, start, start_ranks, tests)

ALREADY = "is already complete"


def run(*arguments, code=0):
    """(standard output, standard error)"""
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=180,
                          env={"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent"})
    equal(done.returncode, code, f"{arguments}:\n{done.stdout}{done.stderr}\n")
    return done.stdout, done.stderr


def traces(out):
    """Everything that a write would change: names, sizes, times, beside the output too."""
    paths = [out.parent, out, *sorted(out.iterdir())]
    return [(str(p), s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for p in paths for s in [p.stat()]]


def test_every_command_again(folder):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    for method in ("linear", "ties_global"):
        config = recipe(method, models)
        one(config, out)
        before = traces(out)
        for command in (["merge", config, out], ["merge", config, f"{out}/"], ["merge", config, out, "--part", "1/3"],
                        ["stats", config, out], ["finish", out], ["finish", out]):
            contains(run(*command)[0], ALREADY)
            equal(traces(out), before, f"traces of {command}")
        text = run("merge", config, out, "--json")[0]
        equal((json.loads(text)["ok"], json.loads(text)["already_complete"]), (True, True))
        contains(run("plan", config, out)[1], ALREADY)
        all_well(end_all(start_ranks(config, out, 3)))
        equal(traces(out), before, "traces of ranks")
        same(out, method, models)
        shutil.rmtree(out)


def test_parts_again(folder):
    """A pod of a part comes back after finish, and finish itself is lost after the rename."""
    models, out = checkpoints(SMALL, "small"), folder / "out"
    config = recipe("linear", models)
    for k in range(2):
        run("merge", config, out, "--part", f"{k}/2")
    run("finish", out)
    before = traces(out)
    contains(run("finish", out)[0], ALREADY)
    contains(run("merge", config, out, "--part", "0/2")[0], ALREADY)
    equal(traces(out), before)
    same(out, "linear", models)


def test_another_merge_is_refused(folder):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    other = folder / "other.yml"
    other.write_text(recipe("linear", models).read_text().replace("0.6", "0.5"))
    one(recipe("linear", models), out)
    before = traces(out)
    for command in (["merge", other, out], ["merge", recipe("ties", models), out],
                    ["merge", recipe("linear", models), out, "--seed", "1"],
                    ["merge", recipe("linear", models), out, "--out-shard-size", "9000000"],
                    ["merge", other, out, "--part", "0/2"], ["stats", recipe("ties_global", models), out]):
        contains(run(*command, code=73)[1], "is not empty")
    equal(traces(out), before)


def test_exchanged_inputs_are_refused(folder):
    """Same names, sizes and modification times: the change time tells."""
    models, out = folder / "models", folder / "out"
    shutil.copytree(checkpoints(SMALL, "small"), models)
    config = folder / "linear.yml"
    config.write_text(recipe("linear", checkpoints(SMALL, "small")).read_text().replace(
        str(checkpoints(SMALL, "small")), str(models)))
    one(config, out)
    contains(run("merge", config, out)[0], ALREADY)
    shard = models / "ft1" / "model.safetensors"
    times = shard.stat()
    with open(shard, "r+b") as f:
        f.seek(times.st_size - 1)
        f.write(b"\x7f")
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    contains(run("merge", config, out, code=73)[1], "is not empty")


def test_what_is_not_whole_is_refused(folder):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    config = recipe("linear", models)
    for spoil in (lambda: os.truncate(out / "model.safetensors", 4096),
                  lambda: (out / "model.safetensors").unlink(),
                  lambda: (out / "warpmerge-manifest.json").unlink(),
                  lambda: (out / "warpmerge-manifest.json").write_text("{}"),
                  lambda: os.truncate(out / "warpmerge-manifest.json", 1000)):
        one(config, out)
        spoil()
        contains(run("merge", config, out, code=73)[1], "is not empty")
        contains(run("finish", out, code=66)[1], "there is nothing to finish")
        shutil.rmtree(out)


def test_finish_goes_on_where_parts_lie(folder):
    """An older output under the same name is no answer while a newer merge waits to be finished."""
    models, out = checkpoints(SMALL, "small"), folder / "out"
    one(recipe("linear", models), out)
    for k in range(2):
        run("merge", recipe("ties", models), out, "--part", f"{k}/2", "--overwrite")
    run("finish", out)
    same(out, "ties", models)
    check(not partial_of(out).exists(), "something is left")


def test_overwrite_means_it(folder):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    config = recipe("linear", models)
    one(config, out)
    before = traces(out)
    code, text = end(start("merge", config, out, "--overwrite"))
    equal(code, 0, text)
    check(ALREADY not in text and traces(out) != before, "--overwrite did not merge again:", text)
    same(out, "linear", models)


if __name__ == "__main__":
    tests(sys.modules[__name__])
