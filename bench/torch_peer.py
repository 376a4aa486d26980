#!/usr/bin/env python3
"""The peer on a GPU: PyTorch doing mergekit 0.1's steps (linear, ties) on the same files, for one time in one run.

Reads safetensors shards tensor by tensor, moves each to the GPU, merges with the operations that mergekit's own functions
use (stack and weighted sum; per model a full descending argsort, then sign consensus), brings the result back and writes
shards. Needs torch and safetensors. Prints one JSON object. Arithmetic is in the tensors' type, as mergekit's default;
with --check DIR it is in fp32 with one rounding, and the first tensors are compared with a merge of the same recipe.

usage: torch_peer.py METHOD --out DIR [--device cuda] [--density 0.5] [--check DIR] [--base DIR] MODEL:WEIGHT ...
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

SHARD_BYTES = 5_000_000_000


class Model:
    """Tensors of a model directory by name, one open file at a time per shard."""

    def __init__(self, folder):
        self.files = {}
        self.where = {}
        for path in sorted(Path(folder).glob("*.safetensors")):
            self.files[path] = safe_open(path, framework="pt", device="cpu")
            self.where.update(dict.fromkeys(self.files[path].keys(), path))

    def __getitem__(self, name):
        return self.files[self.where[name]].get_tensor(name)


def linear(tensors, weights):
    stacked = torch.stack(tensors, dim=0)
    w = torch.tensor(weights, dtype=stacked.dtype, device=stacked.device)
    while w.dim() < stacked.dim():
        w = w.unsqueeze(-1)
    return (stacked * w).sum(dim=0) / w.sum(dim=0)


def ties(base, tensors, weights, density, stable):
    deltas = []
    for tensor in tensors:
        delta = tensor - base
        k = int(density * delta.numel())
        mask = torch.zeros_like(delta)
        order = torch.argsort(delta.abs().view(-1), descending=True, stable=stable)
        mask.view(-1)[order[:k]] = 1
        deltas.append(delta * mask)
    stacked = torch.stack(deltas, dim=0)
    w = torch.tensor(weights, dtype=stacked.dtype, device=stacked.device)
    while w.dim() < stacked.dim():
        w = w.unsqueeze(-1)
    weighted = w * stacked
    sign = weighted.sign().to(torch.int8)
    majority = (weighted.sum(dim=0) >= 0).to(torch.int8) * 2 - 1
    mask = sign == majority
    mixed = (weighted * mask).sum(dim=0)
    divisor = (w * mask).sum(dim=0)
    divisor[divisor == 0] = 1
    return (base + mixed / divisor).to(base.dtype)


def merge(args, models, weights, base, name):
    dtype = torch.float32 if args.check else None

    def load(model):
        tensor = model[name]
        return tensor.to(args.device, dtype or tensor.dtype)

    tensors = [load(model) for model in models]
    if args.method == "linear":
        result = linear(tensors, weights)
    else:  # mergekit does not ask for a stable sort; only a stable one keeps the lowest index of equal magnitudes
        result = ties(load(base), tensors, weights, args.density, stable=bool(args.check))
    return result.to(models[0][name].dtype) if args.check else result


def check(args, models, weights, base, names):
    """Elements of the first tensors that differ from a merge made by somebody else."""
    other = Model(args.check)
    n_different = n_elements = 0
    for name in names[:20]:
        ours = merge(args, models, weights, base, name).cpu()
        n_different += int((ours != other[name]).sum())
        n_elements += ours.numel()
    return {"n_different": n_different, "n_elements": n_elements}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=["linear", "ties"])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--out", required=True)
    parser.add_argument("--base")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--density", type=float, default=0.5)
    parser.add_argument("--check")
    args = parser.parse_args()
    pairs = [m.rsplit(":", 1) for m in args.models]
    models = [Model(folder) for folder, _ in pairs]
    weights = [float(weight) for _, weight in pairs]
    base = Model(args.base) if args.base else None
    names = sorted((base or models[0]).where)
    torch.zeros(1, device=args.device)  # starting CUDA is not merging
    out = {"torch": torch.__version__, "method": args.method, "device": args.device, "n_tensors": len(names)}
    if args.check:
        out |= check(args, models, weights, base, names)
    else:
        Path(args.out).mkdir(parents=True)
        began = time.monotonic()
        shard, shard_bytes, n_shards, n_bytes = {}, 0, 0, 0
        for name in names:
            result = merge(args, models, weights, base, name).cpu()
            size = result.numel() * result.element_size()
            if shard and shard_bytes + size > SHARD_BYTES:
                save_file(shard, Path(args.out) / f"model-{n_shards:05d}.safetensors")
                shard, shard_bytes, n_shards = {}, 0, n_shards + 1
            shard[name] = result
            shard_bytes += size
            n_bytes += size
        save_file(shard, Path(args.out) / f"model-{n_shards:05d}.safetensors")
        out |= {"seconds": time.monotonic() - began, "bytes_written": n_bytes,
                "bytes_read": n_bytes * (len(models) + (base is not None))}
    print(json.dumps(out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
