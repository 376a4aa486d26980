#!/usr/bin/env python3
"""The model of run time adds up as it says: round numbers whose answer is known by heart, real plans and benches read, and
no rate without the word measured, given or assumed."""

import json
import subprocess
import sys
from pathlib import Path

from harness import check, contains, equal, run, run_tests, write_pair

MODEL = Path(__file__).resolve().parents[2] / "bench/model_run_time.py"
# 400 GB in and 100 GB out on 8 GPUs, the fullest with 1.1 of the mean: 55 GB in, 13.75 GB out.
ROUND = ["--bytes-in", "400e9", "--bytes-out", "100e9", "--elements", "50e9", "--gpus", "8", "--balance", "1.1", "--shards",
         "10", "--storage-read", "40", "--storage-write", "20", "--host-memory", "100", "--page-cache", "50", "--h2d", "50",
         "--d2h", "25", "--device-copy", "1000", "--kernel-share", "0.5", "--start-seconds", "1", "--flush-seconds", "0.5"]
BENCH = {"schema": "warpmerge-bench", "gpu": False, "device": "toy processor", "ceilings": [
    {"id": "storage_read", "bytes_per_second": 1e9}, {"id": "storage_read_direct", "bytes_per_second": 2e9},
    {"id": "storage_write", "bytes_per_second": 1e9}, {"id": "storage_read_cached", "bytes_per_second": 10e9},
    {"id": "host_copy", "bytes_per_second": 20e9}],
    "kernels": [{"kernel": kernel, "part": part, "dtype": dtype, "n_models": n_models, "n_elems": n_elems,
                 "cold": {"seconds": n_elems * ns * 1e-9}, "batch": None}
                for kernel, part, dtype, n_models, n_elems, ns in [
                    ("ties, 2 models, density 0.5", "whole", "BF16", 2, 1000, 9),
                    ("ties, 2 models, density 0.5", "whole", "BF16", 2, 4000, 2),
                    ("ties, 2 models, density 0.5", "combine", "BF16", 2, 9000, 5),
                    ("ties, 2 models, density 0.5", "whole", "F32", 2, 4000, 7),
                    ("ties, 2 models, density 0.2", "whole", "BF16", 2, 4000, 8),
                    ("dare_ties, 2 models, density 0.5", "whole", "BF16", 2, 4000, 6),
                    ("ties, 3 models, density 0.5", "whole", "BF16", 3, 4000, 3)]]}


def model(*arguments, code=0):
    r = subprocess.run([sys.executable, str(MODEL), *map(str, arguments)], capture_output=True, text=True, timeout=60)
    equal(r.returncode, code, r.stdout, r.stderr)
    return r.stdout if code == 0 else r.stderr


def seconds(*arguments):
    """Stages and the rest, rounded far below any digit that is shown."""
    result = json.loads(model(*arguments, "--json"))
    return ({name: round(s, 9) for name, s in result["stages"].items()}, result["binding"], result["start"], result["flush"],
            round(result["seconds"], 9), {name: f["kind"] for name, f in result["figures"].items()})


def test_round_numbers(_):
    stages, binding, start, flush, total, kinds = seconds(*ROUND)
    equal(stages, {"storage": 10 + 5, "host memory": (2 * 400 + 3 * 100) / 100, "upload": 55 / 50,
                   "kernels": round((4 * 55 + 2 * 13.75) / 500, 9), "download": 13.75 / 25})
    equal((binding, start, flush, total), ("storage", 1, 5, 21))
    equal(set(kinds.values()), {"given"})
    equal(seconds(*ROUND, "--method", "linear")[0]["kernels"], round((2 * 55 + 2 * 13.75) / 500, 9))
    equal(seconds(*ROUND, "--touches", "10")[0]["kernels"], round((11 * 55 + 2 * 13.75) / 500, 9))


def test_what_overlaps(_):
    stages, binding, _, _, total, _ = seconds(*ROUND, "--separate-arrays")
    equal((stages["storage read"], stages["storage write"], "storage" in stages), (10, 5, False))
    equal((binding, total), ("host memory", 11 + 6))
    stages, binding, _, _, total, _ = seconds(*ROUND, "--cached")
    equal((stages["storage"], stages["page cache"], stages["host memory"]), (5, 8, 19))
    equal((binding, total), ("host memory", 19 + 6))
    equal(seconds(*ROUND, "--gpus-per-node", "4")[0]["host memory"], 5.5)  # two nodes
    equal(seconds(*ROUND, "--gpus-per-node", "3")[0]["host memory"], round(11 / 3, 9))


def test_bench_on_processors(folder):
    (folder / "bench.json").write_text(json.dumps(BENCH))
    arguments = ["--bench", folder / "bench.json", "--cpu", "--bytes-in", "12e9", "--bytes-out", "4e9", "--elements", "2e9",
                 "--gpus", "1", "--shards", "1"]
    stages, binding, _, _, _, kinds = seconds(*arguments)
    equal(stages, {"storage": 6 + 4, "host memory": (24 + 12) / 20, "processors": 4})
    equal(binding, "storage")
    equal((kinds["storage_read"], kinds["elem"], kinds["start_seconds"]), ("measured", "measured", "assumed"))
    stages, binding, _, _, _, _ = seconds(*arguments, "--cached", "--storage-write", "4")
    equal(stages, {"storage": 1, "host memory": 3, "processors": 4 + 1.2})
    equal(binding, "processors")
    equal(seconds(*arguments, "--models", "3")[0]["processors"], 6)
    equal(seconds(*arguments, "--dtype", "F32")[0]["processors"], 14)
    contains(model(*arguments, "--models", "7", code=1), "ties of 7 models")
    # without --cpu its processors are nothing to a GPU
    equal(seconds(*arguments[:2], *arguments[3:])[5].get("elem"), None)


def test_bench_on_a_gpu(folder):
    (folder / "bench.json").write_text(json.dumps({**BENCH, "gpu": True}))
    stages, _, _, _, _, kinds = seconds(*ROUND, "--bench", folder / "bench.json")
    equal((stages["kernels"], kinds["elem"]), (round(50 * 1.1 / 8 * 2, 9), "measured"))


def test_every_rate_says_whence(_):
    text = model()
    check(text.startswith("Modelled, not measured: "), text)
    contains(text, "45 GB/s assumed, 24 GB/s assumed", "| **storage** |", "Bound by storage")
    check("measured" not in text.split("\n", 1)[1], text)
    contains(model("--h2d", "12.5", "--measured-seconds", "100"), "12.5 GB/s given", "A run took 100.00 s")


def test_real_plans(folder):
    write_pair(folder)
    (folder / "plan.json").write_text(run("plan", "linear.yml", "--ranks", "2", "--json", cwd=folder).stdout)
    contains(model("--plan", folder / "plan.json"), "linear of 2 models", "2 ranks", "1 shards")
    share = max(s["bytes_read"] for s in json.loads((folder / "plan.json").read_text())["ranks"]["shares"])
    equal(seconds("--plan", folder / "plan.json", "--h2d", "1e-9")[0]["upload"], share)
    (folder / "alone.json").write_text(run("plan", "linear.yml", "--json", cwd=folder).stdout)
    contains(model("--plan", folder / "alone.json"), "1 rank, the fullest 1.0000 of the mean")
    contains(model("--bench", folder / "plan.json", code=1), "no output of `warpmerge bench --json`")


run_tests(sys.modules[__name__])
