#!/usr/bin/env python3
"""Executes a Dockerfile's steps in plain folders instead of images, and looks at what comes out. Not a test of every
run: by hand, as root, with a network, on a machine without a container engine. Only for FROM images that a folder can
stand for:

    debootstrap --variant=minbase bookworm /tmp/bookworm http://deb.debian.org/debian
    python3 tests/jobs/run_dockerfile.py --tree debian=/tmp/bookworm --work /tmp/stages docker/Dockerfile.cpu
    python3 tests/jobs/run_dockerfile.py --tree warpmerge=/tmp/stages/final --work /tmp/mpi docker/Dockerfile.mpi

Each stage is a copy of its tree below --work; RUN is chroot in its own mount and process namespaces, without devices
but /dev/null and its like. Afterwards the final tree runs as its image would: unprivileged user, no capabilities,
read-only root, warpmerge as process 1. For our own Dockerfiles only; nothing here confines a hostile one.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dockerfile

ROOT = Path(__file__).resolve().parents[2]
NAMESPACES = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
# Runs in the new mount namespace. The tree becomes a mount of its own, read-only for the final checks.
ENTER = r"""
set -e
tree=$1 data=$2 mode=$3
shift 3
mount --bind "$tree" "$tree"
[ -z "$data" ] || mount --bind "$data" "$tree/data"
mount -t proc proc "$tree/proc"
[ "$mode" = rw ] || { mount -t tmpfs tmpfs "$tree/tmp"; mount -o remount,bind,ro "$tree"; }
exec "$@"
"""


def enter(tree, words, environment, data=None, read_only=False, folder="/", user=None, **more):
    """subprocess.Popen of `words` in `tree`."""
    inside = ["chroot", tree, "/bin/sh", "-c", 'cd "$1"; shift; exec "$@"', "sh", folder, *words]
    if user:
        uid, gid = user.split(":")
        # setpriv is the host's: what the user may do is settled before the tree is entered.
        inside = ["chroot", f"--userspec=+{uid}:+{gid}", "--groups=", tree, "/usr/bin/env", "-C", folder, *words]
        inside = ["setpriv", "--no-new-privs", "--bounding-set=-all,+sys_chroot,+setuid,+setgid", "--inh-caps=-all",
                  *inside]
    bare = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **environment}
    mode = "ro" if read_only else "rw"
    return subprocess.Popen([*NAMESPACES, "sh", "-c", ENTER, "sh", tree, str(data or ""), mode, *inside], env=bare,
                            stdin=subprocess.DEVNULL, **more)


def copy_tree(source, target):
    if target.exists():
        sys.exit(f"{target} exists; remove it or name another --work")
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)
    for name in ("null", "zero", "full", "random", "urandom"):
        if not (target / "dev" / name).exists():
            subprocess.run(["cp", "-a", f"/dev/{name}", target / "dev" / name], check=True)
    shutil.copy("/etc/resolv.conf", target / "etc/resolv.conf")


def put(source, destination, into_folder):
    """COPY: a folder's contents, or a file."""
    if source.is_dir():
        shutil.copytree(source, destination, symlinks=True, dirs_exist_ok=True)
        return
    target = destination / source.name if into_folder else destination
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def copy(instruction, tree, trees, folder, ignore):
    words = instruction.words or instruction.text.split()
    destination = words[-1]
    target = tree / (destination if destination.startswith("/") else f"{folder}/{destination}").lstrip("/")
    for source in words[:-1]:
        if "from" in instruction.flags:
            put(trees[instruction.flags["from"]] / source.strip("/"), target, destination.endswith("/"))
            continue
        for file in dockerfile.context_files(ROOT, source, ignore):
            inner = file.relative_to(source) if (ROOT / source).is_dir() else Path(file.name)
            put(ROOT / file, target / inner if destination.endswith("/") else target, False)


