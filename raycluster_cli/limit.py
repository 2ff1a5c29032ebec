"""A job's time limit, its output, and its way back into the queue: the few calls of scontrol, one a job."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time
from collections.abc import Mapping

from .errors import RayclusterError
from .process import Reaper, describe_code

#: How long scontrol may take; slurmctld can be busy, and the cluster works without the answer.
SCONTROL_TIMEOUT_S = 30.0


def parse_end_time(text: str) -> float | None:
    """Unix seconds of the job's end, from `scontrol show job`; None when it has no limit.

    Seconds where SLURM_TIME_FORMAT=%s is understood (as :func:`job_end_time` asks), else local time.

    >>> parse_end_time("JobId=7 RunTime=00:00:03 EndTime=1795408208 Deadline=N/A")
    1795408208.0
    >>> parse_end_time("JobId=7 EndTime=Unknown") is None
    True
    """
    match = re.search(r"\bEndTime=(\S+)", text)
    if match is None:
        return None
    value = match[1]
    if value.isdigit():
        return float(value)
    try:
        return time.mktime(time.strptime(value, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


async def job_end_time(job_id: str, env: Mapping[str, str], reaper: Reaper) -> float | None:
    """When Slurm will end the job, in Unix seconds; None when it does not say.

    For Slurm before 23.02, which does not set SLURM_JOB_END_TIME, and for limits that were changed
    since the job's start.
    """
    try:
        code, text = await _scontrol(["show", "job", "--oneliner", job_id], env, reaper)
    except RayclusterError:
        return None
    return parse_end_time(text) if code == 0 else None


async def job_output(job_id: str, env: Mapping[str, str], reaper: Reaper) -> str:
    """The file that the batch script's output goes to; empty when Slurm does not say."""
    try:
        code, text = await _scontrol(["show", "job", job_id], env, reaper)
    except RayclusterError:
        return ""
    match = re.search(r"^\s*StdOut=(/.*)$", text, re.MULTILINE) if code == 0 else None
    return match[1].strip() if match else ""


async def requeue(job_id: str, env: Mapping[str, str], reaper: Reaper) -> None:
    """Put the job back into the queue, under its id.  Raises RayclusterError.

    Slurm ends what still runs of it, so this comes last.
    """
    code, text = await _scontrol(["requeue", job_id], env, reaper)
    if code != 0:
        said = text.strip().splitlines()
        raise RayclusterError(
            f"`scontrol requeue {job_id}` {describe_code(code)}{': ' + said[-1] if said else ''}.",
            "Only batch jobs can be requeued, and only where the site allows it (--requeue).",
        )


async def _scontrol(arguments: list[str], env: Mapping[str, str], reaper: Reaper) -> tuple[int, str]:
    """Exit code and output of `scontrol`; RayclusterError when it is not there or does not answer."""
    program = shutil.which("scontrol", path=env.get("PATH"))
    if program is None:
        raise RayclusterError("scontrol was not found in PATH (in a container it is often missing).")
    child = reaper.spawn(
        [program, *arguments],
        "scontrol",
        env={**env, "SLURM_TIME_FORMAT": "%s"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert child.stdout is not None
    with child.stdout as output:
        reading = asyncio.get_running_loop().run_in_executor(None, output.read)
        try:
            text = await asyncio.wait_for(asyncio.shield(reading), SCONTROL_TIMEOUT_S)
        except asyncio.TimeoutError:
            text = b""
        finally:
            code = await child.stop(SCONTROL_TIMEOUT_S if reading.done() else 0.0, ask=0)
            await reading
    if code is None or not reading.done():
        raise RayclusterError(f"scontrol did not answer within {SCONTROL_TIMEOUT_S:g} s.")
    return code, text.decode("utf-8", "replace")
