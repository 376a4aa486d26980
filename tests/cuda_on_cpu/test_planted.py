#!/usr/bin/env python3
"""Every planted bug is caught by the means that is meant to catch it, and the same kernels without bugs pass everywhere.

usage: test_planted.py COMPILER BUILD=PROGRAM... with COMPILER as CMake names it, and BUILD plain, asan or tsan (what is
not given is not tested)
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

LAZY = {"CUDA_ON_CPU_LAZY": "1"}
UNORDERED = {"CUDA_ON_CPU_UNORDERED": "1"}
TWO_DEVICES = {"CUDA_ON_CPU_DEVICES": "2"}
WRONG = r"wrong numbers"
RACE = r"WARNING: ThreadSanitizer: data race"

# Planted bug, build, environment, what must be printed. Every run must also end with a failure.
CAUGHT = [
    ("missing_barrier", "tsan", {}, RACE + r"(?s:.*)two_stage_sum(?s:.*)blocks\.cu:\d+"),
    ("missing_barrier", "tsan", {"CUDA_ON_CPU_ORDER": "reverse"}, RACE),
    ("missing_barrier", "tsan", {"CUDA_ON_CPU_ORDER": "shuffled"}, RACE),
    ("missing_barrier", "plain", {}, WRONG),
    ("missing_second_barrier", "tsan", {}, RACE),
    ("divergent_barrier", "plain", {}, r"blocks\.cu:\d+: divergent barrier: thread 64 .* thread 0 waits"),
    ("deadlock", "plain", {}, r"deadlock(?s:.*)thread 0 wait at the block barrier of .*blocks\.cu(?s:.*)__syncwarp"),
    ("race_between_blocks", "tsan", UNORDERED, RACE + r"(?s:.*)count_blocks"),
    ("dynamic_shared_end", "asan", {}, r"heap-buffer-overflow(?s:.*)reverse_dynamic.*bounds\.cu:\d+"),
    ("static_shared_end", "asan", {}, r"global-buffer-overflow(?s:.*)reverse_static.*bounds\.cu:\d+"),
    ("global_end", "asan", {}, r"heap-buffer-overflow(?s:.*)add_one.*bounds\.cu:\d+"),
    ("misaligned_load", "asan", {}, r"bounds\.cu:\d+.*misaligned address"),
    ("host_reads_new", "asan", {}, r"use-after-poison(?s:.*)host_reads_new"),
    ("host_reads_copied", "asan", {}, r"use-after-poison(?s:.*)host_reads_copied"),
    ("host_reads_computed", "asan", {}, r"use-after-poison(?s:.*)host_reads_computed"),
    ("other_device", "asan", TWO_DEVICES, r"use-after-poison(?s:.*)add_one"),
    ("shuffle_after_return", "plain", {}, r"warps\.cu:\d+: .*lane \d+, which has returned"),
    ("lane_that_is_not_there", "plain", {}, r"names lane 20, which the block of 20 threads does not have"),
    ("lane_not_in_its_mask", "plain", {}, r"lane 4 is not in its own mask 0000000f of __ballot_sync"),
    ("lane_outside_the_mask", "plain", {}, r"asks __shfl_sync for the value of lane 20, which mask 0000ffff leaves out"),
    ("missing_syncwarp", "tsan", {}, RACE + r"(?s:.*)pass_on"),
    ("missing_syncwarp", "plain", {}, WRONG),
    ("staging_refilled", "plain", LAZY, WRONG),
    ("staging_refilled", "tsan", {}, RACE + r"(?s:.*)staging_refilled"),
    ("upload_not_awaited", "plain", LAZY, WRONG),
    ("upload_not_awaited", "tsan", {}, RACE + r"(?s:.*)add_ten"),
    ("plain_upload_not_awaited", "plain", LAZY, WRONG),
    ("plain_upload_not_awaited", "tsan", {}, RACE + r"(?s:.*)add_ten"),
    ("download_not_awaited", "plain", LAZY, WRONG),
    ("download_not_awaited", "tsan", {}, RACE + r"(?s:.*)download_not_awaited"),
]
# What clang 14 does not see: it puts no zones around variables in sections of their own, and does not check the alignment
# of a structure that is copied whole.
GNU_ONLY = {"static_shared_end", "misaligned_load"}
# The reason why both stream policies and the unordered mode exist: these runs see nothing.
SILENT = [
    ("staging_refilled", "plain", {}),
    ("upload_not_awaited", "plain", {}),
    ("plain_upload_not_awaited", "plain", {}),
    ("download_not_awaited", "plain", {}),
    ("race_between_blocks", "tsan", {}),
    ("other_device", "asan", {}),
]
RIGHT = [{}, LAZY, {"CUDA_ON_CPU_ORDER": "shuffled"}, {**LAZY, **TWO_DEVICES, "CUDA_ON_CPU_ORDER": "reverse"}]


def run(program, arguments, environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CUDA_ON_CPU_")}
    options = {"ASAN_OPTIONS": "detect_stack_use_after_return=1:abort_on_error=0", "TSAN_OPTIONS": "exitcode=66"}
    done = subprocess.run([program] + arguments, env={**clean, **options, **environment}, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return done.returncode, done.stdout


def main():
    compiler = sys.argv[1]
    programs = dict(argument.split("=", 1) for argument in sys.argv[2:])
    problems = []
    cases = [(name, build, env, ["bug"], pattern) for name, build, env, pattern in CAUGHT]
    cases += [(name, build, env, ["bug"], None) for name, build, env in SILENT]
    cases += [("right", build, env, [], None) for build in programs for env in RIGHT]
    cases = [case for case in cases if case[1] in programs and (compiler == "GNU" or case[0] not in GNU_ONLY)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda case: run(programs[case[1]], [case[0]] + case[3], case[2]), cases))
    for (name, build, env, arguments, pattern), (code, output) in zip(cases, results):
        what = f"{name} {' '.join(arguments)} in the {build} build with {env or 'no settings'}"
        if pattern is None and code != 0:
            problems.append(f"{what}: exit {code}, expected 0\n{output[:3000]}")
        if pattern is not None and (code == 0 or not re.search(pattern, output)):
            problems.append(f"{what}: exit {code}, expected a failure that says {pattern}\n{output[:3000]}")
    print("\n".join(problems))
    print(f"{len(cases)} runs, {len(problems)} problems")
    return 1 if problems or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
