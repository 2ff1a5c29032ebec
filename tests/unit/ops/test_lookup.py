"""Looking at a job again and again, with answers of Slurm that are a little older than the record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from raycluster_cli.model.cluster_status import ClusterPhase
from raycluster_cli.ops.lookup import Looker, find_status
from raycluster_cli.slurm.queue import Job
from tests.unit.records_by_hand import change_head, write_record


def test_a_record_that_appears_is_not_that_of_a_run_before(tmp_path: Path) -> None:
    """Slurm said "pending" before the job started; its record must not look like that of a requeued job."""
    states = ["PENDING", "RUNNING", "PENDING"]
    asked: list[str] = []

    def query() -> Mapping[str, Job]:
        asked.append(states[len(asked)])
        return {"4711": Job("4711", "4711", asked[-1])}

    looker = Looker("4711", tmp_path, {}, query)
    waiting = looker.look()
    assert waiting is not None
    assert waiting.headline == "waiting in Slurm's queue (pending)"
    write_record(tmp_path, 3)
    for _ in range(3):
        running = looker.look()
        assert running is not None
        assert running.phase is ClusterPhase.RUNNING
    assert asked == ["PENDING", "RUNNING"]  # not at every look


def test_a_look_at_a_record_that_is_there_asks_slurm_once(tmp_path: Path) -> None:
    """A second look asks again: the record may have appeared just after Slurm's answer."""
    write_record(tmp_path, 3)
    asked: list[str] = []

    def query() -> Mapping[str, Job]:
        asked.append("PENDING" if not asked else "RUNNING")
        return {"4711": Job("4711", "4711", asked[-1])}

    looker = Looker("4711", tmp_path, {}, query)
    looker.look()
    assert asked == ["PENDING"]
    for _ in range(3):
        running = looker.look()
        assert running is not None
        assert running.phase is ClusterPhase.RUNNING
    assert asked == ["PENDING", "RUNNING"]


@pytest.mark.parametrize("name", ["4712", "4711+1", "4711+0", "4711"])
def test_each_id_of_a_heterogeneous_job_means_its_cluster(tmp_path: Path, name: str) -> None:
    record = write_record(tmp_path, 2)
    change_head(record, aliases=("4712", "4711+0", "4711+1", "train"))
    jobs = {one: Job(one, shown, "RUNNING") for one, shown in (("4711", "4711+0"), ("4712", "4711+1"))}
    assert find_status(name, tmp_path, jobs, {}).job == "4711"
