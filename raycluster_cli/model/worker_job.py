"""A worker job: the Slurm job in which workers of a group run, as the head's autoscaler sees it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class WorkerJobState(str, enum.Enum):
    """What a worker job does."""

    WANTED = "wanted"
    """It is about to be submitted, by the head's node or by `raycluster scale --serve`."""
    PENDING = "pending"
    """Slurm has it in its queue."""
    STARTING = "starting"
    """It runs, and its nodes have not joined the cluster yet."""
    READY = "ready"
    """Its nodes are in the cluster, and at least one has work."""
    IDLE = "idle"
    """Its nodes are in the cluster and have had no work since `since`."""
    DRAINING = "draining"
    """It takes no new work and is about to end."""
    ENDED = "ended"
    """It is over; `reason` says how."""


@dataclass(frozen=True)
class WorkerJob:
    """One line of the record's `worker-jobs.json`."""

    job_id: str
    """Slurm's name for it, `4711` or `4711_3` for a task of an array; empty while it is wanted."""
    group: str
    state: str
    """Value of WorkerJobState."""
    since: float
    """Unix seconds by the head's clock at which the state began."""
    reason: str = ""
    """Slurm's reason while it is pending, or why it drains or ended."""
    expected_start: float = 0.0
    """Unix seconds at which Slurm thinks that it starts; 0: unknown."""
    hosts: tuple[str, ...] = ()
    node_ids: tuple[str, ...] = ()
    """Ray's ids of its nodes in the cluster."""


@dataclass(frozen=True)
class GroupState:
    """What holds for a whole group, beside its jobs."""

    group: str
    paused_until: float = 0.0
    """Unix seconds until which no job is submitted, after failed starts; 0: not paused."""
    problem: str = ""
    """Why no node can be had: Slurm's reason, or the failed starts."""
    excluded: tuple[str, ...] = ()
    """Hosts on which starts failed; new jobs do not use them."""


def instance_id(job_id: str, node: int = 0) -> str:
    """The id under which Ray's autoscaler knows a node: RAY_CLOUD_INSTANCE_ID of its raylet.

    Both sides work it out: the head from what sbatch printed, a worker from its own variables (job id, or array
    job id and task, and the number of its node in the job).

    >>> instance_id("4711_3"), instance_id("4711", 1)
    ('4711_3', '4711/1')
    """
    return f"{job_id}/{node}" if node else job_id
