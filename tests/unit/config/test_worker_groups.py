"""Tables [workers.NAME] of a configuration file, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.config.worker_groups import read_worker_groups
from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.worker_group import WorkerGroup


def groups(tmp_path: Path, text: str) -> tuple[WorkerGroup, ...]:
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    return read_worker_groups(path)


def test_every_key(tmp_path: Path) -> None:
    found = groups(
        tmp_path,
        """
        [workers.gpu]
        sbatch = "-p gpu --gpus-per-node 4 --comment='two words'"
        min = 1
        max = 8
        idle_timeout = "10m"
        drain_before = "5m"
        nodes_per_job = 2
        resources = { CPU = 64, GPU = 4, memory = "200G", licence = 1 }
        labels = { zone = "a" }

        [workers.cpu]
        sbatch = ["--partition=cpu", "-c", "16", "--exclusive"]
        max = 32
        idle_timeout = 90
        drain_before = 0
        """,
    )
    assert found == (
        WorkerGroup(
            "gpu",
            8,
            min_workers=1,
            sbatch=("--partition=gpu", "--gpus-per-node=4", "--comment=two words"),
            idle_timeout_s=600.0,
            drain_before_s=300.0,
            nodes_per_job=2,
            resources={"CPU": 64.0, "GPU": 4.0, "memory": 200.0 * 1024**3, "licence": 1.0},
            labels={"zone": "a"},
        ),
        WorkerGroup(
            "cpu",
            32,
            sbatch=("--partition=cpu", "--cpus-per-task=16", "--exclusive"),
            idle_timeout_s=90.0,
            drain_before_s=0.0,
        ),
    )


def test_a_file_for_other_things(tmp_path: Path) -> None:
    assert groups(tmp_path, "[profiles.debug]\ntimeout = 60\n") == ()


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("workers = 3", "must hold one table for each worker group", "[workers.gpu]"),
        ("[workers]\nmax = 3", "must hold one table for each worker group", "[workers.gpu]"),
        ("[workers.gpu]\nmax = 2\nsbatsh = ''", "[workers.gpu]: there is no key 'sbatsh'", "mean sbatch?"),
        ("[workers.gpu]\nmin_workers = 2", "there is no key 'min_workers'", "Did you mean min?"),
        ("[workers.gpu]\nmax = 2\nfoo = 1", "there is no key 'foo'", "The keys are sbatch, min, max"),
        ("[workers.gpu]\nmin = 2", "max is missing", "max = 8"),
        ("[workers.gpu]\nmax = '2'", "max is '2'; it must be a whole number", ""),
        ("[workers.gpu]\nmax = true", "max is True; it must be a whole number", ""),
        ("[workers.gpu]\nmax = 2\nmin = 3", "min is 3 and max is 2", "min <= max"),
        ("[workers.gpu]\nmax = 2\nnodes_per_job = 0", "nodes_per_job is 0", ""),
        ("[workers.gpu]\nmax = 2\nnodes_per_job = 4", "max is 2, and one job has 4 nodes", "multiple"),
        ("[workers.head]\nmax = 2", "'head' cannot be the name", "and not 'head'"),
        ("[workers.'a b']\nmax = 2", "'a b' cannot be the name", "lower-case"),
        ("[workers.gpu]\nmax = 2\nidle_timeout = 'soon'", "idle_timeout is 'soon'", ""),
        ("[workers.gpu]\nmax = 2\nidle_timeout = -1", "idle_timeout is -1", ""),
        ("[workers.gpu]\nmax = 2\nsbatch = 3", "sbatch is 3; it must be a text or a list", "sbatch ="),
        ("[workers.gpu]\nmax = 2\nsbatch = '-N 4'", "--nodes cannot be given", "nodes_per_job"),
        ("[workers.gpu]\nmax = 2\nsbatch = ['-a', '1-4']", "--array cannot be given", "Use max"),
        ("[workers.gpu]\nmax = 2\nsbatch = 'gpu'", "sbatch: 'gpu' belongs to no option", "--name=value"),
        ("[workers.gpu]\nmax = 2\nsbatch = '-Y 4'", "sbatch: '-Y' is no option of sbatch", "--help"),
        ('[workers.gpu]\nmax = 2\nsbatch = "-p \'gpu"', "cannot be read", ""),
        ("[workers.gpu]\nmax = 2\nresources = { GPU = 1.5 }", "resources.GPU is 1.5", ""),
        ("[workers.gpu]\nmax = 2\nresources = { slots = 1.5 }", "found slots=1.5, needed a whole", ""),
        ("[workers.gpu]\nmax = 2\nresources = { memory = 'much' }", "memory is 'much'", ""),
        ("[workers.gpu]\nmax = 2\nlabels = { zone = 1 }", "it must be a table of texts", "zone"),
        ("[workers.gpu]\nmax = 2\nlabels = { 'a b' = 'c' }", "found the key 'a b'", ""),
    ],
)
def test_what_is_wrong(tmp_path: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        groups(tmp_path, text)
    assert message in caught.value.message
    assert str(tmp_path / "cluster.toml") in caught.value.message
    assert hint in caught.value.hint


def test_the_example_can_be_used() -> None:
    example = Path(__file__).parents[3] / "examples" / "cluster.toml"
    assert [group.name for group in read_worker_groups(example)] == ["gpu", "cpu", "block"]
