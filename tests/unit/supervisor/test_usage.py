"""Usage: whether somebody watches, and what is measured."""

from __future__ import annotations

import os
from pathlib import Path

from raycluster_cli.state.record import Record
from raycluster_cli.supervisor.usage import WATCHED_S, Watchers


def test_watchers_come_and_go(tmp_path: Path) -> None:
    record = Record.create(tmp_path, "bed", "1")
    now = [100.0]
    watchers = Watchers(record.watching_stamp, lambda: now[0])
    assert not watchers.is_there()
    assert record.watch()
    assert watchers.is_there()
    now[0] += WATCHED_S - 1
    assert watchers.is_there()
    now[0] += 2
    assert not watchers.is_there()
    os.utime(record.path / "watching", (5, 5))  # a clock that is wrong does no harm
    assert watchers.is_there()


def test_who_watched_before_does_not_count(tmp_path: Path) -> None:
    record = Record.create(tmp_path, "bed", "1")
    record.watch()
    assert not Watchers(record.watching_stamp).is_there()
