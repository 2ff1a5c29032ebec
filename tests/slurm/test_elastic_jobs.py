"""The Slurm jobs of a cluster that grows: how they end, and those of several nodes."""

from __future__ import annotations

import pytest

from tests.bed.spec import LOGIN
from tests.slurm.batches import record
from tests.slurm.jobs import Slurm
from tests.slurm.test_elastic import groups, groups_file, nobody_left, submit, worker_jobs
from tests.waiting import wait_until

pytestmark = pytest.mark.chaos


def state_of(slurm: Slurm, job: str) -> str:
    shown = slurm.run(LOGIN, ["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"], check=True)
    return shown.stdout.strip()


def joined(slurm: Slurm, cluster: object, name: str, number: int) -> None:
    wait_until(
        lambda: groups(slurm, cluster)[name]["nodes_joined"] == number,  # type: ignore[arg-type]
        timeout_s=120,
        what=f"{number} nodes of {name}",
        interval_s=0.5,
    )


def test_a_worker_job_leaves_before_its_time_limit(slurm: Slurm) -> None:
    """And with half of its time at most: of one minute that is half a minute."""
    path = groups_file(slurm, '[workers.short]\nsbatch = "-c 1 --mem=2000 --time=1"\nmin = 1\nmax = 1\n')
    cluster = submit(slurm, "seconds=600", options=(f"--config={path}",))
    cluster.wait_for("ready at")
    joined(slurm, cluster, "short", 1)
    [first] = worker_jobs(slurm, cluster)
    wait_until(lambda: state_of(slurm, first) == "COMPLETED", timeout_s=120, what="the end of the first job")
    events = (record(slurm.bed, cluster) / "events.log").read_text()
    assert f"the time limit of job {first} is near; drained, " in events
    wait_until(lambda: worker_jobs(slurm, cluster), timeout_s=60, what="the next one")
    slurm.run(LOGIN, ["raycluster", "stop", cluster.id], check=True)
    nobody_left(slurm)
