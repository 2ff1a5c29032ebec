"""Cancels the step that this process runs in, once this process has ended.

srun waits for every task of its step.  A task on a host without power, or without network, is given up only
when Slurm marks the node as down (SlurmdTimeout, 300 s by default).  A step that is cancelled ends within
KillWait + 2 s (32 s by default), and srun's exit code is the highest of the tasks that have ended before
(seen on Slurm 22.05).  A task that cancels its own step would be killed itself, and srun would end with 137.
So another small step on this node does it, when the process that Slurm started here has ended.

Slurm tells srun once that a task has ended.  If the network fails at that moment, srun waits on although its
step is over, and there is nothing to cancel.  Then the small step sends SIGTERM to srun, if it runs on this
node: srun ends within KillWait + 2 s as well, with the highest code that it knows (seen on Slurm 22.05).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from typing import IO

from ..model.errors import RayclusterError
from ..system.port_probe import port_processes
from ..system.process import Reaper
from ..system.proctree import ProcessRef, Stat
from ..system.waiting import done_within, find_within, in_thread
from .allocation import Allocation
from .queue import outside_job, plain_environment

#: How long the other step may take to begin.
BEGIN_S = 10.0

#: How long the other step waits for the process; its task may take a moment longer to be reported to srun.
WAIT_S, REPORTED_S = 30, 1

#: $0: the step; $1: the process on this node to wait for; $2, $3: srun's id and start time, or empty.
#: An error of squeue counts as a step that is there: cancelling it does nothing if it is over.
_SCRIPT = """\
echo ready
for i in $(seq {tries}); do kill -0 "$1" 2>/dev/null || break; sleep 0.1; done
sleep {reported}
if [ -z "$2" ] || [ -n "$(squeue --noheader --steps="$0" 2>&1)" ]; then exec scancel "$0"; fi
[ "$(cut -d' ' -f22 "/proc/$2/stat" 2>/dev/null)" != "$3" ] || kill "$2"
"""


def cancelling_step(
    allocation: Allocation,
    node: str,
    pid: int,
    reported_s: int = REPORTED_S,
    waiting: ProcessRef | None = None,
) -> list[str]:
    """The srun command of the other step: it waits for the end of ``pid`` on this node, then cancels ours.

    ``reported_s``: how long it waits after that end.  ``waiting``: the srun of our step, if it runs here.

    >>> words = cancelling_step(Allocation("7", ("n1", "n2"), step_id="0"), "n1", 4711)
    >>> words[:4], words[-4:]
    (['srun', '--jobid=7', '--overlap', '--nodelist=n1'], ['7.0', '4711', '', ''])
    >>> task = Allocation("7", ("n1", "n2"), step_id="0", array_job_id="7", array_task_id="2")
    >>> cancelling_step(task, "n1", 4711)[-4]
    '7_2.0'
    """
    script = _SCRIPT.format(tries=WAIT_S * 10, reported=reported_s)
    return [
        *("srun", f"--jobid={allocation.job_id}", "--overlap", f"--nodelist={node}"),
        *("--nodes=1", "--ntasks=1", "--mem=0", "--cpu-bind=none", "--quiet", "--kill-on-bad-exit=0"),
        *("--input=none", "sh", "-c", script, f"{allocation.own_id}.{allocation.step_id}", str(pid)),
        *((str(waiting.pid), str(waiting.start_ticks)) if waiting is not None else ("", "")),
    ]


def srun_here(allocation: Allocation, processes: Callable[[int], list[Stat]] = port_processes) -> Stat | None:
    """The srun that waits for our step, if it runs on this node: it listens where our tasks report."""
    if allocation.launcher_port is None or not _is_own_address(allocation.launcher_ip):
        return None
    found = {stat.pid: stat for stat in processes(allocation.launcher_port) if stat.name == "srun"}
    # srun has a child of the same name.
    return next((stat for stat in found.values() if stat.parent not in found), None)


def _is_own_address(ip: str) -> bool:
    """Whether an address belongs to this node: only such a one can be bound."""
    try:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))
    except OSError:
        return False
    return bool(ip)


async def cancel_step_after(
    pid: int,
    allocation: Allocation,
    node: str,
    env: Mapping[str, str],
    reaper: Reaper,
    *,
    reported_s: int = REPORTED_S,
) -> None:
    """Have this step cancelled ``reported_s`` after the process ``pid`` of this node has ended.

    Returns when the step that does so has begun.  Raises RayclusterError where it does not begin.
    """
    waiting = await in_thread(srun_here, allocation)
    command = cancelling_step(allocation, node, pid, reported_s, waiting.ref if waiting else None)
    program = await find_within(command[0], env)
    if program is None:
        raise RayclusterError("srun was not found in PATH (in a container it is often missing).")
    child = reaper.spawn(
        [program, *command[1:]],
        "srun",
        env=plain_environment(outside_job(env)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert child.stdout is not None
    reading = asyncio.ensure_future(_first_line(child.stdout))
    begun = await done_within(reading, BEGIN_S) and reading.result() == b"ready\n"
    reading.cancel()
    # srun and the process that it forks to end its step when srun dies: the step goes on without both.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await done_within(child.exited, BEGIN_S)
    if not begun:
        raise RayclusterError(f"a step that cancels this one did not begin within {BEGIN_S:g} s.")


async def _first_line(output: IO[bytes]) -> bytes:
    stream = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), output)
    try:
        return await stream.readline()
    finally:
        pipe.close()
