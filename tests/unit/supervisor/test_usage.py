"""Usage: whether somebody watches, and what is measured."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

from raycluster_cli.state.record import Record
from raycluster_cli.supervisor.usage import WATCHED_S, Watchers, measure_processes


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


def _hold() -> None:
    memory = bytearray(b"x" * (64 << 20))
    time.sleep(30)
    del memory


def test_memory_of_descendants_is_counted() -> None:
    before = measure_processes(os.getpid(), 1 << 30)
    child = multiprocessing.get_context("fork").Process(target=_hold)
    child.start()
    try:
        deadline = time.monotonic() + 10
        grown = 0
        while grown < 60 << 20 and time.monotonic() < deadline:
            time.sleep(0.02)
            grown = measure_processes(os.getpid(), 1 << 30).memory_used_bytes - before.memory_used_bytes
        assert grown >= 60 << 20
    finally:
        child.kill()
        child.join()
    assert before.worker_processes == 0
    assert before.memory_total_bytes == 1 << 30
