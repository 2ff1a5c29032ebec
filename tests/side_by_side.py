"""Runs the unit tests in several pytest processes, each with a share of the modules.

python -m tests.side_by_side [ARGUMENTS OF PYTEST]

A third of the time of one process goes to waiting for processes and timers; `make unit` uses this.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

UNIT = Path(__file__).parent / "unit"

#: Ports are the whole machine's: tests that count those in use stay in one process.
TOGETHER = "system"

#: One more than CPUs: some wait.
PROCESSES = len(os.sched_getaffinity(0)) + 1

#: pytest's exit code where no test was selected, as by -k.
NOTHING_SELECTED = 5


def shares(modules: Sequence[Path], count: int) -> list[list[Path]]:
    """The modules in ``count`` shares of about the same work, by the size of the files."""
    found: list[list[Path]] = [[] for _ in range(count)]
    found[-1] += [module for module in modules if module.parent.name == TOGETHER]
    rest = [module for module in modules if module.parent.name != TOGETHER]
    for module in sorted(rest, key=_size, reverse=True):
        min(found, key=lambda share: sum(map(_size, share))).append(module)
    return found


def _size(module: Path) -> int:
    return module.stat().st_size if module.exists() else 0


def main(arguments: Sequence[str]) -> int:
    """Prints what each process printed, the ones that passed first; returns the worst exit code."""
    modules = sorted(UNIT.rglob("test_*.py"))
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", *map(str, share), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        for share in shares(modules, PROCESSES)
    ]
    printed = {child: child.communicate()[0] for child in children}
    codes = {child: 0 if child.returncode == NOTHING_SELECTED else child.returncode for child in children}
    for child in sorted(children, key=codes.__getitem__):
        sys.stdout.write(printed[child])
    return max(map(abs, codes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
