#!/usr/bin/env python3
"""Every malformed model of the corpus is refused with its identifier and exit code, by inspect and by a merge.

usage: test_corpus.py WARPMERGE MAKE_CORPUS
"""

import subprocess
import sys

from harness import check, contains, equal, run, run_tests

MAKE_CORPUS = sys.argv[2]


def test_corpus(folder):
    corpus = folder / "corpus"
    subprocess.run([MAKE_CORPUS, corpus], check=True)
    cases = [line.split("\t") for line in (corpus / "manifest.tsv").read_text().splitlines()]
    check(len(cases) >= 100, f"only {len(cases)} cases")
    for path, code, identifier in cases:
        r = run("inspect", corpus / path, cwd=folder)
        equal(r.returncode, int(code), path, r.stderr)
        if identifier != "-":
            contains(r.stderr, f"[{identifier}]")
        if r.returncode:
            equal(r.stdout, "", path)
            check(r.stderr.count("\n") < 30, path, r.stderr)
        check("\x1b" not in r.stderr and "\x00" not in r.stderr, path)


run_tests(sys.modules[__name__])
