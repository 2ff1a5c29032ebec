"""Ray Train with PyTorch (CPUs, gloo) loses a worker job with notice, and goes on in another one.

Run by `make train`, in a virtual environment of its own; skipped without PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bed.bed import REPOSITORY
from tests.bed.spec import LOGIN
from tests.slurm.batches import read, record
from tests.slurm.jobs import Job, JobEnd, Slurm
from tests.waiting import wait_until

pytest.importorskip("torch")

DRIVER = REPOSITORY / "tests/libraries/drivers/train_on_gloo.py"
SHARE = ("--ntasks=1", "--cpus-per-task=1", "--mem=3000", "--time=20", "--no-requeue", "--nodelist=n1")
WORKERS = "--cpus-per-task=1 --mem=3000 --time=20 --exclude=n1"


def sigterm(slurm: Slurm, worker: dict[str, Any]) -> None:
    """To the worker alone, as where Slurm tracks processes by cgroups."""
    host = worker["host"].partition(".")[0]
    slurm.bed.run(host, ["kill", "-TERM", str(worker["pid"])], check=True)


def preempt(slurm: Slurm, worker: dict[str, Any]) -> None:
    """With a GraceTime, of which the batch step hears nothing before it is over."""
    host = worker["host"].partition(".")[0]
    urgent = ("--partition=urgent", f"--nodelist={host}", "--exclusive", "--mem=1000", "--time=10")
    slurm.sbatch("exec true", *urgent)


@pytest.mark.parametrize(("going", "number"), [(sigterm, 30), (preempt, 60)])
def test_training_goes_on_without_a_worker_that_gave_notice(
    slurm: Slurm, going: Callable[[Slurm, dict[str, Any]], None], number: int
) -> None:
    log = slurm.bed.path(LOGIN, "/home/admin/steps")
    log.unlink(missing_ok=True)
    options = f"--max-nodes 3 --worker-idle-timeout 120 --worker-sbatch '{WORKERS}'"
    slurm.run(LOGIN, ["scontrol", "update", "PartitionName=main", "GraceTime=45", "PreemptMode=CANCEL"])
    job = slurm.sbatch(
        f"exec raycluster head {options} -- python {DRIVER} {number} /home/admin/steps", *SHARE
    )
    try:
        wait_until(lambda: len(steps(job, log)) > 5, timeout_s=300, what="training")
        (worker,) = [one for one in reports(slurm, job) if one.get("job") and one["phase"] == "joined"]
        going(slurm, worker)
        assert job.wait(300) == JobEnd("COMPLETED", 0, 0), job.output()
    finally:
        slurm.run(LOGIN, ["scontrol", "update", "PartitionName=main", "GraceTime=0", "PreemptMode=REQUEUE"])
    [line] = [line for line in job.output().splitlines() if line.startswith("TRAINED ")]
    assert json.loads(line.partition(" ")[2]) == {
        "step": number - 1,
        "weight": 3.0 * number,
    }  # no step lost, none twice
    done = steps(job, log)
    left = [one["deadline_s"] for one in done if one["deadline_s"] is not None]
    print("told so many seconds before:", left[:1], "resumed at", sorted({one["resumed"] for one in done}))
    assert left, "Ray Train was not told before"
    assert max(one["resumed"] for one in done) > 0


def steps(job: Job, log: Path) -> list[dict[str, Any]]:
    """What rank 0 has written so far; fails when the job is over."""
    if not log.exists():
        assert job.state() in ("PENDING", "CONFIGURING", "RUNNING"), job.output()
        return []
    return [json.loads(line) for line in log.read_text().splitlines()]


def reports(slurm: Slurm, job: Job) -> list[dict[str, Any]]:
    """The nodes' reports in the cluster's record."""
    found = (read(path) for path in (record(slurm.bed, job) / "nodes").glob("*.json"))
    return [report for report in found if report]
