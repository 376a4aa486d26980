"""Whoever starts the ranks: the bytes of one process, from every method.

Usage: test_launchers.py WARPMERGE MAKE_CHECKPOINT
The variables that launchers set, and the real mpirun where there is one: with a rank killed, with processors bound.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from team import (LARGE, PATIENCE, PROGRAM, RECIPES, SMALL, TINY, all_well, check, checkpoints, contains, end, end_all,
                  equal, partial_of, recipe, same, start, tests, wait_for_records)

SLOW = ["--threads", "1", "--io-threads", "1", "--tile", "64KiB"]


# ---- variables -------------------------------------------------------------------------------------------------------


def torchrun(rank, n):
    return {"RANK": rank, "WORLD_SIZE": n, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": n, "TORCHELASTIC_RUN_ID": "run-7",
            "TORCHELASTIC_RESTART_COUNT": 0, "MASTER_ADDR": "localhost", "MASTER_PORT": 29500}


def open_mpi(rank, n):
    return {"OMPI_COMM_WORLD_RANK": rank, "OMPI_COMM_WORLD_SIZE": n, "OMPI_COMM_WORLD_LOCAL_RANK": rank,
            "OMPI_COMM_WORLD_LOCAL_SIZE": n, "PMIX_NAMESPACE": "3133145089", "PMIX_RANK": rank}


def slurm(rank, n):
    return {"SLURM_PROCID": rank, "SLURM_NTASKS": n, "SLURM_STEP_NUM_TASKS": n, "SLURM_STEP_ID": 0,
            "SLURM_JOB_ID": 4711, "SLURM_LOCALID": rank, "SLURM_NODEID": 0, "SLURM_STEP_NUM_NODES": 1,
            "SLURM_STEP_TASKS_PER_NODE": n}


def kubernetes(rank, n):
    return {"JOB_COMPLETION_INDEX": rank, "WARPMERGE_RANKS": n, "WARPMERGE_JOB": "uid-1", "HOSTNAME": f"merge-{rank}"}


def pmi(rank, n):
    return {"PMI_RANK": rank, "PMI_SIZE": n, "MPI_LOCALRANKID": rank, "MPI_LOCALNRANKS": n}


def mpirun(n):
    """The words in front of a command; [] where it is not installed."""
    program = shutil.which("mpirun")
    return [program, "--allow-run-as-root", "--oversubscribe", "-n", str(n)] if program else []


def test_every_method_has_a_recipe(_):
    """What the tests of all methods rest on."""
    listed = json.loads(subprocess.run([PROGRAM, "methods", "--json"], capture_output=True, text=True,
                                       timeout=PATIENCE).stdout)
    names = {m["name"] for m in listed["methods"]}
    equal(names, {text.split()[1] for text in RECIPES.values()})


def test_all_methods_with_variables(folder):
    """As torchrun starts them; for one number of ranks also as a PMI launcher does."""
    models = checkpoints(TINY, "tiny")
    for method in RECIPES:
        for n, variables in ((1, torchrun), (2, torchrun), (4, torchrun), (8, torchrun), (3, pmi)):
            out = folder / f"{method}-{variables.__name__}-{n}"
            all_well(end_all([start("merge", recipe(method, models), out, "--quiet",
                                    env={k: str(v) for k, v in variables(rank, n).items()}) for rank in range(n)]))
            same(out, method, models, f"{method} with {n} ranks by {variables.__name__}'s variables")


def test_all_methods_under_mpirun(folder):
    if not mpirun(1):
        print("     (mpirun is not installed: not run)")
        return
    models = checkpoints(TINY, "tiny")
    for method in RECIPES:
        for n in (1, 2, 4, 8):
            out = folder / f"{method}-{n}"
            code, text = end(start("merge", recipe(method, models), out, "--quiet", prefix=mpirun(n)))
            equal(code, 0, f"{method}, mpirun -n {n}:\n{text}\n")
            same(out, method, models, f"{method}, mpirun -n {n}")


def same_with_variables(folder, variables):
    models = checkpoints(SMALL, "small")
    for n in (2, 4):
        out = folder / f"out{n}"
        all_well(end_all([start("merge", recipe("ties", models), out, "--quiet",
                                env={k: str(v) for k, v in variables(rank, n).items()}) for rank in range(n)]))
        same(out, "ties", models, variables.__name__)


def test_variables_of_torchrun(folder):
    same_with_variables(folder, torchrun)


def test_variables_of_open_mpi(folder):
    same_with_variables(folder, open_mpi)


def test_variables_of_slurm(folder):
    same_with_variables(folder, slurm)


def test_variables_of_kubernetes(folder):
    same_with_variables(folder, kubernetes)


def test_finish_is_one_process(folder):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    config = recipe("linear", models)
    all_well(end_all([start("merge", config, out, "--quiet", "--part", f"{k}/2") for k in range(2)]))
    for code, text in end_all([start("finish", out, env={k: str(v) for k, v in open_mpi(r, 2).items()})
                               for r in range(2)]):
        equal(code, 2, text)
        contains(text, "finish is one process", "2", "start it once, or add --ranks none")
    code, text = end(start("finish", out, "--ranks", "none", env={k: str(v) for k, v in open_mpi(0, 2).items()}))
    equal(code, 0, text)
    same(out, "linear", models)


# ---- the real mpirun -------------------------------------------------------------------------------------------------


def test_binding_is_told(folder):
    """One processor of several for a rank that has the machine to itself; and nothing where the share is fair."""
    if os.cpu_count() < 2 or not shutil.which("taskset"):
        print("     (one processor, or no taskset: not run)")
        return
    models = checkpoints(SMALL, "small")
    for name, variables, local_size, processors, told in (
            ("bound", open_mpi, 1, "0", True), ("fair", open_mpi, os.cpu_count(), "0", False),
            ("unbound", open_mpi, 1, f"0-{os.cpu_count() - 1}", False), ("torchrun", torchrun, 1, "0", False)):
        env = [{k: str(local_size if "LOCAL_SIZE" in k or k == "LOCAL_WORLD_SIZE" else
                       0 if "LOCAL_RANK" in k else v) for k, v in variables(r, 2).items()} for r in range(2)]
        results = end_all([start("merge", recipe("linear", models), folder / name, "--quiet", env=e,
                                 prefix=["taskset", "-c", processors]) for e in env])
        all_well(results)
        equal(["binds this rank to 1 of" in text and "--bind-to none" in text for _, text in results], [told, False],
              name, results)


def process_of_rank(rank, out):
    """The process id of a rank that mpirun has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(out).encode() in words and b"warpmerge" in words.split(b"\0")[0] and \
                f"OMPI_COMM_WORLD_RANK={rank}".encode() in variables:
            return int(folder.name)
    raise AssertionError(f"rank {rank} is not there")


