"""Limits of files and processes."""

from __future__ import annotations

import pytest

from raycluster_cli.system.cgroups import Limit
from raycluster_cli.system.limits import limit_warnings


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
