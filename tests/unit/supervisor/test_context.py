"""What a node's context makes of the allocation."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.slurm.allocation import Allocation

from .scene import Scene

ENVIRONMENTS = Path(__file__).parents[2] / "data/slurm-env/22.05"


@pytest.mark.parametrize(
    ("name", "aliases"),
    [
        ("het.task0", ("9", "8+0", "8+1")),
        ("het.task1", ("9", "8+0", "8+1")),
        ("array.batch", ("6_1",)),
    ],
)
def test_the_names_by_which_people_may_call_a_cluster(
    tmp_path: Path, name: str, aliases: tuple[str, ...]
) -> None:
    lines = (ENVIRONMENTS / f"{name}.env").read_text().splitlines()
    allocation = Allocation.from_environ(dict(line.split("=", 1) for line in lines if "=" in line))
    assert allocation is not None
    found = Scene(tmp_path, allocation=allocation).parts.context.aliases
    assert found == (*aliases, allocation.job_name)
