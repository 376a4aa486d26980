#!/usr/bin/env python3
"""Models by their hub id: found in the cache offline, credited in the card, identified in the manifest; what is missing comes
with the command that fetches it."""

import hashlib
import json
import os
import sys

from harness import CONFIG, check, contains, equal, run, run_tests, write_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RECIPE = """merge_method: task_arithmetic
base_model: org/base
models:
  - {model: org/tune@v2, parameters: {weight: 0.5}}
dtype: float32
"""


def write_snapshot(cache, name, values, revision="main"):
    """The hub's layout: blobs by hash, a snapshot of relative links, a ref."""
    repo = cache / ("models--" + name.replace("/", "--"))
    plain = write_model(cache / "plain", values)
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs" / revision).write_text(COMMIT)
    (plain / "tokenizer.json").write_text('{"of": "%s"}' % name)
    for file in sorted(plain.iterdir()):
        data = file.read_bytes()
        blob = hashlib.sha256(data).hexdigest() if file.suffix == ".safetensors" else hashlib.sha1(data).hexdigest()
        (repo / "blobs" / blob).write_bytes(data)
        os.symlink(f"../../blobs/{blob}", snapshot / file.name)
        file.unlink()
    plain.rmdir()
    return snapshot


def test_merge_by_id(folder):
    cache = folder / "cache"
    base = write_snapshot(cache, "org/base", [1.0, 2.0])
    write_snapshot(cache, "org/tune", [3.0, 6.0], "v2")
    (folder / "recipe.yml").write_text(RECIPE)
    r = run("recipe.yml", "out", cwd=folder, env={"HF_HUB_CACHE": str(cache)})
    equal(r.returncode, 0, r.stderr)
    card = (folder / "out/README.md").read_text()
    contains(card, "base_model:\n- org/tune\n- org/base\nbase_model_relation: merge\n",
             f"[org/tune](https://huggingface.co/org/tune/tree/{COMMIT})")
    manifest = json.loads((folder / "out/warpmerge-manifest.json").read_text())
    equal([m["commit"] for m in manifest["models"]], [COMMIT, COMMIT])
    digest = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    equal(manifest["models"][1]["files"], [{"name": "model.safetensors",
                                            "n_bytes": (base / "model.safetensors").stat().st_size, "sha256": digest}])
    equal((folder / "out/tokenizer.json").read_text(), '{"of": "org/base"}')
    equal((folder / "out/config.json").read_text(), CONFIG)
    check(not (folder / "out/tokenizer.json").is_symlink())
    # the same bytes through an option instead of the environment, and from another place
    (folder / "elsewhere").mkdir()
    r = run("../recipe.yml", "out", "--hub-cache", cache, cwd=folder / "elsewhere")
    equal(r.returncode, 0, r.stderr)
    for file in (folder / "out").iterdir():
        equal(file.read_bytes() == (folder / "elsewhere/out" / file.name).read_bytes(), True, file.name)


def test_inspect_by_id(folder):
    write_snapshot(folder / "cache", "org/tune", [3.0], "v2")
    for name, code in ("org/tune@v2", 0), ("org/tune", 66), ("org/other", 66):
        r = run("inspect", name, "--hub-cache", folder / "cache", cwd=folder)
        equal(r.returncode, code, name, r.stderr)
        contains(r.stdout if code == 0 else r.stderr, COMMIT if code == 0 else "hf download org/")


def test_side_file_out_of_the_repository(folder):
    snapshot = write_snapshot(folder / "cache", "org/base", [1.0])
    write_snapshot(folder / "cache", "org/tune", [2.0], "v2")
    (folder / "secret").write_text("private")
    (snapshot / "tokenizer.json").unlink()
    os.symlink(folder / "secret", snapshot / "tokenizer.json")
    (folder / "recipe.yml").write_text(RECIPE)
    r = run("plan", "recipe.yml", "--hub-cache", folder / "cache", cwd=folder)
    equal(r.returncode, 65, r.stderr)
    contains(r.stderr, "tokenizer.json", "link")
    equal(run("plan", "recipe.yml", "--no-copy-tokenizer", "--hub-cache", folder / "cache", cwd=folder).returncode, 0)


run_tests(sys.modules[__name__])
