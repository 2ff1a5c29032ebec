"""The batch scripts that test_main_job does not run: GPUs, containers, requeue."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from raycluster_cli.model.status import IMPORTED
from tests.bed.bed import REPOSITORY
from tests.bed.spec import LOGIN
from tests.slurm.batches import NODES, read, record, submit
from tests.slurm.jobs import Job, JobEnd, Slurm

SCRIPTS = sorted(path.name for path in (REPOSITORY / "slurm").glob("*.sbatch"))

# What a container changes for raycluster: another hostname, and no Slurm commands.
APPTAINER = """#!/bin/bash
[[ $1 == exec && $2 == ray.sif ]] || { echo "unexpected: $*"; exit 9; }
shift 2
exec unshare --mount --uts bash -c '
    hostname box
    for command in scontrol squeue; do mount -n --bind /bin/false /usr/bin/$command; done
    exec "$@"
' -- "$@"
"""


@pytest.mark.versions
def test_gpus_are_those_of_the_job(strict_slurm: Slurm) -> None:
    job = submit(strict_slurm, "gpu.sbatch", options=("--nodelist=n2,n3",), user="alice")
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    assert "4 GPUs: n2 GPU 0, n2 GPU 1, n3 GPU 0, n3 GPU 1" in job.output()
    worker = read(record(strict_slurm.bed, job) / "nodes/n3.json") or {}
    # The head's template describes the worker's GPUs: Ray is imported for the log monitor, not to join.
    assert worker["phases"].get(IMPORTED, math.inf) > worker["phases"]["joined"]
    strict_slurm.assert_nothing_left()


@pytest.fixture
def in_container(slurm: Slurm) -> Callable[..., Job]:
    """Submits container.sbatch with a driver; its apptainer is APPTAINER."""
    binaries = slurm.bed.path(LOGIN, "/home/admin") / "apptainer-test"
    binaries.mkdir(exist_ok=True)
    (binaries / "apptainer").write_text(APPTAINER)
    (binaries / "apptainer").chmod(0o755)
    path = slurm.run(LOGIN, ["printenv", "PATH"], check=True).stdout.strip()
    options = (f"--export=ALL,IMAGE=ray.sif,PATH=/home/admin/apptainer-test:{path}",)

    def submit_driver(*driver: str) -> Job:
        return submit(slurm, "container.sbatch", *driver, options=options)

    return submit_driver


def test_in_a_container_with_another_hostname_and_without_slurm(
    slurm: Slurm, in_container: Callable[..., Job]
) -> None:
    job = in_container(*NODES, "7", "--tasks")
    assert job.wait() == JobEnd("FAILED", 7, 0), job.output()
    assert "NODES n1 n2 n3" in job.output()
    slurm.assert_nothing_left()


def test_exec_goes_into_the_container(slurm: Slurm, in_container: Callable[..., Job]) -> None:
    job = in_container("python", "-c", "import time; print('HOLDING', flush=True); time.sleep(600)")
    job.wait_for("HOLDING")
    ask = "hostname; python -c 'import ray; ray.init(log_to_driver=False); print(len(ray.nodes()))'; exit 6"
    done = slurm.run(LOGIN, ["raycluster", "exec", job.id, "--node", "n3", "--", "bash", "-c", ask])
    assert (done.returncode, done.stdout) == (6, "box\n3\n"), done.stderr
    shell = slurm.run(LOGIN, ["raycluster", "attach", job.id], stdin="hostname; exit 4\n")
    assert (shell.returncode, shell.stdout) == (4, "box\n"), shell.stderr
    job.cancel()
    job.wait()
    slurm.assert_nothing_left()


def test_a_container_script_without_image_says_so(slurm: Slurm) -> None:
    job = submit(slurm, "container.sbatch", *NODES, "0")
    assert job.wait().state == "FAILED"
    assert "IMAGE: set it to the image" in job.output()


@pytest.mark.versions
def test_the_requeue_script_passes_the_code_on(slurm: Slurm) -> None:
    job = submit(slurm, "requeue.sbatch", *NODES, "5", user="bob")
    assert job.wait() == JobEnd("FAILED", 5, 0), job.output()
    assert "NODES n1 n2 n3" in job.output()
    assert job.show()[0]["Requeue"] == "1"
    slurm.assert_nothing_left()


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_line_that_does_something_is_explained(script: str) -> None:
    """Comments outnumber commands: the scripts are there to be read and copied."""
    lines = (REPOSITORY / "slurm" / script).read_text().splitlines()
    comments = [line for line in lines if line.startswith("#") and not line.startswith(("#!", "#SBATCH"))]
    commands = [line for line in lines if line.strip() and not line.startswith("#")]
    assert len(comments) > len(commands)
