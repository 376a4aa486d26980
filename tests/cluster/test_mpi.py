"""Bytes of rank 0 by MPI: every rank gets them, or all take them from files; a rank that is missing holds nobody.

Usage: test_mpi.py MPI_RANKS
Skipped (77) without Open MPI's mpirun. MPICH's mpiexec.hydra is tried as well where it is there.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

N = 4
LINE = re.compile(r"rank (\d) of 4: ([a-z ]+), by (MPI|files), bytes (right|wrong), handlers (kept|changed), ([\d.]+) s: (.*)")
OPEN_MPI = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(N)]
HYDRA = ["mpiexec.hydra", "-launcher", "fork", "-n", str(N)]
PATIENCE = 30
DEADLINE = 3  # of mpi_ranks
FEW_SECONDS = 15


def said(launcher, case):
    """{rank: the fields of its line}"""
    folder = tempfile.mkdtemp(prefix="wm-mpi-")
    try:
        with tempfile.TemporaryFile("w+") as output:
            launched = subprocess.Popen([*launcher, sys.argv[1], folder + "/ranks", case], stdin=subprocess.DEVNULL,
                                        stdout=output, stderr=output)
            try:
                launched.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                launched.kill()  # one that has lost processes may wait for ever; what counts is what the ranks said
                launched.wait()
            output.seek(0)
            noise = output.read().strip()
        lines = "".join(p.read_text() for p in Path(folder).glob("ranks.said.*"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = {int(m[1]): m for m in LINE.finditer(lines)}
    assert found, f"no rank said anything; exit code {launched.returncode}:\n{noise}"
    return found, noise


def all_have_it(launcher, case, way):
    found, noise = said(launcher, case)
    assert sorted(found) == list(range(N)), found
    for m in found.values():
        assert (m[2], m[3], m[4], m[5]) == ("ok", way, "right", "kept"), m[0]
    assert not noise, noise


def all_are_told(launcher, case, survivors, word):
    """Every other rank comes back, in time and with the reason; what MPI still does is its own business then."""
    found, _ = said(launcher, case)
    assert sorted(found) == survivors, found
    for rank, m in found.items():
        assert m[2] == ("cancelled" if rank == 1 else "temporary failure"), m[0]
        assert rank == 1 or word in m[7], m[0]
        assert float(m[6]) < DEADLINE + FEW_SECONDS, m[0]


CASES = {
    "all by MPI": lambda launcher: all_have_it(launcher, "well", "MPI"),
    "one without MPI": lambda launcher: all_have_it(launcher, "without", "files"),
    "one with a library that is none": lambda launcher: all_have_it(launcher, "another", "files"),
    "one that the user stops": lambda launcher: all_are_told(launcher, "cancelled", [0, 1, 2, 3], "stopped on request"),
    "one that is stopped": lambda launcher: all_are_told(launcher, "stops", [0, 2, 3], "no sign of life"),
}

def main():
    launchers = [x for x in (OPEN_MPI, HYDRA) if shutil.which(x[0])]
    if OPEN_MPI in launchers and "Open MPI" not in subprocess.run(["mpirun", "--version"], capture_output=True, text=True,
                                                                  timeout=PATIENCE).stdout:
        launchers.remove(OPEN_MPI)
    if not launchers:
        print("skipped: neither Open MPI's mpirun nor mpiexec.hydra is installed")
        return 77
    os.environ["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"  # Open MPI 5 has it there
    failed = 0
    for launcher in launchers:
        for name, test in CASES.items():
            try:
                test(launcher)
                print("ok   ", launcher[0], name)
            except Exception:
                failed += 1
                print("FAIL ", launcher[0], name)
                traceback.print_exc(file=sys.stdout)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
