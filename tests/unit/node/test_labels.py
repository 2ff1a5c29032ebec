"""Slurm's facts as labels for Ray."""

from __future__ import annotations

from typing import Any

import pytest

from raycluster_cli.node.labels import slurm_labels
from raycluster_cli.slurm.allocation import Allocation

from ..slurm.test_allocation import environment


@pytest.mark.parametrize(
    ("name", "changes", "labels"),
    [
        ("22.05/three-nodes.task1", {}, {"slurm/node": "n2", "slurm/partition": "main"}),
        ("22.05/salloc.shell", {}, {"slurm/partition": "main"}),
        (
            "22.05/het.task1",
            {},
            {"slurm/node": "n2", "slurm/partition": "main", "slurm/het-component": "1"},
        ),
        (
            "25.05/three-nodes.task1",
            {},
            {
                "slurm/node": "n2",
                "slurm/partition": "main",
                "slurm/topology": "core1.leaf_3-4_.n2",
                "slurm/switch": "leaf_3-4",
            },
        ),
        (
            "25.05/workers-step.task0",
            {},
            {"slurm/node": "n2", "slurm/partition": "main", "slurm/topology": "b7.n2", "slurm/block": "b7"},
        ),
        (
            # a node's name with dots, and an address that does not fit its pattern
            "25.05/workers-step.task0",
            {"SLURM_TOPOLOGY_ADDR": "b7", "SLURMD_NODENAME": "n2", "SLURM_JOB_PARTITION": "_" * 3},
            {"slurm/node": "n2", "slurm/topology": "b7"},
        ),
    ],
)
def test_labels(name: str, changes: dict[str, Any], labels: dict[str, str]) -> None:
    assert dict(slurm_labels(Allocation.from_environ({**environment(name), **changes}))) == labels


def test_no_labels_outside_of_slurm() -> None:
    assert slurm_labels(None) == ()
