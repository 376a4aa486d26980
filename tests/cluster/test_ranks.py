"""Several ranks write the bytes that one process writes, and a rank that fails ends all of them, resumably.

Usage: test_ranks.py WARPMERGE MAKE_CHECKPOINT
Every method class with 1, 2, 4 and 8 ranks (launchers have a file of their own); a rank that is killed, stopped on
request, never comes, or wants something else than the others; two jobs on one output.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from team import (LARGE, PATIENCE, PROGRAM, SMALL, all_well, check, checkpoints, contains, end, end_all, equal, expected,
                  meeting_of, n_records, one, partial_of, recipe, same, start, start_ranks, tests, wait_for,
                  wait_for_records)

DEADLINE = 2
FEW_SECONDS = 15  # what a busy machine may add to a deadline
SLOW = ["--threads", "1", "--io-threads", "1", "--tile", "64KiB"]


def ended_early(results, code=75):
    for rank, (got, text) in enumerate(results):
        equal(got, code, f"exit code of {rank}:\n{text}\n")


# ---- the same bytes -------------------------------------------------------------------------------------------------


def same_with_ranks(folder, method):
    models = checkpoints(SMALL, "small")
    for n in (1, 2, 4, 8):
        out = folder / f"out{n}"
        all_well(end_all(start_ranks(recipe(method, models), out, n)))
        same(out, method, models, f"{method} with {n} ranks")
        check(not meeting_of(out).exists(), "the ranks' meeting place is left behind")


def test_same_linear(folder):
    same_with_ranks(folder, "linear")


def test_same_ties(folder):
    same_with_ranks(folder, "ties")


def test_same_ties_global(folder):
    same_with_ranks(folder, "ties_global")


def test_same_dare_ties(folder):
    same_with_ranks(folder, "dare_ties")


def test_same_slerp(folder):
    same_with_ranks(folder, "slerp")


def test_same_nuslerp_rows(folder):
    same_with_ranks(folder, "nuslerp_rows")


def test_same_passthrough(folder):
    same_with_ranks(folder, "passthrough")


def test_large_tensors_are_split(folder):
    """What the tests above rest on."""
    models = checkpoints(SMALL, "small")
    text = subprocess.run([PROGRAM, "plan", recipe("ties", models), "--ranks", "4"], capture_output=True, text=True,
                          timeout=PATIENCE).stdout
    contains(text, "2 tensors split")


def test_summary_names_the_ranks(folder):
    models = checkpoints(LARGE, "large")
    for n in (1, 2):
        words = [recipe("ties", models), folder / f"out{n}", "--ranks", str(n), *SLOW]
        others = [start("merge", *words, "--rank", r, "--quiet") for r in range(1, n)]
        first = subprocess.run([PROGRAM, "merge", *words, "--rank", "0", "--json", "--progress", "none"],
                               capture_output=True, text=True, timeout=PATIENCE)
        equal(first.returncode, 0, first.stderr)
        all_well(end_all(others))
        said = json.loads(first.stdout)
        equal((said["n_ranks"], said["comm"]), (n, "files" if n > 1 else None))
        check(said["slowest_rank"] in ([None] if n == 1 else [None, 0, 1]), said)
        check("the ranks speak" not in first.stderr, "processors speak through files, as everybody expects")


def test_stats_of_ranks(folder):
    """Ranks count their shares of the whole model together: the file of a single process, and the merge takes it."""
    models = checkpoints(SMALL, "small")
    config, files, n_read = recipe("ties_global", models), [], []
    for n in (1, 3):
        out = folder / f"out{n}"
        others = [start("stats", config, out, "--ranks", n, "--rank", r) for r in range(1, n)]
        first = subprocess.run([PROGRAM, "stats", config, out, "--ranks", str(n), "--rank", "0", "--json"],
                               capture_output=True, text=True, timeout=PATIENCE)
        equal(first.returncode, 0, first.stderr)
        all_well(end_all(others))
        n_read.append(json.loads(first.stdout)["bytes_read"])
        check(not meeting_of(out).exists(), "the ranks' meeting place is left behind")
        files.append((partial_of(out) / "statistics.warpmerge.json").read_bytes())
        all_well(end_all([start("merge", config, out, "--quiet", "--part", f"{k}/2") for k in range(2)]))
        all_well([end(start("finish", out, "--quiet"))])
        same(out, "ties_global", models, f"stats with {n} ranks, parts, finish")
    equal(files[0], files[1], "statistics of one process and of three ranks differ")
    equal(n_read[0], n_read[1], "rank 0 speaks for all")


def test_stats_with_a_rank_that_is_lost(folder):
    out, config = folder / "out", recipe("ties_global", checkpoints(LARGE, "large"))
    ranks = [start("stats", config, out, "--ranks", 2, "--rank", r, "--deadline", "1", *SLOW) for r in range(2)]
    wait_for(lambda: list(meeting_of(out).glob("*.go.*")), "the ranks to meet")
    ranks[1].kill()
    (code, text), (killed, _) = end_all(ranks, 60)
    equal((code, killed), (75, 137), text)
    contains(text, "rank 1 ")
    all_well(end_all([start("stats", config, out, "--ranks", 2, "--rank", r) for r in range(2)]))


# ---- killed and resumed ----------------------------------------------------------------------------------------------


def kill_one_and_resume(folder, method, seed):
    """4 ranks, one is killed at a random moment; then 3 ranks, one is killed; then one process ends it."""
    models, chance = checkpoints(LARGE, "large"), random.Random(seed)
    config, out = recipe(method, models), folder / "out"
    n_killed = 0
    for n in (4, 3):
        victim = chance.randrange(n)
        ranks = start_ranks(config, out, n, "--deadline", DEADLINE, *SLOW)
        moment = n_records(out, victim) + chance.randrange(1, 60)
        if wait_for_records(out, victim, moment, ranks[victim]):
            ranks[victim].kill()
            began = time.monotonic()
            n_killed += 1
        results = end_all(ranks)
        if results[victim][0] == 0:
            continue
        took = time.monotonic() - began
        equal(results.pop(victim)[0], 137, "the killed rank")
        ended_early(results)
        check(took < DEADLINE + FEW_SECONDS, f"the others took {took:.1f} s to notice")
        check(not out.exists(), "the output name exists although a rank was killed")
        check(partial_of(out).is_dir(), "nothing is left to continue from")
        check(any(f"rank {victim} " in text for _, text in results), "nobody names the lost rank:", results)
    check(n_killed > 0, "no rank was killed while it worked: the checkpoint is too small for this machine")
    if not out.exists():
        all_well(end_all(start_ranks(config, out, 1, *SLOW)))
    same(out, method, models, f"{method}, killed and resumed")


def test_killed_ties(folder):
    kill_one_and_resume(folder, "ties", 11)


def test_killed_ties_global(folder):
    kill_one_and_resume(folder, "ties_global", 12)


def test_killed_linear(folder):
    kill_one_and_resume(folder, "linear", 13)


def test_no_letters_stay_behind(folder):
    """All ranks of a job are killed; the same merge under another job's name, or by a single process, clears up."""
    models = checkpoints(LARGE, "large")
    config = recipe("linear", models)
    for name, ends in (("ranks", lambda out: all_well(end_all(start_ranks(config, out, 2, "--job", "b")))),
                       ("single", lambda out: one(config, out))):
        out = folder / name
        ranks = start_ranks(config, out, 3, "--job", "a", *SLOW)
        check(wait_for_records(out, 0, 2, ranks[0]), "the ranks ended early")
        for process in ranks:
            process.kill()
        end_all(ranks)
        check(any(meeting_of(out).iterdir()), "the killed ranks left nothing to clear away")
        ends(out)
        check(not meeting_of(out).exists(), f"{name}: letters of the killed job stay behind")
        same(out, "linear", models)


