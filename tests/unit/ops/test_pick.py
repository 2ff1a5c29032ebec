"""--state and --since of the list of clusters."""

from __future__ import annotations

import time

import pytest

from raycluster_cli.model.cluster_status import ClusterPhase, ClusterStatus
from raycluster_cli.model.errors import UsageError
from raycluster_cli.ops.pick import Pick, parse_since

NOW = 1_795_000_000.0
DAY = time.mktime((2026, 11, 27, 0, 0, 0, 0, 0, -1))


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("", None),
        ("90s", NOW - 90),
        ("30min", NOW - 1800),
        ("2 h", NOW - 7200),
        ("3d", NOW - 259200),
        ("2026-11-27", DAY),
        ("2026-11-27T06:30", DAY + 6.5 * 3600),
        ("2026-11-27 06:30", DAY + 6.5 * 3600),
    ],
)
def test_since(text: str, since: float | None) -> None:
    assert parse_since(text, NOW) == since


@pytest.mark.parametrize("text", ["yesterday", "2x", "-3d", "27.11.2026", "0x2h", "9" * 40 + "d"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="it must be like 30min, 2h"):
        parse_since(text, NOW)


def status(phase: ClusterPhase, ended: float | None) -> ClusterStatus:
    return ClusterStatus("1", "", phase, (), 2, NOW - 9000, read_at=NOW, ended=ended)


@pytest.mark.parametrize(
    ("states", "since", "wanted"),
    [
        ("", "", ["running", "failed", "lost"]),
        ("failed,lost", "", ["failed", "lost"]),
        ("Running", "", ["running"]),
        ("no-record", "", []),
        ("", "1h", ["running", "lost"]),
        ("failed, lost", "1h", ["lost"]),
    ],
)
def test_what_is_picked(states: str, since: str, wanted: list[str]) -> None:
    there = [
        status(ClusterPhase.RUNNING, None),
        status(ClusterPhase.FAILED, NOW - 7200),
        status(ClusterPhase.LOST, NOW - 60),
    ]
    pick = Pick.parse(states, since, NOW)
    assert bool(pick) == bool(states or since)
    assert [each.phase.value for each in there if pick.wants(each)] == wanted


def test_a_state_that_is_none() -> None:
    with pytest.raises(UsageError, match="--state is 'dead'; a cluster's states are pending, no record"):
        Pick.parse("failed,dead", "", NOW)
