#!/usr/bin/env python3
"""Holds: `warpmerge stats` finds thresholds, says them as text and as JSON, and the merge after it reads nothing twice."""

import json
import sys
from pathlib import Path

from harness import check, contains, equal, run, run_tests

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CASE = "cases/a_3_densities.yml"


def stats(folder, *more, case=CASE):
    return run("stats", case, folder / "out", *more, cwd=GOLDEN / "ties_global")


def test_text(folder):
    r = stats(folder)
    equal(r.returncode, 0, r.stderr)
    lines = r.stdout.splitlines()
    equal(len(lines), 5, r.stdout)
    contains(lines[1], "models/a/ft1: density 0.1 keeps")
    contains(lines[3], "density 1 keeps 3904 of 3904 elements, |delta| from 0 on")
    contains(lines[4], "majority: plus")
    again = stats(folder)
    contains(again.stdout, "known from an earlier run")
    equal(again.stdout.splitlines()[1:], lines[1:])
    check(not (folder / "out").exists(), "OUT appears with the merge alone")


def test_json(folder):
    first = json.loads(stats(folder, "--json").stdout)
    again = json.loads(stats(folder, "--json").stdout)
    equal((first["was_known"], again["was_known"]), (False, True))
    equal(again["bytes_read"], 0)
    equal(first["passes"], 3)
    for key in ("models", "n_plus", "n_minus", "n_cancelled", "majority"):
        equal(first[key], again[key])
    equal([m["density"] for m in first["models"]], [0.1, 0.9, 1.0])
    for model in first["models"]:
        # At least 1 + int(density N) of them: all that equal the threshold stay.
        check(model["n_elems"] >= model["n_kept"] >= int(model["density"] * model["n_elems"]), model)
    equal(first["n_cancelled"], 208)  # as the generator of the golden cases printed


def test_merge_goes_on(folder):
    equal(stats(folder).returncode, 0)
    r = run("merge", CASE, folder / "out", "--json", cwd=GOLDEN / "ties_global")
    equal(r.returncode, 0, r.stderr)
    plan = json.loads(run("plan", CASE, "--json", cwd=GOLDEN / "ties_global").stdout)
    equal(plan["survey_passes"], 3)
    equal(json.loads(r.stdout)["bytes_read"], plan["bytes_in"])
    equal(sorted(p.name for p in folder.iterdir()), ["out"])


def test_nothing_to_find(folder):
    r = run("stats", "cases/ties_2_d0.5.yml", folder / "out", cwd=GOLDEN)
    equal(r.returncode, 0, r.stderr)
    contains(r.stdout, "nothing to find")
    equal(list(folder.iterdir()), [])


def test_wrong(folder):
    equal(run("stats", CASE, cwd=GOLDEN / "ties_global").returncode, 2)
    equal(run("stats", "none.yml", folder / "out", cwd=folder).returncode, 66)


run_tests(sys.modules[__name__])
