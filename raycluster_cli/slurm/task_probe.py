"""The task probe: which of the nodes that never reported have no task of this step any more?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ..model.errors import RayclusterError
from ..system.process import Reaper
from .allocation import Allocation
from .command import run_command
from .queue import outside_job

#: When Slurm is first asked about the nodes that have not reported, and again when all of them have a task.
#: A start takes one second, but Python alone can take longer on a busy file system.
TASK_PROBE_S, TASK_PROBE_AGAIN_S = 8.0, 20.0

#: Time between two answers that must agree.
CONFIRM_S = 5.0

#: What `scontrol listpids` says of a step that has no task on the node (any more).
_NO_STEP = "does not exist on node"


class TaskProbe:
    """Asks Slurm, in the background, on which nodes the task of this step has ended.

    Two answers must agree.  A node with a slow prolog has no task *yet*; it answers only when its prolog is
    over, so the second answer finds the task.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[str]], Awaitable[list[str]]],
        *,
        first_s: float = TASK_PROBE_S,
        confirm_s: float = CONFIRM_S,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """``ask`` returns those of the given hosts that have no task; see :func:`hosts_without_task`."""
        self._ask = ask
        self._confirm_s = confirm_s
        self._clock = clock or asyncio.get_running_loop().time
        self._next = self._clock() + first_s
        self._asking: asyncio.Future[list[str]] | None = None
        self._suspects: frozenset[str] = frozenset()

    def ended(self, silent: Sequence[str]) -> list[str]:
        """Those of ``silent`` (the hosts that have not reported) whose task has ended.  Returns at once.

        To be called again and again: each call starts the next question when it is due, and returns hosts
        when an answer has confirmed the one before.  An exception of ``ask`` is raised here.
        """
        now = self._clock()
        if self._asking is not None and self._asking.done():
            asked, self._asking = self._asking, None
            found = frozenset(asked.result())
            confirmed, self._suspects = found & self._suspects, found
            self._next = now + (self._confirm_s if found else TASK_PROBE_AGAIN_S)
            return [host for host in silent if host in confirmed]
        if self._asking is None and silent and now >= self._next:
            self._asking = asyncio.ensure_future(self._ask(tuple(silent)))
        return []

    def close(self) -> None:
        """Cancel the question that is running."""
        if self._asking is not None:
            self._asking.cancel()


async def hosts_without_task(
    hosts: Sequence[str], allocation: Allocation, env: Mapping[str, str], reaper: Reaper
) -> list[str]:
    """Those of ``hosts`` on which the tasks of this step have ended.

    Runs one small step beside this one, in which each node asks its own slurmd.  Returns an empty list where
    Slurm cannot be asked: outside a task, in a heterogeneous job, in a container without srun, and when a
    node does not answer.
    """
    if allocation.step_id is None or allocation.het_size > 1:
        return []
    step = f"{allocation.job_id}.{allocation.step_id}"
    try:
        _, text = await run_command(_listing_step(step, allocation.job_id, hosts), outside_job(env), reaper)
    except RayclusterError:
        return []
    return parse_ended_tasks(text)


def _listing_step(step: str, job_id: str, hosts: Sequence[str]) -> list[str]:
    """The srun command in which each host prints what its slurmd knows of ``step``."""
    script = 'echo "$SLURMD_NODENAME: $(scontrol listpids "$0" 2>&1 | tr "\\n" " ")"'
    return [
        *("srun", f"--jobid={job_id}", "--overlap", f"--nodelist={','.join(hosts)}"),
        *(f"--nodes={len(hosts)}", f"--ntasks={len(hosts)}", "--ntasks-per-node=1", "--mem=0"),
        *("--cpu-bind=none", "--quiet", "--kill-on-bad-exit=0", "--input=none"),
        *("sh", "-c", script, step),
    ]


def parse_ended_tasks(text: str) -> list[str]:
    """The hosts on which `scontrol listpids` finds no such step.

    >>> parse_ended_tasks("n2: PID JOBID STEPID 2145 7 0\\nn3: StepId=7.0 does not exist on node (null).")
    ['n3']
    """
    lines = (line.partition(": ") for line in text.splitlines())
    return [host for host, colon, answer in lines if colon and _NO_STEP in answer]
