"""What a driver's output shows only after more than half a minute."""

from __future__ import annotations

import pytest

from tests.slurm.batches import SRUN, batch, driver, record
from tests.slurm.jobs import JobEnd, Slurm


@pytest.mark.chaos
def test_no_error_about_agents_that_do_not_run(slurm: Slurm) -> None:
    """Ray prints it 30 s after the start where it looks for an agent (rayproc.private.spawn.gcs_command)."""
    job = batch(slurm, f"{SRUN} raycluster run --keep-logs always -- {driver(0, '--tasks', '--sleep', 40)}")
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    assert "NODES n1 n2 n3" in job.output()
    assert "exporter agent" not in job.output()
    kept = [path for path in (record(slurm.bed, job) / "logs").rglob("*") if path.is_file()]
    assert {path.name for path in kept} >= {"gcs_server.out", "raylet.out"}
    assert [path for path in kept if "exporter agent" in path.read_text(errors="replace")] == []
    slurm.assert_nothing_left()
