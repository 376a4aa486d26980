#!/usr/bin/env python3
"""Runs warpmerge over the golden cases and compares with what mergekit gave. Standard library only.

    check.py WARPMERGE [--set FOLDER] [--only TEXT] [--verbose] [-- further options of `warpmerge merge`]

--set takes the cases of a folder of its own: ties_global, whose numbers come from the authors' algorithm instead.

What lives here: reading safetensors, the four comparisons, the table. What it must not know: how the numbers were
made (generate.py, generate_ties_global.py) and how warpmerge makes its own. Exit code 1 on any miss; NaN never passes.

The comparisons (cases.json says which):
  exact   the 32 bits of every element are equal, signs of zeros included
  close   |a - b| <= 1e-6 * max(|a|, |b|) + 2^-21 * rms. The second term: an element is a sum of products, each
          rounded to fp32, so it is off by some 2^-24 of its *terms*. Where terms cancel that is any share of the
          element, in any order of arithmetic. Terms are a few times the rms of the tensor.
  bf16    at least 99.9 % of a case's elements are equal, the others are neighbours in bf16. Run twice: with the config
          as it is (dtype float32, out_dtype bfloat16) and with `dtype: bfloat16` alone, the same to warpmerge.
  either  every element is the base's or the expected one, bit for bit; the share of the latter, over the elements where
          the two differ, is within five standard deviations of the density.
"""

import argparse
import array
import gzip
import json
import math
import os
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
CODES = {"F32": "I", "BF16": "H"}  # bit patterns; every output here is one of the two
RELATIVE, FLOOR = 1e-6, 2.0**-21


def parse_safetensors(blob):
    """name -> (dtype, shape, bytes)."""
    (n,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8:8 + n])
    data = memoryview(blob)[8 + n:]
    return {name: (t["dtype"], t["shape"], bytes(data[t["data_offsets"][0]:t["data_offsets"][1]]))
            for name, t in header.items() if name != "__metadata__"}


def read_model(folder):
    names = ["model.safetensors"]
    index = os.path.join(folder, "model.safetensors.index.json")
    if os.path.exists(index):
        with open(index) as f:
            names = sorted(set(json.load(f)["weight_map"].values()))
    tensors = {}
    for name in names:
        with open(os.path.join(folder, name), "rb") as f:
            tensors.update(parse_safetensors(f.read()))
    return tensors


def words(dtype, blob):
    out = array.array(CODES[dtype])
    out.frombytes(blob)
    if sys.byteorder == "big":
        out.byteswap()
    return out


def floats(dtype, bits):
    wide = bits if dtype == "F32" else array.array("I", [b << 16 for b in bits])
    return array.array("f", wide.tobytes())


def ordered(bits):
    """bf16 patterns as integers in the order of their values, so that neighbours differ by one; -0 equals +0."""
    return -(bits & 0x7FFF) if bits & 0x8000 else bits


class Tally:
    """What one case came to. `misses` are sentences; a case passes if there is none."""

    def __init__(self):
        self.n_elems = self.n_unequal = 0
        self.worst = 0.0  # close: error over tolerance; bf16: units in the last place
        self.misses = []

    def miss(self, text):
        if len(self.misses) < 5:
            self.misses.append(text)


def compare_tensor(how, name, dtype, got, want, base, tally, kept):
    got_values, want_values = floats(dtype, got), floats(dtype, want)
    floor = FLOOR * math.sqrt(sum(v * v for v in want_values) / max(1, len(want)))
    tally.n_elems += len(want)
    for i, (g, w) in enumerate(zip(got, want)):
        if math.isnan(got_values[i]):
            tally.miss(f"{name}[{i}] is NaN")
            continue
        tally.n_unequal += g != w
        shown = f"{name}[{i}] is {got_values[i]!r}, expected {want_values[i]!r}"
        if how == "exact" and g != w:
            tally.miss(shown)
        elif how == "close":
            allowed = RELATIVE * max(abs(got_values[i]), abs(want_values[i])) + floor
            error = abs(got_values[i] - want_values[i])
            if error:
                tally.worst = max(tally.worst, error / allowed if allowed else math.inf)
            if not error <= allowed:
                tally.miss(shown)
        elif how == "bf16":
            distance = abs(ordered(g) - ordered(w))
            tally.worst = max(tally.worst, distance)
            if distance > 1:
                tally.miss(f"{shown}, {distance} units in the last place away")
        elif how == "either":
            if g not in (w, base[i]):
                tally.miss(f"{shown} or the base's")
            if w != base[i]:
                kept.append(g == w)


