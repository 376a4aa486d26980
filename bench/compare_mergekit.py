#!/usr/bin/env python3
"""mergekit, warpmerge and a plain copy on the same checkpoints, config, cores and page cache, in one run.

    make_checkpoint tinyllama-1.1b --fine-tunes 2 --seed 1 --out CHECKPOINTS
    python compare_mergekit.py --warpmerge build/warpmerge --plain-copy build/plain_copy CHECKPOINTS

What lives here: processes, clocks and peak memory. Each round runs every contestant once, one after the other, in
another order each time, each after all inputs were read once (page cache warm) and earlier writes were flushed;
mergekit only in the first rounds because it takes minutes. What was still read from the disk is counted: a run with
more than a few MB there did not have its files in memory. Times are wall clock from start to exit of the process, so
they include Python's imports, which are also shown by themselves. Peak memory is ru_maxrss of that process (wait4). It
counts the pages of inputs that a program maps, which mergekit does. This program imports only the standard library so
that its own size, which Linux counts towards a child's peak, stays below any of theirs. Prints one Markdown table;
--json keeps the raw numbers. What it must not know: what any contestant does inside.

Run it with the interpreter that has mergekit (tests/golden/requirements.txt), or give --mergekit-python.
"""

import argparse
import glob
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

MERGEKIT = "import sys; sys.argv[0] = 'mergekit-yaml'; from mergekit.scripts.run_yaml import main; main()"
# tests/golden/generate.py says why these two make mergekit's result a matter of the recipe alone.
STABLE = "import torch; s = torch.argsort; torch.argsort = lambda x, **k: s(x, **{**k, 'stable': True}); "
UNFUSED = {"ATEN_CPU_CAPABILITY": "default"}
COUNT_UNEQUAL = """
import glob, json, sys, torch
from safetensors import safe_open
def tensors(folder):
    return {n: p for p in sorted(glob.glob(folder + "/*.safetensors")) for n in safe_open(p, "pt").keys()}
a, b = (tensors(f) for f in sys.argv[1:3])
n = unequal = worst = 0
for name in a:
    with safe_open(a[name], "pt") as f, safe_open(b[name], "pt") as g:
        x, y = f.get_tensor(name), g.get_tensor(name)
    assert x.dtype == y.dtype and x.shape == y.shape and not x.isnan().any() and not y.isnan().any(), name
    differ = x != y
    n += x.numel()
    unequal += int(differ.sum())
    if differ.any():
        worst = max(worst, float((x[differ].float() - y[differ].float()).abs().max()))
assert set(a) == set(b), set(a) ^ set(b)
print(json.dumps({"n_elems": n, "unequal": unequal, "largest_difference": worst}))
"""


