"""raycluster on a bed: the project's batch scripts as they are, drivers, and what a run printed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from tests.bed.bed import REPOSITORY, Bed
from tests.bed.spec import LOGIN, home
from tests.slurm.jobs import Job, Slurm
from tests.waiting import wait_until

NODES = ("python", str(REPOSITORY / "tests/slurm/drivers/nodes.py"))
"""A driver that prints NODES with the names of the alive nodes; its argument is its exit code."""

SRUN = "srun --ntasks-per-node=1 --cpu-bind=none --mem=0 --kill-on-bad-exit=0 --wait=0"
"""srun as the project's batch scripts call it."""


def submit(
    slurm: Slurm, script: str, *arguments: str, options: tuple[str, ...] = (), user: str = "root"
) -> Job:
    """Submits a batch script of the project from the checkout, as a person does."""
    output = f"{home(user)}/%x-%j.out"
    done = slurm.run(
        LOGIN,
        ["sbatch", "--parsable", f"--output={output}", *options, f"slurm/{script}", *arguments],
        user=user,
        wd=str(REPOSITORY),
        check=True,
    )
    job = Job(slurm.bed, done.stdout.strip().partition(";")[0], user)
    slurm.jobs.append(job)
    return job


def batch(slurm: Slurm, script: str, *options: str, nodes: int = 3, user: str = "root") -> Job:
    """Submits a script on ``nodes`` nodes of its own, all of their CPUs and memory, one task on each."""
    shape = (f"--nodes={nodes}", "--ntasks-per-node=1", "--exclusive", "--mem=0", "--time=10")
    return slurm.sbatch(script, *shape, *options, user=user)


def driver(*arguments: object) -> str:
    """The driver of :data:`NODES` with arguments, quoted for a script."""
    return shlex.join([*NODES, *map(str, arguments)])


def record(bed: Bed, job: Job, restart: int = 0, name: str = "") -> Path:
    """Where the record of a job's cluster lies."""
    key = job.id + (f".r{restart}" if restart else "") + (f"+{name}" if name else "")
    return bed.path(LOGIN, f"{home(job.user)}/.raycluster/bed/{key}")


def read(path: Path) -> dict[str, Any] | None:
    """A file of a record; None when it is not there."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    except (FileNotFoundError, ValueError):
        return None


def head_is_up(
    bed: Bed, job: Job, *, name: str = "", restart: int = 0, timeout_s: float = 60
) -> dict[str, Any]:
    """Waits until the head of a job's cluster is up, and gives what the record says of it."""
    path = record(bed, job, restart, name) / "head.json"

    def up() -> dict[str, Any] | None:
        head = read(path)
        return head if head and head["state"] == "up" else None

    return wait_until(up, timeout_s=timeout_s, what=f"the head of job {job.id}")


def line_with(text: str, output: str) -> str:
    """The one line of an output that holds ``text``."""
    lines = [line for line in output.splitlines() if text in line]
    assert len(lines) == 1, f"{len(lines)} lines with {text!r} in:\n{output}"
    return lines[0]
