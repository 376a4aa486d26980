#!/usr/bin/env python3
"""An installed warpmerge serves a C program that knows only pkg-config: it compiles, links the shared library, runs.

usage: check_install.py BUILD_DIR COMPILER
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include <warpmerge.h>
int main(void)
{
    struct wm_options options = WM_OPTIONS_INIT;
    char *text = NULL;
    struct wm_error err = WM_ERROR_INIT;
    struct wm_merge *merge = NULL;
    if (wm_methods("ties", 1, &text, &err) || !strstr(text, "ties"))
        return 1;
    wm_text_free(text);
    if (wm_merge_open(&merge, "/no/such/config.yml", &options, &err) != WM_NO_INPUT)
        return 2;
    wm_merge_free(merge);
    printf("%s: %s\n", WM_VERSION, err.message);
    return wm_exit_code(err.status) == 66 ? 0 : 3;
}
"""


def run(command, **more):
    print("$", " ".join(map(str, command)), flush=True)
    return subprocess.run([str(c) for c in command], check=True, text=True, **more)


def main():
    build, compiler = Path(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder, "usr")
        run(["cmake", "--install", build, "--prefix", prefix], stdout=subprocess.DEVNULL)
        [pc] = prefix.rglob("warpmerge.pc")
        # The prefix of the .pc file is the configured one; pkg-config moves it to where the file was found.
        environment = {**os.environ, "PKG_CONFIG_PATH": str(pc.parent), "LD_LIBRARY_PATH": str(pc.parent.parent)}
        flags = run(["pkg-config", f"--define-variable=prefix={prefix}", "--cflags", "--libs", "warpmerge"],
                    env=environment, capture_output=True).stdout.split()
        source, program = Path(folder, "program.c"), Path(folder, "program")
        source.write_text(PROGRAM, encoding="utf-8")
        run([compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", source, "-o", program] + flags)
        run([program], env=environment)
        if (prefix / "bin/warpmerge").exists():
            run([prefix / "bin/warpmerge", "--help"], stdout=subprocess.DEVNULL)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failure:
        print(failure, failure.stderr or "")
        sys.exit(1)
