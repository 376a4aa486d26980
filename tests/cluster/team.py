"""What the tests of several processes share: recipes, checkpoints, ranks that are started and always ended again.

Standard library only. Needs the arguments WARPMERGE MAKE_CHECKPOINT (the first is checked by the command line harness).
Every process dies with this one (PR_SET_PDEATHSIG) and is waited for with a timeout: nothing is left behind.
"""

import atexit
import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cli"))
from harness import PROGRAM, check, contains, equal, run_tests, write_safetensors  # noqa: E402,F401  (handed on)

MAKER = sys.argv[2]
PATIENCE = 180  # seconds for a process to end; the machine may be busy
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
running = []

TOP = Path(tempfile.mkdtemp(prefix="wm-cluster-"))
atexit.register(shutil.rmtree, TOP, ignore_errors=True)

TINY = ["--hidden", "128", "--layers", "1", "--intermediate", "350", "--vocab", "6000"]
SMALL = ["--hidden", "256", "--layers", "2", "--intermediate", "700", "--vocab", "20000"]
LARGE = ["--hidden", "512", "--layers", "3", "--intermediate", "1400", "--vocab", "24000"]
# With IN_LITTLE_MEMORY its largest tensors are streamed, and their thresholds guessed.
STREAMED = ["--hidden", "1024", "--layers", "2", "--intermediate", "5000", "--vocab", "2000"]
IN_LITTLE_MEMORY = ["--threads", "1", "--io-threads", "1", "--memory", "64MiB"]


def checkpoints(shape, name):
    """Made once. The embedding and the head are more than a rank's share, so that they are split."""
    folder = TOP / name
    if not folder.exists():
        subprocess.run([MAKER, "tiny-llama", "--out", folder, "--fine-tunes", "2", "--seed", "5", *shape], check=True,
                       stdout=subprocess.DEVNULL, timeout=PATIENCE)
    return folder


TIES = """merge_method: ties
base_model: {0}/base
parameters: {{density: 0.5, weight: 1{1}}}
models:
- model: {0}/ft1
- model: {0}/ft2
  parameters: {{density: 0.3, weight: 0.7}}
dtype: bfloat16
"""
RECIPES = {
    "linear": "merge_method: linear\nmodels:\n- {{model: {0}/ft1, parameters: {{weight: 0.6}}}}\n"
              "- {{model: {0}/ft2, parameters: {{weight: 0.4}}}}\ndtype: bfloat16\n",
    "ties": TIES.replace("{1}", ""),
    "ties_global": TIES.replace("{1}", ", trim: global"),
    "dare_ties": TIES.replace("{1}", "").replace("ties\n", "dare_ties\n", 1),
    "slerp": "merge_method: slerp\nbase_model: {0}/base\nparameters: {{t: 0.3}}\nmodels:\n- model: {0}/base\n"
             "- model: {0}/ft1\ndtype: bfloat16\n",
    "task_arithmetic": TIES.replace("{1}", "").replace("ties\n", "task_arithmetic\n", 1),
    "dare_linear": TIES.replace("{1}", "").replace("ties\n", "dare_linear\n", 1),
    "mergealign": "merge_method: mergealign\nbase_model: {0}/base\nmodels:\n- model: {0}/ft1\n- model: {0}/ft2\n"
                  "dtype: bfloat16\n",
    "nuslerp": "merge_method: nuslerp\nbase_model: {0}/base\nmodels:\n"
               "- {{model: {0}/ft1, parameters: {{weight: 0.6}}}}\n"
               "- {{model: {0}/ft2, parameters: {{weight: 0.4}}}}\ndtype: bfloat16\n",
    "nuslerp_rows": "merge_method: nuslerp\nparameters: {{nuslerp_row_wise: true}}\nmodels:\n"
                    "- {{model: {0}/ft1, parameters: {{weight: 0.6}}}}\n"
                    "- {{model: {0}/ft2, parameters: {{weight: 0.4}}}}\ndtype: bfloat16\n",
    "passthrough": "merge_method: passthrough\nmodels:\n- {{model: {0}/ft1, parameters: {{scale: 0.5}}}}\n"
                   "dtype: bfloat16\n",
}


