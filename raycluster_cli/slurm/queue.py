"""The queue: this user's jobs, by one squeue with a deadline, and scancel.  Needs no accounting.

squeue shows jobs that have ended for some minutes more (MinJobAge).  After that, a Slurm without accounting
knows nothing of them; only the cluster's record tells how they ended.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence

from ..model.errors import RayclusterError
from ..model.value import Value
from ..system.programs import find_program
from .answer import Run, answer_of

#: How long squeue and scancel may take; a busy controller answers late.
SQUEUE_TIMEOUT_S = 8.0

#: Job id, id as shown to users (100_3), state, end, start, reason, nodes, and last the name, which may
#: contain '|'.
_FORMAT = "%A|%i|%T|%e|%S|%r|%N|%j"

#: States of jobs that have ended (squeue(1), JOB STATE CODES).
ENDED = frozenset(
    (
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
    )
)
WAITING = frozenset(["PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING"])

#: Variables that configure Slurm's commands and do not describe the job in which they are set.
_NOT_OF_A_JOB = (
    "SLURM_CONF",
    "SLURM_CLUSTERS",
    "SLURM_EXIT_ERROR",
    "SLURM_EXIT_IMMEDIATE",
    "SLURM_TIME_FORMAT",
)

#: The devices that Slurm gave to this job; another job or step gets its own, or none.
_DEVICES = (
    *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
    "ZE_AFFINITY_MASK",
)


def outside_job(env: Mapping[str, str]) -> dict[str, str]:
    """The environment for a new job or step, without the variables of the job that this process is in.

    sbatch and srun pass their environment on: a job submitted from a task would see that task's rank, step,
    CPUs per task and devices (seen in Slurm 22.05), and srun takes SLURM_* variables as options.
    """
    if not any(env.get(name) for name in ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_STEP_ID", "SLURM_PROCID")):
        return dict(env)
    return {
        name: value
        for name, value in env.items()
        if name in _NOT_OF_A_JOB
        or not (name.startswith(("SLURM_", "SLURMD_", "SRUN_", "PMI_", "PMIX_", "PMI2_")) or name in _DEVICES)
    }


class Job(Value):
    """A job as squeue shows it."""

    id: str
    shown_id: str
    """The id as shown to users: for a task of a job array ARRAY_TASK, such as 100_3."""
    state: str
    """As squeue prints it: PENDING, RUNNING, COMPLETING, CANCELLED …"""
    end_time: float | None = None
    """When the time limit ends the job, in Unix seconds; None without a limit, or when not yet known."""
    start_time: float | None = None
    """Unix seconds; for a pending job when Slurm expects to start it; None when unknown."""
    reason: str = ""
    nodes: str = ""
    """As a hostlist."""
    name: str = ""

    @property
    def own_id(self) -> str:
        """The id that means this job and no other, for scancel.

        The last task of an array has the array's id, which means all of its tasks.  scancel refuses the steps
        that squeue shows (seen with 22.05).

        >>> Job("100", "100_2", "RUNNING").own_id, Job("100", "100_[3-9%2]", "PENDING").own_id
        ('100_2', '100_[3-9]')
        >>> Job("100", "100_[1-7:2,10]", "PENDING").own_id, Job("7", "7+0", "RUNNING").own_id
        ('100_[1,3,5,7,10]', '7')
        """
        of_array = re.fullmatch(r"(\d+_(?:\d+|\[[\d,:-]+))(?:%\d+)?(\]?)", self.shown_id)
        return re.sub(r"(\d+)-(\d+):(\d+)", _each, "".join(of_array.groups())) if of_array else self.id

    @property
    def is_ended(self) -> bool:
        return self.state in ENDED

    @property
    def is_suspended(self) -> bool:
        """Whether its processes are stopped: by `scontrol suspend`, or by `scancel --signal=STOP`."""
        return self.state in ("SUSPENDED", "STOPPED")

    @property
    def is_waiting(self) -> bool:
        return self.state in WAITING


def _each(steps: re.Match[str]) -> str:
    """Each task of a range with steps."""
    first, last, step = map(int, steps.groups())
    return ",".join(map(str, range(first, last + 1, max(step, 1))))


def parse_squeue(text: str) -> list[Job]:
    """The jobs in squeue's output (in the format that :func:`query_jobs` asks for).

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
    """A time as squeue prints it, Unix seconds (SLURM_TIME_FORMAT=%s) or ISO in local time; else None.

    >>> parse_time("1700000000"), parse_time("N/A")
    (1700000000.0, None)
    """
    if re.fullmatch(r"\d{6,}", text):
        return float(text)
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def query_jobs(
    env: Mapping[str, str], *, uid: int | None = None, run: Run = subprocess.run
) -> dict[str, Job] | None:
    """A user's jobs by id, this user's without ``uid``.

    None when squeue is missing, fails or takes longer than SQUEUE_TIMEOUT_S.  Blocks meanwhile: not for an
    event loop.
    """
    command = [
        *("squeue", "--noheader", "--states=all"),
        f"--user={os.getuid() if uid is None else uid}",
        f"--format={_FORMAT}",
    ]
    # Without a length the tasks of an array that wait are cut off after 64 characters.
    plain = {**plain_environment(env), "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
    done = answer_of(command, plain, timeout_s=SQUEUE_TIMEOUT_S, run=run)
    if done is None or done.returncode != 0:
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
    """Cancel a job, or one step of it, with scancel.  Raises RayclusterError with scancel's own message."""
    what = f"{job_id}.{step}" if step else job_id
    program = find_program("scancel", env)
    if program is None:
        raise RayclusterError(
            f"job {what} cannot be cancelled here: scancel was not found in PATH.",
            "Try again on a host that has Slurm's commands.",
        )
    try:
        done = run(
            [program, *extra, what],
            env=plain_environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SQUEUE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RayclusterError(f"`scancel {what}` did not answer: {error}.") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        why = lines[-1] if lines else f"it ended with code {done.returncode}"
        raise RayclusterError(f"`scancel {what}` failed: {why}.")


def plain_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without the user's defaults for squeue, sinfo and scancel."""
    defaults = ("SQUEUE_", "SINFO_", "SCANCEL_")
    return {name: value for name, value in env.items() if not name.startswith(defaults)}
