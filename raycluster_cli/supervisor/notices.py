"""The head's guard over notices: it asks Ray to drain the nodes of worker jobs that will be gone soon.

Reason PREEMPTION and the node's own deadline: Ray gives the node no new work, lets what runs there end, and
Ray Train and Serve act on it.  Imported only by a head that has had a worker in a job of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..model.errors import RayclusterError
from ..policy.head_state import HeadState
from ..rayproc.companion_client import CompanionClient
from ..rayproc.failure import StartFailure
from ..state.notices import Notice, read_notices
from ..state.thinning import thin_out
from ..system.report import Report
from ..system.waiting import in_thread
from .parts import Parts

#: How often the head looks for notices, and how long a look may take.
POLL_S, LOOK_S = 0.5, 2.0

#: When Ray is told again that did not answer, or could not be asked.
AGAIN_S = 2.0

#: This long after its deadline a notice of a node that is not in the cluster is read no more; clocks differ.
OVER_S = 300.0

#: How often files of worker jobs that are over are removed from the record.
THIN_OUT_S = 600.0


async def watch_notices(
    parts: Parts, state: Callable[[], HeadState], companion: Callable[[], CompanionClient | None]
) -> None:
    """Act on each notice once, for as long as the head runs; and keep the record small."""
    reports = parts.reports
    loop = asyncio.get_running_loop()
    done: set[str] = set()
    again_at: dict[str, float] = {}
    thin_out_at = time.monotonic() + THIN_OUT_S
    while (record := reports.record) is not None:
        if time.monotonic() >= thin_out_at:
            thin_out_at = time.monotonic() + THIN_OUT_S
            members = dict(state().members)
            hosts = {worker.host for worker in members.values()}
            done -= await in_thread(thin_out, record.path, hosts, members.keys(), time.time())
        known = frozenset(done)
        notices: list[Notice] = await reports.look(
            read_notices, record.path, known, timeout_s=LOOK_S, default=[]
        )
        for notice in notices:
            worker = state().elastic.get(notice.node_id)
            if worker is None:
                is_done = notice.deadline < time.time() - OVER_S
            elif loop.time() < again_at.get(notice.node_id, 0.0):
                continue
            else:
                is_done = await drain(companion(), worker.host, notice, parts.report)
            if is_done:
                done.add(notice.node_id)
            elif worker is not None:
                again_at[notice.node_id] = loop.time() + AGAIN_S
        await asyncio.sleep(POLL_S)


async def drain(companion: CompanionClient | None, host: str, notice: Notice, report: Report) -> bool:
    """Ask Ray to drain a node.  Returns whether Ray was told; if not, it is tried again."""
    left_s = max(notice.deadline - time.time(), 1.0)
    if companion is None:
        return False
    try:
        answers = await companion.drain([notice.node_id], message=notice.why, deadline_s=left_s)
    except (RayclusterError, StartFailure, OSError) as error:
        report.note(f"worker {host} could not be drained: {error}")
        return False
    answer = answers.get(notice.node_id, {})
    accepted = bool(answer.get("accepted"))
    refusal = answer.get("refusal") or "no answer"
    if not answer.get("answered"):
        report.note(f"worker {host} could not be drained: {refusal}")
        return False
    outcome = f"drained, {left_s:.0f} s at most" if accepted else f"Ray refuses to drain it: {refusal}"
    report.note(f"worker {host} will go: {notice.why}; {outcome}")
    return True
