#!/usr/bin/env python3
"""bench/gpu_check.sh ends with 0 only when all that was asked for was measured and met, with 2 when something was not
measured, with 1 when something was missed; its table, its JSON and its closing lines say which.

usage: test_gpu_check.py WARPMERGE     (it is not run: programs are pretended, what they measure is not the question)
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness import check, contains, equal, run_tests

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("awk bash cat cut date df dirname env find grep gzip head ln mkdir mktemp mv nproc printf python3 rm sed seq sh sha256sum "
         "sleep sort tail tar timeout tr xargs").split()
# Kernel, part, seconds, and its share of a copy where it is not the bench's.
KERNELS = [("linear, 4 models", "combine", 1.0), ("ties, 3 models, density 0.5", "whole", 2.5),
           ("ties, 3 models, density 0.5, search", "whole", 2.0), ("ties, 3 models, density 0.5, guess", "whole", 1.2),
           ("slerp, 2 models", "gram", 0.5), ("ties, 3 models, density 0.5", "kth coarse", 0.5),
           ("dare_ties, 3 models, density 0.5", "l1", 0.5), ("ties, 3 models, trim global", "model signs", 0.5),
           ("ties, 3 models, density 0.5, search", "kth coarse", 0.5, 0.3), ("nuslerp, 2 models, columns", "gram", 0.5, 0.02)]


def machine(folder, equality=0, warpmerge="exit 70"):
    """A checkout with packed programs, and a PATH with neither compilers nor a GPU's tools."""
    (folder / "bench").mkdir()
    for path in (ROOT / "bench").glob("gpu_check*"):
        shutil.copy(path, folder / "bench")
    (folder / "build" / "gpu").mkdir(parents=True)
    (folder / "bin").mkdir()
    for tool in TOOLS:
        if shutil.which(tool):
            (folder / "bin" / tool).symlink_to(shutil.which(tool))
    for name, body in (("device_equality", f"echo equality said; exit {equality}"), ("nccl_ranks", "exit 77"),
                       ("make_checkpoint", "exit 0"), ("warpmerge", warpmerge)):
        program = folder / "build" / "gpu" / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    sources = subprocess.run(["bash", "-c", ". bench/gpu_check_build.sh; root=. state_of_sources"], cwd=folder, capture_output=True,
                             text=True, check=True).stdout
    (folder / "build/gpu/sources.txt").write_text(sources)


def go(folder, steps, *arguments, **more):
    env = {"PATH": str(folder / "bin"), "OUT": str(folder / "out"), "GPU_CHECK_STEPS": steps, "GPU_CHECK_DEVICE": "cpu",
           "HOME": str(folder), "TMPDIR": str(folder)} | more
    # A compiler in CUDA's usual place is found all the same, cmake is not.
    r = subprocess.run(["bash", str(folder / "bench" / "gpu_check.sh"), *arguments], env=env, capture_output=True, text=True,
                       timeout=120)
    path = folder / "out" / "gpu_check.json"
    return r, json.loads(path.read_text()) if path.exists() else None


def bench_json(folder, share=0.95, complete=True):
    rows = [{"kernel": k, "part": p, "dtype": "BF16", "n_models": 3, "n_elems": 1 << 27, "tensor_bytes": 1 << 28,
             "tile_elems": tile, "copy_share": own[0] if own else share if tile == 1 << 25 else 0.7, "cold": {"seconds": s}}
            for k, p, s, *own in KERNELS for tile in (1 << 25, 1 << 22)]
    path = folder / "fake.json"
    path.write_text(json.dumps({"kernels": rows, "complete": complete, "ceilings": []}))
    return path


def verdicts(j):
    return {s["name"]: s["verdict"] for s in j["steps"]}


def test_met(folder):
    machine(folder)
    r, j = go(folder, "equality")
    equal(r.returncode, 0, r.stdout, r.stderr)
    equal(verdicts(j), {"equality": "met"})
    contains(r.stdout, "equality said", "not chosen: build nccl", "a rehearsal", "not here: nvidia-smi")
    equal(j["steps"][0]["unit"], "s")


def test_missed(folder):
    machine(folder, equality=1)
    r, j = go(folder, "equality nccl")
    equal(r.returncode, 1, r.stdout)
    equal(verdicts(j), {"equality": "missed", "nccl": "not measured"})
    contains(r.stdout, "missed: equality", "incomplete: nccl")


def test_nothing_measured_is_no_success(folder):
    machine(folder, equality=77)
    r, j = go(folder, "equality memcheck build peer")
    equal(r.returncode, 2, r.stdout)
    equal(set(verdicts(j).values()), {"not measured"})
    contains(r.stdout, "incomplete: build equality memcheck peer", "no cmake here" if "no cmake" in r.stdout else "no nvcc here")
    equal(sorted(j["not_measured"]), ["build", "equality", "memcheck", "peer"])


def test_time_runs_out(folder):
    machine(folder)
    r, j = go(folder, "equality bench", GPU_CHECK_SECONDS="30")
    equal(r.returncode, 2, r.stdout)
    equal(verdicts(j), {"equality": "met", "bench": "not measured"})


