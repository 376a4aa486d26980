#!/usr/bin/env python3
"""What programs see of a merge: --progress json is JSON Lines with the documented names, --metrics a file that a strict
parser of Prometheus' text format takes, with one process and with ranks; neither can fail a merge."""

import calendar
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness import LINEAR, PROGRAM, check, contains, equal, run, run_tests, write_model, write_pair

# ---- JSON Lines ---------------------------------------------------------------------------------------------------------

COMMON = ["time", "level", "event", "rank", "ranks", "host"]
COUNTERS = ["phase", "seconds", "bytes_read", "bytes_to_read", "bytes_written", "bytes_to_write", "bytes_resumed",
            "tensors_done", "n_tensors", "read_rate", "write_rate", "shard"]
SUMS = ["ranks_heard", "ranks_bytes_read", "ranks_bytes_to_read", "ranks_bytes_written", "ranks_bytes_to_write",
        "ranks_read_rate", "ranks_write_rate"]
SLOWEST = ["slowest_rank", "slowest_rate", "median_rate"]


def events_of(stderr):
    """Every line is an object with the fields of its event, in time's order, from `start` to `end`."""
    events = []
    check(stderr.endswith("\n"), "the last line is not whole:", repr(stderr[-200:]))
    for line in stderr.splitlines():
        e = json.loads(line)
        names = list(e)
        equal(names[:6], COMMON, line)
        rest = [n for n in names[6:] if n not in ("part", "parts")]
        check(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", e["time"]), e["time"])
        check(e["level"] in ("info", "note", "warning", "error"), line)
        if e["event"] == "start":
            equal(rest, ["version", "pid"], line)
        elif e["event"] == "problem":
            equal(rest, ["text"], line)
        else:
            check(e["event"] in ("phase", "progress", "end"), line)
            if e["event"] == "end":
                equal(rest[:2], ["exit_code", "error"], line)
                equal(e["error"] is None, e["exit_code"] == 0, line)
                rest = rest[2:]
            if rest:
                equal(rest[:len(COUNTERS)], COUNTERS, line)
                check(rest[len(COUNTERS):] in ([], SUMS, SUMS + SLOWEST), line)
        events.append(e)
    equal(events[0]["event"], "start", stderr)
    equal([e["event"] for e in events].index("end"), len(events) - 1, stderr)
    equal(sorted(e["time"] for e in events[1:]), [e["time"] for e in events[1:]])
    return events


def test_json(folder):
    write_pair(folder)
    before = time.time()
    r = run("linear.yml", "out", "--progress=json", "--json", cwd=folder)
    equal(r.returncode, 0, r.stderr)
    events = events_of(r.stderr)
    equal([e["phase"] for e in events if e["event"] == "phase"], ["merging", "syncing", "finishing"])
    end = events[-1]
    equal((end["exit_code"], end["error"], end["level"]), (0, None, "info"))
    equal((end["bytes_written"], end["bytes_to_write"], end["bytes_read"], end["tensors_done"], end["n_tensors"]),
          (256, 256, 512, 2, 2))
    equal((end["rank"], end["ranks"]), (0, 1))
    said = calendar.timegm(time.strptime(end["time"][:19], "%Y-%m-%dT%H:%M:%S"))
    check(abs(said - before) < 100, "not UTC:", end["time"])
    json.loads(r.stdout)


def test_json_of_failures(folder):
    write_pair(folder)
    r = run("no\udcff\"\n.yml", "out", "--progress=json", cwd=folder)
    equal(r.returncode, 66)
    start, problem, end = events_of(r.stderr)
    equal((problem["event"], problem["level"]), ("problem", "error"))
    equal((end["exit_code"], end["level"], end["error"]), (66, "error", problem["text"]))
    (folder / "odd.yml").write_text(LINEAR + "colour: blue\n")
    events = events_of(run("odd.yml", "out", "--progress=json", cwd=folder).stderr)
    equal([(e["level"], "colour" in e["text"]) for e in events if e["event"] == "problem"], [("warning", True)])
    events = events_of(run("linear.yml", "out", "--progress=json", cwd=folder).stderr)
    equal((events[-1]["exit_code"], "bytes_read" in events[-1]), (73, False))


def slow_pair(folder):
    """A merge that is still running when somebody looks: one thread, many tiles, every one synced to the end."""
    n = 3 << 20
    for name in "ab":
        write_model(folder / name, [1.0], more={f"big.{i}": ("F32", [n], bytes(4 * n)) for i in range(4)})
    (folder / "linear.yml").write_text(LINEAR)


def test_json_when_stopped(folder):
    slow_pair(folder)
    p = subprocess.Popen([PROGRAM, "linear.yml", "out", "--progress=json", "--threads=1", "--tile=64KiB"], cwd=folder,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines = [p.stderr.readline(), p.stderr.readline()]
    p.send_signal(signal.SIGTERM)
    rest = p.communicate(timeout=60)[1]
    events = events_of("".join(lines) + rest)
    if p.returncode == 0:
        print("      (it was through before the signal came)")
        return
    equal((p.returncode, events[-1]["exit_code"]), (143, 143))
    check(events[-1]["error"], events[-1])


# ---- metrics ------------------------------------------------------------------------------------------------------------

def parse(text):
    """{(name, ((label, value), ...)): value} of Prometheus' text format 0.0.4, strictly; types too."""
    samples, types, helps, current, seen = {}, {}, {}, None, set()
    check(text.endswith("\n"), "the last line is not whole")
    for line in text[:-1].split("\n"):
        check(line and line == line.strip(), "blank line or space around:", repr(line))
        m = re.fullmatch(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)", line)
        if m:
            kind, name, rest = m.groups()
            if kind == "HELP":
                check(name not in helps and name not in seen, "help twice or late:", line)
                check("\\" not in rest and rest, "escapes in a help:", line)
                helps[name] = rest
            else:
                check(name not in types and name in helps and current == name, "a type without its help:", line)
                check(rest in ("counter", "gauge"), line)
                check((rest == "counter") == name.endswith("_total"), "counters end with _total:", line)
                types[name] = rest
            check(name not in seen, "metric groups are apart:", line)
            current = name
            continue
        m = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)', line)
        check(m, "not a sample:", repr(line))
        name, inside, value = m.groups()
        check(name == current and name in types, "a sample outside its group:", line)
        seen.add(name)
        labels, at = [], 0
        while inside and at < len(inside):
            m = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)').match(inside, at)
            check(m, "bad label:", repr(inside[at:]))
            labels.append((m.group(1), re.sub(r"\\(.)", lambda e: {"n": "\n"}.get(e.group(1), e.group(1)), m.group(2))))
            at = m.end()
        check(not inside or not inside.endswith(","), "a comma at the end:", line)
        equal(len(dict(labels)), len(labels), "a label twice:", line)
        key = (name, tuple(sorted(labels)))
        check(key not in samples, "a series twice:", line)
        check(re.fullmatch(r"-?\d+(\.\d+)?", value), "not a number:", line)
        samples[key] = float(value)
    equal(set(types), seen)
    check(all(name.startswith("warpmerge_") for name in types), types)
    return samples


