"""What a running job asks of Slurm: the few calls that it makes, none of them once a node.

Its time limit, its output, its way back into the queue; and, when nodes keep silent at the start, whether
their tasks are still there.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ..model.errors import RayclusterError
from ..system.process import Reaper, describe_code
from .allocation import Allocation
from .queue import outside_job, parse_time

#: How long scontrol or srun may take; slurmctld can be busy, and the cluster works without the answer.
ASKED_TIMEOUT_S = 30.0

#: When Slurm is first asked whether the tasks on silent nodes are still there, and again after no news; a
#: start takes one second, but Python alone can take longer on a busy file system.
TASK_PROBE_S, TASK_PROBE_AGAIN_S = 8.0, 20.0

#: What passes between two answers that must agree.
CONFIRM_S = 5.0

#: What to do about a task that ended before it could say why.
TASK_ENDED_HINT = (
    "srun's own line names its code: 127 means that no raycluster was found there. Is the environment on a "
    "file system that all nodes have?"
)

#: What `scontrol listpids` says of a step that has no task on the node (any more).
_NO_STEP = "does not exist on node"


def parse_end_time(text: str) -> float | None:
    """Unix seconds of the job's end, from `scontrol show job`; None when it has no limit.

    Seconds where SLURM_TIME_FORMAT=%s is understood (as :func:`job_end_time` asks), else local time.

    >>> parse_end_time("JobId=7 RunTime=00:00:03 EndTime=1795408208 Deadline=N/A")
    1795408208.0
    >>> parse_end_time("JobId=7 EndTime=Unknown") is None
    True
    """
    match = re.search(r"\bEndTime=(\S+)", text)
    return parse_time(match[1]) if match else None


async def job_end_time(job_id: str, env: Mapping[str, str], reaper: Reaper) -> float | None:
    """When Slurm will end the job, in Unix seconds; None when it does not say.

    For Slurm before 23.02, which does not set SLURM_JOB_END_TIME, and for limits that were changed
    since the job's start.
    """
    try:
        code, text = await _ask(["scontrol", "show", "job", "--oneliner", job_id], env, reaper)
    except RayclusterError:
        return None
    return parse_end_time(text) if code == 0 else None


async def job_output(job_id: str, env: Mapping[str, str], reaper: Reaper) -> str:
    """The file that the batch script's output goes to; empty when Slurm does not say."""
    try:
        code, text = await _ask(["scontrol", "show", "job", job_id], env, reaper)
    except RayclusterError:
        return ""
    match = re.search(r"^\s*StdOut=(/.*)$", text, re.MULTILINE) if code == 0 else None
    return match[1].strip() if match else ""


async def requeue(job_id: str, env: Mapping[str, str], reaper: Reaper) -> None:
    """Put the job back into the queue, under its id.  Raises RayclusterError.

    Slurm ends what still runs of it, so this comes last.
    """
    code, text = await _ask(["scontrol", "requeue", job_id], env, reaper)
    if code != 0:
        said = text.strip().splitlines()
        raise RayclusterError(
            f"`scontrol requeue {job_id}` {describe_code(code)}{': ' + said[-1] if said else ''}.",
            "Only batch jobs can be requeued, and only where the site allows it (--requeue).",
        )


class TaskProbe:
    """Asks in the background on which of the silent hosts the task of this step has ended.

    Two answers must agree: a node whose prolog is slow has no task *yet*, and it answers only once its
    prolog is over, so that the task is there when it is asked again.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[str]], Awaitable[list[str]]],
        *,
        first_s: float = TASK_PROBE_S,
        confirm_s: float = CONFIRM_S,
    ) -> None:
        self._ask = ask
        self._confirm_s = confirm_s
        self._next = asyncio.get_running_loop().time() + first_s
        self._asking: asyncio.Future[list[str]] | None = None
        self._suspects: frozenset[str] = frozenset()

    def ended(self, silent: Sequence[str]) -> list[str]:
        """Those of ``silent`` that are known by now to have no task any more.  Never waits."""
        now = asyncio.get_running_loop().time()
        if self._asking is not None and self._asking.done():
            found, self._asking = frozenset(self._asking.result()), None
            confirmed, self._suspects = found & self._suspects, found
            self._next = now + (self._confirm_s if found else TASK_PROBE_AGAIN_S)
            return [host for host in silent if host in confirmed]
        if self._asking is None and silent and now >= self._next:
            self._asking = asyncio.ensure_future(self._ask(tuple(silent)))
        return []

    def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()


async def hosts_without_task(
    hosts: Sequence[str], allocation: Allocation, env: Mapping[str, str], reaper: Reaper
) -> list[str]:
    """Those of ``hosts`` on which the tasks of this step have ended already.

    By one small step beside ours, in which each node asks its own slurmd.  Empty where Slurm cannot be
    asked: in a container, of a heterogeneous job, when a node does not answer.
    """
    if allocation.step_id is None or allocation.het_size > 1:
        return []
    step = f"{allocation.job_id}.{allocation.step_id}"
    tell = 'echo "$SLURMD_NODENAME: $(scontrol listpids "$0" 2>&1 | tr "\\n" " ")"'
    command = [
        *("srun", f"--jobid={allocation.job_id}", "--overlap", f"--nodelist={','.join(hosts)}"),
        *(f"--nodes={len(hosts)}", f"--ntasks={len(hosts)}", "--ntasks-per-node=1", "--mem=0"),
        *("--cpu-bind=none", "--quiet", "--kill-on-bad-exit=0", "--input=none"),
        *("sh", "-c", tell, step),
    ]
    try:
        _, text = await _ask(command, outside_job(env), reaper)
    except RayclusterError:
        return []
    return parse_ended_tasks(text)


def parse_ended_tasks(text: str) -> list[str]:
    """The hosts on which `scontrol listpids` knows no such step any more.

    >>> parse_ended_tasks("n2: PID JOBID STEPID 2145 7 0\\nn3: StepId=7.0 does not exist on node (null).")
    ['n3']
    """
    lines = (line.partition(": ") for line in text.splitlines())
    return [host for host, colon, said in lines if colon and _NO_STEP in said]


async def _ask(command: Sequence[str], env: Mapping[str, str], reaper: Reaper) -> tuple[int, str]:
    """Exit code and output of one of Slurm's commands.

    Raises RayclusterError when it is not there or does not answer.
    """
    name = command[0]
    program = shutil.which(name, path=env.get("PATH"))
    if program is None:
        raise RayclusterError(f"{name} was not found in PATH (in a container it is often missing).")
    try:
        child = reaper.spawn(
            [program, *command[1:]],
            name,
            env={**env, "SLURM_TIME_FORMAT": "%s"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise RayclusterError(f"{name} could not be started: {error.strerror}.") from error
    assert child.stdout is not None
    with child.stdout as output:
        reading = asyncio.get_running_loop().run_in_executor(None, output.read)
        try:
            text = await asyncio.wait_for(asyncio.shield(reading), ASKED_TIMEOUT_S)
        except asyncio.TimeoutError:
            text = b""
        finally:
            code = await child.stop(ASKED_TIMEOUT_S if reading.done() else 0.0, ask=0)
            await reading
    if code is None or not reading.done():
        raise RayclusterError(f"{name} did not answer within {ASKED_TIMEOUT_S:g} s.")
    return code, text.decode("utf-8", "replace")
