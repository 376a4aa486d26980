#!/usr/bin/env python3
"""Every header compiles alone as C11 with our warnings; with --cxx the public header compiles as C++.

usage: check_headers.py COMPILER [--cxx]
An absent C++ compiler exits with 77, which ctest reports as skipped.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wundef", "-Werror"]

CUDA = [Path("/usr/local/cuda/include"), ROOT / "tests/cuda_on_cpu"]  # the shim's headers do as well


def needs_cuda(header):
    return any(word in header.read_text(encoding="utf-8") for word in ("cuda_runtime_api.h", "methods/device.h"))


def compiles(command, header):
    result = subprocess.run(command + [str(header)], cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        print(f"{header} does not compile alone:\n{result.stderr}")
    return result.returncode == 0


def main():
    compiler = sys.argv[1]
    if "--cxx" in sys.argv:
        if not shutil.which(compiler):
            print(f"skipped: no C++ compiler ({compiler})")
            return 77
        command = [compiler, "-x", "c++", "-std=c++11", "-fsyntax-only", "-Iinclude"] + WARNINGS
        return 0 if compiles(command, "include/warpmerge.h") else 1
    cuda = next((d for d in CUDA if (d / "cuda_runtime_api.h").is_file()), None)
    headers = [h.relative_to(ROOT) for top in ("include", "host", "kernels", "bench") for h in (ROOT / top).rglob("*.h")]
    if not cuda:
        headers = [h for h in headers if not needs_cuda(ROOT / h)]
    command = [compiler, "-x", "c", "-std=c11", "-D_GNU_SOURCE", "-DWM_ISA=portable", "-fsyntax-only",
               "-Iinclude", "-Ihost", "-Ikernels"] + WARNINGS + ["-Wstrict-prototypes", "-Wmissing-prototypes"]
    command += ["-isystem", str(cuda), "-DWM_HAVE_CUDA"] if cuda else []
    failures = sum(not compiles(command, h) for h in sorted(headers))
    print(f"{len(headers)} headers, {failures} failures")
    return 1 if failures or not headers else 0


if __name__ == "__main__":
    sys.exit(main())
