"""Which commands start a companion before anything else."""

from __future__ import annotations

import pytest

from raycluster_cli.rayproc import warm


@pytest.mark.parametrize(
    ("arguments", "env", "worth"),
    [
        (["run", "--", "python", "train.py"], {}, True),
        (["run", "--", "python", "train.py", "--help"], {}, True),
        (["run", "--local", "2", "--", "x"], {}, True),
        (["head"], {"SLURM_LOCALID": "0"}, True),
        (["worker", "--help"], {}, False),
        (["run", "-h"], {}, False),
        (["run", "--", "x"], {"SLURM_LOCALID": "1", "SLURM_PROCID": "1"}, False),
        (["run", "--", "x"], {"SLURM_LOCALID": "0", "SLURM_PROCID": "0"}, True),
        # A worker probably starts by the head's template.
        (["run", "--", "x"], {"SLURM_LOCALID": "0", "SLURM_PROCID": "1"}, False),
        (["worker"], {}, False),
        (["worker", "--quick=node"], {}, True),
        (["run", "--", "x"], {"SLURM_PROCID": "1", "SLURM_GPUS_ON_NODE": "4"}, False),
        (["worker"], {"SLURM_STEP_GPUS": "0"}, False),
        (["worker", "--quick=auto"], {"RAYCLUSTER_QUICK": "ray-start"}, False),
        (["worker", "--quick", "auto", "--verbose"], {}, False),
        (["worker", "--quick"], {}, False),
        (["worker", "--quick", "ray-start"], {"SLURM_LOCALID": "1"}, False),
        (["worker"], {"RAYCLUSTER_QUICK": "ray-start"}, True),
        (["status"], {}, False),
        ([], {}, False),
    ],
)
def test_only_a_command_that_starts_a_node_gets_one(
    arguments: list[str], env: dict[str, str], worth: bool
) -> None:
    assert warm.worth_it(arguments, env) is worth
