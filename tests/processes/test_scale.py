"""Many workers at once: the head and the file server are asked no more than they stand."""

from __future__ import annotations

from pathlib import Path

from benchmarks.scale import simulate

WORKERS = 120


def test_a_start_of_many_workers_is_no_storm(tmp_path: Path) -> None:
    result = simulate(WORKERS, tmp_path)
    assert len(result.found) == WORKERS
    assert result.joined_at is not None
    assert result.found[-1] < 5.0  # all are there soon after the head listens
    assert result.most("probe") < 2500
    assert result.total("open") / WORKERS < 40
    assert result.total("create") / WORKERS <= 7  # one file a worker, replaced a few times
    assert result.total("mkdir") == 0
    assert result.total("list") == 0  # a worker never lists a directory
    assert result.next_reading_s < result.first_reading_s
