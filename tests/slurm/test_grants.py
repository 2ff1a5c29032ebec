"""What Slurm grants is what Ray gets, on hosts that enforce cores and memory; n2 and n3 have fake GPUs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.bed.bed import REPOSITORY
from tests.slurm.jobs import JobEnd, Slurm

pytestmark = [pytest.mark.versions, pytest.mark.cgroup2]

DRIVERS = REPOSITORY / "tests/slurm/drivers"
MIB = 2**20


def run(slurm: Slurm, driver: str, *options: str, srun: str = "", wants: int = 0) -> str:
    """Runs a driver under ``srun raycluster run`` in a job with ``options``; gives the output."""
    command = shlex.join(["python", str(DRIVERS / driver)])
    job = slurm.sbatch(f"exec srun {srun} raycluster run -- {command}\n", "--time=5", *options)
    end = job.wait()
    assert end == JobEnd("COMPLETED" if wants == 0 else "FAILED", wants, 0), job.output()
    return job.output()


def words_after(word: str, output: str) -> list[str]:
    lines = [line.split()[1:] for line in output.splitlines() if line.startswith(f"{word} ")]
    assert len(lines) == 1, output
    return lines[0]


FACTS = ("python", str(DRIVERS / "facts.py"))


def facts(slurm: Slurm, *srun: str) -> list[dict[str, Any]]:
    """What the tasks of an srun find on their nodes."""
    done = slurm.srun(*srun, *FACTS)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_one_cpu_and_3000_mib_can_be_used_up(strict_slurm: Slurm) -> None:
    output = run(strict_slurm, "fill.py", "--nodes=1", "--ntasks=1", "-c1", "--mem=3000", srun="-c1")
    cpus, gpus, memory, store = map(int, words_after("TOLD", output))
    assert (cpus, gpus) == (1, 0)
    assert store == 900
    assert memory + store <= 3000
    assert int(words_after("TASK", output)[0]) == int(words_after("DRIVER", output)[0]) == memory
    assert int(words_after("FILLED", output)[0]) > store
    strict_slurm.assert_nothing_left()


def test_two_gpus_and_a_task_that_sees_one(strict_slurm: Slurm) -> None:
    output = run(
        strict_slurm, "devices.py", "--nodes=1", "--ntasks=1", "-c1", "--mem=3000", "--gres=gpu:2", srun="-c1"
    )
    assert words_after("GPUS", output) == ["2"]
    assert words_after("ONE", output)[0] in ("0", "1")
    labels = words_after("LABELS", output)
    assert "slurm/partition=main" in labels
    assert {"slurm/node=n2", "slurm/node=n3"} & set(labels)
    strict_slurm.assert_nothing_left()


# -- the figures, which need no Ray -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("srun", "cpus", "memory_mib", "gpus", "warning"),
    [
        (["-N1", "-n1", "-c1", "--mem=3000"], 1, 3000, 0, ""),
        (["-N1", "-n1", "-c2"], 2, 6000, 0, ""),
        (["-N1", "-n1", "-c1", "--mem=3000", "--gres=gpu:2"], 1, 3000, 2, ""),
        (["-N1", "-n1", "-c1", "--mem-per-cpu=1500"], 1, 1500, 0, ""),
        (["-N1", "-n1", "-c2", "--mem-per-cpu=1500"], 2, 3000, 0, ""),
        (["-N1", "--ntasks-per-node=2", "-c1"], 1, 6000, 0, "add --ntasks-per-node=1 -c 2 to srun"),
        (
            ["-N1", "--ntasks-per-node=2", "-c1", "--gpus-per-task=1"],
            1,
            6000,
            1,
            "Add --gpu-bind=none to srun",
        ),
    ],
)
def test_figures_of_a_step(
    strict_slurm: Slurm, srun: list[str], cpus: int, memory_mib: int, gpus: int, warning: str
) -> None:
    for host in facts(strict_slurm, *srun):
        assert host["cpus"]["value"] == cpus
        assert host["cpus"]["ray_would_assume"] >= 2
        assert host["memory_bytes"]["value"] == memory_mib * MIB
        assert host["memory_bytes"]["ray_would_assume"] > 6000 * MIB
        assert "cgroup" in host["memory_bytes"]["source"]
        assert host["gpus"]["value"] == gpus
        assert warning in " ".join(host["warnings"])


STEPS = f"""
{shlex.join(FACTS)} > batch.json
srun --nodes=1 --ntasks=1 -c1 {shlex.join(FACTS)} > narrow.json
srun --nodes=1 --ntasks=1 -c2 --gres=none {shlex.join(FACTS)} > nogpu.json
srun --overlap --nodes=1 --ntasks=1 -c2 --mem=1500 {shlex.join(FACTS)} > small.json
"""


def test_steps_that_are_smaller_than_their_job(strict_slurm: Slurm) -> None:
    job = strict_slurm.sbatch(
        STEPS, "--nodes=1", "--ntasks=1", "-c2", "--mem=3500", "--gres=gpu:2", "--chdir=/home/admin"
    )
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    home = Path(strict_slurm.bed.path("login", "/home/admin"))
    names = ("batch", "narrow", "nogpu", "small")
    hosts = {name: json.loads((home / f"{name}.json").read_text()) for name in names}
    figures = {
        name: (host["cpus"]["value"], host["memory_bytes"]["value"] // MIB, host["gpus"]["value"])
        for name, host in hosts.items()
    }
    assert figures == {
        "batch": (2, 3500, 2),
        "narrow": (1, 3500, 2),
        "nogpu": (2, 3500, 0),
        "small": (2, 1500, 2),
    }
    assert "add -c 2 to srun" in " ".join(hosts["narrow"]["warnings"])
    assert "add --gres=gpu:2 to srun" in " ".join(hosts["nogpu"]["warnings"])


def test_gpus_of_tasks_that_the_step_does_not_have(strict_slurm: Slurm) -> None:
    """Two tasks with a GPU each, and a step with one task on the node."""
    all_gpus = '--gpus-per-node="$SLURM_GPUS_ON_NODE" --gpu-bind=none'
    steps = (
        f"srun --ntasks=1 {shlex.join(FACTS)} > by-task.facts\n"
        f"srun --ntasks=1 {all_gpus} {shlex.join(FACTS)} > by-node.facts\n"
    )
    job = strict_slurm.sbatch(
        steps, *("--nodes=1", "--ntasks-per-node=2", "--gpus-per-task=1", "-c1", "--chdir=/home/admin")
    )
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    home = Path(strict_slurm.bed.path("login", "/home/admin"))
    hosts = {path.stem: json.loads(path.read_text()) for path in home.glob("*.facts")}
    assert {name: host["gpus"]["value"] for name, host in hosts.items()} == {"by-task": 1, "by-node": 2}
    assert "add --gpus-per-node=2 --gpu-bind=none to srun" in " ".join(hosts["by-task"]["warnings"])
    assert "add --gpus-per-node" not in " ".join(hosts["by-node"]["warnings"])


def test_each_component_of_a_heterogeneous_job_gets_its_own(strict_slurm: Slurm) -> None:
    """A CPU head and GPU workers: the plain SLURM_MEM_PER_NODE is the first component's on all nodes."""
    job = strict_slurm.sbatch(
        "#!/bin/bash\n"
        "#SBATCH --nodes=1 --nodelist=n1 --ntasks=1 -c1 --mem=1000\n"
        "#SBATCH hetjob\n"
        "#SBATCH --nodes=2 --ntasks=2 -c2 --mem=2000 --gres=gpu:1\n"
        f"cd /home/admin\nsrun --het-group=0,1 --output=%N.json {shlex.join(FACTS)}\n"
    )
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    home = Path(strict_slurm.bed.path("login", "/home/admin"))
    figures = {}
    for name in ("n1", "n2", "n3"):
        host = json.loads((home / f"{name}.json").read_text())
        figures[name] = (host["cpus"]["value"], host["memory_bytes"]["value"] // MIB, host["gpus"]["value"])
    assert figures == {"n1": (1, 1000, 0), "n2": (2, 2000, 1), "n3": (2, 2000, 1)}
