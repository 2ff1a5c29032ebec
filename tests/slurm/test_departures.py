"""Slurm drains the node of a worker job, or preempts the job with a GraceTime: Ray is told before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bed.spec import LOGIN
from tests.slurm.batches import record
from tests.slurm.jobs import Job, JobEnd, Slurm
from tests.slurm.test_worker_job import SHARE, head, worker
from tests.waiting import wait_until

pytestmark = pytest.mark.chaos


def scontrol(slurm: Slurm, *words: str) -> None:
    slurm.bed.run(LOGIN, ["scontrol", *words], check=True)


def wait_for_event(slurm: Slurm, cluster: Job, text: str) -> str:
    """The line of the cluster's events that has this text."""
    path = record(slurm.bed, cluster) / "events.log"

    def found() -> str:
        return next((line for line in path.read_text().splitlines() if text in line), "")

    return wait_until(found, timeout_s=120, what=f"the event {text!r}", interval_s=0.3)


def test_a_node_that_slurm_drains(slurm: Slurm) -> None:
    cluster = head(slurm, 3, 600)
    there, stays = worker(slurm, cluster.id), worker(slurm, cluster.id, host="n3")
    cluster.wait_for("ALL 3")
    scontrol(slurm, "update", "NodeName=n2", "State=DRAIN", "Reason=bad disk")
    said = wait_for_event(slurm, cluster, f"worker n2.{there.id} will go: ")
    assert "Slurm drains n2 (bad disk); drained, " in said
    left_s = int(said.partition("; drained, ")[2].partition(" s at most")[0])
    assert 300 < left_s <= 600  # until the job's time limit of ten minutes
    assert there.wait() == JobEnd("COMPLETED", 0, 0), there.output()
    assert "left the cluster: Slurm drains n2 (bad disk)" in there.output()
    wait_for_event(slurm, cluster, f"worker n2.{there.id} (10.77.0.2) left: Slurm drains n2")
    assert (cluster.state(), stays.state()) == ("RUNNING", "RUNNING")


@pytest.fixture
def grace_time(slurm: Slurm) -> Iterator[int]:
    """Jobs of the default partition are preempted with so many seconds of GraceTime."""
    scontrol(slurm, "update", "PartitionName=main", "GraceTime=90", "PreemptMode=CANCEL")
    yield 90
    scontrol(slurm, "update", "PartitionName=main", "GraceTime=0", "PreemptMode=REQUEUE")


def test_a_preempted_job_of_one_node(slurm: Slurm, grace_time: int) -> None:
    """Its worker runs in the batch step, which Slurm does not tell before the GraceTime is over."""
    cluster = head(slurm, 2, 600)
    there = worker(slurm, cluster.id)
    cluster.wait_for("ALL 2")
    urgent = slurm.sbatch(
        "exec true", "--partition=urgent", "--nodelist=n2", "--exclusive", "--mem=1000", "--time=10"
    )
    said = wait_for_event(slurm, cluster, f"worker n2.{there.id} will go: ")
    assert f"Slurm preempts job {there.id}; drained, " in said
    left_s = int(said.partition("; drained, ")[2].partition(" s at most")[0])
    assert 0 < left_s <= grace_time
    assert there.wait().exit_code == 0, there.output()
    assert f"left the cluster: Slurm preempts job {there.id}" in there.output()
    assert urgent.wait() == JobEnd("COMPLETED", 0, 0)
    assert cluster.state() == "RUNNING"


@pytest.fixture
def strict_grace_time(strict_slurm: Slurm) -> Iterator[int]:
    scontrol(strict_slurm, "update", "PartitionName=main", "GraceTime=90", "PreemptMode=CANCEL")
    yield 90
    scontrol(strict_slurm, "update", "PartitionName=main", "GraceTime=0", "PreemptMode=REQUEUE")


def test_a_preempted_step_knows_its_grace_time(strict_slurm: Slurm, strict_grace_time: int) -> None:
    """Slurm signals the step at once; where it tracks processes by cgroups the raylet gets no signal."""
    slurm = strict_slurm
    cluster = head(slurm, 2, 600)
    command = f"exec srun raycluster worker --cluster {cluster.id}"
    there = slurm.sbatch(command, *SHARE, "--nodelist=n2", "--no-requeue")
    cluster.wait_for("ALL 2")
    slurm.sbatch("exec true", "--partition=urgent", "--nodelist=n2", "--exclusive", "--mem=1000", "--time=10")
    there.wait_for(f"Slurm preempts n2.{there.id}: draining for ")
    left_s = int(there.output().partition(": draining for ")[2].partition(" s at most")[0])
    assert strict_grace_time / 2 < left_s < strict_grace_time
    said = wait_for_event(slurm, cluster, f"worker n2.{there.id} will go: ")
    assert f"Slurm preempts n2.{there.id}; drained, " in said
    there.wait()
    assert cluster.state() == "RUNNING"
