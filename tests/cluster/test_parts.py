"""Parts that never talk, and finish: the bytes of one process, and nothing is put in place that is not all there.

Usage: test_parts.py WARPMERGE MAKE_CHECKPOINT
Any number of parts in any order and at the same time; parts that are missing, killed, repeated, damaged, of another
number or another merge; single processes beside parts; methods that need statistics of the whole model.
"""

import json
import os
import random
import shutil
import signal
import sys
import time

from team import (LARGE, SMALL, TINY, TOP, all_well, check, checkpoints, contains, digest, end, end_all, equal,
                  expected, n_records, one, partial_of, recipe, same, start, tests, wait_for_records, write_safetensors)

SLOW = ["--threads", "1", "--io-threads", "1", "--tile", "64KiB"]


def part(config, out, k, n, *options):
    return start("merge", config, out, "--quiet", "--part", f"{k}/{n}", *options)


def run_part(config, out, k, n, *options, code=0):
    got, text = end(part(config, out, k, n, *options))
    equal(got, code, f"part {k}/{n}:\n{text}\n")
    return text


def finish(out, *options, code=0):
    got, text = end(start("finish", out, "--quiet", *options))
    equal(got, code, f"finish:\n{text}\n")
    return text


def test_same_in_any_order(folder):
    models = checkpoints(SMALL, "small")
    for n in (1, 2, 3, 7):
        out = folder / f"out{n}"
        order = list(range(n))
        random.Random(n).shuffle(order)
        for k in order:
            run_part(recipe("ties", models), out, k, n)
        check(not out.exists(), "the output name exists before finish")
        finish(out)
        same(out, "ties", models, f"{n} parts one after the other")


def test_same_at_the_same_time(folder):
    models = checkpoints(SMALL, "small")
    for n in (2, 7):
        for method in ("linear", "dare_ties", "slerp", "nuslerp_rows", "passthrough"):
            out = folder / f"{method}{n}"
            all_well(end_all([part(recipe(method, models), out, k, n) for k in range(n)]))
            finish(out)
            same(out, method, models, f"{method}, {n} parts at once")


def test_finish_names_what_is_missing(folder):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    config = recipe("linear", models)
    contains(finish(out, code=66), "there is nothing to finish")
    for k in (2, 0):
        run_part(config, out, k, 3)
    contains(finish(out, code=75), "part 1 of 3 is not done", "tensors are not finished", "run it again (--part K/3;")
    check(not out.exists() and partial_of(out).is_dir(), "finish did not leave the parts alone")
    run_part(config, out, 1, 3)
    finish(out)
    same(out, "linear", models)
    finish(out)  # twice
    same(out, "linear", models, "after a second finish")


def test_finish_names_several_parts(folder):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    config = recipe("linear", models)
    for k in (0, 2, 3, 4, 6, 7):
        run_part(config, out, k, 8)
    contains(finish(out, code=75), "parts 1 and 5 of 8 are not done", "run them again (--part K/8;")
    (partial_of(out) / "journal-0003.warpmerge").unlink()
    contains(finish(out, code=75), "parts 1, 3 and 5 of 8 are not done")
    for k in (1, 3, 5):
        run_part(config, out, k, 8)
    finish(out)
    same(out, "linear", models)
    run_part(config, folder / "many", 9, 40)
    contains(finish(folder / "many", code=75), "parts 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12 and ",
             " more of 40 are not done")


def test_finish_says_that_it_checks(folder):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    config = recipe("ties_global", models)
    code, text = end(start("stats", config, out, "--quiet"))
    equal(code, 0, text)
    for k in range(2):
        run_part(config, out, k, 2)
    code, text = end(start("finish", out, "--progress", "json"))
    equal(code, 0, text)
    phases = [event["phase"] for event in map(json.loads, text.splitlines()) if event["event"] == "phase"]
    equal(phases[0], "checking", phases)
    check("surveying" not in phases and "merging" not in phases, phases)


def test_empty_tensors(folder):
    """No range of them is ever written, and the manifest has their hash all the same."""
    for name in "ab":
        (folder / name).mkdir()
        write_safetensors(folder / name / "model.safetensors",
                          {"x": ("F32", [2], [1.0, 2.0]), "none": ("F32", [0, 3], [])})
    config = folder / "c.yml"
    config.write_text(f"merge_method: linear\nmodels:\n- model: {folder}/a\n"
                      f"- model: {folder}/b\nparameters: {{weight: 1}}\ndtype: float32\n")
    one(config, folder / "single")
    for k in range(2):
        run_part(config, folder / "out", k, 2)
    finish(folder / "out")
    equal(digest(folder / "out"), digest(folder / "single"))
    code, text = end(start("verify", folder / "out"))
    equal(code, 0, text)