def test_single_process_continued_by_ranks(folder):
    """Its tiles are larger than the ranks' ranges: what was finished across a border must not be counted twice."""
    models, out = checkpoints(LARGE, "large"), folder / "out"
    config = recipe("linear", models)
    first = start("merge", config, out, "--quiet", "--tile", "16MiB", "--threads", "1", "--io-threads", "1")
    journal = partial_of(out) / "journal.warpmerge"
    wait_for(lambda: first.poll() is not None or (journal.exists() and journal.stat().st_size >= 64 * 4), "a record",
             poll=0.0005)
    check(first.poll() is None, "the single process ended before it could be killed")
    first.kill()
    equal(end(first)[0], 137)
    all_well(end_all(start_ranks(config, out, 4)))
    same(out, "linear", models, "begun by one process, continued by 4 ranks")


def test_sigterm_to_one_rank(folder):
    models, out = checkpoints(LARGE, "large"), folder / "out"
    ranks = start_ranks(recipe("ties", models), out, 3, "--deadline", "20", *SLOW)
    check(wait_for_records(out, 1, 5, ranks[1]), "rank 1 ended before it could be stopped")
    ranks[1].send_signal(signal.SIGTERM)
    began = time.monotonic()
    results = end_all(ranks)
    took = time.monotonic() - began
    equal(results.pop(1)[0], 143, "the rank that was told to stop")
    ended_early(results)
    check(took < 15, f"took {took:.1f} s: the others waited for the deadline instead of the news")
    check(all("rank 1 " in text for _, text in results), "the others do not say who stopped:", results)
    check(not out.exists(), "the output name exists although a rank stopped")
    all_well(end_all(start_ranks(recipe("ties", models), out, 2, *SLOW)))
    same(out, "ties", models, "stopped and resumed")