def values(samples, **labels):
    """{name: value}; every series must have these labels (and `phase` where that is the name)."""
    result = {}
    for (name, of), value in samples.items():
        of = dict(of)
        phase = of.pop("phase", None)
        equal(phase is not None, name == "warpmerge_phase", name)
        equal(of, labels, name)
        check(name not in result, "two series of", name)
        result[name.removeprefix("warpmerge_")] = phase or value
    return result


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_metrics(folder):
    write_pair(folder)
    before = time.time()
    r = run("linear.yml", "out", "--metrics=m.prom", cwd=folder)
    equal(r.returncode, 0, r.stderr)
    v = values(parse((folder / "m.prom").read_text()), out="out")
    for name, expected in {"up": 0, "bytes_read_total": 512, "bytes_to_read": 512, "bytes_written_total": 256,
                           "bytes_to_write": 256, "bytes_resumed": 0, "tensors_done": 2, "tensors": 2, "phase": "done",
                           "last_exit_code": 0}.items():
        equal(v[name], expected, name)
    check(0 <= v["seconds"] < 100, v)
    check((1 << 20) < v["peak_memory_bytes"] < (4 << 30), v)
    check(before - 1 <= v["last_success_timestamp_seconds"] <= time.time() + 1, v)
    equal((folder / "m.prom").stat().st_mode & 0o777, 0o666 & ~umask(), "another user reads it")
    equal(sorted(p.name for p in folder.iterdir()), ["a", "b", "linear.yml", "m.prom", "out"])


