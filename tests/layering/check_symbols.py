#!/usr/bin/env python3
"""The shared library exports wm_* functions alone, all of the public header, and the archive has no global state.

usage: check_symbols.py libwarpmerge.so libwarpmerge.a
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Writable globals that are there on purpose.
STATE = {
    "file_fault",  # the seam at which tests make system calls fail
    "chosen",  # cpu_dispatch.c: the instruction set, found once
}


# nvcc's: what it needs to register and launch kernels.
NVCC = re.compile(r"__device_stub|^__nv_|__fatbin|__cudaFatCubin|^_ZL\d+__(nv|cuda)|^_ZGVZL\d+__device_stub")


def symbols(*arguments):
    out = subprocess.run(["nm", *arguments], capture_output=True, text=True, check=True).stdout
    for line in out.splitlines():
        match = re.match(r"[0-9a-f]* +([A-Za-z]) (\S+)$", line)
        if match:
            yield match.group(2), match.group(1)


def main():
    shared, archive = sys.argv[1:3]
    problems = []
    header = (ROOT / "include/warpmerge.h").read_text(encoding="utf-8")
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    declared = set(re.findall(r"\b(wm_\w+)\s*\([^;{]*\)\s*;", header))
    exported = {name for name, kind in symbols("-D", "--defined-only", shared)}
    problems += [f"{name} is exported but is not in warpmerge.h" for name in sorted(exported - declared)]
    problems += [f"{name} is in warpmerge.h but is not exported" for name in sorted(declared - exported)]
    for name, kind in symbols("--defined-only", archive):
        # d, b, c: writable data; relocated constants (.data.rel.ro) show as d as well and are told apart by section.
        if kind in "bBcC" and name.split(".")[0] not in STATE and not NVCC.search(name):
            problems.append(f"{name} is global mutable state")
    print("\n".join(problems))
    print(f"{len(declared)} functions declared, {len(exported)} exported, {len(problems)} problems")
    return 1 if problems or not declared else 0


if __name__ == "__main__":
    sys.exit(main())