def test_goals(folder):
    machine(folder)
    path = bench_json(folder)
    (folder / "build/gpu/warpmerge").write_text(f"#!/bin/sh\n[ $1 = bench ] && cat {path}\n")
    r, j = go(folder, "bench")
    equal(r.returncode, 0, r.stdout)
    steps = {s["name"]: s for s in j["steps"]}
    ratio = steps["bench_ties_to_linear"]
    equal((ratio["verdict"], ratio["value"], ratio["goal"], ratio["unit"]), ("met", 2.0, 2.2, "times"))
    equal((steps["bench_ties_guess_to_linear"]["value"], steps["bench_ties_guess_to_linear"]["goal"]), (1.2, 1.3))
    equal((steps["bench_combine"]["value"], steps["bench_combine"]["goal"]), (95.0, 90.0))
    for name in ("bench_gram", "bench_kth_coarse", "bench_l1", "bench_model_signs"):
        equal((steps[name]["value"], steps[name]["goal"]), (95.0, 85.0), name)
        equal((steps[name + "_engine_tile"]["value"], steps[name + "_engine_tile"]["verdict"]), (70.0, "measured"), name)
    for name, value in (("bench_gram_vectors", 2.0), ("bench_kth_search", 30.0)):
        equal((steps[name]["value"], steps[name]["verdict"]), (value, "measured"), name)


def test_goals_missed_and_stopped(folder):
    machine(folder)
    path = bench_json(folder, share=0.5, complete=False)
    (folder / "build/gpu/warpmerge").write_text(f"#!/bin/sh\n[ $1 = bench ] && cat {path}; exit 143\n")
    r, j = go(folder, "bench")
    equal(r.returncode, 1, r.stdout)
    v = verdicts(j)
    equal((v["bench"], v["bench_combine"], v["bench_complete"]), ("missed", "missed", "not measured"))
    equal(v["bench_ties_to_linear"], "met")
    check((folder / "out" / "bench.json").exists())


def test_bench_out_of_time(folder):
    """Stopped by the limit: a part of the rows, and no success."""
    machine(folder)
    path = bench_json(folder, complete=False)
    (folder / "build/gpu/warpmerge").write_text(f"#!/bin/bash\ntrap 'cat {path}; exit 143' TERM\nwhile :; do sleep 0.1; done\n")
    r, j = go(folder, "bench", GPU_CHECK_SECONDS="61", GPU_CHECK_BENCH_SECONDS="2")
    equal(r.returncode, 2, r.stdout)
    v = verdicts(j)
    equal((v["bench"], v["bench_complete"], v["bench_ties_to_linear"]), ("not measured", "not measured", "met"))


def test_no_bench_file(folder):
    machine(folder)
    r, j = go(folder, "endtoend bench", GPU_CHECK_LAYERS="1")
    equal(r.returncode, 1, r.stdout)
    v = verdicts(j)
    for name in ("bench", "bench_rows", "e2e_linear3_cpu", "e2e_share_linear3", "e2e_share_ties"):
        equal(v[name], "missed", name, r.stdout)


def test_what_was_not_merged_has_no_share(folder):
    machine(folder)
    path = bench_json(folder)
    (folder / "build/gpu/warpmerge").write_text(f"#!/bin/sh\n[ $1 = bench ] && cat {path}\n")
    r, j = go(folder, "endtoend bench", GPU_CHECK_LAYERS="0")
    equal(r.returncode, 2, r.stdout)
    v = verdicts(j)
    equal((v["e2e"], v["e2e_share_linear3"], v["e2e_share_ties"]), ("not measured",) * 3, r.stdout)


def test_share_with_and_without_set_up(folder):
    machine(folder)
    ceilings = [{"id": "h2d", "bytes_per_second": 1e9, "what": ""}, {"id": "host_copy", "bytes_per_second": 1e10, "what": ""}]
    (folder / "b.json").write_text(json.dumps({"kernels": [], "ceilings": ceilings}))
    (folder / "m.json").write_text(json.dumps({"bytes_read": 3e9, "bytes_written": 1e9, "seconds": 5.0, "setup_seconds": 2.0}))
    r = subprocess.run([sys.executable, folder / "bench/gpu_check_rows.py", "share", folder / "b.json", folder / "m.json", "e2e"],
                       capture_output=True, text=True, check=True)
    equal([line.split("|")[:4] for line in r.stdout.splitlines()], [["e2e", "missed", "60", "80"], ["e2e_no_setup", "measured", "100", ""]])


def test_programs_of_other_sources(folder):
    machine(folder)
    (folder / "kernels").mkdir()
    (folder / "kernels/new.cu").write_text("\n")
    r, j = go(folder, "equality")
    equal(r.returncode, 1, r.stdout)
    equal(verdicts(j), {"programs": "missed", "equality": "met"})
    contains(r.stdout, "other sources")


def test_sanitizer_that_may_not(folder):
    machine(folder)
    tool = folder / "bin/compute-sanitizer"
    tool.write_text("#!/bin/sh\necho '========= Error: Device not supported. Please refer to the manual.'\nexit 9\n")
    tool.chmod(0o755)
    r, j = go(folder, "synccheck")
    equal(r.returncode, 2, r.stdout)
    equal(verdicts(j), {"synccheck": "not measured"})
    tool.write_text("#!/bin/sh\necho '========= Barrier error detected.'\nexit 9\n")
    equal(verdicts(go(folder, "synccheck")[1]), {"synccheck": "missed"})


def test_usage(folder):
    machine(folder)
    equal(go(folder, "equality", "unpack")[0].returncode, 64)
    r, j = go(folder, "nonsense")
    equal((r.returncode, j), (64, None))
    contains(r.stderr, "nonsense", "equality")
    os.remove(folder / "build/gpu/warpmerge")
    r, j = go(folder, "equality")
    equal(r.returncode, 1, r.stdout)
    contains(r.stdout, "none were carried")


run_tests(sys.modules[__name__])
