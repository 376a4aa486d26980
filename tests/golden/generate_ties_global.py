"""Writes ties_global/: what the authors' TIES gives, trimmed over the whole model, on small checkpoints of several tensors.

    peer/bin/python generate_ties_global.py

What lives here: the published algorithm (Yadav et al. 2023, TIES-Merging, arXiv 2306.01708, section 4, with the details of
the authors' code), step by step in NumPy over one flattened vector a model, its inputs and its cases. What it must not
know: warpmerge.

Where the paper leaves something open, the authors' code decides: the threshold is the k-th smallest magnitude with
k = d - int(d * density), everything that equals it stays, an element whose kept entries cancel takes the sign that most
elements elected, and if that is zero as well, the negative entries. Two things of ours are on top: weights multiply the
entries before the vote, and the mean is weighted with them (weight 1 is the paper), and density 1 trims nothing (the
authors' code refuses it).
"""

import gzip
import json
import os
import random
import shutil

import numpy as np

from checkpoints import FAMILIES, ROUND, base_values, normal, shapes, tuned, write_model, write_safetensors

HERE = os.path.dirname(os.path.abspath(__file__))
STEP = 2.0**-6  # of the grid family: bf16 holds every value and every delta of it exactly


# ---- the algorithm ---------------------------------------------------------------------------------------------------


def trim(vector, density):
    """Entries below the threshold of the whole vector become zero."""
    d = vector.size
    k = d - int(d * density)
    if k == 0:
        return vector.copy()
    threshold = np.sort(np.abs(vector), kind="stable")[k - 1]
    return np.where(np.abs(vector) >= threshold, vector, np.float32(0))


def elect(entries):
    """A sign per element, and how many elements were decided by the majority alone."""
    total = np.zeros_like(entries[0])
    for e in entries:
        total = total + e
    sign = np.sign(total)
    majority = np.sign(np.sum(sign, dtype=np.float64))
    n_cancelled = int(np.sum((total == 0) & np.any([e != 0 for e in entries], axis=0)))
    return np.where(sign == 0, majority, sign), int(majority), n_cancelled


def disjoint_mean(entries, weights, sign, divide):
    mixed, divisor = np.zeros_like(entries[0]), np.zeros_like(entries[0])
    for e, w in zip(entries, weights):
        agrees = np.where(sign > 0, e > 0, e < 0)
        mixed = mixed + np.where(agrees, e, np.float32(0))
        divisor = divisor + np.where(agrees, w, np.float32(0))
    return mixed / np.where(divisor == 0, np.float32(1), divisor) if divide else mixed


def ties(base, models, densities, weights, lam=1.0, divide=True):
    """Tensors by name, fp32, and what a case says about itself."""
    names = sorted(base)
    start = np.concatenate([base[n].ravel() for n in names])
    weights = [np.float32(w) for w in weights]
    entries = []
    for tensors, density, weight in zip(models, densities, weights):
        task_vector = np.concatenate([tensors[n].ravel() for n in names]) - start
        entries.append(weight * trim(task_vector, density))
    sign, majority, n_cancelled = elect(entries)
    merged = start + np.float32(lam) * disjoint_mean(entries, weights, sign, divide)
    assert merged.dtype == np.float32 and np.isfinite(merged).all()
    out, at = {}, 0
    for n in names:
        out[n] = merged[at:at + base[n].size].reshape(base[n].shape)
        at += base[n].size
    return out, majority, n_cancelled


# ---- the checkpoints -------------------------------------------------------------------------------------------------


def grid(rng, bias, n):
    """Deltas of a few steps: half of them zero, the others 1 to 4 steps, positive with probability `bias`."""
    out = []
    for _ in range(n):
        steps = max(0, rng.randrange(9) - 4)
        out.append(STEP * (steps if rng.random() < bias else -steps))
    return out


