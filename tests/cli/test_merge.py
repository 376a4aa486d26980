#!/usr/bin/env python3
"""A merge through the command line: the files, the values, what is printed where, and every exit code."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from harness import (CONFIG, LINEAR, MERGED, PROGRAM, check, contains, equal, floats, read_safetensors, run, run_tests,
                     write_model, write_pair, write_safetensors)


def tree(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_result(folder):
    write_pair(folder)
    r = run("merge", "linear.yml", "out", cwd=folder)
    equal(r.returncode, 0, r.stderr)
    equal(sorted(p.name for p in (folder / "out").iterdir()),
          ["README.md", "config.json", "mergekit_config.yml", "model.safetensors", "warpmerge-manifest.json"])
    for name, (dtype, _, blob) in read_safetensors(folder / "out/model.safetensors").items():
        equal(dtype, "F32")
        equal(floats(blob), MERGED * 8, name)
    equal((folder / "out/config.json").read_text(), CONFIG)
    equal((folder / "out/mergekit_config.yml").read_text(), LINEAR)
    check(not any(".warpmerge-partial" in p.name for p in folder.iterdir()), "partial directory left")


def test_shortcut_gives_the_same(folder):
    write_pair(folder)
    equal(run("merge", "linear.yml", "out", cwd=folder).returncode, 0)
    equal(run("linear.yml", "out2", "--threads=1", "--tile", "64KiB", "--memory", "256MiB", cwd=folder).returncode, 0)
    equal(tree(folder / "out"), tree(folder / "out2"))


def test_streams(folder):
    write_pair(folder)
    r = run("linear.yml", "out", cwd=folder)
    check(re.search(r"^out: 2 tensors, 256 B in 1 shard\n  read .* in .*GB/s, limited by \w+\n", r.stdout), r.stdout)
    contains(r.stderr, "method ", "model 1", "memory", "merging: 0 %", "merged: 256 B")
    for stream in r.stdout, r.stderr:
        check(not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", stream), "control characters", repr(stream))
    lines = r.stderr.splitlines()
    check(lines[-1].startswith("merged: "), lines)
    r = run("linear.yml", "out2", "--quiet", cwd=folder)
    equal((r.stdout, r.stderr), ("out2\n", ""))
    r = run("linear.yml", "out3", "--json", "--progress", "none", cwd=folder)
    equal(r.stderr, "")
    result = json.loads(r.stdout)
    check(0 < result["setup_seconds"] < result["seconds"], r.stdout)
    equal((result["ok"], result["out"], result["n_tensors"], result["bytes_out"]), (True, "out3", 2, 256))
    r = run("linear.yml", "out4", "--json", "--progress=json", cwd=folder)
    events = [json.loads(line) for line in r.stderr.splitlines()]
    equal((events[0]["event"], events[-1]["event"]), ("start", "end"), r.stderr)
    equal(events[-1]["bytes_written"], 256)
    json.loads(r.stdout)
    r = run("merge", "no\udcff.yml", "out5", "--json", "--progress=json", cwd=folder)
    equal((r.returncode, json.loads(r.stderr.splitlines()[-1])["exit_code"], json.loads(r.stdout)["exit_code"]), (66, 66, 66))


def test_color(folder):
    write_pair(folder)
    for arguments, env, colored in [(["--color=always"], {}, True), ([], {}, False), ([], {"CLICOLOR_FORCE": "1"}, True),
                                    ([], {"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False),
                                    (["--color=never"], {"CLICOLOR_FORCE": "1"}, False),
                                    (["--color=always"], {"NO_COLOR": "1"}, True)]:
        r = run("inspect", "missing", *arguments, cwd=folder, env=env)
        equal("\x1b[" in r.stderr, colored, arguments, env)


def test_plan(folder):
    write_pair(folder)
    r = run("plan", "linear.yml", "out", cwd=folder)
    equal(r.returncode, 0, r.stderr)
    contains(r.stdout, "linear", "model 1", "weight 0.5", "out: 64 parameters in 2 tensors, F32", "every byte once", "memory")
    equal(r.stderr, "")
    check(not (folder / "out").exists() and len(list(folder.iterdir())) == 3, "plan wrote something")
    plan = json.loads(run("plan", "linear.yml", "--json", cwd=folder).stdout)
    equal([t["name"] for t in plan["tensors"]], ["model.embed_tokens.weight", "model.layers.0.mlp.weight"])
    equal(plan["tensors"][0]["inputs"][1], {"model": 1, "values": {"weight": 0.5}})
    equal(plan["out"], None)
    check("ranks" not in plan, "nobody asked for ranks")


def test_plan_for_ranks(folder):
    write_pair(folder)
    r = run("plan", "linear.yml", "--ranks", "3", cwd=folder)
    equal(r.returncode, 0, r.stderr)
    contains(r.stdout, "  ranks       3: the fullest ", "rank  tensors  split", "without communication (--part)")
    plan = json.loads(run("plan", "linear.yml", "--ranks=3", "--json", cwd=folder).stdout)
    shares = plan["ranks"]["shares"]
    equal([s["rank"] for s in shares], [0, 1, 2])
    equal(sum(s["bytes_read"] for s in shares), plan["bytes_in"])
    equal(sum(s["bytes_written"] for s in shares), plan["bytes_out"])
    equal(sorted(r["tensor"] for s in shares for r in s["ranges"]), [0, 1])


def test_other_verbs_speak_json(folder):
    write_pair(folder)
    equal(json.loads(run("inspect", "a", "--json", cwd=folder).stdout)["n_params"], 64)
    equal([m["name"] for m in json.loads(run("methods", "--json").stdout)["methods"]][0], "linear")
    equal(json.loads(run("methods", "ties", "--json").stdout)["base"], "required")
    check(json.loads(run("env", "--json").stdout)["n_threads"] >= 1)
    contains(run("inspect", "a", cwd=folder).stdout, "2 tensors", "F32", "model.safetensors", "1 layers")
    contains(run("env").stdout, "processor", "hub cache")
    contains(run("methods").stdout, "ties", "slerp", "dare_ties")
    contains(run("methods", "ties").stdout, "parameters", "density", "source")


def test_shards_and_sha256(folder):
    write_pair(folder)
    (folder / "a/tokenizer.json").write_text("{}")
    (folder / "a/notes.txt").write_text("not part of a model")
    r = run("linear.yml", "out", "--out-shard-size", "128", "--sha256", cwd=folder)
    equal(r.returncode, 0, r.stderr)
    index = json.loads((folder / "out/model.safetensors.index.json").read_text())
    equal(index, {"metadata": {"total_size": 256},
                  "weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors",
                                 "model.layers.0.mlp.weight": "model-00002-of-00002.safetensors"}})
    manifest = json.loads((folder / "out/warpmerge-manifest.json").read_text())
    for shard in manifest["output"]["shards"]:
        out = subprocess.run(["sha256sum", folder / "out" / shard["name"]], capture_output=True, text=True).stdout
        equal(out.split()[0], shard["sha256"])
    check((folder / "out/tokenizer.json").exists() and not (folder / "out/notes.txt").exists())
    equal(run("verify", "out", cwd=folder).returncode, 0)
    equal(json.loads(run("verify", "out", "--json", cwd=folder).stdout)["n_tensors"], 2)


def test_verify_finds_every_damage(folder):
    write_pair(folder)
    equal(run("linear.yml", "out", cwd=folder).returncode, 0)
    shard = folder / "out/model.safetensors"
    whole = shard.read_bytes()
    for name, damaged, parts in [
            ("one bit", whole[:-1] + bytes([whole[-1] ^ 1]), ["model.layers.0.mlp.weight", "bytes"]),
            ("cut", whole[:-4], ["model.safetensors", "size"]),
            ("header", whole[:8] + b"x" + whole[9:], ["model.safetensors"])]:
        shard.write_bytes(damaged)
        r = run("verify", "out", cwd=folder)
        equal(r.returncode, 70, name, r.stderr)
        contains(r.stderr, *parts)
        equal(json.loads(run("verify", "out", "--json", cwd=folder).stdout)["exit_code"], 70)
    shard.write_bytes(whole)
    (folder / "out/config.json").write_text("{}")
    r = run("verify", "out", cwd=folder)
    equal(r.returncode, 0)
    contains(r.stderr, "warning: ", "config.json was changed")
    shard.unlink()
    r = run("verify", "out", cwd=folder)
    equal(r.returncode, 70)
    contains(r.stderr, "missing")
    equal(run("verify", "a", cwd=folder).returncode, 66)
    equal(run("verify", "nowhere", cwd=folder).returncode, 66)


# ---- exit codes ------------------------------------------------------------------------------------------------


def fails(code, folder, *arguments, parts=(), **more):
    r = run(*arguments, cwd=folder, **more)
    equal(r.returncode, code, arguments, r.stderr)
    contains(r.stderr, "error: ", *parts)
    errors = [line for line in r.stderr.splitlines() if line.startswith("error: ")]
    equal(len(errors), len(set(errors)), "said twice:", r.stderr)
    return r


def test_65_bad_data(folder):
    write_pair(folder)
    (folder / "b/model.safetensors").write_bytes(b"garbage, not a header")
    fails(65, folder, "linear.yml", "out", parts=["b/model.safetensors"])
    check(not (folder / "out").exists())


def test_65_nonfinite(folder):
    write_pair(folder)
    write_model(folder / "c", [float("nan"), 1.0])
    (folder / "nan.yml").write_text(LINEAR.replace("model: b", "model: c"))
    fails(65, folder, "nan.yml", "out", parts=["c", "model."])
    equal(run("nan.yml", "out2", "--nonfinite", "propagate", cwd=folder).returncode, 0)


def test_66_missing(folder):
    write_pair(folder)
    fails(66, folder, "nothing.yml", "out", parts=["nothing.yml"])
    fails(66, folder, "inspect", "nowhere", parts=["nowhere"])
    (folder / "gone.yml").write_text(LINEAR.replace("model: a", "model: gone").replace("model: b", "model: lost"))
    # both missing models are named in one run
    fails(66, folder, "gone.yml", "out", parts=["gone", "lost"])


def test_69_no_gpu(folder):
    write_pair(folder)
    for arguments in ["--device", "cuda"], ["--device=cuda:1"], ["--cuda"]:
        fails(69, folder, "linear.yml", "out", *arguments, parts=["GPU", "--device cpu"])


def test_73_cannot_create(folder):
    write_pair(folder)
    (folder / "full").mkdir()
    (folder / "full/file").write_text("precious")
    fails(73, folder, "linear.yml", "full", parts=["full", "not empty", "--overwrite"])
    fails(73, folder, "plan", "linear.yml", "full", parts=["not empty"])
    fails(73, folder, "linear.yml", "a", parts=["input"])
    fails(73, folder, "linear.yml", "no/such/parent", parts=["no/such"])
    fails(73, folder, "linear.yml", "linear.yml", parts=["linear.yml"])
    equal((folder / "full/file").read_text(), "precious")
    equal(run("linear.yml", "full", "--overwrite", cwd=folder).returncode, 0)
    check(not (folder / "full/file").exists() and (folder / "full/model.safetensors").exists())


def test_74_output_stream(folder):
    write_pair(folder)
    with open("/dev/full", "w") as full:
        r = run("plan", "linear.yml", cwd=folder, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    equal(r.returncode, 74)


def test_75_in_use(folder):
    write_pair(folder)
    partial = folder / ".out.warpmerge-partial"
    partial.mkdir()
    with open(partial / "lock.warpmerge", "w") as lock:
        lock.write("host elsewhere, process 1\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        fails(75, folder, "linear.yml", "out", parts=["another process", "host elsewhere"])
    equal(run("linear.yml", "out", cwd=folder).returncode, 0)


def test_78_bad_config(folder):
    write_pair(folder)
    (folder / "bad.yml").write_text("merge_method: teis\nmodels: 3\n")
    fails(78, folder, "bad.yml", "out", parts=["bad.yml:1:", "ties", "bad.yml:2:"])
    (folder / "typo.yml").write_text(LINEAR + "dytpe: float32\n")
    r = run("plan", "typo.yml", cwd=folder)
    equal(r.returncode, 0)
    contains(r.stderr, "warning: ", "dytpe", "dtype")
    fails(78, folder, "plan", "typo.yml", "--strict", parts=["dytpe"])


def test_donor_link_is_refused_before_merging(folder):
    write_pair(folder)
    (folder / "secret").write_text("a stranger's file")
    os.symlink("../secret", folder / "a/tokenizer.json")
    fails(65, folder, "linear.yml", "out", parts=["tokenizer.json", "link"])
    check(not (folder / "out").exists())


def test_half_downloaded_donor(folder):
    write_pair(folder)
    os.symlink("nothing", folder / "a/tokenizer.json")
    r = run("linear.yml", "out", cwd=folder)
    equal(r.returncode, 0, r.stderr)
    contains(r.stderr, "warning: ", "tokenizer.json is a link")


def test_code_is_named_and_not_copied(folder):
    write_pair(folder)
    (folder / "a/config.json").write_text('{"auto_map": {"AutoModel": "modeling_x.Model"}, "torch_dtype": "float32"}')
    (folder / "a/modeling_x.py").write_text("raise SystemExit")
    (folder / "a/modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}]')
    r = run("linear.yml", "out", cwd=folder)
    equal(r.returncode, 0, r.stderr)
    contains(r.stderr, "warning: ", "auto_map", "note: ", "modules.json")
    check(not (folder / "out/modeling_x.py").exists() and not (folder / "out/modules.json").exists())


def test_side_files_of_an_earlier_run_do_not_stay(folder):
    """Stopped after the card was written, continued without one."""
    write_pair(folder)
    partial = folder / ".out.warpmerge-partial"
    partial.mkdir()
    for name in "README.md", "tokenizer.json", "config.json.tmp", "model.safetensors.index.json":
        (partial / name).write_text("old")
    equal(run("linear.yml", "out", "--no-write-model-card", cwd=folder).returncode, 0)
    equal(sorted(p.name for p in (folder / "out").iterdir()),
          ["config.json", "model.safetensors", "warpmerge-manifest.json"])


def test_weights_without_config(folder):
    write_pair(folder)
    (folder / "a/config.json").unlink()
    r = run("linear.yml", "out", cwd=folder)
    equal(r.returncode, 0, r.stderr)
    contains(r.stderr, "warning: ", "config.json")
    check(not (folder / "out/config.json").exists())


# ---- signals ---------------------------------------------------------------------------------------------------


def write_big(folder, n_bytes):
    """Two models big enough to be stopped in the middle."""
    n = n_bytes // 16
    blob = b"".join(bytes([0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64, 0, 0, 128, 64]) for _ in range(1024)) * (n // 1024)
    for model in "a", "b":
        (folder / model).mkdir()
        tensors = {f"model.layers.{i}.w": ("F32", [len(blob) // 64, 4], blob[:len(blob) // 4]) for i in range(4)}
        write_safetensors(folder / model / "model.safetensors", tensors)
        (folder / model / "config.json").write_text(CONFIG)
    (folder / "linear.yml").write_text(LINEAR)


def stop_a_merge(folder, number):
    """Sends the signal when a few ranges are finished. The return code and standard error."""
    p = subprocess.Popen([PROGRAM, "linear.yml", "out", "--threads", "1", "--io-threads", "1", "--tile", "64KiB"],
                         cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = folder / ".out.warpmerge-partial/journal.warpmerge"
    while p.poll() is None:
        try:
            if journal.stat().st_size >= 4 * 64:
                break
        except FileNotFoundError:
            pass
        time.sleep(0.001)
    p.send_signal(number)
    _, text = p.communicate(timeout=120)
    return p.returncode, text


def stopped_in_the_middle(folder, number):
    """Grows the models until a merge is slow enough on this machine to be stopped."""
    code, text = 0, ""
    for n_bytes in 64 << 20, 256 << 20, 1 << 30:
        for name in "a", "b", "out":
            shutil.rmtree(folder / name, ignore_errors=True)
        write_big(folder, n_bytes)
        code, text = stop_a_merge(folder, number)
        if code != 0:
            break
    return code, text


def test_130_and_143_resume(folder):
    for number, expected in (signal.SIGINT, 130), (signal.SIGTERM, 143):
        code, text = stopped_in_the_middle(folder, number)
        equal(code, expected, text)
        contains(text, "error: ", "again")
        check(not (folder / "out").exists(), "the output is there although the merge was stopped")
        check((folder / ".out.warpmerge-partial").is_dir(), "nothing to resume")
        r = run("linear.yml", "out", "--json", cwd=folder)
        equal(r.returncode, 0, r.stderr)
        contains(r.stderr, "note: ", "unfinished merge")
        check(json.loads(r.stdout)["bytes_resumed"] > 0, r.stdout)
        equal(run("linear.yml", "fresh", cwd=folder).returncode, 0)
        equal(run("verify", "fresh", "-j4", cwd=folder).returncode, 0)
        check(tree(folder / "out") == tree(folder / "fresh"), "other bytes after resuming")
        for name in "out", "fresh":
            shutil.rmtree(folder / name)


run_tests(sys.modules[__name__])
