#!/usr/bin/env python3
"""check_includes.py must go red: each planted violation is found, alone, and a clean tree passes."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from check_includes import check_tree  # noqa: E402

COMMENT = "/* a file of the selftest: what lives here, what it must not know */\n"
CLEAN = {
    "include/warpmerge.h": COMMENT + "int wm_x(void);\n",
    "host/base/text.h": COMMENT + '#include "warpmerge.h"\n',
    "host/base/text.c": COMMENT + '#include "base/text.h"\nint n; /* printf(strcpy) */ const char *s = "exit(1)";\n',
    "host/plan/plan.h": COMMENT + '#include "base/text.h"\n#include "methods/method.h"\n',
    "host/recipe/recipe.h": COMMENT + '#include "methods/method.h"\n',
    "host/checkpoint/checkpoint.h": COMMENT + '#include "base/text.h"\n',
    "host/cluster/comm.h": COMMENT + '#include "base/text.h"\n#include <nccl.h>\n',
    "host/engine/engine.h": COMMENT + '#include "plan/plan.h"\n#include "cluster/comm.h"\n',
    "host/engine/backend_cpu.c": COMMENT + '#include "elementwise/combine.h"\nvoid *p = mmap(0, 1, 2, MAP_PRIVATE |\n MAP_ANONYMOUS, -1, 0);\n',
    "host/engine/backend_cuda.c": COMMENT + "#include <cuda_runtime.h>\n",
    "host/report/report.h": COMMENT + '#include "plan/plan.h"\n',
    "host/cli/cli.h": COMMENT,
    "host/cli/main.c": COMMENT + '#include "cli/cli.h"\n#include "warpmerge.h"\nint main(void) { exit(puts("x")); }\n',
    "kernels/common/hd.h": COMMENT,
    "kernels/methods/method.h": COMMENT + '#include "warpmerge.h"\n',
    "kernels/methods/device.h": COMMENT + "#include <cuda_runtime_api.h>\n",
    "kernels/common/launch.cuh": COMMENT + '#include <cuda_runtime.h>\n#include "cuda_on_cpu_launch.h"\n'
                                 "#define WM_LAUNCH(k, ...) (k)<<<1, 1, 0, s>>>(__VA_ARGS__)\n",
    "kernels/elementwise/x.cu": COMMENT + '#include "common/launch.cuh"\n#include "methods/device.h"\n',
    "host/measure/measure.h": COMMENT + '#include "methods/device.h"\n#include "common/hd.h"\n'.replace("hd.h", "number_format.h"),
    "kernels/common/number_format.h": COMMENT,
    "kernels/elementwise/combine.h": COMMENT + '#include "common/hd.h"\n#include "methods/method.h"\n',
    "tests/unit/test_x.c": COMMENT + '#include "plan/plan.h"\nint main(void) { printf("x"); }\n',
    "tests/unit/test_y.c": COMMENT + "int x;\n" * 599,
    "bootstrap.sh": "#!/bin/sh\n# starts everything\n",
}

# (what is planted, file, its text, part of the expected sentence)
PLANTED = [
    ("upward arrow", "host/base/bad.c", COMMENT + '#include "plan/plan.h"\n', 'must not include "plan/plan.h"'),
    ("checkpoint sees recipe", "host/checkpoint/bad.c", COMMENT + '#include "recipe/recipe.h"\n', "must not include"),
    ("recipe sees checkpoint", "host/recipe/bad.c", COMMENT + '#include "checkpoint/checkpoint.h"\n', "must not include"),
    ("report sees engine", "host/report/bad.c", COMMENT + '#include "engine/engine.h"\n', "must not include"),
    ("cluster sees plan", "host/cluster/bad.c", COMMENT + '#include "plan/plan.h"\n', "must not include"),
    ("plan sees cluster", "host/plan/bad.c", COMMENT + '#include "cluster/comm.h"\n', "must not include"),
    ("cli sees host", "host/cli/bad.c", COMMENT + '#include "base/text.h"\n', "must not include"),
    ("cli is included", "host/engine/bad.c", COMMENT + '#include "cli/cli.h"\n', "must not include"),
    ("engine sees kernels", "host/engine/bad.c", COMMENT + '#include "elementwise/combine.h"\n', "must not include"),
    ("kernels see host", "kernels/methods/bad.c", COMMENT + '#include "base/text.h"\n', "must not include"),
    ("common sees methods", "kernels/common/bad.h", COMMENT + '#include "methods/method.h"\n', "must not include"),
    ("indented include", "host/base/bad.c", COMMENT + '#  include "plan/plan.h"\n', "must not include"),
    ("relative include", "host/plan/bad.c", COMMENT + '#include "plan.h"\n', "is not a path from"),
    ("CUDA header", "host/plan/bad.c", COMMENT + "#include <cuda_runtime.h>\n", "backend_cuda.c"),
    ("CUDA header in C kernels", "kernels/methods/bad.c", COMMENT + "#include <cuda_runtime.h>\n", "backend_cuda.c"),
    ("launch of its own", "kernels/elementwise/bad.cu", COMMENT + "void f() { k<<<1, 1, 0, s>>>(); }\n", "WM_LAUNCH"),
    ("inline PTX", "kernels/elementwise/bad.cu", COMMENT + 'void f() { asm("nop;"); }\n', "no inline PTX"),
    ("default stream", "host/engine/backend_cuda.c", COMMENT + "void f(void) { cudaMemcpy(a, b, 1, 2); }\n", "explicit"),
    ("kernel without comment", "kernels/statistics/bad.cuh", "int x;\n", "first comment"),
    ("long kernel", "kernels/statistics/bad.cu", COMMENT + "int x;\n" * 600, "601 lines"),
    ("measure sees plan", "host/measure/bad.c", COMMENT + '#include "plan/plan.h"\n', "must not include"),
    ("mapped input", "host/checkpoint/bad.c", COMMENT + "void *f(int fd) { return mmap(0, 1, 2, 3, fd, 5); }\n", "never mapped"),
    ("library prints", "host/engine/bad.c", COMMENT + 'void f(void) { printf("x"); }\n', "never prints"),
    ("library exits", "kernels/methods/bad.c", COMMENT + "void f(void) { exit (1); }\n", "never prints"),
    ("unsafe copy", "bench/bad.c", COMMENT + "void f(char *s) { strcpy(s, s); }\n", "strcpy()"),
    ("no first comment", "host/base/bad.c", "int x;\n", "first comment"),
    ("unknown room", "host/misc/bad.c", COMMENT, "no room"),
    ("long file", "host/base/bad.c", COMMENT + "int x;\n" * 600, "601 lines"),
    ("long header", "include/bad.h", COMMENT + "int x;\n" * 600, "601 lines"),
    ("long test", "tests/unit/bad.c", COMMENT + "int x;\n" * 600, "601 lines"),
    ("long test in C++", "tests/cuda_on_cpu/bad.cpp", COMMENT + "int x;\n" * 600, "601 lines"),
    ("long script", "bench/bad.py", "# too much\n" + "x = 1\n" * 600, "601 lines"),
    ("script without comment", "bad.sh", "#!/bin/sh\nexit 0\n", "first comment"),
]


def run(files):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return check_tree(folder)[0]


def main():
    failures = 0
    clean = run(CLEAN)
    if clean:
        print("a clean tree is refused:", clean)
        failures += 1
    for what, name, text, expected in PLANTED:
        found = run({**CLEAN, name: text})
        if len(found) != 1 or found[0][0] != name or expected not in found[0][2]:
            print(f"{what}: expected one finding with {expected!r}, got {found}")
            failures += 1
    print(f"{1 + len(PLANTED)} trees, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