def recipe(method, models):
    path = TOP / f"{method}-{models.name}.yml"
    if not path.exists():
        path.write_text(RECIPES[method].format(models))
    return path


# ---- processes ------------------------------------------------------------------------------------------------------


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start(*arguments, env=None, cwd=None, prefix=()):
    """The program with a bare environment. Standard error goes to a file, so that nobody waits for a reader."""
    bare = {"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
    bare.update(env or {})
    errors = tempfile.TemporaryFile(dir=TOP, mode="w+")
    process = subprocess.Popen([*map(str, prefix), PROGRAM, *map(str, arguments)], cwd=cwd, env=bare,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                               preexec_fn=die_with_parent)
    process.errors = errors
    running.append(process)
    return process


def end(process, timeout=PATIENCE):
    """(exit code, standard error); a process killed by signal n counts as 128 + n, as in a shell."""
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"still running after {timeout} s: {process.args}") from None
    process.errors.seek(0)
    text = process.errors.read()
    process.errors.close()
    running.remove(process)
    return 128 - code if code < 0 else code, text


def end_all(processes, timeout=PATIENCE):
    until = time.monotonic() + timeout
    return [end(p, max(1.0, until - time.monotonic())) for p in processes]


def end_leftovers():
    for process in list(running):
        process.kill()
        process.wait()
        process.errors.close()
        running.remove(process)


def one(config, out, *options, code=0):
    """A single process, to its end; its standard error."""
    got, text = end(start("merge", config, out, "--quiet", *options))
    equal(got, code, f"exit code of a single process:\n{text}\n")
    return text


def start_ranks(config, out, n, *options, env=None, ranks=None):
    return [start("merge", config, out, "--quiet", "--ranks", n, "--rank", r, *options, env=env)
            for r in (range(n) if ranks is None else ranks)]


def all_well(results):
    for rank, (code, text) in enumerate(results):
        equal(code, 0, f"exit code of rank or part {rank}:\n{text}\n")


# ---- outputs --------------------------------------------------------------------------------------------------------


def digest(folder):
    """{file name: SHA-256} of everything in an output, which holds nothing but files."""
    found = {}
    for path in sorted(Path(folder).iterdir()):
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def partial_of(out):
    return out.parent / f".{out.name}.warpmerge-partial"


def meeting_of(out):
    return out.parent / f".{out.name}.warpmerge-ranks"


known = {}


def expected(method, models):
    """What a single process makes of it, computed once."""
    key = (method, models)
    if key not in known:
        out = TOP / f"single-{method}-{models.name}"
        one(recipe(method, models), out)
        known[key] = digest(out)
        shutil.rmtree(out)
    return known[key]


def same(out, method, models, *what):
    equal(digest(out), expected(method, models), *what)
    check(not partial_of(out).exists(), "an unfinished folder is left beside the output", *what)


RECORD_BYTES = 64


def n_records(out, index):
    try:
        return (partial_of(out) / f"journal-{index:04d}.warpmerge").stat().st_size // RECORD_BYTES - 1
    except FileNotFoundError:
        return 0


def wait_for(condition, what, timeout=PATIENCE, poll=0.002):
    until = time.monotonic() + timeout
    while not condition():
        check(time.monotonic() < until, f"waited {timeout} s for {what}")
        time.sleep(poll)


def wait_for_records(out, index, n, process):
    """Until the journal has n records, or the process has ended. True: it is still running."""
    wait_for(lambda: n_records(out, index) >= n or process.poll() is not None, f"{n} records of {index}", poll=0.001)
    return process.poll() is None


def tests(module):
    """harness.run_tests, with processes ended between tests; further arguments name the tests to run (default: all)."""
    for name, test in list(vars(module).items()):
        if name.startswith("test_") and sys.argv[3:] and name not in sys.argv[3:]:
            delattr(module, name)
        elif name.startswith("test_") and callable(test):
            def wrapped(folder, test=test):
                began = time.monotonic()
                try:
                    test(folder)
                finally:
                    end_leftovers()
                    print(f"{time.monotonic() - began:6.1f} s  ", end="")
            setattr(module, name, wrapped)
    run_tests(module)