def killed_and_repeated(folder, method, *repeated_options):
    models, out, chance = checkpoints(LARGE, "large"), folder / "out", random.Random(3)
    config = recipe(method, models)
    run_part(config, out, 0, 2)
    for _ in range(3):
        victim = part(config, out, 1, 2, *SLOW)
        check(wait_for_records(out, 1, n_records(out, 1) + chance.randrange(1, 60), victim), "it ended too early")
        victim.kill()
        end(victim)
    contains(finish(out, code=75), "are not finished")
    run_part(config, out, 1, 2, *repeated_options)
    run_part(config, out, 1, 2)  # once more: all is there, nothing is done
    finish(out)
    same(out, method, models, "a part was killed and repeated")


def test_killed_and_repeated(folder):
    killed_and_repeated(folder, "ties", *SLOW)


def test_killed_and_repeated_with_larger_tiles(folder):
    """Tiles that are half done by the smaller ones: the journal's records overlap, and finish takes them all."""
    killed_and_repeated(folder, "linear", "--tile", "4MiB")


def test_stopped_on_request(folder):
    models, out = checkpoints(LARGE, "large"), folder / "out"
    config = recipe("linear", models)
    victim = part(config, out, 0, 2, *SLOW)
    check(wait_for_records(out, 0, 3, victim), "it ended too early")
    victim.send_signal(signal.SIGINT)
    equal(end(victim)[0], 130)
    all_well(end_all([part(config, out, k, 2) for k in (0, 1)]))
    finish(out)
    same(out, "linear", models)