def grid_models(count):
    """Models whose deltas cancel exactly in many elements."""
    rng = random.Random("warpmerge ties global grid")
    base = {n: [STEP * rng.randint(-60, 60) for _ in range(c)] for n, c in count.items()}

    def moved(deltas):
        return {n: [b + x for b, x in zip(base[n], deltas[n])] for n in base}

    up = {n: grid(rng, 0.6, c) for n, c in count.items()}
    down = {n: grid(rng, 0.3, c) for n, c in count.items()}
    return {
        "base": base,
        "up": moved(up),
        "down": moved(down),
        "even": moved({n: grid(rng, 0.5, c) for n, c in count.items()}),
        "falling": moved({n: grid(rng, 0.05, c) for n, c in count.items()}),
        # What `up` adds, this takes away: every element cancels, so there is no majority either.
        "mirror": moved({n: [-x for x in v] for n, v in up.items()}),
        "same": moved({n: [0.0] * c for n, c in count.items()}),
        "equal": moved({n: [STEP if rng.random() < 0.4 else -STEP for _ in range(c)] for n, c in count.items()}),
        "equal2": moved({n: [STEP if rng.random() < 0.4 else -STEP for _ in range(c)] for n, c in count.items()}),
    }


def smooth_models(family, n_tuned, dtype, spread, count):
    """A base and fine-tunes as of checkpoints.py, under another seed."""
    rng = random.Random(f"warpmerge ties global {family}")
    base, shared = {}, {}
    for name, n in count.items():
        base[name] = [ROUND[dtype](v) for v in base_values(rng, name, n)]
        shared[name] = [normal(rng) for _ in range(n)]
    models = {"base": base}
    for i in range(1, n_tuned + 1):
        rng = random.Random(f"warpmerge ties global {family} ft{i}")
        models[f"ft{i}"] = {n: tuned(rng, n, base[n], shared[n], spread) for n in count}
    return models


def make_models():
    """family -> model -> name -> fp32 array; written as files on the way."""
    out = {}
    for family, shape_of, dtype in (("a", "a", "BF16"), ("b", "b", "F32"), ("grid", "b", "BF16")):
        table = shapes(**FAMILIES[shape_of])
        count = {name: shape[0] * (shape[1] if len(shape) == 2 else 1) for name, shape in table.items()}
        models = grid_models(count) if family == "grid" else smooth_models(
            family, 4, dtype, 1.5e-4 if family == "a" else 2e-3, count)
        out[family] = {}
        for name, values in models.items():
            rounded = {n: [ROUND[dtype](v) for v in values[n]] for n in table}
            write_model(f"models/{family}/{name}", shape_of, dtype, {n: (table[n], rounded[n]) for n in table},
                        n_shards=2 if name in ("ft2", "down") else 1)
            out[family][name] = {n: np.array(rounded[n], dtype=np.float32).reshape(table[n]) for n in table}
    return out


# ---- the cases -------------------------------------------------------------------------------------------------------


