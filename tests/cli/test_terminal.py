#!/usr/bin/env python3
"""A merge watched in a terminal shows one line that is updated in place and cleared, at any width."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios

from harness import PROGRAM, check, contains, equal, run_tests, write_pair


def watch(folder, *arguments, columns=100, env=None):
    """Runs the program with a terminal as its three streams. (exit code, everything it wrote)"""
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(folder)
        environment = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(env or {})}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS"):
            if name in os.environ:
                environment[name] = os.environ[name]
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.execve(PROGRAM, [PROGRAM, *arguments], environment)
    out = b""
    while True:
        try:
            piece = os.read(fd, 65536)
        except OSError:
            break
        if not piece:
            break
        out += piece
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode()


def drawings(out):
    """What was drawn on the progress line, escapes removed."""
    return [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", d).rstrip("\n") for d in re.findall(r"\r((?:merging|syncing|finishing) [^\r\n]*)", out)]


def screen(out):
    """The lines that stay: a carriage return starts a line over, erase clears it."""
    lines = []
    for line in out.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in re.split(r"(\r|\x1b\[K)", line):
            shown = "" if part in ("\r", "\x1b[K") else shown + part
        lines.append(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown))
    return lines


def test_bar(folder):
    write_pair(folder)
    code, out = watch(folder, "linear.yml", "out")
    equal(code, 0, out)
    lines = drawings(out)
    check(lines, "no bar was drawn:", repr(out))
    contains(lines[0], "%", "of 256 B", "\u2500")
    check("100 %" in lines[-1], lines[-1])
    check(not any("merging" in line for line in screen(out)), "the bar was left on the screen:", screen(out))
    contains("\n".join(screen(out)), "out: 2 tensors")


def test_width(folder):
    write_pair(folder)
    for columns in 20, 40, 79, 200:
        code, out = watch(folder, "linear.yml", f"out{columns}", columns=columns)
        equal(code, 0, out)
        for line in drawings(out):
            check(len(line) < columns, columns, repr(line))


def test_plain_where_asked(folder):
    write_pair(folder)
    for name, arguments, env in [("a1", [], {"TERM": "dumb"}), ("a2", ["--progress", "plain"], {}),
                                 ("a3", ["--progress=none"], {}), ("a4", ["--quiet"], {})]:
        code, out = watch(folder, "linear.yml", name, *arguments, env=env)
        equal(code, 0, out)
        check(not drawings(out), name, repr(out))


def test_ascii_without_utf8(folder):
    write_pair(folder)
    _, out = watch(folder, "linear.yml", "out", env={"LC_ALL": "C"})
    check(drawings(out) and out.isascii(), repr(out))


def test_errors_in_color(folder):
    code, out = watch(folder, "inspect", "nowhere")
    equal(code, 66)
    contains(out, "\x1b[1;31merror:\x1b[0m ")
    _, out = watch(folder, "inspect", "nowhere", env={"NO_COLOR": "1"})
    check("\x1b" not in out, repr(out))


try:
    for end in pty.openpty():
        os.close(end)
except OSError as refusal:
    print("skipped: this machine has no terminals to give (is /dev/pts mounted?):", refusal)
    sys.exit(77)
run_tests(sys.modules[__name__])
