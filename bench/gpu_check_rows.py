#!/usr/bin/env python3
"""What bench/gpu_check.sh measured, as rows: NAME|VERDICT|VALUE|GOAL|UNIT|DETAIL; and the table and JSON at its end.

usage: gpu_check_rows.py bench BENCH.json
       gpu_check_rows.py share BENCH.json MERGE.json NAME
       gpu_check_rows.py merge MERGE.json NAME DETAIL
       gpu_check_rows.py values CHECK.json NAME
       gpu_check_rows.py peer PEER.json MERGE.json NAME
       gpu_check_rows.py experts FOLDER DEVICE N_EXPERTS
       gpu_check_rows.py table ROWS OUT.json SECONDS DEVICE STEPS ALL_STEPS
"""

import glob
import json
import shutil
import subprocess
import sys


def load(path):
    try:
        with open(path) as f:
            return json.load(f)
    except (OSError, ValueError) as e:
        sys.exit(f"{path} is missing or unfinished: {e}")


def row(name, verdict, value=None, goal=None, unit="", detail=""):
    print("|".join([name, verdict] + ["" if x is None else f"{x:.4g}" for x in (value, goal)] + [unit, detail]))


def at_least(name, value, goal, unit, detail):
    row(name, "met" if value >= goal else "missed", value, goal, unit, detail)


def at_most(name, value, goal, unit, detail):
    row(name, "met" if value <= goal else "missed", value, goal, unit, detail)


LARGE = 16 << 20  # elements
TIES = "ties, 3 models, density 0.5"


def worst(name, rows, goal=None):
    """Without a goal it is told, not judged."""
    if not rows:
        return row(name, "none", None, goal and 100 * goal, "% copy", "no such row in bench.json")
    low = min(rows, key=lambda r: r["copy_share"])
    value, detail = 100 * low["copy_share"], "lowest of %d: %s, %s, %d MiB, tiles of %d elements" % (
        len(rows), low["kernel"], low["part"], low["tensor_bytes"] >> 20, low["tile_elems"])
    if goal is None:
        return row(name, "measured", value, None, "% copy", detail)
    return at_least(name, value, 100 * goal, "% copy", detail)


def bench(path):
    j = load(path)
    if not j.get("complete", True):
        row("bench_complete", "none", detail="bench was stopped: %d rows until then" % len(j["kernels"]))
    large = [r for r in j["kernels"] if r["dtype"] == "BF16" and r["n_elems"] >= LARGE and r["n_models"] <= 8
             and "mixed" not in r["kernel"]]
    tiles = sorted({r["tile_elems"] for r in large}, reverse=True)
    for which, tile in enumerate(tiles or [0]):
        rows = [r for r in large if r["tile_elems"] == tile]
        end = "_engine_tile" if which else ""

        # A guess and a search that the device ends alone are several kernels, some of them tiny, in what is one row; rows or
        # columns that are few leave most of the device idle: they are told, not judged. Nor are the engine's tiles, of which
        # the pipeline has several at once: alone, a launch's beginning and end are a good part of their time.
        def some(word, part, rows=rows):
            return [r for r in rows if r["kernel"].split(",")[0] in word and r["part"] == part
                    and not any(w in r["kernel"] for w in ("guess", "search", "rows", "columns"))]

        worst("bench_combine" + end, some(("linear", "task_arithmetic", "dare_linear", "dare_ties", "ties"), "combine"),
              None if which else 0.90)
        for words, part in ((("slerp", "nuslerp"), "gram"), (("ties",), "kth coarse"), (("dare_ties",), "l1"),
                            (("ties",), "model signs")):
            worst("bench_" + part.replace(" ", "_") + end, some(words, part), None if which else 0.85)
        vectors = [r for r in rows if r["part"] == "gram" and ("rows" in r["kernel"] or "columns" in r["kernel"])]
        searches = [r for r in rows if r["part"] == "kth coarse" and "search" in r["kernel"]]
        for name, some_rows in (("bench_gram_vectors", vectors), ("bench_kth_search", searches)):
            if some_rows:
                worst(name + end, some_rows)
    # TIES with all that comes with it, against linear on as many inputs.
    for name, goal, kernels in (("bench_ties_to_linear", 2.2, (TIES + ", search", TIES)),
                                ("bench_ties_guess_to_linear", 1.3, (TIES + ", guess",))):
        best = None
        for r in large:
            if r["part"] == "whole" and r["kernel"] in kernels:
                same = [x for x in large if (x["kernel"], x["part"], x["tensor_bytes"], x["tile_elems"]) == (
                    "linear, 4 models", "combine", r["tensor_bytes"], r["tile_elems"])]
                if same:
                    key = (-r["tensor_bytes"], kernels.index(r["kernel"]), r["tile_elems"])
                    if best is None or key < best[0]:
                        best = (key, r["cold"]["seconds"] / same[0]["cold"]["seconds"], r)
        if best is None:
            row(name, "none", None, goal, "times", "no rows for it in bench.json")
        else:
            at_most(name, best[1], goal, "times", "%s, %d MiB, tiles of %d elements, everything included, to linear, 4 models" % (
                best[2]["kernel"], best[2]["tensor_bytes"] >> 20, best[2]["tile_elems"]))
    for c in j["ceilings"]:
        row("ceiling_" + c["id"], "measured", c["bytes_per_second"] / 1e9, None, "GB/s", c["what"])