def test_killed_under_mpirun(folder):
    """A killed rank, a stopped rank and a stopped mpirun: README has what mpirun makes of them. Then another -n ends it."""
    if not mpirun(1):
        print("     (mpirun is not installed: not run)")
        return
    models = checkpoints(LARGE, "large")
    config = recipe("ties", models)
    # mpirun tells the first code it hears of: another rank may hear of the stop, and end, before the one that was stopped.
    for number, rank, wanted in ((signal.SIGKILL, 1, [137]), (signal.SIGTERM, 1, [143, 75]), (signal.SIGTERM, None, [1])):
        out = folder / f"out{number.value}-{rank}"
        job = start("merge", config, out, "--quiet", *SLOW, prefix=mpirun(3))
        check(wait_for_records(out, 1, 3, job), "the ranks ended before one could be killed")
        os.kill(job.pid if rank is None else process_of_rank(rank, out), number)
        code, text = end(job, 60)
        check(code in wanted, f"{code} of {wanted}, {number.name} to {'mpirun' if rank is None else rank}:\n{text}\n")
        if number == signal.SIGTERM and rank is not None:
            contains(text, f"rank {rank} ", "stopped; run the same command again")
        if rank is not None:  # mpirun takes its time to stop ranks, which may end well meanwhile
            check(not out.exists() and partial_of(out).is_dir(), "nothing is left to continue from:", text)
        code, text = end(start("merge", config, out, "--quiet", prefix=mpirun(2)))
        equal(code, 0, text)
        same(out, "ties", models, "mpirun -n 3 stopped, mpirun -n 2")


if __name__ == "__main__":
    tests(sys.modules[__name__])
