"""Limits of files and processes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from raycluster_cli.system.cgroups import Limit
from raycluster_cli.system.limits import limit_warnings

CODE = """
import json, resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
from raycluster_cli.system.limits import raise_limits
print(json.dumps([hard, resource.getrlimit(resource.RLIMIT_NPROC)[1], vars(raise_limits())]))
"""


def test_soft_limits_become_the_hard_ones() -> None:
    """In a process of its own, so that this one keeps its limits."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    hard_files, hard_processes, report = json.loads(done.stdout)
    assert (report["files_before"], report["files"]) == (256, hard_files)
    assert report["processes"] == hard_processes


@pytest.mark.parametrize(
    ("files", "processes", "pids", "words"),
    [
        (-1, -1, [], []),
        (65536, 100000, [Limit(50000, "x")], []),
        (1024, -1, [], ["ulimit -Hn) is 1024"]),
        (65536, 1200, [], ["ulimit -Hu) is 1200"]),
        (65536, -1, [Limit(9000, "x"), Limit(400, "cgroup pids.max of /user")], ["of /user allows 400"]),
        (0, 0, [Limit(1, "x")], ["(ulimit -Hn) is 0", "(ulimit -Hu) is 0", "x allows 1"]),
    ],
)
def test_limits_that_are_too_low_are_warned_of(
    files: int, processes: int, pids: list[Limit], words: list[str]
) -> None:
    warnings = limit_warnings(files, processes, num_cpus=8, pids_limits=tuple(pids))
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))
