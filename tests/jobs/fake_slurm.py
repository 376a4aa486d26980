"""A Slurm of one machine for tests: sbatch, srun, scontrol and scancel, which install() puts on a PATH.

What lives here: what job scripts can see of Slurm: which options exist (an unknown one is an error), how a script is
run (a copy in a spool folder, from the submitting folder), the variables of batch shells and steps, the codes that
srun returns, who is sent which signal, requeueing, arrays, afterok; and which paths a container of pyxis or apptainer
would not see. Jobs run one after the other, within sbatch.
Sources: the manual pages of Slurm 24.05. What it must not know: warpmerge.

State is in $FAKE_SLURM: one folder a job, `next_id`, and `log` with one JSON line an event. The file `limit` may hold a
number and a file pattern: the first run of a job meets its time limit warning (--signal) once so many such files exist.
The file `restarts` may hold how often jobs have been restarted already.
"""

import glob
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

STATE = Path(os.environ.get("FAKE_SLURM", "/nonexistent"))
NODE_CPUS = 8
# Options of both, with what the variable in the job's environment is called (None: none that scripts use).
COMMON = {"nodes": "SLURM_JOB_NUM_NODES", "ntasks": "SLURM_NTASKS", "ntasks-per-node": "SLURM_NTASKS_PER_NODE",
          "cpus-per-task": "SLURM_CPUS_PER_TASK", "gpus-per-node": "SLURM_GPUS_PER_NODE",
          "gpus-per-task": "SLURM_GPUS_PER_TASK", "mem": None, "time": None, "job-name": "SLURM_JOB_NAME"}
SBATCH = {**COMMON, "signal": None, "output": None, "open-mode": None, "array": None, "dependency": None,
          "kill-on-invalid-dep": None, "partition": None, "account": None, "container-image": None,
          "container-mounts": None, "container-workdir": None}
SBATCH_FLAGS = {"exclusive", "requeue", "no-requeue", "parsable"}
SRUN = {**COMMON, "kill-on-bad-exit": None, "wait": None, "container-image": None, "container-mounts": None,
        "container-workdir": None}
SRUN_FLAGS = {"no-container-entrypoint", "no-container-mount-home", "container-readonly", "exclusive"}

# What values look like, as far as a typo would show.
SHAPES = {"nodes": r"\d+", "ntasks": r"\d+", "ntasks-per-node": r"\d+", "cpus-per-task": r"[1-9]\d*",
          "gpus-per-node": r"(\w+:)?\d+", "gpus-per-task": r"(\w+:)?\d+", "mem": r"\d+[KMGT]?",
          "time": r"(\d+-)?\d+(:\d+){0,2}", "signal": r"([BR]{1,2}:)?[A-Z0-9]+(@\d+)?", "open-mode": "append|truncate",
          "array": r"\d+(-\d+)?", "dependency": r"afterok:\d+", "kill-on-bad-exit": "[01]", "wait": r"\d+",
          "kill-on-invalid-dep": "yes|no"}


def fail(text):
    sys.exit(f"{sys.argv[1]}: error: {text}")


def log(**event):
    with open(STATE / "log", "a", encoding="utf-8") as f:
        f.write(json.dumps(event) + "\n")


def parse(words, valued, flags):
    """({option: value}, the rest). Long options only, as our scripts write them."""
    options, words = {}, list(words)
    while words and words[0].startswith("-"):
        name, equals, value = words.pop(0).removeprefix("--").partition("=")
        if name in flags and not equals:
            options[name] = True
        elif name in valued:
            if not equals:
                value = words.pop(0) if words else fail(f"--{name} needs a value")
            if not value:
                fail(f"--{name} needs a value")
            options[name] = value
        else:
            fail(f"unrecognized option '--{name}'")
    for name, pattern in SHAPES.items():
        if name in options and not re.fullmatch(pattern, str(options[name])):
            fail(f"invalid --{name} specification '{options[name]}'")
    return options, words