def all_cases():
    """(name, family, models, densities, further settings)."""
    for family in ("a", "b"):
        for density in (0.01, 0.2, 0.5, 1.0):
            for n in (2, 3, 4):
                yield f"{family}_{n}_d{density}", family, [f"ft{i + 1}" for i in range(n)], [density] * n, {}
    yield "a_2_bf16", "a", ["ft1", "ft2"], [0.2, 0.2], {"out_dtype": "bfloat16"}
    yield "a_3_densities", "a", ["ft1", "ft2", "ft3"], [0.1, 0.9, 1.0], {}
    yield "a_3_weights", "a", ["ft1", "ft2", "ft3"], [0.3] * 3, {"weights": [0.5, 1.25, -0.75], "lambda": 0.7}
    yield "a_2_sum", "a", ["ft1", "ft2"], [0.3] * 2, {"normalize": False, "lambda": 0.4}
    yield "b_1", "b", ["ft1"], [0.2], {}
    yield "b_2_lambda", "b", ["ft1", "ft2"], [0.2] * 2, {"lambda": 1.7}
    yield "b_2_one_kept", "b", ["ft1", "ft2"], [1e-5] * 2, {}
    yield "grid_plus", "grid", ["up", "even"], [0.5] * 2, {}
    yield "grid_plus_all", "grid", ["up", "even", "up"], [1.0] * 3, {"weights": [1, 1, 0.5]}
    yield "grid_minus", "grid", ["up", "down", "falling"], [0.5] * 3, {}
    yield "grid_minus_all", "grid", ["up", "falling"], [1.0] * 2, {}
    yield "grid_minus_bf16", "grid", ["down", "even", "falling", "up"], [0.2] * 4, {"out_dtype": "bfloat16"}
    yield "grid_no_majority", "grid", ["up", "mirror"], [0.5] * 2, {}
    yield "grid_no_majority_all", "grid", ["mirror", "up"], [1.0] * 2, {"normalize": False}
    yield "grid_untouched", "grid", ["up", "same", "even"], [0.2] * 3, {}
    yield "grid_untouched_alone", "grid", ["same"], [0.2], {}
    yield "grid_equal", "grid", ["equal", "equal2"], [0.2] * 2, {}
    yield "grid_equal_3", "grid", ["equal", "up", "equal2"], [0.01, 0.5, 0.2], {}


def config_of(family, models, densities, rest):
    weights = rest.get("weights", [1] * len(models))
    parameters = {"trim": "global"}
    for key in ("lambda", "normalize"):
        if key in rest:
            parameters[key] = rest[key]
    config = {"merge_method": "ties",
              "models": [{"model": f"models/{family}/{m}", "parameters": {"weight": w, "density": d}}
                         for m, w, d in zip(models, weights, densities)],
              "base_model": f"models/{family}/base", "parameters": parameters, "dtype": "float32"}
    if "out_dtype" in rest:
        config["out_dtype"] = rest["out_dtype"]
    return config


def write_expected(name, tensors, out_dtype):
    dtype = "BF16" if out_dtype == "bfloat16" else "F32"
    values = {n: (t.shape, [ROUND[dtype](float(v)) for v in t.ravel()]) for n, t in sorted(tensors.items())}
    path = f"expected/{name}.safetensors"
    write_safetensors(path, dtype, values)
    with open(path, "rb") as f:
        blob = f.read()
    os.remove(path)
    with open(path + ".gz", "wb") as f:
        f.write(gzip.compress(blob, 9, mtime=0))


def main():
    os.chdir(HERE)
    shutil.rmtree("ties_global", ignore_errors=True)
    for folder in ("models", "cases", "expected"):
        os.makedirs(f"ties_global/{folder}")
    os.chdir("ties_global")
    models, listing, majorities = make_models(), [], {}
    for name, family, used, densities, rest in all_cases():
        tensors, majority, n_cancelled = ties(models[family]["base"], [models[family][m] for m in used], densities,
                                              rest.get("weights", [1] * len(used)), rest.get("lambda", 1.0),
                                              rest.get("normalize", True))
        with open(f"cases/{name}.yml", "w") as f:  # JSON is YAML
            f.write(json.dumps(config_of(family, used, densities, rest), indent=1) + "\n")
        write_expected(name, tensors, rest.get("out_dtype"))
        listing.append({"name": name, "compare": "exact", "n_elems": sum(t.size for t in tensors.values())})
        if n_cancelled:
            majorities[majority] = majorities.get(majority, 0) + 1
        print(f"{name:24} {listing[-1]['n_elems']:6} elements, {n_cancelled:5} cancelled, majority {majority:+d}")
    assert sorted(majorities) == [-1, 0, 1], "cases must hold cancelled elements under every majority"
    with open("cases.json", "w") as f:
        f.write(json.dumps({"source": "the authors' TIES, trimmed over the whole model", "cases": listing}, indent=1) + "\n")
    n_bytes = sum(os.path.getsize(os.path.join(d, n)) for d, _, names in os.walk(".") for n in names)
    print(f"{len(listing)} cases, {n_bytes / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