def test_damage_is_found(folder):
    """One flipped bit in each of several places of a finished part: finish refuses, the repeated part repairs it."""
    models, out, chance = checkpoints(SMALL, "small"), folder / "out", random.Random(4)
    config = recipe("linear", models)
    all_well(end_all([part(config, out, k, 3) for k in range(3)]))
    shard = partial_of(out) / "model.safetensors"
    size = shard.stat().st_size
    for at in (size - 1, size // 2, chance.randrange(65536, size)):
        with open(shard, "r+b") as f:
            f.seek(at)
            byte = f.read(1)[0]
            f.seek(at)
            f.write(bytes([byte ^ 0x10]))
        contains(finish(out, code=75), "are not finished")
        check(not out.exists(), "wrong bytes were put in place")
        all_well(end_all([part(config, out, k, 3) for k in range(3)]))
    finish(out)
    same(out, "linear", models, "damaged and repaired")


def test_a_damaged_journal_is_work_lost_and_no_more(folder):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    config = recipe("linear", models)
    all_well(end_all([part(config, out, k, 2) for k in range(2)]))
    journal = partial_of(out) / "journal-0001.warpmerge"
    data = bytearray(journal.read_bytes())
    data[64 + 20] ^= 1
    journal.write_bytes(data)
    contains(finish(out, code=75), "are not finished")
    run_part(config, out, 1, 2)
    finish(out)
    same(out, "linear", models)


def test_another_number_of_parts(folder):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    config = recipe("linear", models)
    run_part(config, out, 0, 3)
    contains(run_part(config, out, 1, 4, code=2), "begun in 3 parts", "--part K/3")
    contains(run_part(config, out, 0, 4, code=2), "begun in 3 parts", "--part K/3")
    for k in (1, 2):
        run_part(config, out, k, 3)
    finish(out)
    same(out, "linear", models)


def test_another_merge(folder):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    run_part(recipe("linear", models), out, 0, 2)
    for method, options, what in (("ties", [], "its config and its inputs"),
                                  ("linear", ["--out-shard-size", "9000000"], "its options"),
                                  ("ties", ["--seed", "7"], "its config, its inputs and its options")):
        text = run_part(recipe(method, models), out, 1, 2, *options, code=73)
        contains(text, f"an unfinished merge that differs from this one in {what}", "run all parts anew")
        check("--restart" not in text, "--restart is nothing for parts:", text)
    contains(one(recipe("ties", models), out, code=73), "differs from this one in its config",
             "add --restart")
    run_part(recipe("linear", models), out, 1, 2)
    finish(out)
    same(out, "linear", models)


def test_finish_after_a_change(folder):
    models, out, config = folder / "models", folder / "out", folder / "c.yml"
    shutil.copytree(checkpoints(SMALL, "small"), models)
    text = recipe("linear", checkpoints(SMALL, "small")).read_text().replace(str(TOP / "small"), str(models))
    config.write_text(text)
    all_well(end_all([part(config, out, k, 2) for k in range(2)]))
    config.write_text(text.replace("0.6", "0.7"))
    said = finish(out, code=73)
    contains(said, "differs from this one in its config", "put back what the parts were merged with")
    check("--restart" not in said, "finish has no --restart:", said)
    config.write_text(text)
    shard = models / "ft1" / "model.safetensors"
    times = shard.stat()
    os.utime(shard)
    contains(finish(out, code=73), "differs from this one in its inputs;")
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    finish(out)
    equal(digest(out)["model.safetensors"], expected("linear", checkpoints(SMALL, "small"))["model.safetensors"])


def test_several_shards(folder):
    models = checkpoints(SMALL, "small")
    config = recipe("dare_ties", models)
    options = ["--out-shard-size", "9000000", "--seed", "5", "--sha256"]
    one(config, folder / "single", *options)
    all_well(end_all([part(config, folder / "out", k, 3, *options) for k in range(3)]))
    finish(folder / "out")
    for name in sorted(p.name for p in (folder / "single").iterdir()):
        check((folder / "out" / name).read_bytes() == (folder / "single" / name).read_bytes(), name, "differs")
    equal(len(list((folder / "out").iterdir())), len(list((folder / "single").iterdir())))


def held(folder, *options):
    """A process that has begun to write and stands still."""
    models, out = checkpoints(LARGE, "large"), folder / "out"
    config = recipe("linear", models)
    process = start("merge", config, out, "--quiet", *SLOW, *options)
    journal = partial_of(out) / ("journal-0000.warpmerge" if "--part" in options else "journal.warpmerge")
    until = time.monotonic() + 60
    while not (journal.exists() and journal.stat().st_size > 128) and time.monotonic() < until:
        check(process.poll() is None, "it ended too early")
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    return models, out, config, process


def let_go(process):
    process.send_signal(signal.SIGCONT)
    code, text = end(process)
    equal(code, 0, text)


def test_part_beside_a_single_process(folder):
    models, out, config, process = held(folder)
    contains(run_part(config, out, 0, 2, code=75), "another process", f"process {process.pid}")
    contains(finish(out, code=66), "no part has written")
    let_go(process)
    same(out, "linear", models)


def test_single_process_beside_a_part(folder):
    models, out, config, process = held(folder, "--part", "0/2")
    text = one(config, out, code=75)
    contains(text, "another process", "part")
    check("()" not in text, "nobody is named:", text)
    contains(run_part(config, out, 0, 2, code=75), "another process", f"process {process.pid}")
    contains(finish(out, code=75), "another process")
    run_part(config, out, 1, 2)
    let_go(process)
    finish(out)
    same(out, "linear", models)


def test_finish_is_killed(folder):
    """At every file of ours that it removes, and at the rename: it goes on, or asks for the parts again."""
    if not shutil.which("strace"):
        print("     (strace is not installed: not run)")
        return
    models, codes = checkpoints(TINY, "tiny"), []
    config = recipe("linear", models)
    calls = [("unlink", f"{name}.warpmerge{end}") for name, end in (
        ("journal-0000", ""), ("journal-0001", ""), ("journal", ""), ("part-0000", ""), ("part-0000", ".json"),
        ("part-0001", ".json"), ("lock", ""))] + [("rename", "")]
    for n, (call, name) in enumerate(calls):
        out = folder / f"out{n}"
        for k in range(2):
            run_part(config, out, k, 2)
        killed, text = end(start("finish", out, "--quiet",
                                 prefix=["strace", "-f", "-qq", "-o", "/dev/null", "-P", partial_of(out) / name, "-e",
                                         f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when=1"]))
        equal((killed, out.exists()), (137, False), f"{call} {name}:\n{text}\n")
        code, text = end(start("finish", out, "--quiet"))
        codes.append(code)
        if code:
            equal(code, 75, text)
            for k in range(2):
                run_part(config, out, k, 2)
            finish(out)
        same(out, "linear", models, f"finish, killed at {call} {name}")
    equal(codes[-2:], [0, 0], "what was complete had to be merged again")
    check(75 in codes, codes)


def test_finish_again_where_the_name_is_taken(folder):
    models, out = checkpoints(TINY, "tiny"), folder / "out"
    one(recipe("linear", models), out)
    out.rename(partial_of(out))  # as a commit leaves it that was killed before the rename
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    contains(finish(out, code=73), "cannot get its name", "is not empty")
    shutil.rmtree(out)
    finish(out)
    same(out, "linear", models)


def test_without_locks(folder):
    """A file system whose flock is not there: a warning that names the mount, once, and the merge goes on."""
    if not shutil.which("strace"):
        print("     (strace is not installed: not run)")
        return
    models, out = checkpoints(SMALL, "small"), folder / "out"
    config = recipe("linear", models)
    no_flock = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:error=ENOSYS"]
    untraced = {"ASAN_OPTIONS": "detect_leaks=0"}  # the search for leaks is a trace of its own
    for words in (["merge", config, out, "--part", "0/2"], ["merge", config, out, "--part", "1/2"], ["finish", out]):
        code, text = end(start(*words, "--quiet", prefix=no_flock, env=untraced))
        equal(code, 0, text)
        contains(text, "has no locks (flock: Function not implemented)", str(out), "start one at a time")
        equal(text.count("has no locks"), 1, text)
    same(out, "linear", models)
    check("locks" not in one(config, folder / "with locks"), "a warning where locks work")


def test_single_process_takes_parts_over(folder):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    run_part(recipe("linear", models), out, 1, 2)
    one(recipe("linear", models), out)
    same(out, "linear", models, "one part, then a single process")


def test_statistics_come_first(folder):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    config = recipe("ties_global", models)
    contains(run_part(config, out, 0, 2, code=2), "warpmerge stats CONFIG OUT")
    code, text = end(start("stats", config, out, "--quiet"))
    equal(code, 0, text)
    all_well(end_all([part(config, out, k, 2) for k in range(2)]))
    finish(out)
    same(out, "ties_global", models, "stats, then parts")


def test_statistics_of_another_merge_are_refused(folder):
    """A part that looked for its own would read every model in full, and so would all the others."""
    models, out = checkpoints(SMALL, "small"), folder / "out"
    config, other = recipe("ties_global", models), folder / "other.yml"
    other.write_text(config.read_text().replace("density: 0.5", "density: 0.4"))
    statistics = partial_of(out) / "statistics.warpmerge.json"

    def stats(path):
        code, text = end(start("stats", path, out, "--quiet"))
        equal(code, 0, text)
        return statistics.read_bytes()

    for spoil in (lambda right: stats(other), lambda right: statistics.write_bytes(right[:-20]),
                  lambda right: statistics.write_bytes(right.replace(b'"n_plus": ', b'"n_plus": 1'))):
        right = stats(config)
        spoil(right)
        wrong = statistics.read_bytes()
        check(wrong != right, "the statistics were not spoilt")
        contains(run_part(config, out, 0, 2, code=2), str(statistics), "belong to another recipe", "warpmerge stats")
        equal(statistics.read_bytes(), wrong, "a part surveyed")
    stats(config)
    all_well(end_all([part(config, out, k, 2) for k in range(2)]))
    finish(out)
    same(out, "ties_global", models, "stats again, then parts")


def test_restart_is_refused(folder):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    config = recipe("linear", models)
    contains(run_part(config, out, 0, 2, "--restart", code=2), "--restart", "remove the unfinished output")
    check(not partial_of(out).exists(), "a refused part left something behind")


def test_finish_from_another_folder(folder):
    """Paths in a config may be relative to where the parts ran."""
    models = checkpoints(SMALL, "small")
    here, there = folder / "here", folder / "there"
    here.mkdir()
    there.mkdir()
    shutil.copy(recipe("linear", models), here / "c.yml")
    for k in range(2):
        code, text = end(start("merge", "c.yml", "../out", "--quiet", "--part", f"{k}/2", cwd=here))
        equal(code, 0, text)
    code, text = end(start("finish", "../out", "--quiet", cwd=there))
    equal(code, 2, text)
    contains(text, str(here))
    code, text = end(start("finish", "../out", "--quiet", cwd=here))
    equal(code, 0, text)
    check((folder / "out" / "model.safetensors").exists(), "no output")


if __name__ == "__main__":
    tests(sys.modules[__name__])
