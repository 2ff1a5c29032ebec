"""What Slurm says of a user's jobs: one squeue, with a time-out; works without accounting.

squeue shows jobs that have ended for some minutes more (MinJobAge); after that Slurm, without
accounting, knows nothing of them, and the record alone tells how they ended.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..model.errors import RayclusterError

#: How long squeue and scancel may take: a controller under load answers late, a dead one never.
SQUEUE_TIMEOUT_S = 8.0

#: Job id, id as people see it (100_3), state, end, start, reason, nodes, name (last: it may hold anything).
_FORMAT = "%A|%i|%T|%e|%S|%r|%N|%j"

#: States in which a job holds no nodes and never will again (squeue(1), JOB STATE CODES).
ENDED = frozenset(
    (
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
    )
)
WAITING = frozenset(["PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING"])

Run = Callable[..., "subprocess.CompletedProcess[str]"]
"""As subprocess.run."""

#: What a job's own variables leave alone when Slurm's commands are called from inside a job.
_NOT_OF_A_JOB = (
    "SLURM_CONF",
    "SLURM_CLUSTERS",
    "SLURM_EXIT_ERROR",
    "SLURM_EXIT_IMMEDIATE",
    "SLURM_TIME_FORMAT",
)

#: Devices that Slurm gave to this job; another job or step gets its own, or none.
_DEVICES = (
    *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
    "ZE_AFFINITY_MASK",
)


def outside_job(env: Mapping[str, str]) -> dict[str, str]:
    """The environment for a new job or step, without what this process has from its own.

    sbatch and srun hand on what they find: a job that is submitted from a task would see that task's
    rank and step, CPUs per task, devices (seen in Slurm 22.05), and srun takes SLURM_* for options.
    """
    if not any(env.get(name) for name in ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_STEP_ID", "SLURM_PROCID")):
        return dict(env)
    return {
        name: value
        for name, value in env.items()
        if name in _NOT_OF_A_JOB
        or not (name.startswith(("SLURM_", "SLURMD_", "SRUN_", "PMI_", "PMIX_", "PMI2_")) or name in _DEVICES)
    }


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it."""

    id: str
    shown_id: str
    """Of an array's task ARRAY_TASK, else the id."""
    state: str
    """In Slurm's word: PENDING, RUNNING, COMPLETING, CANCELLED …"""
    end_time: float | None = None
    """Unix seconds of the time limit; None when there is none, or not yet."""
    start_time: float | None = None
    """Unix seconds; of a waiting job when Slurm expects it to start, where it does."""
    reason: str = ""
    nodes: str = ""
    """As a hostlist."""
    name: str = ""

    @property
    def is_ended(self) -> bool:
        return self.state in ENDED

    @property
    def is_suspended(self) -> bool:
        return self.state == "SUSPENDED"

    @property
    def is_waiting(self) -> bool:
        return self.state in WAITING


def parse_squeue(text: str) -> list[Job]:
    """The lines of squeue in our format.

    >>> parse_squeue("7|7|RUNNING|1700000000|1690000000|None|n[1-3]|train")[0].end_time
    1700000000.0
    """
    jobs = []
    for line in text.splitlines():
        parts = line.split("|", 7)
        if len(parts) == 8:
            number, shown, state, end, start, reason, nodes, name = (part.strip() for part in parts)
            why = "" if reason == "None" else reason
            jobs.append(Job(number, shown, state, parse_time(end), parse_time(start), why, nodes, name))
    return jobs


def parse_time(text: str) -> float | None:
    """A time as squeue writes it: Unix seconds (SLURM_TIME_FORMAT=%s) or ISO in local time; else None.

    >>> parse_time("1700000000"), parse_time("N/A")
    (1700000000.0, None)
    """
    if re.fullmatch(r"\d{6,}", text):
        return float(text)
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def query_jobs(env: Mapping[str, str], *, run: Run = subprocess.run) -> dict[str, Job] | None:
    """This user's jobs by id; None where Slurm is not there or does not answer in time."""
    program = shutil.which("squeue", path=env.get("PATH"))
    if program is None:
        return None
    argv = [program, "--noheader", "--states=all", f"--user={os.getuid()}", f"--format={_FORMAT}"]
    try:
        done = run(
            argv,
            env={**_plain(env), "SLURM_TIME_FORMAT": "%s"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SQUEUE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    return {job.id: job for job in parse_squeue(done.stdout)}


def cancel_job(
    job_id: str,
    env: Mapping[str, str],
    *,
    step: str | None = None,
    extra: Sequence[str] = (),
    run: Run = subprocess.run,
) -> None:
    """scancel a job, or one step of it.  Raises RayclusterError with scancel's own words."""
    what = f"{job_id}.{step}" if step else job_id
    program = shutil.which("scancel", path=env.get("PATH"))
    if program is None:
        raise RayclusterError(
            f"{what} cannot be cancelled from here: there is no scancel.",
            "Try again on a node that has Slurm's commands.",
        )
    try:
        done = run(
            [program, *extra, what],
            env=_plain(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SQUEUE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RayclusterError(f"scancel {what} did not answer: {error}.") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise RayclusterError(f"scancel {what} failed: {said[-1] if said else f'code {done.returncode}'}.")


def _plain(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would change squeue's answer (SQUEUE_*, SCANCEL_*)."""
    return {name: value for name, value in env.items() if not name.startswith(("SQUEUE_", "SCANCEL_"))}
