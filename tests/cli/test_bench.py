#!/usr/bin/env python3
"""`warpmerge bench` measures: valid JSON with positive numbers, tables, a plot that is XML, and nothing left behind.

usage: test_bench.py WARPMERGE none|asan|tsan   (with a sanitizer only a few kernels: the numbers mean nothing there)
"""

import csv
import json
import math
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

from harness import check, contains, equal, run, run_tests

SANITIZED = sys.argv[2:] not in ([], ["none"])
KERNELS = ["--only", "slerp"] if SANITIZED else []


def positive(value, *what):
    check(isinstance(value, (int, float)) and math.isfinite(value) and value > 0, *what, value)


def test_everything(folder):
    (folder / "disk").mkdir()
    r = run("bench", "--quick", "--device", "cpu", "--json", "--dir", folder / "disk", "--csv", folder / "b.csv", "--svg",
            folder / "b.svg", *KERNELS)
    equal(r.returncode, 0, r.stderr)
    equal(r.stderr, "")
    equal(list((folder / "disk").iterdir()), [])
    j = json.loads(r.stdout)
    equal(j["schema"], "warpmerge-bench")
    equal((j["gpu"], j["quick"], j["device_index"]), (False, True, None))
    equal(j["complete"], True)
    for key in ("seconds", "copy_bytes_per_second", "peak_operations_per_second", "n_threads"):
        positive(j[key], key)
    ceilings = {c["id"]: c["bytes_per_second"] for c in j["ceilings"]}
    for name in ("storage_write", "storage_read", "storage_read_cached", "host_copy"):
        positive(ceilings[name], name)
    equal(ceilings["host_copy"], j["copy_bytes_per_second"])
    for row in j["kernels"]:
        for key in ("bytes", "operations", "n_elems", "tensor_bytes", "copy_share"):
            positive(row[key], row["kernel"], row["part"], key)
        positive(row["cold"]["seconds"], row["kernel"], row["part"])
        check(row["cold"]["n_samples"] >= 3, row)
        check(row["cold"]["fastest_seconds"] <= row["cold"]["seconds"], row)
        check(row["bound"] in ("memory", "compute"), row)
        equal(row["batch"] is not None, row["part"] not in ("whole", "group"), row)
        if row["batch"]:
            positive(row["batch"]["seconds"], row["kernel"], row["part"])
    parts = {(row["kernel"].split(",")[0], row["part"]) for row in j["kernels"]}
    for wanted in [("slerp", "gram"), ("slerp", "combine"), ("slerp", "whole")]:
        check(wanted in parts, wanted)
    if not SANITIZED:
        for wanted in [("linear", "combine"), ("ties", "kth coarse"), ("ties", "whole"), ("dare_ties", "l1")]:
            check(wanted in parts, wanted)
        equal({row["n_models"] for row in j["kernels"] if row["kernel"].startswith("ties")}, {2, 3, 8, 16})
        kernels = {(row["kernel"], row["part"]) for row in j["kernels"]}
        for wanted in [("ties, 3 models, density 0.5, guess", "kth guess"), ("ties, 3 models, 0.5, l1 rescale", "l1"),
                       ("nuslerp, 2 models, base, rows", "gram"), ("nuslerp, 2 models, base, columns", "gram"),
                       ("mergealign, 2 models", "combine"), ("linear, 4 models", "combine"),
                       ("ties, 3 models, trim global", "model coarse"), ("ties, 3 models, trim global", "model fine"),
                       ("ties, 3 models, trim global", "model signs"), ("ties, 3 models, trim global", "whole"),
                       ("ties, 3 models, trim global, mixed", "model signs"),
                       ("ties, 3 models, mixed types", "whole"), ("ties, 3 models, density 0.5, x 256", "group")]:
            check(wanted in kernels, wanted)
        # Mixed: a base in F32, then BF16, F16 and F32; and the BF16 that is written.
        [row] = [r for r in j["kernels"] if (r["kernel"], r["part"]) == ("ties, 3 models, mixed types", "combine")]
        equal(row["bytes"], row["n_elems"] * (4 + 2 + 2 + 4 + 2))
        # What elects signs reads a base and three models and writes nothing: a difference, a mask, a weight and a sum for each
        # model, and two comparisons.
        for name, width in ("ties, 3 models, trim global", 4 * 2), ("ties, 3 models, trim global, mixed", 4 + 2 + 2 + 4):
            for row in (r for r in j["kernels"] if (r["kernel"], r["part"]) == (name, "model signs")):
                equal((row["bytes"], row["operations"]), (row["n_elems"] * width, row["n_elems"] * 14), row)
        [row] = [r for r in j["kernels"] if r["kernel"] == "linear, 3 models, x 256"]
        equal((row["n_tensors"], row["tensor_bytes"], row["bytes"]), (256, 4096, 256 * 4 * 4096))
        # A tensor of 4 KiB and a linear merge of three: what has to move is three inputs and one output.
        [row] = [r for r in j["kernels"] if r["kernel"] == "linear, 3 models" and r["tensor_bytes"] == 4096]
        equal((row["bytes"], row["operations"], row["n_elems"]), (4 * 4096, 6 * 2048, 2048))
    rows = list(csv.DictReader((folder / "b.csv").read_text().splitlines()))
    equal(len(rows), len(j["kernels"]))
    equal([float(row["cold_seconds"]) for row in rows], [row["cold"]["seconds"] for row in j["kernels"]])
    plot = ElementTree.parse(folder / "b.svg").getroot()
    equal(plot.tag, "{http://www.w3.org/2000/svg}svg")
    n_points = sum(1 for _ in plot.iter("{http://www.w3.org/2000/svg}title"))
    equal(n_points, sum(row["part"] not in ("whole", "kth cut") for row in j["kernels"]))
    for e in plot.iter():
        for name in ("x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r"):
            check(math.isfinite(float(e.get(name, "0"))), e.tag, e.attrib)


def test_text(_):
    r = run("bench", "--quick", "--device", "cpu", "--only", "passthrough", "--threads", "1")
    equal(r.returncode, 0, r.stderr)
    contains(r.stdout, "ceilings", "host memory, copy", "not measured", "passthrough", "4.00 KiB", "% copy", "1 threads")
    check("linear" not in r.stdout, r.stdout)


def test_stopped(folder):
    """What was measured until SIGTERM is said, as valid JSON that says that it is not all."""
    process = subprocess.Popen([sys.argv[1], "bench", "--quick", "--device", "cpu", "--json", "--csv", folder / "b.csv"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    equal(process.returncode, 143, err)
    j = json.loads(out)
    equal(j["complete"], False)
    positive(j["seconds"])
    check((folder / "b.csv").read_text().startswith("kernel,"))


def test_refusals(folder):
    r = run("bench", "--quick", "--dir", folder / "nowhere")
    equal(r.returncode, 66)
    contains(r.stderr, "nowhere", "folder")
    equal(run("bench", "--dir").returncode, 2)
    equal(run("bench", "something").returncode, 2)
    equal(run("bench", "--quick", "--device", "cpu", "--only", "slerp", "--svg", folder / "no" / "b.svg").returncode, 73)


run_tests(sys.modules[__name__])
