"""What Slurm says of the head's own job: its time limit, where its output goes, whether it is requeued."""

from __future__ import annotations

import asyncio
import time

from ..policy import events as on
from ..slurm.job_calls import job_end_time, job_facts, requeue_problem
from .head_entry import HeadEntry
from .parts import Parts

#: When Slurm is asked where the job's output goes; it remembers a job for minutes after its end (MinJobAge).
ASK_AFTER_S = 5.0


async def tell_output(parts: Parts, entry: HeadEntry) -> None:
    """Find out where the job's output goes, for `raycluster logs` once Slurm has forgotten the job.

    And whether Slurm will requeue the job: its owner can still change that while it runs.
    """
    allocation = parts.context.allocation
    if allocation is None:
        return
    await asyncio.sleep(ASK_AFTER_S)  # not during the start, which it would slow down
    facts = await job_facts(allocation.job_id, parts.context.env, parts.reaper)
    if facts is None:
        return
    if facts.output:
        entry.update(output=facts.output, errors=facts.errors)
    if parts.settings.requeue_on_preempt and (problem := requeue_problem(allocation.own_id, facts)):
        parts.report.warn(problem)


async def ask_time_limit(parts: Parts, entry: HeadEntry, now: bool) -> None:
    """Post how much time the job has left: as known from its start, or (``now``) as Slurm says now."""
    allocation = parts.context.allocation
    if allocation is None:
        return
    end_time = None if now else allocation.end_time
    asked = end_time is None
    if end_time is None:
        end_time = await job_end_time(allocation.job_id, parts.context.env, parts.reaper)
        if end_time is not None and end_time != entry.info.end_time:
            entry.update(end_time=end_time)
    left_s = None if end_time is None else end_time - time.time()
    parts.post(on.TimeLimitKnown(left_s, asked_now=asked))
