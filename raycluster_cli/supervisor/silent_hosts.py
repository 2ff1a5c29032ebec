"""Hosts of this step that have stopped responding: srun would wait for their tasks.

The last act of one node, when all others have ended: the step is cancelled (slurm.step_cancel).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..model.status import NodePhase
from ..slurm.step_cancel import cancel_step_after
from ..system.waiting import within

if TYPE_CHECKING:
    from .run import NodeRun

#: How long the other nodes get to end: Slurm kills what still runs in a step that is cancelled.
OTHERS_END_S = 15.0

#: How often their reports are read.
POLL_S = 0.5

#: A host that has power and network answers within this time, if only by a refusal.
PROBE_S = 2.0

#: A port on which nothing listens ("discard", RFC 863).
PROBE_PORT = 9


async def cancel_step_without(
    run: NodeRun,
    lost: Mapping[str, str],
    *,
    probe: Callable[[str], Awaitable[bool]] | None = None,
    others_end_s: float = OTHERS_END_S,
    poll_s: float = POLL_S,
) -> None:
    """Have this step cancelled if all that keeps it running is tasks on hosts that do not respond.

    ``lost``: the address of each host that was lost, by name.  ``probe`` says whether the host at an address
    responds (:func:`responds`).  ``others_end_s``: how long the other nodes get to report their end, which is
    looked for every ``poll_s``.
    Raises RayclusterError.
    """
    context = run.context
    allocation = context.allocation
    if not lost or not context.symmetric or allocation is None or allocation.step_id is None:
        return
    if allocation.het_size > 1 or not allocation.step_nodes:
        return
    me = allocation.node_name or context.host
    others = [host for host in allocation.step_nodes if host != me]
    if not (silent := await _only_silent_left(run, others, lost, probe or responds, others_end_s, poll_s)):
        return
    pid = os.getppid() if context.keeper is not None else os.getpid()
    await cancel_step_after(pid, allocation, me, context.env, run.reaper)
    run.report.say(
        f"{', '.join(silent)} does not respond, and srun waits for its task: the step is cancelled, so that "
        "srun ends within KillWait + 2 s and not only when Slurm marks the node as down"
    )


async def _only_silent_left(
    run: NodeRun,
    others: Sequence[str],
    lost: Mapping[str, str],
    probe: Callable[[str], Awaitable[bool]],
    timeout_s: float,
    poll_s: float,
) -> list[str]:
    """The hosts that do not respond, once all others have reported their end; empty when that is not so."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while run.record is not None and loop.time() < deadline:
        left_s = deadline - loop.time()
        reports = await run.reports.ask(run.record.read_nodes, timeout_s=left_s, default=None)
        ended = {
            host
            for host, report in (reports or {}).items()
            if report.phase in (NodePhase.GONE.value, NodePhase.FAILED.value)
        }
        running = [host for host in others if host not in ended]
        if not running:
            return []
        if all(host in lost for host in running):
            answers = await asyncio.gather(*(probe(lost[host]) for host in running))
            if not any(answers):
                return running
        await asyncio.sleep(poll_s)
    return []


async def refuses(address: str, port: int, timeout_s: float = PROBE_S) -> bool:
    """Whether a host has power and network, and no process that listens on a port."""
    try:
        _, writer = await within(asyncio.open_connection(address, port), timeout_s)
    except ConnectionRefusedError:
        return True
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return False


async def responds(address: str, port: int = PROBE_PORT, timeout_s: float = PROBE_S) -> bool:
    """Whether a host has power and network: it accepts or refuses a connection.

    True also where its name cannot be resolved.
    """
    try:
        _, writer = await within(asyncio.open_connection(address, port), timeout_s)
    except (ConnectionRefusedError, socket.gaierror):
        return True
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True