# ---- who does not fit -------------------------------------------------------------------------------------------------


def two_jobs(folder, first_options, second_options):
    models, out = checkpoints(LARGE, "large"), folder / "out"
    config = recipe("ties", models)
    first = start_ranks(config, out, 2, "--deadline", "20", *SLOW, *first_options)
    check(wait_for_records(out, 0, 2, first[0]), "the first job ended before the second began")
    first[1].send_signal(signal.SIGSTOP)  # so that the first is sure to be there still
    second = end_all(start_ranks(config, out, 2, "--deadline", "1", *SLOW, *second_options))
    first[1].send_signal(signal.SIGCONT)
    ended_early(second)
    contains(second[0][1], "another process", f"process {first[0].pid}")
    all_well(end_all(first))
    same(out, "ties", models, "the first of two jobs")
    return second


def test_two_jobs_with_names(folder):
    second = two_jobs(folder, ["--job", "a"], ["--job", "b"])
    contains(second[1][1], "another process")


def test_two_jobs_without_names(folder):
    two_jobs(folder, [], [])


def test_job_and_single_process(folder):
    models, out = checkpoints(LARGE, "large"), folder / "out"
    config = recipe("ties", models)
    ranks = start_ranks(config, out, 2, "--deadline", "20", *SLOW)
    check(wait_for_records(out, 0, 2, ranks[0]), "the ranks ended early")
    ranks[1].send_signal(signal.SIGSTOP)
    contains(one(config, out, code=75), "another process", f"process {ranks[0].pid}")
    ranks[1].send_signal(signal.SIGCONT)
    all_well(end_all(ranks))
    same(out, "ties", models)


def disagree(folder, commands, *words, code=78):
    models, out = checkpoints(SMALL, "small"), folder / "out"
    results = end_all([start("merge", recipe(method, models), out, "--quiet", "--ranks", len(commands), "--rank", rank,
                             "--deadline", "20", *options) for rank, (method, options) in enumerate(commands)], 60)
    for rank, (got, text) in enumerate(results):
        check(got in (code, 75), f"rank {rank} ended with {got}:\n{text}")
        contains(text, *words)
    check(any(got == code for got, _ in results), results)
    check(not out.exists(), "ranks that disagree made an output")


def test_disagree_config(folder):
    disagree(folder, [("ties", []), ("ties", []), ("linear", [])], "rank 2", "another merge")


def test_disagree_seed(folder):
    disagree(folder, [("dare_ties", ["--seed", "1"]), ("dare_ties", ["--seed", "2"])], "rank 1", "another merge")


def test_disagree_tile(folder):
    disagree(folder, [("ties", ["--tile", "1MiB"]), ("ties", ["--tile", "512KiB"])], "rank 1", "--tile")


# Each of these starts its ranks, yields, and checks how they ended: they mostly wait, and do so at the same time.


