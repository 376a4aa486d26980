#!/usr/bin/env python3
"""The commands in the Kubernetes and Compose files, run with the real program: pods are processes here, /data is a
folder, and variables are what the kubelet, mpirun or Compose would set. Every way gives the same bytes.

usage: test_manifest_runs.py WARPMERGE      (exit code 77 without PyYAML)
"""

import os
import re
import subprocess
import sys
from pathlib import Path

try:
    import yaml  # noqa: F401
except ImportError:
    print("skipped: python3-yaml is not installed (docker/install-deps.sh)")
    sys.exit(77)

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "cli"))

import schema  # noqa: E402
from harness import MERGED, PROGRAM, check, equal, floats, read_safetensors, run_tests, write_pair  # noqa: E402

DOCKER = HERE.parents[1] / "docker"
UID = "0f8e1a52-5b7c-4c6e-9d0a-7f2b1c3d4e5f"


def manifest(name):
    [document] = schema.load_all((DOCKER / "kubernetes" / name).read_text(encoding="utf-8"))
    return document["spec"]


def start(words, env, data):
    """One container: $(NAME) is replaced as the kubelet does, /data is `data`, and here are no GPUs."""
    words = ["cpu" if before == "--device" else word for before, word in zip([None, *words], words)]
    words = [re.sub(r"\$\((\w+)\)", lambda m: env[m.group(1)], w).replace("/data/", f"{data}/") for w in words]
    bare = {"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent", "LC_ALL": "C.UTF-8", **env}
    return subprocess.Popen([PROGRAM, *words], cwd=data, env=bare, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def pod(name, container, index, data):
    env = {"HOSTNAME": f"{name}-{index}", "JOB_COMPLETION_INDEX": str(index)} if index is not None else {}
    for entry in container.get("env", []):
        if "value" in entry:
            env[entry["name"]] = entry["value"]
        else:
            equal(entry["valueFrom"]["fieldRef"]["fieldPath"], "metadata.labels['batch.kubernetes.io/controller-uid']")
            env[entry["name"]] = UID
    return start(container["args"], env, data)


def ends(processes):
    """Exit codes in order; what went wrong is printed."""
    codes = []
    for process in processes:
        _, err = process.communicate(timeout=120)
        codes.append(process.returncode)
        if process.returncode:
            print(err)
    return codes


def prepare(folder):
    write_pair(folder)
    (folder / "config.yml").write_text((folder / "linear.yml").read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def check_merged(folder):
    for _, _, blob in read_safetensors(folder / "merged/model.safetensors").values():
        equal(floats(blob), MERGED * 8)
    check(not [n for n in os.listdir(folder) if "warpmerge-partial" in n], "something was left behind")


def test_parts_and_finish(folder):
    data = prepare(folder)
    spec, finish = manifest("merge-indexed-job.yaml"), manifest("merge-finish-job.yaml")
    [container] = spec["template"]["spec"]["containers"]
    [last] = finish["template"]["spec"]["containers"]
    n = spec["completions"]
    # All but one begin at the same moment; the finish names what is missing with the code that is retried.
    equal(ends([pod("p", container, k, data) for k in range(1, n)]), [0] * (n - 1))
    equal(ends([pod("f", last, None, data)]), [75])
    check(not (data / "merged").exists(), "finished without part 0")
    equal(ends([pod("p", container, 0, data)]), [0])
    equal(ends([pod("f", last, None, data)]), [0])
    check_merged(data)


def test_statistics_parts_and_finish(folder):
    """ties with trim: global: parts alone end with a code that is not tried again; after the first job they run."""
    data = prepare(folder)
    config = (data / "config.yml")
    config.write_text("merge_method: ties\nbase_model: a\nparameters: {density: 0.5, weight: 1, trim: global}\n"
                      "models:\n- model: b\ndtype: float32\n", encoding="utf-8")
    equal(ends([start(["merge", "/data/config.yml", "/data/alone"], {}, data)]), [0])
    first, spec, finish = (manifest(f"merge-{n}-job.yaml") for n in ("stats", "indexed", "finish"))
    containers = [s["template"]["spec"]["containers"][0] for s in (first, spec, finish)]
    equal(ends([pod("p", containers[1], 0, data)]), [2])
    equal(ends([pod("s", containers[0], None, data)]), [0])
    equal(ends([pod("p", containers[1], k, data) for k in range(spec["completions"])]), [0] * spec["completions"])
    equal(ends([pod("f", containers[2], None, data)]), [0])
    # Pods that come back behind the commit have nothing left to do.
    equal(ends([pod("f", containers[2], None, data)]), [0])
    equal(ends([pod("p", containers[1], 3, data)]), [0])
    equal((data / "merged/model.safetensors").read_bytes(), (data / "alone/model.safetensors").read_bytes())


def test_ranks(folder):
    data = prepare(folder)
    spec = manifest("merge-ranks-job.yaml")
    [container] = spec["template"]["spec"]["containers"]
    equal(ends([pod("r", container, k, data) for k in range(spec["completions"])]), [0] * spec["completions"])
    check_merged(data)


def test_mpirun(folder):
    """mpirun's part is played by the variables that Open MPI 4 sets."""
    data = prepare(folder)
    [launcher] = manifest("mpijob.yaml")["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"]
    at = launcher["args"].index("warpmerge")
    equal((launcher["command"], launcher["args"][0]), (["mpirun"], "-n"))
    n = int(launcher["args"][1])
    same = {"OMPI_COMM_WORLD_SIZE": str(n), "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
            "PMIX_NAMESPACE": "1234567890"}
    ranks = [start(launcher["args"][at + 1:], {**same, "OMPI_COMM_WORLD_RANK": str(k), "PMIX_RANK": str(k)}, data)
             for k in range(n)]
    equal(ends(ranks), [0] * n)
    check_merged(data)


def test_compose(folder):
    data = prepare(folder)
    [document] = schema.load_all((DOCKER / "compose.yml").read_text(encoding="utf-8"))
    services = [s for s in document["services"].values() if s["profiles"] == ["cpu"]]
    equal(len(services), 2)
    commands = [[re.sub(r"\$\{WARPMERGE_JOB:\?[^}]*\}", "1700000000", w) for w in s["command"]] for s in services]
    check(not any("$" in w for words in commands for w in words), commands)
    equal(ends([start(words, {}, data) for words in commands]), [0, 0])
    check_merged(data)


run_tests(sys.modules[__name__])