def test_metrics_of_a_failure(folder):
    """A run that fails says so and keeps the time of the last one that did not."""
    write_pair(folder)
    r = run("linear.yml", "no/out", "--metrics", "m.prom", cwd=folder)
    check(r.returncode != 0, r.stderr)
    v = values(parse((folder / "m.prom").read_text()), out="no/out")
    equal((v["up"], v["phase"], v["last_exit_code"]), (0, "failed", r.returncode))
    check("last_success_timestamp_seconds" not in v, v)
    equal(run("linear.yml", "out", "--metrics", "m.prom", cwd=folder).returncode, 0)
    success = values(parse((folder / "m.prom").read_text()), out="out")["last_success_timestamp_seconds"]
    r = run("missing.yml", "out", "--metrics", "m.prom", cwd=folder)
    v = values(parse((folder / "m.prom").read_text()), out="out")
    equal((v["last_exit_code"], v["last_success_timestamp_seconds"], v["bytes_read_total"]), (66, success, 0))


def test_strange_labels(folder):
    write_pair(folder)
    for i, (name, label) in enumerate([('a "b"\\c', 'a "b"\\c'), ("l1\nl2\\n", "l1\nl2\\n"), ("tab\there\x7f", "tab\ufffdhere\ufffd"),
                                       ("\u00e9\udcff\U0001f600", "\u00e9\ufffd\U0001f600"), ("}", "}"), ("\\", "\\")]):
        r = run("linear.yml", name, f"--metrics=m{i}.prom", "--json", "--progress=none", cwd=folder)
        equal(r.returncode, 0, repr(name), r.stderr)
        equal(values(parse((folder / f"m{i}.prom").read_text()), out=label)["up"], 0)


def test_metrics_cannot_fail_a_merge(folder):
    write_pair(folder)
    (folder / "dir").mkdir()
    (folder / "link").symlink_to("elsewhere")
    os.mkfifo(folder / "fifo")
    for i, target in enumerate(["nowhere/m.prom", "dir", "fifo", "link", "/dev/null", "/proc/m.prom"]):
        r = run("linear.yml", f"out{i}", "--metrics", target, cwd=folder)
        equal(r.returncode, 0, target, r.stderr)
        equal(r.stderr.count("warning: cannot write the metrics to"), 1, target, r.stderr)
        contains(r.stderr, target)
        check((folder / f"out{i}/model.safetensors").exists(), target)
    check(not list(folder.glob("*.tmp")) and not list((folder / "dir").iterdir()), "something was left")
    (folder / "m.prom").write_text("what is this {} 1\n\x00warpmerge_last_exit_code{ nan\nwarpmerge_last_exit_code{} 1e99\n")
    equal(run("linear.yml", "out", "--metrics=m.prom", cwd=folder).returncode, 0)
    equal(values(parse((folder / "m.prom").read_text()), out="out")["last_exit_code"], 0)


