#!/usr/bin/env python3
"""Help is complete, fits a terminal, is generated from the option table, and takes no time."""

import subprocess
import sys
import time

from harness import PROGRAM, check, contains, equal, run, run_tests

VERBS = ["merge", "plan", "inspect", "methods", "verify", "env", "bench", "completion", "help"]


def test_overview(_):
    r = run("--help")
    equal(r.returncode, 0)
    equal(r.stderr, "")
    contains(r.stdout, "usage", "verbs", "examples", "merging", "output", "resources", "general", "exit codes")
    for verb in VERBS:
        contains(r.stdout, f"\n  {verb} ")
    for code in "0 ok", "2 usage", "65 ", "66 ", "69 ", "70 ", "73 ", "74 ", "75 ", "78 ", "130 and 143":
        contains(r.stdout, code)
    for line in r.stdout.splitlines():
        check(len(line) <= 110, "too wide:", line)


def test_every_verb(_):
    for verb in VERBS[:-1]:
        by_verb, by_option = run("help", verb), run(verb, "--help")
        equal(by_verb.returncode, 0, verb)
        equal(by_verb.stdout, by_option.stdout, verb)
        contains(by_verb.stdout, f"warpmerge {verb}", "examples")


def test_merge_help_names_mergekits_options(_):
    text = run("help", "merge").stdout
    for option in ("allow-crimes", "transformers-cache", "lora-merge-cache", "lora-merge-dtype", "cuda", "device",
                   "low-cpu-memory", "out-shard-size", "copy-tokenizer", "clone-tensors", "trust-remote-code",
                   "random-seed", "lazy-unpickle", "write-model-card", "safe-serialization", "quiet", "read-to-gpu",
                   "multi-gpu", "num-threads", "gpu-rich", "async-write", "write-threads"):
        contains(text, option)


def test_version(_):
    for spelling in "--version", "-V":
        r = run(spelling)
        equal(r.returncode, 0)
        check(r.stdout.startswith("warpmerge 0."), r.stdout)


def test_unknown_verb_in_help(_):
    r = run("help", "mrege")
    equal(r.returncode, 2)
    contains(r.stderr, 'no verb "mrege"', 'did you mean "merge"')


def test_time(_):
    if sys.argv[2:] not in ([], ["none"]):
        return
    best = 1e9
    for _ in range(7):
        began = time.monotonic()
        run("--help")
        best = min(best, time.monotonic() - began)
    check(best < 0.050, f"--help took {best * 1e3:.1f} ms")


def test_completions(_):
    for shell in "bash", "zsh", "fish":
        r = run("completion", shell)
        equal(r.returncode, 0)
        contains(r.stdout, "out-shard-size", "inspect")
    script = run("completion", "bash").stdout
    equal(subprocess.run(["bash", "-n"], input=script, text=True).returncode, 0)
    probe = script + """
COMP_WORDS=(warpmerge merge --mem); COMP_CWORD=2; _warpmerge; echo "${COMPREPLY[@]}"
COMP_WORDS=(warpmerge merge --device c); COMP_CWORD=3; _warpmerge; echo "${COMPREPLY[@]}"
COMP_WORDS=(warpmerge insp); COMP_CWORD=1; _warpmerge; echo "${COMPREPLY[@]}"
"""
    r = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, cwd="/")
    equal(r.stdout.split("\n")[:3], ["--memory", "cpu cuda", "inspect"], r.stderr)
    equal(run("completion", "tcsh").returncode, 2)


def test_closed_pipe_is_quiet(_):
    p = subprocess.run(["bash", "-c", f'"{PROGRAM}" --help | head -1; echo "${{PIPESTATUS[0]}}"'], capture_output=True,
                       text=True)
    equal(p.stderr, "")
    equal(p.stdout.split()[-1], "0")


def test_full_disk_is_told(_):
    with open("/dev/full", "w") as full:
        r = run("--help", stdout=full, stderr=subprocess.PIPE, capture_output=False)
    equal(r.returncode, 74)
    contains(r.stderr, "standard output", "No space left")


run_tests(sys.modules[__name__])
