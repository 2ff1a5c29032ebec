"""A worker job: the Slurm job in which workers of a group run, as the head's autoscaler sees it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import field

from .dataclass import dataclass


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
    nodes: int = 1
    """How many nodes it has."""
    output: str = ""
    """The path of its output file."""
    number: str = ""
    """Of a task of an array: Slurm's own number of the job (SLURM_JOB_ID there), once it has begun to run."""
    drained_by_ray: bool = False
    """Only while draining: Ray drains its nodes, which may go on if they get work meanwhile."""
    suspended: bool = False
    """Only while starting: Slurm has suspended it before it joined."""
    completing_since: float = 0.0
    """Unix seconds since when Slurm has been ending it (COMPLETING), without nodes in the cluster; or 0."""

    @property
    def is_cancelled(self) -> bool:
        """Whether raycluster wants its end: scancel was called, or is if it does not end by itself."""
        return self.state == WorkerJobState.DRAINING and not self.drained_by_ray

    def is_called(self, name: str) -> bool:
        """Whether a name means this job: its id, or the number that Slurm has given to a task of an array.

        >>> WorkerJob("4711_3", "gpu", "ready", 0.0, number="4714").is_called("4714")
        True
        """
        return name != "" and name in (self.job_id, self.number)

    @property
    def is_over(self) -> bool:
        """True when Slurm has nothing more of it to cancel."""
        return self.state == WorkerJobState.ENDED or not self.job_id

    @property
    def instance_ids(self) -> tuple[str, ...]:
        """What Ray's autoscaler calls its nodes.

        >>> WorkerJob("4711", "gpu", "pending", 0.0, nodes=2).instance_ids
        ('4711', '4711/1')
        """
        return tuple(instance_id(self.job_id, node) for node in range(self.nodes))


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
    ended_before: int = 0
    """Jobs of the group that have ended and are not listed any more."""


def node_name(host: str, job_id: str) -> str:
    """What a node of a worker job is called in Ray and in the record.

    Its host alone is not enough: the head's job, or another worker job, may have a share of the same host.

    >>> node_name("gpu07", "4711_3")
    'gpu07.4711_3'
    """
    return f"{host}.{job_id}"


def instance_id(job_id: str, node: int = 0) -> str:
    """The id under which Ray's autoscaler knows a node: RAY_CLOUD_INSTANCE_ID of its raylet.

    Both sides work it out: the head from what sbatch printed, a worker from its own variables (job id, or
    array job id and task, and the number of its node in the job).

    >>> instance_id("4711_3"), instance_id("4711", 1)
    ('4711_3', '4711/1')
    """
    return f"{job_id}/{node}" if node else job_id


def job_of(instance: str) -> str:
    """The job of an instance.

    >>> job_of("4711_3"), job_of("4711/1")
    ('4711_3', '4711')
    """
    return instance.partition("/")[0]


@dataclass(frozen=True)
class WorkerJobsReport:
    """The record's `worker-jobs.json`: jobs and groups as the head's autoscaler last saw them."""

    when: float
    """Unix seconds by the head's clock at which something changed last."""
    jobs: tuple[WorkerJob, ...] = ()
    groups: tuple[GroupState, ...] = ()


@dataclass(frozen=True)
class LaunchRequest:
    """The record's `launch/N.json`: a command of Slurm's for `raycluster scale --serve` to run."""

    number: int
    program: str
    """sbatch, scancel or squeue."""
    arguments: tuple[str, ...]
    when: float
    """Unix seconds by the head's clock."""
    env: Mapping[str, str] = field(default_factory=dict)
    """The environment of the job to submit: that of the head's job."""


@dataclass(frozen=True)
class LaunchReply:
    """The record's `launch/N.reply.json`: how the command ended."""

    number: int
    code: int
    """Exit code; 127 when the program is missing, 124 when it did not answer."""
    stdout: str = ""
    stderr: str = ""
    by: str = ""
    """The host that ran it."""
