"""Ray's autoscaler on real Slurm: killed while its worker jobs run, with --tls."""

from __future__ import annotations

import os

import pytest

from tests.bed.bed import REPOSITORY
from tests.slurm.batches import record
from tests.slurm.jobs import JobEnd, Slurm
from tests.waiting import wait_until

GROWS = REPOSITORY / "tests/slurm/drivers/grows_twice.py"

SHARE = ("--ntasks=1", "--cpus-per-task=1", "--mem=2000", "--time=10", "--no-requeue", "--nodes=1")


def autoscalers(slurm: Slurm) -> list[int]:
    """Processes on n1 that write the log of a cluster's autoscaler, by the host's own numbers."""
    found = []
    for link in slurm.bed.path("n1", "/proc").glob("[0-9]*/fd/2"):
        try:
            if os.readlink(link).endswith("/logs/monitor.err"):
                found.append(int(link.parts[-3]))
        except OSError:
            continue
    return found


@pytest.mark.chaos
@pytest.mark.parametrize("tls", ["", "--tls"])
def test_a_killed_autoscaler_is_started_again_and_knows_its_jobs(slurm: Slurm, tls: str) -> None:
    go = slurm.bed.directory / "home" / "admin" / "go"
    go.unlink(missing_ok=True)
    options = f"--max-nodes 3 --worker-idle-timeout 3s --expected-workers 0 --verbose {tls}"
    job = slurm.sbatch(f"exec raycluster head {options} -- python {GROWS} {go}", *SHARE)
    wait_until(lambda: job.output().count(" joined (") == 2, timeout_s=60, what="two workers")
    before = autoscalers(slurm)
    assert len(before) == 1, before
    slurm.run("n1", ["kill", "-KILL", str(before[0])], check=True)
    job.wait_for("Ray's autoscaler: it ended: exit code -9")
    wait_until(lambda: autoscalers(slurm) not in ([], before), timeout_s=60, what="another autoscaler")
    wait_until(lambda: job.output().count("Ray's autoscaler runs") == 2, timeout_s=60, what="that it runs")
    go.touch()
    job.wait_for("SHRUNK 1")
    assert job.output().count(" submitted") == 1, job.output()
    job.wait_for("ASKED")
    wait_until(lambda: job.output().count(" submitted") == 2, timeout_s=60, what="another job")
    go.touch()
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    assert " is lost" not in job.output()
    events = (record(slurm.bed, job) / "events.log").read_text()
    assert "Ray's autoscaler: it ended" in events
    wait_until(lambda: not autoscalers(slurm), timeout_s=15, what="no autoscaler")
    slurm.assert_nothing_left()
