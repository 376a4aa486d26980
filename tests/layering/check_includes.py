#!/usr/bin/env python3
"""Holds the arrows between rooms and the rules of the house that a compiler does not check.

Standard library only. Prints one line per violation, as file:line: sentence, and exits with 1 if there is any.
usage: check_includes.py [ROOT]
"""

import re
import sys
from pathlib import Path

# Room -> what its files may include, as prefixes of paths from the roots include/, host/ and kernels/.
METHOD = ["methods/method.h"]
TILE = METHOD + ["methods/tile.h", "statistics/model_statistics.h"]
ROOMS = {
    "host/base": ["warpmerge.h", "base/"],
    "host/checkpoint": ["warpmerge.h", "base/", "checkpoint/"],
    "host/recipe": ["warpmerge.h", "base/", "recipe/"] + METHOD,
    "host/plan": ["warpmerge.h", "base/", "recipe/", "checkpoint/", "plan/"] + TILE,
    "host/engine": ["warpmerge.h", "base/", "recipe/", "checkpoint/", "plan/", "cluster/", "engine/"] + TILE,
    "host/cluster": ["warpmerge.h", "base/", "cluster/"],
    "host/report": ["warpmerge.h", "base/", "recipe/", "checkpoint/", "plan/", "report/"] + TILE,
    "host/measure": ["warpmerge.h", "base/", "measure/", "methods/device.h",
                     "methods/device_group.h", "common/number_format.h"] + TILE,
    "host/api": ["warpmerge.h", "base/", "recipe/", "checkpoint/", "plan/", "engine/", "cluster/", "report/", "measure/",
                 "api/"] + TILE,
    "host/cli": ["warpmerge.h", "cli/"],
    "kernels/common": ["warpmerge.h", "common/"],
    "kernels/methods": ["warpmerge.h", "common/", "methods/"],
    "kernels/elementwise": ["warpmerge.h", "common/", "methods/", "convert/", "statistics/", "elementwise/"],
    "kernels/statistics": ["warpmerge.h", "common/", "methods/", "convert/", "statistics/"],
    "kernels/convert": ["warpmerge.h", "common/", "methods/", "convert/"],
    "include": [],
}
# Files that see more than their room does: backends drive the kernels; the dispatch is a table of all drivers.
KERNELS = ["common/", "methods/", "convert/", "statistics/", "elementwise/"]
EXTRA = [(re.compile(r"host/engine/backend_\w+\.[ch]$"), KERNELS), (re.compile(r"kernels/common/cpu_dispatch\.[ch]$"), KERNELS)]
GPU_HEADER = re.compile(r"(cuda|cublas|curand|cusolver|nvtx|nvToolsExt|nvml|nccl)\w*(\.h|/)")
GPU_FILE = re.compile(r"(host/engine/backend_cuda\w*\.[ch]|host/cluster/.*|kernels/methods/device\.h|.*\.cuh?)$")
# What kernels do not do (DESIGN section 4): start except through launch.cuh, or on the default stream; inline PTX.
LAUNCH = re.compile(r"<<<")
DEVICE_FORBIDDEN = [(re.compile(r"\basm\b|\b__asm__\b"), "no inline PTX: "),
                    (re.compile(r"\bcuda(Memcpy|Memset|Memcpy2D|DeviceSynchronize|StreamLegacy|StreamDefault)\b"),
                     "streams are explicit and nothing waits for the whole device: "),
                    (re.compile(r"\bcudaStreamPerThread\b"), "streams are explicit: ")]

# The library neither prints nor ends the process (DESIGN section 6).
LIBRARY_FORBIDDEN = ("printf fprintf vprintf vfprintf puts fputs putchar putc fputc perror exit _exit _Exit abort assert "
                     "quick_exit raise kill").split()
# No bounds, no errors, hidden state, or a shell.
PRODUCT_FORBIDDEN = "strcpy strcat sprintf vsprintf gets strtok atoi atol atoll atof system popen alloca".split()

MAX_LINES = 600
CODE = {".c", ".h", ".cu", ".cuh", ".cpp", ".def"}
SCRIPTS = {".py", ".sh"}


