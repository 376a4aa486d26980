#!/usr/bin/env python3
"""Wrong command lines end with exit code 2 and a sentence that helps; mergekit's options are understood."""

import json
import sys

from harness import check, contains, equal, run, run_tests, write_pair

WRONG = [
    ([], ["nothing to do", "--help"]),
    (["--memoy", "1G"], ["unknown option --memoy", "did you mean --memory?"]),
    (["--no-copy-tokeniser", "x.yml", "y"], ["unknown option --no-copy-tokeniser", "did you mean --no-copy-tokenizer?"]),
    (["--zzzzzzzzzz"], ["unknown option --zzzzzzzzzz", "--help"]),
    (["-Z"], ["unknown option -Z"]),
    (["mrge", "x.yml", "y"], ["no verb or config mrge", "did you mean `merge`?"]),
    (["merge", "x.yml"], ["`merge` needs more", "merge CONFIG OUT"]),
    (["plan"], ["`plan` needs more"]),
    (["inspect"], ["`inspect` needs more"]),
    (["verify"], ["`verify` needs more"]),
    (["merge", "a.yml", "b", "c"], ["too many", "c"]),
    (["env", "x"], ["too many", "x"]),
    (["methods", "a", "b"], ["too many"]),
    (["a.yml", "b", "--memory"], ["a value is missing after --memory"]),
    (["a.yml", "b", "-j"], ["a value is missing after -j"]),
    (["a.yml", "b", "--memory", "lots"], ["--memory takes a size", '"lots"']),
    (["a.yml", "b", "--memory=0"], ["--memory takes a size"]),
    (["a.yml", "b", "--tile", "-1"], ["--tile takes a size"]),
    (["a.yml", "b", "--threads", "0"], ["--threads takes a number from 1"]),
    (["a.yml", "b", "--threads", "9999"], ["--threads takes a number from 1 to 1024"]),
    (["plan", "a.yml", "--ranks", "0"], ["--ranks takes a number from 1 to 4096"]),
    (["plan", "a.yml", "--ranks", "4097"], ["--ranks takes a number from 1 to 4096"]),
    (["a.yml", "b", "--seed", "-1"], ["--seed takes a whole number"]),
    (["a.yml", "b", "--seed", "18446744073709551616"], ["--seed takes a whole number"]),
    (["a.yml", "b", "--device", "xpu"], ["--device takes one of auto, cpu, cuda", '"xpu"']),
    (["a.yml", "b", "--nonfinite", "warn"], ["--nonfinite takes one of error, propagate"]),
    (["a.yml", "b", "--progress=fancy"], ["--progress takes one of auto, bar, plain, json, none"]),
    (["a.yml", "b", "--json=yes"], ["no value goes with --json=yes"]),
    (["a.yml", "b", "--out-shard-size", "5X"], ["--out-shard-size takes a size"]),
    (["a.yml", "b", "--no-safe-serialization"], ["--no-safe-serialization is refused", "pickles"]),
    (["inspect", "x", "--memory", "1G"], ["--memory has no meaning for `inspect`"]),
    (["env", "--sha256"], ["--sha256 has no meaning for `env`"]),
    (["methods", "teis"], ['no method "teis"', 'did you mean "ties"']),
    (["completion", "powershell"], ["powershell", "bash, zsh or fish"]),
]


def test_wrong(_):
    for arguments, parts in WRONG:
        r = run(*arguments)
        equal(r.returncode, 2, arguments, r.stderr)
        equal(r.stdout, "", arguments)
        check(r.stderr.startswith("error: ") and r.stderr.count("\n") == 1, arguments, r.stderr)
        contains(r.stderr, *parts)


def test_values_that_the_library_refuses(folder):
    write_pair(folder)
    for arguments, part in [(["--memory", "1MiB"], "64 MiB"), (["--tile", "1KiB"], "64 KiB to 64 MiB"),
                            (["--tile", "1G"], "64 KiB to 64 MiB")]:
        r = run("linear.yml", "out", *arguments, cwd=folder)
        equal(r.returncode, 2, arguments)
        contains(r.stderr, part)


def test_hostile_name_is_made_visible(_):
    r = run("inspect", "\x1b[31mred\x07", "--no\x1b[2J")
    equal(r.returncode, 2)
    check("\x1b" not in r.stderr and "\\x1b" in r.stderr, repr(r.stderr))


def test_json_failure(folder):
    r = run("merge", "nothing.yml", "out", "--json", cwd=folder)
    equal(r.returncode, 66)
    result = json.loads(r.stdout)
    equal((result["ok"], result["status"], result["exit_code"]), (False, "input missing", 66))
    contains(result["message"], "nothing.yml")
    equal(json.loads(run("--json", "--memoy").stdout)["exit_code"], 2)


def test_mergekits_options(folder):
    write_pair(folder)
    r = run("linear.yml", "out", "--allow-crimes", "--trust-remote-code", "--lazy-unpickle", "--low-cpu-memory",
            "--clone-tensors", "--read-to-gpu", "--multi-gpu", "--async-write", "--write-threads", "2",
            "--lora-merge-cache", "x", "--lora-merge-dtype", "float32", "--safe-serialization", "--copy-tokenizer",
            "--write-model-card", "--random-seed", "7", "--num-threads", "2", "-v", "-vv", "--gpu-rich",
            "--transformers-cache", "cache", "--out-shard-size", "5B", "--quiet", cwd=folder)
    equal(r.returncode, 0, r.stderr)
    equal(r.stdout, "out\n")
    equal(json.loads((folder / "out/warpmerge-manifest.json").read_text())["seed"], 7)
    r = run("linear.yml", "out2", "--allow-crimes", "--lazy-unpickle", "--allow-crimes", cwd=folder)
    notes = [line for line in r.stderr.splitlines() if line.startswith("note: --")]
    equal(len(notes), 1, r.stderr)
    contains(notes[0], "--allow-crimes is not needed", "--lazy-unpickle is not needed")
    equal(notes[0].count("--allow-crimes"), 1)
    # the --no- twins
    r = run("linear.yml", "out3", "--no-allow-crimes", "--no-copy-tokenizer", "--no-write-model-card", "--no-cuda",
            cwd=folder)
    equal(r.returncode, 0, r.stderr)
    check(not (folder / "out3/README.md").exists())


def test_sizes(folder):
    write_pair(folder)
    for size, shards in [("256", 1), ("5B", 1), ("-1", 1), ("0.0000001B", 2), ("1k", 1), ("130", 2), ("1GiB", 1)]:
        r = run("plan", "linear.yml", "--out-shard-size", size, "--json", cwd=folder)
        equal(r.returncode, 0, size, r.stderr)
        equal(len(json.loads(r.stdout)["shards"]), shards, size)


def test_words_after_two_dashes(folder):
    r = run("inspect", "--", "--json", cwd=folder)
    equal(r.returncode, 66)


run_tests(sys.modules[__name__])