def test_metrics_while_it_runs(folder):
    slow_pair(folder)
    p = subprocess.Popen([PROGRAM, "linear.yml", "out", "-q", "--metrics=m.prom", "--threads=1", "--tile=64KiB"], cwd=folder,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seen = set()
    while p.poll() is None:
        if (folder / "m.prom").exists():
            v = values(parse((folder / "m.prom").read_text()), out="out")  # whole whenever it is read
            seen.add((v["up"], v["phase"]))
        time.sleep(0.002)
    equal(p.returncode, 0, p.stderr.read())
    p.stderr.close()
    check((1, "merging") in seen, seen)
    equal(values(parse((folder / "m.prom").read_text()), out="out")["up"], 0)


def test_readme_names_everything(folder):
    write_pair(folder)
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    (about,) = re.findall(r"^## Watching a merge\n(.*?)^## ", readme, re.S | re.M)
    known = set(re.findall(r"`(\w+)(?:\{[^`]*\})?`", about))
    equal(run("linear.yml", "out", "--metrics=m.prom", cwd=folder).returncode, 0)
    metrics = set(values(parse((folder / "m.prom").read_text()), out="out"))
    for names in COMMON, COUNTERS, SUMS, SLOWEST, metrics:
        check(set(names) <= known, "not in README:", set(names) - known)


# ---- several processes --------------------------------------------------------------------------------------------------

def run_ranks(folder, n, *arguments, config="linear.yml", out="out"):
    ranks = [subprocess.Popen([PROGRAM, config, out, "--rank", str(k), "--ranks", str(n), "--job", "test", "--deadline=20",
                               *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
             for k in range(n)]
    return [(*p.communicate(timeout=100), p.returncode) for p in ranks]


def test_ranks_json_and_metrics(folder):
    write_pair(folder)
    results = run_ranks(folder, 3, "--progress=json", "--metrics", "m.prom")
    for k, (stdout, stderr, code) in enumerate(results):
        equal(code, 0, k, stderr)
        events = events_of(stderr)
        equal({(e["rank"], e["ranks"]) for e in events}, {(k, 3)})
        equal(bool(stdout), k == 0, k, stdout)
        v = values(parse((folder / f"m.rank{k}.prom").read_text()), out="out", rank=str(k), ranks="3")
        equal((v["up"], v["phase"], v["last_exit_code"]), (0, "done", 0))
        equal("ranks_bytes_written" in events[-1], k == 0)
        if k == 0:
            equal([events[-1][n] for n in ("ranks_heard", "ranks_bytes_written", "ranks_bytes_to_write")], [3, 256, 256])
            equal([v[n] for n in ("ranks_heard", "ranks_bytes_written", "ranks_bytes_to_write")], [3, 256, 256])
    check(not (folder / "m.prom").exists(), "one file for all")


def test_ranks_of_whom_one_speaks(folder):
    write_pair(folder)
    results = run_ranks(folder, 3, "--progress=plain")
    for k, (stdout, stderr, code) in enumerate(results):
        equal(code, 0, k, stderr)
        if k == 0:
            contains(stderr, "merging: ", "merged: ")
        else:
            equal((stdout, stderr), ("", ""), k)
    (folder / "odd.yml").write_text(LINEAR + "colour: blue\n")
    results = run_ranks(folder, 2, config="odd.yml", out="out2")
    for k, (_, stderr, code) in enumerate(results):
        equal(code, 0, k, stderr)
        contains(stderr, f"rank {k}: warning: ", "colour")
    results = run_ranks(folder, 2, config="missing.yml", out="out3")
    for k, (_, stderr, code) in enumerate(results):
        equal(code, 66, k, stderr)
        check(all(line.startswith(f"rank {k}: error: ") for line in stderr.splitlines()), stderr)


def test_parts(folder):
    write_pair(folder)
    for k in range(2):
        r = run("linear.yml", "out", f"--part={k}/2", "--metrics=m.prom", "--progress=json", cwd=folder)
        equal(r.returncode, 0, r.stderr)
        equal({(e["part"], e["parts"], e["ranks"]) for e in events_of(r.stderr)}, {(k, 2, 1)})
        values(parse((folder / f"m.part{k}.prom").read_text()), out="out", part=str(k), parts="2")
    r = run("finish", "out", "--metrics=f.prom", "--progress=json", cwd=folder)
    equal(r.returncode, 0, r.stderr)
    equal(events_of(r.stderr)[-1]["exit_code"], 0)
    equal(values(parse((folder / "f.prom").read_text()), out="out")["last_exit_code"], 0)


run_tests(sys.modules[__name__])
