"""What the record of a long-lived cluster keeps of worker jobs that are over."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from raycluster_cli.model.record import NodeReport
from raycluster_cli.state.notices import Notice, write_notice
from raycluster_cli.state.record import Record
from raycluster_cli.state.thinning import KEEP, KEEP_S, thin_out

NOW = time.time()


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record.create(tmp_path, "tux", "4700")


def node(record: Record, host: str, job: str = "", age_s: float = 10 * KEEP_S) -> None:
    record.write_node(NodeReport(host, "worker", "gone", job=job))
    os.utime(record.path / "nodes" / f"{host}.json", (NOW - age_s, NOW - age_s))


def hosts(record: Record) -> set[str]:
    return {path.name.removesuffix(".json") for path in (record.path / "nodes").iterdir()}


def test_the_newest_reports_stay_and_those_of_nodes_that_are_there(record: Record) -> None:
    """A worker that runs for weeks without a change has the oldest report of all."""
    for number in range(KEEP + 5):
        node(record, f"n1.{number}_0", f"{number}_0", age_s=10 * KEEP_S - number)
    kept = thin_out(record.path, {"n1.1_0"}, (), NOW)
    assert kept == {"n1.0_0", "n1.2_0", "n1.3_0", "n1.4_0"}
    assert len(hosts(record)) == KEEP + 1
    assert "n1.1_0" in hosts(record)


@pytest.mark.parametrize(
    ("host", "job", "age_s"),
    [
        ("n2", "", 10 * KEEP_S),  # of the head's job
        ("10.0.0.12", "", 10 * KEEP_S),
        ("n1.4711", "4711", 60.0),  # it may be starting
    ],
)
def test_other_reports_stay(record: Record, host: str, job: str, age_s: float) -> None:
    for number in range(KEEP):
        node(record, f"n9.{number}", f"{number}", age_s=0.0)
    node(record, host, job, age_s)
    assert thin_out(record.path, (), (), NOW) == set()
    assert host in hosts(record)


def test_notices_and_losses(record: Record) -> None:
    for name in ("aa", "bb", "cc"):
        write_notice(record.path, Notice(name, NOW))
        record.tell_loss(name)
    for directory in ("notices", "lost"):
        for path in (record.path / directory).iterdir():
            age_s = 60.0 if path.name.startswith("cc") else 2 * KEEP_S
            os.utime(path, (NOW - age_s, NOW - age_s))
    assert thin_out(record.path, (), {"bb"}, NOW) == {"aa"}
    assert sorted(path.name for path in (record.path / "notices").iterdir()) == ["bb.json", "cc.json"]
    assert sorted(record.lost_node_ids()) == ["bb", "cc"]


def test_a_record_without_worker_jobs(tmp_path: Path) -> None:
    assert thin_out(tmp_path / "none", (), (), NOW) == set()