def directives(script):
    """#SBATCH lines count up to the first command."""
    words = []
    for line in script.read_text(encoding="utf-8").splitlines():
        if line.startswith("#SBATCH "):
            words += line.removeprefix("#SBATCH ").split("#")[0].split()
        elif line.strip() and not line.startswith("#"):
            break
    return words


# ---- sbatch ----------------------------------------------------------------------------------------------------------

def new_id():
    counter = STATE / "next_id"
    number = int(counter.read_text(encoding="utf-8")) if counter.exists() else 100
    counter.write_text(str(number + 1), encoding="utf-8")
    return number


def shape(options):
    """nodes, tasks and tasks on each node."""
    nodes = int(options.get("nodes", 1))
    per_node = int(options["ntasks-per-node"]) if "ntasks-per-node" in options else None
    tasks = int(options.get("ntasks", nodes * (per_node or 1)))
    return nodes, tasks, per_node or -(-tasks // nodes)


def layout(nodes, per_node):
    """Tasks on each node as Slurm writes it: "8(x2)"."""
    return f"{per_node}(x{nodes})" if nodes > 1 else str(per_node)


def job_environment(options, job, array_id=None, index=None, indexes=()):
    nodes, tasks, per_node = shape(options)
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    for name, variable in COMMON.items():
        if variable and name in options:
            env[variable] = str(options[name])
    cpus = NODE_CPUS if "exclusive" in options else int(options.get("cpus-per-task", 1)) * max(1, tasks // nodes)
    env.update(SLURM_JOB_ID=str(job), SLURM_JOBID=str(job), SLURM_JOB_NUM_NODES=str(nodes), SLURM_NNODES=str(nodes),
               SLURM_NTASKS=str(tasks), SLURM_NPROCS=str(tasks), SLURM_CPUS_ON_NODE=str(cpus), SLURM_NODEID="0",
               SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_TASK_PID="1", SLURM_TASKS_PER_NODE=layout(nodes, per_node),
               SLURM_JOB_NODELIST=f"node[1-{nodes}]",
               SLURM_SUBMIT_DIR=os.getcwd(), SLURM_JOB_PARTITION="test", FAKE_SLURM_JOB=str(job))
    if index is not None:
        env.update(SLURM_ARRAY_JOB_ID=str(array_id), SLURM_ARRAY_TASK_ID=str(index),
                   SLURM_ARRAY_TASK_COUNT=str(len(indexes)), SLURM_ARRAY_TASK_MIN=str(indexes[0]),
                   SLURM_ARRAY_TASK_MAX=str(indexes[-1]))
    return env


def warn_of_limit(options, folder, shell):
    """--signal: to the tasks of the steps, or with B: to the batch shell alone."""
    n, pattern = (STATE / "limit").read_text(encoding="utf-8").split()
    if not wait_for(lambda: len(glob.glob(pattern)) >= int(n) or shell.poll() is not None) or shell.poll() is not None:
        return
    target, _, rest = options["signal"].rpartition(":")
    number = getattr(signal, "SIG" + rest.split("@")[0])
    log(event="limit", signal=options["signal"])
    if "B" in target:
        shell.send_signal(number)
        return
    for pid in folder.glob("task.*"):
        os.kill(int(pid.suffix[1:]), number)


def run_job(script, arguments, options, env, job):
    """Runs, and runs again while scontrol requeue asked for it. Returns the batch shell's exit code."""
    folder = STATE / f"job{job}"
    folder.mkdir()
    spooled = folder / "slurm_script"
    shutil.copy(script, spooled)
    spooled.chmod(0o755)
    already = STATE / "restarts"
    first = int(already.read_text(encoding="utf-8")) if already.exists() else 0
    for restart in range(first, first + 10):
        if restart:
            env["SLURM_RESTART_COUNT"] = str(restart)
        log(event="start", job=job, restart=restart, options=options)
        shell = subprocess.Popen([str(spooled), *arguments], env=env, stdout=sys.stderr)
        (folder / "shell").write_text(str(shell.pid), encoding="utf-8")
        warner = None
        if restart == first and (STATE / "limit").exists() and "signal" in options:
            warner = threading.Thread(target=warn_of_limit, args=(options, folder, shell))
            warner.start()
        code = shell.wait()
        if warner:
            warner.join()
        code = 128 - code if code < 0 else code
        log(event="end", job=job, code=code)
        if not (folder / "requeue").exists():
            return code
        (folder / "requeue").unlink()
    return 1


def sbatch(words):
    given, rest = parse(words, SBATCH, SBATCH_FLAGS)
    if not rest or not Path(rest[0]).is_file():
        fail(f"Unable to open file {rest[0] if rest else ''}")
    script = Path(rest[0])
    if not script.read_text(encoding="utf-8").startswith("#!"):
        fail("This does not look like a batch script")
    options, extra = parse(directives(script), SBATCH, SBATCH_FLAGS)
    if extra:
        fail(f"Invalid directive found in batch script: {extra[0]}")
    options.update(given)
    job = new_id()
    print(job if "parsable" in options else f"Submitted batch job {job}", flush=True)
    if "dependency" in options:
        before = STATE / f"code{options['dependency'].partition(':')[2]}"
        if not before.exists() or before.read_text(encoding="utf-8") != "0":
            log(event="dependency never satisfied", job=job)
            return 0
    if "array" not in options:
        code = run_job(script, rest[1:], options, job_environment(options, job), job)
    else:
        first, _, last = options["array"].partition("-")
        indexes = range(int(first), int(last or first) + 1)
        code = 0
        for index in indexes:
            # The last task of an array has the array's own number; the others get new ones.
            task = job if index == indexes[-1] else new_id()
            code = run_job(script, rest[1:], options, job_environment(options, task, job, index, indexes), task) or code
    (STATE / f"code{job}").write_text(str(code), encoding="utf-8")
    return 0


# ---- containers ------------------------------------------------------------------------------------------------------

def check_container(mounts, workdir, command):
    """The folder to start in, arguments that are paths, and the hub's cache must be mounted."""
    folders = []
    for mount in (mounts or "").split(","):
        source, _, target = mount.partition(":")
        if not Path(source).is_dir() or not target.startswith("/"):
            fail(f"cannot mount '{mount}'")
        folders.append(Path(target).resolve())

    def seen(path):
        return any(path.resolve().is_relative_to(f) for f in folders)

    if not workdir:
        fail("the container starts in its own folder, where the job's paths lead nowhere (no working directory)")
    for path in [Path(workdir), *(Path(workdir) / w for w in command[1:] if "/" in w or (Path(workdir) / w).exists()),
                 Path(os.environ.get("HF_HUB_CACHE", "/the/image's/own"))]:
        if not re.fullmatch(r"\d+/\d+", path.name) and not re.fullmatch(r"\d+", path.name) and not seen(path):
            fail(f"{path} is not mounted")


def apptainer(words):
    """exec OPTIONS IMAGE COMMAND..."""
    verb, *words = words
    options = {"nv": False, "bind": None, "pwd": None}
    while words and words[0].startswith("--"):
        name = words.pop(0).removeprefix("--")
        if name not in options:
            fail(f"unknown flag: --{name}")
        options[name] = True if name == "nv" else words.pop(0)
    if verb != "exec" or not words or not words[0].endswith(".sif"):
        fail("no image")
    check_container(options["bind"], options["pwd"], words[1:])
    os.execvp(words[1], words[1:])


# ---- srun ------------------------------------------------------------------------------------------------------------

def srun(words):
    options, command = parse(words, SRUN, SRUN_FLAGS)
    if not command:
        fail("No command given to execute.")
    job = os.environ.get("FAKE_SLURM_JOB") or fail("no allocation")
    inherited = {name: os.environ[variable] for name, variable in COMMON.items()
                 if variable and variable in os.environ and name != "cpus-per-task"}
    # A count on the command line replaces the job's; otherwise the job's number of tasks is used.
    merged = {**inherited, **options}
    nodes, tasks, per_node = shape(merged)
    if "container-image" in options:
        check_container(options.get("container-mounts"), options.get("container-workdir"), command)
    folder = STATE / f"job{job}"
    step = len(list(folder.glob("step*")))
    (folder / f"step{step}").touch()
    log(event="step", job=int(job), step=step, options=options, command=command)
    tasks_running = []
    for rank in range(tasks):
        env = {k: v for k, v in os.environ.items() if k != "FAKE_SLURM_JOB"}
        env.update(SLURM_PROCID=str(rank), SLURM_NTASKS=str(tasks), SLURM_NPROCS=str(tasks), SLURM_STEP_ID=str(step),
                   SLURM_STEPID=str(step), SLURM_STEP_NUM_TASKS=str(tasks), SLURM_STEP_NUM_NODES=str(nodes),
                   SLURM_NODEID=str(rank // per_node), SLURM_LOCALID=str(rank % per_node),
                   SLURM_STEP_TASKS_PER_NODE=layout(nodes, per_node), SLURM_STEP_NODELIST=f"node[1-{nodes}]",
                   SLURM_LAUNCH_NODE_IPADDR="127.0.0.1")
        env.pop("SLURM_CPUS_PER_TASK", None)
        if "cpus-per-task" in options:
            env["SLURM_CPUS_PER_TASK"] = options["cpus-per-task"]
        tasks_running.append(subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL))
    marks = [folder / f"task.{t.pid}" for t in tasks_running]
    for mark in marks:
        mark.touch()

    def force(*_):
        # srun(1): a SIGTERM to srun itself ends in SIGKILL for the tasks.
        print("srun: forcing job termination", file=sys.stderr)
        log(event="srun forced", job=int(job))
        for t in tasks_running:
            t.kill()

    signal.signal(signal.SIGTERM, force)
    codes = []
    for t, mark in zip(tasks_running, marks):
        code = t.wait()
        mark.unlink()
        codes.append(128 - code if code < 0 else code)
        if codes[-1] and options.get("kill-on-bad-exit") == "1":
            for other in tasks_running:
                other.kill()
    log(event="step end", job=int(job), codes=codes)
    return max(codes)


# ---- scontrol, scancel -----------------------------------------------------------------------------------------------

def scontrol(words):
    if len(words) != 2 or words[0] != "requeue" or not (STATE / f"job{words[1]}").is_dir():
        fail(f"invalid: {' '.join(words)}")
    options = next(e["options"] for e in events() if e["event"] == "start" and e["job"] == int(words[1]))
    if "requeue" not in options:
        fail("Requested operation is presently disabled")
    (STATE / f"job{words[1]}/requeue").touch()
    log(event="requeue", job=int(words[1]))
    return 0


def scancel(words):
    """Without options: SIGTERM to the steps' tasks and to the batch shell."""
    if len(words) != 1 or not (STATE / f"job{words[0]}").is_dir():
        fail(f"invalid: {' '.join(words)}")
    folder = STATE / f"job{words[0]}"
    pids = [int(p.suffix[1:]) for p in folder.glob("task.*")] + [int((folder / "shell").read_text(encoding="utf-8"))]
    log(event="cancel", job=int(words[0]))
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    return 0


def events():
    return [json.loads(line) for line in (STATE / "log").read_text(encoding="utf-8").splitlines()]


def install(folder):
    """Puts the commands into `folder`."""
    for name in ("sbatch", "srun", "scontrol", "scancel", "apptainer"):
        program = Path(folder) / name
        words = shlex.join([sys.executable, str(Path(__file__).resolve()), name])
        program.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
        program.chmod(0o755)


def wait_for(condition, seconds=30):
    """True once condition() holds; looks again every few milliseconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.01)
    return False


if __name__ == "__main__":
    verb = {"sbatch": sbatch, "srun": srun, "scontrol": scontrol, "scancel": scancel,
            "apptainer": apptainer}.get(sys.argv[1])
    sys.exit(verb(sys.argv[2:]))
