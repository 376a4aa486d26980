#!/usr/bin/env python3
"""The Slurm scripts do what their first comments say, in a fake Slurm: with a stand-in that records how it is called,
and with the real program once it knows --part.

usage: test_slurm.py WARPMERGE
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "cli"))

import fake_slurm  # noqa: E402
from harness import (MERGED, PROGRAM, check, contains, equal, floats, read_safetensors, run, run_tests,  # noqa: E402
                     write_pair)

SCRIPTS = HERE.parents[1] / "docker/slurm"
CPU = ["--device", "cpu"]  # the last one counts


def wrapper(path, words, shell='exec {} "$@"'):
    path.write_text("#!/bin/sh\n" + shell.format(shlex.join(map(str, words))) + "\n", encoding="utf-8")
    path.chmod(0o755)


class Cluster:
    """A folder with a fake Slurm and a warpmerge on PATH; scripts are submitted from `work`."""

    def __init__(self, folder, program=None):
        self.state, self.work, self.bin = folder / "slurm", folder / "work", folder / "bin"
        self.calls_file = folder / "calls"
        for d in (self.state, self.work, self.bin):
            d.mkdir()
        fake_slurm.install(self.bin)
        wrapper(self.bin / "warpmerge", [program] if program else [sys.executable, HERE / "stub_warpmerge.py"])
        self.env = {"PATH": f"{self.bin}:{os.environ.get('PATH', '')}", "HOME": str(folder), "LC_ALL": "C.UTF-8",
                    "FAKE_SLURM": str(self.state), "STUB_LOG": str(self.calls_file)}

    def start(self, *words, **env):
        return subprocess.Popen(list(map(str, words)), cwd=self.work, env={**self.env, **env}, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def submit(self, *words, **env):
        process = self.start(*words, **env)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def calls(self):
        if not self.calls_file.exists():
            return []
        return [json.loads(line) for line in self.calls_file.read_text(encoding="utf-8").splitlines()]

    def events(self, kind):
        fake_slurm.STATE = self.state
        return [e for e in fake_slurm.events() if e["event"] == kind]

    def codes(self):
        return [e["code"] for e in self.events("end")]


def with_container(text, name):
    """A script in which the lines for `name`, which are comments, are commands."""
    before, rest = text.split("# With pyxis or apptainer: ")
    common, rest = rest.split("# With pyxis:\n")
    pyxis, rest = rest.split("# With apptainer:\n")
    apptainer, rest = rest.split("\n", 1)
    chosen = common.split("\n", 1)[1] + {"pyxis": pyxis, "apptainer": apptainer + "\n"}[name]
    return before + re.sub(r"^# ", "", chosen, flags=re.M) + rest


def test_one_node(folder):
    c = Cluster(folder)
    r = c.submit("sbatch", SCRIPTS / "merge.sbatch", "my config.yml", "out", "--sha256")
    equal(r.returncode, 0, r.stderr)
    contains(r.stdout, "Submitted batch job")
    [call] = c.calls()
    equal(call["arguments"], ["merge", "--device", "cuda", "--memory", "32GiB", "--progress", "plain",
                              "my config.yml", "out", "--sha256"])
    equal(call["folder"], str(c.work))
    equal((call["slurm"]["SLURM_NTASKS"], call["slurm"]["SLURM_CPUS_PER_TASK"]), ("1", str(fake_slurm.NODE_CPUS)))
    equal(c.codes(), [0])
    [start] = c.events("start")
    check("requeue" in start["options"] and start["options"]["open-mode"] == "append", start)
    equal(start["options"]["gpus-per-node"], "8")


def test_many_nodes(folder):
    c = Cluster(folder)
    equal(c.submit("sbatch", SCRIPTS / "merge-nodes.sbatch", "c.yml", "out").returncode, 0)
    ranks = sorted(int(call["slurm"]["SLURM_PROCID"]) for call in c.calls())
    equal(ranks, [0, 1, 2, 3])
    equal({call["slurm"]["SLURM_NODEID"] for call in c.calls()}, {"0", "1", "2", "3"})
    equal({call["slurm"]["SLURM_CPUS_PER_TASK"] for call in c.calls()}, {"8"})
    [step] = c.events("step")
    equal(step["options"]["kill-on-bad-exit"], "0")


def test_one_rank_a_gpu(folder):
    """As the comment of merge-nodes.sbatch says."""
    c = Cluster(folder)
    r = c.submit("sbatch", "--ntasks-per-node=8", "--gpus-per-task=1", "--nodes=2", SCRIPTS / "merge-nodes.sbatch", "c",
                 "o")
    equal(r.returncode, 0, r.stderr)
    equal(sorted(int(call["slurm"]["SLURM_PROCID"]) for call in c.calls()), list(range(16)))
    equal({call["slurm"]["SLURM_CPUS_PER_TASK"] for call in c.calls()}, {"1"})
    equal({int(call["slurm"]["SLURM_LOCALID"]) for call in c.calls()}, set(range(8)))


def test_requeued_by_exit_code(folder):
    cases = [("merge.sbatch", code) for code in (75, 69, 1, 2, 65, 70, 74, 78, 137)]
    for i, (script, code) in enumerate(cases + [("merge-nodes.sbatch", 75), ("merge-nodes.sbatch", 69),
                                                           ("merge-nodes.sbatch", 74)]):
        requeued = code in (69, 75)
        sub = folder / str(i)
        sub.mkdir()
        c = Cluster(sub)
        plan = ",".join([str(code)] * (4 if "nodes" in script else 1) + ["0"])
        c.submit("sbatch", SCRIPTS / script, "c.yml", "out", STUB=plan)
        equal(c.codes(), [code, 0] if requeued else [code], script)
        equal(len(c.events("requeue")), int(requeued))
        if requeued:
            equal(c.calls()[-1]["slurm"]["SLURM_RESTART_COUNT"], "1")
            equal(c.calls()[-1]["arguments"], c.calls()[0]["arguments"])


def test_gives_up_after_fifty(folder):
    c = Cluster(folder)
    (c.state / "restarts").write_text("48", encoding="utf-8")
    c.submit("sbatch", SCRIPTS / "merge.sbatch", "c.yml", "out", STUB="75")
    equal([e["restart"] for e in c.events("start")], [48, 49, 50])


def test_gives_up_without_gpus(folder):
    """Slurm may give the same broken node again and again."""
    for name in ("merge.sbatch", "merge-nodes.sbatch", "merge-array.sbatch"):
        (folder / name).mkdir()
        c = Cluster(folder / name)
        words = ["--array=0", SCRIPTS / name, "2"] if "array" in name else [SCRIPTS / name]
        c.submit("sbatch", *words, "c.yml", "out", STUB="69")
        equal([e["restart"] for e in c.events("start")], [0, 1, 2, 3], name)


def test_gpus_are_demanded(_):
    """Where Slurm is asked for GPUs a merge without one must not run quietly on the processors."""
    for script in SCRIPTS.glob("*.sbatch"):
        text = script.read_text(encoding="utf-8")
        asked = re.search(r"^#SBATCH --gpus", text, re.M) is not None
        equal(" --device cuda " in "".join(re.findall(r"^.*warpmerge merge.*$", text, re.M)), asked, script.name)


def test_dead_rank_is_not_requeued(folder):
    """One rank is killed from outside, the others end with 75: none of them is killed by srun."""
    c = Cluster(folder)
    c.submit("sbatch", SCRIPTS / "merge-nodes.sbatch", "c.yml", "out", STUB="die,75@1,75@1,75@1,0")
    [end] = c.events("step end")
    equal(sorted(end["codes"]), [75, 75, 75, 137])
    equal(c.codes(), [137])


def test_time_limit(folder):
    """The warning ends the step with 143, and the job comes back and finishes."""
    for i, (script, tasks) in enumerate((("merge.sbatch", 1), ("merge-nodes.sbatch", 4), ("merge-array.sbatch", 1))):
        sub = folder / str(i)
        sub.mkdir()
        c = Cluster(sub)
        (c.state / "limit").write_text(f"{tasks} {c.calls_file}.waiting.*", encoding="utf-8")
        first = ["--array=3", SCRIPTS / script, "8"] if "array" in script else [SCRIPTS / script]
        r = c.submit("sbatch", *first, "c.yml", "out", STUB=",".join(["wait"] * tasks + ["0"]))
        equal(c.codes(), [143, 0], script, r.stderr)
        equal(c.events("srun forced"), [])


def test_cancelled_is_not_requeued(folder):
    for i, (script, tasks) in enumerate((("merge.sbatch", 1), ("merge-nodes.sbatch", 4))):
        sub = folder / str(i)
        sub.mkdir()
        c = Cluster(sub)
        job = c.start("sbatch", SCRIPTS / script, "c.yml", "out", STUB="wait")
        check(fake_slurm.wait_for(lambda c=c, n=tasks: len(list(c.calls_file.parent.glob("calls.waiting.*"))) == n))
        equal(c.submit("scancel", "100").returncode, 0)
        job.communicate(timeout=60)
        check(fake_slurm.wait_for(lambda c=c: c.events("step end")), "the step did not end")
        equal(c.codes(), [128 + signal.SIGTERM])
        equal(c.events("requeue"), [])


def test_array(folder):
    c = Cluster(folder)
    r = c.submit(SCRIPTS / "submit-array.sh", "4", "c.yml", "out dir", "--sha256")
    equal(r.returncode, 0, r.stderr)
    *parts, finish = c.calls()
    equal([p["arguments"][:3] for p in parts], [["merge", "--part", f"{k}/4"] for k in range(4)])
    for part in parts:
        equal(part["arguments"][-3:], ["c.yml", "out dir", "--sha256"])
    equal(finish["arguments"], ["finish", "out dir"])
    equal(len({p["slurm"]["SLURM_JOB_ID"] for p in parts}), 4)


def test_array_with_statistics(folder):
    c = Cluster(folder)
    equal(c.submit(SCRIPTS / "submit-array.sh", "--stats", "2", "c.yml", "out", "--seed", "7").returncode, 0)
    equal([call["arguments"][0] for call in c.calls()], ["stats", "merge", "merge", "finish"])
    equal(c.calls()[0]["arguments"], ["stats", "c.yml", "out", "--seed", "7"])


def test_array_stops_at_a_failure(folder):
    """A failed part, or failed statistics: what depends on it does not run."""
    c = Cluster(folder)
    c.submit(SCRIPTS / "submit-array.sh", "3", "c.yml", "out", STUB="0,65,0,0")
    equal([call["arguments"][0] for call in c.calls()], ["merge"] * 3)
    equal(len(c.events("dependency never satisfied")), 1)
    (folder / "again").mkdir()
    again = Cluster(folder / "again")
    again.submit(SCRIPTS / "submit-array.sh", "--stats", "3", "c.yml", "out", STUB="78")
    equal([call["arguments"][0] for call in again.calls()], ["stats"])


def test_part_submitted_again_alone(folder):
    """The number of parts stays what it was, although the array now has one task."""
    c = Cluster(folder)
    equal(c.submit("sbatch", "--array=5", SCRIPTS / "merge-array.sbatch", "8", "c.yml", "out").returncode, 0)
    [call] = c.calls()
    equal(call["arguments"][:3], ["merge", "--part", "5/8"])
    equal(call["slurm"]["SLURM_ARRAY_TASK_COUNT"], "1")


def test_containers(folder):
    """The commented lines for pyxis and apptainer work when the comment sign is taken away: as README has it, with the
    config in the folder of the job, models and outputs elsewhere, and the hub's cache where the user has it."""
    def submitted(name, container, old="", new=""):
        sub = folder / f"{name}-{container}-{len(list(folder.iterdir())) if old else 0}"
        sub.mkdir()
        c = Cluster(sub)
        for d in (sub / "models", sub / "merged"):
            d.mkdir()
        (c.work / "c.yml").write_text("", encoding="utf-8")
        text = with_container((SCRIPTS / name).read_text(encoding="utf-8"), container)
        check(old in text, old)
        text = text.replace(old, new) if old else text
        text = text.replace("/models", str(sub / "models")).replace("/merged", str(sub / "merged"))
        (c.work / name).write_text(text, encoding="utf-8")
        first = {"merge-array.sbatch": ["2"], "step.sbatch": ["stats"]}.get(name, [])
        r = c.submit("sbatch", *(["--array=0"] if "array" in name else []), c.work / name, *first, "c.yml",
                     sub / "merged/o")
        return c, r

    for script in sorted(SCRIPTS.glob("*.sbatch")):
        for container in ("pyxis", "apptainer"):
            c, r = submitted(script.name, container)
            equal(c.codes(), [0], script.name, container, r.stderr)
            check(c.calls() and c.calls()[0]["arguments"][0] in ("merge", "stats"), c.calls())
            equal(c.calls()[0]["hub_cache"], str(folder / f"{script.name}-{container}-0/.cache/huggingface/hub"))
            [step] = c.events("step")
            if container == "pyxis":
                check("no-container-entrypoint" in step["options"], "the entrypoint would be put in front of warpmerge")
            else:
                equal((step["command"][0], "--nv" in step["command"]), ("apptainer", script.name != "step.sbatch"))
    for container, old, new in (("pyxis", ",$PWD:$PWD", ""), ("pyxis", " --container-workdir=\"$PWD\"", ""),
                                ("pyxis", "/merged:/merged,", ""), ("apptainer", " --pwd \"$PWD\"", ""),
                                ("apptainer", ",$HF_HUB_CACHE:$HF_HUB_CACHE", ""),
                                ("apptainer", "export HF_HUB", "HF_HUB")):
        c, r = submitted("merge.sbatch", container, old, new)
        check(not c.calls(), f"{container} saw what is not mounted without {old!r}", r.stderr)


