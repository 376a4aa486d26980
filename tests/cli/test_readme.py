#!/usr/bin/env python3
"""README.md is true: its program compiles and merges, its options, verbs, methods and exit codes exist.

usage: test_readme.py WARPMERGE LIBRARY_FOLDER CC
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from harness import MERGED, check, contains, equal, floats, read_safetensors, run, run_tests, write_pair

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
LIBRARY, CC = sys.argv[2:4]


def test_program(folder):
    (source,) = re.findall(r"```c\n(.*?)```", README, re.S)
    (folder / "merge.c").write_text(source)
    subprocess.run([CC, "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/include", "merge.c", "-o", "merge",
                    f"-L{LIBRARY}", "-lwarpmerge", f"-Wl,-rpath,{LIBRARY}"], cwd=folder, check=True)
    write_pair(folder)
    r = subprocess.run(["./merge", "linear.yml", "out"], cwd=folder, capture_output=True, text=True)
    equal(r.returncode, 0, r.stderr)
    contains(r.stderr, "256 of 256 bytes")
    for _, _, blob in read_safetensors(folder / "out/model.safetensors").values():
        equal(floats(blob), MERGED * 8)
    r = subprocess.run(["./merge", "nothing.yml", "out"], cwd=folder, capture_output=True, text=True)
    equal(r.returncode, 66)
    contains(r.stderr, "nothing.yml")


def test_options_exist(_):
    known = run("help", "merge").stdout + run("--help").stdout
    for option in set(re.findall(r"`(?:warpmerge )?(--[a-z-]+)", README)):
        contains(known, option.removeprefix("--"))


def test_exit_codes(_):
    told = run("--help").stdout
    for code, meaning in re.findall(r"^\| (\d+) \| ([^|]+) \|", README, re.M):
        contains(told, f"{code} {meaning.strip()}")


def test_methods(_):
    (row,) = re.findall(r"^\| methods \|[^|]*\| ([^|]*) \|", README, re.M)
    equal(row.split(", "), [m["name"] for m in json.loads(run("methods", "--json").stdout)["methods"]])


def test_paths_exist(_):
    for path in set(re.findall(r"`((?:host|kernels|include|bench|tests|docker)/[\w./-]*)`", README)):
        check((ROOT / path.rstrip("/")).exists(), path)
    for path in re.findall(r"\]\((?!http)([^)]+)\)", README):
        check((ROOT / path).exists(), path)


run_tests(sys.modules[__name__])