def run(command, log):
    """Seconds, peak RSS in bytes. Stops the program with the child's words if it fails."""
    with open(log, "wb") as f:
        begin = time.monotonic()
        child = subprocess.Popen(command, stdout=f, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - begin
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        with open(log, errors="replace") as f:
            sys.exit(f"{command[0]} failed with {child.returncode}:\n{f.read()[-4000:]}")
    return {"seconds": seconds, "rss": usage.ru_maxrss * 1024, "cpu": usage.ru_utime + usage.ru_stime,
            "disk_read": usage.ru_inblock * 512}


def input_files(checkpoints):
    files = []
    for name in ("base", "ft1", "ft2"):
        found = sorted(glob.glob(os.path.join(checkpoints, name, "*.safetensors")))
        if not found:
            sys.exit(f"{checkpoints}/{name} has no .safetensors files; make them with make_checkpoint --fine-tunes 2")
        files += found
    return files


def warm(files):
    """Reads every input once and waits for writes of earlier runs."""
    os.sync()
    time.sleep(1)  # blocks that were freed are still being discarded
    buffer = bytearray(1 << 22)
    for path in files:
        with open(path, "rb", buffering=0) as f:
            while f.readinto(buffer):
                pass


def remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.unlink(path)


def write_config(path, method, checkpoints, dtype):
    base, ft1, ft2 = (os.path.join(checkpoints, n) for n in ("base", "ft1", "ft2"))
    if method == "linear":
        entries, rest = [(base, "weight: 0.4"), (ft1, "weight: 0.35"), (ft2, "weight: 0.25")], ""
    else:
        entries = [(ft1, "weight: 0.6, density: 0.5"), (ft2, "weight: 0.4, density: 0.3")]
        rest = f"base_model: {base}\n"
    rest += "dtype: bfloat16\n" if dtype == "bfloat16" else "dtype: float32\nout_dtype: bfloat16\n"
    with open(path, "w") as f:
        f.write(f"merge_method: {method}\nmodels:\n")
        f.writelines(f"- model: {model}\n  parameters: {{{parameters}}}\n" for model, parameters in entries)
        f.write(rest)


def processor():
    with open("/proc/cpuinfo") as f:
        names = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
    return names[0] if names else platform.processor()


class Bench:
    def __init__(self, args):
        self.args = args
        self.folder = tempfile.mkdtemp(prefix="compare-mergekit-", dir=args.scratch)
        self.files = input_files(args.checkpoints)
        self.n_in = sum(os.path.getsize(f) for f in self.files)
        self.n_out = self.n_in // 3  # three models of one shape and dtype: an output is as large as one input
        self.log = os.path.join(self.folder, "log")

    def out(self, who, method):
        return os.path.join(self.folder, f"{who}-{method}")

    def contestants(self, method, config):
        """(name, command, output path), in the order of a round."""
        args, threads = self.args, str(self.args.threads)
        rows = []
        for label, extra in (("warpmerge", []), *(((f"warpmerge {e}", e.split()) for e in args.also))):
            out = self.out(label.replace(" ", ""), method)
            rows.append((label, [args.warpmerge, "merge", config, out, "--quiet", "--threads", threads, *extra], out))
        if args.plain_copy:
            for label, extra in (("plain copy", []), ("plain copy, fsync", ["--fsync"])):
                out = self.out(label.replace(" ", ""), method)
                rows.append((label, [args.plain_copy, "--threads", threads, *extra, "--write", str(self.n_out), out,
                                     *self.files], out))
        out = self.out("mergekit", method)
        program = (STABLE if args.pin else "") + MERGEKIT
        rows.append(("mergekit", [args.mergekit_python, "-c", program, config, out, "--quiet", "--lazy-unpickle",
                                  "--num-threads", threads], out))
        return [r for r in rows if args.warpmerge or not r[0].startswith("warpmerge")]

    def method(self, method):
        config = os.path.join(self.folder, f"{method}.yml")
        write_config(config, method, self.args.checkpoints, self.args.dtype)
        results = {}
        for i in range(max(self.args.runs, self.args.mergekit_runs)):
            rows = self.contestants(method, config)
            for label, command, out in rows[i % len(rows):] + rows[:i % len(rows)]:
                if i >= (self.args.mergekit_runs if label == "mergekit" else self.args.runs):
                    continue
                remove(out)
                warm(self.files)
                results.setdefault(label, []).append(run(command, self.log))
                if label not in ("warpmerge", "mergekit"):  # those two are compared at the end
                    remove(out)
                print(f"{method} {label}: {results[label][-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
        return results

    def compare_outputs(self, method):
        ours, theirs = self.out("warpmerge", method), self.out("mergekit", method)
        if not (os.path.isdir(ours) and os.path.isdir(theirs)):
            return None
        done = subprocess.run([self.args.mergekit_python, "-c", COUNT_UNEQUAL, ours, theirs], check=True,
                              stdout=subprocess.PIPE)
        return json.loads(done.stdout)

    def import_seconds(self):
        return min(run([self.args.mergekit_python, "-c", "import mergekit.scripts.run_yaml"], self.log)["seconds"]
                   for _ in range(2))


def row(bench, method, label, runs, results):
    seconds = statistics.median(r["seconds"] for r in runs)
    ends = min(r["seconds"] for r in runs), max(r["seconds"] for r in runs)
    spread = "" if len(runs) == 1 else f" ({ends[0]:.2f} - {ends[1]:.2f})"
    disk = statistics.median(r["disk_read"] for r in runs) / 1e6

    def against(other, invert):
        if other not in results or label == other:
            return ""
        theirs = statistics.median(r["seconds"] for r in results[other])
        return f"{theirs / seconds if invert else seconds / theirs:.2f}"

    copy = "plain copy, fsync" if label == "warpmerge" else "plain copy"
    rate = (bench.n_in + bench.n_out) / seconds / 1e9
    rss = max(r["rss"] for r in runs) / 2**20
    return (f"| {method} | {label} | {len(runs)} | {seconds:.2f}{spread} | {rate:.2f} | {disk:.0f} | {rss:.0f} | "
            f"{against('mergekit', True)} | {'' if label.startswith('plain') else against(copy, False)} |")


def main():
    parser = argparse.ArgumentParser(description="Speed and memory of mergekit, warpmerge and a plain copy.")
    parser.add_argument("checkpoints", help="folder with base, ft1 and ft2")
    parser.add_argument("--warpmerge", help="the warpmerge binary; without it only the others run")
    parser.add_argument("--plain-copy", help="the plain_copy binary (bench/plain_copy.c)")
    parser.add_argument("--mergekit-python", default=sys.executable, help="interpreter that has mergekit")
    parser.add_argument("--methods", default="linear,ties")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16",
                        help="of mergekit's arithmetic; the output is bf16 either way")
    parser.add_argument("--pin", action="store_true", help="pin mergekit's sort and arithmetic, to compare outputs; "
                        "its speed is then not its own")
    parser.add_argument("--runs", type=int, default=5, help="of warpmerge and the copy")
    parser.add_argument("--mergekit-runs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--also", action="append", default=[], metavar="OPTIONS",
                        help="one more contestant: warpmerge with these options, for example --also=--no-sync")
    parser.add_argument("--scratch", default=None, help="folder for the outputs; several times an output's size")
    parser.add_argument("--json", help="write the raw numbers to this file")
    args = parser.parse_args()
    args.checkpoints = os.path.abspath(args.checkpoints)
    cores = sorted(os.sched_getaffinity(0))[:args.threads]
    os.sched_setaffinity(0, cores)  # inherited by every contestant
    if args.pin:
        os.environ.update(UNFUSED)
    bench = Bench(args)
    raw = {"processor": processor(), "cores": len(cores), "dtype": args.dtype, "bytes_in": bench.n_in,
           "bytes_out": bench.n_out, "pinned": args.pin, "methods": {}}
    try:
        if args.mergekit_runs:
            raw["mergekit_import_seconds"] = bench.import_seconds()
        lines = []
        for method in args.methods.split(","):
            results = bench.method(method)
            raw["methods"][method] = {"runs": results, "outputs": bench.compare_outputs(method)}
            lines += [row(bench, method, label, runs, results) for label, runs in results.items()]
            for path in glob.glob(os.path.join(bench.folder, f"*-{method}")):
                remove(path)
    finally:
        shutil.rmtree(bench.folder)
    print(f"{raw['processor']}, {len(cores)} cores; {bench.n_in / 1e9:.2f} GB in, {bench.n_out / 1e9:.2f} GB out, "
          f"mergekit computing in {args.dtype}; files in the page cache\n")
    print("| method | program | runs | seconds, median (range) | GB/s in + out | read from disk, MB | "
          "peak RSS, MiB | times mergekit's speed | times the copy's time |\n|---|---|---|---|---|---|---|---|---|")
    print("\n".join(lines))
    if "mergekit_import_seconds" in raw:
        print(f"\nOf mergekit's seconds, {raw['mergekit_import_seconds']:.2f} are imports.")
    print("warpmerge is compared with the copy that ends with fsync, as it does; with options, with the one without.")
    for method, result in raw["methods"].items():
        if result["outputs"]:
            o = result["outputs"]
            print(f"{method}: {o['unequal']} of {o['n_elems']} elements differ from mergekit's "
                  f"({100 * o['unequal'] / o['n_elems']:.4f} %), by at most {o['largest_difference']:.3g}.")
    if args.pin:
        print("mergekit's sort was made stable and its arithmetic unfused: its times are not its own.")
    if args.json:
        with open(args.json, "w") as f:
            json.dump(raw, f, indent=1)


if __name__ == "__main__":
    main()