def without_comments_and_strings(text):
    """Same length and line numbers, with comments and literals blanked out."""
    token = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return token.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def calls(code, names):
    for match in re.finditer(r"(?<![\w.>])(%s)\s*\(" % "|".join(names), code):
        yield match.group(1), match.start()


def room_of(path):
    for room in ROOMS:
        if path.startswith(room + "/"):
            return room
    return None


def check_code(path, text, existing):
    """path: from the root, with slashes; existing: the set of all code paths, to see what an include means."""
    found = []
    code = without_comments_and_strings(text)
    room = room_of(path)
    top = path.split("/")[0]
    if top in ("host", "kernels", "include") and room is None:
        found.append((1, "no room of that name: the rooms are " + ", ".join(sorted(ROOMS))))
    allowed = list(ROOMS.get(room, []))
    for pattern, more in EXTRA:
        if pattern.match(path):
            allowed += more
    for match in re.finditer(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', text, re.M):
        line, kind, target = line_of(text, match.start()), match.group(1), match.group(2)
        if kind == "<":
            if GPU_HEADER.match(target) and not GPU_FILE.match(path):
                found.append((line, f"<{target}> belongs to backend_cuda.c, cluster/ and *.cu alone"))
            continue
        if room is None or (path, target) == ("kernels/common/launch.cuh", "cuda_on_cpu_launch.h"):
            continue
        if not any("%s/%s" % (root, target) in existing for root in ("include", "host", "kernels")):
            found.append((line, f'"{target}" is not a path from include/, host/ or kernels/'))
        elif not any(target == a or (a.endswith("/") and target.startswith(a)) for a in allowed):
            found.append((line, f'{room} must not include "{target}"'))
    if top in ("host", "kernels") and room != "host/cli":
        for name, at in calls(code, LIBRARY_FORBIDDEN):
            found.append((line_of(code, at), f"the library never prints or exits: {name}()"))
    if top != "tests":
        for name, at in calls(code, PRODUCT_FORBIDDEN):
            found.append((line_of(code, at), f"{name}() is not used here"))
    if top in ("host", "kernels"):
        if path != "kernels/common/launch.cuh":
            for match in LAUNCH.finditer(code):
                found.append((line_of(code, match.start()), "kernels start through WM_LAUNCH of common/launch.cuh alone: <<<"))
        for pattern, sentence in DEVICE_FORBIDDEN:
            for match in pattern.finditer(code):
                found.append((line_of(code, match.start()), sentence + match.group()))
        for name, at in calls(code, ["mmap", "mmap64"]):
            if "MAP_ANONYMOUS" not in code[at : code.find(";", at)]:
                found.append((line_of(code, at), f"inputs are never mapped (a file cut short raises SIGBUS): {name}()"))
    first = re.match(r"\s*(/\*.*?\*/|//[^\n]*)", text, re.S)
    if not first or len(first.group(1).split()) < 4:
        found.append((1, "the first comment says what lives here and what it must not know"))
    return found


def check_script(text):
    body = re.sub(r"\A#![^\n]*\n", "", text)
    if re.match(r'\s*(#\s*\S|"""\s*\S)', body):
        return []
    return [(1, "the first comment says what this script is for")]


def check_tree(root):
    """All violations below root as (path, line, sentence)."""
    root = Path(root)
    tops = ["include", "host", "kernels", "bench", "tests", "docker"]
    paths = [p for top in tops for p in sorted((root / top).rglob("*")) if p.is_file()]
    paths += [p for p in sorted(root.glob("*.sh"))]
    names = {p.relative_to(root).as_posix() for p in paths}
    found = []
    for p in paths:
        name = p.relative_to(root).as_posix()
        if p.suffix not in CODE | SCRIPTS:
            continue
        text = p.read_text(encoding="utf-8", errors="replace")
        n_lines = text.count("\n")
        problems = check_code(name, text, names) if p.suffix in CODE else check_script(text)
        if n_lines > MAX_LINES:
            problems.append((n_lines, f"{n_lines} lines: a file does one job in at most {MAX_LINES}"))
        found += [(name, line, sentence) for line, sentence in problems]
    return found, len(names)


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[2]
    found, n_files = check_tree(root)
    for name, line, sentence in found:
        print(f"{name}:{line}: {sentence}")
    print(f"{n_files} files, {len(found)} violations")
    return 1 if found or n_files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
