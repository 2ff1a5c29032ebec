"""Heterogeneous jobs: the variables that srun takes for options are not the same in all versions of Slurm."""

from __future__ import annotations

import json

import pytest

from tests.bed.spec import LOGIN
from tests.slurm.batches import SRUN, driver
from tests.slurm.jobs import JobEnd, Slurm

pytestmark = pytest.mark.versions

SRUN_OF_ALL = SRUN.replace("srun ", "srun --het-group=0,1 ", 1)
SHAPE = "--ntasks-per-node=1 --cpus-per-task=2 --mem=3000"


def test_all_nodes_are_used_by_the_line_of_the_documentation_and_else_named(slurm: Slurm) -> None:
    """Since 24.11 SLURM_NTASKS has the first component's number, and srun applies it to each component."""
    job = slurm.sbatch(
        f"#!/bin/bash\n#SBATCH --nodes=1 {SHAPE}\n#SBATCH hetjob\n#SBATCH --nodes=2 {SHAPE}\n"
        f"{SRUN_OF_ALL} raycluster run -- {driver(0)}\n"
        "echo AGAIN\n"
        f"env -u SLURM_NTASKS -u SLURM_NPROCS {SRUN_OF_ALL} raycluster run -- {driver(7)}\n"
    )
    assert job.wait() == JobEnd("FAILED", 7, 0), job.output()
    first, second = job.output().split("AGAIN")
    assert "NODES n1 n2 n3\n" in second
    assert "the cluster does not use" not in second
    assert ("NODES n1 n2 n3\n" in first) != ("the cluster does not use n3" in first), first
    for component in (f"{job.id}+1", str(int(job.id) + 1)):  # what squeue shows, and the id that it has
        shown = slurm.run(LOGIN, ["raycluster", "status", component, "--json"], check=True).stdout
        assert json.loads(shown)["job"] == job.id
    slurm.assert_nothing_left()
