"""Hosts on a network file system: the same bytes; and one whose wire is cut in mid-merge ends, as do the others, and
whatever of it reaches the server later does no harm.

Usage: test_cut_off.py WARPMERGE MAKE_CHECKPOINT [TEST ...]
See network.py for the hosts. Their mounts know two ways to behave when the server is lost, and both are tried: calls
fail after a while, or they wait until it comes back. Needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN, iproute2, sshfs,
sftp-server and /dev/fuse: exit code 77 (skipped) without.
"""

import subprocess
import sys
import time

import network
from team import (LARGE, SMALL, TINY, TOP, all_well, check, checkpoints, contains, die_with_parent, end, end_all, equal,
                  meeting_of, n_records, recipe, same, start, tests, wait_for)

DEADLINE = 2
FEW_SECONDS = 15  # what a busy machine may add to a deadline
FAILS_SOON = 3  # retries: about 3 seconds without an answer
SLOW = ["--threads", "1", "--io-threads", "1", "--tile", "64KiB"]
HANGS_SECONDS = 10  # that a rank waits for storage before it ends, at least
hosts = []


def place(name):
    """An output that all hosts see, which the tests' own folders are not."""
    folder = TOP / name
    folder.mkdir()
    return folder / "out"


def start_on(which, config, out, ranks_per_host, *options):
    n = len(which) * ranks_per_host
    return [which[rank // ranks_per_host].start(config, out, rank, n, *options) for rank in range(n)]


def said(process):
    process.errors.seek(0)
    return process.errors.read()


def cut_off(config, out, lost):
    """One rank a host; cuts the wire of one and checks the others. The rank of the lost host."""
    ranks = start_on(hosts[:3], config, out, 1, "--deadline", DEADLINE, *SLOW)
    gone = ranks.pop(lost)
    wait_for(lambda: n_records(out, lost) >= 3 or gone.poll() is not None, "records", poll=0.001)
    check(gone.poll() is None, "the merge ended before the host was cut off")
    hosts[lost].link("down")
    began = time.monotonic()
    for code, text in end_all(ranks):
        equal(code, 75, text)
        contains(text, f"rank {lost} ", hosts[lost].name)
    took = time.monotonic() - began
    check(took < DEADLINE + FEW_SECONDS, f"the others took {took:.1f} s to notice")
    check(not out.exists(), "the output name exists although a host was lost")
    return gone


def test_same_bytes(folder):
    models = checkpoints(SMALL, "small")
    for n, per_host, method in ((2, 2, "ties"), (3, 1, "ties_global"), (4, 1, "linear")):
        out = place(f"same{n}")
        all_well(end_all(start_on(hosts[:n], recipe(method, models), out, per_host)))
        same(out, method, models, f"{method} on {n} hosts")
        check(not meeting_of(out).exists(), "the ranks' meeting place is left behind")


def test_parts_are_finished(folder):
    """None of the files that the parts and the ending of the merge know each other by is left in the output."""
    models, out = checkpoints(TINY, "tiny"), place("parts")
    config = recipe("linear", models)
    all_well(end_all([start("merge", config, out, "--quiet", "--part", f"{k}/3", prefix=hosts[k].inside())
                      for k in range(3)]))
    all_well([end(start("finish", out, "--quiet", prefix=hosts[3].inside()))])
    same(out, "linear", models, "three parts")
    equal([p.name for p in out.parent.iterdir()], ["out"], "left behind")


def test_an_output_is_replaced(folder):
    """This file system exchanges no names. What a killed run left aside goes; what somebody reads goes the next time."""
    models, out = checkpoints(TINY, "tiny"), place("replaced")
    aside = out.parent / f".{out.name}.warpmerge-partial.replaced"

    def leave_aside():
        aside.mkdir()
        (aside / "model.safetensors").write_text("left by a killed run")

    def replace(method):
        all_well(end_all(start_on(hosts[:1], recipe(method, models), out, 1, "--overwrite")))
        same(out, method, models, method)

    leave_aside()
    replace("linear")  # there is no output yet
    check(not aside.exists(), "what a killed run left is still there")
    shard = next(out.glob("*.safetensors"))
    reader = subprocess.Popen([*hosts[0].inside(), "sh", "-c", f"exec 3<{shard}; echo; exec sleep 1000"],
                              stdout=subprocess.PIPE, preexec_fn=die_with_parent)
    reader.stdout.readline()
    leave_aside()
    replace("ties")
    check(list(aside.glob(".fuse_hidden*")), "nobody had a file of the old output open")
    reader.kill()
    reader.communicate()
    replace("slerp")
    equal([p.name for p in out.parent.iterdir()], ["out"], "left behind")


def test_a_host_is_cut_off_and_its_storage_fails(folder):
    """The host of rank 0, which leads. When it is back and has mounted again, two hosts go on, with two ranks each."""
    models, out = checkpoints(LARGE, "large"), place("fails")
    config = recipe("ties_global", models)
    hosts[0].unmount()
    hosts[0].mount(FAILS_SOON)
    gone = cut_off(config, out, 0)
    code, text = end(gone, HANGS_SECONDS + FEW_SECONDS)
    check(code in (74, 75), f"exit code {code} of the rank that was cut off: {text}")
    hosts[0].unmount()
    hosts[0].link("up")
    hosts[0].mount()
    all_well(end_all(start_on(hosts[:2], config, out, 2, "--deadline", "20")))
    same(out, "ties_global", models, "with the host that had been lost")


def test_a_host_is_cut_off_and_its_storage_hangs(folder):
    """The others finish without it. Then its wire is mended, and what it had begun to write arrives."""
    models, out = checkpoints(LARGE, "large"), place("hangs")
    config = recipe("ties", models)
    gone = cut_off(config, out, 2)
    began = time.monotonic()
    all_well(end_all(start_on(hosts[:2], config, out, 1, "--deadline", "20")))
    same(out, "ties", models, "without the lost host")
    # FUSE does not let a process go while its server has a call of it: what we see is that it wants to.
    wait_for(lambda: "has not come to an end" in said(gone) or "waits for the files" in said(gone), "the lost rank's end",
             timeout=HANGS_SECONDS + FEW_SECONDS)
    contains(said(gone), "rank 2", "run the same command again")
    hosts[2].link("up")
    code, text = end(gone)
    equal(code, 75, text)
    check(time.monotonic() - began < 60, "the lost rank ended late")
    hosts[2].unmount()  # what is under way now has arrived or never will
    hosts[2].mount()
    same(out, "ties", models, "after the lost host has come back")
    equal([p.name for p in out.parent.iterdir()], ["out"], "left behind")


if __name__ == "__main__":
    lacking = network.why_not()
    try:
        if not lacking:
            hosts = network.Network(4).hosts
    except OSError as error:
        lacking = str(error)
    if lacking:
        print(f"skipped: {lacking}")
        sys.exit(77)
    tests(sys.modules[__name__])
