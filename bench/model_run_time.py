#!/usr/bin/env python3
"""A model of run time: what each wire of a machine would take for a merge, which one binds, and the total.

Nothing here is a measurement of a merge. Bytes are those of a plan (`warpmerge plan CONFIG --ranks N --json`); rates are
those of `warpmerge bench --dir DIR --json` where such a file is given, those given as options, and otherwise the assumed
figures below, each with its reason. The output says of every rate which of the three it is.

The arithmetic, stage by stage (in: bytes read, out: bytes written, share: of the fullest of N ranks, one GPU each):
  storage         in / read rate + out / write rate on one array; the larger of the two with --separate-arrays
  host memory     in x 2 (the drive puts it there, the GPU takes it; x 4 from the page cache, which is copied first)
                  + out x 3 (the GPU puts it there, the checksum reads it, the drive takes it), over all nodes
  page cache      (--cached) in / rate of copying out of it
  upload          share of in / rate of one GPU's wire; download likewise; both ways at once
  kernels         on device memory: (touches + 1) x share of in + 2 x share of out; touches: how often the kernels read the
                  inputs, + 1 for the upload that writes them; the output is written and then read by the download;
                  or from measured seconds per element, where bench.json has this method on a GPU
  processors      (--cpu, instead of the GPU's three and the page cache) measured seconds per element, + that copying
Stages overlap, so the run takes as long as the slowest, after the start and before the flush, which overlap with nothing.

usage: model_run_time.py [--plan plan.json] [--bench bench.json] [--cpu] [options]; see --help
"""

import argparse
import json
import sys

GB = 1e9
# One node of eight H200-class GPUs. "Notes" are the project's performance notes, section 1.
ASSUMED = {
    "storage_read": (45 * GB, "8 NVMe drives, striped (notes: 40 to 50 GB/s)"),
    "storage_write": (24 * GB, "8 NVMe drives, striped (notes: 141 GB in 5 to 8 s)"),
    "host_memory": (400 * GB, "2 sockets of 8 channels DDR5-5600, 717 GB/s on paper"),
    "page_cache": (72 * GB, "8 readers, 9 GB/s each (notes 2: 8 to 10 a core)"),
    "h2d": (55 * GB, "PCIe 5 x16 (notes)"),
    "d2h": (55 * GB, "PCIe 5 x16 (notes)"),
    "device_copy": (4300 * GB, "HBM3e, both directions counted (notes)"),
    "kernel_share": (0.6, "of the copy rate; the CPU's statistics reach 0.65 of memcpy"),
    "start_seconds": (2.0, "processes, CUDA contexts, pinned ring"),
    "flush_seconds": (0.02, "per shard, one after the other; data went past the page cache"),
}
# How often the kernels read the inputs: element-wise once; a Gram matrix once more; k-th magnitudes by two histograms.
TOUCHES = {"ties": 3, "slerp": 2, "nuslerp": 2, "dare_linear": 2, "dare_ties": 2}
# Names in bench.json, the best first.
CEILINGS = {
    "storage_read": ("storage_read_direct", "storage_read"),
    "storage_write": ("storage_write_direct", "storage_write"),
    "host_memory": ("host_copy",),
    "page_cache": ("storage_read_cached",),
    "h2d": ("h2d",),
    "d2h": ("d2h",),
    "device_copy": ("device_copy",),
}


class Figure:
    """A number and where it comes from: measured, given or assumed."""

    def __init__(self, value, kind, why):
        self.value, self.kind, self.why = value, kind, why


class Work:
    """What a merge moves, in bytes; of the fullest rank where a stage belongs to one rank."""

    def __init__(self, n_in, n_out, n_elems, n_ranks, n_shards, share_in, share_out, method, n_models):
        self.n_in, self.n_out, self.n_elems, self.n_ranks, self.n_shards = n_in, n_out, n_elems, n_ranks, n_shards
        self.share_in, self.share_out, self.method, self.n_models = share_in, share_out, method, n_models


def work_of_plan(plan):
    ranks = plan.get("ranks") or {"n_ranks": 1, "shares": [{"bytes_read": plan["bytes_in"],
                                                            "bytes_written": plan["bytes_out"]}]}
    fullest = max(ranks["shares"], key=lambda s: s["bytes_read"] + s["bytes_written"])
    # Tensors that a plan reads twice are read twice by whoever has them: in proportion, for want of better.
    again = plan["bytes_to_read"] / plan["bytes_in"] if plan["bytes_in"] else 1.0
    n_models = sum(not m["base"] for m in plan["models"])
    return Work(plan["bytes_to_read"], plan["bytes_out"], plan["n_params"], ranks["n_ranks"], len(plan["shards"]),
                fullest["bytes_read"] * again, fullest["bytes_written"], plan["method"], n_models)


