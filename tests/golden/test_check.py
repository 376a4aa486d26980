#!/usr/bin/env python3
"""Holds: check.py turns red for every kind of damage. Damages the expected tensors and asks for the verdict."""

import array
import gzip
import json
import os
import struct
import sys

import check


def load(case):
    with gzip.open(f"expected/{case['name']}.safetensors.gz", "rb") as f:
        return check.parse_safetensors(f.read())


def with_word(tensors, name, index, word):
    """A copy in which one element has another bit pattern. word: a function of the old one."""
    dtype, shape, blob = tensors[name]
    bits = array.array(check.CODES[dtype])
    bits.frombytes(blob)
    bits[index] = word(bits[index])
    return {**tensors, name: (dtype, shape, bits.tobytes())}


def largest(tensors, name):
    values = check.floats(tensors[name][0], check.words(*tensors[name][::2]))
    return max(range(len(values)), key=lambda i: abs(values[i]))


def scaled(factor):
    def word(bits):
        (value,) = struct.unpack("<f", struct.pack("<I", bits))
        return struct.unpack("<I", struct.pack("<f", value * factor))[0]

    return word


def damages():
    """(case, what is done, does the case still pass, damaged tensors)."""
    with open("cases.json") as f:
        cases = {c["name"]: c for c in json.load(f)["cases"]}
    name = "model.layers.1.mlp.up_proj.weight"
    exact, close, bf16, mask = (cases[n] for n in ("ties_3", "slerp_far", "ties_2_d0.5_bf16", "dare_linear_mask"))
    for case in cases.values():
        if case["compare"] != "either":
            yield case, "nothing", True, load(case)
    for case in (exact, close, bf16, mask):
        good = load(case)
        nan = 0x7FC0 if case is bf16 else 0x7FC00000
        yield case, "a NaN", False, with_word(good, name, 7, lambda bits, nan=nan: nan)
        yield case, "a tensor is missing", False, {n: t for n, t in good.items() if n != name}
        yield case, "a tensor too many", False, {**good, "extra": good[name]}
        yield case, "another shape", False, {**good, name: (good[name][0], good[name][1][::-1], good[name][2])}
    good = load(exact)
    yield exact, "the last bit", False, with_word(good, name, 0, lambda bits: bits ^ 1)
    zero = check.words(*good["lm_head.weight"][::2]).index(0)
    yield exact, "the sign of a zero", False, with_word(good, "lm_head.weight", zero, lambda bits: bits | 1 << 31)
    good = load(close)
    at = largest(good, name)
    yield close, "2e-7 relative", True, with_word(good, name, at, scaled(1 + 2e-7))
    yield close, "2e-6 relative", False, with_word(good, name, at, scaled(1 + 2e-6))
    good = load(bf16)
    some = good
    for i in range(bf16["n_elems"] // 1000):
        some = with_word(some, name, i, lambda bits: bits + 1)
    yield bf16, "a neighbour in 0.1 %", True, some
    yield bf16, "one neighbour more", False, with_word(some, name, 20, lambda bits: bits + 1)
    yield bf16, "two units", False, with_word(good, name, 0, lambda bits: bits + 2)
    good = load(mask)
    yield mask, "no mask at all", False, good
    with open(mask["base"], "rb") as f:
        base = check.parse_safetensors(f.read())
    yield mask, "nothing kept", False, base
    mixed = {}
    for i, n in enumerate(sorted(good)):
        words = [check.words(*t[n][::2]) for t in (base, good)]
        chosen = array.array("I", [words[(j * 7 + i) % 5 < 2][j] for j in range(len(words[0]))])
        mixed[n] = (*good[n][:2], chosen.tobytes())
    yield mask, "40 % kept", True, mixed
    yield mask, "neither of the two", False, with_word(mixed, name, 3, lambda bits: bits ^ 1)


def main():
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    n = wrong = 0
    for case, what, passes, tensors in damages():
        n += 1
        tally = check.compare_case(case, tensors)
        if passes == bool(tally.misses):
            wrong += 1
            print(f"{case['name']}, {what}: {tally.misses or 'passed, and should not'}")
    print(f"{n} verdicts, {wrong} wrong")
    return 1 if wrong or n < 100 else 0


if __name__ == "__main__":
    sys.exit(main())
