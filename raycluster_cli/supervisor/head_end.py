"""Steps of a head's end: its workers are drained, and processes that the kernel killed are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..model.wording import count
from ..node.ray_node import RayNode
from ..policy import events as on
from ..policy.head_state import HeadState
from ..policy.values import End
from ..system.cgroups import oom_kills
from .parts import Parts

#: How long a drained raylet may take to leave before its supervisor ends it.  An idle one needs 20 ms; one
#: with a detached actor never leaves by itself.
DRAIN_S = 1.0

#: At the end the reports of at most this many workers are read: in a larger cluster it would take too long.
MOST_REPORTS = 32

#: How long the nodes' reports may take to be read at the end.
REPORTS_READ_S = 1.0


async def drain_workers(
    parts: Parts, node: RayNode, state: Callable[[], HeadState], changed: asyncio.Event, why: str
) -> None:
    """Tell every worker to go, with the reason; idle ones leave within milliseconds.

    ``changed`` is set whenever ``state`` has other workers than before.
    """
    gcs = node.children.get("gcs_server")
    if not state().members or gcs is None or not gcs.running:
        return
    await node.drain(list(state().members), why, DRAIN_S)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DRAIN_S
    while state().members and not parts.hurry.is_set() and gcs.running:
        left_s = deadline - loop.time()
        if left_s <= 0:
            return
        changed.clear()
        waiting = asyncio.ensure_future(changed.wait())
        try:
            await asyncio.wait({waiting}, timeout=min(left_s, 0.1))
        finally:
            waiting.cancel()
        if not changed.is_set():
            await _drop_reported_as_gone(parts, state(), left_s)


async def _drop_reported_as_gone(parts: Parts, state: HeadState, left_s: float) -> None:
    """Count a worker as gone once its own report says so.

    A node whose cluster ends while it joins kills its raylet, for which the GCS would wait for a second.
    Short drivers end before all nodes have noticed that they have joined.
    """
    record = parts.reports.record
    if record is None or len(state.members) > MOST_REPORTS:
        return
    for worker in list(state.members.values()):
        report = await parts.reports.ask(record.read_node, worker.host, timeout_s=left_s, default=None)
        if report is not None and report.has_ended:
            parts.post(on.WorkerLeft(worker))


async def tell_oom_kills(parts: Parts, expected: int, end: End) -> None:
    """Warn of processes that the kernel killed: srun then ends with 1 (Slurm 22.05, 24.11 and 26.05).

    ``expected``: how many workers the cluster was to have.
    """
    context, record, reports = parts.context, parts.reports.record, None
    if record is not None and expected <= MOST_REPORTS:
        reports = await parts.reports.ask(record.read_nodes, timeout_s=REPORTS_READ_S, default=None)
    workers = [one for host, one in (reports or {}).items() if host != context.host]
    others = sum(one.oom_kills or 0 for one in workers if one.updated >= context.launched)
    killed = others + (oom_kills() or 0)
    if killed and context.step is not None and end.code != 1:
        parts.report.warn(
            f"the kernel killed {count(killed, 'process', 'processes')} of this step for lack of memory: "
            f"srun ends with code 1 then, whatever the exit code here ({int(end.code)})"
        )
