"""Ranks on several hosts: the same bytes, and a host that is cut off in mid-merge, and one that comes back.

Usage: test_hosts.py WARPMERGE MAKE_CHECKPOINT
A host is a network namespace with a name of its own and no link to any other: a directory is all that they share. Ranks
hold no connection, so the network alone could not cut a host off; what others see of a lost host is that its processes
fall silent. They are stopped (SIGSTOP) and later killed, or go on (SIGCONT) when the others have given them up.
Needs root with CAP_NET_ADMIN, and ip and unshare: exit code 77 (skipped) without.
"""

import atexit
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from team import (IN_LITTLE_MEMORY, LARGE, SMALL, STREAMED, all_well, check, checkpoints, contains, end_all, equal,
                  meeting_of, n_records, recipe, same, start, tests, wait_for)

DEADLINE = 2
FEW_SECONDS = 15  # what a busy machine may add to a deadline
SLOW = ["--threads", "1", "--io-threads", "1", "--tile", "64KiB"]
N_HOSTS = 4
HOSTS = [f"wm{os.getpid()}h{i}" for i in range(N_HOSTS)]


def make_hosts():
    """False, with the reason printed, where this machine does not let us."""
    for tool in ("ip", "unshare"):
        if not shutil.which(tool):
            print(f"skipped: {tool} is not installed")
            return False
    atexit.register(remove_hosts)
    for host in HOSTS:
        made = subprocess.run(["ip", "netns", "add", host], capture_output=True, text=True, timeout=30)
        probe = made if made.returncode else subprocess.run([*on(host), "true"], capture_output=True, text=True,
                                                            timeout=30)
        if probe.returncode:
            print("skipped: no network namespaces here: " + probe.stderr.strip())
            return False
    return True


def remove_hosts():
    for host in HOSTS:
        subprocess.run(["ip", "netns", "delete", host], capture_output=True, timeout=30)


def on(host):
    """Each of these replaces itself by the next, so that the process that we know is the rank."""
    return ["ip", "netns", "exec", host, "unshare", "--uts", "sh", "-c", f'hostname {host} && exec "$@"', "sh"]


def start_on_hosts(config, out, hosts, ranks_per_host, *options):
    n = len(hosts) * ranks_per_host
    return [start("merge", config, out, "--quiet", "--ranks", n, "--rank", rank, *options,
                  prefix=on(hosts[rank // ranks_per_host])) for rank in range(n)]


def send(processes, number):
    for process in processes:
        process.send_signal(number)


def cut_off(config, out, n_hosts, lost, moment, *options):
    """Starts two ranks a host, cuts the lost host off, checks the others; its processes, which stand still."""
    ranks = start_on_hosts(config, out, HOSTS[:n_hosts], 2, "--deadline", DEADLINE, *options)
    gone = ranks[2 * lost:2 * lost + 2]
    wait_for(lambda: n_records(out, 2 * lost) >= moment or gone[0].poll() is not None, "records", poll=0.001)
    check(gone[0].poll() is None, "the merge ended before the host was cut off")
    send(gone, signal.SIGSTOP)
    began = time.monotonic()
    others = end_all([r for r in ranks if r not in gone])
    took = time.monotonic() - began
    for code, text in others:
        equal(code, 75, text)
        contains(text, HOSTS[lost])
    check(took < DEADLINE + FEW_SECONDS, f"the others took {took:.1f} s to notice")
    check(not out.exists(), "the output name exists although a host was lost")
    return gone


def test_same_bytes(folder):
    models = checkpoints(SMALL, "small")
    for n, method in ((2, "ties"), (3, "ties_global"), (4, "dare_ties"), (2, "slerp")):
        out = folder / f"{method}{n}"
        all_well(end_all(start_on_hosts(recipe(method, models), out, HOSTS[:n], 2)))
        same(out, method, models, f"{method} on {n} hosts")


def lose_a_host(folder, method, lost):
    models, out = checkpoints(LARGE, "large"), folder / "out"
    config = recipe(method, models)
    gone = cut_off(config, out, 3, lost, 3 + lost, *SLOW)
    send(gone, signal.SIGKILL)
    for code, text in end_all(gone):
        equal(code, 137, text)
    left = [HOSTS[i] for i in range(3) if i != lost]
    all_well(end_all(start_on_hosts(config, out, left, 1, "--deadline", "20")))
    same(out, method, models, f"{method} without host {lost}")


def test_a_host_is_lost(folder):
    lose_a_host(folder, "ties", 2)


def test_the_first_host_is_lost(folder):
    lose_a_host(folder, "ties_global", 0)


def test_a_host_comes_back_when_all_is_done(folder):
    """The ranks write large guesses, which only they themselves would repair."""
    models, out, chance = checkpoints(STREAMED, "streamed"), folder / "out", random.Random(5)
    config = recipe("ties", models)
    gone = cut_off(config, out, 2, 1, chance.randrange(1, 4), *IN_LITTLE_MEMORY, "--tile", "256KiB")
    all_well(end_all(start_on_hosts(config, out, HOSTS[:1], 2, "--deadline", "20")))
    same(out, "ties", models, "without the lost host")
    send(gone, signal.SIGCONT)
    for code, text in end_all(gone):
        equal(code, 75, text)
    same(out, "ties", models, "after the lost host has come back")
    check(not meeting_of(out).exists(), "the ranks' meeting place is left behind")


def test_a_host_comes_back_in_the_middle(folder):
    models, out = checkpoints(LARGE, "large"), folder / "out"
    config = recipe("ties", models)
    gone = cut_off(config, out, 2, 1, 3, *SLOW)
    before = n_records(out, 0)
    ranks = start_on_hosts(config, out, HOSTS[:1], 2, "--deadline", "20", *SLOW)
    wait_for(lambda: n_records(out, 0) > before + 2 or ranks[0].poll() is not None, "records", poll=0.001)
    send(gone, signal.SIGCONT)
    for code, text in end_all(gone):
        equal(code, 75, text)
    all_well(end_all(ranks))
    same(out, "ties", models, "while the lost host came back")


if __name__ == "__main__":
    if not make_hosts():
        sys.exit(77)
    tests(sys.modules[__name__])
