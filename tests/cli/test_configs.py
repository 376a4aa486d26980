#!/usr/bin/env python3
"""Every broken config ends with its exit code and says each of its sentences (tests/configs/broken)."""

import sys
from pathlib import Path

from harness import check, contains, equal, run, run_tests

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def test_broken(folder):
    configs = sorted((CONFIGS / "broken").glob("*.yml"))
    check(len(configs) >= 40, f"only {len(configs)} broken configs")
    for config in configs:
        code, *parts = config.with_suffix(".expect").read_text().splitlines()
        r = run("merge", config.name, folder / "out", cwd=config.parent)
        equal(r.returncode, int(code), config.name, r.stderr)
        for part in filter(None, parts):
            check(part in r.stderr, f"{config.name}: missing {part!r} in:\n{r.stderr}")
        check(not (folder / "out").exists(), config.name)
        equal(r.stdout, "", config.name)
        errors = [line for line in r.stderr.splitlines() if line.startswith("error: ")]
        equal(len(errors), len(set(errors)), "said twice:", r.stderr)


def test_good(folder):
    """These pass the recipe; their models do not exist, which is what the error must be about."""
    for config in sorted((CONFIGS / "good").glob("*.yml")):
        r = run("plan", config.name, cwd=config.parent, env={"HOME": str(folder), "HF_HUB_CACHE": str(folder)})
        check(r.returncode in (66, 78), config.name, r.returncode, r.stderr)
        if r.returncode == 78:  # LoRA references parse and are refused by name
            contains(r.stderr, "LoRA")


run_tests(sys.modules[__name__])
