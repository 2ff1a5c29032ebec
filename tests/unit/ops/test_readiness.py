"""Waiting until programs can run on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.record import EndReport
from raycluster_cli.ops.readiness import wait_until_ready
from raycluster_cli.state.record import Record
from tests.unit.records_by_hand import write_record


class Clock:
    """Sleeps at once; ``then`` happens in that order, one at each sleep."""

    def __init__(self, *then: Callable[[], object]) -> None:
        self.now = 0.0
        self._then = list(then)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self._then:
            self._then.pop(0)()


def wait(find: Callable[[], Record], clock: Clock, wait_s: float = 60, host: str = "") -> Record:
    return wait_until_ready(find, host, wait_s, clock=lambda: clock.now, sleep=clock.sleep)


def set_phase(record: Record, host: str, phase: str) -> None:
    report = record.read_node(host)
    assert report is not None
    record.write_node(replace(report, phase=phase))


def test_one_that_is_ready(tmp_path: Path) -> None:
    record = write_record(tmp_path, 2)
    clock = Clock()
    assert wait(lambda: record, clock) is record
    assert clock.now == 0


def test_until_all_workers_have_joined(tmp_path: Path) -> None:
    record = write_record(tmp_path, 2)
    set_phase(record, "n001", "joined")
    clock = Clock(lambda: None, lambda: set_phase(record, "n001", "ready"))
    assert wait(lambda: record, clock) is record
    assert clock.now == 1.0


def test_until_there_is_a_record(tmp_path: Path) -> None:
    looks = []

    def find() -> Record:
        looks.append(1)
        if len(looks) < 4:
            raise RayclusterError("no cluster 4711")
        return write_record(tmp_path, 2)

    assert wait(find, Clock()).path.name == "4711"


def test_until_its_own_node_has_joined(tmp_path: Path) -> None:
    record = write_record(tmp_path, 3)
    set_phase(record, "n003", "starting ray")
    clock = Clock(lambda: set_phase(record, "n003", "joined"))
    wait(lambda: record, clock, host="n003")
    assert clock.now == 0.5


def test_not_longer_than_told(tmp_path: Path) -> None:
    record = write_record(tmp_path, 2)
    set_phase(record, "n001", "joined")
    clock = Clock()
    with pytest.raises(RayclusterError, match="cluster 4711 is not ready"):
        wait(lambda: record, clock, wait_s=30)
    assert clock.now == 30


def test_not_for_a_cluster_that_ends_meanwhile(tmp_path: Path) -> None:
    record = write_record(tmp_path, 2)
    set_phase(record, "n001", "starting ray")
    end = EndReport(5.0, 4, "workers-missing", "n001", "1 worker is missing")
    clock = Clock(lambda: record.write_end(end))
    with pytest.raises(RayclusterError, match="has ended: 1 worker is missing"):
        wait(lambda: record, clock)
    assert clock.now == 0.5


def test_the_end_of_the_cluster_before_is_no_end(tmp_path: Path) -> None:
    record = write_record(tmp_path, 2, end=EndReport(5.0, 0, "driver", "", "the driver ended"))
    clock = Clock(
        lambda: (record.path / "end.json").unlink(),
        lambda: set_phase(record, "n001", "ready"),
    )
    assert wait(lambda: record, clock) is record