def wait_for_another_number_of_ranks(folder):
    config, out = recipe("linear", checkpoints(SMALL, "small")), folder / "number"
    ranks = [start("merge", config, out, "--quiet", "--ranks", n, "--rank", r, "--deadline", "3")
             for r, n in ((0, 2), (1, 3))]
    yield
    results = end_all(ranks, 60)
    check(all(code in (2, 75) for code, _ in results), results)
    check(any("counts 2 ranks" in text and "counts 3" in text for _, text in results), results)


def wait_for_a_rank_with_a_broken_config(folder):
    """It cannot even read its config and says so; the other gives up after the grace period."""
    models, out = checkpoints(SMALL, "small"), folder / "broken"
    broken = folder / "broken.yml"
    broken.write_text("merge_method: tise\n")
    good = start("merge", recipe("linear", models), out, "--quiet", "--ranks", 2, "--rank", 0, "--deadline", "1")
    bad = start("merge", broken, out, "--quiet", "--ranks", 2, "--rank", 1, "--deadline", "1")
    yield
    equal(end(bad)[0], 78)
    code, text = end(good, 60)
    equal(code, 75, text)
    contains(text, "did not appear")


def wait_for_a_rank_that_never_comes(folder):
    models, out = checkpoints(SMALL, "small"), folder / "never"
    config = recipe("ties", models)
    ranks = start_ranks(config, out, 3, "--deadline", "1", ranks=(0, 1))
    began = time.monotonic()
    yield
    results = end_all(ranks, 60)
    took = time.monotonic() - began
    ended_early(results)
    check(4.5 < took < 5 + FEW_SECONDS, f"gave up after {took:.1f} s")
    contains(results[0][1], "of 3 ranks these did not appear", ": 2;")
    all_well(end_all(start_ranks(config, out, 2)))
    same(out, "ties", models, "with the ranks that are there")


def wait_for_a_rank_that_is_there_twice(folder):
    config, out = recipe("ties", checkpoints(SMALL, "small")), folder / "twice"
    ranks = start_ranks(config, out, 3, "--deadline", "1", ranks=(0, 1, 1))
    yield
    results = end_all(ranks, 60)
    ended_early(results)
    contains(results[0][1], "of 3 ranks these did not appear", ": 2;")


def test_ranks_that_do_not_come_together(folder):
    expected("ties", checkpoints(SMALL, "small"))  # made before anything is timed
    waits = [wait(folder) for wait in (wait_for_a_rank_that_never_comes, wait_for_a_rank_that_is_there_twice,
                                       wait_for_a_rank_with_a_broken_config, wait_for_another_number_of_ranks)]
    for wait in waits:
        next(wait)
    for wait in waits:
        check(next(wait, "ended") == "ended", "it waits twice")


def test_stale_meeting_places(folder):
    """All ranks die at once, again and again, under the same name: their letters do no harm to the next start."""
    models, out = checkpoints(SMALL, "small"), folder / "out"
    config = recipe("ties_global", models)
    for moment in (0.02, 0.08, 0.2):
        ranks = start_ranks(config, out, 4, "--deadline", DEADLINE, *SLOW)
        time.sleep(moment)
        for process in ranks:
            process.kill()
        end_all(ranks)
    if not out.exists():
        (meeting_of(out)).mkdir(exist_ok=True)
        (meeting_of(out) / "0123456789abcdef.rubbish").write_bytes(os.urandom(100))
        all_well(end_all(start_ranks(config, out, 4, "--deadline", "20")))
    same(out, "ties_global", models, "after crashed starts")


def test_output_that_is_not_empty(folder):
    """Rank 0 finds it, all hear of it."""
    models, out = checkpoints(SMALL, "small"), folder / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    results = end_all(start_ranks(recipe("linear", models), out, 2, "--deadline", "20"), 60)
    equal(results[0][0], 73, results[0][1])
    equal(results[1][0] in (73, 75), True, results[1])
    contains(results[1][1], "is not empty")
    all_well(end_all(start_ranks(recipe("linear", models), out, 2, "--overwrite")))
    same(out, "linear", models, "--overwrite")


if __name__ == "__main__":
    tests(sys.modules[__name__])
