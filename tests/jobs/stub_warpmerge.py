"""A warpmerge that records how it was called, and ends as $STUB says: a list of exit codes, one a call, the last one
repeated; "75@0.5" ends with 75 after half a second, "wait" waits for SIGTERM and ends with 143, "die" ends by SIGKILL.

The record is $STUB_LOG: one JSON line a call.
"""

import fcntl
import json
import os
import signal
import sys
import time


def main():
    with open(os.environ["STUB_LOG"], "a+", encoding="utf-8") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        f.seek(0)
        n_before = len(f.readlines())
        slurm = {k: v for k, v in os.environ.items() if k.startswith("SLURM_")}
        f.write(json.dumps({"arguments": sys.argv[1:], "slurm": slurm, "folder": os.getcwd(),
                            "hub_cache": os.environ.get("HF_HUB_CACHE")}) + "\n")
    plan = os.environ.get("STUB", "0").split(",")
    todo = plan[min(n_before, len(plan) - 1)]
    if todo == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if todo != "wait":
        code, _, seconds = todo.partition("@")
        time.sleep(float(seconds or 0))
        return int(code)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    open(os.environ["STUB_LOG"] + f".waiting.{os.getpid()}", "w", encoding="utf-8").close()
    time.sleep(60)
    return 1


if __name__ == "__main__":
    sys.exit(main())
