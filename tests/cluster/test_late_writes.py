"""A guess of a rank that was given up, which reaches the file server when all is done, does not reach the output.

Usage: test_late_writes.py WARPMERGE MAKE_CHECKPOINT
A network file system's client keeps what a process wrote, and sends it when its host is back; the server then has the file
of the time, open as it was. That is played here: the shard stays open, and is written to in the end.
"""

import signal
import sys

from team import (IN_LITTLE_MEMORY, RECORD_BYTES, STREAMED, all_well, check, checkpoints, end_all, one, partial_of,
                  recipe, same, start_ranks, tests)

RANKS = 2
TRIES = 40
SLOW = [*IN_LITTLE_MEMORY, "--tile", "64KiB"]


def journals(out):
    """[(tensor, number of elements)] of all ranks; 0 elements mark a tensor that is about to be guessed."""
    found = []
    if not partial_of(out).exists():
        return found
    for path in sorted(partial_of(out).glob("journal-*.warpmerge")):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue  # the run is just ending
        for at in range(RECORD_BYTES, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
            found.append((int.from_bytes(data[at:at + 8], "little"),
                          int.from_bytes(data[at + 16:at + 24], "little")))
    return found


def guessing(out):
    """A tensor is being guessed now: it is marked, and nothing of it is recorded, but of others there is."""
    records = journals(out)
    done = {job for job, n in records if n}
    return done and {job for job, n in records if not n} - done


def lost_run(config, out, moment):
    """Ranks that are all killed at a moment; False: they had ended."""
    ranks = start_ranks(config, out, RANKS, "--deadline", "20", *SLOW)
    while not moment() and all(r.poll() is None for r in ranks):
        pass
    alive = all(r.poll() is None for r in ranks)
    for r in ranks:
        r.send_signal(signal.SIGKILL)
    end_all(ranks)
    return alive


def shard_of(out):
    return next(partial_of(out).glob("*.safetensors"))


def resume_and_write_late(out, method, models, n):
    """Goes on with n ranks, 0 for a single process, while the shard of now is open as it was. True: the output is that very file."""
    config = recipe(method, models)
    with open(shard_of(out), "r+b") as late:
        before = shard_of(out).stat()
        if n:
            all_well(end_all(start_ranks(config, out, n, "--deadline", "20")))
        else:
            one(config, out)
        after = (out / "model.safetensors").stat()
        same(out, method, models, "resumed")
        if before.st_ino != after.st_ino:
            late.write(b"\xaa" * before.st_size)
            late.flush()
            same(out, method, models, "after late writes")
        return before.st_ino == after.st_ino


def test_guesses_under_way(folder):
    models = checkpoints(STREAMED, "streamed")
    config = recipe("ties", models)
    for n in (3, 0):
        for i in range(TRIES):
            out = folder / f"out{n}-{i}"
            if lost_run(config, out, lambda: guessing(out)) and guessing(out):
                break
        else:
            check(False, f"in {TRIES} runs no guess was under way when they were killed")
        check(not resume_and_write_late(out, "ties", models, n), "the shard is still the old file")


def test_without_a_guess_nothing_is_copied(folder):
    models, out = checkpoints(STREAMED, "streamed"), folder / "out"
    check(lost_run(recipe("linear", models), out, lambda: len(journals(out)) >= 3), "the ranks had ended")
    check(resume_and_write_late(out, "linear", models, 2), "the shard was copied for nothing")


if __name__ == "__main__":
    tests(sys.modules[__name__])