def build(stages, bases, image_environment, work):
    ignore = dockerfile.Ignore((ROOT / ".dockerignore").read_text(encoding="utf-8"))
    trees = {}
    for number, stage in enumerate(stages):
        name = stage.name or ("final" if stage is stages[-1] else f"stage{number}")
        base = trees.get(stage.image) or bases.get(stage.image) or bases.get(stage.image.split(":")[0])
        if base is None:
            sys.exit(f"no --tree for {stage.image}")
        tree = trees[name] = work / name
        copy_tree(base, tree)
        folder = "/"
        stage.environment.update(image_environment)
        for step in stage.instructions:
            shown = re.sub(r"\s+", " ", f"{step.name} {step.text}")
            print(f"== {name}: {shown[:150]}", flush=True)
            if step.name == "WORKDIR":
                folder = step.text
                (tree / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif step.name == "COPY":
                copy(step, tree, trees, folder, ignore)
            elif step.name == "RUN":
                began = time.monotonic()
                if enter(tree, ["/bin/sh", "-c", step.text], stage.environment, folder=folder).wait():
                    sys.exit(f"line {step.line} failed")
                print(f"   {time.monotonic() - began:.0f} s")
    return trees


def output_of(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


def check_final(stage, tree, config, data):
    """The promises of the image that can be seen from here; returns what is broken."""
    problems = []
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    image = {"environment": stage.environment, "read_only": True, "user": stage.last("USER").text, "data": data}

    def inside(*words, **more):
        return output_of(enter(tree, list(words), **{**image, **more}, **pipes))

    privileged = subprocess.run(["find", tree, "-xdev", "-type", "f", "-perm", "/6000"], capture_output=True, text=True)
    if privileged.stdout:
        problems.append(f"set-user-ID files: {privileged.stdout.split()}")
    licences = tree / "usr/share/doc"
    table = (ROOT / "docker/THIRD-PARTY.md").read_text(encoding="utf-8")
    for text in re.findall(r"`/usr/share/doc/([\w.-]+/copyright)`", table):
        renamed = text.replace("/", "t64/")  # Ubuntu's name of a library whose time_t grew
        optional = text.startswith(("libnccl2", "openmpi"))
        if not optional and not (licences / text).exists() and not (licences / renamed).exists():
            problems.append(f"no licence text {text}")
    code, text = inside("dpkg-query", "-W")
    if code or "libcjson1" not in text:
        problems.append(f"no package database: {text}")
    code, text = inside("ldd", "/usr/local/bin/warpmerge")
    if code or "not found" in text:
        problems.append(f"libraries are missing: {text}")
    code, text = inside("id", "-u")
    if text.strip() in ("", "0"):
        problems.append(f"runs as user {text}")
    code, text = inside("sh", "-c", "echo x >/usr/x; echo x >/tmp/x && echo scratch")
    if "scratch" not in text or (tree / "usr/x").exists():
        problems.append(f"root file system: {text}")
    for words in (["warpmerge", "--version"], ["warpmerge", "env"]):
        code, text = inside(*words)
        print(f"== {' '.join(words)}: {code}\n{text}")
        if code:
            problems.append(f"{words} ends with {code}")
    if config:
        problems += check_merge(lambda: enter(tree, ["warpmerge", "merge", f"/data/{config}", "/data/merged"], **image,
                                              folder="/data", **pipes))
    size = subprocess.run(["du", "-sm", tree], capture_output=True, text=True).stdout.split()[0]
    print(f"== the final tree has {size} MB")
    return problems


def check_merge(start):
    """SIGTERM to process 1 in mid-merge, then the same command to the end."""
    first = start()
    time.sleep(0.3)
    chain = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text(encoding="utf-8").split()
    if chain:
        os.kill(int(chain[0]), signal.SIGTERM)
    code, text = output_of(first)
    print(f"== stopped with {code}: {text.splitlines()[-1:]}")
    again, text = output_of(start())
    print(f"== continued with {again}: {text.splitlines()[-2:]}")
    return [] if code in (0, 143) and again == (0 if code else 73) else [f"ended with {code}, then {again}: {text}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", action="append", default=[], metavar="IMAGE=DIR", required=True)
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="what the FROM images set")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the stages")
    parser.add_argument("--data", type=Path, help="a folder to mount at /data; belongs to the image's user")
    parser.add_argument("--config", help="a config in it, to be merged into /data/merged")
    parser.add_argument("dockerfile", type=Path)
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("needs root (chroot, mount)")
    stages = dockerfile.parse(options.dockerfile.read_text(encoding="utf-8"))
    bases = {name: Path(folder) for name, _, folder in (t.partition("=") for t in options.tree)}
    environment = {name: value for name, _, value in (e.partition("=") for e in options.env)}
    trees = build(stages, bases, environment, options.work)
    data = options.data or options.work / "data"
    data.mkdir(exist_ok=True)
    (trees["final"] / "data").mkdir(exist_ok=True)
    problems = check_final(stages[-1], trees["final"], options.config, data)
    for problem in problems:
        print("PROBLEM:", problem)
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
