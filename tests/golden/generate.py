"""Runs mergekit itself over the golden cases and writes models/, cases/, expected/ and cases.json.

    python -m venv peer && peer/bin/pip install -r requirements.txt
    peer/bin/python generate.py              # rewrite everything
    peer/bin/python generate.py --compare    # write nothing; run mergekit as it comes and count what differs

What lives here: the driver around mergekit's planner and executor. What it must not know: warpmerge.

Two things of mergekit 0.1.5 on torch 2.15 depend on the processor or are left open, and are pinned here so that there
is one right answer:

* `torch.argsort` is called without stable=True, and its vectorised sort shuffles equal keys. Deltas of bf16 models
  have many equal magnitudes, so which of them TIES keeps would be an accident of the sort. It is made stable here:
  lowest index first, which earlier versions of torch gave on CPUs.
* `linear` uses addcmul_, which is one fused multiply-add where torch finds AVX2 or AVX-512, and two roundings
  elsewhere. ATEN_CPU_CAPABILITY=default (torch's own switch) selects the second: arithmetic without contraction.

--compare shows what either changes.
"""

import argparse
import gzip
import json
import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def load_mergekit(as_it_comes):
    """Imports mergekit with one thread, no network, and (unless as_it_comes) a stable sort."""
    import torch

    torch.set_num_threads(1)
    if not as_it_comes:
        unstable = torch.argsort

        def stable_argsort(x, dim=-1, descending=False, stable=True):
            return unstable(x, dim=dim, descending=descending, stable=True)

        torch.argsort = stable_argsort
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, random_seed=1)
    return lambda config, out: run_merge(MergeConfiguration.model_validate(config), out, options)


def merged_tensors(run, config):
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        run(config, os.path.join(folder, "out"))
        return load_file(os.path.join(folder, "out", "model.safetensors"))


def mergekit_config(compare, config):
    """What mergekit is asked: of a random mask, the merge without a mask."""
    if compare != "either":
        return config
    models = [{**m, "parameters": {**m["parameters"], "density": 1.0}} for m in config["models"]]
    return {**config, "models": models}


def write_expected(name, tensors):
    """One compressed safetensors file a case; no time stamp, so that the same numbers give the same bytes."""
    from safetensors.torch import save

    blob = save({n: tensors[n].contiguous() for n in sorted(tensors)})
    with open(f"expected/{name}.safetensors.gz", "wb") as f:
        f.write(gzip.compress(blob, 9, mtime=0))


def read_expected(name):
    from safetensors.torch import load

    with gzip.open(f"expected/{name}.safetensors.gz", "rb") as f:
        return load(f.read())


def generate(cases, run):
    import yaml
    from importlib.metadata import version

    for folder in ("cases", "expected"):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
    listing = []
    for name, compare, config in cases:
        with open(f"cases/{name}.yml", "w") as f:
            yaml.safe_dump(config, f, sort_keys=False, default_flow_style=None)
        tensors = merged_tensors(run, mergekit_config(compare, config))
        if not all(t.isfinite().all() for t in tensors.values()):
            raise SystemExit(f"{name}: mergekit's result is not finite; such a case decides nothing")
        write_expected(name, tensors)
        entry = {"name": name, "compare": compare, "n_elems": sum(t.numel() for t in tensors.values())}
        if compare == "either":
            entry["keep"] = config["models"][0]["parameters"]["density"]
            entry["base"] = config["base_model"] + "/model.safetensors"
        listing.append(entry)
        print(f"{name:32} {compare:6} {entry['n_elems']:6} elements", flush=True)
    with open("cases.json", "w") as f:
        f.write(json.dumps({"mergekit": version("mergekit"), "torch": version("torch"),
                            "cases": listing}, indent=1) + "\n")
    n_bytes = sum(os.path.getsize(os.path.join(d, n)) for t in ("models", "cases", "expected")
                  for d, _, names in os.walk(t) for n in names)
    print(f"{len(listing)} cases, {n_bytes / 1e6:.2f} MB")


def compare(cases, run):
    """Counts the elements in which mergekit as it comes differs from the committed numbers."""
    for name, how, config in cases:
        want, got = read_expected(name), merged_tensors(run, mergekit_config(how, config))
        unequal = sum(int((want[n] != got[n]).sum()) for n in want)
        n_elems = sum(t.numel() for t in want.values())
        worst = max(float((want[n].double() - got[n].double()).abs().max()) for n in want)
        print(f"{name:32} {how:6} {unequal:6} of {n_elems} differ, by at most {worst:.3g}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compare", action="store_true", help="run mergekit unpinned and count differences")
    parser.add_argument("--only", default="", help="cases whose name contains this (with --compare)")
    args = parser.parse_args()
    # Both are read once, when the interpreter or torch starts: set them and start again.
    wanted = {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"}
    if not args.compare:
        wanted["ATEN_CPU_CAPABILITY"] = "default"
    if any(os.environ.get(k) != v for k, v in wanted.items()):
        os.execve(sys.executable, [sys.executable] + sys.argv, {**os.environ, **wanted})
    os.chdir(HERE)
    from cases import all_cases
    from checkpoints import write_all

    cases = [c for c in all_cases() if args.only in c[0]]
    run = load_mergekit(as_it_comes=args.compare)
    if args.compare:
        compare(cases, run)
        return
    shutil.rmtree("models", ignore_errors=True)
    write_all("models")
    generate(cases, run)


if __name__ == "__main__":
    main()