def test_usage(folder):
    c = Cluster(folder)
    for script, words in (("merge.sbatch", ["c"]), ("merge-nodes.sbatch", []), ("merge-array.sbatch", ["2", "c"]),
                          ("step.sbatch", ["finish"])):
        r = c.submit("sbatch", SCRIPTS / script, *words)
        contains(r.stderr, "usage: sbatch")
    equal(c.codes(), [2] * 4)
    for words in (["c", "o", "4"], ["0", "c", "o"], ["4", "c"], ["-1", "c", "o"], [], ["--stats"]):
        equal(c.submit(SCRIPTS / "submit-array.sh", *words).returncode, 2, words)
    equal(c.calls(), [])


def test_the_fake_refuses(folder):
    """A typo in a script is found: options that Slurm does not have, and values of the wrong shape."""
    c = Cluster(folder)
    good = (SCRIPTS / "merge.sbatch").read_text(encoding="utf-8")
    for old, new in (("--requeue", "--requeu"), ("--signal=TERM@300", "--signal=TERM,300"), ("--mem=0", "--mem=all"),
                     ("--time=04:00:00", "--time=4h"), ("--gpus-per-node=8", "--gpus_per_node=8")):
        check(old in good, old)
        (c.work / "bad").write_text(good.replace(f"#SBATCH {old}", f"#SBATCH {new}"), encoding="utf-8")
        check(c.submit("sbatch", c.work / "bad", "c", "o").returncode != 0, new)
    (c.work / "bad").write_text(good.replace("srun --ntasks", "srun --tasks"), encoding="utf-8")
    c.submit("sbatch", c.work / "bad", "c", "o")
    equal(c.calls(), [])


