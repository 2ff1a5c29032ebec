"""Which Slurm cluster a process runs in."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.slurm.cluster_name import slurm_cluster_name


@pytest.mark.parametrize(
    ("variable", "conf", "name"),
    [
        ("tux", "ClusterName=other", "tux"),
        ("", "SlurmctldHost=login\nClusterName=Tux # ours\n", "tux"),
        ("", "  clustername = tux\n", "tux"),
        ("", "#ClusterName=old\nPrologFlags=Contain\n", "local"),
        ("", None, "local"),
    ],
)
def test_the_variable_then_slurm_conf(tmp_path: Path, variable: str, conf: str | None, name: str) -> None:
    path = tmp_path / "slurm.conf"
    if conf is not None:
        path.write_text(conf)
    job = Allocation("7", ("n1",), cluster_name=variable)
    assert slurm_cluster_name(job, {"SLURM_CONF": str(path)}) == name


def test_outside_of_a_job_slurm_conf_is_not_asked(tmp_path: Path) -> None:
    path = tmp_path / "slurm.conf"
    path.write_text("ClusterName=tux\n")
    assert slurm_cluster_name(None, {"SLURM_CONF": str(path)}) == "local"
