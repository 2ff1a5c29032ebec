"""The head's guard over nodes of worker jobs that Slurm drains or preempts: it asks Ray to drain them too.

A job that runs goes on when Slurm drains its node, and does not get to know.  A job that is preempted with a
GraceTime gets its SIGTERM in its steps only, and a worker job of one node has no step: it gets one when the
GraceTime is over.  Imported only by a head that has had a worker in a job of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping

from ..model.errors import RayclusterError
from ..policy.head_state import HeadState
from ..policy.values import Worker
from ..rayproc.companion_client import CompanionClient
from ..slurm.departures import JobTimes, drained_nodes, gives_grace, job_times
from ..state.notices import Notice
from .notices import drain
from .parts import Parts

#: How often Slurm is asked while there are worker jobs.
LOOK_S = 20.0

#: The deadline of a drained node whose job has no time limit.
NO_LIMIT_S = 30 * 86400.0

#: Ray is told a new deadline when it is earlier than the last one by more than this.
NEARER_S = 5.0


async def watch_departures(
    parts: Parts,
    state: Callable[[], HeadState],
    companion: Callable[[], CompanionClient | None],
    look_s: float = LOOK_S,
) -> None:
    """Look for as long as the head runs: one sinfo, and one squeue where it is needed."""
    env, reaper = parts.context.env, parts.reaper
    told: dict[str, float] = {}
    has_grace: bool | None = None
    problem = ""
    while True:
        await asyncio.sleep(look_s)
        workers = list(state().elastic.values())
        if not workers:
            continue
        try:
            if has_grace is None:
                has_grace = await gives_grace(env, reaper)
            drained = await drained_nodes({host_of(worker) for worker in workers}, env, reaper)
            asked = workers if has_grace else [one for one in workers if host_of(one) in drained]
            asked = [one for one in asked if has_grace or one.node_id not in told]
            times = await job_times({one.job for one in asked}, env, reaper) if asked else {}
        except RayclusterError as error:
            if error.message != problem:
                problem = error.message
                parts.report.note(f"Slurm did not say which nodes it drains: {problem}")
            continue
        for notice in departures(workers, drained, times, told, time.time()):
            worker = state().elastic.get(notice.node_id)
            if worker is not None and await drain(companion(), worker.host, notice, parts.report):
                told[notice.node_id] = notice.deadline


def host_of(worker: Worker) -> str:
    """The node's name in Slurm.

    >>> host_of(Worker("0a1b", "gpu07.4711_3", "10.0.0.7", "4711_3"))
    'gpu07'
    """
    return worker.host.removesuffix(f".{worker.job}")


def departures(
    workers: Collection[Worker],
    drained: Mapping[str, str],
    times: Mapping[str, JobTimes],
    told: Mapping[str, float],
    now: float,
) -> list[Notice]:
    """The nodes that Ray must be asked to drain.

    ``drained``: Slurm's reason by node; ``times``: of the jobs, by id; ``told``: the deadlines that Ray has
    been given, by node id; all times in Unix seconds.
    """
    found = []
    for worker in workers:
        times_of = times.get(worker.job, JobTimes())
        host = host_of(worker)
        if times_of.preempted and times_of.end is not None:
            notice = Notice(worker.node_id, times_of.end, f"Slurm preempts job {worker.job}")
        elif host in drained:
            why = f"Slurm drains {host} ({drained[host] or 'no reason given'})"
            notice = Notice(worker.node_id, times_of.end or now + NO_LIMIT_S, why)
        else:
            continue
        if worker.node_id not in told or notice.deadline < told[worker.node_id] - NEARER_S:
            found.append(notice)
    return found