def seconds_per_elem(bench, work, dtype):
    """Of the largest tensors measured, all passes; the method's row with as many models and density 0.5 if there is one."""
    rows = [k for k in bench["kernels"] if k["part"] == "whole" and k["dtype"] == dtype and
            k["kernel"].split(",")[0] == work.method and k["n_models"] == work.n_models]
    rows = [k for k in rows if "density 0.5" in k["kernel"]] or rows
    if not rows:
        return None
    row = max(rows, key=lambda k: k["n_elems"])
    return (row["batch"] or row["cold"])["seconds"] / row["n_elems"]


def figures(args, bench, work):
    """Every rate by name. Options win over the bench, the bench over assumptions."""
    result = {name: Figure(value, "assumed", why) for name, (value, why) in ASSUMED.items()}
    if bench:
        measured = {c["id"]: c["bytes_per_second"] for c in bench["ceilings"]}
        for name, ids in CEILINGS.items():
            for i in ids:
                if i in measured:
                    result[name] = Figure(measured[i], "measured", "%s, %s" % (i, bench["device"]))
                    break
        per_elem = seconds_per_elem(bench, work, args.dtype)
        if per_elem and bench["gpu"] != args.cpu:
            result["elem"] = Figure(per_elem, "measured", "%s, %d models, whole" % (work.method, work.n_models))
    for name in ASSUMED:
        value = getattr(args, name)
        if value is not None:
            scale = 1 if name.endswith("_seconds") or name == "kernel_share" else GB
            result[name] = Figure(value * scale, "given", "")
    return result


def stages(work, f, n_nodes, separate_arrays=False, cached=False, cpu=False, touches=None):
    """[(name, what is divided by what, seconds, [names of figures])], those that overlap."""
    touches = touches or TOUCHES.get(work.method, 1)
    result = []
    read = 0.0 if cached else work.n_in / f["storage_read"].value
    write = work.n_out / f["storage_write"].value
    if separate_arrays:
        result += [("storage read", "in", read, ["storage_read"]), ("storage write", "out", write, ["storage_write"])]
    else:
        result += [("storage", "write" if cached else "read, then write", read + write,
                    ["storage_write"] if cached else ["storage_read", "storage_write"])]
    times_in = 4 if cached else 2
    result.append(("host memory", "%d x in + 3 x out" % times_in,
                   (times_in * work.n_in + 3 * work.n_out) / (n_nodes * f["host_memory"].value), ["host_memory"]))
    if cpu:
        copying = work.n_in / f["page_cache"].value if cached else 0.0
        result.append(("processors", "elements" + (", copies of in" if cached else ""),
                       work.n_elems * f["elem"].value + copying, ["elem"] + (["page_cache"] if cached else [])))
        return result
    if cached:
        result.append(("page cache", "in", work.n_in / f["page_cache"].value, ["page_cache"]))
    result.append(("upload", "share of in", work.share_in / f["h2d"].value, ["h2d"]))
    if "elem" in f:
        share = work.share_in / work.n_in if work.n_in else 0.0
        result.append(("kernels", "share of elements", work.n_elems * share * f["elem"].value, ["elem"]))
    else:
        moved = (touches + 1) * work.share_in + 2 * work.share_out
        result.append(("kernels", "%d x share of in + 2 x of out" % (touches + 1),
                       moved / (f["device_copy"].value * f["kernel_share"].value), ["device_copy", "kernel_share"]))
    result.append(("download", "share of out", work.share_out / f["d2h"].value, ["d2h"]))
    return result


def total(overlapping, work, f):
    """(binding stage's name, its seconds, start, flush, seconds of the whole run)"""
    name, _, seconds, _ = max(overlapping, key=lambda s: s[2])
    start, flush = f["start_seconds"].value, f["flush_seconds"].value * work.n_shards
    return name, seconds, start, flush, start + seconds + flush


def figure_text(name, figure):
    if name == "elem":
        text = "%.3f ns" % (figure.value * 1e9)
    elif name == "kernel_share":
        text = "x %.2f" % figure.value
    elif name.endswith("_seconds"):
        text = "%.2f s" % figure.value
    else:
        text = "%.4g GB/s" % (figure.value / GB)
    return "%s %s" % (text, figure.kind)


def table(rows):
    """Markdown, which reads well enough as text."""
    lines = ["| %s |" % " | ".join(row) for row in rows]
    return "\n".join([lines[0], "|%s" % ("---|" * len(rows[0]))] + lines[1:])


