#!/usr/bin/env python3
"""As process 1 of a container: SIGTERM ends a merge with 143 and leaves it resumable, without root and with a read-only
root file system; and where something keeps the merge from ending, a second signal ends the process at once.

usage: test_pid1.py WARPMERGE MAKE_CHECKPOINT      (exit code 77 where namespaces are not allowed)

The kernel ignores signals to process 1 that it has no handler for, so a program can work everywhere and still not be
stopped in a container. Here a PID namespace stands for the container, as docker run without --init gives it.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRIES = 5  # the signal has to arrive while the merge runs


def in_container(words, folder):
    """/ read-only except `folder`; as root of the test also another user, without capabilities."""
    user = []
    if os.geteuid() == 0 and shutil.which("setpriv"):
        user = ["setpriv", "--reuid", "65532", "--regid", "65532", "--clear-groups", "--no-new-privs",
                "--bounding-set=-all", "--inh-caps=-all"]
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro / && cd "$1" && shift && exec "$@"'
    return ["sh", "-c", script, "sh", folder, *user, *words]


def namespace(folder):
    """The command in front that makes its child process 1, or None where namespaces or mounts are not allowed."""
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    words = ["unshare", *own, "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
    if not shutil.which("unshare") or not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        return None
    probe = subprocess.run([*words, *in_container(["sh", "-c", "echo $$"], folder)], capture_output=True, text=True)
    return words if probe.returncode == 0 and probe.stdout.strip() == "1" else None


def child_of(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return int(children[0]) if children else None


def partial(folder):
    return [n for n in os.listdir(folder) if "warpmerge-partial" in n]


def wait_for_partial(process, folder):
    """True: it is there, and the process too."""
    until = time.monotonic() + 60
    while not partial(folder) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.001)
    return process.poll() is None


def stop_in_the_middle(command, folder):
    """Starts, sends SIGTERM to process 1 once the partial output exists; the exit code."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if wait_for_partial(process, folder):
        os.kill(child_of(process.pid), signal.SIGTERM)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    return process.returncode, time.monotonic() - began, err


def full_pipe():
    """(reading, writing end): whoever writes waits for a reader."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        pass
    try:
        while True:
            os.write(writing, b"x")
    except BlockingIOError:
        os.set_blocking(writing, True)
    return reading, writing


def waits_to_write(pid):
    """Of any thread of it: is it asleep in a write to a pipe?"""
    try:
        return any("pipe" in (task / "wchan").read_text(encoding="utf-8") for task in Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return False


def stop_twice(command, folder):
    """Nobody reads standard error, where the merge says that it was stopped: it cannot end by itself. (The exit code,
    whether the first signal alone ended it, seconds from the second signal to the end.)"""
    for name in partial(folder):
        shutil.rmtree(Path(folder, name))
    reading, writing = full_pipe()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writing)
    try:
        if not wait_for_partial(process, folder):
            return process.returncode, True, 0.0
        child = child_of(process.pid)
        os.kill(child, signal.SIGTERM)
        until = time.monotonic() + 60
        while process.poll() is None and not waits_to_write(child) and time.monotonic() < until:
            time.sleep(0.01)
        if process.poll() is not None:
            return process.returncode, True, 0.0
        began = time.monotonic()
        os.kill(child, signal.SIGINT)
        code = process.wait(timeout=30)
        return code, False, time.monotonic() - began
    except subprocess.TimeoutExpired:
        return None, False, 30.0
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)


def main():
    program, maker = (str(Path(p).resolve()) for p in sys.argv[1:3])
    folder = tempfile.mkdtemp(prefix="wm-pid1-")
    os.chmod(folder, 0o755)
    try:
        front = namespace(folder)
        if not front:
            print("skipped: no PID namespaces here (unshare --pid --mount)")
            return 77
        subprocess.run([maker, "--out", folder, "--hidden", "512", "--layers", "8", "--vocab", "8000"], check=True,
                       stdout=subprocess.DEVNULL)
        Path(folder, "c.yml").write_text("merge_method: ties\nbase_model: base\nparameters: {density: 0.5, weight: 1}\n"
                                         "models:\n- model: ft1\n- model: ft2\n", encoding="utf-8")
        for directory, _, files in os.walk(folder):
            for path in [directory, *(os.path.join(directory, f) for f in files)]:
                if os.geteuid() == 0:
                    os.chown(path, 65532, 65532)
        # The program's own folder has to be readable for another user too.
        shutil.copy(program, Path(folder, "warpmerge"))
        os.chmod(Path(folder, "warpmerge"), 0o755)
        command = [*front, *in_container(["./warpmerge", "merge", "c.yml", "out", "--threads", "1", "--tile", "64KiB",
                                          "--memory", "256MiB"], folder)]
        for _ in range(TRIES):
            code, seconds, err = stop_in_the_middle(command, folder)
            if code != 0:
                break
            shutil.rmtree(Path(folder, "out"))
        print(f"stopped with {code} after {seconds:.2f} s")
        if code != 143 or seconds > 10 or not partial(folder) or Path(folder, "out").exists():
            print(err)
            return 1
        for _ in range(TRIES):
            code, by_first, seconds = stop_twice([*command, "--quiet"], folder)
            if not (by_first and code == 0):
                break
            shutil.rmtree(Path(folder, "out"))
        print(f"stopped twice: {code}{' by the first signal' if by_first else ''} after {seconds:.2f} s")
        if code != 130 or by_first or seconds > 10 or not partial(folder) or Path(folder, "out").exists():
            return 1
        again = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        done = Path(folder, "out/model.safetensors").exists() and not partial(folder)
        print(f"continued and ended with {again.returncode}")
        if again.returncode != 0 or not done:
            print(again.stderr)
            return 1
        return 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