def compare_case(case, got):
    tally, kept, base = Tally(), [], {}
    with gzip.open(f"expected/{case['name']}.safetensors.gz", "rb") as f:
        want = parse_safetensors(f.read())
    if case["compare"] == "either":
        with open(case["base"], "rb") as f:
            base = {n: words(*t[::2]) for n, t in parse_safetensors(f.read()).items()}
    for name in sorted(set(want) ^ set(got)):
        tally.miss(f"{name} is {'missing' if name in want else 'not expected'}")
    for name in sorted(set(want) & set(got)):
        if got[name][:2] != want[name][:2]:
            tally.miss(f"{name} is {got[name][:2]}, expected {want[name][:2]}")
            continue
        compare_tensor(case["compare"], name, want[name][0], words(*got[name][::2]), words(*want[name][::2]),
                       base.get(name), tally, kept)
    if tally.n_elems != case["n_elems"]:
        tally.miss(f"{tally.n_elems} of {case['n_elems']} elements were compared")
    if case["compare"] == "bf16" and tally.n_unequal > tally.n_elems / 1000:
        tally.miss(f"{tally.n_unequal} of {tally.n_elems} elements differ, more than 0.1 %")
    if kept:
        share, spread = sum(kept) / len(kept), math.sqrt(case["keep"] * (1 - case["keep"]) / len(kept))
        if not abs(share - case["keep"]) <= 5 * spread:
            tally.miss(f"{share:.4f} of the elements were kept, expected {case['keep']} +- {5 * spread:.4f}")
    return tally


def run_case(binary, config, extra):
    """The merged tensors, or a sentence. Model paths in a config are relative to this folder."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        done = subprocess.run([binary, "merge", config, out, "--quiet", *extra], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=120, check=False)
        if done.returncode != 0:
            return None, f"exit code {done.returncode}: " + done.stdout.decode(errors="replace").strip()
        try:
            return read_model(out), None
        except (OSError, ValueError, KeyError, struct.error) as e:
            return None, f"the output cannot be read: {e}"


def check(binary, case, extra, folder):
    """Yields (label, tally) of each run of the case."""
    name = case["name"]
    with open(f"cases/{name}.yml") as f:
        text = f.read()
    runs = [(name, text)]
    if case["compare"] == "bf16":
        runs.append((name + ", dtype", text.replace("dtype: float32\nout_dtype: bfloat16\n", "dtype: bfloat16\n")))
        assert runs[1][1] != text
    for label, body in runs:
        config = os.path.join(folder, "config.yml")
        with open(config, "w") as f:
            f.write(body)
        got, problem = run_case(binary, config, extra)
        if problem:
            tally = Tally()
            tally.miss(problem)
        else:
            tally = compare_case(case, got)
        yield label, tally


def main():
    parser = argparse.ArgumentParser(description="Compare warpmerge with golden results of mergekit.")
    parser.add_argument("binary")
    parser.add_argument("--set", default=".", help="a folder with cases of its own")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="show more than the first miss of a case")
    parser.add_argument("extra", nargs="*", help="options for `warpmerge merge`, after --")
    args = parser.parse_args()
    binary = os.path.abspath(args.binary)
    os.chdir(os.path.join(HERE, args.set))
    with open("cases.json") as f:
        listing = json.load(f)
    cases = [c for c in listing["cases"] if args.only in c["name"]]
    if not cases:
        parser.error(f"no case has {args.only!r} in its name")
    print("against " + (listing.get("source") or f"mergekit {listing['mergekit']} (torch {listing['torch']})"))
    print(f"{'case':36} {'compare':7} {'elements':>8} {'unequal':>8} {'worst':>7}  result")
    n_missed = n_runs = n_elems = n_unequal = 0
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            for label, tally in check(binary, case, args.extra, folder):
                n_runs += 1
                n_missed += bool(tally.misses)
                n_elems += tally.n_elems
                n_unequal += tally.n_unequal
                print(f"{label:36} {case['compare']:7} {tally.n_elems:8} {tally.n_unequal:8} {tally.worst:7.3g}  "
                      f"{'MISS' if tally.misses else 'ok'}", flush=True)
                for text in tally.misses if args.verbose else tally.misses[:1]:
                    print(f"    {text}")
    print(f"{n_runs} runs, {n_elems} elements, {n_unequal} unequal, {n_missed} missed")
    return 1 if n_missed else 0


if __name__ == "__main__":
    sys.exit(main())
