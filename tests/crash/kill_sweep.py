"""Kills a small merge at every system call that touches files, runs it again, and compares the bytes.

Usage: kill_sweep.py WARPMERGE MAKE_CHECKPOINT

strace injects SIGKILL on entry to the n-th openat, mkdir, fallocate, ftruncate, pwrite64, fsync, close, unlink, rename
or renameat2, for every n that occurs. After each kill: the final name does not exist or is complete; the same command
then ends with exit code 0 and the same bytes; nothing of ours is left beside it. Exit code 77 (skipped) without a
working strace.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

CALLS = ["openat", "mkdir", "fallocate", "ftruncate", "pwrite64", "fsync", "close", "unlink", "unlinkat", "rename",
         "renameat2", "flock", "getdents64"]
MAX_PER_CALL = 1000


def digest(folder):
    total = hashlib.sha256()
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as f:
            total.update(name.encode() + b"\0" + hashlib.sha256(f.read()).digest())
    return total.hexdigest()


def leftovers(folder):
    return [n for n in os.listdir(folder) if "warpmerge-partial" in n]


def main():
    tool, maker = sys.argv[1:3]
    if not shutil.which("strace"):
        print("skipped: strace is not installed")
        return 77
    top = tempfile.mkdtemp(prefix="wm-kill-")
    try:
        probe = subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", "true"], capture_output=True)
        if probe.returncode != 0:
            print("skipped: strace cannot trace here: " + probe.stderr.decode(errors="replace").strip())
            return 77
        subprocess.run([maker, "tiny-llama", "--out", top, "--fine-tunes", "2", "--seed", "3"], check=True,
                       stdout=subprocess.DEVNULL)
        config = os.path.join(top, "c.yml")
        with open(config, "w") as f:
            f.write("merge_method: ties\nbase_model: %s/base\nparameters: {density: 0.5, weight: 1, trim: global}\n"
                    "models:\n- model: %s/ft1\n- model: %s/ft2\n" % (top, top, top))
        base = [tool, "merge", config]
        options = ["--quiet", "--threads", "1", "--io-threads", "1", "--tile", "64KiB", "--out-shard-size", "150000"]

        def merge(out, strace=()):
            return subprocess.run([*strace, *base, out, *options], stdin=subprocess.DEVNULL, capture_output=True)

        good = os.path.join(top, "good")
        first = merge(good)
        if first.returncode != 0:
            print(first.stderr.decode(errors="replace"))
            return 1
        expected = digest(good)
        n_kills = n_whole = 0
        for call in CALLS:
            for n in range(1, MAX_PER_CALL):
                out = os.path.join(top, "out")
                killed = merge(out, ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call, "-e",
                                     "inject=%s:signal=SIGKILL:when=%d" % (call, n)])
                if killed.returncode == 0:  # fewer than n such calls were made
                    assert digest(out) == expected, "uninterrupted run under strace differs"
                    shutil.rmtree(out)
                    break
                n_kills += 1
                if os.path.exists(out):
                    assert digest(out) == expected, "%s %d: an incomplete directory has the final name" % (call, n)
                    n_whole += 1
                again = merge(out)
                assert again.returncode == 0, "%s %d: cannot continue: %s" % (
                    call, n, again.stderr.decode(errors="replace"))
                assert digest(out) == expected, "%s %d: other bytes after continuing" % (call, n)
                assert not leftovers(top), "%s %d: left behind: %s" % (call, n, leftovers(top))
                shutil.rmtree(out)
        print("killed at %d points (%d of them after the commit): the same bytes every time" % (n_kills, n_whole))
        if n_kills < 50:
            print("too few kill points: the sweep is not looking at the right calls")
            return 1
        return 0
    finally:
        shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
