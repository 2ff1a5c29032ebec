"""What a head says before it starts."""

from __future__ import annotations

import pytest

from raycluster_cli.supervisor.head_start import unused_nodes
from tests.unit.slurm.test_allocation import allocation


@pytest.mark.parametrize(
    ("name", "step", "told"),
    [
        (
            "24.11/het.task0",
            ("n1", "n2"),
            "does not use n3. `env -u SLURM_NTASKS -u SLURM_NPROCS srun --het",
        ),
        ("24.11/three-nodes.task0", ("n1",), "does not use n[2-3]. `srun --nodes=3 --ntasks=3"),
        ("24.11/het.task0", ("n1", "n2", "n3"), ""),
    ],
)
def test_a_step_that_is_smaller_than_its_job(name: str, step: tuple[str, ...], told: str) -> None:
    text = unused_nodes(allocation(name).but(step_nodes=step))
    assert told in text
    assert bool(text) is bool(told)
