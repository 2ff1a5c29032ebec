"""What Slurm takes away soon: nodes that it drains, jobs that it preempts with a GraceTime.

Commands and their answers; times are Unix seconds (SLURM_TIME_FORMAT=%s).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from ..model.errors import RayclusterError
from ..model.value import Value
from ..system.process import Reaper
from .command import run_command
from .job_fields import job_fields
from .queue import parse_time, plain_environment

#: How long each command may take.
ANSWER_S = 10.0

#: Columns of squeue that no value fills: it cuts what is longer.
_COLUMNS = ("JobArrayID:64", "State:32", "EndTime:32", "PreemptTime:32")


class JobTimes(Value):
    """What squeue says of a running job."""

    end: float | None = None
    """When Slurm ends it; None without a time limit."""
    preempted: bool = False
    """It is being preempted: ``end`` is when its GraceTime is over."""


def parse_drained(text: str) -> dict[str, str]:
    """Slurm's reason by node, of the nodes that get no new job: `sinfo --Node --format=%N|%T|%E`.

    A node is listed once for each of its partitions.

    >>> parse_drained("n1|mixed|none\\nn2|draining|bad disk\\nn2|draining|bad disk\\nn3|draining@|reboot")
    {'n2': 'bad disk', 'n3': 'reboot'}
    """
    lines = [line.split("|", 2) for line in text.splitlines()]
    return {
        line[0].strip(): line[2].strip()
        for line in lines
        if len(line) == 3 and line[1].strip().startswith("drain")
    }


def parse_job_times(text: str) -> dict[str, JobTimes]:
    """The jobs that run, by id as shown to users.

    >>> parse_job_times("7_3  RUNNING  1700000060  1700000000\\n8  RUNNING  N/A  N/A\\n9  PENDING  N/A  N/A")
    {'7_3': JobTimes(end=1700000060.0, preempted=True), '8': JobTimes(end=None, preempted=False)}
    """
    lines = [line.split() for line in text.splitlines()]
    return {
        line[0]: JobTimes(parse_time(line[2]), parse_time(line[3]) is not None)
        for line in lines
        if len(line) == 4 and line[1] == "RUNNING"
    }


def parse_gives_grace(config: str, partitions: str) -> bool:
    """Whether a preempted job can have a GraceTime: `scontrol show config` and `scontrol show partition`.

    That of a QOS is not among what every user may see.

    >>> parse_gives_grace("PreemptType = preempt/partition_prio", "PartitionName=a GraceTime=0 Hidden=NO")
    False
    >>> parse_gives_grace("PreemptType = preempt/partition_prio", "PartitionName=a GraceTime=60 Hidden=NO")
    True
    >>> parse_gives_grace("PreemptType = preempt/qos", "")
    True
    """
    found = re.search(r"^PreemptType\s*=\s*(\S+)", config, re.MULTILINE)
    if found is None or found[1] in ("preempt/none", "(null)"):
        return False
    return found[1] != "preempt/partition_prio" or re.search(r"\bGraceTime=0*[1-9]", partitions) is not None


def parse_grace_end(text: str) -> float | None:
    """When the GraceTime of a job that is being preempted is over: `scontrol show job`; None when it is not.

    >>> parse_grace_end("JobId=7 JobState=RUNNING EndTime=1700000060 PreemptTime=1700000000")
    1700000060.0
    >>> parse_grace_end("JobId=7 JobState=RUNNING EndTime=1700000060 PreemptTime=None") is None
    True
    >>> parse_grace_end("JobId=7 JobState=COMPLETING EndTime=1700000000 PreemptTime=1700000000") is None
    True
    """
    fields = job_fields(text)
    if fields.get("JobState") != "RUNNING" or parse_time(fields.get("PreemptTime", "")) is None:
        return None
    return parse_time(fields.get("EndTime", ""))


async def drained_nodes(nodes: Collection[str], env: Mapping[str, str], reaper: Reaper) -> dict[str, str]:
    """Slurm's reason by node, of those of ``nodes`` that Slurm drains.  Raises RayclusterError."""
    names = ",".join(sorted(nodes))
    command = ["sinfo", "--noheader", "--Node", f"--nodes={names}", "--format=%N|%T|%E"]
    return parse_drained(await _answer(command, env, reaper))


async def job_times(jobs: Collection[str], env: Mapping[str, str], reaper: Reaper) -> dict[str, JobTimes]:
    """When jobs end, by id as shown to users.  Raises RayclusterError."""
    ids = ",".join(sorted(jobs))
    command = ["squeue", "--noheader", "--array", f"--jobs={ids}", f"--Format={','.join(_COLUMNS)}"]
    return parse_job_times(await _answer(command, env, reaper))


async def gives_grace(env: Mapping[str, str], reaper: Reaper) -> bool:
    """Whether a preempted job can have a GraceTime.  Raises RayclusterError."""
    config = await _answer(["scontrol", "show", "config"], env, reaper)
    return parse_gives_grace(config, await _answer(["scontrol", "show", "partition"], env, reaper))


async def grace_end(job_id: str, env: Mapping[str, str], reaper: Reaper, *, timeout_s: float) -> float | None:
    """When the GraceTime of a preempted job is over; None when it is not preempted, or Slurm does not say."""
    command = ["scontrol", "show", "job", "--oneliner", job_id]
    try:
        code, text = await run_command(command, env, reaper, timeout_s=timeout_s)
    except RayclusterError:
        return None
    return parse_grace_end(text) if code == 0 else None


async def _answer(command: list[str], env: Mapping[str, str], reaper: Reaper) -> str:
    code, text = await run_command(command, plain_environment(env), reaper, timeout_s=ANSWER_S)
    if code != 0:
        lines = text.strip().splitlines()
        raise RayclusterError(f"{command[0]} failed: {lines[-1] if lines else f'exit code {code}'}.")
    return text
