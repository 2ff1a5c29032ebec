"""What a running job asks of Slurm for itself: its time limit, its output file, its requeue.

A few calls in a job's life, and none of them once for each node.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..model.errors import RayclusterError
from ..system.process import Reaper, describe_code
from .command import run_command
from .queue import parse_time


def parse_end_time(text: str) -> float | None:
    """Unix seconds of the job's end, from `scontrol show job`; None when it has no limit.

    Reads Unix seconds (SLURM_TIME_FORMAT=%s, as :func:`job_end_time` asks) and ISO in local time.

    >>> parse_end_time("JobId=7 RunTime=00:00:03 EndTime=1795408208 Deadline=N/A")
    1795408208.0
    >>> parse_end_time("JobId=7 EndTime=Unknown") is None
    True
    """
    match = re.search(r"\bEndTime=(\S+)", text)
    return parse_time(match[1]) if match else None


async def job_end_time(job_id: str, env: Mapping[str, str], reaper: Reaper) -> float | None:
    """When Slurm will end the job, in Unix seconds; None when Slurm does not say.

    For Slurm before 23.02, which does not set SLURM_JOB_END_TIME, and for limits that were changed
    after the job's start.
    """
    try:
        code, text = await run_command(["scontrol", "show", "job", "--oneliner", job_id], env, reaper)
    except RayclusterError:
        return None
    return parse_end_time(text) if code == 0 else None


async def job_output(job_id: str, env: Mapping[str, str], reaper: Reaper) -> str:
    """The output file of the batch script, as an absolute path; empty when Slurm does not say."""
    try:
        code, text = await run_command(["scontrol", "show", "job", job_id], env, reaper)
    except RayclusterError:
        return ""
    match = re.search(r"^\s*StdOut=(/.*)$", text, re.MULTILINE) if code == 0 else None
    return match[1].strip() if match else ""


async def requeue(job_id: str, env: Mapping[str, str], reaper: Reaper) -> None:
    """Put the job back into the queue, under the same id.  Raises RayclusterError.

    Slurm ends what still runs of the job, so this has to be the last thing that the job does.
    """
    code, text = await run_command(["scontrol", "requeue", job_id], env, reaper)
    if code != 0:
        lines = text.strip().splitlines()
        raise RayclusterError(
            f"`scontrol requeue {job_id}` {describe_code(code)}{': ' + lines[-1] if lines else ''}.",
            "Only batch jobs can be requeued, and only where the site allows it (sbatch --requeue).",
        )
