"""The wait for a server from outside, in virtual time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from raycluster_cli.model.cluster_status import ClusterPhase, ClusterStatus
from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.record import EndReport
from raycluster_cli.model.service import ServiceReport
from raycluster_cli.ops.reader import read_cluster
from raycluster_cli.ops.server_readiness import Waited, await_ready, last_lines
from raycluster_cli.ops.status_json import cluster_json
from tests.unit.records_by_hand import change_head, write_record

PENDING = ClusterStatus("4711", "", ClusterPhase.PENDING, (), 0, 0.0)
RUNNING = dataclasses.replace(PENDING, phase=ClusterPhase.RUNNING, is_service=True)
FAILED = dataclasses.replace(PENDING, phase=ClusterPhase.FAILED, exit_code=7)
ENDED = dataclasses.replace(PENDING, phase=ClusterPhase.ENDED, exit_code=0)


def server(state: str, listens_on: str = "") -> ClusterStatus:
    return dataclasses.replace(
        RUNNING, service=ServiceReport(state, 1.0, "10.0.0.1", 20491, listens_on, message="why")
    )


def waited(
    *seen: ClusterStatus | None, timeout_s: float | None = None
) -> tuple[Waited, Sequence[ClusterStatus]]:
    """What comes of a wait that sees these, one after the other, and the last again and again."""
    left, told, now = list(seen), [], [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def look() -> ClusterStatus | None:
        return left.pop(0) if len(left) > 1 else left[0]

    return (
        await_ready(look, told.append, timeout_s=timeout_s, clock=lambda: now[0], sleep=sleep),
        told,
    )


@pytest.mark.parametrize(
    ("seen", "code", "ready"),
    [
        ([PENDING, RUNNING, server("starting"), server("ready")], 0, True),
        ([None, PENDING, server("restarting"), server("ready")], 0, True),
        ([server("starting"), FAILED], 7, False),
        ([server("starting"), ENDED], 1, False),  # it has ended by itself and is not there
        ([PENDING, None], 1, False),  # Slurm has forgotten it
    ],
)
def test_until_it_is_ready_or_over(seen: list[ClusterStatus | None], code: int, ready: bool) -> None:
    found, _ = waited(*seen)
    assert (found.code, found.ready) == (code, ready)


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (PENDING, 4),
        (RUNNING, 4),
        (server("starting"), 4),
        (server("restarting"), 4),
        (server("unhealthy"), 5),
    ],
)
def test_its_code_when_the_time_is_over(last: ClusterStatus, code: int) -> None:
    found, told = waited(last, timeout_s=30)
    assert (found.code, found.is_over) == (code, False)
    assert len(told) > 10


def test_a_driver_that_is_no_server_is_not_waited_for() -> None:
    with pytest.raises(RayclusterError, match="was started without --service"):
        waited(dataclasses.replace(RUNNING, is_service=False))


def test_a_record_tells_of_its_server(tmp_path: Path) -> None:
    record = write_record(tmp_path, 3)
    change_head(record, service=True)
    assert read_cluster(record).is_service
    assert cluster_json(read_cluster(record))["service"] is None
    record.write_service(ServiceReport("ready", time.time(), "10.0.0.1", 20491, restarts=2))
    status = read_cluster(record)
    assert status.headline == "server is ready at http://10.0.0.1:20491 on 3 nodes"
    found = cluster_json(status)["service"]
    assert (found["state"], found["url"], found["restarts"]) == ("ready", "http://10.0.0.1:20491", 2)
    record.write_service(ServiceReport("unhealthy", time.time(), "10.0.0.1", 20491, message="no answer"))
    assert read_cluster(record).headline == "3 nodes ready; server is unhealthy: no answer"
    record.write_end(EndReport(time.time(), 0, "idle"))
    assert read_cluster(record).service is None


def test_the_last_lines_are_the_servers_own(tmp_path: Path) -> None:
    record = write_record(tmp_path, 1)
    output = tmp_path / "job.out"
    lines = [f"line {number}" for number in range(20)]
    output.write_text("\n".join([*lines, "raycluster: warning: x", "loading\rloading 90 %\n"]))
    change_head(record, output=str(output), service=True)
    found = last_lines(read_cluster(record), tmp_path, {})
    assert (len(found), found[0], found[-3:]) == (10, "line 12", ["line 19", "loading", "loading 90 %"])