def parser():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--plan", help="output of: warpmerge plan CONFIG --ranks N --json")
    p.add_argument("--bench", help="output of: warpmerge bench --dir DIR --json")
    p.add_argument("--cpu", action="store_true", help="processors compute; needs --bench without a GPU")
    p.add_argument("--cached", action="store_true", help="inputs lie in the page cache")
    p.add_argument("--separate-arrays", action="store_true", help="inputs and output on different drives")
    p.add_argument("--gpus-per-node", type=int, default=8)
    p.add_argument("--touches", type=int, help="how often the kernels read the inputs")
    p.add_argument("--dtype", default="BF16", help="of the rows of bench.json")
    p.add_argument("--measured-seconds", type=float, help="what a run took, to compare with")
    p.add_argument("--json", action="store_true")
    for name, (value, why) in ASSUMED.items():
        unit = "s" if name.endswith("_seconds") else "" if name == "kernel_share" else "GB/s"
        p.add_argument("--" + name.replace("_", "-"), type=float, metavar=unit.upper() or "X",
                       help="assumed: %g %s; %s" % (value / GB if unit == "GB/s" else value, unit, why))
    # Without a plan: the notes' 70B example.
    p.add_argument("--bytes-in", type=float, default=423.3e9)
    p.add_argument("--bytes-out", type=float, default=141.1e9)
    p.add_argument("--elements", type=float, default=70.55e9)
    p.add_argument("--gpus", type=int, default=8)
    p.add_argument("--balance", type=float, default=1.0, help="largest share over mean")
    p.add_argument("--shards", type=int, default=29)
    p.add_argument("--method", default="ties")
    p.add_argument("--models", type=int, default=2)
    return p


def load(path, schema):
    with open(path) as f:
        data = json.load(f)
    if data.get("schema") != "warpmerge-" + schema:
        raise SystemExit("%s is no output of `warpmerge %s --json`" % (path, schema))
    return data


def main(argv):
    args = parser().parse_args(argv)
    if args.plan:
        work = work_of_plan(load(args.plan, "plan"))
    else:
        share = args.balance / args.gpus
        work = Work(args.bytes_in, args.bytes_out, args.elements, args.gpus, args.shards, args.bytes_in * share,
                    args.bytes_out * share, args.method, args.models)
    bench = load(args.bench, "bench") if args.bench else None
    f = figures(args, bench, work)
    if args.cpu and "elem" not in f:
        raise SystemExit("--cpu needs --bench with %s of %d models on processors" % (work.method, work.n_models))
    n_nodes = -(-work.n_ranks // args.gpus_per_node)
    overlapping = stages(work, f, n_nodes, args.separate_arrays, args.cached, args.cpu, args.touches)
    binding, slowest, start, flush, seconds = total(overlapping, work, f)
    used = sorted({name for s in overlapping for name in s[3]} | {"start_seconds", "flush_seconds"})
    if args.json:
        print(json.dumps({"schema": "warpmerge-model", "schema_version": 1, "binding": binding, "seconds": seconds,
                          "stages": {s[0]: s[2] for s in overlapping}, "start": start, "flush": flush,
                          "figures": {n: {"value": f[n].value, "kind": f[n].kind, "why": f[n].why} for n in used}}))
        return 0
    print("Modelled, not measured: %s of %d models, %.0f GB in, %.0f GB out, %d rank%s, the fullest %.4f of the mean.\n" % (
        work.method, work.n_models, work.n_in / GB, work.n_out / GB, work.n_ranks, "" if work.n_ranks == 1 else "s",
        work.share_in * work.n_ranks / work.n_in if work.n_in else 1.0))
    rows = [("stage", "bytes", "rate", "seconds")]
    for name, what, s, names in overlapping:
        rows.append(("**%s**" % name if name == binding else name, what, ", ".join(figure_text(n, f[n]) for n in names),
                     "%.2f" % s))
    rows.append(("start", "", figure_text("start_seconds", f["start_seconds"]), "%.2f" % start))
    rows.append(("flush", "%d shards" % work.n_shards, figure_text("flush_seconds", f["flush_seconds"]), "%.2f" % flush))
    print(table(rows))
    print("\nBound by %s: %.1f s; with start and flush %.1f s, %.2f of that floor. One stage after the other: %.1f s." % (
        binding, slowest, seconds, seconds / slowest if slowest else 1.0, sum(s[2] for s in overlapping) + start + flush))
    if args.measured_seconds:
        print("A run took %.2f s: %.2f times the model's." % (args.measured_seconds, args.measured_seconds / seconds))
    print("\nRates:")
    for name in used:
        print("  %-14s %-24s %s" % (name, figure_text(name, f[name]), f[name].why))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