def test_shellcheck(_):
    if not shutil.which("shellcheck"):
        print("      (shellcheck is not installed: not run)")
        return
    scripts = sorted(map(str, SCRIPTS.glob("*.sbatch")))
    r = subprocess.run(["shellcheck", "--shell=bash", *scripts], capture_output=True, text=True)
    equal((r.returncode, r.stdout), (0, ""))


def knows_parts():
    return "--part" in run("merge", "--help").stdout


def weights(out):
    return {name: (dtype, shape, floats(blob)) for name, (dtype, shape, blob) in
            read_safetensors(out / "model.safetensors").items()}


def test_real_program(folder):
    """One node, several ranks and an array give the same bytes."""
    if not knows_parts():
        print("      (this warpmerge has no --part: not run)")
        return
    c = Cluster(folder, PROGRAM)
    write_pair(c.work)
    for words in (["sbatch", SCRIPTS / "merge.sbatch", "linear.yml", "one", *CPU],
                  ["sbatch", "--nodes=2", SCRIPTS / "merge-nodes.sbatch", "linear.yml", "ranks", *CPU],
                  [SCRIPTS / "submit-array.sh", "3", "linear.yml", "parts", *CPU]):
        r = c.submit(*words)
        equal(set(c.codes()), {0}, *words, r.stderr)
    for out in ("one", "ranks", "parts"):
        for _, _, values in weights(c.work / out).values():
            equal(values, MERGED * 8, out)
        equal((c.work / out / "model.safetensors").read_bytes(), (c.work / "one/model.safetensors").read_bytes(), out)


def test_real_program_names_a_missing_part(folder):
    if not knows_parts():
        return
    c = Cluster(folder, PROGRAM)
    write_pair(c.work)
    c.submit("sbatch", "--array=0", SCRIPTS / "merge-array.sbatch", "2", "linear.yml", "out", *CPU)
    c.submit("sbatch", SCRIPTS / "step.sbatch", "finish", "out")
    equal(c.codes(), [0, 75])
    check(not (c.work / "out").exists(), "finished without its second part")
    c.submit("sbatch", "--array=1", SCRIPTS / "merge-array.sbatch", "2", "linear.yml", "out", *CPU)
    c.submit("sbatch", SCRIPTS / "step.sbatch", "finish", "out")
    equal(c.codes(), [0, 75, 0, 0])
    check((c.work / "out/model.safetensors").exists(), "not finished")


run_tests(sys.modules[__name__])
