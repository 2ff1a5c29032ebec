"""Whole jobs for Ray's autoscaler, which counts nodes: bounds of a group, and which jobs end.

Jobs of several nodes are submitted and cancelled whole.  Where Ray would have one node more or one less, it
would see a node that it did not ask for and cancel it, with its job, and ask again in the next round.
Pure functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence


def jobs_of(nodes: int, per_job: int) -> int:
    """This many jobs have this number of nodes.

    >>> jobs_of(4, 2), jobs_of(5, 2)
    (2, 3)
    """
    return -(-nodes // per_job)


def node_bounds(sizes: Sequence[int], requested: int, per_job: int, least: int, most: int) -> tuple[int, int]:
    """The fewest and the most nodes of a group, as Ray is to count them.

    ``sizes``: how many nodes Ray counts of each job; a job that has lost one is still a job.  ``requested``:
    nodes that Ray counts and that have no job yet.  ``least`` and ``most``: the bounds, in nodes of whole
    jobs.  Of each job beyond ``most`` one node is too many: `jobs_to_end` ends the whole job.  The fewest are
    0 where no job is missing: which idle jobs stay is decided by `jobs_to_end` as well.

    >>> node_bounds([1], 0, 2, 0, 2), node_bounds([1], 0, 2, 4, 4), node_bounds([2, 2, 1], 0, 2, 2, 2)
    ((0, 1), (3, 3), (0, 3))
    """
    there = sum(sizes) + requested
    jobs = len(sizes) + jobs_of(requested, per_job)
    missing = jobs_of(least, per_job) - jobs
    room = jobs_of(most, per_job) - jobs
    highest = there + (room * per_job if room > 0 else room)
    return (min(there + missing * per_job, highest) if missing > 0 else 0), highest


def jobs_to_end(
    idle: Sequence[str], too_many: Sequence[str], sizes: Mapping[str, int], spare: int, per_job: int
) -> tuple[list[str], list[str]]:
    """The jobs to end because all their nodes are idle, and those to end because there are too many.

    ``idle`` and ``too_many``: the job of each node that Ray would end for this reason, in Ray's order.
    ``sizes``: how many nodes Ray counts of each job; of one that has lost a node fewer than ``per_job``.
    ``spare``: how many jobs may end for being idle.  A job that has lost a node ends in any case when it is
    idle: a whole one takes its place where the group's minimum wants one.

    >>> jobs_to_end(["7", "8", "8"], [], {"7": 2, "8": 2}, 2, 2)
    (['8'], [])
    >>> jobs_to_end([], ["7"], {"7": 2, "8": 2}, 0, 2)
    ([], ['7'])
    >>> jobs_to_end(["7", "8", "8"], [], {"7": 1, "8": 2}, 0, 2)
    (['7'], [])
    """
    over = [job for job in dict.fromkeys(too_many) if job in sizes]
    picked = Counter(idle) + Counter(too_many)
    whole = [job for job in dict.fromkeys(idle) if job not in over and picked[job] >= sizes.get(job, 0) > 0]
    parts = [job for job in whole if sizes[job] < per_job]
    left = max(spare - len(over) - len(parts), 0)
    return [*parts, *[job for job in whole if job not in parts][:left]], over


def job_to_replace(sizes: Mapping[str, int], idle: Collection[str], per_job: int) -> str:
    """Of the jobs that have lost a node the one that a whole job shall replace; empty: all are whole.

    ``sizes``: how many nodes Ray counts of each job.  ``idle``: the jobs that have no work.

    >>> job_to_replace({"7": 1, "8": 1, "9": 2}, ["8"], 2), job_to_replace({"9": 2}, [], 2)
    ('8', '')
    """
    parts = [job for job, size in sizes.items() if size < per_job]
    return min(parts, key=lambda job: (job not in idle, sizes[job]), default="")


def together(idle: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """How long each pending node counts as not needed: as long as its job.

    ``idle``: of each node its job and for how many milliseconds Ray has had no use for it.

    >>> together({"a": ("7", 900), "b": ("7", 0), "c": ("8", 300)})
    {'a': 0, 'b': 0, 'c': 300}
    """
    shortest: dict[str, int] = {}
    for job, idle_ms in idle.values():
        shortest[job] = min(idle_ms, shortest.get(job, idle_ms))
    return {node: shortest[job] for node, (job, _) in idle.items()}
