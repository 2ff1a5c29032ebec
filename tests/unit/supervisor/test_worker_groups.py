"""The worker groups of a head, from its options and the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.settings import Settings
from raycluster_cli.model.worker_group import WorkerGroup
from raycluster_cli.supervisor.worker_groups import groups_of, options_for_workers

JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_PARTITION": "gpu"}


def found(own_nodes: int = 1, **options: Any) -> tuple[WorkerGroup, ...]:
    return groups_of(Settings(**options), own_nodes, JOB)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "cluster.toml"
    path.write_text('[workers.gpu]\nsbatch = "--gres=gpu:1"\nmax = 3\n')
    return str(path)


def test_the_group_of_max_nodes() -> None:
    group = WorkerGroup("worker", 3, sbatch=("--partition=gpu",), idle_timeout_s=300.0)
    assert found(max_nodes=4) == (group,)
    assert found(2, max_nodes=4)[0].max_workers == 2
    assert found(4, max_nodes=4) == ()


def test_its_options() -> None:
    options = found(max_nodes=2, worker_sbatch="-t 60 --comment='a b'", worker_idle_timeout="1m")
    assert options == (WorkerGroup("worker", 1, sbatch=("--time=60", "--comment=a b"), idle_timeout_s=60.0),)


def test_the_groups_of_a_file(file: str) -> None:
    assert [group.name for group in found(config=file)] == ["gpu"]
    assert [group.name for group in found(config=file, max_nodes=2)] == ["worker", "gpu"]


@pytest.mark.parametrize(
    ("options", "own_nodes", "message"),
    [
        ({"max_nodes": 2}, 3, "--max-nodes is 2, but the job itself has 3 nodes"),
        ({"max_nodes": 2, "worker_sbatch": "gpu"}, 1, "'gpu' belongs to no option of sbatch"),
        ({"max_nodes": 2, "worker_sbatch": "-N 2"}, 1, "--worker-sbatch: --nodes cannot be given"),
        ({"config": "/no/such/file.toml"}, 1, "cannot read the configuration file /no/such/file.toml"),
    ],
)
def test_what_is_wrong(options: dict[str, Any], own_nodes: int, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        found(own_nodes, **options)
    assert message in caught.value.message


def test_two_groups_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text("[workers.worker]\nmax = 3\n")
    with pytest.raises(UsageError, match="--max-nodes makes one of that name"):
        found(config=str(path), max_nodes=2)


def test_only_in_a_job() -> None:
    with pytest.raises(UsageError, match="need a Slurm job"):
        groups_of(Settings(max_nodes=2), 1, {})


def test_not_on_one_machine() -> None:
    with pytest.raises(UsageError, match="--local starts all nodes on this machine"):
        Settings(local=2, max_nodes=4)
    with pytest.raises(UsageError, match="--max-nodes is 0; it must be 1 or more"):
        Settings(max_nodes=0)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, []),
        ({"temp_dir": "/local", "network": "10.1.0.0/16"}, ["--network=10.1.0.0/16", "--temp-dir=/local"]),
        ({"log_monitor": False, "keep_logs": "always"}, ["--no-log-monitor", "--keep-logs=always"]),
        # what the head's own node has, and what only a head takes
        ({"num_cpus": 2, "labels": "a=b", "resources": "x=1", "stop_before": 60.0, "max_nodes": 4}, []),
        ({"state_dir": "/shared", "name": "two", "timeout": 60.0}, []),
    ],
)
def test_what_workers_take_over(settings: dict[str, Any], options: list[str]) -> None:
    assert options_for_workers(Settings(**settings)) == options
