#!/usr/bin/env python3
"""shellcheck finds nothing in any shell script of ours; without shellcheck the test exits with 77 (skipped)."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main():
    tops = ("bench", "docker", "tests", ".ci")
    scripts = sorted(ROOT.glob("*.sh")) + [p for top in tops for p in sorted((ROOT / top).rglob("*.sh"))]
    scripts += [p for p in [ROOT / ".ci/run"] if p.exists()]
    if not shutil.which("shellcheck"):
        print("skipped: shellcheck is not installed (docker/install-deps.sh --dev)")
        return 77
    print(f"{len(scripts)} scripts", flush=True)
    return subprocess.run(["shellcheck"] + [str(s) for s in scripts]).returncode if scripts else 1


if __name__ == "__main__":
    sys.exit(main())