def share(bench_path, merge_path, name):
    """What the wires and the memory allow: every input byte goes to the device once, and every byte is copied once between
    the RAM disk and a buffer."""
    ceilings, merge = load(bench_path)["ceilings"], load(merge_path)
    rate = {c["id"]: c["bytes_per_second"] for c in ceilings}
    wire = merge["bytes_read"] / rate["h2d"] if "h2d" in rate else 0
    copy = 2 * (merge["bytes_read"] + merge["bytes_written"]) / rate["host_copy"]
    value = 100 * max(wire, copy) / merge["seconds"]
    setup = merge.get("setup_seconds", 0)
    detail = "of the limit: host to device %.2f s, host copy %.2f s, merge %.2f s, of which set-up %.2f s" % (
        wire, copy, merge["seconds"], setup)
    if "h2d" in rate:
        at_least(name, value, 80, "%", detail)
    else:
        row(name, "none", value, 80, "%", detail + "; no GPU")
    row(name + "_no_setup", "measured", 100 * max(wire, copy) / (merge["seconds"] - setup), None, "%",
        "the same without the time to open the device and to page-lock memory and give it back")


def merge_row(path, name, detail):
    j = load(path)
    moved = j["bytes_read"] + j["bytes_written"]
    row(name, "measured", moved / j["seconds"] / 1e9, None, "GB/s", "%s, %.2f s, read %.1f GB, limited by %s" % (
        detail, j["seconds"], j["bytes_read"] / 1e9, j["limiter"]))


def values(path, name):
    j = load(path)
    at_most(name, j["n_different"], 0, "elements", "of %s differ from PyTorch's in fp32" % j["n_elements"])


def peer(path, merge_path, name):
    theirs, ours = load(path)["seconds"], load(merge_path)["seconds"]
    row(name, "measured", theirs / ours, None, "times", "PyTorch %.2f s, ours %.2f s" % (theirs, ours))


def experts(folder, device, n):
    for method in "linear3", "ties":
        best = {}
        for layout in "experts", "large":
            turns = []
            for f in glob.glob(f"{folder}/e2e_{layout}_{method}_?_{device}.json"):
                with open(f) as text:
                    try:
                        turns.append(json.load(text))
                    except ValueError:
                        pass  # this turn failed and has a row of its own
            best[layout] = min(turns, key=lambda j: j["seconds"], default=None)
        few, many = best["large"], best["experts"]
        if not few or not many:
            row("experts_" + method, "none", None, 1.15, "ratio", "not merged in both layouts")
            continue
        # Per byte: routers and the rest of a layer differ by half a thousandth.
        at_most("experts_" + method, (many["seconds"] / many["bytes_read"]) / (few["seconds"] / few["bytes_read"]), 1.15, "ratio",
                "%s experts %.2f s, the same in large tensors %.2f s (%.1f GB read)" % (
                    n, many["seconds"], few["seconds"], many["bytes_read"] / 1e9))


def number(text):
    return float(text) if text else None


def table(path, out, seconds, device, steps, all_steps):
    with open(path) as f:
        rows = [line.rstrip("\n").split("\t") for line in f]
    width = max((len(r[0]) for r in rows), default=4)
    print()
    for name, verdict, value, goal, unit, detail in rows:
        print("%-*s  %-12s %9s %9s %-8s  %s" % (width, name, verdict, value, goal and "(%s)" % goal, unit, detail))
    gpu = ""
    if shutil.which("nvidia-smi"):
        gpu = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True,
                             text=True).stdout.strip()
    missed = [r[0] for r in rows if r[1] == "missed"]
    absent = [r[0] for r in rows if r[1] == "not measured"]
    if not missed and not any(r[1] in ("met", "measured") for r in rows):
        absent = absent or ["everything"]
    left_out = [s for s in all_steps.split() if s not in steps.split()]
    with open(out + ".tmp", "w") as f:
        json.dump({"schema": "warpmerge-gpu-check", "schema_version": 2, "gpu": gpu, "device": device, "seconds": int(seconds),
                   "steps": [{"name": n, "verdict": v, "value": number(x), "goal": number(g), "unit": u, "detail": d}
                             for n, v, x, g, u, d in rows], "missed": missed, "not_measured": absent,
                   "not_chosen": left_out}, f, indent=1)
    shutil.move(out + ".tmp", out)
    if left_out:
        print("not chosen: " + " ".join(left_out))
    if device == "cpu":
        print("a rehearsal on the CPU: nothing here is about a GPU")
    if missed:
        print("missed: " + " ".join(missed))
    if absent:
        print("incomplete: " + " ".join(absent))
    print("%d rows, %d missed, %d not measured, %s s" % (len(rows), len(missed), len(absent), seconds))
    return 1 if missed else 2 if absent else 0


COMMANDS = {"bench": bench, "share": share, "merge": merge_row, "values": values, "peer": peer, "experts": experts, "table": table}

if __name__ == "__main__":
    sys.exit(COMMANDS[sys.argv[1]](*sys.argv[2:]))
